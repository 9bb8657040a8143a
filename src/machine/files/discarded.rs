//! A tree that is thrown away, such as what a captured command left: what is desired of it is moved to its place instead of
//! copied. A rename takes a file as it is, with its content and all its attributes, and leaves nothing to be removed.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::Result;
use rustix::fs::{
    AtFlags, FileType, OFlags, RenameFlags, Stat, StatxFlags, flistxattr, flistxattr_query, fremovexattr,
    fstat, futimens, llistxattr, llistxattr_query, lremovexattr, renameat_with, statat, statx, unlinkat,
};
use rustix::io::Errno;

use super::failures::{conflict, failed};
use super::file_state::FileState;
use super::flags;
use super::manifest::{Manifest, ROOT, TreeFiles};
use super::metadata::{Metadata, ModifiedAt};
use super::place::Place;
use super::remove_tree::remove_at;
use super::tree_walk::{Next, open_beneath, walk_tree};

/// The marks that the kernel gives what is in the upper side of an overlay, of root and of users. Source: overlayfs.rst.
const MARKS: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

/// The longest list of names that Linux knows (`XATTR_LIST_MAX` in limits.h), in bytes.
const LONGEST: usize = 65536;

/// A tree that is thrown away. Nothing writes to it any more.
pub struct Discarded {
    files: TreeFiles,
    older: OwnedFd,
}

impl Discarded {
    /// Opens the tree at `root`. `older` is a directory of the same file system, opened before anything was written in the
    /// tree: a sync by it reports an error of a write that the kernel did meanwhile.
    pub fn open(root: &Path, older: OwnedFd) -> Result<Self> {
        Ok(Self { files: TreeFiles::open(root)?, older })
    }

    /// Its files, to be read.
    pub fn files(&self) -> &TreeFiles {
        &self.files
    }

    pub(super) fn older(&self) -> BorrowedFd<'_> {
        self.older.as_fd()
    }

    /// Whether it is in the file system of this directory.
    pub(super) fn is_beside(&self, directory: BorrowedFd<'_>) -> bool {
        let device = |of: BorrowedFd<'_>| fstat(of).map(|found| found.st_dev).ok();
        device(directory).is_some_and(|there| device(self.files.root()) == Some(there))
    }

    /// The directory of an entry, if entries of it can be moved into the directory of `place` and are there as new ones
    /// would be.
    pub(super) fn directory_for(&self, relative: &Path, place: &Place) -> Option<OwnedFd> {
        let above = relative.parent().filter(|above| !above.as_os_str().is_empty());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let above = open_beneath(self.files.root(), above.unwrap_or(Path::new(ROOT)), flags).ok()?;
        let can_move =
            is_one_mount(above.as_fd(), place.directory()) && !flags::are_inherited(place.directory());
        can_move.then_some(above)
    }

    /// Makes the directory at `relative` ready to be `live`: what is not desired of it is removed, and so are the marks of
    /// an overlay. None if it cannot be moved, or is not as desired then.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn ready(&self, relative: &Path, live: &Path, desired: &Manifest) -> Result<Option<Ready>> {
        let place = Place::open(live)?;
        let Some(above) = self.directory_for(relative, &place) else { return Ok(None) };
        let Some(name) = relative.file_name() else { return Ok(None) };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let Ok(tree) = open_beneath(above.as_fd(), Path::new(name), flags) else { return Ok(None) };
        let shown = self.files.path().join(relative);
        let unread = |errno| failed("access", &shown, errno);
        let root = statat(above.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW).map_err(unread)?;
        let is_ready = remove_marks(tree.as_fd()).is_ok()
            && is_as(&root, desired.root())
            && prune(tree.as_fd(), &shown, desired)?;
        Ok(is_ready.then(|| Ready { relative: relative.to_owned(), live: live.to_owned() }))
    }

    /// Gives a directory that is ready, and was synced, its place; false if the kernel cannot move it. Nothing may be there.
    /// The names are not synced.
    ///
    /// # Errors
    /// `conflict` when something appeared there.
    pub(super) fn give(&self, ready: &Ready) -> Result<bool> {
        let place = Place::open(&ready.live)?;
        let (Some(above), Some(name)) =
            (self.directory_for(&ready.relative, &place), ready.relative.file_name())
        else {
            return Ok(false);
        };
        match renameat_with(above, name, place.directory(), &place.name, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => {
                let there = FileState::observe(&ready.live)?;
                Err(conflict(&place.path, &FileState::Absent.differences(&there)))
            }
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::PERM) => Ok(false),
            Err(errno) => Err(failed("move what was made to", &place.path, errno)),
        }
    }
}

/// A directory that can be moved to its place once it is synced.
pub(super) struct Ready {
    /// Where it is in its tree.
    pub(super) relative: PathBuf,
    /// Its place.
    pub(super) live: PathBuf,
}

/// Whether two directories are of one mount, between the directories of which the kernel renames.
fn is_one_mount(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    let mount = |directory: BorrowedFd<'_>| {
        let found =
            statx(directory, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID).ok()?;
        let is_known = found.stx_mask & StatxFlags::MNT_ID.bits() != 0;
        is_known.then_some((found.stx_dev_major, found.stx_dev_minor, found.stx_mnt_id))
    };
    mount(one).is_some_and(|mounted| mount(other) == Some(mounted))
}

/// Removes the marks of an overlay from an open file or directory. A command may have set those of users itself: kkrun keeps
/// none of them.
pub(super) fn remove_marks(file: BorrowedFd<'_>) -> rustix::io::Result<()> {
    remove_marks_by(
        || flistxattr_query(file),
        |names| flistxattr(file, names),
        |name| fremovexattr(file, name),
    )
}

/// The same of an entry of a directory that only root can enter: no call opens a link, or lists the attributes of a name in
/// an open directory.
fn remove_marks_at(directory: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<()> {
    let path = &Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    remove_marks_by(
        || llistxattr_query(path),
        |names| llistxattr(path, names),
        |name| lremovexattr(path, name),
    )
}

fn remove_marks_by(
    query: impl FnOnce() -> rustix::io::Result<usize>,
    list: impl FnOnce(&mut [u8]) -> rustix::io::Result<usize>,
    remove: impl Fn(&[u8]) -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    match query() {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(()),
        Ok(_) => {}
        Err(errno) => return Err(errno),
    }
    let mut names = vec![0; LONGEST];
    let length = list(&mut names)?;
    let is_mark = |name: &&[u8]| MARKS.iter().any(|mark| name.starts_with(mark));
    names[..length].split(|byte| *byte == 0).filter(is_mark).try_for_each(remove)
}

/// Whether the name in a directory is the only one of a regular file of this size.
pub(super) fn is_file_alone(directory: BorrowedFd<'_>, name: &OsStr, size: u64) -> bool {
    statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|found| {
        FileType::from_raw_mode(found.st_mode) == FileType::RegularFile
            && found.st_nlink == 1
            && u64::try_from(found.st_size) == Ok(size)
    })
}

/// Removes what is not desired of a tree, and the marks of an overlay from what is. False if something desired is missing
/// or has another name, content or access than desired, as far as that is seen without reading it.
fn prune(tree: BorrowedFd<'_>, shown: &Path, desired: &Manifest) -> Result<bool> {
    let (mut is_whole, mut found) = (true, 0);
    let mut dated: BTreeSet<PathBuf> = BTreeSet::new();
    let mut names: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    walk_tree(tree, shown, &mut |entry| {
        let Some(state) = desired.get(entry.relative) else {
            is_whole &= !entry.is_mount;
            if is_whole {
                dated.insert(entry.relative.parent().map(Path::to_owned).unwrap_or_default());
                discard(entry.directory, entry.name, entry.shown)?;
            }
            return Ok(Next::Pass);
        };
        let stat = statat(entry.directory, entry.name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| failed("access", entry.shown, errno))?;
        found += 1;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::RegularFile && stat.st_nlink > 1 {
            names.entry(stat.st_ino).or_insert((0, super::identity::field(stat.st_nlink))).0 += 1;
        }
        is_whole &=
            !entry.is_mount && is_as(&stat, state) && remove_marks_at(entry.directory, entry.name).is_ok();
        let is_entered = is_whole && kind == FileType::Directory;
        Ok(if is_entered { Next::Enter } else { Next::Pass })
    })?;
    // A file with a name outside would be changed with that one.
    let is_whole =
        is_whole && found == desired.below().count() && names.values().all(|(found, links)| found == links);
    if is_whole {
        for directory in dated {
            date(tree, &directory, shown, desired)?;
        }
    }
    Ok(is_whole)
}

fn discard(directory: BorrowedFd<'_>, name: &OsStr, shown: &Path) -> Result<()> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => remove_at(directory, name, shown, None),
        Err(errno) => Err(failed("remove", shown, errno)),
    }
}

/// Gives a directory the time that it had before something in it was removed.
fn date(tree: BorrowedFd<'_>, relative: &Path, shown: &Path, desired: &Manifest) -> Result<()> {
    let relative = if relative.as_os_str().is_empty() { Path::new(ROOT) } else { relative };
    let Some(FileState::Directory { metadata }) = desired.get(relative) else { return Ok(()) };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let dated = open_beneath(tree, relative, flags)
        .and_then(|directory| futimens(directory, &metadata.mtime.timestamps()));
    dated.map_err(|errno| failed("set the time of", &shown.join(relative), errno))
}

/// Whether an entry is as desired, as far as its inode shows. Its content and attributes were observed before.
pub(super) fn is_as(stat: &Stat, desired: &FileState) -> bool {
    let is_with = |metadata: &Metadata| {
        (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid) == (metadata.mode, metadata.owner, metadata.group)
            && ModifiedAt::of(stat) == metadata.mtime
    };
    match (FileType::from_raw_mode(stat.st_mode), desired) {
        (FileType::RegularFile, FileState::File { size, metadata, .. }) => {
            u64::try_from(stat.st_size) == Ok(*size) && is_with(metadata)
        }
        (FileType::Directory, FileState::Directory { metadata }) => is_with(metadata),
        (FileType::Symlink, FileState::Link { owner, group, .. }) => {
            (stat.st_uid, stat.st_gid) == (*owner, *group)
        }
        (FileType::RegularFile, FileState::SameFile { .. }) => stat.st_nlink > 1,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use rustix::fs::{XattrFlags, setxattr};

    use super::*;
    use crate::machine::files::testing::*;
    use crate::machine::files::{Times, converge_tree_from};

    fn open(left: &Path) -> Discarded {
        Discarded::open(left, std::fs::File::open(left).unwrap().into()).unwrap()
    }

    fn marked(path: &Path, name: &str) {
        setxattr(path, name, b"y", XattrFlags::empty()).unwrap();
    }

    #[test]
    fn what_is_desired_is_moved_without_marks_and_the_rest_stays_out() {
        let (_directory, path) = scratch();
        let (live, left) = (path.join("live"), path.join("left"));
        for directory in [live.join("d"), left.join("d"), left.join("made/deep"), left.join("split")] {
            std::fs::create_dir_all(directory).unwrap();
        }
        std::fs::write(live.join("d/kept"), "kept").unwrap();
        for number in 0..40 {
            std::fs::write(live.join(format!("d/old-{number}")), "old").unwrap();
            std::fs::write(left.join(format!("d/old-{number}")), "new").unwrap();
            std::fs::write(left.join(format!("d/new-{number}")), number.to_string()).unwrap();
        }
        for name in ["made/deep/file", "made/junk", "made/one", "split/one"] {
            std::fs::write(left.join(name), name).unwrap();
        }
        symlink("nowhere", left.join("made/link")).unwrap();
        std::fs::hard_link(left.join("made/one"), left.join("made/two")).unwrap();
        std::fs::hard_link(left.join("split/one"), left.join("d/outside")).unwrap();
        marked(&left.join("made"), "user.overlay.opaque");
        marked(&left.join("d/new-0"), "user.overlay.origin");
        marked(&left.join("d/new-0"), "user.note");
        let before = Manifest::observe(&live).unwrap();
        let mut goal = Manifest::observe(&left).unwrap();
        goal.insert("d/kept", before.get("d/kept").unwrap().clone());
        goal.set("made/junk", FileState::Absent);
        let inode = |root: &Path, name: &str| std::fs::symlink_metadata(root.join(name)).unwrap().ino();
        let moved = ["d/new-0", "d/new-7", "d/old-7", "made", "made/deep/file", "made/one"];
        let inodes = moved.map(|name| inode(&left, name));

        converge_tree_from(&live, &before, &goal, Times::Follow, "test", &open(&left)).unwrap();
        assert_eq!(Manifest::observe(&live).unwrap(), goal);
        assert_eq!(moved.map(|name| inode(&live, name)), inodes);
        assert_eq!(inode(&live, "split/one"), inode(&live, "d/outside"));
        assert_eq!(std::fs::metadata(live.join("split/one")).unwrap().nlink(), 2);
        for (name, expected) in [("made", ""), ("d/new-0", "user.note\0")] {
            let mut names = [0; 64];
            let length = llistxattr(live.join(name), &mut names[..]).unwrap();
            assert_eq!(std::str::from_utf8(&names[..length]).unwrap(), expected);
        }
    }

    #[test]
    fn what_appears_at_the_last_moment_stays() {
        let (_directory, path) = scratch();
        let (live, left) = (path.join("live"), path.join("left"));
        std::fs::create_dir_all(left.join("made")).unwrap();
        std::fs::create_dir(&live).unwrap();
        let goal = Manifest::observe(&left).unwrap().below_path(Path::new("made"));
        let from = open(&left);
        let ready = from.ready(Path::new("made"), &live.join("made"), &goal).unwrap().unwrap();
        std::fs::write(live.join("made"), "theirs").unwrap();
        assert_eq!(kind(from.give(&ready)), "conflict");
        assert_eq!(std::fs::read_to_string(live.join("made")).unwrap(), "theirs");
        assert_eq!(names(&left), ["made"]);
    }

    #[test]
    fn what_is_not_as_desired_is_not_moved() {
        let (_directory, path) = scratch();
        let left = path.join("left");
        std::fs::create_dir_all(left.join("made")).unwrap();
        std::fs::write(left.join("made/one"), "1").unwrap();
        let is_ready = |goal: &Manifest| {
            let goal = goal.below_path(Path::new("made"));
            open(&left).ready(Path::new("made"), &path.join("made"), &goal).unwrap().is_some()
        };
        let goal = Manifest::observe(&left).unwrap();
        assert!(is_ready(&goal));
        let mut other = goal.clone();
        other.insert_file("made/one", b"1", &mine(0o600));
        assert!(!is_ready(&other));
        let mut more = goal.clone();
        more.insert_file("made/two", b"2", &mine(0o600));
        assert!(!is_ready(&more));
        std::fs::write(left.join("made/one"), "longer").unwrap();
        assert!(!is_ready(&goal));
    }

    #[test]
    #[ignore = "needs a file system with file flags, such as ext4 or xfs"]
    fn into_a_directory_that_gives_flags_nothing_is_moved() {
        let (_directory, path) = scratch();
        let (live, left) = (path.join("live"), path.join("left"));
        std::fs::create_dir_all(left.join("made")).unwrap();
        std::fs::create_dir(&live).unwrap();
        let goal = Manifest::observe(&left).unwrap().below_path(Path::new("made"));
        let opened = std::fs::File::open(&live).unwrap();
        let from = open(&left);
        let is_ready = || from.ready(Path::new("made"), &live.join("made"), &goal).unwrap().is_some();
        assert!(is_ready());
        super::super::Flags::try_from("d".to_owned()).unwrap().give(&opened, &live).unwrap();
        assert!(!is_ready());
    }
}
