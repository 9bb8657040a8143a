//! Rolls back: every live change of the plan, newest first, from the journal alone.

use anyhow::{Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Launch;
use crate::change::{Change, Loss, Undone};
use crate::event::{Answer, Event, Question, UndoTold};
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::journal::{ChangeId, ChangeRecord, ChangeState, Class, Entry, History};
use crate::session::Session;

/// The words that `--purge` takes.
pub const CLASSES: &[&str] = &["users", "homes", "databases", "packages", "data"];

/// What shall be rolled back, and what may be lost by it.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// These steps alone; none for all.
    pub steps: Option<Vec<String>>,
    /// The classes that may be lost without asking.
    pub purge: Vec<String>,
    /// Bring before-states back over somebody else's.
    pub force: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct Options {
    steps: Vec<String>,
    purge: Vec<String>,
}

/// One change and what became of it, or would.
#[derive(Clone, Debug)]
pub struct Row {
    /// The change.
    pub change: ChangeId,
    /// Its step.
    pub step: Option<String>,
    /// Its target.
    pub target: String,
    /// One line.
    pub summary: String,
    /// The difference, the reason, the error.
    pub detail: Option<String>,
    /// The class that has to be named to lose it.
    pub class: Option<&'static str>,
}

/// What became of all of them.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// As before now.
    pub undone: Vec<Row>,
    /// Left alone by choice or need.
    pub kept: Vec<Row>,
    /// Left alone because of somebody else.
    pub conflicts: Vec<Row>,
    /// Their inverse failed.
    pub failed: Vec<Row>,
}

impl Report {
    /// The exit status that it stands for.
    pub fn exit(&self) -> ExitCode {
        if self.conflicts.is_empty() && self.failed.is_empty() {
            ExitCode::DONE
        } else {
            ExitCode::UNDONE_IN_PART
        }
    }

    /// One line that sums it up.
    pub fn sentence(&self) -> String {
        let conflicts = if self.conflicts.len() == 1 { "conflict" } else { "conflicts" };
        format!(
            "{} undone · {} kept · {} {conflicts} · {} failed",
            self.undone.len(),
            self.kept.len(),
            self.conflicts.len(),
            self.failed.len()
        )
    }

    /// The form that scripts get.
    pub fn to_json(&self) -> Value {
        let rows = |rows: &[Row]| -> Vec<Value> {
            let row = |row: &Row| {
                json!({
                    "change": row.change, "step": row.step, "target": row.target, "summary": row.summary,
                    "detail": row.detail, "class": row.class,
                })
            };
            rows.iter().map(row).collect()
        };
        json!({
            "undone": rows(&self.undone),
            "kept": rows(&self.kept),
            "conflicts": rows(&self.conflicts),
            "failed": rows(&self.failed),
        })
    }
}

impl Request {
    /// The request that a script's options and the command line make together.
    pub fn of(options: &Value, launch: &Launch) -> Result<Self> {
        let options: Options = match options {
            Value::Null => Options::default(),
            given => serde_json::from_value(given.clone())
                .map_err(|error| Failure::new(error.to_string()).kind("option"))?,
        };
        let mut purge = options.purge;
        purge.extend(launch.purge.iter().cloned());
        let steps = (!options.steps.is_empty()).then_some(options.steps);
        let request = Self { steps, purge, force: launch.forces_foreign() };
        request.check_classes()?;
        Ok(request)
    }

    fn check_classes(&self) -> Result<()> {
        for class in &self.purge {
            if class != "all" && !CLASSES.contains(&class.as_str()) {
                bail!(
                    Failure::new(format!("`{class}` is no class of data"))
                        .exit(ExitCode::USAGE)
                        .kind("usage")
                        .hint(format!("the classes are {} and `all`", CLASSES.join(", ")))
                );
            }
        }
        Ok(())
    }

    fn grants(&self, class: Class) -> bool {
        let Some(word) = class.purge_word() else { return true };
        self.purge.iter().any(|granted| granted == "all" || granted == word)
    }
}

/// What a rollback would do.
pub fn preview(session: &mut Session, request: &Request) -> Result<Report> {
    let candidates = candidates(session.history(), session.plan(), request)?;
    let mut report = Report::default();
    for id in candidates {
        let Some(known) = session.history().change(id).cloned() else { continue };
        let mut row = row_of(&known);
        let (told, detail) = match preview_one(session, request, &known, &report, &mut row) {
            Ok(Undone::Back(..)) => (UndoTold::Would, None),
            Ok(Undone::Conflict(why)) => (UndoTold::Conflict, Some(why)),
            Ok(Undone::Kept(why)) => (UndoTold::Kept, Some(why)),
            Err(error) => (UndoTold::Failed, Some(format!("{error:#}"))),
        };
        row.detail = detail;
        tell(session, told, &row);
        match told {
            UndoTold::Conflict => report.conflicts.push(row),
            UndoTold::Kept => report.kept.push(row),
            UndoTold::Failed => report.failed.push(row),
            _ => report.undone.push(row),
        }
    }
    session.world.assumed_gone.borrow_mut().clear();
    Ok(report)
}

fn preview_one(
    session: &mut Session,
    request: &Request,
    known: &ChangeRecord,
    report: &Report,
    row: &mut Row,
) -> Result<Undone> {
    if let Some(why) = irreversible(known) {
        return Ok(Undone::Kept(why));
    }
    let change = Change::of_intent(&known.intent)?;
    if let Some(loss) = loss_of(session, known, &change)?.filter(|loss| !request.grants(loss.class)) {
        row.class = loss.class.purge_word();
        return Ok(Undone::Kept(format!("kept unless agreed to: {}", loss.what)));
    }
    let gone: Vec<ChangeId> = report.undone.iter().map(|row| row.change).collect();
    let undone = session.preview_undo(known.id, request.force, &gone)?;
    if matches!(undone, Undone::Back(..))
        && let Some((_, path)) = known.intent.target.split_once(":/")
    {
        session.world.assumed_gone.borrow_mut().insert(format!("/{path}").into());
    }
    Ok(undone)
}

/// Rolls back. Killed, it goes on when it is called again.
///
/// # Errors
/// When nothing can be recorded, when the run is told to stop, and when a step cannot be undone alone.
pub fn apply(session: &mut Session, request: &Request) -> Result<Report> {
    session.begin_undoing()?;
    if let Some(unfinished) = session.history().rollback.as_ref().filter(|known| known.plan != session.plan())
    {
        bail!(
            Failure::new(format!(
                "a rollback of `{}` was interrupted and has not been finished",
                unfinished.plan
            ))
            .hint(format!("finish it first with `{}`", unfinished.invocation()))
        );
    }
    let candidates = candidates(session.history(), session.plan(), request)?;
    let mut report = Report::default();
    if candidates.is_empty() {
        settle_what_is_complete(session, &[], &mut report)?;
        finish_empty(session, request)?;
        return Ok(report);
    }
    session.record(Entry::RollbackStarted { steps: request.steps.clone(), purge: request.purge.clone() })?;
    for (at, id) in candidates.iter().enumerate() {
        undo_one(session, request, *id, &mut report)?;
        settle_what_is_complete(session, &candidates[at + 1..], &mut report)?;
    }
    retry_failed(session, request, &mut report)?;
    settle_what_is_complete(session, &[], &mut report)?;
    session.record(Entry::RollbackEnded {
        undone: report.undone.len(),
        kept: report.kept.len(),
        conflicts: report.conflicts.len(),
        failed: report.failed.len(),
    })?;
    match &request.steps {
        Some(steps) => {
            for step in steps {
                session.record(Entry::StepHeld { step: step.clone() })?;
            }
        }
        None => {
            session.record(Entry::StepsReset { steps: None })?;
        }
    }
    Ok(report)
}

/// A rollback that finds no change still ends one that was interrupted after its last, and forgets progress.
fn finish_empty(session: &mut Session, request: &Request) -> Result<()> {
    if session.history().rollback.is_some() {
        session.record(Entry::RollbackEnded { undone: 0, kept: 0, conflicts: 0, failed: 0 })?;
    }
    let plan = session.plan().to_owned();
    let has_progress = session
        .history()
        .steps
        .iter()
        .any(|((of, _), record)| *of == plan && record.state != crate::journal::StepState::Pending);
    if request.steps.is_none() && has_progress {
        session.record(Entry::StepsReset { steps: None })?;
    }
    Ok(())
}

fn undo_one(session: &mut Session, request: &Request, id: ChangeId, report: &mut Report) -> Result<()> {
    let Some(known) = session.history().change(id).cloned() else { return Ok(()) };
    let mut row = row_of(&known);
    if let Some(why) = irreversible(&known) {
        return keep(session, row, why, report);
    }
    let change = match Change::of_intent(&known.intent) {
        Ok(change) => change,
        Err(error) => {
            session.record(Entry::UndoFailed { change: id, error: format!("{error:#}") })?;
            row.detail = Some(format!("{error:#}"));
            tell(session, UndoTold::Failed, &row);
            report.failed.push(row);
            return Ok(());
        }
    };
    match loss_of(session, &known, &change) {
        Ok(Some(loss)) if !agreed(session, request, &loss)? => {
            row.class = loss.class.purge_word();
            let word = loss.class.purge_word().unwrap_or("all");
            let why = format!("{}; `--purge {word}` agrees to lose it", loss.what);
            return keep(session, row, why, report);
        }
        Ok(_) => {}
        Err(error) => session.reporter().note(format!("{}: {error:#}", known.intent.target)),
    }
    match session.undo(id, request.force)? {
        ChangeState::Undone(how) => {
            let told =
                if how == crate::journal::Undoing::Already { UndoTold::Already } else { UndoTold::Undone };
            tell(session, told, &row);
            report.undone.push(row);
        }
        ChangeState::Conflict(why) => {
            let force = "\nto bring the state from before back over it: the same with `--foreign replace`";
            row.detail = Some(format!("{why}{force}"));
            tell(session, UndoTold::Conflict, &row);
            report.conflicts.push(row);
        }
        ChangeState::Kept(why) => {
            row.detail = Some(why);
            tell(session, UndoTold::Kept, &row);
            report.kept.push(row);
        }
        ChangeState::UndoFailed(error) => {
            row.detail = Some(error);
            tell(session, UndoTold::Failed, &row);
            report.failed.push(row);
        }
        _ => {}
    }
    Ok(())
}

/// An inverse may have failed because of something that another one has removed since.
fn retry_failed(session: &mut Session, request: &Request, report: &mut Report) -> Result<()> {
    for row in std::mem::take(&mut report.failed) {
        if row.change == 0 {
            report.failed.push(row);
        } else {
            undo_one(session, request, row.change, report)?;
        }
    }
    Ok(())
}

/// Runs what is owed by undone changes, as soon as no older change that wants the same is left.
fn settle_what_is_complete(session: &mut Session, left: &[ChangeId], report: &mut Report) -> Result<()> {
    for owed in session.history().owed.clone() {
        let consequence = owed.consequence.clone();
        let wanted_later = left.iter().any(|id| {
            session.history().change(*id).is_some_and(|change| change.intent.owed.contains(&consequence))
        });
        if wanted_later {
            continue;
        }
        if let Err(error) = session.settle(&consequence) {
            session.check_interruption()?;
            let row = Row {
                change: 0,
                step: None,
                target: "owed".to_owned(),
                summary: owed.sentence(),
                detail: Some(format!("{error:#}")),
                class: None,
            };
            if !report.failed.iter().any(|known| known.summary == row.summary) {
                tell(session, UndoTold::Failed, &row);
                report.failed.push(row);
            }
        }
    }
    Ok(())
}

fn keep(session: &mut Session, mut row: Row, why: String, report: &mut Report) -> Result<()> {
    session.record(Entry::Kept { change: row.change, why: why.clone() })?;
    row.detail = Some(why);
    tell(session, UndoTold::Kept, &row);
    report.kept.push(row);
    Ok(())
}

/// What would be lost: as the script named it, else as the kind sees it now.
fn loss_of(session: &Session, known: &ChangeRecord, change: &Change) -> Result<Option<Loss>> {
    match &known.intent.loses {
        Some(what) => Ok(Some(Loss { class: known.intent.class, what: what.clone() })),
        None => change.kind().loss(&session.world),
    }
}

fn irreversible(known: &ChangeRecord) -> Option<String> {
    let why = known.intent.loses.clone().unwrap_or_else(|| "it cannot be undone".to_owned());
    (known.intent.class == Class::Irreversible).then_some(why)
}

fn agreed(session: &Session, request: &Request, loss: &Loss) -> Result<bool> {
    if request.grants(loss.class) {
        return Ok(true);
    }
    let question =
        Question::Confirm { text: format!("Remove {}?", loss.what), default: false, harmless: false };
    Ok(matches!(session.world.reporter.ask(&question)?, Some(Answer::Yes)))
}

fn row_of(known: &ChangeRecord) -> Row {
    Row {
        change: known.id,
        step: known.intent.step.clone(),
        target: known.intent.target.clone(),
        summary: known.intent.summary.clone(),
        detail: None,
        class: None,
    }
}

fn tell(session: &Session, told: UndoTold, row: &Row) {
    session.world.reporter.tell(&Event::Undo {
        told,
        change: row.change,
        target: row.target.clone(),
        summary: row.summary.clone(),
        detail: row.detail.clone(),
    });
}

/// The live changes that a rollback is about, newest first.
fn candidates(history: &History, plan: &str, request: &Request) -> Result<Vec<ChangeId>> {
    let of_plan: Vec<&ChangeRecord> =
        history.changes.iter().filter(|change| change.plan == plan && change.is_live()).collect();
    let Some(steps) = &request.steps else {
        if of_plan.is_empty() && history.rollback.is_none() {
            refuse_foreign_plan(history, plan)?;
        }
        return Ok(of_plan.iter().rev().map(|change| change.id).collect());
    };
    let mut ids = Vec::new();
    for step in steps {
        if history.step(plan, step).is_none() {
            let known = history.steps.keys().filter(|(of, _)| of == plan).map(|(_, id)| id.as_str());
            let known: Vec<&str> = known.collect();
            bail!(
                Failure::new(format!("step `{step}` of {plan} was never run"))
                    .exit(ExitCode::USAGE)
                    .kind("usage")
                    .hint(format!("steps with a record: {}", known.join(", ")))
            );
        }
    }
    for change in of_plan.iter().rev() {
        let Some(step) = change.intent.step.as_deref().filter(|step| steps.iter().any(|named| named == step))
        else {
            continue;
        };
        if let Some(later) = needed_by(history, change, steps) {
            let mut needing = match &later.intent.step {
                Some(step) => format!("step {step}"),
                None => "a script without steps".to_owned(),
            };
            if later.plan != plan {
                needing = format!("{needing} of the plan `{}`", later.plan);
            }
            bail!(
                Failure::new(format!(
                    "step {step} cannot be undone alone: {} of {needing} needs {}",
                    later.intent.target, change.intent.target
                ))
                .hint(format!("undo {needing} as well, or everything"))
            );
        }
        ids.push(change.id);
    }
    Ok(ids)
}

/// A later live change, not of these steps, that needs what this one did.
fn needed_by<'a>(history: &'a History, change: &ChangeRecord, steps: &[String]) -> Option<&'a ChangeRecord> {
    history.changes.iter().find(|later| {
        let is_named =
            later.plan == change.plan && later.intent.step.as_ref().is_some_and(|step| steps.contains(step));
        later.id > change.id
            && later.is_live()
            && !is_named
            && needs(&later.intent.target, &change.intent.target)
    })
}

/// Whether the target `later` stands on the target `earlier`.
fn needs(later: &str, earlier: &str) -> bool {
    if later == earlier {
        return true;
    }
    let (Some((_, later)), Some((_, earlier))) = (later.split_once(':'), earlier.split_once(':')) else {
        return false;
    };
    earlier.starts_with('/') && later.starts_with(earlier) && later[earlier.len()..].starts_with(['/', '#'])
}

/// Nothing of this plan, but changes of others: not "nothing to undo".
fn refuse_foreign_plan(history: &History, plan: &str) -> Result<()> {
    let mut others: Vec<&str> =
        history.changes.iter().filter(|change| change.is_live()).map(|change| change.plan.as_str()).collect();
    others.sort_unstable();
    others.dedup();
    if others.is_empty() {
        return Ok(());
    }
    bail!(
        Failure::new(format!(
            "there is nothing to undo of the plan `{plan}`, but there are changes of others"
        ))
        .hint(format!("plans with changes: {}", others.join(", ")))
    )
}

#[cfg(test)]
mod tests {
    use super::needs;

    #[test]
    fn a_target_needs_itself_and_what_it_stands_in() {
        assert!(needs("file:/srv/a", "file:/srv/a"));
        assert!(needs("tree:/srv/a/b", "file:/srv/a"));
        assert!(needs("line:/srv/a#[s]key", "file:/srv/a"));
        assert!(!needs("file:/srv/ab", "file:/srv/a"));
        assert!(!needs("unit:a", "user:a"));
    }
}
