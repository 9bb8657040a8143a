//! `group::` makes groups.

use anyhow::Result;
use rhai::plugin::*;
use serde::Deserialize;

use super::shorter::namespace;
use crate::change::{Change, DesiredGroup, GroupChange, Payload};
use crate::script::{Host, OptionSet, Raised, act, options_of};
use crate::target::Target;

pub(super) fn module() -> rhai::Module {
    namespace(exported_manifest!(functions), &[("ensure", 1)])
}

pub(super) fn options(function: &str) -> Option<OptionSet> {
    match function {
        "ensure" => Some(OptionSet::of::<Options>()),
        _ => None,
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    gid: Option<u32>,
    system: bool,
}

#[export_module(manifest)]
mod functions {
    use super::*;

    /// Creates the group `name` unless it exists. Undo removes it if kkrun created it and no user was added to it since.
    /// Options: `gid` (its number), `system: true` (a number from the range for services).
    ///
    /// ```rhai
    /// assert(group::ensure("kiosk") && !group::ensure("kiosk"));
    /// ```
    ///
    /// ```rhai
    /// assert(group::ensure("cameras", #{ system: true }));
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn ensure(context: NativeCallContext, name: &str, options: rhai::Map) -> Raised<bool> {
        act(&context, |host| make(host, name, &options_of(options)?))
    }
}

fn make(host: &Host, name: &str, options: &Options) -> Result<bool> {
    super::user::check_name(name)?;
    host.seen().asks_for(|| Target::Group(name.to_owned()));
    let desired = DesiredGroup { gid: options.gid, system: options.system };
    let doubtful = match super::user::doubtful(host, &Target::Group(name.to_owned()))? {
        Some(Change::Group(change)) => Some(change),
        _ => None,
    };
    let Some(change) = GroupChange::towards(name, desired, doubtful)? else { return Ok(false) };
    host.session().perform(&Change::Group(change), Payload::Nothing)
}
