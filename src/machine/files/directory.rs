//! Creates one directory, and removes an empty one.

use std::path::Path;

use anyhow::Result;
use rustix::fs::{AtFlags, fsync, unlinkat};

use super::failures::failed;
use super::file_state::{FileState, metadata_of};
use super::metadata::Attributes;
use super::place::Place;
use super::replace::{adorn, may_make};
use super::temporary::{Checked, Temporary};

/// Creates the directory `path` durably and returns its state. It appears with all its attributes in one instant.
///
/// # Errors
/// As [`super::replace()`]; `exists` when anything is there, `missing` when its parent directory does not exist.
pub fn make_directory(path: &Path, to: &Attributes, tag: &str) -> Result<FileState> {
    let place = Place::open(path)?;
    if !FileState::observe(path)?.is_absent() {
        return Err(failed("create the directory", path, rustix::io::Errno::EXIST));
    }
    let absent = Checked { state: FileState::Absent, identity: None };
    let (state, placed) = place.acting(
        |user| may_make(user, to),
        || {
            let (temporary, directory) = Temporary::directory(&place, tag)?;
            adorn(&directory, to, &place.path)?;
            fsync(&directory).map_err(|errno| failed("sync", &place.path, errno))?;
            let state = FileState::Directory { metadata: metadata_of(&directory, &place.path)? };
            Ok((state, temporary.put_in_place(&absent)?))
        },
    )?;
    placed.settle(&place, &absent)?;
    place.sync()?;
    Ok(state)
}

/// Removes the directory `path` durably, if it is empty. An absent one is fine.
///
/// # Errors
/// `notempty` when something is in it; otherwise as [`super::replace()`].
pub fn remove_directory(path: &Path) -> Result<()> {
    if FileState::observe(path)?.is_absent() {
        return Ok(());
    }
    let place = Place::open(path)?;
    place.acting(
        |_| true,
        || {
            unlinkat(place.directory(), &place.name, AtFlags::REMOVEDIR)
                .map_err(|errno| failed("remove the directory", &place.path, errno))
        },
    )?;
    place.sync()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::files::testing::*;

    #[test]
    fn a_directory_comes_and_goes() {
        let (_directory, path) = scratch();
        let at = path.join("directory");
        let state = make_directory(&at, &mine(0o2751), "test").unwrap();
        assert!(state.same_as(&FileState::directory(&mine(0o2751))));
        assert_eq!(state, FileState::observe(&at).unwrap());
        assert_eq!(kind(make_directory(&at, &mine(0o700), "test")), "exists");
        assert_eq!(kind(make_directory(&path.join("none/below"), &mine(0o700), "test")), "missing");
        std::fs::write(at.join("file"), "").unwrap();
        assert_eq!(kind(remove_directory(&at)), "notempty");
        std::fs::remove_file(at.join("file")).unwrap();
        remove_directory(&at).unwrap();
        remove_directory(&at).unwrap();
        assert_eq!(names(&path), [""; 0]);
    }

    #[test]
    #[ignore = "needs root"]
    fn in_a_users_place_it_belongs_to_whom_it_shall() {
        let (_directory, path) = unprivileged_directory();
        make_directory(&path.join("own"), &unprivileged(0o700), "test").unwrap();
        make_directory(&path.join("roots"), &mine(0o755), "test").unwrap();
        assert_eq!(access(&path.join("own")), (0o700, UNPRIVILEGED, UNPRIVILEGED));
        assert_eq!(access(&path.join("roots")), (0o755, 0, 0));
    }
}
