//! Removes a file or a link.

use std::path::Path;

use anyhow::Result;

use super::failures::refused;
use super::file_state::FileState;
use super::place::Place;
use super::temporary::{Checked, clear_leftover, take_away};
use super::together::Syncing;

/// Removes the file or link `path` durably, if it is as `expected`. Fine if it is absent and expected to be so.
///
/// Of a file with several names (hard links) only this name is removed. So are leftovers beside it of an interrupted
/// change with the same tag.
///
/// # Errors
/// As [`super::replace()`]; `refused` for a directory, which [`super::remove_directory`] removes.
pub fn remove(path: &Path, expected: &FileState, tag: &str) -> Result<()> {
    remove_syncing(path, expected, tag, Syncing::Now)
}

/// The same, synced as `syncing` says.
pub(super) fn remove_syncing(
    path: &Path,
    expected: &FileState,
    tag: &str,
    syncing: Syncing<'_>,
) -> Result<()> {
    clear_leftover(path, tag)?;
    if expected.is_absent() && FileState::observe(path)?.is_absent() {
        return Ok(());
    }
    let place = Place::open(path)?;
    let checked = Checked::target(&place, expected)?;
    if let FileState::Directory { .. } = checked.state {
        return Err(refused(path, "is a directory"));
    }
    take_away(&place, &checked, tag)?;
    syncing.settle(&place)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::machine::files::testing::*;

    #[test]
    fn only_what_was_expected_goes() {
        let (_directory, path) = scratch();
        let at = |name: &str| path.join(name);
        std::fs::write(at("file"), "abc").unwrap();
        std::fs::write(at(".kkrun-test"), "left").unwrap();
        symlink("file", at("link")).unwrap();
        let (file, link) =
            (FileState::observe(&at("file")).unwrap(), FileState::observe(&at("link")).unwrap());
        assert_eq!(kind(remove(&at("link"), &file, "test")), "conflict");
        remove(&at("link"), &link, "test").unwrap();
        remove(&at("link"), &FileState::Absent, "test").unwrap();
        remove(&at("none/below"), &FileState::Absent, "test").unwrap();
        assert_eq!(names(&path), ["file"]);
        assert_eq!(kind(remove(&at("file"), &FileState::Absent, "test")), "conflict");
        remove(&at("file"), &file, "test").unwrap();
        assert_eq!(kind(remove(&path, &FileState::observe(&path).unwrap(), "test")), "refused");
    }

    #[test]
    #[ignore = "needs root"]
    fn in_a_users_place_what_root_left_goes_too() {
        let (_directory, path) = unprivileged_directory();
        std::fs::create_dir(path.join("roots")).unwrap();
        for name in ["file", "roots/file"] {
            std::fs::write(path.join(name), "abc").unwrap();
            remove(&path.join(name), &FileState::observe(&path.join(name)).unwrap(), "test").unwrap();
        }
        assert_eq!(names(&path.join("roots")), [""; 0]);
    }
}
