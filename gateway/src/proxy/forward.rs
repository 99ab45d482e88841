//! Passing a request on: choose an endpoint, get a connection, send, and relay the answer.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Instant;

use super::pump::{PumpError, pump};
use super::{BodySink as _, Downstream, Ending, ProxyError, Request, RequestBody, ResponseSink};
use crate::balance;
use crate::config::model::{Cluster, Forward, RouteId};
use crate::http1::Framing;
use crate::net::{Passed, Until, now_ms};
use crate::proto::h1::encode::{self, ResponseFraming};
use crate::proto::head::{BodyLength, RequestHead};
use crate::snapshot::{ClusterView, EndpointView};
use crate::upstream::{self, Connection, UpstreamError};

/// Where this request goes, and within which bounds.
struct Target<'a> {
    cluster: &'a Cluster,
    view: &'a ClusterView,
    body_limit: u64,
    timeout: Option<std::time::Duration>,
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
        cluster: &generation.config.clusters[id.index()],
        view: generation.cluster(id),
        body_limit: settings.body_bytes.or(request.cx.settings().limits.body_bytes).unwrap_or(u64::MAX),
        timeout: settings.timeout,
    };
    request.exchange.cluster = Some(id);
    if let BodyLength::Known(length) = request.exchange.request.body
        && length > target.body_limit
    {
        return Err(ProxyError::BodyTooLong);
    }
    request.connection.request.clear();
    if request.exchange.request.body.is_empty()
        && let Some(timeout) = target.timeout
    {
        request.connection.request.set(timeout);
    }
    let mut fresh = false;
    loop {
        let endpoint = target.view.pick(request.worker.worker, |_| true).ok_or(ProxyError::NoEndpoint)?;
        request.exchange.upstream = Some(endpoint.address);
        let mut connection = connection(request, &target, endpoint, fresh).await?;
        let result = attempt(request, downstream, &mut connection, &target).await;
        let stats = target.view.stats.shard(request.worker.worker);
        match result {
            Ok((ending, uploaded)) => {
                stats.requests.count(request.exchange.response.status);
                // Behind half a request, the origin would take the next one for the rest of it.
                if ending != Ending::Abort && uploaded && connection.is_reusable() {
                    request.worker.pools.put(connection, target.cluster, now_ms());
                }
                return Ok(ending);
            }
            Err(error) if !fresh && may_repeat(request, &connection, &error) => {
                stats.retries.inc();
                fresh = true;
            }
            Err(error) => {
                stats.requests.count(0);
                if matches!(error, ProxyError::Upstream(UpstreamError::TimedOut(Passed::End))) {
                    stats.timeouts.inc();
                }
                return Err(error);
            }
        }
    }
}

/// Whether the request can be sent again, over a new connection: the origin closed a connection that we had kept,
/// before it answered a byte, which says nothing about this request. Only what may be repeated (RFC 9110 §9.2.2), and
/// whose body is still ours to send.
fn may_repeat(request: &Request<'_>, connection: &Connection, error: &ProxyError) -> bool {
    connection.is_reused()
        && matches!(error, ProxyError::Upstream(UpstreamError::Closed { answered: false }))
        && is_repeatable(&request.exchange.request)
}

fn is_repeatable(head: &RequestHead) -> bool {
    head.method.is_idempotent() && head.body == BodyLength::Empty
}

/// An idle connection to the endpoint, or a new one.
async fn connection(
    request: &mut Request<'_>,
    target: &Target<'_>,
    endpoint: &EndpointView,
    fresh: bool,
) -> Result<Box<Connection>, ProxyError> {
    let (worker, stats) = (request.worker, target.view.stats.shard(request.worker.worker));
    let repeatable = is_repeatable(&request.exchange.request);
    if !fresh && let Some(connection) = worker.pools.take(endpoint.id, repeatable) {
        stats.connections_reused.inc();
        return Ok(connection);
    }
    let Some(slot) = worker.pools.slot(worker.worker, endpoint.id, target.cluster, &target.view.stats) else {
        stats.pool_overflow.inc();
        return Err(UpstreamError::Overflow.into());
    };
    request.connection.idle.set_within(target.cluster.connect_timeout, &request.connection.request);
    let connected = Box::pin(upstream::dial(target.view, endpoint, b"", &request.connection.idle)).await;
    match connected {
        Ok((reader, writer, _)) => {
            stats.connections_created.inc();
            Ok(Box::new(Connection::new(reader, writer, slot)))
        }
        Err(UpstreamError::ConnectTimeout) if request.connection.request.is_due() => {
            Err(UpstreamError::TimedOut(Passed::End).into())
        }
        Err(error) => {
            stats.connect_failures.inc();
            if let UpstreamError::Connect(text) = &error {
                request.exchange.upstream_failure = Some(text.clone());
            }
            Err(error.into())
        }
    }
}

/// One try at one endpoint: sends the request, and relays the answer while the request's body may still be on its way.
/// Says also whether the request was sent whole.
async fn attempt(
    request: &mut Request<'_>,
    downstream: &mut impl Downstream,
    connection: &mut Connection,
    target: &Target<'_>,
) -> Result<(Ending, bool), ProxyError> {
    let sent_at = Instant::now();
    let until = Until::idle(&request.connection.idle, request.idle_timeout(), Some(&request.connection.request));
    let (mut body, mut response) = downstream.split();
    let (mut sink, mut answer) = connection.split();
    let head = &request.exchange.request;
    sink.start(request_framing(head.body), |out| encode::request(head, out));

    // The origin's time begins when it has the whole request, as in Envoy. Without a body it began before we connected.
    let (deadline, clock_runs) = (&request.connection.request, head.body.is_empty());
    let start_clock = || {
        if let Some(timeout) = target.timeout
            && !clock_runs
        {
            deadline.set(timeout);
        }
    };
    if request.exchange.expects_continue && !body.is_done() && !body.has_data() {
        response.start_continue();
        response.flush(&until).await.map_err(|_| ProxyError::ClientGone)?;
    }
    let uploaded = Cell::new(false);
    let mut upload = pin!(async {
        let result = pump(&mut body, &mut sink, target.body_limit, &until).await;
        start_clock();
        match result {
            Ok(()) => uploaded.set(true),
            // The origin may have answered before it closed; the answer's half will tell.
            Err(PumpError::Sink(_)) => return std::future::pending().await,
            Err(error) => return error,
        }
        PumpError::Source(body.broken().await)
    });
    {
        let exchange = &mut *request.exchange;
        let mut head = pin!(answer.head(&exchange.request.method, &mut exchange.response, &until));
        std::future::poll_fn(|cx| {
            if let Poll::Ready(error) = upload.as_mut().poll(cx) {
                return Poll::Ready(Err(upload_error(error, &until)));
            }
            head.as_mut().poll(cx).map_err(ProxyError::from)
        })
        .await?;
    }
    request.exchange.upstream_time = Some(sent_at.elapsed());
    let ending = relay(request, &mut response, answer.body(), upload, &uploaded, &until).await;
    Ok((ending, uploaded.get()))
}

/// Sends the answer to the client. From here on there is no other answer: what fails now cuts the connection.
async fn relay(
    request: &mut Request<'_>,
    response: &mut impl ResponseSink,
    mut answer: crate::http1::Source<'_>,
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
        let mut download = pin!(pump(&mut answer, response, u64::MAX, until));
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

fn request_framing(body: BodyLength) -> Framing {
    match body {
        BodyLength::Streamed | BodyLength::UntilClose => Framing::Chunked,
        BodyLength::Empty | BodyLength::Known(_) => Framing::Identity,
    }
}

fn upload_error(error: PumpError, until: &Until<'_>) -> ProxyError {
    match error {
        PumpError::TooLong => ProxyError::BodyTooLong,
        PumpError::Source(error) | PumpError::Sink(error) => ProxyError::reading_request(&error, until.passed()),
    }
}

impl Request<'_> {
    fn set_service_time(&mut self) {
        let elapsed = self.exchange.upstream_time.map_or(0, |time| time.as_millis());
        let name = &crate::proto::head::Known::XEnvoyUpstreamServiceTime;
        self.exchange.response.headers.set(name, itoa::Buffer::new().format(elapsed).as_bytes());
    }

    /// Remembers why a response was cut short.
    fn note_cut(&mut self, error: PumpError, until: &Until<'_>) {
        use crate::metrics::flags::ResponseFlag as Flag;
        let (flag, details) = match (error, until.passed()) {
            (_, Some(Passed::End)) => (Flag::UpstreamRequestTimeout, "response_timeout"),
            (_, Some(Passed::Idle)) => (Flag::StreamIdleTimeout, "stream_idle_timeout"),
            (PumpError::Sink(_), None) => (Flag::DownstreamConnectionTermination, "downstream_remote_disconnect"),
            (PumpError::Source(error), None) if error.kind() == io::ErrorKind::InvalidData => {
                (Flag::UpstreamProtocolError, "upstream_reset_after_response_started{protocol_error}")
            }
            (PumpError::Source(_) | PumpError::TooLong, None) => {
                (Flag::UpstreamConnectionTermination, "upstream_reset_after_response_started{connection_termination}")
            }
        };
        self.exchange.flags.insert(flag);
        self.exchange.details = details;
    }
}
