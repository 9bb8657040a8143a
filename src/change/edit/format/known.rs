//! Which format a file has: from its path, or as the script says.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Result, bail};

use super::super::lines::Lines;
use super::Format;
use super::plain::refuse_plain;
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
const SOURCES: &str = "use std/apt, or `config::line`";
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

/// What a path says, the first that matches: without a `/` before it at the end of any path, with one behind it all
/// below the directory. `*` is any name, `*.x` one that ends so, `x*` one that begins so, and `**` any directories.
const FILES: &[(&str, Known)] = &[
    ("/etc/php/**/pool.d/*.conf", Known::Yes(Format::PhpFpm)),
    ("/etc/php/**/php-fpm.conf", Known::Yes(Format::PhpFpm)),
    ("/etc/php/**/*.ini", Known::Yes(Format::Php)),
    ("/etc/postgresql/**/conf.d/*.conf", Known::Yes(Format::Postgresql)),
    ("/etc/ssl/**/*.cnf", Known::Yes(Format::Openssl)),
    ("/etc/exim4/update-exim4.conf.conf", Known::Yes(Format::Shell)),
    ("/etc/initramfs-tools/*.conf", Known::Yes(Format::Shell)),
    ("sshd_config", Known::Yes(Format::Sshd)),
    ("ssh_config", Known::Yes(Format::Ssh)),
    (".ssh/config", Known::Yes(Format::Ssh)),
    ("main.cf", Known::Yes(Format::Postfix)),
    ("fstab", Known::Yes(Format::Fstab)),
    ("locale.gen", Known::Yes(Format::Words)),
    ("login.defs", Known::Yes(Format::Words)),
    (".env", Known::Yes(Format::Dotenv)),
    (".env.*", Known::Yes(Format::Dotenv)),
    (".profile", Known::Yes(Format::Shell)),
    (".bashrc", Known::Yes(Format::Shell)),
    (".bash_profile", Known::Yes(Format::Shell)),
    (".gitconfig", Known::Yes(Format::Git)),
    (".gitmodules", Known::Yes(Format::Git)),
    (".git/config", Known::Yes(Format::Git)),
    (".config/git/config", Known::Yes(Format::Git)),
    ("/etc/gitconfig", Known::Yes(Format::Git)),
    ("postgresql.conf", Known::Yes(Format::Postgresql)),
    ("postgresql.auto.conf", Known::Yes(Format::Postgresql)),
    ("php.ini", Known::Yes(Format::Php)),
    ("smb.conf", Known::Yes(Format::Samba)),
    ("supervisord.conf", Known::Yes(Format::Supervisor)),
    ("redis.conf", Known::Yes(Format::Redis)),
    ("valkey.conf", Known::Yes(Format::Redis)),
    ("dnsmasq.conf", Known::Yes(Format::Dnsmasq)),
    ("nsswitch.conf", Known::Yes(Format::Nsswitch)),
    ("openssl.cnf", Known::Yes(Format::Openssl)),
    ("sysctl.d/*", Known::Yes(Format::Sysctl)),
    ("pg_hba.conf", Known::No("a table of rules", BY_LINE)),
    ("pg_ident.conf", Known::No("a table of names", BY_LINE)),
    ("master.cf", Known::No("a table of services", BY_LINE)),
    ("*.ini", Known::Yes(Format::Ini)),
    ("*.desktop", Known::Yes(Format::Keyfile)),
    ("*.nmconnection", Known::Yes(Format::Keyfile)),
    ("*.cnf", Known::Yes(Format::Mysql)),
    ("*.env", Known::Yes(Format::Dotenv)),
    ("*.sh", Known::Yes(Format::Shell)),
    ("*.bash", Known::Yes(Format::Shell)),
    ("*.json", Known::Yes(Format::Json)),
    ("*.jsonc", Known::Yes(Format::Json)),
    ("*.json5", Known::No("JSON5", AS_A_WHOLE)),
    ("*.toml", Known::Yes(Format::Toml)),
    ("*.xml", Known::No("XML", AS_A_WHOLE)),
    ("*.yaml", Known::No("YAML", AS_A_WHOLE)),
    ("*.yml", Known::No("YAML", AS_A_WHOLE)),
    ("/etc/avahi/services/", Known::No("XML", AS_A_WHOLE)),
    ("/etc/udev/udev.conf", Known::Yes(Format::Dotenv)),
];

/// The same, where neither these nor a unit's name say anything.
const PLACES: &[(&str, Known)] = &[
    ("/etc/environment", Known::Yes(Format::Environment)),
    ("/etc/profile", Known::Yes(Format::Shell)),
    ("/etc/bash.bashrc", Known::Yes(Format::Shell)),
    ("/etc/default/", Known::Yes(Format::Shell)),
    ("/etc/sysstat/sysstat", Known::Yes(Format::Shell)),
    ("/etc/ssh/sshd_config.d/", Known::Yes(Format::Sshd)),
    ("/etc/ssh/ssh_config.d/", Known::Yes(Format::Ssh)),
    ("/etc/systemd/network/", Known::Yes(Format::Networkd)),
    ("/etc/systemd/", Known::Yes(Format::Systemd)),
    ("/etc/sysctl.conf", Known::Yes(Format::Sysctl)),
    ("/etc/lightdm/", Known::Yes(Format::Keyfile)),
    ("/etc/gdm3/", Known::Yes(Format::Keyfile)),
    ("/etc/NetworkManager/dispatcher.d/", Known::No("a script", BY_LINE)),
    ("/etc/NetworkManager/", Known::Yes(Format::Keyfile)),
    ("/var/lib/AccountsService/users/", Known::Yes(Format::Keyfile)),
    ("/etc/wireguard/", Known::Yes(Format::Wireguard)),
    ("/etc/samba/", Known::Yes(Format::Samba)),
    ("/etc/fail2ban/", Known::Yes(Format::Fail2ban)),
    ("/etc/supervisor/", Known::Yes(Format::Supervisor)),
    ("/etc/mysql/", Known::Yes(Format::Mysql)),
    ("/etc/redis/", Known::Yes(Format::Redis)),
    ("/etc/dnsmasq.d/", Known::Yes(Format::Dnsmasq)),
    ("/etc/chrony/*.conf", Known::Yes(Format::Chrony)),
    ("/etc/chrony/conf.d/", Known::Yes(Format::Chrony)),
    ("/etc/aliases", Known::Yes(Format::Aliases)),
    ("/etc/adduser.conf", Known::Yes(Format::Adduser)),
    ("/etc/deluser.conf", Known::Yes(Format::Adduser)),
    ("/etc/hosts", Known::No("a table of hosts", BY_LINE)),
    ("/etc/hosts.allow", Known::No("a list of rules", BY_LINE)),
    ("/etc/hosts.deny", Known::No("a list of rules", BY_LINE)),
    ("/etc/resolv.conf", Known::No("a list of servers", BY_LINE)),
    ("/etc/exports", Known::No("a table of exports", BY_LINE)),
    ("/etc/crypttab", Known::No("a table of devices", BY_LINE)),
    ("/etc/crontab", Known::No("a table of jobs", BY_LINE)),
    ("/etc/anacrontab", Known::No("a table of jobs", BY_LINE)),
    ("/etc/cron.d/", Known::No("a table of jobs", BY_LINE)),
    ("/etc/modules", Known::No("a list of modules", BY_LINE)),
    ("/etc/modules-load.d/", Known::No("a list of modules", BY_LINE)),
    ("/etc/modprobe.d/", Known::No("a list of commands", BY_LINE)),
    ("/etc/udev/", Known::No("a list of rules", BY_LINE)),
    ("/etc/tmpfiles.d/", Known::No("a table of files", BY_LINE)),
    ("/etc/sysusers.d/", Known::No("a table of users", BY_LINE)),
    ("/etc/sudoers", Known::No("a list of rules", BY_LINE)),
    ("/etc/sudoers.d/", Known::No("a list of rules", BY_LINE)),
    ("/etc/pam.conf", Known::No("a list of rules", BY_LINE)),
    ("/etc/pam.d/", Known::No("a list of rules", BY_LINE)),
    ("/etc/security/limits.conf", Known::No("a table of limits", BY_LINE)),
    ("/etc/security/limits.d/", Known::No("a table of limits", BY_LINE)),
    ("/etc/security/access.conf", Known::No("a list of rules", BY_LINE)),
    ("/etc/smartd.conf", Known::No("a list of devices", BY_LINE)),
    ("/etc/ntpsec/", Known::No("a list of commands", BY_LINE)),
    ("/etc/ntp.conf", Known::No("a list of commands", BY_LINE)),
    ("/etc/rsyslog.conf", Known::No("a language of its own", BY_LINE)),
    ("/etc/rsyslog.d/", Known::No("a language of its own", BY_LINE)),
    ("/etc/logrotate.conf", Known::No("a language of its own", BY_LINE)),
    ("/etc/logrotate.d/", Known::No("a language of its own", BY_LINE)),
    ("/etc/munin/", Known::No("a language of its own", BY_LINE)),
    ("/etc/needrestart/", Known::No("a script", BY_LINE)),
    ("/etc/dovecot/", Known::No("a language of its own", BY_LINE)),
    ("/etc/exim4/", Known::No("a language of its own", BY_LINE)),
    ("/etc/haproxy/", Known::No("a language of its own", BY_LINE)),
    ("/etc/bind/", Known::No("a language of its own", BY_LINE)),
    ("/etc/unbound/", Known::No("a language of its own", BY_LINE)),
    ("/etc/nsd/", Known::No("a language of its own", BY_LINE)),
    ("/etc/knot/", Known::No("a language of its own", BY_LINE)),
    ("/etc/knot-resolver/", Known::No("a language of its own", BY_LINE)),
    ("/etc/krb5.conf", Known::No("a language of its own", BY_LINE)),
    ("/etc/nginx/", Known::No("a language of its own", BY_LINE)),
    ("/etc/apache2/", Known::No("a language of its own", BY_LINE)),
    ("/etc/network/interfaces", Known::No("a language of its own", BY_LINE)),
    ("/etc/network/interfaces.d/", Known::No("a language of its own", BY_LINE)),
    ("/etc/nftables.conf", Known::No("a language of its own", BY_LINE)),
    ("/etc/apt/sources.list", Known::No("a list of sources", SOURCES)),
    ("/etc/apt/sources.list.d/", Known::No("a list of sources", SOURCES)),
    ("/etc/apt/preferences", Known::No("a list of pins", BY_LINE)),
    ("/etc/apt/preferences.d/", Known::No("a list of pins", BY_LINE)),
    ("/etc/apt/apt.conf", Known::No("a language of its own", BY_LINE)),
    ("/etc/apt/apt.conf.d/", Known::No("a language of its own", BY_LINE)),
    ("/etc/passwd", Known::No("a table of users", ACCOUNTS)),
    ("/etc/shadow", Known::No("a table of passwords", ACCOUNTS)),
    ("/etc/group", Known::No("a table of groups", ACCOUNTS)),
    ("/etc/gshadow", Known::No("a table of groups", ACCOUNTS)),
];

/// Whether a name is as this pattern.
fn is_name_like(pattern: &str, name: &[u8]) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(end), _) => name.len() > end.len() && name.ends_with(end.as_bytes()),
        (None, Some(start)) => name.len() > start.len() && name.starts_with(start.as_bytes()),
        (None, None) => name == pattern.as_bytes(),
    }
}

fn are_names_like(pattern: &[&str], names: &[&[u8]]) -> bool {
    match (pattern, names) {
        ([], []) | ([""], [_, ..]) => true,
        (["**", rest @ ..], _) => (0..=names.len()).any(|skipped| are_names_like(rest, &names[skipped..])),
        ([first, rest @ ..], [name, names @ ..]) => is_name_like(first, name) && are_names_like(rest, names),
        _ => false,
    }
}

fn is_like(pattern: &str, path: &Path) -> bool {
    let names: Vec<&[u8]> = path.iter().skip(1).map(OsStr::as_bytes).collect();
    let parts: Vec<&str> = pattern.split('/').collect();
    match &*parts {
        ["", rest @ ..] => path.is_absolute() && are_names_like(rest, &names),
        parts => {
            let all: Vec<&[u8]> = path.iter().map(OsStr::as_bytes).collect();
            are_names_like(parts, &all[all.len().saturating_sub(parts.len())..])
        }
    }
}

impl Known {
    const fn copied(&self) -> Self {
        match self {
            Self::Yes(format) => Self::Yes(*format),
            Self::No(what, way) => Self::No(what, way),
            Self::Unknown => Self::Unknown,
        }
    }

    /// From the path, but for XML, which begins like nothing else and has any name.
    fn of(path: &Path, bytes: &[u8]) -> Self {
        match Self::from_path(path) {
            Self::Yes(_) | Self::Unknown if bytes.trim_ascii_start().starts_with(b"<") => {
                Self::No("XML", AS_A_WHOLE)
            }
            known => known,
        }
    }

    fn from_path(path: &Path) -> Self {
        let entry = |table: &[(&str, Self)]| {
            table.iter().find(|(pattern, _)| is_like(pattern, path)).map(|(_, known)| known.copied())
        };
        if let Some(known) = entry(FILES) {
            return known;
        }
        let name = path.file_name().unwrap_or_default();
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
        entry(PLACES).unwrap_or(Self::Unknown)
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
    let known = asked.format.map_or_else(|| Known::of(path, bytes), Known::Yes);
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
            ("/etc/lightdm/lightdm.conf", Format::Keyfile),
            ("/etc/wireguard/wg0.conf", Format::Wireguard),
            ("/etc/php/8.2/fpm/php.ini", Format::Php),
            ("/etc/php/8.2/fpm/pool.d/www.conf", Format::PhpFpm),
            ("/etc/php/8.2/mods-available/opcache.ini", Format::Php),
            ("/etc/postgresql/15/main/postgresql.conf", Format::Postgresql),
            ("/etc/postgresql/15/main/conf.d/ours.conf", Format::Postgresql),
            ("/etc/mysql/mariadb.conf.d/50-server.cnf", Format::Mysql),
            ("/root/.my.cnf", Format::Mysql),
            ("/etc/ssl/openssl.cnf", Format::Openssl),
            ("/usr/lib/sysctl.d/50-default.conf", Format::Sysctl),
            ("/srv/app/.git/config", Format::Git),
            ("/etc/xrdp/sesman.ini", Format::Ini),
            ("/etc/adduser.conf", Format::Adduser),
            ("/etc/docker/daemon.json", Format::Json),
            ("/etc/udev/udev.conf", Format::Dotenv),
            ("/etc/containerd/config.toml", Format::Toml),
        ] {
            assert_eq!(Known::from_path(Path::new(path)), Known::Yes(format), "{path}");
        }
        for path in ["/srv/app.conf", "/srv/fstab.txt", "/etc/default", "/x/etc/environment", "/srv/.ini"] {
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
            ("/etc/apt/apt.conf.d/50unattended-upgrades", "a language of its own", "config::line"),
            ("/etc/dovecot/conf.d/10-ssl.conf", "a language of its own", "config::line"),
            ("/etc/haproxy/haproxy.cfg", "a language of its own", "config::block"),
            ("/etc/munin/munin-node.conf", "a language of its own", "config::line"),
            ("/etc/rsyslog.d/50-default.conf", "a language of its own", "config::line"),
            ("/etc/logrotate.d/nginx", "a language of its own", "config::line"),
            ("/etc/needrestart/conf.d/ours.conf", "a script", "config::line"),
            ("/etc/smartd.conf", "a list of devices", "config::line"),
            ("/etc/ntpsec/ntp.conf", "a list of commands", "config::line"),
            ("/etc/hosts.allow", "a list of rules", "config::line"),
            ("/etc/udev/rules.d/10-a.rules", "a list of rules", "config::line"),
            ("/etc/unbound/unbound.conf", "a language of its own", "config::block"),
            ("/etc/unbound/unbound.conf.d/ours.conf", "a language of its own", "config::line"),
            ("/etc/nsd/nsd.conf", "a language of its own", "config::line"),
            ("/etc/avahi/services/nut.service", "it is XML", "file::write"),
            ("/etc/NetworkManager/dispatcher.d/10-up", "a script", "config::line"),
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
    fn what_begins_as_xml_is_xml_whatever_its_name_is() {
        let text = b"\n<?xml version=\"1.0\"?>\n<a/>\n";
        for path in ["/srv/a.service", "/srv/dbus.conf", "/srv/a.desktop"] {
            for (section, is_block) in [(false, false), (true, false), (false, true)] {
                let asked = Asked { is_described: section, is_block, ..Asked::default() };
                let error = recognise(Path::new(path), text, asked).unwrap_err().to_string();
                assert!(error.contains("it is XML"), "{error}");
                assert!(recognise(Path::new(path), b"[s]\na=1\n", asked).is_ok());
            }
            let asked = Asked { format: Some(Format::Ini), ..Asked::default() };
            assert_eq!(recognise(Path::new(path), text, asked).unwrap(), Format::Ini);
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
