//! Makes changes: look, intent, act, look again, done. The only caller of an act, and the only writer of
//! the journal.

mod last_known;
mod pending;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::change::{
    Change, CommandInverse, FileRecord, Found, Made, OnDoubt, Position, ProductRecord, UndoTerms, Undone,
    World, state_value,
};
use crate::event::{Answer, ChangeOutcome, Event, Question, Reporter};
use crate::failure::{self, Failure};
use crate::journal::{
    self, ChangeId, ChangeRecord, ChangeState, Class, Entry, History, Intent, Journal, Loaded, Undoing,
    Writer,
};
use crate::machine::backups;
use crate::machine::files::{FileState, PathText};
use crate::machine::lock::{Attempt, Lock};
use crate::machine::secret_store::SecretStore;
use crate::target::{States, Target};
use last_known::{LastKnown, last_known_at};
use pending::Block;

/// Whether changes are made or only shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Make them.
    Act,
    /// Show what would be made.
    DryRun,
}

/// What to do about a target modified outside kkrun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConflictPolicy {
    /// Show the difference and ask.
    #[default]
    Ask,
    /// Keep what is there and record it.
    Keep,
    /// Replace it; it is backed up like every before-state.
    Overwrite,
}

/// A change that would be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WouldChange {
    /// The target.
    pub target: Target,
    /// One line.
    pub summary: String,
    /// It is made whenever its step runs, so it says nothing about whether the step still holds.
    pub is_repeated: bool,
}

/// How a session gets to record.
pub struct Opening {
    /// The state directory.
    pub directory: PathBuf,
    /// Who writes.
    pub writer: Writer,
    /// What is recorded right before the first record, if there is one.
    pub entries: Vec<Entry>,
    /// The journal as it was read before the lock was taken; read again only if it was written since.
    pub loaded: Loaded,
}

/// What a session records with.
enum Recorder {
    /// Nothing: a dry run.
    None,
    /// Nothing yet: it takes the lock when it first acts, so that a script which changes nothing never does.
    Closed(Box<Opening>),
    /// The journal, under the lock.
    Open { journal: Journal, _lock: Lock },
}

/// One run of kkrun against the machine.
pub struct Session {
    /// What changes are made with.
    pub world: World,
    /// Whether they are made.
    pub mode: Mode,
    /// What to do about conflicts.
    pub on_conflict: ConflictPolicy,
    history: History,
    recorder: Recorder,
    plan: String,
    step: Option<String>,
    /// The blocks of handlers that a script is in, the innermost last.
    blocks: Vec<Block>,
    /// Those of this step that it has left.
    left_blocks: Vec<Block>,
    would: Vec<WouldChange>,
    /// The targets that were asked for, in a dry run.
    asked: RefCell<BTreeSet<Target>>,
    changed: usize,
    /// What a killed run left in doubt was probed.
    settled: bool,
}

impl Session {
    /// A session for a dry run.
    pub fn new(world: World, history: History, plan: &str) -> Self {
        Self {
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
            asked: RefCell::default(),
            changed: 0,
            settled: false,
        }
    }

    /// A session that acts, and records what it does.
    pub fn acting(world: World, history: History, plan: &str, opening: Opening) -> Self {
        let recorder = Recorder::Closed(Box::new(opening));
        Self { mode: Mode::Act, recorder, ..Self::new(world, history, plan) }
    }

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
        if let Some(unfinished) = &self.history.rollback {
            bail!(
                Failure::new("cannot start a run: a rollback was interrupted and is not finished")
                    .hint(format!("finish it with `{}`, then run this again", unfinished.invocation()))
            );
        }
        self.recover_doubts(true)?;
        self.settled = true;
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

    fn open_journal(&mut self) -> Result<()> {
        let Recorder::Closed(opening) = &mut self.recorder else { return Ok(()) };
        // A journal that was read was in a trusted directory.
        if !opening.loaded.exists {
            // First where it is going to be, then what is there: it may have been created meanwhile.
            journal::check_state_directory(&opening.directory)?;
            journal::make_state_directory(&opening.directory)?;
            journal::check_state_directory(&opening.directory)?;
        }
        let lock = match Lock::acquire(&opening.directory.join("lock"))? {
            Attempt::Acquired(lock) => lock,
            Attempt::Held(holder) => return Err(holder.failure().into()),
        };
        let mut loaded = std::mem::take(&mut opening.loaded);
        if !loaded.is_current(&opening.directory) {
            loaded = journal::load(&opening.directory)?;
            self.history = std::mem::take(&mut loaded.history);
        }
        backups::clear_unfinished(&opening.directory.join("backups"))?;
        SecretStore::below(&opening.directory).clear_unfinished()?;
        let mut journal = Journal::take_over(&opening.directory, &loaded, opening.writer.clone())?;
        journal.open_run_with(std::mem::take(&mut opening.entries));
        self.recorder = Recorder::Open { journal, _lock: lock };
        self.world.end_orphans()
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
        let in_doubt = self.history.changes.iter().any(|change| change.state == ChangeState::InDoubt);
        if in_doubt || self.world.processes.has_records_of_others()? { self.begin_acting() } else { Ok(()) }
    }

    /// What the journal says, this run's own records included.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The newest change of this plan to a target that a killed run left in doubt.
    pub fn doubtful(&self, target: &Target) -> Option<&ChangeRecord> {
        self.newest(target, |state| *state == ChangeState::InDoubt)
    }

    /// The newest change of this plan to a target whose inverse failed.
    pub fn half_undone(&self, target: &Target) -> Option<&ChangeRecord> {
        self.newest(target, |state| matches!(state, ChangeState::UndoFailed(_)))
    }

    fn newest(&self, target: &Target, is_it: impl Fn(&ChangeState) -> bool) -> Option<&ChangeRecord> {
        let mut changes = self.history.changes.iter().rev();
        changes.find(|known| known.intent.target == *target && known.plan == self.plan && is_it(&known.state))
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
        self.blocks.clear();
        self.left_blocks.clear();
    }

    /// The step that changes belong to.
    pub fn step(&self) -> Option<&str> {
        self.step.as_deref()
    }

    /// How many changes were made, or would be.
    pub fn changed(&self) -> usize {
        match self.mode {
            Mode::Act => self.changed,
            Mode::DryRun => self.would.len(),
        }
    }

    /// The changes that would be made, as far as the dry run went.
    pub fn would_change(&self) -> &[WouldChange] {
        &self.would
    }

    /// Forgets the changes that would be made.
    pub fn forget_would_change(&mut self) {
        self.would.clear();
    }

    /// Appends to the journal.
    ///
    /// # Errors
    /// When it cannot be made durable; nothing more may be done then.
    pub fn record(&mut self, entry: Entry) -> Result<ChangeId> {
        self.begin_acting()?;
        self.append(entry)
    }

    fn append(&mut self, entry: Entry) -> Result<ChangeId> {
        if entry.promises() {
            self.world.make_durable();
        }
        let Recorder::Open { journal, .. } = &mut self.recorder else {
            bail!("internal error: a dry run cannot record")
        };
        // What is written stays written.
        if let Err(why) = self.history.check(&entry) {
            bail!(
                Failure::new(format!("internal error: refused to write a record that {why}"))
                    .kind("panic")
                    .hint("this is a bug in kkrun; what was done before is recorded")
            );
        }
        let mut id = 0;
        for record in journal.append(entry)? {
            id = record.header.seq;
            self.history.apply(record)?;
        }
        Ok(id)
    }

    /// Records these right before the first record, if there is one.
    pub fn remember(&mut self, entries: Vec<Entry>) {
        if let Recorder::Closed(opening) = &mut self.recorder {
            opening.entries.extend(entries);
        }
    }

    /// Makes the start of the journal durable before anything else is written to the state directory.
    fn begin_recording(&mut self) -> Result<()> {
        let Recorder::Open { journal, .. } = &mut self.recorder else { return Ok(()) };
        for record in journal.begin()? {
            self.history.apply(record)?;
        }
        Ok(())
    }

    /// Whether this run has recorded anything.
    pub fn has_recorded(&self) -> bool {
        matches!(&self.recorder, Recorder::Open { journal, .. } if journal.recorded() > 0)
    }

    /// Fails when the run was asked to stop.
    pub fn check_interruption(&self) -> Result<()> {
        self.world.processes.check_interruption()
    }

    /// Makes a change, or shows it in a dry run. The caller has observed that the target is not as desired.
    /// Returns whether something was changed, or would be.
    ///
    /// # Errors
    /// When the act fails, when afterwards the target is not as desired, when there is a conflict and
    /// no one decides about it, and when the journal cannot be written.
    pub fn perform(
        &mut self,
        change: &Change,
        act: &mut dyn FnMut(&mut World) -> Result<()>,
    ) -> Result<bool> {
        self.perform_losing(change, None, act)
    }

    /// The same for a change whose loss on undoing the script names.
    pub fn perform_losing(
        &mut self,
        change: &Change,
        loses: Option<(Class, String)>,
        act: &mut dyn FnMut(&mut World) -> Result<()>,
    ) -> Result<bool> {
        let kind = change.kind();
        let (target, summary) = (kind.target(), kind.summary());
        let mut intent = change.intent()?;
        if self.is_kept(&target, &intent.before, &intent.after) {
            return Ok(false);
        }
        if self.mode == Mode::DryRun {
            self.would_make(target, summary, false);
            return Ok(true);
        }
        self.asks_for(|| target.clone());
        self.check_interruption()?;
        self.begin_acting()?;
        if let Some(difference) = self.conflicting_state(change, &target)
            && !self.may_replace(&target, &summary, &difference, &intent.before, &intent.after)?
        {
            return Ok(false);
        }
        self.begin_recording()?;
        kind.prepare(&self.world)?;
        intent.step.clone_from(&self.step);
        intent.pending = self.handlers();
        if let Some((class, text)) = loses {
            intent.class = class;
            intent.loses = Some(text);
        }
        let id = match self.half_done(change, &target) {
            Some(id) => {
                if let Some(state) = kind.clear_attempt(&self.world, self.recorded_since(id, &target))? {
                    let target = target.clone();
                    self.record(Entry::Recorded { target, state, against: None })?;
                }
                id
            }
            None => self.record(Entry::Intent(Box::new(intent)))?,
        };
        let acted = act(&mut self.world);
        self.finish(id, change, acted)?;
        self.changed += 1;
        let target = target.to_string();
        self.world.reporter.emit(&Event::Change { outcome: ChangeOutcome::Made, target, summary });
        Ok(true)
    }

    /// Notes that a script asks for a target, whether or not it is as desired.
    pub fn asks_for(&self, target: impl FnOnce() -> Target) {
        if self.mode == Mode::DryRun {
            self.asked.borrow_mut().insert(target());
        } else if let Some(block) = self.blocks.last() {
            block.asks_for(target());
        }
    }

    /// The targets that were asked for since this was asked last.
    pub fn take_asked(&self) -> BTreeSet<Target> {
        self.asked.take()
    }

    /// Counts and reports a change that leaves nothing to undo and so is not recorded.
    pub fn note_change(&mut self, target: Target, summary: String) {
        match self.mode {
            Mode::DryRun => self.would_make(target, summary, false),
            Mode::Act => {
                self.changed += 1;
                let target = target.to_string();
                self.world.reporter.emit(&Event::Change { outcome: ChangeOutcome::Made, target, summary });
            }
        }
    }

    /// Counts, in a dry run, a command that runs whenever its step does.
    pub fn note_repeated(&mut self, target: Target, summary: String) {
        self.would_make(target, summary, true);
    }

    /// Counts a step whose changes a dry run cannot predict.
    pub fn count_unknown(&mut self, step: &str) {
        let summary = format!("continue with step {step}");
        self.would.push(WouldChange { target: Target::Step(step.to_owned()), summary, is_repeated: false });
    }

    fn would_make(&mut self, target: Target, summary: String, is_repeated: bool) {
        self.world.reporter.emit(&Event::Change {
            outcome: ChangeOutcome::Would,
            target: target.to_string(),
            summary: summary.clone(),
        });
        self.would.push(WouldChange { target, summary, is_repeated });
    }

    /// Records the outcome of an act. One that failed is probed like a crash: it may have acted.
    fn finish(&mut self, id: ChangeId, change: &Change, acted: Result<()>) -> Result<()> {
        let looked = match acted {
            Ok(()) => self.recorded_of(change),
            Err(error) => {
                match change.kind().position(&self.world) {
                    Ok(Position::After) => {
                        let recorded = self.recorded_of(change)?;
                        self.world.doubt_durability();
                        self.record(Entry::Done { change: id, recorded })?;
                    }
                    Ok(Position::Before) => {
                        self.record(Entry::Void { change: id, why: "its act failed".to_owned() })?;
                    }
                    Ok(Position::Between | Position::Neither(_)) | Err(_) => {
                        self.record_what_failure_left(change)?;
                    }
                }
                return Err(error);
            }
        };
        match looked {
            Ok(recorded) => self.record(Entry::Done { change: id, recorded }).map(drop),
            Err(error) => {
                self.record_what_failure_left(change)?;
                Err(error.context(format!("{}: not as desired afterwards", change.kind().summary())))
            }
        }
    }

    /// What cannot be observed stays unknown and is not recorded as kkrun's.
    fn record_what_failure_left(&mut self, change: &Change) -> Result<()> {
        for (target, state) in change.kind().left_by_failure(&self.world).unwrap_or_default() {
            self.world.doubt_durability();
            self.record(Entry::Recorded { target, state, against: None })?;
        }
        Ok(())
    }

    /// What is recorded of a target since a change to it was intended.
    pub fn recorded_since(&self, id: ChangeId, target: &Target) -> Option<&Value> {
        self.history.ledger.get(target).filter(|recorded| recorded.at > id).map(|recorded| &recorded.state)
    }

    /// What is known of the products that a command makes and changes.
    pub fn product_record(&self, inverse: &CommandInverse) -> ProductRecord {
        let recorded = |product: &PathText| {
            let state = self.history.recorded(&Target::product(product.as_path()))?;
            serde_json::from_value(state.clone()).ok()
        };
        let changed = inverse.changes.as_ref().and_then(recorded);
        let Some(product) = &inverse.product else {
            return ProductRecord { changed, ..ProductRecord::default() };
        };
        let path = product.as_path();
        let makes = |known: &ChangeRecord| {
            let target = known.intent.target.path();
            let removes =
                |change: Change| change.kind().removed_by_undo(&self.world).iter().any(|gone| gone == path);
            known.is_live()
                && target.is_some_and(|target| path.starts_with(target))
                && Change::of_intent(&known.intent).is_ok_and(removes)
        };
        let first = self.doubtful(&Target::product(path)).map(|known| Change::of_intent(&known.intent));
        ProductRecord {
            recorded: recorded(product),
            own: self.history.changes.iter().any(makes),
            first: match first {
                Some(Ok(Change::Command(change))) => Some(change),
                _ => None,
            },
            changed,
        }
    }

    /// The states that are recorded from now on. If a change was only about owner and mode, content that others wrote is
    /// not among them.
    fn recorded_of(&self, change: &Change) -> Result<States> {
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

    /// The operator kept this state against the same desired state, and nothing overrides that decision.
    fn is_kept(&self, target: &Target, found: &Value, desired: &Value) -> bool {
        self.on_conflict != ConflictPolicy::Overwrite
            && self.history.recorded(target) == Some(found)
            && self.history.kept_against.get(target) == Some(desired)
    }

    fn conflicting_state(&self, change: &Change, target: &Target) -> Option<String> {
        if self.is_on_the_way(target) {
            return None;
        }
        let difference = change.kind().conflict(self.history.recorded(target)?, &self.world)?;
        // What kkrun itself left there under another name, as part of a tree say, is its own doing.
        match last_known_at(&self.history, &self.world, target) {
            Ok(Some(LastKnown::Anything)) => None,
            Ok(Some(LastKnown::State(left))) => change.kind().conflict(&left, &self.world),
            Ok(None) | Err(_) => Some(difference),
        }
    }

    /// Whether the target is as an act left it that was stopped half-way, or an inverse that failed.
    fn is_on_the_way(&self, target: &Target) -> bool {
        let newest = self
            .history
            .changes
            .iter()
            .rev()
            .find(|change| change.intent.target == *target && change.is_live());
        let is_open =
            |state: &ChangeState| matches!(state, ChangeState::InDoubt | ChangeState::UndoFailed(_));
        newest.filter(|change| is_open(&change.state)).is_some_and(|stopped| {
            let position =
                Change::of_intent(&stopped.intent).and_then(|change| change.kind().position(&self.world));
            matches!(position, Ok(Position::Before | Position::Between))
        })
    }

    /// What is known of a whole file, before a part of it is changed.
    pub fn file_record(&self, found: &Found) -> FileRecord {
        let target = Target::file(&found.path);
        let known = FileRecord::of(self.history.recorded(&target), &found.state);
        if known == FileRecord::AsRecorded {
            return known;
        }
        match last_known_at(&self.history, &self.world, &target) {
            Ok(Some(LastKnown::Anything)) => FileRecord::Unknown,
            Ok(Some(LastKnown::State(left))) => FileRecord::of(Some(&left), &found.state),
            Ok(None) | Err(_) => known,
        }
    }

    /// Whether kkrun left a file or link at a path, whatever is there now.
    pub fn left_a_file(&self, path: &Path) -> bool {
        let target = Target::file(path);
        let is_file = |left: &Value| {
            let left = serde_json::from_value::<FileState>(left.clone());
            matches!(left, Ok(FileState::File { .. } | FileState::Link { .. }))
        };
        self.history.kept_against.contains_key(&target)
            || matches!(last_known_at(&self.history, &self.world, &target), Ok(Some(LastKnown::State(left))) if is_file(&left))
    }

    /// Decides about a conflict: true to overwrite it.
    fn may_replace(
        &mut self,
        target: &Target,
        summary: &str,
        difference: &str,
        found: &Value,
        desired: &Value,
    ) -> Result<bool> {
        let policy = match self.on_conflict {
            ConflictPolicy::Ask => self.ask_about_conflict(target, summary, difference)?,
            decided => decided,
        };
        if policy == ConflictPolicy::Overwrite {
            return Ok(true);
        }
        self.record(Entry::Recorded {
            target: target.clone(),
            state: found.clone(),
            against: Some(desired.clone()),
        })?;
        let (target, summary) = (target.to_string(), format!("{summary}: kept as modified outside kkrun"));
        self.world.reporter.emit(&Event::Change { outcome: ChangeOutcome::Kept, target, summary });
        Ok(false)
    }

    fn ask_about_conflict(&self, target: &Target, summary: &str, difference: &str) -> Result<ConflictPolicy> {
        let text = format!(
            "{target} was modified outside kkrun:\n{difference}\nkeep it, overwrite it, or stop? (keep/overwrite/stop)"
        );
        let question = Question::Text { text, default: "stop".to_owned() };
        let answer = loop {
            let Some(Answer::Text(answer)) = self.world.reporter.ask(&question)? else { break None };
            match answer.trim().to_lowercase().as_str() {
                "keep" => return Ok(ConflictPolicy::Keep),
                "overwrite" => return Ok(ConflictPolicy::Overwrite),
                "stop" => break Some(()),
                // A typing error is not a decision.
                _ => {}
            }
        };
        let mut failure = Failure::new(format!(
            "cannot {summary}: {target} was modified outside kkrun since kkrun last wrote it"
        ))
        .kind("conflict")
        .hint("`--on-conflict overwrite` replaces it and keeps a backup, `--on-conflict keep` keeps what is there");
        failure.output = difference.lines().map(str::to_owned).collect();
        if answer.is_none() {
            failure =
                failure.hint("no one can be asked: run it in a terminal, or decide with `--on-conflict`");
        }
        bail!(failure)
    }

    /// The change that a dead run may have half made to the same target, if it is acted on again.
    fn half_done(&self, change: &Change, target: &Target) -> Option<ChangeId> {
        let doubtful = self.doubtful(target)?;
        let is_between = || {
            let known = Change::of_intent(&doubtful.intent);
            known.and_then(|known| known.kind().position(&self.world)).is_ok_and(|at| at == Position::Between)
        };
        (change.kind().on_doubt() == OnDoubt::ActAgain || is_between()).then_some(doubtful.id)
    }

    /// Probes every change whose outcome a dead run did not record. With `stop`, one that is neither as before
    /// nor as after and cannot be half done is an error: it was modified outside kkrun.
    fn recover_doubts(&mut self, stop: bool) -> Result<()> {
        let doubtful: Vec<_> = self
            .history
            .changes
            .iter()
            .filter(|change| change.state == ChangeState::InDoubt)
            .cloned()
            .collect();
        if stop {
            self.recover_half_undone()?;
            self.repair_half_undone()?;
        }
        for known in doubtful {
            let looked = Change::of_intent(&known.intent).and_then(|change| {
                let look = || {
                    // A rollback repairs in its own way.
                    if stop {
                        change.kind().repair(&self.world)?;
                    }
                    change.kind().position(&self.world)
                };
                let position = look().with_context(|| {
                    format!("cannot determine what a killed run did to {}", known.intent.target)
                })?;
                Ok((change, position))
            });
            let (change, position) = match looked {
                Ok(looked) => looked,
                // What contains it may not exist yet, such as a server that a later step starts.
                Err(error) => {
                    self.check_interruption()?;
                    let target = &known.intent.target;
                    self.world.reporter.note(format!("{target} stays in doubt: {error:#}"));
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
                Position::Before => {
                    self.append(Entry::Void { change: known.id, why: "found as before".to_owned() })?;
                }
                Position::After => {
                    let recorded = self.recorded_of(&change)?;
                    self.world.doubt_durability();
                    self.append(Entry::Done { change: known.id, recorded })?;
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
    fn recover_half_undone(&mut self) -> Result<()> {
        let changes = self.history.changes.iter().filter(|change| change.state == ChangeState::Undoing);
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

    /// Repairs what a failed undo action left half done; its change still counts as made.
    fn repair_half_undone(&self) -> Result<()> {
        let is_failed = |change: &&ChangeRecord| matches!(change.state, ChangeState::UndoFailed(_));
        for known in self.history.changes.iter().filter(is_failed) {
            let repaired =
                Change::of_intent(&known.intent).and_then(|change| change.kind().repair(&self.world));
            if let Err(error) = repaired {
                self.check_interruption()?;
                self.world.reporter.note(format!("{} stays half undone: {error:#}", known.intent.target));
            }
        }
        Ok(())
    }

    fn recover_conflicting_doubt(&mut self, id: ChangeId, change: &Change, difference: &str) -> Result<()> {
        let target = change.kind().target();
        match self.on_conflict {
            ConflictPolicy::Keep => {
                self.append(Entry::Void { change: id, why: "the operator kept the state found".to_owned() })?;
            }
            ConflictPolicy::Overwrite => {
                self.append(Entry::Void {
                    change: id,
                    why: "the operator chose to make it again".to_owned(),
                })?;
            }
            ConflictPolicy::Ask => {
                let mut failure = Failure::new(format!(
                    "cannot continue: a killed run was changing {target}, which is neither as before nor as desired"
                ))
                .kind("in_doubt")
                .hint("`--on-conflict keep` continues from what is there")
                .hint("`--on-conflict overwrite` makes the change again")
                .hint("`kkrun rollback` undoes what can be undone and shows the difference");
                failure.output = difference.lines().map(str::to_owned).collect();
                bail!(failure);
            }
        }
        Ok(())
    }

    /// Undoes one change. Recorded before and after; killed in between, it is done again.
    ///
    /// # Errors
    /// When the journal cannot be written, or the run was asked to stop. A failing undo action is no error here:
    /// it is recorded and reported as [`ChangeState::UndoFailed`].
    pub fn undo(&mut self, id: ChangeId, force: bool) -> Result<ChangeState> {
        self.undo_losing(id, force, false)
    }

    /// The same; `agreed` allows the loss of data.
    ///
    /// # Errors
    /// As [`Session::undo`].
    pub fn undo_losing(&mut self, id: ChangeId, force: bool, agreed: bool) -> Result<ChangeState> {
        self.check_interruption()?;
        let known = self.known(id)?;
        let newer = self.newer_changes(&known).next();
        let left = newer.map(|newer| left_to(newer, matches!(newer.state, ChangeState::Kept(_))));
        let undone = if let Some(left) = left {
            Ok(left)
        } else {
            self.record(Entry::UndoIntent { change: id })?;
            self.undo_now(&known, UndoTerms { force, agreed, ..UndoTerms::default() })
        };
        self.check_interruption_of(&undone)?;
        let entry = match undone {
            Ok(Undone::Back(how, recorded)) => {
                if how == Undoing::Already {
                    self.world.doubt_durability();
                }
                Entry::Undone { change: id, how, recorded }
            }
            Ok(Undone::Conflict(why)) => {
                Entry::Conflict { change: id, why: self.world.reporter.redact(&why) }
            }
            Ok(Undone::Kept(why)) => Entry::Kept { change: id, why: self.world.reporter.redact(&why) },
            Err(error) => {
                let error = self.world.reporter.redact(&failure::with_way_on(&error));
                Entry::UndoFailed { change: id, error }
            }
        };
        self.record(entry)?;
        Ok(self.known(id)?.state)
    }

    fn known(&self, id: ChangeId) -> Result<ChangeRecord> {
        Ok(self.history.change(id).with_context(|| format!("unknown change {id}"))?.clone())
    }

    fn undo_now(&mut self, known: &ChangeRecord, asked: UndoTerms<'static>) -> Result<Undone> {
        let change = Change::of_intent(&known.intent)?;
        let (history, target, file) = (&self.history, &known.intent.target, change.kind().whole());
        let (path, is_part) = (known.intent.inverse.get("path"), file.is_some());
        let was_made = |other: &ChangeRecord| {
            other.state == ChangeState::Undone(Undoing::InPart)
                && other.intent.inverse.get("path") == path
                && other.intent.inverse.pointer("/file/is").is_some_and(|is| is == "absent")
        };
        let section = known.intent.inverse.pointer("/entry/section");
        let stayed_for_it = |other: &&ChangeRecord| {
            other.state == ChangeState::Undone(Undoing::InPart)
                && other.settled > known.id
                && other.intent.inverse.get("path") == path
                && other.intent.inverse.pointer("/entry/section") == section
        };
        let made = |other: &ChangeRecord| {
            let made = other.intent.inverse.get("made").cloned();
            made.and_then(|made| serde_json::from_value(made).ok()).unwrap_or_default()
        };
        let left = |target: &Target| match last_known_at(history, &self.world, target) {
            Ok(Some(LastKnown::State(left))) => Some(left),
            _ => None,
        };
        let recorded_file = file.and_then(|file| left(&file));
        let file_was_made = is_part && history.changes.iter().any(was_made);
        let mut terms = UndoTerms {
            recorded: history.recorded(target),
            recorded_file: recorded_file.as_ref(),
            file_was_made,
            made: history.changes.iter().filter(stayed_for_it).map(made).fold(Made::default(), Made::and),
            begun: known.undoing_began(),
            recorded_since: self.recorded_since(known.id, target).is_some(),
            ..asked
        };
        let undone = change.kind().undo(&mut self.world, terms)?;
        if !matches!(undone, Undone::Conflict(_)) {
            return Ok(undone);
        }
        // What kkrun itself left there under another name is no conflict.
        let left = match last_known_at(history, &self.world, target) {
            Ok(Some(LastKnown::State(left))) => Some(left),
            _ => None,
        };
        if left.is_none() || left.as_ref() == terms.recorded {
            return Ok(undone);
        }
        terms.recorded = left.as_ref();
        change.kind().undo(&mut self.world, terms)
    }

    /// An undo action that was interrupted has not failed: it continues in the next run.
    fn check_interruption_of(&self, undone: &Result<Undone>) -> Result<()> {
        if undone.is_err() { self.check_interruption() } else { Ok(()) }
    }

    /// Whether a newer change to the same content is live, so that this one is left to it.
    pub fn is_left_to_another(&self, id: ChangeId) -> bool {
        self.history.change(id).is_some_and(|known| self.newer_changes(known).next().is_some())
    }

    /// The newer live changes to the same content: what is there now is theirs.
    fn newer_changes(&self, known: &ChangeRecord) -> impl Iterator<Item = &ChangeRecord> {
        let (id, intent) = (known.id, known.intent.clone());
        self.history.changes.iter().rev().take_while(move |newer| newer.id > id).filter(move |newer| {
            newer.is_live()
                && newer.intent.class != Class::Irreversible
                && (newer.intent.footprint().shares_content(&intent.footprint())
                    || newer.intent.what == "tree" && self.reaches(&newer.intent, &intent))
        })
    }

    /// Whether undoing `older` alone would take away what `newer` depends on.
    pub fn depends_on(&self, newer: &Intent, older: &Intent) -> bool {
        newer.footprint().depends_on(&older.footprint()) || self.reaches(newer, older)
    }

    /// Whether a change of many paths changed the one that another change is about.
    fn reaches(&self, newer: &Intent, older: &Intent) -> bool {
        let Some(path) = older.target.path() else { return false };
        let is_above = newer.target.path().is_some_and(|above| path.starts_with(above));
        is_above && Change::of_intent(newer).is_ok_and(|change| change.kind().reaches(path, &self.world))
    }

    /// What undoing a change would do, once the changes `gone` are undone and those of `kept` are
    /// kept.
    pub fn preview_undo(
        &mut self,
        id: ChangeId,
        force: bool,
        gone: &[ChangeId],
        kept: &[ChangeId],
    ) -> Result<Undone> {
        let known = self.known(id)?;
        let newer: Vec<&ChangeRecord> = self.newer_changes(&known).collect();
        if let Some(standing) = newer.iter().find(|newer| !gone.contains(&newer.id)) {
            return Ok(left_to(standing, kept.contains(&standing.id)));
        }
        let is_hidden = |other: &ChangeRecord| {
            other.id > id && gone.contains(&other.id) && other.intent.target.overlaps(&known.intent.target)
        };
        if self.history.changes.iter().any(is_hidden) {
            // What is there is known only once those are undone.
            return Ok(Undone::Back(Undoing::Restored, BTreeMap::new()));
        }
        self.undo_now(&known, UndoTerms { force, dry_run: true, ..UndoTerms::default() })
    }
}

/// Why a change is not undone before a newer one to the same content.
fn left_to(newer: &ChangeRecord, is_kept: bool) -> Undone {
    let step = newer.intent.step.as_ref().map_or_else(String::new, |step| format!(", step {step}"));
    let why = format!(
        "changed later by change #{} of the plan `{}`{step}, which is not undone: {}",
        newer.id, newer.plan, newer.intent.summary
    );
    if is_kept { Undone::Kept(why) } else { Undone::Conflict(why) }
}
