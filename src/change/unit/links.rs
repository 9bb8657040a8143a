//! The links by which the system's units are enabled. `systemctl enable` makes them and `systemctl disable` removes them, also
//! those of other units (`Also=`), of all instances of a template, and those of an init script for each runlevel. An undo
//! restores those from before and leaves alone what else was enabled.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::Unit;
use super::manager::UNIT_PATHS;
use crate::change::tag;
use crate::machine::files::{self, FileState, PathText};

/// Where the administrator's links are. Source: systemd.unit(5).
const LINKS: &str = "/etc/systemd/system";
/// Endings of the directories in which they are, besides that one. Source: systemd.unit(5).
const DIRECTORIES: [&str; 3] = [".wants", ".requires", ".upholds"];
/// Where the links of init scripts are, for each runlevel. Source: update-rc.d(8).
const RUNLEVELS: [&str; 8] = ["0", "1", "2", "3", "4", "5", "6", "S"];

/// The links of a unit, and those that enabling it makes besides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Links {
    /// The units that are enabled with it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    with: BTreeSet<String>,
    /// What its file and theirs say: the names of directories in which enabling makes links, and the other names of units.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    places: BTreeSet<String>,
    /// Where each link points to.
    found: BTreeMap<PathText, PathText>,
}

impl Links {
    /// Those of a unit of the system.
    ///
    /// # Errors
    /// When a directory of links cannot be read.
    pub(super) fn of(unit: &Unit) -> Result<Self> {
        // A template has no properties that could be asked for.
        let text = text_of(&unit.name);
        let with = named_in(&text, &unit.name);
        let texts = with.iter().map(|name| text_of(name));
        let places = texts.chain(std::iter::once(text)).flat_map(|text| places_in(&text)).collect();
        let found = find(unit, &with)?;
        Ok(Self { with, places, found })
    }

    /// Those from before, a line each.
    pub(super) fn shown(&self) -> Vec<String> {
        self.found.iter().map(|(path, to)| format!("link before: {path} → {to}")).collect()
    }

    /// Whether disabling the unit removes its file, which is a link.
    pub(super) fn hold_file_of(&self, unit: &Unit) -> bool {
        self.found.contains_key(&PathText::new(Path::new(LINKS).join(&unit.name)))
    }

    /// Whether enabling makes a link here, and not the administrator.
    fn are_made_at(&self, path: &Path, unit: &Unit) -> bool {
        let has = |name: &std::ffi::OsStr| self.places.contains(&*name.to_string_lossy());
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return false };
        if directory == Path::new(LINKS) {
            return has(name) || is_named(path, &unit.name);
        }
        // What the name of a place is depends on the instance.
        !directory.starts_with(LINKS)
            || directory.file_name().is_some_and(has)
            || self.places.iter().any(|place| place.contains('%'))
    }

    /// Makes those again that are missing, and removes the others but those of instances that someone else enabled.
    ///
    /// # Errors
    /// When one cannot be made or removed.
    pub(super) fn restore(&self, unit: &Unit) -> Result<()> {
        for (path, target) in self.missing(unit)? {
            if let Some(directory) = path.parent() {
                std::fs::create_dir_all(directory)
                    .with_context(|| format!("cannot make the directory `{}`", directory.display()))?;
            }
            files::link(&path, &PathText::new(target), 0, 0, None, &FileState::Absent, &tag(&path))?;
        }
        // The unit's own last: killed in between, it is still enabled and the next undo goes on.
        let mut made = self.made_since(unit)?;
        made.sort_by_key(|path| is_named(path, &unit.name));
        for path in made {
            files::remove(&path, &FileState::observe(&path)?, &tag(&path))?;
            // As `systemctl disable` does; one that holds something stays.
            if let Some(directory) = path.parent().filter(|directory| *directory != Path::new(LINKS))
                && directory.starts_with(LINKS)
            {
                let _is_not_empty = std::fs::remove_dir(directory);
            }
        }
        Ok(())
    }

    /// Whether enabling the unit would make links, because its file or those of the units enabled with it say more now.
    pub(super) fn lack_new(&self, unit: &Unit) -> bool {
        // What enables a template is a link to one of its instances.
        if unit.name.contains("@.") {
            return false;
        }
        let is_there = |place: &String| {
            let mut paths = UNIT_PATHS.iter().filter(|path| !path.starts_with("/run")).map(Path::new);
            place.contains('%') || paths.any(|path| path.join(place).symlink_metadata().is_ok())
        };
        let names = self.with.iter().chain(std::iter::once(&unit.name));
        names.filter(|name| !name.contains("@.")).any(|name| {
            let made = places_in(&text_of(name)).into_iter().map(|place| match place.rsplit_once('.') {
                Some((_, ending)) if DIRECTORIES.iter().any(|known| known[1..] == *ending) => {
                    format!("{place}/{name}")
                }
                _ => place,
            });
            made.collect::<Vec<_>>().iter().any(|place| !is_there(place))
        })
    }

    /// Whether there are links that were not there, or the reverse.
    pub(super) fn are_changed(&self, unit: &Unit) -> Result<bool> {
        Ok(!self.missing(unit)?.is_empty() || !self.made_since(unit)?.is_empty())
    }

    /// Those that are no longer there, and where they point to.
    pub(super) fn missing(&self, unit: &Unit) -> Result<Vec<(PathBuf, PathBuf)>> {
        let now = find(unit, &self.with)?;
        let missing = self.found.iter().filter(|(path, _)| !now.contains_key(path));
        Ok(missing.map(|(path, to)| (path.as_path().to_owned(), to.as_path().to_owned())).collect())
    }

    fn made_since(&self, unit: &Unit) -> Result<Vec<PathBuf>> {
        let is_made = |path: &PathText| {
            // Of a template: the instance that its file names is enabled with it, any other one by someone else.
            let is_others = is_instance_of(path.as_path(), &unit.name)
                && !self.with.iter().any(|name| is_named(path.as_path(), name));
            !self.found.contains_key(path) && !is_others && self.are_made_at(path.as_path(), unit)
        };
        let now = find(unit, &self.with)?;
        Ok(now.into_keys().filter(is_made).map(|path| path.as_path().to_owned()).collect())
    }
}

/// What the file of a unit enables with it: the units of `Also=`, and for a template its default instance. Source:
/// systemd.unit(5).
fn named_in(text: &str, name: &str) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
        match key.trim() {
            "Also" => named.extend(value.split_whitespace().map(str::to_owned)),
            "DefaultInstance" => {
                if let Some((stem, kind)) = name.split_once("@.") {
                    named.insert(format!("{stem}@{}.{kind}", value.trim()));
                }
            }
            _ => {}
        }
    }
    named
}

/// What is in the file of a unit; empty if it has none.
fn text_of(name: &str) -> String {
    let template =
        name.split_once('@').and_then(|(stem, rest)| Some(format!("{stem}@.{}", rest.rsplit_once('.')?.1)));
    let files = std::iter::once(name.to_owned()).chain(template);
    let files = files.flat_map(|file| UNIT_PATHS.iter().map(move |place| Path::new(place).join(&file)));
    files.into_iter().find_map(|file| std::fs::read_to_string(file).ok()).unwrap_or_default()
}

/// Where enabling a unit with this file makes links. Source: systemd.unit(5).
fn places_in(text: &str) -> BTreeSet<String> {
    let mut places = BTreeSet::new();
    for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
        let ending = match key.trim() {
            "WantedBy" => ".wants",
            "RequiredBy" => ".requires",
            "UpheldBy" => ".upholds",
            "Alias" => "",
            _ => continue,
        };
        places.extend(value.split_whitespace().map(|name| format!("{name}{ending}")));
    }
    places
}

fn is_named(path: &Path, name: &str) -> bool {
    path.file_name().is_some_and(|found| found == name)
}

/// Whether a link has the name of an instance of this template.
fn is_instance_of(path: &Path, template: &str) -> bool {
    let (Some((stem, kind)), Some(name)) = (template.split_once("@."), path.file_name()) else {
        return false;
    };
    let name = name.to_string_lossy();
    let instance = name.strip_prefix(stem).and_then(|rest| rest.strip_prefix('@'));
    instance.and_then(|rest| rest.strip_suffix(kind)?.strip_suffix('.')).is_some_and(|name| !name.is_empty())
}

/// The links there are of a unit and of others.
fn find(unit: &Unit, with: &BTreeSet<String>) -> Result<BTreeMap<PathText, PathText>> {
    let mut found = BTreeMap::new();
    let is_one = |path: &Path| {
        let is = |name: &str| is_named(path, name) || is_instance_of(path, name);
        is(&unit.name) || with.iter().any(|name| is(name))
    };
    let mut directories = vec![PathBuf::from(LINKS)];
    directories.extend(entries(Path::new(LINKS))?.into_iter().filter(|path| {
        let name = path.to_string_lossy();
        DIRECTORIES.iter().any(|ending| name.ends_with(ending)) && path.is_dir()
    }));
    let mut add = |path: PathBuf, is_one: &dyn Fn(&Path) -> bool| {
        if let Ok(target) = std::fs::read_link(&path)
            && (is_one(&path) || is_one(&target))
        {
            found.insert(PathText::new(path), PathText::new(target));
        }
    };
    for path in directories.iter().map(|directory| entries(directory)).collect::<Result<Vec<_>>>()?.concat() {
        add(path, &is_one);
    }
    let script =
        unit.name.strip_suffix(".service").filter(|name| Path::new("/etc/init.d").join(name).exists());
    if let Some(script) = script {
        let is_of_script = |path: &Path| is_named(path, script);
        for runlevel in RUNLEVELS {
            for path in entries(Path::new(&format!("/etc/rc{runlevel}.d")))? {
                add(path, &is_of_script);
            }
        }
    }
    Ok(found)
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = || format!("cannot read the directory `{}`", directory.display());
    match std::fs::read_dir(directory) {
        Ok(entries) => {
            let paths = entries.map(|entry| entry.map(|entry| entry.path()));
            paths.collect::<std::io::Result<_>>().with_context(unreadable)
        }
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(error) => Err(error).with_context(unreadable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_enabled_with_a_unit_is_read_from_its_file() {
        let text = "[Service]\nExecStart=/bin/a=b\n[Install]\nWantedBy=a.target\nAlso=x.socket  y.timer\nDefaultInstance=tty1\n";
        let names = |name| named_in(text, name).into_iter().collect::<Vec<_>>();
        assert_eq!(names("a@.service"), ["a@tty1.service", "x.socket", "y.timer"]);
        assert_eq!(names("a.service"), ["x.socket", "y.timer"]);
    }

    #[test]
    fn where_enabling_makes_links_is_read_from_a_file() {
        let text = "[Unit]\nWants=x.service\n[Install]\nWantedBy=a.target b.target\nRequiredBy=c.target\nAlias=d.service\n";
        let places: Vec<String> = places_in(text).into_iter().collect();
        assert_eq!(places, ["a.target.wants", "b.target.wants", "c.target.requires", "d.service"]);
    }

    #[test]
    fn an_instance_has_the_name_of_its_template_around_its_own() {
        let is = |path: &str, template| is_instance_of(Path::new(path), template);
        assert!(is("/etc/systemd/system/a.wants/y@one.service", "y@.service"));
        assert!(is("y@a.b@c.service", "y@.service"));
        for (path, template) in [
            ("y@.service", "y@.service"),
            ("xy@one.service", "y@.service"),
            ("y@one.timer", "y@.service"),
            ("y.service", "y.service"),
        ] {
            assert!(!is(path, template), "{path}");
        }
    }
}
