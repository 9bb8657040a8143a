//! The formats that are data. Sources: the manual pages and the readers of the programs, which `tests/it/formats.sh` asks.

use super::rules::{Continuation, Repeated, Rules, SectionRules, Spelling, Trailing};
use super::values;
use super::{Inclusion, Together};

/// A key, a sign, a value: the fields that most formats have alike.
const PLAIN: Rules = Rules {
    comments: b"#",
    trailing: Trailing::Nothing,
    quotes: b"",
    escaping: b"",
    is_escaped_outside: false,
    continuation: Continuation::Nothing,
    signs: &["="],
    separator: None,
    keys: Spelling::Exact,
    is_bare_allowed: false,
    repeated: Repeated::Refused,
    lists: &[],
    sections: None,
    refuse_key: None,
    refuse_value: None,
    inclusion: None,
};

/// Each name is a section, and every key is in one.
const SECTIONS: SectionRules =
    SectionRules { names: Spelling::Exact, merges: false, only: true, headings_but: None };

/// What is left when a program is not known: where programs differ, it is refused.
pub(super) const INI: Rules = Rules {
    comments: b"#;",
    trailing: Trailing::Unknown(b"#;"),
    quotes: b"\"'",
    escaping: b"\"",
    continuation: Continuation::Unknown,
    signs: &["=", ":"],
    keys: Spelling::Unknown,
    sections: Some(SectionRules { names: Spelling::Unknown, only: false, ..SECTIONS }),
    ..PLAIN
};

/// Source: systemd.syntax(7).
pub(super) const SYSTEMD: Rules = Rules {
    comments: b"#;",
    continuation: Continuation::BackslashOverComments,
    separator: Some("="),
    repeated: Repeated::Reset,
    sections: Some(SectionRules { merges: true, ..SECTIONS }),
    // Of the files that systemd's daemons read. Source: resolved.conf(5), timesyncd.conf(5), systemd-system.conf(5).
    lists: &[
        "DNS",
        "DefaultEnvironment",
        "Domains",
        "FallbackDNS",
        "FallbackNTP",
        "ManagerEnvironment",
        "NTP",
    ],
    inclusion: Some(later(Together::DropIns { of: "systemd" })),
    ..PLAIN
};

/// What is read later counts.
const fn later(together: Together) -> Inclusion {
    Inclusion { files: &[], directories: &[], together, first_counts: false, outside_counts: false }
}

/// Each section is an object of its own.
pub(super) const NETWORKD: Rules = Rules { sections: Some(SECTIONS), ..SYSTEMD };

/// Source: postconf(5).
pub(super) const POSTFIX: Rules = Rules {
    continuation: Continuation::Indented,
    separator: Some(" = "),
    repeated: Repeated::Last,
    refuse_value: Some(values::not_of_postfix),
    ..PLAIN
};

/// `locale.gen`, `login.defs`.
pub(super) const WORDS: Rules = Rules { signs: &[""], separator: Some(" "), ..PLAIN };

/// Source: GLib's GKeyFile.
pub(super) const KEYFILE: Rules = Rules {
    repeated: Repeated::Last,
    sections: Some(SectionRules { merges: true, ..SECTIONS }),
    refuse_value: Some(values::not_of_keyfile),
    ..PLAIN
};

/// Source: Python's configparser with its defaults.
pub(super) const CONFIGPARSER: Rules = Rules {
    comments: b"#;",
    continuation: Continuation::Deeper,
    signs: &["=", ":"],
    keys: Spelling::AnyCase,
    sections: Some(SECTIONS),
    refuse_value: Some(values::not_of_configparser),
    ..PLAIN
};

pub(super) const FAIL2BAN: Rules = Rules { trailing: Trailing::Spaced(b";"), ..CONFIGPARSER };

pub(super) const SUPERVISOR: Rules = Rules {
    trailing: Trailing::Spaced(b";#"),
    repeated: Repeated::Last,
    sections: Some(SectionRules { merges: true, ..SECTIONS }),
    refuse_value: Some(values::not_of_supervisor),
    ..CONFIGPARSER
};

/// Source: smb.conf(5).
pub(super) const SAMBA: Rules = Rules {
    comments: b"#;",
    continuation: Continuation::Backslash,
    keys: Spelling::AnyCaseAndBlanks,
    repeated: Repeated::Last,
    sections: Some(SectionRules { names: Spelling::AnyCaseAndWidth, merges: true, ..SECTIONS }),
    ..PLAIN
};

/// Source: the option files of MariaDB and MySQL.
pub(super) const MYSQL: Rules = Rules {
    comments: b"#;",
    trailing: Trailing::Anywhere(b"#"),
    quotes: b"\"'",
    escaping: b"\"'",
    keys: Spelling::AnyDash,
    is_bare_allowed: true,
    sections: Some(SectionRules { names: Spelling::AnyCase, merges: true, ..SECTIONS }),
    ..PLAIN
};

/// Source: the configuration file of PostgreSQL, `guc-file.l`.
pub(super) const POSTGRESQL: Rules = Rules {
    trailing: Trailing::Anywhere(b"#"),
    quotes: b"'",
    escaping: b"'",
    signs: &["=", ""],
    separator: Some(" = "),
    keys: Spelling::AnyCase,
    repeated: Repeated::Last,
    lists: &["include", "include_dir", "include_if_exists"],
    refuse_value: Some(values::not_of_postgresql),
    inclusion: Some(Inclusion {
        files: &["include", "include_if_exists"],
        directories: &["include_dir"],
        together: Together::Included { directory: "conf.d", by: "postgresql.conf" },
        first_counts: false,
        outside_counts: false,
    }),
    ..PLAIN
};

/// Source: sysctl.conf(5), sysctl.d(5).
pub(super) const SYSCTL: Rules = Rules {
    comments: b"#;",
    keys: Spelling::Sysctl,
    repeated: Repeated::Last,
    inclusion: Some(later(Together::Fragments { directory: "sysctl.d", beside: "sysctl.conf" })),
    ..PLAIN
};

/// Source: `zend_ini_scanner.l`. Sections are headings, but for those of a host or path.
pub(super) const PHP: Rules = Rules {
    comments: b";",
    trailing: Trailing::Anywhere(b";"),
    quotes: b"\"'",
    escaping: b"\"",
    repeated: Repeated::Last,
    lists: &["extension", "zend_extension"],
    sections: Some(SectionRules {
        names: Spelling::AnyCase,
        merges: true,
        only: false,
        headings_but: Some(&["HOST=", "PATH="]),
    }),
    refuse_value: Some(values::not_of_php),
    ..PLAIN
};

/// The pools of PHP's process manager: the same, where a section is one.
pub(super) const PHP_FPM: Rules = Rules { lists: &["include"], sections: Some(SECTIONS), ..PHP };

/// Source: git-config(1).
pub(super) const GIT: Rules = Rules {
    comments: b"#;",
    trailing: Trailing::Anywhere(b"#;"),
    quotes: b"\"",
    escaping: b"\"",
    continuation: Continuation::Backslash,
    separator: Some(" = "),
    keys: Spelling::AnyCase,
    is_bare_allowed: true,
    sections: Some(SectionRules { names: Spelling::AnyCaseBeforeQuote, merges: true, ..SECTIONS }),
    refuse_key: Some(values::not_a_key_of_git),
    refuse_value: Some(values::not_of_git),
    is_escaped_outside: true,
    ..PLAIN
};

/// Source: `wg-quick`.
pub(super) const WIREGUARD: Rules = Rules {
    trailing: Trailing::Anywhere(b"#"),
    keys: Spelling::AnyCase,
    sections: Some(SectionRules { names: Spelling::AnyCase, ..SECTIONS }),
    ..PLAIN
};

/// Source: redis.conf.
pub(super) const REDIS: Rules = Rules {
    quotes: b"\"'",
    escaping: b"\"'",
    signs: &[""],
    separator: Some(" "),
    keys: Spelling::AnyCase,
    repeated: Repeated::Last,
    lists: &["client-output-buffer-limit", "include", "loadmodule", "rename-command", "save", "user"],
    refuse_value: Some(values::not_of_redis),
    ..PLAIN
};

/// Source: dnsmasq(8).
pub(super) const DNSMASQ: Rules = Rules {
    trailing: Trailing::Spaced(b"#"),
    quotes: b"\"",
    escaping: b"\"",
    separator: Some("="),
    is_bare_allowed: true,
    refuse_value: Some(values::not_of_dnsmasq),
    ..PLAIN
};

/// Source: chrony.conf(5).
pub(super) const CHRONY: Rules =
    Rules { comments: b"#!;%", signs: &[""], separator: Some(" "), keys: Spelling::AnyCase, ..PLAIN };

/// Source: nsswitch.conf(5).
pub(super) const NSSWITCH: Rules =
    Rules { trailing: Trailing::Anywhere(b"#"), signs: &[":"], separator: Some(": "), ..PLAIN };

/// Source: aliases(5).
pub(super) const ALIASES: Rules = Rules {
    continuation: Continuation::Indented,
    signs: &[":"],
    separator: Some(": "),
    keys: Spelling::AnyCase,
    ..PLAIN
};

/// Source: `read_config` of `Debian::AdduserCommon`.
pub(super) const ADDUSER: Rules = Rules { keys: Spelling::AnyCase, repeated: Repeated::Last, ..PLAIN };

/// Source: config(5ssl).
pub(super) const OPENSSL: Rules = Rules {
    trailing: Trailing::Anywhere(b"#"),
    quotes: b"\"'`",
    escaping: b"\"'`",
    continuation: Continuation::Backslash,
    repeated: Repeated::Last,
    sections: Some(SectionRules { merges: true, only: false, ..SECTIONS }),
    is_escaped_outside: true,
    ..PLAIN
};
