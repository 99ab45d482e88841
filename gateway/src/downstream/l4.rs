//! A connection that is relayed: TCP as it is, TLS that is terminated here, or TLS that passes through.
//!
//! [`serve`] tells the story. What cannot be connected is reset, as Envoy does, and so is what was cut: neither side may
//! take half a stream for a whole one.

use std::sync::Arc;
use std::time::Duration;

use super::session::{NotConnected, Session};
use crate::balance::{self, key};
use crate::config::model::{ClusterId, L4RouteId};
use crate::http1::{BodyState, Sink, Source};
use crate::metrics::flags::ResponseFlag;
use crate::net::{Until, now_ms};
use crate::proxy::{ConnectionCx, Generation, TunnelError, WorkerCx, proxy_header, tunnel};
use crate::snapshot::{Ask, EndpointId, InFlight, Load, Snapshot};
use crate::tls::{Reader, Writer};
use crate::upstream::{self, Slot, UpstreamError};

/// Both halves of a connection.
pub(super) struct Halves {
    pub reader: Reader,
    pub writer: Writer,
}

/// A connection to an endpoint.
struct Origin {
    halves: Halves,
    /// Counts it under the cluster's limit until it is closed.
    _slot: Slot,
    /// And as the endpoint's, where the cluster balances by that.
    _in_flight: Option<InFlight<Arc<Load>>>,
}

/// Relays a connection to its end. `None`: no route takes it.
pub(super) async fn serve(
    worker: &WorkerCx,
    generation: Generation,
    route: Option<L4RouteId>,
    connection: &ConnectionCx,
    mut client: Halves,
) {
    let mut session =
        Session::new(connection.listener.clone(), connection.peer.addr(), connection.local, connection.id);
    let finish = |session: &Session| session.finish(worker, Some(connection));
    // Boxed, so that a relay does not keep the room that connecting needs.
    match Box::pin(connect(worker, &generation, route, connection, &mut session)).await {
        Ok(mut origin) => {
            let idle = route.and_then(|route| generation.config.l4_routes[route.index()].idle_timeout);
            // A connection outlives many generations.
            drop(generation);
            relay(worker, idle, &mut client, &mut origin.halves, &mut session).await;
            finish(&session);
        }
        Err(error) => {
            session.note_not_connected(&error);
            // Counted first: whoever sees the reset finds it in the metrics.
            finish(&session);
            client.writer.abort();
        }
    }
}

/// Connects to an endpoint of the route's cluster, and tells it whose connection this is.
async fn connect(
    worker: &WorkerCx,
    generation: &Snapshot,
    route: Option<L4RouteId>,
    connection: &ConnectionCx,
    session: &mut Session,
) -> Result<Origin, NotConnected> {
    let route = route.ok_or(NotConnected::NoRoute)?;
    session.take(worker, generation, route);
    let settings = &generation.config.l4_routes[route.index()];
    let cluster = balance::pick_weighted(&settings.clusters, worker.random() as u32).ok_or(NotConnected::NoEndpoint)?;
    session.set_cluster(generation, cluster);
    let header = proxy_header(&generation.config.clusters[cluster.index()], connection);
    let (mut tried, mut error) = (Vec::new(), NotConnected::NoEndpoint);
    let key = Some(key::of_address(connection.peer.ip()));
    let subset = generation.l4_route_subsets[route.index()];
    while tried.len() < settings.connect_attempts as usize {
        let (worker_number, random) = (worker.worker, worker.random());
        let ask = Ask { worker: worker_number, random, now_ms: now_ms(), key, subset, named: None };
        match attempt(worker, generation, cluster, &ask, &header, &mut tried, session).await {
            Some(Ok(origin)) => return Ok(origin),
            Some(Err(failed)) => error = NotConnected::Upstream(failed),
            None => return Err(error),
        }
    }
    session.note(ResponseFlag::RetryLimitExceeded, "");
    Err(error)
}

/// One attempt at an endpoint that was not tried before; `None` when there is no other.
async fn attempt(
    worker: &WorkerCx,
    generation: &Snapshot,
    cluster: ClusterId,
    ask: &Ask,
    header: &[u8],
    tried: &mut Vec<EndpointId>,
    session: &mut Session,
) -> Option<Result<Origin, UpstreamError>> {
    let (view, settings) = (generation.cluster(cluster), &generation.config.clusters[cluster.index()]);
    let stats = view.stats.shard(worker.worker);
    let endpoint = view.pick(ask, |endpoint| !tried.contains(&endpoint.id))?;
    if !tried.is_empty() {
        stats.retries.inc();
    }
    tried.push(endpoint.id);
    session.upstream = Some(endpoint.address);
    let Some(slot) = worker.pools.slot(worker.worker, endpoint.id, settings, &view.stats) else {
        stats.pool_overflow.inc();
        return Some(Err(UpstreamError::Overflow));
    };
    let in_flight = view.begin_connection(endpoint);
    let deadline = worker.timers.deadline();
    deadline.set(settings.connect_timeout);
    match upstream::dial_relay(view, endpoint, header, &deadline).await {
        Ok((reader, writer)) => {
            stats.connections_created.inc();
            session.upstream_local = writer.local_addr().ok();
            let halves = Halves { reader, writer };
            Some(Ok(Origin { halves, _slot: slot, _in_flight: in_flight }))
        }
        Err(error) => {
            stats.connect_failures.inc();
            if let UpstreamError::Connect(text) = &error {
                session.failure = Some(text.clone());
            }
            Some(Err(error))
        }
    }
}

/// Moves bytes until both directions have ended, or one is cut: then both are.
async fn relay(
    worker: &WorkerCx,
    idle: Option<Duration>,
    client: &mut Halves,
    origin: &mut Halves,
    session: &mut Session,
) {
    let timer = worker.timers.deadline();
    let until = idle.map_or_else(Until::never, |idle| Until::idle(&timer, idle, None));
    let (mut from_client, mut from_origin) = (BodyState::default(), BodyState::default());
    let relayed = {
        let mut client = (Source::tunnel(&mut client.reader, &mut from_client), Sink::tunnel(&mut client.writer));
        let mut origin = (Source::tunnel(&mut origin.reader, &mut from_origin), Sink::tunnel(&mut origin.writer));
        let relayed = tunnel((&mut client.0, &mut client.1), (&mut origin.0, &mut origin.1), &until).await;
        session.sent = client.1.sent();
        relayed
    };
    session.received = from_client.received();
    let Err(error) = relayed else { return };
    client.writer.abort();
    origin.writer.abort();
    match error {
        TunnelError::Client(_) => {
            session.note(ResponseFlag::DownstreamConnectionTermination, "downstream_remote_disconnect");
        }
        TunnelError::Origin(error) => {
            session.note(ResponseFlag::UpstreamConnectionTermination, "upstream_remote_disconnect");
            session.failure = Some(error.to_string());
        }
        TunnelError::TimedOut(_) => session.note(ResponseFlag::StreamIdleTimeout, "stream_idle_timeout"),
    }
}
