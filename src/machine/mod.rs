//! The outside: files, processes, signals, sockets and the clock, and nothing that knows of steps.

pub mod backups;
pub mod cgroup;
pub mod clock;
pub mod clone_root;
pub mod container;
pub mod files;
pub mod leftover;
pub mod mount;
pub mod network_namespace;
pub mod tool;
pub mod upper;
