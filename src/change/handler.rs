//! Carries out what changes make necessary: tests, commands, restarts.

use anyhow::Result;

use super::World;
use crate::failure::Failure;
use crate::journal::Handler;
use crate::machine::account::Account;
use crate::machine::process::Command;

/// Runs the test, if there is one.
///
/// # Errors
/// When it fails: with its last output.
pub fn test(world: &World, handler: &Handler) -> Result<()> {
    if handler.test.is_empty() {
        return Ok(());
    }
    run_command(world, &handler.test, handler.user.as_deref()).map_err(|error| {
        match error.downcast::<Failure>() {
            Ok(failure) => failure.kind("test").into(),
            Err(error) => error,
        }
    })
}

/// Runs the commands and restarts the units.
pub fn run(world: &mut World, handler: &Handler) -> Result<()> {
    for argv in &handler.run {
        run_command(world, argv, handler.user.as_deref())?;
    }
    if handler.restart.is_empty() {
        return Ok(());
    }
    super::unit::reload(world, handler.user.as_deref())?;
    for unit in &handler.restart {
        super::unit::restart_if_active(world, unit, handler.user.as_deref())?;
    }
    Ok(())
}

fn run_command(world: &World, argv: &[String], user: Option<&str>) -> Result<()> {
    let mut command = Command::new(argv);
    if let Some(user) = user {
        command.user = Some(Account::existing(user)?);
    }
    let label = shell_words::join(argv);
    let ended = world.run(&command, &label)?;
    super::unit::succeeded(&ended, &label)
}
