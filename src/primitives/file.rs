//! `file::` reads files, directories and symlinks, and brings them to their desired state.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rhai::plugin::*;
use serde::Deserialize;

use super::shorter::namespace;
use crate::change::{Change, DesiredFile, FileChange, Found, Payload, TreeChange};
use crate::failure::{Failure, FailureKind};
use crate::machine::account::{Account, Group};
use crate::machine::files::{self, Attributes, Digest, FileState, Manifest, Metadata, PathText};
use crate::script::{Host, OptionSet, PlanContent, PlanFile, Raised, Secret, Trace, act, look, options_of};
use crate::target::Target;

mod access;
mod copy;
mod download;
mod mode;
mod render;

pub(super) use mode::Mode;

pub(super) fn module() -> rhai::Module {
    let mut module = namespace(exported_manifest!(functions), &[("write", 1), ("make_dir", 1)]);
    module.combine_flatten(access::module());
    module.combine_flatten(copy::module());
    module.combine_flatten(download::module());
    module.combine_flatten(render::module());
    module
}

pub(super) fn options(function: &str) -> Option<OptionSet> {
    match function {
        "write" | "make_dir" | "copy" | "mirror" => Some(OptionSet::of::<Ownership>()),
        "download" => Some(OptionSet::of::<download::Options>()),
        "access" => Some(OptionSet::of::<access::Options>().needing_one_of(&["owner", "group", "mode"], &[])),
        _ => None,
    }
}

/// The options of everything that is created.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Ownership {
    pub(super) owner: Option<String>,
    pub(super) group: Option<String>,
    pub(super) mode: Option<Mode>,
}

impl Ownership {
    /// The numbers behind the names. An owner without a group brings the group of that user.
    pub(super) fn ids(&self, host: &Host) -> Result<(Option<u32>, Option<u32>)> {
        let owner = self.owner.as_deref().map(|name| host.user_ids(name)).transpose()?;
        let group = match &self.group {
            Some(name) => Some(host.group_id(name)?),
            None => owner.and_then(|(_, gid)| gid),
        };
        Ok((owner.map(|(uid, _)| uid), group))
    }

    /// The permission bits.
    pub(super) fn bits(&self) -> Option<u32> {
        self.mode.map(|Mode(bits)| bits)
    }

    /// The attributes for something at `path`: as given, else as found, else `mode` and the owner of the
    /// directory.
    pub(super) fn attributes(
        &self,
        host: &Host,
        path: &Path,
        found: &FileState,
        mode: u32,
    ) -> Result<Attributes> {
        let (owner, group) = self.ids(host)?;
        let bits = self.bits();
        let (found_owner, found_group) = match found.ownership() {
            Some(ownership) => ownership,
            None => match (owner, group) {
                (Some(owner), Some(group)) => (owner, group),
                _ => owner_of_directory(host, path)?,
            },
        };
        let found_metadata = found.metadata();
        let mut attributes = Attributes::new(
            bits.or(found_metadata.map(|metadata| metadata.mode)).unwrap_or(mode),
            owner.unwrap_or(found_owner),
            group.unwrap_or(found_group),
        );
        if let Some(Metadata { xattrs, flags, .. }) = found_metadata {
            attributes.xattrs.clone_from(xattrs);
            attributes.flags = *flags;
        }
        Ok(attributes)
    }
}

/// The owner of the parent directory of `path`, to whom a new file belongs.
pub(super) fn owner_of_directory(host: &Host, path: &Path) -> Result<(u32, u32)> {
    // The directory may be reached through symlinks, as /var/run is.
    let canonical = files::canonical(path)?;
    let directory = canonical.parent().unwrap_or(Path::new("/"));
    let state = host.found(directory)?.state;
    match &state {
        FileState::Directory { .. } => state
            .ownership()
            .with_context(|| format!("internal error: no owner of `{}`", directory.display())),
        FileState::Absent => bail!(
            Failure::new(format!(
                "cannot write `{}`: its parent directory `{}` does not exist",
                path.display(),
                directory.display()
            ))
            .kind(FailureKind::Missing)
            .hint(format!("create it first with `file::make_dir({:?})`", directory.display().to_string()))
        ),
        other => bail!(
            Failure::new(format!(
                "cannot write `{}`: `{}` is {}, not a directory",
                path.display(),
                directory.display(),
                other.kind_name()
            ))
            .kind(FailureKind::Exists)
        ),
    }
}

/// A path that a script names: absolute, without `..`.
pub(super) fn absolute(path: &str) -> Result<PathBuf> {
    let given = Path::new(path);
    let plain = given.is_absolute()
        && !given.components().any(|component| matches!(component, std::path::Component::ParentDir));
    if plain {
        return Ok(given.to_owned());
    }
    bail!(
        Failure::new(format!("invalid path `{path}`: it must be absolute, without `..`"))
            .kind(FailureKind::Usage)
            .hint("the plan's own files begin with `files/`")
    )
}

/// The bytes at a path: a plan file, noted as part of the step's fingerprint, or a file of the machine. They become
/// a script's string, so their number is limited.
pub(super) fn read_bytes(host: &Host, path: &str) -> Result<Vec<u8>> {
    if path.starts_with("files/") {
        return Ok(plan_content(host, path)?.read()?.into_owned());
    }
    let path = absolute(path)?;
    if let Some(content) = host.predicted(&path)?.and_then(|known| known.content) {
        return Ok(content.to_vec());
    }
    host.refuse_unknown(&path)?;
    files::read_following(&path)
}

/// The names of what is in a directory.
fn names_in(host: &Host, path: &Path) -> Result<Vec<String>> {
    let canonical = files::canonical(path)?;
    if host.predicted(path)?.is_some()
        && let Some(names) = host.seen().world.predicted.borrow().names_in(&canonical)
    {
        return Ok(names);
    }
    host.refuse_unknown(path)?;
    let failed = || format!("cannot read the directory `{}`", path.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).with_context(failed)? {
        names.push(entry.with_context(failed)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn digest_at(host: &Host, path: &str) -> Result<Digest> {
    if path.starts_with("files/") {
        return Ok(plan_content(host, path)?.digest());
    }
    let path = absolute(path)?;
    host.refuse_unknown(&path)?;
    files::digest_following(&path)
}

fn plan_content(host: &Host, path: &str) -> Result<PlanContent> {
    match read_plan(host, path)? {
        PlanFile::File(content) => Ok(content),
        PlanFile::Tree(_) => {
            bail!(Failure::new(format!("`{path}` is a directory")).kind(FailureKind::Directory))
        }
    }
}

/// A file of the plan, noted as part of the step's fingerprint. A missing one is noted, too.
pub(super) fn read_plan(host: &Host, path: &str) -> Result<PlanFile> {
    let file = host.source().plan_file(path);
    let hash = file.as_ref().map_or_else(|_| Trace::MISSING.to_owned(), PlanFile::hash);
    host.trace().files.insert(path.to_owned(), hash);
    file
}

fn read_text(host: &Host, path: &str) -> Result<String> {
    let bytes = read_bytes(host, path)?;
    String::from_utf8(bytes).map_err(|_| {
        Failure::new(format!("cannot read `{path}` as text: it is not UTF-8"))
            .kind(FailureKind::Encoding)
            .into()
    })
}

/// Whether something is missing, such as a directory or a user, that a command, a package or an account may have brought
/// by then: what needs it would be made in any case. What files a run will have made by then is predicted.
fn awaits_another(host: &Host, error: &anyhow::Error) -> bool {
    let is_missing =
        error.downcast_ref::<Failure>().is_some_and(|failure| failure.kind == FailureKind::Missing);
    is_missing && host.seen().would_change().iter().any(|would| !would.target.is_in_the_file_system())
}

/// Brings one path to its desired state.
pub(super) fn make<'bytes>(
    host: &Host,
    path: &Path,
    desired: impl FnOnce(&Found) -> Result<DesiredFile<'bytes>>,
) -> Result<bool> {
    make_holding(host, path, false, desired)
}

/// The same; `secret` says that the content holds a secret.
fn make_holding<'bytes>(
    host: &Host,
    path: &Path,
    secret: bool,
    desired: impl FnOnce(&Found) -> Result<DesiredFile<'bytes>>,
) -> Result<bool> {
    let found = host.found(path)?;
    host.seen().asks_for(|| Target::file(&found.path));
    // What replaced a file or a directory of kkrun's is a conflict like any other modification of it.
    let is_instead = match &found.state {
        FileState::Directory { .. } => host.seen().left_a_file(&found.path),
        FileState::File { .. } | FileState::Link { .. } => host.seen().left_a_directory(&found.path),
        _ => false,
    };
    let instead = Found { state: FileState::Absent, ..found.clone() };
    let desired = match desired(if is_instead { &instead } else { &found }) {
        Err(error) if found.state.is_absent() && awaits_another(host, &error) => {
            let summary = format!("make {}", found.path.display());
            host.session().note_change(Target::file(&found.path), summary);
            return Ok(true);
        }
        desired => desired?,
    };
    let change = match desired {
        DesiredFile::File { .. } | DesiredFile::Copy { .. } | DesiredFile::Link { .. }
            if is_instead && matches!(found.state, FileState::Directory { .. }) =>
        {
            FileChange::in_place_of_directory(found, &desired)?
        }
        _ => FileChange::towards(found, &desired),
    };
    let Some(mut change) = change else { return Ok(false) };
    if secret {
        change = change.with_secret();
    }
    host.session().perform(&Change::File(change), Payload::File(&desired))
}

pub(super) fn write_bytes(host: &Host, path: &str, bytes: &[u8], options: &Ownership) -> Result<bool> {
    write_new(host, path, bytes, options, false)
}

/// The mode of a new file, and of one that holds a secret.
pub(super) const NEW_FILE: u32 = 0o644;
pub(super) const NEW_SECRET: u32 = 0o600;

/// Writes `bytes` to the file `path`; `secret` says that they contain a secret.
fn write_new(host: &Host, path: &str, bytes: &[u8], options: &Ownership, secret: bool) -> Result<bool> {
    let path = absolute(path)?;
    let mode = if secret { NEW_SECRET } else { NEW_FILE };
    make_holding(host, &path, secret, |found| match &found.state {
        FileState::Absent | FileState::File { .. } | FileState::Link { .. } => {
            let regular =
                if matches!(found.state, FileState::File { .. }) { &found.state } else { &FileState::Absent };
            Ok(DesiredFile::File { bytes, attributes: options.attributes(host, &path, regular, mode)? })
        }
        other => bail!(
            Failure::new(format!(
                "cannot write `{}`: it is {}, not a file",
                path.display(),
                other.kind_name()
            ))
            .kind(FailureKind::Directory)
        ),
    })
}

fn write_text(host: &Host, path: &str, text: &str, options: rhai::Map) -> Result<bool> {
    host.refuse_known_secret(text)?;
    write_bytes(host, path, text.as_bytes(), &options_of(options)?)
}

#[export_module(manifest)]
mod functions {
    use super::*;

    /// Whether `path` exists: as a file, a directory or a symlink, even a dangling one.
    ///
    /// ```rhai
    /// assert(file::exists("/etc/passwd") && !file::exists("/nothing/here"));
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn exists(context: NativeCallContext, path: &str) -> Raised<bool> {
        look(&context, |host| {
            if path.starts_with("files/") {
                return Ok(read_plan(host, path).is_ok());
            }
            let path = absolute(path)?;
            if let Some(known) = host.predicted(&path)? {
                return Ok(!known.state.is_absent());
            }
            host.refuse_unknown(&path)?;
            match std::fs::symlink_metadata(&path) {
                Ok(_) => Ok(true),
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                    ) =>
                {
                    Ok(false)
                }
                Err(error) => {
                    Err(error).with_context(|| format!("cannot read the attributes of `{}`", path.display()))
                }
            }
        })
    }

    /// What is at `path`: `#{ kind, size, mode, owner, group, sha256, target }`, or `()` when it does not exist.
    /// `kind` is `file`, `directory`, `link` or `special`; `mode` is a string such as `"0644"`; `owner` and `group`
    /// are names, or numbers without a name.
    ///
    /// ```rhai
    /// let passwd = file::stat("/etc/passwd");
    /// assert(passwd.kind == "file" && passwd.owner == "root" && passwd.mode == "0644");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn stat(context: NativeCallContext, path: &str) -> Raised<Dynamic> {
        look(&context, |host| {
            let path = absolute(path)?;
            host.refuse_unknown(&path)?;
            let state = FileState::observe(&path)?;
            if state.is_absent() {
                return Ok(Dynamic::UNIT);
            }
            let mut map = rhai::Map::new();
            map.insert("kind".into(), kind_of(&state).into());
            if let Some((owner, group)) = state.ownership() {
                let owner = Account::by_uid(owner)?.map_or_else(|| owner.to_string(), |account| account.name);
                let group = Group::by_gid(group)?.map_or_else(|| group.to_string(), |group| group.name);
                map.insert("owner".into(), owner.into());
                map.insert("group".into(), group.into());
            }
            if let Some(metadata) = state.metadata() {
                map.insert("mode".into(), format!("{:04o}", metadata.mode).into());
            }
            match &state {
                FileState::File { sha256, size, .. } => {
                    map.insert("sha256".into(), sha256.sha256().unwrap_or_default().into());
                    map.insert("size".into(), Dynamic::from(i64::try_from(*size).unwrap_or(i64::MAX)));
                }
                FileState::Link { to, .. } => {
                    map.insert("target".into(), to.to_string().into());
                }
                _ => {}
            }
            Ok(Dynamic::from_map(map))
        })
    }

    /// The names of what is in the directory `path`, sorted.
    ///
    /// ```rhai
    /// file::make_dir("/srv/pages");
    /// file::write("/srv/pages/index.html", "hello\n");
    /// assert(file::list("/srv/pages") == ["index.html"]);
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn list(context: NativeCallContext, path: &str) -> Raised<rhai::Array> {
        look(&context, |host| {
            let names = names_in(host, &absolute(path)?)?;
            Ok(names.into_iter().map(Dynamic::from).collect())
        })
    }

    /// The content of a text file of the machine, or of the plan (`files/…`).
    ///
    /// ```rhai
    /// assert(file::read("/etc/passwd").contains("root:"));
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn read(context: NativeCallContext, path: &str) -> Raised<String> {
        look(&context, |host| read_text(host, path))
    }

    /// The lines of a file, without their line endings.
    ///
    /// ```rhai
    /// assert(file::lines("/etc/passwd").some(|line| line.starts_with("root:")));
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn lines(context: NativeCallContext, path: &str) -> Raised<rhai::Array> {
        look(&context, |host| Ok(read_text(host, path)?.lines().map(|line| line.to_owned().into()).collect()))
    }

    /// The SHA-256 of a file, in hexadecimal digits.
    ///
    /// ```rhai
    /// assert(file::sha256("/etc/passwd").len() == 64);
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn sha256(context: NativeCallContext, path: &str) -> Raised<String> {
        look(&context, |host| {
            digest_at(host, path)?.sha256().with_context(|| format!("internal error: no SHA-256 of `{path}`"))
        })
    }

    /// Writes `text` to the file `path`, whole or not at all. A new file belongs to the owner of its directory; an
    /// existing one keeps its owner and mode. Undo restores the file as it was. Nothing is written through a symlink at
    /// `path`: what makes a whole file replaces the symlink, and `config::`, which changes a part of one, refuses it.
    /// Options: `owner`, `group`, `mode` (default for a new file: 0644). Owner and group are names, or numbers such as
    /// `"1500"`, which no account need have.
    ///
    /// ```rhai
    /// file::write("/srv/shared", "", #{ owner: "1500", group: "1600" });
    /// assert(file::stat("/srv/shared").owner == "1500" && file::stat("/srv/shared").group == "1600");
    /// ```
    ///
    /// ```rhai
    /// assert(file::write("/srv/greeting", "hello\n"));
    /// assert(!file::write("/srv/greeting", "hello\n"));
    /// ```
    ///
    /// ```rhai
    /// file::write("/srv/quiet", "hush\n", #{ mode: "0600" });
    /// assert(file::stat("/srv/quiet").mode == "0600");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn write(
        context: NativeCallContext,
        path: &str,
        text: &str,
        options: rhai::Map,
    ) -> Raised<bool> {
        act(&context, |host| write_text(host, path, text, options))
    }

    /// Writes a secret to the file `path`, as `file::write` writes a string.
    /// Options: `owner`, `group`, `mode` (default for a new file: 0600).
    ///
    /// ```rhai
    /// file::write("/srv/secret", secret::generate("api_key"));
    /// assert(file::stat("/srv/secret").mode == "0600");
    /// ```
    ///
    /// ```rhai
    /// file::write("/srv/secret", secret::generate("api_key"), #{ mode: "0640" });
    /// ```
    #[rhai_fn(name = "write", return_raw, volatile)]
    pub(super) fn write_secret(
        context: NativeCallContext,
        path: &str,
        secret: Secret,
        options: rhai::Map,
    ) -> Raised<bool> {
        act(&context, |host| write_new(host, path, secret.reveal().as_bytes(), &options_of(options)?, true))
    }

    /// Makes `path` a symlink to `target`. Undo restores what was there.
    ///
    /// ```rhai
    /// file::link("/etc/hostname", "/srv/name");
    /// assert(file::stat("/srv/name").target == "/etc/hostname");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn link(context: NativeCallContext, target: &str, path: &str) -> Raised<bool> {
        act(&context, |host| {
            let path = absolute(path)?;
            make(host, &path, |found| {
                let (owner, group) = match found.state.ownership() {
                    Some(ownership) if matches!(found.state, FileState::Link { .. }) => ownership,
                    _ => owner_of_directory(host, &path)?,
                };
                Ok(DesiredFile::Link { to: PathText::new(target), owner, group })
            })
        })
    }

    /// Creates a directory and its missing parents. A new one belongs to the owner of its parent. Undo removes it if it
    /// is empty; if something else was put into it, a rollback asks first (`--purge homes`).
    /// Options: `owner`, `group`, `mode` (default for a new directory: 0755). They apply to the last directory, even if it
    /// exists.
    ///
    /// ```rhai
    /// file::make_dir("/srv/a/b");
    /// assert(file::stat("/srv/a/b").kind == "directory");
    /// ```
    ///
    /// ```rhai
    /// file::make_dir("/srv/private", #{ mode: "0700" });
    /// assert(file::stat("/srv/private").mode == "0700");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn make_dir(context: NativeCallContext, path: &str, options: rhai::Map) -> Raised<bool> {
        act(&context, |host| make_directories(host, path, &options_of(options)?))
    }

    /// Removes a file, a symlink, or a directory with its content. Undo restores it with content, owners, modes and times.
    ///
    /// ```rhai
    /// file::write("/srv/old", "x");
    /// assert(file::remove("/srv/old") && !file::remove("/srv/old"));
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn remove(context: NativeCallContext, path: &str) -> Raised<bool> {
        act(&context, |host| remove_whole(host, &absolute(path)?))
    }
}

fn kind_of(state: &FileState) -> &'static str {
    match state {
        FileState::Absent => "absent",
        FileState::File { .. } | FileState::SameFile { .. } => "file",
        FileState::Directory { .. } => "directory",
        FileState::Link { .. } => "link",
        FileState::Special { .. } => "special",
    }
}

/// A file with several hard links is not removed: undo could only restore it as a file of its own.
fn refuse_second_name(path: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.nlink() > 1 => bail!(
            Failure::new(format!(
                "cannot remove `{0}`: it has other hard links, and undo could not restore them",
                PathText::new(path)
            ))
            .kind(FailureKind::Refused)
            .hint(format!("`find / -xdev -samefile {}` finds them", path.display()))
        ),
        _ => Ok(()),
    }
}

fn remove_whole(host: &Host, path: &Path) -> Result<bool> {
    let canonical = files::canonical(path)?;
    if host.may_be_packaged(&canonical) {
        let summary = format!("remove {}", canonical.display());
        host.session().might_make(Target::file(&canonical), summary);
        return Ok(true);
    }
    let is_full = matches!(FileState::observe(&canonical)?, FileState::Directory { .. })
        && std::fs::read_dir(&canonical)
            .with_context(|| format!("cannot read `{}`", canonical.display()))?
            .next()
            .is_some();
    if !is_full {
        refuse_second_name(&canonical)?;
        return make(host, path, |_| Ok(DesiredFile::Absent));
    }
    if canonical.parent().is_none() {
        bail!(Failure::new("refused to remove `/`").kind(FailureKind::Usage));
    }
    let Some(change) = TreeChange::remove(&canonical)? else { return Ok(false) };
    let nothing = &mut |_: &Path| bail!("nothing is read for a removal");
    host.session().perform(&Change::Tree(change), Payload::Tree(&Manifest::default(), nothing))
}

fn make_directories(host: &Host, path: &str, options: &Ownership) -> Result<bool> {
    let path = absolute(path)?;
    let mut changed = false;
    let is_missing = |above: &&Path| {
        std::fs::symlink_metadata(above).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
            && host.predicted(above).is_ok_and(|known| known.is_none_or(|known| known.state.is_absent()))
    };
    let missing: Vec<&Path> = path.ancestors().skip(1).take_while(is_missing).collect();
    for above in missing.into_iter().rev() {
        if host.may_be_packaged(above) {
            let summary = format!("make {}", above.display());
            host.session().might_make(Target::file(above), summary);
            let attributes = Ownership::default().attributes(host, above, &FileState::Absent, 0o755)?;
            let session = host.seen();
            session.world.predicted.borrow_mut().set_directory(above, &attributes);
            changed = true;
            continue;
        }
        // In a dry run, the parent directory may be one that would have been created.
        changed |= make_directory(host, above, &Ownership::default())?;
    }
    Ok(changed | make_directory(host, &path, options)?)
}

fn make_directory(host: &Host, path: &Path, options: &Ownership) -> Result<bool> {
    make(host, path, |found| match &found.state {
        FileState::Absent | FileState::Directory { .. } => {
            Ok(DesiredFile::Directory { attributes: options.attributes(host, path, &found.state, 0o755)? })
        }
        other => bail!(
            Failure::new(format!(
                "cannot create the directory `{}`: it is {}",
                path.display(),
                other.kind_name()
            ))
            .kind(FailureKind::Exists)
        ),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::script::{Settings, Source};
    use crate::session::testing::Ground;

    /// As in CONTRIBUTING.md.
    fn make_empty(host: &Host, path: &str, options: &Ownership) -> Result<bool> {
        let path = absolute(path)?;
        make(host, &path, |found| match &found.state {
            FileState::Absent => {
                let attributes = options.attributes(host, &path, &found.state, NEW_FILE)?;
                Ok(DesiredFile::File { bytes: b"", attributes })
            }
            // The metadata that it has: nothing is to be changed.
            there => {
                let attributes = Ownership::default().attributes(host, &path, there, NEW_FILE)?;
                Ok(DesiredFile::Metadata { attributes })
            }
        })
    }

    #[test]
    fn the_example_for_contributors_is_code_that_works() {
        let (text, own) = (include_str!("../../CONTRIBUTING.md"), include_str!("file.rs"));
        let begin = text.find("fn make_empty").unwrap();
        let example = &text[begin..begin + text[begin..].find("```").unwrap()];
        assert!(own.replace("\n    ", "\n").contains(example), "{example}");
        let source = Source::find(Path::new("master.rhai")).unwrap().0;
        let settings = Settings::read(&source, &[], &BTreeMap::new()).unwrap();
        let ground = Ground::new();
        let host = Host::new(ground.run(), source, settings, Vec::new());
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new").to_string_lossy().into_owned();
        assert!(make_empty(&host, &path, &Ownership::default()).unwrap());
        assert!(!make_empty(&host, &path, &Ownership::default()).unwrap());
        assert_eq!(std::fs::read(path).unwrap(), b"");
    }
}
