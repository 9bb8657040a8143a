//! A tree: entries copied into it, the whole of it mirrored from another one, or removed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Kind, Loss, Payload, Position, Predicted, UndoTerms, Undone, World, accounts_of, is_volatile, shortened,
    state_value, tag,
};
use crate::event::Modification;
use crate::failure::{Failure, FailureKind};
use crate::journal::{Class, PlainData, Undoing};
use crate::machine::files::{
    self, Content, Digest, FileState, Flags, Manifest, ModifiedAt, OpenFile, PathText, Times,
};
use crate::machine::mount;
use crate::target::{States, Target};

/// How many entries that kkrun did not make are named.
const MOST_NAMED: usize = 5;

/// A change to a tree.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TreeChange {
    before: TreeState,
    after: TreeState,
    inverse: TreeInverse,
    /// What was found and what is desired, on their way to the backups.
    #[serde(skip)]
    manifests: Option<Manifests>,
}

/// What a tree holds, in short. Times are no part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeState {
    /// How many entries, the root included; none if there is no tree.
    entries: u64,
    /// How many bytes the files hold.
    bytes: u64,
    /// Of the manifest with all times zero, under which it is in the backups.
    manifest: Digest,
}

/// What undoing it needs besides the states. The contents are in the backups under their hashes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TreeInverse {
    path: PathText,
    scope: Scope,
    /// Of the manifest from before with its times, under which it is in the backups.
    before: Digest,
}

/// What of a tree a change is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Scope {
    /// The entries that it names.
    Listed,
    /// All that is in it.
    Whole,
}

#[derive(Clone, Debug)]
struct Manifests {
    before: Manifest,
    after: Manifest,
}

impl TreeState {
    fn of(manifest: &Manifest) -> Result<Self> {
        let summary = manifest.summary();
        let manifest = Digest::of(&blob(&timeless(manifest))?);
        Ok(Self { entries: summary.entries, bytes: summary.bytes, manifest })
    }
}

fn timeless(manifest: &Manifest) -> Manifest {
    manifest.clone().dated(ModifiedAt { seconds: 0, nanoseconds: 0 })
}

pub(super) fn blob(manifest: &Manifest) -> Result<Vec<u8>> {
    serde_json::to_vec(manifest).context("cannot write a manifest as JSON")
}

impl TreeChange {
    /// The change that brings the entries that `desired` names to that state, in the tree at the canonical path
    /// `path`, and leaves every other entry alone; `None` if they are so already.
    ///
    /// # Errors
    /// When a directory would have to become something else, or something else a directory.
    pub fn copy(path: &Path, desired: &Manifest) -> Result<Option<Self>> {
        let found = Manifest::observe_listed(path, desired.entries().map(|(name, _)| name))?;
        for (name, wanted) in desired.entries() {
            let present = found.get(name.as_path()).unwrap_or(&FileState::Absent);
            let both = [present, wanted].map(|state| matches!(state, FileState::Directory { .. }));
            let is_special = matches!(present, FileState::Special { .. });
            if is_special || (!present.is_absent() && both[0] != both[1]) {
                let at = PathText::new(path.join(name));
                return Err(Failure::new(format!(
                    "cannot copy to `{at}`: it is {}, not {}",
                    present.kind_name(),
                    wanted.kind_name()
                ))
                .kind(FailureKind::Exists)
                .into());
            }
        }
        Self::between(path, Scope::Listed, found, desired)
    }

    /// The change that makes the whole tree at the canonical path `path` as `desired`; `None` if it is so already.
    ///
    /// # Errors
    /// When it holds what could not be restored, such as a mount point.
    pub fn mirror(path: &Path, desired: &Manifest) -> Result<Option<Self>> {
        let found = replaceable(path, desired)?;
        Self::between(path, Scope::Whole, found, desired)
    }

    /// The change that removes the tree at the canonical path `path`; `None` when there is none.
    ///
    /// # Errors
    /// As [`TreeChange::mirror`].
    pub fn remove(path: &Path) -> Result<Option<Self>> {
        Self::mirror(path, &Manifest::default())
    }

    fn between(path: &Path, scope: Scope, found: Manifest, desired: &Manifest) -> Result<Option<Self>> {
        if found.same_as(desired) {
            return Ok(None);
        }
        let inverse = TreeInverse { path: PathText::new(path), scope, before: Digest::of(&blob(&found)?) };
        Ok(Some(Self {
            before: TreeState::of(&found)?,
            after: TreeState::of(desired)?,
            inverse,
            manifests: Some(Manifests { before: found, after: timeless(desired) }),
        }))
    }

    /// Whether it is about all that is in the tree, not the listed entries alone.
    pub fn is_whole(&self) -> bool {
        matches!(self.inverse.scope, Scope::Whole)
    }

    fn path(&self) -> &Path {
        self.inverse.path.as_path()
    }

    /// The manifests from before, with times, and after, without.
    fn manifests(&self, world: &World) -> Result<Manifests> {
        match &self.manifests {
            Some(manifests) => Ok(manifests.clone()),
            None => Ok(Manifests {
                before: read_manifest(world, self.inverse.before)?,
                after: read_manifest(world, self.after.manifest)?,
            }),
        }
    }

    /// Removes what a killed run was preparing: beside the tree, and beside each entry that is changed by itself.
    fn clear_leftovers(&self, manifests: &Manifests) -> Result<()> {
        let (path, tag) = (self.path(), tag(self.path()));
        files::clear_leftover(path, &tag)?;
        if self.inverse.scope == Scope::Listed {
            let all = manifests.before.entries().chain(manifests.after.entries());
            let directories: BTreeSet<&Path> = all.filter_map(|(name, _)| name.as_path().parent()).collect();
            for directory in directories {
                files::clear_leftover(&path.join(directory).join("entry"), &tag)?;
            }
        }
        Ok(())
    }

    /// What of the tree this change is about, as it is now.
    fn observe(&self, manifests: &Manifests) -> Result<Manifest> {
        match self.inverse.scope {
            Scope::Whole => Manifest::observe(self.path()),
            Scope::Listed => {
                let names: BTreeSet<&PathText> = manifests
                    .before
                    .entries()
                    .chain(manifests.after.entries())
                    .map(|(name, _)| name)
                    .collect();
                Manifest::observe_listed(self.path(), names)
            }
        }
    }

    /// The paths that were not there before.
    fn made(&self, Manifests { before, after }: &Manifests) -> Vec<PathBuf> {
        let made = after.entries().filter(|(name, _)| before.get(name.as_path()).is_none());
        made.map(|(name, _)| entry_path(self.path(), name.as_path())).collect()
    }

    fn restore(&self, world: &World, now: &Manifest, before: &Manifest) -> Result<()> {
        let path = self.path();
        let mut open = open_saved(world, before)?;
        match self.inverse.scope {
            Scope::Listed => files::converge_tree(path, now, before, Times::Return, &tag(path), &mut open),
            Scope::Whole => exchange(path, now, before, &mut open),
        }
    }
}

/// The tree at `path`, all of which can be restored once `desired` has replaced it.
///
/// # Errors
/// When something in it could not be restored.
pub(super) fn replaceable(path: &Path, desired: &Manifest) -> Result<Manifest> {
    let (found, linked) = Manifest::observe_with_names_outside(path)?;
    let refused = |name: &PathText, what: &str| {
        let at = PathText::new(path.join(name));
        Failure::new(format!("cannot replace or remove `{at}`: it {what}")).kind(FailureKind::Refused)
    };
    for (name, state) in found.entries() {
        if let FileState::Special { .. } = state {
            let what = format!("is {}, which kkrun cannot restore", state.kind_name());
            return Err(refused(name, &what).into());
        }
        if state.metadata().and_then(|metadata| metadata.flags).is_some_and(Flags::is_fixed) {
            let hint = "lift the flag with `chattr -ia`; `lsattr -d` shows it";
            return Err(refused(name, "is immutable or can only be appended to").hint(hint).into());
        }
    }
    if let Some(name) = linked.first()
        && !found.same_as(desired)
    {
        let what = "has another name (a hard link) outside the tree, which kkrun could not restore";
        let hint = format!("find it with `find / -xdev -samefile {}`", path.join(name).display());
        return Err(refused(name, what).hint(hint).into());
    }
    Ok(found)
}

/// The name that a manifest has in the backups.
pub(super) fn digest(manifest: &Manifest) -> Result<Digest> {
    Ok(Digest::of(&blob(manifest)?))
}

/// Saves what is at a path, whatever it is, before it goes: a copy is kept even where the operator agreed to the loss.
pub(super) fn keep_copy(world: &World, path: &Path) -> Result<()> {
    if let FileState::Directory { .. } = FileState::observe(path)? {
        return save(world, path).map(drop);
    }
    if let FileState::Link { to, .. } = world.backups()?.save_file(path)? {
        use std::os::unix::ffi::OsStrExt;
        world.backups()?.save(to.as_path().as_os_str().as_bytes())?;
    }
    Ok(())
}

/// Saves a tree: its manifest and all its contents.
pub(super) fn save(world: &World, path: &Path) -> Result<Manifest> {
    let saved = world.backups()?.save_tree(path)?;
    world.backups()?.save(&blob(&saved)?)?;
    Ok(saved)
}

/// The same for a tree that must be as `expected`.
pub(super) fn save_as(world: &World, path: &Path, expected: &Manifest) -> Result<()> {
    let saved = save(world, path)?;
    if saved.same_as(expected) {
        world.backups()?.save(&blob(expected)?)?;
        return Ok(());
    }
    let mut failure = Failure::new(format!("cannot save `{}`: it changes while it is read", path.display()));
    failure.output = expected.differences(&saved);
    Err(failure.kind(FailureKind::Conflict).into())
}

/// Removes the tree at `path` in one instant, if it is as `expected`.
pub(super) fn exchange_away(path: &Path, expected: &Manifest) -> Result<()> {
    exchange(path, expected, &Manifest::default(), &mut |_| anyhow::bail!("nothing is read for a removal"))
}

/// Restores a saved tree where `now` is a file, a link or nothing.
pub(super) fn restore_saved(world: &World, path: &Path, manifest: Digest, now: &FileState) -> Result<()> {
    let (before, tag) = (read_manifest(world, manifest)?, tag(path));
    let built = files::build_tree(path, &tag, &before, &mut open_saved(world, &before)?)?;
    files::exchange_tree(&built, path)?;
    let old = FileState::observe(&built)?;
    if !old.same_as(now) {
        files::exchange_tree(&built, path)?;
        files::clear_leftover(path, &tag)?;
        let mut failure =
            Failure::new(format!("cannot save `{}`: it changes while it is read", path.display()));
        failure.output = now.differences(&old);
        return Err(failure.kind(FailureKind::Conflict).into());
    }
    files::clear_leftover(path, &tag)
}

/// Opens the files of a saved tree.
fn open_saved<'a>(
    world: &'a World,
    manifest: &'a Manifest,
) -> Result<impl FnMut(&Path) -> Result<Content<'a>> + 'a> {
    let backups = world.backups()?;
    Ok(move |relative: &Path| {
        let digest = manifest.get(relative).and_then(FileState::sha256);
        let digest = digest
            .with_context(|| format!("cannot restore `{}`: it was not a file before", relative.display()))?;
        Ok(Content::File(backups.file(digest)?))
    })
}

/// Replaces the tree at `path` by `desired` in one instant; an empty one removes it. What was there must be `expected`.
pub(super) fn exchange(
    path: &Path,
    expected: &Manifest,
    desired: &Manifest,
    open: &mut OpenFile<'_>,
) -> Result<()> {
    mount::refuse_within([path])?;
    let tag = tag(path);
    files::clear_leftover(path, &tag)?;
    let aside = if desired.is_empty() {
        let Some(aside) = move_aside(path, &tag)? else {
            return files::remove_tree(path, files::identity(path)?);
        };
        aside
    } else {
        let built = files::build_tree(path, &tag, desired, open)?;
        if let Err(error) = files::exchange_tree(&built, path) {
            files::clear_leftover(path, &tag)?;
            return Err(error);
        }
        built
    };
    // What was written while the new tree was built is not in the backups.
    let old = Manifest::observe(&aside)?;
    if !old.same_as(expected) {
        files::exchange_tree(&aside, path)?;
        files::clear_leftover(path, &tag)?;
        let shown = PathText::new(path);
        let mut failure = Failure::new(format!(
            "cannot replace `{shown}`: it was modified meanwhile, and is left as it is"
        ))
        .kind(FailureKind::Conflict);
        failure.output = expected.differences(&old);
        return Err(failure.into());
    }
    files::clear_leftover(path, &tag)
}

/// Removes the directory `path` so that at no moment a part of it is missing.
pub(super) fn remove_at_once(path: &Path) -> Result<()> {
    mount::refuse_within([path])?;
    let tag = tag(path);
    files::clear_leftover(path, &tag)?;
    match move_aside(path, &tag)? {
        Some(_) => files::clear_leftover(path, &tag),
        None => files::remove_tree(path, files::identity(path)?),
    }
}

/// Moves a directory to its temporary name; `None` if its file system cannot.
fn move_aside(path: &Path, tag: &str) -> Result<Option<std::path::PathBuf>> {
    let aside = path.with_file_name(format!(".kkrun-{tag}"));
    match files::exchange_tree(path, &aside) {
        Ok(()) => Ok(Some(aside)),
        Err(error) if is_of_kind(&error, FailureKind::CrossDevice) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn is_of_kind(error: &anyhow::Error, kind: FailureKind) -> bool {
    error.downcast_ref::<Failure>().is_some_and(|failure| failure.kind == kind)
}

/// The recorded manifest, where it is recorded and can be read.
fn recorded_manifest(world: &World, recorded: Option<&Value>) -> Option<Manifest> {
    let state: TreeState = serde_json::from_value(recorded?.clone()).ok()?;
    read_manifest(world, state.manifest).ok()
}

/// What the recorded state of a tree holds.
///
/// # Errors
/// When it is not the state of a tree, or its manifest is no longer in the backups.
pub fn read_recorded_tree(world: &World, recorded: &PlainData) -> Result<Manifest> {
    let state: TreeState = recorded.read().context("invalid recorded state: expected that of a tree")?;
    read_manifest(world, state.manifest)
}

/// The form in which the ledger holds a tree; its manifest is saved.
///
/// # Errors
/// When the backups cannot be written.
pub fn record_tree(world: &World, manifest: &Manifest) -> Result<Value> {
    world.backups()?.save(&blob(&timeless(manifest))?)?;
    Ok(state_value(&TreeState::of(manifest)?))
}

pub(super) fn read_manifest(world: &World, digest: Digest) -> Result<Manifest> {
    let bytes = world.backups()?.read(digest)?;
    serde_json::from_slice(&bytes)
        .with_context(|| format!("backup `{digest}` is invalid: expected a manifest"))
}

/// The states that one path of a tree can have.
struct Sight<'a> {
    now: &'a FileState,
    before: &'a FileState,
    recorded: &'a FileState,
    after: &'a FileState,
}

impl Sight<'_> {
    /// Whether it was modified outside kkrun. What this change itself left counts as well as what is recorded: another
    /// change may have been undone since.
    fn is_conflicting(&self) -> bool {
        !self.now.lies_between(self.before, self.recorded) && !self.now.lies_between(self.before, self.after)
    }
}

/// Every path that any of them names, with its states. `otherwise` has the recorded state of the paths that `recorded`
/// does not name.
fn sights<'a>(
    now: &'a Manifest,
    before: &'a Manifest,
    recorded: &'a Manifest,
    after: &'a Manifest,
    otherwise: &'a Manifest,
) -> BTreeMap<&'a PathText, Sight<'a>> {
    let absent = &FileState::Absent;
    let all = [now, before, recorded, after].into_iter().flat_map(Manifest::entries);
    all.map(|(name, _)| {
        let of = |manifest: &'a Manifest| manifest.get(name.as_path());
        let sight = Sight {
            now: of(now).unwrap_or(absent),
            before: of(before).unwrap_or(absent),
            recorded: of(recorded).or(of(otherwise)).unwrap_or(absent),
            after: of(after).unwrap_or(absent),
        };
        (name, sight)
    })
    .collect()
}

/// Whether each path is as before or as after.
fn is_between(now: &Manifest, manifests: &Manifests) -> bool {
    let Manifests { before, after } = manifests;
    sights(now, before, after, after, after).values().all(|sight| !sight.is_conflicting())
}

impl Kind for TreeChange {
    fn target(&self) -> Target {
        Target::tree(self.path())
    }

    fn removed_by_undo(&self, world: &World) -> Vec<PathBuf> {
        self.manifests(world).map_or_else(|_| Vec::new(), |manifests| self.made(&manifests))
    }

    fn backups(&self, world: &World, _recorded: Option<&Value>) -> Vec<Digest> {
        let mut needed = vec![self.inverse.before, self.after.manifest];
        // A manifest that is missing is among them.
        if let Ok(Manifests { before, after }) = self.manifests(world) {
            let is_replaced = |name: &PathText, state: &FileState| {
                after.get(name.as_path()).is_none_or(|after| after.sha256() != state.sha256())
            };
            let replaced = before.entries().filter(|(name, state)| is_replaced(name, state));
            needed.extend(replaced.filter_map(|(_, state)| state.sha256()));
        }
        needed
    }

    fn needs(&self) -> Result<Vec<Target>> {
        let desired = self.manifests.iter().flat_map(|manifests| manifests.after.entries());
        accounts_of(desired.filter_map(|(_, state)| state.ownership()))
    }

    fn summary(&self) -> String {
        let path = &self.inverse.path;
        match (self.inverse.scope, self.after.entries) {
            (_, 0) => format!("remove {path} with all in it ({} entries)", self.before.entries),
            (Scope::Listed, entries) => format!("copy {entries} entries to {path}"),
            (Scope::Whole, entries) => format!("mirror {entries} entries to {path}"),
        }
    }

    fn difference(&self, world: &World) -> Option<String> {
        let Manifests { before, after } = self.manifests(world).ok()?;
        let names: BTreeSet<&PathText> =
            before.entries().chain(after.entries()).map(|(name, _)| name).collect();
        let what = |state: &FileState| match state.size() {
            Some(size) => format!("a file of {size} bytes"),
            None => state.kind_name().to_owned(),
        };
        let line = |name: &PathText| {
            let [old, new] = [&before, &after].map(|manifest| manifest.get(name.as_path()));
            Some(match (old, new) {
                (Some(old), Some(new)) if old.same_as(new) => return None,
                (Some(old), Some(new)) => format!("{name}: {}", old.differences(new).join(", ")),
                (Some(old), None) if self.inverse.scope == Scope::Whole => {
                    format!("{name}: {} → absent", what(old))
                }
                (Some(_) | None, None) => return None,
                (None, Some(new)) => format!("{name}: {}", what(new)),
            })
        };
        Some(names.into_iter().filter_map(line).collect::<Vec<_>>().join("\n"))
    }

    fn predict(&self, world: &World, predicted: &mut Predicted) {
        if let Ok(Manifests { before, after }) = self.manifests(world) {
            predicted.set_tree(self.path(), &before, &after, self.inverse.scope == Scope::Whole);
        }
    }

    fn prepare(&self, world: &World) -> Result<()> {
        let path = self.path();
        let manifests = self.manifests(world)?;
        self.clear_leftovers(&manifests)?;
        let Manifests { before, after } = manifests;
        let backups = world.backups()?;
        match self.inverse.scope {
            Scope::Whole if !before.is_empty() => {
                save_as(world, path, &before)?;
            }
            Scope::Whole => {}
            Scope::Listed => {
                for (name, state) in before.entries() {
                    let goes = after.get(name.as_path()).is_none_or(|after| after.sha256() != state.sha256());
                    if state.sha256().is_some() && goes {
                        backups.save_file(&path.join(name))?;
                    }
                }
            }
        }
        for manifest in [&before, &timeless(&before), &after] {
            backups.save(&blob(manifest)?)?;
        }
        Ok(())
    }

    fn conflict(&self, recorded: &Value, world: &World) -> Option<Modification> {
        let state: TreeState = serde_json::from_value(recorded.clone()).ok()?;
        if state == self.before || state.entries == 0 {
            return None;
        }
        if self.before.entries == 0 {
            let path = self.path();
            return (!is_volatile(path)).then_some(Modification::Removed);
        }
        let manifests = self.manifests(world).ok()?;
        let Ok(recorded) = read_manifest(world, state.manifest) else {
            return Some(Modification::shown("what kkrun last left there is no longer in the backups"));
        };
        let mut lines = Vec::new();
        for (name, found) in manifests.before.entries() {
            let expected = match recorded.get(name.as_path()) {
                Some(expected) => expected,
                // What kkrun never left there stays in a copy; a mirror would remove it with the rest.
                None if self.inverse.scope == Scope::Whole => &FileState::Absent,
                None => continue,
            };
            let desired = manifests.after.get(name.as_path()).unwrap_or(&FileState::Absent);
            if found.is_overwritten(desired, expected) {
                lines.push(format!("{name}: {}", expected.differences(found).join(", ")));
            }
        }
        if lines.is_empty() {
            return None;
        }
        // If the operator keeps this state, it becomes the recorded one: its manifest has to be in the backups.
        if let Ok(bytes) = blob(&timeless(&manifests.before)) {
            world.backups().and_then(|backups| backups.save(&bytes)).ok()?;
        }
        Some(Modification::shown(&shortened(lines)))
    }

    fn reaches(&self, path: &Path, world: &World) -> bool {
        let Ok(Manifests { before, after }) = self.manifests(world) else { return true };
        let Ok(relative) = path.strip_prefix(self.path()) else { return false };
        let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
        let absent = &FileState::Absent;
        let [before, after] = [&before, &after].map(|manifest| manifest.get(relative).unwrap_or(absent));
        !before.same_as(after)
    }

    fn repair(&self, world: &World) -> Result<()> {
        self.clear_leftovers(&self.manifests(world)?)
    }

    fn act(&self, _: &World, payload: Payload<'_>) -> Result<()> {
        let path = self.path();
        let (Some(Manifests { before, .. }), Payload::Tree(desired, open)) = (&self.manifests, payload)
        else {
            anyhow::bail!("cannot make the change of `{}`: it was read from the journal", path.display())
        };
        match self.inverse.scope {
            Scope::Listed => files::converge_tree(path, before, desired, Times::Pass, &tag(path), open),
            Scope::Whole => exchange(path, before, desired, open),
        }
    }

    fn position(&self, world: &World) -> Result<Position> {
        let manifests = self.manifests(world)?;
        self.clear_leftovers(&manifests)?;
        let now = self.observe(&manifests)?;
        Ok(if now.same_as(&manifests.after) {
            Position::After
        } else if now.same_as(&manifests.before) {
            Position::Before
        } else if is_between(&now, &manifests) {
            Position::Between
        } else {
            Position::Neither(shortened(manifests.after.differences(&now)))
        })
    }

    fn recorded(&self, world: &World) -> Result<States> {
        let manifests = self.manifests(world)?;
        let now = self.observe(&manifests)?;
        if !now.same_as(&manifests.after) {
            let differences = shortened(manifests.after.differences(&now));
            anyhow::bail!("`{}` is not as desired: {differences}", self.path().display());
        }
        Ok([(self.target(), state_value(&self.after))].into())
    }

    fn loss(&self, world: &World, _recorded: Option<&Value>) -> Result<Option<Loss>> {
        if self.inverse.scope == Scope::Whole {
            return Ok(None);
        }
        let Manifests { before, after } = self.manifests(world)?;
        let made = after.entries().filter(|(name, state)| {
            matches!(state, FileState::Directory { .. }) && before.get(name.as_path()).is_none()
        });
        let mut others = Vec::new();
        let gone = world.assumed_gone.borrow();
        for (name, _) in made {
            let directory = self.path().join(name);
            let entries = match std::fs::read_dir(&directory) {
                Ok(entries) => entries,
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                    ) =>
                {
                    continue;
                }
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot read `{}`", directory.display()));
                }
            };
            for entry in entries {
                let entry = entry.with_context(|| format!("cannot read `{}`", directory.display()))?;
                let relative = name.as_path().join(entry.file_name());
                let relative = relative.strip_prefix(".").unwrap_or(&relative);
                let is_gone = gone.contains(&entry_path(self.path(), relative));
                if after.get(relative).is_none() && !is_gone {
                    others.push(PathText::new(relative).to_string());
                }
            }
        }
        if others.is_empty() {
            return Ok(None);
        }
        let what = format!("the tree {} with {}", self.inverse.path, self::others(others));
        Ok(Some(Loss { class: Class::Homes, what }))
    }

    fn undo(&self, world: &mut World, terms: UndoTerms<'_>) -> Result<Undone> {
        let root = FileState::observe(self.path())?;
        if !matches!(root, FileState::Absent | FileState::Directory { .. }) {
            if !terms.force {
                return Ok(Undone::Conflict(format!("`{}` is {}", self.path().display(), root.kind_name())));
            }
            if terms.dry_run {
                return Ok(Undone::Back(Undoing::Restored, BTreeMap::new()));
            }
            keep_copy(world, self.path())?;
            files::remove(self.path(), &root, &tag(self.path()))?;
        }
        let manifests = self.manifests(world)?;
        if !terms.dry_run {
            self.clear_leftovers(&manifests)?;
        }
        let now = self.observe(&manifests)?;
        let recorded = recorded_manifest(world, terms.recorded).unwrap_or_else(|| manifests.after.clone());
        let listed = Manifest::default();
        // The record of another change to listed entries may not name every entry of this one.
        let otherwise = if self.inverse.scope == Scope::Listed { &manifests.after } else { &listed };
        let sights = sights(&now, &manifests.before, &recorded, &manifests.after, otherwise);
        // What it found as it wanted it is another change's to undo.
        let is_own =
            |sight: &Sight<'_>| self.inverse.scope == Scope::Whole || !sight.before.same_as(sight.after);
        let (mut goal, mut left) = (manifests.before.clone(), manifests.before.clone());
        for (name, sight) in sights.iter().filter(|(_, sight)| !is_own(sight)) {
            // A directory that stayed gets its time back.
            if !sight.now.same_as(sight.before) {
                goal.set(name.as_path(), sight.now.clone());
            }
            left.set(name.as_path(), sight.recorded.clone());
        }
        let sights: BTreeMap<_, _> = sights.into_iter().filter(|(_, sight)| is_own(sight)).collect();
        if sights.values().all(|sight| sight.now.same_as(sight.before)) {
            let state =
                if terms.dry_run { state_value(&TreeState::of(&left)?) } else { record_tree(world, &left)? };
            return Ok(Undone::Back(Undoing::Already, [(self.target(), state)].into()));
        }
        match self.inverse.scope {
            Scope::Whole => mount::refuse_within([self.path()])?,
            Scope::Listed => mount::refuse_within(self.made(&manifests))?,
        }
        // An undo that was killed left some entries as before and some as recorded: neither is a conflict.
        let conflicts = sights
            .iter()
            .filter(|(_, sight)| sight.is_conflicting())
            .map(|(name, sight)| format!("{name}: {}", sight.recorded.differences(sight.now).join(", ")));
        let conflicts: Vec<String> = conflicts.collect();
        if !conflicts.is_empty() && !terms.force {
            return Ok(Undone::Conflict(shortened(conflicts)));
        }
        if terms.dry_run {
            return Ok(Undone::Back(Undoing::Restored, BTreeMap::new()));
        }
        for (name, _) in sights.iter().filter(|(_, sight)| sight.is_conflicting()) {
            keep_copy(world, &entry_path(self.path(), name.as_path()))?;
        }
        let state = record_tree(world, &left)?;
        self.restore(world, &now, &goal)?;
        let back = self.observe(&manifests)?;
        if !back.same_as(&goal) {
            let differences = shortened(goal.differences(&back));
            anyhow::bail!("`{}` is not as before after its undo: {differences}", self.path().display());
        }
        Ok(Undone::Back(Undoing::Restored, [(self.target(), state)].into()))
    }
}

/// Entries that kkrun did not make, for messages.
pub(super) fn others(mut entries: Vec<String>) -> String {
    entries.sort();
    let mut named = entries[..entries.len().min(MOST_NAMED)].join(", ");
    if entries.len() > MOST_NAMED {
        named.push_str(", …");
    }
    let counted = if entries.len() == 1 { "entry" } else { "entries" };
    format!("{} {counted} that kkrun did not make: {named}", entries.len())
}

/// The path of an entry of the tree at `root`.
pub(super) fn entry_path(root: &Path, name: &Path) -> PathBuf {
    if name == Path::new(".") { root.to_owned() } else { root.join(name) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Change;
    use crate::change::testing::{from_record, undo, world};
    use crate::machine::files::Attributes;

    struct Scene {
        _directory: tempfile::TempDir,
        path: PathBuf,
        world: World,
    }

    fn scene() -> Scene {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        std::fs::create_dir(path.join("state")).unwrap();
        let world = world(&path.join("state"));
        Scene { _directory: directory, path, world }
    }

    fn fill(root: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let at = root.join(name);
            std::fs::create_dir_all(at.parent().unwrap()).unwrap();
            std::fs::write(at, text).unwrap();
        }
    }

    fn mine(mode: u32) -> Attributes {
        Attributes::new(mode, rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
    }

    /// A tree of these files, and what gives their content.
    fn desired(files: &[(&str, &str)]) -> (Manifest, BTreeMap<PathBuf, String>) {
        let mut manifest = Manifest::default();
        manifest.insert_directory(".", &mine(0o755));
        for (name, text) in files {
            let above = Path::new(name).ancestors().skip(1).filter(|above| !above.as_os_str().is_empty());
            above.for_each(|above| manifest.insert_directory(above, &mine(0o755)));
            manifest.insert_file(*name, text.as_bytes(), &mine(0o644));
        }
        let files = files.iter().map(|(name, text)| (PathBuf::from(name), (*text).to_owned())).collect();
        (manifest, files)
    }

    fn act(world: &World, change: &TreeChange, desired: &(Manifest, BTreeMap<PathBuf, String>)) {
        let open = &mut |relative: &Path| -> Result<_> {
            Ok(Content::Bytes(desired.1[relative].clone().into_bytes().into()))
        };
        change.act(world, Payload::Tree(&desired.0, open)).unwrap();
    }

    /// Makes a change as a session does, and gives what is recorded then.
    fn make(
        world: &World,
        change: &TreeChange,
        desired: &(Manifest, BTreeMap<PathBuf, String>),
    ) -> (Change, Value) {
        change.prepare(world).unwrap();
        act(world, change, desired);
        let change = Change::Tree(change.clone());
        assert_eq!(from_record(&change).kind().position(world).unwrap(), Position::After);
        let recorded = from_record(&change).kind().recorded(world).unwrap().remove(&change.kind().target());
        (change, recorded.unwrap())
    }

    fn is_back(undone: &Undone, how: Undoing) -> bool {
        matches!(undone, Undone::Back(done, _) if *done == how)
    }

    #[test]
    fn a_copy_is_undone_entry_by_entry_and_times_are_back() {
        let Scene { _directory, path, mut world } = scene();
        let root = path.join("tree");
        fill(&root, &[("changed", "old"), ("others/file", "theirs"), ("same", "s")]);
        let before = Manifest::observe(&root).unwrap();
        let desired = desired(&[("changed", "new"), ("made/deep/file", "f"), ("same", "s")]);
        let change = TreeChange::copy(&root, &desired.0).unwrap().unwrap();
        let (change, recorded) = make(&world, &change, &desired);
        assert!(TreeChange::copy(&root, &desired.0).unwrap().is_none());
        assert_eq!(std::fs::read_to_string(root.join("others/file")).unwrap(), "theirs");
        assert!(from_record(&change).kind().loss(&world, None).unwrap().is_none());

        assert!(is_back(&undo(&mut world, &change, Some(&recorded), false), Undoing::Restored));
        assert_eq!(Manifest::observe(&root).unwrap(), before);
        assert!(is_back(&undo(&mut world, &change, Some(&recorded), false), Undoing::Already));
    }

    #[test]
    fn what_gained_entries_in_a_copied_tree_is_asked_for_and_an_edit_is_a_conflict() {
        let Scene { _directory, path, mut world } = scene();
        let root = path.join("tree");
        let desired = desired(&[("a/file", "f"), ("page", "p")]);
        let change = TreeChange::copy(&root, &desired.0).unwrap().unwrap();
        let (change, recorded) = make(&world, &change, &desired);

        fill(&root, &[("a/gained", "x"), ("cache/one", "1")]);
        let loss = from_record(&change).kind().loss(&world, None).unwrap().unwrap();
        assert_eq!(loss.class, Class::Homes);
        assert!(
            loss.what.ends_with("with 2 entries that kkrun did not make: a/gained, cache"),
            "{}",
            loss.what
        );

        std::fs::write(root.join("page"), "edited").unwrap();
        let Undone::Conflict(why) = undo(&mut world, &change, Some(&recorded), false) else { panic!() };
        assert_eq!(why, "page: content differs (1 → 6 bytes)");
        assert_eq!(std::fs::read_to_string(root.join("page")).unwrap(), "edited");
        assert!(is_back(&undo(&mut world, &change, Some(&recorded), true), Undoing::Restored));
        assert!(!root.exists());
    }

    #[test]
    fn what_was_put_in_place_of_a_tree_is_a_conflict_and_is_kept_in_the_backups_when_overwritten() {
        let Scene { _directory, path, mut world } = scene();
        let root = path.join("tree");
        fill(&root, &[("file", "f")]);
        let before = Manifest::observe(&root).unwrap();
        let change = TreeChange::remove(&root).unwrap().unwrap();
        let (change, recorded) = make(&world, &change, &(Manifest::default(), BTreeMap::new()));
        std::fs::write(&root, "theirs").unwrap();
        let Undone::Conflict(why) = undo(&mut world, &change, Some(&recorded), false) else { panic!() };
        assert!(why.ends_with("tree` is a file"), "{why}");
        assert!(is_back(&undo(&mut world, &change, Some(&recorded), true), Undoing::Restored));
        assert_eq!(Manifest::observe(&root).unwrap(), before);
        assert_eq!(world.backups().unwrap().read(Digest::of(b"theirs")).unwrap(), b"theirs");
    }

    #[test]
    fn an_edit_of_what_was_copied_is_a_conflict_and_what_vanished_is_none() {
        let Scene { _directory, path, world } = scene();
        let root = path.join("tree");
        let first = desired(&[("page", "p"), ("gone", "g")]);
        let change = TreeChange::copy(&root, &first.0).unwrap().unwrap();
        let (_, recorded) = make(&world, &change, &first);
        std::fs::remove_file(root.join("gone")).unwrap();
        fill(&root, &[("theirs", "t")]);
        let next = desired(&[("page", "q"), ("gone", "g"), ("theirs", "now of the plan")]);
        let again = TreeChange::copy(&root, &next.0).unwrap().unwrap();
        assert_eq!(again.conflict(&recorded, &world), None);
        std::fs::write(root.join("page"), "edited").unwrap();
        let again = TreeChange::copy(&root, &next.0).unwrap().unwrap();
        assert_eq!(
            again.conflict(&recorded, &world).unwrap(),
            Modification::shown("page: content differs (1 → 6 bytes)")
        );
    }

    #[test]
    fn a_mode_that_the_copy_keeps_is_no_conflict_and_a_chain_of_changes_is_undone() {
        let Scene { _directory, path, mut world } = scene();
        let root = path.join("tree");
        let first = desired(&[("page", "p"), ("other", "o")]);
        let change = TreeChange::copy(&root, &first.0).unwrap().unwrap();
        let (first_change, recorded) = make(&world, &change, &first);
        let set_mode = |mode| {
            let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(root.join("page"), permissions).unwrap();
        };
        set_mode(0o600);
        let mut next = desired(&[("page", "q"), ("other", "o")]);
        next.0.insert_file("page", b"q", &mine(0o600));
        let change = TreeChange::copy(&root, &next.0).unwrap().unwrap();
        assert_eq!(change.conflict(&recorded, &world), None);
        let (second, recorded) = make(&world, &change, &next);
        let Undone::Back(Undoing::Restored, mut recorded) = undo(&mut world, &second, Some(&recorded), false)
        else {
            panic!()
        };
        set_mode(0o644);
        let recorded = recorded.remove(&Target::tree(&root)).unwrap();
        assert!(is_back(&undo(&mut world, &first_change, Some(&recorded), false), Undoing::Restored));
        assert!(!root.exists());
    }

    #[test]
    fn a_mirror_takes_the_place_of_a_tree_and_the_tree_comes_back() {
        let Scene { _directory, path, mut world } = scene();
        let root = path.join("site/live");
        fill(&root, &[("index", "old"), ("assets/old", "o")]);
        fill(&path.join("site"), &[("sibling", "s")]);
        let before = Manifest::observe(&root).unwrap();
        let desired = desired(&[("index", "new"), ("assets/new", "n")]);
        let change = TreeChange::mirror(&root, &desired.0).unwrap().unwrap();
        let (change, recorded) = make(&world, &change, &desired);
        let names = |path: &Path| {
            let names = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name());
            names.collect::<BTreeSet<_>>()
        };
        assert_eq!(names(&path.join("site")), ["live", "sibling"].map(Into::into).into());
        assert_eq!(names(&root.join("assets")), ["new"].map(Into::into).into());

        fill(&root, &[("robots.txt", "theirs")]);
        let again = TreeChange::mirror(&root, &desired.0).unwrap().unwrap();
        assert_eq!(
            again.conflict(&recorded, &world).unwrap(),
            Modification::shown("robots.txt: absent → a file")
        );
        let undone = undo(&mut world, &change, Some(&recorded), false);
        assert_eq!(undone, Undone::Conflict("robots.txt: absent → a file".to_owned()));
        std::fs::remove_file(root.join("robots.txt")).unwrap();
        assert!(is_back(&undo(&mut world, &change, Some(&recorded), false), Undoing::Restored));
        assert_eq!(Manifest::observe(&root).unwrap(), before);
        assert_eq!(names(&path.join("site")), ["live", "sibling"].map(Into::into).into());
        assert!(is_back(&undo(&mut world, &change, Some(&recorded), false), Undoing::Already));
    }

    #[test]
    fn a_removed_tree_is_rebuilt() {
        let Scene { _directory, path, mut world } = scene();
        let root = path.join("tree");
        fill(&root, &[("a/file", "f"), ("b", "f")]);
        std::os::unix::fs::symlink("nowhere", root.join("a/link")).unwrap();
        let before = Manifest::observe(&root).unwrap();
        let change = TreeChange::remove(&root).unwrap().unwrap();
        let (change, recorded) = make(&world, &change, &(Manifest::default(), BTreeMap::new()));
        assert!(!root.exists());
        assert!(is_back(&undo(&mut world, &change, Some(&recorded), false), Undoing::Restored));
        assert_eq!(Manifest::observe(&root).unwrap(), before);
        assert!(is_back(&undo(&mut world, &change, Some(&recorded), false), Undoing::Already));
    }

    #[test]
    fn a_copy_that_was_killed_is_in_between_and_can_be_undone_or_made_again() {
        let Scene { _directory, path, mut world } = scene();
        let root = path.join("tree");
        fill(&root, &[("one", "old"), ("two", "old")]);
        let before = Manifest::observe(&root).unwrap();
        let desired = desired(&[("one", "new"), ("two", "new")]);
        let change = TreeChange::copy(&root, &desired.0).unwrap().unwrap();
        change.prepare(&world).unwrap();
        let at = root.join("one");
        let found = FileState::observe(&at).unwrap();
        files::replace(&at, files::Contents::Bytes(b"new"), &mine(0o644), &found, "killed").unwrap();
        let prepared = root.join(format!(".kkrun-{}", tag(&root)));
        std::fs::write(&prepared, "half").unwrap();
        let first = Change::Tree(change);
        assert!(matches!(from_record(&first).kind().position(&world).unwrap(), Position::Between));
        assert!(!prepared.exists());
        assert!(is_back(&undo(&mut world, &first, None, false), Undoing::Restored));
        assert_eq!(Manifest::observe(&root).unwrap(), before);

        files::replace(&at, files::Contents::Bytes(b"new"), &mine(0o644), &found, "killed").unwrap();
        let again = TreeChange::copy(&root, &desired.0).unwrap().unwrap();
        make(&world, &again, &desired);
        assert_eq!(from_record(&first).kind().position(&world).unwrap(), Position::After);
        assert!(is_back(&undo(&mut world, &first, None, false), Undoing::Restored));
        assert_eq!(Manifest::observe(&root).unwrap(), before);
    }

    #[test]
    fn what_is_written_while_a_tree_is_replaced_is_not_lost() {
        let Scene { _directory, path, world } = scene();
        let root = path.join("tree");
        fill(&root, &[("page", "old")]);
        let desired = desired(&[("page", "new")]);
        let change = TreeChange::mirror(&root, &desired.0).unwrap().unwrap();
        change.prepare(&world).unwrap();
        let open = &mut |_: &Path| -> Result<_> {
            fill(&root, &[("late", "theirs")]);
            Ok(Content::Bytes(b"new".into()))
        };
        assert!(is_of_kind(
            &change.act(&world, Payload::Tree(&desired.0, open)).unwrap_err(),
            FailureKind::Conflict
        ));
        assert_eq!(std::fs::read_to_string(root.join("late")).unwrap(), "theirs");
        assert_eq!(std::fs::read_to_string(root.join("page")).unwrap(), "old");
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 2);
    }

    #[test]
    fn a_directory_never_becomes_a_file() {
        let Scene { _directory, path, .. } = scene();
        let root = path.join("tree");
        fill(&root, &[("page/inner", "x")]);
        assert!(is_of_kind(
            &TreeChange::copy(&root, &desired(&[("page", "p")]).0).unwrap_err(),
            FailureKind::Exists
        ));
    }
}
