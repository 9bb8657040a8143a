//! A step and a run, and what is known of them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::record::Fingerprint;
use crate::exit_code::ExitCode;
use crate::text::accepted_as_it_is;

/// The state of a step by its records alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// Not begun, forgotten, or undone.
    #[default]
    Pending,
    /// Begun, with no end recorded: running, or killed.
    Started,
    /// Complete.
    Complete,
    /// Failed.
    Failed,
    /// Stopped from outside.
    Interrupted,
    /// Rolled back alone; skipped until it is named.
    OnHold,
}

/// A step and what is known of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Its state.
    pub state: StepState,
    /// Its title when it last ran.
    pub title: String,
    /// Its script when it last ran.
    pub script: String,
    /// The run that touched it last.
    pub run: String,
    /// When it last began.
    pub started: Option<Timestamp>,
    /// When it last ended.
    pub finished: Option<Timestamp>,
    /// How long it took, in seconds.
    pub seconds: Option<f64>,
    /// How long it took when it last completed, in seconds.
    pub usual_seconds: Option<f64>,
    /// How often it was begun to come to where it is: since it was last complete before that, or forgotten.
    pub attempts: u32,
    /// Why it failed.
    pub error: Option<String>,
    /// What it meant when it completed.
    pub fingerprint: Option<Fingerprint>,
    /// The record that says so; 0 if it never was complete.
    pub completed: u64,
    /// What its script would still do, which the operator accepted.
    #[serde(default)]
    pub accepted: Vec<String>,
    /// Why the operator accepted it, in the operator's words.
    #[serde(default)]
    pub accepted_because: Option<String>,
}

impl StepRecord {
    /// Whether it was ever begun. A rollback or a reset leaves its title.
    pub fn has_run(&self) -> bool {
        self.started.is_some() || self.state == StepState::Pending && !self.title.is_empty()
    }

    /// That the operator accepted it as it is, and why; none if it completed by itself or no reason was given.
    pub fn accepted_because(&self) -> Option<String> {
        let why = self.accepted_because.as_ref().filter(|_| self.state == StepState::Complete)?;
        Some(accepted_as_it_is(Some(why)))
    }

    pub(super) fn end(&mut self, state: StepState, time: Timestamp, seconds: f64) {
        self.state = state;
        self.finished = Some(time);
        self.seconds = Some(seconds);
    }
}

/// A run that recorded something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Its identity.
    pub run: String,
    /// The script as it was called, or the command.
    pub script: String,
    /// Where its plan comes from: a directory, or `built in`.
    pub root: String,
    /// When it recorded first.
    pub started: Timestamp,
    /// When it ended, with its exit status; none if it runs or was killed.
    pub ended: Option<(Timestamp, u8)>,
}

impl RunRecord {
    /// Whether it was stopped by a signal or killed, if it does not run any more.
    pub(super) fn was_interrupted(&self) -> bool {
        self.ended.is_none_or(|(_, exit)| ExitCode(exit) >= ExitCode::signal(0))
    }
}
