//! Packages brought to a version, or removed: an undo restores the versions from before.
//!
//! The archives of the versions that go are saved in the backups before anything is done: when the change is undone,
//! no package source may have them any more.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::apt::{Apt, Simulated, Versions, has_stale_lists, is_dpkg_interrupted};
use super::installed::Installed;
use super::packages::{
    borrowed, listed, make_installable, note_old_lists, note_unknown, reason_to_keep, remove_added,
};
use super::reliance::{PACKAGE_LISTS, relying_on_packages};
use super::{Kind, Loss, OnDoubt, Payload, Position, Predicted, UndoTerms, Undone, World, state_value};
use crate::event::Modification;
use crate::failure::{Failure, FailureKind, sentence};
use crate::journal::{Class, Undoing};
use crate::machine::files::{Digest, FileState};
use crate::machine::process::Command;
use crate::target::{States, Target};

/// Where archives are while apt reads them. What a killed run left there is removed by the next one.
const WORKSHOP: &str = "/var/cache/apt/kkrun";

/// The desired state of one package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DesiredVersion {
    /// Installed in any version.
    Any(String),
    /// Installed in the version that apt would install.
    Newest(String),
    /// Installed in exactly this version.
    Exactly(String, String),
    /// Installed in the version that the archive at this path has.
    Archive(PackageArchive),
    /// Not installed; its configuration files stay.
    Removed(String),
}

/// A package in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageArchive {
    /// Its path.
    pub path: PathBuf,
    /// The package in it, with its architecture.
    pub name: String,
    /// The version in it.
    pub version: String,
}

/// The desired state of several.
#[derive(Clone, Debug)]
pub struct DesiredVersions {
    /// Each of them.
    pub packages: Vec<DesiredVersion>,
    /// With what they recommend.
    pub recommends: bool,
    /// How long one transaction may take.
    pub timeout: Duration,
    /// How long the locks of apt and dpkg are waited for.
    pub lock_timeout: Duration,
    /// Package lists older than this are fetched first.
    pub list_age: Duration,
    /// The packages that kkrun itself put on hold: those may be changed.
    pub own_holds: BTreeSet<String>,
    /// A version from before may be lost: the script says why.
    pub may_be_final: bool,
}

/// One transaction. In `before` and `after`, by name, is the version of each package that it changes; none where the
/// package is not there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PackageVersionsChange {
    before: BTreeMap<String, Option<String>>,
    after: BTreeMap<String, Option<String>>,
    inverse: PackageVersionsInverse,
    #[serde(skip)]
    act: Option<PackageVersionsAct>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct PackageVersionsInverse {
    /// The packages that the script names, as dpkg lists them.
    asked: Vec<String>,
    /// Those that were there, marked as automatically installed.
    automatic: Vec<String>,
    /// By name, the archive of the version from before.
    archives: BTreeMap<String, Digest>,
    /// Another version of what was asked for is a conflict.
    #[serde(default)]
    is_exact: bool,
    /// Those that kkrun itself put on hold: apt ends that when it changes them, so they are put on hold again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    held: Vec<String>,
}

#[derive(Clone, Debug)]
struct PackageVersionsAct {
    specs: Vec<String>,
    removes: Vec<String>,
    /// To be marked as manually installed.
    manual: Vec<String>,
    how: Versions,
    timeout: Duration,
    lock_timeout: Duration,
}

/// What is there of the packages that the script names: by name, the version. Nothing once the change is undone: from then
/// on, the versions are the operator's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct VersionsState {
    versions: BTreeMap<String, Option<String>>,
}

impl DesiredVersion {
    /// The name of the package.
    pub fn name(&self) -> &str {
        match self {
            Self::Any(name) | Self::Newest(name) | Self::Exactly(name, _) | Self::Removed(name) => name,
            Self::Archive(archive) => &archive.name,
        }
    }

    /// As apt-get takes it.
    fn spec(&self) -> String {
        match self {
            Self::Any(name) | Self::Newest(name) | Self::Removed(name) => name.clone(),
            Self::Exactly(name, version) => format!("{name}={version}"),
            Self::Archive(archive) => archive.path.display().to_string(),
        }
    }

    fn holds(&self, known: &Installed, newest: &BTreeMap<String, String>) -> bool {
        let name = self.name();
        let has = |version: &str| known.is_installed(name) && known.version(name) == Some(version);
        match self {
            Self::Any(_) => known.is_installed(name) || known.is_provided(name),
            Self::Newest(_) => newest.get(name).is_some_and(|version| has(version)),
            Self::Exactly(_, version) => has(version),
            Self::Archive(archive) => has(&archive.version),
            Self::Removed(_) => !known.is_there(name),
        }
    }
}

impl PackageArchive {
    /// Reads what is in the archive at a path.
    pub fn read(path: &Path, world: &World) -> Result<Self> {
        let shown = path.display().to_string();
        let format = "${Package}:${Architecture}\t${Version}";
        let command = Command::new(["dpkg-deb", "--show", &format!("--showformat={format}"), &shown]);
        let ended = world.look(&command)?;
        let text = ended.stdout.text();
        let fields = text.trim().split_once('\t').filter(|_| ended.is_success());
        let Some((name, version)) = fields else {
            let why = ended.tail.last().map(|line| format!(": {line}")).unwrap_or_default();
            bail!(Failure::new(format!("cannot read the package `{shown}`{why}")).kind(FailureKind::Packages))
        };
        let known = Installed::look(world)?;
        Ok(Self { path: path.to_owned(), name: known.named(name).to_owned(), version: version.to_owned() })
    }
}

impl DesiredVersions {
    fn apt<'w>(&self, world: &'w World) -> Apt<'w> {
        Apt { world, lock_timeout: self.lock_timeout, timeout: self.timeout }
    }

    fn names(&self) -> Vec<&str> {
        self.packages.iter().map(DesiredVersion::name).collect()
    }

    /// Whether the newest version of something is asked for and the lists are old.
    pub fn needs_lists(&self) -> bool {
        self.packages.iter().any(|one| matches!(one, DesiredVersion::Newest(_)))
            && has_stale_lists(self.list_age)
    }

    /// Whether any package is otherwise than desired, or dpkg was interrupted.
    pub fn is_lacking(&self, world: &World) -> Result<bool> {
        let apt = self.apt(world);
        if is_dpkg_interrupted()? || !self.lacking(apt)?.is_empty() {
            return Ok(true);
        }
        Ok(!self.automatic(apt)?.is_empty())
    }

    fn lacking(&self, apt: Apt<'_>) -> Result<Vec<&DesiredVersion>> {
        let known = Installed::look(apt.world)?;
        let newest: Vec<&str> = self
            .packages
            .iter()
            .filter(|one| matches!(one, DesiredVersion::Newest(_)))
            .map(DesiredVersion::name)
            .collect();
        let newest: BTreeMap<String, String> =
            if newest.is_empty() { BTreeMap::new() } else { apt.candidates(&newest)?.into_iter().collect() };
        Ok(self.packages.iter().filter(|one| !one.holds(&known, &newest)).collect())
    }

    /// Those of the packages to be there that are marked as automatically installed.
    fn automatic(&self, apt: Apt<'_>) -> Result<Vec<String>> {
        let known = Installed::look(apt.world)?;
        let stays =
            |one: &&DesiredVersion| !matches!(one, DesiredVersion::Removed(_)) && known.is_there(one.name());
        let there: Vec<&str> = self.packages.iter().filter(stays).map(DesiredVersion::name).collect();
        apt.automatic(&there)
    }

    /// What no package source has, as it was asked for; with the versions that there are.
    fn unknown(&self, apt: Apt<'_>) -> Result<Vec<String>> {
        let mut unknown = Vec::new();
        for one in self.lacking(apt)? {
            let versions = match one {
                DesiredVersion::Removed(_) | DesiredVersion::Archive(_) => continue,
                other => apt.versions(other.name())?,
            };
            match one {
                DesiredVersion::Exactly(_, version) if versions.contains(version) => {}
                DesiredVersion::Exactly(name, version) if !versions.is_empty() => {
                    unknown.push(format!("{name}={version} (there is {})", versions.join(", ")));
                }
                _ if versions.is_empty() => unknown.push(one.spec()),
                _ => {}
            }
        }
        Ok(unknown)
    }
}

impl PackageVersionsChange {
    /// The change that brings packages to their desired state; `None` if all is so. With `acts`, dpkg is repaired, the
    /// lists are fetched if need be and the archives of what goes are saved; without, nothing is changed.
    ///
    /// # Errors
    /// When a version is in no package source, a package is on hold, others would be removed, or the version from
    /// before could not be restored and the script does not say that it need not be.
    pub fn towards(desired: &DesiredVersions, world: &World, acts: bool) -> Result<Option<Self>> {
        let apt = desired.apt(world);
        if acts && is_dpkg_interrupted()? {
            apt.repair()?;
        }
        if acts && desired.needs_lists() {
            apt.update().or_else(|error| note_old_lists(apt, &error))?;
        }
        let lacking = desired.lacking(apt)?;
        let manual = desired.automatic(apt)?;
        if lacking.is_empty() && manual.is_empty() {
            return Ok(None);
        }
        let known = Installed::look(world)?;
        refuse_held(&lacking, desired, &known)?;
        let (leaving, brought): (Vec<&DesiredVersion>, Vec<&DesiredVersion>) =
            lacking.iter().copied().partition(|one| matches!(one, DesiredVersion::Removed(_)));
        let removes: Vec<String> = leaving.iter().map(|one| known.named(one.name()).to_owned()).collect();
        let specs: Vec<String> = brought.iter().map(|one| one.spec()).collect();
        let how = Versions { recommends: desired.recommends, may_change_held: !desired.own_holds.is_empty() };
        let mut simulated = Simulated::default();
        if !specs.is_empty() {
            let unknown = || desired.unknown(apt);
            if acts {
                apt.complete()?;
                make_installable(apt, desired.list_age, &unknown)?;
                simulated = apt.simulate_versions(&borrowed(&specs), how)?;
            } else {
                note_unknown(apt, desired.list_age, &unknown)?;
                simulated = apt.simulate_versions(&borrowed(&specs), how).unwrap_or_else(|error| {
                    let error = sentence(&error);
                    world.reporter.note(format!("apt would not install {}: {error}", specs.join(", ")));
                    Simulated::default()
                });
            }
            refuse_removals(&brought, &simulated.removes, &[])?;
        }
        if !removes.is_empty() {
            let going = apt.simulate_remove(&borrowed(&removes))?.removes;
            refuse_removals(&leaving, &going, &removes)?;
        }
        let mut change = Self::of(desired, &simulated, &removes, &known);
        refuse_held_others(&change, desired, &known)?;
        // What is there in part, in the version that is asked for, is no change of a version, and is installed all the same.
        if change.before.is_empty() && manual.is_empty() && desired.lacking(apt)?.is_empty() {
            return Ok(None);
        }
        let there: Vec<&str> = change.replaced().map(|(name, _)| name).collect();
        let mut automatic = apt.automatic(&there)?;
        automatic.extend(manual.iter().cloned());
        automatic.sort();
        automatic.dedup();
        change.inverse.automatic = automatic;
        change.save_archives(desired, apt, acts)?;
        let (timeout, lock_timeout) = (desired.timeout, desired.lock_timeout);
        change.act = Some(PackageVersionsAct { specs, removes, manual, how, timeout, lock_timeout });
        Ok(Some(change))
    }

    fn of(desired: &DesiredVersions, simulated: &Simulated, removes: &[String], known: &Installed) -> Self {
        let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
        for (name, version) in &simulated.installs {
            before.insert(name.clone(), None);
            after.insert(name.clone(), Some(version.clone()));
        }
        for (name, old, new) in &simulated.upgrades {
            before.insert(name.clone(), Some(old.clone()));
            after.insert(name.clone(), Some(new.clone()));
        }
        for name in removes {
            before.insert(name.clone(), known.version(name).map(str::to_owned));
            after.insert(name.clone(), None);
        }
        let asked = desired.names().into_iter().map(|name| known.named(name).to_owned()).collect();
        let is_open =
            |one: &DesiredVersion| matches!(one, DesiredVersion::Newest(_) | DesiredVersion::Any(_));
        let is_exact = !desired.packages.iter().any(is_open);
        let held = desired.own_holds.iter().filter(|name| known.is_held(name)).cloned().collect();
        let (automatic, archives) = (Vec::new(), BTreeMap::new());
        let inverse = PackageVersionsInverse { asked, automatic, archives, is_exact, held };
        Self { before, after, inverse, act: None }
    }

    /// Saves the archives of the versions that go.
    fn save_archives(&mut self, desired: &DesiredVersions, apt: Apt<'_>, acts: bool) -> Result<()> {
        let replaced: Vec<(String, String)> =
            self.replaced().map(|(name, version)| (name.to_owned(), version.to_owned())).collect();
        let mut lost = Vec::new();
        for (name, version) in replaced {
            let is_there = if acts {
                let workshop = Workshop::open()?;
                let archive = apt.fetch_archive(&name, &version, &workshop.path)?;
                if let Some(archive) = &archive {
                    let state = apt.world.backups()?.save_file(archive)?;
                    let FileState::File { sha256: digest, .. } = state else {
                        bail!("cannot save `{}`: it is not a regular file", archive.display())
                    };
                    self.inverse.archives.insert(name.clone(), digest);
                }
                archive.is_some()
            } else {
                apt.has_archive(&name, &version)?
            };
            if !is_there && self.inverse.asked.contains(&name) {
                lost.push(format!("{name} {version}"));
            }
        }
        if lost.is_empty() || desired.may_be_final {
            return Ok(());
        }
        let message = format!(
            "cannot {} so that it can be undone: no package source has {} any more",
            self.summary(),
            lost.join(", ")
        );
        if !acts {
            apt.world.reporter.note(format!("{message}; a run would fail"));
            return Ok(());
        }
        bail!(
            Failure::new(message)
                .kind(FailureKind::Packages)
                .hint("add the option `irreversible: \"why\"` if a rollback may leave it as it is then")
        )
    }

    /// Whether a version that the script replaces or removes cannot be restored.
    pub fn is_final(&self) -> bool {
        self.replaced().any(|(name, _)| {
            self.inverse.asked.iter().any(|asked| asked == name) && !self.inverse.archives.contains_key(name)
        })
    }

    /// The packages that are there in another version, or are removed: the name and the version from before.
    fn replaced(&self) -> impl Iterator<Item = (&str, &str)> {
        self.before.iter().filter_map(|(name, version)| Some((name.as_str(), version.as_deref()?)))
    }

    /// The packages that were not there.
    fn added(&self) -> impl Iterator<Item = &str> {
        self.before.iter().filter(|(_, version)| version.is_none()).map(|(name, _)| name.as_str())
    }

    fn states(&self, versions: BTreeMap<String, Option<String>>) -> States {
        [(self.target(), state_value(&VersionsState { versions }))].into()
    }

    /// Puts those of these packages on hold that are there and are not.
    fn hold_again(apt: Apt<'_>, names: &[String]) -> Result<()> {
        let known = Installed::look(apt.world)?;
        let let_go = |name: &&str| known.is_there(name) && !known.is_held(name);
        let names: Vec<&str> = names.iter().map(String::as_str).filter(let_go).collect();
        apt.mark("hold", &names)
    }

    fn is_at(versions: &BTreeMap<String, Option<String>>, known: &Installed) -> bool {
        versions.iter().all(|(name, version)| match version {
            Some(version) => known.is_installed(name) && known.version(name) == Some(version),
            None => !known.is_there(name),
        })
    }

    /// What of the packages that the script names is neither as before nor as after.
    fn strange(&self, known: &Installed) -> Option<String> {
        self.replaced().filter(|(name, _)| self.inverse.asked.iter().any(|asked| asked == name)).find_map(
            |(name, before)| {
                let after = self.after.get(name)?.as_deref();
                let now = known.version(name);
                (now != Some(before) && now != after).then(|| differs(name, now, after))
            },
        )
    }

    /// Unpacks the versions from before over packages that were interrupted while they were unpacked: until then apt does
    /// nothing, and it takes no archive for one that no package source has.
    fn unpack_interrupted(&self, apt: Apt<'_>, known: &Installed) -> Result<()> {
        let is_broken = |name: &str| known.broken().any(|broken| broken == known.named(name));
        let saved = |(name, version)| Some((name, version, *self.inverse.archives.get(name)?));
        let interrupted: Vec<_> =
            self.replaced().filter(|(name, _)| is_broken(name)).filter_map(saved).collect();
        if interrupted.is_empty() {
            return Ok(());
        }
        let workshop = Workshop::open()?;
        let put = |(name, version, digest)| workshop.put(apt.world, name, version, digest);
        let archives = interrupted.into_iter().map(put).collect::<Result<Vec<String>>>()?;
        apt.unpack(&borrowed(&archives))
    }

    /// Brings back the versions from before, as far as their archives are there.
    fn restore(&self, apt: Apt<'_>, known: &Installed) -> Result<()> {
        let workshop = Workshop::open()?;
        let mut specs = Vec::new();
        for (name, version) in self.replaced() {
            if known.is_installed(name) && known.version(name) == Some(version) {
                continue;
            }
            match self.inverse.archives.get(name) {
                Some(digest) => specs.push(workshop.put(apt.world, name, version, *digest)?),
                None => apt
                    .world
                    .reporter
                    .note(format!("`{name}` stays in its version: no package source had {version} any more")),
            }
        }
        if specs.is_empty() {
            return Ok(());
        }
        apt.install_versions(&borrowed(&specs), Versions { recommends: false, may_change_held: true })
    }
}

impl Kind for PackageVersionsChange {
    fn target(&self) -> Target {
        Target::packages(&self.inverse.asked)
    }

    fn predict(&self, _world: &World, predicted: &mut Predicted) {
        let bare = |name: &String| name.split(':').next().unwrap_or(name).to_owned();
        let of = |is_there: bool| {
            self.after.iter().filter(move |(_, version)| version.is_some() == is_there).map(|(name, _)| name)
        };
        predicted.set_packages(of(true).map(bare), true);
        predicted.set_packages(of(false).map(bare), false);
        // What the lists do not show is predicted as it is asked for.
        if self.after.is_empty() {
            predicted.set_packages(self.inverse.asked.iter().map(bare), true);
        }
    }

    fn summary(&self) -> String {
        let (mut installs, mut removes, mut others) = (Vec::new(), Vec::new(), 0);
        for (name, after) in &self.after {
            if !self.inverse.asked.contains(name) {
                others += 1;
                continue;
            }
            let before = self.before.get(name).and_then(Option::as_deref);
            match (before, after) {
                (Some(before), Some(after)) => installs.push(format!("{name} {after} over {before}")),
                (None, Some(after)) => installs.push(format!("{name} {after}")),
                (_, None) => removes.push(name.clone()),
            }
        }
        let others = if others > 0 { format!(" and {others} that they need") } else { String::new() };
        match (installs.is_empty(), removes.is_empty()) {
            (true, true) if self.after.is_empty() && !self.inverse.automatic.is_empty() => {
                format!("mark as manually installed: {}", listed(&self.inverse.automatic))
            }
            (true, true) => format!("install {}", listed(&self.inverse.asked)),
            (true, false) => format!("remove {}{others}", listed(&removes)),
            (false, _) => format!("install {}{others}", listed(&installs)),
        }
    }

    fn class(&self) -> Class {
        if self.added().next().is_none() { Class::Safe } else { Class::Packages }
    }

    fn on_doubt(&self) -> OnDoubt {
        OnDoubt::ActAgain
    }

    fn conflict(&self, recorded: &Value, world: &World) -> Option<Modification> {
        let recorded: VersionsState = serde_json::from_value(recorded.clone()).ok()?;
        if !self.inverse.is_exact {
            return None;
        }
        let known = Installed::look(world).ok()?;
        recorded.versions.iter().find_map(|(name, left)| {
            let now = known.version(name);
            (now != left.as_deref()).then(|| Modification::shown(&differs(name, now, left.as_deref())))
        })
    }

    fn repair(&self, world: &World) -> Result<()> {
        let apt = Apt::new(world);
        Workshop::clear();
        let names = |is_staying: bool| -> Vec<&str> {
            let is_so = |(_, version): &(&String, &Option<String>)| version.is_some() == is_staying;
            self.after.iter().filter(is_so).map(|(name, _)| name.as_str()).collect()
        };
        let staying = names(true);
        apt.keep(&staying)?;
        // What is being removed is not installed again.
        if staying.is_empty() { apt.repair().map(drop) } else { apt.complete() }?;
        // dpkg still lists what it was interrupted with after the last file was gone.
        apt.forget(&names(false))?;
        Self::hold_again(apt, &self.inverse.held)
    }

    fn act(&self, world: &World, _: Payload<'_>) -> Result<()> {
        let Some(act) = &self.act else {
            bail!("cannot change packages from a change that was read from the journal")
        };
        let apt = Apt { world, lock_timeout: act.lock_timeout, timeout: act.timeout };
        if !act.removes.is_empty() {
            apt.remove(&borrowed(&act.removes))?;
        }
        if !act.specs.is_empty()
            && let Err(error) = apt.install_versions(&borrowed(&act.specs), act.how)
        {
            // dpkg still lists packages to be installed that it never came to.
            let names: Vec<&str> = self.after.keys().map(String::as_str).collect();
            if let Err(listed) = apt.forget_desired(&names) {
                tracing::warn!(
                    "cannot clear what dpkg still lists to be installed: {listed}",
                    listed = sentence(&listed)
                );
            }
            return Err(error);
        }
        apt.mark("manual", &borrowed(&act.manual))?;
        Self::hold_again(apt, &self.inverse.held)
    }

    fn position(&self, world: &World) -> Result<Position> {
        if is_dpkg_interrupted()? {
            return Ok(Position::Neither("dpkg was interrupted".to_owned()));
        }
        let known = Installed::look(world)?;
        Ok(if Self::is_at(&self.after, &known) {
            Position::After
        } else if Self::is_at(&self.before, &known) {
            Position::Before
        } else {
            let differing = self.after.iter().find_map(|(name, version)| {
                let now = known.version(name);
                (now != version.as_deref()).then(|| differs(name, now, version.as_deref()))
            });
            Position::Neither(differing.unwrap_or_else(|| "a package is there in part".to_owned()))
        })
    }

    fn recorded(&self, world: &World) -> Result<States> {
        let known = Installed::look(world)?;
        for (name, version) in &self.after {
            let now = known.version(name);
            if now != version.as_deref() || version.is_some() && !known.is_installed(name) {
                bail!("{}", differs(name, now, version.as_deref()));
            }
        }
        let version = |name: &String| (name.clone(), known.version(name).map(str::to_owned));
        Ok(self.states(self.inverse.asked.iter().map(version).collect()))
    }

    fn relied_on<'t>(&self, later: &[&'t Target], _world: &World) -> Result<Vec<&'t Target>> {
        relying_on_packages(self.added(), later, Path::new(PACKAGE_LISTS))
    }

    fn backups(&self, _world: &World, _recorded: Option<&Value>) -> Vec<Digest> {
        self.inverse.archives.values().copied().collect()
    }

    fn loss(&self, world: &World, _recorded: Option<&Value>) -> Result<Option<Loss>> {
        let known = Installed::look(world)?;
        let there: Vec<String> =
            self.added().filter(|name| known.is_there(name)).map(str::to_owned).collect();
        if there.is_empty() {
            return Ok(None);
        }
        Ok(Some(Loss { class: Class::Packages, what: format!("the packages {}", listed(&there)) }))
    }

    fn undo(&self, world: &mut World, terms: UndoTerms<'_>) -> Result<Undone> {
        let apt = Apt::new(world);
        let added: Vec<&str> = self.added().collect();
        let known = Installed::look(world)?;
        let held: Vec<String> = self.before.keys().filter(|name| known.is_held(name)).cloned().collect();
        if !terms.dry_run {
            Workshop::clear();
            apt.repair()?;
            self.unpack_interrupted(apt, &Installed::look(world)?)?;
            apt.complete_to_remove(&added)?;
            apt.forget(&added)?;
        }
        let known = Installed::look(world)?;
        let marked = self.not_automatic(apt, &known)?;
        if Self::is_at(&self.before, &known) && marked.is_empty() {
            return Ok(Undone::Back(Undoing::Already, self.states(BTreeMap::new())));
        }
        if !terms.force
            && !terms.begun
            && let Some(difference) = self.strange(&known)
        {
            return Ok(Undone::Conflict(difference));
        }
        let is_apt_stuck = known.broken().next().is_some();
        let there: Vec<&str> = added.iter().copied().filter(|name| known.is_there(name)).collect();
        let is_own = |name: &str| {
            let bare = name.split(':').next().unwrap_or(name);
            added.contains(&name) || added.contains(&bare)
        };
        if !there.is_empty()
            && let Some(why) = reason_to_keep(&there, &is_own, apt, is_apt_stuck)?
        {
            return Ok(Undone::Kept(why));
        }
        if terms.dry_run {
            return Ok(Undone::Back(Undoing::Restored, States::new()));
        }
        if !there.is_empty() {
            remove_added(apt, &there, is_apt_stuck)?;
        }
        self.restore(apt, &known)?;
        Self::hold_again(apt, &held)?;
        let known = Installed::look(world)?;
        let apt = Apt::new(world);
        apt.mark("auto", &borrowed(&self.not_automatic(apt, &known)?))?;
        for (name, version) in self.before.iter().filter(|(name, _)| self.inverse.asked.contains(name)) {
            if known.version(name) != version.as_deref() {
                bail!("{}", differs(name, known.version(name), version.as_deref()));
            }
        }
        Ok(Undone::Back(Undoing::Restored, self.states(BTreeMap::new())))
    }
}

impl PackageVersionsChange {
    /// Those that were marked as automatically installed, are there and are not marked so.
    fn not_automatic(&self, apt: Apt<'_>, known: &Installed) -> Result<Vec<String>> {
        let there: Vec<&str> =
            self.inverse.automatic.iter().filter(|name| known.is_there(name)).map(String::as_str).collect();
        let automatic = apt.automatic(&there)?;
        let there = there.into_iter().filter(|name| !automatic.iter().any(|known| known == name));
        Ok(there.map(str::to_owned).collect())
    }
}

/// A directory for archives that is removed with them.
struct Workshop {
    path: PathBuf,
}

impl Workshop {
    fn open() -> Result<Self> {
        let named = || format!("cannot make `{WORKSHOP}`");
        let workshop = Self { path: PathBuf::from(WORKSHOP) };
        Self::clear();
        std::fs::create_dir(&workshop.path).with_context(named)?;
        Ok(workshop)
    }

    fn clear() {
        // Where nothing is, nothing is to be removed; a leftover is removed by the next one.
        let _ = std::fs::remove_dir_all(WORKSHOP);
    }

    /// The archive from the backups under a name that apt takes; gives its path.
    fn put(&self, world: &World, name: &str, version: &str, digest: Digest) -> Result<String> {
        let bytes = world.backups()?.read(digest)?;
        let path = self.path.join(format!("{}_{}.deb", name.replace(':', "_"), version.replace(':', "%3a")));
        std::fs::write(&path, bytes).with_context(|| format!("cannot write `{}`", path.display()))?;
        Ok(path.display().to_string())
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        Self::clear();
    }
}

fn differs(name: &str, now: Option<&str>, expected: Option<&str>) -> String {
    match (now, expected) {
        (Some(now), Some(expected)) => format!("package `{name}` is {now}, and was {expected}"),
        (Some(now), None) => format!("package `{name}` is installed again, as {now}"),
        (None, Some(expected)) => format!("package `{name}` is not installed, and was {expected}"),
        (None, None) => format!("package `{name}` is there in part"),
    }
}

/// Refuses to change what someone else put on hold.
fn refuse_held(lacking: &[&DesiredVersion], desired: &DesiredVersions, known: &Installed) -> Result<()> {
    let is_held = |one: &&&DesiredVersion| {
        let name = known.named(one.name());
        known.is_held(name) && known.is_there(name) && !desired.own_holds.contains(name)
    };
    match lacking.iter().find(is_held) {
        None => Ok(()),
        Some(one) => bail!(on_hold(&one.spec(), one.name())),
    }
}

fn refuse_held_others(
    change: &PackageVersionsChange,
    desired: &DesiredVersions,
    known: &Installed,
) -> Result<()> {
    match change.replaced().find(|(name, _)| known.is_held(name) && !desired.own_holds.contains(*name)) {
        None => Ok(()),
        Some((name, _)) => bail!(on_hold(&change.inverse.asked.join(", "), name)),
    }
}

fn on_hold(asked: &str, held: &str) -> Failure {
    Failure::new(format!("cannot change {asked}: the package `{held}` is on hold"))
        .kind(FailureKind::Packages)
        .hint(format!("let it go first: pkg::unhold([\"{held}\"])"))
}

/// Refuses a transaction that would remove more than what was named.
fn refuse_removals(asked: &[&DesiredVersion], going: &[String], named: &[String]) -> Result<()> {
    let bare = |name: &str| name.split(':').next().unwrap_or(name).to_owned();
    let is_named = |name: &String| named.iter().any(|one| one == name || bare(one) == bare(name));
    let others: Vec<String> = going.iter().filter(|name| !is_named(name)).cloned().collect();
    if others.is_empty() {
        return Ok(());
    }
    let asked: Vec<String> = asked.iter().map(|one| one.spec()).collect();
    let (what, hint) = if named.is_empty() {
        ("install", "remove those by hand, or leave out the packages that conflict with them")
    } else {
        ("remove", "name them, too, if they may go")
    };
    bail!(
        Failure::new(format!("cannot {what} {}: apt would remove {}", asked.join(", "), others.join(", ")))
            .kind(FailureKind::Packages)
            .hint(hint)
    )
}
