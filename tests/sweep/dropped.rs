//! Each kind of promise has its sync: where that one alone does nothing, a loss of power is seen.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::apart::{Shard, Tally};
use super::ground::{Ground, Lying};
use super::kill::KILL;
use super::plans::{self, CAPTURED, COMMANDS, FILES, HALF_DONE, Scenario};
use super::recovery::{BOTH, Doing, Trial};
use super::strace::{self, Position, Traced};

/// The journal and the tree are apart: a sync of the one cannot make up for one of the other.
const APART: [Lying; 2] = [Lying::Apart("ext4"), Lying::Apart("xfs")];
/// They are not: what a captured command left is moved.
const TOGETHER: [Lying; 2] = [Lying::Together("ext4"), Lying::Together("xfs")];

/// How often a dropped sync may go unseen.
const ATTEMPTS: usize = 5;

/// A promise, and the call that keeps it.
struct Promise {
    name: &'static str,
    grounds: [Lying; 2],
    scenario: &'static Scenario,
    doing: Doing,
    /// Which call that is.
    its: fn(&[Traced], &Ground) -> Option<usize>,
    /// kkrun is killed at the next call of this name, which is another one (strace disturbs each in one way); otherwise it
    /// ends.
    killed_at: Option<&'static str>,
    /// Then something else syncs the names in this directory.
    synced_by_others: Option<&'static str>,
}

const PROMISES: [Promise; 11] = [
    Promise {
        name: "the content of a file that was written",
        grounds: APART,
        scenario: &FILES,
        doing: Doing::Run,
        its: |calls, ground| calls.iter().position(|call| is_file_sync(call, &ground.tree)),
        killed_at: None,
        synced_by_others: None,
    },
    Promise {
        name: "the name of a file that was written",
        grounds: APART,
        scenario: &FILES,
        doing: Doing::Run,
        its: |calls, ground| {
            let is_it = |path: &PathBuf| path.starts_with(&ground.tree) && path.is_dir();
            calls.iter().rposition(|call| call.call == "fsync" && call.paths().iter().any(is_it))
        },
        killed_at: None,
        synced_by_others: None,
    },
    Promise {
        name: "what a file was before",
        grounds: APART,
        scenario: &FILES,
        doing: Doing::Run,
        its: |calls, ground| calls.iter().position(|call| is_file_sync(call, &ground.state.join("backups"))),
        killed_at: None,
        synced_by_others: None,
    },
    Promise {
        name: "that a change was begun",
        grounds: APART,
        scenario: &HALF_DONE,
        doing: Doing::Run,
        its: |calls, _| {
            let act = calls.iter().rposition(|call| call.call == "renameat2")?;
            calls[..act].iter().rposition(|call| call.call == "fdatasync")
        },
        killed_at: Some("sync"),
        synced_by_others: None,
    },
    Promise {
        name: "that a command was begun",
        grounds: APART,
        scenario: &HALF_DONE,
        doing: Doing::Run,
        its: |calls, _| {
            let command = calls.iter().position(|call| call.program != calls[0].program)?;
            calls[..command].iter().rposition(|call| call.call == "fdatasync")
        },
        killed_at: Some("unlinkat"),
        synced_by_others: None,
    },
    Promise {
        name: "what the commands of a step wrote",
        grounds: APART,
        scenario: &COMMANDS,
        doing: Doing::Run,
        its: |calls, _| calls.iter().rposition(|call| call.call == "sync"),
        killed_at: None,
        synced_by_others: None,
    },
    Promise {
        name: "that a step is complete",
        grounds: APART,
        scenario: &FILES,
        doing: Doing::Run,
        its: |calls, _| calls.iter().rposition(|call| call.call == "fdatasync"),
        killed_at: None,
        synced_by_others: None,
    },
    Promise {
        name: "the content of a file that was restored",
        grounds: APART,
        scenario: &FILES,
        doing: Doing::RollBack,
        its: |calls, ground| calls.iter().rposition(|call| is_file_sync(call, &ground.tree)),
        killed_at: None,
        synced_by_others: None,
    },
    Promise {
        name: "the contents of many files",
        grounds: APART,
        scenario: &CAPTURED,
        doing: Doing::Run,
        its: |calls, _| sync_before_the_last_of_many(calls),
        killed_at: Some("linkat"),
        synced_by_others: Some("03/many"),
    },
    Promise {
        name: "the names of many files",
        grounds: APART,
        scenario: &CAPTURED,
        doing: Doing::Run,
        its: |calls, _| calls.iter().rposition(is_sync_of_many),
        killed_at: None,
        synced_by_others: None,
    },
    Promise {
        name: "the contents of many files that are moved",
        grounds: TOGETHER,
        scenario: &CAPTURED,
        doing: Doing::Run,
        its: |calls, _| sync_before_the_last_of_many(calls),
        killed_at: Some("linkat"),
        synced_by_others: Some("03/many"),
    },
];

/// That of contents: the last one is of names.
fn sync_before_the_last_of_many(calls: &[Traced]) -> Option<usize> {
    let names = calls.iter().rposition(is_sync_of_many)?;
    calls[..names].iter().rposition(is_sync_of_many)
}

fn is_sync_of_many(call: &Traced) -> bool {
    call.call == "syncfs"
}

fn is_file_sync(call: &Traced, below: &Path) -> bool {
    call.call == "fsync" && call.paths().iter().any(|path| path.starts_with(below) && !path.is_dir())
}

pub(crate) fn sweep(shard: Shard) -> Tally {
    let (mut tally, mut number) = (Tally::default(), 0);
    for promise in &PROMISES {
        for lying in promise.grounds {
            number += 1;
            let is_asked_for = plans::all().any(|scenario| scenario.name == promise.scenario.name);
            if !shard.has(number) || !is_asked_for {
                continue;
            }
            let mut trial = Trial::new(promise.scenario, lying);
            for is_dropped in [false, true] {
                let mut seen = without(&mut trial, promise, is_dropped);
                // Whatever else syncs everything meanwhile makes up for what is dropped.
                for _ in 1..ATTEMPTS {
                    if is_dropped && seen.is_empty() {
                        seen = without(&mut trial, promise, is_dropped);
                    }
                }
                let what = format!(
                    "{} on {lying:?}, {}",
                    promise.name,
                    if is_dropped { "not synced" } else { "synced" }
                );
                println!("{what}: {}", seen.first().map_or("nothing is wrong", |seen| seen));
                let wrong = seen.is_empty() == is_dropped;
                tally.add(&what, true, wrong.then(|| format!("seen: {seen:?}")).into_iter().collect());
            }
        }
    }
    tally
}

/// What is seen after a loss of power.
fn without(trial: &mut Trial, promise: &Promise, is_dropped: bool) -> Vec<String> {
    let calls = trial.calls(trial.start(promise.doing), promise.doing);
    let at = (promise.its)(&calls, &trial.ground).expect("the promise is kept");
    let mut injections = Vec::new();
    if is_dropped {
        injections.push((position(&calls, at), "retval=0:when=K"));
    }
    if let Some(call) = promise.killed_at {
        let next = (at + 1..calls.len()).find(|at| calls[*at].call == call).expect("it goes on");
        injections.push((position(&calls, next), KILL));
    }
    trial.ground.restore(trial.start(promise.doing));
    let words = trial.ground.kkrun(promise.doing.words());
    let ended = strace::inject_each(&trial.ground, &injections, &words);
    assert!(injections.is_empty() || ended.was_disturbed(), "{}: {}", promise.name, ended.shown());
    if let Some(directory) = promise.synced_by_others {
        File::open(trial.ground.tree.join(directory)).and_then(|opened| opened.sync_all()).unwrap();
    }
    trial.ground.lose_power();
    trial.recovers(promise.doing, &ended, &BOTH)
}

/// As strace counts: the calls of one name of one thread.
fn position(calls: &[Traced], at: usize) -> Position {
    let is_same = |call: &&Traced| call.call == calls[at].call && call.thread == calls[at].thread;
    Position { call: calls[at].call.clone(), number: calls[..=at].iter().filter(is_same).count() }
}
