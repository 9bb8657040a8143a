//! Finds the line that sets a key.

use std::ops::Range;

use anyhow::{Result, bail};

use super::format::{Doubt, Is, Key, KeyLine, Syntax, logical};
use super::lines::Lines;
use super::section::Region;
use crate::failure::{Failure, FailureKind};

/// The one line that sets `key`.
///
/// # Errors
/// When there are several that contradict each other: with their numbers.
pub(super) fn find(
    syntax: &dyn Syntax,
    lines: &Lines<'_>,
    region: &Region,
    key: Key<'_>,
    path: &str,
) -> Result<Option<KeyLine>> {
    let found = every_line_of(syntax, lines, region, key);
    syntax.choose(lines, key.name, found).map_err(|[first, second]| {
        Failure::new(format!(
            "`{}` is set twice in `{path}`: in lines {} and {}",
            key.name,
            first + 1,
            second + 1
        ))
        .kind(FailureKind::Duplicate)
        .hint("remove one of them, or use `config::line` with `matching`")
        .into()
    })
}

/// The lines of a region that set `key`.
pub(super) fn every_line_of(
    syntax: &dyn Syntax,
    lines: &Lines<'_>,
    region: &Region,
    key: Key<'_>,
) -> Vec<KeyLine> {
    let is_inside = |number: &usize| region.parts.iter().any(|part| part.contains(number));
    match syntax.lines_with(lines, key.name) {
        Some(numbers) => {
            let numbers = numbers.into_iter().filter(is_inside);
            that_set(syntax, lines, numbers.map(|number| number..number + 1), key)
        }
        None => that_set(syntax, lines, region.parts.iter().cloned(), key),
    }
}

/// The logical lines among these that set `key`.
fn that_set(
    syntax: &dyn Syntax,
    lines: &Lines<'_>,
    parts: impl Iterator<Item = Range<usize>>,
    key: Key<'_>,
) -> Vec<KeyLine> {
    let texts = parts.flat_map(|part| logical(syntax, lines, part)).filter(|line| line.is == Is::Text);
    let found = texts.filter_map(|line| {
        let value_at = syntax.value_at(lines.bodies(&line.lines), key)?;
        Some(KeyLine { lines: line.lines, value_at })
    });
    found.collect()
}

/// The line behind the last comment that shows how `key` is set: `#key=value`.
pub(super) fn behind_example(
    syntax: &dyn Syntax,
    lines: &Lines<'_>,
    region: &Region,
    key: Key<'_>,
    comment: &str,
) -> Option<usize> {
    let mut place = None;
    // A value of several lines that was commented out goes on in comments that are indented deeper than those of prose.
    let mut within = None;
    let depth = |inside: &[u8]| inside.len() - inside.trim_ascii_start().len();
    for line in region.parts.iter().flat_map(|part| logical(syntax, lines, part.clone())) {
        if line.is == Is::Text && syntax.may_set(lines.bodies(&line.lines), key.name) {
            place = None;
        }
        let body = lines.body(line.lines.start).trim_ascii_start();
        let inside = body.strip_prefix(comment.as_bytes()).or_else(|| {
            let sign = body.first().filter(|byte| syntax.comments().contains(byte))?;
            body.strip_prefix(&[*sign])
        });
        let Some(inside) = inside else {
            within = None;
            continue;
        };
        if syntax.value_at(inside.trim_ascii_start(), key).is_some() {
            within = syntax.continues_by_depth().then(|| depth(inside));
            place = Some(line.lines.end);
        } else if within.is_some_and(|own| depth(inside) > own + 1 && depth(inside) < inside.len()) {
            place = Some(line.lines.end);
        } else if inside.first().is_some_and(|first| !syntax.comments().contains(first)) {
            within = None;
        }
    }
    place
}

/// The indentation of the last line of a region that sets something.
pub(super) fn indentation<'b>(syntax: &dyn Syntax, lines: &Lines<'b>, region: &Region) -> Option<&'b [u8]> {
    let texts = region.parts.iter().flat_map(|part| logical(syntax, lines, part.clone()));
    let last = texts.filter(|line| line.is == Is::Text).last()?;
    let body = lines.body(last.lines.start);
    Some(&body[..body.len() - body.trim_ascii_start().len()])
}

/// Refuses a value whose quote is closed in a later line: its end would stay behind.
pub(super) fn refuse_open_quote(number: usize, path: &str) -> Failure {
    Failure::new(format!(
        "cannot change the value in line {} of `{path}`: its quotes close in a later line",
        number + 1
    ))
    .kind(FailureKind::Refused)
    .hint("use `config::line` with `matching` for each of the lines, or `file::write` for the whole file")
}

/// Refuses what is another entry for another program, where the program is not known.
pub(super) fn refuse_doubt(
    syntax: &dyn Syntax,
    lines: &Lines<'_>,
    region: Option<&Region>,
    key: Key<'_>,
    found: Option<&KeyLine>,
    path: &str,
) -> Result<()> {
    let (number, why) = match found {
        Some(line) => match syntax.doubt(lines, line) {
            None => return Ok(()),
            Some(Doubt::Comment(number, sign)) => {
                (number, format!("whether `{sign}` begins a comment in it depends on the program"))
            }
            Some(Doubt::Indented(number)) => {
                (number, format!("whether it continues `{}` depends on the program", key.name))
            }
        },
        None => match region.and_then(|region| syntax.doubtful_spelling(lines, &region.parts, key)) {
            None => return Ok(()),
            Some(number) => (
                number,
                format!("whether its key is another spelling of `{}` depends on the program", key.name),
            ),
        },
    };
    bail!(
        Failure::new(format!("cannot edit {} in `{path}`: line {}: {why}", key.name, number + 1))
            .kind(FailureKind::Refused)
            .hint("name the program's format with the option `format`: docs/config-formats.md lists them")
            .hint("use `config::line` with `matching` for the whole line")
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::change::edit::Format;

    proptest! {
        /// Whether the lines that may set a key are looked up or all are looked at, the same are found.
        #[test]
        fn a_key_is_found_alike_with_and_without_looking_at_every_line(
            lines in proptest::collection::vec("[ ]?[#;]?(key|ke|a key|keys|k)[ ]?[=:]?(key|v)?(\\\\)?\r?", 0..12)
        ) {
            let text = lines.join("\n");
            let lines = Lines::of(text.as_bytes());
            let (syntax, key) = (Format::Ini.syntax(), Key { name: "key", separator: None });
            let all = 0..lines.count();
            let every = that_set(syntax, &lines, std::iter::once(all), key);
            if let Some(numbers) = syntax.lines_with(&lines, key.name) {
                let some = numbers.into_iter().map(|number| number..number + 1);
                prop_assert_eq!(that_set(syntax, &lines, some, key), every);
            }
        }
    }
}
