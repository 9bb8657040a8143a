//! The append-only record of what was done to this machine: the only truth about it.
//!
//! A record is a line: the CRC-32C of its JSON as eight hexadecimal digits, a space, the JSON. Every
//! record holds the checksum of the line before, so that a lost, doubled or exchanged line shows. A record
//! counts once it is synced; what follows the last whole record is a torn write of a run that died.

mod change_record;
mod checkpoint;
mod course;
mod history;
mod index;
mod live_count;
mod load;
mod pending;
mod plain;
mod record;
mod replay;
mod state;
mod step_record;

use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt as _, OpenOptionsExt, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use serde::Serialize;

#[cfg(test)]
pub(crate) use change_record::work;
pub use change_record::{ChangeRecord, Changes, Recorded, whose};
pub use checkpoint::{ScriptDigests, load_brief};
pub use course::{Course, WhichRun};
pub use history::{Claims, History, UnfinishedRollback};
pub use index::Index;
pub use live_count::LiveCount;
use load::Mark;
pub use load::{Loaded, PutBack, Torn, load, load_course, read};
pub use pending::{PendingHandler, Reboot};
pub use plain::PlainData;
pub use record::{
    BarePlan, ChangeId, Class, Entry, Fingerprint, FormatVersion, Handler, Header, Intent, Record, Settling,
    Undoing,
};
pub use state::ChangeState;
pub use step_record::{RunRecord, StepRecord, StepState};

use crate::exit_code::ExitCode;
use crate::failure::{Failure, FailureKind};
use crate::machine::state_key::{self, StateKey};
use crate::machine::{clock, trusted};

/// The journal's file within the state directory.
pub const FILE: &str = "journal";

/// The directory of backups beside it.
const BACKUPS: &str = "backups";

/// The file beside it that says what its newest record is.
const MARK: &str = "journal.end";

/// Who writes: goes into every record's header.
#[derive(Clone, Debug)]
pub struct Writer {
    /// The run's identity.
    pub run: String,
    /// The boot's identity.
    pub boot: String,
    /// The plan's name.
    pub plan: String,
}

/// An open journal: its end is known, and its owner holds the lock.
///
/// Nothing is written until there is something to record; then the run's own first record comes before it.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
    file: Option<File>,
    end: u64,
    next: u64,
    prev: String,
    writer: Writer,
    opening: Vec<Entry>,
    broken: bool,
    recorded: usize,
    /// How many of the last records are not synced, or may not be.
    unsynced: u64,
    /// When the newest record was written.
    newest: Option<Timestamp>,
    /// By which the key is recognised that it is written with.
    key: Option<String>,
}

impl Journal {
    /// Takes over what `load` found. The caller holds the lock of `directory`. A torn tail is saved beside
    /// the journal and cut off; that is all that is ever removed from it.
    pub fn take_over(directory: &Path, loaded: &Loaded, writer: Writer) -> Result<Self> {
        let path = directory.join(FILE);
        let mut file = None;
        checkpoint::clear_unfinished(directory);
        if loaded.exists {
            let opened = OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .with_context(|| format!("cannot open the journal `{}`", path.display()))?;
            if let Some(torn) = &loaded.torn {
                cut(directory, &opened, loaded, torn)?;
            }
            file = Some(opened);
        }
        Ok(Self {
            directory: directory.to_owned(),
            file,
            end: loaded.length,
            next: loaded.records + 1,
            prev: loaded.last_checksum.clone(),
            writer,
            opening: Vec::new(),
            broken: false,
            recorded: 0,
            // See [`Journal::close`]. What a run left that did not come to its end was synced when it was read.
            unsynced: u64::from(loaded.is_closed),
            newest: loaded.newest,
            key: loaded.key.clone(),
        })
    }

    /// What is recorded right before the first record of this run, if there is one.
    pub fn open_run_with(&mut self, entries: Vec<Entry>) {
        self.opening = entries;
    }

    /// How many records this run has written.
    pub fn recorded(&self) -> usize {
        self.recorded
    }

    /// Who writes.
    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Appends one record and returns it once it is durable.
    ///
    /// # Errors
    /// When it cannot be written or synced. The journal is then cut back to its last durable record and
    /// takes no more: a failed sync is never tried again, because the kernel may have dropped the pages.
    pub fn append(&mut self, entry: Entry) -> Result<Vec<Record>> {
        self.append_all(vec![entry])
    }

    /// The same for several records, with one write and one sync.
    ///
    /// # Errors
    /// As [`Journal::append`].
    pub fn append_all(&mut self, more: Vec<Entry>) -> Result<Vec<Record>> {
        let (mut entries, appended) = (self.first_entries()?, more.len());
        entries.extend(more);
        let records = self.write(entries)?;
        self.recorded += appended;
        Ok(records)
    }

    /// Appends one record that a killed run leaves, and a power failure may take. The next [`Journal::append`] makes it
    /// durable with its own sync.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn note(&mut self, entry: Entry) -> Result<Vec<Record>> {
        let mut entries = self.first_entries()?;
        entries.push(entry);
        let (lines, records, prev) = self.lines(entries)?;
        self.put(&lines, |_| Ok(()))?;
        self.took(&lines, &records, prev);
        self.unsynced += records.len() as u64;
        self.recorded += 1;
        Ok(records)
    }

    /// Appends the end of the run. From it nothing follows that the records before it do not say, so that it is not synced
    /// by itself: a power failure may take it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn close(&mut self, entry: Entry) -> Result<Vec<Record>> {
        if self.unsynced > 0 { self.append(entry) } else { self.note(entry) }
    }

    /// Makes the journal and its first record durable, if they are not. Comes before anything else that is written to the
    /// state directory: backups without a journal are those of one that was lost.
    ///
    /// # Errors
    /// As [`Journal::append`].
    pub fn begin(&mut self) -> Result<Vec<Record>> {
        if self.next - 1 > self.unsynced {
            return Ok(Vec::new());
        }
        let entries = self.first_entries()?;
        self.write(entries)
    }

    /// The entries that come before the first record of this run.
    fn first_entries(&mut self) -> Result<Vec<Entry>> {
        if self.file.is_none() {
            self.create()?;
        }
        let mut entries = Vec::new();
        if self.next == 1 {
            // The names of the key, of the journal and of the directory for backups become durable by one sync, before the
            // first record. A directory that cannot be made is reported by the first backup.
            let _ = std::fs::DirBuilder::new().mode(0o700).create(self.directory.join(BACKUPS));
            if !state_key::keep(&self.directory)? {
                sync_directory(&self.directory)?;
            }
            if let Some(parent) = self.directory.parent() {
                sync_directory(parent)?;
            }
            self.key = state_key::own().map(StateKey::name);
            entries.push(Entry::Format {
                version: FormatVersion::CURRENT,
                kkrun: env!("CARGO_PKG_VERSION").to_owned(),
                machine: clock::machine_id()?.unwrap_or_default(),
                key: self.key.clone(),
            });
        }
        entries.append(&mut self.opening);
        Ok(entries)
    }

    fn create(&mut self) -> Result<()> {
        make_state_directory(&self.directory)?;
        // From now on, what is in it is its owner's business.
        std::fs::set_permissions(&self.directory, Permissions::from_mode(0o700))
            .with_context(|| format!("cannot set the mode of `{}`", self.directory.display()))?;
        let path = self.directory.join(FILE);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot create the journal `{}`", path.display()))?;
        self.file = Some(file);
        Ok(())
    }

    /// The open file must be the one that the next run reads, and end where this run's last record ends: a run whose lock
    /// was removed may work beside another one, and must not write over its records.
    ///
    /// # Errors
    /// With [`ExitCode::JOURNAL`]; the journal takes no more then.
    fn check_file(&mut self) -> Result<()> {
        let Some(file) = &self.file else { bail!("the journal is not open") };
        let path = self.directory.join(FILE);
        let what = match (file.metadata(), std::fs::symlink_metadata(&path)) {
            (Ok(open), Ok(named)) if (open.dev(), open.ino()) != (named.dev(), named.ino()) => "was replaced",
            (Ok(open), Ok(_)) if open.len() != self.end => "was written by another process",
            (Ok(_), Ok(_)) => return Ok(()),
            (_, Err(error)) if error.kind() == std::io::ErrorKind::NotFound => "was removed",
            (Err(error), _) | (_, Err(error)) => {
                return Err(error)
                    .with_context(|| format!("cannot look at the journal `{}`", path.display()));
            }
        };
        self.broken = true;
        bail!(
            Failure::new(format!("the journal `{}` {what} while this run was at work", path.display()))
                .exit(ExitCode::JOURNAL)
                .kind(FailureKind::Journal)
                .hint(
                    "nothing more is changed; `kkrun doctor` explains what the journal holds and the way on"
                )
        )
    }

    /// Says beside the journal what its newest record is. Without that nothing is lost but a later doubt.
    fn mark(&self) {
        let mark = Mark { seq: self.next - 1, checksum: self.prev.clone() };
        let path = self.directory.join(MARK);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let written = options.open(&path).and_then(|file| file.write_all_at(mark.line().as_bytes(), 0));
        if let Err(error) = written {
            tracing::warn!("cannot write `{}`: {error}", path.display());
        }
    }

    /// Writes these at once and syncs: what a crash leaves of them are the first ones, whole.
    fn write(&mut self, entries: Vec<Entry>) -> Result<Vec<Record>> {
        let (lines, records, prev) = self.lines(entries)?;
        self.put(&lines, File::sync_data)?;
        self.took(&lines, &records, prev);
        self.unsynced = 0;
        self.mark();
        Ok(records)
    }

    /// These entries as the next records, their lines, and the checksum of the last one.
    fn lines(&self, entries: Vec<Entry>) -> Result<(Vec<u8>, Vec<Record>, String)> {
        let (mut records, mut lines, mut prev) = (Vec::new(), Vec::new(), self.prev.clone());
        for ((seq, unsynced), entry) in (self.next..).zip(self.unsynced..).zip(entries) {
            let header = Header {
                seq,
                prev,
                run: self.writer.run.clone(),
                boot: self.writer.boot.clone(),
                time: clock::now(),
                plan: self.writer.plan.clone(),
                unsynced,
                skippable: entry.is_skippable(),
            };
            let record = Record { header, entry };
            let (line, checksum) = encode(&record)?;
            lines.extend(line);
            prev = checksum;
            records.push(record);
        }
        Ok((lines, records, prev))
    }

    fn put(&mut self, lines: &[u8], sync: impl FnOnce(&File) -> std::io::Result<()>) -> Result<()> {
        if self.broken {
            bail!(
                Failure::new("cannot continue: writing the journal failed earlier in this run")
                    .kind(FailureKind::Journal)
            );
        }
        self.check_file()?;
        let Some(file) = &self.file else { bail!("the journal is not open") };
        let written = file.write_all_at(lines, self.end).and_then(|()| sync(file));
        if let Err(error) = written {
            self.broken = true;
            // Best effort: a reader takes the rest of a broken write for a torn tail anyway.
            let _ = file.set_len(self.end);
            let path = self.directory.join(FILE);
            return Err(anyhow::Error::new(error).context(
                Failure::new(format!("cannot write the journal `{}`", path.display()))
                    .kind(FailureKind::Journal)
                    .hint("nothing is lost: free some space or repair the disk, then run kkrun again"),
            ));
        }
        Ok(())
    }

    fn took(&mut self, lines: &[u8], records: &[Record], prev: String) {
        tracing::debug!(seq = self.next, records = records.len(), bytes = lines.len(), "recorded");
        self.end += lines.len() as u64;
        self.next += records.len() as u64;
        self.prev = prev;
        self.newest = records.last().map(|record| record.header.time).or(self.newest);
    }
}

/// Refuses a state directory that another user could have written, existing or to be created.
///
/// # Errors
/// With [`ExitCode::REFUSED`], when root runs kkrun.
pub fn check_state_directory(directory: &Path) -> Result<()> {
    trusted::check_state(
        directory,
        &[FILE, checkpoint::CHECKPOINT, state_key::FILE, "remembered", "lock", "backups", "secrets", "logs"],
    )
}

/// Makes the state directory, readable by its owner alone. Until there is a journal, other users may see that there is
/// none: they are not to be refused for a directory that holds a lock alone.
pub fn make_state_directory(directory: &Path) -> Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o711).create(directory).with_context(|| {
        Failure::new(format!("cannot create the state directory `{}`", directory.display()))
            .kind(FailureKind::Journal)
            .hint("what kkrun changes is recorded in it: use another one with `--state-dir`")
    })
}

/// The line of a record, or of what is written like one, and its checksum.
fn encode(record: &impl Serialize) -> Result<(Vec<u8>, String)> {
    let json = serde_json::to_vec(record).context("cannot write a record as JSON")?;
    let checksum = format!("{:08x}", crate::checksum::crc_32c(&json));
    let mut line = Vec::with_capacity(json.len() + 10);
    line.extend_from_slice(checksum.as_bytes());
    line.push(b' ');
    line.extend_from_slice(&json);
    line.push(b'\n');
    Ok((line, checksum))
}

fn cut(directory: &Path, journal: &File, loaded: &Loaded, torn: &Torn) -> Result<()> {
    let aside = directory.join(format!("{FILE}.torn-at-{}", loaded.length));
    let saved = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&aside)
        .and_then(|file| file.write_all_at(&torn.bytes, 0).and_then(|()| file.sync_all()));
    saved
        .with_context(|| format!("cannot save the incomplete end of the journal as `{}`", aside.display()))?;
    sync_directory(directory)?;
    journal.set_len(loaded.length).and_then(|()| journal.sync_all()).with_context(|| {
        format!("cannot truncate the incomplete end of `{}`", directory.join(FILE).display())
    })
}

fn sync_directory(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .with_context(|| format!("cannot sync the directory `{}`", path.display()))
}

/// A failure that says the journal is not to be relied on, and how to go on.
fn damaged(message: String) -> anyhow::Error {
    Failure::new(message)
        .exit(ExitCode::JOURNAL)
        .kind(FailureKind::Journal)
        .hint("nothing was changed; run `kkrun doctor` for what is damaged and what to do")
        .into()
}
