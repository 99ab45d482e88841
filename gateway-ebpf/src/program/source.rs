//! First stage: may this source send this packet? Access rules, then bans, then limits.
//!
//! These are BPF functions of their own, and take numbers only: what the verifier learns on the way through them does not
//! multiply with the ways through the rest of the program.

use gateway_ebpf::abi::service::{Ip4, Ip6};
use gateway_ebpf::packet::{Packet, Transport};

use super::{PASS, access, limit};

/// What becomes of an IPv4 packet: `Pass`, `Allowed`, or the [`code`](super::event::code) of a drop.
#[inline(always)]
pub fn v4(packet: &Packet<Ip4>) -> u32 {
    judge_v4(packet.source, packet.kind().0)
}

/// What becomes of an IPv6 packet.
#[inline(always)]
pub fn v6(packet: &Packet<Ip6>) -> u32 {
    judge_v6(packet.source.0, packet.source.1, packet.kind().0)
}

#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn judge_v4(source: Ip4, transport: u32) -> u32 {
    let (source, transport) = (source.to_ne_bytes(), Transport(transport));
    match access::v4(transport, source) {
        PASS => limit::v4(transport, source).index(),
        decided => decided,
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn judge_v6(upper: u64, lower: u64, transport: u32) -> u32 {
    let (source, transport) = (access::bytes(Ip6(upper, lower)), Transport(transport));
    match access::v6(transport, source) {
        PASS => limit::v6(transport, source).index(),
        decided => decided,
    }
}
