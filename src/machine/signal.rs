//! Signals that ask a run to stop, noticed by every wait.

#![expect(
    unsafe_code,
    reason = "registering a signal handler is unsafe: it runs between any two instructions"
)]

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result};
use nix::libc;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

/// Which signals have asked the run to stop so far; clones share the counts.
///
/// The first of INT, TERM or QUIT asks, the second insists. A hang-up asks, but lets the running command finish,
/// and never insists: a closing terminal sends it more than once. SIGPIPE is ignored by the Rust runtime.
#[derive(Clone, Debug)]
pub struct Signals {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// How many of INT, TERM and QUIT arrived.
    asked: AtomicU32,
    /// The number of the one that arrived first.
    asked_by: AtomicI32,
    hung_up: AtomicBool,
    bell_read: OwnedFd,
    bell_write: OwnedFd,
}

/// That the run was asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interruption {
    /// The number of the signal that asked first.
    pub signal: i32,
    /// How urgent it is.
    pub urgency: Urgency,
}

impl fmt::Display for Interruption {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "stopped by {}", name(self.signal))
    }
}

impl std::error::Error for Interruption {}

/// How soon an interrupted run is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// After the running command (the terminal hung up).
    AfterCommand,
    /// As soon as the running command obeys a SIGTERM.
    Soon,
    /// At once.
    Now,
}

/// The signals of this process: they concern the whole process, and so does their record.
static INSTALLED: OnceLock<Signals> = OnceLock::new();

/// The same as [`Signals::interruptibly`] with the installed signals, for a caller that has no others.
pub fn interruptibly<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    match INSTALLED.get() {
        Some(signals) => signals.interruptibly(work),
        None => Ok(work()),
    }
}

impl Signals {
    /// Listens from now on; once in a process. A signal that the caller of kkrun has ignored (`nohup`) stays ignored.
    pub fn install() -> Result<Self> {
        if let Some(installed) = INSTALLED.get() {
            return Ok(installed.clone());
        }
        let signals = Self::deaf()?;
        for signal in [SIGINT, SIGTERM, SIGQUIT, SIGHUP] {
            if is_ignored(signal) {
                continue;
            }
            let shared = Arc::clone(&signals.shared);
            // SAFETY: the handler only touches atomics and writes to a pipe by a raw system call; it neither
            // allocates nor locks.
            unsafe { signal_hook::low_level::register(signal, move || shared.deliver(signal)) }
                .with_context(|| format!("cannot listen for signal {signal}"))?;
        }
        Ok(INSTALLED.get_or_init(|| signals).clone())
    }

    /// Listens to nothing but [`Self::deliver`].
    pub fn deaf() -> Result<Self> {
        let (bell_read, bell_write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
            .context("cannot create a pipe for signals")?;
        Ok(Self {
            shared: Arc::new(Shared {
                asked: AtomicU32::new(0),
                asked_by: AtomicI32::new(0),
                hung_up: AtomicBool::new(false),
                bell_read,
                bell_write,
            }),
        })
    }

    /// Does what the arrival of that signal does.
    pub fn deliver(&self, signal: i32) {
        self.shared.deliver(signal);
    }

    /// The interruption that the signals so far ask for. Costs two loads: fit for a loop.
    pub fn pending(&self) -> Option<Interruption> {
        let asked = self.shared.asked.load(Ordering::SeqCst);
        if asked > 0 {
            let urgency = if asked > 1 { Urgency::Now } else { Urgency::Soon };
            return Some(Interruption { signal: self.shared.asked_by.load(Ordering::SeqCst), urgency });
        }
        self.shared
            .hung_up
            .load(Ordering::SeqCst)
            .then_some(Interruption { signal: SIGHUP, urgency: Urgency::AfterCommand })
    }

    /// Runs work that no signal interrupts, such as reading from a terminal or asking a server, on a separate thread.
    /// When the run is asked to stop, that thread is abandoned: it does nothing but wait, and ends with the process at
    /// the latest.
    ///
    /// # Errors
    /// With the [`Interruption`] when the run is asked to stop first.
    pub fn interruptibly<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (end, begin) = pipe_with(PipeFlags::CLOEXEC).context("cannot create a pipe for a thread")?;
        let worker = std::thread::Builder::new().spawn(move || {
            let done = work();
            drop(begin);
            done
        });
        let worker = worker.context("cannot start a thread")?;
        loop {
            if let Some(interruption) = self.pending() {
                return Err(interruption.into());
            }
            let bell = self.bell();
            let mut watched = [PollFd::new(&end, PollFlags::IN), PollFd::new(&bell, PollFlags::IN)];
            match poll(&mut watched, None) {
                Ok(_) if !watched[0].revents().is_empty() => break,
                Ok(_) => self.hush(),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("cannot wait for a thread"),
            }
        }
        worker.join().map_err(|_| anyhow::anyhow!("a helper thread panicked"))
    }

    /// A descriptor that becomes readable when a signal arrives.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.shared.bell_read.as_fd()
    }

    /// Makes the descriptor of [`Self::bell`] unreadable until the next signal.
    pub fn hush(&self) {
        let mut bytes = [0; 64];
        while matches!(rustix::io::read(&self.shared.bell_read, &mut bytes), Ok(count) if count == bytes.len())
        {
        }
    }
}

impl Shared {
    fn deliver(&self, signal: i32) {
        if signal == SIGHUP {
            self.hung_up.store(true, Ordering::SeqCst);
        } else {
            let _later = self.asked_by.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst);
            self.asked.fetch_add(1, Ordering::SeqCst);
        }
        // A full pipe already rings.
        let _full = rustix::io::write(&self.bell_write, b"!");
    }
}

/// Whether this process ignores the signal.
pub(super) fn is_ignored(signal: i32) -> bool {
    // SAFETY: a zeroed `sigaction` is a valid one to be overwritten, and a null new action only asks.
    let (result, present) = unsafe {
        let mut present: libc::sigaction = std::mem::zeroed();
        let result = libc::sigaction(signal, std::ptr::null(), &raw mut present);
        (result, present)
    };
    result == 0 && present.sa_sigaction == libc::SIG_IGN
}

/// The name that people know a signal by: `SIGTERM`.
pub fn name(signal: i32) -> String {
    signal_hook::low_level::signal_name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rings(signals: &Signals) -> bool {
        let mut bells =
            [rustix::event::PollFd::from_borrowed_fd(signals.bell(), rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut bells, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap()
            == 1
    }

    #[test]
    fn the_first_asks_and_the_second_insists() {
        let signals = Signals::deaf().unwrap();
        assert_eq!(signals.pending(), None);
        signals.deliver(SIGINT);
        assert_eq!(signals.pending(), Some(Interruption { signal: SIGINT, urgency: Urgency::Soon }));
        signals.deliver(SIGTERM);
        assert_eq!(signals.pending(), Some(Interruption { signal: SIGINT, urgency: Urgency::Now }));
    }

    #[test]
    fn hanging_up_twice_does_not_insist() {
        let signals = Signals::deaf().unwrap();
        signals.deliver(SIGHUP);
        signals.deliver(SIGHUP);
        assert_eq!(signals.pending(), Some(Interruption { signal: SIGHUP, urgency: Urgency::AfterCommand }));
        signals.deliver(SIGINT);
        assert_eq!(signals.pending().unwrap().urgency, Urgency::Soon);
    }

    #[test]
    fn the_bell_rings_until_hushed() {
        let signals = Signals::deaf().unwrap();
        assert!(!rings(&signals));
        (0..100_000).for_each(|_| signals.deliver(SIGHUP));
        assert!(rings(&signals));
        signals.hush();
        assert!(!rings(&signals));
    }

    #[test]
    fn what_no_signal_ends_is_left_to_itself_when_the_run_is_asked_to_stop() {
        let signals = Signals::deaf().unwrap();
        assert_eq!(signals.interruptibly(|| 7).unwrap(), 7);
        let (answers, answer) = std::sync::mpsc::channel::<()>();
        let terminal = signals.clone();
        let error = signals
            .interruptibly(move || {
                terminal.deliver(SIGTERM);
                let _released = answer.recv();
            })
            .unwrap_err();
        assert_eq!(error.downcast_ref::<Interruption>().unwrap().signal, SIGTERM);
        drop(answers);
    }

    #[test]
    fn names_are_those_of_the_manual() {
        assert_eq!((name(SIGTERM).as_str(), name(250).as_str()), ("SIGTERM", "signal 250"));
    }
}
