//! `kkrun show N`: one change, with what it changed as far as that is kept.

use anyhow::{Result, bail};

use super::data::{RecordedChange, Row};
use super::history::state_of;
use crate::change::{Change, World};
use crate::cli::Options;
use crate::config;
use crate::exit_code::ExitCode;
use crate::failure::{Failure, FailureKind};
use crate::journal::{ChangeRecord, History};
use crate::machine::clock;
use crate::pasteable::pasteable;
use crate::text::printable_lines;
use crate::time;
use crate::ui::{begin_json, line_to_stdout, wrapped_data};

/// Shows the change of this number.
pub(super) fn execute(options: &Options, id: u64) -> Result<ExitCode> {
    let options = &Options { dry_run: true, ..options.clone() };
    let launch = config::launch(options, "kkrun show")?;
    let history = launch.history()?;
    let redactor = super::redactor(&launch.state)?;
    let Some(change) = history.change(id) else {
        bail!(
            Failure::new(format!("unknown change {id}"))
                .exit(ExitCode::USAGE)
                .kind(FailureKind::Usage)
                .hint("`kkrun history` lists the changes with their numbers")
        )
    };
    let intent = &change.intent;
    let (state, detail) = state_of(change, &history);
    let difference = difference_of(change, &history, &launch.world_for_dry_run(super::reporter(options)))?;
    if options.json {
        begin_json();
        let recorded = RecordedChange::new(change, (state, detail));
        Row::Show { change: recorded, what: intent.what.clone(), difference }.write(&redactor)?;
        return Ok(ExitCode::DONE);
    }
    let show = |text: &str| line_to_stdout(&printable_lines(&redactor.redact(text)));
    let field = |name: &str, text: &str| {
        let line = printable_lines(&redactor.redact(&format!("{name:>9}: {text}")));
        line_to_stdout(&wrapped_data(&line, 11));
    };
    show(&format!("#{} {}", change.id, intent.summary));
    field("plan", &change.plan);
    if let Some(step) = &intent.step {
        field("step", step);
    }
    field("run", &format!("{}, {}", change.run, time::when(change.time, clock::now(), &clock::zone())));
    field("target", &intent.target.to_string());
    field("state", &detail.map_or_else(|| state.to_owned(), |detail| format!("{state} ({detail})")));
    for handler in &intent.pending {
        field("triggers", &handler.sentence());
    }
    if let Some(difference) = difference {
        show("");
        for line in difference.lines() {
            show(&format!("  {line}"));
        }
    }
    if change.awaits_rollback() && !change.is_irreversible() {
        let plan = history.plan_option(&change.plan);
        show("");
        let target = intent.target.to_string();
        field("undo", &pasteable(&format!("`kkrun rollback {}{plan}`", shell_words::quote(&target))));
    }
    Ok(ExitCode::DONE)
}

/// What a change changed in its target, line by line, as far as that is kept; nothing of a target into which a secret was
/// ever written.
pub(super) fn difference_of(
    change: &ChangeRecord,
    history: &History,
    world: &World,
) -> Result<Option<String>> {
    let intent = &change.intent;
    if intent.holds_secret || history.held_secret(&intent.target) {
        return Ok(Some("its content is not shown: it holds a secret".to_owned()));
    }
    let change = Change::of_intent(intent)?;
    world.content_is_secret.set(history.held_secret_at(&change.kind().touches(world)));
    Ok(change.kind().recorded_difference(world))
}
