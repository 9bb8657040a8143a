//! `pkg::` queries, installs, upgrades, holds and removes packages of the distribution.

use std::time::Duration;

use anyhow::{Result, bail};
use rhai::plugin::*;
use serde::Deserialize;

use super::file::absolute;
use super::shorter::namespace;
use crate::change::{
    Change, DebconfChange, DesiredAnswer, DesiredPackages, DesiredVersion, DesiredVersions, HoldChange,
    LIST_AGE, LOCK_TIMEOUT, PACKAGES_TIMEOUT, PackageArchive, PackageVersionsChange, PackagesChange, Payload,
    is_held, packages,
};
use crate::failure::{Failure, FailureKind};
use crate::journal::Class;
use crate::machine::trusted;
use crate::script::{Host, OptionSet, Raised, Unpredictable, act, look, options_of};
use crate::target::Target;

pub(super) fn module() -> rhai::Module {
    namespace(exported_manifest!(functions), &[("install", 1), ("upgrade", 1), ("remove", 1)])
}

pub(super) fn options(function: &str) -> Option<OptionSet> {
    match function {
        "install" | "upgrade" => Some(OptionSet::of::<Options>()),
        "remove" => Some(OptionSet::of::<RemoveOptions>()),
        _ => None,
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    recommends: bool,
    timeout: Option<u64>,
    lock_timeout: Option<u64>,
    list_age: Option<u64>,
    irreversible: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RemoveOptions {
    timeout: Option<u64>,
    lock_timeout: Option<u64>,
    irreversible: Option<String>,
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
            is_to_be.map_or_else(|| packages::is_installed(name, &session.world), Ok)
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

    /// The version in which a package is installed, or `()` if it is not.
    ///
    /// ```rhai
    /// assert(pkg::version("dpkg") == cmd::read(["dpkg-query", "--show", "--showformat=${Version}", "dpkg"]));
    /// assert(pkg::version("no-package-of-this-name") == ());
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn version(context: NativeCallContext, name: &str) -> Raised<Dynamic> {
        look(&context, |host| {
            check_names(&[name.to_owned()])?;
            refuse_predicted(host, name)?;
            let found = packages::version(name, &host.seen().world)?;
            Ok(found.map_or(Dynamic::UNIT, Dynamic::from))
        })
    }

    /// Installs those of the packages that are missing, in one transaction that removes nothing. Installed packages are not
    /// upgraded. The package lists are fetched first if they are some hours old or do not contain a name; if a name is
    /// unknown even then, the step fails before anything is installed. If another apt or dpkg is running, it waits.
    ///
    /// `name=version` is that version, and the absolute path of a `.deb` the version that it holds: a package that is
    /// there in another version is upgraded or downgraded to it.
    ///
    /// A rollback asks first (`--purge packages`), then removes, without purging, exactly what the transaction installed.
    /// What other packages need by now stays, and so does a PostgreSQL server whose databases stay. The version from before
    /// is restored from its archive, which kkrun keeps. If no package source has that any more, nothing is changed
    /// unless `irreversible` says why it may be lost.
    /// Options: `recommends: true` (install recommended packages, too), `timeout` (seconds for the transaction, default
    /// 3600), `lock_timeout` (seconds to wait for another apt or dpkg, default 600), `list_age` (seconds: older package
    /// lists are fetched before something is installed, default 21600), `irreversible` (why the version from before may be
    /// lost).
    ///
    /// ```rhai,booted
    /// pkg::install(["jq"]);
    /// assert(pkg::installed("jq") && !pkg::install(["jq"]));
    /// ```
    ///
    /// ```rhai,booted
    /// pkg::install(["jq"], #{ lock_timeout: 60, timeout: 600, list_age: 86400 });
    /// let version = pkg::version("jq");
    /// assert(!pkg::install([`jq=${version}`]));
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn install(
        context: NativeCallContext,
        names: rhai::Array,
        options: rhai::Map,
    ) -> Raised<bool> {
        act(&context, |host| install_asked(host, &names, &options_of(options)?))
    }

    /// Brings packages to the version that apt would install: upgrades those that are there, and installs the others. The
    /// package lists are fetched first if they are older than `list_age`. A package that is on hold is refused, unless a
    /// `pkg::hold` of kkrun's own put it there: then it is upgraded and stays on hold.
    ///
    /// Undone as `pkg::install` is.
    /// Options: as for `pkg::install`.
    ///
    /// ```rhai,booted
    /// pkg::upgrade(["jq"], #{ irreversible: "a security update" });
    /// assert(pkg::version("jq") == pkg::candidate("jq") && !pkg::upgrade(["jq"]));
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn upgrade(
        context: NativeCallContext,
        names: rhai::Array,
        options: rhai::Map,
    ) -> Raised<bool> {
        act(&context, |host| {
            let names = plain_names(&names)?;
            let desired = names.into_iter().map(DesiredVersion::Newest).collect();
            change_versions(host, desired, &options_of(options)?)
        })
    }

    /// Removes packages, and leaves their configuration files. Others that need them are not removed with them: the step
    /// fails and names those.
    ///
    /// Undone, the packages are installed again in the same version, from their archives, which kkrun fetches and keeps
    /// before it removes anything. If no package source has one any more, nothing is removed unless `irreversible` says
    /// why it may be lost.
    /// Options: `timeout` and `lock_timeout` as for `pkg::install`, `irreversible`.
    ///
    /// ```rhai,booted
    /// pkg::install(["jq"]);
    /// assert(pkg::remove(["jq"], #{ irreversible: "the package source may be old" }));
    /// assert(!pkg::installed("jq") && !pkg::remove(["jq"]));
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn remove(context: NativeCallContext, names: rhai::Array, options: rhai::Map) -> Raised<bool> {
        act(&context, |host| {
            let RemoveOptions { timeout, lock_timeout, irreversible } = options_of(options)?;
            let options = Options { timeout, lock_timeout, irreversible, ..Options::default() };
            let desired = plain_names(&names)?.into_iter().map(DesiredVersion::Removed).collect();
            change_versions(host, desired, &options)
        })
    }

    /// Whether a package is on hold: apt then keeps its version.
    ///
    /// ```rhai
    /// assert(!pkg::held("dpkg"));
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn held(context: NativeCallContext, name: &str) -> Raised<bool> {
        look(&context, |host| {
            check_names(&[name.to_owned()])?;
            is_held(name, &host.seen().world)
        })
    }

    /// Puts installed packages on hold: apt neither upgrades nor removes them. Undone, they are let go again.
    ///
    /// ```rhai,booted
    /// pkg::install(["jq"]);
    /// assert(pkg::hold(["jq"]) && pkg::held("jq") && !pkg::hold(["jq"]));
    /// pkg::unhold(["jq"]);
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn hold(context: NativeCallContext, names: rhai::Array) -> Raised<bool> {
        act(&context, |host| hold_all(host, &names, true))
    }

    /// Lets packages go that are on hold. Undone, they are on hold again.
    ///
    /// ```rhai,booted
    /// pkg::install(["jq"]);
    /// pkg::hold(["jq"]);
    /// assert(pkg::unhold(["jq"]) && !pkg::held("jq"));
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn unhold(context: NativeCallContext, names: rhai::Array) -> Raised<bool> {
        act(&context, |host| hold_all(host, &names, false))
    }

    /// Answers a question that a package asks when it is installed (debconf): call it before `pkg::install`. `kind` is the type
    /// of the question, such as `string`, `boolean`, `select` or `password`, and `value` a string, bool, integer or secret. The
    /// questions of an installed package are listed by `debconf-get-selections` of the package debconf-utils. An installed
    /// package looks at the answer when it is configured again; one that it has cleared since is not given again.
    ///
    /// Undone, the answer from before is restored; a question that debconf did not know is forgotten with its
    /// package.
    ///
    /// ```rhai,booted
    /// assert(pkg::preseed("kkrun-example", "kkrun-example/mailname", "string", "example.org"));
    /// assert(!pkg::preseed("kkrun-example", "kkrun-example/mailname", "string", "example.org"));
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn preseed(
        context: NativeCallContext,
        package: &str,
        question: &str,
        kind: &str,
        value: Dynamic,
    ) -> Raised<bool> {
        act(&context, |host| answer(host, package, question, kind, &value))
    }
}

/// The types of questions. Source: debconf-devel(7), "Type".
const QUESTIONS: [&str; 8] =
    ["string", "boolean", "select", "multiselect", "note", "text", "password", "title"];

fn names_of(names: &rhai::Array) -> Result<Vec<String>> {
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
    Ok(desired)
}

fn plain_names(names: &rhai::Array) -> Result<Vec<String>> {
    let names = names_of(names)?;
    check_names(&names)?;
    Ok(names)
}

fn install_asked(host: &Host, names: &rhai::Array, options: &Options) -> Result<bool> {
    let names = names_of(names)?;
    if !names.iter().any(|name| name.contains(['=', '/'])) {
        return install_missing(host, names, options);
    }
    let desired = names.into_iter().map(|name| version_of(host, name)).collect::<Result<Vec<_>>>()?;
    change_versions(host, desired, options)
}

/// A package as `name`, `name=version` or the path of an archive.
fn version_of(host: &Host, asked: String) -> Result<DesiredVersion> {
    if asked.contains('/') {
        let path = absolute(&asked)?;
        if path.extension().is_none_or(|extension| extension != "deb") {
            bail!(
                Failure::new(format!("invalid package `{asked}`: a path must end in `.deb`"))
                    .kind(FailureKind::Usage)
            );
        }
        host.refuse_unknown(&path)?;
        // Its scripts are run as root.
        trusted::file(&path)?;
        return Ok(DesiredVersion::Archive(PackageArchive::read(&path, &host.seen().world)?));
    }
    let Some((name, version)) = asked.split_once('=') else {
        check_names(std::slice::from_ref(&asked))?;
        return Ok(DesiredVersion::Any(asked));
    };
    check_names(&[name.to_owned()])?;
    // Source: deb-version(7).
    let allowed = |each: char| each.is_ascii_alphanumeric() || ".+~:-".contains(each);
    if !(version.starts_with(|first: char| first.is_ascii_digit()) && version.chars().all(allowed)) {
        bail!(
            Failure::new(format!(
                "invalid version `{version}` of `{name}`: it must begin with a digit, with only letters, digits, `.`, `+`, `~`, `:` and `-` behind it"
            ))
            .kind(FailureKind::Usage)
        );
    }
    Ok(DesiredVersion::Exactly(name.to_owned(), version.to_owned()))
}

fn ask_for(host: &Host, names: &[String]) {
    host.seen().asks_for(|| Target::packages(names));
    for name in names {
        // Other steps may have installed it with other packages.
        host.seen().asks_for(|| Target::Packages(vec![name.clone()]));
    }
}

fn install_missing(host: &Host, names: Vec<String>, options: &Options) -> Result<bool> {
    check_names(&names)?;
    let desired = DesiredPackages {
        names,
        recommends: options.recommends,
        timeout: options.timeout.map_or(PACKAGES_TIMEOUT, Duration::from_secs),
        lock_timeout: options.lock_timeout.map_or(LOCK_TIMEOUT, Duration::from_secs),
        list_age: options.list_age.map_or(LIST_AGE, Duration::from_secs),
    };
    ask_for(host, &desired.names);
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

fn change_versions(host: &Host, packages: Vec<DesiredVersion>, options: &Options) -> Result<bool> {
    let names: Vec<String> = packages.iter().map(|one| one.name().to_owned()).collect();
    ask_for(host, &names);
    let is_own = |name: &&String| {
        host.seen().history().recorded(&Target::Hold((*name).clone())).is_some_and(|held| held == true)
    };
    let own_holds = names.iter().filter(is_own).cloned().collect();
    let desired = DesiredVersions {
        packages,
        recommends: options.recommends,
        timeout: options.timeout.map_or(PACKAGES_TIMEOUT, Duration::from_secs),
        lock_timeout: options.lock_timeout.map_or(LOCK_TIMEOUT, Duration::from_secs),
        list_age: options.list_age.map_or(LIST_AGE, Duration::from_secs),
        own_holds,
        may_be_final: options.irreversible.is_some(),
    };
    let acts = !host.dry_run();
    let may_be_lacking = acts && desired.needs_lists();
    if !may_be_lacking && !desired.is_lacking(&host.seen().world)? {
        return Ok(false);
    }
    if acts {
        host.session().begin_acting()?;
    }
    let change = PackageVersionsChange::towards(&desired, &host.seen().world, acts)?;
    let Some(change) = change else { return Ok(false) };
    let why = options.irreversible.clone().filter(|_| change.is_final());
    let loses = why.map(|why| (Class::Irreversible, why));
    host.session().perform_losing(&Change::PackageVersions(change), loses, Payload::Nothing)
}

fn hold_all(host: &Host, names: &rhai::Array, is_held: bool) -> Result<bool> {
    let mut any = false;
    for name in plain_names(names)? {
        host.seen().asks_for(|| Target::Hold(name.clone()));
        let change = HoldChange::towards(&name, is_held, &host.seen().world, !host.dry_run())?;
        if let Some(change) = change {
            any |= host.session().perform(&Change::Hold(change), Payload::Nothing)?;
        }
    }
    Ok(any)
}

fn answer(host: &Host, package: &str, question: &str, kind: &str, value: &Dynamic) -> Result<bool> {
    check_names(&[package.to_owned()])?;
    let is_plain = |text: &str| !text.is_empty() && !text.contains(char::is_whitespace);
    if !is_plain(question) || !question.contains('/') {
        bail!(
            Failure::new(format!("invalid question `{question}`: expected one like `{package}/name`"))
                .kind(FailureKind::Usage)
        );
    }
    if !QUESTIONS.contains(&kind) {
        bail!(
            Failure::new(format!(
                "invalid type `{kind}` of a question: expected one of {}",
                QUESTIONS.join(", ")
            ))
            .kind(FailureKind::Usage)
        );
    }
    let is_secret = Host::secret_text(value).is_some();
    let text = host.text_or_secret(value, "an answer")?;
    if text.contains('\n') {
        bail!(
            Failure::new(format!("cannot answer `{question}`: an answer must not contain a line ending"))
                .kind(FailureKind::Usage)
        );
    }
    let target = Target::Debconf { package: package.to_owned(), question: question.to_owned() };
    host.seen().asks_for(|| target.clone());
    let desired = DesiredAnswer { package, question, kind, value: &text, is_secret };
    let change = {
        let session = host.seen();
        DebconfChange::towards(&desired, session.history().recorded(&target).as_ref(), &session.world)?
    };
    let Some(change) = change else { return Ok(false) };
    host.session().perform(&Change::Debconf(change), Payload::Nothing)
}

/// In a dry run, refuses to report on the version of a package that would be changed by then.
fn refuse_predicted(host: &Host, name: &str) -> Result<()> {
    match host.seen().world.predicted.borrow().has_package(name) {
        None => Ok(()),
        Some(_) => Err(Unpredictable(format!("the version of `{name}`, which changes by then")).into()),
    }
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
