//! Counters by key, in memory of fixed size, without locks.
//!
//! A key is kept as a hash of 64 bits, whose secret an attacker does not know. The hash chooses a set of sixteen places, of
//! which any may hold the counter. A counter whose window is over says nothing: its place is free. When every place of a set
//! is taken, the counter that has counted least gives way, which costs the least: its key may begin anew. There are twice as
//! many places as counters are wanted, so that few sets (one in 250) are that full when the table has as many as it should.
//!
//! A counter is one word, its window's end and what was counted in it, so that counting is one compare-and-exchange, and
//! whoever comes first after the end begins the next window.
//!
//! Two workers may want the same place at the same moment. Then one of them may go without its count; nothing ever waits.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{SyncSender, sync_channel};

use super::ledger::{Ledger, Opened};
use super::rules::Key;
use crate::proto::rate_limit_service::{RateLimitDescriptor, RateLimitRequest};

/// Places of a set.
const WAYS: usize = 16;

/// Places for each counter that is wanted.
const ROOM: usize = 2;

/// Counters that have been opened and that the control thread has not heard of yet. It listens at each exchange, ten times in
/// a second: as many new keys in a tenth of a second are more than a box of this size is asked about.
const OPENED_WAITING: usize = 1 << 16;

/// Counters by key.
#[derive(Debug)]
pub struct Counters {
    sets: Box<[Set]>,
    hasher: RandomState,
    shared: Option<Shared>,
}

/// How the control thread learns of counters.
#[derive(Debug)]
struct Shared {
    opened: SyncSender<Opened>,
    /// Only the control thread's.
    ledger: Mutex<Ledger>,
}

/// Key 0 is none.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Set {
    keys: [AtomicU64; WAYS],
    /// [`Tally`] of this box.
    own: [AtomicU64; WAYS],
    /// [`Tally`] of the others, as far as is known.
    others: [AtomicU64; WAYS],
}

/// A window's end, and what was counted in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// In seconds since 1970. Holds until 2106.
    pub ends_s: u32,
    /// Never overflows: more is as much as this.
    pub count: u32,
}

/// A stretch of time for which a limit holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// When it ends, in seconds since 1970.
    pub ends_s: u32,
    /// How long it is.
    pub length_s: u32,
    /// The moment in it that is meant.
    pub now_s: u32,
}

/// How much a request counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hits {
    /// So many.
    Add(u32),
    /// So many that were counted are given back.
    Return(u32),
}

/// What counting told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// In this window, this request included, on all boxes as far as is known.
    pub total: u64,
    /// Whether the counter of another key gave way before its window was over.
    pub evicted: bool,
    /// Whether other boxes will not learn of this counter, because too many were opened at once.
    pub unshared: bool,
}

/// Where a counter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    set: u32,
    way: u32,
    hash: u64,
}

impl Window {
    /// The window of this length that `now_s` is in.
    pub fn at(now_s: u64, length_s: u32) -> Window {
        let length = u64::from(length_s.max(1));
        let seconds = |of: u64| u32::try_from(of).unwrap_or(u32::MAX);
        Window { ends_s: seconds((now_s / length + 1) * length), length_s, now_s: seconds(now_s) }
    }

    /// Seconds until it ends.
    pub fn left_s(&self) -> u32 {
        self.ends_s.saturating_sub(self.now_s)
    }
}

impl Hits {
    /// Those of a descriptor: its own, or those of its request, of which 0 is one.
    pub fn of(request: &RateLimitRequest, descriptor: &RateLimitDescriptor) -> Hits {
        let hits = descriptor.hits_addend.unwrap_or_else(|| request.hits_addend.max(1).into());
        let hits = u32::try_from(hits).unwrap_or(u32::MAX);
        if descriptor.is_negative_hits { Hits::Return(hits) } else { Hits::Add(hits) }
    }

    fn apply(self, count: u32) -> u32 {
        match self {
            Hits::Add(hits) => count.saturating_add(hits),
            Hits::Return(hits) => count.saturating_sub(hits),
        }
    }
}

impl Tally {
    fn of(word: u64) -> Tally {
        Tally { ends_s: (word >> 32) as u32, count: word as u32 }
    }

    fn word(self) -> u64 {
        u64::from(self.ends_s) << 32 | u64::from(self.count)
    }

    /// After a request in `window`, and whether that began the window. A worker that looked at the clock a moment before
    /// another counts in the window that the other has begun; a clock that was set back further begins anew.
    fn after(self, window: Window, hits: Hits) -> (Tally, bool) {
        let is_current = self.ends_s == window.ends_s || self.ends_s == window.ends_s.saturating_add(window.length_s);
        match is_current {
            true => (Tally { count: hits.apply(self.count), ..self }, false),
            false => (Tally { ends_s: window.ends_s, count: hits.apply(0) }, true),
        }
    }
}

impl Counters {
    /// A table for about `max` counters.
    pub fn new(max: u32, is_shared: bool) -> Counters {
        let sets = (max as usize * ROOM).div_ceil(WAYS).max(1);
        let shared = is_shared.then(|| {
            let (opened, heard) = sync_channel(OPENED_WAITING);
            Shared { opened, ledger: Mutex::new(Ledger::new(heard)) }
        });
        Counters { sets: (0..sets).map(|_| Set::default()).collect(), hasher: RandomState::new(), shared }
    }

    /// Counts a request.
    pub fn count(&self, key: Key<'_>, window: Window, hits: Hits) -> Counted {
        let (place, evicted) = self.place(key, window);
        let (set, way) = (&self.sets[place.set as usize], place.way as usize);
        let own = &set.own[way];
        let mut before = own.load(Relaxed);
        let (tally, begins) = loop {
            let (tally, begins) = Tally::of(before).after(window, hits);
            // Nothing else is ordered by it, and an exchange that fails means that another has succeeded.
            match own.compare_exchange_weak(before, tally.word(), Relaxed, Relaxed) {
                Ok(_) => break (tally, begins),
                Err(other) => before = other,
            }
        };
        let unshared = begins && !self.tell(key, place, tally.ends_s);
        let others = Tally::of(set.others[way].load(Relaxed));
        let others = if others.ends_s == tally.ends_s { others.count } else { 0 };
        Counted { total: u64::from(tally.count) + u64::from(others), evicted, unshared }
    }

    /// How many counters there may be at once.
    pub fn places(&self) -> usize {
        self.sets.len() * WAYS
    }

    /// Counters whose windows are not over.
    pub fn live(&self, now_s: u64) -> usize {
        let is_live = |own: &&AtomicU64| u64::from(Tally::of(own.load(Relaxed)).ends_s) > now_s;
        self.sets.iter().map(|set| set.own.iter().filter(is_live).count()).sum()
    }

    /// What is shared with other boxes; `None` when nothing is. Not for workers, who would wait for each other.
    pub fn ledger(&self) -> Option<&Mutex<Ledger>> {
        self.shared.as_ref().map(|shared| &shared.ledger)
    }

    /// What this box has counted at `place` in the window that ends then; `None` when the place has another key or window.
    pub(super) fn own(&self, place: Place, ends_s: u32) -> Option<u32> {
        let (set, way) = (&self.sets[place.set as usize], place.way as usize);
        let tally = Tally::of(set.own[way].load(Relaxed));
        (set.keys[way].load(Relaxed) == place.hash && tally.ends_s == ends_s).then_some(tally.count)
    }

    /// The others have counted so much at `place`. When the place gets another key in this very moment, that key is taken to
    /// be the busier, until it is heard of itself.
    pub(super) fn set_others(&self, place: Place, tally: Tally) {
        let (set, way) = (&self.sets[place.set as usize], place.way as usize);
        if set.keys[way].load(Relaxed) == place.hash {
            set.others[way].store(tally.word(), Relaxed);
        }
    }

    /// Tells the control thread of a window that has begun; `false` when too many have.
    fn tell(&self, key: Key<'_>, place: Place, ends_s: u32) -> bool {
        let Some(shared) = &self.shared else { return true };
        shared.opened.try_send(Opened { place, ends_s, key: key.text() }).is_ok()
    }

    /// The place of a key, and whether a counter that was not over gave way to it.
    fn place(&self, key: impl Hash, window: Window) -> (Place, bool) {
        let hash = self.hasher.hash_one(key).max(1);
        let set = ((u128::from(hash) * self.sets.len() as u128) >> 64) as u32;
        let (way, evicted) = self.sets[set as usize].way(hash, window.now_s);
        (Place { set, way: way as u32, hash }, evicted)
    }
}

impl Set {
    fn way(&self, hash: u64, now_s: u32) -> (usize, bool) {
        loop {
            let mut least = (u64::MAX, 0, 0);
            for (at, key) in self.keys.iter().enumerate() {
                let held = key.load(Relaxed);
                if held == hash {
                    return (at, false);
                }
                let tally = Tally::of(self.own[at].load(Relaxed));
                // What is over costs nothing, and of two that have counted the same the one that ends first costs less.
                let is_free = held == 0 || tally.ends_s <= now_s;
                let cost = if is_free { 0 } else { u64::from(tally.count) << 32 | u64::from(tally.ends_s) };
                least = least.min((cost, at, held));
            }
            let (cost, at, held) = least;
            // An exchange that fails means that another key has taken the place.
            if self.keys[at].compare_exchange(held, hash, Relaxed, Relaxed).is_ok() {
                self.own[at].store(0, Relaxed);
                self.others[at].store(0, Relaxed);
                return (at, cost > 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::LimitUnit;

    fn window(ends_s: u32, now_s: u32) -> Window {
        Window { ends_s, length_s: 60, now_s }
    }

    #[test]
    fn a_tally_counts_in_its_window_and_in_the_one_that_another_worker_has_begun() {
        let cases = [
            ((0, 0), 120, (120, 2), true),
            ((120, 5), 120, (120, 7), false),
            ((60, 5), 120, (120, 2), true),
            // The other worker's clock was read a moment later.
            ((180, 5), 120, (180, 7), false),
            // The clock was set back.
            ((240, 5), 120, (120, 2), true),
            ((120, u32::MAX - 1), 120, (120, u32::MAX), false),
        ];
        for ((ends_s, count), window_ends, after, begins) in cases {
            let got = Tally { ends_s, count }.after(window(window_ends, window_ends - 1), Hits::Add(2));
            assert_eq!(got, (Tally { ends_s: after.0, count: after.1 }, begins), "{ends_s} {count}");
        }
    }

    #[test]
    fn the_counter_that_has_counted_least_gives_way_and_those_that_are_over_do_so_for_nothing() {
        let set = Set::default();
        let put = |hash: u64, ends_s: u32, count: u32, now_s: u32| {
            let (way, evicted) = set.way(hash, now_s);
            set.own[way].store(Tally { ends_s, count }.word(), Relaxed);
            evicted
        };
        for hash in 1..=16 {
            assert!(!put(hash, 100 + hash as u32, 20 - hash as u32, 0), "there is room for {hash}");
        }
        assert!(put(17, 500, 50, 50), "none is over");
        assert!(put(16, 500, 50, 50), "the sixteenth had counted least");
        assert!(!put(18, 500, 50, 101), "the first one is over");
        let held: Vec<u64> = set.keys.iter().map(|key| key.load(Relaxed)).collect();
        assert!(!held.contains(&1) && !held.contains(&15) && held.contains(&16) && held.contains(&18), "{held:?}");
    }

    #[test]
    fn threads_share_one_counter() {
        let counters = Counters::new(16, false);
        let key = Key { domain: "edge", entries: &[], shared: 0, unit: LimitUnit::Minute };
        let count = |hits| counters.count(key, window(120, 60), hits).total;
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| _ = count(Hits::Add(1))));
            }
        });
        assert_eq!(count(Hits::Add(0)), 40_000);
        assert_eq!((counters.live(60), counters.live(120)), (1, 0));
    }
}
