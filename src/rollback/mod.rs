//! Rolls back: every live change of the plan, newest first, from the journal alone.

mod order;
mod report;
mod request;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde_json::Value;

use crate::change::{Change, DesiredUnit, Loss, Payload, Position, Undone, Unit, UnitChange};
use crate::event::{Answer, Event, Question, UndoOutcome};
use crate::failure::{self, Failure, sentence};
use crate::journal::{
    self, ChangeId, ChangeRecord, ChangeState, Entry, Handler, PendingHandler, StepState, UnfinishedRollback,
};
use crate::session::{Assumed, Session};
use crate::target::Target;
use crate::text::one_line;
use order::{LeftToAnother, candidates, left_to_others};
pub use report::{Report, Row};
use report::{row_about, row_of};
pub use request::{Asked, CLASSES, Request, is_at, run_word};

/// What a rollback would do; with an event for each change, if that `is_shown`.
pub fn preview(session: &mut Session, request: &Request, is_shown: bool) -> Result<Report> {
    let emit = |session: &Session, outcome: UndoOutcome, row: &Row| {
        if is_shown {
            emit(session, outcome, row);
        }
    };
    let (irreversible, candidates) = apart(session, &candidates(session, request)?);
    let mut left = left_to_others(session, request, &candidates)?;
    let mut report = Report::default();
    let mut assumed = Assumed::of(session.history());
    // What would be recorded by then.
    let mut states = BTreeMap::new();
    for id in candidates {
        let Some(known) = session.history().change(id).cloned() else { continue };
        let change = Change::of_intent(&known.intent);
        let mut row = row_about(&known, change.as_ref().ok());
        if let Some(left) = left.remove(&id) {
            row.detail = Some(left.why);
            emit(session, UndoOutcome::Kept, &row);
            assumed.keep(&known);
            report.kept.push(row);
            continue;
        }
        let target = &known.intent.target;
        let recorded = states.get(target).cloned().or_else(|| session.recorded_since(id, target));
        let recorded = recorded.as_ref();
        let previewed = change.and_then(|change| {
            let undone = match holds_what_stays(session, request, &change, &report) {
                Some(why) => Undone::Kept(why),
                None => preview_one(session, request, (&known, &change), recorded, &assumed, &mut row)?,
            };
            Ok((undone, change))
        });
        let (reported, detail) = match previewed {
            Ok((Undone::Back(how, left), change)) => {
                let taken = change.kind().undo_takes(&session.world, recorded);
                let taken = row.detail.take().or(taken);
                states.extend(left);
                assumed.undo(&known, change.kind().touches(&session.world));
                (
                    UndoOutcome::Would,
                    taken.filter(|_| how != journal::Undoing::Already).or_else(|| left_by(&known, how)),
                )
            }
            Ok((Undone::InProgress(_), change)) => {
                assumed.undo(&known, change.kind().touches(&session.world));
                (UndoOutcome::Would, None)
            }
            Ok((Undone::Conflict(why), _)) => (UndoOutcome::Conflict, Some(why)),
            Ok((Undone::Kept(why), _)) => {
                assumed.keep(&known);
                (UndoOutcome::Kept, Some(why))
            }
            Err(error) => (UndoOutcome::Failed, Some(failure::with_way_on(&error))),
        };
        row.detail = detail;
        emit(session, reported, &row);
        match reported {
            UndoOutcome::Conflict => report.conflicts.push(row),
            UndoOutcome::Kept => report.kept.push(row),
            UndoOutcome::Failed => report.failed.push(row),
            _ => report.undone.push(row),
        }
    }
    for id in irreversible {
        let Some(known) = session.history().change(id).cloned() else { continue };
        if goes_with_others(session, &known) {
            let row = row_of(&known);
            emit(session, UndoOutcome::Already, &row);
            report.undone.push(row);
        } else {
            report.not_undone.push(unable(session, &known));
        }
    }
    if is_shown {
        emit_not_undone(session, &report.not_undone);
    }
    session.world.assumed_gone.borrow_mut().clear();
    session.world.assumed_back.borrow_mut().clear();
    Ok(report)
}

fn preview_one(
    session: &mut Session,
    request: &Request,
    (known, change): (&ChangeRecord, &Change),
    recorded: Option<&Value>,
    assumed: &Assumed,
    row: &mut Row,
) -> Result<Undone> {
    if let Some(unit) = stopped_unit_needed(session, change) {
        row.detail =
            Some(format!("not examined: {} is stopped; the rollback starts it for this", unit.shown()));
        return Ok(Undone::Back(journal::Undoing::Restored, BTreeMap::new()));
    }
    if let Some(loss) = loss_of(session, known, change, recorded)?.filter(|loss| !request.grants(loss.class))
    {
        row.class = loss.class.purge_word();
        let way = match row.class {
            Some(word) => format!("the rollback asks, or `--purge {word}` allows it"),
            None => "the rollback asks".to_owned(),
        };
        return Ok(Undone::Kept(format!("{}; {way}", loss.what)));
    }
    if let Some(missing) = missing_backup(session, known, change) {
        return Err(missing);
    }
    let undone = session.preview_undo(known, change, request.force, assumed)?;
    if matches!(undone, Undone::Back(..)) {
        let gone = change.kind().removed_by_undo(&session.world);
        session.world.assumed_gone.borrow_mut().extend(gone);
        let back = known.intent.target.path().filter(|_| known.intent.what != "command");
        let mut all_back = session.world.assumed_back.borrow_mut();
        all_back.extend(back.map(Path::to_owned));
        all_back.extend(change.kind().touches(&session.world));
    }
    Ok(undone)
}

/// Rolls back. Killed, it goes on when it is called again.
///
/// # Errors
/// When nothing can be recorded, when the run is asked to stop, and when a step cannot be undone alone.
pub fn apply(session: &mut Session, request: &Request) -> Result<Report> {
    session.begin_undoing()?;
    let unfinished = session.history().rollback.clone();
    if let Some(unfinished) = unfinished.as_ref() {
        refuse_beside(unfinished, session.plan(), request)?;
    }
    let candidates = candidates(session, request)?;
    let report = Report::default();
    if candidates.is_empty() && unfinished.is_none() {
        let mut undoing =
            Undoing { session, request, block: None, tried: BTreeSet::new(), started: Vec::new(), report };
        undoing.run_complete_handlers(&[])?;
        let report = undoing.report;
        let claiming = claiming_steps(session);
        conclude(session, request, |word| claiming.contains(word))?;
        return Ok(report);
    }
    name_missing_backups(session, &apart(session, &candidates).1);
    session.record(Entry::RollbackStarted {
        steps: request.steps.as_ref().map(|asked| asked.iter().map(|asked| asked.text.clone()).collect()),
        purge: request.purge.clone(),
        force: request.force,
    })?;
    let left = left_to_others(session, request, &candidates)?;
    let mut undoing =
        Undoing { session, request, block: None, tried: BTreeSet::new(), started: Vec::new(), report };
    // One that was killed may have left what its last undone changes triggered.
    undoing.run_complete_handlers(&candidates)?;
    undoing.undo(&candidates, left)?;
    let report = undoing.report;
    let is_of = |row: &Row, word: &str| row.step.as_deref() == Some(word);
    let claiming = claiming_steps(session);
    let is_undone = |word: &str| {
        // What was left to another step is not of this one any more.
        let (gone, kept): (Vec<&Row>, Vec<&Row>) = report.kept.iter().partition(|row| row.is_left);
        let mut left = report.conflicts.iter().chain(kept).chain(&report.failed);
        // What was undone before a rollback was killed is not in its report.
        unfinished.is_some()
            || report.undone.iter().chain(gone).any(|row| is_of(row, word))
            || claiming.contains(word) && !left.any(|row| is_of(row, word))
    };
    conclude(session, request, is_undone)?;
    session.record(Entry::RollbackEnded {
        undone: report.undone.len(),
        kept: report.kept.len(),
        conflicts: report.conflicts.len(),
        failed: report.failed.len(),
    })?;
    Ok(report)
}

/// Why a change cannot be undone now: something that it is restored from is gone, and it is not as before anyway.
fn missing_backup(session: &Session, known: &ChangeRecord, change: &Change) -> Option<anyhow::Error> {
    let world = &session.world;
    let recorded = session.recorded_since(known.id, &known.intent.target);
    let missing = change
        .kind()
        .backups(world, recorded.as_ref())
        .into_iter()
        .find_map(|digest| world.backups().and_then(|backups| backups.file(digest)).err())?;
    let is_as_before = matches!(change.kind().position(world), Ok(Position::Before));
    (!is_as_before).then_some(missing)
}

/// Says which changes cannot be undone before any is: the rest is undone, and the exit status says that not all is.
fn name_missing_backups(session: &Session, candidates: &[ChangeId]) {
    for known in candidates.iter().filter_map(|id| session.history().change(*id)) {
        let missing =
            Change::of_intent(&known.intent).ok().and_then(|change| missing_backup(session, known, &change));
        if let Some(missing) = missing {
            session.reporter().note(format!(
                "cannot restore {}: {missing}",
                known.intent.target,
                missing = sentence(&missing)
            ));
        }
    }
}

/// Another rollback was interrupted: this one may go on with it, but not pass it over.
fn refuse_beside(unfinished: &UnfinishedRollback, plan: &str, request: &Request) -> Result<()> {
    let is_another = unfinished.plan != plan;
    if !is_another && request.covers(unfinished) {
        return Ok(());
    }
    let named = if is_another { format!(" of `{}`", unfinished.plan) } else { String::new() };
    bail!(
        Failure::new(format!(
            "cannot start this rollback: a rollback{named} was interrupted and is not finished"
        ))
        .hint(format!("finish it with `{}`", unfinished.invocation()))
    )
}

/// The steps of the plan that claim what others made: rolled back, they do not any more.
fn claiming_steps(session: &Session) -> BTreeSet<String> {
    let claims = session.history().claims.keys();
    claims.filter(|(plan, _)| plan == session.plan()).map(|(_, step)| step.clone()).collect()
}

/// Records the states of the steps after the undo. They are recorded before the end of the rollback, so that a
/// rollback killed in between does not count as finished.
///
/// A step with something that `is_undone` is put on hold; any other keeps its state.
fn conclude(session: &mut Session, request: &Request, is_undone: impl Fn(&str) -> bool) -> Result<()> {
    let plan = session.plan().to_owned();
    let history = session.history();
    if let Some(asked) = &request.steps {
        let to_hold = |word: &&String| {
            let known = history.step(&plan, word);
            known.is_some_and(|step| step.state != StepState::OnHold) && is_undone(word)
        };
        // The steps of a run are those that changed something in it.
        let is_of_run = |change: &&ChangeRecord| {
            change.plan == plan && asked.iter().any(|asked| asked.is_for_run(&change.run))
        };
        let of_run =
            history.changes.iter().filter(is_of_run).filter_map(|change| change.intent.step.as_ref());
        let named: BTreeSet<&String> = asked.iter().map(|asked| &asked.text).chain(of_run).collect();
        for step in named.into_iter().filter(|step| to_hold(step)).cloned().collect::<Vec<_>>() {
            session.record(Entry::StepOnHold { step })?;
        }
        return Ok(());
    }
    let is_begun = |step: &journal::StepRecord| step.state != StepState::Pending;
    if history.steps_of(&plan).any(|(_, step)| is_begun(step)) {
        session.record(Entry::StepsReset { steps: None })?;
    }
    Ok(())
}

/// Undoes one change, or reports why not. What was `reported` before is not reported again.
fn undo_one(
    session: &mut Session,
    request: &Request,
    id: ChangeId,
    reported: &BTreeMap<ChangeId, Option<String>>,
    report: &mut Report,
) -> Result<()> {
    let Some(known) = session.history().change(id).cloned() else { return Ok(()) };
    let change = Change::of_intent(&known.intent);
    let mut row = row_about(&known, change.as_ref().ok());
    let change = match change {
        Ok(change) => change,
        Err(error) => {
            session.record(Entry::UndoFailed { change: id, error: sentence(&error) })?;
            row.detail = Some(sentence(&error));
            emit(session, UndoOutcome::Failed, &row);
            report.failed.push(row);
            return Ok(());
        }
    };
    if let Some(why) = holds_what_stays(session, request, &change, report) {
        let was_reported = reported.get(&id).is_some_and(|detail| detail.as_ref() == Some(&why));
        return keep(session, row, why, was_reported, report);
    }
    let mut is_agreed = false;
    match loss_of(session, &known, &change, session.recorded_since(id, &known.intent.target).as_ref()) {
        Ok(Some(loss)) => {
            let word = loss.class.purge_word().unwrap_or("all");
            let why = format!("{}; `--purge {word}` allows it", loss.what);
            let was_reported = reported.get(&id).is_some_and(|detail| detail.as_ref() == Some(&why));
            if was_reported || !agreed(session, request, &loss)? {
                row.class = loss.class.purge_word();
                return keep(session, row, why, was_reported, report);
            }
            is_agreed = true;
        }
        Ok(None) => {}
        Err(error) => session.reporter().note_once(format!(
            "{}: {error}",
            known.intent.target,
            error = sentence(&error)
        )),
    }
    match session.undo_losing(id, request.force, is_agreed)? {
        ChangeState::Undone(how) => {
            let reported =
                if how == journal::Undoing::Already { UndoOutcome::Already } else { UndoOutcome::Undone };
            if let Some(left) = left_by(&known, how) {
                row.done = format!("undone in part: {}", row.summary);
                row.detail = Some(left);
            }
            emit(session, reported, &row);
            report.undone.push(row);
        }
        ChangeState::Conflict(why) => {
            if !session.is_left_to_another(id) {
                let deciding = |policy| deciding(session, &row, policy);
                row.hints = vec![
                    format!("to overwrite it with the state from before, run `{}`", deciding("overwrite")),
                    format!("to keep it, run `{}`", deciding("keep")),
                ];
            }
            row.detail = Some(why);
            emit(session, UndoOutcome::Conflict, &row);
            report.conflicts.push(row);
        }
        ChangeState::Kept(why) => {
            row.detail = Some(why);
            if reported.get(&id) != Some(&row.detail) {
                emit(session, UndoOutcome::Kept, &row);
            }
            report.kept.push(row);
        }
        ChangeState::UndoFailed(error) => {
            row.detail = Some(error);
            if missing_backup(session, &known, &change).is_some() {
                row.hints = vec![format!("to leave it as it is, run `{}`", deciding(session, &row, "keep"))];
            }
            // What an older change holds up may succeed once that is undone, too.
            if reported.contains_key(&id) {
                emit(session, UndoOutcome::Failed, &row);
            } else {
                let (done, error) = (&row.summary, row.detail.as_deref().unwrap_or_default());
                let first = error.lines().next().unwrap_or_default();
                session
                    .reporter()
                    .note(format!("cannot undo `{done}` yet, tried again after the others: {first}"));
            }
            report.failed.push(row);
        }
        _ => {}
    }
    Ok(())
}

/// The command that decides about the conflict at one target.
fn deciding(session: &Session, row: &Row, policy: &str) -> String {
    let mut words = vec!["kkrun", "rollback", row.target.as_str(), "--on-conflict", policy];
    if session.history().has_live_changes_beside(session.plan()) {
        words.extend(["--plan", session.plan()]);
    }
    shell_words::join(words)
}

/// Undoes what a step changed in the block of a handler whose test fails. It is not a rollback of its own: killed, the
/// next run comes to the same block.
pub fn undo_block(session: &mut Session, request: &Request, handler: &Handler) -> Result<Report> {
    let changes = session.changes_triggering(handler);
    let (block, report) = (Some((handler, changes.as_slice())), Report::default());
    let left = left_to_others(session, request, &changes)?;
    let mut undoing =
        Undoing { session, request, block, tried: BTreeSet::new(), started: Vec::new(), report };
    undoing.undo(&changes, left)?;
    Ok(undoing.report)
}

/// An undo in progress.
struct Undoing<'a> {
    session: &'a mut Session,
    request: &'a Request,
    /// The handler and the changes that this is about alone.
    block: Option<(&'a Handler, &'a [ChangeId])>,
    /// The numbers of the pending handlers that were tried.
    tried: BTreeSet<usize>,
    /// The changes that started what an undo needed to run.
    started: Vec<ChangeId>,
    report: Report,
}

/// In the row of a handler, in place of a change: changes have numbers from 1.
const HANDLER: ChangeId = 0;

impl Undoing<'_> {
    /// Undoes these changes, which come newest first, and runs the handlers of what is undone.
    fn undo(&mut self, changes: &[ChangeId], mut left: BTreeMap<ChangeId, LeftToAnother>) -> Result<()> {
        let (irreversible, changes) = apart(self.session, changes);
        for (at, id) in changes.iter().enumerate() {
            if let Some(left) = left.remove(id) {
                self.leave_to_another(*id, left)?;
                continue;
            }
            self.one(*id, &BTreeMap::new())?;
            // A transient failure passes at once; the older changes then find what they left.
            if let Some(failed) = self.report.failed.pop_if(|row| row.change == *id) {
                self.one(*id, &BTreeMap::from([(failed.change, failed.detail)]))?;
            }
            self.run_complete_handlers(&changes[at + 1..])?;
        }
        self.retry()?;
        for id in std::mem::take(&mut self.started).into_iter().rev() {
            if let ChangeState::UndoFailed(error) = self.session.undo(id, false)? {
                self.session.reporter().note(error);
            }
        }
        self.leave(&irreversible)
    }

    /// Starts what has to run while this change is undone. That is a change of its own, of the same step: a rollback
    /// that follows a killed one undoes it.
    fn start_what_is_needed(&mut self, id: ChangeId) -> Result<()> {
        let Some(known) = self.session.history().change(id).cloned() else { return Ok(()) };
        let Ok(change) = Change::of_intent(&known.intent) else { return Ok(()) };
        let Some(unit) = stopped_unit_needed(self.session, &change) else { return Ok(()) };
        let start = UnitChange::towards(&self.session.world, unit, DesiredUnit::Started)?;
        let Some(start) = start.map(Change::Unit) else { return Ok(()) };
        if self.block.is_none() {
            self.session.enter_step(known.intent.step.as_deref());
        }
        // Why it does not run is said here; that the undo fails without it is said with the undo.
        if let Err(error) = self.session.perform(&start, Payload::Nothing) {
            self.session.check_interruption()?;
            self.session.reporter().note(sentence(&error));
        }
        let newest = self.session.history().changes.last().filter(|newest| newest.is_live());
        self.started.extend(
            newest
                .filter(|newest| newest.id > id && newest.intent.target == start.kind().target())
                .map(|newest| newest.id),
        );
        Ok(())
    }

    /// Says of changes that they cannot be undone, unless nothing is left of them by now.
    fn leave(&mut self, irreversible: &[ChangeId]) -> Result<()> {
        let first = self.report.not_undone.len();
        for id in irreversible {
            let Some(known) = self.session.history().change(*id).cloned() else { continue };
            if self.session.is_gone(*id) {
                self.one(*id, &BTreeMap::new())?;
                continue;
            }
            let row = unable(self.session, &known);
            let why = row.detail.clone().unwrap_or_default();
            self.session.note(Entry::Kept { change: *id, why })?;
            self.report.not_undone.push(row);
        }
        emit_not_undone(self.session, &self.report.not_undone[first..]);
        self.run_complete_handlers(&[])
    }

    fn leave_to_another(
        &mut self,
        id: ChangeId,
        LeftToAnother { plan, step, why }: LeftToAnother,
    ) -> Result<()> {
        let Some(mut row) = self.session.history().change(id).map(row_of) else { return Ok(()) };
        self.session.record(Entry::LeftTo { change: id, plan, step, why: why.clone() })?;
        (row.detail, row.is_left) = (Some(why), true);
        emit(self.session, UndoOutcome::Kept, &row);
        self.report.kept.push(row);
        Ok(())
    }

    fn one(&mut self, id: ChangeId, reported: &BTreeMap<ChangeId, Option<String>>) -> Result<()> {
        self.start_what_is_needed(id)?;
        undo_one(self.session, self.request, id, reported, &mut self.report)
    }

    /// An undo action may have failed because of something that a later one removed; it is tried again, and so is what
    /// waited for it or was still in use.
    fn retry(&mut self) -> Result<()> {
        if self.report.failed.is_empty() {
            return Ok(());
        }
        let report = &mut self.report;
        let (handlers, failed): (Vec<Row>, Vec<Row>) =
            std::mem::take(&mut report.failed).into_iter().partition(|row| row.change == HANDLER);
        let waits = |row: &Row| self.session.is_left_to_another(row.change);
        let (waiting, conflicts) = std::mem::take(&mut report.conflicts).into_iter().partition(waits);
        let (kept, in_use) = std::mem::take(&mut report.kept).into_iter().partition(|row| row.is_left);
        (report.conflicts, report.kept, report.failed) = (conflicts, kept, handlers);
        let reported = failed.iter().chain(&in_use).map(|row| (row.change, row.detail.clone())).collect();
        let again: [Vec<Row>; 3] = [failed, waiting, in_use];
        let mut again: Vec<ChangeId> = again.into_iter().flatten().map(|row| row.change).collect();
        again.sort_unstable_by(|left, right| right.cmp(left));
        for id in again {
            self.one(id, &reported)?;
        }
        self.run_complete_handlers(&[])
    }

    /// Runs the handlers of undone changes once no older change that triggers the same handler is left. Each is tried
    /// once.
    fn run_complete_handlers(&mut self, left: &[ChangeId]) -> Result<()> {
        let due: Vec<PendingHandler> =
            self.session.pending().filter(|pending| self.is_due(pending, left)).cloned().collect();
        for pending in due {
            if !self.tried.insert(pending.number) {
                continue;
            }
            if let Err(error) = self.session.settle_undone(&pending) {
                self.session.check_interruption()?;
                let mut detail = sentence(&error);
                if let Some(failure) = error.downcast_ref::<Failure>() {
                    detail =
                        [&[detail], failure.output.as_slice(), failure.hints.as_slice()].concat().join("\n");
                }
                let row = Row {
                    change: HANDLER,
                    step: pending.step.clone(),
                    target: "pending".to_owned(),
                    summary: pending.sentence(),
                    detail: Some(detail),
                    hints: Vec::new(),
                    class: None,
                    done: String::new(),
                    is_left: false,
                };
                emit(self.session, UndoOutcome::Failed, &row);
                self.report.failed.push(row);
            }
        }
        Ok(())
    }

    fn is_due(&self, pending: &PendingHandler, left: &[ChangeId]) -> bool {
        let history = self.session.history();
        let is_undone = |id: &ChangeId| history.change(*id).is_some_and(|change| !change.is_live());
        let triggers = |id: &ChangeId| {
            let change = history.change(*id);
            change.is_some_and(|change| {
                change.intent.step == pending.step && change.intent.pending.contains(&pending.handler)
            })
        };
        let is_meant = match self.block {
            None => pending.changes.iter().any(is_undone),
            // The surrounding blocks are not affected.
            Some((handler, changes)) => {
                let is_own = pending.handler == *handler || pending.changes.iter().all(is_undone);
                is_own && pending.changes.iter().any(|id| changes.contains(id) && is_undone(id))
            }
        };
        is_meant && !left.iter().any(triggers)
    }
}

fn keep(
    session: &mut Session,
    mut row: Row,
    why: String,
    was_reported: bool,
    report: &mut Report,
) -> Result<()> {
    row.detail = Some(why.clone());
    if !was_reported {
        session.record(Entry::Kept { change: row.change, why })?;
        emit(session, UndoOutcome::Kept, &row);
    }
    report.kept.push(row);
    Ok(())
}

/// Why a directory is kept that undoing a change would remove: something in it is kept, or is a conflict.
fn holds_what_stays(
    session: &Session,
    request: &Request,
    change: &Change,
    report: &Report,
) -> Option<String> {
    let is_directory =
        |path: &PathBuf| std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
    let removed = change.kind().removed_by_undo(&session.world);
    let removed: Vec<PathBuf> = removed.into_iter().filter(is_directory).collect();
    if removed.is_empty() {
        return None;
    }
    let history = session.history();
    let reported = report.kept.iter().chain(&report.conflicts);
    let reported = reported.filter_map(|row| history.change(row.change)?.intent.target.path());
    let kept = history.kept_against.keys().filter(|_| !request.force).filter_map(Target::path);
    let is_in_it = |path: &&Path| {
        removed.iter().any(|root| path.starts_with(root) && *path != root)
            && std::fs::symlink_metadata(path).is_ok()
    };
    reported
        .chain(kept)
        .find(is_in_it)
        .map(|path| format!("`{}` in it stays: it is kept, or is a conflict", path.display()))
}

/// What would be lost: as the script named it, else as the kind sees it now.
fn loss_of(
    session: &Session,
    known: &ChangeRecord,
    change: &Change,
    recorded: Option<&Value>,
) -> Result<Option<Loss>> {
    match &known.intent.loses {
        Some(what) => Ok(Some(Loss { class: known.intent.class, what: what.clone() })),
        None => change.kind().loss(&session.world, recorded),
    }
}

/// What a change leaves that is undone in part.
fn left_by(known: &ChangeRecord, how: journal::Undoing) -> Option<String> {
    known.leaves(how).map(|path| {
        format!("`{path}` stays as the command left it, until the change that made it first is undone")
    })
}

/// Whether nothing will be left of a change that cannot be undone, as far as the preview knows: what it changed goes.
fn goes_with_others(session: &mut Session, known: &ChangeRecord) -> bool {
    let changed = known.intent.whole.as_ref().unwrap_or(&known.intent.target).path().map(Path::to_owned);
    let gone =
        |path: &Path| path.ancestors().any(|above| session.world.assumed_gone.borrow().contains(above));
    changed.is_some_and(|path| gone(&path)) || session.is_gone(known.id)
}

/// The changes of which nothing can be undone, and the others.
fn apart(session: &Session, changes: &[ChangeId]) -> (Vec<ChangeId>, Vec<ChangeId>) {
    let is_irreversible =
        |id: &ChangeId| session.history().change(*id).is_some_and(ChangeRecord::is_irreversible);
    changes.iter().copied().partition(is_irreversible)
}

/// The row of a change that cannot be undone, with the reason.
fn unable(session: &Session, known: &ChangeRecord) -> Row {
    let mut why = known.intent.loses.clone().unwrap_or_else(|| "its script names no undo action".to_owned());
    if session.history().failure_of(known).is_some() {
        why.push_str("; it failed, and may have done a part of it");
    } else if known.state == ChangeState::InDoubt {
        why.push_str("; it may have been stopped half-way");
    }
    Row { detail: Some(why), ..row_of(known) }
}

/// Reports changes that cannot be undone: those that did the same in the same step as one.
fn emit_not_undone(session: &Session, rows: &[Row]) {
    fn did(row: &Row) -> (&Option<String>, &String, &Option<String>) {
        (&row.step, &row.summary, &row.detail)
    }
    let mut times = BTreeMap::new();
    for row in rows {
        *times.entry(did(row)).or_insert(0_usize) += 1;
    }
    for row in rows {
        let Some(times) = times.remove(&did(row)) else { continue };
        let mut shown = row.clone();
        if times > 1 {
            shown.detail = shown.detail.map(|why| format!("{why} ({times} times)"));
        }
        emit(session, UndoOutcome::NotUndone, &shown);
    }
}

fn agreed(session: &Session, request: &Request, loss: &Loss) -> Result<bool> {
    if request.grants(loss.class) {
        return Ok(true);
    }
    let question =
        Question::Confirm { text: format!("Remove {}?", loss.what), default: false, harmless: false };
    Ok(matches!(session.world.reporter.ask(&question)?, Some(Answer::Yes)))
}

fn emit(session: &Session, outcome: UndoOutcome, row: &Row) {
    session.world.reporter.emit(&Event::Undo {
        outcome,
        change: row.change,
        step: row.step.clone(),
        target: row.target.clone(),
        summary: row.summary.clone(),
        detail: row.detail.clone(),
        hints: row.hints.clone(),
        done: one_line(&row.done).into_owned(),
    });
}

/// The unit that has to run while a change is undone, if it is known and stopped.
fn stopped_unit_needed(session: &Session, change: &Change) -> Option<Unit> {
    let unit = change.kind().undone_by().ok().flatten()?;
    // Where no service manager runs, the undo itself says what it lacks.
    let facts = unit.facts(&session.world).ok().flatten()?;
    (!facts.is_running()).then_some(unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::work;
    use crate::session::testing::Ground;

    fn of_steps(steps: &[&str]) -> Request {
        Request { steps: Some(steps.iter().map(|step| (*step).into()).collect()), ..Request::default() }
    }

    fn targets(rows: &[Row]) -> Vec<&str> {
        rows.iter().map(|row| row.target.rsplit('/').next().unwrap_or_default()).collect()
    }

    /// Two steps: `01` writes `a` and `b`, `02` writes `a` again and `c`.
    fn two_steps() -> Ground {
        let ground = Ground::new();
        ground.put("a", "first\n");
        let mut session = ground.run();
        for (step, name, text) in
            [("01", "a", "one\n"), ("01", "b", "b\n"), ("02", "a", "two\n"), ("02", "c", "c\n")]
        {
            ground.write(&mut session, step, name, text);
        }
        ground
    }

    #[test]
    fn changes_are_undone_newest_first_and_as_the_preview_says() {
        let ground = two_steps();
        let previewed = preview(&mut ground.dry_run(), &Request::default(), true).unwrap();
        let done = apply(&mut ground.run(), &Request::default()).unwrap();
        assert_eq!(targets(&done.undone), ["c", "a", "b", "a"]);
        assert_eq!(targets(&previewed.undone), targets(&done.undone));
        assert_eq!(ground.text("a").as_deref(), Some("first\n"));
        assert_eq!((ground.text("b"), ground.text("c")), (None, None));
    }

    #[test]
    fn step_is_not_undone_below_a_later_change_to_the_same_file() {
        let ground = two_steps();
        let refused = apply(&mut ground.run(), &of_steps(&["01"])).unwrap_err();
        assert!(format!("{refused:#}").contains("cannot undo "), "{refused:#}");
        assert!(ground.history().rollback.is_none());
        let done = apply(&mut ground.run(), &of_steps(&["02"])).unwrap();
        assert_eq!(targets(&done.undone), ["c", "a"]);
        assert_eq!(ground.text("a").as_deref(), Some("one\n"));
        apply(&mut ground.run(), &of_steps(&["01"])).unwrap();
        assert_eq!(ground.text("a").as_deref(), Some("first\n"));
    }

    #[test]
    fn conflict_stays_unless_it_is_overwritten_and_the_rest_is_undone() {
        let ground = two_steps();
        ground.put("c", "theirs\n");
        let done = apply(&mut ground.run(), &Request::default()).unwrap();
        assert_eq!(
            (targets(&done.conflicts), done.exit()),
            (vec!["c"], crate::exit_code::ExitCode::UNDONE_IN_PART)
        );
        assert_eq!(ground.text("c").as_deref(), Some("theirs\n"));
        assert_eq!(ground.text("a").as_deref(), Some("first\n"));
        let overwriting = Request { force: true, ..Request::default() };
        assert_eq!(targets(&apply(&mut ground.run(), &overwriting).unwrap().undone), ["c"]);
        assert_eq!(ground.text("c"), None);
    }

    type RollBack = fn(&mut Session, &Request) -> Result<Report>;

    fn previewed(session: &mut Session, request: &Request) -> Result<Report> {
        preview(session, request, true)
    }

    /// How many changes are looked at when so many are made, by a preview of the rollback of their step, and by that of
    /// all.
    fn work_with(changes: usize, name: fn(usize) -> String) -> [usize; 4] {
        let ground = Ground::new();
        let making = work::of(|| {
            let mut session = ground.run();
            for number in 0..changes {
                ground.write(&mut session, "01", &name(number), ["x\n", "y\n"][number % 2]);
            }
        });
        let rolling_back = |session: &mut Session, what: &Request, roll_back: RollBack| {
            work::of(|| {
                assert_eq!(roll_back(session, what).unwrap().undone.len(), changes);
            })
        };
        let all = Request::default();
        [
            making,
            rolling_back(&mut ground.dry_run(), &of_steps(&["01"]), previewed),
            rolling_back(&mut ground.dry_run(), &all, previewed),
            rolling_back(&mut ground.run(), &all, apply),
        ]
    }

    #[test]
    fn work_grows_with_the_number_of_changes_and_not_with_its_square() {
        let many_files: fn(usize) -> String = |number| format!("f{number}");
        for (where_, name) in [("in many files", many_files), ("in one file", |_| "f".to_owned())] {
            let (few, many) = (work_with(20, name), work_with(80, name));
            let parts = ["making", "preview of a step", "preview", "rollback"];
            for (what, (few, many)) in parts.iter().zip(few.into_iter().zip(many)) {
                assert!(few >= 20, "{what} {where_} looks at {few} changes of 20: they are not counted");
                assert!(many <= 5 * few, "{what} {where_} looks at {few} changes of 20, and at {many} of 80");
            }
        }
    }

    #[test]
    fn interrupted_rollback_is_finished_by_one_that_covers_it_alone() {
        let ground = two_steps();
        let mut session = ground.run();
        session.begin_undoing().unwrap();
        let begun = Entry::RollbackStarted { steps: None, purge: Vec::new(), force: false };
        session.record(begun).unwrap();
        drop(session);
        assert!(apply(&mut ground.run(), &of_steps(&["02"])).is_err());
        let done = apply(&mut ground.run(), &Request::default()).unwrap();
        assert_eq!(done.undone.len(), 4);
        assert!(ground.history().rollback.is_none());
    }
}
