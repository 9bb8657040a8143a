//! Replaces or creates a file: at every moment it is either the old or the new one.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::Result;
use rustix::fs::{Mode, fchmod, fchown, fstat, fsync, futimens};

use super::content::{self, Contents, Stopped, other_than};
use super::credentials::User;
use super::digest::Digest;
use super::failures::{failed, failed_io};
use super::file_state::{FileState, metadata_of};
use super::known::Written;
use super::metadata::Attributes;
use super::place::Place;
use super::temporary::{Checked, Temporary};
use super::together::Syncing;
use super::xattrs;

/// Replaces or creates the file `path` durably and returns its state.
///
/// The target must be as `expected` before the first byte is written, and unchanged when the new file takes its name.
/// `tag` names the change: the file in preparation is `.kkrun-<tag>` beside the target, and a leftover of an earlier
/// attempt is removed first. After an error before the rename nothing has changed and the file in preparation is
/// removed; an error in the last sync says so.
///
/// # Errors
/// A failure of kind `conflict` when the target is not as expected; `refused` when it is neither a regular file
/// with one name, nor absent, nor a link that was expected; `space`, `readonly`, `busy`, `denied`, `crossdevice`,
/// `missing` and `io` by cause; `damaged` when a reader gave other bytes than it should.
pub fn replace(
    path: &Path,
    contents: Contents<'_>,
    to: &Attributes,
    expected: &FileState,
    tag: &str,
) -> Result<FileState> {
    replace_syncing(path, contents, to, expected, tag, Syncing::Now)
}

/// The same; the name is synced as `syncing` says, the content before it.
pub(super) fn replace_syncing(
    path: &Path,
    contents: Contents<'_>,
    to: &Attributes,
    expected: &FileState,
    tag: &str,
    syncing: Syncing<'_>,
) -> Result<FileState> {
    let place = Place::open(path)?;
    let checked = Checked::replaceable(&place, expected)?;
    let (state, placed) = place.acting(
        |user| may_make(user, to),
        || {
            let (temporary, file) = Temporary::file(&place, tag)?;
            let (file, sha256, size) = fill(file, contents, &place.path)?;
            adorn(&file, to, &place.path)?;
            fsync(&file).map_err(|errno| failed("write", &place.path, errno))?;
            let state = FileState::File { sha256, size, metadata: metadata_of(&file, &place.path)? };
            let written = Written::completely(&file);
            let placed = temporary.put_in_place(&checked)?;
            if let Some(written) = written {
                written.remember(&file, sha256);
            }
            Ok((state, placed))
        },
    )?;
    placed.settle(&place, &checked)?;
    syncing.settle(&place)?;
    Ok(state)
}

/// Whether this user alone can create a file with these attributes.
pub(super) fn may_make(user: &User, attributes: &Attributes) -> bool {
    user.uid == attributes.owner
        && user.is_in(attributes.group)
        && !attributes.xattrs.keys().any(|name| xattrs::is_privileged(name))
}

/// Writes all of the contents to a new file, which is open for reading and writing.
pub(super) fn fill(file: OwnedFd, contents: Contents<'_>, shown: &Path) -> Result<(File, Digest, u64)> {
    let mut file = File::from(file);
    let writing = |error: &std::io::Error| failed_io("write", shown, error);
    let (bytes, digest) = match contents {
        Contents::Bytes(bytes) => (bytes, Digest::of(bytes)),
        Contents::Hashed(bytes, digest) => (bytes, digest),
        Contents::File { from, sha256 } => {
            let (digest, size) = content::copy(from, &file, &writing).map_err(|stopped| match stopped {
                Stopped::Reading(error) => failed_io("read what is to be written to", shown, &error),
                Stopped::Taking(error) => error,
            })?;
            if let Some(desired) = sha256.filter(|desired| *desired != digest) {
                return Err(other_than(shown, digest, desired));
            }
            return Ok((file, digest, size));
        }
    };
    file.write_all(bytes).map_err(|error| writing(&error))?;
    Ok((file, digest, bytes.len() as u64))
}

/// Gives an open file or directory its time, owner, group, attributes and mode, in an order in which no call undoes
/// another: a new owner clears set-user-id bits and capabilities, and the mode limits an access control list. The time
/// is first because it is not compared: once all else is as desired, it is too.
pub(super) fn adorn(file: impl AsFd, to: &Attributes, shown: &Path) -> Result<()> {
    if let Some(mtime) = to.mtime {
        futimens(file.as_fd(), &mtime.timestamps())
            .map_err(|errno| failed("set the time of", shown, errno))?;
    }
    let stat = fstat(file.as_fd()).map_err(|errno| failed("access", shown, errno))?;
    if (stat.st_uid, stat.st_gid) != (to.owner, to.group) {
        fchown(file.as_fd(), Some(to.uid()), Some(to.gid()))
            .map_err(|errno| failed("change the owner of", shown, errno))?;
    }
    xattrs::write(file.as_fd(), &to.xattrs, shown)?;
    fchmod(file.as_fd(), Mode::from_raw_mode(to.mode))
        .map_err(|errno| failed("change the mode of", shown, errno))?;
    match to.flags {
        Some(flags) => flags.give(file, shown),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;
    use crate::machine::files::testing::*;
    use crate::machine::files::xattrs::example_acl;
    use crate::machine::files::{Flags, ModifiedAt, Value};

    fn write(path: &Path, bytes: &[u8], to: &Attributes, expected: &FileState) -> Result<FileState> {
        replace(path, Contents::Bytes(bytes), to, expected, "test")
    }

    /// Replaces `path` with what comes from a pipe, while another process writes to `target` before it ends.
    fn write_while_meddling(path: &Path, target: &Path, expected: &FileState) -> Result<FileState> {
        let (from, mut into) = std::io::pipe().unwrap();
        let from = File::from(OwnedFd::from(from));
        std::thread::scope(|scope| {
            scope.spawn(move || {
                into.write_all(b"x").unwrap();
                std::fs::write(target, "three").unwrap();
            });
            replace(path, Contents::File { from: &from, sha256: None }, &mine(0o600), expected, "test")
        })
    }

    #[test]
    fn a_file_is_created_and_replaced_as_predicted() {
        let (_directory, path) = scratch();
        for name in [&b"plain"[..], b"odd\xff\nname"] {
            let file = path.join(OsStr::from_bytes(name));
            let created = write(&file, b"one", &mine(0o640), &FileState::Absent).unwrap();
            assert!(created.same_as(&FileState::file(Digest::of(b"one"), 3, &mine(0o640))));
            assert_eq!(created, FileState::observe(&file).unwrap());
            let inode = std::fs::metadata(&file).unwrap().ino();

            let replaced = write(&file, b"", &mine(0o604), &created).unwrap();
            assert_eq!(replaced, FileState::observe(&file).unwrap());
            assert_eq!(std::fs::read(&file).unwrap(), b"");
            assert_eq!(access(&file).0, 0o604);
            assert_ne!(std::fs::metadata(&file).unwrap().ino(), inode);
        }
        assert_eq!(names(&path).len(), 2);
    }

    #[test]
    fn attributes_access_control_lists_and_time_come_back() {
        let (_directory, path) = scratch();
        let file = path.join("file");
        let mut to = mine(0o664);
        to.xattrs = BTreeMap::from([
            ("user.note".to_owned(), Value::from(b"\x00\xff".to_vec())),
            example_acl(0o640, 1234, 6),
        ]);
        to.mtime = Some(ModifiedAt { seconds: 1_000_000_000, nanoseconds: 123_456_789 });
        to.flags = Some(Flags::NONE);
        let before = write(&file, b"one", &to, &FileState::Absent).unwrap();
        assert_eq!(before, FileState::file(Digest::of(b"one"), 3, &to));

        let after = write(&file, b"two", &mine(0o600), &before).unwrap();
        assert!(after.metadata().unwrap().xattrs.is_empty());
        let back = write(&file, b"one", &before.metadata().unwrap().into(), &after).unwrap();
        assert_eq!(back, before);
    }

    #[test]
    fn an_inherited_access_control_list_is_not_kept() {
        let (_directory, path) = scratch();
        let (_, acl) = example_acl(0o775, 1234, 7);
        let opened = File::open(&path).unwrap();
        xattrs::write(&opened, &BTreeMap::from([("system.posix_acl_default".to_owned(), acl)]), &path)
            .unwrap();
        let state = write(&path.join("file"), b"x", &mine(0o664), &FileState::Absent).unwrap();
        assert!(state.same_as(&FileState::file(Digest::of(b"x"), 1, &mine(0o664))));
    }

    #[test]
    #[ignore = "needs root"]
    fn owner_and_set_user_id_survive() {
        let (_directory, path) = scratch();
        let to = Attributes::new(0o4755, UNPRIVILEGED, 42);
        write(&path.join("file"), b"x", &to, &FileState::Absent).unwrap();
        assert_eq!(access(&path.join("file")), (0o4755, UNPRIVILEGED, 42));
    }

    #[test]
    fn what_is_not_a_plain_file_is_refused_and_left_alone() {
        let (_directory, path) = scratch();
        let at = |name: &str| path.join(name);
        std::fs::write(at("file"), "abc").unwrap();
        let file = FileState::observe(&at("file")).unwrap();
        symlink("file", at("link")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, at("fifo"), Mode::from_raw_mode(0o600)).unwrap();
        std::fs::create_dir(at("directory")).unwrap();
        for name in ["link", "fifo", "directory"] {
            assert_eq!(kind(write(&at(name), b"x", &mine(0o600), &file)), "refused", "{name}");
            assert_eq!(kind(write(&at(name), b"x", &mine(0o600), &FileState::Absent)), "refused", "{name}");
        }
        std::fs::hard_link(at("file"), at("second")).unwrap();
        assert_eq!(kind(write(&at("file"), b"x", &mine(0o600), &file)), "refused");
        assert_eq!(std::fs::read(at("second")).unwrap(), b"abc");
        assert_eq!(names(&path), ["directory", "fifo", "file", "link", "second"]);
    }

    #[test]
    fn a_link_that_was_expected_is_replaced_itself() {
        let (_directory, path) = scratch();
        std::fs::write(path.join("file"), "abc").unwrap();
        symlink("file", path.join("link")).unwrap();
        let link = FileState::observe(&path.join("link")).unwrap();
        let state = write(&path.join("link"), b"x", &mine(0o600), &link).unwrap();
        assert_eq!(state, FileState::observe(&path.join("link")).unwrap());
        assert_eq!(std::fs::read(path.join("file")).unwrap(), b"abc");
    }

    #[test]
    fn a_change_from_outside_is_never_overwritten() {
        let (_directory, path) = scratch();
        let file = path.join("file");
        let seen = write(&file, b"one", &mine(0o600), &FileState::Absent).unwrap();
        std::fs::write(&file, "two").unwrap();
        assert_eq!(kind(write(&file, b"x", &mine(0o600), &seen)), "conflict");
        assert_eq!(kind(write(&file, b"x", &mine(0o600), &FileState::Absent)), "conflict");

        let seen = FileState::observe(&file).unwrap();
        assert_eq!(kind(write_while_meddling(&file, &file, &seen)), "conflict");
        let new = path.join("new");
        assert_eq!(kind(write_while_meddling(&new, &new, &FileState::Absent)), "conflict");
        assert_eq!(std::fs::read(&file).unwrap(), b"three");
        assert_eq!(names(&path), ["file", "new"]);
    }

    #[test]
    fn wrong_bytes_never_take_the_name_and_a_leftover_is_no_hindrance() {
        let (_directory, path) = scratch();
        std::fs::write(path.join(".kkrun-test"), "left").unwrap();
        std::fs::write(path.join("from"), "abc").unwrap();
        let from = File::open(path.join("from")).unwrap();
        std::fs::remove_file(path.join("from")).unwrap();
        let contents = Contents::File { from: &from, sha256: Some(Digest::of(b"abd")) };
        let file = path.join("file");
        assert_eq!(kind(replace(&file, contents, &mine(0o600), &FileState::Absent, "test")), "damaged");
        assert_eq!(names(&path), [""; 0]);
        assert_eq!(
            kind(replace(&file, Contents::Bytes(b""), &mine(0o600), &FileState::Absent, "../x")),
            "refused"
        );
    }

    #[test]
    #[ignore = "needs root"]
    fn in_a_users_place_the_user_acts_and_root_only_gives_away() {
        let (_directory, path) = unprivileged_directory();
        write(&path.join("own"), b"x", &unprivileged(0o600), &FileState::Absent).unwrap();
        write(&path.join("roots"), b"x", &mine(0o4755), &FileState::Absent).unwrap();
        assert_eq!(access(&path.join("own")), (0o600, UNPRIVILEGED, UNPRIVILEGED));
        assert_eq!(access(&path.join("roots")), (0o4755, 0, 0));
        std::fs::create_dir(path.join("closed")).unwrap();
        write(&path.join("closed/own"), b"x", &unprivileged(0o600), &FileState::Absent).unwrap();
        assert_eq!(access(&path.join("closed/own")), (0o600, UNPRIVILEGED, UNPRIVILEGED));
    }
}
