//! One request from start to end.
//!
//! [`handle`] tells the story; each step is a function of its own. The HTTP version of either side is not known here.

mod affinity;
mod breaker;
mod call;
mod cx;
mod error;
mod exchange;
mod filters;
mod finish;
mod forward;
mod global_limit;
mod limit_service;
mod mirror;
mod open;
mod pause;
mod proxy_header;
mod pump;
mod reply;
mod room;
mod tries;
mod tunnel;
mod upgrade;

use std::sync::Arc;

pub use crate::snapshot::Generation;
pub use cx::{ConnectionCx, ListenerCx, RequestCx, RequestTimers, WorkerCx};
pub use error::{LocalReply, ProxyError};
pub use exchange::Exchange;
pub use open::{Admitted, Open};
pub use proxy_header::proxy_header;
pub use pump::{BodySink, BodySource, PumpError, pump};
pub use room::{Room, Rooms};
pub use tunnel::{TunnelError, tunnel};

use crate::config::model::{Action, Forward, Priority, RouteId};
use crate::filter::headers::AskedTimeouts;
use crate::filter::{client_cert, forwarded, headers, rate_limit};
use crate::net::Until;
use crate::overload::Fate;
use crate::overload::memory::Step;
use crate::proto::h1::{encode, hop};
use crate::proto::head::{Known, Method, ResponseHead};
use crate::proto::websocket;
use crate::route::{Query, host, rewrite};

/// The client's side of a request: where its body comes from, and where the response goes.
pub trait Downstream {
    /// Both halves, to be used at the same time.
    fn split(&mut self) -> (impl RequestBody, impl ResponseSink);
    /// Makes the head accept the client's WebSocket, holds it, and gives both halves of the tunnel behind it.
    fn accept_websocket(&mut self, head: &mut ResponseHead, key: &[u8]) -> (impl RequestBody, impl ResponseSink);
}

/// The request's body.
#[expect(async_fn_in_trait, reason = "a worker's futures stay on its thread, so nobody needs them to be `Send`")]
pub trait RequestBody: BodySource {
    /// Whether the whole body has been taken.
    fn is_done(&self) -> bool;
    /// Whether some of it is here already.
    fn has_data(&mut self) -> bool;
    /// Bytes taken.
    fn received(&self) -> u64;
    /// Waits, once the body is done, for the client to go away; for ever when it stays. A client that only says that it
    /// sends no more is still there: it wants its answer.
    async fn broken(&mut self) -> std::io::Error;
}

/// Where the response goes.
pub trait ResponseSink: BodySink {
    /// Holds the interim response that asks for the body.
    fn start_continue(&mut self);
    /// Holds the head; the body follows in this framing.
    fn start(&mut self, head: &ResponseHead, framing: encode::ResponseFraming);
    /// Bytes of body written.
    fn sent(&self) -> u64;
}

/// Asks for the body, once, where the client waits for that (RFC 9110 §10.1.1).
async fn ask_for_body(
    exchange: &mut Exchange,
    body: &mut impl RequestBody,
    response: &mut impl ResponseSink,
    until: &Until<'_>,
) -> Result<(), ProxyError> {
    if std::mem::take(&mut exchange.expects_continue) && !body.is_done() && !body.has_data() {
        response.start_continue();
        response.flush(until).await.map_err(|_| ProxyError::ClientGone)?;
    }
    Ok(())
}

/// What becomes of the client's connection after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It serves the next request.
    KeepAlive,
    /// It is closed; the response is complete.
    Close,
    /// It is cut: the response is not complete, and the client must notice.
    Abort,
}

/// A request and all that decides about it.
pub struct Request<'a> {
    /// The worker.
    pub worker: &'a WorkerCx,
    /// The client's connection.
    pub connection: &'a ConnectionCx,
    /// Its deadlines.
    pub timers: &'a RequestTimers,
    /// The generation it began in.
    pub cx: RequestCx,
    /// What is known of it.
    pub exchange: &'a mut Exchange,
}

/// Serves a request whose head has been read.
pub async fn handle(mut request: Request<'_>, downstream: &mut impl Downstream) -> Ending {
    let fate = request.worker.overload.fate(|| request.worker.random());
    if fate == Fate::Refused || fate == Fate::UnlessHigh && !request.cx.generation.has_priorities {
        request.worker.overload.count_shed();
        return Box::pin(refuse(request, downstream, ProxyError::Overloaded)).await;
    }
    request.count_start();
    identify(&mut request);
    if let Some(answer) = request.challenge() {
        return Box::pin(answer_challenge(request, downstream, &answer)).await;
    }
    let mut routed = find_route(&mut request);
    if fate == Fate::UnlessHigh && !request.is_high(routed.as_ref().ok()) {
        request.worker.overload.count_shed();
        request.exchange.client_keeps_alive = false;
        routed = Err(ProxyError::Overloaded);
    }
    let route = routed.as_ref().ok().copied();
    let answered = match request.has_filters(route) && !matches!(routed, Err(ProxyError::Overloaded)) {
        false => None,
        true => filters::pass(&mut request, downstream, route).await,
    };
    let ending = match (answered, routed) {
        (Some(ending), _) => ending,
        (None, Err(error)) => reply::error(&mut request, downstream, error).await,
        (None, Ok(route)) => serve(&mut request, downstream, route).await,
    };
    request.exchange.received = downstream.split().0.received();
    finish::finish(&mut request);
    ending
}

/// Answers a request whose head cannot be taken, or that there is no time for. The connection ends with it: where the next
/// request would begin may not be known.
pub async fn refuse(mut request: Request<'_>, downstream: &mut impl Downstream, error: ProxyError) -> Ending {
    request.count_start();
    // No field of such a head is looked at for who the client is.
    request.exchange.client_ip = request.connection.peer.ip();
    request.exchange.client_keeps_alive = false;
    let ending = reply::error(&mut request, downstream, error).await;
    finish::finish(&mut request);
    ending
}

/// Answers a certificate authority that asks whether the name is ours, before routes and filters.
async fn answer_challenge(mut request: Request<'_>, downstream: &mut impl Downstream, answer: &str) -> Ending {
    let ending = reply::challenge(&mut request, downstream, answer).await;
    request.exchange.received = downstream.split().0.received();
    finish::finish(&mut request);
    ending
}

/// Does what the route says.
async fn serve(request: &mut Request<'_>, downstream: &mut impl Downstream, route: RouteId) -> Ending {
    let generation = request.cx.generation.clone();
    match &generation.config.routes[route.index()].action {
        Action::Respond(respond) => reply::direct(request, downstream, respond).await,
        Action::Redirect(redirect) => reply::redirect(request, downstream, redirect, route).await,
        Action::RateLimitService(id) => limit_service::answer(request, downstream, *id).await,
        Action::Forward(to) => {
            if let Some(breaker) = &generation.route_breakers[route.index()]
                && !request.passes(breaker)
            {
                return reply::answer(request, downstream, &breaker::answer(breaker)).await;
            }
            let forwarded = match may_upgrade(request, route) {
                Err(error) => Err(error),
                Ok(()) => {
                    prepare(request, to, route);
                    forward::forward(request, downstream, to, route).await
                }
            };
            request.tell_breaker(route, forwarded.as_ref().err());
            match forwarded {
                Ok(ending) => ending,
                Err(error) => reply::error(request, downstream, error).await,
            }
        }
    }
}

/// Whether the request may become a WebSocket, where it wants to.
fn may_upgrade(request: &Request<'_>, route: RouteId) -> Result<(), ProxyError> {
    let Some(asked) = request.exchange.websocket else { return Ok(()) };
    if request.cx.generation.config.routes[route.index()].websocket.is_none() {
        return Err(ProxyError::UpgradeRefused);
    }
    asked.map_err(ProxyError::WebSocket)
}

/// Finds out who the client is, and makes the head say so. Before routing, as in Envoy: a route may ask for these
/// fields, and the log has them whatever the route does.
fn identify(request: &mut Request<'_>) {
    let (trusted, peer) = (&request.cx.view().trusted, &request.connection.peer);
    let exchange = &mut *request.exchange;
    if websocket::wants_websocket(&exchange.request.headers) {
        exchange.websocket = Some(websocket::check_request(&exchange.request).map(drop));
    }
    exchange.client_ip = trusted.client_ip(peer, &exchange.request.headers);
    hop::strip(&mut exchange.request.headers);
    let seed = [request.worker.random(), request.worker.random()];
    exchange.is_vouched = trusted.prepare(peer, &mut exchange.request, seed, &mut exchange.scratch);
    let (settings, shown) = (request.cx.settings(), request.connection.client_cert());
    let (mode, details) = (settings.forward_client_cert, settings.client_cert_details);
    client_cert::forward(mode, details, shown, &mut exchange.request.headers, &mut exchange.scratch);
    if request.cx.generation.config.gateway.forwarded_header {
        forwarded::append_forwarded(peer, &mut exchange.request, &mut exchange.scratch);
    }
}

/// Finds the route and remembers it.
fn find_route(request: &mut Request<'_>) -> Result<RouteId, ProxyError> {
    let (generation, connection) = (request.cx.generation.clone(), request.connection);
    let view = generation.listener(request.cx.listener);
    let (misdirected, route) =
        request.with_query(|query| (connection.is_misdirected(view, query.host), view.table.find(query)));
    if misdirected {
        connection.look_at_terms(view);
        request.exchange.client_keeps_alive &= !connection.is_outdated.get();
        return Err(ProxyError::Misdirected);
    }
    request.exchange.route = route;
    route.ok_or(ProxyError::NoRoute)
}

/// Makes the client's head the one the origin gets.
fn prepare(request: &mut Request<'_>, to: &Forward, route: RouteId) {
    let generation = &request.cx.generation;
    let route = &generation.config.routes[route.index()];
    let exchange = &mut *request.exchange;
    let (head, scratch) = (&mut exchange.request, &mut exchange.scratch);
    if to.rewrite_prefix.is_some() {
        exchange.original_target.extend_from_slice(&head.target);
    }
    rewrite::apply(to, &route.matcher.path, head, scratch);
    if let Some(pseudonym) = &generation.config.gateway.via {
        headers::add_via(&mut head.headers, head.version, pseudonym, scratch);
    }
    if exchange.websocket.is_some() {
        upgrade::prepare(head, [request.worker.random(), request.worker.random()]);
    }
    let asked = if exchange.is_vouched { headers::take_timeouts(&mut head.headers) } else { AskedTimeouts::default() };
    exchange.timeout = asked.whole.unwrap_or(route.timeout);
    exchange.try_timeout = asked.each_try.unwrap_or(route.retry.per_try_timeout);
    headers::set_expected_timeout(&mut head.headers, exchange.timeout);
    headers::apply(&route.request_headers, &mut head.headers);
}

impl Request<'_> {
    /// Calls `with` with what routes and filters look at.
    fn with_query<R>(&mut self, with: impl FnOnce(&Query<'_>) -> R) -> R {
        let exchange = &mut *self.exchange;
        let mut scratch = std::mem::take(&mut exchange.scratch);
        let query = Query {
            host: host::canonical(&exchange.request.authority, &mut scratch),
            path: exchange.request.path(),
            head: &exchange.request,
            peer_ip: self.connection.peer.ip(),
            client_ip: exchange.client_ip,
        };
        let result = with(&query);
        exchange.scratch = scratch;
        result
    }

    /// What a certificate authority is answered, where this is one that looks for it (RFC 8555 section 8.3). It does so
    /// without TLS.
    fn challenge(&self) -> Option<Arc<str>> {
        let head = &self.exchange.request;
        if self.connection.tls.is_some() || !matches!(head.method, Method::Get | Method::Head) {
            return None;
        }
        self.cx.generation.challenges.answer(head.path())
    }

    /// Makes an origin's response head, or one of our own, the one the client gets.
    fn finish_response_head(&mut self, from_upstream: bool) {
        let generation = &self.cx.generation;
        let exchange = &mut *self.exchange;
        if from_upstream {
            affinity::set_cookies(exchange, &generation.config);
        }
        let head = &mut exchange.response;
        if from_upstream {
            hop::strip(&mut head.headers);
            if let Some(pseudonym) = &generation.config.gateway.via {
                headers::add_via(&mut head.headers, head.version, pseudonym, &mut exchange.scratch);
            }
        }
        if let Some(server) = &generation.config.gateway.server_header {
            head.headers.set(&Known::Server, server.as_bytes());
        }
        if !head.headers.contains(&Known::Date) {
            self.worker.with_date(|date| head.headers.append(&Known::Date, date));
        }
        let mut added = exchange.added.take();
        if let Some(allowance) = exchange.allowance {
            allowance.write(&mut head.headers);
            if let Some(added) = &mut added {
                rate_limit::keep_least(&mut head.headers, added);
            }
        }
        if let Some(added) = added {
            added.iter().for_each(|(_, name, value)| head.headers.append_raw(name, value));
        }
        if let Some(route) = exchange.route {
            let route = &generation.config.routes[route.index()];
            if route.retry.attempt_count_in_response && exchange.cluster.is_some() {
                // As in Envoy, looking in vain for an endpoint is an attempt.
                headers::set_attempt_count(&mut head.headers, exchange.attempts.max(1));
            }
            headers::apply(&route.response_headers, &mut head.headers);
        }
    }

    /// Whether the client's connection may serve another request, as far as is known when the response begins.
    fn keeps_alive(&self, body_done: bool) -> bool {
        let may = body_done && self.exchange.client_keeps_alive && !self.connection.listener.is_closing();
        may && self.worker.overload.load().step < Step::Idle
    }

    /// Whether it goes a way that is served when others are not.
    fn is_high(&self, route: Option<&RouteId>) -> bool {
        route.is_some_and(|route| self.cx.generation.config.routes[route.index()].priority == Priority::High)
    }

    /// How long nothing may move.
    fn idle_timeout(&self) -> std::time::Duration {
        self.cx.settings().limits.idle_timeout
    }
}
