//! What apt does now, in words, by its status descriptor.

use std::collections::BTreeSet;

use crate::machine::process::Stream;

/// What apt wrote so far.
///
/// It writes lines such as `pmstatus:chromium:25.5:Unpacking chromium (amd64)` and
/// `dlstatus:3:10.2:Retrieving file 3 of 46`. Source: `doc/progress-reporting.md` of apt.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// How many packages it installs, upgrades and removes, as it says on standard output before it begins.
    total: usize,
    /// What it has begun to do, and to which package.
    begun: BTreeSet<(String, String)>,
    /// What was said last.
    said: String,
}

impl Progress {
    /// What it does now, if this line says so.
    pub(super) fn after(&mut self, stream: Stream, line: &str) -> Option<String> {
        match stream {
            Stream::Out => {
                self.total = total_of(line).unwrap_or(self.total);
                None
            }
            Stream::Progress => {
                let words = self.words(line).filter(|words| *words != self.said)?;
                self.said.clone_from(&words);
                Some(words)
            }
            _ => None,
        }
    }

    fn words(&mut self, line: &str) -> Option<String> {
        let mut fields = line.splitn(4, ':');
        let (kind, name, percent, said) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        if kind == "dlstatus" {
            let percent: f64 = percent.parse().ok()?;
            let what = said.strip_prefix("Retrieving ").unwrap_or(said);
            return Some(format!("fetching {what} ({percent:.0} %)"));
        }
        let verb = said.split(' ').next()?.to_lowercase();
        // What it calls installing comes behind the unpacking of each package.
        let is_action = matches!(&*verb, "unpacking" | "configuring" | "removing");
        if kind != "pmstatus" || !is_action {
            return None;
        }
        self.begun.insert((verb.clone(), name.to_owned()));
        let (at, total) = (self.begun.iter().filter(|(what, _)| *what == verb).count(), self.total);
        Some(if at <= total { format!("{verb} {name} ({at}/{total})") } else { format!("{verb} {name}") })
    }
}

/// How many packages are installed, upgraded and removed by a line such as
/// `0 upgraded, 46 newly installed, 1 downgraded, 0 to remove and 3 not upgraded.`
fn total_of(line: &str) -> Option<usize> {
    let (counted, _) = line.strip_suffix(" not upgraded.")?.rsplit_once(" and ")?;
    let counts = counted.split(", ").map(|part| part.split(' ').next()?.parse::<usize>().ok());
    counts.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_apt_does_is_said_in_words_with_how_many_packages_there_are() {
        let mut progress = Progress::default();
        let mut words = |line: &str| progress.after(Stream::Progress, line);
        assert_eq!(
            words("dlstatus:3:10.25:Retrieving file 3 of 46").as_deref(),
            Some("fetching file 3 of 46 (10 %)")
        );
        assert_eq!(words("pmstatus:jq:0.0:Unpacking jq (amd64)").as_deref(), Some("unpacking jq"));
        let counted = "1 upgraded, 2 newly installed, 0 to remove and 3 not upgraded.";
        assert_eq!(progress.after(Stream::Out, counted), None);
        let said = [
            "pmstatus:dpkg-exec:0.0:Running dpkg",
            "pmstatus:libjq1:0.0:Preparing libjq1 (amd64)",
            "pmstatus:libjq1:9.0:Unpacking libjq1 (amd64)",
            "pmstatus:libjq1:9.0:Installing libjq1 (amd64)",
            "pmstatus:jq:18.0:Unpacking jq (amd64)",
            "pmstatus:jq:18.0:Unpacking jq (amd64)",
            "pmstatus:libjq1:27.3:Configuring libjq1 (amd64)",
            "pmstatus:libjq1:36.4:Installed libjq1 (amd64)",
            "no status",
        ]
        .map(|line| progress.after(Stream::Progress, line));
        let said: Vec<String> = said.into_iter().flatten().collect();
        assert_eq!(said, ["unpacking libjq1 (2/3)", "unpacking jq (2/3)", "configuring libjq1 (1/3)"]);
    }
}
