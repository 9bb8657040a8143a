//! Carries values between Rhai and Rust.

use std::time::Duration;

use anyhow::{Result, bail};
use rhai::{Dynamic, Map};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::failure::Failure;

/// The plain value behind a Rhai value.
///
/// # Errors
/// For closures and host objects: as text they would be something else without a word.
pub fn json_of(value: &Dynamic) -> Result<Value> {
    if value.is_unit() {
        return Ok(Value::Null);
    }
    if let Ok(flag) = value.as_bool() {
        return Ok(Value::from(flag));
    }
    if let Ok(number) = value.as_int() {
        return Ok(Value::from(number));
    }
    if let Ok(number) = value.as_float() {
        return Ok(Value::from(number));
    }
    if value.is_string() || value.is_char() {
        return Ok(Value::from(value.to_string()));
    }
    if let Some(items) = value.read_lock::<rhai::Array>() {
        return items.iter().map(json_of).collect::<Result<Vec<_>>>().map(Value::Array);
    }
    if let Some(items) = value.read_lock::<Map>() {
        let mut object = serde_json::Map::new();
        for (key, item) in items.iter() {
            object.insert(key.to_string(), json_of(item)?);
        }
        return Ok(Value::Object(object));
    }
    bail!(Failure::new(format!("a {} is no plain value", value.type_name())).kind("type"))
}

/// The Rhai value of a plain value.
pub fn value_of(value: &Value) -> Dynamic {
    match value {
        Value::Null => Dynamic::UNIT,
        Value::Bool(flag) => Dynamic::from(*flag),
        Value::Number(number) => {
            number.as_i64().map_or_else(|| Dynamic::from(number.as_f64().unwrap_or(f64::NAN)), Dynamic::from)
        }
        Value::String(text) => Dynamic::from(text.clone()),
        Value::Array(items) => Dynamic::from_array(items.iter().map(value_of).collect()),
        Value::Object(fields) => {
            let mut map = Map::new();
            for (key, item) in fields {
                map.insert(key.as_str().into(), value_of(item));
            }
            Dynamic::from_map(map)
        }
    }
}

/// A length of time in an option, in seconds: `30` or `0.5`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seconds(pub f64);

impl Seconds {
    /// The longest that is waited for anything: a year.
    const LONGEST: f64 = 365.0 * 86_400.0;

    /// The same as the machine counts it; less than nothing is nothing.
    pub fn duration(self) -> Duration {
        Duration::from_secs_f64(self.0.clamp(0.0, Self::LONGEST))
    }
}

impl<'de> serde::Deserialize<'de> for Seconds {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SecondsVisitor)
    }
}

struct SecondsVisitor;

impl serde::de::Visitor<'_> for SecondsVisitor {
    type Value = Seconds;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a number of seconds")
    }

    #[expect(clippy::cast_precision_loss, reason = "nobody waits for 2^52 seconds")]
    fn visit_i64<E>(self, whole: i64) -> Result<Seconds, E> {
        Ok(Seconds(whole as f64))
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Seconds, E> {
        if number.is_nan() {
            Err(E::custom("an option is no number of seconds"))
        } else {
            Ok(Seconds(number))
        }
    }
}

/// Reads an options map into its struct, which denies unknown fields.
///
/// # Errors
/// When an option is unknown, missing or of the wrong type: with its name.
pub fn options_of<T: DeserializeOwned>(map: Map) -> Result<T> {
    rhai::serde::from_dynamic::<T>(&Dynamic::from_map(map)).map_err(|error| {
        let text = match *error {
            rhai::EvalAltResult::ErrorMismatchDataType(ref wanted, ref found, _) if !found.is_empty() => {
                format!("an option is of the type {found}, wanted is {wanted}")
            }
            rhai::EvalAltResult::ErrorParsing(ref what, _) => what.to_string(),
            ref other => other.to_string(),
        };
        Failure::new(text.replace("Malformed data: ", "").replace("unknown field", "unknown option"))
            .kind("option")
            .into()
    })
}

/// The names of the options that [`options_of`] reads into `T`: those of its fields.
pub fn option_names<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut names: &'static [&'static str] = &[];
    // The struct tells its fields to whoever is going to deserialize it; this one stops there.
    let _stopped = T::deserialize(FieldNames { names: &mut names });
    names
}

/// Takes down the field names of a struct instead of reading values into it.
struct FieldNames<'names> {
    names: &'names mut &'static [&'static str],
}

impl<'de> serde::Deserializer<'de> for FieldNames<'_> {
    type Error = serde::de::value::Error;

    fn deserialize_any<V: serde::de::Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
        Err(serde::de::Error::custom("no struct"))
    }

    fn deserialize_struct<V: serde::de::Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Self::Error> {
        *self.names = fields;
        Err(serde::de::Error::custom("the names are known"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct Options {
        #[serde(default)]
        mode: Option<String>,
    }

    #[test]
    fn an_unknown_option_is_named() {
        let mut map = Map::new();
        map.insert("mood".into(), Dynamic::from("x"));
        let error = options_of::<Options>(map).unwrap_err().to_string();
        assert!(error.contains("unknown option `mood`") && error.contains("`mode`"), "{error}");
        assert!(options_of::<Options>(Map::new()).unwrap().mode.is_none());
    }

    #[test]
    fn the_names_of_options_are_those_of_the_fields() {
        assert_eq!(option_names::<Options>(), ["mode"]);
        assert_eq!(option_names::<String>(), [""; 0]);
    }

    #[test]
    fn seconds_are_whole_or_not() {
        #[derive(serde::Deserialize)]
        struct Waiting {
            within: Seconds,
        }
        for (given, seconds) in
            [(Dynamic::from(30_i64), 30.0), (Dynamic::from(0.5), 0.5), (Dynamic::from(-1_i64), 0.0)]
        {
            let map = Map::from([("within".into(), given)]);
            let waiting: Waiting = options_of(map).unwrap();
            assert_eq!(waiting.within.duration(), Duration::from_secs_f64(seconds));
        }
        assert!(options_of::<Waiting>(Map::from([("within".into(), "soon".into())])).is_err());
    }

    #[test]
    fn a_closure_is_no_plain_value() {
        let closure = Dynamic::from(rhai::FnPtr::new("f").unwrap());
        assert!(json_of(&closure).is_err());
    }
}
