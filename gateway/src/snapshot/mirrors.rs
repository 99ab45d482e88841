//! Where copies of a route's requests go, compiled.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use super::{Active, Snapshot};
use crate::config::model::{Config, Mirror, Route};
use crate::metrics::registry::{MirrorStats, Registry};

/// A `mirror` of a route, compiled.
pub struct MirrorView {
    /// What it was built from.
    pub settings: Mirror,
    /// Its counters.
    pub stats: Arc<MirrorStats>,
    /// `ROUTE/CLUSTER`
    name: String,
    /// Copies that are on their way, over all workers and generations.
    active: Arc<AtomicU32>,
}

impl MirrorView {
    /// Room for one more copy, for as long as the value lives; `None` when there is none.
    pub fn enter(&self) -> Option<Active> {
        Active::enter(&self.active, self.settings.max_active)
    }
}

/// Where copies of each route's requests go. `previous` has those that are on their way.
pub(super) fn build(config: &Config, registry: &Registry, previous: Option<&Snapshot>) -> Vec<Box<[MirrorView]>> {
    let before = previous.into_iter().flat_map(|previous| previous.route_mirrors.iter().flatten());
    let before: HashMap<&str, &MirrorView> = before.map(|view| (view.name.as_str(), view)).collect();
    let view = |route: &Route, settings: &Mirror| {
        let name = format!("{}/{}", route.name, config.clusters[settings.cluster.index()].name);
        let active = before.get(name.as_str()).map_or_else(Arc::default, |view| view.active.clone());
        MirrorView { settings: *settings, stats: registry.mirror(&name), name, active }
    };
    let of_route = |route: &Route| {
        let targets = route.mirrors.iter().flat_map(|mirrors| &mirrors.targets);
        targets.map(|settings| view(route, settings)).collect()
    };
    config.routes.iter().map(of_route).collect()
}
