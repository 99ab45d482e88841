//! The tables of bans: sources that the gateway refuses for a while, on top of `[[access]]`. They are apart from the
//! lists so that a ban costs the same however long these are, and outlives their exchange.

/// The map of banned IPv4 addresses, [`Ban`] by address.
pub const BANS_V4: &str = "BANS_V4";

/// The map of banned IPv6 networks of 64 bits, [`Ban`] by the upper half of the address.
pub const BANS_V6: &str = "BANS_V6";

/// Bans at once for each IP version. A full table refuses further ones: an attacker with many addresses must not push
/// out the bans of others.
pub const BANS_MAX: usize = 1 << 16;

/// The upper half of an IPv6 address: what one customer is given (RFC 6177), so what is banned.
pub type Network64 = [u8; 8];

/// A banned source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Ban {
    /// Packets dropped. The program adds atomically.
    pub packets: u64,
    /// The second of the boot clock from which it counts no more.
    pub expires_s: u32,
    /// Zero.
    pub unused: u32,
}

const _: () = assert!(size_of::<Ban>() == 16);

// SAFETY: integers without padding, as asserted above: every pattern of bytes is a value.
#[cfg(not(target_arch = "bpf"))]
unsafe impl aya::Pod for Ban {}
