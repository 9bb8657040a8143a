//! Units of systemd, the configuration of its daemons, and its networks. Source: systemd.syntax(7).

use std::borrow::Cow;
use std::ops::Range;

use super::super::lines::Lines;
use super::ini::header;
use super::{Key, KeyLine, Sections, Syntax, behind_key, behind_sign, ends_in_backslash, one};

pub(super) struct Systemd {
    /// Sections of one name are one.
    pub(super) merges: bool,
}

fn is_comment(body: &[u8]) -> bool {
    matches!(body.trim_ascii_start().first(), Some(b'#' | b';'))
}

impl Syntax for Systemd {
    /// A backslash continues a line; comments in between are passed over.
    fn end_of(&self, lines: &Lines<'_>, number: usize) -> usize {
        let mut last = number;
        let mut is_continued = ends_in_backslash(lines.body(number));
        while is_continued && last + 1 < lines.count() {
            last += 1;
            if !is_comment(lines.body(last)) {
                is_continued = ends_in_backslash(lines.body(last));
            }
        }
        last + 1
    }

    fn comments(&self) -> &'static [u8] {
        b"#;"
    }

    fn value_at(&self, text: &[u8], key: Key<'_>) -> Option<usize> {
        behind_sign(text, behind_key(text, key.name)?, &[b"="])
    }

    fn meaning<'v>(&self, value: &'v [u8]) -> Cow<'v, [u8]> {
        if !value.contains(&b'\n') {
            return Cow::Borrowed(value);
        }
        let mut joined = Vec::new();
        for line in value.split(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if !joined.is_empty() && is_comment(line) {
                continue;
            }
            match line.strip_suffix(b"\\").filter(|_| ends_in_backslash(line)) {
                Some(line) => joined.extend([line, b" "].concat()),
                None => joined.extend(line),
            }
        }
        Cow::Owned(joined.trim_ascii().to_vec())
    }

    fn separator(&self, _lines: &Lines<'_>, _region: Option<&[Range<usize>]>) -> String {
        "=".to_owned()
    }

    /// An empty value resets what lines above it said, so only what is below the last of them counts. With the reset
    /// right above it a line is one entry: it would add to the others without.
    fn choose(
        &self,
        lines: &Lines<'_>,
        key: &str,
        found: Vec<KeyLine>,
    ) -> Result<Option<KeyLine>, [usize; 2]> {
        let is_reset = |line: &KeyLine| lines.bodies(&line.lines)[line.value_at..].trim_ascii().is_empty();
        let Some(reset) = found.iter().rposition(is_reset) else { return one(lines, key, found) };
        let above = found[reset].clone();
        match one(lines, key, found.into_iter().skip(reset + 1).collect())? {
            Some(line) if line.lines.start == above.lines.end => {
                let before = lines.span(&above.lines).len();
                Ok(Some(KeyLine {
                    lines: above.lines.start..line.lines.end,
                    value_at: before + line.value_at,
                }))
            }
            Some(line) => Ok(Some(line)),
            None => Ok(Some(above)),
        }
    }

    fn sections(&self) -> Option<&dyn Sections> {
        Some(self)
    }
}

impl Sections for Systemd {
    fn header<'b>(&self, body: &'b [u8]) -> Option<&'b [u8]> {
        header(body)
    }

    fn merges(&self) -> bool {
        self.merges
    }

    fn only(&self) -> bool {
        true
    }
}
