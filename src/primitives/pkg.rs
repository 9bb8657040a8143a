//! `pkg::` queries and installs packages of the distribution.

use std::time::Duration;

use anyhow::{Result, bail};
use rhai::plugin::*;
use serde::Deserialize;

use super::shorter::namespace;
use crate::change::{
    Change, DesiredPackages, LOCK_TIMEOUT, PACKAGES_TIMEOUT, PackagesChange, Payload, packages,
};
use crate::failure::{Failure, FailureKind};
use crate::script::{Host, OptionSet, Raised, act, look, options_of};
use crate::target::Target;

pub(super) fn module() -> rhai::Module {
    namespace(exported_manifest!(functions), &[("install", 1)])
}

pub(super) fn options(function: &str) -> Option<OptionSet> {
    match function {
        "install" => Some(OptionSet::of::<Options>()),
        _ => None,
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    recommends: bool,
    timeout: Option<u64>,
    lock_timeout: Option<u64>,
}

#[export_module(manifest)]
mod functions {
    use super::*;

    /// Whether the package of exactly that name (of the own architecture, unless it names another one, as `libc6:i386` does) is
    /// installed and configured; for a virtual package such as `awk`, whether a
    /// package that provides it is.
    ///
    /// ```rhai
    /// assert(pkg::installed("apt") && !pkg::installed("ap"));
    /// let own = cmd::read(["dpkg", "--print-architecture"]);
    /// assert(pkg::installed(`dpkg:${own}`));
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn installed(context: NativeCallContext, name: &str) -> Raised<bool> {
        look(&context, |host| {
            check_names(&[name.to_owned()])?;
            let session = host.seen();
            let is_to_be = session.world.predicted.borrow().has_package(name);
            Ok(is_to_be || packages::is_installed(name, &session.world)?)
        })
    }

    /// The version of a package that apt would install, or `()` if the package sources have none.
    ///
    /// ```rhai
    /// assert(pkg::candidate("no-package-of-this-name") == ());
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn candidate(context: NativeCallContext, name: &str) -> Raised<Dynamic> {
        look(&context, |host| {
            check_names(&[name.to_owned()])?;
            let found = packages::candidate(name, &host.seen().world)?;
            Ok(found.map_or(Dynamic::UNIT, Dynamic::from))
        })
    }

    /// Installs those of the packages that are missing, in one transaction that removes nothing. Installed packages are not
    /// upgraded. The package lists are fetched first if they are some hours old or do not contain a name; if a name is
    /// unknown even then, the step fails before anything is installed. If another apt or dpkg is running, it waits.
    ///
    /// A rollback asks first (`--purge packages`), then removes, without purging, exactly what the transaction installed.
    /// What other packages need by now stays, and so does a PostgreSQL server whose databases stay.
    /// Options: `recommends: true` (install recommended packages, too), `timeout` (seconds for the transaction, default
    /// 3600), `lock_timeout` (seconds to wait for another apt or dpkg, default 600).
    ///
    /// ```rhai,booted
    /// pkg::install(["jq"]);
    /// assert(pkg::installed("jq") && !pkg::install(["jq"]));
    /// ```
    ///
    /// ```rhai,booted
    /// pkg::install(["jq"], #{ lock_timeout: 60, timeout: 600 });
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn install(
        context: NativeCallContext,
        names: rhai::Array,
        options: rhai::Map,
    ) -> Raised<bool> {
        act(&context, |host| make(host, &names, &options_of(options)?))
    }
}

fn make(host: &Host, names: &rhai::Array, options: &Options) -> Result<bool> {
    let mut desired: Vec<String> = Vec::with_capacity(names.len());
    for name in names {
        let Ok(name) = name.clone().into_string() else {
            bail!(
                Failure::new(format!("invalid package name `{name}`: it must be a string"))
                    .kind(FailureKind::Type)
            )
        };
        if !desired.contains(&name) {
            desired.push(name);
        }
    }
    check_names(&desired)?;
    let desired = DesiredPackages {
        names: desired,
        recommends: options.recommends,
        timeout: options.timeout.map_or(PACKAGES_TIMEOUT, Duration::from_secs),
        lock_timeout: options.lock_timeout.map_or(LOCK_TIMEOUT, Duration::from_secs),
    };
    host.seen().asks_for(|| Target::packages(&desired.names));
    for name in &desired.names {
        // Other steps may have installed it with other packages.
        host.seen().asks_for(|| Target::Packages(vec![name.clone()]));
    }
    if !packages::is_lacking(&desired, &host.seen().world)? {
        return Ok(false);
    }
    let acts = !host.dry_run();
    if acts {
        // Fetching lists and repairing what dpkg left come before the change itself.
        host.session().begin_acting()?;
    }
    let change = PackagesChange::towards(&desired, &host.seen().world, acts)?;
    let Some(change) = change else { return Ok(false) };
    host.session().perform(&Change::Packages(change), Payload::Nothing)
}

/// Names as Debian allows them, with an architecture where wanted. Source: Debian Policy, 5.6.7.
fn check_names(names: &[String]) -> Result<()> {
    for name in names {
        let allowed =
            |each: char| each.is_ascii_lowercase() || each.is_ascii_digit() || "+-.:".contains(each);
        let begins = name.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit());
        if !(begins && name.len() > 1 && name.chars().all(allowed)) {
            bail!(Failure::new(format!("invalid package name `{name}`: it must be two or more of a–z, 0–9, +, - and ., beginning with a letter or digit")).kind(FailureKind::Usage));
        }
        // apt-get takes a trailing `-` or `+` for "remove" and "install".
        if name.ends_with('-') {
            bail!(
                Failure::new(format!("invalid package name `{name}`: apt would remove a package"))
                    .kind(FailureKind::Usage)
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check_names;

    #[test]
    fn names_are_those_of_packages_and_nothing_that_apt_takes_for_an_order() {
        let check = |name: &str| check_names(&[name.to_owned()]);
        for name in ["g++", "libc6:i386", "python3.11", "0ad"] {
            check(name).unwrap();
        }
        for name in ["", "a", "curl-", "--purge", "-o", "Curl", "curl=1", "a b", "./x.deb", "curl/sid"] {
            check(name).unwrap_err();
        }
    }
}
