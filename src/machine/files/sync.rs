//! Makes durable what commands wrote.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use anyhow::Result;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, fsync, openat, statat};
use rustix::io::Errno;

use super::failures::failed;
use super::manifest::open_root;
use super::place::Walk;
use super::tree_walk::{Next, walk_tree};

/// How many entries are synced one by one: to sync more of them costs more than to sync all that there is.
const MOST: usize = 1000;

/// Writes everything that any process has written to any file system to its disk, and waits for it: only the kernel
/// knows what a command wrote, and where. The kernel reports no error here. Source: sync(2).
pub fn sync_all() {
    rustix::fs::sync();
}

/// Makes the tree, file or link at `root` durable, with its name; of an absent one that it is absent. Where the entries
/// cannot be synced one by one, because they are many, not readable, or on another file system, everything is synced.
///
/// The directories above are not: those that a command has made on its way were made before, and file systems write
/// their metadata in that order.
///
/// # Errors
/// When the disk refuses to take it.
pub fn sync_tree(root: &Path) -> Result<()> {
    let walk = Walk::to(root)?;
    let Some(above) = walk.directory() else { return Ok(()) };
    let (mut left, mut is_whole) = (MOST, sync_entry(above, walk.name(), root)? != Synced::Not);
    if let Some(directory) = open_root(root).ok().flatten() {
        let walked = walk_tree(directory.as_fd(), root, &mut |entry| {
            left = left.saturating_sub(1);
            let synced = if left == 0 || entry.is_mount {
                Synced::Not
            } else {
                sync_entry(entry.directory, entry.name, entry.shown)?
            };
            is_whole &= synced != Synced::Not;
            Ok(if synced == Synced::Directory { Next::Enter } else { Next::Pass })
        });
        walked?;
    }
    let here = rustix::fs::openat(above, ".", DIRECTORY, Mode::empty());
    match here.and_then(fsync) {
        Err(errno) if !is_unreadable(errno) => return Err(failed("sync the directory of", root, errno)),
        synced => is_whole &= synced.is_ok(),
    }
    if !is_whole {
        sync_all();
    }
    Ok(())
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Synced {
    Directory,
    /// A file; or what its directory holds, such as a link.
    Other,
    Not,
}

fn sync_entry(directory: BorrowedFd<'_>, name: &OsStr, shown: &Path) -> Result<Synced> {
    let kind = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => FileType::from_raw_mode(stat.st_mode),
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Synced::Other),
        Err(errno) => return Err(failed("access", shown, errno)),
    };
    let (flags, synced) = match kind {
        FileType::Directory => (DIRECTORY, Synced::Directory),
        FileType::RegularFile => {
            let never_waits = OFlags::NONBLOCK | OFlags::NOCTTY;
            (OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | never_waits, Synced::Other)
        }
        _ => return Ok(Synced::Other),
    };
    match openat(directory, name, flags, Mode::empty()).and_then(fsync) {
        Ok(()) => Ok(synced),
        Err(errno) if is_unreadable(errno) => Ok(Synced::Not),
        Err(errno) => Err(failed("sync", shown, errno)),
    }
}

/// Whether an entry is gone or changed by now, or not for this user: nothing was refused by the disk.
fn is_unreadable(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ACCESS | Errno::PERM | Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::INVAL
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::machine::files::testing::*;

    #[test]
    fn whatever_is_at_a_path_is_synced_and_what_is_absent_is_no_error() {
        let (_directory, path) = scratch();
        std::fs::create_dir_all(path.join("tree/inner")).unwrap();
        std::fs::write(path.join("tree/inner/file"), "x").unwrap();
        symlink("nowhere", path.join("tree/link")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, path.join("tree/fifo"), Mode::from_raw_mode(0o600)).unwrap();
        for name in ["tree", "tree/inner/file", "tree/link", "tree/fifo", "none", "none/below"] {
            sync_tree(&path.join(name)).unwrap();
        }
    }
}
