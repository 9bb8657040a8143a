//! Writes a file in place: for what cannot be replaced, because something is mounted at its name.
//!
//! The new content is whole beside the file before the first byte of the file is touched. A killed process leaves it
//! there, and [`finish_rewrite`] writes it again: the file is never left half old and half new.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::Result;
use rustix::fs::{
    Mode, OFlags, RenameFlags, fstat, fsync, ftruncate, futimens, openat, renameat_with, unlinkat,
};
use rustix::io::Errno;

use super::content::Contents;
use super::failures::{conflict, failed, failed_io, refused};
use super::file_state::{FileState, look, read_open};
use super::identity::{Identity, field};
use super::metadata::{Attributes, ModifiedAt};
use super::place::{Place, Walk};
use super::replace::{adorn, fill};
use super::temporary::{Checked, Temporary, name_of};
use super::tree_walk::open_beneath;

/// Whether something is mounted at `path` itself.
pub fn is_mounted_upon(path: &Path) -> Result<bool> {
    let walk = Walk::to(path)?;
    let (Some(directory), Some(name)) = (walk.directory(), path.file_name()) else { return Ok(false) };
    Ok(matches!(open_beneath(directory, Path::new(name), OFlags::PATH | OFlags::NOFOLLOW), Err(Errno::XDEV)))
}

/// Writes `bytes` into the file `path`, which must be as `expected`, durably, and returns its state. The file stays the
/// same one; others may read it while only a part is written.
///
/// # Errors
/// As [`super::replace()`].
pub fn rewrite(
    path: &Path,
    bytes: &[u8],
    to: &Attributes,
    expected: &FileState,
    tag: &str,
) -> Result<FileState> {
    let place = Place::open(path)?;
    let checked = Checked::replaceable(&place, expected)?;
    let ready = ready_name(tag)?;
    // As the user in a user's place: the file may be another one by now.
    place.acting(
        |_| true,
        || {
            let (temporary, file) = Temporary::file(&place, tag)?;
            let (file, ..) = fill(file, Contents::Bytes(bytes), &place.path)?;
            if let Some(mtime) = to.mtime {
                set_time(&file, mtime, &place)?;
            }
            fsync(&file).map_err(|errno| failed("write", &place.path, errno))?;
            checked.again(&place)?;
            let directory = place.directory();
            renameat_with(directory, temporary.name(), directory, &ready, RenameFlags::NOREPLACE)
                .map_err(|errno| failed("prepare the new content of", &place.path, errno))?;
            temporary.keep();
            Ok(())
        },
    )?;
    place.sync()?;
    let identity = checked.identity;
    place.acting(
        |_| true,
        || {
            let file = open(&place)?;
            let seen = fstat(&file).map_err(|errno| failed("access", &place.path, errno))?;
            if identity != Some(Identity::of(&seen)) {
                remove_ready(&place, &ready)?;
                return Err(conflict(&place.path, &["it was written again".to_owned()]));
            }
            write_all(file, bytes, Some(to), &place)?;
            remove_ready(&place, &ready)
        },
    )?;
    place.sync()?;
    Ok(look(place.directory(), &place.name, &place.path, &mut super::content::digest_known)?.state)
}

/// Completes what a killed [`rewrite`] left, and returns whether there was anything.
pub fn finish_rewrite(path: &Path, tag: &str, before_it: impl FnOnce() -> Result<()>) -> Result<bool> {
    let ready = ready_name(tag)?;
    let walk = Walk::to(path)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Some(directory) = walk.directory() else { return Ok(false) };
    let left = match openat(directory, &ready, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(false),
        left => File::from(left.map_err(|errno| failed("read what was prepared beside", path, errno))?),
    };
    let place = Place::open(path)?;
    if !matches!(FileState::observe(path)?, FileState::File { .. }) {
        // Something else is there by now, and nothing of it is half written.
        place.acting(|_| true, || remove_ready(&place, &ready))?;
        return Ok(false);
    }
    before_it()?;
    let (bytes, _) = read_open(&left, &place.beside(&ready))?;
    let stat = fstat(&left).map_err(|errno| failed("access", &place.beside(&ready), errno))?;
    let mtime = ModifiedAt { seconds: stat.st_mtime, nanoseconds: field(stat.st_mtime_nsec) };
    place.acting(
        |_| true,
        || {
            let file = open(&place)?;
            write_all(file.try_clone()?, &bytes, None, &place)?;
            // It has the time that the file was to have.
            set_time(&file, mtime, &place)?;
            fsync(&file).map_err(|errno| failed("write", &place.path, errno))?;
            remove_ready(&place, &ready)
        },
    )?;
    place.sync()?;
    Ok(true)
}

fn ready_name(tag: &str) -> Result<OsString> {
    name_of(&format!("{tag}.ready"))
}

fn open(place: &Place) -> Result<File> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = openat(place.directory(), &place.name, flags, Mode::empty())
        .map_err(|errno| failed("write", &place.path, errno))?;
    let stat = fstat(&file).map_err(|errno| failed("access", &place.path, errno))?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile
        || stat.st_nlink > 1
    {
        return Err(refused(&place.path, "is not a regular file with one name"));
    }
    Ok(File::from(file))
}

fn write_all(mut file: File, bytes: &[u8], to: Option<&Attributes>, place: &Place) -> Result<()> {
    file.write_all(bytes).map_err(|error| failed_io("write", &place.path, &error))?;
    ftruncate(&file, bytes.len() as u64).map_err(|errno| failed("write", &place.path, errno))?;
    if let Some(to) = to {
        adorn(&file, to, &place.path)?;
    }
    fsync(&file).map_err(|errno| failed("write", &place.path, errno))
}

fn set_time(file: &File, mtime: ModifiedAt, place: &Place) -> Result<()> {
    futimens(file, &mtime.timestamps()).map_err(|errno| failed("set the time of", &place.path, errno))
}

fn remove_ready(place: &Place, ready: &std::ffi::OsStr) -> Result<()> {
    match unlinkat(place.directory(), ready, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(failed("remove", &place.beside(ready), errno)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::machine::files::testing::*;

    #[test]
    fn a_file_that_is_rewritten_stays_the_same_file() {
        let (_directory, path) = scratch();
        let file = path.join("file");
        std::fs::write(&file, "a longer text").unwrap();
        let before = FileState::observe(&file).unwrap();
        let inode = std::fs::metadata(&file).unwrap().ino();
        let to = Attributes { mtime: None, ..Attributes::from(before.metadata().unwrap()) };
        let after = rewrite(&file, b"short", &to, &before, "test").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"short");
        assert_eq!((std::fs::metadata(&file).unwrap().ino(), names(&path)), (inode, vec!["file".to_owned()]));
        assert_eq!(after, FileState::observe(&file).unwrap());
        assert_eq!(kind(rewrite(&file, b"x", &to, &before, "test")), "conflict");
        assert_eq!(std::fs::read(&file).unwrap(), b"short");
    }

    #[test]
    fn what_a_killed_rewrite_left_is_completed_once() {
        let (_directory, path) = scratch();
        let file = path.join("file");
        std::fs::write(&file, "nex content, torn").unwrap();
        assert!(!finish_rewrite(&file, "test", || Ok(())).unwrap());
        std::fs::write(path.join(".kkrun-test.ready"), "new content").unwrap();
        let mut copied = String::new();
        let copy = || {
            copied = std::fs::read_to_string(&file)?;
            Ok(())
        };
        assert!(finish_rewrite(&file, "test", copy).unwrap());
        assert_eq!(copied, "nex content, torn");
        assert_eq!(std::fs::read(&file).unwrap(), b"new content");
        assert_eq!(names(&path), ["file"]);
        assert!(!finish_rewrite(&file, "test", || Ok(())).unwrap());
    }
}
