//! What the program tells about dropped packets: `drop_log` of `[xdp]`.

/// The ring of [`Drop`]s.
pub const DROPS: &str = "DROPS";

/// The map of how many drops each CPU tells of in a tick, one `u32`; 0 tells of none.
pub const DROPS_PER_TICK: &str = "DROPS_PER_TICK";

/// The [`Tally`] of every CPU.
pub const DROP_TALLY: &str = "DROP_TALLY";

/// Bytes of the ring. What every CPU of a large machine tells in the second in which user space is busy otherwise; more
/// is counted as untold.
pub const RING_BYTES: usize = 256 << 10;

/// Bytes of a frame that are told: Ethernet with two tags, IPv6 with as many bytes of extension headers, and the
/// transport header.
pub const HEAD_BYTES: usize = 128;

/// A dropped packet. User space reads addresses and ports out of the frame's head, so the program need not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Drop {
    /// The index of the [`Reason`](crate::Reason).
    pub reason: u32,
    /// The number of what dropped it: of a rule, plus one, when it is denied; of a service, plus one, when that refuses
    /// it; else 0.
    pub by: u32,
    /// The interface it came from.
    pub interface: u32,
    /// Drops of this CPU that were not told since the last one that was.
    pub untold: u32,
    /// Bytes of [`head`](Self::head) that are the frame's.
    pub length: u32,
    /// How the frame begins.
    pub head: [u8; HEAD_BYTES],
}

/// What a CPU has told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Tally {
    /// The tick in which [`told`](Self::told) counts.
    pub tick: u32,
    /// Drops told in this tick.
    pub told: u32,
    /// [`Drop::untold`] of the next one.
    pub untold: u32,
    /// Zero.
    pub unused: u32,
    /// All drops that were not told while there was a `drop_log`.
    pub untold_ever: u64,
}

// User space copies whole values: there must be no padding.
const _: () = {
    assert!(size_of::<Drop>() == 20 + HEAD_BYTES && align_of::<Drop>() == 4);
    assert!(size_of::<Tally>() == 24);
    assert!(RING_BYTES.is_power_of_two(), "the kernel wants pages, a power of two of them");
};

#[cfg(not(target_arch = "bpf"))]
mod pod {
    // SAFETY: integers without padding, as asserted above: every pattern of bytes is a value.
    unsafe impl aya::Pod for super::Tally {}
}
