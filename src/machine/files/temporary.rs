//! What a change prepares beside its target, under a fixed name for each change.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::Result;
use rustix::fs::{
    AtFlags, Mode, OFlags, RenameFlags, mkdirat, openat, renameat, renameat_with, symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::content::digest_known;
use super::failures::{conflict, failed, refused};
use super::file_state::{FileState, Seen, look};
use super::identity::Identity;
use super::path_text::PathText;
use super::place::{Place, Walk};
use super::remove_tree::remove_at;
use crate::failure::{Failure, FailureKind};

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
        Err(refused(Path::new(tag), "is not a valid tag for a change"))
    }
}

/// Removes what an interrupted change of this tag left beside `path`: a file, a link, or an unfinished directory. Fine
/// if nothing is there.
pub fn clear_leftover(path: &Path, tag: &str) -> Result<()> {
    let name = name_of(tag)?;
    let walk = Walk::to(path)?;
    let Some(directory) = walk.directory() else { return Ok(()) };
    if is_absent(directory, &name) {
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
        // It says so before it looks whether there is anything; what is done next names the target.
        Err(Errno::ROFS) if is_absent(directory, name) => Ok(()),
        Err(Errno::ISDIR) => remove_at(directory, name, shown, None),
        Err(errno) => Err(failed("remove", shown, errno)),
    }
}

fn is_absent(directory: BorrowedFd<'_>, name: &OsStr) -> bool {
    matches!(rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW), Err(Errno::NOENT))
}

/// A prepared file, link or directory; removed on drop unless it was put in place.
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

    /// An empty file that only its creator can open.
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

    /// An empty directory that only its creator can enter.
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

    /// Gives it the target's name, if the target is still what `checked` saw: nothing that appeared, was exchanged or
    /// was changed since is overwritten.
    pub(super) fn put_in_place(self, checked: &Checked) -> Result<Placed> {
        checked.again(self.place)?;
        self.exchange(checked)
    }

    fn exchange(mut self, checked: &Checked) -> Result<Placed> {
        let is_exchanged = give_name(self.place.directory(), &self.name, self.place, checked)?;
        self.in_place = true;
        Ok(Placed { old: is_exchanged.then(|| self.name.clone()) })
    }
}

/// Gives what is `name` in the directory `prepared` the target's name, if nothing appeared there since `checked` saw
/// nothing. True if the target has that other name now.
pub(super) fn give_name(
    prepared: BorrowedFd<'_>,
    name: &OsStr,
    place: &Place,
    checked: &Checked,
) -> Result<bool> {
    let directory = place.directory();
    let is_new = checked.identity.is_none();
    let flags = if is_new { RenameFlags::NOREPLACE } else { RenameFlags::EXCHANGE };
    match renameat_with(prepared, name, directory, &place.name, flags) {
        Ok(()) => Ok(!is_new),
        // This file system supports neither a rename that does not replace nor an exchange.
        Err(Errno::INVAL | Errno::NOSYS) => {
            renameat(prepared, name, directory, &place.name)
                .map_err(|errno| failed("replace", &place.path, errno))?;
            Ok(false)
        }
        Err(errno) => Err(failed("replace", &place.path, errno)),
    }
}

/// A prepared file, link or directory that has the target's name now.
#[must_use = "the replaced target is still beside it"]
pub(super) struct Placed {
    /// The name of the replaced target.
    old: Option<OsString>,
}

impl Placed {
    /// Removes the replaced target, if it is what `checked` saw: see [`remove_replaced`].
    pub(super) fn settle(self, place: &Place, checked: &Checked) -> Result<()> {
        let Some(old) = self.old else { return Ok(()) };
        remove_replaced(place.directory(), &old, &place.beside(&old), place, checked)
    }
}

/// Removes the replaced target, which is `old` in the directory `aside` and `beside` in messages, if it is what `checked`
/// saw: see [`check_replaced`].
pub(super) fn remove_replaced(
    aside: BorrowedFd<'_>,
    old: &OsStr,
    beside: &Path,
    place: &Place,
    checked: &Checked,
) -> Result<()> {
    check_replaced(aside, old, beside, place, checked)?;
    remove_old(aside, old, place)
}

/// Checks that the replaced target is what `checked` saw: another file may have appeared between the last check and the
/// exchange, and that is put back.
///
/// To be called as root: the owner of the directory may not be able to read the replaced target.
pub(super) fn check_replaced(
    aside: BorrowedFd<'_>,
    old: &OsStr,
    beside: &Path,
    place: &Place,
    checked: &Checked,
) -> Result<()> {
    if let Err(error) = checked.came_out(aside, old, &place.path) {
        let back = || renameat_with(aside, old, place.directory(), &place.name, RenameFlags::EXCHANGE);
        return Err(match place.acting(|_| true, || Ok(back()?)) {
            Ok(()) => {
                // What stays is removed by the next change of the same tag.
                let _ = place.acting(|_| true, || clear(aside, old, &place.path));
                error
            }
            Err(_) => error.context(left_beside(place, beside)),
        });
    }
    Ok(())
}

/// Removes the target, durably but for the sync of its directory: it is moved aside and checked, so that a file that
/// others put there at the last moment is not removed. To be called as root.
pub(super) fn take_away(place: &Place, checked: &Checked, tag: &str) -> Result<()> {
    checked.again(place)?;
    move_away(place, checked, tag)
}

fn move_away(place: &Place, checked: &Checked, tag: &str) -> Result<()> {
    let (directory, aside) = (place.directory(), name_of(tag)?);
    let rename = |from: &OsStr, to: &OsStr| {
        place.acting(|_| true, || Ok(renameat_with(directory, from, directory, to, RenameFlags::NOREPLACE)))
    };
    match rename(&place.name, &aside)? {
        Err(Errno::INVAL | Errno::NOSYS) => return remove_old(directory, &place.name, place),
        renamed => renamed.map_err(|errno| failed("remove", &place.path, errno))?,
    }
    if let Err(error) = checked.came_out(directory, &aside, &place.path) {
        return Err(match rename(&aside, &place.name)? {
            Ok(()) => error,
            Err(_) => error.context(left_beside(place, &place.beside(&aside))),
        });
    }
    remove_old(directory, &aside, place)
}

fn remove_old(directory: BorrowedFd<'_>, name: &OsStr, place: &Place) -> Result<()> {
    let unlink =
        || unlinkat(directory, name, AtFlags::empty()).map_err(|errno| failed("remove", &place.path, errno));
    place.acting(|_| true, unlink)
}

fn left_beside(place: &Place, beside: &Path) -> String {
    let (shown, beside) = (PathText::new(&*place.path), PathText::new(beside));
    format!("move `{beside}`, which was `{shown}` before, to another name: the next run removes it")
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.in_place {
            // What stays is removed by the next change of the same tag.
            let _ = clear(self.place.directory(), &self.name, &self.place.path);
        }
    }
}

/// A target that was checked to be as expected.
pub(super) struct Checked {
    /// What is there.
    pub(super) state: FileState,
    /// The identity of the file; `None` if absent.
    pub(super) identity: Option<Identity>,
}

impl Checked {
    /// Checks that the target is as `expected`.
    pub(super) fn target(place: &Place, expected: &FileState) -> Result<Self> {
        let Seen { state, identity } = look(place.directory(), &place.name, &place.path, &mut digest_known)?;
        if !expected.same_as(&state) {
            return Err(conflict(&place.path, &expected.differences(&state)));
        }
        Ok(Self { state, identity })
    }

    /// The same for a target that a file or link may replace: absent, a regular file with one name, or a
    /// link that was expected.
    pub(super) fn replaceable(place: &Place, expected: &FileState) -> Result<Self> {
        let Seen { state, identity } = look(place.directory(), &place.name, &place.path, &mut digest_known)?;
        match (&state, expected) {
            (FileState::Absent | FileState::File { .. }, _)
            | (FileState::Link { .. }, FileState::Link { .. }) => {}
            (other, _) => {
                return Err(refused(
                    &place.path,
                    &format!("is {}, which kkrun does not replace", other.kind_name()),
                ));
            }
        }
        if matches!(state, FileState::File { .. }) && identity.is_some_and(|identity| identity.links > 1) {
            let shown = place.path.display();
            let message = format!(
                "`{shown}` has hard links: kkrun does not replace it, because its other names would keep the old content"
            );
            let hint =
                format!("find them with `find / -xdev -samefile {}`", shell_words::quote(&shown.to_string()));
            return Err(Failure::new(message).kind(FailureKind::Refused).hint(hint).into());
        }
        if !expected.same_as(&state) {
            return Err(conflict(&place.path, &expected.differences(&state)));
        }
        Ok(Self { state, identity })
    }

    /// Checks that what was moved to `name` in a directory is what was checked before. A rename changes nothing of a file
    /// but its time of change.
    pub(super) fn came_out(&self, directory: BorrowedFd<'_>, name: &OsStr, shown: &Path) -> Result<()> {
        let known = self.identity.zip(self.state.sha256());
        let mut read = |file: &File, shown: &Path| match known {
            Some((identity, digest)) if identity.is_but_renamed(file) => {
                Ok((digest, u64::try_from(identity.size).unwrap_or_default()))
            }
            _ => digest_known(file, shown),
        };
        let Seen { state, identity } = look(directory, name, shown, &mut read)?;
        let has_more_names = |now: Identity| self.identity.is_some_and(|then| now.links > then.links);
        if !self.state.same_as(&state) {
            return Err(conflict(shown, &self.state.differences(&state)));
        }
        if identity.is_some_and(has_more_names) {
            return Err(conflict(shown, &["it has a hard link now".to_owned()]));
        }
        Ok(())
    }

    /// Checks that it is still the same file and unchanged.
    pub(super) fn again(&self, place: &Place) -> Result<()> {
        let now = match rustix::fs::statat(place.directory(), &place.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(Identity::of(&stat)),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(failed("access", &place.path, errno)),
        };
        if now == self.identity {
            return Ok(());
        }
        let state = look(place.directory(), &place.name, &place.path, &mut digest_known)?.state;
        let mut differences = self.state.differences(&state);
        if differences.is_empty() {
            differences.push("it was written again".to_owned());
        }
        Err(conflict(&place.path, &differences))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::machine::files::testing::*;

    /// Runs `meddle` between the last check of a file and the rename: its effect must survive.
    fn meddled_with(meddle: &dyn Fn(&Path)) -> [(&'static str, Vec<String>, FileState, FileState); 2] {
        [false, true].map(|removes| {
            let (_directory, path) = scratch();
            let at = path.join("file");
            std::fs::write(&at, "before").unwrap();
            let place = Place::open(&at).unwrap();
            let before = FileState::observe(&at).unwrap();
            let checked = Checked::replaceable(&place, &before).unwrap();
            checked.again(&place).unwrap();
            let result = if removes {
                meddle(&at);
                let theirs = FileState::observe(&at).unwrap();
                (move_away(&place, &checked, "test"), theirs)
            } else {
                let (temporary, _file) = Temporary::file(&place, "test").unwrap();
                meddle(&at);
                let theirs = FileState::observe(&at).unwrap();
                (temporary.exchange(&checked).unwrap().settle(&place, &checked), theirs)
            };
            (kind(result.0), names(&path), result.1, FileState::observe(&at).unwrap())
        })
    }

    #[test]
    fn what_is_put_there_between_the_last_look_and_the_rename_stays() {
        let written = |at: &Path| std::fs::write(at, "theirs").unwrap();
        let replaced = |at: &Path| {
            std::fs::write(at.with_extension("new"), "before").unwrap();
            std::fs::set_permissions(
                at.with_extension("new"),
                std::os::unix::fs::PermissionsExt::from_mode(0o600),
            )
            .unwrap();
            std::fs::rename(at.with_extension("new"), at).unwrap();
        };
        let linked = |at: &Path| {
            std::fs::remove_file(at).unwrap();
            symlink("elsewhere", at).unwrap();
        };
        let given = |at: &Path| {
            std::fs::set_permissions(at, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
        };
        let directory = |at: &Path| {
            std::fs::remove_file(at).unwrap();
            std::fs::create_dir_all(at.join("inner")).unwrap();
        };
        for meddle in [&written as &dyn Fn(&Path), &replaced, &linked, &given, &directory] {
            for (kind, names, theirs, now) in meddled_with(meddle) {
                assert_eq!((kind, names), ("conflict", vec!["file".to_owned()]));
                assert_eq!(now, theirs);
            }
        }
    }

    #[test]
    fn a_name_that_a_file_gets_at_the_last_moment_keeps_its_content() {
        let named = |at: &Path| std::fs::hard_link(at, at.with_extension("second")).unwrap();
        for (kind, names, theirs, now) in meddled_with(&named) {
            assert_eq!((kind, names), ("conflict", vec!["file".to_owned(), "file.second".to_owned()]));
            assert_eq!(now, theirs);
        }
    }

    #[test]
    fn what_is_untouched_gives_way_and_nothing_is_left_beside_it() {
        for (read_only, removes) in [(false, false), (true, false), (false, true), (true, true)] {
            let (_directory, path) = scratch();
            let at = path.join("file");
            std::fs::write(&at, "before").unwrap();
            if read_only {
                std::fs::set_permissions(&at, std::os::unix::fs::PermissionsExt::from_mode(0o400)).unwrap();
            }
            let place = Place::open(&at).unwrap();
            let checked = Checked::replaceable(&place, &FileState::observe(&at).unwrap()).unwrap();
            if removes {
                take_away(&place, &checked, "test").unwrap();
            } else {
                let (temporary, _file) = Temporary::file(&place, "test").unwrap();
                temporary.put_in_place(&checked).unwrap().settle(&place, &checked).unwrap();
            }
            assert_eq!(names(&path), if removes { vec![] } else { vec!["file".to_owned()] });
        }
    }
}
