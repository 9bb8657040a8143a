//! What time it is, in which boot, on which machine.

use std::path::Path;

use anyhow::{Context as _, Result};
use jiff::Timestamp;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const MACHINE_ID: &str = "/etc/machine-id";

/// The present moment by the wall clock.
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// The identifier the kernel drew when it booted: two moments with the same one belong to one boot. Source: random(4),
/// `/proc/sys/kernel/random/boot_id`.
pub fn boot_id() -> Result<String> {
    read_word(Path::new(BOOT_ID))
}

/// The identifier of this installation, or none where there is no such file (a container being built).
/// Source: machine-id(5).
pub fn machine_id() -> Result<Option<String>> {
    match std::fs::symlink_metadata(MACHINE_ID) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        _ => read_word(Path::new(MACHINE_ID)).map(|word| Some(word).filter(|word| !word.is_empty())),
    }
}

fn read_word(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_has_an_identifier_that_stays() {
        let first = boot_id().unwrap();
        assert_eq!(first.len(), 36);
        assert_eq!(first, boot_id().unwrap());
    }

    #[test]
    fn time_does_not_stand_still() {
        let first = now();
        while now() == first {}
        assert!(now() > first);
    }

    #[test]
    fn a_file_without_a_machine_is_an_error_that_names_it() {
        let error = read_word(Path::new("/nonexistent/machine-id")).unwrap_err();
        assert!(error.to_string().contains("`/nonexistent/machine-id`"), "{error}");
    }
}
