//! What a command makes: what of it is the command's, and what someone else's.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::change::tree::{self, is_of_kind};
use crate::change::{World, aside, state_value, tag};
use crate::failure::{FailureKind, sentence};
use crate::machine::files::{self, Digest, FileState, Listing, PathText};
use crate::machine::tree_size::TreeSize;
use crate::target::Target;

/// When the operator agrees to lose what is not kkrun's in a product, up to this many bytes of it are kept,
const MOST_KEPT: u64 = 16 * 1024 * 1024;
/// and of one entry up to this many files.
const MOST_KEPT_FILES: u64 = 1000;

/// What a command is about: its product, and the result of its probe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandState {
    /// Whether its product is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<bool>,
    /// Of a product that is there: what kkrun's own commands left of it, as a listing in the backups. Of one that was
    /// there before and is not kkrun's: all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<Digest>,
    /// Where what was at the product's path was set aside, because it may not be kkrun's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aside: Option<PathText>,
    /// Before: the product is one that kkrun made, and an older change removes it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own: bool,
    /// The result of the probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probed: Option<String>,
    /// What its product was last made from, and by.
    #[serde(flatten)]
    pub source: CommandSource,
}

impl CommandState {
    /// Whether all that kkrun's commands left of the product is there unchanged. Of a product that was there before, or
    /// whose listing is gone, nothing is known.
    pub fn is_whole(&self, world: &World, product: &Path) -> Result<bool> {
        let Some(left) = self.left else { return Ok(true) };
        let Some(known) = read_listing(world, left)? else { return Ok(true) };
        Ok(known.without(&Listing::observe_beside(product, &known)?).is_empty())
    }
}

/// What a product is made from, and by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandSource {
    /// A hash of what the script names as its source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_from: Option<String>,
    /// A hash of the command: arguments, variables, user, directory and input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_by: Option<String>,
}

/// The product right before the command is run.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    /// All of it.
    pub(super) found: Listing,
    /// What of it is not as kkrun left it.
    pub(super) theirs: Listing,
    /// The product that the command changes.
    pub(super) changed: Option<Watched>,
    /// As in [`ProductRecord`](super::ProductRecord).
    pub(super) user: Option<u32>,
    /// As in [`ProductRecord`](super::ProductRecord).
    pub(super) runs_as: Option<String>,
    /// What kkrun's commands left of the product and something else modified or removed, by its path from there.
    pub(super) modified: Vec<PathBuf>,
    /// What kkrun did not make in the product.
    pub(super) added: Vec<Added>,
}

/// Something in a product that kkrun did not make, and that the command may remove.
#[derive(Clone, Debug)]
pub(super) struct Added {
    pub(super) path: PathBuf,
    /// From the product.
    pub(super) name: String,
    pub(super) size: TreeSize,
    /// What is in a directory `.cache`, or in one with a `CACHEDIR.TAG` (<https://bford.info/cachedir/>), can be made again
    /// by definition.
    pub(super) is_cache: bool,
}

impl Added {
    pub(super) fn look(product: &Path, name: &Path) -> Self {
        let path = if name == Path::new(".") { product.to_owned() } else { product.join(name) };
        let is_cache = name.ends_with(".cache") || is_there(&path.join("CACHEDIR.TAG")).unwrap_or(false);
        let name = PathText::new(name).to_string();
        Self { size: if is_cache { TreeSize::default() } else { TreeSize::at(&path) }, path, name, is_cache }
    }

    pub(super) fn is_kept(&self) -> bool {
        !self.is_cache && is_small(self.size)
    }
}

/// A product right before commands are run that write into it.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    pub(super) path: PathText,
    pub(super) found: Listing,
    /// As it is recorded.
    pub(super) recorded: CommandState,
}

impl Watched {
    pub(super) fn observe(path: &PathText, recorded: CommandState) -> Result<Self> {
        Ok(Self { path: path.clone(), found: Listing::observe(path.as_path())?, recorded })
    }

    /// What to record of it once the commands have ended: what differs is theirs.
    pub(super) fn recorded(&self, world: &World, user: Option<u32>) -> Result<Option<(Target, Value)>> {
        let Some(left) = self.recorded.left else { return Ok(None) };
        let now = Listing::observe(self.path.as_path())?;
        let Some(left) = read_listing(world, left)? else { return Ok(None) };
        let left = left.as_changed(&self.found, &now, user).with_contents(self.path.as_path())?;
        let left = Some(world.backups()?.save(&blob(&left)?)?);
        let state = CommandState { left, ..self.recorded.clone() };
        Ok(Some((Target::product(self.path.as_path()), state_value(&state))))
    }
}

/// What is at the path of a product.
pub(super) enum Product {
    Absent,
    /// Nothing but what kkrun's commands left, and these entries.
    Known(Vec<PathBuf>),
    /// It was never listed, or the listing is gone.
    Unknown,
}

impl Product {
    /// What is at the product's path, given what was recorded since the command was about to be run.
    pub(super) fn look_at(product: &Path, world: &World, recorded: Option<&Value>) -> Result<Self> {
        if !is_there(product)? {
            return Ok(Self::Absent);
        }
        let left = recorded.and_then(state_of).and_then(|state| state.left);
        let Some(known) = left.map(|left| read_listing(world, left)).transpose()?.flatten() else {
            return Ok(Self::Unknown);
        };
        let now = Listing::observe_beside(product, &known)?;
        let (gone, back) = (world.assumed_gone.borrow(), world.assumed_back.borrow());
        let path = |relative: &Path| {
            if relative == Path::new(".") { product.to_owned() } else { product.join(relative) }
        };
        let stays =
            |path: &PathBuf| !path.ancestors().any(|above| gone.contains(above) || back.contains(above));
        Ok(Self::Known(now.beyond(&known).into_iter().map(path).filter(stays).collect()))
    }

    /// Clears the product's path, for the command or for its undo. Gives where something was set aside that may not be
    /// kkrun's.
    pub(super) fn clear_away(
        product: &Path,
        world: &World,
        recorded: Option<&Value>,
    ) -> Result<Option<PathBuf>> {
        let found = Self::look_at(product, world, recorded)?;
        let is_whole = matches!(&found, Self::Known(theirs) if theirs.is_empty());
        match found {
            Self::Absent => Ok(None),
            Self::Known(_) if is_whole => remove(product).map(|()| None),
            Self::Known(_) | Self::Unknown => {
                let to = aside::set_aside(world, &files::canonical(product)?)?;
                world.reporter.note(format!(
                    "`{}` was moved to `{}`: it may hold what kkrun did not make",
                    product.display(),
                    to.display()
                ));
                Ok(Some(to))
            }
        }
    }
}

pub(super) fn state_of(value: &Value) -> Option<CommandState> {
    serde_json::from_value(value.clone()).ok()
}

pub(super) fn blob(listing: &Listing) -> Result<Vec<u8>> {
    serde_json::to_vec(listing).context("cannot write a listing as JSON")
}

/// The listing, if it is still there: without it, no one can say what is the command's.
pub(super) fn read_listing(world: &World, digest: Digest) -> Result<Option<Listing>> {
    let bytes = match world.backups()?.read(digest) {
        Err(error) if is_of_kind(&error, FailureKind::Backup) => return Ok(None),
        read => read?,
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .with_context(|| format!("backup `{digest}` is invalid: expected a listing"))
}

/// Whether so much is kept without a question.
pub(super) fn is_small(size: TreeSize) -> bool {
    size.bytes <= MOST_KEPT && size.files <= MOST_KEPT_FILES
}

/// Keeps what the command may remove. What cannot be kept is named: that is no reason not to run it.
pub(super) fn keep_before_run(world: &World, added: &[Added]) {
    for added in added.iter().filter(|added| added.is_kept()) {
        if let Err(error) = keep_small(world, std::slice::from_ref(&added.path)) {
            world.reporter.note(format!(
                "cannot keep a copy of `{}`: {error}",
                added.path.display(),
                error = sentence(&error)
            ));
        }
    }
}

/// Keeps a little of what others put into a product in the backups, when the operator agreed to lose it.
pub(super) fn keep_small(world: &World, theirs: &[PathBuf]) -> Result<()> {
    let mut room = MOST_KEPT;
    for path in theirs {
        let size = TreeSize::at(path);
        if size.bytes > room || size.files > MOST_KEPT_FILES {
            continue;
        }
        room -= size.bytes;
        if std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
            world.backups()?.save_tree(path)?;
        } else {
            tree::keep_copy(world, path)?;
        }
    }
    Ok(())
}

pub(super) fn is_there(path: &Path) -> Result<bool> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error)
            if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
        {
            Ok(false)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read `{}`", path.display())),
    }
}

pub(super) fn remove(path: &Path) -> Result<()> {
    match FileState::observe(path)? {
        FileState::Absent => Ok(()),
        // A half of it would be taken for the product.
        FileState::Directory { .. } => tree::remove_at_once(path),
        state => files::remove(path, &state, &tag(path)),
    }
}
