//! A compiled script and its parts: its top level and its functions, each with its tokens, and its imports.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use anyhow::Result;
use rhai::{AST, ParseErrorType, Position, Token};

use super::error::{self, place_in};
use super::manual;
use super::source::Script;
use super::token::{Lexed, tokens};
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::text::nearest;

/// A compiled script.
pub struct Program {
    /// The name that errors call it by.
    pub name: String,
    /// Its text.
    pub text: String,
    /// Its compiled form.
    pub ast: AST,
    parts: OnceCell<Parts>,
}

/// A script cut into its functions and the rest.
pub(super) struct Parts {
    /// The tokens outside of functions.
    pub(super) top: Rc<[Token]>,
    /// By name: functions of one name and different arity belong together.
    pub(super) functions: BTreeMap<String, Rc<[Token]>>,
    /// In the order of the source.
    pub(super) imports: Vec<Import>,
}

/// An `import` in a script.
#[derive(Clone, Debug)]
pub(super) struct Import {
    /// The module that it names; none if that is not a literal string.
    pub(super) module: Option<String>,
    /// The name that the script gives to the module.
    pub(super) alias: String,
    /// Where the module is named.
    pub(super) position: Position,
}

impl Program {
    /// Compiles a script.
    ///
    /// # Errors
    /// With [`ExitCode::USAGE`] and the place of the first error.
    pub fn compile(engine: &rhai::Engine, script: &Script) -> Result<Self> {
        if script.text.as_bytes().contains(&0) {
            return Err(Failure::new(format!("`{}` is binary, not a script", script.name))
                .exit(ExitCode::USAGE)
                .into());
        }
        let ast = engine.compile(&script.text).map_err(|error| uncompilable(engine, script, error))?;
        if ast.statements().is_empty() && !ast.has_functions() {
            return Err(Failure::new(format!(
                "`{}` contains no statement: there is nothing to run",
                script.name
            ))
            .exit(ExitCode::USAGE)
            .into());
        }
        Ok(Self::without_mistakes(script, ast))
    }

    /// What is left of a script without its errors.
    pub(super) fn without_mistakes(script: &Script, mut ast: AST) -> Self {
        ast.set_source(script.name.as_str());
        Self { name: script.name.clone(), text: script.text.clone(), ast, parts: OnceCell::new() }
    }

    /// What is wrong at a place in it.
    pub(super) fn problem(&self, position: Position, message: impl Into<String>) -> Failure {
        Failure::new(message).exit(ExitCode::USAGE).at(place_in(&self.name, &self.text, position))
    }

    /// Its parts, found once.
    pub(super) fn parts(&self, engine: &rhai::Engine) -> &Parts {
        self.parts.get_or_init(|| Parts::of(&tokens(engine, &self.text)))
    }
}

impl Parts {
    fn of(tokens: &[Lexed]) -> Self {
        let imports = imports(tokens);
        let tokens: Vec<Token> = tokens.iter().map(|(token, _)| token.clone()).collect();
        let mut top = Vec::new();
        let mut functions: BTreeMap<String, Vec<Token>> = BTreeMap::new();
        let mut at = 0;
        while at < tokens.len() {
            if !matches!(&tokens[at..], [Token::Fn, ..] | [Token::Private, Token::Fn, ..]) {
                top.push(tokens[at].clone());
                at += 1;
                continue;
            }
            let function = &tokens[at..end_of_block(&tokens, at)];
            at += function.len();
            functions.entry(name_of(function)).or_default().extend_from_slice(function);
        }
        let functions = functions.into_iter().map(|(name, tokens)| (name, tokens.into())).collect();
        Self { top: top.into(), functions, imports }
    }

    /// The modules that a name in this script may mean: in another function that may be another module.
    pub(super) fn modules<'a>(&'a self, alias: &str) -> BTreeSet<&'a str> {
        let named = self.imports.iter().filter(|import| import.alias == alias);
        named.filter_map(|import| import.module.as_deref()).collect()
    }
}

/// The name of a function; a method has its type in front of it.
fn name_of(function: &[Token]) -> String {
    let before_parameters =
        function.iter().take_while(|token| !matches!(token, Token::LeftParen | Token::Unit));
    let names = before_parameters.filter_map(|token| match token {
        Token::Identifier(name) => Some(name.to_string()),
        _ => None,
    });
    names.last().unwrap_or_default()
}

fn imports(tokens: &[Lexed]) -> Vec<Import> {
    let mut imports = Vec::new();
    for (at, (token, position)) in tokens.iter().enumerate() {
        if *token != Token::Import {
            continue;
        }
        let (module, position, behind) = match &tokens[at + 1..] {
            [(Token::StringConstant(module), position), behind @ ..] if !matches!(behind.first(), Some((token, _)) if continues(token)) => {
                (Some(module.to_string()), *position, behind)
            }
            other => (None, *position, other),
        };
        let is_over = |(token, _): &&Lexed| matches!(token, Token::SemiColon | Token::As);
        let alias = match behind.iter().position(|token| is_over(&token)).map(|end| &behind[end..]) {
            Some([(Token::As, _), (Token::Identifier(alias), _), ..]) => alias.to_string(),
            _ => String::new(),
        };
        imports.push(Import { module, alias, position });
    }
    imports
}

/// Whether an expression goes on with this token behind a string.
fn continues(token: &Token) -> bool {
    !matches!(token, Token::As | Token::SemiColon | Token::RightBrace)
}

/// The index behind the block that begins after `start`.
fn end_of_block(tokens: &[Token], start: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(start) {
        match token {
            Token::LeftBrace | Token::MapStart => depth += 1,
            Token::RightBrace => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    tokens.len()
}

/// Why a script does not compile, with the nearest name that is known for one that is not.
pub(super) fn uncompilable(engine: &rhai::Engine, script: &Script, error: rhai::ParseError) -> Failure {
    let known: Vec<String> = match error.err_type() {
        ParseErrorType::ModuleUndefined(_) => manual::functions(engine)
            .into_iter()
            .map(|function| function.namespace)
            .chain(["settings".to_owned()])
            .collect(),
        ParseErrorType::VariableUndefined(_) => identifiers(engine, &script.text),
        _ => Vec::new(),
    };
    let near = match error.err_type() {
        ParseErrorType::ModuleUndefined(name) | ParseErrorType::VariableUndefined(name) => {
            let others = known.iter().map(String::as_str).filter(|known| known != name);
            nearest(name, others).map(str::to_owned)
        }
        _ => None,
    };
    let is_unended = matches!(error.err_type(), ParseErrorType::MissingToken(token, _) if token == ";");
    let before = if is_unended { last_before(&tokens(engine, &script.text), error.position()) } else { None };
    let (kind, position) = (error.err_type().clone(), error.position());
    let mut failure = error::plain(&error.into(), &script.name, &script.text, ExitCode::USAGE);
    if let Some(position) = before {
        // Rhai reports the token that follows, which is mostly in the next line.
        "expected `;` after this, at the end of the statement".clone_into(&mut failure.message);
        failure.place = Some(place_in(&script.name, &script.text, position));
    }
    match near {
        Some(near) => failure.hint(format!("did you mean `{near}`?")),
        None if before.is_none() => match reserved(&kind, position, &script.text) {
            Some((word, hint)) => {
                failure.message = format!("`{word}` is a reserved word");
                failure.hint(hint)
            }
            None => failure,
        },
        None => failure,
    }
}

/// The reserved word at a position, where one of them is what is wrong, and the way on.
fn reserved(kind: &ParseErrorType, position: Position, text: &str) -> Option<(String, String)> {
    let line = text.lines().nth(position.line()?.checked_sub(1)?)?;
    let column = position.position()?.saturating_sub(1);
    let (before, behind) = line.split_at(line.char_indices().nth(column)?.0);
    let end = behind.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(behind.len());
    let (word, behind) = behind.split_at(end);
    let is_key = behind.trim_start().strip_prefix(':').is_some_and(|rest| !rest.starts_with(':'));
    let is_reserved = match kind {
        ParseErrorType::Reserved(_) => true,
        // Rhai names what it expects in the place of a word that it has a meaning for.
        ParseErrorType::PropertyExpected => is_key || before.ends_with('.'),
        ParseErrorType::MissingToken(token, _) => token == "}" && is_key,
        _ => false,
    };
    if !is_reserved || !word.starts_with(|first: char| first.is_alphabetic() || first == '_') {
        return None;
    }
    let hint = if is_key {
        format!("quote it as the key of a map: `\"{word}\": …`")
    } else if before.trim_end().ends_with('.') {
        format!("name it in brackets instead of behind a dot: `[\"{word}\"]`")
    } else {
        "choose another name".to_owned()
    };
    Some((word.to_owned(), hint))
}

/// The last token before a position.
fn last_before(tokens: &[Lexed], position: Position) -> Option<Position> {
    let order = |position: Position| (position.line(), position.position());
    let before = tokens.iter().take_while(|(_, place)| order(*place) < order(position));
    before.last().map(|(_, place)| *place)
}

/// The names that a script uses.
fn identifiers(engine: &rhai::Engine, text: &str) -> Vec<String> {
    tokens(engine, text)
        .into_iter()
        .filter_map(
            |(token, _)| if let Token::Identifier(name) = token { Some(name.to_string()) } else { None },
        )
        .collect()
}
