//! Sets aside what is in kkrun's way and may be the operator's: it is moved to the state directory, never removed.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};

use super::World;
use super::tag;
use super::tree::{exchange, is_of_kind};
use crate::failure::{Failure, FailureKind, sentence};
use crate::machine::files::{self, Attributes, Content, Contents, FileState, Manifest, PathText, TreeFiles};
use crate::machine::mount;

/// The directory for it below the state directory; each thing gets a numbered directory of its own in it.
const ASIDE: &str = "aside";

/// The directory of what was set aside.
pub(super) fn directory(world: &World) -> PathBuf {
    world.state_directory().join(ASIDE)
}

/// What was set aside below the state directory `state` and is still there, each with the time of the move.
pub fn things_set_aside(state: &Path) -> Result<Vec<(PathBuf, SystemTime)>> {
    let aside = state.join(ASIDE);
    let mut things = Vec::new();
    for place in entries(&aside)? {
        // It changed last when the thing was moved into it.
        let moved = std::fs::metadata(&place).and_then(|place| place.modified());
        let moved = moved.with_context(|| format!("cannot read `{}`", place.display()))?;
        things.extend(entries(&place)?.into_iter().map(|thing| (thing, moved)));
    }
    things.sort();
    Ok(things)
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let named = || format!("cannot read `{}`", directory.display());
    match std::fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry.with_context(named)?.path())).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(named),
    }
}

/// Moves what is at the canonical path `path` to a place of its own and gives that. If kkrun is killed
/// meanwhile, the thing is whole at one of the two paths or at both.
///
/// # Errors
/// When something is mounted in it, or it cannot be moved to the file system of the state directory.
pub(super) fn set_aside(world: &World, path: &Path) -> Result<PathBuf> {
    mount::refuse_within([path])?;
    let name = path.file_name().context("cannot set aside `/`: it is the root directory")?;
    let place = free_place(&directory(world))?;
    let to = place.join(name);
    let moved = match files::exchange_tree(path, &to) {
        Err(error) if is_of_kind(&error, FailureKind::CrossDevice) => copy_and_remove(path, &to),
        moved => moved,
    };
    if moved.is_err() {
        // Empty, unless the copy is there and the original could not go.
        let _ = std::fs::remove_dir(place);
    }
    moved.map(|()| to)
}

/// A new directory in this one, durably: a power cut must not lose what is moved there.
fn free_place(directory: &Path) -> Result<PathBuf> {
    make(directory)?;
    for number in 1_u32.. {
        let place = directory.join(number.to_string());
        if make(&place)? {
            return Ok(place);
        }
    }
    anyhow::bail!("cannot set anything aside in `{}`: it is full", directory.display())
}

/// Makes a directory that only its maker may enter; false if something of that name is there.
fn make(path: &Path) -> Result<bool> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(false),
        made => made.with_context(|| format!("cannot make `{}`", path.display()))?,
    }
    let above = path.parent().unwrap_or(path);
    std::fs::File::open(above)
        .and_then(|above| above.sync_all())
        .with_context(|| format!("cannot sync `{}`", above.display()))?;
    Ok(true)
}

/// A move to another file system is a copy, whole and synced before the original goes.
fn copy_and_remove(path: &Path, to: &Path) -> Result<()> {
    match FileState::observe(path)? {
        FileState::Absent => Ok(()),
        FileState::Directory { .. } => {
            let manifest = Manifest::observe(path)?;
            let content = TreeFiles::open(path)?;
            let mut open = |relative: &Path| Ok(Content::File(content.file(relative)?));
            let built =
                files::build_tree(to, &tag(to), &manifest, &mut open).map_err(|error| stays(path, &error))?;
            files::exchange_tree(&built, to)?;
            exchange(path, &manifest, &Manifest::default(), &mut open)
        }
        state @ FileState::File { .. } => {
            let FileState::File { sha256, metadata, .. } = &state else { return Ok(()) };
            let from =
                std::fs::File::open(path).with_context(|| format!("cannot read `{}`", path.display()))?;
            let contents = Contents::File { from: &from, sha256: Some(*sha256) };
            files::replace(to, contents, &Attributes::from(metadata), &FileState::Absent, &tag(to))?;
            files::remove(path, &state, &tag(path))
        }
        FileState::Link { to: text, owner, group, mtime } => {
            files::link(to, &text, owner, group, mtime, &FileState::Absent, &tag(to))?;
            files::remove(path, &FileState::Link { to: text, owner, group, mtime }, &tag(path))
        }
        special @ (FileState::Special { .. } | FileState::SameFile { .. }) => {
            Err(stays(path, &anyhow::anyhow!("it is {}", special.kind_name())))
        }
    }
}

fn stays(path: &Path, why: &anyhow::Error) -> anyhow::Error {
    let shown = PathText::new(path);
    Failure::new(format!(
        "cannot copy `{shown}` to the state directory, so it is left where it is: {why}",
        why = sentence(why)
    ))
    .kind(FailureKind::Refused)
    .hint(format!("move or remove `{shown}` yourself, then run kkrun again"))
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::testing::world;

    #[test]
    fn what_is_set_aside_is_whole_there_and_nothing_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        std::fs::create_dir(path.join("state")).unwrap();
        let world = world(&path.join("state"));
        for number in 1..=2 {
            std::fs::create_dir_all(path.join("it/a")).unwrap();
            std::fs::write(path.join("it/a/file"), number.to_string()).unwrap();
            let to = set_aside(&world, &path.join("it")).unwrap();
            assert_eq!(to, path.join(format!("state/aside/{number}/it")));
            assert!(!path.join("it").exists());
        }
        std::fs::write(path.join("it"), "file").unwrap();
        let to = set_aside(&world, &path.join("it")).unwrap();
        assert_eq!(std::fs::read_to_string(to).unwrap(), "file");
        assert_eq!(std::fs::read_to_string(path.join("state/aside/1/it/a/file")).unwrap(), "1");
    }

    #[test]
    fn to_another_file_system_a_copy_moves() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        let (from, to) = (path.join("from"), path.join("to"));
        std::fs::create_dir_all(from.join("a")).unwrap();
        std::fs::write(from.join("a/file"), "f").unwrap();
        let before = Manifest::observe(&from).unwrap();
        copy_and_remove(&from, &to).unwrap();
        assert_eq!(Manifest::observe(&to).unwrap(), before);
        for (is_link, name) in [(false, "file"), (true, "link")] {
            let at = path.join(name);
            if is_link {
                std::os::unix::fs::symlink("x", &at).unwrap();
            } else {
                std::fs::write(&at, "f").unwrap();
            }
            let state = FileState::observe(&at).unwrap();
            copy_and_remove(&at, &path.join("moved")).unwrap();
            assert!(FileState::observe(&path.join("moved")).unwrap().same_as(&state));
            std::fs::remove_file(path.join("moved")).unwrap();
        }
        let mut left: Vec<_> =
            std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["to"]);

        let socket = path.join("from");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let error = copy_and_remove(&socket, &path.join("moved")).unwrap_err();
        assert!(format!("{error:#}").contains("left where it is") && socket.exists());
    }
}
