//! What a run did, counted by kind, for its last lines.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::event::{ChangeOutcome, Counted, Event, SkipReason, TargetKind};
use crate::exit_code::ExitCode;
use crate::pasteable::invocation_with;
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
    made: Counts,
    /// What a dry run foresees.
    foreseen: Foreseen,
}

/// The targets of each kind.
type Counts = BTreeMap<TargetKind, Vec<String>>;

/// What a dry run foresees.
#[derive(Debug, Default)]
struct Foreseen {
    /// Of the step that is looked at: what would be changed, and what might be.
    of_step: [Counts; 2],
    /// Of all steps that would run.
    of_run: [Counts; 2],
    /// Of complete steps that no longer hold and that only `--repair` would run.
    of_repair: [Counts; 2],
    /// How many changes would be asked about.
    asked: usize,
    /// How many steps cannot be predicted to their end.
    unpredictable: usize,
}

impl Foreseen {
    fn hear(&mut self, event: &Event) {
        match event {
            Event::Change { outcome, counted, .. } => {
                self.asked += usize::from(*outcome == ChangeOutcome::WouldAsk);
                let at = usize::from(*outcome == ChangeOutcome::Might);
                if outcome.is_foreseen() {
                    add(&mut self.of_step[at], counted);
                }
            }
            Event::StepSkipped { why: SkipReason::NeedsRepair(_), .. } => {
                self.join_step(|foreseen| &mut foreseen.of_repair);
            }
            Event::StepSkipped { .. } | Event::StepPreviewed { .. } => {
                if let Event::StepPreviewed { unpredictable: Some(_), .. } = event {
                    self.unpredictable += 1;
                }
                self.join_step(|foreseen| &mut foreseen.of_run);
            }
            _ => {}
        }
    }

    fn join_step(&mut self, all: impl FnOnce(&mut Self) -> &mut [Counts; 2]) {
        let of_step = std::mem::take(&mut self.of_step);
        for (counts, all) in of_step.into_iter().zip(all(self)) {
            join(all, counts);
        }
    }

    fn lines(&self, steps: usize, triggers: &[String], invocation: &str) -> Vec<String> {
        let [would, might] = &self.of_run;
        let mut lines = Vec::new();
        let is_nothing = self.of_run.iter().chain(&self.of_repair).all(Counts::is_empty);
        if is_nothing && self.unpredictable == 0 && triggers.is_empty() {
            return lines;
        }
        lines.extend(sentence("would", would, "change", "run"));
        lines.extend(sentence("might", might, "change", "run"));
        lines.extend((!triggers.is_empty()).then(|| format!("would then {}", triggers.join(", "))));
        lines.extend(match (self.unpredictable, steps) {
            (0, _) => None,
            (_, 1) => Some("the step is not predictable to its end".to_owned()),
            (1, steps) => Some(format!("1 of {steps} steps is not predictable to its end")),
            (several, steps) => Some(format!("{several} of {steps} steps are not predictable to their end")),
        });
        let [would, might] = &self.of_repair;
        let repair = [sentence("would", would, "change", "run"), sentence("might", might, "change", "run")];
        let invocation = invocation_with(invocation, "--repair");
        lines.extend(repair.into_iter().flatten().map(|what| format!("`{invocation}` {what}")));
        lines.extend(match self.asked {
            0 => None,
            1 => Some("would ask about 1 of these: it was modified outside kkrun".to_owned()),
            asked => Some(format!("would ask about {asked} of these: they were modified outside kkrun")),
        });
        lines
    }
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
            made: Counts::new(),
            foreseen: Foreseen::default(),
        }
    }

    /// Takes in what happened.
    pub(super) fn hear(&mut self, event: &Event) {
        self.foreseen.hear(event);
        match event {
            Event::StepSkipped { why, complete, .. } => {
                self.seen += 1;
                self.unexamined += usize::from(*why == SkipReason::Complete);
                let is_complete = match why {
                    SkipReason::Complete | SkipReason::Examined | SkipReason::Recorded(_) => true,
                    SkipReason::NotSelected => *complete,
                    _ => false,
                };
                self.complete += usize::from(is_complete);
            }
            Event::StepStarted { id, .. } => {
                self.seen += 1;
                self.last_step = Some(id.clone());
            }
            Event::StepCompleted { .. } => self.complete += 1,
            Event::Change { outcome: ChangeOutcome::Made, counted, .. } => add(&mut self.made, counted),
            _ => {}
        }
    }

    /// The last lines of a run that ended well, or of a dry run, with what its changes would trigger; nothing where there
    /// is nothing to add. `with_hints` says what can be typed next.
    pub(super) fn lines(&self, exit: u8, triggers: &[String], with_hints: bool) -> Vec<String> {
        if self.is_dry_run && [ExitCode::DONE.0, ExitCode::DIFFERENT.0].contains(&exit) && self.steps > 0 {
            return self.foreseen.lines(self.steps, triggers, &self.invocation);
        }
        if self.is_dry_run || exit != 0 || self.steps == 0 {
            return Vec::new();
        }
        let mut lines = Vec::new();
        if !self.made.is_empty() {
            let took = time::duration(self.begun.elapsed().as_secs_f64());
            let made = sentence("", &self.made, "changed", "ran").unwrap_or_default();
            lines.push(format!("{made} in {took}"));
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
                "complete, not re-examined: `{}` examines it and runs what no longer holds",
                invocation_with(&self.invocation, "--repair")
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

fn add(counts: &mut Counts, counted: &Counted) {
    counts.entry(counted.kind).or_default().extend_from_slice(&counted.names);
}

fn join(all: &mut Counts, counts: Counts) {
    for (kind, names) in counts {
        all.entry(kind).or_default().extend(names);
    }
}

/// How many there are. What is changed twice is one; a command that is run twice was run twice.
fn number(kind: TargetKind, names: &[String]) -> usize {
    match kind {
        TargetKind::Command | TargetKind::Statement => names.len(),
        _ => names.iter().collect::<BTreeSet<_>>().len(),
    }
}

/// `changed 2 files and 1 user, ran 1 command`; none if there is nothing of which a number says something.
fn sentence(before: &str, counts: &Counts, change: &str, run: &str) -> Option<String> {
    let counts = counts.iter().filter(|(kind, _)| **kind != TargetKind::Step);
    let (ran, changed): (Vec<_>, Vec<_>) =
        counts.partition(|(kind, _)| matches!(kind, TargetKind::Command | TargetKind::Statement));
    let parts = [(change, changed), (run, ran)].into_iter().filter(|(_, counts)| !counts.is_empty());
    let parts: Vec<String> = parts.map(|(verb, counts)| format!("{verb} {}", listed(&counts))).collect();
    (!parts.is_empty()).then(|| format!("{before} {}", parts.join(", ")).trim_start().to_owned())
}

/// `2 files, 1 user and 12 packages`.
fn listed(made: &[(&TargetKind, &Vec<String>)]) -> String {
    let named: Vec<String> = made.iter().map(|(kind, names)| shown(**kind, number(**kind, names))).collect();
    match named.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

fn shown(kind: TargetKind, count: usize) -> String {
    let (one, several) = match kind {
        TargetKind::Access => ("tree's owners and modes", "trees' owners and modes"),
        TargetKind::Block => ("block", "blocks"),
        TargetKind::Command => ("command", "commands"),
        TargetKind::Database => ("database", "databases"),
        TargetKind::Debconf => ("debconf answer", "debconf answers"),
        TargetKind::File => ("file or directory", "files or directories"),
        TargetKind::Group => ("group", "groups"),
        TargetKind::Hold => ("package hold", "package holds"),
        TargetKind::Line => ("key", "keys"),
        TargetKind::Linger => ("user's lingering", "users' lingering"),
        TargetKind::Once => ("part that is done once", "parts that are done once"),
        TargetKind::Package => ("package", "packages"),
        TargetKind::Product => ("product of a command", "products of commands"),
        TargetKind::Role => ("database role", "database roles"),
        TargetKind::Statement => ("statement", "statements"),
        TargetKind::Step => ("step", "steps"),
        TargetKind::Tree => ("tree", "trees"),
        TargetKind::Unit => ("unit", "units"),
        TargetKind::User => ("user", "users"),
        TargetKind::WholeLine => ("line", "lines"),
    };
    format!("{count} {}", if count == 1 { one } else { several })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Target;

    fn change(target: &str) -> Event {
        change_with(ChangeOutcome::Made, target)
    }

    fn change_with(outcome: ChangeOutcome, target: &str) -> Event {
        let counted = target.parse::<Target>().unwrap().counted();
        Event::Change {
            outcome,
            target: target.to_owned(),
            counted,
            summary: String::new(),
            difference: None,
        }
    }

    #[test]
    fn changes_are_counted_by_kind_and_packages_by_name() {
        let mut summary = Summary::of_plan(1, "kkrun plan.rhai", false);
        let targets = ["file:/a", "file:/b", "user:kim", "packages:jq,curl", "packages:jq"];
        targets.map(change).iter().for_each(|event| summary.hear(event));
        summary.hear(&change("file:/a"));
        summary.hear(&change("unit:x.service/activity"));
        summary.hear(&change("unit:x.service/enablement"));
        let made = sentence("", &summary.made, "changed", "ran");
        assert_eq!(made.unwrap(), "changed 2 files or directories, 2 packages, 1 unit and 1 user");
    }

    #[test]
    fn a_step_that_is_not_selected_is_complete_if_its_record_says_so() {
        let of = |second: bool| {
            let mut summary = Summary::of_plan(2, "kkrun plan.rhai", false);
            for (why, complete) in [(SkipReason::Complete, true), (SkipReason::NotSelected, second)] {
                let (id, title) = (String::new(), String::new());
                summary.hear(&Event::StepSkipped { id, title, why, finished: None, complete });
            }
            summary.lines(0, &[], true)
        };
        assert_eq!(of(true), ["nothing changed: all 2 steps are complete"]);
        assert_eq!(of(false), ["1 of 2 steps are complete"]);
    }

    #[test]
    fn a_run_that_ends_with_a_failure_has_no_closing_lines() {
        let mut summary = Summary::of_plan(1, "kkrun plan.rhai", false);
        summary.hear(&change("file:/a"));
        assert!(summary.lines(1, &[], true).is_empty() && summary.lines(0, &[], true).len() == 3);
    }

    #[test]
    fn commands_are_run_and_all_else_is_changed() {
        let mut summary = Summary::of_plan(1, "kkrun plan.rhai", false);
        let targets = ["file:/a", "captured:make", "command:true", "statement:shop:seed"];
        targets.map(change).iter().for_each(|event| summary.hear(event));
        let sentence = sentence("", &summary.made, "changed", "ran");
        assert_eq!(sentence.unwrap(), "changed 1 file or directory, ran 2 commands and 1 statement");
    }

    #[test]
    fn a_dry_run_tells_what_would_be_what_might_be_and_what_only_a_repair_would_do() {
        let mut summary = Summary::of_plan(3, "kkrun plan.rhai", true);
        let change = change_with;
        let step = |id: &str, unpredictable: Option<&str>| Event::StepPreviewed {
            id: id.to_owned(),
            title: String::new(),
            changes: 1,
            unpredictable: unpredictable.map(str::to_owned),
        };
        let drifted = Event::StepSkipped {
            id: "03".to_owned(),
            title: String::new(),
            why: SkipReason::NeedsRepair(String::new()),
            finished: None,
            complete: true,
        };
        for event in [
            change(ChangeOutcome::Would, "file:/a"),
            change(ChangeOutcome::Might, "user:kim"),
            step("01", None),
            change(ChangeOutcome::Would, "command:make"),
            step("02", Some("depends on the build")),
            change(ChangeOutcome::WouldAsk, "file:/b"),
            change(ChangeOutcome::Might, "statement:shop:seed"),
            drifted,
        ] {
            summary.hear(&event);
        }
        let lines = summary.lines(6, &["restart nginx.service".to_owned()], true);
        assert_eq!(
            lines,
            [
                "would change 1 file or directory, run 1 command",
                "might change 1 user",
                "would then restart nginx.service",
                "1 of 3 steps is not predictable to its end",
                "`kkrun plan.rhai --repair` would change 1 file or directory",
                "`kkrun plan.rhai --repair` might run 1 statement",
                "would ask about 1 of these: it was modified outside kkrun",
            ]
        );
        let nothing = Summary::of_plan(1, "kkrun plan.rhai", true);
        assert!(nothing.lines(0, &[], true).is_empty());
    }
}
