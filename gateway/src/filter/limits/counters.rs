//! Counters by key, in a [`KeyTable`].
//!
//! A counter is one word, its window's end and what was counted in it, so that counting is one compare-and-exchange, and
//! whoever comes first after the end begins the next window. A counter whose window is over says nothing: its place is free.
//! When a place is wanted and none is free, the counter that has counted least gives way, which costs the least: its key may
//! begin anew.
//!
//! What other boxes have counted is beside it, under the seal of the counter and its window: what was learnt of one that has
//! gone counts for nobody.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{SyncSender, sync_channel};

use super::ledger::{Ledger, Opened};
use super::rules::Key;
use crate::filter::key_table::{Changed, KeyTable, Place};
use crate::proto::rate_limit_service::{RateLimitDescriptor, RateLimitRequest};

/// Counters that have been opened and that the control thread has not heard of yet. It listens at each exchange, ten times in
/// a second: as many new keys in a tenth of a second are more than a box of this size is asked about.
const OPENED_WAITING: usize = 1 << 16;

/// Counters by key.
#[derive(Debug)]
pub struct Counters {
    /// Of [`Tally`].
    table: KeyTable,
    shared: Option<Shared>,
}

/// What several boxes need.
#[derive(Debug)]
struct Shared {
    /// What the others have counted, as far as is known, by place: [`Place::seal`] for the window's end, and the number.
    others: Box<[AtomicU64]>,
    opened: SyncSender<Opened>,
    /// Only the control thread's.
    ledger: Mutex<Ledger>,
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
    /// Whether the counter of another key gave way before its window was over, or that of this one could not be made.
    pub evicted: bool,
    /// Whether other boxes will not learn of this counter, because too many were opened at once.
    pub unshared: bool,
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

    /// What it costs to forget it: nothing when it is over. Of two that have counted the same the one that ends first costs less.
    fn loss(self, now_s: u32) -> u64 {
        if self.ends_s <= now_s { 0 } else { u64::from(self.count) << 32 | u64::from(self.ends_s) }
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
        let table = KeyTable::new(max);
        let shared = is_shared.then(|| {
            let (opened, heard) = sync_channel(OPENED_WAITING);
            let others = (0..table.places()).map(|_| AtomicU64::new(0)).collect();
            Shared { others, opened, ledger: Mutex::new(Ledger::new(heard)) }
        });
        Counters { table, shared }
    }

    /// Counts a request.
    pub fn count(&self, key: Key<'_>, window: Window, hits: Hits) -> Counted {
        let Changed { told: (tally, begins), place, evicted } = self.tally(key, window, hits);
        let mut counted = Counted { total: tally.count.into(), evicted, unshared: false };
        let Some(shared) = &self.shared else { return counted };
        match place {
            Some(place) => {
                counted.total += u64::from(shared.others(place, tally.ends_s));
                counted.unshared = begins && !shared.tell(Opened { place, ends_s: tally.ends_s, key: key.text() });
            }
            None => counted.unshared = true,
        }
        counted
    }

    /// Counts for this box. Says what its counter has now, and whether that began its window.
    pub(super) fn tally(&self, key: Key<'_>, window: Window, hits: Hits) -> Changed<(Tally, bool)> {
        self.table.change(
            key,
            |word| Tally::of(word).loss(window.now_s),
            |word| {
                let (tally, begins) = Tally::of(word).after(window, hits);
                (Some(tally.word()), (tally, begins))
            },
        )
    }

    /// How many counters there may be at once.
    pub fn places(&self) -> usize {
        self.table.places()
    }

    /// Counters whose windows are not over.
    pub fn live(&self, now_s: u64) -> usize {
        self.table.count(|word| u64::from(Tally::of(word).ends_s) > now_s)
    }

    /// What is shared with other boxes; `None` when nothing is. Not for workers, who would wait for each other.
    pub fn ledger(&self) -> Option<&Mutex<Ledger>> {
        self.shared.as_ref().map(|shared| &shared.ledger)
    }

    /// What this box has counted at `place` in the window that ends then; `None` when the place has another key or window.
    pub(super) fn own(&self, place: Place, ends_s: u32) -> Option<u32> {
        let tally = Tally::of(self.table.get(place)?);
        (tally.ends_s == ends_s).then_some(tally.count)
    }

    /// The others have counted so much for the counter that is, or was, at `place`.
    pub(super) fn set_others(&self, place: Place, tally: Tally) {
        // Of one that has gone it would be in the way of what is known of the next one.
        if let Some(shared) = &self.shared
            && self.table.get(place).is_some()
        {
            let sealed = u64::from(place.seal(tally.ends_s)) << 32 | u64::from(tally.count);
            shared.others[place.index].store(sealed, Relaxed);
        }
    }
}

impl Shared {
    fn others(&self, place: Place, ends_s: u32) -> u32 {
        let sealed = self.others[place.index].load(Relaxed);
        if (sealed >> 32) as u32 == place.seal(ends_s) { sealed as u32 } else { 0 }
    }

    /// Tells the control thread of a window that has begun; `false` when too many have.
    fn tell(&self, opened: Opened) -> bool {
        self.opened.try_send(opened).is_ok()
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
    fn the_counter_that_has_counted_least_is_the_least_loss_and_one_that_is_over_is_none() {
        let losses =
            [(100, 7), (101, 0), (101, 1), (102, 1), (101, 2)].map(|(ends_s, count)| Tally { ends_s, count }.loss(100));
        assert_eq!(losses[0], 0);
        assert!(losses.is_sorted(), "{losses:?}");
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
