//! Plain data, kept as the text of its JSON: a long journal holds much of it, of which little is looked at. As a tree it
//! would take ten times the memory.

use std::fmt;

use serde::de::{DeserializeOwned, DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// Plain data that is recorded: a state, or what undoing needs besides it.
#[derive(Clone)]
pub struct PlainData(Box<str>);

impl PlainData {
    /// The data.
    pub fn value(&self) -> Value {
        serde_json::from_str(&self.0).unwrap_or_default()
    }

    /// The data as what it is the form of.
    ///
    /// # Errors
    /// When it has another form.
    pub fn read<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_str(&self.0)
    }
}

impl From<Value> for PlainData {
    fn from(value: Value) -> Self {
        Self(value.to_string().into_boxed_str())
    }
}

/// The order of fields says nothing.
impl PartialEq for PlainData {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0 || self.value() == other.value()
    }
}

impl fmt::Debug for PlainData {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Serialize for PlainData {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PlainData {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut text = Vec::new();
        Copier(&mut text).deserialize(deserializer)?;
        Ok(Self(String::from_utf8(text).map_err(D::Error::custom)?.into_boxed_str()))
    }
}

/// Writes what is read as JSON, without a tree in between.
struct Copier<'text>(&'text mut Vec<u8>);

impl Copier<'_> {
    fn put<E: serde::de::Error>(self, value: &(impl Serialize + ?Sized)) -> Result<(), E> {
        serde_json::to_writer(self.0, value).map_err(E::custom)
    }
}

impl<'de> DeserializeSeed<'de> for Copier<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Copier<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("plain data")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.put(&())
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        self.put(&value)
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.put(&value)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        self.put(&value)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        self.put(&value)
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        self.put(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.0.push(b'[');
        let mut is_first = true;
        loop {
            let before = self.0.len();
            if !is_first {
                self.0.push(b',');
            }
            if items.next_element_seed(Copier(&mut *self.0))?.is_none() {
                self.0.truncate(before);
                break;
            }
            is_first = false;
        }
        self.0.push(b']');
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        self.0.push(b'{');
        let mut is_first = true;
        while let Some(name) = fields.next_key::<std::borrow::Cow<'de, str>>()? {
            if !is_first {
                self.0.push(b',');
            }
            is_first = false;
            Copier(&mut *self.0).put(&*name)?;
            self.0.push(b':');
            fields.next_value_seed(Copier(&mut *self.0))?;
        }
        self.0.push(b'}');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_data_is_the_json_that_it_was_read_from() {
        for text in [
            "null",
            "-9223372036854775808",
            "18446744073709551615",
            "[0.25,1e300,true,false,null]",
            r#"{"b":1,"a":[],"":{},"c":{"d":"\u0000\"\\ é"}}"#,
            r#""\u0000hex:ff""#,
        ] {
            let value: Value = serde_json::from_str(text).unwrap();
            let data: PlainData = serde_json::from_str(text).unwrap();
            assert_eq!((data.value(), &data), (value.clone(), &PlainData::from(value.clone())));
            assert_eq!(serde_json::to_string(&data).unwrap(), value.to_string());
            assert_eq!(serde_json::from_value::<PlainData>(value).unwrap(), data);
        }
    }

    #[test]
    fn order_of_fields_says_nothing() {
        let data = |text: &str| serde_json::from_str::<PlainData>(text).unwrap();
        assert_eq!(data(r#"{"a":1,"b":2}"#), data(r#"{"b":2,"a":1}"#));
        assert_ne!(data(r#"{"a":1,"b":2}"#), data(r#"{"a":1}"#));
    }
}
