//! Runs the steps of a plan: decides about each, runs or examines it, and records how it ended.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Result, bail};
use serde_json::Value;

use super::Launch;
use super::decision::{Decision, Selection, staleness, unknown_reliance};
use super::status::{StepReport, StepStatus, by_record, rows};
use crate::event::{Answer, Event, Question, SkipReason};
use crate::exit_code::ExitCode;
use crate::failure::{FailedStep, Failure, FailureKind, Place, sentence};
use crate::journal::{ChangeState, Entry, Fingerprint, Handler, StepRecord, StepState};
use crate::machine::signal::Interruption;
use crate::panicking;
use crate::pasteable::invocation_with;
use crate::rollback;
use crate::script::{
    Host, MAIN, NativeCallContext, Plan, StepBody, StepCall, StepRunner, Stop, Trace, code_fingerprint,
    evaluate,
};
use crate::session::{ConflictPolicy, Mode, WouldChange};
use crate::text::{accepted_as_it_is, printable};

/// What is done with the steps of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// Run them.
    Act,
    /// Say what a run would do.
    Preview,
    /// Tell which no longer hold.
    Examine,
}

/// Examines the steps of the plan of this script and name with a runner of their own.
pub(super) type Examine = fn(&Rc<Launch>, &Host, &str, &str) -> Result<Vec<StepReport>>;

/// Runs the steps of one plan.
pub struct Runner {
    launch: Rc<Launch>,
    examine: Examine,
    doing: Doing,
    selection: Selection,
    declared: HashSet<String>,
    unchanged: bool,
    state: RefCell<State>,
    /// The script that was called.
    main: RefCell<String>,
}

#[derive(Default)]
struct State {
    began: bool,
    reports: Vec<StepReport>,
    failed: Vec<String>,
    drifted: Vec<String>,
    /// A step that the plan came to is not complete, or would be changed.
    is_unmet: bool,
    /// The steps that the plan came to.
    reached: BTreeSet<String>,
    /// The step that was stopped while it ran.
    stopped: Option<String>,
}

impl Runner {
    /// A runner for these steps.
    pub fn new(
        launch: Rc<Launch>,
        examine: Examine,
        doing: Doing,
        selection: Selection,
        plan: Plan,
    ) -> Rc<Self> {
        let runner = Self::of(launch, examine, doing, plan);
        Rc::new(Self { selection, ..runner })
    }

    /// A runner for the steps of a plan which are all known to be complete and to mean what they did.
    pub fn of_unchanged(launch: Rc<Launch>, examine: Examine, doing: Doing, plan: Plan) -> Rc<Self> {
        Rc::new(Self { unchanged: true, ..Self::of(launch, examine, doing, plan) })
    }

    fn of(launch: Rc<Launch>, examine: Examine, doing: Doing, plan: Plan) -> Self {
        let declared = plan.steps.into_iter().map(|step| step.id).collect();
        let (state, main) = (RefCell::default(), RefCell::default());
        Self {
            launch,
            examine,
            doing,
            selection: Selection::default(),
            declared,
            unchanged: false,
            state,
            main,
        }
    }

    /// What an examination of the plan `script` finds. One that asks while it is itself examined gets what was found so
    /// far.
    fn examined(&self, host: &Host, script: &str, plan: &str) -> Result<Vec<StepReport>> {
        if self.doing == Doing::Examine {
            return Ok(self.reports());
        }
        (self.examine)(&self.launch, host, script, plan)
    }

    /// Says of every step of an unchanged plan that it is complete, without evaluating the plan.
    pub fn pass_over(host: &Host, plan: &Plan) {
        for step in &plan.steps {
            Self::pass(host, &step.id, &step.title);
        }
    }

    fn pass(host: &Host, id: &str, title: &str) {
        let session = host.seen();
        skip(host, id, title, SkipReason::Complete, session.history().step(session.plan(), id));
    }

    /// Tells the name of the script that was called.
    pub fn set_main(&self, name: &str) {
        name.clone_into(&mut self.main.borrow_mut());
    }

    /// What was found, in the plan's order.
    pub fn reports(&self) -> Vec<StepReport> {
        self.state.borrow().reports.clone()
    }

    /// The steps that failed.
    pub fn failed(&self) -> Vec<String> {
        self.state.borrow().failed.clone()
    }

    /// Reports an interruption of the run: which steps did not run because of it, and how to go on. One that arrives while
    /// a command is finished first ends the run between two steps, where no step reports it.
    pub fn report_interruption(&self, host: &Host, plan: &Plan, interruption: Interruption) {
        let state = self.state.borrow();
        let (session, reporter) = (host.seen(), host.reporter());
        let mut began = false;
        let mut left = Vec::new();
        for step in &plan.steps {
            began |= self.selection.from.as_deref().is_none_or(|from| from == step.id);
            let record = session.history().step(session.plan(), &step.id);
            let decision = self.selection.decide(&step.id, began, record, None);
            let is_run = matches!(decision, Decision::Run { .. } | Decision::Accept);
            if is_run && !state.reached.contains(&step.id) {
                left.push(step.id.as_str());
            }
        }
        let did_not_run = match &left[..] {
            [] => None,
            [one] => Some(format!("step {one} did not run")),
            several => Some(format!("steps {} did not run", several.join(", "))),
        };
        let signal = crate::machine::signal::name(interruption.signal);
        match (&state.stopped, did_not_run) {
            (Some(_), None) => {}
            (Some(_), Some(what)) => reporter.note(what),
            (None, None) => reporter.note(format!("stopped by {signal}")),
            (None, Some(what)) => reporter.note(format!("stopped by {signal}: {what}")),
        }
        if self.doing == Doing::Act
            && let Some(at) = state.stopped.as_deref().or_else(|| left.first().copied())
        {
            reporter.note(format!(
                "run `{}` again: it resumes at step {at} and skips what is complete",
                self.launch.invocation
            ));
        }
    }

    /// Fails when complete steps were examined and do not hold any more: nothing is done on top of them.
    pub fn refuse_drift(&self) -> Result<()> {
        let state = self.state.borrow();
        if state.drifted.is_empty() {
            return Ok(());
        }
        let (step, hold) = if state.drifted.len() == 1 { ("step", "holds") } else { ("steps", "hold") };
        bail!(
            Failure::new(format!("{step} {} no longer {hold}", state.drifted.join(", "))).kind(FailureKind::Step).hint(
                format!("`{}` runs what no longer holds", invocation_with(&self.launch.invocation, "--repair"))
            )
            .hint("`--on-conflict overwrite` replaces what was modified outside kkrun, `--on-conflict keep` keeps it")
        )
    }

    /// Refuses a step within a step, and one that the plan does not declare.
    fn check_call(&self, host: &Host, call: &StepCall) -> Result<()> {
        if let Some(step) = host.seen().step() {
            bail!(
                Failure::new(format!("step {step} cannot run the step `{}`: steps do not nest", call.id))
                    .hint("share code with `import`; the plan decides the order")
            );
        }
        if !self.declared.contains(&call.id) {
            bail!(
                Failure::new(format!("step `{}` is not declared at the top level of the plan", call.id))
                    .hint("call `step::run` at the top level of the plan, with a literal id and title")
            );
        }
        Ok(())
    }

    /// An id belongs to one script. If it were given to another, the record of the first would pass for that of the
    /// second.
    fn confirm_identity(host: &Host, call: &StepCall, record: &StepRecord) -> Result<()> {
        let script = script_of(call);
        let has_past = record.state != StepState::Pending && !record.script.is_empty();
        if !has_past || record.script == script {
            return Ok(());
        }
        let text = format!(
            "Step {} was the script `{}` and is now `{script}`. Keep the record of the old one?",
            call.id, record.script
        );
        match host.reporter().ask(&Question::Confirm { text, default: false, harmless: true })? {
            Some(Answer::Yes) => Ok(()),
            answer => {
                let failure = Failure::new(format!(
                    "step id `{}` now belongs to another script: `{}`, formerly `{}`",
                    call.id, script, record.script
                ));
                let exit = if answer.is_none() { ExitCode::UNANSWERED } else { ExitCode::FAILED };
                bail!(
                    failure
                        .exit(exit)
                        .kind(FailureKind::Step)
                        .hint("give the new step an id of its own, or keep the old record with `--yes`")
                        .hint(format!("`{}` undoes what the old script did", undo_of(host, &call.id)))
                )
            }
        }
    }

    fn began(&self, id: &str) -> bool {
        let mut state = self.state.borrow_mut();
        state.began |= self.selection.from.as_deref().is_none_or(|from| from == id);
        state.began
    }

    /// The fingerprint of the step now; the parts known only after a run are those from when it completed.
    fn fingerprint_now(
        context: &NativeCallContext,
        host: &Host,
        call: &StepCall,
        then: Option<&Fingerprint>,
    ) -> Result<Fingerprint> {
        let trace = host.present(&then.map(traced).unwrap_or_default())?;
        Self::fingerprint_of(context, host, call, trace)
    }

    fn fingerprint_of(
        context: &NativeCallContext,
        host: &Host,
        call: &StepCall,
        trace: Trace,
    ) -> Result<Fingerprint> {
        let engine = context.engine();
        let graph = host.scripts();
        let mut scripts: BTreeSet<String> = graph.consists_of(engine, MAIN)?.iter().cloned().collect();
        let script = match &call.body {
            StepBody::Script(name) => Some(name.as_str()),
            StepBody::Closure(_) => None,
        };
        if let Some(name) = script {
            scripts.extend(graph.consists_of(engine, name)?.iter().cloned());
        }
        let code = code_fingerprint(engine, graph, script, &call.id)?;
        let bytes = graph.digest_of(scripts.iter().map(String::as_str))?;
        let values = code
            .settings
            .union(&trace.settings)
            .filter_map(|name| Some((name.clone(), host.settings().get(name)?.clone())));
        Ok(Fingerprint {
            code: code.hash,
            functions: code.functions,
            scripts: scripts.into_iter().filter(|name| name != MAIN).collect(),
            bytes,
            settings: values.collect(),
            secrets: trace.secrets,
            files: trace.files,
            environment: trace.environment,
        })
    }

    fn run_now(
        &self,
        context: &NativeCallContext,
        host: &Host,
        call: &StepCall,
        reason: Option<String>,
    ) -> Result<()> {
        let script = script_of(call);
        let reporter = host.reporter();
        let (id, title) = (call.id.clone(), call.title.clone());
        reporter.log_to(self.launch.step_log(host.seen().plan(), &id)?);
        let usual_seconds = usual_seconds(host, &id);
        reporter.emit(&Event::StepStarted { id: id.clone(), title: title.clone(), reason, usual_seconds });
        let before = host.seen().changed();
        host.session().enter_step(Some(&id));
        host.seen().take_asked();
        // Without it a step that did nothing yet is pending instead of interrupted: its first change makes it durable.
        host.session().note(Entry::StepStarted { step: id.clone(), title: title.clone(), script })?;
        let (begun, waited) = (Instant::now(), reporter.waited());
        let outcome = evaluate_body(context, host, call);
        let trace = std::mem::take(&mut *host.trace());
        let outcome = outcome.and_then(|()| finish_body(host, &id));
        // The operator's time is not the step's.
        let seconds = begun.elapsed().saturating_sub(reporter.waited().saturating_sub(waited)).as_secs_f64();
        let result = match outcome {
            Ok(()) => {
                let fingerprint = Self::fingerprint_of(context, host, call, trace)?;
                let claims = host.seen().claims_of(&id);
                let step = id.clone();
                host.session().record(Entry::StepCompleted { step, seconds, fingerprint, claims })?;
                let changes = host.seen().changed() - before;
                reporter.emit(&Event::StepCompleted { id, title, seconds, changes });
                Ok(())
            }
            Err(Stop::Interrupted(interruption)) => {
                let signal = crate::machine::signal::name(interruption.signal);
                let entry = Entry::StepInterrupted { step: id.clone(), seconds, signal: signal.clone() };
                host.session().record(entry)?;
                self.state.borrow_mut().stopped = Some(id.clone());
                reporter.emit(&Event::StepInterrupted { id: id.clone(), title, signal });
                Err(interruption.into())
            }
            Err(Stop::Unpredictable { why, .. }) => {
                bail!("internal error: a running step depends on something unpredictable: {why}")
            }
            Err(Stop::Failed(failure)) => {
                let place = failure.place.as_ref().map(shown_place);
                let error = failure.message.clone();
                let entry = Entry::StepFailed { step: id.clone(), seconds, error: error.clone(), place };
                if failure.kind != FailureKind::Journal {
                    host.session().record(entry)?;
                }
                self.state.borrow_mut().failed.push(id.clone());
                reporter.emit(&Event::StepFailed { id: id.clone(), title, seconds, error });
                Err(self.explained(failure, &id, host).into())
            }
        };
        host.session().enter_step(None);
        reporter.log_to(None);
        result
    }

    /// The failure of a step with what the operator can rely on and do next.
    fn explained(&self, mut failure: Failure, id: &str, host: &Host) -> Failure {
        let session = host.seen();
        let complete = session.history().step(session.plan(), id).map_or(0, |step| step.completed);
        let live = session.history().live_changes_of(session.plan(), id);
        let live = live.filter(|change| change.id > complete);
        let (open, made): (Vec<_>, Vec<_>) =
            live.partition(|change| change.state == ChangeState::InDoubt && change.is_irreversible());
        let lasting = made.iter().filter(|change| change.is_irreversible()).count();
        failure.hints.push(format!(
            "fix the cause, then run `{}` again: it resumes at step {id} and skips what is complete",
            self.launch.invocation
        ));
        let count = match made.len() {
            0 => "no change".to_owned(),
            1 => "1 change".to_owned(),
            changes => format!("{changes} changes"),
        };
        let reversible = match lasting {
            _ if made.is_empty() => String::new(),
            0 => ", recorded and reversible".to_owned(),
            1 if made.len() == 1 => ", which cannot be undone".to_owned(),
            lasting => format!("; {lasting} of them cannot be undone"),
        };
        let more = if open.is_empty() { "" } else { "; the command that failed may have made more" };
        // What was recorded may be lost with the journal.
        if failure.kind == FailureKind::Journal {
            return failure;
        }
        if !made.is_empty() || !open.is_empty() {
            failure.hints.push(format!("step {id} made {count} so far{reversible}{more}"));
        }
        let of_plan = session.history().plan_option(session.plan());
        failure.hints.push(format!("full output: `kkrun log {}{of_plan}`", shell_words::quote(id)));
        // At a conflict the operator chose already.
        if failure.kind != FailureKind::Conflict {
            let (plan, command) = (session.plan().to_owned(), session.world.processes.failed().map(Box::new));
            failure.step = Some(FailedStep { plan, id: id.to_owned(), command });
        }
        failure.kind = FailureKind::Step;
        failure
    }

    fn look_at(&self, context: &NativeCallContext, host: &Host, call: &StepCall) -> Result<StepReport> {
        let mut report = StepReport {
            id: call.id.clone(),
            title: call.title.clone(),
            script: script_of(call),
            status: StepStatus::Pending,
            reason: None,
            asks: None,
            is_as_asked: true,
        };
        let record = host.seen().history().step(host.seen().plan(), &call.id).cloned().unwrap_or_default();
        let (record, is_running) = self.settled_record(host, call, record)?;
        report.status = by_record(&record, is_running);
        if record.state != StepState::Complete {
            return Ok(report);
        }
        if let Some(reason) = stale(context, host, call, &record)? {
            report.status = StepStatus::Stale;
            report.reason = Some(reason);
            return Ok(report);
        }
        host.seen().take_asked();
        let (drift, environment) = examined(context, host, call)?;
        let asked = host.seen().take_asked();
        report.is_as_asked = record.fingerprint.as_ref().is_none_or(|then| then.environment == environment);
        if let Some(Drift { reasons, .. }) = &drift
            && is_accepted(host, &record, reasons)
        {
            report.reason = Some(accepted(&record, reasons));
        } else if let Some(drift) = drift {
            report.status = StepStatus::Drifted;
            report.reason = Some(drift.reason());
        } else {
            report.asks = Some(asked);
            let reliance = unknown_reliance(host.seen().history(), host.seen().plan(), &call.id);
            report.reason = joined(record.accepted_because(), reliance);
        }
        Ok(report)
    }

    /// The record of a step, and whether its run is at work. One that had begun when the journal was read may have ended
    /// since: only a run that is gone, and whose records were read after that, was interrupted.
    fn settled_record(
        &self,
        host: &Host,
        call: &StepCall,
        mut record: StepRecord,
    ) -> Result<(StepRecord, bool)> {
        while record.state == StepState::Started {
            if self.launch.is_running(&record.run) {
                return Ok((record, true));
            }
            let history = self.launch.history()?;
            let now = history.step(host.seen().plan(), &call.id).cloned().unwrap_or_default();
            if now.state == StepState::Started && now.run == record.run {
                break;
            }
            record = now;
        }
        Ok((record, false))
    }

    fn preview(
        context: &NativeCallContext,
        host: &Host,
        call: &StepCall,
        reason: Option<String>,
    ) -> Result<()> {
        let before = host.seen().would_change().len();
        let reporter = host.reporter();
        let (id, title) = (call.id.clone(), call.title.clone());
        reporter.emit(&Event::StepStarted { id, title, reason, usual_seconds: None });
        host.session().enter_step(Some(&call.id));
        let outcome = evaluate_body(context, host, call);
        let _discarded = host.take_failed_mutation();
        host.session().enter_step(None);
        let unpredictable = match outcome {
            Ok(()) => None,
            Err(Stop::Interrupted(interruption)) => return Err(interruption.into()),
            Err(Stop::Unpredictable { place, why }) => {
                Some(format!("not predictable from line {} on: depends on {why}", place.line))
            }
            // Nothing was changed, so what fails now may well be true by then.
            Err(Stop::Failed(failure)) => {
                let line = failure.place.as_ref().map_or(0, |place| place.line);
                Some(format!("not predictable from line {line} on: {}", failure.message))
            }
        };
        let changes = host.seen().would_change().len() - before;
        if unpredictable.is_some() && changes == 0 {
            // It would do something, only not what is known.
            host.session().count_unknown(&call.id);
        }
        reporter.emit(&Event::StepPreviewed {
            id: call.id.clone(),
            title: call.title.clone(),
            changes,
            unpredictable,
        });
        Ok(())
    }

    /// What the operator gave as the reason, without secrets.
    fn why_accepted(&self, host: &Host) -> Option<String> {
        let why = self.selection.reason.as_deref()?;
        Some(printable(&host.reporter().redact(why)).into_owned())
    }

    /// Records a step as complete as it is, with what its script would still do and why.
    fn accept(
        &self,
        context: &NativeCallContext,
        host: &Host,
        call: &StepCall,
        record: Option<&StepRecord>,
    ) -> Result<()> {
        let then = record.and_then(|record| record.fingerprint.as_ref());
        let fingerprint = Self::fingerprint_now(context, host, call, then)?;
        let (step, title, script) = (call.id.clone(), call.title.clone(), script_of(call));
        let drift = host.reporter().apart(|| looking(host, || drift_of(context, host, call))).0?;
        let reasons = drift.map(|drift| drift.reasons).unwrap_or_default();
        let left = reasons.iter().map(|reason| host.reporter().redact(reason)).collect();
        let why = self.why_accepted(host);
        let reason = SkipReason::Recorded(why.clone());
        host.session().record(Entry::StepAccepted { step, title, script, fingerprint, left, why })?;
        Self::skip(host, call, reason, record);
        Ok(())
    }

    /// Reports, in a dry run, what `--repair` would do about a step that no longer holds.
    fn preview_repair(&self, host: &Host, call: &StepCall, drift: Drift) {
        let (changes, reason) = (drift.changes.len(), drift.reason());
        let mut session = host.session();
        if changes == 0 {
            session.count_unknown(&call.id);
        } else {
            session.count_would_change(drift.changes);
        }
        drop(session);
        let why = if self.selection.repair {
            SkipReason::WouldRepair(reason)
        } else {
            SkipReason::NeedsRepair(reason)
        };
        Self::skip(host, call, why, None);
    }

    /// Skips a complete step behind which something was undone. What that left of it is only said: it was undone because
    /// the operator wanted it so, and to run the step would not bring it back.
    fn skip_behind_undone(
        &self,
        context: &NativeCallContext,
        host: &Host,
        call: &StepCall,
        record: Option<&StepRecord>,
    ) -> Result<()> {
        let drift = looking(host, || drift_of(context, host, call))?;
        if let Some(drift) = drift {
            self.state.borrow_mut().is_unmet = true;
            Self::skip(host, call, SkipReason::Drifted(drift.reason()), record);
            return Ok(());
        }
        Self::skip_examined(host, call, record);
        Ok(())
    }

    /// Skips a complete step that holds, as far as that can be known.
    fn skip_examined(host: &Host, call: &StepCall, record: Option<&StepRecord>) {
        Self::skip(host, call, SkipReason::Examined, record);
        let reliance = unknown_reliance(host.seen().history(), host.seen().plan(), &call.id);
        if let Some(reliance) = reliance {
            host.reporter().note(format!("step {}: {reliance}", call.id));
        }
    }

    fn skip(host: &Host, call: &StepCall, why: SkipReason, record: Option<&StepRecord>) {
        skip(host, &call.id, &call.title, why, record);
    }
}

impl Runner {
    fn rollback_request(&self, options: &Value) -> Result<rollback::Request> {
        rollback::Request::of(options, &self.launch.purge, self.launch.overwrites_conflicts())
    }
}

impl StepRunner for Runner {
    fn run(&self, context: &NativeCallContext, call: &StepCall) -> Result<()> {
        let host = Host::of(context)?;
        self.check_call(&host, call)?;
        self.state.borrow_mut().reached.insert(call.id.clone());
        if self.unchanged {
            Self::pass(&host, &call.id, &call.title);
            return Ok(());
        }
        if self.doing == Doing::Examine {
            let report = self.look_at(context, &host, call)?;
            self.state.borrow_mut().reports.push(report);
            return Ok(());
        }
        let record = host.seen().history().step(host.seen().plan(), &call.id).cloned();
        let stale = match &record {
            Some(record) if record.state == StepState::Complete => stale(context, &host, call, record)?,
            _ => None,
        };
        let (began, is_stale) = (self.began(&call.id), stale.is_some());
        let decision = self.selection.decide(&call.id, began, record.as_ref(), stale);
        tracing::debug!(step = call.id, ?decision, "decided");
        match (decision, self.doing) {
            (Decision::Skip { why: SkipReason::Complete }, _) if has_undone_behind(&host, &call.id) => {
                self.skip_behind_undone(context, &host, call, record.as_ref())
            }
            (Decision::Skip { why }, _) => {
                let is_complete = record.as_ref().is_some_and(|record| record.state == StepState::Complete);
                self.state.borrow_mut().is_unmet |= !is_complete || is_stale;
                Self::skip(&host, call, why, record.as_ref());
                Ok(())
            }
            (Decision::Accept, Doing::Preview) => {
                Self::skip(&host, call, SkipReason::Recorded(self.why_accepted(&host)), record.as_ref());
                Ok(())
            }
            (Decision::Run { reason }, Doing::Preview) => {
                self.refuse_drift()?;
                Self::preview(context, &host, call, reason)
            }
            (Decision::Accept, _) => self.accept(context, &host, call, record.as_ref()),
            (Decision::Examine, _) => {
                let (drift, seen) =
                    host.reporter().apart(|| looking(&host, || drift_of(context, &host, call)));
                let drift = drift?;
                let is_accepted = drift.as_ref().is_some_and(|drift| {
                    record.as_ref().is_some_and(|record| is_accepted(&host, record, &drift.reasons))
                });
                let runs = self.selection.repair && self.doing == Doing::Act;
                let is_shown = |event: &&Event| match event {
                    Event::Note { .. } => true,
                    // The run that follows shows it.
                    _ if runs && drift.is_some() => false,
                    Event::Change { outcome, .. } => {
                        !outcome.is_foreseen() || drift.is_some() && !is_accepted
                    }
                    Event::Said { .. } | Event::Output { .. } | Event::Verified { .. } => drift.is_some(),
                    _ => true,
                };
                host.reporter().about(Some(&call.id));
                seen.iter().filter(is_shown).for_each(|event| host.reporter().emit(event));
                host.reporter().about(None);
                let Some(drift) = drift else {
                    Self::skip_examined(&host, call, record.as_ref());
                    return Ok(());
                };
                if is_accepted && let Some(record) = &record {
                    let why = SkipReason::Recorded(record.accepted_because.clone());
                    Self::skip(&host, call, why, Some(record));
                    host.reporter().note(format!("step {}: {}", call.id, accepted(record, &drift.reasons)));
                    return Ok(());
                }
                if runs {
                    return self.run_now(context, &host, call, Some(format!("drifted: {}", drift.reason())));
                }
                self.state.borrow_mut().is_unmet = true;
                if self.selection.verify {
                    Self::skip(&host, call, SkipReason::Drifted(drift.reason()), record.as_ref());
                    self.state.borrow_mut().drifted.push(call.id.clone());
                    return Ok(());
                }
                self.preview_repair(&host, call, drift);
                Ok(())
            }
            (Decision::Run { reason }, _) => {
                self.refuse_drift()?;
                if let Some(record) = &record {
                    Self::confirm_identity(&host, call, record)?;
                }
                self.run_now(context, &host, call, reason)
            }
        }
    }

    fn mark(&self, host: &Host, id: &str) -> Result<()> {
        if host.dry_run() || self.is_done(host, id)? {
            return Ok(());
        }
        let fingerprint = Fingerprint { code: String::new(), ..Fingerprint::default() };
        let (step, claims) = (id.to_owned(), Vec::new());
        host.session().record(Entry::StepCompleted { step, seconds: 0.0, fingerprint, claims })?;
        Ok(())
    }

    fn is_done(&self, host: &Host, id: &str) -> Result<bool> {
        let session = host.seen();
        let record = session.history().step(session.plan(), id);
        Ok(record.is_some_and(|record| record.state == StepState::Complete))
    }

    fn list(&self, context: &NativeCallContext, plan: &str) -> Result<Value> {
        let host = Host::of(context)?;
        // Without a name in the settings, the plan is named after its script.
        let name = host.settings().text("plan").map_or_else(|| super::stem(plan), str::to_owned);
        let reports = self.examined(&host, plan, &name)?;
        let session = host.seen();
        let is_begun = session.history().steps_of(&name).any(|(_, step)| step.state == StepState::Started);
        // What had begun may have ended since.
        let reread = if is_begun { Some(self.launch.history()?) } else { None };
        let history = reread.as_ref().unwrap_or_else(|| session.history());
        Ok(serde_json::to_value(rows(history, &name, reports))?)
    }

    fn drift(&self, context: &NativeCallContext, id: &str) -> Result<Option<String>> {
        let host = Host::of(context)?;
        let main = self.main.borrow();
        let is_own = self.declared.contains(id) && !main.is_empty();
        let script = if is_own { main.as_str() } else { "master.rhai" };
        let reports = self.examined(&host, script, host.seen().plan())?;
        match reports.into_iter().find(|report| report.id == id) {
            Some(report) => Ok(report.reason),
            None if self.doing == Doing::Examine => Ok(None),
            None => bail!(Failure::new(format!("unknown step `{id}`")).kind(FailureKind::Usage)),
        }
    }

    fn all_hold(&self) -> bool {
        !self.state.borrow().is_unmet
    }

    fn reset(&self, host: &Host, steps: Option<Vec<String>>) -> Result<()> {
        for step in steps.iter().flatten() {
            let session = host.seen();
            let (history, plan) = (session.history(), session.plan());
            if history.step(plan, step).is_none() {
                let known: Vec<&str> = history.steps_of(plan).map(|(id, _)| id.as_str()).collect();
                bail!(
                    Failure::new(format!("step `{step}` of {plan} has never run"))
                        .exit(ExitCode::USAGE)
                        .kind(FailureKind::Usage)
                        .hint(format!("steps with a record: {}", known.join(", ")))
                );
            }
        }
        if !host.dry_run() {
            host.session().record(Entry::StepsReset { steps })?;
        }
        Ok(())
    }

    fn preview_rollback(&self, host: &Host, options: Value) -> Result<Value> {
        let request = self.rollback_request(&options)?;
        // Unless a question follows, what is undone is shown when it is.
        let is_shown = host.dry_run() || !host.reporter().agrees_unasked();
        Ok(rollback::preview(&mut host.session(), &request, is_shown)?.to_json())
    }

    fn undo_block(&self, host: &Host, handler: &Handler) -> Result<Vec<String>> {
        let request = self.rollback_request(&Value::Null)?;
        let report = rollback::undo_block(&mut host.session(), &request, handler)?;
        Ok(report.lines())
    }

    fn apply_rollback(&self, host: &Host, options: Value) -> Result<Value> {
        let request = self.rollback_request(&options)?;
        let report = if host.dry_run() {
            let report = rollback::preview(&mut host.session(), &request, true)?;
            host.session().count_undone(report.undone.len());
            report
        } else {
            rollback::apply(&mut host.session(), &request)?
        };
        host.session().count_not_undone(report.not_undone.len());
        host.end_with(report.exit());
        Ok(report.to_json())
    }
}

fn skip(host: &Host, id: &str, title: &str, why: SkipReason, record: Option<&StepRecord>) {
    host.reporter().emit(&Event::StepSkipped {
        id: id.to_owned(),
        title: title.to_owned(),
        why,
        finished: record.and_then(|record| record.finished),
        complete: record.is_some_and(|record| record.state == StepState::Complete),
    });
}

/// Whether something that was made before the step completed was undone since, and what it left can be seen: a preview
/// in which earlier steps make it again does not see it.
fn has_undone_behind(host: &Host, id: &str) -> bool {
    if host.would_have_changed() {
        return false;
    }
    let session = host.seen();
    !session.history().undone_behind(session.plan(), id).is_empty()
}

/// The command that undoes a step.
fn undo_of(host: &Host, id: &str) -> String {
    let session = host.seen();
    format!("kkrun rollback {}{}", shell_words::quote(id), session.history().plan_option(session.plan()))
}

/// How long a step took when it last completed.
fn usual_seconds(host: &Host, id: &str) -> Option<f64> {
    let session = host.seen();
    session.history().step(session.plan(), id)?.usual_seconds
}

/// What a step was seen to use when it completed.
pub(super) fn traced(then: &Fingerprint) -> Trace {
    Trace {
        secrets: then.secrets.clone(),
        files: then.files.clone(),
        settings: then.settings.keys().cloned().collect(),
        environment: then.environment.clone(),
    }
}

/// Runs `examination` as a dry run of the session of `host`.
fn looking<T>(host: &Host, examination: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = std::mem::replace(&mut host.session().mode, Mode::DryRun);
    // What the operator keeps is recorded when the step runs: until then it does not hold.
    let policy = host.seen().on_conflict;
    if policy == ConflictPolicy::Keep {
        host.session().on_conflict = ConflictPolicy::Ask;
    }
    let found = examination();
    let mut session = host.session();
    (session.mode, session.on_conflict) = (before, policy);
    found
}

/// Why a complete step is stale.
fn stale(
    context: &NativeCallContext,
    host: &Host,
    call: &StepCall,
    record: &StepRecord,
) -> Result<Option<String>> {
    let Some(then) = &record.fingerprint else { return Ok(None) };
    if then.code.is_empty() {
        return Ok(None);
    }
    let now = Runner::fingerprint_now(context, host, call, Some(then))?;
    Ok(staleness(then, &now))
}

/// That a complete step no longer holds.
struct Drift {
    /// What its script would do, or why it cannot be evaluated: at least one thing.
    reasons: Vec<String>,
    /// The same as what was found.
    found: Vec<String>,
    /// What would make it hold again, as far as that can be predicted.
    changes: Vec<WouldChange>,
}

impl Drift {
    /// What no longer holds, in one line.
    fn reason(&self) -> String {
        self.found.join("; ")
    }
}

/// Whether all of this was left when the operator accepted the step as it was.
fn is_accepted(host: &Host, record: &StepRecord, reasons: &[String]) -> bool {
    reasons.iter().all(|reason| record.accepted.contains(&host.reporter().redact(reason)))
}

/// What is said of it.
fn accepted(record: &StepRecord, reasons: &[String]) -> String {
    let why = record.accepted_because.as_deref();
    format!("{}; its script would still {}", accepted_as_it_is(why), reasons.join("; "))
}

/// Both sentences, of those that there are.
fn joined(first: Option<String>, second: Option<String>) -> Option<String> {
    let sentences: Vec<String> = first.into_iter().chain(second).collect();
    (!sentences.is_empty()).then(|| sentences.join("; "))
}

/// What of a step no longer holds, by evaluating it without changing anything. The session is in a dry run.
fn drift_of(context: &NativeCallContext, host: &Host, call: &StepCall) -> Result<Option<Drift>> {
    examined(context, host, call).map(|(drift, _)| drift)
}

/// The same, with the variables of the environment that the step reads now.
fn examined(
    context: &NativeCallContext,
    host: &Host,
    call: &StepCall,
) -> Result<(Option<Drift>, BTreeMap<String, String>)> {
    let before = host.seen().would_change().len();
    let triggered = host.seen().would_trigger().len();
    let predicted = host.seen().world.predicted.borrow().clone();
    host.session().enter_step(Some(&call.id));
    host.session().examines = true;
    let outcome = evaluate_body(context, host, call);
    host.session().examines = false;
    host.session().enter_step(None);
    host.seen().world.predicted.replace(predicted);
    let environment = std::mem::take(&mut *host.trace()).environment;
    let _discarded = host.take_failed_mutation();
    host.session().forget_would_trigger_since(triggered);
    let (repeated, drifted): (Vec<_>, Vec<_>) =
        host.session().forget_would_change_since(before).into_iter().partition(|would| would.is_repeated);
    let reasons = match outcome {
        Err(Stop::Interrupted(interruption)) => return Err(interruption.into()),
        _ if !drifted.is_empty() => {
            let reasons = drifted.iter().map(|would| would.summary.clone()).collect();
            let found = found_of(&drifted);
            return Ok((Some(Drift { reasons, found, changes: drifted }), environment));
        }
        Ok(()) => return Ok((None, environment)),
        // What a command prints that runs each time cannot be known without running it: the rest is not examined.
        Err(Stop::Unpredictable { .. }) if !repeated.is_empty() => return Ok((None, environment)),
        Err(Stop::Failed(failure)) => vec![failure.message],
        Err(Stop::Unpredictable { why, .. }) => vec![why],
    };
    Ok((Some(Drift { found: reasons.clone(), reasons, changes: drifted }), environment))
}

/// What was found at the targets of these changes, and which others the script would make, or might.
fn found_of(changes: &[WouldChange]) -> Vec<String> {
    let others = |is_unsure: bool| {
        let others = changes.iter().filter(|would| would.found.is_none() && would.is_unsure == is_unsure);
        let others: Vec<&str> = others.map(|would| would.summary.as_str()).collect();
        let verb = if is_unsure { "might" } else { "would" };
        (!others.is_empty()).then(|| format!("its script {verb} {}", others.join(", ")))
    };
    let found = changes.iter().filter_map(|would| would.found.clone());
    found.chain(others(false)).chain(others(true)).collect()
}

/// Evaluates a step's script or closure.
fn evaluate_body(context: &NativeCallContext, host: &Host, call: &StepCall) -> Result<(), Stop> {
    let body = || match &call.body {
        StepBody::Script(name) => {
            let program = host.scripts().program(context.engine(), name).map_err(failed)?;
            evaluate(context.engine(), host, &program).map(drop)
        }
        StepBody::Closure(closure) => match host.call_apart(context, closure) {
            Ok(_) => Ok(()),
            Err(error) => Err(match host.take_passing(&error) {
                Some(passed) => host.stop_of(&passed, context.call_source().unwrap_or_default()),
                None => failed(error),
            }),
        },
    };
    guarded(body)
}

/// Evaluates so that a panic is a failure of kkrun and not its end: what was done is recorded.
pub(super) fn guarded<T>(body: impl FnOnce() -> Result<T, Stop>) -> Result<T, Stop> {
    panicking::caught(body).unwrap_or_else(|failure| Err(Stop::Failed(failure)))
}

/// The script of a step as its record names it.
fn script_of(call: &StepCall) -> String {
    match &call.body {
        StepBody::Script(name) => name.clone(),
        StepBody::Closure(_) => "inline".to_owned(),
    }
}

/// What must be true besides the last line having been reached.
fn finish_body(host: &Host, id: &str) -> Result<(), Stop> {
    if let Some(failure) = host.take_failed_mutation() {
        return Err(Stop::Failed(failure));
    }
    host.session().run_handlers_of_step(id).map_err(failed)
}

/// Why an evaluation stops by this error.
#[expect(clippy::needless_pass_by_value, reason = "it is passed to map_err")]
pub(super) fn failed(error: anyhow::Error) -> Stop {
    if let Some(interruption) = error.downcast_ref::<Interruption>() {
        return Stop::Interrupted(*interruption);
    }
    let failure = error.downcast_ref::<Failure>().cloned();
    let mut failure = failure.unwrap_or_else(|| Failure::new(String::new()));
    failure.message = sentence(&error);
    Stop::Failed(failure)
}

fn shown_place(place: &Place) -> String {
    format!("{}:{}:{}", place.file, place.line, place.column)
}

/// The exit status of a failed or interrupted evaluation.
pub(super) fn exit_of(stop: &Stop) -> ExitCode {
    match stop {
        Stop::Failed(failure) => failure.exit,
        Stop::Unpredictable { .. } => ExitCode::DIFFERENT,
        Stop::Interrupted(interruption) => ExitCode::signal(u8::try_from(interruption.signal).unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Target;

    #[test]
    fn what_may_hold_still_is_what_a_script_might_do() {
        let would = |summary: &str, found: Option<&str>, is_unsure| WouldChange {
            target: Target::Command(summary.to_owned()),
            summary: summary.to_owned(),
            found: found.map(str::to_owned),
            is_repeated: false,
            is_unsure,
        };
        let changes = [
            would("run seed", None, true),
            would("run make", None, false),
            would("write /a", Some("`/a` was removed"), false),
        ];
        let found = found_of(&changes);
        assert_eq!(found, ["`/a` was removed", "its script would run make", "its script might run seed"]);
    }
}
