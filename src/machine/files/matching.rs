//! The files that a pattern of a shell means.

use std::path::{Path, PathBuf};

/// The paths that match the pattern, sorted, without symlinks in their directories, as if there were a file `also`. A `*` is
/// neither a `/` nor the dot that hides a file. None for what is no pattern, or cannot be read.
pub fn matching(pattern: &Path, also: &Path) -> Vec<PathBuf> {
    let as_the_shell = glob::MatchOptions {
        require_literal_leading_dot: true,
        require_literal_separator: true,
        ..glob::MatchOptions::new()
    };
    let Some((Ok(compiled), text)) = pattern.to_str().map(|text| (glob::Pattern::new(text), text)) else {
        return Vec::new();
    };
    let found = glob::glob_with(text, as_the_shell).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = found.map(|file| in_its_directory(&file)).collect();
    // The pattern may name its directory by a symlink.
    let named = pattern.parent().zip(also.file_name()).map(|(parent, name)| parent.join(name));
    let is_named =
        |named: &PathBuf| in_its_directory(named) == also && compiled.matches_path_with(named, as_the_shell);
    if named.is_some_and(|named| is_named(&named)) && !found.iter().any(|file| file == also) {
        found.push(also.to_owned());
        found.sort();
    }
    found
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
        let of = |pattern: &str, also: &str| {
            let found = matching(&root.join(pattern), &root.join(also));
            let name = |path: PathBuf| path.strip_prefix(&root).unwrap().display().to_string();
            found.into_iter().map(name).collect::<Vec<_>>()
        };
        assert_eq!(of("*.conf", "none"), ["a.conf", "b.conf"]);
        assert_eq!(of("link/*", "none"), ["d/c.conf"]);
        assert_eq!(of("none", "other"), Vec::<String>::new());
        // One that is to be made.
        assert_eq!(of("*.conf", "aa.conf"), ["a.conf", "aa.conf", "b.conf"]);
        assert_eq!(of("link/*", "d/b"), ["d/b", "d/c.conf"]);
        for other in ["a.conf", "d/a.conf", ".a.conf", "a.text"] {
            assert_eq!(of("*.conf", other), ["a.conf", "b.conf"], "{other}");
        }
    }
}
