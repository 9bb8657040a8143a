//! `kkrun reset [PLAN]`: forgets the progress of a plan, so that its next run checks everything again. Changes stay.

use anyhow::{Result, bail};

use super::chosen_plan;
use crate::cli::Options;
use crate::config;
use crate::event::{Answer, Event, Question};
use crate::exit_code::ExitCode;
use crate::failure::{Failure, FailureKind};
use crate::journal::Entry;
use crate::plan::journal_session;

/// Asks, and forgets the progress of these steps of a plan, or of all.
pub(super) fn execute(options: &Options, typed: Option<&str>, steps: &[String]) -> Result<ExitCode> {
    let reporter = super::reporter(options);
    super::summed_up(&reporter, || {
        let launch = config::launch(options, "kkrun reset")?;
        let history = launch.history()?;
        let plan = match typed {
            Some(typed) => chosen_plan::named(&history, typed)?,
            None => chosen_plan::only(&history, "kkrun reset")?,
        };
        let known: Vec<&str> = history.steps_of(&plan).map(|(id, _)| id.as_str()).collect();
        if let Some(unknown) = steps.iter().find(|step| !known.contains(&step.as_str())) {
            bail!(
                Failure::new(format!("step `{unknown}` of {plan} has never run"))
                    .exit(ExitCode::USAGE)
                    .kind(FailureKind::Usage)
                    .hint(format!("steps with a record: {}", known.join(", ")))
            );
        }
        let what = match steps {
            [] => format!("all steps of {plan}"),
            [step] => format!("step {step} of {plan}"),
            several => format!("steps {} of {plan}", several.join(", ")),
        };
        let mut exit = ExitCode::DONE;
        if options.dry_run {
            reporter.note(format!("the progress of {what} would be forgotten"));
            exit = ExitCode::DIFFERENT;
        } else {
            let text =
                format!("Forget the progress of {what}? All changes stay, and can still be rolled back");
            match reporter.ask(&Question::Confirm { text, default: false, harmless: true })? {
                Some(Answer::Yes) => {
                    let mut session = journal_session(&launch, &plan, "reset", &reporter)?;
                    let steps = (!steps.is_empty()).then(|| steps.to_vec());
                    session.record(Entry::StepsReset { steps })?;
                    session.record(Entry::RunEnded { exit: exit.0, bare: None })?;
                    reporter
                        .note(format!("the progress of {what} is forgotten: the next run checks it again"));
                }
                Some(_) => reporter.note("nothing was forgotten"),
                None => bail!(
                    Failure::new(format!("cannot forget the progress of {what}: no one can be asked"))
                        .exit(ExitCode::UNANSWERED)
                        .kind(FailureKind::Unanswered)
                        .hint("`--yes` agrees to it")
                ),
            }
        }
        reporter.emit(&Event::RunEnded {
            changed: 0,
            not_undone: 0,
            failed: Vec::new(),
            pending: Vec::new(),
            triggers: Vec::new(),
            exit: exit.0,
        });
        Ok(exit)
    })
}
