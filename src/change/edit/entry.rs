//! The part of a text file that an edit is about: the line of a key, a named block, or a whole line.

use std::ops::Range;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::document::{MadeFor, Place};
use super::format::{Format, Key, KeyLine};
use super::key::{behind_example, every_line_of, find, indentation, refuse_doubt, refuse_open_quote};
use super::lines::Lines;
use super::section::{Region, is_blank};
use crate::failure::{Failure, FailureKind};

/// Which part of which file. All that finding it again needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// The section it is in; none for what is before the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section: Option<String>,
    /// What begins a comment.
    pub comment: String,
    /// The format of the file.
    #[serde(default)]
    pub format: Format,
    /// Which part it is.
    #[serde(flatten)]
    pub kind: EntryKind,
}

/// A kind of entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// The line that sets a key.
    Line {
        /// The key.
        key: String,
        /// What separates it from its value; by default what the format says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        separator: Option<String>,
    },
    /// The lines between two comments that name them, these included.
    Block {
        /// The name.
        name: String,
    },
    /// A line with all that is in it.
    WholeLine {
        /// The line.
        line: String,
        /// The regular expression by which it is found, however it differs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        matching: Option<String>,
    },
}

/// Where a new line goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside<'text> {
    /// Below the last line that this regular expression matches.
    After(&'text str),
    /// Above the first one.
    Before(&'text str),
    /// At the end.
    Nothing,
}

/// The desired state of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DesiredEntry<'text> {
    /// The key has this value; the block holds this text.
    Text(&'text [u8]),
    /// The whole line is there; a new one goes here.
    Line(Beside<'text>),
    /// The line is a comment.
    Comment,
    /// It is not there.
    Absent,
}

/// A file with its edited entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edited {
    /// The whole file.
    pub bytes: Vec<u8>,
    /// The lines of the entry before, if it was there.
    pub before: Option<Range<usize>>,
    /// The entry before, without its last line ending.
    pub before_text: Option<Vec<u8>>,
    /// The entry now, without its last line ending; none if it is gone.
    pub after: Option<Vec<u8>>,
    /// The comment that the entry became.
    pub commented: Option<Vec<u8>>,
    /// What was made for it.
    pub made: Made,
}

/// What was put around a new entry, to be removed with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each may be made without the others")]
pub struct Made {
    /// The file.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub file: bool,
    /// The header of its section.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub header: bool,
    /// A blank line above that header.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub blank: bool,
    /// The end of the line above, which had none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub end_above: bool,
    /// How many of the tables of a document that it is in, the innermost first.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tables: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl Made {
    /// What was made for the one and for the other.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            file: self.file || other.file,
            header: self.header || other.header,
            blank: self.blank || other.blank,
            end_above: self.end_above || other.end_above,
            tables: self.tables.max(other.tables),
        }
    }
}

impl FileEntry {
    /// Its name in messages.
    pub fn shown(&self) -> String {
        let kind = match &self.kind {
            EntryKind::Line { key, .. } => key.clone(),
            EntryKind::Block { name } => format!("the block {name}"),
            EntryKind::WholeLine { line, .. } => format!("the line `{line}`"),
        };
        match &self.section {
            Some(section) => format!("{kind} in [{section}]"),
            None => kind,
        }
    }

    /// Whether both are in one section, however it is spelled.
    pub fn is_in_the_section_of(&self, other: &Self) -> bool {
        let name = |entry: &Self| entry.section.as_deref().map(|section| entry.format.section_name(section));
        name(self) == name(other)
    }

    /// The lines it has in a file; `path` is for messages.
    ///
    /// # Errors
    /// When it is there twice, or a block has no end.
    pub fn find(&self, lines: &Lines<'_>, path: &str) -> Result<Option<Range<usize>>> {
        match &self.kind {
            EntryKind::Line { key, separator } => {
                let key = Key { name: key, separator: separator.as_deref() };
                Ok(self.find_key(lines, key, path)?.map(|line| line.lines))
            }
            EntryKind::Block { .. } => self.find_block(lines, path),
            EntryKind::WholeLine { line, matching } => {
                find_whole_line(lines, line, matching.as_deref(), path)
            }
        }
    }

    /// What it is in a file, without its last line ending; none if it is not there. `path` is for messages.
    ///
    /// # Errors
    /// As [`FileEntry::find`], and when a document is not of its format.
    pub fn text(&self, bytes: &[u8], path: &str) -> Result<Option<Vec<u8>>> {
        if let Some(place) = self.place(path)? {
            return place.text_in(bytes);
        }
        let lines = Lines::of(bytes);
        Ok(self.find(&lines, path)?.map(|found| lines.bodies(&found).to_vec()))
    }

    fn find_key(&self, lines: &Lines<'_>, key: Key<'_>, path: &str) -> Result<Option<KeyLine>> {
        let Some(region) = self.region(lines, path)? else { return Ok(None) };
        find(self.format.syntax(), lines, &region, key, path)
    }

    /// The lines in which a key is looked for.
    fn region(&self, lines: &Lines<'_>, path: &str) -> Result<Option<Region>> {
        Region::find(lines, self.format, self.section.as_deref(), path)
    }

    /// The bytes with one line of the key where it is set several times, the one of them that is found then; none if that is
    /// not what is wrong with them.
    pub fn with_one_line(&self, bytes: &[u8], path: &str) -> Option<Vec<u8>> {
        let EntryKind::Line { key, separator } = &self.kind else { return None };
        let lines = Lines::of(bytes);
        if self.format.is_document() || self.check(&lines, path).is_err() {
            return None;
        }
        let (region, key) =
            (self.region(&lines, path).ok()??, Key { name: key, separator: separator.as_deref() });
        let mut found = every_line_of(self.format.syntax(), &lines, &region, key);
        found.pop()?;
        let mut text = bytes.to_vec();
        for line in found.iter().rev() {
            text = Lines::of(&text).removed(&line.lines, false);
        }
        (!found.is_empty()).then_some(text)
    }

    /// The value of the key as it is in the file, quotes included, and continued lines joined.
    ///
    /// # Errors
    /// When it is set twice, or the file cannot be read for certain.
    pub fn value(&self, bytes: &[u8], path: &str) -> Result<Option<Vec<u8>>> {
        let EntryKind::Line { key, separator } = &self.kind else { return Ok(None) };
        let (lines, syntax) = (Lines::of(bytes), self.format.syntax());
        self.check(&lines, path)?;
        let key = Key { name: key, separator: separator.as_deref() };
        let found = self.find_key(&lines, key, path)?;
        let region = self.region(&lines, path)?;
        refuse_doubt(syntax, &lines, region.as_ref(), key, found.as_ref(), path)?;
        Ok(found.map(|line| {
            let text = lines.bodies(&line.lines);
            syntax.meaning(&text[syntax.value(text, line.value_at)]).into_owned()
        }))
    }

    /// The value of the key of a document, with its type.
    ///
    /// # Errors
    /// When the document is not of its format.
    pub fn typed_value(&self, bytes: &[u8], path: &str) -> Result<Option<serde_json::Value>> {
        self.place(path)?.map_or(Ok(None), |place| place.value_in(bytes))
    }

    /// Where it is in a document; none if the file is read by lines.
    fn place<'e>(&'e self, path: &'e str) -> Result<Option<Place<'e>>> {
        let EntryKind::Line { key, .. } = &self.kind else { return Ok(None) };
        Place::of(self.format, self.section.as_deref(), key, path, self.shown())
    }

    /// A value that is set is the JSON of it.
    fn edited_in_document(
        &self,
        place: &Place<'_>,
        bytes: &[u8],
        desired: DesiredEntry<'_>,
        path: &str,
    ) -> Result<Option<Edited>> {
        let new = match desired {
            DesiredEntry::Text(value) => Some(serde_json::from_slice::<serde_json::Value>(value)?),
            DesiredEntry::Absent | DesiredEntry::Line(_) => None,
            DesiredEntry::Comment => bail!(
                Failure::new(format!(
                    "cannot comment out {} in `{path}`: a value may have several lines",
                    self.shown()
                ))
                .kind(FailureKind::Refused)
                .hint("use `config::remove`; a rollback restores it")
            ),
        };
        let exchanged = place.edited(bytes, new.as_ref())?;
        Ok(exchanged.map(|exchanged| Edited {
            bytes: exchanged.bytes,
            before_text: exchanged.before,
            after: exchanged.after,
            made: Made { tables: exchanged.tables, ..Made::default() },
            ..Edited::default()
        }))
    }

    /// The document `now` with the value as it was in `before`; none if the file is read by lines.
    ///
    /// # Errors
    /// When one of them is not of its format.
    pub fn undone_in_document(
        &self,
        now: &[u8],
        before: &[u8],
        made: Made,
        path: &str,
    ) -> Result<Option<Vec<u8>>> {
        let made = MadeFor { tables: made.tables, file: made.file };
        self.place(path)?.map(|place| place.undone(now, before, made)).transpose()
    }

    /// Refuses a section that the format has not, and a file that cannot be edited for certain.
    fn check(&self, lines: &Lines<'_>, path: &str) -> Result<()> {
        let syntax = self.format.syntax();
        let refused = |message: String| Failure::new(message).kind(FailureKind::Refused);
        match (&self.section, syntax.sections()) {
            (Some(section), None) => {
                bail!(refused(format!("cannot edit `{section}` in `{path}`: this format has no sections")));
            }
            (Some(section), Some(sections)) => {
                let header = sections.written(section);
                let is_header = |header| sections.is(header, section);
                if section.contains(char::is_control)
                    || section.trim() != section
                    || !sections.header(header.as_bytes()).is_some_and(is_header)
                {
                    // Its header would not be found again.
                    bail!(
                        Failure::new(format!("invalid section `{}`", section.escape_debug()))
                            .kind(FailureKind::Usage)
                            .hint(match self.format {
                                Format::Sshd => "name it as its line in the file: \"Match User backup\"",
                                Format::Ssh => "name it as its line in the file: \"Host example.org\"",
                                _ => "name it without brackets: \"Seat:*\"",
                            })
                    );
                }
            }
            (None, Some(sections)) if sections.only() && matches!(self.kind, EntryKind::Line { .. }) => {
                bail!(
                    refused(format!("cannot edit {} in `{path}`: every key is in a section", self.shown()))
                        .hint("name the section with the option `section`")
                );
            }
            _ => {}
        }
        if let (EntryKind::Line { .. }, Some((number, why))) = (&self.kind, syntax.refuse(lines)) {
            bail!(
                refused(format!("cannot edit {} in `{path}`: line {}: {why}", self.shown(), number + 1))
                    .hint("use `config::line` for a whole line, or `config::block` for several")
            );
        }
        Ok(())
    }

    /// The file with the desired entry; `None` if the entry is so already.
    ///
    /// # Errors
    /// When the entry cannot be found or made for certain, and when it would not be read back as desired.
    pub fn edited(&self, bytes: &[u8], desired: DesiredEntry<'_>, path: &str) -> Result<Option<Edited>> {
        if let Some(place) = self.place(path)? {
            return self.edited_in_document(&place, bytes, desired, path);
        }
        let edited = self.edited_once(bytes, desired, path)?;
        if let Some(edited) = &edited
            && !self.is_one_line_set(edited, desired)
            && !matches!(self.edited_once(&edited.bytes, desired, path), Ok(None))
        {
            bail!(match desired {
                DesiredEntry::Comment | DesiredEntry::Absent => Failure::new(format!(
                    "cannot take {} out of `{path}`: it is there more than once",
                    self.shown()
                ))
                .kind(FailureKind::Duplicate)
                .hint("use `config::remove_line` with `matching` for one of the lines"),
                DesiredEntry::Text(_) | DesiredEntry::Line(_) => Failure::new(format!(
                    "cannot write {} to `{path}`: it would not be read back as desired",
                    self.shown()
                ))
                .kind(FailureKind::Refused)
                .hint(self.format.syntax().way_on()),
            });
        }
        Ok(edited)
    }

    /// Whether one line took the place of another, and sets the key as desired whatever is around it: then nothing else in
    /// the file is read in another way than before, and all of it need not be read again.
    fn is_one_line_set(&self, edited: &Edited, desired: DesiredEntry<'_>) -> bool {
        let (EntryKind::Line { key, separator }, DesiredEntry::Text(value)) = (&self.kind, desired) else {
            return false;
        };
        let (syntax, key) = (self.format.syntax(), Key { name: key, separator: separator.as_deref() });
        let is_set = |text: &Vec<u8>| {
            let at = syntax.value_at(text, key);
            at.is_some_and(|at| syntax.meaning(&text[syntax.value(text, at)]) == syntax.meaning(value))
        };
        edited.before.as_ref().is_some_and(|before| before.len() == 1)
            && edited.after.as_ref().is_some_and(|text| syntax.is_one_line(text) && is_set(text))
    }

    fn edited_once(&self, bytes: &[u8], desired: DesiredEntry<'_>, path: &str) -> Result<Option<Edited>> {
        if bytes.contains(&0) {
            bail!(
                Failure::new(format!(
                    "cannot edit `{path}`: it is not a text file, for it contains zero bytes"
                ))
                .kind(FailureKind::Encoding)
            );
        }
        let lines = Lines::of(bytes);
        self.check(&lines, path)?;
        let edited = self.edited_in(&lines, desired, path)?;
        Ok(edited.map(|edited| {
            let before_text = edited.before.as_ref().map(|before| lines.bodies(before).to_vec());
            Edited { before_text, ..edited }
        }))
    }

    fn edited_in(&self, lines: &Lines<'_>, desired: DesiredEntry<'_>, path: &str) -> Result<Option<Edited>> {
        match (&self.kind, desired) {
            (EntryKind::Line { key, separator }, desired) => {
                let key = Key { name: key, separator: separator.as_deref() };
                let found = self.find_key(lines, key, path)?;
                let region = || self.region(lines, path);
                let region = if found.is_none() { region()? } else { None };
                refuse_doubt(self.format.syntax(), lines, region.as_ref(), key, found.as_ref(), path)?;
                match (desired, found) {
                    (DesiredEntry::Text(value), found) => {
                        self.refuse_unreadable(key.name, value)?;
                        match found {
                            Some(line) => self.set_line(lines, line, key, value, path),
                            None => self.add_line(lines, key, value, path).map(Some),
                        }
                    }
                    (DesiredEntry::Line(_), _) | (_, None) => Ok(None),
                    (DesiredEntry::Comment, Some(line)) => {
                        self.refuse_company(lines, &line, key, path)?;
                        Ok(Some(self.comment_out(lines, line.lines)))
                    }
                    (DesiredEntry::Absent, Some(line)) => {
                        self.refuse_company(lines, &line, key, path)?;
                        Ok(Some(remove(lines, line.lines)))
                    }
                }
            }
            (EntryKind::Block { .. }, DesiredEntry::Text(text)) => self.set_block(lines, text, path),
            (EntryKind::WholeLine { line, .. }, DesiredEntry::Line(beside)) => {
                self.set_whole_line(lines, line, beside, path)
            }
            (EntryKind::Block { .. } | EntryKind::WholeLine { .. }, _) => {
                Ok(self.find(lines, path)?.map(|found| remove(lines, found)))
            }
        }
    }

    /// Refuses what the program of the format does not read as it is.
    fn refuse_unreadable(&self, key: &str, value: &[u8]) -> Result<()> {
        let syntax = self.format.syntax();
        let (what, refusal) = match syntax.refuse_key(key) {
            Some(refusal) => (format!("invalid key `{key}`"), refusal),
            None => match syntax.refuse_value(key, value) {
                Some(refusal) => (format!("invalid value of `{key}`"), refusal),
                None => return Ok(()),
            },
        };
        bail!(Failure::new(format!("{what}: {}", refusal.why)).kind(FailureKind::Usage).hint(refusal.way))
    }

    fn set_whole_line(
        &self,
        lines: &Lines<'_>,
        line: &str,
        beside: Beside<'_>,
        path: &str,
    ) -> Result<Option<Edited>> {
        let text = line.as_bytes();
        if let Some(found) = self.find(lines, path)? {
            return Ok((lines.bodies(&found) != text).then(|| Edited {
                bytes: lines.replaced(&found, text),
                before: Some(found),
                after: Some(text.to_vec()),
                ..Edited::default()
            }));
        }
        let (option, text_of_it, found) = match beside {
            Beside::Nothing => return Ok(Some(self.add(lines, None, Some(lines.count()), text.to_vec()))),
            Beside::After(after) => {
                ("after", after, matching_lines(lines, after)?.last().map(|line| line + 1))
            }
            Beside::Before(before) => ("before", before, matching_lines(lines, before)?.first().copied()),
        };
        let Some(at) = found else {
            bail!(
                Failure::new(format!(
                    "cannot write {} to `{path}`: no line matches `{option}`: `{text_of_it}`",
                    self.shown()
                ))
                .kind(FailureKind::Missing)
                .hint(format!("leave `{option}` out, and the line goes to the end"))
            );
        };
        Ok(Some(self.add(lines, None, Some(at), text.to_vec())))
    }

    /// Refuses to take away a line in which something else is as well.
    fn refuse_company(&self, lines: &Lines<'_>, line: &KeyLine, key: Key<'_>, path: &str) -> Result<()> {
        let text = lines.bodies(&line.lines);
        let value = self.format.syntax().value(text, line.value_at);
        self.refuse_open(&text[value.clone()], line, path)?;
        let behind = text[value.end..].trim_ascii_start();
        if behind.is_empty() || self.format.syntax().is_comment_behind(behind) {
            return Ok(());
        }
        bail!(
            Failure::new(format!(
                "cannot take {} out of `{path}`: line {} has more in it",
                key.name,
                line.lines.start + 1
            ))
            .kind(FailureKind::Refused)
            .hint("use `config::line` to change the whole line")
        )
    }

    fn refuse_open(&self, value: &[u8], line: &KeyLine, path: &str) -> Result<()> {
        if !self.format.syntax().is_open(value) {
            return Ok(());
        }
        let refused = refuse_open_quote(line.lines.start, path);
        bail!(match self.format {
            Format::Ini => refused.hint(
                "name the format with the option `format`: `dotenv` and `shell` know values of several lines"
            ),
            _ => refused,
        })
    }

    fn set_line(
        &self,
        lines: &Lines<'_>,
        line: KeyLine,
        key: Key<'_>,
        value: &[u8],
        path: &str,
    ) -> Result<Option<Edited>> {
        let (syntax, text) = (self.format.syntax(), lines.bodies(&line.lines));
        let old = syntax.value(text, line.value_at);
        if syntax.meaning(&text[old.clone()]) == syntax.meaning(value) {
            return Ok(None);
        }
        self.refuse_open(&text[old.clone()], &line, path)?;
        if old.is_empty() && !value.is_empty() && syntax.resets() {
            let end = lines.end_at(line.lines.end);
            let own = text[..old.start].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            let new = [text, end, &text[own..old.start], value].concat();
            return Ok(Some(Edited {
                bytes: lines.replaced(&line.lines, &new),
                before: Some(line.lines),
                after: Some(new),
                ..Edited::default()
            }));
        }
        let (mut new, behind) = (text[..old.start].to_vec(), &text[old.end..]);
        if old.is_empty() && !value.is_empty() {
            if let Some(sign) = syntax.missing_sign(lines, &new, key) {
                new.extend_from_slice(sign.as_bytes());
            } else if needs_space(&new, key.name) {
                new.push(b' ');
            }
        }
        new.extend_from_slice(value);
        if !is_blank(behind) {
            if old.is_empty() && !behind[0].is_ascii_whitespace() {
                new.push(b' ');
            }
            new.extend_from_slice(behind);
        }
        Ok(Some(Edited {
            bytes: lines.replaced(&line.lines, &new),
            before: Some(line.lines),
            after: Some(new),
            ..Edited::default()
        }))
    }

    fn add_line(&self, lines: &Lines<'_>, key: Key<'_>, value: &[u8], path: &str) -> Result<Edited> {
        let (syntax, region) = (self.format.syntax(), self.region(lines, path)?);
        let mut at = None;
        let mut near = None;
        if let Some(region) = &region {
            let example = behind_example(syntax, lines, region, key, &self.comment);
            at = example.map(|at| above_block(lines, region, at));
            near = indentation(syntax, lines, region);
        }
        let mut text = Vec::new();
        if let (Some(_), Some(sections)) = (&self.section, syntax.sections()) {
            text.extend_from_slice(near.unwrap_or(sections.indentation().as_bytes()));
        }
        let parts = region.as_ref().map(|region| &*region.parts);
        let separator = key.separator.map_or_else(|| syntax.separator(lines, parts), str::to_owned);
        text.extend_from_slice(&syntax.written(key.name, &separator, value));
        Ok(self.add(lines, region.as_ref(), at, text))
    }

    /// Puts new lines at `at`, else at the end of the region, which is made if it is missing.
    fn add(&self, lines: &Lines<'_>, region: Option<&Region>, at: Option<usize>, text: Vec<u8>) -> Edited {
        let at = match (at, region) {
            (Some(at), _) => at,
            (None, Some(region)) => above_block(lines, region, region.end(lines, self.format)),
            (None, None) => self.place_for_section(lines),
        };
        let end_above = at == lines.count() && lines.is_unterminated();
        let mut made = Made { end_above, ..Made::default() };
        let mut whole = Vec::new();
        if let (None, Some(section)) = (region, &self.section) {
            let end = lines.end_at(at);
            made.header = true;
            made.blank = at > 0 && !is_blank(lines.body(at - 1));
            if made.blank {
                whole.extend_from_slice(end);
            }
            let header = self.format.syntax().sections().map(|sections| sections.written(section));
            whole.extend_from_slice(header.unwrap_or_default().as_bytes());
            whole.extend_from_slice(end);
        }
        whole.extend_from_slice(&text);
        Edited { bytes: lines.inserted(at, &whole), after: Some(text), made, ..Edited::default() }
    }

    /// Before which line a new section goes.
    fn place_for_section(&self, lines: &Lines<'_>) -> usize {
        let place = || self.format.syntax().sections()?.place(lines, self.section.as_deref()?);
        place().unwrap_or(lines.count())
    }

    /// The file with this text after all else, in a section of its own if the entry has one.
    pub fn added_at_end(&self, lines: &Lines<'_>, text: &[u8]) -> Vec<u8> {
        let region = if self.section.is_some() { None } else { Some(Region::whole(lines)) };
        self.add(lines, region.as_ref(), None, text.to_vec()).bytes
    }

    fn comment_out(&self, lines: &Lines<'_>, found: Range<usize>) -> Edited {
        let mut text = Vec::new();
        for number in found.clone() {
            text.extend_from_slice(self.comment.as_bytes());
            let line = &lines.bytes()[lines.span(&(number..number + 1))];
            text.extend_from_slice(if number + 1 == found.end { lines.body(number) } else { line });
        }
        Edited {
            bytes: lines.replaced(&found, &text),
            before: Some(found),
            commented: Some(text),
            ..Edited::default()
        }
    }

    fn markers(&self) -> (String, String) {
        let EntryKind::Block { name } = &self.kind else { return (String::new(), String::new()) };
        (format!("{} BEGIN kkrun {name}", self.comment), format!("{} END kkrun {name}", self.comment))
    }

    fn find_block(&self, lines: &Lines<'_>, path: &str) -> Result<Option<Range<usize>>> {
        let (begin, end) = self.markers();
        let mut marks = (0..lines.count()).filter_map(|number| {
            let body = lines.body(number).trim_ascii();
            let begins = body == begin.as_bytes();
            (begins || body == end.as_bytes()).then_some((number, begins))
        });
        match [marks.next(), marks.next(), marks.next()] {
            [None, ..] => Ok(None),
            [Some((first, true)), Some((last, false)), None] => Ok(Some(first..last + 1)),
            [first, second, third] => {
                let numbers = [first, second, third].into_iter().flatten();
                let numbers: Vec<_> = numbers.map(|(number, _)| (number + 1).to_string()).collect();
                bail!(
                    Failure::new(format!(
                        "expected one pair of marks of {} in `{path}`, found marks in line {}",
                        self.shown(),
                        numbers.join(", ")
                    ))
                    .kind(FailureKind::Duplicate)
                    .hint(format!("keep one `{begin}` with one `{end}` after it, or remove them all"))
                )
            }
        }
    }

    fn set_block(&self, lines: &Lines<'_>, text: &[u8], path: &str) -> Result<Option<Edited>> {
        let (begin, end) = self.markers();
        let mut inside: Vec<&[u8]> =
            text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)).collect();
        if inside.last().is_some_and(|line| line.is_empty()) {
            inside.pop();
        }
        if inside.iter().any(|line| [begin.as_bytes(), end.as_bytes()].contains(&line.trim_ascii())) {
            bail!(
                Failure::new(format!("cannot write {}: its text contains its own mark", self.shown()))
                    .kind(FailureKind::Refused)
            );
        }
        let found = self.find_block(lines, path)?;
        let region = match &self.section {
            None => Some(Region::whole(lines)),
            Some(_) => self.region(lines, path)?,
        };
        let at = match (&found, &self.section, self.format) {
            (Some(found), ..) => Some(found.start + 1),
            // At the end it would be in the last block, for one host or user only.
            (None, None, Format::Sshd | Format::Ssh | Format::Php) => {
                let region = self.region(lines, path)?;
                region.map(|region| above_block(lines, &region, region.end(lines, self.format)))
            }
            (None, None, _) => Some(lines.count()),
            (None, Some(_), _) => None,
        };
        let line_end = lines.end_at(at.unwrap_or(lines.count()));
        let all = [&[begin.as_bytes()], &*inside, &[end.as_bytes()]].concat().join(line_end);
        match found {
            Some(found) if lines.bodies(&found) == all => Ok(None),
            Some(found) => Ok(Some(Edited {
                bytes: lines.replaced(&found, &all),
                before: Some(found),
                after: Some(all),
                ..Edited::default()
            })),
            None => Ok(Some(self.add(lines, region.as_ref(), at, all))),
        }
    }
}

/// This place, or the one above the block that it is in: what is between the marks of a block is the block's.
fn above_block(lines: &Lines<'_>, region: &Region, at: usize) -> usize {
    let has = |number: usize, mark: &[u8]| memchr::memmem::find(lines.body(number), mark).is_some();
    let part = region.parts.iter().find(|part| part.start <= at && at <= part.end);
    let above = part.map_or(at..at, |part| part.start..at);
    let last_mark = above.rev().find(|number| has(*number, b" BEGIN kkrun ") || has(*number, b" END kkrun "));
    last_mark.filter(|number| has(*number, b" BEGIN kkrun ")).unwrap_or(at)
}

/// Whether a line that ends after its key or its separator needs a space before a value.
fn needs_space(text: &[u8], key: &str) -> bool {
    let written = text.trim_ascii_end();
    let Some((sign, before)) = written.split_last().filter(|_| written.len() == text.len()) else {
        return false;
    };
    *sign == b':' || before.last().is_some_and(u8::is_ascii_whitespace) || {
        let from = written.len().saturating_sub(key.len());
        written[from..].eq_ignore_ascii_case(key.as_bytes())
    }
}

/// The lines that a regular expression matches.
///
/// # Errors
/// When it is invalid.
pub fn matching_lines(lines: &Lines<'_>, pattern: &str) -> Result<Vec<usize>> {
    let pattern = regex::bytes::Regex::new(pattern).map_err(|error| {
        Failure::new(format!("invalid regular expression `{pattern}`: {error}")).kind(FailureKind::Option)
    })?;
    Ok((0..lines.count()).filter(|number| pattern.is_match(lines.body(*number))).collect())
}

/// The line that `matching` finds, else one that is equal.
fn find_whole_line(
    lines: &Lines<'_>,
    line: &str,
    matching: Option<&str>,
    path: &str,
) -> Result<Option<Range<usize>>> {
    let found = match matching {
        None => (0..lines.count()).find(|number| lines.body(*number) == line.as_bytes()),
        Some(pattern) => match *matching_lines(lines, pattern)? {
            [first, second, ..] => bail!(
                Failure::new(format!(
                    "several lines of `{path}` match `{pattern}`: lines {} and {}",
                    first + 1,
                    second + 1
                ))
                .kind(FailureKind::Duplicate)
                .hint("let `matching` say more of the line that is meant")
            ),
            [one] => Some(one),
            [] => None,
        },
    };
    Ok(found.map(|number| number..number + 1))
}

fn remove(lines: &Lines<'_>, found: Range<usize>) -> Edited {
    Edited { bytes: lines.removed(&found, false), before: Some(found), ..Edited::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(section: Option<&str>, key: &str) -> FileEntry {
        let kind = EntryKind::Line { key: key.to_owned(), separator: None };
        FileEntry { section: section.map(str::to_owned), comment: "#".to_owned(), format: Format::Ini, kind }
    }

    fn block(name: &str) -> FileEntry {
        FileEntry {
            section: None,
            comment: "#".to_owned(),
            format: Format::Ini,
            kind: EntryKind::Block { name: name.to_owned() },
        }
    }

    fn edited(entry: &FileEntry, before: &str, desired: DesiredEntry<'_>) -> Option<String> {
        let edited = entry.edited(before.as_bytes(), desired, "/f").unwrap()?;
        // Once made, it is as desired.
        assert_eq!(entry.edited(&edited.bytes, desired, "/f").unwrap(), None, "{before:?}");
        Some(String::from_utf8(edited.bytes).unwrap())
    }

    fn set(section: Option<&str>, key: &str, before: &str) -> Option<String> {
        edited(&line(section, key), before, DesiredEntry::Text(b"new"))
    }

    #[test]
    fn what_would_not_be_read_back_is_refused() {
        for (separator, value) in [(None, " padded"), (None, "padded "), (Some(" "), " 1"), (Some(" "), "")] {
            let kind = EntryKind::Line { key: "k".to_owned(), separator: separator.map(str::to_owned) };
            let entry = FileEntry { section: None, comment: "#".to_owned(), format: Format::Ini, kind };
            for before in ["", "K 1\n", "k = 2\n", "k 2\n"] {
                let desired = DesiredEntry::Text(value.as_bytes());
                match entry.edited(before.as_bytes(), desired, "the file") {
                    Ok(Some(edited)) => {
                        assert!(entry.edited(&edited.bytes, desired, "the file").unwrap().is_none());
                    }
                    Ok(None) => {}
                    Err(error) => {
                        let said = error.to_string();
                        assert!(
                            said.contains("read back") || said.contains("whitespace at its ends"),
                            "{said}"
                        );
                    }
                }
            }
        }
        let padded = line(None, "k").edited(b"", DesiredEntry::Text(b" padded"), "the file");
        assert!(padded.is_err());
    }

    #[test]
    fn a_line_is_set_where_it_stands() {
        for (before, after) in [
            ("a=1\nk=old\nb=2\n", "a=1\nk=new\nb=2\n"),
            ("\tk  =  old \nb=2\n", "\tk  =  new\nb=2\n"),
            ("k: old\r\nb: 1\r\n", "k: new\r\nb: 1\r\n"),
            ("a = 1\nk =\n", "a = 1\nk = new\n"),
            ("a=1\nk=\n", "a=1\nk=new\n"),
            ("a: 1\nk:\n", "a: 1\nk: new\n"),
            ("k=a \\\n  b\nc=1\n", "k=new\nc=1\n"),
            ("k=\"old\"\n#k=x\n", "k=new\n#k=x\n"),
        ] {
            assert_eq!(set(None, "k", before).as_deref(), Some(after), "{before:?}");
        }
        assert_eq!(set(None, "k", "k = new \n"), None);
    }

    #[test]
    fn a_new_line_is_written_as_its_neighbours_are() {
        for (before, after) in [
            ("", "k=new\n"),
            ("a = 1\n", "a = 1\nk = new\n"),
            ("a=1\r\n", "a=1\r\nk=new\r\n"),
            ("a=1", "a=1\nk=new"),
            ("a=1\r\nb=2", "a=1\r\nb=2\r\nk=new"),
            ("a=1\n#k=old\n# k = older\nb=2\n", "a=1\n#k=old\n# k = older\nk=new\nb=2\n"),
            ("a=1\n\n", "a=1\nk=new\n\n"),
            ("a=1\n\n[s]\nk=2\n", "a=1\nk=new\n\n[s]\nk=2\n"),
        ] {
            assert_eq!(set(None, "k", before).as_deref(), Some(after), "{before:?}");
        }
    }

    #[test]
    fn a_section_is_kept_apart_and_made_at_the_end() {
        for (before, after) in [
            ("k=0\n[s]\nk=1\n[t]\nk=2\n", "k=0\n[s]\nk=new\n[t]\nk=2\n"),
            ("[s]\na=1\n\n[t]\nk=2\n", "[s]\na=1\nk=new\n\n[t]\nk=2\n"),
            ("[t]\nk=2\n[s]\n", "[t]\nk=2\n[s]\nk=new\n"),
            ("[s]\n#k=1\na=1\n[t]\n", "[s]\n#k=1\nk=new\na=1\n[t]\n"),
            ("[s]\n\ta = 1\n[t]\n\tb = 1\n", "[s]\n\ta = 1\n\tk = new\n[t]\n\tb = 1\n"),
            ("", "[s]\nk=new\n"),
            ("[t]\na = 1\n", "[t]\na = 1\n\n[s]\nk = new\n"),
            ("[t]\n\n", "[t]\n\n[s]\nk=new\n"),
            ("[t]\r\na=1", "[t]\r\na=1\r\n\r\n[s]\r\nk=new"),
        ] {
            assert_eq!(set(Some("s"), "k", before).as_deref(), Some(after), "{before:?}");
        }
    }

    #[test]
    fn a_line_is_commented_out_or_removed() {
        let entry = line(None, "k");
        for (before, commented, removed) in [
            ("a=1\nk=1\nb=2\n", "a=1\n#k=1\nb=2\n", "a=1\nb=2\n"),
            ("a=1\r\nk=1", "a=1\r\n#k=1", "a=1\r\n"),
            ("  k = x \\\n y\nb=1\n", "#  k = x \\\n# y\nb=1\n", "b=1\n"),
        ] {
            assert_eq!(edited(&entry, before, DesiredEntry::Comment).as_deref(), Some(commented));
            assert_eq!(edited(&entry, before, DesiredEntry::Absent).as_deref(), Some(removed));
        }
        for desired in [DesiredEntry::Comment, DesiredEntry::Absent] {
            assert_eq!(edited(&entry, "#k=1\n", desired), None);
        }
    }

    #[test]
    fn a_block_is_written_at_the_end_and_then_where_it_stands() {
        let write = |before: &str, text: &str| {
            edited(&block("x"), before, DesiredEntry::Text(text.as_bytes())).unwrap()
        };
        let first = write("top\r\n", "one\ntwo\n");
        assert_eq!(first, "top\r\n# BEGIN kkrun x\r\none\r\ntwo\r\n# END kkrun x\r\n");
        let second = write(&format!("{first}below\r\n"), "three");
        assert_eq!(second, "top\r\n# BEGIN kkrun x\r\nthree\r\n# END kkrun x\r\nbelow\r\n");
        assert_eq!(edited(&block("x"), &second, DesiredEntry::Absent).unwrap(), "top\r\nbelow\r\n");
        assert_eq!(write("", ""), "# BEGIN kkrun x\n# END kkrun x\n");
    }

    #[test]
    fn a_new_line_goes_into_no_block() {
        let text = "# BEGIN kkrun x\n#k=1\n[s]\na=1\n# END kkrun x\n";
        assert_eq!(set(None, "k", text).as_deref(), Some(&*format!("k=new\n{text}")));
        let text = "a=1\n# BEGIN kkrun x\nb=1\n# END kkrun x\n";
        assert_eq!(set(None, "k", text).as_deref(), Some(&*format!("{text}k=new\n")));
    }

    #[test]
    fn a_block_of_ssh_goes_before_the_blocks_for_a_host_or_user() {
        let mut entry = block("x");
        entry.format = Format::Sshd;
        let text = DesiredEntry::Text(b"A 1");
        let marked = "# BEGIN kkrun x\nA 1\n# END kkrun x\n";
        assert_eq!(
            edited(&entry, "B 1\n\nMatch User a\n  B 2\n", text).as_deref(),
            Some(&*format!("B 1\n{marked}\nMatch User a\n  B 2\n"))
        );
        assert_eq!(edited(&entry, "B 1\n", text).as_deref(), Some(&*format!("B 1\n{marked}")));
    }

    #[test]
    fn what_cannot_be_edited_is_refused() {
        let kind = |entry: &FileEntry, before: &[u8], desired: DesiredEntry<'_>| {
            let error = entry.edited(before, desired, "/f").unwrap_err();
            error.downcast_ref::<Failure>().unwrap().kind.as_str()
        };
        let text = DesiredEntry::Text(b"new");
        assert_eq!(kind(&line(None, "k"), b"k=1\nk=2\n", text), "duplicate");
        assert_eq!(kind(&line(None, "k"), b"k=\"one\ntwo\"\n", text), "refused");
        assert_eq!(kind(&line(None, "k"), b"k='one\ntwo'\n", DesiredEntry::Absent), "refused");
        assert_eq!(kind(&line(None, "k"), b"k\0=1\n", text), "encoding");
        assert_eq!(kind(&block("x"), b"# BEGIN kkrun x\n", text), "duplicate");
        assert_eq!(kind(&block("x"), b"# END kkrun x\n# BEGIN kkrun x\n", text), "duplicate");
        assert_eq!(kind(&block("x"), b"", DesiredEntry::Text(b"a\n# END kkrun x\n")), "refused");
    }

    #[test]
    fn bytes_outside_the_line_are_never_touched() {
        use proptest::prelude::*;
        let word = prop::sample::select(vec![
            "a=1", "k=1", "#k=2", "[s]", "[t]", "", " ", "\u{fe}", "x = y", "k", "k : z\\", "b=2",
        ]);
        let file = prop::collection::vec((word, prop::sample::select(vec!["\n", "\r\n"])), 0..12);
        let section = prop::sample::select(vec![None, Some("s")]);
        let entries = prop::sample::select(vec![
            DesiredEntry::Text(b"new"),
            DesiredEntry::Text(b""),
            DesiredEntry::Comment,
            DesiredEntry::Absent,
        ]);
        proptest!(|(file in file, section in section, desired in entries, ended: bool, marked: bool)| {
            let mut before: String = file.iter().flat_map(|(word, end)| [*word, *end]).collect();
            if !ended {
                before.truncate(before.trim_end_matches(['\r', '\n']).len());
            }
            if marked {
                before.insert(0, '\u{feff}');
            }
            let entry = line(section, "k");
            let Ok(Some(edited)) = entry.edited(before.as_bytes(), desired, "/f") else { return Ok(()) };
            let before = Lines::of(before.as_bytes());
            let after = Lines::of(&edited.bytes);
            let same = |(one, two): &(usize, usize)| {
                let (one, two) = (before.span(&(*one..*one + 1)), after.span(&(*two..*two + 1)));
                before.bytes()[one] == after.bytes()[two]
            };
            let (from_start, from_end) = match (&edited.before, edited.made.end_above) {
                (Some(lines), _) => (lines.start, before.count() - lines.end),
                (None, true) => (before.count() - 1, 0),
                (None, false) => {
                    let from_start = (0..before.count()).zip(0..).take_while(same).count();
                    (from_start, before.count() - from_start)
                }
            };
            prop_assert!((0..from_start).zip(0..).all(|pair| same(&pair)));
            let (last, last_after) = (before.count(), after.count());
            prop_assert!((1..=from_end).all(|back| same(&(last - back, last_after - back))));
            prop_assert_eq!(entry.edited(&edited.bytes, desired, "/f").unwrap(), None);
        });
    }
}
