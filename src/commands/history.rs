//! `kkrun history [STEP|TARGET]...`: changes with their states, oldest first.

use std::path::PathBuf;

use anyhow::Result;

use super::chosen_plan;
use super::data::{RecordedChange, Row};
use crate::cli::Options;
use crate::config;
use crate::exit_code::ExitCode;
use crate::journal::{self, ChangeRecord, ChangeState, Class, History};
use crate::machine::{clock, lock};
use crate::rollback::{Asked, is_at};
use crate::time;
use crate::ui::{begin_json, brief, line_to_stderr, line_to_stdout, wrapped_data};

/// Shows the changes of every plan, or of one; all, or those of these steps and to these targets.
pub(super) fn execute(options: &Options, steps: &[String], plan: Option<&str>) -> Result<ExitCode> {
    let launch = config::launch(&Options { dry_run: true, ..options.clone() }, "kkrun history")?;
    let directory = launch.state.clone();
    let history = journal::load(&directory)?.history;
    let world = launch.world_for_dry_run(super::reporter(options));
    let redactor = super::redactor(&directory)?;
    let is_at_work = lock::is_held(&directory.join("lock"));
    let plan = plan.map(|typed| chosen_plan::named(&history, typed)).transpose()?;
    if history.changes.is_empty() {
        line_to_stderr("no changes are recorded");
    }
    let asked: Vec<Asked> = steps.iter().map(|word| word.as_str().into()).collect();
    let paths: Vec<PathBuf> = asked.iter().filter_map(Asked::path).collect();
    let is_asked = |change: &&ChangeRecord| {
        plan.as_ref().is_none_or(|plan| change.plan == *plan)
            && (asked.is_empty()
                || asked.iter().any(|asked| asked.is_for(change))
                || paths.iter().any(|path| is_at(change, path, &world)))
    };
    if !history.changes.is_empty() && !history.changes.iter().any(|change| is_asked(&change)) {
        line_to_stderr("no such changes are recorded");
    }
    if options.json {
        begin_json();
    }
    for change in history.changes.iter().filter(is_asked) {
        let (state, detail) = match change.state {
            // A run in progress has not recorded the outcome yet.
            ChangeState::InDoubt if is_at_work && history.is_of_newest_run(change) => ("under way", None),
            _ => state_of(change, &history),
        };
        if options.json {
            Row::History(RecordedChange::new(change, (state, detail))).write(&redactor)?;
            continue;
        }
        let when = time::when(change.time, clock::now(), &clock::zone());
        let step = change.intent.step.as_deref().unwrap_or("-");
        let detail = detail.and_then(|text| text.lines().next().map(|line| format!(" ({})", brief(line))));
        let detail = detail.unwrap_or_default();
        let line = redactor.redact(&format!(
            "#{:<5} {when:<16} {:<14} {step:<4} {state:<12} {}{detail}",
            change.id, change.plan, change.intent.summary
        ));
        line_to_stdout(&wrapped_data(&line, 8));
    }
    Ok(ExitCode::DONE)
}

/// The name of a state and its detail.
pub(super) fn state_of<'a>(change: &'a ChangeRecord, history: &History) -> (&'static str, Option<&'a str>) {
    if let Some(error) = history.failure_of(change) {
        return ("failed", Some(error));
    }
    match &change.state {
        ChangeState::Done | ChangeState::Kept(_) if change.intent.class == Class::Irreversible => {
            ("irreversible", change.intent.loses.as_deref())
        }
        ChangeState::InDoubt => ("in doubt", None),
        ChangeState::Done => ("done", None),
        ChangeState::Void => ("not made", None),
        ChangeState::Undoing => ("undoing", None),
        ChangeState::Undone(_) => ("undone", None),
        ChangeState::Conflict(why) => ("conflict", Some(why)),
        ChangeState::Kept(why) => ("kept", Some(why)),
        ChangeState::UndoFailed(error) => ("undo failed", Some(error)),
    }
}
