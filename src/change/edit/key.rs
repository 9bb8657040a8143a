//! Finds the line that sets a key, and how its neighbours are written.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Result, bail};

use super::lines::Lines;
use super::section::{Region, header, is_blank};
use crate::failure::{Failure, FailureKind};

/// How many neighbours are read for how they are written.
const NEIGHBOURS: usize = 500;

/// What is between a key and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Separator {
    /// This, whitespace around it aside; what is written for a new line is the whole text.
    Text(String),
    /// Whitespace.
    Blank(String),
}

impl Separator {
    /// What a script gave.
    pub(super) fn of(text: &str) -> Self {
        if text.trim().is_empty() { Self::Blank(text.to_owned()) } else { Self::Text(text.to_owned()) }
    }

    /// As it is written.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Blank(text) => text,
        }
    }
}

/// How a key is recognised in a file: the separator that was given, or else those that are usual, with the
/// one that the neighbours have for a new line.
pub(super) struct Grammar {
    given: bool,
    /// For a new line.
    pub separator: Separator,
}

impl Grammar {
    /// The grammar of these lines.
    pub(super) fn of(lines: &Lines<'_>, region: Option<&Region>, given: Option<&str>) -> Self {
        if let Some(given) = given {
            return Self { given: true, separator: Separator::of(given) };
        }
        let near = region.and_then(|region| usual_separator(lines, region));
        let usual = near.or_else(|| usual_separator(lines, &Region::whole(lines)));
        Self { given: false, separator: usual.unwrap_or_else(|| Separator::Text("=".to_owned())) }
    }

    /// Where the value begins in a line that sets `key`.
    fn value_at(&self, body: &[u8], key: &str) -> Option<usize> {
        let key_at = body.len() - body.trim_ascii_start().len();
        let behind = body[key_at..].strip_prefix(key.as_bytes())?;
        let blank = behind.len() - behind.trim_ascii_start().len();
        let sign = &behind[blank..];
        let signs: &[&[u8]] = match &self.separator {
            Separator::Text(text) if self.given => &[text.trim().as_bytes()],
            Separator::Blank(_) if self.given => &[],
            _ => &[b"=", b":"],
        };
        let rest = match signs.iter().find_map(|text| sign.strip_prefix(*text)) {
            Some(rest) => rest,
            None if matches!(self.separator, Separator::Blank(_)) && (blank > 0 || behind.is_empty()) => sign,
            None => return None,
        };
        Some(body.len() - rest.trim_ascii_start().len())
    }

    /// The one line that sets `key`.
    ///
    /// # Errors
    /// When there are several: with their numbers.
    pub(super) fn find(
        &self,
        lines: &Lines<'_>,
        region: &Region,
        key: &str,
        path: &str,
    ) -> Result<Option<KeyLine>> {
        let mut found: Option<KeyLine> = None;
        for part in &region.parts {
            let mut number = part.start;
            while number < part.end {
                let body = lines.body(number);
                // All but the first byte of most lines is of no interest, and there may be many lines.
                let text = body.trim_ascii_start();
                if matches!(text.first(), None | Some(b'#' | b';')) {
                    number += 1;
                    continue;
                }
                let end = if body.ends_with(b"\\") { continued(lines, number, part.end) } else { number + 1 };
                let value_at = if text.starts_with(key.as_bytes()) { self.value_at(body, key) } else { None };
                if let Some(value_at) = value_at {
                    if let Some(first) = &found {
                        let (first, second) = (first.lines.start + 1, number + 1);
                        bail!(
                            Failure::new(format!(
                                "`{key}` is set twice in `{path}`: in lines {first} and {second}"
                            ))
                            .kind(FailureKind::Duplicate)
                            .hint("remove one of them, or name the section")
                        );
                    }
                    found = Some(KeyLine { lines: number..end, value_at });
                }
                number = end;
            }
        }
        Ok(found)
    }

    /// The last comment that shows how `key` is set: `#key=value`.
    pub(super) fn example(
        &self,
        lines: &Lines<'_>,
        region: &Region,
        key: &str,
        comment: &str,
    ) -> Option<usize> {
        region.numbers().rev().find(|number| {
            let body = lines.body(*number).trim_ascii_start();
            let inside = body.strip_prefix(comment.as_bytes()).or_else(|| {
                let marker = body.first().filter(|byte| matches!(byte, b'#' | b';'))?;
                body.strip_prefix(&[*marker])
            });
            inside.is_some_and(|inside| self.value_at(inside, key).is_some())
        })
    }
}

/// A line that sets a key, with those that continue it behind a backslash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyLine {
    /// The lines.
    pub lines: Range<usize>,
    /// Where the value begins in the first.
    pub value_at: usize,
}

impl KeyLine {
    /// The value as it is written, quotes included.
    pub fn value<'bytes>(&self, lines: &Lines<'bytes>) -> &'bytes [u8] {
        lines.bodies(&self.lines)[self.value_at..].trim_ascii_end()
    }

    /// Refuses a value whose quote is closed in a later line: its end would stay behind.
    pub fn refuse_open_quote(&self, lines: &Lines<'_>, path: &str) -> Result<()> {
        let value = self.value(lines);
        let open = match value.first() {
            Some(quote @ (b'"' | b'\'')) => !value[1..].contains(quote),
            _ => false,
        };
        if open {
            let number = self.lines.start + 1;
            bail!(
                Failure::new(format!(
                    "cannot change the value in line {number} of `{path}`: its quotes close in a later line"
                ))
                .kind(FailureKind::Refused)
                .hint("edit it by hand, or write the whole file with `file::write`")
            );
        }
        Ok(())
    }
}

/// Whether a line is a comment.
pub(super) fn is_comment(body: &[u8]) -> bool {
    matches!(body.trim_ascii_start().first(), Some(b'#' | b';'))
}

/// The indentation of the last line that sets something.
pub(super) fn indentation<'bytes>(lines: &Lines<'bytes>, region: &Region) -> &'bytes [u8] {
    let last = region.numbers().rev().map(|number| lines.body(number)).find(|body| sets_something(body));
    last.map_or(b"", |body| &body[..body.len() - body.trim_ascii_start().len()])
}

fn sets_something(body: &[u8]) -> bool {
    !is_blank(body) && !is_comment(body) && header(body).is_none()
}

/// The line behind those that belong to line `number`: an odd number of backslashes at the end continues it.
fn continued(lines: &Lines<'_>, number: usize, end: usize) -> usize {
    let goes_on = |number: usize| {
        let body = lines.body(number);
        body.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
    };
    let mut last = number;
    while last + 1 < end && goes_on(last) {
        last += 1;
    }
    last + 1
}

fn usual_separator(lines: &Lines<'_>, region: &Region) -> Option<Separator> {
    let mut votes: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    let neighbours = region.numbers().map(|number| lines.body(number)).filter(|body| sets_something(body));
    for separator in neighbours.take(NEIGHBOURS).filter_map(separator_of) {
        *votes.entry(separator).or_default() += 1;
    }
    let (usual, _) = votes.into_iter().max_by_key(|(_, count)| *count)?;
    Some(Separator::of(&String::from_utf8(usual).ok()?))
}

/// How one line separates its key from its value.
fn separator_of(body: &[u8]) -> Option<Vec<u8>> {
    let body = body.trim_ascii();
    let blank_before = |at: usize| at - body[..at].trim_ascii_end().len();
    let blank_behind = |at: usize| body.len() - at - body[at..].trim_ascii_start().len();
    if let Some(at) = body.iter().position(|byte| *byte == b'=').filter(|at| *at > 0) {
        let (before, behind) = (blank_before(at), blank_behind(at + 1));
        let words = body[..at].split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).count();
        if words == 1 || (before > 0 && behind > 0) {
            let behind = if at + 1 == body.len() { before.min(1) } else { behind.min(1) };
            return Some([&b" "[..before.min(1)], b"=", &b" "[..behind]].concat());
        }
    }
    let end = body.iter().position(|byte| byte.is_ascii_whitespace() || *byte == b':')?;
    let colon = end + blank_behind(end);
    if end > 0 && body.get(colon) == Some(&b':') && (colon + 1 == body.len() || blank_behind(colon + 1) > 0) {
        return Some([&b" "[..(colon - end).min(1)], b": "].concat());
    }
    let blank = blank_behind(end);
    (end > 0 && blank > 0).then(|| if body[end] == b'\t' { b"\t".to_vec() } else { b" ".to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grammar(text: &str) -> Grammar {
        Grammar::of(&Lines::of(text.as_bytes()), None, None)
    }

    fn value(text: &str, key: &str) -> Result<Option<String>> {
        let lines = Lines::of(text.as_bytes());
        let found = grammar(text).find(&lines, &Region::whole(&lines), key, "/f")?;
        Ok(found.map(|line| String::from_utf8(line.value(&lines).to_vec()).unwrap()))
    }

    #[test]
    fn the_neighbours_tell_the_separator() {
        for (text, separator) in [
            ("a=1\nb=2\nc = 3\n", "="),
            ("a = 1\nb = 2\n", " = "),
            ("log file = /x\nmax log size = 2\n", " = "),
            ("a: 1\nb: x=y\nc: 2\n", ": "),
            ("Port 22\nAcceptEnv LANG\nSubsystem\tsftp x\nSetEnv A=1\n", " "),
            ("a\t1\nb\t2\n", "\t"),
            ("# a = b\n\n", "="),
            ("", "="),
        ] {
            assert_eq!(grammar(text).separator.text(), separator, "{text}");
        }
    }

    #[test]
    fn a_key_is_found_as_a_whole_and_never_in_a_comment() {
        let text = "#PORT=1\nPORT2=2\n  PORT = 3 \n; PORT=4\nEXPORT=5\n";
        assert_eq!(value(text, "PORT").unwrap().as_deref(), Some("3"));
        assert_eq!(value(text, "EXPORT").unwrap().as_deref(), Some("5"));
        assert_eq!(value(text, "POR").unwrap(), None);
        assert_eq!(value("Port 22\nPortal 1\n", "Port").unwrap().as_deref(), Some("22"));
        assert_eq!(value("log file = x\na = 1\n", "log").unwrap(), None);
        assert_eq!(value("log file = x\na = 1\n", "log file").unwrap().as_deref(), Some("x"));
        assert_eq!(value("a=\n", "a").unwrap().as_deref(), Some(""));
    }

    #[test]
    fn a_given_separator_is_the_only_one() {
        let lines = Lines::of(b"a: 1\nb=2\n");
        let region = Region::whole(&lines);
        let find = |separator, key| {
            Grammar::of(&lines, None, Some(separator)).find(&lines, &region, key, "/f").unwrap().is_some()
        };
        assert!(find(":", "a") && !find("=", "a") && find("=", "b") && !find(" ", "b"));
    }

    #[test]
    fn a_continued_line_is_one_and_hides_its_rest() {
        let text = "ExecStart=run \\\n  PORT=1 \\\n  x\nPORT=2\npath=C:\\\\\nq=1\n";
        assert_eq!(value(text, "ExecStart").unwrap().as_deref(), Some("run \\\n  PORT=1 \\\n  x"));
        assert_eq!(value(text, "PORT").unwrap().as_deref(), Some("2"));
        assert_eq!(value(text, "q").unwrap().as_deref(), Some("1"));
    }

    #[test]
    fn a_duplicate_is_an_error_that_names_both_lines() {
        let error = value("a=1\n#a=2\na = 3\n", "a").unwrap_err();
        let failure = error.downcast_ref::<Failure>().unwrap();
        assert_eq!(failure.kind, FailureKind::Duplicate);
        assert!(failure.message.contains("lines 1 and 3"), "{}", failure.message);
    }
}
