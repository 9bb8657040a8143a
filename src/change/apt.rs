//! Runs apt-get and dpkg: alone, without questions, again where the network or a lock was at fault.

mod interrupted;
mod progress;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};

pub(super) use self::interrupted::is_dpkg_interrupted;
use self::progress::Progress;
use super::World;
use crate::failure::{Failure, FailureKind};
use crate::machine::package_locks;
use crate::machine::process::{Command, Ended, PROGRESS};

/// What keeps package scripts from asking, and messages in one language. `SUDO_FORCE_REMOVE` lets sudo go where it
/// was not there before. Source: debconf(7), needrestart(1), apt-listchanges(1), sudo's prerm.
const ENVIRONMENT: [(&str, &str); 5] = [
    ("DEBIAN_FRONTEND", "noninteractive"),
    ("NEEDRESTART_MODE", "l"),
    ("APT_LISTCHANGES_FRONTEND", "none"),
    ("LC_ALL", "C.UTF-8"),
    ("SUDO_FORCE_REMOVE", "yes"),
];
/// Never a pseudo terminal, never a question about a configuration file that was modified.
const OPTIONS: [&str; 6] = [
    "--option=Acquire::Retries=5",
    "--option=Dpkg::Use-Pty=0",
    "--option=Dpkg::Options::=--force-confdef",
    "--option=Dpkg::Options::=--force-confold",
    "--option=APT::Get::Purge=false",
    "--quiet",
];
/// What apt made of its lists. Source: apt.conf(5), `Dir::Cache`.
const CACHE: &str = "/var/cache/apt/pkgcache.bin";
/// Where apt keeps the archives that it fetched.
const ARCHIVES: &str = "/var/cache/apt/archives";
/// How long a lock is waited for unless the script says otherwise.
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(600);
/// How long one transaction may take unless the script says otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(3600);
/// Package lists older than this may name versions that are gone.
pub const LIST_AGE: Duration = Duration::from_secs(6 * 3600);
/// How often the network is tried, and how long is waited before the second time; twice as long each time after.
const ATTEMPTS: u32 = 4;
const BACKOFF: Duration = Duration::from_secs(3);

/// apt as kkrun runs it.
#[derive(Clone, Copy)]
pub(super) struct Apt<'a> {
    /// Runs the commands.
    pub world: &'a World,
    /// How long a lock is waited for.
    pub lock_timeout: Duration,
    /// How long one transaction may take.
    pub timeout: Duration,
}

/// How packages are brought to a version.
#[derive(Clone, Copy, Debug)]
pub(super) struct Versions {
    /// With what they recommend.
    pub recommends: bool,
    /// Packages on hold may be changed, too.
    pub may_change_held: bool,
}

impl Versions {
    fn and<'a>(self, also: &[&'a str]) -> Vec<&'a str> {
        let held: &[&str] = if self.may_change_held { &["--allow-change-held-packages"] } else { &[] };
        ["--allow-downgrades"].iter().chain(held).chain(also).copied().collect()
    }
}

/// What a simulated transaction would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Simulated {
    /// What would be installed that is not there: name and version.
    pub installs: Vec<(String, String)>,
    /// What would be brought to another version: name, version now, version then.
    pub upgrades: Vec<(String, String, String)>,
    /// What would be removed.
    pub removes: Vec<String>,
}

impl<'a> Apt<'a> {
    /// With the default timeouts.
    pub(super) fn new(world: &'a World) -> Self {
        Self { world, lock_timeout: LOCK_TIMEOUT, timeout: TIMEOUT }
    }

    /// Fetches the package lists. Where only some could be fetched, those are used.
    pub(super) fn update(self) -> Result<()> {
        let argv = ["apt-get", "--option=APT::Update::Error-Mode=any", "--quiet", "update"];
        let ended = self.run_patiently(&argv, false)?;
        if ended.is_success() {
            return Ok(());
        }
        bail!(failure(&ended, "apt-get update", FailureKind::Network))
    }

    /// The version that would be installed of each of these, where there is one.
    pub(super) fn candidates(self, names: &[&str]) -> Result<Vec<(String, String)>> {
        let argv: Vec<&str> = ["apt-cache", "policy"].iter().chain(names).copied().collect();
        let ended = self.look(argv)?;
        super::unit::succeeded(&ended, "apt-cache policy")?;
        Ok(candidates(&ended.stdout.text()))
    }

    /// What installing these would do; an error when apt finds no way.
    pub(super) fn simulate_install(self, names: &[&str], recommends: bool) -> Result<Simulated> {
        let argv = install(names, recommends, &["--simulate"]);
        let ended = self.look(argv)?;
        if !ended.is_success() {
            bail!(failure(&ended, "apt-get --simulate install", FailureKind::Packages));
        }
        Ok(Simulated::parse(&ended.stdout.text()))
    }

    /// Installs these in one transaction that removes nothing.
    pub(super) fn install(self, names: &[&str], recommends: bool) -> Result<()> {
        self.install_with(names, recommends, &[])
    }

    fn install_with(self, names: &[&str], recommends: bool, also: &[&str]) -> Result<()> {
        let label = format!("apt-get install {}", names.join(" "));
        let fetching: Vec<&str> = also.iter().copied().chain(["--download-only"]).collect();
        let argv = install(names, recommends, &fetching);
        let ended = self.run_patiently(&argv, false)?;
        if !ended.is_success() {
            bail!(failure(&ended, &format!("{label} (fetching)"), FailureKind::Network));
        }
        let ended = self.run_patiently(&install(names, recommends, also), true)?;
        if !ended.is_success() {
            bail!(failure(&ended, &label, FailureKind::Packages));
        }
        Ok(())
    }

    /// The versions that the package sources have of a package, the newest first.
    pub(super) fn versions(self, name: &str) -> Result<Vec<String>> {
        let ended = self.look(vec!["apt-cache", "madison", name])?;
        super::unit::succeeded(&ended, "apt-cache madison")?;
        let text = ended.stdout.text();
        let mut versions: Vec<String> = Vec::new();
        // ` NAME | VERSION | SOURCE`. Source: apt-cache(8).
        for version in text.lines().filter_map(|line| line.split('|').nth(1)).map(str::trim) {
            if !versions.iter().any(|known| known == version) {
                versions.push(version.to_owned());
            }
        }
        Ok(versions)
    }

    /// What bringing packages to these versions would do: each is `NAME`, `NAME=VERSION` or the path of an archive.
    pub(super) fn simulate_versions(self, specs: &[&str], how: Versions) -> Result<Simulated> {
        let ended = self.look(install(specs, how.recommends, &how.and(&["--simulate"])))?;
        if !ended.is_success() {
            bail!(failure(&ended, "apt-get --simulate install", FailureKind::Packages));
        }
        Ok(Simulated::parse(&ended.stdout.text()))
    }

    /// Brings packages to these versions in one transaction that removes nothing.
    pub(super) fn install_versions(self, specs: &[&str], how: Versions) -> Result<()> {
        self.install_with(specs, how.recommends, &how.and(&[]))
    }

    /// Puts the archive of this version of a package into a directory: from apt's cache or from a package source. Gives
    /// none where neither has it.
    pub(super) fn fetch_archive(self, name: &str, version: &str, into: &Path) -> Result<Option<PathBuf>> {
        let wanted = format!("{name}={version}");
        let mut command =
            self.command(&["apt-get", "--option=Acquire::Retries=3", "--quiet", "download", &wanted], false);
        command.cwd = Some(into.to_owned());
        let cached = cached_archive(name, version);
        if let Some(cached) = cached {
            return Ok(Some(cached));
        }
        let ended = self.world.look(&command)?;
        if !ended.is_success() {
            tracing::debug!("cannot fetch {wanted}: {:?}", ended.tail);
            return Ok(None);
        }
        let bare = name.split(':').next().unwrap_or(name);
        let mut archives = std::fs::read_dir(into)
            .with_context(|| format!("cannot read `{}`", into.display()))?
            .flatten()
            .map(|entry| entry.path());
        Ok(archives.find(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let rest = name.strip_prefix(bare).and_then(|rest| rest.strip_suffix(".deb"));
            rest.is_some_and(|rest| rest.starts_with('_'))
        }))
    }

    /// Whether the archive of this version is to be had, without fetching it.
    pub(super) fn has_archive(self, name: &str, version: &str) -> Result<bool> {
        Ok(cached_archive(name, version).is_some()
            || self.versions(name)?.iter().any(|known| known == version))
    }

    /// What removing these would do.
    pub(super) fn simulate_remove(self, names: &[&str]) -> Result<Simulated> {
        let ended = self.look(remove(names, true))?;
        if !ended.is_success() {
            bail!(failure(&ended, "apt-get --simulate remove", FailureKind::Packages));
        }
        Ok(Simulated::parse(&ended.stdout.text()))
    }

    /// Removes these, and leaves their configuration files.
    pub(super) fn remove(self, names: &[&str]) -> Result<()> {
        let ended = self.run_patiently(&remove(names, false), true)?;
        if !ended.is_success() {
            bail!(failure(&ended, &format!("apt-get remove {}", names.join(" ")), FailureKind::Packages));
        }
        Ok(())
    }

    /// Those of these packages that are marked as automatically installed.
    pub(super) fn automatic(self, names: &[&str]) -> Result<Vec<String>> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let argv: Vec<&str> = ["apt-mark", "showauto"].iter().chain(names).copied().collect();
        let ended = self.look(argv)?;
        super::unit::succeeded(&ended, "apt-mark showauto")?;
        Ok(ended.stdout.text().lines().map(|line| line.trim().to_owned()).collect())
    }

    /// Marks these as installed manually (`manual`) or automatically (`auto`).
    pub(super) fn mark(self, how: &str, names: &[&str]) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        let argv: Vec<&str> = ["apt-mark", how].iter().chain(names).copied().collect();
        let ended = self.run_patiently(&argv, true)?;
        super::unit::succeeded(&ended, &format!("apt-mark {how}"))
    }

    /// Waits until no process holds a lock of apt or dpkg.
    fn wait_for_locks(self) -> Result<()> {
        let deadline = Instant::now() + self.lock_timeout;
        let mut reported = None;
        while let Some(holder) = package_locks::holder()? {
            self.world.processes.check_interruption()?;
            if Instant::now() >= deadline {
                bail!(
                    Failure::new(format!("{holder}, after waiting {} s", self.lock_timeout.as_secs()))
                        .kind(FailureKind::Locked)
                        .hint("let it finish or end it, then run kkrun again")
                );
            }
            if reported.as_ref() != Some(&holder) {
                self.world.reporter.note(format!("waiting: {holder}"));
                reported = Some(holder);
            }
            self.world.processes.pause(Duration::from_millis(500));
        }
        Ok(())
    }

    /// Runs a command again while a lock or the network is at fault.
    fn run_patiently(self, argv: &[&str], outlasts_interrupt: bool) -> Result<Ended> {
        let deadline = Instant::now() + self.lock_timeout;
        let mut backoff = BACKOFF;
        let mut attempt = 1;
        loop {
            self.wait_for_locks()?;
            let mut command = self.command(argv, outlasts_interrupt);
            if argv[0] == "apt-get" {
                command.has_progress = true;
                command.argv.insert(1, format!("--option=APT::Status-Fd={PROGRESS}").into());
            }
            let mut progress = Progress::default();
            let mut words = |stream, line: &str| progress.after(stream, line);
            let ended = self.world.run_with_progress(&command, &label_of(argv), &mut words)?;
            let fault = fault_of(&ended.tail);
            if ended.is_success() || fault.is_none() {
                return Ok(ended);
            }
            let is_lock = fault == Some(Fault::Lock);
            if if is_lock { Instant::now() >= deadline } else { attempt >= ATTEMPTS } {
                return Ok(ended);
            }
            if !is_lock {
                attempt += 1;
                self.world
                    .reporter
                    .note(format!("the network failed: trying again in {} s", backoff.as_secs()));
            }
            self.pause(if is_lock { Duration::from_secs(1) } else { backoff })?;
            backoff *= 2;
        }
    }

    fn pause(self, duration: Duration) -> Result<()> {
        let until = Instant::now() + duration;
        loop {
            self.world.processes.check_interruption()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.world.processes.pause(left);
        }
    }

    /// Asks apt without writing anything: by default it logs how it comes to its answer, and caches what it makes of
    /// its lists.
    fn look(self, mut argv: Vec<&str>) -> Result<Ended> {
        argv.insert(1, "--option=Dir::Log::Planner=");
        if !Path::new(CACHE).exists() {
            argv.splice(1..1, ["--option=Dir::Cache::pkgcache=", "--option=Dir::Cache::srcpkgcache="]);
        }
        self.world.look(&self.command(&argv, false))
    }

    /// A command with the environment in which packages ask nothing.
    pub(super) fn plain(self, argv: &[&str]) -> Command {
        self.command(argv, true)
    }

    fn command(self, argv: &[&str], outlasts_interrupt: bool) -> Command {
        let mut command = Command::new(argv);
        command.env = ENVIRONMENT.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        command.timeout = Some(self.timeout);
        command.outlasts_interrupt = outlasts_interrupt;
        command
    }
}

/// The archive of this version in apt's cache. Source: apt.conf(5), `Dir::Cache::archives`; a colon is escaped there.
fn cached_archive(name: &str, version: &str) -> Option<PathBuf> {
    let (bare, architecture) = match name.split_once(':') {
        Some((bare, architecture)) => (bare, Some(architecture)),
        None => (name, None),
    };
    let begin = format!("{bare}_{}_", version.replace(':', "%3a"));
    let is_it = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let rest = name.strip_prefix(&begin).and_then(|rest| rest.strip_suffix(".deb"));
        rest.is_some_and(|known| architecture.is_none_or(|wanted| known == wanted || known == "all"))
    };
    std::fs::read_dir(ARCHIVES).ok()?.flatten().map(|entry| entry.path()).find(is_it)
}

fn install<'a>(names: &[&'a str], recommends: bool, also: &[&'a str]) -> Vec<&'a str> {
    let recommends = if recommends { "--install-recommends" } else { "--no-install-recommends" };
    let fixed = ["--yes", "--no-remove", "--fix-broken", recommends];
    let verb = ["install"];
    ["apt-get"].iter().chain(&OPTIONS).chain(&fixed).chain(also).chain(&verb).chain(names).copied().collect()
}

fn remove<'a>(names: &[&'a str], simulate: bool) -> Vec<&'a str> {
    let verb: &[&str] = if simulate { &["--simulate", "--yes", "remove"] } else { &["--yes", "remove"] };
    // What was interrupted while it was unpacked goes too.
    let fixed =
        ["--option=APT::Get::AutomaticRemove=false", "--option=Dpkg::Options::=--force-remove-reinstreq"];
    // apt takes what libc6 needs for essential in every architecture. The machine lives without another one's.
    let has_another = names.iter().any(|name| name.contains(':'));
    let allowed: &[&str] = if has_another { &["--allow-remove-essential"] } else { &[] };
    ["apt-get"]
        .iter()
        .chain(&OPTIONS)
        .chain(&fixed)
        .chain(allowed)
        .chain(verb)
        .chain(names)
        .copied()
        .collect()
}

fn failure(ended: &Ended, label: &str, kind: FailureKind) -> Failure {
    let reason = ended.tail.iter().rev().find_map(|line| line.strip_prefix("E: "));
    let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
    let mut failure = Failure::new(format!("`{label}` {}{reason}", ended.status)).kind(kind);
    failure.code = ended.status.code();
    failure.output.clone_from(&ended.tail);
    failure
}

/// How many names a label has at most.
const MOST_NAMED: usize = 4;

/// A command as it is shown: without the options, and with the first few of its packages.
fn label_of(argv: &[&str]) -> String {
    let words: Vec<&str> = argv.iter().copied().filter(|word| !word.starts_with("--")).collect();
    let shown = words.len().min(2 + MOST_NAMED);
    let more = words.len() - shown;
    let label = shell_words::join(&words[..shown]);
    let label = if more > 0 { format!("{label} and {more} more") } else { label };
    if argv.contains(&"--download-only") { format!("{label} (fetching)") } else { label }
}

/// What is worth another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Lock,
    Network,
}

fn fault_of(tail: &[String]) -> Option<Fault> {
    let says = |what: &str| tail.iter().any(|line| line.contains(what));
    if says("Could not get lock")
        || says("Unable to lock")
        || says("Unable to acquire the dpkg frontend lock")
    {
        return Some(Fault::Lock);
    }
    let network =
        ["Failed to fetch", "Temporary failure", "Could not resolve", "Could not connect", "Unable to fetch"];
    network.iter().any(|what| says(what)).then_some(Fault::Network)
}

/// What `apt-cache policy` names as candidates. Source: apt-cache(8).
fn candidates(policy: &str) -> Vec<(String, String)> {
    let mut name = None;
    let mut found = Vec::new();
    for line in policy.lines() {
        if let Some(begun) = line.strip_suffix(':').filter(|begun| !begun.starts_with(' ')) {
            name = Some(begun);
        } else if let (Some(name), Some(version)) = (name, line.trim().strip_prefix("Candidate: "))
            && version != "(none)"
        {
            found.push((name.to_owned(), version.to_owned()));
        }
    }
    found
}

impl Simulated {
    /// Reads the lines `Inst NAME [OLD] (NEW …)` and `Remv NAME [OLD]`. Source: apt-get(8), `--simulate`.
    fn parse(output: &str) -> Self {
        let mut simulated = Self::default();
        for line in output.lines() {
            let mut words = line.split_whitespace();
            let (Some(verb), Some(name)) = (words.next(), words.next()) else { continue };
            let bracketed = |word: &str| Some(word.strip_prefix('[')?.strip_suffix(']')?.to_owned());
            match verb {
                "Remv" | "Purg" => simulated.removes.push(name.to_owned()),
                "Inst" => {
                    let old = words.clone().next().and_then(bracketed);
                    let new = words.find_map(|word| word.strip_prefix('(')).unwrap_or_default().to_owned();
                    match old {
                        Some(old) if old == new => {}
                        Some(old) => simulated.upgrades.push((name.to_owned(), old, new)),
                        None => simulated.installs.push((name.to_owned(), new)),
                    }
                }
                _ => {}
            }
        }
        simulated
    }
}

/// Whether the package lists are missing or older than this.
pub(super) fn has_stale_lists(most: Duration) -> bool {
    let modified = |path: &str| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    // Both move with every update, even one that finds nothing new; the lists have the server's times.
    let newest = modified("/var/lib/apt/lists").max(modified("/var/lib/apt/lists/partial"));
    let has_lists = std::fs::read_dir("/var/lib/apt/lists").is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
    });
    let age = newest.and_then(|newest| SystemTime::now().duration_since(newest).ok());
    !has_lists || age.is_some_and(|age| age > most)
}

/// Whether the PostgreSQL cluster at this directory holds a database besides its initial ones, which have small
/// numbers. Those of `gone`, as `base/OID`, do not count.
/// Source: PostgreSQL, FirstNormalObjectId.
pub(super) fn holds_databases(cluster: &Path, gone: &BTreeSet<PathBuf>) -> bool {
    const FIRST_NORMAL: u32 = 16384;
    std::fs::read_dir(cluster.join("base")).is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            let name = entry.file_name();
            let oid = name.to_str().and_then(|name| name.parse::<u32>().ok());
            oid.is_some_and(|oid| oid >= FIRST_NORMAL) && !gone.contains(&Path::new("base").join(name))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_those_that_have_a_version() {
        let policy = "curl:\n  Installed: (none)\n  Candidate: 7.88.1-10\n  Version table:\n     7.88.1-10 500\n\
                      awk:\n  Installed: (none)\n  Candidate: (none)\n  Version table:\n";
        assert_eq!(candidates(policy), [("curl".to_owned(), "7.88.1-10".to_owned())]);
    }

    #[test]
    fn a_simulation_tells_new_packages_from_upgrades_and_removals() {
        let output = "Reading package lists...\n\
                      Inst libpq5 [15.3-1] (15.20-0 Debian:12 [amd64])\n\
                      Inst jq (1.6-2 Debian:12 [amd64]) []\n\
                      Remv exim4 [4.96-15]\n\
                      Conf jq (1.6-2 Debian:12 [amd64])\n";
        let own = |text: &str| text.to_owned();
        assert_eq!(
            Simulated::parse(output),
            Simulated {
                installs: vec![(own("jq"), own("1.6-2"))],
                upgrades: vec![(own("libpq5"), own("15.3-1"), own("15.20-0"))],
                removes: vec![own("exim4")],
            }
        );
    }

    #[test]
    fn locks_and_the_network_are_worth_another_attempt_and_nothing_else() {
        let fault = |line: &str| fault_of(&["Reading…".to_owned(), line.to_owned()]);
        assert_eq!(
            fault("E: Could not get lock /var/lib/apt/lists/lock. It is held by process 5 (apt)"),
            Some(Fault::Lock)
        );
        assert_eq!(fault("E: Failed to fetch http://x/y  404  Not Found"), Some(Fault::Network));
        assert_eq!(fault("E: Unable to locate package nosuch"), None);
    }

    #[test]
    fn nothing_is_purged_removed_on_the_way_or_asked() {
        let install = install(&["jq"], false, &[]).join(" ");
        assert!(install.contains("--no-remove") && install.contains("--no-install-recommends"));
        assert!(install.ends_with("install jq") && install.contains("--yes"));
        let remove = remove(&["jq"], false).join(" ");
        assert!(remove.contains("Purge=false") && remove.contains("AutomaticRemove=false"));
    }

    #[test]
    fn a_cluster_holds_databases_when_one_has_a_number_of_its_own() {
        let cluster = tempfile::tempdir().unwrap();
        let holds = |gone: &[&str]| {
            holds_databases(cluster.path(), &gone.iter().map(|path| PathBuf::from(*path)).collect())
        };
        assert!(!holds(&[]));
        for name in ["1", "4", "5", "pgsql_tmp"] {
            std::fs::create_dir_all(cluster.path().join("base").join(name)).unwrap();
        }
        assert!(!holds(&[]));
        std::fs::create_dir(cluster.path().join("base/16388")).unwrap();
        assert!(holds(&[]) && holds(&["base/16389"]));
        assert!(!holds(&["base/16388"]), "a previewed rollback has dropped it by then");
    }
}
