//! `pkg::` looks at packages of the distribution and installs them.

use std::time::Duration;

use anyhow::{Result, bail};
use rhai::plugin::*;
use serde::Deserialize;

use super::shorter::namespace;
use crate::change::{Change, DesiredPackages, LOCK_TIMEOUT, PACKAGES_TIMEOUT, PackagesChange, packages};
use crate::failure::Failure;
use crate::script::{Host, OptionSet, Raised, Unpredictable, act, look, options_of};
use crate::target::Target;

/// The namespace.
pub fn module() -> rhai::Module {
    namespace(exported_manifest!(functions), &[("install", 1)])
}

/// The options that these functions know.
pub fn options(function: &str) -> Option<OptionSet> {
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

    /// Whether the package of exactly that name is installed and configured. Of a name that is only provided by
    /// others, such as `awk`: whether one of those is.
    ///
    /// ```rhai
    /// assert(pkg::installed("apt") && !pkg::installed("ap"));
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub fn installed(context: NativeCallContext, name: &str) -> Raised<bool> {
        look(&context, |host| {
            check_names(&[name.to_owned()])?;
            refuse_unknown(host)?;
            packages::is_installed(name, &host.seen().world)
        })
    }

    /// The version that would be installed of a package, or `()` when the sources of this machine have none.
    ///
    /// ```rhai
    /// assert(pkg::candidate("no-package-of-this-name") == ());
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub fn candidate(context: NativeCallContext, name: &str) -> Raised<Dynamic> {
        look(&context, |host| {
            check_names(&[name.to_owned()])?;
            let found = packages::candidate(name, &host.seen().world)?;
            Ok(found.map_or(Dynamic::UNIT, Dynamic::from))
        })
    }

    /// Installs the packages of these names that are missing, without what they only recommend: in one transaction
    /// that removes nothing. The package lists are fetched first if they are older than some hours or do not know a
    /// name; a name that has no package then fails the step before anything is installed. Another apt or dpkg is
    /// waited for. Packages that are there are not upgraded.
    ///
    /// Undone, after being asked (`--purge packages`), exactly what came with the transaction is removed, not purged:
    /// unless others need it by now, or a PostgreSQL server would go whose databases stay.
    /// Options: `recommends: true` for what they recommend as well, `timeout` for the transaction (3600)
    /// and `lock_timeout` for another apt or dpkg (600), in seconds.
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
    pub fn install(context: NativeCallContext, names: rhai::Array, options: rhai::Map) -> Raised<bool> {
        act(&context, |host| make(host, &names, &options_of(options)?))
    }
}

fn make(host: &Host, names: &rhai::Array, options: &Options) -> Result<bool> {
    let mut desired: Vec<String> = Vec::with_capacity(names.len());
    for name in names {
        let Ok(name) = name.clone().into_string() else {
            bail!(Failure::new(format!("`{name}` is no name of a package")).kind("type"))
        };
        if !desired.contains(&name) {
            desired.push(name);
        }
    }
    check_names(&desired)?;
    let wish = DesiredPackages {
        names: desired,
        recommends: options.recommends,
        timeout: options.timeout.map_or(PACKAGES_TIMEOUT, Duration::from_secs),
        lock_timeout: options.lock_timeout.map_or(LOCK_TIMEOUT, Duration::from_secs),
    };
    host.seen().asks_for(|| Target::packages(&wish.names));
    if !packages::is_lacking(&wish, &host.seen().world)? {
        return Ok(false);
    }
    let acts = !host.dry_run();
    if acts {
        // Fetching lists and mending what dpkg left come before the change itself.
        host.session().begin_acting()?;
    }
    let change = PackagesChange::towards(&wish, &host.seen().world, acts)?;
    let Some(change) = change else { return Ok(false) };
    host.session().perform(&Change::Packages(change.clone()), &mut |world| change.act(world))
}

/// Names as Debian allows them, with an architecture where wanted. Source: Debian Policy, 5.6.7.
fn check_names(names: &[String]) -> Result<()> {
    for name in names {
        let allowed =
            |each: char| each.is_ascii_lowercase() || each.is_ascii_digit() || "+-.:".contains(each);
        let begins = name.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit());
        if !(begins && name.len() > 1 && name.chars().all(allowed)) {
            bail!(Failure::new(format!("`{name}` is no name of a package")).kind("usage"));
        }
        // apt-get takes a trailing `-` or `+` for "remove" and "install".
        if name.ends_with('-') {
            bail!(Failure::new(format!("`{name}` would remove a package")).kind("usage"));
        }
    }
    Ok(())
}

fn refuse_unknown(host: &Host) -> Result<()> {
    let session = host.seen();
    let is_of_packages = |target: &Target| matches!(target, Target::Packages(_) | Target::PackageSet { .. });
    let packages = session.would_change().iter().find(|would| is_of_packages(&would.target));
    match packages {
        Some(would) if host.dry_run() => {
            Err(Unpredictable(format!("{}, which would have changed by then", would.target)).into())
        }
        _ => Ok(()),
    }
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
