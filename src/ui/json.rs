//! Events as JSON, one a line on standard output, so that another program can drive kkrun.

use std::cell::{Cell, RefCell};

use anyhow::Result;
use serde_json::json;

use super::output::line_to_stdout;
use super::questions::Questions;
use crate::event::{Answer, Audience, ChangeOutcome, Event, Question, SCHEMA};
use crate::machine::clock;

/// The audience of `--json`.
pub struct JsonLines {
    questions: Questions,
    begun: Cell<bool>,
    /// The step that is under way.
    step: RefCell<Option<String>>,
}

impl JsonLines {
    /// Nothing is written before the first event.
    pub fn new(questions: Questions) -> Self {
        Self { questions, begun: Cell::new(false), step: RefCell::default() }
    }
}

impl Audience for JsonLines {
    fn hear(&self, event: &Event) {
        if !self.begun.replace(true) {
            let first = json!({ "event": "schema", "version": SCHEMA, "kkrun": env!("CARGO_PKG_VERSION") });
            line_to_stdout(&first.to_string());
        }
        if let Event::StepStarted { id, .. } = event {
            self.step.replace(Some(id.clone()));
        }
        if let Ok(serde_json::Value::Object(mut line)) = serde_json::to_value(event) {
            let step = || line.get("id").cloned().or_else(|| self.step.borrow().clone().map(Into::into));
            let step = line.get("step").cloned().or_else(step).unwrap_or_default();
            line.insert("step".to_owned(), step);
            line.insert("time".to_owned(), clock::now().to_string().into());
            line_to_stdout(&serde_json::Value::Object(line).to_string());
        }
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
        matches!(outcome, ChangeOutcome::Would | ChangeOutcome::WouldAsk)
    }

    fn agrees_unasked(&self) -> bool {
        self.questions.yes
    }

    fn ask(&self, question: &Question) -> Result<Option<Answer>> {
        self.questions.ask(question)
    }
}
