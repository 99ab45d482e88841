//! What the metrics page says of the endpoints and of the kernel's side. What cannot be read is left out.

use std::time::SystemTime;

use super::acme::Tally;
use crate::config::Refused;
use crate::config::model::{Cluster, LimitSet};
use crate::metrics::render::{EndpointHealth, FlowTableCounts, LimitSetCounts, VipCounts, VipEndpointCounts};
use crate::net::{now_ms, now_ns};
use crate::snapshot::{ClusterView, LimitsView, Snapshot};
use crate::xdp::{self, BackendStats, FlowState, FlowTableUse, ServiceStats, Xdp};

pub fn endpoints(snapshot: &Snapshot) -> Vec<EndpointHealth> {
    let of_cluster = |(cluster, view): (&Cluster, &ClusterView)| {
        let name = cluster.name.clone();
        view.endpoints
            .iter()
            .map(|endpoint| EndpointHealth {
                cluster: name.clone(),
                endpoint: endpoint.address.to_string(),
                healthy: endpoint.is_up(),
                changes: endpoint.health.changes(),
                active: view.active(endpoint),
            })
            .collect::<Vec<_>>()
    };
    snapshot.config.clusters.iter().zip(&snapshot.clusters).flat_map(of_cluster).collect()
}

/// Certificates, how often each was issued, and how often it was not.
pub fn acme(tally: &Tally) -> Vec<(String, [u64; 2])> {
    tally.all().into_iter().map(|(name, count)| (name, [count.issued, count.failed])).collect()
}

/// The first reason of each certificate.
pub fn refused(refused: &[Refused]) -> Vec<(String, &'static str)> {
    let mut reasons: Vec<_> = refused.iter().map(|it| (it.certificate.clone(), it.refusal.label())).collect();
    reasons.dedup_by(|later, first| later.0 == first.0);
    reasons
}

pub fn rate_limit_keys(snapshot: &Snapshot) -> Vec<(String, usize)> {
    let now = now_ns();
    snapshot.rate_limits().filter_map(|limit| Some((limit.settings.name.clone(), limit.limiter.keys(now)?))).collect()
}

pub fn limit_sets(snapshot: &Snapshot) -> Vec<LimitSetCounts> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let sets = snapshot.config.limits.iter().zip(&snapshot.limits);
    let counts = |(set, view): (&LimitSet, &LimitsView)| LimitSetCounts {
        name: set.name.clone(),
        counters: view.limits.counters().live(now.as_secs()),
        is_redis_up: set.redis.as_ref().map(|_| view.stats.of_control().redis_up.get() == 1),
    };
    sets.map(counts).collect()
}

pub fn faults_active(snapshot: &Snapshot) -> Vec<(String, u32)> {
    snapshot.faults().map(|fault| (fault.settings.name.clone(), fault.active())).collect()
}

pub fn xdp_packets(xdp: &Xdp) -> Vec<(&'static str, u64)> {
    let Ok(counters) = xdp.counters() else { return Vec::new() };
    counters.iter().map(|(reason, packets)| (reason.name(), packets)).collect()
}

pub fn breakers(snapshot: &Snapshot) -> Vec<(String, bool)> {
    let now = now_ms();
    snapshot.breakers().map(|(route, breaker)| (route.to_owned(), breaker.admit(now).is_none())).collect()
}

pub fn xdp_interfaces(xdp: &Xdp) -> Vec<(String, &'static str)> {
    let mode = |interface: &xdp::Interface| interface.running().map_or("off", xdp::Attached::name);
    xdp.interfaces().iter().map(|interface| (interface.name().to_owned(), mode(interface))).collect()
}

pub fn vips(services: Vec<ServiceStats>) -> Vec<VipCounts> {
    let endpoint = |backend: &BackendStats| VipEndpointCounts {
        address: backend.address.to_string(),
        flows: backend.counts.flows,
        packets: [backend.counts.packets, backend.counts.answer_packets],
        bytes: [backend.counts.bytes, backend.counts.answer_bytes],
    };
    let vip = |service: ServiceStats| VipCounts {
        endpoints: service.backends.iter().map(endpoint).collect(),
        name: service.name,
        local: [service.local_packets, service.local_bytes],
        dropped: service.dropped,
    };
    services.into_iter().map(vip).collect()
}

pub fn xdp_rules(xdp: &Xdp) -> Vec<(String, u64)> {
    let Ok(rules) = xdp.rules() else { return Vec::new() };
    rules.into_iter().map(|(name, packets)| (name.to_owned(), packets)).collect()
}

pub fn flow_tables(xdp: &Xdp) -> Vec<FlowTableCounts> {
    let counts = |flows: FlowTableUse| FlowTableCounts {
        table: if flows.state == FlowState::HalfOpen { "half_open" } else { "established" },
        ip: if flows.is_v6 { "6" } else { "4" },
        entries: [flows.live, flows.over],
        max: flows.max,
    };
    xdp.flow_tables().unwrap_or_default().into_iter().map(counts).collect()
}

pub fn xdp_drop_log(xdp: &Xdp) -> Option<[u64; 2]> {
    let counts = xdp.drop_counts().ok()??;
    Some([counts.logged, counts.omitted])
}
