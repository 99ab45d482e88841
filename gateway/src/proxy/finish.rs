//! The end of a request, whatever happened: counters and one access log line.

use std::time::Instant;

use super::Request;
use crate::metrics::access_log::Record;
use crate::proto::head::Known;

impl Request<'_> {
    /// Counts the request as in progress.
    pub(super) fn count_start(&self) {
        self.cx.view().stats.shard(self.worker.worker).requests_active.inc();
    }
}

/// Counts the request and writes its line.
pub(super) fn finish(request: &mut Request<'_>) {
    let duration = Instant::now().duration_since(request.exchange.started);
    let duration_us = duration.as_micros() as u64;
    let exchange = &*request.exchange;
    let status = if exchange.responded { exchange.response.status } else { 0 };
    let listener = request.cx.view().stats.shard(request.worker.worker);
    listener.requests_active.dec();
    listener.requests.count(status);
    listener.flags.count(exchange.flags);
    listener.bytes_received.add(exchange.received);
    listener.bytes_sent.add(exchange.sent);
    if let Some(route) = exchange.route {
        let route = request.cx.generation.route_stats(route).shard(request.worker.worker);
        route.requests.count(status);
        route.duration.observe_us(duration_us);
    }
    if let Some(log) = request.worker.log.borrow_mut().as_mut() {
        log.write(&record(request, status, duration_us));
    }
}

fn record<'a>(request: &'a Request<'_>, status: u16, duration_us: u64) -> Record<'a> {
    let (exchange, connection, config) = (&*request.exchange, request.connection, &request.cx.generation.config);
    let since_epoch = exchange.started_wall.duration_since(std::time::SystemTime::UNIX_EPOCH);
    let us = |time: std::time::Duration| time.as_micros() as u64;
    Record {
        start_unix_us: since_epoch.map_or(0, us),
        duration_us,
        request: exchange.understood.then_some(&exchange.request),
        protocol: Some(exchange.request.version),
        original_target: (!exchange.original_target.is_empty()).then_some(exchange.original_target.as_slice()),
        status,
        response_headers: exchange.responded.then_some(&exchange.response.headers),
        bytes_received: exchange.received,
        bytes_sent: exchange.sent,
        flags: exchange.flags,
        details: Some(exchange.details),
        upstream_attempts: exchange.attempts,
        upstream_host: exchange.upstream,
        upstream_cluster: exchange.cluster.map(|id| config.clusters[id.index()].name.as_str()),
        upstream_failure: exchange.upstream_failure.as_deref(),
        upstream_service_us: exchange.upstream_time.map(us),
        route: exchange.route.map(|id| config.routes[id.index()].name.as_str()),
        client_ip: exchange.client_ip,
        sni: connection.tls.as_ref().and_then(|tls| tls.server_name.as_deref()),
        tls_version: connection.tls.as_ref().map(|tls| tls.version),
        identity: connection.client_cert().map(|client| &client.identity),
        request_id: exchange.request.headers.get(&Known::XRequestId),
        connection_id: connection.id,
        ..Record::new(&connection.listener.name, connection.peer.addr(), connection.local, &request.worker.hostname)
    }
}
