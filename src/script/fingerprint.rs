//! The code part of a step's fingerprint: the tokens of its script and of every function that it reaches, and the
//! settings that these name. Comments and layout do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use anyhow::Result;
use rhai::Token;

use super::graph::{Graph, MAIN};
use super::token;
use crate::machine::files::Digest;

/// The part of a step's fingerprint that depends on its code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeFingerprint {
    /// A hash over the tokens, in hexadecimal digits.
    pub hash: String,
    /// A short hash over the tokens of each function of a module that is reached, as `std/git::checkout`.
    pub functions: BTreeMap<String, String>,
    /// The settings that are named, sorted.
    pub settings: BTreeSet<String>,
}

/// How many digits a short hash has: it tells two versions of one function apart.
const SHORT: usize = 8;

/// The fingerprint of the code of a step: a script, or without one the inline step `id` of the plan.
///
/// It is the SHA-256 of the pieces of code that are reached, sorted by module and function. Each is the name of its
/// function and its tokens in the form of `token::write`.
pub fn code_fingerprint(
    engine: &rhai::Engine,
    graph: &Graph,
    script: Option<&str>,
    id: &str,
) -> Result<CodeFingerprint> {
    let program = graph.program(engine, script.unwrap_or(MAIN))?;
    let top = &program.parts(engine).top;
    let code = match script {
        Some(_) => Rc::clone(top),
        None => [besides_steps(top), step_call(top, id).to_vec()].concat().into(),
    };
    let (mut bytes, mut functions, mut settings) = (Vec::new(), BTreeMap::new(), BTreeSet::new());
    for ((module, function), tokens) in graph.reached(engine, &program, code)? {
        let start = bytes.len();
        token::write(&Token::Identifier(Box::new(function.as_str().into())), &mut bytes);
        for token in tokens.iter() {
            token::write(token, &mut bytes);
        }
        if !module.is_empty() {
            let name = if function.is_empty() { module } else { format!("{module}::{function}") };
            let mut hash = Digest::of(&bytes[start..]).to_string();
            hash.truncate(SHORT);
            functions.insert(name, hash);
        }
        settings.extend(settings_in(&tokens));
    }
    Ok(CodeFingerprint { hash: Digest::of(&bytes).to_string(), functions, settings })
}

/// The settings that are named: `settings::NAME`.
fn settings_in(tokens: &[Token]) -> impl Iterator<Item = String> + '_ {
    tokens.windows(3).filter_map(|window| match window {
        [Token::Identifier(namespace), Token::DoubleColon, Token::Identifier(name)]
            if namespace.as_str() == "settings" =>
        {
            Some(name.to_string())
        }
        _ => None,
    })
}

/// The top level without steps and messages: inline steps see its variables.
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
fn step_call<'tokens>(tokens: &'tokens [Token], id: &str) -> &'tokens [Token] {
    let is_call = |at: &usize| match &tokens[*at..] {
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
    let Some(start) = (0..tokens.len()).find(is_call) else { return tokens };
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(start) {
        match token {
            Token::LeftParen => depth += 1,
            Token::RightParen => {
                depth -= 1;
                if depth == 0 {
                    return &tokens[start..=at];
                }
            }
            _ => {}
        }
    }
    &tokens[start..]
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::script::graph::key_of;
    use crate::script::limits;
    use crate::script::{Script, Source};

    const STEP: &str = "import \"std/site\" as site;\n\
        const REQUIRES = #{ root: true };\n\
        fn twice(n) { n * 2.50 - 0x10 }\n\
        fn unused() { 1 }\n\
        let name = `x${settings::name}y`;\n\
        if name != 'c' && !true { site::make(name, twice(()), [1_000, -1], |x| x + 1); }\n";
    const SITE: &str = "fn make(name, n, list, f) { file::write(`/srv/${name}`, settings::text + \"\\n\"); }\n\
        fn other() { settings::unused }\n";

    /// The fingerprint of a plan's script with modules beside it; of its inline step `id`, if there is one.
    fn fingerprint(files: &[(&str, &str)], script: Option<&str>, id: &str) -> CodeFingerprint {
        let nowhere = PathBuf::from("/nonexistent");
        let graph = Graph::new(Source::Directory { shown: nowhere.clone(), root: nowhere });
        for (name, text) in files {
            let script = Script { name: (*name).to_owned(), text: (*text).to_owned() };
            graph.keep(if *name == MAIN { MAIN.to_owned() } else { key_of(name) }.as_str(), script);
        }
        let mut engine = limits::plain();
        engine.set_strict_variables(false);
        code_fingerprint(&engine, &graph, script, id).unwrap()
    }

    fn of(step: &str, site: &str) -> CodeFingerprint {
        fingerprint(&[("step", step), ("std/site", site)], Some("step.rhai"), "")
    }

    /// The journals of every machine hold such hashes: with another, all steps are stale there. If this fails after an
    /// upgrade of Rhai, `token::write` has to give what it gave before.
    #[test]
    fn fingerprint_is_pinned() {
        let found = of(STEP, SITE);
        assert_eq!(found.hash, "0d9e9ce7cc5d5aeb4377bd35bc5ed476ce208381f45f5cf120410fe687f5cab9");
        assert_eq!(found.settings.into_iter().collect::<Vec<_>>(), ["name", "text"]);
    }

    #[test]
    fn fingerprint_ignores_comments_and_layout() {
        let before = of(STEP, SITE);
        let step = STEP
            .replace("fn twice", "/// Doubles.\n/** Really. */ fn twice")
            .replace("const REQUIRES", "//! Of the script.\n// Here.\nconst  REQUIRES")
            .replace("twice(())", "twice( /* of */\n () )")
            .replace("1_000", "1000");
        assert_ne!(step, STEP);
        assert_eq!(of("f( )", SITE), of("f()", SITE));
        assert_eq!(of(&step, &format!("// A comment.\n{}", SITE.replace("    ", "\t"))), before);
    }

    #[test]
    fn fingerprint_ignores_functions_that_are_not_reached() {
        let before = of(STEP, SITE);
        let step = STEP.replace("fn unused() { 1 }", "fn unused() { 2 }");
        assert_eq!(of(&step, &SITE.replace("settings::unused", "settings::more")), before);
        assert_ne!(of(STEP, &SITE.replace("/srv/", "/opt/")), before);
    }

    #[test]
    fn fingerprint_counts_every_token() {
        let before = of(STEP, SITE).hash;
        for (from, to) in [
            ("`x${settings::name}y`", "`x${settings::name}z`"),
            ("`x${settings::name}y`", "`w${settings::name}y`"),
            ("`x${settings::name}y`", "`x${settings::names}y`"),
            ("`x${settings::name}y`", "\"x${settings::name}y\""),
            ("2.50", "2.51"),
            ("0x10", "0x11"),
            ("'c'", "\"c\""),
            ("!true", "true"),
            ("1_000, -1", "1_000 -1"),
            ("twice(())", "twice([])"),
            ("|x| x + 1", "|x| x - 1"),
        ] {
            let changed = STEP.replace(from, to);
            assert_ne!(changed, STEP, "{from}");
            assert_ne!(of(&changed, SITE).hash, before, "{to}");
        }
    }

    #[test]
    fn strings_that_share_their_characters_differ() {
        let of = |text: &str| of(text, SITE).hash;
        assert_ne!(of("f(\"a\", \"b\")"), of("f(\"a,b\")"));
        assert_ne!(of("f(\"s\\x00\", \"\")"), of("f(\"\", \"s\\x00\")"));
        assert_ne!(of("x(a)"), of("x(\"a\")"));
    }

    #[test]
    fn inline_step_means_its_call_and_what_stands_besides_steps() {
        let plan = "let a = 1;\nlog::info(\"x\");\nstep::run(\"01\", \"A\", || f(a));\n\
            step::run(\"02\", \"B\", || g(a));\nfn f(x) { x }\nfn g(x) { x }\n";
        let of = |plan: &str, id: &str| fingerprint(&[(MAIN, plan)], None, id).hash;
        let before = of(plan, "01");
        assert_eq!(
            of(&plan.replace("g(a)", "g(2)").replace("g(x) { x", "g(x) { 3").replace("\"x\"", "\"y\""), "01"),
            before
        );
        assert_ne!(of(&plan.replace("a = 1", "a = 2"), "01"), before);
        assert_ne!(of(&plan.replace("f(x) { x", "f(x) { 3"), "01"), before);
        assert_ne!(of(plan, "02"), before);
    }
}
