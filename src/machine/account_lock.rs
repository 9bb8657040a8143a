//! The lock that the tools of the shadow suite hold while they write the user and group databases.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::fs::{FlockOperation, Mode, OFlags, fcntl_lock, open};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::account_lines::DATABASES;
use super::files::{self, FileState};
use crate::failure::Failure;

/// What a file in preparation beside the databases is named by.
pub const TAG: &str = "accounts";
/// How long the tools wait for the lock. Source: lckpwdf(3).
pub const PATIENCE: Duration = Duration::from_secs(15);
/// How often it is tried.
const PAUSE: Duration = Duration::from_millis(20);

/// The lock held; let go when this is dropped.
#[derive(Debug)]
pub struct AccountLock {
    directory: PathBuf,
    _file: File,
}

impl AccountLock {
    /// Takes the lock of the databases in a directory, waiting so long.
    ///
    /// # Errors
    /// A [`Failure`] of kind `busy` when somebody else keeps it.
    pub fn acquire(directory: &Path, patience: Duration) -> Result<Self> {
        let path = directory.join(".pwd.lock");
        let named = || format!("cannot lock `{}`", path.display());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = File::from(open(&path, flags, Mode::RUSR | Mode::WUSR).with_context(named)?);
        let begin = Instant::now();
        loop {
            match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { directory: directory.to_owned(), _file: file }),
                Err(Errno::AGAIN | Errno::ACCESS) if begin.elapsed() < patience => sleep(PAUSE),
                Err(Errno::AGAIN | Errno::ACCESS) => {
                    return Err(Failure::new(format!("somebody else has `{}` locked", path.display()))
                        .kind("busy")
                        .hint("a tool that changes users is at work: wait until it has ended")
                        .into());
                }
                Err(error) => return Err(error).with_context(named),
            }
        }
    }

    /// Removes what tools that died had in preparation. No tool is at work while the lock is held, so whatever is
    /// there belongs to none.
    pub fn clear(&self) -> Result<()> {
        for path in leavings(&self.directory)? {
            files::remove(&path, &FileState::observe(&path)?, TAG)?;
        }
        Ok(())
    }
}

/// What tools have in preparation, or died over: `passwd.lock`, `passwd+`, and `passwd.123` by process 123. Source:
/// what useradd of shadow 4.13 was observed to do.
pub fn leavings(directory: &Path) -> Result<Vec<PathBuf>> {
    let named = || format!("cannot read `{}`", directory.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).with_context(named)? {
        let entry = entry.with_context(named)?;
        let name = entry.file_name();
        let Some(rest) =
            name.to_str().and_then(|name| DATABASES.iter().find_map(|database| name.strip_prefix(database)))
        else {
            continue;
        };
        let is_left = match rest {
            "+" | ".lock" => entry.file_type().with_context(named)?.is_file(),
            // Of a copy that somebody made, named by a date say, owner, mode or content is another.
            _ => match rest.strip_prefix('.') {
                Some(process) if is_number(process) => is_of_process(&entry.path(), process)?,
                _ => false,
            },
        };
        if is_left {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Whether it may be the number of a process. Source: proc_sys_kernel(5), `pid_max`.
fn is_number(text: &str) -> bool {
    (1..=7).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether a file is what a process of that number makes before it takes a lock: its own alone, and the number in it,
/// or nothing yet.
fn is_of_process(path: &Path, number: &str) -> Result<bool> {
    let FileState::File { size, metadata, .. } = FileState::observe(path)? else { return Ok(false) };
    if metadata.mode != 0o600 || metadata.owner != geteuid().as_raw() || size > 32 {
        return Ok(false);
    }
    let (text, _) = files::read(path)?;
    let text = text.strip_suffix(b"\0").unwrap_or(&text);
    Ok(text.is_empty() || text == number.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_dead_tools_left_is_cleared_and_the_copies_of_people_stay() {
        let directory = tempfile::tempdir().unwrap();
        let etc = directory.path().canonicalize().unwrap();
        let files = [
            ("passwd", "root:x:0\n"),
            ("passwd-", "older\n"),
            ("passwd+", "half"),
            ("group.lock", "812\0"),
            ("gshadow.812", "812\0"),
            ("subuid.813", ""),
            ("passwd.20261123", "a copy of somebody\n"),
            ("shadow.bak", ""),
            ("groups+", ""),
            ("passwd.2024", ""),
        ];
        for (name, text) in files {
            std::fs::write(etc.join(name), text).unwrap();
            let mode = if name.contains(".81") { 0o600 } else { 0o644 };
            std::fs::set_permissions(etc.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
        }
        std::fs::create_dir(etc.join("shadow.lock")).unwrap();
        AccountLock::acquire(&etc, PATIENCE).unwrap().clear().unwrap();
        let mut left: Vec<String> = std::fs::read_dir(&etc)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(
            left,
            [
                ".pwd.lock",
                "groups+",
                "passwd",
                "passwd-",
                "passwd.2024",
                "passwd.20261123",
                "shadow.bak",
                "shadow.lock"
            ]
        );
    }
}
