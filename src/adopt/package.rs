//! Packages: what dpkg has installed, and what was asked for.

use std::collections::{BTreeMap, BTreeSet};

use crate::machine::clone::root_files::RootFiles;

/// One installed package.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Package {
    pub(super) version: String,
    pub(super) held: bool,
    /// Installed because another package needs it.
    automatic: bool,
    /// The names in its dependencies, recommendations left out.
    needs: BTreeSet<String>,
    provides: BTreeSet<String>,
}

/// The installed packages by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Packages(pub(super) BTreeMap<String, Package>);

impl Packages {
    /// Those of a root directory.
    pub(super) fn of(files: &RootFiles) -> Self {
        Self::read(&files.text("/var/lib/dpkg/status"), &files.text("/var/lib/apt/extended_states"))
    }

    /// Those of dpkg's and apt's records. Source: dpkg(1), deb-control(5), apt-mark(8).
    pub(super) fn read(status: &str, extended: &str) -> Self {
        let automatic: BTreeSet<String> = paragraphs(extended)
            .filter(|fields| fields.get("Auto-Installed") == Some(&"1"))
            .filter_map(|fields| Some((*fields.get("Package")?).to_owned()))
            .collect();
        let mut packages = BTreeMap::new();
        for fields in paragraphs(status) {
            let (Some(name), Some(state)) = (fields.get("Package"), fields.get("Status")) else { continue };
            if !state.ends_with(" ok installed") {
                continue;
            }
            let names = |field: &str| -> BTreeSet<String> {
                let text = fields.get(field).copied().unwrap_or_default();
                let name =
                    |part: &str| part.trim().split([' ', ':', '(']).next().unwrap_or_default().to_owned();
                text.split([',', '|']).map(name).filter(|name| !name.is_empty()).collect()
            };
            let package = Package {
                version: fields.get("Version").copied().unwrap_or_default().to_owned(),
                held: state.starts_with("hold "),
                automatic: automatic.contains(*name),
                needs: names("Depends").union(&names("Pre-Depends")).cloned().collect(),
                provides: names("Provides"),
            };
            packages.insert((*name).to_owned(), package);
        }
        Self(packages)
    }

    /// The packages that are not in `base` and were asked for.
    pub(super) fn asked_beyond(&self, base: &Self) -> Vec<String> {
        let new = self.0.iter().filter(|(name, package)| !base.0.contains_key(*name) && !package.automatic);
        new.map(|(name, _)| name.clone()).collect()
    }

    /// The packages of `base` that are there in another version.
    pub(super) fn upgraded_beyond(&self, base: &Self) -> Vec<&String> {
        let is_other =
            |name: &&String| base.0.get(*name).is_some_and(|before| before.version != self.0[*name].version);
        self.0.keys().filter(is_other).collect()
    }

    /// The packages that were put on hold.
    pub(super) fn held_beyond(&self, base: &Self) -> Vec<&String> {
        let held = self.0.iter().filter(|(_, package)| package.held).map(|(name, _)| name);
        held.filter(|name| !base.0.get(*name).is_some_and(|before| before.held)).collect()
    }

    /// Whether something that is not in `base` is there only because a package recommends it.
    pub(super) fn has_recommended_beyond(&self, base: &Self) -> bool {
        let mut reached: BTreeSet<&String> = self
            .0
            .iter()
            .filter(|(name, package)| base.0.contains_key(*name) || !package.automatic)
            .map(|(name, _)| name)
            .collect();
        let mut next: Vec<&String> = reached.iter().copied().collect();
        while let Some(name) = next.pop() {
            for (other, package) in &self.0 {
                let is_needed =
                    self.0[name].needs.iter().any(|need| need == other || package.provides.contains(need));
                if is_needed && reached.insert(other) {
                    next.push(other);
                }
            }
        }
        reached.len() < self.0.len()
    }
}

/// The paragraphs of a file of `Field: value` lines; continued lines are left out, for no field that is read has any.
pub(super) fn paragraphs(text: &str) -> impl Iterator<Item = BTreeMap<&str, &str>> {
    text.split("\n\n").map(|paragraph| {
        let fields = paragraph.lines().filter(|line| !line.starts_with([' ', '\t']));
        fields.filter_map(|line| line.split_once(':')).map(|(name, value)| (name, value.trim())).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Package: base\nStatus: install ok installed\nVersion: 1\n\n\
        Package: web\nStatus: install ok installed\nVersion: 2\nDepends: lib (>= 1), mta | other\nRecommends: extra\n\n\
        Package: lib\nStatus: install ok installed\nVersion: 1\nDescription: a\n Depends: not this\n\n\
        Package: exim\nStatus: hold ok installed\nProvides: mta\nVersion: 3\n\n\
        Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n";
    const EXTENDED: &str = "Package: lib\nAuto-Installed: 1\n\nPackage: exim\nAuto-Installed: 1\n\nPackage: web\nAuto-Installed: 0\n";

    fn base() -> Packages {
        Packages::read("Package: base\nStatus: install ok installed\nVersion: 1\n", "")
    }

    #[test]
    fn what_was_asked_for_is_new_and_not_automatic() {
        let packages = Packages::read(STATUS, EXTENDED);
        assert_eq!(packages.asked_beyond(&base()), ["web"]);
        assert!(packages.0["exim"].held && !packages.0["web"].held && !packages.0.contains_key("gone"));
    }

    #[test]
    fn a_package_that_nothing_needs_was_recommended() {
        assert!(!Packages::read(STATUS, EXTENDED).has_recommended_beyond(&base()));
        let status = format!("{STATUS}\n\nPackage: extra\nStatus: install ok installed\nVersion: 1\n");
        let extended = format!("{EXTENDED}\n\nPackage: extra\nAuto-Installed: 1\n");
        assert!(Packages::read(&status, &extended).has_recommended_beyond(&base()));
    }
}
