//! The bytes of a text file as lines that can be exchanged without touching a byte outside them.

use std::ops::Range;

/// Some editors put it before UTF-8 text; it belongs to no line.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// How long a line is, about.
const USUAL_LENGTH: usize = 32;

/// A file's bytes, cut into lines. Nothing is decoded: bytes that are not UTF-8 are kept.
pub struct Lines<'bytes> {
    bytes: &'bytes [u8],
    /// Where each line begins, and behind them all the end of the file.
    starts: Vec<usize>,
}

impl<'bytes> Lines<'bytes> {
    /// The lines of these bytes.
    pub fn of(bytes: &'bytes [u8]) -> Self {
        let first = if bytes.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
        let mut starts = Vec::with_capacity(1 + bytes.len() / USUAL_LENGTH);
        starts.push(first);
        starts.extend(memchr::memchr_iter(b'\n', &bytes[first..]).map(|end| first + end + 1));
        if starts.last() != Some(&bytes.len()) {
            starts.push(bytes.len());
        }
        Self { bytes, starts }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.starts.len() - 1
    }

    /// The bytes behind it all.
    pub fn bytes(&self) -> &'bytes [u8] {
        self.bytes
    }

    /// Where these lines are in the file, their ends included.
    pub fn span(&self, lines: &Range<usize>) -> Range<usize> {
        self.starts[lines.start]..self.starts[lines.end]
    }

    /// The number of the line in which this byte of the file is.
    pub fn number_at(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at).saturating_sub(1)
    }

    /// Line `number`, counted from zero, without its end.
    pub fn body(&self, number: usize) -> &'bytes [u8] {
        self.bodies(&(number..number + 1))
    }

    /// These lines with the ends between them and without the last one's.
    pub fn bodies(&self, lines: &Range<usize>) -> &'bytes [u8] {
        let bytes = &self.bytes[self.span(lines)];
        &bytes[..bytes.len() - end_of(bytes).len()]
    }

    /// The line end that a new line before line `at` gets: that of the line above, else of the one below.
    pub fn end_at(&self, at: usize) -> &'static [u8] {
        let near = [at.checked_sub(1), Some(at), at.checked_sub(2)];
        let ends = near.into_iter().flatten().filter(|number| *number < self.count());
        ends.map(|number| end_of(&self.bytes[self.span(&(number..number + 1))]))
            .find(|end| !end.is_empty())
            .unwrap_or(b"\n")
    }

    /// Whether the last line has no end.
    pub fn is_unterminated(&self) -> bool {
        self.count() > 0 && !self.bytes.ends_with(b"\n")
    }

    /// The file with `text` (without a last line end) in place of these lines.
    pub fn replaced(&self, lines: &Range<usize>, text: &[u8]) -> Vec<u8> {
        let span = self.span(lines);
        let end = end_of(&self.bytes[span.clone()]);
        [&self.bytes[..span.start], text, end, &self.bytes[span.end..]].concat()
    }

    /// The file with `text` (without a last line end) as new lines before line `at`. A file whose last line has
    /// no end has none afterwards either.
    pub fn inserted(&self, at: usize, text: &[u8]) -> Vec<u8> {
        let start = self.starts[at];
        let (above, below) = self.bytes.split_at(start);
        let end = self.end_at(at);
        if at == self.count() && self.is_unterminated() {
            [above, end, text].concat()
        } else {
            [above, text, end, below].concat()
        }
    }

    /// The file without these lines. `with_end_above`: when they were the last and had no end, the line above
    /// loses its own, as if they had never been added.
    pub fn removed(&self, lines: &Range<usize>, with_end_above: bool) -> Vec<u8> {
        let span = self.span(lines);
        let mut above = &self.bytes[..span.start];
        if with_end_above && lines.start > 0 && lines.end == self.count() && self.is_unterminated() {
            above = &above[..above.len() - end_of(above).len()];
        }
        [above, &self.bytes[span.end..]].concat()
    }
}

fn end_of(bytes: &[u8]) -> &'static [u8] {
    if bytes.ends_with(b"\r\n") {
        b"\r\n"
    } else if bytes.ends_with(b"\n") {
        b"\n"
    } else {
        b""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_exchanged_and_all_else_stays() {
        let bytes = b"\xef\xbb\xbfone\r\n\xff two\nthree";
        let lines = Lines::of(bytes);
        assert_eq!((lines.count(), lines.body(0), lines.body(2)), (3, &b"one"[..], &b"three"[..]));
        assert_eq!([0, 3, 7, 8, 13, 14, 18].map(|at| lines.number_at(at)), [0, 0, 0, 1, 1, 2, 2]);
        assert_eq!(lines.replaced(&(0..1), b"1"), b"\xef\xbb\xbf1\r\n\xff two\nthree");
        assert_eq!(lines.replaced(&(2..3), b"3"), b"\xef\xbb\xbfone\r\n\xff two\n3");
        assert_eq!(lines.inserted(0, b"0"), b"\xef\xbb\xbf0\r\none\r\n\xff two\nthree");
        assert_eq!(lines.inserted(1, b"1b"), b"\xef\xbb\xbfone\r\n1b\r\n\xff two\nthree");
        assert_eq!(lines.inserted(3, b"4"), b"\xef\xbb\xbfone\r\n\xff two\nthree\n4");
        assert_eq!(lines.removed(&(2..3), false), b"\xef\xbb\xbfone\r\n\xff two\n");
        assert_eq!(lines.removed(&(2..3), true), b"\xef\xbb\xbfone\r\n\xff two");
    }

    #[test]
    fn an_empty_file_gets_a_whole_line() {
        for (before, after) in [(&b""[..], &b"a\n"[..]), (b"\xef\xbb\xbf", b"\xef\xbb\xbfa\n")] {
            assert_eq!(Lines::of(before).inserted(0, b"a"), after);
        }
    }
}
