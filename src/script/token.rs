//! The tokens of a script, as Rhai's parser sees them, and their form in a fingerprint.

use rhai::{Position, Token};

/// A token and where it begins.
pub(super) type Lexed = (Token, Position);

/// The tokens of a script without its comments; up to the first that cannot be read.
///
/// Only the parser knows where the code within a string ends and the string continues, so this passes it to the lexer,
/// too: otherwise the lexer takes what follows a `${…}` for code, and the code after the string for text.
pub(super) fn tokens(engine: &rhai::Engine, text: &str) -> Vec<Lexed> {
    let texts = [text];
    let (lexer, control) = engine.lex(&texts);
    let mut tokens = Vec::new();
    // How many braces are open in each string that is interrupted by code.
    let mut within: Vec<usize> = Vec::new();
    for (token, position) in lexer {
        match &token {
            // The lexer repeats the end for ever.
            Token::EOF | Token::LexError(_) => break,
            Token::Comment(_) => continue,
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
        tokens.push((token, position));
    }
    tokens
}

/// Adds a token to a fingerprint: one byte for its kind, the length of its text as eight bytes (little endian), its text.
///
/// | kind | token | text |
/// |---|---|---|
/// | `w` | keyword, operator, bracket, separator | as in the language: `fn`, `+`, `#{`; the empty value `()` is `(` and `)` |
/// | `n` | name | as written |
/// | `i` | whole number | decimal |
/// | `f` | other number | as written |
/// | `c` | character | itself |
/// | `s` | string, or what follows the last `${…}` in one | its content without quotes and escapes |
/// | `t` | the part of a string before a `${…}` | its content |
///
/// The journal keeps fingerprints, so this form is kkrun's own and must not change with Rhai.
pub(super) fn write(token: &Token, into: &mut Vec<u8>) {
    let mut add = |kind: u8, text: &str| {
        into.push(kind);
        into.extend((text.len() as u64).to_le_bytes());
        into.extend(text.as_bytes());
    };
    match token {
        Token::IntegerConstant(number) => add(b'i', &number.to_string()),
        Token::FloatConstant(number) => add(b'f', &number.1),
        Token::Identifier(name) | Token::Reserved(name) | Token::Custom(name) => add(b'n', name),
        Token::CharConstant(letter) => add(b'c', letter.encode_utf8(&mut [0; 4])),
        Token::StringConstant(text) => add(b's', text),
        Token::InterpolatedString(text) => add(b't', text),
        // `()` and `( )` differ in layout alone.
        Token::Unit => {
            add(b'w', "(");
            add(b'w', ")");
        }
        Token::EOF | Token::LexError(_) | Token::Comment(_) | Token::UnprocessedRawChar(_) => {}
        word => add(b'w', word.literal_syntax()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identifiers(text: &str) -> Vec<String> {
        let engine = rhai::Engine::new_raw();
        let name =
            |(token, _)| if let Token::Identifier(name) = token { Some(name.to_string()) } else { None };
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
