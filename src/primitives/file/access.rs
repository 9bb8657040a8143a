//! `file::access`: owner, group and mode of what is there.

use std::path::Path;

use anyhow::{Result, bail};
use rhai::plugin::*;
use serde::Deserialize;

use super::mode::DesiredMode;
use super::{Ownership, absolute, make};
use crate::change::{AccessChange, Change, DesiredFile, Payload};
use crate::failure::{Failure, FailureKind};
use crate::machine::files::{self, Access, Attributes, EntryKind, FileState, PathText};
use crate::script::{Host, Raised, Unpredictable, act, options_of};
use crate::target::Target;

pub(super) fn module() -> rhai::Module {
    rhai::Module::from_manifest(exported_manifest!(functions))
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Options {
    owner: Option<String>,
    group: Option<String>,
    mode: Option<DesiredMode>,
    recursive: bool,
}

/// The desired owner, group and mode; what is not given stays.
struct Desired {
    owner: Option<u32>,
    group: Option<u32>,
    mode: Option<DesiredMode>,
}

impl Desired {
    fn of(host: &Host, options: &Options) -> Result<Self> {
        let ownership = Ownership { owner: options.owner.clone(), group: options.group.clone(), mode: None };
        let (owner, group) = ownership.ids(host)?;
        let mode = options.mode.clone();
        if owner.is_none() && group.is_none() && mode.is_none() {
            bail!(
                Failure::new("`file::access` needs one of `owner`, `group` or `mode`")
                    .kind(FailureKind::Option)
            );
        }
        Ok(Self { owner, group, mode })
    }

    fn applied(&self, access: &Access) -> Access {
        let mode = match &self.mode {
            Some(mode) if access.kind != EntryKind::Link => {
                mode.of(access.mode, access.kind == EntryKind::Directory)
            }
            _ => access.mode,
        };
        let (owner, group) = (self.owner.unwrap_or(access.owner), self.group.unwrap_or(access.group));
        Access { kind: access.kind, mode, owner, group }
    }
}

fn set_access(host: &Host, path: &str, options: &Options) -> Result<bool> {
    let path = absolute(path)?;
    let desired = Desired::of(host, options)?;
    let canonical = files::canonical(&path)?;
    host.seen().asks_for(|| Target::file(&canonical));
    if host.predicted(&path)?.is_some() {
        return would_set(host, &path, &canonical, options, &desired);
    }
    host.refuse_unknown(&path)?;
    if options.recursive && matches!(FileState::observe(&canonical)?, FileState::Directory { .. }) {
        let Some(change) = AccessChange::towards(&canonical, &|access| desired.applied(access))? else {
            return Ok(false);
        };
        return host.session().perform(&Change::Access(change), Payload::Nothing);
    }
    set_one(host, &path, &desired)
}

/// The same for a path that a dry run predicted.
fn would_set(
    host: &Host,
    path: &Path,
    canonical: &Path,
    options: &Options,
    desired: &Desired,
) -> Result<bool> {
    if !options.recursive {
        return set_one(host, path, desired);
    }
    let differs = {
        let session = host.seen();
        let predicted = session.world.predicted.borrow();
        let Some(mut tree) = predicted.tree(canonical) else {
            drop(predicted);
            drop(session);
            return Err(Unpredictable(format!("what is in `{}` by then", PathText::new(canonical))).into());
        };
        tree.any(|state| Access::of_state(state).is_some_and(|access| desired.applied(&access) != access))
    };
    if differs {
        let summary = format!("set owner and mode of entries of {}", PathText::new(canonical));
        host.session().note_change(Target::Access(canonical.into()), summary);
    }
    Ok(differs)
}

fn set_one(host: &Host, path: &Path, desired: &Desired) -> Result<bool> {
    make(host, path, |found| {
        let Some(metadata) = found.state.metadata() else {
            let shown = PathText::new(path);
            let failure = match &found.state {
                FileState::Absent => Failure::new(format!("`{shown}` not found")).kind(FailureKind::Missing),
                FileState::Link { to, .. } => {
                    let target = path.parent().unwrap_or(path).join(to);
                    Failure::new(format!("cannot set the owner or mode of `{shown}`: it is a symlink"))
                        .kind(FailureKind::Refused)
                        .hint(format!("name its target: `{}`", PathText::new(target)))
                }
                other => {
                    let kind = other.kind_name();
                    Failure::new(format!("cannot set the owner or mode of `{shown}`: it is {kind}"))
                        .kind(FailureKind::Refused)
                }
            };
            return Err(failure.into());
        };
        let is_directory = matches!(found.state, FileState::Directory { .. });
        let mut attributes = Attributes::from(metadata);
        attributes.mtime = None;
        attributes.owner = desired.owner.unwrap_or(metadata.owner);
        attributes.group = desired.group.unwrap_or(metadata.group);
        attributes.mode = match &desired.mode {
            Some(DesiredMode::Exact(bits)) => *bits,
            Some(mode) => mode.of(metadata.mode, is_directory),
            None => metadata.mode,
        };
        Ok(DesiredFile::Metadata { attributes })
    })
}

#[export_module(manifest)]
mod functions {
    use super::*;

    /// Sets owner, group or mode of `path`, which must exist. Undo restores those of every entry that was changed.
    /// Options: `owner`, `group`, `mode`, at least one of them, as of `file::write`; what is not given stays. `recursive: true` applies them to
    /// everything below a directory, too, except to what is mounted there; symlinks are not followed.
    /// The mode is octal, such as `"0640"` (directories of a tree can also be entered by those who may read), or
    /// symbolic as chmod takes it, such as `"g-w"` or `"u=rwX,go=rX"`.
    ///
    /// ```rhai
    /// file::make_dir("/srv/shared/inner");
    /// file::write("/srv/shared/inner/page", "hello\n", #{ mode: "0664" });
    /// assert(file::access("/srv/shared", #{ mode: "go-w", recursive: true }));
    /// assert(file::stat("/srv/shared/inner/page").mode == "0644");
    /// assert(!file::access("/srv/shared", #{ mode: "go-w", recursive: true }));
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub(super) fn access(context: NativeCallContext, path: &str, options: rhai::Map) -> Raised<bool> {
        act(&context, |host| set_access(host, path, &options_of(options)?))
    }
}
