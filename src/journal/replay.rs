//! How a record changes the history: whether it may be the next one, and what follows from it.

use std::collections::BTreeSet;

use anyhow::{Result, bail, ensure};

use super::change_record::{ChangeRecord, Recorded};
use super::history::{Claims, History, UnfinishedRollback, is_left};
use super::pending::{PendingHandler, Reboot};
use super::record::{ChangeId, Entry, Handler, Header, Intent, Record, Settling};
use super::state::ChangeState;
use super::step_record::{RunRecord, StepRecord, StepState};
use crate::target::{States, Target};

impl History {
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
            Entry::Once { changes, .. } | Entry::Forgotten { changes } | Entry::Triggered { changes, .. } => {
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
            self.doubt_unsynced();
            self.newest_boot = Some((header.boot.clone(), header.seq));
        }
        if entry.follows_sync() {
            self.unsynced.clear();
        } else if let Some((change, _)) = entry.of_change() {
            self.unsynced.remove(&change);
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
                known.accepted.clear();
                known.accepted_because = None;
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
            Entry::StepAccepted { step, title, script, fingerprint, left, why } => {
                let seq = header.seq;
                let known = self.step_mut(header, step);
                (known.title, known.script) = (title, script);
                known.end(StepState::Complete, time, 0.0);
                known.seconds = None;
                known.fingerprint = Some(fingerprint);
                known.completed = seq;
                known.error = None;
                known.accepted = left;
                known.accepted_because = why;
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
            Entry::Done { change, recorded, unsynced } => {
                if unsynced {
                    self.unsynced.insert(change);
                }
                // What a command makes of the paths that it names is known only now.
                if let Some(known) = self.change_mut(change)
                    && known.intent.what == "captured"
                    && let Some(state) = recorded.get(&known.intent.target)
                {
                    known.intent.after = state.clone().into();
                }
                self.settled_at(change, header.seq);
                self.accept(change, recorded, header.seq);
            }
            Entry::Void { change, .. } => {
                self.forget_pending_of(change);
                self.disown_what_was_lost(change);
            }
            Entry::Failed { change, error } => {
                if let Some(known) = self.change_mut(change) {
                    known.failed = Some(error);
                }
            }
            Entry::Recorded { target, state } => {
                self.kept_against.remove(&target);
                self.ledger.insert(target, Recorded { state: state.into(), at: header.seq });
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

    /// Takes in that the machine is in this boot now, before there is a record of it.
    pub(super) fn enter_boot(&mut self, boot: &str) {
        if self.newest_boot.as_ref().is_some_and(|(newest, _)| newest != boot) {
            self.doubt_unsynced();
        }
    }

    /// The machine restarted, perhaps because it lost power: what was not synced by then may be there in part.
    fn doubt_unsynced(&mut self) {
        for id in self.unsynced.clone() {
            let done = |at: &usize| self.changes.list[*at].state == ChangeState::Done;
            if let Some(at) = self.changes.position(id).filter(done) {
                self.enter_state(at, ChangeState::InDoubt);
            }
        }
    }

    /// A change that was done, that a restart put in doubt, and of which nothing is there: what was recorded before it is
    /// what kkrun last left at its target.
    fn disown_what_was_lost(&mut self, id: ChangeId) {
        let Some(change) = self.change(id) else { return };
        let (target, before) = (change.intent.target.clone(), change.recorded_before.clone());
        if self.ledger.get(&target).is_some_and(|recorded| recorded.at == change.settled) {
            match before {
                Some(before) => self.ledger.insert(target, before),
                None => self.ledger.remove(&target),
            };
        }
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
        let recorded_before = self.ledger.get(&intent.target).cloned();
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
            failed: None,
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
            self.ledger.insert(target, Recorded { state: state.into(), at });
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
            if let Some(before) = change.recorded_before.clone().filter(|_| self.has_older(&target, id))
                && let Some(recorded) = self.ledger.get_mut(&target)
            {
                recorded.state = before.state;
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

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::journal::{Fingerprint, Handler};

    /// A history of these records, each of the plan `plan`.
    fn history(entries: Vec<Entry>) -> History {
        let mut history = History::default();
        for (seq, entry) in (1..).zip(entries) {
            append(&mut history, seq, "b", entry);
        }
        history
    }

    fn append(history: &mut History, seq: u64, boot: &str, entry: Entry) {
        let (run, boot, plan) = ("r".to_owned(), boot.to_owned(), "plan".to_owned());
        let (prev, time) = (String::new(), Timestamp::UNIX_EPOCH);
        let header = Header { seq, prev, run, boot, time, plan, unsynced: 0, skippable: false };
        history.apply(Record { header, entry }).unwrap();
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

    fn unsynced(change: ChangeId) -> Entry {
        Entry::Done { change, recorded: States::new(), unsynced: true }
    }

    #[test]
    fn state_that_a_change_recorded_goes_when_a_restart_left_nothing_of_it() {
        let intent = || Entry::Intent(Box::new(Intent::about(Target::Group("a".into()))));
        let done = |change: ChangeId, unsynced| Entry::Done {
            change,
            recorded: [(Target::Group("a".into()), change.into())].into(),
            unsynced,
        };
        let void = |change| Entry::Void { change, why: String::new() };
        for (entries, voids, left) in [
            (vec![intent(), done(1, true)], vec![], Some(1)),
            (vec![intent(), done(1, true)], vec![void(1)], None),
            (vec![intent(), done(1, false), intent(), done(3, true)], vec![void(3)], Some(1)),
            (vec![intent(), done(1, true), intent(), done(3, true)], vec![void(3), void(1)], None),
            (vec![intent(), done(1, true), intent(), done(3, false)], vec![void(1)], Some(3)),
        ] {
            let shown = format!("{entries:?}, {voids:?}");
            let mut restarted = history(entries);
            restarted.enter_boot("another");
            for (seq, entry) in (100..).zip(voids) {
                append(&mut restarted, seq, "another", entry);
            }
            let recorded = restarted.ledger.get(&Target::Group("a".into()));
            assert_eq!(recorded.map(|recorded| recorded.state.value()), left.map(ChangeId::into), "{shown}");
        }
    }

    #[test]
    fn what_was_not_synced_is_in_doubt_after_a_restart_of_the_machine() {
        let intent = || Entry::Intent(Box::new(Intent::about(Target::Group("a".into()))));
        let done = || Entry::Done { change: 1, recorded: States::new(), unsynced: false };
        let failed_end = || Entry::RunEnded { exit: 1, bare: None };
        let void = || Entry::Void { change: 1, why: String::new() };
        for (entries, is_doubtful) in [
            (vec![intent(), unsynced(1)], true),
            (vec![intent(), unsynced(1), failed()], true),
            (vec![intent(), done()], false),
            (vec![intent(), unsynced(1), completed()], false),
            (vec![intent(), unsynced(1), failed_end()], false),
            (vec![intent(), unsynced(1), Entry::Once { key: "k".into(), changes: vec![1] }], false),
            (vec![intent(), void()], false),
        ] {
            let shown = format!("{entries:?}");
            let mut restarted = history(entries);
            let before = restarted.changes[0].state.clone();
            restarted.enter_boot("b");
            assert_eq!(restarted.changes[0].state, before, "{shown}");
            restarted.enter_boot("another");
            let change = restarted.changes[0].clone();
            assert_eq!(change.state == ChangeState::InDoubt, is_doubtful, "{shown}");
            assert_eq!(restarted.is_doubted_since_restart(&change), is_doubtful, "{shown}");
            assert_eq!(restarted.open().count(), usize::from(is_doubtful), "{shown}");
        }
    }

    #[test]
    fn records_of_another_boot_put_in_doubt_what_was_not_synced_and_it_is_done_again() {
        let intent = Entry::Intent(Box::new(Intent::about(Target::Group("a".into()))));
        let mut history = history(vec![intent, unsynced(1)]);
        let mut append = |seq, entry| {
            append(&mut history, seq, "another", entry);
            history.changes[0].state.clone()
        };
        let started = Entry::RunStarted { script: "plan".into(), root: "plan".into(), pid: 1 };
        assert_eq!(append(3, started), ChangeState::InDoubt);
        assert_eq!(append(4, unsynced(1)), ChangeState::Done);
        assert_eq!(append(5, failed()), ChangeState::Done);
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
        let error =
            history.check(&Entry::Done { change: 9, recorded: States::new(), unsynced: false }).unwrap_err();
        assert!(error.to_string().contains("change 9, of which no intent is recorded"), "{error}");
        let triggered = Entry::Triggered { step: None, handler: Handler::default(), changes: vec![9] };
        let error = history.check(&triggered).unwrap_err();
        assert!(error.to_string().contains("change 9, of which no intent is recorded"), "{error}");
    }
}
