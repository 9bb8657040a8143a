//! What a command leaves to this process, the reaper of all its descendants.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use super::child::awaited;
use super::table::Process;
use super::{Processes, environment};

/// The processes that a command left to this process, the reaper of all its descendants.
pub(super) struct Offspring<'a> {
    processes: &'a Processes,
    /// The child that executes the command.
    command: u32,
    /// Children that were there before.
    before: BTreeSet<u32>,
    variable: OsString,
}

impl<'a> Offspring<'a> {
    pub(super) fn before(processes: &'a Processes) -> Self {
        let children = if is_childless() { Vec::new() } else { Process::children() };
        Self {
            processes,
            command: 0,
            before: children.into_iter().map(|child| child.pid).collect(),
            variable: environment::run_variable(&processes.run),
        }
    }

    /// The command is executed by this child.
    pub(super) fn of(&mut self, command: u32) {
        self.command = command;
    }

    /// Those of this command that have not ended, the child itself left out. Those that have are reaped, and with them
    /// what earlier commands had left behind.
    pub(super) fn living(&self) -> Vec<Process> {
        if is_childless() {
            return Vec::new();
        }
        let awaited = awaited();
        let mut left = self.processes.left();
        let mut living = Vec::new();
        for child in Process::children() {
            let is_new = !self.before.contains(&child.pid);
            if awaited.contains(&child.pid) || !(is_new || left.contains_key(&child.pid)) {
                continue;
            }
            if child.has_ended() {
                reap(child.pid);
                left.remove(&child.pid);
            } else if is_new && self.is_of_command(&child, &left) {
                living.push(child);
            }
        }
        living
    }

    fn is_of_command(&self, process: &Process, left: &BTreeMap<u32, u32>) -> bool {
        let is_in_it = process.group == self.command || process.session == self.command;
        // The children of an earlier command's daemon become ours when it ends.
        let is_of_left = left.values().any(|session| *session == process.session);
        is_in_it || (!is_of_left && process.was_started_with(self.variable.as_encoded_bytes()))
    }

    pub(super) fn signal(&self, signal: Signal) {
        for process in self.living() {
            // It is our child and not reaped: its number cannot be reused.
            if let Some(pid) = Pid::from_raw(process.pid.cast_signed()) {
                let _gone = kill_process(pid, signal);
            }
        }
    }

    pub(super) fn reap(&self) {
        self.living();
    }
}

pub(super) fn reap(pid: u32) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        let _gone = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }
}

/// Whether this process has no children at all: one system call, and the usual case.
pub(super) fn is_childless() -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    matches!(waitid(WaitId::All, options), Err(Errno::CHILD))
}
