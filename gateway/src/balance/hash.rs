//! Hashes that decide who gets what. Written out, because they must not change with a library's release: two boxes, or two
//! releases on one, have to agree.

/// FNV-1a, with the bits spread by [`mix`] at the end: short inputs that differ in one bit must not be neighbours.
#[derive(Clone, Copy)]
pub struct Digest(u64);

impl Default for Digest {
    /// Of nothing yet.
    fn default() -> Digest {
        Digest(0xcbf2_9ce4_8422_2325)
    }
}

impl Digest {
    /// With these bytes behind it.
    #[must_use]
    pub fn eat(self, bytes: &[u8]) -> Digest {
        Digest(bytes.iter().fold(self.0, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)))
    }

    /// The hash.
    pub fn end(self) -> u64 {
        mix(self.0)
    }
}

/// The hash of some bytes.
pub fn of(bytes: &[u8]) -> u64 {
    Digest::default().eat(bytes).end()
}

/// The finaliser of SplitMix64: each bit of the input changes about half of those of the output.
pub fn mix(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Independent bits from one random number, or from a hash: SplitMix64.
#[derive(Clone, Copy)]
pub struct Bits(u64);

impl Bits {
    /// The sequence that belongs to this number.
    pub fn of(seed: u64) -> Bits {
        Bits(seed)
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// The next number below `bound`, which is not 0. A fraction and no remainder, which would favour small numbers.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(bound)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_the_same_in_every_release() {
        assert_eq!(of(b""), 0xf52a_15e9_a9b5_e89b);
        assert_eq!(of(b"user-1"), of(b"user-1"));
        assert_ne!(of(b"user-1"), of(b"user-2"));
        assert_eq!(Digest::default().eat(b"user").eat(b"-1").end(), of(b"user-1"));
    }

    #[test]
    fn numbers_below_a_bound_are_evenly_spread() {
        let mut bits = Bits::of(7);
        let mut counts = [0u32; 7];
        (0..70_000).for_each(|_| counts[bits.below(7) as usize] += 1);
        // Six standard deviations of a binomial with p = 1/7 are 556.
        assert!(counts.iter().all(|&count| count.abs_diff(10_000) < 556), "{counts:?}");
    }
}
