//! `kkrun check [SCRIPT.rhai | DIR]...`: reads scripts and runs nothing.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::data::Row;
use crate::cli::Options;
use crate::config;
use crate::event::Event;
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::plan::Reading;
use crate::redaction::Redactor;
use crate::script::{Source, built_in_names};
use crate::ui::{EventLine, begin_json, line_to_stdout};

/// Checks these scripts and directories, or the built-in scripts.
pub(super) fn execute(options: &Options, paths: &[PathBuf]) -> Result<ExitCode> {
    let launch = config::launch_to_read(options)?;
    let reporter = super::reporter(options);
    let mut reading = Reading::default();
    if paths.is_empty() {
        for name in built_in_names() {
            reading.script(&launch, Source::BuiltIn, &name, &reporter);
        }
    }
    for path in paths {
        for script in scripts_at(path)? {
            match Source::to_check(&script) {
                Ok((source, name)) => reading.script(&launch, source, &name, &reporter),
                Err(error) => reading.fail(error),
            }
        }
    }
    let scripts = reading.scripts();
    if options.json {
        let problems = reading.into_problems();
        begin_json();
        for problem in &problems {
            EventLine::now(Event::of_failure(problem), None).write();
        }
        Row::Checked { scripts, problems: problems.len() }.write(&Redactor::default())?;
        return match Failure::all(problems) {
            Some(failure) => Err(failure.into()),
            None => Ok(ExitCode::DONE),
        };
    }
    if let Some(failure) = Failure::all(reading.into_problems()) {
        bail!(failure);
    }
    let s = if scripts == 1 { "" } else { "s" };
    line_to_stdout(&format!("{scripts} script{s}, no problems"));
    Ok(ExitCode::DONE)
}

/// The script itself, or every script in a directory and below it.
fn scripts_at(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    let mut directories = vec![path.to_owned()];
    while let Some(directory) = directories.pop() {
        let shown = || format!("cannot read `{}`", directory.display());
        for entry in std::fs::read_dir(&directory).with_context(shown)? {
            let path = entry.with_context(shown)?.path();
            if path.is_dir() && !path.is_symlink() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rhai") {
                found.push(path);
            }
        }
    }
    found.sort();
    if found.is_empty() {
        bail!(Failure::new(format!("no script found in `{}`", path.display())).exit(ExitCode::USAGE));
    }
    Ok(found)
}
