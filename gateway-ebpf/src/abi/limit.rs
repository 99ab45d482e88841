//! The tables of `limits` of `[xdp]`: what one source may send.

/// The map of the [`Limits`], one element.
pub const LIMITS: &str = "LIMITS";

/// The map of IPv4 sources, [`Buckets`] by network.
pub const SOURCES_V4: &str = "SOURCES_V4";

/// The map of IPv6 sources, [`Buckets`] by network.
pub const SOURCES_V6: &str = "SOURCES_V6";

/// One bucket's size and flow, in thousandths of a token: a rate in a second is one of thousandths in a millisecond, so
/// nothing is divided and nothing rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Rate {
    /// What flows in during a millisecond; 0 is no limit.
    pub per_ms: u64,
    /// When it is full.
    pub full: u64,
}

impl Rate {
    /// A token, which is what a packet takes.
    pub const TOKEN: u64 = 1000;

    /// The rate of so many packets in a second, and so many at once.
    pub const fn new(per_second: u32, burst: u32) -> Rate {
        Rate { per_ms: per_second as u64, full: burst as u64 * Rate::TOKEN }
    }
}

/// What one source may send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Limits {
    /// TCP connection attempts.
    pub syn: Rate,
    /// Packets of any kind.
    pub packets: Rate,
    /// The bits of an IPv4 address that tell sources apart, as a mask in the packet's byte order.
    pub mask_v4: [u8; 4],
    /// 1 when there is any limit.
    pub on: u32,
    /// The bits of an IPv6 address that tell sources apart.
    pub mask_v6: [u8; 16],
    /// 1 counts and drops nothing.
    pub dry_run: u32,
    /// Zero.
    pub unused: u32,
}

/// What a source has left. Two CPUs may take the same token: that makes a limit a little more than it says, and saves
/// a lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Buckets {
    /// When it was counted, in milliseconds since the machine started.
    pub at_ms: u64,
    /// Thousandths of a token for connection attempts.
    pub syn: u64,
    /// Thousandths of a token for packets.
    pub packets: u64,
}

impl Buckets {
    /// Those of a source that was not seen before.
    #[inline(always)]
    pub const fn full(limits: &Limits, at_ms: u64) -> Buckets {
        Buckets { at_ms, syn: limits.syn.full, packets: limits.packets.full }
    }

    /// Lets in what flowed since the last packet.
    #[inline(always)]
    pub fn refill(&mut self, limits: &Limits, now_ms: u64) {
        // A day keeps the product in range.
        let passed = now_ms.saturating_sub(self.at_ms);
        let passed = if passed < 86_400_000 { passed } else { 86_400_000 };
        self.at_ms = now_ms;
        self.syn = filled(self.syn, limits.syn, passed);
        self.packets = filled(self.packets, limits.packets, passed);
    }
}

/// Takes a token, if there is one.
#[inline(always)]
pub fn take(bucket: &mut u64) -> bool {
    if *bucket < Rate::TOKEN {
        return false;
    }
    *bucket -= Rate::TOKEN;
    true
}

#[inline(always)]
fn filled(bucket: u64, rate: Rate, passed_ms: u64) -> u64 {
    let bucket = bucket + rate.per_ms * passed_ms;
    if bucket < rate.full { bucket } else { rate.full }
}

const _: () = {
    assert!(size_of::<Limits>() == 64 && size_of::<Buckets>() == 24);
    assert!(u32::MAX as u128 * (Rate::TOKEN + 86_400_000) as u128 <= u64::MAX as u128, "a refill must not overflow");
};

#[cfg(not(target_arch = "bpf"))]
mod pod {
    use super::{Buckets, Limits};

    // SAFETY: integers without padding, as asserted above: every pattern of bytes is a value.
    unsafe impl aya::Pod for Limits {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Buckets {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_gets_its_burst_at_once_and_its_rate_afterwards() {
        let limits = Limits { packets: Rate::new(10, 3), syn: Rate::new(1, 1), on: 1, ..Limits::default() };
        let mut buckets = Buckets::full(&limits, 0);
        let mut passes = |ms: u64| {
            buckets.refill(&limits, ms);
            (take(&mut buckets.packets), take(&mut buckets.syn))
        };
        let cases = [
            (0, (true, true)),
            (0, (true, false)),
            (0, (true, false)),
            (0, (false, false)),
            (50, (false, false)),
            (99, (false, false)),
            (100, (true, false)),
            (100, (false, false)),
            (1_000, (true, true)),
            (1_000, (true, false)),
            // A clock that goes back gives nothing.
            (900, (true, false)),
            (900, (false, false)),
            (86_400_000 * 400, (true, true)),
        ];
        for (ms, expected) in cases {
            assert_eq!(passes(ms), expected, "at {ms} ms");
        }
    }

    #[test]
    fn the_largest_rate_does_not_overflow() {
        let limits = Limits { packets: Rate::new(u32::MAX, u32::MAX), ..Limits::default() };
        let mut buckets = Buckets::full(&limits, 0);
        buckets.refill(&limits, u64::MAX);
        assert_eq!(buckets.packets, limits.packets.full);
    }
}
