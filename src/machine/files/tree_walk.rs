//! Walks through a tree by the descriptors of its directories.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags, openat2, statx};
use rustix::io::Errno;

use super::failures::{failed, refused};

/// How deep directories may be nested: each of them is held open.
const DEEPEST: usize = 200;

/// Where a visitor goes after an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The entries inside it, if it is a directory.
    Enter,
    /// The entry after it.
    Pass,
}

/// A visited entry of a tree.
pub(crate) struct Entry<'walk> {
    /// Its directory.
    pub(crate) directory: BorrowedFd<'walk>,
    /// Its name there.
    pub(crate) name: &'walk OsStr,
    /// Its path from the root of the tree.
    pub(crate) relative: &'walk Path,
    /// Its whole path, for messages.
    pub(crate) shown: &'walk Path,
    /// Whether another file system is mounted on it.
    pub(crate) is_mount: bool,
}

/// Visits everything below `root`, each directory before what is in it, in the order of the names' bytes. No
/// link is followed and no other file system entered.
pub(crate) fn walk_tree(
    root: BorrowedFd<'_>,
    shown: &Path,
    visit: &mut dyn FnMut(&Entry<'_>) -> Result<Next>,
) -> Result<()> {
    walk_below(root, &mut PathBuf::new(), shown, 0, visit)
}

fn walk_below(
    directory: BorrowedFd<'_>,
    relative: &mut PathBuf,
    root: &Path,
    depth: usize,
    visit: &mut dyn FnMut(&Entry<'_>) -> Result<Next>,
) -> Result<()> {
    let here = root.join(&*relative);
    if depth > DEEPEST {
        return Err(refused(&here, "is nested too deeply"));
    }
    for name in sorted_names(directory, &here)? {
        relative.push(&name);
        let shown = root.join(&*relative);
        let is_mount = is_mount(directory, &name).map_err(|errno| failed("access", &shown, errno))?;
        let entry = Entry { directory, name: &name, relative, shown: &shown, is_mount };
        if visit(&entry)? == Next::Enter && !is_mount {
            match open_beneath(directory, Path::new(&name), OFlags::DIRECTORY | OFlags::NOFOLLOW) {
                Ok(inner) => walk_below(inner.as_fd(), relative, root, depth + 1, visit)?,
                // Not a directory, or not any more.
                Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => {}
                Err(errno) => return Err(failed("open the directory", &shown, errno)),
            }
        }
        relative.pop();
    }
    Ok(())
}

/// Whether something is mounted on an entry.
fn is_mount(directory: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<bool> {
    const ROOT: StatxAttributes = StatxAttributes::MOUNT_ROOT;
    match statx(directory, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, StatxFlags::TYPE) {
        Ok(found) if found.stx_attributes_mask.contains(ROOT) => Ok(found.stx_attributes.contains(ROOT)),
        // Linux before 5.8 does not say. To open it costs more.
        Ok(_) => match open_beneath(directory, Path::new(name), OFlags::PATH | OFlags::NOFOLLOW) {
            Err(Errno::XDEV) => Ok(true),
            Ok(_) | Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno),
        },
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// The names in a directory, sorted by their bytes.
pub(super) fn sorted_names(directory: BorrowedFd<'_>, shown: &Path) -> Result<Vec<OsString>> {
    let read = || {
        let mut names = Vec::new();
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        Ok(names)
    };
    let mut names: Vec<OsString> = read().map_err(|errno| failed("read the directory", shown, errno))?;
    names.sort();
    Ok(names)
}

/// Opens something below a directory without leaving it, by no link and on the same file system.
pub(super) fn open_beneath(
    directory: BorrowedFd<'_>,
    relative: &Path,
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    if !flags.contains(OFlags::PATH) {
        resolve |= ResolveFlags::NO_SYMLINKS;
    }
    let flags = flags | OFlags::CLOEXEC;
    openat2(directory, relative, flags, Mode::empty(), resolve)
}
