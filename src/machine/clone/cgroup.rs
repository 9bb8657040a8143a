//! Control groups for a container: its own, in which it starts, and one inside it for processes that enter.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal};

/// The hierarchy named after systemd, where there is one.
const NAMED: &str = "/sys/fs/cgroup/systemd";

/// A control group in each hierarchy that a service manager works with; removed when dropped.
#[derive(Debug)]
pub struct ControlGroup {
    directories: Vec<PathBuf>,
    scope: Option<String>,
    keep: bool,
}

impl ControlGroup {
    /// One of this name: that of a scope where a service manager runs, which makes it when something starts in it;
    /// else one below the groups this process is in.
    pub fn create(name: &str) -> Result<Self> {
        if Path::new("/run/systemd/system").is_dir() {
            let scope = format!("{name}.scope");
            let hierarchies = unified_mount().into_iter().chain([NAMED.into()]);
            let directories = hierarchies.map(|root| root.join("system.slice").join(&scope)).collect();
            return Ok(Self { directories, scope: Some(scope), keep: false });
        }
        let mut group = Self { directories: Vec::new(), scope: None, keep: false };
        for parent in own_directories()? {
            let directory = parent.join(name);
            std::fs::create_dir(&directory)
                .with_context(|| format!("cannot create the control group `{}`", directory.display()))?;
            group.directories.push(directory);
        }
        Ok(group)
    }

    /// Its directories.
    pub fn directories(&self) -> &[PathBuf] {
        &self.directories
    }

    /// The unit whose group it is, if a service manager makes it.
    pub(super) fn scope(&self) -> Option<&str> {
        self.scope.as_deref()
    }

    /// Leaves it when dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// What a process writes `0` to, to be in this group.
    pub(super) fn doors(&self) -> Result<Vec<File>> {
        let own = self.directories.iter().filter(|_| self.scope.is_none());
        own.map(|directory| door(directory)).collect()
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        if !self.keep {
            // What is still in it is ended by the next rehearsal.
            let _ = end(&self.directories, Duration::from_secs(5));
            self.directories.iter().for_each(|directory| remove(directory));
        }
    }
}

/// Ends every process in these groups and those below them. An error if some are still there after so long.
pub fn end(directories: &[PathBuf], within: Duration) -> Result<()> {
    let deadline = Instant::now() + within;
    loop {
        let members: BTreeSet<u32> = directories.iter().flat_map(|directory| members(directory)).collect();
        if members.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("its processes do not end after SIGKILL: {members:?}");
        }
        members.into_iter().for_each(kill);
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Sends KILL to a process, if it is still there.
pub fn kill(process: u32) {
    if let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

/// The processes in a group and those below it. None where there is no such group.
fn members(directory: &Path) -> Vec<u32> {
    let list = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    let mut found: Vec<u32> = list.lines().filter_map(|line| line.parse().ok()).collect();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(members(&entry.path()));
        }
    }
    // 0 is a process of a namespace that is not visible from here.
    found.retain(|pid| *pid != 0);
    found
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

/// The file through which a process enters the group of a service inside the container whose first process is given, so
/// that its service manager counts the process to that service. `None` if there is none.
pub(super) fn door_into(leader: u32, service: &str) -> Option<File> {
    let groups = std::fs::read_to_string(format!("/proc/{leader}/cgroup")).ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let root = unified_mount()?.join(Path::new(path).parent()?);
    door(&root.join("system.slice").join(service)).ok()
}

/// Puts the calling process into the group of such a file. Fit for the moment between fork and exec.
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
    Ok(groups
        .lines()
        .filter_map(|line| {
            let (root, path) = match line.strip_prefix("0::/") {
                Some(path) => (unified_mount()?, path),
                None => (NAMED.into(), line.split_once(":name=systemd:/")?.1),
            };
            Some(root.join(path)).filter(|directory| directory.is_dir())
        })
        .collect())
}
