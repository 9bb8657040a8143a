//! Undoes one change, or previews that.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

use super::last_known::{LastKnown, last_known_at};
use super::{ConflictPolicy, Session};
use crate::change::{Change, UndoTerms, Undone, UndoneEntry};
use crate::failure;
use crate::journal::{ChangeId, ChangeRecord, ChangeState, Class, Entry, Intent, Undoing};
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
        let newer = self.newer_changes(&known).next();
        let left = newer.map(|newer| left_to(newer, matches!(newer.state, ChangeState::Kept(_))));
        let undone = if let Some(left) = left {
            Ok(left)
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
                let (target, against) = (known.intent.target.clone(), known.intent.after.clone());
                self.record(Entry::ConflictKept { target, against })?;
            }
            undone.map(|undone| self.settled_conflict(&known.intent.target, undone))
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
        self.record(entry)?;
        match reported {
            Some(state) => Ok(state),
            None => Ok(self.known(id)?.state),
        }
    }

    pub(super) fn known(&self, id: ChangeId) -> Result<ChangeRecord> {
        Ok(self.history.change(id).with_context(|| format!("unknown change {id}"))?.clone())
    }

    pub(super) fn undo_now(&mut self, known: &ChangeRecord, asked: UndoTerms<'static>) -> Result<Undone> {
        let change = Change::of_intent(&known.intent)?;
        let (history, target, file) = (&self.history, &known.intent.target, change.kind().whole());
        let undone_beside = |other: &ChangeRecord| {
            let is_part = matches!(other.intent.target, Target::Line { .. } | Target::Block { .. });
            let is_beside = is_part && other.intent.target.path() == target.path();
            (is_beside && other.state == ChangeState::Undone(Undoing::InPart))
                .then(|| Change::of_intent(&other.intent))
                .map(|change| Ok(UndoneEntry { made: other.id, undone: other.settled, change: change? }))
        };
        let undone_beside: Vec<UndoneEntry> = match file {
            Some(_) => history.changes.iter().filter_map(undone_beside).collect::<Result<_>>()?,
            None => Vec::new(),
        };
        let left = |target: &Target| match last_known_at(history, &self.world, target) {
            Ok(Some(LastKnown::State(left))) => Some(left),
            _ => None,
        };
        let recorded_file = file.and_then(|file| left(&file));
        let mut terms = UndoTerms {
            recorded: history.recorded(target),
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
        self.history.change(id).is_some_and(|known| self.newer_changes(known).next().is_some())
    }

    /// The newer live changes to the same content: what is there now is theirs.
    pub fn newer_changes(&self, known: &ChangeRecord) -> impl Iterator<Item = &ChangeRecord> {
        let (id, intent) = (known.id, known.intent.clone());
        self.history.changes.iter().rev().take_while(move |newer| newer.id > id).filter(move |newer| {
            newer.is_live()
                && newer.intent.class != Class::Irreversible
                && (newer.intent.footprint().shares_content(&intent.footprint())
                    || newer.intent.what == "tree" && self.reaches(&newer.intent, &intent))
        })
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
        let relying = Change::of_intent(older)?.kind().relied_on(&targets, &self.world)?;
        let relies = |later: &Later<'_>| {
            let depends = match later {
                Later::Change(change) => {
                    change.intent.footprint().depends_on(&older.footprint())
                        || self.reaches(&change.intent, older)
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
        let undone = self.undo_now(&known, UndoTerms { force, dry_run: true, ..UndoTerms::default() })?;
        Ok(self.settled_conflict(&known.intent.target, undone))
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

/// Why a change is not undone before a newer one to the same content.
fn left_to(newer: &ChangeRecord, is_kept: bool) -> Undone {
    let step = newer.intent.step.as_ref().map_or_else(String::new, |step| format!(", step {step}"));
    let why = format!(
        "changed later by change #{} of the plan `{}`{step}, which is not undone: {}",
        newer.id, newer.plan, newer.intent.summary
    );
    if is_kept { Undone::Kept(why) } else { Undone::Conflict(why) }
}
