//! Owner, group and mode of each entry of a tree.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};
use rustix::fs::{AtFlags, FileType, Gid, OFlags, Stat, Uid, chownat, fstat, fsync, statat, syncfs};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::credentials::is_root;
use super::failures::{conflict, failed, refused};
use super::file_state::{FileState, metadata_of, open_same};
use super::manifest::{ROOT, open_root};
use super::metadata::{Attributes, mode_is_between};
use super::path_text::PathText;
use super::replace::adorn;
use super::tree_walk::{Next, open_beneath, walk_tree};

/// Up to how many entries are synced one by one. Beyond that, one sync of the whole file system is faster.
const SYNCED_SINGLY: usize = 64;

/// Kind, mode, owner and group of an entry; in JSON a string such as `file 0644 0:33`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Access {
    /// What it is.
    pub kind: EntryKind,
    /// The permission bits with set-user-id, set-group-id and sticky; those of a link mean nothing.
    pub mode: u32,
    /// The owner's user id.
    pub owner: u32,
    /// The group's id.
    pub group: u32,
}

/// The kinds of entries that have an owner and a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
}

impl Access {
    /// `None` for what kkrun does not touch: pipes, sockets and devices.
    fn of(stat: &Stat) -> Option<Self> {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => EntryKind::File,
            FileType::Directory => EntryKind::Directory,
            FileType::Symlink => EntryKind::Link,
            _ => return None,
        };
        Some(Self { kind, mode: stat.st_mode & 0o7777, owner: stat.st_uid, group: stat.st_gid })
    }
}

impl Access {
    /// Those of a state; `None` for what kkrun does not touch.
    pub fn of_state(state: &FileState) -> Option<Self> {
        let (owner, group) = state.ownership()?;
        let kind = match state {
            FileState::File { .. } => EntryKind::File,
            FileState::Directory { .. } => EntryKind::Directory,
            FileState::Link { .. } => EntryKind::Link,
            _ => return None,
        };
        let mode = state.metadata().map_or(0, |metadata| metadata.mode);
        Some(Self { kind, mode, owner, group })
    }

    /// Whether each part of it is as in one or the other: see [`super::Metadata::lies_between`].
    pub fn lies_between(&self, one: &Self, other: &Self) -> bool {
        [one.kind, other.kind].contains(&self.kind)
            && [one.owner, other.owner].contains(&self.owner)
            && [one.group, other.group].contains(&self.group)
            && mode_is_between(self.mode, one.mode, other.mode)
    }

    /// Sets this owner, group and mode in a state, if it is of the same kind.
    pub fn put_on(&self, state: &mut FileState) {
        match (self.kind, state) {
            (EntryKind::File, FileState::File { metadata, .. })
            | (EntryKind::Directory, FileState::Directory { metadata }) => {
                (metadata.mode, metadata.owner, metadata.group) = (self.mode, self.owner, self.group);
            }
            (EntryKind::Link, FileState::Link { owner, group, .. }) => {
                (*owner, *group) = (self.owner, self.group);
            }
            _ => {}
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            EntryKind::File => "file",
            EntryKind::Directory => "directory",
            EntryKind::Link => "link",
        };
        write!(formatter, "{kind} {:04o} {}:{}", self.mode, self.owner, self.group)
    }
}

impl FromStr for Access {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let (kind, rest) = text.split_once(' ')?;
            let (mode, ids) = rest.split_once(' ')?;
            let (owner, group) = ids.split_once(':')?;
            let kind = match kind {
                "file" => EntryKind::File,
                "directory" => EntryKind::Directory,
                "link" => EntryKind::Link,
                _ => return None,
            };
            let mode = u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o7777)?;
            Some(Self { kind, mode, owner: owner.parse().ok()?, group: group.parse().ok()? })
        };
        parse().with_context(|| format!("invalid access `{text}`: expected kind, mode, owner and group"))
    }
}

impl TryFrom<String> for Access {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Access> for String {
    fn from(access: Access) -> Self {
        access.to_string()
    }
}

/// Observes every entry of the tree at `root`, the root itself as `.`, without reading any file. No link is followed,
/// and what is mounted inside is left out. An absent tree gives an empty map.
pub fn observe_access(root: &Path) -> Result<BTreeMap<PathText, Access>> {
    let mut seen = BTreeMap::new();
    let Some(directory) = open_root(root)? else { return Ok(seen) };
    let stat = fstat(&directory).map_err(|errno| failed("access", root, errno))?;
    seen.extend(Access::of(&stat).map(|access| (PathText::new(ROOT), access)));
    walk_tree(directory.as_fd(), root, &mut |entry| {
        if entry.is_mount {
            return Ok(Next::Pass);
        }
        let stat = match statat(entry.directory, entry.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Next::Pass),
            Err(errno) => return Err(failed("access", entry.shown, errno)),
        };
        let Some(access) = Access::of(&stat) else { return Ok(Next::Pass) };
        seen.insert(PathText::new(entry.relative), access);
        Ok(if access.kind == EntryKind::Directory { Next::Enter } else { Next::Pass })
    })?;
    Ok(seen)
}

/// Changes entries of the tree at `root` from the first access to the second, durably; an entry that already has the
/// second, or is absent, is fine. Access control lists follow the mode, file capabilities stay.
///
/// # Errors
/// `conflict` when an entry has neither; `refused` for a file with several names (hard links) in a directory that other
/// users than root can write to, because its other name may be in a directory of root; otherwise as
/// [`super::replace()`].
pub fn set_access(root: &Path, changes: &BTreeMap<PathText, (Access, Access)>) -> Result<()> {
    let Some(top) = open_root(root)? else { return Ok(()) };
    let singly = changes.len() <= SYNCED_SINGLY;
    // Inner ones first: a change may take away kkrun's right to enter the outer directory.
    for (relative, (from, to)) in changes.iter().rev() {
        let relative = relative.as_path();
        if relative == Path::new(ROOT) {
            give(&top, None, root, *from, *to, singly)?;
            continue;
        }
        let shown = root.join(relative);
        let Some(name) = relative.file_name() else {
            bail!(refused(relative, "is not a path inside a tree"))
        };
        let above = relative.parent().filter(|above| !above.as_os_str().is_empty());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let above = match above.map(|above| open_beneath(top.as_fd(), above, flags)) {
            Some(Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) => continue,
            Some(Err(errno)) => return Err(failed("open the directory of", &shown, errno)),
            Some(Ok(above)) => Some(above),
            None => None,
        };
        let above = above.as_ref().map_or(top.as_fd(), |above| above.as_fd());
        let stat = match statat(above, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(failed("access", &shown, errno)),
        };
        let also = match Access::of(&stat).map(|access| access.kind) {
            Some(EntryKind::Link) => {
                give_link(above, name, &shown, &stat, *from, *to)?;
                continue;
            }
            Some(EntryKind::Directory) => OFlags::DIRECTORY,
            Some(EntryKind::File) => OFlags::empty(),
            None => return Err(conflict(&shown, &["it is of another kind".to_owned()])),
        };
        match open_same(above, name, &shown, &stat, also)? {
            Some(file) => give(&file, Some(above), &shown, *from, *to, singly)?,
            None => return Err(conflict(&shown, &["it was replaced".to_owned()])),
        }
    }
    if !singly {
        syncfs(&top).map_err(|errno| failed("sync the file system of", root, errno))?;
    }
    Ok(())
}

/// Changes an open file or directory, which is in the directory `above`.
fn give(
    file: &OwnedFd,
    above: Option<BorrowedFd<'_>>,
    shown: &Path,
    from: Access,
    to: Access,
    sync: bool,
) -> Result<()> {
    let stat = fstat(file).map_err(|errno| failed("access", shown, errno))?;
    if !is_due(&stat, shown, from, to)? {
        return Ok(());
    }
    if let Some(above) = above
        && from.kind == EntryKind::File
        && stat.st_nlink > 1
        && is_root()
        && !is_private(above, shown)?
    {
        return Err(refused(shown, "has hard links and is in a directory that others can write to"));
    }
    let mut attributes = Attributes::from(&metadata_of(file, shown)?);
    (attributes.mode, attributes.owner, attributes.group, attributes.mtime) =
        (to.mode, to.owner, to.group, None);
    adorn(file, &attributes, shown)?;
    if sync {
        fsync(file).map_err(|errno| failed("sync", shown, errno))?;
    }
    Ok(())
}

fn give_link(
    above: BorrowedFd<'_>,
    name: &std::ffi::OsStr,
    shown: &Path,
    stat: &Stat,
    from: Access,
    to: Access,
) -> Result<()> {
    if !is_due(stat, shown, from, to)? {
        return Ok(());
    }
    let (owner, group) = (Uid::from_raw(to.owner), Gid::from_raw(to.group));
    chownat(above, name, Some(owner), Some(group), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| failed("change the owner of", shown, errno))
}

/// Whether there is something to do.
fn is_due(stat: &Stat, shown: &Path, from: Access, to: Access) -> Result<bool> {
    let now = Access::of(stat);
    if now == Some(to) {
        return Ok(false);
    }
    if now == Some(from) {
        return Ok(true);
    }
    let now = now.map_or_else(|| "of another kind".to_owned(), |now| now.to_string());
    Err(conflict(shown, &[format!("{from} → {now}")]))
}

/// Whether only root can put names in this directory.
fn is_private(directory: BorrowedFd<'_>, shown: &Path) -> Result<bool> {
    let stat = fstat(directory).map_err(|errno| failed("access the directory of", shown, errno))?;
    Ok(stat.st_uid == 0 && stat.st_mode & 0o022 == 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::machine::files::testing::*;

    #[test]
    fn the_journal_form_comes_back() {
        let seen = Access { kind: EntryKind::Directory, mode: 0o2750, owner: 7, group: 33 };
        let json = serde_json::to_string(&seen).unwrap();
        assert_eq!(json, "\"directory 2750 7:33\"");
        assert_eq!(serde_json::from_str::<Access>(&json).unwrap(), seen);
        assert!("file 9 0:0".parse::<Access>().is_err() && "pipe 0644 0:0".parse::<Access>().is_err());
    }

    #[test]
    fn entries_get_their_access_and_back_and_nothing_is_read_or_followed() {
        let (_directory, path) = scratch();
        let root = path.join("tree");
        std::fs::create_dir_all(root.join("a")).unwrap();
        std::fs::write(root.join("a/file"), "f").unwrap();
        std::fs::write(path.join("outside"), "o").unwrap();
        symlink("../outside", root.join("link")).unwrap();
        let before = observe_access(&root).unwrap();
        let names: Vec<_> = before.keys().map(ToString::to_string).collect();
        assert_eq!(names, [".", "a", "a/file", "link"]);
        let changes: BTreeMap<_, _> = before
            .iter()
            .filter(|(_, access)| access.kind != EntryKind::Link)
            .map(|(name, access)| (name.clone(), (*access, Access { mode: access.mode & 0o700, ..*access })))
            .collect();
        for _ in 0..2 {
            set_access(&root, &changes).unwrap();
        }
        assert_eq!((access(&root).0, access(&root.join("a/file")).0), (0o700, 0o600));
        assert_eq!(access(&path.join("outside")).0 & 0o044, 0o044);
        let back = changes.iter().map(|(name, (from, to))| (name.clone(), (*to, *from))).collect();
        set_access(&root, &back).unwrap();
        assert_eq!(observe_access(&root).unwrap(), before);
        std::fs::set_permissions(root.join("a/file"), PermissionsExt::from_mode(0o666)).unwrap();
        assert_eq!(kind(set_access(&root, &changes)), "conflict");
        std::fs::remove_dir_all(root.join("a")).unwrap();
        set_access(&root, &changes).unwrap();
        assert_eq!(observe_access(&path.join("none")).unwrap(), BTreeMap::new());
    }

    #[test]
    fn many_entries_are_changed_too() {
        let (_directory, path) = scratch();
        for number in 0..(2 * SYNCED_SINGLY) {
            std::fs::write(path.join(number.to_string()), "").unwrap();
        }
        let mut changes = BTreeMap::new();
        for (name, from) in observe_access(&path).unwrap() {
            changes.insert(name, (from, Access { mode: 0o700, ..from }));
        }
        set_access(&path, &changes).unwrap();
        assert!(observe_access(&path).unwrap().values().all(|access| access.mode == 0o700));
    }

    #[test]
    #[ignore = "needs root"]
    fn a_second_name_in_a_users_directory_is_refused() {
        let (_directory, path) = unprivileged_directory();
        std::fs::write(path.join("file"), "abc").unwrap();
        std::fs::hard_link(path.join("file"), path.join("second")).unwrap();
        let from = observe_access(&path).unwrap()[&PathText::new("file")];
        let changes =
            BTreeMap::from([(PathText::new("file"), (from, Access { owner: UNPRIVILEGED, ..from }))]);
        assert_eq!(kind(set_access(&path, &changes)), "refused");
        std::fs::remove_file(path.join("second")).unwrap();
        set_access(&path, &changes).unwrap();
        assert_eq!(access(&path.join("file")).1, UNPRIVILEGED);
    }
}
