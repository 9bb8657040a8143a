//! What the programs of the formats that are data cannot read, or read as another value. `tests/it/formats.sh` asks them.

use super::Refusal;
use super::rules::behind_quotes;

const NEVER_CLOSES: &str = "a quote in it never closes";
const NO_ARGUMENT: &str = "it is empty, and this key needs an argument";

/// Source: `guc-file.l`.
pub(super) fn not_of_postgresql(_key: &str, value: &[u8]) -> Option<Refusal> {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-._:/".contains(byte) || !byte.is_ascii();
    let is_quoted = value.len() > 1 && value.starts_with(b"'") && value.ends_with(b"'");
    let is_number = || {
        let digits = value.strip_prefix(b"-").or(value.strip_prefix(b"+")).unwrap_or(value);
        digits.first().is_some_and(|first| first.is_ascii_digit() || *first == b'.')
            && digits.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'.')
    };
    let is_text = || {
        value.first().is_some_and(|first| first.is_ascii_alphabetic() || *first == b'_' || !first.is_ascii())
    };
    let is_read = is_quoted || is_number() || is_text() && value.iter().all(is_word);
    (!is_read).then(|| {
        Refusal::new("PostgreSQL reads it only in single quotes", "put it in single quotes: `\"'*'\"`")
    })
}

/// What is behind a `%` that begins a reference: `(name)` and what `is_end` takes of the rest.
fn behind_reference(text: &[u8], is_end: impl Fn(&[u8]) -> Option<usize>) -> Option<&[u8]> {
    let inside = text.strip_prefix(b"(")?;
    let close = inside.iter().position(|byte| *byte == b')').filter(|close| *close > 0)?;
    let behind = &inside[close + 1..];
    is_end(behind).map(|length| &behind[length..])
}

fn references(value: &[u8], is_end: impl Fn(&[u8]) -> Option<usize>) -> bool {
    let mut rest = value;
    while let Some(at) = memchr::memchr(b'%', rest) {
        let behind = &rest[at + 1..];
        match behind.strip_prefix(b"%").or_else(|| behind_reference(behind, &is_end)) {
            Some(behind) => rest = behind,
            None => return false,
        }
    }
    true
}

/// Source: `BasicInterpolation` of Python's configparser.
pub(super) fn not_of_configparser(_key: &str, value: &[u8]) -> Option<Refusal> {
    let is_read = references(value, |behind| behind.starts_with(b"s").then_some(1));
    (!is_read).then(|| {
        Refusal::new("a `%` in it is neither `%%` nor begins `%(name)s`", "write `%%` for a percent sign")
    })
}

/// Source: `expand` of supervisor's options, which is Python's `%`.
pub(super) fn not_of_supervisor(_key: &str, value: &[u8]) -> Option<Refusal> {
    let conversion = |behind: &[u8]| {
        let flags = behind.iter().take_while(|byte| b"#0- +.123456789hlL".contains(byte)).count();
        behind.get(flags).filter(|byte| b"diouxXeEfFgGcrsa".contains(byte)).map(|_| flags + 1)
    };
    (!references(value, conversion)).then(|| {
        Refusal::new(
            "a `%` in it is neither `%%` nor begins `%(name)s` or `%(ENV_NAME)s`",
            "write `%%` for a percent sign",
        )
    })
}

/// Source: `g_key_file_parse_value_as_string`; in lists of NetworkManager `\,` and `\;`.
pub(super) fn not_of_keyfile(_key: &str, value: &[u8]) -> Option<Refusal> {
    let mut bytes = value.iter();
    while bytes.any(|byte| *byte == b'\\') {
        if !bytes.next().is_some_and(|byte| b"sntr\\;,".contains(byte)) {
            return Some(Refusal::new(
                "a backslash in it is not one of `\\\\`, `\\s`, `\\n`, `\\t`, `\\r` and `\\;`",
                "write two backslashes for one, in a string of a script `\"\\\\\\\\\"`",
            ));
        }
    }
    None
}

/// Source: git-config(1), `parse_value` of git's `config.c`.
pub(super) fn not_of_git(_key: &str, value: &[u8]) -> Option<Refusal> {
    let (mut at, mut is_quoted) = (0, false);
    while at < value.len() {
        match value[at] {
            b'\\' if !value.get(at + 1).is_some_and(|byte| b"ntb\"\\".contains(byte)) => {
                return Some(Refusal::new(
                    "a backslash in it is not one of `\\\\`, `\\\"`, `\\n`, `\\t` and `\\b`",
                    "write two backslashes for one, in a string of a script `\"\\\\\\\\\"`",
                ));
            }
            b'\\' => at += 1,
            b'"' => is_quoted = !is_quoted,
            _ => {}
        }
        at += 1;
    }
    is_quoted.then(|| {
        Refusal::new(
            NEVER_CLOSES,
            "write a backslash before a quote that belongs to the value, in a string of a script `\"\\\\\\\"\"`",
        )
    })
}

/// Source: git-config(1).
pub(super) fn not_a_key_of_git(key: &str) -> Option<Refusal> {
    let is_read = key.starts_with(|first: char| first.is_ascii_alphabetic())
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    (!is_read).then(|| {
        Refusal::new(
            "a key of git has only letters, digits and `-`, and begins with a letter",
            "correct the key; what is before it goes into `section`: `remote \"origin\"`",
        )
    })
}

/// The keys that take one argument, where it may be any text. Source: redis.conf.
const ONE_OF_REDIS: &[&str] = &[
    "aclfile",
    "appenddirname",
    "appendfilename",
    "cluster-config-file",
    "dbfilename",
    "dir",
    "include",
    "logfile",
    "masterauth",
    "masteruser",
    "pidfile",
    "primaryauth",
    "primaryuser",
    "proc-title-template",
    "requirepass",
    "syslog-ident",
    "tls-ca-cert-dir",
    "tls-ca-cert-file",
    "tls-cert-file",
    "tls-ciphers",
    "tls-ciphersuites",
    "tls-dh-params-file",
    "tls-key-file",
    "tls-key-file-pass",
    "tls-protocols",
    "unixsocket",
];

/// In single quotes a backslash escapes nothing but such a quote.
fn behind_quotes_of_redis(text: &[u8], at: usize) -> Option<usize> {
    if text[at] == b'"' {
        return behind_quotes(text, at, true);
    }
    let is_end = |end: &usize| text[*end] == b'\'' && text[*end - 1] != b'\\';
    (at + 1..text.len()).find(is_end).map(|end| end + 1)
}

/// Source: `sdssplitargs`.
pub(super) fn not_of_redis(key: &str, value: &[u8]) -> Option<Refusal> {
    const IN_QUOTES: &str = "put it in quotes: `\"\\\"it's one\\\"\"`";
    let (mut at, mut arguments) = (0, 0);
    while at < value.len() {
        if value[at].is_ascii_whitespace() {
            at += 1;
            continue;
        }
        arguments += 1;
        while at < value.len() && !value[at].is_ascii_whitespace() {
            if !matches!(value[at], b'"' | b'\'') {
                at += 1;
                continue;
            }
            match behind_quotes_of_redis(value, at) {
                None => return Some(Refusal::new(NEVER_CLOSES, IN_QUOTES)),
                Some(end) if value.get(end).is_some_and(|byte| !byte.is_ascii_whitespace()) => {
                    return Some(Refusal::new("a quote in it closes before the end of a word", IN_QUOTES));
                }
                Some(end) => at = end,
            }
        }
    }
    let takes_one = ONE_OF_REDIS.contains(&&*key.to_ascii_lowercase());
    match arguments {
        0 if takes_one => Some(Refusal::new(NO_ARGUMENT, "write an empty one as `\"\\\"\\\"\"`")),
        0 | 1 => None,
        _ if !takes_one => None,
        _ => Some(Refusal::new("this key takes one argument", IN_QUOTES)),
    }
}

/// Source: `read_file` of dnsmasq.
pub(super) fn not_of_dnsmasq(_key: &str, value: &[u8]) -> Option<Refusal> {
    let mut at = 0;
    while let Some(quote) = memchr::memchr(b'"', &value[at..]) {
        let Some(end) = behind_quotes(value, at + quote, true) else {
            return Some(Refusal::new(
                NEVER_CLOSES,
                "write a quote that belongs to the value inside of quotes: `\"\\\"a\\\\\\\"b\\\"\"`",
            ));
        };
        at = end;
    }
    None
}

/// Source: postconf(5), `mac_parse` of Postfix.
pub(super) fn not_of_postfix(_key: &str, value: &[u8]) -> Option<Refusal> {
    let refusal = |why| Some(Refusal::new(why, "write `$$` for a dollar sign"));
    let mut rest = value;
    while let Some(at) = memchr::memchr(b'$', rest) {
        let behind = &rest[at + 1..];
        let close = match behind.first() {
            Some(b'$') => {
                rest = &behind[1..];
                continue;
            }
            Some(b'{') => b'}',
            Some(b'(') => b')',
            Some(byte) if byte.is_ascii_alphanumeric() || *byte == b'_' => {
                rest = behind;
                continue;
            }
            _ => return refusal("no name follows a `$` in it"),
        };
        let mut depth = 0_usize;
        let end = behind.iter().position(|byte| {
            depth += usize::from(*byte == behind[0]);
            depth -= usize::from(*byte == close);
            depth == 0
        });
        match end {
            None => return refusal("the brace behind a `$` in it never closes"),
            Some(1) => return refusal("no name follows a `$` in it"),
            Some(end) => rest = &behind[end + 1..],
        }
    }
    None
}

/// What is outside of quotes and variables, with a `"` in the place of each of these; none if one never closes.
fn bare_of_php(value: &[u8]) -> Option<Vec<u8>> {
    let (mut at, mut bare) = (0, Vec::new());
    while at < value.len() {
        match value[at] {
            quote @ (b'"' | b'\'') => {
                at = behind_quotes(value, at, quote == b'"')?;
                bare.push(b'"');
            }
            b'$' if value.get(at + 1) == Some(&b'{') => {
                at += value[at..].iter().position(|byte| *byte == b'}')? + 1;
                bare.push(b'"');
            }
            byte => {
                bare.push(byte);
                at += 1;
            }
        }
    }
    Some(bare)
}

/// The rest of an expression of numbers and constants, behind one: `E_ALL & ~E_NOTICE`.
fn behind_expression(text: &[u8]) -> Option<&[u8]> {
    let mut rest = behind_operand(text)?;
    while let Some(b'|' | b'&' | b'^') = rest.first() {
        rest = behind_operand(&rest[1..])?;
    }
    Some(rest)
}

fn behind_operand(text: &[u8]) -> Option<&[u8]> {
    let text = text.trim_ascii_start();
    match text.first()? {
        b'~' | b'!' => behind_operand(&text[1..]),
        b'(' => behind_expression(&text[1..])?.strip_prefix(b")").map(<[u8]>::trim_ascii_start),
        _ => {
            let is_name = |byte: &&u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || **byte == b'_';
            let length = text.iter().take_while(is_name).count();
            let name = &text[..length];
            let is_constant = name.contains(&b'_') || name.iter().all(u8::is_ascii_digit);
            (length > 0 && is_constant).then(|| text[length..].trim_ascii_start())
        }
    }
}

/// Source: `zend_ini_scanner.l`, `zend_ini_parser.y`.
pub(super) fn not_of_php(_key: &str, value: &[u8]) -> Option<Refusal> {
    const IN_QUOTES: &str = "put it in double quotes: `\"\\\"a=b\\\"\"`";
    let Some(bare) = bare_of_php(value) else {
        return Some(Refusal::new("a quote or brace in it never closes", IN_QUOTES));
    };
    let has = |signs: &[u8]| bare.iter().any(|byte| signs.contains(byte));
    if has(b"=") {
        return Some(Refusal::new("PHP reads a `=` only in quotes", IN_QUOTES));
    }
    if has(b"!()&|~^") && behind_expression(&bare).is_none_or(|rest| !rest.is_empty()) {
        return Some(Refusal::new(
            "PHP reads one of `!()&|~^` only in quotes, or between constants",
            IN_QUOTES,
        ));
    }
    bare.ends_with(b"$").then(|| Refusal::new("PHP reads a `$` at its end only in quotes", IN_QUOTES))
}
