//! The lines of the user and group databases. Source: passwd(5), shadow(5), group(5), gshadow(5), subuid(5).

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, Result};

/// The databases, in the order in which the tools of the shadow suite write them, one after the other: a tool that
/// dies, or whose machine loses power, has written the first of them.
pub const DATABASES: [&str; 6] = ["passwd", "shadow", "group", "gshadow", "subuid", "subgid"];

/// What is reported of somebody in one or several databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountEntry<'a> {
    /// The lines of a user, and the user's name in the lists of groups.
    User(&'a str),
    /// The lines of a group.
    Group(&'a str),
    /// The name of a user in the list of one group.
    Member {
        /// The user.
        user: &'a str,
        /// The group.
        group: &'a str,
    },
}

impl AccountEntry<'_> {
    /// A line of that database without it; `None` when nothing is left.
    fn taken_from(self, database: &str, line: &[u8]) -> Option<Vec<u8>> {
        let of_groups = matches!(database, "group" | "gshadow");
        let mut fields: Vec<Vec<u8>> = line.split(|byte| *byte == b':').map(<[u8]>::to_vec).collect();
        let named = |name: &str| fields[0] == name.as_bytes();
        let (user, first_list) = match self {
            Self::User(name) if !of_groups => return (!named(name)).then(|| line.to_vec()),
            Self::Group(name) if of_groups && named(name) => return None,
            // Those who may change a group stand before those who are in it.
            Self::User(name) if of_groups => (name, if database == "gshadow" { 2 } else { 3 }),
            Self::Member { user, group } if of_groups && named(group) => (user, 3),
            _ => return Some(line.to_vec()),
        };
        for list in fields.iter_mut().skip(first_list) {
            let others = list.split(|byte| *byte == b',').filter(|member| *member != user.as_bytes());
            *list = others.collect::<Vec<_>>().join(&b',');
        }
        Some(fields.join(&b':'))
    }

    /// The text of that database without it.
    pub fn taken_from_text(self, database: &str, text: &[u8]) -> Vec<u8> {
        let mut left = Vec::with_capacity(text.len());
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let (line, end) = line.strip_suffix(b"\n").map_or((line, &b""[..]), |line| (line, b"\n"));
            if let Some(line) = self.taken_from(database, line) {
                left.extend_from_slice(&line);
                left.extend_from_slice(end);
            }
        }
        left
    }
}

/// The text of the databases that there are.
#[derive(Clone, Debug)]
pub struct AccountLines(BTreeMap<&'static str, Vec<u8>>);

impl AccountLines {
    /// Reads those of this machine.
    pub fn read() -> Result<Self> {
        Self::read_in(Path::new("/etc"))
    }

    /// Reads those of a directory.
    pub fn read_in(directory: &Path) -> Result<Self> {
        let mut texts = BTreeMap::new();
        for name in DATABASES {
            let path = directory.join(name);
            match std::fs::read(&path) {
                Ok(text) => drop(texts.insert(name, text)),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot read `{}`", path.display()));
                }
            }
        }
        Ok(Self(texts))
    }

    /// Whether a user has a line among the passwords, if there are such.
    pub fn has_shadow(&self, name: &str) -> bool {
        !self.lacks(name, "shadow")
    }

    /// Whether nobody has given a new user a password yet.
    pub fn is_locked(&self, name: &str) -> bool {
        let password = self.line("shadow", name).and_then(|line| line.split(|byte| *byte == b':').nth(1));
        password.is_none_or(|password| password == b"!")
    }

    /// Whether a user has subordinate numbers of both kinds, as far as anybody can.
    pub fn has_subordinates(&self, name: &str, uid: u32) -> bool {
        let lacks = |database| self.lacks(name, database) && self.lacks(&uid.to_string(), database);
        !lacks("subuid") && !lacks("subgid")
    }

    /// Whether a group lacks its line among the passwords of groups.
    pub fn lacks_group_shadow(&self, name: &str) -> bool {
        self.lacks(name, "gshadow") && self.line("group", name).is_some()
    }

    /// The passwords of groups with the line that a group lacks, in the order of the groups; `None` when it does not.
    pub fn with_group_shadow(&self, name: &str) -> Option<Vec<u8>> {
        if !self.lacks_group_shadow(name) {
            return None;
        }
        let members = self.line("group", name)?.split(|byte| *byte == b':').nth(3).unwrap_or_default();
        let added = [name.as_bytes(), b":!::", members, b"\n"].concat();
        let first = |line: &[u8]| line.split(|byte| *byte == b':').next().unwrap_or_default().to_vec();
        let groups: Vec<Vec<u8>> = self.0.get("group")?.split(|byte| *byte == b'\n').map(first).collect();
        let before = groups.split(|group| group == name.as_bytes()).next()?;

        let mut lines: Vec<Vec<u8>> =
            self.0.get("gshadow")?.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        if let Some(last) = lines.last_mut().filter(|last| !last.ends_with(b"\n")) {
            last.push(b'\n');
        }
        let follows = lines.iter().rposition(|line| before.contains(&first(line)));
        lines.insert(follows.map_or(lines.len(), |at| at + 1), added);
        Some(lines.concat())
    }

    /// Whether both databases of groups say the same of a user's being in a group.
    pub fn agree_on_member(&self, user: &str, group: &str) -> bool {
        let lists = |database: &str| {
            let fields = self.line(database, group)?;
            let listed = fields.split(|byte| *byte == b':').nth(3).unwrap_or_default();
            Some(listed.split(|byte| *byte == b',').any(|member| member == user.as_bytes()))
        };
        match (lists("group"), lists("gshadow")) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        }
    }

    /// Whether the database is there and nobody has that name in it.
    fn lacks(&self, name: &str, database: &str) -> bool {
        self.0.contains_key(database) && self.line(database, name).is_none()
    }

    fn line(&self, database: &str, name: &str) -> Option<&[u8]> {
        let mut lines = self.0.get(database)?.split(|byte| *byte == b'\n');
        lines.find(|line| line.split(|byte| *byte == b':').next() == Some(name.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(entry: AccountEntry<'_>, database: &str, text: &str) -> String {
        String::from_utf8(entry.taken_from_text(database, text.as_bytes())).unwrap()
    }

    #[test]
    fn a_user_goes_from_every_database_and_nobody_of_a_longer_name() {
        let user = AccountEntry::User("kim");
        assert_eq!(left(user, "passwd", "root:x:0\nkim:x:1\nkimono:x:2\n"), "root:x:0\nkimono:x:2\n");
        assert_eq!(left(user, "shadow", "kim:!:20000\n"), "");
        assert_eq!(left(user, "subuid", "kimono:1:2\nkim:3:4"), "kimono:1:2\n");
        assert_eq!(left(user, "group", "video:x:44:kim,kimono\nkim:x:1:\n"), "video:x:44:kimono\nkim:x:1:\n");
        assert_eq!(left(user, "gshadow", "video:*:kim:kimono,kim\n"), "video:*::kimono\n");
    }

    #[test]
    fn a_group_goes_with_its_lines_and_a_member_from_its_list() {
        assert_eq!(left(AccountEntry::Group("kim"), "group", "kim:x:1:root\nkimono:x:2:\n"), "kimono:x:2:\n");
        assert_eq!(left(AccountEntry::Group("kim"), "passwd", "kim:x:1\n"), "kim:x:1\n");
        let member = AccountEntry::Member { user: "kim", group: "video" };
        assert_eq!(
            left(member, "gshadow", "audio:*::kim\nvideo:*:kim:kim,robin\n"),
            "audio:*::kim\nvideo:*:kim:robin\n"
        );
    }

    #[test]
    fn what_names_nobody_of_them_stays_byte_for_byte() {
        let odd = b"\n:::\nkim\xff:x\n# kim\n+::\nno end";
        for database in DATABASES {
            for entry in [AccountEntry::User("kim"), AccountEntry::Group("kim")] {
                assert_eq!(entry.taken_from_text(database, odd), odd, "{database}");
            }
        }
    }

    #[test]
    fn what_stands_in_one_database_alone_is_not_whole() {
        let directory = tempfile::tempdir().unwrap();
        let texts = [
            ("passwd", "kim:x:1\nrobin:x:2\n"),
            ("shadow", "kim:!:1\n"),
            ("group", "kim:x:1:\nvideo:x:44:kim\ndisk:x:6:robin\naudio:x:29:\n"),
            ("gshadow", "video:*::\naudio:*::\n"),
            ("subuid", "kim:1:1\n"),
        ];
        for (name, text) in texts {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let lines = AccountLines::read_in(directory.path()).unwrap();
        assert!(lines.has_shadow("kim") && !lines.has_shadow("robin"));
        assert_eq!(lines.with_group_shadow("video"), None);
        assert_eq!(lines.with_group_shadow("nobody"), None);
        let with = |name| String::from_utf8(lines.with_group_shadow(name).unwrap()).unwrap();
        assert_eq!(with("kim"), "video:*::\naudio:*::\nkim:!::\n");
        assert_eq!(with("disk"), "video:*::\ndisk:!::robin\naudio:*::\n");
        assert!(lines.agree_on_member("kim", "audio") && !lines.agree_on_member("kim", "video"));
        std::fs::write(directory.path().join("subgid"), "").unwrap();
        let lines = AccountLines::read_in(directory.path()).unwrap();
        assert!(lines.is_locked("kim") && lines.is_locked("robin"));
        assert!(!lines.has_subordinates("kim", 1) && !lines.has_subordinates("robin", 2));
        std::fs::write(directory.path().join("subgid"), "1:5:5\n").unwrap();
        let lines = AccountLines::read_in(directory.path()).unwrap();
        assert!(lines.has_subordinates("kim", 1));
    }
}
