//! The outside: files, processes, signals, sockets and the clock, and nothing that knows of steps.

pub mod clock;
pub mod files;
