//! Events as JSON, one a line on standard output, so that another program can drive kkrun.

use std::cell::Cell;

use anyhow::Result;
use serde_json::json;

use super::output::line_to_stdout;
use super::questions::Questions;
use crate::event::{Answer, Audience, ChangeOutcome, Event, Question, SCHEMA};

/// The audience of `--json`.
pub struct JsonLines {
    questions: Questions,
    begun: Cell<bool>,
}

impl JsonLines {
    /// Nothing is written before the first event.
    pub fn new(questions: Questions) -> Self {
        Self { questions, begun: Cell::new(false) }
    }
}

impl Audience for JsonLines {
    fn hear(&self, event: &Event) {
        if !self.begun.replace(true) {
            let first = json!({ "event": "schema", "version": SCHEMA, "kkrun": env!("CARGO_PKG_VERSION") });
            line_to_stdout(&first.to_string());
        }
        if let Ok(line) = serde_json::to_string(event) {
            line_to_stdout(&line);
        }
    }

    fn shows_differences(&self, outcome: ChangeOutcome) -> bool {
        matches!(outcome, ChangeOutcome::Would | ChangeOutcome::WouldAsk)
    }

    fn agrees_unasked(&self) -> bool {
        self.questions.yes
    }

    fn ask(&self, question: &Question) -> Result<Option<Answer>> {
        self.questions.ask(question)
    }
}
