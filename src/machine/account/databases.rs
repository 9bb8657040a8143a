//! The six databases of users and groups as texts of lines, and every change to them as a function of these texts.
//!
//! A line that is not an entry (a comment, the mark of another source, anything invalid) is never touched, and every
//! byte outside a changed line stays. Source: passwd(5), shadow(5), group(5), gshadow(5), subuid(5).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::machine::files::Digest;

/// One of the databases, named as its file in `/etc`.
#[expect(missing_docs, reason = "the names say it")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Database {
    Gshadow,
    Group,
    Shadow,
    Subuid,
    Subgid,
    Passwd,
}

impl Database {
    /// In the order in which an account is written: what makes a group or a user exist comes last, so that no lookup
    /// finds one that is not whole. An account is removed in the opposite order.
    pub const ALL: [Self; 6] =
        [Self::Gshadow, Self::Group, Self::Shadow, Self::Subuid, Self::Subgid, Self::Passwd];
    /// Those whose lines are named after users.
    pub const OF_USERS: [Self; 4] = [Self::Shadow, Self::Subuid, Self::Subgid, Self::Passwd];
    /// Those whose lines are named after groups.
    pub const OF_GROUPS: [Self; 2] = [Self::Gshadow, Self::Group];

    /// The name of its file.
    pub fn file(self) -> &'static str {
        match self {
            Self::Gshadow => "gshadow",
            Self::Group => "group",
            Self::Shadow => "shadow",
            Self::Subuid => "subuid",
            Self::Subgid => "subgid",
            Self::Passwd => "passwd",
        }
    }

    /// The fields of a line; `None` if a lookup would skip it.
    fn fields(self, line: &[u8]) -> Option<Vec<&[u8]>> {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
        let is_number = |at: usize| number::<u32>(&fields, at).is_some();
        let is_entry = match self {
            Self::Passwd => fields.len() == 7 && is_number(2) && is_number(3),
            Self::Group => fields.len() == 4 && is_number(2),
            Self::Gshadow => fields.len() == 4,
            Self::Shadow => fields.len() > 1,
            Self::Subuid | Self::Subgid => fields.len() == 3,
        };
        let is_named = fields[0].first().is_some_and(|first| !b"#+- \t".contains(first));
        (is_entry && is_named).then_some(fields)
    }

    /// The lists of users in its lines.
    fn lists(self) -> &'static [(List, usize)] {
        match self {
            Self::Group => &[(List::Members, 3)],
            Self::Gshadow => &[(List::Administrators, 2), (List::ShadowMembers, 3)],
            _ => &[],
        }
    }
}

fn number<T: std::str::FromStr>(fields: &[&[u8]], at: usize) -> Option<T> {
    std::str::from_utf8(fields.get(at)?).ok()?.parse().ok()
}

/// A list of users in the line of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum List {
    /// In `group`.
    Members,
    /// In `gshadow`.
    ShadowMembers,
    /// In `gshadow`: who may change the group.
    Administrators,
}

/// A line as the journal holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// One that holds no password.
    Text(String),
    /// Any other, by its digest. It reveals nothing about the password, whose own hash has an unguessable salt.
    Secret(Digest),
}

impl Line {
    /// The digest of a line that holds a password.
    pub fn digest(&self) -> Option<Digest> {
        match self {
            Self::Text(_) => None,
            Self::Secret(digest) => Some(*digest),
        }
    }

    fn of(database: Database, line: &[u8]) -> Self {
        let password = line.split(|byte| *byte == b':').nth(1).unwrap_or_default();
        let has_password = !matches!(database, Database::Subuid | Database::Subgid)
            && password.iter().any(|byte| !b"!*x".contains(byte));
        match std::str::from_utf8(line) {
            Ok(text) if !has_password => Self::Text(text.to_owned()),
            _ => Self::Secret(Digest::of(line)),
        }
    }
}

/// What the databases hold of one name, as the journal holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traces {
    /// The lines of that name.
    pub lines: BTreeMap<Database, Vec<Line>>,
    /// The lists that name it, each with its group.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub lists: BTreeSet<(List, String)>,
}

impl Traces {
    /// The lines in one database.
    pub fn of(&self, database: Database) -> &[Line] {
        self.lines.get(&database).map_or(&[], Vec::as_slice)
    }

    /// The numbers in the line of a user that was to be made.
    pub fn user_and_group(&self) -> Option<(u32, u32)> {
        let Line::Text(line) = self.of(Database::Passwd).first()? else { return None };
        let fields = Database::Passwd.fields(line.as_bytes())?;
        number(&fields, 2).zip(number(&fields, 3))
    }

    /// The number of the group.
    pub fn group(&self) -> Option<u32> {
        let Line::Text(line) = self.of(Database::Group).first()? else { return None };
        number(&Database::Group.fields(line.as_bytes())?, 2)
    }
}

/// The texts of the databases that exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Databases(pub(super) BTreeMap<Database, Vec<u8>>);

impl Databases {
    pub(super) fn text(&self, database: Database) -> Option<&[u8]> {
        self.0.get(&database).map(Vec::as_slice)
    }

    pub(super) fn has(&self, database: Database) -> bool {
        self.0.contains_key(&database)
    }

    /// The fields of all entries.
    pub(super) fn entries(&self, database: Database) -> impl Iterator<Item = Vec<&[u8]>> {
        let lines = self.text(database).unwrap_or_default().split(|byte| *byte == b'\n');
        lines.filter_map(move |line| database.fields(line))
    }

    pub(super) fn entry(&self, database: Database, name: &str) -> Option<Vec<&[u8]>> {
        self.entries(database).find(|fields| fields[0] == name.as_bytes())
    }

    /// The number of a user or group of that name.
    pub(super) fn number_of(&self, database: Database, name: &str) -> Option<u32> {
        number(&self.entry(database, name)?, 2)
    }

    /// The numbers of a user and of the user's group.
    pub(super) fn user_and_group(&self, name: &str) -> Option<(u32, u32)> {
        let fields = self.entry(Database::Passwd, name)?;
        number(&fields, 2).zip(number(&fields, 3))
    }

    /// The numbers in this field of all entries.
    pub(super) fn numbers(&self, database: Database, at: usize) -> BTreeSet<u32> {
        self.entries(database).filter_map(|fields| number(&fields, at)).collect()
    }

    /// Everything that names it.
    pub fn traces_of(&self, name: &str) -> Traces {
        let mut traces = Traces::default();
        for database in Database::ALL {
            for fields in self.entries(database) {
                if fields[0] == name.as_bytes() {
                    let line = Line::of(database, &fields.join(&b':'));
                    traces.lines.entry(database).or_default().push(line);
                }
                for (list, at) in database.lists() {
                    if names(fields[*at], name) {
                        traces.lists.insert((*list, String::from_utf8_lossy(fields[0]).into_owned()));
                    }
                }
            }
        }
        traces
    }

    /// The bytes of the lines of that name of which only the digest is recorded.
    pub fn secrets_of(&self, database: Database, name: &str) -> Vec<Vec<u8>> {
        let own = self.entries(database).filter(|fields| fields[0] == name.as_bytes());
        let is_secret = |line: &Vec<u8>| matches!(Line::of(database, line), Line::Secret(_));
        own.map(|fields| fields.join(&b':')).filter(is_secret).collect()
    }

    /// Gives every entry the fields that `edit` makes of its own, or removes it.
    fn edit(&mut self, database: Database, mut edit: impl FnMut(&mut Vec<Vec<u8>>) -> Keep) {
        let Some(text) = self.0.get_mut(&database) else { return };
        let mut edited = Vec::with_capacity(text.len());
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let (line, end) = line.strip_suffix(b"\n").map_or((line, &b""[..]), |line| (line, b"\n"));
            let mut fields =
                database.fields(line).map(|fields| fields.into_iter().map(<[u8]>::to_vec).collect());
            if fields.as_mut().is_none_or(|fields| edit(fields) == Keep::Yes) {
                edited.extend(fields.map_or_else(|| line.to_vec(), |fields| fields.join(&b':')));
                edited.extend_from_slice(end);
            }
        }
        *text = edited;
    }

    /// Replaces the lines of a name, where the first of them is; without any, puts them before the marks of other
    /// sources, or at the end. A missing database is not created.
    pub(super) fn set_lines(&mut self, database: Database, name: &str, lines: &[Vec<u8>]) {
        let mut is_set = lines.is_empty();
        self.edit(database, |fields| {
            if fields[0] != name.as_bytes() {
                return Keep::Yes;
            }
            *fields = vec![lines.join(&b'\n')];
            if std::mem::replace(&mut is_set, true) { Keep::No } else { Keep::Yes }
        });
        let Some(text) = self.0.get_mut(&database).filter(|_| !is_set) else { return };
        if text.last().is_some_and(|last| *last != b'\n') {
            text.push(b'\n');
        }
        let is_mark = |line: &&[u8]| line.starts_with(b"+") || line.starts_with(b"-");
        let at: usize = text
            .split_inclusive(|byte| *byte == b'\n')
            .take_while(|line| !is_mark(line))
            .map(<[u8]>::len)
            .sum();
        text.splice(at..at, lines.iter().flat_map(|line| [line.as_slice(), b"\n"].concat()));
    }

    pub(super) fn set_field(&mut self, database: Database, name: &str, at: usize, value: &[u8]) {
        self.edit(database, |fields| {
            if fields[0] == name.as_bytes()
                && let Some(field) = fields.get_mut(at)
            {
                *field = value.to_vec();
            }
            Keep::Yes
        });
    }

    /// Puts a user into a group, in those databases that know the group.
    pub(super) fn add_member(&mut self, group: &str, user: &str) {
        for database in Database::OF_GROUPS {
            let mut is_first = true;
            self.edit(database, |fields| {
                if fields[0] == group.as_bytes() && std::mem::take(&mut is_first) {
                    let list = &mut fields[3];
                    if list.is_empty() {
                        list.extend(user.as_bytes());
                    } else if !names(list, user) {
                        list.extend([b",", user.as_bytes()].concat());
                    }
                }
                Keep::Yes
            });
        }
    }

    /// The lists of members of a group as their lines have them.
    pub fn lists_of(&self, group: &str) -> BTreeMap<Database, String> {
        let list = |database: Database| {
            let fields = self.entry(database, group)?;
            Some((database, String::from_utf8_lossy(fields[3]).into_owned()))
        };
        Database::OF_GROUPS.into_iter().filter_map(list).collect()
    }

    /// Puts a user back into the lists of a group that it left: exactly as they were `before` where they are as they were
    /// left, else at the end.
    pub fn rejoin(
        &mut self,
        user: &str,
        group: &str,
        (before, left): (&BTreeMap<Database, String>, &BTreeMap<Database, String>),
    ) {
        let now = self.lists_of(group);
        for (database, was) in before.iter().filter(|(_, was)| names(was.as_bytes(), user)) {
            let Some(list) = now.get(database).filter(|list| !names(list.as_bytes(), user)) else { continue };
            let list = match left.get(database) {
                Some(left) if left == list => was.clone(),
                _ if list.is_empty() => user.to_owned(),
                _ => format!("{list},{user}"),
            };
            self.set_field(*database, group, 3, list.as_bytes());
        }
    }

    /// Restores the password of a user, and since when it holds, as the line had them before. `secret` gives the bytes of
    /// a digest.
    pub fn restore_password(
        &mut self,
        name: &str,
        before: &Traces,
        secret: &dyn Fn(Digest) -> Result<Vec<u8>>,
    ) -> Result<()> {
        let Some(line) = before.of(Database::Shadow).first() else { return Ok(()) };
        let line = match line {
            Line::Text(text) => text.clone().into_bytes(),
            Line::Secret(digest) => secret(*digest)?,
        };
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
        for (at, field) in fields.iter().enumerate().take(3).skip(1) {
            self.set_field(Database::Shadow, name, at, field);
        }
        Ok(())
    }

    /// The hash of a user's password: a field of `shadow`, which may also say that there is none.
    pub fn password_of(&self, name: &str) -> Option<Vec<u8>> {
        Some(self.entry(Database::Shadow, name)?[1].to_vec())
    }

    /// Removes a user from every list for which this holds.
    pub fn remove_from_lists(&mut self, user: &str, is_left: impl Fn(&(List, String)) -> bool) {
        for database in Database::OF_GROUPS {
            self.edit(database, |fields| {
                let group = String::from_utf8_lossy(&fields[0]).into_owned();
                for (list, at) in database.lists() {
                    if names(&fields[*at], user) && is_left(&(*list, group.clone())) {
                        let others = members(&fields[*at]).filter(|member| *member != user.as_bytes());
                        fields[*at] = others.collect::<Vec<_>>().join(&b',');
                    }
                }
                Keep::Yes
            });
        }
    }

    /// Restores the lines of a name in these databases. `secret` gives the bytes of a digest.
    pub fn restore_lines(
        &mut self,
        databases: &[Database],
        name: &str,
        before: &Traces,
        secret: &dyn Fn(Digest) -> Result<Vec<u8>>,
    ) -> Result<()> {
        for database in databases {
            if self.traces_of(name).of(*database) == before.of(*database) {
                continue;
            }
            let bytes = |line: &Line| match line {
                Line::Text(text) => Ok(text.clone().into_bytes()),
                Line::Secret(digest) => secret(*digest),
            };
            let lines = before.of(*database).iter().map(bytes).collect::<Result<Vec<_>>>()?;
            self.set_lines(*database, name, &lines);
        }
        Ok(())
    }

    /// Whether the group of that name, if there is one, has this number, has no members and is no user's primary group.
    pub fn is_unused_group(&self, name: &str, gid: u32) -> bool {
        self.number_of(Database::Group, name).is_none_or(|number| number == gid)
            && self.members_of(name).is_empty()
            && !self.numbers(Database::Passwd, 3).contains(&gid)
    }

    /// The users listed in a group.
    pub fn members_of(&self, group: &str) -> Vec<String> {
        let fields = self.entry(Database::Group, group);
        let list = fields.as_ref().map_or(&b""[..], |fields| fields[3]);
        members(list).map(|member| String::from_utf8_lossy(member).into_owned()).collect()
    }
}

/// Whether an entry stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keep {
    Yes,
    No,
}

fn names(list: &[u8], user: &str) -> bool {
    members(list).any(|member| member == user.as_bytes())
}

fn members(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b',').filter(|member| !member.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(database: Database, text: &str) -> Databases {
        Databases([(database, text.as_bytes().to_vec())].into())
    }

    fn text(all: &Databases, database: Database) -> String {
        String::from_utf8(all.text(database).unwrap().to_vec()).unwrap()
    }

    /// The text without the lines of a user and without the user in any list.
    fn without(database: Database, before: &str) -> String {
        let mut all = one(database, before);
        all.remove_from_lists("kim", |_| true);
        all.set_lines(database, "kim", &[]);
        text(&all, database)
    }

    #[test]
    fn a_user_goes_and_none_of_a_longer_name() {
        let passwd = "root:x:0:0::/:/bin/sh\nkim:x:1:1::/:\nkimono:x:2:2::/:\n";
        assert_eq!(without(Database::Passwd, passwd), "root:x:0:0::/:/bin/sh\nkimono:x:2:2::/:\n");
        assert_eq!(without(Database::Shadow, "kim:!:20000::::::\n"), "");
        assert_eq!(without(Database::Subuid, "kimono:1:2\nkim:3:4"), "kimono:1:2\n");
        assert_eq!(without(Database::Group, "video:x:44:kim,kimono\nkim:x:1:\n"), "video:x:44:kimono\n");
        assert_eq!(without(Database::Gshadow, "video:*:kim:kimono,kim\n"), "video:*::kimono\n");
    }

    #[test]
    fn a_line_that_is_not_an_entry_stays_byte_for_byte() {
        let odd = "\n:::\nkim\u{ff}:x\n# kim:x:1:kim\n+kim:x:1:kim\n+::\nkim\nno end";
        for database in Database::ALL {
            assert_eq!(without(database, odd), odd, "{database:?}");
        }
    }

    #[test]
    fn a_line_is_added_before_those_of_other_sources_and_after_a_last_line_without_an_end() {
        for (before, after) in [
            ("", "kim:1:2\n"),
            ("a:1:1", "a:1:1\nkim:1:2\n"),
            ("a:1:1\n", "a:1:1\nkim:1:2\n"),
            ("a:1:1\n+nis\n+::\n", "a:1:1\nkim:1:2\n+nis\n+::\n"),
            ("kim:9:9\nkim:8:8\na:1:1\n", "kim:1:2\na:1:1\n"),
        ] {
            let mut all = one(Database::Subuid, before);
            all.set_lines(Database::Subuid, "kim", &[b"kim:1:2".to_vec()]);
            assert_eq!(text(&all, Database::Subuid), after);
            all.set_lines(Database::Shadow, "kim", &[b"kim:!:".to_vec()]);
            assert!(!all.has(Database::Shadow));
        }
    }

    #[test]
    fn a_member_is_added_once_and_only_this_one_is_removed() {
        let mut all = one(Database::Gshadow, "video:*:kim:robin\naudio:*::\n");
        for group in ["video", "audio", "video"] {
            all.add_member(group, "kim");
        }
        assert_eq!(text(&all, Database::Gshadow), "video:*:kim:robin,kim\naudio:*::kim\n");
        let lists = all.traces_of("kim").lists;
        assert_eq!(lists.len(), 3);
        all.remove_from_lists("kim", |list| *list == (List::ShadowMembers, "video".to_owned()));
        assert_eq!(text(&all, Database::Gshadow), "video:*:kim:robin\naudio:*::kim\n");
    }

    #[test]
    fn no_password_is_written_into_the_journal() {
        for (line, is_secret) in [
            ("kim:!:1", false),
            ("kim:*", false),
            ("kim:!$y$hash:1", true),
            ("kim:plain", true),
            ("kim::1", false),
        ] {
            let all = one(Database::Shadow, line);
            let traces = all.traces_of("kim");
            assert_eq!(matches!(traces.of(Database::Shadow)[0], Line::Secret(_)), is_secret, "{line}");
            assert_eq!(all.secrets_of(Database::Shadow, "kim").len(), usize::from(is_secret));
            let read: Traces = serde_json::from_str(&serde_json::to_string(&traces).unwrap()).unwrap();
            assert_eq!(read, traces);
        }
    }
}
