//! Replaces or creates many files for a few syncs: each is complete and durable before it takes its name, as with
//! [`replace()`](super::replace()).
//!
//! The new files of a directory are prepared in a directory of their own beside them, `.kkrun-<tag>`, under their own names.
//! Once those of a batch are synced, they are exchanged for the old ones, one after the other. What is left after an
//! interruption is that one directory, which is removed as every leftover is.
//!
//! What is taken from a tree that is thrown away is there already: it is exchanged from there, and what is left is thrown
//! away with that tree.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::Result;
use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};

use super::build_tree::OpenFile;
use super::content::{digest_known, other_than};
use super::digest::Digest;
use super::discarded::{Discarded, is_file_alone, remove_marks};
use super::failures::{failed, failed_io, refused};
use super::file_state::{FileState, metadata_of};
use super::known::Written;
use super::metadata::Attributes;
use super::place::Place;
use super::replace::{adorn, fill, replace_syncing};
use super::temporary::{Checked, Temporary, check_replaced, give_name, remove_replaced};
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

/// Replaces or creates these files of the tree at `root`; what is changed of directories is noted in `together`. What can
/// be moved out of `from` is. Else a large file is replaced alone, and in a directory that a user controls each is, by that
/// user.
///
/// # Errors
/// As [`super::replace()`]. Of the files some are replaced then; none is half written.
pub(super) fn replace_together(
    root: &Path,
    mut wanted: Vec<Wanted>,
    tag: &str,
    together: &Together,
    from: Option<&Discarded>,
    open: &mut OpenFile<'_>,
) -> Result<()> {
    wanted.sort_by(|one, other| one.relative.parent().cmp(&other.relative.parent()));
    let mut batch = Batch { root, tag, together, stagings: Vec::new(), files: 0, bytes: 0 };
    for files in wanted.chunk_by(|one, other| one.relative.parent() == other.relative.parent()) {
        let place = Place::open(&root.join(&files[0].relative))?;
        let is_of_user = place.is_of_user();
        let given =
            from.filter(|_| !is_of_user).and_then(|from| from.directory_for(&files[0].relative, &place));
        let (moved, copied): (Vec<_>, Vec<_>) = files.iter().partition(|file| is_given(given.as_ref(), file));
        let (alone, many): (Vec<_>, Vec<_>) =
            copied.into_iter().partition(|file| is_of_user || file.size >= LARGE);
        // These first: each is prepared under the name that the directory of the others has.
        alone.into_iter().try_for_each(|file| batch.replace_alone(file, open))?;
        many.into_iter().try_for_each(|file| batch.add(file, open))?;
        if let (Some(given), Some(from)) = (given, from) {
            let aside = from.files().path().join(files[0].relative.parent().unwrap_or(Path::new("")));
            batch.take(&given, &aside, &moved)?;
        }
    }
    batch.put_in_place()
}

/// Whether the directory of a tree that is thrown away has this file by this name alone.
fn is_given(directory: Option<&OwnedFd>, file: &Wanted) -> bool {
    directory
        .zip(file.relative.file_name())
        .is_some_and(|(directory, name)| is_file_alone(directory.as_fd(), name, file.size))
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
        let directory = file.relative.parent();
        let is_it = |last: &Staging| Some(&*last.directory) == directory && last.own.is_some();
        if !self.stagings.last().is_some_and(is_it) {
            let place = Place::open(&at)?;
            self.together.note(&place)?;
            self.stagings.push(Staging::begin(place, directory, self.tag)?);
        }
        if let Some(staging) = self.stagings.last_mut() {
            staging.prepare(file, open)?;
        }
        self.files += 1;
        self.bytes += file.size;
        Ok(())
    }

    /// Prepares files of one directory that are moved out of a tree that is thrown away: `given` is their directory there, and
    /// `aside` the path of that.
    fn take(&mut self, given: &OwnedFd, aside: &Path, files: &[&Wanted]) -> Result<()> {
        for files in files.chunks(MOST_FILES) {
            if self.files + files.len() > MOST_FILES || self.stagings.len() >= MOST_DIRECTORIES {
                self.put_in_place()?;
            }
            let Some(first) = files.first() else { break };
            let at = self.root.join(&first.relative);
            let place = Place::open(&at)?;
            self.together.note(&place)?;
            let inside =
                given.try_clone().map_err(|error| failed_io("open the directory of", &at, &error))?;
            let mut staging = Staging::given(place, first.relative.parent(), inside, aside);
            files.iter().try_for_each(|file| staging.take(file))?;
            self.stagings.push(staging);
            self.files += files.len();
        }
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

/// The new files of one directory, in a directory that only root can enter. Dropped, one that was made for them is removed
/// with what did not get its name.
struct Staging {
    /// The directory of the files, as a path from the root of the tree.
    directory: PathBuf,
    place: Place,
    /// Its name beside the files; none of a directory that is thrown away by others.
    own: Option<OsString>,
    inside: OwnedFd,
    /// The path of that, for messages.
    aside: PathBuf,
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
        let aside = place.beside(&name);
        Ok(Self { directory, place, own: Some(name), inside, aside, prepared: Vec::new() })
    }

    fn given(place: Place, directory: Option<&Path>, inside: OwnedFd, aside: &Path) -> Self {
        let directory = directory.unwrap_or(Path::new("")).to_owned();
        Self { directory, place, own: None, inside, aside: aside.to_owned(), prepared: Vec::new() }
    }

    /// Checks that what a file is to replace is as expected.
    fn check<'wanted>(&mut self, wanted: &'wanted Wanted) -> Result<(&'wanted OsStr, Checked)> {
        let Some(name) = wanted.relative.file_name() else {
            return Err(refused(&self.place.path, "is not a path inside a tree"));
        };
        self.place.turn_to(name);
        Ok((name, Checked::replaceable(&self.place, &wanted.present)?))
    }

    /// Prepares a file that is there, with the content that it is to have.
    fn take(&mut self, wanted: &Wanted) -> Result<()> {
        let (name, checked) = self.check(wanted)?;
        let held = &self.aside.join(name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file =
            openat(&self.inside, name, flags, Mode::empty()).map_err(|errno| failed("open", held, errno))?;
        remove_marks(file.as_fd())
            .map_err(|errno| failed("remove the attributes of an overlay from", held, errno))?;
        let metadata = metadata_of(&file, held)?;
        let is_adorned = Attributes { flags: wanted.attributes.flags, ..Attributes::from(&metadata) }
            == wanted.attributes
            && wanted.attributes.flags.is_none_or(|flags| Some(flags) == metadata.flags);
        if !is_adorned {
            adorn(&file, &wanted.attributes, held)?;
        }
        let file = File::from(file);
        let (sha256, _) = digest_known(&file, held)?;
        if sha256 != wanted.sha256 {
            return Err(other_than(held, sha256, wanted.sha256));
        }
        let written = Written::completely(&file);
        self.prepared.push(Prepared { name: name.to_owned(), checked, sha256, written });
        Ok(())
    }

    fn prepare(&mut self, wanted: &Wanted, open: &mut OpenFile<'_>) -> Result<()> {
        let (name, checked) = self.check(wanted)?;
        let shown = &self.place.path;
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
                let beside = self.aside.join(&name);
                // With a tree that is thrown away the old one goes, too.
                let settle = if self.own.is_some() { remove_replaced } else { check_replaced };
                settle(self.inside.as_fd(), &name, &beside, &self.place, &checked)?;
            }
            if let Some(written) = written {
                written.remember_at(self.place.directory(), &name, sha256);
            }
        }
        self.remove().map_err(|errno| failed("remove", &self.aside, errno))
    }

    fn remove(&self) -> rustix::io::Result<()> {
        let Some(name) = &self.own else { return Ok(()) };
        unlinkat(self.place.directory(), name, AtFlags::REMOVEDIR)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.own.is_none() {
            return;
        }
        // What stays is removed by the next change of the same tag.
        for Prepared { name, .. } in &self.prepared {
            let _ = unlinkat(&self.inside, name, AtFlags::empty());
        }
        let _ = self.remove();
    }
}
