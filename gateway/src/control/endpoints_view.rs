//! Every endpoint as it is now, as JSON: who gets requests, and why somebody does not.

use serde_json::{Value, json};

use crate::config::model::Cluster;
use crate::snapshot::{ClusterView, EndpointView, Snapshot};

/// The endpoints of every cluster.
pub fn view(snapshot: &Snapshot) -> Value {
    let clusters = snapshot.config.clusters.iter().zip(&snapshot.clusters);
    clusters.flat_map(|(cluster, view)| endpoints(cluster, view)).collect()
}

fn endpoints(cluster: &Cluster, view: &ClusterView) -> impl Iterator<Item = Value> {
    let endpoint = |endpoint: &EndpointView| {
        json!({
            "cluster": cluster.name,
            "address": endpoint.address,
            "up": endpoint.is_up(),
            "healthy": endpoint.health.is_healthy(),
            "unhealthy_because": endpoint.health.why(),
            "ejected": endpoint.health.is_ejected(),
            "drain": endpoint.drain,
        })
    };
    view.endpoints.iter().map(endpoint)
}
