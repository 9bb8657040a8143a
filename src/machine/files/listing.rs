//! What is in a tree, by the metadata of each entry, and of a small tree by the contents of its files.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::failures::failed;
use super::manifest::{ROOT, open_root};
use super::path_text::PathText;
use super::place::Walk;
use super::tree_walk::{Next, walk_tree};

/// At most so many files of a tree, and so many bytes in them, are remembered with their contents.
const SMALL_FILES: usize = 1000;
const SMALL_BYTES: u64 = 16 * 1024 * 1024;

/// Kind, size, mode, owner and time of all that is at a path, by the path from there; what is at the path itself is `.`.
///
/// A program that writes to a file can put its time back. The time of its inode cannot be put back, but it says too much: a
/// hard link, a change of mode that is undone, a move or a restored file has another one, with the same content. So a
/// listing of a small tree has that time and a hash of each file ([`Listing::with_contents`]). A later one is compared
/// with it ([`Listing::observe_beside`]): only a file whose inode has another time is read, and its content decides. In a
/// larger tree who puts the time back is not seen.
///
/// A directory only exists or does not, because its time changes with every name in it. So does the index of a git
/// checkout: git writes it again when someone only looks (`git status`), and what it alone knows is which objects are
/// staged, while a staged content is an entry of its own below `objects`. In JSON a map.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Listing(BTreeMap<PathText, String>);

impl Listing {
    /// Lists the tree, file or link at `root`, without contents. No link is followed; what is mounted inside is named but
    /// not entered. An absent one has an empty listing.
    pub fn observe(root: &Path) -> Result<Self> {
        Self::observe_beside(root, &Self::default())
    }

    /// The same, to be compared with `known`: a file that is as there, its content included if that is known, has the same
    /// entry as there.
    pub fn observe_beside(root: &Path, known: &Self) -> Result<Self> {
        let mut listing = Self::default();
        let walk = Walk::to(root)?;
        let Some(above) = walk.directory() else { return Ok(listing) };
        let known_as = |relative: &Path| known.0.get(&PathText::new(relative)).map(String::as_str);
        let Some(seen) = look(above, walk.name(), root, known_as(Path::new(ROOT)))? else {
            return Ok(listing);
        };
        let is_directory = seen == DIRECTORY;
        listing.0.insert(PathText::new(ROOT), seen);
        let Some(directory) = is_directory.then(|| open_root(root)).transpose()?.flatten() else {
            return Ok(listing);
        };
        walk_tree(directory.as_fd(), root, &mut |entry| {
            let seen = if entry.is_mount {
                Some("mount".to_owned())
            } else if entry.relative.ends_with(GIT_INDEX) {
                look(entry.directory, entry.name, entry.shown, None)?.map(|_| "index".to_owned())
            } else {
                look(entry.directory, entry.name, entry.shown, known_as(entry.relative))?
            };
            let is_directory = seen.as_deref() == Some(DIRECTORY);
            if let Some(seen) = seen {
                listing.0.insert(PathText::new(entry.relative), seen);
            }
            Ok(if is_directory { Next::Enter } else { Next::Pass })
        })?;
        Ok(listing)
    }

    /// The same, if it is small, with the contents of its files below `root`.
    pub fn with_contents(mut self, root: &Path) -> Result<Self> {
        let files: Vec<PathText> =
            self.0.iter().filter(|(_, seen)| size_of(seen).is_some()).map(|(path, _)| path.clone()).collect();
        let bytes: u64 = self.0.values().filter_map(|seen| size_of(seen)).sum();
        if files.len() > SMALL_FILES || bytes > SMALL_BYTES {
            return Ok(self);
        }
        for relative in files {
            let path = if relative.as_path() == Path::new(ROOT) {
                root.to_owned()
            } else {
                root.join(relative.as_path())
            };
            let walk = Walk::to(&path)?;
            let Some(directory) = walk.directory() else { continue };
            if let Some(seen) = self.0.get_mut(&relative)
                && !has_content(seen)
                && let Some(content) = content_of(directory, walk.name(), &path, seen)?
            {
                seen.push_str(&content);
            }
        }
        Ok(self)
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it has an entry of this path.
    pub fn has(&self, path: &Path) -> bool {
        self.0.contains_key(&PathText::new(path))
    }

    /// The paths of its entries, from the root.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.keys().map(PathText::as_path)
    }

    /// The entries that are not as in `known`, the outermost ones of those that are not in it at all.
    pub fn beyond<'listing>(&'listing self, known: &Self) -> Vec<&'listing Path> {
        let mut found: BTreeSet<&Path> = BTreeSet::new();
        for (path, seen) in &self.0 {
            let path = path.as_path();
            let is_inner = found.contains(Path::new(ROOT))
                || path.ancestors().skip(1).any(|above| found.contains(above));
            if !is_inner && known.0.get(&PathText::new(path)) != Some(seen) {
                found.insert(path);
            }
        }
        found.into_iter().collect()
    }

    /// The entries that `other` lacks, or has differently.
    pub fn without(&self, other: &Self) -> Self {
        let is_new = |(path, seen): &(&PathText, &String)| other.0.get(*path) != Some(*seen);
        Self(self.0.iter().filter(is_new).map(|(path, seen)| (path.clone(), seen.clone())).collect())
    }

    /// The same without the files of other users than `uid`.
    pub fn of_user(mut self, uid: u32) -> Self {
        self.0.retain(|_, seen| owner_of(seen).is_none_or(|owner| owner == uid));
        self
    }

    /// The same, with what became of each entry, at the hands of `uid` if that is given.
    pub fn as_changed(&self, before: &Self, after: &Self, uid: Option<u32>) -> Self {
        let mut changed = self.0.clone();
        for path in before.0.keys().filter(|path| !after.0.contains_key(*path)) {
            changed.remove(path);
        }
        let new = after.without(before);
        changed.extend(match uid {
            Some(uid) => new.of_user(uid).0,
            None => new.0,
        });
        Self(changed)
    }
}

/// The owner, where it is listed: of files.
fn owner_of(seen: &str) -> Option<u32> {
    let owners = seen.strip_prefix("file ")?.split(' ').nth(2)?;
    owners.split(':').next()?.parse().ok()
}

const DIRECTORY: &str = "directory";
const GIT_INDEX: &str = ".git/index";

/// The size, where it is listed: of files.
fn size_of(seen: &str) -> Option<u64> {
    seen.strip_prefix("file ")?.split(' ').next()?.parse().ok()
}

/// How many fields the metadata of a file has, the kind included.
const METADATA: usize = 5;

fn has_content(seen: &str) -> bool {
    seen.split(' ').count() > METADATA
}

fn metadata_of(stat: &Stat) -> String {
    format!(
        "file {} {:04o} {}:{} {}.{:09}",
        stat.st_size,
        stat.st_mode & 0o7777,
        stat.st_uid,
        stat.st_gid,
        stat.st_mtime,
        stat.st_mtime_nsec
    )
}

/// In place of the time of an inode that changed right before: what changes it next may leave it the same time, because the
/// kernel's clock for it goes in steps.
const RECENT: &str = "recent";
/// Longer than such a step.
const STEP: Duration = Duration::from_millis(50);

fn inode_time(stat: &Stat) -> String {
    let time = u64::try_from(stat.st_ctime).ok().and_then(|seconds| {
        let nanoseconds = u32::try_from(stat.st_ctime_nsec).ok()?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds))
    });
    let is_past = time.is_some_and(|time| time.elapsed().is_ok_and(|since| since > STEP));
    if is_past { format!("{}.{:09}", stat.st_ctime, stat.st_ctime_nsec) } else { RECENT.to_owned() }
}

/// The time of the inode and a hash of the content, as an entry goes on with them; `None` if what is there is not the file
/// with this metadata, or cannot be read.
fn content_of(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    shown: &Path,
    metadata: &str,
) -> Result<Option<String>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(directory, name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::ACCESS) => return Ok(None),
        Err(errno) => return Err(failed("read", shown, errno)),
    };
    let stat = fstat(&file).map_err(|errno| failed("access", shown, errno))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || metadata_of(&stat) != metadata {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let read = (&file).take(SMALL_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|error| failed("read", shown, Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
    Ok(Some(format!(" {} {}", inode_time(&stat), Digest::of(&bytes))))
}

/// An entry as a string that is the same as long as the entry is; `None` if it is absent.
fn look(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    shown: &Path,
    known: Option<&str>,
) -> Result<Option<String>> {
    let stat = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(errno) => return Err(failed("access", shown, errno)),
    };
    Ok(Some(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => DIRECTORY.to_owned(),
        FileType::RegularFile => beside(directory, name, shown, &stat, known)?,
        FileType::Symlink => {
            let to = readlinkat(directory, name, Vec::new())
                .map_err(|errno| failed("read the link", shown, errno))?;
            match OsStr::from_bytes(to.to_bytes()).to_str() {
                Some(text) => format!("link {text}"),
                None => format!("link hex {}", hex::encode(to.to_bytes())),
            }
        }
        other => format!("{other:?}").to_lowercase(),
    }))
}

/// The entry of a file: the known one if the file is as there.
fn beside(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    shown: &Path,
    stat: &Stat,
    known: Option<&str>,
) -> Result<String> {
    let metadata = metadata_of(stat);
    let Some((then, hash)) = known
        .and_then(|known| known.strip_prefix(metadata.as_str())?.strip_prefix(' '))
        .and_then(|content| content.split_once(' '))
    else {
        return Ok(metadata);
    };
    let is_same = then != RECENT && then == inode_time(stat);
    let content = if is_same { None } else { content_of(directory, name, shown, &metadata)? };
    Ok(match content {
        Some(content) if !content.ends_with(hash) => format!("{metadata}{content}"),
        _ => format!("{metadata} {then} {hash}"),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::machine::files::testing::*;

    #[test]
    fn what_was_added_or_written_is_listed_and_what_was_removed_is_not() {
        let (_directory, path) = scratch();
        let at = |name: &str| path.join(name);
        std::fs::create_dir_all(at("a/b")).unwrap();
        for name in ["a/one", "a/b/two", "gone"] {
            std::fs::write(at(name), "1").unwrap();
        }
        symlink("one", at("link")).unwrap();
        let known = Listing::observe(&path).unwrap();
        let text = serde_json::to_string(&known).unwrap();
        assert_eq!(serde_json::from_str::<Listing>(&text).unwrap(), known);
        assert!(known.beyond(&known).is_empty() && known.without(&known).is_empty());

        std::fs::remove_file(at("gone")).unwrap();
        std::fs::remove_file(at("link")).unwrap();
        symlink("two", at("link")).unwrap();
        std::fs::write(at("a/one"), "2").unwrap();
        std::fs::create_dir_all(at("new/inner")).unwrap();
        let now = Listing::observe(&path).unwrap();
        let beyond = ["a/one", "link", "new"].map(Path::new);
        assert_eq!(now.beyond(&known), beyond);
        assert!(now.beyond(&known.as_changed(&known, &now, None)).is_empty());
        assert_eq!(known.as_changed(&known, &now, None), now);
        assert_eq!(now.beyond(&Listing::default()), [Path::new(".")]);
        let uid = rustix::process::geteuid().as_raw();
        assert_eq!(now.clone().of_user(uid), now);
        assert_eq!(now.beyond(&now.clone().of_user(uid + 1)), ["a/b/two", "a/one"].map(Path::new));
        assert_eq!(Listing::observe(&at("a/one")).unwrap().0.len(), 1);
        assert!(Listing::observe(&at("none/below")).unwrap().is_empty());
    }

    #[test]
    fn a_file_with_another_content_is_seen_though_its_size_and_time_are_the_same() {
        let (_directory, path) = scratch();
        let (tree, file) = (path.join("tree"), path.join("tree/file"));
        std::fs::create_dir(&tree).unwrap();
        std::fs::write(&file, "abc").unwrap();
        let known = Listing::observe(&tree).unwrap().with_contents(&tree).unwrap();
        let now = || Listing::observe_beside(&tree, &known).unwrap();
        assert_eq!(now(), known);
        // Another name and a mode that is put back change the time of the inode alone.
        std::fs::hard_link(&file, path.join("name")).unwrap();
        std::fs::remove_file(path.join("name")).unwrap();
        assert_eq!(now(), known);
        let time = std::fs::metadata(&file).unwrap().modified().unwrap();
        let put_back = |text: &str| {
            std::fs::write(&file, text).unwrap();
            let opened = File::options().write(true).open(&file).unwrap();
            opened.set_modified(time).unwrap();
        };
        put_back("xyz");
        assert_eq!(now().beyond(&known), [Path::new("file")]);
        assert!(now().without(&known).with_contents(&tree).unwrap() == now().without(&known));
        put_back("abc");
        assert_eq!(now(), known);
        std::fs::write(&file, "longer").unwrap();
        assert_eq!(now().beyond(&known), [Path::new("file")]);
    }

    #[test]
    fn of_a_large_tree_no_file_is_read() {
        let (_directory, path) = scratch();
        for number in 0..=SMALL_FILES {
            std::fs::write(path.join(number.to_string()), "1").unwrap();
        }
        let listing = Listing::observe(&path).unwrap();
        assert_eq!(listing.clone().with_contents(&path).unwrap(), listing);
        std::fs::remove_file(path.join("0")).unwrap();
        let listing = Listing::observe(&path).unwrap();
        assert_ne!(listing.clone().with_contents(&path).unwrap(), listing);
    }
}
