//! From a command to a child that executes it.

#![expect(unsafe_code, reason = "what the child does between fork and exec is unsafe to say")]

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use nix::libc;

use super::child::{Child, Handle};
use super::child_records::Pen;
use super::preparation::{Preparation, Stage};
use super::program::resolve;
use super::{Command, Processes, Stdin, Value, environment, shared_memory};
use crate::failure::Failure;
use crate::machine::account::Account;
use crate::machine::terminal;

/// The descriptors that a child begins with.
pub(super) struct Ends {
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// The terminal, for a command that needs it.
pub(super) fn terminal_for(command: &Command) -> Result<Option<File>> {
    if !command.interactive && !matches!(command.stdin, Stdin::Terminal) {
        return Ok(None);
    }
    terminal::open().map(Some).map_err(|_| {
        Failure::new(format!("`{}` needs a terminal, and there is none", command.shown()))
            .kind("unanswered")
            .exit(crate::exit_code::ExitCode::UNANSWERED)
            .into()
    })
}

/// Starts the command; the child has noted itself before it executes anything.
pub(super) fn spawn(processes: &Processes, command: &Command, pen: Pen, ends: Ends) -> Result<Child> {
    let current = processes.current()?;
    let account = command.user.as_ref().unwrap_or(current);
    let becomes = (account.uid != current.uid).then_some(account);
    if becomes.is_some() && !current.is_root() {
        let message = format!("only root can run a command as user `{}`", account.name);
        return Err(Failure::new(message).kind("denied").into());
    }
    let directory = directory_of(command)?;
    let program = resolve(command, &directory.0)?;
    let variables = environment::of(&processes.run, account, &command.env);
    let preparation = Preparation::new(command, becomes, directory, pen)?;
    // A child that shares our memory is the fast way. It is not for one that becomes somebody else, who could then
    // reach into that memory; and what talks to the person is not in a hurry.
    let result = if becomes.is_none() && !command.interactive {
        shared_memory::spawn(&program, &command.argv, &variables, &preparation, &ends)
    } else {
        forked(&program, &command.argv, variables, preparation, ends)
    };
    result.map_err(|error| explain(processes, &error, command, account, &program))
}

/// A child with a copy of our memory.
fn forked(
    program: &Path,
    argv: &[OsString],
    variables: HashMap<OsString, Value>,
    preparation: Preparation,
    ends: Ends,
) -> io::Result<Child> {
    let first = argv[0].clone();
    let expression = duct::cmd(program.as_os_str(), &argv[1..])
        .full_env(variables.into_iter().map(|(name, value)| (name, value.into_os_string())))
        .unchecked()
        .stdin_file(ends.stdin)
        .stdout_file(ends.stdout)
        .stderr_file(ends.stderr)
        .before_spawn(move |std_command| {
            std_command.arg0(&first);
            let preparation = preparation.clone();
            // SAFETY: `prepare` is made for the time between fork and exec.
            unsafe {
                std_command.pre_exec(move || preparation.prepare());
            }
            Ok(())
        });
    Child::awaited(|| expression.start().map(Box::new).map(Handle::Duct))
}

/// Where the command runs, and whether failing to get there is an error.
fn directory_of(command: &Command) -> Result<(PathBuf, bool)> {
    let Some(directory) = &command.cwd else {
        return Ok((command.user.as_ref().map_or_else(|| "/".into(), |user| user.home.clone()), false));
    };
    let fault = match std::fs::metadata(directory) {
        Ok(metadata) if metadata.is_dir() => return Ok((directory.clone(), true)),
        Ok(_) => "is not a directory".to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => "does not exist".to_owned(),
        Err(error) => error.to_string(),
    };
    let message = format!("`{}` cannot run in `{}`: it {fault}", command.shown(), directory.display());
    Err(Failure::new(message).kind("missing").into())
}

fn explain(
    processes: &Processes,
    error: &io::Error,
    command: &Command,
    account: &Account,
    program: &Path,
) -> anyhow::Error {
    let (stage, error) = Stage::of(error);
    let (shown, user) = (command.shown(), &account.name);
    let message = match (stage, error.raw_os_error()) {
        (Stage::Session, _) => format!("cannot make a session for `{shown}`: {error}"),
        (Stage::Note, _) => {
            let place = processes.notes().ok().and_then(|notes| notes.path());
            let place = place.map(|path| format!(" in `{}`", path.display())).unwrap_or_default();
            format!("cannot note the process of `{shown}`{place}: {error}")
        }
        (Stage::Identity, _) => format!("cannot become user `{user}` for `{shown}`: {error}"),
        (Stage::Directory, _) => {
            let directory = command.cwd.as_deref().unwrap_or(Path::new("/"));
            format!("`{shown}` cannot run in `{}` as user `{user}`: {error}", directory.display())
        }
        (Stage::Execute, Some(libc::ENOENT)) => {
            format!("the interpreter that `{}` names in its first line does not exist", program.display())
        }
        (Stage::Execute, Some(libc::EACCES)) => {
            format!("program `{}` cannot be executed by user `{user}`: {error}", program.display())
        }
        (Stage::Execute, _) => format!("cannot start `{}`: {error}", program.display()),
    };
    let kind = match error.raw_os_error() {
        Some(libc::ENOENT) => "missing",
        Some(libc::EACCES | libc::EPERM) => "denied",
        _ => "failed",
    };
    Failure::new(message).kind(kind).into()
}
