//! Shows people and programs what happens, asks them, and says at the end what went wrong.

mod console;
mod failure;
mod json;
mod manual;
mod output;
mod questions;
pub mod report;
mod summary;
mod wrap;

use std::rc::Rc;

use clap::ValueEnum;

pub use console::Console;
pub use failure::{brief, show};
pub use json::{EventLine, JsonLines, begin_json, has_written_error};
pub use manual::manual_text;
pub use output::{is_truncated, line_to_stderr, line_to_stdout};
pub use questions::Questions;
pub use wrap::{wrapped as wrapped_message, wrapped_data};

use crate::event::Reporter;

/// When colours are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How much is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Failures and questions.
    Quiet,
    /// Steps and what scripts say.
    #[default]
    Normal,
    /// Every change and every line that a command prints.
    Verbose,
}

/// Decides about colours once, before anything is shown.
pub fn set_colors(choice: ColorChoice) {
    match choice {
        ColorChoice::Always => {
            console::set_colors(true);
        }
        ColorChoice::Never => console::set_colors(false),
        ColorChoice::Auto => {}
    }
}

/// Shows kkrun's own diagnostics on standard error when `KKRUN_LOG` says which, such as `debug`. What they hold are
/// names and numbers, never what commands are given or print.
pub fn diagnose() {
    if std::env::var_os("KKRUN_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_env("KKRUN_LOG");
        let subscriber =
            tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time();
        // Set twice only by tests that run in one process.
        drop(subscriber.try_init());
    }
}

/// The reporter that the command line asks for; with `shows_made` it shows what changes in a target whenever one is
/// changed, with `with_hints` what can be typed next.
pub fn reporter(
    json: bool,
    verbosity: Verbosity,
    shows_made: bool,
    with_hints: bool,
    questions: Questions,
) -> Rc<Reporter> {
    if json {
        Reporter::new(Box::new(JsonLines::new(shows_made, questions)))
    } else {
        Reporter::new(Box::new(Console::new(verbosity, shows_made, with_hints, questions)))
    }
}
