//! What is in a tree, by the metadata of each entry: no file is read.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::Result;
use rustix::fs::{AtFlags, FileType, readlinkat, statat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::failures::failed;
use super::manifest::{ROOT, open_root};
use super::path_text::PathText;
use super::place::Walk;
use super::tree_walk::{Next, walk_tree};

/// Kind, size, mode, owner and time of all that is at a path, by the path from there; what is at the path itself is `.`.
///
/// Two listings of a file are equal as long as it is not written to: its time has nanoseconds. Who puts that time back
/// is not seen: the time of the inode would show it, but a file that kkrun restored has another one, too. A directory
/// only exists or does not, because its time changes with every name in it. So does the index of a git checkout: git
/// writes it again when someone only looks (`git status`), and what it alone knows is which objects are staged, while
/// a staged content is an entry of its own below `objects`. In JSON a map.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Listing(BTreeMap<PathText, String>);

impl Listing {
    /// Lists the tree, file or link at `root`. No link is followed; what is mounted inside is named but not entered. An
    /// absent one has an empty listing.
    pub fn observe(root: &Path) -> Result<Self> {
        let mut listing = Self::default();
        let walk = Walk::to(root)?;
        let Some(above) = walk.directory() else { return Ok(listing) };
        let Some(seen) = look(above, walk.name(), root)? else { return Ok(listing) };
        let is_directory = seen == DIRECTORY;
        listing.0.insert(PathText::new(ROOT), seen);
        let Some(directory) = is_directory.then(|| open_root(root)).transpose()?.flatten() else {
            return Ok(listing);
        };
        walk_tree(directory.as_fd(), root, &mut |entry| {
            let seen = if entry.is_mount {
                Some("mount".to_owned())
            } else {
                look(entry.directory, entry.name, entry.shown)?
                    .map(|seen| if entry.relative.ends_with(GIT_INDEX) { "index".to_owned() } else { seen })
            };
            let is_directory = seen.as_deref() == Some(DIRECTORY);
            if let Some(seen) = seen {
                listing.0.insert(PathText::new(entry.relative), seen);
            }
            Ok(if is_directory { Next::Enter } else { Next::Pass })
        })?;
        Ok(listing)
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
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

/// An entry as a string that is the same as long as the entry is; `None` if it is absent.
fn look(directory: BorrowedFd<'_>, name: &OsStr, shown: &Path) -> Result<Option<String>> {
    let stat = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(errno) => return Err(failed("access", shown, errno)),
    };
    Ok(Some(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => DIRECTORY.to_owned(),
        FileType::RegularFile => format!(
            "file {} {:04o} {}:{} {}.{:09}",
            stat.st_size,
            stat.st_mode & 0o7777,
            stat.st_uid,
            stat.st_gid,
            stat.st_mtime,
            stat.st_mtime_nsec
        ),
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
}
