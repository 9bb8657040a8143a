//! The users and groups of the machine: looked up through every configured source, and changed in the six local
//! databases.
//!
//! A change edits lines: [`Databases`] holds the texts of all six, [`NewUser`] computes from them what useradd would
//! add, [`Traces`] is everything that names an account, and [`rewrite`] writes the new texts under the lock that every
//! tool takes. The tools themselves are not run: killed between two files, they leave an account that cannot be told
//! from an intended one.

mod databases;
mod home;
mod lock;
mod login_defs;
mod new_account;
mod transaction;

use std::ffi::CString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use nix::unistd;

pub use databases::{Database, Databases, Line, List, Traces};
pub use home::{make_home, new_home};
pub use lock::PATIENCE;
pub use login_defs::LoginDefs;
pub use new_account::{NewUser, Rules};
pub use transaction::{DIRECTORY, DatabaseFiles, Order, TAG, clear_leftover, rewrite};

use crate::failure::{Failure, FailureKind};

/// One entry of the user database, with the groups it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The login name.
    pub name: String,
    /// The user's number.
    pub uid: u32,
    /// The number of the primary group.
    pub gid: u32,
    /// The home directory, whether it exists or not.
    pub home: PathBuf,
    /// The login shell.
    pub shell: PathBuf,
    /// What is said about the user, such as the full name.
    pub comment: String,
    /// The numbers of all groups, the primary one among them, ascending.
    pub groups: Vec<u32>,
}

impl Account {
    /// The account of that exact name, if there is one.
    pub fn by_name(name: &str) -> Result<Option<Self>> {
        let found = unistd::User::from_name(name).with_context(|| format!("cannot look up user `{name}`"))?;
        if found.is_none() {
            check_absence("/etc/passwd", USER_FIELDS, |entry| entry.name == name)?;
        }
        found.map(Self::with_groups).transpose()
    }

    /// The account of that number, if there is one.
    pub fn by_uid(uid: u32) -> Result<Option<Self>> {
        let found = unistd::User::from_uid(unistd::Uid::from_raw(uid))
            .with_context(|| format!("cannot look up user {uid}"))?;
        if found.is_none() {
            check_absence("/etc/passwd", USER_FIELDS, |entry| entry.number == uid)?;
        }
        found.map(Self::with_groups).transpose()
    }

    /// The account of that name; an unknown name is a failure.
    pub fn existing(name: &str) -> Result<Self> {
        Self::by_name(name)?
            .ok_or_else(|| Failure::new(format!("user `{name}` not found")).kind(FailureKind::Missing).into())
    }

    /// The account that kkrun runs as: the one of its effective user, which may have no entry in a bare container.
    pub fn current() -> Result<Self> {
        let uid = unistd::geteuid().as_raw();
        Ok(Self::by_uid(uid)?.unwrap_or_else(|| {
            let gid = unistd::getegid().as_raw();
            let home = if uid == 0 { "/root" } else { "/" };
            Self {
                name: if uid == 0 { "root".to_owned() } else { uid.to_string() },
                uid,
                gid,
                home: home.into(),
                shell: "/bin/sh".into(),
                comment: String::new(),
                groups: vec![gid],
            }
        }))
    }

    /// The account that called sudo, when kkrun is root by sudo: the variable it sets is believed only as far as
    /// it names an existing user.
    pub fn sudo_caller() -> Result<Option<Self>> {
        if !unistd::geteuid().is_root() {
            return Ok(None);
        }
        let Some(uid) = std::env::var_os("SUDO_UID") else { return Ok(None) };
        let Some(uid) = uid.to_str().and_then(|uid| uid.parse().ok()) else {
            bail!("invalid `SUDO_UID`: expected the number of a user");
        };
        Self::by_uid(uid)
    }

    /// Whether the account is root.
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// Whether the account's primary group is private: named like the user, with no other member.
    pub fn has_private_group(&self) -> Result<bool> {
        let is_own = Group::by_gid(self.gid)?.is_some_and(|group| group.name == self.name);
        Ok(is_own && is_alone_in(&self.name, self.gid)?)
    }

    /// The names of the users in `/etc/passwd` whose primary group has this number.
    pub fn with_primary_group(gid: u32) -> Result<Vec<String>> {
        let text = text_of("/etc/passwd")?;
        let named = |line: &str| {
            let fields: Vec<&str> = line.split(':').collect();
            (fields.get(3)?.parse() == Ok(gid)).then(|| fields[0].to_owned())
        };
        Ok(text.lines().filter_map(named).collect())
    }

    fn with_groups(user: unistd::User) -> Result<Self> {
        let name = CString::new(user.name.as_str()).context("a user name contains a NUL byte")?;
        let mut groups: Vec<u32> = unistd::getgrouplist(&name, user.gid)
            .with_context(|| format!("cannot look up the groups of user `{}`", user.name))?
            .into_iter()
            .map(unistd::Gid::as_raw)
            .collect();
        let text = text_if_any("/etc/group")?;
        let lists = |entry: &Entry<'_>| entry.rest[0].split(',').any(|member| member == user.name);
        groups.extend(entries(&text, GROUP_FIELDS).filter(lists).map(|entry| entry.number));
        groups.sort_unstable();
        groups.dedup();
        Ok(Self {
            name: user.name,
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            home: user.dir,
            comment: user.gecos.to_string_lossy().into_owned(),
            shell: if user.shell == Path::new("") { "/bin/sh".into() } else { user.shell },
            groups,
        })
    }
}

/// Whether the user of that name is the only member of the group of this number: no one else is listed in it or has it
/// as primary group.
pub fn is_alone_in(name: &str, gid: u32) -> Result<bool> {
    let lists_others = |group: Group| group.members.iter().any(|member| member != name);
    if Group::by_gid(gid)?.is_some_and(lists_others) {
        return Ok(false);
    }
    let text = text_of("/etc/passwd")?;
    Ok(text.lines().all(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        fields.first() == Some(&name) || fields.get(3).and_then(|field| field.parse().ok()) != Some(gid)
    }))
}

/// How many fields a line of `/etc/passwd` has. Source: passwd(5).
const USER_FIELDS: usize = 7;
/// How many fields a line of `/etc/group` has. Source: group(5).
const GROUP_FIELDS: usize = 4;

/// One line that a lookup cannot but take for an entry.
struct Entry<'text> {
    name: &'text str,
    number: u32,
    /// What follows the number.
    rest: Vec<&'text str>,
}

/// The entries of a file. Comments, the marks of other sources and anything invalid are skipped, as the lookup does.
fn entries(text: &str, fields: usize) -> impl Iterator<Item = Entry<'_>> {
    text.lines().filter_map(move |line| {
        let mut words = line.split(':');
        let name =
            words.next().filter(|name| !name.is_empty() && !name.starts_with(['#', '+', '-', ' ', '\t']))?;
        let number = words.nth(1)?.parse().ok()?;
        let rest: Vec<&str> = words.collect();
        (rest.len() + 3 == fields).then_some(Entry { name, number, rest })
    })
}

/// The lookup asks one source after the other and skips one that fails, such as a file that cannot be opened because
/// too many are open: so an account that it does not find must be missing from the file too. Source: nsswitch.conf(5).
fn check_absence(file: &str, fields: usize, is_it: impl Fn(&Entry<'_>) -> bool) -> Result<()> {
    let text = text_if_any(file)?;
    if let Some(entry) = entries(&text, fields).find(|entry| is_it(entry)) {
        bail!("cannot look up `{}`: it is in `{file}`, but the lookup does not find it", entry.name);
    }
    Ok(())
}

/// What a file holds.
fn text_of(file: &str) -> Result<String> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read `{file}`"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What a file holds; empty if it does not exist, as in a bare container.
fn text_if_any(file: &str) -> Result<String> {
    if Path::new(file).try_exists().with_context(|| format!("cannot read `{file}`"))? {
        text_of(file)
    } else {
        Ok(String::new())
    }
}

/// One entry of the group database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The group's name.
    pub name: String,
    /// The group's number.
    pub gid: u32,
    /// The users listed in it; those whose primary group it is are not among them.
    pub members: Vec<String>,
}

impl Group {
    /// The group of that exact name, if there is one: `videographers` is not `video`.
    pub fn by_name(name: &str) -> Result<Option<Self>> {
        let found =
            unistd::Group::from_name(name).with_context(|| format!("cannot look up group `{name}`"))?;
        if found.is_none() {
            check_absence("/etc/group", GROUP_FIELDS, |entry| entry.name == name)?;
        }
        Ok(found.map(Self::from))
    }

    /// The group of that number, if there is one.
    pub fn by_gid(gid: u32) -> Result<Option<Self>> {
        let found = unistd::Group::from_gid(unistd::Gid::from_raw(gid))
            .with_context(|| format!("cannot look up group {gid}"))?;
        if found.is_none() {
            check_absence("/etc/group", GROUP_FIELDS, |entry| entry.number == gid)?;
        }
        Ok(found.map(Self::from))
    }
}

impl From<unistd::Group> for Group {
    fn from(group: unistd::Group) -> Self {
        Self { name: group.name, gid: group.gid.as_raw(), members: group.mem }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_found_by_name_and_by_number() {
        let root = Account::existing("root").unwrap();
        assert_eq!((root.uid, root.gid, root.home.as_path()), (0, 0, Path::new("/root")));
        assert!(root.groups.contains(&0));
        assert_eq!(Account::by_uid(0).unwrap(), Some(root));
    }

    #[test]
    fn names_are_matched_whole() {
        assert_eq!(Account::by_name("roo").unwrap(), None);
        assert_eq!(Group::by_name("daemo").unwrap(), None);
        assert_eq!(Group::by_name("daemon").unwrap().map(|group| group.gid), Some(1));
    }

    #[test]
    fn comments_other_sources_and_broken_lines_are_no_entries() {
        let text = "#old:x:777:kim\n+nis:x:1:\n-x:x:1:\n\nkim:x:broken:\nkim:x\nvideo:x:44:kim\n";
        let names: Vec<&str> = entries(text, GROUP_FIELDS).map(|entry| entry.name).collect();
        assert_eq!(names, ["video"]);
    }

    #[test]
    fn a_primary_group_leads_to_its_user() {
        assert_eq!(Account::with_primary_group(0).unwrap()[0], "root");
        assert_eq!(Account::with_primary_group(4_000_000_000).unwrap(), [""; 0]);
    }

    #[test]
    fn an_unknown_user_is_named() {
        let error = Account::existing("no-such-user").unwrap_err();
        assert_eq!(error.to_string(), "user `no-such-user` not found");
    }

    #[test]
    fn there_is_always_a_current_account() {
        let account = Account::current().unwrap();
        assert_eq!(account.uid, unistd::geteuid().as_raw());
        assert!(!account.groups.is_empty());
    }
}
