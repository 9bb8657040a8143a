//! One stream that a command writes: reported line by line; of too much output, only the beginning and the end.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result};
use rustix::fs::fstat;
use rustix::io::Errno;

use super::captured::Captured;
use super::lines::Lines;
use super::{Stream, TAIL};

/// How many lines of a stream are reported, and so logged, as they come.
pub const MOST_LINES: usize = 100_000;
/// How many bytes of it.
pub const MOST_BYTES: u64 = 16 << 20;
/// How much of the end of a longer one is reported when it ends, in bytes and in lines.
const END_BYTES: usize = 1 << 20;
const END_LINES: usize = 1_000;

/// One stream that a command writes, until its end.
pub(super) struct Tap {
    stream: Stream,
    pub(super) pipe: Option<OwnedFd>,
    lines: Lines,
    pub(super) captured: Captured,
    seen_lines: usize,
    seen_bytes: u64,
    rest: Option<Rest>,
}

/// The output beyond the limit: only its end is kept.
#[derive(Default)]
struct Rest {
    end: VecDeque<u8>,
    length: u64,
}

impl Tap {
    pub(super) fn new(stream: Stream, pipe: Option<OwnedFd>) -> Self {
        let (lines, captured) = (Lines::default(), Captured::default());
        Self { stream, pipe, lines, captured, seen_lines: 0, seen_bytes: 0, rest: None }
    }

    /// Reads once, when there is data or the end.
    pub(super) fn read(
        &mut self,
        buffer: &mut [u8],
        tail: &mut VecDeque<String>,
        sink: &mut dyn FnMut(Stream, &str),
    ) -> Result<()> {
        let Some(pipe) = &self.pipe else { return Ok(()) };
        match rustix::io::read(pipe, &mut *buffer) {
            Ok(0) => self.pipe = None,
            Ok(count) => self.take(&buffer[..count], tail, sink),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(error).context("cannot read what a command writes"),
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8], tail: &mut VecDeque<String>, sink: &mut dyn FnMut(Stream, &str)) {
        self.captured.push(bytes);
        if let Some(rest) = &mut self.rest {
            rest.push(bytes);
            return;
        }
        let (stream, reported) = (self.stream, &mut self.seen_lines);
        self.lines.push(bytes, |line| {
            *reported += 1;
            emit(stream, line, tail, sink);
        });
        self.seen_bytes += bytes.len() as u64;
        if self.seen_lines >= MOST_LINES || self.seen_bytes >= MOST_BYTES {
            self.lines.finish(|line| emit(stream, line, tail, sink));
            self.rest = Some(Rest::default());
            sink(Stream::Report, "[… too much output: of what follows, only the end is shown …]");
        }
    }

    pub(super) fn finish(&mut self, tail: &mut VecDeque<String>, sink: &mut dyn FnMut(Stream, &str)) {
        let stream = self.stream;
        if let Some(rest) = self.rest.take() {
            let (end, left_out) = rest.end();
            if left_out > 0 {
                emit(stream, &format!("[… {left_out} bytes left out …]"), tail, sink);
            }
            self.lines.push(&end, |line| emit(stream, line, tail, sink));
        }
        self.lines.finish(|line| emit(stream, line, tail, sink));
    }

    /// How the links in /proc name this pipe, while it is open.
    pub(super) fn link(&self) -> Option<String> {
        let stat = fstat(self.pipe.as_ref()?).ok()?;
        Some(format!("pipe:[{}]", stat.st_ino))
    }
}

impl Rest {
    fn push(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        let kept = &bytes[bytes.len().saturating_sub(END_BYTES)..];
        let dropped = (self.end.len() + kept.len()).saturating_sub(END_BYTES);
        self.end.drain(..dropped);
        self.end.extend(kept);
    }

    /// Whole lines of the end, and how many bytes before them are left out.
    fn end(self) -> (Vec<u8>, u64) {
        let is_cut = self.length > self.end.len() as u64;
        let mut end = Vec::from(self.end);
        let length = end.len();
        let line_ends = || end.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
        let lines = line_ends().filter(|at| *at < length).count() + 1;
        let from = if lines > END_LINES {
            line_ends().nth(lines - END_LINES - 1).unwrap_or(0)
        } else if is_cut {
            // The first line lacks its beginning; an only one is better than none.
            line_ends().next().filter(|at| *at < length).unwrap_or(0)
        } else {
            0
        };
        end.drain(..from);
        let left_out = self.length - end.len() as u64;
        (end, left_out)
    }
}

/// Passes a line on, and keeps it among the last ones.
pub(super) fn emit(
    stream: Stream,
    line: &str,
    tail: &mut VecDeque<String>,
    sink: &mut dyn FnMut(Stream, &str),
) {
    sink(stream, line);
    if tail.len() == TAIL {
        tail.pop_front();
    }
    tail.push_back(line.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is reported of a stream that arrives in these chunks.
    fn reported(chunks: impl Iterator<Item = Vec<u8>>) -> (Vec<String>, VecDeque<String>) {
        let (mut tap, mut tail, mut lines) = (Tap::new(Stream::Out, None), VecDeque::new(), Vec::new());
        let mut sink = |_: Stream, line: &str| lines.push(line.to_owned());
        for chunk in chunks {
            tap.take(&chunk, &mut tail, &mut sink);
        }
        tap.finish(&mut tail, &mut sink);
        (lines, tail)
    }

    #[test]
    fn a_stream_within_the_bounds_is_reported_whole() {
        let chunk = b"line\n".repeat(1000);
        let (lines, _) = reported((0..MOST_LINES / 1000 - 1).map(|_| chunk.clone()));
        assert_eq!(lines.len(), MOST_LINES - 1000);
    }

    #[test]
    fn of_too_many_lines_the_beginning_and_the_end_are_reported() {
        let chunks = (0..300).map(|n| format!("{n}\n").repeat(1000).into_bytes());
        let (lines, tail) = reported(chunks.chain([b"the end".to_vec()]));
        assert_eq!(lines[MOST_LINES - 1], "99");
        assert!(lines[MOST_LINES].contains("too much output"), "{}", lines[MOST_LINES]);
        assert_eq!(lines[MOST_LINES + 1], format!("[… {} bytes left out …]", 200 * 1000 * 4 - 999 * 4));
        assert_eq!(lines.len(), MOST_LINES + 2 + END_LINES);
        assert_eq!((lines.last().unwrap().as_str(), tail.back().unwrap().as_str()), ("the end", "the end"));
    }

    #[test]
    fn of_too_many_bytes_no_line_lacks_its_beginning() {
        let chunk = [vec![b'x'; 4095], vec![b'\n']].concat();
        let (lines, _) = reported((0..8192).map(|_| chunk.clone()));
        let whole = "x".repeat(4095);
        assert_eq!(
            lines.iter().filter(|line| !line.starts_with("[…")).filter(|line| **line != whole).count(),
            0
        );
        assert_eq!(lines.len() as u64, MOST_BYTES / 4096 + 2 + (END_BYTES as u64 / 4096) - 1);
    }

    #[test]
    fn an_endless_line_is_too_much_output_too() {
        let (lines, _) = reported((0..2000).map(|_| vec![0_u8; 64 << 10]));
        assert_eq!(lines.len(), 4, "{:?}", lines.iter().map(String::len).collect::<Vec<_>>());
    }
}
