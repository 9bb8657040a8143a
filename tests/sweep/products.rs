//! kkrun is killed at every call, and the operator puts something into what its commands make, or makes it by hand,
//! before anything else is done: it is there in the end, or set aside.

use std::fs;
use std::path::Path;

use super::apart::{Shard, Tally};
use super::ground::{Ground, Lying};
use super::kill::KILL;
use super::plans::{PRODUCTS, write};
use super::recovery::{BOTH, Doing, Trial};
use super::sample::Sample;
use super::strace::{self, run};

/// How many positions of the run and of the rollback a sample has.
const SAMPLED: usize = 12;
/// Where the operator is.
const PLACES: [&str; 3] = ["01/made", "01/there", "02/built"];
/// A rollback without agreement to any loss.
const ROLL_BACK: &[&str] = &["rollback", "--yes"];

pub(crate) fn sweep(shard: Shard) -> Tally {
    let sample = Sample::reported();
    let (mut tally, mut number) = (Tally::default(), 0);
    let trial = Trial::new(&PRODUCTS, Lying::Memory);
    for doing in BOTH {
        let name = format!("{}, {doing:?}", PRODUCTS.name);
        for position in sample.of(trial.positions(trial.start(doing), doing), SAMPLED, &name) {
            number += 1;
            if !shard.has(number) {
                continue;
            }
            let what = format!("{name}, killed at {position}, and then the operator");
            let (start, words) = (trial.start(doing), trial.ground.kkrun(doing.words()));
            let ended = strace::inject(&trial.ground, start, &position, KILL, &[], &words);
            let here = trial.ground.snapshot("killed");
            let mut problems = Vec::new();
            for way in sample.ways(&what) {
                trial.ground.restore(&here);
                for place in PLACES {
                    write(&trial.ground.tree, &format!("{place}/theirs"), &theirs(place));
                }
                let other = if way == Doing::Run { Doing::RollBack } else { Doing::Run };
                for doing in [way, other] {
                    problems.extend(
                        goes_on(&trial.ground, doing).map(|problem| format!("then {doing:?}: {problem}")),
                    );
                }
            }
            tally.add(&what, ended.was_disturbed(), problems);
        }
    }
    tally
}

fn theirs(place: &str) -> String {
    format!("the operator's, in {place}\n")
}

fn goes_on(ground: &Ground, doing: Doing) -> impl Iterator<Item = String> {
    let words = if doing == Doing::Run { doing.words() } else { ROLL_BACK };
    let mut ended = run(ground, &ground.kkrun(words));
    if ended.stderr.contains("a rollback was interrupted") {
        ended = run(ground, &ground.kkrun(ROLL_BACK));
    }
    // What is in the place of a product may be the operator's: it is asked for, and no one answers.
    let failed = (!matches!(ended.status, Some(0 | 78))).then(|| ended.shown());
    let lost = PLACES.into_iter().filter(|place| {
        let is_there = |below: &Path| holds(below, &theirs(place));
        !is_there(&ground.tree) && !is_there(&ground.state.join("aside"))
    });
    failed.into_iter().chain(lost.map(|place| format!("what was in {place} is lost")))
}

/// Whether a file below a directory has this text.
fn holds(directory: &Path, text: &str) -> bool {
    let Ok(entries) = fs::read_dir(directory) else { return false };
    entries.flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            holds(&path, text)
        } else {
            fs::read_to_string(path).is_ok_and(|found| found == text)
        }
    })
}
