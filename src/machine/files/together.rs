//! Syncs of many changes at once: each file system once instead of each file and each directory.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::Result;
use rustix::fs::{fstat, syncfs};

use super::failures::failed;
use super::place::Place;

/// Up to how many entries are synced one by one. Beyond that, one sync of the whole file system is faster.
pub(super) const SYNCED_SINGLY: usize = 64;

/// The file systems in which something is to be synced.
#[derive(Default)]
pub(super) struct Together(RefCell<BTreeMap<u64, OwnedFd>>);

/// When the names and attributes that were changed in a directory are made durable. The content of a file is durable before
/// the file gets its name, whatever this says.
#[derive(Clone, Copy)]
pub(super) enum Syncing<'a> {
    /// At once.
    Now,
    /// With all others. Until then a loss of power takes any of them: each entry is found as it was or as it was to be,
    /// and what undoing needs is durable before the first of them.
    Together(&'a Together),
}

impl Syncing<'_> {
    /// Syncs the directory of a place, or notes that it has to be.
    pub(super) fn settle(self, place: &Place) -> Result<()> {
        match self {
            Self::Now => place.sync(),
            Self::Together(together) => together.note(place),
        }
    }
}

impl Together {
    /// Notes that something was, or will be, changed in the directory of this place. Its descriptor is older than the
    /// change: so the sync reports an error of a write that the kernel did meanwhile.
    pub(super) fn note(&self, place: &Place) -> Result<()> {
        let unread = |errno| failed("access the directory of", &place.path, errno);
        let device = fstat(place.directory()).map_err(unread)?.st_dev;
        let mut noted = self.0.borrow_mut();
        if let std::collections::btree_map::Entry::Vacant(new) = noted.entry(device) {
            let directory = place.directory().try_clone_to_owned();
            new.insert(directory.map_err(|error| super::failures::failed_io("open", &place.path, &error))?);
        }
        Ok(())
    }

    /// Notes the file system of a directory that was opened earlier than what is changed there.
    pub(super) fn note_older(&self, directory: BorrowedFd<'_>, shown: &Path) -> Result<()> {
        let device = fstat(directory).map_err(|errno| failed("access", shown, errno))?.st_dev;
        let older = directory.try_clone_to_owned();
        let older = older.map_err(|error| super::failures::failed_io("open", shown, &error))?;
        self.0.borrow_mut().insert(device, older);
        Ok(())
    }

    /// Syncs the file systems of all that was noted.
    pub(super) fn sync(&self, shown: &Path) -> Result<()> {
        for directory in self.0.borrow().values() {
            syncfs(directory).map_err(|errno| failed("sync the file system of", shown, errno))?;
        }
        Ok(())
    }
}
