//! A command that runs on the machine itself, and the paths that its script says it touches: these are recorded before and
//! after, and undone like what a captured command changed.
//!
//! The intent holds what is there before. What the command made of it is in the record that says that it has ended; the
//! history puts it into the intent. As long as there is none, the command may have been killed, and what is there may be its
//! own or anyone's: it is restored, and nothing of it is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context as _, Result};

use super::captured::{CapturedChange, CapturedInverse, CapturedState, Part, holding};
use super::command::CommandSource;
use super::tree::{blob, entry_path, keep_copy, read_manifest};
use super::{World, aside};
use crate::failure::{Failure, FailureKind};
use crate::machine::files::{self, Digest, FileState, Manifest, PathText};
use crate::machine::mount;
use crate::machine::tree_size::TreeSize;

/// So much is recorded of the named paths of a command, at most: this many files,
const MOST_FILES: u64 = 50_000;
/// and this many bytes.
const MOST_BYTES: u64 = 1024 * 1024 * 1024;

impl CapturedChange {
    /// The change by a command about to be run on the machine itself, of these paths; `state` is the state directory.
    ///
    /// # Errors
    /// When they cannot be observed, when there is too much at them, when something is mounted at one, when kkrun's own
    /// record is there, and when a file there has a name elsewhere.
    pub fn about_to_touch(
        label: &str,
        source: CommandSource,
        paths: &[PathBuf],
        state: &Path,
    ) -> Result<Self> {
        let paths = paths.iter().map(|path| files::canonical(path)).collect::<Result<BTreeSet<_>>>()?;
        // Paths are ordered by their components: what is below a path follows it.
        let mut touches: Vec<PathBuf> = Vec::new();
        for path in paths {
            if touches.last().is_none_or(|above| !path.starts_with(above)) {
                touches.push(path);
            }
        }
        refuse_unrecordable(label, &touches, &files::canonical(state)?)?;
        let directories: BTreeSet<PathBuf> = touches.iter().map(|path| existing_above(path)).collect();
        let roots: Vec<PathText> = directories.iter().map(PathText::new).collect();
        let touches = touches.into_iter().map(PathText::new).collect();
        let held_by = holding(&roots)?;
        let inverse = CapturedInverse { label: label.to_owned(), roots, touches, held_by };
        let named = inverse.named();
        let found = named.iter().map(|(root, names)| observe(root, names)).collect::<Result<Vec<_>>>()?;
        for ((root, _), found) in named.iter().zip(&found) {
            refuse_names_elsewhere(label, root, found)?;
        }
        let manifests = found.iter().map(|found| Ok(Digest::of(&blob(found)?))).collect::<Result<_>>()?;
        Ok(Self {
            before: CapturedState { manifests, ..CapturedState::default() },
            after: CapturedState { source, ..CapturedState::default() },
            inverse,
            source: None,
            found: Some(Rc::new(found)),
        })
    }

    /// Whether the command ran on the machine itself.
    pub(super) fn is_touching(&self) -> bool {
        !self.inverse.touches.is_empty()
    }

    /// The same, and it has not been seen to end.
    pub(super) fn is_unseen(&self) -> bool {
        self.is_touching() && self.after.manifests.is_empty()
    }

    /// The named paths in each directory, from before to after; to now as long as that is not known.
    pub(super) fn touched_parts(&self, world: &World) -> Result<Vec<Part>> {
        let mut parts = Vec::new();
        for (at, (root, names)) in self.inverse.named().into_iter().enumerate() {
            let read = |side: &CapturedState| {
                let digest = side.manifests.get(at).context("a manifest is missing in the journal")?;
                read_manifest(world, *digest)
            };
            let before = match &self.found {
                Some(found) => found.get(at).cloned().unwrap_or_default(),
                None => read(&self.before)?,
            };
            let after = if self.is_unseen() { observe(&root, &names)? } else { read(&self.after)? };
            let mut part = Part::new(root, before, after);
            part.keep_changes_of(&names);
            parts.push(part);
        }
        Ok(parts)
    }

    /// Makes durable what is at the named paths before the command runs.
    pub(super) fn save_found(&self, world: &World) -> Result<()> {
        let backups = world.backups()?;
        for part in self.touched_parts(world)? {
            let is_file = |(_, state): &(&PathText, &FileState)| state.sha256().is_some();
            let held: Vec<(PathBuf, &FileState)> = part
                .before
                .entries()
                .filter(is_file)
                .map(|(name, state)| (entry_path(&part.root, name.as_path()), state))
                .collect();
            let saved = backups.save_files(held.iter().map(|(path, _)| path.as_path()))?;
            for ((path, expected), saved) in held.iter().zip(&saved) {
                if !saved.same_as(expected) {
                    let why = format!("cannot record `{}`: it changes while it is read", path.display());
                    let mut failure = Failure::new(why);
                    failure.output = expected.differences(saved);
                    return Err(failure.kind(FailureKind::Conflict).into());
                }
            }
            backups.save(&blob(&part.before)?)?;
        }
        Ok(())
    }

    /// What the command, which has ended, made of the named paths.
    pub(super) fn seen(&self, world: &World) -> Result<CapturedState> {
        let (mut paths, mut manifests) = (0, Vec::new());
        for part in self.touched_parts(world)? {
            paths += part.changed.len() as u64;
            manifests.push(world.backups()?.save(&blob(&part.after)?)?);
        }
        Ok(CapturedState { paths, manifests, instead_of: Vec::new(), source: self.after.source.clone() })
    }

    /// Keeps what is at the changed paths, because it may not be the command's, which was killed.
    pub(super) fn keep_what_may_be_others(&self, world: &World, part: &Part) -> Result<()> {
        if self.found.is_some() {
            // The command was seen to fail, just now.
            return Ok(());
        }
        let is_new = |name: &PathText| part.before.get(name.as_path()).is_none();
        for name in &part.changed {
            let path = entry_path(&part.root, name.as_path());
            let above = name.as_path().parent().filter(|above| !above.as_os_str().is_empty());
            if part.after.get(name.as_path()).is_none() {
                continue;
            }
            if !is_new(name) {
                keep_copy(world, &path)?;
            } else if !above.is_some_and(|above| {
                part.changed.contains(&PathText::new(above)) && is_new(&PathText::new(above))
            }) {
                let to = aside::set_aside(world, &path)?;
                world.reporter.note(format!(
                    "`{}` was moved to `{}`: it may not be what `{}` made, which was killed",
                    path.display(),
                    to.display(),
                    self.inverse.label
                ));
            }
        }
        Ok(())
    }

    /// Removes the directories above named paths that the command made, if nothing is in them.
    pub(super) fn remove_empty_directories(&self, part: &Part) {
        let touches = self.inverse.touches.iter().map(PathText::as_path);
        for path in touches {
            for above in path.ancestors().skip(1).take_while(|above| *above != part.root) {
                let Ok(name) = above.strip_prefix(&part.root) else { break };
                if part.before.get(name).is_none() && part.after.get(name).is_some() {
                    // One that holds something stays.
                    let _ = std::fs::remove_dir(above);
                }
            }
        }
    }
}

impl CapturedInverse {
    /// The named paths by the directory that they are in, from there.
    fn named(&self) -> Vec<(PathBuf, BTreeSet<PathText>)> {
        let mut named: BTreeMap<&PathText, BTreeSet<PathText>> =
            self.roots.iter().map(|root| (root, BTreeSet::new())).collect();
        for path in &self.touches {
            let above = self.roots.iter().filter(|root| path.as_path().starts_with(root.as_path()));
            let Some(root) = above.max_by_key(|root| root.as_path().components().count()) else { continue };
            if let (Some(names), Ok(name)) =
                (named.get_mut(root), path.as_path().strip_prefix(root.as_path()))
            {
                names.insert(PathText::new(name));
            }
        }
        self.roots
            .iter()
            .map(|root| (root.as_path().to_owned(), named.get(root).cloned().unwrap_or_default()))
            .collect()
    }
}

impl Part {
    /// Of the changes, keeps those at and below these names, and of a directory above them only its removal.
    fn keep_changes_of(&mut self, names: &BTreeSet<PathText>) {
        let is_directory = |side: &Manifest, name: &PathText| {
            matches!(side.get(name.as_path()), Some(FileState::Directory { .. }))
        };
        let (before, after) = (&self.before, &self.after);
        self.changed.retain(|name| {
            names.iter().any(|named| name.as_path().starts_with(named.as_path()))
                || is_directory(before, name) && !is_directory(after, name)
        });
    }
}

/// What is at these names and below them, and the directories above them.
fn observe(root: &Path, names: &BTreeSet<PathText>) -> Result<Manifest> {
    let mut all = names.clone();
    for name in names {
        let above = name.as_path().ancestors().skip(1).filter(|above| !above.as_os_str().is_empty());
        all.extend(above.map(PathText::new));
    }
    let mut found = Manifest::observe_several(root, &all, names)?.manifest;
    let special: BTreeSet<PathText> = found
        .entries()
        .filter(|(_, state)| matches!(state, FileState::Special { .. }))
        .map(|(name, _)| name.clone())
        .collect();
    found.retain(|name| !special.contains(name));
    Ok(found)
}

/// The innermost directory above a path that is there.
fn existing_above(path: &Path) -> PathBuf {
    let is_directory =
        |above: &&Path| std::fs::symlink_metadata(above).is_ok_and(|metadata| metadata.is_dir());
    path.ancestors().skip(1).find(is_directory).unwrap_or(Path::new("/")).to_owned()
}

fn cannot_record(label: &str, path: &Path, why: &str) -> Failure {
    Failure::new(format!("cannot record `{}` before `{label}` runs: {why}", path.display()))
        .kind(FailureKind::Refused)
}

/// An undo replaces files: it would part one from a name that is not recorded.
fn refuse_names_elsewhere(label: &str, root: &Path, found: &Manifest) -> Result<()> {
    let mut names: BTreeMap<&PathText, u64> = BTreeMap::new();
    for (name, state) in found.entries() {
        match state {
            FileState::SameFile { of } => *names.entry(of).or_default() += 1,
            state if state.sha256().is_some() => *names.entry(name).or_default() += 1,
            _ => {}
        }
    }
    for (name, recorded) in names {
        let path = entry_path(root, name.as_path());
        let links = std::fs::symlink_metadata(&path).map_or(0, |metadata| metadata.nlink());
        if links > recorded {
            let find = shell_words::join(["find", "/", "-xdev", "-samefile", &*path.to_string_lossy()]);
            return Err(cannot_record(label, &path, "it has another name outside of `touches`")
                .hint(format!("`{find}` lists its names: name all of them in `touches`"))
                .into());
        }
    }
    Ok(())
}

fn refuse_unrecordable(label: &str, touches: &[PathBuf], state: &Path) -> Result<()> {
    let mounted = mount::mounted()?;
    let cannot = |path: &Path, why: &str| {
        cannot_record(label, path, why).hint("name what the command changes below it in `touches`")
    };
    let mut all = TreeSize::default();
    for path in touches {
        if path == Path::new("/") || mounted.iter().any(|mount| mount.path == *path) {
            return Err(cannot(path, "a file system is mounted there").into());
        }
        if state.starts_with(path) || path.starts_with(state) {
            let why = format!("kkrun keeps its own record in `{}`", state.display());
            return Err(cannot(path, &why).into());
        }
        let size = TreeSize::at(path);
        all = TreeSize { files: all.files + size.files, bytes: all.bytes + size.bytes };
        if all.files > MOST_FILES || all.bytes > MOST_BYTES {
            let most = TreeSize { files: MOST_FILES, bytes: MOST_BYTES };
            return Err(cannot(path, &format!("there are {all}, and at most {most} are recorded")).into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::change::testing::{from_record, world};
    use crate::change::{Change, Kind as _};

    #[test]
    fn what_a_command_changed_is_named_from_the_record_and_shown_where_it_may_be() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        std::fs::create_dir(path.join("state")).unwrap();
        let world = world(&path.join("state"));
        let write = |name: &str, text: &str, mode: u32| {
            let at = path.join(name);
            std::fs::write(&at, text).unwrap();
            std::fs::set_permissions(&at, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let named = ["conf", "gone", "made", "own", "same"].map(|name| path.join(name));
        for (name, mode) in [("conf", 0o644), ("gone", 0o644), ("own", 0o600), ("same", 0o644)] {
            write(name, "old\n", mode);
        }
        let source = CommandSource::default();
        let mut change = CapturedChange::about_to_touch("it", source, &named, &path.join("state")).unwrap();
        change.prepare(&world).unwrap();
        write("conf", "new\n", 0o644);
        std::fs::remove_file(&named[1]).unwrap();
        write("made", "first\n", 0o644);
        write("own", "none of yours\n", 0o600);
        change.after = change.seen(&world).unwrap();
        let Change::Captured(change) = from_record(&Change::Captured(change)) else { panic!() };

        let shown = change.recorded_difference(&world).unwrap();
        for said in
            ["conf: ", "-old\n+new", "gone: a file of 4 bytes → absent", "made: a file of", "+first", "own: "]
        {
            assert!(shown.contains(said), "{said}: {shown}");
        }
        assert!(!shown.contains("none of yours") && !shown.contains("same"), "{shown}");
        world.content_is_secret.set(true);
        let shown = change.recorded_difference(&world).unwrap();
        assert!(shown.contains("conf: ") && !shown.contains("+new"), "{shown}");
    }
}
