//! From a command to a child that executes it.

#![expect(unsafe_code, reason = "what the child does between fork and exec is unsafe to say")]

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use nix::libc;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{Gid, Resource, Rlimit, Uid, chdir, setrlimit, setsid, umask};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::notes::Pen;
use super::{Command, PATH, Processes, Stdin, environment};
use crate::failure::Failure;
use crate::machine::account::Account;
use crate::machine::terminal;

/// The descriptors that a child begins with.
pub(super) struct Ends {
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// Children of this process that somebody here waits for: nobody else may reap them.
static AWAITED: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

pub(super) fn awaited() -> MutexGuard<'static, BTreeSet<u32>> {
    AWAITED.lock().unwrap_or_else(PoisonError::into_inner)
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
pub(super) fn spawn(
    processes: &Processes,
    command: &Command,
    pen: Pen,
    ends: Ends,
) -> Result<(duct::Handle, u32)> {
    let current = processes.current()?;
    let account = command.user.as_ref().unwrap_or(current);
    let becomes = (account.uid != current.uid).then_some(account);
    if becomes.is_some() && !current.is_root() {
        let name = &account.name;
        return Err(Failure::new(format!("only root can run a command as user `{name}`"))
            .kind("denied")
            .into());
    }
    let directory = directory_of(command)?;
    let program = resolve(command, &directory.0)?;
    let variables = environment::of(&processes.run, account, &command.env);
    let preparation = Preparation::new(command, becomes, directory, pen)?;
    let first = command.argv[0].clone();

    let mut expression = duct::cmd(program.as_os_str(), &command.argv[1..])
        .full_env(variables)
        .unchecked()
        .stdout_file(ends.stdout)
        .stderr_file(ends.stderr)
        .before_spawn(move |std_command| {
            std_command.arg0(&first);
            let preparation = preparation.clone();
            // SAFETY: between fork and exec only raw system calls are made, on values made before the fork;
            // nothing is allocated, freed or locked.
            unsafe {
                std_command.pre_exec(move || preparation.prepare());
            }
            Ok(())
        });
    expression = match ends.stdin {
        Some(stdin) => expression.stdin_file(stdin),
        None => expression.stdin_null(),
    };
    let mut awaited = awaited();
    let handle = expression.start().map_err(|error| explain(&error, command, account, &program))?;
    let pid = handle.pids().first().copied().context("a command without a process")?;
    awaited.insert(pid);
    Ok((handle, pid))
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

/// The file of the program: found as a shell would, in the command's own PATH if it has one.
fn resolve(command: &Command, directory: &Path) -> Result<PathBuf> {
    let name = command.argv.first().filter(|name| !name.is_empty()).context("a command without a program")?;
    let shown = name.to_string_lossy();
    if name.as_bytes().contains(&b'/') {
        let path = directory.join(name);
        return match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {
                Err(Failure::new(format!("program `{shown}` is a directory")).kind("denied").into())
            }
            Ok(metadata) if metadata.permissions().mode() & 0o111 == 0 => Err(not_executable(&shown).into()),
            Ok(_) => Ok(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Failure::new(format!("program `{shown}` does not exist")).kind("missing").into())
            }
            Err(error) => Err(error).with_context(|| format!("cannot look at program `{shown}`")),
        };
    }
    let path = command.env.iter().rev().find(|(name, _)| name == "PATH").and_then(|(_, value)| match value {
        environment::Value::Plain(path) => Some(path.as_os_str()),
        environment::Value::Secret(_) => None,
    });
    let path = path.unwrap_or(OsStr::new(PATH));
    let mut without_permission = None;
    for candidate in std::env::split_paths(path) {
        let candidate = directory.join(candidate).join(name);
        match std::fs::metadata(&candidate) {
            Ok(metadata) if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 => {
                return Ok(candidate);
            }
            Ok(metadata) if metadata.is_file() => without_permission = Some(candidate),
            _ => {}
        }
    }
    Err(match without_permission {
        Some(candidate) => not_executable(&candidate.to_string_lossy()),
        None => {
            let path = path.to_string_lossy();
            Failure::new(format!("program `{shown}` not found in PATH ({path})"))
                .kind("missing")
                .hint(format!("install the package that brings `{shown}` before this is run"))
        }
    }
    .into())
}

fn not_executable(shown: &str) -> Failure {
    Failure::new(format!("program `{shown}` is not executable"))
        .kind("denied")
        .hint(format!("make it executable: chmod +x {shown}"))
}

/// All that the child does before it executes the program.
#[derive(Clone)]
struct Preparation {
    pen: Pen,
    own_session: bool,
    identity: Option<Identity>,
    directory: CString,
    directory_is_wanted: bool,
}

#[derive(Clone)]
struct Identity {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

/// What the child was doing when it failed. It travels home in the upper half of the error number: nothing but
/// that number comes back from between fork and exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Execute = 0,
    Session = 1,
    Note = 2,
    Identity = 3,
    Directory = 4,
}

const STAGES: [Stage; 5] = [Stage::Execute, Stage::Session, Stage::Note, Stage::Identity, Stage::Directory];

impl Stage {
    fn failed(self, error: Errno) -> io::Error {
        io::Error::from_raw_os_error(error.raw_os_error() | ((self as i32) << 16))
    }

    fn of(error: &io::Error) -> (Self, io::Error) {
        let number = error.raw_os_error().unwrap_or_default();
        let stage = usize::try_from(number >> 16).ok().and_then(|at| STAGES.get(at)).copied();
        match stage {
            Some(stage) if number != 0 => (stage, io::Error::from_raw_os_error(number & 0xffff)),
            // An error made before the fork has a text and no number.
            _ => (Self::Execute, io::Error::new(error.kind(), error.to_string())),
        }
    }
}

impl Preparation {
    fn new(
        command: &Command,
        becomes: Option<&Account>,
        (directory, directory_is_wanted): (PathBuf, bool),
        pen: Pen,
    ) -> Result<Self> {
        let directory = OsString::from(directory);
        Ok(Self {
            pen,
            own_session: !command.interactive,
            identity: becomes.map(|account| Identity {
                uid: Uid::from_raw(account.uid),
                gid: Gid::from_raw(account.gid),
                groups: account.groups.iter().copied().map(Gid::from_raw).collect(),
            }),
            directory: CString::new(directory.as_bytes())
                .context("a directory with a zero byte in its name")?,
            directory_is_wanted,
        })
    }

    fn prepare(&self) -> io::Result<()> {
        if self.own_session {
            // More than a process group: in the background of our terminal a child that reads it is stopped for
            // good; without one it is told that there is none.
            setsid().map_err(|error| Stage::Session.failed(error))?;
        }
        umask(Mode::WGRP | Mode::WOTH);
        // Best effort, both: a kernel before 5.11 does not know the call, a stricter limit may stand already.
        close_inherited();
        let _kept = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
        self.pen.note_self().map_err(|error| Stage::Note.failed(error))?;
        if let Some(identity) = &self.identity {
            identity.assume().map_err(|error| Stage::Identity.failed(error))?;
        }
        match chdir(&*self.directory) {
            Err(error) if self.directory_is_wanted => Err(Stage::Directory.failed(error)),
            Err(_) => chdir(c"/").map_err(|error| Stage::Directory.failed(error)),
            Ok(()) => Ok(()),
        }
    }
}

impl Identity {
    fn assume(&self) -> Result<(), Errno> {
        set_thread_groups(&self.groups)?;
        set_thread_res_gid(self.gid, self.gid, self.gid)?;
        set_thread_res_uid(self.uid, self.uid, self.uid)
    }
}

/// Marks whatever kkrun itself was started with, beyond the standard three, to be closed on exec.
fn close_inherited() {
    const FIRST: libc::c_uint = 3;
    // SAFETY: only sets a flag on descriptors of this process; nothing is closed before exec.
    unsafe {
        libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
}

fn explain(error: &io::Error, command: &Command, account: &Account, program: &Path) -> anyhow::Error {
    let (stage, error) = Stage::of(error);
    let (shown, user) = (command.shown(), &account.name);
    let message = match (stage, error.raw_os_error()) {
        (Stage::Session, _) => format!("cannot make a session for `{shown}`: {error}"),
        (Stage::Note, _) => format!("cannot note the process of `{shown}`: {error}"),
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
