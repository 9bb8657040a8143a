//! What is at a path: the before and the after of a change to a file.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use anyhow::Result;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::content::{digest_known, read_through};
use super::digest::Digest;
use super::failures::{failed, refused};
use super::flags::Flags;
use super::identity::Identity;
use super::metadata::{Attributes, Metadata, ModifiedAt};
use super::path_text::PathText;
use super::place::Walk;
use super::xattrs;
use crate::failure::{Failure, FailureKind};

/// The largest file that is read whole, in bytes, to change a part of it or to give its text to a script.
pub const LONGEST_TEXT: u64 = 16 * 1024 * 1024;

/// What is at a path. This is the form in which the journal holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum FileState {
    /// Nothing.
    Absent,
    /// A regular file.
    File {
        /// Of its content.
        sha256: Digest,
        /// Its length in bytes.
        size: u64,
        /// Its mode, owner, group, extended attributes and time.
        #[serde(flatten)]
        metadata: Metadata,
    },
    /// A symbolic link.
    Link {
        /// What it holds, which need not exist.
        to: PathText,
        /// The owner's user id.
        owner: u32,
        /// The group's id.
        group: u32,
        /// When it was made. Kept to be restored, never compared.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mtime: Option<ModifiedAt>,
    },
    /// In a tree: another name (a hard link) of a file of that tree.
    SameFile {
        /// The first name of the file, from the root of the tree.
        of: PathText,
    },
    /// A directory by itself: a manifest describes its content.
    Directory {
        /// Its mode, owner, group, extended attributes and time.
        #[serde(flatten)]
        metadata: Metadata,
    },
    /// A kind that no change creates and none may touch.
    Special {
        /// What it is.
        what: SpecialKind,
    },
}

/// The other kinds of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpecialKind {
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
    /// Inside a tree: another file system is mounted here.
    Mount,
    /// None of these.
    Unknown,
}

impl FileState {
    /// Observes a path without following a link at its end and without ever blocking: a named pipe or a device is not
    /// opened. A file is not read again while it is known to be unchanged.
    pub fn observe(path: &Path) -> Result<Self> {
        observe_with(path, &mut digest_known)
    }

    /// A regular file with this content and these attributes, as it will be observed.
    pub fn file(sha256: Digest, size: u64, attributes: &Attributes) -> Self {
        Self::File { sha256, size, metadata: attributes.settled() }
    }

    /// A directory with these attributes, as it will be observed.
    pub fn directory(attributes: &Attributes) -> Self {
        Self::Directory { metadata: attributes.settled() }
    }

    /// A symbolic link, as it will be observed.
    pub fn link(to: impl Into<PathText>, owner: u32, group: u32) -> Self {
        Self::Link { to: to.into(), owner, group, mtime: None }
    }

    /// Whether nothing is there.
    pub fn is_absent(&self) -> bool {
        *self == Self::Absent
    }

    /// The metadata of a file or directory.
    pub fn metadata(&self) -> Option<&Metadata> {
        match self {
            Self::File { metadata, .. } | Self::Directory { metadata } => Some(metadata),
            Self::Absent | Self::Link { .. } | Self::SameFile { .. } | Self::Special { .. } => None,
        }
    }

    /// The digest of a file's content.
    pub fn sha256(&self) -> Option<Digest> {
        match self {
            Self::File { sha256, .. } => Some(*sha256),
            _ => None,
        }
    }

    /// The owner and the group, if the kind has them.
    pub fn ownership(&self) -> Option<(u32, u32)> {
        match self {
            Self::File { metadata, .. } | Self::Directory { metadata } => {
                Some((metadata.owner, metadata.group))
            }
            Self::Link { owner, group, .. } => Some((*owner, *group)),
            Self::Absent | Self::SameFile { .. } | Self::Special { .. } => None,
        }
    }

    /// Whether the two are the same thing with the same content and metadata. Times do not count.
    pub fn same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::File { sha256, size, metadata },
                Self::File { sha256: other_sha256, size: other_size, metadata: other },
            ) => (sha256, size) == (other_sha256, other_size) && metadata.same_as(other),
            (Self::Directory { metadata }, Self::Directory { metadata: other }) => metadata.same_as(other),
            (
                Self::Link { to, owner, group, .. },
                Self::Link { to: other_to, owner: other_owner, group: other_group, .. },
            ) => (to, owner, group) == (other_to, other_owner, other_group),
            _ => self == other,
        }
    }

    /// Whether it is one of the two, or a state between them: see [`Metadata::lies_between`].
    pub fn lies_between(&self, one: &Self, other: &Self) -> bool {
        match (self, one, other) {
            (
                Self::File { sha256, metadata, .. },
                Self::File { sha256: one_sha256, metadata: one, .. },
                Self::File { sha256: other_sha256, metadata: other, .. },
            ) => [one_sha256, other_sha256].contains(&sha256) && metadata.lies_between(one, other),
            (
                Self::Directory { metadata },
                Self::Directory { metadata: one },
                Self::Directory { metadata: other },
            ) => metadata.lies_between(one, other),
            _ => self.same_as(one) || self.same_as(other),
        }
    }

    /// Whether a change from this state to `desired` would overwrite something that is not as `recorded`. A part that
    /// the change does not modify, content or metadata, does not count.
    pub fn is_overwritten(&self, desired: &Self, recorded: &Self) -> bool {
        let metadata =
            |now: &Metadata, desired: &Metadata, recorded: &Metadata| !now.lies_between(desired, recorded);
        match (self, desired, recorded) {
            (
                Self::File { sha256: now, metadata: now_metadata, .. },
                Self::File { sha256: desired, metadata: desired_metadata, .. },
                Self::File { sha256: recorded, metadata: recorded_metadata, .. },
            ) => {
                (now != desired && now != recorded)
                    || metadata(now_metadata, desired_metadata, recorded_metadata)
            }
            (
                Self::Directory { metadata: now },
                Self::Directory { metadata: desired },
                Self::Directory { metadata: recorded },
            ) => metadata(now, desired, recorded),
            _ => !self.same_as(desired) && !self.same_as(recorded),
        }
    }

    /// The differences from `self` to `other`, in words; empty when the two are the same.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        match (self, other) {
            (
                Self::File { sha256, size, metadata },
                Self::File { sha256: other_sha256, size: other_size, metadata: other },
            ) => {
                let mut differences = Vec::new();
                if size != other_size {
                    differences.push(format!("content differs ({size} → {other_size} bytes)"));
                } else if sha256 != other_sha256 {
                    differences.push("content differs".to_owned());
                }
                differences.extend(metadata.differences(other));
                differences
            }
            (Self::Directory { metadata }, Self::Directory { metadata: other }) => {
                metadata.differences(other)
            }
            (
                Self::Link { to, owner, group, .. },
                Self::Link { to: other_to, owner: other_owner, group: other_group, .. },
            ) => {
                let mut differences = Vec::new();
                if to != other_to {
                    differences.push(format!("link to `{to}` → `{other_to}`"));
                }
                if owner != other_owner {
                    differences.push(format!("owner {owner} → {other_owner}"));
                }
                if group != other_group {
                    differences.push(format!("group {group} → {other_group}"));
                }
                differences
            }
            (Self::SameFile { of }, Self::SameFile { of: other_of }) if of != other_of => {
                vec![format!("hard link to `{of}` → hard link to `{other_of}`")]
            }
            _ if self == other => Vec::new(),
            _ => vec![format!("{} → {}", self.kind_name(), other.kind_name())],
        }
    }

    /// The length of a regular file in bytes.
    pub fn size(&self) -> Option<u64> {
        match self {
            Self::File { size, .. } => Some(*size),
            _ => None,
        }
    }

    /// The kind, in words that fit into a message.
    pub fn kind_name(&self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::File { .. } => "a file",
            Self::Link { .. } => "a symbolic link",
            Self::SameFile { .. } => "a hard link",
            Self::Directory { .. } => "a directory",
            Self::Special { what: SpecialKind::Fifo } => "a named pipe",
            Self::Special { what: SpecialKind::Socket } => "a socket",
            Self::Special { what: SpecialKind::CharacterDevice | SpecialKind::BlockDevice } => "a device",
            Self::Special { what: SpecialKind::Mount } => "a mount point",
            Self::Special { what: SpecialKind::Unknown } => "of an unknown kind",
        }
    }
}

/// Returns the digest and length of an open regular file; the path is for messages.
pub(crate) type ReadFile<'read> = dyn FnMut(&File, &Path) -> Result<(Digest, u64)> + 'read;

/// Observes a path; `read` gives the digest of a file.
pub(crate) fn observe_with(path: &Path, read: &mut ReadFile<'_>) -> Result<FileState> {
    let walk = Walk::to(path)?;
    match walk.directory() {
        Some(directory) => Ok(look(directory, walk.name(), path, read)?.state),
        None => Ok(FileState::Absent),
    }
}

/// Reads a regular file: its bytes and the state that belongs to them, by one open and one read. The last
/// component is not followed; anything but a regular file of at most [`LONGEST_TEXT`] bytes is an error.
pub fn read(path: &Path) -> Result<(Vec<u8>, FileState)> {
    match read_if_file(path)? {
        (bytes, state @ FileState::File { .. }) => Ok((bytes, state)),
        (_, FileState::Absent) => Err(failed("read", path, Errno::NOENT)),
        (_, other) => Err(refused(path, &format!("is {}, not a regular file", other.kind_name()))),
    }
}

/// The same, and no bytes for anything but a file.
pub fn read_if_file(path: &Path) -> Result<(Vec<u8>, FileState)> {
    let mut bytes = Vec::new();
    let state = observe_with(path, &mut |file, shown| {
        let whole = read_open(file, shown)?;
        bytes = whole.0;
        Ok((whole.1, bytes.len() as u64))
    })?;
    Ok((bytes, state))
}

/// All that is in an open file, and its digest.
pub(crate) fn read_open(file: &File, shown: &Path) -> Result<(Vec<u8>, Digest)> {
    let length = fstat(file).map_err(|errno| failed("access", shown, errno))?.st_size;
    let length = u64::try_from(length).unwrap_or_default();
    let mut bytes = Vec::with_capacity(usize::try_from(length.min(LONGEST_TEXT)).unwrap_or_default());
    let mut take = |at: u64, piece: &[u8]| {
        if at + piece.len() as u64 > LONGEST_TEXT {
            return Err(too_long(shown));
        }
        bytes.resize(usize::try_from(at).unwrap_or_default(), 0);
        bytes.extend_from_slice(piece);
        Ok(())
    };
    if length > LONGEST_TEXT {
        return Err(too_long(shown));
    }
    let (digest, read) = read_through(file, &mut take).map_err(|stopped| stopped.reading(shown))?;
    if read > LONGEST_TEXT {
        return Err(too_long(shown));
    }
    bytes.resize(usize::try_from(read).unwrap_or_default(), 0);
    Ok((bytes, digest))
}

fn too_long(path: &Path) -> anyhow::Error {
    let (shown, most) = (PathText::new(path), LONGEST_TEXT >> 20);
    Failure::new(format!("cannot read `{shown}` as text: it is larger than {most} MiB"))
        .kind(FailureKind::Size)
        .hint("replace a larger file as a whole: `file::copy`, or a command with an undo")
        .into()
}

/// Reads a regular file and follows links, as an editor would. Only for display: a change must not rely on it.
pub fn read_following(path: &Path) -> Result<Vec<u8>> {
    Ok(read_open(&open_following(path)?, path)?.0)
}

/// The digest of a regular file, links followed. Only for display.
pub fn digest_following(path: &Path) -> Result<Digest> {
    Ok(digest_known(&open_following(path)?, path)?.0)
}

fn open_following(path: &Path) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| failed("read", path, errno))?;
    let stat = fstat(&file).map_err(|errno| failed("access", path, errno))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        let message = format!("cannot read `{}`: it is not a regular file", PathText::new(path));
        return Err(Failure::new(message).kind(FailureKind::Refused).into());
    }
    Ok(file.into())
}

/// A state and the identity of its file.
pub(super) struct Seen {
    pub(super) state: FileState,
    pub(super) identity: Option<Identity>,
}

/// Observes a name in a directory; `read` gives the digest of a file. `shown` is the path for messages.
pub(super) fn look(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    shown: &Path,
    read: &mut ReadFile<'_>,
) -> Result<Seen> {
    // A name that changes its kind between the stat and the open is observed again.
    for _ in 0..8 {
        let stat = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Seen { state: FileState::Absent, identity: None }),
            Err(errno) => return Err(failed("access", shown, errno)),
        };
        if let Some(state) = look_once(directory, name, shown, &stat, read)? {
            return Ok(Seen { state, identity: Some(Identity::of(&stat)) });
        }
    }
    Err(refused(shown, "changes faster than kkrun can read it"))
}

fn look_once(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    shown: &Path,
    stat: &Stat,
    read: &mut ReadFile<'_>,
) -> Result<Option<FileState>> {
    let special = |what| Ok(Some(FileState::Special { what }));
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let Some(file) = open_same(directory, name, shown, stat, OFlags::empty())? else {
                return Ok(None);
            };
            let metadata = metadata_of(&file, shown)?;
            let (sha256, size) = read(&File::from(file), shown)?;
            Ok(Some(FileState::File { sha256, size, metadata }))
        }
        FileType::Directory => {
            let Some(opened) = open_same(directory, name, shown, stat, OFlags::DIRECTORY)? else {
                return Ok(None);
            };
            Ok(Some(FileState::Directory { metadata: metadata_of(&opened, shown)? }))
        }
        FileType::Symlink => match readlinkat(directory, name, Vec::new()) {
            Ok(target) => {
                let to = PathText::new(std::ffi::OsString::from_vec(target.into_bytes()));
                let mtime = Some(ModifiedAt::of(stat));
                Ok(Some(FileState::Link { to, owner: stat.st_uid, group: stat.st_gid, mtime }))
            }
            Err(Errno::NOENT | Errno::INVAL) => Ok(None),
            Err(errno) => Err(failed("read the link", shown, errno)),
        },
        FileType::Fifo => special(SpecialKind::Fifo),
        FileType::Socket => special(SpecialKind::Socket),
        FileType::CharacterDevice => special(SpecialKind::CharacterDevice),
        FileType::BlockDevice => special(SpecialKind::BlockDevice),
        FileType::Unknown => special(SpecialKind::Unknown),
    }
}

/// Opens for reading the file that `stat` describes; `None` if the name belongs to another file by now.
pub(super) fn open_same(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    shown: &Path,
    stat: &Stat,
    also: OFlags,
) -> Result<Option<OwnedFd>> {
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC | also;
    match openat(directory, name, flags, Mode::empty()) {
        Ok(file) => {
            let opened = fstat(&file).map_err(|errno| failed("access", shown, errno))?;
            Ok(((opened.st_dev, opened.st_ino) == (stat.st_dev, stat.st_ino)).then_some(file))
        }
        Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(failed("open", shown, errno)),
    }
}

/// Mode, owner, group, extended attributes and time of an open file or directory.
pub(super) fn metadata_of(file: impl AsFd, shown: &Path) -> Result<Metadata> {
    let stat = fstat(file.as_fd()).map_err(|errno| failed("access", shown, errno))?;
    let flags = Flags::of(file.as_fd());
    Ok(Metadata::of(&stat, xattrs::read(file, shown)?, flags))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::machine::files::Value;
    use crate::machine::files::testing::*;

    #[test]
    fn only_what_is_overwritten_counts() {
        let file = |content: &[u8], mode| FileState::file(Digest::of(content), 1, &mine(mode));
        let recorded = file(b"a", 0o644);
        assert!(!file(b"a", 0o600).is_overwritten(&file(b"b", 0o600), &recorded));
        assert!(file(b"a", 0o600).is_overwritten(&file(b"b", 0o644), &recorded));
        assert!(!file(b"x", 0o644).is_overwritten(&file(b"x", 0o600), &recorded));
        assert!(file(b"x", 0o644).is_overwritten(&file(b"b", 0o644), &recorded));
        assert!(file(b"x", 0o644).is_overwritten(&FileState::Absent, &recorded));
        assert!(!recorded.is_overwritten(&FileState::Absent, &recorded));
    }

    #[test]
    fn the_journal_form_is_explicit_and_comes_back() {
        let metadata = Metadata {
            mode: 0o644,
            owner: 0,
            group: 5,
            xattrs: BTreeMap::new(),
            flags: Some(Flags::NONE),
            mtime: ModifiedAt { seconds: 1, nanoseconds: 2 },
        };
        let sha256 = Digest::of(b"");
        let access = r#""mode":"0644","owner":0,"group":5,"mtime":"1.000000002""#;
        for (state, json) in [
            (FileState::Absent, r#"{"is":"absent"}"#.to_owned()),
            (
                FileState::File { sha256, size: 0, metadata: metadata.clone() },
                format!(r#"{{"is":"file","sha256":"{sha256}","size":0,{access}}}"#),
            ),
            (FileState::SameFile { of: "a/b".into() }, r#"{"is":"same_file","of":"a/b"}"#.to_owned()),
            (FileState::Directory { metadata }, format!(r#"{{"is":"directory",{access}}}"#)),
            (FileState::link("a", 1, 2), r#"{"is":"link","to":"a","owner":1,"group":2}"#.to_owned()),
            (
                FileState::Special { what: SpecialKind::CharacterDevice },
                r#"{"is":"special","what":"character_device"}"#.to_owned(),
            ),
        ] {
            assert_eq!(serde_json::to_string(&state).unwrap(), json);
            assert_eq!(serde_json::from_str::<FileState>(&json).unwrap(), state);
        }
    }

    #[test]
    fn every_kind_is_observed_without_blocking() {
        let (_directory, path) = scratch();
        let at = |name: &str| path.join(name);
        std::fs::write(at("file"), "abc").unwrap();
        std::fs::create_dir(at("directory")).unwrap();
        symlink("nowhere", at("link")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, at("fifo"), Mode::from_raw_mode(0o600)).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        let kind_name = |name: &str| FileState::observe(&at(name)).unwrap().kind_name();
        assert_eq!(
            ["file", "directory", "link", "fifo", "socket", "none", "none/below", "file/below"]
                .map(kind_name),
            [
                "a file",
                "a directory",
                "a symbolic link",
                "a named pipe",
                "a socket",
                "absent",
                "absent",
                "absent"
            ]
        );
        assert_eq!(FileState::observe(Path::new("/dev/null")).unwrap().kind_name(), "a device");
        assert_eq!(FileState::observe(Path::new("/")).unwrap().kind_name(), "a directory");
        assert_eq!(FileState::observe(&at("file")).unwrap().sha256(), Some(Digest::of(b"abc")));
        assert_eq!(kind(read(&at("fifo"))), "refused");
        assert_eq!(kind(read(&at("link"))), "refused");
        assert_eq!(kind(read(&at("none"))), "missing");
    }

    #[test]
    fn bytes_and_state_belong_together_for_any_size_and_name() {
        let (_directory, path) = scratch();
        for (name, size) in [(&b"empty"[..], 0), (b"\xff\n", 1), (b"large", 300_000)] {
            let path = path.join(OsStr::from_bytes(name));
            let content = vec![b'x'; size];
            std::fs::write(&path, &content).unwrap();
            let (bytes, state) = read(&path).unwrap();
            assert_eq!(bytes, content);
            assert_eq!(state.sha256(), Some(Digest::of(&content)));
            assert_eq!(state, FileState::observe(&path).unwrap());
        }
    }

    #[test]
    fn a_link_is_followed_only_for_looking() {
        let (_directory, path) = scratch();
        std::fs::write(path.join("file"), "abc").unwrap();
        symlink("file", path.join("link")).unwrap();
        assert_eq!(read_following(&path.join("link")).unwrap(), b"abc");
        assert_eq!(kind(read_following(&path)), "refused");
    }

    #[test]
    fn differences_are_said_in_words() {
        let file = |content: &[u8], mode| {
            FileState::file(Digest::of(content), content.len() as u64, &Attributes::new(mode, 0, 0))
        };
        assert_eq!(
            file(b"a", 0o644).differences(&file(b"bc", 0o600)),
            ["content differs (1 → 2 bytes)", "mode 0644 → 0600"]
        );
        assert_eq!(file(b"a", 0o644).differences(&FileState::Absent), ["a file → absent"]);
        assert_eq!(
            FileState::link("a", 0, 0).differences(&FileState::link("b", 0, 1)),
            ["link to `a` → `b`", "group 0 → 1"]
        );
        let mut timed = file(b"a", 0o644);
        let change = |state: &mut FileState, how: fn(&mut Metadata)| match state {
            FileState::File { metadata, .. } => how(metadata),
            _ => unreachable!(),
        };
        change(&mut timed, |metadata| metadata.mtime.seconds = 99);
        assert!(timed.same_as(&file(b"a", 0o644)) && timed.differences(&file(b"a", 0o644)).is_empty());
        change(&mut timed, |metadata| {
            metadata.xattrs.insert("user.x".into(), Value::from(vec![]));
        });
        assert!(!timed.same_as(&file(b"a", 0o644)));
    }
}
