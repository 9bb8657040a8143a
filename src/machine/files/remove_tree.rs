//! Removes a whole tree.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use anyhow::Result;
use rustix::fs::{AtFlags, Mode, OFlags, fchmod, fstat, statat, unlinkat};
use rustix::io::Errno;

use super::credentials::is_root;
use super::failures::{conflict, failed, refused};
use super::place::{Place, Walk};
use super::tree_walk::{open_beneath, sorted_names};
use crate::machine::mount;

/// How often a directory is emptied while others keep filling it.
const MOST_ATTEMPTS: usize = 5;
/// How deep directories may be nested: each of them is held open.
const DEEPEST: usize = 200;

/// The device and inode of what is at a path; none if absent. A link is not followed.
pub fn identity(path: &Path) -> Result<Option<(u64, u64)>> {
    let walk = Walk::to(path)?;
    let Some(directory) = walk.directory() else { return Ok(None) };
    match statat(directory, walk.name(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some((stat.st_dev, stat.st_ino))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(failed("access", path, errno)),
    }
}

/// Removes the directory `path` and all that is in it, if it is the one of this device and inode. Fine if it is absent.
/// No link is followed and no other file system entered; another call completes an interrupted removal.
///
/// # Errors
/// `conflict` when another directory is there; `busy` when something is mounted inside, and then nothing is
/// removed; otherwise as [`super::replace()`].
pub fn remove_tree(path: &Path, expected: Option<(u64, u64)>) -> Result<()> {
    let walk = Walk::to(path)?;
    if walk.directory().is_none() {
        return Ok(());
    }
    let place = Place::open(path)?;
    mount::refuse_within([&place.path])?;
    remove_at(place.directory(), &place.name, &place.path, expected)?;
    place.sync()
}

/// The same by the descriptor of its directory, not synced.
pub(super) fn remove_at(
    above: BorrowedFd<'_>,
    name: &OsStr,
    shown: &Path,
    expected: Option<(u64, u64)>,
) -> Result<()> {
    empty(above, name, shown, expected, 0)
}

fn empty(
    above: BorrowedFd<'_>,
    name: &OsStr,
    shown: &Path,
    expected: Option<(u64, u64)>,
    depth: usize,
) -> Result<()> {
    if depth > DEEPEST {
        return Err(refused(shown, "is nested too deeply"));
    }
    for _ in 0..MOST_ATTEMPTS {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let directory = match open_beneath(above, Path::new(name), flags) {
            Ok(directory) => directory,
            Err(Errno::NOENT) => return Ok(()),
            Err(Errno::XDEV) => return Err(failed("remove", shown, Errno::BUSY)),
            Err(errno) => return Err(failed("remove the directory", shown, errno)),
        };
        let stat = fstat(&directory).map_err(|errno| failed("access", shown, errno))?;
        if expected.is_some_and(|expected| expected != (stat.st_dev, stat.st_ino)) {
            return Err(conflict(shown, &["it is another directory now".to_owned()]));
        }
        // A directory that its owner may not write: no obstacle for root, but for other users.
        if !is_root() && stat.st_mode & 0o300 != 0o300 {
            fchmod(&directory, Mode::from_raw_mode(0o700))
                .map_err(|errno| failed("make writable", shown, errno))?;
        }
        for inner in sorted_names(directory.as_fd(), shown)? {
            let path = shown.join(&inner);
            match unlinkat(&directory, &inner, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR) => empty(directory.as_fd(), &inner, &path, None, depth + 1)?,
                Err(errno) => return Err(failed("remove", &path, errno)),
            }
        }
        match unlinkat(above, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY) => {}
            Err(errno) => return Err(failed("remove the directory", shown, errno)),
        }
    }
    Err(failed("remove the directory", shown, Errno::NOTEMPTY))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::machine::files::testing::*;

    #[test]
    fn all_goes_but_what_links_lead_to() {
        let (_directory, path) = scratch();
        std::fs::create_dir_all(path.join("tree/a/b")).unwrap();
        std::fs::create_dir(path.join("outside")).unwrap();
        std::fs::write(path.join("outside/file"), "").unwrap();
        std::fs::write(path.join("tree/a/b/file"), "").unwrap();
        symlink("../../outside", path.join("tree/a/link")).unwrap();
        let other = identity(&path.join("outside")).unwrap();
        assert_eq!(kind(remove_tree(&path.join("tree"), other)), "conflict");
        remove_tree(&path.join("tree"), identity(&path.join("tree")).unwrap()).unwrap();
        remove_tree(&path.join("tree"), None).unwrap();
        remove_tree(&path.join("none/below"), None).unwrap();
        assert_eq!(names(&path), ["outside"]);
        assert_eq!(names(&path.join("outside")), ["file"]);
        symlink("outside", path.join("link")).unwrap();
        assert!(remove_tree(&path.join("link"), None).is_err());
        assert_eq!(names(&path.join("outside")), ["file"]);
    }
}
