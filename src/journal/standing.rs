//! Which recorded changes stand on which others, reported by their targets and states alone.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::record::Intent;

/// The nouns whose targets are paths, and how much of what is there they speak for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// All that is at the path.
    Whole,
    /// One entry of the text.
    FileEntry,
    /// Owners and modes of a tree.
    Access,
    /// Owner and mode of this path alone.
    Mode,
}

/// A target that is a path.
struct Place<'target> {
    extent: Extent,
    /// For a entry, with `#` and its name behind it.
    path: &'target str,
}

impl<'target> Place<'target> {
    fn of_intent(intent: &'target Intent) -> Option<Self> {
        let place = Self::of(&intent.target)?;
        let extent = if keeps_content(intent) { Extent::Mode } else { place.extent };
        Some(Self { extent, ..place })
    }

    fn of(target: &'target str) -> Option<Self> {
        let (noun, path) = target.split_once(':')?;
        let extent = match noun {
            "file" | "tree" | "product" => Extent::Whole,
            "line" | "block" => Extent::FileEntry,
            "access" => Extent::Access,
            _ => return None,
        };
        path.starts_with('/').then_some(Self { extent, path })
    }

    /// Whether this one is at the path of `other`, or below it.
    fn is_within(&self, other: &str) -> bool {
        self.is_at(other)
            || other == "/"
            || self.path.strip_prefix(other).is_some_and(|rest| rest.starts_with('/'))
    }

    fn is_at(&self, other: &str) -> bool {
        let is_entry = self.extent == Extent::FileEntry;
        match self.path.strip_prefix(other) {
            Some("") => true,
            Some(rest) => is_entry && rest.starts_with('#'),
            None => false,
        }
    }
}

/// The path that a target names, without what stands behind it for a entry.
pub fn path_of(target: &str) -> Option<&Path> {
    let place = Place::of(target)?;
    let end = if place.extent == Extent::FileEntry { place.path.find('#') } else { None };
    Some(Path::new(&place.path[..end.unwrap_or(place.path.len())]))
}

/// Whether a target is among those that are asked for; what these stand in is asked for with them.
pub fn is_asked_for(asks: &BTreeSet<String>, target: &str) -> bool {
    if asks.contains(target) {
        return true;
    }
    match target.split_once(':') {
        Some(("unit", name)) => {
            name.rsplit_once('/').is_some_and(|(unit, _)| asks.contains(&format!("unit:{unit}")))
        }
        Some(("line" | "block", _)) => false,
        _ => path_of(target).is_some_and(|path| {
            asks.iter().filter_map(|asked| path_of(asked)).any(|asked| asked.starts_with(path))
        }),
    }
}

/// Whether both speak for the bytes of one path, so that the older one is not undone before the newer one.
pub fn share_content(newer: &Intent, older: &Intent) -> bool {
    if newer.target == older.target {
        return true;
    }
    let (Some(newer), Some(older)) = (Place::of_intent(newer), Place::of_intent(older)) else {
        return false;
    };
    match (newer.extent, older.extent) {
        (Extent::Whole | Extent::FileEntry | Extent::Mode, Extent::Whole) => newer.is_at(older.path),
        (Extent::Whole, Extent::FileEntry) => older.is_at(newer.path),
        // FileEntries are undone each by itself, and owners and modes are no content.
        _ => false,
    }
}

/// Whether both are about something of the same path or tree, so that what the older one left is seen only once the
/// newer one is undone.
pub fn overlap(newer: &Intent, older: &Intent) -> bool {
    if newer.target == older.target {
        return true;
    }
    let (Some(newer), Some(older)) = (Place::of(&newer.target), Place::of(&older.target)) else {
        return false;
    };
    newer.is_within(older.path) || older.is_within(newer.path)
}

/// Whether undoing `older` alone would take away what `newer` stands on.
pub fn stands_on(newer: &Intent, older: &Intent) -> bool {
    if share_content(newer, older) {
        return true;
    }
    match (Place::of_intent(newer), Place::of_intent(older)) {
        (Some(inner), Some(outer)) => match (inner.extent, outer.extent) {
            // What was written since has the owner and mode that the older change gave.
            (_, Extent::Whole) | (Extent::Whole | Extent::Mode, Extent::Access) => {
                inner.is_within(outer.path)
            }
            (Extent::Access, Extent::Access) => inner.is_within(outer.path) || outer.is_within(inner.path),
            _ => false,
        },
        (None, Some(outer)) => is_unit_of(newer, outer.path),
        (None, None) => wants_account(newer, older) || wants_role(newer, older),
        (Some(_), None) => false,
    }
}

fn state_word<'state>(state: &'state Value, field: &str) -> Option<&'state str> {
    state.get(field).and_then(Value::as_str)
}

/// Only owner and mode were changed: what is there stays, with what is in it.
fn keeps_content(intent: &Intent) -> bool {
    let same = |field: &str| state_word(&intent.before, field) == state_word(&intent.after, field);
    match state_word(&intent.before, "is") {
        Some("directory") => same("is"),
        Some("file") => same("is") && same("sha256"),
        _ => false,
    }
}

/// A unit that starts or runs by this very unit file.
fn is_unit_of(newer: &Intent, path: &str) -> bool {
    let path = Path::new(path);
    let is_unit_file = path.components().any(|part| part.as_os_str() == "systemd");
    let Some(unit) = newer.target.strip_prefix("unit:").and_then(|rest| rest.rsplit_once('/')) else {
        return false;
    };
    let name = unit.0.rsplit_once('/').map_or(unit.0, |(_, name)| name);
    is_unit_file && path.file_name().is_some_and(|file| file == name)
}

/// A user's own services and groups go with the account.
fn wants_account(newer: &Intent, older: &Intent) -> bool {
    let Some((noun, name)) = older.target.split_once(':') else { return false };
    let (newer_noun, newer_name) = newer.target.split_once(':').unwrap_or_default();
    noun == "user"
        && match newer_noun {
            "linger" => newer_name == name,
            "unit" => {
                let own = newer_name.strip_prefix('~').and_then(|rest| rest.strip_prefix(name));
                own.is_some_and(|rest| rest.starts_with('/'))
            }
            _ => false,
        }
}

/// A database belongs to a role, and statements are run in a database.
fn wants_role(newer: &Intent, older: &Intent) -> bool {
    let Some((noun, name)) = older.target.split_once(':') else { return false };
    let (newer_noun, newer_name) = newer.target.split_once(':').unwrap_or_default();
    match (newer_noun, noun) {
        ("database", "role") => {
            let owner = state_word(&newer.after, "owner");
            owner.is_some_and(|owner| {
                name.strip_prefix(owner).is_some_and(|server| newer_name.ends_with(server))
            })
        }
        ("statement", "database") => newer_name.strip_prefix(name).is_some_and(|rest| rest.starts_with(':')),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::journal::Class;

    fn intent(target: &str) -> Intent {
        Intent {
            step: None,
            target: target.to_owned(),
            class: Class::Safe,
            loses: None,
            summary: String::new(),
            pending: Vec::new(),
            what: String::new(),
            before: Value::Null,
            after: Value::Null,
            inverse: Value::Null,
        }
    }

    #[test]
    fn a_newer_change_stands_on_what_it_is_in_and_on_what_it_replaced() {
        for (newer, older, stands, shares) in [
            ("file:/srv/a", "file:/srv/a", true, true),
            ("tree:/srv/a/b", "file:/srv/a", true, false),
            ("line:/srv/a#[s]key", "file:/srv/a", true, true),
            ("block:/srv/a#b", "product:/srv/a", true, true),
            ("file:/srv/a", "line:/srv/a#key", true, true),
            ("line:/srv/a#one", "line:/srv/a#two", false, false),
            ("line:/srv/a#one", "line:/srv/a#one", true, true),
            ("block:/srv/a#one", "line:/srv/a#two", false, false),
            ("file:/srv/ab", "file:/srv/a", false, false),
            ("file:/srv/a", "file:/srv/a/b", false, false),
            ("access:/srv/a", "file:/srv/a", true, false),
            ("access:/srv/a", "line:/srv/a#key", false, false),
            ("line:/srv/a#key", "access:/srv/a", false, false),
            ("file:/srv/a/b", "access:/srv/a", true, false),
            ("access:/srv", "access:/srv/a", true, false),
            ("unit:a.service/activity", "file:/etc/systemd/system/a.service", true, false),
            ("unit:~kim/a.service/activity", "file:/home/kim/.config/systemd/user/a.service", true, false),
            ("unit:b.service/activity", "file:/etc/systemd/system/a.service", false, false),
            ("unit:a.service/activity", "user:kim", false, false),
            ("unit:~kim/a.service/activity", "user:kim", true, false),
            ("linger:kim", "user:kim", true, false),
            ("linger:kimono", "user:kim", false, false),
            ("statement:db:label", "database:db", true, false),
            ("statement:db2:label", "database:db", false, false),
        ] {
            assert_eq!(stands_on(&intent(newer), &intent(older)), stands, "{newer} on {older}");
            assert_eq!(share_content(&intent(newer), &intent(older)), shares, "{newer} and {older}");
            let at_one_path = shares
                || (stands && !["unit", "linger", "statement"].iter().any(|noun| newer.starts_with(noun)));
            assert!(!at_one_path || overlap(&intent(newer), &intent(older)), "{newer} over {older}");
        }
    }

    #[test]
    fn a_directory_that_only_got_another_mode_carries_nothing() {
        let directory = json!({ "is": "directory" });
        let older = Intent { before: directory.clone(), after: directory, ..intent("file:/srv") };
        assert!(!stands_on(&intent("file:/srv/a"), &older));
        let made = Intent { before: json!({ "is": "absent" }), ..older };
        assert!(stands_on(&intent("file:/srv/a"), &made));

        let file = json!({ "is": "file", "sha256": "1" });
        let owner = Intent { before: file.clone(), after: file, ..intent("file:/srv/a") };
        let line = intent("line:/srv/a#key");
        assert!(!stands_on(&owner, &line) && !stands_on(&line, &owner));
        assert!(stands_on(&owner, &intent("file:/srv/a")) && stands_on(&intent("file:/srv/a"), &owner));
        assert!(stands_on(&owner, &intent("access:/srv")));
    }

    #[test]
    fn a_database_stands_on_the_role_that_it_belongs_to() {
        let newer = Intent { after: json!({ "is": "present", "owner": "kim" }), ..intent("database:site") };
        assert!(stands_on(&newer, &intent("role:kim")));
        assert!(!stands_on(&newer, &intent("role:kimono")));
        assert!(!stands_on(&newer, &intent("role:kim@other:5432")));
    }
}
