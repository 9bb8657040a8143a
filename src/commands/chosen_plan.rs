//! Which plan a command is about: the one that was named, by its name or its script, or the only one.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::exit_code::ExitCode;
use crate::failure::{Failure, FailureKind};
use crate::journal::History;
use crate::script::{Settings, Source};
use crate::text::nearest;

/// The plans of which something is recorded, by name.
pub(super) fn known_plans(history: &History) -> Vec<&str> {
    let mut known: Vec<&str> = history.runs.keys().chain(history.steps.keys()).map(String::as_str).collect();
    known.sort_unstable();
    known.dedup();
    known
}

/// The plan of this name, or of this script.
///
/// # Errors
/// With [`ExitCode::USAGE`] when nothing is recorded of one, and no script is there.
pub(super) fn named(history: &History, typed: &str) -> Result<String> {
    let known = known_plans(history);
    if known.contains(&typed) {
        return Ok(typed.to_owned());
    }
    if is_script(typed) {
        return name_of(Path::new(typed));
    }
    Err(unknown(history, typed).into())
}

/// That nothing is recorded of a plan of this name, and which there are.
pub(super) fn unknown(history: &History, typed: &str) -> Failure {
    let known = known_plans(history);
    let failure = Failure::new(format!("unknown plan `{typed}`: nothing is recorded of it"))
        .exit(ExitCode::USAGE)
        .kind(FailureKind::Usage);
    match (nearest(typed, known.iter().copied()), known.is_empty()) {
        (Some(near), _) => failure.hint(format!("did you mean `{near}`?")),
        (None, true) => failure.hint("no plan has recorded anything here yet"),
        (None, false) => failure.hint(format!("plans with a record: {}", known.join(", "))),
    }
}

/// The only plan of which something is recorded.
///
/// # Errors
/// With [`ExitCode::USAGE`] when there are several, or none; `command` is what names one.
pub(super) fn only(history: &History, command: &str) -> Result<String> {
    let failure = match known_plans(history).as_slice() {
        [plan] => return Ok((*plan).to_owned()),
        [] => Failure::new("no plan has recorded anything here yet"),
        several => Failure::new("cannot choose a plan: several have recorded something")
            .hint(format!("name one: `{command} PLAN`, where PLAN is {}", several.join(", "))),
    };
    bail!(failure.exit(ExitCode::USAGE).kind(FailureKind::Usage))
}

/// Whether what was typed is a script and not the name of a plan.
pub(super) fn is_script(typed: &str) -> bool {
    Path::new(typed).extension().is_some_and(|extension| extension == "rhai")
}

/// The name of the plan of this script: the setting `plan`, or else the name of its file.
fn name_of(script: &Path) -> Result<String> {
    let (source, name) = Source::find(script)?;
    let settings = Settings::read(&source, &[], &std::collections::BTreeMap::new())?;
    let stem = Path::new(&name).file_stem().map(|stem| stem.to_string_lossy().into_owned());
    Ok(settings.text("plan").map(str::to_owned).or(stem).unwrap_or(name))
}

/// How the script of a plan can be called from anywhere, as its last run that began a step called it.
pub(super) fn script_of(history: &History, plan: &str) -> Option<PathBuf> {
    let call = history.last_calls.get(plan)?;
    let name = Path::new(&call.script).file_name()?;
    let root = Path::new(&call.root);
    Some(if root.is_absolute() { root.join(name) } else { PathBuf::from(name) })
}
