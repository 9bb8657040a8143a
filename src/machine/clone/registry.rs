//! The record of what a rehearsal makes on this machine, so that the next one can remove what a killed one left.

use std::fs::{File, TryLockError};
use std::io::{Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::{cgroup, container, network};
use crate::machine::mount;

/// What one rehearsal made outside its clone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// The directory that holds everything of it on disk.
    pub scratch: PathBuf,
    /// What is mounted, in the order in which it was.
    pub mounts: Vec<PathBuf>,
    /// The network namespace.
    pub network: Option<String>,
    /// The control groups.
    pub control_groups: Vec<PathBuf>,
    /// The processes: those whose end ends others first.
    pub processes: Vec<Process>,
    /// Whether it was asked to stay.
    pub kept: bool,
}

/// A process that can be reported from a later one of the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub start: u64,
}

impl Process {
    /// The process that has this number now, if one has.
    pub fn of(pid: u32) -> Option<Self> {
        start_time(pid).map(|start| Self { pid, start })
    }

    fn lives(self) -> bool {
        start_time(self.pid) == Some(self.start)
    }
}

/// Field 22 of the process's state; a zombie has ended. Source: proc_pid_stat(5).
fn start_time(pid: u32) -> Option<u64> {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = state.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// A record that belongs to a living rehearsal as long as this value lives.
#[derive(Debug)]
pub struct Record {
    /// The rehearsal's name, unique on this machine.
    pub name: String,
    /// What it made so far.
    pub made: Made,
    path: PathBuf,
    file: File,
}

impl Record {
    /// Removes what killed rehearsals left and opens a record with a scratch directory of its own. `scratch` is
    /// the directory that holds those of all rehearsals. Gives also the names of what it removed.
    pub fn open(records: &Path, scratch: &Path) -> Result<(Self, Vec<String>)> {
        make_private_directory(records)?;
        make_private_directory(scratch)?;
        let directory =
            File::open(records).with_context(|| format!("cannot open `{}`", records.display()))?;
        // Held while old ones are judged and the new one is not yet locked.
        directory.lock().with_context(|| format!("cannot lock `{}`", records.display()))?;
        let removed = remove_leftovers(records, scratch)?;
        let record = Self::create(records, scratch)?;
        Ok((record, removed))
    }

    fn create(records: &Path, scratch: &Path) -> Result<Self> {
        let pid = std::process::id();
        for number in 1..1000 {
            let name = if number == 1 { format!("kkrun-{pid}") } else { format!("kkrun-{pid}-{number}") };
            let path = records.join(&name);
            let file = match File::options().read(true).write(true).create_new(true).mode(0o600).open(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                opened => opened.with_context(|| format!("cannot create `{}`", path.display()))?,
            };
            file.lock().with_context(|| format!("cannot lock `{}`", path.display()))?;
            let own = scratch.join(&name);
            let mut record =
                Self { name, made: Made { scratch: own.clone(), ..Made::default() }, path, file };
            record.save()?;
            make_private_directory(&own)?;
            return Ok(record);
        }
        bail!("there is no free name for a rehearsal in `{}`", records.display());
    }

    /// Writes down what was made so far.
    pub fn save(&mut self) -> Result<()> {
        let text = serde_json::to_vec(&self.made).context("cannot write down what the rehearsal made")?;
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(&text)
        };
        write(&mut self.file).with_context(|| format!("cannot write `{}`", self.path.display()))
    }

    /// Where the record lies.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // What could not be removed stays written down: the next rehearsal tries again.
        if !self.made.kept && remove_directory(&self.made.scratch).is_ok() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn remove_leftovers(records: &Path, scratch: &Path) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    for name in names(records)? {
        let path = records.join(&name);
        let Ok(file) = File::open(&path) else { continue };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => continue,
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock `{}`", path.display()));
            }
        }
        let text = std::fs::read(&path).unwrap_or_default();
        // An empty record is one that was killed before it made anything.
        let made: Made = serde_json::from_slice(&text).unwrap_or_default();
        if made.kept {
            continue;
        }
        remove(&made).with_context(|| format!("cannot remove what the killed rehearsal `{name}` left"))?;
        std::fs::remove_file(&path).with_context(|| format!("cannot remove `{}`", path.display()))?;
        removed.push(name);
    }
    // Records are lost when the machine restarts; what lies on disk is not.
    for name in names(scratch)? {
        if !records.join(&name).exists() {
            let path = scratch.join(&name);
            remove_directory(&path)?;
            removed.push(name);
        }
    }
    Ok(removed)
}

fn remove(made: &Made) -> Result<()> {
    for process in &made.processes {
        if process.lives() {
            container::kill(process.pid);
        }
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while made.processes.iter().any(|process| process.lives()) {
        if Instant::now() > deadline {
            bail!("its processes do not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let mounted = mount::mounted()?;
    for path in made.mounts.iter().rev() {
        if mounted.iter().any(|mount| mount.path == *path) {
            mount::unmount(path);
        }
    }
    if let Some(network) = &made.network {
        network::remove(network);
    }
    made.control_groups.iter().for_each(|group| cgroup::remove(group));
    if made.scratch.as_os_str().is_empty() { Ok(()) } else { remove_directory(&made.scratch) }
}

/// Removes a directory with everything in it, but never through something that is still mounted there.
fn remove_directory(path: &Path) -> Result<()> {
    if let Some(mount) = mount::mounted()?.into_iter().find(|mount| mount.path.starts_with(path)) {
        bail!("`{}` is still mounted", mount.path.display());
    }
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove `{}`", path.display()))
        }
        _ => Ok(()),
    }
}

fn names(directory: &Path) -> Result<Vec<String>> {
    let unreadable = || format!("cannot read the directory `{}`", directory.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).with_context(unreadable)? {
        names.extend(entry.with_context(unreadable)?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// Makes a directory that only its owner may enter, or checks that it is one.
fn make_private_directory(path: &Path) -> Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("cannot make `{}`", parent.display()))?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        made => return made.with_context(|| format!("cannot make `{}`", path.display())),
    }
    let found =
        std::fs::symlink_metadata(path).with_context(|| format!("cannot look at `{}`", path.display()))?;
    let mine = std::os::unix::fs::MetadataExt::uid(&found) == rustix::process::geteuid().as_raw();
    if !found.is_dir() || !mine || found.permissions().mode() & 0o077 != 0 {
        bail!("`{}` is there but not a directory that only its owner may enter", path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Places {
        root: tempfile::TempDir,
    }

    impl Places {
        fn new() -> Self {
            Self { root: tempfile::tempdir().unwrap() }
        }

        fn open(&self) -> (Record, Vec<String>) {
            Record::open(&self.root.path().join("records"), &self.root.path().join("scratch")).unwrap()
        }
    }

    #[test]
    fn a_record_that_ends_takes_its_scratch_with_it() {
        let places = Places::new();
        let (record, removed) = places.open();
        assert!(removed.is_empty());
        let (path, scratch) = (record.path().to_owned(), record.made.scratch.clone());
        std::fs::write(scratch.join("file"), "text").unwrap();
        drop(record);
        assert_eq!((path.exists(), scratch.exists()), (false, false));
    }

    #[test]
    fn what_a_living_rehearsal_made_is_left_alone() {
        let places = Places::new();
        let (first, _) = places.open();
        let (second, removed) = places.open();
        assert!(removed.is_empty());
        assert_ne!(first.name, second.name);
        assert!(first.made.scratch.is_dir());
    }

    #[test]
    fn what_a_killed_rehearsal_left_is_removed_by_the_next() {
        let places = Places::new();
        let (record, _) = places.open();
        let (name, path, scratch) =
            (record.name.clone(), record.path().to_owned(), record.made.scratch.clone());
        let text = std::fs::read(&path).unwrap();
        drop(record);
        std::fs::create_dir(&scratch).unwrap();
        std::fs::write(&path, text).unwrap();
        let (_record, removed) = places.open();
        assert_eq!(removed, [name]);
    }

    #[test]
    fn what_was_asked_to_stay_stays() {
        let places = Places::new();
        let (mut record, _) = places.open();
        let scratch = record.made.scratch.clone();
        record.made.kept = true;
        record.save().unwrap();
        drop(record);
        let (_record, removed) = places.open();
        assert!(removed.is_empty());
        assert!(scratch.is_dir());
    }

    #[test]
    fn a_scratch_directory_without_a_record_is_removed() {
        let places = Places::new();
        drop(places.open());
        std::fs::create_dir(places.root.path().join("scratch/kkrun-1")).unwrap();
        let (_record, removed) = places.open();
        assert_eq!(removed, ["kkrun-1"]);
    }

    #[test]
    fn this_process_lives_and_has_a_start() {
        let own = Process::of(std::process::id()).unwrap();
        assert!(own.lives() && own.start > 0);
        assert!(!Process { start: own.start + 1, ..own }.lives());
    }
}
