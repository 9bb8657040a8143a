//! Replays the journal: what is known of steps, changes, targets and what is pending.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::target::{Footprint, States, Target};

use super::index::Index;
use super::record::{
    BarePlan, ChangeId, Class, Entry, Fingerprint, Handler, Header, Intent, Record, Settling,
};
use super::state::ChangeState;

/// A change and what became of it.
#[derive(Clone, Debug)]
pub struct ChangeRecord {
    /// Its identity.
    pub id: ChangeId,
    /// The plan it belongs to.
    pub plan: String,
    /// The run that made it.
    pub run: String,
    /// When it was intended.
    pub time: Timestamp,
    /// What was intended.
    pub intent: Intent,
    /// Its state.
    pub state: ChangeState,
    /// The record that said last that it was made or undone; 0 before the first.
    pub settled: u64,
    /// How many of its undo commands have ended well.
    pub undo_commands: usize,
    /// What undoing it needs was removed.
    pub is_forgotten: bool,
    /// What was recorded of its target when it was intended.
    recorded_before: Option<Value>,
}

/// What a complete step asks for and found as desired when it ran. While the step counts as complete, what brought
/// that state is not undone without it.
#[derive(Clone, Debug)]
pub struct Claims {
    /// The record that says so: older changes are meant.
    pub at: u64,
    /// The targets.
    pub targets: Vec<Target>,
}

/// A recorded state, as kkrun left it.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The state.
    pub state: Value,
    /// The record that says so.
    pub at: u64,
}

impl ChangeRecord {
    /// It is about the content of a path.
    fn is_of_content(&self) -> bool {
        matches!(self.intent.what.as_str(), "file" | "tree" | "edit")
    }

    /// Its undoing began, and has not come to its end.
    pub fn undoing_began(&self) -> bool {
        matches!(self.state, ChangeState::Undoing | ChangeState::UndoFailed(_))
    }

    /// Something of it may be on the machine.
    pub fn is_live(&self) -> bool {
        self.state.is_live()
    }

    /// There is no way to undo it.
    pub fn is_irreversible(&self) -> bool {
        self.intent.class == Class::Irreversible
    }

    /// A rollback undoes it, or has not said yet that it cannot.
    pub fn awaits_rollback(&self) -> bool {
        self.is_live() && !(self.is_irreversible() && matches!(self.state, ChangeState::Kept(_)))
    }

    /// The step that it belongs to and, if it is not `plan`, its plan.
    pub fn whose(&self, plan: &str) -> String {
        whose(&self.plan, self.intent.step.as_deref(), plan)
    }

    /// What undoing it needs is removed: from now on it is one of those that cannot be undone.
    fn forget(&mut self, time: Timestamp) {
        self.is_forgotten = true;
        self.intent.class = Class::Irreversible;
        let day = time.strftime("%Y-%m-%d");
        self.intent.loses = Some(format!("forgotten on {day}: `kkrun forget` removed what undoing it needs"));
    }
}

/// The state of a step by its records alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// Not begun, forgotten, or undone.
    #[default]
    Pending,
    /// Begun, with no end recorded: running, or killed.
    Started,
    /// Complete.
    Complete,
    /// Failed.
    Failed,
    /// Stopped from outside.
    Interrupted,
    /// Rolled back alone; skipped until it is named.
    OnHold,
}

/// A step and what is known of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Its state.
    pub state: StepState,
    /// Its title when it last ran.
    pub title: String,
    /// Its script when it last ran.
    pub script: String,
    /// The run that touched it last.
    pub run: String,
    /// When it last began.
    pub started: Option<Timestamp>,
    /// When it last ended.
    pub finished: Option<Timestamp>,
    /// How long it took, in seconds.
    pub seconds: Option<f64>,
    /// How long it took when it last completed, in seconds.
    pub usual_seconds: Option<f64>,
    /// How often it was begun to come to where it is: since it was last complete before that, or forgotten.
    pub attempts: u32,
    /// Why it failed.
    pub error: Option<String>,
    /// What it meant when it completed.
    pub fingerprint: Option<Fingerprint>,
    /// The record that says so; 0 if it never was complete.
    pub completed: u64,
}

/// A handler that was triggered and is pending: of one step of one plan.
#[derive(Clone, Debug)]
pub struct PendingHandler {
    /// Never used for another.
    pub number: usize,
    /// The plan that has it.
    pub plan: String,
    /// The step that has it; none for a script without steps.
    pub step: Option<String>,
    /// What it does.
    pub handler: Handler,
    /// The changes that triggered it by being made or undone.
    pub changes: Vec<ChangeId>,
}

impl PendingHandler {
    /// One line for people.
    pub fn sentence(&self) -> String {
        self.handler.sentence()
    }

    fn is(&self, plan: &str, step: Option<&str>, handler: &Handler) -> bool {
        self.plan == plan && self.step.as_deref() == step && self.handler == *handler
    }
}

impl Handler {
    /// One line for people.
    pub fn sentence(&self) -> String {
        let whose = self.user.as_ref().map_or_else(String::new, |user| format!(" of {user}"));
        let commands = self.run.iter().map(shell_words::join);
        let restarts = self.restart.iter().map(|unit| format!("restart {unit}{whose}"));
        let parts: Vec<String> = commands.chain(restarts).collect();
        if parts.is_empty() { format!("test {}", shell_words::join(&self.test)) } else { parts.join(", ") }
    }
}

/// A restart of the machine that a step said is needed.
#[derive(Clone, Debug)]
pub struct Reboot {
    /// The plan.
    pub plan: String,
    /// The step; none for a script without steps.
    pub step: Option<String>,
    /// Why.
    pub why: String,
    /// The boot in which that was said.
    pub boot: String,
    /// What the step had changed by then; empty if that was nothing.
    changes: Vec<ChangeId>,
}

/// A rollback that has begun and not ended.
#[derive(Clone, Debug)]
pub struct UnfinishedRollback {
    /// Its plan.
    pub plan: String,
    /// Its steps; none for all.
    pub steps: Option<Vec<String>>,
    /// The classes it may lose.
    pub purge: Vec<String>,
    /// It overwrites conflicts.
    pub force: bool,
}

impl UnfinishedRollback {
    /// The command that finishes it.
    pub fn invocation(&self) -> String {
        let mut words = vec!["kkrun".to_owned(), "rollback".to_owned()];
        words.extend(self.steps.iter().flatten().cloned());
        if !self.purge.is_empty() {
            words.extend(["--purge".to_owned(), self.purge.join(",")]);
        }
        if self.force {
            words.extend(["--on-conflict", "overwrite"].map(str::to_owned));
        }
        words.extend(["--plan".to_owned(), self.plan.clone()]);
        shell_words::join(words)
    }
}

/// Changes, oldest first. To go through them is work for all of them: what is asked of one is found by its identity, or
/// in an [`Index`].
#[derive(Clone, Debug, Default)]
pub struct Changes {
    list: Vec<ChangeRecord>,
    /// They were left out: see [`Brief`].
    is_left_out: bool,
}

impl Changes {
    fn position(&self, id: ChangeId) -> Option<usize> {
        work::add(1);
        debug_assert!(!self.is_left_out, "a run that does nothing asks for no change");
        self.list.binary_search_by_key(&id, |change| change.id).ok()
    }

    /// The newest one.
    pub fn last(&self) -> Option<&ChangeRecord> {
        work::add(1);
        debug_assert!(!self.is_left_out, "a run that does nothing asks for no change");
        self.list.last()
    }
}

impl Deref for Changes {
    type Target = [ChangeRecord];

    fn deref(&self) -> &[ChangeRecord] {
        work::add(self.list.len());
        debug_assert!(!self.is_left_out, "a run that does nothing asks for no change");
        &self.list
    }
}

impl<'a> IntoIterator for &'a Changes {
    type Item = &'a ChangeRecord;
    type IntoIter = std::slice::Iter<'a, ChangeRecord>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// How many changes are looked at, for the tests of growth: those count work, and measure no time.
#[cfg(test)]
pub(crate) mod work {
    use std::cell::Cell;

    thread_local! {
        static DONE: Cell<usize> = const { Cell::new(0) };
    }

    pub(super) fn add(changes: usize) {
        DONE.set(DONE.get() + changes);
    }

    /// How many changes this thread looks at meanwhile.
    pub(crate) fn of(action: impl FnOnce()) -> usize {
        let before = DONE.get();
        action();
        DONE.get() - before
    }
}

#[cfg(not(test))]
mod work {
    pub(super) fn add(_: usize) {}
}

/// A run that recorded something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Its identity.
    pub run: String,
    /// The script as it was called, or the command.
    pub script: String,
    /// Where its plan comes from: a directory, or `built in`.
    pub root: String,
    /// When it recorded first.
    pub started: Timestamp,
    /// When it ended, with its exit status; none if it runs or was killed.
    pub ended: Option<(Timestamp, u8)>,
}

/// What of the history a run needs that finds nothing to do: all about steps, and nothing about changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Brief {
    steps: BTreeMap<String, BTreeMap<String, StepRecord>>,
    overrides: BTreeMap<String, BTreeMap<String, Value>>,
    bare_plans: BTreeMap<String, BarePlan>,
    runs: BTreeMap<String, usize>,
    last_run: Option<(String, Timestamp)>,
    last_runs: BTreeMap<String, RunRecord>,
    last_calls: BTreeMap<String, RunRecord>,
    pub(super) machine: String,
}

/// All that the journal says, in the form that decisions need.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The steps, by id, of each plan.
    pub steps: BTreeMap<String, BTreeMap<String, StepRecord>>,
    /// The claims of the steps, by plan and id.
    pub claims: BTreeMap<(String, String), Claims>,
    /// The changes, oldest first.
    pub changes: Changes,
    /// The targets into which a secret was ever written.
    pub secret_targets: BTreeSet<Target>,
    /// The newest recorded state of every target.
    pub ledger: BTreeMap<Target, Recorded>,
    /// The changes that the rollback undid which is under way, newest first.
    undone_in_rollback: Vec<ChangeId>,
    /// The targets of which the operator kept a conflict, with the desired state that it was kept against. What is
    /// there is the operator's: the ledger still says what kkrun left.
    pub kept_against: BTreeMap<Target, Value>,
    /// The pending handlers.
    pub pending: Vec<PendingHandler>,
    /// How many handlers were ever pending.
    ever_pending: usize,
    /// The remembered overrides by plan and name.
    pub overrides: BTreeMap<String, BTreeMap<String, Value>>,
    /// What was done once for good, with the changes that it made.
    pub once: BTreeMap<String, Vec<ChangeId>>,
    /// The plans that were nothing but steps, all of them complete, by name.
    pub bare_plans: BTreeMap<String, BarePlan>,
    /// How many runs recorded something, by plan.
    pub runs: BTreeMap<String, usize>,
    /// The newest run that recorded something: its identity and when.
    pub last_run: Option<(String, Timestamp)>,
    /// The newest run that recorded something, by plan.
    pub last_runs: BTreeMap<String, RunRecord>,
    /// The newest run that began a step, by plan: how the plan is called.
    pub last_calls: BTreeMap<String, RunRecord>,
    /// A rollback that has begun and not ended.
    pub rollback: Option<UnfinishedRollback>,
    /// The identity of the machine that the journal is of; empty if it had none.
    pub machine: String,
    reboots: Vec<Reboot>,
    /// The newest boot of which there are records, and the first of them.
    newest_boot: Option<(String, u64)>,
    /// The live changes.
    live: Index,
    /// Those that are void or undone.
    over: Index,
    /// Those of owners and modes of trees, live or not.
    access: Index,
    /// The live changes by plan and step.
    live_by_step: BTreeMap<String, BTreeMap<Option<String>, BTreeSet<ChangeId>>>,
    /// Those whose making or undoing has begun, and not come to its end.
    open: BTreeSet<ChangeId>,
    /// The live ones to targets of which only the machine tells what relies on them.
    live_of_machine: BTreeSet<ChangeId>,
}

impl History {
    /// What a run needs that finds nothing to do; nothing if something is left to do whatever the plan says.
    pub(super) fn brief(&self) -> Option<Brief> {
        let is_settled = self.open.is_empty()
            && self.pending.is_empty()
            && self.reboots.is_empty()
            && self.rollback.is_none()
            && !self.bare_plans.is_empty();
        (is_settled && !self.is_brief()).then(|| self.about_steps())
    }

    pub(super) fn about_steps(&self) -> Brief {
        Brief {
            steps: self.steps.clone(),
            overrides: self.overrides.clone(),
            bare_plans: self.bare_plans.clone(),
            runs: self.runs.clone(),
            last_run: self.last_run.clone(),
            last_runs: self.last_runs.clone(),
            last_calls: self.last_calls.clone(),
            machine: self.machine.clone(),
        }
    }

    /// The history without its changes, of which none may be asked for.
    pub(super) fn of_brief(brief: Brief) -> Self {
        let Brief { steps, overrides, bare_plans, runs, last_run, last_runs, last_calls, machine } = brief;
        let changes = Changes { list: Vec::new(), is_left_out: true };
        Self {
            steps,
            changes,
            overrides,
            bare_plans,
            runs,
            last_run,
            last_runs,
            last_calls,
            machine,
            ..Self::default()
        }
    }

    /// Whether the changes were left out: then nothing may be recorded on the strength of it.
    pub fn is_brief(&self) -> bool {
        self.changes.is_left_out
    }

    /// Whether what is recorded at this target was recorded in this boot.
    pub fn is_recorded_in(&self, boot: &str, target: &Target) -> bool {
        let since = self.newest_boot.as_ref().filter(|(newest, _)| newest == boot).map(|(_, since)| *since);
        let recorded = self.ledger.get(target).map(|recorded| recorded.at);
        recorded.zip(since).is_some_and(|(at, since)| at >= since)
    }

    /// The change of this identity.
    pub fn change(&self, id: ChangeId) -> Option<&ChangeRecord> {
        self.changes.position(id).map(|at| &self.changes.list[at])
    }

    /// The step of this plan and id.
    pub fn step(&self, plan: &str, id: &str) -> Option<&StepRecord> {
        self.steps.get(plan)?.get(id)
    }

    /// The steps of a plan that something is recorded of, by id.
    pub fn steps_of<'a>(
        &'a self,
        plan: &str,
    ) -> impl Iterator<Item = (&'a String, &'a StepRecord)> + use<'a> {
        self.steps.get(plan).into_iter().flatten()
    }

    /// The live changes of a step.
    pub fn live_changes_of<'a>(
        &'a self,
        plan: &'a str,
        step: &'a str,
    ) -> impl Iterator<Item = &'a ChangeRecord> {
        self.live_of(plan, Some(step))
    }

    fn live_of(&self, plan: &str, step: Option<&str>) -> impl Iterator<Item = &ChangeRecord> {
        let ids = self.live_by_step.get(plan).and_then(|steps| steps.get(&step.map(str::to_owned)));
        ids.into_iter().flatten().filter_map(|id| self.change(*id))
    }

    /// The changes that were made before this step completed, are undone since, and were not made again. Those of a step
    /// that completed after the undo are not among them: the plan does not ask for them any more.
    pub fn undone_behind(&self, plan: &str, step: &str) -> Vec<&ChangeRecord> {
        let completed = |plan: &str, step: &str| {
            let known = self.step(plan, step).filter(|known| known.state == StepState::Complete);
            known.map_or(0, |known| known.completed)
        };
        let since = completed(plan, step);
        let is_behind = |change: &&ChangeRecord| {
            matches!(change.state, ChangeState::Undone(_))
                && change.id < since
                && change.settled > since
                && change.intent.step.as_deref().map_or(0, |step| completed(&change.plan, step))
                    < change.settled
                && self
                    .live_at(&change.intent.target)
                    .next_back()
                    .is_none_or(|newer| newer.id < change.settled)
        };
        self.changes.iter().filter(is_behind).collect()
    }

    /// The paths at which changes to other targets than this product, made or undone since it is recorded, may have
    /// changed what is in it. A path above it stands for all of it.
    pub fn touched_beside(&self, product: &Target) -> Vec<PathBuf> {
        let (Some(root), Some(recorded)) = (product.path(), self.ledger.get(product)) else {
            return Vec::new();
        };
        let is_since = |change: &&ChangeRecord| change.id.max(change.settled) > recorded.at;
        let others = self.changes.iter().filter(|change| change.intent.target != *product).filter(is_since);
        let paths = others.filter_map(|change| change.intent.target.path());
        paths.filter(|path| path.starts_with(root) || root.starts_with(path)).map(Path::to_owned).collect()
    }

    /// Whether changes of another plan are live.
    pub fn has_live_changes_beside(&self, plan: &str) -> bool {
        self.live_by_step.iter().any(|(of, steps)| of != plan && steps.values().any(|ids| !ids.is_empty()))
    }

    /// The live changes of other plans.
    pub fn live_beside(&self, plan: &str) -> BTreeSet<ChangeId> {
        let beside = self.live_by_step.iter().filter(|(of, _)| *of != plan);
        beside.flat_map(|(_, steps)| steps.values().flatten().copied()).collect()
    }

    /// The changes that are in doubt, oldest first.
    pub fn in_doubt(&self) -> impl DoubleEndedIterator<Item = &ChangeRecord> {
        self.open().filter(|change| change.state == ChangeState::InDoubt)
    }

    /// The changes whose making or undoing has begun and not come to its end, oldest first.
    pub fn open(&self) -> impl DoubleEndedIterator<Item = &ChangeRecord> {
        self.open.iter().filter_map(|id| self.change(*id))
    }

    /// The live changes by target and path.
    pub fn live(&self) -> &Index {
        &self.live
    }

    /// The changes of these identities, in their order.
    pub fn changes_of<'a>(
        &'a self,
        ids: &'a [ChangeId],
    ) -> impl DoubleEndedIterator<Item = &'a ChangeRecord> {
        ids.iter().filter_map(|id| self.change(*id))
    }

    /// The live changes to a target, oldest first.
    pub fn live_at<'a>(&'a self, target: &Target) -> impl DoubleEndedIterator<Item = &'a ChangeRecord> {
        self.changes_of(self.live.at(target))
    }

    /// The newest change to a target, live or not.
    pub fn newest_at(&self, target: &Target) -> Option<&ChangeRecord> {
        let newest = [&self.live, &self.over].map(|index| index.at(target).last().copied());
        self.change(newest.into_iter().flatten().max()?)
    }

    /// The changes to parts of the text at a path that are void or undone.
    pub fn parts_over_at(&self, path: &Path) -> impl Iterator<Item = &ChangeRecord> {
        self.changes_of(self.over.parts_at(path))
    }

    /// The changes of owners and modes at a path, above it and below it, live or not.
    pub fn access_meeting<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = &'a ChangeRecord> {
        let ids = self.access.above(path).chain(self.access.below(path));
        ids.flat_map(|ids| self.changes_of(ids))
    }

    /// What of `asked` this step claims: another step, or its own plan's none, may have brought it since the step itself
    /// changed it last.
    pub fn claimed_by(&self, plan: &str, step: &str, asked: BTreeSet<Target>) -> Vec<Target> {
        let is_own =
            |change: &ChangeRecord| change.plan == plan && change.intent.step.as_deref() == Some(step);
        let is_of_others = |change: &&ChangeRecord| change.is_live() && !is_own(change);
        let mut of_machine = self.live_of_machine.iter().rev().filter_map(|id| self.change(*id));
        let of_machine = of_machine.find(is_of_others).map(|change| change.id);
        let is_claim = |target: &Target| {
            let own = self.live_at(target).rev().find(|change| is_own(change)).map_or(0, |change| change.id);
            let may_rely = |change: &ChangeRecord| {
                change.id > own
                    && is_of_others(&change)
                    && Footprint::of(target).depends_on(&change.intent.footprint())
            };
            of_machine.is_some_and(|id| id > own)
                || if let Target::Unit { .. } = target {
                    // A unit runs by a file, which is found by its name alone.
                    self.changes.iter().any(may_rely)
                } else {
                    let sharing = self.live.sharing(target).flat_map(|ids| self.changes_of(ids));
                    let path = target.path().filter(|_| matches!(target, Target::Access(_)));
                    let access = path.into_iter().flat_map(|path| self.access_meeting(path));
                    sharing.chain(access).any(may_rely)
                }
        };
        asked.into_iter().filter(is_claim).collect()
    }

    /// What is recorded at this target by its own records.
    pub fn recorded(&self, target: &Target) -> Option<&Value> {
        self.ledger.get(target).map(|recorded| &recorded.state)
    }

    /// Whether a secret was ever written to this target, to a part of it or to the whole that it is a part of.
    pub fn held_secret(&self, target: &Target) -> bool {
        let is_another_part = |held: &Target| held != target && held.is_part() && target.is_part();
        self.secret_targets.iter().any(|held| held.overlaps(target) && !is_another_part(held))
    }

    /// Whether this record may be the next one.
    ///
    /// # Errors
    /// With the reason, when it may not.
    pub fn check(&self, entry: &Entry) -> Result<()> {
        self.next_state(entry)?;
        match entry {
            Entry::Recorded { target, .. } | Entry::ConflictKept { target, .. } => {
                let is_being_changed = !self.live.at(target).is_empty();
                ensure!(
                    self.ledger.contains_key(target)
                        || self.kept_against.contains_key(target)
                        || is_being_changed,
                    "records a state of {target}, which was never changed"
                );
            }
            Entry::LeftTo { change, .. } => {
                let is_live = self.change(*change).is_some_and(ChangeRecord::is_live);
                ensure!(is_live, "leaves change {change}, which is not live, to another step");
            }
            Entry::Once { changes, .. } | Entry::Forgotten { changes } => {
                let unknown = changes.iter().find(|id| self.change(**id).is_none());
                if let Some(id) = unknown {
                    bail!("names change {id}, of which no intent is recorded");
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// What becomes of the change that this record is about, if it is about one.
    fn next_state(&self, entry: &Entry) -> Result<Option<(usize, ChangeState)>> {
        let Some((id, says)) = entry.of_change() else { return Ok(None) };
        let Some(at) = self.changes.position(id) else {
            bail!("says `{says}` of change {id}, of which no intent is recorded")
        };
        let known = &self.changes.list[at];
        let next = match known.state.next(entry) {
            Ok(next) => next,
            Err(why) => bail!("says `{says}` of change {id}, {why}"),
        };
        if let Entry::Done { recorded, .. }
        | Entry::UndoCommand { recorded, .. }
        | Entry::Undone { recorded, .. } = entry
            && let Some(other) = recorded.keys().find(|target| !known.intent.is_about(target))
        {
            bail!("says `{says}` of change {id} with a state of {other}, which that change is not about");
        }
        Ok(Some((at, next)))
    }

    /// Takes in one more record.
    ///
    /// # Errors
    /// As [`History::check`]; then nothing is taken in.
    #[expect(clippy::too_many_lines, reason = "one arm for every kind of record")]
    pub fn apply(&mut self, record: Record) -> Result<()> {
        let Record { header, entry } = record;
        self.check(&entry)?;
        if let Some((at, state)) = self.next_state(&entry)? {
            self.enter_state(at, state);
        }
        if self.newest_boot.as_ref().is_none_or(|(boot, _)| *boot != header.boot) {
            self.newest_boot = Some((header.boot.clone(), header.seq));
        }
        let time = header.time;
        match entry {
            Entry::Format { machine, .. } | Entry::JournalAccepted { machine } => self.machine = machine,
            Entry::RunStarted { script, root, .. } => {
                *self.runs.entry(header.plan.clone()).or_default() += 1;
                self.last_run = Some((header.run.clone(), time));
                let begun = RunRecord { run: header.run, script, root, started: time, ended: None };
                self.last_runs.insert(header.plan, begun);
            }
            Entry::OverrideSet { key, value } => {
                self.overrides.entry(header.plan).or_default().insert(key, value);
            }
            Entry::OverrideUnset { key } => {
                self.overrides.entry(header.plan).or_default().remove(&key);
            }
            Entry::StepStarted { step, title, script } => {
                if let Some(begun) = self.last_runs.get(&header.plan).filter(|begun| begun.run == header.run)
                    && self.last_calls.get(&header.plan).is_none_or(|known| known.run != begun.run)
                {
                    self.last_calls.insert(header.plan.clone(), begun.clone());
                }
                let known = self.step_mut(header, step);
                known.attempts = if known.state == StepState::Complete { 1 } else { known.attempts + 1 };
                known.state = StepState::Started;
                known.title = title;
                known.script = script;
                known.started = Some(time);
                known.finished = None;
                known.seconds = None;
                known.error = None;
            }
            Entry::StepCompleted { step, seconds, fingerprint, claims } => {
                let (key, seq) = ((header.plan.clone(), step.clone()), header.seq);
                if claims.is_empty() {
                    self.claims.remove(&key);
                } else {
                    self.claims.insert(key, Claims { at: header.seq, targets: claims });
                }
                let known = self.step_mut(header, step);
                known.end(StepState::Complete, time, seconds);
                known.usual_seconds = Some(seconds);
                known.fingerprint = Some(fingerprint);
                known.completed = seq;
                known.error = None;
            }
            Entry::StepFailed { step, seconds, error, .. } => {
                let known = self.step_mut(header, step);
                known.end(StepState::Failed, time, seconds);
                known.error = Some(error);
            }
            Entry::StepInterrupted { step, seconds, signal } => {
                let known = self.step_mut(header, step);
                known.end(StepState::Interrupted, time, seconds);
                known.error = Some(format!("stopped by {signal}"));
            }
            Entry::StepOnHold { step } => {
                self.claims.remove(&(header.plan.clone(), step.clone()));
                self.step_mut(header, step).state = StepState::OnHold;
            }
            Entry::StepAccepted { step, title, script, fingerprint } => {
                let seq = header.seq;
                let known = self.step_mut(header, step);
                (known.title, known.script) = (title, script);
                known.end(StepState::Complete, time, 0.0);
                known.fingerprint = Some(fingerprint);
                known.completed = seq;
            }
            Entry::StepsReset { steps } => {
                self.claims.retain(|(plan, step), _| {
                    *plan != header.plan || steps.as_ref().is_some_and(|named| !named.contains(step))
                });
                for (id, known) in self.steps.get_mut(&header.plan).into_iter().flatten() {
                    if steps.as_ref().is_none_or(|named| named.contains(id)) {
                        let (title, usual_seconds) = (known.title.clone(), known.usual_seconds);
                        *known = StepRecord { title, usual_seconds, ..StepRecord::default() };
                    }
                }
            }
            Entry::Once { key, changes } => {
                self.once.insert(key, changes);
            }
            Entry::Forgotten { changes } => {
                for id in changes {
                    if let Some(change) = self.change_mut(id) {
                        change.forget(time);
                    }
                }
            }
            Entry::Intent(intent) => self.intend(header, *intent),
            Entry::Done { change, recorded } => {
                // What a command makes of the paths that it names is known only now.
                if let Some(known) = self.change_mut(change)
                    && known.intent.what == "captured"
                    && let Some(state) = recorded.get(&known.intent.target)
                {
                    known.intent.after = state.clone();
                }
                self.settled_at(change, header.seq);
                self.accept(change, recorded, header.seq);
            }
            Entry::Void { change, .. } => {
                self.forget_pending_of(change);
            }
            Entry::Recorded { target, state } => {
                self.kept_against.remove(&target);
                self.ledger.insert(target, Recorded { state, at: header.seq });
            }
            Entry::ConflictKept { target, against } => {
                self.kept_against.insert(target, against);
            }
            Entry::Triggered { step, handler, changes } => {
                for id in changes {
                    self.trigger(&header.plan, step.as_deref(), &handler, id);
                    if let Some(change) = self.change_mut(id)
                        && !change.intent.pending.contains(&handler)
                    {
                        change.intent.pending.push(handler.clone());
                    }
                }
            }
            Entry::Settled { step, handler, how } => {
                self.settle_pending(&header.plan, step.as_deref(), &handler, how);
            }
            Entry::RebootPending { step, why } => self.need_reboot(header, step, why),
            Entry::RollbackStarted { steps, purge, force } => {
                self.rollback = Some(UnfinishedRollback { plan: header.plan, steps, purge, force });
                self.undone_in_rollback.clear();
            }
            Entry::UndoCommand { change, recorded } => {
                if let Some(change) = self.change_mut(change) {
                    change.undo_commands += 1;
                }
                self.accept(change, recorded, header.seq);
            }
            Entry::Undone { change, recorded, .. } => {
                self.settled_at(change, header.seq);
                self.accept(change, recorded, header.seq);
                self.disown_what_came_back(change);
                if self.rollback.is_some() {
                    self.undone_in_rollback.push(change);
                }
                self.once.retain(|_, changes| !changes.contains(&change));
                self.become_pending(change);
            }
            Entry::LeftTo { change, plan, step, .. } => {
                if let Some(known) = self.change_mut(change) {
                    let of = std::mem::replace(&mut known.plan, plan.clone());
                    let of_step = std::mem::replace(&mut known.intent.step, step.clone());
                    if self.live_of_step_mut(of, of_step).remove(&change) {
                        self.live_of_step_mut(plan, step).insert(change);
                    }
                }
            }
            Entry::RollbackEnded { .. } => {
                if let Some(UnfinishedRollback { plan, steps, .. }) = self.rollback.take() {
                    let is_rolled_back = |step: &Option<String>| match (&steps, step) {
                        (None, _) => true,
                        (Some(steps), Some(step)) => steps.contains(step),
                        (Some(_), None) => false,
                    };
                    let goes = |reboot: &Reboot| {
                        reboot.changes.is_empty() && reboot.plan == plan && is_rolled_back(&reboot.step)
                    };
                    self.reboots.retain(|reboot| !goes(reboot));
                    self.disown_what_was_modified();
                }
            }
            Entry::RunEnded { exit, bare } => {
                if let Some(begun) =
                    self.last_runs.get_mut(&header.plan).filter(|begun| begun.run == header.run)
                {
                    begun.ended = Some((time, exit));
                }
                if let Some(bare) = bare {
                    self.bare_plans.insert(header.plan, bare);
                }
            }
            Entry::UndoIntent { .. }
            | Entry::Conflict { .. }
            | Entry::Kept { .. }
            | Entry::UndoFailed { .. }
            | Entry::Checkpoint
            | Entry::ContinueAfterReboot
            | Entry::Armed
            | Entry::Confirmed
            | Entry::Adopted => {}
        }
        Ok(())
    }

    /// Whether the change was intended by the newest run.
    pub fn is_of_newest_run(&self, change: &ChangeRecord) -> bool {
        self.last_run.as_ref().is_some_and(|(newest, _)| *newest == change.run)
    }

    fn enter_state(&mut self, at: usize, state: ChangeState) {
        let change = &mut self.changes.list[at];
        change.state = state;
        if change.state == ChangeState::InDoubt || change.undoing_began() {
            self.open.insert(change.id);
        } else {
            self.open.remove(&change.id);
        }
        if !change.is_live() {
            self.live.remove(&change.intent.target, change.id);
            self.live_of_machine.remove(&change.id);
            self.over.insert(&change.intent.target, change.id);
            let (id, plan, step) = (change.id, change.plan.clone(), change.intent.step.clone());
            self.live_of_step_mut(plan, step).remove(&id);
        }
    }

    fn live_of_step_mut(&mut self, plan: String, step: Option<String>) -> &mut BTreeSet<ChangeId> {
        self.live_by_step.entry(plan).or_default().entry(step).or_default()
    }

    fn step_mut(&mut self, header: Header, step: String) -> &mut StepRecord {
        let known = self.steps.entry(header.plan).or_default().entry(step).or_default();
        known.run = header.run;
        known
    }

    fn intend(&mut self, header: Header, intent: Intent) {
        let Header { seq: id, plan, run, time, .. } = header;
        for handler in &intent.pending {
            self.trigger(&plan, intent.step.as_deref(), handler, id);
        }
        if intent.holds_secret {
            self.secret_targets.insert(intent.target.clone());
        }
        let recorded_before = self.recorded(&intent.target).cloned();
        self.live.insert(&intent.target, id);
        if matches!(intent.target, Target::Access(_)) {
            self.access.insert(&intent.target, id);
        }
        self.live_of_step_mut(plan.clone(), intent.step.clone()).insert(id);
        self.open.insert(id);
        if intent.target.is_of_machine() {
            self.live_of_machine.insert(id);
        }
        self.changes.list.push(ChangeRecord {
            id,
            plan,
            run,
            time,
            intent,
            state: ChangeState::InDoubt,
            settled: 0,
            undo_commands: 0,
            is_forgotten: false,
            recorded_before,
        });
    }

    fn trigger(&mut self, plan: &str, step: Option<&str>, handler: &Handler, change: ChangeId) {
        if let Some(pending) = self.pending.iter_mut().find(|pending| pending.is(plan, step, handler)) {
            if !pending.changes.contains(&change) {
                pending.changes.push(change);
            }
            return;
        }
        self.ever_pending += 1;
        self.pending.push(PendingHandler {
            number: self.ever_pending,
            plan: plan.to_owned(),
            step: step.map(str::to_owned),
            handler: handler.clone(),
            changes: vec![change],
        });
    }

    fn settle_pending(&mut self, plan: &str, step: Option<&str>, handler: &Handler, how: Settling) {
        let Some(at) = self.pending.iter().position(|pending| pending.is(plan, step, handler)) else {
            return;
        };
        let mut pending = self.pending.remove(at);
        let is_live = |id: &ChangeId| self.change(*id).is_some_and(ChangeRecord::is_live);
        match how {
            Settling::Ran if pending.changes.iter().all(is_live) => {
                // What was not undone after a failed test has passed it now.
                for id in pending.changes {
                    if let Some(change) = self.change_mut(id)
                        && matches!(change.state, ChangeState::Kept(_) | ChangeState::Conflict(_))
                    {
                        change.state = ChangeState::Done;
                    }
                }
            }
            Settling::Undone => {
                pending.changes.retain(is_live);
                if !pending.changes.is_empty() {
                    self.pending.insert(at, pending);
                }
            }
            Settling::Replaced | Settling::Dropped => {
                for id in pending.changes {
                    if let Some(change) = self.change_mut(id) {
                        change.intent.pending.retain(|known| known != handler);
                    }
                }
            }
            Settling::Ran => {}
        }
    }

    fn need_reboot(&mut self, header: Header, step: Option<String>, why: String) {
        let Header { plan, boot, .. } = header;
        let is_left = |change: &&ChangeRecord| is_left(change);
        let changes = self.live_of(&plan, step.as_deref()).filter(is_left).map(|change| change.id).collect();
        self.reboots.retain(|known| !(known.plan == plan && known.step == step && known.why == why));
        self.reboots.push(Reboot { plan, step, why, boot, changes });
    }

    /// The restarts that are needed in this boot, because what was said to need them is left.
    pub fn reboots<'a>(&'a self, boot: &'a str) -> impl Iterator<Item = &'a Reboot> + use<'a> {
        let stands = |id: &ChangeId| self.change(*id).is_some_and(is_left);
        self.reboots.iter().filter(move |reboot| {
            reboot.boot == boot && (reboot.changes.is_empty() || reboot.changes.iter().any(stands))
        })
    }

    fn forget_pending_of(&mut self, change: ChangeId) {
        for pending in &mut self.pending {
            pending.changes.retain(|id| *id != change);
        }
        self.pending.retain(|pending| !pending.changes.is_empty());
    }

    fn change_mut(&mut self, id: ChangeId) -> Option<&mut ChangeRecord> {
        self.changes.position(id).map(|at| &mut self.changes.list[at])
    }

    fn settled_at(&mut self, id: ChangeId, at: u64) {
        if let Some(change) = self.change_mut(id) {
            change.settled = at;
        }
    }

    fn accept(&mut self, change: ChangeId, recorded: States, at: u64) {
        let keeps_content = self.change(change).is_some_and(|change| change.intent.keeps_content);
        for (target, state) in recorded {
            if !keeps_content {
                self.kept_against.remove(&target);
            }
            self.ledger.insert(target, Recorded { state, at });
        }
    }

    /// Undoing a change to something unrecorded restores that. The restored state is not kkrun's: an older change to
    /// the same target, whose outcome was never known, must find it unrecorded, as before.
    fn disown_what_came_back(&mut self, id: ChangeId) {
        let Some(change) = self.change(id) else { return };
        let target = change.intent.target.clone();
        if change.is_of_content() && change.recorded_before.is_none() && self.has_older(&target, id) {
            self.ledger.remove(&target);
        }
    }

    /// What a rollback restored above an older change may be what the operator had made of that one's target. It is
    /// compared with what was recorded then, as it was before the change that was undone: by the next rollback, because this
    /// one was asked to restore all that it undoes.
    fn disown_what_was_modified(&mut self) {
        for id in std::mem::take(&mut self.undone_in_rollback) {
            let Some(change) = self.change(id).filter(|change| change.is_of_content()) else { continue };
            let target = change.intent.target.clone();
            if let Some(state) = change.recorded_before.clone().filter(|_| self.has_older(&target, id))
                && let Some(recorded) = self.ledger.get_mut(&target)
            {
                recorded.state = state;
            }
        }
    }

    /// Whether an older change to a target is live.
    fn has_older(&self, target: &Target, id: ChangeId) -> bool {
        self.live.at(target).first().is_some_and(|oldest| *oldest < id)
    }

    /// A step with something undone no longer holds, and the undo triggers the same handlers as the change
    /// did.
    fn become_pending(&mut self, id: ChangeId) {
        let Some(change) = self.change(id) else { return };
        let (plan, intent) = (change.plan.clone(), change.intent.clone());
        if let Some(step) = &intent.step
            && let Some(known) = self.steps.get_mut(&plan).and_then(|steps| steps.get_mut(step))
            && known.state != StepState::OnHold
        {
            known.state = StepState::Pending;
            known.fingerprint = None;
        }
        for handler in &intent.pending {
            self.trigger(&plan, intent.step.as_deref(), handler, id);
        }
    }
}

/// A step, or none, of a plan and, if that is not `plan`, its plan.
pub fn whose(of: &str, step: Option<&str>, plan: &str) -> String {
    let step = step.map_or_else(|| "a script without steps".to_owned(), |step| format!("step {step}"));
    if of == plan { step } else { format!("{step} of the plan `{of}`") }
}

/// Whether a change is live and is not data that a rollback kept.
fn is_left(change: &ChangeRecord) -> bool {
    change.is_live() && !matches!(change.state, ChangeState::Kept(_))
}

impl StepRecord {
    fn end(&mut self, state: StepState, time: Timestamp, seconds: f64) {
        self.state = state;
        self.finished = Some(time);
        self.seconds = Some(seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A history of these records, each of the plan `plan`.
    fn history(entries: Vec<Entry>) -> History {
        let mut history = History::default();
        for (seq, entry) in (1..).zip(entries) {
            let (run, boot, plan) = ("r".to_owned(), "b".to_owned(), "plan".to_owned());
            let time = Timestamp::UNIX_EPOCH;
            let header =
                Header { seq, prev: String::new(), run, boot, time, plan, unsynced: 0, skippable: false };
            history.apply(Record { header, entry }).unwrap();
        }
        history
    }

    fn started() -> Entry {
        Entry::StepStarted { step: "01".into(), title: "one".into(), script: "inline".into() }
    }

    fn completed() -> Entry {
        let (step, fingerprint, claims) = ("01".into(), Fingerprint::default(), Vec::new());
        Entry::StepCompleted { step, seconds: 2.0, fingerprint, claims }
    }

    fn failed() -> Entry {
        Entry::StepFailed { step: "01".into(), seconds: 1.0, error: "no".into(), place: None }
    }

    #[test]
    fn attempts_are_counted_from_the_last_time_that_the_step_was_complete() {
        let attempts = |entries: Vec<Entry>| history(entries).step("plan", "01").unwrap().attempts;
        assert_eq!(attempts(vec![started(), completed()]), 1);
        assert_eq!(attempts(vec![started(), failed(), started(), completed()]), 2);
        assert_eq!(attempts(vec![started(), failed(), started(), completed(), started()]), 1);
        let reset = Entry::StepsReset { steps: None };
        assert_eq!(attempts(vec![started(), failed(), reset, started()]), 1);
    }

    #[test]
    fn step_is_in_the_state_that_its_last_record_says() {
        let state = |entries: Vec<Entry>| history(entries).step("plan", "01").unwrap().state;
        assert_eq!(state(vec![started()]), StepState::Started);
        assert_eq!(state(vec![started(), failed()]), StepState::Failed);
        assert_eq!(state(vec![started(), completed()]), StepState::Complete);
        let on_hold = Entry::StepOnHold { step: "01".into() };
        assert_eq!(state(vec![started(), completed(), on_hold]), StepState::OnHold);
        let reset = Entry::StepsReset { steps: Some(vec!["02".into()]) };
        assert_eq!(state(vec![started(), completed(), reset]), StepState::Complete);
    }

    #[test]
    fn rollback_is_unfinished_between_its_two_records() {
        let begun = || Entry::RollbackStarted { steps: None, purge: Vec::new(), force: false };
        assert!(history(vec![begun()]).rollback.is_some());
        let ended = Entry::RollbackEnded { undone: 0, kept: 0, conflicts: 0, failed: 0 };
        assert!(history(vec![begun(), ended]).rollback.is_none());
    }

    #[test]
    fn record_about_an_unknown_change_is_refused_and_changes_nothing() {
        let history = history(vec![started()]);
        let error = history.check(&Entry::Done { change: 9, recorded: States::new() }).unwrap_err();
        assert!(error.to_string().contains("change 9, of which no intent is recorded"), "{error}");
    }
}
