//! Packets by reason. Each CPU has its own counters, so counting needs no atomic operation.

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
