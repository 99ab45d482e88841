//! Counters. Each CPU has its own, so counting needs no atomic operation; entries of lists have one for all.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::macros::btf_map;
use gateway_ebpf::Reason;
use gateway_ebpf::abi::service::{BACKENDS_MAX, BackendCounts, SERVICES_MAX, ServiceCounts};

#[btf_map]
static PACKETS: PerCpuArray<u64, { Reason::ALL.len() }> = PerCpuArray::new();
#[btf_map]
static BACKEND_COUNTS: PerCpuArray<BackendCounts, BACKENDS_MAX> = PerCpuArray::new();
#[btf_map]
static SERVICE_COUNTS: PerCpuArray<ServiceCounts, SERVICES_MAX> = PerCpuArray::new();

#[inline(always)]
pub fn packet(reason: Reason) {
    index(reason.index());
}

/// Counts a packet by its reason's index.
#[inline(always)]
pub fn index(reason: u32) {
    if let Some(counter) = PACKETS.get_ptr_mut(reason) {
        // SAFETY: the element is this CPU's own, and the program is not interrupted by itself on one CPU.
        unsafe { *counter += 1 };
    }
}

#[inline(always)]
pub fn backend(slot: u32, change: impl FnOnce(&mut BackendCounts)) {
    if let Some(counts) = BACKEND_COUNTS.get_ptr_mut(slot) {
        // SAFETY: as in `packet`.
        change(unsafe { &mut *counts });
    }
}

#[inline(always)]
pub fn service(id: u32, change: impl FnOnce(&mut ServiceCounts)) {
    if let Some(counts) = SERVICE_COUNTS.get_ptr_mut(id) {
        // SAFETY: as in `packet`.
        change(unsafe { &mut *counts });
    }
}

/// Adds one packet to an entry's counter.
#[inline(always)]
pub fn atomically(packets: *mut u64) {
    // SAFETY: the kernel's pointer to an entry, which begins with its counter and is aligned to 8 bytes.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(packets, 1) };
}
