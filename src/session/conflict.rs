//! Decides about a target that something other than kkrun modified: ask, keep or overwrite.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde_json::Value;

use super::last_known::{LastKnown, last_access_at, last_known_at};
use super::{Mode, Session};
use crate::change::{AccessChange, Change, FileRecord, Found, OnDoubt, Position};
use crate::event::{Answer, ChangeOutcome, Event, Modification, Question};
use crate::exit_code::ExitCode;
use crate::failure::{Failure, FailureKind};
use crate::journal::{ChangeRecord, ChangeState, Entry};
use crate::machine::clock;
use crate::machine::files::{Access, FileState};
use crate::target::{Aspect, Target};

/// What to do about a target modified outside kkrun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConflictPolicy {
    /// Show the difference and ask.
    #[default]
    Ask,
    /// Keep what is there, as the operator's.
    Keep,
    /// Replace it; it is backed up like every before-state.
    Overwrite,
}

impl Session {
    /// The operator kept what is there against the same desired state, and nothing overrides that decision.
    pub(super) fn is_kept(&self, target: &Target, desired: &Value) -> bool {
        let is_same = |against: &Value| asked_for(against) == asked_for(desired);
        self.on_conflict != ConflictPolicy::Overwrite
            && self.history.kept_against.get(target).is_some_and(is_same)
    }

    /// Whether a rollback leaves a conflict at this target to the operator, and it is settled by that.
    pub(super) fn leaves_conflict(&self, target: &Target) -> bool {
        self.on_conflict == ConflictPolicy::Keep
            || self.on_conflict != ConflictPolicy::Overwrite && self.history.kept_against.contains_key(target)
    }

    pub(super) fn conflicting_state(&self, change: &Change, target: &Target) -> Option<Modification> {
        // A dry run repairs nothing that a killed act left, so it cannot look at that.
        let is_open = |change: &ChangeRecord| change.intent.target == *target && is_open(&change.state);
        if self.mode == Mode::DryRun && self.history.open().any(is_open)
            || self.mode == Mode::Act && self.is_on_the_way(target)
        {
            return None;
        }
        let Some(recorded) = self.history.recorded(target) else {
            let is_kept = self.history.kept_against.contains_key(target);
            let why = "it was kept before, when a killed run was changing it";
            return is_kept.then(|| Modification::shown(why));
        };
        // A restart of the machine stops every unit, and that is no one's decision.
        if is_activity(target)
            && !clock::boot_id().is_ok_and(|boot| self.history.is_recorded_in(&boot, target))
        {
            return None;
        }
        if let Change::Access(change) = change {
            return self.modified_access(change);
        }
        self.world.content_is_secret.set(self.history.held_secret(target));
        let modification = change.kind().conflict(&recorded, &self.world)?;
        // What kkrun itself left there under another name, as part of a tree say, is its own doing.
        match last_known_at(&self.history, &self.world, target) {
            Ok(Some(LastKnown::Anything)) => None,
            Ok(Some(LastKnown::State(left))) => change.kind().conflict(&left, &self.world),
            Ok(None) | Err(_) => Some(modification),
        }
    }

    /// The entries whose owner or mode is not as kkrun last left it, by this change's target or by another.
    fn modified_access(&self, change: &AccessChange) -> Option<Modification> {
        let found = change.given(&self.world, true).ok()?;
        let modified = |(path, now): &(PathBuf, Access)| {
            let left = last_access_at(&self.history, &self.world, path).ok()??;
            (left.kind == now.kind && left != *now).then(|| format!("{}: {left} → {now}", path.display()))
        };
        let lines: Vec<String> = found.iter().filter_map(modified).collect();
        (!lines.is_empty()).then_some(Modification::Differs { brief: None, lines, diff: None })
    }

    /// Whether the target is as an act left it that was stopped half-way, or an inverse that failed.
    pub(super) fn is_on_the_way(&self, target: &Target) -> bool {
        let newest = self.history.live_at(target).next_back();
        newest.filter(|change| is_open(&change.state)).is_some_and(|stopped| {
            Change::of_intent(&stopped.intent).is_ok_and(|change| {
                let kind = change.kind();
                match kind.position(&self.world) {
                    Ok(Position::Before | Position::Between) => true,
                    // Some of its parts are as before, and others as after.
                    Ok(Position::Neither(_)) => kind.on_doubt() == OnDoubt::ActAgain,
                    Ok(Position::After) | Err(_) => false,
                }
            })
        })
    }

    /// What is known of a whole file, before a part of it is changed.
    pub fn file_record(&self, found: &Found) -> FileRecord {
        let target = Target::file(&found.path);
        let known = FileRecord::of(self.history.recorded(&target).as_ref(), &found.state);
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
        self.left(path, |left| matches!(left, FileState::File { .. } | FileState::Link { .. }))
    }

    /// Whether kkrun left a directory at a path, whatever is there now.
    pub fn left_a_directory(&self, path: &Path) -> bool {
        self.left(path, |left| matches!(left, FileState::Directory { .. }))
    }

    fn left(&self, path: &Path, is_meant: impl Fn(&FileState) -> bool) -> bool {
        let target = Target::file(path);
        if self.history.kept_against.contains_key(&target) {
            return true;
        }
        let Ok(Some(LastKnown::State(left))) = last_known_at(&self.history, &self.world, &target) else {
            return false;
        };
        serde_json::from_value::<FileState>(left).is_ok_and(|left| is_meant(&left))
    }

    /// Decides about a conflict: true to overwrite it.
    pub(super) fn may_replace(
        &mut self,
        target: &Target,
        summary: &str,
        modification: &Modification,
        desired: &Value,
    ) -> Result<bool> {
        self.report_conflict(target, summary, modification);
        let policy = match self.on_conflict {
            ConflictPolicy::Ask => self.ask_about_conflict(target, summary, "since kkrun last wrote it")?,
            decided => decided,
        };
        if policy == ConflictPolicy::Overwrite {
            return Ok(true);
        }
        self.record(Entry::ConflictKept { target: target.clone(), against: desired.clone() })?;
        self.report_kept(target);
        Ok(false)
    }

    /// Decides about a path that was modified while a captured command ran that changed it, too: true to keep what is
    /// there. A dry run shows it and goes on.
    ///
    /// # Errors
    /// When the operator stops, and when no one can be asked.
    pub fn keeps_modified_meanwhile(&self, target: &Target, summary: &str, difference: &str) -> Result<bool> {
        self.report_conflict(target, summary, &Modification::shown(difference));
        let policy = match self.on_conflict {
            ConflictPolicy::Ask if self.mode == Mode::DryRun => ConflictPolicy::Overwrite,
            ConflictPolicy::Ask => self.ask_about_conflict(target, summary, "while the command ran")?,
            decided => decided,
        };
        if policy == ConflictPolicy::Keep {
            self.report_kept(target);
        }
        Ok(policy == ConflictPolicy::Keep)
    }

    pub(super) fn report_kept(&self, target: &Target) {
        let summary = format!("kept as modified outside kkrun: {}", target.described());
        self.report(ChangeOutcome::Kept, target, &summary);
    }

    pub(super) fn report_conflict(&self, target: &Target, summary: &str, modification: &Modification) {
        let (described, target) = (target.described(), target.to_string());
        let (summary, happened) = (summary.to_owned(), modification.happened());
        let difference = modification.difference(&described);
        self.world.reporter.emit(&Event::Conflict { target, summary, difference, described, happened });
    }

    pub(super) fn ask_about_conflict(
        &self,
        target: &Target,
        summary: &str,
        when: &str,
    ) -> Result<ConflictPolicy> {
        let text = format!("{}: keep it, overwrite it, or stop? (k/o/s)", target.described());
        let question = Question::Text { text, default: "stop".to_owned() };
        let answer = loop {
            let Some(Answer::Text(answer)) = self.world.reporter.ask(&question)? else { break None };
            let typed = answer.trim().to_lowercase();
            let chosen = ["keep", "overwrite", "stop"].into_iter().find(|word| word.starts_with(&typed));
            match chosen.filter(|_| !typed.is_empty()) {
                Some("keep") => return Ok(ConflictPolicy::Keep),
                Some("overwrite") => return Ok(ConflictPolicy::Overwrite),
                Some(_) => break Some(()),
                // A typing error is not a decision.
                None => {}
            }
        };
        // A unit that was stopped loses nothing by being started.
        if answer.is_none() && is_activity(target) {
            self.world.reporter.note(format!("no one can be asked, and nothing is lost by it: {summary}"));
            return Ok(ConflictPolicy::Overwrite);
        }
        // What the sentence has named already is not named twice.
        let named = target.path().is_some_and(|path| summary.contains(&*path.to_string_lossy()));
        let what = if named { "it".to_owned() } else { target.described() };
        let mut failure = Failure::new(format!(
            "cannot {summary}: {what} was modified outside kkrun {when}"
        ))
        .kind(FailureKind::Conflict)
        .hint("`--on-conflict overwrite` replaces it and keeps a backup, `--on-conflict keep` keeps what is there");
        if answer.is_none() {
            failure = failure
                .exit(ExitCode::UNANSWERED)
                .hint("no one can be asked: run it in a terminal, or decide with `--on-conflict`");
        }
        bail!(failure)
    }
}

/// Whether it is about whether a unit runs.
fn is_activity(target: &Target) -> bool {
    matches!(target, Target::Unit { aspect: Aspect::Activity, .. })
}

/// A desired state without the flags that a new file gets from its directory: the script asks for none, whether
/// something is there or not.
fn asked_for(desired: &Value) -> Value {
    let mut asked = desired.clone();
    if let Some(fields) = asked.as_object_mut() {
        fields.retain(|name, value| name != "flags" || !value.is_null());
    }
    asked
}

/// Whether an act or an undo of a change may have stopped half-way.
fn is_open(state: &ChangeState) -> bool {
    matches!(state, ChangeState::InDoubt | ChangeState::UndoFailed(_))
}
