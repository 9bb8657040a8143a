//! `kkrun doctor`: explains the state of the journal, and what to do when it is damaged. Changes nothing, but for
//! `--accept-journal`, which records that a journal in doubt is this machine's.

use std::path::Path;

use anyhow::Result;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::change::things_set_aside;
use crate::cli::Options;
use crate::config;
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::journal::{self, ChangeRecord, Entry, Journal, Writer};
use crate::machine::lock::{self, Attempt, Lock};
use crate::machine::tree_size::TreeSize;
use crate::machine::{clock, state_key};
use crate::time;
use crate::ui::line_to_stdout;

pub(super) fn execute(options: &Options, accept: bool) -> Result<ExitCode> {
    let state = config::state_directory(options)?;
    let path = state.join(journal::FILE);
    if accept {
        accept_journal(options, &state)?;
    }
    let loaded = match journal::read(&state) {
        Ok(loaded) => loaded,
        Err(error) => return explain(error, &state),
    };
    if let Some(doubt) = &loaded.doubt {
        explain_doubt(doubt, &state);
        return Ok(ExitCode::JOURNAL);
    }
    if !loaded.exists {
        line_to_stdout(&format!("no journal at `{}`: kkrun has changed nothing here", path.display()));
        return Ok(ExitCode::DONE);
    }
    let history = &loaded.history;
    let redactor = super::redactor(&state)?;
    line_to_stdout(&format!("the journal `{}` is intact: {} records", path.display(), loaded.records));
    if let Some(put_back) = &loaded.put_back {
        line_to_stdout(&put_back.sentence());
        line_to_stdout("`--verify` finds steps that do not hold here; nothing else shows what is missing");
    }
    if let Some(torn) = &loaded.torn {
        line_to_stdout(&format!(
            "its last {} bytes are an incomplete write of a killed run; the next run saves them to a file and truncates the journal",
            torn.bytes.len()
        ));
    }
    let is_at_work = lock::is_held(&state.join("lock"));
    if is_at_work {
        line_to_stdout("a run is in progress: the outcome of its current change is not recorded yet");
    }
    let is_under_way = |change: &&ChangeRecord| is_at_work && history.is_of_newest_run(change);
    let doubtful = history.in_doubt();
    let doubtful = doubtful.filter(|change| !is_under_way(change));
    for change in doubtful {
        line_to_stdout(&redactor.redact(&format!(
            "in doubt: #{} {}: the next run or rollback determines whether it was made",
            change.id, change.intent.summary
        )));
    }
    if let Some(unfinished) = history.rollback.as_ref().filter(|_| !is_at_work) {
        line_to_stdout(&format!("a rollback was interrupted: finish it with `{}`", unfinished.invocation()));
    }
    for (thing, moved) in things_set_aside(&state)? {
        let moved = Timestamp::try_from(moved).unwrap_or(Timestamp::UNIX_EPOCH);
        let (when, size) = (time::when(moved, clock::now(), &TimeZone::system()), TreeSize::at(&thing));
        let place = thing.parent().unwrap_or(&thing).display().to_string();
        let remove = shell_words::join(["rm", "-r", "--", &place]);
        line_to_stdout(&format!(
            "set aside {when}: `{}` ({size}), which may not be kkrun's; kkrun never removes it, `{remove}` does",
            thing.display()
        ));
    }
    for pending in &history.pending {
        line_to_stdout(&redactor.redact(&format!("pending: {}", pending.sentence())));
    }
    Ok(ExitCode::DONE)
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

fn explain_doubt(doubt: &str, state: &Path) {
    line_to_stdout(doubt);
    line_to_stdout("kkrun changes nothing until this is resolved:");
    line_to_stdout(&format!(
        "  1. restore the journal that belongs to `{}` on this machine",
        state.display()
    ));
    line_to_stdout(&format!(
        "  2. to start without it, rename `{}`; its backups/ holds the earlier contents",
        state.display()
    ));
    line_to_stdout(
        "  3. to continue with this journal, run `kkrun doctor --accept-journal`. What it does not have is not undone by any rollback; `kkrun status PLAN` finds steps that do not hold here",
    );
}

fn explain(error: anyhow::Error, state: &std::path::Path) -> Result<ExitCode> {
    let Some(failure) = error.downcast_ref::<Failure>().filter(|failure| failure.exit == ExitCode::JOURNAL)
    else {
        return Err(error);
    };
    line_to_stdout(&failure.message);
    line_to_stdout("kkrun changes nothing until this is resolved:");
    line_to_stdout(&format!(
        "  1. restore `{}` and `{}` from a backup of this machine",
        state.join(journal::FILE).display(),
        state.join(state_key::FILE).display()
    ));
    line_to_stdout("  2. if another version of kkrun wrote it, use that version");
    line_to_stdout(&format!(
        "  3. to abandon what it recorded, rename `{}`; its backups/ holds the earlier contents",
        state.display()
    ));
    Ok(ExitCode::JOURNAL)
}
