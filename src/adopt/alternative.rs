//! Alternatives: which program has a general name, such as `editor`. Source: update-alternatives(1), and dpkg's
//! utils/update-alternatives.c for the records in `/var/lib/dpkg/alternatives`.

use std::collections::BTreeMap;
use std::path::Path;

use super::action::{Action, Place};
use super::literal;
use super::trace::Trace;
use crate::machine::clone::root_files::{RootFiles, SeenKind};

/// Where the records are.
const RECORDS: &str = "/var/lib/dpkg/alternatives";

/// What a general name can mean, and what it does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Group {
    is_manual: bool,
    /// The path that has the general name.
    link: String,
    /// Names that go with it, such as that of the manual page, and their paths.
    slaves: Vec<(String, String)>,
    /// The programs, with their priorities and what they have for each of those names.
    choices: BTreeMap<String, (String, Vec<String>)>,
    /// The program that has the name.
    current: String,
}

/// The groups of a machine by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Alternatives(BTreeMap<String, Group>);

impl Alternatives {
    /// Those of a root directory.
    pub(super) fn of(files: &RootFiles) -> Self {
        let group = |name: String| {
            let mut group = read(&files.text(&format!("{RECORDS}/{name}")))?;
            let chosen = files.look(&Path::new("/etc/alternatives").join(&name)).ok().flatten();
            if let Some(SeenKind::Link(target)) = chosen.map(|seen| seen.kind) {
                group.current = target.to_string_lossy().into_owned();
            }
            Some((name, group))
        };
        Self(files.names(RECORDS).into_iter().filter_map(group).collect())
    }

    /// Each group as a line.
    pub(super) fn lines(&self) -> impl Iterator<Item = (String, String)> {
        self.0.iter().map(|(name, group)| {
            let mode = if group.is_manual { "chosen" } else { "best" };
            let choices: Vec<&str> = group.choices.keys().map(String::as_str).collect();
            (format!("alternative {name}"), format!("{} ({mode} of {})", group.current, choices.join(", ")))
        })
    }

    /// Whether a link is one that update-alternatives makes.
    pub(super) fn holds(&self, path: &Path) -> bool {
        self.0.iter().any(|(name, group)| {
            let mut slaves = group.slaves.iter();
            let is_of = |name: &str, link: &str| {
                path == Path::new(link) || path == Path::new("/etc/alternatives").join(name)
            };
            is_of(name, &group.link) || slaves.any(|(name, link)| is_of(name, link))
        })
    }

    /// What brings a machine with these to those. The commands are captured: what they make is many links and a record.
    pub(super) fn towards(&self, desired: &Self, trace: &Trace) -> Vec<Action> {
        let mut actions = Vec::new();
        let none = Group::default();
        for (name, group) in desired.0.iter().filter(|(name, group)| self.0.get(*name) != Some(*group)) {
            let before = self.0.get(name).unwrap_or(&none);
            let record = literal::string(&format!("{RECORDS}/{name}"));
            let mut add = |words: Vec<&str>, unless: String| {
                let words = [vec!["update-alternatives", "--quiet"], words].concat();
                let code = format!(
                    "cmd::run({}, #{{ capture: #{{}}, unless: || {unless} }});",
                    literal::array(words)
                );
                actions
                    .push(Action::new(Place::Files, code).by(trace.naming(&["update-alternatives"], name)));
            };
            let has = |text: &str| {
                format!("file::exists({record}) && file::read({record}).contains({})", literal::string(text))
            };
            for (path, (priority, others)) in &group.choices {
                if before.choices.get(path).is_some_and(|known| *known == (priority.clone(), others.clone()))
                {
                    continue;
                }
                let mut words = vec!["--install", &group.link, name, path, priority];
                for ((slave, link), other) in
                    group.slaves.iter().zip(others).filter(|(_, other)| !other.is_empty())
                {
                    words.extend(["--slave", link, slave, other]);
                }
                add(words, has(&format!("\n{path}\n{priority}\n")));
            }
            for path in before.choices.keys().filter(|path| !group.choices.contains_key(*path)) {
                add(vec!["--remove", name, path], format!("!({})", has(&format!("\n{path}\n"))));
            }
            if group.is_manual && (!before.is_manual || before.current != group.current) {
                let chosen = format!(
                    "file::read({record}).starts_with(\"manual\\n\") && file::stat({}).target == {}",
                    literal::string(&format!("/etc/alternatives/{name}")),
                    literal::string(&group.current)
                );
                add(vec!["--set", name, &group.current], chosen);
            } else if before.is_manual && !group.is_manual {
                add(vec!["--auto", name], format!("file::read({record}).starts_with(\"auto\\n\")"));
            }
        }
        actions
    }
}

fn read(record: &str) -> Option<Group> {
    let mut lines = record.lines();
    let is_manual = lines.next()? == "manual";
    let mut group = Group { is_manual, link: lines.next()?.to_owned(), ..Group::default() };
    while let Some(slave) = lines.next().filter(|line| !line.is_empty()) {
        group.slaves.push((slave.to_owned(), lines.next()?.to_owned()));
    }
    while let Some(path) = lines.next().filter(|line| !line.is_empty()) {
        let priority = lines.next()?.to_owned();
        let others = lines.by_ref().take(group.slaves.len()).map(str::to_owned).collect();
        group.choices.insert(path.to_owned(), (priority, others));
    }
    Some(group)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGER: &str = "auto\n/usr/bin/pager\npager.1.gz\n/usr/share/man/man1/pager.1.gz\n\n/bin/more\n50\n/usr/share/man/man1/more.1.gz\n";

    fn of(record: &str, current: &str) -> Alternatives {
        let group = Group { current: current.to_owned(), ..read(record).unwrap() };
        Alternatives(BTreeMap::from([("pager".to_owned(), group)]))
    }

    #[test]
    fn a_program_that_is_new_is_installed_and_one_that_is_chosen_set() {
        let base = of(&format!("{PAGER}\n"), "/bin/more");
        let desired = of(&format!("{}/opt/p\n9\n\n\n", PAGER.replace("auto", "manual")), "/opt/p");
        let codes: Vec<String> =
            base.towards(&desired, &Trace::default()).into_iter().map(|action| action.code).collect();
        assert_eq!(
            codes,
            [
                "cmd::run([\"update-alternatives\", \"--quiet\", \"--install\", \"/usr/bin/pager\", \"pager\", \"/opt/p\", \"9\"], #{ capture: #{}, unless: || file::exists(\"/var/lib/dpkg/alternatives/pager\") && file::read(\"/var/lib/dpkg/alternatives/pager\").contains(\"\\n/opt/p\\n9\\n\") });",
                "cmd::run([\"update-alternatives\", \"--quiet\", \"--set\", \"pager\", \"/opt/p\"], #{ capture: #{}, unless: || file::read(\"/var/lib/dpkg/alternatives/pager\").starts_with(\"manual\\n\") && file::stat(\"/etc/alternatives/pager\").target == \"/opt/p\" });",
            ]
        );
        let back: Vec<String> =
            desired.towards(&base, &Trace::default()).into_iter().map(|action| action.code).collect();
        assert!(back[0].contains("\"--remove\", \"pager\", \"/opt/p\""), "{back:?}");
        assert!(back[1].contains("\"--auto\", \"pager\""), "{back:?}");
        assert_eq!(base.towards(&base, &Trace::default()), []);
        assert_eq!(
            desired.lines().collect::<Vec<_>>(),
            [("alternative pager".to_owned(), "/opt/p (chosen of /bin/more, /opt/p)".to_owned())]
        );
    }

    #[test]
    fn the_links_of_a_group_are_its_own() {
        let base = of(&format!("{PAGER}\n"), "/bin/more");
        for path in ["/usr/bin/pager", "/etc/alternatives/pager", "/etc/alternatives/pager.1.gz"] {
            assert!(base.holds(Path::new(path)), "{path}");
        }
        assert!(!base.holds(Path::new("/bin/more")));
    }
}
