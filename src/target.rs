//! What a change is about: its identity, its order, its form in the journal and on the command line, what contains
//! what, and which change depends on which.
//!
//! The journal holds a target in parts (`{"line":{"path":"/etc/hosts","key":"a"}}`). People read and type it in one
//! line, `kind:name`, which [`Display`](fmt::Display) writes and [`FromStr`] reads: the names are as they are, but for
//! `%`, characters that a terminal obeys, bytes that are no text and what would end the name too early. Those are a
//! `%` and two hexadecimal digits for each byte.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::event::{Counted, TargetKind};
use crate::machine::files::PathText;
use crate::text;

/// What a change is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// What is at a path.
    File(PathText),
    /// What is at a path and below it.
    Tree(PathText),
    /// Owners and modes of a tree.
    Access(PathText),
    /// What a command makes.
    Product(PathText),
    /// The line of a key in a text file.
    Line {
        /// The file.
        path: PathText,
        /// The section it is in; none for what is before the first one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        section: Option<String>,
        /// The key.
        key: String,
    },
    /// A named block of lines in a text file.
    Block {
        /// The file.
        path: PathText,
        /// The section it is in; none for what is before the first one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        section: Option<String>,
        /// Its name.
        name: String,
    },
    /// A whole line of a text file.
    WholeLine {
        /// The file.
        path: PathText,
        /// The line, or the regular expression that finds it.
        text: String,
    },
    /// What a command does, by the command's label.
    Command(String),
    /// The files that a captured command changes, by the command's label.
    Captured(String),
    /// A user.
    User(String),
    /// A group.
    Group(String),
    /// Whether a user's services run without a login.
    Linger(String),
    /// A few packages, by name.
    Packages(Vec<String>),
    /// More packages than are named.
    PackageSet {
        /// The first of them.
        first: String,
        /// How many others there are.
        others: usize,
        /// A checksum over all names.
        checksum: u32,
    },
    /// Whether a package stays in its version.
    Hold(String),
    /// The answer to a question of a package.
    Debconf {
        /// The package that asks.
        package: String,
        /// The question.
        question: String,
    },
    /// One side of a unit.
    Unit {
        /// The user whose service manager is meant; none for the system's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<String>,
        /// The unit's full name.
        name: String,
        /// The side.
        aspect: Aspect,
    },
    /// A role of a database server.
    Role {
        /// The server; none for the machine's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        server: Option<DatabaseServer>,
        /// The role.
        name: String,
    },
    /// A database.
    Database {
        /// The server; none for the machine's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        server: Option<DatabaseServer>,
        /// The database.
        name: String,
    },
    /// A statement in a database.
    Statement {
        /// The server; none for the machine's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        server: Option<DatabaseServer>,
        /// The database.
        database: String,
        /// What the statement is called.
        label: String,
    },
    /// What is done once per machine, by its key. Only a dry run names it.
    Once(String),
    /// Something of a step that cannot be predicted. Only a dry run names it.
    Step(String),
}

/// One side of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aspect {
    /// Whether it is started by itself, or cannot be.
    Enablement,
    /// Whether it runs.
    Activity,
}

/// A database server that is not the machine's own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DatabaseServer {
    /// Its host, or the directory of its socket; empty for the usual one.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// A state for each of several targets.
pub type States = BTreeMap<Target, Value>;

/// What a change touched, as far as other changes depend on it.
#[derive(Clone, Copy, Debug)]
pub struct Footprint<'a> {
    /// Its target.
    pub target: &'a Target,
    /// It changed owner and mode alone: what is there stayed, with what is in it.
    pub keeps_content: bool,
    /// Other targets that have to exist for it.
    pub needs: &'a [Target],
}

/// How much of what is at a path a target is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// All of it.
    Whole,
    /// A part of the text.
    Part,
    /// Owners and modes of a tree.
    Access,
    /// Owner and mode of this path alone.
    Mode,
}

impl Target {
    /// How many packages are named one by one.
    const MOST_NAMED: usize = 4;

    /// Whether it is a path, or a part of a text or its access, that kkrun changes itself: not what a command makes.
    pub fn is_in_the_file_system(&self) -> bool {
        self.path().is_some() && !matches!(self, Self::Product(_))
    }

    /// What is at `path`.
    pub fn file(path: &Path) -> Self {
        Self::File(path.into())
    }

    /// What is at `path` and below it.
    pub fn tree(path: &Path) -> Self {
        Self::Tree(path.into())
    }

    /// What a command makes at `path`.
    pub fn product(path: &Path) -> Self {
        Self::Product(path.into())
    }

    /// A set of packages.
    pub fn packages(names: &[String]) -> Self {
        match names {
            [first, others @ ..] if names.len() > Self::MOST_NAMED => Self::PackageSet {
                first: first.clone(),
                others: others.len(),
                checksum: crate::checksum::crc_32c(names.join(",").as_bytes()),
            },
            _ => Self::Packages(names.to_vec()),
        }
    }

    /// How it is counted.
    pub fn counted(&self) -> Counted {
        let kind = match self {
            Self::File(_) => TargetKind::File,
            Self::Tree(_) => TargetKind::Tree,
            Self::Access(_) => TargetKind::Access,
            Self::Product(_) => TargetKind::Product,
            Self::Line { .. } => TargetKind::Line,
            Self::Block { .. } => TargetKind::Block,
            Self::WholeLine { .. } => TargetKind::WholeLine,
            Self::Command(_) | Self::Captured(_) => TargetKind::Command,
            Self::User(_) => TargetKind::User,
            Self::Group(_) => TargetKind::Group,
            Self::Linger(_) => TargetKind::Linger,
            Self::Packages(names) => return Counted { kind: TargetKind::Package, names: names.clone() },
            Self::PackageSet { .. } => TargetKind::Package,
            Self::Hold(_) => TargetKind::Hold,
            Self::Debconf { .. } => TargetKind::Debconf,
            Self::Unit { user, name, .. } => {
                return Counted { kind: TargetKind::Unit, names: vec![format!("{user:?}/{name}")] };
            }
            Self::Role { .. } => TargetKind::Role,
            Self::Database { .. } => TargetKind::Database,
            Self::Statement { .. } => TargetKind::Statement,
            Self::Once(_) => TargetKind::Once,
            Self::Step(_) => TargetKind::Step,
        };
        Counted { kind, names: vec![self.to_string()] }
    }

    /// The path that it is at.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path)
            | Self::Tree(path)
            | Self::Access(path)
            | Self::Product(path)
            | Self::Line { path, .. }
            | Self::Block { path, .. }
            | Self::WholeLine { path, .. } => Some(path.as_path()),
            _ => None,
        }
    }

    /// Whether it is what is at a path, and not a part of it or what is below it.
    pub fn is_whole_file(&self) -> bool {
        matches!(self, Self::File(_))
    }

    fn extent(&self) -> Option<(&Path, Extent)> {
        let extent = match self {
            Self::File(_) | Self::Tree(_) | Self::Product(_) => Extent::Whole,
            Self::Line { .. } | Self::Block { .. } | Self::WholeLine { .. } => Extent::Part,
            Self::Access(_) => Extent::Access,
            _ => return None,
        };
        Some((self.path()?, extent))
    }

    /// Whether only the machine tells what relies on it.
    pub fn is_of_machine(&self) -> bool {
        matches!(
            self,
            Self::Packages(_)
                | Self::PackageSet { .. }
                | Self::User(_)
                | Self::Group(_)
                | Self::Role { .. }
                | Self::Database { .. }
        )
    }

    /// Whether it is a part of a file.
    pub fn is_part(&self) -> bool {
        matches!(self.extent(), Some((_, Extent::Part)))
    }

    /// Whether it is at `path`, above it or below it.
    pub fn meets(&self, path: &Path) -> bool {
        self.path().is_some_and(|own| own.starts_with(path) || path.starts_with(own))
    }

    /// Whether both are about something of the same path or tree, so that what one left is seen only once the other is
    /// undone.
    pub fn overlaps(&self, other: &Self) -> bool {
        self == other || other.path().is_some_and(|path| self.meets(path))
    }

    /// Whether who asks for `asked` asks for this, too: a directory is asked for with what is in it.
    pub fn comes_with(&self, asked: &Self) -> bool {
        if self == asked {
            return true;
        }
        match self.extent() {
            Some((_, Extent::Part)) | None => false,
            Some((path, _)) => asked.path().is_some_and(|asked| asked.starts_with(path)),
        }
    }

    /// Whether it is among the targets that are asked for, or comes with one of them.
    pub fn is_asked_for(&self, asks: &BTreeSet<Self>) -> bool {
        asks.contains(self) || asks.iter().any(|asked| self.comes_with(asked))
    }

    /// Whether what a query finds in a database may depend on a change to it: it is of a database server, or runs a
    /// program that may do anything. Accounts, packages and files are neither.
    pub fn may_reach_databases(&self) -> bool {
        match self {
            Self::Role { .. }
            | Self::Database { .. }
            | Self::Statement { .. }
            | Self::Command(_)
            | Self::Captured(_)
            | Self::Once(_)
            | Self::Step(_) => true,
            Self::Unit { aspect, .. } => *aspect == Aspect::Activity,
            _ => false,
        }
    }

    /// Whether a change to it may be one to what a service manager knows of the unit `name`: to the unit itself, or to
    /// a file that configures it. Source of the names: systemd.unit(5).
    pub fn configures_unit(&self, user: Option<&str>, name: &str) -> bool {
        match self {
            Self::Unit { user: own, name: unit, .. } => own.as_deref() == user && unit == name,
            _ => self.path().is_some_and(|path| {
                let mut components = path.components().map(|component| component.as_os_str().as_bytes());
                let is_of_systemd = components.any(|component| component == b"systemd");
                is_of_systemd && components.any(|component| is_file_or_drop_in(component, name))
            }),
        }
    }

    /// Whether the unit file at `path` is the one of this unit.
    pub fn runs_by(&self, path: &Path) -> bool {
        let Self::Unit { name, .. } = self else { return false };
        let is_unit_file = path.components().any(|part| part.as_os_str() == "systemd");
        is_unit_file && path.file_name().is_some_and(|file| is_unit_file_name(file.as_bytes(), name))
    }

    /// Whether it goes away with `other`: a user's services go with the account, statements with their database.
    fn goes_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Linger(user) | Self::Unit { user: Some(user), .. }, Self::User(name)) => user == name,
            (Self::Statement { server, database, .. }, Self::Database { server: other, name }) => {
                server == other && database == name
            }
            _ => false,
        }
    }
}

/// Whether a unit's own file, or that of its template, has this name.
fn is_unit_file_name(file: &[u8], unit: &str) -> bool {
    let template = || {
        let (before, instance) = unit.split_once('@')?;
        let (_, suffix) = instance.rsplit_once('.')?;
        Some(format!("{before}@.{suffix}"))
    };
    file == unit.as_bytes() || template().is_some_and(|template| file == template.as_bytes())
}

/// Whether this is the name of a file or of a directory of drop-ins by which the unit is configured.
fn is_file_or_drop_in(component: &[u8], unit: &str) -> bool {
    let Some(directory) = component.strip_suffix(b".d") else { return is_unit_file_name(component, unit) };
    let Some((name, suffix)) = unit.rsplit_once('.') else { return false };
    // `service.d` is for all services, `a-b-.service.d` for all whose names begin with `a-b-`.
    let of_prefix = directory.strip_suffix(format!("-.{suffix}").as_bytes());
    directory == suffix.as_bytes()
        || is_unit_file_name(directory, unit)
        || of_prefix
            .and_then(|prefix| name.as_bytes().strip_prefix(prefix))
            .is_some_and(|rest| rest.starts_with(b"-"))
}

impl<'a> Footprint<'a> {
    /// That of a target as a whole, with no needs.
    pub fn of(target: &'a Target) -> Self {
        Self { target, keeps_content: false, needs: &[] }
    }

    fn extent(&self) -> Option<(&Path, Extent)> {
        let (path, extent) = self.target.extent()?;
        Some((path, if self.keeps_content { Extent::Mode } else { extent }))
    }

    /// Whether both are about the bytes of one path, so that `older` is not undone before this one.
    pub fn shares_content(&self, older: &Self) -> bool {
        if self.target == older.target {
            return true;
        }
        let (Some((path, extent)), Some((of_older, extent_of_older))) = (self.extent(), older.extent())
        else {
            return false;
        };
        path == of_older
            && match (extent, extent_of_older) {
                (Extent::Whole | Extent::Part | Extent::Mode, Extent::Whole)
                | (Extent::Whole, Extent::Part) => true,
                // Parts are undone each by itself, and owners and modes are no content.
                _ => false,
            }
    }

    /// Whether undoing `older` alone would take away what this one depends on.
    pub fn depends_on(&self, older: &Self) -> bool {
        if self.shares_content(older) {
            return true;
        }
        match (self.extent(), older.extent()) {
            (Some((path, extent)), Some((of_older, extent_of_older))) => match (extent, extent_of_older) {
                // What was written since has the owner and mode that the older change gave.
                (_, Extent::Whole) | (Extent::Whole | Extent::Mode, Extent::Access) => {
                    path.starts_with(of_older)
                }
                (Extent::Access, Extent::Access) => path.starts_with(of_older) || of_older.starts_with(path),
                _ => false,
            },
            (None, Some((of_older, _))) => self.target.runs_by(of_older),
            (None, None) => self.needs.contains(older.target) || self.target.goes_with(older.target),
            (Some(_), None) => self.needs.contains(older.target),
        }
    }
}

/// A name within the form in one line: what is in `ending` would end it too early.
struct Name<'a>(&'a [u8], &'static [u8]);

impl fmt::Display for Name<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes, ending) = self;
        let escape = |formatter: &mut fmt::Formatter<'_>, bytes: &[u8]| {
            bytes.iter().try_for_each(|byte| write!(formatter, "%{byte:02x}"))
        };
        for chunk in bytes.utf8_chunks() {
            for character in chunk.valid().chars() {
                let mut buffer = [0; 4];
                let encoded = character.encode_utf8(&mut buffer).as_bytes();
                let ends = encoded.len() == 1 && ending.contains(&encoded[0]);
                if ends || character == '%' || text::is_obeyed(character) {
                    escape(formatter, encoded)?;
                } else {
                    write!(formatter, "{character}")?;
                }
            }
            escape(formatter, chunk.invalid())?;
        }
        Ok(())
    }
}

fn whole(text: &str) -> Name<'_> {
    Name(text.as_bytes(), b"")
}

fn path(path: &PathText) -> Name<'_> {
    Name(path.as_path().as_os_str().as_bytes(), b"")
}

/// `PATH#[SECTION]NAME`
struct Part<'a> {
    path: &'a PathText,
    section: Option<&'a String>,
    name: &'a str,
}

impl fmt::Display for Part<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, section, name } = self;
        write!(formatter, "{}#", Name(path.as_path().as_os_str().as_bytes(), b"#"))?;
        match section {
            Some(section) => write!(formatter, "[{}]{}", Name(section.as_bytes(), b"]"), whole(name)),
            // A name is not taken for a section.
            None if name.starts_with('[') => write!(formatter, "%5b{}", whole(&name[1..])),
            None => write!(formatter, "{}", whole(name)),
        }
    }
}

/// `@HOST:PORT`, or nothing for the machine's own server.
struct At<'a>(&'a Option<DatabaseServer>);

impl fmt::Display for At<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(DatabaseServer { host, port }) = self.0 else { return Ok(()) };
        write!(formatter, "@{}:{port}", Name(host.as_bytes(), b":"))
    }
}

impl Target {
    /// What people call it, with names in back-ticks. Unlike its line it cannot be typed.
    pub fn described(&self) -> String {
        let place = |path: &PathText| format!("`{}`", path.as_path().display());
        let entry = |name: &str, path: &PathText, section: Option<&String>| {
            let section = section.map(|section| format!("[{section}] of ")).unwrap_or_default();
            format!("{name} in {section}{}", place(path))
        };
        match self {
            Self::File(path) | Self::Tree(path) | Self::Product(path) => place(path),
            Self::Access(path) => format!("owner or mode below {}", place(path)),
            Self::Line { path, section, key } => entry(&format!("`{key}`"), path, section.as_ref()),
            Self::Block { path, section, name } => {
                entry(&format!("the block `{name}`"), path, section.as_ref())
            }
            Self::WholeLine { path, .. } => entry("a line", path, None),
            Self::User(name) => format!("the user `{name}`"),
            Self::Group(name) => format!("the group `{name}`"),
            Self::Unit { user: None, name, .. } => format!("`{name}`"),
            Self::Unit { user: Some(user), name, .. } => format!("`{name}` of the user `{user}`"),
            Self::Role { server: None, name } => format!("the role `{name}`"),
            Self::Database { server: None, name } => format!("the database `{name}`"),
            Self::Command(label) | Self::Captured(label) => format!("what `{label}` did"),
            other => format!("`{other}`"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => write!(out, "file:{}", path(file)),
            Self::Tree(root) => write!(out, "tree:{}", path(root)),
            Self::Access(root) => write!(out, "access:{}", path(root)),
            Self::Product(product) => write!(out, "product:{}", path(product)),
            Self::Line { path, section, key } => {
                write!(out, "line:{}", Part { path, section: section.as_ref(), name: key })
            }
            Self::Block { path, section, name } => {
                write!(out, "block:{}", Part { path, section: section.as_ref(), name })
            }
            Self::WholeLine { path, text } => {
                write!(out, "whole_line:{}", Part { path, section: None, name: text })
            }
            Self::Command(label) => write!(out, "command:{}", whole(label)),
            Self::Captured(label) => write!(out, "captured:{}", whole(label)),
            Self::User(name) => write!(out, "user:{}", whole(name)),
            Self::Group(name) => write!(out, "group:{}", whole(name)),
            Self::Linger(user) => write!(out, "linger:{}", whole(user)),
            Self::Packages(names) => {
                out.write_str("packages:")?;
                for (at, name) in names.iter().enumerate() {
                    let comma = if at == 0 { "" } else { "," };
                    write!(out, "{comma}{}", Name(name.as_bytes(), b", "))?;
                }
                Ok(())
            }
            Self::PackageSet { first, others, checksum } => {
                let first = Name(first.as_bytes(), b", ");
                write!(out, "packages:{first} and {others} more ({checksum:08x})")
            }
            Self::Hold(name) => write!(out, "hold:{}", whole(name)),
            Self::Debconf { package, question } => {
                write!(out, "debconf:{}:{}", Name(package.as_bytes(), b":"), whole(question))
            }
            Self::Unit { user, name, aspect } => {
                out.write_str("unit:")?;
                if let Some(user) = user {
                    write!(out, "~{}/", Name(user.as_bytes(), b"/"))?;
                }
                write!(out, "{}/{aspect}", Name(name.as_bytes(), b"~/"))
            }
            Self::Role { server, name } => {
                write!(out, "role:{}{}", Name(name.as_bytes(), b"@"), At(server))
            }
            Self::Database { server, name } => {
                write!(out, "database:{}{}", Name(name.as_bytes(), b"@"), At(server))
            }
            Self::Statement { server, database, label } => {
                let database = Name(database.as_bytes(), b"@:");
                write!(out, "statement:{database}{}:{}", At(server), whole(label))
            }
            Self::Once(key) => write!(out, "once:{}", whole(key)),
            Self::Step(id) => write!(out, "step:{}", whole(id)),
        }
    }
}

impl fmt::Display for Aspect {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Enablement => "enablement",
            Self::Activity => "activity",
        })
    }
}

/// The bytes of a name. A `%` that no two digits follow is one.
fn bytes_of(name: &str) -> Vec<u8> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let (mut rest, mut bytes) = (name.as_bytes(), Vec::with_capacity(name.len()));
    while let [first, behind @ ..] = rest {
        let escaped = match (first, digit(behind.first()), digit(behind.get(1))) {
            (b'%', Some(high), Some(low)) => u8::try_from(high * 16 + low).ok(),
            _ => None,
        };
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &behind[2..] } else { behind };
    }
    bytes
}

fn text_of(name: &str) -> Result<String> {
    String::from_utf8(bytes_of(name)).with_context(|| format!("`{name}` is not UTF-8"))
}

fn path_of(name: &str) -> PathText {
    PathText::new(std::ffi::OsString::from_vec(bytes_of(name)))
}

/// Path, section and name of what `Part` wrote.
fn part_of(rest: &str) -> Result<(PathText, Option<String>, String)> {
    let (path, name) = rest.split_once('#').context("expected `PATH#NAME`")?;
    let in_section = name.strip_prefix('[').and_then(|name| name.split_once(']'));
    let (section, name) = match in_section {
        Some((section, name)) => (Some(text_of(section)?), name),
        None => (None, name),
    };
    Ok((path_of(path), section, text_of(name)?))
}

/// What `At` wrote behind a name, and what follows it.
fn server_of(rest: &str) -> Result<(DatabaseServer, Option<&str>)> {
    let (host, rest) = rest.split_once(':').context("expected `@HOST:PORT`")?;
    let (port, rest) = match rest.split_once(':') {
        Some((port, rest)) => (port, Some(rest)),
        None => (rest, None),
    };
    let port = port.parse().with_context(|| format!("invalid port `{port}`"))?;
    Ok((DatabaseServer { host: text_of(host)?, port }, rest))
}

/// `NAME` or `NAME@HOST:PORT`
fn name_at_server(rest: &str) -> Result<(Option<DatabaseServer>, String)> {
    let Some((name, server)) = rest.split_once('@') else { return Ok((None, text_of(rest)?)) };
    match server_of(server)? {
        (server, None) => Ok((Some(server), text_of(name)?)),
        (_, Some(more)) => bail!("unexpected `:{more}` behind the port"),
    }
}

fn unit_of(rest: &str) -> Result<Target> {
    let (unit, aspect) = rest.rsplit_once('/').context("expected `UNIT/enablement` or `UNIT/activity`")?;
    let aspect = match aspect {
        "enablement" => Aspect::Enablement,
        "activity" => Aspect::Activity,
        other => bail!("expected `enablement` or `activity`, found `{other}`"),
    };
    let (user, name) = match unit.strip_prefix('~') {
        Some(own) => {
            let (user, name) = own.split_once('/').context("expected `~USER/UNIT`")?;
            (Some(text_of(user)?), name)
        }
        None => (None, unit),
    };
    Ok(Target::Unit { user, name: text_of(name)?, aspect })
}

fn packages_of(rest: &str) -> Result<Target> {
    if let Some((first, more)) = rest.split_once(' ') {
        let parts = more.strip_prefix("and ").and_then(|more| more.strip_suffix(')'));
        let (others, checksum) =
            parts.and_then(|parts| parts.split_once(" more (")).context("expected `NAME and N more (…)`")?;
        let checksum = u32::from_str_radix(checksum, 16).context("expected a checksum")?;
        let others = others.parse().context("expected a number of packages")?;
        return Ok(Target::PackageSet { first: text_of(first)?, others, checksum });
    }
    let names =
        if rest.is_empty() { Vec::new() } else { rest.split(',').map(text_of).collect::<Result<_>>()? };
    Ok(Target::Packages(names))
}

fn statement_of(rest: &str) -> Result<Target> {
    let end = rest.find(['@', ':']).context("expected `DATABASE:LABEL`")?;
    let (database, behind) = (text_of(&rest[..end])?, &rest[end + 1..]);
    let (server, label) = if rest[end..].starts_with('@') {
        let (server, label) = server_of(behind)?;
        (Some(server), label.context("expected `:LABEL` behind the port")?)
    } else {
        (None, behind)
    };
    Ok(Target::Statement { server, database, label: text_of(label)? })
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (kind, rest) = text.split_once(':').context("expected `kind:name`")?;
        Ok(match kind {
            "file" => Self::File(path_of(rest)),
            "tree" => Self::Tree(path_of(rest)),
            "access" => Self::Access(path_of(rest)),
            "product" => Self::Product(path_of(rest)),
            "line" => {
                let (path, section, key) = part_of(rest)?;
                Self::Line { path, section, key }
            }
            "block" => {
                let (path, section, name) = part_of(rest)?;
                Self::Block { path, section, name }
            }
            "whole_line" => {
                let (path, section, text) = part_of(rest)?;
                if section.is_some() {
                    bail!("a whole line is in no section");
                }
                Self::WholeLine { path, text }
            }
            "command" => Self::Command(text_of(rest)?),
            "captured" => Self::Captured(text_of(rest)?),
            "user" => Self::User(text_of(rest)?),
            "group" => Self::Group(text_of(rest)?),
            "linger" => Self::Linger(text_of(rest)?),
            "packages" => packages_of(rest)?,
            "hold" => Self::Hold(text_of(rest)?),
            "debconf" => {
                let (package, question) = rest.split_once(':').context("expected `PACKAGE:QUESTION`")?;
                Self::Debconf { package: text_of(package)?, question: text_of(question)? }
            }
            "unit" => unit_of(rest)?,
            "role" => {
                let (server, name) = name_at_server(rest)?;
                Self::Role { server, name }
            }
            "database" => {
                let (server, name) = name_at_server(rest)?;
                Self::Database { server, name }
            }
            "statement" => statement_of(rest)?,
            "once" => Self::Once(text_of(rest)?),
            "step" => Self::Step(text_of(rest)?),
            _ => bail!("unknown kind of target `{kind}`"),
        })
    }
}

/// [`States`] in the journal: a list of targets with their states, for a target is no key of a JSON object.
pub mod states_as_list {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::States;

    /// Writes them in the order of the targets.
    pub fn serialize<S: Serializer>(states: &States, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(states)
    }

    /// Reads them in any order.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<States, D::Error> {
        Ok(Vec::deserialize(deserializer)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> Target {
        text.parse().unwrap()
    }

    fn footprint(target: &Target) -> Footprint<'_> {
        Footprint::of(target)
    }

    fn depends(newer: &str, older: &str) -> bool {
        footprint(&of(newer)).depends_on(&footprint(&of(older)))
    }

    fn shares(newer: &str, older: &str) -> bool {
        footprint(&of(newer)).shares_content(&footprint(&of(older)))
    }

    #[test]
    fn a_newer_change_depends_on_what_it_is_in_and_on_what_it_replaced() {
        for (newer, older, does_depend, does_share) in [
            ("file:/srv/a", "file:/srv/a", true, true),
            ("tree:/srv/a/b", "file:/srv/a", true, false),
            ("line:/srv/a#[s]key", "file:/srv/a", true, true),
            ("block:/srv/a#b", "product:/srv/a", true, true),
            ("file:/srv/a", "line:/srv/a#key", true, true),
            ("line:/srv/a#one", "line:/srv/a#two", false, false),
            ("line:/srv/a#one", "line:/srv/a#one", true, true),
            ("block:/srv/a#one", "line:/srv/a#two", false, false),
            ("whole_line:/srv/a#one", "file:/srv/a", true, true),
            ("file:/srv/ab", "file:/srv/a", false, false),
            ("file:/srv/a", "file:/srv/a/b", false, false),
            ("access:/srv/a", "file:/srv/a", true, false),
            ("access:/srv/a", "line:/srv/a#key", false, false),
            ("line:/srv/a#key", "access:/srv/a", false, false),
            ("file:/srv/a/b", "access:/srv/a", true, false),
            ("access:/srv", "access:/srv/a", true, false),
            ("unit:a.service/activity", "file:/etc/systemd/system/a.service", true, false),
            ("unit:a@1.service/activity", "file:/etc/systemd/system/a@.service", true, false),
            ("unit:~kim/a.service/activity", "file:/home/kim/.config/systemd/user/a.service", true, false),
            ("unit:b.service/activity", "file:/etc/systemd/system/a.service", false, false),
            ("unit:dbus.service/activity", "file:/etc/systemd/system/my-dbus.service", false, false),
            ("unit:a.service/activity", "user:kim", false, false),
            ("unit:~kim/a.service/activity", "user:kim", true, false),
            ("linger:kim", "user:kim", true, false),
            ("linger:kimono", "user:kim", false, false),
            ("statement:db:label", "database:db", true, false),
            ("statement:db2:label", "database:db", false, false),
            ("statement:db@:5433:label", "database:db", false, false),
            ("statement:db@:5433:label", "database:db@:5433", true, false),
        ] {
            assert_eq!(depends(newer, older), does_depend, "{newer} on {older}");
            assert_eq!(shares(newer, older), does_share, "{newer} and {older}");
            let at_one_path = does_share
                || (does_depend
                    && !["unit", "linger", "statement"].iter().any(|kind| newer.starts_with(kind)));
            assert!(!at_one_path || of(newer).overlaps(&of(older)), "{newer} over {older}");
        }
    }

    #[test]
    fn a_path_is_not_within_another_because_its_name_begins_like_it() {
        for newer in ["file:/srv/f#a", "line:/srv/f%23a#key", "block:/srv/f%23a#b", "line:/srv/f:#key"] {
            assert!(!depends(newer, "file:/srv/f"), "{newer}");
            assert!(!shares(newer, "file:/srv/f") && !shares("file:/srv/f", newer), "{newer}");
            assert!(!of(newer).overlaps(&of("file:/srv/f")), "{newer}");
        }
        assert!(depends("line:/srv/f%23a#key", "file:/srv/f#a"));
        assert!(depends("line:/srv/f%23a#key", "file:/srv"));
    }

    #[test]
    fn a_directory_that_only_got_another_mode_carries_nothing() {
        let (directory, inside) = (of("file:/srv"), of("file:/srv/a"));
        let mode_alone = Footprint { keeps_content: true, ..footprint(&directory) };
        assert!(!footprint(&inside).depends_on(&mode_alone));
        assert!(footprint(&inside).depends_on(&footprint(&directory)));

        let (line, access) = (of("line:/srv/a#key"), of("access:/srv"));
        let owner = Footprint { keeps_content: true, ..footprint(&inside) };
        assert!(!owner.depends_on(&footprint(&line)) && !footprint(&line).depends_on(&owner));
        assert!(owner.depends_on(&footprint(&inside)) && footprint(&inside).depends_on(&owner));
        assert!(owner.depends_on(&footprint(&access)));
    }

    #[test]
    fn a_database_depends_on_the_role_that_it_names() {
        let (database, role) = (of("database:site"), of("role:kim"));
        let newer = Footprint { needs: &[role], ..footprint(&database) };
        assert!(newer.depends_on(&footprint(&of("role:kim"))));
        assert!(!newer.depends_on(&footprint(&of("role:kimono"))));
        assert!(!newer.depends_on(&footprint(&of("role:kim@other:5432"))));
    }

    #[test]
    fn a_unit_is_configured_by_its_own_files_and_drop_ins_alone() {
        let configures = |target: &str, unit: &str| of(target).configures_unit(None, unit);
        for target in [
            "unit:dbus.service/enablement",
            "unit:dbus.service/activity",
            "file:/etc/systemd/system/dbus.service",
            "line:/etc/systemd/system/dbus.service#[Service]Type",
            "file:/etc/systemd/system/multi-user.target.wants/dbus.service",
            "file:/etc/systemd/system/dbus.service.d/override.conf",
            "file:/etc/systemd/system/service.d/all.conf",
        ] {
            assert!(configures(target, "dbus.service"), "{target}");
        }
        for target in [
            "unit:my-dbus.service/activity",
            "unit:~kim/dbus.service/activity",
            "unit:dbus.socket/activity",
            "file:/etc/systemd/system/my-dbus.service",
            "file:/etc/systemd/system/my-dbus.service.d/override.conf",
            "file:/etc/systemd/system/dbus.socket",
            "file:/etc/systemd/system/socket.d/all.conf",
            "file:/srv/dbus.service",
            "command:restart dbus.service",
        ] {
            assert!(!configures(target, "dbus.service"), "{target}");
        }
        assert!(configures("file:/etc/systemd/system/getty@.service", "getty@tty1.service"));
        assert!(configures("file:/etc/systemd/system/a-b-.service.d/x.conf", "a-b-c.service"));
        assert!(!configures("file:/etc/systemd/system/a-b-.service.d/x.conf", "a-bc.service"));
        assert!(of("unit:~kim/a.service/activity").configures_unit(Some("kim"), "a.service"));
    }

    #[test]
    fn who_asks_for_a_file_asks_for_its_directories() {
        let comes = |target: &str, asked: &str| of(target).comes_with(&of(asked));
        assert!(comes("file:/m", "line:/m/conf#key") && comes("file:/m/conf", "line:/m/conf#key"));
        assert!(comes("tree:/m", "file:/m") && !comes("file:/m/conf", "file:/m"));
        assert!(comes("line:/m/conf#key", "line:/m/conf#key") && !comes("line:/m/conf#key", "file:/m/conf"));
        assert!(!comes("file:/m/f", "line:/m/f%23a#key"));
        assert!(!comes("unit:a.service/activity", "unit:a.service/enablement"));
    }

    #[test]
    fn sets_of_packages_are_told_apart_and_long_ones_in_short() {
        let own = |names: &[&str]| {
            Target::packages(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(own(&["jq", "curl"]).to_string(), "packages:jq,curl");
        let many = own(&["a1", "b1", "c1", "d1", "e1", "f1"]);
        assert!(many.to_string().starts_with("packages:a1 and 5 more ("), "{many}");
        assert_ne!(many, own(&["a1", "b1", "c1", "d1", "e1", "f2"]));
        assert_eq!(many.to_string().parse::<Target>().unwrap(), many);
    }

    #[test]
    fn people_read_what_a_target_is_in_words() {
        for (typed, described) in [
            ("file:/etc/motd", "`/etc/motd`"),
            ("line:/etc/app.ini#[web]port", "`port` in [web] of `/etc/app.ini`"),
            ("whole_line:/etc/hosts#^[#; \\t]*a=", "a line in `/etc/hosts`"),
            ("unit:~kim/a.service/enablement", "`a.service` of the user `kim`"),
            ("command:make install", "what `make install` did"),
            ("packages:jq,curl", "`packages:jq,curl`"),
        ] {
            assert_eq!(of(typed).described(), described);
        }
    }

    #[test]
    fn the_form_in_one_line_is_as_plain_as_the_names_are() {
        let path = || PathText::new("/srv/größe 1#a:b");
        for (target, text) in [
            (Target::File(path()), "file:/srv/größe 1#a:b"),
            (Target::File(PathText::new("/50%\n")), "file:/50%25%0a"),
            (
                Target::Line { path: path(), section: Some("a]b".into()), key: "k#[1]".into() },
                "line:/srv/größe 1%23a:b#[a%5db]k#[1]",
            ),
            (
                Target::Line { path: path(), section: None, key: "[k]".into() },
                "line:/srv/größe 1%23a:b#%5bk]",
            ),
            (
                Target::WholeLine { path: path(), text: "[::1] a".into() },
                "whole_line:/srv/größe 1%23a:b#%5b::1] a",
            ),
            (Target::Role { server: None, name: "a@b".into() }, "role:a%40b"),
            (
                Target::Statement {
                    server: Some(DatabaseServer { host: "::1".into(), port: 5432 }),
                    database: "shop".into(),
                    label: "select 1::int".into(),
                },
                "statement:shop@%3a%3a1:5432:select 1::int",
            ),
            (
                Target::Unit {
                    user: Some("kim".into()),
                    name: "a\\x2db.service".into(),
                    aspect: Aspect::Activity,
                },
                "unit:~kim/a\\x2db.service/activity",
            ),
        ] {
            assert_eq!(target.to_string(), text);
            assert_eq!(of(text), target);
        }
        assert_eq!(of("file:/srv/100%"), Target::File(PathText::new("/srv/100%")));
    }

    #[test]
    fn what_is_no_target_is_refused() {
        for text in [
            "",
            "01",
            "file",
            "nothing:/srv/a",
            "line:/srv/a",
            "unit:a.service",
            "unit:~kim/activity",
            "role:kim@there",
            "role:kim@there:port",
            "role:kim@there:1:2",
            "statement:db",
            "statement:db@there:1",
            "user:%ff",
        ] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }

    fn any_path() -> impl Strategy<Value = PathText> {
        let bytes = prop::collection::vec(
            prop_oneof![any::<u8>(), prop::sample::select(b"/#:%[]@~,0af".to_vec())],
            0..12,
        );
        bytes.prop_map(|bytes| {
            let bytes = bytes.into_iter().filter(|byte| *byte != 0).collect();
            PathText::new(std::ffi::OsString::from_vec(bytes))
        })
    }

    fn any_text() -> impl Strategy<Value = String> {
        prop_oneof![".{0,10}", "[/#:%\\[\\]@~, a0f\\n]{0,10}"]
    }

    fn any_server() -> impl Strategy<Value = Option<DatabaseServer>> {
        prop::option::of((any_text(), any::<u16>()).prop_map(|(host, port)| DatabaseServer { host, port }))
    }

    fn any_target() -> impl Strategy<Value = Target> {
        let section = || prop::option::of(any_text());
        let aspect = prop_oneof![Just(Aspect::Enablement), Just(Aspect::Activity)];
        prop_oneof![
            any_path().prop_map(Target::File),
            any_path().prop_map(Target::Tree),
            any_path().prop_map(Target::Access),
            any_path().prop_map(Target::Product),
            (any_path(), section(), any_text()).prop_map(|(path, section, key)| Target::Line {
                path,
                section,
                key
            }),
            (any_path(), section(), any_text()).prop_map(|(path, section, name)| Target::Block {
                path,
                section,
                name
            }),
            (any_path(), any_text()).prop_map(|(path, text)| Target::WholeLine { path, text }),
            any_text().prop_map(Target::Command),
            any_text().prop_map(Target::Captured),
            any_text().prop_map(Target::User),
            any_text().prop_map(Target::Group),
            any_text().prop_map(Target::Linger),
            // A package has a name.
            prop::collection::vec(any_text().prop_map(|name| format!("a{name}")), 0..8)
                .prop_map(|names| Target::packages(&names)),
            any_text().prop_map(Target::Hold),
            (any_text(), any_text()).prop_map(|(package, question)| Target::Debconf { package, question }),
            (section(), any_text(), aspect).prop_map(|(user, name, aspect)| Target::Unit {
                user,
                name,
                aspect
            }),
            (any_server(), any_text()).prop_map(|(server, name)| Target::Role { server, name }),
            (any_server(), any_text()).prop_map(|(server, name)| Target::Database { server, name }),
            (any_server(), any_text(), any_text()).prop_map(|(server, database, label)| Target::Statement {
                server,
                database,
                label
            }),
            any_text().prop_map(Target::Once),
            any_text().prop_map(Target::Step),
        ]
    }

    proptest! {
        #[test]
        fn every_target_comes_back_from_its_line_and_from_the_journal(target in any_target()) {
            let line = target.to_string();
            prop_assert_eq!(&line.parse::<Target>().unwrap(), &target, "{}", line);
            prop_assert!(!line.chars().any(text::is_obeyed), "{:?}", line);
            let json = serde_json::to_string(&target).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Target>(&json).unwrap(), &target, "{}", json);
        }

        #[test]
        fn two_targets_never_have_one_line(one in any_target(), other in any_target()) {
            prop_assert_eq!(one == other, one.to_string() == other.to_string());
        }

        #[test]
        fn whatever_is_typed_is_read_or_refused(text in "(file|line|unit|role|statement|packages):.{0,20}") {
            if let Ok(target) = text.parse::<Target>() {
                prop_assert_eq!(target.to_string().parse::<Target>().unwrap(), target);
            }
        }
    }
}
