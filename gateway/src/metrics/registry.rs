//! The counters of each listener, route and cluster, by name.
//!
//! Names are looked up once, when a snapshot is built; the request path has the handle. The registry holds only weak
//! references: counters live as long as a snapshot that uses them, so those of an unchanged listener are carried over
//! a reload (the new snapshot is built while the old one is alive), and those of a removed one go with its last request.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::shard::{
    BreakerShard, ClusterShard, FaultShard, GlobalRateLimitShard, L4Shard, LimitRuleShard, LimitSetShard,
    ListenerShard, MirrorShard, RateLimitShard, RouteShard, Sharded, WorkerShard,
};

/// A listener's counters.
pub type ListenerStats = Sharded<ListenerShard>;
/// A route's counters.
pub type RouteStats = Sharded<RouteShard>;
/// An L4 route's counters.
pub type L4RouteStats = Sharded<L4Shard>;
/// A cluster's counters.
pub type ClusterStats = Sharded<ClusterShard>;
/// A rate limit's counters.
pub type RateLimitStats = Sharded<RateLimitShard>;
/// The counters of a set of limits.
pub type LimitSetStats = Sharded<LimitSetShard>;
/// The counters of a rule of a set of limits.
pub type LimitRuleStats = Sharded<LimitRuleShard>;
/// A global rate limit's counters.
pub type GlobalRateLimitStats = Sharded<GlobalRateLimitShard>;
/// A fault's counters.
pub type FaultStats = Sharded<FaultShard>;
/// The counters of copies for a cluster.
pub type MirrorStats = Sharded<MirrorShard>;
/// The counters of a route's breaker.
pub type BreakerStats = Sharded<BreakerShard>;
/// The workers' own counters.
pub type WorkerStats = Sharded<WorkerShard>;

/// Every counter of the process.
#[derive(Debug)]
pub struct Registry {
    workers: usize,
    worker: Arc<WorkerStats>,
    listeners: ByName<ListenerShard>,
    routes: ByName<RouteShard>,
    l4_routes: ByName<L4Shard>,
    clusters: ByName<ClusterShard>,
    rate_limits: ByName<RateLimitShard>,
    limit_sets: ByName<LimitSetShard>,
    limit_rules: ByName<LimitRuleShard>,
    global_rate_limits: ByName<GlobalRateLimitShard>,
    faults: ByName<FaultShard>,
    mirrors: ByName<MirrorShard>,
    breakers: ByName<BreakerShard>,
}

impl Registry {
    /// For this many workers, which does not change while the process lives.
    pub fn new(workers: usize) -> Registry {
        Registry {
            workers,
            worker: Arc::new(Sharded::new(workers)),
            listeners: ByName::default(),
            routes: ByName::default(),
            l4_routes: ByName::default(),
            clusters: ByName::default(),
            rate_limits: ByName::default(),
            limit_sets: ByName::default(),
            limit_rules: ByName::default(),
            global_rate_limits: ByName::default(),
            faults: ByName::default(),
            mirrors: ByName::default(),
            breakers: ByName::default(),
        }
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// The workers' own counters.
    pub fn worker(&self) -> &Arc<WorkerStats> {
        &self.worker
    }

    /// The counters of the listener of this name: those that are in use, or new ones.
    pub fn listener(&self, name: &str) -> Arc<ListenerStats> {
        self.listeners.get(name, self.workers)
    }

    /// The counters of the route of this name: those that are in use, or new ones.
    pub fn route(&self, name: &str) -> Arc<RouteStats> {
        self.routes.get(name, self.workers)
    }

    /// The counters of the L4 route of this name: those that are in use, or new ones.
    pub fn l4_route(&self, name: &str) -> Arc<L4RouteStats> {
        self.l4_routes.get(name, self.workers)
    }

    /// The counters of the cluster of this name: those that are in use, or new ones.
    pub fn cluster(&self, name: &str) -> Arc<ClusterStats> {
        self.clusters.get(name, self.workers)
    }

    /// The counters of the rate limit of this name: those that are in use, or new ones.
    pub fn rate_limit(&self, name: &str) -> Arc<RateLimitStats> {
        self.rate_limits.get(name, self.workers)
    }

    /// The counters of the set of limits of this name: those that are in use, or new ones.
    pub fn limit_set(&self, name: &str) -> Arc<LimitSetStats> {
        self.limit_sets.get(name, self.workers)
    }

    /// The counters of a rule of this name (`SET/DOMAIN.KEY_VALUE…`): those that are in use, or new ones.
    pub fn limit_rule(&self, name: &str) -> Arc<LimitRuleStats> {
        self.limit_rules.get(name, self.workers)
    }

    /// The counters of the global rate limit of this name: those that are in use, or new ones.
    pub fn global_rate_limit(&self, name: &str) -> Arc<GlobalRateLimitStats> {
        self.global_rate_limits.get(name, self.workers)
    }

    /// The counters of the fault of this name: those that are in use, or new ones.
    pub fn fault(&self, name: &str) -> Arc<FaultStats> {
        self.faults.get(name, self.workers)
    }

    /// The counters of copies of this name (`ROUTE/CLUSTER`): those that are in use, or new ones.
    pub fn mirror(&self, name: &str) -> Arc<MirrorStats> {
        self.mirrors.get(name, self.workers)
    }

    /// The counters of the breaker of the route of this name: those that are in use, or new ones.
    pub fn breaker(&self, route: &str) -> Arc<BreakerStats> {
        self.breakers.get(route, self.workers)
    }

    /// The listeners in use, by name.
    pub fn listeners(&self) -> Vec<(Arc<str>, Arc<ListenerStats>)> {
        self.listeners.in_use()
    }

    /// The routes in use, by name.
    pub fn routes(&self) -> Vec<(Arc<str>, Arc<RouteStats>)> {
        self.routes.in_use()
    }

    /// The L4 routes in use, by name.
    pub fn l4_routes(&self) -> Vec<(Arc<str>, Arc<L4RouteStats>)> {
        self.l4_routes.in_use()
    }

    /// The clusters in use, by name.
    pub fn clusters(&self) -> Vec<(Arc<str>, Arc<ClusterStats>)> {
        self.clusters.in_use()
    }

    /// The rate limits in use, by name.
    pub fn rate_limits(&self) -> Vec<(Arc<str>, Arc<RateLimitStats>)> {
        self.rate_limits.in_use()
    }

    /// The sets of limits in use, by name.
    pub fn limit_sets(&self) -> Vec<(Arc<str>, Arc<LimitSetStats>)> {
        self.limit_sets.in_use()
    }

    /// The rules of sets of limits in use, by name.
    pub fn limit_rules(&self) -> Vec<(Arc<str>, Arc<LimitRuleStats>)> {
        self.limit_rules.in_use()
    }

    /// The global rate limits in use, by name.
    pub fn global_rate_limits(&self) -> Vec<(Arc<str>, Arc<GlobalRateLimitStats>)> {
        self.global_rate_limits.in_use()
    }

    /// The faults in use, by name.
    pub fn faults(&self) -> Vec<(Arc<str>, Arc<FaultStats>)> {
        self.faults.in_use()
    }

    /// The mirrors in use, by name.
    pub fn mirrors(&self) -> Vec<(Arc<str>, Arc<MirrorStats>)> {
        self.mirrors.in_use()
    }

    /// The breakers in use, by route.
    pub fn breakers(&self) -> Vec<(Arc<str>, Arc<BreakerStats>)> {
        self.breakers.in_use()
    }
}

type Names<T> = BTreeMap<Arc<str>, Weak<Sharded<T>>>;

#[derive(Debug)]
struct ByName<T>(Mutex<Names<T>>);

impl<T> Default for ByName<T> {
    fn default() -> Self {
        ByName(Mutex::default())
    }
}

impl<T: Default> ByName<T> {
    fn get(&self, name: &str, workers: usize) -> Arc<Sharded<T>> {
        let mut names = self.lock();
        if let Some(stats) = names.get(name).and_then(Weak::upgrade) {
            return stats;
        }
        let stats = Arc::new(Sharded::new(workers));
        names.insert(name.into(), Arc::downgrade(&stats));
        stats
    }

    /// Also forgets the names that nobody uses any more: a scrape comes regularly, so the map stays small.
    fn in_use(&self) -> Vec<(Arc<str>, Arc<Sharded<T>>)> {
        let mut names = self.lock();
        names.retain(|_, stats| stats.strong_count() > 0);
        names.iter().filter_map(|(name, stats)| Some((name.clone(), stats.upgrade()?))).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Names<T>> {
        // A panic while the map was held left it whole: every change is one map operation.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_stays_keeps_its_counts_over_a_reload() {
        let registry = Registry::new(1);
        let old = registry.listener("web");
        old.shard(0).connections.add(7);
        let new = registry.listener("web");
        drop(old);
        assert_eq!(new.sum(|shard| &shard.connections), 7);
    }

    #[test]
    fn a_name_that_nobody_uses_is_forgotten() {
        let registry = Registry::new(1);
        let kept = registry.cluster("a");
        drop(registry.cluster("b"));
        let names: Vec<_> = registry.clusters().into_iter().map(|(name, _)| name.to_string()).collect();
        assert_eq!(names, ["a"]);
        drop(kept);
        assert!(registry.clusters().is_empty());
        assert!(registry.clusters.lock().is_empty());
    }
}
