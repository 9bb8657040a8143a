//! Writes lines; a closed terminal or pipe ends nothing.

use std::io::Write;

/// Writes a line to standard output: data.
pub fn line_to_stdout(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
}

/// Writes a line to standard error: what is said to a person.
pub fn line_to_stderr(line: &str) {
    let mut err = std::io::stderr().lock();
    let _ = err.write_all(format!("{line}\n").as_bytes());
}
