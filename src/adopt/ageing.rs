//! How long a password and an account last.

use std::fmt::{self, Write as _};

use super::literal;

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

    /// The call that brings those of a user from these limits to the desired ones; `None` if one goes, or if it cannot be undone.
    /// When the password of a new user changed last is of no account.
    pub(super) fn towards(&self, desired: &Self, user: &str, is_new: bool) -> Option<String> {
        if self.is_expired && !desired.is_expired || !self.is_expired && desired.is_expired && !is_new {
            return None;
        }
        // The options of chage(1), and what it takes for none.
        let limits = [
            ("--mindays", self.shortest, desired.shortest, "0"),
            ("--maxdays", self.longest, desired.longest, "99999"),
            ("--warndays", self.warning, desired.warning, "7"),
            ("--inactive", self.inactive, desired.inactive, "-1"),
            ("--expiredate", self.end, desired.end, "-1"),
        ];
        let (mut words, mut undo) = (vec!["chage".to_owned()], vec!["chage".to_owned()]);
        let mut line = format!("^{user}:[^:]*:{}", if desired.is_expired { "0" } else { "[^:]*" });
        if desired.is_expired && !self.is_expired {
            words.extend(["--lastday", "0"].map(str::to_owned));
            undo.extend(["--lastday", "-1"].map(str::to_owned));
        }
        for (option, before, after, none) in limits {
            let is_none = before.is_none() && after.is_some_and(|day| day.to_string() == none);
            if before == after || is_none {
                line.push_str(":[^:]*");
                continue;
            }
            let day = after?;
            let _ = write!(line, ":{day}");
            let shown = if option == "--expiredate" { date(day) } else { day.to_string() };
            words.extend([option.to_owned(), shown]);
            undo.extend([option.to_owned(), before.map_or_else(|| none.to_owned(), |day| day.to_string())]);
        }
        line.push(':');
        for command in [&mut words, &mut undo] {
            command.push(user.to_owned());
        }
        Some(format!(
            "cmd::run({}, #{{ unless: {}, undo: [{}] }});",
            literal::array(words),
            literal::array(["grep", "--quiet", &line, "/etc/shadow"]),
            literal::array(undo)
        ))
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
        let end = self.end.map(|day| format!("the account ends on {}", date(day)));
        let parts: Vec<String> =
            [expired, shortest, longest, warning, inactive, end].into_iter().flatten().collect();
        formatter.write_str(&parts.join(", "))
    }
}

/// A day as chage(1) reads it.
fn date(day: u32) -> String {
    let date = jiff::Timestamp::from_second(i64::from(day) * 86_400).unwrap_or_default().to_string();
    date.split('T').next().unwrap_or_default().to_owned()
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

    #[test]
    fn limits_are_a_call_that_can_be_undone() {
        let (none, limited) = (Ageing::default(), of("ann:!:20000:0:180:14::21915:"));
        for is_new in [true, false] {
            assert_eq!(
                none.towards(&limited, "ann", is_new).unwrap(),
                "cmd::run([\"chage\", \"--maxdays\", \"180\", \"--warndays\", \"14\", \"--expiredate\", \"2030-01-01\", \"ann\"], \
                 #{ unless: [\"grep\", \"--quiet\", \"^ann:[^:]*:[^:]*:[^:]*:180:14:[^:]*:21915:\", \"/etc/shadow\"], \
                 undo: [[\"chage\", \"--maxdays\", \"99999\", \"--warndays\", \"7\", \"--expiredate\", \"-1\", \"ann\"]] });"
            );
        }
        assert_eq!(limited.towards(&none, "ann", false), None);
        let expired = of("ann:!:0:0:99999:7:::");
        assert!(none.towards(&expired, "ann", true).unwrap().contains("\"--lastday\", \"0\", \"ann\""));
        assert_eq!(none.towards(&expired, "ann", false), None);
    }
}
