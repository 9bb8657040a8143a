//! Lines of `KEY=value` that no shell reads: `/etc/environment` and dotenv.

use std::ops::Range;

use super::super::lines::Lines;
use super::{Key, Refusal, Syntax, behind_key, behind_sign, continued, skip_blank};

/// Where an assignment begins behind an `export`.
pub(super) fn behind_export(text: &[u8]) -> usize {
    let at = skip_blank(text, 0);
    match text[at..].strip_prefix(b"export") {
        Some(rest) if rest.first().is_some_and(u8::is_ascii_whitespace) => skip_blank(text, at + 6),
        _ => at,
    }
}

/// Read by pam_env(8), by cron and by display managers: no quoting hides a `#`, and there is no whitespace around `=`.
pub(super) struct Environment;

impl Syntax for Environment {
    fn value_at(&self, text: &[u8], key: Key<'_>) -> Option<usize> {
        let at = behind_export(text);
        let behind = at + behind_key(&text[at..], key.name)?;
        (text.get(behind) == Some(&b'=')).then_some(behind + 1)
    }

    fn value(&self, text: &[u8], at: usize) -> Range<usize> {
        let end = text[at..].iter().position(|byte| *byte == b'#').map_or(text.len(), |length| at + length);
        at..at.max(text[..end].trim_ascii_end().len())
    }

    fn separator(&self, _lines: &Lines<'_>, _region: Option<&[Range<usize>]>) -> String {
        "=".to_owned()
    }

    fn refuse_value(&self, _key: &str, value: &[u8]) -> Option<Refusal> {
        value.contains(&b'#').then(|| {
            Refusal::new("a `#` in it begins a comment, in quotes too", "choose a value without `#`")
        })
    }

    fn way_on(&self) -> &'static str {
        "put the value in double quotes: `\"\\\" padded \\\"\"`"
    }
}

pub(super) struct Dotenv;

impl Dotenv {
    /// The line in which the quotes close that a value begins with; none if they never do.
    fn closing(lines: &Lines<'_>, number: usize) -> Option<usize> {
        let body = lines.body(number);
        let value =
            body.iter().position(|byte| *byte == b'=').map_or(body.len(), |at| skip_blank(body, at + 1));
        let Some(quote @ (b'"' | b'\'')) = body.get(value) else { return Some(number) };
        let closes = |body: &[u8]| {
            let mut escaped = false;
            body.iter().any(|byte| {
                let closes = !escaped && byte == quote;
                escaped = *quote == b'"' && *byte == b'\\' && !escaped;
                closes
            })
        };
        if closes(&body[value + 1..]) {
            return Some(number);
        }
        (number + 1..lines.count()).find(|number| closes(lines.body(*number)))
    }
}

impl Syntax for Dotenv {
    fn end_of(&self, lines: &Lines<'_>, number: usize) -> usize {
        Self::closing(lines, number).map_or(number + 1, |last| continued(lines, last))
    }

    fn value_at(&self, text: &[u8], key: Key<'_>) -> Option<usize> {
        let at = behind_export(text);
        behind_sign(text, at + behind_key(&text[at..], key.name)?, &[b"="])
    }

    fn separator(&self, _lines: &Lines<'_>, _region: Option<&[Range<usize>]>) -> String {
        "=".to_owned()
    }

    fn way_on(&self) -> &'static str {
        "quote the value: `text::quote(value, #{ format: \"dotenv\" })`"
    }

    fn refuse(&self, lines: &Lines<'_>) -> Option<(usize, &'static str)> {
        let texts = super::logical(self, lines, 0..lines.count()).filter(|line| line.is == super::Is::Text);
        let mut starts = texts.map(|line| line.lines.start);
        starts.find(|number| Self::closing(lines, *number).is_none()).map(|at| (at, "its quotes never close"))
    }
}
