//! What the operator chooses on the terminal when a step of a run failed. Each choice but the editor and the shell is a
//! command of kkrun: who stops here can type it later.

use std::path::{Path, PathBuf};
use std::slice;

use anyhow::{Context as _, Result};

use crate::cli::Options;
use crate::config;
use crate::event::{Answer, Question};
use crate::exit_code::ExitCode;
use crate::failure::{FailedCommand, FailedStep, Failure};
use crate::machine::{foreground, terminal};
use crate::ui;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    /// The run goes on at the step.
    Retry,
    /// The script is edited at the line that failed.
    Edit,
    /// A shell to look around in, as the command that failed.
    Shell,
    /// The step is recorded as complete as it is, with a reason, and the run goes on behind it.
    Skip,
    /// What the step did is undone.
    RollBack,
    /// The failure is the end.
    Stop,
}

impl Choice {
    const ALL: [Self; 6] = [Self::Retry, Self::Edit, Self::Shell, Self::Skip, Self::RollBack, Self::Stop];

    /// What is typed for it, whole or its first letters.
    const fn word(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Edit => "edit",
            Self::Shell => "shell",
            Self::Skip => "skip",
            Self::RollBack => "rollback",
            Self::Stop => "stop",
        }
    }

    /// The one that begins with this; an ambiguous text is none.
    fn of(typed: &str, offered: &[Self]) -> Option<Self> {
        let typed = typed.trim().to_lowercase();
        let mut found = offered.iter().filter(|choice| choice.word().starts_with(&typed));
        match (found.next(), found.next()) {
            (Some(choice), None) if !typed.is_empty() => Some(*choice),
            _ => None,
        }
    }
}

/// How it goes on after a failure.
pub(super) enum Next {
    /// With another run of the same script, with these options.
    Run(Box<Options>),
    /// It does not: the failure was shown.
    End(ExitCode),
}

/// Shows the failure of a step on a terminal, and does what is chosen there until that ends this run.
///
/// # Errors
/// With the failure itself when it is of no step, or no one can be asked.
pub(super) fn choose(options: &Options, script: &Path, error: anyhow::Error) -> Result<Next> {
    let Some(failure) = error.downcast_ref::<Failure>() else { return Err(error) };
    let Some(FailedStep { plan, id, command }) = failure.step.clone().filter(|_| may_ask(options)) else {
        return Err(error);
    };
    let exit = failure.exit;
    let place = failure.place.as_ref().and_then(|place| Some((file_of(script, &place.file)?, place.line)));
    let offered: Vec<Choice> =
        Choice::ALL.into_iter().filter(|choice| *choice != Choice::Edit || place.is_some()).collect();
    ui::show(&error);
    loop {
        match ask(options, &id, &offered)? {
            // What was to be run again was begun, and what was accepted is recorded: both go on like all else.
            Choice::Retry => {
                let (redo, accept, reason) = (Vec::new(), Vec::new(), None);
                return Ok(Next::Run(Box::new(Options { redo, accept, reason, ..options.clone() })));
            }
            Choice::Skip => {
                let Some(why) = ask_why(options, &id)? else { continue };
                let (redo, accept, reason) = (Vec::new(), vec![id], Some(why));
                return Ok(Next::Run(Box::new(Options { redo, accept, reason, ..options.clone() })));
            }
            Choice::Edit => {
                let Some((file, line)) = &place else { continue };
                show_failed(foreground::edit(file, *line));
            }
            Choice::Shell => {
                introduce_shell(command.as_deref());
                let beside = script.parent().filter(|parent| !parent.as_os_str().is_empty());
                show_failed(foreground::shell(beside.unwrap_or(Path::new(".")), command.as_deref()));
            }
            Choice::RollBack => {
                super::rollback::execute(options, slice::from_ref(&id), Some(plan), false)?;
                return Ok(Next::End(exit));
            }
            Choice::Stop => return Ok(Next::End(exit)),
        }
    }
}

fn introduce_shell(command: Option<&FailedCommand>) {
    if let Some(command) = command {
        let user = command.user.as_ref().map(|user| format!(" and its user, `{user}`")).unwrap_or_default();
        ui::line_to_stderr(&format!("the shell has the variables of the command that failed{user}"));
        if !command.withheld.is_empty() {
            let names: Vec<_> =
                command.withheld.iter().map(|name| format!("`{}`", name.to_string_lossy())).collect();
            ui::line_to_stderr(&format!("not set, because it is secret: {}", names.join(", ")));
        }
    }
    ui::line_to_stderr("`exit` ends the shell and returns to this question");
}

/// What could not be started does not end the question.
fn show_failed(outcome: Result<()>) {
    if let Err(error) = outcome {
        ui::show(&error);
    }
}

fn may_ask(options: &Options) -> bool {
    let is_unattended = options.yes || options.non_interactive || options.json || options.dry_run;
    !is_unattended && terminal::is_interactive()
}

/// The script's file, if it is one that can be edited.
fn file_of(script: &Path, shown: &str) -> Option<PathBuf> {
    let beside = script.parent().map(|directory| directory.join(shown));
    [Some(script.to_owned()).filter(|_| script.ends_with(shown)), beside]
        .into_iter()
        .flatten()
        .find(|path| path.is_file())
}

fn ask(options: &Options, step: &str, offered: &[Choice]) -> Result<Choice> {
    let words: Vec<&str> = offered.iter().map(|choice| choice.word()).collect();
    let text = format!("step {step} failed; what next? ({})", words.join("/"));
    let question = Question::Text { text, default: Choice::Stop.word().to_owned() };
    loop {
        match config::questions(options).ask(&question).context("cannot ask what to do next")? {
            Some(Answer::Text(typed)) => {
                if let Some(choice) = Choice::of(&typed, offered) {
                    return Ok(choice);
                }
                ui::line_to_stderr(&ui::wrapped_message(
                    "unknown answer: expected one of these words, or as many letters as only one begins with",
                ));
            }
            _ => return Ok(Choice::Stop),
        }
    }
}

/// Why the step is skipped; none if no reason is given, which takes the choice back.
fn ask_why(options: &Options, step: &str) -> Result<Option<String>> {
    let text = format!(
        "reason for skipping step {step} (recorded; the step then counts as complete; empty: it is not skipped):"
    );
    let question = Question::Text { text, default: String::new() };
    let answer = config::questions(options).ask(&question).context("cannot ask why the step is skipped")?;
    Ok(match answer {
        Some(Answer::Text(typed)) if !typed.trim().is_empty() => Some(typed.trim().to_owned()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_letters_choose_when_they_mean_one_choice() {
        let of = |typed| Choice::of(typed, &Choice::ALL);
        assert_eq!(of("re"), Some(Choice::Retry));
        assert_eq!(of(" ROLL "), Some(Choice::RollBack));
        assert_eq!(of("sto"), Some(Choice::Stop));
        assert_eq!(of("sk"), Some(Choice::Skip));
        assert_eq!([of("s"), of("r"), of(""), of("go")], [None; 4]);
    }
}
