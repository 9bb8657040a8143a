//! Units of the service manager: whether they are started at boot, and whether they run.
//!
//! Enablement is a decision: what was modified outside kkrun is a conflict. Whether a unit runs is volatile: a restart of
//! the machine and a crash change it, and many things start a unit. Only a unit that ran in this boot and ended
//! without a failure was stopped by a decision.

mod links;
mod manager;
mod needs;

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use links::Links;
pub use manager::{
    Unit, UnitFacts, full_name, is_active, manager_runs, prove_active, reload, restart_active, stay_active,
    succeeded, verify_file,
};

use super::{Kind, OnDoubt, Payload, Position, UndoTerms, Undone, World, state_value};
use crate::event::Modification;
use crate::failure::{Failure, FailureKind};
use crate::journal::Undoing;
use crate::target::{Aspect, States, Target};

/// The desired state of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DesiredUnit {
    /// Started at boot, or by what else its file says.
    Enabled,
    /// Not started at boot.
    Disabled,
    /// Impossible to start.
    Masked,
    /// Not masked; whether it is enabled is as its links say.
    Unmasked,
    /// Running.
    Started,
    /// Not running.
    Stopped,
}

/// The state of one side of a unit, in the form that the journal and the ledger hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "side", rename_all = "snake_case")]
pub enum UnitState {
    /// What its files say, in the words of `systemctl is-enabled`; empty when it has none.
    Enablement {
        /// The word.
        is: String,
    },
    /// Whether it runs.
    Activity {
        /// It does, or is about to.
        running: bool,
    },
}

impl UnitState {
    fn in_words(&self) -> &str {
        match self {
            Self::Enablement { is } if is.is_empty() => "no such unit",
            Self::Enablement { is } => is,
            Self::Activity { running: true } => "running",
            Self::Activity { running: false } => "not running",
        }
    }
}

/// What undoing it needs besides the states.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UnitInverse {
    unit: Unit,
    desired: DesiredUnit,
    /// The file that the administrator's link points to, for a unit that was only linked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    linked: Option<String>,
    /// The links before, of a unit of the system that is enabled or disabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    links: Option<Links>,
    /// The units that it needs and that did not run before it was started.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    needs: Vec<Unit>,
    /// The units that ran before and that its start or its stop stops, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    stopped_along: Vec<Unit>,
    /// It is a user's, and did not run when it was enabled.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    idle: bool,
}

/// A change to one side of a unit.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UnitChange {
    before: UnitState,
    after: UnitState,
    inverse: UnitInverse,
    /// There is no such unit.
    #[serde(skip)]
    about_nothing: bool,
}

impl DesiredUnit {
    /// The state that is desired, as it will be observed.
    fn state(self) -> UnitState {
        let enablement = |is: &str| UnitState::Enablement { is: is.to_owned() };
        match self {
            Self::Enabled => enablement("enabled"),
            Self::Disabled => enablement("disabled"),
            Self::Masked => enablement("masked"),
            Self::Unmasked => enablement("unmasked"),
            Self::Started => UnitState::Activity { running: true },
            Self::Stopped => UnitState::Activity { running: false },
        }
    }

    /// The side of the unit that it is about.
    pub fn aspect(self) -> Aspect {
        match self {
            Self::Enabled | Self::Disabled | Self::Masked | Self::Unmasked => Aspect::Enablement,
            Self::Started | Self::Stopped => Aspect::Activity,
        }
    }

    /// What `systemctl` calls the way there.
    pub fn verb(self) -> &'static str {
        match self {
            Self::Enabled => "enable",
            Self::Disabled => "disable",
            Self::Masked => "mask",
            Self::Unmasked => "unmask",
            Self::Started => "start",
            Self::Stopped => "stop",
        }
    }

    /// Whether this state is the desired one.
    fn holds(self, state: &UnitState) -> bool {
        match (self, state) {
            (Self::Enabled, UnitState::Enablement { is }) => matches!(is.as_str(), "enabled" | "alias"),
            (Self::Disabled, UnitState::Enablement { is }) => {
                !matches!(is.as_str(), "enabled" | "enabled-runtime")
            }
            (Self::Unmasked, UnitState::Enablement { is }) => !is.starts_with("masked"),
            _ => self.state() == *state,
        }
    }
}

impl UnitChange {
    /// The change that brings a unit to `desired`; `None` if it is so already.
    pub fn towards(world: &World, unit: Unit, desired: DesiredUnit) -> Result<Option<Self>> {
        let before = state_now(world, &unit, &desired.state())?;
        if let (DesiredUnit::Disabled, UnitState::Enablement { is }) = (desired, &before)
            && matches!(is.as_str(), "static" | "generated" | "transient")
        {
            let failure = Failure::new(format!("cannot disable {}: it is {is}", unit.shown()));
            bail!(failure.kind(FailureKind::Unit).hint(format!(
                "other units start it, not links of its own; `unit::mask(\"{}\")` prevents that",
                unit.name
            )));
        }
        let links = if matches!(desired, DesiredUnit::Enabled | DesiredUnit::Disabled) && unit.user.is_none()
        {
            Some(Links::of(&unit)?)
        } else {
            None
        };
        let lacks_links =
            desired == DesiredUnit::Enabled && links.as_ref().is_some_and(|links| links.lack_new(&unit));
        if desired.holds(&before) && !lacks_links
            || desired == DesiredUnit::Started && has_succeeded(world, &unit)?
        {
            return Ok(None);
        }
        let linked = match &before {
            UnitState::Enablement { is } if is.starts_with("linked") => {
                let link = unit.facts(world)?.map(|facts| facts.path);
                link.and_then(|link| std::fs::canonicalize(link).ok())
                    .map(|file| file.to_string_lossy().into_owned())
            }
            _ => None,
        };
        // A unit that does not run may have no file at all.
        let about_nothing = match &before {
            UnitState::Enablement { is } => is.is_empty() && desired == DesiredUnit::Enabled,
            UnitState::Activity { .. } => unit.facts(world)?.is_none(),
        };
        // A login starts units of a user only. Where no manager answers, nothing is known.
        let idle = desired == DesiredUnit::Enabled
            && unit.user.is_some()
            && is_running(world, &unit).is_ok_and(|is_running| !is_running);
        let (needs, stopped_along) = match desired {
            DesiredUnit::Started => (unit.needs_at_rest(world)?, unit.stopped_by_start(world)?),
            DesiredUnit::Stopped => (Vec::new(), unit.stopped_along(world)?),
            _ => (Vec::new(), Vec::new()),
        };
        let inverse = UnitInverse { unit, desired, linked, links, needs, stopped_along, idle };
        Ok(Some(Self { before, after: desired.state(), inverse, about_nothing }))
    }

    /// The change of a unit that ran and does not run any more.
    pub fn brought_down(unit: Unit) -> Self {
        let inverse = UnitInverse {
            unit,
            desired: DesiredUnit::Stopped,
            linked: None,
            links: None,
            needs: Vec::new(),
            stopped_along: Vec::new(),
            idle: false,
        };
        let (before, after) = (DesiredUnit::Started.state(), DesiredUnit::Stopped.state());
        Self { before, after, inverse, about_nothing: false }
    }

    /// The unit.
    pub fn unit(&self) -> &Unit {
        &self.inverse.unit
    }

    /// Whether it started the unit.
    pub fn is_start(&self) -> bool {
        self.inverse.desired == DesiredUnit::Started
    }

    /// Whether there is no such unit, as far as is known.
    pub fn is_about_nothing(&self) -> bool {
        self.about_nothing
    }

    fn explained(&self, error: anyhow::Error) -> anyhow::Error {
        let UnitState::Enablement { is } = &self.before else { return error };
        match error.downcast::<Failure>() {
            Ok(failure) if is.starts_with("masked") => {
                let hint = format!("`unit::unmask(\"{}\")` unmasks it", self.inverse.unit.name);
                failure.hint(hint).into()
            }
            Ok(failure) if self.inverse.desired == DesiredUnit::Masked => {
                let name = &self.inverse.unit.name;
                failure
                    .hint(format!("a mask takes the place of `/etc/systemd/system/{name}`: move that away"))
                    .into()
            }
            Ok(failure) => failure.into(),
            Err(error) => error,
        }
    }

    fn now(&self, world: &World) -> Result<UnitState> {
        state_now(world, &self.inverse.unit, &self.after)
    }

    /// Restores the state from before.
    fn restore(&self, world: &World, now: &UnitState) -> Result<()> {
        let unit = &self.inverse.unit;
        let UnitState::Enablement { is: before } = &self.before else {
            if self.before == DesiredUnit::Started.state() {
                unit.start(world)?;
            } else {
                unit.stop(world)?;
                self.inverse.needs.iter().try_for_each(|needed| needed.stop_if_not_needed(world))?;
            }
            return self.inverse.stopped_along.iter().try_for_each(|unit| unit.start_again(world));
        };
        let UnitState::Enablement { is } = now else { return Ok(()) };
        let edit = |words: &[&str]| unit.edit_files(world, words, &unit.name);
        if is == "masked" {
            edit(&["unmask"])?;
        } else if is == "masked-runtime" {
            edit(&["unmask", "--runtime"])?;
        }
        if let Some(links) = &self.inverse.links {
            links.restore(unit)?;
            return if manager_runs(world, None)? { reload(world, None) } else { Ok(()) };
        }
        let is = unit.enablement(world)?;
        if is == *before {
            return Ok(());
        }
        // A mask leaves the links alone: they count again when it goes.
        let is_linked =
            matches!(is.as_str(), "enabled" | "enabled-runtime" | "linked" | "linked-runtime" | "alias");
        if is_linked && self.inverse.desired != DesiredUnit::Unmasked {
            edit(&["disable"])?;
        }
        match before.as_str() {
            "enabled" => edit(&["enable"]),
            "enabled-runtime" => edit(&["enable", "--runtime"]),
            "masked" => edit(&["mask"]),
            "masked-runtime" => edit(&["mask", "--runtime"]),
            "linked" => match &self.inverse.linked {
                Some(path) => unit.edit_files(world, &["link"], path),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Whether it is about links alone: the unit was enabled before, too.
    fn adds_links(&self) -> bool {
        self.inverse.desired == DesiredUnit::Enabled && self.inverse.desired.holds(&self.before)
    }

    /// Whether links are not as before, of a unit whose state is.
    fn has_other_links(&self) -> Result<bool> {
        let UnitInverse { unit, desired, links, .. } = &self.inverse;
        match links {
            Some(links) if *desired == DesiredUnit::Disabled => Ok(!links.missing(unit)?.is_empty()),
            Some(links) if self.adds_links() => links.are_changed(unit),
            _ => Ok(false),
        }
    }

    /// Whether the unit is gone because its file was one of the links that were removed.
    fn removed_file(&self) -> bool {
        let UnitInverse { unit, desired, links, .. } = &self.inverse;
        *desired == DesiredUnit::Disabled && links.as_ref().is_some_and(|links| links.hold_file_of(unit))
    }

    /// Removes the links of a unit whose files are gone: they start nothing.
    fn remove_dangling_links(&self, world: &World) {
        let is_left = UnitState::Enablement { is: String::new() };
        if self.inverse.desired == DesiredUnit::Enabled && self.before != is_left {
            // systemd says that the unit does not exist when there is no link either.
            let _nothing_to_remove = self.inverse.unit.remove_links(world);
        }
    }
}

/// The state of the side that `alike` is about.
fn state_now(world: &World, unit: &Unit, alike: &UnitState) -> Result<UnitState> {
    Ok(match alike {
        UnitState::Enablement { .. } => UnitState::Enablement { is: unit.enablement(world)? },
        UnitState::Activity { .. } => UnitState::Activity { running: is_running(world, unit)? },
    })
}

fn is_running(world: &World, unit: &Unit) -> Result<bool> {
    Ok(unit.facts(world)?.is_some_and(|facts| facts.is_running()))
}

fn has_succeeded(world: &World, unit: &Unit) -> Result<bool> {
    Ok(unit.facts(world)?.is_some_and(|facts| facts.has_succeeded()))
}

fn has_ended_well(world: &World, unit: &Unit) -> Result<bool> {
    Ok(unit.facts(world)?.is_some_and(|facts| facts.has_ended_well()))
}

/// Whether a unit that was left as `left` is as `now` by the decision of an operator.
fn is_decided(left: &str, now: &str) -> bool {
    // A unit that vanished is made again; one that came back is as its file says, or as its package enables it.
    let is_of_its_package = !["masked", "linked"].iter().any(|word| now.starts_with(word));
    !(now.is_empty() || now == left || (left.is_empty() && is_of_its_package))
}

/// Why a unit in this state has no links that would enable it.
fn without_links(is: &str) -> Option<&'static str> {
    match is {
        "static" => Some("its file has no [Install] section that says what starts it"),
        "indirect" => Some("its [Install] section names another unit (Also=): enable that one"),
        _ => None,
    }
}

fn difference(unit: &Unit, recorded: &UnitState, now: &UnitState) -> String {
    match (recorded, now) {
        (UnitState::Enablement { is: recorded }, UnitState::Enablement { is }) => {
            let word = |text: &str| if text.is_empty() { "gone".to_owned() } else { text.to_owned() };
            format!("{} is {}, and was {}", unit.shown(), word(is), word(recorded))
        }
        _ => format!("{} is in another state", unit.shown()),
    }
}

impl Kind for UnitChange {
    fn target(&self) -> Target {
        self.inverse.unit.target(self.inverse.desired)
    }

    fn summary(&self) -> String {
        format!("{} {}", self.inverse.desired.verb(), self.inverse.unit.shown())
    }

    fn recorded_difference(&self, _world: &World) -> Option<String> {
        let UnitInverse { links, needs, stopped_along, .. } = &self.inverse;
        let mut lines = vec![format!("{} → {}", self.before.in_words(), self.after.in_words())];
        let names =
            |units: &[Unit]| units.iter().map(|unit| unit.name.as_str()).collect::<Vec<_>>().join(", ");
        lines.extend((!needs.is_empty()).then(|| format!("started with it: {}", names(needs))));
        lines.extend((!stopped_along.is_empty()).then(|| format!("stopped by it: {}", names(stopped_along))));
        lines.extend(links.iter().flat_map(Links::shown));
        Some(lines.join("\n"))
    }

    fn on_doubt(&self) -> OnDoubt {
        OnDoubt::ActAgain
    }

    fn conflict(&self, recorded: &Value, world: &World) -> Option<Modification> {
        let recorded: UnitState = serde_json::from_value(recorded.clone()).ok()?;
        let unit = &self.inverse.unit;
        match (&self.before, &recorded) {
            (UnitState::Enablement { is: now }, UnitState::Enablement { is: left }) => {
                let modified = || Modification::shown(&difference(unit, &recorded, &self.before));
                is_decided(left, now).then(modified)
            }
            (UnitState::Activity { running: false }, UnitState::Activity { running: true }) => {
                let facts = unit.facts(world).ok().flatten()?;
                (facts.active_state != "failed").then_some(Modification::Stopped)
            }
            _ => None,
        }
    }

    /// What has no links of its own is refused before `systemctl enable` makes those of others.
    fn prepare(&self, _world: &World) -> Result<()> {
        let UnitInverse { unit, desired, .. } = &self.inverse;
        // Of a template that says of the instances.
        if let (DesiredUnit::Enabled, UnitState::Enablement { is }) = (desired, &self.before)
            && !unit.name.contains("@.")
            && let Some(why) = without_links(is)
        {
            let failure = Failure::new(format!("cannot enable {}: it is {is}", unit.shown()));
            bail!(failure.kind(FailureKind::Unit).hint(why));
        }
        Ok(())
    }

    fn act(&self, world: &World, _: Payload<'_>) -> Result<()> {
        let UnitInverse { unit, desired, .. } = &self.inverse;
        match desired {
            DesiredUnit::Started => unit.start(world),
            DesiredUnit::Stopped => unit.stop(world),
            DesiredUnit::Enabled | DesiredUnit::Disabled | DesiredUnit::Masked | DesiredUnit::Unmasked => {
                unit.edit_files(world, &[desired.verb()], &unit.name).map_err(|error| self.explained(error))
            }
        }
    }

    fn position(&self, world: &World) -> Result<Position> {
        if !self.inverse.unit.has_manager_ever()? {
            return Ok(Position::Before);
        }
        let now = self.now(world)?;
        let UnitInverse { unit, desired, links, .. } = &self.inverse;
        let lacks_links = self.adds_links() && links.as_ref().is_some_and(|links| links.lack_new(unit));
        Ok(if desired.holds(&now) && !lacks_links {
            Position::After
        } else if now == self.before {
            Position::Before
        } else {
            Position::Neither(difference(unit, &self.after, &now))
        })
    }

    fn recorded(&self, world: &World) -> Result<States> {
        let now = self.now(world)?;
        let UnitInverse { unit, desired, .. } = &self.inverse;
        // What nothing refers to is unloaded once it has ended: that it ran is known from the act.
        if desired.holds(&now) || *desired == DesiredUnit::Started && has_ended_well(world, unit)? {
            return Ok([(self.target(), state_value(&now))].into());
        }
        let failure = match &now {
            UnitState::Enablement { is } => {
                let failure =
                    Failure::new(format!("{} is {is} after `systemctl {}`", unit.shown(), desired.verb()));
                match without_links(is) {
                    Some(why) => failure.hint(why),
                    None => failure,
                }
            }
            UnitState::Activity { .. } => Failure::new(format!(
                "{} did not stay as `systemctl {}` left it",
                unit.shown(),
                desired.verb()
            )),
        };
        bail!(failure.kind(FailureKind::Unit))
    }

    fn undo(&self, world: &mut World, terms: UndoTerms<'_>) -> Result<Undone> {
        let already = |state: &UnitState| {
            Undone::Back(Undoing::Already, BTreeMap::from([(self.target(), state_value(state))]))
        };
        let unit = &self.inverse.unit;
        if !unit.has_manager_ever()? {
            return Ok(already(&self.before));
        }
        let now = self.now(world)?;
        if now == self.before && !self.has_other_links()? {
            return Ok(already(&now));
        }
        match &now {
            UnitState::Activity { .. } if unit.facts(world)?.is_none() => return Ok(already(&now)),
            UnitState::Activity { .. } => {}
            // Disabling a unit that is a link removed it.
            UnitState::Enablement { is } if is.is_empty() && !self.removed_file() => {
                if !terms.dry_run {
                    self.remove_dangling_links(world);
                }
                return Ok(already(&now));
            }
            UnitState::Enablement { .. } => {
                let recorded = terms.recorded.and_then(|value| serde_json::from_value(value.clone()).ok());
                let is_as_left = match &recorded {
                    _ if now == self.before => true,
                    Some(recorded) => now == *recorded,
                    None => self.inverse.desired.holds(&now),
                };
                let recorded = recorded.unwrap_or_else(|| self.after.clone());
                if !is_as_left && !terms.force {
                    return Ok(Undone::Conflict(difference(unit, &recorded, &now)));
                }
            }
        }
        if terms.dry_run {
            return Ok(Undone::Back(Undoing::Restored, BTreeMap::new()));
        }
        // A login started it because it was enabled. First: killed in between, the next rollback still finds it enabled.
        if self.inverse.idle && is_running(world, unit)? {
            unit.stop(world)?;
        }
        self.restore(world, &now)?;
        let restored = self.now(world)?;
        // A link that someone else made since enables it still.
        if restored != self.before && self.inverse.links.is_none() {
            bail!(Failure::new(difference(unit, &self.before, &restored)).kind(FailureKind::Unit));
        }
        Ok(Undone::Back(Undoing::Restored, [(self.target(), state_value(&restored))].into()))
    }
}

#[cfg(test)]
mod tests {
    use super::is_decided;

    #[test]
    fn only_a_state_that_an_operator_can_have_chosen_is_a_conflict() {
        for (left, now) in [("enabled", "disabled"), ("disabled", "masked"), ("", "masked-runtime")] {
            assert!(is_decided(left, now), "{left} to {now}");
        }
        for (left, now) in
            [("enabled", "enabled"), ("enabled", ""), ("", "disabled"), ("", "enabled"), ("", "static")]
        {
            assert!(!is_decided(left, now), "{left} to {now}");
        }
    }
}
