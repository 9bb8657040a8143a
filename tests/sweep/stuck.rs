//! dpkg was interrupted in the middle of unpacking, and the package is not to be had again: apt does nothing any more.

use std::fs;

use super::apart::{Shard, Tally};
use super::ground::Lying;
use super::plans;
use super::recovery::{Doing, Trial};
use super::strace::run;

/// How dpkg marks them.
const MARKS: [(&str, &str); 2] = [
    ("kkrun-two", "install reinstreq half-installed"),
    // An entry that only records the administrator's selection, of a package that dpkg does not know otherwise.
    ("kkrun-needed", "deinstall ok installed"),
];

/// Marks each, takes the repository away, and rolls back.
pub(crate) fn see(shard: Shard) -> Tally {
    let mut tally = Tally::default();
    for (at, (name, status)) in MARKS.into_iter().enumerate() {
        if !shard.has(at) {
            continue;
        }
        let trial = Trial::new(&plans::PACKAGES, Lying::Memory);
        trial.ground.restore(&trial.finished);
        let path = trial.ground.tree.join("dpkg/status");
        let text = fs::read_to_string(&path).unwrap();
        let known = format!("Package: {name}\nStatus: install ok installed\n");
        assert!(text.contains(&known));
        fs::write(&path, text.replace(&known, &format!("Package: {name}\nStatus: {status}\n"))).unwrap();
        for gone in ["repository", "cache", "apt/lists"] {
            let path = trial.ground.tree.join(gone);
            for entry in fs::read_dir(path).unwrap().map(Result::unwrap) {
                let removed = if entry.path().is_dir() {
                    fs::remove_dir_all(entry.path())
                } else {
                    fs::remove_file(entry.path())
                };
                removed.unwrap();
            }
        }
        let ended = run(&trial.ground, &trial.ground.kkrun(Doing::RollBack.words()));
        let left = fs::read_to_string(&path).unwrap();
        let mut problems = Vec::new();
        if ended.status != Some(0) || left.matches("Package: ").count() != 1 || !left.contains("kkrun-marked")
        {
            problems.push(format!("{}\n{left}", ended.shown()));
        }
        tally.add(&format!("{name}: {status}"), true, problems);
    }
    tally
}
