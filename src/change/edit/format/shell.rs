//! Assignments of a POSIX shell, outside of its compound commands: what is set in an `if` holds only sometimes.

use std::ops::Range;

use super::super::lines::Lines;
use super::assignments::behind_export;
use super::rules::behind_quotes;
use super::{Is, Key, Syntax, behind_key, logical};

pub(super) struct Shell;

/// A simple or compound command, read from where its line begins.
struct Command {
    /// The line behind it.
    end: usize,
    /// Why it cannot be edited around.
    trouble: Option<&'static str>,
}

/// Where quotes end that begin at `at`, or a character.
fn behind_part(text: &[u8], at: usize) -> Option<usize> {
    let quote = text[at];
    if quote == b'\\' {
        return Some((at + 2).min(text.len()));
    }
    if !matches!(quote, b'\'' | b'"' | b'`') {
        return Some(at + 1);
    }
    behind_quotes(text, at, quote != b'\'' || at > 0 && text[at - 1] == b'$')
}

/// Where a word ends that begins at `at`; none if its quotes or parentheses never close.
fn behind_word(text: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    while at < text.len() {
        match text[at] {
            byte if depth == 0 && (byte.is_ascii_whitespace() || b";&|<>)".contains(&byte)) => {
                return Some(at);
            }
            b'(' => depth += 1,
            b')' => depth -= 1,
            _ => {}
        }
        at = behind_part(text, at)?;
    }
    (depth == 0).then_some(at)
}

fn command(lines: &Lines<'_>, number: usize) -> Command {
    let text = &lines.bytes()[lines.span(&(number..lines.count()))];
    let (mut at, mut depth, mut begins, mut trouble) = (0, 0_usize, true, None);
    while at < text.len() {
        match text[at] {
            b'\n' if depth == 0 => break,
            b'\n' | b';' | b'&' | b'|' | b'!' | b'(' | b')' => {
                begins = true;
                at += 1;
            }
            b'#' => at += memchr::memchr(b'\n', &text[at..]).unwrap_or(text.len() - at),
            b'<' | b'>' => {
                if text[at..].starts_with(b"<<") && !text[at..].starts_with(b"<<<") {
                    trouble = Some("it has a here-document");
                }
                at += text[at..].iter().take_while(|byte| matches!(byte, b'<' | b'>')).count();
            }
            byte if byte.is_ascii_whitespace() => at += 1,
            b'\\' if text[at..].starts_with(b"\\\n") => at += 2,
            _ => {
                let Some(end) = behind_word(text, at) else {
                    return Command {
                        end: lines.count(),
                        trouble: Some("its quotes or parentheses never close"),
                    };
                };
                let word = &text[at..end];
                match word {
                    b"if" | b"case" | b"for" | b"while" | b"until" | b"select" | b"{" if begins => depth += 1,
                    b"fi" | b"esac" | b"done" | b"}" if begins => depth = depth.saturating_sub(1),
                    _ => {}
                }
                let goes_on =
                    matches!(word, b"if" | b"while" | b"until" | b"then" | b"do" | b"else" | b"elif" | b"{");
                begins = begins && goes_on || word.ends_with(b"()");
                at = end;
            }
        }
    }
    if depth > 0 {
        trouble = Some("it never ends");
    }
    Command { end: number + 1 + memchr::memchr_iter(b'\n', &text[..at.min(text.len())]).count(), trouble }
}

impl Syntax for Shell {
    fn end_of(&self, lines: &Lines<'_>, number: usize) -> usize {
        command(lines, number).end.min(lines.count())
    }

    fn value_at(&self, text: &[u8], key: Key<'_>) -> Option<usize> {
        let at = behind_export(text);
        let behind = at + behind_key(&text[at..], key.name)?;
        let value = behind + 1;
        if text.get(behind) != Some(&b'=') {
            return None;
        }
        // `KEY=value command` sets it for that command only.
        let is_export = at > super::skip_blank(text, 0);
        let tail = text[behind_word(text, value)?..].trim_ascii_start();
        (is_export || matches!(tail.first(), None | Some(b'#' | b';'))).then_some(value)
    }

    fn value(&self, text: &[u8], at: usize) -> Range<usize> {
        at..behind_word(text, at).unwrap_or(text.len())
    }

    /// In a compound command, which may run.
    fn may_set(&self, text: &[u8], key: &str) -> bool {
        memchr::memmem::find(text, format!("{key}=").as_bytes()).is_some()
    }

    fn separator(&self, _lines: &Lines<'_>, _region: Option<&[Range<usize>]>) -> String {
        "=".to_owned()
    }

    fn way_on(&self) -> &'static str {
        "quote the value: `text::quote(value, #{ format: \"shell\" })`"
    }

    fn refuse(&self, lines: &Lines<'_>) -> Option<(usize, &'static str)> {
        let texts = logical(self, lines, 0..lines.count()).filter(|line| line.is == Is::Text);
        texts.map(|line| line.lines.start).find_map(|number| Some((number, command(lines, number).trouble?)))
    }
}
