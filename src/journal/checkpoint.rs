//! The checkpoint of a journal: what a run needs of it that finds nothing to do, so that such a run need not replay it.
//!
//! **What is in it.** The journal's end (how many records, how long, the last checksum), what a replay gives of steps,
//! runs and overrides, and the digests of the plan's scripts by the identity of their files. No changes: what asks for
//! one replays the journal, as do all commands but `run`.
//!
//! **When it is written.** By the holder of the lock at the end of a run, if the journal is long enough that a replay
//! costs more, and if nothing is left to do whatever the plan says: no change in doubt, no pending handler, no restart, no
//! unfinished rollback.
//!
//! **Why it may be trusted.** It is of the journal's file by identity, size and times, as its inode had them once all of
//! its records were synced and the tick of the clock that dated the last one was over. Whatever is written to the file
//! from then on, or another file in its place, differs in one of them; and the journal only grows. So the file holds what
//! it held then, which is what was replayed. The checkpoint has a checksum of its own and takes its name when it is
//! complete; it need not be synced: half of one, or one of an earlier journal, is no checkpoint. A loss of power can
//! take the checkpoint, never a record that it describes, because those were synced before. What is in doubt is not
//! trusted: then the journal is replayed, which finds the reason.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::history::{Brief, History};
use super::load::{self, Loaded, Mark};
use super::{FILE, Journal, encode};
use crate::machine::clock;
use crate::machine::files::{Digest, Identity};

/// The file within the state directory.
pub(super) const CHECKPOINT: &str = "journal.checkpoint";
/// The same while it is written.
const INCOMING: &str = "journal.checkpoint.new";

/// From this length on, in bytes, a replay costs more than a checkpoint.
const PAYS: u64 = 256 * 1024;

/// For how long the clock's tick is waited for that follows the last write, and how often.
const TICK: Duration = Duration::from_millis(5);
const TICKS: usize = 4;

/// The digests of a plan's scripts, by their names, with the identity of the file that has it.
pub type ScriptDigests = BTreeMap<String, (Identity, Digest)>;

#[derive(Debug, Serialize, Deserialize)]
struct Checkpoint {
    /// The kkrun that wrote it: another one may know other things of the same records.
    kkrun: String,
    journal: Identity,
    records: u64,
    length: u64,
    last_checksum: String,
    newest: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    history: Brief,
    scripts: ScriptDigests,
}

/// The journal as its checkpoint describes it, without its changes, and the digests of the scripts. `None` if there is no
/// checkpoint of this very journal.
///
/// # Errors
/// When the key that the journal was written with is missing, or another one.
pub fn load_brief(directory: &Path) -> Result<Option<(Loaded, ScriptDigests)>> {
    let Some(checkpoint) = read(directory) else { return Ok(None) };
    let mark = Mark::read(directory)?;
    let is_marked =
        mark.is_some_and(|mark| mark.seq == checkpoint.records && mark.checksum == checkpoint.last_checksum);
    let is_here = clock::machine_id()?.is_none_or(|here| here == checkpoint.history.machine);
    if !is_marked || !is_here || !checkpoint.journal.is_at(&directory.join(FILE)) {
        return Ok(None);
    }
    load::check_key(directory, checkpoint.key.as_deref())?;
    let loaded = Loaded {
        exists: true,
        history: History::of_brief(checkpoint.history),
        records: checkpoint.records,
        length: checkpoint.length,
        last_checksum: checkpoint.last_checksum,
        // All of it was synced before the checkpoint was written.
        is_closed: true,
        newest: Some(checkpoint.newest),
        key: checkpoint.key,
        ..Loaded::default()
    };
    Ok(Some((loaded, checkpoint.scripts)))
}

fn read(directory: &Path) -> Option<Checkpoint> {
    let path = directory.join(CHECKPOINT);
    // Anything else may never end.
    let bytes =
        fs::symlink_metadata(&path).ok().filter(fs::Metadata::is_file).and_then(|_| fs::read(&path).ok())?;
    let line = bytes.strip_suffix(b"\n")?;
    let json = load::checked(line)?;
    let checkpoint: Checkpoint = serde_json::from_slice(json).ok()?;
    (checkpoint.kkrun == env!("CARGO_PKG_VERSION")).then_some(checkpoint)
}

impl Journal {
    /// Writes a checkpoint, if that pays. `scripts` is asked for only then.
    ///
    /// # Errors
    /// When it cannot be written. Nothing depends on it.
    pub fn write_checkpoint(
        &mut self,
        history: &History,
        scripts: impl FnOnce() -> ScriptDigests,
    ) -> Result<()> {
        if self.end < PAYS { Ok(()) } else { self.write_checkpoint_now(history, scripts) }
    }

    fn write_checkpoint_now(
        &mut self,
        history: &History,
        scripts: impl FnOnce() -> ScriptDigests,
    ) -> Result<()> {
        let (Some(history), Some(newest), Some(file), false) =
            (history.brief(), self.newest, &self.file, self.broken)
        else {
            return Ok(());
        };
        // The records first, so that none is lost that it describes; the mark says the same.
        file.sync_data().context("cannot sync the journal")?;
        self.unsynced = 0;
        self.mark();
        let Some(journal) = settled(file) else { return Ok(()) };
        // A journal that was put back is said to be so by every run that replays it.
        let is_whole = file.metadata().is_ok_and(|metadata| {
            metadata.len() == self.end && load::PutBack::of(Some(newest), &metadata).is_none()
        });
        if !is_whole || !journal.is_at(&self.directory.join(FILE)) {
            return Ok(());
        }
        let checkpoint = Checkpoint {
            kkrun: env!("CARGO_PKG_VERSION").to_owned(),
            journal,
            records: self.next - 1,
            length: self.end,
            last_checksum: self.prev.clone(),
            newest,
            key: self.key.clone(),
            history,
            scripts: scripts(),
        };
        let (line, _) = encode(&checkpoint)?;
        let (incoming, path) = (self.directory.join(INCOMING), self.directory.join(CHECKPOINT));
        let mut options = OpenOptions::new();
        let written = options.write(true).create(true).truncate(true).mode(0o600).open(&incoming);
        written
            .and_then(|mut file| file.write_all(&line))
            .and_then(|()| fs::rename(&incoming, &path))
            .with_context(|| format!("cannot write `{}`", path.display()))
    }
}

/// Removes what a killed run had begun to write. One that stays is written over.
pub(super) fn clear_unfinished(directory: &Path) {
    let _ = fs::remove_file(directory.join(INCOMING));
}

/// The identity of a file that is not written to any more.
fn settled(file: &File) -> Option<Identity> {
    (0..TICKS).find_map(|tick| {
        if tick > 0 {
            std::thread::sleep(TICK);
        }
        Identity::settled(file)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{BarePlan, Entry, Fingerprint, Handler, Intent, Writer, load};
    use super::*;
    use crate::journal::Settling;
    use crate::target::Target;

    fn taken(directory: &Path) -> (History, Journal) {
        let mut loaded = load(directory).unwrap();
        let history = std::mem::take(&mut loaded.history);
        let writer = Writer { run: "r1".into(), boot: "b1".into(), plan: "plan".into() };
        (history, Journal::take_over(directory, &loaded, writer).unwrap())
    }

    /// Appends these and then writes a checkpoint if one may be written.
    fn recorded(directory: &Path, entries: Vec<Entry>) {
        let (mut history, mut journal) = taken(directory);
        for entry in entries {
            if history.check(&entry).is_ok() {
                for record in journal.append(entry).unwrap() {
                    history.apply(record).unwrap();
                }
            }
        }
        journal.write_checkpoint_now(&history, ScriptDigests::new).unwrap();
    }

    fn started(step: &str) -> Entry {
        Entry::StepStarted { step: step.into(), title: "One".into(), script: format!("{step}.rhai") }
    }

    fn completed(step: &str) -> Entry {
        let settings = BTreeMap::from([("port".to_owned(), 80.into())]);
        let fingerprint = Fingerprint { code: "c".into(), settings, ..Fingerprint::default() };
        Entry::StepCompleted { step: step.into(), seconds: 0.25, fingerprint, claims: Vec::new() }
    }

    fn ended() -> Entry {
        let bare = BarePlan { bytes: "b".into(), steps: vec!["01".into()] };
        Entry::RunEnded { exit: 0, bare: Some(bare) }
    }

    fn intent(handlers: Vec<Handler>) -> Entry {
        let intent = Intent::about(Target::Group("a".into()));
        Entry::Intent(Box::new(Intent { step: Some("01".into()), pending: handlers, ..intent }))
    }

    fn done(change: u64) -> Entry {
        Entry::Done { change, recorded: [(Target::Group("a".into()), 1.into())].into(), unsynced: false }
    }

    fn handler() -> Handler {
        Handler { run: vec![vec!["true".into()]], ..Handler::default() }
    }

    /// What a replay gives, and what the checkpoint does.
    fn both(directory: &Path) -> (Loaded, Option<Loaded>) {
        let brief = load_brief(directory).unwrap();
        (load(directory).unwrap(), brief.map(|(loaded, _)| loaded))
    }

    #[track_caller]
    fn is_same(replayed: &Loaded, brief: &Loaded) {
        let end = |loaded: &Loaded| {
            (loaded.records, loaded.length, loaded.last_checksum.clone(), loaded.newest, loaded.key.clone())
        };
        assert_eq!(end(replayed), end(brief));
        assert!(brief.history.is_brief() && !replayed.history.is_brief());
        assert_eq!(replayed.history.about_steps(), brief.history.about_steps());
        assert!(replayed.history.brief().is_some());
    }

    fn with_checkpoint() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        recorded(
            directory.path(),
            vec![started("01"), intent(Vec::new()), done(3), completed("01"), ended()],
        );
        directory
    }

    #[test]
    fn a_checkpoint_gives_what_a_replay_gives_of_steps() {
        let directory = with_checkpoint();
        let (replayed, brief) = both(directory.path());
        is_same(&replayed, &brief.unwrap());
    }

    #[test]
    fn a_checkpoint_that_is_cut_or_has_a_flipped_bit_is_none() {
        let directory = with_checkpoint();
        let path = directory.path().join(CHECKPOINT);
        let bytes = fs::read(&path).unwrap();
        for length in 0..bytes.len() {
            fs::write(&path, &bytes[..length]).unwrap();
            assert!(load_brief(directory.path()).unwrap().is_none(), "cut at {length}");
        }
        for position in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[position] ^= 1 << (position % 8);
            fs::write(&path, flipped).unwrap();
            assert!(load_brief(directory.path()).unwrap().is_none(), "byte {position}");
        }
        fs::write(&path, &bytes).unwrap();
        assert!(load_brief(directory.path()).unwrap().is_some());
    }

    #[test]
    fn a_journal_that_was_written_replaced_or_cut_since_is_not_that_of_the_checkpoint() {
        type Meddling = fn(&Path);
        let change: [(&str, Meddling); 5] = [
            ("appended to", |directory| {
                taken(directory).1.append(started("02")).unwrap();
            }),
            ("rewritten with its time", |directory| {
                let path = directory.join(FILE);
                let (bytes, time) =
                    (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().modified().unwrap());
                fs::write(&path, bytes).unwrap();
                File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
            }),
            ("copied", |directory| {
                fs::copy(directory.join(FILE), directory.join("copy")).unwrap();
                fs::rename(directory.join("copy"), directory.join(FILE)).unwrap();
            }),
            ("cut", |directory| {
                let file = File::options().write(true).open(directory.join(FILE)).unwrap();
                file.set_len(file.metadata().unwrap().len() - 1).unwrap();
            }),
            ("removed", |directory| fs::remove_file(directory.join(FILE)).unwrap()),
        ];
        for (what, change) in change {
            let directory = with_checkpoint();
            change(directory.path());
            assert!(load_brief(directory.path()).unwrap().is_none(), "{what}");
        }
    }

    #[test]
    fn a_journal_with_another_mark_or_none_is_replayed() {
        let directory = with_checkpoint();
        let path = directory.path().join(super::super::MARK);
        let mark = Mark { seq: 999, checksum: "00000000".into() };
        fs::write(&path, mark.line()).unwrap();
        assert!(load_brief(directory.path()).unwrap().is_none());
        fs::remove_file(&path).unwrap();
        assert!(load_brief(directory.path()).unwrap().is_none());
    }

    #[test]
    fn no_checkpoint_is_written_while_something_is_left_to_do() {
        let all_but = |last: Vec<Entry>| {
            let mut entries = vec![started("01"), completed("01"), ended()];
            entries.extend(last);
            entries
        };
        let rollback = Entry::RollbackStarted { steps: None, purge: Vec::new(), force: false };
        let reboot = Entry::RebootPending { step: None, why: "the kernel".into() };
        for (what, entries) in [
            ("a change in doubt", all_but(vec![intent(Vec::new())])),
            ("a pending handler", all_but(vec![intent(vec![handler()]), done(5)])),
            ("a rollback", all_but(vec![rollback])),
            ("a restart", all_but(vec![reboot])),
            ("no plan that is nothing but steps", vec![started("01"), completed("01")]),
        ] {
            let directory = tempfile::tempdir().unwrap();
            recorded(directory.path(), entries);
            assert!(!directory.path().join(CHECKPOINT).exists(), "{what}");
        }
    }

    #[test]
    fn what_a_killed_run_had_begun_to_write_is_removed_by_the_next() {
        let directory = with_checkpoint();
        fs::write(directory.path().join(INCOMING), "half").unwrap();
        taken(directory.path());
        assert!(!directory.path().join(INCOMING).exists());
        assert!(load_brief(directory.path()).unwrap().is_some());
    }

    #[test]
    fn a_short_journal_has_none() {
        let directory = with_checkpoint();
        fs::remove_file(directory.path().join(CHECKPOINT)).unwrap();
        let (history, mut journal) = taken(directory.path());
        journal.write_checkpoint(&history, || panic!("it does not pay")).unwrap();
        assert!(!directory.path().join(CHECKPOINT).exists());
    }

    fn any_entry() -> impl Strategy<Value = Entry> {
        let step = "0[1-3]";
        let change = 1..20_u64;
        prop_oneof![
            step.prop_map(|step| started(&step)),
            step.prop_map(|step| completed(&step)),
            step.prop_map(|step| Entry::StepFailed { step, seconds: 1.0, error: "no".into(), place: None }),
            step.prop_map(|step| Entry::StepOnHold { step }),
            "[a-c]".prop_map(|key| Entry::OverrideSet { key, value: "v".into() }),
            "[a-c]".prop_map(|key| Entry::OverrideUnset { key }),
            any::<bool>().prop_map(|all| Entry::StepsReset { steps: (!all).then(|| vec!["01".into()]) }),
            any::<bool>().prop_map(|has| intent(if has { vec![handler()] } else { Vec::new() })),
            change.clone().prop_map(done),
            change.clone().prop_map(|change| Entry::Void { change, why: String::new() }),
            change.clone().prop_map(|change| Entry::Failed { change, error: String::new() }),
            change.clone().prop_map(|change| Entry::UndoIntent { change }),
            change.prop_map(|change| Entry::Undone {
                change,
                how: super::super::Undoing::Restored,
                recorded: [(Target::Group("a".into()), 0.into())].into(),
            }),
            Just(Entry::Settled { step: Some("01".into()), handler: handler(), how: Settling::Ran }),
            Just(ended()),
            Just(Entry::RunStarted { script: "s".into(), root: "r".into(), pid: 1 }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

        /// Over any journal: the checkpoint gives what a replay gives, or there is none.
        #[test]
        fn a_replay_and_a_checkpoint_agree_over_any_journal(
            entries in proptest::collection::vec(any_entry(), 0..24)
        ) {
            let directory = tempfile::tempdir().unwrap();
            recorded(directory.path(), entries);
            let (replayed, brief) = both(directory.path());
            prop_assert_eq!(replayed.history.brief().is_some(), brief.is_some());
            if let Some(brief) = brief {
                is_same(&replayed, &brief);
            }
        }
    }
}
