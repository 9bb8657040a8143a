//! Starts a child that executes a command.

use std::fs::File;
use std::io;
use std::path::Path;

use anyhow::Result;
use nix::libc;

use super::child::Child;
use super::program::resolve;
use super::start::{Directory, Ends, Stage, Start};
use super::{Command, Processes, environment};
use crate::failure::{Failure, FailureKind};
use crate::machine::account::Account;
use crate::machine::terminal;

/// The terminal, for a command that needs it.
pub(super) fn terminal_for(command: &Command) -> Result<Option<File>> {
    if !command.interactive {
        return Ok(None);
    }
    terminal::open().map(Some).map_err(|_| {
        Failure::new(format!("cannot run `{}`: it needs a terminal, and there is none", command.shown()))
            .kind(FailureKind::Unanswered)
            .exit(crate::exit_code::ExitCode::UNANSWERED)
            .into()
    })
}

/// Starts the command.
pub(super) fn spawn(processes: &Processes, command: &Command, ends: Ends) -> Result<Child> {
    let current = processes.current()?;
    let account = command.user.as_ref().unwrap_or(current);
    let becomes = (account.uid != current.uid).then_some(account);
    if becomes.is_some() && !current.is_root() {
        let message = format!("only root can run a command as user `{}`", account.name);
        return Err(Failure::new(message).kind(FailureKind::Denied).into());
    }
    let directory = directory_of(command)?;
    let program = resolve(command, &directory.path)?;
    let start = Start {
        program: &program,
        argv: &command.argv,
        variables: environment::of(&processes.run, account, &command.env),
        directory,
        own_session: !command.interactive,
        ends,
    };
    let started = match (becomes, &command.mounts) {
        (None, None) => start.spawn(),
        (None, Some(mounts)) => {
            mounts.among(|| start.spawn()).unwrap_or_else(|error| Err(Stage::Mounts.of_error(error)))
        }
        (Some(account), mounts) => start.fork(account, mounts.clone()),
    };
    started.map_err(|error| explain(&error, command, account, &program))
}

fn directory_of(command: &Command) -> Result<Directory> {
    let Some(directory) = &command.cwd else {
        let path = command.user.as_ref().map_or_else(|| "/".into(), |user| user.home.clone());
        return Ok(Directory { path, is_required: false });
    };
    let fault = match std::fs::metadata(directory) {
        Ok(metadata) if metadata.is_dir() => {
            return Ok(Directory { path: directory.clone(), is_required: true });
        }
        Ok(_) => "is not a directory".to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => "does not exist".to_owned(),
        Err(error) => error.to_string(),
    };
    let message = format!("cannot run `{}` in `{}`: it {fault}", command.shown(), directory.display());
    Err(Failure::new(message).kind(FailureKind::Missing).into())
}

fn explain(error: &io::Error, command: &Command, account: &Account, program: &Path) -> anyhow::Error {
    let (stage, error) = Stage::of(error);
    let (shown, user) = (command.shown(), &account.name);
    let message = match (stage, error.raw_os_error()) {
        (Stage::Session, _) => format!("cannot create a session for `{shown}`: {error}"),
        (Stage::Identity, _) => format!("cannot become user `{user}` for `{shown}`: {error}"),
        (Stage::Mounts, _) => format!("cannot give `{shown}` mounts of its own: {error}"),
        (Stage::Directory, _) => {
            let directory = command.cwd.as_deref().unwrap_or(Path::new("/"));
            format!("cannot run `{shown}` in `{}` as user `{user}`: {error}", directory.display())
        }
        (Stage::Execute, Some(libc::ENOENT)) => {
            format!("the interpreter in the first line of `{}` does not exist", program.display())
        }
        (Stage::Execute, Some(libc::EACCES)) => {
            format!("program `{}` cannot be executed by user `{user}`: {error}", program.display())
        }
        (Stage::Execute, _) => format!("cannot start `{}`: {error}", program.display()),
    };
    let kind = match error.raw_os_error() {
        Some(libc::ENOENT) => FailureKind::Missing,
        Some(libc::EACCES | libc::EPERM) => FailureKind::Denied,
        _ => FailureKind::Failed,
    };
    Failure::new(message).kind(kind).into()
}
