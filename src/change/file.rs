//! A file, link or directory: made, replaced, removed, or given other metadata.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Seek as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Kind, Loss, Position, UndoTerms, Undone, World, state_value};
use crate::journal::{Class, Undoing};
use crate::machine::files::{self, Attributes, Contents, Digest, FileState, PathText};

/// A change to one path.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FileChange {
    before: FileState,
    after: FileState,
    inverse: FileInverse,
    /// The content from before, on its way to the backups.
    #[serde(skip)]
    content: Option<Vec<u8>>,
}

/// What bringing the state from before back needs besides that state; a content is in the backups under its
/// hash.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FileInverse {
    path: PathText,
}

/// What a path shall be.
#[derive(Clone, Debug)]
pub enum FileWish<'bytes> {
    /// A regular file with this content.
    File {
        /// The content.
        bytes: &'bytes [u8],
        /// Its metadata.
        attributes: Attributes,
    },
    /// A regular file with the content of another one, which may be more than fits into memory.
    Copy {
        /// The other one, open.
        of: &'bytes File,
        /// The digest of its content.
        sha256: Digest,
        /// Its size in bytes.
        size: u64,
        /// The metadata of the copy.
        attributes: Attributes,
    },
    /// A symbolic link that holds this text.
    Link {
        /// The text.
        to: PathText,
        /// Its owner's user id.
        owner: u32,
        /// Its group's id.
        group: u32,
    },
    /// A directory.
    Directory {
        /// Its metadata.
        attributes: Attributes,
    },
    /// What it is, with other metadata.
    Metadata {
        /// The metadata.
        attributes: Attributes,
    },
    /// Nothing.
    Absent,
}

/// What stands at a path now: looked at once, so that content and state belong together.
#[derive(Clone, Debug)]
pub struct Found {
    /// The one name of the path.
    pub path: PathBuf,
    /// Its state.
    pub state: FileState,
    /// Its content, if it is a regular file.
    pub content: Option<Vec<u8>>,
}

impl Found {
    /// Looks at a path.
    pub fn at(path: &Path) -> Result<Self> {
        let path = files::canonical(path)?;
        let state = FileState::observe(&path)?;
        if matches!(state, FileState::File { .. }) {
            let (content, state) = files::read(&path)?;
            return Ok(Self { path, state, content: Some(content) });
        }
        Ok(Self { path, state, content: None })
    }
}

impl FileChange {
    /// The change that makes `wish` true of what was found; `None` when it is true.
    pub fn towards(found: Found, wish: &FileWish<'_>) -> Option<Self> {
        let after = match wish {
            FileWish::File { bytes, attributes } => {
                FileState::file(Digest::of(bytes), bytes.len() as u64, attributes)
            }
            FileWish::Copy { sha256, size, attributes, .. } => FileState::file(*sha256, *size, attributes),
            FileWish::Link { to, owner, group } => FileState::link(to.clone(), *owner, *group),
            FileWish::Directory { attributes } => FileState::directory(attributes),
            FileWish::Metadata { attributes } => match &found.state {
                FileState::File { sha256, size, .. } => FileState::file(*sha256, *size, attributes),
                FileState::Directory { .. } => FileState::directory(attributes),
                other => other.clone(),
            },
            FileWish::Absent => FileState::Absent,
        };
        if found.state.same_as(&after) {
            return None;
        }
        let inverse = FileInverse { path: PathText::new(found.path) };
        Some(Self { before: found.state, after, inverse, content: found.content })
    }

    /// Makes the wish true.
    pub fn act(&self, wish: &FileWish<'_>) -> Result<()> {
        let (path, tag) = (self.path(), tag(self.path()));
        match wish {
            FileWish::File { bytes, attributes } => {
                files::replace(path, Contents::Bytes(bytes), attributes, &self.before, &tag)?;
            }
            FileWish::Copy { of, sha256, attributes, .. } => {
                let mut from: &File = of;
                from.rewind()
                    .with_context(|| format!("cannot read what is to become `{}`", path.display()))?;
                let contents = Contents::Reader { from: &mut from, sha256: Some(*sha256) };
                files::replace(path, contents, attributes, &self.before, &tag)?;
            }
            FileWish::Link { to, owner, group } => {
                files::link(path, to, *owner, *group, &self.before, &tag)?;
            }
            FileWish::Directory { attributes } if self.before.is_absent() => {
                files::make_directory(path, attributes, &tag)?;
            }
            FileWish::Directory { attributes } | FileWish::Metadata { attributes } => {
                files::set_metadata(path, attributes, &self.before)?;
            }
            FileWish::Absent if matches!(self.before, FileState::Directory { .. }) => {
                files::remove_directory(path)?;
            }
            FileWish::Absent => files::remove(path, &self.before, &tag)?,
        }
        Ok(())
    }

    /// Before and after, to compare them.
    pub fn states(&self) -> (&FileState, &FileState) {
        (&self.before, &self.after)
    }

    fn path(&self) -> &Path {
        self.inverse.path.as_path()
    }

    fn observe(&self) -> Result<FileState> {
        FileState::observe(self.path())
    }

    /// Only the metadata differ, or a directory was made: no content has to be brought back.
    fn keeps_content(&self) -> bool {
        self.before.sha256().is_some() && self.before.sha256() == self.after.sha256()
            || matches!(
                (&self.before, &self.after),
                (FileState::Directory { .. }, FileState::Directory { .. })
            )
    }

    fn restore(&self, world: &World, now: &FileState) -> Result<()> {
        let (path, tag) = (self.path(), tag(self.path()));
        match &self.before {
            FileState::Absent if matches!(now, FileState::Directory { .. }) => files::remove_directory(path),
            FileState::Absent => files::remove(path, now, &tag),
            FileState::File { metadata, .. }
                if self.keeps_content() && now.sha256() == self.before.sha256() =>
            {
                files::set_metadata(path, &Attributes::from(metadata), now).map(drop)
            }
            FileState::File { sha256, metadata, .. } => {
                let mut reader = world.backups()?.file(*sha256)?;
                let contents = Contents::Reader { from: &mut reader, sha256: Some(*sha256) };
                files::replace(path, contents, &Attributes::from(metadata), now, &tag).map(drop)
            }
            FileState::Link { to, owner, group, .. } => {
                files::link(path, to, *owner, *group, now, &tag).map(drop)
            }
            FileState::Directory { metadata } if now.is_absent() => {
                files::make_directory(path, &Attributes::from(metadata), &tag).map(drop)
            }
            FileState::Directory { metadata } => {
                files::set_metadata(path, &Attributes::from(metadata), now).map(drop)
            }
            FileState::Special { .. } => anyhow::bail!("`{}` was a special file before", path.display()),
        }
    }

    /// What differs between the accepted content and the one that is there, for people.
    fn difference(&self, world: &World, accepted: &FileState, now: &FileState) -> String {
        let mut lines = accepted.differences(now);
        let old = accepted
            .sha256()
            .and_then(|digest| world.backups().and_then(|backups| backups.read(digest)).ok());
        if let (Some(old), Ok((new, _))) = (old, files::read(self.path()))
            && let (Ok(old), Ok(new)) = (std::str::from_utf8(&old), std::str::from_utf8(&new))
        {
            let difference = similar::TextDiff::from_lines(old, new);
            let text = difference.unified_diff().header("as kkrun left it", "as it is now").to_string();
            lines.extend(text.lines().take(60).map(str::to_owned));
        }
        lines.join("\n")
    }
}

/// The name under which a file is prepared beside its target: the same for every attempt at one path, so that
/// each finds what the one before left.
pub(super) fn tag(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    format!("{:08x}", crc32c::crc32c(path.as_os_str().as_bytes()))
}

impl Kind for FileChange {
    fn target(&self) -> String {
        file_target(self.path())
    }

    fn summary(&self) -> String {
        let verb = match (&self.before, &self.after) {
            (_, FileState::Absent) => "remove",
            (FileState::Absent, FileState::Link { .. }) => "link",
            (FileState::Absent, _) => "make",
            _ if self.keeps_content() => "set owner and mode of",
            _ => "write",
        };
        format!("{verb} {}", self.path().display())
    }

    fn prepare(&self, world: &World) -> Result<()> {
        if let Some(content) = &self.content
            && !self.keeps_content()
        {
            world.backups()?.save(content)?;
        }
        files::clear_leftover(self.path(), &tag(self.path()))
    }

    fn foreign(&self, accepted: &Value, world: &World) -> Option<String> {
        let accepted: FileState = serde_json::from_value(accepted.clone()).ok()?;
        // What vanished is made again, and what was not there before was left so by kkrun itself.
        if self.before.is_absent() || accepted.same_as(&self.before) {
            return None;
        }
        Some(self.difference(world, &accepted, &self.before))
    }

    fn position(&self, _world: &World) -> Result<Position> {
        files::clear_leftover(self.path(), &tag(self.path()))?;
        let now = self.observe()?;
        Ok(if now.same_as(&self.after) {
            Position::After
        } else if now.same_as(&self.before) {
            Position::Before
        } else {
            Position::Neither(self.after.differences(&now).join("\n"))
        })
    }

    fn accepted(&self, _world: &World) -> Result<BTreeMap<String, Value>> {
        let now = self.observe()?;
        if !now.same_as(&self.after) {
            anyhow::bail!(
                "`{}` is not as written: {}",
                self.path().display(),
                self.after.differences(&now).join(", ")
            );
        }
        Ok([(self.target(), state_value(&now))].into())
    }

    fn loss(&self, _world: &World) -> Result<Option<Loss>> {
        if !(self.before.is_absent() && matches!(self.after, FileState::Directory { .. })) {
            return Ok(None);
        }
        let path = self.path();
        let entries = match std::fs::read_dir(path) {
            Ok(entries) => entries.count(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error).with_context(|| format!("cannot read `{}`", path.display())),
        };
        let what = format!("the directory {} with {entries} entries that kkrun did not make", path.display());
        Ok((entries > 0).then_some(Loss { class: Class::Homes, what }))
    }

    fn undo(&self, world: &mut World, terms: UndoTerms<'_>) -> Result<Undone> {
        let path = self.path();
        files::clear_leftover(path, &tag(path))?;
        let now = self.observe()?;
        if now.same_as(&self.before) {
            return Ok(Undone::Back(Undoing::Already, [(self.target(), state_value(&now))].into()));
        }
        let accepted =
            terms.accepted.and_then(|value| serde_json::from_value::<FileState>(value.clone()).ok());
        let accepted = accepted.unwrap_or_else(|| self.after.clone());
        if !now.same_as(&accepted) && !terms.force {
            return Ok(Undone::Conflict(self.difference(world, &accepted, &now)));
        }
        if terms.only_looking {
            return Ok(Undone::Back(Undoing::Restored, BTreeMap::new()));
        }
        if let (FileState::Absent, FileState::Directory { .. }) = (&self.before, &now) {
            // The loss was agreed to before an undo is asked for.
            files::remove_tree(path, files::identity(path)?)?;
        } else {
            self.restore(world, &now)?;
        }
        let restored = self.observe()?;
        Ok(Undone::Back(Undoing::Restored, [(self.target(), state_value(&restored))].into()))
    }
}

/// The canonical name of a path as a target.
pub fn file_target(path: &Path) -> String {
    format!("file:{}", path.display())
}
