//! A user: made, or given another shell, home mode or more groups.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::unit::succeeded;
use super::{Kind, Loss, OnDoubt, Position, UndoTerms, Undone, World, linger, state_value};
use crate::failure::Failure;
use crate::journal::{Class, Undoing};
use crate::machine::account::{Account, Group};
use crate::machine::account_files::AccountFiles;
use crate::machine::account_lines::{AccountEntry, AccountLines};
use crate::machine::files::{self, Attributes, FileState, PathText};
use crate::machine::login_defs;
use crate::machine::mount;
use crate::machine::process::Command;
use crate::machine::skeleton;
use crate::machine::tree_size::TreeSize;
use crate::machine::user_processes;

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
    /// The names of all groups, the primary one among them.
    pub groups: Vec<String>,
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
            groups,
        }))
    }
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
        Err(error) => Err(error).with_context(|| format!("cannot look at `{}`", path.display())),
    }
}

/// What a user shall be; what is not said may be anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DesiredUser {
    /// The user's number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The home directory, which shall be there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub home: Option<PathText>,
    /// Its permission bits as four octal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub home_mode: Option<String>,
    /// The login shell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<PathText>,
    /// Groups that the user shall be in, besides others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// A new user gets a number of the range for services.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub system: bool,
}

impl DesiredUser {
    /// What a user lacks of it, a few words each.
    fn lacking(&self, facts: &UserFacts) -> Vec<String> {
        let mut lacking = Vec::new();
        if let Some(uid) = self.uid.filter(|uid| *uid != facts.uid) {
            lacking.push(format!("number {} instead of {uid}", facts.uid));
        }
        if let Some(home) = self.home.as_ref().filter(|home| **home != facts.home) {
            lacking.push(format!("home {} instead of {home}", facts.home));
        }
        if (self.home.is_some() || self.home_mode.is_some()) && facts.home_mode.is_none() {
            lacking.push(format!("no directory {}", facts.home));
        } else if let Some(mode) =
            self.home_mode.as_ref().filter(|mode| facts.home_mode.as_ref() != Some(mode))
        {
            lacking.push(format!(
                "home mode {} instead of {mode}",
                facts.home_mode.as_deref().unwrap_or("none")
            ));
        }
        if let Some(shell) = self.shell.as_ref().filter(|shell| **shell != facts.shell) {
            lacking.push(format!("shell {} instead of {shell}", facts.shell));
        }
        let groups: Vec<&str> = self.groups_lacking(facts).collect();
        if !groups.is_empty() {
            lacking.push(format!("not in {}", groups.join(", ")));
        }
        lacking
    }

    fn groups_lacking<'a>(&'a self, facts: &'a UserFacts) -> impl Iterator<Item = &'a str> {
        self.groups.iter().filter(|group| !facts.groups.contains(group)).map(String::as_str)
    }
}

/// A change to one user.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UserChange {
    before: UserState,
    after: DesiredUser,
    inverse: UserInverse,
}

/// What taking it back needs besides that.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct UserInverse {
    name: String,
    /// The home as it was; absent when kkrun makes it.
    home: FileState,
    /// The number of the group of the user's name, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<u32>,
    /// Whether there was mail for a user of that name.
    mail: bool,
    /// The groups that the user is put into.
    joined: Vec<String>,
    databases: AccountFiles,
}

impl UserChange {
    /// The change that makes `wish` true of the user; `None` when it is true. What was made or taken back
    /// `in_part` is made anew.
    ///
    /// # Errors
    /// When the user is there with another number or home: people's files depend on these.
    pub fn towards(name: &str, mut wish: DesiredUser, in_part: Option<Self>) -> Result<Option<Self>> {
        let before = UserState::observe(name)?;
        let is_new = before == UserState::Absent;
        let was_new = in_part.as_ref().is_some_and(|change| change.before == UserState::Absent);
        if (is_new || was_new) && wish.home.is_none() && !wish.system {
            wish.home = Some(PathText::new(Path::new("/home").join(name)));
        }
        if let UserState::Present(facts) = &before {
            check_fixed(name, &wish, facts)?;
        }
        // What was begun on a user who has gone since is of no more interest.
        if let Some(begun) = in_part.filter(|begun| !is_new || begun.before == UserState::Absent) {
            return Ok(Some(Self { after: wish, ..begun }));
        }
        let joined = match &before {
            UserState::Absent => wish.groups.clone(),
            UserState::Present(facts) => {
                if wish.lacking(facts).is_empty() {
                    return Ok(None);
                }
                wish.groups_lacking(facts).map(str::to_owned).collect()
            }
        };
        let home = match (&before, &wish.home) {
            (UserState::Present(facts), _) => Some(&facts.home),
            (UserState::Absent, home) => home.as_ref(),
        };
        let home = match home {
            Some(home) if is_new => look_at_new_home(home.as_path())?,
            Some(home) => FileState::observe(home.as_path())?,
            None => FileState::Absent,
        };
        let inverse = UserInverse {
            name: name.to_owned(),
            home,
            group: Group::by_name(name)?.map(|group| group.gid),
            mail: mail_of(name).exists(),
            joined,
            databases: AccountFiles::observe()?,
        };
        Ok(Some(Self { before, after: wish, inverse }))
    }

    /// The same change, of a user whom an inverse that failed has removed: what else there is may be somebody's by now.
    pub fn as_found(mut self) -> Result<Self> {
        if let Some(home) = &self.after.home {
            self.inverse.home = look_at_new_home(home.as_path())?;
        }
        self.inverse.mail = mail_of(&self.inverse.name).exists();
        Ok(self)
    }

    /// Makes the user, or what the user lacks.
    pub fn act(&self, world: &World) -> Result<()> {
        let acted = self.make(world);
        self.inverse.databases.tidied_after(acted, world.backups()?)
    }

    fn make(&self, world: &World) -> Result<()> {
        let found = self.observe()?;
        let half = match &found {
            UserState::Present(facts) if self.is_half_made(facts)? => Some(facts),
            _ => None,
        };
        let is_rest = half.is_some() || found == UserState::Absent;
        let rests = if is_rest { self.rests()? } else { Vec::new() };
        self.inverse.databases.remove_rests(&rests)?;
        if self.before == UserState::Absent && is_rest {
            let group = Group::by_name(&self.inverse.name)?.map(|group| group.gid);
            run(world, &self.useradd(half.map(|facts| facts.uid), group))?;
        }
        self.converge(world)
    }

    /// What is to go of a user who is none, in whatever database it stands; a group that is whole is not.
    fn rests(&self) -> Result<Vec<AccountEntry<'_>>> {
        let name = &self.inverse.name;
        let group = Group::by_name(name)?.is_none().then_some(AccountEntry::Group(name));
        Ok([AccountEntry::User(name)].into_iter().chain(group).collect())
    }

    /// Whether a tool died before a user who is being made was one: nobody has given the user a password, or used the
    /// home, so that nothing is lost when the user is made once more, with the same number.
    fn is_half_made(&self, facts: &UserFacts) -> Result<bool> {
        if self.before != UserState::Absent {
            return Ok(false);
        }
        let (name, lines) = (&self.inverse.name, AccountLines::read()?);
        if !lines.has_shadow(name) {
            return Ok(true);
        }
        let range =
            login_defs::number("UID_MIN").unwrap_or(1000)..=login_defs::number("UID_MAX").unwrap_or(60000);
        let is_ordinary = !self.after.system && self.after.uid.is_none_or(|uid| range.contains(&uid));
        let gets_subordinates = is_ordinary && login_defs::number("SUB_UID_COUNT") != Some(0);
        let home = facts.home.as_path();
        Ok(gets_subordinates
            && !lines.has_subordinates(name, facts.uid)
            && lines.is_locked(name)
            && !(self.inverse.home.is_absent() && skeleton::is_used(home, facts.uid)?))
    }

    /// Whether the databases hold of the user neither what was before nor what shall be, but what a tool left that
    /// died.
    fn is_in_part(&self) -> Result<bool> {
        let name = &self.inverse.name;
        let databases = &self.inverse.databases;
        if databases.hold_rests(&[])? || !self.groups_in_part()?.is_empty() {
            return Ok(true);
        }
        match (&self.before, self.observe()?) {
            (UserState::Absent, UserState::Absent) => databases.hold_rests(&self.rests()?),
            (UserState::Absent, UserState::Present(facts)) => {
                let lacks_shadow = AccountLines::read()?.lacks_group_shadow(name);
                Ok(self.is_half_made(&facts)? || (self.inverse.group.is_none() && lacks_shadow))
            }
            _ => Ok(false),
        }
    }

    /// The groups that one database puts the user into and the other does not, since kkrun was there.
    fn groups_in_part(&self) -> Result<Vec<&str>> {
        if self.after.groups.is_empty() || self.inverse.databases.are_unchanged()? {
            return Ok(Vec::new());
        }
        let lines = AccountLines::read()?;
        let in_part = |group: &&String| !lines.agree_on_member(&self.inverse.name, group);
        Ok(self.after.groups.iter().filter(in_part).map(String::as_str).collect())
    }

    /// Whether the home is kkrun's and in the middle of being made.
    fn home_is_torn(&self, home: &Path, owner: u32) -> Result<bool> {
        Ok(self.inverse.home.is_absent() && self.after.home.is_some() && skeleton::is_torn_copy(home, owner)?)
    }

    /// The command that makes the user, with this number and in this group of the user's name if they are given.
    fn useradd(&self, number: Option<u32>, group: Option<u32>) -> Vec<String> {
        let wish = &self.after;
        let mut argv = vec!["useradd".to_owned()];
        let mut option = |name: &str, value: String| argv.extend([name.to_owned(), value]);
        if let Some(uid) = wish.uid.or(number) {
            option("--uid", uid.to_string());
        }
        if let Some(home) = &wish.home {
            option("--home-dir", home.to_string());
        }
        if let Some(mode) = &wish.home_mode {
            option("--key", format!("HOME_MODE={mode}"));
        }
        if let Some(shell) = &wish.shell {
            option("--shell", shell.to_string());
        }
        if !wish.groups.is_empty() {
            option("--groups", wish.groups.join(","));
        }
        if let Some(gid) = group {
            option("--gid", gid.to_string());
        } else {
            argv.push("--user-group".to_owned());
        }
        if wish.system {
            argv.push("--system".to_owned());
        }
        let is_made = wish.home.is_some() && self.inverse.home.is_absent();
        argv.push(if is_made { "--create-home" } else { "--no-create-home" }.to_owned());
        argv.push(self.inverse.name.clone());
        argv
    }

    /// Adds what is lacking, also after a run that died while it made the user.
    fn converge(&self, world: &World) -> Result<()> {
        let name = &self.inverse.name;
        let UserState::Present(facts) = UserState::observe(name)? else {
            return Err(Failure::new(format!("there is no user `{name}`")).kind("missing").into());
        };
        if Group::by_gid(facts.gid)?.is_none() {
            run(world, &["groupadd".into(), "--gid".into(), facts.gid.to_string(), name.clone()])?;
        }
        if self.before == UserState::Absent {
            self.inverse.databases.complete_group(name)?;
        }
        let mut groups: Vec<&str> = self.after.groups_lacking(&facts).collect();
        groups.extend(self.groups_in_part()?);
        if !groups.is_empty() {
            run(
                world,
                &["usermod".into(), "--append".into(), "--groups".into(), groups.join(","), name.clone()],
            )?;
        }
        if let Some(shell) = self.after.shell.as_ref().filter(|shell| **shell != facts.shell) {
            run(world, &["usermod".into(), "--shell".into(), shell.to_string(), name.clone()])?;
        }
        self.converge_home(world, &facts)
    }

    fn converge_home(&self, world: &World, facts: &UserFacts) -> Result<()> {
        let home = facts.home.as_path();
        let is_torn = self.home_is_torn(home, facts.uid)?;
        if is_torn {
            files::remove_tree(home, files::identity(home)?)?;
        }
        let is_desired = self.after.home.is_some() || self.after.home_mode.is_some();
        let is_made = is_torn || (is_desired && facts.home_mode.is_none());
        if is_made {
            let umask = login_defs::value("UMASK").unwrap_or_else(|| "022".to_owned());
            let skeleton = login_defs::skeleton().display().to_string();
            run(world, &["mkhomedir_helper".into(), self.inverse.name.clone(), umask, skeleton])?;
        }
        let FileState::Directory { metadata } = FileState::observe(home)? else { return Ok(()) };
        let mut attributes = Attributes { mtime: None, ..Attributes::from(&metadata) };
        if let Some(mode) = &self.after.home_mode {
            attributes.mode = bits(mode)?;
        } else if let Some(mode) = login_defs::number("HOME_MODE").filter(|_| is_made) {
            attributes.mode = mode;
        }
        // A new user finds a home that nobody owns, or that a dead run made and did not give away.
        if self.after.home.is_some() && is_nobodys(metadata.owner)? {
            (attributes.owner, attributes.group) = (facts.uid, facts.gid);
        }
        if (attributes.mode, attributes.owner, attributes.group)
            != (metadata.mode, metadata.owner, metadata.group)
        {
            files::set_metadata(home, &attributes, &FileState::Directory { metadata })?;
        }
        Ok(())
    }

    fn observe(&self) -> Result<UserState> {
        UserState::observe(&self.inverse.name)
    }

    fn states(&self, state: &UserState) -> BTreeMap<String, Value> {
        [(self.target(), state_value(state))].into()
    }

    /// Takes back the making of a user.
    fn undo_making(&self, world: &World, terms: UndoTerms<'_>) -> Result<Undone> {
        let made = made(terms.recorded);
        let now = self.observe()?;
        if let (Some(made), UserState::Present(now)) = (&made, &now)
            && made.uid != now.uid
        {
            let name = &self.inverse.name;
            return Ok(Undone::Conflict(format!(
                "kkrun made the user {name} with number {}; the one of that name now has {}",
                made.uid, now.uid
            )));
        }
        if let (None, UserState::Present(now), Some(home)) = (&made, &now, &self.after.home)
            && now.home != *home
        {
            let name = &self.inverse.name;
            return Ok(Undone::Conflict(format!(
                "{name} has the home {}; kkrun was to make {home}",
                now.home
            )));
        }
        let facts = match (&now, &made) {
            (UserState::Present(facts), _) => Some(facts.clone()),
            (UserState::Absent, made) => made.clone(),
        };
        let left_home = self.made_home(facts.as_ref(), made.is_some())?;
        let is_gone = now == UserState::Absent && left_home.is_none();
        if is_gone && self.group_is_as_before(made.as_ref())? && !self.is_in_part()? {
            if !terms.dry_run {
                self.inverse.databases.restore_copies(world.backups()?)?;
            }
            return Ok(Undone::Back(Undoing::Already, self.states(&now)));
        }
        // With the account gone, a home that stays would belong to a number that the next user gets. A mount at the home
        // itself hides whose it is.
        if let Some(home) = self.after.home.as_ref().filter(|_| self.inverse.home.is_absent()) {
            mount::refuse_within([files::canonical(home.as_path())?])?;
        }
        if terms.dry_run {
            return Ok(Undone::Back(Undoing::Restored, BTreeMap::new()));
        }
        if let UserState::Present(now) = &now {
            self.remove_user(world, now)?;
        }
        self.restore_group(world, facts.as_ref())?;
        self.inverse.databases.remove_rests(&self.rests()?)?;
        self.remove_what_the_user_had(facts.as_ref(), left_home.as_deref())?;
        self.inverse.databases.restore_copies(world.backups()?)?;
        Ok(Undone::Back(Undoing::Restored, self.states(&self.observe()?)))
    }

    /// Whether the group of the user's name is as it was; one that is somebody else's is nobody's business.
    fn group_is_as_before(&self, made: Option<&UserFacts>) -> Result<bool> {
        let name = &self.inverse.name;
        let is_whole = || Ok(!AccountLines::read()?.lacks_group_shadow(name));
        match (self.inverse.group, Group::by_name(name)?) {
            (Some(_), None) => Ok(false),
            (Some(_), Some(_)) => is_whole(),
            (None, Some(group)) => Ok(!self.made_group(&group, made)),
            (None, None) => Ok(true),
        }
    }

    /// Whether kkrun made this group with the user.
    fn made_group(&self, group: &Group, made: Option<&UserFacts>) -> bool {
        self.inverse.group.is_none()
            && made.is_some_and(|made| made.gid == group.gid)
            && group.members.iter().all(|member| *member == self.inverse.name)
    }

    /// Brings back the group of the user's name that the tools remove with the user, or removes the one they made.
    fn restore_group(&self, world: &World, made: Option<&UserFacts>) -> Result<()> {
        let name = &self.inverse.name;
        match (self.inverse.group, Group::by_name(name)?) {
            (Some(gid), None) => {
                run(world, &["groupadd".into(), "--gid".into(), gid.to_string(), name.clone()])
            }
            (Some(_), Some(_)) => self.inverse.databases.complete_group(name),
            (None, Some(group))
                if self.made_group(&group, made) && Account::with_primary_group(group.gid)?.is_none() =>
            {
                run(world, &["groupdel".into(), name.clone()])
            }
            (None, _) => Ok(()),
        }
    }

    /// The home that kkrun made, if it is still there and still the user's: nobody's, when nothing is known of the
    /// user any more. Of a user who was not `recorded` it may be in the middle of being made.
    fn made_home(&self, facts: Option<&UserFacts>, recorded: bool) -> Result<Option<PathBuf>> {
        use std::os::unix::fs::MetadataExt as _;
        let Some(home) = self.after.home.as_ref().filter(|_| self.inverse.home.is_absent()) else {
            return Ok(None);
        };
        let home = home.as_path();
        let Ok(metadata) = std::fs::symlink_metadata(home) else { return Ok(None) };
        let owner = metadata.uid();
        let is_the_users = match facts {
            Some(facts) => owner == facts.uid,
            None => Account::by_uid(owner)?.is_none(),
        };
        let may_be_torn = !recorded && owner == 0;
        let is_made = is_the_users || (may_be_torn && self.home_is_torn(home, owner)?);
        Ok((metadata.is_dir() && is_made).then(|| home.to_owned()))
    }

    fn remove_user(&self, world: &World, facts: &UserFacts) -> Result<()> {
        let name = &self.inverse.name;
        linger::disable(world, name)?;
        if linger::logind_runs(world)? {
            // Fails when the user is not logged in, which is as desired.
            world.look(&Command::new(["loginctl", "terminate-user", name]))?;
        }
        if facts.uid != 0 && Account::by_uid(facts.uid)?.is_some_and(|account| account.name == *name) {
            user_processes::end(facts.uid, &world.processes)?;
        }
        run(world, &["userdel".into(), name.clone()])
    }

    fn remove_what_the_user_had(&self, facts: Option<&UserFacts>, made_home: Option<&Path>) -> Result<()> {
        let mail = mail_of(&self.inverse.name);
        if !self.inverse.mail && mail.exists() {
            files::remove(&mail, &FileState::observe(&mail)?, "accounts")?;
        }
        match (made_home, facts) {
            (Some(home), _) => files::remove_tree(home, files::identity(home)?),
            (None, Some(facts)) => self.restore_home(facts, true).map(drop),
            (None, None) => Ok(()),
        }
    }

    /// Gives a home that was there the permissions and, for a user who goes, the owner that it had. Says what
    /// somebody else changed.
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

    /// Takes back what was changed of a user who was there: each part by itself.
    fn undo_parts(&self, world: &World, before: &UserFacts, terms: UndoTerms<'_>) -> Result<Undone> {
        let name = &self.inverse.name;
        let UserState::Present(now) = self.observe()? else {
            return Ok(Undone::Back(Undoing::Already, self.states(&UserState::Absent)));
        };
        let joined: Vec<&String> =
            self.inverse.joined.iter().filter(|group| now.groups.contains(group)).collect();
        let members: Vec<AccountEntry<'_>> =
            self.inverse.joined.iter().map(|group| AccountEntry::Member { user: name, group }).collect();
        let shell = self.after.shell.as_ref().filter(|_| now.shell != before.shell);
        let shell_is_ours = shell.is_some_and(|shell| *shell == now.shell);
        let mode = self.after.home_mode.as_ref().filter(|_| now.home_mode != before.home_mode);
        let rests = joined.is_empty() && self.inverse.databases.hold_rests(&members)?;
        if joined.is_empty() && !rests && shell.is_none() && mode.is_none() {
            if !terms.dry_run {
                self.inverse.databases.restore_copies(world.backups()?)?;
            }
            return Ok(Undone::Back(Undoing::Already, self.states(&UserState::Present(now))));
        }
        let mut differences = Vec::new();
        if let Some(shell) = shell.filter(|_| !shell_is_ours && !terms.force) {
            differences.push(format!("shell {}, neither {shell} nor {} as before", now.shell, before.shell));
        }
        if terms.dry_run {
            return Ok(if differences.is_empty() {
                Undone::Back(Undoing::Restored, BTreeMap::new())
            } else {
                Undone::Conflict(differences.join("\n"))
            });
        }
        for group in joined {
            run(world, &["gpasswd".into(), "--delete".into(), name.clone(), group.clone()])?;
        }
        self.inverse.databases.remove_rests(&members)?;
        if shell.is_some() && (shell_is_ours || terms.force) {
            run(world, &["usermod".into(), "--shell".into(), before.shell.to_string(), name.clone()])?;
        }
        differences.extend(self.restore_home(&now, false)?);
        self.inverse.databases.restore_copies(world.backups()?)?;
        if differences.is_empty() {
            Ok(Undone::Back(Undoing::Restored, self.states(&self.observe()?)))
        } else {
            Ok(Undone::Conflict(differences.join("\n")))
        }
    }
}

impl Kind for UserChange {
    fn target(&self) -> String {
        user_target(&self.inverse.name)
    }

    fn summary(&self) -> String {
        let name = &self.inverse.name;
        match &self.before {
            UserState::Absent => match &self.after.home {
                Some(home) => format!("make the user {name} with {home}"),
                None => format!("make the user {name}"),
            },
            UserState::Present(facts) => {
                let lacking = self.after.lacking(facts).join(", ");
                format!("change the user {name} ({lacking})")
            }
        }
    }

    fn class(&self) -> Class {
        if self.before == UserState::Absent { Class::Users } else { Class::Safe }
    }

    fn on_doubt(&self) -> OnDoubt {
        OnDoubt::ActAgain
    }

    fn prepare(&self, world: &World) -> Result<()> {
        self.inverse.databases.save(world.backups()?)
    }

    fn position(&self, _world: &World) -> Result<Position> {
        let now = self.observe()?;
        if self.is_in_part()? {
            let name = &self.inverse.name;
            return Ok(Position::Neither(format!("only some of the databases know of the user {name}")));
        }
        if now == self.before && self.inverse.databases.have_their_copies()? {
            return Ok(Position::Before);
        }
        let UserState::Present(facts) = now else {
            // Whatever was changed of a user who has gone since went too.
            return Ok(match &self.before {
                UserState::Present(_) => Position::Before,
                UserState::Absent => Position::Neither(format!("there is no user {}", self.inverse.name)),
            });
        };
        let mut lacking = self.after.lacking(&facts);
        if self.home_is_torn(facts.home.as_path(), facts.uid)? {
            lacking.push(format!("{} in part", facts.home));
        }
        Ok(if lacking.is_empty() && Group::by_gid(facts.gid)?.is_some() {
            Position::After
        } else {
            Position::Neither(lacking.join("\n"))
        })
    }

    fn recorded(&self, _world: &World) -> Result<BTreeMap<String, Value>> {
        let now = self.observe()?;
        match &now {
            UserState::Present(facts) if self.after.lacking(facts).is_empty() => Ok(self.states(&now)),
            UserState::Present(facts) => {
                anyhow::bail!("user `{}`: {}", self.inverse.name, self.after.lacking(facts).join(", "))
            }
            UserState::Absent => anyhow::bail!("there is no user `{}`", self.inverse.name),
        }
    }

    fn loss(&self, _world: &World, _recorded: Option<&Value>) -> Result<Option<Loss>> {
        if self.before != UserState::Absent {
            return Ok(None);
        }
        let name = &self.inverse.name;
        let loss = |what| Some(Loss { class: Class::Users, what });
        match self.observe()? {
            UserState::Present(facts) => Ok(loss(match self.made_home(Some(&facts), false)? {
                Some(home) => {
                    format!("the user {name} with {} ({})", home.display(), TreeSize::of(&home))
                }
                None => format!("the user {name}"),
            })),
            UserState::Absent => {
                let left = self.after.home.as_ref().filter(|_| self.inverse.home.is_absent());
                let left = left.filter(|home| home.as_path().is_dir());
                Ok(left.and_then(|home| {
                    loss(format!("{home}, the home of {name} ({})", TreeSize::of(home.as_path())))
                }))
            }
        }
    }

    fn undo(&self, world: &mut World, terms: UndoTerms<'_>) -> Result<Undone> {
        let is_preview = terms.dry_run;
        let undone = match &self.before {
            UserState::Absent => self.undo_making(world, terms),
            UserState::Present(before) => self.undo_parts(world, before, terms),
        };
        if is_preview { undone } else { self.inverse.databases.tidied_after(undone, world.backups()?) }
    }
}

/// The canonical name of a user as a target.
pub fn user_target(name: &str) -> String {
    format!("user:{name}")
}

/// The user as kkrun made it, if that was recorded.
fn made(recorded: Option<&Value>) -> Option<UserFacts> {
    match serde_json::from_value(recorded?.clone()) {
        Ok(UserState::Present(facts)) => Some(facts),
        Ok(UserState::Absent) | Err(_) => None,
    }
}

fn check_fixed(name: &str, wish: &DesiredUser, facts: &UserFacts) -> Result<()> {
    let difference = match (wish.uid, &wish.home) {
        (Some(uid), _) if uid != facts.uid => format!("the number {}, not {uid}", facts.uid),
        (_, Some(home)) if *home != facts.home => format!("the home {}, not {home}", facts.home),
        _ => return Ok(()),
    };
    Err(Failure::new(format!("the user `{name}` is there and has {difference}"))
        .kind("exists")
        .hint("files and processes depend on it: move them by hand, or state what is there")
        .into())
}

fn look_at_new_home(home: &Path) -> Result<FileState> {
    let above = home.parent().unwrap_or(Path::new("/"));
    if mode_of(above)?.is_none() {
        return Err(Failure::new(format!("there is no directory `{}`", above.display()))
            .kind("missing")
            .hint("make it first: file::make_dir")
            .into());
    }
    let state = FileState::observe(home)?;
    match &state {
        FileState::Absent => Ok(state),
        FileState::Directory { metadata } if is_nobodys(metadata.owner)? => Ok(state),
        FileState::Directory { metadata } => {
            let owner = Account::by_uid(metadata.owner)?;
            let owner = owner.map_or_else(|| metadata.owner.to_string(), |account| account.name);
            Err(Failure::new(format!("`{}` is there and belongs to {owner}", home.display()))
                .kind("exists")
                .into())
        }
        other => Err(Failure::new(format!("`{}` is a {}, not a directory", home.display(), other.noun()))
            .kind("exists")
            .into()),
    }
}

/// Whether a directory of this owner is root's or nobody's: free to become a new user's home.
fn is_nobodys(owner: u32) -> Result<bool> {
    Ok(owner == 0 || Account::by_uid(owner)?.is_none())
}

fn mail_of(name: &str) -> PathBuf {
    Path::new("/var/mail").join(name)
}

fn bits(mode: &str) -> Result<u32> {
    u32::from_str_radix(mode, 8).with_context(|| format!("`{mode}` is no octal mode"))
}

/// Runs one of the tools that change users and groups. It takes a moment and is not stopped half-way.
pub(super) fn run(world: &World, argv: &[String]) -> Result<()> {
    let mut command = Command::new(argv);
    command.outlasts_interrupt = true;
    let label = shell_words::join(argv);
    succeeded(&world.run(&command, &label)?, &label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> UserFacts {
        UserFacts {
            uid: 1001,
            gid: 1001,
            home: PathText::new("/home/kim"),
            home_mode: Some("0750".to_owned()),
            shell: PathText::new("/bin/bash"),
            groups: vec!["kim".to_owned(), "video".to_owned()],
        }
    }

    fn wish(groups: &[&str]) -> DesiredUser {
        DesiredUser {
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            ..DesiredUser::default()
        }
    }

    #[test]
    fn an_empty_wish_holds_of_everybody() {
        assert_eq!(DesiredUser::default().lacking(&facts()), [""; 0]);
    }

    #[test]
    fn every_part_of_a_wish_is_compared() {
        let all = DesiredUser {
            uid: Some(5),
            home: Some(PathText::new("/srv/kim")),
            home_mode: Some("0700".to_owned()),
            shell: Some(PathText::new("/bin/sh")),
            ..wish(&["vide", "video"])
        };
        assert_eq!(
            all.lacking(&facts()),
            [
                "number 1001 instead of 5",
                "home /home/kim instead of /srv/kim",
                "home mode 0750 instead of 0700",
                "shell /bin/bash instead of /bin/sh",
                "not in vide",
            ]
        );
        let homeless = UserFacts { home_mode: None, ..facts() };
        let wish = DesiredUser { home_mode: Some("0750".to_owned()), ..DesiredUser::default() };
        assert_eq!(wish.lacking(&homeless), ["no directory /home/kim"]);
    }

    #[test]
    fn another_number_or_home_of_a_user_is_refused() {
        let wish = DesiredUser { uid: Some(5), ..DesiredUser::default() };
        let error = check_fixed("kim", &wish, &facts()).unwrap_err();
        assert_eq!(error.to_string(), "the user `kim` is there and has the number 1001, not 5");
        check_fixed("kim", &super::tests::wish(&["x"]), &facts()).unwrap();
    }

    #[test]
    fn a_new_user_is_made_in_one_command() {
        let change = |home: FileState| UserChange {
            before: UserState::Absent,
            after: DesiredUser {
                home: Some(PathText::new("/home/kim")),
                home_mode: Some("0750".to_owned()),
                ..wish(&["video", "audio"])
            },
            inverse: UserInverse {
                name: "kim".to_owned(),
                home,
                group: None,
                mail: false,
                joined: Vec::new(),
                databases: AccountFiles::default(),
            },
        };
        assert_eq!(
            change(FileState::Absent).useradd(None, None).join(" "),
            "useradd --home-dir /home/kim --key HOME_MODE=0750 --groups video,audio --user-group --create-home kim"
        );
        let there = FileState::directory(&Attributes::new(0o755, 0, 0));
        assert_eq!(
            change(there).useradd(Some(1007), Some(7)).join(" "),
            "useradd --uid 1007 --home-dir /home/kim --key HOME_MODE=0750 --groups video,audio --gid 7 --no-create-home kim"
        );
    }

    #[test]
    fn root_is_found_with_its_group() {
        let UserState::Present(root) = UserState::observe("root").unwrap() else { panic!("no root") };
        assert!(root.uid == 0 && root.groups.contains(&"root".to_owned()));
        assert_eq!(UserState::observe("nobody-of-that-name").unwrap(), UserState::Absent);
    }
}
