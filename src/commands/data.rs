//! The data of commands as JSON: an object a line behind the line that names its form, see docs/events.md.

use anyhow::Result;
use jiff::Timestamp;
use serde::Serialize;

use crate::journal::{ChangeId, ChangeRecord, Class, Handler};
use crate::redaction::Redactor;
use crate::ui::line_to_stdout;

/// Writes a line of data without secrets.
pub(super) fn write(line: &impl Serialize, redactor: &Redactor) -> Result<()> {
    line_to_stdout(&redactor.redact(&serde_json::to_string(line)?));
    Ok(())
}

/// A line of a command whose data has no type of its own.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Row {
    /// A change, as `history` shows it.
    History(RecordedChange),
    /// A change, as `show` shows it.
    Show {
        /// The same as of `history`.
        #[serde(flatten)]
        change: RecordedChange,
        /// The kind of change.
        what: String,
        /// What it changed line by line, as far as that is kept.
        difference: Option<String>,
    },
    /// What is pending, as `pending` shows it.
    Pending {
        /// Its number; none of a restart of the machine.
        pending: Option<usize>,
        /// The plan that has it.
        plan: String,
        /// The step that has it.
        step: Option<String>,
        /// One line for people.
        summary: String,
        /// What is run; none for a restart of the machine.
        handler: Option<Handler>,
        /// The changes that triggered it.
        changes: Vec<ChangeId>,
        /// All of these are undone.
        after_undo: bool,
        /// Why the machine must be restarted.
        why: Option<String>,
    },
    /// A pending handler that was dropped.
    Dropped {
        /// Its number.
        dropped: usize,
        /// The plan that had it.
        plan: String,
        /// One line for people.
        summary: String,
    },
    /// What a step printed.
    Log {
        /// The plan of the step.
        plan: Option<String>,
        /// The step.
        step: Option<String>,
        /// The run in which it printed that.
        run: Option<String>,
        /// What it printed.
        lines: Vec<String>,
    },
    /// The end of `check`.
    Checked {
        /// How many scripts were read.
        scripts: usize,
        /// How many problems they have.
        problems: usize,
    },
}

impl Row {
    /// Writes it without secrets.
    pub(super) fn write(&self, redactor: &Redactor) -> Result<()> {
        write(self, redactor)
    }
}

/// A change by its record.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct RecordedChange {
    change: ChangeId,
    plan: String,
    step: Option<String>,
    run: String,
    time: Timestamp,
    target: String,
    summary: String,
    /// As `history` names it.
    state: String,
    /// Why it is so.
    detail: Option<String>,
    class: Class,
}

impl RecordedChange {
    /// Of this record, in the state that is shown of it.
    pub(super) fn new(change: &ChangeRecord, (state, detail): (&str, Option<&str>)) -> Self {
        Self {
            change: change.id,
            plan: change.plan.clone(),
            step: change.intent.step.clone(),
            run: change.run.clone(),
            time: change.time,
            target: change.intent.target.to_string(),
            summary: change.intent.summary.clone(),
            state: state.to_owned(),
            detail: detail.map(str::to_owned),
            class: change.intent.class,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::Diagnosis;
    use crate::commands::status::PlanStatus;
    use crate::event::FirstLine;
    use crate::ui::EventLine;

    /// Any line that kkrun writes with `--json`.
    #[expect(dead_code, reason = "only its schema is made")]
    #[derive(Serialize, schemars::JsonSchema)]
    #[serde(untagged)]
    #[schemars(title = "A line of kkrun --json")]
    enum Line {
        /// The first line.
        First(FirstLine),
        /// Something that happens.
        Event(EventLine),
        /// A line of data.
        Row(Row),
        /// A plan.
        Status(PlanStatus),
        /// The state of the journal.
        Doctor(Diagnosis),
    }

    #[test]
    fn schema_in_docs_is_the_one_of_the_types() {
        let schema = schemars::generate::SchemaSettings::draft2020_12()
            .for_serialize()
            .into_generator()
            .into_root_schema_for::<Line>();
        let schema = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        // `SNAPSHOTS=overwrite` writes the file.
        snapbox::assert_data_eq!(schema, snapbox::file!["../../docs/events.schema.json"].raw());
    }
}
