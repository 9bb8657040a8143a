//! Cuts a script into its tokens, as Rhai's parser does.

use rhai::Token;

/// The tokens of a script that compiles.
///
/// Where the code within a text ends and the text goes on is known to the parser alone, so it is reported to the lexer
/// here, too: otherwise what follows a `${…}` would be taken for code, and the code behind the text for text.
pub(super) fn tokens(engine: &rhai::Engine, text: &str) -> Vec<Token> {
    let texts = [text];
    let (lexer, control) = engine.lex(&texts);
    let mut tokens = Vec::new();
    // How many braces are open in each text that is interrupted by code.
    let mut within: Vec<usize> = Vec::new();
    for (token, _) in lexer {
        match &token {
            // The lexer repeats the end for ever.
            Token::EOF => break,
            Token::InterpolatedString(_) => within.push(0),
            Token::LeftBrace | Token::MapStart => {
                if let Some(open) = within.last_mut() {
                    *open += 1;
                }
            }
            Token::RightBrace => {
                if let Some(open) = within.last_mut() {
                    *open = open.saturating_sub(1);
                    if *open == 0 {
                        within.pop();
                        control.borrow_mut().is_within_text = true;
                    }
                }
            }
            _ => {}
        }
        tokens.push(token);
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identifiers(text: &str) -> Vec<String> {
        let engine = rhai::Engine::new_raw();
        let name = |token| if let Token::Identifier(name) = token { Some(name.to_string()) } else { None };
        tokens(&engine, text).into_iter().filter_map(name).collect()
    }

    #[test]
    fn the_code_within_a_text_and_behind_it_is_code_and_the_text_is_not() {
        for (text, names) in [
            ("`a ${b} c`; d", "b d"),
            ("`${a}${b}`; c", "a b c"),
            ("`x ${ #{ y: { a } }.y } z ${b}`; c", "y a y b c"),
            ("`${ `${a} b` } c`; d", "a d"),
            ("`a\n{ b\n${c}\n} d`; e; `f`", "c e"),
            ("fn a(b) { `${b}` } fn c() { \"`${d}\" } e", "a b b c e"),
        ] {
            assert_eq!(identifiers(text).join(" "), names, "{text}");
        }
    }
}
