//! `kkrun log [STEP]`: shows what a step printed when it last ran.

use anyhow::{Context, Result, bail};

use super::chosen_plan;
use super::data::Row;
use crate::cli::Options;
use crate::config;
use crate::exit_code::ExitCode;
use crate::failure::{Failure, FailureKind};
use crate::journal::{self, History};
use crate::plan::{is_log_of_step, newest_log, steps_with_logs};
use crate::redaction::Redactor;
use crate::text::printable;
use crate::ui::{begin_json, line_to_stdout};

/// Shows the newest log of `step`, or the newest of all.
pub(super) fn execute(options: &Options, step: Option<&str>, plan: Option<&str>) -> Result<ExitCode> {
    let state = config::state_directory(options)?;
    // Logs are shown whatever became of the journal.
    let history = journal::read(&state).ok().map(|loaded| loaded.history);
    let plan = match (&history, plan) {
        (Some(history), Some(typed)) => Some(chosen_plan::named(history, typed)?),
        (_, plan) => plan.map(str::to_owned),
    };
    let (history, plan) = (history.unwrap_or_default(), plan.as_deref());
    let Some(path) = newest_log(&state, plan, step)? else {
        let known = Vec::from_iter(steps_with_logs(&state));
        let is_meant = |id: &str| step.is_none_or(|step| step == id);
        let is_of_plan = |of: &str| plan.is_none_or(|plan| plan == of);
        let mut steps = history.steps.iter().filter(|(of, _)| is_of_plan(of)).flat_map(|(_, steps)| steps);
        let is_removed = steps.any(|(id, record)| is_meant(id) && record.has_run());
        match step {
            _ if is_removed => bail!(
                Failure::new(match step {
                    Some(step) => format!("no log found: `kkrun forget` removed that of step `{step}`"),
                    None => "no log found: `kkrun forget` removed those of the steps that ran".to_owned(),
                })
                .kind(FailureKind::Missing)
                .hint("`kkrun history` lists what they changed")
            ),
            Some(step) if !known.is_empty() => bail!(
                Failure::new(format!("no log found: step `{step}` has not run"))
                    .exit(ExitCode::USAGE)
                    .kind(FailureKind::Usage)
                    .hint(format!("steps with a log: {}", known.join(", ")))
            ),
            Some(_) => bail!(
                Failure::new("no log found: no step has run yet")
                    .exit(ExitCode::USAGE)
                    .kind(FailureKind::Usage)
            ),
            None => bail!(Failure::new("no log found: no step has run yet").kind(FailureKind::Missing)),
        }
    };
    let text = std::fs::read(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let accepted = accepted_since(&history, &name);
    let text = super::redactor(&state)?.redact(&String::from_utf8_lossy(&text));
    let lines = text.lines().map(|line| printable(line).into_owned()).chain(accepted);
    if options.json {
        let (mut parts, lines) = (name.split('.').map(str::to_owned), lines.collect());
        begin_json();
        let (plan, step, run) = (parts.next(), parts.next(), parts.next());
        Row::Log { plan, step, run, lines }.write(&Redactor::default())?;
        return Ok(ExitCode::DONE);
    }
    for line in lines {
        line_to_stdout(&line);
    }
    Ok(ExitCode::DONE)
}

/// That the operator accepted the step of this log afterwards, and why.
fn accepted_since(history: &History, log: &str) -> Option<String> {
    let mut steps = history.steps.iter().flat_map(|(plan, steps)| steps.iter().map(move |step| (plan, step)));
    steps.find_map(|(plan, (id, record))| is_log_of_step(plan, id, log).then(|| record.accepted_because())?)
}
