//! `kkrun report [RUN]`: one run as an HTML page, from the same records that `history`, `show`, `log` and `status` read.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;

use super::history::state_of;
use super::show::difference_of;
use super::status::{label, status_of};
use crate::change::World;
use crate::cli::Options;
use crate::config;
use crate::exit_code::ExitCode;
use crate::failure::{Failure, FailureKind};
use crate::journal::{
    self, ChangeId, ChangeRecord, ChangeState, Course, Entry, History, Record, Settling, Undoing, WhichRun,
    whose,
};
use crate::machine::{clock, host_facts, lock};
use crate::plan::{Launch, log_name, log_of};
use crate::redaction::Redactor;
use crate::ui::report::{Act, Excerpt, Mark, Problem, Report, Span, Step, Text};
use crate::ui::{line_to_stderr, line_to_stdout};

/// Standard output, as `--output` calls it.
const STANDARD_OUTPUT: &str = "-";

/// So many of the last lines that a step printed are in the page.
const OUTPUT_LINES: usize = 300;

/// So many lines of a difference are in the page.
const DIFFERENCE_LINES: usize = 400;

/// So many of the last lines of a step that failed are shown where it needs attention.
const LAST_LINES: usize = 12;

/// Writes the page about this run, or about the newest one, of this plan or of any.
pub(super) fn execute(
    options: &Options,
    run: Option<&str>,
    plan: Option<&str>,
    output: Option<&Path>,
) -> Result<ExitCode> {
    let options = &Options { dry_run: true, ..options.clone() };
    let launch = config::launch(options, "kkrun report")?;
    journal::check_state_directory(&launch.state)?;
    let which = run.map_or(WhichRun::Newest(plan), WhichRun::Named);
    let (loaded, course) = journal::load_course(&launch.state, which)?;
    let Some(course) = course else { bail!(not_found(&loaded.history, run, plan)) };
    let redactor = super::redactor(&launch.state)?;
    let page = Collector {
        world: launch.world_for_dry_run(super::reporter(options)),
        launch: &launch,
        history: &loaded.history,
        course: &course,
        redactor: &redactor,
    }
    .report()?
    .page();
    let named = PathBuf::from(format!("kkrun-report-{}.html", course.run.run));
    let path = output.unwrap_or(&named);
    deliver(&page, path)?;
    if path != Path::new(STANDARD_OUTPUT) {
        line_to_stderr(&format!("the report of the run {} is in `{}`", course.run.run, path.display()));
    }
    Ok(ExitCode::DONE)
}

/// Writes the page to this file, or to standard output.
pub(super) fn deliver(page: &str, path: &Path) -> Result<()> {
    if path == Path::new(STANDARD_OUTPUT) {
        line_to_stdout(page);
        return Ok(());
    }
    write(path, page).with_context(|| format!("cannot write `{}`", path.display()))
}

fn not_found(history: &History, run: Option<&str>, plan: Option<&str>) -> Failure {
    let mut known: Vec<_> = history.last_runs.iter().collect();
    known.sort_by_key(|(_, last)| std::cmp::Reverse(last.started));
    let named: Vec<String> = known.iter().map(|(plan, last)| format!("{} of `{plan}`", last.run)).collect();
    let what = match (run, plan) {
        (Some(run), _) => format!("unknown run `{run}`"),
        (None, Some(plan)) => format!("no run of a plan `{plan}` is recorded"),
        (None, None) => "no run is recorded yet".to_owned(),
    };
    let failure = Failure::new(what).exit(ExitCode::USAGE).kind(FailureKind::Usage);
    if named.is_empty() {
        return failure;
    }
    failure.hint(format!("the last runs: {}; `kkrun show N` names the run of a change", named.join(", ")))
}

/// Writes the page, which only its owner can read: it holds what logs hold. A file is replaced as a whole; what else is
/// there, such as a pipe, is written to.
fn write(path: &Path, page: &str) -> Result<()> {
    let found = path.symlink_metadata();
    if found.as_ref().is_ok_and(|found| !found.is_file()) {
        OpenOptions::new().write(true).truncate(true).open(path)?.write_all(page.as_bytes())?;
        return Ok(());
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(page.as_bytes())?;
    file.persist(path).map_err(|failed| failed.error)?;
    File::open(directory)?.sync_all()?;
    Ok(())
}

/// Puts the report together.
struct Collector<'a> {
    launch: &'a Launch,
    world: World,
    history: &'a History,
    course: &'a Course,
    redactor: &'a Redactor,
}

/// The steps so far, and where the acts of changes are in them.
#[derive(Default)]
struct Steps {
    list: Vec<Step>,
    /// The id of each.
    ids: Vec<Option<String>>,
    acts: BTreeMap<ChangeId, (usize, usize)>,
}

impl Steps {
    /// The newest one of this id.
    fn newest(&self, id: Option<&str>) -> Option<usize> {
        self.ids.iter().rposition(|known| known.as_deref() == id)
    }
}

impl Collector<'_> {
    fn text(&self, text: &str) -> Text {
        Text::new(self.redactor, text)
    }

    fn sentence(&self, text: &str) -> Text {
        Text::sentence(self.redactor, text)
    }

    fn report(&self) -> Result<Report> {
        let (course, plan) = (self.course, self.course.plan.as_str());
        let run = &course.run;
        let is_last = self.history.last_run.as_ref().is_some_and(|(last, _)| *last == run.run);
        let is_running = run.ended.is_none() && is_last && lock::is_held(&self.launch.state.join("lock"));
        let made = clock::now();
        let last_record = course.records.last().map_or(run.started, |record| record.header.time);
        let ended = run.ended.map(|(ended, _)| ended);
        let until = ended.unwrap_or(if is_running { made } else { last_record });
        let seconds = self.seconds(until);
        let steps = self.steps(seconds, is_running)?;
        let (mark, outcome) = self.outcome(&steps, is_running);
        let counts = counts(&steps.list);
        let problems = self.problems(&steps);
        let now = status_of(self.launch, self.history, plan, None)?;
        let newest = self.history.last_runs.get(plan).filter(|newest| newest.run != run.run);
        let later = newest.map(|newest| {
            let call = format!(
                "The plan has run since; this page is about an older run: `kkrun report {}` is about the newest one.",
                newest.run
            );
            self.sentence(&call)
        });
        Ok(Report {
            plan: self.text(plan),
            call: self.text(&run.script),
            run: self.text(&run.run),
            host: self.text(&host_facts::hostname()),
            mark,
            outcome: self.text(&outcome),
            began: run.started,
            ended,
            seconds,
            remarks: later.into_iter().collect(),
            counts,
            problems,
            steps: steps.list,
            pending: now.pending.iter().map(|line| self.text(line)).collect(),
            now: self
                .text(&format!("the state of the plan `{plan}` was `{}`, by the journal", label(&now.state))),
            next: now.next.iter().map(|line| self.sentence(line)).collect(),
            made,
            zone: clock::zone(),
        })
    }

    /// How long after the beginning that was, in seconds.
    fn seconds(&self, then: Timestamp) -> f64 {
        then.duration_since(self.course.run.started).as_secs_f64().max(0.0)
    }

    fn steps(&self, end: f64, is_running: bool) -> Result<Steps> {
        let mut steps = Steps::default();
        for record in &self.course.records {
            self.take_in(&mut steps, record)?;
        }
        let word = if is_running { "running" } else { "unfinished" };
        for step in &mut steps.list {
            for act in step.acts.iter_mut().filter(|act| act.word == UNDER_WAY) {
                act.span.to = end;
                act.word = if is_running { UNDER_WAY } else { "in doubt" };
            }
            let last = step.acts.iter().map(|act| act.span.to).fold(step.span.from, f64::max);
            if step.word == UNDER_WAY {
                (step.mark, step.word) = (Mark::Open, word);
                step.span.to = end;
            }
            if step.word.is_empty() {
                (step.mark, step.word) = of_acts(&step.acts);
            }
            step.span.to = step.span.to.max(last);
        }
        for (at, id) in steps.ids.iter().enumerate() {
            // What a step printed when it ran twice is in one log.
            if let Some(id) = id.as_deref().filter(|id| steps.newest(Some(id)) == Some(at)) {
                steps.list[at].output = self.output(id)?;
            }
        }
        Ok(steps)
    }

    /// A step of a rollback, or what is of no step, begins with its first act.
    fn step_for<'s>(
        &self,
        steps: &'s mut Steps,
        plan: &str,
        id: Option<&str>,
        at: f64,
    ) -> (usize, &'s mut Step) {
        let known = steps.newest(id);
        let position = known.unwrap_or_else(|| {
            let title = id.and_then(|id| self.history.step(plan, id)).map(|known| known.title.as_str());
            let title = title.unwrap_or(if id.is_some() { "" } else { "Of no step" });
            self.begin(steps, id, title, at, (Mark::Plain, ""))
        });
        (position, &mut steps.list[position])
    }

    fn begin(
        &self,
        steps: &mut Steps,
        id: Option<&str>,
        title: &str,
        at: f64,
        (mark, word): (Mark, &'static str),
    ) -> usize {
        steps.ids.push(id.map(str::to_owned));
        steps.list.push(Step {
            id: id.map(|id| self.text(id)),
            title: self.text(title),
            mark,
            word,
            span: Span { from: at, to: at },
            error: None,
            place: None,
            acts: Vec::new(),
            output: None,
        });
        steps.list.len() - 1
    }

    #[expect(clippy::too_many_lines, reason = "one arm for every kind of record")]
    fn take_in(&self, steps: &mut Steps, Record { header, entry }: &Record) -> Result<()> {
        let at = self.seconds(header.time);
        let plan = header.plan.as_str();
        let mut end =
            |step: &str, (mark, word): (Mark, &'static str), error: Option<&str>, place: Option<&str>| {
                let (_, ended) = self.step_for(steps, plan, Some(step), at);
                (ended.mark, ended.word, ended.span.to) = (mark, word, at);
                ended.error = error.map(|error| self.text(error));
                ended.place = place.map(|place| self.text(place));
            };
        match entry {
            Entry::StepStarted { step, title, .. } => {
                self.begin(steps, Some(step), title, at, (Mark::Open, UNDER_WAY));
            }
            Entry::StepCompleted { step, .. } => end(step, (Mark::Good, "complete"), None, None),
            Entry::StepFailed { step, error, place, .. } => {
                end(step, (Mark::Bad, "failed"), Some(error), place.as_deref());
            }
            Entry::StepInterrupted { step, signal, .. } => {
                end(step, (Mark::Open, "interrupted"), Some(&format!("stopped by {signal}")), None);
            }
            Entry::StepAccepted { step, title, why, .. } => {
                self.begin(steps, Some(step), title, at, (Mark::Good, "accepted"));
                if let Some(why) = why {
                    self.note(steps, header, Some(step), at, "accepted", why);
                }
            }
            Entry::StepOnHold { step } => end(step, (Mark::Undone, "on hold"), None, None),
            Entry::Intent(intent) => {
                self.change(steps, header.seq, intent.step.as_deref(), at, (Mark::Open, UNDER_WAY))?;
            }
            Entry::Done { change, .. } => self.settle(steps, *change, at, (Mark::Good, "made"), None)?,
            Entry::Failed { change, error } => {
                self.settle(steps, *change, at, (Mark::Bad, "failed"), Some(error))?;
            }
            // That its act failed is said already.
            Entry::Void { change, .. }
                if self
                    .history
                    .change(*change)
                    .is_some_and(|change| self.history.failure_of(change).is_some()) => {}
            Entry::Void { change, why } => {
                self.settle(steps, *change, at, (Mark::Plain, "not made"), Some(why))?;
            }
            Entry::UndoIntent { change } => {
                let of = self.history.change(*change).and_then(|change| change.intent.step.as_deref());
                self.change(steps, *change, of, at, (Mark::Open, UNDER_WAY))?;
            }
            Entry::Undone { change, how, .. } => {
                let leaves = self.history.change(*change).and_then(|known| known.leaves(*how));
                let word = match how {
                    Undoing::Already => "as before already",
                    Undoing::InPart if leaves.is_some() => "undone in part",
                    Undoing::InPart | Undoing::Restored => "undone",
                };
                self.settle(steps, *change, at, (Mark::Undone, word), None)?;
            }
            Entry::Conflict { change, why } => {
                self.settle(steps, *change, at, (Mark::Bad, "conflict"), Some(why))?;
            }
            Entry::Kept { change, why } => {
                let is_irreversible = self.history.change(*change).is_some_and(ChangeRecord::is_irreversible);
                let word = if is_irreversible { "not undone" } else { "kept" };
                self.settle(steps, *change, at, (Mark::Open, word), Some(why))?;
            }
            Entry::UndoFailed { change, error } => {
                self.settle(steps, *change, at, (Mark::Bad, "undo failed"), Some(error))?;
            }
            Entry::LeftTo { change, plan: to, step, why } => {
                let why = format!("left to {}: {why}", whose(to, step.as_deref(), plan));
                self.settle(steps, *change, at, (Mark::Plain, "left"), Some(&why))?;
            }
            Entry::ConflictKept { target, .. } => {
                self.note(
                    steps,
                    header,
                    None,
                    at,
                    "kept",
                    &format!("what is at {target}, which is in conflict"),
                );
            }
            Entry::Settled { step, handler, how: Settling::Ran } => {
                self.note(steps, header, step.as_deref(), at, "ran", &handler.sentence());
            }
            Entry::Settled { step, handler, how: Settling::Dropped } => {
                self.note(steps, header, step.as_deref(), at, "dropped", &handler.sentence());
            }
            Entry::RebootPending { step, why } => {
                let text = format!("a restart of the machine: {why}");
                self.note(steps, header, step.as_deref(), at, "needed", &text);
            }
            Entry::OverrideSet { key, value } => {
                self.note(steps, header, None, at, "set", &format!("{key} = {value}"));
            }
            Entry::OverrideUnset { key } => self.note(steps, header, None, at, "unset", key),
            // A rollback forgets what it undid.
            Entry::StepsReset { .. } if self.is_rollback() => {}
            Entry::StepsReset { steps: named } => {
                let which = named.as_ref().map_or_else(|| "all steps".to_owned(), |named| named.join(", "));
                self.note(steps, header, None, at, "forgotten", &format!("the progress of {which}"));
            }
            Entry::Forgotten { changes } => {
                let text = format!("what undoing {} changes needs", changes.len());
                self.note(steps, header, None, at, "removed", &text);
            }
            _ => {}
        }
        Ok(())
    }

    /// A change of which the making or the undoing begins.
    fn change(
        &self,
        steps: &mut Steps,
        id: ChangeId,
        of: Option<&str>,
        at: f64,
        (mark, word): (Mark, &'static str),
    ) -> Result<()> {
        let Some(change) = self.history.change(id) else { return Ok(()) };
        let summary = self.text(&change.intent.summary);
        let act = Act {
            change: Some(id),
            summary,
            mark,
            word,
            span: Span { from: at, to: at },
            remarks: Vec::new(),
            fields: self.fields(change),
            difference: self.difference(change)?,
        };
        let (position, step) = self.step_for(steps, &change.plan, of, at);
        step.acts.push(act);
        let place = (position, step.acts.len() - 1);
        steps.acts.insert(id, place);
        Ok(())
    }

    /// The making or the undoing of a change comes to its end. Where it began in an earlier run, or is only recorded, it
    /// begins here.
    fn settle(
        &self,
        steps: &mut Steps,
        id: ChangeId,
        at: f64,
        (mark, word): (Mark, &'static str),
        why: Option<&str>,
    ) -> Result<()> {
        let is_open = |&(step, act): &(usize, usize)| steps.list[step].acts[act].word == UNDER_WAY;
        if !steps.acts.get(&id).is_some_and(is_open) {
            let of = self.history.change(id).and_then(|change| change.intent.step.as_deref());
            self.change(steps, id, of, at, (mark, word))?;
        }
        let Some(&(step, act)) = steps.acts.get(&id) else { return Ok(()) };
        let act = &mut steps.list[step].acts[act];
        (act.mark, act.word, act.span.to) = (mark, word, at);
        act.remarks.extend(why.map(|why| self.sentence(why)));
        if let Some(change) = self.history.change(id) {
            let has_settled_so = match change.state {
                ChangeState::Done => word == "made",
                ChangeState::Undone(_) => mark == Mark::Undone,
                _ => word != "made",
            };
            if !has_settled_so {
                act.remarks.push(self.text(&format!("now: {}", state_of(change, self.history).0)));
            }
        }
        Ok(())
    }

    /// Something beside the changes.
    fn note(
        &self,
        steps: &mut Steps,
        header: &journal::Header,
        of: Option<&str>,
        at: f64,
        word: &'static str,
        text: &str,
    ) {
        let act = Act {
            change: None,
            summary: self.text(text),
            mark: Mark::Plain,
            word,
            span: Span { from: at, to: at },
            remarks: Vec::new(),
            fields: Vec::new(),
            difference: None,
        };
        // What is said of no step is said in the one that runs.
        let running = steps.list.iter().rposition(|step| step.word == UNDER_WAY);
        let position = running.filter(|_| of.is_none());
        let position = position.unwrap_or_else(|| self.step_for(steps, &header.plan, of, at).0);
        steps.list[position].acts.push(act);
    }

    fn fields(&self, change: &ChangeRecord) -> Vec<(&'static str, Text)> {
        let mut fields = vec![("target", self.text(&change.intent.target.to_string()))];
        for handler in &change.intent.pending {
            fields.push(("triggers", self.text(&handler.sentence())));
        }
        if change.awaits_rollback() && !change.is_irreversible() {
            fields.push(("more", self.sentence(&format!("`kkrun show {}` says how to undo it", change.id))));
        }
        if change.is_irreversible() {
            let why = change.intent.loses.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
            fields.push(("undo", self.text(&format!("cannot be undone{why}"))));
        }
        fields
    }

    fn difference(&self, change: &ChangeRecord) -> Result<Option<Excerpt>> {
        let Some(text) = difference_of(change, self.history, &self.world)? else { return Ok(None) };
        let mut lines = Text::lines(self.redactor, &text);
        let left_out = lines.len().saturating_sub(DIFFERENCE_LINES);
        lines.truncate(DIFFERENCE_LINES);
        let more = format!("{left_out} more lines are left out: `kkrun show {}` has all of them", change.id);
        let left_out_behind = (left_out > 0).then(|| self.sentence(&more));
        Ok(Some(Excerpt { left_out_before: None, lines, left_out_behind }))
    }

    /// The last lines that a step printed in this run; none if it printed nothing, or its log was removed.
    fn output(&self, step: &str) -> Result<Option<Excerpt>> {
        let (plan, run) = (self.course.plan.as_str(), self.course.run.run.as_str());
        let path = self.launch.state.join("logs").join(log_name(plan, step, run));
        let text = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read `{}`", path.display())),
        };
        let mut lines = Text::lines(self.redactor, &String::from_utf8_lossy(&text));
        if lines.is_empty() {
            return Ok(None);
        }
        let left_out = lines.len().saturating_sub(OUTPUT_LINES);
        lines.drain(..left_out);
        // `kkrun log` shows the newest log of a step.
        let is_newest = log_of(&self.launch.state, plan, step)?.is_some_and(|newest| newest == path);
        let place =
            if is_newest { format!("`{}`", log_call(plan, step)) } else { format!("`{}`", path.display()) };
        let before = format!("the first {left_out} lines are left out: {place} has all of them");
        let left_out_before = (left_out > 0).then(|| self.sentence(&before));
        Ok(Some(Excerpt { left_out_before, lines, left_out_behind: None }))
    }

    fn is_rollback(&self) -> bool {
        self.course.records.iter().any(|record| matches!(record.entry, Entry::RollbackStarted { .. }))
    }

    /// How the run ended, by the worst that happened.
    fn outcome(&self, steps: &Steps, is_running: bool) -> (Mark, String) {
        let has = |word: &str| steps.list.iter().any(|step| step.word == word);
        match self.course.run.ended {
            None if is_running => (Mark::Open, "running".to_owned()),
            None => (Mark::Bad, "killed: it has no end".to_owned()),
            Some((_, 0)) if self.is_rollback() => (Mark::Undone, "rolled back".to_owned()),
            Some((_, 0)) => (Mark::Good, "complete".to_owned()),
            Some((_, 4)) => (Mark::Bad, "rolled back in part".to_owned()),
            Some((_, exit)) if exit > 128 || has("interrupted") => (Mark::Open, "interrupted".to_owned()),
            Some((_, 1)) => (Mark::Bad, "failed".to_owned()),
            Some((_, exit)) => (Mark::Bad, format!("failed with exit status {exit}")),
        }
    }

    fn problems(&self, steps: &Steps) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (at, (step, id)) in steps.list.iter().zip(&steps.ids).enumerate() {
            let is_broken = matches!(step.word, "failed" | "interrupted" | "unfinished");
            // A step that ran again has its state from there.
            if let Some(id) = id.as_deref().filter(|id| is_broken && steps.newest(Some(id)) == Some(at)) {
                problems.push(self.broken(at, step, id));
            }
            for act in step.acts.iter().filter(|act| act.mark == Mark::Bad) {
                problems.push(Problem {
                    title: self.text(&format!("{}: {}", act.word, self.summary_of(act))),
                    reason: act.remarks.first().cloned(),
                    output: Vec::new(),
                    next: act.change.map(|change| self.ways_on(change)).unwrap_or_default(),
                    step: Some(at),
                });
            }
        }
        problems
    }

    /// What the operator can decide about a change that is in conflict.
    fn ways_on(&self, change: ChangeId) -> Vec<Text> {
        let in_conflict = |change: &&ChangeRecord| matches!(change.state, ChangeState::Conflict(_));
        let Some(change) = self.history.change(change).filter(in_conflict) else { return Vec::new() };
        let target = change.intent.target.to_string();
        let call = shell_words::join(["kkrun", "rollback", &target, "--plan", &change.plan]);
        [("overwrite", "restores the state from before"), ("keep", "keeps what is there")]
            .map(|(what, does)| self.sentence(&format!("`{call} --on-conflict {what}` {does}")))
            .to_vec()
    }

    fn summary_of(&self, act: &Act) -> &str {
        act.change.and_then(|id| self.history.change(id)).map_or("", |change| change.intent.summary.as_str())
    }

    fn broken(&self, at: usize, step: &Step, id: &str) -> Problem {
        let plan = self.course.plan.as_str();
        let title = self.history.step(plan, id).map_or("", |known| known.title.as_str());
        let output = step.output.as_ref().map(|output| output.lines.as_slice()).unwrap_or_default();
        // A log ends with what is the reason here.
        let reason_in_log = step.error.as_ref().map(|error| error.clone().behind("failed: "));
        let output = match output.split_last() {
            Some((last, before)) if Some(last) == reason_in_log.as_ref() => before,
            _ => output,
        };
        let last = output[output.len().saturating_sub(LAST_LINES)..].to_vec();
        let reason = step.error.clone();
        let reason =
            reason.or_else(|| (step.word == "unfinished").then(|| self.text("it has no end: it was killed")));
        let log =
            (!last.is_empty()).then(|| self.sentence(&format!("`{}` has all output", log_call(plan, id))));
        Problem {
            title: self.text(&format!("Step {id} {title} {}", step.word)),
            reason,
            output: last,
            next: log.into_iter().collect(),
            step: Some(at),
        }
    }
}

/// The state of what is no step that ran: of one that was undone, or of what is of no step.
fn of_acts(acts: &[Act]) -> (Mark, &'static str) {
    let has = |mark: Mark| acts.iter().any(|act| act.mark == mark);
    match (has(Mark::Bad), has(Mark::Undone), has(Mark::Open)) {
        (true, _, _) => (Mark::Bad, "not all undone"),
        (_, true, true) => (Mark::Undone, "undone in part"),
        (_, true, _) => (Mark::Undone, "undone"),
        (_, _, true) => (Mark::Open, "not undone"),
        _ if has(Mark::Good) => (Mark::Good, "done"),
        _ => (Mark::Plain, ""),
    }
}

/// Of what began and has not ended yet.
const UNDER_WAY: &str = "under way";

fn log_call(plan: &str, step: &str) -> String {
    format!("kkrun log {} --plan {}", shell_words::quote(step), shell_words::quote(plan))
}

/// What is counted in the head of the page.
fn counts(steps: &[Step]) -> Vec<(usize, &'static str)> {
    let of_steps = |word: &str| steps.iter().filter(|step| step.word == word).count();
    let acts = || steps.iter().flat_map(|step| &step.acts);
    let of_acts = |word: &str| acts().filter(|act| act.change.is_some() && act.word == word).count();
    let undone = acts().filter(|act| act.mark == Mark::Undone).count();
    let (complete, made) = (of_steps("complete"), of_acts("made"));
    let all = [
        (complete, if complete == 1 { "step complete" } else { "steps complete" }),
        (of_steps("failed"), "failed"),
        (of_steps("interrupted") + of_steps("unfinished"), "interrupted"),
        (made, if made == 1 { "change made" } else { "changes made" }),
        (undone, "undone"),
        (of_acts("kept"), "kept"),
        (of_acts("conflict"), "in conflict"),
        (of_acts("undo failed"), "failed to be undone"),
        (of_acts("not undone"), "not undone"),
    ];
    all.into_iter().filter(|(count, _)| *count > 0).collect()
}
