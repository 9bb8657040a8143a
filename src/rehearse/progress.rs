//! What a rehearsal says while it goes on.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// One thing that a rehearsal did or must be known about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// What a killed rehearsal had left was removed.
    LeftoverRemoved {
        /// Its name.
        name: String,
    },
    /// The base is a running machine: what its programs were writing may be cut off in the clone.
    NotASnapshot,
    /// A file system of the clone cannot show its owners under other numbers: root in the clone is root here.
    NotContained,
    /// A file system of the base is not in the clone.
    LeftOut {
        /// Where it is mounted.
        path: PathBuf,
        /// Its kind.
        file_system: String,
        /// Why.
        reason: String,
    },
    /// Services of these users would be started by lingering: the clone does not know of it.
    LingeringHidden {
        /// Their names.
        users: Vec<String>,
    },
    /// A variable names a proxy on this machine's loopback, which the clone cannot reach.
    ProxyOutOfReach {
        /// The variable's name.
        variable: String,
    },
    /// What the clone writes is kept in memory.
    InMemory {
        /// The directory that lives there.
        place: PathBuf,
        /// The bytes that are free.
        free: u64,
    },
    /// The clone is up.
    Booted {
        /// Its name.
        name: String,
        /// The process, as this machine numbers it, whose name spaces are the clone's.
        leader: u32,
        /// How long that took.
        took: Duration,
    },
    /// A run of kkrun inside begins.
    RunStarted {
        /// Its place among the runs, from zero.
        index: usize,
        /// Its arguments.
        arguments: Vec<OsString>,
    },
    /// A run of kkrun inside ended.
    RunEnded {
        /// Its place among the runs, from zero.
        index: usize,
        /// Its exit status.
        code: u8,
    },
    /// A command inside asked for a restart.
    Restarting,
    /// The clone is being thrown away.
    Removing,
    /// The clone stays.
    Kept {
        /// The command that opens a shell in it.
        enter: String,
        /// The command that removes it.
        remove: String,
        /// What it wrote.
        upper: PathBuf,
    },
}
