//! `user::` queries users, and brings them to their desired state.

use std::path::Path;

use anyhow::{Result, bail};
use rhai::plugin::*;
use serde::Deserialize;

use super::file::{Mode, absolute};
use super::shorter::namespace;
use crate::change::{Change, DesiredUser, LingerChange, Payload, UserChange, UserState};
use crate::failure::{Failure, FailureKind};
use crate::machine::account::{Account, Group};
use crate::machine::files::PathText;
use crate::script::{Host, OptionSet, Raised, Unpredictable, act, look, options_of};
use crate::target::Target;

pub(super) fn module() -> rhai::Module {
    namespace(exported_manifest!(functions), &[("ensure", 1)])
}

pub(super) fn options(function: &str) -> Option<OptionSet> {
    match function {
        "ensure" => Some(OptionSet::of::<Options>()),
        _ => None,
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    uid: Option<u32>,
    home: Option<String>,
    home_mode: Option<Mode>,
    shell: Option<String>,
    groups: Vec<String>,
    system: bool,
}

impl Options {
    fn desired(self) -> Result<DesiredUser> {
        let mut groups = self.groups;
        groups.sort();
        groups.dedup();
        Ok(DesiredUser {
            uid: self.uid,
            home: self.home.as_deref().map(absolute).transpose()?.map(PathText::new),
            home_mode: self.home_mode.map(|Mode(bits)| format!("{bits:04o}")),
            shell: self.shell.as_deref().map(absolute).transpose()?.map(PathText::new),
            groups,
            system: self.system,
        })
    }
}

#[export_module(manifest)]
mod functions {
    use super::*;

    /// Whether a user of exactly that name exists.
    ///
    /// ```rhai
    /// assert(user::exists("root") && !user::exists("roo"));
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn exists(context: NativeCallContext, name: &str) -> Raised<bool> {
        look(&context, |host| {
            refuse_unknown(host, name)?;
            Ok(Account::by_name(name)?.is_some())
        })
    }

    /// The user `name`: `#{ name, uid, gid, home, home_mode, shell, groups }`, or `()` if it does not exist. `groups` are
    /// the names of all groups, including the primary one; `home_mode` is a string such as `"0750"`, or `()` if the home
    /// does not exist.
    ///
    /// ```rhai
    /// let root = user::get("root");
    /// assert(root.uid == 0 && root.home == "/root" && "root" in root.groups);
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn get(context: NativeCallContext, name: &str) -> Raised<Dynamic> {
        look(&context, |host| {
            refuse_unknown(host, name)?;
            let UserState::Present(facts) = UserState::observe(name)? else { return Ok(Dynamic::UNIT) };
            let groups: rhai::Array = facts.groups.into_iter().map(Dynamic::from).collect();
            let mut map = rhai::Map::new();
            map.insert("name".into(), name.into());
            map.insert("uid".into(), i64::from(facts.uid).into());
            map.insert("gid".into(), i64::from(facts.gid).into());
            map.insert("home".into(), facts.home.to_string().into());
            map.insert("home_mode".into(), facts.home_mode.map_or(Dynamic::UNIT, Dynamic::from));
            map.insert("shell".into(), facts.shell.to_string().into());
            map.insert("groups".into(), groups.into());
            Ok(Dynamic::from_map(map))
        })
    }

    /// Creates the user `name` unless it exists, with the home `/home/NAME`, a group of the same name and no password. An
    /// existing user keeps what no option names. Undo restores each part that was not modified since. A user that kkrun
    /// created is removed, with the home that kkrun created, after a rollback asked (`--purge users`); any other user stays.
    /// Options: `uid`, `home` (of an existing user these cannot be changed, because files depend on them), `home_mode`,
    /// `shell` (a program that is there), `groups` (added to those the user is in), `system: true` (a number from the range for
    /// services, and a home only if `home` is given).
    ///
    /// ```rhai,booted
    /// assert(user::ensure("robin") && !user::ensure("robin"));
    /// ```
    ///
    /// ```rhai,booted
    /// user::ensure("kim", #{ home_mode: "0750", shell: "/bin/bash", groups: ["video"] });
    /// assert("video" in user::get("kim").groups);
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn ensure(context: NativeCallContext, name: &str, options: rhai::Map) -> Raised<bool> {
        act(&context, |host| make(host, name, options_of(options)?))
    }

    /// Lets the services of the user `name` run from boot on, without a login, and starts the user's service manager if it does
    /// not run. Undo ends the lingering.
    ///
    /// ```rhai,booted
    /// user::ensure("lee");
    /// assert(user::linger("lee") && !user::linger("lee"));
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn linger(context: NativeCallContext, name: &str) -> Raised<bool> {
        act(&context, |host| {
            if !would_have_changed(host, &Target::User(name.to_owned())) {
                Account::existing(name)?;
            }
            host.seen().asks_for(|| Target::Linger(name.to_owned()));
            let Some(change) = LingerChange::towards(&host.seen().world, name)? else { return Ok(false) };
            host.session().perform(&Change::Linger(change), Payload::Nothing)
        })
    }
}

fn make(host: &Host, name: &str, options: Options) -> Result<bool> {
    // Tools with other rules have made names such as `first.last`.
    if Account::by_name(name)?.is_none() {
        check_name(name)?;
    }
    host.seen().asks_for(|| Target::User(name.to_owned()));
    let desired = options.desired()?;
    if let Some(shell) = &desired.shell {
        check_shell(host, name, shell.as_path())?;
    }
    for group in &desired.groups {
        let is_to_come = would_have_changed(host, &Target::Group(group.clone()))
            || would_have_changed(host, &Target::User(group.clone()));
        if !is_to_come && Group::by_name(group)?.is_none() {
            bail!(
                Failure::new(format!("group `{group}` not found"))
                    .kind(FailureKind::Missing)
                    .hint("create it first with group::ensure")
            );
        }
    }
    let target = Target::User(name.to_owned());
    let user = |change| if let Some(Change::User(change)) = change { Some(change) } else { None };
    let (in_part, half_undone) = (user(doubtful(host, &target)?), user(half_undone(host, &target)?));
    let Some(change) = UserChange::towards(name, desired, in_part, half_undone.as_ref())? else {
        return Ok(false);
    };
    host.session().perform(&Change::User(change), Payload::Nothing)
}

/// Refuses a login shell with which no one could log in.
fn check_shell(host: &Host, name: &str, shell: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let is_program = std::fs::metadata(shell)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0);
    if is_program || host.may_be_packaged(shell) || host.predicted(shell)?.is_some() {
        return Ok(());
    }
    if matches!(UserState::observe(name)?, UserState::Present(facts) if facts.shell.as_path() == shell) {
        return Ok(());
    }
    bail!(
        Failure::new(format!(
            "cannot give user `{name}` the shell `{}`: there is no such program",
            shell.display()
        ))
        .kind(FailureKind::Missing)
        .hint("install it first, or name one of those that `/etc/shells` lists")
    )
}

/// What a killed run may have created in part.
pub(super) fn doubtful(host: &Host, target: &Target) -> Result<Option<Change>> {
    host.seen().doubtful(target).map(|known| Change::of_intent(&known.intent)).transpose()
}

/// What an undo that failed may have undone in part.
fn half_undone(host: &Host, target: &Target) -> Result<Option<Change>> {
    host.seen().half_undone(target).map(|known| Change::of_intent(&known.intent)).transpose()
}

/// Checks that the shadow tools accept the name and that it means the same everywhere. Source: useradd(8).
pub(super) fn check_name(name: &str) -> Result<()> {
    let begins = name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_');
    let goes_on =
        name.chars().all(|each| each.is_ascii_lowercase() || each.is_ascii_digit() || "_-".contains(each));
    if begins && goes_on && name.len() <= 32 {
        return Ok(());
    }
    bail!(
        Failure::new(format!("invalid name of a user or group `{name}`"))
            .kind(FailureKind::Usage)
            .hint("use lower-case letters, digits, `_` and `-`, beginning with a letter, at most 32")
    )
}

/// Whether the target would have been changed by now, in a dry run.
fn would_have_changed(host: &Host, target: &Target) -> bool {
    host.dry_run() && host.seen().would_change().iter().any(|would| would.target == *target)
}

fn refuse_unknown(host: &Host, name: &str) -> Result<()> {
    let target = Target::User(name.to_owned());
    if would_have_changed(host, &target) {
        return Err(Unpredictable(format!("{target}, which would have changed by then")).into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check_name;

    #[test]
    fn names_are_those_that_every_tool_takes() {
        for name in ["kim", "_apt", "www-data", "a1"] {
            check_name(name).unwrap();
        }
        for name in ["", "Kim", "1a", "-x", "a b", "a:b", "a/b", &"a".repeat(33)] {
            check_name(name).unwrap_err();
        }
    }
}
