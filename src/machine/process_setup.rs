//! Normalises what a process inherits from its caller.

#![expect(
    unsafe_code,
    reason = "dispositions and masks of signals, and a flag of descriptors, have no safe wrapper among the dependencies"
)]

use nix::libc;
use rustix::fs::Mode;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit, umask,
};

/// How many open files kkrun and what it runs may have, independent of the caller: as after a login.
const OPEN_FILES: u64 = 1024;

/// Signals that the caller of kkrun may have ignored: `nohup`, a shell's background and job control, a limit to the
/// size of files that is an error instead of the end. The last is ignored by every Rust program, and the two before it
/// are handled.
const MAY_BE_IGNORED: [i32; 11] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGXFSZ,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGPIPE,
];

/// Makes the process independent of its caller: limits, file modes, descriptors and signals. Prevents core files, which
/// would hold the secrets in its memory. To be called before there are threads.
///
/// What cannot be set stays as it is: only root can lift a hard limit, and an old kernel is no reason to stop.
pub fn settle() {
    let _kept = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    // A limit of zero does not hold for a core that the kernel hands to a program (core(5)).
    let _kept = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    limit_open_files();
    close_on_exec();
    umask(Mode::WGRP | Mode::WOTH);
    // SAFETY: only the disposition of one signal and the mask of this thread are set, to their defaults; the set is
    // made valid before it is used.
    unsafe {
        // Children inherit what is ignored. With SIGCHLD ignored, the kernel would reap them before their exit status
        // can be read.
        for signal in (1..=libc::SIGRTMAX()).filter(|signal| !MAY_BE_IGNORED.contains(signal)) {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Marks the descriptors that kkrun inherited, beyond the standard three, to be closed when a program is executed, like
/// all that kkrun opens itself.
fn close_on_exec() {
    const FIRST: libc::c_uint = 3;
    // SAFETY: only sets a flag on descriptors of this process. By its number: a C library before 2.34 has no wrapper.
    unsafe {
        libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
}

fn limit_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == Some(OPEN_FILES) {
        return;
    }
    let is_less = |limit: Option<u64>| limit.is_some_and(|limit| limit < OPEN_FILES);
    let wanted = |maximum| Rlimit { current: Some(OPEN_FILES), maximum };
    let maximum = if is_less(limit.maximum) { Some(OPEN_FILES) } else { limit.maximum };
    if setrlimit(Resource::Nofile, wanted(maximum)).is_err() {
        let _kept = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
}
