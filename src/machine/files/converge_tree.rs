//! Brings listed entries of a tree to their desired state, and leaves everything else in it alone.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::build_tree::{OpenFile, build_tree};
use super::content::Content;
use super::dating::is_local;
use super::discarded::{Discarded, Ready};
use super::exchange_tree::exchange_tree;
use super::file_state::FileState;
use super::hard_link::hard_link;
use super::link::{Symlink, link_syncing};
use super::manifest::{Manifest, open_root};
use super::metadata::Attributes;
use super::path_text::PathText;
use super::remove::remove_syncing;
use super::remove_tree::{identity, remove_tree};
use super::replace::replace;
use super::replace_together::{Wanted, replace_together};
use super::set_metadata::set_metadata_syncing;
use super::together::{SYNCED_SINGLY, Syncing, Together};

/// From so many bytes on what is new is moved and not copied, however few files it is in.
const MUCH: u64 = 16 * 1024 * 1024;

/// What happens to the times of entries that exist already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// They change, as for every writer.
    Pass,
    /// They become those of the goal.
    Return,
    /// The same, also where nothing but the time of a file differs.
    Follow,
}

/// Brings the entries of the tree at `root` that `now` or `goal` names from the state in `now` to that in `goal`. An
/// entry that `goal` does not name is removed, a directory with everything in it; one that neither names stays. A
/// missing directory appears complete, and every file is either the old or the new one; only a file with several names
/// is missing for a moment. After an interruption, another call completes it. Many entries are synced together, before
/// this returns.
///
/// `open` gives the content of a file by its path from the root; `tag` names what is prepared.
///
/// # Errors
/// As [`super::replace()`]; `conflict` when an entry is not as `now` says.
pub fn converge_tree(
    root: &Path,
    now: &Manifest,
    goal: &Manifest,
    times: Times,
    tag: &str,
    open: &mut OpenFile<'_>,
) -> Result<()> {
    converge_syncing(root, now, goal, times, tag, None, open)
}

/// The same with the contents of a tree that is thrown away then, of which each entry has its path: of many entries, or
/// large files, what can be is moved instead of copied.
///
/// # Errors
/// As [`converge_tree`].
pub fn converge_tree_from(
    root: &Path,
    now: &Manifest,
    goal: &Manifest,
    times: Times,
    tag: &str,
    from: &Discarded,
) -> Result<()> {
    let mut open = |relative: &Path| Ok(Content::File(from.files().file(relative)?));
    converge_syncing(root, now, goal, times, tag, Some(from), &mut open)
}

fn converge_syncing(
    root: &Path,
    now: &Manifest,
    goal: &Manifest,
    times: Times,
    tag: &str,
    from: Option<&Discarded>,
    open: &mut OpenFile<'_>,
) -> Result<()> {
    let together = Together::default();
    let is_much = differ_in_many(now, goal) || from.is_some() && differ_in_much(now, goal);
    let top = if is_much { open_root(root)?.filter(|top| is_local(top)) } else { None };
    let syncing = if top.is_some() { Syncing::Together(&together) } else { Syncing::Now };
    let from = from.filter(|from| top.is_some_and(|top| from.is_beside(top.as_fd())));
    if let Some(from) = from {
        together.note_older(from.older(), root)?;
    }
    converge(&Way { root, times, tag, syncing, from }, now, goal, open)?;
    together.sync(root)
}

/// How a tree is brought to its goal.
struct Way<'a> {
    root: &'a Path,
    times: Times,
    tag: &'a str,
    syncing: Syncing<'a>,
    /// Where what is desired can be taken from. Only with others is it synced before it gets its name.
    from: Option<&'a Discarded>,
}

/// Whether so many entries differ that they are synced together.
fn differ_in_many(now: &Manifest, goal: &Manifest) -> bool {
    let changed = goal.entries().filter(|(path, desired)| now.get(path.as_path()) != Some(*desired));
    let gone = now.entries().filter(|(path, _)| goal.get(path.as_path()).is_none());
    changed.chain(gone).take(SYNCED_SINGLY + 1).count() > SYNCED_SINGLY
}

/// Whether new files hold so much that moving them is worth a sync of the whole file system.
fn differ_in_much(now: &Manifest, goal: &Manifest) -> bool {
    let size = |(path, desired): (&PathText, &FileState)| {
        let is_there = now.get(path.as_path()).is_some_and(|present| present.sha256() == desired.sha256());
        if is_there { 0 } else { desired.size().unwrap_or_default() }
    };
    goal.entries().map(size).sum::<u64>() >= MUCH
}

fn converge(way: &Way<'_>, now: &Manifest, goal: &Manifest, open: &mut OpenFile<'_>) -> Result<()> {
    let Way { root, times, tag, syncing, from } = *way;
    let shared = shared_names(now);
    let apart = if shared.is_empty() { now.clone() } else { now.with_files_apart() };
    let mut touched = BTreeSet::new();
    let mut remaining = clear(way, &apart, goal, &mut touched)?;
    let mut whole: Option<PathBuf> = None;
    let mut wanted: Vec<Wanted> = Vec::new();
    let mut ready: Vec<Ready> = Vec::new();
    for (relative, desired) in goal.entries() {
        let relative = relative.as_path();
        if whole.as_ref().is_some_and(|whole| is_below(relative, whole)) {
            continue;
        }
        let mut present = remaining.remove(relative).unwrap_or(FileState::Absent);
        let at = place_of(root, relative);
        if present.same_as(desired) {
            if let (Times::Follow, FileState::File { metadata, .. }) = (times, desired)
                && present.metadata().is_some_and(|present| present.mtime != metadata.mtime)
            {
                set_metadata_syncing(&at, &Attributes::from(metadata), &present, syncing)?;
            }
            continue;
        }
        // Its other names keep what it is now.
        let is_new_file = matches!(desired, FileState::File { .. } | FileState::Link { .. });
        if is_new_file && shared.contains(relative) && !present.is_absent() {
            remove_syncing(&at, &present, tag, syncing)?;
            present = FileState::Absent;
        }
        match desired {
            FileState::Directory { .. } if present.is_absent() => {
                let inner = goal.below_path(relative);
                match from.map(|from| from.ready(relative, &at, &inner)).transpose()?.flatten() {
                    Some(one) => ready.push(one),
                    None => build(way, relative, &inner, open)?,
                }
                whole = Some(relative.to_owned());
                touched.insert(parent_of(relative));
            }
            // Last, because the time of a directory changes with every name in it, and a name comes after its file.
            FileState::Directory { .. } | FileState::SameFile { .. } => {}
            FileState::File { sha256, size, metadata } => {
                let mut attributes = Attributes::from(metadata);
                if times == Times::Pass {
                    attributes.mtime = None;
                }
                if present.sha256() == Some(*sha256) {
                    set_metadata_syncing(&at, &attributes, &present, syncing)?;
                    continue;
                }
                touched.insert(parent_of(relative));
                if let Syncing::Together(_) = syncing {
                    let (relative, sha256, size) = (relative.to_owned(), *sha256, *size);
                    wanted.push(Wanted { relative, sha256, size, attributes, present });
                } else {
                    let content = open(relative)?;
                    replace(&at, content.as_contents(*sha256, &at)?, &attributes, &present, tag)?;
                }
            }
            FileState::Link { to, owner, group, mtime } => {
                let mtime = if times == Times::Pass { None } else { *mtime };
                let desired = Symlink { to, owner: *owner, group: *group, mtime };
                link_syncing(&at, &desired, &present, tag, syncing)?;
                touched.insert(parent_of(relative));
            }
            FileState::Absent | FileState::Special { .. } => {
                return Err(super::failures::refused(
                    &at,
                    &format!("cannot become {}: kkrun cannot create that", desired.kind_name()),
                ));
            }
        }
    }
    if let Syncing::Together(together) = syncing {
        if let Some(from) = from.filter(|_| !ready.is_empty()) {
            together.sync(root)?;
            for one in ready {
                if !from.give(&one)? {
                    build(way, &one.relative, &goal.below_path(&one.relative), open)?;
                }
            }
        }
        replace_together(root, wanted, tag, together, from, open)?;
    }
    let linked = share_names(way, goal)?;
    settle_directories(way, now, goal, &touched, &linked)
}

/// Makes a new directory with all that is in it, in one instant.
fn build(way: &Way<'_>, relative: &Path, inner: &Manifest, open: &mut OpenFile<'_>) -> Result<()> {
    let at = place_of(way.root, relative);
    let built = build_tree(&at, way.tag, inner, &mut |below| open(&inside(relative, below)))?;
    exchange_tree(&built, &at)
}

/// The paths in a manifest at which a file has another name in it.
fn shared_names(manifest: &Manifest) -> BTreeSet<PathBuf> {
    let mut shared = BTreeSet::new();
    for (path, state) in manifest.entries() {
        if let FileState::SameFile { of } = state {
            shared.insert(of.as_path().to_owned());
            shared.insert(path.as_path().to_owned());
        }
    }
    shared
}

/// Makes the names of one file that, where they are not yet. Gives the directories in which it made one.
fn share_names(way: &Way<'_>, goal: &Manifest) -> Result<BTreeSet<PathBuf>> {
    let Way { root, tag, syncing, .. } = *way;
    let mut linked = BTreeSet::new();
    for (relative, desired) in goal.entries() {
        let FileState::SameFile { of } = desired else { continue };
        let (at, of) = (place_of(root, relative.as_path()), place_of(root, of.as_path()));
        if identity(&at)? == identity(&of)? {
            continue;
        }
        hard_link(&of, &at, tag, syncing)?;
        linked.insert(parent_of(relative.as_path()));
    }
    Ok(linked)
}

/// Removes what the goal does not name or has as another kind, and returns what is left of `now`.
fn clear(
    way: &Way<'_>,
    now: &Manifest,
    goal: &Manifest,
    touched: &mut BTreeSet<PathBuf>,
) -> Result<BTreeMap<PathBuf, FileState>> {
    let Way { root, tag, syncing, .. } = *way;
    let mut left = BTreeMap::new();
    let mut gone: Option<PathBuf> = None;
    for (relative, present) in now.entries() {
        let relative = relative.as_path();
        if gone.as_ref().is_some_and(|gone| is_below(relative, gone)) {
            continue;
        }
        let desired = goal.get(relative).unwrap_or(&FileState::Absent);
        let is_directory = matches!(present, FileState::Directory { .. });
        let stays = !desired.is_absent() && is_directory == matches!(desired, FileState::Directory { .. });
        if stays || present.is_absent() {
            left.insert(relative.to_owned(), present.clone());
            continue;
        }
        let at = place_of(root, relative);
        if is_directory {
            remove_tree(&at, identity(&at)?)?;
            gone = Some(relative.to_owned());
        } else {
            remove_syncing(&at, present, tag, syncing)?;
        }
        touched.insert(parent_of(relative));
    }
    Ok(left)
}

/// Gives the directories that stayed their metadata, inner ones first.
fn settle_directories(
    way: &Way<'_>,
    now: &Manifest,
    goal: &Manifest,
    touched: &BTreeSet<PathBuf>,
    linked: &BTreeSet<PathBuf>,
) -> Result<()> {
    let Way { root, times, syncing, .. } = *way;
    for (relative, desired) in goal.entries().rev() {
        let FileState::Directory { metadata } = desired else { continue };
        let is_linked = linked.contains(relative.as_path());
        let present = match now.get(relative.as_path()) {
            Some(present @ FileState::Directory { .. }) => present,
            // It was built as desired, and has one more name since.
            _ if is_linked => desired,
            _ => continue,
        };
        let is_touched = is_linked || touched.contains(relative.as_path());
        let trigger_time = times != Times::Pass && is_touched;
        if present.same_as(desired) && !trigger_time {
            continue;
        }
        let mut attributes = Attributes::from(metadata);
        if times == Times::Pass {
            attributes.mtime = None;
        }
        set_metadata_syncing(&place_of(root, relative.as_path()), &attributes, present, syncing)?;
    }
    Ok(())
}

/// The path of an entry; the root of a tree is `.`.
fn place_of(root: &Path, relative: &Path) -> PathBuf {
    if relative == Path::new(".") { root.to_owned() } else { root.join(relative) }
}

/// The path from the outer root of an entry of an inner tree.
fn inside(outer: &Path, inner: &Path) -> PathBuf {
    if outer == Path::new(".") { inner.to_owned() } else { outer.join(inner) }
}

fn is_below(relative: &Path, directory: &Path) -> bool {
    directory == Path::new(".") || relative.starts_with(directory)
}

/// The directory of an entry, as a path from the root.
fn parent_of(relative: &Path) -> PathBuf {
    match relative.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::files::Content;
    use crate::machine::files::testing::*;
    use crate::machine::files::{ModifiedAt, PathText};

    const LONG_AGO: ModifiedAt = ModifiedAt { seconds: 1_000_000_000, nanoseconds: 5 };

    fn open_of<'source>(
        contents: &'source BTreeMap<&str, &str>,
    ) -> impl FnMut(&Path) -> Result<Content<'source>> + 'source {
        move |relative| {
            let content: &'source str = contents[relative.to_str().unwrap()];
            Ok(Content::Bytes(content.as_bytes().into()))
        }
    }

    #[test]
    fn listed_entries_come_change_and_go_and_others_stay() {
        let (_directory, path) = scratch();
        let root = path.join("tree");
        let contents = BTreeMap::from([("same", "s"), ("changed", "new"), ("made/deep/file", "f")]);
        std::fs::create_dir_all(root.join("gone/inner")).unwrap();
        for (name, text) in [("same", "s"), ("changed", "old"), ("gone/inner/file", "g"), ("others", "o")] {
            std::fs::write(root.join(name), text).unwrap();
        }
        let mut before = Manifest::observe(&root).unwrap();
        let mut goal = Manifest::default();
        goal.insert_directory(".", &mine(0o755));
        for (name, text) in &contents {
            goal.insert_file(*name, text.as_bytes(), &mine(0o644));
        }
        goal.insert_directory("made", &mine(0o750));
        goal.insert_directory("made/deep", &mine(0o700));
        let names: Vec<PathText> =
            before.entries().chain(goal.entries()).map(|(name, _)| name.clone()).collect();
        before = Manifest::observe_listed(&root, names.iter().filter(|name| name.to_string() != "others"))
            .unwrap();

        converge_tree(
            &root,
            &before,
            &goal.clone().dated(LONG_AGO),
            Times::Pass,
            "test",
            &mut open_of(&contents),
        )
        .unwrap();
        let now = Manifest::observe_listed(&root, names.iter()).unwrap();
        let mut with_others = goal.clone();
        with_others.insert("others", FileState::observe(&root.join("others")).unwrap());
        assert!(now.same_as(&with_others), "{:?}", with_others.differences(&now));
        assert_eq!(super::super::testing::names(&root), ["changed", "made", "others", "same"]);

        // And back, with the times.
        let old = BTreeMap::from([("same", "s"), ("changed", "old"), ("gone/inner/file", "g")]);
        let now = Manifest::observe_listed(&root, names.iter().filter(|name| name.to_string() != "others"))
            .unwrap();
        converge_tree(&root, &now, &before, Times::Return, "test", &mut open_of(&old)).unwrap();
        let back = Manifest::observe_listed(&root, names.iter().filter(|name| name.to_string() != "others"))
            .unwrap();
        assert_eq!(back, before);
        assert_eq!(std::fs::read_to_string(root.join("others")).unwrap(), "o");
    }

    #[test]
    fn names_of_one_file_are_parted_and_come_together_again() {
        let (_directory, path) = scratch();
        let root = path.join("tree");
        std::fs::create_dir_all(root.join("old")).unwrap();
        std::fs::write(root.join("a"), "one").unwrap();
        for name in ["b", "old/c"] {
            std::fs::hard_link(root.join("a"), root.join(name)).unwrap();
        }
        let before = Manifest::observe(&root).unwrap();
        let mut goal = before.clone();
        goal.insert_file("a", b"two", &mine(0o600));
        goal.insert("b", before.get("a").unwrap().clone());
        goal.insert("old/c", FileState::SameFile { of: PathText::new("b") });
        goal.insert_directory("new", &mine(0o755));
        goal.insert("new/d", FileState::SameFile { of: PathText::new("a") });
        let contents = BTreeMap::from([("a", "two"), ("b", "one"), ("new/d", "two")]);
        let pass = |now: &Manifest, goal: &Manifest, contents: &BTreeMap<&str, &str>| {
            converge_tree(&root, now, goal, Times::Follow, "test", &mut open_of(contents)).unwrap();
            Manifest::observe(&root).unwrap()
        };
        let made = pass(&before, &goal, &contents);
        assert!(made.same_as(&goal), "{:?}", goal.differences(&made));
        assert_eq!(pass(&made, &before, &BTreeMap::from([("a", "one")])), before);
    }

    #[test]
    fn a_time_alone_is_followed() {
        let (_directory, path) = scratch();
        std::fs::write(path.join("file"), "same").unwrap();
        let now = Manifest::observe(&path).unwrap();
        let goal = now.clone().dated(LONG_AGO);
        converge_tree(&path, &now, &goal, Times::Return, "test", &mut open_of(&BTreeMap::new())).unwrap();
        assert_eq!(Manifest::observe(&path).unwrap(), now);
        converge_tree(&path, &now, &goal, Times::Follow, "test", &mut open_of(&BTreeMap::new())).unwrap();
        assert_eq!(Manifest::observe(&path).unwrap().get("file"), goal.get("file"));
    }

    /// So many that they are synced together, in two directories: new, replaced, removed, with another mode, as links, and
    /// a large one; and back. `meddle` is called when half of them were read.
    fn many(root: &Path, meddle: &mut dyn FnMut()) -> Result<()> {
        let large = "large".repeat(300_000);
        for directory in ["a", "b"] {
            std::fs::create_dir_all(root.join(directory)).unwrap();
            for number in 0..60 {
                std::fs::write(root.join(format!("{directory}/old-{number}")), "old").unwrap();
            }
        }
        let before = Manifest::observe(root).unwrap();
        let mut goal = Manifest::default();
        let mut contents = BTreeMap::new();
        for (path, state) in before.entries() {
            match path.to_string().rsplit('-').next().and_then(|number| number.parse::<u32>().ok()) {
                Some(0..10) => {}
                Some(10..40) => goal.insert_file(path.as_path(), b"new", &mine(0o640)),
                Some(40..50) => goal.insert_file(path.as_path(), b"old", &mine(0o600)),
                Some(50) => {
                    let mtime = Some(LONG_AGO);
                    let (owner, group) = state.ownership().unwrap();
                    goal.insert(
                        path.as_path(),
                        FileState::Link { to: PathText::new("old-51"), owner, group, mtime },
                    );
                }
                _ => goal.insert(path.as_path(), state.clone()),
            }
        }
        goal.insert_file("b/new", b"new", &mine(0o604));
        goal.insert_file("b/z", large.as_bytes(), &mine(0o604));
        goal.insert("b/second", FileState::SameFile { of: PathText::new("b/new") });
        let names: Vec<String> = goal.entries().map(|(name, _)| name.to_string()).collect();
        for name in &names {
            contents.insert(name.as_str(), if name == "b/z" { large.as_str() } else { "new" });
        }
        let goal = goal.dated(LONG_AGO);
        let mut opened = 0;
        let mut from = open_of(&contents);
        let mut open = |relative: &Path| {
            opened += 1;
            if opened == 31 {
                meddle();
            }
            from(relative)
        };
        converge_tree(root, &before, &goal, Times::Follow, "test", &mut open)?;
        let made = Manifest::observe(root).unwrap();
        assert!(made.same_as(&goal), "{:?}", goal.differences(&made));
        let is_dated = |state: &FileState| state.metadata().is_none_or(|metadata| metadata.mtime == LONG_AGO);
        assert!(made.below().all(|(_, state)| is_dated(state)));
        let names: Vec<String> = before.entries().map(|(name, _)| name.to_string()).collect();
        let old: BTreeMap<&str, &str> = names.iter().map(|name| (name.as_str(), "old")).collect();
        converge_tree(root, &made, &before, Times::Follow, "test", &mut open_of(&old))?;
        assert_eq!(Manifest::observe(root).unwrap(), before);
        Ok(())
    }

    #[test]
    fn many_entries_are_made_and_come_back() {
        let (_directory, path) = scratch();
        many(&path.join("tree"), &mut || {}).unwrap();
        assert_eq!(super::super::testing::names(&path.join("tree")), ["a", "b"]);
    }

    #[test]
    fn of_many_files_none_that_was_modified_meanwhile_is_replaced() {
        let (_directory, path) = scratch();
        let root = path.join("tree");
        let theirs = root.join("b/old-12");
        let result = many(&root, &mut || std::fs::write(&theirs, "theirs").unwrap());
        assert_eq!(kind(result), "conflict");
        assert_eq!(std::fs::read_to_string(&theirs).unwrap(), "theirs");
        for directory in ["a", "b"] {
            let names = super::super::testing::names(&root.join(directory));
            assert!(names.iter().all(|name| !name.starts_with(".kkrun")), "{names:?}");
        }
    }

    #[test]
    fn a_tree_that_is_missing_is_made_and_goes_again() {
        let (_directory, path) = scratch();
        let root = path.join("tree");
        let mut goal = Manifest::default();
        goal.insert_directory(".", &mine(0o755));
        goal.insert_file("file", b"f", &mine(0o644));
        let contents = BTreeMap::from([("file", "f")]);
        let nothing = Manifest::default();
        converge_tree(&root, &nothing, &goal, Times::Pass, "test", &mut open_of(&contents)).unwrap();
        assert!(Manifest::observe(&root).unwrap().same_as(&goal));
        converge_tree(&root, &goal, &nothing, Times::Return, "test", &mut open_of(&contents)).unwrap();
        assert_eq!(super::super::testing::names(&path), [""; 0]);
    }
}
