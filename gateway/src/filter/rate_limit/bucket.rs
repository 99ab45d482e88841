//! A token bucket in one word.
//!
//! The word is the moment at which the bucket is full again, in nanoseconds ("theoretical arrival time" of the generic
//! cell rate algorithm, ITU-T I.371). Taking a token moves it on by the time in which one comes; a bucket whose moment is
//! further away than all its tokens take is empty. So there is no task that fills buckets, a bucket that nobody uses is a
//! full one, and one compare-and-exchange shares it between threads.

use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::config::model::Quota;
use crate::filter::key_table::KeyTable;

/// A [`Quota`] in the bucket's own terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Nanoseconds in which a token comes.
    token_ns: u64,
    /// Nanoseconds in which an empty bucket is filled: never more than a year, as the configuration is checked.
    full_ns: u64,
    /// Tokens that it holds.
    burst: u32,
}

/// What became of a request for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// There was one.
    Token {
        /// How many are left.
        left: u32,
        /// Nanoseconds until there is one again; 0 when there is.
        next_ns: u64,
    },
    /// There was none.
    Nothing {
        /// Nanoseconds until there is one.
        next_ns: u64,
    },
}

impl Pace {
    /// The pace of a quota.
    pub fn of(quota: &Quota) -> Pace {
        let (per_ns, requests) = (quota.per.as_nanos(), u128::from(quota.requests.max(1)));
        // The distance of tokens is rounded up, by less than a hundredth at the highest rate: rather less than the quota
        // than more.
        let token_ns = u64::try_from(per_ns.div_ceil(requests)).unwrap_or(u64::MAX).max(1);
        Pace { token_ns, full_ns: token_ns.saturating_mul(quota.burst.into()), burst: quota.burst }
    }

    /// Tokens that a bucket holds.
    pub fn burst(&self) -> u32 {
        self.burst
    }

    /// Takes a token at `now`, in nanoseconds of a clock that never goes back.
    pub fn take(&self, bucket: &AtomicU64, now: u64) -> Taken {
        let mut full_at = bucket.load(Relaxed);
        loop {
            let (next, taken) = self.after(full_at, now);
            let Some(next) = next else { return taken };
            // Nothing else is ordered by it, and an exchange that fails means that another has succeeded.
            match bucket.compare_exchange_weak(full_at, next, Relaxed, Relaxed) {
                Ok(_) => return taken,
                Err(other) => full_at = other,
            }
        }
    }

    /// Takes a token at `now` from the bucket of a key, and says whether a bucket that was not full gave way to it. The fullest
    /// one does, which costs the least: its key gets a few tokens too many.
    pub fn take_by_key(&self, table: &KeyTable, key: impl Hash, now: u64) -> (Taken, bool) {
        let changed = table.change(key, |full_at| full_at.saturating_sub(now), |full_at| self.after(full_at, now));
        (changed.told, changed.evicted)
    }

    /// The bucket after one request; `None` when nothing is taken from it.
    fn after(&self, full_at: u64, now: u64) -> (Option<u64>, Taken) {
        let missing = full_at.saturating_sub(now);
        let after = missing.saturating_add(self.token_ns);
        if after > self.full_ns {
            return (None, Taken::Nothing { next_ns: after - self.full_ns });
        }
        let left = ((self.full_ns - after) / self.token_ns) as u32;
        let next_ns = after.saturating_add(self.token_ns).saturating_sub(self.full_ns);
        (Some(now.saturating_add(after)), Taken::Token { left, next_ns })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn pace(requests: u32, per: Duration, burst: u32) -> Pace {
        Pace::of(&Quota { requests, per, burst })
    }

    fn takes(pace: &Pace, bucket: &AtomicU64, now: u64, count: u32) -> u32 {
        (0..count).filter(|_| matches!(pace.take(bucket, now), Taken::Token { .. })).count() as u32
    }

    #[test]
    fn a_full_bucket_gives_its_burst_and_then_one_token_at_a_time() {
        let (pace, bucket) = (pace(10, Duration::from_secs(1), 3), AtomicU64::new(0));
        let tenth = SECOND / 10;
        let start = 5 * SECOND;
        let cases = [
            (start, Taken::Token { left: 2, next_ns: 0 }),
            (start, Taken::Token { left: 1, next_ns: 0 }),
            (start, Taken::Token { left: 0, next_ns: tenth }),
            (start, Taken::Nothing { next_ns: tenth }),
            (start + tenth / 2, Taken::Nothing { next_ns: tenth / 2 }),
            (start + tenth, Taken::Token { left: 0, next_ns: tenth }),
            (start + tenth, Taken::Nothing { next_ns: tenth }),
            (start + 3 * tenth + 1, Taken::Token { left: 1, next_ns: 0 }),
            (start + 100 * tenth, Taken::Token { left: 2, next_ns: 0 }),
        ];
        for (at, (now, expected)) in cases.into_iter().enumerate() {
            assert_eq!(pace.take(&bucket, now), expected, "request {at}");
        }
    }

    #[test]
    fn a_refusal_takes_nothing() {
        let (pace, bucket) = (pace(1, Duration::from_secs(1), 1), AtomicU64::new(0));
        assert_eq!(takes(&pace, &bucket, SECOND, 1_000), 1);
        assert_eq!(takes(&pace, &bucket, 2 * SECOND, 1_000), 1);
    }

    #[test]
    fn a_longest_quota_and_a_bucket_of_another_pace_do_no_harm() {
        let year = Duration::from_secs(366 * 24 * 60 * 60);
        let bucket = AtomicU64::new(0);
        assert_eq!(takes(&pace(1, year, 1), &bucket, SECOND, 2), 1);
        // A reload made the quota smaller or larger: the debt stays, in time.
        assert_eq!(takes(&pace(1, Duration::from_secs(1), 1), &bucket, 2 * SECOND, 2), 0);
        assert_eq!(takes(&pace(1, year, 2), &bucket, 2 * SECOND, 2), 1);
        assert_eq!(takes(&pace(1_000_000_000, Duration::from_secs(100), 1_000), &AtomicU64::new(0), 0, 2_000), 1_000);
    }

    #[test]
    fn threads_share_one_bucket() {
        let (pace, bucket) = (pace(1_000, Duration::from_secs(1), 1_000), AtomicU64::new(0));
        let got: u32 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| takes(&pace, &bucket, SECOND, 1_000))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(got, 1_000);
    }

    proptest! {
        /// In any stretch of time no more goes through than the burst and what came meanwhile.
        #[test]
        fn the_quota_holds_for_any_arrivals(
            requests in 1_u32..10_000,
            per_ms in 1_u64..100_000,
            burst in 1_u32..1_000,
            gaps in proptest::collection::vec(0_u64..1_000_000_000, 1..200),
        ) {
            prop_assume!(u64::from(requests) <= per_ms * 10_000);
            let (pace, bucket) = (pace(requests, Duration::from_millis(per_ms), burst), AtomicU64::new(0));
            let (mut now, mut let_through) = (SECOND, 0_u64);
            for gap in gaps {
                now += gap;
                let_through += u64::from(takes(&pace, &bucket, now, 5));
                let elapsed_ms = (now - SECOND) as f64 / 1e6;
                let quota = f64::from(burst) + f64::from(requests) * elapsed_ms / per_ms as f64;
                prop_assert!(let_through as f64 <= quota + 1e-6, "{let_through} of {quota}");
            }
        }
    }
}
