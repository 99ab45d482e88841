//! The Internet checksum (RFC 1071), and how it changes with what it covers (RFC 1624, equation 3).
//!
//! The sum does not depend on the order of bytes in a word, so words are added as they stand in memory; and as 2^16, 2^32
//! and 2^48 are all 1 modulo 2^16 - 1, wide words may be added as they are and folded afterwards.

/// What decrementing the TTL adds to the one's complement of the IPv4 header checksum: the TTL is the first byte of its
/// word, and adding the one's complement is subtracting.
pub const TTL_DECREMENT: u32 = !u16::from_ne_bytes([1, 0]) as u32;

/// Folds a sum of words to one word.
#[inline(always)]
pub fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// What to [`add`] to a checksum when words of the sum `old` become words of the sum `new`. Both below 2^63.
#[inline(always)]
pub fn delta(old: u64, new: u64) -> u16 {
    fold(u64::from(!fold(old)) + u64::from(fold(new)))
}

/// The checksum after `delta`, which may be a sum of a few deltas.
#[inline(always)]
pub fn add(checksum: u16, delta: u32) -> u16 {
    let sum = u32::from(!checksum) + delta;
    let sum = (sum & 0xffff) + (sum >> 16);
    !(((sum & 0xffff) + (sum >> 16)) as u16)
}

/// The same for UDP, where 0 says that there is no checksum, and a sum of 0 is written as its other form (RFC 768).
/// `optional` is false for IPv6, which has no packets without one (RFC 8200 §8.1).
#[inline(always)]
pub fn add_udp(checksum: u16, delta: u32, optional: bool) -> u16 {
    if optional && checksum == 0 {
        return 0;
    }
    match add(checksum, delta) {
        0 => 0xffff,
        sum => sum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// By the definition: 16-bit words in network order, added with the carry brought round.
    fn checksum(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for word in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    fn verifies(bytes: &[u8]) -> bool {
        checksum(bytes) == 0
    }

    proptest! {
        #[test]
        fn a_checksum_that_was_right_is_right_after_the_words_it_covers_changed(
            mut bytes in proptest::collection::vec(any::<u8>(), 32..64).prop_map(|mut bytes| { bytes[0..2].fill(0); bytes }),
            new in any::<[u64; 2]>(),
            ttl in 1u8..,
        ) {
            bytes.truncate(bytes.len() & !1);
            bytes[2] = ttl;
            let right = checksum(&bytes).to_be_bytes();
            bytes[0..2].copy_from_slice(&right);
            prop_assert!(verifies(&bytes));
            let old: [u64; 2] = std::array::from_fn(|i| u64::from_ne_bytes(bytes[8 * (i + 1)..][..8].try_into().unwrap()));
            let sum = |words: [u64; 2]| words.iter().map(|word| (word & 0xffff_ffff) + (word >> 32)).sum();
            let changed = delta(sum(old), sum(new));
            for (i, word) in new.iter().enumerate() {
                bytes[8 * (i + 1)..][..8].copy_from_slice(&word.to_ne_bytes());
            }
            bytes[2] -= 1;
            let before = u16::from_ne_bytes([bytes[0], bytes[1]]);
            let after = add(before, u32::from(changed) + TTL_DECREMENT);
            bytes[0..2].copy_from_slice(&after.to_ne_bytes());
            prop_assert!(verifies(&bytes));
        }
    }

    #[test]
    fn udp_keeps_no_checksum_as_none_and_never_writes_none() {
        assert_eq!(add_udp(0, 77, true), 0);
        assert_ne!(add_udp(0, 77, false), 0);
        for checksum in 1..=u16::MAX {
            assert_ne!(add_udp(checksum, u32::from(checksum), true), 0);
        }
    }
}
