//! The files of debconf, where a debconf that was killed left one without its name.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::fs::{FlockOperation, flock};

/// Where debconf keeps its databases, and those of which it keeps the file from before. Source: `/etc/debconf.conf`.
const DIRECTORY: &str = "/var/cache/debconf";
const KEPT: [&str; 2] = ["config.dat", "templates.dat"];

/// Gives a database its new content that is under another name. debconf renames the old file to `*-old` and then `*-new`
/// to the name; killed in between it leaves no file of that name, and its next start makes an empty one.
pub fn complete_saves() -> Result<()> {
    KEPT.into_iter().try_for_each(|name| complete_save(&Path::new(DIRECTORY).join(name)))
}

fn complete_save(path: &Path) -> Result<()> {
    let beside = |end: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        std::path::PathBuf::from(name)
    };
    let (new, old) = (beside("-new"), beside("-old"));
    if path.exists() || !old.exists() {
        return Ok(());
    }
    let file = match File::open(&new) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot open `{}`", new.display())),
    };
    // A debconf that is at work has it locked.
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() || path.exists() {
        return Ok(());
    }
    // It was synced before the old one lost its name.
    fs::rename(&new, path).with_context(|| format!("cannot rename `{}`", new.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_save_that_was_ended_between_its_two_renames_is_completed() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let path = at("config.dat");
        complete_save(&path).unwrap();
        assert!(!path.exists(), "nothing was there");
        fs::write(at("config.dat-new"), "new").unwrap();
        complete_save(&path).unwrap();
        assert!(!path.exists(), "the old one was not renamed: what is beside it may be half written");
        fs::write(at("config.dat-old"), "old").unwrap();
        let busy = File::open(at("config.dat-new")).unwrap();
        flock(&busy, FlockOperation::LockExclusive).unwrap();
        complete_save(&path).unwrap();
        assert!(!path.exists(), "a debconf is at work");
        drop(busy);
        complete_save(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        fs::write(at("config.dat-new"), "half").unwrap();
        complete_save(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    }
}
