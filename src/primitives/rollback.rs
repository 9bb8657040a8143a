//! `rollback::` undoes what the plan did, from the journal.

use rhai::plugin::*;
use serde_json::Value;

use crate::script::{Raised, act, json_of, look, value_of};

/// The namespace.
pub fn module() -> rhai::Module {
    exported_module!(functions)
}

fn previewed(context: &NativeCallContext, options: Option<rhai::Map>) -> Raised<Dynamic> {
    look(context, |host| {
        let options = options.map_or(Ok(Value::Null), |map| json_of(&Dynamic::from_map(map)))?;
        Ok(value_of(&host.runner()?.preview_rollback(host, options)?))
    })
}

fn applied(context: &NativeCallContext, options: Option<rhai::Map>) -> Raised<Dynamic> {
    act(context, |host| {
        let options = options.map_or(Ok(Value::Null), |map| json_of(&Dynamic::from_map(map)))?;
        Ok(value_of(&host.runner()?.apply_rollback(host, options)?))
    })
}

#[export_module]
mod functions {
    use super::*;

    /// What a rollback of everything would do: `{ undone, kept, conflicts, failed }`, each an array of maps
    /// `{ change, step, target, summary, detail, class }`.
    ///
    /// ```rhai
    /// assert(rollback::preview().undone.len() == 0);
    /// ```
    #[rhai_fn(name = "preview", return_raw, volatile)]
    pub fn preview(context: NativeCallContext) -> Raised<Dynamic> {
        previewed(&context, None)
    }

    /// The same with options: `steps` (these alone), `purge` (classes of data that may be lost).
    ///
    /// ```rhai
    /// assert(rollback::preview(#{ purge: ["users"] }).kept.len() == 0);
    /// ```
    #[rhai_fn(name = "preview", return_raw, volatile)]
    pub fn preview_with(context: NativeCallContext, options: rhai::Map) -> Raised<Dynamic> {
        previewed(&context, Some(options))
    }

    /// Undoes every change of the plan, newest first, and returns what became of them.
    ///
    /// ```rhai
    /// assert(rollback::apply().failed.len() == 0);
    /// ```
    #[rhai_fn(name = "apply", return_raw, volatile)]
    pub fn apply(context: NativeCallContext) -> Raised<Dynamic> {
        applied(&context, None)
    }

    /// The same with options: `steps` (these alone), `purge` (classes of data that may be lost).
    ///
    /// ```rhai
    /// assert(rollback::apply(#{ purge: ["all"] }).failed.len() == 0);
    /// ```
    #[rhai_fn(name = "apply", return_raw, volatile)]
    pub fn apply_with(context: NativeCallContext, options: rhai::Map) -> Raised<Dynamic> {
        applied(&context, Some(options))
    }
}
