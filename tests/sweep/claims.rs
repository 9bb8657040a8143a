//! Two plans ask for the same targets, and kkrun is killed at every call of the second one's run and of the rollback of
//! each: what the second one asks for is there until it is rolled back itself, and then all is as before.

use super::apart::{Shard, Tally};
use super::ground::{Ground, Lying};
use super::kill::KILL;
use super::picture::Picture;
use super::plans::{Scenario, write};
use super::sample::Sample;
use super::strace::{self, run};

/// How many positions of each phase a sample has.
const SAMPLED: usize = 12;
const RUN: &[&str] = &["plan.rhai"];
const RUN_OTHER: &[&str] = &["other.rhai"];
const VERIFY_OTHER: &[&str] = &["other.rhai", "--verify"];
const ROLL_BACK: &[&str] = &["rollback", "--plan", "plan", "--yes", "--purge", "all"];
const ROLL_BACK_OTHER: &[&str] = &["rollback", "--plan", "other", "--yes", "--purge", "all"];

const CLAIMED: Scenario = Scenario {
    name: "claims",
    files: &[
        (
            "plan.rhai",
            r#"
step::run("01", "Shared", || {
    file::make_dir("@/shared/made");
    file::write("@/shared/made/file", "1\n");
    config::set("@/shared/conf", "key", 1);
    file::link("@/shared/made", "@/shared/link");
});
step::run("02", "Own", || { file::write("@/own/file", "1\n"); config::set("@/own/conf", "key", 1); });
"#,
        ),
        (
            "other.rhai",
            r#"
step::run("01", "Same", || {
    file::make_dir("@/shared/made");
    file::write("@/shared/made/file", "1\n");
    config::set("@/shared/conf", "key", 1);
    file::link("@/shared/made", "@/shared/link");
});
step::run("02", "More", || file::write("@/shared/made/more", "2\n"));
"#,
        ),
    ],
    make: |tree| {
        write(tree, "shared/conf", "#key = 0\nother = 2\n");
        write(tree, "own/file", "0\n");
        write(tree, "own/conf", "other = 2\n");
    },
    has_server: false,
    talks: false,
};

/// Runs and gives what is wrong, if the exit status is none of these.
fn expect(ground: &Ground, words: &[&str], wanted: &[i32]) -> Option<String> {
    let ended = run(ground, &ground.kkrun(words));
    let is_wanted = ended.status.is_some_and(|status| wanted.contains(&status));
    (!is_wanted).then(|| format!("{}: {}", words.join(" "), ended.shown()))
}

fn differences(what: &str, wanted: &Picture, found: &Picture) -> Option<String> {
    wanted.differences(found).map(|differences| format!("{what}: {differences}"))
}

pub(crate) fn sweep(shard: Shard) -> Tally {
    let sample = Sample::reported();
    let (mut tally, mut number) = (Tally::default(), 0);
    let mut ground = Ground::new(Lying::Memory, 0);
    let _pristine = ground.set_up(&CLAIMED);
    let (before, own_before) = (ground.picture_with_times(), ground.picture().below("own"));
    let must = |words: &[&str]| assert_eq!(expect(&ground, words, &[0]), None);
    must(RUN);
    let one = ground.snapshot("one plan has run");
    must(RUN_OTHER);
    let both = ground.snapshot("both have run");
    let claimed = ground.picture().below("shared");
    must(ROLL_BACK);
    let left = ground.snapshot("one is rolled back");
    for (start, words) in [(&one, RUN_OTHER), (&both, ROLL_BACK), (&left, ROLL_BACK_OTHER)] {
        ground.restore(start);
        let all = strace::positions(&strace::trace(&ground, &ground.kkrun(words)).calls);
        let name = format!("claims, {}", words.join(" "));
        for position in sample.of(all, SAMPLED, &name) {
            number += 1;
            if !shard.has(number) {
                continue;
            }
            let ended = strace::inject(&ground, start, &position, KILL, &[], &ground.kkrun(words));
            let mut problems = Vec::new();
            if words == RUN_OTHER {
                problems.extend(expect(&ground, RUN_OTHER, &[0]));
            }
            if words != ROLL_BACK_OTHER {
                // Killed behind its last record, it has nothing to undo.
                for _ in 0..2 {
                    problems.extend(differences("shared", &claimed, &ground.picture().below("shared")));
                    problems.extend(expect(&ground, ROLL_BACK, &[0, 1]));
                }
                problems.extend(differences("own", &own_before, &ground.picture().below("own")));
                problems.extend(expect(&ground, VERIFY_OTHER, &[0]));
            }
            problems.extend(expect(&ground, ROLL_BACK_OTHER, &[0]));
            problems.extend(differences("in the end", &before, &ground.picture_with_times()));
            tally.add(&format!("{name}, killed at {position}"), ended.was_disturbed(), problems);
        }
        println!("claims: {name}: {} positions so far, {} bad", tally.positions, tally.bad.len());
    }
    tally
}
