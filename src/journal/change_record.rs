//! A change and what became of it, and all of them in their order.

use std::ops::Deref;

use jiff::Timestamp;

use super::plain::PlainData;
use super::record::{ChangeId, Class, Intent, Undoing};
use super::state::ChangeState;
use crate::machine::files::PathText;
use crate::target::Target;

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
    /// How its act failed, when it was last tried.
    pub failed: Option<String>,
    /// The record that said last that it was made or undone; 0 before the first.
    pub settled: u64,
    /// How many of its undo commands have ended well.
    pub undo_commands: usize,
    /// What undoing it needs was removed.
    pub is_forgotten: bool,
    /// What was recorded of its target when it was intended.
    pub(super) recorded_before: Option<Recorded>,
}

/// A recorded state, as kkrun left it.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The state.
    pub state: PlainData,
    /// The record that says so.
    pub at: u64,
}

impl ChangeRecord {
    /// It is about the content of a path.
    pub(super) fn is_of_content(&self) -> bool {
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

    /// The product that it leaves when it is undone so. All else that is undone in part is whole again as far as the change
    /// goes, in a target that others modified, too.
    pub fn leaves(&self, how: Undoing) -> Option<&PathText> {
        match &self.intent.target {
            Target::Product(path) if how == Undoing::InPart => Some(path),
            _ => None,
        }
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
    pub(super) fn forget(&mut self, time: Timestamp) {
        self.is_forgotten = true;
        self.intent.class = Class::Irreversible;
        let day = time.strftime("%Y-%m-%d");
        self.intent.loses = Some(format!("forgotten on {day}: `kkrun forget` removed what undoing it needs"));
    }
}

/// Changes, oldest first. To go through them is work for all of them: what is asked of one is found by its identity, or
/// in an [`Index`](super::Index).
#[derive(Clone, Debug, Default)]
pub struct Changes {
    pub(super) list: Vec<ChangeRecord>,
    /// They were left out: a run that finds nothing to do needs none of them.
    pub(super) is_left_out: bool,
}

impl Changes {
    pub(super) fn position(&self, id: ChangeId) -> Option<usize> {
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

/// A step, or none, of a plan and, if that is not `plan`, its plan.
pub fn whose(of: &str, step: Option<&str>, plan: &str) -> String {
    let step = step.map_or_else(|| "a script without steps".to_owned(), |step| format!("step {step}"));
    if of == plan { step } else { format!("{step} of the plan `{of}`") }
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
