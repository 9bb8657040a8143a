//! The lock that every writer of the user and group databases takes: the tools of the shadow suite (before the `*.lock`
//! files that each of them makes), PAM, systemd. Source: lckpwdf(3), and lib/commonio.c of shadow 4.13.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::fs::{FlockOperation, Mode, OFlags, fcntl_lock, open};
use rustix::io::Errno;

use crate::failure::{Failure, FailureKind};

/// How long the tools wait for the lock. Source: lckpwdf(3).
pub const PATIENCE: Duration = Duration::from_secs(15);

/// The held lock; released when this is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of the databases in a directory, waiting so long; `pause` is called between attempts.
    ///
    /// # Errors
    /// A [`Failure`] of kind `busy` when another program keeps it.
    pub(super) fn acquire(
        directory: &Path,
        patience: Duration,
        pause: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Self> {
        let path = directory.join(".pwd.lock");
        let named = || format!("cannot lock `{}`", path.display());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = File::from(open(&path, flags, Mode::RUSR | Mode::WUSR).with_context(named)?);
        let begin = Instant::now();
        loop {
            match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { _file: file }),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN | Errno::ACCESS) if begin.elapsed() < patience => pause()?,
                Err(Errno::AGAIN | Errno::ACCESS) => {
                    return Err(Failure::new(format!(
                        "cannot lock `{}`: another program holds it",
                        path.display()
                    ))
                    .kind(FailureKind::Busy)
                    .hint("wait until the tool that changes users has ended, then run this again")
                    .into());
                }
                Err(error) => return Err(error).with_context(named),
            }
        }
    }
}
