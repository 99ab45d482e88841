//! Ends the intervals of outlier detection: endpoints are compared with each other, and taken back. What ejects an endpoint
//! between two of them is a worker's finding.

use std::collections::HashMap;

use tokio::time::{Instant, sleep_until};

use crate::config::model::Cluster;
use crate::net::now_ms;
use crate::snapshot::{ClusterView, Snapshot};

/// When the interval of each cluster ends, by name.
#[derive(Default)]
pub struct Outliers(HashMap<String, Instant>);

impl Outliers {
    /// Looks at the clusters of this generation from now on. Intervals that have begun go on; endpoints of clusters that are
    /// not looked at any more are taken back.
    pub fn follow(&mut self, snapshot: &Snapshot) {
        let mut before = std::mem::take(&mut self.0);
        for (cluster, view) in clusters(snapshot) {
            match view.outlier_interval() {
                Some(interval) => {
                    let latest = Instant::now() + interval;
                    let due = before.remove(&cluster.name).map_or(latest, |due| due.min(latest));
                    self.0.insert(cluster.name.clone(), due);
                }
                None => {
                    for endpoint in &view.endpoints {
                        endpoint.health.take_back();
                    }
                }
            }
        }
    }

    /// Waits until an interval is over. Nothing is lost when the future is dropped.
    pub async fn due(&self) {
        match self.0.values().min() {
            Some(due) => sleep_until(*due).await,
            None => std::future::pending().await,
        }
    }

    /// Ends the intervals that are over.
    pub fn end_intervals(&mut self, snapshot: &Snapshot) {
        for (cluster, view) in clusters(snapshot) {
            let (Some(due), Some(interval)) = (self.0.get_mut(&cluster.name), view.outlier_interval()) else {
                continue;
            };
            if *due <= Instant::now() {
                *due = Instant::now() + interval;
                end_interval(cluster, view);
            }
        }
    }
}

fn clusters(snapshot: &Snapshot) -> impl Iterator<Item = (&Cluster, &ClusterView)> {
    snapshot.config.clusters.iter().zip(&snapshot.clusters)
}

fn end_interval(cluster: &Cluster, view: &ClusterView) {
    let address = |at: usize| view.endpoints[at].address;
    let (found, back) = view.end_interval(now_ms(), || fastrand::u32(..));
    for at in back {
        log::info!("cluster \"{}\": endpoint {} is taken back", cluster.name, address(at));
    }
    for (at, found) in found {
        found.count(view.stats.of_control());
        if found.is_ejected {
            let why = found.finding.as_str();
            log::warn!("cluster \"{}\": endpoint {} is ejected: {why}", cluster.name, address(at));
        }
    }
}
