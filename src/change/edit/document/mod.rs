//! Documents whose values have types and are nested, JSON and TOML: the value of a key is an entry, and nothing but its
//! text is changed. What comes out is read again: it must hold what the document held, with this one entry as desired.

mod json;
mod toml;

use std::ops::Range;

use anyhow::{Result, bail};
use serde_json::{Map, Value};

use super::format::Format;
use crate::failure::{Failure, FailureKind};

const BYTE_ORDER_MARK: &str = "\u{feff}";
/// The one key of an object that stands for a value which JSON does not have: a date, or a number that is not finite.
const ALONE: &str = "\0";

/// Why a document cannot be edited.
#[derive(Debug)]
enum Fault {
    /// It is not of its format.
    Invalid(String),
    /// A key is there twice in one object.
    Twice(String),
    /// The value cannot be written in this format.
    Unwritable(&'static str),
    /// The key is a table of its own.
    IsTable,
    /// There is no place for the entry.
    NotEditable,
}

/// What a format of documents answers. Keys lead from the root to a value, each into the object that the one before names.
trait Document {
    /// All that is in it.
    fn tree(&self, text: &str) -> Result<Value, Fault>;

    /// Where the text of a value is.
    fn span(&self, text: &str, keys: &[&str]) -> Option<Range<usize>>;

    /// The document with this value of a key; the section is made where it is missing.
    fn set(&self, text: &str, section: &[&str], key: &str, value: &Value) -> Result<String, Fault>;

    /// The document without a value.
    fn remove(&self, text: &str, keys: &[&str]) -> Result<String, Fault>;

    /// The document without a section, if there is nothing in it, not even a comment.
    fn without_bare(&self, text: &str, section: &[&str]) -> Option<String>;
}

fn of(format: Format) -> Option<&'static dyn Document> {
    match format {
        Format::Json => Some(&json::Json),
        Format::Toml => Some(&toml::Toml),
        _ => None,
    }
}

/// A value that is only known as it is written.
fn written_alone(text: String) -> Value {
    Value::Object(Map::from_iter([(ALONE.to_owned(), Value::String(text))]))
}

/// How such a value is written.
fn alone(value: &Value) -> Option<&str> {
    value.as_object()?.get(ALONE)?.as_str()
}

/// A value as scripts get it: what JSON does not have as it is written.
pub fn plain(value: Value) -> Value {
    if let Some(text) = alone(&value) {
        return Value::from(text);
    }
    match value {
        Value::Array(items) => Value::Array(items.into_iter().map(plain).collect()),
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(|(key, item)| (key, plain(item))).collect())
        }
        other => other,
    }
}

/// All that is in a document.
///
/// # Errors
/// When it is not of its format, or the format has no documents.
pub fn tree(format: Format, bytes: &[u8], path: &str) -> Result<Value> {
    let Some(place) = Place::of(format, None, "", path, "it".to_owned())? else {
        bail!(Failure::new(format!("`{path}` has no nested values")).kind(FailureKind::Refused));
    };
    place.tree(&Source::of(bytes, path)?.text)
}

/// The name of the section below these keys.
pub fn section_name(keys: &[String]) -> String {
    joined(&keys.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The name of a section, as in the header of a table of TOML.
fn joined(section: &[&str]) -> String {
    let keys = section.iter().map(|key| toml_edit::Key::new(*key).display_repr().into_owned());
    keys.collect::<Vec<_>>().join(".")
}

/// The text of a file, with line endings of one kind.
struct Source {
    text: String,
    has_mark: bool,
    has_returns: bool,
}

impl Source {
    fn of(bytes: &[u8], path: &str) -> Result<Self> {
        let refused =
            |why: &str| Failure::new(format!("cannot edit `{path}`: {why}")).kind(FailureKind::Encoding);
        let text = std::str::from_utf8(bytes).map_err(|_| refused("it is not UTF-8"))?;
        let (has_mark, text) = match text.strip_prefix(BYTE_ORDER_MARK) {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let has_returns = text.contains("\r\n");
        let plain = text.replace("\r\n", "\n");
        if has_returns && plain.matches('\n').count() != text.matches("\r\n").count() {
            bail!(refused("it has line endings of two kinds"));
        }
        Ok(Self { text: plain, has_mark, has_returns })
    }

    fn bytes(&self, text: &str) -> Vec<u8> {
        let text = if self.has_returns { text.replace('\n', "\r\n") } else { text.to_owned() };
        let mark = if self.has_mark { BYTE_ORDER_MARK } else { "" };
        format!("{mark}{text}").into_bytes()
    }
}

/// An edit of one value: the document with it, and what the value was and is, however it is written.
pub(super) struct Exchanged {
    pub(super) bytes: Vec<u8>,
    pub(super) before: Option<Vec<u8>>,
    pub(super) after: Option<Vec<u8>>,
    /// How many tables were made for it, the innermost first.
    pub(super) tables: usize,
}

/// What was made for a value, and goes with it.
#[derive(Clone, Copy, Default)]
pub(super) struct MadeFor {
    pub(super) tables: usize,
    pub(super) file: bool,
}

/// Where a value is in a document.
pub(super) struct Place<'e> {
    document: &'static dyn Document,
    section: Vec<String>,
    key: &'e str,
    /// Its name in messages.
    shown: String,
    path: &'e str,
}

impl<'e> Place<'e> {
    /// The place of a key; none in a file that is read by lines.
    ///
    /// # Errors
    /// When the section is not named as a table's header is.
    pub(super) fn of(
        format: Format,
        section: Option<&str>,
        key: &'e str,
        path: &'e str,
        shown: String,
    ) -> Result<Option<Self>> {
        let Some(document) = of(format) else { return Ok(None) };
        let mut place = Self { document, section: Vec::new(), key, shown, path };
        if let Some(name) = section {
            let keys = toml_edit::Key::parse(name).unwrap_or_default();
            place.section = keys.iter().map(|key| key.get().to_owned()).collect();
            let right = joined(&place.section());
            if right != name {
                let failure = Failure::new(format!("invalid section `{}`", name.escape_debug()))
                    .kind(FailureKind::Usage);
                bail!(if right.is_empty() {
                    failure.hint("name it by its keys with dots between them: `log-opts`, `a.\"b.c\".d`")
                } else {
                    failure.hint(format!("write it as `{right}`"))
                });
            }
        }
        Ok(Some(place))
    }

    fn section(&self) -> Vec<&str> {
        self.section.iter().map(String::as_str).collect()
    }

    fn keys(&self) -> Vec<&str> {
        self.section.iter().map(String::as_str).chain([self.key]).collect()
    }

    fn failure(&self, fault: &Fault) -> Failure {
        let (shown, path) = (&self.shown, self.path);
        let refused = |why: &str| {
            Failure::new(format!("cannot edit {shown} in `{path}`: {why}")).kind(FailureKind::Refused)
        };
        match fault {
            Fault::Invalid(why) => {
                refused(why).hint("correct the file first, or name its format with the option `format`")
            }
            Fault::Twice(key) => Failure::new(format!("`{key}` is set twice in one object of `{path}`"))
                .kind(FailureKind::Duplicate)
                .hint("remove one of them"),
            Fault::Unwritable(why) => refused(why),
            Fault::IsTable => {
                refused("it is a table of its own").hint("set its keys, with its name as `section`")
            }
            Fault::NotEditable => {
                refused("there is no place for it").hint("use `config::line` for a whole line")
            }
        }
    }

    fn tree(&self, text: &str) -> Result<Value> {
        self.document.tree(text).map_err(|fault| self.failure(&fault).into())
    }

    /// The value in a tree.
    ///
    /// # Errors
    /// When what should hold it is not an object.
    fn value<'t>(&self, tree: &'t Value) -> Result<Option<&'t Value>> {
        let mut here = tree;
        for (number, key) in self.keys().into_iter().enumerate() {
            let Value::Object(fields) = here else {
                let at = joined(&self.section()[..number]);
                let what = if number == 0 { "the document".to_owned() } else { format!("`{at}`") };
                let path = self.path;
                bail!(
                    Failure::new(format!(
                        "cannot edit {} in `{path}`: {what} has no keys, it is {}",
                        self.shown,
                        kind(here)
                    ))
                    .kind(FailureKind::Refused)
                    .hint("use `config::line` for a whole line")
                );
            };
            if alone(here).is_some() {
                return Ok(None);
            }
            match fields.get(key) {
                Some(inner) => here = inner,
                None => return Ok(None),
            }
        }
        Ok(Some(here))
    }

    /// How many of the section's tables are missing in a tree.
    fn missing(&self, tree: &Value) -> usize {
        let mut here = Some(tree);
        let is_missing = |name: &&String| {
            here = here.and_then(|value| value.get(name.as_str()));
            here.is_none()
        };
        self.section.iter().filter(is_missing).count()
    }

    /// What an entry is, however it is written.
    fn text(&self, value: &Value) -> Vec<u8> {
        let mut value = value.clone();
        value.sort_all_objects();
        format!("{}: {value}", Value::from(self.key)).into_bytes()
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a bool",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "a value",
    }
}

/// A tree with a value at these keys, or without it.
fn with(tree: &Value, keys: &[&str], value: Option<&Value>) -> Value {
    let mut tree = tree.clone();
    let Some((key, section)) = keys.split_last() else { return tree };
    let mut here = &mut tree;
    for name in section {
        let Value::Object(fields) = here else { return tree };
        if value.is_none() && !fields.contains_key(*name) {
            return tree;
        }
        here = fields.entry((*name).to_owned()).or_insert_with(|| Value::Object(Map::new()));
    }
    if let Value::Object(fields) = here {
        match value {
            Some(value) => drop(fields.insert((*key).to_owned(), value.clone())),
            None => drop(fields.shift_remove(*key)),
        }
    }
    tree
}

impl Place<'_> {
    /// The value in this document.
    ///
    /// # Errors
    /// When the document is not of its format.
    pub(super) fn value_in(&self, bytes: &[u8]) -> Result<Option<Value>> {
        let tree = self.tree(&Source::of(bytes, self.path)?.text)?;
        Ok(self.value(&tree)?.cloned())
    }

    /// What the value in this document is, however it is written; none if it is not there.
    pub(super) fn text_in(&self, bytes: &[u8]) -> Result<Option<Vec<u8>>> {
        let tree = self.tree(&Source::of(bytes, self.path)?.text)?;
        Ok(self.value(&tree)?.map(|value| self.text(value)))
    }

    /// The document with this value, or without one; `None` if it is so already.
    pub(super) fn edited(&self, bytes: &[u8], new: Option<&Value>) -> Result<Option<Exchanged>> {
        let before = Source::of(bytes, self.path)?;
        let tree = self.tree(&before.text)?;
        let old = self.value(&tree)?;
        if old == new {
            return Ok(None);
        }
        let keys = self.keys();
        let edited = match new {
            Some(value) => self.document.set(&before.text, &self.section(), self.key, value),
            None => self.document.remove(&before.text, &keys),
        };
        let after = edited.map_err(|fault| self.failure(&fault))?;
        if self.tree(&after).ok().as_ref() != Some(&with(&tree, &keys, new)) {
            bail!(
                Failure::new(format!(
                    "cannot write {} to `{}`: it would not be read back as desired",
                    self.shown, self.path
                ))
                .kind(FailureKind::Refused)
                .hint("use `config::line` for a whole line")
            );
        }
        let tables = if new.is_some() { self.missing(&tree) } else { 0 };
        Ok(Some(Exchanged {
            bytes: before.bytes(&after),
            before: old.map(|value| self.text(value)),
            after: new.map(|value| self.text(value)),
            tables,
        }))
    }

    /// The document `now` with the value as it was in `before`, and without the tables that were made for it, unless there
    /// is something else in them. Where the text around it is as it was, it comes back to the byte.
    pub(super) fn undone(&self, now: &[u8], before: &[u8], made: MadeFor) -> Result<Vec<u8>> {
        let (now, before) = (Source::of(now, self.path)?, Source::of(before, self.path)?);
        let (tree, tree_before) = (self.tree(&now.text)?, self.tree(&before.text)?);
        let (old, here) = (self.value(&tree_before)?, self.value(&tree)?);
        if old == here {
            return Ok(now.bytes(&now.text));
        }
        let keys = self.keys();
        let desired = with(&tree, &keys, old);
        let mut bare = desired.clone();
        for outer in 0..made.tables.min(self.section.len()) {
            let section = &self.section()[..self.section.len() - outer];
            if bare.pointer(&pointer(section)).and_then(Value::as_object).is_some_and(Map::is_empty) {
                bare = with(&bare, section, None);
            }
        }
        if old.is_none() && made.file && bare.as_object().is_some_and(Map::is_empty) {
            return Ok(Vec::new());
        }
        let is_right = |text: &String| {
            self.document.tree(text).is_ok_and(|tree| tree == desired || old.is_none() && tree == bare)
        };
        let edited = as_text(self, &now.text, &before.text, (old, here)).into_iter().flatten().find(is_right);
        let mut edited = match (edited, old) {
            (Some(text), _) => text,
            (None, Some(value)) => {
                let set = self.document.set(&now.text, &self.section(), self.key, value);
                set.map_err(|fault| self.failure(&fault))?
            }
            (None, None) => self.document.remove(&now.text, &keys).map_err(|fault| self.failure(&fault))?,
        };
        if !is_right(&edited) {
            bail!(self.failure(&Fault::NotEditable));
        }
        if old.is_none() {
            let tables = (0..made.tables.min(self.section.len())).map(|outer| self.section.len() - outer);
            for table in tables {
                let section = &self.section()[..table];
                let tree = self.tree(&edited)?;
                match self.document.without_bare(&edited, section) {
                    Some(without) if self.tree(&without)? == with(&tree, section, None) => edited = without,
                    _ => break,
                }
            }
        }
        Ok(now.bytes(&edited))
    }
}

fn pointer(section: &[&str]) -> String {
    section.iter().fold(String::new(), |mut text, key| {
        text.push('/');
        text.push_str(&key.replace('~', "~0").replace('/', "~1"));
        text
    })
}

/// The ways to undo an edit in the text: the value as it was written in place of the one that is there, and what the edit
/// made of the text from before reverted, wherever it is by now.
fn as_text(
    place: &Place<'_>,
    now: &str,
    before: &str,
    (old, here): (Option<&Value>, Option<&Value>),
) -> [Option<String>; 3] {
    let (document, keys) = (place.document, place.keys());
    let exchanged = || {
        let (then, now_at) = (document.span(before, &keys)?, document.span(now, &keys)?);
        Some(format!("{}{}{}", &now[..now_at.start], &before[then], &now[now_at.end..]))
    };
    let forward = match (old, here) {
        (None, Some(value)) => document.set(before, &place.section(), place.key, value).ok(),
        (Some(_), None) => document.remove(before, &keys).ok(),
        _ => None,
    };
    let Some(forward) = forward else { return [exchanged(), None, None] };
    let (removed, inserted) = splice(before, &forward);
    let behind = forward.len() - inserted.end;
    let reverted = |at: usize| {
        let (above, rest) = now.split_at_checked(at)?;
        let below = rest.strip_prefix(&forward[inserted.clone()])?;
        Some(format!("{above}{}{below}", &before[removed.clone()]))
    };
    let is_same_above = now.starts_with(&forward[..inserted.start]);
    let is_same_below = now.ends_with(&forward[inserted.end..]);
    let beside = || {
        let (then, now_at) = (document.span(&forward, &keys)?, document.span(now, &keys)?);
        (now_at.start + inserted.start).checked_sub(then.start)
    };
    [
        beside().and_then(reverted),
        is_same_above.then_some(inserted.start).and_then(reverted),
        is_same_below.then(|| (now.len() - behind).checked_sub(inserted.len())).flatten().and_then(reverted),
    ]
}

/// Where two texts differ: in the one and in the other.
fn splice(one: &str, two: &str) -> (Range<usize>, Range<usize>) {
    let same = |(left, right): &(char, char)| left == right;
    let start: usize = one.chars().zip(two.chars()).take_while(same).map(|(left, _)| left.len_utf8()).sum();
    let (rest, other) = (&one[start..], &two[start..]);
    let end: usize =
        rest.chars().rev().zip(other.chars().rev()).take_while(same).map(|(left, _)| left.len_utf8()).sum();
    (start..one.len() - end, start..two.len() - end)
}

#[cfg(test)]
mod tests;
