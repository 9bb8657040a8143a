//! Text that others wrote, made safe to show.

use std::borrow::Cow;

use serde::Deserialize;
use zeroize::Zeroizing;

/// The line without anything that a terminal would obey instead of show: escape sequences (CSI, OSC, DCS and
/// their kin, in their 7-bit and 8-bit forms), control characters but the tab, and controls of the writing
/// direction. Source of the grammar: ECMA-48, section 5.
pub fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().all(|character| character == '\t' || !is_obeyed(character)) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    let mut state = State::Text;
    for character in text.chars() {
        state = state.after(character, &mut shown);
    }
    Cow::Owned(shown)
}

/// The same, but carriage returns stay: what stands between them overwrites each other.
pub fn printable_but_returns(line: &str) -> String {
    let parts: Vec<Cow<'_, str>> = line.split('\r').map(printable).collect();
    parts.join("\r")
}

/// What is seen in the end of a line in which carriage returns stayed.
pub fn on_screen(line: &str) -> &str {
    line.rsplit('\r').next().unwrap_or_default()
}

/// A text of several lines without anything that a terminal would obey, each by itself.
pub fn printable_lines(text: &str) -> String {
    let lines: Vec<Cow<'_, str>> = text.split('\n').map(printable).collect();
    lines.join("\n")
}

/// A text in one line, such as a summary that names a path or a command: a line ending in it is shown as `\n`, so that what
/// follows cannot be taken for a line of its own.
pub fn one_line(text: &str) -> Cow<'_, str> {
    if text.contains('\n') { Cow::Owned(text.replace('\n', "\\n")) } else { Cow::Borrowed(text) }
}

/// What is seen of a text, line ends left out, and where each byte of it is in the text; `None` if all of it is seen.
pub fn visible(text: &str) -> Option<(String, Vec<usize>)> {
    let is_hidden = |character: char| is_invisible(character) || character != '\t' && is_obeyed(character);
    if !text.chars().any(is_hidden) {
        return None;
    }
    let (mut seen, mut places, mut state) = (String::new(), Vec::new(), State::Text);
    for (at, character) in text.char_indices() {
        if is_invisible(character) {
            continue;
        }
        state = if character == '\n' { State::Text } else { state.after(character, &mut seen) };
        places.resize(seen.len(), at);
    }
    Some((seen, places))
}

/// A character that takes no place. Source: Unicode, `Default_Ignorable_Code_Point`, those without a meaning of their own.
fn is_invisible(character: char) -> bool {
    matches!(character,
        '\u{ad}' | '\u{34f}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{2065}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{e0000}'..='\u{e0fff}')
}

/// A character that acts instead of being seen.
pub fn is_obeyed(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Where in an escape sequence the text stands.
#[derive(Clone, Copy)]
enum State {
    Text,
    Escape,
    /// After `ESC` and at least one intermediate byte, such as the `(` of a character set.
    Intermediate,
    /// Parameters of a control sequence.
    Control,
    /// The body of an operating-system command or a device string: up to its terminator.
    Body,
    BodyEscape,
}

impl State {
    fn after(self, character: char, shown: &mut String) -> Self {
        match self {
            Self::Text => Self::in_text(character, shown),
            Self::Escape => match character {
                '[' => Self::Control,
                ']' | 'P' | 'X' | '^' | '_' => Self::Body,
                ' '..='/' => Self::Intermediate,
                '0'..='~' => Self::Text,
                _ => Self::in_text(character, shown),
            },
            Self::Intermediate => match character {
                ' '..='/' => Self::Intermediate,
                '0'..='~' => Self::Text,
                _ => Self::in_text(character, shown),
            },
            Self::Control => match character {
                ' '..='?' => Self::Control,
                '@'..='~' => Self::Text,
                _ => Self::in_text(character, shown),
            },
            Self::Body => match character {
                '\u{7}' | '\u{9c}' => Self::Text,
                '\u{1b}' => Self::BodyEscape,
                _ => Self::Body,
            },
            Self::BodyEscape if character == '\\' => Self::Text,
            Self::BodyEscape => Self::Escape.after(character, shown),
        }
    }

    fn in_text(character: char, shown: &mut String) -> Self {
        match character {
            '\u{1b}' => Self::Escape,
            '\u{9b}' => Self::Control,
            '\u{90}' | '\u{98}' | '\u{9d}' | '\u{9e}' | '\u{9f}' => Self::Body,
            _ => {
                if character == '\t' || !is_obeyed(character) {
                    shown.push(character);
                }
                Self::Text
            }
        }
    }
}

/// The text in quotes that systemd and a shell take off alike: in single ones; where it holds such itself, in
/// double ones with a backslash before `"`, `\\`, `$` and a back-tick. Source: systemd.exec(5), `EnvironmentFile=`.
pub fn quoted(text: &str) -> String {
    if !text.contains('\'') {
        return format!("'{text}'");
    }
    let mut quoted = String::from('"');
    for character in text.chars() {
        if matches!(character, '"' | '\\' | '$' | '`') {
            quoted.push('\\');
        }
        quoted.push(character);
    }
    quoted.push('"');
    quoted
}

/// Who reads what is quoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quoting {
    /// The dotenv of npm, Python and Ruby. systemd and shells read the same.
    Dotenv,
    /// systemd's `EnvironmentFile=`.
    Systemd,
    /// A POSIX shell.
    Shell,
}

impl Quoting {
    /// The text in quotes that all of these readers take off alike.
    ///
    /// # Errors
    /// When there are none for this text: why.
    pub fn quoted(self, text: &str) -> Result<String, &'static str> {
        let has = |letters: &[char]| text.contains(letters);
        if has(&['\0']) {
            return Err("it has a zero byte in it");
        }
        match self {
            // Source: `env_value_is_valid` of systemd.
            Self::Systemd if text.contains(|letter: char| is_control(letter)) => {
                return Err("systemd takes no control characters but tabs and line endings");
            }
            // Python decodes `\\` in every quotes and npm in none; Python replaces `${…}` even in single ones.
            Self::Dotenv if has(&['\\']) => return Err("the readers of dotenv files differ in backslashes"),
            Self::Dotenv if text.contains("${") => return Err("Python's dotenv replaces `${…}`"),
            Self::Dotenv if text.contains(|letter: char| is_control(letter) || letter == '\n') => {
                return Err("a value of a dotenv file is one line without control characters");
            }
            Self::Dotenv if has(&['\'']) && has(&['"', '$', '`']) => {
                return Err(
                    "the readers of dotenv files differ in a `'` together with `\"`, `$` or a back-tick",
                );
            }
            Self::Shell | Self::Systemd | Self::Dotenv => {}
        }
        Ok(quoted(text))
    }
}

fn is_control(letter: char) -> bool {
    letter.is_control() && letter != '\t' && letter != '\n'
}

/// The text in quotes; or `written`, if that reads as the text already.
pub fn quoted_as(text: &str, written: &str) -> String {
    let is_equal = unquoted(written).is_some_and(|value| *value == text);
    if is_equal { written.to_owned() } else { quoted(text) }
}

/// The value that systemd and a shell read alike from what is written after `KEY=`; `None` where they differ.
pub fn unquoted(written: &str) -> Option<Zeroizing<String>> {
    let inside = |quote: char| written.strip_prefix(quote)?.strip_suffix(quote);
    if let Some(text) = inside('\'') {
        return (!text.contains('\'')).then(|| Zeroizing::new(text.to_owned()));
    }
    let Some(text) = inside('"') else {
        let is_plain = |letter: char| letter.is_alphanumeric() || "_@%+=:,./?-".contains(letter);
        return written.chars().all(is_plain).then(|| Zeroizing::new(written.to_owned()));
    };
    let mut value = Zeroizing::new(String::with_capacity(text.len()));
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' | '$' | '`' => return None,
            '\\' => value.push(letters.next().filter(|escaped| matches!(escaped, '"' | '\\' | '$' | '`'))?),
            _ => value.push(letter),
        }
    }
    Some(value)
}

/// What is encoded in a part of a URL: all but letters, digits and `-._~`. Source: RFC 3986, section 2.3.
const ENCODED_IN_URLS: &percent_encoding::AsciiSet =
    &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The text percent-encoded, so that it can be any part of a URL.
pub fn percent_encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, ENCODED_IN_URLS).to_string()
}

/// The known name that a misspelt one is most like, if it is like one at all.
pub fn nearest<'names>(name: &str, known: impl IntoIterator<Item = &'names str>) -> Option<&'names str> {
    let distance = |candidate: &str| strsim::osa_distance(name, candidate);
    let nearest = known.into_iter().min_by_key(|candidate| distance(candidate))?;
    (distance(nearest) <= 1 + name.chars().count() / 4).then_some(nearest)
}

/// What is said of a step that the operator accepted.
pub fn accepted_as_it_is(why: Option<&str>) -> String {
    why.map_or_else(|| "accepted as it is".to_owned(), |why| format!("accepted as it is: {why}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn summary_is_one_line() {
        assert_eq!(one_line("make /a\nfile:x"), "make /a\\nfile:x");
        assert!(matches!(one_line("make /a"), Cow::Borrowed("make /a")));
    }

    #[test]
    fn plain_text_is_not_copied() {
        assert!(matches!(printable("día ✅\tok"), Cow::Borrowed("día ✅\tok")));
    }

    #[test]
    fn whatever_a_terminal_would_obey_is_gone() {
        for (given, shown) in [
            ("\u{1b}[1;31mred\u{1b}[0m", "red"),
            ("\u{1b}]0;title\u{7}after", "after"),
            ("\u{1b}]8;;http://x\u{1b}\\link\u{1b}]8;;\u{1b}\\", "link"),
            ("\u{1b}Pq#0\u{1b}\\sixel", "sixel"),
            ("\u{1b}(Bascii", "ascii"),
            ("\u{1b}cfull reset", "full reset"),
            ("\u{9b}2Jeight bit", "eight bit"),
            ("\u{9d}0;t\u{9c}eight bit", "eight bit"),
            ("be\u{7}ll \u{8}back\u{7f}", "bell back"),
            ("abc\rdef", "abcdef"),
            ("user\u{202e}txt.exe\u{2066}", "usertxt.exe"),
            ("\u{1b}", ""),
            ("\u{1b}[31", ""),
            ("\u{1b}[3\u{1b}[1mtwice", "twice"),
            ("\u{1b}éaccent", "éaccent"),
        ] {
            assert_eq!(printable(given), shown, "{given:?}");
        }
    }

    #[test]
    fn what_not_all_readers_of_a_format_take_alike_is_not_quoted() {
        for (text, dotenv, systemd, shell) in [
            ("two words", true, true, true),
            ("it's", true, true, true),
            ("it's $5", false, true, true),
            ("say \"it's\"", false, true, true),
            ("a\\b", false, true, true),
            ("${HOME}", false, true, true),
            ("two\nlines", false, true, true),
            ("\u{7}", false, false, true),
            ("\0", false, false, false),
        ] {
            let is_quoted =
                [Quoting::Dotenv, Quoting::Systemd, Quoting::Shell].map(|of| of.quoted(text).is_ok());
            assert_eq!(is_quoted, [dotenv, systemd, shell], "{text:?}");
        }
    }

    #[test]
    fn what_readers_take_differently_is_not_unquoted() {
        for (written, value) in [
            ("v", Some("v")),
            ("'v w'", Some("v w")),
            ("\"v\"", Some("v")),
            ("''", Some("")),
            ("a://b?c=d", Some("a://b?c=d")),
            ("", Some("")),
            ("a b", None),
            ("v # w", None),
            ("$v", None),
            ("\"$v\"", None),
            ("\"\\n\"", None),
            ("'a'b'", None),
            ("'", None),
        ] {
            assert_eq!(unquoted(written).as_deref().map(String::as_str), value, "{written}");
        }
    }

    proptest! {
        #[test]
        fn what_is_quoted_is_unquoted_again(text in "\\PC{0,32}") {
            prop_assert_eq!(&*unquoted(&quoted(&text)).unwrap(), &text);
        }

        #[test]
        fn nothing_that_acts_is_left(text in "(\\PC|[\u{1b}\u{9b}\u{7}\\[\\]()\\\\0-9;m\t\u{202e}]){0,64}") {
            let shown = printable(&text).into_owned();
            prop_assert!(shown.chars().all(|character| character == '\t' || !is_obeyed(character)));
            prop_assert_eq!(printable(&shown), shown.as_str());
        }
    }
}
