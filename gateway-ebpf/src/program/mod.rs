//! The program: one pass over a frame, from its source address to a verdict.

mod access;
mod ban;
mod clock;
mod count;
mod limit;
mod log;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use gateway_ebpf::Reason;
use gateway_ebpf::packet::{Frame, Source};

// `frags`: without it a driver refuses the program when the MTU is above about 3.5 kB.
#[xdp(frags)]
pub fn gateway_xdp_v2(ctx: XdpContext) -> u32 {
    // SAFETY: the kernel hands over readable bytes from `data` to `data_end`, nobody writes them meanwhile, and the
    // verifier proves every access.
    let frame = unsafe { Frame::new(ctx.data() as *const u8, ctx.data_end() as *const u8) };
    let source = frame.source();
    let reason = match source {
        Source::V4(address) => match access::v4(frame, address) {
            Reason::Pass => limit::v4(frame, address),
            decided => decided,
        },
        Source::V6(address) => match access::v6(frame, address) {
            Reason::Pass => limit::v6(frame, address),
            decided => decided,
        },
        Source::NotIp => Reason::NotIp,
        Source::Malformed => Reason::Malformed,
    };
    count::packet(reason);
    if !reason.drops() {
        return XDP_PASS;
    }
    log::dropped(&ctx, source);
    XDP_DROP
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
