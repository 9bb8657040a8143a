//! What a start of a unit starts besides, so that its undo leaves none of that running.

use std::collections::BTreeSet;

use anyhow::Result;

use super::{Unit, succeeded};
use crate::change::World;

/// What a start of a unit starts, too. Source: systemd.unit(5).
const NEEDS: [&str; 4] = ["Requires", "Wants", "BindsTo", "Upholds"];
/// The same from the other side. Source: org.freedesktop.systemd1(5).
const NEEDED_BY: [&str; 4] = ["RequiredBy", "WantedBy", "BoundBy", "UpheldBy"];

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
        if self.private_socket()?.is_some_and(|socket| !socket.exists()) {
            return Ok(Vec::new());
        }
        let mut known = BTreeSet::from([self.name.clone()]);
        let mut at_rest = Vec::new();
        let mut asked = vec![self.name.clone()];
        while !asked.is_empty() {
            let mut needed = BTreeSet::new();
            for unit in self.relations(world, &asked, &NEEDS)? {
                if unit.is_active && unit.name != self.name {
                    continue;
                }
                if unit.name != self.name && unit.is_loaded {
                    at_rest.push(Self { name: unit.name, user: self.user.clone() });
                }
                needed.extend(unit.others.into_iter().filter(|name| known.insert(name.clone())));
            }
            asked = needed.into_iter().collect();
        }
        Ok(at_rest)
    }

    /// Stops what was started for a unit that does not run any more, unless something else that runs needs it.
    pub(super) fn stop_if_not_needed(&self, world: &World) -> Result<()> {
        let Some(own) = self.relations(world, std::slice::from_ref(&self.name), &NEEDED_BY)?.pop() else {
            return Ok(());
        };
        if !own.is_active || !own.is_loaded {
            return Ok(());
        }
        let others: Vec<String> = own.others.into_iter().collect();
        if self.relations(world, &others, &NEEDED_BY)?.iter().any(|other| other.is_active) {
            return Ok(());
        }
        self.stop(world)
    }

    /// What the manager says of these units, and how they are related to others.
    fn relations(&self, world: &World, names: &[String], relations: &[&str]) -> Result<Vec<Related>> {
        if names.is_empty() {
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
