//! What a change prepares beside its target, under a name fixed for the change.

use std::ffi::{OsStr, OsString};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::Result;
use rustix::fs::{
    AtFlags, Mode, OFlags, RenameFlags, mkdirat, openat, renameat, renameat_with, symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::failures::{conflict, failed, refused};
use super::file_state::{FileState, Identity, Seen, look};
use super::place::{Place, Walk};
use super::remove_tree::remove_at;

/// What prepared names begin with.
const PREFIX: &str = ".kkrun-";
/// The longest tag, so that the name stays below what file systems take (255 bytes).
const LONGEST_TAG: usize = 200;

/// The name beside the target for a change of this tag.
pub(super) fn name_of(tag: &str) -> Result<OsString> {
    let fits = !tag.is_empty()
        && tag.len() <= LONGEST_TAG
        && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if fits {
        Ok(format!("{PREFIX}{tag}").into())
    } else {
        Err(refused(Path::new(tag), "is no tag for a change"))
    }
}

/// Removes what an interrupted change of this tag left beside `path`: a file, a link, or an unfinished
/// directory. Nothing there is fine.
pub fn clear_leftover(path: &Path, tag: &str) -> Result<()> {
    let name = name_of(tag)?;
    let walk = Walk::to(path)?;
    let Some(directory) = walk.directory() else { return Ok(()) };
    if matches!(rustix::fs::statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW), Err(Errno::NOENT)) {
        return Ok(());
    }
    let place = Place::open(path)?;
    place.acting(|_| false, || clear(place.directory(), &name, &place.beside(&name)))?;
    place.sync()
}

/// Removes a leftover by the descriptor of its directory.
fn clear(directory: BorrowedFd<'_>, name: &OsStr, shown: &Path) -> Result<()> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => remove_at(directory, name, shown, None),
        Err(errno) => Err(failed("remove", shown, errno)),
    }
}

/// Something prepared, removed again unless it was put in place.
pub(super) struct Temporary<'place> {
    place: &'place Place,
    name: OsString,
    in_place: bool,
}

impl<'place> Temporary<'place> {
    fn new(place: &'place Place, tag: &str) -> Result<Self> {
        let name = name_of(tag)?;
        clear(place.directory(), &name, &place.beside(&name))?;
        Ok(Self { place, name, in_place: false })
    }

    /// An empty file that only its maker can open.
    pub(super) fn file(place: &'place Place, tag: &str) -> Result<(Self, OwnedFd)> {
        let temporary = Self::new(place, tag)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(place.directory(), &temporary.name, flags, Mode::from_raw_mode(0o600))
            .map_err(|errno| failed("create a file beside", &place.path, errno))?;
        Ok((temporary, file))
    }

    /// A symbolic link.
    pub(super) fn link(place: &'place Place, tag: &str, to: &Path) -> Result<Self> {
        let temporary = Self::new(place, tag)?;
        symlinkat(to, place.directory(), &temporary.name)
            .map_err(|errno| failed("create a link beside", &place.path, errno))?;
        Ok(temporary)
    }

    /// An empty directory that only its maker can enter.
    pub(super) fn directory(place: &'place Place, tag: &str) -> Result<(Self, OwnedFd)> {
        let temporary = Self::new(place, tag)?;
        mkdirat(place.directory(), &temporary.name, Mode::from_raw_mode(0o700))
            .map_err(|errno| failed("create a directory beside", &place.path, errno))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = openat(place.directory(), &temporary.name, flags, Mode::empty())
            .map_err(|errno| failed("open the directory beside", &place.path, errno))?;
        Ok((temporary, opened))
    }

    /// Its name in the directory.
    pub(super) fn name(&self) -> &OsStr {
        &self.name
    }

    /// Leaves it under its own name.
    pub(super) fn keep(mut self) {
        self.in_place = true;
    }

    /// Gives it the target's name, if the target is still what `checked` saw: an absent one is never
    /// overwritten, another one not if it was exchanged or changed since.
    pub(super) fn put_in_place(mut self, checked: &Checked) -> Result<()> {
        let directory = self.place.directory();
        let name = &self.place.name;
        checked.again(self.place)?;
        let renamed = match checked.identity {
            None => match renameat_with(directory, &self.name, directory, name, RenameFlags::NOREPLACE) {
                // A file system that cannot refuse to replace.
                Err(Errno::INVAL) => renameat(directory, &self.name, directory, name),
                other => other,
            },
            Some(_) => renameat(directory, &self.name, directory, name),
        };
        renamed.map_err(|errno| failed("replace", &self.place.path, errno))?;
        self.in_place = true;
        Ok(())
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.in_place {
            // What stays is removed by the next change of the same tag.
            let _ = clear(self.place.directory(), &self.name, &self.place.path);
        }
    }
}

/// A target that was found to be what it is expected to be.
pub(super) struct Checked {
    /// What is there.
    pub(super) state: FileState,
    /// Which file it is; none if absent.
    pub(super) identity: Option<Identity>,
}

impl Checked {
    /// Looks whether the target is as `expected`.
    pub(super) fn target(place: &Place, expected: &FileState) -> Result<Self> {
        let Seen { state, identity } = look(place.directory(), &place.name, &place.path, &mut |_| Ok(()))?;
        if !expected.same_as(&state) {
            return Err(conflict(&place.path, &expected.differences(&state)));
        }
        Ok(Self { state, identity })
    }

    /// The same for a target that a file or link may replace: absent, a regular file with one name, or a
    /// link that was expected.
    pub(super) fn replaceable(place: &Place, expected: &FileState) -> Result<Self> {
        let Seen { state, identity } = look(place.directory(), &place.name, &place.path, &mut |_| Ok(()))?;
        match (&state, expected) {
            (FileState::Absent | FileState::File { .. }, _)
            | (FileState::Link { .. }, FileState::Link { .. }) => {}
            (other, _) => {
                return Err(refused(&place.path, &format!("is {}: kkrun does not replace it", other.noun())));
            }
        }
        if matches!(state, FileState::File { .. }) && identity.is_some_and(|identity| identity.links > 1) {
            return Err(refused(
                &place.path,
                "has other names (hard links): kkrun does not replace it, because they would keep the old content",
            ));
        }
        if !expected.same_as(&state) {
            return Err(conflict(&place.path, &expected.differences(&state)));
        }
        Ok(Self { state, identity })
    }

    /// Looks again whether it is untouched: the same file, not changed since.
    pub(super) fn again(&self, place: &Place) -> Result<()> {
        let now = match rustix::fs::statat(place.directory(), &place.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(Identity::of(&stat)),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(failed("look at", &place.path, errno)),
        };
        if now == self.identity {
            return Ok(());
        }
        let state = look(place.directory(), &place.name, &place.path, &mut |_| Ok(()))?.state;
        let mut differences = self.state.differences(&state);
        if differences.is_empty() {
            differences.push("it was written again".to_owned());
        }
        Err(conflict(&place.path, &differences))
    }
}
