//! `kkrun log [STEP]`: shows what a step printed when it last ran.

use anyhow::{Context, Result, bail};

use super::data::Row;
use crate::cli::Options;
use crate::config;
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::journal;
use crate::plan::{newest_log, steps_with_logs};
use crate::redaction::Redactor;
use crate::ui::{begin_json, line_to_stdout};

/// Shows the newest log of `step`, or the newest of all.
pub(super) fn execute(options: &Options, step: Option<&str>, plan: Option<&str>) -> Result<ExitCode> {
    let state = config::state_directory(options)?;
    let Some(path) = newest_log(&state, plan, step)? else {
        let known = Vec::from_iter(steps_with_logs(&state));
        let has_run = |id: &str| step.is_none_or(|step| step == id);
        let is_removed = journal::read(&state).is_ok_and(|loaded| {
            loaded
                .history
                .steps
                .values()
                .flatten()
                .any(|(id, record)| has_run(id) && record.started.is_some())
        });
        match step {
            _ if is_removed => bail!(
                Failure::new(match step {
                    Some(step) => format!("no log found: `kkrun forget` removed that of step `{step}`"),
                    None => "no log found: `kkrun forget` removed those of the steps that ran".to_owned(),
                })
                .hint("`kkrun history` lists what they changed")
            ),
            Some(step) if !known.is_empty() => bail!(
                Failure::new(format!("no log found: step `{step}` has not run"))
                    .hint(format!("steps with a log: {}", known.join(", ")))
            ),
            _ => bail!(Failure::new("no log found: no step has run yet")),
        }
    };
    let text = std::fs::read(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    if options.json {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut parts = name.split('.').map(str::to_owned);
        let text = super::redactor(&state)?.redact(&String::from_utf8_lossy(&text));
        let lines: Vec<String> = text.lines().map(|line| crate::text::printable(line).into_owned()).collect();
        begin_json();
        let (plan, step, run) = (parts.next(), parts.next(), parts.next());
        Row::Log { plan, step, run, lines }.write(&Redactor::default())?;
        return Ok(ExitCode::DONE);
    }
    for line in super::redactor(&state)?.redact(&String::from_utf8_lossy(&text)).lines() {
        line_to_stdout(&crate::text::printable(line));
    }
    Ok(ExitCode::DONE)
}
