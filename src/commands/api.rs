//! `kkrun api [NAME]`: the manual of the functions that scripts can call.

use anyhow::{Result, bail};

use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::primitives::REGISTRATION;
use crate::script::manual::{Function, functions_of, namespaces};
use crate::text::nearest;
use crate::ui::{line_to_stdout, manual_text};

/// Shows all of it, a namespace or a function.
pub(super) fn execute(json: bool, name: Option<&str>) -> Result<ExitCode> {
    let functions = functions_of(REGISTRATION);
    let shown: Vec<&Function> = match name.map(|name| name.trim_end_matches("::")) {
        None => functions.iter().collect(),
        Some(name) => functions
            .iter()
            .filter(|function| function.namespace == name || function.path() == name || function.name == name)
            .collect(),
    };
    if shown.is_empty() {
        bail!(unknown(name.unwrap_or_default(), &functions));
    }
    let output = if json { serde_json::to_string_pretty(&shown)? } else { manual_text(&shown) };
    line_to_stdout(output.trim_end());
    Ok(ExitCode::DONE)
}

fn unknown(name: &str, functions: &[Function]) -> Failure {
    let failure = Failure::new(format!("unknown function or namespace `{name}`")).exit(ExitCode::USAGE);
    let spaces = namespaces(functions);
    let paths: Vec<String> = functions.iter().map(Function::path).collect();
    let names = functions.iter().map(|function| function.name.as_str());
    let known: Vec<&str> =
        spaces.iter().copied().chain(paths.iter().map(String::as_str)).chain(names).collect();
    match nearest(name, known) {
        Some(near) => failure.hint(format!("did you mean `{near}`?")),
        None => failure.hint(format!("the namespaces are `{}`", spaces.join("`, `"))),
    }
}
