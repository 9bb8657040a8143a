//! The machine loses power at every call: kkrun is killed there, and what has not reached the disk is lost.

use std::path::{Path, PathBuf};

use super::apart::{Shard, Tally};
use super::ground::Lying;
use super::kill::KILL;
use super::plans;
use super::recovery::{BOTH, Doing, Trial};
use super::sample::Sample;
use super::strace::{self, Ended};

/// How many positions of the run and of the rollback of a scenario a sample has on its ground.
const SAMPLED: usize = 3;

const GROUNDS: [Lying; 4] =
    [Lying::Together("ext4"), Lying::Apart("xfs"), Lying::Together("xfs"), Lying::Apart("ext4")];

pub(crate) fn sweep(shard: Shard) -> Tally {
    let sample = Sample::reported();
    let (mut tally, mut number) = (Tally::default(), 0);
    for (at, scenario) in plans::all().enumerate() {
        let one = [GROUNDS[at % GROUNDS.len()]];
        for lying in if sample.is_full() { &GROUNDS[..] } else { &one } {
            let mut trial = Trial::new(scenario, *lying);
            for doing in BOTH {
                let name = format!("{} on {lying:?}, {doing:?}", scenario.name);
                let all = trial.positions(trial.start(doing), doing);
                for position in sample.of(all, SAMPLED, &name) {
                    number += 1;
                    if !shard.has(number) {
                        continue;
                    }
                    let words = trial.ground.kkrun(doing.words());
                    let what = format!("{name}, power lost at {position}");
                    let start = trial.start(doing);
                    let ended = strace::inject(&trial.ground, start, &position, KILL, &[], &words);
                    let problems = lose_power(&mut trial, doing, &ended, &sample.ways(&what));
                    tally.add(&what, ended.was_disturbed(), problems);

                    // What a killed run left unsynced is promised by the one that goes on.
                    let what = format!("{name}, killed at {position}, power lost at the end of the next");
                    let start = trial.start(doing);
                    let killed = strace::inject(&trial.ground, start, &position, KILL, &[], &words);
                    let disturbed = killed.was_disturbed();
                    let mut ended = strace::run(&trial.ground, &words);
                    ended.stderr.insert_str(0, &killed.stderr);
                    let one = [sample.one(&BOTH, &what)];
                    let problems = lose_power(&mut trial, doing, &ended, &one);
                    tally.add(&what, disturbed, problems);
                }
            }
            println!(
                "power: {} on {lying:?}: {} positions so far, {} bad",
                scenario.name,
                tally.positions,
                tally.bad.len()
            );
        }
    }
    tally
}

fn lose_power(trial: &mut Trial, doing: Doing, ended: &Ended, ways: &[Doing]) -> Vec<String> {
    trial.ground.lose_power();
    trial.recovers(doing, ended, ways)
}

/// What of the syncs is only pretended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Faked {
    None,
    Files,
    Directories,
    All,
}

/// The sweep sees what it is there to see: with syncs that do nothing it fails, at the end of a run already.
pub(crate) fn see_mutations(shard: Shard) -> Tally {
    let (mut tally, mut number) = (Tally::default(), 0);
    for lying in GROUNDS {
        number += 1;
        if !shard.has(number) {
            continue;
        }
        let mut trial = Trial::new(&plans::FILES, lying);
        let (directories, files) = synced(&trial);
        for faked in [Faked::None, Faked::Files, Faked::Directories, Faked::All] {
            // On one file system the sync of the journal's next record takes the directories along.
            if faked == Faked::Directories && matches!(lying, Lying::Together(_)) {
                continue;
            }
            let (calls, paths): (&[&str], &[PathBuf]) = match faked {
                Faked::None => (&["fsync"], &[PathBuf::from("/nowhere")]),
                Faked::Files => (&["fsync"], &files),
                Faked::Directories => (&["fsync"], &directories),
                Faked::All => (&["fsync", "fdatasync", "syncfs"], &[]),
            };
            trial.ground.restore(&trial.pristine);
            let ended =
                strace::fake_syncs(&trial.ground, calls, paths, &trial.ground.kkrun(Doing::Run.words()));
            assert_eq!(ended.status, Some(0), "{}", ended.shown());
            assert_eq!(ended.injected().next().is_some(), faked != Faked::None, "{faked:?} on {lying:?}");
            let seen = lose_power(&mut trial, Doing::Run, &ended, &BOTH);
            println!(
                "mutation: {lying:?}, {faked:?} faked: {}",
                seen.first().map_or("nothing is wrong", |seen| seen)
            );
            let wrong = seen.is_empty() != (faked == Faked::None);
            tally.add(
                &format!("{lying:?}, {faked:?} faked"),
                true,
                wrong.then(|| format!("seen: {seen:?}")).into_iter().collect(),
            );
        }
    }
    tally
}

/// The directories and the files of the tree and the state that a run syncs.
fn synced(trial: &Trial) -> (Vec<PathBuf>, Vec<PathBuf>) {
    trial.ground.restore(&trial.pristine);
    let traced = strace::trace(&trial.ground, &trial.ground.kkrun(Doing::Run.words()));
    let mut paths: Vec<PathBuf> =
        traced.calls.iter().filter(|call| call.call == "fsync").flat_map(strace::Traced::paths).collect();
    paths.sort();
    paths.dedup();
    // A file was synced under the name of its preparation, which is gone.
    paths.into_iter().partition(|path| Path::is_dir(path))
}
