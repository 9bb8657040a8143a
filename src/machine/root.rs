//! Checks whether kkrun is root, and becomes root through sudo.

use std::convert::Infallible;
use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result};

use super::process::TAKEN_OVER;
use super::tool;

/// The prefix of variables that hold secrets.
const SECRET: &str = "KKRUN_SECRET_";

/// Whether kkrun may do everything.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The variables of kkrun's environment that mean something to it and that sudo would drop, sorted.
pub fn dropped_by_sudo() -> Vec<String> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    // sudo keeps what the terminal is.
    let mut names: Vec<String> = names
        .filter(|name| name.starts_with(SECRET) || (name != "TERM" && TAKEN_OVER.contains(&name.as_str())))
        .collect();
    names.sort();
    names
}

/// Runs the same command line again as root, instead of this process; `kept` are variables that it needs.
///
/// # Errors
/// When sudo cannot be started.
pub fn again_through_sudo(kept: &[String]) -> Result<Infallible> {
    let mut command = std::process::Command::new("sudo");
    if !kept.is_empty() {
        command.arg(format!("--preserve-env={}", kept.join(",")));
    }
    command.arg("--").arg(tool::own_binary()?).args(std::env::args_os().skip(1));
    Err(command.exec()).context("cannot start `sudo`")
}
