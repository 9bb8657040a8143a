//! A file, link or directory: made, replaced, removed, or given other metadata.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::tree::{self, keep_copy};
use super::{
    Kind, Loss, NOT_SHOWN, Payload, Position, Predicted, UndoTerms, Undone, World, accounts_of, is_volatile,
    state_value, tag, unified_diff,
};
use crate::event::Modification;
use crate::failure::{Failure, FailureKind};
use crate::journal::{Class, Undoing};
use crate::machine::files::{self, Attributes, Contents, Digest, FileState, Manifest, PathText};
use crate::machine::mount;
use crate::target::{States, Target};

/// A change to one path.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FileChange {
    before: FileState,
    after: FileState,
    inverse: FileInverse,
    /// The content after it, if differences from it are to be shown later.
    #[serde(skip)]
    shown: Option<Rc<[u8]>>,
    /// What is in the directory that is replaced, on its way to the backups.
    #[serde(skip)]
    tree: Option<Rc<Manifest>>,
}

/// Differences are shown of texts up to this many bytes.
const LONGEST_SHOWN: u64 = 256 * 1024;

/// Whether the differences of a text file in this state may be shown: it is short, and everyone may read it.
pub(super) fn may_be_shown(state: &FileState) -> bool {
    state.is_absent()
        || matches!(state, FileState::File { size, metadata, .. } if *size <= LONGEST_SHOWN && metadata.mode & 0o004 != 0)
}

/// The text whose differences may be shown.
pub(super) fn showable<'bytes>(state: &FileState, bytes: &'bytes [u8]) -> Option<&'bytes str> {
    let text = may_be_shown(state).then(|| std::str::from_utf8(bytes).ok())??;
    (!text.contains('\0')).then_some(text)
}

/// What undoing it needs besides the state before; a content is in the backups under its hash.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct FileInverse {
    path: PathText,
    /// The digest under which the manifest of the replaced directory, with all in it, is in the backups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tree: Option<Digest>,
    /// Its content holds a secret, so it is never shown.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    secret: bool,
}

/// The desired state of a path.
#[derive(Clone, Debug)]
pub enum DesiredFile<'bytes> {
    /// A regular file with this content.
    File {
        /// The content.
        bytes: &'bytes [u8],
        /// Its metadata.
        attributes: Attributes,
    },
    /// A regular file with the content of another one, which may be more than fits into memory.
    Copy {
        /// The other one, open.
        of: &'bytes File,
        /// The digest of its content.
        sha256: Digest,
        /// Its size in bytes.
        size: u64,
        /// The metadata of the copy.
        attributes: Attributes,
    },
    /// A symbolic link.
    Link {
        /// Its target, as it is written in the link.
        to: PathText,
        /// Its owner's user id.
        owner: u32,
        /// Its group's id.
        group: u32,
    },
    /// A directory.
    Directory {
        /// Its metadata.
        attributes: Attributes,
    },
    /// What is there, with other metadata.
    Metadata {
        /// The metadata.
        attributes: Attributes,
    },
    /// Nothing.
    Absent,
}

/// What is at a path now; a content is not read.
#[derive(Clone, Debug)]
pub struct Found {
    /// The canonical path.
    pub path: PathBuf,
    /// Its state.
    pub state: FileState,
}

impl Found {
    /// Looks at a path.
    pub fn at(path: &Path) -> Result<Self> {
        let path = files::canonical(path)?;
        let state = FileState::observe(&path)?;
        Ok(Self { path, state })
    }

    /// Looks at a path, and reads the text there, which is empty if there is no regular file. One read gives both, so
    /// that text and state belong together.
    ///
    /// # Errors
    /// When it is larger than [`files::LONGEST_TEXT`].
    pub fn text_at(path: &Path) -> Result<(Self, Vec<u8>)> {
        let path = files::canonical(path)?;
        let (bytes, state) = files::read_if_file(&path)?;
        Ok((Self { path, state }, bytes))
    }
}

impl FileChange {
    /// The change from what was found to `desired`; `None` if they are the same.
    pub fn towards(found: Found, desired: &DesiredFile<'_>) -> Option<Self> {
        let after = match desired {
            DesiredFile::File { bytes, attributes } => {
                FileState::file(Digest::of(bytes), bytes.len() as u64, attributes)
            }
            DesiredFile::Copy { sha256, size, attributes, .. } => FileState::file(*sha256, *size, attributes),
            DesiredFile::Link { to, owner, group } => FileState::link(to.clone(), *owner, *group),
            DesiredFile::Directory { attributes } => FileState::directory(attributes),
            DesiredFile::Metadata { attributes } => match &found.state {
                FileState::File { sha256, size, .. } => FileState::file(*sha256, *size, attributes),
                FileState::Directory { .. } => FileState::directory(attributes),
                other => other.clone(),
            },
            DesiredFile::Absent => FileState::Absent,
        };
        if found.state.same_as(&after) {
            return None;
        }
        let shown = match desired {
            DesiredFile::File { bytes, .. } => showable(&after, bytes).map(|text| Rc::from(text.as_bytes())),
            DesiredFile::Copy { of, .. } if may_be_shown(&after) => {
                let read = files::read_open(of, &found.path).ok();
                read.map(|(bytes, _)| bytes).filter(|bytes| showable(&after, bytes).is_some()).map(Rc::from)
            }
            _ => None,
        };
        let inverse = FileInverse { path: PathText::new(found.path), tree: None, secret: false };
        Some(Self { before: found.state, after, inverse, shown, tree: None })
    }

    /// The same where a directory took the place of a file or link: it goes with all that is in it, and an undo
    /// restores all of that.
    ///
    /// # Errors
    /// When something in it could not be restored.
    pub fn in_place_of_directory(found: Found, desired: &DesiredFile<'_>) -> Result<Option<Self>> {
        let tree = tree::replaceable(&found.path, &Manifest::default())?;
        let Some(mut change) = Self::towards(found, desired) else { return Ok(None) };
        change.inverse.tree = Some(tree::digest(&tree)?);
        change.tree = Some(Rc::new(tree));
        Ok(Some(change))
    }

    /// The same with content that holds a secret.
    #[must_use]
    pub fn with_secret(mut self) -> Self {
        self.inverse.secret = true;
        self.shown = None;
        self
    }

    /// Before and after, to compare them.
    pub fn states(&self) -> (&FileState, &FileState) {
        (&self.before, &self.after)
    }

    fn path(&self) -> &Path {
        self.inverse.path.as_path()
    }

    /// Whether nothing is at the path because one of directory and file is gone and the other is not there yet.
    fn is_halfway(&self, now: &FileState) -> bool {
        (self.inverse.tree.is_some() || self.makes_directory_of_file()) && now.is_absent()
    }

    /// Whether a directory takes the place of a file or link.
    fn makes_directory_of_file(&self) -> bool {
        matches!(self.before, FileState::File { .. } | FileState::Link { .. })
            && matches!(self.after, FileState::Directory { .. })
    }

    fn observe(&self) -> Result<FileState> {
        FileState::observe(self.path())
    }

    /// Whether only the metadata differ: no content has to be restored.
    pub fn keeps_content(&self) -> bool {
        self.before.sha256().is_some() && self.before.sha256() == self.after.sha256()
            || matches!(
                (&self.before, &self.after),
                (FileState::Directory { .. }, FileState::Directory { .. })
            )
    }

    /// What to record of a state that this change or its undo led to. `left` is what kkrun last left there: where only
    /// owner and mode change, its content stays recorded, so that a content modified outside kkrun stays a conflict.
    pub fn recorded_beside(&self, left: &FileState, state: FileState) -> FileState {
        match (left, state) {
            (FileState::File { sha256, size, .. }, FileState::File { metadata, .. })
                if self.keeps_content() =>
            {
                FileState::File { sha256: *sha256, size: *size, metadata }
            }
            (_, state) => state,
        }
    }

    fn restore(&self, world: &World, now: &FileState) -> Result<()> {
        let (path, tag) = (self.path(), tag(self.path()));
        if let Some(digest) = self.inverse.tree {
            return tree::restore_saved(world, path, digest, now);
        }
        match &self.before {
            FileState::Absent if matches!(now, FileState::Directory { .. }) => files::remove_directory(path),
            FileState::Absent => files::remove(path, now, &tag),
            FileState::File { metadata, .. }
                if self.keeps_content() && now.sha256() == self.before.sha256() =>
            {
                files::set_metadata(path, &Attributes::from(metadata), now).map(drop)
            }
            FileState::File { sha256, metadata, .. } => {
                let backup = world.backups()?.file(*sha256)?;
                let contents = Contents::File { from: &backup, sha256: Some(*sha256) };
                files::replace(path, contents, &Attributes::from(metadata), now, &tag)
                    .map(drop)
                    .with_context(|| format!("cannot restore `{}` from the backup", path.display()))
            }
            FileState::Link { to, owner, group, mtime } => {
                files::link(path, to, *owner, *group, *mtime, now, &tag).map(drop)
            }
            FileState::Directory { metadata } if now.is_absent() => {
                files::make_directory(path, &Attributes::from(metadata), &tag).map(drop)
            }
            FileState::Directory { metadata } => {
                files::set_metadata(path, &Attributes::from(metadata), now).map(drop)
            }
            other => {
                anyhow::bail!("cannot restore `{}`: it was {} before", path.display(), other.kind_name())
            }
        }
    }

    /// Undoes a change of owner and mode alone where the content was modified outside kkrun since: the content stays.
    fn undo_beside_conflicting_content(
        &self,
        now: &FileState,
        recorded: &FileState,
        terms: UndoTerms<'_>,
    ) -> Result<Undone> {
        // What is gone needs nothing.
        if now.is_absent() {
            return Ok(Undone::Back(Undoing::Already, BTreeMap::new()));
        }
        let shown = self.path().display();
        let (FileState::File { metadata: here, .. }, Some(before)) = (now, self.before.metadata()) else {
            let why =
                format!("`{shown}` is now {}, and kkrun changed only its owner and mode", now.kind_name());
            if terms.force {
                return Ok(Undone::Kept(why));
            }
            return Ok(Undone::Conflict(why));
        };
        let mut back = BTreeMap::new();
        if let FileState::File { sha256, size, .. } = recorded {
            let state = FileState::File { sha256: *sha256, size: *size, metadata: before.clone() };
            back.insert(self.target(), state_value(&state));
        }
        if here.same_as(before) {
            return Ok(Undone::Back(Undoing::Already, back));
        }
        let ours = [recorded.metadata(), self.after.metadata()];
        if !ours.into_iter().flatten().any(|ours| here.same_as(ours)) && !terms.force {
            return Ok(Undone::Conflict(self.after.differences(now).join("\n")));
        }
        if !terms.dry_run {
            let attributes = Attributes { mtime: None, ..Attributes::from(before) };
            files::set_metadata(self.path(), &attributes, now)?;
        }
        Ok(Undone::Back(Undoing::InPart, back))
    }

    /// What differs between the recorded content and the one that is there, for messages.
    fn difference_from_recorded(&self, world: &World, recorded: &FileState, now: &FileState) -> Modification {
        let mut lines = recorded.differences(now);
        let is_of_content = recorded.sha256() != now.sha256();
        let is_hidden = is_of_content && (self.inverse.secret || world.content_is_secret.get());
        let is_shown = is_of_content && !is_hidden && may_be_shown(recorded) && may_be_shown(now);
        let diff = if is_shown { self.diff_from_recorded(world, recorded) } else { None };
        // That the content differs is all that this says.
        let brief = lines.first().filter(|first| *first != "content differs").cloned();
        lines.extend(is_hidden.then(|| NOT_SHOWN.to_owned()));
        Modification::Differs { brief, lines, diff }
    }

    /// The diff between the recorded text and the one that is there, if both may be shown.
    fn diff_from_recorded(&self, world: &World, recorded: &FileState) -> Option<String> {
        let old = recorded
            .sha256()
            .and_then(|digest| world.backups().and_then(|backups| backups.read(digest)).ok());
        let (old, (new, now)) = (old?, files::read(self.path()).ok()?);
        let (old, new) = (showable(recorded, &old)?, showable(&now, &new)?);
        // Before the lines get their signs: a secret of many lines would not be found behind those.
        let (old, new) = (world.reporter.redact(old), world.reporter.redact(new));
        Some(unified_diff(&old, &new, Some(("as kkrun left it", "as it is now"))))
    }
}

/// The difference between two contents of a file of which it had the states, if both are kept and may be shown.
pub(super) fn recorded_diff(
    world: &World,
    path: &Path,
    before: &FileState,
    after: &FileState,
) -> Option<String> {
    let (old, new) = recorded_contents(world, path, before, after)?;
    let (old, new) = (showable(before, &old)?, showable(after, &new)?);
    Some(unified_diff(&world.reporter.redact(old), &world.reporter.redact(new), None))
}

/// The contents of a file before and after a change, as far as the backups have them or the file still has the new one.
pub(super) fn recorded_contents(
    world: &World,
    path: &Path,
    before: &FileState,
    after: &FileState,
) -> Option<(Vec<u8>, Vec<u8>)> {
    let content = |state: &FileState| match state.sha256() {
        None => Some(Vec::new()),
        Some(digest) => world.backups().and_then(|backups| backups.read(digest)).ok().or_else(|| {
            let (bytes, now) = files::read(path).ok()?;
            (now.sha256() == Some(digest)).then_some(bytes)
        }),
    };
    Some((content(before)?, content(after)?))
}

impl Kind for FileChange {
    fn target(&self) -> Target {
        Target::file(self.path())
    }

    fn removed_by_undo(&self, _world: &World) -> Vec<PathBuf> {
        if self.before.is_absent() { vec![self.path().to_owned()] } else { Vec::new() }
    }

    fn keeps_content(&self) -> bool {
        Self::keeps_content(self)
    }

    fn needs(&self) -> Result<Vec<Target>> {
        accounts_of(self.after.ownership())
    }

    fn holds_secret(&self) -> bool {
        self.inverse.secret
    }

    fn is_found_again(&self) -> bool {
        true
    }

    fn summary(&self) -> String {
        let verb = match (&self.before, &self.after) {
            (_, FileState::Absent) => "remove",
            (FileState::Absent, FileState::Link { .. }) => "link",
            (FileState::Absent, _) => "make",
            _ if self.keeps_content() => "set owner and mode of",
            _ => "write",
        };
        format!("{verb} {}", self.path().display())
    }

    fn difference(&self, world: &World) -> Option<String> {
        let as_text = || {
            let old = if self.before.is_absent() { Vec::new() } else { files::read(self.path()).ok()?.0 };
            let new = if self.after.is_absent() { &[][..] } else { self.shown.as_deref()? };
            let (old, new) = (showable(&self.before, &old)?, showable(&self.after, new)?);
            Some(unified_diff(&world.reporter.redact(old), &world.reporter.redact(new), None))
        };
        let mut lines = Vec::new();
        if !self.before.is_absent() && !self.after.is_absent() {
            lines = self.before.differences(&self.after);
        }
        let has_content = self.before.sha256() != self.after.sha256() && self.tree.is_none();
        let is_secret = self.inverse.secret || world.content_is_secret.get();
        match (has_content && !is_secret).then(as_text).flatten() {
            // What differs in size is seen.
            Some(text) => {
                lines.retain(|line| !line.starts_with("content differs"));
                lines.extend(text.lines().map(str::to_owned));
            }
            None if lines.is_empty() => {
                let state = if self.after.is_absent() { &self.before } else { &self.after };
                lines.extend(state.size().map(|size| format!("a file of {size} bytes")));
            }
            None => {}
        }
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    fn recorded_difference(&self, world: &World) -> Option<String> {
        let as_text = || recorded_diff(world, self.path(), &self.before, &self.after);
        let mut lines = Vec::new();
        if !self.before.is_absent() && !self.after.is_absent() {
            lines = self.before.differences(&self.after);
        }
        let has_content = self.before.sha256() != self.after.sha256() && self.tree.is_none();
        if let Some(text) = (has_content && !self.inverse.secret).then(as_text).flatten() {
            lines.retain(|line| !line.starts_with("content differs"));
            lines.extend(text.lines().map(str::to_owned));
        }
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    fn predict(&self, _world: &World, predicted: &mut Predicted) {
        predicted.set_path(self.path(), &self.before, &self.after, self.shown.clone());
    }

    fn backups(&self, _world: &World, _recorded: Option<&Value>) -> Vec<Digest> {
        self.before.sha256().filter(|_| !self.keeps_content()).into_iter().collect()
    }

    fn prepare(&self, world: &World) -> Result<()> {
        if self.before.sha256().is_some() && !self.keeps_content() {
            let saved = world.backups()?.save_file(self.path())?;
            if !saved.same_as(&self.before) {
                let mut failure = Failure::new(format!(
                    "cannot save `{}`: it changes while it is read",
                    self.path().display()
                ));
                failure.output = self.before.differences(&saved);
                return Err(failure.kind(FailureKind::Conflict).into());
            }
        }
        if let Some(tree) = &self.tree {
            tree::save_as(world, self.path(), tree)?;
        }
        if let Some(shown) = &self.shown {
            world.backups()?.save(shown)?;
        }
        files::clear_leftover(self.path(), &tag(self.path()))
    }

    fn restores(&self, recorded: &Value) -> bool {
        serde_json::from_value(recorded.clone())
            .is_ok_and(|recorded: FileState| recorded.same_as(&self.after))
    }

    fn conflict(&self, recorded: &Value, world: &World) -> Option<Modification> {
        let recorded: FileState = serde_json::from_value(recorded.clone()).ok()?;
        if self.before.is_absent() && !recorded.is_absent() {
            return (!is_volatile(self.path())).then_some(Modification::Removed);
        }
        if self.before.is_absent() || !self.before.is_overwritten(&self.after, &recorded) {
            return None;
        }
        Some(self.difference_from_recorded(world, &recorded, &self.before))
    }

    fn repair(&self, _world: &World) -> Result<()> {
        files::clear_leftover(self.path(), &tag(self.path()))
    }

    fn act(&self, _: &World, payload: Payload<'_>) -> Result<()> {
        let (path, tag) = (self.path(), tag(self.path()));
        let before = match &self.tree {
            // Until the new file has its name, nothing is at the path: see `position`.
            Some(tree) => {
                tree::exchange_away(path, tree)?;
                &FileState::Absent
            }
            None => &self.before,
        };
        match payload.file()? {
            DesiredFile::File { bytes, attributes } => {
                let contents = match self.after.sha256() {
                    Some(digest) => Contents::Hashed(bytes, digest),
                    None => Contents::Bytes(bytes),
                };
                files::replace(path, contents, attributes, before, &tag)?;
            }
            DesiredFile::Copy { of, sha256, attributes, .. } => {
                let contents = Contents::File { from: of, sha256: Some(*sha256) };
                files::replace(path, contents, attributes, before, &tag)?;
            }
            DesiredFile::Link { to, owner, group } => {
                files::link(path, to, *owner, *group, None, before, &tag)?;
            }
            DesiredFile::Directory { attributes } if self.makes_directory_of_file() => {
                if !self.observe()?.is_absent() {
                    files::remove(path, before, &tag)?;
                }
                files::make_directory(path, attributes, &tag)?;
            }
            DesiredFile::Directory { attributes } if self.before.is_absent() => {
                files::make_directory(path, attributes, &tag)?;
            }
            DesiredFile::Directory { attributes } | DesiredFile::Metadata { attributes } => {
                files::set_metadata(path, attributes, before)?;
            }
            DesiredFile::Absent if matches!(self.before, FileState::Directory { .. }) => {
                files::remove_directory(path)?;
            }
            DesiredFile::Absent => files::remove(path, before, &tag)?,
        }
        Ok(())
    }

    fn position(&self, world: &World) -> Result<Position> {
        self.repair(world)?;
        let now = self.observe()?;
        Ok(if now.same_as(&self.after) {
            Position::After
        } else if now.same_as(&self.before) {
            Position::Before
        } else if now.lies_between(&self.before, &self.after) || self.is_halfway(&now) {
            Position::Between
        } else {
            Position::Neither(self.after.differences(&now).join("\n"))
        })
    }

    fn recorded(&self, _world: &World) -> Result<States> {
        let now = self.observe()?;
        if !now.same_as(&self.after) {
            anyhow::bail!(
                "`{}` is not as desired after the change: {}",
                self.path().display(),
                self.after.differences(&now).join(", ")
            );
        }
        Ok([(self.target(), state_value(&now))].into())
    }

    fn loss(&self, world: &World, _recorded: Option<&Value>) -> Result<Option<Loss>> {
        let makes_directory = self.before.is_absent() || self.makes_directory_of_file();
        if !(makes_directory && matches!(self.after, FileState::Directory { .. })) {
            return Ok(None);
        }
        let path = self.path();
        let entries = match std::fs::read_dir(path) {
            Ok(entries) => {
                let gone = world.assumed_gone.borrow();
                entries.flatten().filter(|entry| !gone.contains(&entry.path())).count()
            }
            // What is there instead belongs to a newer change or was put there outside kkrun.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => 0,
            Err(error) => return Err(error).with_context(|| format!("cannot read `{}`", path.display())),
        };
        let counted = if entries == 1 { "entry" } else { "entries" };
        let what =
            format!("the directory {} with {entries} {counted} that kkrun did not make", path.display());
        Ok((entries > 0).then_some(Loss { class: Class::Homes, what }))
    }

    fn undo(&self, world: &mut World, terms: UndoTerms<'_>) -> Result<Undone> {
        let path = self.path();
        if !terms.dry_run {
            files::clear_leftover(path, &tag(path))?;
        }
        let now = self.observe()?;
        let recorded =
            terms.recorded.and_then(|value| serde_json::from_value::<FileState>(value.clone()).ok());
        let left = recorded.clone();
        let back = |how: Undoing, state: FileState| {
            let state = match &left {
                Some(left) => self.recorded_beside(left, state),
                None => state,
            };
            Undone::Back(how, [(self.target(), state_value(&state))].into())
        };
        if now.same_as(&self.before) {
            return Ok(back(Undoing::Already, now));
        }
        let recorded = recorded.unwrap_or_else(|| self.after.clone());
        if self.keeps_content() && now.sha256() != self.after.sha256() {
            return self.undo_beside_conflicting_content(&now, &recorded, terms);
        }
        // What this change itself left counts as well as what is recorded: another change may have been undone since.
        // So does what an undo left that was stopped half-way.
        let is_ours = [&recorded, &self.after].into_iter().any(|state| now.lies_between(&self.before, state))
            || self.is_halfway(&now);
        let made_directory = self.before.is_absent() && matches!(self.after, FileState::Directory { .. });
        let goes_whole = made_directory && matches!(now, FileState::Directory { .. });
        if goes_whole {
            mount::refuse_within([path])?;
        }
        if !is_ours && !terms.force {
            let modification = self.difference_from_recorded(world, &recorded, &now);
            return Ok(Undone::Conflict(modification.difference(&self.target().described())));
        }
        if terms.dry_run {
            return Ok(Undone::Back(Undoing::Restored, BTreeMap::new()));
        }
        if !now.same_as(&self.after) {
            keep_copy(world, path)?;
        }
        if goes_whole {
            // The operator agreed to the loss before the undo.
            files::remove_tree(path, files::identity(path)?)?;
        } else if let (FileState::Directory { .. }, false) =
            (&now, matches!(self.before, FileState::Directory { .. }))
        {
            // When agreed to, a directory that was put there goes with all that is in it; a copy is kept.
            let tree = tree::save(world, path)?;
            tree::exchange_away(path, &tree)?;
            self.restore(world, &FileState::Absent)?;
        } else {
            self.restore(world, &now)?;
        }
        Ok(back(Undoing::Restored, self.observe()?))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::change::Change;
    use crate::change::testing::{from_record, undo, world};
    use crate::machine::files::ModifiedAt;

    struct Scene {
        _directory: tempfile::TempDir,
        path: PathBuf,
        world: World,
    }

    fn scene() -> Scene {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        std::fs::create_dir(path.join("state")).unwrap();
        std::fs::create_dir(path.join("etc")).unwrap();
        let world = world(&path.join("state"));
        Scene { _directory: directory, path: path.join("etc"), world }
    }

    fn mine(mode: u32) -> Attributes {
        Attributes::new(mode, rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
    }

    fn file(bytes: &[u8], mode: u32) -> DesiredFile<'_> {
        DesiredFile::File { bytes, attributes: mine(mode) }
    }

    /// Makes the change as a session does; gives it, and what is recorded then.
    fn make(world: &World, path: &Path, desired: &DesiredFile<'_>) -> (Change, Value) {
        let change = FileChange::towards(Found::at(path).unwrap(), desired).unwrap();
        let from_record = from_record(&Change::File(change.clone()));
        change.prepare(world).unwrap();
        assert_eq!(from_record.kind().position(world).unwrap(), Position::Before);
        change.act(world, Payload::File(desired)).unwrap();
        assert_eq!(from_record.kind().position(world).unwrap(), Position::After);
        assert!(FileChange::towards(Found::at(path).unwrap(), desired).is_none());
        let recorded =
            from_record.kind().recorded(world).unwrap().remove(&from_record.kind().target()).unwrap();
        (from_record, recorded)
    }

    fn is_back(undone: &Undone, how: Undoing) -> bool {
        matches!(undone, Undone::Back(done, _) if *done == how)
    }

    /// A file that has everything that a file can have.
    fn full(path: &Path) -> FileState {
        let mut attributes = mine(0o4751);
        attributes.mtime = Some(ModifiedAt { seconds: 1_000_000_000, nanoseconds: 7 });
        attributes.xattrs.insert("user.note".to_owned(), files::Value::from(b"\x00n".to_vec()));
        if rustix::process::geteuid().is_root() {
            (attributes.owner, attributes.group) = (7, 33);
        }
        files::replace(path, Contents::Bytes(b"old"), &attributes, &FileState::Absent, "full").unwrap()
    }

    #[test]
    fn every_change_is_undone_exactly_and_twice_is_once() {
        let Scene { _directory, path, mut world } = scene();
        let at = path.join("it");
        let set_up: [&dyn Fn(); 4] =
            [&|| {}, &|| drop(full(&at)), &|| symlink("nowhere", &at).unwrap(), &|| {
                let mut attributes = mine(0o2700);
                attributes.mtime = Some(ModifiedAt { seconds: 5, nanoseconds: 0 });
                files::make_directory(&at, &attributes, "set-up").unwrap();
            }];
        let link =
            DesiredFile::Link { to: PathText::new("elsewhere"), owner: mine(0).owner, group: mine(0).group };
        let desired_files: [&[DesiredFile<'_>]; 4] = [
            &[file(b"new", 0o640), link.clone(), DesiredFile::Directory { attributes: mine(0o755) }],
            &[
                file(b"new", 0o640),
                file(b"old", 0o640),
                DesiredFile::Metadata { attributes: mine(0o600) },
                link,
                DesiredFile::Absent,
            ],
            &[file(b"new", 0o640), DesiredFile::Absent],
            &[
                DesiredFile::Directory { attributes: mine(0o711) },
                DesiredFile::Metadata { attributes: mine(0o711) },
                DesiredFile::Absent,
            ],
        ];
        for (set_up, desired_files) in set_up.iter().zip(desired_files) {
            for desired in desired_files {
                set_up();
                let before = FileState::observe(&at).unwrap();
                let (change, recorded) = make(&world, &at, desired);
                assert!(change.kind().loss(&world, None).unwrap().is_none());
                let looking = UndoTerms { recorded: Some(&recorded), dry_run: true, ..UndoTerms::default() };
                let after = FileState::observe(&at).unwrap();
                assert!(is_back(&change.kind().undo(&mut world, looking).unwrap(), Undoing::Restored));
                assert_eq!(FileState::observe(&at).unwrap(), after);
                let undone = undo(&mut world, &change, Some(&recorded), false);
                assert!(is_back(&undone, Undoing::Restored), "{desired:?}: {undone:?}");
                assert_eq!(FileState::observe(&at).unwrap(), before, "{desired:?}");
                let undone = undo(&mut world, &change, Some(&recorded), false);
                assert!(is_back(&undone, Undoing::Already), "{desired:?}: {undone:?}");
                let _ = std::fs::remove_file(&at);
                let _ = std::fs::remove_dir(&at);
                assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0, "{desired:?}");
            }
        }
    }

    #[test]
    fn an_edit_outside_kkrun_is_a_conflict_and_its_difference_is_shown() {
        let Scene { _directory, path, mut world } = scene();
        let at = path.join("page");
        let before = full(&at);
        let (change, recorded) = make(&world, &at, &file(b"one\ntwo\n", 0o644));
        std::fs::write(&at, "one\nthree\n").unwrap();
        let again = FileChange::towards(Found::at(&at).unwrap(), &file(b"next", 0o644)).unwrap();
        let in_run = again.conflict(&recorded, &world).unwrap();
        assert!(in_run.has_diff() && !again.restores(&recorded) && change.kind().restores(&recorded));
        let in_run = in_run.difference("it");
        let Undone::Conflict(why) = undo(&mut world, &change, Some(&recorded), false) else { panic!() };
        for shown in [in_run, why] {
            let expected = "content differs (8 → 10 bytes)\n--- as kkrun left it\n+++ as it is now\n\
                            @@ -1,2 +1,2 @@\n one\n-two\n+three";
            assert_eq!(shown, expected);
        }
        assert_eq!(std::fs::read(&at).unwrap(), b"one\nthree\n");
        assert!(is_back(&undo(&mut world, &change, Some(&recorded), true), Undoing::Restored));
        assert_eq!(FileState::observe(&at).unwrap(), before);
    }

    #[test]
    fn owner_and_mode_that_were_half_set_are_no_conflict() {
        let Scene { _directory, path, mut world } = scene();
        let at = path.join("made");
        let start = Attributes::new(0o755, mine(0).owner, mine(0).group);
        let before = files::make_directory(&at, &start, "start").unwrap();
        let mut attributes = mine(0o711);
        attributes.xattrs.insert("user.note".to_owned(), files::Value::from(b"n".to_vec()));
        let desired = DesiredFile::Directory { attributes: attributes.clone() };
        let (change, recorded) = make(&world, &at, &desired);
        let half = Attributes { mode: 0o755, ..attributes };
        let half_set = |from: &FileState| files::set_metadata(&at, &half, from).unwrap();

        half_set(&FileState::observe(&at).unwrap());
        assert_eq!(change.kind().position(&world).unwrap(), Position::Between);
        let again = FileChange::towards(Found::at(&at).unwrap(), &desired).unwrap();
        assert_eq!(again.conflict(&state_value(&before), &world), None);
        assert!(is_back(&undo(&mut world, &change, Some(&recorded), false), Undoing::Restored));
        assert!(FileState::observe(&at).unwrap().same_as(&before));

        files::set_metadata(&at, &mine(0o700), &FileState::observe(&at).unwrap()).unwrap();
        assert!(matches!(change.kind().position(&world).unwrap(), Position::Neither(_)));
        assert!(matches!(undo(&mut world, &change, Some(&recorded), false), Undone::Conflict(_)));
    }

    #[test]
    fn undo_of_a_mode_keeps_content_modified_outside_kkrun() {
        let Scene { _directory, path, mut world } = scene();
        let at = path.join("page");
        std::fs::write(&at, "before\n").unwrap();
        files::set_metadata(&at, &mine(0o644), &FileState::observe(&at).unwrap()).unwrap();
        let (change, recorded) = make(&world, &at, &DesiredFile::Metadata { attributes: mine(0o600) });
        std::fs::write(&at, "theirs\n").unwrap();
        let Undone::Back(how, back) = undo(&mut world, &change, Some(&recorded), false) else { panic!() };
        assert_eq!(how, Undoing::InPart);
        assert_eq!(std::fs::read_to_string(&at).unwrap(), "theirs\n");
        let now = FileState::observe(&at).unwrap();
        assert_eq!(now.metadata().unwrap().mode, 0o644);
        let left: FileState = serde_json::from_value(back[&change.kind().target()].clone()).unwrap();
        assert_ne!(left.sha256(), now.sha256(), "their content is not taken for recorded");
        assert!(is_back(&undo(&mut world, &change, Some(&recorded), false), Undoing::Already));

        std::fs::remove_file(&at).unwrap();
        assert!(is_back(&undo(&mut world, &change, Some(&recorded), false), Undoing::Already));
        symlink("theirs", &at).unwrap();
        let Undone::Conflict(why) = undo(&mut world, &change, Some(&recorded), false) else { panic!() };
        assert!(why.contains("is now a symbolic link"), "{why}");
        assert!(matches!(undo(&mut world, &change, Some(&recorded), true), Undone::Kept(_)));
    }

    #[test]
    fn a_directory_put_in_place_of_a_file_goes_only_when_agreed_to_and_into_the_backups() {
        let Scene { _directory, path, mut world } = scene();
        let at = path.join("page");
        std::fs::write(&at, "before").unwrap();
        let before = FileState::observe(&at).unwrap();
        let (change, recorded) = make(&world, &at, &file(b"one", 0o644));
        std::fs::remove_file(&at).unwrap();
        std::fs::create_dir(&at).unwrap();
        std::fs::write(at.join("theirs"), "theirs").unwrap();
        assert!(matches!(undo(&mut world, &change, Some(&recorded), false), Undone::Conflict(_)));
        assert!(at.join("theirs").exists());
        assert!(is_back(&undo(&mut world, &change, Some(&recorded), true), Undoing::Restored));
        assert_eq!(FileState::observe(&at).unwrap(), before);
        assert_eq!(world.backups().unwrap().read(Digest::of(b"theirs")).unwrap(), b"theirs");
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_that_gave_way_to_a_file_comes_back_with_all_that_was_in_it() {
        let Scene { _directory, path, mut world } = scene();
        let at = path.join("page");
        std::fs::create_dir_all(at.join("inner")).unwrap();
        std::fs::write(at.join("inner/theirs"), "theirs").unwrap();
        let before = Manifest::observe(&at).unwrap();
        let desired = file(b"one", 0o644);
        let change = FileChange::in_place_of_directory(Found::at(&at).unwrap(), &desired).unwrap().unwrap();
        let known = from_record(&Change::File(change.clone()));
        change.prepare(&world).unwrap();
        change.act(&world, Payload::File(&desired)).unwrap();
        assert_eq!(known.kind().position(&world).unwrap(), Position::After);
        let recorded = known.kind().recorded(&world).unwrap().remove(&known.kind().target()).unwrap();
        // Killed between the two, it is neither lost nor in doubt.
        std::fs::remove_file(&at).unwrap();
        assert_eq!(known.kind().position(&world).unwrap(), Position::Between);
        assert!(is_back(&undo(&mut world, &known, Some(&recorded), false), Undoing::Restored));
        assert_eq!(Manifest::observe(&at).unwrap(), before);
        assert!(is_back(&undo(&mut world, &known, Some(&recorded), false), Undoing::Already));

        let change = FileChange::in_place_of_directory(Found::at(&at).unwrap(), &desired).unwrap().unwrap();
        change.prepare(&world).unwrap();
        std::fs::write(at.join("late"), "written since").unwrap();
        assert!(change.act(&world, Payload::File(&desired)).is_err());
        assert_eq!(std::fs::read_to_string(at.join("late")).unwrap(), "written since");
        assert_eq!(std::fs::read_to_string(at.join("inner/theirs")).unwrap(), "theirs");
    }

    #[test]
    fn of_a_file_that_is_not_for_everybody_no_line_is_shown_or_kept() {
        let Scene { _directory, path, mut world } = scene();
        let at = path.join("key");
        let (change, recorded) = make(&world, &at, &file(b"a secret\n", 0o640));
        assert!(world.backups().unwrap().read(Digest::of(b"a secret\n")).is_err());
        std::fs::write(&at, "another\n").unwrap();
        let Undone::Conflict(why) = undo(&mut world, &change, Some(&recorded), false) else { panic!() };
        assert_eq!(why, "content differs (9 → 8 bytes)");
    }

    #[test]
    fn what_vanished_or_was_left_by_another_change_is_no_conflict() {
        let Scene { _directory, path, world } = scene();
        let at = path.join("page");
        let (_, recorded) = make(&world, &at, &file(b"one", 0o644));
        let towards =
            |bytes: &[u8]| FileChange::towards(Found::at(&at).unwrap(), &file(bytes, 0o644)).unwrap();
        assert_eq!(towards(b"two").conflict(&recorded, &world), None);
        std::fs::remove_file(&at).unwrap();
        assert_eq!(towards(b"two").conflict(&recorded, &world), None);
    }

    #[test]
    fn a_directory_that_gained_entries_is_asked_for() {
        let Scene { _directory, path, mut world } = scene();
        let at = path.join("made");
        let (change, recorded) = make(&world, &at, &DesiredFile::Directory { attributes: mine(0o755) });
        std::fs::write(at.join("gained"), "").unwrap();
        assert_eq!(change.kind().loss(&world, None).unwrap().unwrap().class, Class::Homes);
        assert!(is_back(&undo(&mut world, &change, Some(&recorded), false), Undoing::Restored));
        assert!(!at.exists());
    }

    #[test]
    fn a_copy_streams_what_is_open_and_nothing_else() {
        let Scene { _directory, path, mut world } = scene();
        let (from, at) = (path.join("from"), path.join("it"));
        std::fs::write(&from, "content").unwrap();
        let of = File::open(&from).unwrap();
        let desired = |sha256| DesiredFile::Copy { of: &of, sha256, size: 7, attributes: mine(0o600) };
        let damaged = desired(Digest::of(b"another"));
        let change = FileChange::towards(Found::at(&at).unwrap(), &damaged).unwrap();
        assert!(change.act(&world, Payload::File(&damaged)).is_err() && !at.exists());
        let (change, recorded) = make(&world, &at, &desired(Digest::of(b"content")));
        assert_eq!(std::fs::read(&at).unwrap(), b"content");
        assert!(is_back(&undo(&mut world, &change, Some(&recorded), false), Undoing::Restored));
    }
}
