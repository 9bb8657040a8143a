//! A JSON or TOML file that was edited, as the keys that were set and removed in it.

use anyhow::Result;
use serde_json::{Map, Value};

use super::edit::MOST_EDITS;
use super::literal;
use crate::change::{
    Asked, DesiredEntry, EntryKind, FileEntry, Format, document_tree, is_document, recognise, section_name,
};

/// A key that is otherwise.
struct Edit {
    section: Vec<String>,
    key: String,
    /// None if it is gone.
    value: Option<Value>,
}

/// The calls of `config::` that make `after` of `before`, byte for byte and without any effect when they are made again;
/// `None` if there are none, or the file has no keys.
pub(super) fn edits(path: &str, before: &str, after: &str) -> Option<Vec<String>> {
    if !is_document(path.as_ref(), None) {
        return None;
    }
    let format = recognise(path.as_ref(), before.as_bytes(), Asked::default()).ok()?;
    let tree = |text: &str| document_tree(format, text.as_bytes(), path).ok();
    let (old, new) = (tree(before)?, tree(after)?);
    // A new object is written key by key, or as one value.
    [true, false].into_iter().find_map(|is_by_key| {
        let mut edits = Vec::new();
        differ(&old, &new, is_by_key, &mut Vec::new(), &mut edits);
        if edits.is_empty() || edits.len() > MOST_EDITS {
            return None;
        }
        let mut current = before.as_bytes().to_vec();
        for edit in &edits {
            current = edit.made(format, &current, path).ok()??;
        }
        let is_stable = |edit: &Edit| matches!(edit.made(format, after.as_bytes(), path), Ok(None));
        let is_right = current == after.as_bytes() && edits.iter().all(is_stable);
        is_right.then(|| edits.iter().map(|edit| edit.code(path)).collect::<Option<_>>()).flatten()
    })
}

/// What differs: first what is gone, then what is set.
fn differ(old: &Value, new: &Value, is_by_key: bool, section: &mut Vec<String>, edits: &mut Vec<Edit>) {
    let (Value::Object(old), Value::Object(new)) = (old, new) else { return };
    let nothing = Value::Object(Map::new());
    let gone = old.keys().filter(|key| !new.contains_key(*key));
    edits.extend(gone.map(|key| Edit { section: section.clone(), key: key.clone(), value: None }));
    for (key, value) in new.iter().filter(|(key, value)| old.get(*key) != Some(*value)) {
        let inner = match (old.get(key), value) {
            (Some(inner @ Value::Object(_)), Value::Object(_)) => Some(inner),
            (None, Value::Object(fields)) if is_by_key && !fields.is_empty() => Some(&nothing),
            _ => None,
        };
        if let Some(inner) = inner {
            section.push(key.clone());
            differ(inner, value, is_by_key, section, edits);
            section.pop();
        } else {
            edits.push(Edit { section: section.clone(), key: key.clone(), value: Some(value.clone()) });
        }
    }
}

impl Edit {
    fn section(&self) -> Option<String> {
        (!self.section.is_empty()).then(|| section_name(&self.section))
    }

    /// The document with it: `None` if it is so already.
    fn made(&self, format: Format, text: &[u8], path: &str) -> Result<Option<Vec<u8>>> {
        let kind = EntryKind::Line { key: self.key.clone(), separator: None };
        let entry = FileEntry { section: self.section(), comment: "#".to_owned(), format, kind };
        let value = self.value.as_ref().map(Value::to_string);
        let desired = value.as_ref().map_or(DesiredEntry::Absent, |text| DesiredEntry::Text(text.as_bytes()));
        Ok(entry.edited(text, desired, path)?.map(|edited| edited.bytes))
    }

    fn code(&self, path: &str) -> Option<String> {
        let section = self.section().map(|section| ("section", literal::string(&section)));
        let options = literal::options(section.as_slice());
        let (path, key) = (literal::string(path), literal::string(&self.key));
        Some(match &self.value {
            Some(value) => format!("config::set({path}, {key}, {}{options});", written(value)?),
            None => format!("config::remove({path}, {key}{options});"),
        })
    }
}

/// A value as Rhai reads it; none if it has no such value.
fn written(value: &Value) -> Option<String> {
    Some(match value {
        Value::Null => "()".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => match number.as_i64() {
            Some(number) => number.to_string(),
            None => Some(format!("{:?}", number.as_f64()?)).filter(|text| !text.contains(['e', 'i', 'N']))?,
        },
        Value::String(text) => literal::string(text),
        Value::Array(items) => {
            let items = items.iter().map(written).collect::<Option<Vec<_>>>()?;
            format!("[{}]", items.join(", "))
        }
        Value::Object(fields) if fields.is_empty() => "#{}".to_owned(),
        // A name may be a reserved word.
        Value::Object(fields) => {
            let field = |(key, item): (&String, &Value)| {
                // A date or a number that scripts do not have.
                if key.contains('\0') {
                    return None;
                }
                Some(format!("{}: {}", literal::string(key), written(item)?))
            };
            let fields = fields.iter().map(field).collect::<Option<Vec<_>>>()?;
            format!("#{{ {} }}", fields.join(", "))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAEMON: &str = "{\n    \"log-driver\": \"json-file\",\n    \"log-opts\": {\n        \"max-size\": \"10m\"\n    },\n    \"debug\": true\n}\n";

    fn of(path: &str, before: &str, after: &str) -> Vec<String> {
        edits(path, before, after).expect("calls")
    }

    #[test]
    fn keys_of_json_are_set_and_removed() {
        let path = "/etc/docker/daemon.json";
        let after = DAEMON.replace("\"10m\"", "\"1g\",\n        \"max-file\": \"3\"").replace(
            "    \"debug\": true\n",
            "    \"dns\": [\"1.1.1.1\"],\n    \"own\": {\n        \"ratio\": 0.5\n    }\n",
        );
        assert_eq!(
            of(path, DAEMON, &after),
            [
                "config::remove(\"/etc/docker/daemon.json\", \"debug\");",
                "config::set(\"/etc/docker/daemon.json\", \"max-size\", \"1g\", #{ section: \"log-opts\" });",
                "config::set(\"/etc/docker/daemon.json\", \"max-file\", \"3\", #{ section: \"log-opts\" });",
                "config::set(\"/etc/docker/daemon.json\", \"dns\", [\"1.1.1.1\"]);",
                "config::set(\"/etc/docker/daemon.json\", \"ratio\", 0.5, #{ section: \"own\" });",
            ]
        );
        // On one line, as that is written.
        assert_eq!(
            of(path, "{\"a\": 1}\n", "{\"a\": 1, \"b\": {\"c\": null}}\n"),
            ["config::set(\"/etc/docker/daemon.json\", \"c\", (), #{ section: \"b\" });"]
        );
        assert_eq!(edits(path, "{\"a\": 1}\n", "{\"a\": 1, \"b\": {\"c\":null}}\n"), None);
    }

    #[test]
    fn keys_of_toml_are_set_in_their_tables() {
        let path = "/root/.cargo/config.toml";
        let before = "[build]\njobs = 2 # two\n\n[net.\"a.b\"]\nretry = 1\n";
        let after = "[build]\njobs = 4 # two\n\n[net.\"a.b\"]\nretry = 1\noffline = true\n";
        assert_eq!(
            of(path, before, after),
            [
                "config::set(\"/root/.cargo/config.toml\", \"jobs\", 4, #{ section: \"build\" });",
                "config::set(\"/root/.cargo/config.toml\", \"offline\", true, #{ section: \"net.\\\"a.b\\\"\" });",
            ]
        );
        assert_eq!(
            of(path, before, &format!("{before}\n[term]\ncolor = \"never\"\n")),
            ["config::set(\"/root/.cargo/config.toml\", \"color\", \"never\", #{ section: \"term\" });"]
        );
    }

    #[test]
    fn what_no_key_makes_byte_for_byte_is_none() {
        let path = "/etc/docker/daemon.json";
        for after in [DAEMON.replace("    ", "  ").replace("10m", "1g"), "{".to_owned(), DAEMON.to_owned()] {
            assert_eq!(edits(path, DAEMON, &after), None, "{after}");
        }
        assert_eq!(edits("/etc/x.toml", "d = 1979-05-27\n", "d = 1979-05-28\n"), None);
        assert_eq!(edits("/etc/x.conf", "a = 1\n", "a = 2\n"), None);
    }
}
