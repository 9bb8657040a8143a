//! `kkrun pending`: the handlers that changes triggered and that have not run, each with its number; or drops some.

use anyhow::{Result, bail};

use super::data::Row;
use crate::cli::Options;
use crate::config;
use crate::exit_code::ExitCode;
use crate::failure::{Failure, FailureKind};
use crate::journal::{ChangeRecord, Entry, History, PendingHandler};
use crate::machine::clock;
use crate::plan::journal_session;
use crate::ui::{begin_json, line_to_stderr, line_to_stdout};

/// Shows what is pending of every plan, or forgets these numbers.
pub(super) fn execute(options: &Options, drop: &[usize]) -> Result<ExitCode> {
    if drop.is_empty() { list(options) } else { forget(options, drop) }
}

fn list(options: &Options) -> Result<ExitCode> {
    let launch = config::launch(options, "kkrun pending")?;
    let history = launch.history()?;
    let redactor = super::redactor(&launch.state)?;
    let line_to_stdout = |line: &str| line_to_stdout(&redactor.redact(line));
    let row = |number: &str, plan: &str, step: Option<&str>, what: &str, why: &str| {
        line_to_stdout(&format!("{number:<4} {plan:<14} {:<4} {what} ({why})", step.unwrap_or("-")));
    };
    let boot = clock::boot_id()?;
    if options.json {
        begin_json();
    }
    for pending in &history.pending {
        let after_undo = !changes(&history, pending).any(ChangeRecord::is_live);
        if options.json {
            let row = Row::Pending {
                pending: Some(pending.number),
                plan: pending.plan.clone(),
                step: pending.step.clone(),
                summary: pending.sentence(),
                handler: Some(pending.handler.clone()),
                changes: pending.changes.clone(),
                after_undo,
                why: None,
            };
            row.write(&redactor)?;
            continue;
        }
        let triggers: Vec<&str> =
            changes(&history, pending).map(|change| change.intent.summary.as_str()).collect();
        let when = if after_undo { "after an undo of" } else { "because of" };
        let number = format!("#{}", pending.number);
        row(
            &number,
            &pending.plan,
            pending.step.as_deref(),
            &pending.sentence(),
            &format!("{when} {}", shortened(&triggers)),
        );
    }
    for reboot in history.reboots(&boot) {
        if options.json {
            let row = Row::Pending {
                pending: None,
                plan: reboot.plan.clone(),
                step: reboot.step.clone(),
                summary: "a restart of the machine".to_owned(),
                handler: None,
                changes: Vec::new(),
                after_undo: false,
                why: Some(reboot.why.clone()),
            };
            row.write(&redactor)?;
        } else {
            row("-", &reboot.plan, reboot.step.as_deref(), "a restart of the machine", &reboot.why);
        }
    }
    if !options.json && history.pending.is_empty() && history.reboots(&boot).next().is_none() {
        line_to_stderr("nothing is pending");
    }
    Ok(ExitCode::DONE)
}

fn changes<'a>(history: &'a History, pending: &'a PendingHandler) -> impl Iterator<Item = &'a ChangeRecord> {
    pending.changes.iter().filter_map(|id| history.change(*id))
}

fn shortened(summaries: &[&str]) -> String {
    match summaries {
        [first, rest @ ..] if rest.len() > 1 => format!("{first} and {} more", rest.len()),
        few => few.join(", "),
    }
}

fn forget(options: &Options, numbers: &[usize]) -> Result<ExitCode> {
    let launch = config::launch(options, "kkrun pending --drop")?;
    let reporter = super::reporter(options);
    let redactor = super::redactor(&launch.state)?;
    let known = launch.history()?.pending;
    if let Some(unknown) =
        numbers.iter().find(|number| !known.iter().any(|pending| pending.number == **number))
    {
        bail!(
            Failure::new(format!("unknown pending handler {unknown}"))
                .exit(ExitCode::USAGE)
                .kind(FailureKind::Usage)
                .hint("`kkrun pending` lists what is pending")
        );
    }
    if options.json {
        begin_json();
    }
    for pending in known.iter().filter(|pending| numbers.contains(&pending.number)) {
        let mut session = journal_session(&launch, &pending.plan, "pending", &reporter)?;
        session.begin_undoing()?;
        session.drop_pending(pending)?;
        session.record_end(Entry::RunEnded { exit: ExitCode::DONE.0, bare: None })?;
        if options.json {
            let (dropped, plan, summary) = (pending.number, pending.plan.clone(), pending.sentence());
            Row::Dropped { dropped, plan, summary }.write(&redactor)?;
        } else {
            line_to_stderr(&format!("dropped: {}", pending.sentence()));
        }
    }
    Ok(ExitCode::DONE)
}
