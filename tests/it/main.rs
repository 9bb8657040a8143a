//! What the command does, seen from outside: given these files, when kkrun is run with these words, then this.
//!
//! One binary for all of it: linking costs more than running. `tests/model.rs` stands apart, for it limits its whole process. What needs root is ignored without it and counted.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod abuse;
mod accounts;
mod adopt;
mod bad_input;
mod bench;
mod captured;
mod captured_commands;
mod check;
mod checkouts;
mod checkpoint;
mod command_line;
mod commands;
mod conflict;
mod environment;
mod events;
mod examples;
mod files;
mod forget;
mod formats;
mod fuzz;
mod handlers;
mod journal_abuse;
mod large_files;
mod layers;
mod ledger;
mod lines;
mod packages;
mod plan;
mod postgres;
mod processes;
mod products;
mod redirect;
mod rehearsal;
mod rehearse_command;
mod report;
mod resume;
mod rollback;
mod screens;
mod secrets;
#[path = "../support/server.rs"]
mod server;
mod status;
mod support;
mod terminal;
mod touched;
mod trust;
mod undo;
mod units;
