//! The breaker of a route: when too many of its requests fail or are slow, it answers in place of the origin for a while.
//!
//! All workers share one, without a lock. The window is a ring of buckets, and a bucket is a word with the moment it began at
//! and a count, so that whoever comes first after a turn of the ring begins it anew, and nobody has to clear it.
//!
//! When the break is over, the breaker is closed, with an empty window: `min_requests` have to be seen before it can open
//! again. There is no half-open state: a probe would be one of the route's requests, and those may be streams that go on for
//! hours; what a route's origin may have at once is `max_requests` of its cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed};

use crate::config::model::Breaker as Settings;

/// Parts of the window; it is as long as nine to ten of them.
const BUCKETS: usize = 10;

/// Bits of a bucket's word that count; the others are its beginning, which has room for 34 years of milliseconds.
const COUNT_BITS: u32 = 24;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;

/// What of a breaker outlives generations.
#[derive(Debug)]
pub struct Breaker {
    /// The moment since which it is closed; while that is to come, it is open.
    closed_since: AtomicU64,
    bucket_ms: u64,
    requests: Ring,
    errors: Ring,
    slow: Ring,
}

/// A time in which the breaker is closed, named by its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period(u64);

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// It failed.
    pub failed: bool,
    /// It took long.
    pub slow: bool,
}

impl Breaker {
    /// The breaker of `settings`, open or closed as that of the generation before. Its window too is taken over while that
    /// is as long.
    pub fn build(settings: &Settings, before: Option<&Arc<Breaker>>) -> Arc<Breaker> {
        let bucket_ms = (settings.window.as_millis() as u64 / BUCKETS as u64).max(1);
        if let Some(same) = before.filter(|before| before.bucket_ms == bucket_ms) {
            return same.clone();
        }
        let closed_since = before.map_or(0, |before| before.closed_since.load(Relaxed));
        Arc::new(Breaker {
            closed_since: AtomicU64::new(closed_since),
            bucket_ms,
            requests: Ring::default(),
            errors: Ring::default(),
            slow: Ring::default(),
        })
    }

    /// Whether a request may pass at `now_ms`; `None` while the breaker is open. The clock never goes back.
    pub fn admit(&self, now_ms: u64) -> Option<Period> {
        let since = self.closed_since.load(Relaxed);
        (since <= now_ms).then_some(Period(since))
    }

    /// Counts a request that was admitted in `period`. `true`: that opens the breaker. What was admitted before it opened last
    /// says nothing of the time after, and is not counted.
    pub fn count(&self, settings: &Settings, period: Period, call: Call, now_ms: u64) -> bool {
        if self.closed_since.load(Relaxed) != period.0 {
            return false;
        }
        let at = now_ms.saturating_sub(period.0) / self.bucket_ms;
        let (slot, began) = ((at % BUCKETS as u64) as usize, period.0 + at * self.bucket_ms);
        self.requests.inc(slot, began);
        if call.failed {
            self.errors.inc(slot, began);
        }
        if call.slow {
            self.slow.inc(slot, began);
        }
        let sum = |ring: &Ring| ring.sum(period.0, self.bucket_ms * BUCKETS as u64, now_ms);
        // Requests last: then whoever is among the errors is among them, and no share is larger than it is.
        let (errors, slow) = (sum(&self.errors), sum(&self.slow));
        let requests = sum(&self.requests);
        if requests < settings.min_requests.into() {
            return false;
        }
        let fails = settings.error_percent.is_some_and(|most| errors * 100 >= requests * u64::from(most));
        let is_slow = settings.slow.is_some_and(|settings| slow > settings.max_requests.into());
        // Of many workers that find this at once, one opens it.
        let opened = now_ms.saturating_add(settings.break_duration.as_millis() as u64);
        (fails || is_slow) && self.closed_since.compare_exchange(period.0, opened, Relaxed, Relaxed).is_ok()
    }
}

/// One kind of count, in buckets. On cache lines of its own: every worker writes it.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Ring([AtomicU64; BUCKETS]);

impl Ring {
    /// Counts one more in the bucket that began then.
    fn inc(&self, slot: usize, began: u64) {
        let next = |word: u64| match (word >> COUNT_BITS).cmp(&began) {
            std::cmp::Ordering::Less => Some(began << COUNT_BITS | 1),
            std::cmp::Ordering::Equal if word & COUNT_MAX < COUNT_MAX => Some(word + 1),
            // Full, or somebody whose clock is ahead has begun the next turn.
            std::cmp::Ordering::Equal | std::cmp::Ordering::Greater => None,
        };
        // Whoever sees this count sees what its worker counted before.
        let _ = self.0[slot].fetch_update(AcqRel, Acquire, next);
    }

    /// What the buckets have that began within the period, and within the last `window_ms`.
    fn sum(&self, period: u64, window_ms: u64, now_ms: u64) -> u64 {
        let words = self.0.iter().map(|word| word.load(Acquire));
        let parts = words.map(|word| (word >> COUNT_BITS, word & COUNT_MAX));
        parts.filter(|(began, _)| *began >= period && began + window_ms > now_ms).map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::model::SlowRequests;

    const GOOD: Call = Call { failed: false, slow: false };
    const FAILED: Call = Call { failed: true, slow: false };
    const SLOW: Call = Call { failed: false, slow: true };

    /// Half of at least four requests in ten seconds; opens for thirty.
    fn settings() -> Settings {
        Settings {
            window: Duration::from_secs(10),
            min_requests: 4,
            error_percent: Some(50),
            slow: None,
            break_duration: Duration::from_secs(30),
            ..Settings::default()
        }
    }

    fn breaker(settings: &Settings) -> Arc<Breaker> {
        Breaker::build(settings, None)
    }

    /// Requests that pass at these moments and end at once; whether the breaker opens at each.
    fn run(breaker: &Breaker, settings: &Settings, calls: &[(u64, Call)]) -> Vec<bool> {
        let run = |&(now, call): &(u64, Call)| {
            let period = breaker.admit(now).unwrap_or_else(|| panic!("open at {now}"));
            breaker.count(settings, period, call, now)
        };
        calls.iter().map(run).collect()
    }

    #[test]
    fn it_opens_at_the_share_of_errors_and_not_before_enough_was_seen() {
        let calls = |bad: &str| -> Vec<(u64, Call)> {
            bad.bytes().zip(1_000_000..).map(|(c, now)| (now, if c == b'x' { FAILED } else { GOOD })).collect()
        };
        let settings = settings();
        // What comes, and the number of requests at which it opens.
        let cases = [
            ("xxx", None),
            ("xxxx", Some(4)),
            ("x.x.", Some(4)),
            ("x...", None),
            ("..x.xx", Some(6)),
            (".....x..x...x", None),
        ];
        for (bad, opens) in cases {
            let opened = run(&breaker(&settings), &settings, &calls(bad));
            assert_eq!(opened.iter().position(|opened| *opened).map(|at| at + 1), opens, "{bad}");
        }
    }

    #[test]
    fn it_opens_when_more_are_slow_than_may_be() {
        let slow = SlowRequests { time: Duration::from_secs(1), max_requests: 2 };
        let settings = Settings { error_percent: None, slow: Some(slow), ..settings() };
        let calls = [SLOW, FAILED, SLOW, FAILED, FAILED, SLOW].map(|call| (5_000, call));
        assert_eq!(run(&breaker(&settings), &settings, &calls), [false, false, false, false, false, true]);
        let calls = [SLOW; 3].map(|call| (5_000, call));
        assert_eq!(run(&breaker(&settings), &settings, &calls), [false; 3], "too few to tell");
    }

    #[test]
    fn what_was_longer_ago_than_the_window_does_not_count() {
        let settings = settings();
        for (later, opens) in [(8_999, true), (10_000, false)] {
            let breaker = breaker(&settings);
            let begin = 1_000_000;
            assert_eq!(run(&breaker, &settings, &[(begin, FAILED); 3]), [false; 3]);
            assert_eq!(run(&breaker, &settings, &[(begin + later, FAILED)]), [opens], "after {later} ms");
        }
        // The window slides: three of four are within it at any time.
        let breaker = breaker(&settings);
        let calls: Vec<_> = (0..100).map(|at| (at * 4_000, FAILED)).collect();
        assert!(run(&breaker, &settings, &calls).iter().all(|opened| !opened));
    }

    #[test]
    fn a_break_ends_after_its_time_and_the_window_is_empty_then() {
        let settings = settings();
        let breaker = breaker(&settings);
        let before = breaker.admit(1_000).expect("closed");
        assert_eq!(run(&breaker, &settings, &[(1_000, FAILED); 4]), [false, false, false, true]);
        for now in [1_000, 20_000, 30_999] {
            assert_eq!(breaker.admit(now), None, "{now}");
        }
        assert!(breaker.admit(31_000).is_some());
        for _ in 0..10 {
            assert!(!breaker.count(&settings, before, FAILED, 31_000), "it was admitted before the break");
        }
        assert_eq!(run(&breaker, &settings, &[(31_000, FAILED); 3]), [false; 3]);
        assert_eq!(run(&breaker, &settings, &[(31_000, FAILED)]), [true], "it opens again as it did first");
        assert!(breaker.admit(61_000).is_some());
    }

    #[test]
    fn a_break_shorter_than_a_bucket_empties_the_window_all_the_same() {
        let settings = Settings { break_duration: Duration::from_millis(10), ..settings() };
        let breaker = breaker(&settings);
        for begin in (1_000..2_000).step_by(10) {
            assert_eq!(run(&breaker, &settings, &[(begin, FAILED); 4]), [false, false, false, true], "{begin}");
            assert_eq!(breaker.admit(begin + 9), None);
        }
    }

    #[test]
    fn a_reload_keeps_it_open_and_its_window_while_that_is_as_long() {
        let before = settings();
        let old = breaker(&before);
        run(&old, &before, &[(1_000, FAILED); 3]);
        let other = Settings { break_duration: Duration::from_secs(60), ..before.clone() };
        let new = Breaker::build(&other, Some(&old));
        assert_eq!(run(&new, &other, &[(1_000, FAILED)]), [true]);
        assert_eq!((old.admit(60_999), old.admit(61_000).is_some()), (None, true), "they are one");
        let longer = Settings { window: Duration::from_secs(20), ..other };
        let new = Breaker::build(&longer, Some(&new));
        assert_eq!((new.admit(60_999), new.admit(61_000).is_some()), (None, true));
        assert_eq!(run(&new, &longer, &[(61_000, FAILED); 4]), [false, false, false, true]);
    }

    #[test]
    fn of_many_threads_one_opens_it_and_no_request_is_lost_before() {
        let settings = Settings { min_requests: 40_000, error_percent: Some(100), ..settings() };
        let breaker = breaker(&settings);
        let period = breaker.admit(7).expect("closed");
        let opened: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    let (breaker, settings) = (&breaker, &settings);
                    scope.spawn(move || (0..10_000).filter(|_| breaker.count(settings, period, FAILED, 7)).count())
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!((opened, breaker.admit(7)), (1, None));
    }
}
