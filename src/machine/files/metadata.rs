//! Who may do what with a file: mode, owner, group, extended attributes and the time of its last change.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result};
use rustix::fs::{Gid, Stat, Timespec, Timestamps, Uid};
use serde::{Deserialize, Serialize};

use super::flags::Flags;
use super::xattrs::{self, Value};

/// Everything about a file or directory except its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// The permission bits with set-user-id, set-group-id and sticky; in JSON octal, `"0644"`.
    #[serde(with = "octal")]
    pub mode: u32,
    /// The owner's user id.
    pub owner: u32,
    /// The group's id.
    pub group: u32,
    /// The extended attributes that kkrun keeps (see [`xattrs::is_kept`]): access control lists, file capabilities and
    /// what users set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<String, Value>,
    /// The flags that are kept (see [`Flags`]); `None` while they are those that a new file gets from its directory.
    #[serde(default = "no_flags", skip_serializing_if = "are_no_flags")]
    pub flags: Option<Flags>,
    /// When the content last changed. Kept to be restored, never compared.
    pub mtime: ModifiedAt,
}

#[expect(clippy::unnecessary_wraps, reason = "serde takes the type of the field")]
fn no_flags() -> Option<Flags> {
    Some(Flags::NONE)
}

#[expect(clippy::ref_option, clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
fn are_no_flags(flags: &Option<Flags>) -> bool {
    *flags == no_flags()
}

fn same_flags(one: Option<Flags>, other: Option<Flags>) -> bool {
    one.zip(other).is_none_or(|(one, other)| one.same_as(other))
}

impl Metadata {
    /// Whether the two are equal except for the time.
    pub fn same_as(&self, other: &Self) -> bool {
        (self.mode, self.owner, self.group, &self.xattrs)
            == (other.mode, other.owner, other.group, &other.xattrs)
            && same_flags(self.flags, other.flags)
    }

    /// Whether each part of it is as in `one` or as in `other`. Changing one to the other takes several calls to the
    /// kernel: this is a state between them, and no part of it comes from outside.
    pub fn lies_between(&self, one: &Self, other: &Self) -> bool {
        let mut names = [self, one, other].into_iter().flat_map(|metadata| metadata.xattrs.keys());
        mode_is_between(self.mode, one.mode, other.mode)
            && [one.owner, other.owner].contains(&self.owner)
            && [one.group, other.group].contains(&self.group)
            && [one.flags, other.flags].into_iter().any(|flags| same_flags(flags, self.flags))
            && names
                .all(|name| [one.xattrs.get(name), other.xattrs.get(name)].contains(&self.xattrs.get(name)))
    }

    /// The differences in words, e.g. `mode 0644 → 0600`.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        if self.mode != other.mode {
            differences.push(format!("mode {:04o} → {:04o}", self.mode, other.mode));
        }
        if self.owner != other.owner {
            differences.push(format!("owner {} → {}", self.owner, other.owner));
        }
        if self.group != other.group {
            differences.push(format!("group {} → {}", self.group, other.group));
        }
        for name in
            self.xattrs.keys().chain(other.xattrs.keys().filter(|name| !self.xattrs.contains_key(*name)))
        {
            match (self.xattrs.get(name), other.xattrs.get(name)) {
                (Some(_), None) => differences.push(format!("attribute {name} was removed")),
                (None, Some(_)) => differences.push(format!("attribute {name} was added")),
                (one, two) if one != two => differences.push(format!("attribute {name} differs")),
                _ => {}
            }
        }
        if let (Some(one), Some(two)) = (self.flags, other.flags)
            && !one.same_as(two)
        {
            differences.push(format!("flags `{one}` → `{two}`"));
        }
        differences
    }

    /// The metadata of an open file from the kernel's answer and its extended attributes and flags.
    pub(super) fn of(stat: &Stat, xattrs: BTreeMap<String, Value>, flags: Flags) -> Self {
        Self {
            mode: stat.st_mode & 0o7777,
            owner: stat.st_uid,
            group: stat.st_gid,
            xattrs,
            flags: Some(flags),
            mtime: ModifiedAt::of(stat),
        }
    }
}

/// Whether a mode is one or the other, or what the kernel makes of one on the way to the other: a new owner clears
/// set-user-id and set-group-id, and an access control list sets the bits that represent it.
pub(super) fn mode_is_between(mode: u32, one: u32, other: u32) -> bool {
    let is_of = |mask: u32| [one & mask, other & mask].contains(&(mode & mask));
    let lost = [one & 0o1000, other & 0o1000].contains(&(mode & 0o7000));
    is_of(0o777) && (is_of(0o7000) || lost)
}

/// The desired metadata of a file or directory, exactly: an extended attribute that is not named here is not there
/// afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// The permission bits with set-user-id, set-group-id and sticky.
    pub mode: u32,
    /// The owner's user id.
    pub owner: u32,
    /// The group's id.
    pub group: u32,
    /// The extended attributes.
    pub xattrs: BTreeMap<String, Value>,
    /// The flags; those that a new file gets from its directory if not given.
    pub flags: Option<Flags>,
    /// The time of the last change; now if not given.
    pub mtime: Option<ModifiedAt>,
}

impl Attributes {
    /// These permission bits, owner and group, and nothing else.
    pub fn new(mode: u32, owner: u32, group: u32) -> Self {
        Self { mode, owner, group, xattrs: BTreeMap::new(), flags: None, mtime: None }
    }

    /// The metadata that a file with these attributes will show: an access control list follows the mode,
    /// because the mode is set last. An unknown time is shown as zero.
    pub fn settled(&self) -> Metadata {
        Metadata {
            mode: self.mode,
            owner: self.owner,
            group: self.group,
            xattrs: xattrs::settled(&self.xattrs, self.mode),
            flags: self.flags,
            mtime: self.mtime.unwrap_or(ModifiedAt { seconds: 0, nanoseconds: 0 }),
        }
    }

    pub(super) fn uid(&self) -> Uid {
        Uid::from_raw(self.owner)
    }

    pub(super) fn gid(&self) -> Gid {
        Gid::from_raw(self.group)
    }
}

/// All of it, the time included, to restore an earlier state.
impl From<&Metadata> for Attributes {
    fn from(metadata: &Metadata) -> Self {
        Self {
            mode: metadata.mode,
            owner: metadata.owner,
            group: metadata.group,
            xattrs: metadata.xattrs.clone(),
            flags: metadata.flags,
            mtime: Some(metadata.mtime),
        }
    }
}

/// When a file's content last changed, since 1970; in JSON `"seconds.nanoseconds"` with nine decimals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModifiedAt {
    /// Whole seconds, rounded down.
    pub seconds: i64,
    /// Nanoseconds after these, below 1 000 000 000.
    pub nanoseconds: u32,
}

impl ModifiedAt {
    pub(super) fn of(stat: &Stat) -> Self {
        // A nanosecond field is below 10⁹ by the kernel's contract.
        let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
        Self { seconds: stat.st_mtime, nanoseconds }
    }

    pub(super) fn timestamps(self) -> Timestamps {
        let last_modification = Timespec { tv_sec: self.seconds, tv_nsec: self.nanoseconds.into() };
        Timestamps { last_access: last_modification, last_modification }
    }
}

impl From<jiff::Timestamp> for ModifiedAt {
    fn from(time: jiff::Timestamp) -> Self {
        let nanoseconds = time.as_nanosecond();
        let part = |number: i128| i64::try_from(number).unwrap_or(i64::MAX);
        Self {
            seconds: part(nanoseconds.div_euclid(1_000_000_000)),
            nanoseconds: u32::try_from(nanoseconds.rem_euclid(1_000_000_000)).unwrap_or(0),
        }
    }
}

impl fmt::Display for ModifiedAt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{:09}", self.seconds, self.nanoseconds)
    }
}

impl FromStr for ModifiedAt {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let (seconds, nanoseconds) = text.split_once('.')?;
            (nanoseconds.len() == 9).then_some(())?;
            Some(Self { seconds: seconds.parse().ok()?, nanoseconds: nanoseconds.parse().ok()? })
        };
        parse().with_context(|| format!("invalid time `{text}`: expected seconds with nine decimals"))
    }
}

impl TryFrom<String> for ModifiedAt {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<ModifiedAt> for String {
    fn from(time: ModifiedAt) -> Self {
        time.to_string()
    }
}

/// Permission bits as people read them: four octal digits in a string.
mod octal {
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
    pub(super) fn serialize<S: Serializer>(mode: &u32, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{mode:04o}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
        let text = String::deserialize(deserializer)?;
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if mode <= 0o7777 => Ok(mode),
            _ => Err(D::Error::custom(format!("invalid mode `{text}`: expected octal digits"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Metadata {
        Metadata {
            mode: 0o4750,
            owner: 0,
            group: 33,
            xattrs: BTreeMap::from([("user.note".to_owned(), Value::from(vec![1, 255]))]),
            flags: Some(Flags::NONE),
            mtime: ModifiedAt { seconds: -1, nanoseconds: 5 },
        }
    }

    #[test]
    fn json_is_explicit_and_comes_back() {
        let json =
            r#"{"mode":"4750","owner":0,"group":33,"xattrs":{"user.note":"01ff"},"mtime":"-1.000000005"}"#;
        assert_eq!(serde_json::to_string(&some()).unwrap(), json);
        assert_eq!(serde_json::from_str::<Metadata>(json).unwrap(), some());
        assert!(serde_json::from_str::<Metadata>(&json.replace("4750", "9")).is_err());
    }

    #[test]
    fn a_state_between_has_each_part_of_one_or_the_other() {
        let other = Metadata { mode: 0o644, owner: 7, group: 7, xattrs: BTreeMap::new(), ..some() };
        let half = Metadata { owner: 7, mode: 0o750, ..some() };
        for between in [some(), other.clone(), half.clone(), Metadata { mode: 0o4644, ..half.clone() }] {
            assert!(between.lies_between(&some(), &other) && between.lies_between(&other, &some()));
        }
        let mut annotated = half.clone();
        annotated.xattrs.insert("user.another".to_owned(), Value::from(vec![]));
        for other_state in [
            Metadata { mode: 0o754, ..half.clone() },
            Metadata { mode: 0o2750, ..half.clone() },
            Metadata { owner: 8, ..half.clone() },
            Metadata { group: 8, ..half },
            annotated,
        ] {
            assert!(!other_state.lies_between(&some(), &other));
        }
    }

    #[test]
    fn time_is_not_compared_and_all_else_is_named() {
        let mut other = some();
        other.mtime.seconds = 77;
        assert!(some().same_as(&other) && some().differences(&other).is_empty());
        other.mode = 0o644;
        other.owner = 7;
        other.xattrs.clear();
        assert!(!some().same_as(&other));
        assert_eq!(
            some().differences(&other),
            ["mode 4750 → 0644", "owner 0 → 7", "attribute user.note was removed"]
        );
    }
}
