//! `rollback::` undoes the changes of the plan that the journal records.

use anyhow::{Context, Result};
use rhai::plugin::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::shorter::namespace;
use crate::script::{OptionSet, Raised, act_without_recovery, look, options_of, value_of};

pub(super) fn module() -> rhai::Module {
    namespace(exported_manifest!(functions), &[("preview", 1), ("apply", 1)])
}

pub(super) fn options(function: &str) -> Option<OptionSet> {
    match function {
        "preview" | "apply" => Some(OptionSet::of::<Options>()),
        _ => None,
    }
}

#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    steps: Vec<String>,
    purge: Vec<String>,
}

impl Options {
    fn of(map: rhai::Map) -> Result<Value> {
        serde_json::to_value(options_of::<Self>(map)?).context("cannot pass on the options")
    }
}

fn previewed(context: &NativeCallContext, options: Option<rhai::Map>) -> Raised<Dynamic> {
    look(context, |host| {
        let options = options.map_or(Ok(Value::Null), Options::of)?;
        Ok(value_of(&host.runner()?.preview_rollback(host, options)?))
    })
}

fn applied(context: &NativeCallContext, options: Option<rhai::Map>) -> Raised<Dynamic> {
    act_without_recovery(context, |host| {
        let options = options.map_or(Ok(Value::Null), Options::of)?;
        Ok(value_of(&host.runner()?.apply_rollback(host, options)?))
    })
}

#[export_module(manifest)]
mod functions {
    use super::*;

    /// What `rollback::apply` would do: `#{ undone, kept, not_undone, conflicts, failed }`, each an array of maps
    /// `#{ change, step, target, summary, detail, class }`. Options: those of `rollback::apply`.
    ///
    /// ```rhai
    /// assert(rollback::preview().undone.len() == 0);
    /// ```
    ///
    /// ```rhai
    /// assert(rollback::preview(#{ purge: ["users"] }).kept.len() == 0);
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn preview(context: NativeCallContext, options: rhai::Map) -> Raised<Dynamic> {
        previewed(&context, Some(options))
    }

    /// Undoes every change of the plan, newest first, and returns what became of each, as `rollback::preview` does.
    /// Options: `steps` (only these), `purge` (data classes that may be lost).
    ///
    /// ```rhai
    /// assert(rollback::apply().failed.len() == 0);
    /// ```
    ///
    /// ```rhai
    /// assert(rollback::apply(#{ purge: ["all"] }).failed.len() == 0);
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn apply(context: NativeCallContext, options: rhai::Map) -> Raised<Dynamic> {
        applied(&context, Some(options))
    }
}
