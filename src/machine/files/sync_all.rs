//! Making durable what others wrote.

/// Writes everything that any process has written to any file system to its disk, and waits for it: what a command
/// wrote, and where, is known to nobody else. The kernel reports no error here. Source: sync(2).
pub fn sync_all() {
    rustix::fs::sync();
}
