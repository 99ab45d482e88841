//! The filters of listeners and routes, compiled.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::{Active, Snapshot};
use crate::config::model::{Cluster, DescriptorAction, Fault, Filter, GlobalRateLimit, Judge, RateLimit};
use crate::filter::global_limit;
use crate::filter::rate_limit::RateLimiter;
use crate::metrics::registry::{FaultStats, GlobalRateLimitStats, RateLimitStats, Registry};
use crate::proto::head::RequestHead;
use crate::route::{Applies, Query};

/// A filter, compiled.
pub enum FilterView {
    /// `rate_limit`
    RateLimit(RateLimitView),
    /// `global_rate_limit`
    GlobalRateLimit(GlobalRateLimitView),
    /// `fault`
    Fault(FaultView),
}

/// A `rate_limit`, compiled.
pub struct RateLimitView {
    /// What it was built from.
    pub settings: RateLimit,
    /// Its buckets, which outlive a generation.
    pub limiter: RateLimiter,
    /// Its counters.
    pub stats: Arc<RateLimitStats>,
    applies: Applies,
    overrides: Box<[Applies]>,
}

impl RateLimitView {
    /// Whose quota a request counts against: 0 is the limit's own, others are the overrides from 1. `None` when it is not
    /// for this request.
    pub fn tier(&self, query: &Query<'_>) -> Option<usize> {
        let tier = || self.overrides.iter().position(|applies| applies.to(query)).map_or(0, |at| at + 1);
        self.applies.to(query).then(tier)
    }
}

/// A `global_rate_limit`, compiled.
pub struct GlobalRateLimitView {
    /// What it was built from.
    pub settings: GlobalRateLimit,
    /// The head of every question to its service, where there is one.
    pub question: RequestHead,
    /// Whether a descriptor says where a request goes.
    pub needs_destination: bool,
    /// Its counters.
    pub stats: Arc<GlobalRateLimitStats>,
    applies: Applies,
}

impl GlobalRateLimitView {
    /// Whether it is for this request.
    pub fn applies(&self, query: &Query<'_>) -> bool {
        self.applies.to(query)
    }
}

/// A `fault`, compiled.
pub struct FaultView {
    /// What it was built from.
    pub settings: Fault,
    /// Its counters.
    pub stats: Arc<FaultStats>,
    applies: Applies,
    /// Requests that it has its hands on, over all workers and generations.
    active: Arc<AtomicU32>,
}

impl FaultView {
    /// Whether it is for this request.
    pub fn applies(&self, query: &Query<'_>) -> bool {
        self.applies.to(query)
    }

    /// Room for one more request, for as long as the value lives; `None` when there is none.
    pub fn enter(&self) -> Option<Active> {
        Active::enter(&self.active, self.settings.max_active)
    }

    /// Requests that it has its hands on.
    pub fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }
}

/// Builds the filters of one generation.
pub(super) struct FilterBuilder<'a> {
    clusters: &'a [Cluster],
    registry: &'a Registry,
    rate_limits: HashMap<&'a str, &'a RateLimitView>,
    faults: HashMap<&'a str, &'a FaultView>,
}

impl<'a> FilterBuilder<'a> {
    /// What has state keeps that of its name in `previous`.
    pub(super) fn new(
        clusters: &'a [Cluster],
        registry: &'a Registry,
        previous: Option<&'a Snapshot>,
    ) -> FilterBuilder<'a> {
        let limits = previous.into_iter().flat_map(Snapshot::rate_limits);
        let faults = previous.into_iter().flat_map(Snapshot::faults);
        FilterBuilder {
            clusters,
            registry,
            rate_limits: limits.map(|view| (view.settings.name.as_str(), view)).collect(),
            faults: faults.map(|view| (view.settings.name.as_str(), view)).collect(),
        }
    }

    /// The filters of a listener or a route.
    pub(super) fn build(&self, filters: &[Filter]) -> Box<[FilterView]> {
        let build = |filter: &Filter| match filter {
            Filter::RateLimit(limit) => FilterView::RateLimit(self.rate_limit(limit)),
            Filter::GlobalRateLimit(limit) => FilterView::GlobalRateLimit(self.global_rate_limit(limit)),
            Filter::Fault(fault) => FilterView::Fault(self.fault(fault)),
        };
        filters.iter().map(build).collect()
    }

    fn rate_limit(&self, limit: &RateLimit) -> RateLimitView {
        let before = self.rate_limits.get(limit.name.as_str()).map(|view| (&view.settings, &view.limiter));
        RateLimitView {
            limiter: RateLimiter::build(limit, before),
            stats: self.registry.rate_limit(&limit.name),
            applies: Applies::of(&limit.when),
            overrides: limit.overrides.iter().map(|tier| Applies::of(&tier.when)).collect(),
            settings: limit.clone(),
        }
    }

    fn global_rate_limit(&self, limit: &GlobalRateLimit) -> GlobalRateLimitView {
        let question = match limit.judge {
            Judge::Service { cluster, timeout } => {
                global_limit::question(&self.clusters[cluster.index()].name, timeout)
            }
            Judge::Limits(_) => RequestHead::default(),
        };
        let is_destination = |action: &DescriptorAction| *action == DescriptorAction::DestinationCluster;
        GlobalRateLimitView {
            question,
            needs_destination: limit.descriptors.iter().flatten().any(is_destination),
            stats: self.registry.global_rate_limit(&limit.name),
            applies: Applies::of(&limit.when),
            settings: limit.clone(),
        }
    }

    fn fault(&self, fault: &Fault) -> FaultView {
        FaultView {
            stats: self.registry.fault(&fault.name),
            applies: Applies::of(&fault.when),
            active: self.faults.get(fault.name.as_str()).map_or_else(Arc::default, |view| view.active.clone()),
            settings: fault.clone(),
        }
    }
}

impl Snapshot {
    /// Every rate limit.
    pub fn rate_limits(&self) -> impl Iterator<Item = &RateLimitView> {
        self.filters().filter_map(|filter| match filter {
            FilterView::RateLimit(view) => Some(view),
            FilterView::GlobalRateLimit(_) | FilterView::Fault(_) => None,
        })
    }

    /// Every fault.
    pub fn faults(&self) -> impl Iterator<Item = &FaultView> {
        self.filters().filter_map(|filter| match filter {
            FilterView::Fault(view) => Some(view),
            FilterView::RateLimit(_) | FilterView::GlobalRateLimit(_) => None,
        })
    }

    fn filters(&self) -> impl Iterator<Item = &FilterView> {
        self.listeners.iter().flat_map(|listener| &listener.filters).chain(self.route_filters.iter().flatten())
    }
}
