//! A long journal has a checkpoint: a run that finds nothing to do neither replays it nor reads the scripts again.

use std::fmt::Write as _;

use crate::support::{Place, Ran};

/// Enough that the journal is longer than what a checkpoint pays for: the titles are in it.
const STEPS: usize = 40;

fn long_plan() -> Place {
    let title = "long ".repeat(1800);
    let mut place = Place::empty();
    let mut plan = String::new();
    for step in 0..STEPS {
        let id = format!("{step:02}");
        writeln!(plan, "step::run(\"{id}\", \"{title}\", \"{id}.rhai\");").unwrap();
        place = place.with(&format!("plan/{id}.rhai"), "let done = 1;\n");
    }
    place.with("plan/plan.rhai", &plan)
}

fn logged(place: &Place) -> Ran {
    place.ran(&place.command(&["--quiet", "plan.rhai"]).env("KKRUN_LOG", "debug").output().unwrap())
}

const WITHOUT_REPLAY: &str = "the journal is not even replayed";

fn is_replayed(place: &Place) -> bool {
    let ran = logged(place);
    assert_eq!(ran.status, 0, "{}", ran.page());
    !ran.stderr.contains(WITHOUT_REPLAY)
}

#[test]
fn run_that_does_nothing_replays_no_long_journal() {
    let place = long_plan();
    place.run("plan.rhai").ends(0);
    let records = place.records().len();
    assert!(!is_replayed(&place));
    assert_eq!(place.records().len(), records);
    place.run("plan.rhai").ends(0).says("00");
    place.run("status plan.rhai").ends(0);
}

#[test]
fn step_whose_script_changed_in_place_runs_again() {
    let place = long_plan();
    place.run("plan.rhai").ends(0);
    place.write("plan/07.rhai", "let done = 2;\n");
    assert!(is_replayed(&place));
    let begun = place.records().iter().filter(|kind| *kind == "step_started").count();
    assert_eq!(begun, STEPS + 1);
    assert!(!is_replayed(&place), "the run wrote a new checkpoint");
}

#[test]
fn damaged_journal_and_one_without_a_checkpoint_are_replayed() {
    let place = long_plan();
    place.run("plan.rhai").ends(0);
    place.remove("state/journal.checkpoint");
    assert!(is_replayed(&place));
    assert!(!is_replayed(&place), "the holder of the lock wrote it again");
    place.edit("state/journal", "long long", "lOng long");
    place.run("plan.rhai").ends(5).says("is damaged");
}

#[test]
fn override_and_dry_run_see_the_whole_journal() {
    let place = long_plan().with("plan/settings.rhai", "#{ plan: \"plan\", port: 1 }\n");
    place.run("plan.rhai").ends(0);
    place.run("plan.rhai --set port=2").ends(0);
    assert!(!is_replayed(&place));
    place.run("plan.rhai --dry-run").ends(0);
    place.run("rollback --dry-run").ends(0);
}

#[test]
fn status_of_all_plans_is_the_same_by_the_checkpoint_and_by_a_replay() {
    let place = long_plan();
    place.write(
        "plan/07.rhai",
        "file::write(`@/m/file`, \"x\\n\"); cmd::run([\"true\"], #{ always: \"it is a test\" });",
    );
    place.run("plan.rhai").ends(0);
    let status = || {
        let words = ["status", "--json"];
        place.ran(&place.command(&words).env("KKRUN_LOG", "debug").output().unwrap())
    };
    let brief = status();
    assert!(brief.stderr.contains(WITHOUT_REPLAY), "{}", brief.page());
    assert!(brief.stdout.contains("\"changes\":2,\"not_undoable\":1"), "{}", brief.page());
    place.remove("state/journal.checkpoint");
    let replayed = status();
    assert!(!replayed.stderr.contains(WITHOUT_REPLAY), "{}", replayed.page());
    assert_eq!(brief.stdout, replayed.stdout);
}
