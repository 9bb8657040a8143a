//! The files below a root directory, as those who live in it see them: paths from there, and owners by their own
//! numbers.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use super::id_range::IdRange;
use super::overlay_difference::attributes;
use super::root::below;

/// A root directory, and which numbers its users have on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootFiles {
    directory: PathBuf,
    users: Option<IdRange>,
}

/// What is at a path, links not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its kind.
    pub kind: SeenKind,
    /// The permission bits.
    pub mode: u32,
    /// The number of its owner.
    pub owner: u32,
    /// The number of its group.
    pub group: u32,
    /// Its size in bytes.
    pub size: u64,
    /// When its content was last written, in nanoseconds since 1970.
    pub modified: i128,
    /// When it came to be, in nanoseconds since 1970, if the file system knows.
    pub born: Option<i128>,
}

/// What a path is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeenKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symlink, with its target.
    Link(PathBuf),
    /// A device, a pipe or a socket.
    Special,
}

impl RootFiles {
    /// The files below `directory`, whose owners have these numbers here.
    pub fn new(directory: &Path, users: Option<IdRange>) -> Self {
        Self { directory: directory.to_owned(), users }
    }

    /// What is at a path; `None` if nothing is.
    ///
    /// # Errors
    /// When the path cannot be looked at.
    pub fn look(&self, path: &Path) -> Result<Option<Seen>> {
        let here = below(&self.directory, path);
        let unseen = || format!("cannot access `{}`", here.display());
        let found = match std::fs::symlink_metadata(&here) {
            Ok(found) => found,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(error).with_context(unseen),
        };
        let kind = if found.is_file() {
            SeenKind::File
        } else if found.is_dir() {
            SeenKind::Directory
        } else if found.is_symlink() {
            SeenKind::Link(std::fs::read_link(&here).with_context(unseen)?)
        } else {
            SeenKind::Special
        };
        let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        let born = statx(CWD, &here, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BTIME)
            .ok()
            .filter(|more| StatxFlags::from_bits_retain(more.stx_mask).contains(StatxFlags::BTIME))
            .map(|more| nanoseconds(more.stx_btime.tv_sec, i64::from(more.stx_btime.tv_nsec)));
        Ok(Some(Seen {
            kind,
            mode: found.mode() & 0o7777,
            owner: self.inside(found.uid()),
            group: self.inside(found.gid()),
            size: found.len(),
            modified: nanoseconds(found.mtime(), found.mtime_nsec()),
            born,
        }))
    }

    /// The bytes of a regular file; `None` if the path is none, or a directory on the way is a symlink: it would be
    /// followed on this machine.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn bytes(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        if !self.is_plain(path) {
            return Ok(None);
        }
        let here = below(&self.directory, path);
        std::fs::read(&here).map(Some).with_context(|| format!("cannot read `{}`", here.display()))
    }

    /// The text of a file; empty if there is none.
    pub fn text(&self, path: &str) -> String {
        let bytes = self.bytes(Path::new(path)).ok().flatten().unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The names in a directory, in their order; none if it is no directory.
    pub fn names(&self, path: &str) -> Vec<String> {
        super::root::file_names(&below(&self.directory, Path::new(path)))
    }

    /// Whether a file is the same as one below another root: the bytes, or without reading them the time of the last
    /// write and the size.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn has_same_bytes(&self, path: &Path, other: &Self) -> Result<bool> {
        const BLOCK: u64 = 64 * 1024;
        let (Some(here), Some(there)) = (self.look(path)?, other.look(path)?) else { return Ok(false) };
        if here.size != there.size {
            return Ok(false);
        }
        if here.modified == there.modified {
            return Ok(true);
        }
        let open = |root: &Self| {
            let path = below(&root.directory, path);
            File::open(&path).with_context(|| format!("cannot open `{}`", path.display()))
        };
        let (mut left, mut right) = (open(self)?, open(other)?);
        let (mut left_block, mut right_block) = (Vec::new(), Vec::new());
        loop {
            left_block.clear();
            right_block.clear();
            let unread = || format!("cannot read `{}`", path.display());
            (&mut left).take(BLOCK).read_to_end(&mut left_block).with_context(unread)?;
            (&mut right).take(BLOCK).read_to_end(&mut right_block).with_context(unread)?;
            if left_block != right_block {
                return Ok(false);
            }
            if left_block.is_empty() {
                return Ok(true);
            }
        }
    }

    /// Whether the extended attributes of what is at a path are the same as below another root.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn has_same_attributes(&self, path: &Path, other: &Self) -> Result<bool> {
        Ok(attributes(&below(&self.directory, path))? == attributes(&below(&other.directory, path))?)
    }

    /// Whether a path is a regular file, and every directory on the way one.
    fn is_plain(&self, path: &Path) -> bool {
        let mut here = self.directory.clone();
        let parts: Vec<_> = path.components().filter(|part| matches!(part, Component::Normal(_))).collect();
        let Some((last, above)) = parts.split_last() else { return false };
        for part in above {
            here.push(part);
            if !super::root::is_directory(&here) {
                return false;
            }
        }
        std::fs::symlink_metadata(here.join(last)).is_ok_and(|found| found.is_file())
    }

    fn inside(&self, number: u32) -> u32 {
        match self.users {
            Some(IdRange { first, count }) if (first..first.saturating_add(count)).contains(&number) => {
                number - first
            }
            _ => number,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_have_the_numbers_of_those_inside() {
        let users = IdRange { first: 65_536, count: 65_536 };
        let root = RootFiles::new(Path::new("/"), Some(users));
        assert_eq!([root.inside(65_536), root.inside(66_536), root.inside(7)], [0, 1000, 7]);
    }

    #[test]
    fn no_file_is_read_through_a_link() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("real")).unwrap();
        std::fs::write(directory.path().join("real/file"), "text").unwrap();
        std::os::unix::fs::symlink("/etc", directory.path().join("etc")).unwrap();
        let root = RootFiles::new(directory.path(), None);
        assert_eq!(root.text("/real/file"), "text");
        assert_eq!(root.bytes(Path::new("/etc/passwd")).unwrap(), None);
        assert!(matches!(root.look(Path::new("/etc")).unwrap().unwrap().kind, SeenKind::Link(_)));
        assert_eq!(root.look(Path::new("/nothing")).unwrap(), None);
    }

    #[test]
    fn files_are_compared_by_their_bytes() {
        let [one, other] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        for (directory, text, seconds) in [(&one, "ab", 1000), (&other, "ac", 2000)] {
            for (name, text) in [("same", "ab"), ("differs", text)] {
                let path = directory.path().join(name);
                std::fs::write(&path, text).unwrap();
                let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
                File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
            }
        }
        let [one, other] = [&one, &other].map(|directory| RootFiles::new(directory.path(), None));
        assert!(one.has_same_bytes(Path::new("/same"), &other).unwrap());
        assert!(!one.has_same_bytes(Path::new("/differs"), &other).unwrap());
    }
}
