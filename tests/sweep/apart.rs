//! Processes of their own for the sweeps, each in mounts of its own: whatever one mounts goes with it.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

/// The part of the work that a process does, as `INDEX/COUNT`.
const SHARD: &str = "KKRUN_SWEEP_SHARD";
/// The prefix of the lines in which a part reports its figures.
const REPORT: &str = "sweep:";

/// A part of the work.
#[derive(Clone, Copy)]
pub(crate) struct Shard {
    index: usize,
    count: usize,
}

impl Shard {
    /// Whether this part does the piece of this number.
    pub(crate) fn has(self, number: usize) -> bool {
        number % self.count == self.index
    }
}

/// The figures of a sweep.
#[derive(Default)]
pub(crate) struct Tally {
    pub positions: usize,
    /// Positions that were not reached: another thread, or another run, made other calls than the traced one.
    pub missed: usize,
    pub bad: Vec<String>,
}

impl Tally {
    pub(crate) fn add(&mut self, what: &str, disturbed: bool, problems: Vec<String>) {
        self.positions += 1;
        if !disturbed {
            self.missed += 1;
            println!("not reached: {what}");
        }
        for problem in problems {
            println!("bad: {what}: {problem}\n");
            self.bad.push(what.to_owned());
        }
    }
}

/// Into how many processes the work is divided.
#[derive(Clone, Copy)]
pub(crate) enum Divided {
    /// As many as there are processors.
    All,
    /// One: a sync of the whole machine by another would make up for a sync that is dropped here.
    One,
}

/// Does the work in processes of their own, and adds up what they found. They are this program again, with this test
/// alone.
pub(crate) fn in_shards(test: &str, divided: Divided, work: fn(Shard) -> Tally) -> Option<Tally> {
    if let Some(shard) = shard() {
        // Ends the line that the test runner began.
        println!();
        let tally = work(shard);
        println!("{REPORT} {} {} {}", tally.positions, tally.missed, tally.bad.len());
        return None;
    }
    require(&["strace", "unshare", "mkfs.xfs", "mkfs.ext4", "xfs_io", "setfacl"]);
    let count = match divided {
        Divided::All => std::thread::available_parallelism().unwrap().get(),
        Divided::One => 1,
    };
    let start = |index| {
        Command::new("unshare")
            .args(["--mount", "--propagation", "private", "--"])
            .arg(std::env::current_exe().unwrap())
            .args([test, "--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .env(SHARD, format!("{index}/{count}"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let mut shards: Vec<_> = (0..count).map(start).collect();
    let mut tally = Tally::default();
    std::thread::scope(|scope| {
        let readers = shards.iter_mut().map(|shard| {
            let out = BufReader::new(shard.stdout.take().unwrap());
            scope.spawn(move || {
                let mut reported = None;
                for line in out.lines() {
                    let line = line.unwrap();
                    match line.strip_prefix(REPORT) {
                        Some(numbers) => reported = Some(numbers.to_owned()),
                        None => println!("{line}"),
                    }
                }
                reported
            })
        });
        for reader in readers.collect::<Vec<_>>() {
            let reported = reader.join().unwrap().expect("a part of the sweep ended without its figures");
            let numbers: Vec<usize> = reported.split_whitespace().map(|word| word.parse().unwrap()).collect();
            tally.positions += numbers[0];
            tally.missed += numbers[1];
            tally.bad.extend(std::iter::repeat_n(String::new(), numbers[2]));
        }
    });
    for mut shard in shards {
        assert!(shard.wait().unwrap().success(), "a part of the sweep failed");
    }
    println!("{test}: {} positions, {} not reached, {} bad", tally.positions, tally.missed, tally.bad.len());
    Some(tally)
}

fn shard() -> Option<Shard> {
    let text = std::env::var(SHARD).ok()?;
    let (index, count) = text.split_once('/')?;
    Some(Shard { index: index.parse().unwrap(), count: count.parse().unwrap() })
}

fn require(tools: &[&str]) {
    let is_missing = |tool: &&&str| {
        let found = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
        !found.iter().any(|directory| std::path::Path::new(directory).join(tool).exists())
    };
    let missing: Vec<_> = tools.iter().filter(is_missing).collect();
    assert!(
        missing.is_empty(),
        "{missing:?} are missing: apt-get install --no-install-recommends acl e2fsprogs strace util-linux xfsprogs"
    );
    assert!(rustix::process::geteuid().is_root(), "the sweeps need root");
}
