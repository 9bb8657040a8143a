//! The identity of a file: differs from any other file's, and changes with every modification.

use std::fs::File;

use rustix::fs::{Stat, fstat};

/// Differs from any other file's, and changes with every modification of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity {
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

    /// Whether an open file is this one, and at most renamed since.
    pub(super) fn is_but_renamed(&self, file: &File) -> bool {
        fstat(file).is_ok_and(|stat| Self { changed: self.changed, ..Self::of(&stat) } == *self)
    }
}

/// A field of `stat`, whose width depends on the architecture.
pub(super) fn field<N: Default>(field: impl TryInto<N>) -> N {
    field.try_into().unwrap_or_default()
}
