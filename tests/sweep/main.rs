//! Nothing is lost, at any position: kkrun is killed, gets an error, or loses power at its K-th call of each system call
//! that changes what a file system holds. Then the next run must reach the end state that an undisturbed one reaches,
//! and a rollback the state from before, both compared to the byte with mode, owner, attributes and (after a rollback)
//! times; nothing in preparation may stay, and what was said to be complete must be so.
//!
//! All positions:
//!
//! ```sh
//! KKRUN_SWEEP=full cargo test --test sweep -- --ignored --nocapture --test-threads=1
//! ```
//!
//! Without the variable some positions are tried that lie spread over all, with a number as its value so many times as
//! many; `KKRUN_SWEEP_SEED` chooses others, `KKRUN_SWEEP_ONLY` names one scenario.
//! The sweeps need root, strace, mkfs.xfs and loop devices.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and tells its figures"
)]

mod apart;
mod databases;
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

use apart::{Shard, Tally, in_shards};

fn holds(test: &str, sweep: fn(Shard) -> Tally) {
    if let Some(tally) = in_shards(test, sweep) {
        assert!(
            tally.positions > 20 * tally.missed,
            "{} of {} positions were not come to",
            tally.missed,
            tally.positions
        );
        assert!(tally.bad.is_empty(), "{} of {} positions are bad", tally.bad.len(), tally.positions);
    }
}

#[test]
#[ignore = "needs root and strace"]
fn killed_at_any_call_nothing_is_lost() {
    holds("killed_at_any_call_nothing_is_lost", kill::sweep);
}

#[test]
#[ignore = "needs root and strace"]
fn an_error_of_any_call_is_told_and_recovered_from() {
    holds("an_error_of_any_call_is_told_and_recovered_from", errors::sweep);
}

#[test]
#[ignore = "needs root, strace and loop devices"]
fn power_lost_at_any_call_takes_nothing_that_was_promised() {
    holds("power_lost_at_any_call_takes_nothing_that_was_promised", power::sweep);
}

#[test]
#[ignore = "needs root and strace"]
fn packages_that_cannot_be_had_again_are_removed_all_the_same() {
    holds("packages_that_cannot_be_had_again_are_removed_all_the_same", stuck::see);
}

#[test]
#[ignore = "needs root and strace"]
fn what_the_operator_puts_into_a_product_after_a_kill_is_never_lost() {
    holds("what_the_operator_puts_into_a_product_after_a_kill_is_never_lost", products::sweep);
}

#[test]
#[ignore = "needs root, strace and loop devices"]
fn without_syncs_a_loss_of_power_is_seen() {
    holds("without_syncs_a_loss_of_power_is_seen", power::see_mutations);
}
