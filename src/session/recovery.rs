//! Recovers what a killed run left in doubt or half undone, before anything else is done.

use anyhow::{Context, Result, bail};

use super::recorder::Recorder;
use super::undo::refuse_unmounted;
use super::{ConflictPolicy, Session};
use crate::change::{Change, OnDoubt, Position, UndoTerms, Undone};
use crate::event::Modification;
use crate::failure::{Failure, FailureKind, sentence};
use crate::journal::{ChangeId, ChangeRecord, ChangeState, Entry, Undoing};

impl Session {
    /// Takes the machine's lock and the journal, ends or awaits what a killed run left running, and probes
    /// what it left in doubt. Does nothing the second time.
    ///
    /// # Errors
    /// With [`ExitCode::LOCKED`](crate::exit_code::ExitCode::LOCKED) when another run holds the lock, with [`ExitCode::JOURNAL`](crate::exit_code::ExitCode::JOURNAL) when the journal
    /// is not to be relied on; when a rollback was interrupted; when a target in doubt
    /// was modified outside kkrun. Called again, it fails again.
    pub fn begin_acting(&mut self) -> Result<()> {
        self.open_journal()?;
        if self.settled || matches!(self.recorder, Recorder::None) {
            return Ok(());
        }
        self.refuse_unfinished_rollback()?;
        self.recover_doubts(true)?;
        self.settled = true;
        Ok(())
    }

    /// A run begins after the end of a rollback only.
    ///
    /// # Errors
    /// When a rollback was interrupted.
    pub fn refuse_unfinished_rollback(&self) -> Result<()> {
        if let Some(unfinished) = &self.history.rollback {
            bail!(
                Failure::new("cannot start a run: a rollback was interrupted and is not finished")
                    .hint(format!("finish it with `{}`, then run this again", unfinished.invocation()))
            );
        }
        Ok(())
    }

    /// The same for a rollback: it finishes one that was interrupted, and what is in doubt is undone too.
    ///
    /// # Errors
    /// As [`Session::begin_acting`], except what a rollback itself resolves.
    pub fn begin_undoing(&mut self) -> Result<()> {
        self.open_journal()?;
        if !self.settled {
            self.recover_doubts(false)?;
            self.settled = true;
        }
        Ok(())
    }

    /// Begins acting at once if a killed run may have left something running or in doubt: what is observed
    /// before that is recovered may change a moment later.
    ///
    /// # Errors
    /// As [`Session::begin_acting`].
    pub fn recover_before_looking(&mut self) -> Result<()> {
        if !matches!(self.recorder, Recorder::Closed(_)) {
            return Ok(());
        }
        let in_doubt = self.history.in_doubt().next().is_some();
        if in_doubt || self.world.processes.has_records_of_others()? { self.begin_acting() } else { Ok(()) }
    }

    /// Probes every change whose outcome a dead run did not record. With `stop`, one that is neither as before
    /// nor as after and cannot be half done is an error: it was modified outside kkrun.
    pub(super) fn recover_doubts(&mut self, stop: bool) -> Result<()> {
        let doubtful: Vec<_> = self.history.in_doubt().cloned().collect();
        if self.history.awaits_sync() {
            self.world.doubt_durability();
        }
        if stop {
            self.recover_half_undone()?;
            self.repair_half_undone()?;
        }
        for known in doubtful {
            if self.history.is_doubted_since_restart(&known) {
                self.world.reporter.note(format!(
                    "{} is in doubt: the machine restarted before all that its command wrote was on the disk",
                    known.intent.target.described()
                ));
            }
            let looked = Change::of_intent(&known.intent).and_then(|change| {
                let look = || {
                    refuse_unmounted(&known.intent)?;
                    // A rollback repairs in its own way.
                    if stop {
                        change.kind().repair(&self.world)?;
                        change.kind().withdraw(&self.world)?;
                    }
                    change.kind().position(&self.world)
                };
                let position = look().with_context(|| {
                    format!("cannot determine what a killed run did to {}", known.intent.target.described())
                })?;
                Ok((change, position))
            });
            let (change, position) = match looked {
                Ok(looked) => looked,
                // What contains it may not exist yet, such as a server that a later step starts.
                Err(error) => {
                    self.check_interruption()?;
                    let target = &known.intent.target;
                    self.world.reporter.note(format!(
                        "{} stays in doubt: {}",
                        target.described(),
                        sentence(&error)
                    ));
                    continue;
                }
            };
            tracing::debug!(
                change = known.id,
                target = %known.intent.target,
                ?position,
                "probed what was in doubt"
            );
            match position {
                // A newer change to the target was made on top of this one. Both are made again.
                Position::Before
                    if self.history.live().at(&known.intent.target).last() != Some(&known.id) => {}
                // Also what a killed run, or its withdrawal, put back may be unsynced.
                Position::Before => {
                    self.world.doubt_durability();
                    self.append(Entry::Void { change: known.id, why: "found as before".to_owned() })?;
                }
                Position::After => {
                    let recorded = self.recorded_of(&change)?;
                    self.world.doubt_durability();
                    self.append(Entry::Done { change: known.id, recorded, unsynced: false })?;
                }
                Position::Neither(difference) if stop && change.kind().on_doubt() == OnDoubt::Stop => {
                    self.recover_conflicting_doubt(known.id, &change, &difference)?;
                }
                Position::Between | Position::Neither(_) => {}
            }
        }
        Ok(())
    }

    /// Changes that were being undone outside a rollback, because the test of their handler failed, when the
    /// run was killed: those that are as before are recorded so.
    pub(super) fn recover_half_undone(&mut self) -> Result<()> {
        let changes = self.history.open().filter(|change| change.state == ChangeState::Undoing);
        for known in changes.cloned().collect::<Vec<_>>() {
            match self.undo_now(&known, UndoTerms { dry_run: true, ..UndoTerms::default() }) {
                Ok(Undone::Back(how @ Undoing::Already, recorded)) => {
                    self.world.doubt_durability();
                    self.append(Entry::Undone { change: known.id, how, recorded })?;
                }
                Ok(_) => {}
                Err(_) => self.check_interruption()?,
            }
        }
        Ok(())
    }

    /// Repairs what a failed undo action left half done; its change still counts as made. One that is made at once or not
    /// at all is withdrawn: its command must not find half of it.
    pub(super) fn repair_half_undone(&self) -> Result<()> {
        let is_failed = |change: &&ChangeRecord| matches!(change.state, ChangeState::UndoFailed(_));
        for known in self.history.open().filter(is_failed) {
            let repaired = Change::of_intent(&known.intent).and_then(|change| {
                change.kind().repair(&self.world)?;
                change.kind().withdraw(&self.world).map(drop)
            });
            if let Err(error) = repaired {
                self.check_interruption()?;
                self.world.reporter.note(format!(
                    "{} stays half undone: {error}",
                    known.intent.target.described(),
                    error = sentence(&error)
                ));
            }
        }
        Ok(())
    }

    pub(super) fn recover_conflicting_doubt(
        &mut self,
        id: ChangeId,
        change: &Change,
        difference: &str,
    ) -> Result<()> {
        let target = change.kind().target();
        self.report_conflict(&target, &change.kind().summary(), &Modification::shown(difference));
        match self.on_conflict {
            ConflictPolicy::Keep => {
                if !change.kind().is_run_again() {
                    let against = change.intent()?.after.value();
                    self.append(Entry::ConflictKept { target, against })?;
                }
                self.append(Entry::Void { change: id, why: "the operator kept the state found".to_owned() })?;
            }
            ConflictPolicy::Overwrite => {
                self.append(Entry::Void {
                    change: id,
                    why: "the operator chose to make it again".to_owned(),
                })?;
            }
            ConflictPolicy::Ask => {
                let has_failed = self.history.change(id).is_some_and(|known| known.failed.is_some());
                let run = if has_failed { "a run that failed" } else { "a killed run" };
                let failure = Failure::new(format!(
                    "cannot continue: {} is neither as before nor as desired after {run} changed it",
                    target.described()
                ))
                .kind(FailureKind::InDoubt)
                .hint(if change.kind().is_run_again() {
                    "`--on-conflict keep` runs the command on what is there"
                } else {
                    "`--on-conflict keep` continues from what is there"
                })
                .hint("`--on-conflict overwrite` makes the change again")
                .hint("`kkrun rollback` undoes what can be undone and shows the difference");
                bail!(failure);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use crate::event::{Answer, Audience, Event, Question, Reporter};
    use crate::journal::Undoing;
    use crate::session::testing::Ground;

    /// What a run does first, with this answer to conflicts.
    fn recovered(ground: &Ground, on_conflict: ConflictPolicy) -> Result<Session> {
        let mut session = ground.run_with(on_conflict);
        session.begin_acting()?;
        Ok(session)
    }

    #[test]
    fn change_in_doubt_is_void_where_nothing_was_done() {
        let ground = Ground::new();
        ground.killed_before_writing("f", "new\n");
        recovered(&ground, ConflictPolicy::Ask).unwrap();
        assert_eq!(ground.states(), [ChangeState::Void]);
    }

    #[test]
    fn change_in_doubt_is_done_where_it_was_made_and_can_be_undone() {
        let ground = Ground::new();
        ground.killed_before_writing("f", "new\n");
        ground.put("f", "new\n");
        let mut session = recovered(&ground, ConflictPolicy::Ask).unwrap();
        assert_eq!(ground.states(), [ChangeState::Done]);
        let id = session.history().changes[0].id;
        assert_eq!(session.undo(id, false).unwrap(), ChangeState::Undone(Undoing::Restored));
        assert_eq!(ground.text("f"), None);
    }

    #[test]
    fn run_stops_at_a_target_in_doubt_that_was_modified_outside_kkrun() {
        let ground = Ground::new();
        ground.killed_before_writing("f", "new\n");
        ground.put("f", "theirs\n");
        let error = recovered(&ground, ConflictPolicy::Ask).err().unwrap();
        assert_eq!(error.downcast_ref::<Failure>().unwrap().kind, FailureKind::InDoubt);
        assert_eq!(ground.states(), [ChangeState::InDoubt]);
        // It stays so until someone decides.
        assert!(recovered(&ground, ConflictPolicy::Ask).is_err());
        recovered(&ground, ConflictPolicy::Keep).unwrap();
        assert_eq!(
            (ground.states(), ground.text("f").unwrap()),
            (vec![ChangeState::Void], "theirs\n".into())
        );
    }

    #[test]
    fn target_in_doubt_that_cannot_be_observed_stays_in_doubt_and_stops_nothing() {
        let ground = Ground::new();
        std::fs::create_dir(ground.path("d")).unwrap();
        ground.killed_before_writing("d/f", "new\n");
        std::fs::remove_dir(ground.path("d")).unwrap();
        std::os::unix::fs::symlink("d", ground.path("d")).unwrap();
        recovered(&ground, ConflictPolicy::Ask).unwrap();
        assert_eq!(ground.states(), [ChangeState::InDoubt]);
    }

    struct Notes(Rc<RefCell<Vec<String>>>);

    impl Audience for Notes {
        fn hear(&self, event: &Event) {
            if let Event::Note { text } = event {
                self.0.borrow_mut().push(text.clone());
            }
        }

        fn ask(&self, _: &Question) -> Result<Option<Answer>> {
            Ok(None)
        }
    }

    #[test]
    fn what_a_restart_of_the_machine_puts_in_doubt_is_named_as_people_call_it() {
        for unsynced in [true, false] {
            let ground = Ground::new();
            ground.killed_after_writing("f", "new\n", unsynced);
            ground.restart();
            let heard = Rc::new(RefCell::new(Vec::new()));
            let mut session = ground.run();
            session.world.reporter = Reporter::new(Box::new(Notes(Rc::clone(&heard))));
            session.begin_acting().unwrap();
            let said = format!(
                "`{}` is in doubt: the machine restarted before all that its command wrote was on the disk",
                ground.path("f").display()
            );
            assert_eq!(*heard.borrow(), if unsynced { vec![said] } else { Vec::new() });
            assert_eq!(ground.states(), [ChangeState::Done], "it is found made");
        }
    }

    #[test]
    fn commands_that_a_restart_put_in_doubt_are_run_again_in_their_order_and_undone() {
        // Power was lost while the second ran; of the first it left everything, nothing, or a part.
        for left in [&["one", "two"][..], &[], &["two"]] {
            let ground = Ground::new();
            let mut session = ground.run();
            ground.make(&mut session, "one").unwrap();
            ground.begin_to_make(&mut session, "two");
            drop(session);
            ground.restart();
            std::fs::remove_dir_all(ground.path("built")).unwrap();
            for name in left {
                std::fs::create_dir_all(ground.path("built")).unwrap();
                ground.put(&format!("built/{name}"), "torn");
            }

            let mut session = recovered(&ground, ConflictPolicy::Ask).unwrap();
            for name in ["one", "two"] {
                ground.make(&mut session, name).unwrap();
            }
            for name in ["one", "two"] {
                assert_eq!(ground.text(&format!("built/{name}")), Some(format!("{name}\n")), "{left:?}");
            }
            let changes = session.history().changes.to_vec();
            assert!(changes.iter().all(|change| change.state == ChangeState::Done), "{changes:?}");
            assert_eq!(changes.len(), 2, "none is intended twice: {changes:?}");
            for change in changes.iter().rev() {
                session.undo(change.id, false).unwrap();
            }
            assert!(!ground.path("built").exists(), "{left:?}");
        }
    }

    #[test]
    fn undo_outside_a_rollback_that_was_killed_is_undone_only_if_all_is_as_before() {
        for (is_back, state) in [(true, ChangeState::Undone(Undoing::Already)), (false, ChangeState::Undoing)]
        {
            let ground = Ground::new();
            let mut session = ground.run();
            ground.write(&mut session, "01", "f", "new\n");
            let change = session.history().changes[0].id;
            session.record(Entry::UndoIntent { change }).unwrap();
            drop(session);
            if is_back {
                std::fs::remove_file(ground.path("f")).unwrap();
            }
            recovered(&ground, ConflictPolicy::Ask).unwrap();
            assert_eq!(ground.states(), [state]);
        }
    }

    #[test]
    fn run_is_refused_after_an_interrupted_rollback_which_goes_on_itself() {
        let ground = Ground::new();
        let mut session = ground.run();
        ground.write(&mut session, "01", "f", "new\n");
        session.record(Entry::RollbackStarted { steps: None, purge: Vec::new(), force: false }).unwrap();
        drop(session);
        let error = recovered(&ground, ConflictPolicy::Ask).err().unwrap();
        assert!(format!("{error:#}").contains("a rollback was interrupted"), "{error:#}");
        let mut session = ground.run();
        session.begin_undoing().unwrap();
    }
}
