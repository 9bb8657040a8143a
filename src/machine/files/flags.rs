//! The flags of a file that chattr(1) sets, as far as they can be given to a new file: what `lsattr` shows.

use std::fmt;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Result, bail};
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use serde::{Deserialize, Serialize};

use super::failures::failed;

/// The letters of those that are kept. Copy on write (`C`) can be set on an empty file only, and the others describe
/// how the file system stores it.
const KEPT: [(char, IFlags); 7] = [
    ('S', IFlags::SYNC),
    ('D', IFlags::DIRSYNC),
    ('i', IFlags::IMMUTABLE),
    ('a', IFlags::APPEND),
    ('d', IFlags::NODUMP),
    ('A', IFlags::NOATIME),
    ('c', IFlags::COMPRESSED),
];

/// Those of a directory that what is made in it gets, as ext4, XFS and Btrfs do, and those that forbid a rename into it: a
/// project, and an encryption. The last four are no compression, encrypted, direct access to memory and names without
/// case. Source: linux/fs.h, fs/ext4/ext4.h.
const INHERITED: IFlags = IFlags::SYNC
    .union(IFlags::DIRSYNC)
    .union(IFlags::NODUMP)
    .union(IFlags::NOATIME)
    .union(IFlags::COMPRESSED)
    .union(IFlags::NOCOW)
    .union(IFlags::NOTAIL)
    .union(IFlags::JOURNALING)
    .union(IFlags::PROJECT_INHERIT)
    .union(IFlags::SECURE_REMOVAL)
    .union(IFlags::UNRM)
    .union(IFlags::from_bits_retain(0x400 | 0x800 | 0x0200_0000 | 0x4000_0000));

/// Whether what is made in this open directory gets flags from it.
pub(super) fn are_inherited(directory: impl AsFd) -> bool {
    ioctl_getflags(directory).is_ok_and(|flags| flags.intersects(INHERITED))
}

/// Flags; in JSON their letters.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Flags(IFlags);

impl Flags {
    /// None of them.
    pub const NONE: Self = Self(IFlags::empty());

    fn all_kept() -> IFlags {
        KEPT.iter().fold(IFlags::empty(), |all, (_, flag)| all | *flag)
    }

    /// Those that forbid any change. They are observed, but neither set nor compared: a file with them cannot be
    /// changed, and a restored one never had them.
    fn fixing() -> IFlags {
        IFlags::IMMUTABLE | IFlags::APPEND
    }

    /// Whether the two are the same, as far as they can be given.
    pub(super) fn same_as(self, other: Self) -> bool {
        self.0.difference(Self::fixing()) == other.0.difference(Self::fixing())
    }

    /// Those of an open file or directory; none if the file system does not support flags.
    pub(super) fn of(file: impl AsFd) -> Self {
        Self(ioctl_getflags(file).unwrap_or(IFlags::empty()) & Self::all_kept())
    }

    /// Gives an open file or directory these and no others of the kept ones.
    pub(super) fn give(self, file: impl AsFd, shown: &Path) -> Result<()> {
        if Self::of(file.as_fd()).same_as(self) {
            return Ok(());
        }
        // The others, such as that of extents, must stay: `difference` leaves even those that it does not know.
        let (kept, own) = (Self::all_kept().difference(Self::fixing()), self.0.difference(Self::fixing()));
        let given = ioctl_getflags(file.as_fd())
            .and_then(|present| ioctl_setflags(file.as_fd(), present.difference(kept) | own));
        given.map_err(|errno| failed("set the flags of", shown, errno))
    }

    /// Whether what has them can neither be replaced nor removed.
    pub fn is_fixed(self) -> bool {
        self.0.intersects(Self::fixing())
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        KEPT.iter()
            .filter(|(_, flag)| self.0.contains(*flag))
            .try_for_each(|(letter, _)| write!(formatter, "{letter}"))
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "\"{self}\"")
    }
}

impl From<Flags> for String {
    fn from(flags: Flags) -> Self {
        flags.to_string()
    }
}

impl TryFrom<String> for Flags {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        let mut flags = IFlags::empty();
        for letter in text.chars() {
            let Some((_, flag)) = KEPT.iter().find(|(known, _)| *known == letter) else {
                bail!("unknown file flag `{letter}`")
            };
            flags |= *flag;
        }
        Ok(Self(flags))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::files::testing::*;
    use crate::machine::files::{Attributes, Contents, FileState, replace};

    #[test]
    fn letters_come_back() {
        for text in ["", "d", "SDiadAc"] {
            assert_eq!(Flags::try_from(text.to_owned()).unwrap().to_string(), text);
        }
        assert!(Flags::try_from("x".to_owned()).is_err());
    }

    #[test]
    #[ignore = "needs a file system with file flags, such as ext4 or xfs"]
    fn a_file_that_was_replaced_gets_its_flags_back() {
        let (_directory, path) = scratch();
        let at = path.join("file");
        std::fs::write(&at, "one").unwrap();
        let nodump = Flags::try_from("dA".to_owned()).unwrap();
        nodump.give(std::fs::File::open(&at).unwrap(), &at).unwrap();
        let before = FileState::observe(&at).unwrap();
        assert_eq!(before.metadata().unwrap().flags, Some(nodump));
        let mut plain = mine(0o644);
        plain.flags = Some(Flags::NONE);
        let after = replace(&at, Contents::Bytes(b"two"), &plain, &before, "test").unwrap();
        assert_eq!(before.differences(&after).last().unwrap(), "flags `dA` → ``");
        let to = Attributes::from(before.metadata().unwrap());
        let back = replace(&at, Contents::Bytes(b"one"), &to, &after, "test").unwrap();
        assert_eq!(back, before);
    }
}
