//! `unit::` looks at units of the service manager and makes them start, stop and start by themselves.

#![expect(clippy::needless_pass_by_value, reason = "Rhai hands its call context by value")]

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rhai::Map;
use rhai::plugin::*;
use serde::Deserialize;

use super::file::absolute;
use crate::change::{Change, UnitChange, UnitFacts, UnitName, UnitWish};
use crate::failure::Failure;
use crate::machine::process::Command;
use crate::script::{Host, Raised, Unpredictable, act, look, options_of};

/// The namespace.
pub fn module() -> rhai::Module {
    exported_module!(functions)
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct UnitOptions {
    user: Option<String>,
}

/// Between two looks at a unit that shall stay up.
const BETWEEN_LOOKS: Duration = Duration::from_millis(250);

fn named(name: &str, options: Map) -> Result<UnitName> {
    let options: UnitOptions = options_of(options)?;
    let plain = !name.is_empty() && !name.starts_with('-') && !name.contains(['/', ' ', '\n']);
    if !plain {
        bail!(Failure::new(format!("`{name}` is no name of a unit")).kind("usage"));
    }
    let name = if name.contains('.') { name.to_owned() } else { format!("{name}.service") };
    Ok(UnitName { name, user: options.user })
}

fn wish(context: &NativeCallContext, name: &str, options: Map, wish: UnitWish) -> Raised<bool> {
    act(context, |host| {
        let unit = named(name, options)?;
        let change = UnitChange::towards(&host.seen().world, &unit, wish);
        let Some(change) = change? else { return Ok(false) };
        host.session().perform(&Change::Unit(change.clone()), &mut |world| change.act(world, wish))
    })
}

fn facts(context: &NativeCallContext, name: &str, options: Map) -> Raised<Dynamic> {
    look(context, |host| {
        let unit = named(name, options)?;
        refuse_unknown(host, &unit)?;
        let facts = UnitFacts::of(&host.seen().world, &unit)?;
        if !facts.is_there() {
            return Ok(Dynamic::UNIT);
        }
        let number = |property: &str| Dynamic::from(facts.get(property).parse::<i64>().unwrap_or(0));
        let mut map = Map::new();
        map.insert("load_state".into(), facts.get("LoadState").into());
        map.insert("active_state".into(), facts.get("ActiveState").into());
        map.insert("sub_state".into(), facts.get("SubState").into());
        map.insert("enabled".into(), facts.enablement().into());
        map.insert("active".into(), facts.is_active().into());
        map.insert("main_pid".into(), number("MainPID"));
        map.insert("restarts".into(), number("NRestarts"));
        map.insert("path".into(), facts.get("FragmentPath").into());
        Ok(Dynamic::from_map(map))
    })
}

/// Only looking, a unit that would have been changed is not what it will be.
fn refuse_unknown(host: &Host, unit: &UnitName) -> Result<()> {
    let session = host.seen();
    let about_it = |target: &str| target.starts_with("unit:") && target.contains(&unit.name);
    if host.only_looking() && session.would_change().iter().any(|would| about_it(&would.target)) {
        return Err(Unpredictable(format!("the unit {}, which would have changed by then", unit.name)).into());
    }
    Ok(())
}

fn stays_up(context: &NativeCallContext, name: &str, seconds: f64, options: Map) -> Raised<bool> {
    look(context, |host| {
        let unit = named(name, options)?;
        refuse_unknown(host, &unit)?;
        let first = UnitFacts::of(&host.seen().world, &unit)?;
        // Only looking, one look is enough: nothing was just started.
        let wait = if host.only_looking() { 0.0 } else { seconds.max(0.0) };
        let deadline = Instant::now() + Duration::from_secs_f64(wait);
        loop {
            let now = UnitFacts::of(&host.seen().world, &unit)?;
            let restarted =
                now.get("NRestarts") != first.get("NRestarts") || now.get("MainPID") != first.get("MainPID");
            if now.get("ActiveState") != "active" || restarted {
                return Ok(false);
            }
            if Instant::now() >= deadline {
                return Ok(true);
            }
            let session = host.seen();
            session.check_interruption()?;
            session.world.processes.pause(BETWEEN_LOOKS);
        }
    })
}

#[export_module]
mod functions {
    use super::*;

    /// What the service manager says of a unit: `#{ load_state, active_state, sub_state, enabled, active, main_pid,
    /// restarts, path }`, or `()` when there is no such unit. `enabled` is `enabled`, `disabled`, `static`, `masked`, …
    ///
    /// ```rhai,booted
    /// assert(unit::get("dbus.service").active);
    /// ```
    #[rhai_fn(name = "get", return_raw, volatile)]
    pub fn get(context: NativeCallContext, name: &str) -> Raised<Dynamic> {
        facts(&context, name, Map::new())
    }

    /// The same with the option `user`: a unit of that user's manager.
    ///
    /// ```rhai,booted
    /// assert(unit::get("no-such.service", #{ user: "root" }) == ());
    /// ```
    #[rhai_fn(name = "get", return_raw, volatile)]
    pub fn get_with(context: NativeCallContext, name: &str, options: Map) -> Raised<Dynamic> {
        facts(&context, name, options)
    }

    /// Whether a unit file holds nothing that the manager would ignore or refuse: true, or an error with its words.
    ///
    /// ```rhai,booted
    /// assert(unit::check("/lib/systemd/system/dbus.service"));
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub fn check(context: NativeCallContext, path: &str) -> Raised<bool> {
        look(&context, |host| {
            let path = absolute(path)?;
            host.refuse_unknown(&path)?;
            let command =
                Command::new(["systemd-analyze".into(), "verify".into(), path.clone().into_os_string()]);
            let ended = host.seen().world.look(&command)?;
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            // It speaks of the units that this one needs too; those are not asked about. Its exit code is 0 even
            // for a key that it does not know.
            let about_it: Vec<String> =
                ended.tail.iter().filter(|line| line.contains(&name)).cloned().collect();
            if about_it.is_empty() && (ended.is_success() || !ended.tail.is_empty()) {
                return Ok(true);
            }
            let mut failure =
                Failure::new(format!("`{}`: {}", path.display(), about_it.join("; "))).kind("unit");
            failure.output = ended.tail;
            bail!(failure)
        })
    }

    /// Makes a unit start by itself. Undone, it is as it was: disabled or masked.
    ///
    /// ```rhai,booted
    /// unit::enable("systemd-networkd.service");
    /// assert(unit::get("systemd-networkd.service").enabled == "enabled");
    /// ```
    #[rhai_fn(name = "enable", return_raw, volatile)]
    pub fn enable(context: NativeCallContext, name: &str) -> Raised<bool> {
        wish(&context, name, Map::new(), UnitWish::Enabled)
    }

    /// The same with the option `user`: a unit of that user's manager.
    ///
    /// ```rhai,ignore
    /// unit::enable("kiosk.service", #{ user: "kim" });
    /// ```
    #[rhai_fn(name = "enable", return_raw, volatile)]
    pub fn enable_with(context: NativeCallContext, name: &str, options: Map) -> Raised<bool> {
        wish(&context, name, options, UnitWish::Enabled)
    }

    /// Makes a unit not start by itself. Undone, it is enabled again.
    ///
    /// ```rhai,booted
    /// unit::disable("systemd-networkd.service");
    /// ```
    #[rhai_fn(name = "disable", return_raw, volatile)]
    pub fn disable(context: NativeCallContext, name: &str) -> Raised<bool> {
        wish(&context, name, Map::new(), UnitWish::Disabled)
    }

    /// The same with the option `user`: a unit of that user's manager.
    ///
    /// ```rhai,ignore
    /// unit::disable("kiosk.service", #{ user: "kim" });
    /// ```
    #[rhai_fn(name = "disable", return_raw, volatile)]
    pub fn disable_with(context: NativeCallContext, name: &str, options: Map) -> Raised<bool> {
        wish(&context, name, options, UnitWish::Disabled)
    }

    /// Makes a unit run. When it does not come up, the error holds its last words. Undone, it is stopped.
    ///
    /// ```rhai,booted
    /// unit::start("systemd-networkd.service");
    /// assert(unit::get("systemd-networkd.service").active);
    /// ```
    #[rhai_fn(name = "start", return_raw, volatile)]
    pub fn start(context: NativeCallContext, name: &str) -> Raised<bool> {
        wish(&context, name, Map::new(), UnitWish::Started)
    }

    /// The same with the option `user`: a unit of that user's manager.
    ///
    /// ```rhai,ignore
    /// unit::start("kiosk.service", #{ user: "kim" });
    /// ```
    #[rhai_fn(name = "start", return_raw, volatile)]
    pub fn start_with(context: NativeCallContext, name: &str, options: Map) -> Raised<bool> {
        wish(&context, name, options, UnitWish::Started)
    }

    /// Makes a unit not run. Undone, it is started again.
    ///
    /// ```rhai,booted
    /// unit::stop("systemd-networkd.service");
    /// ```
    #[rhai_fn(name = "stop", return_raw, volatile)]
    pub fn stop(context: NativeCallContext, name: &str) -> Raised<bool> {
        wish(&context, name, Map::new(), UnitWish::Stopped)
    }

    /// The same with the option `user`: a unit of that user's manager.
    ///
    /// ```rhai,ignore
    /// unit::stop("kiosk.service", #{ user: "kim" });
    /// ```
    #[rhai_fn(name = "stop", return_raw, volatile)]
    pub fn stop_with(context: NativeCallContext, name: &str, options: Map) -> Raised<bool> {
        wish(&context, name, options, UnitWish::Stopped)
    }

    /// Makes a unit impossible to start. Undone, it is as it was.
    ///
    /// ```rhai,booted
    /// unit::mask("systemd-networkd.service");
    /// assert(unit::get("systemd-networkd.service").enabled == "masked");
    /// ```
    #[rhai_fn(name = "mask", return_raw, volatile)]
    pub fn mask(context: NativeCallContext, name: &str) -> Raised<bool> {
        wish(&context, name, Map::new(), UnitWish::Masked)
    }

    /// The same with the option `user`: a unit of that user's manager.
    ///
    /// ```rhai,ignore
    /// unit::mask("kiosk.service", #{ user: "kim" });
    /// ```
    #[rhai_fn(name = "mask", return_raw, volatile)]
    pub fn mask_with(context: NativeCallContext, name: &str, options: Map) -> Raised<bool> {
        wish(&context, name, options, UnitWish::Masked)
    }

    /// Whether a unit runs for so many seconds on end, without having been restarted: right after its start, one
    /// that crashes again and again is active too. Only looking, it looks once.
    ///
    /// ```rhai,booted
    /// assert(unit::stable("dbus.service", 1));
    /// ```
    #[rhai_fn(name = "stable", return_raw, volatile)]
    pub fn stable(context: NativeCallContext, name: &str, seconds: i64) -> Raised<bool> {
        stays_up(&context, name, precise(seconds), Map::new())
    }

    /// The same with the option `user`: a unit of that user's manager.
    ///
    /// ```rhai,ignore
    /// assert(unit::stable("kiosk.service", 5, #{ user: "kim" }));
    /// ```
    #[rhai_fn(name = "stable", return_raw, volatile)]
    pub fn stable_with(context: NativeCallContext, name: &str, seconds: i64, options: Map) -> Raised<bool> {
        stays_up(&context, name, precise(seconds), options)
    }
}

/// Whole seconds as a number with a fraction.
fn precise(seconds: i64) -> f64 {
    f64::from(i32::try_from(seconds).unwrap_or(i32::MAX))
}
