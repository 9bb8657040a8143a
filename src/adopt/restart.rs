//! Restarts: what lets units read their files again.

use std::collections::{BTreeMap, BTreeSet};

use jiff::fmt::strtime;

use super::trace::{Command, Trace, as_user, name_of};
use super::unit::is_unit;

/// Units that the script let read their files again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Restart {
    pub(super) when: i128,
    /// The line of the script; 0 if it is not known.
    pub(super) line: usize,
    pub(super) units: Vec<String>,
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
            restarts.push(Restart { when: *when, line, units: vec![unit.clone()] });
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
    (!units.is_empty()).then_some(Restart { when: command.when, line: command.line, units })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(trace: &str, changes: &Changes) -> Vec<Restart> {
        let active = ["nginx.service", "smbd.service"].map(str::to_owned).into();
        restarts(&Trace::read(trace, ""), &active, changes, (4_000_000_000, 9_000_000_000))
    }

    fn restart(seconds: i128, line: usize, unit: &str) -> Restart {
        Restart { when: seconds * 1_000_000_000, line, units: vec![unit.to_owned()] }
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
