//! The digests of files that were read by this process and have not changed since: a file is observed many times during
//! a change, and read once.
//!
//! A write sets a file's times to the kernel's coarse clock. So a file whose time of modification lay before that
//! clock's tick when it began to be read shows by its times whether it was written since; one that was written in that
//! very tick does not, and is read again. What else can be there under the same inode number has another time of
//! change, which no process can choose.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, fstat, statat};

use super::dating::{Moment, is_local};
use super::digest::Digest;
use super::identity::Identity;

/// How many files are remembered: a tree of more is read again rather than kept in memory.
const MOST: usize = 1 << 15;

static KNOWN: Mutex<Option<HashMap<Identity, Digest>>> = Mutex::new(None);

/// The digest of an open file, if it is known to be unchanged since it was read.
pub(super) fn digest(file: &File) -> Option<(Digest, u64)> {
    let identity = Identity::of(&fstat(file).ok()?);
    let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let digest = *known.as_ref()?.get(&identity)?;
    Some((digest, u64::try_from(identity.size).ok()?))
}

/// Remembers the digest of an open file that was `identity` when it was read; the read began after `since`.
pub(super) fn remember(file: impl AsFd, identity: &Identity, since: Moment, digest: Digest) {
    if !since.is_after(identity.modified) || !is_local(file) {
        return;
    }
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_default();
    if known.len() >= MOST {
        known.clear();
    }
    known.insert(*identity, digest);
}

/// A file that this process has written, on its way to its name: a rename is the last call that changes its times.
pub(super) struct Written {
    since: Moment,
    inode: u64,
    modified: (i64, i64),
}

impl Written {
    /// Everything is written, and the file has no name yet that others use.
    pub(super) fn completely(file: &File) -> Option<Self> {
        let Identity { inode, modified, .. } = Identity::of(&fstat(file).ok()?);
        Some(Self { since: Moment::now(), inode, modified })
    }

    /// It has its name: its content is known unless it was written to since.
    pub(super) fn remember(self, file: &File, digest: Digest) {
        let Ok(stat) = fstat(file) else { return };
        let identity = Identity::of(&stat);
        if identity.modified == self.modified {
            remember(file, &identity, self.since, digest);
        }
    }

    /// The same by the directory and the name.
    pub(super) fn remember_at(self, directory: BorrowedFd<'_>, name: &OsStr, digest: Digest) {
        let Ok(stat) = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else { return };
        let identity = Identity::of(&stat);
        if (identity.inode, identity.modified) == (self.inode, self.modified) {
            remember(directory, &identity, self.since, digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::files::FileState;
    use crate::machine::files::testing::*;

    fn aged(path: &std::path::Path) {
        let old = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
        File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
    }

    #[test]
    fn what_is_unchanged_is_known_and_any_change_is_seen() {
        let (_directory, path) = scratch();
        let at = path.join("file");
        std::fs::write(&at, "one").unwrap();
        aged(&at);
        let opened = File::open(&at).unwrap();
        assert_eq!(digest(&opened), None);
        FileState::observe(&at).unwrap();
        assert_eq!(digest(&opened), Some((Digest::of(b"one"), 3)));
        std::fs::write(&at, "two").unwrap();
        assert_eq!(digest(&opened), None);
        aged(&at);
        assert_eq!(digest(&opened), None, "the time of change tells");
        assert_eq!(FileState::observe(&at).unwrap().sha256(), Some(Digest::of(b"two")));
        std::fs::rename(&at, path.join("moved")).unwrap();
        std::fs::write(&at, "six").unwrap();
        assert_eq!(FileState::observe(&at).unwrap().sha256(), Some(Digest::of(b"six")));
    }

    #[test]
    fn of_quick_writes_none_is_missed() {
        let (_directory, path) = scratch();
        let at = path.join("file");
        for number in 0..2000_u32 {
            std::fs::write(&at, number.to_le_bytes()).unwrap();
            let seen = FileState::observe(&at).unwrap().sha256();
            assert_eq!(seen, Some(Digest::of(&number.to_le_bytes())), "{number}");
        }
    }
}
