//! A file that was edited, as the entries that were set in it.

use regex::escape;
use similar::{Algorithm, DiffOp, capture_diff_slices};

use super::literal;
use crate::change::{Asked, Beside, DesiredEntry, EntryKind, FileEntry, Format, recognise};

/// A file in which more lines differ is written whole.
pub(super) const MOST_EDITS: usize = 24;

/// One line that is otherwise.
struct Piece<'text> {
    /// Its place among the lines, in the text that the pieces before it have made.
    at: usize,
    removed: Option<&'text str>,
    added: Option<&'text str>,
}

/// A call that edits a file, and what it does.
struct Edit {
    entry: FileEntry,
    desired: Desired,
    code: String,
}

enum Desired {
    Text(String),
    End,
    After(String),
    Before(String),
    Comment,
    Absent,
}

impl Desired {
    fn entry(&self) -> DesiredEntry<'_> {
        match self {
            Self::Text(text) => DesiredEntry::Text(text.as_bytes()),
            Self::End => DesiredEntry::Line(Beside::Nothing),
            Self::After(pattern) => DesiredEntry::Line(Beside::After(pattern)),
            Self::Before(pattern) => DesiredEntry::Line(Beside::Before(pattern)),
            Self::Comment => DesiredEntry::Comment,
            Self::Absent => DesiredEntry::Absent,
        }
    }
}

/// The calls of `config::` that make `after` of `before`, byte for byte and without any effect when they are made again;
/// `None` if there are none.
pub(super) fn edits(path: &str, before: &str, after: &str) -> Option<Vec<String>> {
    let pieces = pieces(before, after);
    if pieces.is_empty() || pieces.len() > MOST_EDITS {
        return None;
    }
    let mut current = before.to_owned();
    let mut made = Vec::new();
    for piece in pieces {
        let expected = piece.applied(&current);
        let edit = candidates(path, &current, &expected, &piece).into_iter().find(|edit| {
            let edited = edit.entry.edited(current.as_bytes(), edit.desired.entry(), path);
            matches!(edited, Ok(Some(edited)) if edited.bytes == expected.as_bytes())
        })?;
        made.push(edit);
        current = expected;
    }
    let is_stable =
        |edit: &Edit| matches!(edit.entry.edited(after.as_bytes(), edit.desired.entry(), path), Ok(None));
    (current == after && made.iter().all(is_stable)).then(|| made.into_iter().map(|edit| edit.code).collect())
}

fn pieces<'text>(before: &'text str, after: &'text str) -> Vec<Piece<'text>> {
    let old: Vec<&str> = before.split_inclusive('\n').collect();
    let new: Vec<&str> = after.split_inclusive('\n').collect();
    let mut pieces = Vec::new();
    for operation in capture_diff_slices(Algorithm::Myers, &old, &new) {
        if matches!(operation, DiffOp::Equal { .. }) {
            continue;
        }
        let (removed, added) = (&old[operation.old_range()], &new[operation.new_range()]);
        for number in 0..removed.len().max(added.len()) {
            pieces.push(Piece {
                at: operation.new_range().start + number.min(added.len()),
                removed: removed.get(number).copied(),
                added: added.get(number).copied(),
            });
        }
    }
    pieces
}

impl Piece<'_> {
    fn applied(&self, text: &str) -> String {
        let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
        let at = self.at.min(lines.len());
        let end = at + usize::from(self.removed.is_some());
        lines.splice(at..end.min(lines.len()), self.added);
        lines.concat()
    }
}

/// What may be meant by a piece, the best first.
fn candidates(path: &str, current: &str, expected: &str, piece: &Piece<'_>) -> Vec<Edit> {
    let mut found = Vec::new();
    let body = |line: &str| line.trim_end_matches(['\n', '\r']).to_owned();
    // An empty line is none that a call could name.
    if piece.added.or(piece.removed).is_none_or(|line| line.trim().is_empty()) {
        return found;
    }
    if let Some(line) = piece.added.map(body) {
        let section = section(expected, piece.at);
        for separator in [None, Some(" = "), Some("="), Some(" "), Some(": ")] {
            for section in [None, section.as_deref()] {
                found.extend(set(path, current, &line, section, separator));
                if let Some(removed) = piece.removed.map(body) {
                    found.extend(comment(path, current, &removed, section, separator));
                }
            }
        }
        found.extend(whole_lines(path, current, &line, piece));
    } else if let Some(line) = piece.removed.map(body) {
        let entry = plain(EntryKind::WholeLine { line: line.clone(), matching: None });
        let code = format!("config::remove_line({}, {});", literal::string(path), literal::string(&line));
        found.push(Edit { entry, desired: Desired::Absent, code });
    }
    found
}

fn plain(kind: EntryKind) -> FileEntry {
    FileEntry { section: None, comment: "#".to_owned(), format: Format::default(), kind }
}

/// The section that a line is in, where headers have brackets.
fn section(text: &str, at: usize) -> Option<String> {
    let headers =
        text.lines().take(at + 1).filter_map(|line| line.trim().strip_prefix('[')?.strip_suffix(']'));
    headers.last().map(str::to_owned)
}

/// Key and value of a line.
fn assignment<'line>(line: &'line str, separator: Option<&str>) -> Option<(&'line str, &'line str)> {
    let line = line.trim();
    let line = line.strip_prefix("export ").unwrap_or(line);
    let (key, value) = match separator.map(str::trim) {
        Some("") => line.split_once(char::is_whitespace)?,
        Some(separator) => line.split_once(separator)?,
        None => line
            .split_once('=')
            .filter(|(key, _)| !key.trim().contains(' '))
            .or_else(|| line.split_once(char::is_whitespace))?,
    };
    let key = key.trim();
    let is_plain = |letter: char| letter.is_alphanumeric() || "_.:/@*-".contains(letter);
    (!key.is_empty() && key.chars().all(is_plain)).then_some((key, value.trim()))
}

/// The entry of a key in this file, and the options that say which.
fn keyed(
    path: &str,
    current: &str,
    key: &str,
    section: Option<&str>,
    separator: Option<&str>,
) -> Option<(FileEntry, Vec<(&'static str, String)>)> {
    let asked =
        Asked { format: None, is_described: separator.is_some() || section.is_some(), is_block: false };
    let format = recognise(path.as_ref(), current.as_bytes(), asked).ok()?;
    // A format that is known says itself what separates, and a line does not say where its value is in a tree.
    if separator.is_some() && format != Format::Ini || format.is_document() {
        return None;
    }
    let kind = EntryKind::Line { key: key.to_owned(), separator: separator.map(str::to_owned) };
    let comment = format.comment().to_owned();
    let entry = FileEntry { section: section.map(str::to_owned), comment, format, kind };
    let mut options = Vec::new();
    options.extend(section.map(|section| ("section", literal::string(section))));
    options.extend(separator.map(|separator| ("separator", literal::string(separator))));
    Some((entry, options))
}

fn set(
    path: &str,
    current: &str,
    line: &str,
    section: Option<&str>,
    separator: Option<&str>,
) -> Option<Edit> {
    let (key, value) = assignment(line, separator)?;
    let (entry, options) = keyed(path, current, key, section, separator)?;
    // The line of an fstab is named by its mount point, and the value is the whole line.
    let (entry, key, value) = if entry.format == Format::Fstab {
        let key = line.split_whitespace().nth(1)?;
        let kind = EntryKind::Line { key: key.to_owned(), separator: None };
        (FileEntry { kind, ..entry }, key, line)
    } else {
        (entry, key, value)
    };
    let arguments = [literal::string(path), literal::string(key), literal::value(value)].join(", ");
    let code = format!("config::set({arguments}{});", literal::options(&options));
    Some(Edit { entry, desired: Desired::Text(value.to_owned()), code })
}

fn comment(
    path: &str,
    current: &str,
    removed: &str,
    section: Option<&str>,
    separator: Option<&str>,
) -> Option<Edit> {
    let (key, _) = assignment(removed, separator)?;
    let (entry, options) = keyed(path, current, key, section, separator)?;
    let arguments = [literal::string(path), literal::string(key)].join(", ");
    let code = format!("config::comment({arguments}{});", literal::options(&options));
    Some(Edit { entry, desired: Desired::Comment, code })
}

fn whole_lines(path: &str, current: &str, line: &str, piece: &Piece<'_>) -> Vec<Edit> {
    let edit = |matching: Option<String>, desired: Desired| {
        let mut options = Vec::new();
        options.extend(matching.as_deref().map(|pattern| ("matching", literal::string(pattern))));
        match &desired {
            Desired::After(pattern) => options.push(("after", literal::string(pattern))),
            Desired::Before(pattern) => options.push(("before", literal::string(pattern))),
            _ => {}
        }
        let arguments = [literal::string(path), literal::string(line)].join(", ");
        let code = format!("config::line({arguments}{});", literal::options(&options));
        let entry = plain(EntryKind::WholeLine { line: line.to_owned(), matching });
        Edit { entry, desired, code }
    };
    if let Some(removed) = piece.removed.map(|line| line.trim_end_matches('\n')) {
        // Of a name or a date that is the whole file nothing stays to be edited.
        if current.lines().count() == 1 {
            return Vec::new();
        }
        let bare = |line: &str| line.trim_start_matches(['#', ';', ' ', '\t']).to_owned();
        let (old, new) = (bare(removed), bare(line));
        let common: usize = old
            .chars()
            .zip(new.chars())
            .take_while(|(left, right)| left == right)
            .map(|(letter, _)| letter.len_utf8())
            .sum();
        let word = old[..common].rfind([' ', '=', ':', '\t']).map_or(common, |end| end + 1);
        let mut patterns = Vec::new();
        if word > 1 {
            patterns.push(format!("^{}", escape(&old[..word])));
            patterns.push(format!("^[#; \\t]*{}", escape(&old[..word])));
        }
        patterns.push(format!("^(?:{}|{})$", escape(removed), escape(line)));
        return patterns.into_iter().map(|pattern| edit(Some(pattern), Desired::End)).collect();
    }
    let lines: Vec<&str> = current.lines().collect();
    let whole = |line: &&str| format!("^{}$", escape(line));
    let above = piece.at.checked_sub(1).and_then(|above| lines.get(above)).map(whole);
    let below = lines.get(piece.at).map(whole);
    let mut found = vec![edit(None, Desired::End)];
    found.extend(above.map(|pattern| edit(None, Desired::After(pattern))));
    found.extend(below.map(|pattern| edit(None, Desired::Before(pattern))));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str, before: &str, after: &str) -> Vec<String> {
        edits(path, before, after).unwrap()
    }

    #[test]
    fn a_key_of_a_known_format_is_set() {
        let before = "#Port 22\n#PermitRootLogin prohibit-password\nX11Forwarding yes\n";
        let after = "#Port 22\nPort 2222\n#PermitRootLogin prohibit-password\nX11Forwarding no\n";
        assert_eq!(
            of("/etc/ssh/sshd_config", before, after),
            [
                "config::set(\"/etc/ssh/sshd_config\", \"Port\", 2222);",
                "config::set(\"/etc/ssh/sshd_config\", \"X11Forwarding\", \"no\");"
            ]
        );
    }

    #[test]
    fn a_comment_that_became_a_setting_is_a_line_that_replaces_it() {
        let edits = of("/etc/ssh/sshd_config", "#Port 22\nUsePAM yes\n", "Port 2222\nUsePAM yes\n");
        assert_eq!(
            edits,
            ["config::line(\"/etc/ssh/sshd_config\", \"Port 2222\", #{ matching: \"^[#; \\\\t]*Port \" });"]
        );
    }

    #[test]
    fn a_key_of_a_section_names_it() {
        let before = "[Seat:*]\ngreeter=x\n\n[XDMCPServer]\nenabled=false\n";
        let edits = of("/etc/lightdm/lightdm.conf", before, &before.replace("greeter=x", "greeter=y"));
        assert_eq!(
            edits,
            ["config::set(\"/etc/lightdm/lightdm.conf\", \"greeter\", \"y\", #{ section: \"Seat:*\" });"]
        );
    }

    #[test]
    fn a_document_is_edited_by_its_lines_where_more_than_keys_differs() {
        assert_eq!(
            of("/root/.cargo/config.toml", "[build]\njobs = 2\n", "[build]\njobs = 2 # two\n"),
            ["config::line(\"/root/.cargo/config.toml\", \"jobs = 2 # two\", #{ matching: \"^jobs = \" });"]
        );
    }

    #[test]
    fn lines_at_the_end_are_added_in_order() {
        assert_eq!(
            of("/root/.bashrc", "# rc\n", "# rc\neval \"$(x)\"\nalias ll='ls -l'\n"),
            [
                "config::line(\"/root/.bashrc\", \"eval \\\"$(x)\\\"\");",
                "config::line(\"/root/.bashrc\", \"alias ll='ls -l'\");"
            ]
        );
    }

    #[test]
    fn a_line_in_the_middle_or_gone_is_said_so() {
        assert_eq!(
            of("/etc/x", "a b\nc d\n", "a b\nnew one\nc d\n"),
            ["config::line(\"/etc/x\", \"new one\", #{ after: \"^a b$\" });"]
        );
        assert_eq!(
            of("/etc/hosts", "127.0.0.1 a\n127.0.1.1 b\n", "127.0.0.1 a\n"),
            ["config::remove_line(\"/etc/hosts\", \"127.0.1.1 b\");"]
        );
    }

    #[test]
    fn what_no_call_makes_byte_for_byte_is_none() {
        assert_eq!(edits("/etc/x", "a\n", "a\n\n"), None);
        assert_eq!(edits("/etc/hostname", "pristine\n", "relay\n"), None);
        assert_eq!(edits("/etc/x", "a\n", "a\na\n"), None);
        assert_eq!(edits("/etc/x", "a\n", "a\n"), None);
    }
}
