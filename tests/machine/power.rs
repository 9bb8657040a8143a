//! A machine that loses power in the middle of a run, and boots again.

use std::collections::BTreeSet;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use kkrun::machine::clone::cgroup;
use kkrun::machine::signal::Signals;
use kkrun::rehearse::{Progress, Rehearsal, rehearse};

use super::disk::Disk;
use super::{BASE, clone, passes};

/// How long until the run in the clone begins, and until it ends.
const PATIENCE: Duration = Duration::from_secs(120);
/// Where rehearsals are on record.
const RECORDS: &str = "/run/kkrun/rehearsals";
/// What a machine with its own life runs before the plan.
const LIVING: [&str; 2] = ["nginx.service", "postgresql.service"];

/// What is left of a machine that lost power.
pub(crate) struct Survivor {
    base: PathBuf,
    words: String,
    _disk: Disk,
}

impl Survivor {
    /// Boots it and runs the plan again, with all that this makes in a directory.
    pub(crate) fn boots_again(&self, directory: &Path) {
        passes(&self.words, self.base.clone(), directory);
    }
}

/// Takes the power away at an instant of the run, on a disk of this kind.
pub(crate) fn lose(directory: &Path, kind: &str, at: Duration) -> Survivor {
    let disk = Disk::new(directory, kind);
    let rehearsal = Rehearsal {
        durable: true,
        keep: false,
        ..clone::of_script("machine cut_off", clone::base(BASE), disk.path().join("clones"))
    };
    let booted = Mutex::new(None);
    let (name, complete) = thread::scope(|scope| {
        let run = scope.spawn(|| {
            rehearse(&rehearsal, &Signals::deaf().unwrap(), &mut |progress| {
                if let Progress::Booted { name, leader, .. } = progress {
                    *booted.lock().unwrap() = Some((name, leader));
                }
            })
        });
        let (name, leader) = awaited(|| booted.lock().unwrap().clone(), || run.is_finished());
        let watched = PathBuf::from(format!("/proc/{leader}/root/run/kkrun-test"));
        awaited(|| watched.join("began").exists().then_some(()), || run.is_finished());
        sleep(at);
        // Whatever was reported by now was true by now.
        let said = std::fs::read_to_string(watched.join("said")).unwrap();
        let ended = watched.join("ended").exists();
        disk.lose_power();
        cgroup::kill(leader);
        // How it ends is of no interest: it has no disk any more.
        let _ = run.join().unwrap();
        let last = said.lines().last().unwrap_or_default().trim().to_owned();
        println!("{kind}: power lost{} at: {last}", if ended { " after its end" } else { "" });
        (name, complete(&said))
    });

    disk.power_up();
    // Moved aside, so that what is removed is no more than the rest of the clone.
    let upper = disk.path().join("upper");
    std::fs::rename(disk.path().join("clones").join(&name).join("upper-0"), &upper).unwrap();
    let _ = std::fs::remove_file(Path::new(RECORDS).join(&name));
    let base = disk.show(&upper, &clone::base(BASE)).to_owned();

    let services = enabled_in(&upper).into_iter().chain(LIVING.map(str::to_owned)).collect::<Vec<_>>();
    let lingering = names(&upper.join("var/lib/systemd/linger"));
    let lists = [services, lingering, complete].map(|list| format!("'{}'", list.join(",")));
    let words = format!("machine booted_again {}", lists.join(" "));
    println!("{words}");
    Survivor { base, words, _disk: disk }
}

/// Waits for something to be there while something else is not over.
fn awaited<T>(mut look: impl FnMut() -> Option<T>, is_over: impl Fn() -> bool) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(!is_over(), "the rehearsal ended early");
        assert!(begin.elapsed() < PATIENCE, "the run does not get there");
        sleep(Duration::from_millis(5));
    }
}

/// The numbers of the steps that a run said to be complete.
fn complete(said: &str) -> Vec<String> {
    let numbers = said.lines().filter_map(|line| line.trim().strip_prefix("✅ ")?.split_whitespace().next());
    numbers.map(str::to_owned).collect()
}

/// The units that were enabled on the machine that wrote here, and start with it.
fn enabled_in(upper: &Path) -> BTreeSet<String> {
    names(&upper.join("etc/systemd/system/multi-user.target.wants")).into_iter().collect()
}

/// What is in a directory of an overlay's upper side; a character device there stands for what was removed.
fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let there = entries.filter(|entry| !entry.file_type().unwrap().is_char_device());
    there.map(|entry| entry.file_name().into_string().unwrap()).collect()
}
