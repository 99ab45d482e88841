//! Tells user space about dropped packets: a few in a second, of however many there are.
//!
//! Stages return a drop's reason with their verdict, so this is asked in one place. The writer is a BPF function of its
//! own that takes numbers only, as the stages' functions are: the verifier goes through it once.

use aya_ebpf::bindings::xdp_action::XDP_DROP;
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::btf_maps::{Array, PerCpuArray, RingBuf};
use aya_ebpf::helpers::generated::{bpf_xdp_get_buff_len, bpf_xdp_load_bytes};
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::XdpContext;
use gateway_ebpf::Reason;
use gateway_ebpf::abi::event::{Drop, HEAD_BYTES, RING_BYTES, Tally};
use gateway_ebpf::packet::ETHERNET_HEADER;

use super::settings;

#[btf_map]
static DROPS: RingBuf<Drop, RING_BYTES> = RingBuf::new();
#[btf_map]
static DROPS_PER_TICK: Array<u32, 1> = Array::new();
#[btf_map]
static DROP_TALLY: PerCpuArray<Tally, 1> = PerCpuArray::new();

/// What a verdict's reason is above of.
pub const ACTION: u32 = 0xff;

/// Why a packet is dropped: the reason, and above it [`Drop::by`].
#[inline(always)]
pub const fn code(reason: Reason, by: u32) -> u32 {
    reason.index() | by << 8
}

/// A stage's verdict for a packet that is dropped.
#[inline(always)]
pub const fn drop(code: u32) -> u32 {
    XDP_DROP | code << 8
}

/// The kernel's verdict out of a stage's; tells of a drop.
#[inline(always)]
pub fn told(ctx: &XdpContext, verdict: u32) -> u32 {
    if verdict & ACTION == XDP_DROP && wanted() != 0 {
        tell_drop(ctx.ctx, verdict);
    }
    verdict & ACTION
}

#[inline(always)]
fn wanted() -> u32 {
    // SAFETY: the kernel's pointer to the element of an array, which is there as long as the map.
    DROPS_PER_TICK.get_ptr(0).map_or(0, |word| unsafe { word.read_volatile() })
}

#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tell_drop(ctx: *mut xdp_md, verdict: u32) -> u32 {
    let Some(tally) = DROP_TALLY.get_ptr_mut(0) else { return 0 };
    // SAFETY: the element is this CPU's own, and the program is not interrupted by itself on one CPU.
    let tally = unsafe { &mut *tally };
    let now = settings::tick();
    if tally.tick != now {
        tally.tick = now;
        tally.told = 0;
    }
    if tally.told < wanted() && write(ctx, verdict, tally.untold) {
        tally.told += 1;
        tally.untold = 0;
    } else {
        tally.untold = tally.untold.saturating_add(1);
        tally.untold_ever += 1;
    }
    0
}

/// False when the ring is full, or the frame shorter than any.
#[inline(always)]
fn write(ctx: *mut xdp_md, verdict: u32, untold: u32) -> bool {
    // SAFETY: the kernel's context.
    let length = unsafe { bpf_xdp_get_buff_len(ctx) };
    let length = if length < HEAD_BYTES as u64 { length as u32 } else { HEAD_BYTES as u32 };
    if length < ETHERNET_HEADER as u32 {
        return false;
    }
    let Some(mut entry) = DROPS.reserve(0) else { return false };
    let event = entry.as_mut_ptr();
    // SAFETY: the entry is memory for a whole event, and the context is the kernel's.
    let copied = unsafe {
        (*event).reason = (verdict >> 8) & 0xff;
        (*event).by = verdict >> 16;
        (*event).interface = (*ctx).ingress_ifindex;
        (*event).untold = untold;
        (*event).length = length;
        bpf_xdp_load_bytes(ctx, 0, (&raw mut (*event).head).cast(), length)
    };
    if copied != 0 {
        entry.discard(0);
        return false;
    }
    entry.submit(0);
    true
}
