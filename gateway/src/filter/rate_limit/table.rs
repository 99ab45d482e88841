//! Buckets by key, in memory of fixed size, without locks.
//!
//! A key is kept as a hash of 64 bits, whose secret an attacker does not know: two keys that share one are as likely as
//! a guessed cookie. The hash chooses a set of sixteen places, of which any may hold the bucket. A bucket that is full
//! says nothing: its place is free. When every place of a set is taken, the fullest bucket gives way, which costs the
//! least: its key gets a few tokens too many. There are twice as many places as keys are wanted, so that few sets (one
//! in 250) are that full when the table has as many keys as it should.
//!
//! Two workers may want the same place at the same moment. Then one of them may go without its count; a request more goes
//! through, and the next one is counted. Nothing ever waits.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Places of a set. Their hashes are two cache lines, which are read one after the other.
const WAYS: usize = 16;

/// Places for each key that is wanted.
const ROOM: usize = 2;

/// Buckets by key.
#[derive(Debug)]
pub struct BucketTable {
    sets: Box<[Set]>,
    hasher: RandomState,
}

/// 0 is no key.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Set {
    keys: [AtomicU64; WAYS],
    buckets: [AtomicU64; WAYS],
}

impl BucketTable {
    /// A table for about `max_keys` keys.
    pub fn new(max_keys: u32) -> BucketTable {
        let sets = (max_keys as usize * ROOM).div_ceil(WAYS).max(1);
        BucketTable { sets: (0..sets).map(|_| Set::default()).collect(), hasher: RandomState::new() }
    }

    /// The bucket of a key, and whether a bucket that was not full gave way to it.
    pub fn bucket(&self, key: impl Hash, now: u64) -> (&AtomicU64, bool) {
        let hash = self.hasher.hash_one(key).max(1);
        let at = (u128::from(hash) * self.sets.len() as u128) >> 64;
        self.sets[at as usize].bucket(hash, now)
    }

    /// Keys whose buckets are not full.
    pub fn keys(&self, now: u64) -> usize {
        let live = |set: &Set| set.buckets.iter().filter(|bucket| bucket.load(Relaxed) > now).count();
        self.sets.iter().map(live).sum()
    }
}

impl Set {
    fn bucket(&self, hash: u64, now: u64) -> (&AtomicU64, bool) {
        loop {
            let mut fullest = (u64::MAX, 0, 0);
            for (at, key) in self.keys.iter().enumerate() {
                let held = key.load(Relaxed);
                if held == hash {
                    return (&self.buckets[at], false);
                }
                let full_at = if held == 0 { 0 } else { self.buckets[at].load(Relaxed) };
                fullest = fullest.min((full_at, at, held));
            }
            let (full_at, at, held) = fullest;
            // An exchange that fails means that another key has taken the place.
            if self.keys[at].compare_exchange(held, hash, Relaxed, Relaxed).is_ok() {
                self.buckets[at].store(0, Relaxed);
                return (&self.buckets[at], full_at > now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes until `full_at`.
    fn set(table: &BucketTable, key: u32, full_at: u64) -> bool {
        let (bucket, evicted) = table.bucket(key, 1);
        bucket.store(full_at, Relaxed);
        evicted
    }

    fn get(table: &BucketTable, key: u32) -> u64 {
        table.bucket(key, 1).0.load(Relaxed)
    }

    #[test]
    fn each_key_has_a_bucket_of_its_own() {
        let table = BucketTable::new(1_000);
        let evicted = (0..1_000).filter(|&key| set(&table, key, u64::from(key) + 10)).count();
        let lost = (0..1_000).filter(|&key| get(&table, key) != u64::from(key) + 10).count();
        // One set in 250 has more than sixteen of them, and there are 125 sets; this many would be one chance in millions.
        assert!(evicted <= 20 && lost <= 40, "{evicted} evicted, {lost} lost");
    }

    #[test]
    fn keys_that_are_held_are_those_whose_buckets_are_not_full() {
        let table = BucketTable::new(1_000);
        (0..100).for_each(|key| _ = set(&table, key, if key < 30 { 50 } else { 10 }));
        assert_eq!((table.keys(5), table.keys(20), table.keys(50)), (100, 30, 0));
    }

    #[test]
    fn the_fullest_bucket_gives_way_and_full_ones_do_so_for_nothing() {
        let table = Set::default();
        let put = |hash: u64, full_at: u64, now: u64| {
            let (bucket, evicted) = table.bucket(hash, now);
            bucket.store(full_at, Relaxed);
            evicted
        };
        for hash in 1..=16 {
            assert!(!put(hash, 100 + hash, 0), "there is room for {hash}");
        }
        assert!(put(17, 500, 50), "none is full");
        assert_eq!(table.bucket(16, 50).0.load(Relaxed), 116, "most others stay");
        assert!(!put(18, 500, 102), "the fullest one is full");
        let held: Vec<u64> = table.keys.iter().map(|key| key.load(Relaxed)).collect();
        assert!(!held.contains(&1) && !held.contains(&2) && held.contains(&17) && held.contains(&18), "{held:?}");
    }

    #[test]
    fn threads_may_use_one_set_at_the_same_time() {
        let table = BucketTable::new(16);
        std::thread::scope(|scope| {
            for thread in 0..4_u32 {
                let table = &table;
                scope.spawn(move || (0..10_000_u32).for_each(|n| _ = set(table, thread * 3 + n % 60, u64::from(n))));
            }
        });
        assert!(table.keys(0) <= 32);
    }
}
