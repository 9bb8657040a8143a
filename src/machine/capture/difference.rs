//! What a captured command changed in one file system: the upper side of its overlay, compared with the lower one.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use rustix::io::Errno;

use super::Layer;
use crate::failure::{Failure, FailureKind};
use crate::machine::files::{FileState, Flags, Manifest, PathText, Several, SpecialKind};

/// Whether a path is left out: what a command changed there is thrown away.
pub type NotTaken<'a> = &'a dyn Fn(&Path) -> bool;

/// What differs in one file system.
#[derive(Debug)]
pub struct Difference {
    /// Where it is mounted.
    pub at: PathBuf,
    /// Where what the command left is, by the same paths from the root.
    pub upper: PathBuf,
    /// A directory of the file system that holds this, opened before the command ran.
    pub opened: Arc<OwnedFd>,
    /// What is there: what the command changed, with the directories above it.
    pub before: Manifest,
    /// What the command made of it.
    pub after: Manifest,
    /// The paths among them that something else modified while the command ran.
    pub modified_meanwhile: BTreeSet<PathText>,
}

/// The mark of a directory below which nothing of the lower side is seen. Source: overlayfs.rst.
const OPAQUE: &str = "overlay.opaque";
/// The file handle of what was copied from the lower side. Source: overlayfs.rst; fs/overlayfs/overlayfs.h, `ovl_fb`.
const ORIGIN: &str = "overlay.origin";
/// The flags of an immutable or append-only file. Source: fs/overlayfs/overlayfs.h.
const PROTECTED: &str = "overlay.protattr";

/// What differs in a layer; none if nothing does. A file that was only opened for writing, and a directory in which
/// something came and went, are no difference.
pub(super) fn of(
    layer: &Layer,
    began: (i64, i64),
    opened: &Arc<OwnedFd>,
    is_left_out: NotTaken<'_>,
) -> Result<Option<Difference>> {
    let (after, whole, is_of_lower) = (Manifest::default(), BTreeSet::new(), BTreeMap::new());
    let mut left = Left { layer, is_left_out, after, whole, is_of_lower };
    left.read()?;
    let Left { mut after, whole, is_of_lower, .. } = left;
    if !is_mounted(layer)? {
        if whole.is_empty() && after.below().next().is_none() {
            return Ok(None);
        }
        bail!(
            Failure::new(format!(
                "cannot apply what the command changed in `{}`: that file system was unmounted while the command ran",
                PathText::new(&*layer.at)
            ))
            .kind(FailureKind::Conflict)
            .hint("mount it, then run this again")
        );
    }
    let mut names: BTreeSet<PathText> = after.entries().map(|(name, _)| name.clone()).collect();
    names.extend(whole.iter().cloned());
    let mut found = Manifest::observe_several(&layer.at, &names, &whole)?;
    settle_flags(&mut after, &found.manifest);
    let changed = changed(&found.manifest, &after);
    let linked = other_names(layer, &found, &changed)?;
    if !linked.is_empty() {
        names.extend(linked);
        found = Manifest::observe_several(&layer.at, &names, &whole)?;
        other_names_or_refuse(layer, &found, &changed)?;
    }
    let mut before = found.manifest;
    keep_names_together(&before, &mut after, &whole);
    let changed = self::changed(&before, &after);
    if changed.is_empty() {
        return Ok(None);
    }
    refuse_what_cannot_be_restored(layer, &before, &changed)?;
    let kept = kept(&before, &after, &changed);
    before.retain(|path| kept.contains(path));
    after.retain(|path| kept.contains(path));
    let is_modified = |path: &&PathText| {
        let is_directory =
            |side: &Manifest| matches!(side.get(path.as_path()), Some(FileState::Directory { .. }));
        match found.changed.get(*path) {
            // What comes and goes in a directory changes it, too: that of one that goes counts by itself.
            Some(_) if is_directory(&before) && !is_directory(&after) => false,
            Some(at) => *at > began,
            None => is_of_lower.get(*path).is_some_and(|origin| match origin {
                // No directory is renamed in an overlay without redirection.
                _ if is_directory(&after) => true,
                Some(inode) => !found.inodes.contains(inode),
                None => false,
            }),
        }
    };
    let modified_meanwhile = changed.iter().filter(is_modified).cloned().collect();
    Ok(Some(Difference {
        at: layer.at.clone(),
        upper: layer.upper.clone(),
        opened: opened.clone(),
        before,
        after,
        modified_meanwhile,
    }))
}

/// Whether the file system is still where it was. What it held cannot be observed otherwise.
fn is_mounted(layer: &Layer) -> Result<bool> {
    match std::fs::symlink_metadata(&layer.at) {
        Ok(found) => Ok(found.dev() == layer.device),
        Err(error) if is_absence(&error) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot access `{}`", layer.at.display())),
    }
}

fn is_absence(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// What the command left in the upper side.
struct Left<'a> {
    layer: &'a Layer,
    is_left_out: NotTaken<'a>,
    /// What is there now.
    after: Manifest,
    /// The paths at which the lower side is no longer seen, with all below them.
    whole: BTreeSet<PathText>,
    /// What was copied from the lower side, with the number of its inode there if the file system is known.
    is_of_lower: BTreeMap<PathText, Option<u64>>,
}

impl Left<'_> {
    fn read(&mut self) -> Result<()> {
        let upper = Manifest::observe(&self.layer.upper)?;
        // Below these nothing of the lower side is seen: it is in the difference already.
        let mut covered: Option<PathBuf> = None;
        for (path, state) in upper.entries() {
            let relative = path.as_path();
            let at = self.layer.at.join(relative);
            if relative == Path::new(".") {
                self.after.insert(relative, state.clone());
                continue;
            }
            if self.layer.inner.contains(&at) || (self.is_left_out)(&at) {
                continue;
            }
            if covered.as_ref().is_some_and(|covered| !relative.starts_with(covered)) {
                covered = None;
            }
            let held = self.layer.upper.join(relative);
            refuse_long(&at, &held)?;
            let hides = match state {
                FileState::Special { what: SpecialKind::CharacterDevice } if is_deletion(&held)? => {
                    self.whole.insert(path.clone());
                    continue;
                }
                // A socket lives as long as its process.
                FileState::Special { what: SpecialKind::Socket } => continue,
                FileState::Special { .. } => {
                    return Err(Failure::new(format!(
                        "cannot capture `{}`: the command made {}, which kkrun cannot make",
                        PathText::new(&at),
                        state.kind_name()
                    ))
                    .kind(FailureKind::Refused)
                    .hint("`ignore` leaves out what need not stay")
                    .into());
                }
                FileState::Directory { .. } => {
                    covered.is_none() && (self.has_mark(&held, OPAQUE)? || !is_directory(&at)?)
                }
                _ => true,
            };
            if self.has_mark(&held, PROTECTED)? {
                return Err(Failure::new(format!(
                    "cannot capture `{}`: the command made it immutable or append-only",
                    PathText::new(&at)
                ))
                .kind(FailureKind::Refused)
                .into());
            }
            if hides && covered.is_none() {
                self.whole.insert(path.clone());
                if matches!(state, FileState::Directory { .. }) {
                    covered = Some(relative.to_owned());
                }
            }
            if let Some(origin) = self.mark(&held, ORIGIN)? {
                self.is_of_lower.insert(path.clone(), inode_of(&origin));
            }
            self.after.insert(relative, state.clone());
        }
        Ok(())
    }

    fn has_mark(&self, path: &Path, mark: &str) -> Result<bool> {
        Ok(self.mark(path, mark)?.is_some_and(|value| !value.is_empty()))
    }

    /// A mark of the kernel. A command can set attributes of users: they are marks in their overlays alone.
    fn mark(&self, path: &Path, mark: &str) -> Result<Option<Vec<u8>>> {
        /// A file handle has at most 128 bytes. Source: include/linux/exportfs.h.
        const LONGEST: usize = 256;
        let owner = if self.layer.is_of_users { "user" } else { "trusted" };
        let mut value = vec![0; LONGEST];
        match rustix::fs::lgetxattr(path, format!("{owner}.{mark}"), &mut value) {
            Ok(length) => {
                value.truncate(length);
                Ok(Some(value))
            }
            // A symlink has none of a user.
            Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM) => Ok(None),
            Err(error) => {
                let unread = || format!("cannot read the attributes of `{}`", path.display());
                Err(error).with_context(unread)
            }
        }
    }
}

/// The number of the inode in a file handle of ext4, XFS, btrfs or memory; none of others. Source: fs/overlayfs/overlayfs.h,
/// `ovl_fb`; include/linux/exportfs.h, `fid_type`; mm/shmem.c, `shmem_encode_fh`.
fn inode_of(origin: &[u8]) -> Option<u64> {
    /// Version, magic number, length, flags, kind of the handle, identity of the file system.
    const HEAD: usize = 5 + 16;
    let (kind, handle) = (origin.get(4)?, origin.get(HEAD..)?);
    let short = |from: usize| Some(u32::from_le_bytes(handle.get(from..from + 4)?.try_into().ok()?).into());
    let long = |from: usize| Some(u64::from_le_bytes(handle.get(from..from + 8)?.try_into().ok()?));
    match (kind, handle.len()) {
        (0x01, 8) => short(0),
        (0x01, 12) => long(4),
        (0x81, 12) | (0x4d, 20) => long(0),
        _ => None,
    }
}

/// Refuses what cannot be named where it is held: its path is even longer there.
fn refuse_long(at: &Path, held: &Path) -> Result<()> {
    /// Source: path_resolution(7); the last byte is a zero.
    const LONGEST: usize = 4095;
    const SHOWN: usize = 200;
    let length = held.as_os_str().len();
    if length <= LONGEST {
        return Ok(());
    }
    let shown: String = PathText::new(at).to_string().chars().take(SHOWN).collect();
    Err(Failure::new(format!(
        "cannot capture `{shown}…`: where kkrun holds it until it is applied, its path has {length} bytes, and the kernel takes {LONGEST} at most"
    ))
    .kind(FailureKind::Refused)
    .hint("`ignore` leaves out what need not stay")
    .hint("otherwise run the command without `capture`, with `touches` and the directory that it makes")
    .into())
}

/// Whether this character device is the mark of a deletion. Source: overlayfs.rst.
fn is_deletion(path: &Path) -> Result<bool> {
    let found =
        std::fs::symlink_metadata(path).with_context(|| format!("cannot access `{}`", path.display()))?;
    Ok(found.rdev() == 0)
}

fn is_directory(path: &Path) -> Result<bool> {
    match std::fs::symlink_metadata(path) {
        Ok(found) => Ok(found.is_dir()),
        Err(error) if is_absence(&error) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot access `{}`", path.display())),
    }
}

/// The upper side does not have the flags of the lower one; what is new has those of its directory.
fn settle_flags(after: &mut Manifest, before: &Manifest) {
    let settled: Vec<(PathText, FileState)> = after
        .entries()
        .filter_map(|(path, state)| {
            let mut state = state.clone();
            let (FileState::File { metadata, .. } | FileState::Directory { metadata }) = &mut state else {
                return None;
            };
            if metadata.flags != Some(Flags::NONE) {
                return None;
            }
            metadata.flags =
                before.get_alone(path.as_path()).and_then(FileState::metadata).and_then(|found| found.flags);
            Some((path.clone(), state))
        })
        .collect();
    for (path, state) in settled {
        after.insert(path.as_path(), state);
    }
}

/// The paths at which something differs: the time of a file counts, as programs like make(1) rely on it; that of a
/// directory or link does not.
pub(crate) fn changed(before: &Manifest, after: &Manifest) -> BTreeSet<PathText> {
    let names: BTreeSet<&PathText> = before.entries().chain(after.entries()).map(|(path, _)| path).collect();
    let is_changed = |path: &&PathText| {
        let [old, new] = [before, after].map(|side| side.get(path.as_path()));
        match (old, new) {
            (Some(old), Some(new)) => !is_unchanged(old, new),
            _ => true,
        }
    };
    names.into_iter().filter(is_changed).cloned().collect()
}

fn is_unchanged(old: &FileState, new: &FileState) -> bool {
    let is_same_time = match (old, new) {
        (FileState::File { metadata: old, .. }, FileState::File { metadata: new, .. }) => {
            old.mtime == new.mtime
        }
        _ => true,
    };
    is_same_time && old.same_as(new)
}

/// Other names, in the same directories, of files of which a name was changed.
fn other_names(layer: &Layer, found: &Several, changed: &BTreeSet<PathText>) -> Result<Vec<PathText>> {
    let mut others = Vec::new();
    for (first, inode) in &found.named_elsewhere {
        let names = names_of(&found.manifest, first);
        if !names.iter().any(|name| changed.contains(*name)) {
            continue;
        }
        let directories: BTreeSet<&Path> = names.iter().filter_map(|name| name.as_path().parent()).collect();
        for directory in directories {
            let whole = layer.at.join(directory);
            let unreadable = || format!("cannot read the directory `{}`", whole.display());
            // What others remove meanwhile is no other name.
            let entries = match std::fs::read_dir(&whole) {
                Err(error) if is_absence(&error) => continue,
                entries => entries.with_context(unreadable)?,
            };
            for entry in entries {
                let entry = entry.with_context(unreadable)?;
                let metadata = match entry.metadata() {
                    Err(error) if is_absence(&error) => continue,
                    metadata => metadata.with_context(unreadable)?,
                };
                if metadata.is_file() && metadata.ino() == *inode {
                    others.push(PathText::new(directory.join(entry.file_name())));
                }
            }
        }
        others.push(first.clone());
    }
    Ok(others)
}

/// Refuses a change of a file that has a name which was not found.
fn other_names_or_refuse(layer: &Layer, found: &Several, changed: &BTreeSet<PathText>) -> Result<()> {
    for (first, _) in &found.named_elsewhere {
        let names = names_of(&found.manifest, first);
        let Some(name) = names.iter().find(|name| changed.contains(**name)) else { continue };
        let at = layer.at.join(name.as_path());
        let failure = Failure::new(format!(
            "cannot capture the change of `{}`: it has another name (a hard link) elsewhere, which kkrun could not restore",
            PathText::new(&at)
        ));
        let hint = format!("find it with `find {} -xdev -samefile {}`", layer.at.display(), at.display());
        bail!(failure.kind(FailureKind::Refused).hint(hint));
    }
    Ok(())
}

/// All names of a file in a manifest.
fn names_of<'a>(manifest: &'a Manifest, first: &'a PathText) -> Vec<&'a PathText> {
    let is_one = |(path, state): &(&PathText, &FileState)| {
        *path == first || matches!(state, FileState::SameFile { of } if of == first)
    };
    manifest.entries().filter(is_one).map(|(path, _)| path).collect()
}

/// The overlay shows the names of a file of the lower side as files of their own once one of them was written. Those that
/// were not written stay names of one file, and what is in the lower side alone stays.
fn keep_names_together(before: &Manifest, after: &mut Manifest, whole: &BTreeSet<PathText>) {
    let is_hidden =
        |path: &PathText| path.as_path().ancestors().any(|above| whole.contains(&PathText::new(above)));
    let mut firsts: BTreeMap<PathText, PathText> = BTreeMap::new();
    let linked: BTreeSet<&PathText> = before
        .entries()
        .filter_map(|(_, state)| if let FileState::SameFile { of } = state { Some(of) } else { None })
        .collect();
    for (path, old) in before.entries() {
        let group = match old {
            FileState::SameFile { of } => of,
            FileState::File { .. } if linked.contains(path) => path,
            _ => continue,
        };
        let Some(old) = before.get_alone(path.as_path()) else { continue };
        let is_same = match after.get(path.as_path()) {
            Some(FileState::SameFile { .. }) => false,
            Some(new) => is_unchanged(old, new),
            None => !is_hidden(path),
        };
        if !is_same {
            continue;
        }
        let state = if let Some(first) = firsts.get(group) {
            FileState::SameFile { of: first.clone() }
        } else {
            firsts.insert(group.clone(), path.clone());
            old.clone()
        };
        after.insert(path.as_path(), state);
    }
}

/// What is kept of the manifests: what is changed, the directories above it, and the files that its names are names of.
fn kept(before: &Manifest, after: &Manifest, changed: &BTreeSet<PathText>) -> BTreeSet<PathText> {
    let mut kept: BTreeSet<PathText> = BTreeSet::from([PathText::new(".")]);
    for path in changed {
        kept.insert(path.clone());
        for state in [before.get(path.as_path()), after.get(path.as_path())].into_iter().flatten() {
            if let FileState::SameFile { of } = state {
                kept.insert(of.clone());
            }
        }
    }
    let names_too: Vec<PathText> = [before, after]
        .into_iter()
        .flat_map(Manifest::entries)
        .filter(|(_, state)| matches!(state, FileState::SameFile { of } if kept.contains(of)))
        .map(|(path, _)| path.clone())
        .collect();
    kept.extend(names_too);
    let above: Vec<PathText> = kept
        .iter()
        .flat_map(|path| path.as_path().ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()))
        .map(PathText::new)
        .collect();
    kept.extend(above);
    kept
}

/// Refuses to let go what could not be made again.
fn refuse_what_cannot_be_restored(
    layer: &Layer,
    before: &Manifest,
    changed: &BTreeSet<PathText>,
) -> Result<()> {
    for path in changed {
        if let Some(state @ FileState::Special { .. }) = before.get(path.as_path()) {
            let at = PathText::new(layer.at.join(path.as_path()));
            let what = state.kind_name();
            bail!(
                Failure::new(format!(
                    "cannot capture the change of `{at}`: it is {what}, which kkrun could not restore"
                ))
                .kind(FailureKind::Refused)
            );
        }
    }
    Ok(())
}
