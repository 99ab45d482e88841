//! Requests of the gateway's own: copies for other clusters, and questions to services.

use std::io;
use std::time::Duration;

use super::{BodySink as _, BodySource as _, ProxyError, Request};
use crate::balance::outlier::Outcome;
use crate::config::model::{Cluster, ClusterId};
use crate::metrics::shard::{ClusterShard, Held};
use crate::net::{self, Buf, Deadline, Timers, Until, now_ms};
use crate::proto::head::{Headers, RequestHead, ResponseHead};
use crate::snapshot::{Ask, ClusterView, EndpointView, Generation};
use crate::upstream::{Pools, UpstreamError, Wanted};

/// What is sent of a body in one piece.
const PIECE: usize = net::SMALL;

/// What a call needs of the worker. It may outlive the request that it is about.
#[derive(Clone)]
pub(super) struct Caller {
    /// The worker's number.
    pub worker: usize,
    /// Random bits.
    pub random: u64,
    /// The generation that the clusters are of.
    pub generation: Generation,
    /// The worker's connections.
    pub pools: Pools,
    /// The worker's deadlines.
    pub timers: Timers,
}

/// A whole request, and how long it may take.
pub(super) struct Call<'a> {
    pub cluster: ClusterId,
    pub head: &'a RequestHead,
    pub body: &'a [u8],
    pub trailers: &'a Headers,
    /// To the connection.
    pub connecting: Duration,
    /// From the connection to the end of the answer; `None` is what is left of the time for connecting.
    pub answering: Option<Duration>,
}

/// An answer.
pub(super) struct Answered {
    pub head: ResponseHead,
    /// None where its body was not taken to the end.
    pub trailers: Headers,
}

impl Caller {
    /// Calls for a request.
    pub fn of(request: &Request<'_>) -> Caller {
        Caller {
            worker: request.worker.worker,
            random: request.worker.random(),
            generation: request.cx.generation.clone(),
            pools: request.worker.pools.clone(),
            timers: request.worker.timers.clone(),
        }
    }

    /// Sends the request once, to one endpoint. `take` gets the answer's body in pieces, and says whether it wants more.
    pub async fn call(&self, call: &Call<'_>, take: impl FnMut(&[u8]) -> bool) -> Result<Answered, ProxyError> {
        let (cluster, view) =
            (&self.generation.config.clusters[call.cluster.index()], self.generation.cluster(call.cluster));
        let ask = Ask { worker: self.worker, random: self.random, now_ms: now_ms(), ..Ask::default() };
        let endpoint = view.pick(&ask, |_| true).ok_or(ProxyError::NoEndpoint)?;
        let _in_flight = view.begin(endpoint);
        let deadline = self.timers.deadline();
        let answered = self.at_endpoint(call, endpoint, &deadline, take).await;
        let outcome = match &answered {
            Ok(answered) => Some(Outcome::of_status(answered.head.status)),
            // It had less time than an endpoint is given for a connection.
            Err(UpstreamError::ConnectTimeout) if call.connecting < cluster.connect_timeout => None,
            Err(error) => error.is_the_origins().then_some(Outcome::GatewayFailure),
        };
        if let Some(outcome) = outcome {
            note_outcome(cluster, view, endpoint, outcome, self.worker, || self.random as u32);
        }
        answered.map_err(ProxyError::from)
    }

    async fn at_endpoint(
        &self,
        call: &Call<'_>,
        endpoint: &EndpointView,
        deadline: &Deadline,
        mut take: impl FnMut(&[u8]) -> bool,
    ) -> Result<Answered, UpstreamError> {
        let (cluster, view) =
            (&self.generation.config.clusters[call.cluster.index()], self.generation.cluster(call.cluster));
        let wanted = Wanted {
            worker: self.worker,
            snapshot: &self.generation,
            cluster: call.cluster,
            endpoint,
            repeatable: false,
            reuse: true,
            preamble: b"",
            timers: &self.timers,
            deadline: &self.timers.deadline(),
            end: Some(deadline),
        };
        deadline.set(call.connecting);
        let mut connection = match self.pools.kept(&wanted) {
            Some(connection) => connection,
            None => self.pools.connect(&wanted, &self.pools).await?,
        };
        if let Some(time) = call.answering {
            deadline.set(time);
        }
        let until = Until::only(deadline);
        let failed = |error: io::Error| UpstreamError::of_io(&error, false, until.passed());
        let (mut sink, mut answer) = connection.start(call.head, false)?;
        for piece in call.body.chunks(PIECE) {
            sink.ready(&until).await.map_err(failed)?;
            sink.data(Buf::copy_of(piece), &until).await.map_err(failed)?;
        }
        sink.finish(call.trailers, &until).await.map_err(failed)?;
        let mut head = ResponseHead::default();
        let answered = answer.head(&call.head.method, &mut head, &until).await;
        view.stats.shard(self.worker).requests.count(if answered.is_ok() { head.status } else { 0 });
        answered?;
        let mut rest = answer.body();
        while let Some(piece) = rest.next(&until).await.map_err(failed)? {
            if !take(piece.as_slice()) {
                return Ok(Answered { head, trailers: Headers::default() });
            }
        }
        let trailers = rest.trailers().clone();
        drop(rest);
        self.pools.put(connection, true, cluster, now_ms());
        Ok(Answered { head, trailers })
    }
}

/// A place among the requests that a cluster may have in progress, over all workers; an error when there is none.
pub(super) fn take_place<'a>(
    cluster: &Cluster,
    view: &'a ClusterView,
    stats: &'a ClusterShard,
) -> Result<Held<'a>, UpstreamError> {
    if cluster.max_requests.is_some_and(|most| view.stats.level(|shard| &shard.requests_active) >= most.into()) {
        stats.request_overflow.inc();
        return Err(UpstreamError::Overflow);
    }
    Ok(stats.requests_active.hold())
}

/// Takes note of how an endpoint answered, where its cluster wants to know.
pub(super) fn note_outcome(
    cluster: &Cluster,
    view: &ClusterView,
    endpoint: &EndpointView,
    outcome: Outcome,
    worker: usize,
    random: impl FnOnce() -> u32,
) {
    if !view.looks_at_answers() {
        return;
    }
    let Some(found) = view.count_answer(endpoint, outcome, now_ms(), random()) else { return };
    found.count(view.stats.shard(worker));
    if found.is_ejected {
        let (cluster, why) = (&cluster.name, found.finding.as_str());
        log::warn!("cluster \"{cluster}\": endpoint {} is ejected: {why}", endpoint.address);
    }
}
