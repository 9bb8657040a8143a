//! What the processes of a silent command wait for, as far as the kernel shows it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::libc;

use super::table::Process;

/// How many processes are reported: a build may have hundreds.
const MOST: usize = 3;

/// A sentence for each process that descends from the process `command`, or is in its session, and has no such child
/// itself: the others wait for these.
pub(super) fn said(command: u32) -> Vec<String> {
    let all = Process::all();
    let mut members = vec![command];
    // A child may have a smaller number than its parent.
    loop {
        let known = members.len();
        for process in &all {
            let is_member = process.session == command || members.contains(&process.parent);
            if is_member && !members.contains(&process.pid) {
                members.push(process.pid);
            }
        }
        if members.len() == known {
            break;
        }
    }
    let is_waited_for = |process: &Process| {
        all.iter()
            .any(|other| other.parent == process.pid && members.contains(&other.pid) && !other.has_ended())
    };
    all.iter()
        .filter(|process| members.contains(&process.pid) && !process.has_ended() && !is_waited_for(process))
        .take(MOST)
        .map(|process| format!("{} (process {}) {}", process.name, process.pid, state_of(process)))
        .collect()
}

/// What a process does, as the end of a sentence.
fn state_of(process: &Process) -> String {
    let proc = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", process.pid)).unwrap_or_default();
    if let Some(lock) = lock_awaited_by(process.pid, &fs::read_to_string("/proc/locks").unwrap_or_default()) {
        return lock;
    }
    match process.state {
        'R' => return "is computing".to_owned(),
        'T' | 't' => return "is stopped".to_owned(),
        _ => {}
    }
    let call = Call::parse(&proc("syscall"));
    if let Some(said) = call.and_then(|call| call.said(process.pid)) {
        return said;
    }
    if process.state == 'D' {
        return "waits for a disk or a file system".to_owned();
    }
    match proc("wchan").as_str() {
        "" | "0" => "waits".to_owned(),
        place => format!("waits in `{}` of the kernel", crate::text::printable(place)),
    }
}

/// The system call that a process is in. Source: `proc_pid_syscall(5)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Call {
    number: i64,
    first: u64,
}

impl Call {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let number = words.next()?.parse().ok()?;
        let first = u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
        Some(Self { number, first })
    }

    fn said(self, pid: u32) -> Option<String> {
        let is = |calls: &[libc::c_long]| calls.contains(&self.number);
        if is(&[libc::SYS_read, libc::SYS_readv, libc::SYS_recvfrom, libc::SYS_recvmsg]) {
            return Some(self.reading(pid));
        }
        if is(&[libc::SYS_write, libc::SYS_writev, libc::SYS_sendto, libc::SYS_sendmsg]) {
            return Some(format!("waits until what it writes to {} is read", self.file(pid)));
        }
        if is(&[libc::SYS_connect, libc::SYS_accept, libc::SYS_accept4]) {
            return Some("waits for a connection".to_owned());
        }
        if is(&[libc::SYS_flock]) {
            return Some(format!("waits for the lock of {}", self.file(pid)));
        }
        if is(&[libc::SYS_nanosleep, libc::SYS_clock_nanosleep]) {
            return Some("sleeps".to_owned());
        }
        if is(&[libc::SYS_futex]) {
            return Some("waits for another of its threads".to_owned());
        }
        if is(&[libc::SYS_wait4, libc::SYS_waitid]) {
            return Some("waits for another process".to_owned());
        }
        let is_event =
            is(&[libc::SYS_ppoll, libc::SYS_pselect6, libc::SYS_epoll_pwait]) || is_old_poll(self.number);
        is_event.then(|| "waits for an event".to_owned())
    }

    fn reading(self, pid: u32) -> String {
        let file = self.file(pid);
        let at_terminal =
            ["`/dev/tty", "`/dev/pts/", "`/dev/console"].iter().any(|start| file.starts_with(start));
        if at_terminal {
            format!("waits for input from the terminal {file}")
        } else if file.starts_with("`socket:") {
            "waits for an answer from the network".to_owned()
        } else if file.starts_with("`pipe:") {
            "waits for input from a pipe".to_owned()
        } else {
            format!("waits to read {file}")
        }
    }

    fn file(self, pid: u32) -> String {
        match fs::read_link(format!("/proc/{pid}/fd/{}", self.first)) {
            Ok(path) => format!("`{}`", crate::text::printable(&path.to_string_lossy())),
            Err(_) => "a file".to_owned(),
        }
    }
}

/// The calls that only older machines have.
#[cfg(target_arch = "x86_64")]
fn is_old_poll(number: i64) -> bool {
    [libc::SYS_poll, libc::SYS_select, libc::SYS_epoll_wait].contains(&number)
}

#[cfg(not(target_arch = "x86_64"))]
fn is_old_poll(_number: i64) -> bool {
    false
}

/// The lock that a process waits for, with who holds it. Source: `proc_locks(5)`.
fn lock_awaited_by(pid: u32, locks: &str) -> Option<String> {
    let lines: Vec<Vec<&str>> = locks.lines().map(|line| line.split_ascii_whitespace().collect()).collect();
    let waiter = lines.iter().find(|words| words.get(1) == Some(&"->") && is_number(words.get(5), pid))?;
    let (number, place) = (waiter.first()?, waiter.get(6)?);
    let holder = lines.iter().find(|words| words.first() == Some(number) && words.get(1) != Some(&"->"));
    let file = file_at(pid, place).map_or_else(|| "a file".to_owned(), |path| format!("`{path}`"));
    let holder = holder.and_then(|words| words.get(4)?.parse().ok()).and_then(Process::by_pid);
    Some(match holder {
        Some(holder) => {
            format!("waits for the lock of {file}, which {} (process {}) holds", holder.name, holder.pid)
        }
        None => format!("waits for the lock of {file}, which another process holds"),
    })
}

fn is_number(word: Option<&&str>, number: u32) -> bool {
    word.is_some_and(|word| word.parse() == Ok(number))
}

/// The path of the file `MAJOR:MINOR:INODE`, if the process has it open.
fn file_at(pid: u32, place: &str) -> Option<String> {
    let inode: u64 = place.rsplit(':').next()?.parse().ok()?;
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let is_it = |path: &Path| fs::metadata(path).is_ok_and(|metadata| metadata.ino() == inode);
    let found = entries.flatten().map(|entry| entry.path()).find(|path| is_it(path))?;
    let path = fs::read_link(found).ok()?;
    Some(crate::text::printable(&path.to_string_lossy()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_on_the_line_of_the_same_number() {
        let own = std::process::id();
        let locks = format!(
            "1: POSIX  ADVISORY  WRITE 77 08:01:1 0 EOF\n2: FLOCK  ADVISORY  WRITE {own} 08:01:2 0 EOF\n\
             2: -> FLOCK  ADVISORY  WRITE 88 08:01:2 0 EOF\n"
        );
        let said = lock_awaited_by(88, &locks).unwrap();
        assert!(
            said.starts_with("waits for the lock of a file, which ") && said.contains(&own.to_string()),
            "{said}"
        );
        assert_eq!(lock_awaited_by(77, &locks), None);
        assert_eq!(lock_awaited_by(88, ""), None);
    }

    #[test]
    fn a_system_call_is_a_number_and_what_it_is_given() {
        assert_eq!(Call::parse("0 0x3 0x7ffd 0x1 0x0"), Some(Call { number: 0, first: 3 }));
        assert_eq!(Call::parse("running"), None);
        assert_eq!(Call::parse(""), None);
    }
}
