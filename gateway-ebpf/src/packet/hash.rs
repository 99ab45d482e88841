//! The hash that chooses a place in a Maglev table. The same on every box, so that they choose alike.

/// Mixes three words with a fourth. The last mixing step of Bob Jenkins' lookup3 (2006, public domain): every bit of the
/// input changes each bit of the result with a probability near one half.
#[inline(always)]
pub fn hash(words: [u32; 3], seed: u32) -> u32 {
    let start = 0xdead_beef_u32.wrapping_add(seed);
    let [mut a, mut b, mut c] = words.map(|word| word.wrapping_add(start));
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}
