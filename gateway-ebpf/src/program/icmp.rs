//! ICMP and ICMPv6: pings to a service's address, errors about packets of flows, and the error for a packet too big.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len};
use aya_ebpf::programs::XdpContext;
use gateway_ebpf::Reason;
use gateway_ebpf::abi::service::{Flow, FlowKey, mode};
use gateway_ebpf::packet::{Packet, Parsed, Shape, checksum, protocol};

use super::balance::flow_key;
use super::family::Family;
use super::send::{self, bytes};
use super::{count, drop, frame, is_all_here, is_to_a_group, parse, pass, pass_by, walk};

/// RFC 792 and RFC 4443 §4.1.
struct Types {
    echo: u8,
    reply: u8,
}

const V4: Types = Types { echo: 8, reply: 0 };
const V6: Types = Types { echo: 128, reply: 129 };

#[inline(never)]
pub fn packet<A: Family>(ctx: *mut xdp_md, otherwise: u32) -> u32 {
    let ctx = &XdpContext::new(ctx);
    let Some(packet) = parse::<A>(ctx) else { return pass(Reason::Malformed) };
    if !is_all_here(ctx, &packet) {
        return pass(Reason::Malformed);
    }
    let Some(header) = bytes(ctx, packet.transport, 8) else { return pass(Reason::Malformed) };
    // SAFETY: eight bytes are there.
    let (kind, code) = unsafe { (*header, *header.add(1)) };
    let types = if A::V6 { V6 } else { V4 };
    if kind == types.echo && code == 0 && packet.destination.is_vip() && !is_to_a_group(ctx) {
        return reply(ctx, &packet, header, types.reply);
    }
    if is_error::<A>(kind) {
        return error(ctx, &packet, otherwise);
    }
    pass_by(otherwise)
}

/// Destination unreachable, time exceeded, parameter problem; and packet too big in IPv6. Not redirects, which are for
/// the stack, nor source quench, which nobody heeds (RFC 6633).
#[inline(always)]
fn is_error<A: Family>(kind: u8) -> bool {
    if A::V6 { (1..=4).contains(&kind) } else { matches!(kind, 3 | 11 | 12) }
}

/// Answers a ping where it came from. The box need not have the address for this, and the answer is no larger than the
/// question.
#[inline(always)]
fn reply<A: Family>(ctx: &XdpContext, packet: &Packet<A>, header: *mut u8, kind: u8) -> u32 {
    // SAFETY: the type and the checksum lie within the eight bytes that the caller has found.
    unsafe {
        let old = u64::from(u16::from_ne_bytes([*header, 0]));
        *header = kind;
        let sum = header.add(2).cast::<u16>();
        *sum = checksum::add(*sum, u32::from(checksum::delta(old, u64::from(u16::from_ne_bytes([kind, 0])))));
    }
    let Some(ip) = bytes(ctx, packet.network, A::HEADER) else { return pass(Reason::Malformed) };
    // SAFETY: the whole header is there. To exchange the addresses changes no sum.
    unsafe { A::write(ip, packet.destination, packet.source, 0, false) };
    if turn_round(ctx).is_none() {
        return pass(Reason::Malformed);
    }
    count::packet(Reason::Ping);
    send::redirect(ctx.ingress_ifindex() as u32)
}

/// Exchanges the MAC addresses.
#[inline(always)]
pub fn turn_round(ctx: &XdpContext) -> Option<()> {
    let words = bytes(ctx, 0, 12)?.cast::<u32>();
    // SAFETY: twelve bytes are there; BPF loads and stores at any address.
    unsafe {
        let (a, b, c) = (*words, *words.add(1), *words.add(2));
        *words = (b >> 16) | (c << 16);
        *words.add(1) = (c >> 16) | (a << 16);
        *words.add(2) = (a >> 16) | (b << 16);
    }
    Some(())
}

/// An error about a packet that this box sent for a flow, else it passes. It takes the way of the packets that answer that one.
#[inline(always)]
fn error<A: Family>(ctx: &XdpContext, outer: &Packet<A>, otherwise: u32) -> u32 {
    let Parsed::Packet(quoted) = A::parse_quoted(frame(ctx), outer.transport + 8, walk(ctx)) else {
        return pass_by(otherwise);
    };
    let has_ports = matches!(quoted.protocol, protocol::TCP | protocol::UDP);
    if !has_ports || !matches!(quoted.shape, Shape::Whole | Shape::First(_)) {
        return pass_by(otherwise);
    }
    let key = answer_to(&quoted);
    let Some(flow) = A::established().get_ptr_mut(&key).or_else(|| A::half_open().get_ptr_mut(&key)) else {
        return pass_by(otherwise);
    };
    if outer.ttl <= 1 {
        return drop(Reason::Expired);
    }
    // SAFETY: an element of a map stays memory of the map while the program runs.
    let entry = unsafe { &*flow };
    let how = u32::from(entry.mode);
    if (how == mode::NAT || how == mode::DNAT) && translate(ctx, outer, &quoted, entry).is_none() {
        return pass_by(otherwise);
    }
    // `translate` does not touch what says how long the packet is and where its parts are.
    send::as_it_is::<A>(ctx.ctx, flow)
}

/// The key of packets that answer the quoted one.
#[inline(always)]
fn answer_to<A: Family>(quoted: &Packet<A>) -> FlowKey<A> {
    let key = flow_key(quoted);
    FlowKey { source: key.destination, destination: key.source, ports: key.ports.rotate_left(16), ..key }
}

/// Makes the error one about the packet as its sender sent it (RFC 5508 §4). A quoted transport checksum stays as it is:
/// most quotations end before it, and no receiver verifies one.
#[inline(always)]
fn translate<A: Family>(ctx: &XdpContext, outer: &Packet<A>, quoted: &Packet<A>, flow: &Flow<A>) -> Option<()> {
    let ports = bytes(ctx, quoted.transport, 4)?.cast::<u32>();
    let new_ports = flow.ports.rotate_left(16);
    let sum = |word: u32| u64::from(word & 0xffff) + u64::from(word >> 16);
    let outside = outer.source.sum() + outer.destination.sum();
    let inside = quoted.source.sum() + quoted.destination.sum();
    let new = flow.source.sum() + flow.destination.sum();
    // What the ICMP checksum covers: in IPv4 the quoted header's own checksum makes up for its addresses; in IPv6 it has
    // none, and the outer addresses are covered too (RFC 4443 §2.3).
    let (old_covered, new_covered) = if A::V6 { (inside + outside, new + new) } else { (0, 0) };
    let change = checksum::delta(old_covered + sum(quoted.ports), new_covered + sum(new_ports));
    let inner = bytes(ctx, quoted.network, A::HEADER)?;
    // SAFETY: the quoted header and its ports are there, and eight bytes of the ICMP header before them.
    unsafe {
        *ports = new_ports;
        A::write(inner, flow.destination, flow.source, checksum::delta(inside, new), false);
        let checksum = bytes(ctx, outer.transport, 8)?.add(2).cast::<u16>();
        *checksum = checksum::add(*checksum, u32::from(change));
        let header = bytes(ctx, outer.network, A::HEADER)?;
        A::write(header, flow.source, flow.destination, checksum::delta(outside, new), false);
    }
    Some(())
}

const DESTINATION_UNREACHABLE: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;
const PACKET_TOO_BIG: u8 = 2;
const ERROR_TTL: u8 = 64;
const ICMP_HEADER: usize = 8;

/// Bytes quoted of a packet: the longest header of IPv4 and eight bytes behind it (RFC 792), in IPv6 the header and as
/// much for extension headers and those eight. No link takes less than this of a packet.
#[inline(always)]
const fn quoted<A: Family>() -> usize {
    A::HEADER + 48
}

/// Tells the sender how large a packet may be (RFC 1191 §4, RFC 4443 §3.2). One of IPv4 that may be fragmented goes on
/// instead, by the stack, which can do that.
#[inline(never)]
pub fn too_big<A: Family>(ctx: *mut xdp_md, flow: *mut Flow<A>, mtu: u32) -> u32 {
    let ctx = &XdpContext::new(ctx);
    let Some(packet) = parse::<A>(ctx) else { return pass(Reason::Malformed) };
    if !A::V6 && may_be_fragmented(ctx, packet.network) {
        return send::by_the_stack::<A>(ctx.ctx, flow);
    }
    match tell(ctx, &packet, mtu) {
        Some(()) => {
            count::packet(Reason::TooBig);
            send::redirect(ctx.ingress_ifindex() as u32)
        }
        None => drop(Reason::NoRoom),
    }
}

#[inline(always)]
fn may_be_fragmented(ctx: &XdpContext, network: usize) -> bool {
    const DONT_FRAGMENT: u8 = 0x40;
    // SAFETY: the byte is there.
    bytes(ctx, network, 8).is_some_and(|header| unsafe { *header.add(6) } & DONT_FRAGMENT == 0)
}

/// Cuts the packet to what is quoted of it and puts an IP and an ICMP header before that.
#[inline(always)]
fn tell<A: Family>(ctx: &XdpContext, packet: &Packet<A>, mtu: u32) -> Option<()> {
    let network = packet.network;
    let before = A::HEADER + ICMP_HEADER;
    let message = ICMP_HEADER + quoted::<A>();
    turn_round(ctx)?;
    // SAFETY: the kernel's context.
    let length = unsafe { bpf_xdp_get_buff_len(ctx.ctx) } as i32;
    // SAFETY: the kernel's context; the frame is not used before it is asked for again.
    let cut = unsafe { bpf_xdp_adjust_tail(ctx.ctx, (network + quoted::<A>()) as i32 - length) };
    // SAFETY: as above.
    if cut != 0 || unsafe { bpf_xdp_adjust_head(ctx.ctx, -(before as i32)) } != 0 {
        return None;
    }
    send::move_ethernet_header(ctx, network, before)?;
    let header = bytes(ctx, network, A::HEADER)?;
    // SAFETY: the whole header is there.
    unsafe {
        send::write_header(header, message, A::ICMP as u8, ERROR_TTL, send::ATOMIC, packet.destination, packet.source)
    };
    let icmp = bytes(ctx, network + A::HEADER, message)?.cast::<u32>();
    let (kind, size) = if A::V6 {
        ([PACKET_TOO_BIG, 0, 0, 0], mtu.to_be())
    } else {
        ([DESTINATION_UNREACHABLE, FRAGMENTATION_NEEDED, 0, 0], (mtu & 0xffff).to_be())
    };
    // SAFETY: the words are those that `bytes` has found; BPF loads and stores at any address.
    unsafe {
        *icmp = u32::from_ne_bytes(kind);
        *icmp.add(1) = size;
        let mut sum = if A::V6 { pseudo_header(packet) } else { 0 };
        for word in 0..message / 4 {
            sum += u64::from(*icmp.add(word));
        }
        *icmp.cast::<u16>().add(1) = !checksum::fold(sum);
    }
    Some(())
}

/// RFC 8200 §8.1.
#[inline(always)]
fn pseudo_header<A: Family>(packet: &Packet<A>) -> u64 {
    let length = (ICMP_HEADER + quoted::<A>()) as u16;
    packet.source.sum() + packet.destination.sum() + u64::from(length.to_be()) + u64::from((A::ICMP as u16).to_be())
}
