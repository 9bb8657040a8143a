//! What a file shows by itself: whether every line of it is plainly `key = value`.

use super::super::lines::Lines;
use super::rules::{header, sign_of};
use super::{Is, logical, table};

/// The first line that is not plainly `key = value`, or has another sign than those above it; and whether any line, if
/// only a comment, shows how the file is written.
pub(super) fn refuse_plain(lines: &Lines<'_>) -> Result<bool, usize> {
    let mut sign = None;
    let mut shown = lines.count() == 0;
    for line in logical(&table::INI, lines, 0..lines.count()) {
        let (number, body) = (line.lines.start, lines.body(line.lines.start));
        if line.is == Is::Text && header(body).is_none() {
            let found = sign_of(body).map(|(sign, _)| sign);
            // What is indented below `key:` is another language.
            let nested = found == Some(b':') && body[0].is_ascii_whitespace();
            if found.is_none() || nested || sign.is_some_and(|sign| Some(sign) != found) {
                return Err(number);
            }
            sign = found;
        }
        shown |= match line.is {
            Is::Text => true,
            Is::Comment => sign_of(&body.trim_ascii_start()[1..]).is_some_and(|(sign, _)| sign == b'='),
            Is::Blank => false,
        };
    }
    let is_blank = (0..lines.count()).all(|number| lines.body(number).trim_ascii().is_empty());
    Ok(shown || is_blank)
}
