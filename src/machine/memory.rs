//! How much memory this process uses.

/// The resident memory, in bytes; `None` if /proc does not show it. Source: `proc_pid_statm(5)`.
pub fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_shows() {
        let before = resident().unwrap();
        // More than the tests that run beside this one give back meanwhile.
        let much = vec![1_u8; 256 << 20];
        assert!(resident().unwrap() >= before + (32 << 20));
        assert_eq!(much.len(), 256 << 20);
    }
}
