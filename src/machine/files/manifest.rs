//! What is in a tree.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::content::digest_known;
use super::digest::{Digest, Digester};
use super::failures::{failed, refused};
use super::file_state::{FileState, ReadFile, Seen, SpecialKind, look, metadata_of};
use super::flags::Flags;
use super::metadata::{Attributes, ModifiedAt};
use super::path_text::PathText;
use super::place::Walk;
use super::tree_walk::{Entry, Next, open_beneath, walk_tree};

/// The key of a tree's root in its manifest.
pub(super) const ROOT: &str = ".";

/// The states of all that is in a tree, by the path from its root; the root itself is `.`.
///
/// In JSON a map. A tree that does not exist has an empty one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Manifest(BTreeMap<PathText, FileState>);

/// The summary of a manifest, for the journal: trees with equal summaries hold the same. Times do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// How many files, directories and links, the root included.
    pub entries: u64,
    /// How many bytes the files hold.
    pub bytes: u64,
    /// Over every path, content and metadata but the times.
    pub sha256: Digest,
}

/// The names that a file has in a tree.
struct Names {
    first: PathText,
    found: u64,
    /// How many it has anywhere.
    links: u64,
}

/// Several entries of a tree with the names (hard links) that they share.
#[derive(Clone, Debug, Default)]
pub struct Several {
    /// What is at each of them that is there, and the root.
    pub manifest: Manifest,
    /// Those of which other names are not among them: the first name, and the number of the inode.
    pub named_elsewhere: Vec<(PathText, u64)>,
    /// When each of them was changed last in any way, in seconds and nanoseconds (`st_ctime`).
    pub changed: BTreeMap<PathText, (i64, i64)>,
    /// The numbers of their inodes.
    pub inodes: BTreeSet<u64>,
}

/// The desired owners and permissions in a tree; what is not given stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ownership {
    /// The owner's user id.
    pub owner: Option<u32>,
    /// The group's id.
    pub group: Option<u32>,
    /// The mode of every file.
    pub file_mode: Option<u32>,
    /// The mode of every directory, the root included.
    pub directory_mode: Option<u32>,
}

impl Manifest {
    /// Observes the tree at `root`, reading every file whose content is not known. No link is followed; what is mounted
    /// inside is named but not entered. An absent root gives an empty manifest; a root that is not a directory is an
    /// error.
    pub fn observe(root: &Path) -> Result<Self> {
        Self::observe_with(root, &mut digest_known)
    }

    /// The same, where `read` says what each file holds.
    pub(crate) fn observe_with(root: &Path, read: &mut ReadFile<'_>) -> Result<Self> {
        Ok(Self::observe_names(root, read)?.0)
    }

    /// The same, and the files that have other names (hard links) outside of the tree.
    pub fn observe_with_names_outside(root: &Path) -> Result<(Self, Vec<PathText>)> {
        let (manifest, names) = Self::observe_names(root, &mut digest_known)?;
        let outside = names.into_values().filter(|names| names.found < names.links);
        Ok((manifest, outside.map(|names| names.first).collect()))
    }

    fn observe_names(root: &Path, read: &mut ReadFile<'_>) -> Result<(Self, BTreeMap<u64, Names>)> {
        let mut manifest = Self::default();
        let mut names: BTreeMap<u64, Names> = BTreeMap::new();
        let Some(directory) = open_root(root)? else { return Ok((manifest, names)) };
        manifest.insert(ROOT, FileState::Directory { metadata: metadata_of(&directory, root)? });
        walk_tree(directory.as_fd(), root, &mut |entry: &Entry<'_>| {
            if entry.is_mount {
                manifest.insert(entry.relative, FileState::Special { what: SpecialKind::Mount });
                return Ok(Next::Pass);
            }
            let Seen { mut state, identity } = look(entry.directory, entry.name, entry.shown, read)?;
            // All of a tree is on one file system: the inode number identifies its files.
            if let (FileState::File { .. }, Some(identity)) = (&state, identity.filter(|seen| seen.links > 1))
            {
                let known = names.entry(identity.inode).or_insert_with(|| Names {
                    first: PathText::new(entry.relative),
                    found: 0,
                    links: identity.links,
                });
                known.found += 1;
                if known.found > 1 {
                    state = FileState::SameFile { of: known.first.clone() };
                }
            }
            let is_directory = matches!(state, FileState::Directory { .. });
            if !state.is_absent() {
                manifest.insert(entry.relative, state);
            }
            Ok(if is_directory { Next::Enter } else { Next::Pass })
        })?;
        Ok((manifest, names))
    }

    /// Observes only these paths from the root, and the root. What is absent is left out, and so is what is only
    /// reachable through a link.
    pub fn observe_listed<'names>(
        root: &Path,
        names: impl IntoIterator<Item = &'names PathText>,
    ) -> Result<Self> {
        let mut manifest = Self::default();
        let Some(directory) = open_root(root)? else { return Ok(manifest) };
        manifest.insert(ROOT, FileState::Directory { metadata: metadata_of(&directory, root)? });
        for relative in names.into_iter().filter(|name| name.as_path() != Path::new(ROOT)) {
            let shown = root.join(relative);
            let Some(name) = relative.as_path().file_name() else {
                return Err(refused(relative.as_path(), "is not a path inside a tree"));
            };
            let inner = match relative.as_path().parent() {
                Some(parent) if !parent.as_os_str().is_empty() => {
                    match open_beneath(directory.as_fd(), parent, OFlags::DIRECTORY | OFlags::NOFOLLOW) {
                        Ok(inner) => Some(inner),
                        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                        Err(errno) => return Err(failed("open the directory of", &shown, errno)),
                    }
                }
                _ => None,
            };
            let inner = inner.as_ref().map_or(directory.as_fd(), |inner| inner.as_fd());
            let state = look(inner, name, &shown, &mut digest_known)?.state;
            if !state.is_absent() {
                manifest.insert(relative.as_path(), state);
            }
        }
        Ok(manifest)
    }

    /// Observes these paths from the root, all that is in those of them that are in `whole` and directories, and the
    /// root: a name of a file that has an earlier one among them is [`FileState::SameFile`]. What is absent is left out,
    /// and so is what is only reachable through a link or in another file system.
    pub fn observe_several(
        root: &Path,
        names: &BTreeSet<PathText>,
        whole: &BTreeSet<PathText>,
    ) -> Result<Several> {
        let mut several = Several::default();
        let Some(directory) = open_root(root)? else { return Ok(several) };
        let mut seen: BTreeMap<PathText, Seen> = BTreeMap::new();
        // The paths are sorted: those in one directory follow each other.
        let mut opened: Option<(PathBuf, Option<OwnedFd>)> = None;
        for relative in names.iter().filter(|name| name.as_path() != Path::new(ROOT)) {
            let shown = root.join(relative);
            let Some(name) = relative.as_path().file_name() else {
                return Err(refused(relative.as_path(), "is not a path inside a tree"));
            };
            let parent = relative.as_path().parent().unwrap_or(Path::new(""));
            if opened.as_ref().is_none_or(|(path, _)| path != parent) {
                opened = Some((parent.to_owned(), open_inner(directory.as_fd(), parent, &shown)?));
            }
            let Some((_, Some(inner))) = &opened else { continue };
            let found = look(inner.as_fd(), name, &shown, &mut digest_known)?;
            let is_whole = whole.contains(relative) && matches!(found.state, FileState::Directory { .. });
            seen.insert(relative.clone(), found);
            if !is_whole {
                continue;
            }
            if let Some(below) = open_inner(directory.as_fd(), relative.as_path(), &shown)? {
                walk_tree(below.as_fd(), &shown, &mut |entry: &Entry<'_>| {
                    let inner = PathText::new(relative.as_path().join(entry.relative));
                    if entry.is_mount {
                        let state = FileState::Special { what: SpecialKind::Mount };
                        seen.insert(inner, Seen { state, identity: None });
                        return Ok(Next::Pass);
                    }
                    let found = look(entry.directory, entry.name, entry.shown, &mut digest_known)?;
                    let next = match found.state {
                        FileState::Directory { .. } => Next::Enter,
                        _ => Next::Pass,
                    };
                    seen.insert(inner, found);
                    Ok(next)
                })?;
            }
        }
        several.manifest.insert(ROOT, FileState::Directory { metadata: metadata_of(&directory, root)? });
        let mut shared: BTreeMap<u64, Names> = BTreeMap::new();
        for (path, Seen { mut state, identity }) in seen {
            if state.is_absent() {
                continue;
            }
            if let Some(identity) = identity {
                several.changed.insert(path.clone(), identity.changed);
                several.inodes.insert(identity.inode);
                if matches!(state, FileState::File { .. }) && identity.links > 1 {
                    let known = shared.entry(identity.inode).or_insert_with(|| Names {
                        first: path.clone(),
                        found: 0,
                        links: identity.links,
                    });
                    known.found += 1;
                    if known.found > 1 {
                        state = FileState::SameFile { of: known.first.clone() };
                    }
                }
            }
            several.manifest.insert(path.as_path(), state);
        }
        let elsewhere = shared.into_iter().filter(|(_, names)| names.found < names.links);
        several.named_elsewhere = elsewhere.map(|(inode, names)| (names.first, inode)).collect();
        Ok(several)
    }

    /// Adds what is at a path from the root.
    pub fn insert(&mut self, relative: impl Into<PathBuf>, state: FileState) {
        self.0.insert(PathText::new(relative), state);
    }

    /// Puts what is at a path from the root; nothing removes it.
    pub fn set(&mut self, relative: impl Into<PathBuf>, state: FileState) {
        let path = PathText::new(relative);
        match state {
            FileState::Absent => drop(self.0.remove(&path)),
            state => drop(self.0.insert(path, state)),
        }
    }

    /// Keeps the paths that `keep` says.
    pub fn retain(&mut self, mut keep: impl FnMut(&PathText) -> bool) {
        self.0.retain(|path, _| keep(path));
    }

    /// Adds a file with these bytes and attributes.
    pub fn insert_file(&mut self, relative: impl Into<PathBuf>, bytes: &[u8], attributes: &Attributes) {
        self.insert(relative, FileState::file(Digest::of(bytes), bytes.len() as u64, attributes));
    }

    /// Adds a directory; the root is `.`.
    pub fn insert_directory(&mut self, relative: impl Into<PathBuf>, attributes: &Attributes) {
        self.insert(relative, FileState::directory(attributes));
    }

    /// What is at a path from the root.
    pub fn get(&self, relative: impl Into<PathBuf>) -> Option<&FileState> {
        self.0.get(&PathText::new(relative))
    }

    /// What is at a path from the root, by itself: of another name of a file, that file.
    pub fn get_alone(&self, relative: impl Into<PathBuf>) -> Option<&FileState> {
        match self.get(relative)? {
            FileState::SameFile { of } => self.0.get(of),
            state => Some(state),
        }
    }

    /// The same tree with a file of its own for every name.
    #[must_use]
    pub fn with_files_apart(&self) -> Self {
        Self(
            self.0
                .keys()
                .filter_map(|path| Some((path.clone(), self.get_alone(path.as_path())?.clone())))
                .collect(),
        )
    }

    /// The root of the tree; absent if there is no tree.
    pub fn root(&self) -> &FileState {
        self.get(ROOT).unwrap_or(&FileState::Absent)
    }

    /// All paths and states, sorted as [`PathText`] sorts.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = (&PathText, &FileState)> {
        self.0.iter()
    }

    /// All but the root: every directory comes before what is in it.
    pub fn below(&self) -> impl DoubleEndedIterator<Item = (&Path, &FileState)> {
        self.0
            .iter()
            .map(|(path, state)| (path.as_path(), state))
            .filter(|(path, _)| *path != Path::new(ROOT))
    }

    /// The subtree at a path from the root, as a tree of its own.
    pub fn below_path(&self, relative: &Path) -> Self {
        let inner = |path: &PathText| -> Option<PathText> {
            if relative == Path::new(ROOT) {
                return Some(path.clone());
            }
            let rest = path.as_path().strip_prefix(relative).ok()?;
            Some(if rest.as_os_str().is_empty() { PathText::new(ROOT) } else { PathText::new(rest) })
        };
        let state = |path: &PathText, state: &FileState| match state {
            FileState::SameFile { of } => match inner(of) {
                Some(of) => Some(FileState::SameFile { of }),
                None => self.get_alone(path.as_path()).cloned(),
            },
            state => Some(state.clone()),
        };
        // What is below a path follows it.
        let entries =
            self.0.range(PathText::new(relative)..).map_while(|(path, old)| Some((inner(path)?, path, old)));
        Self(entries.filter_map(|(inner, path, old)| Some((inner, state(path, old)?))).collect())
    }

    /// Whether there is no tree.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same tree with another ownership. Extended attributes and flags are dropped: an access control list would
    /// apply to the old owner.
    pub fn owned(&self, ownership: &Ownership) -> Self {
        let attributes = |metadata: &super::Metadata, mode: Option<u32>| Attributes {
            mode: mode.unwrap_or(metadata.mode),
            owner: ownership.owner.unwrap_or(metadata.owner),
            group: ownership.group.unwrap_or(metadata.group),
            xattrs: BTreeMap::new(),
            flags: Some(Flags::NONE),
            mtime: Some(metadata.mtime),
        };
        let owned = |state: &FileState| match state {
            FileState::File { sha256, size, metadata } => {
                FileState::file(*sha256, *size, &attributes(metadata, ownership.file_mode))
            }
            FileState::Directory { metadata } => {
                FileState::directory(&attributes(metadata, ownership.directory_mode))
            }
            FileState::Link { to, owner, group, mtime } => FileState::Link {
                mtime: *mtime,
                to: to.clone(),
                owner: ownership.owner.unwrap_or(*owner),
                group: ownership.group.unwrap_or(*group),
            },
            other => other.clone(),
        };
        Self(self.0.iter().map(|(path, state)| (path.clone(), owned(state))).collect())
    }

    /// The same tree with every time set to this.
    pub fn dated(mut self, mtime: ModifiedAt) -> Self {
        for state in self.0.values_mut() {
            match state {
                FileState::File { metadata, .. } | FileState::Directory { metadata } => {
                    metadata.mtime = mtime;
                }
                FileState::Link { mtime: own, .. } => *own = Some(mtime),
                _ => {}
            }
        }
        self
    }

    /// Whether the two hold the same, times apart.
    pub fn same_as(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self.0.iter().zip(&other.0).all(|((path, state), (other_path, other_state))| {
                path == other_path && state.same_as(other_state)
            })
    }

    /// The differences from `self` to `other`, a line for each path.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let absent = FileState::Absent;
        let mut paths: Vec<&PathText> = self.0.keys().chain(other.0.keys()).collect();
        paths.sort();
        paths.dedup();
        let mut differences = Vec::new();
        for path in paths {
            let one = self.0.get(path).unwrap_or(&absent);
            let two = other.0.get(path).unwrap_or(&absent);
            if !one.same_as(two) {
                differences.push(format!("{path}: {}", one.differences(two).join(", ")));
            }
        }
        differences
    }

    /// The summary of the manifest.
    pub fn summary(&self) -> Summary {
        let mut digester = Digester::default();
        let mut bytes = 0;
        let mut field = |field: &[u8]| {
            digester.update(&(field.len() as u64).to_le_bytes());
            digester.update(field);
        };
        for (path, state) in &self.clone().dated(ModifiedAt { seconds: 0, nanoseconds: 0 }).0 {
            if let FileState::File { size, .. } = state {
                bytes += *size;
            }
            field(path.as_path().as_os_str().as_bytes());
            // A state is plain data with string keys: it has a JSON form.
            field(&serde_json::to_vec(state).unwrap_or_default());
        }
        Summary { entries: self.0.len() as u64, bytes, sha256: digester.finish().0 }
    }
}

/// A directory of a tree, by its path from the root; none if it is not there, or in another file system.
fn open_inner(root: BorrowedFd<'_>, relative: &Path, shown: &Path) -> Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let relative = if relative.as_os_str().is_empty() { Path::new(ROOT) } else { relative };
    match open_beneath(root, relative, flags) {
        Ok(inner) => Ok(Some(inner)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Ok(None),
        Err(errno) => Err(failed("open the directory of", shown, errno)),
    }
}

/// The files of a tree, opened one by one by their paths from its root.
pub struct TreeFiles {
    root: OwnedFd,
    path: PathBuf,
}

impl TreeFiles {
    /// Opens the tree at `root`.
    pub fn open(root: &Path) -> Result<Self> {
        match open_root(root)? {
            Some(directory) => Ok(Self { root: directory, path: root.to_owned() }),
            None => Err(failed("open the directory", root, Errno::NOENT)),
        }
    }

    /// Its directory, open for reading.
    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a regular file of the tree for reading.
    pub fn file(&self, relative: &Path) -> Result<File> {
        let shown = self.path.join(relative);
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW;
        let file = open_beneath(self.root.as_fd(), relative, flags)
            .map_err(|errno| failed("open", &shown, errno))?;
        let stat = rustix::fs::fstat(&file).map_err(|errno| failed("access", &shown, errno))?;
        match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
            rustix::fs::FileType::RegularFile => Ok(file.into()),
            _ => Err(refused(&shown, "is not a regular file")),
        }
    }
}

/// The directory of a tree, open for reading; none if it is absent.
pub(super) fn open_root(root: &Path) -> Result<Option<OwnedFd>> {
    let walk = Walk::to(root)?;
    let Some(directory) = walk.directory() else { return Ok(None) };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(directory, walk.name(), flags, rustix::fs::Mode::empty()) {
        Ok(opened) => Ok(Some(opened)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(failed("open the directory", root, errno)),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::machine::files::testing::*;

    #[test]
    fn a_tree_is_observed_whole_and_sorted_and_no_link_is_followed() {
        let (_directory, path) = scratch();
        std::fs::create_dir_all(path.join("a/deep")).unwrap();
        std::fs::write(path.join("a/deep").join(OsStr::from_bytes(b"\xff")), "abc").unwrap();
        std::fs::write(path.join("a-b"), "").unwrap();
        symlink("a", path.join("link")).unwrap();
        let manifest = Manifest::observe(&path).unwrap();
        let paths: Vec<_> = manifest.entries().map(|(path, _)| path.to_string()).collect();
        assert_eq!(paths, [".", "a", "a/deep", "a/deep/\\xff", "a-b", "link"]);
        assert_eq!(manifest.get("link"), Some(&FileState::observe(&path.join("link")).unwrap()));
        let text = serde_json::to_string(&manifest).unwrap();
        assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), manifest);
        assert_eq!(manifest.summary().bytes, 3);

        let listed = [PathText::new("a-b"), PathText::new("a/none"), PathText::new("none/below")];
        let some = Manifest::observe_listed(&path, &listed).unwrap();
        assert_eq!(some.entries().map(|(path, _)| path.to_string()).collect::<Vec<_>>(), [".", "a-b"]);
        let through = [PathText::new("link/deep"), PathText::new("link/deep/none")];
        assert_eq!(Manifest::observe_listed(&path, &through).unwrap().entries().count(), 1);
        assert!(Manifest::observe(&path.join("none")).unwrap().is_empty());
        assert!(Manifest::observe(&path.join("a-b")).is_err());
    }

    #[test]
    fn equal_trees_have_equal_summaries_and_differences_are_named() {
        let (_directory, path) = scratch();
        std::fs::write(path.join("file"), "one").unwrap();
        std::fs::write(path.join("gone"), "").unwrap();
        let before = Manifest::observe(&path).unwrap();
        let again = before.clone().dated(ModifiedAt { seconds: 5, nanoseconds: 0 });
        assert!(before.same_as(&again) && before != again);
        assert_eq!(before.summary(), again.summary());
        std::fs::write(path.join("file"), "two").unwrap();
        std::fs::remove_file(path.join("gone")).unwrap();
        let after = Manifest::observe(&path).unwrap();
        assert!(!before.same_as(&after));
        assert_ne!(before.summary(), after.summary());
        assert_eq!(before.differences(&after), ["file: content differs", "gone: a file → absent"]);
    }

    #[test]
    fn what_is_mounted_inside_is_named_but_not_entered() {
        // The kernel's own mounts: /proc is in the root file system, and the root is not walked below it.
        let root =
            rustix::fs::open("/", OFlags::RDONLY | OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
        let mut mounts = Vec::new();
        walk_tree(root.as_fd(), Path::new("/"), &mut |entry| {
            if entry.is_mount {
                mounts.push(entry.name.to_owned());
            }
            Ok(Next::Pass)
        })
        .unwrap();
        assert!(mounts.contains(&"proc".into()), "{mounts:?}");
    }
}
