//! Control groups for a container: one of its own to start in, and one inside it for those who enter.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// A control group in each hierarchy that a service manager works with; removed when dropped.
#[derive(Debug)]
pub struct ControlGroup {
    directories: Vec<PathBuf>,
    keep: bool,
}

impl ControlGroup {
    /// Makes one of this name below the groups this process is in.
    pub fn create(name: &str) -> Result<Self> {
        let mut group = Self { directories: Vec::new(), keep: false };
        for parent in own_directories()? {
            let directory = parent.join(name);
            std::fs::create_dir(&directory)
                .with_context(|| format!("cannot make the control group `{}`", directory.display()))?;
            group.directories.push(directory);
        }
        Ok(group)
    }

    /// The directories that stand for it.
    pub fn directories(&self) -> &[PathBuf] {
        &self.directories
    }

    /// Leaves it when dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// What a process writes `0` to, to be in this group.
    pub(super) fn doors(&self) -> Result<Vec<File>> {
        self.directories.iter().map(|directory| door(directory)).collect()
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        if !self.keep {
            self.directories.iter().for_each(|directory| remove(directory));
        }
    }
}

/// Removes a control group with those below it, as far as they are empty of processes.
pub fn remove(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    // Processes that were killed a moment ago may still be counted.
    for _ in 0..50 {
        match std::fs::remove_dir(directory) {
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            _ => return,
        }
    }
}

/// The door to the group of a service inside the container whose first process is given, so that whoever enters is
/// seen by its service manager as one of that service. None where that cannot be.
pub(super) fn door_into(leader: u32, service: &str) -> Option<File> {
    let groups = std::fs::read_to_string(format!("/proc/{leader}/cgroup")).ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let root = unified_mount()?.join(Path::new(path).parent()?);
    door(&root.join("system.slice").join(service)).ok()
}

/// Puts the calling process into the group behind a door. Fit for the moment between fork and exec.
pub(super) fn enter(mut door: &File) -> std::io::Result<()> {
    door.write_all(b"0")
}

fn door(directory: &Path) -> Result<File> {
    let path = directory.join("cgroup.procs");
    File::options().write(true).open(&path).with_context(|| format!("cannot write `{}`", path.display()))
}

fn unified_mount() -> Option<PathBuf> {
    let mounts = crate::machine::mount::mounted().ok()?;
    mounts.into_iter().find(|mount| mount.file_system == "cgroup2").map(|mount| mount.path)
}

/// Where this process is in the unified hierarchy and in the one named after systemd. Source: cgroups(7).
fn own_directories() -> Result<Vec<PathBuf>> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").context("cannot read `/proc/self/cgroup`")?;
    let named = Path::new("/sys/fs/cgroup/systemd");
    Ok(groups
        .lines()
        .filter_map(|line| {
            let (root, path) = match line.strip_prefix("0::/") {
                Some(path) => (unified_mount()?, path),
                None => (named.to_owned(), line.split_once(":name=systemd:/")?.1),
            };
            Some(root.join(path)).filter(|directory| directory.is_dir())
        })
        .collect())
}
