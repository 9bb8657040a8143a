//! The status of each step of a plan: what its record says, and what an examination finds.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Serialize;

use crate::journal::{ChangeRecord, History, StepRecord, StepState};
use crate::target::Target;

/// The status of a step, by its record and, if it was examined, by the observed state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum StepStatus {
    /// Not begun, forgotten, or undone.
    #[default]
    Pending,
    /// A run is at it.
    Running,
    /// Begun, with no end of its own.
    Interrupted,
    /// Failed.
    Failed,
    /// Rolled back alone; not run until it is named.
    OnHold,
    /// Complete.
    Complete,
    /// Complete, but its inputs changed.
    Stale,
    /// Complete, but its effect no longer holds.
    Drifted,
}

/// What an examination or a preview found about a step.
#[derive(Clone, Debug, Default)]
pub struct StepReport {
    /// The step's id.
    pub id: String,
    /// Its title.
    pub title: String,
    /// Its script.
    pub script: String,
    /// Its status.
    pub status: StepStatus,
    /// Why it is stale or drifted, or what is to be known of it though it is complete.
    pub reason: Option<String>,
    /// The targets that it asks for, if all of it could be examined.
    pub asks: Option<BTreeSet<Target>>,
    /// The variables of the environment that it reads are what they were when it completed: with others it may ask for
    /// something else, as one that asks for the user who called sudo.
    pub is_as_asked: bool,
}

/// A step in a report of a plan's status.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StepRow {
    /// Its id.
    pub id: String,
    /// Its title.
    pub title: String,
    /// Its script.
    pub script: String,
    /// Its status.
    pub status: StepStatus,
    /// When it last began.
    pub started: Option<Timestamp>,
    /// When it last ended.
    pub finished: Option<Timestamp>,
    /// How long it took, in seconds.
    pub seconds: Option<f64>,
    /// How often it was begun to come to where it is.
    pub attempts: u32,
    /// Why it failed.
    pub error: Option<String>,
    /// How many of its changes are live.
    pub changes: usize,
    /// How many of these were forgotten.
    pub forgotten: usize,
    /// Why it is stale or drifted, or what else is to be said of it.
    pub reason: Option<String>,
}

/// The rows of the steps that were examined, and of those with live changes that the plan does not have any more.
pub(super) fn rows(history: &History, plan: &str, mut reports: Vec<StepReport>) -> Vec<StepRow> {
    let removed = removed_steps(history, plan, &reports);
    name_left_targets(history, plan, &mut reports);
    reports.extend(removed);
    reports.into_iter().map(|report| row(history, plan, report)).collect()
}

/// The rows of the steps of which something is recorded, by their records alone; `is_running` says whether a run of the
/// plan is at work.
pub fn recorded_rows(history: &History, plan: &str, is_running: bool) -> Vec<StepRow> {
    let report = |(id, record): (&String, &StepRecord)| StepReport {
        id: id.clone(),
        title: record.title.clone(),
        script: record.script.clone(),
        status: by_record(record, is_running),
        reason: record.accepted_because(),
        asks: None,
        is_as_asked: true,
    };
    history.steps_of(plan).map(report).map(|report| row(history, plan, report)).collect()
}

fn row(history: &History, plan: &str, report: StepReport) -> StepRow {
    let record = history.step(plan, &report.id).cloned().unwrap_or_default();
    let live = history.live_count_of(plan, &report.id);
    StepRow {
        changes: live.changes,
        forgotten: live.forgotten,
        started: record.started,
        finished: record.finished,
        seconds: record.seconds,
        attempts: record.attempts,
        error: record.error.filter(|_| report.status == StepStatus::Failed),
        id: report.id,
        title: report.title,
        script: report.script,
        status: report.status,
        reason: report.reason,
    }
}

/// The status of a step by its record alone.
pub(super) fn by_record(record: &StepRecord, is_running: bool) -> StepStatus {
    match record.state {
        StepState::Pending => StepStatus::Pending,
        StepState::Started if is_running => StepStatus::Running,
        StepState::Started | StepState::Interrupted => StepStatus::Interrupted,
        StepState::Failed => StepStatus::Failed,
        StepState::OnHold => StepStatus::OnHold,
        StepState::Complete => StepStatus::Complete,
    }
}

/// Steps with live changes that the plan does not have any more.
fn removed_steps(history: &History, plan: &str, reports: &[StepReport]) -> Vec<StepReport> {
    let is_gone = |id: &str| {
        let is_left = history.live_changes_of(plan, id).any(ChangeRecord::awaits_rollback);
        is_left && !reports.iter().any(|report| report.id == id)
    };
    let recorded = history.steps_of(plan).filter(|(id, _)| is_gone(id));
    let report = |(id, record): (&String, &StepRecord)| StepReport {
        id: id.clone(),
        title: record.title.clone(),
        script: record.script.clone(),
        status: by_record(record, false),
        reason: Some(match taken_over_by(history, plan, id, reports) {
            Some(by) => format!("no longer in the plan; what it made is asked for by step {by}"),
            None => format!(
                "no longer in the plan; `kkrun rollback {}{}` undoes it",
                shell_words::quote(id),
                history.plan_option(plan)
            ),
        }),
        asks: None,
        is_as_asked: true,
    };
    recorded.map(report).collect()
}

/// The step that asks for all that a removed one made: it was given another id.
fn taken_over_by<'a>(history: &History, plan: &str, id: &str, reports: &'a [StepReport]) -> Option<&'a str> {
    let asks_for_all = |report: &&StepReport| {
        let Some(asks) = &report.asks else { return false };
        let mut left = history.live_changes_of(plan, id).filter(|change| !change.is_irreversible());
        left.all(|change| change.intent.target.is_asked_for(asks))
    };
    reports.iter().find(asks_for_all).map(|report| report.id.as_str())
}

/// How many targets that are not asked for any more are named.
const MOST_NAMED: usize = 3;

/// Whether every primitive that changes such a target says that it asks for it.
fn is_always_asked_for(target: &Target) -> bool {
    !matches!(target, Target::Packages(_) | Target::PackageSet { .. } | Target::Statement { .. })
}

/// Names what complete steps made and do not ask for any more, with the way to undo it.
fn name_left_targets(history: &History, plan: &str, reports: &mut [StepReport]) {
    let all: BTreeSet<Target> = reports.iter().filter_map(|report| report.asks.clone()).flatten().collect();
    for report in reports.iter_mut().filter(|report| report.asks.is_some()) {
        let changes = history.live_changes_of(plan, &report.id).filter(|change| !change.is_irreversible());
        let targets = changes.map(|change| &change.intent.target);
        let is_left = |target: &&Target| is_always_asked_for(target) && !target.is_asked_for(&all);
        let left: BTreeSet<&Target> = targets.filter(is_left).collect();
        let knows_all = !report.asks.iter().flatten().any(|asked| matches!(asked, Target::Once(_)));
        if left.is_empty() || !knows_all || !report.is_as_asked {
            continue;
        }
        let left: Vec<String> = left.into_iter().map(Target::to_string).collect();
        let named = &left[..left.len().min(MOST_NAMED)];
        let more = if left.len() > named.len() {
            format!(" and {} more", left.len() - named.len())
        } else {
            String::new()
        };
        let undo =
            shell_words::join(["kkrun", "rollback"].into_iter().chain(left.iter().map(String::as_str)));
        let of_plan = history.plan_option(plan);
        let left = format!("no longer asks for {}{more}; `{undo}{of_plan}` undoes it", named.join(", "));
        report.reason =
            Some(report.reason.take().map_or_else(|| left.clone(), |known| format!("{known}; {left}")));
    }
}
