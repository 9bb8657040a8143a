//! What a rehearsal changed on disk, as a list and summed up for people.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};

use super::exception::{EXCEPTIONS, WATCHED};

pub use crate::machine::clone::overlay_difference::{Aspect, Difference as Entry, Kind};

/// The paths in which a clone differs from its base, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// All of them.
    pub entries: Vec<Entry>,
}

/// What is otherwise in one directory and below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The directory.
    pub directory: PathBuf,
    /// How many paths are new.
    pub added: usize,
    /// How many were there and are otherwise.
    pub changed: usize,
    /// How many are gone.
    pub deleted: usize,
    /// The bytes of the files that are new or otherwise.
    pub bytes: u64,
}

impl Difference {
    /// One of these entries.
    pub fn new(entries: Vec<Entry>) -> Self {
        Self { entries }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What is otherwise than in the base now and was not, or not so, in an earlier difference.
    pub fn without(mut self, earlier: &Self) -> Self {
        self.entries.retain(|entry| !earlier.entries.contains(entry));
        self
    }

    /// The part that `--expect-unchanged` does not let pass.
    pub fn unexpected(&self) -> Self {
        let watched = |path: &Path| WATCHED.iter().any(|root| path.starts_with(root));
        let let_off = |path: &Path| EXCEPTIONS.iter().any(|exception| exception.covers(path));
        let entries = self.entries.iter().filter(|entry| watched(&entry.path) && !let_off(&entry.path));
        Self { entries: entries.cloned().collect() }
    }

    /// Summed up by directory, in their order.
    pub fn summary(&self) -> Vec<Summary> {
        let mut sums: BTreeMap<PathBuf, Summary> = BTreeMap::new();
        for entry in &self.entries {
            let directory = group(entry);
            let sum = sums.entry(directory.clone()).or_default();
            sum.directory = directory;
            match entry.kind {
                Kind::Added => sum.added += 1,
                Kind::Changed => sum.changed += 1,
                Kind::Deleted => sum.deleted += 1,
            }
            if entry.kind != Kind::Deleted {
                sum.bytes += entry.size;
            }
        }
        sums.into_values().collect()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.directory.display())?;
        let counts = [(self.added, "added"), (self.changed, "changed"), (self.deleted, "deleted")];
        for (number, (count, what)) in counts.into_iter().filter(|(count, _)| *count > 0).enumerate() {
            write!(formatter, "{} {count} {what}", if number == 0 { "" } else { "," })?;
        }
        if self.bytes > 0 { write!(formatter, " ({})", size(self.bytes)) } else { Ok(()) }
    }
}

/// One entry in one line: `changed /etc/hosts (content, time)`.
pub fn line(entry: &Entry) -> String {
    let kind = match entry.kind {
        Kind::Added => "added",
        Kind::Changed => "changed",
        Kind::Deleted => "deleted",
    };
    let aspects: Vec<&str> = entry
        .aspects
        .iter()
        .map(|aspect| match aspect {
            Aspect::Type => "type",
            Aspect::Content => "content",
            Aspect::Mode => "mode",
            Aspect::Owner => "owner",
            Aspect::Attributes => "attributes",
            Aspect::Time => "time",
        })
        .collect();
    let slash = if entry.directory { "/" } else { "" };
    let shown = entry.path.display();
    if aspects.is_empty() {
        format!("{kind} {shown}{slash}")
    } else {
        format!("{kind} {shown}{slash} ({})", aspects.join(", "))
    }
}

/// A number of bytes for people.
pub fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let Some((unit, name)) = UNITS.into_iter().find(|(unit, _)| bytes >= *unit) else {
        return format!("{bytes} bytes");
    };
    let tenths = bytes / (unit / 10);
    format!("{}.{} {name}", tenths / 10, tenths % 10)
}

/// The directory under which a path is counted: as deep as people tell places apart.
fn group(entry: &Entry) -> PathBuf {
    let path = if entry.directory { &entry.path } else { entry.path.parent().unwrap_or(&entry.path) };
    let deep = ["/home", "/srv", "/usr", "/var"].iter().any(|root| path.starts_with(root));
    let deeper = ["/usr/lib", "/usr/local", "/usr/share", "/var/lib", "/var/cache"]
        .iter()
        .any(|root| path.starts_with(root));
    let depth = 1 + usize::from(deep) + usize::from(deeper);
    let mut group = PathBuf::from("/");
    group.extend(path.components().filter(|part| matches!(part, Component::Normal(_))).take(depth));
    group
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn added(path: &str, size: u64) -> Entry {
        Entry { path: path.into(), kind: Kind::Added, directory: false, size, aspects: Vec::new() }
    }

    #[test]
    fn paths_are_counted_where_people_look_for_them() {
        let deleted = Entry { kind: Kind::Deleted, ..added("/etc/old", 7) };
        let difference = Difference::new(vec![
            added("/etc/nginx/nginx.conf", 10),
            deleted,
            added("/home/me/.bashrc", 1),
            added("/var/lib/postgresql/15/main/base", 2),
            added("/var/lib/postgresql/15/main/wal", 3),
        ]);
        let sum = |directory: &str, added, deleted, bytes| Summary {
            directory: directory.into(),
            added,
            changed: 0,
            deleted,
            bytes,
        };
        assert_eq!(
            difference.summary(),
            [sum("/etc", 1, 1, 10), sum("/home/me", 1, 0, 1), sum("/var/lib/postgresql", 2, 0, 5),]
        );
    }

    #[test]
    fn what_was_otherwise_before_and_stayed_so_is_left_out() {
        let earlier = Difference::new(vec![added("/var/log/wtmp", 1), added("/etc/mark", 1)]);
        let now =
            Difference::new(vec![added("/etc/mark", 1), added("/etc/new", 1), added("/var/log/wtmp", 2)]);
        let left = now.without(&earlier);
        assert_eq!(left.entries, [added("/etc/new", 1), added("/var/log/wtmp", 2)]);
    }

    #[test]
    fn an_entry_and_a_summary_are_a_line_each() {
        let changed = Entry {
            kind: Kind::Changed,
            aspects: vec![Aspect::Content, Aspect::Time],
            ..added("/etc/hosts", 2)
        };
        assert_eq!(line(&changed), "changed /etc/hosts (content, time)");
        assert_eq!(line(&Entry { directory: true, ..added("/srv/new", 0) }), "added /srv/new/");
        let summary =
            Summary { directory: "/etc".into(), added: 1, changed: 0, deleted: 2, bytes: 3_000_000 };
        assert_eq!(summary.to_string(), "/etc 1 added, 2 deleted (2.8 MiB)");
    }

    #[test]
    fn sizes_are_for_people() {
        assert_eq!([size(7), size(1024), size(2_684_354_560)], ["7 bytes", "1.0 KiB", "2.5 GiB"]);
    }

    #[test]
    fn only_watched_paths_that_are_not_let_off_are_unexpected() {
        let difference = Difference::new(vec![
            added("/etc/machine-id", 33),
            added("/etc/machine-id-of-others", 33),
            added("/usr/bin/nginx", 1),
            added("/var/lib/kkrun/journal", 1),
            added("/var/log/syslog", 1),
            added("/var/www/page", 1),
        ]);
        let unexpected = difference.unexpected();
        let paths: Vec<&Path> = unexpected.entries.iter().map(|entry| entry.path.as_path()).collect();
        assert_eq!(paths, [Path::new("/etc/machine-id-of-others"), Path::new("/var/www/page")]);
    }
}
