//! The configuration of OpenSSH. Sources: sshd_config(5), ssh_config(5).

use std::borrow::Cow;
use std::ops::Range;

use super::super::lines::Lines;
use super::{Inclusion, Is, Key, KeyLine, Refusal, Sections, Syntax, Together, logical, one, skip_blank};

/// Every line of these keys counts; of all others the first does.
const MANY_OF_SERVER: &[&str] = &[
    "acceptenv",
    "allowgroups",
    "allowusers",
    "denygroups",
    "denyusers",
    "hostcertificate",
    "hostkey",
    "include",
    "listenaddress",
    "logverbose",
    "port",
    "subsystem",
];
const MANY_OF_CLIENT: &[&str] = &[
    "certificatefile",
    "dynamicforward",
    "identityfile",
    "include",
    "localforward",
    "remoteforward",
    "sendenv",
];

/// The keys that take one argument, in lower case: of the server and the client.
const ONE_ARGUMENT: &[&str] = &[
    "addressfamily",
    "allowagentforwarding",
    "allowstreamlocalforwarding",
    "allowtcpforwarding",
    "authorizedkeyscommanduser",
    "authorizedprincipalsfile",
    "banner",
    "challengeresponseauthentication",
    "chrootdirectory",
    "clientalivecountmax",
    "clientaliveinterval",
    "compression",
    "gatewayports",
    "hostbasedauthentication",
    "hostkeyagent",
    "hostname",
    "identityagent",
    "ignorerhosts",
    "kbdinteractiveauthentication",
    "logingracetime",
    "loglevel",
    "maxauthtries",
    "maxsessions",
    "maxstartups",
    "passwordauthentication",
    "permitemptypasswords",
    "permitrootlogin",
    "permittty",
    "pidfile",
    "port",
    "printlastlog",
    "printmotd",
    "pubkeyauthentication",
    "revokedkeys",
    "strictmodes",
    "syslogfacility",
    "tcpkeepalive",
    "trustedusercakeys",
    "usedns",
    "usepam",
    "user",
    "x11displayoffset",
    "x11forwarding",
    "x11uselocalhost",
    "xauthlocation",
];

pub(super) const SERVER: Ssh = Ssh {
    blocks: &["match"],
    many: MANY_OF_SERVER,
    inclusion: including("sshd_config.d", "sshd_config", false),
};
pub(super) const CLIENT: Ssh = Ssh {
    blocks: &["host", "match"],
    many: MANY_OF_CLIENT,
    inclusion: including("ssh_config.d", "ssh_config", true),
};

const fn including(directory: &'static str, by: &'static str, outside_counts: bool) -> Inclusion {
    let together = Together::Included { directory, by };
    Inclusion { files: &["include"], directories: &[], together, first_counts: true, outside_counts }
}

pub(super) struct Ssh {
    /// The keywords that begin a block, in lower case.
    blocks: &'static [&'static str],
    /// The keys that add up, in lower case.
    many: &'static [&'static str],
    inclusion: Inclusion,
}

/// Where the arguments begin behind a keyword: after whitespace, one `=`, or both.
fn behind_keyword(text: &[u8], at: usize) -> Option<usize> {
    let mut value = skip_blank(text, at);
    if text.get(value) == Some(&b'=') {
        value = skip_blank(text, value + 1);
    } else if value == at && at < text.len() {
        return None;
    }
    Some(value)
}

/// The words of a header: what begins the block in lower case, then its conditions as they are.
fn header_words(header: &[u8]) -> Vec<Vec<u8>> {
    let end =
        header.iter().position(|byte| byte.is_ascii_whitespace() || *byte == b'=').unwrap_or(header.len());
    let (keyword, rest) = header.split_at(end);
    let rest = rest.trim_ascii_start();
    let rest = rest.strip_prefix(b"=").unwrap_or(rest);
    let rest = rest.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).map(<[u8]>::to_vec);
    std::iter::once(keyword.to_ascii_lowercase()).chain(rest).collect()
}

/// The arguments in a text. Source: `argv_split` of OpenSSH.
struct Arguments {
    /// How many there are.
    count: usize,
    /// Where a comment begins behind them: a `#` at the start of one.
    comment_at: usize,
    /// The quotes of one never close.
    is_open: bool,
}

impl Arguments {
    fn of(text: &[u8], from: usize) -> Self {
        let (mut at, mut count, mut quote) = (from, 0, None);
        let mut is_inside = false;
        while at < text.len() {
            let byte = text[at];
            let is_blank = byte.is_ascii_whitespace();
            if !is_inside && byte == b'#' {
                return Self { count, comment_at: at, is_open: false };
            }
            if !is_inside && !is_blank {
                is_inside = true;
                count += 1;
            }
            match (byte, quote) {
                (b'\\', _) => {
                    let is_escaped = |next: &u8| b"'\"\\".contains(next) || quote.is_none() && *next == b' ';
                    at += usize::from(text.get(at + 1).is_some_and(is_escaped));
                }
                (b'"' | b'\'', None) => quote = Some(byte),
                (_, Some(open)) if byte == open => quote = None,
                (_, None) if is_blank => is_inside = false,
                _ => {}
            }
            at += 1;
        }
        Self { count, comment_at: text.len(), is_open: quote.is_some() }
    }
}

fn comment_at(text: &[u8], from: usize) -> usize {
    Arguments::of(text, from).comment_at
}

impl Syntax for Ssh {
    fn folded<'k>(&self, key: &'k [u8]) -> Cow<'k, [u8]> {
        Cow::Owned(key.to_ascii_lowercase())
    }

    fn value_at(&self, text: &[u8], key: Key<'_>) -> Option<usize> {
        let (at, name) = (skip_blank(text, 0), key.name.as_bytes());
        let written = text.get(at..at + name.len())?;
        written.eq_ignore_ascii_case(name).then(|| behind_keyword(text, at + name.len()))?
    }

    fn value(&self, text: &[u8], at: usize) -> Range<usize> {
        at..at.max(text[..comment_at(text, at)].trim_ascii_end().len())
    }

    fn separator(&self, _lines: &Lines<'_>, _region: Option<&[Range<usize>]>) -> String {
        " ".to_owned()
    }

    fn choose(
        &self,
        lines: &Lines<'_>,
        key: &str,
        found: Vec<KeyLine>,
    ) -> Result<Option<KeyLine>, [usize; 2]> {
        if self.adds_up(key) {
            return one(lines, key, found);
        }
        Ok(found.into_iter().next())
    }

    fn refuse_value(&self, key: &str, value: &[u8]) -> Option<Refusal> {
        const IN_QUOTES: &str = "put it in double quotes: `\"\\\"a b\\\"\"`";
        let arguments = Arguments::of(value, 0);
        if arguments.is_open {
            let way = "put it in the other quotes, or write a backslash before the quote, in a string of a script `\"\\\\'\"`";
            return Some(Refusal::new("a quote in it never closes", way));
        }
        if arguments.comment_at < value.len() {
            return Some(Refusal::new("a `#` behind whitespace begins a comment", IN_QUOTES));
        }
        if arguments.count == 0 {
            return Some(Refusal::new("OpenSSH needs an argument", "use `config::remove` for its default"));
        }
        let takes_one = ONE_ARGUMENT.contains(&&*key.to_ascii_lowercase());
        (takes_one && arguments.count > 1).then(|| Refusal::new("this key takes one argument", IN_QUOTES))
    }

    fn adds_up(&self, key: &str) -> bool {
        self.many.contains(&key.to_ascii_lowercase().as_str())
    }

    fn sections(&self) -> Option<&dyn Sections> {
        Some(self)
    }

    fn inclusion(&self) -> Option<&Inclusion> {
        Some(&self.inclusion)
    }
}

impl Sections for Ssh {
    fn header<'b>(&self, body: &'b [u8]) -> Option<&'b [u8]> {
        let text = body[..comment_at(body, 0)].trim_ascii();
        let words = header_words(text);
        let begins = self.blocks.iter().any(|block| block.as_bytes() == words[0].as_slice());
        (begins && words.len() > 1).then_some(text)
    }

    fn is(&self, header: &[u8], section: &str) -> bool {
        header_words(header) == header_words(section.as_bytes())
    }

    fn folded(&self, section: &str) -> String {
        String::from_utf8_lossy(&header_words(section.as_bytes()).join(&b' ')).into_owned()
    }

    fn written(&self, section: &str) -> String {
        section.to_owned()
    }

    /// The first line that matches wins, so a new block goes before the one that is for all.
    fn place(&self, lines: &Lines<'_>, section: &str) -> Option<usize> {
        let is_for_all = |header: &[u8]| self.is(header, "Host *") || self.is(header, "Match all");
        if is_for_all(section.as_bytes()) {
            return None;
        }
        logical(self, lines, 0..lines.count())
            .filter(|line| line.is == Is::Text)
            .map(|line| line.lines.start)
            .find(|number| self.header(lines.body(*number)).is_some_and(is_for_all))
    }

    fn indentation(&self) -> &'static str {
        "    "
    }
}
