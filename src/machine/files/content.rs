//! Reads a file's content piece by piece, to hash and to copy it.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::Result;
use rustix::fs::{SeekFrom, fstat, ioctl_ficlone, seek};
use rustix::io::Errno;

use super::dating::Moment;
use super::digest::{Digest, Digester};
use super::failures::failed_io;
use super::identity::Identity;
use super::known;
use super::path_text::PathText;
use crate::failure::{Failure, FailureKind};

/// How much is read at once, in bytes: enough that the cost of the calls disappears beside the hashing.
pub(super) const PIECE: usize = 128 * 1024;

/// What a block of `st_blocks` is, in bytes, on every file system. Source: stat(2).
const BLOCK: u64 = 512;

/// Where the content of a file comes from.
pub enum Content<'bytes> {
    /// These bytes.
    Bytes(Cow<'bytes, [u8]>),
    /// All that is in this file, from its beginning.
    File(File),
}

/// The desired content of a file.
#[derive(Clone, Copy)]
pub enum Contents<'bytes> {
    /// These bytes.
    Bytes(&'bytes [u8]),
    /// These bytes, whose digest is known.
    Hashed(&'bytes [u8], Digest),
    /// All that is in this file, from its beginning.
    File {
        /// The file.
        from: &'bytes File,
        /// The expected digest, if known: on a mismatch the new file does not take its name.
        sha256: Option<Digest>,
    },
}

impl Content<'_> {
    /// The same for the file `shown`, which must have this digest.
    ///
    /// # Errors
    /// When bytes have another one; a file is hashed while it is read.
    pub(super) fn as_contents(&self, sha256: Digest, shown: &Path) -> Result<Contents<'_>> {
        match self {
            Self::Bytes(bytes) => {
                let found = Digest::of(bytes);
                if found == sha256 {
                    Ok(Contents::Hashed(bytes, sha256))
                } else {
                    Err(other_than(shown, found, sha256))
                }
            }
            Self::File(from) => Ok(Contents::File { from, sha256: Some(sha256) }),
        }
    }
}

/// The failure when what was read for `shown` is not what it must be.
pub(super) fn other_than(shown: &Path, found: Digest, expected: Digest) -> anyhow::Error {
    let shown = PathText::new(shown);
    Failure::new(format!("the content read for `{shown}` has the hash {found}, expected {expected}"))
        .kind(FailureKind::Damaged)
        .into()
}

/// Why going through a content ended.
pub(super) enum Stopped {
    /// It cannot be read.
    Reading(io::Error),
    /// What it was given to failed.
    Taking(anyhow::Error),
}

impl Stopped {
    /// The failure, when the content is that of `shown`.
    pub(super) fn reading(self, shown: &Path) -> anyhow::Error {
        match self {
            Self::Reading(error) => failed_io("read", shown, &error),
            Self::Taking(error) => error,
        }
    }
}

/// Takes a piece of a content and where it begins.
type Take<'take> = dyn FnMut(u64, &[u8]) -> Result<()> + 'take;

/// Reads a file from its beginning and passes its content, without the holes, to `take`; returns its digest and length.
/// Keeps no more than one piece in memory.
pub(super) fn read_through(file: &File, take: &mut Take<'_>) -> Result<(Digest, u64), Stopped> {
    let since = Moment::now();
    let stat = fstat(file).map_err(|errno| Stopped::Reading(errno.into()))?;
    let length = u64::try_from(stat.st_size).unwrap_or_default();
    let has_holes = u64::try_from(stat.st_blocks).is_ok_and(|blocks| blocks * BLOCK < length);
    let mut way = Way { file, take, digester: Digester::default(), piece: vec![0; piece_for(length)], at: 0 };
    if !has_holes || !way.by_data()? {
        way.to(u64::MAX)?;
    }
    let (digest, read) = way.digester.finish();
    let identity = Identity::of(&stat);
    if read == length && fstat(file).is_ok_and(|after| Identity::of(&after) == identity) {
        known::remember(file, &identity, since, digest);
    }
    Ok((digest, read))
}

/// A small file is read whole, and its end seen, by two calls.
fn piece_for(length: u64) -> usize {
    usize::try_from(length).unwrap_or(PIECE).saturating_add(1).min(PIECE)
}

struct Way<'way, 'take> {
    file: &'way File,
    take: &'way mut Take<'take>,
    digester: Digester,
    piece: Vec<u8>,
    at: u64,
}

impl Way<'_, '_> {
    /// Reads up to `end`, or to the end of the file.
    fn to(&mut self, end: u64) -> Result<(), Stopped> {
        while self.at < end {
            let most = usize::try_from(end - self.at).unwrap_or(usize::MAX).min(self.piece.len());
            let length = match self.file.read(&mut self.piece[..most]) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(Stopped::Reading(error)),
            };
            let piece = &self.piece[..length];
            self.digester.update(piece);
            (self.take)(self.at, piece).map_err(Stopped::Taking)?;
            self.at += length as u64;
        }
        Ok(())
    }

    /// Reads the data and skips the holes; false if the file system cannot distinguish them.
    fn by_data(&mut self) -> Result<bool, Stopped> {
        let stopped = |errno: Errno| Stopped::Reading(errno.into());
        loop {
            let data = match seek(self.file, SeekFrom::Data(self.at)) {
                Ok(data) => data,
                // Nothing but a hole is left, or nothing at all.
                Err(Errno::NXIO) => fstat(self.file).map_err(stopped)?.st_size.try_into().unwrap_or(self.at),
                Err(_) if self.at == 0 => return Ok(false),
                Err(errno) => return Err(stopped(errno)),
            };
            self.hole(data);
            let hole = match seek(self.file, SeekFrom::Hole(data)) {
                Ok(hole) => hole,
                Err(Errno::NXIO) => return Ok(true),
                Err(errno) => return Err(stopped(errno)),
            };
            seek(self.file, SeekFrom::Start(data)).map_err(stopped)?;
            self.to(hole)?;
            if self.at < hole {
                // It was truncated in the meantime.
                return Ok(true);
            }
        }
    }

    /// Skips a hole, which reads as zeros.
    fn hole(&mut self, end: u64) {
        self.piece.fill(0);
        while self.at < end {
            let length = usize::try_from(end - self.at).unwrap_or(usize::MAX).min(self.piece.len());
            self.digester.update(&self.piece[..length]);
            self.at += length as u64;
        }
    }
}

/// The digest and length of an open file, which is read unless it is known to be unchanged since the last read.
pub(super) fn digest_of(file: &File) -> Result<(Digest, u64), Stopped> {
    known::digest(file).map_or_else(|| read_through(file, &mut |_, _| Ok(())), Ok)
}

/// The digest and length of an open file, read or known; `shown` is its path for messages.
pub(crate) fn digest_known(file: &File, shown: &Path) -> Result<(Digest, u64)> {
    digest_of(file).map_err(|stopped| stopped.reading(shown))
}

/// The same, always read: bytes on a disk can rot without a change of the file's times.
pub(crate) fn digest_again(file: &File, shown: &Path) -> Result<(Digest, u64)> {
    let begin = seek(file, SeekFrom::Start(0)).map_err(|errno| Stopped::Reading(errno.into()));
    let read = begin.and_then(|_| read_through(file, &mut |_, _| Ok(())));
    read.map_err(|stopped| stopped.reading(shown))
}

/// The same, if it is known.
pub(crate) fn digest_if_known(file: &File) -> Option<(Digest, u64)> {
    known::digest(file)
}

/// Copies the content of the open file `shown` into an empty one: see [`copy`].
pub(crate) fn copy_content(
    from: &File,
    to: &File,
    shown: &Path,
    write: &dyn Fn(&io::Error) -> anyhow::Error,
) -> Result<(Digest, u64)> {
    copy(from, to, write).map_err(|stopped| stopped.reading(shown))
}

/// Copies the content of a file into an empty one: blocks are shared where the file system can, else written while they
/// are hashed. Holes stay holes. `write` turns a write error into a message.
pub(super) fn copy(
    from: &File,
    to: &File,
    write: &dyn Fn(&io::Error) -> anyhow::Error,
) -> Result<(Digest, u64), Stopped> {
    if ioctl_ficlone(to, from).is_ok() {
        seek(to, SeekFrom::Start(0)).map_err(|errno| Stopped::Reading(errno.into()))?;
        return read_through(to, &mut |_, _| Ok(()));
    }
    let taking = |error: io::Error| Stopped::Taking(write(&error));
    // A pipe cannot be rewound.
    if let Err(errno) = seek(from, SeekFrom::Start(0))
        && errno != Errno::SPIPE
    {
        return Err(Stopped::Reading(errno.into()));
    }
    let mut end = 0;
    let (digest, length) = read_through(from, &mut |at, piece| {
        end = at + piece.len() as u64;
        to.write_all_at(piece, at).map_err(|error| write(&error))
    })?;
    if end < length {
        to.set_len(length).map_err(taking)?;
    }
    Ok((digest, length))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::machine::files::testing::*;

    fn copied(path: &Path) -> (Digest, u64, File) {
        let to = path.with_extension("copy");
        let to = File::options().create(true).truncate(true).read(true).write(true).open(to).unwrap();
        let copied = copy(&File::open(path).unwrap(), &to, &|error| failed_io("write", path, error));
        let Ok((digest, length)) = copied else { panic!("not copied") };
        (digest, length, to)
    }

    #[test]
    fn content_of_any_length_is_copied_and_hashed_on_the_way() {
        let (_directory, path) = scratch();
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7] {
            let at = path.join(length.to_string());
            let content: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
            std::fs::write(&at, &content).unwrap();
            let (digest, copied, _) = copied(&at);
            assert_eq!((digest, copied), (Digest::of(&content), length as u64));
            assert_eq!(std::fs::read(at.with_extension("copy")).unwrap(), content);
        }
    }

    #[test]
    fn holes_stay_holes_wherever_they_are() {
        const LARGE: u64 = 64 << 20;
        let (_directory, path) = scratch();
        for (name, data) in [("none", &[][..]), ("middle", &[LARGE / 2]), ("ends", &[0, LARGE - 4096])] {
            let at = path.join(name);
            let file = File::create(&at).unwrap();
            file.set_len(LARGE).unwrap();
            for at in data {
                file.write_all_at(&[b'x'; 4096], *at).unwrap();
            }
            file.sync_all().unwrap();
            let (digest, length, to) = copied(&at);
            to.sync_all().unwrap();
            assert_eq!((digest, length), (Digest::of(&std::fs::read(&at).unwrap()), LARGE), "{name}");
            assert!(
                std::fs::read(at.with_extension("copy")).unwrap() == std::fs::read(&at).unwrap(),
                "{name}"
            );
            assert!(to.metadata().unwrap().blocks() * BLOCK < LARGE / 16, "{name}");
        }
    }
}
