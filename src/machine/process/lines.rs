//! Bytes as they arrive, cut into lines fit to be shown.

use crate::text::printable;

/// How many bytes of one line are kept; the rest of it is left out.
pub const LONGEST: usize = 16 * 1024;

/// Collects bytes until a line is complete.
///
/// Of a line that was overwritten by carriage returns (a progress bar) only its last text is a line, as on the
/// screen.
#[derive(Debug, Default)]
pub(super) struct Lines {
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
            self.line.clear();
            self.left_out = 0;
        }
        let kept = bytes.len().min(LONGEST - self.line.len());
        self.line.extend_from_slice(&bytes[..kept]);
        self.left_out += bytes.len() - kept;
    }

    fn flush(&mut self, sink: &mut impl FnMut(&str)) {
        let text = String::from_utf8_lossy(&self.line);
        if self.left_out == 0 {
            sink(&printable(&text));
        } else {
            sink(&format!("{} [… {} bytes left out …]", printable(&text), self.left_out));
        }
        self.line.clear();
        self.returned = false;
        self.left_out = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines_of(chunks: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut seen) = (Lines::default(), Vec::new());
        for chunk in chunks {
            lines.push(chunk, |line| seen.push(line.to_owned()));
        }
        lines.finish(|line| seen.push(line.to_owned()));
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
