//! The output of a stream, kept in bounded memory.

use std::borrow::Cow;
use std::collections::VecDeque;

/// How many bytes of the beginning, and again of the end, are kept of each stream.
pub const KEPT: usize = 1 << 20;

/// The beginning and the end of a stream of bytes, and how much was left out between them.
#[derive(Clone, Debug, Default)]
pub struct Captured {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    left_out: u64,
}

impl Captured {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let (first, rest) = bytes.split_at(bytes.len().min(KEPT - self.head.len()));
        self.head.extend_from_slice(first);
        let kept = &rest[rest.len().saturating_sub(KEPT)..];
        let dropped = (self.tail.len() + kept.len()).saturating_sub(KEPT);
        self.tail.drain(..dropped);
        self.tail.extend(kept);
        self.left_out += (rest.len() - kept.len() + dropped) as u64;
    }

    /// How many bytes between the kept beginning and the kept end were left out.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// All of the stream, if nothing was left out.
    pub fn whole(&self) -> Option<Vec<u8>> {
        (self.left_out == 0).then(|| self.parts(&[]))
    }

    /// The stream as text: bytes that are not UTF-8 replaced, and a line in place of what was left out.
    pub fn text(&self) -> String {
        let gap = match self.left_out {
            0 => String::new(),
            count => format!("\n[… {count} bytes left out …]\n"),
        };
        match String::from_utf8_lossy(&self.parts(gap.as_bytes())) {
            Cow::Borrowed(text) => text.to_owned(),
            Cow::Owned(text) => text,
        }
    }

    fn parts(&self, gap: &[u8]) -> Vec<u8> {
        let (older, newer) = self.tail.as_slices();
        [&self.head, gap, older, newer].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_stream_is_kept_whole() {
        let mut captured = Captured::default();
        captured.push(b"one ");
        captured.push(b"\xfftwo");
        assert_eq!(captured.whole().unwrap(), b"one \xfftwo");
        assert_eq!(captured.text(), "one \u{fffd}two");
    }

    #[test]
    fn of_a_long_one_the_beginning_and_the_end_are_kept_in_bounded_memory() {
        let mut captured = Captured::default();
        let chunk = vec![b'x'; 100_000];
        captured.push(b"begin");
        for _ in 0..100 {
            captured.push(&chunk);
        }
        captured.push(b"end");
        assert_eq!(captured.left_out(), 10_000_008 - 2 * KEPT as u64);
        assert_eq!(captured.whole(), None);
        assert!(captured.head.capacity() + captured.tail.capacity() <= 5 * KEPT);
        let text = captured.text();
        assert!(text.starts_with("beginx") && text.ends_with("xend"), "the ends are kept");
        assert!(text.contains(&format!("[… {} bytes left out …]", captured.left_out())));
    }

    #[test]
    fn nothing_is_left_out_at_the_exact_bound() {
        let mut captured = Captured::default();
        captured.push(&vec![b'a'; 2 * KEPT]);
        assert_eq!(captured.whole().unwrap().len(), 2 * KEPT);
        captured.push(b"b");
        assert_eq!(captured.left_out(), 1);
    }
}
