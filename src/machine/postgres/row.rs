//! Converts rows of an answer to plain values.

use anyhow::Result;
use postgres::types::{FromSql, Kind, Type};
use serde_json::Value;

use crate::failure::{Failure, FailureKind};

/// A row: its columns by name, in their order.
pub type Row = serde_json::Map<String, Value>;

/// The plain values of a row.
///
/// # Errors
/// For a type without a plain value: the statement has to select its text.
pub(super) fn read(row: &postgres::Row) -> Result<Row> {
    let mut read = Row::new();
    for (at, column) in row.columns().iter().enumerate() {
        read.insert(column.name().to_owned(), value(row, at, column.name(), column.type_())?);
    }
    Ok(read)
}

/// A string, of any type that the server sends as one.
struct Text(String);

impl<'a> FromSql<'a> for Text {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(std::str::from_utf8(raw)?.to_owned()))
    }

    fn accepts(type_: &Type) -> bool {
        is_text(type_)
    }
}

/// JSON in its binary form: `jsonb` has a version before its text.
struct Json(Value);

impl<'a> FromSql<'a> for Json {
    fn from_sql(type_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        let text = if *type_ == Type::JSONB { raw.get(1..).unwrap_or_default() } else { raw };
        Ok(Self(serde_json::from_slice(text)?))
    }

    fn accepts(type_: &Type) -> bool {
        matches!(*type_, Type::JSON | Type::JSONB)
    }
}

fn is_text(type_: &Type) -> bool {
    matches!(*type_, Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::UNKNOWN | Type::XML)
        || matches!(type_.kind(), Kind::Enum(_))
        || matches!(type_.name(), "citext")
}

fn value(row: &postgres::Row, at: usize, name: &str, type_: &Type) -> Result<Value> {
    let read = match *type_ {
        Type::BOOL => get::<bool>(row, at)?.map(Value::from),
        Type::INT2 => get::<i16>(row, at)?.map(Value::from),
        Type::INT4 => get::<i32>(row, at)?.map(Value::from),
        Type::INT8 => get::<i64>(row, at)?.map(Value::from),
        Type::OID => get::<u32>(row, at)?.map(Value::from),
        Type::FLOAT4 => get::<f32>(row, at)?.map(|number| Value::from(f64::from(number))),
        Type::FLOAT8 => get::<f64>(row, at)?.map(Value::from),
        Type::CHAR => get::<i8>(row, at)?.map(|byte| char::from(byte.cast_unsigned()).to_string().into()),
        Type::VOID => None,
        Type::JSON | Type::JSONB => get::<Json>(row, at)?.map(|json| json.0),
        Type::TEXT_ARRAY | Type::NAME_ARRAY | Type::VARCHAR_ARRAY => {
            get::<Vec<Option<Text>>>(row, at)?.map(|items| {
                items.into_iter().map(|item| item.map_or(Value::Null, |text| text.0.into())).collect()
            })
        }
        Type::INT4_ARRAY => {
            get::<Vec<Option<i32>>>(row, at)?.map(|items| items.into_iter().map(Value::from).collect())
        }
        Type::INT8_ARRAY => {
            get::<Vec<Option<i64>>>(row, at)?.map(|items| items.into_iter().map(Value::from).collect())
        }
        ref other if is_text(other) => get::<Text>(row, at)?.map(|text| text.0.into()),
        ref other => {
            let message = format!("cannot convert the column `{name}`: its type {other} has no plain value");
            return Err(Failure::new(message)
                .kind(FailureKind::Type)
                .hint(format!("select its text: {name}::text"))
                .into());
        }
    };
    Ok(read.unwrap_or(Value::Null))
}

fn get<'row, T: FromSql<'row>>(row: &'row postgres::Row, at: usize) -> Result<Option<T>> {
    Ok(row.try_get::<_, Option<T>>(at)?)
}
