//! Which format a file has: from its path, or as the script says.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Result, bail};

use super::super::lines::Lines;
use super::Format;
use super::ini::refuse_plain;
use crate::failure::{Failure, FailureKind};

/// What a script says about a file whose format it asks for.
#[derive(Clone, Copy, Default)]
pub struct Asked {
    /// The format itself.
    pub format: Option<Format>,
    /// A separator or a section, which says that it is `key SEPARATOR value`.
    pub is_described: bool,
    /// Only lines between marks are written, for which a section is all that matters.
    pub is_block: bool,
}

/// What a path says about the format.
#[derive(Debug, PartialEq, Eq)]
enum Known {
    Yes(Format),
    /// Keys are not set in such a file: what it is, and the way on.
    No(&'static str, &'static str),
    Unknown,
}

const BY_LINE: &str = "use `config::line` for one of its lines, or `config::block` for several";
const AS_A_WHOLE: &str =
    "write the whole file with `file::write`, or change one of its lines with `config::line`";
const ACCOUNTS: &str = "use `user::ensure` and `group::ensure`";

const UNITS: &[&str] = &[
    "automount",
    "device",
    "mount",
    "path",
    "scope",
    "service",
    "slice",
    "socket",
    "swap",
    "target",
    "timer",
];
const NETWORKS: &[&str] = &["dnssd", "link", "netdev", "network"];

/// What a file name says alone.
const NAMES: &[(&str, Known)] = &[
    ("sshd_config", Known::Yes(Format::Sshd)),
    ("ssh_config", Known::Yes(Format::Ssh)),
    ("main.cf", Known::Yes(Format::Postfix)),
    ("fstab", Known::Yes(Format::Fstab)),
    ("locale.gen", Known::Yes(Format::Words)),
    ("login.defs", Known::Yes(Format::Words)),
    (".env", Known::Yes(Format::Dotenv)),
    (".profile", Known::Yes(Format::Shell)),
    (".bashrc", Known::Yes(Format::Shell)),
    (".bash_profile", Known::Yes(Format::Shell)),
    (".gitconfig", Known::Yes(Format::Ini)),
    ("master.cf", Known::No("a table of services", BY_LINE)),
    ("pg_hba.conf", Known::No("a table of rules", BY_LINE)),
];

/// What a suffix says alone.
const SUFFIXES: &[(&str, Known)] = &[
    ("ini", Known::Yes(Format::Ini)),
    ("desktop", Known::Yes(Format::Ini)),
    ("nmconnection", Known::Yes(Format::Ini)),
    ("cnf", Known::Yes(Format::Ini)),
    ("env", Known::Yes(Format::Dotenv)),
    ("sh", Known::Yes(Format::Shell)),
    ("bash", Known::Yes(Format::Shell)),
    ("json", Known::Yes(Format::Json)),
    ("jsonc", Known::Yes(Format::Json)),
    ("json5", Known::No("JSON5", AS_A_WHOLE)),
    ("toml", Known::Yes(Format::Toml)),
    ("xml", Known::No("XML", AS_A_WHOLE)),
    ("yaml", Known::No("YAML", AS_A_WHOLE)),
    ("yml", Known::No("YAML", AS_A_WHOLE)),
];

/// What a path below `/etc` says: the file of this name, or with a `/` at its end all below the directory.
const BELOW_ETC: &[(&str, Known)] = &[
    ("environment", Known::Yes(Format::Environment)),
    ("profile", Known::Yes(Format::Shell)),
    ("bash.bashrc", Known::Yes(Format::Shell)),
    ("default/", Known::Yes(Format::Shell)),
    ("ssh/sshd_config.d/", Known::Yes(Format::Sshd)),
    ("ssh/ssh_config.d/", Known::Yes(Format::Ssh)),
    ("systemd/network/", Known::Yes(Format::Networkd)),
    ("systemd/", Known::Yes(Format::Systemd)),
    ("sysctl.conf", Known::Yes(Format::Ini)),
    ("sysctl.d/", Known::Yes(Format::Ini)),
    ("lightdm/", Known::Yes(Format::Ini)),
    ("gdm3/", Known::Yes(Format::Ini)),
    ("wireguard/", Known::Yes(Format::Ini)),
    ("NetworkManager/", Known::Yes(Format::Ini)),
    ("samba/", Known::Yes(Format::Ini)),
    ("fail2ban/", Known::Yes(Format::Ini)),
    ("mysql/", Known::Yes(Format::Ini)),
    ("hosts", Known::No("a table of hosts", BY_LINE)),
    ("resolv.conf", Known::No("a list of servers", BY_LINE)),
    ("exports", Known::No("a table of exports", BY_LINE)),
    ("crontab", Known::No("a table of jobs", BY_LINE)),
    ("cron.d/", Known::No("a table of jobs", BY_LINE)),
    ("sudoers", Known::No("a list of rules", BY_LINE)),
    ("sudoers.d/", Known::No("a list of rules", BY_LINE)),
    ("pam.d/", Known::No("a list of rules", BY_LINE)),
    ("nginx/", Known::No("a language of its own", BY_LINE)),
    ("apache2/", Known::No("a language of its own", BY_LINE)),
    ("network/interfaces", Known::No("a language of its own", BY_LINE)),
    ("nftables.conf", Known::No("a language of its own", BY_LINE)),
    ("apt/sources.list", Known::No("a list of sources", "use std/apt, or `config::line`")),
    ("apt/sources.list.d/", Known::No("a list of sources", "use std/apt, or `config::line`")),
    ("apt/apt.conf.d/", Known::No("a language of its own", BY_LINE)),
    ("passwd", Known::No("a table of users", ACCOUNTS)),
    ("shadow", Known::No("a table of passwords", ACCOUNTS)),
    ("group", Known::No("a table of groups", ACCOUNTS)),
    ("gshadow", Known::No("a table of groups", ACCOUNTS)),
];

impl Known {
    const fn copied(&self) -> Self {
        match self {
            Self::Yes(format) => Self::Yes(*format),
            Self::No(what, way) => Self::No(what, way),
            Self::Unknown => Self::Unknown,
        }
    }

    fn from_path(path: &Path) -> Self {
        let name = path.file_name().unwrap_or_default();
        let suffix = path.extension().unwrap_or_default();
        let entry = |table: &[(&str, Self)], text: &OsStr| {
            table.iter().find(|(known, _)| OsStr::new(known) == text).map(|(_, known)| known.copied())
        };
        if let Some(known) = entry(NAMES, name).or_else(|| entry(SUFFIXES, suffix)) {
            return known;
        }
        if name.as_bytes().starts_with(b".env.") {
            return Self::Yes(Format::Dotenv);
        }
        let is_of =
            |suffixes: &[&str], suffix: &OsStr| suffixes.iter().any(|known| OsStr::new(known) == suffix);
        // A drop-in is in a directory named after its unit.
        let directory = path.parent().and_then(Path::file_name).unwrap_or_default();
        let unit = directory.as_bytes().strip_suffix(b".d").map_or(name, OsStr::from_bytes);
        // `service.d` is for all services.
        let kind = Path::new(unit).extension().unwrap_or(unit);
        if is_of(UNITS, kind) {
            return Self::Yes(Format::Systemd);
        }
        if is_of(NETWORKS, kind) {
            return Self::Yes(Format::Networkd);
        }
        if path.parent().is_some_and(|parent| parent.ends_with(".ssh")) && name == "config" {
            return Self::Yes(Format::Ssh);
        }
        if path.starts_with("/var/lib/AccountsService/users") {
            return Self::Yes(Format::Ini);
        }
        let Ok(below) = path.strip_prefix("/etc") else { return Self::Unknown };
        let is_at = |known: &str| match known.strip_suffix('/') {
            Some(directory) => below.starts_with(directory) && below != Path::new(directory),
            None => below == Path::new(known),
        };
        BELOW_ETC.iter().find(|(known, _)| is_at(known)).map_or(Self::Unknown, |(_, known)| known.copied())
    }
}

/// Whether `path` is known to be a document whose values have types and are nested.
pub fn is_document(path: &Path, format: Option<Format>) -> bool {
    match format {
        Some(format) => format.is_document(),
        None => matches!(Known::from_path(path), Known::Yes(format) if format.is_document()),
    }
}

/// The format of the file `path`, whose bytes these are.
///
/// # Errors
/// When it is not known and the file is not plainly `key = value`, and when keys are not set in such a file.
pub fn recognise(path: &Path, bytes: &[u8], asked: Asked) -> Result<Format> {
    let shown = path.display();
    let refused = |message: String| Failure::new(message).kind(FailureKind::Refused);
    let known = asked.format.map_or_else(|| Known::from_path(path), Known::Yes);
    match known {
        Known::Yes(format) if asked.is_block && format.is_document() => {
            bail!(
                refused(format!(
                    "cannot edit lines in `{shown}`: its values are nested, whatever lines they have"
                ))
                .hint("set its keys with `config::set`")
            );
        }
        Known::Yes(format) => return Ok(format),
        Known::No(_, BY_LINE | ACCOUNTS) if asked.is_block => return Ok(Format::Ini),
        Known::No(what, way) => {
            let part = if asked.is_block { "lines" } else { "a key" };
            bail!(refused(format!("cannot edit {part} in `{shown}`: it is {what}")).hint(way));
        }
        Known::Unknown if asked.is_described || asked.is_block => return Ok(Format::Ini),
        Known::Unknown => {}
    }
    let why = match refuse_plain(&Lines::of(bytes)) {
        Ok(true) => return Ok(Format::Ini),
        Ok(false) => "no line shows how a key is set in it".to_owned(),
        Err(line) => format!("line {} is not `key = value`", line + 1),
    };
    bail!(
        refused(format!("cannot edit a key in `{shown}`: its format is unknown, and {why}"))
            .hint("name its format with the option `format`, or what separates a key from its value with `separator`")
            .hint("use `config::line` for a whole line")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_known_from_the_path() {
        for (path, format) in [
            ("/etc/ssh/sshd_config", Format::Sshd),
            ("/etc/ssh/sshd_config.d/10-kiosk.conf", Format::Sshd),
            ("/etc/ssh/ssh_config", Format::Ssh),
            ("/etc/ssh/ssh_config.d/x.conf", Format::Ssh),
            ("/home/kim/.ssh/config", Format::Ssh),
            ("/etc/postfix/main.cf", Format::Postfix),
            ("/etc/environment", Format::Environment),
            ("/etc/default/grub", Format::Shell),
            ("/etc/default/grub.d/50-kiosk.cfg", Format::Shell),
            ("/etc/profile.d/java.sh", Format::Shell),
            ("/home/kim/.bashrc", Format::Shell),
            ("/srv/app/.env", Format::Dotenv),
            ("/srv/app/.env.production", Format::Dotenv),
            ("/etc/kiosk/kiosk.env", Format::Dotenv),
            ("/etc/systemd/system/a.service", Format::Systemd),
            ("/home/kim/.config/systemd/user/a.timer", Format::Systemd),
            ("/etc/systemd/system/a.service.d/override.conf", Format::Systemd),
            ("/usr/lib/systemd/system/service.d/all.conf", Format::Systemd),
            ("/etc/systemd/journald.conf", Format::Systemd),
            ("/etc/systemd/journald.conf.d/small.conf", Format::Systemd),
            ("/etc/systemd/network/10-wg.netdev", Format::Networkd),
            ("/etc/systemd/network/10-wg.netdev.d/peers.conf", Format::Networkd),
            ("/etc/fstab", Format::Fstab),
            ("/etc/locale.gen", Format::Words),
            ("/etc/lightdm/lightdm.conf", Format::Ini),
            ("/etc/wireguard/wg0.conf", Format::Ini),
            ("/etc/php/8.2/fpm/php.ini", Format::Ini),
            ("/etc/docker/daemon.json", Format::Json),
            ("/etc/containerd/config.toml", Format::Toml),
        ] {
            assert_eq!(Known::from_path(Path::new(path)), Known::Yes(format), "{path}");
        }
        for path in
            ["/srv/app.conf", "/etc/adduser.conf", "/srv/fstab.txt", "/etc/default", "/x/etc/environment"]
        {
            assert_eq!(Known::from_path(Path::new(path)), Known::Unknown, "{path}");
        }
    }

    #[test]
    fn a_file_that_keys_are_not_set_in_is_refused_with_the_way_on() {
        for (path, what, way) in [
            ("/etc/netplan/01.yaml", "it is YAML", "file::write"),
            ("/srv/x.json5", "it is JSON5", "file::write"),
            ("/etc/fonts/fonts.xml", "it is XML", "config::line"),
            ("/etc/hosts", "a table of hosts", "config::line"),
            ("/etc/passwd", "a table of users", "user::ensure"),
        ] {
            let error = recognise(Path::new(path), b"a = 1\n", Asked::default()).unwrap_err();
            let failure = error.downcast_ref::<Failure>().unwrap();
            assert!(failure.message.contains(what), "{}", failure.message);
            assert!(failure.hints.iter().any(|hint| hint.contains(way)), "{:?}", failure.hints);
            let asked = Asked { format: Some(Format::Ini), ..Asked::default() };
            assert_eq!(recognise(Path::new(path), b"", asked).unwrap(), Format::Ini);
        }
    }

    #[test]
    fn an_unknown_file_is_edited_only_if_it_is_plainly_key_and_value() {
        let plain =
            |text: &str| recognise(Path::new("/srv/x.conf"), text.as_bytes(), Asked::default()).is_ok();
        for text in [
            "",
            "\n",
            "a=1\nb = 2\n",
            "# about\n#a=1\n",
            "a: 1\nb: x=y\n",
            "log file = /x\n[s]\nb=1\n",
            "DSHELL=/bin/bash\nSKEL_IGNORE_REGEX=\"dpkg-(old|new|dist|save)\"\n",
            "k=a \\\n  b c\n",
        ] {
            assert!(plain(text), "{text}");
        }
        for text in [
            "Port 22\n",
            "127.0.0.1 localhost\n",
            "::1 localhost\n",
            "de_DE.UTF-8 UTF-8\n",
            "# Only words.\n",
            "{\n  \"a\": 1\n}\n",
            "a:\n  b: 1\n",
            "- a\n- b: 1\n",
            "<a b=\"c\">\n",
            "a=1\nb: 2\n",
            "if true; then\n  A=1\nfi\n",
            "server { listen = 80; }\n",
            "UUID=1 / ext4 defaults 0 1\nhttp://example.org\n",
        ] {
            assert!(!plain(text), "{text}");
        }
    }
}
