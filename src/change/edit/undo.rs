//! Undoes one entry in a file that was modified elsewhere since.

use std::ops::Range;

use anyhow::Result;

use super::entry::{FileEntry, Made};
use super::format::{Is, logical};
use super::lines::Lines;
use super::section::{Region, is_blank};
use crate::machine::files::Digest;

/// How far from its old place an entry is put back beside a neighbour.
const NEIGHBOURS: usize = 50;

/// What the entry was before, in the file that it was in.
pub(super) struct Then<'then> {
    /// That file.
    pub lines: &'then Lines<'then>,
    /// The entry in it, if it was there.
    pub entry: Option<Range<usize>>,
    /// The comment that it became.
    pub commented: Option<Digest>,
    /// What was made for it.
    pub made: Made,
}

/// The file `now` with the entry as it was then.
pub(super) fn entry_undone(
    entry: &FileEntry,
    now: &Lines<'_>,
    then: &Then<'_>,
    path: &str,
) -> Result<Vec<u8>> {
    let found = entry.find(now, path)?;
    Ok(match (&then.entry, found) {
        (None, None) => now.bytes().to_vec(),
        (None, Some(found)) => without(entry, now, found, then.made, path)?,
        (Some(before), Some(found)) => now.replaced(&found, then.lines.bodies(before)),
        (Some(before), None) => {
            let text = then.lines.bodies(before);
            match then.commented.and_then(|digest| comment_of(entry, now, digest, before.len())) {
                Some(comment) => now.replaced(&comment, text),
                None => put_back(entry, now, then.lines, before, path)?,
            }
        }
    })
}

/// Removes an entry, and the header that was made for it if nothing else is below it.
fn without(
    entry: &FileEntry,
    now: &Lines<'_>,
    found: Range<usize>,
    made: Made,
    path: &str,
) -> Result<Vec<u8>> {
    let mut gone = found;
    let section = entry.section.as_deref();
    let region = Region::find(now, entry.format, section, path)?;
    let alone = || {
        let (region, header_at) = (region?, gone.start.checked_sub(1)?);
        let only = region.numbers().all(|number| gone.contains(&number) || is_blank(now.body(number)));
        let sections = entry.format.syntax().sections()?;
        let named = sections.is(sections.header(now.body(header_at))?, section?);
        (only && named && region.parts.len() == 1).then_some(header_at)
    };
    if made.header
        && let Some(header_at) = alone()
    {
        gone.start = header_at;
        if made.blank && header_at > 0 && is_blank(now.body(header_at - 1)) {
            gone.start -= 1;
        }
    }
    Ok(now.removed(&gone, made.end_above))
}

/// The comment that an entry of so many lines was turned into.
fn comment_of(entry: &FileEntry, now: &Lines<'_>, digest: Digest, length: usize) -> Option<Range<usize>> {
    let begins = |number| now.body(number).trim_ascii_start().starts_with(entry.comment.as_bytes());
    (0..(now.count() + 1).saturating_sub(length))
        .map(|number| number..number + length)
        .filter(|lines| begins(lines.start))
        .find(|lines| Digest::of(now.bodies(lines)) == digest)
}

/// Inserts an entry that is gone again beside the nearest neighbour that is still there, else at the end of its
/// section.
fn put_back(
    entry: &FileEntry,
    now: &Lines<'_>,
    then: &Lines<'_>,
    before: &Range<usize>,
    path: &str,
) -> Result<Vec<u8>> {
    let text = then.bodies(before);
    let region = Region::find(now, entry.format, entry.section.as_deref(), path)?;
    let Some(region) = region else {
        // The section went with it: it was in one then.
        return Ok(entry.added_at_end(now, text));
    };
    let syntax = entry.format.syntax();
    let header = |body| syntax.sections().and_then(|sections| sections.header(body));
    let only = |body: &[u8]| {
        let mut same = region.numbers().filter(|number| now.body(*number) == body);
        same.next().filter(|_| same.next().is_none())
    };
    let telling = |number: &usize| !is_blank(then.body(*number));
    let inside = |number: &usize| header(then.body(*number)).is_none();
    let mut above = (0..before.start).rev().take(NEIGHBOURS).take_while(inside).filter(telling);
    let mut below = (before.end..then.count()).take(NEIGHBOURS).take_while(inside).filter(telling);
    let place = above
        .find_map(|number| Some(only(then.body(number))? + 1))
        .or_else(|| below.find_map(|number| only(then.body(number))));
    let place = place.unwrap_or_else(|| region.end(now, entry.format));
    // Never into a logical line of several.
    let split = logical(syntax, now, 0..now.count())
        .find(|line| line.is == Is::Text && line.lines.start < place && place < line.lines.end);
    Ok(now.inserted(split.map_or(place, |line| line.lines.end), text))
}
