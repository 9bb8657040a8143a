//! Undoes one change, or previews that.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::last_known::{LastKnown, last_known_at};
use super::{ConflictPolicy, Session};
use crate::change::{Change, UndoTerms, Undone, UndoneEntry};
use crate::failure::{self, Failure, FailureKind, sentence};
use crate::journal::{ChangeId, ChangeRecord, ChangeState, Class, Entry, History, Index, Intent, Undoing};
use crate::machine::mount;
use crate::target::{Footprint, Target};

/// What may rely on an older change.
#[derive(Clone, Copy, Debug)]
pub enum Later<'a> {
    /// A later change.
    Change(&'a ChangeRecord),
    /// What a step found as desired.
    Claim {
        /// The step's plan.
        plan: &'a str,
        /// Its id.
        step: &'a str,
        /// What it asks for.
        target: &'a Target,
    },
}

impl<'a> Later<'a> {
    /// What it is about.
    pub fn target(&self) -> &'a Target {
        match self {
            Self::Change(change) => &change.intent.target,
            Self::Claim { target, .. } => target,
        }
    }
}

impl Session {
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
        let newer = self.newer_change(&known, self.history.live());
        let left = newer.map(|newer| left_to(newer, matches!(newer.state, ChangeState::Kept(_))));
        let undone = if let Some(left) = left {
            Ok(left)
        } else if !force && self.would_take_what_is_kept(&known) {
            Ok(Undone::Kept(KEPT_BY_OPERATOR.to_owned()))
        } else {
            self.record(Entry::UndoIntent { change: id })?;
            let terms = UndoTerms { force, agreed, ..UndoTerms::default() };
            let mut undone = self.undo_now(&known, terms);
            while let Ok(Undone::InProgress(recorded)) = undone {
                self.record(Entry::UndoCommand { change: id, recorded })?;
                self.check_interruption()?;
                undone = self.undo_now(&self.known(id)?, terms);
            }
            self.check_interruption_of(&undone)?;
            if matches!(undone, Ok(Undone::Conflict(_))) && self.on_conflict == ConflictPolicy::Keep {
                let (target, against) = (known.intent.target.clone(), known.intent.after.value());
                self.record(Entry::ConflictKept { target, against })?;
            }
            undone.map(|undone| self.settled_conflict(&known.intent.target, undone))
        };
        let undone = match undone {
            Err(error) if self.leaves_what_has_no_backup(&known.intent.target, &error) => {
                let (target, against) = (known.intent.target.clone(), known.intent.after.value());
                self.record(Entry::ConflictKept { target, against })?;
                Ok(Undone::Kept(format!("{error}; left as it is", error = sentence(&error))))
            }
            undone => undone,
        };
        let recorded_as = |why: &str| head(&self.world.reporter.redact(why));
        // The journal holds the head of a difference; what is reported is all of it.
        let reported = match &undone {
            Ok(Undone::Conflict(why)) => Some(ChangeState::Conflict(why.clone())),
            Ok(Undone::Kept(why)) => Some(ChangeState::Kept(why.clone())),
            _ => None,
        };
        let entry = match undone {
            Ok(Undone::InProgress(_)) => bail!("internal error: an undo ended in its middle"),
            Ok(Undone::Back(how, recorded)) => {
                if how == Undoing::Already {
                    self.world.doubt_durability();
                }
                Entry::Undone { change: id, how, recorded }
            }
            Ok(Undone::Conflict(why)) => Entry::Conflict { change: id, why: recorded_as(&why) },
            Ok(Undone::Kept(why)) => Entry::Kept { change: id, why: recorded_as(&why) },
            Err(error) => Entry::UndoFailed { change: id, error: failure::with_way_on(&error) },
        };
        self.changed += usize::from(matches!(entry, Entry::Undone { .. }));
        // As for a change that was made; what is found as before may have been left by a killed run.
        let is_noted = matches!(entry, Entry::Undone { how: Undoing::Restored | Undoing::InPart, .. })
            && Change::of_intent(&known.intent).is_ok_and(|change| change.kind().is_found_again());
        if is_noted { self.note(entry) } else { self.record(entry) }?;
        match reported {
            Some(state) => Ok(state),
            None => Ok(self.known(id)?.state),
        }
    }

    pub(super) fn known(&self, id: ChangeId) -> Result<ChangeRecord> {
        Ok(self.history.change(id).with_context(|| format!("unknown change {id}"))?.clone())
    }

    pub(super) fn undo_now(&mut self, known: &ChangeRecord, asked: UndoTerms<'static>) -> Result<Undone> {
        if !asked.force {
            refuse_unmounted(&known.intent)?;
        }
        let change = Change::of_intent(&known.intent)?;
        let (history, target, file) = (&self.history, &known.intent.target, change.kind().whole());
        let undone_beside = |other: &ChangeRecord| {
            (other.state == ChangeState::Undone(Undoing::InPart))
                .then(|| Change::of_intent(&other.intent))
                .map(|change| Ok(UndoneEntry { made: other.id, undone: other.settled, change: change? }))
        };
        let undone_beside: Vec<UndoneEntry> = match file.as_ref().and_then(|_| target.path()) {
            Some(path) => history.parts_over_at(path).filter_map(undone_beside).collect::<Result<_>>()?,
            None => Vec::new(),
        };
        let left = |target: &Target| match last_known_at(history, &self.world, target) {
            Ok(Some(LastKnown::State(left))) => Some(left),
            _ => None,
        };
        let recorded_file = file.and_then(|file| left(&file));
        let recorded = history.recorded(target);
        let mut terms = UndoTerms {
            recorded: recorded.as_ref(),
            recorded_file: recorded_file.as_ref(),
            made: change.kind().stayed_for(known.id, undone_beside),
            was_made: known.settled > 0,
            begun: known.undoing_began(),
            failed: matches!(known.state, ChangeState::UndoFailed(_)),
            commands_ended: known.undo_commands,
            recorded_since: self.recorded_since(known.id, target).is_some(),
            ..asked
        };
        self.world.content_is_secret.set(history.held_secret(target));
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
    pub(super) fn check_interruption_of(&self, undone: &Result<Undone>) -> Result<()> {
        if undone.is_err() { self.check_interruption() } else { Ok(()) }
    }

    /// Whether nothing is left of a change that cannot be undone: it went with others.
    pub fn is_gone(&mut self, id: ChangeId) -> bool {
        let terms = UndoTerms { dry_run: true, ..UndoTerms::default() };
        let looked = self.known(id).and_then(|known| self.undo_now(&known, terms));
        matches!(looked, Ok(Undone::Back(Undoing::Already, _)))
    }

    /// Whether a newer change to the same content is live, so that this one is left to it.
    pub fn is_left_to_another(&self, id: ChangeId) -> bool {
        self.history.change(id).is_some_and(|known| self.newer_change(known, self.history.live()).is_some())
    }

    /// Whether a newer change is live and to the same content: what is there now is its own.
    pub fn holds_content_of(&self, newer: &ChangeRecord, known: &ChangeRecord) -> bool {
        newer.id > known.id
            && newer.is_live()
            && newer.intent.class != Class::Irreversible
            && (newer.intent.footprint().shares_content(&known.intent.footprint())
                || matches!(newer.intent.what.as_str(), "tree" | "captured")
                    && self.reaches(&newer.intent, &known.intent))
    }

    /// The newest of these changes that holds the content of this one.
    fn newer_change<'a>(&'a self, known: &ChangeRecord, among: &Index) -> Option<&'a ChangeRecord> {
        let newest = |ids: &[ChangeId]| {
            let newer = ids.iter().rev().take_while(|newer| **newer > known.id);
            let mut newer = newer.filter_map(|newer| self.history.change(*newer));
            newer.find(|newer| self.holds_content_of(newer, known))
        };
        let newest = among.sharing(&known.intent.target).filter_map(newest);
        newest.max_by_key(|newer| newer.id)
    }

    /// The first of these from which undoing `older` alone would take away what it relies on.
    ///
    /// # Errors
    /// When that cannot be determined.
    pub fn first_relying<'later>(
        &self,
        older: &Intent,
        later: Vec<Later<'later>>,
    ) -> Result<Option<Later<'later>>> {
        if later.is_empty() {
            return Ok(None);
        }
        let targets: Vec<&Target> = later.iter().map(Later::target).collect();
        let change = Change::of_intent(older)?;
        let relying = change.kind().relied_on(&targets, &self.world)?;
        let captured = if older.what == "captured" { change.kind().touches(&self.world) } else { Vec::new() };
        let relies = |later: &Later<'_>| {
            let depends = match later {
                Later::Change(change) => {
                    change.intent.footprint().depends_on(&older.footprint())
                        || self.reaches(&change.intent, older)
                        || self.reaches_any(&change.intent, &captured)
                }
                Later::Claim { target, .. } => Footprint::of(target).depends_on(&older.footprint()),
            };
            depends || relying.contains(&later.target())
        };
        Ok(later.into_iter().find(relies))
    }

    /// Whether a change of many paths changed the one that another change is about.
    pub(super) fn reaches(&self, newer: &Intent, older: &Intent) -> bool {
        let Some(path) = older.target.path() else { return false };
        let may_reach = match newer.target.path() {
            Some(above) => path.starts_with(above),
            None => newer.what == "captured",
        };
        may_reach && Change::of_intent(newer).is_ok_and(|change| change.kind().reaches(path, &self.world))
    }

    /// Whether the change of a captured command changed one of these paths.
    fn reaches_any(&self, newer: &Intent, paths: &[PathBuf]) -> bool {
        !paths.is_empty() && newer.what == "captured" && {
            let reaches = |change: &Change| paths.iter().any(|path| change.kind().reaches(path, &self.world));
            Change::of_intent(newer).is_ok_and(|change| reaches(&change))
        }
    }

    /// What undoing a change would do, given what became of the newer ones.
    pub fn preview_undo(
        &mut self,
        known: &ChangeRecord,
        change: &Change,
        force: bool,
        assumed: &Assumed,
    ) -> Result<Undone> {
        if let Some(standing) = self.newer_change(known, &assumed.standing) {
            return Ok(left_to(standing, assumed.kept.contains(&standing.id)));
        }
        if assumed.hides(known, &change.kind().touches(&self.world)) {
            // What is there is known only once those are undone.
            return Ok(Undone::Back(Undoing::Restored, BTreeMap::new()));
        }
        if !force && self.would_take_what_is_kept(known) {
            return Ok(Undone::Kept(KEPT_BY_OPERATOR.to_owned()));
        }
        let undone = self.undo_now(known, UndoTerms { force, dry_run: true, ..UndoTerms::default() })?;
        Ok(self.settled_conflict(&known.intent.target, undone))
    }

    /// Whether the operator kept a conflict at the target of a change, and undoing it would find none: what is kept of a
    /// user goes with the user.
    fn would_take_what_is_kept(&mut self, known: &ChangeRecord) -> bool {
        let is_kept = self.on_conflict != ConflictPolicy::Overwrite
            && self.history.kept_against.contains_key(&known.intent.target);
        is_kept
            && matches!(
                self.undo_now(known, UndoTerms { dry_run: true, ..UndoTerms::default() }),
                Ok(Undone::Back(how, _)) if how != Undoing::Already
            )
    }

    /// Whether a target that cannot be restored, because its backup is gone or damaged, is to stay as it is.
    fn leaves_what_has_no_backup(&self, target: &Target, error: &anyhow::Error) -> bool {
        let is_missing =
            error.downcast_ref::<Failure>().is_some_and(|failure| failure.kind == FailureKind::Backup);
        is_missing && (self.on_conflict == ConflictPolicy::Keep || self.leaves_conflict(target))
    }

    /// A conflict that the operator keeps is none any more: what is there stays.
    fn settled_conflict(&self, target: &Target, undone: Undone) -> Undone {
        match undone {
            Undone::Conflict(why) if self.leaves_conflict(target) => {
                Undone::Kept(format!("{KEPT_BY_OPERATOR}\n{why}"))
            }
            undone => undone,
        }
    }
}

/// Refuses to speak of a target whose file system is not mounted, or hidden by another one: nothing there is as before, or
/// removed by anyone.
///
/// # Errors
/// `missing` or `busy`, with the command that mounts or unmounts it.
pub(super) fn refuse_unmounted(intent: &Intent) -> Result<()> {
    intent.target.path().map_or(Ok(()), |path| mount::refuse_elsewhere(intent.held_by.as_ref(), path))
}

/// Why a conflict that the operator keeps is left alone.
const KEPT_BY_OPERATOR: &str = "modified outside kkrun, and kept by the operator";

/// How many lines of a reason the journal holds.
const MOST_RECORDED: usize = 60;

/// The first lines of a text, and how many more there are.
fn head(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    let left = lines.len().saturating_sub(MOST_RECORDED);
    lines.truncate(MOST_RECORDED);
    let more = format!("… and {left} more lines");
    lines.extend((left > 0).then_some(more.as_str()));
    lines.join("\n")
}

/// What became of the changes that a preview has come to, newest first.
pub struct Assumed {
    /// The live changes that it has not come to, or would not undo.
    standing: Index,
    /// The targets of those that it would undo, with the newest of each.
    gone: BTreeMap<Target, ChangeId>,
    /// The paths of these, likewise.
    gone_paths: BTreeMap<PathBuf, ChangeId>,
    /// Those that it would keep.
    kept: BTreeSet<ChangeId>,
}

impl Assumed {
    /// It has come to none yet.
    pub fn of(history: &History) -> Self {
        let standing = history.live().clone();
        Self { standing, gone: BTreeMap::new(), gone_paths: BTreeMap::new(), kept: BTreeSet::new() }
    }

    /// It would undo this one, which touched these paths besides its target.
    pub fn undo(&mut self, known: &ChangeRecord, touched: Vec<PathBuf>) {
        let target = &known.intent.target;
        self.standing.remove(target, known.id);
        let newest = self.gone.entry(target.clone()).or_default();
        *newest = known.id.max(*newest);
        for path in target.path().map(Path::to_owned).into_iter().chain(touched) {
            let newest = self.gone_paths.entry(path).or_default();
            *newest = known.id.max(*newest);
        }
    }

    /// It would keep this one.
    pub fn keep(&mut self, known: &ChangeRecord) {
        self.kept.insert(known.id);
    }

    /// Whether what a change left is seen only once newer ones are undone that it would undo.
    fn hides(&self, known: &ChangeRecord, touched: &[PathBuf]) -> bool {
        let is_newer = |newest: &ChangeId| *newest > known.id;
        let Some(path) = known.intent.target.path() else {
            return self.gone.get(&known.intent.target).is_some_and(is_newer)
                || touched.iter().any(|path| self.hides_path(path, known.id));
        };
        self.hides_path(path, known.id)
    }

    fn hides_path(&self, path: &Path, id: ChangeId) -> bool {
        let is_newer = |newest: &ChangeId| *newest > id;
        // Paths are ordered by their components: what is below a path follows it.
        let from = self.gone_paths.range::<Path, _>((Bound::Included(path), Bound::Unbounded));
        from.take_while(|(below, _)| below.starts_with(path)).any(|(_, newest)| is_newer(newest))
            || path.ancestors().filter_map(|above| self.gone_paths.get(above)).any(is_newer)
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
