//! Makes one change: look, intent, act, look again, outcome. The only caller of an act.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use serde_json::Value;

use super::last_known::{LastKnown, last_known_at};
use super::undo::refuse_unmounted;
use super::{ConflictPolicy, Mode, Session, WouldChange};
use crate::change::{Change, CommandInverse, OnDoubt, Payload, Position, ProductRecord, state_value};
use crate::event::{ChangeOutcome, Event, Modification};
use crate::failure::{Failure, FailureKind, sentence};
use crate::journal::{ChangeId, ChangeRecord, Class, Entry, Intent};
use crate::machine::files::PathText;
use crate::target::{States, Target};
use crate::text::one_line;

impl Session {
    /// Makes a change, or shows it in a dry run. The caller has observed that the target is not as desired.
    /// Returns whether something was changed, or would be.
    ///
    /// # Errors
    /// When the act fails, when afterwards the target is not as desired, when there is a conflict and
    /// no one decides about it, and when the journal cannot be written.
    pub fn perform(&mut self, change: &Change, payload: Payload<'_>) -> Result<bool> {
        self.perform_losing(change, None, payload)
    }

    /// The same for a change whose loss on undoing the script names.
    pub fn perform_losing(
        &mut self,
        change: &Change,
        loses: Option<(Class, String)>,
        payload: Payload<'_>,
    ) -> Result<bool> {
        if self.mode == Mode::DryRun {
            return self.preview(change);
        }
        let Some(id) = self.intend(change, loses)? else { return Ok(false) };
        let difference = self.difference(change, ChangeOutcome::Made);
        let acted = change.kind().act(&self.world, payload);
        self.finish(id, change, acted)?;
        self.changed += 1;
        self.report_change(ChangeOutcome::Made, change, difference);
        Ok(true)
    }

    /// Shows, in a dry run, a change of which not all that an act needs is known.
    pub fn foresee(&mut self, change: &Change) -> Result<()> {
        self.preview(change).map(drop)
    }

    /// Shows a change in a dry run. Returns whether it would be made.
    fn preview(&mut self, change: &Change) -> Result<bool> {
        let intent = change.intent()?;
        self.refuse_secret_in(&intent)?;
        let Intent { target, summary, after, .. } = intent;
        if self.is_kept(&target, &after.value()) {
            return Ok(false);
        }
        let conflict = self.conflicting_state(change, &target);
        if let Some(modification) = &conflict {
            self.report_conflict(&target, &summary, modification);
            if self.on_conflict == ConflictPolicy::Keep {
                self.report_kept(&target);
                return Ok(false);
            }
        }
        let asks = conflict.is_some() && self.on_conflict == ConflictPolicy::Ask;
        let outcome = if asks { ChangeOutcome::WouldAsk } else { ChangeOutcome::Would };
        // What was modified was shown: bringing it back is the same the other way round.
        let is_shown = conflict.as_ref().is_some_and(Modification::has_diff)
            && self.history.recorded(&target).is_some_and(|recorded| change.kind().restores(&recorded));
        let difference = if is_shown { None } else { self.difference(change, outcome) };
        self.report_change(outcome, change, difference);
        let found = conflict.map(|modification| modification.in_one_line(&target.described()));
        self.would.push(WouldChange { target, summary, found, is_repeated: false, is_unsure: false });
        change.kind().predict(&self.world, &mut self.world.predicted.borrow_mut());
        Ok(true)
    }

    /// The first half of a change: decides about a conflict, prepares the undo and records the intent, so that only the
    /// act and its outcome are left to do. Gives `None` if the operator keeps what is there.
    ///
    /// # Errors
    /// As [`Session::perform`], except what the act may fail with.
    pub fn intend(&mut self, change: &Change, loses: Option<(Class, String)>) -> Result<Option<ChangeId>> {
        let kind = change.kind();
        let mut intent = change.intent()?;
        self.refuse_secret_in(&intent)?;
        let target = intent.target.clone();
        if self.is_kept(&target, &intent.after.value()) {
            return Ok(None);
        }
        self.asks_for(|| target.clone());
        self.check_interruption()?;
        self.begin_acting()?;
        if let Some(modification) = self.conflicting_state(change, &target)
            && !self.may_replace(&target, &intent.summary, &modification, &intent.after.value())?
        {
            return Ok(None);
        }
        self.begin_recording()?;
        kind.prepare(&self.world)?;
        intent.step.clone_from(&self.step);
        intent.pending = self.handlers();
        if let Some((class, text)) = loses {
            intent.class = class;
            intent.loses = Some(text);
        }
        let Some(id) = self.half_done(change, &target) else {
            let entry = Entry::Intent(Box::new(intent));
            return if self.is_only_noted(change) { self.note(entry) } else { self.record(entry) }.map(Some);
        };
        refuse_unmounted(&self.known(id)?.intent)?;
        if let Some(state) = kind.clear_attempt(&self.world, self.recorded_since(id, &target).as_ref())? {
            self.record(Entry::Recorded { target, state })?;
        }
        Ok(Some(id))
    }

    /// The targets among these that the operator keeps as they are. A change to any other of them may be made.
    ///
    /// # Errors
    /// When there is a conflict and no one decides about it, and when the journal cannot be written.
    pub fn kept_among(&mut self, changes: &[Change]) -> Result<BTreeSet<Target>> {
        self.begin_acting()?;
        let mut kept = BTreeSet::new();
        for change in changes {
            let Intent { target, summary, after, .. } = change.intent()?;
            if self.is_kept(&target, &after.value()) {
                kept.insert(target);
            } else if let Some(modification) = self.conflicting_state(change, &target)
                && !self.may_replace(&target, &summary, &modification, &after.value())?
            {
                kept.insert(target);
            }
        }
        Ok(kept)
    }

    /// Whether a killed run left a change to one of these targets half made: it is made again by itself.
    pub fn is_any_doubtful(&self, changes: &[Change]) -> bool {
        changes.iter().any(|change| self.doubtful(&change.kind().target()).is_some())
    }

    /// Makes several changes by the act of the first one, which makes all of them at once or none: entries of one file,
    /// by one write of it. What is in the way of any of them was decided about by [`Session::kept_among`].
    ///
    /// Each is intended and settled by records of its own, as if it were made alone. The intents are written together and
    /// share one sync, which is enough: it comes after the one backup that all of them need, and before the act. What a
    /// crash leaves of them are the first ones, and each is probed by itself: without the act it is found as before.
    ///
    /// # Errors
    /// As [`Session::perform`]. The outcome of each is recorded then, too.
    pub fn perform_together(&mut self, changes: &[Change]) -> Result<()> {
        let Some(first) = changes.first() else { return Ok(()) };
        self.check_interruption()?;
        self.begin_acting()?;
        let mut intents = Vec::with_capacity(changes.len());
        for change in changes {
            let mut intent = change.intent()?;
            self.refuse_secret_in(&intent)?;
            self.asks_for(|| intent.target.clone());
            intent.step.clone_from(&self.step);
            intent.pending = self.handlers();
            intents.push(Entry::Intent(Box::new(intent)));
        }
        self.begin_recording()?;
        first.kind().prepare(&self.world)?;
        let ids = self.record_all(intents)?;
        let differences: Vec<_> =
            changes.iter().map(|change| self.difference(change, ChangeOutcome::Made)).collect();
        let acted = first.kind().act(&self.world, Payload::Nothing);
        let failure = acted.as_ref().err().map(sentence);
        let mut first_error = None;
        let mut acted = Some(acted);
        for (id, change) in ids.into_iter().zip(changes) {
            let own = acted.take().unwrap_or_else(|| match &failure {
                None => Ok(()),
                Some(why) => Err(anyhow::anyhow!("{why}")),
            });
            if let Err(error) = self.finish(id, change, own) {
                first_error.get_or_insert(error);
            }
        }
        if let Some(error) = first_error {
            return Err(error);
        }
        for (change, difference) in changes.iter().zip(differences) {
            self.changed += 1;
            self.report_change(ChangeOutcome::Made, change, difference);
        }
        Ok(())
    }

    /// Refuses a change of which a path, a name or an argument contains a secret: that is recorded as it is.
    fn refuse_secret_in(&self, intent: &Intent) -> Result<()> {
        let recorded = serde_json::to_string(&(&intent.target, &intent.after, &intent.inverse))?;
        // What was there before may be a secret that is none any more; the target is named in everything that is shown.
        let reporter = &self.world.reporter;
        if !reporter.holds_known_secret(&recorded) && !reporter.holds_secret(&intent.target.to_string()) {
            return Ok(());
        }
        bail!(
            Failure::new(format!("cannot {}: a name in it contains a secret, which would be recorded", intent.summary))
                .kind(FailureKind::Secret)
                .hint("use a secret as the content of a file, a value of `config::set`, or in `env` or `stdin` of a command")
        )
    }

    fn difference(&self, change: &Change, outcome: ChangeOutcome) -> Option<String> {
        let is_shown = self.world.reporter.shows_differences(outcome);
        if !is_shown {
            return None;
        }
        let is_secret = self.history.held_secret(&change.kind().target())
            || self.history.held_secret_at(&change.kind().touches(&self.world));
        self.world.content_is_secret.set(is_secret);
        change.kind().difference(&self.world)
    }

    pub(super) fn report_change(&self, outcome: ChangeOutcome, change: &Change, difference: Option<String>) {
        let kind = change.kind();
        let (target, counted, summary) =
            (kind.target().to_string(), kind.counted(), one_line(&kind.summary()).into_owned());
        self.world.reporter.emit(&Event::Change { outcome, target, counted, summary, difference });
    }

    /// The same of a change of which not more is known than this.
    pub(super) fn report(&self, outcome: ChangeOutcome, target: &Target, summary: &str) {
        let (target, counted, summary) =
            (target.to_string(), target.counted(), one_line(summary).into_owned());
        self.world.reporter.emit(&Event::Change { outcome, target, counted, summary, difference: None });
    }

    /// Records that a change was made. It was synced by its act; of one that is found again by observing its target the
    /// record is not synced by itself: a power failure that takes it leaves the change in doubt, and the next run finds it
    /// made. The next record that is synced, the end of the step at the latest, makes it durable. One that is made again
    /// after a restart is in doubt then with or without its record.
    fn record_done(&mut self, id: ChangeId, change: &Change, recorded: States) -> Result<()> {
        let kind = change.kind();
        let unsynced = kind.is_made_again();
        let done = Entry::Done { change: id, recorded, unsynced };
        let is_noted = self.is_only_noted(change) || kind.is_found_again() || unsynced;
        if is_noted { self.note(done) } else { self.record(done) }.map(drop)
    }

    /// Whether the records of a change are written without a sync.
    ///
    /// A sync before a change promises that a power failure leaves what undoing it needs. A change of which nothing can
    /// be undone, and that triggers nothing, needs no such promise: a rollback names it and does nothing, and its step,
    /// which is not complete without a synced record, makes it again. That it was begun is still in the journal when
    /// kkrun is killed, because the kernel has what was written; and the next record that is synced, the end of the step
    /// at the latest, makes it durable.
    fn is_only_noted(&self, change: &Change) -> bool {
        change.kind().may_be_lost() && !self.triggers_handlers()
    }

    /// Counts and reports a change in a dry run, of which more is not known than this.
    pub fn note_change(&mut self, target: Target, summary: String) {
        self.would_make(target, summary, false);
    }

    /// Counts, in a dry run, a change that one before it may make unnecessary.
    pub fn might_make(&mut self, target: Target, summary: String) {
        self.report(ChangeOutcome::Might, &target, &summary);
        self.would.push(WouldChange { target, summary, found: None, is_repeated: false, is_unsure: true });
    }

    /// Counts, in a dry run, a command that runs whenever its step does.
    pub fn note_repeated(&mut self, target: Target, summary: String) {
        self.would_make(target, summary, true);
    }

    /// Counts a step whose changes a dry run cannot predict.
    pub fn count_unknown(&mut self, step: &str) {
        let summary = format!("continue with step {step}");
        let target = Target::Step(step.to_owned());
        self.would.push(WouldChange { target, summary, found: None, is_repeated: false, is_unsure: false });
    }

    pub(super) fn would_make(&mut self, target: Target, summary: String, is_repeated: bool) {
        self.report(ChangeOutcome::Would, &target, &summary);
        self.would.push(WouldChange { target, summary, found: None, is_repeated, is_unsure: false });
    }

    /// Records the outcome of an act. One that failed is probed like a crash: it may have acted.
    pub(super) fn finish(&mut self, id: ChangeId, change: &Change, acted: Result<()>) -> Result<()> {
        let looked = match acted {
            Ok(()) => self.recorded_of(change),
            Err(error) => {
                let stays = change.kind().withdraw(&self.world).unwrap_or_else(|left| {
                    let target = change.kind().target();
                    self.world
                        .reporter
                        .note(format!("{target} stays half made: {left}", left = sentence(&left)));
                    self.world.doubt_durability();
                    Vec::new()
                });
                // It stopped at this path before it wrote there.
                let met_another = stays.len() == 1
                    && error
                        .downcast_ref::<Failure>()
                        .is_some_and(|failure| failure.kind == FailureKind::Conflict);
                // One that an earlier attempt began is judged by what was there before that.
                let known = self.known(id)?;
                let is_tried_again = id <= self.newest_before || known.failed.is_some();
                let begun = is_tried_again.then(|| Change::of_intent(&known.intent)).transpose()?;
                let position = match begun.as_ref().unwrap_or(change).kind().position(&self.world) {
                    Ok(Position::Neither(_)) if met_another => Ok(Position::Before),
                    position => position,
                };
                match position {
                    Ok(Position::After) => {
                        let recorded = self.recorded_of(change)?;
                        self.world.doubt_durability();
                        self.record(Entry::Done { change: id, recorded, unsynced: false })?;
                    }
                    Ok(Position::Before) => {
                        self.note_failure(id, &error)?;
                        self.record(Entry::Void { change: id, why: "its act failed".to_owned() })?;
                    }
                    Ok(Position::Between | Position::Neither(_)) | Err(_) => {
                        self.record_what_failure_left(change)?;
                        self.note_failure(id, &error)?;
                    }
                }
                return Err(error);
            }
        };
        match looked {
            Ok(recorded) => self.record_done(id, change, recorded),
            Err(error) => {
                self.record_what_failure_left(change)?;
                self.note_failure(id, &error)?;
                // What is wrong after a command names it.
                if matches!(change, Change::Command(_)) {
                    return Err(error);
                }
                Err(error.context(format!("{}: not as desired afterwards", change.kind().summary())))
            }
        }
    }

    /// Notes that the act of a change has ended, and how. A power failure that takes the record leaves the change in doubt,
    /// as a kill does.
    fn note_failure(&mut self, change: ChangeId, error: &anyhow::Error) -> Result<()> {
        let error = sentence(error);
        // A command is named by the change already.
        let known = self.known(change)?;
        let label = known.intent.summary.strip_prefix("run ").map(|label| format!("`{label}` "));
        let error = label.and_then(|label| error.strip_prefix(&label)).unwrap_or(&error).to_owned();
        self.note(Entry::Failed { change, error }).map(drop)
    }

    /// What cannot be observed stays unknown and is not recorded as kkrun's.
    pub(super) fn record_what_failure_left(&mut self, change: &Change) -> Result<()> {
        for (target, state) in change.kind().left_by_failure(&self.world).unwrap_or_default() {
            self.world.doubt_durability();
            self.record(Entry::Recorded { target, state })?;
        }
        Ok(())
    }

    /// What is recorded of a target since a change to it was intended.
    pub fn recorded_since(&self, id: ChangeId, target: &Target) -> Option<Value> {
        let since = self.history.ledger.get(target).filter(|recorded| recorded.at > id);
        since.map(|recorded| recorded.state.value())
    }

    /// What is known of the products that a command makes and changes.
    pub fn product_record(&self, inverse: &CommandInverse) -> ProductRecord {
        let recorded = |product: &PathText| {
            let state = self.history.recorded(&Target::product(product.as_path()))?;
            serde_json::from_value(state).ok()
        };
        let changed = inverse.changes.as_ref().and_then(recorded);
        let Some(product) = &inverse.product else {
            return ProductRecord { changed, ..ProductRecord::default() };
        };
        let path = product.as_path();
        let makes = |known: &ChangeRecord| {
            let removes =
                |change: Change| change.kind().removed_by_undo(&self.world).iter().any(|gone| gone == path);
            Change::of_intent(&known.intent).is_ok_and(removes)
        };
        let first = self.doubtful(&Target::product(path)).map(|known| Change::of_intent(&known.intent));
        ProductRecord {
            recorded: recorded(product),
            own: self.history.live().above(path).flat_map(|ids| self.history.changes_of(ids)).any(makes),
            first: match first {
                Some(Ok(Change::Command(change))) => Some(change),
                _ => None,
            },
            changed,
            user: None,
            runs_as: None,
            touched: self.history.touched_beside(&Target::product(path)),
        }
    }

    /// The states that are recorded from now on. If a change was only about owner and mode, content that others wrote is
    /// not among them.
    pub(super) fn recorded_of(&self, change: &Change) -> Result<States> {
        let (mut recorded, target) = (change.kind().recorded(&self.world)?, change.kind().target());
        if let Change::File(file) = change
            && file.keeps_content()
            && let Some(value) = recorded.get_mut(&target)
            && let Ok(Some(LastKnown::State(left))) = last_known_at(&self.history, &self.world, &target)
            && let (Ok(left), Ok(state)) =
                (serde_json::from_value(left), serde_json::from_value(value.clone()))
        {
            *value = state_value(&file.recorded_beside(&left, state));
        }
        Ok(recorded)
    }

    /// The change that a dead run may have half made to the same target, if it is acted on again.
    pub(super) fn half_done(&self, change: &Change, target: &Target) -> Option<ChangeId> {
        let doubtful = self.doubtful(target)?;
        let is_between = || {
            let known = Change::of_intent(&doubtful.intent);
            known.and_then(|known| known.kind().position(&self.world)).is_ok_and(|at| at == Position::Between)
        };
        (change.kind().on_doubt() == OnDoubt::ActAgain || is_between()).then_some(doubtful.id)
    }
}
