//! Replaces or creates many files for a few syncs: each is complete and durable before it takes its name, as with
//! [`replace()`](super::replace()).
//!
//! The new files of a directory are prepared in a directory of their own beside them, `.kkrun-<tag>`, under their own names.
//! Once those of a batch are synced, they are exchanged for the old ones, one after the other. What is left after an
//! interruption is that one directory, which is removed as every leftover is.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::Result;
use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};

use super::build_tree::OpenFile;
use super::digest::Digest;
use super::failures::{failed, refused};
use super::file_state::FileState;
use super::known::Written;
use super::metadata::Attributes;
use super::place::Place;
use super::replace::{adorn, fill, replace_syncing};
use super::temporary::{Checked, Temporary, give_name, remove_replaced};
use super::together::{Syncing, Together};
use crate::failure::{Failure, FailureKind};

/// How much is prepared before it takes its names: files, directories (each is held open twice), and bytes, for which the
/// file system needs room beside the old ones.
const MOST_FILES: usize = 4096;
const MOST_DIRECTORIES: usize = 32;
const MOST_BYTES: u64 = 64 * 1024 * 1024;

/// A file of this size takes its name alone: its own sync costs little beside its content.
const LARGE: u64 = 1024 * 1024;

/// A file as it is to be.
pub(super) struct Wanted {
    /// Its path from the root of the tree.
    pub(super) relative: PathBuf,
    pub(super) sha256: Digest,
    pub(super) size: u64,
    pub(super) attributes: Attributes,
    /// What is there: a file, a link, or nothing.
    pub(super) present: FileState,
}

/// Replaces or creates these files of the tree at `root`; what is changed of directories is noted in `together`. A large
/// file is replaced alone, and in a directory that a user controls each is, by that user.
///
/// # Errors
/// As [`super::replace()`]. Of the files some are replaced then; none is half written.
pub(super) fn replace_together(
    root: &Path,
    mut wanted: Vec<Wanted>,
    tag: &str,
    together: &Together,
    open: &mut OpenFile<'_>,
) -> Result<()> {
    wanted.sort_by(|one, other| one.relative.parent().cmp(&other.relative.parent()));
    let mut batch = Batch { root, tag, together, stagings: Vec::new(), files: 0, bytes: 0 };
    for files in wanted.chunk_by(|one, other| one.relative.parent() == other.relative.parent()) {
        let is_of_user = Place::open(&root.join(&files[0].relative))?.is_of_user();
        let is_alone = |file: &&Wanted| is_of_user || file.size >= LARGE;
        // These first: each is prepared under the name that the directory of the others has.
        files.iter().filter(is_alone).try_for_each(|file| batch.replace_alone(file, open))?;
        files.iter().filter(|file| !is_alone(file)).try_for_each(|file| batch.add(file, open))?;
    }
    batch.put_in_place()
}

/// What is prepared and synced together.
struct Batch<'a> {
    root: &'a Path,
    tag: &'a str,
    together: &'a Together,
    stagings: Vec<Staging>,
    files: usize,
    bytes: u64,
}

impl Batch<'_> {
    fn replace_alone(&self, file: &Wanted, open: &mut OpenFile<'_>) -> Result<()> {
        let at = self.root.join(&file.relative);
        let content = open(&file.relative)?;
        let contents = content.as_contents(file.sha256, &at)?;
        let syncing = Syncing::Together(self.together);
        replace_syncing(&at, contents, &file.attributes, &file.present, self.tag, syncing).map(drop)
    }

    fn add(&mut self, file: &Wanted, open: &mut OpenFile<'_>) -> Result<()> {
        let is_full = self.files >= MOST_FILES || self.bytes >= MOST_BYTES;
        if is_full || self.stagings.len() >= MOST_DIRECTORIES {
            self.put_in_place()?;
        }
        match self.prepare(file, open) {
            // What takes its name frees the room of what it replaces.
            Err(error) if self.files > 0 && is_of_space(&error) => {
                self.put_in_place()?;
                self.prepare(file, open)
            }
            prepared => prepared,
        }
    }

    fn prepare(&mut self, file: &Wanted, open: &mut OpenFile<'_>) -> Result<()> {
        let at = self.root.join(&file.relative);
        let Some(name) = file.relative.file_name() else {
            return Err(refused(&at, "is not a path inside a tree"));
        };
        let directory = file.relative.parent();
        if self.stagings.last().is_none_or(|last| Some(&*last.directory) != directory) {
            let place = Place::open(&at)?;
            self.together.note(&place)?;
            self.stagings.push(Staging::begin(place, directory, self.tag)?);
        }
        if let Some(staging) = self.stagings.last_mut() {
            staging.prepare(name, file, open)?;
        }
        self.files += 1;
        self.bytes += file.size;
        Ok(())
    }

    fn put_in_place(&mut self) -> Result<()> {
        (self.files, self.bytes) = (0, 0);
        let stagings = std::mem::take(&mut self.stagings);
        if !stagings.is_empty() {
            self.together.sync(self.root)?;
        }
        stagings.into_iter().try_for_each(Staging::put_in_place)
    }
}

fn is_of_space(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Failure>().is_some_and(|failure| failure.kind == FailureKind::Space)
}

/// The new files of one directory, in a directory that only root can enter. Dropped, it is removed with what did not get
/// its name.
struct Staging {
    /// The directory of the files, as a path from the root of the tree.
    directory: PathBuf,
    place: Place,
    /// Its name beside the files.
    name: OsString,
    inside: OwnedFd,
    prepared: Vec<Prepared>,
}

struct Prepared {
    name: OsString,
    checked: Checked,
    sha256: Digest,
    written: Option<Written>,
}

impl Staging {
    fn begin(place: Place, directory: Option<&Path>, tag: &str) -> Result<Self> {
        let directory = directory.unwrap_or(Path::new("")).to_owned();
        let (temporary, inside) = Temporary::directory(&place, tag)?;
        let name = temporary.name().to_owned();
        temporary.keep();
        Ok(Self { directory, place, name, inside, prepared: Vec::new() })
    }

    fn prepare(&mut self, name: &OsStr, wanted: &Wanted, open: &mut OpenFile<'_>) -> Result<()> {
        self.place.turn_to(name);
        let shown = &self.place.path;
        let checked = Checked::replaceable(&self.place, &wanted.present)?;
        let content = open(&wanted.relative)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.inside, name, flags, Mode::from_raw_mode(0o600))
            .map_err(|errno| failed("create a file beside", shown, errno))?;
        let write = || -> Result<_> {
            let (file, sha256, _) = fill(file, content.as_contents(wanted.sha256, shown)?, shown)?;
            adorn(&file, &wanted.attributes, shown)?;
            Ok((sha256, Written::completely(&file)))
        };
        let (sha256, written) = write().inspect_err(|_| {
            let _ = unlinkat(&self.inside, name, AtFlags::empty());
        })?;
        self.prepared.push(Prepared { name: name.to_owned(), checked, sha256, written });
        Ok(())
    }

    /// Gives each file its name. What had it is removed, if it is what was seen.
    fn put_in_place(mut self) -> Result<()> {
        while let Some(Prepared { name, checked, .. }) = self.prepared.last() {
            self.place.turn_to(name);
            checked.again(&self.place)?;
            let is_exchanged = give_name(self.inside.as_fd(), name, &self.place, checked)?;
            let Some(Prepared { name, checked, sha256, written }) = self.prepared.pop() else { break };
            if is_exchanged {
                let beside = self.place.beside(&self.name).join(&name);
                remove_replaced(self.inside.as_fd(), &name, &beside, &self.place, &checked)?;
            }
            if let Some(written) = written {
                written.remember_at(self.place.directory(), &name, sha256);
            }
        }
        self.remove().map_err(|errno| failed("remove", &self.place.beside(&self.name), errno))
    }

    fn remove(&self) -> rustix::io::Result<()> {
        unlinkat(self.place.directory(), &self.name, AtFlags::REMOVEDIR)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What stays is removed by the next change of the same tag.
        for Prepared { name, .. } in &self.prepared {
            let _ = unlinkat(&self.inside, name, AtFlags::empty());
        }
        let _ = self.remove();
    }
}
