//! `kkrun rollback [STEP]...`: undoes what was done, from the journal alone.

use anyhow::{Result, bail};

use super::chosen_plan;
use crate::cli::Options;
use crate::config;
use crate::event::Event;
use crate::exit_code::ExitCode;
use crate::failure::{Failure, FailureKind};
use crate::journal::{ChangeRecord, Entry, History, StepState};
use crate::machine::clock;
use crate::pasteable::pasteable;
use crate::plan::rollback_session;
use crate::rollback::{Report, Request, apply, preview, run_word};
use crate::time;
use crate::ui::wrapped_message;

/// Undoes the changes of `plan`, or of the only plan that made some; with `last` those of the last run.
pub(super) fn execute(
    options: &Options,
    steps: &[String],
    plan: Option<String>,
    last: bool,
) -> Result<ExitCode> {
    let reporter = super::reporter(options);
    super::summed_up(&reporter, || {
        let launch = config::launch(options, "kkrun rollback")?;
        let loaded = launch.journal()?;
        if let Some(put_back) = &loaded.put_back {
            reporter.note(put_back.sentence());
        }
        let mut steps = steps.to_vec();
        if last && !steps.is_empty() {
            let alone = format!("kkrun rollback {}", shell_words::join(&steps));
            bail!(
                Failure::new("`--last` undoes the last run and takes no steps or targets")
                    .exit(ExitCode::USAGE)
                    .kind(FailureKind::Usage)
                    .hint(format!(
                        "for the last run, run `kkrun rollback --last`; for what is named, `{alone}`"
                    ))
            );
        }
        let plan = if last {
            let newest = last_run(&loaded.history, plan.as_deref())?;
            let when = time::when(newest.time, clock::now(), &clock::zone());
            reporter
                .note(format!("the last run with changes to undo is of the plan `{}`, {when}", newest.plan));
            steps = vec![run_word(&newest.run)];
            newest.plan.clone()
        } else {
            match plan {
                Some(plan) => known_plan(&loaded.history, plan)?,
                None => only_plan(&loaded.history)?,
            }
        };
        let held_before = on_hold(&loaded.history, &plan);
        let mut session = rollback_session(&launch, loaded, &plan, &reporter)?;
        let request = Request::of(
            &serde_json::json!({ "steps": steps }),
            &launch.purge,
            launch.overwrites_conflicts(),
        )?;
        let outcome = if options.dry_run {
            preview(&mut session, &request, true)
        } else {
            apply(&mut session, &request)
        };
        if session.has_recorded() {
            let exit = outcome.as_ref().map_or_else(super::exit_of, Report::exit).0;
            // A failed journal has been reported already; the run then has no end record.
            let _ = session.record_end(Entry::RunEnded { exit, bare: None });
        }
        let report = outcome.inspect_err(|error| {
            let (changed, pending) = (session.changed(), session.pending_lines());
            let exit = super::exit_of(error).0;
            reporter.emit(&Event::RunEnded {
                changed,
                not_undone: 0,
                failed: Vec::new(),
                pending,
                triggers: Vec::new(),
                exit,
            });
        })?;
        let would_undo = options.dry_run && !report.undone.is_empty();
        let exit = if would_undo { ExitCode::DIFFERENT } else { report.exit() };
        if !options.quiet && !options.json {
            crate::ui::line_to_stderr(&report.sentence(options.dry_run));
            let mut held = on_hold(session.history(), &plan);
            held.retain(|step| !held_before.contains(step));
            if let Some(line) = held_line(session.history(), &plan, &held) {
                crate::ui::line_to_stderr(&wrapped_message(&pasteable(&line)));
            }
        }
        launch.note_late_signal(&reporter, "rollback", exit);
        let pending = session.pending_lines();
        let (changed, not_undone) = (report.undone.len(), report.not_undone.len());
        reporter.emit(&Event::RunEnded {
            changed,
            not_undone,
            failed: Vec::new(),
            pending,
            triggers: Vec::new(),
            exit: exit.0,
        });
        Ok(exit)
    })
}

/// The steps of a plan that are on hold.
fn on_hold(history: &History, plan: &str) -> Vec<String> {
    let held = history.steps_of(plan).filter(|(_, step)| step.state == StepState::OnHold);
    held.map(|(id, _)| id.clone()).collect()
}

/// That these steps are on hold from now on, and how each is run again.
fn held_line(history: &History, plan: &str, held: &[String]) -> Option<String> {
    let (steps, are, them) = match held {
        [] => return None,
        [_] => ("step", "is", "it"),
        _ => ("steps", "are", "them"),
    };
    let ids = held.join(",");
    let script = chosen_plan::script_of(history, plan)?;
    let call = shell_words::join(["kkrun", &*script.to_string_lossy(), "--redo", &*ids]);
    Some(format!("{steps} {} {are} on hold: `{call}` runs {them} again", held.join(", ")))
}

/// The newest change that a rollback undoes, of this plan or of any: its run is the last one.
fn last_run<'h>(history: &'h History, plan: Option<&str>) -> Result<&'h ChangeRecord> {
    let is_of_plan = |change: &&ChangeRecord| plan.is_none_or(|plan| change.plan == plan);
    let mut newest = history.changes.iter().rev().filter(is_of_plan);
    match newest.find(|change| change.awaits_rollback()) {
        Some(change) => Ok(change),
        None => bail!(Failure::new("no run has changes that can be undone").exit(ExitCode::USAGE)),
    }
}

/// The plan, if anything is recorded of one of that name.
fn known_plan(history: &History, plan: String) -> Result<String> {
    if chosen_plan::known_plans(history).contains(&&*plan) {
        return Ok(plan);
    }
    Err(chosen_plan::unknown(history, &plan).into())
}

/// The plan that changes stand of.
fn only_plan(history: &History) -> Result<String> {
    if let Some(unfinished) = &history.rollback {
        return Ok(unfinished.plan.clone());
    }
    let mut plans: Vec<&str> = history
        .changes
        .iter()
        .filter(|change| change.awaits_rollback())
        .map(|change| change.plan.as_str())
        .collect();
    plans.sort_unstable();
    plans.dedup();
    match plans.as_slice() {
        [] => Ok(history.steps.keys().next().cloned().unwrap_or_default()),
        [plan] => Ok((*plan).to_owned()),
        several => bail!(
            Failure::new("cannot choose a plan to roll back: several have recorded changes")
                .exit(ExitCode::USAGE)
                .hint(format!("run {}", calls(several).join(" or ")))
        ),
    }
}

/// The command that rolls back each of these plans.
fn calls(plans: &[&str]) -> Vec<String> {
    plans.iter().map(|plan| format!("`kkrun rollback --plan {}`", shell_words::quote(plan))).collect()
}
