//! Packets by reason. Each CPU has its own counters, so counting needs no atomic operation. Entries have one for all.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::macros::btf_map;
use gateway_ebpf::Reason;

#[btf_map]
static PACKETS: PerCpuArray<u64, { Reason::ALL.len() }> = PerCpuArray::new();

#[inline(always)]
pub fn packet(reason: Reason) {
    if let Some(counter) = PACKETS.get_ptr_mut(reason.index()) {
        // SAFETY: the element is this CPU's own, and the program is not interrupted by itself on one CPU.
        unsafe { *counter += 1 };
    }
}

/// Adds one packet to an entry's counter.
#[inline(always)]
pub fn atomically(packets: *mut u64) {
    // SAFETY: the kernel's pointer to an entry, which begins with its counter and is aligned to 8 bytes.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(packets, 1) };
}
