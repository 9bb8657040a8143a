//! The settings of a plan: a map of plain values, overridden by files and on the command line.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde_json::Value;

use super::limits::{self, LARGEST_TEXT};
use super::source::{Script, Source};
use super::value::{json_of, value_of};
use crate::exit_code::ExitCode;
use crate::failure::{Failure, sentence};

/// The script that defines them.
pub const FILE: &str = "settings.rhai";

/// The settings in force.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    values: BTreeMap<String, Value>,
}

impl Settings {
    /// Reads a plan's settings, then those of `--settings` files, then the overrides, each checked for its
    /// name and type; last, `{name}` within a string is replaced by that setting.
    pub fn read(source: &Source, files: &[Script], overrides: &BTreeMap<String, Value>) -> Result<Self> {
        let plan = if source.has_script(FILE) { Some(source.script(FILE)?) } else { None };
        Self::of(plan.as_ref(), files, overrides)
    }

    pub(super) fn of(
        plan: Option<&Script>,
        files: &[Script],
        overrides: &BTreeMap<String, Value>,
    ) -> Result<Self> {
        let mut values = plan.map(evaluate).transpose()?.unwrap_or_default();
        for file in files {
            for (key, value) in evaluate(file)? {
                replace(&mut values, &key, value, &file.name)?;
            }
        }
        for (key, value) in overrides {
            replace(&mut values, key, value.clone(), "--set")?;
        }
        Ok(Self { values: expand_all(&values)? })
    }

    /// The value of a setting.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    /// Their names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// The text of a setting, if it is one.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).and_then(Value::as_str)
    }

    /// The module under which scripts see them.
    pub(super) fn module(&self) -> rhai::Module {
        let mut module = rhai::Module::new();
        for (name, value) in &self.values {
            module.set_var(name.as_str(), value_of(value));
        }
        module
    }

    /// Refuses a name that no setting has, and a value of another type than the setting has.
    pub fn check_override(&self, name: &str, value: Option<&Value>, origin: &str) -> Result<(), Failure> {
        match (self.values.get(name), value) {
            (None, _) => Err(unknown(&self.values, name, origin)),
            (Some(known), Some(value)) => check_type(name, known, value, origin),
            (Some(_), None) => Ok(()),
        }
    }

    /// The value that `text`, as typed after `--set NAME=`, means for a setting of this type.
    pub fn typed(&self, name: &str, text: &str) -> Result<Value> {
        let Some(known) = self.values.get(name) else { bail!(unknown(&self.values, name, "--set")) };
        let wrong = || {
            Failure::new(format!("--set {name}: expected {}, found `{text}`", type_name(known)))
                .exit(ExitCode::USAGE)
        };
        let value = match known {
            Value::String(_) => Value::from(text),
            Value::Number(number) if number.is_i64() => {
                Value::from(text.parse::<i64>().map_err(|_| wrong())?)
            }
            Value::Number(_) => Value::from(text.parse::<f64>().map_err(|_| wrong())?),
            Value::Bool(_) => Value::from(text.parse::<bool>().map_err(|_| wrong())?),
            _ => serde_json::from_str(text).map_err(|_| wrong().hint("write lists and maps as JSON"))?,
        };
        if type_name(&value) != type_name(known) {
            bail!(wrong());
        }
        Ok(value)
    }
}

/// Evaluates a settings script: an engine with no primitives, because settings are plain values.
fn evaluate(script: &Script) -> Result<BTreeMap<String, Value>> {
    let engine = limits::plain();
    let value: rhai::Dynamic = engine
        .eval(&script.text)
        .map_err(|error| super::error::plain(&error, &script.name, &script.text, ExitCode::USAGE))?;
    let Some(map) = value.try_cast::<rhai::Map>() else {
        bail!(
            Failure::new(format!("`{}` must end in a map of settings", script.name))
                .exit(ExitCode::USAGE)
                .hint("make its last expression a map: #{ name: value, … }")
        );
    };
    let mut values = BTreeMap::new();
    for (key, value) in map {
        let value = json_of(&value).map_err(|error| {
            Failure::new(format!("`{}`: the setting `{key}`: {error}", script.name, error = sentence(&error)))
                .exit(ExitCode::USAGE)
        })?;
        values.insert(key.to_string(), value);
    }
    Ok(values)
}

fn replace(values: &mut BTreeMap<String, Value>, key: &str, value: Value, origin: &str) -> Result<()> {
    let Some(known) = values.get(key) else { bail!(unknown(values, key, origin)) };
    check_type(key, known, &value, origin)?;
    values.insert(key.to_owned(), value);
    Ok(())
}

fn check_type(name: &str, known: &Value, value: &Value, origin: &str) -> Result<(), Failure> {
    if type_name(known) == type_name(value) {
        return Ok(());
    }
    let (known, given) = (type_name(known), type_name(value));
    Err(Failure::new(format!("{origin}: the setting `{name}` must be a {known}, not a {given}"))
        .exit(ExitCode::USAGE))
}

fn unknown(values: &BTreeMap<String, Value>, name: &str, origin: &str) -> Failure {
    let failure = Failure::new(format!("{origin}: unknown setting `{name}`")).exit(ExitCode::USAGE);
    let known = || values.keys().map(String::as_str);
    match crate::text::nearest(name, known()) {
        Some(near) => failure.hint(format!("did you mean `{near}`?")),
        None if values.is_empty() => {
            failure.hint("the plan has no settings: they are in `settings.rhai` beside it")
        }
        None => failure.hint(format!("the settings are {}", known().collect::<Vec<_>>().join(", "))),
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float",
        Value::Number(_) => "int",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "map",
    }
}

fn expand_all(values: &BTreeMap<String, Value>) -> Result<BTreeMap<String, Value>> {
    let mut expanded = BTreeMap::new();
    for (key, value) in values {
        expanded.insert(key.clone(), expand_value(values, value, &mut vec![key.clone()])?);
    }
    Ok(expanded)
}

fn expand_value(values: &BTreeMap<String, Value>, value: &Value, path: &mut Vec<String>) -> Result<Value> {
    Ok(match value {
        Value::String(text) => Value::from(expand_text(values, text, path)?),
        Value::Array(items) => {
            let items: Result<Vec<_>> = items.iter().map(|item| expand_value(values, item, path)).collect();
            Value::Array(items?)
        }
        Value::Object(fields) => {
            let mut object = serde_json::Map::new();
            for (key, item) in fields {
                object.insert(key.clone(), expand_value(values, item, path)?);
            }
            Value::Object(object)
        }
        plain => plain.clone(),
    })
}

fn expand_text(values: &BTreeMap<String, Value>, text: &str, path: &mut Vec<String>) -> Result<String> {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        expanded.push_str(&rest[..open]);
        let behind = &rest[open + 1..];
        let name = behind.split_once('}').map(|(name, _)| name);
        let Some(name) = name.filter(|name| is_name(name)) else {
            expanded.push('{');
            rest = behind;
            continue;
        };
        let Some(value) = values.get(name) else {
            let within = path.last().cloned().unwrap_or_default();
            bail!(unknown(values, name, &format!("the setting `{within}`")));
        };
        if path.iter().any(|seen| seen == name) {
            bail!(Failure::new(format!("the setting `{name}` refers to itself")).exit(ExitCode::USAGE));
        }
        path.push(name.to_owned());
        match expand_value(values, value, path)? {
            Value::String(text) => expanded.push_str(&text),
            plain @ (Value::Bool(_) | Value::Number(_)) => expanded.push_str(&plain.to_string()),
            _ => bail!(
                Failure::new(format!(
                    "the setting `{name}` is a {} and cannot be inserted into a string",
                    type_name(value)
                ))
                .exit(ExitCode::USAGE)
            ),
        }
        path.pop();
        if expanded.len() > LARGEST_TEXT {
            bail!(
                Failure::new(format!("the setting `{name}` makes a string too large")).exit(ExitCode::USAGE)
            );
        }
        rest = &behind[name.len() + 1..];
    }
    expanded.push_str(rest);
    Ok(expanded)
}

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(overrides: &[(&str, &str)]) -> Result<Settings> {
        let text =
            r#"#{ user: "kim", home: "/home/{user}", port: 80, url: "http://{user}:{port}/{}", on: true }"#;
        let script = Script { name: FILE.to_owned(), text: text.to_owned() };
        let plain = Settings::of(Some(&script), &[], &BTreeMap::new())?;
        let mut words = BTreeMap::new();
        for (key, text) in overrides {
            words.insert((*key).to_owned(), plain.typed(key, text)?);
        }
        Settings::of(Some(&script), &[], &words)
    }

    #[test]
    fn names_within_strings_are_expanded_after_the_overrides() {
        let settings = settings(&[("user", "ann"), ("port", "8080")]).unwrap();
        assert_eq!(settings.text("home"), Some("/home/ann"));
        assert_eq!(settings.text("url"), Some("http://ann:8080/{}"));
    }

    #[test]
    fn an_override_is_checked_for_its_name_and_type() {
        let error = settings(&[("prot", "1")]).unwrap_err();
        assert_eq!(error.downcast_ref::<Failure>().unwrap().hints, ["did you mean `port`?"]);
        assert!(
            settings(&[("port", "eighty")]).unwrap_err().to_string().contains("expected int, found `eighty`")
        );
        assert!(settings(&[("on", "maybe")]).is_err());
    }
}
