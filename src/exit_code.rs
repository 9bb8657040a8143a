//! The exit statuses that operators and other programs may rely on.

/// How kkrun ends, as the operating system sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExitCode(pub u8);

impl ExitCode {
    /// Everything asked for holds.
    pub const DONE: Self = Self(0);
    /// A step or a script failed.
    pub const FAILED: Self = Self(1);
    /// The command line is wrong, or a script does not pass `check`.
    pub const USAGE: Self = Self(2);
    /// Another run holds the lock.
    pub const LOCKED: Self = Self(3);
    /// A rollback ended with conflicts or failed undo actions.
    pub const UNDONE_IN_PART: Self = Self(4);
    /// The journal is damaged, missing, or newer than this kkrun.
    pub const JOURNAL: Self = Self(5);
    /// `--dry-run` found changes to make, or `--expect-unchanged` did not hold.
    pub const DIFFERENT: Self = Self(6);
    /// Another user could write a script or the state, or root is required.
    pub const REFUSED: Self = Self(77);
    /// An answer is required and no one can be asked.
    pub const UNANSWERED: Self = Self(78);

    /// Ended by the signal of this number: 128 + N, as shells say it.
    pub const fn signal(number: u8) -> Self {
        Self(128_u8.wrapping_add(number))
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.0)
    }
}
