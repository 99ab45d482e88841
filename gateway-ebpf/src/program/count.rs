//! Counters. Each CPU has its own, so counting needs no atomic operation.

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
    if let Some(counter) = PACKETS.get_ptr_mut(reason.index()) {
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
