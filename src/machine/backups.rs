//! The backups of what was there before a change, named after their content.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, Mode, OFlags, fsync, mkdirat, openat, renameat, syncfs, unlinkat};
use rustix::io::Errno;

use crate::failure::{Failure, FailureKind};
use crate::machine::files::{
    Digest, FileState, Manifest, PathText, ReadFile, copy_content, digest_again, digest_if_known,
    observe_with,
};

/// The name of a backup that is being written. There is one writer: making backups requires the lock.
const INCOMING: &str = ".incoming";

/// A directory of backups: each a file of mode 0600 whose name is the digest of its content.
///
/// A backup is durable once saved: hashed while it is written, synced, renamed, its directory synced. It is not read
/// again: that read would come from memory and prove nothing about the disk. A restore compares the digest. Saving what
/// is already there only reads it.
pub struct Backups {
    directory: OwnedFd,
    path: PathBuf,
}

impl Backups {
    /// Opens the directory of backups at `path`, creating it (0700) if it is missing.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = PathText::new(path);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = match rustix::fs::open(path, flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                mkdirat(rustix::fs::CWD, path, Mode::from_raw_mode(0o700))
                    .with_context(|| format!("cannot create the backup directory `{shown}`"))?;
                let directory = rustix::fs::open(path, flags, Mode::empty())
                    .with_context(|| format!("cannot open the backup directory `{shown}`"))?;
                if let Some(above) = path.parent() {
                    rustix::fs::open(above, flags, Mode::empty())
                        .and_then(fsync)
                        .with_context(|| format!("cannot sync the directory of `{shown}`"))?;
                }
                directory
            }
            opened => opened.with_context(|| format!("cannot open the backup directory `{shown}`"))?,
        };
        Ok(Self { directory, path: path.to_owned() })
    }

    /// Where the backup of this digest is, or would be.
    pub fn path(&self, digest: Digest) -> PathBuf {
        self.path.join(digest.to_string())
    }

    /// Saves these bytes durably and gives their digest.
    pub fn save(&self, bytes: &[u8]) -> Result<Digest> {
        self.save_known(bytes, Digest::of(bytes))
    }

    /// The same when their digest is known, as [`crate::machine::files::read`] gives it.
    pub fn save_known(&self, bytes: &[u8], digest: Digest) -> Result<Digest> {
        if self.holds(digest)? {
            return Ok(digest);
        }
        self.clearing(|| {
            let mut incoming = self.incoming()?;
            incoming.write_all(bytes).map_err(|error| self.cannot_write(&error))?;
            self.settle(&incoming, digest)?;
            Ok(digest)
        })
    }

    /// Saves by this, and removes what it began to save if it fails: on a full disk all of that would stay in everyone's
    /// way.
    fn clearing<T>(&self, save: impl FnOnce() -> Result<T>) -> Result<T> {
        let saved = save();
        if saved.is_err() {
            // What is left over is removed when the next one is saved.
            let _ = clear_unfinished(&self.path);
        }
        saved
    }

    /// Saves what `write` writes to the empty file at the path that it is given.
    pub fn save_written(&self, write: impl FnOnce(&Path) -> Result<()>) -> Result<Digest> {
        self.clearing(|| {
            let incoming = self.incoming()?;
            write(&self.path.join(INCOMING))?;
            let (digest, _) = digest_again(&incoming, &self.path.join(INCOMING))?;
            if self.holds(digest)? {
                self.drop_incoming()?;
            } else {
                self.settle(&incoming, digest)?;
            }
            Ok(digest)
        })
    }

    /// Observes a path and saves the content of a file with the same read.
    pub fn save_file(&self, path: &Path) -> Result<FileState> {
        self.clearing(|| {
            observe_with(path, &mut |file, shown| {
                let (incoming, digest, size) = self.take_in(file, shown, &BTreeSet::new())?;
                if let Some(incoming) = incoming {
                    self.settle(&incoming, digest)?;
                }
                Ok((digest, size))
            })
        })
    }

    /// Observes a tree and saves the content of all its files: each is read once, all are synced together.
    pub fn save_tree(&self, root: &Path) -> Result<Manifest> {
        self.save_together(|read| Manifest::observe_with(root, read))
    }

    /// Observes paths and saves the content of those that are files, likewise.
    pub fn save_files<'a>(&self, paths: impl IntoIterator<Item = &'a Path>) -> Result<Vec<FileState>> {
        self.save_together(|read| paths.into_iter().map(|path| observe_with(path, read)).collect())
    }

    fn save_together<T>(&self, observe: impl FnOnce(&mut ReadFile<'_>) -> Result<T>) -> Result<T> {
        self.clearing(|| self.save_all(observe))
    }

    fn save_all<T>(&self, observe: impl FnOnce(&mut ReadFile<'_>) -> Result<T>) -> Result<T> {
        let mut fresh = BTreeSet::new();
        let observed = observe(&mut |file, shown| {
            let (incoming, digest, size) = self.take_in(file, shown, &fresh)?;
            if incoming.is_some() {
                // Under a name of its own until all are synced: a backup's name promises its content.
                self.rename(INCOMING, &unsynced(digest))?;
                fresh.insert(digest);
            }
            Ok((digest, size))
        })?;
        if !fresh.is_empty() {
            syncfs(&self.directory).map_err(|errno| self.failed("sync", errno))?;
            for digest in fresh {
                self.rename(&unsynced(digest), &digest.to_string())?;
            }
            fsync(&self.directory).map_err(|errno| self.failed("sync", errno))?;
        }
        Ok(observed)
    }

    /// Copies an open file into the directory, sharing its blocks where the file system can, and returns its digest and
    /// length. Content that is already here, or among the `fresh` ones, is not copied.
    fn take_in(
        &self,
        file: &File,
        shown: &Path,
        fresh: &BTreeSet<Digest>,
    ) -> Result<(Option<File>, Digest, u64)> {
        let is_here = |digest| Ok::<_, anyhow::Error>(fresh.contains(&digest) || self.holds(digest)?);
        if let Some((digest, size)) = digest_if_known(file)
            && is_here(digest)?
        {
            return Ok((None, digest, size));
        }
        let incoming = self.incoming()?;
        let (digest, size) = copy_content(file, &incoming, shown, &|error| self.cannot_write(error))?;
        if is_here(digest)? {
            self.drop_incoming()?;
            return Ok((None, digest, size));
        }
        Ok((Some(incoming), digest, size))
    }

    /// The bytes of a backup, which is a text or what kkrun itself wrote.
    ///
    /// # Errors
    /// A [`Failure`] of kind `backup` when there is none of this digest, or it does not match the digest.
    pub fn read(&self, digest: Digest) -> Result<Vec<u8>> {
        let named = || format!("cannot read a backup in `{}`", PathText::new(&*self.path));
        let mut bytes = Vec::new();
        self.file(digest)?.read_to_end(&mut bytes).with_context(named)?;
        if Digest::of(&bytes) == digest { Ok(bytes) } else { Err(self.damaged(digest)) }
    }

    /// Opens a backup. The caller must compare the digest while copying it, as [`crate::machine::files::replace()`] and
    /// [`crate::machine::files::build_tree`] do.
    pub fn file(&self, digest: Digest) -> Result<File> {
        match self.open_named(&digest.to_string()) {
            Ok(file) => Ok(file.into()),
            Err(Errno::NOENT) => {
                Err(Failure::new(format!("the backup `{}` is missing", PathText::new(self.path(digest))))
                    .kind(FailureKind::Backup)
                    .hint("restore it from a backup of this machine, then try again")
                    .into())
            }
            Err(errno) => Err(self.failed("read", errno)),
        }
    }

    /// Whether there is an intact backup of this digest. A damaged one counts as none: it is replaced.
    fn holds(&self, digest: Digest) -> Result<bool> {
        match self.open_named(&digest.to_string()) {
            Ok(file) => Ok(digest_again(&File::from(file), &self.path(digest))?.0 == digest),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(self.failed("read", errno)),
        }
    }

    fn incoming(&self) -> Result<File> {
        self.drop_incoming()?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&self.directory, INCOMING, flags, Mode::from_raw_mode(0o600))
            .map(File::from)
            .map_err(|errno| self.failed("write", errno))
    }

    fn drop_incoming(&self) -> Result<()> {
        match unlinkat(&self.directory, INCOMING, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.failed("remove", errno)),
        }
    }

    fn cannot_write(&self, error: &std::io::Error) -> anyhow::Error {
        let shown = PathText::new(&*self.path);
        match Errno::from_io_error(error) {
            Some(errno) => self.failed("write", errno),
            None => anyhow::anyhow!("cannot write a backup in `{shown}`: {error}"),
        }
    }

    /// Makes what was written a backup of this digest.
    fn settle(&self, incoming: &File, digest: Digest) -> Result<()> {
        fsync(incoming).map_err(|errno| self.failed("write", errno))?;
        self.rename(INCOMING, &digest.to_string())?;
        fsync(&self.directory).map_err(|errno| self.failed("sync", errno))
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        renameat(&self.directory, from, &self.directory, to).map_err(|errno| self.failed("rename", errno))
    }

    fn open_named(&self, name: &str) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        openat(self.directory.as_fd(), name, flags, Mode::empty())
    }

    fn failed(&self, doing: &str, errno: Errno) -> anyhow::Error {
        anyhow::Error::from(errno)
            .context(format!("cannot {doing} a backup in `{}`", PathText::new(&*self.path)))
    }

    fn damaged(&self, digest: Digest) -> anyhow::Error {
        let shown = PathText::new(self.path(digest));
        Failure::new(format!("the backup `{shown}` is damaged: its content does not match its name"))
            .kind(FailureKind::Backup)
            .hint("restore it from a backup of this machine, then try again")
            .into()
    }
}

/// Removes what a killed run, or one that failed, had begun to save in the directory `path`. The caller holds the lock.
pub fn clear_unfinished(path: &Path) -> Result<()> {
    let named = || format!("cannot remove unfinished backups from `{}`", PathText::new(path));
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(named)?,
    };
    for entry in entries {
        let entry = entry.with_context(named)?;
        if entry.file_name().as_encoded_bytes().starts_with(INCOMING.as_bytes()) {
            std::fs::remove_file(entry.path()).with_context(named)?;
        }
    }
    Ok(())
}

/// The name of a backup that is not yet synced.
fn unsynced(digest: Digest) -> String {
    format!("{INCOMING}-{digest}")
}

/// Whether a backup directory holds any: if so, a journal must exist beside it.
pub fn any_in(path: &Path) -> Result<bool> {
    match std::fs::read_dir(path) {
        Ok(entries) => Ok(entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .any(|name| name.parse::<Digest>().is_ok())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot read `{}`", PathText::new(path))),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;
    use crate::machine::files::{Content, build_tree, exchange_tree};

    fn backups() -> (tempfile::TempDir, Backups) {
        let directory = tempfile::tempdir().unwrap();
        let backups = Backups::open(&directory.path().join("backups")).unwrap();
        (directory, backups)
    }

    fn kind<T: std::fmt::Debug>(result: Result<T>) -> &'static str {
        result.unwrap_err().downcast_ref::<Failure>().unwrap().kind.as_str()
    }

    fn names(backups: &Backups) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(&backups.path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_was_saved_comes_back_and_is_saved_once() {
        let (_directory, backups) = backups();
        assert!(!any_in(&backups.path).unwrap());
        let digest = backups.save(b"abc").unwrap();
        assert_eq!(backups.read(digest).unwrap(), b"abc");
        let metadata = std::fs::metadata(backups.path(digest)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        let write = |path: &Path| Ok(std::fs::write(path, "abc")?);
        assert_eq!(backups.save_written(write).unwrap(), digest);
        assert_eq!(std::fs::metadata(backups.path(digest)).unwrap().ino(), metadata.ino());
        assert_eq!(names(&backups), [digest.to_string()]);
        assert!(any_in(&backups.path).unwrap());
        assert_eq!(kind(backups.read(Digest::of(b"other"))), "backup");
        assert_eq!(names(&backups), [digest.to_string()]);
    }

    #[test]
    fn what_a_killed_run_left_unfinished_is_cleared_and_nothing_else() {
        let (directory, backups) = backups();
        let digest = backups.save(b"one").unwrap();
        for name in [INCOMING.to_owned(), unsynced(digest)] {
            std::fs::write(directory.path().join("backups").join(name), "half").unwrap();
        }
        clear_unfinished(&directory.path().join("backups")).unwrap();
        assert_eq!(names(&backups), [digest.to_string()]);
        clear_unfinished(&directory.path().join("none")).unwrap();
    }

    #[test]
    fn what_cannot_be_saved_to_its_end_leaves_nothing_behind() {
        let (directory, backups) = backups();
        let path = directory.path().join("file");
        std::fs::write(&path, "abc").unwrap();
        // A file whose content cannot be read.
        let broken = Path::new("/proc/self/mem");
        assert!(backups.save_files([path.as_path(), broken]).is_err() && names(&backups) == [""; 0]);
        assert!(backups.save_file(broken).is_err() && names(&backups) == [""; 0]);
    }

    #[test]
    fn damage_is_found_and_repaired_by_saving_again() {
        let (_directory, backups) = backups();
        let digest = backups.save(b"abc").unwrap();
        std::fs::write(backups.path(digest), "abd").unwrap();
        assert_eq!(kind(backups.read(digest)), "backup");
        backups.save(b"abc").unwrap();
        assert_eq!(backups.read(digest).unwrap(), b"abc");
    }

    #[test]
    fn a_file_is_looked_at_and_saved_in_one_reading() {
        let (directory, backups) = backups();
        let path = directory.path().join("file");
        assert!(backups.save_file(&path).unwrap().is_absent());
        assert_eq!(names(&backups), [""; 0]);
        for content in [&b"abc"[..], b"", &vec![b'x'; 400_000]] {
            std::fs::write(&path, content).unwrap();
            for _ in 0..2 {
                let state = backups.save_file(&path).unwrap();
                assert_eq!(state, FileState::observe(&path).unwrap());
                assert_eq!(backups.read(state.sha256().unwrap()).unwrap(), content);
            }
        }
        assert_eq!(names(&backups).len(), 3);
    }

    #[test]
    fn a_tree_comes_back_from_its_manifest_and_the_backups() {
        let (directory, backups) = backups();
        let root = directory.path().join("tree");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        for (name, content) in [("one", "abc"), ("a/two", "abc"), ("a/b/three", ""), ("a/four", "x")] {
            std::fs::write(root.join(name), content).unwrap();
        }
        let before = backups.save_tree(&root).unwrap();
        assert_eq!(before, Manifest::observe(&root).unwrap());
        assert_eq!(names(&backups).len(), 3);
        assert_eq!(backups.save_tree(&root).unwrap(), before);

        std::fs::remove_dir_all(&root).unwrap();
        std::fs::create_dir(&root).unwrap();
        let built = build_tree(&root, "back", &before, &mut |relative| {
            let digest = before.get(relative).and_then(FileState::sha256).context("no file")?;
            Ok(Content::File(backups.file(digest)?))
        })
        .unwrap();
        exchange_tree(&built, &root).unwrap();
        assert_eq!(Manifest::observe(&root).unwrap(), before);
    }
}
