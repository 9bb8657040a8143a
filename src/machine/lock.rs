//! The lock that lets one run at a time work on a machine.

use std::fs::File;
use std::io::{Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;

use super::clock;
use crate::exit_code::ExitCode;
use crate::failure::{Failure, FailureKind};
use crate::time;

/// A held lock; it is released when this is dropped or the process ends, however it ends.
///
/// The truth is `flock` on the open file. The text in the file only names the holder for others; it is neither synced
/// nor trusted without the lock.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// The result of an attempt to take the lock.
#[derive(Debug)]
pub enum Attempt {
    /// This process has it.
    Acquired(Lock),
    /// Another process holds it.
    Held(Holder),
}

/// The holder of a lock, as far as it has written who it is; it may not have done so yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The file of the lock.
    pub path: PathBuf,
    /// The process.
    pub pid: Option<u32>,
    /// Since when.
    pub since: Option<Timestamp>,
    /// The command line.
    pub command: Option<String>,
}

impl Lock {
    /// Takes the lock at `path` if it is free, without waiting; the file is created if it is missing.
    pub fn acquire(path: &Path) -> Result<Attempt> {
        let named = || {
            Failure::new(format!("cannot lock `{}`", path.display()))
                .kind(FailureKind::Journal)
                .hint("what kkrun changes is recorded in this directory: make it writable, or use another with `--state-dir`")
        };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mut file = File::from(open(path, flags, Mode::RUSR | Mode::WUSR).with_context(named)?);
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                let mut lock = Self { file };
                lock.sign().with_context(named)?;
                Ok(Attempt::Acquired(lock))
            }
            Err(Errno::WOULDBLOCK) => {
                let mut text = Vec::new();
                // The text about the holder is a courtesy: the lock counts without it.
                drop(Read::take(&mut file, 16 * 1024).read_to_end(&mut text));
                Ok(Attempt::Held(Holder::read(path, &String::from_utf8_lossy(&text))))
            }
            Err(error) => Err(error).with_context(named),
        }
    }

    fn sign(&mut self) -> std::io::Result<()> {
        let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
        let command = shell_words::join(words).replace('\n', " ");
        if self.file.metadata()?.len() > 0 {
            self.file.set_len(0)?;
        }
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(format!("{}\n{}\n{command}\n", std::process::id(), clock::now()).as_bytes())
    }
}

/// Whether a process holds the lock at `path`, checked without touching it. Source: proc(5), /proc/locks.
pub fn is_held(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let (Ok(metadata), Ok(locks)) = (std::fs::metadata(path), std::fs::read_to_string("/proc/locks")) else {
        return false;
    };
    let inode = format!(":{}", metadata.ino());
    let is_it = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.get(1) == Some(&"FLOCK") && words.get(5).is_some_and(|place| place.ends_with(&inode))
    };
    locks.lines().any(is_it)
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A text left behind in an unlocked file does no harm: `flock` decides.
        drop(self.file.set_len(0));
        // Closing alone would leave it to a child that another thread has forked and that has not yet executed.
        let _released = flock(&self.file, FlockOperation::Unlock);
    }
}

impl Holder {
    fn read(path: &Path, text: &str) -> Self {
        let mut lines = text.lines();
        Self {
            path: path.to_owned(),
            pid: lines.next().and_then(|line| line.parse().ok()),
            since: lines.next().and_then(|line| line.parse().ok()),
            command: lines.next().map(|line| crate::text::printable(line).into_owned()),
        }
    }

    /// The failure that a second run ends with.
    pub fn failure(&self) -> Failure {
        let who = match (self.pid, &self.command) {
            (Some(pid), Some(command)) => format!("`{command}`, process {pid}"),
            (Some(pid), None) => format!("process {pid}"),
            (None, _) => format!("the process that holds `{}`", self.path.display()),
        };
        let when = |since| time::when(since, clock::now(), &clock::zone());
        let since = self.since.map(|since| format!(", since {}", when(since))).unwrap_or_default();
        Failure::new(format!("another run is in progress: {who}{since}"))
            .exit(ExitCode::LOCKED)
            .kind(FailureKind::Locked)
            .hint("wait until it has ended, then run this again")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn acquired(path: &Path) -> Lock {
        match Lock::acquire(path).unwrap() {
            Attempt::Acquired(lock) => lock,
            Attempt::Held(holder) => panic!("held by {holder:?}"),
        }
    }

    #[test]
    fn a_second_one_learns_who_holds_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let lock = acquired(&path);
        let Attempt::Held(holder) = Lock::acquire(&path).unwrap() else { panic!("taken twice") };
        assert_eq!(holder.pid, Some(std::process::id()));
        assert!(holder.since.unwrap() <= clock::now());
        assert!(!holder.command.as_ref().unwrap().is_empty());
        let failure = holder.failure();
        assert_eq!(failure.exit, ExitCode::LOCKED);
        assert!(failure.message.contains(&format!("process {}", std::process::id())), "{}", failure.message);
        drop(lock);
        acquired(&path);
    }

    #[test]
    fn a_stale_name_in_the_file_is_not_believed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        std::fs::write(&path, "1\n2020-01-01T00:00:00Z\nkkrun old.rhai\n").unwrap();
        acquired(&path);
    }

    #[test]
    fn a_holder_that_has_not_signed_yet_is_still_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let lock = acquired(&path);
        lock.file.set_len(0).unwrap();
        let Attempt::Held(holder) = Lock::acquire(&path).unwrap() else { panic!("taken twice") };
        assert_eq!(holder.pid, None);
        assert!(holder.failure().message.contains("lock"));
    }

    #[test]
    fn only_its_owner_may_read_it_and_a_link_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let _lock = acquired(&path);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let error = Lock::acquire(&link).unwrap_err();
        assert!(error.to_string().contains("link"), "{error:#}");
    }
}
