//! The `main.cf` of Postfix. Source: postconf(5).

use std::borrow::Cow;
use std::ops::Range;

use super::super::lines::Lines;
use super::{Key, Syntax, behind_key, behind_sign};

pub(super) struct Postfix;

fn is_passed_over(body: &[u8]) -> bool {
    matches!(body.trim_ascii_start().first(), None | Some(b'#'))
}

impl Syntax for Postfix {
    /// An indented line continues the logical line, whatever blank lines and comments are between.
    fn end_of(&self, lines: &Lines<'_>, number: usize) -> usize {
        let mut end = number + 1;
        let mut next = end;
        while next < lines.count() {
            let body = lines.body(next);
            next += 1;
            if is_passed_over(body) {
                continue;
            }
            if !body[0].is_ascii_whitespace() {
                break;
            }
            end = next;
        }
        end
    }

    fn value_at(&self, text: &[u8], key: Key<'_>) -> Option<usize> {
        if text.first().is_some_and(u8::is_ascii_whitespace) {
            return None;
        }
        behind_sign(text, behind_key(text, key.name)?, &[b"="])
    }

    fn meaning<'v>(&self, value: &'v [u8]) -> Cow<'v, [u8]> {
        if !value.contains(&b'\n') {
            return Cow::Borrowed(value);
        }
        let parts = value.split(|byte| *byte == b'\n').filter(|line| !is_passed_over(line));
        let parts: Vec<&[u8]> = parts.map(<[u8]>::trim_ascii).collect();
        Cow::Owned(parts.join(&b' '))
    }

    fn separator(&self, _lines: &Lines<'_>, _region: Option<&[Range<usize>]>) -> String {
        " = ".to_owned()
    }
}
