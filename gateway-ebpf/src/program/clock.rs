//! Clocks that go on while the machine sleeps.

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;

/// Seconds since the machine started.
#[inline(always)]
pub fn seconds() -> u32 {
    // SAFETY: the helper only reads the clock.
    (unsafe { bpf_ktime_get_boot_ns() } / 1_000_000_000) as u32
}

/// Milliseconds since the machine started.
#[inline(always)]
pub fn milliseconds() -> u64 {
    // SAFETY: the helper only reads the clock.
    unsafe { bpf_ktime_get_boot_ns() / 1_000_000 }
}
