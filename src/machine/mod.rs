//! The outside: files, processes, signals, sockets and the clock, and no knowledge of steps.

pub mod account;
pub mod backups;
pub mod clock;
pub mod clone;
pub mod download;
pub mod files;
pub mod host_facts;
pub mod http;
pub mod lock;
pub mod memory;
pub mod mount;
pub mod package_locks;
pub mod postgres;
pub mod process;
pub mod process_setup;
pub mod random;
pub mod root;
pub mod secret_store;
pub mod signal;
pub mod stack;
pub mod state_key;
pub mod terminal;
pub mod tool;
pub mod tree_size;
pub mod trusted;
pub mod user_processes;
