//! The kernel's table of processes, as /proc shows it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// One process at the moment of looking. Source: `proc_pid_stat(5)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number, which is used again after its end.
    pub pid: u32,
    /// The name of its program, cut to 15 bytes by the kernel.
    pub name: String,
    /// One letter: `Z` has ended and was not waited for.
    pub state: char,
    /// Its parent.
    pub parent: u32,
    /// Its process group.
    pub group: u32,
    /// Its session.
    pub session: u32,
    /// When it started, in clock ticks since the boot: together with the number this is one process for good.
    pub start: u64,
}

impl Process {
    /// The process of that number; `None` when there is none.
    pub fn by_pid(pid: u32) -> Option<Self> {
        // One call reads it whole: the line is short, and made anew by the first read of a file.
        let mut line = [0; 1024];
        let length =
            File::open(format!("/proc/{pid}/stat")).and_then(|mut file| file.read(&mut line)).ok()?;
        Self::parse(&line[..length])
    }

    /// The process of that number, if it is the one that started then and has not ended.
    pub fn living(pid: u32, start: u64) -> Option<Self> {
        Self::by_pid(pid).filter(|process| process.start == start && !process.has_ended())
    }

    /// This process.
    pub fn current() -> Option<Self> {
        Self::by_pid(std::process::id())
    }

    /// All of them, those that end meanwhile left out.
    pub fn all() -> Vec<Self> {
        numbers(Path::new("/proc")).into_iter().filter_map(Self::by_pid).collect()
    }

    /// The children of this process, those included that were given to it as the reaper of its descendants.
    pub fn children() -> Vec<Self> {
        let mut children = BTreeSet::new();
        for thread in numbers(Path::new("/proc/self/task")) {
            let Ok(text) = fs::read_to_string(format!("/proc/self/task/{thread}/children")) else {
                // A kernel without this file: look at everybody.
                let own = std::process::id();
                return Self::all().into_iter().filter(|process| process.parent == own).collect();
            };
            children.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        children.into_iter().filter_map(Self::by_pid).collect()
    }

    /// Whether it has ended and only its exit status is left.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    /// Whether it was started with exactly this `NAME=value` in its environment; what may not be read has not.
    pub fn was_started_with(&self, variable: &[u8]) -> bool {
        fs::read(format!("/proc/{}/environ", self.pid))
            .is_ok_and(|environment| environment.split(|byte| *byte == 0).any(|entry| entry == variable))
    }

    /// The control group it is in, within the unified hierarchy; `None` where there is none.
    pub fn control_group(&self) -> Option<String> {
        let text = fs::read_to_string(format!("/proc/{}/cgroup", self.pid)).ok()?;
        text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
    }

    /// Whether one of its descriptors is one of these files, as the links in /proc name them (`pipe:[4711]`).
    pub(super) fn holds_any(&self, links: &[String]) -> bool {
        let Ok(entries) = fs::read_dir(format!("/proc/{}/fd", self.pid)) else { return false };
        entries.flatten().any(|entry| {
            fs::read_link(entry.path())
                .is_ok_and(|target| links.iter().any(|link| link.as_bytes() == target.as_os_str().as_bytes()))
        })
    }

    fn parse(stat: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(stat);
        // The name may hold anything, blanks and parentheses too: it ends at the last one.
        let (pid, rest) = text.split_once(" (")?;
        let (name, rest) = rest.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u32>().ok();
        Some(Self {
            pid: pid.parse().ok()?,
            name: crate::text::printable(name).into_owned(),
            state: fields.first()?.chars().next()?,
            parent: number(1)?,
            group: number(2)?,
            session: number(3)?,
            start: fields.get(19)?.parse().ok()?,
        })
    }
}

fn numbers(directory: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let process =
            Process::parse(b"12 (a) S 1 (b) R 7 8 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2 3")
                .unwrap();
        assert_eq!(process.name, "a) S 1 (b");
        assert_eq!((process.pid, process.state), (12, 'R'));
        assert_eq!((process.parent, process.group, process.session, process.start), (7, 8, 9, 98765));
    }

    #[test]
    fn this_process_is_in_the_table() {
        let current = Process::current().unwrap();
        assert!(Process::all().contains(&current) || Process::living(current.pid, current.start).is_some());
        assert!(Process::living(current.pid, current.start + 1).is_none());
        assert!(!current.was_started_with(b"PATH"));
    }
}
