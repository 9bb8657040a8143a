//! Where a clone must equal its base in the end, and what is let off: the declared list.

use std::path::Path;

/// Where `--expect-unchanged` looks.
pub const WATCHED: [&str; 8] =
    ["/etc", "/home", "/opt", "/root", "/srv", "/usr/local", "/var/lib", "/var/www"];

/// A path that may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// The path.
    pub path: &'static str,
    /// Whether all below it may differ too.
    pub below: bool,
    /// Why a difference there is none.
    pub reason: &'static str,
}

const fn exception(path: &'static str, reason: &'static str) -> Exception {
    Exception { path, below: true, reason }
}

const fn itself(path: &'static str, reason: &'static str) -> Exception {
    Exception { path, below: false, reason }
}

impl Exception {
    /// Whether it lets this path off.
    pub fn covers(&self, path: &Path) -> bool {
        if self.below { path.starts_with(self.path) } else { path == Path::new(self.path) }
    }
}

const BOOT: &str = "written by booting, whatever is run";
const CACHE: &str = "a cache that is made anew when it is missing";
const LOCK: &str = "a lock file: only its time moves";
const DAEMON: &str = "a service that ran keeps its own files here";

/// Everything that may differ in [`WATCHED`], in the order of paths.
pub const EXCEPTIONS: &[Exception] = &[
    exception("/etc/.pwd.lock", LOCK),
    exception("/etc/.updated", BOOT),
    exception("/etc/ld.so.cache", CACHE),
    exception("/etc/machine-id", "drawn by the first boot"),
    exception("/etc/resolv.conf", "names the clone's own name server"),
    exception("/root/.cache", CACHE),
    exception("/root/.npm", CACHE),
    exception("/var/lib/AccountsService", DAEMON),
    exception("/var/lib/apt/lists", CACHE),
    exception("/var/lib/apt/periodic", "times of the last update"),
    exception("/var/lib/dbus/machine-id", "a copy of `/etc/machine-id`"),
    exception("/var/lib/dhcp", DAEMON),
    exception("/var/lib/dpkg/lock", LOCK),
    exception("/var/lib/dpkg/lock-frontend", LOCK),
    exception("/var/lib/dpkg/triggers/Lock", LOCK),
    exception("/var/lib/kkrun", "kkrun's own journal: history only grows"),
    exception("/var/lib/lightdm", DAEMON),
    exception("/var/lib/lightdm-data", DAEMON),
    exception("/var/lib/logrotate", "times of the last rotation"),
    exception("/var/lib/man-db", CACHE),
    exception("/var/lib/nginx", DAEMON),
    exception("/var/lib/NetworkManager", DAEMON),
    exception("/var/lib/plocate", CACHE),
    exception(
        "/var/lib/postgresql",
        "a server that ran keeps its own files here; its roles and databases are looked up in it",
    ),
    exception("/var/lib/sudo/lectured", "notes who has seen sudo's lecture"),
    exception("/var/lib/systemd/backlight", BOOT),
    exception("/var/lib/systemd/catalog", CACHE),
    exception("/var/lib/systemd/coredump", DAEMON),
    itself("/var/lib/systemd/linger", "made by booting; who lingers is looked at"),
    exception("/var/lib/systemd/random-seed", BOOT),
    exception("/var/lib/systemd/rfkill", BOOT),
    exception("/var/lib/systemd/timers", "times of the last run of timers"),
    exception("/var/lib/systemd/timesync", BOOT),
    exception("/var/lib/upower", DAEMON),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exception_lies_where_is_looked_and_says_why() {
        for exception in EXCEPTIONS {
            assert!(
                WATCHED.iter().any(|watched| Path::new(exception.path).starts_with(watched)),
                "{exception:?}"
            );
            assert!(!exception.reason.is_empty(), "{exception:?}");
        }
    }
}
