//! `kkrun SCRIPT.rhai [ARGUMENT]...`: runs a plan or a single script.

use std::path::Path;

use anyhow::{Result, bail};
use clap::CommandFactory as _;

use super::after_failure::{self, Next};
use crate::cli::{Cli, Options};
use crate::config;
use crate::exit_code::ExitCode;
use crate::failure::{Failure, FailureKind};
use crate::plan::run_script;
use crate::text::nearest;

/// Runs `script` with its arguments; on a terminal again, as long as the operator wants that after a failure.
pub(super) fn execute(options: &Options, script: &Path, words: &[String]) -> Result<ExitCode> {
    refuse_misspelt_command(script)?;
    let mut options = options.clone();
    loop {
        match run_once(&options, script, words.to_vec()) {
            Ok(exit) => return Ok(exit),
            Err(error) => match after_failure::choose(&options, script, error)? {
                Next::Run(changed) => options = *changed,
                Next::End(exit) => return Ok(exit),
            },
        }
    }
}

/// Refuses a word that is not a script, but close to the name of a command.
fn refuse_misspelt_command(script: &Path) -> Result<()> {
    let Some(typed) = script.to_str().filter(|_| script.extension().is_none() && !script.exists()) else {
        return Ok(());
    };
    let known = Cli::command();
    let shown = known.get_subcommands().filter(|command| !command.is_hide_set());
    if let Some(near) = nearest(typed, shown.map(clap::Command::get_name)) {
        bail!(
            Failure::new(format!("unknown command `{typed}`, and no script of that name"))
                .exit(ExitCode::USAGE)
                .kind(FailureKind::Usage)
                .hint(format!("did you mean `kkrun {near}`?"))
        );
    }
    Ok(())
}

fn run_once(options: &Options, script: &Path, words: Vec<String>) -> Result<ExitCode> {
    let reporter = super::reporter(options);
    super::summed_up(&reporter, || {
        config::become_root_for(options, script)?;
        let launch = config::launch(options, &config::invocation_of(options, script, &words))?;
        run_script(&launch, script, words, &reporter)
    })
}
