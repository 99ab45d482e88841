//! Fragments of packets of flows. Only the first one has ports, so it leaves a note for the others, which follow it.
//!
//! A later fragment that comes before the first one is passed, and the packet is lost: nothing is kept until it can be
//! judged, so nobody can make the box hold fragments (CVE-2018-5391).

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::btf_maps::LruHashMap;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::XdpContext;
use gateway_ebpf::Reason;
use gateway_ebpf::abi::service::{Flow, FlowKey, Ip4, Ip6};
use gateway_ebpf::packet::{Packet, Shape};

use super::family::Family;
use super::{drop, flow, is_all_here, parse, pass, pass_by, send, settings};

/// Packets whose fragments are on their way at once. They follow each other within microseconds.
const PACKETS: usize = 1 << 12;

#[btf_map]
static FRAGMENTS_V4: Notes<Ip4> = LruHashMap::new();
#[btf_map]
static FRAGMENTS_V6: Notes<Ip6> = LruHashMap::new();

/// What becomes of a packet's later fragments. The key has the packet's identification in place of the ports.
pub type Notes<A> = LruHashMap<FlowKey<A>, Flow<A>, PACKETS>;

pub fn v4() -> &'static Notes<Ip4> {
    &FRAGMENTS_V4
}

pub fn v6() -> &'static Notes<Ip6> {
    &FRAGMENTS_V6
}

/// Leaves the note of a first fragment with this identification.
#[inline(always)]
pub fn remember<A: Family>(packet: &Packet<A>, id: u32, flow: &Flow<A>) {
    const BPF_ANY: u64 = 0;
    // Without a note the others are lost, which is what happens to fragments.
    let _ = A::fragments().insert(key(packet, id), flow, BPF_ANY);
}

/// A later fragment.
#[inline(never)]
pub fn later<A: Family>(ctx: *mut xdp_md, otherwise: u32) -> u32 {
    let ctx = &XdpContext::new(ctx);
    let Some(packet) = parse::<A>(ctx) else { return pass(Reason::Malformed) };
    let Shape::Later(id) = packet.shape else { return pass(Reason::Malformed) };
    let now = settings::tick();
    let note = A::fragments().get_ptr_mut(key(&packet, id)).filter(|note| flow::note_is_usable(*note, now));
    let Some(flow) = note else {
        return pass_by(if packet.destination.is_vip() { Reason::Fragment.index() } else { otherwise });
    };
    if packet.ttl <= 1 {
        return drop(Reason::Expired);
    }
    if !is_all_here(ctx, &packet) {
        return pass(Reason::Malformed);
    }
    if !send::readdress(ctx, &packet, flow) {
        return pass(Reason::Malformed);
    }
    send::as_it_is::<A>(ctx.ctx, flow)
}

#[inline(always)]
fn key<A: Family>(packet: &Packet<A>, id: u32) -> FlowKey<A> {
    FlowKey { source: packet.source, destination: packet.destination, ports: id, protocol: packet.protocol }
}
