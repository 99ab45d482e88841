//! A request and the breaker of its route: whether it may pass, and what its end says of the route.

use super::reply::Answer;
use super::{LocalReply, ProxyError, Request};
use crate::config::model::RouteId;
use crate::filter::breaker::{Call, Period};
use crate::metrics::flags::ResponseFlag;
use crate::net::now_ms;
use crate::proto::grpc;
use crate::proto::head::{Headers, Known};
use crate::snapshot::BreakerView;

/// What is seen of a request for the breaker of its route.
#[derive(Clone, Copy, Debug)]
pub struct Watched {
    period: Period,
    /// When the head of the last answer came.
    answered_ms: Option<u64>,
    grpc_status: Option<u8>,
}

impl Watched {
    /// The head of an answer has come.
    pub(super) fn answered(&mut self, head: &Headers) {
        self.answered_ms = Some(now_ms());
        self.grpc_status = grpc_status(head);
    }

    /// The answer is over.
    pub(super) fn ended(&mut self, trailers: &Headers) {
        self.grpc_status = grpc_status(trailers).or(self.grpc_status);
    }
}

fn grpc_status(fields: &Headers) -> Option<u8> {
    str::from_utf8(fields.get(&Known::GrpcStatus)?).ok()?.parse().ok()
}

/// What a request gets while the breaker is open.
pub(super) fn answer(breaker: &BreakerView) -> Answer<'_> {
    let settings = &breaker.settings;
    Answer {
        status: settings.status,
        flag: ResponseFlag::UpstreamOverflow,
        details: "route_breaker_open",
        body: settings.body.as_bytes(),
        content_type: b"text/plain",
        headers: &settings.headers,
        grpc_status: Some(settings.grpc_status),
    }
}

impl Request<'_> {
    /// Whether the request may pass this breaker, which looks at it from now on.
    pub(super) fn passes(&mut self, breaker: &BreakerView) -> bool {
        let period = breaker.admit(now_ms());
        self.exchange.watched = period.map(|period| Watched { period, answered_ms: None, grpc_status: None });
        if period.is_none() {
            breaker.stats.shard(self.worker.worker).answers.inc();
        }
        period.is_some()
    }

    /// Tells the breaker of the route, where it has one, what came of the request: an answer from an endpoint, or an error.
    /// Once: what happens to a tunnel after its handshake is no matter of the route's.
    pub(super) fn tell_breaker(&mut self, route: RouteId, error: Option<&ProxyError>) {
        let Some(watched) = self.exchange.watched.take() else { return };
        let Some(breaker) = &self.cx.generation.route_breakers[route.index()] else { return };
        let now = now_ms();
        // An error comes after the answers that were asked for again.
        let took = self.timers.took(watched.answered_ms.filter(|_| error.is_none()).unwrap_or(now));
        let slow = breaker.settings.slow.is_some_and(|slow| u128::from(took) >= slow.time.as_millis());
        let failed = match error {
            Some(error) => has_failed(error),
            None => self.answer_has_failed(&watched),
        };
        // What ended because of the client says nothing, but that it took long.
        if failed.is_none() && !slow {
            return;
        }
        let call = Call { failed: failed.unwrap_or(false), slow };
        if breaker.count(watched.period, call, now) {
            breaker.stats.shard(self.worker.worker).opened.inc();
            let (name, time) = (&self.cx.generation.config.routes[route.index()].name, breaker.settings.break_duration);
            log::warn!("route \"{name}\": its breaker opens for {time:?}: too many requests failed or were slow");
        }
    }

    /// Whether the answer that the client got is a failure; `None`: that is not to say.
    fn answer_has_failed(&self, watched: &Watched) -> Option<bool> {
        use ResponseFlag::{
            DownstreamConnectionTermination, StreamIdleTimeout, UpstreamConnectionTermination, UpstreamProtocolError,
            UpstreamRequestTimeout,
        };
        let exchange = &*self.exchange;
        // Cut because the client left, or because time passed, which a client that reads slowly can bring about.
        let is_anybodys = [DownstreamConnectionTermination, StreamIdleTimeout, UpstreamRequestTimeout];
        if is_anybodys.into_iter().any(|flag| exchange.flags.contains(flag)) {
            return None;
        }
        let is_cut = [UpstreamConnectionTermination, UpstreamProtocolError].map(|flag| exchange.flags.contains(flag));
        if is_cut != [false; 2] || exchange.response.status >= 500 {
            return Some(true);
        }
        match watched.grpc_status {
            // The client says how long a call may take. One that says too little must not close the route to others.
            Some(grpc::DEADLINE_EXCEEDED) if exchange.grpc_deadline.is_some() => None,
            status => Some(status.is_some_and(grpc::is_failure)),
        }
    }
}

/// Whether a request without an answer from an endpoint has failed; `None` when that is the client's doing.
fn has_failed(error: &ProxyError) -> Option<bool> {
    match error {
        ProxyError::GrpcDeadline => None,
        error => (LocalReply::of(error).status >= 500).then_some(true),
    }
}
