//! What a start or a stop of a unit starts and stops besides, so that its undo restores that, too.

use std::collections::BTreeSet;

use anyhow::Result;

use super::{Unit, succeeded};
use crate::change::World;

/// What a start of a unit starts, too. Source: systemd.unit(5).
const NEEDS: [&str; 4] = ["Requires", "Wants", "BindsTo", "Upholds"];
/// The same from the other side. Source: org.freedesktop.systemd1(5).
const NEEDED_BY: [&str; 4] = ["RequiredBy", "WantedBy", "BoundBy", "UpheldBy"];

/// What a stop of a unit stops, too. Source: the same.
const STOPPED_ALONG: [&str; 5] = ["RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf", "PropagatesStopTo"];
/// What a start of a unit stops. Source: systemd.unit(5).
const IN_CONFLICT: [&str; 2] = ["Conflicts", "ConflictedBy"];

/// A unit among others.
#[derive(Default)]
struct Related {
    name: String,
    is_loaded: bool,
    is_active: bool,
    others: BTreeSet<String>,
}

impl Unit {
    /// The units that are started with it, those that do not run now: what it needs, and what these need.
    pub(super) fn needs_at_rest(&self, world: &World) -> Result<Vec<Self>> {
        self.reached(world, std::slice::from_ref(&self.name), &NEEDS, |unit| !unit.is_active)
    }

    /// The units that run now and are stopped when it is stopped.
    pub(super) fn stopped_along(&self, world: &World) -> Result<Vec<Self>> {
        self.reached(world, std::slice::from_ref(&self.name), &STOPPED_ALONG, |unit| unit.is_active)
    }

    /// The units that run now and are stopped when it is started.
    pub(super) fn stopped_by_start(&self, world: &World) -> Result<Vec<Self>> {
        let runs = |unit: &Related| unit.is_active;
        let mut own = self.relations_of(world, std::slice::from_ref(&self.name), &IN_CONFLICT)?;
        let conflicting: Vec<String> =
            own.pop().map(|unit| unit.others.into_iter().collect()).unwrap_or_default();
        let active = self.relations_of(world, &conflicting, &[])?.into_iter().filter(|unit| runs(unit));
        let active: Vec<String> = active.map(|unit| unit.name).collect();
        let mut stopped: Vec<Self> =
            active.iter().map(|name| Self { name: name.clone(), user: self.user.clone() }).collect();
        stopped.extend(self.reached(world, &active, &STOPPED_ALONG, runs)?);
        Ok(stopped)
    }

    /// The units that `relations` lead to from these, through those that count.
    fn reached(
        &self,
        world: &World,
        from: &[String],
        relations: &[&str],
        counts: fn(&Related) -> bool,
    ) -> Result<Vec<Self>> {
        let mut known: BTreeSet<String> = from.iter().cloned().collect();
        let mut reached = Vec::new();
        let mut asked = from.to_vec();
        while !asked.is_empty() {
            let mut next = BTreeSet::new();
            for unit in self.relations_of(world, &asked, relations)? {
                let is_first = from.contains(&unit.name);
                if !is_first && !counts(&unit) {
                    continue;
                }
                if !is_first && unit.is_loaded {
                    reached.push(Self { name: unit.name, user: self.user.clone() });
                }
                next.extend(unit.others.into_iter().filter(|name| known.insert(name.clone())));
            }
            asked = next.into_iter().collect();
        }
        Ok(reached)
    }

    /// Starts what ran before it was stopped along with another one; not what cannot be started any more.
    pub(super) fn start_again(&self, world: &World) -> Result<()> {
        match self.facts(world)? {
            Some(facts) if facts.load_state == "loaded" && !facts.is_running() => self.start(world),
            _ => Ok(()),
        }
    }

    /// Stops what was started for a unit that does not run any more, unless something else that runs needs it.
    pub(super) fn stop_if_not_needed(&self, world: &World) -> Result<()> {
        let Some(own) = self.relations_of(world, std::slice::from_ref(&self.name), &NEEDED_BY)?.pop() else {
            return Ok(());
        };
        if !own.is_active || !own.is_loaded {
            return Ok(());
        }
        let others: Vec<String> = own.others.into_iter().collect();
        if self.relations_of(world, &others, &NEEDED_BY)?.iter().any(|other| other.is_active) {
            return Ok(());
        }
        self.stop(world)
    }

    /// What the manager says of these units, and how they are related to others.
    fn relations_of(&self, world: &World, names: &[String], relations: &[&str]) -> Result<Vec<Related>> {
        // Nothing of a user runs without the user's manager.
        if names.is_empty() || self.private_socket()?.is_some_and(|socket| !socket.exists()) {
            return Ok(Vec::new());
        }
        let properties = format!("--property=Id,LoadState,ActiveState,{}", relations.join(","));
        let mut words = vec!["show", &properties, "--"];
        words.extend(names.iter().map(String::as_str));
        let ended = world.look(&self.command(&words)?)?;
        succeeded(&ended, "systemctl show")?;
        let text = ended.stdout.text();
        // Each unit is a paragraph.
        let of_one = |paragraph: &str| {
            let mut one = Related::default();
            for (key, value) in paragraph.lines().filter_map(|line| line.split_once('=')) {
                match key {
                    "Id" => value.clone_into(&mut one.name),
                    "LoadState" => one.is_loaded = value == "loaded",
                    "ActiveState" => one.is_active = !matches!(value, "inactive" | "failed"),
                    _ => one.others.extend(value.split_whitespace().map(str::to_owned)),
                }
            }
            one
        };
        Ok(text.split("\n\n").map(of_one).filter(|one| !one.name.is_empty()).collect())
    }
}
