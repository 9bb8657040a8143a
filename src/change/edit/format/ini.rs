//! `key = value` or `key: value`, in sections or not: what is left when a file has no rules of its own. A separator that
//! the script gives is the only one.

use std::collections::BTreeMap;
use std::ops::Range;

use memchr::memmem;

use super::super::lines::Lines;
use super::{
    Is, Key, Sections, Syntax, behind_key, behind_sign, continued, ends_in_backslash, logical, skip_blank,
};

/// How many neighbours are read for whether they have whitespace around the sign.
const NEIGHBOURS: usize = 500;

pub(super) struct Ini;

/// The name in a section's header.
pub(super) fn header(body: &[u8]) -> Option<&[u8]> {
    let inside = body.trim_ascii_start().strip_prefix(b"[")?;
    let close = inside.iter().rposition(|byte| *byte == b']')?;
    let (name, behind) = (inside[..close].trim_ascii(), inside[close + 1..].trim_ascii_start());
    let alone = behind.is_empty() || behind.starts_with(b"#") || behind.starts_with(b";");
    (alone && !name.is_empty()).then_some(name)
}

impl Syntax for Ini {
    fn end_of(&self, lines: &Lines<'_>, number: usize) -> usize {
        continued(lines, number)
    }

    fn is_one_line(&self, text: &[u8]) -> bool {
        !text.contains(&b'\n') && !ends_in_backslash(text)
    }

    fn lines_with(&self, lines: &Lines<'_>, key: &str) -> Option<Vec<usize>> {
        let bytes = lines.bytes();
        let has = |text: &[u8]| memmem::find(bytes, text).is_some();
        if has(b"\\\n") || has(b"\\\r\n") {
            return None;
        }
        let mut numbers: Vec<usize> =
            memmem::find_iter(bytes, key.as_bytes()).map(|at| lines.number_at(at)).collect();
        numbers.dedup();
        Some(numbers)
    }

    fn comments(&self) -> &'static [u8] {
        b"#;"
    }

    fn value_at(&self, text: &[u8], key: Key<'_>) -> Option<usize> {
        let at = behind_key(text, key.name)?;
        match key.separator.map(str::trim) {
            None => behind_sign(text, at, &[b"=", b":"]),
            Some("") => {
                let value = skip_blank(text, at);
                (value > at || at == text.len()).then_some(value)
            }
            Some(sign) => behind_sign(text, at, &[sign.as_bytes()]),
        }
    }

    /// With whitespace around the sign where most neighbours have it.
    fn separator(&self, lines: &Lines<'_>, region: Option<&[Range<usize>]>) -> String {
        let all = 0..lines.count();
        let near = region.and_then(|parts| usual_separator(lines, parts));
        near.or_else(|| usual_separator(lines, &[all])).unwrap_or("=").to_owned()
    }

    fn sections(&self) -> Option<&dyn Sections> {
        Some(self)
    }
}

impl Sections for Ini {
    fn mark(&self) -> Option<u8> {
        Some(b'[')
    }

    fn header<'b>(&self, body: &'b [u8]) -> Option<&'b [u8]> {
        header(body)
    }
}

fn usual_separator(lines: &Lines<'_>, parts: &[Range<usize>]) -> Option<&'static str> {
    let mut votes: BTreeMap<&'static str, usize> = BTreeMap::new();
    let texts =
        parts.iter().flat_map(|part| logical(&Ini, lines, part.clone())).filter(|line| line.is == Is::Text);
    for line in texts.take(NEIGHBOURS) {
        if let Some((sign, spaced)) = sign_of(lines.body(line.lines.start)) {
            let separator = match (sign, spaced) {
                (b'=', false) => "=",
                (b'=', true) => " = ",
                (_, false) => ": ",
                (_, true) => " : ",
            };
            *votes.entry(separator).or_default() += 1;
        }
    }
    votes.into_iter().max_by_key(|(_, count)| *count).map(|(separator, _)| separator)
}

/// The sign in a line that is plainly `key = value` or `key: value`, and whether whitespace is before it.
pub(super) fn sign_of(body: &[u8]) -> Option<(u8, bool)> {
    let text = body.trim_ascii();
    let at = text.iter().position(|byte| matches!(byte, b'=' | b':'))?;
    let (key, sign, behind) = (text[..at].trim_ascii_end(), text[at], &text[at + 1..]);
    let spaced = key.len() < at;
    let follows = behind.first().is_none_or(u8::is_ascii_whitespace);
    // A key of several words is one only where whitespace sets it off: `log file = x`.
    let is_key = !key.is_empty() && (spaced && follows || !key.iter().any(u8::is_ascii_whitespace));
    let is_plain = is_key && !key.iter().any(|byte| b"\"'<>{}()$&|;".contains(byte));
    // `http://…`, `a:b` and `::1` are values of something else.
    (is_plain && (sign == b'=' || follows)).then_some((sign, spaced))
}

/// The first line that is not plainly `key = value`, or has another sign than those above it; and whether any line, if
/// only a comment, shows how the file is written.
pub(super) fn refuse_plain(lines: &Lines<'_>) -> Result<bool, usize> {
    let mut sign = None;
    let mut shown = lines.count() == 0;
    for line in logical(&Ini, lines, 0..lines.count()) {
        let (number, body) = (line.lines.start, lines.body(line.lines.start));
        if line.is == Is::Text && header(body).is_none() {
            let found = sign_of(body).map(|(sign, _)| sign);
            // What is indented below `key:` is another language.
            let nested = found == Some(b':') && body[0].is_ascii_whitespace();
            if found.is_none() || nested || sign.is_some_and(|sign| Some(sign) != found) {
                return Err(number);
            }
            sign = found;
        }
        shown |= match line.is {
            Is::Text => true,
            Is::Comment => sign_of(&body.trim_ascii_start()[1..]).is_some_and(|(sign, _)| sign == b'='),
            Is::Blank => false,
        };
    }
    let is_blank = (0..lines.count()).all(|number| lines.body(number).trim_ascii().is_empty());
    Ok(shown || is_blank)
}
