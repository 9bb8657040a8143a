//! `locale.gen`, `login.defs`: a key, whitespace, a value.

use std::ops::Range;

use super::super::lines::Lines;
use super::{Key, Syntax, behind_key, skip_blank};

pub(super) struct Words;

impl Syntax for Words {
    fn value_at(&self, text: &[u8], key: Key<'_>) -> Option<usize> {
        let at = behind_key(text, key.name)?;
        let value = skip_blank(text, at);
        (value > at || at == text.len()).then_some(value)
    }

    fn separator(&self, _lines: &Lines<'_>, _region: Option<&[Range<usize>]>) -> String {
        " ".to_owned()
    }
}
