//! Everything that a tree is, to the byte, so that two can be compared.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

/// Stands before a time; no shown text holds it.
const TIME: &str = " modified at\u{1f}";
/// What others write and write back, who do not ask what time it was.
const UNTIMED: [&str; 4] = ["02/current", "dpkg", "apt", "debconf"];
/// What apt, dpkg and debconf keep for themselves: what they fetched, noted, locked, or had before.
const UNCOMPARED: [&str; 17] = [
    "cache",
    "log",
    "debconf/config.dat-new",
    "debconf/config.dat-old",
    "debconf/passwords.dat-new",
    "debconf/passwords.dat-old",
    "debconf/templates.dat-new",
    "debconf/templates.dat-old",
    "apt/lists",
    "apt/periodic",
    "dpkg/lock",
    "dpkg/lock-frontend",
    "dpkg/status-new",
    "dpkg/status-old",
    "dpkg/tmp.ci",
    "dpkg/triggers",
    "dpkg/updates/tmp.i",
];
/// Where apt notes which packages are there for others only.
const MARKS: &str = "apt/extended_states";
/// What apt writes before it is called by its name.
const APT_PREPARES: &str = "apt/extended_states.";
/// How many differences are shown.
const MOST_SHOWN: usize = 6;

/// Type, mode, owner, attributes and content of every path below a root; with the times of files, or without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Picture(BTreeMap<PathBuf, String>);

impl Picture {
    /// As it shall be after a run: times are those of the run.
    pub(crate) fn of(root: &Path) -> Self {
        Self::taken(root, false)
    }

    /// As it shall be after a rollback: files have their times back.
    pub(crate) fn with_times(root: &Path) -> Self {
        Self::taken(root, true)
    }

    fn taken(root: &Path, times: bool) -> Self {
        let mut entries = BTreeMap::new();
        take(root, Path::new(""), times, &mut entries);
        Self(entries)
    }

    /// The same with more in it.
    pub(crate) fn and(mut self, entries: impl IntoIterator<Item = (PathBuf, String)>) -> Self {
        self.0.extend(entries);
        self
    }

    /// The same without the times of files.
    pub(crate) fn without_times(&self) -> Self {
        let without = |text: &String| text.split(TIME).next().unwrap_or_default().to_owned();
        Self(self.0.iter().map(|(path, text)| (path.clone(), without(text))).collect())
    }

    /// The same without the times of the databases of users and groups.
    pub(crate) fn without_times_of_accounts(&self) -> Self {
        let mut picture = self.clone();
        let timeless = self.without_times().0;
        picture.0.extend(timeless.into_iter().filter(|(path, _)| path.starts_with("etc")));
        picture
    }

    /// What lies below one of its directories.
    pub(crate) fn below(&self, name: &str) -> Self {
        let inside = |(path, _): &(&PathBuf, &String)| path.starts_with(name);
        Self(self.0.iter().filter(inside).map(|(path, text)| (path.clone(), text.clone())).collect())
    }

    /// The differences to another one, for people; none when they are the same.
    pub(crate) fn differences(&self, other: &Self) -> Option<String> {
        let mut lines = Vec::new();
        for path in self.0.keys().chain(other.0.keys().filter(|path| !self.0.contains_key(*path))) {
            let (mine, theirs) = (self.0.get(path), other.0.get(path));
            if mine != theirs {
                let shown = |text: Option<&String>| text.map_or("absent", String::as_str).to_owned();
                lines.push(format!("{}: {} instead of {}", path.display(), shown(theirs), shown(mine)));
            }
        }
        let left = lines.len().saturating_sub(MOST_SHOWN);
        lines.truncate(MOST_SHOWN);
        if left > 0 {
            lines.push(format!("and {left} more"));
        }
        (!lines.is_empty()).then(|| lines.join("\n    "))
    }
}

fn take(root: &Path, relative: &Path, times: bool, entries: &mut BTreeMap<PathBuf, String>) {
    let path = root.join(relative);
    let is_apts = relative.to_string_lossy().starts_with(APT_PREPARES);
    if is_apts || UNCOMPARED.iter().any(|name| relative == Path::new(name)) {
        return;
    }
    let Ok(metadata) = path.symlink_metadata() else { return };
    let kind = metadata.file_type();
    let access =
        format!("{:06o} {}:{}{}", metadata.mode(), metadata.uid(), metadata.gid(), attributes(&path));
    let what = if kind.is_symlink() {
        format!("link to {}", fs::read_link(&path).unwrap().display())
    } else if kind.is_dir() {
        let mut names: Vec<_> =
            fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        for name in names {
            take(root, &relative.join(name), times, entries);
        }
        "directory".to_owned()
    } else if kind.is_fifo() || kind.is_socket() {
        "special".to_owned()
    } else {
        let mut bytes = fs::read(&path).unwrap();
        if relative == Path::new(MARKS) {
            bytes = marks(root, &bytes);
        }
        let time = if times && !UNTIMED.iter().any(|name| relative.starts_with(name)) {
            format!("{TIME}{}.{:09}", metadata.mtime(), metadata.mtime_nsec())
        } else {
            String::new()
        };
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(800)]).escape_debug().to_string();
        format!(
            "file of {} bytes {} \"{shown}\"{time}",
            bytes.len(),
            hex(&Sha256::digest(&bytes))[..12].to_owned()
        )
    };
    entries.insert(relative.to_owned(), format!("{access} {what}"));
}

/// apt's marks of packages that are there. It writes them before it makes or removes those, and what it wrote of
/// others says nothing.
fn marks(root: &Path, bytes: &[u8]) -> Vec<u8> {
    let known = fs::read_to_string(root.join("dpkg/status")).unwrap_or_default();
    let is_known = |mark: &&str| known.split("\n\n").any(|one| one.lines().next() == mark.lines().next());
    let text = String::from_utf8_lossy(bytes);
    let mut marks: Vec<&str> = text.split("\n\n").filter(is_known).collect();
    marks.sort_unstable();
    marks.join("\n\n").into_bytes()
}

fn attributes(path: &Path) -> String {
    let mut names = vec![0; 4096];
    let Ok(length) = rustix::fs::llistxattr(path, &mut names) else { return String::new() };
    let mut found = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 4096];
        let name = std::ffi::OsStr::from_bytes(name);
        let length = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
        found.push(format!(" {}={}", name.to_string_lossy(), hex(&value[..length])));
    }
    found.sort();
    found.concat()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// What does not belong into a tree or a state directory, whatever happened: things in preparation.
pub(crate) fn leftovers(tree: &Path, state: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut entries = BTreeMap::new();
    take(tree, Path::new(""), false, &mut entries);
    let is_prepared =
        |path: &&PathBuf| path.file_name().is_some_and(|name| name.as_bytes().starts_with(b".kkrun-"));
    found.extend(entries.keys().filter(is_prepared).map(|path| path.display().to_string()));
    let mut entries = BTreeMap::new();
    take(state, Path::new(""), false, &mut entries);
    for path in entries.keys() {
        let shown = path.display().to_string();
        let parts: Vec<&str> = shown.split('/').collect();
        let belongs = match parts.as_slice() {
            [
                "" | "journal" | "journal.end" | "journal.checkpoint" | "key" | "remembered" | "lock"
                | "backups" | "logs" | "secrets" | "running" | "aside",
            ] => true,
            // Killed before its first record, a run leaves nothing for a rollback to do: the next run writes over it.
            [".key"] => fs::metadata(state.join("journal")).map_or(0, |journal| journal.len()) == 0,
            // The end that a power cut tore off is kept for people.
            [torn] => torn.starts_with("journal.torn-at-"),
            ["backups", name] => {
                fs::read(state.join(path)).is_ok_and(|bytes| backup_name(state, &bytes) == *name)
            }
            ["logs" | "secrets", name] => !name.starts_with('.'),
            // What a disturbed command left half made, and may be the operator's.
            ["aside", number, ..] => number.parse::<u32>().is_ok(),
            _ => false,
        };
        if !belongs {
            found.push(format!("state/{shown}"));
        }
    }
    found
}

/// The name of the backup with this content: its SHA-256, hashed under the key of the state directory.
fn backup_name(state: &Path, bytes: &[u8]) -> String {
    let key = fs::read(state.join("key")).unwrap_or_default();
    let mut name = Hmac::<Sha256>::new_from_slice(&key).expect("a key of any length");
    name.update(&Sha256::digest(bytes));
    hex(&name.finalize().into_bytes())
}
