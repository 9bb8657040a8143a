//! Questions and orders to a service manager, the system's or a user's.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::fs::{Mode, OFlags};

use super::DesiredUnit;
use crate::change::World;
use crate::failure::{Failure, FailureKind, sentence};
use crate::machine::account::Account;
use crate::machine::process::{Command, Ended};
use crate::target::Target;

/// How long an answer may take.
const LONGEST_LOOK: Duration = Duration::from_secs(30);
/// How long a unit may take to start or stop: systemd's own limit for a unit is 90 s by default.
const LONGEST_JOB: Duration = Duration::from_secs(600);
/// How long it may take until a started unit is active, and until a user's manager answers.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Between two questions.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);
/// How long a unit that was restarted has to stay active.
const TRIAL: Duration = Duration::from_secs(5);
/// What is asked of a unit.
const PROPERTIES: &str = "--property=LoadState,ActiveState,SubState,Result,FragmentPath,MainPID,NRestarts,NeedDaemonReload,Type,\
     ExecMainExitTimestampMonotonic,RemainAfterExit";
/// Where unit files are, the first one wins. Source: systemd.unit(5).
pub(super) const UNIT_PATHS: [&str; 4] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
];
/// How many lines of a unit's log are shown.
const LOG_LINES: usize = 20;
/// How much of a file is read for them.
const LOG_BYTES: u64 = 16 << 10;

/// `systemctl` with these words, for the system's manager or that of `user`.
pub(crate) fn systemctl(words: &[&str], user: Option<&str>) -> Result<Command> {
    addressed("systemctl", words, user)
}

fn addressed(program: &str, words: &[&str], user: Option<&str>) -> Result<Command> {
    let mut argv = vec![program];
    if user.is_some() {
        argv.push("--user");
    }
    argv.extend(words);
    let mut command = Command::new(argv);
    command.user = user.map(Account::existing).transpose()?;
    Ok(command)
}

/// Whether this manager runs and is not about to end, so that it can be asked something.
pub fn manager_runs(world: &World, user: Option<&str>) -> Result<bool> {
    if !Path::new("/run/systemd/system").exists() {
        return Ok(false);
    }
    let Some(user) = user else { return Ok(true) };
    let Some(account) = Account::by_name(user)? else { return Ok(false) };
    let unit = format!("user@{}.service", account.uid);
    let deadline = Instant::now() + LONGEST_WAIT;
    loop {
        let state = world.look(&systemctl(&["is-active", &unit], None)?)?;
        match state.stdout.text().trim() {
            "active" | "reloading" => return Ok(private_socket(&account).exists()),
            // Lingering was just switched on.
            "activating" if Instant::now() < deadline => {
                world.processes.check_interruption()?;
                world.processes.pause(BETWEEN_LOOKS);
            }
            _ => return Ok(false),
        }
    }
}

/// Where a user's manager listens.
fn private_socket(account: &Account) -> PathBuf {
    Path::new("/run/user").join(account.uid.to_string()).join("systemd/private")
}

/// Runs `systemctl` with these words. A user's manager that ends meanwhile has nothing to do any more.
fn ask(world: &World, words: &[&str], user: Option<&str>) -> Result<()> {
    let program = if user.is_some() { "systemctl --user" } else { "systemctl" };
    let label = format!("{program} {}", shell_words::join(words));
    let Err(error) = succeeded(&world.run(&systemctl(words, user)?, &label)?, &label) else { return Ok(()) };
    match user {
        Some(_) if !manager_runs(world, user)? => Ok(()),
        Some(user) => Err(error.context(format!("cannot use the service manager of `{user}`"))),
        None => Err(error),
    }
}

/// Lets the manager read its unit files again.
pub fn reload(world: &World, user: Option<&str>) -> Result<()> {
    ask(world, &["daemon-reload"], user)
}

/// Whether a unit runs, or changes to or from it.
pub fn is_active(world: &World, unit: &str, user: Option<&str>) -> Result<bool> {
    let state = world.look(&systemctl(&["is-active", unit], user)?)?;
    Ok(matches!(state.stdout.text().trim(), "active" | "activating" | "reloading" | "deactivating"))
}

/// Restarts those of the units that are loaded and active, and returns them; one that is gone or does not run is left
/// alone.
pub fn restart_active(world: &World, units: &[String], user: Option<&str>) -> Result<Vec<Unit>> {
    let mut restarted = Vec::new();
    for name in units {
        if is_active(world, name, user)? {
            ask(world, &["restart", name], user)?;
            restarted.push(Unit::new(name, user));
        }
    }
    Ok(restarted)
}

/// Waits until units that were just restarted have stayed active: a service counts as started before its program has read
/// its settings.
///
/// # Errors
/// When one does not stay active.
pub fn prove_active(world: &World, restarted: Vec<Unit>) -> Result<()> {
    let mut lasting = Vec::new();
    for unit in restarted {
        // A manager that ended meanwhile has none. A oneshot is there to end.
        if manager_runs(world, unit.user.as_deref())? && unit.facts(world)?.is_some_and(|facts| !facts.ends) {
            lasting.push(unit);
        }
    }
    if lasting.is_empty() { Ok(()) } else { stay_active(world, &lasting, TRIAL) }
}

/// Watches units for this time: each must stay active as it is.
///
/// # Errors
/// When one does not: with the last lines of its log.
pub fn stay_active(world: &World, units: &[Unit], time: Duration) -> Result<()> {
    let mut first: Vec<Option<UnitFacts>> = vec![None; units.len()];
    let began = Instant::now();
    loop {
        for (unit, first) in units.iter().zip(&mut first) {
            world.processes.check_interruption()?;
            let Some(facts) = unit.facts(world)? else {
                bail!(Failure::new(format!("unit {} not found", unit.shown())).kind(FailureKind::Missing))
            };
            if facts.active_state != "active" {
                return Err(unit.unstable(world, &facts.sentence()));
            }
            let first = first.get_or_insert_with(|| facts.clone());
            if first.restarts != facts.restarts || first.main_pid != facts.main_pid {
                return Err(unit.unstable(world, &format!("it did not stay active: {}", facts.sentence())));
            }
        }
        let left = time.saturating_sub(began.elapsed());
        if left.is_zero() {
            return Ok(());
        }
        world.processes.pause(left.min(BETWEEN_LOOKS));
    }
}

/// Fails with a command's last output when it did not end with 0.
pub fn succeeded(ended: &Ended, label: &str) -> Result<()> {
    if ended.is_success() {
        return Ok(());
    }
    let mut failure = Failure::new(format!("`{label}` {}", ended.status)).kind(FailureKind::Command);
    failure.code = ended.status.code();
    failure.output.clone_from(&ended.tail);
    bail!(failure)
}

/// The full name of a unit: without a suffix it is a service.
pub fn full_name(unit: &str) -> String {
    const KINDS: [&str; 11] = [
        ".automount",
        ".device",
        ".mount",
        ".path",
        ".scope",
        ".service",
        ".slice",
        ".socket",
        ".swap",
        ".target",
        ".timer",
    ];
    if KINDS.iter().any(|kind| unit.ends_with(kind)) { unit.to_owned() } else { format!("{unit}.service") }
}

/// A unit and whose manager it is one of.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Unit {
    /// Its full name.
    pub name: String,
    /// The user whose manager is meant; none for the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// What a manager reports of a unit that it knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnitFacts {
    /// `loaded`, `masked`, `bad-setting`, `error`, …
    pub load_state: String,
    /// `active`, `inactive`, `failed`, `activating`, …
    pub active_state: String,
    /// The same in the words of the unit's kind: `running`, `exited`, `auto-restart`, …
    pub sub_state: String,
    /// How it ended last: `success`, `exit-code`, …
    pub result: String,
    /// Its file, if it has one.
    pub path: String,
    /// The number of its main process; 0 for none.
    pub main_pid: i64,
    /// How often it was restarted after it ended.
    pub restarts: i64,
    /// Its file is not the one that the manager has read.
    pub needs_reload: bool,
    /// It is started to end, and inactive then: `Type=oneshot` without `RemainAfterExit`.
    pub ends: bool,
    /// Its main process has run and ended since the manager loaded it.
    pub has_run: bool,
}

impl UnitFacts {
    /// Of a unit whose manager does not run.
    fn not_loaded() -> Self {
        Self {
            load_state: "unloaded".to_owned(),
            active_state: "inactive".to_owned(),
            sub_state: "dead".to_owned(),
            ..Self::default()
        }
    }

    /// Whether it runs, or is about to.
    pub fn is_running(&self) -> bool {
        matches!(self.active_state.as_str(), "active" | "activating" | "reloading" | "refreshing")
    }

    /// Whether it was started and did all that it is there for: a oneshot that succeeded is inactive again.
    pub fn has_succeeded(&self) -> bool {
        self.has_run && self.has_ended_well()
    }

    /// The same of one that was just started: once it has ended, a manager forgets what nothing refers to.
    pub fn has_ended_well(&self) -> bool {
        self.ends && self.active_state == "inactive" && self.result == "success"
    }

    /// One line for messages.
    pub fn sentence(&self) -> String {
        let mut parts = vec![format!("{} ({})", self.active_state, self.sub_state)];
        if !matches!(self.result.as_str(), "" | "success") {
            parts.push(format!("result {}", self.result));
        }
        if self.restarts > 0 {
            parts.push(format!("restarted {} times", self.restarts));
        }
        parts.join(", ")
    }
}

impl Unit {
    /// The unit of this name, a service if the name has no suffix.
    pub fn new(name: &str, user: Option<&str>) -> Self {
        Self { name: full_name(name), user: user.map(str::to_owned) }
    }

    /// The unit that this name means: another one if it is an alias, which is a link to a unit file of another name.
    #[must_use]
    pub fn behind_alias(self) -> Self {
        if self.user.is_some() {
            return self;
        }
        let linked = UNIT_PATHS.iter().find_map(|place| {
            let path = Path::new(place).join(&self.name);
            std::fs::symlink_metadata(&path).ok().map(|_| std::fs::read_link(&path).ok())
        });
        let file = linked.flatten().and_then(|to| Some(to.file_name()?.to_str()?.to_owned()));
        // A mask is a link to `/dev/null`; an instance is not its template.
        match file {
            Some(name) if full_name(&name) == name && !name.contains("@.") => Self { name, ..self },
            _ => self,
        }
    }

    /// The target: the side of it that the desired state is about.
    pub fn target(&self, desired: DesiredUnit) -> Target {
        Target::Unit { user: self.user.clone(), name: self.name.clone(), aspect: desired.aspect() }
    }

    /// Its name in messages.
    pub fn shown(&self) -> String {
        match &self.user {
            Some(user) => format!("{} of {user}", self.name),
            None => self.name.clone(),
        }
    }

    /// Whether the user whose manager is meant is still there.
    pub fn has_manager_ever(&self) -> Result<bool> {
        self.user.as_deref().map_or(Ok(true), |user| Ok(Account::by_name(user)?.is_some()))
    }

    pub(super) fn command(&self, words: &[&str]) -> Result<Command> {
        let mut command = systemctl(words, self.user.as_deref())?;
        command.timeout = Some(LONGEST_LOOK);
        Ok(command)
    }

    /// A command about files alone: a user's manager, which may be about to end, is not asked.
    fn command_about_files(&self, words: &[&str]) -> Result<Command> {
        let mut command = self.command(words)?;
        if self.user.is_some() {
            command.env.push(("SYSTEMD_OFFLINE".into(), "1".into()));
        }
        Ok(command)
    }

    /// Where a user's manager listens.
    pub(super) fn private_socket(&self) -> Result<Option<PathBuf>> {
        let Some(user) = &self.user else { return Ok(None) };
        Ok(Some(private_socket(&Account::existing(user)?)))
    }

    /// Waits until the user's manager answers, which takes a moment after lingering was switched on.
    fn wait_for_manager(&self, world: &World) -> Result<()> {
        let (Some(socket), Some(user)) = (self.private_socket()?, &self.user) else { return Ok(()) };
        let lingers = || Path::new("/var/lib/systemd/linger").join(user).exists();
        let deadline = Instant::now() + LONGEST_WAIT;
        while !socket.exists() {
            if !lingers() || Instant::now() >= deadline {
                bail!(
                    Failure::new(format!("the service manager of `{user}` does not run"))
                        .kind(FailureKind::Missing)
                        .hint("start it and keep it running without a login with `user::linger`")
                );
            }
            world.processes.check_interruption()?;
            world.processes.pause(BETWEEN_LOOKS);
        }
        Ok(())
    }

    /// What the manager reports of the unit; `None` if there is none of this name.
    pub fn facts(&self, world: &World) -> Result<Option<UnitFacts>> {
        if self.private_socket()?.is_some_and(|socket| !socket.exists()) {
            let is_there = !self.enablement(world)?.is_empty();
            return Ok(is_there.then(UnitFacts::not_loaded));
        }
        let label = format!("systemctl show {}", self.name);
        let ended = world.look(&self.command(&["show", PROPERTIES, "--", &self.name])?)?;
        succeeded(&ended, &label)?;
        let text = ended.stdout.text();
        let mut facts = UnitFacts::default();
        let (mut is_oneshot, mut remains) = (false, false);
        for (name, value) in text.lines().filter_map(|line| line.split_once('=')) {
            let number = || value.parse().unwrap_or_default();
            match name {
                "LoadState" => value.clone_into(&mut facts.load_state),
                "ActiveState" => value.clone_into(&mut facts.active_state),
                "SubState" => value.clone_into(&mut facts.sub_state),
                "Result" => value.clone_into(&mut facts.result),
                "FragmentPath" => value.clone_into(&mut facts.path),
                "MainPID" => facts.main_pid = number(),
                "NRestarts" => facts.restarts = number(),
                "NeedDaemonReload" => facts.needs_reload = value == "yes",
                "Type" => is_oneshot = value == "oneshot",
                "RemainAfterExit" => remains = value == "yes",
                "ExecMainExitTimestampMonotonic" => facts.has_run = !matches!(value, "" | "0"),
                _ => {}
            }
        }
        facts.ends = is_oneshot && !remains;
        if facts.load_state.is_empty() {
            bail!(
                Failure::new(format!("`{label}` reported nothing: no service manager runs here"))
                    .kind(FailureKind::Missing)
            );
        }
        // What still runs without its file is known, too.
        let known = facts.load_state != "not-found" || facts.is_running() || facts.active_state == "failed";
        Ok(known.then_some(facts))
    }

    /// Whether it runs, or is about to.
    pub fn is_running(&self, world: &World) -> Result<bool> {
        Ok(self.facts(world)?.is_some_and(|facts| facts.is_running()))
    }

    /// What its files say: `enabled`, `disabled`, `static`, `masked`, `linked`, …; empty when there are none.
    pub fn enablement(&self, world: &World) -> Result<String> {
        let ended = world.look(&self.command_about_files(&["is-enabled", "--", &self.name])?)?;
        let state = ended.stdout.text().lines().last().unwrap_or_default().trim().to_owned();
        let is_missing = state == "not-found"
            || (state.is_empty() && ended.stderr.text().contains("No such file or directory"));
        if is_missing {
            return Ok(String::new());
        }
        if state.is_empty() {
            succeeded(&ended, &format!("systemctl is-enabled {}", self.name))?;
        }
        // Instances of a template are enabled each by itself.
        let is_instance = self.name.contains("@.") && state == "indirect";
        Ok(if is_instance { "disabled".to_owned() } else { state })
    }

    /// Runs `systemctl VERB` on its files.
    pub fn edit_files(&self, world: &World, words: &[&str], name: &str) -> Result<()> {
        let mut all = words.to_vec();
        all.extend(["--", name]);
        let mut command = self.command_about_files(&all)?;
        command.timeout = Some(LONGEST_JOB);
        let label = format!("systemctl {} {name}", words.join(" "));
        succeeded(&world.run(&command, &label)?, &label)?;
        if self.private_socket()?.is_some_and(|socket| socket.exists()) {
            let ended = world.look(&self.command(&["daemon-reload"])?)?;
            if let Err(error) = succeeded(&ended, "systemctl --user daemon-reload") {
                world.reporter.note(format!(
                    "{error}: it will read its files when it starts again",
                    error = sentence(&error)
                ));
            }
        }
        Ok(())
    }

    /// Removes the links that would start it at boot, which works for a unit whose file is gone.
    pub fn remove_links(&self, world: &World) -> Result<()> {
        let label = format!("systemctl disable {}", self.name);
        succeeded(&world.look(&self.command_about_files(&["disable", "--", &self.name])?)?, &label)
    }

    /// Starts it and waits until it is active, or has done its work.
    ///
    /// # Errors
    /// When it does not become active: with the last lines of its log.
    pub fn start(&self, world: &World) -> Result<()> {
        self.run_job(world, "start")
    }

    /// Starts, restarts or reloads it, as `verb` says, and waits until it is active.
    ///
    /// # Errors
    /// As [`Unit::start`].
    pub fn run_job(&self, world: &World, verb: &str) -> Result<()> {
        self.wait_for_manager(world)?;
        let facts = self.facts(world)?.unwrap_or_default();
        if facts.needs_reload {
            reload(world, self.user.as_deref())?;
        }
        self.forget_failure(world, &facts)?;
        self.job(world, verb).map_err(|error| match error.downcast::<Failure>() {
            Ok(failure) if facts.load_state == "masked" => {
                failure.hint(format!("`unit::unmask(\"{}\")` lets it be started again", self.name)).into()
            }
            Ok(failure) => self.with_log(world, failure).into(),
            Err(error) => error,
        })?;
        let deadline = Instant::now() + LONGEST_WAIT;
        loop {
            let facts = self.facts(world)?.unwrap_or_default();
            match facts.active_state.as_str() {
                "active" | "reloading" | "refreshing" => return Ok(()),
                _ if facts.has_ended_well() => return Ok(()),
                "activating" if Instant::now() < deadline => {
                    world.processes.check_interruption()?;
                    world.processes.pause(BETWEEN_LOOKS);
                }
                _ => {
                    let text = format!(
                        "{} is not active after `systemctl {verb}`: {}",
                        self.shown(),
                        facts.sentence()
                    );
                    bail!(self.with_log(world, Failure::new(text).kind(FailureKind::Unit)))
                }
            }
        }
    }

    /// Stops it; what it failed with meanwhile is forgotten.
    pub fn stop(&self, world: &World) -> Result<()> {
        self.job(world, "stop")?;
        match self.facts(world)? {
            Some(facts) => self.forget_failure(world, &facts),
            None => Ok(()),
        }
    }

    /// A failed unit refuses to start once its limit is reached.
    pub fn forget_failure(&self, world: &World, facts: &UnitFacts) -> Result<()> {
        if facts.active_state != "failed" {
            return Ok(());
        }
        let label = format!("systemctl reset-failed {}", self.name);
        succeeded(&world.look(&self.command(&["reset-failed", "--", &self.name])?)?, &label)
    }

    fn job(&self, world: &World, verb: &str) -> Result<()> {
        let mut command = self.command(&[verb, "--", &self.name])?;
        command.timeout = Some(LONGEST_JOB);
        let label = format!("systemctl {verb} {}", self.name);
        succeeded(&world.run(&command, &label)?, &label)
    }

    /// The failure of a unit that does not stay active, with its last words.
    fn unstable(&self, world: &World, why: &str) -> anyhow::Error {
        let log = self.log(world);
        let own = log.iter().rev().find(|line| !line.contains(" systemd["));
        let last = own.or(log.last()).map_or_else(String::new, |line| format!(" (last in its log: {line})"));
        let mut failure = Failure::new(format!("{}: {why}{last}", self.shown())).kind(FailureKind::Unit);
        failure.output = log;
        failure.into()
    }

    /// The last lines of its log, and of the files to which its output goes.
    pub fn log(&self, world: &World) -> Vec<String> {
        let mut lines = self.journal(world);
        for path in self.output_files(world) {
            match last_lines(&path) {
                Ok(last) => lines.extend(last),
                Err(error) => {
                    lines.push(format!(
                        "cannot read `{}`: {error}",
                        path.display(),
                        error = sentence(&error)
                    ));
                }
            }
        }
        lines
    }

    /// The files that its standard output and error are written to. `systemctl show` does not name them.
    fn output_files(&self, world: &World) -> BTreeSet<PathBuf> {
        let Ok(command) = self.command(&["cat", "--", &self.name]) else { return BTreeSet::new() };
        let Ok(ended) = world.look(&command) else { return BTreeSet::new() };
        let text = ended.stdout.text();
        let assigned = |name: &str| {
            let mut values = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            let value = values.next_back()?.trim();
            let path = ["append:", "file:", "truncate:"].iter().find_map(|kind| value.strip_prefix(kind))?;
            // One with a specifier is known to systemd alone.
            (!path.contains('%')).then(|| PathBuf::from(path))
        };
        ["StandardOutput", "StandardError"].into_iter().filter_map(assigned).collect()
    }

    fn journal(&self, world: &World) -> Vec<String> {
        let unit = if self.user.is_some() { "--user-unit" } else { "--unit" };
        // A user may not be allowed to read the journal: kkrun asks as root.
        let mut command = Command::new([
            "journalctl",
            "--no-pager",
            "--quiet",
            "--output=short",
            "-n",
            &LOG_LINES.to_string(),
        ]);
        command.argv.extend([format!("{unit}={}", self.name).into()]);
        if let Some(Ok(Some(account))) = self.user.as_deref().map(Account::by_name) {
            command.argv.push(format!("_UID={}", account.uid).into());
        }
        command.timeout = Some(LONGEST_LOOK);
        match world.look(&command) {
            Ok(ended) => ended.stdout.text().lines().map(str::to_owned).collect(),
            Err(error) => vec![sentence(&error)],
        }
    }

    /// The failure with the end of the unit's log.
    fn with_log(&self, world: &World, mut failure: Failure) -> Failure {
        failure.output.extend(self.log(world));
        let user = if self.user.is_some() { "--user-unit" } else { "--unit" };
        failure.hint(format!("`journalctl {user} {}` shows all of its log", self.name))
    }
}

/// The last lines of a file. The service may own its directory, so a link in its place is not followed.
fn last_lines(path: &Path) -> Result<Vec<String>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        bail!("it is not a file");
    }
    file.seek(SeekFrom::Start(metadata.len().saturating_sub(LOG_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
    Ok(last.iter().map(|line| (*line).to_owned()).collect())
}

/// Checks a unit file as the manager would; `Err` with every fault.
pub fn verify_file(world: &World, path: &Path, user: Option<&str>) -> Result<Result<(), Vec<String>>> {
    let shown = path.display().to_string();
    let words = ["verify", "--man=no", "--recursive-errors=no", &shown];
    let mut command = addressed("systemd-analyze", &words, user)?;
    command.timeout = Some(LONGEST_LOOK);
    let ended = world.look(&command)?;
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let text = ended.stderr.text();
    // Its reports about other units do not count.
    let about: Vec<String> = text.lines().filter(|line| line.contains(&name)).map(str::to_owned).collect();
    Ok(match (ended.is_success(), about.is_empty()) {
        (true, true) => Ok(()),
        (false, true) => Err(ended.tail.clone()),
        (_, false) => Err(about),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_kind_is_a_services() {
        assert_eq!(full_name("nginx"), "nginx.service");
        assert_eq!(full_name("user@1000"), "user@1000.service");
        assert_eq!(full_name("a.timer"), "a.timer");
        assert_eq!(
            Unit::new("x", Some("kim")).target(DesiredUnit::Started).to_string(),
            "unit:~kim/x.service/activity"
        );
    }

    #[test]
    fn facts_are_shown_in_a_sentence() {
        let facts = UnitFacts {
            active_state: "activating".to_owned(),
            sub_state: "auto-restart".to_owned(),
            result: "exit-code".to_owned(),
            restarts: 3,
            ..UnitFacts::default()
        };
        assert_eq!(facts.sentence(), "activating (auto-restart), result exit-code, restarted 3 times");
    }
}
