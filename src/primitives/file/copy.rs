//! `file::copy` and `file::mirror`: files and trees from elsewhere.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use rhai::plugin::*;

use super::{
    NEW_FILE, Ownership, absolute, awaits_another, make, owner_of_directory, read_plan, write_bytes,
};
use crate::change::{Change, DesiredFile, Payload, TreeChange};
use crate::failure::{Failure, FailureKind};
use crate::machine::clock;
use crate::machine::files::{
    self, Attributes, Content, Digest, FileState, Manifest, Metadata, ModifiedAt, PathText, TreeFiles,
};
use crate::primitives::shorter::namespace;
use crate::script::{Host, PlanContent, PlanFile, Raised, Unpredictable, act, options_of};
use crate::target::Target;

pub(super) fn module() -> rhai::Module {
    namespace(exported_manifest!(functions), &[("copy", 1), ("mirror", 1)])
}

/// The most permissions that a new entry gets, as under the umask 022.
const WIDEST: u32 = 0o755;
/// How many symlinks are followed to find what is copied.
const MOST_LINKS: usize = 40;

/// Where a copy comes from.
enum Origin {
    /// A file of the plan.
    PlanFile(PlanContent),
    /// A file of the machine.
    File(PathBuf),
    /// A tree of the plan: its files by their paths from the root.
    Plan(BTreeMap<PathBuf, PlanContent>),
    /// A tree of the machine.
    Disk(PathBuf),
}

impl Origin {
    fn of(host: &Host, from: &str) -> Result<Self> {
        if from.starts_with("files/") {
            return Ok(match read_plan(host, from)? {
                PlanFile::File(content) => Self::PlanFile(content),
                PlanFile::Tree(files) => Self::Plan(files.into_iter().collect()),
            });
        }
        let path = absolute(from)?;
        host.refuse_unknown(&path)?;
        refuse_what_commands_make(host, from)?;
        let mut path = files::canonical(&path)?;
        for _ in 0..MOST_LINKS {
            match FileState::observe(&path)? {
                FileState::File { .. } => return Ok(Self::File(path)),
                FileState::Directory { .. } => return Ok(Self::Disk(path)),
                FileState::Absent => {
                    bail!(
                        Failure::new(format!("cannot copy `{}`: it does not exist", PathText::new(path)))
                            .kind(FailureKind::Missing)
                    )
                }
                // root follows only symlinks of root.
                FileState::Link { to, owner: 0, .. } if files::owner_of_place(&path)?.is_none() => {
                    path = files::canonical(&path.parent().unwrap_or(Path::new("/")).join(to))?;
                }
                other => bail!(
                    Failure::new(format!(
                        "cannot copy `{}`: it is {}, and only files, directories and symlinks can be copied",
                        PathText::new(path),
                        other.kind_name()
                    ))
                    .kind(FailureKind::Refused)
                ),
            }
        }
        bail!(
            Failure::new(format!("cannot copy `{from}`: it goes through too many symlinks"))
                .kind(FailureKind::Refused)
        )
    }

    /// The entries of the tree, with the times that a copy gets.
    fn manifest(&self, times: Times) -> Result<Manifest> {
        let now = ModifiedAt::from(clock::now());
        match self {
            Self::PlanFile(_) | Self::File(_) => bail!("expected a directory, found a file"),
            Self::Plan(files) => {
                let mut manifest = Manifest::default();
                let (file, directory) = (Attributes::new(0o644, 0, 0), Attributes::new(0o755, 0, 0));
                manifest.insert_directory(".", &directory);
                for (name, content) in files {
                    for above in name.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
                        manifest.insert_directory(above, &directory);
                    }
                    manifest.insert(&**name, FileState::file(content.digest(), content.size(), &file));
                }
                Ok(manifest.dated(now))
            }
            Self::Disk(path) => {
                let manifest = Manifest::observe(path)?;
                for (name, state) in manifest.entries() {
                    if let FileState::Special { .. } = state {
                        let at = PathText::new(path.join(name));
                        bail!(
                            Failure::new(format!(
                                "cannot copy `{at}`: it is {}, and only files, directories and symlinks can be copied",
                                state.kind_name()
                            ))
                            .kind(FailureKind::Refused)
                        );
                    }
                }
                Ok(if times == Times::Now { manifest.dated(now) } else { manifest })
            }
        }
    }

    /// Makes a change with the contents of this origin.
    fn perform(&self, host: &Host, change: &Change, desired: &Manifest) -> Result<bool> {
        match self {
            Self::PlanFile(_) | Self::File(_) => bail!("expected a directory, found a file"),
            Self::Plan(files) => {
                let open = &mut |relative: &Path| {
                    let file = files.get(relative);
                    file.with_context(|| format!("`{}` is no longer in the plan", relative.display()))?.open()
                };
                host.session().perform(change, Payload::Tree(desired, open))
            }
            Self::Disk(path) => {
                let files = TreeFiles::open(path)?;
                let open = &mut |relative: &Path| Ok(Content::File(files.file(relative)?));
                host.session().perform(change, Payload::Tree(desired, open))
            }
        }
    }
}

/// Which times the entries of a copy get.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Times {
    /// When they were copied.
    Now,
    /// Those of the origin.
    Kept,
}

/// A command that would have run may create anything, so what there would be to copy is unpredictable.
fn refuse_what_commands_make(host: &Host, from: &str) -> Result<()> {
    let session = host.seen();
    if !host.dry_run() {
        return Ok(());
    }
    match session.would_change().iter().find(|would| matches!(would.target, Target::Command(_))) {
        Some(would) => {
            Err(Unpredictable(format!("`{from}` after {}, which would have run by then", would.target))
                .into())
        }
        None => Ok(()),
    }
}

/// The desired tree at `to`. An owner, group or mode that is not given is that of the entry that exists,
/// by `found`; else the owner of its directory and the mode of the origin.
fn desired_tree(
    host: &Host,
    origin: &Manifest,
    to: &Path,
    found: &Manifest,
    options: &Ownership,
) -> Result<Manifest> {
    let (owner, group) = options.ids(host)?;
    let bits = options.bits();
    let mut tree = Manifest::default();
    for (name, state) in origin.entries() {
        let name = name.as_path();
        let present = found.get(name).filter(|present| {
            let both = [present, state].map(|state| matches!(state, FileState::Directory { .. }));
            both[0] == both[1]
        });
        let inherited = match present.and_then(FileState::ownership) {
            Some(ownership) => ownership,
            None if name == Path::new(".") => owner_of_directory(host, to)?,
            None => {
                let above = name.parent().filter(|above| !above.as_os_str().is_empty());
                let above = tree.get(above.unwrap_or(Path::new("."))).and_then(FileState::ownership);
                above.with_context(|| {
                    format!("cannot copy to `{}`: its parent directory does not exist", name.display())
                })?
            }
        };
        let (owner, group) = (owner.unwrap_or(inherited.0), group.unwrap_or(inherited.1));
        let attributes = |metadata: &Metadata, bits: Option<u32>| {
            let present = present.and_then(FileState::metadata);
            let mode = bits.or(present.map(|present| present.mode)).unwrap_or(metadata.mode & WIDEST);
            let mut attributes = Attributes::new(mode, owner, group);
            attributes.xattrs = present.map(|present| present.xattrs.clone()).unwrap_or_default();
            attributes.flags = present.and_then(|present| present.flags);
            attributes.mtime = Some(metadata.mtime);
            attributes
        };
        let desired = match state {
            FileState::File { sha256, size, metadata } => {
                FileState::file(*sha256, *size, &attributes(metadata, bits))
            }
            FileState::Directory { metadata } => {
                FileState::directory(&attributes(metadata, bits.map(enterable)))
            }
            FileState::Link { to, mtime, .. } => {
                FileState::Link { to: to.clone(), owner, group, mtime: *mtime }
            }
            other => other.clone(),
        };
        tree.insert(name, desired);
    }
    Ok(tree)
}

/// The mode of a directory whose files have this one: those who can read can also enter.
pub(super) fn enterable(mode: u32) -> u32 {
    mode | (mode & 0o444) >> 2
}

fn copy_file(host: &Host, from: &Path, to: &str, options: &Ownership) -> Result<bool> {
    let state = FileState::observe(from)?;
    let FileState::File { sha256, size, metadata } = &state else {
        bail!(Failure::new(format!("`{}` is no longer a file", from.display())).kind(FailureKind::Missing))
    };
    let (Some(directory), Some(name)) = (from.parent(), from.file_name()) else {
        bail!("cannot copy `{}`: it has no parent directory", from.display())
    };
    let file = TreeFiles::open(directory)?.file(Path::new(name))?;
    let known = Known { file: &file, sha256: *sha256, size: *size };
    copy_known(host, &known, to, options, metadata.mode & WIDEST)
}

fn copy_plan_file(host: &Host, content: &PlanContent, to: &str, options: &Ownership) -> Result<bool> {
    match content.open()? {
        Content::Bytes(bytes) => write_bytes(host, to, &bytes, options),
        Content::File(file) => {
            let known = Known { file: &file, sha256: content.digest(), size: content.size() };
            copy_known(host, &known, to, options, NEW_FILE)
        }
    }
}

/// An open file whose content is known.
struct Known<'file> {
    file: &'file File,
    sha256: Digest,
    size: u64,
}

/// What is at the path of a copy, as far as the copy takes over from it.
fn regular_or_absent<'found>(to: &Path, found: &'found FileState) -> Result<&'found FileState> {
    match found {
        FileState::File { .. } => Ok(found),
        FileState::Absent | FileState::Link { .. } => Ok(&FileState::Absent),
        other => bail!(
            Failure::new(format!("`{}` is {}, not a file", to.display(), other.kind_name()))
                .kind(FailureKind::Directory)
        ),
    }
}

fn copy_known(host: &Host, from: &Known<'_>, to: &str, options: &Ownership, mode: u32) -> Result<bool> {
    let to = absolute(to)?;
    make(host, &to, |found| {
        let there = regular_or_absent(&to, &found.state)?;
        let attributes = options.attributes(host, &to, there, mode)?;
        Ok(DesiredFile::Copy { of: from.file, sha256: from.sha256, size: from.size, attributes })
    })
}

/// The mode and the content of a file that a dry run predicted.
fn predicted_file(host: &Host, from: &str) -> Result<Option<(u32, Rc<[u8]>)>> {
    if from.starts_with("files/") || !host.dry_run() {
        return Ok(None);
    }
    let known = host.predicted(&absolute(from)?)?;
    Ok(known.and_then(|known| Some((known.state.metadata()?.mode, known.content?))))
}

fn copy(host: &Host, from: &str, to: &str, options: &Ownership) -> Result<bool> {
    if let Some((mode, bytes)) = predicted_file(host, from)? {
        let to = absolute(to)?;
        return make(host, &to, |found| {
            let there = regular_or_absent(&to, &found.state)?;
            let attributes = options.attributes(host, &to, there, mode & WIDEST)?;
            Ok(DesiredFile::File { bytes: &bytes, attributes })
        });
    }
    let origin = Origin::of(host, from)?;
    match &origin {
        Origin::PlanFile(content) => return copy_plan_file(host, content, to, options),
        Origin::File(path) => return copy_file(host, path, to, options),
        Origin::Plan(_) | Origin::Disk(_) => {}
    }
    let to = tree_root(&origin, to)?;
    host.seen().asks_for(|| Target::tree(&to));
    // Only a tree that is made as a whole keeps hard links: a copy is added to what exists.
    let listed = origin.manifest(Times::Now)?.with_files_apart();
    let found = Manifest::observe_listed(&to, listed.entries().map(|(name, _)| name))?;
    let desired = match desired_tree(host, &listed, &to, &found, options) {
        Err(error) if found.is_empty() && awaits_another(host, &error) => {
            let summary = format!("copy {} entries to {}", listed.entries().count(), to.display());
            host.session().note_change(Target::tree(&to), summary);
            return Ok(true);
        }
        desired => desired?,
    };
    let Some(change) = TreeChange::copy(&to, &desired)? else { return Ok(false) };
    let changed = origin.perform(host, &Change::Tree(change), &desired)?;
    if let (true, Origin::Plan(files)) = (host.dry_run(), &origin) {
        for (name, content) in files.iter().filter(|(_, content)| content.size() <= MOST_FORESEEN) {
            let bytes = content.read()?;
            host.seen().world.predicted.borrow_mut().set_content(&to.join(name), Rc::from(&*bytes));
        }
    }
    Ok(changed)
}

/// The content of a copied file is known to a dry run up to this many bytes.
const MOST_FORESEEN: u64 = 256 * 1024;

/// A dry run predicted that a command makes the tree at `from`: what is in it is unknown, and that it is mirrored is not.
fn is_to_be_made(host: &Host, from: &str) -> Result<bool> {
    if from.starts_with("files/") || !host.dry_run() {
        return Ok(false);
    }
    let from = files::canonical(&absolute(from)?)?;
    let session = host.seen();
    let makes = |target: &Target| matches!(target, Target::Product(_)) && target.meets(&from);
    Ok(session.would_change().iter().any(|would| makes(&would.target)))
}

fn mirror(host: &Host, from: &str, to: &str, options: &Ownership) -> Result<bool> {
    if is_to_be_made(host, from)? {
        let to = files::canonical(&absolute(to)?)?;
        host.seen().asks_for(|| Target::tree(&to));
        let (target, summary) = (Target::tree(&to), format!("mirror {from} to {}", to.display()));
        let is_new = host.predicted(&to)?.is_some() || FileState::observe(&to)?.is_absent();
        let mut session = host.session();
        if is_new {
            session.note_change(target, summary);
        } else {
            session.might_make(target, summary);
        }
        return Ok(true);
    }
    let origin = Origin::of(host, from)?;
    if let Origin::PlanFile(_) | Origin::File(_) = origin {
        bail!(
            Failure::new(format!("cannot mirror `{from}`: expected a directory, found a file"))
                .kind(FailureKind::Usage)
        )
    }
    let to = tree_root(&origin, to)?;
    host.seen().asks_for(|| Target::tree(&to));
    let mut found = Manifest::default();
    let root = FileState::observe(&to)?;
    if !root.is_absent() {
        found.insert(".", root);
    }
    let desired = desired_tree(host, &origin.manifest(Times::Kept)?, &to, &found, options)?;
    let Some(change) = TreeChange::mirror(&to, &desired)? else { return Ok(false) };
    origin.perform(host, &Change::Tree(change), &desired)
}

/// The canonical path of the tree that is changed. It must not contain its origin or be inside it.
fn tree_root(origin: &Origin, to: &str) -> Result<PathBuf> {
    let to = files::canonical(&absolute(to)?)?;
    if to.parent().is_none() {
        bail!(Failure::new("cannot copy to `/`").kind(FailureKind::Usage));
    }
    if let Origin::Disk(from) = origin
        && (from.starts_with(&to) || to.starts_with(from))
    {
        let (from, to) = (PathText::new(&**from), PathText::new(to));
        bail!(
            Failure::new(format!("invalid paths `{from}` and `{to}`: one is inside the other"))
                .kind(FailureKind::Usage)
        );
    }
    Ok(to)
}

#[export_module(manifest)]
mod functions {
    use super::*;

    /// Copies a file or a whole tree, of the plan (`files/…`) or of the machine, to `to`. A tree is added to what is
    /// there: other entries of `to` stay. New entries belong to the owner of their parent directory; from the plan they get
    /// the mode 0644 (directories 0755), from the machine the mode of the original without write permission for group and
    /// others. Existing entries keep owner and mode. Undo restores every entry; if something else was put into a directory
    /// that the copy created, a rollback asks first (`--purge homes`).
    /// Options for all that is copied: `owner`, `group`, `mode`. Directories can also be entered by those whom the mode
    /// lets read.
    ///
    /// ```rhai
    /// file::make_dir("/srv/original/inner");
    /// file::write("/srv/original/inner/page", "hello\n");
    /// assert(file::copy("/srv/original", "/srv/copy"));
    /// assert(file::read("/srv/copy/inner/page") == "hello\n");
    /// assert(!file::copy("/srv/original", "/srv/copy"));
    /// ```
    ///
    /// ```rhai
    /// file::copy("/etc/hostname", "/srv/name", #{ mode: "0600" });
    /// assert(file::stat("/srv/name").mode == "0600");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn copy(context: NativeCallContext, from: &str, to: &str, options: rhai::Map) -> Raised<bool> {
        act(&context, |host| super::copy(host, from, to, &options_of(options)?))
    }

    /// Makes the tree at `to` the same as the one at `from`: entries that `from` does not have are removed. The new tree is
    /// built beside `to` and replaces it at once, so no one sees a half-finished one. It has the times of `from`, the owner
    /// of `to` or else of its parent directory, and the modes of `from` without write permission for group and others;
    /// `to` itself keeps its mode. Undo restores the old tree.
    /// Options for everything in it: `owner`, `group`, `mode`. Directories can also be entered by those whom the mode lets
    /// read.
    ///
    /// ```rhai
    /// file::make_dir("/srv/built");
    /// file::write("/srv/built/index.html", "new\n");
    /// file::make_dir("/srv/site");
    /// file::write("/srv/site/old.html", "old\n");
    /// assert(file::mirror("/srv/built", "/srv/site"));
    /// assert(file::read("/srv/site/index.html") == "new\n" && !file::exists("/srv/site/old.html"));
    /// assert(!file::mirror("/srv/built", "/srv/site"));
    /// ```
    ///
    /// ```rhai
    /// file::make_dir("/srv/built");
    /// file::write("/srv/built/index.html", "new\n");
    /// file::mirror("/srv/built", "/srv/pages", #{ mode: "0640" });
    /// assert(file::stat("/srv/pages").mode == "0750" && file::stat("/srv/pages/index.html").mode == "0640");
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn mirror(
        context: NativeCallContext,
        from: &str,
        to: &str,
        options: rhai::Map,
    ) -> Raised<bool> {
        act(&context, |host| super::mirror(host, from, to, &options_of(options)?))
    }
}
