//! The outside: files, processes, signals, sockets and the clock, and nothing that knows of steps.

pub mod backups;
pub mod clock;
pub mod files;
