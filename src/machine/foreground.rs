//! Programs that the operator works with on the terminal while kkrun waits: an editor, a shell.

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::terminal;

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

/// Opens the operator's shell in this directory.
///
/// # Errors
/// When it cannot be started.
pub fn shell(directory: &Path) -> Result<()> {
    let shell =
        std::env::var_os("SHELL").filter(|shell| !shell.is_empty()).unwrap_or_else(|| "/bin/sh".into());
    run(Command::new(shell).current_dir(directory))
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
