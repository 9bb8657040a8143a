//! What apt says that it does, line by line. Source: apt's README.progress-reporting, `APT::Status-Fd`.

use std::collections::BTreeSet;

use crate::event::Event;

/// Whether a line is such a report.
pub(super) fn is_report(line: &str) -> bool {
    ["dlstatus:", "pmstatus:", "pmerror:", "pmconffile:", "media-change:"]
        .iter()
        .any(|start| line.starts_with(start))
}

/// How far a transaction is.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// How many packages it is about, once apt said so.
    total: Option<usize>,
    /// Those that are done.
    done: BTreeSet<String>,
}

impl Progress {
    /// What a line says of it.
    pub(super) fn event_of(&mut self, line: &str) -> Option<Event> {
        if let Some(total) = announced(line) {
            self.total = Some(total);
            return None;
        }
        let (kind, report) = line.split_once(':')?;
        let text = text_of(report)?;
        match kind {
            "dlstatus" => {
                let (done, total) = files_of(text).unzip();
                Some(Event::Activity { text: "downloading".to_owned(), done, total })
            }
            "pmstatus" => {
                let text = text
                    .rsplit_once(" (")
                    .filter(|(_, end)| end.ends_with(')'))
                    .map_or(text, |(text, _)| text);
                let (verb, package) = text.split_once(' ')?;
                if matches!(verb, "Installed" | "Removed") {
                    self.done.insert(package.to_owned());
                }
                let text = format!("{} {package}", verb.to_lowercase());
                Some(Event::Activity { text, done: self.total.map(|_| self.done.len()), total: self.total })
            }
            _ => None,
        }
    }
}

/// The text of a report `NAME:PERCENT:TEXT`. A name may contain colons.
fn text_of(report: &str) -> Option<&str> {
    let mut rest = report;
    loop {
        let (field, behind) = rest.split_once(':')?;
        if rest.len() < report.len() && field.parse::<f64>().is_ok() {
            return Some(behind);
        }
        rest = behind;
    }
}

/// The numbers in `Retrieving file 3 of 46 (2min 3s remaining)`.
fn files_of(text: &str) -> Option<(usize, usize)> {
    let (before, behind) = text.split_once(" of ")?;
    let number = before.rsplit(' ').next()?.parse().ok()?;
    Some((number, behind.split(' ').next()?.parse().ok()?))
}

/// How many packages are announced in `1 upgraded, 45 newly installed, 0 to remove and 3 not upgraded.`
fn announced(line: &str) -> Option<usize> {
    if !line.contains(" newly installed, ") {
        return None;
    }
    let (counted, _) = line.split_once(" to remove")?;
    let number = |part: &str| part.trim().split(' ').next()?.parse::<usize>().ok();
    counted.split(',').map(number).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(progress: &mut Progress, line: &str) -> Option<(String, Option<usize>, Option<usize>)> {
        match progress.event_of(line)? {
            Event::Activity { text, done, total } => Some((text, done, total)),
            _ => None,
        }
    }

    #[test]
    fn what_apt_reports_is_said_in_words_with_how_much_is_done() {
        let mut progress = Progress::default();
        assert_eq!(
            said(&mut progress, "dlstatus:3:4.6:Retrieving file 3 of 46 (2min 3s remaining)"),
            Some(("downloading".to_owned(), Some(3), Some(46)))
        );
        assert_eq!(
            said(&mut progress, "1 upgraded, 45 newly installed, 0 to remove and 3 not upgraded."),
            None
        );
        assert_eq!(
            said(&mut progress, "pmstatus:chromium:12.5:Unpacking chromium (amd64)"),
            Some(("unpacking chromium".to_owned(), Some(0), Some(46)))
        );
        for line in
            ["pmstatus:libc6:amd64:40.0:Installed libc6 (amd64)", "pmstatus:jq:50:Installed jq (amd64)"]
        {
            said(&mut progress, line);
        }
        assert_eq!(
            said(&mut progress, "pmstatus:chromium:60:Configuring chromium (amd64)"),
            Some(("configuring chromium".to_owned(), Some(2), Some(46)))
        );
        assert_eq!(said(&mut progress, "Setting up jq (1.6-2) ..."), None);
    }
}
