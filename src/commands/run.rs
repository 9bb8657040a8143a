//! `kkrun SCRIPT.rhai [ARGUMENT]...`: runs a plan or a single script.

use std::path::Path;

use anyhow::Result;

use super::after_failure::{self, Next};
use crate::cli::Options;
use crate::config;
use crate::exit_code::ExitCode;
use crate::plan::run_script;

/// Runs `script` with its arguments; on a terminal again, as long as the operator wants that after a failure.
pub(super) fn execute(options: &Options, script: &Path, words: &[String]) -> Result<ExitCode> {
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

fn run_once(options: &Options, script: &Path, words: Vec<String>) -> Result<ExitCode> {
    let reporter = super::reporter(options);
    super::summed_up(&reporter, || {
        config::become_root_for(options, script)?;
        let launch = config::launch(options, &config::invocation_of(options, script, &words))?;
        run_script(&launch, script, words, &reporter)
    })
}
