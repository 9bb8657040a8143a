//! Starts a child that shares our memory until it executes its program.
//!
//! Copying the tables of the memory and every page that is then touched costs several times as much as all the
//! rest of starting a small program, and more with every megabyte: this is what `posix_spawn` avoids as well. But
//! that can do nothing of its own in the child, such as noting it.

#![expect(unsafe_code, reason = "a child that shares our memory is beyond what the compiler can check")]

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr, OsString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr;

use nix::libc;
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, waitpid};
use zeroize::Zeroizing;

use super::Value;
use super::child::{Child, Handle};
use super::preparation::Preparation;
use super::spawn::Ends;

/// What the child runs on: several times what it needs, even unoptimised.
const STACK: usize = 64 * 1024;

/// All that the child reads, and the one place it writes.
struct Plan<'a> {
    program: &'a CStr,
    argv: Pointers<'a>,
    /// The same as words of a script without a first line that names its interpreter.
    script_argv: Pointers<'a>,
    environment: Pointers<'a>,
    descriptors: [RawFd; 3],
    preparation: &'a Preparation,
    /// Why the program was not executed; it stays `None` when it was.
    failure: Option<io::Error>,
}

/// A list of strings as `execve` takes it: it ends with a null.
struct Pointers<'a> {
    pointers: Vec<*const c_char>,
    _strings: std::marker::PhantomData<&'a CStr>,
}

impl<'a> Pointers<'a> {
    fn new(strings: impl Iterator<Item = &'a CStr>) -> Self {
        let pointers = strings.map(CStr::as_ptr).chain([ptr::null()]).collect();
        Self { pointers, _strings: std::marker::PhantomData }
    }
}

/// Starts `program` with these words, these variables and these descriptors, after `preparation`.
pub(super) fn spawn(
    program: &Path,
    argv: &[OsString],
    variables: &HashMap<OsString, Value>,
    preparation: &Preparation,
    ends: &Ends,
) -> io::Result<Child> {
    let program = c_string(program.as_os_str())?;
    let argv: Vec<CString> = argv.iter().map(|word| c_string(word)).collect::<io::Result<_>>()?;
    let variables: Vec<Zeroizing<Vec<u8>>> =
        variables.iter().map(|(name, value)| assignment(name, value)).collect();
    let variables: Vec<&CStr> = variables
        .iter()
        .map(|variable| CStr::from_bytes_with_nul(variable).map_err(|_| zero_byte()))
        .collect::<io::Result<_>>()?;
    let words = || argv.iter().map(CString::as_c_str);
    let plan = Plan {
        program: &program,
        argv: Pointers::new(words()),
        script_argv: Pointers::new([c"sh", &*program].into_iter().chain(words().skip(1))),
        environment: Pointers::new(variables.into_iter()),
        descriptors: [ends.stdin.as_raw_fd(), ends.stdout.as_raw_fd(), ends.stderr.as_raw_fd()],
        preparation,
        failure: None,
    };
    Child::awaited(|| clone(plan).map(Handle::Own))
}

fn clone(mut plan: Plan<'_>) -> io::Result<Pid> {
    let mut stack: Vec<u128> = Vec::with_capacity(STACK / size_of::<u128>());
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let every = every_signal();
    let mut before = every;
    // SAFETY: the stack is not used otherwise, aligned, and grows down from its end; with CLONE_VFORK this thread
    // stands still until the child has executed its program or ended, so that `plan` and the stack outlive it and
    // are not touched from two sides. All signals are blocked meanwhile: no handler of ours runs in the child.
    let (pid, error) = unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const every, &raw mut before);
        let top = stack.as_mut_ptr().add(stack.capacity()).cast();
        let pid = libc::clone(child, top, flags, (&raw mut plan).cast());
        let error = io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut());
        (pid, error)
    };
    let Some(pid) = Pid::from_raw(pid).filter(|_| pid > 0) else { return Err(error) };
    match plan.failure.take() {
        None => Ok(pid),
        Some(error) => {
            while matches!(waitpid(Some(pid), WaitOptions::empty()), Err(Errno::INTR)) {}
            Err(error)
        }
    }
}

/// The child, on a stack of its own.
extern "C" fn child(plan: *mut c_void) -> c_int {
    // SAFETY: the pointer is to a `Plan` whose owner stands still until this has ended.
    let plan = unsafe { &mut *plan.cast::<Plan<'_>>() };
    plan.failure = Some(execute(plan));
    // SAFETY: ends this process only, at once: nothing of the parent's is run or freed.
    unsafe { libc::_exit(127) }
}

/// Becomes the program, or says why not. Only system calls are made and nothing is allocated, freed or locked.
fn execute(plan: &Plan<'_>) -> io::Error {
    // SAFETY: the descriptors are open; the three they become are nobody's in this process, whose program knows those alone.
    unsafe {
        for (standard, descriptor) in [0, 1, 2].into_iter().zip(plan.descriptors) {
            if libc::dup2(descriptor, standard) < 0 {
                return io::Error::last_os_error();
            }
        }
        // The table of descriptors is the child's own, and the limit to them may be low.
        for descriptor in plan.descriptors.into_iter().filter(|descriptor| *descriptor > 2) {
            libc::close(descriptor);
        }
        forget_handlers();
    }
    if let Err(error) = plan.preparation.prepare() {
        return error;
    }
    let none = no_signal();
    // SAFETY: no handler of ours is left that an unblocked signal could run in the memory we share; the strings
    // and the lists of them live on in the parent, which stands still, and the lists end with a null.
    unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
        let environment = plan.environment.pointers.as_ptr();
        libc::execve(plan.program.as_ptr(), plan.argv.pointers.as_ptr(), environment);
        let error = io::Error::last_os_error();
        if error.raw_os_error() == Some(libc::ENOEXEC) {
            // As a shell does, and `execvp`.
            libc::execve(c"/bin/sh".as_ptr(), plan.script_argv.pointers.as_ptr(), environment);
        }
        error
    }
}

/// Gives every signal that is handled its default action back, and SIGPIPE, which Rust ignores.
///
/// # Safety
///
/// Only for a process that is about to execute another program: the handlers that are lost are its own.
unsafe fn forget_handlers() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: a zeroed action is the default one, and only this process is concerned.
        unsafe {
            let default: libc::sigaction = std::mem::zeroed();
            let mut present = default;
            if libc::sigaction(signal, ptr::null(), &raw mut present) == 0
                && present.sa_sigaction != libc::SIG_DFL
                && (present.sa_sigaction != libc::SIG_IGN || signal == libc::SIGPIPE)
            {
                libc::sigaction(signal, &raw const default, ptr::null_mut());
            }
        }
    }
}

fn every_signal() -> libc::sigset_t {
    // SAFETY: `sigfillset` makes the set valid.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        set
    }
}

fn no_signal() -> libc::sigset_t {
    // SAFETY: `sigemptyset` makes the set valid.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        set
    }
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| zero_byte())
}

/// `NAME=value` and a zero byte, wiped from memory when dropped.
fn assignment(name: &OsStr, value: &Value) -> Zeroizing<Vec<u8>> {
    let value = value.as_bytes();
    let mut text = Zeroizing::new(Vec::with_capacity(name.len() + value.len() + 2));
    for part in [name.as_bytes(), b"=", value, b"\0"] {
        text.extend_from_slice(part);
    }
    text
}

fn zero_byte() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "a word or variable holds a zero byte")
}
