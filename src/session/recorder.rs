//! What a session records with: the lock, the journal, and what the journal says by now. The only writer of the journal.

use std::path::PathBuf;
use std::rc::Rc;

use anyhow::{Result, bail};

use super::Session;
use crate::failure::{Failure, FailureKind, sentence};
use crate::journal::{self, ChangeId, Entry, Journal, Loaded, Record, ScriptDigests, Writer};
use crate::machine::lock::{Attempt, Lock};
use crate::machine::secret_store::SecretStore;
use crate::machine::{backups, capture};

/// How a session gets to record.
pub struct Opening {
    /// The state directory.
    pub directory: PathBuf,
    /// Who writes.
    pub writer: Writer,
    /// What is recorded right before the first record, if there is one.
    pub entries: Vec<Entry>,
    /// The journal as it was read before the lock was taken; read again only if it was written since.
    pub loaded: Loaded,
}

/// What a session records with.
pub(super) enum Recorder {
    /// Nothing: a dry run.
    None,
    /// Nothing yet: it takes the lock when it first acts, so that a script which changes nothing never does.
    Closed(Box<Opening>),
    /// The journal, under the lock.
    Open { journal: Box<Journal>, _lock: Lock },
}

impl Session {
    pub(super) fn open_journal(&mut self) -> Result<()> {
        let Recorder::Closed(opening) = &mut self.recorder else { return Ok(()) };
        // A journal that was read was in a trusted directory.
        if !opening.loaded.exists {
            // First where it is going to be, then what is there: it may have been created meanwhile.
            journal::check_state_directory(&opening.directory)?;
            journal::make_state_directory(&opening.directory)?;
            journal::check_state_directory(&opening.directory)?;
        }
        let lock = match Lock::acquire(&opening.directory.join("lock"))? {
            Attempt::Acquired(lock) => lock,
            Attempt::Held(holder) => return Err(holder.failure().into()),
        };
        let mut loaded = std::mem::take(&mut opening.loaded);
        if !loaded.is_current(&opening.directory) {
            loaded = journal::load(&opening.directory)?;
            loaded.make_durable(&opening.directory)?;
            self.history = Rc::new(std::mem::take(&mut loaded.history));
        }
        backups::clear_unfinished(&opening.directory.join("backups"))?;
        SecretStore::below(&opening.directory).clear_unfinished()?;
        let mut journal = Journal::take_over(&opening.directory, &loaded, opening.writer.clone())?;
        journal.open_run_with(std::mem::take(&mut opening.entries));
        self.recorder = Recorder::Open { journal: Box::new(journal), _lock: lock };
        self.world.end_orphans()?;
        capture::clear_leftovers(self.world.state_directory())
    }

    /// Appends to the journal.
    ///
    /// # Errors
    /// When it cannot be made durable; nothing more may be done then.
    pub fn record(&mut self, entry: Entry) -> Result<ChangeId> {
        self.begin_acting()?;
        self.append(entry)
    }

    /// Appends what a killed run must leave and a power failure may take, without a sync: the next record that is synced
    /// makes it durable.
    ///
    /// # Errors
    /// When it cannot be written; nothing more may be done then.
    pub fn note(&mut self, entry: Entry) -> Result<ChangeId> {
        self.begin_acting()?;
        self.write(entry, Journal::note)
    }

    /// Records how the run ended.
    ///
    /// # Errors
    /// As [`Session::record`].
    pub fn record_end(&mut self, entry: Entry) -> Result<ChangeId> {
        self.begin_acting()?;
        if self.history.awaits_sync() { self.append(entry) } else { self.write(entry, Journal::close) }
    }

    pub(super) fn append(&mut self, entry: Entry) -> Result<ChangeId> {
        if entry.promises() {
            self.world.make_durable();
        }
        self.write(entry, Journal::append)
    }

    /// Appends several entries with one write and one sync.
    pub(super) fn record_all(&mut self, entries: Vec<Entry>) -> Result<Vec<ChangeId>> {
        self.begin_acting()?;
        self.write_all(entries, Journal::append_all)
    }

    fn write(
        &mut self,
        entry: Entry,
        write: impl FnOnce(&mut Journal, Entry) -> Result<Vec<Record>>,
    ) -> Result<ChangeId> {
        let ids = self.write_all(vec![entry], |journal, mut entries| match entries.pop() {
            Some(entry) => write(journal, entry),
            None => Ok(Vec::new()),
        })?;
        Ok(ids.last().copied().unwrap_or_default())
    }

    fn write_all(
        &mut self,
        entries: Vec<Entry>,
        write: impl FnOnce(&mut Journal, Vec<Entry>) -> Result<Vec<Record>>,
    ) -> Result<Vec<ChangeId>> {
        let redact = |text: &str| self.world.reporter.redact(text);
        let entries: Vec<Entry> = entries.into_iter().map(|entry| entry.redacted(&redact)).collect();
        let Recorder::Open { journal, .. } = &mut self.recorder else {
            bail!("internal error: a dry run cannot record")
        };
        if self.history.is_brief() {
            bail!("internal error: refused to write a record without the changes before it")
        }
        // What is written stays written.
        for entry in &entries {
            if let Err(why) = self.history.check(entry) {
                bail!(
                    Failure::new(format!("internal error: refused to write a record that {why}"))
                        .kind(FailureKind::Panic)
                        .hint("this is a bug in kkrun; what was done before is recorded")
                );
            }
        }
        let written = entries.len();
        let mut ids = Vec::new();
        for record in write(journal, entries)? {
            ids.push(record.header.seq);
            Rc::make_mut(&mut self.history).apply(record)?;
        }
        // The records that open a run come before them.
        Ok(ids.split_off(ids.len().saturating_sub(written)))
    }

    /// Records these right before the first record, if there is one.
    pub fn remember(&mut self, entries: Vec<Entry>) {
        if let Recorder::Closed(opening) = &mut self.recorder {
            opening.entries.extend(entries);
        }
    }

    /// Writes a checkpoint of the journal, if that pays. Without it the next run replays the journal: a failure is not
    /// one of this run.
    pub fn write_checkpoint(&mut self, scripts: impl FnOnce() -> ScriptDigests) {
        if let Recorder::Open { journal, .. } = &mut self.recorder
            && let Err(error) = journal.write_checkpoint(&self.history, scripts)
        {
            tracing::warn!("cannot write the checkpoint of the journal: {error}", error = sentence(&error));
        }
    }

    /// Makes a new journal durable before anything else is written to the state directory.
    pub(super) fn begin_recording(&mut self) -> Result<()> {
        let Recorder::Open { journal, .. } = &mut self.recorder else { return Ok(()) };
        for record in journal.begin()? {
            Rc::make_mut(&mut self.history).apply(record)?;
        }
        Ok(())
    }

    /// Whether this run has recorded anything.
    pub fn has_recorded(&self) -> bool {
        matches!(&self.recorder, Recorder::Open { journal, .. } if journal.recorded() > 0)
    }
}
