//! Log records of dropped packets, for debugging only.
//!
//! A record costs microseconds and an attacker decides how many there are. So it is off unless the gateway logs at
//! level debug, in which case the loader sets [`LOG_DROPS`]; while it is off the verifier removes this code, because
//! the constant is read-only. While it is on, each CPU writes at most [`RECORDS_PER_SECOND_MAX`].

use aya_ebpf::Global;
use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;
use gateway_ebpf::abi::LOG_TARGET;
use gateway_ebpf::packet::Source;

/// Enough to see who is dropped, and little enough that user space keeps up with every CPU at once.
const RECORDS_PER_SECOND_MAX: u32 = 100;

#[unsafe(no_mangle)]
static LOG_DROPS: Global<u8> = Global::new(0);

#[repr(C)]
struct Window {
    second: u32,
    records: u32,
}

#[btf_map]
static LOG_WINDOW: PerCpuArray<Window, 1> = PerCpuArray::new();

#[inline(always)]
pub fn dropped(ctx: &XdpContext, source: Source) {
    if LOG_DROPS.load() != 0 && within_rate() {
        record(ctx, source);
    }
}

#[inline(always)]
fn record(ctx: &XdpContext, source: Source) {
    let interface = ctx.ingress_ifindex();
    match source {
        Source::V4(address) => debug!(ctx, target: LOG_TARGET, "dropped {:i} on interface {}", address, interface),
        Source::V6(address) => debug!(ctx, target: LOG_TARGET, "dropped {:i} on interface {}", address, interface),
        Source::NotIp | Source::Malformed => {}
    }
}

#[inline(always)]
fn within_rate() -> bool {
    let Some(window) = LOG_WINDOW.get_ptr_mut(0) else { return false };
    // SAFETY: the element is this CPU's own, and the program is not interrupted by itself on one CPU.
    let window = unsafe { &mut *window };
    // SAFETY: the helper only reads the clock.
    let second = (unsafe { bpf_ktime_get_ns() } / 1_000_000_000) as u32;
    if window.second != second {
        *window = Window { second, records: 0 };
    }
    window.records += 1;
    window.records <= RECORDS_PER_SECOND_MAX
}
