//! How a record stands in its line: the fields of its header, its kind, and the fields of that kind, in one object.

use std::borrow::Cow;
use std::cell::Cell;

use jiff::Timestamp;
use serde::de::value::{BorrowedStrDeserializer, Error as Unfit};
use serde::de::{self, DeserializeSeed, Deserializer, EnumAccess, VariantAccess, Visitor};
use serde::ser::Error as _;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use super::record::{Entry, Header, Record};

/// What a line turned out to be.
pub(super) enum Read {
    /// A record.
    Record(Box<Record>),
    /// A record of a kind that this kkrun does not know.
    Unknown {
        /// Its header.
        header: Header,
        /// Its kind.
        kind: String,
    },
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = |value: Result<Value, serde_json::Error>| value.map_err(S::Error::custom);
        let Value::Object(mut object) = fields(serde_json::to_value(&self.header))? else {
            return Err(S::Error::custom("a header is an object"));
        };
        let (kind, rest) = match fields(serde_json::to_value(&self.entry))? {
            Value::String(kind) => (kind, Map::new()),
            Value::Object(entry) => match entry.into_iter().next() {
                Some((kind, Value::Object(rest))) => (kind, rest),
                _ => return Err(S::Error::custom("an entry has named fields")),
            },
            _ => return Err(S::Error::custom("an entry has a kind")),
        };
        object.insert("kind".to_owned(), Value::String(kind));
        object.extend(rest);
        object.serialize(serializer)
    }
}

/// The header and the kind, as they stand in the line.
#[derive(Deserialize)]
struct Head<'a> {
    seq: u64,
    #[serde(borrow)]
    prev: Cow<'a, str>,
    run: Cow<'a, str>,
    boot: Cow<'a, str>,
    time: Timestamp,
    plan: Cow<'a, str>,
    #[serde(default)]
    skippable: bool,
    kind: Cow<'a, str>,
}

/// Reads the object of a line. It is read twice and never built: a journal is replayed at the start of every run.
pub(super) fn read(json: &[u8]) -> Result<Read, serde_json::Error> {
    let head: Head = serde_json::from_slice(json)?;
    let header = Header {
        seq: head.seq,
        prev: head.prev.into_owned(),
        run: head.run.into_owned(),
        boot: head.boot.into_owned(),
        time: head.time,
        plan: head.plan.into_owned(),
        skippable: head.skippable,
    };
    let is_known = Cell::new(true);
    match Entry::deserialize(Beside { kind: &head.kind, json, is_known: &is_known }) {
        Ok(entry) => Ok(Read::Record(Box::new(Record { header, entry }))),
        Err(_) if !is_known.get() => Ok(Read::Unknown { header, kind: head.kind.into_owned() }),
        Err(error) => Err(error),
    }
}

/// Reads an entry whose fields stand beside its kind and the header.
#[derive(Clone, Copy)]
struct Beside<'a> {
    kind: &'a str,
    json: &'a [u8],
    is_known: &'a Cell<bool>,
}

impl<'de> Deserializer<'de> for Beside<'de> {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
        Err(unfit("an entry is one of several kinds"))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        kinds: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.is_known.set(kinds.contains(&self.kind));
        visitor.visit_enum(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl<'de> EnumAccess<'de> for Beside<'de> {
    type Error = serde_json::Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Self::Error> {
        let kind = seed.deserialize(BorrowedStrDeserializer::<Unfit>::new(self.kind));
        Ok((kind.map_err(unfit)?, self))
    }
}

impl<'de> VariantAccess<'de> for Beside<'de> {
    type Error = serde_json::Error;

    fn unit_variant(self) -> Result<(), Self::Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Self::Error> {
        seed.deserialize(&mut serde_json::Deserializer::from_slice(self.json))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Self::Error> {
        Err(unfit("an entry has named fields"))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        serde_json::Deserializer::from_slice(self.json).deserialize_struct("Entry", fields, visitor)
    }
}

fn unfit(why: impl std::fmt::Display) -> serde_json::Error {
    de::Error::custom(why)
}
