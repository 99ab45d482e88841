//! Where a flow's packets go: the kernel's routing and neighbour tables, asked once per flow and tick.

use aya_ebpf::bindings::{BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup, xdp_md};
use aya_ebpf::helpers::generated::bpf_fib_lookup as look_up;
use gateway_ebpf::abi::service::Flow;
use gateway_ebpf::packet::ETHERNET_HEADER;

use super::family::Family;

/// Writes the MAC addresses, the interface and the MTU into the flow; 0 if they may be used.
///
/// The way back to a client begins as the way its first packet came, and stays so while the kernel knows no better. A
/// tagged frame leaves by the interface it came from, with its tags: the kernel routes it to an interface of the VLAN's
/// own, which takes no frames from XDP.
#[inline(never)]
pub fn refresh<A: Family>(ctx: *mut xdp_md, flow: *mut Flow<A>, network: usize, now: u32) -> u32 {
    // SAFETY: the kernel's context, and an element of a map.
    let (ingress, flow) = unsafe { ((*ctx).ingress_ifindex, &mut *flow) };
    // SAFETY: the question is made of integers.
    let mut question: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    question.family = A::ADDRESS_FAMILY;
    question.ifindex = ingress;
    A::ask(&mut question, flow.source, flow.destination);
    let size = size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: the pointers are to the context and to a question of the size given.
    let answer = unsafe { look_up(ctx.cast(), &mut question, size, 0) };
    if answer != i64::from(BPF_FIB_LKUP_RET_SUCCESS) {
        flow.resolved = if flow.reverse != 0 { now } else { flow.resolved };
        return u32::from(flow.reverse == 0);
    }
    let (to, from) = (question.dmac, question.smac);
    flow.macs = [
        u32::from_ne_bytes([to[0], to[1], to[2], to[3]]),
        u32::from_ne_bytes([to[4], to[5], from[0], from[1]]),
        u32::from_ne_bytes([from[2], from[3], from[4], from[5]]),
    ];
    flow.interface = if network == ETHERNET_HEADER { question.ifindex } else { ingress };
    // SAFETY: the kernel writes the MTU here when it answers, whatever the field was in the question.
    flow.mtu = unsafe { question.__bindgen_anon_1.mtu_result };
    flow.resolved = now;
    0
}
