//! Carries values between Rhai and Rust.

use std::time::Duration;

use anyhow::{Result, bail};
use rhai::{Dynamic, Map};
use serde_json::Value;

use crate::failure::{Failure, FailureKind};

/// The plain value behind a Rhai value.
///
/// # Errors
/// For closures and host objects: as strings they would silently become something else.
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
    // The name of a type that is not Rhai's own has the path of its module.
    let kind = value.type_name();
    let kind = kind.rsplit("::").next().unwrap_or(kind).to_lowercase();
    bail!(Failure::new(format!("expected a plain value, found a {kind}")).kind(FailureKind::Type))
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
    /// The longest wait for anything: a year.
    const LONGEST: f64 = 365.0 * 86_400.0;

    /// The same as a duration; a negative value counts as zero.
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

    #[expect(clippy::cast_precision_loss, reason = "no one waits for 2^52 seconds")]
    fn visit_i64<E>(self, whole: i64) -> Result<Seconds, E> {
        Ok(Seconds(whole as f64))
    }

    #[expect(clippy::cast_precision_loss, reason = "no one waits for 2^52 seconds")]
    fn visit_u64<E>(self, whole: u64) -> Result<Seconds, E> {
        Ok(Seconds(whole as f64))
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Seconds, E> {
        if number.is_nan() {
            Err(E::custom("expected a number of seconds, found none"))
        } else {
            Ok(Seconds(number))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::options_of;

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
