//! Programs that the operator works with on the terminal while kkrun waits: an editor, a shell.

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::terminal;
use crate::failure::FailedCommand;

/// Opens the operator's editor at this line of a file. Source of the variables: environ(7); of the command where none is
/// set: sensible-editor(1).
///
/// # Errors
/// When it cannot be started.
pub fn edit(file: &Path, line: usize) -> Result<()> {
    let named =
        ["VISUAL", "EDITOR"].iter().find_map(|name| std::env::var(name).ok().filter(|text| !text.is_empty()));
    let named = named.unwrap_or_else(|| "editor".to_owned());
    let words =
        shell_words::split(&named).with_context(|| format!("cannot read the editor's command `{named}`"))?;
    let (program, arguments) = words.split_first().context("cannot find an editor: `EDITOR` is empty")?;
    run(Command::new(program).args(arguments).arg(format!("+{line}")).arg(file))
}

/// Opens the operator's shell where that command ran, as its user and with its variables; without one, or where that
/// named no directory, in `beside`.
///
/// # Errors
/// When it cannot be started.
pub fn shell(beside: &Path, failed: Option<&FailedCommand>) -> Result<()> {
    let shell =
        std::env::var_os("SHELL").filter(|shell| !shell.is_empty()).unwrap_or_else(|| "/bin/sh".into());
    let Some(failed) = failed else { return run(Command::new(shell).current_dir(beside)) };
    let mut command = match &failed.user {
        // Source: runuser(1); with `-u` it keeps the variables.
        Some(user) => {
            let mut command = Command::new("runuser");
            command.args(["-u", user, "--"]).arg(shell);
            command
        }
        None => Command::new(shell),
    };
    command.env_clear().envs(failed.variables.iter().map(|(name, value)| (name, value)));
    run(command.current_dir(failed.directory.as_deref().unwrap_or(beside)))
}

/// Waits until it ends, however it does, and takes the terminal back.
fn run(command: &mut Command) -> Result<()> {
    let _guard = terminal::Guard::new();
    let name = command.get_program().to_string_lossy().into_owned();
    // What was given to kkrun on its standard input is not for the program.
    if !std::io::stdin().is_terminal() {
        command.stdin(terminal::open().context("cannot open the terminal")?);
    }
    command.status().with_context(|| format!("cannot start `{name}`"))?;
    Ok(())
}
