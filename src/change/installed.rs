//! Which packages dpkg has, and in which state.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};

use super::World;
use super::unit::succeeded;
use crate::machine::process::Command;

/// The format of one line of `dpkg-query`: state, name (with its architecture where that tells it apart), version,
/// what it provides and what it excludes. Source: dpkg-query(1).
const FORMAT: &str = "${db:Status-Abbrev}\t${binary:Package}\t${Version}\t${Provides}\t${Conflicts}\n";

/// The packages that dpkg knows.
#[derive(Clone, Debug, Default)]
pub struct Installed {
    packages: BTreeMap<String, (char, String)>,
    provided: BTreeSet<String>,
    replaced: BTreeSet<String>,
    broken: BTreeSet<String>,
}

impl Installed {
    /// Asks dpkg.
    pub fn look(world: &World) -> Result<Self> {
        let command = Command::new(["dpkg-query", "--show", &format!("--showformat={FORMAT}")]);
        let ended = world.look(&command)?;
        succeeded(&ended, "dpkg-query --show")?;
        let output = ended.stdout.whole().context("`dpkg-query` lists more packages than kkrun can take")?;
        Ok(Self::parse(&String::from_utf8_lossy(&output)))
    }

    fn parse(listing: &str) -> Self {
        let mut known = Self::default();
        for line in listing.lines() {
            let mut fields = line.split('\t');
            let (Some(state), Some(name), Some(version)) = (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let mut letters = state.chars().skip(1);
            let Some(state) = letters.next() else { continue };
            if letters.next() == Some('R') {
                known.broken.insert(name.to_owned());
            }
            if state == 'i' {
                let provides = names_in(fields.next().unwrap_or_default());
                let excludes = names_in(fields.next().unwrap_or_default());
                known.replaced.extend(provides.intersection(&excludes).cloned());
                known.provided.extend(provides);
            }
            known.packages.insert(name.to_owned(), (state, version.to_owned()));
        }
        known
    }

    /// Whether the package of exactly this name is unpacked and configured.
    pub fn is_installed(&self, name: &str) -> bool {
        self.state(name) == 'i'
    }

    /// Whether anything of the package is there besides configuration files that a removal left.
    pub fn is_there(&self, name: &str) -> bool {
        !matches!(self.state(name), 'n' | 'c')
    }

    /// The packages that were interrupted so badly that they must be installed again.
    pub fn broken(&self) -> Vec<&str> {
        self.broken.iter().map(String::as_str).collect()
    }

    /// Whether an installed package provides this name.
    pub fn is_provided(&self, name: &str) -> bool {
        self.provided.contains(name)
    }

    /// Whether an installed package provides this name and cannot stand beside a package of the name: it takes that
    /// one's place. Source: deb-conflicts(7), "Provides" with "Conflicts".
    pub fn is_replaced(&self, name: &str) -> bool {
        self.replaced.contains(name)
    }

    /// The version of what is there.
    pub fn version(&self, name: &str) -> Option<&str> {
        self.find(name).filter(|(state, _)| !matches!(state, 'n' | 'c')).map(|(_, version)| version.as_str())
    }

    fn state(&self, name: &str) -> char {
        self.find(name).map_or('n', |(state, _)| *state)
    }

    /// The name as it stands, else with any architecture: a package that may be there in several is listed so.
    fn find(&self, name: &str) -> Option<&(char, String)> {
        if let Some(found) = self.packages.get(name) {
            return Some(found);
        }
        let qualified = format!("{name}:");
        let mut all = self
            .packages
            .range(qualified.clone()..)
            .take_while(|(known, _)| known.starts_with(&qualified))
            .map(|(_, found)| found);
        let first = all.next();
        all.find(|(state, _)| *state == 'i').or(first)
    }
}
/// The names in a list of relations such as `a (= 1), b`.
fn names_in(relations: &str) -> BTreeSet<String> {
    relations.split(',').filter_map(|one| one.split_whitespace().next()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "ii \tapt\t2.6.1\tapt-transport-https (= 2.6.1)\n\
                           rc \tnano\t7.2\teditor\n\
                           iU \tnginx\t1.22\thttpd, httpd-cgi\n\
                           iHR\trsync\t3.2\t\n\
                           hi \tcurl\t7.88\t\n\
                           ii \tlibc6:amd64\t2.36\tlibc6-2.36\n\
                           ii \tnodejs\t20\tnodejs-dev, npm\tnodejs-legacy, npm (<< 9)\n\
                           ii \tpostgresql-15\t15.3\tpostgresql-contrib-15\n";

    #[test]
    fn installed_is_what_is_unpacked_and_configured_under_exactly_that_name() {
        let known = Installed::parse(LISTING);
        for name in ["apt", "curl", "libc6", "libc6:amd64"] {
            assert!(known.is_installed(name), "{name}");
        }
        for name in
            ["ap", "apt-", "nano", "nginx", "libc", "libc6:i386", "postgresql", "postgresql-contrib-15"]
        {
            assert!(!known.is_installed(name), "{name}");
        }
    }

    #[test]
    fn what_is_half_installed_is_there_and_what_was_removed_is_not() {
        let known = Installed::parse(LISTING);
        assert!(known.is_there("nginx") && !known.is_there("nano") && !known.is_there("none"));
        assert_eq!((known.version("nginx"), known.version("nano")), (Some("1.22"), None));
    }

    #[test]
    fn what_was_interrupted_in_unpacking_is_broken() {
        let known = Installed::parse(LISTING);
        assert_eq!(known.broken(), ["rsync"]);
        assert!(known.is_there("rsync") && !known.is_installed("rsync"));
    }

    #[test]
    fn names_are_provided_by_installed_packages_alone() {
        let known = Installed::parse(LISTING);
        assert!(known.is_provided("postgresql-contrib-15") && known.is_provided("apt-transport-https"));
        assert!(!known.is_provided("httpd") && !known.is_provided("editor"));
    }

    #[test]
    fn a_name_is_replaced_by_what_provides_it_and_excludes_it() {
        let known = Installed::parse(LISTING);
        assert!(known.is_replaced("npm"));
        assert!(!known.is_replaced("nodejs-dev") && !known.is_replaced("nodejs-legacy"));
    }
}
