//! Prepares a whole tree beside its target.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::Result;
use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, Uid, chownat, fsync, linkat, mkdirat, openat, symlinkat, syncfs,
};

use super::content::Content;
use super::failures::{failed, refused};
use super::file_state::FileState;
use super::known::Written;
use super::link::date_link;
use super::manifest::Manifest;
use super::metadata::{Attributes, Metadata};
use super::place::Place;
use super::replace::{adorn, fill};
use super::temporary::Temporary;
use super::together::SYNCED_SINGLY;
use super::tree_walk::open_beneath;

/// Gives the content of the file at a path from the root of a tree.
pub type OpenFile<'source> = dyn FnMut(&Path) -> Result<Content<'source>> + 'source;

/// Builds the tree `desired` durably under `.kkrun-<tag>` beside `live`, and gives back the path of what it
/// built, for [`exchange_tree`](super::exchange_tree()). `open` gives the content of each file, which must have the desired
/// digest.
///
/// Root builds it, even below a directory of a user: the tree belongs to root and is closed to all others until the
/// last step, when its root directory gets its attributes. After an error nothing is left.
///
/// # Errors
/// As [`super::replace()`]; `refused` when the manifest holds something that cannot be made.
pub fn build_tree(live: &Path, tag: &str, desired: &Manifest, open: &mut OpenFile<'_>) -> Result<PathBuf> {
    let place = Place::open(live)?;
    let FileState::Directory { metadata: root } = desired.root() else {
        return Err(refused(live, "cannot become a tree without a root directory"));
    };
    let (temporary, top) = Temporary::directory(&place, tag)?;
    let singly = desired.entries().count() <= SYNCED_SINGLY;
    let mut directories = BTreeMap::new();
    for (relative, state) in desired.below() {
        let shown = live.join(relative);
        let (above, name) = above(top.as_fd(), relative, &shown)?;
        let above = above.as_ref().map_or(top.as_fd(), |above| above.as_fd());
        match state {
            FileState::Directory { metadata } => {
                mkdirat(above, name, Mode::from_raw_mode(0o700))
                    .map_err(|errno| failed("create the directory", &shown, errno))?;
                directories.insert(relative, metadata);
            }
            FileState::File { sha256, metadata, .. } => {
                let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = openat(above, name, flags, Mode::from_raw_mode(0o600))
                    .map_err(|errno| failed("create", &shown, errno))?;
                let content = open(relative)?;
                let (file, ..) = fill(file, content.as_contents(*sha256, &shown)?, &shown)?;
                adorn(&file, &Attributes::from(metadata), &shown)?;
                // No one else can enter the tree yet, and the rename that gives it its name changes no file in it.
                if let Some(written) = Written::completely(&file) {
                    written.remember(&file, *sha256);
                }
                if singly {
                    fsync(&file).map_err(|errno| failed("write", &shown, errno))?;
                }
            }
            FileState::SameFile { of } => {
                linkat(&top, of.as_path(), above, name, AtFlags::empty())
                    .map_err(|errno| failed("create the hard link", &shown, errno))?;
            }
            FileState::Link { to, owner, group, mtime } => {
                symlinkat(to.as_path(), above, name)
                    .map_err(|errno| failed("create the link", &shown, errno))?;
                let (owner, group) = (Uid::from_raw(*owner), Gid::from_raw(*group));
                chownat(above, name, Some(owner), Some(group), AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|errno| failed("change the owner of", &shown, errno))?;
                date_link(above, name, *mtime, &shown)?;
            }
            FileState::Absent | FileState::Special { .. } => {
                return Err(refused(&shown, &format!("is {}, which kkrun cannot create", state.kind_name())));
            }
        }
    }
    // A directory's time changes with every name in it, and its mode may lock out its creator: so directories come
    // last, inner ones first, the root at the very end.
    for (relative, metadata) in directories.into_iter().rev() {
        let shown = live.join(relative);
        let directory = open_beneath(top.as_fd(), relative, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(|errno| failed("open the directory", &shown, errno))?;
        finish(&directory, metadata, singly, &shown)?;
    }
    if !singly {
        syncfs(&top).map_err(|errno| failed("sync the file system of", live, errno))?;
    }
    finish(&top, root, true, live)?;
    let built = place.beside(temporary.name());
    temporary.keep();
    place.sync()?;
    Ok(built)
}

fn finish(directory: &OwnedFd, metadata: &Metadata, sync: bool, shown: &Path) -> Result<()> {
    adorn(directory, &Attributes::from(metadata), shown)?;
    if sync {
        fsync(directory).map_err(|errno| failed("sync the directory", shown, errno))?;
    }
    Ok(())
}

/// The directory in the tree that holds `relative`, if it is not the root, and the name there.
fn above<'path>(
    top: BorrowedFd<'_>,
    relative: &'path Path,
    shown: &Path,
) -> Result<(Option<OwnedFd>, &'path OsStr)> {
    let Some(name) = relative.file_name() else {
        return Err(refused(relative, "is not a path inside a tree"));
    };
    let above = match relative.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            Some(
                open_beneath(top, parent, flags)
                    .map_err(|errno| failed("open the directory of", shown, errno))?,
            )
        }
        _ => None,
    };
    Ok((above, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::files::testing::*;
    use crate::machine::files::{ModifiedAt, Ownership, TreeFiles, exchange_tree, identity, remove_tree};

    fn source(path: &Path) -> PathBuf {
        let from = path.join("from");
        std::fs::create_dir_all(from.join("a/deep")).unwrap();
        std::fs::create_dir(from.join("!first")).unwrap();
        std::fs::write(from.join("a/deep/file"), "abc").unwrap();
        std::fs::write(from.join("a/empty"), "").unwrap();
        std::os::unix::fs::symlink("../nowhere", from.join("a/link")).unwrap();
        from
    }

    fn build(live: &Path, from: &Path, desired: &Manifest) -> Result<PathBuf> {
        let files = TreeFiles::open(from)?;
        build_tree(live, "test", desired, &mut |relative| Ok(Content::File(files.file(relative)?)))
    }

    #[test]
    fn a_copy_equals_its_manifest_times_included() {
        let (_directory, path) = scratch();
        let from = source(&path);
        let desired = Manifest::observe(&from)
            .unwrap()
            .owned(&Ownership { file_mode: Some(0o444), directory_mode: Some(0o555), ..Ownership::default() })
            .dated(ModifiedAt { seconds: 1_000_000_000, nanoseconds: 1 });
        let live = path.join("live");
        let built = build(&live, &from, &desired).unwrap();
        assert_eq!(Manifest::observe(&built).unwrap(), desired);
        exchange_tree(&built, &live).unwrap();
        assert_eq!(Manifest::observe(&live).unwrap(), desired);
        assert_eq!(names(&path), ["from", "live"]);

        // Again, over the one that lives now; the old one is what was built then.
        let second = Manifest::observe(&from).unwrap();
        let built = build(&live, &from, &second).unwrap();
        exchange_tree(&built, &live).unwrap();
        assert_eq!(Manifest::observe(&live).unwrap(), second);
        let old = identity(&built).unwrap().unwrap();
        remove_tree(&built, Some(old)).unwrap();
        assert_eq!(names(&path), ["from", "live"]);
    }

    #[test]
    fn many_files_are_built_too() {
        let (_directory, path) = scratch();
        let mut desired = Manifest::default();
        desired.insert_directory(".", &mine(0o755));
        for number in 0..200 {
            desired.insert_file(format!("file-{number}"), b"abc", &mine(0o644));
        }
        let built =
            build_tree(&path.join("live"), "test", &desired, &mut |_| Ok(Content::Bytes(b"abc".into())))
                .unwrap();
        assert!(Manifest::observe(&built).unwrap().same_as(&desired));
    }

    #[test]
    fn after_an_error_nothing_is_left() {
        let (_directory, path) = scratch();
        let from = source(&path);
        let desired = Manifest::observe(&from).unwrap();
        std::fs::write(from.join("a/deep/file"), "abd").unwrap();
        assert_eq!(kind(build(&path.join("live"), &from, &desired)), "damaged");
        assert_eq!(names(&path), ["from"]);
        std::fs::write(from.join("a/deep/file"), "abc").unwrap();
        let mut impossible = desired.clone();
        impossible.insert("fifo", FileState::Special { what: super::super::SpecialKind::Fifo });
        assert_eq!(kind(build(&path.join("live"), &from, &impossible)), "refused");
        let mut outside = desired;
        outside.insert_file("../outside", b"", &mine(0o644));
        assert!(build(&path.join("live"), &from, &outside).is_err());
        assert_eq!(names(&path), ["from"]);
    }

    #[test]
    #[ignore = "needs root"]
    fn a_tree_in_a_users_place_gets_its_owner() {
        let (_directory, path) = unprivileged_directory();
        let from = source(&path);
        let desired = Manifest::observe(&from).unwrap().owned(&Ownership {
            owner: Some(UNPRIVILEGED),
            group: Some(42),
            ..Ownership::default()
        });
        let built = build(&path.join("live"), &from, &desired).unwrap();
        assert_eq!(Manifest::observe(&built).unwrap(), desired);
        assert_eq!(access(&built.join("a/link")).1, UNPRIVILEGED);
    }
}
