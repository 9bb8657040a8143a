//! Continues to read after a syntax error, so that all errors of a script are reported at once.

use rhai::{ParseErrorType, Position, Scope, Token};

use super::program::{Program, uncompilable};
use super::source::Script;
use super::token::{Lexed, tokens};
use crate::failure::Failure;

/// How many errors of one script are reported: after that many, little of it is understood.
const MOST: usize = 20;

/// What is wrong with a script that does not compile, and the script without it, as far as there is one.
///
/// Lines and columns stay: what is removed is replaced by spaces.
pub(super) fn recovered(engine: &rhai::Engine, script: &Script) -> (Vec<Failure>, Option<Program>) {
    let mut reading = Reading { engine, text: script.text.clone(), scope: Scope::new() };
    let mut problems = Vec::new();
    if script.text.contains('\0') {
        return (problems, None);
    }
    while problems.len() < MOST {
        let error = match engine.compile_with_scope(&reading.scope, &reading.text) {
            Ok(ast) => return (problems, Some(Program::without_mistakes(script, ast))),
            Err(error) => error,
        };
        let (kind, position) = (error.err_type().clone(), error.position());
        problems.push(uncompilable(engine, script, error));
        if !reading.repair(&kind, position) {
            break;
        }
    }
    (problems, None)
}

struct Reading<'engine> {
    engine: &'engine rhai::Engine,
    text: String,
    /// Names that count as known from here on.
    scope: Scope<'static>,
}

impl Reading<'_> {
    /// Removes an error; false if that is not possible.
    fn repair(&mut self, kind: &ParseErrorType, position: Position) -> bool {
        let tokens = tokens(self.engine, &self.text);
        match kind {
            ParseErrorType::VariableUndefined(name) => {
                self.scope.push(name.clone(), ());
                true
            }
            ParseErrorType::MissingToken(token, _) if token == ";" => self.end_statement(position),
            _ => self.blank_statement(&tokens, position),
        }
    }

    /// Inserts the `;` that is missing before `position`.
    fn end_statement(&mut self, position: Position) -> bool {
        let Some(at) = offset(&self.text, position) else { return false };
        if self.text[..at].ends_with(' ') {
            self.text.replace_range(at - 1..at, ";");
        } else {
            self.text.insert(at, ';');
        }
        true
    }

    /// Removes the top-level statement at `position`, or that ended there.
    fn blank_statement(&mut self, tokens: &[Lexed], position: Position) -> bool {
        let order =
            |position: Position| (position.line().unwrap_or(usize::MAX), position.position().unwrap_or(0));
        let (mut start, mut end) = (0, tokens.len());
        // Which brackets are open: no `;` stands directly within round or square ones, so these were forgotten.
        let mut open: Vec<bool> = Vec::new();
        for (at, (token, place)) in tokens.iter().enumerate() {
            match token {
                Token::LeftBrace | Token::MapStart => open.push(true),
                Token::LeftParen | Token::LeftBracket => open.push(false),
                Token::RightBrace => while open.pop() == Some(false) {},
                Token::RightParen | Token::RightBracket if open.last() == Some(&false) => drop(open.pop()),
                Token::SemiColon if !open.contains(&true) => open.clear(),
                _ => {}
            }
            let next = tokens.get(at + 1).map(|(token, _)| token);
            let ends = match token {
                Token::SemiColon => true,
                Token::RightBrace => {
                    matches!(next, Some(Token::Fn | Token::Let | Token::Identifier(_) | Token::If))
                }
                _ => false,
            };
            if open.is_empty() && ends {
                if order(*place) >= order(position) {
                    end = at + 1;
                    break;
                }
                start = at + 1;
            }
        }
        let Some((_, first)) = tokens.get(start) else { return false };
        let from = offset(&self.text, *first).unwrap_or(0);
        let to = tokens.get(end).and_then(|(_, next)| offset(&self.text, *next)).unwrap_or(self.text.len());
        for pair in tokens[start..end].windows(2) {
            if let [(Token::Let | Token::Const, _), (Token::Identifier(name), _)] = pair {
                self.scope.push(name.to_string(), ());
            }
        }
        self.blank(from, to)
    }

    /// Replaces a part of the text by spaces; false if there is nothing in it.
    fn blank(&mut self, from: usize, to: usize) -> bool {
        let part = &self.text[from..to];
        if part.trim().is_empty() {
            return false;
        }
        let blank: String = part.chars().map(|letter| if letter == '\n' { letter } else { ' ' }).collect();
        self.text.replace_range(from..to, &blank);
        true
    }
}

/// Where a position is in a text, in bytes.
fn offset(text: &str, position: Position) -> Option<usize> {
    let (line, column) = (position.line()?, position.position()?.checked_sub(1)?);
    let start: usize = text.split_inclusive('\n').take(line.checked_sub(1)?).map(str::len).sum();
    let within = text[start..].split('\n').next()?;
    Some(start + within.char_indices().nth(column).map_or(within.len(), |(at, _)| at))
}
