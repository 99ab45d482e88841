//! What SYN cookies need to know: `syn_cookies` of `[xdp]`.

/// Constant, `u8`: 1 answers SYNs to listeners whose queue overflows.
pub const SYN_COOKIES: &str = "SYN_COOKIES";

/// The map of each interface's [`Station`], by the interface's number.
pub const STATIONS: &str = "STATIONS";

/// Interfaces. An interface that is removed and made again has another number, and counts again.
pub const STATIONS_MAX: usize = 4096;

/// A MAC address: its first four bytes and the last two, as they stand in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Station {
    /// Bytes 0 to 3.
    pub first: u32,
    /// Bytes 4 and 5.
    pub last: u16,
    /// Zero.
    pub unused: u16,
}

impl Station {
    /// The station of this MAC address.
    pub fn new([a, b, c, d, e, f]: [u8; 6]) -> Station {
        Station { first: u32::from_ne_bytes([a, b, c, d]), last: u16::from_ne_bytes([e, f]), unused: 0 }
    }
}

// User space copies whole values: there must be no padding.
const _: () = assert!(size_of::<Station>() == 8 && align_of::<Station>() == 4);

#[cfg(not(target_arch = "bpf"))]
mod pod {
    // SAFETY: integers without padding, as asserted above: every pattern of bytes is a value.
    unsafe impl aya::Pod for super::Station {}
}
