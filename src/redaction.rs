//! Takes secrets out of everything that is shown or logged.

mod remembered;

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use crate::text;
use remembered::Recalled;
pub use remembered::{Keyed, Remembered};

/// Values under this length, in characters, are not searched for: they would hit innocent text.
pub const SHORTEST: usize = 8;

/// How what was left out of a long text is reported, after a blank or a line end: `[… 7 bytes left out …]`.
const GAP: &str = "[…";

/// Knows the secrets of a run, and finds them in every form in which they are looked for.
#[derive(Default)]
pub struct Redactor {
    /// Longest first, so that a secret that contains another is replaced whole.
    known: Vec<Known>,
    /// Those of which only hashes are left.
    recalled: Recalled,
}

/// A text that is looked for, and what is shown in its place.
struct Known {
    text: String,
    mark: String,
}

impl Drop for Known {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.text);
    }
}

fn is_long(text: &str) -> bool {
    text.chars().count() >= SHORTEST
}

fn mark(name: &str) -> String {
    format!("«secret:{name}»")
}

/// The texts by which a value is recognised: as it is, percent-encoded, as JSON, base64 and hexadecimal digits write it,
/// these also byte by byte, and each of its lines by itself.
fn texts_of(value: &str) -> Vec<String> {
    // What is shown line by line never shows the whole of a key of many lines, and is without its controls.
    let lines = value.lines().map(str::trim).filter(|line| *line != value);
    let seen = text::visible(value).map(|(seen, _)| seen);
    // What is encoded already may be encoded once more.
    let (percent, json) = (text::percent_encoded(value), serde_json::Value::from(value).to_string());
    let quoted = text::quoted(value);
    let plain = [value, &*text::printable(value), &percent, inner(&json), inner(&quoted)];
    let mut texts: Vec<String> = plain.into_iter().chain(lines).map(str::to_owned).chain(seen).collect();
    // A character of base64 is six bits: the neighbours of the value decide about the first and the last one as well. Where
    // it has none, it is recognised with the last one, too.
    for shift in 0..3 {
        let shifted = [&[0; 2][..shift], value.as_bytes()].concat();
        let (from, to) = ((shift * 8).div_ceil(6), shifted.len() * 8 / 6);
        for encoded in [STANDARD_NO_PAD, URL_SAFE_NO_PAD].map(|engine| engine.encode(&shifted)) {
            texts.extend([&encoded[from..to], &encoded[from..]].map(str::to_owned));
        }
    }
    let bytes = value.as_bytes();
    for digits in [hex::encode(value), hex::encode_upper(value)] {
        let pairs: Vec<&str> = (0..bytes.len()).map(|at| &digits[2 * at..2 * at + 2]).collect();
        texts.extend([pairs.join(":"), pairs.join(" "), pairs.join("-")]);
        // Every byte, also those that need it not.
        texts.extend([format!("%{}", pairs.join("%")), format!("\\x{}", pairs.join("\\x"))]);
        texts.push(digits);
    }
    texts.retain(|text| is_long(text));
    texts.sort_unstable();
    texts.dedup();
    texts
}

/// What is in the quotes.
fn inner(quoted: &str) -> &str {
    &quoted[1..quoted.len() - 1]
}

impl Redactor {
    /// Looks for this secret from now on, in every form. Says whether it is long enough to be looked for.
    pub fn learn(&mut self, name: &str, value: &str) -> bool {
        if !is_long(value) {
            return false;
        }
        for text in texts_of(value) {
            if !self.known.iter().any(|known| known.text == text) {
                self.known.push(Known { text, mark: mark(name) });
            }
        }
        self.known.sort_by_key(|known| std::cmp::Reverse(known.text.len()));
        true
    }

    /// Looks for secrets of which only hashes are left, too.
    pub fn recall(&mut self, remembered: &[Remembered], key: Box<Keyed>) {
        self.recalled = Recalled::of(remembered, key);
    }

    /// The text with every secret replaced by its name, one that is cut off at the end of the text too, and one that is
    /// split by line ends or by what is not seen.
    pub fn redact(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for known in &self.known {
            if let Some(replaced) = replaced(&text, &known.spans(&text)) {
                text = replaced;
            }
        }
        let mut visible = text::visible(&text);
        for known in &self.known {
            let Some((seen, places)) = &visible else { break };
            if let Some(replaced) = replaced(&text, &behind(&text, places, known.spans(seen))) {
                text = replaced;
                visible = text::visible(&text);
            }
        }
        if let Some(replaced) = replaced(&text, &self.recalled.spans(text.as_bytes())) {
            text = replaced;
        }
        if let Some((seen, places)) = text::visible(&text)
            && let Some(replaced) =
                replaced(&text, &behind(&text, &places, self.recalled.spans(seen.as_bytes())))
        {
            text = replaced;
        }
        for written in Written::ALL.into_iter().filter(|_| self.recalled.knows_any()) {
            if let Some((bytes, places)) = written.read(&text)
                && let Some(replaced) = replaced(&text, &read_at(&text, &places, self.recalled.spans(&bytes)))
            {
                text = replaced;
            }
        }
        text
    }

    /// Whether the text holds a secret, also one of which only hashes are left.
    pub fn holds_secret(&self, text: &str) -> bool {
        let seen = text::visible(text).map(|(seen, _)| seen);
        let mut texts = [Some(text), seen.as_deref()].into_iter().flatten();
        self.holds_known_secret(text) || texts.any(|text| !self.recalled.spans(text.as_bytes()).is_empty())
    }

    /// Whether the text holds a secret of which the value is known.
    pub fn holds_known_secret(&self, text: &str) -> bool {
        let seen = text::visible(text).map(|(seen, _)| seen);
        [Some(text), seen.as_deref()].into_iter().flatten().any(|text| {
            self.known.iter().any(|known| {
                known.candidates(text).any(|at| matches!(known.found(text, at), Some(Found::Whole(_))))
            })
        })
    }

    /// From where on the text may be the beginning of a secret, which what follows it could show.
    pub fn may_go_on_from(&self, text: &str) -> Option<usize> {
        let seen = text::visible(text);
        let (seen, places) =
            seen.as_ref().map_or((text, None), |(seen, places)| (seen.as_str(), Some(places)));
        let known = self.known.iter().filter_map(|known| known.begins_at_end_of(seen)).min();
        let from = known.into_iter().chain(self.recalled.may_begin_at_end_of(seen.as_bytes())).min()?;
        places.map_or(Some(from), |places| places.get(from).copied())
    }
}

/// Where a secret is, and what is shown instead.
type Spans<'marks> = Vec<(Range<usize>, &'marks str)>;

/// The text with something else at these places, which are in order; `None` if there are none.
fn replaced(text: &str, spans: &[(Range<usize>, &str)]) -> Option<String> {
    let mut shown = String::new();
    let mut from = 0;
    for (span, mark) in spans {
        shown.push_str(&text[from..span.start]);
        shown.push_str(mark);
        from = span.end;
    }
    (from > 0).then(|| shown + &text[from..])
}

/// The same places in the text of which something is not seen.
fn behind<'marks>(text: &str, places: &[usize], spans: Spans<'marks>) -> Spans<'marks> {
    let at = |seen: usize| places.get(seen).copied().unwrap_or(text.len());
    let whole = |last: usize| last + text[last..].chars().next().map_or(0, char::len_utf8);
    spans.into_iter().map(|(span, mark)| (at(span.start)..whole(at(span.end - 1)), mark)).collect()
}

/// The same places in the text that was read from another: each byte is read at one place, and up to the next.
fn read_at<'marks>(text: &str, places: &[usize], spans: Spans<'marks>) -> Spans<'marks> {
    let at = |read: usize| places.get(read).copied().unwrap_or(text.len());
    spans.into_iter().map(|(span, mark)| (at(span.start)..at(span.end), mark)).collect()
}

/// How characters are written that cannot be written as they are. Of a secret of which only hashes are left, no letter is
/// known: the text is read back instead.
#[derive(Clone, Copy)]
enum Written {
    /// `%20`.
    Percent,
    /// The same, with `+` for a blank.
    Form,
    /// `\"` and `\u00fc`, as JSON and others write it.
    Backslash,
}

impl Written {
    const ALL: [Self; 3] = [Self::Percent, Self::Form, Self::Backslash];

    /// What is written, and where each byte of it is; `None` if nothing is written so.
    fn read(self, text: &str) -> Option<(Vec<u8>, Vec<usize>)> {
        let begins = match self {
            Self::Percent => text.contains('%'),
            Self::Form => text.contains('+'),
            Self::Backslash => text.contains('\\'),
        };
        if !begins {
            return None;
        }
        let (mut bytes, mut places, mut at) = (Vec::new(), Vec::new(), 0);
        while let Some(letter) = text[at..].chars().next() {
            let (length, read) = match self.letter(&text[at..]) {
                Some(read) => read,
                None => (letter.len_utf8(), letter.to_string().into_bytes()),
            };
            bytes.extend(read);
            places.resize(bytes.len(), at);
            at += length;
        }
        Some((bytes, places))
    }

    /// The length and the meaning of what the text begins with.
    fn letter(self, text: &str) -> Option<(usize, Vec<u8>)> {
        let hex = |digits: Option<&str>| u32::from_str_radix(digits?, 16).ok();
        let utf8 = |letter: char| letter.to_string().into_bytes();
        match (self, text.as_bytes().first()?) {
            (Self::Percent | Self::Form, b'%') => Some((3, vec![u8::try_from(hex(text.get(1..3))?).ok()?])),
            (Self::Form, b'+') => Some((1, b" ".to_vec())),
            (Self::Backslash, b'\\') => match text[1..].chars().next()? {
                'u' => {
                    let unit = hex(text.get(2..6))?;
                    if let Some(letter) = char::from_u32(unit) {
                        return Some((6, utf8(letter)));
                    }
                    let low = hex(text.get(6..)?.strip_prefix("\\u")?.get(..4))?;
                    let pair = [u16::try_from(unit).ok()?, u16::try_from(low).ok()?];
                    let letter = char::decode_utf16(pair).next()?.ok()?;
                    Some((12, utf8(letter)))
                }
                'x' => Some((4, vec![u8::try_from(hex(text.get(2..4))?).ok()?])),
                'b' => Some((2, vec![8])),
                'f' => Some((2, vec![12])),
                'n' => Some((2, vec![b'\n'])),
                'r' => Some((2, vec![b'\r'])),
                't' => Some((2, vec![b'\t'])),
                other if other.is_ascii_punctuation() => Some((2, utf8(other))),
                _ => None,
            },
            _ => None,
        }
    }
}

/// What stands at a place of a text; each with where it ends.
enum Found {
    Whole(usize),
    /// So much of the beginning that it must be the secret, and then the end of what is shown.
    Beginning(usize),
}

impl Known {
    fn spans(&self, text: &str) -> Spans<'_> {
        let (mut spans, mut from) = (Spans::new(), 0);
        for at in self.candidates(text) {
            if at >= from
                && let Some(Found::Whole(end) | Found::Beginning(end)) = self.found(text, at)
            {
                spans.push((at..end, &*self.mark));
                from = end;
            }
        }
        spans
    }

    fn begins_at_end_of(&self, text: &str) -> Option<usize> {
        // No form of a letter is longer.
        let from = text.len().saturating_sub(12 * self.text.len());
        let from = (from..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
        let end = &text[from..];
        let mut begins = self.candidates(end).filter(|at| {
            let at = *at;
            let mut ends = vec![at];
            for (count, letter) in self.text.chars().enumerate() {
                if ends.contains(&end.len()) {
                    return count > 0;
                }
                ends = after(end, &ends, letter);
            }
            false
        });
        begins.next().map(|at| from + at)
    }

    /// Where it could begin: at its first letter, or at an encoded one.
    fn candidates(&self, text: &str) -> impl Iterator<Item = usize> {
        let first = self.text.chars().next();
        let may_begin = move |letter: char| Some(letter) == first || matches!(letter, '%' | '\\' | '+');
        text.char_indices().filter(move |(_, letter)| may_begin(*letter)).map(|(at, _)| at)
    }

    /// Follows it letter by letter, each in any of its forms: what a form means is not always clear from the
    /// beginning, so all that fit are followed side by side.
    fn found(&self, text: &str, at: usize) -> Option<Found> {
        let mut ends = vec![at];
        for (count, letter) in self.text.chars().enumerate() {
            if count >= SHORTEST
                && let Some(end) = ends.iter().find(|end| is_cut(&text[**end..]))
            {
                return Some(Found::Beginning(*end));
            }
            ends = after(text, &ends, letter);
            if ends.is_empty() {
                return None;
            }
        }
        ends.into_iter().max().map(Found::Whole)
    }
}

/// Where a letter ends, in any of its forms, that begins at one of these places.
fn after(text: &str, begins: &[usize], letter: char) -> Vec<usize> {
    let mut ends = Vec::new();
    for begin in begins {
        forms(&text[*begin..], letter, |length| {
            if !ends.contains(&(begin + length)) {
                ends.push(begin + length);
            }
        });
    }
    ends
}

/// Whether what is shown ends here.
fn is_cut(rest: &str) -> bool {
    rest.is_empty() || rest.strip_prefix([' ', '\n']).is_some_and(|rest| rest.starts_with(GAP))
}

/// The lengths of the forms of a letter with which the text begins.
fn forms(text: &str, letter: char, mut add: impl FnMut(usize)) {
    if text.starts_with(letter) {
        add(letter.len_utf8());
    }
    if letter == ' ' && text.starts_with('+') {
        add(1);
    }
    if text.starts_with('%') {
        let mut bytes = [0; 4];
        let bytes = letter.encode_utf8(&mut bytes).as_bytes();
        let mut rest = text;
        let all = bytes.iter().all(|byte| {
            let Some(hex) = rest.strip_prefix('%').and_then(|rest| rest.get(..2)) else { return false };
            rest = &rest[3..];
            u8::from_str_radix(hex, 16) == Ok(*byte)
        });
        if all {
            add(3 * bytes.len());
        }
    }
    if let Some(escaped) = text.strip_prefix('\\') {
        let short = match letter {
            '\u{8}' => 'b',
            '\u{c}' => 'f',
            '\n' => 'n',
            '\r' => 'r',
            '\t' => 't',
            other => other,
        };
        let has_short = short != letter || matches!(letter, '"' | '\\' | '/' | '\'' | '$' | '`');
        if has_short && escaped.starts_with(short) {
            add(2);
        }
        let mut units = [0; 2];
        let units = letter.encode_utf16(&mut units);
        let mut rest = text;
        let all = units.iter().all(|unit| {
            let Some(hex) = rest.strip_prefix("\\u").and_then(|rest| rest.get(..4)) else { return false };
            rest = &rest[6..];
            u16::from_str_radix(hex, 16) == Ok(*unit)
        });
        if all {
            add(6 * units.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MARK: &str = "«secret:db_password»";

    fn knowing(secret: &str) -> Redactor {
        let mut redactor = Redactor::default();
        assert!(redactor.learn("db_password", secret));
        redactor
    }

    #[test]
    fn a_secret_in_the_quotes_of_an_env_file_is_replaced() {
        let secret = "it's \"$HOME\" `id` \\ 4711";
        let quoted = crate::text::quoted(secret);
        assert!(!quoted.contains(secret));
        assert_eq!(knowing(secret).redact(&format!("PIN={quoted}\n")), format!("PIN=\"{MARK}\"\n"));
    }

    #[test]
    fn every_form_of_a_secret_is_replaced_by_its_name() {
        let redactor = knowing("p@ss \"wörd\"/1");
        for form in [
            r#"p@ss "wörd"/1"#,
            "p%40ss%20%22w%C3%B6rd%22%2F1",
            "p%40ss%20%22w%c3%b6rd%22/1",
            "p%40ss+%22w%C3%B6rd%22%2F1",
            r#"p@ss \"wörd\"/1"#,
            r#"p@ss \"w\u00f6rd\"\/1"#,
            r"\u0070\u0040ss \u0022w\u00F6rd\u0022/1",
        ] {
            assert_eq!(redactor.redact(&format!("a {form} b {form}")), format!("a {MARK} b {MARK}"));
            assert!(redactor.holds_secret(form), "{form}");
        }
    }

    #[test]
    fn a_form_that_looks_like_the_beginning_of_another_is_followed_to_its_end() {
        let redactor = knowing("%41+\\n%%25 x");
        for form in ["%41+\\n%%25 x", "%2541%2B%5Cn%25%2525%20x", r"%41+\\n%%25 x"] {
            assert_eq!(redactor.redact(form), MARK, "{form}");
        }
        assert_eq!(redactor.redact("%41+\\n%%26 x"), "%41+\\n%%26 x");
    }

    #[test]
    fn what_is_cut_off_is_replaced_too() {
        let redactor = knowing("correct-horse");
        assert_eq!(redactor.redact("it is correct-ho"), format!("it is {MARK}"));
        assert_eq!(
            redactor.redact("correct-hor [… 12 bytes left out …]"),
            format!("{MARK} [… 12 bytes left out …]")
        );
        assert_eq!(redactor.redact("it is correct"), "it is correct");
        assert_eq!(redactor.redact("correct-house"), "correct-house");
        assert!(!redactor.holds_secret("it is correct-ho"));
    }

    #[test]
    fn a_key_of_many_lines_is_found_line_by_line() {
        let redactor = knowing("-----BEGIN-----\nMIIEvQIBADAN\n\tBgkqhkiG9w0B\nshort\n");
        assert_eq!(redactor.redact("  BgkqhkiG9w0B"), format!("  {MARK}"));
        assert_eq!(redactor.redact("short"), "short");
        assert_eq!(redactor.redact("-----BEGIN-----MIIEvQIBADAN\tBgkqhkiG9w0Bshort"), MARK);
    }

    #[test]
    fn base64_and_hexadecimal_digits_of_a_secret_are_replaced_wherever_they_begin() {
        let secret = "hünter2>>??-correct";
        let redactor = knowing(secret);
        for before in ["", "a", "ab", "abc"] {
            let text = format!("{before}{secret}, and more");
            for encoded in [
                base64::engine::general_purpose::STANDARD.encode(&text),
                base64::engine::general_purpose::URL_SAFE.encode(&text),
                hex::encode(&text),
                hex::encode_upper(&text),
            ] {
                let shown = redactor.redact(&encoded);
                assert!(shown.contains(MARK) && shown.len() < encoded.len(), "{shown}");
                assert!(redactor.redact(&format!("{}\n{}", &encoded[..20], &encoded[20..])).contains(MARK));
            }
        }
        let other = STANDARD_NO_PAD.encode("the house of another");
        assert_eq!(redactor.redact(&other), other);
    }

    #[test]
    fn a_secret_that_is_split_by_what_is_not_seen_is_replaced() {
        let redactor = knowing("correct-horse");
        for split in
            ["\n", "\r\n", "\r", "\u{200b}", "\u{ad}", "\u{feff}", "\u{1b}[1m", "\0", "\n\u{1b}[0m\u{200d}"]
        {
            for at in [1, 4, 8, 12] {
                let (one, two) = "correct-horse".split_at(at);
                let shown = redactor.redact(&format!("it is {one}{split}{two}."));
                assert_eq!(shown, format!("it is {MARK}."), "{split:?}");
            }
        }
        assert_eq!(redactor.redact("correct\nhorse"), "correct\nhorse");
        assert!(knowing("zero\u{200b}width").redact("zerowidth").contains(MARK));
    }

    #[test]
    fn what_may_go_on_is_the_beginning_of_a_secret() {
        let redactor = knowing("correct-horse");
        for text in ["c", "it is c", "it is co", "correct-hors", "corr\nect", "%63o", "Y29ycm", "636f72"] {
            assert!(redactor.may_go_on_from(text).is_some(), "{text}");
        }
        for text in ["", "co ", "correct-horse", "correct-house"] {
            assert_eq!(redactor.may_go_on_from(text), None, "{text}");
        }
        assert_eq!(redactor.may_go_on_from("it is \u{200b}corr\n"), Some(9));
    }

    #[test]
    fn a_secret_of_which_a_hash_is_left_is_replaced_in_every_form() {
        let key = |parts: &[&[u8]]| {
            use sha2::Digest as _;
            sha2::Sha256::digest([b"key", &*parts.concat()].concat()).into()
        };
        let secret = "it's \"$HOME\" 4711";
        let remembered = Remembered::of("p", "db_password", secret, &key);
        let line = serde_json::to_string(&remembered).unwrap();
        assert!(!line.contains("4711"));
        let short = serde_json::to_value(Remembered::of("p", "pin", "4711", &key)).unwrap();
        assert_eq!(short, serde_json::json!({ "plan": "p", "name": "pin", "texts": [] }));
        let mut redactor = Redactor::default();
        redactor.recall(&[serde_json::from_str(&line).unwrap()], Box::new(key));
        let json = serde_json::Value::from(secret).to_string();
        for form in [
            secret,
            &crate::text::percent_encoded(secret),
            &json[1..json.len() - 1],
            crate::text::quoted(secret).trim_matches('"'),
            &STANDARD_NO_PAD.encode(secret),
            &hex::encode(secret),
            &format!("{}\n{}", &secret[..5], &secret[5..]),
            &format!("{}\u{ad}{}", &secret[..9], &secret[9..]),
            "it%27s+%22%24HOME%22+4711",
            "it's%20%22$HOME%22%204711",
            "it\\u0027s \\u0022$HOME\\u0022 4711",
            r#"it\'s \"\$HOME\" 4711"#,
        ] {
            assert_eq!(
                redactor.redact(&format!("a {form} b {form}")),
                format!("a {MARK} b {MARK}"),
                "{form}"
            );
        }
        assert_eq!(redactor.redact("it's \"$HOME\" 4712"), "it's \"$HOME\" 4712");
        // Of its first seven bytes nothing is known, so they may be at the end of any text.
        for (text, from) in
            [("a", 0), ("see it's", 1), ("see it's \"$HOME\" 47", 4), ("see something else", 11)]
        {
            assert_eq!(redactor.may_go_on_from(text), Some(from), "{text}");
        }
        assert_eq!(redactor.may_go_on_from(secret), None);
        assert_eq!(Redactor::default().may_go_on_from("a"), None);
    }

    #[test]
    fn a_short_secret_is_not_looked_for() {
        assert!(!Redactor::default().learn("pin", "1234567"));
    }

    #[test]
    fn of_a_secret_within_another_the_whole_is_replaced() {
        let mut redactor = knowing("inner-secret");
        redactor.learn("url", "postgres://inner-secret@host");
        assert_eq!(redactor.redact("postgres://inner-secret@host"), "«secret:url»");
        assert_eq!(redactor.redact("inner-secret"), MARK);
    }

    proptest! {
        #[test]
        fn no_form_in_any_text_gets_through(
            secret in "\\PC{8,24}", before in "\\PC{0,12}", after in "\\PC{0,12}", form in 0..3_usize,
        ) {
            let quoted = serde_json::Value::from(secret.as_str()).to_string();
            let percent = crate::text::percent_encoded(&secret);
            let form = [secret.as_str(), &percent, &quoted[1..quoted.len() - 1]][form];
            let shown = knowing(&secret).redact(&format!("{before}{form}{after}"));
            prop_assert!(shown.contains(MARK), "{shown}");
        }
    }
}
