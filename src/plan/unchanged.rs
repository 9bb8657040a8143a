//! Whether a plan is, byte for byte, what it was when its steps completed: then its code passed the check and means
//! the same, and need not be checked again.

use super::runner::traced;
use crate::journal::{BarePlan, Fingerprint, StepState};
use crate::script::{Host, MAIN, Plan, PlannedStep, Position};

/// The plan as it was when all of its steps were complete, if it was nothing but steps and its text is the same:
/// then it need not even be read.
pub(super) fn remembered(host: &Host) -> Option<Plan> {
    let session = host.seen();
    let (history, plan) = (session.history(), session.plan());
    let bare = history.bare_plans.get(plan)?;
    if host.scripts().digest_of([MAIN].into_iter()).ok()? != bare.bytes {
        return None;
    }
    let planned = |id: &String| {
        let record = history.step(plan, id)?;
        let (title, script) = (record.title.clone(), Some(record.script.clone()));
        Some(PlannedStep { id: id.clone(), title, script, position: Position::NONE })
    };
    let steps = bare.steps.iter().map(planned).collect::<Option<Vec<_>>>()?;
    Some(Plan { steps, is_bare: true })
}

/// What is to be remembered of a plan at the end of a run; nothing if it is more than steps, if one of them is not
/// complete, or if that is remembered already.
pub(super) fn to_remember(host: &Host, plan: &Plan) -> Option<BarePlan> {
    let session = host.seen();
    let (history, name) = (session.history(), session.plan());
    let is_complete = |id: &str| history.step(name, id).is_some_and(|step| step.state == StepState::Complete);
    if !plan.is_bare || plan.steps.is_empty() || !plan.steps.iter().all(|step| is_complete(&step.id)) {
        return None;
    }
    let bytes = host.scripts().digest_of([MAIN].into_iter()).ok()?;
    let bare = BarePlan { bytes, steps: plan.steps.iter().map(|step| step.id.clone()).collect() };
    (history.bare_plans.get(name) != Some(&bare)).then_some(bare)
}

/// Whether all steps are complete, and the texts, settings, secrets and files that each consists of are as they were. What
/// cannot be read counts as changed: the next reader reports why.
pub(super) fn is_unchanged(host: &Host, plan: &Plan) -> bool {
    let session = host.seen();
    let is_complete = |id: &str| {
        let record = session.history().step(session.plan(), id);
        let fingerprint = record.filter(|record| record.state == StepState::Complete)?.fingerprint.as_ref();
        fingerprint.filter(|fingerprint| is_as(host, fingerprint))
    };
    !plan.steps.is_empty() && plan.steps.iter().all(|step| is_complete(&step.id).is_some())
}

fn is_as(host: &Host, then: &Fingerprint) -> bool {
    if then.bytes.is_empty() {
        return false;
    }
    let scripts = [MAIN].into_iter().chain(then.scripts.iter().map(String::as_str));
    host.scripts().digest_of(scripts).is_ok_and(|now| now == then.bytes)
        && then.settings.iter().all(|(name, value)| host.settings().get(name) == Some(value))
        && host.present(&traced(then)).is_ok_and(|now| now.files == then.files && now.secrets == then.secrets)
}
