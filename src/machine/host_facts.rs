//! Facts about this machine.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

/// The machine's name, as the kernel has it.
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The processor's architecture, as the kernel names it.
pub fn architecture() -> String {
    rustix::system::uname().machine().to_string_lossy().into_owned()
}

/// The variables of /etc/os-release with their names in lower case. Source: os-release(5).
pub fn os_release() -> Result<BTreeMap<String, String>> {
    let text = std::fs::read_to_string("/etc/os-release")
        .or_else(|_| std::fs::read_to_string("/usr/lib/os-release"))
        .context("cannot read `/etc/os-release`")?;
    Ok(variables(&text))
}

fn variables(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let pairs = lines.filter_map(|line| line.split_once('='));
    let pairs = pairs.map(|(name, value)| {
        let words = shell_words::split(value).unwrap_or_default();
        (name.trim().to_lowercase(), words.concat())
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lose_their_shell_quotes() {
        let facts = variables("# c\nID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12\"\nVERSION_ID='12'\n");
        assert_eq!(facts["id"], "debian");
        assert_eq!(facts["pretty_name"], "Debian GNU/Linux 12");
        assert_eq!(facts["version_id"], "12");
    }
}
