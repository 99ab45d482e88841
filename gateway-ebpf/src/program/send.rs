//! Last stage: a packet becomes what its flow says, and leaves.

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_redirect, bpf_xdp_adjust_head};
use aya_ebpf::programs::XdpContext;
use gateway_ebpf::Reason;
use gateway_ebpf::abi::service::{Flow, mode};
use gateway_ebpf::packet::{ETHERNET_HEADER, Packet, Shape, VLAN_TAGS_MAX, checksum, protocol};

use super::balance::flow_key;
use super::family::Family;
use super::{count, drop, fragment, icmp, next_hop, parse, pass, settings};

/// The TTL of an outer header: the default of most stacks.
pub const OUTER_TTL: u8 = 64;
pub const IPPROTO_IPIP: u8 = 4;
pub const IPPROTO_IPV6: u8 = 41;

/// Bytes of the TCP header up to the end of its checksum, and of a UDP header.
const TCP_REACH: usize = 18;
const TCP_CHECKSUM: usize = 16;
const UDP_REACH: usize = 8;
const UDP_CHECKSUM: usize = 6;

/// Sends a packet of which `begin` has found, moved or made the flow.
#[inline(never)]
pub fn begun<A: Family>(ctx: *mut xdp_md) -> u32 {
    let ctx = &XdpContext::new(ctx);
    let Some(parsed) = parse::<A>(ctx) else { return pass(Reason::Malformed) };
    let key = flow_key(&parsed);
    // In the order in which `begin` looks.
    let found = A::half_open().get_ptr_mut(&key).or_else(|| A::established().get_ptr_mut(&key));
    let Some(flow) = found else { return drop(Reason::NoRoom) };
    if let Shape::First(id) = parsed.shape {
        // SAFETY: an element of a map stays memory of the map while the program runs.
        fragment::remember(&parsed, id, unsafe { &*flow });
    }
    packet(ctx, &parsed, flow, settings::tick())
}

/// Sends a packet of `flow` on its way; `now` is the tick.
#[inline(always)]
pub fn packet<A: Family>(ctx: &XdpContext, packet: &Packet<A>, pointer: *mut Flow<A>, now: u32) -> u32 {
    if packet.ttl <= 1 {
        return drop(Reason::Expired);
    }
    // SAFETY: an element of a map stays memory of the map while the program runs.
    let resolved = unsafe { (*pointer).resolved };
    if resolved != now && next_hop::refresh(ctx.ctx, pointer, packet.network, now) != 0 {
        return by_the_stack::<A>(ctx.ctx, pointer);
    }
    // SAFETY: as above; other CPUs write single fields of which each value may be read.
    let flow = unsafe { &*pointer };
    let how = u32::from(flow.mode);
    let overhead = if how == mode::IPIP { A::HEADER as u32 } else { 0 };
    if flow.mtu != 0 && packet.length + overhead > u32::from(flow.mtu) {
        return icmp::too_big(ctx.ctx, pointer, u32::from(flow.mtu) - overhead);
    }
    count_packet(packet, flow);
    let sent = match how {
        mode::NAT | mode::DNAT => rewrite(ctx, packet, flow, true),
        mode::IPIP => return encapsulated::<A>(ctx.ctx, pointer),
        _ => Some(()),
    };
    match sent.and_then(|()| address(ctx, flow)) {
        Some(()) => leave(flow),
        None => drop(Reason::NoRoom),
    }
}

#[inline(always)]
fn count_packet<A: Family>(packet: &Packet<A>, flow: &Flow<A>) {
    let bytes = u64::from(packet.length);
    count::backend(flow.backend, |counts| {
        if flow.reverse != 0 {
            counts.answer_packets += 1;
            counts.answer_bytes += bytes;
        } else {
            counts.packets += 1;
            counts.bytes += bytes;
        }
    });
}

#[inline(always)]
fn leave<A>(flow: &Flow<A>) -> u32 {
    count::packet(Reason::Forwarded);
    redirect(flow.interface)
}

/// Not `XDP_TX`, even to where the packet came from: on a veth that needs an XDP program at the other end.
#[inline(always)]
pub fn redirect(interface: u32) -> u32 {
    // SAFETY: the helper takes numbers.
    (unsafe { bpf_redirect(interface, 0) }) as u32
}

/// Writes the flow's MAC addresses.
#[inline(always)]
pub fn address<A>(ctx: &XdpContext, flow: &Flow<A>) -> Option<()> {
    let words = bytes(ctx, 0, 12)?.cast::<u32>();
    // SAFETY: twelve bytes are there; BPF stores at any address.
    unsafe {
        *words = flow.macs[0];
        *words.add(1) = flow.macs[1];
        *words.add(2) = flow.macs[2];
    }
    Some(())
}

/// `length` bytes of the frame at `offset`, if it has them.
#[inline(always)]
pub fn bytes(ctx: &XdpContext, offset: usize, length: usize) -> Option<*mut u8> {
    let at = ctx.data() + offset;
    (at + length <= ctx.data_end()).then_some(at as *mut u8)
}

/// Writes the addresses of a packet that has no ports, in the modes that change them; false if it has no room for them.
#[inline(always)]
pub fn readdress<A: Family>(ctx: &XdpContext, packet: &Packet<A>, flow: *mut Flow<A>) -> bool {
    // SAFETY: an element of a map stays memory of the map while the program runs.
    let flow = unsafe { &*flow };
    if !matches!(u32::from(flow.mode), mode::NAT | mode::DNAT) {
        return true;
    }
    let Some(header) = bytes(ctx, packet.network, A::HEADER) else { return false };
    // SAFETY: the whole header is there.
    unsafe { A::write(header, flow.source, flow.destination, flow.ip_delta, false) };
    true
}

/// Writes addresses, ports and checksums. `hop` counts this box as one.
#[inline(always)]
fn rewrite<A: Family>(ctx: &XdpContext, packet: &Packet<A>, flow: &Flow<A>, hop: bool) -> Option<()> {
    let header = bytes(ctx, packet.network, A::HEADER)?;
    // SAFETY: the whole header is there.
    unsafe { A::write(header, flow.source, flow.destination, flow.ip_delta, hop) };
    let delta = u32::from(flow.transport_delta);
    if packet.protocol == protocol::TCP {
        let transport = bytes(ctx, packet.transport, TCP_REACH)?;
        // SAFETY: the fields lie within the bytes that are there; BPF stores at any address.
        unsafe {
            *transport.cast::<u32>() = flow.ports;
            let sum = transport.add(TCP_CHECKSUM).cast::<u16>();
            *sum = checksum::add(*sum, delta);
        }
    } else {
        let transport = bytes(ctx, packet.transport, UDP_REACH)?;
        // SAFETY: as above.
        unsafe {
            *transport.cast::<u32>() = flow.ports;
            let sum = transport.add(UDP_CHECKSUM).cast::<u16>();
            *sum = checksum::add_udp(*sum, delta, !A::V6);
        }
    }
    Some(())
}

/// Gives the stack the packet as it should leave: it finds out the next hop's MAC address, and can fragment. But a packet
/// of mode `dsr` it would not send there.
#[inline(never)]
pub fn by_the_stack<A: Family>(ctx: *mut xdp_md, flow: *mut Flow<A>) -> u32 {
    let ctx = &XdpContext::new(ctx);
    let Some(packet) = parse::<A>(ctx) else { return pass(Reason::Malformed) };
    // SAFETY: an element of a map stays memory of the map while the program runs.
    let flow = unsafe { &*flow };
    let ready = match u32::from(flow.mode) {
        mode::NAT | mode::DNAT => rewrite(ctx, &packet, flow, false),
        mode::IPIP => encapsulate(ctx, &packet, flow),
        _ => return drop(Reason::NoNeighbour),
    };
    match ready {
        Some(()) => {
            count_packet(&packet, flow);
            count::packet(Reason::Unresolved);
            XDP_PASS
        }
        None => drop(Reason::NoRoom),
    }
}

/// Sends a packet of mode `ipip`.
#[inline(never)]
fn encapsulated<A: Family>(ctx: *mut xdp_md, pointer: *mut Flow<A>) -> u32 {
    let ctx = &XdpContext::new(ctx);
    let Some(packet) = parse::<A>(ctx) else { return pass(Reason::Malformed) };
    // SAFETY: an element of a map stays memory of the map while the program runs.
    let flow = unsafe { &*pointer };
    match encapsulate(ctx, &packet, flow).and_then(|()| address(ctx, flow)) {
        Some(()) => leave(flow),
        None => drop(Reason::NoRoom),
    }
}

/// Puts the packet inside another one to the backend (RFC 2003 §3, RFC 2473 §3). The Ethernet header, with its tags,
/// moves to the new start of the frame.
#[inline(always)]
fn encapsulate<A: Family>(ctx: &XdpContext, packet: &Packet<A>, flow: &Flow<A>) -> Option<()> {
    let inner = bytes(ctx, packet.network, A::HEADER)?;
    // SAFETY: the whole header is there. A packet that is forwarded into a tunnel has one hop more behind it.
    let id = unsafe {
        A::hop(inner);
        tunnel_id::<A>(inner)
    };
    // SAFETY: the kernel's context; the frame is not used before it is asked for again.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -(A::HEADER as i32)) } != 0 {
        return None;
    }
    move_ethernet_header(ctx, packet.network, A::HEADER)?;
    let outer = bytes(ctx, packet.network, A::HEADER)?;
    let kind = if A::V6 { IPPROTO_IPV6 } else { IPPROTO_IPIP };
    // SAFETY: the whole header is there.
    unsafe { write_header(outer, packet.length as usize, kind, OUTER_TTL, id, flow.source, flow.destination) };
    Some(())
}

/// The identification of an outer header: a packet that may be fragmented may be so inside another one too (RFC 2003
/// §3.1).
///
/// # Safety
///
/// `inner` points to `A::HEADER` readable bytes.
#[inline(always)]
unsafe fn tunnel_id<A: Family>(inner: *const u8) -> u16 {
    const DONT_FRAGMENT: u8 = 0x40;
    // SAFETY: the byte is in the header of RFC 791 §3.1 that the caller vouches for.
    if A::V6 || unsafe { *inner.add(6) } & DONT_FRAGMENT != 0 {
        return ATOMIC;
    }
    // SAFETY: the helper has no arguments.
    (unsafe { bpf_get_prandom_u32() } as u16).max(1)
}

/// Moves the Ethernet header of `length` bytes down by `distance` to the frame's start.
#[inline(always)]
pub fn move_ethernet_header(ctx: &XdpContext, length: usize, distance: usize) -> Option<()> {
    const MAX: usize = ETHERNET_HEADER + 4 * VLAN_TAGS_MAX;
    let words = bytes(ctx, 0, MAX + distance)?.cast::<u16>();
    for word in 0..MAX / 2 {
        if word * 2 < length {
            // SAFETY: both lie within the bytes that are there. Going up, the copy reads nothing that it wrote, for it
            // goes down by more than its length.
            unsafe { *words.add(word) = *words.add(word + distance / 2) };
        }
    }
    Some(())
}

/// An identification that none needs: with it a packet of IPv4 has DF, and is an atomic datagram (RFC 6864 §4).
pub const ATOMIC: u16 = 0;

/// Writes an IP header without options before `payload` bytes.
///
/// # Safety
///
/// `header` points to `A::HEADER` writable bytes.
#[inline(always)]
pub unsafe fn write_header<A: Family>(
    header: *mut u8,
    payload: usize,
    kind: u8,
    ttl: u8,
    id: u16,
    source: A,
    destination: A,
) {
    let words = header.cast::<u32>();
    // SAFETY: the fields lie within the header; BPF stores at any address.
    unsafe {
        if A::V6 {
            let [high, low] = (payload as u16).to_be_bytes();
            *words = u32::from_ne_bytes([0x60, 0, 0, 0]);
            *words.add(1) = u32::from_ne_bytes([high, low, kind, ttl]);
            *header.add(8).cast::<A>() = source;
            *header.add(24).cast::<A>() = destination;
        } else {
            let [high, low] = ((payload + A::HEADER) as u16).to_be_bytes();
            let [id_high, id_low] = id.to_be_bytes();
            let flags = if id == ATOMIC { 0x40 } else { 0 };
            let fields = [[0x45, 0, high, low], [id_high, id_low, flags, 0], [ttl, kind, 0, 0]].map(u32::from_ne_bytes);
            let sum = u64::from(fields[0]) + u64::from(fields[1]) + u64::from(fields[2]);
            *words = fields[0];
            *words.add(1) = fields[1];
            *words.add(2) = fields[2];
            *header.add(10).cast::<u16>() = !checksum::fold(sum + source.sum() + destination.sum());
            *header.add(12).cast::<A>() = source;
            *header.add(16).cast::<A>() = destination;
        }
    }
}

/// Sends a packet that needs no rewriting, or has it behind it: an ICMP error about the flow, a later fragment.
#[inline(never)]
pub fn as_it_is<A: Family>(ctx: *mut xdp_md, pointer: *mut Flow<A>) -> u32 {
    let ctx = &XdpContext::new(ctx);
    let Some(packet) = parse::<A>(ctx) else { return pass(Reason::Malformed) };
    // SAFETY: an element of a map stays memory of the map while the program runs.
    let (resolved, how) = unsafe { ((*pointer).resolved, u32::from((*pointer).mode)) };
    // SAFETY: as above.
    count_packet(&packet, unsafe { &*pointer });
    let now = settings::tick();
    if resolved != now && next_hop::refresh(ctx.ctx, pointer, packet.network, now) != 0 {
        count::packet(Reason::Unresolved);
        return XDP_PASS;
    }
    // SAFETY: as above.
    let flow = unsafe { &*pointer };
    if how == mode::IPIP {
        return encapsulated::<A>(ctx.ctx, pointer);
    }
    let Some(header) = bytes(ctx, packet.network, A::HEADER) else { return drop(Reason::NoRoom) };
    // SAFETY: the whole header is there.
    unsafe { A::hop(header) };
    match address(ctx, flow) {
        Some(()) => leave(flow),
        None => drop(Reason::NoRoom),
    }
}
