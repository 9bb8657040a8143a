//! How long a password and an account last.

use std::fmt;

/// What shadow(5) says of a user besides the password. Without limits it is empty, however that is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ageing {
    is_expired: bool,
    /// In days, as the others.
    shortest: Option<u32>,
    longest: Option<u32>,
    warning: Option<u32>,
    inactive: Option<u32>,
    /// The days since 1970.
    end: Option<u32>,
}

impl Ageing {
    /// That of a line of the database.
    pub(super) fn of(fields: &[&str]) -> Self {
        // Source: chage(1), which calls this `never`.
        const NEVER: u32 = 10_000;
        let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u32>().ok());
        let longest = number(4).filter(|days| *days < NEVER);
        Self {
            is_expired: number(2) == Some(0),
            shortest: number(3).filter(|days| *days > 0),
            longest,
            warning: number(5).filter(|_| longest.is_some()),
            inactive: number(6),
            end: number(7),
        }
    }

    /// What a new user gets. Source: login.defs(5).
    pub(super) fn of_new(definitions: &str) -> Self {
        let defined = |name: &str| {
            let mut lines = definitions.lines().map(str::split_whitespace);
            lines.find_map(|mut words| (words.next() == Some(name)).then(|| words.next()).flatten())
        };
        let [shortest, longest, warning] =
            ["PASS_MIN_DAYS", "PASS_MAX_DAYS", "PASS_WARN_AGE"].map(|name| defined(name).unwrap_or_default());
        Self::of(&["", "", "", shortest, longest, warning])
    }
}

impl fmt::Display for Ageing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let expired = self.is_expired.then(|| "the password has to be changed at the next login".to_owned());
        let shortest = self.shortest.map(|days| format!("the password lasts at least {days} days"));
        let longest = self.longest.map(|days| format!("the password lasts {days} days"));
        let warning = self.warning.map(|days| format!("a warning comes {days} days before"));
        let inactive = self.inactive.map(|days| format!("it can be used {days} days longer"));
        let end = self.end.map(|day| {
            let date = jiff::Timestamp::from_second(i64::from(day) * 86_400).unwrap_or_default().to_string();
            format!("the account ends on {}", date.split('T').next().unwrap_or_default())
        });
        let parts: Vec<String> =
            [expired, shortest, longest, warning, inactive, end].into_iter().flatten().collect();
        formatter.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Ageing {
        Ageing::of(&line.split(':').collect::<Vec<_>>())
    }

    #[test]
    fn no_limits_are_the_same_however_they_are_written() {
        let none = Ageing::default();
        for line in ["kim:!:20000:0:99999:7:::", "kim:!:20000::::::", "kim:!*:"] {
            assert_eq!(of(line), none, "{line}");
        }
        assert_eq!(Ageing::of_new("#PASS_MAX_DAYS 1\nPASS_MAX_DAYS\t99999\nPASS_WARN_AGE\t7\n"), none);
        assert_eq!(Ageing::of_new("PASS_MAX_DAYS 90\nPASS_WARN_AGE 7\n"), of("kim:!:1:0:90:7:::"));
    }

    #[test]
    fn limits_are_named() {
        assert_eq!(
            of("ann:!:20000:0:90:7::21915:").to_string(),
            "the password lasts 90 days, a warning comes 7 days before, the account ends on 2030-01-01"
        );
        assert_eq!(
            of("ben:!:0:0:99999:7:::").to_string(),
            "the password has to be changed at the next login"
        );
    }
}
