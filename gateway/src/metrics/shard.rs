//! Counters with one writer.
//!
//! Every worker has its own copy of each counter (a *shard*), so an increment is a relaxed load and a relaxed store:
//! no lock prefix, no cache line that moves between cores. A reader adds the shards up; it may see a value that is a
//! moment old, never a torn one.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use super::flags::{FLAG_COUNT, ResponseFlags};

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

/// What the `code` label says: the class of a status code. One series for each of six hundred codes on every route
/// would be a scrape of its own; the access log has the exact code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CodeClass {
    /// No response head was sent: the client went away first.
    None,
    /// 100 to 199
    Informational,
    /// 200 to 299
    Success,
    /// 300 to 399
    Redirection,
    /// 400 to 499
    ClientError,
    /// 500 and above
    ServerError,
}

impl CodeClass {
    /// Every class, in order.
    pub const ALL: [CodeClass; 6] = [
        CodeClass::None,
        CodeClass::Informational,
        CodeClass::Success,
        CodeClass::Redirection,
        CodeClass::ClientError,
        CodeClass::ServerError,
    ];

    /// The class of a status code; 0 is "no response".
    pub fn of(status: u16) -> CodeClass {
        match status {
            0..100 => CodeClass::None,
            100..200 => CodeClass::Informational,
            200..300 => CodeClass::Success,
            300..400 => CodeClass::Redirection,
            400..500 => CodeClass::ClientError,
            500.. => CodeClass::ServerError,
        }
    }

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            CodeClass::None => "none",
            CodeClass::Informational => "1xx",
            CodeClass::Success => "2xx",
            CodeClass::Redirection => "3xx",
            CodeClass::ClientError => "4xx",
            CodeClass::ServerError => "5xx",
        }
    }
}

/// A counter for each [`CodeClass`].
#[derive(Debug, Default)]
pub struct ByCode([Counter; CodeClass::ALL.len()]);

impl ByCode {
    /// Counts one response; a status of 0 is "no response".
    pub fn count(&self, status: u16) {
        self.of(CodeClass::of(status)).inc();
    }

    /// The counter of a class.
    pub fn of(&self, class: CodeClass) -> &Counter {
        &self.0[class as usize]
    }
}

/// A counter for each response flag.
#[derive(Debug, Default)]
pub struct ByFlag([Counter; FLAG_COUNT]);

impl ByFlag {
    /// Counts one request under each of its flags.
    pub fn count(&self, flags: ResponseFlags) {
        flags.iter().for_each(|flag| self.0[flag.index()].inc());
    }

    /// The counter of the flag with this index.
    pub fn at(&self, index: usize) -> &Counter {
        &self.0[index]
    }
}

/// Why a connection was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// The listener has as many connections as it may.
    ListenerLimit,
    /// The source address has as many connections as it may.
    SourceLimit,
    /// Connections come faster than the listener takes them.
    ListenerRate,
    /// Connections of the source come faster than it may.
    SourceRate,
    /// An access rule denies the peer's address, or the one that a PROXY header names.
    AccessDenied,
    /// The peer, or the one that a PROXY header names, is banned for a while.
    Banned,
    /// The PROXY header is missing, broken, too slow, or from somebody who is not trusted.
    ProxyHeader,
    /// All listeners together have as many connections as they may.
    TotalLimit,
    /// There is too much to do.
    Overload,
}

impl Refusal {
    /// Every reason, in order.
    pub const ALL: [Refusal; 9] = [
        Refusal::ListenerLimit,
        Refusal::SourceLimit,
        Refusal::ListenerRate,
        Refusal::SourceRate,
        Refusal::AccessDenied,
        Refusal::Banned,
        Refusal::ProxyHeader,
        Refusal::TotalLimit,
        Refusal::Overload,
    ];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Refusal::ListenerLimit => "limit",
            Refusal::SourceLimit => "source_limit",
            Refusal::ListenerRate => "rate",
            Refusal::SourceRate => "source_rate",
            Refusal::AccessDenied => "access_denied",
            Refusal::Banned => "banned",
            Refusal::ProxyHeader => "proxy_header",
            Refusal::TotalLimit => "total_limit",
            Refusal::Overload => "overload",
        }
    }
}

/// A counter for each [`Refusal`].
#[derive(Debug, Default)]
pub struct ByRefusal([Counter; Refusal::ALL.len()]);

impl ByRefusal {
    /// The counter of a reason.
    pub fn of(&self, refusal: Refusal) -> &Counter {
        &self.0[refusal as usize]
    }
}

/// Why an endpoint stands out among those of its cluster: Envoy's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Finding {
    /// Bad answers in a row, or none.
    Consecutive5xx,
    /// The same of 502, 503, 504 and no answer.
    ConsecutiveGatewayFailure,
    /// Far fewer good answers than the others have.
    SuccessRate,
    /// More bad answers than are bearable.
    FailurePercentage,
}

impl Finding {
    /// Every one, in order.
    pub const ALL: [Finding; 4] =
        [Finding::Consecutive5xx, Finding::ConsecutiveGatewayFailure, Finding::SuccessRate, Finding::FailurePercentage];

    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Finding::Consecutive5xx => "consecutive_5xx",
            Finding::ConsecutiveGatewayFailure => "consecutive_gateway_failure",
            Finding::SuccessRate => "success_rate",
            Finding::FailurePercentage => "failure_percentage",
        }
    }
}

/// A counter for each [`Finding`].
#[derive(Debug, Default)]
pub struct ByFinding([Counter; Finding::ALL.len()]);

impl ByFinding {
    /// The counter of a finding.
    pub fn of(&self, finding: Finding) -> &Counter {
        &self.0[finding as usize]
    }
}

/// Why a TLS handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum HandshakeFailure {
    /// It took too long.
    Timeout,
    /// The client left in the middle of it.
    Closed,
    /// What came is not TLS, or breaks its rules.
    Protocol,
    /// The client's versions are too old.
    Version,
    /// No cipher suite, key exchange, signature or application protocol is known to both.
    NothingInCommon,
    /// No certificate is for the name the client asks for.
    UnknownName,
    /// The client says by an alert why it does not go on.
    Alert,
    /// The client shows no certificate, and has to.
    NoCertificate,
    /// The client's certificate, or one above it, is not valid now.
    Expired,
    /// It has been revoked.
    Revoked,
    /// There is no revocation list that says so, or it has expired.
    RevocationUnknown,
    /// It is of an authority that is not trusted.
    UnknownIssuer,
    /// It is good, but its name or key is not let in.
    NotAllowed,
    /// The client shows more certificates than are looked at.
    LongChain,
    /// The gateway cannot read it.
    Unreadable,
    /// Something else is wrong with it.
    BadCertificate,
}

impl HandshakeFailure {
    /// Every reason, in order.
    pub const ALL: [HandshakeFailure; 16] = [
        HandshakeFailure::Timeout,
        HandshakeFailure::Closed,
        HandshakeFailure::Protocol,
        HandshakeFailure::Version,
        HandshakeFailure::NothingInCommon,
        HandshakeFailure::UnknownName,
        HandshakeFailure::Alert,
        HandshakeFailure::NoCertificate,
        HandshakeFailure::Expired,
        HandshakeFailure::Revoked,
        HandshakeFailure::RevocationUnknown,
        HandshakeFailure::UnknownIssuer,
        HandshakeFailure::NotAllowed,
        HandshakeFailure::LongChain,
        HandshakeFailure::Unreadable,
        HandshakeFailure::BadCertificate,
    ];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            HandshakeFailure::Timeout => "timeout",
            HandshakeFailure::Closed => "closed",
            HandshakeFailure::Protocol => "protocol",
            HandshakeFailure::Version => "version",
            HandshakeFailure::NothingInCommon => "nothing_in_common",
            HandshakeFailure::UnknownName => "unknown_name",
            HandshakeFailure::Alert => "alert",
            HandshakeFailure::NoCertificate => "no_certificate",
            HandshakeFailure::Expired => "expired",
            HandshakeFailure::Revoked => "revoked",
            HandshakeFailure::RevocationUnknown => "revocation_unknown",
            HandshakeFailure::UnknownIssuer => "unknown_issuer",
            HandshakeFailure::NotAllowed => "not_allowed",
            HandshakeFailure::LongChain => "long_chain",
            HandshakeFailure::Unreadable => "unreadable",
            HandshakeFailure::BadCertificate => "bad_certificate",
        }
    }
}

/// A counter for each [`HandshakeFailure`].
#[derive(Debug, Default)]
pub struct ByHandshakeFailure([Counter; HandshakeFailure::ALL.len()]);

impl ByHandshakeFailure {
    /// The counter of a reason.
    pub fn of(&self, failure: HandshakeFailure) -> &Counter {
        &self.0[failure as usize]
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

/// One `T` for each worker and one for the control thread, made when that thread first counts something: a hundred thousand routes of which a few
/// hundred see traffic cost what those few hundred cost.
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
    fn codes_fall_into_their_classes() {
        for (status, text) in
            [(0, "none"), (100, "1xx"), (204, "2xx"), (304, "3xx"), (499, "4xx"), (503, "5xx"), (999, "5xx")]
        {
            assert_eq!(CodeClass::of(status).as_str(), text, "{status}");
        }
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
