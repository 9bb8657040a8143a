//! Finds the holders of the locks of apt and dpkg.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::process::{Flock, FlockType, fcntl_getlk};

use super::process::Process;

/// The files that apt and dpkg lock. Source: apt-pkg and dpkg, and what was observed.
const FILES: [&str; 4] = [
    "/var/lib/dpkg/lock-frontend",
    "/var/lib/dpkg/lock",
    "/var/lib/apt/lists/lock",
    "/var/cache/apt/archives/lock",
];

/// The holder of one of them, as messages show it: "packagekitd (process 812)".
pub fn holder() -> Result<Option<String>> {
    for path in FILES {
        if let Some(holder) = holder_of(Path::new(path))? {
            return Ok(Some(format!("{holder} holds `{path}`")));
        }
    }
    Ok(None)
}

fn holder_of(path: &Path) -> Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot open `{}`", path.display())),
    };
    let lock = fcntl_getlk(&file, &Flock::from(FlockType::WriteLock))
        .with_context(|| format!("cannot query the lock of `{}`", path.display()))?;
    let Some(lock) = lock.filter(|lock| lock.typ != FlockType::Unlocked) else { return Ok(None) };
    // A holder in another process namespace has no number here.
    let process = lock.pid.and_then(|pid| Process::by_pid(pid.as_raw_nonzero().get().cast_unsigned()));
    Ok(Some(process.map_or_else(
        || "another process".to_owned(),
        |process| format!("{} (process {})", process.name, process.pid),
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_locked_or_missing_has_no_holder() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        assert_eq!(holder_of(&path).unwrap(), None);
        std::fs::write(&path, "").unwrap();
        assert_eq!(holder_of(&path).unwrap(), None);
    }
}
