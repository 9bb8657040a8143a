//! Creates a symbolic link, or replaces what is there by one.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::path::Path;

use anyhow::Result;
use rustix::fs::{AtFlags, Gid, Uid, chownat, utimensat};

use super::content::digest_known;
use super::failures::failed;
use super::file_state::{FileState, look};
use super::metadata::ModifiedAt;
use super::path_text::PathText;
use super::place::Place;
use super::temporary::{Checked, Temporary};
use super::together::Syncing;

/// Makes `path` a symbolic link to `to`, durably and in one instant, and returns its state. Its time is now if none is
/// given.
///
/// # Errors
/// As [`super::replace()`].
pub fn link(
    path: &Path,
    to: &PathText,
    owner: u32,
    group: u32,
    mtime: Option<ModifiedAt>,
    expected: &FileState,
    tag: &str,
) -> Result<FileState> {
    link_syncing(path, &Symlink { to, owner, group, mtime }, expected, tag, Syncing::Now)
}

/// A symbolic link as it is to be.
pub(super) struct Symlink<'a> {
    pub(super) to: &'a PathText,
    pub(super) owner: u32,
    pub(super) group: u32,
    pub(super) mtime: Option<ModifiedAt>,
}

/// The same, synced as `syncing` says.
pub(super) fn link_syncing(
    path: &Path,
    desired: &Symlink<'_>,
    expected: &FileState,
    tag: &str,
    syncing: Syncing<'_>,
) -> Result<FileState> {
    let Symlink { to, owner, group, mtime } = *desired;
    let place = Place::open(path)?;
    let checked = Checked::replaceable(&place, expected)?;
    let (state, placed) = place.acting(
        |user| user.uid == owner && user.is_in(group),
        || {
            let temporary = Temporary::link(&place, tag, to.as_path())?;
            let look = || look(place.directory(), temporary.name(), &place.path, &mut digest_known);
            if look()?.state.ownership() != Some((owner, group)) {
                let (owner, group) = (Uid::from_raw(owner), Gid::from_raw(group));
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                chownat(place.directory(), temporary.name(), Some(owner), Some(group), flags)
                    .map_err(|errno| failed("change the owner of", &place.path, errno))?;
            }
            date_link(place.directory(), temporary.name(), mtime, &place.path)?;
            let state = look()?.state;
            Ok((state, temporary.put_in_place(&checked)?))
        },
    )?;
    placed.settle(&place, &checked)?;
    syncing.settle(&place)?;
    Ok(state)
}

/// Gives a symbolic link a time, if there is one.
pub(super) fn date_link(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    mtime: Option<ModifiedAt>,
    shown: &Path,
) -> Result<()> {
    let Some(mtime) = mtime else { return Ok(()) };
    utimensat(directory, name, &mtime.timestamps(), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| failed("set the time of", shown, errno))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::files::testing::*;

    #[test]
    fn a_link_takes_the_place_of_nothing_a_file_or_a_link() {
        let (_directory, path) = scratch();
        let at = path.join("link");
        let (owner, group) = (mine(0).owner, mine(0).group);
        std::fs::write(&at, "abc").unwrap();
        let mut before = FileState::observe(&at).unwrap();
        for to in ["first", "/second"] {
            let state = link(&at, &to.into(), owner, group, None, &before, "test").unwrap();
            assert!(state.same_as(&FileState::link(to, owner, group)));
            assert_eq!(state, FileState::observe(&at).unwrap());
            before = state;
        }
        let old = Some(ModifiedAt { seconds: 1_000_000_000, nanoseconds: 7 });
        let state = link(&at, &"first".into(), owner, group, old, &before, "test").unwrap();
        assert!(matches!(state, FileState::Link { mtime, .. } if mtime == old));
        assert_eq!(state, FileState::observe(&at).unwrap());
        assert_eq!(kind(link(&at, &"x".into(), owner, group, None, &FileState::Absent, "test")), "refused");
        let new = path.join("new");
        link(&new, &"x".into(), owner, group, None, &FileState::Absent, "test").unwrap();
        assert_eq!(names(&path), ["link", "new"]);
    }

    #[test]
    #[ignore = "needs root"]
    fn in_a_users_place_a_link_may_belong_to_either() {
        let (_directory, path) = unprivileged_directory();
        for owner in [0, UNPRIVILEGED] {
            let at = path.join(format!("of-{owner}"));
            let state = link(&at, &"x".into(), owner, owner, None, &FileState::Absent, "test").unwrap();
            assert!(state.same_as(&FileState::link("x", owner, owner)));
            assert_eq!(access(&at).1, owner);
        }
    }
}
