//! An edit of one entry of a text file: the line of a key, a block or a whole line. Every byte outside it stays, and what is modified elsewhere
//! in the file is no conflict.
//!
//! No text of the file is in the journal, for a line may hold a secret: only names, numbers and hashes. A whole line is
//! its own name, and so cannot hold one. The whole file from before is in the backups.

mod document;
mod entry;
mod format;
mod included;
mod key;
mod lines;
mod read_together;
mod section;
mod undo;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use document::{plain as plain_value, section_name, tree as document_tree};
pub use entry::{Beside, DesiredEntry, EntryKind, FileEntry, Made, matching_lines};
pub use format::{Asked, Format, is_document, recognise};
pub use included::refuse_without_effect;
pub use lines::Lines;

use super::file::{recorded_contents, recorded_diff, showable};
use super::tree::keep_copy;
use super::{
    Change, Found, Kind, NOT_SHOWN, Payload, Position, Predicted, UndoTerms, Undone, UndoneEntry, World,
    accounts_of, state_value, tag, unified_diff,
};
use crate::event::Modification;
use crate::failure::{Failure, FailureKind, sentence};
use crate::journal::{ChangeId, Undoing};
use crate::machine::files::{self, Attributes, Contents, Digest, FileState, PathText};
use crate::target::{States, Target};
use undo::{Then, entry_undone};

/// How many lines of an entry are shown.
const SHOWN: usize = 20;

/// A change to one entry.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EditChange {
    before: EntryState,
    after: EntryState,
    inverse: EditInverse,
    /// The file's content from before, on its way to the backups: one buffer, shared.
    #[serde(skip)]
    content: Rc<Vec<u8>>,
    /// The file's content after.
    #[serde(skip)]
    edited: Rc<Vec<u8>>,
    /// The whole file is as kkrun left it, whatever the record of this entry says.
    #[serde(skip)]
    file_is_ours: bool,
    /// The entry before and after, where the file differs by other entries too.
    #[serde(skip)]
    alone: Option<Rc<[Vec<u8>; 2]>>,
}

/// The state of an entry, in the form that the journal and the ledger hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub(super) enum EntryState {
    /// It is there.
    Set {
        /// Of its bytes, without the last line end.
        sha256: Digest,
    },
    /// It is not there, or a comment.
    Unset,
}

impl EntryState {
    fn of(text: Option<&[u8]>) -> Self {
        text.map_or(Self::Unset, |text| Self::Set { sha256: Digest::of(text) })
    }
}

/// What undoing it needs besides the states.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct EditInverse {
    path: PathText,
    entry: FileEntry,
    /// The whole file before; its content is in the backups under its hash.
    file: FileState,
    /// The whole file after.
    edited: FileState,
    /// The lines of the entry in the file before, counted from one, the last one included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lines: Option<(usize, usize)>,
    /// The comment that it became.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    commented: Option<Digest>,
    /// What was made for it.
    #[serde(default)]
    made: Made,
    /// The file is written in place: it cannot be replaced.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    in_place: bool,
    /// Its text is never shown.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    secret: bool,
    /// The whole file was as recorded, so that it is so afterwards, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    accepts_file: bool,
    /// Which of the entries it is that one write of the file changed: both states of the file differ by all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    together: Option<usize>,
}

/// How the file of an edit compares with its recorded state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FileRecord {
    /// Nothing: kkrun never recorded it as a whole.
    #[default]
    Unknown,
    /// It is as it was recorded.
    AsRecorded,
    /// It was modified outside kkrun since.
    Conflict,
}

impl FileRecord {
    /// What this ledger entry means for what was found.
    pub fn of(recorded: Option<&Value>, found: &FileState) -> Self {
        match recorded.map(|value| serde_json::from_value::<FileState>(value.clone())) {
            None => Self::Unknown,
            Some(Ok(recorded)) if recorded.same_as(found) => Self::AsRecorded,
            Some(_) => Self::Conflict,
        }
    }
}

/// What an edit is about, besides the desired state.
pub struct EditTerms {
    /// The part of the file.
    pub entry: FileEntry,
    /// The text holds a secret.
    pub secret: bool,
    /// A file that exists is written in place.
    pub in_place: bool,
    /// The metadata of the file afterwards.
    pub attributes: Attributes,
    /// What is known of the whole file.
    pub record: FileRecord,
}

/// One of the values that are set by one write of a file.
pub struct DesiredLine<'text> {
    /// The line.
    pub entry: FileEntry,
    /// The value.
    pub value: &'text [u8],
    /// It holds a secret.
    pub secret: bool,
}

/// What is the same for all values that are set by one write of a file.
pub struct TogetherTerms {
    /// A file that exists is written in place.
    pub in_place: bool,
    /// The metadata of the file afterwards.
    pub attributes: Attributes,
    /// What is known of the whole file.
    pub record: FileRecord,
}

impl EditChange {
    /// The changes that set several values of what was found, one for each that is not as desired. Each is a change of
    /// its own to record and to undo; the act of any of them makes all of them, by one write.
    ///
    /// # Errors
    /// As [`EditChange::towards`], for any of them.
    pub fn towards_all(
        (found, bytes): (&Found, &[u8]),
        desired: &[DesiredLine<'_>],
        terms: &TogetherTerms,
    ) -> Result<Vec<Self>> {
        let shown = found.path.display().to_string();
        let original = Lines::of(bytes);
        let mut text: Option<Vec<u8>> = None;
        let mut parts = Vec::new();
        for DesiredLine { entry, value, secret } in desired {
            let now = text.as_deref().unwrap_or(bytes);
            let Some(edited) = entry.edited(now, DesiredEntry::Text(value), &shown)? else { continue };
            // Its lines in the file from before: those of another one may be there by now.
            let lines = if edited.before.is_some() { entry.find(&original, &shown)? } else { None };
            parts.push((entry, *secret, lines, [edited.before_text, edited.after], edited.made));
            text = Some(edited.bytes);
        }
        let Some(text) = text else { return Ok(Vec::new()) };
        let after = FileState::file(Digest::of(&text), text.len() as u64, &terms.attributes);
        let (content, edited) = (Rc::new(bytes.to_vec()), Rc::new(text));
        let is_several = parts.len() > 1;
        let change = |(number, (entry, secret, lines, texts, made))| {
            let (entry, lines): (&FileEntry, Option<Range<usize>>) = (entry, lines);
            let texts: [Option<Vec<u8>>; 2] = texts;
            let [before_text, after_text] = texts.each_ref().map(Option::as_deref);
            let inverse = EditInverse {
                path: PathText::new(&*found.path),
                entry: entry.clone(),
                file: found.state.clone(),
                edited: after.clone(),
                lines: lines.as_ref().map(|lines| (lines.start + 1, lines.end)),
                commented: None,
                made,
                in_place: terms.in_place && !found.state.is_absent(),
                secret,
                accepts_file: terms.record != FileRecord::Conflict,
                together: is_several.then_some(number),
            };
            let alone = is_several.then(|| Rc::new([as_lines(before_text), as_lines(after_text)]));
            Self {
                before: EntryState::of(before_text),
                after: EntryState::of(after_text),
                inverse,
                content: Rc::clone(&content),
                edited: Rc::clone(&edited),
                file_is_ours: terms.record == FileRecord::AsRecorded,
                alone,
            }
        };
        Ok(parts.into_iter().enumerate().map(change).collect())
    }

    /// The change that brings an entry of what was found, whose text is `bytes`, to `desired`; `None` if it is so
    /// already.
    ///
    /// # Errors
    /// When the entry is there twice, goes on where it cannot be followed, or the file is not a text file.
    pub fn towards(
        (found, bytes): (Found, Vec<u8>),
        desired: DesiredEntry<'_>,
        terms: EditTerms,
    ) -> Result<Option<Self>> {
        let shown = found.path.display().to_string();
        let Some(edited) = terms.entry.edited(&bytes, desired, &shown)? else { return Ok(None) };
        let before = EntryState::of(edited.before_text.as_deref());
        let size = edited.bytes.len() as u64;
        let inverse = EditInverse {
            path: PathText::new(found.path),
            entry: terms.entry,
            in_place: terms.in_place && !found.state.is_absent(),
            edited: FileState::file(Digest::of(&edited.bytes), size, &terms.attributes),
            file: found.state,
            lines: edited.before.map(|lines| (lines.start + 1, lines.end)),
            commented: edited.commented.as_deref().map(Digest::of),
            made: edited.made,
            secret: terms.secret,
            accepts_file: terms.record != FileRecord::Conflict,
            together: None,
        };
        Ok(Some(Self {
            before,
            after: EntryState::of(edited.after.as_deref()),
            inverse,
            content: Rc::new(bytes),
            edited: Rc::new(edited.bytes),
            file_is_ours: terms.record == FileRecord::AsRecorded,
            alone: None,
        }))
    }

    /// The whole file after.
    pub fn edited(&self) -> &[u8] {
        &self.edited
    }

    fn path(&self) -> &Path {
        self.inverse.path.as_path()
    }

    fn shown_path(&self) -> String {
        self.path().display().to_string()
    }

    /// Whether this file is written in place.
    fn writes_into(&self, now: &FileState) -> bool {
        self.inverse.in_place && matches!(now, FileState::File { .. })
    }

    /// The entry in these bytes.
    fn state_in(&self, bytes: &[u8]) -> Result<EntryState> {
        Ok(EntryState::of(self.inverse.entry.text(bytes, &self.shown_path())?.as_deref()))
    }

    /// The entry as it is on the machine, whatever became of the file.
    fn state_now(&self) -> Result<EntryState> {
        match files::read_if_file(self.path())? {
            (bytes, FileState::File { .. }) => self.state_in(&bytes),
            _ => Ok(EntryState::Unset),
        }
    }

    fn lines_before(&self) -> Option<Range<usize>> {
        self.inverse.lines.map(|(first, last)| first.saturating_sub(1)..last)
    }

    /// The file from before, out of the backups.
    fn bytes_before(&self, world: &World) -> Result<Vec<u8>> {
        match self.inverse.file.sha256() {
            Some(digest) => world.backups()?.read(digest),
            None => Ok(Vec::new()),
        }
    }

    /// How the entry is now, for messages.
    fn entry_now(&self, world: &World) -> String {
        let text = || -> Result<String> {
            let (bytes, _) = files::read(self.path())?;
            if self.inverse.entry.format.is_document() {
                let Some(text) = self.inverse.entry.text(&bytes, &self.shown_path())? else {
                    return Ok(format!("{} is gone", self.inverse.entry.shown()));
                };
                let is_hidden = self.inverse.secret || world.content_is_secret.get();
                let shown = if is_hidden { NOT_SHOWN.into() } else { String::from_utf8_lossy(&text) };
                return Ok(world.reporter.redact(&shown));
            }
            let lines = Lines::of(&bytes);
            let Some(found) = self.inverse.entry.find(&lines, &self.shown_path())? else {
                return Ok(format!("{} is gone", self.inverse.entry.shown()));
            };
            let first = found.start + 1;
            if self.inverse.secret || world.content_is_secret.get() {
                return Ok(format!("line {first} differs {NOT_SHOWN}"));
            }
            let text = world.reporter.redact(&String::from_utf8_lossy(lines.bodies(&found)));
            let numbered = text.lines().take(SHOWN).enumerate();
            let numbered = numbered.map(|(index, line)| format!("{}: {}", first + index, line));
            Ok(numbered.collect::<Vec<_>>().join("\n"))
        };
        text().unwrap_or_else(|error| sentence(&error))
    }

    /// Completes or clears what a killed process left half written.
    fn tidy(&self, world: &World) -> Result<()> {
        let tag = tag(self.path());
        if self.inverse.in_place {
            // What is there may be the operator's since.
            files::finish_rewrite(self.path(), &tag, || keep_copy(world, self.path()))?;
        }
        files::clear_leftover(self.path(), &tag)
    }

    fn restore_file(&self, world: &World, now: &FileState) -> Result<()> {
        let (path, tag) = (self.path(), tag(self.path()));
        match &self.inverse.file {
            FileState::File { sha256, metadata, .. } if self.writes_into(now) => {
                let bytes = world.backups()?.read(*sha256)?;
                files::rewrite(path, &bytes, &Attributes::from(metadata), now, &tag)
                    .map(drop)
                    .with_context(|| format!("cannot restore `{}` from the backup", path.display()))
            }
            FileState::File { sha256, metadata, .. } => {
                let backup = world.backups()?.file(*sha256)?;
                let contents = Contents::File { from: &backup, sha256: Some(*sha256) };
                files::replace(path, contents, &Attributes::from(metadata), now, &tag)
                    .map(drop)
                    .with_context(|| format!("cannot restore `{}` from the backup", path.display()))
            }
            _ => files::remove(path, now, &tag),
        }
    }

    /// What to record once the whole file is as before.
    fn recorded_before(&self, now: &FileState) -> States {
        let mut recorded = BTreeMap::from([(self.target(), state_value(&self.before))]);
        if self.inverse.accepts_file {
            recorded.insert(Target::file(self.path()), state_value(now));
        }
        recorded
    }

    fn undo_file(&self, world: &World, now: &FileState, terms: UndoTerms<'_>) -> Result<Undone> {
        if terms.dry_run {
            return Ok(Undone::Back(Undoing::Restored, BTreeMap::new()));
        }
        self.restore_file(world, now)?;
        let restored = FileState::observe(self.path())?;
        Ok(Undone::Back(Undoing::Restored, self.recorded_before(&restored)))
    }

    /// What was made for the entry, the file too.
    fn made(&self) -> Made {
        Made { file: self.inverse.file.is_absent(), ..self.inverse.made }
    }

    /// Of a file in which the entry cannot be found for certain, or has no place any more: as a whole or not at all.
    fn undo_not_found(
        &self,
        world: &World,
        now: &FileState,
        why: &anyhow::Error,
        terms: UndoTerms<'_>,
    ) -> Result<Undone> {
        if terms.force {
            if !terms.dry_run {
                keep_copy(world, self.path())?;
            }
            return self.undo_file(world, now, terms);
        }
        let shown = self.shown_path();
        let is_repeated = || {
            let (bytes, _) = files::read_if_file(self.path()).ok()?;
            self.inverse.entry.with_one_line(&bytes, &shown)
        };
        let whole = if is_repeated().is_some() {
            format!(
                "overwriting it leaves no line of {} but the one from before this change",
                self.inverse.entry.shown()
            )
        } else if self.inverse.file.is_absent() {
            format!("overwriting it removes `{shown}`, which this change made")
        } else {
            format!(
                "overwriting it restores all of `{shown}` from before this change, without what was set in it since"
            )
        };
        let why = world.reporter.redact(&sentence(why));
        Ok(Undone::Conflict(format!("{why}\n{whole}")))
    }

    /// Undoes the entry alone, in a file that was modified elsewhere.
    fn undo_entry(&self, world: &World, terms: UndoTerms<'_>) -> Result<Undone> {
        let (mut bytes, state) = files::read_if_file(self.path())?;
        let mut is_repeated = false;
        let here = match self.state_in(&bytes) {
            Ok(here) => here,
            Err(error) => {
                let one = if terms.force {
                    self.inverse.entry.with_one_line(&bytes, &self.shown_path())
                } else {
                    None
                };
                let Some(one) = one else { return self.undo_not_found(world, &state, &error, terms) };
                (bytes, is_repeated) = (one, true);
                self.state_in(&bytes)?
            }
        };
        let mut back = BTreeMap::from([(self.target(), state_value(&self.before))]);
        if here == self.before && !is_repeated {
            return Ok(Undone::Back(Undoing::Already, back));
        }
        let recorded = terms.recorded.and_then(|value| serde_json::from_value(value.clone()).ok());
        let is_conflicting = is_repeated || here != recorded.unwrap_or(self.after);
        if is_conflicting && !terms.force {
            return Ok(Undone::Conflict(self.entry_now(world)));
        }
        let file_is_ours = FileRecord::of(terms.recorded_file, &state) == FileRecord::AsRecorded;
        let bytes_before = self.bytes_before(world)?;
        let lines_before = Lines::of(&bytes_before);
        let entry = self.lines_before();
        if entry.as_ref().is_some_and(|lines| lines.end > lines_before.count()) {
            anyhow::bail!(
                Failure::new(format!(
                    "backup of `{}` is damaged: it has fewer lines than recorded",
                    self.shown_path()
                ))
                .kind(FailureKind::Damaged)
            );
        }
        let then = Then {
            lines: &lines_before,
            entry,
            commented: self.inverse.commented,
            made: self.made().and(terms.made),
        };
        let (entry, shown) = (&self.inverse.entry, self.shown_path());
        let text = match entry.undone_in_document(&bytes, &bytes_before, then.made, &shown) {
            Ok(None) => entry_undone(entry, &Lines::of(&bytes), &then, &shown),
            Ok(Some(text)) => Ok(text),
            Err(error) => Err(error),
        };
        let text = match text {
            Ok(text) => text,
            Err(error) => return self.undo_not_found(world, &state, &error, terms),
        };
        // Those that were made together are undone one by one; a file that nothing else has modified is whole again.
        let is_whole = self.inverse.together.is_some() && file_is_ours && !is_conflicting;
        let how = if is_whole { Undoing::Restored } else { Undoing::InPart };
        if terms.dry_run {
            return Ok(Undone::Back(how, BTreeMap::new()));
        }
        if is_conflicting {
            keep_copy(world, self.path())?;
        }
        let tag = tag(self.path());
        let left = if text.is_empty() && then.made.file {
            files::remove(self.path(), &state, &tag)?;
            FileState::Absent
        } else {
            let metadata = state.metadata().or(self.inverse.file.metadata());
            let metadata = metadata.context("a file without metadata")?;
            let digest = Digest::of(&text);
            // The last of those that were made together leaves the file as it was before, its time included.
            let before = self.inverse.file.metadata().filter(|_| self.inverse.file.sha256() == Some(digest));
            let mtime = before.and_then(|before| Attributes::from(before).mtime);
            let attributes = Attributes { mtime, ..Attributes::from(metadata) };
            if self.writes_into(&state) {
                files::rewrite(self.path(), &text, &attributes, &state, &tag)?
            } else {
                files::replace(self.path(), Contents::Hashed(&text, digest), &attributes, &state, &tag)?
            }
        };
        // The whole file stays kkrun's if it was.
        if file_is_ours {
            back.insert(Target::file(self.path()), state_value(&left));
        }
        Ok(Undone::Back(how, back))
    }
}

impl Kind for EditChange {
    fn target(&self) -> Target {
        entry_target(self.path(), &self.inverse.entry)
    }

    fn whole(&self) -> Option<Target> {
        Some(Target::file(self.path()))
    }

    fn backups(&self, _world: &World, _recorded: Option<&Value>) -> Vec<Digest> {
        // What was not set before is removed, which takes no content.
        self.inverse.file.sha256().filter(|_| self.before != EntryState::Unset).into_iter().collect()
    }

    fn needs(&self) -> Result<Vec<Target>> {
        let makes_file = self.inverse.file.is_absent();
        accounts_of(self.inverse.edited.ownership().filter(|_| makes_file))
    }

    fn removed_by_undo(&self, _world: &World) -> Vec<std::path::PathBuf> {
        // Undoing the first of those that were made together is what removes the file.
        let removes = self.inverse.file.is_absent() && self.inverse.together.unwrap_or_default() == 0;
        if removes { vec![self.path().to_owned()] } else { Vec::new() }
    }

    fn holds_secret(&self) -> bool {
        self.inverse.secret
    }

    fn is_found_again(&self) -> bool {
        true
    }

    fn summary(&self) -> String {
        let verb = match (&self.after, &self.inverse.commented, &self.inverse.entry.kind) {
            (EntryState::Unset, Some(_), _) => "comment out",
            (EntryState::Unset, None, _) => "remove",
            (_, _, EntryKind::Line { .. }) => "set",
            (_, _, EntryKind::Block { .. } | EntryKind::WholeLine { .. }) => "write",
        };
        let preposition = if self.inverse.entry.section.is_some() { "of" } else { "in" };
        let how = if self.inverse.in_place { ", in place" } else { "" };
        format!("{verb} {} {preposition} {}{how}", self.inverse.entry.shown(), self.path().display())
    }

    fn difference(&self, world: &World) -> Option<String> {
        if self.inverse.secret || world.content_is_secret.get() {
            return None;
        }
        if let Some(alone) = &self.alone {
            let [old, new] = alone.each_ref().map(|text| String::from_utf8_lossy(text));
            return Some(unified_diff(&world.reporter.redact(&old), &world.reporter.redact(&new), None));
        }
        let old = showable(&self.inverse.file, &self.content)?;
        let new = showable(&self.inverse.edited, &self.edited)?;
        Some(unified_diff(&world.reporter.redact(old), &world.reporter.redact(new), None))
    }

    fn recorded_difference(&self, world: &World) -> Option<String> {
        if self.inverse.secret {
            return None;
        }
        let (before, after) = (&self.inverse.file, &self.inverse.edited);
        if self.inverse.together.is_none() {
            return recorded_diff(world, self.path(), before, after);
        }
        // The file differs by the others, too: the entry alone is shown.
        let (old, new) = recorded_contents(world, self.path(), before, after)?;
        let entry = |state: &FileState, text: &[u8]| {
            let text = self.inverse.entry.text(showable(state, text)?.as_bytes(), &self.shown_path());
            Some(as_lines(text.ok()?.as_deref()))
        };
        let [old, new] = [entry(before, &old)?, entry(after, &new)?];
        let text = |bytes: &[u8]| world.reporter.redact(&String::from_utf8_lossy(bytes));
        Some(unified_diff(&text(&old), &text(&new), None))
    }

    fn predict(&self, _world: &World, predicted: &mut Predicted) {
        let content = Rc::from(self.edited.as_slice());
        predicted.set_path(self.path(), &self.inverse.file, &self.inverse.edited, Some(content));
    }

    fn prepare(&self, world: &World) -> Result<()> {
        if let Some(digest) = self.inverse.file.sha256() {
            world.backups()?.save_known(&self.content, digest)?;
        }
        self.tidy(world)
    }

    fn conflict(&self, recorded: &Value, world: &World) -> Option<Modification> {
        let recorded: EntryState = serde_json::from_value(recorded.clone()).ok()?;
        if recorded == self.before || self.file_is_ours {
            return None;
        }
        if self.before == EntryState::Unset {
            let gone = format!("{} is gone from `{}`", self.inverse.entry.shown(), self.shown_path());
            return Some(Modification::shown(&gone));
        }
        Some(Modification::shown(&self.entry_now(world)))
    }

    fn stayed_for(&self, id: ChangeId, mut undone: Vec<UndoneEntry>) -> Made {
        undone.sort_by_key(|other| std::cmp::Reverse(other.undone));
        let mut made = Made::default();
        // What was made for one is there without a gap as long as one change follows the other before it is undone.
        let (mut file_since, mut section_since) = (id, id);
        for UndoneEntry { made: began, undone, change } in undone {
            let Change::Edit(other) = change else { continue };
            if undone > file_since && other.path() == self.path() {
                file_since = file_since.min(began);
                made.file |= other.made().file;
                if undone > section_since && other.inverse.entry.is_in_the_section_of(&self.inverse.entry) {
                    section_since = section_since.min(began);
                    made = made.and(other.inverse.made);
                }
            }
        }
        made
    }

    fn repair(&self, world: &World) -> Result<()> {
        self.tidy(world)
    }

    fn act(&self, world: &World, _: Payload<'_>) -> Result<()> {
        let FileState::File { metadata, .. } = &self.inverse.edited else { return Ok(()) };
        let attributes = Attributes { mtime: None, ..Attributes::from(metadata) };
        if self.inverse.in_place {
            let tag = tag(self.path());
            files::rewrite(self.path(), &self.edited, &attributes, &self.inverse.file, &tag)?;
            let shown = self.shown_path();
            world
                .reporter
                .note(format!("wrote into `{shown}` in place: a reader may have seen a part of it"));
            return Ok(());
        }
        let contents = match self.inverse.edited.sha256() {
            Some(digest) => Contents::Hashed(&self.edited, digest),
            None => Contents::Bytes(&self.edited),
        };
        files::replace(self.path(), contents, &attributes, &self.inverse.file, &tag(self.path()))?;
        Ok(())
    }

    fn position(&self, world: &World) -> Result<Position> {
        self.repair(world)?;
        let now = FileState::observe(self.path())?;
        if now.same_as(&self.inverse.edited) {
            return Ok(Position::After);
        }
        if now.same_as(&self.inverse.file) {
            return Ok(Position::Before);
        }
        Ok(match self.state_now() {
            Ok(here) if here == self.after => Position::After,
            Ok(here) if here == self.before => Position::Before,
            Ok(_) => Position::Neither(self.inverse.edited.differences(&now).join("\n")),
            // The file is there: the entry cannot be found in it for certain.
            Err(error) => Position::Neither(world.reporter.redact(&sentence(&error))),
        })
    }

    fn recorded(&self, _world: &World) -> Result<States> {
        let now = FileState::observe(self.path())?;
        let mut recorded = BTreeMap::from([(self.target(), state_value(&self.after))]);
        if now.same_as(&self.inverse.edited) {
            if self.inverse.accepts_file {
                recorded.insert(Target::file(self.path()), state_value(&now));
            }
            return Ok(recorded);
        }
        if self.state_now()? != self.after {
            anyhow::bail!(
                "{} in `{}` is not as desired after the change",
                self.inverse.entry.shown(),
                self.shown_path()
            );
        }
        Ok(recorded)
    }

    fn undo(&self, world: &mut World, terms: UndoTerms<'_>) -> Result<Undone> {
        if !terms.dry_run {
            self.tidy(world)?;
        }
        let now = FileState::observe(self.path())?;
        if now.same_as(&self.inverse.file) {
            return Ok(Undone::Back(Undoing::Already, self.recorded_before(&now)));
        }
        if now.same_as(&self.inverse.edited) && self.inverse.together.is_none() {
            return self.undo_file(world, &now, terms);
        }
        match &now {
            FileState::File { .. } => self.undo_entry(world, terms),
            FileState::Absent if self.before == EntryState::Unset => {
                let back = BTreeMap::from([(self.target(), state_value(&self.before))]);
                Ok(Undone::Back(Undoing::Already, back))
            }
            // kkrun made the file, and removed it when the last of its other entries was undone.
            FileState::Absent
                if FileRecord::of(terms.recorded_file, &FileState::Absent) == FileRecord::AsRecorded =>
            {
                self.undo_entry(world, terms)
            }
            _ if terms.force => {
                if !terms.dry_run {
                    keep_copy(world, self.path())?;
                }
                self.undo_file(world, &now, terms)
            }
            FileState::Absent => Ok(Undone::Conflict(format!("`{}` is gone", self.path().display()))),
            other => Ok(Undone::Conflict(format!("`{}` is {}", self.path().display(), other.kind_name()))),
        }
    }
}

/// An entry as lines of their own, to be compared; none if it is not there.
fn as_lines(entry: Option<&[u8]>) -> Vec<u8> {
    entry.map_or_else(Vec::new, |text| [text, b"\n"].concat())
}

/// The target of a change to an entry.
pub fn entry_target(path: &Path, entry: &FileEntry) -> Target {
    // Of what the program takes for one all spellings are one target.
    let section = entry.section.as_deref().map(|section| entry.format.section_name(section));
    let path = path.into();
    match &entry.kind {
        EntryKind::Line { key, .. } => Target::Line { path, section, key: entry.format.key_name(key) },
        EntryKind::Block { name } => Target::Block { path, section, name: name.clone() },
        EntryKind::WholeLine { line, matching } => {
            Target::WholeLine { path, text: matching.as_ref().unwrap_or(line).clone() }
        }
    }
}

/// The target of a key as it was typed, in the one form of its spellings if the path says the format.
pub fn in_one_form(target: &Target) -> Target {
    let Target::Line { path, section, key } = target else { return target.clone() };
    let Ok(format) = recognise(path.as_path(), &[], Asked::default()) else { return target.clone() };
    Target::Line {
        path: path.clone(),
        section: section.as_deref().map(|section| format.section_name(section)),
        key: format.key_name(key),
    }
}

#[cfg(test)]
mod tests;
