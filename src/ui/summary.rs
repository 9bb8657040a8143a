//! What a run did, counted by kind, for its last lines.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::event::{ChangeOutcome, Event, SkipReason};
use crate::time;

/// What was seen of a run so far.
#[derive(Debug)]
pub(super) struct Summary {
    begun: Instant,
    /// The command that runs it again.
    invocation: String,
    is_dry_run: bool,
    /// How many steps the plan has.
    pub(super) steps: usize,
    /// How many of them the plan came to.
    pub(super) seen: usize,
    /// How many were passed over by their record alone.
    unexamined: usize,
    /// How many are complete by now.
    complete: usize,
    /// The newest step that ran.
    last_step: Option<String>,
    /// How many changes were made, by the kind of their target.
    made: BTreeMap<String, usize>,
}

impl Summary {
    /// Of a plan that begins.
    pub(super) fn of_plan(steps: usize, invocation: &str, is_dry_run: bool) -> Self {
        Self {
            begun: Instant::now(),
            invocation: invocation.to_owned(),
            is_dry_run,
            steps,
            seen: 0,
            unexamined: 0,
            complete: 0,
            last_step: None,
            made: BTreeMap::new(),
        }
    }

    /// Takes in what happened.
    pub(super) fn hear(&mut self, event: &Event) {
        match event {
            Event::StepSkipped { why, .. } => {
                self.seen += 1;
                self.unexamined += usize::from(*why == SkipReason::Complete);
                let is_complete =
                    matches!(why, SkipReason::Complete | SkipReason::Examined | SkipReason::Recorded(_));
                self.complete += usize::from(is_complete);
            }
            Event::StepStarted { id, .. } => {
                self.seen += 1;
                self.last_step = Some(id.clone());
            }
            Event::StepCompleted { .. } => self.complete += 1,
            Event::Change { outcome: ChangeOutcome::Made, target, .. } => {
                let (kind, rest) = target.split_once(':').unwrap_or((target, ""));
                let count = if kind == "packages" { packages_in(rest) } else { 1 };
                *self.made.entry(kind.to_owned()).or_default() += count;
            }
            _ => {}
        }
    }

    /// The last lines of a run that ended well; nothing where there is nothing to add. `with_hints` says what can be typed
    /// next.
    pub(super) fn lines(&self, exit: u8, with_hints: bool) -> Vec<String> {
        if self.is_dry_run || exit != 0 || self.steps == 0 {
            return Vec::new();
        }
        let mut lines = Vec::new();
        if !self.made.is_empty() {
            let took = time::duration(self.begun.elapsed().as_secs_f64());
            lines.push(format!("changed {} in {took}", listed(&self.made)));
        }
        if !self.made.is_empty() && with_hints {
            let log = self
                .last_step
                .as_ref()
                .map(|step| format!(" · log: `kkrun log {}`", shell_words::quote(step)));
            lines.push(format!("undo: `kkrun rollback --last`{}", log.unwrap_or_default()));
        }
        if self.complete == self.steps && self.unexamined == self.steps && with_hints {
            lines.push(format!(
                "complete, not re-examined: `{} --repair` examines it and runs what no longer holds",
                self.invocation
            ));
        } else if self.made.is_empty() && self.complete == self.steps {
            lines.push(match self.steps {
                1 => "nothing changed: the step is complete".to_owned(),
                steps => format!("nothing changed: all {steps} steps are complete"),
            });
        } else if self.complete < self.steps {
            lines.push(format!("{} of {} steps are complete", self.complete, self.steps));
        }
        lines
    }
}

/// How many packages a target names: `a,b` or `a and 3 more (…)`.
fn packages_in(names: &str) -> usize {
    match names.split_once(" and ") {
        Some((_, more)) => 1 + more.split(' ').next().and_then(|more| more.parse().ok()).unwrap_or(0),
        None => names.split(',').count(),
    }
}

/// `2 files, 1 user and 12 packages`.
fn listed(made: &BTreeMap<String, usize>) -> String {
    let named: Vec<String> = made.iter().map(|(kind, count)| counted(kind, *count)).collect();
    match named.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

fn counted(kind: &str, count: usize) -> String {
    let (one, several) = match kind {
        "file" => ("file or directory", "files or directories"),
        "tree" => ("tree", "trees"),
        "access" => ("tree's owners and modes", "trees' owners and modes"),
        "product" => ("product of a command", "products of commands"),
        "line" => ("key", "keys"),
        "block" => ("block", "blocks"),
        "whole_line" => ("line", "lines"),
        "command" => ("command", "commands"),
        "captured" => ("captured command", "captured commands"),
        "packages" => ("package", "packages"),
        "statement" => ("statement", "statements"),
        other => return if count == 1 { format!("1 {other}") } else { format!("{count} {other}s") },
    };
    if count == 1 { format!("1 {one}") } else { format!("{count} {several}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(target: &str) -> Event {
        let (target, summary) = (target.to_owned(), String::new());
        Event::Change { outcome: ChangeOutcome::Made, target, summary, difference: None }
    }

    #[test]
    fn changes_are_counted_by_kind_and_packages_by_name() {
        let mut summary = Summary::of_plan(1, "kkrun plan.rhai", false);
        let targets =
            ["file:/a", "file:/b", "user:kim", "packages:jq,curl", "packages:a and 9 more (0000ffff)"];
        targets.map(change).iter().for_each(|event| summary.hear(event));
        assert_eq!(listed(&summary.made), "2 files or directories, 12 packages and 1 user");
    }

    #[test]
    fn a_run_that_ends_with_a_failure_has_no_closing_lines() {
        let mut summary = Summary::of_plan(1, "kkrun plan.rhai", false);
        summary.hear(&change("file:/a"));
        assert!(summary.lines(1, true).is_empty() && summary.lines(0, true).len() == 3);
    }
}
