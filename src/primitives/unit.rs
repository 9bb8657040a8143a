//! `unit::` queries systemd units, enables, starts and stops them.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use rhai::plugin::*;
use serde::Deserialize;

use super::file::absolute;
use super::shorter::namespace;
use crate::change::{Change, DesiredUnit, Payload, Unit, UnitChange, stay_active, verify_file};
use crate::failure::{Failure, FailureKind};
use crate::script::{Host, OptionSet, Raised, Seconds, Unpredictable, act, look, options_of};
use crate::target::Target;

pub(super) fn module() -> rhai::Module {
    namespace(
        exported_manifest!(functions),
        &[
            ("get", 1),
            ("check", 1),
            ("enable", 1),
            ("disable", 1),
            ("start", 1),
            ("stop", 1),
            ("mask", 1),
            ("unmask", 1),
            ("restart", 1),
            ("reload", 1),
            ("stable", 1),
        ],
    )
}

pub(super) fn options() -> OptionSet {
    OptionSet::of::<Options>()
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    user: Option<String>,
}

impl Options {
    fn unit(&self, name: &str) -> Result<Unit> {
        let is_plain = !name.is_empty()
            && !name.starts_with('-')
            && name.chars().all(|letter| {
                letter.is_ascii_alphanumeric() || matches!(letter, ':' | '-' | '_' | '.' | '\\' | '@')
            });
        if !is_plain {
            bail!(
                Failure::new(format!("invalid unit name `{}`", name.escape_debug())).kind(FailureKind::Usage)
            );
        }
        Ok(Unit::new(name, self.user.as_deref()))
    }
}

/// Refuses, in a dry run, to report on a unit that would have been changed by now, or whose file would.
fn refuse_unknown(host: &Host, unit: &Unit) -> Result<()> {
    if !host.dry_run() {
        return Ok(());
    }
    let session = host.seen();
    let concerns_it = |target: &Target| target.configures_unit(unit.user.as_deref(), &unit.name);
    match session.would_change().iter().find(|would| concerns_it(&would.target)) {
        Some(would) => {
            Err(Unpredictable(format!("{}, which would have changed by then", would.target)).into())
        }
        None => Ok(()),
    }
}

/// Whether a dry run predicted a file of the unit.
fn is_predicted(host: &Host, unit: &Unit) -> bool {
    let session = host.seen();
    let is_file = |target: &Target| {
        matches!(target, Target::File(_)) && target.configures_unit(unit.user.as_deref(), &unit.name)
    };
    session.would_change().iter().any(|would| is_file(&would.target))
}

fn make(host: &Host, name: &str, options: &Options, desired: DesiredUnit) -> Result<bool> {
    let unit = options.unit(name)?;
    // A mask is about the very name.
    let unit = match desired {
        DesiredUnit::Masked | DesiredUnit::Unmasked => unit,
        _ => unit.behind_alias(),
    };
    host.seen().asks_for(|| unit.target(desired));
    if let Some(user) = &unit.user
        && host.seen().world.predicted.borrow().user(user).is_some()
    {
        // The user's manager starts with the user.
        let (target, summary) = (unit.target(desired), format!("{} {}", desired.verb(), unit.shown()));
        host.session().note_change(target, summary);
        return Ok(true);
    }
    let change = UnitChange::towards(&host.seen().world, unit.clone(), desired)?;
    let Some(change) = change else {
        // Its file may say more by then.
        if desired == DesiredUnit::Enabled && host.dry_run() && is_predicted(host, &unit) {
            host.session().might_make(unit.target(desired), format!("{} {}", desired.verb(), unit.shown()));
            return Ok(true);
        }
        return Ok(false);
    };
    if change.is_about_nothing() && host.installs_packages() && !is_predicted(host, change.unit()) {
        // Packages enable and start what they bring.
        let kind = Change::Unit(change);
        host.session().might_make(kind.kind().target(), kind.kind().summary());
        return Ok(true);
    }
    // In a dry run, an earlier change may be about to install it.
    if !host.dry_run() && change.is_about_nothing() {
        bail!(Failure::new(format!("unit {} not found", change.unit().shown())).kind(FailureKind::Missing));
    }
    let performed = Change::Unit(change.clone());
    host.session().perform(&performed, Payload::Nothing)
}

/// Restarts or reloads a unit that runs; one that does not is started, or is an error.
fn again(host: &Host, name: &str, options: &Options, verb: &str) -> Result<bool> {
    let unit = options.unit(name)?.behind_alias();
    let target = unit.target(DesiredUnit::Started);
    let summary = format!("{verb} {}", unit.shown());
    if host.dry_run() {
        host.session().note_repeated(target, summary);
        return Ok(true);
    }
    if verb == "restart" && !unit.is_running(&host.seen().world)? {
        return make(host, name, options, DesiredUnit::Started);
    }
    host.session().begin_acting()?;
    let session = host.seen();
    unit.run_job(&session.world, verb)?;
    session.world.reporter.note(format!("{verb}ed {}", unit.shown()));
    Ok(true)
}

fn facts_of(host: &Host, name: &str, options: &Options) -> Result<Dynamic> {
    let unit = options.unit(name)?;
    refuse_unknown(host, &unit)?;
    let session = host.seen();
    let Some(facts) = unit.facts(&session.world)? else { return Ok(Dynamic::UNIT) };
    let enabled = unit.enablement(&session.world)?;
    let mut map = rhai::Map::new();
    let mut enter = |name: &str, value: Dynamic| map.insert(name.into(), value);
    enter("name", unit.name.into());
    enter("load_state", facts.load_state.clone().into());
    enter("active_state", facts.active_state.clone().into());
    enter("sub_state", facts.sub_state.clone().into());
    enter("active", facts.is_running().into());
    enter("result", facts.result.into());
    enter("enabled", enabled.into());
    enter("path", facts.path.into());
    enter("main_pid", facts.main_pid.into());
    enter("restarts", facts.restarts.into());
    enter("needs_reload", facts.needs_reload.into());
    Ok(Dynamic::from_map(map))
}

fn checked(host: &Host, path: &str, options: &Options) -> Result<bool> {
    let path = absolute(path)?;
    host.refuse_unknown(&path)?;
    match verify_file(&host.seen().world, Path::new(&path), options.user.as_deref())? {
        Ok(()) => Ok(true),
        Err(faults) => {
            let mut failure =
                Failure::new(format!("systemd rejects `{}`: {}", path.display(), faults.join("; ")))
                    .kind(FailureKind::Unit);
            failure.output = faults;
            bail!(failure)
        }
    }
}

fn seconds_of(value: &Dynamic) -> Result<Seconds> {
    rhai::serde::from_dynamic(value).map_err(|_| {
        Failure::new(format!("invalid number of seconds `{value}`")).kind(FailureKind::Type).into()
    })
}

fn stay(host: &Host, names: &Dynamic, seconds: &Dynamic, options: &Options) -> Result<bool> {
    let names: Vec<String> = match names.clone().into_typed_array() {
        Ok(names) if !names.is_empty() => names,
        _ if names.is_string() => vec![names.to_string()],
        _ => bail!(
            Failure::new("expected the name of a unit or an array of names".to_owned())
                .kind(FailureKind::Type)
        ),
    };
    let unit_of = |name: &String| -> Result<Unit> {
        let unit = options.unit(name)?;
        refuse_unknown(host, &unit)?;
        Ok(unit)
    };
    let units = names.iter().map(unit_of).collect::<Result<Vec<_>>>()?;
    let seconds = seconds_of(seconds)?.duration();
    // In a dry run nothing was started, so one check is enough.
    stay_active(&host.seen().world, &units, if host.dry_run() { Duration::ZERO } else { seconds })?;
    Ok(true)
}

#[export_module(manifest)]
mod functions {
    use super::*;

    /// What systemd knows about a unit: `#{ name, load_state, active_state, sub_state, active, result, enabled, path,
    /// main_pid, restarts, needs_reload }`, or `()` if it is not found. `enabled` is `enabled`, `disabled`, `static`,
    /// `masked`, …
    /// Option: `user` (whose service manager is asked; default: the system's).
    ///
    /// ```rhai,booted
    /// let bus = unit::get("dbus.service");
    /// assert(bus.active_state == "active" && bus.main_pid > 0);
    /// assert(unit::get("nothing.service") == ());
    /// ```
    ///
    /// ```rhai,booted
    /// user::ensure("kim");
    /// user::linger("kim");
    /// assert(unit::get("default.target", #{ user: "kim" }).load_state == "loaded");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn get(context: NativeCallContext, name: &str, options: rhai::Map) -> Raised<Dynamic> {
        look(&context, |host| facts_of(host, name, &options_of(options)?))
    }

    /// Whether the unit file at `path` is valid: true, or an error that lists every fault, including unknown and misplaced
    /// keys, which systemd itself ignores.
    /// Option: `user` (whose service manager would read it; default: the system's).
    ///
    /// ```rhai,booted
    /// assert(unit::check("/lib/systemd/system/dbus.service"));
    /// ```
    ///
    /// ```rhai,booted
    /// user::ensure("kim");
    /// user::linger("kim");
    /// assert(unit::check("/usr/lib/systemd/user/default.target", #{ user: "kim" }));
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn check(context: NativeCallContext, path: &str, options: rhai::Map) -> Raised<bool> {
        look(&context, |host| checked(host, path, &options_of(options)?))
    }

    /// Enables the unit as its `[Install]` section says. Undo restores its state: disabled, linked, …
    /// Option: `user` (in whose service manager, which need not be running; default: the system's).
    ///
    /// ```rhai,booted
    /// file::write("/etc/systemd/system/idle.service",
    ///     "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n");
    /// assert(unit::enable("idle.service") && !unit::enable("idle.service"));
    /// assert(unit::get("idle.service").enabled == "enabled");
    /// ```
    ///
    /// ```rhai,booted
    /// user::ensure("kim");
    /// file::make_dir("/home/kim/.config/systemd/user");
    /// file::write("/home/kim/.config/systemd/user/idle.service",
    ///     "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=default.target\n");
    /// file::access("/home/kim/.config", #{ owner: "kim", group: "kim", recursive: true });
    /// assert(unit::enable("idle.service", #{ user: "kim" }));
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn enable(context: NativeCallContext, name: &str, options: rhai::Map) -> Raised<bool> {
        act(&context, |host| make(host, name, &options_of(options)?, DesiredUnit::Enabled))
    }

    /// Disables the unit, so that its own links do not start it. It keeps running until it is stopped. One that other units
    /// start (static, generated) cannot be disabled, only masked: that is an error. Undo restores its state.
    /// Option: `user` (in whose service manager; default: the system's).
    ///
    /// ```rhai,booted
    /// unit::disable("getty@tty1.service");
    /// assert(unit::get("getty@tty1.service").enabled == "disabled");
    /// ```
    ///
    /// ```rhai,booted
    /// user::ensure("kim");
    /// assert(!unit::disable("nothing.service", #{ user: "kim" }));
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn disable(context: NativeCallContext, name: &str, options: rhai::Map) -> Raised<bool> {
        act(&context, |host| make(host, name, &options_of(options)?, DesiredUnit::Disabled))
    }

    /// Starts the unit if it is not active, and waits until it is; otherwise fails with the end of its log. A service of
    /// `Type=oneshot` is as desired, too, when it has succeeded and is inactive again. Undo stops it if it was not active
    /// before.
    /// Option: `user` (in whose service manager, which runs while the user is logged in or lingers; default: the system's).
    ///
    /// ```rhai,booted
    /// file::write("/etc/systemd/system/idle.service", "[Service]\nExecStart=/bin/sleep infinity\n");
    /// assert(unit::start("idle.service") && !unit::start("idle.service"));
    /// ```
    ///
    /// ```rhai,booted
    /// user::ensure("kim");
    /// user::linger("kim");
    /// unit::start("sockets.target", #{ user: "kim" });
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn start(context: NativeCallContext, name: &str, options: rhai::Map) -> Raised<bool> {
        act(&context, |host| make(host, name, &options_of(options)?, DesiredUnit::Started))
    }

    /// Stops the unit if it is active. Undo starts it if it was active before.
    /// Option: `user` (in whose service manager; default: the system's).
    ///
    /// ```rhai,booted
    /// file::write("/etc/systemd/system/idle.service", "[Service]\nExecStart=/bin/sleep infinity\n");
    /// unit::start("idle.service");
    /// assert(unit::stop("idle.service") && !unit::stop("idle.service"));
    /// ```
    ///
    /// ```rhai,booted
    /// user::ensure("kim");
    /// user::linger("kim");
    /// assert(!unit::stop("nothing.service", #{ user: "kim" }));
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn stop(context: NativeCallContext, name: &str, options: rhai::Map) -> Raised<bool> {
        act(&context, |host| make(host, name, &options_of(options)?, DesiredUnit::Stopped))
    }

    /// Masks the unit, so that nothing can start it. Undo restores its state.
    /// Option: `user` (in whose service manager; default: the system's).
    ///
    /// ```rhai,booted
    /// assert(unit::mask("ctrl-alt-del.target") && !unit::mask("ctrl-alt-del.target"));
    /// ```
    ///
    /// ```rhai,booted
    /// user::ensure("kim");
    /// assert(unit::mask("sockets.target", #{ user: "kim" }));
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn mask(context: NativeCallContext, name: &str, options: rhai::Map) -> Raised<bool> {
        act(&context, |host| make(host, name, &options_of(options)?, DesiredUnit::Masked))
    }

    /// Lets a masked unit be started again. Undo masks it.
    /// Option: `user` (in whose service manager; default: the system's).
    ///
    /// ```rhai,booted
    /// unit::mask("ctrl-alt-del.target");
    /// assert(unit::unmask("ctrl-alt-del.target") && !unit::unmask("ctrl-alt-del.target"));
    /// ```
    ///
    /// ```rhai,booted
    /// user::ensure("kim");
    /// assert(!unit::unmask("timers.target", #{ user: "kim" }));
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn unmask(context: NativeCallContext, name: &str, options: rhai::Map) -> Raised<bool> {
        act(&context, |host| make(host, name, &options_of(options)?, DesiredUnit::Unmasked))
    }

    /// Restarts the unit each time that the step runs, and waits until it is active; otherwise fails with the end of its
    /// log. One that does not run is started, as by `unit::start`. What a change has to restart is said with
    /// `step::on_change`. There is nothing to undo.
    /// Option: `user` (in whose service manager; default: the system's).
    ///
    /// ```rhai,booted
    /// file::write("/etc/systemd/system/job.service", "[Service]\nExecStart=/bin/sleep infinity\n");
    /// unit::start("job.service");
    /// let before = unit::get("job.service").main_pid;
    /// unit::restart("job.service");
    /// assert(unit::get("job.service").main_pid != before);
    /// ```
    ///
    /// ```rhai,booted
    /// user::ensure("kim");
    /// user::linger("kim");
    /// unit::restart("timers.target", #{ user: "kim" });
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn restart(context: NativeCallContext, name: &str, options: rhai::Map) -> Raised<bool> {
        act(&context, |host| again(host, name, &options_of(options)?, "restart"))
    }

    /// Lets the unit read its configuration again, each time that the step runs. One that does not run, or cannot reload,
    /// is an error. What a change has to reload is said with `step::on_change`. There is nothing to undo.
    /// Option: `user` (in whose service manager; default: the system's).
    ///
    /// ```rhai,booted
    /// file::write("/etc/systemd/system/job.service",
    ///     "[Service]\nExecStart=/bin/sleep infinity\nExecReload=/bin/true\n");
    /// unit::start("job.service");
    /// unit::reload("job.service");
    /// ```
    ///
    /// ```rhai,booted
    /// user::ensure("kim");
    /// user::linger("kim");
    /// file::make_dir("/home/kim/.config/systemd/user");
    /// file::write("/home/kim/.config/systemd/user/job.service",
    ///     "[Service]\nExecStart=/bin/sleep infinity\nExecReload=/bin/true\n");
    /// unit::start("job.service", #{ user: "kim" });
    /// unit::reload("job.service", #{ user: "kim" });
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn reload(context: NativeCallContext, name: &str, options: rhai::Map) -> Raised<bool> {
        act(&context, |host| again(host, name, &options_of(options)?, "reload"))
    }

    /// True if the unit, or each unit of an array, stays active for that many seconds without a restart, else an error with
    /// the end of its log. A dry run checks once.
    /// Option: `user` (in whose service manager; default: the system's).
    ///
    /// ```rhai,booted
    /// assert(unit::stable(["dbus.service", "dbus.socket"], 0.5));
    /// ```
    ///
    /// ```rhai,booted
    /// user::ensure("kim");
    /// user::linger("kim");
    /// unit::start("sockets.target", #{ user: "kim" });
    /// assert(unit::stable("sockets.target", 0.5, #{ user: "kim" }));
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn stable(
        context: NativeCallContext,
        units: Dynamic,
        seconds: Dynamic,
        options: rhai::Map,
    ) -> Raised<bool> {
        look(&context, |host| stay(host, &units, &seconds, &options_of(options)?))
    }
}
