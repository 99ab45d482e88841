//! The tries of one request: how often it was sent, to whom in vain, and what is kept of its body to send it again.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use super::mirror::Copied;
use super::pump::BodySource;
use super::{ProxyError, RequestBody};
use crate::balance::retry::{self, Failure};
use crate::config::model::{Retry, RetryBudget};
use crate::metrics::registry::ClusterStats;
use crate::metrics::shard::{ClusterShard, Held};
use crate::net::{Buf, Until};
use crate::proto::head::{BodyLength, Headers, RequestHead, ResponseHead};
use crate::snapshot::EndpointId;
use crate::upstream::UpstreamError;

/// How often a request is sent again because the connection was of no use. The second time it has a connection of its own,
/// so that only an origin that refuses one stream after the other gets it a third time.
const REPEATS: u32 = 2;

/// What was tried so far.
pub(super) struct Tries<'a> {
    retry: &'a Retry,
    budget: Budget<'a>,
    /// Whether the request may be sent twice although the first may have had an effect.
    repeatable: bool,
    retries: u32,
    repeats: u32,
    /// Counts this request as one that is tried again.
    retrying: Option<Held<'a>>,
    endpoint: Option<EndpointId>,
    /// Endpoints of the tries before.
    failed: Vec<EndpointId>,
    /// Whether all that was taken of the request's body is kept.
    is_whole: &'a Cell<bool>,
}

/// What follows a try that brought no answer for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Another try, at once.
    Repeat,
    /// Another try, after a wait.
    Retry(Duration),
    /// There is none left.
    Exhausted,
    /// The cluster has as many retries in progress as it may.
    Overflow,
    /// It is not one that is tried again.
    GiveUp,
}

impl<'a> Tries<'a> {
    /// None so far.
    pub(super) fn new(retry: &'a Retry, budget: Budget<'a>, head: &RequestHead, is_whole: &'a Cell<bool>) -> Tries<'a> {
        Tries {
            retry,
            budget,
            repeatable: retry.non_idempotent || head.method.is_idempotent(),
            retries: 0,
            repeats: 0,
            retrying: None,
            endpoint: None,
            failed: Vec::new(),
            is_whole,
        }
    }

    /// Whether a connection that has served another request will do.
    pub(super) fn may_reuse(&self) -> bool {
        self.repeats == 0
    }

    /// Whether each try says how many there were.
    pub(super) fn are_told_to_endpoints(&self) -> bool {
        self.retry.attempt_count_in_request
    }

    /// Whether this endpoint has had the request.
    pub(super) fn has_had(&self, endpoint: EndpointId) -> bool {
        self.endpoint == Some(endpoint) || self.failed.contains(&endpoint)
    }

    /// The next try goes to this endpoint.
    pub(super) fn begin(&mut self, endpoint: EndpointId) {
        self.failed.extend(self.endpoint.replace(endpoint));
    }

    /// What follows a failure. `reused`: of a connection that has served before.
    /// `random` gives random bits.
    pub(super) fn after_failure(
        &mut self,
        error: &ProxyError,
        head: &RequestHead,
        reused: bool,
        random: impl FnOnce() -> u32,
    ) -> Next {
        if !self.is_whole.get() {
            return Next::GiveUp;
        }
        if self.repeats < REPEATS && says_nothing_of_the_request(error, head, reused) {
            self.repeats += 1;
            return Next::Repeat;
        }
        match failure(error) {
            Some(failure) if retry::after_failure(self.retry, failure, self.repeatable) => self.next(random),
            _ => Next::GiveUp,
        }
    }

    /// What follows this answer: the client gets it, unless it is [`Next::Retry`].
    /// `random` gives random bits.
    pub(super) fn after_answer(&mut self, answer: &ResponseHead, random: impl FnOnce() -> u32) -> Next {
        if !retry::after_answer(self.retry, answer, self.repeatable) || !self.is_whole.get() {
            return Next::GiveUp;
        }
        let asked = retry::retry_after(&answer.headers).unwrap_or_default();
        if asked > self.retry.max_backoff {
            return Next::GiveUp;
        }
        match self.next(random) {
            Next::Retry(wait) => Next::Retry(wait.max(asked)),
            other => other,
        }
    }

    fn next(&mut self, random: impl FnOnce() -> u32) -> Next {
        if self.retry.attempts == 0 {
            return Next::GiveUp;
        }
        if self.retries == self.retry.attempts {
            return Next::Exhausted;
        }
        // A request does not stand in its own way.
        self.retrying = None;
        self.retrying = self.budget.take();
        if self.retrying.is_none() {
            return Next::Overflow;
        }
        self.retries += 1;
        Next::Retry(retry::backoff(self.retry, self.retries, random()))
    }
}

/// How many retries a cluster may have in progress, so that those of a cluster in trouble do not become its trouble.
#[derive(Clone, Copy)]
pub(super) struct Budget<'a> {
    pub(super) limits: RetryBudget,
    pub(super) stats: &'a ClusterStats,
    /// The worker's part of them.
    pub(super) shard: &'a ClusterShard,
}

impl<'a> Budget<'a> {
    /// One more, where there may be one. Over all workers; two that ask at the same moment may both get it.
    fn take(&self) -> Option<Held<'a>> {
        let requests = self.stats.level(|shard| &shard.requests_active);
        let retries = self.stats.level(|shard| &shard.retries_active);
        let share = requests * i64::from(self.limits.percent) / 100;
        (retries < share.max(i64::from(self.limits.min_retries))).then(|| self.shard.retries_active.hold())
    }
}

/// Whether the failure says nothing about this request, which can then be sent again whatever the route's rules are. Either
/// the origin has said that it did not look at it, or it closed a connection that we had kept before it answered a byte; then
/// only what may be repeated is (RFC 9110 §9.2.2).
fn says_nothing_of_the_request(error: &ProxyError, head: &RequestHead, reused: bool) -> bool {
    match error {
        ProxyError::Upstream(UpstreamError::Refused) => true,
        ProxyError::Upstream(UpstreamError::Closed { answered: false }) => reused && is_repeatable(head),
        _ => false,
    }
}

/// Whether a request can be sent again as it is.
pub(super) fn is_repeatable(head: &RequestHead) -> bool {
    head.method.is_idempotent() && head.body == BodyLength::Empty
}

fn failure(error: &ProxyError) -> Option<Failure> {
    match error {
        ProxyError::TryTimeout => Some(Failure::TryTimeout),
        ProxyError::Upstream(UpstreamError::Connect(_) | UpstreamError::ConnectTimeout) => Some(Failure::Connect),
        ProxyError::Upstream(UpstreamError::Refused) => Some(Failure::Refused),
        ProxyError::Upstream(UpstreamError::Reset | UpstreamError::Closed { .. } | UpstreamError::Protocol(_)) => {
            Some(Failure::Reset)
        }
        _ => None,
    }
}

/// The begin of a request's body, as far as it was taken.
pub(super) struct Kept<'a> {
    bytes: Vec<u8>,
    limit: usize,
    is_whole: &'a Cell<bool>,
}

impl<'a> Kept<'a> {
    /// Nothing so far, and at most `limit` bytes. `is_whole` becomes false when there were more.
    pub(super) fn new(limit: usize, is_whole: &'a Cell<bool>) -> Kept<'a> {
        Kept { bytes: Vec::new(), limit, is_whole }
    }

    fn keep(&mut self, frame: &[u8]) {
        if self.is_whole.get() && frame.len() <= self.limit - self.bytes.len() {
            self.bytes.extend_from_slice(frame);
        } else {
            self.is_whole.set(false);
            self.bytes = Vec::new();
        }
    }
}

/// A request's body for one try: what is kept of it, and then the rest as it comes from the client, of which as much is kept
/// as may be.
pub(super) struct Replay<'a, 'k, B> {
    body: Copied<'a, B>,
    kept: &'a mut Kept<'k>,
    /// How much of what is kept this try has had.
    at: usize,
}

impl<'a, 'k, B: RequestBody> Replay<'a, 'k, B> {
    /// From its begin.
    pub(super) fn new(body: Copied<'a, B>, kept: &'a mut Kept<'k>) -> Replay<'a, 'k, B> {
        Replay { body, kept, at: 0 }
    }

    /// Waits for the client to go away; see [`RequestBody::broken`].
    pub(super) async fn broken(&mut self) -> io::Error {
        self.body.broken().await
    }
}

impl<B: RequestBody> BodySource for Replay<'_, '_, B> {
    async fn next(&mut self, until: &Until<'_>) -> io::Result<Option<Buf>> {
        if self.at < self.kept.bytes.len() {
            let frame = Buf::copy_of(&self.kept.bytes[self.at..]);
            self.at = self.kept.bytes.len();
            return Ok(Some(frame));
        }
        let frame = self.body.next(until).await?;
        if let Some(frame) = &frame {
            self.kept.keep(frame.as_slice());
            self.at = self.kept.bytes.len();
        }
        Ok(frame)
    }

    fn trailers(&self) -> &Headers {
        self.body.trailers()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::RetryOn;
    use crate::proto::head::{Known, Method};

    const CLOSED: ProxyError = ProxyError::Upstream(UpstreamError::Closed { answered: false });
    const REFUSED: ProxyError = ProxyError::Upstream(UpstreamError::Refused);

    const BUDGET: RetryBudget = RetryBudget { percent: 20, min_retries: 3 };

    #[test]
    fn a_kept_connection_that_is_gone_costs_no_try_and_a_request_with_an_effect_is_not_sent_twice() {
        let retry = Retry { attempts: 1, on: vec![RetryOn::Reset], ..Retry::default() };
        let (stats, whole, get) = (ClusterStats::new(1), Cell::new(true), RequestHead::default());
        let budget = Budget { limits: BUDGET, stats: &stats, shard: stats.shard(0) };
        let mut tries = Tries::new(&retry, budget, &get, &whole);
        let mut after = |error, reused| tries.after_failure(error, &get, reused, || 0);
        assert_eq!(after(&CLOSED, true), Next::Repeat);
        assert_eq!(after(&CLOSED, false), Next::Retry(Duration::ZERO));
        assert_eq!(after(&REFUSED, false), Next::Repeat);
        assert_eq!(after(&REFUSED, false), Next::Exhausted);
        assert!(!tries.may_reuse());

        let post = RequestHead { method: Method::Post, ..RequestHead::default() };
        let mut tries = Tries::new(&retry, budget, &post, &whole);
        assert_eq!(tries.after_failure(&CLOSED, &post, true, || 0), Next::GiveUp);
        assert_eq!(tries.after_failure(&REFUSED, &post, true, || 0), Next::Repeat);
        whole.set(false);
        assert_eq!(tries.after_failure(&REFUSED, &post, true, || 0), Next::GiveUp);
    }

    #[test]
    fn a_body_is_kept_as_long_as_it_is_no_longer_than_it_may_be() {
        let whole = Cell::new(true);
        let mut kept = Kept::new(10, &whole);
        kept.keep(b"12345");
        kept.keep(b"67890");
        assert!(whole.get() && kept.bytes == b"1234567890");
        kept.keep(b"1");
        assert!(!whole.get() && kept.bytes.is_empty());
        kept.keep(b"2");
        assert!(!whole.get() && kept.bytes.is_empty(), "the rest of it is no body");
    }

    #[test]
    fn an_origin_that_asks_for_a_while_gets_it_and_one_that_asks_for_long_is_believed() {
        let retry = Retry { on: vec![RetryOn::ServerError], max_backoff: Duration::from_secs(2), ..Retry::default() };
        let (stats, whole, head) = (ClusterStats::new(1), Cell::new(true), RequestHead::default());
        let budget = Budget { limits: BUDGET, stats: &stats, shard: stats.shard(0) };
        let mut answer = ResponseHead { status: 503, ..ResponseHead::default() };
        for (asked, next) in [("1", Next::Retry(Duration::from_secs(1))), ("3", Next::GiveUp)] {
            answer.headers.set(&Known::RetryAfter, asked.as_bytes());
            assert_eq!(Tries::new(&retry, budget, &head, &whole).after_answer(&answer, || 0), next, "{asked}");
        }
    }

    #[test]
    fn a_request_that_is_tried_again_does_not_stand_in_its_own_way() {
        let retry = Retry { attempts: 2, on: vec![RetryOn::ConnectFailure], ..Retry::default() };
        let (stats, whole, get) = (ClusterStats::new(1), Cell::new(true), RequestHead::default());
        let limits = RetryBudget { percent: 0, min_retries: 1 };
        let mut tries = Tries::new(&retry, Budget { limits, stats: &stats, shard: stats.shard(0) }, &get, &whole);
        let error = ProxyError::Upstream(UpstreamError::ConnectTimeout);
        for _ in 0..2 {
            assert_eq!(tries.after_failure(&error, &get, false, || 0), Next::Retry(Duration::ZERO));
            assert_eq!(stats.shard(0).retries_active.get(), 1);
        }
        drop(tries);
        assert_eq!(stats.shard(0).retries_active.get(), 0);
    }

    #[test]
    fn retries_have_their_share_of_the_requests_in_progress_and_never_less_than_a_few() {
        let stats = ClusterStats::new(2);
        let budget = Budget { limits: BUDGET, stats: &stats, shard: stats.shard(0) };
        // Requests and retries in progress on two workers.
        let cases =
            [([1, 0], [2, 0], true), ([1, 0], [2, 1], false), ([10, 20], [3, 2], true), ([10, 20], [3, 3], false)];
        for (requests, retries, has_room) in cases {
            for worker in 0..2 {
                let shard = stats.shard(worker);
                shard.requests_active.add(requests[worker] - shard.requests_active.get());
                shard.retries_active.add(retries[worker] - shard.retries_active.get());
            }
            assert_eq!(budget.take().is_some(), has_room, "{requests:?} {retries:?}");
        }
    }
}
