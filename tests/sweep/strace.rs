//! Tracing kkrun, and making one of its system calls fail, or its last.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::ground::{Ground, Snapshot};

/// How long anything may take: apt tries again and again when its calls fail.
const PATIENCE: Duration = Duration::from_secs(180);

/// The calls that change what a file system or a server holds, or make it last. Some have no number on some machines.
const CHANGING: &[&str] = &[
    "write",
    "pwrite64",
    "writev",
    "pwritev",
    "copy_file_range",
    "sendfile",
    "ftruncate",
    "truncate",
    "fallocate",
    "fsync",
    "fdatasync",
    "sync",
    "syncfs",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "unlink",
    "unlinkat",
    "symlink",
    "symlinkat",
    "mkdir",
    "mkdirat",
    "rmdir",
    "chmod",
    "fchmod",
    "fchmodat",
    "fchmodat2",
    "chown",
    "fchown",
    "lchown",
    "fchownat",
    "setxattr",
    "lsetxattr",
    "fsetxattr",
    "removexattr",
    "lremovexattr",
    "fremovexattr",
    "utimensat",
    "flock",
    "sendto",
];
/// The calls that may make a file.
const OPENING: &[&str] = &["open", "openat", "openat2", "creat"];

/// The K-th call of a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub call: String,
    pub number: usize,
}

impl std::fmt::Display for Position {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} {}", self.call, self.number)
    }
}

/// One call that was made.
#[derive(Clone, Debug)]
pub(crate) struct Traced {
    pub thread: u32,
    /// The name of the thread's program.
    pub program: String,
    pub call: String,
    /// The whole line.
    pub line: String,
}

/// How a command ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ended {
    /// The exit status, or the number of the signal below zero; none when it had to be ended.
    pub status: Option<i32>,
    pub stderr: String,
    pub calls: Vec<Traced>,
}

impl Ended {
    pub(crate) fn shown(&self) -> String {
        let tail: Vec<&str> = self.stderr.lines().rev().take(14).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        format!("status {:?}\n      {}", self.status, tail.join("\n      "))
    }

    /// The steps that it said are complete.
    pub(crate) fn claimed_steps(&self) -> Vec<String> {
        let claim =
            |line: &str| Some(line.trim_start().strip_prefix('✅')?.split_whitespace().next()?.to_owned());
        self.stderr.lines().filter_map(claim).collect()
    }

    /// Whether the call at the position was reached: it was the last, or failed.
    pub(crate) fn was_disturbed(&self) -> bool {
        let is_last = |call: &Traced| call.line.ends_with("= ?");
        self.calls.iter().any(is_last) || self.injected().next().is_some()
    }

    /// The calls that were tampered with.
    pub(crate) fn injected(&self) -> impl Iterator<Item = &Traced> {
        self.calls.iter().filter(|call| call.line.ends_with("(INJECTED)"))
    }
}

impl Traced {
    /// The paths that it is about, as far as its line tells.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        let mut directory = PathBuf::new();
        let arguments = self.line.split_once('(').map_or("", |(_, rest)| rest);
        let arguments = arguments.rsplit_once(" = ").map_or(arguments, |(before, _)| before);
        let mut rest = arguments;
        while let Some(at) = rest.find(['<', '"']) {
            let quoted = rest.as_bytes()[at] == b'"';
            let end = if quoted { '"' } else { '>' };
            let Some(length) = rest[at + 1..].find(end) else { break };
            let text = &rest[at + 1..at + 1 + length];
            rest = &rest[at + length + 2..];
            if !quoted {
                directory = PathBuf::from(text);
                paths.push(directory.clone());
            } else if text.starts_with('/') {
                paths.push(PathBuf::from(text));
            } else if self.call.ends_with("at") || self.call.ends_with("at2") {
                paths.push(directory.join(text));
            }
        }
        paths
    }
}

/// Runs a command to its end.
pub(crate) fn run(ground: &Ground, words: &[String]) -> Ended {
    let out = [ground.base().join("stdout"), ground.base().join("stderr")];
    let mut command = ground.command(words);
    command.stdout(File::create(&out[0]).unwrap()).stderr(File::create(&out[1]).unwrap()).process_group(0);
    let mut child = command.spawn().unwrap();
    let (deadline, mut pause) = (Instant::now() + PATIENCE, Duration::from_micros(500));
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status.code().unwrap_or_else(|| -status.signal().unwrap()));
        }
        if Instant::now() > deadline {
            let group = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
            child.wait().unwrap();
            break None;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(4));
    };
    let text = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
    Ended { status, stderr: text(&out[1]), calls: Vec::new() }
}

fn traced(ground: &Ground, options: &[String], words: &[String]) -> Ended {
    let log = ground.base().join("strace");
    let mut given: Vec<String> =
        ["strace", "-f", "-qq", "-y", "-Y", "-s", "300", "-o"].map(str::to_owned).into();
    given.push(log.display().to_string());
    given.extend_from_slice(options);
    given.push("--".to_owned());
    given.extend_from_slice(words);
    let mut ended = run(ground, &given);
    let text = fs::read_to_string(&log).unwrap_or_default();
    ended.calls = text.lines().filter_map(parse).collect();
    ended
}

/// `123<name> call(…) = 0`
fn parse(line: &str) -> Option<Traced> {
    let (thread, rest) = line.split_once('<')?;
    let (program, rest) = rest.split_once('>')?;
    let (call, _) = rest.split_once('(')?;
    let call = call.trim();
    let is_name = !call.is_empty() && call.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_name.then_some(())?;
    Some(Traced {
        thread: thread.trim().parse().ok()?,
        program: program.to_owned(),
        call: call.to_owned(),
        line: line.to_owned(),
    })
}

fn names(calls: &[&str]) -> String {
    calls.iter().map(|call| format!("?{call}")).collect::<Vec<_>>().join(",")
}

/// Runs a command and notes its changing calls.
pub(crate) fn trace(ground: &Ground, words: &[String]) -> Ended {
    let calls = [CHANGING, OPENING].concat();
    traced(ground, &["-e".to_owned(), format!("trace={}", names(&calls))], words)
}

/// The positions of a trace. strace counts the calls of each thread, and the first to come to K is the one: so
/// there are as many as the thread has that makes the most.
pub(crate) fn positions(calls: &[Traced]) -> Vec<Position> {
    let mut counts: BTreeMap<(&str, u32), usize> = BTreeMap::new();
    let mut found: Vec<Position> = Vec::new();
    for call in calls {
        let count = counts.entry((&call.call, call.thread)).or_default();
        *count += 1;
        let makes_nothing = OPENING.contains(&call.call.as_str()) && !call.line.contains("O_CREAT");
        let position = Position { call: call.call.clone(), number: *count };
        if !makes_nothing && !found.contains(&position) {
            found.push(position);
        }
    }
    found
}

/// How often a position is tried before the one before it is. Threads share the calls between them as they are
/// scheduled, and a wait makes more of them or fewer: the K-th of one of them may not be made in the next run.
const ATTEMPTS: usize = 3;
/// How many positions before one may stand for it.
const NEARBY: usize = 10;

/// Runs a command from this state until it reaches the position, and does `what` (as strace takes it, with K for the
/// number and L for a thousand further) with the calls there, among those that are about these paths; among all if none
/// is named.
pub(crate) fn inject(
    ground: &Ground,
    start: &Snapshot,
    position: &Position,
    what: &str,
    about: &[PathBuf],
    words: &[String],
) -> Ended {
    let mut ended = Ended::default();
    let nearby = (1..=position.number).rev().take(NEARBY);
    // Where another way is taken, such as that of a cache that is there by now, far fewer calls are made.
    let halves = std::iter::successors(Some(position.number / 2), |number| Some(number / 2));
    let further = halves.take_while(|number| *number > 0);
    for number in nearby.chain(further).flat_map(|number| [number; ATTEMPTS]) {
        let call = &position.call;
        let (from, to) = (number.to_string(), (number + 1000).to_string());
        let inject = what.replace("when=K", &format!("when={from}")).replace("..L", &format!("..{to}"));
        let mut options = only_about(about);
        options.extend([
            "-e".to_owned(),
            format!("trace={call}"),
            "-e".to_owned(),
            format!("inject={call}:{inject}"),
        ]);
        ground.restore(start);
        ended = traced(ground, &options, words);
        if ended.was_disturbed() {
            break;
        }
    }
    ended
}

/// Runs a command, and does something of the kind with the call at each of these positions, which have different names.
pub(crate) fn inject_each(ground: &Ground, injections: &[(Position, &str)], words: &[String]) -> Ended {
    let all = [CHANGING, OPENING].concat();
    let mut options = vec!["-e".to_owned(), format!("trace={}", names(&all))];
    for (Position { call, number }, what) in injections {
        let what = what.replace("when=K", &format!("when={number}"));
        options.extend(["-e".to_owned(), format!("inject={call}:{what}")]);
    }
    traced(ground, &options, words)
}

fn only_about(paths: &[PathBuf]) -> Vec<String> {
    paths.iter().flat_map(|path| ["-P".to_owned(), path.display().to_string()]).collect()
}

/// Runs a command whose syncs do nothing, as far as they are about these paths; all of them if none is named.
pub(crate) fn fake_syncs(ground: &Ground, calls: &[&str], paths: &[PathBuf], words: &[String]) -> Ended {
    let mut options = only_about(paths);
    let calls = calls.join(",");
    options.extend([
        "-e".to_owned(),
        format!("trace={calls}"),
        "-e".to_owned(),
        format!("inject={calls}:retval=0"),
    ]);
    traced(ground, &options, words)
}
