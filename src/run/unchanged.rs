//! Whether a plan is, byte for byte, what it was when its steps completed: then its code passed the check and means
//! the same, and need not be looked at again.

use super::MAIN;
use super::runner::traced;
use crate::journal::{Meaning, StepState};
use crate::script::{Host, Plan};

/// Whether all steps are complete, and the texts, settings, secrets and files that each consists of are as they were. What
/// cannot be read is not as it was: whoever reads it next says why.
pub(super) fn is_unchanged(host: &Host, plan: &Plan) -> bool {
    let session = host.seen();
    let is_complete = |id: &str| {
        let record = session.history().step(session.plan(), id);
        let meaning = record.filter(|record| record.state == StepState::Complete)?.meaning.as_ref();
        meaning.filter(|meaning| is_as(host, meaning))
    };
    !plan.steps.is_empty() && plan.steps.iter().all(|step| is_complete(&step.id).is_some())
}

fn is_as(host: &Host, then: &Meaning) -> bool {
    if then.bytes.is_empty() {
        return false;
    }
    let scripts = [MAIN].into_iter().chain(then.scripts.iter().map(String::as_str));
    host.digest_of(scripts).is_ok_and(|now| now == then.bytes)
        && then.settings.iter().all(|(name, value)| host.settings().get(name) == Some(value))
        && host.present(&traced(then)).is_ok_and(|now| now.files == then.files && now.secrets == then.secrets)
}
