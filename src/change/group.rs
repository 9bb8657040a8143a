//! A group: made.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::account::{self, AccountRecord};
use super::reliance::relying_on_account;
use super::{Kind, OnDoubt, Payload, Position, Predicted, UndoTerms, Undone, World, state_value};
use crate::event::Modification;
use crate::failure::{Failure, FailureKind};
use crate::journal::Undoing;
use crate::machine::account::{Account, DIRECTORY, Database, Databases, Group, Order, clear_leftover};
use crate::target::{States, Target};

/// What a group is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub(super) enum GroupState {
    /// There is none of that name.
    Absent,
    /// There is one.
    Present {
        /// Its number.
        gid: u32,
        /// The users listed in it.
        members: Vec<String>,
    },
}

impl GroupState {
    /// Looks a group up by its exact name.
    pub(super) fn observe(name: &str) -> Result<Self> {
        Ok(Group::by_name(name)?
            .map_or(Self::Absent, |group| Self::Present { gid: group.gid, members: group.members }))
    }
}

/// The desired state of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DesiredGroup {
    /// Its number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// A new group gets a number of the range for services.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub system: bool,
}

impl DesiredGroup {
    fn add_to(&self, name: &str, databases: &mut Databases) -> Result<()> {
        account::add_group(databases, name, self.gid, self.system)
    }
}

/// The making of a group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupChange {
    before: GroupState,
    after: DesiredGroup,
    inverse: GroupInverse,
}

/// What undoing it needs besides the states.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct GroupInverse {
    name: String,
    record: AccountRecord,
}

/// That a user is in the list of a group, as previews name what is gone.
pub(super) fn membership(group: &str, user: &str) -> PathBuf {
    Path::new("group").join(group).join(user)
}

/// A user, as previews name what is gone.
pub(super) fn account_of(user: &str) -> PathBuf {
    Path::new("user").join(user)
}

impl GroupChange {
    /// The change that makes the group; `None` if it is there. `begun`, which a killed run may have made in part, is
    /// completed.
    ///
    /// # Errors
    /// When it is there with another number.
    pub fn towards(name: &str, desired: DesiredGroup, begun: Option<Self>) -> Result<Option<Self>> {
        let before = GroupState::observe(name)?;
        if let GroupState::Present { gid, .. } = before
            && let Some(desired) = desired.gid.filter(|desired| *desired != gid)
        {
            return Err(Failure::new(format!(
                "group `{name}` already exists with number {gid}, not {desired}"
            ))
            .kind(FailureKind::Exists)
            .into());
        }
        if let Some(begun) = begun {
            return Ok(Some(Self { after: desired, ..begun }));
        }
        if before != GroupState::Absent {
            return Ok(None);
        }
        let record = AccountRecord::of(name, |databases| desired.add_to(name, databases))?;
        let inverse = GroupInverse { name: name.to_owned(), record };
        Ok(Some(Self { before, after: desired, inverse }))
    }

    /// Restores the lines of the group.
    fn restore(&self, world: &World, databases: &mut Databases) -> Result<()> {
        self.inverse.record.restore_lines(world, &self.inverse.name, &Database::OF_GROUPS, databases)
    }

    fn observe(&self) -> Result<GroupState> {
        GroupState::observe(&self.inverse.name)
    }

    fn states(&self, state: &GroupState) -> States {
        [(self.target(), state_value(state))].into()
    }
}

impl Kind for GroupChange {
    fn target(&self) -> Target {
        Target::Group(self.inverse.name.clone())
    }

    fn relied_on<'t>(&self, later: &[&'t Target], _world: &World) -> Result<Vec<&'t Target>> {
        relying_on_account(&self.inverse.name, later)
    }

    fn summary(&self) -> String {
        format!("make the group {}", self.inverse.name)
    }

    fn recorded_difference(&self, _world: &World) -> Option<String> {
        self.inverse.record.after.group().map(|gid| format!("number {gid}"))
    }

    fn conflict(&self, recorded: &Value, _world: &World) -> Option<Modification> {
        let recorded: GroupState = serde_json::from_value(recorded.clone()).ok()?;
        let was_removed = recorded != GroupState::Absent && self.before == GroupState::Absent;
        was_removed.then_some(Modification::Removed)
    }

    fn predict(&self, _world: &World, predicted: &mut Predicted) {
        if let Some(gid) = self.inverse.record.after.group() {
            predicted.set_group(&self.inverse.name, gid);
        }
    }

    fn on_doubt(&self) -> OnDoubt {
        OnDoubt::ActAgain
    }

    fn prepare(&self, world: &World) -> Result<()> {
        self.inverse.record.save(&self.inverse.name, world)
    }

    fn repair(&self, _world: &World) -> Result<()> {
        clear_leftover(Path::new(DIRECTORY))
    }

    fn act(&self, world: &World, _: Payload<'_>) -> Result<()> {
        let add = |databases: &mut Databases| self.after.add_to(&self.inverse.name, databases);
        self.inverse.record.write(world, Order::Adding, add)
    }

    fn position(&self, world: &World) -> Result<Position> {
        self.repair(world)?;
        let (name, found) = (&self.inverse.name, account::now()?);
        let mut whole = found.clone();
        let is_made = self.observe()? != GroupState::Absent;
        if is_made {
            self.after.add_to(name, &mut whole)?;
        }
        Ok(if is_made && whole == found {
            Position::After
        } else if found.traces_of(name).lines == self.inverse.record.before.lines {
            Position::Before
        } else {
            Position::Neither(format!("group `{name}` is in only some of the account databases"))
        })
    }

    fn recorded(&self, _world: &World) -> Result<States> {
        let now = self.observe()?;
        anyhow::ensure!(now != GroupState::Absent, "group `{}` not found", self.inverse.name);
        Ok(self.states(&now))
    }

    fn undo(&self, world: &mut World, terms: UndoTerms<'_>) -> Result<Undone> {
        let GroupState::Present { gid, members } = self.observe()? else {
            let found = account::now()?;
            let mut restored = found.clone();
            self.restore(world, &mut restored)?;
            let how = if restored == found { Undoing::Already } else { Undoing::Restored };
            if !terms.dry_run {
                self.inverse
                    .record
                    .write(world, Order::Removing, |databases| self.restore(world, databases))?;
            }
            return Ok(Undone::Back(how, self.states(&GroupState::Absent)));
        };
        let recorded = terms.recorded.and_then(|value| serde_json::from_value(value.clone()).ok());
        if let Some(GroupState::Present { gid: made, .. }) = recorded
            && made != gid
        {
            return Ok(Undone::Conflict(format!("kkrun made it with number {made}; it has {gid} now")));
        }
        // A preview has come to the users that were put into it before.
        let gone = world.assumed_gone.borrow().clone();
        let members: Vec<String> = members
            .into_iter()
            .filter(|user| !gone.contains(&membership(&self.inverse.name, user)))
            .collect();
        if !members.is_empty() {
            return Ok(Undone::Kept(format!("it has members: {}", members.join(", "))));
        }
        let users = Account::with_primary_group(gid)?;
        if let Some(user) = users.into_iter().find(|user| !gone.contains(&account_of(user))) {
            return Ok(Undone::Kept(format!("it is the primary group of {user}")));
        }
        if !terms.dry_run {
            self.inverse.record.write(world, Order::Removing, |databases| self.restore(world, databases))?;
        }
        Ok(Undone::Back(Undoing::Restored, self.states(&GroupState::Absent)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::testing::world;

    #[test]
    fn a_preview_sees_no_users_that_it_came_to_before_in_a_group() {
        let directory = tempfile::tempdir().unwrap();
        let mut world = world(directory.path());
        let inverse = GroupInverse { name: "root".to_owned(), record: AccountRecord::default() };
        let change = GroupChange { before: GroupState::Absent, after: DesiredGroup::default(), inverse };
        let preview = |world: &mut World| {
            change.undo(world, UndoTerms { dry_run: true, ..UndoTerms::default() }).unwrap()
        };
        assert!(matches!(preview(&mut world), Undone::Kept(_)));
        let GroupState::Present { gid, members } = GroupState::observe("root").unwrap() else { panic!() };
        let users = Account::with_primary_group(gid).unwrap();
        let gone = users.iter().map(|user| account_of(user));
        let gone = gone.chain(members.iter().map(|user| membership("root", user)));
        world.assumed_gone.borrow_mut().extend(gone);
        assert!(matches!(preview(&mut world), Undone::Back(Undoing::Restored, _)));
    }
}
