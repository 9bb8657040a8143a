//! What a child does between its birth and the execution of the program.

#![expect(unsafe_code, reason = "one system call has no safe wrapper among the dependencies")]

use std::ffi::{CString, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use nix::libc;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{Gid, Resource, Rlimit, Uid, chdir, setrlimit, setsid, umask};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::Command;
use super::child_records::Pen;
use crate::machine::account::Account;

/// All that the child does before it executes the program.
#[derive(Clone, Debug)]
pub(super) struct Preparation {
    pen: Pen,
    own_session: bool,
    identity: Option<Identity>,
    directory: CString,
    directory_is_wanted: bool,
}

#[derive(Clone, Debug)]
struct Identity {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

/// What the child was doing when it failed. It travels home in the upper half of the error number: nothing but
/// that number comes back from between fork and exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Execute = 0,
    Session = 1,
    Note = 2,
    Identity = 3,
    Directory = 4,
}

const STAGES: [Stage; 5] = [Stage::Execute, Stage::Session, Stage::Note, Stage::Identity, Stage::Directory];

impl Stage {
    pub(super) fn failed(self, error: Errno) -> io::Error {
        io::Error::from_raw_os_error(error.raw_os_error() | ((self as i32) << 16))
    }

    pub(super) fn of(error: &io::Error) -> (Self, io::Error) {
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
    pub(super) fn new(
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

    /// Only raw system calls are made, on values made before; nothing is allocated, freed or locked: fit for a
    /// child of a process with threads, be its memory a copy or the parent's own.
    pub(super) fn prepare(&self) -> io::Result<()> {
        if self.own_session {
            // More than a process group: in the background of our terminal a child that reads it is stopped for
            // good; without one it is reported that there is none.
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
