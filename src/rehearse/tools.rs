//! The programs a rehearsal needs, and the packages they come in.

use anyhow::Result;

use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::machine::tool;

/// A program that is not installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingTool {
    /// The program.
    pub program: &'static str,
    /// The Debian package it comes in.
    pub package: &'static str,
}

const TOOLS: [MissingTool; 4] = [
    MissingTool { program: "systemd-nspawn", package: "systemd-container" },
    MissingTool { program: "slirp4netns", package: "slirp4netns" },
    MissingTool { program: "ip", package: "iproute2" },
    MissingTool { program: "nsenter", package: "util-linux" },
];

/// The programs that are missing on this machine.
pub fn missing_tools() -> Vec<MissingTool> {
    TOOLS.into_iter().filter(|missing| tool::find(missing.program).is_none()).collect()
}

/// An error that says how to get what is missing.
pub fn require() -> Result<()> {
    check(&missing_tools(), rustix::process::geteuid().is_root())
}

fn check(missing: &[MissingTool], root: bool) -> Result<()> {
    if !root {
        return Err(Failure::new("a rehearsal requires root: it mounts file systems and boots a container")
            .exit(ExitCode::REFUSED)
            .hint("run it with `sudo`")
            .into());
    }
    if missing.is_empty() {
        return Ok(());
    }
    let programs: Vec<String> = missing.iter().map(|tool| format!("`{}`", tool.program)).collect();
    let packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    Err(Failure::new(format!("a rehearsal needs {}", programs.join(", ")))
        .hint(format!("run `apt-get install {}`", packages.join(" ")))
        .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_the_command_that_installs_it() {
        let error = check(&TOOLS[..2], true).unwrap_err();
        let failure = error.downcast_ref::<Failure>().unwrap();
        assert_eq!(failure.message, "a rehearsal needs `systemd-nspawn`, `slirp4netns`");
        assert_eq!(failure.hints, ["run `apt-get install systemd-container slirp4netns`"]);
        assert!(check(&[], true).is_ok());
    }

    #[test]
    fn without_root_it_is_refused() {
        let error = check(&[], false).unwrap_err();
        assert_eq!(crate::failure::exit_code(&error), ExitCode::REFUSED);
    }
}
