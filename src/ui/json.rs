//! Events as JSON, one a line on standard output, so that another program can drive kkrun.

use std::cell::{Cell, RefCell};

use anyhow::Result;
use jiff::Timestamp;
use serde::Serialize;

use super::output::line_to_stdout;
use super::questions::Questions;
use crate::event::{Answer, Audience, ChangeOutcome, Event, FirstLine, Question};
use crate::machine::clock;

/// The audience of `--json`.
pub struct JsonLines {
    /// Every change is shown line by line, and not only what a dry run predicts.
    shows_made: bool,
    questions: Questions,
    begun: Cell<bool>,
    /// The step that is under way.
    step: RefCell<Option<String>>,
}

impl JsonLines {
    /// Nothing is written before the first event.
    pub fn new(shows_made: bool, questions: Questions) -> Self {
        Self { shows_made, questions, begun: Cell::new(false), step: RefCell::default() }
    }
}

/// A line about something that happens.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct EventLine {
    #[serde(flatten)]
    event: Event,
    /// The step that it belongs to.
    step: Option<String>,
    /// When it was written.
    time: Timestamp,
}

impl EventLine {
    /// An event that happens now.
    pub fn now(event: Event, step: Option<String>) -> Self {
        Self { event, step, time: clock::now() }
    }

    /// Writes it to standard output.
    pub fn write(&self) {
        write(self);
    }
}

/// Writes the first line to standard output.
pub fn begin_json() {
    write(&FirstLine::default());
}

fn write(line: &impl Serialize) {
    match serde_json::to_string(line) {
        Ok(line) => line_to_stdout(&line),
        Err(error) => tracing::error!("cannot write an event: {error}"),
    }
}

impl Audience for JsonLines {
    fn hear(&self, event: &Event) {
        if !self.begun.replace(true) {
            begin_json();
        }
        if let Event::StepStarted { id, .. } = event {
            self.step.replace(Some(id.clone()));
        }
        let step = event.step().map(str::to_owned).or_else(|| self.step.borrow().clone());
        EventLine::now(event.clone(), step).write();
        let has_ended = matches!(
            event,
            Event::StepCompleted { .. } | Event::StepInterrupted { .. } | Event::StepPreviewed { .. }
        );
        // What a failed step failed with follows it.
        if has_ended {
            self.step.replace(None);
        }
    }

    fn shows_differences(&self, outcome: ChangeOutcome) -> bool {
        self.shows_made || matches!(outcome, ChangeOutcome::Would | ChangeOutcome::WouldAsk)
    }

    fn agrees_unasked(&self) -> bool {
        self.questions.yes
    }

    fn ask(&self, question: &Question) -> Result<Option<Answer>> {
        self.questions.ask(question)
    }
}
