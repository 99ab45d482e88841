//! Health checks of endpoints in the modes `dsr` and `ipip`: asked at a virtual address, as their clients ask them.
//!
//! The check's socket is connected to the endpoint's own address, so the kernel's routes lead there, and has a mark. A
//! program where packets leave makes the virtual address the destination of marked ones; one where packets come in makes
//! the endpoint's address the source of answers.

use super::service::Ip6;

/// The map of [`Target`]s, by the number in the mark.
pub const PROBE_TARGETS: &str = "PROBE_TARGETS";

/// The map of [`Probe`]s, by [`key`].
pub const PROBES: &str = "PROBES";

/// The program where packets leave.
pub const OUT: &str = "probe_out";

/// The program where packets come in.
pub const IN: &str = "probe_in";

/// Virtual addresses at once: one for each service.
pub const TARGETS_MAX: usize = super::service::SERVICES_MAX;

/// Checks whose answers may come: many times those that run at once.
pub const PROBES_MAX: usize = 4096;

/// The mark of a check's socket, with the number of its [`Target`] in the lower bits.
pub const MARK: u32 = 0x6877_0000;

/// The bits of a mark that are the number.
pub const MARK_NUMBER: u32 = TARGETS_MAX as u32 - 1;

/// Where marked packets are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Target {
    /// The virtual address; an [`Ip4`](super::service::Ip4) is in the low half of the first word.
    pub vip: Ip6,
    /// One of [`mode`](super::service::mode): `DSR` or `IPIP`.
    pub mode: u32,
    /// 6 or 4.
    pub version: u32,
}

/// A check on its way. It is the only one with its port: sockets of checks are bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Probe {
    /// The endpoint's own address.
    pub endpoint: Ip6,
    /// The virtual address.
    pub vip: Ip6,
    /// This box's address, which the answers go to.
    pub source: Ip6,
    /// The tick of the last packet to the endpoint.
    pub sent: u32,
    /// Zero.
    pub unused: u32,
}

/// Ticks after its last packet in which a check's answers may come: longer than a check takes. Later ones are not
/// touched, as the port may be another socket's.
pub const ANSWERS_FOR: u32 = 120;

/// The key of [`PROBES`]: the transport protocol and the box's port, as it stands in the packet.
#[inline(always)]
pub const fn key(protocol: u32, port: u16) -> u32 {
    protocol << 16 | port as u32
}

const _: () = {
    assert!(size_of::<Target>() == 24 && size_of::<Probe>() == 56);
    assert!(TARGETS_MAX.is_power_of_two() && MARK & MARK_NUMBER == 0);
};

#[cfg(not(target_arch = "bpf"))]
mod pod {
    // SAFETY: integers without padding, as asserted above: every pattern of bytes is a value.
    unsafe impl aya::Pod for super::Target {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Probe {}
}
