//! Passing a request on: choose an endpoint, get a connection, send, and relay the answer.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, Instant};

use super::call::{note_outcome, take_place};
use super::cx::in_time;
use super::error::of_broken_answer;
use super::mirror::{Copied, Copies};
use super::pause::{pause, unless_gone};
use super::proxy_header::proxy_header;
use super::pump::{PumpError, pump};
use super::tries::{Budget, Kept, Next, Replay, Tries, is_repeatable};
use super::upgrade;
use super::{BodySource as _, Downstream, Ending, Exchange, ProxyError, Request, ResponseSink, ask_for_body};
use crate::balance::outlier::Outcome;
use crate::config::model::{Cluster, ClusterId, Forward, RouteId};
use crate::filter::headers;
use crate::metrics::flags::ResponseFlag;
use crate::metrics::shard::ClusterShard;
use crate::net::{Passed, Until, now_ms};
use crate::proto::grpc;
use crate::proto::h1::encode::{BodyFraming, ResponseFraming};
use crate::proto::head::{BodyLength, Known};
use crate::snapshot::{Ask, ClusterView, EndpointView};
use crate::upstream::{Answer, AnswerBody, Connection, Pools, UpstreamError, Wanted};

/// Where this request goes, and within which bounds.
pub(super) struct Target<'a> {
    id: ClusterId,
    cluster: &'a Cluster,
    view: &'a ClusterView,
    body_limit: u64,
    /// How long a WebSocket may be silent.
    pub(super) websocket_idle: Option<Duration>,
}

/// Passes the request on and its answer back. An error means that the client has got nothing yet.
pub(super) async fn forward(
    request: &mut Request<'_>,
    downstream: &mut impl Downstream,
    to: &Forward,
    route: RouteId,
) -> Result<Ending, ProxyError> {
    let generation = request.cx.generation.clone();
    let (id, ask) = request.destination(to, route).ok_or(ProxyError::NoEndpoint)?;
    let settings = &generation.config.routes[route.index()];
    let target = Target {
        id,
        cluster: &generation.config.clusters[id.index()],
        view: generation.cluster(id),
        body_limit: settings.body_bytes.or(request.cx.settings().limits.body_bytes).unwrap_or(u64::MAX),
        websocket_idle: settings.websocket.as_ref().and_then(|websocket| websocket.idle_timeout),
    };
    request.exchange.cluster = Some(id);
    if let BodyLength::Known(length) = request.exchange.request.body
        && length > target.body_limit
    {
        return Err(ProxyError::BodyTooLong);
    }
    let stats = target.view.stats.shard(request.worker.worker);
    let _active = take_place(target.cluster, target.view, stats)?;
    request.start_clock();
    let is_whole = Cell::new(true);
    let budget = Budget { limits: target.cluster.retry_budget, stats: &target.view.stats, shard: stats };
    let mut tries = Tries::new(&settings.retry, budget, &request.exchange.request, &is_whole);
    let kept = Kept::new(settings.retry.body_bytes, &is_whole);
    let mut passing = Passing { kept, copies: Copies::begin(request, route) };
    loop {
        let next = match one_try(request, downstream, &target, &ask, &mut tries, &mut passing).await {
            Ok(Tried::Answered { ending, .. }) => return Ok(ending),
            Ok(Tried::Again(wait)) => Next::Retry(wait),
            Err(failed) => request.after_failure(failed, &target, &mut tries)?,
        };
        stats.retries.inc();
        if let Next::Retry(wait) = next {
            request.exchange.is_retried = true;
            wait_to_retry(request, downstream, wait, stats).await?;
        }
    }
}

/// What is made of a request's body as it comes from the client.
struct Passing<'k> {
    kept: Kept<'k>,
    copies: Option<Box<Copies>>,
}

/// What a try brought.
pub(super) enum Tried {
    /// The client has its answer.
    Answered {
        /// What becomes of its connection.
        ending: Ending,
        /// Whether the request was sent whole, and the origin's connection can serve another one.
        uploaded: bool,
    },
    /// An answer that is asked for again, after a wait.
    Again(Duration),
}

/// A try without an answer.
struct Failed {
    error: ProxyError,
    /// Whether its connection has served other requests.
    reused: bool,
    /// Whether it got no further than our own queue for a connection, which says nothing of the endpoint.
    in_queue: bool,
}

impl From<ProxyError> for Failed {
    fn from(error: ProxyError) -> Failed {
        Failed { error, reused: false, in_queue: false }
    }
}

/// One try, at an endpoint that has not had the request, where there is one.
async fn one_try(
    request: &mut Request<'_>,
    downstream: &mut impl Downstream,
    target: &Target<'_>,
    ask: &Ask,
    tries: &mut Tries<'_>,
    passing: &mut Passing<'_>,
) -> Result<Tried, Failed> {
    let ask = Ask { random: request.worker.random(), ..*ask };
    let untried = target.view.pick(&ask, |endpoint| !tries.has_had(endpoint.id));
    let endpoint = untried.or_else(|| target.view.pick(&ask, |_| true)).ok_or(ProxyError::NoEndpoint)?;
    let _in_flight = target.view.begin(endpoint);
    request.stay_with(endpoint, &ask, target.cluster);
    tries.begin(endpoint.id);
    request.exchange.upstream = Some(endpoint.address);
    request.exchange.upstream_failure = None;
    request.exchange.attempts += 1;
    if tries.are_told_to_endpoints() {
        headers::set_attempt_count(&mut request.exchange.request.headers, request.exchange.attempts);
    }
    request.timers.begin_try(request.exchange.try_timeout);
    let tried = at_endpoint(request, downstream, target, endpoint, tries, passing).await;
    request.note_outcome(target, endpoint, &tried);
    tried
}

/// The try: a connection to the endpoint, and the exchange.
async fn at_endpoint(
    request: &mut Request<'_>,
    downstream: &mut impl Downstream,
    target: &Target<'_>,
    endpoint: &EndpointView,
    tries: &mut Tries<'_>,
    passing: &mut Passing<'_>,
) -> Result<Tried, Failed> {
    let mut connection = connection(request, downstream, target, endpoint, tries.may_reuse()).await?;
    let tried = match request.exchange.websocket {
        None => attempt(request, downstream, &mut connection, target, tries, passing).await,
        Some(_) => Box::pin(upgrade::attempt(request, downstream, &mut connection, target)).await,
    };
    let stats = target.view.stats.shard(request.worker.worker);
    let tried = tried.map_err(|error| {
        request.note_failure(&error);
        Failed { error, reused: connection.is_reused(), in_queue: false }
    })?;
    stats.requests.count(request.exchange.response.status);
    if let Tried::Answered { ending, uploaded } = tried {
        let uploaded = uploaded && ending != Ending::Abort;
        request.pools(target.cluster).put(connection, uploaded, target.cluster, now_ms());
    }
    Ok(tried)
}

/// Waits before a retry, unless the client leaves or the request's time is over.
async fn wait_to_retry(
    request: &Request<'_>,
    downstream: &mut impl Downstream,
    wait: Duration,
    stats: &ClusterShard,
) -> Result<(), ProxyError> {
    let timers = request.timers;
    timers.end_tries();
    timers.idle.set_within(wait, &timers.end);
    pause(request, downstream).await?;
    if timers.end.is_due() { Err(request.time_is_over(stats)) } else { Ok(()) }
}

/// A connection to the endpoint; `reuse`: one that is there will do.
async fn connection(
    request: &mut Request<'_>,
    downstream: &mut impl Downstream,
    target: &Target<'_>,
    endpoint: &EndpointView,
    reuse: bool,
) -> Result<Connection, Failed> {
    let preamble = proxy_header(target.cluster, request.connection);
    let timers = request.timers;
    let wanted = Wanted {
        worker: request.worker.worker,
        snapshot: &request.cx.generation,
        cluster: target.id,
        endpoint,
        repeatable: is_repeatable(&request.exchange.request),
        reuse,
        preamble: &preamble,
        timers: &request.worker.timers,
        deadline: &timers.idle,
        end: Some(&timers.end),
    };
    let pools = request.pools(target.cluster);
    if let Some(connection) = pools.kept(&wanted) {
        return Ok(connection);
    }
    // Boxed, so that a request does not keep the room that connecting needs.
    let made = Box::pin(unless_gone(downstream, pools.connect(&wanted, &request.worker.pools))).await?;
    made.map_err(|error| {
        let in_queue = matches!(error, UpstreamError::Overflow);
        let error = match error {
            UpstreamError::ConnectTimeout | UpstreamError::Overflow if timers.end.is_due() => {
                UpstreamError::TimedOut(Passed::End)
            }
            error => error,
        };
        let error = error.into();
        request.note_failure(&error);
        Failed { error, reused: false, in_queue }
    })
}

/// One try over a connection: sends the request, and relays the answer while the request's body may still be on its way.
async fn attempt(
    request: &mut Request<'_>,
    downstream: &mut impl Downstream,
    connection: &mut Connection,
    target: &Target<'_>,
    tries: &mut Tries<'_>,
    passing: &mut Passing<'_>,
) -> Result<Tried, ProxyError> {
    let timers = request.timers;
    let until = Until::idle(&timers.idle, request.idle_timeout(), Some(&timers.end));
    let (mut body, mut response) = downstream.split();
    let (mut sink, mut answer) = connection.start(&request.exchange.request, false)?;
    ask_for_body(request.exchange, &mut body, &mut response, &until).await?;
    let (uploaded, answered) = (Cell::new(false), Cell::new(false));
    let (timeout, try_timeout) = (request.exchange.timeout, request.exchange.try_timeout);
    let copied = Copied { body: &mut body, copies: &mut passing.copies };
    let mut body = Replay::new(copied, &mut passing.kept);
    let mut upload = pin!(async {
        let result = pump(&mut body, &mut sink, target.body_limit, &until).await;
        // The origin's time begins when it has the whole request, as in Envoy.
        if timers.start(timeout) && !answered.get() {
            timers.begin_try(try_timeout);
        }
        match result {
            Ok(()) => uploaded.set(true),
            // The origin may have answered before it closed; the answer's half will tell.
            Err(PumpError::Sink(_)) => return std::future::pending().await,
            Err(error) => return error,
        }
        PumpError::Source(body.broken().await)
    });
    answer_head(request.exchange, &mut answer, upload.as_mut(), &until).await?;
    answered.set(true);
    timers.end_tries();
    match tries.after_answer(&request.exchange.response, || request.worker.random() as u32) {
        Next::Retry(wait) => return Ok(Tried::Again(wait)),
        next => request.note_end_of_tries(next, target),
    }
    let ending = relay(request, &mut response, answer.body(), upload, &uploaded, &until).await;
    Ok(Tried::Answered { ending, uploaded: uploaded.get() })
}

/// Reads the answer's head while the client's side goes on, which ends first only when it fails.
pub(super) async fn answer_head(
    exchange: &mut Exchange,
    answer: &mut Answer<'_>,
    mut upload: Pin<&mut impl Future<Output = PumpError>>,
    until: &Until<'_>,
) -> Result<(), ProxyError> {
    let sent_at = Instant::now();
    {
        let mut head = pin!(answer.head(&exchange.request.method, &mut exchange.response, until));
        std::future::poll_fn(|cx| match upload.as_mut().poll(cx) {
            Poll::Ready(error) => Poll::Ready(Err(upload_error(error, until))),
            Poll::Pending => head.as_mut().poll(cx).map_err(ProxyError::from),
        })
        .await?;
    }
    exchange.upstream_time = Some(sent_at.elapsed());
    if let Some(watched) = &mut exchange.watched {
        watched.answered(&exchange.response.headers);
    }
    Ok(())
}

/// Sends the answer to the client. From here on there is no other answer: what fails now cuts the connection.
pub(super) async fn relay(
    request: &mut Request<'_>,
    response: &mut impl ResponseSink,
    mut answer: AnswerBody<'_>,
    mut upload: Pin<&mut impl Future<Output = PumpError>>,
    uploaded: &Cell<bool>,
    until: &Until<'_>,
) -> Ending {
    request.set_service_time();
    request.finish_response_head(true);
    request.exchange.details = "via_upstream";
    // An answer that overtakes the request's body ends the connection, as in Envoy, and says so: what is left of the
    // body would pass for the next request.
    let keep_alive = request.keeps_alive(uploaded.get());
    let exchange = &mut *request.exchange;
    let framing =
        ResponseFraming::of(&exchange.request.method, exchange.request.version, &exchange.response, keep_alive);
    response.start(&exchange.response, framing);
    exchange.responded = true;
    let result = {
        // HTTP/2 frames say nothing of whether an answer may have a body; to a client of HTTP/1, bytes behind such a head
        // are the next answer.
        let limit = if framing.body == BodyFraming::Bodyless { 0 } else { u64::MAX };
        let mut download = pin!(pump(&mut answer, response, limit, until));
        let mut uploading = true;
        std::future::poll_fn(|cx| {
            if uploading && let Poll::Ready(result) = upload.as_mut().poll(cx) {
                uploading = false;
                if let PumpError::Source(error) = result
                    && error.kind() != io::ErrorKind::TimedOut
                {
                    return Poll::Ready(Err(PumpError::Sink(error)));
                }
            }
            download.as_mut().poll(cx)
        })
        .await
    };
    exchange.sent = response.sent();
    if let Some(watched) = &mut exchange.watched {
        watched.ended(answer.trailers());
    }
    match result {
        Ok(()) if framing.keep_alive => Ending::KeepAlive,
        Ok(()) => Ending::Close,
        Err(error) => {
            request.note_cut(error, until);
            Ending::Abort
        }
    }
}

fn upload_error(error: PumpError, until: &Until<'_>) -> ProxyError {
    match error {
        PumpError::TooLong => ProxyError::BodyTooLong,
        PumpError::Source(error) | PumpError::Sink(error) => ProxyError::reading_request(&error, until.passed()),
    }
}

impl<'a> Request<'a> {
    /// Sets the end of a request whose head has just been read: a gRPC client's own deadline, and the timeout where the
    /// request is whole. Without a body its time begins before we connect.
    fn start_clock(&mut self) {
        let head = &self.exchange.request;
        let asked = head.headers.get(&Known::GrpcTimeout).and_then(grpc::parse_timeout);
        self.exchange.grpc_deadline = asked.map(in_time);
        self.timers.begin(self.exchange.grpc_deadline);
        if head.body.is_empty() {
            self.timers.start(self.exchange.timeout);
        }
    }

    /// What follows a try that has failed; an error when it was the last.
    fn after_failure(
        &mut self,
        failed: Failed,
        target: &Target<'_>,
        tries: &mut Tries<'_>,
    ) -> Result<Next, ProxyError> {
        let is_timeout =
            |error: &ProxyError| matches!(error, ProxyError::Upstream(UpstreamError::TimedOut(Passed::End)));
        let Failed { mut error, reused, .. } = failed;
        let stats = target.view.stats.shard(self.worker.worker);
        if is_timeout(&error) && !self.timers.is_over() {
            stats.try_timeouts.inc();
            error = ProxyError::TryTimeout;
        }
        let random = || self.worker.random() as u32;
        let next = tries.after_failure(&error, &self.exchange.request, reused, random);
        if next != Next::Repeat {
            stats.requests.count(0);
        }
        match next {
            Next::Repeat | Next::Retry(_) => return Ok(next),
            Next::Exhausted | Next::Overflow | Next::GiveUp => self.note_end_of_tries(next, target),
        }
        Err(if is_timeout(&error) { self.time_is_over(stats) } else { error })
    }

    /// The request has taken too long: for its client, who said how long it may take, or for the route.
    fn time_is_over(&self, stats: &ClusterShard) -> ProxyError {
        stats.timeouts.inc();
        match self.exchange.grpc_deadline {
            Some(due) if due <= now_ms() => ProxyError::GrpcDeadline,
            _ => UpstreamError::TimedOut(Passed::End).into(),
        }
    }

    /// Remembers why there is no connection, for the access log.
    fn note_failure(&mut self, error: &ProxyError) {
        if let ProxyError::Upstream(UpstreamError::Connect(why)) = error {
            self.exchange.upstream_failure = Some(why.clone());
        }
    }

    /// Takes note of how an endpoint answered, where its cluster wants to know.
    fn note_outcome(&self, target: &Target<'_>, endpoint: &EndpointView, tried: &Result<Tried, Failed>) {
        let outcome = match tried {
            Ok(_) => Outcome::of_status(self.exchange.response.status),
            Err(Failed { error: ProxyError::Upstream(error), in_queue: false, .. }) if error.is_the_origins() => {
                Outcome::GatewayFailure
            }
            // The client's fault, or ours.
            Err(_) => return,
        };
        let random = || self.worker.random() as u32;
        note_outcome(target.cluster, target.view, endpoint, outcome, self.worker.worker, random);
    }

    /// Counts and remembers why there is no other try.
    fn note_end_of_tries(&mut self, next: Next, target: &Target<'_>) {
        let stats = target.view.stats.shard(self.worker.worker);
        match next {
            Next::Exhausted => {
                stats.retries_exhausted.inc();
                self.exchange.flags.insert(ResponseFlag::RetryLimitExceeded);
            }
            Next::Overflow => {
                stats.retry_overflow.inc();
                self.exchange.flags.insert(ResponseFlag::UpstreamOverflow);
            }
            Next::Repeat | Next::Retry(_) | Next::GiveUp => {}
        }
    }

    /// Where this request's connections to the cluster are kept.
    fn pools(&self, cluster: &Cluster) -> &'a Pools {
        match cluster.proxy_protocol {
            None => &self.worker.pools,
            Some(_) => self.connection.pools.get_or_init(|| self.worker.pools.private()),
        }
    }

    fn set_service_time(&mut self) {
        let elapsed = self.exchange.upstream_time.map_or(0, |time| time.as_millis());
        let name = &Known::XEnvoyUpstreamServiceTime;
        self.exchange.response.headers.set(name, itoa::Buffer::new().format(elapsed).as_bytes());
    }

    /// Remembers why a response was cut short.
    fn note_cut(&mut self, error: PumpError, until: &Until<'_>) {
        use ResponseFlag as Flag;
        let (flag, details) = match (error, until.passed()) {
            (_, Some(Passed::End)) => (Flag::UpstreamRequestTimeout, "response_timeout"),
            (_, Some(Passed::Idle)) => (Flag::StreamIdleTimeout, "stream_idle_timeout"),
            (PumpError::Sink(_), None) => (Flag::DownstreamConnectionTermination, "downstream_remote_disconnect"),
            (PumpError::TooLong, None) => {
                (Flag::UpstreamProtocolError, "upstream_reset_after_response_started{protocol_error}")
            }
            (PumpError::Source(error), None) => of_broken_answer(&error),
        };
        self.exchange.flags.insert(flag);
        self.exchange.details = details;
    }
}
