//! Second stage: packets of established flows, by the shortest way.

use aya_ebpf::programs::XdpContext;
use gateway_ebpf::Reason;
use gateway_ebpf::abi::service::FlowKey;
use gateway_ebpf::packet::{Packet, Shape, protocol};

use super::family::Family;
use super::{Next, cookie, drop, flow, is_all_here, is_all_in_sight, pass, send, settings};

/// `otherwise` is what an earlier stage calls the packet when it is none of a service.
#[inline(always)]
pub fn packet<A: Family>(ctx: &XdpContext, packet: &Packet<A>, otherwise: Reason) -> u32 {
    match packet.shape {
        Shape::Whole => {}
        Shape::Cut if is_all_in_sight(ctx) => return pass(Reason::Malformed),
        Shape::Cut | Shape::Hidden => return drop(Reason::HiddenPorts),
        Shape::First(_) => return first_fragment(packet, otherwise),
        Shape::Later(_) => return Next::fragment::<A>(otherwise),
    }
    match packet.protocol {
        protocol::TCP | protocol::UDP if settings::may_know_ports(packet) => {
            if is_all_here(ctx, packet) {
                with_ports(ctx, packet, otherwise)
            } else {
                pass(Reason::Malformed)
            }
        }
        icmp if icmp == A::ICMP => Next::icmp::<A>(otherwise),
        _ => cookie::or_pass(packet, otherwise),
    }
}

/// Fragments are rare, so all take the long way.
#[inline(always)]
fn first_fragment<A: Family>(packet: &Packet<A>, otherwise: Reason) -> u32 {
    match packet.protocol {
        protocol::TCP | protocol::UDP if settings::may_know_ports(packet) => Next::begin::<A>(otherwise),
        _ => pass(otherwise),
    }
}

#[inline(always)]
fn with_ports<A: Family>(ctx: &XdpContext, packet: &Packet<A>, otherwise: Reason) -> u32 {
    let key = flow_key(packet);
    let now = settings::tick();
    let found = A::established().get_ptr_mut(&key).or_else(|| flow::one_sided(&key));
    let Some(found) = found else { return Next::begin::<A>(otherwise) };
    if !flow::usable(found, packet, now) {
        return Next::begin::<A>(otherwise);
    }
    if flow::ends(packet) {
        flow::note_end(&key, found, packet.flags);
    }
    send::packet(ctx, packet, found, now)
}

#[inline(always)]
pub fn flow_key<A: Family>(packet: &Packet<A>) -> FlowKey<A> {
    FlowKey { source: packet.source, destination: packet.destination, ports: packet.ports, protocol: packet.protocol }
}
