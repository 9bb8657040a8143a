//! What the clone's service manager starts: the basic system, and what a run inside has set going.
//!
//! Nothing is really masked, so that `systemctl start` inside works as on the machine. The clone boots to a target of
//! its own that wants the basic system only, and links of the base that would add to that are covered, for the
//! manager alone, by empty ones in a directory that comes before `/etc`. (Source: systemd.unit(5): a link to
//! `/dev/null` in a `.wants/` directory masks the dependency.)

use std::collections::BTreeSet;

/// The unit that a clone boots to.
pub(super) const TARGET: &str = "kkrun-rehearsal.target";
/// The service that every run inside belongs to: it ends them, and notes what runs, before all else goes down.
pub(super) const SERVICE: &str = "kkrun-rehearsal.service";
/// Where the clone's manager finds units that last as long as a boot.
pub(super) const UNITS: &str = "/run/systemd/system";
/// Where it finds what comes before `/etc/systemd/system`.
pub(super) const CONTROL: &str = "/run/systemd/system.control";
/// Where the list of what was running is written when the clone goes down.
pub(super) const REPORT: &str = "/run/kkrun-rehearsal/report";
/// The list's name in that directory.
pub(super) const STARTED: &str = "started";

/// The basic system: the bus and logins.
const BASIC: [&str; 4] =
    ["dbus.socket", "dbus.service", "systemd-logind.service", "systemd-user-sessions.service"];

/// Targets that are reached on the way up whatever a machine boots to.
const EARLY: [&str; 5] =
    ["cryptsetup.target", "local-fs.target", "local-fs-pre.target", "swap.target", "sysinit.target"];

/// Targets that are not reached on the way up.
const NOT_BOOT: [&str; 13] = [
    "emergency.target",
    "exit.target",
    "final.target",
    "halt.target",
    "hibernate.target",
    "kexec.target",
    "poweroff.target",
    "reboot.target",
    "rescue.target",
    "shutdown.target",
    "sleep.target",
    "suspend.target",
    "umount.target",
];

/// A link that makes one unit want another: the directory's name and the link's.
pub(super) type Link = (String, String);

/// The units written for one boot: path below [`UNITS`] and text.
pub(super) fn files(wanted: &[String]) -> Vec<(String, String)> {
    let mut all: Vec<&str> = BASIC.to_vec();
    all.extend(wanted.iter().map(String::as_str));
    let all = all.join(" ");
    let target = format!(
        "[Unit]\nDescription=The basic system of a rehearsal\nRequires=sysinit.target\nWants={all} {SERVICE}\n\
         After=sysinit.target {all}\nAllowIsolate=yes\n"
    );
    let service = format!(
        "[Unit]\nDescription=What runs in a rehearsal\nDefaultDependencies=no\n\
         Conflicts=shutdown.target\nBefore=shutdown.target\n\
         [Service]\nExecStart=/bin/sleep infinity\nTimeoutStopSec=60\n\
         ExecStop=/bin/sh -c 'exec systemctl list-units --all --full --plain --no-legend \
         --state=active,activating,reloading,deactivating >{REPORT}/{STARTED}'\n"
    );
    let mut files = vec![(TARGET.to_owned(), target), (SERVICE.to_owned(), service)];
    // What starts before this service is stopped after it: on the way down it still sees everything running.
    for kind in ["path", "service", "socket", "timer"] {
        files.push((format!("{kind}.d/kkrun-rehearsal.conf"), format!("[Unit]\nBefore={SERVICE}\n")));
    }
    files
}

/// The links of the base that would start something of its own life on the way to the basic system, as paths below
/// [`CONTROL`]. What systemd itself brings is the basic system.
pub(super) fn covered(all: &[Link], new: &[Link]) -> Vec<String> {
    all.iter()
        .filter(|link| !new.contains(link))
        .filter(|(directory, unit)| {
            target_of(directory).is_some_and(|target| EARLY.contains(&target))
                && !unit.starts_with("systemd-")
        })
        .map(|(directory, unit)| format!("{directory}/{unit}"))
        .collect()
}

/// What is started when the clone comes up again: what was enabled inside, and what is enabled and was running.
pub(super) fn after_restart(all: &[Link], new: &[Link], started: &BTreeSet<String>) -> Vec<String> {
    let wanted: BTreeSet<&String> = all
        .iter()
        .filter(|(directory, _)| {
            target_of(directory).is_some_and(|target| !EARLY.contains(&target) && !NOT_BOOT.contains(&target))
        })
        .filter(|link| new.contains(link) || started.contains(&link.1))
        .map(|(_, unit)| unit)
        .collect();
    wanted.into_iter().cloned().collect()
}

/// The units named in a list of running ones, the first word of each line.
pub(super) fn running(list: &str) -> BTreeSet<String> {
    list.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// The full name of a unit: without a kind it is a service.
pub(super) fn full_name(unit: &str) -> String {
    const KINDS: [&str; 8] =
        [".mount", ".automount", ".path", ".scope", ".service", ".socket", ".target", ".timer"];
    if KINDS.iter().any(|kind| unit.ends_with(kind)) { unit.to_owned() } else { format!("{unit}.service") }
}

fn target_of(directory: &str) -> Option<&str> {
    let target = directory.strip_suffix(".wants").or_else(|| directory.strip_suffix(".requires"))?;
    target.ends_with(".target").then_some(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(directory: &str, unit: &str) -> Link {
        (directory.to_owned(), unit.to_owned())
    }

    #[test]
    fn what_the_base_starts_early_is_covered_but_for_systemds_own() {
        let all = [
            link("sysinit.target.wants", "multipathd.service"),
            link("sysinit.target.wants", "systemd-timesyncd.service"),
            link("sysinit.target.wants", "early.service"),
            link("multi-user.target.wants", "nginx.service"),
        ];
        let new = [link("sysinit.target.wants", "early.service")];
        assert_eq!(covered(&all, &new), ["sysinit.target.wants/multipathd.service"]);
    }

    #[test]
    fn a_restart_starts_what_was_enabled_inside_and_what_is_enabled_and_ran() {
        let all = [
            link("multi-user.target.wants", "cron.service"),
            link("multi-user.target.wants", "nginx.service"),
            link("multi-user.target.wants", "new.service"),
            link("shutdown.target.wants", "late.service"),
            link("default.target.upholds", "odd.service"),
        ];
        let new =
            [link("multi-user.target.wants", "new.service"), link("shutdown.target.wants", "late.service")];
        let started = running("nginx.service loaded active running A server\nssh.service loaded active\n");
        assert_eq!(after_restart(&all, &new, &started), ["new.service", "nginx.service"]);
    }

    #[test]
    fn the_target_wants_the_basic_system_and_what_is_named() {
        let files = files(&["nginx.service".to_owned()]);
        let target = &files[0].1;
        assert!(target.contains("Wants=dbus.socket dbus.service systemd-logind.service"), "{target}");
        assert!(
            target.contains("systemd-user-sessions.service nginx.service kkrun-rehearsal.service\n"),
            "{target}"
        );
    }

    #[test]
    fn a_unit_without_a_kind_is_a_service() {
        assert_eq!(full_name("nginx"), "nginx.service");
        assert_eq!(full_name("apt-daily.timer"), "apt-daily.timer");
        assert_eq!(full_name("getty@tty1"), "getty@tty1.service");
    }
}
