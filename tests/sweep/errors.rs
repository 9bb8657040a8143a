//! Every call fails, once or from then on.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::apart::{Shard, Tally};
use super::ground::Lying;
use super::plans;
use super::recovery::{BOTH, Doing, Trial};
use super::sample::Sample;
use super::strace::{self, Ended, Traced};

/// How many positions of the run and of the rollback of a scenario a sample has.
const SAMPLED: usize = 6;

/// A call that the kernel interrupts a thousand times: a caller that repeats it succeeds.
const FAULTS: [&str; 8] = [
    "error=EIO:when=K",
    "error=ENOSPC:when=K",
    "error=EROFS:when=K",
    "error=EINTR:when=K",
    "error=EIO:when=K+",
    "error=ENOSPC:when=K+",
    "error=EROFS:when=K+",
    "error=EINTR:when=K..L",
];

/// The calls that write to whatever is open.
const WRITING: [&str; 3] = ["write", "writev", "sendfile"];

/// The exit statuses of a run and of a rollback that met an error: failed, or undone in part.
const STATUSES: [i32; 3] = [0, 1, 4];

pub(crate) fn sweep(shard: Shard) -> Tally {
    let sample = Sample::reported();
    let (mut tally, mut number) = (Tally::default(), 0);
    for scenario in plans::all() {
        let trial = Trial::new(scenario, Lying::Memory);
        for doing in BOTH {
            let name = format!("{}, {doing:?}", scenario.name);
            let mut calls = trial.calls(trial.start(doing), doing);
            calls.retain(|call| can_fail(call, scenario.talks));
            for position in sample.of(strace::positions(&calls), SAMPLED, &name) {
                let about = if scenario.talks && WRITING.contains(&&*position.call) {
                    files(&calls, &position.call)
                } else {
                    Vec::new()
                };
                let one = [sample.one(&FAULTS, &format!("{name}/{position}"))];
                for fault in if sample.is_full() { &FAULTS[..] } else { &one } {
                    // Only times cannot be written: entries, which have none, are undone, and files are not.
                    if position.call == "utimensat" && !fault.ends_with('K') {
                        continue;
                    }
                    number += 1;
                    if shard.has(number) {
                        let what = format!("{name}, {position} with {fault}");
                        let (start, words) = (trial.start(doing), trial.ground.kkrun(doing.words()));
                        let ended = strace::inject(&trial.ground, start, &position, fault, &about, &words);
                        let problems = wrong(&trial, doing, &ended, &sample.ways(&what));
                        tally.add(&what, ended.was_disturbed(), problems);
                    }
                }
            }
        }
        println!("errors: {}: {} positions so far, {} bad", scenario.name, tally.positions, tally.bad.len());
    }
    tally
}

/// Whether the call can fail on a machine where something is wrong with a file system. Pipes and sockets do not: a
/// program that talks with others waits for ever for the end of one that is not broken at all.
fn can_fail(call: &Traced, talks: bool) -> bool {
    match call.call.as_str() {
        // Source: sync(2).
        "sync" | "sendto" => false,
        name if talks && WRITING.contains(&name) => file(call).is_some(),
        _ => true,
    }
}

/// The file that a call writes to, if it has the same name each time.
fn file(call: &Traced) -> Option<PathBuf> {
    let is_no_file = |path: &Path| !path.is_absolute() || path.starts_with("/dev");
    let is_chance = |path: &Path| {
        let own = ["state/logs", "state/running"]
            .iter()
            .any(|own| path.parent().is_some_and(|at| at.ends_with(own)));
        own || ["/var/cache/apt", "/var/lib/apt"].iter().any(|apt| path.starts_with(apt))
    };
    call.paths().into_iter().next().filter(|path| !is_no_file(path) && !is_chance(path))
}

/// The files that the calls of a name write to.
fn files(calls: &[Traced], name: &str) -> Vec<PathBuf> {
    let files: BTreeSet<PathBuf> = calls.iter().filter(|call| call.call == name).filter_map(file).collect();
    files.into_iter().collect()
}

fn wrong(trial: &Trial, doing: Doing, ended: &Ended, ways: &[Doing]) -> Vec<String> {
    let mut problems = Vec::new();
    if ended.stderr.contains("error while loading shared libraries") {
        return trial.recovers(doing, ended, ways);
    }
    if !ended.status.is_some_and(|status| STATUSES.contains(&status)) {
        problems.push(format!("an unexpected end: {}", ended.shown()));
    }
    problems.extend(unnamed(trial, ended));
    problems.extend(trial.recovers(doing, ended, ways));
    problems
}

/// The failed call of kkrun whose file its error does not name.
fn unnamed(trial: &Trial, ended: &Ended) -> Option<String> {
    let base = trial.ground.base();
    let is_own = |call: &&Traced| call.program.starts_with("kkrun") || call.program.starts_with("as user");
    // A command that failed reports the reason itself. A message that cannot be written names nothing.
    let is_said = |call: &Traced| !call.paths().iter().any(|path| path.starts_with(base.join("stderr")));
    if ended.status == Some(0) || !ended.injected().all(|call| is_own(&call) && is_said(call)) {
        return None;
    }
    // Logs are as good as can be had: a line that is lost there fails nothing.
    let is_log =
        |call: &Traced| call.paths().iter().any(|path| path.starts_with(trial.ground.state.join("logs")));
    let failed: Vec<&Traced> = ended.injected().filter(|call| !is_log(call)).collect();
    let first = failed.first()?;
    let is_named = failed.iter().flat_map(|call| call.paths()).any(|path| {
        // What is prepared for a file goes by the name of the file.
        let is_prepared = |part: &std::ffi::OsStr| part.to_string_lossy().starts_with(".kkrun-");
        let known: PathBuf = path.iter().take_while(|part| !is_prepared(part)).collect();
        let is_nameless =
            known.ends_with(".incoming") || known.starts_with(trial.ground.state.join("running"));
        let known = if is_nameless { known.with_file_name("") } else { known };
        // What a captured command left goes by its place on the machine.
        let is_upper = |part: &std::ffi::OsStr| part.to_string_lossy().starts_with("upper-");
        let left: PathBuf = known.iter().skip_while(|part| !is_upper(part)).skip(1).collect();
        if known.starts_with(trial.ground.state.join("captures"))
            && left.parent().is_some_and(|at| !at.as_os_str().is_empty())
            && ended.stderr.contains(&format!("/{}`", left.display()))
        {
            return true;
        }
        ended.stderr.contains(known.display().to_string().trim_end_matches('/'))
    });
    (!is_named).then(|| format!("the error does not name the file of `{}`: {}", first.line, ended.shown()))
}
