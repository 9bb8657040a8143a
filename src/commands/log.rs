//! `kkrun log [STEP]`: shows what a step printed when it last ran.

use anyhow::{Context, Result, bail};

use crate::cli::Options;
use crate::config;
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::plan::{newest_log, steps_with_logs};
use crate::ui::line_to_stdout;

/// Shows the newest log of `step`, or the newest of all.
pub(super) fn execute(options: &Options, step: Option<&str>, plan: Option<&str>) -> Result<ExitCode> {
    let state = config::state_directory(options)?;
    let Some(path) = newest_log(&state, plan, step)? else {
        let known = Vec::from_iter(steps_with_logs(&state));
        match step {
            Some(step) if !known.is_empty() => bail!(
                Failure::new(format!("no log found: step `{step}` has not run"))
                    .hint(format!("steps with a log: {}", known.join(", ")))
            ),
            _ => bail!(Failure::new("no log found: no step has run yet")),
        }
    };
    let text = std::fs::read(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    for line in super::redactor(&state)?.redact(&String::from_utf8_lossy(&text)).lines() {
        line_to_stdout(&crate::text::printable(line));
    }
    Ok(ExitCode::DONE)
}
