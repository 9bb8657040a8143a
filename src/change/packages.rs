//! Packages of the distribution: installed in one transaction; an undo removes exactly what it added.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::apt::{Apt, Simulated, has_stale_lists, holds_databases, is_dpkg_interrupted};
use super::installed::Installed;
use super::reliance::{PACKAGE_LISTS, relying_on_packages};
use super::{Kind, Loss, OnDoubt, Payload, Position, Predicted, UndoTerms, Undone, World, state_value};
use crate::event::{Counted, TargetKind};
use crate::failure::{Failure, FailureKind, sentence};
use crate::journal::{Class, Undoing};
use crate::target::{States, Target};

/// Where Debian keeps PostgreSQL's clusters and their configuration. Source: postgresql-common.
const CLUSTERS: &str = "/var/lib/postgresql";
const CLUSTER_CONFIGURATION: &str = "/etc/postgresql";

/// The desired state of the packages.
#[derive(Clone, Debug)]
pub struct DesiredPackages {
    /// Their names.
    pub names: Vec<String>,
    /// With what they recommend.
    pub recommends: bool,
    /// How long one transaction may take.
    pub timeout: Duration,
    /// How long the locks of apt and dpkg are waited for.
    pub lock_timeout: Duration,
    /// Package lists older than this are fetched before anything is installed.
    pub list_age: Duration,
}

/// One transaction.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PackagesChange {
    before: PackagesBefore,
    after: PackagesAfter,
    inverse: PackagesInverse,
    #[serde(skip)]
    act: Option<PackagesAct>,
}

/// What of the desired packages was not there.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct PackagesBefore {
    missing: Vec<String>,
    /// Those that were there, marked as automatically installed.
    automatic: Vec<String>,
}

/// What is to be there.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct PackagesAfter {
    names: Vec<String>,
}

/// What the transaction adds: by name, the version.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct PackagesInverse {
    installs: BTreeMap<String, String>,
    /// What it upgrades on the way: by name, the versions before and after.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    upgrades: BTreeMap<String, (String, String)>,
}

#[derive(Clone, Debug)]
struct PackagesAct {
    recommends: bool,
    timeout: Duration,
    lock_timeout: Duration,
}

/// What of the transaction is there: by name, the version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PackagesState {
    installed: BTreeMap<String, String>,
}

impl PackagesChange {
    /// The change that installs what is missing; `None` if all is there. With `acts`, dpkg is repaired and the lists
    /// are fetched if need be; without, nothing is changed, and what the lists do not show is left open.
    ///
    /// # Errors
    /// When some have no candidate: with all their names, before anything is installed.
    pub fn towards(desired: &DesiredPackages, world: &World, acts: bool) -> Result<Option<Self>> {
        let apt = Apt { world, lock_timeout: desired.lock_timeout, timeout: desired.timeout };
        if acts && is_dpkg_interrupted()? {
            apt.repair()?;
        }
        let (all, missing) = named_and_missing(&desired.names, apt)?;
        let there: Vec<&str> =
            all.iter().filter(|name| !missing.contains(name)).map(String::as_str).collect();
        let automatic = apt.automatic(&there)?;
        if missing.is_empty() && automatic.is_empty() {
            return Ok(None);
        }
        let names: Vec<&str> = missing.iter().map(String::as_str).collect();
        let simulated = if names.is_empty() {
            Simulated::default()
        } else if acts {
            apt.complete()?;
            make_installable(apt, desired.list_age, &|| without_candidate(apt, &names, desired.recommends))?;
            apt.simulate_install(&names, desired.recommends)?
        } else {
            note_unknown(apt, desired.list_age, &|| without_candidate(apt, &names, desired.recommends))?;
            apt.simulate_install(&names, desired.recommends).unwrap_or_default()
        };
        if !simulated.removes.is_empty() {
            bail!(
                Failure::new(format!(
                    "cannot install {}: apt would remove {}",
                    names.join(", "),
                    simulated.removes.join(", ")
                ))
                .kind(FailureKind::Packages)
                .hint("remove those by hand, or leave out the packages that conflict with them")
            );
        }
        Ok(Some(Self {
            before: PackagesBefore { missing, automatic },
            after: PackagesAfter { names: all },
            inverse: PackagesInverse {
                installs: simulated.installs.into_iter().collect(),
                upgrades: simulated.upgrades.into_iter().map(|(name, old, new)| (name, (old, new))).collect(),
            },
            act: Some(PackagesAct {
                recommends: desired.recommends,
                timeout: desired.timeout,
                lock_timeout: desired.lock_timeout,
            }),
        }))
    }

    /// All that it is about.
    fn names(&self) -> Vec<&str> {
        let added = self.inverse.installs.keys().filter(|name| !self.after.names.contains(name));
        self.after.names.iter().chain(added).map(String::as_str).collect()
    }

    /// What the transaction added and is still there.
    fn present(&self, known: &Installed) -> BTreeMap<String, String> {
        let version = |name: &String| known.version(name).map(|version| (name.clone(), version.to_owned()));
        self.inverse.installs.keys().filter_map(version).collect()
    }

    fn states(&self, installed: BTreeMap<String, String>) -> States {
        [(self.target(), state_value(&PackagesState { installed }))].into()
    }

    fn is_own(&self, name: &str) -> bool {
        let bare = name.split(':').next().unwrap_or(name);
        self.inverse.installs.contains_key(name) || self.inverse.installs.contains_key(bare)
    }

    fn report_upgrades(&self, world: &World) {
        for (name, (old, new)) in &self.inverse.upgrades {
            world
                .reporter
                .note(format!("`{name}` was upgraded from {old} to {new} by the installation, and stays so"));
        }
    }
}

impl Kind for PackagesChange {
    fn target(&self) -> Target {
        Target::packages(&self.after.names)
    }

    fn counted(&self) -> Counted {
        let PackagesBefore { missing, automatic, .. } = &self.before;
        let names = if missing.is_empty() { automatic } else { missing };
        Counted { kind: TargetKind::Package, names: names.clone() }
    }

    fn predict(&self, _world: &World, predicted: &mut Predicted) {
        let bare = |name: &String| name.split(':').next().unwrap_or(name).to_owned();
        predicted.set_packages(self.inverse.installs.keys().chain(&self.after.names).map(bare), true);
    }

    fn summary(&self) -> String {
        let missing = &self.before.missing;
        if missing.is_empty() {
            return format!("mark as manually installed: {}", listed(&self.before.automatic));
        }
        let others = self.inverse.installs.len().saturating_sub(missing.len());
        let others = if others > 0 { format!(" and {others} that they need") } else { String::new() };
        format!("install {}{others}", listed(missing))
    }

    fn class(&self) -> Class {
        if self.before.missing.is_empty() { Class::Safe } else { Class::Packages }
    }

    fn on_doubt(&self) -> OnDoubt {
        OnDoubt::ActAgain
    }

    fn repair(&self, world: &World) -> Result<()> {
        let apt = Apt::new(world);
        apt.keep(&self.names())?;
        apt.complete()
    }

    fn act(&self, world: &World, _: Payload<'_>) -> Result<()> {
        let Some(act) = &self.act else {
            bail!("cannot install packages from a change that was read from the journal")
        };
        let apt = Apt { world, lock_timeout: act.lock_timeout, timeout: act.timeout };
        if !self.before.missing.is_empty()
            && let Err(error) = apt.install(&borrowed(&self.before.missing), act.recommends)
        {
            // dpkg still lists packages to be installed that it never came to.
            if let Err(listed) = apt.forget_desired(&self.names()) {
                tracing::warn!(
                    "cannot clear what dpkg still lists to be installed: {listed}",
                    listed = sentence(&listed)
                );
            }
            return Err(error);
        }
        apt.mark("manual", &borrowed(&self.before.automatic))
    }

    fn position(&self, world: &World) -> Result<Position> {
        if is_dpkg_interrupted()? {
            return Ok(Position::Neither("dpkg was interrupted".to_owned()));
        }
        let known = Installed::look(world)?;
        let there = self.inverse.installs.keys().filter(|name| known.is_there(name)).count();
        let complete = self.inverse.installs.keys().filter(|name| known.is_installed(name)).count();
        let automatic = Apt::new(world).automatic(&borrowed(&self.before.automatic))?;
        if missing_of(&self.after.names, Apt::new(world))?.is_empty() && automatic.is_empty() {
            return Ok(Position::After);
        }
        if there == 0 && automatic.len() == self.before.automatic.len() {
            return Ok(Position::Before);
        }
        Ok(Position::Neither(format!(
            "{complete} of {} packages are installed, {} in part",
            self.inverse.installs.len(),
            there - complete
        )))
    }

    fn recorded(&self, world: &World) -> Result<States> {
        let left = missing_of(&self.after.names, Apt::new(world))?;
        if !left.is_empty() {
            bail!("packages not installed: {}", left.join(", "));
        }
        Ok(self.states(self.present(&Installed::look(world)?)))
    }

    fn relied_on<'t>(&self, later: &[&'t Target], _world: &World) -> Result<Vec<&'t Target>> {
        let names = self.inverse.installs.keys().map(String::as_str);
        relying_on_packages(names, later, Path::new(PACKAGE_LISTS))
    }

    fn loss(&self, world: &World, _recorded: Option<&Value>) -> Result<Option<Loss>> {
        let present = self.present(&Installed::look(world)?);
        if present.is_empty() {
            return Ok(None);
        }
        let asked: Vec<String> =
            self.before.missing.iter().filter(|name| present.contains_key(*name)).cloned().collect();
        let others = present.len().saturating_sub(asked.len());
        let what = match (asked.is_empty(), others) {
            (false, 0) => format!("the packages {}", listed(&asked)),
            (false, _) => format!("the packages {} and {others} that came with them", listed(&asked)),
            (true, _) => format!("the packages {}", listed(&present.into_keys().collect::<Vec<_>>())),
        };
        Ok(Some(Loss { class: Class::Packages, what }))
    }

    fn undo(&self, world: &mut World, terms: UndoTerms<'_>) -> Result<Undone> {
        let apt = Apt::new(world);
        let added: Vec<&str> = self.inverse.installs.keys().map(String::as_str).collect();
        if !terms.dry_run {
            apt.repair()?;
            apt.complete_to_remove(&added)?;
            apt.forget(&added)?;
        }
        let known = Installed::look(world)?;
        let is_apt_stuck = known.broken().next().is_some();
        let there: Vec<&str> = added.iter().copied().filter(|name| known.is_there(name)).collect();
        let still: Vec<&str> =
            self.before.automatic.iter().filter(|name| known.is_there(name)).map(String::as_str).collect();
        let automatic = apt.automatic(&still)?;
        let marked: Vec<&str> =
            still.into_iter().filter(|name| !automatic.iter().any(|known| known == name)).collect();
        if there.is_empty() && marked.is_empty() {
            return Ok(Undone::Back(Undoing::Already, self.states(BTreeMap::new())));
        }
        if !there.is_empty()
            && let Some(why) = reason_to_keep(&there, &|name| self.is_own(name), apt, is_apt_stuck)?
        {
            return Ok(Undone::Kept(why));
        }
        if terms.dry_run {
            return Ok(Undone::Back(Undoing::Restored, BTreeMap::new()));
        }
        self.report_upgrades(world);
        if !there.is_empty() {
            remove_added(apt, &there, is_apt_stuck)?;
        }
        apt.mark("auto", &marked)?;
        let left = self.present(&Installed::look(world)?);
        if !left.is_empty() {
            bail!("packages not removed: {}", left.into_keys().collect::<Vec<_>>().join(", "));
        }
        Ok(Undone::Back(Undoing::Restored, self.states(left)))
    }
}

/// Why these must stay, if they must; `is_own` tells what may go with them.
pub(super) fn reason_to_keep(
    names: &[&str],
    is_own: &dyn Fn(&str) -> bool,
    apt: Apt<'_>,
    is_apt_stuck: bool,
) -> Result<Option<String>> {
    let mut clusters = clusters_of(names, Path::new(CLUSTERS), Path::new(CLUSTER_CONFIGURATION));
    clusters.retain(|cluster| holds_databases(cluster, &apt.world.assumed_gone.borrow()));
    if !clusters.is_empty() {
        let shown: Vec<String> = clusters.iter().map(|path| path.display().to_string()).collect();
        return Ok(Some(format!(
            "PostgreSQL holds databases that kkrun did not make, or that were kept, in {}",
            shown.join(", ")
        )));
    }
    if is_apt_stuck {
        // dpkg itself refuses to remove what other packages need.
        return Ok(None);
    }
    let simulated = apt.simulate_remove(names)?;
    let others: Vec<String> = simulated.removes.into_iter().filter(|name| !is_own(name)).collect();
    if others.is_empty() {
        return Ok(None);
    }
    Ok(Some(format!("other packages need them: {} would be removed too", others.join(", "))))
}

/// Removes packages that an undo takes away, and keeps the marks of those that stay for a failure.
pub(super) fn remove_added(apt: Apt<'_>, names: &[&str], is_apt_stuck: bool) -> Result<()> {
    let needed = apt.automatic(names)?;
    let removed = if is_apt_stuck { apt.remove_without_apt(names) } else { apt.remove(names) };
    if let Err(error) = removed {
        // Before apt removes a package, it forgets that it was automatically installed.
        if let Err(forgotten) = mark_those_left(apt, &needed) {
            tracing::warn!(
                "cannot mark {} as automatically installed: {forgotten}",
                needed.join(", "),
                forgotten = sentence(&forgotten)
            );
        }
        return Err(error);
    }
    Ok(())
}

/// Marks those that are still there as automatically installed.
fn mark_those_left(apt: Apt<'_>, names: &[String]) -> Result<()> {
    let known = Installed::look(apt.world)?;
    let left: Vec<&str> = names.iter().map(String::as_str).filter(|name| known.is_there(name)).collect();
    apt.mark("auto", &left)
}

/// Whether any of the desired packages is missing, or dpkg was interrupted.
pub fn is_lacking(desired: &DesiredPackages, world: &World) -> Result<bool> {
    let apt = Apt { world, lock_timeout: desired.lock_timeout, timeout: desired.timeout };
    Ok(is_dpkg_interrupted()?
        || !missing_of(&desired.names, apt)?.is_empty()
        || !apt.automatic(&borrowed(&desired.names))?.is_empty())
}

/// Whether a package is installed under exactly this name, or, where there is no package of the name, something that
/// provides it.
pub fn is_installed(name: &str, world: &World) -> Result<bool> {
    Ok(missing_of(&[name.to_owned()], Apt::new(world))?.is_empty())
}

/// The version in which it is there.
pub fn version(name: &str, world: &World) -> Result<Option<String>> {
    let known = Installed::look(world)?;
    Ok(known.version(name).filter(|_| known.is_installed(name)).map(str::to_owned))
}

/// The version that would be installed of it.
pub fn candidate(name: &str, world: &World) -> Result<Option<String>> {
    let found = Apt::new(world).candidates(&[name])?;
    Ok(found.into_iter().find(|(known, _)| known == name).map(|(_, version)| version))
}

fn missing_of(names: &[String], apt: Apt<'_>) -> Result<Vec<String>> {
    named_and_missing(names, apt).map(|(_, missing)| missing)
}

/// The names as dpkg and apt list them, and those of what is not there.
fn named_and_missing(names: &[String], apt: Apt<'_>) -> Result<(Vec<String>, Vec<String>)> {
    let known = Installed::look(apt.world)?;
    let names: Vec<String> = names.iter().map(|name| known.named(name).to_owned()).collect();
    let absent: Vec<&String> = names.iter().filter(|name| !known.is_installed(name)).collect();
    let provided: Vec<&str> =
        absent.iter().filter(|name| known.is_provided(name)).map(|name| name.as_str()).collect();
    // A package of this very name counts before one that provides it, unless the two conflict.
    let real = if provided.is_empty() { Vec::new() } else { apt.candidates(&provided)? };
    let is_there = |name: &str| {
        let has_own = real.iter().any(|(candidate, _)| candidate == name);
        provided.contains(&name) && (!has_own || known.is_replaced(name))
    };
    let missing = absent.into_iter().filter(|name| !is_there(name)).cloned().collect();
    Ok((names, missing))
}

/// Says in a dry run what no list knows. A run fetches the lists again before it fails.
pub(super) fn note_unknown(
    apt: Apt<'_>,
    list_age: Duration,
    unknown: &dyn Fn() -> Result<Vec<String>>,
) -> Result<()> {
    let unknown = if has_stale_lists(list_age) { Vec::new() } else { unknown()? };
    if !unknown.is_empty() {
        apt.world.reporter.note(format!("no package list knows {}: a run would fail", unknown.join(", ")));
    }
    Ok(())
}

/// Fetches the lists if they are older than `list_age` or something is unknown, and fails when it still is.
pub(super) fn make_installable(
    apt: Apt<'_>,
    list_age: Duration,
    unknown_now: &dyn Fn() -> Result<Vec<String>>,
) -> Result<()> {
    let are_stale = has_stale_lists(list_age);
    let mut unknown = if are_stale { Vec::new() } else { unknown_now()? };
    if !are_stale && unknown.is_empty() {
        return Ok(());
    }
    let updated = apt.update();
    unknown = unknown_now()?;
    if unknown.is_empty() {
        return updated.or_else(|error| note_old_lists(apt, &error));
    }
    updated?;
    let counted = if unknown.len() == 1 { "package" } else { "packages" };
    let shown: Vec<String> = unknown.iter().map(|name| format!("`{name}`")).collect();
    bail!(
        Failure::new(format!(
            "{counted} {} not found in the package sources of this machine",
            shown.join(", ")
        ))
        .kind(FailureKind::Missing)
        .hint("check the names, and the package sources in /etc/apt/sources.list")
    )
}

/// Says that the lists could not be fetched where those that are there do.
pub(super) fn note_old_lists(apt: Apt<'_>, error: &anyhow::Error) -> Result<()> {
    apt.world.processes.check_interruption()?;
    apt.world.reporter.note(format!(
        "cannot update the package lists, going on with those that are there: {error}",
        error = sentence(error)
    ));
    Ok(())
}

fn without_candidate(apt: Apt<'_>, names: &[&str], recommends: bool) -> Result<Vec<String>> {
    let found = apt.candidates(names)?;
    let mut unknown = Vec::new();
    for name in names {
        if found.iter().any(|(known, _)| known == name) {
            continue;
        }
        // A name that one package alone provides has no candidate and can be installed.
        if let Err(error) = apt.simulate_install(&[name], recommends) {
            let output = error.downcast_ref::<Failure>().map(|failure| &*failure.output).unwrap_or_default();
            let providers = providers(output);
            let shown = if providers.is_empty() {
                (*name).to_owned()
            } else {
                format!("{name} (a virtual package: name one that provides it, {})", listed(&providers))
            };
            unknown.push(shown);
        }
    }
    Ok(unknown)
}

/// The packages that provide a virtual one, as apt-get names them when it is to be installed.
fn providers(output: &[String]) -> Vec<String> {
    let listed =
        output.iter().skip_while(|line| !line.ends_with("is a virtual package provided by:")).skip(1);
    let listed = listed.take_while(|line| line.starts_with("  "));
    listed.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// The directories of clusters that would lose their server with these packages.
fn clusters_of(names: &[&str], clusters: &Path, configuration: &Path) -> Vec<PathBuf> {
    let versions = names.iter().filter_map(|name| name.strip_prefix("postgresql-"));
    let versions =
        versions.filter(|version| !version.is_empty() && version.chars().all(|each| each.is_ascii_digit()));
    let mut found: Vec<PathBuf> = Vec::new();
    for version in versions {
        for entry in entries(&configuration.join(version)) {
            let text = std::fs::read_to_string(entry.join("postgresql.conf")).unwrap_or_default();
            found.extend(data_directory(&text));
        }
        found.extend(entries(&clusters.join(version)));
    }
    found.sort();
    found.dedup();
    found
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default()
}

/// The value of `data_directory`. Source: PostgreSQL, "Setting Parameters".
fn data_directory(text: &str) -> Option<PathBuf> {
    let value = text.lines().find_map(|line| line.trim().strip_prefix("data_directory"))?;
    let value = value.trim_start().trim_start_matches('=').trim_start();
    let value = value.strip_prefix('\'')?.split('\'').next()?;
    Some(PathBuf::from(value))
}

pub(super) fn borrowed(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

/// The first few of them, and how many more.
pub(super) fn listed(names: &[String]) -> String {
    match names {
        [first, second, third, _, _, rest @ ..] => {
            format!("{first}, {second}, {third} and {} more", rest.len() + 2)
        }
        _ => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_long_list_is_told_in_short() {
        assert_eq!(listed(&own(&["a", "b", "c", "d"])), "a, b, c, d");
        assert_eq!(listed(&own(&["a", "b", "c", "d", "e"])), "a, b, c and 2 more");
    }

    #[test]
    fn a_virtual_package_is_named_with_those_that_provide_it() {
        let output = own(&[
            "Building dependency tree...",
            "Package mail-transport-agent is a virtual package provided by:",
            "  postfix 3.7.11-0+deb12u1",
            "  exim4-daemon-light 4.96-15+deb12u6",
            "You should explicitly select one to install.",
            "E: Package 'mail-transport-agent' has no installation candidate",
        ]);
        assert_eq!(providers(&output), ["postfix", "exim4-daemon-light"]);
        assert!(providers(&own(&["E: Unable to locate package x"])).is_empty());
    }

    #[test]
    fn the_data_directory_is_read_from_the_configuration() {
        let text = "#data_directory = 'x'\ndata_directory = '/srv/pg'\t\t# (change requires restart)\n";
        assert_eq!(data_directory(text), Some(PathBuf::from("/srv/pg")));
        assert_eq!(data_directory("port = 5432\n"), None);
    }

    #[test]
    fn only_clusters_of_servers_that_go_are_a_reason() {
        let root = tempfile::tempdir().unwrap();
        let (clusters, configuration) = (root.path().join("lib"), root.path().join("etc"));
        std::fs::create_dir_all(clusters.join("15/main")).unwrap();
        std::fs::create_dir_all(clusters.join("13/main")).unwrap();
        std::fs::create_dir_all(configuration.join("15/other")).unwrap();
        let line = format!("data_directory = '{}'\n", root.path().join("elsewhere").display());
        std::fs::write(configuration.join("15/other/postgresql.conf"), line).unwrap();
        let found = |names: &[&str]| clusters_of(names, &clusters, &configuration);
        assert_eq!(found(&["postgresql-15"]), [root.path().join("elsewhere"), clusters.join("15/main")]);
        assert!(found(&["postgresql", "postgresql-common", "postgresql-client-15", "jq"]).is_empty());
    }
}
