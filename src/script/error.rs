//! Turns Rhai's errors into messages: with the true place, the frames that led there, and the
//! failure behind it.

use std::cell::RefCell;

use rhai::{Dynamic, EvalAltResult, LexError, ParseErrorType, Position};

use crate::exit_code::ExitCode;
use crate::failure::{Failure, Place};
use crate::machine::signal::Interruption;

/// Why an evaluation ended before its last line.
#[derive(Debug)]
pub enum Stop {
    /// It failed.
    Failed(Failure),
    /// In a dry run, it asked for something that is unpredictable.
    Unpredictable {
        /// Where.
        place: Place,
        /// What it depends on.
        why: String,
    },
    /// It was stopped from outside.
    Interrupted(Interruption),
}

/// What travels through Rhai in an error that no script can catch.
#[derive(Clone, Debug)]
pub(super) enum Termination {
    /// In a dry run: what it depends on, and the script and the place in it where that was asked for. On its way Rhai
    /// gives it the place of each outer call.
    Unpredictable(String, Option<(String, Position)>),
    /// Stopped from outside.
    Interrupted(Interruption),
    /// The failure of this number.
    Failed(usize),
}

/// The failures of primitives on their way through Rhai, which carries their numbers.
#[derive(Default)]
pub(super) struct Failures(RefCell<Vec<Failure>>);

impl Failures {
    /// Keeps a failure and returns its number.
    pub(super) fn keep(&self, failure: Failure) -> usize {
        let mut failures = self.0.borrow_mut();
        failures.push(failure);
        failures.len() - 1
    }

    /// The failure of this number.
    pub(super) fn get(&self, number: usize) -> Failure {
        self.0.borrow().get(number).cloned().unwrap_or_else(|| Failure::new("an unknown failure"))
    }

    /// Gives the failure of this number a place, if it has none.
    pub(super) fn place(&self, number: usize, place: impl FnOnce() -> Option<Place>) {
        if let Some(failure) = self.0.borrow_mut().get_mut(number)
            && failure.place.is_none()
        {
            failure.place = place();
        }
    }

    /// What an error of Rhai's means; `script` is the file whose evaluation it ended, `line_of` gives a line of a file.
    pub(super) fn stop_of(
        &self,
        error: &EvalAltResult,
        script: &str,
        line_of: impl Fn(&str, usize) -> String,
    ) -> Stop {
        let (innermost, place) = innermost(error, script, &line_of);
        match innermost {
            EvalAltResult::ErrorTerminated(token, _) => match token.clone().try_cast::<Termination>() {
                Some(Termination::Unpredictable(why, asked)) => {
                    // Who reads the step knows its own lines, not those of what it imports.
                    let own = asked.filter(|(file, position)| *file == place.file && !position.is_none());
                    let Some((file, position)) = own else { return Stop::Unpredictable { place, why } };
                    let text = line_of(&file, position.line().unwrap_or(0));
                    Stop::Unpredictable { place: self::place(file, position, text, place.frames), why }
                }
                Some(Termination::Interrupted(interruption)) => Stop::Interrupted(interruption),
                Some(Termination::Failed(number)) => Stop::Failed(placed(self.get(number), place)),
                None => Stop::Failed(Failure::new(ended(token)).at(place)),
            },
            EvalAltResult::ErrorRuntime(value, _) => Stop::Failed(placed(self.thrown(value), place)),
            EvalAltResult::Exit(_, _) => Stop::Failed(Failure::new("the script called `exit`").at(place)),
            other => Stop::Failed(described(other).at(place)),
        }
    }

    fn thrown(&self, value: &Dynamic) -> Failure {
        if let Some(map) = value.read_lock::<rhai::Map>() {
            if let Some(number) = map.get("failure").and_then(|number| number.as_int().ok())
                && let Ok(number) = usize::try_from(number)
            {
                return self.get(number);
            }
            if let Some(message) = map.get("message") {
                return Failure::new(message.to_string());
            }
        }
        Failure::new(if value.is_unit() {
            "the script stopped with `throw` and gave no reason".to_owned()
        } else {
            value.to_string()
        })
    }
}

/// The innermost error with its place: Rhai's outer positions are those of the calls.
fn innermost<'e>(
    error: &'e EvalAltResult,
    script: &str,
    line_of: impl Fn(&str, usize) -> String,
) -> (&'e EvalAltResult, Place) {
    let mut file = script.to_owned();
    let mut frames = Vec::new();
    let mut current = error;
    loop {
        match current {
            EvalAltResult::ErrorInFunctionCall(name, source, inner, position) => {
                // A closure has no name, and what called it is the step or the primitive around the line that is shown.
                if !name.starts_with("anon$") {
                    frames.push(format!("`{name}` called at {file}:{}", at(*position)));
                }
                if !source.is_empty() {
                    file.clone_from(source);
                }
                current = inner;
            }
            EvalAltResult::ErrorInModule(name, inner, position) => {
                frames.push(format!("imported at {file}:{}", at(*position)));
                if !name.is_empty() {
                    file.clone_from(name);
                }
                current = inner;
            }
            other => {
                frames.reverse();
                let text = line_of(&file, other.position().line().unwrap_or(0));
                return (other, place(file, other.position(), text, frames));
            }
        }
    }
}

/// The failure of a step keeps the place within the step, whatever called that.
fn placed(failure: Failure, place: Place) -> Failure {
    if failure.place.is_some() { failure } else { failure.at(place) }
}

fn at(position: Position) -> String {
    format!("{}:{}", position.line().unwrap_or(0), position.position().unwrap_or(0))
}

fn place(file: String, position: Position, text: String, frames: Vec<String>) -> Place {
    let line = position.line().unwrap_or(0);
    Place { file, line, column: position.position().unwrap_or(1).max(1), text, frames }
}

/// The place in a script whose text is at hand.
pub(super) fn place_in(file: &str, text: &str, position: Position) -> Place {
    let line = position.line().unwrap_or(0);
    let line = text.lines().nth(line.saturating_sub(1)).unwrap_or_default().to_owned();
    place(file.to_owned(), position, line, Vec::new())
}

/// The failure of a script that was read without a host.
pub(super) fn plain(error: &EvalAltResult, file: &str, text: &str, exit: ExitCode) -> Failure {
    described(error).exit(exit).at(place_in(file, text, error.position()))
}

/// Why a script cannot be compiled.
fn unparsable(kind: &ParseErrorType) -> Failure {
    match kind {
        ParseErrorType::VariableUndefined(name) => Failure::new(format!("unknown variable `{name}`")),
        ParseErrorType::ModuleUndefined(name) => Failure::new(format!("unknown namespace `{name}`")),
        ParseErrorType::BadInput(LexError::ImproperSymbol(word, _)) if word == "eval" => {
            Failure::new("`eval` is not allowed")
                .hint("kkrun runs only code that it has checked: use a function or a closure instead")
        }
        ParseErrorType::Reserved(word) => Failure::new(format!("`{word}` is a reserved word")),
        other => Failure::new(format!("syntax error: {other}")),
    }
}

/// Why a script was terminated.
fn ended(why: &Dynamic) -> String {
    why.clone().into_string().unwrap_or_else(|_| "the script was ended".to_owned())
}

/// Rhai's own errors in kkrun's words.
fn described(error: &EvalAltResult) -> Failure {
    match error {
        EvalAltResult::ErrorVariableNotFound(name, _) => Failure::new(format!("unknown variable `{name}`")),
        EvalAltResult::ErrorFunctionNotFound(signature, _) => {
            Failure::new(format!("unknown function `{signature}`"))
        }
        EvalAltResult::ErrorParsing(kind, _) => unparsable(kind),
        EvalAltResult::ErrorTerminated(why, _) => Failure::new(ended(why)),
        EvalAltResult::ErrorTooManyOperations(_) => {
            Failure::new("the script ran for too long: more than 50 million operations")
                .hint("check for an endless loop")
        }
        EvalAltResult::ErrorStackOverflow(_) => {
            Failure::new("the script's calls are nested too deeply").hint("check for endless recursion")
        }
        other => {
            let mut text = other.to_string();
            // Rhai appends the position, which kkrun shows by itself.
            if let Some(cut) = text.rfind(" (line ") {
                text.truncate(cut);
            }
            Failure::new(text)
        }
    }
}
