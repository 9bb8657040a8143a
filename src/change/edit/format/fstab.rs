//! The table of file systems. Source: fstab(5).

use std::borrow::Cow;
use std::ops::Range;

use super::super::lines::Lines;
use super::{Key, Refusal, Syntax, skip_blank};

pub(super) struct Fstab;

fn fields(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty())
}

fn is_named(text: &[u8], name: &str) -> bool {
    // What is not mounted into the tree has no mount point to be named by.
    let is_name = |(at, field): (usize, &[u8])| {
        field == name.as_bytes() && (at == 0 || !matches!(field, b"none" | b"swap"))
    };
    fields(text).take(2).enumerate().any(is_name)
}

impl Syntax for Fstab {
    /// The value is the whole line.
    fn value_at(&self, text: &[u8], key: Key<'_>) -> Option<usize> {
        is_named(text, key.name).then(|| skip_blank(text, 0))
    }

    fn meaning<'v>(&self, value: &'v [u8]) -> Cow<'v, [u8]> {
        Cow::Owned(fields(value).collect::<Vec<_>>().join(&b' '))
    }

    fn separator(&self, _lines: &Lines<'_>, _region: Option<&[Range<usize>]>) -> String {
        String::new()
    }

    fn written(&self, _key: &str, _separator: &str, value: &[u8]) -> Vec<u8> {
        value.to_vec()
    }

    fn refuse_value(&self, key: &str, value: &[u8]) -> Option<Refusal> {
        let is_line = (4..=6).contains(&fields(value).count()) && is_named(value, key);
        (!is_line).then(|| {
            Refusal::new(
                format!("it must be its whole line, with `{key}` as its source or mount point"),
                "write source, mount point, type, options, and two numbers if needed; a space in one of them is `\\040`",
            )
        })
    }
}
