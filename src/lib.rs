//! kkrun runs setup scripts written in Rhai and makes the setup of a machine interruptible, resumable,
//! previewable, rehearsable and reversible. ARCHITECTURE.md says where what lives.

pub mod adopt;
pub mod change;
pub mod checksum;
pub mod cli;
pub mod commands;
pub mod config;
pub mod event;
pub mod exit_code;
pub mod failure;
pub mod journal;
pub mod machine;
pub mod panicking;
pub mod pasteable;
pub mod plan;
pub mod primitives;
pub mod redaction;
pub mod rehearse;
pub mod rollback;
pub mod script;
pub mod session;
pub mod target;
pub mod text;
pub mod time;
pub mod ui;

use exit_code::ExitCode;
use machine::signal::Interruption;

/// Runs the command line and says how it ended.
pub fn run() -> std::process::ExitCode {
    machine::process_setup::settle();
    machine::terminal::survive_stopping();
    panicking::keep_quiet();
    // Scripts may nest deeply, the description of the command line is large, and the size of the first stack depends on the
    // operator's limits.
    let conclude = || match machine::stack::on_stack_of(script::STACK_SIZE, read_and_conclude) {
        Ok(exit) => exit,
        Err(error) => {
            ui::show(&anyhow::Error::new(error).context("cannot allocate the stack for scripts"));
            ExitCode::FAILED
        }
    };
    panicking::caught(conclude).unwrap_or(ExitCode::FAILED).into()
}

/// Reads the command line, and runs the command.
fn read_and_conclude() -> ExitCode {
    match cli::Cli::of(std::env::args_os()) {
        Ok(cli) => {
            ui::set_colors(cli.options.color);
            ui::diagnose();
            conclude(cli)
        }
        Err(error) => {
            let _ = error.print();
            if error.use_stderr() { ExitCode::USAGE } else { ExitCode::DONE }
        }
    }
}

/// Runs the command, shows what failed, and decides the exit status.
fn conclude(cli: cli::Cli) -> ExitCode {
    let outcome = panicking::caught(|| commands::dispatch(cli));
    match outcome.unwrap_or_else(|failure| Err(failure.into())) {
        Ok(ExitCode::DONE) if ui::is_truncated() => {
            ui::show(
                &failure::Failure::new(
                    "cannot write to standard output: no space left on device; the output is incomplete",
                )
                .into(),
            );
            ExitCode::FAILED
        }
        Ok(exit) => exit,
        Err(error) => {
            // The operator who stopped the run knows that it was stopped.
            if !error.is::<Interruption>() {
                ui::show(&error);
            }
            commands::exit_of(&error)
        }
    }
}
