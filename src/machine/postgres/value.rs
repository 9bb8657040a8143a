//! Values that are passed to statements.

use std::error::Error;
use std::fmt;

use bytes::BytesMut;
use postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};
use zeroize::Zeroizing;

/// A parameter: the server determines its type, and parses its text.
#[derive(Clone)]
pub enum Parameter {
    /// NULL.
    Null,
    /// True or false.
    Bool(bool),
    /// A number as its text.
    Number(String),
    /// A text.
    Text(Zeroizing<String>),
}

impl Parameter {
    /// A text.
    pub fn text(text: &str) -> Self {
        Self::Text(Zeroizing::new(text.to_owned()))
    }

    /// As SQL writes it within a statement.
    pub fn literal(&self) -> Zeroizing<String> {
        Zeroizing::new(match self {
            Self::Null => "NULL".to_owned(),
            Self::Bool(true) => "TRUE".to_owned(),
            Self::Bool(false) => "FALSE".to_owned(),
            // A minus sign after an operator would form another operator.
            Self::Number(number) if number.starts_with('-') => format!("({number})"),
            Self::Number(number) => number.clone(),
            Self::Text(text) => super::literal(text),
        })
    }
}

impl fmt::Debug for Parameter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a parameter")
    }
}

impl ToSql for Parameter {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        let text = match self {
            Self::Null => return Ok(IsNull::Yes),
            Self::Bool(flag) => {
                if *flag {
                    "true"
                } else {
                    "false"
                }
            }
            Self::Number(number) => number,
            Self::Text(text) => text.as_str(),
        };
        out.extend_from_slice(text.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}
