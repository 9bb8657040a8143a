//! Restarts: what lets units read their files again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use jiff::fmt::strtime;

use super::action::Action;
use super::trace::{Command, Trace, as_user, name_of};
use super::unit::is_unit;
use crate::machine::clone::root_files::RootFiles;

/// Units that the script let read their files again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Restart {
    pub(super) when: i128,
    /// The line of the script; 0 if it is not known.
    pub(super) line: usize,
    pub(super) units: Vec<String>,
    /// The paths among those of the plan that the units read, as far as their names and texts say so.
    pub(super) reads: BTreeSet<PathBuf>,
}

impl Restart {
    fn new(when: i128, line: usize, units: Vec<String>) -> Self {
        Self { when, line, units, reads: BTreeSet::new() }
    }
}

/// Finds which of the files that a plan makes are read by the units: their own, those that these name, and those that their
/// texts name in turn.
pub(super) fn find_files(restarts: &mut [Restart], actions: &[Action], files: &RootFiles) {
    let made: BTreeSet<&Path> = actions.iter().filter_map(Action::target).collect();
    for restart in restarts {
        let own = |path: &&Path| restart.units.iter().any(|unit| is_of(unit, path));
        let mut reads: BTreeSet<&Path> = made.iter().copied().filter(own).collect();
        let places = ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];
        let of_units = restart.units.iter().flat_map(|unit| places.map(|place| format!("{place}/{unit}")));
        let mut texts: Vec<String> = of_units.map(|path| files.text(&path)).collect();
        texts.extend(reads.iter().map(|path| files.text(&path.to_string_lossy())));
        let is_end = |letter: char| letter.is_whitespace() || "\"'=;,:".contains(letter);
        let named: BTreeSet<&str> = texts
            .iter()
            .flat_map(|text| text.split(is_end))
            .map(|word| word.trim_start_matches('-'))
            .collect();
        reads.extend(made.iter().filter(|path| path.to_str().is_some_and(|path| named.contains(path))));
        restart.reads = reads.into_iter().map(Path::to_owned).collect();
    }
}

/// The unit whose own file, or an addition to it, is at this path. Source: systemd.unit(5).
pub(super) fn unit_at(path: &Path) -> Option<&str> {
    let inner = path.strip_prefix("/etc/systemd/system").ok()?;
    let first = inner.components().next()?.as_os_str().to_str()?;
    let unit = first.strip_suffix(".d").unwrap_or(first);
    is_unit(unit).then_some(unit)
}

/// Whether a path below `/etc` is by its name for a unit.
fn is_of(unit: &str, path: &Path) -> bool {
    if let Some(own) = unit_at(path) {
        return own == unit;
    }
    let Ok(inner) = path.strip_prefix("/etc") else { return false };
    let name = unit.rsplit_once('.').map_or(unit, |(name, _)| name);
    let name = name.split('@').next().unwrap_or(name);
    let mut parts = inner.components().filter_map(|part| part.as_os_str().to_str());
    let Some(mut first) = parts.next() else { return false };
    let mut wanted = name;
    if ["default", "systemd"].contains(&first) {
        let Some(second) = parts.next() else { return false };
        wanted = if first == "systemd" { name.trim_start_matches("systemd-") } else { name };
        first = second;
    }
    let first = first.strip_suffix(".d").unwrap_or(first);
    let first = first.strip_suffix(".conf").unwrap_or(first);
    // `redis-server` reads `/etc/redis`.
    first == wanted || wanted.strip_prefix(first).is_some_and(|rest| rest.starts_with('-'))
}

/// When each service changed its state last, in nanoseconds since 1970.
pub(super) type Changes = BTreeMap<String, i128>;

/// What asks for them.
pub(super) const ASK: [&str; 7] = [
    "/bin/systemctl",
    "show",
    "--timestamp=us+utc",
    "--property=Id",
    "--property=StateChangeTimestamp",
    "--property=UnitFileState",
    "*.service",
];

/// Reads what it answers.
pub(super) fn changes(said: &str) -> Changes {
    let of_unit = |block: &str| {
        let value = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
        // What cannot be enabled, others start when they need it.
        if value("UnitFileState=") == Some("static") {
            return None;
        }
        let read = strtime::parse("%a %Y-%m-%d %H:%M:%S%.f UTC", value("StateChangeTimestamp=")?).ok()?;
        let when = read.to_datetime().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
        Some((value("Id=")?.to_owned(), when.timestamp().as_nanosecond()))
    };
    said.split("\n\n").filter_map(of_unit).collect()
}

/// Those of the script: what its commands ask for, and what changed the state of a service that is active, however that
/// came about. A service that is not active on the clone before may be on the machine.
pub(super) fn restarts(
    trace: &Trace,
    active: &BTreeSet<String>,
    changes: &Changes,
    during: (i128, i128),
) -> Vec<Restart> {
    let mut restarts: Vec<Restart> =
        trace.commands.iter().filter_map(|command| asked(command, active)).collect();
    let known: BTreeSet<String> = restarts.iter().flat_map(|restart| restart.units.clone()).collect();
    for (unit, when) in changes {
        let command = trace.at(*when, "");
        let is_its_own = (during.0..=during.1).contains(when)
            && active.contains(unit)
            && !known.contains(unit)
            && !command.is_some_and(installs);
        if is_its_own {
            let line = command.map_or(0, |command| command.line);
            restarts.push(Restart::new(*when, line, vec![unit.clone()]));
        }
    }
    restarts.sort_by_key(|restart| restart.when);
    restarts
}

/// Whether what a command does to services is a package's doing.
fn installs(command: &Command) -> bool {
    let words = command.words();
    words.iter().any(|word| ["apt", "apt-get", "aptitude", "dpkg"].contains(&name_of(word)))
}

/// The active units that a command lets read their files again.
fn asked(command: &Command, active: &BTreeSet<String>) -> Option<Restart> {
    const VERBS: [&str; 7] = [
        "restart",
        "reload",
        "reload-or-restart",
        "try-reload-or-restart",
        "try-restart",
        "force-reload",
        "graceful",
    ];
    let mut words = as_user(command.words()).1;
    if words.first().is_some_and(|word| word == "sudo") {
        words.remove(0);
    }
    let program = name_of(words.first()?).to_owned();
    if ["bash", "dash", "sh"].contains(&program.as_str()) && words.len() == 3 && words[1].ends_with('c') {
        let inner = Command { text: words[2].clone(), ..command.clone() };
        return asked(&inner, active);
    }
    let verb = words.iter().position(|word| VERBS.contains(&word.as_str()));
    let named: Vec<String> = match program.as_str() {
        "systemctl" | "service" | "deb-systemd-invoke" | "invoke-rc.d" => {
            verb.filter(|_| !words.iter().any(|word| word == "--user"))?;
            words[1..].to_vec()
        }
        "nginx" if words.iter().any(|word| word == "reload") => vec![program],
        "apache2ctl" | "apachectl" => verb.map(|_| vec!["apache2".to_owned()])?,
        "postfix" => verb.map(|_| vec![program])?,
        name if words[0].starts_with("/etc/init.d/") => verb.map(|_| vec![name.to_owned()])?,
        _ => return None,
    };
    let full = |word: String| if is_unit(&word) { word } else { format!("{word}.service") };
    let units: Vec<String> = named.into_iter().map(full).filter(|unit| active.contains(unit)).collect();
    (!units.is_empty()).then(|| Restart::new(command.when, command.line, units))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(trace: &str, changes: &Changes) -> Vec<Restart> {
        let active = ["nginx.service", "smbd.service"].map(str::to_owned).into();
        restarts(&Trace::read(trace, ""), &active, changes, (4_000_000_000, 9_000_000_000))
    }

    fn restart(seconds: i128, line: usize, unit: &str) -> Restart {
        Restart::new(seconds * 1_000_000_000, line, vec![unit.to_owned()])
    }

    #[test]
    fn a_restart_names_the_units_that_run() {
        for command in [
            "systemctl restart nginx other",
            "sudo service nginx reload",
            "bash -c 'systemctl restart nginx'",
            "/etc/init.d/nginx reload",
            "nginx -s reload",
            "deb-systemd-invoke restart nginx.service",
        ] {
            let trace = format!("\u{1}5.0 0 1 /\u{2}{command}\n\u{1}6.0 0 2 /\u{2}systemctl start smbd\n");
            assert_eq!(found(&trace, &Changes::new()), [restart(5, 1, "nginx.service")], "{command}");
        }
        for command in ["echo systemctl restart nginx", "nginx -t", "systemctl --user restart nginx"] {
            assert_eq!(found(&format!("\u{1}5.0 0 1 /\u{2}{command}\n"), &Changes::new()), [], "{command}");
        }
    }

    #[test]
    fn a_unit_reads_its_own_files_and_those_that_these_name() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("etc/systemd/system/notes.service", "[Service]\nEnvironmentFile=-/etc/notes.env\n");
        write("etc/nginx/sites/notes", "ssl_certificate /etc/ssl/notes.pem;\n");
        let made = [
            "/etc/nginx/sites/notes",
            "/etc/ssl/notes.pem",
            "/etc/ssl/other.pem",
            "/etc/notes.env",
            "/etc/systemd/system/notes.service",
            "/etc/systemd/system/nginx.service.d/limits.conf",
            "/etc/redis/redis.conf",
            "/etc/systemd/journald.conf",
            "/var/backups/notes.dump",
        ];
        let actions = made.map(|path| Action {
            path: Some(path.into()),
            ..Action::new(super::super::action::Place::Files, String::new())
        });
        let reads = |unit: &str| {
            let mut restarts = [restart(1, 1, unit)];
            find_files(&mut restarts, &actions, &RootFiles::new(root.path(), None));
            made.iter()
                .filter(|path| restarts[0].reads.contains(Path::new(path)))
                .copied()
                .collect::<Vec<_>>()
        };
        assert_eq!(reads("nginx.service"), [made[0], made[1], made[5]]);
        assert_eq!(reads("notes.service"), [made[3], made[4]]);
        assert_eq!(reads("redis-server.service"), [made[6]]);
        assert_eq!(reads("systemd-journald.service"), [made[7]]);
    }

    #[test]
    fn a_service_that_changed_its_state_during_the_script_is_restarted() {
        let said = "Id=smbd.service\nStateChangeTimestamp=Thu 1970-01-01 00:00:05.000000 UTC\n\n\
                    Id=nginx.service\nStateChangeTimestamp=Thu 1970-01-01 00:00:03.500000 UTC\n\n\
                    Id=other.service\nStateChangeTimestamp=Thu 1970-01-01 00:00:06.000000 UTC\n\n\
                    Id=packagekit.service\nUnitFileState=static\nStateChangeTimestamp=Thu 1970-01-01 00:00:05.000000 UTC\n\n\
                    Id=never.service\nStateChangeTimestamp=\n";
        let changes = changes(said);
        assert_eq!((changes.len(), changes["nginx.service"]), (3, 3_500_000_000));
        assert_eq!(found("", &changes), [restart(5, 0, "smbd.service")]);
        let by = |command: &str| found(&format!("\u{1}4.5 0 7 /\u{2}{command}\n"), &changes);
        assert_eq!(by("./configure.py"), [restart(5, 7, "smbd.service")]);
        assert_eq!(by("apt-get install -y samba"), []);
    }
}
