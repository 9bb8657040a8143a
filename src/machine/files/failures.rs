//! Turns what the kernel refused into an error that names the path, the cause and the remedy.

use std::path::Path;

use rustix::io::Errno;

use super::path_text::PathText;
use crate::failure::{Failure, FailureKind};

/// The failure of `doing` (e.g. "replace") at `path`.
pub(super) fn failed(doing: &str, path: &Path, errno: Errno) -> anyhow::Error {
    let shown = PathText::new(path);
    let (kind, cause, hint) = match errno {
        Errno::ACCESS => (FailureKind::Denied, "permission denied".to_owned(), None),
        Errno::PERM => (
            FailureKind::Denied,
            "operation not permitted".to_owned(),
            Some(
                "check whether it or its directory is immutable: `lsattr -d` shows an `i` or `a`, `chattr -i` removes it",
            ),
        ),
        Errno::BUSY => (
            FailureKind::Busy,
            "it is a mount point".to_owned(),
            Some("unmount it, or change the file that is mounted there"),
        ),
        Errno::XDEV => (
            FailureKind::CrossDevice,
            "it would have to move to another file system".to_owned(),
            Some(
                "mount the overlay with `redirect_dir=on`: without it, a directory of the lower layer cannot be moved",
            ),
        ),
        Errno::ROFS => (FailureKind::ReadOnly, "the file system is read-only".to_owned(), None),
        Errno::NOSPC => (FailureKind::Space, "no space left on the file system".to_owned(), None),
        Errno::DQUOT => (FailureKind::Space, "the disk quota is used up".to_owned(), None),
        Errno::NOENT => (FailureKind::Missing, "no such file or directory".to_owned(), None),
        Errno::EXIST => (FailureKind::Exists, "it already exists".to_owned(), None),
        Errno::NOTDIR => (FailureKind::Refused, "not a directory".to_owned(), None),
        Errno::NOTEMPTY => (FailureKind::NotEmpty, "the directory is not empty".to_owned(), None),
        Errno::LOOP => (FailureKind::Refused, "a symbolic link is in the way".to_owned(), None),
        other => {
            let text = std::io::Error::from(other).to_string();
            (FailureKind::Io, text.split(" (os error").next().unwrap_or(&text).to_owned(), None)
        }
    };
    let failure = Failure::new(format!("cannot {doing} `{shown}`: {cause}")).kind(kind);
    match hint {
        Some(hint) => failure.hint(hint).into(),
        None => failure.into(),
    }
}

/// The same for an error of the standard library.
pub(super) fn failed_io(doing: &str, path: &Path, error: &std::io::Error) -> anyhow::Error {
    match Errno::from_io_error(error) {
        Some(errno) => failed(doing, path, errno),
        None => Failure::new(format!("cannot {doing} `{}`: {error}", PathText::new(path)))
            .kind(FailureKind::Io)
            .into(),
    }
}

/// The failure for a target that a change may not touch.
pub(super) fn refused(path: &Path, why: &str) -> anyhow::Error {
    Failure::new(format!("`{}` {why}", PathText::new(path))).kind(FailureKind::Refused).into()
}

/// The failure for a target that was modified between the check and the change.
pub(super) fn conflict(path: &Path, differences: &[String]) -> anyhow::Error {
    let shown = PathText::new(path);
    Failure::new(format!("`{shown}` was modified outside kkrun in the meantime: {}", differences.join(", ")))
        .kind(FailureKind::Conflict)
        .into()
}
