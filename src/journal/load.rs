//! Reads a journal: its longest valid prefix, and whether what follows is a torn write or damage.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::Value;

use super::course::{Course, Picker, WhichRun};
use super::record::{Entry, FormatVersion, Header, Record};
use super::{BACKUPS, FILE, History, MARK, damaged};
use crate::machine::clock;
use crate::machine::state_key::{self, StateKey};

/// What a journal holds.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The journal's file exists.
    pub exists: bool,
    /// What its valid records say.
    pub history: History,
    /// How many there are.
    pub records: u64,
    /// The length of the valid records, in bytes.
    pub length: u64,
    /// The checksum of the last valid line, as it stands in the next record's `prev`.
    pub last_checksum: String,
    /// What follows the last valid record.
    pub torn: Option<Torn>,
    /// The last record is the end of a run or rollback.
    pub is_closed: bool,
    /// Why it may not be the journal of this machine's present state.
    pub doubt: Option<String>,
    /// When the journal's file was put into place, if that was after its newest record: it was copied here.
    pub put_back: Option<PutBack>,
    /// When the newest record was written.
    pub(super) newest: Option<Timestamp>,
    /// By which the key is recognised that it was written with.
    pub(super) key: Option<String>,
    /// The checksum of the record that was to be looked out for.
    pub(super) marked: Option<String>,
}

impl Loaded {
    /// Makes what was read last: a run that was killed may have left records in memory alone. Where a run came to its end,
    /// at most that end is unsynced, from which nothing follows.
    pub fn make_durable(&self, directory: &Path) -> Result<()> {
        if !self.exists || self.is_closed {
            return Ok(());
        }
        let path = directory.join(FILE);
        let synced = std::fs::File::open(&path).and_then(|file| file.sync_data());
        synced.with_context(|| format!("cannot sync the journal `{}`", path.display()))
    }

    /// Whether the journal is still as it was read. It only ever grows, but for a torn end that is cut off.
    pub fn is_current(&self, directory: &Path) -> bool {
        let torn = self.torn.as_ref().map_or(0, |torn| torn.bytes.len() as u64);
        match std::fs::metadata(directory.join(FILE)) {
            Ok(metadata) => self.exists && metadata.len() == self.length + torn,
            Err(error) => {
                !self.exists && error.kind() == std::io::ErrorKind::NotFound && !self.last_checksum.is_empty()
            }
        }
    }
}

/// A journal whose file came to its place without being written: with all of the state directory, from a backup perhaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutBack {
    /// When its newest record was written.
    pub written: Timestamp,
    /// When the file came to its place.
    pub placed: Timestamp,
}

impl PutBack {
    /// Of a journal with this file. The time of the inode cannot be set: writing the file sets it, and so does copying it
    /// here, which leaves the time of its content behind.
    pub(super) fn of(written: Option<Timestamp>, file: &std::fs::Metadata) -> Option<Self> {
        let written = written?;
        let placed = Timestamp::new(file.ctime(), i32::try_from(file.ctime_nsec()).ok()?).ok()?;
        (placed.duration_since(written) > LATEST_WRITE).then_some(Self { written, placed })
    }

    /// What follows from it.
    pub fn sentence(&self) -> String {
        format!(
            "the journal was put into its place {}, and its newest record is from {}: if the state directory was restored from a backup, what kkrun did after that is not recorded, and no rollback undoes it",
            self.placed.strftime("%Y-%m-%d %H:%M:%SZ"),
            self.written.strftime("%Y-%m-%d %H:%M:%SZ")
        )
    }
}

/// A record is written at most so long after the time in it: the kernel takes the time of the inode before it waits for a
/// disk.
const LATEST_WRITE: SignedDuration = SignedDuration::from_secs(2);

/// The bytes behind the last valid record: the write that a dying run or machine did not finish.
#[derive(Debug)]
pub struct Torn {
    /// The bytes themselves.
    pub bytes: Vec<u8>,
}

/// Why a journal is not to be relied on.
#[derive(Debug)]
enum Fault {
    Damage(String),
    /// It is of another kkrun.
    OfAnother(String),
    Unreadable(std::io::Error),
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        Self::Unreadable(error)
    }
}

/// One line that could be read, or why it could not.
enum Line {
    Valid(Box<Record>, String),
    Passed(Box<Header>, String),
    Bad(String),
}

/// Reads the journal of a state directory, and refuses one in doubt. A directory without one is an empty history,
/// unless something in it says that there was one: then the journal was lost.
///
/// # Errors
/// With [`ExitCode::JOURNAL`](crate::exit_code::ExitCode::JOURNAL) when the journal is damaged, missing, newer than
/// this kkrun, older than the state directory, or of another machine.
pub fn load(directory: &Path) -> Result<Loaded> {
    undoubted(read(directory)?)
}

/// The same, with the course of a run, which is picked while the journal is read; none if there is no such run.
///
/// # Errors
/// As [`load`].
pub fn load_course(directory: &Path, which: WhichRun<'_>) -> Result<(Loaded, Option<Course>)> {
    let mut picker = Picker::new(which);
    let loaded = undoubted(read_seeing(directory, &mut |record| picker.see(record))?)?;
    Ok((loaded, picker.picked()))
}

fn undoubted(loaded: Loaded) -> Result<Loaded> {
    match loaded.doubt {
        Some(doubt) => Err(damaged(doubt)),
        None => Ok(loaded),
    }
}

/// The same, with a doubt as part of what is found.
///
/// # Errors
/// As [`load`], but for a journal that is older than the state directory or of another machine.
pub fn read(directory: &Path) -> Result<Loaded> {
    read_seeing(directory, &mut |_| {})
}

/// The same, with every valid record shown to `see`.
fn read_seeing(directory: &Path, see: &mut dyn FnMut(&Record)) -> Result<Loaded> {
    // A run may append meanwhile: the journal is at least as new as a mark that was read before it.
    let mark = Mark::read(directory)?;
    let path = directory.join(FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if holds_backups(directory)? {
                return Err(damaged(format!(
                    "the journal `{}` is missing, but backups of changed files exist",
                    path.display()
                )));
            }
            if let Some(Mark { seq, .. }) = mark {
                return Err(damaged(format!(
                    "the journal `{}` is missing: it had {seq} records",
                    path.display()
                )));
            }
            return Ok(Loaded { last_checksum: first_checksum(), ..Loaded::default() });
        }
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read the journal `{}`", path.display()));
        }
    };
    let placed = file.metadata().with_context(|| format!("cannot read the journal `{}`", path.display()))?;
    let shown = path.display();
    let marked = mark.as_ref().map(|mark| mark.seq);
    let mut loaded = match parse(BufReader::with_capacity(1 << 16, file), marked, see) {
        Ok(loaded) => loaded,
        Err(Fault::Damage(why)) => return Err(damaged(format!("the journal `{shown}` is damaged: {why}"))),
        Err(Fault::OfAnother(why)) => {
            return Err(damaged(format!("the journal `{shown}` cannot be read by this kkrun: {why}")));
        }
        Err(Fault::Unreadable(error)) => {
            return Err(error).with_context(|| format!("cannot read the journal `{shown}`"));
        }
    };
    if loaded.records == 0 && holds_backups(directory)? {
        return Err(damaged(format!("the journal `{shown}` is empty, but backups of changed files exist")));
    }
    if loaded.records > 0 {
        check_key(directory, loaded.key.as_deref())?;
    }
    if loaded.history.awaits_sync() {
        loaded.history.enter_boot(&clock::boot_id()?);
    }
    loaded.put_back = PutBack::of(loaded.newest.filter(|_| loaded.torn.is_none()), &placed);
    let written_on = loaded.history.machine.as_str();
    let here = clock::machine_id()?.filter(|here| !written_on.is_empty() && here != written_on);
    loaded.doubt = match (here, mark) {
        (Some(here), _) => Some(format!(
            "the journal `{shown}` was written on another machine: its `/etc/machine-id` is {written_on}, and this one's {here}"
        )),
        (None, Some(mark)) if mark.seq > loaded.records => Some(format!(
            "the journal `{shown}` is older than the state directory: it has {} records, and kkrun wrote {}",
            loaded.records, mark.seq
        )),
        (None, Some(mark)) if loaded.marked.as_ref() != Some(&mark.checksum) => Some(format!(
            "the journal `{shown}` is not the one that kkrun wrote last: its record {} is another one",
            mark.seq
        )),
        _ => None,
    };
    Ok(loaded)
}

/// What the newest record was, in a file of its own beside the journal: a journal without it is an older one that was
/// put back. It is written after each record is synced, and not synced itself: it may be behind, never ahead.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    pub seq: u64,
    pub checksum: String,
}

impl Mark {
    /// As many bytes for each, so that one write replaces it.
    pub(super) fn line(&self) -> String {
        format!("{:>20} {}\n", self.seq, self.checksum)
    }

    /// The mark of a state directory; what a loss of power left of it is none.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(MARK);
        let text = match std::fs::read(&path) {
            Ok(bytes) => String::from_utf8(bytes).unwrap_or_default(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read `{}`", path.display())),
        };
        let parts = text.trim().split_once(' ').filter(|_| text.ends_with('\n'));
        Ok(parts.and_then(|(seq, checksum)| {
            let (seq, checksum) = (seq.parse().ok()?, checksum.to_owned());
            (seq > 0).then_some(Self { seq, checksum })
        }))
    }
}

/// Under another key nothing that is recorded would be as it is on the machine: everything would be a conflict.
pub(super) fn check_key(directory: &Path, name: Option<&str>) -> Result<()> {
    let there = StateKey::read(directory)?;
    let own = state_key::own().map(StateKey::name);
    let (journal, key) = (directory.join(FILE), directory.join(state_key::FILE));
    let (journal, key) = (journal.display(), key.display());
    if there.as_ref().map(StateKey::name).as_deref() == name {
        return match (own, name) {
            (None, _) => Ok(()),
            (Some(own), Some(name)) if own == name => Ok(()),
            // It was taken before that run made this one.
            (Some(_), Some(_)) => Err(state_key::begun_by_another(directory)),
            (Some(_), None) => Err(damaged(format!(
                "the journal `{journal}` was written without a key, by another kkrun: use that kkrun to roll back, or start again with another state directory"
            ))),
        };
    }
    Err(damaged(match there {
        None => format!(
            "the key `{key}` of the journal `{journal}` is missing: without it nothing recorded can be compared; restore it from a backup of this machine"
        ),
        Some(_) => format!(
            "the key `{key}` is not the one with which the journal `{journal}` was written: restore that from a backup of this machine"
        ),
    }))
}

fn first_checksum() -> String {
    "00000000".to_owned()
}

fn holds_backups(directory: &Path) -> Result<bool> {
    let backups = directory.join(BACKUPS);
    match std::fs::read_dir(&backups) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot read `{}`", backups.display())),
    }
}

/// The longest valid prefix, or the damage that is in it. One line is in memory at a time, and what follows the last
/// valid one. The checksum of the record `marked` is kept, and every valid record is shown to `see`.
fn parse(
    mut journal: impl BufRead,
    marked: Option<u64>,
    see: &mut dyn FnMut(&Record),
) -> Result<Loaded, Fault> {
    let mut loaded = Loaded { exists: true, last_checksum: first_checksum(), ..Loaded::default() };
    let mut rest = Vec::new();
    loop {
        rest.clear();
        journal.read_until(b'\n', &mut rest)?;
        let Some((b'\n', line)) = rest.split_last() else { break };
        let number = loaded.records + 1;
        let checksum = match read_line(line, number)? {
            Line::Valid(record, checksum) => {
                check_chain(&record.header, number, &loaded.last_checksum)?;
                if number == 1 {
                    loaded.key = checked_format(&record.entry)?;
                }
                loaded.is_closed =
                    matches!(record.entry, Entry::RunEnded { .. } | Entry::RollbackEnded { .. });
                loaded.newest = Some(record.header.time);
                see(&record);
                let applied = loaded.history.apply(*record);
                applied.map_err(|why| Fault::Damage(format!("record {number} {why}")))?;
                checksum
            }
            Line::Passed(header, checksum) => {
                check_chain(&header, number, &loaded.last_checksum)?;
                loaded.is_closed = false;
                checksum
            }
            Line::Bad(why) => {
                let end = rest.len();
                journal.read_to_end(&mut rest)?;
                if let Some(later) = later_record(&rest[end..], number) {
                    let what = format!("record {number} {why}, but record {later} after it is valid");
                    return Err(Fault::Damage(what));
                }
                break;
            }
        };
        loaded.records = number;
        loaded.length += rest.len() as u64;
        if marked == Some(number) {
            loaded.marked = Some(checksum.clone());
        }
        loaded.last_checksum = checksum;
    }
    if !rest.is_empty() {
        let number = loaded.records + 1;
        if let Some(later) = later_record(&rest, number) {
            return Err(Fault::Damage(format!(
                "record {number} cannot be read, but record {later} after it is valid"
            )));
        }
        loaded.torn = Some(Torn { bytes: rest });
    }
    Ok(loaded)
}

/// A record of which the entry is not understood.
#[derive(Deserialize)]
struct Headed {
    header: Header,
    entry: Value,
}

impl Headed {
    fn kind(&self) -> &str {
        let key = || self.entry.as_object()?.keys().next().map(String::as_str);
        self.entry.as_str().or_else(key).unwrap_or_default()
    }
}

/// The first record of a journal of format 1, which had no header of its own.
#[derive(Deserialize)]
struct FirstOfFormatOne {
    version: FormatVersion,
    kkrun: String,
}

/// Reads one line. A whole line of a kind that this kkrun neither knows nor may pass over is an error.
fn read_line(line: &[u8], number: u64) -> Result<Line, Fault> {
    let Some((checksum, json)) = split(line) else {
        return Ok(Line::Bad("is not a record".to_owned()));
    };
    if !is_checksum(checksum, json) {
        return Ok(Line::Bad("does not match its checksum".to_owned()));
    }
    let checksum = checksum.to_owned();
    let why = match serde_json::from_slice(json) {
        Ok(record) => return Ok(Line::Valid(Box::new(record), checksum)),
        Err(why) => why.to_string(),
    };
    // All of the kinds are no help.
    let why = why.split(", expected one of").next().unwrap_or_default();
    match serde_json::from_slice::<Headed>(json) {
        Ok(Headed { header, .. }) if header.skippable => Ok(Line::Passed(Box::new(header), checksum)),
        Ok(headed) => Err(Fault::OfAnother(format!(
            "unknown record {number} of the kind `{}`, written by a newer kkrun: {why}",
            headed.kind()
        ))),
        Err(_) => Err(match serde_json::from_slice::<FirstOfFormatOne>(json) {
            Ok(FirstOfFormatOne { version, kkrun }) => of_another_format(&kkrun, version),
            Err(_) => {
                Fault::Damage(format!("record {number} has a valid checksum but is not a record: {why}"))
            }
        }),
    }
}

fn split(line: &[u8]) -> Option<(&str, &[u8])> {
    let (checksum, rest) = line.split_at_checked(8)?;
    let json = rest.strip_prefix(b" ")?;
    Some((std::str::from_utf8(checksum).ok()?, json))
}

/// What is in a line behind its checksum, if that matches.
pub(super) fn checked(line: &[u8]) -> Option<&[u8]> {
    let (checksum, json) = split(line)?;
    is_checksum(checksum, json).then_some(json)
}

/// Whether this is the checksum, in its eight lower-case digits.
fn is_checksum(text: &str, json: &[u8]) -> bool {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    text.bytes().all(is_digit) && u32::from_str_radix(text, 16) == Ok(crate::checksum::crc_32c(json))
}

fn check_chain(header: &Header, number: u64, last_checksum: &str) -> Result<(), Fault> {
    if header.seq != number {
        let what = format!("record {number} is missing: record {} is in its place", header.seq);
        return Err(Fault::Damage(what));
    }
    if header.prev != last_checksum {
        return Err(Fault::Damage(format!("record {number} does not follow the record before it")));
    }
    Ok(())
}

/// The key's name that the first record gives.
fn checked_format(entry: &Entry) -> Result<Option<String>, Fault> {
    let Entry::Format { version, kkrun, key, .. } = entry else {
        return Err(Fault::Damage("its first record does not name the format".to_owned()));
    };
    if version.major == FormatVersion::CURRENT.major {
        return Ok(key.clone());
    }
    Err(of_another_format(kkrun, *version))
}

fn of_another_format(kkrun: &str, FormatVersion { major, minor }: FormatVersion) -> Fault {
    let own = FormatVersion::CURRENT.major;
    let way_on = if major > own {
        "use that kkrun"
    } else {
        "use that kkrun to roll back, or start again with another state directory"
    };
    Fault::OfAnother(format!(
        "kkrun {kkrun} wrote it in format {major}.{minor}, and this kkrun reads format {own} only; {way_on}"
    ))
}

/// The number of the first whole record that begins anywhere in `bytes` (a line may have lost its start) and was written
/// when record `number` was synced. If there is none, a power failure may have taken that record and left later ones.
fn later_record(bytes: &[u8], number: u64) -> Option<u64> {
    let mut start = 0;
    while start < bytes.len() {
        let end = bytes[start..].iter().position(|byte| *byte == b'\n').map(|at| start + at)?;
        // Damage can have eaten the newline before a record, so every start within the line is tried
        // where a checksum and a JSON object could begin.
        for at in start..end {
            if bytes[at..end].get(8..10) == Some(b" {")
                && let Some((checksum, json)) = split(&bytes[at..end])
                && is_checksum(checksum, json)
                && let Ok(Headed { header, .. }) = serde_json::from_slice(json)
                && number < header.seq.saturating_sub(header.unsynced)
            {
                return Some(header.seq);
            }
        }
        start = end + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::{Journal, Writer};
    use super::*;
    use crate::exit_code::ExitCode;
    use crate::failure::exit_code;

    fn journal_of(directory: &Path, keys: &[&str]) -> Vec<u8> {
        let loaded = load(directory).unwrap();
        let writer = Writer { run: "r1".into(), boot: "b1".into(), plan: "test".into() };
        let mut journal = Journal::take_over(directory, &loaded, writer).unwrap();
        for key in keys {
            journal.append(Entry::Once { key: (*key).to_owned(), changes: Vec::new() }).unwrap();
        }
        std::fs::read(directory.join(FILE)).unwrap()
    }

    fn parse_bytes(bytes: &[u8]) -> Result<Loaded, Fault> {
        parse(bytes, None, &mut |_| {})
    }

    fn why_refused(bytes: &[u8]) -> String {
        match parse_bytes(bytes) {
            Err(Fault::OfAnother(why) | Fault::Damage(why)) => why,
            parsed => panic!("{parsed:?}"),
        }
    }

    fn keys(loaded: &Loaded) -> Vec<&str> {
        loaded.history.once.keys().map(String::as_str).collect()
    }

    #[test]
    fn what_was_appended_is_read_again_and_appending_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        journal_of(directory.path(), &["a", "b"]);
        journal_of(directory.path(), &["c"]);
        assert_eq!(keys(&load(directory.path()).unwrap()), ["a", "b", "c"]);
    }

    #[test]
    fn journal_is_closed_only_behind_the_end_of_a_run_or_rollback() {
        let directory = tempfile::tempdir().unwrap();
        journal_of(directory.path(), &["a"]);
        assert!(!load(directory.path()).unwrap().is_closed);
        let writer = || Writer { run: "r2".into(), boot: "b1".into(), plan: "test".into() };
        let take =
            || Journal::take_over(directory.path(), &load(directory.path()).unwrap(), writer()).unwrap();
        take().append(Entry::RunEnded { exit: 0, bare: None }).unwrap();
        assert!(load(directory.path()).unwrap().is_closed);
        take().append(Entry::Once { key: "b".to_owned(), changes: Vec::new() }).unwrap();
        assert!(!load(directory.path()).unwrap().is_closed);
    }

    #[test]
    fn cut_at_any_byte_the_whole_records_before_remain() {
        let directory = tempfile::tempdir().unwrap();
        let bytes = journal_of(directory.path(), &["a", "b", "c"]);
        for length in 0..bytes.len() {
            let loaded = parse_bytes(&bytes[..length]).unwrap();
            let whole = bytes[..length].split(|byte| *byte == b'\n').count() - 1;
            assert_eq!(loaded.records, whole as u64, "cut at {length}");
            assert_eq!(loaded.torn.is_some(), bytes[..length].last().is_some_and(|byte| *byte != b'\n'));
        }
    }

    #[test]
    fn a_flipped_bit_before_a_whole_record_is_damage_and_in_the_last_one_is_torn() {
        let directory = tempfile::tempdir().unwrap();
        let bytes = journal_of(directory.path(), &["a", "b"]);
        let last = bytes[..bytes.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
        for position in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[position] ^= 1 << bit;
                match parse_bytes(&flipped) {
                    Err(_) => assert!(position < last, "byte {position} bit {bit}"),
                    Ok(loaded) => {
                        assert!(position >= last, "byte {position} bit {bit}");
                        assert_eq!(loaded.records, 2);
                    }
                }
            }
        }
    }

    #[test]
    fn a_power_failure_that_takes_any_unsynced_records_leaves_a_torn_end_and_no_synced_record_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let once = |key: &str| Entry::Once { key: key.to_owned(), changes: Vec::new() };
        let synced = journal_of(directory.path(), &["a"]);
        let writer = Writer { run: "r2".into(), boot: "b1".into(), plan: "test".into() };
        let mut journal =
            Journal::take_over(directory.path(), &load(directory.path()).unwrap(), writer).unwrap();
        for key in ["b", "c", "d"] {
            journal.note(once(key)).unwrap();
        }
        let noted = std::fs::read(directory.path().join(FILE)).unwrap();
        journal.append(once("e")).unwrap();
        let after = std::fs::read(directory.path().join(FILE)).unwrap();
        // Whatever stretch of them is lost, however far the others were written.
        for from in (synced.len()..noted.len()).step_by(7) {
            for to in (from + 1..=noted.len()).step_by(11) {
                let mut lost = noted.clone();
                lost[from..to].fill(0);
                let loaded = parse_bytes(&lost).unwrap();
                assert!(loaded.records >= 2 && loaded.length <= from as u64, "{from} to {to}");
                assert!(loaded.torn.is_some());
            }
            // Once a synced record follows, each of them counts: what is not read then is missed.
            let mut lost = after.clone();
            lost[from] ^= 1;
            std::fs::write(directory.path().join(FILE), &lost).unwrap();
            assert_eq!(exit_code(&load(directory.path()).unwrap_err()), ExitCode::JOURNAL, "byte {from}");
        }
        assert_eq!(keys(&parse_bytes(&after).unwrap()), ["a", "b", "c", "d", "e"]);
    }

    #[test]
    fn the_end_of_a_run_may_be_lost_alone_and_with_what_the_next_run_was_writing() {
        let directory = tempfile::tempdir().unwrap();
        let once = |key: &str| Entry::Once { key: key.to_owned(), changes: Vec::new() };
        let take = || {
            let writer = Writer { run: "r".into(), boot: "b1".into(), plan: "test".into() };
            Journal::take_over(directory.path(), &load(directory.path()).unwrap(), writer).unwrap()
        };
        let mut first = take();
        first.append(once("a")).unwrap();
        first.close(Entry::RunEnded { exit: 0, bare: None }).unwrap();
        let ended = std::fs::read(directory.path().join(FILE)).unwrap();
        take().append(once("b")).unwrap();
        let whole = std::fs::read(directory.path().join(FILE)).unwrap();
        let end = ended[..ended.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
        for at in end..ended.len() {
            let mut lost = whole.clone();
            lost[at] ^= 1;
            let loaded = parse_bytes(&lost).unwrap();
            assert_eq!((loaded.length, loaded.torn.is_some()), (end as u64, true), "byte {at}");
        }
        // The record behind it was synced with it: from then on it is missed.
        take().append(once("c")).unwrap();
        let mut lost = std::fs::read(directory.path().join(FILE)).unwrap();
        lost[end] ^= 1;
        assert!(parse_bytes(&lost).is_err());
    }

    #[test]
    fn records_of_one_write_may_be_lost_in_any_order() {
        let directory = tempfile::tempdir().unwrap();
        let once = |key: &str| Entry::Once { key: key.to_owned(), changes: Vec::new() };
        let writer = Writer { run: "r".into(), boot: "b1".into(), plan: "test".into() };
        let mut journal =
            Journal::take_over(directory.path(), &load(directory.path()).unwrap(), writer).unwrap();
        journal.open_run_with(vec![once("a"), once("b")]);
        journal.append(once("c")).unwrap();
        let bytes = std::fs::read(directory.path().join(FILE)).unwrap();
        for at in 0..bytes.len() {
            let mut lost = bytes.clone();
            lost[at] ^= 1;
            assert!(parse_bytes(&lost).unwrap().torn.is_some(), "byte {at}");
        }
    }

    #[test]
    fn nuls_and_garbage_at_the_end_are_torn_saved_aside_and_cut() {
        let directory = tempfile::tempdir().unwrap();
        let bytes = journal_of(directory.path(), &["a"]);
        for tail in [&[0_u8; 4096][..], b"garbage\nmore\n\0\0", b"\n"] {
            std::fs::write(directory.path().join(FILE), [&bytes[..], tail].concat()).unwrap();
            journal_of(directory.path(), &[]);
            assert_eq!(std::fs::read(directory.path().join(FILE)).unwrap(), bytes);
            let aside = directory.path().join(format!("{FILE}.torn-at-{}", bytes.len()));
            assert_eq!(std::fs::read(aside).unwrap(), tail);
        }
    }

    #[test]
    fn a_gap_and_a_doubled_record_are_damage() {
        let directory = tempfile::tempdir().unwrap();
        let bytes = journal_of(directory.path(), &["a", "b", "c"]);
        let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
        let gap = [lines[0], lines[1], lines[3]].concat();
        let doubled = [lines[0], lines[1], lines[1], lines[2]].concat();
        for bad in [gap, doubled] {
            std::fs::write(directory.path().join(FILE), bad).unwrap();
            assert_eq!(exit_code(&load(directory.path()).unwrap_err()), ExitCode::JOURNAL);
        }
    }

    fn line(json: &str) -> String {
        format!("{:08x} {json}\n", crate::checksum::crc_32c(json.as_bytes()))
    }

    #[test]
    fn another_major_version_and_an_unknown_kind_stop_the_reader_unless_skippable() {
        let record = |seq: u64, prev: &str, skippable: bool, entry: &str| {
            line(&format!(
                r#"{{"header":{{"seq":{seq},"prev":"{prev}","run":"r","boot":"b","time":"2026-01-01T00:00:00Z","plan":"p","skippable":{skippable}}},"entry":{entry}}}"#
            ))
        };
        let format = |major: u32| {
            let version = format!(r#"{{"major":{major},"minor":7}}"#);
            let entry = format!(r#"{{"format":{{"version":{version},"kkrun":"9","machine":"m"}}}}"#);
            record(1, "00000000", false, &entry)
        };
        assert!(why_refused(format(3).as_bytes()).contains("format 3.7"));
        let older = line(
            r#"{"seq":1,"prev":"00000000","run":"r","boot":"b","time":"2026-01-01T00:00:00Z","plan":"p","kind":"format","version":{"major":1,"minor":0},"kkrun":"0.1.0","machine":"m"}"#,
        );
        for older in [older, format(1)] {
            assert!(matches!(parse_bytes(older.as_bytes()), Err(Fault::OfAnother(_))));
            let why = why_refused(older.as_bytes());
            assert!(why.starts_with("kkrun "), "{why}");
            assert!(why.contains("format 1.") && why.contains("roll back"), "{why}");
        }
        let first = format(2);
        for entry in [r#"{"telemetry":{"future":1}}"#, r#""telemetry""#] {
            let unknown = record(2, &first[..8], false, entry);
            let why = why_refused((first.clone() + unknown.as_str()).as_bytes());
            assert!(
                why.starts_with("unknown record 2 of the kind `telemetry`, written by a newer kkrun"),
                "{why}"
            );
            let skippable = record(2, &first[..8], true, entry);
            assert_eq!(parse_bytes((first.clone() + skippable.as_str()).as_bytes()).unwrap().records, 2);
        }
        let more = record(2, &first[..8], false, r#"{"undo_intent":{"change":1,"later":[1]}}"#);
        let why = why_refused((first.clone() + more.as_str()).as_bytes());
        assert!(
            why.contains("of which no intent is recorded"),
            "a field that is not known is passed over: {why}"
        );
        let less = record(2, &first[..8], false, r#"{"undo_intent":{}}"#);
        let why = why_refused((first + less.as_str()).as_bytes());
        assert!(why.contains("missing field `change`"), "{why}");
    }

    #[test]
    fn a_missing_journal_beside_backups_is_damage_and_an_empty_directory_is_not() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(load(directory.path()).unwrap().records, 0);
        std::fs::create_dir(directory.path().join("backups")).unwrap();
        std::fs::write(directory.path().join("backups/00"), "x").unwrap();
        assert_eq!(exit_code(&load(directory.path()).unwrap_err()), ExitCode::JOURNAL);
    }
}
