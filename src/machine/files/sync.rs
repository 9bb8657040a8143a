//! Makes durable what commands wrote.

/// Writes everything that any process has written to any file system to its disk, and waits for it: only the kernel
/// knows what a command wrote, and where. The kernel reports no error here. Source: sync(2).
pub fn sync_all() {
    rustix::fs::sync();
}
