//! `kkrun SCRIPT.rhai [ARGUMENT]...`: runs a plan or a single script.

use std::path::Path;

use anyhow::Result;

use crate::cli::Options;
use crate::config;
use crate::exit_code::ExitCode;
use crate::plan::run_script;

/// Runs `script` with its arguments.
pub(super) fn execute(options: &Options, script: &Path, words: Vec<String>) -> Result<ExitCode> {
    let reporter = super::reporter(options);
    super::summed_up(&reporter, || {
        config::become_root_for(options, script)?;
        let launch = config::launch(options, &format!("kkrun {}", script.display()))?;
        run_script(&launch, script, words, &reporter)
    })
}
