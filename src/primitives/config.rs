//! `config::` edits one line or block of a text file and leaves every other byte alone.

use std::path::Path;

use anyhow::{Result, bail};
use rhai::plugin::*;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::file::{Mode, Ownership, absolute};
use super::shorter::namespace;
use crate::change::{
    Asked, Change, DesiredEntry, EditChange, EditTerms, EntryKind, FileEntry, Format, Found, Payload,
    entry_target, recognise,
};
use crate::failure::{Failure, FailureKind};
use crate::machine::files::{self, FileState};
use crate::script::{Host, OptionSet, Raised, Unpredictable, act, look, options_of};

pub(super) fn module() -> rhai::Module {
    namespace(
        exported_manifest!(functions),
        &[("get", 1), ("set", 1), ("comment", 1), ("remove", 1), ("block", 1)],
    )
}

pub(super) fn options() -> OptionSet {
    OptionSet::of::<Options>()
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    section: Option<String>,
    separator: Option<String>,
    format: Option<Format>,
    comment: Option<String>,
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
        let comment = self.comment.as_deref().unwrap_or("#").trim();
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

    fn line(&self, key: &str) -> Result<FileEntry> {
        let begins = key.starts_with(['#', ';', '[']);
        if key.is_empty() || key.trim() != key || key.contains(char::is_control) || begins {
            bail!(Failure::new(format!("invalid key `{}`", key.escape_debug())).kind(FailureKind::Usage));
        }
        self.entry(EntryKind::Line { key: key.to_owned(), separator: self.separator.clone() })
    }

    fn block(&self, name: &str) -> Result<FileEntry> {
        if name.is_empty() || name.trim() != name || name.contains(char::is_control) {
            bail!(
                Failure::new(format!("invalid block name `{}`", name.escape_debug()))
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

/// The value of a key: one line.
fn value_of(host: &Host, key: &str, value: &Dynamic) -> Result<Text> {
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
    mut entry: FileEntry,
    desired: DesiredEntry<'_>,
    options: &Options,
    secret: bool,
) -> Result<bool> {
    let path = absolute(path)?;
    let canonical = files::canonical(&path)?;
    if host.may_be_packaged(&canonical) {
        let target = entry_target(&canonical, &entry);
        let verb = if matches!(desired, DesiredEntry::Text(_)) { "set" } else { "remove" };
        let summary = format!("{verb} {} in {}", entry.shown(), canonical.display());
        host.session().might_make(target, summary);
        return Ok(true);
    }
    let (found, bytes) = match host.predicted(&path)? {
        None => Found::text_at(&path)?,
        Some(known) => {
            let unknown = || Unpredictable(format!("the content of `{}` by then", path.display()));
            let bytes = match (&known.state, known.content) {
                (FileState::File { .. }, content) => content.ok_or_else(unknown)?.to_vec(),
                _ => Vec::new(),
            };
            (Found { path: canonical, state: known.state }, bytes)
        }
    };
    entry.format = recognise(&found.path, &bytes, options.asked(&entry))?;
    host.seen().asks_for(|| entry_target(&found.path, &entry));
    let attributes = match &found.state {
        FileState::Absent if !matches!(desired, DesiredEntry::Text(_)) => return Ok(false),
        FileState::Absent => {
            let mode = if secret { super::file::NEW_SECRET } else { super::file::NEW_FILE };
            options.ownership().attributes(host, &found.path, &found.state, mode)?
        }
        // The options apply to a new file only: an existing one keeps its owner and mode.
        FileState::File { .. } => {
            Ownership::default().attributes(host, &found.path, &found.state, super::file::NEW_FILE)?
        }
        other => return Err(no_file(&found.path, other).into()),
    };
    let record = host.seen().file_record(&found);
    let terms = EditTerms { entry, secret, attributes, record };
    let Some(change) = EditChange::towards((found, bytes), desired, terms)? else { return Ok(false) };
    let performed = Change::Edit(change.clone());
    host.session().perform(&performed, Payload::Nothing)
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
    let text = value_of(host, key, value)?;
    make_known(host, path, options.line(key)?, DesiredEntry::Text(&text.bytes), options, text.secret)
}

fn set_all(host: &Host, path: &str, values: &rhai::Map, options: &Options) -> Result<bool> {
    // Every value is checked before the first is written.
    for (key, value) in values {
        options.line(key)?;
        value_of(host, key, value)?;
    }
    let mut options = options.clone();
    if options.mode.is_none() && values.values().any(|value| Host::secret_text(value).is_some()) {
        // The first key creates the file, so any secret among the values decides its mode.
        options.mode = Some(Mode(super::file::NEW_SECRET));
    }
    let mut changed = false;
    for (key, value) in values {
        changed |= set_one(host, path, key, value, &options)?;
    }
    Ok(changed)
}

fn get_one(host: &Host, path: &str, key: &str, options: &Options) -> Result<Dynamic> {
    let path = absolute(path)?;
    host.refuse_unknown(&path)?;
    let mut entry = options.line(key)?;
    if std::fs::metadata(&path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        return Ok(Dynamic::UNIT);
    }
    let (bytes, shown) = (files::read_following(&path)?, path.display().to_string());
    entry.format = recognise(&path, &bytes, options.asked(&entry))?;
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
    /// The format is known from the path: see docs/config-formats.md. Any other file must be plainly `key = value`.
    /// Options: `section` (of an INI file or unit; of ssh a block, such as `Match User backup`), `format` (`sshd`, `ssh`,
    /// `postfix`, `environment`, `dotenv`, `shell`, `systemd`, `networkd`, `fstab`, `words` or `ini`; default: by the path),
    /// `separator` (between key and value, where the format leaves it open).
    ///
    /// ```rhai
    /// file::write("/srv/app.conf", "#port = 1\nport = 80\n");
    /// assert(config::get("/srv/app.conf", "port") == "80");
    /// assert(config::get("/srv/app.conf", "host") == ());
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
    /// in place; a new one goes below a comment that shows the key, else to the end of the section. Every other byte stays.
    /// It is an error if the format is unknown and the file not plainly `key = value`, if the key is set twice, or if the
    /// value could not be read back as it is, such as one with whitespace at its ends. The line of an fstab is named by its
    /// mount point or source, and the value is the whole line. Undo restores the line; or the whole file, if it was not
    /// modified since.
    /// Options: `section` (a missing one is added at the end), `format` and `separator` as for `config::get`, `comment`
    /// (what begins a comment, default `#`); for a file that is created, `owner`, `group` and `mode` (default 0644, with a
    /// secret in it 0600).
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
    /// config::set("/srv/app.ini", "port", 80, #{ section: "web", mode: "0600" });
    /// assert(file::read("/srv/app.ini") == "[web]\nport=80\n");
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

    /// Sets every key of the map. Options: those of `config::set` for one key.
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
    /// Options: `section`, `format`, `separator`, `comment`.
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
    /// Options: `section`, `format`, `separator`.
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
    /// the end. Undo restores the block as it was.
    /// Options: `format` (which says what a section is), `section` (at whose end a new block goes), `comment` (what begins a comment, default `#`), and for a file
    /// that is created `owner`, `group`, `mode`.
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
}
