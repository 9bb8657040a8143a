//! The system's own programs that kkrun drives, as opposed to the commands of scripts.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, anyhow, bail};

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

/// Runs a program to its end and gives what it printed on its standard output; an exit status other than 0 is an error
/// with the last lines of its output.
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

/// The executable of this process.
pub fn own_binary() -> Result<PathBuf> {
    std::env::current_exe().context("cannot find the executable of this process")
}

/// The operator's directory for temporary files, if set.
pub fn temporary_directory() -> Option<PathBuf> {
    std::env::var_os("TMPDIR").map(PathBuf::from).filter(|path| path.is_absolute() && path.is_dir())
}

/// Installs packages of the distribution, fetching its lists first where they do not know them.
pub fn install(packages: &[&str]) -> Result<()> {
    let get = |arguments: &[&str]| {
        let mut command = command("apt-get");
        for variable in ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"] {
            command.envs(std::env::var_os(variable).map(|value| (variable, value)));
        }
        command.env("DEBIAN_FRONTEND", "noninteractive").env("NEEDRESTART_MODE", "l");
        let output = command.args(arguments).output().context("cannot start `apt-get`")?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(anyhow!("`apt-get {}` failed: {}", arguments.join(" "), said.trim()))
    };
    let mut install = vec!["install", "--yes", "--no-install-recommends", "--"];
    install.extend(packages);
    get(&install).or_else(|_| get(&["update"]).and_then(|()| get(&install)))
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
