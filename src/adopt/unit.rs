//! Units: what is enabled by links, and what runs.

use std::collections::BTreeSet;
use std::path::Path;

use super::action::{Action, Place};
use super::literal;
use super::trace::{Command, Trace};

/// How the names end of the directories whose links enable units. Source: systemd.unit(5).
const UNIT_DIRECTORIES: [&str; 3] = [".wants", ".requires", ".upholds"];

/// Whether a directory holds links that enable units.
pub(super) fn enables(directory: &Path) -> bool {
    UNIT_DIRECTORIES.iter().any(|kind| directory.to_string_lossy().ends_with(kind))
}

/// What a link of systemd says about a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UnitLink {
    /// The function that makes it, and the one that removes it.
    calls: (&'static str, &'static str),
    unit: String,
    /// In whose service manager.
    user: Option<String>,
}

impl UnitLink {
    /// What a link at this path means; `None` if it is no link of that kind.
    pub(super) fn of(path: &Path, target: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_owned();
        let directory = path.parent()?;
        let above = enables(directory);
        let units = if above { directory.parent()? } else { directory };
        let user = match units.to_str()? {
            "/etc/systemd/system" => None,
            units => {
                let home = units.strip_suffix("/.config/systemd/user")?;
                Some(home.rsplit('/').next()?.to_owned())
            }
        };
        let enable = ("unit::enable", "unit::disable");
        if above {
            return Some(Self { calls: enable, unit: name, user });
        }
        if target == Path::new("/dev/null") {
            return Some(Self { calls: ("unit::mask", "unit::unmask"), unit: name, user });
        }
        // `default.target` is chosen by a link, which is a file like others.
        let aliased = target.file_name()?.to_str()?;
        let is_alias = name != "default.target" && aliased != name && is_unit(aliased);
        is_alias.then(|| Self { calls: enable, unit: aliased.to_owned(), user })
    }

    /// The call for a link that is there now, or is gone.
    pub(super) fn action(&self, is_there: bool) -> Action {
        let call = if is_there { self.calls.0 } else { self.calls.1 };
        let user: Vec<_> = self.user.iter().map(|user| ("user", literal::string(user))).collect();
        Action::new(
            Place::Units,
            format!("{call}({}{});", literal::string(&self.unit), literal::options(&user)),
        )
    }
}

pub(super) fn is_unit(name: &str) -> bool {
    [".service", ".socket", ".timer", ".path", ".target"].iter().any(|kind| name.ends_with(kind))
}

/// The units of `systemctl list-units --plain` that a script may have started: services, sockets, timers and paths, but for
/// those that come and go by themselves.
pub(super) fn active(list: &str) -> BTreeSet<String> {
    const THEIR_OWN: [&str; 16] = [
        "apt-daily",
        "autovt@",
        "console-getty",
        "container-getty",
        "dbus",
        "dpkg-db-backup",
        "e2scrub",
        "fstrim",
        "getty",
        "kkrun-",
        "modprobe@",
        "polkit",
        "run-",
        "systemd-",
        "user-",
        "user@",
    ];
    let names = list.lines().filter_map(|line| line.split_whitespace().next());
    let kinds = [".service", ".socket", ".timer", ".path"];
    names
        .filter(|name| {
            kinds.iter().any(|kind| name.ends_with(kind))
                && !THEIR_OWN.iter().any(|own| name.starts_with(own))
        })
        .map(str::to_owned)
        .collect()
}

/// What starts and stops the units that run on one machine only.
pub(super) fn towards(from: &BTreeSet<String>, to: &BTreeSet<String>, trace: &Trace) -> Vec<Action> {
    let maker = |unit: &String, verbs: &[&str]| {
        let short = unit.trim_end_matches(".service");
        // An instance that the script does not name runs because of its template's unit.
        let template = unit.split('@').next().unwrap_or_default();
        let of = |named: &str| {
            let is_named = |word: &String| word == unit || word == named;
            let names = |command: &&Command| {
                let words = command.words();
                let manages = words.iter().any(|word| word == "systemctl" || word == "service");
                manages && words.iter().any(is_named)
            };
            let does = |command: &&Command| command.words().iter().any(|word| verbs.contains(&word.as_str()));
            let mut commands = trace.commands.iter().filter(names);
            commands.clone().find(does).or_else(|| commands.next_back())
        };
        of(short).or_else(|| of(template))
    };
    let action = |call: &str, unit: &String, verbs: &[&str]| {
        Action::new(Place::Units, format!("{call}({});", literal::string(unit))).by(maker(unit, verbs))
    };
    let started = to.difference(from).map(|unit| action("unit::start", unit, &["start", "restart", "--now"]));
    started.chain(from.difference(to).map(|unit| action("unit::stop", unit, &["stop", "--now"]))).collect()
}

/// What the script asks for that restarts the machine, or says that it has to be restarted.
pub(super) fn reboot(trace: &Trace, script: &str) -> Option<Action> {
    let asks = |command: &&Command| {
        let words = command.words();
        let Some((program, arguments)) = words.split_first() else { return false };
        let has = |wanted: &[&str]| arguments.iter().any(|word| wanted.contains(&word.as_str()));
        match program.rsplit('/').next().unwrap_or_default() {
            "reboot" => true,
            "shutdown" => has(&["-r", "--reboot"]),
            "systemctl" => has(&["reboot", "soft-reboot", "kexec"]),
            "init" | "telinit" => has(&["6"]),
            "touch" => arguments.iter().any(|word| word.ends_with(REBOOT_REQUIRED)),
            _ => trace.is_redirected_to(command, REBOOT_REQUIRED),
        }
    };
    let command = trace.commands.iter().find(asks)?;
    let why = literal::string(&format!("{script} asks for it"));
    Some(Action::new(Place::Units, format!("host::reboot_required({why});")).by(Some(command)))
}

/// What says that the machine has to be restarted; `/run` is also `/var/run`. Source: update-notifier-common(8).
const REBOOT_REQUIRED: &str = "/run/reboot-required";

#[cfg(test)]
mod tests {
    use super::*;

    fn code(path: &str, target: &str, is_there: bool) -> Option<String> {
        UnitLink::of(Path::new(path), Path::new(target)).map(|link| link.action(is_there).code)
    }

    #[test]
    fn links_of_systemd_are_what_makes_them() {
        for (path, target, expected) in [
            (
                "/etc/systemd/system/multi-user.target.wants/a.service",
                "/etc/systemd/system/a.service",
                Some("unit::enable(\"a.service\");"),
            ),
            (
                "/etc/systemd/system/sshd.service",
                "/lib/systemd/system/ssh.service",
                Some("unit::enable(\"ssh.service\");"),
            ),
            ("/etc/systemd/system/b.timer", "/dev/null", Some("unit::mask(\"b.timer\");")),
            (
                "/home/kim/.config/systemd/user/default.target.wants/k.service",
                "../k.service",
                Some("unit::enable(\"k.service\", #{ user: \"kim\" });"),
            ),
            ("/etc/systemd/system/default.target", "/lib/systemd/system/graphical.target", None),
            ("/srv/x.wants/y", "z", None),
        ] {
            assert_eq!(code(path, target, true).as_deref(), expected, "{path}");
        }
        assert_eq!(
            code("/etc/systemd/system/x.target.wants/a.service", "a", false).as_deref(),
            Some("unit::disable(\"a.service\");")
        );
    }

    #[test]
    fn what_comes_and_goes_by_itself_is_not_running() {
        let list = "nginx.service loaded active running web\nuser@0.service loaded active\nx.mount loaded active\nb.timer loaded active\n";
        assert_eq!(active(list), BTreeSet::from(["b.timer".to_owned(), "nginx.service".to_owned()]));
    }

    #[test]
    fn a_script_that_restarts_the_machine_asks_for_a_restart() {
        let asks = |command: &str, source: &str| {
            let trace = Trace::read(&format!("\u{1}1.0 0 1 /\u{2}{command}\n"), source);
            reboot(&trace, "x.sh").map(|action| action.code)
        };
        for command in
            ["shutdown -r now", "/sbin/reboot", "systemctl reboot", "touch /var/run/reboot-required"]
        {
            let expected = "host::reboot_required(\"x.sh asks for it\");";
            assert_eq!(asks(command, command).as_deref(), Some(expected), "{command}");
        }
        assert!(asks("echo x", "echo x > /run/reboot-required\n").is_some());
        for command in ["shutdown -h now", "test -f /run/reboot-required", "systemctl restart x"] {
            assert_eq!(asks(command, command), None, "{command}");
        }
    }
}
