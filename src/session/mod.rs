//! One run against the machine: what it records, the changes that it makes and undoes, the handlers that they trigger, and
//! what it recovers first.

mod conflict;
mod handlers;
mod last_known;
mod perform;
mod ran_before;
mod recorder;
mod recovery;
#[cfg(test)]
pub(crate) mod testing;
mod undo;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use anyhow::Result;

use crate::change::World;
use crate::event::Reporter;
use crate::journal::{ChangeId, ChangeRecord, ChangeState, History};
use crate::target::Target;
use handlers::Block;
use recorder::Recorder;

pub use conflict::ConflictPolicy;
pub use recorder::Opening;
pub use undo::{Assumed, Later};

/// Whether changes are made or only shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Make them.
    Act,
    /// Show what would be made.
    DryRun,
}

/// A change that would be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WouldChange {
    /// The target.
    pub target: Target,
    /// One line.
    pub summary: String,
    /// What was found at the target, if something other than kkrun modified it.
    pub found: Option<String>,
    /// It is made whenever its step runs, so it says nothing about whether the step still holds.
    pub is_repeated: bool,
    /// Whether it will be made cannot be known before what comes before it is.
    pub is_unsure: bool,
}

/// One run of kkrun against the machine.
pub struct Session {
    /// What changes are made with.
    pub world: World,
    /// Whether they are made.
    pub mode: Mode,
    /// What to do about conflicts.
    pub on_conflict: ConflictPolicy,
    /// Shared with a session that only examines, and written by none but this one.
    history: Rc<History>,
    recorder: Recorder,
    plan: String,
    step: Option<String>,
    /// The blocks of handlers that a script is in, the innermost last.
    blocks: Vec<Block>,
    /// Those of this step that it has left.
    left_blocks: Vec<Block>,
    would: Vec<WouldChange>,
    /// How many of these the steps before would make.
    would_before_step: usize,
    /// What these would trigger, a line each.
    would_trigger: Vec<String>,
    /// The targets that were asked for since this was taken last.
    asked: RefCell<BTreeSet<Target>>,
    changed: usize,
    not_undone: usize,
    /// The newest change of which the journal knew when this session began.
    newest_before: ChangeId,
    /// The changes of earlier runs whose commands this one has come to in the step.
    passed: RefCell<BTreeSet<ChangeId>>,
    /// A dry run looks whether a complete step still holds.
    pub examines: bool,
    /// What a killed run left in doubt was probed.
    settled: bool,
}

/// The newest change. A run that does nothing knows of none.
fn newest_of(history: &History) -> ChangeId {
    let newest = (!history.is_brief()).then(|| history.changes.last()).flatten();
    newest.map_or(0, |change| change.id)
}

impl Session {
    /// A session for a dry run.
    pub fn new(world: World, history: impl Into<Rc<History>>, plan: &str) -> Self {
        let history = history.into();
        Self {
            newest_before: newest_of(&history),
            passed: RefCell::default(),
            examines: false,
            world,
            mode: Mode::DryRun,
            on_conflict: ConflictPolicy::default(),
            history,
            recorder: Recorder::None,
            plan: plan.to_owned(),
            step: None,
            blocks: Vec::new(),
            left_blocks: Vec::new(),
            would: Vec::new(),
            would_before_step: 0,
            would_trigger: Vec::new(),
            asked: RefCell::default(),
            changed: 0,
            not_undone: 0,
            settled: false,
        }
    }

    /// A session that acts, and records what it does.
    pub fn acting(world: World, history: History, plan: &str, opening: Opening) -> Self {
        let recorder = Recorder::Closed(Box::new(opening));
        Self { mode: Mode::Act, recorder, ..Self::new(world, history, plan) }
    }

    /// What the journal says, this run's own records included.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The same for another session.
    pub fn shared_history(&self) -> Rc<History> {
        Rc::clone(&self.history)
    }

    /// The change of this plan to a target that a killed run left in doubt. Of several, which a restart of the machine put
    /// in doubt, the oldest: the script makes them again in their order, each on top of what those before it made.
    pub fn doubtful(&self, target: &Target) -> Option<&ChangeRecord> {
        self.open_at(target).find(|known| known.state == ChangeState::InDoubt)
    }

    /// The newest change of this plan to a target whose inverse failed.
    pub fn half_undone(&self, target: &Target) -> Option<&ChangeRecord> {
        self.open_at(target).rfind(|known| matches!(known.state, ChangeState::UndoFailed(_)))
    }

    fn open_at<'a>(&'a self, target: &Target) -> impl DoubleEndedIterator<Item = &'a ChangeRecord> {
        self.history.open().filter(move |known| known.intent.target == *target && known.plan == self.plan)
    }

    /// The plan's name.
    pub fn plan(&self) -> &str {
        &self.plan
    }

    /// Where events, warnings and questions go.
    pub fn reporter(&self) -> Rc<Reporter> {
        Rc::clone(&self.world.reporter)
    }

    /// The step that changes belong to from now on.
    pub fn enter_step(&mut self, step: Option<&str>) {
        self.step = step.map(str::to_owned);
        self.passed.borrow_mut().clear();
        self.would_before_step = self.would.len();
        self.blocks.clear();
        self.left_blocks.clear();
    }

    /// The step that changes belong to.
    pub fn step(&self) -> Option<&str> {
        self.step.as_deref()
    }

    /// How many changes were made or undone, or would be.
    pub fn changed(&self) -> usize {
        match self.mode {
            Mode::Act => self.changed,
            Mode::DryRun => self.changed + self.would.len(),
        }
    }

    /// How many changes a rollback came to that cannot be undone.
    pub fn not_undone(&self) -> usize {
        self.not_undone
    }

    /// Counts what a rollback would undo.
    pub fn count_undone(&mut self, changes: usize) {
        self.changed += changes;
    }

    /// Counts what a rollback cannot undo.
    pub fn count_not_undone(&mut self, changes: usize) {
        self.not_undone += changes;
    }

    /// The changes that would be made, as far as the dry run went.
    pub fn would_change(&self) -> &[WouldChange] {
        &self.would
    }

    /// Whether the step would change something, as far as the dry run went.
    pub fn step_would_change(&self) -> bool {
        self.would.len() > self.would_before_step
    }

    /// What the changes that would be made would trigger, a line for each handler.
    pub fn would_trigger(&self) -> &[String] {
        &self.would_trigger
    }

    /// Forgets what would be triggered, but for the first so many.
    pub fn forget_would_trigger_since(&mut self, first: usize) {
        self.would_trigger.truncate(first);
    }

    /// Counts changes that would be made.
    pub fn count_would_change(&mut self, changes: Vec<WouldChange>) {
        self.would.extend(changes);
    }

    /// Forgets the changes that would be made, but for the first so many, and gives them.
    pub fn forget_would_change_since(&mut self, first: usize) -> Vec<WouldChange> {
        self.would.split_off(first)
    }

    /// Fails when the run was asked to stop.
    pub fn check_interruption(&self) -> Result<()> {
        self.world.processes.check_interruption()
    }

    /// Notes that a script asks for a target, whether or not it is as desired.
    pub fn asks_for(&self, target: impl FnOnce() -> Target) {
        let target = target();
        if self.mode == Mode::Act
            && let Some(block) = self.blocks.last()
        {
            block.asks_for(target.clone());
        }
        self.asked.borrow_mut().insert(target);
    }

    /// What this step of the plan asked for and found as desired, as its claims are recorded.
    pub fn claims_of(&self, step: &str) -> Vec<Target> {
        self.history.claimed_by(&self.plan, step, self.take_asked())
    }

    /// The targets that were asked for since this was asked last.
    pub fn take_asked(&self) -> BTreeSet<Target> {
        self.asked.take()
    }
}
