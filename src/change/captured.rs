//! What a captured command changed: files, links and directories anywhere on the machine, made at once or not at all.
//!
//! The command has ended well before this change is intended: it ran in a view of the machine
//! ([`Capture`](crate::machine::capture::Capture)). The act applies what it left there. One that fails or is killed is
//! withdrawn, so that the command finds the machine as before when its step runs it again. The undo goes path by path: what
//! was modified outside kkrun since stays, and everything else is restored.
//!
//! A command that has to run on the machine itself can name the paths that it touches ([`touched`](super::touched)). What it
//! makes of these is known once it has ended; from then on the change is like any other of this kind.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::command::CommandSource;
use super::file::{may_be_shown, recorded_contents, showable};
use super::tree::{blob, entry_path, keep_copy, read_manifest};
use super::{
    Kind, MOST_SHOWN, Payload, Position, Predicted, UndoTerms, Undone, World, accounts_of, missing,
    shortened, state_value, tag, unified_diff,
};
use crate::failure::{Failure, FailureKind};
use crate::journal::Undoing;
use crate::machine::capture::Difference;
use crate::machine::files::{self, Content, Digest, Discarded, FileState, Manifest, PathText, Times};
use crate::machine::mount::{self, Holding};
use crate::machine::tree_size::TreeSize;
use crate::target::{States, Target};

/// What a captured command changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CapturedChange {
    pub(super) before: CapturedState,
    pub(super) after: CapturedState,
    pub(super) inverse: CapturedInverse,
    /// Set where the command was run; a change that was read from the journal has none.
    #[serde(skip)]
    pub(super) source: Option<Rc<Source>>,
    /// Of named paths: what was there right before the command, likewise.
    #[serde(skip)]
    pub(super) found: Option<Rc<Vec<Manifest>>>,
}

/// What is at the changed paths, in short.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturedState {
    /// How many paths differ between before and after.
    #[serde(default)]
    pub(super) paths: u64,
    /// Of each file system the manifest of the changed paths and of the directories above them, under which it is in the
    /// backups. None after a command that named its paths and has not been seen to end.
    #[serde(default)]
    pub(super) manifests: Vec<Digest>,
    /// Of what an undo put back: the manifests of what it took away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) instead_of: Vec<Digest>,
    /// What the command was run with.
    #[serde(flatten)]
    pub(super) source: CommandSource,
}

/// What undoing it needs besides the states. The contents are in the backups under their hashes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct CapturedInverse {
    pub(super) label: String,
    /// Where the file systems are mounted that the manifests are of; of named paths, the directories that they are in.
    pub(super) roots: Vec<PathText>,
    /// The named paths, if the command ran on the machine itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) touches: Vec<PathText>,
    /// The file systems that hold the roots, but the one at the root of all.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) held_by: BTreeMap<PathText, Holding>,
}

/// The file systems that hold these directories.
pub(super) fn holding(roots: &[PathText]) -> Result<BTreeMap<PathText, Holding>> {
    let of_one = |root: &PathText| Ok(mount::holding(root.as_path())?.map(|holding| (root.clone(), holding)));
    roots.iter().filter_map(|root| of_one(root).transpose()).collect()
}

/// The changed paths of one file system, by their paths from where it is mounted.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) root: PathBuf,
    pub(super) before: Manifest,
    pub(super) after: Manifest,
    pub(super) changed: BTreeSet<PathText>,
}

#[derive(Debug)]
pub(super) struct Source {
    parts: Vec<Part>,
    /// Where what the command left is, for each part.
    uppers: Vec<PathBuf>,
    /// A directory of the file system that holds them, opened before the command ran.
    opened: Option<Arc<OwnedFd>>,
    modified_meanwhile: BTreeSet<PathBuf>,
}

impl CapturedChange {
    /// The change that these differences are; `None` if there are none.
    ///
    /// # Errors
    /// When a manifest cannot be written as JSON.
    pub fn of(label: &str, source: CommandSource, differences: Vec<Difference>) -> Result<Option<Self>> {
        let (mut parts, mut uppers, mut modified_meanwhile) = (Vec::new(), Vec::new(), BTreeSet::new());
        let mut opened = None;
        for Difference { at, upper, opened: by, before, after, modified_meanwhile: modified } in differences {
            opened = Some(by);
            modified_meanwhile.extend(modified.iter().map(|name| entry_path(&at, name.as_path())));
            parts.push(Part::new(at, before, after));
            uppers.push(upper);
        }
        Self::of_parts(label, source, Source { parts, uppers, opened, modified_meanwhile })
    }

    fn of_parts(label: &str, source: CommandSource, from: Source) -> Result<Option<Self>> {
        let paths = from.parts.iter().map(|part| part.changed.len() as u64).sum();
        if paths == 0 {
            return Ok(None);
        }
        let digests = |side: fn(&Part) -> &Manifest| {
            from.parts.iter().map(|part| Ok(Digest::of(&blob(side(part))?))).collect::<Result<Vec<_>>>()
        };
        let before =
            CapturedState { paths, manifests: digests(|part| &part.before)?, ..CapturedState::default() };
        let after =
            CapturedState { paths, manifests: digests(|part| &part.after)?, instead_of: Vec::new(), source };
        let roots: Vec<PathText> = from.parts.iter().map(|part| PathText::new(&*part.root)).collect();
        let held_by = holding(&roots)?;
        let inverse = CapturedInverse { label: label.to_owned(), roots, touches: Vec::new(), held_by };
        Ok(Some(Self { before, after, inverse, source: Some(Rc::new(from)), found: None }))
    }

    /// The paths that differ.
    pub fn paths(&self) -> Vec<PathBuf> {
        let parts = self.source.iter().flat_map(|source| &source.parts);
        parts.flat_map(Part::paths).collect()
    }

    /// How many files have a new content, and how much of the disk that takes until it is applied.
    pub fn size(&self) -> TreeSize {
        let mut size = TreeSize::default();
        for (part, upper) in self.source.iter().flat_map(|source| source.parts.iter().zip(&source.uppers)) {
            for name in &part.changed {
                let before = part.before.get_alone(name.as_path()).and_then(FileState::sha256);
                if let Some(FileState::File { sha256, size: bytes, .. }) = part.after.get(name.as_path())
                    && before != Some(*sha256)
                {
                    // Holes take nothing.
                    let taken = std::fs::symlink_metadata(upper.join(name)).map(|held| held.blocks() * 512);
                    size.files += 1;
                    size.bytes += taken.map_or(*bytes, |taken| taken.min(*bytes));
                }
            }
        }
        size
    }

    /// The paths among them that something else modified while the command ran.
    pub fn modified_meanwhile(&self) -> Vec<PathBuf> {
        self.source.iter().flat_map(|source| source.modified_meanwhile.iter().cloned()).collect()
    }

    /// The same change without these paths and what is below them; `None` if nothing is left.
    ///
    /// # Errors
    /// When a manifest cannot be written as JSON.
    pub fn without(&self, paths: &[PathBuf]) -> Result<Option<Self>> {
        let Some(source) = &self.source else { return Err(missing()) };
        let parts = source.parts.iter().map(|part| part.without(paths)).collect();
        let (uppers, opened) = (source.uppers.clone(), source.opened.clone());
        let source = Source { parts, uppers, opened, modified_meanwhile: BTreeSet::new() };
        Self::of_parts(&self.inverse.label, self.after.source.clone(), source)
    }

    /// What it left.
    ///
    /// # Errors
    /// When its manifests are not in the backups.
    pub fn left(&self, world: &World) -> Result<Left> {
        self.parts(world).map(Left)
    }

    /// Whether this command made it, and not another one of its name.
    pub fn was_made_by(&self, source: &CommandSource) -> bool {
        self.after.source == *source && source.made_by.is_some()
    }

    /// The changed paths that are not as it left them, with what is there.
    ///
    /// # Errors
    /// When they cannot be observed, or their file system is not mounted.
    pub fn not_as_left(&self, world: &World) -> Result<Vec<(PathBuf, FileState)>> {
        let parts = self.parts(world)?;
        self.refuse_unmounted_parts(&parts)?;
        let mut differing = Vec::new();
        for part in parts.iter() {
            let now = part.observe()?;
            for name in &part.changed {
                let of =
                    |side: &Manifest| side.get_alone(name.as_path()).cloned().unwrap_or(FileState::Absent);
                let (now, left) = (of(&now), of(&part.after));
                if !now.same_as(&left) {
                    differing.push((entry_path(&part.root, name.as_path()), now));
                }
            }
        }
        Ok(differing)
    }

    /// What a newer run of the command, which was undone since, put back in each file system; none where that is not known.
    fn left_since(&self, world: &World, recorded: Option<&Value>) -> Vec<Option<Part>> {
        let recorded = recorded.and_then(|recorded| CapturedState::deserialize(recorded).ok());
        let recorded = recorded.unwrap_or_default();
        // Of other file systems than these, nothing can be said.
        let is_of_these = recorded.instead_of.len() == self.inverse.roots.len();
        let part = |at: usize, root: &PathText| {
            let read = |side: &[Digest]| read_manifest(world, *side.get(at)?).ok();
            let (before, after) = (read(&recorded.manifests)?, read(&recorded.instead_of)?);
            Some(Part::new(root.as_path().to_owned(), before, after))
        };
        let roots = self.inverse.roots.iter().enumerate();
        roots.map(|(at, root)| if is_of_these { part(at, root) } else { None }).collect()
    }

    /// Refuses to speak of what is on a file system that is not mounted: nothing there is as before, or gone.
    ///
    /// # Errors
    /// `missing`, with the command that mounts it. When the manifests are not in the backups.
    pub fn refuse_unmounted(&self, world: &World) -> Result<()> {
        self.refuse_unmounted_parts(&self.parts(world)?)
    }

    fn refuse_unmounted_parts(&self, parts: &[Part]) -> Result<()> {
        refuse_hidden(parts)?;
        for part in parts {
            let held_by = self.inverse.held_by.get(&PathText::new(&*part.root));
            let is_left = |name: &&PathText| part.after.get(name.as_path()).is_some();
            let (left, gone): (Vec<_>, Vec<_>) = part.changed.iter().partition(is_left);
            for name in left.into_iter().chain(gone.into_iter().take(1)) {
                mount::refuse_elsewhere(held_by, &entry_path(&part.root, name.as_path()))?;
            }
        }
        Ok(())
    }

    /// The changed paths of each file system.
    pub(super) fn parts(&self, world: &World) -> Result<Parts> {
        if let Some(source) = &self.source {
            return Ok(Parts::Made(source.clone()));
        }
        if self.is_touching() {
            return self.touched_parts(world).map(Parts::Read);
        }
        let sides = self.inverse.roots.iter().zip(&self.before.manifests).zip(&self.after.manifests);
        let part = |((root, before), after): ((&PathText, &Digest), &Digest)| {
            let (before, after) = (read_manifest(world, *before)?, read_manifest(world, *after)?);
            Ok(Part::new(root.as_path().to_owned(), before, after))
        };
        sides.map(part).collect::<Result<Vec<_>>>().map(Parts::Read)
    }

    fn tag(&self) -> String {
        tag(Path::new(&self.inverse.label))
    }

    fn clear_leftovers(&self, parts: &[Part]) -> Result<()> {
        for part in parts {
            let directories: BTreeSet<&Path> =
                part.changed.iter().filter_map(|name| name.as_path().parent()).collect();
            for directory in directories {
                files::clear_leftover(&part.root.join(directory).join("entry"), &self.tag())?;
            }
        }
        Ok(())
    }

    /// Restores every path but those in conflict, which it gives with what differs. With `force` there are none: what
    /// is there is saved first.
    fn restore(
        &self,
        world: &World,
        force: bool,
        dry_run: bool,
        recorded: Option<&Value>,
    ) -> Result<Restored> {
        let parts = self.parts(world)?;
        let left = self.left_since(world, recorded);
        if force {
            refuse_hidden(&parts)?;
        } else {
            self.refuse_unmounted_parts(&parts)?;
        }
        let mut restored = Restored { was_before: true, back: 0, paths: 0, conflicts: Vec::new() };
        let mut planned = Vec::new();
        for (part, left) in parts.iter().zip(&left) {
            let now = part.observe()?;
            part.refuse_moved(&now)?;
            restored.was_before &= part.is_exactly(&now, &part.before);
            let mut conflicts = part.conflicts(&now)?;
            // What the undo of a newer run put back is no conflict: it was agreed to when that run replaced it.
            let was_agreed = |name: &PathText| {
                left.as_ref().is_some_and(|left| {
                    let of = |side: &Manifest| {
                        side.get_alone(name.as_path()).cloned().unwrap_or(FileState::Absent)
                    };
                    left.changed.contains(name) && of(&now).same_as(&of(&left.before))
                })
            };
            conflicts.retain(|name, _| !was_agreed(name));
            // Of a file that kept its content there is no backup: what was agreed to stays.
            let replaced: BTreeSet<&PathText> = part.replaced().map(|(name, _)| name).collect();
            let is_kept = |name: &&PathText| {
                was_agreed(name) && now.get(name.as_path()).is_none() && !replaced.contains(name)
            };
            let kept: BTreeSet<PathText> = part.changed.iter().filter(is_kept).cloned().collect();
            planned.push((part, now, conflicts, kept));
        }
        if restored.was_before {
            return Ok(restored);
        }
        if self.is_unseen() && !dry_run {
            for (part, now, ..) in &mut planned {
                self.keep_what_may_be_others(world, part)?;
                *now = part.observe()?;
            }
        }
        for (part, now, mut conflicts, mut kept) in planned {
            if force {
                if !dry_run {
                    for name in conflicts.keys() {
                        keep_copy(world, &entry_path(&part.root, name.as_path()))?;
                    }
                }
                conflicts.clear();
            }
            kept.extend(conflicts.keys().cloned());
            let mut goal = part.goal(&now, &kept);
            part.leave_content(&now, &mut goal, &mut kept);
            let path = |name: &Path| entry_path(&part.root, name);
            let lines =
                conflicts.iter().map(|(name, why)| format!("{}: {why}", path(name.as_path()).display()));
            restored.conflicts.extend(lines);
            let is_back = |name: &&PathText| goal.get(name.as_path()) == part.before.get(name.as_path());
            restored.back += part.changed.iter().filter(is_back).count();
            restored.paths += part.changed.len();
            mount::refuse_within(removed(&now, &goal).map(|name| path(name.as_path())))?;
            if dry_run {
                continue;
            }
            let backups = world.backups()?;
            let mut open = |relative: &Path| {
                let digest =
                    part.before.get_alone(relative).and_then(FileState::sha256).with_context(|| {
                        format!("cannot restore `{}`: it was not a file before", path(relative).display())
                    })?;
                Ok(Content::File(backups.file(digest)?))
            };
            files::converge_tree(&part.root, &now, &goal, Times::Follow, &self.tag(), &mut open)?;
            self.remove_empty_directories(part);
            let back = part.observe()?;
            let is_back = part.changed.iter().all(|name| {
                let of =
                    |manifest: &Manifest| manifest.get(name.as_path()).cloned().unwrap_or(FileState::Absent);
                of(&back).same_as(&of(&goal)) || kept.contains(name)
            });
            if !is_back {
                let differences = shortened(goal.differences(&back));
                anyhow::bail!(
                    "what `{}` changed is not as before after its undo: {differences}",
                    self.inverse.label
                );
            }
        }
        Ok(restored)
    }
}

/// Refuses to speak of paths over which something was mounted since.
fn refuse_hidden(parts: &[Part]) -> Result<()> {
    parts.iter().try_for_each(|part| {
        let paths: Vec<PathBuf> = part.paths().collect();
        mount::refuse_over(&part.root, &paths)
    })
}

/// How far a change was restored.
struct Restored {
    was_before: bool,
    /// How many of the paths are as before, or would be.
    back: usize,
    paths: usize,
    conflicts: Vec<String>,
}

pub(super) enum Parts {
    Made(Rc<Source>),
    Read(Vec<Part>),
}

/// What a captured command left.
pub struct Left(Parts);

impl Left {
    /// What it left at a path; none if it did not change that.
    pub fn at(&self, path: &Path) -> Option<FileState> {
        self.0.iter().find_map(|part| {
            let name = part.name_of(path)?;
            let is_below = *part.change_at(&name)? != name;
            let state = if is_below { None } else { part.after.get_alone(name.as_path()) };
            Some(state.cloned().unwrap_or(FileState::Absent))
        })
    }
}

impl std::ops::Deref for Parts {
    type Target = [Part];

    fn deref(&self) -> &[Part] {
        match self {
            Self::Made(source) => &source.parts,
            Self::Read(parts) => parts,
        }
    }
}

/// The directories and files that one manifest names and the other does not have in this way.
fn removed<'a>(now: &'a Manifest, goal: &'a Manifest) -> impl Iterator<Item = &'a PathText> {
    let is_removed = |(name, state): &(&PathText, &FileState)| {
        let is_directory = |state: &FileState| matches!(state, FileState::Directory { .. });
        is_directory(state) && !goal.get(name.as_path()).is_some_and(is_directory)
    };
    now.entries().filter(is_removed).map(|(name, _)| name)
}

/// The directories above a name in a manifest, the root left out.
fn above(name: &PathText) -> impl Iterator<Item = &Path> {
    name.as_path().ancestors().skip(1).filter(|above| !above.as_os_str().is_empty())
}

impl Part {
    pub(super) fn new(root: PathBuf, before: Manifest, after: Manifest) -> Self {
        let changed = crate::machine::capture::changed(&before, &after);
        Self { root, before, after, changed }
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = PathBuf> {
        self.changed.iter().map(|name| entry_path(&self.root, name.as_path()))
    }

    /// The same without what it made of these paths. Of a directory that stays one, what is in it is a path of its own; all
    /// else is left with what is below it, and needs the directories above it.
    fn without(&self, paths: &[PathBuf]) -> Self {
        let is_directory =
            |side: &Manifest, name: &Path| matches!(side.get(name), Some(FileState::Directory { .. }));
        let stays_one = |name: &Path| is_directory(&self.before, name) && is_directory(&self.after, name);
        let is_left = |name: &PathText| {
            let path = entry_path(&self.root, name.as_path());
            paths.contains(&path)
                || above(name)
                    .any(|above| paths.contains(&entry_path(&self.root, above)) && !stays_one(above))
        };
        let mut after = self.after.clone();
        after.retain(|name| !is_left(name));
        for (name, state) in self.before.entries().filter(|(name, _)| is_left(name)) {
            after.insert(name.as_path(), state.clone());
            for above in above(name) {
                if let Some(state) = self.before.get(above)
                    && !is_directory(&after, above)
                {
                    after.insert(above, state.clone());
                }
            }
        }
        Self::new(self.root.clone(), self.before.clone(), after)
    }

    /// The name of a path in the manifests.
    fn name_of(&self, path: &Path) -> Option<PathText> {
        let relative = path.strip_prefix(&self.root).ok()?;
        Some(PathText::new(if relative.as_os_str().is_empty() { Path::new(".") } else { relative }))
    }

    /// The changed name that this is, or that something took the place of with all that was below it.
    fn change_at(&self, name: &PathText) -> Option<&PathText> {
        if let Some(own) = self.changed.get(name) {
            return Some(own);
        }
        let mut above = above(name).filter_map(|above| self.changed.get(&PathText::new(above)));
        above.find(|above| !matches!(self.after.get(above.as_path()), Some(FileState::Directory { .. })))
    }

    fn names(&self) -> BTreeSet<PathText> {
        self.before.entries().chain(self.after.entries()).map(|(name, _)| name.clone()).collect()
    }

    fn observe(&self) -> Result<Manifest> {
        Ok(Manifest::observe_several(&self.root, &self.names(), &BTreeSet::new())?.manifest)
    }

    /// Refuses to speak of what is below a directory in whose place is something else, such as a symlink to where it was
    /// moved: nothing there is as before, or gone.
    fn refuse_moved(&self, now: &Manifest) -> Result<()> {
        let is_directory = |state: Option<&FileState>| matches!(state, Some(FileState::Directory { .. }));
        let above = self.changed.iter().flat_map(|name| name.as_path().ancestors().skip(1));
        let is_moved = |above: &&Path| {
            !self.changed.contains(&PathText::new(*above))
                && is_directory(self.after.get(above))
                && now.get(above).is_some_and(|now| !is_directory(Some(now)))
        };
        let Some(moved) = above.filter(|above| !above.as_os_str().is_empty()).find(is_moved) else {
            return Ok(());
        };
        let (shown, kind) = (entry_path(&self.root, moved), now.get(moved).map(FileState::kind_name));
        let shown = shown.display();
        Err(Failure::new(format!(
            "cannot restore what is below `{shown}`: it was a directory, and is {} now",
            kind.unwrap_or_default()
        ))
        .kind(FailureKind::Conflict)
        .hint(format!("make `{shown}` a directory again with what was in it, then try again"))
        .into())
    }

    /// The same, with the time of each file of which nothing else was changed.
    fn is_exactly(&self, now: &Manifest, side: &Manifest) -> bool {
        let time = |manifest: &Manifest, name: &PathText| match manifest.get(name.as_path()) {
            Some(FileState::File { metadata, .. }) => Some(metadata.mtime),
            _ => None,
        };
        let is_time_alone = |name: &&PathText| {
            let [before, after] = [&self.before, &self.after].map(|side| side.get(name.as_path()));
            before.zip(after).is_some_and(|(before, after)| before.same_as(after))
        };
        self.is_as(now, side)
            && self.changed.iter().filter(is_time_alone).all(|name| time(now, name) == time(side, name))
    }

    /// Whether what is there now is as one side has it, at the changed paths.
    fn is_as(&self, now: &Manifest, side: &Manifest) -> bool {
        self.changed.iter().all(|name| match (now.get(name.as_path()), side.get(name.as_path())) {
            (Some(now), Some(side)) => now.same_as(side),
            (None, None) => true,
            _ => false,
        })
    }

    /// The changed paths that are neither as before nor as after, nor on the way between the two, and the directories
    /// that were made and hold something else by now; with what differs.
    fn conflicts(&self, now: &Manifest) -> Result<BTreeMap<PathText, String>> {
        let absent = &FileState::Absent;
        let shared = self.shared();
        let mut conflicts = BTreeMap::new();
        for name in &self.changed {
            let of =
                |manifest: &Manifest| manifest.get_alone(name.as_path()).cloned().unwrap_or(absent.clone());
            let (now, before, after) = (of(now), of(&self.before), of(&self.after));
            let is_directory = |state: &FileState| matches!(state, FileState::Directory { .. });
            // One of the two is gone, and the other is not there yet.
            let is_halfway =
                now.is_absent() && (is_directory(&before) != is_directory(&after) || shared.contains(name));
            if !is_halfway && !now.lies_between(&before, &after) {
                conflicts.insert(name.clone(), after.differences(&now).join(", "));
            } else if is_directory(&now) && is_directory(&after) && !is_directory(&before) {
                let others = self.others_in(name)?;
                if !others.is_empty() {
                    conflicts.insert(name.clone(), format!("it holds {}", super::tree::others(others)));
                }
            }
        }
        Ok(conflicts)
    }

    /// The paths at which a file has, before or after, another name among them.
    fn shared(&self) -> BTreeSet<&PathText> {
        let mut shared = BTreeSet::new();
        for (name, state) in self.before.entries().chain(self.after.entries()) {
            if let FileState::SameFile { of } = state {
                shared.extend([name, of]);
            }
        }
        shared
    }

    /// The names in a directory that the command did not make.
    fn others_in(&self, name: &PathText) -> Result<Vec<String>> {
        let directory = entry_path(&self.root, name.as_path());
        let unreadable = || format!("cannot read the directory `{}`", directory.display());
        let mut others = Vec::new();
        for entry in std::fs::read_dir(&directory).with_context(unreadable)? {
            let other = entry.with_context(unreadable)?.file_name();
            let inner = name.as_path().join(&other);
            if self.after.get(&inner).is_none() && self.before.get(&inner).is_none() {
                others.push(PathText::new(other).to_string());
            }
        }
        Ok(others)
    }

    /// What is to be there once everything but the conflicts is restored. The time of a directory is restored if no one
    /// else changed what is in it.
    fn goal(&self, now: &Manifest, conflicts: &BTreeSet<PathText>) -> Manifest {
        let stays = |name: &PathText| {
            let mut at_or_above = name.as_path().ancestors().filter(|above| !above.as_os_str().is_empty());
            at_or_above.any(|above| {
                let above = PathText::new(above);
                // What was made in a directory that stays goes; what cannot be made in a file that stays is left.
                let is_directory = matches!(now.get(above.as_path()), Some(FileState::Directory { .. }));
                conflicts.contains(&above) && (above == *name || !is_directory)
            })
        };
        let mut goal = Manifest::default();
        let mut kept = BTreeSet::new();
        for name in self.names() {
            let present = now.get(name.as_path());
            let state = if stays(&name) {
                kept.insert(name.clone());
                present.cloned()
            } else if self.changed.contains(&name) {
                self.before.get(name.as_path()).cloned()
            } else {
                let mut state = present.cloned();
                if let Some(FileState::Directory { metadata }) = &mut state
                    && let Some(after) = self.after.get(name.as_path()).and_then(FileState::metadata)
                    && let Some(before) = self.before.get(name.as_path()).and_then(FileState::metadata)
                    && metadata.mtime == after.mtime
                {
                    metadata.mtime = before.mtime;
                }
                state
            };
            if let Some(state) = state {
                goal.insert(name.as_path(), state);
            }
        }
        // What stays needs the directories above it.
        for name in kept.iter().filter(|name| now.get(name.as_path()).is_some()) {
            for above in above(name) {
                if let Some(present @ FileState::Directory { .. }) = now.get(above)
                    && !matches!(goal.get(above), Some(FileState::Directory { .. }))
                {
                    goal.insert(above, present.clone());
                }
            }
        }
        self.part_from_kept(&mut goal, &kept);
        goal
    }

    /// Of a file that kept its content there is no backup: what it holds by now stays, with owner and mode as before. One
    /// that is gone stays so.
    fn leave_content(&self, now: &Manifest, goal: &mut Manifest, kept: &mut BTreeSet<PathText>) {
        let replaced: BTreeSet<&PathText> = self.replaced().map(|(name, _)| name).collect();
        for name in self.changed.iter().filter(|name| !replaced.contains(name)) {
            let Some(FileState::File { sha256: before, metadata, .. }) = goal.get(name.as_path()).cloned()
            else {
                continue;
            };
            match now.get(name.as_path()) {
                Some(FileState::File { sha256, size, .. }) if *sha256 != before => {
                    goal.insert(name.as_path(), FileState::File { sha256: *sha256, size: *size, metadata });
                }
                Some(FileState::File { .. }) => {}
                _ => {
                    goal.retain(|other| other != name);
                    if let Some(present) = now.get(name.as_path()) {
                        goal.insert(name.as_path(), present.clone());
                    }
                    kept.insert(name.clone());
                }
            }
        }
    }

    /// A name of a file that stays as it is becomes a file of its own.
    fn part_from_kept(&self, goal: &mut Manifest, kept: &BTreeSet<PathText>) {
        let is_of_kept = |state: &FileState| matches!(state, FileState::SameFile { of } if kept.contains(of));
        let names: Vec<PathText> = self
            .changed
            .iter()
            .filter(|name| !kept.contains(*name) && goal.get(name.as_path()).is_some_and(is_of_kept))
            .cloned()
            .collect();
        for name in names {
            if let Some(alone) = self.before.get_alone(name.as_path()) {
                goal.insert(name.as_path(), alone.clone());
            }
        }
    }

    /// The changed files whose content is lost by the act.
    fn replaced(&self) -> impl Iterator<Item = (&PathText, &FileState)> {
        let shared = self.shared();
        let is_replaced = move |name: &PathText| {
            let [before, after] = [&self.before, &self.after].map(|side| side.get(name.as_path()));
            shared.contains(name) || before.and_then(FileState::sha256) != after.and_then(FileState::sha256)
        };
        let files =
            self.changed.iter().filter_map(|name| Some((name, self.before.get_alone(name.as_path())?)));
        files.filter(move |(name, state)| state.sha256().is_some() && is_replaced(name))
    }

    /// What a path is by now, as a line and, for a short text that everyone may read, a difference; by what the command left
    /// below `upper`, or once it was applied by what is kept.
    fn difference(&self, name: &PathText, upper: Option<&Path>, world: &World) -> String {
        let path = entry_path(&self.root, name.as_path());
        let absent = FileState::Absent;
        let of = |side: &Manifest| side.get(name.as_path()).cloned().unwrap_or(absent.clone());
        let (before, after) = (of(&self.before), of(&self.after));
        let what = |state: &FileState| match state {
            FileState::File { size, .. } => format!("a file of {size} bytes"),
            FileState::Link { to, .. } => format!("a symbolic link to `{to}`"),
            state => state.kind_name().to_owned(),
        };
        let mut text = match (&before, &after) {
            (FileState::Absent, made) => format!("{}: {}", path.display(), what(made)),
            (gone, FileState::Absent) => format!("{}: {} → absent", path.display(), what(gone)),
            (before, after) => {
                let mut differences = before.differences(after);
                if differences.is_empty() {
                    differences.push("its time".to_owned());
                }
                format!("{}: {}", path.display(), differences.join(", "))
            }
        };
        if before.sha256() != after.sha256()
            && (before.is_absent() || before.sha256().is_some())
            && after.sha256().is_some()
            && may_be_shown(&before)
            && may_be_shown(&after)
            && !world.content_is_secret.get()
        {
            let read = |path: &Path, is_there: bool| {
                if is_there { files::read(path).ok().map(|(bytes, _)| bytes) } else { Some(Vec::new()) }
            };
            let contents = match upper {
                Some(upper) => read(&path, !before.is_absent()).zip(read(&upper.join(name), true)),
                None => recorded_contents(world, &path, &before, &after),
            };
            if let Some((old, new)) = contents
                && let (Some(old), Some(new)) = (showable(&before, &old), showable(&after, &new))
            {
                // Before the lines get their signs: a secret of many lines would not be found behind those.
                let (old, new) = (world.reporter.redact(old), world.reporter.redact(new));
                text.push('\n');
                text.push_str(unified_diff(&old, &new, None).trim_end());
            }
        }
        text
    }
}

impl Kind for CapturedChange {
    fn target(&self) -> Target {
        Target::Captured(self.inverse.label.clone())
    }

    fn needs(&self) -> Result<Vec<Target>> {
        let found = self.found.iter().flat_map(|found| found.iter().flat_map(Manifest::entries));
        if self.is_touching() {
            return accounts_of(found.filter_map(|(_, state)| state.ownership()));
        }
        let parts = self.source.iter().flat_map(|source| &source.parts);
        let changed =
            parts.flat_map(|part| part.changed.iter().filter_map(|name| part.after.get(name.as_path())));
        accounts_of(changed.filter_map(FileState::ownership))
    }

    fn backups(&self, world: &World, _recorded: Option<&Value>) -> Vec<Digest> {
        let mut needed: Vec<Digest> =
            self.before.manifests.iter().chain(&self.after.manifests).copied().collect();
        // A manifest that is missing is among them.
        if let Ok(parts) = self.parts(world) {
            needed.extend(parts.iter().flat_map(Part::replaced).filter_map(|(_, state)| state.sha256()));
        }
        needed
    }

    fn relied_on<'t>(&self, later: &[&'t Target], world: &World) -> Result<Vec<&'t Target>> {
        let parts = self.parts(world)?;
        let relies = |target: &&&Target| {
            let is_met = |part: &Part| match target.path() {
                Some(path) => part.name_of(path).is_some_and(|name| {
                    let mut at_or_above =
                        name.as_path().ancestors().filter(|above| !above.as_os_str().is_empty());
                    at_or_above.any(|above| {
                        let above = PathText::new(above);
                        let was_directory =
                            matches!(part.before.get(above.as_path()), Some(FileState::Directory { .. }));
                        part.changed.contains(&above) && (above == name || !was_directory)
                    })
                }),
                None => part.paths().any(|path| target.runs_by(&path)),
            };
            parts.iter().any(is_met)
        };
        Ok(later.iter().filter(relies).copied().collect())
    }

    fn reaches(&self, path: &Path, world: &World) -> bool {
        let Ok(parts) = self.parts(world) else { return true };
        parts.iter().any(|part| part.name_of(path).is_some_and(|name| part.change_at(&name).is_some()))
    }

    fn touches(&self, world: &World) -> Vec<PathBuf> {
        self.parts(world).map_or_else(|_| Vec::new(), |parts| parts.iter().flat_map(Part::paths).collect())
    }

    fn removed_by_undo(&self, world: &World) -> Vec<PathBuf> {
        let Ok(parts) = self.parts(world) else { return Vec::new() };
        let made = |part: &Part| {
            let made = part.changed.iter().filter(|name| part.before.get(name.as_path()).is_none());
            made.map(|name| entry_path(&part.root, name.as_path())).collect::<Vec<_>>()
        };
        parts.iter().flat_map(made).collect()
    }

    fn summary(&self) -> String {
        if self.is_touching() {
            return format!("run {}", self.inverse.label);
        }
        let paths = if self.after.paths == 1 { "path" } else { "paths" };
        format!("run {}: {} {paths} changed", self.inverse.label, self.after.paths)
    }

    fn difference(&self, world: &World) -> Option<String> {
        let source = self.source.as_ref()?;
        let parts = source.parts.iter().zip(&source.uppers);
        let all = parts.flat_map(|(part, upper)| part.changed.iter().map(move |name| (part, upper, name)));
        let mut lines: Vec<String> = all
            .take(MOST_SHOWN)
            .map(|(part, upper, name)| part.difference(name, Some(upper), world))
            .collect();
        let more = self.after.paths.saturating_sub(MOST_SHOWN as u64);
        if more > 0 {
            lines.push(format!("… and {more} more"));
        }
        Some(lines.join("\n"))
    }

    fn recorded_difference(&self, world: &World) -> Option<String> {
        let parts = self.parts(world).ok()?;
        let of_part = |part: &Part| {
            part.changed.iter().map(|name| part.difference(name, None, world)).collect::<Vec<_>>()
        };
        let lines: Vec<String> = parts.iter().flat_map(of_part).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    fn predict(&self, world: &World, predicted: &mut Predicted) {
        if let Ok(parts) = self.parts(world) {
            for part in parts.iter() {
                predicted.set_tree(&part.root, &part.before, &part.after, false);
            }
        }
    }

    fn prepare(&self, world: &World) -> Result<()> {
        if self.is_touching() {
            return self.save_found(world);
        }
        let parts = self.parts(world)?;
        refuse_hidden(&parts)?;
        self.clear_leftovers(&parts)?;
        let backups = world.backups()?;
        for part in parts.iter() {
            let gone = removed(&part.before, &part.after);
            mount::refuse_within(gone.map(|name| entry_path(&part.root, name.as_path())))?;
            let replaced: Vec<(PathBuf, &FileState)> = part
                .replaced()
                .map(|(name, state)| (entry_path(&part.root, name.as_path()), state))
                .collect();
            let saved = backups.save_files(replaced.iter().map(|(path, _)| path.as_path()))?;
            for ((path, expected), saved) in replaced.iter().zip(&saved) {
                if !saved.same_as(expected) {
                    let mut failure = Failure::new(format!(
                        "cannot change `{}`: it was modified meanwhile",
                        path.display()
                    ));
                    failure.output = expected.differences(saved);
                    return Err(failure.kind(FailureKind::Conflict).into());
                }
            }
            for manifest in [&part.before, &part.after] {
                backups.save(&blob(manifest)?)?;
            }
        }
        Ok(())
    }

    fn repair(&self, world: &World) -> Result<()> {
        self.clear_leftovers(&self.parts(world)?)
    }

    fn withdraw(&self, world: &World) -> Result<Vec<String>> {
        self.clear_leftovers(&self.parts(world)?)?;
        Ok(self.restore(world, false, false, None)?.conflicts)
    }

    fn act(&self, world: &World, payload: Payload<'_>) -> Result<()> {
        if let (Payload::Command(attempts), true) = (payload, self.is_touching()) {
            return attempts.run(world).map(drop);
        }
        let Some(source) = &self.source else { return Err(missing()) };
        for (part, upper) in source.parts.iter().zip(&source.uppers) {
            let opened = source.opened.as_ref().context("what a captured command left is gone")?;
            let opened = opened.try_clone().with_context(|| format!("cannot open `{}`", upper.display()))?;
            let left = Discarded::open(upper, opened)?;
            let (root, before, after) = (&part.root, &part.before, &part.after);
            files::converge_tree_from(root, before, after, Times::Follow, &self.tag(), &left)?;
        }
        self.recorded_as_desired(&source.parts)
    }

    fn position(&self, world: &World) -> Result<Position> {
        let parts = self.parts(world)?;
        self.refuse_unmounted_parts(&parts)?;
        self.clear_leftovers(&parts)?;
        let (mut is_before, mut is_after, mut conflicts) = (true, true, Vec::new());
        for part in parts.iter() {
            let now = part.observe()?;
            is_before &= part.is_exactly(&now, &part.before);
            is_after &= part.is_exactly(&now, &part.after);
            let path = |name: &PathText| entry_path(&part.root, name.as_path());
            let found = part.conflicts(&now)?;
            conflicts.extend(found.iter().map(|(name, why)| format!("{}: {why}", path(name).display())));
        }
        Ok(if is_after && !self.is_unseen() {
            Position::After
        } else if is_before {
            Position::Before
        } else if conflicts.is_empty() {
            Position::Between
        } else {
            Position::Neither(shortened(conflicts))
        })
    }

    fn is_run_again(&self) -> bool {
        true
    }

    fn recorded(&self, world: &World) -> Result<States> {
        if self.is_unseen() {
            return Ok([(self.target(), state_value(&self.seen(world)?))].into());
        }
        // The act has looked already, if it was this process's.
        if self.source.is_none() {
            self.recorded_as_desired(&self.parts(world)?)?;
        }
        Ok([(self.target(), state_value(&self.after))].into())
    }

    fn undo(&self, world: &mut World, terms: UndoTerms<'_>) -> Result<Undone> {
        if !terms.dry_run {
            self.clear_leftovers(&self.parts(world)?)?;
        }
        let restored = self.restore(world, terms.force, terms.dry_run, terms.recorded)?;
        let before = CapturedState { instead_of: self.after.manifests.clone(), ..self.before.clone() };
        let back = [(self.target(), state_value(&before))].into();
        Ok(if restored.was_before {
            Undone::Back(Undoing::Already, back)
        } else if restored.conflicts.is_empty() {
            Undone::Back(Undoing::Restored, back)
        } else {
            let mut why = shortened(restored.conflicts);
            let (back, paths) = (restored.back, restored.paths);
            if back > 0 {
                let are = if terms.dry_run { "would be" } else { "are" };
                why = format!("{why}\nthe other {back} of {paths} paths {are} as before");
            }
            Undone::Conflict(why)
        })
    }
}

impl CapturedChange {
    fn recorded_as_desired(&self, parts: &[Part]) -> Result<()> {
        for part in parts {
            let now = part.observe()?;
            if !part.is_as(&now, &part.after) {
                let differences = shortened(part.after.differences(&now));
                anyhow::bail!("what `{}` changed is not as desired: {differences}", self.inverse.label);
            }
        }
        Ok(())
    }
}
