//! The options of a primitive. The struct that reads them defines, for calls and for the check alike, which options exist
//! and what each accepts.

use rhai::{Dynamic, Map};
use serde::de::{DeserializeOwned, Deserializer, Error as _, IntoDeserializer, MapAccess, Visitor};
use serde_json::Value;

use super::value::json_of;
use crate::failure::{Failure, FailureKind};

/// The options that a function knows.
#[derive(Clone, Debug, Default)]
pub struct OptionSet {
    known: Vec<(&'static str, Takes)>,
    /// Of each of these groups, one must be given.
    required: Vec<Required>,
}

/// Options of which one must be given.
#[derive(Clone, Debug)]
pub(super) struct Required {
    /// Their names.
    pub names: Vec<&'static str>,
    /// What they are for.
    pub hints: &'static [&'static str],
}

/// What an option takes.
#[derive(Clone, Copy, Debug)]
enum Takes {
    /// What the struct reads into the field of its name.
    Field(fn(&str, &Value) -> Result<(), String>),
    /// One of these types; read by hand, because serde knows no closures and secrets.
    Types(&'static [&'static str]),
}

impl OptionSet {
    /// Those that [`options_of`] reads into `T`: its fields.
    pub fn of<T: DeserializeOwned>() -> Self {
        let names = option_names::<T>();
        let known = names.iter().map(|name| (*name, Takes::Field(judged::<T>))).collect();
        let nothing =
            T::deserialize(Value::Object(serde_json::Map::new())).err().map(|error| error.to_string());
        let is_missing =
            |name: &&&str| nothing.as_ref().is_some_and(|why| *why == format!("missing field `{name}`"));
        let required =
            names.iter().filter(is_missing).map(|name| Required { names: vec![*name], hints: &[] }).collect();
        Self { known, required }
    }

    /// These, and one that is read by hand and accepts these types, as scripts name them.
    #[must_use]
    pub fn with(mut self, name: &'static str, types: &'static [&'static str]) -> Self {
        self.known.push((name, Takes::Types(types)));
        self
    }

    /// These, one of which must be given; `hints` say what they are for.
    #[must_use]
    pub fn needing_one_of(mut self, names: &[&'static str], hints: &'static [&'static str]) -> Self {
        self.required.push(Required { names: names.to_vec(), hints });
        self
    }

    /// These, and those of another.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.known.extend(other.known);
        self.required.extend(other.required);
        self
    }

    /// Their names.
    pub fn names(&self) -> Vec<&'static str> {
        self.known.iter().map(|(name, _)| *name).collect()
    }

    /// The groups of which one must be given.
    pub(super) fn required(&self) -> &[Required] {
        &self.required
    }

    /// Why an option does not accept a value of this type; `value` is none where only the type is known.
    pub(super) fn refused(&self, name: &str, kind: &str, value: Option<&Value>) -> Option<String> {
        let (_, takes) = self.known.iter().find(|(known, _)| *known == name)?;
        match takes {
            Takes::Types(types) if types.contains(&kind) => None,
            Takes::Types(types) => Some(format!("expected {}, found {}", one_of(types), with_article(kind))),
            Takes::Field(judged) => match value {
                Some(value) => judged(name, value).err().map(|why| in_words(&why)),
                None if kind == "string" => {
                    let why = judged(name, &Value::from("")).err()?;
                    let expected = why.strip_prefix("invalid type: ")?.rsplit_once(", expected ")?.1;
                    Some(in_words(&format!("invalid type: a string, expected {expected}")))
                }
                None => None,
            },
        }
    }
}

/// `a map, a string or an array`.
pub(super) fn one_of(types: &[&str]) -> String {
    let named: Vec<String> = types.iter().map(|kind| with_article(kind)).collect();
    match named.as_slice() {
        [others @ .., last] if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        other => other.concat(),
    }
}

pub(super) fn with_article(kind: &str) -> String {
    let kind = match kind {
        "int" => "integer",
        "bool" => "boolean",
        "char" => "character",
        other => other,
    };
    let n = if kind.starts_with(['a', 'e', 'i', 'o', 'u']) { "n" } else { "" };
    format!("a{n} {kind}")
}

/// Reads an options map into its struct, which denies unknown fields.
///
/// # Errors
/// When an option is unknown, missing or of the wrong type: with its name.
pub fn options_of<T: DeserializeOwned>(map: Map) -> anyhow::Result<T> {
    let names = option_names::<T>();
    let refused = map.iter().filter(|(name, _)| names.contains(&name.as_str())).find_map(|(name, value)| {
        let why = judged::<T>(name, &json_of(value).ok()?).err()?;
        Some(format!("option `{name}`: {}", in_words(&why)))
    });
    rhai::serde::from_dynamic::<T>(&Dynamic::from_map(map)).map_err(|error| {
        let text = match *error {
            rhai::EvalAltResult::ErrorParsing(ref what, _) => what.to_string(),
            ref other => other.to_string(),
        };
        let text = text.replace("Malformed data: ", "").replace("unknown field", "unknown option");
        Failure::new(refused.unwrap_or(text)).kind(FailureKind::Option).into()
    })
}

/// Why `T` does not accept this value for the field of this name, in serde's words.
fn judged<T: DeserializeOwned>(name: &str, value: &Value) -> Result<(), String> {
    let mut why = None;
    // Other fields may be missing: only what is said of this one counts.
    let _incomplete = T::deserialize(OneField { name, value: Some(value), why: &mut why });
    match why {
        None => Ok(()),
        Some(why) => Err(why),
    }
}

/// What serde says, in kkrun's words.
fn in_words(error: &str) -> String {
    let text = ["invalid type: ", "invalid value: "].into_iter().find_map(|start| error.strip_prefix(start));
    let reported = match text.and_then(|text| text.rsplit_once(", expected ")) {
        Some((found, expected)) => format!("expected {expected}, found {found}"),
        None => {
            match error.strip_prefix("unknown variant ").and_then(|text| text.split_once(", expected ")) {
                Some((found, expected)) => format!("expected {expected}, found {found}"),
                None => error.to_owned(),
            }
        }
    };
    reported
        .replace("a sequence", "an array")
        .replace("found sequence", "found an array")
        .replace("found map", "found a map")
}

/// A map with one entry, which records what is wrong with its value.
struct OneField<'given> {
    name: &'given str,
    value: Option<&'given Value>,
    why: &'given mut Option<String>,
}

impl<'de> Deserializer<'de> for OneField<'_> {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_map(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de> MapAccess<'de> for OneField<'_> {
    type Error = serde_json::Error;

    fn next_key_seed<K: serde::de::DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Self::Error> {
        match self.value {
            Some(_) => seed.deserialize(self.name.into_deserializer()).map(Some),
            None => Ok(None),
        }
    }

    fn next_value_seed<S: serde::de::DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<S::Value, Self::Error> {
        let value = self.value.take().cloned().unwrap_or_default();
        seed.deserialize(value).inspect_err(|error| *self.why = Some(error.to_string()))
    }
}

/// The names of the options that [`options_of`] reads into `T`: those of its fields.
pub fn option_names<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut names: &'static [&'static str] = &[];
    // The struct passes its field names to its deserializer; this one stops there.
    let _stopped = T::deserialize(FieldNames { names: &mut names });
    names
}

/// Takes down the field names of a struct instead of reading values into it.
struct FieldNames<'names> {
    names: &'names mut &'static [&'static str],
}

impl<'de> Deserializer<'de> for FieldNames<'_> {
    type Error = serde::de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
        Err(Self::Error::custom("no struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Self::Error> {
        *self.names = fields;
        Err(Self::Error::custom("the names are known"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::script::Seconds;

    #[derive(serde::Deserialize, Debug)]
    #[serde(rename_all = "lowercase")]
    enum Side {
        Left,
        Right,
    }

    #[derive(serde::Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct Given {
        #[serde(default)]
        mode: Option<String>,
        #[serde(default)]
        _groups: Vec<String>,
        _side: Option<Side>,
        _within: Option<Seconds>,
        _count: u8,
    }

    #[test]
    fn an_unknown_option_is_named() {
        let map = Map::from([("mood".into(), Dynamic::from("x"))]);
        let error = options_of::<Given>(map).unwrap_err().to_string();
        assert!(error.contains("unknown option `mood`") && error.contains("`mode`"), "{error}");
        let map = Map::from([("_count".into(), Dynamic::from(1_i64))]);
        assert!(options_of::<Given>(map).unwrap().mode.is_none());
    }

    #[test]
    fn the_names_of_options_are_those_of_the_fields() {
        assert_eq!(option_names::<Given>(), ["mode", "_groups", "_side", "_within", "_count"]);
        assert_eq!(option_names::<String>(), [""; 0]);
        let options = OptionSet::of::<Given>().with("env", &["map"]);
        assert_eq!(options.names().last(), Some(&"env"));
    }

    #[test]
    fn what_an_option_takes_is_said_by_its_struct() {
        let options = OptionSet::of::<Given>().with("env", &["map"]).with("unless", &["array", "closure"]);
        let reported =
            |name: &str, kind, value: Value| options.refused(name, kind, Some(&value)).unwrap_or_default();
        for (name, kind, value, expected) in [
            ("mode", "int", json!(600), "expected a string, found integer `600`"),
            ("mode", "string", json!("0600"), ""),
            ("_groups", "string", json!("sudo"), "expected an array, found string \"sudo\""),
            ("_groups", "array", json!(["a", 1]), "expected a string, found integer `1`"),
            ("_groups", "array", json!(["a"]), ""),
            ("_side", "string", json!("left"), ""),
            ("_side", "string", json!("up"), "expected `left` or `right`, found `up`"),
            ("_within", "int", json!(3), ""),
            ("_within", "string", json!("3"), "expected a number of seconds, found string \"3\""),
            ("_count", "int", json!(256), "expected u8, found integer `256`"),
            ("env", "array", json!([]), "expected a map, found an array"),
            ("env", "map", json!({}), ""),
            ("unless", "int", json!(1), "expected an array or a closure, found an integer"),
            ("other", "int", json!(1), ""),
        ] {
            assert_eq!(reported(name, kind, value), expected, "{name}");
        }
        // A string that a script makes.
        assert_eq!(options.refused("mode", "string", None), None);
        assert_eq!(options.refused("_side", "string", None), None);
        assert_eq!(options.refused("_groups", "string", None).unwrap(), "expected an array, found a string");
    }

    #[test]
    fn an_option_of_the_wrong_type_is_named() {
        let map = Map::from([("_groups".into(), "sudo".into())]);
        let error = options_of::<Given>(map).unwrap_err().to_string();
        assert_eq!(error, "option `_groups`: expected an array, found string \"sudo\"");
    }
}
