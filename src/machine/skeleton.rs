//! What a new home begins with: a copy of `/etc/skel`, or of what stands for it. Source: useradd(8).

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::login_defs;

/// How a home compares to the skeleton.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Copied {
    /// It is the skeleton.
    Whole,
    /// It holds nothing else, but not all of it.
    InPart,
    /// It holds something else.
    Otherwise,
}

/// Whether a home is a copy for its owner that was broken off: it holds nothing but what the skeleton holds, and not all
/// of that, or not all of it given away. Where there is none it is not.
pub fn is_torn_copy(home: &Path, owner: u32) -> Result<bool> {
    Ok(home.is_dir() && compare(&login_defs::skeleton(), home, owner)? == Copied::InPart)
}

/// Whether a home holds what no skeleton brought.
pub fn is_used(home: &Path, owner: u32) -> Result<bool> {
    Ok(home.is_dir() && compare(&login_defs::skeleton(), home, owner)? == Copied::Otherwise)
}

fn compare(skeleton: &Path, home: &Path, owner: u32) -> Result<Copied> {
    let (desired, found) = (names(skeleton)?, names(home)?);
    if found.iter().any(|name| !desired.contains(name)) {
        return Ok(Copied::Otherwise);
    }
    let mut copied = if found.len() < desired.len() { Copied::InPart } else { Copied::Whole };
    for name in found {
        copied = copied.max(compare_entry(&skeleton.join(&name), &home.join(&name), owner)?);
    }
    Ok(copied)
}

fn compare_entry(skeleton: &Path, home: &Path, owner: u32) -> Result<Copied> {
    let look = |path: &Path| path.symlink_metadata().with_context(|| cannot_look(path));
    let metadata = look(home)?;
    let (desired, found) = (look(skeleton)?.file_type(), metadata.file_type());
    let given = if metadata.uid() == owner { Copied::Whole } else { Copied::InPart };
    let same = |same: bool| if same { given } else { Copied::Otherwise };
    if desired != found {
        Ok(Copied::Otherwise)
    } else if desired.is_dir() {
        Ok(given.max(compare(skeleton, home, owner)?))
    } else if desired.is_symlink() {
        let target = |path: &Path| std::fs::read_link(path).with_context(|| cannot_look(path));
        Ok(same(target(skeleton)? == target(home)?))
    } else if desired.is_file() {
        let bytes = |path: &Path| std::fs::read(path).with_context(|| cannot_look(path));
        let (desired, found) = (bytes(skeleton)?, bytes(home)?);
        let is_begun = found.len() < desired.len() && desired.starts_with(&found);
        Ok(if is_begun { Copied::InPart } else { same(desired == found) })
    } else {
        Ok(given)
    }
}

fn names(directory: &Path) -> Result<Vec<OsString>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| cannot_look(directory)),
    };
    entries.map(|entry| Ok(entry.with_context(|| cannot_look(directory))?.file_name())).collect()
}

fn cannot_look(path: &Path) -> String {
    format!("cannot look at `{}`", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_told_from_one_broken_off_and_from_a_home_that_somebody_uses() {
        let directory = tempfile::tempdir().unwrap();
        let (skeleton, home) = (directory.path().join("skel"), directory.path().join("home"));
        std::fs::create_dir_all(skeleton.join("bin")).unwrap();
        std::fs::write(skeleton.join(".profile"), "a profile\n").unwrap();
        std::fs::create_dir(&home).unwrap();
        let me = directory.path().metadata().unwrap().uid();
        let seen = || compare(&skeleton, &home, me).unwrap();
        assert_eq!(seen(), Copied::InPart);
        std::fs::create_dir(home.join("bin")).unwrap();
        std::fs::write(home.join(".profile"), "").unwrap();
        assert_eq!(seen(), Copied::InPart);
        std::fs::write(home.join(".profile"), "a profile\n").unwrap();
        assert_eq!(seen(), Copied::Whole);
        assert_eq!(compare(&skeleton, &home, me + 1).unwrap(), Copied::InPart);
        std::fs::write(home.join("bin/own"), "").unwrap();
        assert_eq!(seen(), Copied::Otherwise);
        std::fs::remove_file(home.join("bin/own")).unwrap();
        std::fs::write(home.join(".profile"), "another\n").unwrap();
        assert_eq!(seen(), Copied::Otherwise);
    }

    #[test]
    fn where_there_is_no_home_none_is_torn() {
        assert!(!is_torn_copy(Path::new("/nowhere/home"), 0).unwrap());
    }
}
