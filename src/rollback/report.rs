//! What became of each change, or would.

use serde_json::{Value, json};

use crate::change::Change;
use crate::exit_code::ExitCode;
use crate::journal::{ChangeId, ChangeRecord, Intent};
use crate::target::Target;

/// One change and what became of it, or would.
#[derive(Clone, Debug)]
pub struct Row {
    /// The change.
    pub change: ChangeId,
    /// Its step.
    pub step: Option<String>,
    /// Its target.
    pub target: String,
    /// One line.
    pub summary: String,
    /// The difference, the reason, the error.
    pub detail: Option<String>,
    /// What the operator can do about it, a line each.
    pub hints: Vec<String>,
    /// The class that has to be named to lose it.
    pub class: Option<&'static str>,
    /// What the undo did, for people.
    pub(super) done: String,
    /// It belongs to another step from now on.
    pub(super) is_left: bool,
}

/// What became of all of them.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Undone.
    pub undone: Vec<Row>,
    /// Kept: undoing them would lose data.
    pub kept: Vec<Row>,
    /// Not undone: there is no way to undo them.
    pub not_undone: Vec<Row>,
    /// Left as they are, because of a conflict.
    pub conflicts: Vec<Row>,
    /// Their undo action failed.
    pub failed: Vec<Row>,
}

impl Report {
    /// The exit status of the rollback.
    pub fn exit(&self) -> ExitCode {
        if self.conflicts.is_empty() && self.failed.is_empty() {
            ExitCode::DONE
        } else {
            ExitCode::UNDONE_IN_PART
        }
    }

    /// One line that sums it up; of a preview, `dry_run`, what would be.
    pub fn sentence(&self, dry_run: bool) -> String {
        let conflicts = if self.conflicts.len() == 1 { "conflict" } else { "conflicts" };
        let would_be = if dry_run { "would be " } else { "" };
        let sentence = format!(
            "{} {would_be}undone · {} kept · {} {conflicts} · {} failed",
            self.undone.len(),
            self.kept.len(),
            self.conflicts.len(),
            self.failed.len()
        );
        match self.not_undone.len() {
            0 => sentence,
            left => format!("{sentence} · {left} not undone"),
        }
    }

    /// What became of the changes, a line for each fate.
    pub fn lines(&self) -> Vec<String> {
        let (in_part, undone): (Vec<&Row>, Vec<&Row>) =
            self.undone.iter().partition(|row| row.detail.is_some());
        let undone: Vec<&str> = undone.into_iter().map(|row| row.summary.as_str()).collect();
        let mut lines: Vec<String> = in_part.into_iter().filter_map(|row| row.detail.clone()).collect();
        if !undone.is_empty() {
            lines.push(format!("undone because of that: {}", undone.join(", ")));
        }
        for (fate, rows) in [
            ("kept", &self.kept),
            ("not undone", &self.not_undone),
            ("conflict", &self.conflicts),
            ("not undone", &self.failed),
        ] {
            let line = |row: &Row| {
                let why = row.detail.as_deref().and_then(|detail| detail.lines().next());
                why.map_or_else(
                    || format!("{fate}: {}", row.summary),
                    |why| format!("{fate}: {}: {why}", row.summary),
                )
            };
            lines.extend(rows.iter().map(line));
        }
        lines
    }

    /// The form that scripts get.
    pub fn to_json(&self) -> Value {
        let rows = |rows: &[Row]| -> Vec<Value> {
            let row = |row: &Row| {
                json!({
                    "change": row.change, "step": row.step, "target": row.target, "summary": row.summary,
                    "detail": row.detail, "hints": row.hints, "class": row.class,
                })
            };
            rows.iter().map(row).collect()
        };
        json!({
            "undone": rows(&self.undone),
            "kept": rows(&self.kept),
            "not_undone": rows(&self.not_undone),
            "conflicts": rows(&self.conflicts),
            "failed": rows(&self.failed),
        })
    }
}

pub(super) fn row_of(known: &ChangeRecord) -> Row {
    row_about(known, Change::of_intent(&known.intent).ok().as_ref())
}

/// The row of a change whose intent was read; none if this kkrun does not know its form.
pub(super) fn row_about(known: &ChangeRecord, change: Option<&Change>) -> Row {
    Row {
        change: known.id,
        step: known.intent.step.clone(),
        target: known.intent.target.to_string(),
        summary: known.intent.summary.clone(),
        detail: None,
        hints: Vec::new(),
        class: None,
        done: done_by_undo(&known.intent, change),
        is_left: false,
    }
}

/// What undoing a change does, for people: it removes or restores a whole path. Of others it names the change.
fn done_by_undo(intent: &Intent, change: Option<&Change>) -> String {
    match (&intent.target, change) {
        (Target::File(path), Some(Change::File(change))) if change.states().0.is_absent() => {
            format!("removed {path}")
        }
        (Target::File(path), Some(Change::File(change))) if !change.keeps_content() => {
            format!("restored {path}")
        }
        _ => format!("undone: {}", intent.summary),
    }
}
