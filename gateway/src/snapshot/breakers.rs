//! The breakers of routes, compiled.

use std::collections::HashMap;
use std::sync::Arc;

use super::Snapshot;
use crate::config::model::{self, Config};
use crate::filter::breaker::{Breaker, Call, Period};
use crate::metrics::registry::{BreakerStats, Registry};

/// A `breaker` of a route, compiled.
pub struct BreakerView {
    /// What it was built from.
    pub settings: model::Breaker,
    /// Its counters.
    pub stats: Arc<BreakerStats>,
    /// What it has seen, and whether it is open, over all workers and generations.
    breaker: Arc<Breaker>,
}

impl BreakerView {
    /// Whether a request may pass; `None` while the breaker is open.
    pub fn admit(&self, now_ms: u64) -> Option<Period> {
        self.breaker.admit(now_ms)
    }

    /// Counts a request that was admitted in `period`. `true`: that opens the breaker.
    pub fn count(&self, period: Period, call: Call, now_ms: u64) -> bool {
        self.breaker.count(&self.settings, period, call, now_ms)
    }
}

/// The breaker of each route that has one. Those of routes of the same name in `previous` go on.
pub(super) fn build(
    config: &Config,
    registry: &Registry,
    previous: Option<&Snapshot>,
) -> Vec<Option<Box<BreakerView>>> {
    let before: HashMap<&str, &BreakerView> = previous.into_iter().flat_map(Snapshot::breakers).collect();
    let view = |route: &model::Route| {
        let settings = route.breaker.clone()?;
        let before = before.get(route.name.as_str()).map(|view| &view.breaker);
        let breaker = Breaker::build(&settings, before);
        Some(Box::new(BreakerView { settings, stats: registry.breaker(&route.name), breaker }))
    };
    config.routes.iter().map(view).collect()
}

impl Snapshot {
    /// Every breaker, with the name of its route.
    pub fn breakers(&self) -> impl Iterator<Item = (&str, &BreakerView)> {
        let routes = self.config.routes.iter().map(|route| route.name.as_str());
        routes.zip(&self.route_breakers).filter_map(|(name, breaker)| Some((name, breaker.as_deref()?)))
    }
}
