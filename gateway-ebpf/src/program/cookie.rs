//! SYN cookies (RFC 4987 §3.6) for the box's own listeners: while the queue of one overflows, its SYNs are answered here,
//! before the kernel spends memory and the way through the stack on them. The cookie is the kernel's own, so the stack
//! opens the connection when the last part of the handshake comes.
//!
//! The listener decides: the kernel makes a cookie only for one whose queue is full (`net.ipv4.tcp_syncookies = 1`), or
//! always (2), and it is told so, as it would refuse the handshake's last part otherwise. Flows that are balanced get
//! none: their sequence numbers are the endpoint's.
//!
//! A frame to another station is left alone, as the stack does: an interface in promiscuous mode sees those too, and the
//! address may be one that several boxes have.

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_NOT_FWDED, bpf_fib_lookup, xdp_md};
use aya_ebpf::btf_maps::HashMap;
use aya_ebpf::helpers::generated::{
    bpf_fib_lookup as look_up, bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_gen_syncookie, bpf_xdp_adjust_tail,
    bpf_xdp_get_buff_len, bpf_xdp_load_bytes,
};
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::XdpContext;
use gateway_ebpf::Reason;
use gateway_ebpf::abi::cookie::{STATIONS_MAX, Station};
use gateway_ebpf::abi::service::{Ip4, Ip6};
use gateway_ebpf::packet::{ACK, ETHERTYPE_IPV4, ETHERTYPE_IPV6, FIN, Ip, Packet, RST, SYN, Shape, checksum, protocol};

use super::balance::flow_key;
use super::family::Family;
use super::send::{self, bytes};
use super::{Next, count, drop, frame, icmp, parse, pass_by};

// Read-only, so the verifier removes the code that only 1 reaches.
#[unsafe(no_mangle)]
static SYN_COOKIES: Global<u8> = Global::new(0);

#[btf_map]
static STATIONS: HashMap<u32, Station, STATIONS_MAX> = HashMap::new();

/// `BPF_F_CURRENT_NETNS`
const OWN_NAMESPACE: u64 = u64::MAX;
/// `TCP_LISTEN`
const LISTENING: u32 = 10;
const TCP_HEADER_MIN: u32 = 20;
const TCP_HEADER_MAX: usize = 60;
const IPV6_HEADER: usize = <Ip6 as Ip>::HEADER;
/// A header with one option, the MSS. A cookie has no room for others, so the connection goes without them.
const SYN_ACK: usize = 24;
const SYN_ACK_TTL: u8 = 64;
/// What a window can be at most without scaling. The client's congestion window keeps it below what the listener takes.
const WINDOW: [u8; 2] = [0xff, 0xff];
/// The least that Ethernet carries, without the checksum: not every driver fills up what XDP sends.
const FRAME_MIN: usize = 60;

/// Passes a packet that is none of a cluster, unless it is a SYN and cookies are on: [`answer_or_pass`] has that one then.
#[inline(always)]
pub fn or_pass<A: Family>(packet: &Packet<A>, reason: Reason) -> u32 {
    or_pass_by(packet, reason.index())
}

/// `reason` is the index of one.
#[inline(always)]
pub fn or_pass_by<A: Family>(packet: &Packet<A>, reason: u32) -> u32 {
    let asks = packet.protocol == protocol::TCP && packet.flags & (SYN | ACK | RST | FIN) == SYN;
    if SYN_COOKIES.load() != 0 && asks && matches!(packet.shape, Shape::Whole) {
        return Next::COOKIE | reason << 8;
    }
    pass_by(reason)
}

/// Answers a SYN, or passes it for the reason of the index `otherwise`.
///
/// Global, so that the verifier looks at it once, and not for every way that leads here.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn answer_or_pass(ctx: *mut xdp_md, otherwise: u32) -> u32 {
    let ctx = &XdpContext::new(ctx);
    let answered = match frame(ctx).network() {
        Some((ETHERTYPE_IPV4, _)) => answer::<Ip4>(ctx),
        Some((ETHERTYPE_IPV6, _)) => answer::<Ip6>(ctx),
        _ => None,
    };
    answered.unwrap_or_else(|| pass_by(otherwise))
}

/// `None` leaves the SYN as it is, for the stack: there is no cookie, or IP options, which the stack heeds.
#[inline(always)]
fn answer<A: Family>(ctx: &XdpContext) -> Option<u32> {
    let packet = parse::<A>(ctx)?;
    if packet.transport != packet.network + A::HEADER || !is_to_this_interface(ctx) {
        return None;
    }
    let cookie = cookie(ctx, &packet)?;
    if !is_to_this_box(ctx, &packet) {
        return None;
    }
    let transport = bytes(ctx, packet.transport, 8)?.cast::<u32>();
    // SAFETY: the sequence number lies within the eight bytes; BPF loads from any address.
    let sequence = u32::from_be(unsafe { *transport.add(1) });
    resize(ctx, packet.transport + SYN_ACK)?;
    Some(match write(ctx, &packet, sequence, cookie).and_then(|()| icmp::turn_round(ctx)) {
        Some(()) => {
            count::packet(Reason::SynCookie);
            send::redirect(ctx.ingress_ifindex() as u32)
        }
        None => drop(Reason::NoRoom),
    })
}

/// Whether the frame is for the interface that it came in by. Not so are broadcasts, which no listener answers.
#[inline(always)]
fn is_to_this_interface(ctx: &XdpContext) -> bool {
    let interface = ctx.ingress_ifindex() as u32;
    let Some(to) = bytes(ctx, 0, 6) else { return false };
    let Some(own) = STATIONS.get_ptr(&interface) else { return false };
    // SAFETY: six bytes are there; BPF loads from any address. An element of a map stays memory of the map while the
    // program runs.
    unsafe {
        let to = (*to.cast::<u32>(), *to.add(4).cast::<u16>());
        to == ((*own).first, (*own).last)
    }
}

/// Whether the stack would not send the packet on: a listener on any address takes no connection that only goes through
/// this box. A box that forwards nothing has only packets to itself.
#[inline(always)]
fn is_to_this_box<A: Family>(ctx: &XdpContext, packet: &Packet<A>) -> bool {
    // SAFETY: the question is made of integers.
    let mut question: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    question.family = A::ADDRESS_FAMILY;
    question.ifindex = ctx.ingress_ifindex() as u32;
    A::ask(&mut question, packet.source, packet.destination);
    let size = size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: the pointers are to the context and to a question of the size given.
    let answer = unsafe { look_up(ctx.ctx.cast(), &mut question, size, 0) };
    answer == i64::from(BPF_FIB_LKUP_RET_NOT_FWDED) || answer == i64::from(BPF_FIB_LKUP_RET_FWD_DISABLED)
}

/// The sequence number to answer with and the MSS that it stands for.
struct Cookie {
    sequence: u32,
    mss: u16,
}

/// Asks the listening socket for a cookie.
#[inline(always)]
fn cookie<A: Family>(ctx: &XdpContext, packet: &Packet<A>) -> Option<Cookie> {
    // Begins as the kernel's `bpf_sock_tuple` does: addresses, then ports.
    let mut tuple = flow_key(packet);
    let size = (2 * size_of::<A>() + 4) as u32;
    // SAFETY: the pointers are to the context and to a tuple of at least the size given.
    let socket = unsafe { bpf_skc_lookup_tcp(ctx.ctx.cast(), (&raw mut tuple).cast(), size, OWN_NAMESPACE, 0) };
    if socket.is_null() {
        return None;
    }
    // SAFETY: not null, so a socket that lives until it is released.
    let cookie = if unsafe { (*socket).state } == LISTENING { generate(ctx, packet, socket.cast()) } else { None };
    // SAFETY: released once, and not used any more.
    unsafe { bpf_sk_release(socket.cast()) };
    cookie
}

/// The helper reads as many bytes as the TCP header is long. They are copied, as the frame may end behind them, and the
/// verifier wants to see that there is room for the longest.
#[inline(always)]
fn generate<A: Family>(ctx: &XdpContext, packet: &Packet<A>, socket: *mut core::ffi::c_void) -> Option<Cookie> {
    let header = bytes(ctx, packet.transport, TCP_HEADER_MIN as usize)?;
    // SAFETY: the byte lies within the header; its upper half is the length in words (RFC 9293 §3.1).
    let length = u32::from(unsafe { *header.add(12) } >> 4) * 4;
    // SAFETY: a value of this function. Volatile, so that what is compared is what the helpers are told.
    let length = unsafe { (&raw const length).read_volatile() };
    if length < TCP_HEADER_MIN || length > TCP_HEADER_MAX as u32 {
        return None;
    }
    let mut copy = [0_u32; (IPV6_HEADER + TCP_HEADER_MAX) / 4];
    let ip = copy.as_mut_ptr();
    let tcp = ip.wrapping_add(A::HEADER / 4);
    // SAFETY: the kernel's context; the copy has room for both headers, as the length is four bits in words.
    if unsafe { bpf_xdp_load_bytes(ctx.ctx, packet.network as u32, ip.cast(), A::HEADER as u32 + length) } != 0 {
        return None;
    }
    // SAFETY: a listening socket, and as many bytes of both headers as it is told.
    let made = unsafe { bpf_tcp_gen_syncookie(socket, ip.cast(), A::HEADER as u32, tcp.cast(), length) };
    // Negative: an error, or no cookie as the queue has room.
    (made > 0).then_some(Cookie { sequence: made as u32, mss: (made >> 32) as u16 })
}

/// Gives the frame the bytes of the answer. The kernel fills up with zeros.
#[inline(always)]
fn resize(ctx: &XdpContext, length: usize) -> Option<()> {
    let wanted = if length < FRAME_MIN { FRAME_MIN } else { length };
    // SAFETY: the kernel's context.
    let now = unsafe { bpf_xdp_get_buff_len(ctx.ctx) } as i32;
    // SAFETY: the kernel's context; the frame is not used before it is asked for again.
    let changed = unsafe { bpf_xdp_adjust_tail(ctx.ctx, wanted as i32 - now) };
    (changed == 0).then_some(())
}

/// Writes the answer over the SYN (RFC 9293 §3.1).
#[inline(always)]
fn write<A: Family>(ctx: &XdpContext, packet: &Packet<A>, sequence: u32, cookie: Cookie) -> Option<()> {
    let ip = bytes(ctx, packet.network, A::HEADER)?;
    let kind = protocol::TCP as u8;
    // SAFETY: the whole header is there.
    unsafe { send::write_header(ip, SYN_ACK, kind, SYN_ACK_TTL, send::ATOMIC, packet.destination, packet.source) };
    let tcp = bytes(ctx, packet.transport, SYN_ACK)?.cast::<u32>();
    let [mss_high, mss_low] = cookie.mss.to_be_bytes();
    let words = [
        packet.ports.rotate_left(16),
        cookie.sequence.to_be(),
        sequence.wrapping_add(1).to_be(),
        u32::from_ne_bytes([(SYN_ACK as u8 / 4) << 4, SYN | ACK, WINDOW[0], WINDOW[1]]),
        0,
        u32::from_ne_bytes([2, 4, mss_high, mss_low]),
    ];
    let length = u64::from((SYN_ACK as u16).to_be());
    let mut sum = packet.source.sum() + packet.destination.sum() + length + u64::from((protocol::TCP as u16).to_be());
    // SAFETY: the words are those that `bytes` has found; BPF stores at any address.
    unsafe {
        for (index, word) in words.into_iter().enumerate() {
            *tcp.add(index) = word;
            sum += u64::from(word);
        }
        *tcp.cast::<u16>().add(8) = !checksum::fold(sum);
    }
    Some(())
}
