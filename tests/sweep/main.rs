//! Nothing is lost, at any position: kkrun is killed, gets an error, or loses power at its K-th call of each system call
//! that changes what a file system holds. Then the next run must reach the end state that an undisturbed one reaches,
//! and a rollback the state from before, both compared to the byte with mode, owner, attributes and (after a rollback)
//! times; no prepared file may stay, and what was reported as complete must be complete.
//!
//! All positions:
//!
//! ```sh
//! KKRUN_SWEEP=full cargo test --test sweep -- --ignored --nocapture --test-threads=1
//! ```
//!
//! Without the variable a sample of positions, spread over all, is tried; a number as its value multiplies the sample.
//! `KKRUN_SWEEP_SEED` chooses another sample, `KKRUN_SWEEP_ONLY` names one scenario.
//! The sweeps need root, strace, mkfs.xfs and loop devices.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and tells its figures"
)]

mod apart;
mod claims;
mod databases;
mod dropped;
mod errors;
mod ground;
mod kill;
mod packages;
mod picture;
mod plans;
mod power;
mod products;
mod recovery;
mod sample;
#[path = "../support/server.rs"]
mod server;
mod strace;
mod stuck;

use apart::{Divided, Shard, Tally, in_shards};

fn holds(test: &str, divided: Divided, sweep: fn(Shard) -> Tally) {
    if let Some(tally) = in_shards(test, divided, sweep) {
        // A scenario that was named is not part of every sweep.
        let is_named = std::env::var_os("KKRUN_SWEEP_ONLY").is_some();
        assert!(is_named || tally.positions > 0, "no position was reached");
        assert_eq!(tally.missed, 0, "of {} positions so many were not reached", tally.positions);
        assert!(tally.bad.is_empty(), "{} of {} positions are bad", tally.bad.len(), tally.positions);
    }
}

#[test]
#[ignore = "needs root and strace"]
fn kill_at_any_call_loses_nothing() {
    holds("kill_at_any_call_loses_nothing", Divided::All, kill::sweep);
}

#[test]
#[ignore = "needs root and strace"]
fn error_of_any_call_is_reported_and_recovered_from() {
    holds("error_of_any_call_is_reported_and_recovered_from", Divided::All, errors::sweep);
}

#[test]
#[ignore = "needs root, strace and loop devices"]
fn power_loss_at_any_call_loses_nothing_that_was_reported_as_done() {
    holds("power_loss_at_any_call_loses_nothing_that_was_reported_as_done", Divided::All, power::sweep);
}

#[test]
#[ignore = "needs root and strace"]
fn rollback_removes_packages_that_cannot_be_downloaded_again() {
    holds("rollback_removes_packages_that_cannot_be_downloaded_again", Divided::All, stuck::see);
}

#[test]
#[ignore = "needs root and strace"]
fn entries_that_the_operator_adds_to_a_product_after_a_kill_are_never_lost() {
    holds(
        "entries_that_the_operator_adds_to_a_product_after_a_kill_are_never_lost",
        Divided::All,
        products::sweep,
    );
}

#[test]
#[ignore = "needs root and strace"]
fn what_another_plan_asks_for_survives_a_kill_at_any_call() {
    holds("what_another_plan_asks_for_survives_a_kill_at_any_call", Divided::All, claims::sweep);
}

#[test]
#[ignore = "needs root, strace and loop devices"]
fn without_syncs_a_loss_of_power_is_seen() {
    holds("without_syncs_a_loss_of_power_is_seen", Divided::One, power::see_mutations);
}

#[test]
#[ignore = "needs root, strace and loop devices"]
fn each_promise_needs_its_sync() {
    holds("each_promise_needs_its_sync", Divided::One, dropped::sweep);
}
