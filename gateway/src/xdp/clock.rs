//! The clock that the program reads, beside the one that people read.

use std::time::{Duration, SystemTime};

/// The second of the boot clock at which this second since 1970 has come, rounded up: nothing ends early. Never 0, which
/// means never; the past is 1.
pub(super) fn boot_s(unix: u64) -> u32 {
    let unix = SystemTime::UNIX_EPOCH + Duration::from_secs(unix);
    let Ok(left) = unix.duration_since(SystemTime::now()) else { return 1 };
    let at = since_boot() + left;
    u32::try_from(at.as_secs() + u64::from(at.subsec_nanos() > 0)).unwrap_or(u32::MAX)
}

/// Since the machine started, the time it slept included.
fn since_boot() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one `timespec`, which lives until the call returns. This clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
