//! Gives a file another name.

use std::path::Path;

use anyhow::Result;
use rustix::fs::{AtFlags, linkat};

use super::failures::failed;
use super::file_state::FileState;
use super::place::Place;
use super::remove::remove_syncing;
use super::together::Syncing;

/// Makes `path` a name of the file `of`, synced as `syncing` says. A file or link that is there is removed first.
///
/// # Errors
/// As [`super::replace()`]; `crossdevice` when the two are in different file systems.
pub(super) fn hard_link(of: &Path, path: &Path, tag: &str, syncing: Syncing<'_>) -> Result<()> {
    remove_syncing(path, &FileState::observe(path)?, tag, syncing)?;
    let (from, to) = (Place::open(of)?, Place::open(path)?);
    // The owner of the directory need not own the file.
    to.acting(
        |_| false,
        || {
            linkat(from.directory(), &from.name, to.directory(), &to.name, AtFlags::empty())
                .map_err(|errno| failed("create the hard link", &to.path, errno))
        },
    )?;
    syncing.settle(&to)
}
