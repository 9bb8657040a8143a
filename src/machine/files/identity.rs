//! The identity of a file: differs from any other file's, and changes with every modification.

use std::fs::File;

use std::path::Path;

use rustix::fs::{FileType, Stat, fstat, lstat};
use serde::{Deserialize, Serialize};

use super::dating::{self, Moment};

/// Differs from any other file's, and changes with every modification of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    device: u64,
    pub(super) inode: u64,
    pub(super) size: i64,
    pub(super) modified: (i64, i64),
    pub(super) changed: (i64, i64),
    /// How many names it has.
    pub(super) links: u64,
}

impl Identity {
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size,
            modified: (stat.st_mtime, field(stat.st_mtime_nsec)),
            changed: (stat.st_ctime, field(stat.st_ctime_nsec)),
            links: field(stat.st_nlink),
        }
    }

    /// That of an open file, if every later modification of it shows there: not while it may be modified in the very tick
    /// of the clock that it is dated with, nor on a file system that dates by another clock.
    pub fn settled(file: &File) -> Option<Self> {
        let identity = Self::of(&fstat(file).ok()?);
        let now = Moment::now();
        let is_past = now.is_after(identity.modified) && now.is_after(identity.changed);
        (is_past && dating::is_local(file)).then_some(identity)
    }

    /// Whether the regular file at a path is this one, unmodified: content, owner and mode.
    pub fn is_at(&self, path: &Path) -> bool {
        lstat(path).is_ok_and(|stat| {
            FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && Self::of(&stat) == *self
        })
    }

    /// Whether an open file is this one, and at most renamed since.
    pub(super) fn is_but_renamed(&self, file: &File) -> bool {
        fstat(file).is_ok_and(|stat| Self { changed: self.changed, ..Self::of(&stat) } == *self)
    }
}

/// A field of `stat`, whose width depends on the architecture.
pub(super) fn field<N: Default>(field: impl TryInto<N>) -> N {
    field.try_into().unwrap_or_default()
}
