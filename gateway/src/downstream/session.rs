//! What is known of a relayed connection or a UDP session, for its log line and its counters.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::config::model::{ClusterId, L4RouteId};
use crate::metrics::access_log::Record;
use crate::metrics::flags::{ResponseFlag, ResponseFlags};
use crate::metrics::registry::L4RouteStats;
use crate::proxy::{ConnectionCx, ListenerCx, WorkerCx};
use crate::snapshot::Snapshot;
use crate::upstream::UpstreamError;

/// One connection or session. It does not hold the generation: it outlives many.
pub(super) struct Session {
    pub listener: Rc<ListenerCx>,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub id: u64,
    pub upstream: Option<SocketAddr>,
    pub upstream_local: Option<SocketAddr>,
    /// Why the last attempt failed, in words.
    pub failure: Option<String>,
    pub received: u64,
    pub sent: u64,
    flags: ResponseFlags,
    details: &'static str,
    cluster: Option<Box<str>>,
    route: Option<(Box<str>, Arc<L4RouteStats>)>,
    started: Instant,
    started_wall: SystemTime,
}

/// Why a session ended before it had begun.
#[derive(Debug)]
pub(super) enum NotConnected {
    NoRoute,
    NoEndpoint,
    Upstream(UpstreamError),
}

impl Session {
    pub fn new(listener: Rc<ListenerCx>, peer: SocketAddr, local: SocketAddr, id: u64) -> Session {
        Session {
            listener,
            peer,
            local,
            id,
            upstream: None,
            upstream_local: None,
            failure: None,
            received: 0,
            sent: 0,
            flags: ResponseFlags::NONE,
            details: "",
            cluster: None,
            route: None,
            started: Instant::now(),
            started_wall: SystemTime::now(),
        }
    }

    /// The client's address.
    pub fn peer_ip(&self) -> IpAddr {
        self.peer.ip()
    }

    /// It goes this way, and counts as the route's from now on.
    pub fn take(&mut self, worker: &WorkerCx, generation: &Snapshot, route: L4RouteId) {
        let stats = generation.l4_route_stats(route).clone();
        stats.shard(worker.worker).connections.inc();
        stats.shard(worker.worker).connections_active.inc();
        self.route = Some((generation.config.l4_routes[route.index()].name.as_str().into(), stats));
    }

    pub fn set_cluster(&mut self, generation: &Snapshot, cluster: ClusterId) {
        self.cluster = Some(generation.config.clusters[cluster.index()].name.as_str().into());
    }

    /// Why it ended, in Envoy's words.
    pub fn note(&mut self, flag: ResponseFlag, details: &'static str) {
        self.flags.insert(flag);
        self.details = details;
    }

    /// The same, for one that never reached an endpoint.
    pub fn note_not_connected(&mut self, error: &NotConnected) {
        use ResponseFlag as Flag;
        let (flag, details) = match error {
            NotConnected::NoRoute => (Flag::NoRouteFound, "route_not_found"),
            NotConnected::NoEndpoint => (Flag::NoHealthyUpstream, "no_healthy_upstream"),
            NotConnected::Upstream(UpstreamError::Overflow) => {
                (Flag::UpstreamOverflow, "upstream_reset_before_response_started{overflow}")
            }
            NotConnected::Upstream(UpstreamError::ConnectTimeout) => {
                (Flag::UpstreamConnectionFailure, "upstream_reset_before_response_started{connection_timeout}")
            }
            NotConnected::Upstream(_) => {
                (Flag::UpstreamConnectionFailure, "upstream_reset_before_response_started{remote_connection_failure}")
            }
        };
        self.note(flag, details);
    }

    /// Counts it and writes its line.
    pub fn finish(&self, worker: &WorkerCx, connection: Option<&ConnectionCx>) {
        let (generation, id) = self.listener.generation();
        let listener = generation.listener(id).stats.shard(worker.worker);
        listener.bytes_received.add(self.received);
        listener.bytes_sent.add(self.sent);
        listener.flags.count(self.flags);
        if let Some((_, stats)) = &self.route {
            let route = stats.shard(worker.worker);
            route.connections_active.dec();
            route.bytes_received.add(self.received);
            route.bytes_sent.add(self.sent);
        }
        if let Some(log) = worker.log.borrow_mut().as_mut() {
            log.write(&Record {
                sni: connection.and_then(ConnectionCx::server_name),
                tls_version: connection.and_then(|connection| Some(connection.tls.as_ref()?.version)),
                identity: connection.and_then(|connection| Some(&connection.client_cert()?.identity)),
                ..self.record(worker)
            });
        }
    }

    fn record<'a>(&'a self, worker: &'a WorkerCx) -> Record<'a> {
        let us = |time: Duration| time.as_micros() as u64;
        Record {
            start_unix_us: self.started_wall.duration_since(UNIX_EPOCH).map_or(0, us),
            duration_us: us(self.started.elapsed()),
            bytes_received: self.received,
            bytes_sent: self.sent,
            flags: self.flags,
            details: Some(self.details).filter(|details| !details.is_empty()),
            upstream_host: self.upstream,
            upstream_local: self.upstream_local,
            upstream_cluster: self.cluster.as_deref(),
            upstream_failure: self.failure.as_deref(),
            route: self.route.as_ref().map(|(name, _)| &**name),
            connection_id: self.id,
            ..Record::new(&self.listener.name, self.peer, self.local, &worker.hostname)
        }
    }
}
