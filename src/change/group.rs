//! A group: made.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::user::run;
use super::{Kind, OnDoubt, Position, UndoTerms, Undone, World, state_value};
use crate::failure::Failure;
use crate::journal::Undoing;
use crate::machine::account::{Account, Group};
use crate::machine::account_files::AccountFiles;
use crate::machine::account_lines::{AccountEntry, AccountLines};

/// What a group is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum GroupState {
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
    pub fn observe(name: &str) -> Result<Self> {
        Ok(Group::by_name(name)?
            .map_or(Self::Absent, |group| Self::Present { gid: group.gid, members: group.members }))
    }
}

/// What a group shall be.
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

/// The making of a group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupChange {
    before: GroupState,
    after: DesiredGroup,
    inverse: GroupInverse,
}

/// What taking it back needs besides that.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct GroupInverse {
    name: String,
    databases: AccountFiles,
}

impl GroupChange {
    /// The change that makes the group; `None` when it is there. What a dead run may have made in part
    /// (`begun`) is made whole.
    ///
    /// # Errors
    /// When it is there with another number.
    pub fn towards(name: &str, wish: DesiredGroup, begun: Option<Self>) -> Result<Option<Self>> {
        let before = GroupState::observe(name)?;
        if let GroupState::Present { gid, .. } = before
            && let Some(desired) = wish.gid.filter(|desired| *desired != gid)
        {
            return Err(Failure::new(format!(
                "the group `{name}` is there and has the number {gid}, not {desired}"
            ))
            .kind("exists")
            .into());
        }
        if let Some(begun) = begun {
            return Ok(Some(Self { after: wish, ..begun }));
        }
        if before != GroupState::Absent {
            return Ok(None);
        }
        let inverse = GroupInverse { name: name.to_owned(), databases: AccountFiles::observe()? };
        Ok(Some(Self { before, after: wish, inverse }))
    }

    /// Makes the group.
    pub fn act(&self, world: &World) -> Result<()> {
        let acted = self.make(world);
        self.inverse.databases.tidied_after(acted, world.backups()?)
    }

    fn make(&self, world: &World) -> Result<()> {
        self.remove_rests()?;
        if self.observe()? != GroupState::Absent {
            return self.inverse.databases.complete_group(&self.inverse.name);
        }
        let mut argv = vec!["groupadd".to_owned()];
        if let Some(gid) = self.after.gid {
            argv.extend(["--gid".to_owned(), gid.to_string()]);
        }
        if self.after.system {
            argv.push("--system".to_owned());
        }
        argv.push(self.inverse.name.clone());
        run(world, &argv)
    }

    /// What a tool left that died: the half of a group that is no more.
    fn rests(&self) -> Result<Vec<AccountEntry<'_>>> {
        let is_gone = self.observe()? == GroupState::Absent;
        Ok(if is_gone { vec![AccountEntry::Group(&self.inverse.name)] } else { Vec::new() })
    }

    fn hold_rests(&self) -> Result<bool> {
        self.inverse.databases.hold_rests(&self.rests()?)
    }

    fn remove_rests(&self) -> Result<()> {
        self.inverse.databases.remove_rests(&self.rests()?)
    }

    fn observe(&self) -> Result<GroupState> {
        GroupState::observe(&self.inverse.name)
    }

    fn states(&self, state: &GroupState) -> BTreeMap<String, Value> {
        [(self.target(), state_value(state))].into()
    }
}

impl Kind for GroupChange {
    fn target(&self) -> String {
        group_target(&self.inverse.name)
    }

    fn summary(&self) -> String {
        format!("make the group {}", self.inverse.name)
    }

    fn on_doubt(&self) -> OnDoubt {
        OnDoubt::ActAgain
    }

    fn prepare(&self, world: &World) -> Result<()> {
        self.inverse.databases.save(world.backups()?)
    }

    fn position(&self, _world: &World) -> Result<Position> {
        let name = &self.inverse.name;
        if self.hold_rests()? || AccountLines::read()?.lacks_group_shadow(name) {
            return Ok(Position::Neither(format!("only some of the databases know of the group {name}")));
        }
        Ok(match self.observe()? {
            GroupState::Absent if self.inverse.databases.have_their_copies()? => Position::Before,
            GroupState::Absent => Position::Neither(format!("there is no group {name}")),
            GroupState::Present { .. } => Position::After,
        })
    }

    fn recorded(&self, _world: &World) -> Result<BTreeMap<String, Value>> {
        let now = self.observe()?;
        anyhow::ensure!(now != GroupState::Absent, "there is no group `{}`", self.inverse.name);
        Ok(self.states(&now))
    }

    fn undo(&self, world: &mut World, terms: UndoTerms<'_>) -> Result<Undone> {
        let GroupState::Present { gid, members } = self.observe()? else {
            let how = if self.hold_rests()? { Undoing::Restored } else { Undoing::Already };
            if !terms.dry_run {
                self.remove_rests()?;
                self.inverse.databases.restore_copies(world.backups()?)?;
            }
            return Ok(Undone::Back(how, self.states(&GroupState::Absent)));
        };
        let recorded = terms.recorded.and_then(|value| serde_json::from_value(value.clone()).ok());
        if let Some(GroupState::Present { gid: made, .. }) = recorded
            && made != gid
        {
            return Ok(Undone::Conflict(format!("kkrun made it with number {made}; it has {gid} now")));
        }
        if !members.is_empty() {
            return Ok(Undone::Kept(format!("it has members: {}", members.join(", "))));
        }
        if let Some(user) = Account::with_primary_group(gid)? {
            return Ok(Undone::Kept(format!("it is the primary group of {user}")));
        }
        if !terms.dry_run {
            let removed = run(world, &["groupdel".into(), self.inverse.name.clone()]);
            self.inverse.databases.tidied_after(removed, world.backups()?)?;
            self.remove_rests()?;
            self.inverse.databases.restore_copies(world.backups()?)?;
        }
        Ok(Undone::Back(Undoing::Restored, self.states(&GroupState::Absent)))
    }
}

/// The canonical name of a group as a target.
pub fn group_target(name: &str) -> String {
    format!("group:{name}")
}
