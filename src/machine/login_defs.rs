//! What the tools that make users go by. Source: login.defs(5), useradd(8).

use std::path::{Path, PathBuf};

/// The value of a name in `/etc/login.defs`.
pub fn value(name: &str) -> Option<String> {
    value_in(&std::fs::read_to_string("/etc/login.defs").ok()?, name)
}

/// The same as a number; octal when it begins with a zero.
pub fn number(name: &str) -> Option<u32> {
    let text = value(name)?;
    match text.strip_prefix('0').filter(|rest| !rest.is_empty()) {
        Some(octal) => u32::from_str_radix(octal, 8).ok(),
        None => text.parse().ok(),
    }
}

/// The directory that a new home is a copy of.
pub fn skeleton() -> PathBuf {
    let text = std::fs::read_to_string("/etc/default/useradd").unwrap_or_default();
    let named = text.lines().find_map(|line| line.trim().strip_prefix("SKEL="));
    named.map_or_else(|| Path::new("/etc/skel").to_owned(), |path| path.trim().into())
}

fn value_in(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(name)).then(|| words.next().map(str::to_owned))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_matched_whole_and_comments_are_none() {
        let text = "#UMASK 077\nUMASKED 1\n UMASK\t\t022\n";
        assert_eq!(value_in(text, "UMASK").as_deref(), Some("022"));
        assert_eq!(value_in(text, "HOME_MODE"), None);
    }
}
