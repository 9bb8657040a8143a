//! Finds the sections of a file: the lines behind a header, such as `[name]`.

use std::ops::Range;

use anyhow::{Result, bail};

use super::format::{Format, Is, logical};
use super::lines::Lines;
use crate::failure::{Failure, FailureKind};

/// The lines in which a key is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Region {
    /// Without the headers; a section may be in several places.
    pub parts: Vec<Range<usize>>,
}

impl Region {
    /// The section of this name. Without a name: what is before the first section, which is all of a file
    /// that has none. `None` if there is no such section. `path` is for messages.
    ///
    /// # Errors
    /// When there are two of that name, which the format does not take for one.
    pub(super) fn find(
        lines: &Lines<'_>,
        format: Format,
        section: Option<&str>,
        path: &str,
    ) -> Result<Option<Self>> {
        let syntax = format.syntax();
        let Some(sections) = syntax.sections() else {
            return Ok(section.is_none().then(|| Self::whole(lines)));
        };
        if sections.mark().is_some_and(|mark| memchr::memchr(mark, lines.bytes()).is_none()) {
            return Ok(section.is_none().then(|| Self::whole(lines)));
        }
        let mut parts: Vec<Range<usize>> = Vec::new();
        let mut doubtful = None;
        let mut start = section.is_none().then_some(0);
        let texts = logical(syntax, lines, 0..lines.count()).filter(|line| line.is == Is::Text);
        for number in texts.map(|line| line.lines.start) {
            let Some(name) = sections.header(lines.body(number)) else {
                if sections.only() && lines.body(number).trim_ascii_start().starts_with(b"[") {
                    bail!(
                        Failure::new(format!(
                            "cannot edit `{path}`: line {}: a section begins in it, with more behind the header",
                            number + 1
                        ))
                        .kind(FailureKind::Refused)
                        .hint("put what is behind the header on a line of its own, or use `config::line`")
                    );
                }
                continue;
            };
            if section.is_none() && sections.is_heading(name) {
                continue;
            }
            if let Some(start) = start.take() {
                parts.push(start..number);
            }
            match section {
                None => break,
                Some(section) if sections.is(name, section) => {
                    if let Some(first) = parts.first().filter(|_| !sections.merges()) {
                        bail!(
                            Failure::new(format!(
                                "`{}` is there twice in `{path}`: in lines {} and {}",
                                sections.written(section),
                                first.start,
                                number + 1
                            ))
                            .kind(FailureKind::Duplicate)
                            .hint("use `config::line` with `matching` to change a line of one of them")
                        );
                    }
                    start = Some(number + 1);
                }
                Some(section) if sections.is_doubtful(name, section) => doubtful = Some(number),
                Some(_) => {}
            }
        }
        if let (Some(number), Some(section), true) = (doubtful, section, parts.is_empty() && start.is_none())
        {
            bail!(
                Failure::new(format!(
                    "cannot edit `{section}` in `{path}`: line {} has it in another spelling, and programs differ in \
                     whether that is the same section",
                    number + 1
                ))
                .kind(FailureKind::Refused)
                .hint("write it as in the file, or name the program's format with the option `format`")
            );
        }
        if let Some(start) = start {
            parts.push(start..lines.count());
        }
        Ok((!parts.is_empty()).then_some(Self { parts }))
    }

    /// All lines.
    pub(super) fn whole(lines: &Lines<'_>) -> Self {
        let all = 0..lines.count();
        Self { parts: Vec::from([all]) }
    }

    /// The numbers of its lines.
    pub(super) fn numbers(&self) -> impl DoubleEndedIterator<Item = usize> + '_ {
        self.parts.iter().cloned().flatten()
    }

    /// Where a new line goes: behind the last that is not blank. Comments that are directly above the next header and
    /// set off from what is above them are about that.
    pub(super) fn end(&self, lines: &Lines<'_>, format: Format) -> usize {
        let Some(last) = self.parts.last() else { return lines.count() };
        let (mut end, mut before_comments, mut above) = (last.start, None, Is::Blank);
        for line in logical(format.syntax(), lines, last.clone()) {
            before_comments = match line.is {
                Is::Comment if above == Is::Blank => Some(end),
                Is::Comment => before_comments,
                Is::Blank | Is::Text => None,
            };
            if line.is != Is::Blank {
                end = line.lines.end;
            }
            above = line.is;
        }
        before_comments.filter(|at| last.end < lines.count() && *at > last.start).unwrap_or(end)
    }
}

/// Whether there is nothing but whitespace.
pub(super) fn is_blank(body: &[u8]) -> bool {
    body.trim_ascii_start().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str, section: Option<&str>) -> Option<Vec<(usize, usize)>> {
        let region = Region::find(&Lines::of(text.as_bytes()), Format::Ini, section, "/f").unwrap()?;
        Some(region.parts.iter().map(|part| (part.start, part.end)).collect())
    }

    #[test]
    fn a_section_is_found_wherever_it_is() {
        let text = "a\n[one]\nb\n[ two ] # why\nc\n";
        assert_eq!(parts(text, None), Some(vec![(0, 1)]));
        assert_eq!(parts(text, Some("one")), Some(vec![(2, 3)]));
        assert_eq!(parts(text, Some("two")), Some(vec![(4, 5)]));
        assert_eq!(parts(text, Some("three")), None);
        assert_eq!(parts("a\nb\n", None), Some(vec![(0, 2)]));
        assert_eq!(parts("", None), Some(vec![(0, 0)]));
        assert_eq!(parts("[one]\n[two]\n", None), Some(vec![(0, 0)]));
    }

    #[test]
    fn two_sections_of_one_name_are_one_for_systemd_and_refused_elsewhere() {
        let text = "[Peer]\na=1\n[t]\n[Peer]\nb=1\n";
        let lines = Lines::of(text.as_bytes());
        let find = |format| Region::find(&lines, format, Some("Peer"), "/f");
        assert_eq!(find(Format::Systemd).unwrap().unwrap().parts, [1..2, 4..5]);
        for format in [Format::Ini, Format::Networkd] {
            let error = find(format).unwrap_err();
            let failure = error.downcast_ref::<Failure>().unwrap();
            assert_eq!(failure.kind, FailureKind::Duplicate);
            assert!(failure.message.contains("in lines 1 and 4"), "{}", failure.message);
        }
    }

    #[test]
    fn a_test_of_the_shell_is_no_header() {
        let header = |body| Format::Ini.syntax().sections().unwrap().header(body);
        assert_eq!(header(b"[ -f x ] && . x"), None);
        assert_eq!(header(b"  [Seat:*]\t; seats"), Some(&b"Seat:*"[..]));
        assert_eq!(header(b"#[Seat:*]"), None);
    }

    #[test]
    fn a_new_line_goes_before_the_blank_lines_at_the_end() {
        let lines = Lines::of(b"[one]\na\n\n\n[two]\n\n");
        let end = |name| {
            Region::find(&lines, Format::Ini, Some(name), "/f").unwrap().unwrap().end(&lines, Format::Ini)
        };
        assert_eq!((end("one"), end("two")), (2, 5));
    }

    #[test]
    fn a_new_line_does_not_come_between_a_header_and_its_comment() {
        for (text, at) in [
            ("[one]\na\n\n# about two\n[two]\n", 2),
            ("[one]\n#b=1\n[two]\n", 2),
            ("[one]\na\n#b=1\n[two]\n", 3),
            ("[one]\na\n\n#b=1\n\n[two]\n", 4),
            ("[one]\na\n\n# the end\n", 4),
        ] {
            let lines = Lines::of(text.as_bytes());
            let region = Region::find(&lines, Format::Ini, Some("one"), "/f").unwrap().unwrap();
            assert_eq!(region.end(&lines, Format::Ini), at, "{text:?}");
        }
    }
}
