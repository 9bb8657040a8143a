//! Examines a plan: which of its steps still hold, without changing or asking anything.

use std::rc::Rc;

use anyhow::Result;

use super::Launch;
use super::decision::Selection;
use super::runner::{Doing, Runner};
use super::status::StepReport;
use crate::event::{Answer, Audience, Event, Question, Reporter};
use crate::failure::Failure;
use crate::script::{Engine, Host, MAIN, Plan, Stop};
use crate::session::Session;

/// Hears nothing and answers nothing.
struct Silence;

impl Audience for Silence {
    fn hear(&self, _event: &Event) {}

    fn ask(&self, _question: &Question) -> Result<Option<Answer>> {
        Ok(None)
    }
}

/// Examines every step of the plan `script`, recorded as `plan`, which is in the directory of the scripts of `host`.
pub(super) fn steps(launch: &Rc<Launch>, host: &Host, script: &str, plan: &str) -> Result<Vec<StepReport>> {
    let reporter = Reporter::new(Box::new(Silence));
    let history = host.seen().shared_history();
    let session = Session::new(launch.world_for_dry_run(reporter), history, plan);
    let looking = Host::new(session, host.source().clone(), host.settings().clone(), Vec::new());
    looking.set_secrets(host.secrets());
    let engine = Engine::new(Rc::clone(&looking), launch.register);
    looking.scripts().keep(MAIN, looking.source().script(script)?);
    let program = engine.program(MAIN)?;
    let plan = Plan::of(&program)?;
    let runner = Runner::new(Rc::clone(launch), steps, Doing::Examine, Selection::default(), plan);
    looking.set_runner(Rc::<Runner>::clone(&runner));
    let outcome = engine.evaluate(&program);
    host.learn_known_secrets();
    match outcome {
        Ok(_) => Ok(runner.reports()),
        Err(Stop::Failed(failure)) => Err(failure.into()),
        Err(Stop::Unpredictable { place, why }) => {
            Err(Failure::new(format!("depends on {why}")).at(place).into())
        }
        Err(Stop::Interrupted(interruption)) => Err(interruption.into()),
    }
}
