//! Body bytes that say where they belong, so that a receiver checks gigabytes without keeping them: any lost, repeated
//! or moved byte is a mismatch.

/// The pattern repeats after this many bytes. A prime, so that no buffer size divides it and a lost block shows.
const PERIOD: usize = 65_521;

/// The pattern, twice, so that any slice of up to [`PERIOD`] bytes is contiguous in it.
static TABLE: [u8; 2 * PERIOD] = table();

const fn table() -> [u8; 2 * PERIOD] {
    let mut table = [0; 2 * PERIOD];
    let mut state: u32 = 0x9E37_79B9;
    let mut i = 0;
    while i < PERIOD {
        // xorshift32: any generator without short cycles would do.
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        table[i] = state as u8;
        table[i + PERIOD] = state as u8;
        i += 1;
    }
    table
}

/// The pattern's bytes from `offset` on: at most `limit`, at least one.
pub fn slice(offset: u64, limit: u64) -> &'static [u8] {
    let start = (offset % PERIOD as u64) as usize;
    &TABLE[start..][..limit.min(PERIOD as u64) as usize]
}

/// The pattern's first `length` bytes.
pub fn bytes(length: usize) -> Vec<u8> {
    (0..length).step_by(PERIOD).flat_map(|at| slice(at as u64, (length - at) as u64)).copied().collect()
}

/// Checks that what arrives is the pattern.
#[derive(Debug, Default)]
pub struct Checker {
    offset: u64,
}

impl Checker {
    /// Takes the next bytes.
    ///
    /// # Panics
    /// When they are not the pattern's next bytes.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let expected = slice(self.offset, bytes.len() as u64);
            let (now, rest) = bytes.split_at(expected.len());
            assert!(
                now == expected,
                "body differs from what was sent, within {} bytes of offset {}",
                now.len(),
                self.offset
            );
            self.offset += now.len() as u64;
            bytes = rest;
        }
    }

    /// How many bytes have been right so far.
    pub fn len(&self) -> u64 {
        self.offset
    }

    /// Whether nothing has arrived.
    pub fn is_empty(&self) -> bool {
        self.offset == 0
    }
}
