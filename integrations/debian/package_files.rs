//! Writes what a package installs beside the binary, from the description of the command line: manual pages to `DIR/man`,
//! completions to `DIR/completions`. Not a command of kkrun, so that the binary carries none of it.
//!
//! ```sh
//! cargo run --locked --example package_files target/package
//! ```

use std::path::{Path, PathBuf};

use clap_complete::Shell;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(directory), None) = (arguments.next(), arguments.next()) else {
        anyhow::bail!("usage: package_files DIR");
    };
    let directory = PathBuf::from(directory);
    write_manual(&directory.join("man"))?;
    write_completions(&directory.join("completions"))
}

/// `kkrun.1`, and `kkrun-COMMAND.1` for each command.
fn write_manual(directory: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory)?;
    clap_mangen::generate_to(kkrun::cli::command_line(), directory)?;
    Ok(())
}

/// Each under the name that its shell looks for.
fn write_completions(directory: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory)?;
    for (shell, name) in [(Shell::Bash, "kkrun"), (Shell::Zsh, "_kkrun"), (Shell::Fish, "kkrun.fish")] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut kkrun::cli::command_line(), "kkrun", &mut script);
        std::fs::write(directory.join(name), script)?;
    }
    Ok(())
}
