//! A user: made, or given another shell, comment, home mode or more groups.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

use super::account::{self, AccountRecord};
use super::group::{account_of, membership};
use super::reliance::relying_on_account;
use super::{
    Kind, Loss, OnDoubt, Payload, Position, Predicted, UndoTerms, Undone, World, linger, state_value, tree,
};
use crate::event::Modification;
use crate::failure::{Failure, FailureKind};
use crate::journal::{Class, Undoing};
use crate::machine::account::{
    Account, DIRECTORY, Database, Databases, Group, List, NewUser, Order, TAG, clear_leftover, make_home,
    new_home,
};
use crate::machine::files::{self, Attributes, Digest, FileState, Manifest, PathText};
use crate::machine::mount;
use crate::machine::process::Command;
use crate::machine::tree_size::TreeSize;
use crate::machine::user_processes;
use crate::target::{States, Target};

/// What a user is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum UserState {
    /// There is none of that name.
    Absent,
    /// There is one.
    Present(UserFacts),
}

/// What is known of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserFacts {
    /// The user's number.
    pub uid: u32,
    /// The number of the primary group.
    pub gid: u32,
    /// The home directory.
    pub home: PathText,
    /// Its permission bits as four octal digits, if it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home_mode: Option<String>,
    /// The login shell.
    pub shell: PathText,
    /// What is said about the user, such as the full name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// The names of all groups, the primary one among them.
    pub groups: Vec<String>,
    /// The digest of the password's hash, where it can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Digest>,
}

impl UserState {
    /// Looks a user up.
    pub fn observe(name: &str) -> Result<Self> {
        let Some(account) = Account::by_name(name)? else { return Ok(Self::Absent) };
        let mut groups = Vec::new();
        for gid in &account.groups {
            groups.push(Group::by_gid(*gid)?.map_or_else(|| gid.to_string(), |group| group.name));
        }
        groups.sort();
        let home_mode = mode_of(&account.home)?.map(|mode| format!("{mode:04o}"));
        Ok(Self::Present(UserFacts {
            uid: account.uid,
            gid: account.gid,
            home: PathText::new(account.home),
            home_mode,
            shell: PathText::new(account.shell),
            comment: account.comment,
            groups,
            password: password_of(name).map(|hash| Digest::of(&hash)),
        }))
    }
}

/// The hash of a user's password; none where the databases have none or it cannot be read.
pub fn password_of(name: &str) -> Option<Zeroizing<Vec<u8>>> {
    account::now().ok()?.password_of(name).map(Zeroizing::new)
}

/// The permission bits of a directory; `None` where there is none.
fn mode_of(path: &Path) -> Result<Option<u32>> {
    use std::os::unix::fs::MetadataExt as _;
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(Some(metadata.mode() & 0o7777)),
        Ok(_) => Ok(None),
        Err(error)
            if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read `{}`", path.display())),
    }
}

/// The desired state of a user; what is not given may be anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DesiredUser {
    /// The user's number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The home directory, which is to exist.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub home: Option<PathText>,
    /// The home directory need not exist, and is not made.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub without_home: bool,
    /// Its permission bits as four octal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub home_mode: Option<String>,
    /// The login shell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<PathText>,
    /// What is said about the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// The primary group, if that is not the group of the user's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Groups that the user is to be in, besides others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Groups that the user is not to be in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_in_groups: Vec<String>,
    /// The digest of the password's hash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Digest>,
    /// That hash. The journal must not hold it.
    #[serde(skip)]
    pub hash: Option<Zeroizing<String>>,
    /// A new user gets a number of the range for services.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub system: bool,
}

impl DesiredUser {
    /// Whether the home is to exist.
    fn needs_home(&self) -> bool {
        self.home.is_some() && !self.without_home || self.home_mode.is_some()
    }

    /// What has to be done to a user, in a few words each.
    fn lacking(&self, facts: &UserFacts) -> Vec<String> {
        let mut lacking = Vec::new();
        if let Some(uid) = self.uid.filter(|uid| *uid != facts.uid) {
            lacking.push(format!("number {} → {uid}", facts.uid));
        }
        if let Some(home) = self.home.as_ref().filter(|home| **home != facts.home) {
            lacking.push(format!("home {} → {home}", facts.home));
        }
        if self.needs_home() && facts.home_mode.is_none() {
            lacking.push(format!("make {}", facts.home));
        } else if let Some(mode) =
            self.home_mode.as_ref().filter(|mode| facts.home_mode.as_ref() != Some(mode))
        {
            lacking.push(format!("home mode {} → {mode}", facts.home_mode.as_deref().unwrap_or("none")));
        }
        if let Some(shell) = self.shell.as_ref().filter(|shell| **shell != facts.shell) {
            lacking.push(format!("shell {} → {shell}", facts.shell));
        }
        if let Some(comment) = self.comment.as_ref().filter(|comment| **comment != facts.comment) {
            lacking.push(format!("comment `{}` → `{comment}`", facts.comment));
        }
        if let Some(group) = self.group.as_ref().filter(|group| **group != primary_of(facts)) {
            lacking.push(format!("primary group {} → {group}", primary_of(facts)));
        }
        let groups: Vec<&str> = self.groups_lacking(facts).collect();
        if !groups.is_empty() {
            lacking.push(format!("add to {}", groups.join(", ")));
        }
        let left: Vec<&str> = self.groups_to_leave(facts).collect();
        if !left.is_empty() {
            lacking.push(format!("take out of {}", left.join(", ")));
        }
        if self.password.is_some() && self.password != facts.password {
            lacking.push("set the password".to_owned());
        }
        lacking
    }

    /// What is asked for of a new user, in a few words each.
    fn named(&self) -> Vec<String> {
        let mut named = Vec::new();
        named.extend(self.uid.map(|uid| format!("number {uid}")));
        named.extend(self.home.as_ref().map(|home| format!("home {home}")));
        named.extend(self.home_mode.as_ref().map(|mode| format!("home mode {mode}")));
        named.extend(self.shell.as_ref().map(|shell| format!("shell {shell}")));
        named.extend(self.comment.as_ref().map(|comment| format!("comment `{comment}`")));
        named.extend(self.group.as_ref().map(|group| format!("primary group {group}")));
        named.extend((!self.groups.is_empty()).then(|| format!("groups {}", self.groups.join(", "))));
        named.extend(self.password.as_ref().map(|_| "a password".to_owned()));
        named
    }

    /// The number of the primary group that is asked for.
    fn primary(&self) -> Result<Option<u32>> {
        let Some(name) = &self.group else { return Ok(None) };
        let missing = || Failure::new(format!("group `{name}` not found")).kind(FailureKind::Missing);
        Ok(Some(Group::by_name(name)?.ok_or_else(missing)?.gid))
    }

    /// Writes it into the databases; of a user who `is_new`, they get all that they lack.
    fn make_of(
        &self,
        name: &str,
        is_new: bool,
        preferred: Option<u32>,
        databases: &mut Databases,
    ) -> Result<()> {
        let there = Account::by_name(name)?;
        if is_new {
            let user = NewUser {
                name,
                uid: self.uid,
                preferred,
                primary: self.primary()?,
                group: Group::by_name(name)?.map(|group| group.gid),
                home: self.home.as_ref().map(PathText::as_path),
                shell: self.shell.as_ref().map(PathText::as_path),
                comment: self.comment.as_deref().unwrap_or_default(),
                system: self.system,
            };
            account::add_user(databases, &user)?;
        }
        for group in &self.groups {
            let gid = Group::by_name(group)?.map(|group| group.gid);
            if !there.as_ref().zip(gid).is_some_and(|(there, gid)| there.groups.contains(&gid)) {
                databases.join(name, group)?;
            }
        }
        for group in &self.not_in_groups {
            if databases.members_of(group).iter().any(|member| member == name) {
                databases.leave(name, group)?;
            }
        }
        if let Some(hash) = &self.hash {
            account::set_password(databases, name, hash)?;
        }
        let Some(there) = there else { return Ok(()) };
        if let Some(shell) = self.shell.as_ref().filter(|shell| there.shell != shell.as_path()) {
            databases.set_shell(name, shell.as_path())?;
        }
        match self.comment.as_ref().filter(|comment| there.comment != **comment) {
            Some(comment) => databases.set_comment(name, comment),
            None => Ok(()),
        }
    }

    fn groups_lacking<'a>(&'a self, facts: &'a UserFacts) -> impl Iterator<Item = &'a str> {
        self.groups.iter().filter(|group| !facts.groups.contains(group)).map(String::as_str)
    }

    fn groups_to_leave<'a>(&'a self, facts: &'a UserFacts) -> impl Iterator<Item = &'a str> {
        self.not_in_groups.iter().filter(|group| facts.groups.contains(group)).map(String::as_str)
    }
}

/// A change to one user.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UserChange {
    before: UserState,
    after: DesiredUser,
    inverse: UserInverse,
}

/// What undoing it needs besides the states.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct UserInverse {
    name: String,
    /// The home as it was; absent when kkrun makes it.
    home: FileState,
    /// Whether there was mail for a user of that name.
    mail: bool,
    record: AccountRecord,
    /// The lists of members of the groups that the user leaves.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    left: BTreeMap<String, LeftLists>,
}

/// The lists of a group before a user left it, and afterwards.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct LeftLists {
    before: BTreeMap<Database, String>,
    after: BTreeMap<Database, String>,
}

impl LeftLists {
    /// Of the groups that the user leaves when the databases are changed so.
    fn of(
        name: &str,
        groups: &[String],
        found: &Databases,
        changed: &Databases,
    ) -> BTreeMap<String, LeftLists> {
        let is_in = |group: &&String| found.members_of(group).iter().any(|member| member == name);
        let lists = |group: &String| {
            let (before, after) = (found.lists_of(group), changed.lists_of(group));
            (group.clone(), LeftLists { before, after })
        };
        groups.iter().filter(is_in).map(lists).collect()
    }
}

impl UserChange {
    /// The change that brings the user to `desired`; `None` if the user is so already. What was made `in_part` is
    /// completed, and so is what a failed undo left of a user.
    ///
    /// # Errors
    /// When the user is there with another number or home: the files of users depend on these.
    pub fn towards(
        name: &str,
        mut desired: DesiredUser,
        in_part: Option<Self>,
        half_undone: Option<&Self>,
    ) -> Result<Option<Self>> {
        let before = UserState::observe(name)?;
        let is_new = before == UserState::Absent;
        let was_new =
            in_part.as_ref().or(half_undone).is_some_and(|change| change.before == UserState::Absent);
        let gets_home = !desired.system || desired.home_mode.is_some();
        if (is_new || was_new) && desired.home.is_none() && gets_home {
            desired.home = Some(PathText::new(Path::new("/home").join(name)));
        }
        if let UserState::Present(facts) = &before {
            check_fixed(name, &desired, facts)?;
        }
        // A change that was begun on a user who has gone since does not count any more.
        if let Some(mut begun) = in_part.filter(|begun| !is_new || begun.before == UserState::Absent) {
            // What was left in the part that was made is known from then.
            let mut left = Self::leaving(name, &desired, is_new)?;
            left.append(&mut begun.inverse.left);
            begun.inverse.left = left;
            return Ok(Some(Self { after: desired, ..begun }));
        }
        let home = match (&before, &desired.home) {
            (UserState::Present(facts), _) if desired.lacking(facts).is_empty() => return Ok(None),
            (UserState::Present(facts), _) => FileState::observe(facts.home.as_path())?,
            (UserState::Absent, Some(home)) if desired.needs_home() => look_at_new_home(home.as_path())?,
            (UserState::Absent, _) => FileState::Absent,
        };
        let record = AccountRecord::of(name, |databases| desired.make_of(name, is_new, None, databases))?;
        let left = Self::leaving(name, &desired, is_new)?;
        let inverse = UserInverse { name: name.to_owned(), home, mail: mail_of(name).exists(), record, left };
        Ok(Some(Self { before, after: desired, inverse }))
    }

    /// Whether the user is not there before.
    pub fn makes_user(&self) -> bool {
        self.before == UserState::Absent
    }

    /// Where it makes a home, for a new user or for one who had none.
    fn made_at(&self) -> Option<&Path> {
        let home = match &self.before {
            UserState::Absent => self.after.home.as_ref(),
            UserState::Present(facts) => Some(&facts.home),
        };
        home.filter(|_| self.after.needs_home() && self.inverse.home.is_absent()).map(PathText::as_path)
    }

    /// The lists that the user would leave.
    fn leaving(name: &str, desired: &DesiredUser, is_new: bool) -> Result<BTreeMap<String, LeftLists>> {
        if desired.not_in_groups.is_empty() {
            return Ok(BTreeMap::new());
        }
        let found = account::now()?;
        let mut changed = found.clone();
        desired.make_of(name, is_new, None, &mut changed)?;
        Ok(LeftLists::of(name, &desired.not_in_groups, &found, &changed))
    }

    /// Puts the user back into the lists that it left.
    fn rejoin(&self, databases: &mut Databases) {
        for (group, LeftLists { before, after }) in &self.inverse.left {
            databases.rejoin(&self.inverse.name, group, (before, after));
        }
    }

    /// Whether a list that the user left does not name it.
    fn is_away(&self) -> Result<bool> {
        let found = account::now()?;
        let mut rejoined = found.clone();
        self.rejoin(&mut rejoined);
        Ok(rejoined != found)
    }

    fn make(&self, databases: &mut Databases) -> Result<()> {
        let preferred = self.inverse.record.after.user_and_group().map(|(uid, _)| uid);
        self.after.make_of(&self.inverse.name, self.before == UserState::Absent, preferred, databases)
    }

    fn converge_home(&self, facts: &UserFacts) -> Result<()> {
        let home = facts.home.as_path();
        if !self.after.needs_home() {
            return Ok(());
        }
        let mode = self.after.home_mode.as_deref().map(bits).transpose()?;
        if FileState::observe(home)?.is_absent() {
            return make_home(home, (facts.uid, facts.gid), mode, &super::tag(home));
        }
        let FileState::Directory { metadata } = FileState::observe(home)? else { return Ok(()) };
        let mut attributes = Attributes { mtime: None, ..Attributes::from(&metadata) };
        attributes.mode = mode.unwrap_or(attributes.mode);
        // A home without an owner becomes the new user's.
        if self.after.home.is_some() && is_ownerless(metadata.owner)? {
            (attributes.owner, attributes.group) = (facts.uid, facts.gid);
        }
        if attributes != (Attributes { mtime: None, ..Attributes::from(&metadata) }) {
            files::set_metadata(home, &attributes, &FileState::Directory { metadata })?;
        }
        Ok(())
    }

    fn observe(&self) -> Result<UserState> {
        UserState::observe(&self.inverse.name)
    }

    fn states(&self, state: &UserState) -> States {
        [(self.target(), state_value(state))].into()
    }

    /// Undoes the making of a user.
    fn undo_making(&self, world: &World, terms: UndoTerms<'_>) -> Result<Undone> {
        let name = &self.inverse.name;
        let (made, now) = (made(terms.recorded), self.observe()?);
        if let UserState::Present(now) = &now
            && let Some(difference) = self.is_another(now, made.as_ref())?
        {
            return Ok(Undone::Conflict(difference));
        }
        let numbers = made.as_ref().map(|made| (made.uid, made.gid));
        let numbers = numbers.or_else(|| self.inverse.record.after.user_and_group());
        let home = self.made_home(&now, numbers.map(|(uid, _)| uid))?;
        self.refuse_mounted_home()?;
        let (mail, found) = (self.new_mail()?, account::now()?);
        let mut restored = found.clone();
        self.restore(world, &mut restored, numbers)?;
        if now == UserState::Absent && home.is_none() && mail.is_none() && restored == found {
            return Ok(Undone::Back(Undoing::Already, self.states(&now)));
        }
        if terms.dry_run {
            return Ok(Undone::Back(Undoing::Restored, BTreeMap::new()));
        }
        if let UserState::Present(facts) = &now {
            self.end_processes(world, facts)?;
            self.restore_home(facts, true)?;
        }
        if let Some(home) = home {
            tree::remove_at_once(&home)?;
        }
        if let Some(stays) = self.replaced_home()? {
            world.reporter.note(stays);
        }
        if let Some((mail, state)) = mail {
            files::remove(&mail, &state, TAG)?;
        }
        let restore = |databases: &mut Databases| self.restore(world, databases, numbers);
        self.inverse.record.write(world, Order::Removing, restore)?;
        let stays = |group: &Group| numbers.is_some_and(|(_, gid)| gid == group.gid) && self.made_group();
        if let Some(group) = Group::by_name(name)?.filter(stays) {
            let others = group.members.join(", ");
            world.reporter.note(format!("the group `{name}` stays: it has other members: {others}"));
        }
        Ok(Undone::Back(Undoing::Restored, self.states(&self.observe()?)))
    }

    /// Why the user is not the one that kkrun made, or was about to make.
    fn is_another(&self, now: &UserFacts, made: Option<&UserFacts>) -> Result<Option<String>> {
        let (name, record) = (&self.inverse.name, &self.inverse.record);
        Ok(match made {
            Some(made) => (made.uid != now.uid).then(|| {
                format!(
                    "kkrun made the user `{name}` with number {}; the user of that name now has {}",
                    made.uid, now.uid
                )
            }),
            None if account::now()?.traces_of(name).of(Database::Passwd)
                != record.after.of(Database::Passwd) =>
            {
                Some(format!(
                    "the user `{name}` has number {} and home {}, which is not what the interrupted change was to make",
                    now.uid, now.home
                ))
            }
            None => None,
        })
    }

    /// Restores the lines of the user, and removes the user from every group that did not list it. A group of the
    /// user's name goes if kkrun made it and no other user is in it.
    fn restore(&self, world: &World, databases: &mut Databases, numbers: Option<(u32, u32)>) -> Result<()> {
        let UserInverse { name, record, .. } = &self.inverse;
        record.restore_lines(world, name, &Database::OF_USERS, databases)?;
        databases.remove_from_lists(name, |list| !record.before.lists.contains(list));
        self.rejoin(databases);
        let now = databases.traces_of(name);
        let is_made =
            self.made_group() && numbers.is_some_and(|(_, gid)| databases.is_unused_group(name, gid));
        let is_completed = now.of(Database::Gshadow) == record.after.of(Database::Gshadow);
        if is_made {
            record.restore_lines(world, name, &Database::OF_GROUPS, databases)?;
        } else if is_completed && !self.made_group() {
            record.restore_lines(world, name, &[Database::Gshadow], databases)?;
        }
        Ok(())
    }

    /// Whether kkrun made the group of the user's name.
    fn made_group(&self) -> bool {
        let AccountRecord { before, after, .. } = &self.inverse.record;
        before.of(Database::Group).is_empty() && !after.of(Database::Group).is_empty()
    }

    /// The mail of the user, where there was none for that name.
    fn new_mail(&self) -> Result<Option<(PathBuf, FileState)>> {
        let path = mail_of(&self.inverse.name);
        let state = FileState::observe(&path)?;
        let is_new = !self.inverse.mail && matches!(state, FileState::File { .. });
        Ok(is_new.then_some((path, state)))
    }

    /// What took the place of the home that kkrun made, for messages.
    fn replaced_home(&self) -> Result<Option<String>> {
        let Some(home) = self.made_at() else { return Ok(None) };
        let state = FileState::observe(home)?;
        let is_replaced = !matches!(state, FileState::Absent | FileState::Directory { .. });
        let kind = state.kind_name();
        Ok(is_replaced.then(|| format!("`{}` was replaced by {kind} and stays", home.display())))
    }

    /// Refuses to undo the making of a home in which something is mounted: once the account is gone, a home that stays
    /// belongs to a number that the next user gets, and a mount at the home itself hides whose it is.
    fn refuse_mounted_home(&self) -> Result<()> {
        self.made_at().map_or(Ok(()), |home| mount::refuse_within([files::canonical(home)?]))
    }

    /// The home that kkrun made, if it is still there and of the user with this number. Of a user who has gone, it must
    /// not belong to another user by now.
    fn made_home(&self, now: &UserState, uid: Option<u32>) -> Result<Option<PathBuf>> {
        let Some(home) = self.made_at() else { return Ok(None) };
        let FileState::Directory { metadata } = FileState::observe(home)? else { return Ok(None) };
        let is_free = *now != UserState::Absent || Account::by_uid(metadata.owner)?.is_none();
        Ok((uid.is_none_or(|uid| uid == metadata.owner) && is_free).then(|| home.to_owned()))
    }

    /// What is where kkrun made a home and is not of the user, for messages.
    fn other_home(&self) -> Result<Option<String>> {
        let Some(home) = self.made_at() else { return Ok(None) };
        let (path, name) = (home.display(), &self.inverse.name);
        Ok(match FileState::observe(home)? {
            FileState::Absent => None,
            FileState::Directory { metadata } => {
                let owner = Account::by_uid(metadata.owner)?;
                let owner = owner.map_or_else(|| metadata.owner.to_string(), |account| account.name);
                Some(format!("the home `{path}` belongs to {owner}, not {name}"))
            }
            other => Some(format!("the home `{path}` was replaced by {}", other.kind_name())),
        })
    }

    /// What is lost with the home that kkrun made for a user who was there.
    fn loss_of_home(&self, before: &UserFacts) -> Result<Option<Loss>> {
        let Some(home) = self.made_home(&self.observe()?, Some(before.uid))? else { return Ok(None) };
        let ours = new_home((before.uid, before.gid), None)?;
        let named = || format!("cannot read the directory `{}`", home.display());
        let mut others = Vec::new();
        for entry in std::fs::read_dir(&home).with_context(named)? {
            let name = entry.with_context(named)?.file_name();
            if ours.get(&name).is_none() {
                others.push(PathText::new(name).to_string());
            }
        }
        let with = if others.is_empty() { String::new() } else { format!(", with {}", tree::others(others)) };
        let what = format!(
            "the home {} of the user {} ({}){with}",
            home.display(),
            self.inverse.name,
            TreeSize::of(&home)
        );
        Ok(Some(Loss { class: Class::Homes, what }))
    }

    fn end_processes(&self, world: &World, facts: &UserFacts) -> Result<()> {
        let name = &self.inverse.name;
        linger::disable(world, name)?;
        if linger::logind_runs(world)? {
            // Fails when the user is not logged in, which is as desired.
            world.look(&Command::new(["loginctl", "terminate-user", name]))?;
        }
        if facts.uid != 0 && Account::by_uid(facts.uid)?.is_some_and(|account| account.name == *name) {
            user_processes::end(facts.uid, &world.processes)?;
        }
        Ok(())
    }

    /// Restores the permissions of a home that was there and, for a user who goes, its owner. Gives what was modified
    /// outside kkrun.
    fn restore_home(&self, facts: &UserFacts, with_owner: bool) -> Result<Option<String>> {
        let FileState::Directory { metadata: before } = &self.inverse.home else { return Ok(None) };
        let home = facts.home.as_path();
        let now = FileState::observe(home)?;
        let FileState::Directory { metadata } = &now else { return Ok(None) };
        let mut attributes = Attributes { mtime: None, ..Attributes::from(metadata) };
        let mut difference = None;
        if let Some(desired) = &self.after.home_mode {
            if metadata.mode == bits(desired)? {
                attributes.mode = before.mode;
            } else if metadata.mode != before.mode {
                difference = Some(format!(
                    "home mode {:04o}, neither {desired} nor {:04o} as before",
                    metadata.mode, before.mode
                ));
            }
        }
        if with_owner && metadata.owner == facts.uid {
            (attributes.owner, attributes.group) = (before.owner, before.group);
        }
        if attributes != (Attributes { mtime: None, ..Attributes::from(metadata) }) {
            files::set_metadata(home, &attributes, &now)?;
        }
        Ok(difference)
    }

    /// Undoes what was changed of a user who was there, each part by itself.
    fn undo_parts(&self, world: &World, before: &UserFacts, terms: UndoTerms<'_>) -> Result<Undone> {
        let UserInverse { name, record, .. } = &self.inverse;
        self.refuse_mounted_home()?;
        let found = self.observe()?;
        let home = self.made_home(&found, Some(before.uid))?;
        let UserState::Present(now) = found else {
            let how = if home.is_some() { Undoing::Restored } else { Undoing::Already };
            if let Some(home) = home.filter(|_| !terms.dry_run) {
                tree::remove_at_once(&home)?;
            }
            return Ok(Undone::Back(how, self.states(&UserState::Absent)));
        };
        let shell = self.after.shell.as_ref().filter(|_| now.shell != before.shell);
        let shell_is_ours = shell.is_some_and(|shell| *shell == now.shell);
        let comment = self.after.comment.as_ref().filter(|_| now.comment != before.comment);
        let comment_is_ours = comment.is_some_and(|comment| *comment == now.comment);
        let mode = self.after.home_mode.as_ref().filter(|_| now.home_mode != before.home_mode);
        let password = self.after.password.filter(|_| now.password != before.password);
        let password_is_ours = password.is_some() && password == now.password;
        let other_home = if home.is_none() { self.other_home()? } else { None };
        if shell.is_none()
            && comment.is_none()
            && mode.is_none()
            && password.is_none()
            && home.is_none()
            && other_home.is_none()
            && !self.has_joined()?
            && !self.is_away()?
        {
            return Ok(Undone::Back(Undoing::Already, self.states(&UserState::Present(now))));
        }
        let mut differences = Vec::new();
        if let Some(shell) = shell.filter(|_| !shell_is_ours && !terms.force) {
            differences.push(format!("shell {}, neither {shell} nor {} as before", now.shell, before.shell));
        }
        if let Some(comment) = comment.filter(|_| !comment_is_ours && !terms.force) {
            let (now, before) = (&now.comment, &before.comment);
            differences.push(format!("comment `{now}`, neither `{comment}` nor `{before}` as before"));
        }
        if password.is_some() && !password_is_ours && !terms.force {
            differences.push("the password was changed".to_owned());
        }
        if let Some(stays) = other_home {
            if !terms.force {
                differences.push(stays);
            } else if !terms.dry_run {
                world.reporter.note(format!("{stays}, and stays"));
            }
        }
        if terms.dry_run {
            return Ok(if differences.is_empty() {
                Undone::Back(Undoing::Restored, BTreeMap::new())
            } else {
                Undone::Conflict(differences.join("\n"))
            });
        }
        record.write(world, Order::Removing, |databases| {
            let joined =
                record.after.lists.difference(&record.before.lists).cloned().collect::<BTreeSet<_>>();
            databases.remove_from_lists(name, |list| joined.contains(list));
            self.rejoin(databases);
            if password_is_ours || password.is_some() && terms.force {
                record.restore_password(world, name, databases)?;
            }
            if shell.is_some_and(|_| shell_is_ours || terms.force) {
                databases.set_shell(name, before.shell.as_path())?;
            }
            if comment.is_some_and(|_| comment_is_ours || terms.force) {
                databases.set_comment(name, &before.comment)?;
            }
            Ok(())
        })?;
        differences.extend(self.restore_home(&now, false)?);
        if let Some(home) = home {
            tree::remove_at_once(&home)?;
        }
        if differences.is_empty() {
            Ok(Undone::Back(Undoing::Restored, self.states(&self.observe()?)))
        } else {
            Ok(Undone::Conflict(differences.join("\n")))
        }
    }

    /// Whether a list names the user that it was put into.
    fn has_joined(&self) -> Result<bool> {
        let (record, now) = (&self.inverse.record, account::now()?.traces_of(&self.inverse.name));
        Ok(record.after.lists.difference(&record.before.lists).any(|list| now.lists.contains(list)))
    }
}

impl Kind for UserChange {
    fn target(&self) -> Target {
        Target::User(self.inverse.name.clone())
    }

    fn needs(&self) -> Result<Vec<Target>> {
        let (groups, own) = (self.after.groups.iter().chain(&self.after.group), &self.inverse.name);
        Ok(groups.filter(|group| *group != own).cloned().map(Target::Group).collect())
    }

    fn relied_on<'t>(&self, later: &[&'t Target], _world: &World) -> Result<Vec<&'t Target>> {
        let mut relying = relying_on_account(&self.inverse.name, later)?;
        if let Some(home) = self.made_at() {
            let is_in_home = |target: &Target| target.path().is_some_and(|path| path.starts_with(home));
            relying.extend(later.iter().filter(|target| is_in_home(target)));
        }
        Ok(relying)
    }

    fn summary(&self) -> String {
        let name = &self.inverse.name;
        match &self.before {
            UserState::Absent => match self.after.home.as_ref().filter(|_| self.after.needs_home()) {
                Some(home) => format!("make the user {name} with {home}"),
                None => format!("make the user {name}"),
            },
            UserState::Present(facts) => {
                let lacking = self.after.lacking(facts).join(", ");
                format!("change the user {name} ({lacking})")
            }
        }
    }

    fn recorded_difference(&self, _world: &World) -> Option<String> {
        let lines = match &self.before {
            UserState::Absent => self.after.named(),
            UserState::Present(facts) => self.after.lacking(facts),
        };
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    fn backups(&self, _world: &World, _recorded: Option<&Value>) -> Vec<Digest> {
        let record = &self.inverse.record;
        let password = self.after.password.iter().flat_map(|_| record.password_backup());
        let mut backups: Vec<Digest> = record.backups().into_iter().chain(password).collect();
        backups.dedup();
        backups
    }

    fn class(&self) -> Class {
        match &self.before {
            UserState::Absent => Class::Users,
            UserState::Present(_) if self.made_at().is_some() => Class::Homes,
            UserState::Present(_) => Class::Safe,
        }
    }

    fn conflict(&self, recorded: &Value, _world: &World) -> Option<Modification> {
        let UserState::Present(recorded) = serde_json::from_value(recorded.clone()).ok()? else {
            return None;
        };
        let UserState::Present(now) = &self.before else {
            return Some(Modification::Removed);
        };
        let mut lines = Vec::new();
        // What kkrun never left so is nothing that was modified.
        if self.after.shell.as_ref().is_some_and(|shell| *shell != now.shell) && recorded.shell != now.shell {
            lines.push(format!("shell {} → {}", recorded.shell, now.shell));
        }
        let sets_comment = self.after.comment.as_ref().is_some_and(|comment| *comment != now.comment);
        if sets_comment && recorded.comment != now.comment {
            lines.push(format!("comment `{}` → `{}`", recorded.comment, now.comment));
        }
        let mode = |facts: &UserFacts| facts.home_mode.clone().unwrap_or_else(|| "none".to_owned());
        let sets_mode = self.after.home_mode.is_some() && self.after.home_mode != now.home_mode;
        let sets_home = self.after.needs_home() && now.home_mode.is_none();
        if (sets_mode || sets_home) && recorded.home_mode != now.home_mode {
            lines.push(format!("home mode {} → {}", mode(&recorded), mode(now)));
        }
        let left =
            self.after.groups_lacking(now).filter(|group| recorded.groups.iter().any(|had| had == group));
        lines.extend(left.map(|group| format!("not in the group {group} any more")));
        let joined = self.after.groups_to_leave(now);
        let joined = joined.filter(|group| !recorded.groups.iter().any(|had| had == group));
        lines.extend(joined.map(|group| format!("in the group {group} again")));
        let is_other = self.after.password.is_some() && self.after.password != now.password;
        if is_other && recorded.password.is_some() && recorded.password != now.password {
            lines.push("another password".to_owned());
        }
        (!lines.is_empty()).then(|| Modification::properties(lines))
    }

    fn removed_by_undo(&self, _world: &World) -> Vec<PathBuf> {
        let UserInverse { name, record, .. } = &self.inverse;
        let mut gone: Vec<PathBuf> = self.made_at().map(Path::to_owned).into_iter().collect();
        let mut left = record.after.lists.clone();
        if self.makes_user() {
            gone.push(account_of(name));
            // It leaves those, too, that others put it into.
            left.extend(account::now().map(|now| now.traces_of(name).lists).unwrap_or_default());
        }
        let left = left.difference(&record.before.lists).filter(|(list, _)| *list == List::Members);
        gone.extend(left.map(|(_, group)| membership(group, name)));
        gone
    }

    fn predict(&self, _world: &World, predicted: &mut Predicted) {
        let Some(numbers) = self.inverse.record.after.user_and_group() else { return };
        let name = &self.inverse.name;
        if self.before == UserState::Absent {
            predicted.set_user(name, numbers);
            if self.made_group() {
                predicted.set_group(name, numbers.1);
            }
        }
        let mode = self.after.home_mode.as_deref().and_then(|mode| bits(mode).ok());
        if let Some(home) = self.made_at()
            && let Ok(tree) = new_home(numbers, mode)
        {
            predicted.set_tree(home, &Manifest::default(), &tree, true);
        }
    }

    fn on_doubt(&self) -> OnDoubt {
        OnDoubt::ActAgain
    }

    fn prepare(&self, world: &World) -> Result<()> {
        if self.after.password.is_some() && self.before != UserState::Absent {
            AccountRecord::save_password(&self.inverse.name, world)?;
        }
        self.inverse.record.save(&self.inverse.name, world)
    }

    fn repair(&self, _world: &World) -> Result<()> {
        if let Some(home) = self.made_at() {
            files::clear_leftover(home, &super::tag(home))?;
        }
        clear_leftover(Path::new(DIRECTORY))
    }

    fn act(&self, world: &World, _: Payload<'_>) -> Result<()> {
        self.inverse.record.write(world, Order::Adding, |databases| self.make(databases))?;
        let UserState::Present(facts) = self.observe()? else {
            return Err(Failure::new(format!("user `{}` not found", self.inverse.name))
                .kind(FailureKind::Missing)
                .into());
        };
        self.converge_home(&facts)
    }

    fn position(&self, world: &World) -> Result<Position> {
        self.repair(world)?;
        let (name, now, found) = (&self.inverse.name, self.observe()?, account::now()?);
        let is_before = match (&self.before, &now) {
            (UserState::Absent, _) => {
                now == self.before && found.traces_of(name) == self.inverse.record.before
            }
            // What was changed of a user who has gone went with the user.
            (UserState::Present(_), UserState::Absent) => true,
            (UserState::Present(_), _) => now == self.before && !self.has_joined()?,
        };
        if is_before {
            return Ok(Position::Before);
        }
        let UserState::Present(facts) = now else {
            return Ok(Position::Neither(format!("user `{name}` is in only some of the account databases")));
        };
        let mut whole = found.clone();
        self.make(&mut whole)?;
        let lacking = self.after.lacking(&facts);
        Ok(if !lacking.is_empty() {
            Position::Neither(lacking.join("\n"))
        } else if whole != found || Group::by_gid(facts.gid)?.is_none() {
            Position::Neither(format!("user `{name}` is in only some of the account databases"))
        } else {
            Position::After
        })
    }

    fn recorded(&self, _world: &World) -> Result<States> {
        let now = self.observe()?;
        match &now {
            UserState::Present(facts) if self.after.lacking(facts).is_empty() => Ok(self.states(&now)),
            UserState::Present(facts) => {
                anyhow::bail!(
                    "user `{}` is not as desired: {}",
                    self.inverse.name,
                    self.after.lacking(facts).join(", ")
                )
            }
            UserState::Absent => anyhow::bail!("user `{}` not found", self.inverse.name),
        }
    }

    fn loss(&self, _world: &World, _recorded: Option<&Value>) -> Result<Option<Loss>> {
        if let UserState::Present(before) = &self.before {
            return self.loss_of_home(before);
        }
        let name = &self.inverse.name;
        let now = self.observe()?;
        let uid = if let UserState::Present(facts) = &now { Some(facts.uid) } else { None };
        let home = self.made_home(&now, uid)?;
        let home = home.map(|home| format!("{} ({})", home.display(), TreeSize::of(&home)));
        let mail = self.new_mail()?.map(|(path, _)| path.display().to_string());
        let parts: Vec<String> = home.into_iter().chain(mail).collect();
        let what = match (&now, parts.is_empty()) {
            (UserState::Absent, true) => return Ok(None),
            (UserState::Absent, false) => format!("what the user {name} had: {}", parts.join(" and ")),
            (UserState::Present(_), true) => format!("the user {name}"),
            (UserState::Present(_), false) => format!("the user {name} with {}", parts.join(" and ")),
        };
        let stays = self.replaced_home()?.map_or_else(String::new, |stays| format!("; {stays}"));
        Ok(Some(Loss { class: Class::Users, what: format!("{what}{stays}") }))
    }

    fn undo(&self, world: &mut World, terms: UndoTerms<'_>) -> Result<Undone> {
        if !terms.dry_run {
            self.repair(world)?;
        }
        match &self.before {
            UserState::Absent => self.undo_making(world, terms),
            UserState::Present(before) => self.undo_parts(world, before, terms),
        }
    }
}

/// The user as kkrun made it, if that was recorded.
fn made(recorded: Option<&Value>) -> Option<UserFacts> {
    match serde_json::from_value(recorded?.clone()) {
        Ok(UserState::Present(facts)) => Some(facts),
        Ok(UserState::Absent) | Err(_) => None,
    }
}

/// The name of the primary group, or its number.
fn primary_of(facts: &UserFacts) -> String {
    let group = Group::by_gid(facts.gid).ok().flatten();
    group.map_or_else(|| facts.gid.to_string(), |group| group.name)
}

fn check_fixed(name: &str, desired: &DesiredUser, facts: &UserFacts) -> Result<()> {
    let difference = match (desired.uid, &desired.home) {
        (Some(uid), _) if uid != facts.uid => format!("number {}, not {uid}", facts.uid),
        (_, Some(home)) if *home != facts.home => format!("home `{}`, not `{home}`", facts.home),
        _ => match desired.group.as_ref().filter(|group| **group != primary_of(facts)) {
            Some(group) => format!("the primary group `{}`, not `{group}`", primary_of(facts)),
            None => return check_primary(name, desired, facts),
        },
    };
    Err(Failure::new(format!("user `{name}` already exists with {difference}"))
        .kind(FailureKind::Exists)
        .hint("ask for what is there, or change the user by hand: files and processes depend on it")
        .into())
}

/// Refuses to take a user out of the primary group, which is no member's list but the user's own line.
fn check_primary(name: &str, desired: &DesiredUser, facts: &UserFacts) -> Result<()> {
    match Some(primary_of(facts)).filter(|primary| desired.not_in_groups.contains(primary)) {
        None => Ok(()),
        Some(primary) => Err(Failure::new(format!(
            "cannot take the user `{name}` out of the group `{primary}`: it is the user's primary group"
        ))
        .kind(FailureKind::Refused)
        .hint(format!("give the user another one by hand: usermod --gid GROUP {name}"))
        .into()),
    }
}

fn look_at_new_home(home: &Path) -> Result<FileState> {
    let above = home.parent().unwrap_or(Path::new("/"));
    if mode_of(above)?.is_none() {
        return Err(Failure::new(format!(
            "cannot make the home `{}`: its parent directory does not exist",
            home.display()
        ))
        .kind(FailureKind::Missing)
        .hint("make that directory first with `file::make_dir`")
        .into());
    }
    let state = FileState::observe(home)?;
    match &state {
        FileState::Absent => Ok(state),
        FileState::Directory { metadata } if is_ownerless(metadata.owner)? => Ok(state),
        FileState::Directory { metadata } => {
            let owner = Account::by_uid(metadata.owner)?;
            let owner = owner.map_or_else(|| metadata.owner.to_string(), |account| account.name);
            Err(Failure::new(format!(
                "cannot use `{}` as the home: it already belongs to {owner}",
                home.display()
            ))
            .kind(FailureKind::Exists)
            .into())
        }
        other => Err(Failure::new(format!(
            "cannot use `{}` as the home: it is {}, not a directory",
            home.display(),
            other.kind_name()
        ))
        .kind(FailureKind::Exists)
        .into()),
    }
}

/// Whether a directory of this owner is free to become a new user's home: it is root's, or its owner is not known.
fn is_ownerless(owner: u32) -> Result<bool> {
    Ok(owner == 0 || Account::by_uid(owner)?.is_none())
}

fn mail_of(name: &str) -> PathBuf {
    Path::new("/var/mail").join(name)
}

fn bits(mode: &str) -> Result<u32> {
    u32::from_str_radix(mode, 8).with_context(|| format!("invalid mode `{mode}`: expected an octal number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> UserFacts {
        UserFacts {
            uid: 1001,
            gid: 4_000_000_000,
            home: PathText::new("/home/kim"),
            home_mode: Some("0750".to_owned()),
            shell: PathText::new("/bin/bash"),
            comment: String::new(),
            groups: vec!["kim".to_owned(), "video".to_owned()],
            password: Some(Digest::of(b"!")),
        }
    }

    fn desired(groups: &[&str]) -> DesiredUser {
        DesiredUser {
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            ..DesiredUser::default()
        }
    }

    #[test]
    fn an_empty_desired_state_holds_for_every_user() {
        assert_eq!(DesiredUser::default().lacking(&facts()), [""; 0]);
    }

    #[test]
    fn every_part_of_the_desired_state_is_compared() {
        let all = DesiredUser {
            uid: Some(5),
            home: Some(PathText::new("/srv/kim")),
            home_mode: Some("0700".to_owned()),
            shell: Some(PathText::new("/bin/sh")),
            group: Some("root".to_owned()),
            not_in_groups: vec!["video".to_owned(), "audio".to_owned()],
            password: Some(Digest::of(b"$y$other")),
            ..desired(&["vide", "video"])
        };
        assert_eq!(
            all.lacking(&facts()),
            [
                "number 1001 → 5",
                "home /home/kim → /srv/kim",
                "home mode 0750 → 0700",
                "shell /bin/bash → /bin/sh",
                "primary group 4000000000 → root",
                "add to vide",
                "take out of video",
                "set the password",
            ]
        );
        let homeless = UserFacts { home_mode: None, ..facts() };
        let desired = DesiredUser { home_mode: Some("0750".to_owned()), ..DesiredUser::default() };
        assert_eq!(desired.lacking(&homeless), ["make /home/kim"]);
    }

    #[test]
    fn another_number_home_or_primary_group_of_a_user_is_refused() {
        let desired = DesiredUser { uid: Some(5), ..DesiredUser::default() };
        let error = check_fixed("kim", &desired, &facts()).unwrap_err();
        assert_eq!(error.to_string(), "user `kim` already exists with number 1001, not 5");
        let desired = DesiredUser { group: Some("root".to_owned()), ..DesiredUser::default() };
        let error = check_fixed("kim", &desired, &facts()).unwrap_err();
        let said = "user `kim` already exists with the primary group `4000000000`, not `root`";
        assert_eq!(error.to_string(), said);
        check_fixed("kim", &desired, &UserFacts { gid: 0, ..facts() }).unwrap();
        check_fixed("kim", &super::tests::desired(&["x"]), &facts()).unwrap();
    }

    #[test]
    fn root_is_found_with_its_group() {
        let UserState::Present(root) = UserState::observe("root").unwrap() else { panic!("no root") };
        assert!(root.uid == 0 && root.groups.contains(&"root".to_owned()));
        assert_eq!(UserState::observe("no-such-user").unwrap(), UserState::Absent);
    }
}
