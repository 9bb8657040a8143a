//! Units of the service manager, the system's or a user's.

use anyhow::{Result, bail};

use super::World;
use crate::failure::Failure;
use crate::machine::account::Account;
use crate::machine::process::{Command, Ended};

/// `systemctl` with these words, for the system's manager or that of `user`.
pub(crate) fn systemctl(words: &[&str], user: Option<&str>) -> Result<Command> {
    let mut argv = vec!["systemctl"];
    if user.is_some() {
        argv.push("--user");
    }
    argv.extend(words);
    let mut command = Command::new(argv);
    if let Some(user) = user {
        command.user = Some(Account::existing(user)?);
    }
    Ok(command)
}

/// Lets the manager read its unit files again.
pub fn reload(world: &World, user: Option<&str>) -> Result<()> {
    let ended = world.run(&systemctl(&["daemon-reload"], user)?, "systemctl daemon-reload")?;
    succeeded(&ended, "systemctl daemon-reload")
}

/// Restarts a unit if it is loaded and active; one that is gone or does not run is left alone.
pub fn restart_if_active(world: &World, unit: &str, user: Option<&str>) -> Result<()> {
    let state = world.look(&systemctl(&["is-active", unit], user)?)?;
    if !matches!(state.stdout.text().trim(), "active" | "activating" | "reloading" | "deactivating") {
        return Ok(());
    }
    let label = format!("systemctl restart {unit}");
    succeeded(&world.run(&systemctl(&["restart", unit], user)?, &label)?, &label)
}

/// Fails with a command's last output when it did not end with 0.
pub fn succeeded(ended: &Ended, label: &str) -> Result<()> {
    if ended.is_success() {
        return Ok(());
    }
    let mut failure = Failure::new(format!("`{label}` {}", ended.status)).kind("command");
    failure.code = ended.status.code();
    failure.output.clone_from(&ended.tail);
    bail!(failure)
}
