//! The formats of configuration files: how a text is cut into logical lines, which of them sets a key, and how a new one
//! is written. A format is known from the file's path or from the script, never from the lines around.

mod assignments;
mod fstab;
mod known;
mod plain;
mod rules;
mod shell;
mod ssh;
mod table;
mod values;

use std::borrow::Cow;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::lines::Lines;
pub use known::{Asked, is_document, recognise};
pub(super) use rules::Doubt;

/// A format that kkrun knows. Its name in scripts and in the journal is that of the variant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// `key = value` or `key: value`, in sections or not, of a program that is not known.
    #[default]
    Ini,
    /// GLib's key files: desktop entries, LightDM, NetworkManager.
    Keyfile,
    /// Python's configparser.
    Configparser,
    /// fail2ban: the same, where ` ;` begins a comment.
    Fail2ban,
    /// supervisor: the same, where ` ;` and ` #` begin a comment.
    Supervisor,
    /// Samba.
    Samba,
    /// The option files of MariaDB and MySQL.
    Mysql,
    /// PostgreSQL.
    Postgresql,
    /// The settings of the kernel.
    Sysctl,
    /// `php.ini` and the files of its extensions.
    Php,
    /// The pools of PHP's process manager.
    PhpFpm,
    /// Git.
    Git,
    /// `wg-quick`.
    Wireguard,
    /// Redis and Valkey.
    Redis,
    /// dnsmasq.
    Dnsmasq,
    /// chrony.
    Chrony,
    /// The name service switch.
    Nsswitch,
    /// Aliases of mail.
    Aliases,
    /// adduser and deluser.
    Adduser,
    /// OpenSSL.
    Openssl,
    /// The units of systemd and the configuration of its daemons.
    Systemd,
    /// The same where each section of a name is an object of its own: networks, devices and links.
    Networkd,
    /// The server of OpenSSH: the first line of a key wins, `Match` begins a block.
    Sshd,
    /// The client of OpenSSH: the same with `Host`.
    Ssh,
    /// Postfix: an indented line continues the one above.
    Postfix,
    /// `/etc/environment`: `KEY=value`, and what follows a `#` is a comment.
    Environment,
    /// `KEY=value` as dotenv and systemd's `EnvironmentFile=` read it.
    Dotenv,
    /// Assignments of a POSIX shell.
    Shell,
    /// The table of file systems: an entry is a line, named by its mount point or its source.
    Fstab,
    /// A key, whitespace, a value.
    Words,
    /// JSON: values have types and are nested, a section is an object.
    Json,
    /// TOML: the same with tables.
    Toml,
}

impl Format {
    /// Whether its values have types and are nested: such a file is not read by lines.
    pub fn is_document(self) -> bool {
        matches!(self, Self::Json | Self::Toml)
    }

    /// The one name that all spellings of a key have.
    pub fn key_name(self, key: &str) -> String {
        String::from_utf8_lossy(&self.syntax().folded(key.as_bytes())).into_owned()
    }

    /// Whether its files include others, so that what these say may count.
    pub fn includes_others(self) -> bool {
        self.syntax().inclusion().is_some()
    }

    /// The one name that all spellings of a section have.
    pub fn section_name(self, section: &str) -> String {
        let sections = self.syntax().sections();
        sections.map_or_else(|| section.to_owned(), |sections| sections.folded(section))
    }

    /// What begins a comment, as kkrun writes one.
    pub fn comment(self) -> &'static str {
        if self.syntax().comments().starts_with(b";") { ";" } else { "#" }
    }

    /// Whether a line that begins so is a comment for its program; where the program is not known, all may be.
    pub fn is_comment(self, text: &str) -> bool {
        let first = text.as_bytes().first();
        self == Self::Ini
            || self.is_document()
            || first.is_some_and(|first| self.syntax().comments().contains(first))
    }

    pub(super) fn syntax(self) -> &'static dyn Syntax {
        match self {
            Self::Ini | Self::Json | Self::Toml => &table::INI,
            Self::Keyfile => &table::KEYFILE,
            Self::Configparser => &table::CONFIGPARSER,
            Self::Fail2ban => &table::FAIL2BAN,
            Self::Supervisor => &table::SUPERVISOR,
            Self::Samba => &table::SAMBA,
            Self::Mysql => &table::MYSQL,
            Self::Postgresql => &table::POSTGRESQL,
            Self::Sysctl => &table::SYSCTL,
            Self::Php => &table::PHP,
            Self::PhpFpm => &table::PHP_FPM,
            Self::Git => &table::GIT,
            Self::Wireguard => &table::WIREGUARD,
            Self::Redis => &table::REDIS,
            Self::Dnsmasq => &table::DNSMASQ,
            Self::Chrony => &table::CHRONY,
            Self::Nsswitch => &table::NSSWITCH,
            Self::Aliases => &table::ALIASES,
            Self::Adduser => &table::ADDUSER,
            Self::Openssl => &table::OPENSSL,
            Self::Systemd => &table::SYSTEMD,
            Self::Networkd => &table::NETWORKD,
            Self::Postfix => &table::POSTFIX,
            Self::Words => &table::WORDS,
            Self::Sshd => &ssh::SERVER,
            Self::Ssh => &ssh::CLIENT,
            Self::Environment => &assignments::Environment,
            Self::Dotenv => &assignments::Dotenv,
            Self::Shell => &shell::Shell,
            Self::Fstab => &fstab::Fstab,
        }
    }
}

/// A key, with the separator that the script gave.
#[derive(Clone, Copy)]
pub(super) struct Key<'a> {
    pub(super) name: &'a str,
    pub(super) separator: Option<&'a str>,
}

/// Why a program does not read something as it is, and how to write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) why: Cow<'static, str>,
    pub(super) way: Cow<'static, str>,
}

impl Refusal {
    fn new(why: impl Into<Cow<'static, str>>, way: impl Into<Cow<'static, str>>) -> Self {
        Self { why: why.into(), way: way.into() }
    }
}

/// A logical line that sets a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyLine {
    /// The lines of the file that it has.
    pub(super) lines: Range<usize>,
    /// Where the value begins in their bytes.
    pub(super) value_at: usize,
}

/// What a format says about its files. A text is the bytes of a logical line without the last line ending.
pub(super) trait Syntax {
    /// The line behind the logical line that begins at `number`, which is neither blank nor a comment.
    fn end_of(&self, _lines: &Lines<'_>, number: usize) -> usize {
        number + 1
    }

    /// Whether lines that are indented deeper continue one.
    fn continues_by_depth(&self) -> bool {
        false
    }

    /// Whether a text that is neither blank nor a comment is one line, whatever lines are around it.
    fn is_one_line(&self, _text: &[u8]) -> bool {
        false
    }

    /// The lines that may set the key, where each line is a logical one: found without looking at the others.
    fn lines_with(&self, _lines: &Lines<'_>, _key: &str) -> Option<Vec<usize>> {
        None
    }

    /// What begins a comment; the first is how kkrun writes one.
    fn comments(&self) -> &'static [u8] {
        b"#"
    }

    /// Whether what is behind a value is a comment.
    fn is_comment_behind(&self, behind: &[u8]) -> bool {
        behind.starts_with(b"#")
    }

    /// The one form of all spellings of a key.
    fn folded<'k>(&self, key: &'k [u8]) -> Cow<'k, [u8]> {
        Cow::Borrowed(key)
    }

    /// Where the value begins in a text, if this sets the key.
    fn value_at(&self, text: &[u8], key: Key<'_>) -> Option<usize>;

    /// Where the value of a text is that begins at `at`: without whitespace around it, and without what follows and does
    /// not belong to it.
    fn value(&self, text: &[u8], at: usize) -> Range<usize> {
        at..at.max(text.trim_ascii_end().len())
    }

    /// Whether the quotes of a value do not close.
    fn is_open(&self, _value: &[u8]) -> bool {
        false
    }

    /// What a value means, however it is written.
    fn meaning<'v>(&self, value: &'v [u8]) -> Cow<'v, [u8]> {
        Cow::Borrowed(value)
    }

    /// Whether a text may set the key in a way that is not an entry, so that a new line has to go below it.
    fn may_set(&self, _text: &[u8], _key: &str) -> bool {
        false
    }

    /// What is between the key and the value of a new line.
    fn separator(&self, lines: &Lines<'_>, region: Option<&[Range<usize>]>) -> String;

    /// Whether an empty value resets what is said above it, so that a line with a value goes below it.
    fn resets(&self) -> bool {
        false
    }

    /// A new line.
    fn written(&self, key: &str, separator: &str, value: &[u8]) -> Vec<u8> {
        let separator = if value.is_empty() { separator.trim_end() } else { separator };
        [key.as_bytes(), separator.as_bytes(), value].concat()
    }

    /// What is to be put behind a key that has no value yet; `behind_key` is the text up to there.
    fn missing_sign(&self, _lines: &Lines<'_>, _behind_key: &[u8], _key: Key<'_>) -> Option<String> {
        None
    }

    /// What makes this line another one for another program, where the program is not known.
    fn doubt(&self, _lines: &Lines<'_>, _line: &KeyLine) -> Option<Doubt> {
        None
    }

    /// The line that some program takes for one of this key, where the program is not known.
    fn doubtful_spelling(&self, _lines: &Lines<'_>, _parts: &[Range<usize>], _key: Key<'_>) -> Option<usize> {
        None
    }

    /// Why this cannot be a key.
    fn refuse_key(&self, _key: &str) -> Option<Refusal> {
        None
    }

    /// Why this cannot be the value of this key.
    fn refuse_value(&self, _key: &str, _value: &[u8]) -> Option<Refusal> {
        None
    }

    /// The way on from a value that is not read back.
    fn way_on(&self) -> &'static str {
        "use `config::line` with `matching` for the whole line"
    }

    /// The first line of a file that cannot be edited for certain, and why.
    fn refuse(&self, _lines: &Lines<'_>) -> Option<(usize, &'static str)> {
        None
    }

    /// The one of several lines of a key that counts, else the lines of two that contradict each other.
    fn choose(
        &self,
        lines: &Lines<'_>,
        key: &str,
        found: Vec<KeyLine>,
    ) -> Result<Option<KeyLine>, [usize; 2]> {
        one(lines, key, found)
    }

    /// Whether every line of this key counts.
    fn adds_up(&self, _key: &str) -> bool {
        false
    }

    /// The sections, if the format has any.
    fn sections(&self) -> Option<&dyn Sections> {
        None
    }

    /// How a file includes others, if what these say may count instead of what it says.
    fn inclusion(&self) -> Option<&Inclusion> {
        None
    }
}

/// How several files of a format are one configuration.
pub(super) struct Inclusion {
    /// The keys whose values name files, by patterns of a shell.
    pub(super) files: &'static [&'static str],
    /// The keys whose values name a directory, of which all `*.conf` are read.
    pub(super) directories: &'static [&'static str],
    /// The files that are read besides.
    pub(super) together: Together,
    /// The first of several lines of a key counts, else the last.
    pub(super) first_counts: bool,
    /// What is outside of all sections counts in each of them, too, instead of being overridden there.
    pub(super) outside_counts: bool,
}

/// Which files a program reads as one configuration.
pub(super) enum Together {
    /// Those of a directory of this name are included by a file of that name beside it.
    Included {
        /// The directory.
        directory: &'static str,
        /// The file.
        by: &'static str,
    },
    /// Behind a file of a directory of this name those of directories with its name and `.d`, in systemd's places.
    DropIns {
        /// The directory.
        of: &'static str,
    },
    /// Those of directories of this name, in systemd's places.
    Fragments {
        /// The directory.
        directory: &'static str,
        /// A file beside it, to which one of them may be a link.
        beside: &'static str,
    },
}

/// The default of [`Syntax::choose`]: a key is set once.
fn one(_lines: &Lines<'_>, _key: &str, found: Vec<KeyLine>) -> Result<Option<KeyLine>, [usize; 2]> {
    match &*found {
        [first, second, ..] => Err([first.lines.start, second.lines.start]),
        _ => Ok(found.into_iter().next()),
    }
}

/// The parts of a file that begin with a header each.
pub(super) trait Sections {
    /// The name in a header.
    fn header<'b>(&self, body: &'b [u8]) -> Option<&'b [u8]>;

    /// A byte that every header has.
    fn mark(&self) -> Option<u8> {
        None
    }

    /// Whether this header is the one of the section.
    fn is(&self, header: &[u8], section: &str) -> bool {
        header == section.as_bytes()
    }

    /// The one form of all spellings of a section.
    fn folded(&self, section: &str) -> String {
        section.to_owned()
    }

    /// Whether some program takes this header for that of the section, where the program is not known.
    fn is_doubtful(&self, _header: &[u8], _section: &str) -> bool {
        false
    }

    /// Whether this header begins no section: what is below it is read as what is above it.
    fn is_heading(&self, _header: &[u8]) -> bool {
        false
    }

    /// The header of the section.
    fn written(&self, section: &str) -> String {
        format!("[{section}]")
    }

    /// Whether several sections of one name are one.
    fn merges(&self) -> bool {
        false
    }

    /// Whether nothing is set outside of a section.
    fn only(&self) -> bool {
        false
    }

    /// Before which line a new section goes, if not at the end.
    fn place(&self, _lines: &Lines<'_>, _section: &str) -> Option<usize> {
        None
    }

    /// The indentation of the first line in a new section.
    fn indentation(&self) -> &'static str {
        ""
    }
}

/// A logical line of a file.
pub(super) struct Logical {
    /// The lines that it has.
    pub(super) lines: Range<usize>,
    /// What it is.
    pub(super) is: Is,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Is {
    Blank,
    Comment,
    Text,
}

/// The logical lines that begin in `within`.
pub(super) fn logical<'a>(
    syntax: &'a dyn Syntax,
    lines: &'a Lines<'_>,
    within: Range<usize>,
) -> impl Iterator<Item = Logical> + 'a {
    let mut number = within.start;
    std::iter::from_fn(move || {
        if number >= within.end {
            return None;
        }
        let is = match lines.body(number).trim_ascii_start().first() {
            None => Is::Blank,
            Some(first) if syntax.comments().contains(first) => Is::Comment,
            Some(_) => Is::Text,
        };
        let end = if is == Is::Text { syntax.end_of(lines, number) } else { number + 1 };
        let logical = Logical { lines: number..end, is };
        number = end;
        Some(logical)
    })
}

/// The line behind those that an odd number of backslashes at the end continues.
fn continued(lines: &Lines<'_>, number: usize) -> usize {
    let mut last = number;
    while last + 1 < lines.count() && ends_in_backslash(lines.body(last)) {
        last += 1;
    }
    last + 1
}

fn ends_in_backslash(body: &[u8]) -> bool {
    body.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// Where what follows the whitespace at `at` begins.
fn skip_blank(text: &[u8], at: usize) -> usize {
    text.len() - text[at..].trim_ascii_start().len()
}

/// Where what follows the key begins, in a text that begins with it; whitespace before it aside.
fn behind_key(text: &[u8], key: &str) -> Option<usize> {
    let at = skip_blank(text, 0);
    text[at..].starts_with(key.as_bytes()).then_some(at + key.len())
}

/// Where the value begins in `key = value`.
fn behind_sign(text: &[u8], at: usize, signs: &[&[u8]]) -> Option<usize> {
    let sign = skip_blank(text, at);
    let found = signs.iter().find(|known| text[sign..].starts_with(known))?;
    Some(skip_blank(text, sign + found.len()))
}

#[cfg(test)]
mod tests;
