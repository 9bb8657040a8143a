//! Asks people on their terminal; `--yes` and `--non-interactive` answer or refuse for them.

use std::io::{BufRead, BufReader, ErrorKind, Write};

use anyhow::{Context, Result};
use dialoguer::Password;
use zeroize::Zeroizing;

use super::output::line_to_stderr;
use super::wrap::wrapped;
use crate::event::{Answer, Question};
use crate::machine::signal::interruptibly;
use crate::machine::terminal;

/// Who answers questions.
#[derive(Clone, Copy, Debug, Default)]
pub struct Questions {
    /// Confirmations that lose no data are agreed to.
    pub yes: bool,
    /// Never ask.
    pub non_interactive: bool,
}

impl Questions {
    /// Asks; `Ok(None)` when no one can be asked.
    pub fn ask(&self, question: &Question) -> Result<Option<Answer>> {
        if let (Question::Confirm { harmless: true, .. }, true) = (question, self.yes) {
            return Ok(Some(Answer::Yes));
        }
        if self.non_interactive || !terminal::is_interactive() {
            return Ok(None);
        }
        let _guard = terminal::Guard::new();
        match question {
            Question::Confirm { text, default, .. } => {
                let choice = if *default { "[Y/n]" } else { "[y/N]" };
                loop {
                    let Some(line) = ask_line(&format!("? {text} {choice} "))? else { return Ok(None) };
                    match line.trim().to_lowercase().as_str() {
                        "" => return Ok(Some(if *default { Answer::Yes } else { Answer::No })),
                        "y" | "yes" => return Ok(Some(Answer::Yes)),
                        "n" | "no" => return Ok(Some(Answer::No)),
                        _ => {}
                    }
                }
            }
            Question::Text { text, default } => {
                let shown = if default.is_empty() { String::new() } else { format!(" [{default}]") };
                let Some(line) = ask_line(&format!("? {text}{shown} "))? else { return Ok(None) };
                let line = line.trim_end_matches(['\r', '\n']);
                let answer = if line.is_empty() { default } else { line };
                Ok(Some(Answer::Text(Zeroizing::new(answer.to_owned()))))
            }
            Question::Secret { text, may_be_empty } => {
                let (prompt, may_be_empty) = (text.clone(), *may_be_empty);
                loop {
                    let prompt = prompt.clone();
                    let answer = interruptibly(move || {
                        let question = Password::new().with_prompt(prompt).allow_empty_password(may_be_empty);
                        question.report(false).interact()
                    })?;
                    match answer {
                        Ok(answer) => return Ok(Some(Answer::Text(Zeroizing::new(answer)))),
                        Err(dialoguer::Error::IO(error)) if error.kind() == ErrorKind::InvalidData => {
                            line_to_stderr(NOT_TEXT);
                        }
                        Err(error) => return Err(error).context("cannot ask for a secret on the terminal"),
                    }
                }
            }
        }
    }
}

/// What is said of an answer that is no text: it is asked for again.
const NOT_TEXT: &str = "invalid answer: expected UTF-8";

/// Asks on the terminal itself, so that redirected streams stay what they are; `None` at its end.
fn ask_line(prompt: &str) -> Result<Option<String>> {
    loop {
        let mut terminal = terminal::open().context("cannot open the terminal")?;
        let shown = format!("{} ", wrapped(prompt.trim_end()));
        terminal.write_all(shown.as_bytes()).context("cannot write to the terminal")?;
        let read = interruptibly(move || {
            let mut line = String::new();
            BufReader::new(&terminal).read_line(&mut line).map(|read| (read > 0).then_some(line))
        })?;
        match read {
            Err(error) if error.kind() == ErrorKind::InvalidData => line_to_stderr(NOT_TEXT),
            read => return read.context("cannot read from the terminal"),
        }
    }
}
