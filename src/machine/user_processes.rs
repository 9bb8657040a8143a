//! The processes that run as a user.

use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::process::{Process, Processes};
use crate::failure::{Failure, FailureKind};

/// How long to wait for the effect of a signal, and how often to check.
const GRACE: Duration = Duration::from_secs(5);
const LOOKING: Duration = Duration::from_millis(50);

/// The living processes that run as this user, by their real, effective or saved user id.
pub fn of(uid: u32) -> Vec<Process> {
    let runs_as = |process: &Process| {
        std::fs::read_to_string(format!("/proc/{}/status", process.pid))
            .is_ok_and(|status| user_ids(&status).contains(&uid))
    };
    Process::all().into_iter().filter(|process| !process.has_ended() && runs_as(process)).collect()
}

/// Waits until no process runs as this user; what is left then gets SIGTERM, and SIGKILL at last.
///
/// # Errors
/// When some are still there: with their names and what starts them.
pub fn end(uid: u32, processes: &Processes) -> Result<()> {
    for signal in [None, Some(Signal::TERM), Some(Signal::KILL)] {
        for process in signal.iter().flat_map(|_| of(uid)) {
            if let Some(signal) = signal {
                send(&process, signal)?;
            }
        }
        // No signal at first: a service manager may already be ending them.
        let deadline = Instant::now() + if signal.is_some() { GRACE } else { GRACE / 2 };
        while Instant::now() < deadline {
            if of(uid).is_empty() {
                return Ok(());
            }
            processes.check_interruption()?;
            processes.pause(LOOKING);
        }
    }
    let left: Vec<String> = of(uid)
        .iter()
        .map(|process| {
            let group = process.control_group().unwrap_or_default();
            format!("`{}` (process {}, in {group})", process.name, process.pid)
        })
        .collect();
    if left.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("cannot end the processes of user {uid}: {}", left.join(", ")))
        .kind(FailureKind::Busy)
        .hint("stop the services that start them, then try again")
        .into())
}

fn send(process: &Process, signal: Signal) -> Result<()> {
    let Some(pid) = Pid::from_raw(process.pid.cast_signed()) else { return Ok(()) };
    match pidfd_open(pid, PidfdFlags::empty()) {
        // Only after the handle is open does the start time prove whom it holds.
        Ok(handle) if Process::living(process.pid, process.start).is_some() => {
            match pidfd_send_signal(&handle, signal) {
                Ok(()) | Err(Errno::SRCH) => Ok(()),
                Err(error) => Err(error.into()),
            }
        }
        Ok(_) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The user ids in `/proc/PID/status`. Source: proc(5).
fn user_ids(status: &str) -> Vec<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    line.split_ascii_whitespace().filter_map(|id| id.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_of_a_process_counts() {
        assert_eq!(user_ids("Name:\tx\nUid:\t1000\t0\t0\t1000\nGid:\t5\t5\t5\t5\n"), [1000, 0, 0, 1000]);
        assert_eq!(user_ids("Name:\tx\n"), [0; 0]);
    }

    #[test]
    fn this_process_runs_as_its_user() {
        let uid = rustix::process::geteuid().as_raw();
        assert!(of(uid).iter().any(|process| process.pid == std::process::id()));
        assert!(of(4_000_000_000).is_empty());
    }
}
