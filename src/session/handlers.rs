//! Handlers: what changes trigger is pending until it ran. Each belongs to the step that has it.

use std::cell::RefCell;
use std::collections::BTreeSet;

use anyhow::{Error, Result};

use super::{Mode, Session};
use crate::change::handler::{self, Command};
use crate::change::{Change, Position, Unit, UnitChange};
use crate::event::ChangeOutcome;
use crate::failure::{Failure, FailureKind, sentence};
use crate::journal::{ChangeId, ChangeRecord, Entry, Handler, History, PendingHandler, Settling, StepState};
use crate::target::Target;

/// A part of a script whose changes trigger a handler.
pub(super) struct Block {
    handler: Handler,
    /// How many changes a dry run had foreseen when it began.
    foreseen: usize,
    /// The targets that were asked for in it.
    asked: RefCell<BTreeSet<Target>>,
}

impl Block {
    pub(super) fn asks_for(&self, target: Target) {
        self.asked.borrow_mut().insert(target);
    }

    fn asked_for(&self, change: &ChangeRecord) -> bool {
        change.intent.target.is_asked_for(&self.asked.borrow())
    }
}

impl Session {
    /// Changes made from now on trigger this handler, until [`Session::leave_handler`].
    pub fn enter_handler(&mut self, handler: Handler) {
        self.blocks.push(Block { handler, foreseen: self.would.len(), asked: RefCell::default() });
    }

    /// The innermost block of a handler ends.
    pub fn leave_handler(&mut self) {
        let Some(block) = self.blocks.pop() else { return };
        let triggered = block.handler.sentence();
        if self.would.len() > block.foreseen && !self.would_trigger.contains(&triggered) {
            self.would_trigger.push(triggered);
        }
        if let Some(outer) = self.blocks.last() {
            outer.asked.borrow_mut().extend(block.asked.borrow().iter().cloned());
        }
        self.left_blocks.push(block);
    }

    /// Whether a change made now triggers a handler.
    pub fn triggers_handlers(&self) -> bool {
        !self.blocks.is_empty()
    }

    /// What a change made now triggers.
    pub(super) fn handlers(&self) -> Vec<Handler> {
        self.blocks.iter().map(|block| block.handler.clone()).collect()
    }

    /// The pending handlers of this session's plan.
    pub fn pending(&self) -> impl Iterator<Item = &PendingHandler> {
        self.history.pending.iter().filter(|pending| pending.plan == self.plan)
    }

    /// What is pending of this session's plan, a line each, restarts of the machine included.
    pub fn pending_lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.pending().map(PendingHandler::sentence).collect();
        if let Ok(boot) = crate::machine::clock::boot_id() {
            let reboots = self.history.reboots(&boot).filter(|reboot| reboot.plan == self.plan);
            lines.extend(reboots.map(|reboot| format!("a restart of the machine: {}", reboot.why)));
        }
        lines
    }

    fn pending_of(&self, handler: &Handler) -> Option<&PendingHandler> {
        self.pending().find(|pending| pending.step == self.step && pending.handler == *handler)
    }

    /// Runs the handler of a block that was left, if it is pending: by a change in the block, or by one that the same
    /// step made before the block had this handler.
    ///
    /// # Errors
    /// When the test or a command fails; it stays pending then.
    pub fn settle(&mut self, handler: &Handler) -> Result<bool> {
        if self.mode == Mode::DryRun {
            if let Some(pending) = self.pending_of(handler).cloned() {
                self.foresee_pending(&pending);
            }
            return Ok(false);
        }
        self.take_over(handler)?;
        let Some(pending) = self.pending_of(handler).cloned() else { return Ok(false) };
        self.settle_pending(&pending)?;
        Ok(true)
    }

    /// An earlier version of a block may have left a different handler pending: this one replaces it.
    fn take_over(&mut self, handler: &Handler) -> Result<()> {
        let Some(block) = self.left_blocks.iter().rev().find(|block| block.handler == *handler) else {
            return Ok(());
        };
        let has =
            |id: &ChangeId| self.pending_of(handler).is_some_and(|pending| pending.changes.contains(id));
        let others =
            self.pending().filter(|pending| pending.step == self.step && pending.handler != *handler);
        let mut changes: Vec<ChangeId> = others.flat_map(|pending| pending.changes.iter().copied()).collect();
        changes
            .retain(|id| !has(id) && self.history.change(*id).is_some_and(|change| block.asked_for(change)));
        changes.sort_unstable();
        changes.dedup();
        if !changes.is_empty() {
            let (step, handler) = (self.step.clone(), handler.clone());
            self.record(Entry::Triggered { step, handler, changes })?;
        }
        Ok(())
    }

    /// Runs the handlers still pending after a step has completed. One whose changes another block took over is
    /// replaced; one that no block declares any more is run.
    ///
    /// # Errors
    /// When a test or a command fails; it stays pending then.
    pub fn run_handlers_of_step(&mut self, step: &str) -> Result<()> {
        for pending in self.pending_where(|_, pending| pending.step.as_deref() == Some(step)) {
            let is_block = self.left_blocks.iter().any(|block| block.handler == pending.handler);
            let is_taken_over = |id: &ChangeId| {
                let change = self.history.change(*id);
                change.is_some_and(|change| self.left_blocks.iter().any(|block| block.asked_for(change)))
            };
            if !is_block && pending.changes.iter().all(is_taken_over) {
                self.record_settled(&pending, Settling::Replaced)?;
            } else {
                self.settle_pending(&pending)?;
            }
        }
        Ok(())
    }

    /// Runs the pending handlers of steps that are gone from the plan (`is_gone`), because no later run would. A run
    /// that recorded nothing leaves them. Handlers that undone changes triggered were tried when the run began.
    ///
    /// # Errors
    /// When a test or a command fails; it stays pending then.
    pub fn run_remaining_handlers(&mut self, is_gone: impl Fn(Option<&str>) -> bool) -> Result<()> {
        if self.mode == Mode::DryRun || !self.has_recorded() {
            return Ok(());
        }
        for pending in self
            .pending_where(|history, pending| stands(history, pending) && is_gone(pending.step.as_deref()))
        {
            self.settle_pending(&pending)?;
        }
        Ok(())
    }

    /// Says in a dry run that a pending handler would run. It is nothing of which a step does not hold.
    fn foresee_pending(&mut self, pending: &PendingHandler) {
        let target = Target::Step(pending.step.clone().unwrap_or_default());
        self.note_repeated(target, format!("run what is pending: {}", pending.sentence()));
    }

    /// Runs first the pending handlers that no step of the plan will run: those of undone changes and of complete
    /// steps. One that fails is reported and stays pending. A dry run names them.
    pub fn run_handlers_first(&mut self) -> Result<()> {
        let is_over = |history: &History, change: &ChangeRecord| {
            let step = change.intent.step.as_ref();
            let record = step.and_then(|step| history.step(&change.plan, step));
            !change.is_live() || record.is_some_and(|record| record.state == StepState::Complete)
        };
        let due = self.pending_where(|history, pending| {
            let mut changes = pending.changes.iter().filter_map(|id| history.change(*id));
            changes.all(|change| is_over(history, change))
        });
        for pending in due {
            if self.mode == Mode::DryRun {
                self.foresee_pending(&pending);
            } else if let Err(error) = self.settle_pending(&pending) {
                self.check_interruption()?;
                self.world.reporter.note(format!(
                    "{} stays pending: {error}",
                    pending.sentence(),
                    error = sentence(&error)
                ));
            }
        }
        Ok(())
    }

    /// The live changes of this step that triggered a handler which is pending, newest first.
    pub fn changes_triggering(&self, handler: &Handler) -> Vec<ChangeId> {
        let mut changes = self.pending_of(handler).map(|pending| pending.changes.clone()).unwrap_or_default();
        changes.retain(|id| self.history.change(*id).is_some_and(ChangeRecord::is_live));
        changes.sort_unstable_by(|left, right| right.cmp(left));
        changes
    }

    /// Forgets a pending handler without running it.
    pub fn drop_pending(&mut self, pending: &PendingHandler) -> Result<()> {
        self.record_settled(pending, Settling::Dropped)
    }

    fn pending_where(&self, is_due: impl Fn(&History, &PendingHandler) -> bool) -> Vec<PendingHandler> {
        self.pending().filter(|pending| is_due(&self.history, pending)).cloned().collect()
    }

    fn record_settled(&mut self, pending: &PendingHandler, how: Settling) -> Result<()> {
        let (step, handler) = (pending.step.clone(), pending.handler.clone());
        self.record(Entry::Settled { step, handler, how })?;
        Ok(())
    }

    fn settle_pending(&mut self, pending: &PendingHandler) -> Result<()> {
        if stands(&self.history, pending) { self.settle_made(pending) } else { self.settle_undone(pending) }
    }

    /// Tests and runs what changes have triggered that stand.
    fn settle_made(&mut self, pending: &PendingHandler) -> Result<()> {
        let handler = &pending.handler;
        handler::test(&self.world, handler).map_err(named_as_test)?;
        let at_stake = handler::at_stake(&self.world, handler)?;
        let mut run = || -> Result<()> {
            for command in handler::commands(handler) {
                self.run_command(&command, handler, pending.step.as_deref())?;
            }
            handler::restart(&self.world, handler)
        };
        let ran = run();
        self.record_brought_down(at_stake, pending)?;
        ran.map_err(|error| stays_pending(pending, error))?;
        self.record_settled(pending, Settling::Ran)
    }

    /// Records that units which ran do not any more, so that a rollback starts them again.
    fn record_brought_down(&mut self, at_stake: Vec<Unit>, pending: &PendingHandler) -> Result<()> {
        for unit in at_stake {
            if unit.is_running(&self.world)? {
                continue;
            }
            let change = Change::Unit(UnitChange::brought_down(unit));
            let mut intent = change.intent()?;
            intent.step.clone_from(&pending.step);
            let id = self.record(Entry::Intent(Box::new(intent)))?;
            let recorded = change.kind().recorded(&self.world)?;
            self.record(Entry::Done { change: id, recorded, unsynced: false })?;
            self.changed += 1;
            self.report_change(ChangeOutcome::Made, &change, None);
        }
        Ok(())
    }

    /// Runs a command of a handler. What it starts, stops or enables is a change of its own.
    fn run_command(&mut self, command: &Command, handler: &Handler, step: Option<&str>) -> Result<()> {
        let mut changes = Vec::new();
        for (unit, desired) in command.desired_units(&self.world)? {
            let change = UnitChange::towards(&self.world, unit, desired)?;
            changes.extend(change.filter(|change| !change.is_about_nothing()).map(Change::Unit));
        }
        let mut made = Vec::new();
        for change in changes {
            let id = if let Some(id) = self.half_done(&change, &change.kind().target()) {
                id
            } else {
                let mut intent = change.intent()?;
                intent.step = step.map(str::to_owned);
                self.record(Entry::Intent(Box::new(intent)))?
            };
            made.push((id, change));
        }
        let ran = command.run(&self.world, handler);
        if ran.is_err() {
            self.check_interruption()?;
        }
        for (id, change) in made {
            let kind = change.kind();
            match kind.position(&self.world) {
                Ok(Position::After) => {
                    let recorded = kind.recorded(&self.world)?;
                    self.record(Entry::Done { change: id, recorded, unsynced: false })?;
                    self.changed += 1;
                    self.report_change(ChangeOutcome::Made, &change, None);
                }
                Ok(Position::Before) => {
                    let why = "the handler left it as it was".to_owned();
                    self.record(Entry::Void { change: id, why })?;
                }
                Ok(Position::Between | Position::Neither(_)) | Err(_) => {}
            }
        }
        ran
    }

    /// Runs what undone changes have pending, as far as there is something to run: on the state from before the test
    /// only guards the commands, for what it names may be gone with what was undone.
    ///
    /// # Errors
    /// When a command fails; it stays pending then.
    pub fn settle_undone(&mut self, pending: &PendingHandler) -> Result<()> {
        let handler = &pending.handler;
        let due = handler::due_after_undo(&self.world, handler)?;
        if due.is_empty() {
            due.read_files(&self.world, handler).map_err(|error| stays_pending(pending, error))?;
            return self.record_settled(pending, Settling::Undone);
        }
        if let Err(error) = handler::test(&self.world, handler) {
            self.check_interruption()?;
            // A test that could not be run says nothing.
            if error.downcast_ref::<Failure>().is_none_or(|failure| failure.kind != FailureKind::Test) {
                return Err(stays_pending(pending, error));
            }
            let why = format!(
                "not run after the undo: {}, because {error}",
                pending.sentence(),
                error = sentence(&error)
            );
            self.world.reporter.note(why);
            due.read_files(&self.world, handler).map_err(|error| stays_pending(pending, error))?;
            return self.record_settled(pending, Settling::Undone);
        }
        let at_stake = handler::at_stake(&self.world, handler)?;
        let ran = due.run(&self.world, handler);
        self.record_brought_down(at_stake, pending)?;
        ran.map_err(|error| stays_pending(pending, error))?;
        self.record_settled(pending, Settling::Ran)
    }
}

/// Whether a change that triggered it is not undone.
fn stands(history: &History, pending: &PendingHandler) -> bool {
    pending.changes.iter().filter_map(|id| history.change(*id)).any(ChangeRecord::is_live)
}

/// A failed test as the failure of the step that has it.
fn named_as_test(error: Error) -> Error {
    match error.downcast::<Failure>() {
        Ok(mut failure) if failure.kind == FailureKind::Test => {
            failure.message = format!("the test of a handler failed: {}", failure.message);
            failure.into()
        }
        Ok(failure) => failure.into(),
        Err(error) => error,
    }
}

fn stays_pending(pending: &PendingHandler, error: Error) -> Error {
    let number = pending.number;
    match error.downcast::<Failure>() {
        Ok(failure) => failure
            .hint("it stays pending: the next run of the plan tries it again, as the script then defines it")
            .hint(format!("to drop it, run `kkrun pending --drop {number}`"))
            .into(),
        Err(error) => error,
    }
}
