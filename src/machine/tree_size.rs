//! The size of a tree, for the question whether it may be removed.

use std::fmt;
use std::path::Path;

/// How many files, and how many bytes they hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeSize {
    /// Everything but directories.
    pub files: u64,
    /// What the regular files among them hold.
    pub bytes: u64,
}

impl TreeSize {
    /// The same of a path that may be a file.
    pub fn at(path: &Path) -> Self {
        match std::fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_dir() => Self::of(path),
            Ok(metadata) => Self { files: 1, bytes: if metadata.is_file() { metadata.len() } else { 0 } },
            Err(_) => Self::default(),
        }
    }

    /// Counts what is below `root`, without following links. What cannot be read is not counted: this is an
    /// estimate for a question.
    pub fn of(root: &Path) -> Self {
        let mut size = Self::default();
        let mut directories = vec![root.to_owned()];
        while let Some(directory) = directories.pop() {
            let Ok(entries) = std::fs::read_dir(&directory) else { continue };
            for entry in entries.flatten() {
                match entry.metadata() {
                    Ok(metadata) if metadata.is_dir() => directories.push(entry.path()),
                    Ok(metadata) => {
                        size.files += 1;
                        size.bytes += if metadata.is_file() { metadata.len() } else { 0 };
                    }
                    Err(_) => {}
                }
            }
        }
        size
    }
}

/// As in "214 files, 38 MB".
impl fmt::Display for TreeSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files = if self.files == 1 { "file" } else { "files" };
        let (mut amount, mut unit) = (self.bytes, "bytes");
        for larger in ["kB", "MB", "GB", "TB"] {
            if amount >= 1000 {
                (amount, unit) = (amount.div_ceil(1000), larger);
            }
        }
        write!(formatter, "{} {files}, {amount} {unit}", self.files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_counted_at_every_depth_and_links_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("a/b")).unwrap();
        std::fs::write(directory.path().join("a/b/one"), "123").unwrap();
        std::fs::write(directory.path().join("two"), "45").unwrap();
        std::os::unix::fs::symlink("/etc", directory.path().join("a/link")).unwrap();
        assert_eq!(TreeSize::of(directory.path()), TreeSize { files: 3, bytes: 5 });
        assert_eq!(TreeSize::of(&directory.path().join("none")), TreeSize::default());
    }

    #[test]
    fn amounts_have_readable_units() {
        let shown = |files, bytes| TreeSize { files, bytes }.to_string();
        assert_eq!(shown(1, 999), "1 file, 999 bytes");
        assert_eq!(shown(214, 37_500_000), "214 files, 38 MB");
        assert_eq!(shown(0, 0), "0 files, 0 bytes");
    }
}
