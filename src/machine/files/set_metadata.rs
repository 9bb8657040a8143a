//! Changes mode, owner, group and attributes of an existing file or directory.

use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::Result;
use rustix::fs::{AtFlags, FileType, Gid, OFlags, Uid, chownat, fstat, fsync, statat};

use super::content::digest_known;
use super::failures::{conflict, failed, refused};
use super::file_state::{FileState, look, metadata_of, open_same};
use super::metadata::{Attributes, Metadata};
use super::place::Place;
use super::replace::{adorn, may_make};
use super::together::Syncing;

/// Gives the file or directory `path` these attributes through its descriptor; of a link only owner and group change.
/// Returns the new metadata; `None` for a link.
///
/// Its kind and metadata must be as `expected`; its content is neither read nor changed. This takes several calls to
/// the kernel: after a crash between them some of the attributes are new, and another call completes it.
///
/// # Errors
/// As [`super::replace()`]; `refused` for anything else, and for a file with several names (hard links) in a directory
/// that others can write to, because its other name may be in a directory of root.
pub fn set_metadata(path: &Path, to: &Attributes, expected: &FileState) -> Result<Option<Metadata>> {
    set_metadata_syncing(path, to, expected, Syncing::Now)
}

/// The same, synced as `syncing` says.
pub(super) fn set_metadata_syncing(
    path: &Path,
    to: &Attributes,
    expected: &FileState,
    syncing: Syncing<'_>,
) -> Result<Option<Metadata>> {
    let place = Place::open(path)?;
    let stat = statat(place.directory(), &place.name, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| failed("access", &place.path, errno))?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => OFlags::empty(),
        FileType::Directory => OFlags::DIRECTORY,
        FileType::Symlink => {
            set_link_owner(&place, to, expected, syncing)?;
            return Ok(None);
        }
        _ => return Err(refused(&place.path, "is not a file, directory or link")),
    };
    let Some(file) = open_same(place.directory(), &place.name, &place.path, &stat, kind)? else {
        return Err(conflict(&place.path, &["it was replaced".to_owned()]));
    };
    let links = fstat(&file).map_err(|errno| failed("access", &place.path, errno))?.st_nlink;
    if kind.is_empty() && links > 1 && !place.trusted {
        return Err(refused(&place.path, "has hard links and is in a directory that others can write to"));
    }
    let now = metadata_of(&file, &place.path)?;
    let state = match expected {
        FileState::File { sha256, size, .. } if kind.is_empty() => {
            FileState::File { sha256: *sha256, size: *size, metadata: now }
        }
        _ if kind.is_empty() => return Err(refused(&place.path, "is a file")),
        _ => FileState::Directory { metadata: now },
    };
    if !expected.same_as(&state) {
        return Err(conflict(&place.path, &expected.differences(&state)));
    }
    let owner = state.ownership().map(|(owner, _)| owner);
    let file = file.as_fd();
    let is_synced_now = matches!(syncing, Syncing::Now);
    place.acting(
        |user| owner == Some(user.uid) && may_make(user, to),
        || {
            adorn(file, to, &place.path)?;
            if is_synced_now {
                fsync(file).map_err(|errno| failed("sync", &place.path, errno))
            } else {
                Ok(())
            }
        },
    )?;
    if let Syncing::Together(together) = syncing {
        together.note(&place)?;
    }
    Ok(Some(metadata_of(file, &place.path)?))
}

fn set_link_owner(place: &Place, to: &Attributes, expected: &FileState, syncing: Syncing<'_>) -> Result<()> {
    let state = look(place.directory(), &place.name, &place.path, &mut digest_known)?.state;
    if !expected.same_as(&state) {
        return Err(conflict(&place.path, &expected.differences(&state)));
    }
    if state.ownership() == Some((to.owner, to.group)) {
        return Ok(());
    }
    let (owner, group) = (Uid::from_raw(to.owner), Gid::from_raw(to.group));
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    chownat(place.directory(), &place.name, Some(owner), Some(group), flags)
        .map_err(|errno| failed("change the owner of", &place.path, errno))?;
    syncing.settle(place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::files::testing::*;

    #[test]
    fn a_file_and_a_directory_get_their_attributes() {
        let (_directory, path) = scratch();
        std::fs::write(path.join("file"), "abc").unwrap();
        std::fs::create_dir(path.join("directory")).unwrap();
        for name in ["file", "directory"] {
            let at = path.join(name);
            let before = FileState::observe(&at).unwrap();
            set_metadata(&at, &mine(0o611), &before).unwrap();
            assert_eq!(access(&at).0, 0o611);
            assert_eq!(kind(set_metadata(&at, &mine(0o600), &before)), "conflict");
            let after = FileState::observe(&at).unwrap();
            let back: Attributes = before.metadata().unwrap().into();
            assert_eq!(set_metadata(&at, &back, &after).unwrap().as_ref(), before.metadata());
        }
        std::os::unix::fs::symlink("file", path.join("link")).unwrap();
        let file = FileState::observe(&path.join("file")).unwrap();
        assert_eq!(kind(set_metadata(&path.join("link"), &mine(0o600), &file)), "conflict");
    }

    #[test]
    #[ignore = "needs root"]
    fn in_a_users_place_a_second_name_is_refused() {
        let (_directory, path) = unprivileged_directory();
        std::fs::write(path.join("file"), "abc").unwrap();
        let before = FileState::observe(&path.join("file")).unwrap();
        std::fs::hard_link(path.join("file"), path.join("second")).unwrap();
        assert_eq!(kind(set_metadata(&path.join("file"), &unprivileged(0o600), &before)), "refused");
        std::fs::remove_file(path.join("second")).unwrap();
        set_metadata(&path.join("file"), &unprivileged(0o600), &before).unwrap();
        assert_eq!(access(&path.join("file")), (0o600, UNPRIVILEGED, UNPRIVILEGED));
    }
}
