//! Whether a step ran a command before, of which kkrun knows what it changed, and whether that is still there.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::last_known::modified_among;
use super::{Mode, Session, WouldChange, newest_of};
use crate::change::{Change, CommandSource};
use crate::event::{ChangeOutcome, Modification};
use crate::journal::{ChangeId, ChangeState};
use crate::machine::files::FileState;
use crate::target::Target;

/// A command that the step ran before.
pub struct RanBefore {
    /// Its change.
    pub id: ChangeId,
    /// A path that is not as kkrun last left it, and what happened to it.
    pub modified: Option<(PathBuf, Modification)>,
}

impl Session {
    /// What this command, which is about to run, did when the step ran it before. It is asked about each command in the
    /// order of the script: of several equal ones, each has its own.
    ///
    /// A step that did not complete goes on behind what it did: its commands are those that ran since it last was complete,
    /// in other runs than this one. Once this run has changed anything, they run again: they may depend on it. A step that is
    /// examined asks whether all still holds.
    ///
    /// # Errors
    /// When it cannot be observed whether all is there.
    pub fn ran_before(&self, target: &Target, source: &CommandSource) -> Result<Option<RanBefore>> {
        let is_examined = self.mode == Mode::DryRun && self.examines;
        if !is_examined && newest_of(&self.history) > self.newest_before {
            return Ok(None);
        }
        let known = |id: &ChangeId| self.history.change(*id);
        let step = self.step.as_ref().and_then(|step| self.history.step(&self.plan, step));
        let completed = step.map_or(0, |step| step.completed);
        let mut ids = self.history.live().at(target).iter().rev().filter_map(known).filter(|known| {
            known.plan == self.plan
                && known.intent.step == self.step
                && known.state == ChangeState::Done
                && known.id <= self.newest_before
                && (is_examined || known.id > completed)
                && !self.passed.borrow().contains(&known.id)
        });
        let found = ids.find_map(|known| match Change::of_intent(&known.intent) {
            Ok(Change::Captured(change)) if change.was_made_by(source) => Some((known.id, change)),
            _ => None,
        });
        let Some((id, change)) = found else { return Ok(None) };
        let differing = change.not_as_left(&self.world)?;
        let modified = known(&id).map(|known| modified_among(&self.history, &self.world, known, differing));
        let modified = modified.transpose()?.flatten();
        Ok(Some(RanBefore {
            id,
            modified: modified.map(|(path, found)| {
                let happened = match found {
                    FileState::Absent => Modification::Removed,
                    _ => Modification::properties(Vec::new()),
                };
                (path, happened)
            }),
        }))
    }

    /// Refuses to run a command again while a file system is not mounted on which it changed something: it would write to
    /// what is below.
    ///
    /// # Errors
    /// `missing`, with the command that mounts it.
    pub fn refuse_unmounted_paths(&self, target: &Target) -> Result<()> {
        let live = self.history.live().at(target);
        for known in live.iter().filter_map(|id| self.history.change(*id)) {
            if let Ok(Change::Captured(change)) = Change::of_intent(&known.intent) {
                change.refuse_unmounted(&self.world)?;
            }
        }
        Ok(())
    }

    /// The command that ran before is not run again: the next equal one is another.
    pub fn pass(&self, ran: &RanBefore) {
        self.passed.borrow_mut().insert(ran.id);
    }

    /// Counts and reports, in a dry run, a command that would run again, because this path is not as it left it.
    pub fn would_run_again(&mut self, target: Target, summary: String, path: &Path, happened: &Modification) {
        self.report(ChangeOutcome::Would, &target, &summary);
        let found = Some(happened.in_one_line(&Target::file(path).described()));
        self.would.push(WouldChange { target, summary, found, is_repeated: false, is_unsure: false });
    }
}
