//! The outside: files, processes, signals, sockets and the clock, and nothing that knows of steps.

pub mod account;
pub mod account_files;
pub mod backups;
pub mod cgroup;
pub mod clock;
pub mod clone_root;
pub mod container;
pub mod download;
pub mod files;
pub mod host_facts;
pub mod http;
pub mod leftover;
pub mod lock;
pub mod mount;
pub mod network_namespace;
pub mod postgres;
pub mod process;
pub mod random;
pub mod secret_store;
pub mod signal;
pub mod terminal;
pub mod tool;
pub mod tree_size;
pub mod trusted;
pub mod upper;
pub mod user_processes;
