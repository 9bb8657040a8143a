//! The directory of one captured command below the state directory.

use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rustix::mount::{MountFlags, UnmountFlags, unmount};

use crate::machine::files::remove_tree;

/// The directory in the state directory that holds those of all captured commands.
const NAME: &str = "captures";
/// The name of what is mounted in one of them.
const MEMORY: &str = "memory";

/// A directory for the layers of one command. It is locked as long as it is in use, and removed when dropped.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    /// Where it is in memory.
    memory: Option<PathBuf>,
    began: (i64, i64),
    _lock: File,
    /// The state directory, if it was made for this: what a preview makes, it removes.
    made_state: Option<PathBuf>,
}

impl Scratch {
    /// Makes one, and removes what killed runs left.
    pub(super) fn make(state: &Path) -> Result<Self> {
        let all = state.join(NAME);
        let made_state = make_private(state)?.then(|| state.to_owned());
        clear_leftovers(state)?;
        let pid = std::process::id();
        for number in 1..1000 {
            let path = all.join(format!("{pid}-{number}"));
            make_private(&all)?;
            match make_private(&path) {
                Ok(true) => {}
                // Another one that ended just now removed the directory of all.
                Ok(false) => continue,
                Err(_) if !all.exists() => continue,
                Err(error) => return Err(error),
            }
            let named = || format!("cannot open `{}`", path.display());
            let lock = File::open(&path).with_context(named)?;
            lock.lock().with_context(named)?;
            let metadata = lock.metadata().with_context(named)?;
            let began = (metadata.ctime(), metadata.ctime_nsec());
            return Ok(Self { path, memory: None, began, _lock: lock, made_state });
        }
        bail!("cannot name a directory for a captured command: no name is free in `{}`", all.display())
    }

    /// Where the layers go.
    pub(super) fn path(&self) -> &Path {
        self.memory.as_deref().unwrap_or(&self.path)
    }

    /// Has the layers go to memory, which is mounted until this is dropped.
    pub(super) fn move_to_memory(&mut self) -> Result<()> {
        let at = self.path.join(MEMORY);
        make_private(&at)?;
        rustix::mount::mount("none", &at, "tmpfs", MountFlags::NODEV, c"mode=0700")
            .with_context(|| format!("cannot mount a tmpfs at `{}`", at.display()))?;
        self.memory = Some(at);
        Ok(())
    }

    /// When it was made, by the clock of the file systems: seconds and nanoseconds.
    pub(super) fn began(&self) -> (i64, i64) {
        self.began
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is removed by the next one.
        if let Some(memory) = &self.memory {
            let _ = unmount(memory, UnmountFlags::DETACH);
        }
        let _ = std::fs::remove_dir_all(&self.path).or_else(|_| std::fs::remove_dir_all(&self.path));
        for directory in self.path.parent().into_iter().chain(self.made_state.as_deref()) {
            let _ = std::fs::remove_dir(directory);
        }
    }
}

/// Removes what the captured commands of killed runs left in a state directory.
pub fn clear_leftovers(state: &Path) -> Result<()> {
    let all = state.join(NAME);
    let named = || format!("cannot remove what killed runs left in `{}`", all.display());
    let entries = match std::fs::read_dir(&all) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(named)?,
    };
    for entry in entries {
        let path = entry.with_context(named)?.path();
        let Ok(directory) = File::open(&path) else { continue };
        match directory.try_lock() {
            Ok(()) => {
                // Nothing is mounted there unless it was on an overlay.
                let _ = unmount(path.join(MEMORY), UnmountFlags::DETACH);
                // Fine if its own command removed it just now.
                remove_tree(&path, None).with_context(named)?;
            }
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error).with_context(named),
        }
    }
    // It stays while another command is captured.
    let _ = std::fs::remove_dir(&all);
    Ok(())
}

/// Makes a directory that only root enters; false if it is there.
fn make_private(path: &Path) -> Result<bool> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot create `{}`", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_run_left_is_removed_and_what_is_in_use_stays() {
        let directory = tempfile::tempdir().unwrap();
        let left = directory.path().join(NAME).join("1-1");
        std::fs::create_dir_all(left.join("upper-0/deep")).unwrap();
        let one = Scratch::make(directory.path()).unwrap();
        assert!(!left.exists());
        std::fs::write(one.path().join("used"), "").unwrap();
        let other = Scratch::make(directory.path()).unwrap();
        assert!(one.path().join("used").exists() && one.path() != other.path());
        drop(other);
        drop(one);
        assert!(!directory.path().join(NAME).exists());
    }

    #[test]
    fn nothing_is_left_of_a_state_directory_that_was_made_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        drop(Scratch::make(&state).unwrap());
        assert!(!state.exists());
    }
}
