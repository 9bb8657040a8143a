//! The operator's terminal: whether there is one, and that it is restored.

#![expect(
    unsafe_code,
    reason = "signals and the own process group have no safe wrapper among the dependencies"
)]

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::OnceLock;

use nix::libc;
use rustix::process::Pid;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr, tcsetpgrp};

/// The controlling terminal, whatever stdin and stdout are. Source: tty(4).
pub const CONTROLLING: &str = "/dev/tty";

/// The controlling terminal, opened for reading and writing; an error when there is none.
pub fn open() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(CONTROLLING)
}

/// Whether a person can see a question and answer it: stderr is a terminal, and there is one to read from, be it stdin
/// or the controlling one.
pub fn is_interactive() -> bool {
    io::stderr().is_terminal() && (io::stdin().is_terminal() || open().is_ok())
}

/// Whether this process's group is the one that gets what is typed, a Ctrl-C among it.
pub fn is_in_front() -> bool {
    open().is_ok_and(|terminal| tcgetpgrp(&terminal).is_ok_and(|group| Some(group) == own_group()))
}

/// The group of this process; `None` when it is of another namespace, as in a container entered from outside, where
/// the kernel says 0.
fn own_group() -> Option<Pid> {
    // SAFETY: takes nothing, cannot fail and changes nothing.
    Pid::from_raw(unsafe { libc::getpgrp() })
}

/// How the terminal was when kkrun was started there.
static AT_START: OnceLock<(File, Termios)> = OnceLock::new();

/// Restores the terminal on a Ctrl-Z: echo, line editing and the cursor. When the process continues, its own settings
/// are restored. Commands that run in the meantime go on.
pub fn survive_stopping() {
    if !io::stderr().is_terminal() {
        return;
    }
    let Ok(terminal) = open() else { return };
    let Ok(settings) = tcgetattr(&terminal) else { return };
    if AT_START.set((terminal, settings)).is_err() {
        return;
    }
    // SAFETY: zeroed actions are valid, and the handler makes system calls only.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let mut before = action;
        // A shell without job control ignores it.
        let known = libc::sigaction(libc::SIGTSTP, std::ptr::null(), &raw mut before) == 0;
        if known && before.sa_sigaction != libc::SIG_IGN {
            action.sa_sigaction = on_stop as *const () as libc::sighandler_t;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(libc::SIGTSTP, &raw const action, std::ptr::null_mut());
        }
    }
}

/// Stops the process as the signal itself would have done, with the terminal restored meanwhile.
extern "C" fn on_stop(signal: libc::c_int) {
    let Some((terminal, at_start)) = AT_START.get() else { return };
    let is_in_front = || tcgetpgrp(terminal).is_ok_and(|group| Some(group) == own_group());
    let present = if is_in_front() { tcgetattr(terminal).ok() } else { None };
    if present.is_some() {
        let _gone = tcsetattr(terminal, OptionalActions::Now, at_start);
        let _gone = rustix::io::write(terminal, SHOW_CURSOR);
    }
    // SAFETY: the sets and actions are valid before they are used; only this signal is concerned, for this thread, and
    // both are as before afterwards. The signal's default action stops all threads, at the call that unblocks it.
    unsafe {
        let errno = *libc::__errno_location();
        let default: libc::sigaction = std::mem::zeroed();
        let mut ours = default;
        let mut this: libc::sigset_t = std::mem::zeroed();
        let mut mask = this;
        libc::sigaction(signal, &raw const default, &raw mut ours);
        libc::sigemptyset(&raw mut this);
        libc::sigaddset(&raw mut this, signal);
        libc::raise(signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const this, &raw mut mask);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const mask, std::ptr::null_mut());
        libc::sigaction(signal, &raw const ours, std::ptr::null_mut());
        *libc::__errno_location() = errno;
    }
    if let Some(present) = present.filter(|_| is_in_front()) {
        let _gone = tcsetattr(terminal, OptionalActions::Now, &present);
    }
}

/// Remembers the settings of the terminal and puts them back when dropped: echo and line editing, the visible
/// cursor, and which process group is in front.
#[derive(Debug)]
pub struct Guard {
    terminal: File,
    settings: Termios,
    foreground: Option<Pid>,
}

impl Guard {
    /// Remembers how the controlling terminal is; `None` when there is none.
    pub fn new() -> Option<Self> {
        Self::of(open().ok()?)
    }

    fn of(terminal: File) -> Option<Self> {
        let settings = tcgetattr(&terminal).ok()?;
        let foreground = tcgetpgrp(&terminal).ok().filter(|group| Some(*group) == own_group());
        Some(Self { terminal, settings, foreground })
    }

    /// Restores the remembered settings. What cannot be restored (the terminal is gone) is ignored.
    pub fn restore(&self) {
        // A process in the background is stopped by SIGTTOU for any of this, unless the signal is blocked.
        let _unstopped = Unstopped::new();
        if let Some(foreground) = self.foreground {
            let _gone = tcsetpgrp(&self.terminal, foreground);
        }
        let _gone = tcsetattr(&self.terminal, OptionalActions::Now, &self.settings);
        drop((&self.terminal).write_all(SHOW_CURSOR));
    }
}

/// Source: the `cnorm` capability of every terminal that descends from the VT220 (DECTCEM).
const SHOW_CURSOR: &[u8] = b"\x1b[?25h";

impl Drop for Guard {
    fn drop(&mut self) {
        self.restore();
    }
}

/// SIGTTOU blocked in this thread for as long as this lives.
struct Unstopped {
    before: libc::sigset_t,
}

impl Unstopped {
    fn new() -> Self {
        // SAFETY: `sigemptyset` makes both sets valid before they are used, and no pointer outlives the call.
        unsafe {
            let mut blocked: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut blocked);
            libc::sigemptyset(&raw mut before);
            libc::sigaddset(&raw mut blocked, libc::SIGTTOU);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const blocked, &raw mut before);
            Self { before }
        }
    }
}

impl Drop for Unstopped {
    fn drop(&mut self) {
        // SAFETY: the set was filled by `pthread_sigmask` when this was made.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::fd::FromRawFd as _;

    use rustix::termios::LocalModes;

    use super::*;

    fn pseudo_terminal() -> (File, File) {
        let (mut controller, mut terminal) = (-1, -1);
        // SAFETY: both numbers are written before they are used; the other arguments may be null, and nothing else owns
        // the new descriptors.
        unsafe {
            let null = std::ptr::null_mut();
            let made = libc::openpty(&raw mut controller, &raw mut terminal, null, null.cast(), null.cast());
            assert_eq!(made, 0);
            (File::from_raw_fd(controller), File::from_raw_fd(terminal))
        }
    }

    #[test]
    fn echo_and_the_cursor_come_back() {
        let (mut controller, terminal) = pseudo_terminal();
        let guard = Guard::of(terminal.try_clone().unwrap()).unwrap();
        let mut settings = tcgetattr(&terminal).unwrap();
        assert!(settings.local_modes.contains(LocalModes::ECHO));
        settings.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON);
        tcsetattr(&terminal, OptionalActions::Now, &settings).unwrap();
        drop(guard);

        let restored = tcgetattr(&terminal).unwrap().local_modes;
        assert!(restored.contains(LocalModes::ECHO | LocalModes::ICANON));
        let mut shown = [0; SHOW_CURSOR.len()];
        controller.read_exact(&mut shown).unwrap();
        assert_eq!(shown, SHOW_CURSOR);
    }

    #[test]
    fn what_is_not_a_terminal_is_not_guarded() {
        assert!(Guard::of(File::open("/dev/null").unwrap()).is_none());
    }
}
