//! `kkrun doctor`: explains the state of the journal, and what to do when it is damaged. Changes nothing, but for
//! `--accept-journal`, which records that a journal in doubt is this machine's.

use std::path::Path;

use anyhow::Result;
use jiff::Timestamp;
use serde::Serialize;

use super::data;
use crate::change::things_set_aside;
use crate::cli::Options;
use crate::config;
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::journal::{self, ChangeId, ChangeRecord, Entry, Journal, Loaded, PutBack, Writer};
use crate::machine::lock::{self, Attempt, Lock};
use crate::machine::tree_size::TreeSize;
use crate::machine::{clock, state_key};
use crate::pasteable::pasteable;
use crate::redaction::Redactor;
use crate::time;
use crate::ui::{begin_json, line_to_stdout};

/// What there is to know of a state directory.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "event", rename = "doctor")]
pub(super) struct Diagnosis {
    /// Its journal.
    journal: String,
    state: JournalState,
    /// Why the journal is damaged or in doubt, or may not be the newest.
    why: Option<String>,
    /// How many records it has.
    records: u64,
    /// So many bytes at its end are an incomplete write.
    torn_bytes: usize,
    /// A run is in progress.
    is_at_work: bool,
    /// The changes of which it is not known whether they were made.
    in_doubt: Vec<DoubtfulChange>,
    /// The command that finishes a rollback that was interrupted.
    unfinished_rollback: Option<String>,
    /// What was moved aside, because it may not be kkrun's.
    set_aside: Vec<SetAside>,
    /// The handlers that have not run.
    pending: Vec<String>,
    /// The ways on, a sentence each.
    ways_on: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
enum JournalState {
    /// There is none.
    Missing,
    /// It can be relied on.
    Intact,
    /// It can be read, and may be another machine's or an older one.
    InDoubt,
    /// It cannot be relied on.
    Damaged,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct DoubtfulChange {
    change: ChangeId,
    summary: String,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct SetAside {
    path: String,
    since: Timestamp,
    files: u64,
    bytes: u64,
    /// The command that removes it.
    remove: String,
}

/// Shows what is found.
pub(super) fn execute(options: &Options, accept: bool) -> Result<ExitCode> {
    let state = config::state_directory(options)?;
    if accept {
        accept_journal(options, &state)?;
    }
    let diagnosis = match journal::read(&state) {
        Ok(loaded) => diagnosis(&state, &loaded)?,
        Err(error) => damaged(&state, error)?,
    };
    let redactor = match diagnosis.state {
        // What is recorded of secrets cannot be relied on, and nothing recorded is shown.
        JournalState::Damaged => Redactor::default(),
        _ => super::redactor(&state)?,
    };
    if options.json {
        begin_json();
        let exit = diagnosis.exit();
        data::write(&diagnosis.pasteable(), &redactor)?;
        return Ok(exit);
    }
    for line in diagnosis.lines() {
        line_to_stdout(&pasteable(&redactor.redact(&line)));
    }
    Ok(diagnosis.exit())
}

/// Of a journal that can be read.
fn diagnosis(state: &Path, loaded: &Loaded) -> Result<Diagnosis> {
    let history = &loaded.history;
    let found = Diagnosis { records: loaded.records, ..Diagnosis::new(state, JournalState::Intact) };
    if let Some(doubt) = &loaded.doubt {
        let ways_on = vec![
            format!("restore the journal that belongs to `{}` on this machine", state.display()),
            format!(
                "to start without it, rename `{}`; its backups/ holds the earlier contents",
                state.display()
            ),
            "to continue with this journal, run `kkrun doctor --accept-journal`; what it does not have is not undone by any rollback".to_owned(),
            "to find the steps that do not hold here, run `kkrun status PLAN`".to_owned(),
        ];
        return Ok(Diagnosis { state: JournalState::InDoubt, why: Some(doubt.clone()), ways_on, ..found });
    }
    if !loaded.exists {
        return Ok(Diagnosis { state: JournalState::Missing, ..found });
    }
    let is_at_work = lock::is_held(&state.join("lock"));
    // The run in progress has not recorded the outcome of its current change yet.
    let is_under_way = |change: &&ChangeRecord| is_at_work && history.is_of_newest_run(change);
    let is_known = |change: &&ChangeRecord| is_under_way(change) || history.failure_of(change).is_some();
    let in_doubt = history.in_doubt().filter(|change| !is_known(change));
    let set_aside = things_set_aside(state)?.into_iter().map(|(thing, moved)| {
        let TreeSize { files, bytes } = TreeSize::at(&thing);
        let place = thing.parent().unwrap_or(&thing).display().to_string();
        SetAside {
            path: thing.display().to_string(),
            since: Timestamp::try_from(moved).unwrap_or(Timestamp::UNIX_EPOCH),
            files,
            bytes,
            remove: shell_words::join(["rm", "-r", "--", &place]),
        }
    });
    let rollback = history.rollback.as_ref().filter(|_| !is_at_work);
    Ok(Diagnosis {
        why: loaded.put_back.as_ref().map(PutBack::sentence),
        torn_bytes: loaded.torn.as_ref().map_or(0, |torn| torn.bytes.len()),
        is_at_work,
        in_doubt: in_doubt
            .map(|change| DoubtfulChange { change: change.id, summary: change.intent.summary.clone() })
            .collect(),
        unfinished_rollback: rollback.map(journal::UnfinishedRollback::invocation),
        set_aside: set_aside.collect(),
        pending: history.pending.iter().map(journal::PendingHandler::sentence).collect(),
        ways_on: loaded.put_back.iter().map(|_| FIND_MISSING.to_owned()).collect(),
        ..found
    })
}

/// What shows, of a journal that may be older than the machine, where that is so.
const FIND_MISSING: &str = "`--verify` finds steps that do not hold here; nothing else shows what is missing";

/// Of a journal that cannot be relied on.
fn damaged(state: &Path, error: anyhow::Error) -> Result<Diagnosis> {
    let Some(failure) = error.downcast_ref::<Failure>().filter(|failure| failure.exit == ExitCode::JOURNAL)
    else {
        return Err(error);
    };
    let why = Some(failure.message.clone());
    let ways_on = vec![
        format!(
            "restore `{}` and `{}` from a backup of this machine",
            state.join(journal::FILE).display(),
            state.join(state_key::FILE).display()
        ),
        "if another version of kkrun wrote it, use that version".to_owned(),
        format!(
            "to abandon what it recorded, rename `{}`; its backups/ holds the earlier contents",
            state.display()
        ),
    ];
    Ok(Diagnosis { why, ways_on, ..Diagnosis::new(state, JournalState::Damaged) })
}

impl Diagnosis {
    /// With nothing found yet.
    fn new(state: &Path, found: JournalState) -> Self {
        Self {
            journal: state.join(journal::FILE).display().to_string(),
            state: found,
            why: None,
            records: 0,
            torn_bytes: 0,
            is_at_work: false,
            in_doubt: Vec::new(),
            unfinished_rollback: None,
            set_aside: Vec::new(),
            pending: Vec::new(),
            ways_on: Vec::new(),
        }
    }

    /// The same with commands that work when they are pasted.
    fn pasteable(mut self) -> Self {
        for text in self.ways_on.iter_mut().chain(&mut self.unfinished_rollback).chain(&mut self.why) {
            *text = pasteable(text);
        }
        self
    }

    fn exit(&self) -> ExitCode {
        match self.state {
            JournalState::Missing | JournalState::Intact => ExitCode::DONE,
            JournalState::InDoubt | JournalState::Damaged => ExitCode::JOURNAL,
        }
    }

    /// For people.
    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        match self.state {
            JournalState::Missing => {
                lines.push(format!("no journal at `{}`: kkrun has changed nothing here", self.journal));
            }
            JournalState::Intact => {
                lines.push(format!("the journal `{}` is intact: {} records", self.journal, self.records));
                lines.extend(self.why.clone());
                lines.extend(self.ways_on.iter().cloned());
            }
            JournalState::InDoubt | JournalState::Damaged => {
                lines.extend(self.why.clone());
                lines.push("kkrun changes nothing until this is resolved:".to_owned());
                lines.extend(self.ways_on.iter().zip(1..).map(|(way, number)| format!("  {number}. {way}")));
            }
        }
        if self.torn_bytes > 0 {
            lines.push(format!(
                "its last {} bytes are an incomplete write of a killed run; the next run saves them to a file and truncates the journal",
                self.torn_bytes
            ));
        }
        if self.is_at_work {
            lines.push(
                "a run is in progress: the outcome of its current change is not recorded yet".to_owned(),
            );
        }
        lines.extend(self.in_doubt.iter().map(|DoubtfulChange { change, summary }| {
            format!("in doubt: #{change} {summary}: the next run or rollback determines whether it was made")
        }));
        lines.extend(
            self.unfinished_rollback
                .iter()
                .map(|command| format!("a rollback was interrupted: finish it with `{command}`")),
        );
        lines.extend(self.set_aside.iter().map(|SetAside { path, since, files, bytes, remove }| {
            let (when, size) =
                (time::when(*since, clock::now(), &clock::zone()), TreeSize { files: *files, bytes: *bytes });
            format!(
                "set aside {when}: `{path}` ({size}), which may not be kkrun's; kkrun never removes it, `{remove}` does"
            )
        }));
        lines.extend(self.pending.iter().map(|pending| format!("pending: {pending}")));
        lines
    }
}

/// Records that the journal goes on, if it is in doubt.
fn accept_journal(options: &Options, state: &Path) -> Result<()> {
    journal::check_state_directory(state)?;
    if journal::read(state)?.doubt.is_none() {
        return Ok(());
    }
    let _lock = match Lock::acquire(&state.join("lock"))? {
        Attempt::Acquired(lock) => lock,
        Attempt::Held(holder) => return Err(holder.failure().into()),
    };
    let launch = config::launch(options, "kkrun doctor")?;
    let writer = Writer { run: launch.run.clone(), boot: clock::boot_id()?, plan: String::new() };
    let mut journal = Journal::take_over(state, &journal::read(state)?, writer)?;
    journal.append(Entry::JournalAccepted { machine: clock::machine_id()?.unwrap_or_default() })?;
    Ok(())
}
