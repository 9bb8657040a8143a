//! kkrun is killed at every call.

use super::apart::{Shard, Tally};
use super::ground::Lying;
use super::plans;
use super::recovery::{BOTH, Trial};
use super::sample::Sample;
use super::strace;

/// How many positions of each of the four phases of a scenario a sample has.
const SAMPLED: usize = 4;
/// How many interrupted runs, and rollbacks, are resumed and killed again in a full sweep.
const INTERRUPTED: usize = 3;

/// Before the call is made.
pub(crate) const KILL: &str = "signal=SIGKILL:when=K";

pub(crate) fn sweep(shard: Shard) -> Tally {
    let sample = Sample::reported();
    let (mut tally, mut number) = (Tally::default(), 0);
    for scenario in plans::all() {
        let trial = Trial::new(scenario, Lying::Memory);
        for doing in BOTH {
            let name = format!("{}, {doing:?}", scenario.name);
            let all = trial.positions(trial.start(doing), doing);
            let mut phases = vec![(name.clone(), None, all.clone())];
            for first in sample.spread(&all, if sample.is_full() { INTERRUPTED } else { 1 }, &name) {
                let words = trial.ground.kkrun(doing.words());
                strace::inject(&trial.ground, trial.start(doing), &first, KILL, &[], &words);
                let name = format!("{name} killed at {first}, again");
                let start = trial.ground.snapshot(&format!("killed at {first}"));
                let all = trial.positions(&start, doing);
                phases.push((name, Some(start), all));
            }
            for (name, start, all) in phases {
                let start = start.as_ref().unwrap_or(trial.start(doing));
                for position in sample.of(all, SAMPLED, &name) {
                    number += 1;
                    if shard.has(number) {
                        let what = format!("{name}, killed at {position}");
                        let words = trial.ground.kkrun(doing.words());
                        let ended = strace::inject(&trial.ground, start, &position, KILL, &[], &words);
                        let problems = trial.recovers(doing, &ended, &sample.ways(&what));
                        tally.add(&what, ended.was_disturbed(), problems);
                    }
                }
            }
        }
        println!("kill: {}: {} positions so far, {} bad", scenario.name, tally.positions, tally.bad.len());
    }
    tally
}
