//! Which packages dpkg has, and in which state.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};

use super::World;
use super::unit::succeeded;
use crate::machine::process::Command;

/// The format of one line of `dpkg-query`: desired and actual state, name, architecture, version, what it provides and
/// what it conflicts with. Source: dpkg-query(1).
const FORMAT: &str =
    "${db:Status-Abbrev}\t${Package}\t${Architecture}\t${Version}\t${Provides}\t${Conflicts}\n";

/// The packages that dpkg knows, by name. As for apt, a bare name is that of a package of the machine's own architecture,
/// or of all; others have theirs behind a colon.
#[derive(Clone, Debug, Default)]
pub(super) struct Installed {
    packages: BTreeMap<String, Package>,
    /// The architecture of dpkg itself.
    own: String,
    provided: BTreeSet<String>,
    replaced: BTreeSet<String>,
}

/// One of them, with dpkg's letters. Source: dpkg-query(1), "db:Status-Abbrev".
#[derive(Clone, Debug)]
struct Package {
    /// Its desired state: `i`nstalled, `r`emoved, `p`urged, …
    desired: char,
    /// What it is: `i`nstalled, `n`ot, its `c`onfiguration alone, `H`alf installed, …
    state: char,
    /// It was interrupted so badly that it must be installed again.
    is_broken: bool,
    version: String,
}

impl Installed {
    /// Asks dpkg.
    pub(super) fn look(world: &World) -> Result<Self> {
        let command = Command::new(["dpkg-query", "--show", &format!("--showformat={FORMAT}")]);
        let ended = world.look(&command)?;
        succeeded(&ended, "dpkg-query --show")?;
        let output = ended
            .stdout
            .whole()
            .context("cannot read the packages that `dpkg-query` lists: there are too many")?;
        Ok(Self::parse(&String::from_utf8_lossy(&output)))
    }

    fn parse(listing: &str) -> Self {
        let fields = |line: &'_ str| -> Option<[String; 4]> {
            let mut fields = line.splitn(5, '\t').map(str::to_owned);
            Some([fields.next()?, fields.next()?, fields.next()?, fields.next()?])
        };
        let dpkg = listing.lines().filter_map(fields).find(|[_, name, ..]| name == "dpkg");
        let mut known = Self { own: dpkg.map(|[_, _, own, _]| own).unwrap_or_default(), ..Self::default() };
        for line in listing.lines() {
            let mut fields = line.split('\t');
            let (Some(state), Some(name), Some(architecture), Some(version)) =
                (fields.next(), fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let name = known.named(&format!("{name}:{architecture}")).to_owned();
            let mut letters = state.chars();
            let (Some(desired), Some(state)) = (letters.next(), letters.next()) else { continue };
            if state == 'i' {
                let provides = names_in(fields.next().unwrap_or_default());
                let excludes = names_in(fields.next().unwrap_or_default());
                known.replaced.extend(provides.intersection(&excludes).cloned());
                known.provided.extend(provides);
            }
            let is_broken = letters.next() == Some('R');
            let package = Package { desired, state, is_broken, version: version.to_owned() };
            known.packages.insert(name, package);
        }
        known
    }

    /// The name of a package without an architecture that goes without saying.
    pub(super) fn named<'name>(&self, name: &'name str) -> &'name str {
        match name.split_once(':') {
            Some((bare, architecture)) if architecture == self.own || architecture == "all" => bare,
            _ => name,
        }
    }

    /// Whether the package of exactly this name is unpacked and configured.
    pub(super) fn is_installed(&self, name: &str) -> bool {
        self.state(name) == 'i'
    }

    /// Whether anything of the package is there besides configuration files that a removal left.
    pub(super) fn is_there(&self, name: &str) -> bool {
        self.find(name).is_some_and(Package::is_there)
    }

    /// The packages that were interrupted so badly that apt does nothing before they are installed again.
    pub(super) fn broken(&self) -> impl Iterator<Item = &str> {
        self.packages.iter().filter(|(_, package)| package.is_broken).map(|(name, _)| name.as_str())
    }

    /// The packages that are to be there, and of which configuring does not complete what is there.
    pub(super) fn half_installed(&self) -> impl Iterator<Item = &str> {
        let is_half =
            |package: &Package| package.is_broken || (package.desired == 'i' && package.state == 'H');
        self.packages.iter().filter(move |(_, package)| is_half(package)).map(|(name, _)| name.as_str())
    }

    /// Whether dpkg left any of them on the way to another state.
    pub(super) fn has_unfinished(&self) -> bool {
        let is_on_the_way =
            |package: &Package| package.is_broken || !matches!(package.state, 'i' | 'n' | 'c');
        self.packages.values().any(is_on_the_way)
    }

    /// Whether the package is there and is not to stay: dpkg notes that before it removes one.
    pub(super) fn is_going(&self, name: &str) -> bool {
        self.find(name).is_some_and(|package| package.is_there() && matches!(package.desired, 'r' | 'p'))
    }

    /// Whether the package is gone but for configuration files, or for dpkg's notes alone.
    pub(super) fn is_removed(&self, name: &str) -> bool {
        self.state(name) == 'c'
    }

    /// Whether the administrator put the package on hold.
    pub(super) fn is_held(&self, name: &str) -> bool {
        self.find(name).is_some_and(|package| package.desired == 'h')
    }

    /// Whether an installed package provides this name.
    pub(super) fn is_provided(&self, name: &str) -> bool {
        self.provided.contains(name)
    }

    /// Whether an installed package provides this name and conflicts with a package of the name: it takes that
    /// one's place. Source: deb-conflicts(7), "Provides" with "Conflicts".
    pub(super) fn is_replaced(&self, name: &str) -> bool {
        self.replaced.contains(name)
    }

    /// The version of what is there.
    pub(super) fn version(&self, name: &str) -> Option<&str> {
        self.find(name).filter(|package| package.is_there()).map(|package| package.version.as_str())
    }

    fn state(&self, name: &str) -> char {
        self.find(name).map_or('n', |package| package.state)
    }

    fn find(&self, name: &str) -> Option<&Package> {
        self.packages.get(self.named(name))
    }
}

impl Package {
    fn is_there(&self) -> bool {
        !matches!(self.state, 'n' | 'c')
    }
}

/// The names in a list of relations such as `a (= 1), b`.
fn names_in(relations: &str) -> BTreeSet<String> {
    relations.split(',').filter_map(|one| one.split_whitespace().next()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "ii \tapt\tamd64\t2.6.1\tapt-transport-https (= 2.6.1)\n\
                           rc \tnano\tamd64\t7.2\teditor\n\
                           iU \tnginx\tall\t1.22\thttpd, httpd-cgi\n\
                           iHR\trsync\tamd64\t3.2\t\n\
                           ii \tdpkg\tamd64\t1.21\t\n\
                           ri \tjq\tamd64\t1.6\t\n\
                           pc \ttree\tamd64\t2.1\t\n\
                           hi \tcurl\tamd64\t7.88\t\n\
                           ii \tlibc6\tamd64\t2.36\tlibc6-2.36\n\
                           ii \tlibmad0\ti386\t0.15\t\n\
                           ii \tnodejs\tamd64\t20\tnodejs-dev, npm\tnodejs-legacy, npm (<< 9)\n\
                           ii \tpostgresql-15\tamd64\t15.3\tpostgresql-contrib-15\n";

    #[test]
    fn installed_is_what_is_unpacked_and_configured_under_exactly_that_name() {
        let known = Installed::parse(LISTING);
        for name in ["apt", "curl", "libc6", "libc6:amd64", "jq:amd64", "libmad0:i386"] {
            assert!(known.is_installed(name), "{name}");
        }
        for name in
            ["ap", "nano", "nginx", "libc", "libc6:i386", "libmad0", "postgresql", "postgresql-contrib-15"]
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
        assert_eq!(known.broken().collect::<Vec<_>>(), ["rsync"]);
        assert_eq!(known.half_installed().collect::<Vec<_>>(), ["rsync"]);
        assert!(known.has_unfinished() && !Installed::parse("ii \tapt\tamd64\t2.6.1\t\t\n").has_unfinished());
        assert!(known.is_there("rsync") && !known.is_installed("rsync"));
    }

    #[test]
    fn what_was_interrupted_in_removing_is_going_or_removed() {
        let known = Installed::parse(LISTING);
        assert!(known.is_going("jq") && known.is_installed("jq") && !known.is_going("apt"));
        assert!(known.is_removed("tree") && !known.is_going("tree") && !known.is_removed("none"));
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
