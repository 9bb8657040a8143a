//! Takes secrets out of everything that is shown or logged.

/// Values under this length, in characters, are not searched for: they would hit innocent text.
pub const SHORTEST: usize = 8;

/// How what was left out of a long text is reported, after a blank or a line end: `[… 7 bytes left out …]`.
const GAP: &str = "[…";

/// Knows the secrets of a run, and finds them in every form in which they are looked for.
#[derive(Default)]
pub struct Redactor {
    /// Longest first, so that a secret that contains another is replaced whole.
    known: Vec<Known>,
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

impl Redactor {
    /// Looks for this secret from now on: as it is, percent-encoded, as JSON and as a shell's quotes write it, each of
    /// its lines by itself as well. Says whether it is long enough to be looked for.
    pub fn learn(&mut self, name: &str, value: &str) -> bool {
        let is_long = |text: &str| text.chars().count() >= SHORTEST;
        if !is_long(value) {
            return false;
        }
        let mark = format!("«secret:{name}»");
        // What is shown line by line never shows the whole of a key of many lines, and is without its controls.
        let lines = value.lines().map(str::trim).filter(|line| *line != value && is_long(line));
        let printable = crate::text::printable(value);
        // What is encoded already may be encoded once more.
        let (percent, json) =
            (crate::text::percent_encoded(value), serde_json::Value::from(value).to_string());
        let encoded = [percent.as_str(), &json[1..json.len() - 1]];
        for text in [value, &printable].into_iter().chain(lines).chain(encoded) {
            if is_long(text) && !self.known.iter().any(|known| known.text == text) {
                self.known.push(Known { text: text.to_owned(), mark: mark.clone() });
            }
        }
        self.known.sort_by_key(|known| std::cmp::Reverse(known.text.len()));
        true
    }

    /// The text with every secret replaced by its name, one that is cut off at the end of the text too.
    pub fn redact(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for known in &self.known {
            text = known.replaced(text);
        }
        text
    }

    /// Whether the text holds a secret.
    pub fn holds_secret(&self, text: &str) -> bool {
        self.known.iter().any(|known| {
            known.candidates(text).any(|at| matches!(known.found(text, at), Some(Found::Whole(_))))
        })
    }
}

/// What stands at a place of a text; each with where it ends.
enum Found {
    Whole(usize),
    /// So much of the beginning that it must be the secret, and then the end of what is shown.
    Beginning(usize),
}

impl Known {
    fn replaced(&self, text: String) -> String {
        let mut shown = String::new();
        let mut from = 0;
        for at in self.candidates(&text) {
            if at < from {
                continue;
            }
            if let Some(Found::Whole(end) | Found::Beginning(end)) = self.found(&text, at) {
                shown.push_str(&text[from..at]);
                shown.push_str(&self.mark);
                from = end;
            }
        }
        if from == 0 {
            return text;
        }
        shown.push_str(&text[from..]);
        shown
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
            let mut next = Vec::new();
            for end in ends {
                forms(&text[end..], letter, |length| {
                    if !next.contains(&(end + length)) {
                        next.push(end + length);
                    }
                });
            }
            if next.is_empty() {
                return None;
            }
            ends = next;
        }
        ends.into_iter().max().map(Found::Whole)
    }
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
