//! `kkrun status [PLAN]`: the state of every plan of the machine by the journal, or of one plan with its steps, which are
//! examined. Nothing is changed.

use std::path::PathBuf;

use anyhow::Result;
use console::{Emoji, style};
use jiff::Timestamp;
use serde::Serialize;

use super::{chosen_plan, data};
use crate::cli::Options;
use crate::config;
use crate::exit_code::ExitCode;
use crate::failure::{Failure, sentence};
use crate::journal::{History, PendingHandler, RunRecord};
use crate::machine::{clock, lock};
use crate::pasteable::pasteable;
use crate::plan::{Launch, StepRow, StepStatus, examined, log_of, recorded_rows};
use crate::redaction::Redactor;
use crate::text::printable;
use crate::time;
use crate::ui::{begin_json, brief, line_to_stdout, wrapped_data};

/// How many of the last lines of a step that failed are shown.
const LAST_LINES: usize = 8;

/// The state of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub(super) enum PlanState {
    Running,
    Failed,
    Interrupted,
    Drifted,
    Stale,
    OnHold,
    Pending,
    Complete,
}

/// What is shown of a plan.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "event", rename = "status")]
pub(super) struct PlanStatus {
    plan: String,
    pub(super) state: PlanState,
    /// Since when it is so, by the newest record about a step; of a state that no record begins, `null`.
    since: Option<Timestamp>,
    /// Its steps were examined; otherwise all is by the journal alone.
    examined: bool,
    /// Why it could not be examined.
    not_examined: Option<String>,
    script: Option<String>,
    last_run: Option<LastRun>,
    /// How many of its changes are live.
    changes: usize,
    /// How many of these cannot be undone.
    not_undoable: usize,
    pub(super) pending: Vec<String>,
    overrides: Vec<String>,
    steps: Vec<StepRow>,
    /// The last lines of the newest step that failed or was interrupted.
    last_lines: Vec<String>,
    pub(super) next: Vec<String>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct LastRun {
    run: String,
    script: String,
    started: Timestamp,
    ended: Option<Timestamp>,
    exit: Option<u8>,
}

impl From<&RunRecord> for LastRun {
    fn from(record: &RunRecord) -> Self {
        let (ended, exit) = record.ended.unzip();
        Self { run: record.run.clone(), script: record.script.clone(), started: record.started, ended, exit }
    }
}

/// Shows all plans, or this one with its steps.
pub(super) fn execute(options: &Options, typed: Option<&str>) -> Result<ExitCode> {
    let options = Options { dry_run: true, ..options.clone() };
    let launch = config::launch(&options, "kkrun status")?;
    // Only what is examined is compared with what was recorded of its targets.
    let history = if typed.is_none() { launch.history_about_steps()? } else { launch.history()? };
    let redactor = super::redactor(&launch.state)?;
    let mut exit = ExitCode::DONE;
    let known: Vec<String> = chosen_plan::known_plans(&history).into_iter().map(str::to_owned).collect();
    let found = match typed {
        Some(typed) => {
            let plan = chosen_plan::named(&history, typed)?;
            let given = chosen_plan::is_script(typed).then(|| PathBuf::from(typed));
            let script = given.or_else(|| chosen_plan::script_of(&history, &plan));
            let examination = script.map(|script| {
                config::become_root_for(&options, &script)?;
                let reporter = super::reporter(&options);
                examined(&launch, &script, &reporter).map(|(_, rows)| rows)
            });
            if let Some(Err(error)) = &examination {
                exit = super::exit_of(error);
            }
            vec![status_of(&launch, &history, &plan, examination)?]
        }
        None => {
            known.iter().map(|plan| status_of(&launch, &history, plan, None)).collect::<Result<Vec<_>>>()?
        }
    };
    if options.json {
        begin_json();
        for status in found {
            data::write(&status, &redactor)?;
        }
        return Ok(exit);
    }
    if found.is_empty() {
        line_to_stdout("no plan has recorded anything here yet");
    }
    for (at, status) in found.iter().enumerate() {
        if at > 0 {
            line_to_stdout("");
        }
        show(status, typed.is_some(), &redactor);
    }
    Ok(exit)
}

/// Of a plan, by its record alone unless it was examined.
pub(super) fn status_of(
    launch: &Launch,
    history: &History,
    plan: &str,
    examination: Option<Result<Vec<StepRow>>>,
) -> Result<PlanStatus> {
    let last = history.last_runs.get(plan);
    let is_running = lock::is_held(&launch.state.join("lock"))
        && last.is_some_and(|last| history.last_run.as_ref().is_some_and(|(run, _)| *run == last.run));
    let recorded = || recorded_rows(history, plan, is_running);
    let (steps, is_examined, not_examined) = match examination {
        None => (recorded(), false, None),
        Some(Ok(rows)) => (rows, true, None),
        Some(Err(error)) => (recorded(), false, Some(why_not_examined(&error))),
    };
    let state = match state_of(&steps, is_running) {
        // Steps that were never begun are not in the journal: how the run ended says that there may be some.
        PlanState::Complete if !is_examined && history.was_interrupted(plan) => PlanState::Interrupted,
        state => state,
    };
    let newest = steps.iter().rev().find(|step| is_broken(step.status));
    let last_lines = match newest {
        Some(step) => last_lines(launch, plan, &step.id)?,
        None => Vec::new(),
    };
    let live = history.live_count(plan);
    let boot = clock::boot_id()?;
    let handlers = history.pending.iter().filter(|pending| pending.plan == plan);
    let reboots = history.reboots(&boot).filter(|reboot| reboot.plan == plan);
    let pending = handlers
        .map(PendingHandler::sentence)
        .chain(reboots.map(|reboot| format!("a restart of the machine: {}", reboot.why)))
        .collect();
    let overrides = history.overrides.get(plan).into_iter().flatten();
    let script = chosen_plan::script_of(history, plan).map(|script| script.display().to_string());
    // When something drifted, became stale or was undone, no record of a step says.
    let is_known = matches!(
        state,
        PlanState::Running | PlanState::Failed | PlanState::Interrupted | PlanState::Complete
    );
    let since = steps.iter().filter_map(|step| step.finished.max(step.started)).max();
    let since = since.or(last.map(|last| last.started)).filter(|_| is_known);
    let mut status = PlanStatus {
        plan: plan.to_owned(),
        state,
        since,
        examined: is_examined,
        not_examined,
        script,
        last_run: last.map(LastRun::from),
        changes: live.changes,
        not_undoable: live.irreversible,
        pending,
        overrides: overrides.map(|(key, value)| format!("{key} = {value}")).collect(),
        steps,
        last_lines,
        next: Vec::new(),
    };
    status.next = next(&status, history).iter().map(|text| pasteable(text)).collect();
    Ok(status)
}

/// Why the steps could not be examined, with the place of what is wrong in a script.
fn why_not_examined(error: &anyhow::Error) -> String {
    let failure = error.downcast_ref::<Failure>();
    let first = failure.map(|failure| failure.problems.first().unwrap_or(failure));
    match first.and_then(|first| Some((first, first.place.as_ref()?))) {
        Some((first, place)) => format!("{}:{}:{}: {}", place.file, place.line, place.column, first.message),
        None => sentence(error),
    }
}

fn is_broken(status: StepStatus) -> bool {
    matches!(status, StepStatus::Failed | StepStatus::Interrupted)
}

/// The state of a plan is that of the step which needs attention most.
fn state_of(steps: &[StepRow], is_running: bool) -> PlanState {
    let has = |status: StepStatus| steps.iter().any(|step| step.status == status);
    if is_running || has(StepStatus::Running) {
        return PlanState::Running;
    }
    [
        (StepStatus::Failed, PlanState::Failed),
        (StepStatus::Interrupted, PlanState::Interrupted),
        (StepStatus::Drifted, PlanState::Drifted),
        (StepStatus::Stale, PlanState::Stale),
        (StepStatus::OnHold, PlanState::OnHold),
        (StepStatus::Pending, PlanState::Pending),
    ]
    .into_iter()
    .find_map(|(status, state)| has(status).then_some(state))
    .unwrap_or(if steps.is_empty() { PlanState::Pending } else { PlanState::Complete })
}

fn last_lines(launch: &Launch, plan: &str, step: &str) -> Result<Vec<String>> {
    let Some(path) = log_of(&launch.state, plan, step)? else { return Ok(Vec::new()) };
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(LAST_LINES)..]
        .iter()
        .map(|line| printable(line).into_owned())
        .collect())
}

/// The commands that lead on, a sentence each.
fn next(status: &PlanStatus, history: &History) -> Vec<String> {
    let named = shell_words::quote(&status.plan);
    if let Some(unfinished) = history.rollback.as_ref().filter(|unfinished| unfinished.plan == status.plan) {
        return vec![format!("a rollback was interrupted: finish it with `{}`", unfinished.invocation())];
    }
    let Some(script) = &status.script else { return Vec::new() };
    let call = format!("kkrun {}", shell_words::quote(script));
    let on_hold: Vec<&str> = status
        .steps
        .iter()
        .filter(|step| step.status == StepStatus::OnHold)
        .map(|step| step.id.as_str())
        .collect();
    if status.not_examined.is_some() {
        return vec![
            format!("`kkrun check {}` shows what is wrong in its scripts", shell_words::quote(script)),
            format!("`{call} --verify --secrets FILE` examines it with the secrets that it asks for"),
        ];
    }
    match status.state {
        PlanState::Running => vec![],
        PlanState::Failed => vec![format!("fix the cause, then `{call}` resumes where it stopped")],
        PlanState::Interrupted => vec![format!("`{call}` resumes where it stopped")],
        PlanState::Drifted => vec![format!("`{call} --repair` runs what no longer holds")],
        PlanState::Stale => vec![format!("`{call}` runs the steps whose inputs changed")],
        PlanState::OnHold => vec![format!("`{call} --redo {}` runs what is on hold", on_hold.join(","))],
        PlanState::Pending => vec![format!("`{call}` runs what is pending")],
        PlanState::Complete if status.examined => vec![],
        PlanState::Complete => vec![format!("not examined: `kkrun status {named}` examines it")],
    }
}

fn show(status: &PlanStatus, with_steps: bool, redactor: &Redactor) {
    let hanging = |text: &str, behind: usize| {
        line_to_stdout(&wrapped_data(&pasteable(&redactor.redact(text)), behind));
    };
    let line = |text: &str| hanging(text, 4);
    let now = clock::now();
    let when = |then: Timestamp| time::when(then, now, &clock::zone());
    let done = status.steps.iter().filter(|step| step.status == StepStatus::Complete).count();
    let since = status.since.map(|then| format!(" since {}", when(then))).unwrap_or_default();
    let state = label(&status.state);
    let state = match status.state {
        PlanState::Complete => style(state).green(),
        PlanState::Failed => style(state).red(),
        PlanState::Running | PlanState::Pending => style(state),
        _ => style(state).yellow(),
    };
    // The journal knows the steps that were begun, the plan may have more.
    let (begun, counted) = if status.examined { ("", "") } else { (" begun", " by the journal") };
    line(&format!(
        "{} {} · {state}{since} · {done} of {}{begun} steps complete{counted}",
        Emoji("●", "*"),
        style(&status.plan).bold(),
        status.steps.len()
    ));
    let field = |name: &str, text: &str| hanging(&format!("{name:>12}: {text}"), 14);
    if let Some(script) = &status.script {
        field("script", script);
    }
    if let Some(run) = &status.last_run {
        let how = match (run.exit, run.ended) {
            (Some(exit), Some(ended)) => {
                let took = ended.duration_since(run.started).as_secs_f64();
                format!("took {}, ended with exit status {exit}", time::duration(took))
            }
            _ if status.state == PlanState::Running => "in progress".to_owned(),
            _ => "without an end: it was killed".to_owned(),
        };
        field("last run", &format!("`{}`, {}, {how}", run.script, when(run.started)));
    }
    if status.changes > 0 {
        let left = match status.not_undoable {
            0 => String::new(),
            left if left == status.changes => {
                if left == 1 { ", which cannot be undone" } else { ", none of which can be undone" }
                    .to_owned()
            }
            left => format!(", {left} of them cannot be undone"),
        };
        field("changes", &format!("{}{left}", status.changes));
    }
    for text in &status.overrides {
        field("override", text);
    }
    for text in &status.pending {
        field("pending", text);
    }
    if let Some(why) = &status.not_examined {
        field("not examined", why);
    }
    if with_steps {
        line("");
        let widths = status.steps.iter().map(|step| console::measure_text_width(&step.title));
        let width = widths.max().unwrap_or(0);
        for step in &status.steps {
            hanging(&step_line(step, width.min(40), &when), 8);
        }
    }
    if let Some(step) = status.steps.iter().rev().find(|step| is_broken(step.status))
        && !status.last_lines.is_empty()
    {
        line("");
        let (id, plan) = (shell_words::quote(&step.id), shell_words::quote(&status.plan));
        let head = format!("last lines of step {} (`kkrun log {id} --plan {plan}`)", step.id);
        line(&head);
        for text in &status.last_lines {
            line(&format!("  {}", style(brief(text)).dim()));
        }
    }
    for text in &status.next {
        field("next", text);
    }
}

fn step_line(step: &StepRow, width: usize, when: &dyn Fn(Timestamp) -> String) -> String {
    let symbol = match step.status {
        StepStatus::Pending => Emoji("⏳", ".."),
        StepStatus::Running => Emoji("🔄", ">>"),
        StepStatus::Interrupted => Emoji("🛑", "!!"),
        StepStatus::Failed => Emoji("❌", "!!"),
        StepStatus::OnHold => Emoji("✋", "--"),
        StepStatus::Complete => Emoji("✅", "ok"),
        StepStatus::Stale => Emoji("🔁", "<>"),
        StepStatus::Drifted => Emoji("❗", "!!"),
    };
    let mut parts = vec![label(&step.status)];
    // What is pending again was complete or failed once.
    if step.status != StepStatus::Pending {
        parts.extend(step.finished.or(step.started).map(when));
        parts.extend(step.seconds.map(time::duration));
    }
    match step.changes {
        0 => {}
        1 => parts.push("1 change".to_owned()),
        changes => parts.push(format!("{changes} changes")),
    }
    if step.forgotten > 0 {
        parts.push(format!("{} of them forgotten: they cannot be undone", step.forgotten));
    }
    parts.extend(step.error.iter().map(|error| brief(error)));
    parts.extend(step.reason.iter().cloned());
    parts.retain(|part| !part.is_empty());
    let padding = width.saturating_sub(console::measure_text_width(&step.title));
    format!("  {symbol} {} {}{} {}", step.id, step.title, " ".repeat(padding), parts.join(" · "))
}

/// The word for a state, as it is in JSON.
pub(super) fn label(state: &impl Serialize) -> String {
    let word = serde_json::to_value(state).ok().and_then(|value| Some(value.as_str()?.replace('_', " ")));
    word.unwrap_or_default()
}
