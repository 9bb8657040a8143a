//! Processes that a killed run left behind: they are found, waited for or ended, before anything is done beside
//! them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};

use super::Survivor;
use super::child_records::{self, Read};
use super::table::Process;
use crate::machine::clock;

/// A process of a killed run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// Its number.
    pub pid: u32,
    /// The name of its program.
    pub name: String,
    /// The run that started it.
    pub run: String,
    /// When it started, in clock ticks since the boot.
    start: u64,
    /// The process group to signal as a whole: one that kkrun made for the command, never its own.
    group: Option<u32>,
}

/// Every process left behind by the killed runs that have a file in `records`.
///
/// A process belongs to a run when it was started with that run's `KKRUN_RUN` or recorded by it, when it is in a group
/// that such a process leads, or when it descends from one of those. Exceptions: what a command left behind on purpose,
/// and what systemd runs as a separate service. The files of runs that left nothing are removed. The caller must hold
/// the lock; a run that is alive is skipped.
pub fn orphans(records: &Path) -> Result<Vec<Orphan>> {
    let boot = clock::boot_id()?;
    let mut found = Vec::new();
    let mut all = None;
    for path in child_records::files_in(records)? {
        let Some(read) = Read::from_file(&path)? else { continue };
        let mut of_run = Vec::new();
        if read.boot == boot {
            if read.runner.is_some_and(|(pid, start)| Process::living(pid, start).is_some()) {
                continue;
            }
            of_run = of(&read, all.get_or_insert_with(Process::all));
        }
        if of_run.is_empty() {
            fs::remove_file(&path).with_context(|| format!("cannot remove `{}`", path.display()))?;
        }
        found.append(&mut of_run);
    }
    Ok(found)
}

fn of(read: &Read, all: &[Process]) -> Vec<Orphan> {
    let by_pid: BTreeMap<u32, &Process> = all.iter().map(|process| (process.pid, process)).collect();
    let variable = super::environment::run_variable(&read.run);
    let is_left = |process: &Process| read.left.contains(&(process.pid, process.start));
    let is_own = |process: &&Process| {
        !is_left(process)
            && (read.commands.contains(&(process.pid, process.start))
                || process.was_started_with(variable.as_encoded_bytes()))
    };
    let own: BTreeSet<u32> = all.iter().filter(is_own).map(|process| process.pid).collect();
    // A group outlives its leader, and its number is not reused while it has members; but once all have ended, it may
    // be. So a group counts only while its leader exists and belongs to the run.
    let is_in_own_group = |process: &Process| {
        own.contains(&process.group)
            && by_pid.get(&process.group).is_some_and(|leader| leader.group == leader.pid)
    };
    let is_member =
        |process: &Process| own.contains(&process.pid) || !is_left(process) && is_in_own_group(process);
    // An ancestor of this process (a shell that the killed run had opened) is not an orphan.
    let own_line: Vec<u32> = by_pid
        .get(&std::process::id())
        .map(|own| ancestry(own, &by_pid).map(|ancestor| ancestor.pid).collect())
        .unwrap_or_default();
    let chosen: Vec<&Process> = all
        .iter()
        .filter(|process| !process.has_ended() && !own_line.contains(&process.pid))
        .filter(|process| {
            let line = || ancestry(process, &by_pid);
            let left_session = by_pid.get(&process.session).is_some_and(|leader| is_left(leader));
            line().any(is_member)
                && !left_session
                && !line().any(is_left)
                && !is_service(process.control_group().as_deref(), read.control_group.as_deref())
        })
        .collect();
    chosen
        .iter()
        .map(|process| {
            let is_led = is_in_own_group(process) || chosen.iter().any(|leader| leader.pid == process.group);
            Orphan {
                pid: process.pid,
                name: process.name.clone(),
                run: read.run.clone(),
                start: process.start,
                group: is_led.then_some(process.group),
            }
        })
        .collect()
}

/// The process, its parent, its parent's parent.
fn ancestry<'a>(
    process: &'a Process,
    by_pid: &BTreeMap<u32, &'a Process>,
) -> impl Iterator<Item = &'a Process> {
    // The table is not a consistent snapshot: a reused number could close a circle.
    std::iter::successors(Some(process), |child| by_pid.get(&child.parent).copied()).take(64)
}

/// Whether systemd runs it as a service, other than the one the run itself was in. A session's scope does not count: it
/// holds everything that was not moved elsewhere, and the logins of a command (`runuser -l`).
fn is_service(of_process: Option<&str>, of_run: Option<&str>) -> bool {
    of_process.is_some_and(|group| of_process != of_run && group.ends_with(".service"))
}

impl Orphan {
    /// Killed in the middle, it leaves packages half configured, or a user half created.
    pub fn is_better_awaited(&self) -> bool {
        matches!(self.name.as_str(), "apt" | "apt-get" | "dpkg" | "dpkg-deb" | "aptd")
            || matches!(
                self.name.as_str(),
                "useradd" | "usermod" | "userdel" | "groupadd" | "groupdel" | "gpasswd"
            )
    }

    /// Waits until it has ended or the deadline has passed, and returns whether it has ended.
    pub fn wait(&self, deadline: Instant) -> Result<bool> {
        let Some(handle) = self.handle()? else { return Ok(true) };
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = super::timespec(left);
            match poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&timeout)) {
                Ok(0) if left.is_zero() => return Ok(false),
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(true),
                Err(error) => return Err(error).context("cannot wait for a process"),
            }
        }
    }

    /// Ends it and the group that was created for it: SIGTERM, and SIGKILL for what is left after `grace`.
    pub fn end(&self, grace: Duration) -> Result<()> {
        let Some(handle) = self.handle()? else { return Ok(()) };
        for signal in [Signal::TERM, Signal::KILL] {
            // The group comes first, and only while its member exists: its number cannot be reused then.
            if let Some(group) = self.group
                && Process::living(self.pid, self.start).is_some()
                // In a container entered from outside, the kernel has no number for the own group.
                && Process::current().is_some_and(|own| own.group != group)
                && let Some(group) = Pid::from_raw(group.cast_signed())
            {
                forgive(kill_process_group(group, signal))?;
            }
            forgive(pidfd_send_signal(&handle, signal))?;
            if self.wait(Instant::now() + grace)? {
                return Ok(());
            }
        }
        anyhow::bail!("cannot end process {} (`{}`) of run {}", self.pid, self.name, self.run)
    }

    /// A handle that stays valid; `None` when it has ended.
    fn handle(&self) -> Result<Option<rustix::fd::OwnedFd>> {
        let Some(pid) = Pid::from_raw(self.pid.cast_signed()) else { return Ok(None) };
        match pidfd_open(pid, PidfdFlags::empty()) {
            // Only after the handle is open does the start time prove whom it holds.
            Ok(handle) => Ok(Process::living(self.pid, self.start).map(|_| handle)),
            Err(Errno::SRCH) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot open process {}", self.pid)),
        }
    }
}

impl Survivor {
    /// Ends it: SIGTERM, and SIGKILL if it is left after `grace`.
    pub fn end(&self, grace: Duration) -> Result<()> {
        let Some(process) = Process::by_pid(self.pid) else { return Ok(()) };
        let run = "this one".to_owned();
        Orphan { pid: self.pid, name: self.name.clone(), run, start: process.start, group: None }.end(grace)
    }
}

/// It is fine if it has already ended.
fn forgive(result: Result<(), Errno>) -> Result<()> {
    match result {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error).context("cannot signal a process of an earlier run"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_systemd_runs_as_a_service_of_its_own_is_one() {
        let ours = Some("/user.slice/user-0.slice/session-1.scope");
        for (of_process, of_run, service) in [
            (ours, ours, false),
            (Some("/"), ours, false),
            (Some("/user.slice/user-1000.slice/session-c2.scope"), ours, false),
            (Some("/system.slice/nginx.service"), ours, true),
            (Some("/user.slice/user-1000.slice/user@1000.service/app.slice/kiosk.service"), ours, true),
            (Some("/system.slice/kkrun.service"), Some("/system.slice/kkrun.service"), false),
            (None, ours, false),
            (Some("/system.slice/cron.service"), None, true),
        ] {
            assert_eq!(is_service(of_process, of_run), service, "{of_process:?} beside {of_run:?}");
        }
    }
}
