//! The files that a program reads as one configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::format::Together;
use crate::machine::files;

/// Where the configuration of systemd's programs is, the first first: a file there hides those of its name in the others.
/// Source: systemd-system.conf(5), sysctl.d(5).
const PLACES: [&str; 4] = ["/etc", "/run", "/usr/local/lib", "/usr/lib"];

/// The files of the configuration that this one is a part of, in the order in which they are read, but for those that a
/// line of another includes. The file alone, if no others are known to be read with it. It may not be there yet.
pub(super) fn read_together(together: &Together, path: &Path) -> Vec<PathBuf> {
    let others = match together {
        Together::Included { directory, by } => {
            let parent = path.parent().filter(|parent| parent.ends_with(directory));
            parent.map(|parent| vec![parent.with_file_name(by)])
        }
        Together::DropIns { of } => with_drop_ins(path, of),
        Together::Fragments { directory, beside } => fragments(path, directory, beside),
    };
    others.unwrap_or_else(|| vec![path.to_owned()])
}

/// A file of a directory of this name, and what is in the directories of its name and `.d`.
fn with_drop_ins(path: &Path, of: &str) -> Option<Vec<PathBuf>> {
    let parent = path.parent()?.to_str()?;
    let main = parent.strip_suffix(".d").map_or(path, Path::new);
    if main.extension()? != "conf" || !main.parent()?.ends_with(of) {
        return None;
    }
    let mains = in_all_places(main);
    let drop_ins = mains.iter().map(|main| PathBuf::from(format!("{}.d", main.display())));
    let read = mains.iter().find(|main| *main == path || main.exists());
    Some(read.cloned().into_iter().chain(layered(drop_ins.collect(), path)).collect())
}

/// What is in the directories of this name. The file beside them is read if it is linked there.
fn fragments(path: &Path, directory: &str, beside: &str) -> Option<Vec<PathBuf>> {
    let parent = path.parent()?;
    let at = if parent.ends_with(directory) {
        parent.to_owned()
    } else if path.ends_with(beside) {
        parent.join(directory)
    } else {
        return None;
    };
    Some(layered(in_all_places(&at), path)).filter(|files| files.iter().any(|file| file == path))
}

/// The same path in each of the places, or the path alone if it is in none of them.
fn in_all_places(path: &Path) -> Vec<PathBuf> {
    match PLACES.iter().find_map(|place| path.strip_prefix(place).ok()) {
        Some(below) => PLACES.iter().map(|place| Path::new(place).join(below)).collect(),
        None => vec![path.to_owned()],
    }
}

/// The files of these directories in the order of their names, of those with one name the first. One that is no file, as
/// a link to `/dev/null`, hides the others.
fn layered(directories: Vec<PathBuf>, path: &Path) -> Vec<PathBuf> {
    let mut by_name = BTreeMap::new();
    for directory in directories.into_iter().rev() {
        for file in files::matching(&directory.join("*.conf"), path) {
            by_name.insert(file.file_name().map(ToOwned::to_owned), file);
        }
    }
    let resolved = by_name.into_values().map(|file| file.canonicalize().unwrap_or(file));
    resolved.filter(|file| file == path || file.is_file()).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SYSTEMD: Together = Together::DropIns { of: "systemd" };
    const SYSCTL: Together = Together::Fragments { directory: "sysctl.d", beside: "sysctl.conf" };

    /// The files that are read with `path`, if these are there.
    fn read(together: &Together, there: &[&str], path: &str) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        for name in there {
            let (name, link) = name.split_once(" -> ").map_or((*name, None), |(name, to)| (name, Some(to)));
            fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            match link {
                Some(to) => std::os::unix::fs::symlink(to, root.join(name)).unwrap(),
                None => fs::write(root.join(name), "").unwrap(),
            }
        }
        let files = read_together(together, &root.join(path));
        files.iter().map(|file| file.strip_prefix(&root).unwrap_or(file).display().to_string()).collect()
    }

    #[test]
    fn drop_ins_are_read_behind_their_file() {
        let (main, one, other) =
            ("systemd/journald.conf", "systemd/journald.conf.d/1.conf", "systemd/journald.conf.d/2.conf");
        assert_eq!(read(&SYSTEMD, &[main, other], main), [main, other]);
        assert_eq!(read(&SYSTEMD, &[main, other], one), [main, one, other], "one that is to be made");
        assert_eq!(read(&SYSTEMD, &[other], other), [other]);
        assert_eq!(read(&SYSTEMD, &[], main), [main]);
        let masked = "systemd/journald.conf.d/1.conf -> /dev/null";
        assert_eq!(read(&SYSTEMD, &[masked, other], other), [other]);
        for unit in ["systemd/system/a.service", "systemd/system/a.service.d/1.conf", "other/a.conf"] {
            assert_eq!(read(&SYSTEMD, &[unit], unit), [unit], "not known");
        }
    }

    #[test]
    fn the_first_place_of_a_name_counts() {
        let places = in_all_places(Path::new("/usr/lib/sysctl.d"));
        assert_eq!(places, PLACES.map(|place| Path::new(place).join("sysctl.d")));
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let paths = ["a/1.conf", "b/1.conf", "b/0.conf", "b/2.conf"].map(|name| root.join(name));
        for path in &paths {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let [first, _hidden, zero, second] = &paths;
        let read = layered(vec![root.join("a"), root.join("b")], Path::new("/none"));
        assert_eq!(read.iter().collect::<Vec<_>>(), [zero, first, second]);
    }

    #[test]
    fn fragments_are_read_in_the_order_of_their_names_and_the_file_beside_them_where_it_is_linked() {
        let link = "sysctl.d/99-sysctl.conf -> ../sysctl.conf";
        let there = ["sysctl.conf", link, "sysctl.d/10-a.conf", "sysctl.d/README"];
        assert_eq!(read(&SYSCTL, &there, "sysctl.conf"), ["sysctl.d/10-a.conf", "sysctl.conf"]);
        let new = "sysctl.d/50-new.conf";
        assert_eq!(read(&SYSCTL, &there, new), ["sysctl.d/10-a.conf", new, "sysctl.conf"]);
        assert_eq!(read(&SYSCTL, &["sysctl.conf", "sysctl.d/10-a.conf"], "sysctl.conf"), ["sysctl.conf"]);
        assert_eq!(read(&SYSCTL, &there, "other/x.conf"), ["other/x.conf"]);
    }
}
