//! Writes lines; a closed terminal or pipe ends nothing.

use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// Set when standard output could not hold all data.
static TRUNCATED: AtomicBool = AtomicBool::new(false);

/// Writes a line to standard output: data.
pub fn line_to_stdout(line: &str) {
    let mut out = std::io::stdout().lock();
    let written =
        out.write_all(line.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
    let is_full =
        |kind| matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge);
    if written.is_err_and(|error| is_full(error.kind())) {
        TRUNCATED.store(true, Ordering::Relaxed);
    }
}

/// Whether output was lost because there was no space. A closed pipe does not count: its reader has all it needs.
pub fn is_truncated() -> bool {
    TRUNCATED.load(Ordering::Relaxed)
}

/// Writes a line to standard error: messages.
pub fn line_to_stderr(line: &str) {
    let mut err = std::io::stderr().lock();
    let _ = err.write_all(format!("{line}\n").as_bytes());
}
