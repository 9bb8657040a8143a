//! Parses statements just far enough to insert parameters into those that cannot bind them.

use anyhow::{Result, bail};
use zeroize::Zeroizing;

use super::value::Parameter;
use crate::failure::{Failure, FailureKind};

/// Whether the server takes bound parameters in this statement: the others, which define and set things, do not.
/// Source: PostgreSQL manual, `PREPARE`.
pub fn binds(sql: &str) -> bool {
    let first = pieces(sql).into_iter().find_map(|piece| match piece {
        Piece::Plain(text) => {
            let text = text.trim_start_matches(|letter: char| letter.is_whitespace() || letter == '(');
            let end = text.find(|letter: char| !letter.is_ascii_alphabetic()).unwrap_or(text.len());
            (!text.is_empty()).then(|| text[..end].to_ascii_uppercase())
        }
        Piece::Comment(_) => None,
        Piece::Quoted(_) | Piece::Parameter(_) => Some(String::new()),
    });
    let takes = ["SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "WITH", "VALUES", "TABLE"];
    first.is_some_and(|word| takes.contains(&word.as_str()))
}

/// The statement with its parameters inserted.
///
/// # Errors
/// When it uses a parameter that is not given.
pub fn inlined(sql: &str, parameters: &[Parameter]) -> Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::with_capacity(sql.len()));
    for piece in pieces(sql) {
        match piece {
            Piece::Plain(part) | Piece::Quoted(part) | Piece::Comment(part) => text.push_str(part),
            Piece::Parameter(number) => {
                let Some(parameter) = number.checked_sub(1).and_then(|at| parameters.get(at)) else {
                    bail!(
                        Failure::new(format!(
                            "the statement uses ${number}, but {} parameters are given",
                            parameters.len()
                        ))
                        .kind(FailureKind::Usage)
                    );
                };
                text.push_str(&parameter.literal());
            }
        }
    }
    Ok(text)
}

#[derive(Debug, PartialEq)]
enum Piece<'sql> {
    Plain(&'sql str),
    /// A string or a name in quotes, the quotes included.
    Quoted(&'sql str),
    Comment(&'sql str),
    Parameter(usize),
}

/// Cuts a statement at its quotes, comments and parameters.
/// Source: PostgreSQL manual, section 4.1, "Lexical Structure".
fn pieces<'sql>(sql: &'sql str) -> Vec<Piece<'sql>> {
    type Form<'sql> = fn(&'sql str) -> Piece<'sql>;
    let bytes = sql.as_bytes();
    let (mut pieces, mut plain, mut at) = (Vec::new(), 0, 0);
    while at < bytes.len() {
        let before = at.checked_sub(1).map(|before| bytes[before]);
        let is_in_word = before.is_some_and(is_word);
        let (end, piece): (usize, Form<'sql>) = match &bytes[at..] {
            [b'\'', ..] => {
                let escapes = before.is_some_and(|letter| letter.eq_ignore_ascii_case(&b'e'))
                    && !at.checked_sub(2).is_some_and(|before| is_word(bytes[before]));
                (end_of_quoted(bytes, at, b'\'', escapes), Piece::Quoted)
            }
            [b'"', ..] => (end_of_quoted(bytes, at, b'"', false), Piece::Quoted),
            [b'-', b'-', ..] => {
                (sql[at..].find('\n').map_or(bytes.len(), |length| at + length), Piece::Comment)
            }
            [b'/', b'*', ..] => (end_of_comment(bytes, at), Piece::Comment),
            [b'$', digit, ..] if digit.is_ascii_digit() && !is_in_word => {
                let digits = bytes[at + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                let end = at + 1 + digits;
                if plain < at {
                    pieces.push(Piece::Plain(&sql[plain..at]));
                }
                // A number that overflows is of a parameter that is not given.
                pieces.push(Piece::Parameter(sql[at + 1..end].parse().unwrap_or(usize::MAX)));
                (plain, at) = (end, end);
                continue;
            }
            [b'$', ..] if !is_in_word => {
                let Some(end) = end_of_dollar_quoted(sql, at) else {
                    at += 1;
                    continue;
                };
                (end, Piece::Quoted)
            }
            _ => {
                at += 1;
                continue;
            }
        };
        if plain < at {
            pieces.push(Piece::Plain(&sql[plain..at]));
        }
        pieces.push(piece(&sql[at..end]));
        (plain, at) = (end, end);
    }
    if plain < bytes.len() {
        pieces.push(Piece::Plain(&sql[plain..]));
    }
    pieces
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || !byte.is_ascii()
}

/// The position after the closing quote; a doubled quote does not close.
fn end_of_quoted(bytes: &[u8], start: usize, quote: u8, escapes: bool) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if escapes => at += 2,
            byte if byte == quote && bytes.get(at + 1) == Some(&quote) => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The position after the comment; comments nest.
fn end_of_comment(bytes: &[u8], start: usize) -> usize {
    let (mut depth, mut at) = (0_usize, start);
    while at < bytes.len() {
        match &bytes[at..] {
            [b'/', b'*', ..] => {
                depth += 1;
                at += 2;
            }
            [b'*', b'/', ..] => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The position after `$tag$ … $tag$`, if one begins here.
fn end_of_dollar_quoted(sql: &str, start: usize) -> Option<usize> {
    let rest = &sql[start + 1..];
    let length = rest.find('$')?;
    if !rest[..length].bytes().all(|byte| is_word(byte) && byte != b'$') {
        return None;
    }
    let tag = &sql[start..start + length + 2];
    let body = start + tag.len();
    Some(sql[body..].find(tag).map_or(sql.len(), |found| body + found + tag.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_put_where_they_stand_and_nowhere_else() {
        let given = [Parameter::text("it's \\ 100%"), Parameter::Number("-5".to_owned()), Parameter::Null];
        for (sql, whole) in [
            ("COMMENT ON DATABASE x IS $1", "COMMENT ON DATABASE x IS E'it''s \\\\ 100%'"),
            ("SET a TO $2", "SET a TO (-5)"),
            ("x $3,$2 y", "x NULL,(-5) y"),
            ("'$1' \"$1\" $1", "'$1' \"$1\" E'it''s \\\\ 100%'"),
            ("-- $1\n/* $1 /* $1 */ $1 */ $3", "-- $1\n/* $1 /* $1 */ $1 */ NULL"),
            ("DO $$ $1 $$", "DO $$ $1 $$"),
            ("DO $body$ $1 $$ $body$ $3", "DO $body$ $1 $$ $body$ NULL"),
            ("E'\\'$1' $3", "E'\\'$1' NULL"),
            ("'\\' $3", "'\\' NULL"),
            ("'it''s $1' $3", "'it''s $1' NULL"),
            ("name$1 $3", "name$1 NULL"),
            ("é$3", "é$3"),
        ] {
            assert_eq!(&*inlined(sql, &given).unwrap(), whole, "{sql}");
        }
        assert!(inlined("SET a TO $4", &given).unwrap_err().to_string().contains("$4"));
        assert!(inlined("SET a TO $0", &given).is_err());
    }

    #[test]
    fn statements_that_take_parameters_are_known_by_their_first_word() {
        for sql in [
            "SELECT 1",
            " select 1",
            "-- why\n(VALUES (1))",
            "/* x */with a as (select 1) select 2",
            "Insert into t values (1)",
        ] {
            assert!(binds(sql), "{sql}");
        }
        for sql in [
            "ALTER ROLE x",
            "-- SELECT\nSET a TO 1",
            "",
            "'SELECT'",
            "SELECTED",
            "CREATE TABLE t AS SELECT 1",
        ] {
            assert!(!binds(sql), "{sql}");
        }
    }

    #[test]
    fn a_broken_statement_is_passed_on_for_the_server_to_judge() {
        for sql in ["'open", "\"open", "$tag$ open", "/* open", "E'\\", "$", "a$"] {
            assert_eq!(&*inlined(sql, &[]).unwrap(), sql);
        }
    }
}
