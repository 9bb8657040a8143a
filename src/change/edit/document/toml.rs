//! TOML: a section is a table, named as in its header.

use std::ops::Range;

use serde_json::{Map, Number, Value};
use toml_edit::{Array, Datetime, Document as Parsed, DocumentMut, InlineTable, Item, Table, TableLike};

use super::{Document, Fault, written_alone};

pub(super) struct Toml;

fn invalid(error: &toml_edit::TomlError) -> Fault {
    Fault::Invalid(error.message().to_owned())
}

fn parsed(text: &str) -> Result<Parsed<&str>, Fault> {
    Parsed::parse(text).map_err(|error| invalid(&error))
}

fn tree_of(table: &dyn TableLike) -> Value {
    let mut map = Map::new();
    for (key, item) in table.iter() {
        map.insert(key.to_owned(), value(item));
    }
    Value::Object(map)
}

fn value(item: &Item) -> Value {
    match item {
        Item::None => Value::Null,
        Item::Value(value) => plain(value),
        Item::Table(table) => tree_of(table),
        Item::ArrayOfTables(tables) => Value::Array(tables.iter().map(|table| tree_of(table)).collect()),
    }
}

fn plain(value: &toml_edit::Value) -> Value {
    match value {
        toml_edit::Value::String(text) => Value::from(text.value().as_str()),
        toml_edit::Value::Integer(number) => Value::from(*number.value()),
        toml_edit::Value::Float(number) => match Number::from_f64(*number.value()) {
            Some(number) => Value::Number(number),
            None => written_alone(number.value().to_string()),
        },
        toml_edit::Value::Boolean(flag) => Value::Bool(*flag.value()),
        toml_edit::Value::Datetime(time) => written_alone(time.value().to_string()),
        toml_edit::Value::Array(items) => Value::Array(items.iter().map(plain).collect()),
        toml_edit::Value::InlineTable(table) => tree_of(table),
    }
}

/// The value as TOML; an error for null, which TOML does not have.
fn written(value: &Value) -> Result<toml_edit::Value, Fault> {
    if let Some(text) = super::alone(value) {
        return Ok(match text.parse::<Datetime>() {
            Ok(time) => time.into(),
            Err(_) => text.parse::<f64>().map_err(|_| Fault::NotEditable)?.into(),
        });
    }
    Ok(match value {
        Value::Null => return Err(Fault::Unwritable("TOML has no null")),
        Value::Bool(flag) => (*flag).into(),
        Value::Number(number) => match number.as_i64() {
            Some(number) => number.into(),
            None => number.as_f64().ok_or(Fault::NotEditable)?.into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => items.iter().map(written).collect::<Result<Array, _>>()?.into(),
        Value::Object(fields) => {
            let mut table = InlineTable::new();
            for (key, item) in fields {
                table.insert(key, written(item)?);
            }
            table.into()
        }
    })
}

fn find<'t>(root: &'t Table, keys: &[&str]) -> Option<&'t Item> {
    let (first, rest) = keys.split_first()?;
    rest.iter().try_fold(root.get(first)?, |item, key| item.as_table_like()?.get(key))
}

/// Adds a table at the end: what is at the end of the file stays above it.
fn appended(text: &str, section: &[&str], key: &str, value: &Value) -> Result<String, Fault> {
    let mut table = Table::new();
    table.insert(key, Item::Value(written(value)?));
    let above = if text.trim().is_empty() || text.ends_with("\n\n") { "" } else { "\n" };
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    Ok(format!("{text}{end}{above}[{}]\n{table}", super::joined(section)))
}

/// Sets a key of a section below this table, which is made where it is missing.
fn insert(
    table: &mut dyn TableLike,
    is_inline: bool,
    section: &[&str],
    key: &str,
    value: &Value,
) -> Result<(), Fault> {
    let Some((first, rest)) = section.split_first() else {
        let mut new = written(value)?;
        match table.get_mut(key) {
            Some(Item::Value(old)) => {
                *new.decor_mut() = old.decor().clone();
                *old = new;
            }
            Some(Item::Table(_) | Item::ArrayOfTables(_)) => return Err(Fault::IsTable),
            Some(Item::None) | None => {
                // What is before the closing brace stays there.
                if let Some(last) = table.iter_mut().last().and_then(|(_, item)| item.as_value_mut())
                    && is_inline
                {
                    let behind = last.decor().suffix().cloned().unwrap_or_default();
                    last.decor_mut().set_suffix("");
                    new = new.decorated(" ", behind);
                }
                table.insert(key, Item::Value(new));
            }
        }
        return Ok(());
    };
    if !table.contains_key(first) {
        table.insert(first, toml_edit::table());
    }
    let inner = table.get_mut(first).ok_or(Fault::NotEditable)?;
    let is_inline = inner.is_inline_table();
    insert(inner.as_table_like_mut().ok_or(Fault::NotEditable)?, is_inline, rest, key, value)
}

/// An edited text without an end of its last line, if the text from before had none.
fn ended_alike(before: &str, mut text: String) -> String {
    if !before.is_empty() && !before.ends_with('\n') && text.ends_with('\n') {
        text.pop();
    }
    text
}

impl Document for Toml {
    fn tree(&self, text: &str) -> Result<Value, Fault> {
        Ok(tree_of(parsed(text)?.as_table()))
    }

    fn span(&self, text: &str, keys: &[&str]) -> Option<Range<usize>> {
        let document = parsed(text).ok()?;
        find(document.as_table(), keys)?.as_value()?.span()
    }

    fn set(&self, text: &str, section: &[&str], key: &str, value: &Value) -> Result<String, Fault> {
        let document = parsed(text)?;
        if !section.is_empty() && find(document.as_table(), section).is_none() {
            let appended = appended(text, section, key, value)?;
            if self.tree(&appended).is_ok() {
                return Ok(ended_alike(text, appended));
            }
        }
        let mut document = document.into_mut();
        insert(document.as_table_mut(), false, section, key, value)?;
        Ok(ended_alike(text, document.to_string()))
    }

    fn remove(&self, text: &str, keys: &[&str]) -> Result<String, Fault> {
        let mut document = text.parse::<DocumentMut>().map_err(|error| invalid(&error))?;
        let (key, section) = keys.split_last().ok_or(Fault::NotEditable)?;
        let mut table: &mut dyn TableLike = document.as_table_mut();
        for name in section {
            table = table.get_mut(name).and_then(Item::as_table_like_mut).ok_or(Fault::NotEditable)?;
        }
        match table.get(key) {
            Some(Item::Table(inner)) if !inner.is_empty() => return Err(Fault::IsTable),
            Some(Item::ArrayOfTables(_)) => return Err(Fault::IsTable),
            _ => drop(table.remove(key)),
        }
        Ok(document.to_string())
    }

    fn without_bare(&self, text: &str, section: &[&str]) -> Option<String> {
        let document = parsed(text).ok()?;
        let table = match find(document.as_table(), section)? {
            Item::Table(table) if table.is_empty() => table,
            Item::Value(toml_edit::Value::InlineTable(table)) if table.is_empty() => {
                return self.remove(text, section).ok();
            }
            _ => return None,
        };
        let header = table.span()?;
        let start = text[..header.start].rfind('\n').map_or(0, |end| end + 1);
        let end = text[header.start..].find('\n').map_or(text.len(), |end| header.start + end + 1);
        let (above, below) = (&text[..start], &text[end..]);
        let is_alone = text[start..end].trim() == format!("[{}]", super::joined(section));
        let is_noted =
            above.trim_end_matches(' ').lines().last().is_some_and(|line| line.trim().starts_with('#'));
        // The blank line that was made with it.
        let above = above.strip_suffix("\n\n").map_or(above, |_| &above[..above.len() - 1]);
        (is_alone && !is_noted).then(|| format!("{above}{below}"))
    }
}
