//! Brings listed entries of a tree to their desired state, and leaves everything else in it alone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::build_tree::{OpenFile, build_tree};
use super::exchange_tree::exchange_tree;
use super::file_state::FileState;
use super::hard_link::hard_link;
use super::link::link;
use super::manifest::Manifest;
use super::metadata::Attributes;
use super::remove::remove;
use super::remove_tree::{identity, remove_tree};
use super::replace::replace;
use super::set_metadata::set_metadata;

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
/// is missing for a moment. After an interruption, another call completes it.
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
    let shared = shared_names(now);
    let apart = if shared.is_empty() { now.clone() } else { now.with_files_apart() };
    let mut touched = BTreeSet::new();
    let mut remaining = clear(root, &apart, goal, tag, &mut touched)?;
    let mut whole: Option<PathBuf> = None;
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
                set_metadata(&at, &Attributes::from(metadata), &present)?;
            }
            continue;
        }
        // Its other names keep what it is now.
        let is_new_file = matches!(desired, FileState::File { .. } | FileState::Link { .. });
        if is_new_file && shared.contains(relative) && !present.is_absent() {
            remove(&at, &present, tag)?;
            present = FileState::Absent;
        }
        match desired {
            FileState::Directory { .. } if present.is_absent() => {
                let inner = goal.below_path(relative);
                let built = build_tree(&at, tag, &inner, &mut |below| open(&inside(relative, below)))?;
                exchange_tree(&built, &at)?;
                whole = Some(relative.to_owned());
                touched.insert(parent_of(relative));
            }
            // Last, because the time of a directory changes with every name in it, and a name comes after its file.
            FileState::Directory { .. } | FileState::SameFile { .. } => {}
            FileState::File { sha256, metadata, .. } => {
                let mut attributes = Attributes::from(metadata);
                if times == Times::Pass {
                    attributes.mtime = None;
                }
                if present.sha256() == Some(*sha256) {
                    set_metadata(&at, &attributes, &present)?;
                } else {
                    let content = open(relative)?;
                    replace(&at, content.as_contents(*sha256, &at)?, &attributes, &present, tag)?;
                    touched.insert(parent_of(relative));
                }
            }
            FileState::Link { to, owner, group, mtime } => {
                let mtime = if times == Times::Pass { None } else { *mtime };
                link(&at, to, *owner, *group, mtime, &present, tag)?;
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
    let linked = share_names(root, goal, tag)?;
    settle_directories(root, now, goal, times, &touched, &linked)
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
fn share_names(root: &Path, goal: &Manifest, tag: &str) -> Result<BTreeSet<PathBuf>> {
    let mut linked = BTreeSet::new();
    for (relative, desired) in goal.entries() {
        let FileState::SameFile { of } = desired else { continue };
        let (at, of) = (place_of(root, relative.as_path()), place_of(root, of.as_path()));
        if identity(&at)? == identity(&of)? {
            continue;
        }
        hard_link(&of, &at, tag)?;
        linked.insert(parent_of(relative.as_path()));
    }
    Ok(linked)
}

/// Removes what the goal does not name or has as another kind, and returns what is left of `now`.
fn clear(
    root: &Path,
    now: &Manifest,
    goal: &Manifest,
    tag: &str,
    touched: &mut BTreeSet<PathBuf>,
) -> Result<BTreeMap<PathBuf, FileState>> {
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
            remove(&at, present, tag)?;
        }
        touched.insert(parent_of(relative));
    }
    Ok(left)
}

/// Gives the directories that stayed their metadata, inner ones first.
fn settle_directories(
    root: &Path,
    now: &Manifest,
    goal: &Manifest,
    times: Times,
    touched: &BTreeSet<PathBuf>,
    linked: &BTreeSet<PathBuf>,
) -> Result<()> {
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
        set_metadata(&place_of(root, relative.as_path()), &attributes, present)?;
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
