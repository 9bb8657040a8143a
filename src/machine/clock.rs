//! What time it is, in which boot, on which machine.

use std::path::Path;
use std::sync::OnceLock;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use jiff::tz::TimeZone;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const LOCAL_TIME: &str = "/etc/localtime";
/// The largest file of the database is below 8 KiB.
const LARGEST_ZONE: u64 = 64 * 1024;
const ZONES: &str = "/usr/share/zoneinfo";
const MACHINE_ID: &str = "/etc/machine-id";

/// The present moment by the wall clock.
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// The time zone in which times are shown: that of `TZ`, else of `/etc/localtime`, else UTC. One file is read, once; a
/// time library that looks the zone up by its name lists the whole database first. Source: tzset(3).
pub fn zone() -> TimeZone {
    static READ: OnceLock<TimeZone> = OnceLock::new();
    READ.get_or_init(read_zone).clone()
}

fn read_zone() -> TimeZone {
    let named = std::env::var("TZ").ok();
    let zone = match named.as_deref().map(|name| name.strip_prefix(':').unwrap_or(name)) {
        None => zone_in(Path::new(LOCAL_TIME)),
        Some("") => None,
        Some(name) => zone_in(&Path::new(ZONES).join(name)).or_else(|| TimeZone::posix(name).ok()),
    };
    zone.unwrap_or(TimeZone::UTC)
}

/// The zone of a file in the format of tzfile(5).
fn zone_in(path: &Path) -> Option<TimeZone> {
    let metadata = std::fs::metadata(path).ok()?;
    let is_zone = metadata.is_file() && metadata.len() <= LARGEST_ZONE;
    TimeZone::tzif(&path.to_string_lossy(), &is_zone.then(|| std::fs::read(path).ok())??).ok()
}

/// The identifier the kernel drew when it booted: two moments with the same one belong to one boot. Source: random(4),
/// `/proc/sys/kernel/random/boot_id`.
pub fn boot_id() -> Result<String> {
    static READ: OnceLock<String> = OnceLock::new();
    if let Some(id) = READ.get() {
        return Ok(id.clone());
    }
    let id = read_word(Path::new(BOOT_ID))?;
    Ok(READ.get_or_init(|| id).clone())
}

/// The identifier of this installation, or none where there is no such file (a container being built).
/// Source: machine-id(5).
pub fn machine_id() -> Result<Option<String>> {
    match std::fs::symlink_metadata(MACHINE_ID) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        _ => read_word(Path::new(MACHINE_ID)).map(|word| {
            // systemd writes `uninitialized` until the first boot is complete.
            Some(word).filter(|word| !word.is_empty() && word != "uninitialized")
        }),
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
    fn a_zone_is_read_from_its_file_and_none_from_a_file_of_another_form() {
        let noon: Timestamp = "2026-07-01T12:00:00Z".parse().unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        // Twice one type of time without transitions, then the rule for all times: RFC 8536.
        let header = [&b"TZif2"[..], &[0; 15], &[0; 16], &[0, 0, 0, 1, 0, 0, 0, 4]].concat();
        let block = [&header[..], &[0, 0, 0x0e, 0x10, 0, 0], b"CET\0"].concat();
        let text = [&block[..], &block, b"\nCET-1CEST,M3.5.0,M10.5.0/3\n"].concat();
        std::fs::write(file.path(), text).unwrap();
        let zone = zone_in(file.path()).unwrap();
        assert_eq!(noon.to_zoned(zone).strftime("%H:%M").to_string(), "14:00");
        assert!(zone_in(Path::new("/nonexistent")).is_none());
        assert!(zone_in(Path::new("/etc/passwd")).is_none() && zone_in(Path::new("/dev/zero")).is_none());
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
