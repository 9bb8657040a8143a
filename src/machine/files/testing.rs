//! What the tests of this directory share.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::*;

/// The user and group id of Debian's unprivileged user, who owns nothing.
pub(super) const UNPRIVILEGED: u32 = 65534;

/// A new directory, and its path without links.
pub(super) fn scratch() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    (directory, path)
}

/// A scratch directory of the unprivileged user.
pub(super) fn unprivileged_directory() -> (tempfile::TempDir, PathBuf) {
    let (directory, path) = scratch();
    std::os::unix::fs::chown(&path, Some(UNPRIVILEGED), Some(UNPRIVILEGED)).unwrap();
    (directory, path)
}

/// Attributes of a file of the user who runs the test.
pub(super) fn mine(mode: u32) -> Attributes {
    Attributes::new(mode, rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// Attributes of a file of the unprivileged user.
pub(super) fn unprivileged(mode: u32) -> Attributes {
    Attributes::new(mode, UNPRIVILEGED, UNPRIVILEGED)
}

/// Mode, owner and group.
pub(super) fn access(path: &Path) -> (u32, u32, u32) {
    let metadata = std::fs::symlink_metadata(path).unwrap();
    (metadata.permissions().mode() & 0o7777, metadata.uid(), metadata.gid())
}

/// The names in a directory.
pub(super) fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap_or_else(|_| "?".to_owned()))
        .collect();
    names.sort();
    names
}

/// The kind of the failure that this error carries.
pub(super) fn kind<T: std::fmt::Debug>(result: anyhow::Result<T>) -> &'static str {
    let error = result.expect_err("an error was expected");
    error.downcast_ref::<crate::failure::Failure>().map_or("none", |failure| failure.kind.as_str())
}
