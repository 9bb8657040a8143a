//! Finds the sections of an INI file: the lines behind a `[name]`.

use std::ops::Range;

use super::lines::Lines;

/// The lines in which a key is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Region {
    /// Without the headers; a section may be in several places.
    pub parts: Vec<Range<usize>>,
}

impl Region {
    /// The section of this name. Without a name: what is before the first section, which is all of a file
    /// that has none. `None` if there is no such section.
    pub(super) fn find(lines: &Lines<'_>, section: Option<&str>) -> Option<Self> {
        let mut parts = Vec::new();
        let mut start = section.is_none().then_some(0);
        for number in 0..lines.count() {
            let Some(name) = header(lines.body(number)) else { continue };
            if let Some(start) = start.take() {
                parts.push(start..number);
            }
            match section {
                None => break,
                Some(section) if section.as_bytes() == name => start = Some(number + 1),
                Some(_) => {}
            }
        }
        if let Some(start) = start {
            parts.push(start..lines.count());
        }
        (!parts.is_empty()).then_some(Self { parts })
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

    /// Where a new line goes: after the last line that is not empty.
    pub(super) fn end(&self, lines: &Lines<'_>) -> usize {
        let Some(last) = self.parts.last() else { return lines.count() };
        let behind = last.clone().rev().find(|number| !is_blank(lines.body(*number)));
        behind.map_or(last.start, |number| number + 1)
    }
}

/// The name in a section's header.
pub(super) fn header(body: &[u8]) -> Option<&[u8]> {
    let inside = body.trim_ascii_start().strip_prefix(b"[")?;
    let close = inside.iter().rposition(|byte| *byte == b']')?;
    let (name, behind) = (inside[..close].trim_ascii(), inside[close + 1..].trim_ascii_start());
    let alone = behind.is_empty() || behind.starts_with(b"#") || behind.starts_with(b";");
    (alone && !name.is_empty()).then_some(name)
}

/// Whether there is nothing but whitespace.
pub(super) fn is_blank(body: &[u8]) -> bool {
    body.trim_ascii_start().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str, section: Option<&str>) -> Option<Vec<(usize, usize)>> {
        let region = Region::find(&Lines::of(text.as_bytes()), section)?;
        Some(region.parts.iter().map(|part| (part.start, part.end)).collect())
    }

    #[test]
    fn a_section_is_found_wherever_it_is() {
        let text = "a\n[one]\nb\n[ two ] # why\nc\n[one]\nd\n";
        assert_eq!(parts(text, None), Some(vec![(0, 1)]));
        assert_eq!(parts(text, Some("one")), Some(vec![(2, 3), (6, 7)]));
        assert_eq!(parts(text, Some("two")), Some(vec![(4, 5)]));
        assert_eq!(parts(text, Some("three")), None);
        assert_eq!(parts("a\nb\n", None), Some(vec![(0, 2)]));
        assert_eq!(parts("", None), Some(vec![(0, 0)]));
        assert_eq!(parts("[one]\n[two]\n", None), Some(vec![(0, 0)]));
    }

    #[test]
    fn a_test_of_the_shell_is_no_header() {
        assert_eq!(header(b"[ -f x ] && . x"), None);
        assert_eq!(header(b"  [Seat:*]\t; seats"), Some(&b"Seat:*"[..]));
        assert_eq!(header(b"#[Seat:*]"), None);
    }

    #[test]
    fn a_new_line_goes_before_the_blank_lines_at_the_end() {
        let lines = Lines::of(b"[one]\na\n\n\n[two]\n\n");
        let end = |name| Region::find(&lines, Some(name)).unwrap().end(&lines);
        assert_eq!((end("one"), end("two")), (2, 5));
    }
}
