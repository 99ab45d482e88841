//! What user space tells the whole program, and the clock that its times are measured with.

use aya_ebpf::btf_maps::Array;
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use aya_ebpf::macros::btf_map;
use gateway_ebpf::abi::service::{PORT_WORDS, PortBits, Settings, TICK_SHIFT};
use gateway_ebpf::packet::{Packet, protocol};

#[btf_map]
static SETTINGS: Array<Settings, 1> = Array::new();
#[btf_map]
static PORTS: Array<PortBits, 1> = Array::new();

#[inline(always)]
pub fn get() -> Option<&'static Settings> {
    SETTINGS.get(0)
}

/// Now, in ticks since the machine started. They wrap after a century.
#[inline(always)]
pub fn tick() -> u32 {
    // SAFETY: the helper only reads the clock.
    (unsafe { bpf_ktime_get_coarse_ns() } >> TICK_SHIFT) as u32
}

/// Whether some service or flow may have the packet's ports. A lookup less than asking the tables, for the many packets
/// that are none of the program's business.
#[inline(always)]
pub fn may_know_ports<A>(packet: &Packet<A>) -> bool {
    let Some(bits) = PORTS.get(0) else { return false };
    let udp = if packet.protocol == protocol::UDP { PORT_WORDS } else { 0 };
    let (source, destination) = (u16::from_be(packet.ports as u16), u16::from_be((packet.ports >> 16) as u16));
    is_set(bits, udp, destination) || is_set(bits, udp + 2 * PORT_WORDS, source)
}

#[inline(always)]
fn is_set(bits: &PortBits, region: usize, port: u16) -> bool {
    let word = region + usize::from(port >> 6);
    // The region is a multiple of the words of one, so the mask changes nothing; it shows the verifier the bound.
    (bits.0[word & (4 * PORT_WORDS - 1)] >> (port & 63)) & 1 != 0
}
