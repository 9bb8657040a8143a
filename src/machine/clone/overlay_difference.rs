//! What an overlay holds: the paths in which the merged view differs from the files below it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::io::Errno;

use crate::machine::mount::Overlay;

/// How a path differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// It is new.
    Added,
    /// It existed and differs now.
    Changed,
    /// It is gone.
    Deleted,
}

/// What differs about a changed path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Aspect {
    /// A file became a directory, a link or the like.
    Type,
    /// The bytes of a file, the target of a link, the number of a device.
    Content,
    /// The permission bits.
    Mode,
    /// The user or group it belongs to.
    Owner,
    /// The extended attributes, access control lists among them.
    Attributes,
    /// When a file's bytes were last written.
    Time,
}

/// A path that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its path as those inside see it.
    pub path: PathBuf,
    /// How it differs.
    pub kind: Kind,
    /// Whether it is a directory (when deleted: was).
    pub directory: bool,
    /// Its size in bytes (when deleted: before).
    pub size: u64,
    /// What differs, when it is changed.
    pub aspects: Vec<Aspect>,
}

/// Everything in which an overlay's merged view differs from its lower side, in the order of paths. `at` is the path of
/// the overlay as seen inside; the paths `apart` and everything below them are skipped. A file that was copied up
/// unchanged is no difference, nor is the time of a directory.
pub fn differences(overlay: &Overlay, at: &Path, apart: &[PathBuf]) -> Result<Vec<Difference>> {
    let mut walk = Walk { overlay, at, apart, found: Vec::new() };
    walk.upper(Path::new(""))?;
    walk.found.sort_by(|left, right| left.path.cmp(&right.path));
    Ok(walk.found)
}

struct Walk<'overlay> {
    overlay: &'overlay Overlay,
    at: &'overlay Path,
    apart: &'overlay [PathBuf],
    found: Vec<Difference>,
}

impl Walk<'_> {
    /// Compares what the upper directory holds below `path`: nothing else can differ there.
    fn upper(&mut self, path: &Path) -> Result<()> {
        for name in names(&self.overlay.upper.join(path))? {
            let path = path.join(name);
            if self.apart.contains(&self.at.join(&path)) {
                continue;
            }
            let upper = self.overlay.upper.join(&path);
            let held = look(&upper)?
                .with_context(|| format!("`{}` disappeared while it was compared", upper.display()))?;
            let below = look(&self.overlay.lower.join(&path))?;
            let merges = held.is_dir()
                && below.as_ref().is_some_and(Metadata::is_dir)
                && !has_attribute(&upper, "trusted.overlay.opaque")?
                && !has_attribute(&upper, "trusted.overlay.redirect")?;
            if merges {
                let below = below.context("a directory disappeared while it was compared")?;
                self.compare(&path, &held, &below)?;
                self.upper(&path)?;
            } else {
                self.whole(&path)?;
            }
        }
        Ok(())
    }

    /// Compares the path on both sides with all that is below it.
    fn whole(&mut self, path: &Path) -> Result<()> {
        let here = look(&self.overlay.merged.join(path))?;
        let below = look(&self.overlay.lower.join(path))?;
        let is_directory = |side: &Option<Metadata>| side.as_ref().is_some_and(Metadata::is_dir);
        match (&here, &below) {
            (None, None) => {}
            (Some(here), None) => self.add(path, Kind::Added, here, Vec::new()),
            (None, Some(below)) => self.add(path, Kind::Deleted, below, Vec::new()),
            (Some(here), Some(below)) => self.compare(path, here, below)?,
        }
        let mut inside: Vec<OsString> = Vec::new();
        if is_directory(&here) {
            inside.extend(names(&self.overlay.merged.join(path))?);
        }
        if is_directory(&below) {
            inside.extend(names(&self.overlay.lower.join(path))?);
        }
        inside.sort();
        inside.dedup();
        inside.iter().try_for_each(|name| self.whole(&path.join(name)))
    }

    fn compare(&mut self, path: &Path, here: &Metadata, below: &Metadata) -> Result<()> {
        let aspects = self.aspects(path, here, below)?;
        if !aspects.is_empty() {
            self.add(path, Kind::Changed, here, aspects);
        }
        Ok(())
    }

    fn aspects(&self, path: &Path, here: &Metadata, below: &Metadata) -> Result<Vec<Aspect>> {
        if here.file_type() != below.file_type() {
            return Ok(vec![Aspect::Type]);
        }
        let merged = self.overlay.merged.join(path);
        let lower = self.overlay.lower.join(path);
        let kind = here.file_type();
        let mut aspects = Vec::new();
        let same_content = if kind.is_file() {
            here.len() == below.len() && equal_bytes(&merged, &lower)?
        } else if kind.is_symlink() {
            read_link(&merged)? == read_link(&lower)?
        } else if kind.is_block_device() || kind.is_char_device() {
            here.rdev() == below.rdev()
        } else {
            true
        };
        let mut note = |otherwise: bool, aspect| {
            if otherwise {
                aspects.push(aspect);
            }
        };
        note(!same_content, Aspect::Content);
        note(!kind.is_symlink() && here.mode() != below.mode(), Aspect::Mode);
        note((here.uid(), here.gid()) != (below.uid(), below.gid()), Aspect::Owner);
        note(attributes(&merged)? != attributes(&lower)?, Aspect::Attributes);
        let times = |side: &Metadata| (side.mtime(), side.mtime_nsec());
        note(kind.is_file() && times(here) != times(below), Aspect::Time);
        Ok(aspects)
    }

    fn add(&mut self, path: &Path, kind: Kind, seen: &Metadata, aspects: Vec<Aspect>) {
        // A socket lives as long as its process: restoring one would mean nothing.
        if seen.file_type().is_socket() {
            return;
        }
        let size = if seen.is_file() { seen.len() } else { 0 };
        self.found.push(Difference {
            path: self.at.join(path),
            kind,
            directory: seen.is_dir(),
            size,
            aspects,
        });
    }
}

/// The links in the directories below this one: directory name, link name. A missing directory has none.
pub fn links(directory: &Path) -> Result<Vec<(OsString, OsString)>> {
    let mut found = Vec::new();
    for name in names_if_there(directory)? {
        let below = directory.join(&name);
        if !look(&below)?.is_some_and(|metadata| metadata.is_dir()) {
            continue;
        }
        for link in names(&below)? {
            if look(&below.join(&link))?.is_some_and(|metadata| metadata.is_symlink()) {
                found.push((name.clone(), link));
            }
        }
    }
    Ok(found)
}

fn names_if_there(directory: &Path) -> Result<Vec<OsString>> {
    match look(directory)? {
        Some(metadata) if metadata.is_dir() => names(directory),
        _ => Ok(Vec::new()),
    }
}

fn names(directory: &Path) -> Result<Vec<OsString>> {
    let unreadable = || format!("cannot read the directory `{}`", directory.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).with_context(unreadable)? {
        names.push(entry.with_context(unreadable)?.file_name());
    }
    names.sort();
    Ok(names)
}

/// What is at a path, links not followed; `None` if nothing is there, or the mark of a deletion.
fn look(path: &Path) -> Result<Option<Metadata>> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("cannot access `{}`", path.display())),
    }
}

fn read_link(path: &Path) -> Result<PathBuf> {
    std::fs::read_link(path).with_context(|| format!("cannot read the link `{}`", path.display()))
}

fn equal_bytes(left: &Path, right: &Path) -> Result<bool> {
    const BLOCK: usize = 64 * 1024;
    let open = |path: &Path| File::open(path).with_context(|| format!("cannot open `{}`", path.display()));
    let (mut left_file, mut right_file) = (open(left)?, open(right)?);
    let (mut left_block, mut right_block) = (Vec::with_capacity(BLOCK), Vec::with_capacity(BLOCK));
    loop {
        left_block.clear();
        right_block.clear();
        let limit = BLOCK as u64;
        (&mut left_file)
            .take(limit)
            .read_to_end(&mut left_block)
            .with_context(|| format!("cannot read `{}`", left.display()))?;
        (&mut right_file)
            .take(limit)
            .read_to_end(&mut right_block)
            .with_context(|| format!("cannot read `{}`", right.display()))?;
        if left_block != right_block {
            return Ok(false);
        }
        if left_block.is_empty() {
            return Ok(true);
        }
    }
}

fn has_attribute(path: &Path, name: &str) -> Result<bool> {
    match rustix::fs::lgetxattr_query(path, name) {
        Ok(_) => Ok(true),
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(false),
        Err(error) => {
            Err(error).with_context(|| format!("cannot read the attributes of `{}`", path.display()))
        }
    }
}

/// The extended attributes except the overlay's own.
pub(super) fn attributes(path: &Path) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let unreadable = || format!("cannot read the attributes of `{}`", path.display());
    let length = match rustix::fs::llistxattr_query(path) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => 0,
        Err(error) => return Err(error).with_context(unreadable),
    };
    if length == 0 {
        return Ok(BTreeMap::new());
    }
    let mut list = vec![0_u8; length];
    let length = rustix::fs::llistxattr(path, &mut list[..]).with_context(unreadable)?;
    let mut found = BTreeMap::new();
    for name in list[..length].split(|byte| *byte == 0) {
        if name.is_empty() || name.starts_with(b"trusted.overlay.") {
            continue;
        }
        let name_text = OsStr::from_bytes(name);
        let length = rustix::fs::lgetxattr_query(path, name_text).with_context(unreadable)?;
        let mut value = vec![0_u8; length];
        let length = rustix::fs::lgetxattr(path, name_text, &mut value[..]).with_context(unreadable)?;
        value.truncate(length);
        found.insert(name.to_owned(), value);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    /// Directories laid out as the kernel lays out an overlay whose upper side adds and changes: `merged` is a plain
    /// directory, so that the test does not need root. Deletions are tried on a real mount in tests/rehearsal.rs.
    struct Sides {
        root: tempfile::TempDir,
    }

    impl Sides {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            for side in ["lower", "upper", "merged"] {
                fs::create_dir(root.path().join(side)).unwrap();
            }
            Self { root }
        }

        fn put(&self, sides: &[&str], path: &str, text: &str, seconds: i64) {
            for side in sides {
                let file = self.root.path().join(side).join(path);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(&file, text).unwrap();
                let time =
                    std::time::UNIX_EPOCH + std::time::Duration::from_secs(u64::try_from(seconds).unwrap());
                File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
            }
        }

        fn differences(&self) -> Vec<Difference> {
            let [lower, upper, merged] = ["lower", "upper", "merged"].map(|side| self.root.path().join(side));
            let overlay = Overlay::described(&lower, &upper, &merged);
            differences(&overlay, Path::new("/"), &[]).unwrap()
        }
    }

    fn changed(path: &str, size: u64, aspects: &[Aspect]) -> Difference {
        Difference {
            path: path.into(),
            kind: Kind::Changed,
            directory: false,
            size,
            aspects: aspects.to_vec(),
        }
    }

    #[test]
    fn a_file_copied_up_and_equal_is_no_difference() {
        let sides = Sides::new();
        sides.put(&["lower", "upper", "merged"], "etc/fstab", "same", 1000);
        assert_eq!(sides.differences(), []);
    }

    #[test]
    fn bytes_mode_and_time_of_a_file_are_distinguished() {
        let sides = Sides::new();
        sides.put(&["lower"], "etc/hosts", "old", 1000);
        sides.put(&["upper", "merged"], "etc/hosts", "new", 1000);
        sides.put(&["lower"], "etc/later", "same", 1000);
        sides.put(&["upper", "merged"], "etc/later", "same", 1001);
        sides.put(&["lower", "upper", "merged"], "etc/open", "same", 1000);
        for side in ["upper", "merged"] {
            let path = sides.root.path().join(side).join("etc/open");
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        assert_eq!(
            sides.differences(),
            [
                changed("/etc/hosts", 3, &[Aspect::Content]),
                changed("/etc/later", 4, &[Aspect::Time]),
                changed("/etc/open", 4, &[Aspect::Mode]),
            ]
        );
    }

    #[test]
    fn a_new_tree_and_a_turned_link_are_listed() {
        let sides = Sides::new();
        sides.put(&["upper", "merged"], "srv/new/page", "hello", 1000);
        for (side, target) in [("lower", "one"), ("upper", "two"), ("merged", "two")] {
            symlink(target, sides.root.path().join(side).join("turn")).unwrap();
        }
        let added = |path: &str, directory, size| Difference {
            path: path.into(),
            kind: Kind::Added,
            directory,
            size,
            aspects: Vec::new(),
        };
        assert_eq!(
            sides.differences(),
            [
                added("/srv", true, 0),
                added("/srv/new", true, 0),
                added("/srv/new/page", false, 5),
                changed("/turn", 0, &[Aspect::Content]),
            ]
        );
    }
}
