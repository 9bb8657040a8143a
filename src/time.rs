//! Times as people say them.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// How long something has taken so far: without the tenths, which would only flicker.
pub fn whole_seconds(seconds: f64) -> String {
    if seconds < 10.0 { format!("{:.0} s", seconds.floor()) } else { duration(seconds) }
}

/// How long something took, such as `0.3 s`, `38 s`, `3 min 02 s`, `1 h 04 min`.
pub fn duration(seconds: f64) -> String {
    if seconds < 10.0 {
        return format!("{seconds:.1} s");
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "durations are small and positive"
    )]
    let whole = seconds.round().max(0.0) as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// When something was, seen from `now`, such as `today 21:14`, `yesterday 21:14`, `2026-05-01 21:14`.
pub fn when(then: Timestamp, now: Timestamp, zone: &TimeZone) -> String {
    let (then, today) = (then.to_zoned(zone.clone()), now.to_zoned(zone.clone()));
    let clock = then.strftime("%H:%M");
    if then.date() == today.date() {
        return format!("today {clock}");
    }
    if today.date().yesterday().is_ok_and(|yesterday| yesterday == then.date()) {
        return format!("yesterday {clock}");
    }
    format!("{} {clock}", then.date())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_say_them() {
        let said: Vec<String> = [0.26, 38.2, 182.0, 3840.0].map(duration).to_vec();
        assert_eq!(said, ["0.3 s", "38 s", "3 min 02 s", "1 h 04 min"]);
    }

    #[test]
    fn days_are_named_when_they_are_near() {
        let now: Timestamp = "2026-05-02T10:00:00Z".parse().unwrap();
        let said = |then: &str| when(then.parse().unwrap(), now, &TimeZone::UTC);
        assert_eq!(said("2026-05-02T09:05:00Z"), "today 09:05");
        assert_eq!(said("2026-05-01T21:14:00Z"), "yesterday 21:14");
        assert_eq!(said("2026-04-01T21:14:00Z"), "2026-04-01 21:14");
    }
}
