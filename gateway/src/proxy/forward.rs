//! Passing a request on: choose an endpoint, get a connection, send, and relay the answer.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, Instant};

use super::mirror::{Copied, Copies};
use super::proxy_header::proxy_header;
use super::pump::{PumpError, pump};
use super::upgrade;
use super::{
    BodySink as _, BodySource as _, Downstream, Ending, Exchange, ProxyError, Request, RequestBody, ResponseSink,
};
use crate::balance;
use crate::config::model::{Cluster, ClusterId, Forward, RouteId};
use crate::net::{Passed, Until, now_ms};
use crate::proto::grpc;
use crate::proto::h1::encode::{BodyFraming, ResponseFraming};
use crate::proto::head::{BodyLength, Known, RequestHead};
use crate::snapshot::{ClusterView, EndpointView};
use crate::upstream::{Answer, AnswerBody, Connection, Pools, UpstreamError, Wanted};

/// Where this request goes, and within which bounds.
pub(super) struct Target<'a> {
    id: ClusterId,
    cluster: &'a Cluster,
    view: &'a ClusterView,
    body_limit: u64,
    timeout: Option<Duration>,
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
    let id = balance::pick_weighted(&to.clusters, request.worker.random() as u32).ok_or(ProxyError::NoEndpoint)?;
    let settings = &generation.config.routes[route.index()];
    let target = Target {
        id,
        cluster: &generation.config.clusters[id.index()],
        view: generation.cluster(id),
        body_limit: settings.body_bytes.or(request.cx.settings().limits.body_bytes).unwrap_or(u64::MAX),
        timeout: settings.timeout,
        websocket_idle: settings.websocket.as_ref().and_then(|websocket| websocket.idle_timeout),
    };
    request.exchange.cluster = Some(id);
    if let BodyLength::Known(length) = request.exchange.request.body
        && length > target.body_limit
    {
        return Err(ProxyError::BodyTooLong);
    }
    request.start_clock(&target);
    let mut copies = Copies::begin(request, route);
    let stats = target.view.stats.shard(request.worker.worker);
    let mut attempts = 0;
    loop {
        let endpoint = target.view.pick(request.worker.worker, |_| true).ok_or(ProxyError::NoEndpoint)?;
        request.exchange.upstream = Some(endpoint.address);
        let mut connection = connection(request, &target, endpoint, attempts == 0).await?;
        attempts += 1;
        let tried = match request.exchange.websocket {
            None => attempt(request, downstream, &mut connection, &target, &mut copies).await,
            Some(_) => Box::pin(upgrade::attempt(request, downstream, &mut connection, &target)).await,
        };
        match tried {
            Ok((ending, uploaded)) => {
                stats.requests.count(request.exchange.response.status);
                let uploaded = uploaded && ending != Ending::Abort;
                request.pools(target.cluster).put(connection, uploaded, target.cluster, now_ms());
                return Ok(ending);
            }
            Err(error)
                if attempts < ATTEMPTS
                    && may_repeat(request, connection.is_reused(), &error)
                    && downstream.split().0.received() == 0 =>
            {
                stats.retries.inc();
            }
            Err(error) => {
                stats.requests.count(0);
                if !matches!(error, ProxyError::Upstream(UpstreamError::TimedOut(Passed::End))) {
                    return Err(error);
                }
                stats.timeouts.inc();
                let deadline = request.exchange.grpc_deadline;
                return Err(if deadline.is_some_and(|due| due <= now_ms()) { ProxyError::GrpcDeadline } else { error });
            }
        }
    }
}

/// Tries for one request. The second is over a connection of its own, so that only an origin that refuses one stream after
/// the other needs a third.
const ATTEMPTS: u32 = 3;

/// Whether the request can be sent again. Either the origin has said that it did not look at it, or it closed a connection
/// that we had kept before it answered a byte, which says nothing about this request; then only what may be repeated
/// is (RFC 9110 §9.2.2).
fn may_repeat(request: &Request<'_>, reused: bool, error: &ProxyError) -> bool {
    match error {
        ProxyError::Upstream(UpstreamError::Refused) => true,
        ProxyError::Upstream(UpstreamError::Closed { answered: false }) => {
            reused && is_repeatable(&request.exchange.request)
        }
        _ => false,
    }
}

fn is_repeatable(head: &RequestHead) -> bool {
    head.method.is_idempotent() && head.body == BodyLength::Empty
}

/// A connection to the endpoint; `reuse`: one that is there will do.
async fn connection(
    request: &mut Request<'_>,
    target: &Target<'_>,
    endpoint: &EndpointView,
    reuse: bool,
) -> Result<Connection, ProxyError> {
    let preamble = proxy_header(target.cluster, request.connection);
    let wanted = Wanted {
        worker: request.worker.worker,
        snapshot: &request.cx.generation,
        cluster: target.id,
        endpoint,
        repeatable: is_repeatable(&request.exchange.request),
        reuse,
        preamble: &preamble,
        timers: &request.worker.timers,
    };
    let timers = request.timers;
    timers.idle.set_within(target.cluster.connect_timeout, &timers.end);
    let got = request.pools(target.cluster).get(&wanted, &request.worker.pools, &timers.idle).await;
    match got {
        Err(UpstreamError::ConnectTimeout) if timers.end.is_due() => Err(UpstreamError::TimedOut(Passed::End).into()),
        Err(error) => {
            if let UpstreamError::Connect(text) = &error {
                request.exchange.upstream_failure = Some(text.clone());
            }
            Err(error.into())
        }
        Ok(connection) => Ok(connection),
    }
}

/// One try at one endpoint: sends the request, and relays the answer while the request's body may still be on its way.
/// Says also whether the request was sent whole.
async fn attempt(
    request: &mut Request<'_>,
    downstream: &mut impl Downstream,
    connection: &mut Connection,
    target: &Target<'_>,
    copies: &mut Option<Box<Copies>>,
) -> Result<(Ending, bool), ProxyError> {
    let timers = request.timers;
    let until = Until::idle(&timers.idle, request.idle_timeout(), Some(&timers.end));
    let (mut body, mut response) = downstream.split();
    let head = &request.exchange.request;
    let (mut sink, mut answer) = connection.start(head, false)?;

    // The origin's time begins when it has the whole request, as in Envoy. Without a body it began before we connected.
    let (clock_runs, grpc_deadline) = (head.body.is_empty(), request.exchange.grpc_deadline);
    let start_clock = || {
        if let Some(timeout) = target.timeout
            && !clock_runs
        {
            timers.end.set_at(in_time(timeout, grpc_deadline));
        }
    };
    if request.exchange.expects_continue && !body.is_done() && !body.has_data() {
        response.start_continue();
        response.flush(&until).await.map_err(|_| ProxyError::ClientGone)?;
    }
    let uploaded = Cell::new(false);
    let mut upload = pin!(async {
        let mut copied = Copied { body: &mut body, copies };
        let result = pump(&mut copied, &mut sink, target.body_limit, &until).await;
        start_clock();
        match result {
            Ok(()) => {
                uploaded.set(true);
                if let Some(copies) = copies.take() {
                    copies.send(body.trailers());
                }
            }
            // The origin may have answered before it closed; the answer's half will tell.
            Err(PumpError::Sink(_)) => return std::future::pending().await,
            Err(error) => return error,
        }
        PumpError::Source(body.broken().await)
    });
    answer_head(request.exchange, &mut answer, upload.as_mut(), &until).await?;
    let ending = relay(request, &mut response, answer.body(), upload, &uploaded, &until).await;
    Ok((ending, uploaded.get()))
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

/// When `timeout` from now is over, in [`now_ms`], or what is `earlier`.
fn in_time(timeout: Duration, earlier: Option<u64>) -> u64 {
    let due = now_ms().saturating_add(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
    due.min(earlier.unwrap_or(u64::MAX))
}

impl<'a> Request<'a> {
    /// Sets the end of a request whose head has just been read: a gRPC client's own deadline, and the route's timeout
    /// where the request is whole.
    fn start_clock(&mut self, target: &Target<'_>) {
        let head = &self.exchange.request;
        let asked = head.headers.get(&Known::GrpcTimeout).and_then(grpc::parse_timeout);
        self.exchange.grpc_deadline = asked.map(|timeout| in_time(timeout, None));
        let timeout = target.timeout.filter(|_| head.body.is_empty());
        match (timeout, self.exchange.grpc_deadline) {
            (Some(timeout), deadline) => self.timers.end.set_at(in_time(timeout, deadline)),
            (None, Some(deadline)) => self.timers.end.set_at(deadline),
            (None, None) => self.timers.end.clear(),
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
        use crate::metrics::flags::ResponseFlag as Flag;
        let (flag, details) = match (error, until.passed()) {
            (_, Some(Passed::End)) => (Flag::UpstreamRequestTimeout, "response_timeout"),
            (_, Some(Passed::Idle)) => (Flag::StreamIdleTimeout, "stream_idle_timeout"),
            (PumpError::Sink(_), None) => (Flag::DownstreamConnectionTermination, "downstream_remote_disconnect"),
            (PumpError::TooLong, None) => {
                (Flag::UpstreamProtocolError, "upstream_reset_after_response_started{protocol_error}")
            }
            (PumpError::Source(error), None) if error.kind() == io::ErrorKind::InvalidData => {
                (Flag::UpstreamProtocolError, "upstream_reset_after_response_started{protocol_error}")
            }
            (PumpError::Source(_), None) => {
                (Flag::UpstreamConnectionTermination, "upstream_reset_after_response_started{connection_termination}")
            }
        };
        self.exchange.flags.insert(flag);
        self.exchange.details = details;
    }
}
