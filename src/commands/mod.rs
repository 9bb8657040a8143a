//! One command, one file.

mod adopt;
mod after_failure;
mod api;
mod check;
mod chosen_plan;
mod completions;
mod data;
mod doctor;
mod export;
mod forget;
mod history;
mod log;
mod pending;
mod rehearse;
mod report;
mod reset;
mod rollback;
mod run;
mod show;
mod status;

use std::rc::Rc;

use anyhow::Result;

use crate::cli::{Cli, Command};
use crate::config;
use crate::event::{Event, Reporter};
use crate::exit_code::ExitCode;
use crate::failure;
use crate::machine::secret_store::SecretStore;
use crate::machine::signal::Interruption;
use crate::panicking;
use crate::redaction::Redactor;
use crate::ui;

/// Executes the command.
pub fn dispatch(cli: Cli) -> Result<ExitCode> {
    let options = cli.options.clone();
    let writes_rows = match &cli.command {
        Command::Pending { drop } => drop.is_empty(),
        known => matches!(
            known,
            Command::Status { .. }
                | Command::Log { .. }
                | Command::History { .. }
                | Command::Show { .. }
                | Command::Doctor { .. }
                | Command::Check { .. }
        ),
    };
    let outcome = execute(cli);
    // Events of runs have said so already, and a check names each of its problems.
    if let Err(error) = &outcome
        && options.json
        && writes_rows
        && !ui::has_written_error()
    {
        ui::begin_json();
        ui::EventLine::now(Event::of_error(error), None).write();
    }
    outcome
}

fn execute(cli: Cli) -> Result<ExitCode> {
    let options = &cli.options;
    match cli.command {
        Command::Run { script, words } => run::execute(options, &script, &words),
        Command::Rollback { steps, plan, last } => rollback::execute(options, &steps, plan, last),
        Command::Status { plan } => status::execute(options, plan.as_deref()),
        Command::Reset { plan, steps } => reset::execute(options, plan.as_deref(), &steps),
        Command::Log { step, plan } => log::execute(options, step.as_deref(), plan.as_deref()),
        Command::History { steps, plan } => history::execute(options, &steps, plan.as_deref()),
        Command::Show { change } => show::execute(options, change),
        Command::Report { run, plan, output } => {
            report::execute(options, run.as_deref(), plan.as_deref(), output.as_deref())
        }
        Command::Pending { drop } => pending::execute(options, &drop),
        Command::Forget { plan, all, older_than } => {
            forget::execute(options, plan.as_deref(), all, older_than)
        }
        Command::Doctor { accept_journal } => doctor::execute(options, accept_journal),
        Command::Export { directory } => export::execute(&directory),
        Command::Completions { shell } => Ok(completions::execute(shell)),
        Command::Adopt(wanted) => adopt::execute(options, wanted),
        Command::Rehearse(wanted) => rehearse::execute(options, wanted),
        Command::Check { paths } => check::execute(options, &paths),
        Command::Api { name } => api::execute(options.json, name.as_deref()),
    }
}

/// The reporter that the options ask for.
pub fn reporter(options: &crate::cli::Options) -> Rc<Reporter> {
    ui::reporter(
        options.json,
        config::verbosity(options),
        options.show_differences,
        !(options.in_clone || options.show_differences),
        config::questions(options),
    )
}

/// What takes secrets out of what is shown of a state directory: earlier records may hold what is a secret by now.
fn redactor(state: &std::path::Path) -> Result<Redactor> {
    let mut redactor = Redactor::default();
    SecretStore::below(state).teach(&mut redactor)?;
    Ok(redactor)
}

/// Runs a command whose events end with a summary, even if it fails.
fn summed_up(reporter: &Reporter, command: impl FnOnce() -> Result<ExitCode>) -> Result<ExitCode> {
    // The text of a panic may hold what was being worked with.
    let outcome = panicking::caught(command).unwrap_or_else(|failure| Err(failure.into()));
    let outcome = outcome.map_err(|error| reporter.without_secrets_of(error));
    if let Err(error) = &outcome
        && !reporter.has_ended()
    {
        let exit = exit_of(error).0;
        if !error.is::<Interruption>() {
            reporter.emit(&Event::of_error(error));
        }
        reporter.emit(&Event::RunEnded {
            changed: 0,
            not_undone: 0,
            failed: Vec::new(),
            pending: Vec::new(),
            triggers: Vec::new(),
            exit,
        });
    }
    outcome
}

/// The exit status of a command that ended with this error.
pub fn exit_of(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref::<Interruption>() {
        Some(interruption) => ExitCode::signal(u8::try_from(interruption.signal).unwrap_or(0)),
        None => failure::exit_code(error),
    }
}
