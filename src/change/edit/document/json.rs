//! JSON, with comments and trailing commas where the file has them. Source: RFC 8259.

use std::ops::Range;

use jsonc_parser::ast::Value as Node;
use jsonc_parser::common::Ranged as _;
use jsonc_parser::cst::{CstInputValue, CstObject, CstRootNode};
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use serde_json::{Map, Value};

use super::{Document, Fault};

pub(super) struct Json;

/// What a reader of JSON takes, and comments and trailing commas, which readers of configuration take as well.
const OPTIONS: ParseOptions = ParseOptions {
    allow_comments: true,
    allow_loose_object_property_names: false,
    allow_trailing_commas: true,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

fn parsed(text: &str) -> Result<Option<Node<'_>>, Fault> {
    let parsed = parse_to_ast(text, &CollectOptions::default(), &OPTIONS);
    parsed.map(|parsed| parsed.value).map_err(|error| Fault::Invalid(error.to_string()))
}

fn value(node: &Node<'_>) -> Result<Value, Fault> {
    Ok(match node {
        Node::StringLit(text) => Value::from(&*text.value),
        Node::NumberLit(number) => {
            let number = number.value.parse::<serde_json::Number>();
            Value::Number(number.map_err(|error| Fault::Invalid(error.to_string()))?)
        }
        Node::BooleanLit(flag) => Value::Bool(flag.value),
        Node::NullKeyword(_) => Value::Null,
        Node::Array(array) => Value::Array(array.elements.iter().map(value).collect::<Result<_, _>>()?),
        Node::Object(object) => {
            let mut map = Map::new();
            for property in &object.properties {
                let name = property.name.as_str();
                if map.insert(name.to_owned(), value(&property.value)?).is_some() {
                    return Err(Fault::Twice(name.to_owned()));
                }
            }
            Value::Object(map)
        }
    })
}

fn find<'n, 'text>(node: &'n Node<'text>, keys: &[&str]) -> Option<&'n Node<'text>> {
    keys.iter().try_fold(node, |node, key| {
        let Node::Object(object) = node else { return None };
        let property = object.properties.iter().find(|property| property.name.as_str() == *key)?;
        Some(&property.value)
    })
}

fn input(value: &Value) -> CstInputValue {
    match value {
        Value::Null => CstInputValue::Null,
        Value::Bool(flag) => CstInputValue::Bool(*flag),
        Value::Number(number) => CstInputValue::Number(number.to_string()),
        Value::String(text) => CstInputValue::String(text.clone()),
        Value::Array(items) => CstInputValue::Array(items.iter().map(input).collect()),
        Value::Object(fields) => {
            CstInputValue::Object(fields.iter().map(|(key, item)| (key.clone(), input(item))).collect())
        }
    }
}

/// A value in one line, with what is behind a `:` and a `,`.
fn line_of(value: &Value, space: &str) -> String {
    let joined = |items: Vec<String>| items.join(&format!(",{space}"));
    match value {
        Value::Array(items) => {
            format!("[{}]", joined(items.iter().map(|item| line_of(item, space)).collect()))
        }
        Value::Object(fields) => {
            let field = |(key, item): (&String, &Value)| {
                format!("{}:{space}{}", Value::from(key.as_str()), line_of(item, space))
            };
            format!("{{{}}}", joined(fields.iter().map(field).collect()))
        }
        other => other.to_string(),
    }
}

/// The text with the value, where the innermost of its objects that is there is in one line, which stays one; none where
/// that is written in several, or has comments.
fn in_one_line(text: &str, root: &Node<'_>, section: &[&str], key: &str, value: &Value) -> Option<String> {
    let Node::Object(root) = root else { return None };
    let keys: Vec<&str> = section.iter().copied().chain([key]).collect();
    let (mut object, mut space, mut depth) = (root, "", 0);
    let (at, property) = loop {
        if let Some(first) = object.properties.first() {
            // As the line is written: `{"a": 1}` or `{"a":1}`.
            space = if text[first.name.end()..first.value.start()].ends_with(' ') { " " } else { "" };
        }
        match object.properties.iter().find(|property| property.name.as_str() == keys[depth]) {
            Some(property) if depth + 1 == keys.len() => break (depth, Some(property)),
            Some(property) => match &property.value {
                Node::Object(inner) => {
                    object = inner;
                    depth += 1;
                }
                _ => return None,
            },
            None => break (depth, None),
        }
    };
    if text[object.range.start..object.range.end].contains(['\n', '\r']) {
        return None;
    }
    if let Some(property) = property {
        let (start, end) = (property.value.start(), property.value.end());
        return Some(format!("{}{}{}", &text[..start], line_of(value, space), &text[end..]));
    }
    let missing = keys[at + 1..].iter().rev().fold(value.clone(), |inner, key| {
        Value::Object(std::iter::once(((*key).to_owned(), inner)).collect())
    });
    let new = format!("{}:{space}{}", Value::from(keys[at]), line_of(&missing, space));
    let end = object.range.end - 1;
    let Some(last) = object.properties.last() else {
        // An empty document is not written in any way yet.
        let is_blank = text[object.range.start + 1..end].trim().is_empty();
        return (at > 0 && is_blank && !text.trim().contains('\n'))
            .then(|| format!("{}{new}{}", &text[..=object.range.start], &text[end..]));
    };
    let last = last.range.end;
    match text[last..end].trim() {
        "" => Some(format!("{},{space}{new}{}", &text[..last], &text[last..])),
        "," => {
            let comma = last + text[last..end].find(',')? + 1;
            Some(format!("{}{space}{new},{}", &text[..comma], &text[comma..]))
        }
        _ => None,
    }
}

impl Document for Json {
    fn tree(&self, text: &str) -> Result<Value, Fault> {
        match parsed(text)? {
            None => Ok(Value::Object(Map::new())),
            Some(node) => value(&node),
        }
    }

    fn span(&self, text: &str, keys: &[&str]) -> Option<Range<usize>> {
        let root = parsed(text).ok()??;
        let range = find(&root, keys)?.range();
        Some(range.start..range.end)
    }

    fn set(&self, text: &str, section: &[&str], key: &str, value: &Value) -> Result<String, Fault> {
        if let Some(root) = parsed(text)?
            && let Some(set) = in_one_line(text, &root, section, key, value)
        {
            return Ok(set);
        }
        let root = CstRootNode::parse(text, &OPTIONS).map_err(|error| Fault::Invalid(error.to_string()))?;
        let mut object = root.object_value_or_set();
        for name in section {
            object = object.object_value_or_create(name).ok_or(Fault::NotEditable)?;
        }
        match object.get(key) {
            Some(property) => property.set_value(input(value)),
            None => drop(object.append(key, input(value))),
        }
        Ok(root.to_string())
    }

    fn remove(&self, text: &str, keys: &[&str]) -> Result<String, Fault> {
        let root = CstRootNode::parse(text, &OPTIONS).map_err(|error| Fault::Invalid(error.to_string()))?;
        let (key, section) = keys.split_last().ok_or(Fault::NotEditable)?;
        let object = section
            .iter()
            .try_fold(root.object_value(), |object: Option<CstObject>, name| Some(object?.object_value(name)))
            .flatten();
        object.and_then(|object| object.get(key)).ok_or(Fault::NotEditable)?.remove();
        Ok(root.to_string())
    }

    fn without_bare(&self, text: &str, section: &[&str]) -> Option<String> {
        let inside = text[self.span(text, section)?].strip_prefix('{')?.strip_suffix('}')?;
        inside.trim().is_empty().then(|| self.remove(text, section).ok()).flatten()
    }
}
