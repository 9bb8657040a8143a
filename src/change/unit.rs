//! Units of the service manager, the system's or a user's: whether they start by themselves, whether they run.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Kind, OnDoubt, Position, UndoTerms, Undone, World, state_value};
use crate::failure::Failure;
use crate::journal::Undoing;
use crate::machine::account::Account;
use crate::machine::process::{Command, Ended};

/// How long a user's manager is waited for after lingering was switched on.
const USER_MANAGER_STARTS: Duration = Duration::from_secs(10);
/// How long a unit may take to start or stop.
const LONGEST_JOB: Duration = Duration::from_secs(180);

/// Which unit, of which manager.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitName {
    /// The unit's name with its type.
    pub name: String,
    /// The user whose manager is meant; none for the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// What the service manager says of a unit. Source: systemctl(1), `show`.
#[derive(Clone, Debug, Default)]
pub struct UnitFacts(BTreeMap<String, String>);

impl UnitFacts {
    /// Asks the manager.
    pub fn of(world: &World, unit: &UnitName) -> Result<Self> {
        const PROPERTIES: &str = "--property=LoadState,ActiveState,SubState,UnitFileState,MainPID,NRestarts,\
                                  NeedDaemonReload,FragmentPath,Result";
        let ended = world.look(&systemctl(&["show", PROPERTIES, "--", &unit.name], unit.user.as_deref())?)?;
        succeeded(&ended, &format!("systemctl show {}", unit.name))?;
        let text = ended.stdout.text();
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        Ok(Self(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()))
    }

    /// A property's value; empty when it has none.
    pub fn get(&self, property: &str) -> &str {
        self.0.get(property).map_or("", String::as_str)
    }

    /// Whether there is such a unit.
    pub fn is_there(&self) -> bool {
        self.get("LoadState") != "not-found"
    }

    /// Whether it runs or is about to.
    pub fn is_active(&self) -> bool {
        matches!(self.get("ActiveState"), "active" | "activating" | "reloading")
    }

    /// `enabled`, `disabled`, `static`, `masked`, …; `absent` when there is no unit file.
    pub fn enablement(&self) -> &str {
        match self.get("UnitFileState") {
            "" => "absent",
            state => state,
        }
    }
}

/// What is wished of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitWish {
    /// It starts by itself.
    Enabled,
    /// It does not.
    Disabled,
    /// It cannot be started at all.
    Masked,
    /// It runs.
    Started,
    /// It does not.
    Stopped,
}

impl UnitWish {
    fn verb(self) -> &'static str {
        match self {
            Self::Enabled => "enable",
            Self::Disabled => "disable",
            Self::Masked => "mask",
            Self::Started => "start",
            Self::Stopped => "stop",
        }
    }

    fn is_of_activity(self) -> bool {
        matches!(self, Self::Started | Self::Stopped)
    }

    /// The state that fulfils it.
    fn state(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
            Self::Masked => "masked",
            Self::Started => "active",
            Self::Stopped => "inactive",
        }
    }

    /// Whether a unit in this state needs nothing done.
    fn holds(self, state: &str) -> bool {
        match self {
            // A unit without an install section starts when another wants it: there is nothing to enable.
            Self::Enabled => matches!(state, "enabled" | "static" | "alias" | "generated" | "indirect"),
            Self::Disabled => matches!(state, "disabled" | "static" | "masked" | "absent"),
            Self::Masked => matches!(state, "masked" | "masked-runtime"),
            Self::Started | Self::Stopped => state == self.state(),
        }
    }
}

/// What undoing needs besides the state from before.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UnitInverse {
    #[serde(flatten)]
    unit: UnitName,
    aspect: Aspect,
}

/// Which of a unit's two states is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Aspect {
    Enablement,
    Activity,
}

/// A change to whether a unit starts by itself, or to whether it runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UnitChange {
    before: String,
    after: String,
    inverse: UnitInverse,
}

impl UnitChange {
    /// The change that fulfils `wish`; `None` when it is fulfilled.
    ///
    /// # Errors
    /// When there is no such unit, or it cannot be what is wished.
    pub fn towards(world: &World, unit: &UnitName, wish: UnitWish) -> Result<Option<Self>> {
        let facts = UnitFacts::of(world, unit)?;
        if !facts.is_there() && !matches!(wish, UnitWish::Disabled | UnitWish::Stopped) {
            bail!(Failure::new(format!("there is no unit `{}`", unit.name)).kind("missing"));
        }
        let aspect = if wish.is_of_activity() { Aspect::Activity } else { Aspect::Enablement };
        let state = aspect.state(&facts);
        if wish.holds(&state) {
            return Ok(None);
        }
        if wish != UnitWish::Disabled && state == "masked" {
            bail!(
                Failure::new(format!(
                    "the unit `{}` is masked, so it cannot be {}ed",
                    unit.name,
                    wish.verb()
                ))
                .hint(format!("somebody wanted it so; `systemctl unmask {}` takes that back", unit.name))
            );
        }
        let inverse = UnitInverse { unit: unit.clone(), aspect };
        Ok(Some(Self { before: state, after: wish.state().to_owned(), inverse }))
    }

    /// Fulfils the wish.
    pub fn act(&self, world: &mut World, wish: UnitWish) -> Result<()> {
        let unit = &self.inverse.unit;
        wait_for_user_manager(world, unit.user.as_deref())?;
        if UnitFacts::of(world, unit)?.get("NeedDaemonReload") == "yes" {
            reload(world, unit.user.as_deref())?;
        }
        self.control(world, wish.verb())
    }

    fn control(&self, world: &World, verb: &str) -> Result<()> {
        let unit = &self.inverse.unit;
        let label =
            format!("systemctl {}{verb} {}", if unit.user.is_some() { "--user " } else { "" }, unit.name);
        let mut command = systemctl(&[verb, "--", &unit.name], unit.user.as_deref())?;
        command.timeout = Some(LONGEST_JOB);
        let ended = world.run(&command, &label)?;
        if ended.is_success() {
            return Ok(());
        }
        let mut failure = Failure::new(format!("`{label}` {}", ended.status)).kind("command");
        failure.code = ended.status.code();
        failure.output.clone_from(&ended.tail);
        failure.output.extend(last_words(world, unit));
        bail!(failure)
    }

    fn state(&self, world: &World) -> Result<String> {
        Ok(self.inverse.aspect.state(&UnitFacts::of(world, &self.inverse.unit)?))
    }

    fn wish(&self) -> Option<UnitWish> {
        let wishes =
            [UnitWish::Enabled, UnitWish::Disabled, UnitWish::Masked, UnitWish::Started, UnitWish::Stopped];
        wishes.into_iter().find(|wish| wish.state() == self.after)
    }
}

impl Aspect {
    fn state(self, facts: &UnitFacts) -> String {
        match self {
            Self::Enablement => facts.enablement().to_owned(),
            Self::Activity => if facts.is_active() { "active" } else { "inactive" }.to_owned(),
        }
    }
}

impl Kind for UnitChange {
    fn target(&self) -> String {
        let aspect = match self.inverse.aspect {
            Aspect::Enablement => "enablement",
            Aspect::Activity => "activity",
        };
        let of = self.inverse.unit.user.as_ref().map_or_else(String::new, |user| format!("{user}/"));
        format!("unit:{of}{}/{aspect}", self.inverse.unit.name)
    }

    fn summary(&self) -> String {
        let verb = self.wish().map_or("change", UnitWish::verb);
        let of = self.inverse.unit.user.as_ref().map_or_else(String::new, |user| format!(" of {user}"));
        format!("{verb} {}{of}", self.inverse.unit.name)
    }

    fn on_doubt(&self) -> OnDoubt {
        OnDoubt::ActAgain
    }

    fn foreign(&self, accepted: &Value, _world: &World) -> Option<String> {
        let accepted = accepted.as_str()?;
        let is_volatile = self.inverse.aspect == Aspect::Activity;
        if is_volatile || accepted == self.before || self.before == "absent" {
            return None;
        }
        Some(format!("kkrun left it {accepted}, it is {} now", self.before))
    }

    fn position(&self, world: &World) -> Result<Position> {
        let now = self.state(world)?;
        Ok(if self.wish().is_some_and(|wish| wish.holds(&now)) {
            Position::After
        } else if now == self.before {
            Position::Before
        } else {
            Position::Neither(format!(
                "{} is {now}, neither {} nor {}",
                self.inverse.unit.name, self.before, self.after
            ))
        })
    }

    fn accepted(&self, world: &World) -> Result<BTreeMap<String, Value>> {
        let now = self.state(world)?;
        if !self.wish().is_some_and(|wish| wish.holds(&now)) {
            let mut failure =
                Failure::new(format!("`{}` is {now}, not {}", self.inverse.unit.name, self.after));
            failure.output = last_words(world, &self.inverse.unit);
            bail!(failure);
        }
        Ok([(self.target(), state_value(&now))].into())
    }

    fn undo(&self, world: &mut World, terms: UndoTerms<'_>) -> Result<Undone> {
        let unit = &self.inverse.unit;
        if let Some(user) = &unit.user
            && Account::by_name(user)?.is_none()
        {
            return Ok(Undone::Back(Undoing::Already, [(self.target(), state_value(&self.before))].into()));
        }
        if !terms.only_looking {
            wait_for_user_manager(world, unit.user.as_deref())?;
        }
        let facts = UnitFacts::of(world, unit)?;
        let now = self.inverse.aspect.state(&facts);
        let is_gone = !facts.is_there() && (now == "absent" || now == "inactive");
        if now == self.before || is_gone {
            return Ok(Undone::Back(Undoing::Already, [(self.target(), state_value(&now))].into()));
        }
        let accepted = terms.accepted.and_then(Value::as_str).unwrap_or(&self.after);
        if self.inverse.aspect == Aspect::Enablement && now != accepted && !terms.force {
            return Ok(Undone::Conflict(format!("kkrun left it {accepted}, it is {now} now")));
        }
        if terms.only_looking {
            return Ok(Undone::Back(Undoing::Restored, BTreeMap::new()));
        }
        if self.after == "masked" {
            self.control(world, "unmask")?;
        }
        match self.before.as_str() {
            "enabled" => self.control(world, "enable")?,
            "disabled" | "absent" if self.after == "enabled" => self.control(world, "disable")?,
            "masked" => self.control(world, "mask")?,
            "active" => self.control(world, "start")?,
            "inactive" => self.control(world, "stop")?,
            _ => {}
        }
        let now = self.state(world)?;
        Ok(Undone::Back(Undoing::Restored, [(self.target(), state_value(&now))].into()))
    }
}

/// `systemctl` with these words, for the system's manager or that of `user`.
pub(crate) fn systemctl(words: &[&str], user: Option<&str>) -> Result<Command> {
    let mut argv = vec!["systemctl", "--no-pager"];
    if user.is_some() {
        argv.push("--user");
    }
    argv.extend(words);
    let mut command = Command::new(argv);
    if let Some(user) = user {
        command.user = Some(Account::existing(user)?);
    }
    Ok(command)
}

/// Lingering starts a user's manager a moment later.
fn wait_for_user_manager(world: &World, user: Option<&str>) -> Result<()> {
    let Some(user) = user else { return Ok(()) };
    let account = Account::existing(user)?;
    let socket = format!("/run/user/{}/systemd/private", account.uid);
    let deadline = std::time::Instant::now() + USER_MANAGER_STARTS;
    while !Path::new(&socket).exists() {
        world.processes.check_interruption()?;
        if std::time::Instant::now() >= deadline {
            bail!(
                Failure::new(format!("the service manager of `{user}` does not run"))
                    .hint(format!("user::linger(\"{user}\") starts it without a login"))
            );
        }
        world.processes.pause(Duration::from_millis(50));
    }
    Ok(())
}

/// Lets the manager read its unit files again.
pub fn reload(world: &World, user: Option<&str>) -> Result<()> {
    let label = if user.is_some() { "systemctl --user daemon-reload" } else { "systemctl daemon-reload" };
    succeeded(&world.run(&systemctl(&["daemon-reload"], user)?, label)?, label)
}

/// Restarts a unit if it is loaded and active; one that is gone or does not run is left alone.
pub fn restart_if_active(world: &World, unit: &str, user: Option<&str>) -> Result<()> {
    let named = UnitName { name: unit.to_owned(), user: user.map(str::to_owned) };
    let state = world.look(&systemctl(&["is-active", "--", unit], user)?)?;
    if !matches!(state.stdout.text().trim(), "active" | "activating" | "reloading" | "deactivating") {
        return Ok(());
    }
    let label = format!("systemctl restart {unit}");
    let ended = world.run(&systemctl(&["restart", "--", unit], user)?, &label)?;
    if ended.is_success() {
        return Ok(());
    }
    let mut failure = Failure::new(format!("`{label}` {}", ended.status)).kind("command");
    failure.output = last_words(world, &named);
    bail!(failure)
}

/// What a unit last said, for an error about it; nothing where there is no log to ask.
fn last_words(world: &World, unit: &UnitName) -> Vec<String> {
    let Ok(command) = systemctl(&["status", "--lines=15", "--full", "--", &unit.name], unit.user.as_deref())
    else {
        return Vec::new();
    };
    let said = world.look(&command).map(|ended| ended.stdout.text()).unwrap_or_default();
    said.lines().map(|line| crate::text::printable(line).into_owned()).collect()
}

/// Fails with a command's last output when it did not end with 0.
pub fn succeeded(ended: &Ended, label: &str) -> Result<()> {
    if ended.is_success() {
        return Ok(());
    }
    let mut failure = Failure::new(format!("`{label}` {}", ended.status)).kind("command");
    failure.code = ended.status.code();
    failure.output.clone_from(&ended.tail);
    bail!(failure)
}
