//! Replays the journal: what is known of steps, changes, targets and what is pending.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail, ensure};
use jiff::Timestamp;
use serde_json::Value;

use crate::target::{Footprint, States, Target};

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
    /// Whether anything was recorded of its target when it was intended.
    was_recorded: bool,
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

    /// What undoing it needs is removed: from now on it is one of those that cannot be undone.
    fn forget(&mut self, time: Timestamp) {
        self.is_forgotten = true;
        self.intent.class = Class::Irreversible;
        let day = time.strftime("%Y-%m-%d");
        self.intent.loses = Some(format!("forgotten on {day}: `kkrun forget` removed what undoing it needs"));
    }
}

/// The state of a step by its records alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
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
#[derive(Clone, Debug, Default)]
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
    /// How often it was begun to come to where it is: since it was last complete before that, or forgotten.
    pub attempts: u32,
    /// Why it failed.
    pub error: Option<String>,
    /// What it meant when it completed.
    pub fingerprint: Option<Fingerprint>,
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

/// All that the journal says, in the form that decisions need.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The steps, by id, of each plan.
    pub steps: BTreeMap<String, BTreeMap<String, StepRecord>>,
    /// The claims of the steps, by plan and id.
    pub claims: BTreeMap<(String, String), Claims>,
    /// The changes, oldest first.
    pub changes: Vec<ChangeRecord>,
    /// The targets into which a secret was ever written.
    pub secret_targets: BTreeSet<Target>,
    /// The newest recorded state of every target.
    pub ledger: BTreeMap<Target, Recorded>,
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
    /// A rollback that has begun and not ended.
    pub rollback: Option<UnfinishedRollback>,
    /// The identity of the machine that the journal is of; empty if it had none.
    pub machine: String,
    reboots: Vec<Reboot>,
    /// The newest boot of which there are records, and the first of them.
    newest_boot: Option<(String, u64)>,
}

impl History {
    /// Whether what is recorded at this target was recorded in this boot.
    pub fn is_recorded_in(&self, boot: &str, target: &Target) -> bool {
        let since = self.newest_boot.as_ref().filter(|(newest, _)| newest == boot).map(|(_, since)| *since);
        let recorded = self.ledger.get(target).map(|recorded| recorded.at);
        recorded.zip(since).is_some_and(|(at, since)| at >= since)
    }

    /// The change of this identity.
    pub fn change(&self, id: ChangeId) -> Option<&ChangeRecord> {
        self.changes.binary_search_by_key(&id, |change| change.id).ok().map(|at| &self.changes[at])
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
        self.changes.iter().filter(move |change| {
            change.plan == plan && change.intent.step.as_deref() == Some(step) && change.is_live()
        })
    }

    /// What of `asked` this step claims: another step, or its own plan's none, may have brought it since the step itself
    /// changed it last.
    pub fn claimed_by(&self, plan: &str, step: &str, asked: BTreeSet<Target>) -> Vec<Target> {
        let is_own =
            |change: &ChangeRecord| change.plan == plan && change.intent.step.as_deref() == Some(step);
        let live = || self.changes.iter().rev().filter(|change| change.is_live());
        let may_rely = |target: &Target, change: &ChangeRecord| {
            // What relies on one of these is known only when it is looked at.
            let is_of_machine = matches!(
                change.intent.target,
                Target::Packages(_)
                    | Target::PackageSet { .. }
                    | Target::User(_)
                    | Target::Group(_)
                    | Target::Role { .. }
                    | Target::Database { .. }
            );
            is_of_machine || Footprint::of(target).depends_on(&change.intent.footprint())
        };
        let is_claim = |target: &Target| {
            live()
                .take_while(|change| !(is_own(change) && change.intent.target == *target))
                .any(|change| !is_own(change) && may_rely(target, change))
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
                let is_being_changed = || {
                    let mut newest_first = self.changes.iter().rev();
                    newest_first.any(|change| change.is_live() && change.intent.target == *target)
                };
                ensure!(
                    self.ledger.contains_key(target)
                        || self.kept_against.contains_key(target)
                        || is_being_changed(),
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
        let at = self.changes.binary_search_by_key(&id, |change| change.id);
        let Ok(at) = at else { bail!("says `{says}` of change {id}, of which no intent is recorded") };
        let known = &self.changes[at];
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
            self.changes[at].state = state;
        }
        if self.newest_boot.as_ref().is_none_or(|(boot, _)| *boot != header.boot) {
            self.newest_boot = Some((header.boot.clone(), header.seq));
        }
        let time = header.time;
        match entry {
            Entry::Format { machine, .. } | Entry::JournalAccepted { machine } => self.machine = machine,
            Entry::RunStarted { .. } => {
                *self.runs.entry(header.plan).or_default() += 1;
                self.last_run = Some((header.run, time));
            }
            Entry::OverrideSet { key, value } => {
                self.overrides.entry(header.plan).or_default().insert(key, value);
            }
            Entry::OverrideUnset { key } => {
                self.overrides.entry(header.plan).or_default().remove(&key);
            }
            Entry::StepStarted { step, title, script } => {
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
                let key = (header.plan.clone(), step.clone());
                if claims.is_empty() {
                    self.claims.remove(&key);
                } else {
                    self.claims.insert(key, Claims { at: header.seq, targets: claims });
                }
                let known = self.step_mut(header, step);
                known.end(StepState::Complete, time, seconds);
                known.fingerprint = Some(fingerprint);
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
                let known = self.step_mut(header, step);
                (known.title, known.script) = (title, script);
                known.end(StepState::Complete, time, 0.0);
                known.fingerprint = Some(fingerprint);
            }
            Entry::StepsReset { steps } => {
                self.claims.retain(|(plan, step), _| {
                    *plan != header.plan || steps.as_ref().is_some_and(|named| !named.contains(step))
                });
                for (id, known) in self.steps.get_mut(&header.plan).into_iter().flatten() {
                    if steps.as_ref().is_none_or(|named| named.contains(id)) {
                        *known = StepRecord { title: known.title.clone(), ..StepRecord::default() };
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
                self.once.retain(|_, changes| !changes.contains(&change));
                self.become_pending(change);
            }
            Entry::LeftTo { change, plan, step, .. } => {
                if let Some(change) = self.change_mut(change) {
                    change.plan = plan;
                    change.intent.step = step;
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
                }
            }
            Entry::RunEnded { bare, .. } => {
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
        if intent.inverse.get("secret").is_some_and(|secret| secret == true) {
            self.secret_targets.insert(intent.target.clone());
        }
        let was_recorded = self.ledger.contains_key(&intent.target);
        self.changes.push(ChangeRecord {
            id,
            plan,
            run,
            time,
            intent,
            state: ChangeState::InDoubt,
            settled: 0,
            undo_commands: 0,
            is_forgotten: false,
            was_recorded,
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
        let is_of_step = |change: &&ChangeRecord| change.plan == plan && change.intent.step == step;
        let changes: Vec<ChangeId> = self
            .changes
            .iter()
            .filter(is_of_step)
            .filter(|change| is_left(change))
            .map(|change| change.id)
            .collect();
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
        self.changes.binary_search_by_key(&id, |change| change.id).ok().map(|at| &mut self.changes[at])
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
        let is_older =
            |older: &ChangeRecord| older.id < id && older.is_live() && older.intent.target == target;
        let is_content = matches!(change.intent.what.as_str(), "file" | "tree" | "edit");
        if is_content && !change.was_recorded && self.changes.iter().any(is_older) {
            self.ledger.remove(&target);
        }
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
