//! The record of what a rehearsal creates on this machine, so that the next one can remove the leftovers of a killed
//! one.

use std::fs::{File, TryLockError};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::{cgroup, container, network};
use crate::exit_code::ExitCode;
use crate::failure::{Failure, FailureKind};
use crate::machine::{mount, process, trusted};

/// What one rehearsal made outside its clone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// The rehearsal itself.
    #[serde(default)]
    pub runner: Option<Process>,
    /// The directory that holds everything of it on disk.
    pub scratch: PathBuf,
    /// What is mounted, in the order in which it was.
    pub mounts: Vec<PathBuf>,
    /// The network namespace.
    pub network: Option<String>,
    /// The control groups.
    pub control_groups: Vec<PathBuf>,
    /// The processes; one whose end ends others comes first.
    pub processes: Vec<Process>,
    /// What systemd-nspawn leaves outside of the container if it is killed.
    #[serde(default)]
    pub outside: Vec<PathBuf>,
    /// Whether it was asked to stay.
    pub kept: bool,
}

/// A process, distinguishable from a later one with the same number.
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
        let process = process::Process::by_pid(pid).filter(|process| !process.has_ended())?;
        Some(Self { pid, start: process.start })
    }

    fn lives(self) -> bool {
        process::Process::living(self.pid, self.start).is_some()
    }
}

/// How the names of rehearsals begin; a number follows, and perhaps another. Anything named differently in the
/// directories of records and of scratch belongs to the operator.
const NAME: &str = "kkrun-";

/// The record of a rehearsal, which counts as alive as long as this value. The file grows by a line each time that
/// something is made, so that a kill in the middle of writing loses nothing of what was written before.
#[derive(Debug)]
pub struct Record {
    /// The rehearsal's name, unique on this machine.
    pub name: String,
    /// What it made so far.
    pub made: Made,
    path: PathBuf,
    file: File,
    /// Locked, so that a rehearsal that does not see the record (its `/run` is another) knows that it lives.
    _scratch: File,
}

impl Record {
    /// Removes what killed rehearsals left and opens a record with a scratch directory of its own. `scratch` is the
    /// directory that holds those of all rehearsals. Also returns the names of the removed ones.
    pub fn open(records: &Path, scratch: &Path) -> Result<(Self, Vec<String>)> {
        make_private_directory(records)?;
        make_private_directory(scratch)?;
        let directory =
            File::open(records).with_context(|| format!("cannot open `{}`", records.display()))?;
        // Held while old records are judged, until the new one is locked.
        directory.lock().with_context(|| format!("cannot lock `{}`", records.display()))?;
        let removed = remove_leftovers(records, scratch)?;
        let record = Self::create(records, scratch)?;
        Ok((record, removed))
    }

    fn create(records: &Path, scratch: &Path) -> Result<Self> {
        let pid = std::process::id();
        for number in 1..1000 {
            let name = if number == 1 { format!("{NAME}{pid}") } else { format!("{NAME}{pid}-{number}") };
            let (path, own) = (records.join(&name), scratch.join(&name));
            if std::fs::symlink_metadata(&own).is_ok() {
                continue;
            }
            let file = match File::options().append(true).create_new(true).mode(0o600).open(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                opened => opened.with_context(|| format!("cannot create `{}`", path.display()))?,
            };
            file.lock().with_context(|| format!("cannot lock `{}`", path.display()))?;
            make_private_directory(&own)?;
            let held = File::open(&own).with_context(|| format!("cannot open `{}`", own.display()))?;
            held.lock().with_context(|| format!("cannot lock `{}`", own.display()))?;
            let made = Made { runner: Process::of(pid), scratch: own, ..Made::default() };
            let mut record = Self { name, made, path, file, _scratch: held };
            record.save()?;
            return Ok(record);
        }
        bail!("cannot name the rehearsal: no name is free in `{}`", records.display());
    }

    /// Writes down what was made so far.
    pub fn save(&mut self) -> Result<()> {
        let mut line = serde_json::to_vec(&self.made).context("cannot encode the record of the rehearsal")?;
        line.push(b'\n');
        self.file.write_all(&line).with_context(|| format!("cannot write `{}`", self.path.display()))
    }

    /// The path of the record.
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
    for name in names(records, std::fs::FileType::is_file)? {
        let path = records.join(&name);
        if is_held_by_the_dead(&path, &scratch.join(&name)) {
            wait_for_the_lock(&path)?;
        }
        let Some(mut file) = lock_if_free(&path)? else { continue };
        let mut text = Vec::new();
        file.read_to_end(&mut text).with_context(|| format!("cannot read `{}`", path.display()))?;
        let made = Made::last_of(&text, scratch.join(&name)).with_context(|| {
            format!("invalid record `{}` of the killed rehearsal `{name}`", path.display())
        })?;
        if made.kept {
            continue;
        }
        remove(&made).with_context(|| format!("cannot remove what the killed rehearsal `{name}` left"))?;
        std::fs::remove_file(&path).with_context(|| format!("cannot remove `{}`", path.display()))?;
        removed.push(name);
    }
    // A restart of the machine loses the records, but not what is on disk.
    for name in names(scratch, std::fs::FileType::is_dir)? {
        let path = scratch.join(&name);
        if records.join(&name).exists() {
            continue;
        }
        if let Some(_held) = lock_if_free(&path)? {
            remove_directory(&path)?;
            removed.push(name);
        }
    }
    Ok(removed)
}

/// Whether the rehearsal of a record was killed, even if its lock is held: a process that it had begun to start holds
/// the lock too, until it executes something.
fn is_held_by_the_dead(path: &Path, scratch: &Path) -> bool {
    let made = std::fs::read(path).ok().and_then(|text| Made::last_of(&text, scratch.to_owned()).ok());
    made.and_then(|made| made.runner).is_some_and(|runner| !runner.lives())
}

fn wait_for_the_lock(path: &Path) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while path.exists() && lock_if_free(path)?.is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Opens what one rehearsal holds locked as long as it lives; `None` when it lives, or ended a moment ago.
fn lock_if_free(path: &Path) -> Result<Option<File>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened.with_context(|| format!("cannot open `{}`", path.display()))?,
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock `{}`", path.display()))
        }
    }
}

impl Made {
    /// What the last whole line of a record says. A record without one belongs to a rehearsal that was killed when it
    /// had only its scratch directory.
    fn last_of(text: &[u8], scratch: PathBuf) -> Result<Self> {
        let end = text.iter().rposition(|byte| *byte == b'\n');
        let last = end.and_then(|end| text[..end].rsplit(|byte| *byte == b'\n').next());
        last.map_or_else(|| Ok(Self { scratch, ..Self::default() }), |line| Ok(serde_json::from_slice(line)?))
    }
}

fn remove(made: &Made) -> Result<()> {
    for process in &made.processes {
        if process.lives() {
            cgroup::kill(process.pid);
        }
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while made.processes.iter().any(|process| process.lives()) {
        if Instant::now() > deadline {
            bail!("its processes do not end after SIGKILL");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    cgroup::end(&made.control_groups, Duration::from_secs(10))?;
    // While the root directory is mounted no other one has its lock's name.
    container::remove_outside(&made.outside);
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
    mount::refuse_within([path])?;
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove `{}`", path.display()))
        }
        _ => Ok(()),
    }
}

/// The rehearsals named by the entries of this kind, as far as they belong to this user.
fn names(directory: &Path, is_kind: impl Fn(&std::fs::FileType) -> bool) -> Result<Vec<String>> {
    let unreadable = || format!("cannot read the directory `{}`", directory.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).with_context(unreadable)? {
        let entry = entry.with_context(unreadable)?;
        let Some(name) = entry.file_name().into_string().ok().filter(|name| is_name(name)) else { continue };
        let Ok(found) = entry.metadata() else { continue };
        if is_kind(&found.file_type()) && found.uid() == rustix::process::geteuid().as_raw() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn is_name(name: &str) -> bool {
    let numbers = name.strip_prefix(NAME).map(|numbers| numbers.split('-').collect::<Vec<_>>());
    numbers.is_some_and(|numbers| {
        numbers.len() <= 2
            && numbers
                .iter()
                .all(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

/// Makes a directory that only its owner can enter, or checks that an existing one is such, in a place where no one else
/// can exchange it: the secrets of a rehearsal are in it.
fn make_private_directory(path: &Path) -> Result<()> {
    trusted::check_state(path, &[])?;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("cannot create `{}`", parent.display()))?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        made => {
            made.with_context(|| format!("cannot create `{}`", path.display()))?;
            return trusted::check_state(path, &[]);
        }
    }
    let found =
        std::fs::symlink_metadata(path).with_context(|| format!("cannot access `{}`", path.display()))?;
    let mine = found.uid() == rustix::process::geteuid().as_raw();
    if !found.is_dir() || !mine || found.permissions().mode() & 0o077 != 0 {
        let message = format!(
            "`{}` already exists and is not a directory that only its owner can enter",
            path.display()
        );
        bail!(Failure::new(message).exit(ExitCode::REFUSED).kind(FailureKind::Refused));
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
    #[ignore = "needs root"]
    fn a_scratch_directory_that_another_user_could_exchange_is_refused() {
        let places = Places::new();
        let of_another = places.root.path().join("tmp");
        std::fs::create_dir(&of_another).unwrap();
        std::os::unix::fs::chown(&of_another, Some(1), Some(1)).unwrap();
        let refused = |scratch: &Path| {
            let error = Record::open(&places.root.path().join("records"), scratch).unwrap_err();
            assert_eq!(error.downcast_ref::<Failure>().unwrap().exit, ExitCode::REFUSED, "{error:#}");
        };
        refused(&of_another.join("scratch"));
        assert!(!of_another.join("scratch").exists(), "nothing is made there");
        refused(&of_another);
        std::os::unix::fs::symlink(&of_another, places.root.path().join("link")).unwrap();
        std::os::unix::fs::lchown(places.root.path().join("link"), Some(1), Some(1)).unwrap();
        refused(&places.root.path().join("link/scratch"));
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
    fn what_belongs_to_no_rehearsal_is_left_alone() {
        let places = Places::new();
        drop(places.open());
        for place in ["records", "scratch"] {
            let at = |name: &str| places.root.path().join(place).join(name);
            std::fs::write(at("notes"), "of the operator").unwrap();
            std::fs::create_dir(at("kkrun-backup")).unwrap();
            std::fs::write(at("kkrun-backup/file"), "of the operator").unwrap();
            std::os::unix::fs::symlink(at("kkrun-backup"), at("kkrun-7")).unwrap();
        }
        std::fs::create_dir(places.root.path().join("records/kkrun-8")).unwrap();
        std::fs::write(places.root.path().join("scratch/kkrun-9"), "of the operator").unwrap();
        let (_record, removed) = places.open();
        assert!(removed.is_empty(), "{removed:?}");
        for path in [
            "records/notes",
            "records/kkrun-backup/file",
            "records/kkrun-7/file",
            "records/kkrun-8",
            "scratch/notes",
            "scratch/kkrun-backup/file",
            "scratch/kkrun-7/file",
            "scratch/kkrun-9",
        ] {
            assert!(places.root.path().join(path).exists(), "{path}");
        }
    }

    #[test]
    fn a_scratch_directory_of_a_living_rehearsal_stays_where_its_record_is_not_seen() {
        let places = Places::new();
        let (first, _) = places.open();
        let elsewhere = places.root.path().join("other-records");
        let (_second, removed) = Record::open(&elsewhere, &places.root.path().join("scratch")).unwrap();
        assert!(removed.is_empty(), "{removed:?}");
        assert!(first.made.scratch.is_dir());
    }

    #[test]
    fn a_kill_in_the_middle_of_writing_leaves_what_was_written_before() {
        let places = Places::new();
        let (mut record, _) = places.open();
        record.made.network = Some("one".to_owned());
        record.save().unwrap();
        let text = std::fs::read(record.path()).unwrap();
        let scratch = record.made.scratch.clone();
        for cut in 0..text.len() {
            let known = Made::last_of(&text[..cut], scratch.clone()).unwrap();
            assert_eq!((known.network, &known.scratch), (None, &scratch), "{cut}");
        }
        assert_eq!(Made::last_of(&text, scratch).unwrap(), record.made);
        assert!(Made::last_of(b"no record\n", PathBuf::new()).is_err());
    }

    #[test]
    fn a_lock_that_a_killed_rehearsal_left_to_a_child_is_waited_for() {
        let places = Places::new();
        let (mut record, _) = places.open();
        let (name, path) = (record.name.clone(), record.path().to_owned());
        let dead = Made { runner: Some(Process { pid: 1, start: u64::MAX }), ..record.made.clone() };
        let mut line = serde_json::to_vec(&dead).unwrap();
        line.push(b'\n');
        std::fs::write(&path, line).unwrap();
        // As after a kill: the record is not dropped, and only the child's handle holds the lock.
        let child = record.file.try_clone().unwrap();
        record.made.kept = true;
        drop(record);
        let held = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            drop(child);
        });
        let (_second, removed) = places.open();
        held.join().unwrap();
        assert_eq!(removed, [name]);
    }

    #[test]
    fn this_process_lives_and_has_a_start() {
        let own = Process::of(std::process::id()).unwrap();
        assert!(own.lives() && own.start > 0);
        assert!(!Process { start: own.start + 1, ..own }.lives());
    }
}
