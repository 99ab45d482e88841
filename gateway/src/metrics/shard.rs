//! Counters with one writer.
//!
//! Every worker has its own copy of each counter (a *shard*), so an increment is a relaxed load and a relaxed store:
//! no lock prefix, no cache line that moves between cores. A reader adds the shards up; it may see a value that is a
//! moment old, never a torn one.

mod by;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

pub use by::{ByCode, ByFinding, ByFlag, ByHandshakeFailure, ByRefusal, CodeClass, Finding, HandshakeFailure, Refusal};

/// A number that only grows. One thread writes it.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down. One thread writes it.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Takes one away.
    pub fn dec(&self) {
        self.add(-1);
    }

    /// Adds `n`, which may be negative.
    pub fn add(&self, n: i64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Adds one for as long as the returned value lives.
    pub fn hold(&self) -> Held<'_> {
        self.inc();
        Held(self)
    }

    /// The value.
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// One in a [`Gauge`].
pub struct Held<'a>(&'a Gauge);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Upper bounds of the duration buckets, in microseconds. Envoy's from 0.5 ms on, thinned above a minute (a route's
/// timeout is 15 s unless somebody asks for more), with one finer step below, where a gateway on one box lives.
pub const DURATION_BOUNDS_US: [u64; 17] = [
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 30_000_000, 60_000_000,
];

/// How durations are spread over [`DURATION_BOUNDS_US`] and what is above them. One thread writes it.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; DURATION_BOUNDS_US.len() + 1],
    sum_us: Counter,
}

impl Histogram {
    /// Counts one duration.
    pub fn observe_us(&self, us: u64) {
        self.buckets[DURATION_BOUNDS_US.partition_point(|bound| *bound < us)].inc();
        self.sum_us.add(us);
    }

    /// How many durations each bucket has, not cumulated; the last one is above every bound.
    pub fn buckets(&self) -> impl Iterator<Item = u64> {
        self.buckets.iter().map(Counter::get)
    }

    /// The sum of all durations, in microseconds.
    pub fn sum_us(&self) -> u64 {
        self.sum_us.get()
    }
}

/// What one worker counts for one listener.
#[derive(Debug, Default)]
pub struct ListenerShard {
    /// Connections accepted.
    pub connections: Counter,
    /// Connections open now.
    pub connections_active: Gauge,
    /// Connections closed at once, by reason.
    pub refused: ByRefusal,
    /// TLS handshakes that succeeded.
    pub handshakes_ok: Counter,
    /// TLS handshakes that failed or took too long, by reason.
    pub handshakes_failed: ByHandshakeFailure,
    /// Bytes of request bodies received.
    pub bytes_received: Counter,
    /// Bytes of response bodies sent.
    pub bytes_sent: Counter,
    /// Requests finished, by response code.
    pub requests: ByCode,
    /// Requests in progress.
    pub requests_active: Gauge,
    /// Requests finished, by response flag; one with two flags counts under both.
    pub flags: ByFlag,
    /// Responses the gateway made itself.
    pub local_replies: Counter,
}

/// What one worker counts for one route.
#[derive(Debug, Default)]
pub struct RouteShard {
    /// Requests finished, by response code.
    pub requests: ByCode,
    /// From the request's first byte to the response's last.
    pub duration: Histogram,
}

/// What one worker counts for one L4 route.
#[derive(Debug, Default)]
pub struct L4Shard {
    /// Connections and UDP sessions taken.
    pub connections: Counter,
    /// Those open now.
    pub connections_active: Gauge,
    /// Bytes from clients.
    pub bytes_received: Counter,
    /// Bytes to clients.
    pub bytes_sent: Counter,
}

/// What one worker counts for one cluster.
#[derive(Debug, Default)]
pub struct ClusterShard {
    /// Attempts finished, by response code.
    pub requests: ByCode,
    /// Connections made.
    pub connections_created: Counter,
    /// Attempts that went over a connection that had served one before: the reuse rate is this over all attempts.
    pub connections_reused: Counter,
    /// Connections open now or being made, idle ones among them.
    pub connections_active: Gauge,
    /// Connections that could not be made, timeouts among them.
    pub connect_failures: Counter,
    /// TLS handshakes in which the endpoint has shown who it is.
    pub handshakes_full: Counter,
    /// Those that took up a session.
    pub handshakes_resumed: Counter,
    /// Requests in progress.
    pub requests_active: Gauge,
    /// Those of them that wait for a connection to become free.
    pub requests_pending: Gauge,
    /// Those of them that are sent again.
    pub retries_active: Gauge,
    /// Requests that ran into the route's timeout.
    pub timeouts: Counter,
    /// Tries that ran into `per_try_timeout`.
    pub try_timeouts: Counter,
    /// Requests refused because the pool had no room.
    pub pool_overflow: Counter,
    /// Attempts after the first.
    pub retries: Counter,
    /// Requests whose last retry did not help.
    pub retries_exhausted: Counter,
    /// Retries that the cluster's budget had no room for.
    pub retry_overflow: Counter,
    /// Requests refused because there were as many as there may be.
    pub request_overflow: Counter,
    /// Times that an endpoint stood out and was ejected, by why.
    pub ejections: ByFinding,
    /// Times that it was not ejected.
    pub findings_let_go: ByFinding,
}

/// What one worker counts for one rate limit.
#[derive(Debug, Default)]
pub struct RateLimitShard {
    /// Requests that got a token.
    pub allowed: Counter,
    /// Requests that got none and were refused.
    pub refused: Counter,
    /// Requests that got none and were let through, in a dry run.
    pub would_refuse: Counter,
    /// Buckets that were not full and gave way to another key's, and requests for which none could be made.
    pub evictions: Counter,
}

/// What one worker counts for one set of limits.
#[derive(Debug, Default)]
pub struct LimitSetShard {
    /// Counters that gave way to another key's before their windows were over, and hits for which none could be made.
    pub evictions: Counter,
    /// Counters that other boxes do not hear of.
    pub unshared: Counter,
    /// Exchanges with Redis that were made.
    pub exchanges_ok: Counter,
    /// Exchanges with Redis that failed.
    pub exchanges_failed: Counter,
    /// Counters that were told to Redis.
    pub told: Counter,
    /// 1 when the last exchange with Redis succeeded.
    pub redis_up: Gauge,
}

/// What one worker counts for one rule of a set of limits.
#[derive(Debug, Default)]
pub struct LimitRuleShard {
    /// Descriptors within their limit.
    pub within: Counter,
    /// Descriptors over it.
    pub over: Counter,
    /// Descriptors over it that were let through, because the rule only counts.
    pub shadowed: Counter,
}

/// What one worker counts for one global rate limit.
#[derive(Debug, Default)]
pub struct GlobalRateLimitShard {
    /// Requests that were under every limit.
    pub ok: Counter,
    /// Requests that were over one and were refused.
    pub over_limit: Counter,
    /// Requests about which nobody could tell.
    pub error: Counter,
    /// Those of them that were let through.
    pub failure_mode_allowed: Counter,
}

/// What one worker counts for one fault.
#[derive(Debug, Default)]
pub struct FaultShard {
    /// Requests that were made to wait.
    pub delayed: Counter,
    /// Requests that were answered with an error.
    pub aborted: Counter,
    /// Requests that were left in peace because there were too many at once.
    pub overflow: Counter,
}

/// What one worker counts for the breaker of a route.
#[derive(Debug, Default)]
pub struct BreakerShard {
    /// Times that a request opened it.
    pub opened: Counter,
    /// Requests that it answered.
    pub answers: Counter,
}

/// What one worker counts for the copies of a route's requests for a cluster.
#[derive(Debug, Default)]
pub struct MirrorShard {
    /// Copies that were answered.
    pub sent: Counter,
    /// Copies that were not.
    pub failed: Counter,
    /// Requests without a copy because their bodies were too long.
    pub too_long: Counter,
    /// Requests without a copy because there were too many at once.
    pub overflow: Counter,
}

/// What one worker counts for itself.
#[derive(Debug, Default)]
pub struct WorkerShard {
    /// Access log lines handed to the writer.
    pub log_lines: Counter,
    /// Access log lines dropped because the writer was behind.
    pub log_lines_dropped: Counter,
}

/// Keeps a value on cache lines of its own. 128 bytes: x86 prefetches lines in pairs, and some ARM cores have 128.
#[derive(Debug, Default)]
#[repr(align(128))]
struct CachePadded<T>(T);

/// One `T` for each worker and one for the control thread, made when that thread first counts something: a hundred thousand
/// routes of which a few hundred see traffic cost what those few hundred cost.
#[derive(Debug)]
pub struct Sharded<T> {
    shards: Box<[OnceLock<Box<CachePadded<T>>>]>,
}

impl<T: Default> Sharded<T> {
    /// For this many workers, and the control thread.
    pub fn new(workers: usize) -> Self {
        Sharded { shards: (0..=workers).map(|_| OnceLock::new()).collect() }
    }

    /// The control thread's own copy.
    pub fn of_control(&self) -> &T {
        self.shard(self.shards.len() - 1)
    }

    /// The worker's own copy. `worker` is below the number given to [`Sharded::new`], and only that worker writes.
    pub fn shard(&self, worker: usize) -> &T {
        &self.shards[worker].get_or_init(Box::default).0
    }

    /// Every copy that is in use.
    pub fn used(&self) -> impl Iterator<Item = &T> {
        self.shards.iter().filter_map(|shard| shard.get()).map(|padded| &padded.0)
    }

    /// The sum of a counter over all threads.
    pub fn sum(&self, counter: impl Fn(&T) -> &Counter) -> u64 {
        self.used().map(|shard| counter(shard).get()).sum()
    }

    /// The sum of a gauge over all threads.
    pub fn level(&self, gauge: impl Fn(&T) -> &Gauge) -> i64 {
        self.used().map(|shard| gauge(shard).get()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_on_a_bound_belongs_to_the_bucket_below_it() {
        let histogram = Histogram::default();
        for us in [0, 250, 251, 60_000_000, 60_000_001] {
            histogram.observe_us(us);
        }
        let buckets: Vec<u64> = histogram.buckets().collect();
        assert_eq!((buckets[0], buckets[1], buckets[16], buckets[17]), (2, 1, 1, 1));
        assert_eq!(histogram.sum_us(), 120_000_502);
    }

    #[test]
    fn shards_add_up_and_no_two_share_a_cache_line() {
        let stats: Sharded<ListenerShard> = Sharded::new(3);
        stats.shard(0).connections.inc();
        stats.shard(2).connections.add(4);
        stats.shard(2).connections_active.inc();
        stats.shard(0).connections_active.dec();
        assert_eq!(stats.sum(|shard| &shard.connections), 5);
        assert_eq!(stats.level(|shard| &shard.connections_active), 0);
        assert_eq!(stats.used().count(), 2);
        let line = |shard: &ListenerShard| std::ptr::from_ref(shard).addr() / 128;
        assert_ne!(line(stats.shard(0)), line(stats.shard(2)));
    }

    #[test]
    fn workers_count_at_the_same_time_and_nothing_is_lost() {
        let stats: Sharded<RouteShard> = Sharded::new(4);
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let stats = &stats;
                scope.spawn(move || (0..10_000).for_each(|_| stats.shard(worker).requests.count(200)));
            }
        });
        assert_eq!(stats.sum(|shard| shard.requests.of(CodeClass::Success)), 40_000);
    }
}
