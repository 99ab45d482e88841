//! The program: one pass over a frame, from its addresses to a verdict.
//!
//! `source` (`access`, `ban`, `limit`) → `balance` (ports of no service pass) → `flow` → `begin` (a packet of no
//! established flow) → `send`. What is none of a cluster passes, but for a SYN that `cookie` answers.
//!
//! IPv6, and what is not a packet of an established flow, are BPF functions of their own: 512 bytes of stack are not
//! enough for all. Kernels before 6.9 count each function of a chain of calls in steps of 32 bytes, so a stage that needs
//! much says which one comes [next](Next), and the entry calls that when the stack is free again. Such a function gets the
//! context and parses again, which costs less than to pass a packet by memory.

mod access;
mod balance;
mod ban;
mod begin;
mod clock;
mod cookie;
mod count;
mod event;
mod family;
mod flow;
mod fragment;
mod icmp;
mod limit;
mod log;
mod next_hop;
mod probe;
mod send;
mod settings;
mod source;

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::bpf_xdp_get_buff_len;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use gateway_ebpf::Reason;
use gateway_ebpf::abi::service::{Ip4, Ip6};
use gateway_ebpf::packet::extensions::{self, Chain, Link};
use gateway_ebpf::packet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Frame, Ip, Packet, Parsed, Source};

// `frags`: without it a driver refuses the program when the MTU is above about 3.5 kB.
#[xdp(frags)]
pub fn gateway_xdp_v2(ctx: XdpContext) -> u32 {
    let next = match frame(&ctx).network() {
        Some((ETHERTYPE_IPV4, offset)) => v4(ctx.ctx, offset),
        Some((ETHERTYPE_IPV6, offset)) => v6(ctx.ctx, offset),
        Some(_) => return pass(Reason::NotIp),
        None => return pass(Reason::Malformed),
    };
    let verdict = match next & event::ACTION {
        Next::BEGIN_V4 => begin::packet::<Ip4>(ctx.ctx, next >> 8),
        Next::BEGIN_V6 => begin::packet::<Ip6>(ctx.ctx, next >> 8),
        Next::ICMP_V4 => icmp::packet::<Ip4>(ctx.ctx, next >> 8),
        Next::ICMP_V6 => icmp::packet::<Ip6>(ctx.ctx, next >> 8),
        Next::FRAGMENT_V4 => fragment::later::<Ip4>(ctx.ctx, next >> 8),
        Next::FRAGMENT_V6 => fragment::later::<Ip6>(ctx.ctx, next >> 8),
        _ => next,
    };
    let verdict = match verdict & event::ACTION {
        Next::SEND_V4 => send::begun::<Ip4>(ctx.ctx),
        Next::SEND_V6 => send::begun::<Ip6>(ctx.ctx),
        Next::COOKIE => cookie::answer_or_pass(ctx.ctx, verdict >> 8),
        _ => verdict,
    };
    event::told(&ctx, verdict)
}

/// What the short way of a packet ends in: a verdict, or one of these stages, which are called when its stack is free
/// again. Above a stage, the index of the reason why the packet passes if it is none of a cluster.
struct Next;

impl Next {
    const BEGIN_V4: u32 = 16;
    const BEGIN_V6: u32 = 17;
    const ICMP_V4: u32 = 18;
    const ICMP_V6: u32 = 19;
    const FRAGMENT_V4: u32 = 20;
    const FRAGMENT_V6: u32 = 21;
    /// These come last, and the others end in them too. Nothing is above the first two.
    const SEND_V4: u32 = 22;
    const SEND_V6: u32 = 23;
    const COOKIE: u32 = 24;

    #[inline(always)]
    const fn begin<A: Ip>(otherwise: Reason) -> u32 {
        (if A::V6 { Next::BEGIN_V6 } else { Next::BEGIN_V4 }) | otherwise.index() << 8
    }

    #[inline(always)]
    const fn send<A: Ip>() -> u32 {
        if A::V6 { Next::SEND_V6 } else { Next::SEND_V4 }
    }

    #[inline(always)]
    const fn fragment<A: Ip>(otherwise: Reason) -> u32 {
        (if A::V6 { Next::FRAGMENT_V6 } else { Next::FRAGMENT_V4 }) | otherwise.index() << 8
    }

    #[inline(always)]
    const fn icmp<A: Ip>(otherwise: Reason) -> u32 {
        (if A::V6 { Next::ICMP_V6 } else { Next::ICMP_V4 }) | otherwise.index() << 8
    }
}

#[inline(never)]
fn v4(ctx: *mut xdp_md, offset: usize) -> u32 {
    let ctx = &XdpContext::new(ctx);
    let Parsed::Packet(packet) = Ip4::parse(frame(ctx), offset, walk(ctx)) else { return pass(Reason::Malformed) };
    match source::v4(&packet) {
        code @ (PASS | ALLOWED) => balance::packet(ctx, &packet, passing(code)),
        code => denied(ctx, code, Source::V4(packet.source.to_ne_bytes())),
    }
}

#[inline(never)]
fn v6(ctx: *mut xdp_md, offset: usize) -> u32 {
    let ctx = &XdpContext::new(ctx);
    let Parsed::Packet(packet) = Ip6::parse(frame(ctx), offset, walk(ctx)) else { return pass(Reason::Malformed) };
    match source::v6(&packet) {
        code @ (PASS | ALLOWED) => balance::packet(ctx, &packet, passing(code)),
        code => denied(ctx, code, Source::V6(access::bytes(packet.source))),
    }
}

/// Parses the frame again, for the stages that are functions of their own.
#[inline(always)]
fn parse<A: Ip>(ctx: &XdpContext) -> Option<Packet<A>> {
    let (_, offset) = frame(ctx).network()?;
    match A::parse(frame(ctx), offset, walk(ctx)) {
        Parsed::Packet(packet) => Some(packet),
        Parsed::Malformed => None,
    }
}

/// The walk over a packet's extension headers.
#[inline(always)]
fn walk(ctx: &XdpContext) -> impl FnOnce(Link) -> Chain {
    let ctx = ctx.ctx;
    move |start| Chain(walk_extensions(ctx, start.0))
}

/// Global, so that the verifier looks at it once, and not again for every stage that parses.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn walk_extensions(ctx: *mut xdp_md, start: u32) -> u64 {
    extensions::walk(frame(&XdpContext::new(ctx)), Link(start)).0
}

const PASS: u32 = Reason::Pass.index();
const ALLOWED: u32 = Reason::Allowed.index();

/// What a packet that may go on is called, should no other stage take it.
#[inline(always)]
fn passing(code: u32) -> Reason {
    if code == ALLOWED { Reason::Allowed } else { Reason::Pass }
}

#[inline(always)]
fn denied(ctx: &XdpContext, code: u32, source: Source) -> u32 {
    log::dropped(ctx, source);
    count::index(code & 0xff);
    event::drop(code)
}

/// Whether the frame has all of its packet. One that was cut on its way is for the stack to refuse: nobody can tell
/// whether its checksum was right.
#[inline(always)]
fn is_all_here<A>(ctx: &XdpContext, packet: &Packet<A>) -> bool {
    let end = packet.network + packet.length as usize;
    // SAFETY: the kernel's context. Of a large frame only the first part is between `data` and `data_end`.
    ctx.data() + end <= ctx.data_end() || unsafe { bpf_xdp_get_buff_len(ctx.ctx) } as usize >= end
}

/// Whether the frame is for a group of stations, as broadcasts are. RFC 1122 §3.3.6 has the stack discard a packet to one
/// host's address in such a frame, and what XDP sends in its place would have the group as its source.
#[inline(always)]
fn is_to_a_group(ctx: &XdpContext) -> bool {
    // SAFETY: the byte is there.
    send::bytes(ctx, 0, 6).is_some_and(|to| unsafe { *to } & 1 != 0)
}

/// Whether all of the frame may be read directly. Of a large one the stack reads on where the parser has to end.
#[inline(always)]
fn is_all_in_sight(ctx: &XdpContext) -> bool {
    // SAFETY: the kernel's context.
    let length = unsafe { bpf_xdp_get_buff_len(ctx.ctx) };
    length as usize <= ctx.data_end() - ctx.data()
}

#[inline(always)]
fn frame(ctx: &XdpContext) -> Frame {
    // SAFETY: the kernel hands over readable bytes from `data` to `data_end`, nobody else writes them meanwhile, no frame
    // is kept across a write, and the verifier proves every access.
    unsafe { Frame::new(ctx.data() as *const u8, ctx.data_end() as *const u8) }
}

#[inline(always)]
fn pass(reason: Reason) -> u32 {
    pass_by(reason.index())
}

/// `reason` is the index of one.
#[inline(always)]
fn pass_by(reason: u32) -> u32 {
    count::index(reason);
    XDP_PASS
}

#[inline(always)]
fn drop(reason: Reason) -> u32 {
    drop_by(reason, 0)
}

/// `by` is the number of the service that drops it, plus one.
#[inline(always)]
fn drop_by(reason: Reason, by: u32) -> u32 {
    count::packet(reason);
    event::drop(event::code(reason, by))
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // The verifier refuses a loop that never ends, so a path that could panic does not load.
    loop {}
}

// Some helpers are for GPL-compatible programs only; the kernel knows this spelling (include/linux/license.h).
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
