//! `user::` queries users, and brings them to their desired state.

use std::path::Path;

use anyhow::{Result, bail};
use rhai::plugin::*;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::file::{Mode, absolute};
use super::shorter::namespace;
use crate::change::{
    Change, DesiredUser, LingerChange, Payload, UserChange, UserState, login_password, password_of,
};
use crate::failure::{Failure, FailureKind};
use crate::machine::account::{Account, Group};
use crate::machine::files::{Digest, PathText};
use crate::script::{Host, OptionSet, Raised, Unpredictable, act, look, options_of};
use crate::target::Target;

pub(super) fn module() -> rhai::Module {
    namespace(exported_manifest!(functions), &[("ensure", 1)])
}

pub(super) fn options(function: &str) -> Option<OptionSet> {
    match function {
        "ensure" => {
            let own = OptionSet::of::<Options>();
            Some(own.with("password", &["secret"]).with("password_hash", &["string", "secret"]))
        }
        _ => None,
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    uid: Option<u32>,
    home: Option<String>,
    home_mode: Option<Mode>,
    make_home: Option<bool>,
    shell: Option<String>,
    comment: Option<String>,
    group: Option<String>,
    groups: Vec<String>,
    not_in_groups: Vec<String>,
    system: bool,
}

impl Options {
    fn desired(self) -> Result<DesiredUser> {
        let mut groups = self.groups;
        groups.sort();
        groups.dedup();
        let mut not_in_groups = self.not_in_groups;
        not_in_groups.sort();
        not_in_groups.dedup();
        if let Some(both) = groups.iter().find(|group| not_in_groups.contains(group)) {
            bail!(
                Failure::new(format!("the group `{both}` is in both options `groups` and `not_in_groups`"))
                    .kind(FailureKind::Option)
            );
        }
        let is_field = |comment: &String| !comment.contains(|each: char| each == ':' || each.is_control());
        if self.comment.as_ref().is_some_and(|comment| !is_field(comment)) {
            bail!(
                Failure::new(
                    "invalid option `comment`: it must not contain a colon, a line ending or another control character"
                )
                .kind(FailureKind::Option)
            );
        }
        let without_home = self.make_home == Some(false);
        if without_home && self.home_mode.is_some() {
            bail!(
                Failure::new("options `home_mode` and `make_home: false` exclude each other")
                    .kind(FailureKind::Option)
            );
        }
        Ok(DesiredUser {
            uid: self.uid,
            without_home,
            comment: self.comment,
            home: self.home.as_deref().map(absolute).transpose()?.map(PathText::new),
            home_mode: self.home_mode.map(|Mode(bits)| format!("{bits:04o}")),
            shell: self.shell.as_deref().map(absolute).transpose()?.map(PathText::new),
            group: self.group,
            groups,
            not_in_groups,
            system: self.system,
            ..DesiredUser::default()
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

    /// The name of the primary group of the user `name`. Of one who does not exist yet it is the user's name: the group that
    /// `user::ensure` makes with the user.
    ///
    /// ```rhai
    /// assert(user::group("root") == "root" && user::group("games") == "games");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn group(context: NativeCallContext, name: &str) -> Raised<String> {
        look(&context, |host| {
            let session = host.seen();
            let predicted = session.world.predicted.borrow();
            let gid = match predicted.user(name) {
                Some((_, gid)) => Some(gid),
                None => Account::by_name(name)?.map(|account| account.gid),
            };
            let Some(gid) = gid.filter(|gid| predicted.group(name) != Some(*gid)) else {
                return Ok(name.to_owned());
            };
            match Group::by_gid(gid)? {
                Some(group) => Ok(group.name),
                None if predicted.user(name).is_some() => Ok(name.to_owned()),
                None => Ok(gid.to_string()),
            }
        })
    }

    /// The user `name`: `#{ name, uid, gid, home, home_mode, shell, comment, groups }`, or `()` if it does not exist. `groups` are
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
            map.insert("comment".into(), facts.comment.into());
            map.insert("groups".into(), groups.into());
            Ok(Dynamic::from_map(map))
        })
    }

    /// Creates the user `name` unless it exists, with the home `/home/NAME`, a group of the same name and no password. An
    /// existing user keeps what no option names. Undo restores each part that was not modified since. A user that kkrun
    /// created is removed, with the home that kkrun created, after a rollback asked (`--purge users`); any other user stays, and a
    /// home that kkrun created for such a user is removed after a rollback asked (`--purge homes`).
    /// Options: `uid`, `home`, `group` (the primary group, instead of one of the user's name; of an existing user these three
    /// cannot be changed, because files depend on them), `home_mode`, `make_home: false` (the home is named and not made),
    /// `shell` (a program that is there), `comment` (such as the full name), `groups` (added to
    /// those the user is in), `not_in_groups` (those the user is taken out of), `password` (a secret) or `password_hash` (as `mkpasswd` prints it, or `"!"` for no login by password; a string
    /// or a secret), `system: true` (a number from the range for services, and a home only if `home` or `home_mode` is given). A password is
    /// hashed as crypt(5) says; of it and its hash, the journal holds only a digest of the hash.
    ///
    /// ```rhai,booted
    /// assert(user::ensure("robin") && !user::ensure("robin"));
    /// ```
    ///
    /// ```rhai,booted
    /// user::ensure("kim", #{ home_mode: "0750", shell: "/bin/bash", groups: ["video"] });
    /// assert("video" in user::get("kim").groups);
    /// ```
    ///
    /// ```rhai,booted
    /// user::ensure("relay", #{ system: true, home: "/srv/relay", make_home: false, comment: "Mail relay" });
    /// assert(user::get("relay").comment == "Mail relay" && file::stat("/srv/relay") == ());
    /// assert(user::ensure("relay", #{ comment: "Relay" }) && !user::ensure("relay", #{ comment: "Relay" }));
    /// ```
    ///
    /// ```rhai,booted
    /// user::ensure("worker", #{ group: "users", system: true });
    /// assert(user::get("worker").groups == ["users"]);
    /// ```
    ///
    /// ```rhai,booted
    /// user::ensure("ann", #{ password: secret::generate("login_of_ann"), groups: ["video", "audio"] });
    /// assert(user::ensure("ann", #{ not_in_groups: ["audio"] }));
    /// assert(!("audio" in user::get("ann").groups));
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn ensure(context: NativeCallContext, name: &str, options: rhai::Map) -> Raised<bool> {
        act(&context, |host| {
            let mut options = options;
            let password = asked_password(host, &mut options)?;
            make(host, name, options_of(options)?, password.as_ref())
        })
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

/// A password that a script asks for.
enum AskedPassword {
    /// The password itself.
    Plain(Zeroizing<String>),
    /// Its hash, or what says that there is none.
    Hash(Zeroizing<String>),
}

/// Takes the options about the password out of a map.
fn asked_password(host: &Host, options: &mut rhai::Map) -> Result<Option<AskedPassword>> {
    let invalid = |why: &str| Failure::new(why).kind(FailureKind::Option);
    let (password, hash) = (options.remove("password"), options.remove("password_hash"));
    match (password, hash) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => {
            bail!(invalid("options `password` and `password_hash` exclude each other"))
        }
        (Some(password), None) => {
            if Host::secret_text(&password).is_none() {
                bail!(
                    invalid("option `password`: expected a secret, so that it is never shown")
                        .hint("ask for it: secret::ask(\"login\", \"The password\")")
                        .hint("or give its hash with the option `password_hash`")
                );
            }
            let text = host.text_or_secret(&password, "`password`")?;
            if text.is_empty() || text.contains(['\0', '\n', '\r']) {
                bail!(invalid(
                    "invalid option `password`: it must not be empty or contain a line ending or a zero byte"
                ));
            }
            Ok(Some(AskedPassword::Plain(text)))
        }
        (None, Some(hash)) => {
            let text = host.text_or_secret(&hash, "`password_hash`")?;
            let is_hash = text.starts_with('$') && text.matches('$').count() >= 3;
            let is_none = ["!", "*", "!*", "!!"].contains(&text.as_str());
            let is_field = text.chars().all(|letter| letter.is_ascii_graphic() && letter != ':');
            if !is_field || !(is_hash || is_none) {
                bail!(
                    invalid("invalid option `password_hash`: expected the hash of a password as described in crypt(5)")
                        .hint(
                            "print one with `mkpasswd`, or give the password itself as a secret: `password`"
                        )
                );
            }
            Ok(Some(AskedPassword::Hash(text)))
        }
    }
}

/// The hash that the user is to have: the one that is there if it is of this password.
fn hash_of(host: &Host, name: &str, asked: &AskedPassword) -> Result<Zeroizing<String>> {
    let password = match asked {
        AskedPassword::Hash(hash) => return Ok(hash.clone()),
        AskedPassword::Plain(password) => password,
    };
    let known = password_of(name).and_then(|hash| String::from_utf8(hash.to_vec()).ok()).map(Zeroizing::new);
    let world = &host.seen().world;
    match known {
        Some(known) if known.starts_with('$') && login_password::is_of(world, password, &known)? => Ok(known),
        _ => login_password::hashed(world, password),
    }
}

fn make(host: &Host, name: &str, options: Options, password: Option<&AskedPassword>) -> Result<bool> {
    // Tools with other rules have made names such as `first.last`.
    if Account::by_name(name)?.is_none() {
        check_name(name)?;
    }
    host.seen().asks_for(|| Target::User(name.to_owned()));
    let mut desired = options.desired()?;
    if let Some(comment) = &desired.comment {
        host.refuse_secret(comment)?;
    }
    if let Some(password) = password {
        let hash = hash_of(host, name, password)?;
        desired.password = Some(Digest::of(hash.as_bytes()));
        desired.hash = Some(hash);
    }
    if let Some(shell) = &desired.shell {
        check_shell(host, name, shell.as_path())?;
    }
    // In a dry run: groups that do not exist yet, and will by then.
    let mut to_come = Vec::new();
    for group in &desired.groups {
        if is_to_come(host, group)? {
            to_come.push(group.clone());
        }
    }
    if let Some(group) = &desired.group
        && is_to_come(host, group)?
        && Account::by_name(name)?.is_none()
    {
        desired.group = None;
    }
    let target = Target::User(name.to_owned());
    let user = |change| if let Some(Change::User(change)) = change { Some(change) } else { None };
    let (in_part, half_undone) = (user(doubtful(host, &target)?), user(half_undone(host, &target)?));
    desired.groups.retain(|group| !to_come.contains(group));
    let Some(change) = UserChange::towards(name, desired, in_part, half_undone.as_ref())? else {
        if !to_come.is_empty() {
            let summary = format!("change the user {name} (add to {})", to_come.join(", "));
            host.session().note_change(target, summary);
            return Ok(true);
        }
        return Ok(false);
    };
    if change.makes_user() && is_named_by_command(host, name) {
        let change = Change::User(change);
        host.session().might_make(target, change.kind().summary());
        return Ok(true);
    }
    host.session().perform(&Change::User(change), Payload::Nothing)
}

/// Whether a group, which has to be there, is not yet and will be by then.
fn is_to_come(host: &Host, group: &str) -> Result<bool> {
    if Group::by_name(group)?.is_some() {
        return Ok(false);
    }
    let makes = |target: Target| would_have_changed(host, &target);
    if makes(Target::Group(group.to_owned())) || makes(Target::User(group.to_owned())) {
        return Ok(true);
    }
    bail!(
        Failure::new(format!("group `{group}` not found"))
            .kind(FailureKind::Missing)
            .hint("create it first with group::ensure")
    )
}

/// Whether a command that a dry run did not run names this user: it may be what makes it.
fn is_named_by_command(host: &Host, name: &str) -> bool {
    let names = |label: &str| label.split_whitespace().any(|word| word == name);
    host.dry_run()
        && host.seen().would_change().iter().any(|would| match &would.target {
            Target::Command(label) | Target::Captured(label) => names(label),
            _ => false,
        })
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
