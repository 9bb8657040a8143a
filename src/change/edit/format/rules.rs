//! Formats in which a line is a key and a value. What their programs do alike is code here; what they differ in is a
//! field of [`Rules`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use memchr::memmem;

use super::super::lines::Lines;
use super::{
    Inclusion, Is, Key, KeyLine, Refusal, Sections, Syntax, behind_key, continued, ends_in_backslash,
    logical, one, skip_blank,
};

/// How many neighbours are read for whether they have whitespace around the sign.
const NEIGHBOURS: usize = 500;

/// What a program's files are like.
pub(super) struct Rules {
    /// What begins a comment as the first thing in a line.
    pub(super) comments: &'static [u8],
    /// What begins a comment behind a value.
    pub(super) trailing: Trailing,
    /// In what a value may be put, so that no comment begins in it.
    pub(super) quotes: &'static [u8],
    /// In which of them a backslash escapes.
    pub(super) escaping: &'static [u8],
    /// A backslash outside of quotes escapes one, too.
    pub(super) is_escaped_outside: bool,
    /// What makes one logical line of several.
    pub(super) continuation: Continuation,
    /// What may be between a key and its value; `""` is whitespace alone.
    pub(super) signs: &'static [&'static str],
    /// What is between them in a new line; none for what most neighbours have.
    pub(super) separator: Option<&'static str>,
    /// Which spellings of a key are the same.
    pub(super) keys: Spelling,
    /// A key may be there without a value.
    pub(super) is_bare_allowed: bool,
    /// Which of several lines of a key counts.
    pub(super) repeated: Repeated,
    /// The keys of which every line counts, as `keys` folds them.
    pub(super) lists: &'static [&'static str],
    /// The sections, if there are any.
    pub(super) sections: Option<SectionRules>,
    /// Why this cannot be a key, as the program reads it.
    pub(super) refuse_key: Option<fn(&str) -> Option<Refusal>>,
    /// Why this cannot be the value of a key, as the program reads it.
    pub(super) refuse_value: Option<RefuseValue>,
    /// How a file includes others.
    pub(super) inclusion: Option<Inclusion>,
}

/// Why a program does not read this value of this key as it is written.
pub(super) type RefuseValue = fn(&str, &[u8]) -> Option<Refusal>;

/// What begins a comment behind a value, outside of quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trailing {
    /// Nothing: a `#` belongs to the value.
    Nothing,
    /// These, wherever they are.
    Anywhere(&'static [u8]),
    /// These behind whitespace.
    Spaced(&'static [u8]),
    /// Programs differ: a value that has one of these is refused, unless it begins with quotes around them.
    Unknown(&'static [u8]),
}

/// What makes one logical line of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Continuation {
    /// Nothing.
    Nothing,
    /// A backslash at the end.
    Backslash,
    /// The same, and comments in between are passed over.
    BackslashOverComments,
    /// Lines below that are indented; comments and blank lines in between are passed over.
    Indented,
    /// Lines below that are indented deeper than the key is.
    Deeper,
    /// A backslash; and whether a deeper line continues is what programs differ in, so it is refused.
    Unknown,
}

/// Which spellings of a name are the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// None but itself.
    Exact,
    /// In upper and lower case.
    AnyCase,
    /// In upper and lower case, with whitespace or without.
    AnyCaseAndBlanks,
    /// In upper and lower case, however much whitespace is between its words.
    AnyCaseAndWidth,
    /// With dashes or underscores.
    AnyDash,
    /// With dots or slashes, and with a `-` before it.
    Sysctl,
    /// In upper and lower case up to a quote: `remote "Origin"`.
    AnyCaseBeforeQuote,
    /// Programs differ: it is found as it is, and beside another spelling no new one is added.
    Unknown,
}

/// Which of several lines of a key counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeated {
    /// All of them, or it is an error, or it depends on the key.
    Refused,
    /// The last.
    Last,
    /// An empty value resets what is above it. Of what is below it, as for `Refused`.
    Reset,
}

/// What the sections of a format are like.
pub(super) struct SectionRules {
    /// Which spellings of a name are the same.
    pub(super) names: Spelling,
    /// Several sections of one name are one.
    pub(super) merges: bool,
    /// Nothing is set outside of a section.
    pub(super) only: bool,
    /// Headers are read as comments, but for those that begin so.
    pub(super) headings_but: Option<&'static [&'static str]>,
}

impl Spelling {
    /// The name in the one form that all spellings of it have.
    fn folded(self, name: &[u8]) -> Cow<'_, [u8]> {
        let lower = || name.to_ascii_lowercase();
        let words = || name.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        Cow::Owned(match self {
            Self::Exact => return Cow::Borrowed(name),
            Self::AnyCase => lower(),
            Self::AnyCaseAndBlanks => words().collect::<Vec<_>>().concat().to_ascii_lowercase(),
            Self::AnyCaseAndWidth => words().collect::<Vec<_>>().join(&b' ').to_ascii_lowercase(),
            Self::AnyDash => name.iter().map(|byte| if *byte == b'-' { b'_' } else { *byte }).collect(),
            Self::Sysctl => {
                let name = name.strip_prefix(b"-").unwrap_or(name);
                let has_slashes = name.iter().find(|byte| matches!(byte, b'.' | b'/')) == Some(&b'/');
                let turned = |byte: &u8| match byte {
                    b'/' if has_slashes => b'.',
                    b'.' if has_slashes => b'/',
                    other => *other,
                };
                name.iter().map(turned).collect()
            }
            Self::AnyCaseBeforeQuote => {
                let quote = name.iter().position(|byte| *byte == b'"').unwrap_or(name.len());
                let (before, behind) = name.split_at(quote);
                [&before.to_ascii_lowercase(), behind].concat()
            }
            // What any program may take for the same.
            Self::Unknown => {
                let joined = words().collect::<Vec<_>>().concat().to_ascii_lowercase();
                joined.into_iter().map(|byte| if byte == b'-' { b'_' } else { byte }).collect()
            }
        })
    }

    /// Whether both are one name.
    pub(super) fn is_same(self, one: &[u8], other: &[u8]) -> bool {
        match self {
            Self::Exact | Self::Unknown => one == other,
            _ => self.folded(one) == self.folded(other),
        }
    }

    /// Whether some program may take them for one name.
    pub(super) fn is_doubtful(self, one: &[u8], other: &[u8]) -> bool {
        self == Self::Unknown && one != other && self.folded(one) == self.folded(other)
    }
}

/// The name in a section's header.
pub(super) fn header(body: &[u8]) -> Option<&[u8]> {
    let inside = body.trim_ascii_start().strip_prefix(b"[")?;
    let close = inside.iter().rposition(|byte| *byte == b']')?;
    let (name, behind) = (inside[..close].trim_ascii(), inside[close + 1..].trim_ascii_start());
    let alone = behind.is_empty() || behind.starts_with(b"#") || behind.starts_with(b";");
    (alone && !name.is_empty()).then_some(name)
}

/// The sign in a line that is plainly `key = value` or `key: value`, and whether whitespace is before it.
pub(super) fn sign_of(body: &[u8]) -> Option<(u8, bool)> {
    let text = body.trim_ascii();
    let at = text.iter().position(|byte| matches!(byte, b'=' | b':'))?;
    let (key, sign, behind) = (text[..at].trim_ascii_end(), text[at], &text[at + 1..]);
    let spaced = key.len() < at;
    let follows = behind.first().is_none_or(u8::is_ascii_whitespace);
    // A key of several words is one only where whitespace sets it off: `log file = x`.
    let is_key = !key.is_empty() && (spaced && follows || !key.iter().any(u8::is_ascii_whitespace));
    let is_plain = is_key && !key.iter().any(|byte| b"\"'<>{}()$&|;".contains(byte));
    // `http://…`, `a:b` and `::1` are values of something else.
    (is_plain && (sign == b'=' || follows)).then_some((sign, spaced))
}

/// Why a backslash at the end of a value cannot be written; `is_escaped` where a backslash escapes another.
fn backslash_at_end(value: &[u8], is_escaped: bool) -> Option<Refusal> {
    ends_in_backslash(value).then(|| {
        let way = if is_escaped {
            "write two backslashes for one, in a string of a script `\"\\\\\\\\\"`"
        } else {
            "leave the backslash at its end out"
        };
        Refusal::new("a backslash at its end continues it in the next line", way)
    })
}

/// Where the quoted part ends that begins at `at`; none if it does not close.
pub(super) fn behind_quotes(text: &[u8], at: usize, escapes: bool) -> Option<usize> {
    let quote = text[at];
    let mut at = at + 1;
    while at < text.len() {
        match text[at] {
            b'\\' if escapes => at += 2,
            byte if byte == quote => return Some(at + 1),
            _ => at += 1,
        }
    }
    None
}

fn indentation(body: &[u8]) -> usize {
    body.len() - body.trim_ascii_start().len()
}

impl Rules {
    fn is_passed_over(&self, body: &[u8]) -> bool {
        body.trim_ascii_start().first().is_none_or(|first| self.comments.contains(first))
    }

    /// The line behind the last below `number` that `continues`, whatever blank lines and comments are between.
    fn behind_indented(&self, lines: &Lines<'_>, number: usize, continues: impl Fn(&[u8]) -> bool) -> usize {
        let mut end = number + 1;
        for next in number + 1..lines.count() {
            let body = lines.body(next);
            if self.is_passed_over(body) {
                continue;
            }
            if !continues(body) {
                break;
            }
            end = next + 1;
        }
        end
    }

    /// Where what is neither a quoted part nor a comment behind it ends.
    fn comment_at(&self, text: &[u8], from: usize) -> usize {
        let (signs, is_anywhere) = match self.trailing {
            Trailing::Nothing => return text.len(),
            Trailing::Anywhere(signs) => (signs, true),
            Trailing::Spaced(signs) => (signs, false),
            Trailing::Unknown(signs) => {
                // Quotes further behind hide a sign from some programs only.
                let is_quoted = text.get(from).is_some_and(|first| self.quotes.contains(first));
                let behind = if is_quoted { self.behind_quotes(text, from) } else { None }.unwrap_or(from);
                let sign = text[behind..].iter().position(|byte| signs.contains(byte));
                return sign.map_or(text.len(), |sign| behind + sign);
            }
        };
        let mut at = from;
        while at < text.len() {
            let byte = text[at];
            if byte == b'\\' && self.is_escaped_outside {
                at += 2;
                continue;
            }
            if self.quotes.contains(&byte) {
                let Some(end) = self.behind_quotes(text, at) else { return text.len() };
                at = end;
                continue;
            }
            let is_spaced = || at == 0 || text[at - 1].is_ascii_whitespace();
            if signs.contains(&byte) && (is_anywhere || is_spaced()) {
                return at;
            }
            at += 1;
        }
        text.len()
    }

    /// Where the quoted part ends that begins at `at`.
    fn behind_quotes(&self, text: &[u8], at: usize) -> Option<usize> {
        behind_quotes(text, at, self.escaping.contains(&text[at]))
    }

    /// The key of a text, as it is written.
    fn written_key<'t>(&self, text: &'t [u8], signs: &[&str]) -> &'t [u8] {
        let text = text.trim_ascii_start();
        let is_end = |at: &usize| {
            signs.iter().any(|sign| match *sign {
                "" => text[*at].is_ascii_whitespace(),
                sign => text[*at..].starts_with(sign.as_bytes()),
            })
        };
        let end = (0..text.len()).find(is_end).unwrap_or_else(|| self.comment_at(text, 0));
        text[..end].trim_ascii_end()
    }

    /// Where what follows the key begins, if the text begins with it.
    fn behind_name(&self, text: &[u8], key: Key<'_>) -> Option<usize> {
        if matches!(self.keys, Spelling::Exact | Spelling::Unknown) {
            return behind_key(text, key.name);
        }
        let written = match &key.separator {
            Some(separator) => self.written_key(text, &[separator.trim()]),
            None => self.written_key(text, self.signs),
        };
        self.keys.is_same(written, key.name.as_bytes()).then(|| indentation(text) + written.len())
    }
}

impl Syntax for Rules {
    fn end_of(&self, lines: &Lines<'_>, number: usize) -> usize {
        match self.continuation {
            Continuation::Nothing => number + 1,
            Continuation::Backslash | Continuation::Unknown => continued(lines, number),
            Continuation::BackslashOverComments => {
                let mut last = number;
                let mut is_continued = ends_in_backslash(lines.body(number));
                while is_continued && last + 1 < lines.count() {
                    last += 1;
                    let body = lines.body(last);
                    if body.trim_ascii_start().is_empty() || !self.is_passed_over(body) {
                        is_continued = ends_in_backslash(body);
                    }
                }
                last + 1
            }
            Continuation::Indented => self.behind_indented(lines, number, |body| indentation(body) > 0),
            Continuation::Deeper => {
                let body = lines.body(number);
                if header(body).is_some() {
                    return number + 1;
                }
                let own = indentation(body);
                self.behind_indented(lines, number, |body| indentation(body) > own)
            }
        }
    }

    fn continues_by_depth(&self) -> bool {
        matches!(self.continuation, Continuation::Indented | Continuation::Deeper)
    }

    fn is_one_line(&self, text: &[u8]) -> bool {
        let is_plain = || match self.trailing {
            Trailing::Unknown(_) => self.comment_at(text, 0) == text.len(),
            _ => true,
        };
        !text.contains(&b'\n')
            && (self.continuation == Continuation::Nothing || !ends_in_backslash(text))
            && is_plain()
    }

    fn lines_with(&self, lines: &Lines<'_>, key: &str) -> Option<Vec<usize>> {
        let bytes = lines.bytes();
        let has = |text: &[u8]| memmem::find(bytes, text).is_some();
        let is_by_line = match self.continuation {
            Continuation::Nothing => true,
            Continuation::Backslash | Continuation::Unknown => !has(b"\\\n") && !has(b"\\\r\n"),
            _ => false,
        };
        if !is_by_line || !matches!(self.keys, Spelling::Exact | Spelling::Unknown) {
            return None;
        }
        let mut numbers: Vec<usize> =
            memmem::find_iter(bytes, key.as_bytes()).map(|at| lines.number_at(at)).collect();
        numbers.dedup();
        Some(numbers)
    }

    fn comments(&self) -> &'static [u8] {
        self.comments
    }

    fn is_comment_behind(&self, behind: &[u8]) -> bool {
        let first = behind.first();
        match self.trailing {
            Trailing::Nothing => false,
            Trailing::Anywhere(signs) | Trailing::Spaced(signs) | Trailing::Unknown(signs) => {
                first.is_some_and(|first| signs.contains(first))
            }
        }
    }

    fn folded<'k>(&self, key: &'k [u8]) -> Cow<'k, [u8]> {
        if self.keys == Spelling::Unknown { Cow::Borrowed(key) } else { self.keys.folded(key) }
    }

    fn value_at(&self, text: &[u8], key: Key<'_>) -> Option<usize> {
        // Indented, it continues what is above it, or nothing.
        if self.continuation == Continuation::Indented && indentation(text) > 0 {
            return None;
        }
        let at = self.behind_name(text, key)?;
        let own;
        let signs = match key.separator {
            Some(separator) => {
                own = [separator.trim()];
                &own[..]
            }
            None => self.signs,
        };
        let sign = skip_blank(text, at);
        let found = signs
            .iter()
            .filter(|sign| !sign.is_empty())
            .find(|known| text[sign..].starts_with(known.as_bytes()));
        if let Some(found) = found {
            return Some(skip_blank(text, sign + found.len()));
        }
        let is_end = sign == text.len() || self.comment_at(text, at) == sign;
        if signs.contains(&"") && (sign > at || at == text.len()) {
            return Some(sign);
        }
        (self.is_bare_allowed && key.separator.is_none() && is_end).then_some(at)
    }

    fn value(&self, text: &[u8], at: usize) -> Range<usize> {
        // Of what has several lines all is the value.
        let is_one = !text.contains(&b'\n') || !matches!(self.continuation, Continuation::Deeper);
        let end = match self.trailing {
            Trailing::Unknown(_) => text.len(),
            _ if is_one => self.comment_at(text, at),
            _ => text.len(),
        };
        at..at.max(text[..end].trim_ascii_end().len())
    }

    fn is_open(&self, value: &[u8]) -> bool {
        // Where the program is not known, only what begins with a quote is quoted for certain.
        if let Trailing::Unknown(_) = self.trailing {
            let quote = value.first().filter(|first| self.quotes.contains(first));
            return quote.is_some_and(|quote| !value[1..].contains(quote));
        }
        let mut at = 0;
        while at < value.len() {
            at = match value[at] {
                b'\\' if self.is_escaped_outside => at + 2,
                byte if self.quotes.contains(&byte) => match self.behind_quotes(value, at) {
                    Some(end) => end,
                    None => return true,
                },
                _ => at + 1,
            };
        }
        false
    }

    fn meaning<'v>(&self, value: &'v [u8]) -> Cow<'v, [u8]> {
        if !value.contains(&b'\n') {
            return Cow::Borrowed(value);
        }
        let bodies = value.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        match self.continuation {
            Continuation::Nothing => Cow::Borrowed(value),
            Continuation::Indented => {
                let parts: Vec<&[u8]> =
                    bodies.filter(|line| !self.is_passed_over(line)).map(<[u8]>::trim_ascii).collect();
                Cow::Owned(parts.join(&b' '))
            }
            Continuation::Deeper => {
                let is_comment = |line: &[u8]| !line.trim_ascii().is_empty() && self.is_passed_over(line);
                let parts = bodies.filter(|line| !is_comment(line));
                let parts: Vec<&[u8]> =
                    parts.map(|line| line[..self.comment_at(line, 0)].trim_ascii()).collect();
                Cow::Owned(parts.join(&b'\n'))
            }
            Continuation::Backslash | Continuation::BackslashOverComments | Continuation::Unknown => {
                let passes_over = self.continuation == Continuation::BackslashOverComments;
                let mut joined = Vec::new();
                for (number, line) in bodies.enumerate() {
                    let is_comment = !line.trim_ascii().is_empty() && self.is_passed_over(line);
                    if passes_over && number > 0 && is_comment {
                        continue;
                    }
                    let is_continued = ends_in_backslash(line);
                    joined.extend_from_slice(if is_continued { &line[..line.len() - 1] } else { line });
                    if is_continued && passes_over {
                        joined.push(b' ');
                    }
                }
                Cow::Owned(joined.trim_ascii().to_vec())
            }
        }
    }

    fn separator(&self, lines: &Lines<'_>, region: Option<&[Range<usize>]>) -> String {
        if let Some(separator) = self.separator {
            return separator.to_owned();
        }
        let all = 0..lines.count();
        let near = region.and_then(|parts| self.usual_separator(lines, parts));
        near.or_else(|| self.usual_separator(lines, &[all])).unwrap_or("=").to_owned()
    }

    fn missing_sign(&self, lines: &Lines<'_>, behind_key: &[u8], key: Key<'_>) -> Option<String> {
        let is_bare = self.is_bare_allowed
            && key.separator.is_none()
            && self.behind_name(behind_key, key)? == behind_key.len();
        is_bare.then(|| self.separator(lines, None))
    }

    fn written(&self, key: &str, separator: &str, value: &[u8]) -> Vec<u8> {
        match value {
            [] if self.is_bare_allowed => key.as_bytes().to_vec(),
            [] => [key, separator.trim_end()].concat().into_bytes(),
            value => [key.as_bytes(), separator.as_bytes(), value].concat(),
        }
    }

    fn refuse_key(&self, key: &str) -> Option<Refusal> {
        self.refuse_key?(key)
    }

    fn refuse_value(&self, key: &str, value: &[u8]) -> Option<Refusal> {
        let own = self.refuse_value.and_then(|refuse| refuse(key, value));
        own.or_else(|| self.refuse_cut(value))
    }

    fn way_on(&self) -> &'static str {
        if self.keys == Spelling::Unknown { UNKNOWN } else { "use `config::line` for the whole line" }
    }

    fn refuse(&self, lines: &Lines<'_>) -> Option<(usize, &'static str)> {
        if self.keys != Spelling::Unknown || memchr::memchr(b'{', lines.bytes()).is_none() {
            return None;
        }
        let texts = logical(self, lines, 0..lines.count()).filter(|line| line.is == Is::Text);
        let mut numbers = texts.map(|line| line.lines.start);
        let begins = |number: &usize| lines.body(*number).trim_ascii_end().ends_with(b"{");
        numbers.find(begins).map(|number| (number, "a block begins in it, which is another language"))
    }

    fn doubt(&self, lines: &Lines<'_>, line: &KeyLine) -> Option<Doubt> {
        let text = lines.bodies(&line.lines);
        if let Trailing::Unknown(_) = self.trailing {
            let at = self.comment_at(text, line.value_at);
            if at < text.len() {
                return Some(Doubt::Comment(line.lines.start, char::from(text[at])));
            }
        }
        if self.continuation != Continuation::Unknown {
            return None;
        }
        let own = indentation(lines.body(line.lines.start));
        let mut below = line.lines.end..lines.count();
        let next = below.find(|number| !self.is_passed_over(lines.body(*number)))?;
        let body = lines.body(next);
        (indentation(body) > own && header(body).is_none()).then_some(Doubt::Indented(next))
    }

    fn doubtful_spelling(&self, lines: &Lines<'_>, parts: &[Range<usize>], key: Key<'_>) -> Option<usize> {
        if self.keys != Spelling::Unknown || key.separator.is_some() {
            return None;
        }
        let texts = parts.iter().flat_map(|part| logical(self, lines, part.clone()));
        let mut numbers = texts.filter(|line| line.is == Is::Text).map(|line| line.lines.start);
        let is_doubtful = |number: &usize| {
            let written = self.written_key(lines.body(*number), self.signs);
            self.keys.is_doubtful(written, key.name.as_bytes())
        };
        numbers.find(is_doubtful)
    }

    fn choose(
        &self,
        lines: &Lines<'_>,
        key: &str,
        found: Vec<KeyLine>,
    ) -> Result<Option<KeyLine>, [usize; 2]> {
        match self.repeated {
            Repeated::Last if !self.adds_up(key) => Ok(found.into_iter().next_back()),
            Repeated::Reset => behind_reset(lines, key, found),
            Repeated::Last | Repeated::Refused => one(lines, key, found),
        }
    }

    fn resets(&self) -> bool {
        self.repeated == Repeated::Reset
    }

    fn adds_up(&self, key: &str) -> bool {
        self.lists.iter().any(|list| list.as_bytes() == &*self.keys.folded(key.as_bytes()))
    }

    fn sections(&self) -> Option<&dyn Sections> {
        self.sections.as_ref().map(|sections| sections as &dyn Sections)
    }

    fn inclusion(&self) -> Option<&Inclusion> {
        self.inclusion.as_ref()
    }
}

/// The way on where the program is not known.
const UNKNOWN: &str = "name the program's format with the option `format` (docs/config-formats.md lists them), or write the \
                       whole line with `config::line`";

/// An empty value resets what lines above it said, so only what is below the last of them counts. With the reset right
/// above it a line is one entry: it would add to the others without.
fn behind_reset(lines: &Lines<'_>, key: &str, found: Vec<KeyLine>) -> Result<Option<KeyLine>, [usize; 2]> {
    let is_reset = |line: &KeyLine| lines.bodies(&line.lines)[line.value_at..].trim_ascii().is_empty();
    let Some(reset) = found.iter().rposition(is_reset) else { return one(lines, key, found) };
    let above = found[reset].clone();
    match one(lines, key, found.into_iter().skip(reset + 1).collect())? {
        Some(line) if line.lines.start == above.lines.end => {
            let before = lines.span(&above.lines).len();
            Ok(Some(KeyLine { lines: above.lines.start..line.lines.end, value_at: before + line.value_at }))
        }
        Some(line) => Ok(Some(line)),
        None => Ok(Some(above)),
    }
}

/// What is read in another way by another program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Doubt {
    /// In this line a value has this in it, which begins a comment or does not.
    Comment(usize, char),
    /// This line is indented below the entry and continues it or does not.
    Indented(usize),
}

impl Rules {
    /// Why a part of this would not belong to the value.
    fn refuse_cut(&self, value: &[u8]) -> Option<Refusal> {
        let is_unknown = self.keys == Spelling::Unknown;
        let way = |without: &'static str| match self.quotes.first() {
            _ if is_unknown => Cow::Borrowed(UNKNOWN),
            Some(b'\'') => Cow::Borrowed("put it in single quotes: `\"'a b'\"`"),
            Some(_) => Cow::Borrowed("put it in double quotes: `\"\\\"a b\\\"\"`"),
            None => Cow::Borrowed(without),
        };
        if value.trim_ascii().len() < value.len() {
            let why = "whitespace at its ends does not belong to a value";
            return Some(Refusal::new(why, way("leave it out: in this format no quotes keep it")));
        }
        let at = self.comment_at(value, 0);
        // Whether whitespace is before the first byte, the separator decides.
        let is_comment = at < value.len() && (at > 0 || !matches!(self.trailing, Trailing::Spaced(_)));
        if is_comment {
            let sign = char::from(value[at]);
            let why = match self.trailing {
                Trailing::Unknown(_) => {
                    format!("whether a `{sign}` in it begins a comment depends on the program")
                }
                Trailing::Spaced(_) => format!("a `{sign}` behind whitespace begins a comment"),
                _ => format!("a `{sign}` begins a comment"),
            };
            return Some(Refusal::new(why, way("leave it out: in this format no quotes keep it")));
        }
        if !matches!(
            self.continuation,
            Continuation::Backslash | Continuation::BackslashOverComments | Continuation::Unknown
        ) {
            return None;
        }
        let refusal = backslash_at_end(value, self.is_escaped_outside)?;
        Some(if is_unknown { Refusal { way: Cow::Borrowed(UNKNOWN), ..refusal } } else { refusal })
    }

    fn usual_separator(&self, lines: &Lines<'_>, parts: &[Range<usize>]) -> Option<&'static str> {
        let mut votes: BTreeMap<&'static str, usize> = BTreeMap::new();
        let texts = parts
            .iter()
            .flat_map(|part| logical(self, lines, part.clone()))
            .filter(|line| line.is == Is::Text);
        for line in texts.take(NEIGHBOURS) {
            if let Some((sign, spaced)) = sign_of(lines.body(line.lines.start)) {
                let separator = match (sign, spaced) {
                    (b'=', false) => "=",
                    (b'=', true) => " = ",
                    (_, false) => ": ",
                    (_, true) => " : ",
                };
                if self.signs.contains(&separator.trim()) {
                    *votes.entry(separator).or_default() += 1;
                }
            }
        }
        votes.into_iter().max_by_key(|(_, count)| *count).map(|(separator, _)| separator)
    }
}

impl Sections for SectionRules {
    fn mark(&self) -> Option<u8> {
        Some(b'[')
    }

    fn header<'b>(&self, body: &'b [u8]) -> Option<&'b [u8]> {
        header(body)
    }

    fn is(&self, header: &[u8], section: &str) -> bool {
        self.names.is_same(header, section.as_bytes())
    }

    fn folded(&self, section: &str) -> String {
        if self.names == Spelling::Unknown {
            return section.to_owned();
        }
        String::from_utf8_lossy(&self.names.folded(section.as_bytes())).into_owned()
    }

    fn is_doubtful(&self, header: &[u8], section: &str) -> bool {
        self.names.is_doubtful(header, section.as_bytes())
    }

    fn merges(&self) -> bool {
        self.merges
    }

    fn only(&self) -> bool {
        self.only
    }

    fn is_heading(&self, header: &[u8]) -> bool {
        let begins = |known: &&str| header.to_ascii_uppercase().starts_with(known.as_bytes());
        self.headings_but.is_some_and(|but| !but.iter().any(begins))
    }
}
