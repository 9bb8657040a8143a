//! Decides what to do about a step, from its record and the options alone.

use std::collections::BTreeSet;

use crate::event::SkipReason;
use crate::journal::{ChangeRecord, Fingerprint, History, StepRecord, StepState};

/// What the operator said about which steps to run.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Skip the steps before this one.
    pub from: Option<String>,
    /// Run only these.
    pub only: Vec<String>,
    /// Run these again.
    pub redo: Vec<String>,
    /// Record these as complete without running them.
    pub accept: Vec<String>,
    /// Why these are recorded as complete.
    pub reason: Option<String>,
    /// Examine complete steps too.
    pub examine: bool,
    /// Run nothing behind a step that was examined and no longer holds: end with a failure.
    pub verify: bool,
    /// Run the steps that were examined and no longer hold.
    pub repair: bool,
}

/// What to do about a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Skip it.
    Skip {
        /// Why.
        why: SkipReason,
    },
    /// Record its present fingerprint as complete.
    Accept,
    /// Examine it, and run it if something of it no longer holds.
    Examine,
    /// Run it.
    Run {
        /// Why it runs again, if it was complete.
        reason: Option<String>,
    },
}

impl Selection {
    /// The ids that were named, so that unknown ones can be refused.
    pub fn named(&self) -> BTreeSet<&str> {
        let lists = self.only.iter().chain(&self.redo).chain(&self.accept).chain(&self.from);
        lists.map(String::as_str).collect()
    }

    /// How the options contradict each other, if they do.
    pub fn contradiction(&self) -> Option<String> {
        if let Some(id) = self.redo.iter().find(|id| self.accept.contains(id)) {
            return Some(format!(
                "conflicting options for step {id}: `--redo {id}` runs it again, `--accept {id}` records it as complete"
            ));
        }
        if self.verify && self.repair {
            return Some("`--verify` and `--repair` contradict each other: one stops at a step that no longer holds, the other runs it".to_owned());
        }
        let asked = |(option, ids): (&str, &Vec<String>)| {
            let id = ids.iter().find(|id| !self.only.is_empty() && !self.only.contains(id))?;
            Some(format!("`--only {}` skips step {id}, which `{option} {id}` names", self.only.join(",")))
        };
        [("--redo", &self.redo), ("--accept", &self.accept)].into_iter().find_map(asked)
    }

    /// Whether the operator named no steps: all of them are to be run unless they are complete.
    pub fn is_everything(&self) -> bool {
        self.named().is_empty() && !self.examine
    }

    /// Decides about the step `id`; `began` says whether `--from` was reached, `stale` why its fingerprint is
    /// another than when it completed.
    pub fn decide(
        &self,
        id: &str,
        began: bool,
        record: Option<&StepRecord>,
        stale: Option<String>,
    ) -> Decision {
        let named = |list: &[String]| list.iter().any(|named| named == id);
        if !began || (!self.only.is_empty() && !named(&self.only)) {
            return Decision::Skip { why: SkipReason::NotSelected };
        }
        if named(&self.redo) {
            return Decision::Run { reason: Some("named with `--redo`".to_owned()) };
        }
        if named(&self.accept) {
            return Decision::Accept;
        }
        match record.map_or(StepState::Pending, |record| record.state) {
            StepState::OnHold if !named(&self.only) && self.from.as_deref() != Some(id) => {
                Decision::Skip { why: SkipReason::Held(id.to_owned()) }
            }
            StepState::Complete => match stale {
                Some(reason) => Decision::Run { reason: Some(reason) },
                None if self.examine => Decision::Examine,
                None => Decision::Skip { why: SkipReason::Complete },
            },
            _ => Decision::Run { reason: None },
        }
    }
}

/// Why a step means something else now than when it completed; nothing if it means the same.
pub fn staleness(then: &Fingerprint, now: &Fingerprint) -> Option<String> {
    if then.code != now.code {
        return Some(match changed_function(then, now) {
            Some(function) => format!("`{function}` changed"),
            None => "its script changed".to_owned(),
        });
    }
    for (name, value) in &now.settings {
        match then.settings.get(name) {
            Some(old) if old == value => {}
            Some(old) => return Some(format!("settings::{name} {}", difference(old, value))),
            None => return Some(format!("settings::{name} is new")),
        }
    }
    for (name, hash) in &now.files {
        if then.files.get(name).is_some_and(|old| old != hash) {
            return Some(format!("`{name}` changed"));
        }
    }
    for (name, hash) in &now.secrets {
        if then.secrets.get(name).is_some_and(|old| old != hash) {
            return Some(format!("the secret `{name}` changed"));
        }
    }
    None
}

/// The first function of a module that is another now.
fn changed_function<'now>(then: &Fingerprint, now: &'now Fingerprint) -> Option<&'now str> {
    let is_another =
        |(name, hash): &(&String, &String)| then.functions.get(*name).is_some_and(|old| old != *hash);
    now.functions.iter().find(is_another).map(|(name, _)| name.as_str())
}

/// What a complete step may rely on that was undone since, if it ran something of which kkrun does not know what it
/// relies on. Of what it does know, such a change is not undone alone, or an examination shows it.
pub fn unknown_reliance(history: &History, plan: &str, step: &str) -> Option<String> {
    let undone = history.undone_behind(plan, step);
    let [first, others @ ..] = undone.as_slice() else { return None };
    let is_later = |change: &ChangeRecord| change.id > first.id && change.intent.is_opaque();
    if !history.live_changes_of(plan, step).any(is_later) {
        return None;
    }
    let more = if others.is_empty() { String::new() } else { format!(" and {} more", others.len()) };
    let (target, whose) = (&first.intent.target, first.whose(plan));
    Some(format!("what it ran may rely on what was undone since: {target} of {whose}{more}"))
}

/// How a value differs from an old one; of an array, what was added and removed.
fn difference(old: &serde_json::Value, new: &serde_json::Value) -> String {
    if let (Some(before), Some(after)) = (old.as_array(), new.as_array()) {
        let only = |sign: &str, these: &[serde_json::Value], those: &[serde_json::Value]| -> Vec<String> {
            let missing = these.iter().filter(|value| !those.contains(value));
            missing.map(|value| format!("{sign}{}", plain(value))).collect()
        };
        let parts = [only("+", after, before), only("-", before, after)].concat();
        return if parts.is_empty() { "in another order".to_owned() } else { parts.join(" ") };
    }
    format!("{} → {}", plain(old), plain(new))
}

fn plain(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(state: StepState) -> StepRecord {
        StepRecord { state, ..StepRecord::default() }
    }

    #[test]
    fn a_complete_step_is_skipped_unless_stale_named_or_examined() {
        let complete = record(StepState::Complete);
        let decide = |selection: &Selection, stale: Option<&str>| {
            selection.decide("03", true, Some(&complete), stale.map(str::to_owned))
        };
        let plain = Selection::default();
        assert_eq!(decide(&plain, None), Decision::Skip { why: SkipReason::Complete });
        assert_eq!(decide(&plain, Some("x")), Decision::Run { reason: Some("x".to_owned()) });
        let redo = Selection { redo: vec!["03".to_owned()], ..Selection::default() };
        assert!(matches!(decide(&redo, None), Decision::Run { .. }));
        let verify = Selection { examine: true, ..Selection::default() };
        assert_eq!(decide(&verify, None), Decision::Examine);
        let only = Selection { only: vec!["04".to_owned()], ..Selection::default() };
        assert_eq!(decide(&only, Some("x")), Decision::Skip { why: SkipReason::NotSelected });
    }

    #[test]
    fn words_that_cannot_all_be_meant_are_told() {
        let of = |only: &[&str], redo: &[&str], accept: &[&str]| {
            let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
            Selection { only: words(only), redo: words(redo), accept: words(accept), ..Selection::default() }
                .contradiction()
        };
        assert!(of(&["01"], &["02"], &[]).unwrap().contains("skips step 02"));
        assert!(of(&["01"], &[], &["02"]).is_some());
        assert!(of(&[], &["02"], &["02"]).is_some());
        assert!(of(&["01", "02"], &["02"], &["01"]).is_none() && of(&[], &["02"], &["01"]).is_none());
    }

    #[test]
    fn a_held_step_runs_only_when_it_is_named() {
        let held = record(StepState::OnHold);
        let plain = Selection::default();
        assert_eq!(
            plain.decide("03", true, Some(&held), None),
            Decision::Skip { why: SkipReason::Held("03".to_owned()) }
        );
        let only = Selection { only: vec!["03".to_owned()], ..Selection::default() };
        assert_eq!(only.decide("03", true, Some(&held), None), Decision::Run { reason: None });
    }

    #[test]
    fn a_list_that_changed_is_told_by_what_was_added_and_removed() {
        let list = |names: &[&str]| serde_json::json!(names);
        assert_eq!(difference(&list(&["jq", "git"]), &list(&["git", "curl"])), "+curl -jq");
        assert_eq!(difference(&list(&["jq", "git"]), &list(&["git", "jq"])), "in another order");
    }

    #[test]
    fn every_part_of_the_meaning_counts() {
        let then = Fingerprint {
            code: "a".into(),
            settings: [("port".to_owned(), 9001.into())].into(),
            secrets: [("s".to_owned(), "1".to_owned())].into(),
            files: [("files/a".to_owned(), "1".to_owned())].into(),
            ..Fingerprint::default()
        };
        assert_eq!(staleness(&then, &then), None);
        let mut now = then.clone();
        now.settings.insert("port".into(), 49123.into());
        assert_eq!(staleness(&then, &now).unwrap(), "settings::port 9001 → 49123");
        now = Fingerprint { code: "b".into(), ..then.clone() };
        assert_eq!(staleness(&then, &now).unwrap(), "its script changed");
        let with = |hash: &str, code: &str| Fingerprint {
            code: code.into(),
            functions: [("std/git::checkout".to_owned(), hash.to_owned())].into(),
            ..then.clone()
        };
        assert_eq!(staleness(&with("1", "a"), &with("2", "b")).unwrap(), "`std/git::checkout` changed");
        assert_eq!(staleness(&with("1", "a"), &with("1", "b")).unwrap(), "its script changed");
        now = then.clone();
        now.files.insert("files/a".into(), "2".into());
        assert!(staleness(&then, &now).unwrap().contains("files/a"));
        now = then.clone();
        now.secrets.insert("s".into(), "2".into());
        assert!(staleness(&then, &now).unwrap().contains("secret `s`"));
    }
}
