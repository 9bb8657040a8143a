//! What a step means by its code: the tokens of its script and of every function that it reaches, and the
//! settings that those name. Comments and layout mean nothing.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use rhai::Token;
use sha2::{Digest, Sha256};

use super::engine::Program;
use super::host::Host;
use super::tokens::tokens;

/// The part of a step's fingerprint that its code makes up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeFingerprint {
    /// A hash over the tokens, in hexadecimal digits.
    pub hash: String,
    /// The settings that are named, sorted.
    pub settings: BTreeSet<String>,
}

/// The fingerprint of a whole script, or of the inline step `inline` within it.
pub fn code_fingerprint(
    engine: &rhai::Engine,
    host: &Host,
    program: &Program,
    inline: Option<&str>,
) -> Result<CodeFingerprint> {
    let mut reader =
        Reader { engine, host, files: BTreeMap::new(), reached: BTreeMap::new(), queue: Vec::new() };
    let key = String::new();
    let file = reader.split(program);
    let start = match inline {
        None => file.top.clone(),
        Some(id) => [besides_steps(&file.top), step_call(&file.top, id)].concat(),
    };
    reader.files.insert(key.clone(), file);
    reader.reach(&key, "", &start);
    while let Some((file, names)) = reader.queue.pop() {
        reader.follow(&file, &names)?;
    }
    Ok(reader.fingerprint())
}

/// A script cut into its functions and the rest.
struct CutFile {
    top: Vec<Token>,
    functions: BTreeMap<String, Vec<Token>>,
    /// By the name that a module is given; in another function that may be another module.
    imports: BTreeMap<String, BTreeSet<String>>,
}

struct Reader<'a> {
    engine: &'a rhai::Engine,
    host: &'a Host,
    files: BTreeMap<String, CutFile>,
    /// The tokens of what is reached, by file and function; the empty function is a file's top level.
    reached: BTreeMap<(String, String), Vec<String>>,
    /// Files, each with the function in it that is called; by way of the names of modules that it imports, or none
    /// for its top level.
    queue: Vec<(String, Vec<String>)>,
}

impl Reader<'_> {
    fn split(&self, program: &Program) -> CutFile {
        cut(&tokens(self.engine, &program.text))
    }

    /// Takes in what is reached and queues what that names in turn.
    fn reach(&mut self, file: &str, function: &str, tokens: &[Token]) {
        let place = (file.to_owned(), function.to_owned());
        let written = tokens.iter().map(|token| format!("{token:?}")).collect();
        if self.reached.insert(place, written).is_some() {
            return;
        }
        let Some(cut) = self.files.get(file) else { return };
        for (at, token) in tokens.iter().enumerate() {
            match (token, tokens.get(at + 1)) {
                (Token::Import, Some(Token::StringConstant(path))) => {
                    self.queue.push((path.to_string(), Vec::new()));
                }
                (Token::Identifier(name), Some(Token::DoubleColon)) => {
                    let modules = cut.imports.get(name.as_str()).into_iter().flatten();
                    let names = members(&tokens[at + 1..]);
                    self.queue.extend(modules.map(|module| (module.clone(), names.clone())));
                }
                // A function may be named by a text, too: `Fn("name")`.
                (Token::Identifier(name) | Token::StringConstant(name), _)
                    if cut.functions.contains_key(name.as_str()) =>
                {
                    self.queue.push((file.to_owned(), vec![name.to_string()]));
                }
                _ => {}
            }
        }
    }

    fn follow(&mut self, file: &str, names: &[String]) -> Result<()> {
        if !self.files.contains_key(file) {
            let program = self.host.imported(self.engine, file)?;
            let cut = self.split(&program);
            let top = cut.top.clone();
            self.files.insert(file.to_owned(), cut);
            self.reach(file, "", &top);
        }
        let (Some(cut), [name, further @ ..]) = (self.files.get(file), names) else { return Ok(()) };
        if further.is_empty() {
            if let Some(tokens) = cut.functions.get(name).cloned() {
                self.reach(file, name, &tokens);
            }
        } else if let Some(modules) = cut.imports.get(name) {
            self.queue.extend(modules.iter().map(|module| (module.clone(), further.to_vec())));
        }
        Ok(())
    }

    fn fingerprint(self) -> CodeFingerprint {
        let mut hash = Sha256::new();
        let mut settings = BTreeSet::new();
        let named = format!("{:?}", Token::Identifier(Box::new("settings".into())));
        let colons = format!("{:?}", Token::DoubleColon);
        for ((_, function), tokens) in &self.reached {
            hash.update(function.as_bytes());
            for token in tokens {
                hash.update([0]);
                hash.update(token.as_bytes());
            }
            for window in tokens.windows(3) {
                if window[0] == named && window[1] == colons {
                    settings.extend(identifier(&window[2]).map(str::to_owned));
                }
            }
        }
        CodeFingerprint { hash: hex(&hash.finalize()), settings }
    }
}

/// The name in a token's debug form.
fn identifier(token: &str) -> Option<&str> {
    token.strip_prefix("Identifier(\"")?.strip_suffix("\")")
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn cut(tokens: &[Token]) -> CutFile {
    let mut file = CutFile { top: Vec::new(), functions: BTreeMap::new(), imports: BTreeMap::new() };
    for at in 0..tokens.len() {
        if let [Token::Import, Token::StringConstant(path), Token::As, Token::Identifier(alias), ..] =
            &tokens[at..]
        {
            file.imports.entry(alias.to_string()).or_default().insert(path.to_string());
        }
    }
    let mut at = 0;
    while at < tokens.len() {
        let is_function = matches!(tokens[at], Token::Fn)
            || matches!((&tokens[at], tokens.get(at + 1)), (Token::Private, Some(Token::Fn)));
        if is_function {
            let end = end_of_block(tokens, at);
            let name = tokens[at..end].iter().find_map(|token| match token {
                Token::Identifier(name) => Some(name.to_string()),
                _ => None,
            });
            // Functions of one name and different arity belong together.
            file.functions.entry(name.unwrap_or_default()).or_default().extend_from_slice(&tokens[at..end]);
            at = end;
            continue;
        }
        file.top.push(tokens[at].clone());
        at += 1;
    }
    file
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

/// The names behind `::`, one after the other.
fn members(tokens: &[Token]) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = tokens;
    while let [Token::DoubleColon, Token::Identifier(name), behind @ ..] = rest {
        names.push(name.to_string());
        rest = behind;
    }
    names
}

/// What stands at the top level besides steps and what is reported to people: inline steps see its variables.
fn besides_steps(tokens: &[Token]) -> Vec<Token> {
    let mut besides = Vec::new();
    let (mut start, mut depth) = (0, 0_usize);
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::LeftBrace | Token::MapStart | Token::LeftParen | Token::LeftBracket => depth += 1,
            Token::RightBrace | Token::RightParen | Token::RightBracket => depth = depth.saturating_sub(1),
            Token::SemiColon if depth == 0 => {
                besides.extend_from_slice(unless_passed_over(&tokens[start..=at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    besides.extend_from_slice(unless_passed_over(&tokens[start..]));
    besides
}

fn unless_passed_over(statement: &[Token]) -> &[Token] {
    match statement {
        [Token::Identifier(namespace), Token::DoubleColon, Token::Identifier(function), ..]
            if namespace.as_str() == "log" || namespace.as_str() == "step" && function.as_str() == "run" =>
        {
            &[]
        }
        _ => statement,
    }
}

/// The tokens of the call that declares the inline step `id`.
fn step_call(tokens: &[Token], id: &str) -> Vec<Token> {
    let is_call = |at: usize| match &tokens[at..] {
        [
            Token::Identifier(step),
            Token::DoubleColon,
            Token::Identifier(run),
            Token::LeftParen,
            Token::StringConstant(literal),
            ..,
        ] => step.as_str() == "step" && run.as_str() == "run" && literal.as_str() == id,
        _ => false,
    };
    let Some(start) = (0..tokens.len()).find(|at| is_call(*at)) else { return tokens.to_vec() };
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(start) {
        match token {
            Token::LeftParen => depth += 1,
            Token::RightParen => {
                depth -= 1;
                if depth == 0 {
                    return tokens[start..=at].to_vec();
                }
            }
            _ => {}
        }
    }
    tokens[start..].to_vec()
}
