//! What differs on any machine that ran for a while, and what others write because of a change.

use std::path::Path;

/// A place whose differences are not the script's doing, and why.
struct Noise {
    path: &'static str,
    /// Whether all below it is so, too.
    below: bool,
}

const fn tree(path: &'static str) -> Noise {
    Noise { path, below: true }
}

const fn one(path: &'static str) -> Noise {
    Noise { path, below: false }
}

/// Caches, logs, locks, identities and clocks; the records of dpkg and apt; what services write for themselves. Users,
/// groups, packages, databases and lingering are read from their records, so that these files are not compared.
const NOISE: &[Noise] = &[
    one("/etc/.pwd.lock"),
    one("/etc/.updated"),
    one("/etc/group"),
    one("/etc/group-"),
    one("/etc/gshadow"),
    one("/etc/gshadow-"),
    one("/etc/ld.so.cache"),
    one("/etc/machine-id"),
    one("/etc/mtab"),
    one("/etc/passwd"),
    one("/etc/passwd-"),
    one("/etc/resolv.conf"),
    one("/etc/shadow"),
    one("/etc/shadow-"),
    one("/etc/subgid"),
    one("/etc/subgid-"),
    one("/etc/subuid"),
    one("/etc/subuid-"),
    tree("/dev"),
    tree("/proc"),
    tree("/run"),
    tree("/sys"),
    tree("/tmp"),
    tree("/var/backups/dpkg"),
    tree("/var/cache"),
    tree("/var/lib/apt"),
    tree("/var/lib/AccountsService"),
    tree("/var/lib/dbus"),
    tree("/var/lib/dhcp"),
    one("/var/lib/dovecot/instances"),
    tree("/var/lib/dpkg"),
    tree("/var/lib/fail2ban"),
    tree("/var/lib/kkrun"),
    tree("/var/lib/lightdm"),
    tree("/var/lib/lightdm-data"),
    tree("/var/lib/logrotate"),
    tree("/var/lib/man-db"),
    tree("/var/lib/nginx"),
    tree("/var/lib/plocate"),
    tree("/var/lib/postfix"),
    tree("/var/lib/postgresql"),
    tree("/var/lib/private"),
    tree("/var/lib/redis"),
    tree("/var/lib/sudo"),
    tree("/var/lib/systemd/backlight"),
    tree("/var/lib/systemd/catalog"),
    tree("/var/lib/systemd/coredump"),
    tree("/var/lib/systemd/deb-systemd-helper-enabled"),
    tree("/var/lib/systemd/deb-systemd-helper-masked"),
    tree("/var/lib/systemd/deb-systemd-user-helper-enabled"),
    tree("/var/lib/systemd/deb-systemd-user-helper-masked"),
    tree("/var/lib/systemd/ephemeral-trees"),
    tree("/var/lib/systemd/linger"),
    tree("/var/lib/systemd/pstore"),
    tree("/var/lib/systemd/random-seed"),
    tree("/var/lib/systemd/rfkill"),
    tree("/var/lib/systemd/timers"),
    tree("/var/lib/systemd/timesync"),
    tree("/var/lib/ucf"),
    tree("/var/lib/upower"),
    tree("/var/log/journal"),
    tree("/var/spool/anacron"),
    tree("/var/spool/postfix"),
    tree("/var/tmp"),
];

/// Names of what programs keep for themselves, in every home and tree.
const NAMES: [&str; 10] = [
    ".bash_history",
    ".cache",
    ".lesshst",
    ".npm",
    ".psql_history",
    ".python_history",
    ".sudo_as_admin_successful",
    ".viminfo",
    ".wget-hsts",
    "__pycache__",
];

/// Whether a difference at this path is none. `directory` if it is one.
pub(super) fn is_noise(path: &Path, directory: bool) -> bool {
    if path.components().any(|part| NAMES.iter().any(|name| part.as_os_str() == *name)) {
        return true;
    }
    let text = path.to_string_lossy();
    // A directory for logs may be the script's; what is in it is written by what runs.
    if path.starts_with("/var/log") {
        return !directory || path == Path::new("/var/log/journal") || path.starts_with("/var/log/journal/");
    }
    // Links by which sysvinit would start a service; systemctl makes them.
    if text.starts_with("/etc/rc") && text.get(8..10) == Some(".d") {
        return true;
    }
    if path.starts_with("/var/backups") && !directory {
        return ["dpkg.", "apt.", "alternatives."]
            .iter()
            .any(|name| text.contains(&format!("/var/backups/{name}")));
    }
    NOISE
        .iter()
        .any(|noise| if noise.below { path.starts_with(noise.path) } else { path == Path::new(noise.path) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_logs_and_records_are_noise_and_what_a_script_writes_is_not() {
        for path in [
            "/etc/passwd",
            "/var/lib/dpkg/status",
            "/root/.cache/x",
            "/opt/a/__pycache__/b",
            "/var/log/x.log",
            "/etc/rc2.d/S01x",
        ] {
            assert!(is_noise(Path::new(path), false), "{path}");
        }
        for path in [
            "/etc/motd",
            "/var/lib/app",
            "/var/lib/systemd/network/10.link",
            "/var/spool/cron/crontabs/kim",
            "/var/backups/x.dump",
        ] {
            assert!(!is_noise(Path::new(path), false), "{path}");
        }
        assert!(!is_noise(Path::new("/var/log/app"), true));
        assert!(is_noise(Path::new("/var/log/journal"), true));
    }
}
