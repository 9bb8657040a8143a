//! The system's own programs that kkrun drives, as opposed to the commands of scripts.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// Where the system keeps its programs: a caller's own PATH may lack the directories for root.
pub const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The program of this name on [`SEARCH_PATH`], if it is installed.
pub fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(SEARCH_PATH).map(|directory| directory.join(program)).find(|path| path.is_file())
}

/// A command that reads nothing, sees the environment's fixed part only, and is on [`SEARCH_PATH`].
pub(super) fn command(program: &str) -> Command {
    let mut command = Command::new(find(program).unwrap_or_else(|| PathBuf::from(program)));
    command.env_clear().env("PATH", SEARCH_PATH).env("LC_ALL", "C.UTF-8");
    command.stdin(Stdio::null());
    command
}

/// Runs a program to its end and gives what it printed on its standard output; an ending other than 0 is an
/// error with the last lines it said.
pub(super) fn run<I, S>(program: &str, arguments: I) -> Result<String>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let output =
        command(program).args(arguments).output().with_context(|| format!("cannot start `{program}`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{program}` failed ({}): {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The last lines of a log, for an error that explains itself.
pub(super) fn last_lines(log: &Path, count: usize) -> Vec<String> {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..]
        .iter()
        .map(|line| line.chars().filter(|letter| !letter.is_control()).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_program_is_named_with_what_it_said() {
        let error = run("ls", ["/nonexistent"]).unwrap_err().to_string();
        assert!(error.contains("`ls` failed") && error.contains("/nonexistent"), "{error}");
    }

    #[test]
    fn a_program_that_is_not_there_is_found_nowhere() {
        assert_eq!(find("kkrun-has-no-such-program"), None);
        assert!(find("sh").is_some());
    }
}
