//! When memory that connections have left is worth giving back.
//!
//! An allocator keeps what is freed for the next who asks. After a crowd that is all of its memory, for as long as nobody
//! comes: ten thousand connections that have fallen silent would cost several times what they hold.

use std::cell::Cell;

/// So many more connections at rest are an ebb: together they have left some 2 MiB.
const EBB: usize = 512;

/// How often is looked: looking for what is free takes milliseconds.
const LOOK_MS: u64 = 200;

/// One worker's connections that have come to rest, which holds no memory for requests.
#[derive(Debug, Default)]
pub struct Resting {
    now: Cell<usize>,
    /// The fewest since memory was last given back.
    fewest: Cell<usize>,
    looked_ms: Cell<u64>,
}

impl Resting {
    /// One more, until what this gives is dropped.
    pub fn begin(&self) -> Rest<'_> {
        self.now.set(self.now.get() + 1);
        Rest(self)
    }

    /// Whether many have come to rest since memory was last given back, which is done then.
    pub fn ebbed(&self, now_ms: u64) -> bool {
        if now_ms < self.looked_ms.get() + LOOK_MS {
            return false;
        }
        self.looked_ms.set(now_ms);
        let ebbed = self.now.get() >= self.fewest.get() + EBB;
        if ebbed {
            self.fewest.set(self.now.get());
        }
        ebbed
    }
}

/// A connection at rest.
#[derive(Debug)]
pub struct Rest<'a>(&'a Resting);

impl Drop for Rest<'_> {
    fn drop(&mut self) {
        let now = self.0.now.get() - 1;
        self.0.now.set(now);
        self.0.fewest.set(self.0.fewest.get().min(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_after_a_crowd_has_come_to_rest() {
        let resting = Resting::default();
        let mut crowd: Vec<_> = (1..EBB).map(|_| resting.begin()).collect();
        assert!(!resting.ebbed(1_000), "one short of an ebb");
        crowd.push(resting.begin());
        assert!(!resting.ebbed(1_100), "too early to look again");
        assert!(resting.ebbed(2_000));
        assert!(!resting.ebbed(3_000), "given back already");
        // Some go on and come back: their memory is that of others, which is in use.
        crowd.truncate(10);
        assert!(!resting.ebbed(4_000));
        crowd.extend((10..EBB).map(|_| resting.begin()));
        assert!(!resting.ebbed(5_000));
        crowd.extend((0..10).map(|_| resting.begin()));
        assert!(resting.ebbed(6_000), "the next crowd");
    }
}
