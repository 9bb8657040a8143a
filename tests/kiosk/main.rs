//! The whole plan on a booted Debian 12: each script of `tests/kiosk` runs inside a clone of a base and looks at the
//! machine from outside of kkrun.
//!
//! They need root, the tools that `kkrun rehearse` names, and in `KKRUN_TEST_BASES` the directory of bases that
//! `.ci/bases` makes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../support/booted.rs"]
mod booted;
#[path = "../support/clone.rs"]
mod clone;

use std::path::Path;
use std::process::Command;

/// Runs `tests/kiosk/NAME.sh` in a clone of a base; it must end with 0. What it leaves in /root/pictures is kept in
/// `target/pictures`.
fn passes(name: &str, base: &str) {
    let scratch = clone::scratch();
    let rehearsal = clone::of_script(name, clone::base(base), scratch.path().join("clones"));
    clone::passes(&rehearsal, &Path::new(env!("CARGO_MANIFEST_DIR")).join("target/pictures"));
}

#[test]
#[ignore = "needs root and the prepared base"]
fn the_plan_is_done_done_again_rolled_back_and_done_once_more() {
    passes("whole", "prepared");
}

#[test]
#[ignore = "needs root and the prepared base"]
fn each_step_fails_for_a_real_cause_and_the_next_run_goes_on_there() {
    passes("resume", "prepared");
}

#[test]
#[ignore = "needs root and the prepared base"]
fn killed_in_each_step_the_next_run_completes() {
    passes("kill", "prepared");
}

#[test]
#[ignore = "needs root and the prepared base"]
fn apt_is_left_to_finish_when_the_run_is_stopped() {
    passes("apt", "prepared");
}

#[test]
#[ignore = "needs root and the prepared base"]
fn working_secrets_and_equal_settings_are_taken_over() {
    passes("lived secrets", "prepared");
}

#[test]
#[ignore = "needs root and the prepared base"]
fn restarted_unit_that_does_not_stay_up_fails_its_step() {
    passes("lived restarts", "prepared");
}

#[test]
#[ignore = "needs root and the prepared base"]
fn damaged_product_is_made_again_and_a_bad_one_not_published() {
    passes("lived site", "prepared");
}

#[test]
#[ignore = "needs root and the prepared base"]
fn port_in_use_is_refused_with_who_uses_it() {
    passes("lived ports", "prepared");
}

#[test]
#[ignore = "needs root and the prepared base"]
fn changed_owners_are_all_named_and_put_right() {
    passes("lived owners", "prepared");
}

#[test]
#[ignore = "needs root and the prepared base"]
fn stopped_user_manager_and_other_autologin_are_seen() {
    passes("lived screen", "prepared");
}

#[test]
#[ignore = "needs root and the prepared base"]
fn clusters_schemas_and_half_clones_of_others_are_put_right_or_named() {
    passes("lived clusters", "prepared");
}

#[test]
#[ignore = "needs root and the prepared base"]
fn a_user_who_was_there_keeps_the_primary_group() {
    passes("lived group", "prepared");
}

#[test]
#[ignore = "needs root and the prepared base"]
fn a_real_session_shows_the_dashboard() {
    passes("session", "prepared");
}

#[test]
#[ignore = "needs root and the prepared base"]
fn rolled_back_the_machine_equals_its_base() {
    let status = Command::new(env!("CARGO_BIN_EXE_kkrun"))
        .args(["rehearse", "--yes", "--non-interactive", "--purge", "all", "--expect-unchanged"])
        .arg("--base")
        .arg(clone::base("prepared"))
        .args(["--then", "rollback.rhai", "master.rhai"])
        .status();
    assert_eq!(status.unwrap().code(), Some(0));
}

#[test]
#[ignore = "needs root, the pristine base and a network"]
fn on_a_pristine_debian_it_installs_everything_and_leaves_only_what_debian_leaves() {
    passes("pristine", "pristine");
}

#[test]
#[ignore = "needs root, the pristine base and a network"]
fn the_newcomers_journey_succeeds_twice_on_one_machine() {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kiosk");
    let mut files = ["lib.sh", "journey.sh"].map(|name| scripts.join(name)).to_vec();
    files.push(env!("CARGO_BIN_EXE_kkrun").into());
    booted::Machine::boot(&clone::base("pristine"), &files).passes("journey.sh");
}
