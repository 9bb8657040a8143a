//! What a machine is like, line by line, and in what two of them may differ.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// How many of the things that one exception lets off are printed.
const SHOWN: usize = 3;

/// Something that may be otherwise, and why that is no loss.
#[derive(Clone, Copy)]
pub(crate) struct Exception {
    /// What it is, as a regular expression for the whole of it.
    pub what: &'static str,
    /// Why it may; printed after "as".
    pub reason: &'static str,
}

/// What each thing is like; a file has two lines, for what it is and for what it holds.
pub(crate) struct Picture(BTreeMap<String, BTreeSet<String>>);

impl Picture {
    /// As `tests/kiosk/machine.sh` writes it.
    pub(crate) fn read(path: &Path) -> Self {
        let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut things: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for line in String::from_utf8_lossy(&text).lines() {
            let (what, how) = line.split_once('\t').unwrap_or_else(|| panic!("a line without a tab: {line}"));
            things.entry(what.to_owned()).or_default().insert(how.to_owned());
        }
        // One that saw nothing would equal any other.
        for what in ["/etc/passwd", "user root", "unit nginx.service", "database postgres", "role postgres"] {
            assert!(things.contains_key(what), "{} does not show {what}", path.display());
        }
        Self(things)
    }

    /// What is otherwise in this one than in `wanted` and not excepted. What is excepted is printed.
    pub(crate) fn unlike(&self, wanted: &Self, exceptions: &[Exception]) -> Vec<String> {
        let (mut unexpected, mut excepted) = (Vec::new(), BTreeMap::<&str, Vec<&str>>::new());
        let all: BTreeSet<&String> = self.0.keys().chain(wanted.0.keys()).collect();
        for what in all {
            let [is, was] = [self, wanted].map(|picture| picture.0.get(what));
            if is == was {
                continue;
            }
            let exception = exceptions.iter().find(|exception| {
                let whole = regex::Regex::new(&format!("^(?:{})$", exception.what)).unwrap();
                whole.is_match(what)
            });
            match exception {
                Some(exception) => excepted.entry(exception.reason).or_default().push(what),
                None => unexpected.push(format!("{what}: wanted {}, found {}", shown(was), shown(is))),
            }
        }
        for (reason, things) in excepted {
            let more = if things.len() > SHOWN { ", …" } else { "" };
            let shown = things.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
            println!("  {} may differ, as {reason}: {shown}{more}", things.len());
        }
        unexpected
    }
}

fn shown(how: Option<&BTreeSet<String>>) -> String {
    how.map_or("nothing".to_owned(), |how| how.iter().cloned().collect::<Vec<_>>().join(", "))
}
