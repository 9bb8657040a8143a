//! The whole plan on a booted Debian 12, disturbed at random instants: kkrun is killed, or the machine loses power. The
//! next run must bring the machine to what an undisturbed run makes of it, and a rollback of everything to what it was
//! before, but for what the lists below name with its reason.
//!
//! One instant each; ten, spread over the whole of a run:
//!
//! ```sh
//! KKRUN_SWEEP=full cargo test --test machine -- --ignored --nocapture --test-threads=1
//! ```
//!
//! A number in the variable is how many; `KKRUN_SWEEP_SEED` chooses others. They need root, loop devices, mkfs.xfs, the
//! tools that `kkrun rehearse` names, and in `KKRUN_TEST_BASES` the directory of bases that `.ci/bases` makes.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and tells its figures"
)]

#[path = "../support/clone.rs"]
mod clone;
mod disk;
mod instants;
mod picture;
mod power;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use instants::instants;
use picture::{Exception, Picture};

const BASE: &str = "prepared";

/// How many differences are printed.
const SHOWN: usize = 30;

/// What a run that was disturbed and completed may leave otherwise than an undisturbed one.
const AFTER_A_RESUME: &[Exception] = &[
    MACHINE_ID,
    Exception { what: "/home/kimonokittens/.npm/_logs/.*", reason: "npm logs each time that it is run" },
    Exception {
        what: "/home/kimonokittens/.npm/_cacache/index-v5/.*",
        reason: "npm's cache notes when something was fetched",
    },
];

/// What else a loss of power may leave: npm runs again, and does not repair or clear what it finds in its cache. It checks
/// the hash of what it reads from there, and downloads what fails that.
const AFTER_A_LOSS_OF_POWER: &[Exception] = &[Exception {
    what: "/home/kimonokittens/.npm/_cacache/(content-v2|tmp)/.*",
    reason: "npm checks what it reads from its cache, and repairs it no earlier",
}];

/// What a rollback of everything may leave otherwise than the base.
const AFTER_A_ROLLBACK: &[Exception] = &[MACHINE_ID];

const MACHINE_ID: Exception =
    Exception { what: "/etc/machine-id", reason: "each clone of the base draws its own" };

/// An undisturbed run.
struct Undisturbed {
    base: Picture,
    done: Picture,
    took: Duration,
}

fn undisturbed() -> &'static Undisturbed {
    static ONE: OnceLock<Undisturbed> = OnceLock::new();
    ONE.get_or_init(|| {
        let scratch = clone::scratch();
        let pictures = scratch.path().join("pictures");
        passes("machine undisturbed", clone::base(BASE), scratch.path());
        let milliseconds = std::fs::read_to_string(pictures.join("milliseconds")).unwrap();
        let one = Undisturbed {
            base: Picture::read(&pictures.join("base")),
            done: Picture::read(&pictures.join("done")),
            took: Duration::from_millis(milliseconds.trim().parse().unwrap()),
        };
        println!("undisturbed: the plan took {:.1?}", one.took);
        let different = Picture::read(&pictures.join("undone")).unlike(&one.base, AFTER_A_ROLLBACK);
        assert!(different.is_empty(), "rolled back after an undisturbed run:\n{}", different.join("\n"));
        one
    })
}

/// Runs a script in a clone of a base, with all that it makes in a directory.
fn passes(words: &str, base: PathBuf, directory: &Path) {
    let rehearsal = clone::of_script(words, base, directory.join("clones"));
    clone::passes(&rehearsal, &directory.join("pictures"));
}

/// What is wrong with the pictures of a disturbed machine, which may have `also` left something.
fn judge(pictures: &Path, also: &[Exception]) -> Vec<String> {
    let expected = undisturbed();
    let mut wrong =
        Picture::read(&pictures.join("done")).unlike(&expected.done, &[AFTER_A_RESUME, also].concat());
    wrong.extend(Picture::read(&pictures.join("undone")).unlike(&expected.base, AFTER_A_ROLLBACK));
    wrong
}

/// Tries each instant, reports the figures, and fails if one is bad.
fn all_hold(what: &str, instants: &[Duration], mut attempt: impl FnMut(usize, Duration) -> Vec<String>) {
    let mut bad = Vec::new();
    for (number, instant) in instants.iter().enumerate() {
        println!("== {what} after {instant:.2?} of {:.2?}", undisturbed().took);
        let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| attempt(number, *instant)));
        let wrong = tried.unwrap_or_else(|_| vec!["it failed, see above".to_owned()]);
        if !wrong.is_empty() {
            println!("BAD: {what} after {instant:.2?}, in {} things:", wrong.len());
            wrong.iter().take(SHOWN).for_each(|line| println!("  {line}"));
            bad.push(format!("after {instant:.2?}: {}", wrong[0]));
        }
    }
    println!("{what}: {} instants, {} bad", instants.len(), bad.len());
    assert!(bad.is_empty(), "{what}: {} of {} instants are bad: {bad:#?}", bad.len(), instants.len());
}

#[test]
#[ignore = "needs root and the prepared base"]
fn killed_at_any_instant_the_next_run_completes_and_a_rollback_undoes_all() {
    all_hold("killed", &instants("killed", undisturbed().took), |_, instant| {
        let scratch = clone::scratch();
        let words = format!("machine killed {}", instant.as_secs_f64());
        passes(&words, clone::base(BASE), scratch.path());
        judge(&scratch.path().join("pictures"), &[])
    });
}

#[test]
#[ignore = "needs root, loop devices and the prepared base"]
fn cut_off_at_any_instant_the_next_run_completes_and_a_rollback_undoes_all() {
    // What is said last is promised too.
    let until = undisturbed().took.mul_f64(1.1);
    all_hold("cut off", &instants("cut off", until), |number, instant| {
        let scratch = clone::scratch();
        let survivor = power::lose(scratch.path(), ["ext4", "xfs"][number % 2], instant);
        survivor.boots_again(scratch.path());
        judge(&scratch.path().join("pictures"), AFTER_A_LOSS_OF_POWER)
    });
}
