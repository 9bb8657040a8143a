//! `config::` edits a key, a line or a block of a text file and leaves every other byte alone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use rhai::plugin::*;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::file::{Mode, Ownership, absolute};
use super::shorter::namespace;
use crate::change::{
    Asked, Beside, Change, DesiredEntry, DesiredLine, EditChange, EditTerms, EntryKind, FileEntry, Format,
    Found, Lines, Payload, TogetherTerms, entry_target, is_document, matching_lines, plain_value, recognise,
    refuse_without_effect,
};
use crate::failure::{Failure, FailureKind};
use crate::machine::files::{self, Attributes, FileState};
use crate::script::{Host, OptionSet, Raised, Unpredictable, act, json_of, look, options_of, value_of};
use crate::target::Target;

pub(super) fn module() -> rhai::Module {
    namespace(
        exported_manifest!(functions),
        &[
            ("get", 1),
            ("set", 1),
            ("comment", 1),
            ("remove", 1),
            ("block", 1),
            ("line", 1),
            ("remove_line", 1),
        ],
    )
}

pub(super) fn options(function: &str) -> OptionSet {
    match function {
        "line" => OptionSet::of::<LineOptions>(),
        "remove_line" => OptionSet::of::<RemoveLineOptions>(),
        _ => OptionSet::of::<Options>(),
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    section: Option<String>,
    separator: Option<String>,
    format: Option<Format>,
    comment: Option<String>,
    in_place: bool,
    owner: Option<String>,
    group: Option<String>,
    mode: Option<Mode>,
}

impl Options {
    fn of(map: rhai::Map) -> Result<Self> {
        options_of(map)
    }

    /// The entry of this kind that the options point to.
    fn entry(&self, kind: EntryKind) -> Result<FileEntry> {
        let comment = self.comment.as_deref().unwrap_or(Format::default().comment()).trim();
        if comment.is_empty() || comment.contains(char::is_alphanumeric) || comment.contains(char::is_control)
        {
            bail!(
                Failure::new(format!("invalid option `comment`: `{comment}` cannot begin a comment"))
                    .kind(FailureKind::Option)
            );
        }
        if let Some(separator) = &self.separator
            && (separator.is_empty() || separator.contains(['\n', '\r', '\0']))
        {
            bail!(
                Failure::new("invalid option `separator`: it is empty or contains a line ending")
                    .kind(FailureKind::Option)
            );
        }
        let section = self.section.clone().filter(|section| !section.is_empty());
        Ok(FileEntry { section, comment: comment.to_owned(), format: Format::default(), kind })
    }

    /// The entry in a file of this format.
    fn of_format(&self, entry: FileEntry, format: Format) -> Result<FileEntry> {
        let comment = match &self.comment {
            None => format.comment().to_owned(),
            Some(_) if format.is_comment(&entry.comment) => entry.comment,
            Some(_) => bail!(
                Failure::new(format!(
                    "invalid option `comment`: `{}` begins no comment in this format",
                    entry.comment
                ))
                .kind(FailureKind::Option)
                .hint(format!("leave it out: kkrun writes `{}`", format.comment()))
            ),
        };
        Ok(FileEntry { comment, format, ..entry })
    }

    fn line(&self, key: &str) -> Result<FileEntry> {
        let begins = key.starts_with(['#', ';', '[']);
        if key.is_empty() || key.trim() != key || key.contains(char::is_control) || begins {
            bail!(
                Failure::new(format!(
                    "invalid key `{}`: a key is not empty, does not begin with #, ; or [, and has no whitespace \
                     around it and no control characters",
                    key.escape_debug()
                ))
                .kind(FailureKind::Usage)
            );
        }
        self.entry(EntryKind::Line { key: key.to_owned(), separator: self.separator.clone() })
    }

    fn block(&self, name: &str) -> Result<FileEntry> {
        if name.is_empty() || name.trim() != name || name.contains(char::is_control) {
            bail!(
                Failure::new(format!(
                    "invalid block name `{}`: a name is not empty and has no whitespace around it and no control \
                     characters",
                    name.escape_debug()
                ))
                .kind(FailureKind::Usage)
            );
        }
        self.entry(EntryKind::Block { name: name.to_owned() })
    }

    /// What the script says about the format.
    fn asked(&self, entry: &FileEntry) -> Asked {
        Asked {
            format: self.format,
            is_described: self.separator.is_some() || entry.section.is_some(),
            is_block: matches!(entry.kind, EntryKind::Block { .. }),
        }
    }

    fn ownership(&self) -> Ownership {
        Ownership { owner: self.owner.clone(), group: self.group.clone(), mode: self.mode }
    }
}

/// Of `config::remove_line`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RemoveLineOptions {
    matching: Option<String>,
    in_place: bool,
}

/// Of `config::line`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LineOptions {
    after: Option<String>,
    before: Option<String>,
    in_place: bool,
    matching: Option<String>,
    owner: Option<String>,
    group: Option<String>,
    mode: Option<Mode>,
}

impl LineOptions {
    fn entry(&self, line: &str) -> Result<FileEntry> {
        let invalid = |message: String| Failure::new(message).kind(FailureKind::Usage);
        if line.trim().is_empty() || line.contains(['\n', '\r', '\0']) {
            bail!(
                invalid(format!("invalid line `{}`: it is empty or not a single line", line.escape_debug()))
                    .hint("use config::block for several lines")
            );
        }
        if let Some(pattern) = &self.matching
            && matching_lines(&Lines::of(line.as_bytes()), pattern)?.is_empty()
        {
            bail!(invalid(format!(
                "invalid option `matching`: `{pattern}` does not match `{line}`, which would not be found again"
            ))
            .kind(FailureKind::Option));
        }
        let kind = EntryKind::WholeLine { line: line.to_owned(), matching: self.matching.clone() };
        Ok(FileEntry { section: None, comment: "#".to_owned(), format: Format::default(), kind })
    }

    fn beside(&self) -> Result<Beside<'_>> {
        Ok(match (self.after.as_deref(), self.before.as_deref()) {
            (None, None) => Beside::Nothing,
            (Some(after), None) => Beside::After(after),
            (None, Some(before)) => Beside::Before(before),
            (Some(_), Some(_)) => bail!(
                Failure::new("options `after` and `before` exclude each other").kind(FailureKind::Option)
            ),
        })
    }
}

/// A string that is wiped from memory, and whether it is a secret.
struct Text {
    bytes: Zeroizing<Vec<u8>>,
    secret: bool,
}

/// A value as a string: a secret's own, or a string, number or bool as scripts write it.
fn text_of(host: &Host, value: &Dynamic, what: &str) -> Result<Text> {
    let text = host.text_or_secret(value, what)?;
    if text.contains('\0') {
        bail!(Failure::new(format!("{what} contains a zero byte")).kind(FailureKind::Usage));
    }
    let bytes = Zeroizing::new(text.as_bytes().to_vec());
    Ok(Text { bytes, secret: Host::secret_text(value).is_some() })
}

/// The value of a key: one line, or where values have types (`is_typed`) the JSON of it.
fn key_value(host: &Host, key: &str, value: &Dynamic, is_typed: bool) -> Result<Text> {
    if is_typed {
        return typed_value(host, key, value);
    }
    let text = text_of(host, value, &format!("the value of `{key}`"))?;
    if text.bytes.contains(&b'\n') || text.bytes.contains(&b'\r') {
        bail!(
            Failure::new(format!("the value of `{key}` contains a line ending"))
                .kind(FailureKind::Usage)
                .hint("use config::block for several lines")
        );
    }
    Ok(text)
}

fn typed_value(host: &Host, key: &str, value: &Dynamic) -> Result<Text> {
    if let Some(text) = Host::secret_text(value) {
        let bytes = Zeroizing::new(serde_json::to_vec(&*text)?);
        return Ok(Text { bytes, secret: true });
    }
    let value = json_of(value).with_context(|| format!("cannot set `{key}`"))?;
    refuse_secrets(host, &value)?;
    Ok(Text { bytes: Zeroizing::new(serde_json::to_vec(&value)?), secret: false })
}

fn refuse_secrets(host: &Host, value: &serde_json::Value) -> Result<()> {
    match value {
        serde_json::Value::String(text) => host.refuse_secret(text),
        serde_json::Value::Array(items) => items.iter().try_for_each(|item| refuse_secrets(host, item)),
        serde_json::Value::Object(fields) => fields.iter().try_for_each(|(key, item)| {
            host.refuse_secret(key)?;
            refuse_secrets(host, item)
        }),
        _ => Ok(()),
    }
}

/// Brings one entry to its desired state.
fn make(
    host: &Host,
    path: &str,
    entry: FileEntry,
    desired: DesiredEntry<'_>,
    options: &Options,
) -> Result<bool> {
    make_known(host, path, entry, desired, options, false)
}

fn make_known(
    host: &Host,
    path: &str,
    entry: FileEntry,
    desired: DesiredEntry<'_>,
    options: &Options,
    secret: bool,
) -> Result<bool> {
    let Some((found, bytes)) = text_at(host, path, &entry, &desired)? else { return Ok(true) };
    let format = recognise(&found.path, &bytes, options.asked(&entry))?;
    let entry = options.of_format(entry, format)?;
    let how = How { ownership: options.ownership(), secret, in_place: options.in_place };
    edit(host, (found, bytes), entry, desired, &how)
}

fn write_line(host: &Host, path: &str, line: &str, is_desired: bool, options: &LineOptions) -> Result<bool> {
    let (entry, beside) = (options.entry(line)?, options.beside()?);
    let desired = if is_desired { DesiredEntry::Line(beside) } else { DesiredEntry::Absent };
    let ownership =
        Ownership { owner: options.owner.clone(), group: options.group.clone(), mode: options.mode };
    let how = How { ownership, secret: false, in_place: options.in_place };
    let Some(found) = text_at(host, path, &entry, &desired)? else { return Ok(true) };
    edit(host, found, entry, desired, &how)
}

/// The file and its text, in a dry run as they would be by then; `None` if a package that would have been installed may
/// bring the file, so that the edit might be made.
fn text_at(
    host: &Host,
    path: &str,
    entry: &FileEntry,
    desired: &DesiredEntry<'_>,
) -> Result<Option<(Found, Vec<u8>)>> {
    let path = absolute(path)?;
    let canonical = files::canonical(&path)?;
    if host.may_be_packaged(&canonical) {
        let target = entry_target(&canonical, entry);
        let is_set = matches!(desired, DesiredEntry::Text(_) | DesiredEntry::Line(_));
        let verb = if is_set { "set" } else { "remove" };
        let summary = format!("{verb} {} in {}", entry.shown(), canonical.display());
        host.session().might_make(target, summary);
        return Ok(None);
    }
    let Some(known) = host.predicted(&path)? else { return Found::text_at(&path).map(Some) };
    let unknown = || Unpredictable(format!("the content of `{}` by then", path.display()));
    let bytes = match (&known.state, known.content) {
        (FileState::File { .. }, content) => content.ok_or_else(unknown)?.to_vec(),
        _ => Vec::new(),
    };
    Ok(Some((Found { path: canonical, state: known.state }, bytes)))
}

/// How a file is written.
struct How {
    /// Of a new file.
    ownership: Ownership,
    secret: bool,
    in_place: bool,
}

fn edit(
    host: &Host,
    (found, bytes): (Found, Vec<u8>),
    entry: FileEntry,
    desired: DesiredEntry<'_>,
    how: &How,
) -> Result<bool> {
    host.seen().asks_for(|| entry_target(&found.path, &entry));
    if found.state.is_absent() && matches!(desired, DesiredEntry::Comment | DesiredEntry::Absent) {
        return Ok(false);
    }
    let attributes = attributes(host, &found, how)?;
    let record = host.seen().file_record(&found);
    let path = found.path.clone();
    let unedited = entry.format.includes_others().then(|| (entry.clone(), bytes.clone()));
    let terms = EditTerms { entry, secret: how.secret, in_place: how.in_place, attributes, record };
    let change = EditChange::towards((found, bytes), desired, terms)?;
    if let (DesiredEntry::Text(value), Some((entry, bytes))) = (desired, unedited) {
        let edited = change.as_ref().map_or(&*bytes, EditChange::edited);
        refuse_without_effect(&entry, value, (&path, edited), &|other| text_by_then(host, other))?;
    }
    let Some(change) = change else { return Ok(false) };
    refuse_mounted(&path, how)?;
    host.session().perform(&Change::Edit(change), Payload::Nothing)
}

/// The text of another file, in a dry run as it would be by then; none if there is none, or it is not known.
fn text_by_then(host: &Host, path: &Path) -> Result<Option<Vec<u8>>> {
    if let Some(known) = host.predicted(path)? {
        return Ok(known.content.map(|content| content.to_vec()));
    }
    if !std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file()) {
        return Ok(None);
    }
    files::read_following(path).map(Some)
}

/// The metadata of the file once it is edited.
fn attributes(host: &Host, found: &Found, how: &How) -> Result<Attributes> {
    match &found.state {
        FileState::Absent => {
            let mode = if how.secret { super::file::NEW_SECRET } else { super::file::NEW_FILE };
            how.ownership.attributes(host, &found.path, &found.state, mode)
        }
        // The options apply to a new file only: an existing one keeps its owner and mode.
        FileState::File { .. } => {
            Ownership::default().attributes(host, &found.path, &found.state, super::file::NEW_FILE)
        }
        other => Err(no_file(&found.path, other).into()),
    }
}

fn refuse_mounted(path: &Path, how: &How) -> Result<()> {
    if !how.in_place && files::is_mounted_upon(path)? {
        bail!(
            Failure::new(format!("cannot replace `{}`: something is mounted at it", path.display()))
                .kind(FailureKind::Busy)
                .hint("give the option `in_place: true` to write into the file that is mounted there")
        );
    }
    Ok(())
}

fn no_file(path: &Path, state: &FileState) -> Failure {
    let failure = Failure::new(format!("`{}` is {}, not a file", path.display(), state.kind_name()))
        .kind(FailureKind::Directory);
    match state {
        FileState::Link { to, .. } => failure.hint(format!("name the target of the link: `{to}`")),
        _ => failure,
    }
}

fn set_one(host: &Host, path: &str, key: &str, value: &Dynamic, options: &Options) -> Result<bool> {
    let text = key_value(host, key, value, is_document(Path::new(path), options.format))?;
    make_known(host, path, options.line(key)?, DesiredEntry::Text(&text.bytes), options, text.secret)
}

fn set_all(host: &Host, path: &str, values: &rhai::Map, options: &Options) -> Result<bool> {
    // Every value is checked before the first is written.
    for (key, value) in values {
        options.line(key)?;
        key_value(host, key, value, is_document(Path::new(path), options.format))?;
    }
    refuse_one_key_twice(path, values, options)?;
    let mut options = options.clone();
    if options.mode.is_none() && values.values().any(|value| Host::secret_text(value).is_some()) {
        // The first key creates the file, so any secret among the values decides its mode.
        options.mode = Some(Mode(super::file::NEW_SECRET));
    }
    if let Some(changed) = set_together(host, path, values, &options)? {
        return Ok(changed);
    }
    let mut changed = false;
    for (key, value) in values {
        changed |= set_one(host, path, key, value, &options)?;
    }
    Ok(changed)
}

/// Refuses a map in which one key is there in two spellings.
fn refuse_one_key_twice(path: &str, values: &rhai::Map, options: &Options) -> Result<()> {
    let mut names: BTreeMap<String, &str> = BTreeMap::new();
    for key in values.keys() {
        let entry = options.line(key)?;
        let Ok(format) = recognise(Path::new(path), &[], options.asked(&entry)) else { return Ok(()) };
        if let Some(other) = names.insert(format.key_name(key), key) {
            bail!(
                Failure::new(format!("cannot set `{other}` and `{key}` in `{path}`: they are one key"))
                    .kind(FailureKind::Duplicate)
                    .hint("leave one of them out")
            );
        }
    }
    Ok(())
}

/// Sets all of the values by one write of the file; `None` if each is to be set by itself: a single one, in a dry run,
/// which writes nothing and shows the difference of each, and after a run that was killed before it recorded an outcome.
fn set_together(host: &Host, path: &str, values: &rhai::Map, options: &Options) -> Result<Option<bool>> {
    if host.dry_run() || values.len() < 2 {
        return Ok(None);
    }
    let (found, bytes) = Found::text_at(&absolute(path)?)?;
    let mut texts = Vec::new();
    let mut format = None;
    for (key, value) in values {
        let entry = options.line(key)?;
        let format = match format {
            Some(format) => format,
            None => *format.insert(recognise(&found.path, &bytes, options.asked(&entry))?),
        };
        let entry = options.of_format(entry, format)?;
        host.seen().asks_for(|| entry_target(&found.path, &entry));
        texts.push((entry, key_value(host, key, value, is_document(Path::new(path), options.format))?));
    }
    let secret = texts.iter().any(|(_, text)| text.secret);
    let how = How { ownership: options.ownership(), secret, in_place: options.in_place };
    let terms = TogetherTerms {
        in_place: how.in_place,
        attributes: attributes(host, &found, &how)?,
        record: host.seen().file_record(&found),
    };
    let changes_but = |kept: &BTreeSet<Target>| {
        let is_meant = |(entry, _): &&(FileEntry, Text)| !kept.contains(&entry_target(&found.path, entry));
        let lines: Vec<DesiredLine<'_>> = texts
            .iter()
            .filter(is_meant)
            .map(|(entry, text)| DesiredLine {
                entry: entry.clone(),
                value: &text.bytes,
                secret: text.secret,
            })
            .collect();
        let changes = EditChange::towards_all((&found, &bytes), &lines, &terms)?;
        Ok::<Vec<Change>, anyhow::Error>(changes.into_iter().map(Change::Edit).collect())
    };
    let mut changes = changes_but(&BTreeSet::new())?;
    let edited = match changes.first() {
        Some(Change::Edit(change)) => change.edited(),
        _ => &bytes,
    };
    for (entry, text) in &texts {
        refuse_without_effect(entry, &text.bytes, (&found.path, edited), &|other| text_by_then(host, other))?;
    }
    if changes.is_empty() {
        return Ok(Some(false));
    }
    refuse_mounted(&found.path, &how)?;
    let kept = host.session().kept_among(&changes)?;
    if host.seen().is_any_doubtful(&changes) {
        return Ok(None);
    }
    if !kept.is_empty() {
        changes = changes_but(&kept)?;
    }
    host.session().perform_together(&changes)?;
    Ok(Some(!changes.is_empty()))
}

fn get_one(host: &Host, path: &str, key: &str, options: &Options) -> Result<Dynamic> {
    let path = absolute(path)?;
    host.refuse_unknown(&path)?;
    let entry = options.line(key)?;
    if std::fs::metadata(&path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        return Ok(Dynamic::UNIT);
    }
    let (bytes, shown) = (files::read_following(&path)?, path.display().to_string());
    let format = recognise(&path, &bytes, options.asked(&entry))?;
    let entry = options.of_format(entry, format)?;
    if format.is_document() {
        let value = entry.typed_value(&bytes, &shown)?.map(plain_value);
        return Ok(value.map_or(Dynamic::UNIT, |value| value_of(&value)));
    }
    let Some(value) = entry.value(&bytes, &shown)? else { return Ok(Dynamic::UNIT) };
    match String::from_utf8(value) {
        Ok(value) => Ok(value.into()),
        Err(_) => {
            bail!(
                Failure::new(format!("the value of `{key}` in `{shown}` is not UTF-8"))
                    .kind(FailureKind::Encoding)
            )
        }
    }
}

fn write_block(host: &Host, path: &str, name: &str, text: &Dynamic, options: &Options) -> Result<bool> {
    let text = text_of(host, text, &format!("the text of the block `{name}`"))?;
    make_known(host, path, options.block(name)?, DesiredEntry::Text(&text.bytes), options, text.secret)
}

#[export_module(manifest)]
mod functions {
    use super::*;

    /// The value of `key` in the file `path`, quotes included and continued lines joined; `()` when the key is not set, is
    /// only set in a comment, or the file is missing. Without `section`, only what precedes the first section is searched.
    /// In JSON and TOML it is the value itself: a string without quotes, a number, a bool, an array or a map.
    /// The format is known from the path: see docs/config-formats.md. Any other file must be plainly `key = value`.
    /// A format says what begins a comment behind a value, which is not part of it, what continues a value, and which
    /// spellings are one key. Where that depends on the program and the program is not known, it is an error: name `format`.
    /// Options: `section` (of an INI file or unit; of ssh a block, such as `Match User backup`; of TOML a table, named as in
    /// its header, and of JSON an object in the same way), `format` (`adduser`, `aliases`, `chrony`, `configparser`,
    /// `dnsmasq`, `dotenv`, `environment`, `fail2ban`, `fstab`, `git`, `ini`, `json`, `keyfile`, `mysql`, `networkd`,
    /// `nsswitch`, `openssl`, `php`, `php_fpm`, `postfix`, `postgresql`, `redis`, `samba`, `shell`, `ssh`, `sshd`,
    /// `supervisor`, `sysctl`, `systemd`, `toml`, `wireguard` or `words`; default: by the path), `separator`
    /// (between key and value, where the format leaves it open).
    ///
    /// ```rhai
    /// file::write("/srv/app.conf", "#port = 1\nport = 80\n");
    /// assert(config::get("/srv/app.conf", "port") == "80");
    /// assert(config::get("/srv/app.conf", "host") == ());
    /// ```
    ///
    /// ```rhai
    /// file::write("/srv/postgresql.conf", "Port = 5432   # (change requires restart)\n");
    /// assert(config::get("/srv/postgresql.conf", "port") == "5432");
    /// file::write("/srv/some.conf", "port = 5432   # which program?\n");
    /// let found = "refused";
    /// try { found = config::get("/srv/some.conf", "port"); } catch {}
    /// assert(found == "refused");
    /// ```
    ///
    /// ```rhai
    /// file::write("/srv/app.ini", "[one]\nport=1\n[two]\nport=2\n");
    /// assert(config::get("/srv/app.ini", "port", #{ section: "two" }) == "2");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn get(
        context: NativeCallContext,
        path: &str,
        key: &str,
        options: rhai::Map,
    ) -> Raised<Dynamic> {
        look(&context, |host| get_one(host, path, key, &Options::of(options)?))
    }

    /// Sets `key` to `value` (a string, number, bool or secret) in the file `path`. An existing line of the key is changed
    /// in place; a new one goes below a comment that shows the key, else to the end of the section. Every other byte stays,
    /// with it a comment behind the value. It is an error if the format is unknown and the file not plainly `key = value`,
    /// if the key is set twice, or if the value could not be read back as it is, such as one with whitespace at its ends, or not be
    /// read by the program at all, such as one whose quotes never close: the value is what the file has, quotes and escapes included.
    /// The line of an fstab is named by its
    /// mount point or source, and the value is the whole line. In JSON and TOML a value is of its type, and may be an array or
    /// a map as well; comments, order and indentation stay. Undo restores the line or value; or the whole file, if it was not
    /// modified since. A value is refused that would have no effect, because a line of another file counts: of one that
    /// `sshd_config`, `ssh_config` or `postgresql.conf` includes, of a drop-in of systemd, or of `sysctl.d`.
    /// Options: `section` (a missing one is added at the end), `format` and `separator` as for `config::get`, `comment`
    /// (what begins a comment; default: as in the format, mostly `#`), `in_place` (`true` to write into the file instead of
    /// replacing it: for a file that something is mounted at, as `/etc/hosts` in a container; others may see it half
    /// written); for a file that is
    /// created, `owner`, `group` and `mode` (default 0644, with a secret in it 0600).
    ///
    /// ```rhai
    /// file::write("/srv/app.conf", "# ports\n#port = 1\nhost = here\n");
    /// assert(config::set("/srv/app.conf", "port", 80));
    /// assert(!config::set("/srv/app.conf", "port", 80));
    /// assert(file::read("/srv/app.conf") == "# ports\n#port = 1\nport = 80\nhost = here\n");
    /// ```
    ///
    /// ```rhai
    /// file::write("/srv/sshd_config", "permitrootlogin yes\nMatch User backup\n    X11Forwarding no\n");
    /// config::set("/srv/sshd_config", "PermitRootLogin", "no");
    /// config::set("/srv/sshd_config", "AllowUsers", "kim backup");
    /// assert(file::read("/srv/sshd_config").starts_with("permitrootlogin no\nAllowUsers kim backup\nMatch User backup\n"));
    /// ```
    ///
    /// ```rhai
    /// file::write("/srv/50-cloud.conf", "PasswordAuthentication yes\n");
    /// file::write("/srv/sshd_config", "Include /srv/50-cloud.conf\nUsePAM yes\n");
    /// // Without this one the next would be refused.
    /// assert(config::set("/srv/50-cloud.conf", "PasswordAuthentication", "no", #{ format: "sshd" }));
    /// assert(config::set("/srv/sshd_config", "PasswordAuthentication", "no"));
    /// ```
    ///
    /// ```rhai
    /// file::write("/srv/my.cnf", "[mysqld]\nbind_address = 127.0.0.1 # local\nskip-name-resolve\n");
    /// config::set("/srv/my.cnf", "bind-address", "0.0.0.0", #{ section: "mysqld" });
    /// config::set("/srv/my.cnf", "sql-mode", "'ANSI'", #{ section: "mysqld" });
    /// assert(file::read("/srv/my.cnf") == "[mysqld]\nbind_address = 0.0.0.0 # local\nskip-name-resolve\nsql-mode = 'ANSI'\n");
    /// ```
    ///
    /// ```rhai
    /// let jail = "[DEFAULT]\naction_mw = %(action_)s\n            %(mta)s-whois\nbantime = 10m\n";
    /// file::write("/srv/jail.conf", jail);
    /// let fail2ban = #{ section: "DEFAULT", format: "fail2ban" };
    /// assert(config::get("/srv/jail.conf", "action_mw", fail2ban) == "%(action_)s\n%(mta)s-whois");
    /// config::set("/srv/jail.conf", "action_mw", "%(action_)s", fail2ban);
    /// assert(file::read("/srv/jail.conf") == "[DEFAULT]\naction_mw = %(action_)s\nbantime = 10m\n");
    /// ```
    ///
    /// ```rhai
    /// config::set("/srv/app.ini", "port", 80, #{ section: "web", mode: "0600" });
    /// assert(file::read("/srv/app.ini") == "[web]\nport=80\n");
    /// ```
    ///
    /// ```rhai
    /// config::set("/srv/daemon.json", "log-driver", "json-file");
    /// config::set("/srv/daemon.json", "max-file", 3, #{ section: "log-opts" });
    /// assert(file::read("/srv/daemon.json") == "{\n  \"log-driver\": \"json-file\",\n  \"log-opts\": {\n    \"max-file\": 3\n  }\n}\n");
    /// assert(config::get("/srv/daemon.json", "log-opts") == #{ "max-file": 3 });
    /// ```
    ///
    /// ```rhai
    /// file::write("/srv/config.toml", "# Build.\n[build]\njobs = 2 # two\n");
    /// config::set("/srv/config.toml", "jobs", 4, #{ section: "build" });
    /// config::set("/srv/config.toml", "rustflags", ["-C", "debuginfo=0"], #{ section: "target.\"cfg(unix)\"" });
    /// assert(file::read("/srv/config.toml") == "# Build.\n[build]\njobs = 4 # two\n\n[target.\"cfg(unix)\"]\nrustflags = [\"-C\", \"debuginfo=0\"]\n");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn set(
        context: NativeCallContext,
        path: &str,
        key: &str,
        value: Dynamic,
        options: rhai::Map,
    ) -> Raised<bool> {
        act(&context, |host| set_one(host, path, key, &value, &Options::of(options)?))
    }

    /// Sets every key of the map by one write of the file, so that no one sees some of the values without the others. Each
    /// key can be rolled back by itself. Options: those of `config::set` for one key.
    ///
    /// ```rhai
    /// config::set("/srv/app.env", #{ HOST: "here", PORT: 80 });
    /// assert(file::read("/srv/app.env") == "HOST=here\nPORT=80\n");
    /// ```
    ///
    /// ```rhai
    /// config::set("/srv/app.ini", #{ host: "here", port: 80 }, #{ section: "web", separator: " = " });
    /// assert(file::read("/srv/app.ini") == "[web]\nhost = here\nport = 80\n");
    /// ```
    #[rhai_fn(name = "set", return_raw, volatile)]
    pub(super) fn set_map(
        context: NativeCallContext,
        path: &str,
        values: rhai::Map,
        options: rhai::Map,
    ) -> Raised<bool> {
        act(&context, |host| set_all(host, path, &values, &Options::of(options)?))
    }

    /// Turns the line that sets `key` into a comment. Undo restores the line.
    /// Options: `section`, `format`, `separator`, `comment`, `in_place`.
    ///
    /// ```rhai
    /// file::write("/srv/app.conf", "port = 80\n");
    /// assert(config::comment("/srv/app.conf", "port") && !config::comment("/srv/app.conf", "port"));
    /// assert(file::read("/srv/app.conf") == "#port = 80\n");
    /// ```
    ///
    /// ```rhai
    /// file::write("/srv/app.ini", "[web]\nport=80\n");
    /// config::comment("/srv/app.ini", "port", #{ section: "web", comment: ";" });
    /// assert(file::read("/srv/app.ini") == "[web]\n;port=80\n");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn comment(
        context: NativeCallContext,
        path: &str,
        key: &str,
        options: rhai::Map,
    ) -> Raised<bool> {
        act(&context, |host| {
            let options = Options::of(options)?;
            make(host, path, options.line(key)?, DesiredEntry::Comment, &options)
        })
    }

    /// Removes the line that sets `key`. Undo restores the line.
    /// Options: `section`, `format`, `separator`, `in_place`.
    ///
    /// ```rhai
    /// file::write("/srv/app.conf", "host = here\nport = 80\n");
    /// assert(config::remove("/srv/app.conf", "host") && !config::remove("/srv/app.conf", "host"));
    /// assert(file::read("/srv/app.conf") == "port = 80\n");
    /// ```
    ///
    /// ```rhai
    /// file::write("/srv/app.ini", "port=1\n[web]\nport=80\n");
    /// config::remove("/srv/app.ini", "port", #{ section: "web" });
    /// assert(file::read("/srv/app.ini") == "port=1\n[web]\n");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn remove(
        context: NativeCallContext,
        path: &str,
        key: &str,
        options: rhai::Map,
    ) -> Raised<bool> {
        act(&context, |host| {
            let options = Options::of(options)?;
            make(host, path, options.line(key)?, DesiredEntry::Absent, &options)
        })
    }

    /// Puts the lines of `text` between two comments that name the block: in the place of the block if it exists, else at
    /// the end, in the files of ssh before the first `Match` or `Host`. Undo restores the block as it was.
    /// Options: `format` (which says what a section is), `section` (at whose end a new block goes), `comment` as for `config::set`,
    /// `in_place` as for `config::set`, and for a file that is created `owner`, `group`, `mode`.
    ///
    /// ```rhai
    /// file::write("/srv/motd", "Welcome.\n");
    /// assert(config::block("/srv/motd", "site", "Serves a site."));
    /// assert(!config::block("/srv/motd", "site", "Serves a site."));
    /// assert(file::read("/srv/motd") == "Welcome.\n# BEGIN kkrun site\nServes a site.\n# END kkrun site\n");
    /// ```
    ///
    /// ```rhai
    /// config::block("/srv/app.ini", "kiosk", "a=1\nb=2", #{ section: "web", comment: ";" });
    /// assert(file::read("/srv/app.ini") == "[web]\n; BEGIN kkrun kiosk\na=1\nb=2\n; END kkrun kiosk\n");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn block(
        context: NativeCallContext,
        path: &str,
        name: &str,
        text: Dynamic,
        options: rhai::Map,
    ) -> Raised<bool> {
        act(&context, |host| write_block(host, path, name, &text, &Options::of(options)?))
    }

    /// Sees to it that the file `path` has this line. With `matching`, a regular expression that matches the line: the one
    /// line that it matches, if there is one, is replaced, and it is an error if it matches several. A new line goes to the
    /// end, or where `after` or `before` say; a line that is there already stays where it is. The line itself is in the
    /// journal, so it cannot hold a secret. Undo removes the line or restores the one from before.
    /// Options: `matching`; `after` or `before` (a regular expression: the new line goes below the last line or above the
    /// first line that it matches); `in_place` as for `config::set`; for a file that is created, `owner`, `group` and `mode` (default 0644).
    ///
    /// ```rhai
    /// file::write("/srv/hosts", "127.0.0.1 localhost\n127.0.1.1 old\n");
    /// assert(config::line("/srv/hosts", "127.0.1.1 kiosk", #{ matching: "^127\\.0\\.1\\.1\\s" }));
    /// assert(!config::line("/srv/hosts", "127.0.1.1 kiosk", #{ matching: "^127\\.0\\.1\\.1\\s" }));
    /// assert(config::line("/srv/hosts", "::1 localhost", #{ after: "^127" }));
    /// assert(file::read("/srv/hosts") == "127.0.0.1 localhost\n127.0.1.1 kiosk\n::1 localhost\n");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn line(
        context: NativeCallContext,
        path: &str,
        line: &str,
        options: rhai::Map,
    ) -> Raised<bool> {
        act(&context, |host| write_line(host, path, line, true, &options_of(options)?))
    }

    /// Sees to it that the file `path` does not have this line, or with `matching` the one that this regular expression
    /// matches. Undo restores the line.
    /// Options: `matching` (it must match the line), `in_place`.
    ///
    /// ```rhai
    /// file::write("/srv/hosts", "127.0.0.1 localhost\n127.0.1.1 old\n");
    /// assert(config::remove_line("/srv/hosts", "127.0.1.1 old") && !config::remove_line("/srv/hosts", "127.0.1.1 old"));
    /// assert(config::remove_line("/srv/hosts", "127.0.0.1", #{ matching: "^127" }));
    /// assert(file::read("/srv/hosts") == "");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn remove_line(
        context: NativeCallContext,
        path: &str,
        line: &str,
        options: rhai::Map,
    ) -> Raised<bool> {
        act(&context, |host| {
            let RemoveLineOptions { matching, in_place } = options_of(options)?;
            let options = LineOptions { in_place, matching, ..LineOptions::default() };
            write_line(host, path, line, false, &options)
        })
    }
}
