//! Health checks by way of a virtual address, at the interface's tc hooks: what leaves this box never meets XDP.

use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::bindings::{
    __sk_buff, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR,
    TC_ACT_UNSPEC,
};
use aya_ebpf::btf_maps::{Array, LruHashMap};
use aya_ebpf::helpers::generated::{
    bpf_csum_diff, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_adjust_room, bpf_skb_pull_data,
    bpf_skb_store_bytes,
};
use aya_ebpf::macros::{btf_map, classifier};
use aya_ebpf::programs::TcContext;
use gateway_ebpf::abi::probe::{ANSWERS_FOR, MARK, MARK_NUMBER, PROBES_MAX, Probe, TARGETS_MAX, Target, key};
use gateway_ebpf::abi::service::{Ip4, Ip6, mode};
use gateway_ebpf::packet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Frame, Packet, Parsed, Shape, extensions, protocol};

use super::family::Family;
use super::send::{ATOMIC, IPPROTO_IPIP, IPPROTO_IPV6, OUTER_TTL, write_header};
use super::settings;

#[btf_map]
static PROBE_TARGETS: Array<Target, TARGETS_MAX> = Array::new();
#[btf_map]
static PROBES: LruHashMap<u32, Probe, PROBES_MAX> = LruHashMap::new();

/// `BPF_F_IPV6`: the sum that a card has made of the whole packet (`CHECKSUM_COMPLETE`) stays as it is, for in IPv6 the
/// change of the address and that of the checksum make up for each other.
const BPF_F_IPV6: u64 = 1 << 7;

/// Bytes that are read: Ethernet, IPv6, TCP.
const HEADERS: u32 = 14 + 40 + 20;

/// The addresses of an IP header, by the offset from its start.
#[derive(Clone, Copy)]
enum Field {
    Source,
    Destination,
}

/// Where packets leave. Those without the mark cost a load.
#[classifier]
pub fn probe_out(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the kernel's context.
    let mark = unsafe { (*skb).mark };
    if mark & !MARK_NUMBER == MARK
        && let Some(target) = PROBE_TARGETS.get(mark & MARK_NUMBER)
    {
        // The mark has done its work. Who looks at packets behind this program, a gateway that takes over included, sees
        // an ordinary one.
        // SAFETY: as above; programs of this type may write the mark.
        unsafe { (*skb).mark = 0 };
        match network(skb) {
            Some((ETHERTYPE_IPV4, offset)) if target.version == 4 => send::<Ip4>(skb, offset, target),
            Some((ETHERTYPE_IPV6, offset)) if target.version == 6 => send::<Ip6>(skb, offset, target),
            _ => None,
        };
    }
    TC_ACT_UNSPEC
}

/// Where packets come in.
#[classifier]
pub fn probe_in(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    match network(skb) {
        Some((ETHERTYPE_IPV4, offset)) => take::<Ip4>(skb, offset),
        Some((ETHERTYPE_IPV6, offset)) => take::<Ip6>(skb, offset),
        _ => None,
    };
    TC_ACT_UNSPEC
}

/// Sends a packet to the virtual address, by the way that the kernel has found to the endpoint.
#[inline(always)]
fn send<A: Family>(skb: *mut __sk_buff, offset: usize, target: &Target) -> Option<()> {
    let packet = parse::<A>(skb, offset)?;
    let key = key(packet.protocol, packet.ports as u16);
    let probe = Probe {
        endpoint: packet.destination.widen(),
        vip: target.vip,
        source: packet.source.widen(),
        sent: settings::tick(),
        unused: 0,
    };
    PROBES.insert(&key, &probe, 0).ok()?;
    replace(skb, &packet, Field::Destination, packet.destination, A::narrow(target.vip))?;
    if target.mode == mode::IPIP { encapsulate(skb, &packet) } else { Some(()) }
}

/// Takes an answer of the virtual address as one of the endpoint that was asked. Answers to clients, which come by here
/// where this box routes them or is their bridge, have the same source, and maybe the port of a check.
#[inline(always)]
fn take<A: Family>(skb: *mut __sk_buff, offset: usize) -> Option<()> {
    let packet = parse::<A>(skb, offset)?;
    let probe = PROBES.get_ptr(&key(packet.protocol, (packet.ports >> 16) as u16))?;
    // SAFETY: the kernel's pointer to an entry, which stays readable until the program ends.
    let probe = unsafe { *probe };
    let is_answer = packet.source == A::narrow(probe.vip) && packet.destination == A::narrow(probe.source);
    if !is_answer || settings::tick().saturating_sub(probe.sent) > ANSWERS_FOR {
        return None;
    }
    replace(skb, &packet, Field::Source, packet.source, A::narrow(probe.endpoint))
}

/// Writes an address, and the checksums for it.
#[inline(always)]
fn replace<A: Family>(skb: *mut __sk_buff, packet: &Packet<A>, field: Field, mut old: A, mut new: A) -> Option<()> {
    let size = size_of::<A>() as u32;
    let is_udp = packet.protocol == protocol::UDP;
    let checksum = packet.transport as u32 + if is_udp { 6 } else { 16 };
    // A datagram of IPv4 may have no checksum, and keeps none.
    let flags = u64::from(BPF_F_PSEUDO_HDR | if is_udp && !A::V6 { BPF_F_MARK_MANGLED_0 } else { 0 });
    let network = packet.network as u32;
    let at = network
        + match (field, A::V6) {
            (Field::Source, false) => 12,
            (Field::Destination, false) => 16,
            (Field::Source, true) => 8,
            (Field::Destination, true) => 24,
        };
    // SAFETY: the pointers are to addresses of the size given, and the context is the kernel's.
    unsafe {
        let change = bpf_csum_diff((&raw mut old).cast(), size, (&raw mut new).cast(), size, 0) as u64;
        // Kernels without the flag refuse it, and then what the card has said of the checksum is lost with it.
        let is_done = A::V6 && bpf_l4_csum_replace(skb, checksum, 0, change, flags | BPF_F_IPV6) == 0;
        if (!is_done && bpf_l4_csum_replace(skb, checksum, 0, change, flags) != 0)
            || (!A::V6 && bpf_l3_csum_replace(skb, network + 10, 0, change, 0) != 0)
        {
            return None;
        }
        (bpf_skb_store_bytes(skb, at, (&raw const new).cast(), size, 0) == 0).then_some(())
    }
}

/// Puts the packet inside another one to the endpoint, whose address it had.
#[inline(always)]
fn encapsulate<A: Family>(skb: *mut __sk_buff, packet: &Packet<A>) -> Option<()> {
    /// Aligned for the stack, where BPF stores at aligned addresses only.
    #[repr(C, align(8))]
    struct Header([u8; 40]);
    let flags = if A::V6 { BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 } else { BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 };
    let kind = if A::V6 { IPPROTO_IPV6 } else { IPPROTO_IPIP };
    let mut header = Header([0; 40]);
    // SAFETY: the buffer has room for the header of either version, and the context is the kernel's.
    unsafe {
        if bpf_skb_adjust_room(skb, A::HEADER as i32, BPF_ADJ_ROOM_MAC, flags.into()) != 0 {
            return None;
        }
        let start = header.0.as_mut_ptr();
        write_header(start, packet.length as usize, kind, OUTER_TTL, ATOMIC, packet.source, packet.destination);
        let stored = bpf_skb_store_bytes(skb, packet.network as u32, start.cast(), A::HEADER as u32, 0);
        (stored == 0).then_some(())
    }
}

/// A whole packet with ports.
#[inline(always)]
fn parse<A: Family>(skb: *mut __sk_buff, offset: usize) -> Option<Packet<A>> {
    let Parsed::Packet(packet) = A::parse(frame(skb), offset, extensions::over(frame(skb))) else { return None };
    let has_ports = matches!(packet.protocol, protocol::TCP | protocol::UDP);
    (has_ports && matches!(packet.shape, Shape::Whole)).then_some(packet)
}

/// The EtherType and the offset of what it announces, with the headers where they can be read.
#[inline(always)]
fn network(skb: *mut __sk_buff) -> Option<(u16, usize)> {
    // SAFETY: the kernel's context.
    let (length, there) = unsafe { ((*skb).len, (*skb).data_end - (*skb).data) };
    let wanted = if length < HEADERS { length } else { HEADERS };
    // SAFETY: as above. The frame is not used before it is asked for again.
    if there < wanted && unsafe { bpf_skb_pull_data(skb, wanted) } != 0 {
        return None;
    }
    frame(skb).network()
}

#[inline(always)]
fn frame(skb: *mut __sk_buff) -> Frame {
    // SAFETY: the kernel hands over readable bytes from `data` to `data_end`, nobody else writes them meanwhile, no frame
    // is kept across a helper that may move them, and the verifier proves every access.
    unsafe { Frame::new((*skb).data as usize as *const u8, (*skb).data_end as usize as *const u8) }
}
