//! `ask::` asks the person at the terminal.

use anyhow::{Result, bail};
use rhai::plugin::*;

use crate::event::{Answer, Question};
use crate::exit_code::ExitCode;
use crate::failure::{Failure, FailureKind};
use crate::script::{Host, Raised, Unpredictable, look};

pub(super) fn module() -> rhai::Module {
    rhai::Module::from_manifest(exported_manifest!(functions))
}

fn answer(host: &Host, asked: &str, question: &Question) -> Result<Answer> {
    if host.dry_run() {
        bail!(Unpredictable(format!("the answer to “{asked}”")));
    }
    host.reporter().ask(question)?.ok_or_else(|| {
        Failure::new(format!("cannot ask `{asked}`: there is no terminal"))
            .kind(FailureKind::Unanswered)
            .exit(ExitCode::UNANSWERED)
            .hint("run it at a terminal; `--yes` answers every question whose answer loses no data")
            .into()
    })
}

#[export_module(manifest)]
mod functions {
    use super::*;

    /// Asks for yes or no; an empty answer means `default`, and `--yes` answers yes. If no one can be asked, the script
    /// ends with exit status 78 unless it catches the error, whose kind is `unanswered`.
    ///
    /// ```rhai
    /// try { ask::confirm("Go on?", true); } catch (failure) { assert(failure.kind == "unanswered"); }
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn confirm(context: NativeCallContext, question: &str, default: bool) -> Raised<bool> {
        look(&context, |host| {
            let asked = Question::Confirm { text: question.to_owned(), default, harmless: true };
            Ok(matches!(answer(host, question, &asked)?, Answer::Yes))
        })
    }

    /// Asks for one line of text; an empty answer means `default`. If no one can be asked, it fails as `ask::confirm` does;
    /// `--yes` does not answer it. Use `secret::ask` for what must not be shown.
    ///
    /// ```rhai
    /// try { ask::text("Name of the site?", "kiosk"); } catch (failure) { assert(failure.kind == "unanswered"); }
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn text(context: NativeCallContext, question: &str, default: &str) -> Raised<String> {
        look(&context, |host| {
            let asked = Question::Text { text: question.to_owned(), default: default.to_owned() };
            match answer(host, question, &asked)? {
                Answer::Text(text) => Ok(text.as_str().to_owned()),
                Answer::Yes | Answer::No => bail!("the answer to “{question}” must be a string"),
            }
        })
    }
}
