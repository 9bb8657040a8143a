//! A child of this process that is waited for here and nowhere else.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, waitpid};

/// A child that was started and not yet waited for.
#[derive(Debug)]
pub(super) struct Child {
    pid: Pid,
}

/// Children of this process with a waiter of their own: no other code may reap them.
static AWAITED: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

pub(super) fn awaited() -> MutexGuard<'static, BTreeSet<u32>> {
    AWAITED.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Child {
    /// The child that `start` starts; it is registered before any other code can reap it.
    pub(super) fn awaited(start: impl FnOnce() -> io::Result<Pid>) -> io::Result<Self> {
        let mut awaited = awaited();
        let pid = start()?;
        awaited.insert(number(pid));
        Ok(Self { pid })
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// How it ended, if it has; once it has, its number may be reused.
    pub(super) fn try_wait(&self) -> io::Result<Option<ExitStatus>> {
        let status = waitpid(Some(self.pid), WaitOptions::NOHANG)?
            .map(|(_, status)| ExitStatus::from_raw(status.as_raw()));
        if status.is_some() {
            awaited().remove(&number(self.pid));
        }
        Ok(status)
    }

    /// Waits for its end, however long that takes.
    pub(super) fn reap(&self) {
        while matches!(waitpid(Some(self.pid), WaitOptions::empty()), Err(Errno::INTR)) {}
        awaited().remove(&number(self.pid));
    }
}

pub(super) fn number(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().cast_unsigned()
}
