//! `kkrun doctor`: explains the state of the journal, and what to do when it is damaged. Changes nothing.

use anyhow::Result;

use crate::cli::Options;
use crate::config;
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::journal::{self, ChangeRecord, ChangeState};
use crate::machine::lock;
use crate::ui::line_to_stdout;

pub(super) fn execute(options: &Options) -> Result<ExitCode> {
    let state = config::state_directory(options)?;
    let path = state.join(journal::FILE);
    let loaded = match journal::load(&state) {
        Ok(loaded) => loaded,
        Err(error) => return explain(error, &state),
    };
    if !loaded.exists {
        line_to_stdout(&format!("no journal at `{}`: kkrun has changed nothing here", path.display()));
        return Ok(ExitCode::DONE);
    }
    let history = &loaded.history;
    line_to_stdout(&format!("the journal `{}` is intact: {} records", path.display(), loaded.records));
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
    let doubtful = history.changes.iter().filter(|change| change.state == ChangeState::InDoubt);
    let doubtful = doubtful.filter(|change| !is_under_way(change));
    for change in doubtful {
        line_to_stdout(&format!(
            "in doubt: #{} {}: the next run or rollback determines whether it was made",
            change.id, change.intent.summary
        ));
    }
    if let Some(unfinished) = history.rollback.as_ref().filter(|_| !is_at_work) {
        line_to_stdout(&format!("a rollback was interrupted: finish it with `{}`", unfinished.invocation()));
    }
    for pending in &history.pending {
        line_to_stdout(&format!("pending: {}", pending.sentence()));
    }
    Ok(ExitCode::DONE)
}

fn explain(error: anyhow::Error, state: &std::path::Path) -> Result<ExitCode> {
    let Some(failure) = error.downcast_ref::<Failure>().filter(|failure| failure.exit == ExitCode::JOURNAL)
    else {
        return Err(error);
    };
    line_to_stdout(&failure.message);
    line_to_stdout("kkrun changes nothing until this is resolved:");
    line_to_stdout(&format!(
        "  1. restore `{}` from a backup of this machine",
        state.join(journal::FILE).display()
    ));
    line_to_stdout("  2. if another version of kkrun wrote it, use that version");
    line_to_stdout(&format!(
        "  3. to abandon what it recorded, rename `{}`; its backups/ holds the earlier contents, named by their SHA-256",
        state.display()
    ));
    Ok(ExitCode::JOURNAL)
}
