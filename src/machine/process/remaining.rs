//! What commands leave behind in mounts of their own: all of it is ended, with what it starts meanwhile.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::child::awaited;
use super::offspring::{is_childless, reap};
use super::table::Process;
use super::{Processes, environment};
use crate::failure::{Failure, FailureKind};
use crate::machine::mount::Mounts;

/// How long to wait for the effect of SIGKILL, and how often to look at first and later on.
const LONGEST: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_millis(1);
const LOOKING: Duration = Duration::from_millis(10);

/// How many processes are named.
const MOST_NAMED: usize = 10;

/// The processes that commands leave behind, found by the mounts that these commands were given.
///
/// This process is the reaper of its descendants: whatever a command left is one of its children or descends from one,
/// also in a session or a process namespace of its own, and becomes a child when what started it has ended.
pub struct Remaining<'a> {
    processes: &'a Processes,
    /// Children that were there before, by number and start.
    before: BTreeSet<(u32, u64)>,
    /// The sessions of what earlier commands left on purpose.
    left: BTreeSet<u32>,
    variable: OsString,
    mounts: Option<Seen>,
}

/// How mounts are recognised in another process.
#[derive(Clone, Copy)]
struct Seen {
    /// The number of their namespace.
    name_space: u64,
    /// The file system of their root, if no other process has it: it is kept by a process that separates its mounts.
    root: Option<u64>,
}

impl Seen {
    fn of(mounts: &Mounts) -> Result<Self> {
        const WHAT: &str = "cannot look at the mounts of a command";
        let name_space = rustix::fs::fstat(&mounts.name_space).context(WHAT)?.st_ino;
        let root = rustix::fs::fstat(&mounts.root).context(WHAT)?.st_dev;
        let own = std::fs::metadata("/").context(WHAT)?.dev();
        Ok(Self { name_space, root: (root != own).then_some(root) })
    }

    fn are_of(self, process: &Process) -> bool {
        let look = |name: &str| std::fs::metadata(format!("/proc/{}/{name}", process.pid));
        look("ns/mnt").is_ok_and(|found| found.ino() == self.name_space)
            || self.root.is_some_and(|root| look("root").is_ok_and(|found| found.dev() == root))
    }
}

impl<'a> Remaining<'a> {
    /// Of commands that are run from now on, with these mounts.
    ///
    /// # Errors
    /// When the mounts cannot be looked at.
    pub fn from_now(processes: &'a Processes, mounts: Option<&Mounts>) -> Result<Self> {
        let children = if is_childless() { Vec::new() } else { Process::children() };
        Ok(Self {
            processes,
            before: children.iter().map(|child| (child.pid, child.start)).collect(),
            left: processes.left().values().copied().collect(),
            variable: environment::run_variable(&processes.run),
            mounts: mounts.map(Seen::of).transpose()?,
        })
    }

    /// Ends them: SIGTERM, and SIGKILL for what is left after `grace`, until none is left. Each is reported once, but no
    /// more than ten. Gives their numbers.
    ///
    /// # Errors
    /// When some cannot be ended.
    pub fn end(&self, grace: Duration, report: &mut dyn FnMut(&Process)) -> Result<BTreeSet<u32>> {
        let begun = Instant::now();
        let own_group = Process::current().map(|own| own.group);
        let mut known = BTreeSet::new();
        let mut pause = SOON;
        loop {
            let is_late = begun.elapsed() >= grace;
            let mut is_any_new = false;
            let mut living = Vec::new();
            let is_settled = self.each_living(|process| {
                let is_new = known.insert((process.pid, process.start));
                is_any_new |= is_new;
                // At once: what forks and exits in a loop is gone an instant later.
                if is_late {
                    signal(&process, own_group, Signal::KILL);
                } else if is_new {
                    signal(&process, own_group, Signal::TERM);
                    // A stopped process cannot obey.
                    signal(&process, own_group, Signal::CONT);
                }
                if is_new && known.len() <= MOST_NAMED {
                    report(&process);
                }
                living.push(process);
            });
            let is_over = begun.elapsed() >= grace + LONGEST;
            if living.is_empty() && (is_settled || is_over) {
                return Ok(known.into_iter().map(|(pid, _)| pid).collect());
            }
            if is_over {
                return Err(undying(&living));
            }
            if living.is_empty() || is_late && is_any_new {
                continue;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LOOKING);
        }
    }

    /// Looks at those that are children by now and have not ended; the others are reaped. Gives whether none has ended
    /// meanwhile: what such a one had started became a child unseen.
    fn each_living(&self, mut act: impl FnMut(Process)) -> bool {
        if is_childless() {
            return true;
        }
        let mut is_settled = true;
        let awaited = awaited();
        for pid in Process::numbers_of_children() {
            if awaited.contains(&pid) {
                continue;
            }
            let Some(child) = Process::by_pid(pid) else {
                is_settled = false;
                continue;
            };
            if self.before.contains(&(child.pid, child.start)) {
                continue;
            }
            if child.has_ended() {
                reap(child.pid);
                self.processes.left().remove(&child.pid);
                is_settled = false;
            } else if self.is_one(&child) {
                act(child);
            } else if Process::living(child.pid, child.start).is_none() {
                // It may have been one.
                is_settled = false;
            }
        }
        is_settled
    }

    fn is_one(&self, process: &Process) -> bool {
        // The children of an earlier command's daemon become ours when it ends.
        self.mounts.is_some_and(|mounts| mounts.are_of(process))
            || !self.left.contains(&process.session)
                && process.was_started_with(self.variable.as_encoded_bytes())
    }
}

/// Signals a child that is not reaped yet, so that its number and that of its group cannot be reused, and all of its
/// group. It is fine if it has already ended.
fn signal(process: &Process, own_group: Option<u32>, signal: Signal) {
    let number = |number: u32| Pid::from_raw(number.cast_signed());
    // In a container entered from outside, the kernel has no number for the own group.
    let group = number(process.group).filter(|_| own_group.is_some_and(|own| own != process.group));
    // Of a group at once: a process that forks cannot escape.
    if group.is_none_or(|group| kill_process_group(group, signal).is_err())
        && let Some(pid) = number(process.pid)
    {
        let _gone = kill_process(pid, signal);
    }
}

fn undying(living: &[Process]) -> anyhow::Error {
    let mut named: Vec<String> = living
        .iter()
        .take(MOST_NAMED)
        .map(|process| format!("`{}` (process {})", process.name, process.pid))
        .collect();
    if living.len() > MOST_NAMED {
        named.push("…".to_owned());
    }
    Failure::new(format!("cannot end what the command left running: {}", named.join(", ")))
        .kind(FailureKind::Busy)
        .hint("let the command end or wait for what it starts, then try again")
        .into()
}
