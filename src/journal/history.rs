//! What is known from the journal: of steps, changes, targets and what is pending.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::change_record::{ChangeRecord, Changes, Recorded};
use super::index::Index;
use super::live_count::{LiveCount, LiveInStep};
use super::pending::{PendingHandler, Reboot};
use super::record::{BarePlan, ChangeId};
use super::state::ChangeState;
use super::step_record::{RunRecord, StepRecord, StepState};
use crate::target::{Footprint, Target};

/// What a complete step asks for and found as desired when it ran. While the step counts as complete, what brought
/// that state is not undone without it.
#[derive(Clone, Debug)]
pub struct Claims {
    /// The record that says so: older changes are meant.
    pub at: u64,
    /// The targets.
    pub targets: Vec<Target>,
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

/// What of the history a run needs that finds nothing to do, and what is shown of the state of a plan: all about steps,
/// and of changes their numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Brief {
    steps: BTreeMap<String, BTreeMap<String, StepRecord>>,
    overrides: BTreeMap<String, BTreeMap<String, Value>>,
    bare_plans: BTreeMap<String, BarePlan>,
    runs: BTreeMap<String, usize>,
    last_run: Option<(String, Timestamp)>,
    last_runs: BTreeMap<String, RunRecord>,
    last_calls: BTreeMap<String, RunRecord>,
    live: Vec<LiveInStep>,
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
    pub(super) undone_in_rollback: Vec<ChangeId>,
    /// The targets of which the operator kept a conflict, with the desired state that it was kept against. What is
    /// there is the operator's: the ledger still says what kkrun left.
    pub kept_against: BTreeMap<Target, Value>,
    /// The pending handlers.
    pub pending: Vec<PendingHandler>,
    /// How many handlers were ever pending.
    pub(super) ever_pending: usize,
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
    pub(super) reboots: Vec<Reboot>,
    /// The newest boot of which there are records, and the first of them.
    pub(super) newest_boot: Option<(String, u64)>,
    /// The live changes.
    pub(super) live: Index,
    /// Those that are void or undone.
    pub(super) over: Index,
    /// Those of owners and modes of trees, live or not.
    pub(super) access: Index,
    /// The live changes by plan and step.
    pub(super) live_by_step: BTreeMap<String, BTreeMap<Option<String>, BTreeSet<ChangeId>>>,
    /// Those whose making or undoing has begun, and not come to its end.
    pub(super) open: BTreeSet<ChangeId>,
    /// Those of which not all is synced that they made: they are done while the machine runs, and in doubt after a restart.
    pub(super) unsynced: BTreeSet<ChangeId>,
    /// The live ones to targets of which only the machine tells what relies on them.
    pub(super) live_of_machine: BTreeSet<ChangeId>,
    /// How many are live, where they were left out.
    counted: Vec<LiveInStep>,
}

impl History {
    /// Whether the newest run of a plan that recorded something began steps and was stopped or killed.
    pub fn was_interrupted(&self, plan: &str) -> bool {
        let (last, call) = (self.last_runs.get(plan), self.last_calls.get(plan));
        last.is_some_and(|last| last.was_interrupted() && call.is_some_and(|call| call.run == last.run))
    }

    /// What a run needs that finds nothing to do; nothing if something is left to do whatever the plan says.
    pub(super) fn brief(&self) -> Option<Brief> {
        let is_settled = self.open.is_empty()
            && self.unsynced.is_empty()
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
            live: self.live_in_steps(),
            machine: self.machine.clone(),
        }
    }

    /// The history without its changes, of which none may be asked for.
    pub(super) fn of_brief(brief: Brief) -> Self {
        let Brief { steps, overrides, bare_plans, runs, last_run, last_runs, last_calls, live, machine } =
            brief;
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
            counted: live,
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

    pub(super) fn live_of(&self, plan: &str, step: Option<&str>) -> impl Iterator<Item = &ChangeRecord> {
        let ids = self.live_by_step.get(plan).and_then(|steps| steps.get(&step.map(str::to_owned)));
        ids.into_iter().flatten().filter_map(|id| self.change(*id))
    }

    fn live_in_steps(&self) -> Vec<LiveInStep> {
        if self.is_brief() {
            return self.counted.clone();
        }
        let steps = self.live_by_step.iter().flat_map(|(plan, steps)| {
            steps.iter().filter(|(_, ids)| !ids.is_empty()).map(move |(step, ids)| (plan, step, ids))
        });
        let counted = steps.map(|(plan, step, ids)| {
            let changes = ids.iter().filter_map(|id| self.change(*id));
            let count = changes.map(LiveCount::of).fold(LiveCount::default(), LiveCount::add);
            LiveInStep { plan: plan.clone(), step: step.clone(), count }
        });
        counted.collect()
    }

    /// How many changes of a plan are live.
    pub fn live_count(&self, plan: &str) -> LiveCount {
        let counted = self.live_in_steps().into_iter().filter(|live| live.plan == plan);
        counted.fold(LiveCount::default(), |sum, live| sum.add(live.count))
    }

    /// How many changes of a step are live.
    pub fn live_count_of(&self, plan: &str, step: &str) -> LiveCount {
        if self.is_brief() {
            let is_it = |live: &&LiveInStep| live.plan == plan && live.step.as_deref() == Some(step);
            return self.counted.iter().find(is_it).map(|live| live.count).unwrap_or_default();
        }
        self.live_of(plan, Some(step)).map(LiveCount::of).fold(LiveCount::default(), LiveCount::add)
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

    /// What a command needs to be about this plan: ` --plan NAME`, or nothing where no other has live changes.
    pub fn plan_option(&self, plan: &str) -> String {
        if self.has_live_changes_beside(plan) {
            format!(" --plan {}", shell_words::quote(plan))
        } else {
            String::new()
        }
    }

    /// The live changes of other plans.
    pub fn live_beside(&self, plan: &str) -> BTreeSet<ChangeId> {
        let beside = self.live_by_step.iter().filter(|(of, _)| *of != plan);
        beside.flat_map(|(_, steps)| steps.values().flatten().copied()).collect()
    }

    /// How the act of a change failed that is not there, or of which it is not known what it did; none while it may be
    /// acted on again, or after a run was killed that may have done so.
    pub fn failure_of<'a>(&self, change: &'a ChangeRecord) -> Option<&'a str> {
        let step = change.intent.step.as_ref().and_then(|step| self.step(&change.plan, step));
        let is_last = match change.state {
            ChangeState::Void => true,
            ChangeState::InDoubt => step.is_none_or(|step| step.state != StepState::Started),
            _ => false,
        };
        change.failed.as_deref().filter(|_| is_last)
    }

    /// The changes that are in doubt, oldest first.
    pub fn in_doubt(&self) -> impl DoubleEndedIterator<Item = &ChangeRecord> {
        self.open().filter(|change| change.state == ChangeState::InDoubt)
    }

    /// The changes whose making or undoing has begun and not come to its end, oldest first.
    pub fn open(&self) -> impl DoubleEndedIterator<Item = &ChangeRecord> {
        self.open.iter().filter_map(|id| self.change(*id))
    }

    /// Whether not all is synced that changes made.
    pub fn awaits_sync(&self) -> bool {
        !self.unsynced.is_empty()
    }

    /// Whether a restart of the machine put this change in doubt.
    pub fn is_doubted_since_restart(&self, change: &ChangeRecord) -> bool {
        change.state == ChangeState::InDoubt && self.unsynced.contains(&change.id)
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
    pub fn recorded(&self, target: &Target) -> Option<Value> {
        self.ledger.get(target).map(|recorded| recorded.state.value())
    }

    /// Whether a secret was ever written to this target, to a part of it or to the whole that it is a part of.
    pub fn held_secret(&self, target: &Target) -> bool {
        let is_another_part = |held: &Target| held != target && held.is_part() && target.is_part();
        self.secret_targets.iter().any(|held| held.overlaps(target) && !is_another_part(held))
    }

    /// Whether a secret was ever written to one of these paths, to a part of it or to a tree that it is in.
    pub fn held_secret_at(&self, paths: &[PathBuf]) -> bool {
        let held = || self.secret_targets.iter().filter_map(Target::path);
        paths.iter().any(|path| held().any(|held| path.starts_with(held)))
    }

    /// Whether the change was intended by the newest run.
    pub fn is_of_newest_run(&self, change: &ChangeRecord) -> bool {
        self.last_run.as_ref().is_some_and(|(newest, _)| *newest == change.run)
    }

    /// The restarts that are needed in this boot, because what was said to need them is left.
    pub fn reboots<'a>(&'a self, boot: &'a str) -> impl Iterator<Item = &'a Reboot> + use<'a> {
        let stands = |id: &ChangeId| self.change(*id).is_some_and(is_left);
        self.reboots.iter().filter(move |reboot| {
            reboot.boot == boot && (reboot.changes.is_empty() || reboot.changes.iter().any(stands))
        })
    }
}

/// Whether a change is live and is not data that a rollback kept.
pub(super) fn is_left(change: &ChangeRecord) -> bool {
    change.is_live() && !matches!(change.state, ChangeState::Kept(_))
}
