//! A command, run again when it fails.

use std::time::Duration;

use anyhow::Result;
use regex::Regex;

use super::{World, succeeded};
use crate::machine::process::{Command, Ended};

/// A command with how often and when it is run again, and how it ended.
#[derive(Debug)]
pub struct Attempts {
    /// What is run.
    pub command: Command,
    /// Accepted exit codes besides 0.
    pub ok_codes: Vec<i32>,
    /// How often it is run again.
    pub retries: u32,
    /// What its last lines must match for that; none: anything.
    pub retry_on: Option<Regex>,
    /// How long is waited before the first retry; doubled each time.
    pub backoff: Duration,
    /// How the last attempt ended.
    pub ended: Option<Ended>,
}

impl Attempts {
    /// The command alone, run once.
    #[cfg(test)]
    pub(crate) fn once(command: Command) -> Self {
        Self {
            command,
            ok_codes: Vec::new(),
            retries: 0,
            retry_on: None,
            backoff: Duration::ZERO,
            ended: None,
        }
    }

    /// Runs it until it ends well or the retries are used up. It never borrows the session, which makes a change with it.
    ///
    /// # Errors
    /// When the last attempt failed, and when the run was asked to stop.
    pub fn run(&mut self, world: &World) -> Result<&Ended> {
        let label = self.command.shown();
        let mut wait = self.backoff;
        let mut left = self.retries;
        loop {
            let ended = world.run(&self.command, &label)?;
            if ended.status.code().is_some_and(|code| code == 0 || self.ok_codes.contains(&code)) {
                // What is left in mounts of its own is ended with them.
                let stays = self.command.mounts.is_none();
                for survivor in ended.left_behind.iter().filter(|_| stays) {
                    let (name, pid) = (&survivor.name, survivor.pid);
                    world.reporter.note(format!("`{label}` left `{name}` (process {pid}) running"));
                }
                return Ok(self.ended.insert(ended));
            }
            world.processes.check_interruption()?;
            let is_retried = |pattern: &Regex| pattern.is_match(&ended.tail.join("\n"));
            if left == 0 || !self.retry_on.as_ref().is_none_or(is_retried) {
                succeeded(&ended, &label)?;
            }
            left = left.saturating_sub(1);
            let seconds = wait.as_secs_f64();
            world.reporter.note(format!("`{label}` {}, retrying in {seconds:.0} s", ended.status));
            world.processes.pause(wait);
            wait *= 2;
        }
    }
}
