//! The terminal of the person at work: whether there is one, and that it is left as it was found.

#![expect(unsafe_code, reason = "blocking a signal has no safe wrapper among the dependencies")]

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Write as _};

use nix::libc;
use rustix::process::{Pid, getpgrp};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr, tcsetpgrp};

/// The controlling terminal, whatever stdin and stdout are. Source: tty(4).
pub const CONTROLLING: &str = "/dev/tty";

/// The controlling terminal, opened for reading and writing; an error when there is none.
pub fn open() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(CONTROLLING)
}

/// Whether a person can be shown a question and give the answer: stderr is a terminal, and there is one to read
/// from, be it stdin or the controlling one.
pub fn is_interactive() -> bool {
    io::stderr().is_terminal() && (io::stdin().is_terminal() || open().is_ok())
}

/// Whether this process's group is the one that gets what is typed, a Ctrl-C among it.
pub fn is_in_front() -> bool {
    open().is_ok_and(|terminal| tcgetpgrp(&terminal).is_ok_and(|group| group == getpgrp()))
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
        let foreground = tcgetpgrp(&terminal).ok().filter(|group| *group == getpgrp());
        Some(Self { terminal, settings, foreground })
    }

    /// Puts everything back as it was remembered. What cannot be put back (the terminal is gone) is let be.
    pub fn restore(&self) {
        // Whoever is not in front is stopped by SIGTTOU for any of this, unless the signal is blocked.
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
        // SAFETY: both numbers are written before they are used; the other arguments may be null, and nobody else
        // owns the new descriptors.
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
    fn what_is_no_terminal_is_not_guarded() {
        assert!(Guard::of(File::open("/dev/null").unwrap()).is_none());
    }
}
