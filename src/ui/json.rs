//! Events as JSON, one a line on standard output, so that another program can drive kkrun.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};

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
    /// The step that is under way.
    step: RefCell<Option<String>>,
}

impl JsonLines {
    /// Nothing is written before the first event.
    pub fn new(shows_made: bool, questions: Questions) -> Self {
        Self { shows_made, questions, step: RefCell::default() }
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
        if matches!(self.event, Event::Error { .. }) {
            ERROR_WRITTEN.store(true, Ordering::Relaxed);
        }
        write(self);
    }
}

/// Whether the first line was written.
static BEGUN: AtomicBool = AtomicBool::new(false);
/// Whether an error was written.
static ERROR_WRITTEN: AtomicBool = AtomicBool::new(false);

/// Writes the first line to standard output, unless it was written.
pub fn begin_json() {
    if !BEGUN.swap(true, Ordering::Relaxed) {
        write(&FirstLine::default());
    }
}

/// Whether an error was written.
pub fn has_written_error() -> bool {
    ERROR_WRITTEN.load(Ordering::Relaxed)
}

fn write(line: &impl Serialize) {
    match serde_json::to_string(line) {
        Ok(line) => line_to_stdout(&line),
        Err(error) => tracing::error!("cannot write an event: {error}"),
    }
}

impl Audience for JsonLines {
    fn hear(&self, event: &Event) {
        begin_json();
        if let Event::StepStarted { id, .. } = event {
            self.step.replace(Some(id.clone()));
        }
        let step = event.step().map(str::to_owned).or_else(|| self.step.borrow().clone());
        EventLine::now(event.clone(), step).write();
        let has_ended = matches!(
            event,
            Event::StepCompleted { .. }
                | Event::StepInterrupted { .. }
                | Event::StepPreviewed { .. }
                | Event::Error { .. }
        );
        // What a failed step failed with follows it.
        if has_ended {
            self.step.replace(None);
        }
    }

    fn about(&self, step: Option<&str>) {
        self.step.replace(step.map(str::to_owned));
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
