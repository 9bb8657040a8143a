//! How a record stands in its line: the fields of its header, its kind, and the fields of that kind, in one object.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, IgnoredAny, MapAccess, VariantAccess, Visitor,
};
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
        for (field, value) in rest {
            if object.insert(field, value).is_some() {
                return Err(S::Error::custom("a field of the entry has the name of one of the header"));
            }
        }
        object.serialize(serializer)
    }
}

/// Reads the object of a line. A journal is replayed at the start of every run, so it is read once and in the order in
/// which it is written: the header, the kind, and then the fields of that kind. Any other order is understood, too.
pub(super) fn read(json: &str) -> Result<Read, serde_json::Error> {
    match in_order(json) {
        Ok(read @ (Read::Record(_) | Read::Unknown { header: Header { skippable: true, .. }, .. })) => {
            Ok(read)
        }
        Ok(Read::Unknown { .. }) | Err(_) => reordered(json)?.deserialize_map(Line),
    }
}

fn in_order(json: &str) -> Result<Read, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let read = deserializer.deserialize_map(Line)?;
    deserializer.end()?;
    Ok(read)
}

fn reordered(json: &str) -> Result<Value, serde_json::Error> {
    let mut fields: Map<String, Value> = serde_json::from_str(json)?;
    let first = ["seq", "prev", "run", "boot", "time", "plan", "skippable", "kind"];
    let mut ordered: Map<String, Value> =
        first.into_iter().filter_map(|name| fields.remove_entry(name)).collect();
    ordered.extend(fields);
    Ok(Value::Object(ordered))
}

/// A text of the line, which is copied only if it is escaped there.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

struct Line;

impl<'de> Visitor<'de> for Line {
    type Value = Read;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a record")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut line: A) -> Result<Read, A::Error> {
        let (mut seq, mut prev, mut run, mut boot, mut time, mut plan) = (None, None, None, None, None, None);
        let mut skippable = false;
        let kind = loop {
            let Some(Text(key)) = line.next_key()? else { return Err(de::Error::missing_field("kind")) };
            match &*key {
                "seq" => seq = Some(line.next_value()?),
                "prev" => prev = Some(line.next_value()?),
                "run" => run = Some(line.next_value()?),
                "boot" => boot = Some(line.next_value()?),
                "time" => time = Some(line.next_value()?),
                "plan" => plan = Some(line.next_value()?),
                "skippable" => skippable = line.next_value()?,
                "kind" => break line.next_value::<Text>()?.0,
                _ => {
                    line.next_value::<IgnoredAny>()?;
                }
            }
        };
        let missing = de::Error::missing_field;
        let header = Header {
            seq: seq.ok_or_else(|| missing("seq"))?,
            prev: prev.ok_or_else(|| missing("prev"))?,
            run: run.ok_or_else(|| missing("run"))?,
            boot: boot.ok_or_else(|| missing("boot"))?,
            time: time.ok_or_else(|| missing("time"))?,
            plan: plan.ok_or_else(|| missing("plan"))?,
            skippable,
        };
        let is_known = Cell::new(true);
        match Entry::deserialize(Rest { kind: &kind, line: &mut line, is_known: &is_known }) {
            Ok(entry) => Ok(Read::Record(Box::new(Record { header, entry }))),
            Err(_) if !is_known.get() => {
                pass_over(line)?;
                Ok(Read::Unknown { header, kind: kind.into_owned() })
            }
            Err(error) => Err(error),
        }
    }
}

fn pass_over<'de, A: MapAccess<'de>>(mut line: A) -> Result<(), A::Error> {
    while line.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(())
}

/// An entry of which the kind has been read; its fields are the rest of the line.
struct Rest<'a, A> {
    kind: &'a str,
    line: &'a mut A,
    is_known: &'a Cell<bool>,
}

impl<'de, A: MapAccess<'de>> Deserializer<'de> for Rest<'_, A> {
    type Error = A::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, A::Error> {
        Err(de::Error::custom("an entry is one of several kinds"))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        kinds: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.is_known.set(kinds.contains(&self.kind));
        visitor.visit_enum(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl<'de, A: MapAccess<'de>> EnumAccess<'de> for Rest<'_, A> {
    type Error = A::Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), A::Error> {
        Ok((seed.deserialize(StrDeserializer::new(self.kind))?, self))
    }
}

impl<'de, A: MapAccess<'de>> VariantAccess<'de> for Rest<'_, A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        pass_over(self.line)
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, A::Error> {
        seed.deserialize(MapAccessDeserializer::new(self.line))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, A::Error> {
        Err(de::Error::custom("an entry has named fields"))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        visitor.visit_map(self.line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_line_may_stand_in_any_order() {
        let json = r#"{"change":7,"kind":"void","why":"as before","plan":"p","time":"2026-01-01T00:00:00Z",
            "boot":"b","run":"r","prev":"00000000","skippable":true,"seq":3,"later":[1]}"#;
        let Read::Record(record) = read(json).unwrap() else { panic!("it is known") };
        assert_eq!(record.header.seq, 3);
        assert_eq!(record.entry, Entry::Void { change: 7, why: "as before".into() });
        let Read::Unknown { header, kind } = read(&json.replace("void", "later")).unwrap() else {
            panic!("it is not known")
        };
        assert!(header.skippable && kind == "later");
    }
}
