//! How file systems date what is written: by this machine's coarse clock, or by one that says nothing here.

use std::os::fd::AsFd;

use rustix::fs::fstatfs;
use rustix::time::{ClockId, clock_gettime};

/// File systems whose times come from this machine's clock at every write. Source: statfs(2), linux/magic.h.
const LOCAL: [u64; 8] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // XFS
    0x9123_683e, // Btrfs
    0x0102_1994, // tmpfs
    0x794c_7630, // overlay
    0xf2f5_2010, // F2FS
    0x2fc1_2fc1, // ZFS
    0xca45_1a4e, // bcachefs
];

/// The moment of an observation, by the clock that files are dated with.
#[derive(Clone, Copy)]
pub(super) struct Moment {
    seconds: i64,
    nanoseconds: i64,
}

impl Moment {
    pub(super) fn now() -> Self {
        let now = clock_gettime(ClockId::RealtimeCoarse);
        Self { seconds: now.tv_sec, nanoseconds: now.tv_nsec }
    }

    /// Whether a write from this moment on shows in the time of modification.
    pub(super) fn is_after(self, (seconds, nanoseconds): (i64, i64)) -> bool {
        // Some file systems date to the second, or to two.
        if nanoseconds == 0 {
            return seconds + 2 < self.seconds;
        }
        (seconds, nanoseconds) < (self.seconds, self.nanoseconds)
    }
}

/// Whether an open file is on a file system whose times come from this machine's clock.
pub(super) fn is_local(file: impl AsFd) -> bool {
    let magic = fstatfs(file).map(|of| u64::try_from(of.f_type).unwrap_or_default());
    magic.is_ok_and(|magic| LOCAL.contains(&(magic & 0xffff_ffff)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_whole_seconds_is_trusted_only_when_it_is_old() {
        let now = Moment { seconds: 100, nanoseconds: 5 };
        assert!(now.is_after((100, 4)) && !now.is_after((100, 5)) && !now.is_after((101, 1)));
        assert!(now.is_after((97, 0)) && !now.is_after((98, 0)) && !now.is_after((100, 0)));
    }
}
