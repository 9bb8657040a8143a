//! The lines of a new user or group, as useradd and groupadd would write them; existing lines are kept, and missing
//! ones are added. Source: useradd(8), groupadd(8), and their code in shadow 4.13.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::Result;

use super::databases::{Database, Databases, List};
use super::login_defs::LoginDefs;
use crate::failure::{Failure, FailureKind};

/// The desired properties of a new user.
#[derive(Clone, Debug, Default)]
pub struct NewUser<'a> {
    /// The login name.
    pub name: &'a str,
    /// The number; chosen if not given.
    pub uid: Option<u32>,
    /// A number to prefer if it is free, such as the one that an earlier attempt chose.
    pub preferred: Option<u32>,
    /// The number of the primary group, if that is not the group of the user's name.
    pub primary: Option<u32>,
    /// The number of the group of the user's name, from whatever source.
    pub group: Option<u32>,
    /// Where the home is, if not where the machine puts it.
    pub home: Option<&'a Path>,
    /// The login shell, if not the machine's.
    pub shell: Option<&'a Path>,
    /// What is said about the user.
    pub comment: &'a str,
    /// A number of the range for services, and no subordinate numbers.
    pub system: bool,
}

/// What is known besides the databases.
pub struct Rules<'a> {
    /// The settings of the machine.
    pub defs: &'a LoginDefs,
    /// Whether another source than the databases has a user or group of this number.
    pub is_taken: &'a dyn Fn(Database, u32) -> Result<bool>,
    /// The days since 1970.
    pub today: i64,
}

impl Databases {
    /// Adds what is missing of a user.
    ///
    /// # Errors
    /// When the number is another user's, or none is free.
    pub fn add_user(&mut self, user: &NewUser<'_>, rules: &Rules<'_>) -> Result<()> {
        let name = user.name;
        let there = self.user_and_group(name);
        let (uid, gid) = there.map_or_else(|| self.new_numbers(user, rules), Ok)?;
        if user.primary.is_none() {
            let has_group =
                self.numbers(Database::Group, 2).contains(&gid) || (rules.is_taken)(Database::Group, gid)?;
            if has_group || self.number_of(Database::Group, name).is_some() {
                self.complete_group(name);
            } else {
                self.add_group_lines(name, gid);
            }
        }
        // Without a line in passwd, other lines belong to a removed user.
        let lacks = |all: &Self, database| there.is_none() || all.entry(database, name).is_none();
        if lacks(self, Database::Shadow) {
            let line = shadow_line(user, rules);
            self.set_lines(Database::Shadow, name, &[line.into_bytes()]);
        }
        self.add_subordinates(user, uid, rules)?;
        if there.is_none() {
            let password = if self.has(Database::Shadow) { "x" } else { "!" };
            let base = rules.defs.of_useradd("HOME").unwrap_or("/home");
            let home = user.home.map_or_else(|| Path::new(base).join(name), Path::to_path_buf);
            let shell =
                user.shell.unwrap_or(Path::new(rules.defs.of_useradd("SHELL").unwrap_or("/bin/bash")));
            let numbers = format!("{uid}:{gid}:{}", user.comment);
            let fields =
                [name.as_bytes(), password.as_bytes(), numbers.as_bytes(), field(&home)?, field(shell)?];
            self.set_lines(Database::Passwd, name, &[fields.join(&b':')]);
        }
        Ok(())
    }

    /// Adds what is missing of a group.
    ///
    /// # Errors
    /// When the number is another group's, or none is free.
    pub fn add_group(&mut self, name: &str, gid: Option<u32>, system: bool, rules: &Rules<'_>) -> Result<()> {
        if self.number_of(Database::Group, name).is_some() {
            self.complete_group(name);
            return Ok(());
        }
        let gid = match gid {
            Some(gid) if self.is_used(Database::Group, gid, rules)? => return Err(used("group", name, gid)),
            Some(gid) => gid,
            None => self.new_gid(None, system, rules)?,
        };
        self.add_group_lines(name, gid);
        Ok(())
    }

    /// Puts a user into a group.
    ///
    /// # Errors
    /// When the group comes from another source.
    pub fn join(&mut self, user: &str, group: &str) -> Result<()> {
        if self.number_of(Database::Group, group).is_none() {
            return Err(elsewhere(&format!("put `{user}` into the group `{group}`"), "/etc/group"));
        }
        self.add_member(group, user);
        Ok(())
    }

    /// Takes a user out of a group.
    ///
    /// # Errors
    /// When the group comes from another source.
    pub fn leave(&mut self, user: &str, group: &str) -> Result<()> {
        if self.number_of(Database::Group, group).is_none() {
            return Err(elsewhere(&format!("take `{user}` out of the group `{group}`"), "/etc/group"));
        }
        self.remove_from_lists(user, |(list, of)| *list != List::Administrators && of == group);
        Ok(())
    }

    /// Gives a user the password that has this hash.
    ///
    /// # Errors
    /// When the password comes from another source.
    pub fn set_password(&mut self, user: &str, hash: &str, rules: &Rules<'_>) -> Result<()> {
        match self.password_of(user) {
            None => Err(elsewhere(&format!("give `{user}` a password"), "/etc/shadow")),
            Some(known) if known == hash.as_bytes() => Ok(()),
            Some(_) => {
                self.set_field(Database::Shadow, user, 1, hash.as_bytes());
                self.set_field(Database::Shadow, user, 2, rules.today.to_string().as_bytes());
                Ok(())
            }
        }
    }

    /// Gives a user another shell.
    ///
    /// # Errors
    /// When the user comes from another source.
    pub fn set_shell(&mut self, user: &str, shell: &Path) -> Result<()> {
        if self.entry(Database::Passwd, user).is_none() {
            return Err(elsewhere(&format!("change the shell of `{user}`"), "/etc/passwd"));
        }
        self.set_field(Database::Passwd, user, 6, field(shell)?);
        Ok(())
    }

    /// Gives a user another comment.
    ///
    /// # Errors
    /// When the user comes from another source.
    pub fn set_comment(&mut self, user: &str, comment: &str) -> Result<()> {
        if self.entry(Database::Passwd, user).is_none() {
            return Err(elsewhere(&format!("change the comment of `{user}`"), "/etc/passwd"));
        }
        self.set_field(Database::Passwd, user, 4, comment.as_bytes());
        Ok(())
    }

    fn add_group_lines(&mut self, name: &str, gid: u32) {
        // Without a line in group, other lines belong to a removed group.
        self.set_lines(Database::Gshadow, name, &[format!("{name}:!::").into_bytes()]);
        let password = if self.has(Database::Gshadow) { "x" } else { "!" };
        self.set_lines(Database::Group, name, &[format!("{name}:{password}:{gid}:").into_bytes()]);
    }

    fn complete_group(&mut self, name: &str) {
        if self.entry(Database::Gshadow, name).is_none() && self.entry(Database::Group, name).is_some() {
            let members = self.members_of(name).join(",");
            self.set_lines(Database::Gshadow, name, &[format!("{name}:!::{members}").into_bytes()]);
        }
    }

    fn add_subordinates(&mut self, user: &NewUser<'_>, uid: u32, rules: &Rules<'_>) -> Result<()> {
        let is_ordinary = user.uid.is_none_or(|uid| rules.defs.range("UID", false).contains(&uid));
        if user.system || !is_ordinary {
            return Ok(());
        }
        for (database, kind) in [(Database::Subuid, "SUB_UID"), (Database::Subgid, "SUB_GID")] {
            let count = rules.defs.unsigned(&format!("{kind}_COUNT"), 65536);
            let has_some =
                [user.name, &uid.to_string()].iter().any(|owner| self.entry(database, owner).is_some());
            if count == 0 || has_some || !self.has(database) {
                continue;
            }
            let min = rules.defs.unsigned(&format!("{kind}_MIN"), 100_000);
            let max = rules.defs.unsigned(&format!("{kind}_MAX"), 600_100_000);
            let Some(start) = self.free_subordinates(database, min..=max, count) else {
                return Err(none_free(&format!("{kind}_MIN"), &format!("{kind}_MAX"), &(min..=max)));
            };
            let line = format!("{}:{start}:{count}", user.name);
            self.set_lines(database, user.name, &[line.into_bytes()]);
        }
        Ok(())
    }

    /// Where the first hole of this size begins.
    fn free_subordinates(&self, database: Database, range: RangeInclusive<u32>, count: u32) -> Option<u64> {
        let field = |fields: &[&[u8]], at: usize| -> Option<u64> {
            std::str::from_utf8(fields[at]).ok()?.parse().ok()
        };
        let taken =
            self.entries(database).filter_map(|fields| Some((field(&fields, 1)?, field(&fields, 2)?)));
        let taken: BTreeSet<(u64, u64)> = taken.collect();
        let (mut low, end, count) =
            (u64::from(*range.start()), u64::from(*range.end()) + 1, u64::from(count));
        for (first, length) in taken {
            if first.min(end) >= low + count {
                return Some(low);
            }
            low = low.max(first.saturating_add(length));
        }
        (low + count <= end).then_some(low)
    }

    fn new_numbers(&self, user: &NewUser<'_>, rules: &Rules<'_>) -> Result<(u32, u32)> {
        let uid = self.new_uid(user, rules)?;
        let own = user.primary.or_else(|| self.number_of(Database::Group, user.name)).or(user.group);
        Ok((uid, own.map_or_else(|| self.new_gid(Some(uid), user.system, rules), Ok)?))
    }

    fn new_uid(&self, user: &NewUser<'_>, rules: &Rules<'_>) -> Result<u32> {
        if let Some(uid) = user.uid {
            return if self.is_used(Database::Passwd, uid, rules)? {
                Err(used("user", user.name, uid))
            } else {
                Ok(uid)
            };
        }
        match user.preferred {
            Some(uid) if !self.is_used(Database::Passwd, uid, rules)? => Ok(uid),
            _ => self.free_number(Database::Passwd, "UID", user.system, rules),
        }
    }

    /// The user's own number if a group can have it.
    fn new_gid(&self, uid: Option<u32>, system: bool, rules: &Rules<'_>) -> Result<u32> {
        let range = rules.defs.range("GID", system);
        let range = if system { 1..=*range.end() } else { range };
        match uid.filter(|uid| range.contains(uid)) {
            Some(uid) if !self.is_used(Database::Group, uid, rules)? => Ok(uid),
            _ => self.free_number(Database::Group, "GID", system, rules),
        }
    }

    fn is_used(&self, database: Database, number: u32, rules: &Rules<'_>) -> Result<bool> {
        // The last one means no user at all to the kernel.
        let is_known = number == u32::MAX || self.numbers(database, 2).contains(&number);
        Ok(is_known || (rules.is_taken)(database, number)?)
    }

    /// A number beyond all used ones, so that a new account does not inherit the files of a removed one: above the
    /// highest for people, below the lowest for services. If the range is exhausted there, any free number.
    fn free_number(&self, database: Database, kind: &str, system: bool, rules: &Rules<'_>) -> Result<u32> {
        let range = rules.defs.range(kind, system);
        let (min, max) = (*range.start(), *range.end());
        let mut used = self.numbers(database, 2).into_iter().filter(|number| range.contains(number));
        let candidates: Box<dyn Iterator<Item = u32>> = if system {
            let first = used.next().map_or(max, |lowest| lowest - 1);
            let first = if first < min { max } else { first };
            Box::new((min..=first).rev().chain((first..=max).rev()))
        } else {
            let first = used.next_back().map_or(min, |highest| highest.saturating_add(1));
            let first = if first > max { min } else { first };
            Box::new((first..=max).chain(min..first))
        };
        for number in candidates.filter(|number| range.contains(number)) {
            if !self.is_used(database, number, rules)? {
                return Ok(number);
            }
        }
        let prefix = if system { "SYS_" } else { "" };
        Err(none_free(&format!("{prefix}{kind}_MIN"), &format!("{prefix}{kind}_MAX"), &range))
    }
}

/// The line of a user without a password.
fn shadow_line(user: &NewUser<'_>, rules: &Rules<'_>) -> String {
    let shown = |number: Option<i64>| number.filter(|number| *number != -1).map(|number| number.to_string());
    let fields = [
        Some(rules.today).filter(|today| *today != 0),
        rules.defs.number("PASS_MIN_DAYS"),
        rules.defs.number("PASS_MAX_DAYS"),
        rules.defs.number("PASS_WARN_AGE"),
        rules.defs.of_useradd("INACTIVE").and_then(|days| days.parse().ok()),
        rules.defs.of_useradd("EXPIRE").and_then(days_of),
    ];
    let known = if user.system { 1 } else { fields.len() };
    let shown: Vec<String> = fields
        .into_iter()
        .enumerate()
        .map(|(at, field)| shown(field.filter(|_| at < known)).unwrap_or_default())
        .collect();
    format!("{}:!:{}:", user.name, shown.join(":"))
}

/// A path as a field of a line.
fn field(path: &Path) -> Result<&[u8]> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.iter().any(|byte| b":\n".contains(byte)) {
        return Err(Failure::new(format!(
            "invalid path `{}` for a user: it must not contain `:` or a line ending",
            path.display()
        ))
        .kind(FailureKind::Usage)
        .into());
    }
    Ok(bytes)
}

/// A day as useradd reads it: its date, or the days since 1970.
fn days_of(text: &str) -> Option<i64> {
    let date = || text.parse::<jiff::civil::Date>().ok();
    let days = |date: jiff::civil::Date| {
        date.since(jiff::civil::date(1970, 1, 1)).map(|span| span.get_days().into())
    };
    text.parse().ok().or_else(|| days(date()?).ok())
}

fn elsewhere(what: &str, file: &str) -> anyhow::Error {
    Failure::new(format!("cannot {what}: not found in `{file}`")).kind(FailureKind::Missing).into()
}

fn used(what: &str, name: &str, number: u32) -> anyhow::Error {
    Failure::new(format!("cannot create the {what} `{name}`: the number {number} is already in use"))
        .kind(FailureKind::Exists)
        .into()
}

fn none_free(min: &str, max: &str, range: &RangeInclusive<u32>) -> anyhow::Error {
    let (first, last) = (range.start(), range.end());
    Failure::new(format!("cannot choose a number: none between {first} and {last} is free"))
        .kind(FailureKind::Exists)
        .hint(format!("widen the range for new accounts in `/etc/login.defs`: `{min}` and `{max}`"))
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn databases(texts: &[(Database, &str)]) -> Databases {
        Databases(texts.iter().map(|(database, text)| (*database, text.as_bytes().to_vec())).collect())
    }

    /// Those of a machine with root, a person and a service.
    fn machine() -> Databases {
        databases(&[
            (
                Database::Passwd,
                "root:x:0:0:root:/root:/bin/bash\nlee:x:1000:1000::/home/lee:/bin/sh\nsvc:x:998:997::/:/no\n",
            ),
            (
                Database::Shadow,
                "root:*:20000:0:99999:7:::\nlee:$y$secret:20000:0:99999:7:::\nsvc:!:20000::::::\n",
            ),
            (Database::Group, "root:x:0:\nvideo:x:44:lee\nlee:x:1000:\nsvc:x:997:\n"),
            (Database::Gshadow, "root:*::\nvideo:*::lee\nlee:!::\nsvc:!::\n"),
            (Database::Subuid, "lee:100000:65536\n"),
            (Database::Subgid, ""),
        ])
    }

    fn defs() -> LoginDefs {
        LoginDefs {
            definitions: "PASS_MIN_DAYS 0\nPASS_MAX_DAYS 99999\nPASS_WARN_AGE 7\n".to_owned(),
            defaults: String::new(),
        }
    }

    fn with(mut all: Databases, change: impl FnOnce(&mut Databases, &Rules<'_>) -> Result<()>) -> Databases {
        let rules = Rules { defs: &defs(), is_taken: &|_, _| Ok(false), today: 20_500 };
        change(&mut all, &rules).unwrap();
        all
    }

    fn last(all: &Databases, database: Database) -> &str {
        std::str::from_utf8(all.text(database).unwrap()).unwrap().lines().last().unwrap_or_default()
    }

    fn kim<'a>() -> NewUser<'a> {
        NewUser { name: "kim", ..NewUser::default() }
    }

    #[test]
    fn a_new_user_gets_a_line_in_each_database() {
        let all = with(machine(), |all, rules| all.add_user(&kim(), rules));
        let lines = Database::ALL.map(|database| last(&all, database));
        assert_eq!(
            lines,
            [
                "kim:!::",
                "kim:x:1001:",
                "kim:!:20500:0:99999:7:::",
                "kim:165536:65536",
                "kim:100000:65536",
                "kim:x:1001:1001::/home/kim:/bin/bash"
            ]
        );
        let again = with(all.clone(), |all, rules| all.add_user(&kim(), rules));
        assert_eq!(again, all, "done twice is the same as done once");
    }

    #[test]
    fn a_user_of_another_primary_group_gets_no_group_of_its_own() {
        let before = machine();
        let user = NewUser { primary: Some(44), ..kim() };
        let all = with(before.clone(), |all, rules| all.add_user(&user, rules));
        assert_eq!(last(&all, Database::Passwd), "kim:x:1001:44::/home/kim:/bin/bash");
        for database in Database::OF_GROUPS {
            assert_eq!(all.text(database), before.text(database));
        }
        let again = with(all.clone(), |all, rules| all.add_user(&user, rules));
        assert_eq!(again, all, "done twice is the same as done once");
    }

    #[test]
    fn a_comment_is_given_to_a_new_user_and_changed_of_another() {
        let user = NewUser { comment: "Kim K", ..kim() };
        let all = with(machine(), |all, rules| all.add_user(&user, rules));
        assert_eq!(last(&all, Database::Passwd), "kim:x:1001:1001:Kim K:/home/kim:/bin/bash");
        let all = with(all, |all, _| all.set_comment("kim", ""));
        assert_eq!(last(&all, Database::Passwd), "kim:x:1001:1001::/home/kim:/bin/bash");
    }

    #[test]
    fn a_service_gets_a_number_below_the_others_and_no_subordinates() {
        let service = NewUser { system: true, ..kim() };
        let all = with(machine(), |all, rules| all.add_user(&service, rules));
        assert_eq!(last(&all, Database::Passwd), "kim:x:997:996::/home/kim:/bin/bash");
        assert_eq!(last(&all, Database::Shadow), "kim:!:20500::::::");
        assert_eq!(last(&all, Database::Subuid), "lee:100000:65536");
    }

    #[test]
    fn numbers_that_another_source_has_are_passed_over_and_those_that_are_used_refused() {
        let taken = |database, number| Ok(database == Database::Passwd && number == 1001);
        let rules = Rules { defs: &defs(), is_taken: &taken, today: 1 };
        let mut all = machine();
        all.add_user(&kim(), &rules).unwrap();
        assert!(last(&all, Database::Passwd).starts_with("kim:x:1002:1002:"));
        let user = NewUser { uid: Some(1000), ..kim() };
        let error = machine().add_user(&user, &rules).unwrap_err();
        assert_eq!(error.to_string(), "cannot create the user `kim`: the number 1000 is already in use");
    }

    #[test]
    fn a_full_range_is_searched_for_holes() {
        let mut all = databases(&[(Database::Group, "a:x:1000:\nb:x:1003:\n")]);
        let defs = LoginDefs { definitions: "GID_MAX 1003".to_owned(), ..LoginDefs::default() };
        let rules = Rules { defs: &defs, is_taken: &|_, _| Ok(false), today: 1 };
        for name in ["c", "d"] {
            all.add_group(name, None, false, &rules).unwrap();
        }
        assert_eq!(last(&all, Database::Group), "d:!:1002:");
        let error = all.add_group("e", None, false, &rules).unwrap_err();
        assert_eq!(error.to_string(), "cannot choose a number: none between 1000 and 1003 is free");
    }

    #[test]
    fn what_is_there_of_a_user_is_kept_and_the_rest_added() {
        let mut half = machine();
        half.set_lines(Database::Passwd, "kim", &[b"kim:x:1234:1234::/srv/kim:/bin/zsh".to_vec()]);
        half.set_lines(Database::Shadow, "kim", &[b"kim:$y$given:1:2:3:4:::".to_vec()]);
        let all = with(half, |all, rules| all.add_user(&kim(), rules));
        assert_eq!(last(&all, Database::Passwd), "kim:x:1234:1234::/srv/kim:/bin/zsh");
        assert_eq!(last(&all, Database::Shadow), "kim:$y$given:1:2:3:4:::");
        assert_eq!(last(&all, Database::Group), "kim:x:1234:");
        assert_eq!(last(&all, Database::Gshadow), "kim:!::");
        assert_eq!(last(&all, Database::Subgid), "kim:100000:65536");
    }

    #[test]
    fn a_group_of_the_users_name_becomes_the_users_as_it_is() {
        let mut before = machine();
        before.set_lines(Database::Group, "kim", &[b"kim:x:5000:lee".to_vec()]);
        before.set_lines(Database::Gshadow, "kim", &[b"kim:$y$pass:lee:lee".to_vec()]);
        let all = with(before.clone(), |all, rules| all.add_user(&kim(), rules));
        assert_eq!(last(&all, Database::Passwd), "kim:x:1001:5000::/home/kim:/bin/bash");
        for database in Database::OF_GROUPS {
            assert_eq!(all.text(database), before.text(database));
        }
    }

    #[test]
    fn lines_of_a_removed_user_are_replaced_and_restored_in_place() {
        let mut before = machine();
        before.set_lines(Database::Shadow, "kim", &[b"kim:$y$old:1::::::".to_vec()]);
        before.set_lines(Database::Shadow, "last", &[b"last:!:1::::::".to_vec()]);
        let traces = before.traces_of("kim");
        let mut all = with(before.clone(), |all, rules| all.add_user(&kim(), rules));
        assert!(all.text(Database::Shadow).unwrap().windows(11).any(|bytes| bytes == b"kim:!:20500"));
        assert!(!serde_json::to_string(&traces).unwrap().contains("$y$old"));
        let secret = before.secrets_of(Database::Shadow, "kim").remove(0);
        all.restore_lines(&Database::OF_USERS, "kim", &traces, &|_| Ok(secret.clone())).unwrap();
        all.restore_lines(&Database::OF_GROUPS, "kim", &traces, &|_| Ok(secret.clone())).unwrap();
        assert_eq!(all, before);
    }

    #[test]
    fn a_group_without_its_second_line_gets_it_with_the_members() {
        let mut half = machine();
        half.set_lines(Database::Group, "kiosk", &[b"kiosk:x:1500:lee,svc".to_vec()]);
        let all = with(half, |all, rules| all.add_group("kiosk", None, false, rules));
        assert_eq!(last(&all, Database::Gshadow), "kiosk:!::lee,svc");
        assert_eq!(last(&all, Database::Group), "kiosk:x:1500:lee,svc");
    }

    #[test]
    fn a_path_cannot_bring_fields_or_lines_of_its_own() {
        let rules = Rules { defs: &defs(), is_taken: &|_, _| Ok(false), today: 1 };
        for path in ["/home/kim:/bin/sh", "/bin/sh\nroot::0:0::/:/bin/sh"].map(Path::new) {
            let user = NewUser { home: Some(path), ..kim() };
            assert!(machine().add_user(&user, &rules).unwrap_err().to_string().contains("must not contain"));
            machine().set_shell("lee", path).unwrap_err();
        }
    }

    #[test]
    fn days_are_dates_or_numbers() {
        assert_eq!(
            ["1970-01-11", "2026-01-01", "77", "soon"].map(days_of),
            [Some(10), Some(20_454), Some(77), None]
        );
    }
}
