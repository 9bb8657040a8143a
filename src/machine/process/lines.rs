//! Bytes as they arrive, cut into lines fit to be shown.

use crate::text::{printable, printable_but_returns};

/// How many bytes of one line are kept; the rest of it is left out.
pub const LONGEST: usize = 16 * 1024;

/// How many bytes are kept of what overwrote each other in one line.
const OVERWRITTEN: usize = 4 * 1024;

/// Collects bytes until a line is complete.
///
/// A line that was overwritten by carriage returns (a progress bar) is passed on with the end of what was overwritten, so
/// that a secret is recognised that is split by one; [`text::on_screen`](crate::text::on_screen) is what is shown of it.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// What the line overwrote, each with its carriage return.
    overwritten: Vec<u8>,
    line: Vec<u8>,
    /// A carriage return was seen: what comes next overwrites the line.
    returned: bool,
    left_out: usize,
}

impl Lines {
    pub(super) fn push(&mut self, mut bytes: &[u8], mut sink: impl FnMut(&str)) {
        while let Some(at) = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            self.append(&bytes[..at]);
            if bytes[at] == b'\n' {
                self.flush(&mut sink);
            } else {
                self.returned = true;
            }
            bytes = &bytes[at + 1..];
        }
        self.append(bytes);
    }

    /// The line that had no end when the stream ended.
    pub(super) fn finish(&mut self, mut sink: impl FnMut(&str)) {
        if !self.line.is_empty() {
            self.flush(&mut sink);
        }
    }

    fn append(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if std::mem::take(&mut self.returned) {
            self.overwritten.append(&mut self.line);
            self.overwritten.push(b'\r');
            let above = self.overwritten.len().saturating_sub(OVERWRITTEN);
            self.overwritten.drain(..above);
            self.left_out = 0;
        }
        let kept = bytes.len().min(LONGEST - self.line.len());
        self.line.extend_from_slice(&bytes[..kept]);
        self.left_out += bytes.len() - kept;
    }

    fn flush(&mut self, sink: &mut impl FnMut(&str)) {
        let mut text = printable_but_returns(&String::from_utf8_lossy(&self.overwritten));
        text.push_str(&printable(&String::from_utf8_lossy(&self.line)));
        if self.left_out > 0 {
            text = format!("{text} [… {} bytes left out …]", self.left_out);
        }
        sink(&text);
        self.overwritten.clear();
        self.line.clear();
        self.returned = false;
        self.left_out = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::text::on_screen;

    fn lines_of(chunks: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut seen) = (Lines::default(), Vec::new());
        for chunk in chunks {
            lines.push(chunk, |line| seen.push(on_screen(line).to_owned()));
        }
        lines.finish(|line| seen.push(on_screen(line).to_owned()));
        seen
    }

    #[test]
    fn lines_are_whole_however_they_arrive() {
        assert_eq!(lines_of(&[b"on", b"e\r", b"\n\ntw", b"o\n", b"end"]), ["one", "", "two", "end"]);
        assert_eq!(lines_of(&[b"\xc3", b"\xa9\n", b"\xff\n"]), ["é", "\u{fffd}"]);
        assert_eq!(lines_of(&[b"\x1b[1mbold\x1b[0m\n"]), ["bold"]);
    }

    #[test]
    fn a_progress_bar_is_its_last_state() {
        assert_eq!(lines_of(&[b"10 %\r50", b" %\r100 %\r", b"\nnext"]), ["100 %", "next"]);
        assert_eq!(lines_of(&[b"1\r2\r3\r"]), ["3"]);
    }

    #[test]
    fn what_was_overwritten_is_passed_on_up_to_a_limit() {
        let mut lines = Lines::default();
        lines.push(b"one\r\x1b[1mtwo\rthree\r\n", |line| assert_eq!(line, "one\rtwo\rthree"));
        lines.push(&b"10 %\r".repeat(100_000), |_| panic!("no line yet"));
        lines.finish(|line| assert_eq!(line.len(), OVERWRITTEN + 4));
    }

    #[test]
    fn an_endless_line_is_cut() {
        let seen = lines_of(&[&vec![b'a'; LONGEST + 5], b"bc\nshort\n"]);
        assert_eq!(seen[0], format!("{} [… 7 bytes left out …]", "a".repeat(LONGEST)));
        assert_eq!(seen[1], "short");
    }

    proptest! {
        #[test]
        fn where_the_chunks_end_does_not_matter(bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b'a'), any::<u8>()], 0..64), at in 0_usize..64) {
            let at = at.min(bytes.len());
            prop_assert_eq!(lines_of(&[&bytes[..at], &bytes[at..]]), lines_of(&[&bytes]));
        }
    }
}
