//! The settings that useradd follows. Source: login.defs(5), useradd(8), and lib/getdef.c of shadow 4.13.

use std::ops::RangeInclusive;
use std::path::PathBuf;

/// The settings of the machine for new accounts.
#[derive(Clone, Debug, Default)]
pub struct LoginDefs {
    /// `/etc/login.defs`.
    pub(super) definitions: String,
    /// `/etc/default/useradd`.
    pub(super) defaults: String,
}

impl LoginDefs {
    /// Reads them; a missing one has the default built into the tools.
    pub fn read() -> Self {
        let text = |path: &str| std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Self {
            definitions: text("/etc/login.defs").unwrap_or_default(),
            defaults: text("/etc/default/useradd").unwrap_or_default(),
        }
    }

    fn value(&self, name: &str) -> Option<&str> {
        // The last one counts.
        self.definitions.lines().rev().find_map(|line| {
            let (key, value) = line.trim().split_once([' ', '\t'])?;
            (key == name).then(|| value.trim_matches([' ', '\t', '"']))
        })
    }

    /// A number: octal when it begins with a zero, hexadecimal with `0x`.
    pub(super) fn number(&self, name: &str) -> Option<i64> {
        let text = self.value(name)?;
        let octal = text.strip_prefix('0').filter(|rest| !rest.is_empty());
        match (text.strip_prefix("0x"), octal) {
            (Some(digits), _) => i64::from_str_radix(digits, 16).ok(),
            (_, Some(digits)) => i64::from_str_radix(digits, 8).ok(),
            _ => text.parse().ok(),
        }
    }

    pub(super) fn unsigned(&self, name: &str, otherwise: u32) -> u32 {
        self.number(name).and_then(|number| number.try_into().ok()).unwrap_or(otherwise)
    }

    /// The range of the numbers of new accounts; `kind` is `UID` or `GID`.
    pub(super) fn range(&self, kind: &str, system: bool) -> RangeInclusive<u32> {
        let min = self.unsigned(&format!("{kind}_MIN"), 1000);
        if !system {
            return min..=self.unsigned(&format!("{kind}_MAX"), 60000);
        }
        // Zero is root's.
        let first = self.unsigned(&format!("SYS_{kind}_MIN"), 101).max(1);
        first..=self.unsigned(&format!("SYS_{kind}_MAX"), min.saturating_sub(1))
    }

    /// A value of `/etc/default/useradd`.
    pub(super) fn of_useradd<'a>(&'a self, name: &str) -> Option<&'a str> {
        let value = |line: &'a str| line.strip_prefix(name)?.strip_prefix('=').map(str::trim);
        self.defaults.lines().rev().find_map(value).filter(|value| !value.is_empty())
    }

    /// The directory that a new home is a copy of.
    pub(super) fn skeleton(&self) -> PathBuf {
        self.of_useradd("SKEL").unwrap_or("/etc/skel").into()
    }

    /// The permission bits of a new home.
    pub(super) fn home_mode(&self) -> u32 {
        let umask = self.unsigned("UMASK", 0o022);
        self.unsigned("HOME_MODE", 0o777 & !umask) & 0o7777
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_matched_whole_and_comments_are_none() {
        let defs = LoginDefs {
            definitions: "#UMASK 077\nUMASKED 1\n UMASK\t\t022\nGID_MIN \"0x10\"\n".to_owned(),
            defaults: "# SKEL=/no\nSKEL=/etc/other\nSHELLS=x\n".to_owned(),
        };
        assert_eq!((defs.number("UMASK"), defs.number("GID_MIN")), (Some(0o22), Some(16)));
        assert_eq!(defs.number("HOME_MODE"), None);
        assert_eq!(defs.home_mode(), 0o755);
        assert_eq!((defs.skeleton(), defs.of_useradd("SHELL")), (PathBuf::from("/etc/other"), None));
        assert_eq!((defs.range("UID", false), defs.range("UID", true)), (1000..=60000, 101..=999));
    }
}
