//! How long work waits for its worker, and what share of it is refused for that.
//!
//! A burst makes work wait too, and is over soon; what has to end is a queue that does not. So, as CoDel does (RFC 8289
//! §4.1), look at the shortest wait of an interval: above the target, nothing got through without waiting that long.

use crate::proto::limits;

/// How long an interval is. A worker looks at its delay several times in one (see `worker`).
pub const INTERVAL_MS: u64 = 100;

/// How long what was found is believed when nothing comes any more.
pub const LASTS_MS: u64 = 5 * INTERVAL_MS;

/// What is refused is a number of so many parts.
pub const WHOLE: u16 = 256;

/// By how much the share grows with each interval of a standing queue, and how much faster when the queue is twice too
/// long: from nothing to everything in 1.6 s, or 0.4 s.
const MORE: u16 = WHOLE / 16;
const MUCH_MORE: u16 = WHOLE / 4;

/// Says whether there is a queue that stands.
#[derive(Debug, Default)]
pub struct Queue {
    /// When the interval began; `None` before the first delay.
    since_ms: Option<u64>,
    shortest_us: u64,
    /// The shortest of the interval before. One long delay is not a queue that stands: all a worker did may have been to
    /// take over a large configuration.
    before_us: u64,
    /// What was found in the interval before.
    standing_us: u64,
}

impl Queue {
    /// Something waited for `delay_us`. With the last delay of an interval, gives how long everything waited in two of
    /// them at least: 0 when something did not have to wait.
    pub fn observe(&mut self, now_ms: u64, delay_us: u64) -> Option<u64> {
        let since = *self.since_ms.get_or_insert_with(|| {
            self.shortest_us = u64::MAX;
            now_ms
        });
        self.shortest_us = self.shortest_us.min(delay_us);
        if now_ms < since + INTERVAL_MS {
            return None;
        }
        self.standing_us = self.shortest_us.min(self.before_us);
        self.before_us = std::mem::replace(&mut self.shortest_us, u64::MAX);
        self.since_ms = Some(now_ms);
        Some(self.standing_us)
    }

    /// Nothing stands any more when nothing came for [`LASTS_MS`]. Says whether that is so.
    pub fn expire(&mut self, now_ms: u64) -> bool {
        let is_over = self.since_ms.is_some_and(|since| now_ms > since + LASTS_MS);
        if is_over {
            *self = Queue::default();
        }
        is_over
    }

    /// What the last interval found, in microseconds.
    pub fn standing_us(&self) -> u64 {
        self.standing_us
    }
}

/// How many connections wait in the kernel to be accepted, at most. What is behind them the kernel refuses, at a cost that
/// is nothing to that of a connection: at ten times the load even closing connections would take all of a worker's time.
/// And those at the head of a short queue have clients that still wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog(u32);

/// Short enough for 2 ms of the most expensive handshakes at each, long enough for a few of them at once.
const SHORTEST: u32 = 16;

impl Backlog {
    /// What there is room for while nothing weighs on a worker.
    pub const WHOLE: Backlog = Backlog(limits::BACKLOG);

    /// The queue after an interval in which every connection waited for `standing_us`: one in which it waits for half of the
    /// target, and while that is much, a longer one. Once connections are refused none waits for longer than the target, and
    /// that must not look as if all were well.
    #[must_use]
    pub fn next(self, standing_us: u64, target_us: u64) -> Backlog {
        let Backlog(now) = self;
        let too_long_us = if self == Backlog::WHOLE { target_us } else { target_us / 4 * 3 };
        let next = match standing_us {
            us if us > too_long_us => u64::from(now) * (target_us / 2) / us,
            us if us < target_us / 4 => u64::from(now) * 2,
            _ => return self,
        };
        Backlog(u32::try_from(next).unwrap_or(u32::MAX).clamp(SHORTEST, limits::BACKLOG))
    }

    /// How many.
    pub fn get(self) -> u32 {
        self.0
    }
}

/// The share that is refused, in parts of [`WHOLE`]: up to that of ordinary requests, what is above it of those that are
/// refused last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share(u16);

impl Share {
    /// Nothing is refused.
    pub const NONE: Share = Share(0);

    /// All ordinary requests are, and none of those that are refused last.
    pub const ORDINARY: Share = Share(WHOLE);

    /// Everything is.
    pub const EVERYTHING: Share = Share(2 * WHOLE);

    /// The share after an interval in which everything waited for `standing_us`.
    #[must_use]
    pub fn next(self, standing_us: u64, target_us: u64) -> Share {
        let Share(now) = self;
        Share(match standing_us {
            us if us > 2 * target_us => (now + MUCH_MORE).min(2 * WHOLE),
            us if us > target_us => (now + MORE).min(2 * WHOLE),
            // Half of it with each interval: from everything to nothing in a second.
            _ => now / 2,
        })
    }

    /// Whether nothing is refused.
    pub fn is_none(self) -> bool {
        self == Share::NONE
    }

    /// Whether an ordinary request, or new connection, is refused; `random` says which of them it is.
    pub fn takes(self, random: u64) -> bool {
        random % u64::from(WHOLE) < u64::from(self.0)
    }

    /// The same for what is refused last.
    pub fn takes_last(self, random: u64) -> bool {
        Share(self.0.saturating_sub(WHOLE)).takes(random)
    }

    /// The larger of two.
    #[must_use]
    pub fn max(self, other: Share) -> Share {
        Share(self.0.max(other.0))
    }

    /// The share of ordinary requests that is refused, in percent.
    pub fn percent(self) -> u16 {
        self.0.min(WHOLE) * 100 / WHOLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_stands_when_nothing_got_through_without_waiting_for_two_intervals() {
        type Delays = &'static [(u64, u64)];
        let cases: [(&str, Delays, u64); 6] = [
            // what happens, delays in microseconds by milliseconds, what stands in the end
            ("a burst", &[(0, 9_000), (50, 200), (100, 9_000), (150, 9_000), (200, 9_000)], 200),
            ("a queue", &[(0, 9_000), (50, 8_000), (100, 9_000), (150, 7_000), (200, 9_000)], 7_000),
            ("one long stop", &[(0, 10), (50, 10), (100, 10), (900, 800_000)], 10),
            ("a stop and what it left", &[(0, 10), (100, 10), (900, 800_000), (950, 5), (1_000, 5)], 5),
            ("slow and steady", &[(0, 10), (300, 300_000), (600, 300_000), (900, 300_000)], 300_000),
            ("over", &[(0, 9_000), (100, 9_000), (200, 9_000), (250, 3), (300, 9_000)], 3),
        ];
        for (what, delays, expected) in cases {
            let mut queue = Queue::default();
            let found = delays.iter().filter_map(|(now, delay)| queue.observe(*now, *delay)).last();
            assert_eq!(found, Some(expected), "{what}");
            assert_eq!(queue.standing_us(), expected, "{what}");
        }
    }

    #[test]
    fn the_backlog_shrinks_to_what_can_be_accepted_in_time_and_comes_back() {
        let cases = [
            // standing and target in milliseconds, the queue then
            (100, 100, 4096),
            (400, 100, 512),
            (60, 100, 512),
            (110, 100, 232),
            (100_000, 100, 16),
            (24, 100, 32),
            (0, 100, 64),
            (0, u64::MAX / 2, 128),
        ];
        let mut backlog = Backlog::WHOLE;
        for (standing, target, expected) in cases {
            backlog = backlog.next(standing * 1_000, target.saturating_mul(1_000));
            assert_eq!(backlog.get(), expected, "after {standing} ms");
        }
        (0..10).for_each(|_| backlog = backlog.next(0, 100_000));
        assert_eq!(backlog, Backlog::WHOLE);
    }

    #[test]
    fn the_share_grows_while_a_queue_stands_and_is_gone_a_second_later() {
        let cases = [
            // intervals, standing and target in microseconds, percent of ordinary requests in the end
            (1, 101_000, 100_000, 6),
            (1, 201_000, 100_000, 31),
            (16, 101_000, 100_000, 100),
            (1, 100_000, 100_000, 65),
            (9, 0, 100_000, 0),
        ];
        let mut share = Share::NONE;
        for (intervals, standing, target, percent) in cases {
            for _ in 0..intervals {
                share = share.next(standing, target);
            }
            assert_eq!(share.percent(), percent, "after {intervals} of {standing}");
        }
        assert!(share.is_none());
    }

    #[test]
    fn what_is_refused_last_is_refused_when_all_else_is() {
        let refused = |share: Share| {
            let count = |takes: fn(Share, u64) -> bool| (0..u64::from(WHOLE)).filter(|n| takes(share, *n)).count();
            (count(Share::takes), count(Share::takes_last))
        };
        let cases = [
            (Share::NONE, (0, 0)),
            (Share(64), (64, 0)),
            (Share::ORDINARY, (256, 0)),
            (Share(320), (256, 64)),
            (Share::EVERYTHING, (256, 256)),
        ];
        for (share, expected) in cases {
            assert_eq!(refused(share), expected, "{share:?}");
        }
        let mut most = Share::NONE;
        (0..100).for_each(|_| most = most.next(u64::MAX, 1));
        assert_eq!(most, Share::EVERYTHING);
    }
}
