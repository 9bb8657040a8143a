//! Starts a program: by `posix_spawn`, which copies none of this process's memory, or forked for a command that
//! becomes another user.

#![expect(
    unsafe_code,
    reason = "a working directory for posix_spawn, and what it cannot do between fork and exec"
)]

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use nix::libc;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::{SigSet, Signal};
use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;
use rustix::process::{Gid, Pid, Uid, chdir, chroot, fchdir, setsid};
use rustix::thread::{
    LinkNameSpaceType, move_into_link_name_space, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};
use zeroize::Zeroizing;

use super::child::Child;
use super::{PROGRESS, Value};
use crate::machine::account::Account;
use crate::machine::mount::Mounts;
use crate::machine::signal::is_ignored;

/// What a child begins with.
pub(super) struct Start<'a> {
    pub(super) program: &'a Path,
    pub(super) argv: &'a [OsString],
    pub(super) variables: HashMap<OsString, Value>,
    pub(super) directory: Directory,
    /// More than a process group: in the background of our terminal a child that reads from it is stopped for good; in
    /// a session without a terminal it gets an error.
    pub(super) own_session: bool,
    pub(super) ends: Ends,
}

/// Where a child runs.
pub(super) struct Directory {
    pub(super) path: PathBuf,
    /// It was asked for: failing to enter it is an error. Otherwise, `/` replaces a directory that cannot be entered.
    pub(super) is_required: bool,
}

/// The descriptors that a child begins with.
pub(super) struct Ends {
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    pub(super) progress: Option<OwnedFd>,
}

/// What failed. Nothing but an error number comes back from between fork and exec: it is in the upper half of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Execute = 0,
    Session = 1,
    Identity = 2,
    Directory = 3,
    Mounts = 4,
}

const STAGES: [Stage; 5] = [Stage::Execute, Stage::Session, Stage::Identity, Stage::Directory, Stage::Mounts];

impl Stage {
    fn failed(self, error: Errno) -> io::Error {
        io::Error::from_raw_os_error(error.raw_os_error() | ((self as i32) << 16))
    }

    /// An error of this stage from outside of the child.
    pub(super) fn of_error(self, error: io::Error) -> io::Error {
        Errno::from_io_error(&error).map_or(error, |errno| self.failed(errno))
    }

    pub(super) fn of(error: &io::Error) -> (Self, io::Error) {
        let number = error.raw_os_error().unwrap_or_default();
        let stage = usize::try_from(number >> 16).ok().and_then(|at| STAGES.get(at)).copied();
        match stage {
            Some(stage) if number != 0 => (stage, io::Error::from_raw_os_error(number & 0xffff)),
            // An error from before the child has a message and no number.
            _ => (Self::Execute, io::Error::new(error.kind(), error.to_string())),
        }
    }
}

impl Start<'_> {
    /// Starts it as this process's own user.
    ///
    /// What kkrun does not set for itself at its start (`process_setup`) is set here: the session, the standard
    /// descriptors, the directory, the signals. The child has the run's lock until it executes the program, and the
    /// run's variable from then on: so a child that a killed run could not record any more is found.
    pub(super) fn spawn(&self) -> io::Result<Child> {
        let program = c_string(self.program.as_os_str())?;
        let argv: Vec<CString> =
            self.argv.iter().map(|argument| c_string(argument)).collect::<io::Result<_>>()?;
        let argv: Vec<&CStr> = argv.iter().map(CString::as_c_str).collect();
        let variables: Vec<Zeroizing<Vec<u8>>> =
            self.variables.iter().map(|(name, value)| assignment(name, value)).collect();
        let variables: Vec<&CStr> = variables
            .iter()
            .map(|variable| CStr::from_bytes_with_nul(variable).map_err(|_| zero_byte()))
            .collect::<io::Result<_>>()?;
        let mut actions = PosixSpawnFileActions::init()?;
        for (standard, end) in
            [&self.ends.stdin, &self.ends.stdout, &self.ends.stderr].into_iter().enumerate()
        {
            actions.add_dup2(end.as_raw_fd(), i32::try_from(standard).unwrap_or_default())?;
        }
        // The last one: what had this number is duplicated by now.
        if let Some(progress) = &self.ends.progress {
            actions.add_dup2(progress.as_raw_fd(), PROGRESS)?;
        }
        let directory = self.directory.entered()?;
        add_chdir(&mut actions, &c_string(directory.as_os_str())?)?;
        let mut attributes = PosixSpawnAttr::init()?;
        let mut flags = PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK;
        if self.own_session {
            flags |= PosixSpawnFlags::from_bits_retain(libc::POSIX_SPAWN_SETSID.into());
        }
        attributes.set_flags(flags)?;
        attributes.set_sigmask(&SigSet::empty())?;
        attributes.set_sigdefault(not_ignored())?;
        Child::awaited(|| {
            let pid = match posix_spawn(&*program, &actions, &attributes, &argv, &variables) {
                // As a shell does, and `execvp`: for a script whose first line does not name an interpreter.
                Err(nix::Error::ENOEXEC) => {
                    let argv: Vec<&CStr> =
                        [c"sh", &*program].into_iter().chain(argv.iter().skip(1).copied()).collect();
                    posix_spawn(c"/bin/sh", &actions, &attributes, &argv, &variables)?
                }
                spawned => spawned?,
            };
            Pid::from_raw(pid.as_raw()).ok_or_else(|| io::Error::other("a command without a process"))
        })
    }

    /// Starts it as another user, with all groups, where other mounts are seen if some are given. `posix_spawn` cannot do
    /// that. A child must not become the user while it shares our memory, nor may a thread of ours, which the user could
    /// then end with a signal.
    pub(super) fn fork(self, account: &Account, mounts: Option<Arc<Mounts>>) -> io::Result<Child> {
        let mut command = std::process::Command::new(self.program);
        command.arg0(&self.argv[0]).args(&self.argv[1..]).env_clear();
        command.envs(self.variables.into_iter().map(|(name, value)| (name, value.into_os_string())));
        command.stdin(self.ends.stdin).stdout(self.ends.stdout).stderr(self.ends.stderr);
        let own_session = self.own_session;
        let groups: Vec<Gid> = account.groups.iter().copied().map(Gid::from_raw).collect();
        let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
        let directory = c_string(self.directory.path.as_os_str())?;
        let is_required = self.directory.is_required;
        let prepare = move || {
            if own_session {
                setsid().map_err(|error| Stage::Session.failed(error))?;
            }
            if let Some(mounts) = &mounts {
                move_into_link_name_space(mounts.name_space.as_fd(), Some(LinkNameSpaceType::Mount))
                    .and_then(|()| fchdir(&mounts.root))
                    .and_then(|()| chroot(c"."))
                    .map_err(|error| Stage::Mounts.failed(error))?;
            }
            set_thread_groups(&groups)
                .and_then(|()| set_thread_res_gid(gid, gid, gid))
                .and_then(|()| set_thread_res_uid(uid, uid, uid))
                .map_err(|error| Stage::Identity.failed(error))?;
            match chdir(&*directory) {
                Err(error) if is_required => Err(Stage::Directory.failed(error)),
                Err(_) => chdir(c"/").map_err(|error| Stage::Directory.failed(error)),
                Ok(()) => Ok(()),
            }
        };
        // SAFETY: the closure makes raw system calls only, on values made before; it neither allocates, frees nor locks.
        unsafe { command.pre_exec(prepare) };
        Child::awaited(|| {
            let pid = command.spawn()?.id();
            Pid::from_raw(pid.cast_signed()).ok_or_else(|| io::Error::other("a command without a process"))
        })
    }
}

impl Directory {
    /// The directory that this process can enter. Asked beforehand: `posix_spawn` does not say what failed.
    fn entered(&self) -> io::Result<&Path> {
        if self.path == Path::new("/") {
            return Ok(&self.path);
        }
        match accessat(CWD, &self.path, Access::EXEC_OK, AtFlags::EACCESS) {
            Err(error) if self.is_required => Err(Stage::Directory.failed(error)),
            Err(_) => Ok(Path::new("/")),
            Ok(()) => Ok(&self.path),
        }
    }
}

/// The signals that a child starts with at their defaults: all but those that the caller of kkrun has ignored. Each one
/// named to `posix_spawn` saves a system call.
fn not_ignored() -> &'static SigSet {
    static SIGNALS: OnceLock<SigSet> = OnceLock::new();
    SIGNALS.get_or_init(|| {
        let is_left_ignored = |signal: &Signal| *signal != Signal::SIGPIPE && is_ignored(*signal as i32);
        // The real-time signals have no names; nothing sends or ignores them.
        let mut signals = SigSet::all();
        Signal::iterator().filter(is_left_ignored).for_each(|signal| signals.remove(signal));
        signals
    })
}

fn add_chdir(actions: &mut PosixSpawnFileActions, directory: &CStr) -> io::Result<()> {
    // SAFETY: the wrapper, which lacks this action, is declared to have the memory of the type it wraps and is
    // initialised; the call copies the path.
    let error =
        unsafe { libc::posix_spawn_file_actions_addchdir_np((&raw mut *actions).cast(), directory.as_ptr()) };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| zero_byte())
}

/// `NAME=value` and a NUL byte, wiped from memory when dropped.
fn assignment(name: &OsStr, value: &Value) -> Zeroizing<Vec<u8>> {
    let value = value.as_bytes();
    let mut text = Zeroizing::new(Vec::with_capacity(name.len() + value.len() + 2));
    for part in [name.as_bytes(), b"=", value, b"\0"] {
        text.extend_from_slice(part);
    }
    text
}

fn zero_byte() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "an argument or variable contains a NUL byte")
}
