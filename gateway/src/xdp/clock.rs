//! The clock that the program reads, beside the one that people read.

use std::time::SystemTime;

use super::lists::unix_s;

/// The second of the boot clock at which this second since 1970 is. Never 0, which means never; the past is 1.
pub(super) fn boot_s(unix: u64) -> u32 {
    let left = unix.saturating_sub(unix_s(SystemTime::now()));
    u32::try_from((now_s() + left).max(1)).unwrap_or(u32::MAX)
}

/// Seconds since the machine started.
pub(super) fn now_s() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one `timespec`, which lives until the call returns. This clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
    time.tv_sec.unsigned_abs()
}
