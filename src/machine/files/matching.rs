//! The files that a pattern of a shell means.

use std::path::{Path, PathBuf};

/// The paths that match the pattern, sorted, without symlinks in their directories. A `*` is neither a `/` nor the dot that
/// hides a file. None for what is no pattern, or cannot be read.
pub fn matching(pattern: &Path) -> Vec<PathBuf> {
    let as_the_shell = glob::MatchOptions {
        require_literal_leading_dot: true,
        require_literal_separator: true,
        ..glob::MatchOptions::new()
    };
    let found = pattern.to_str().and_then(|pattern| glob::glob_with(pattern, as_the_shell).ok());
    found.into_iter().flatten().flatten().map(|file| in_its_directory(&file)).collect()
}

fn in_its_directory(file: &Path) -> PathBuf {
    let directory = file.parent().and_then(|parent| parent.canonicalize().ok());
    match (directory, file.file_name()) {
        (Some(directory), Some(name)) => directory.join(name),
        _ => file.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_means_what_a_shell_takes_it_for() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("d")).unwrap();
        for name in ["b.conf", "a.conf", ".hidden.conf", "a.txt", "d/c.conf"] {
            std::fs::write(root.join(name), "").unwrap();
        }
        std::os::unix::fs::symlink("d", root.join("link")).unwrap();
        assert_eq!(matching(&root.join("*.conf")), ["a.conf", "b.conf"].map(|name| root.join(name)));
        assert_eq!(matching(&root.join("link/*")), [root.join("d/c.conf")]);
        assert_eq!(matching(&root.join("none")), Vec::<PathBuf>::new());
    }
}
