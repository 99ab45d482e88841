//! The filters of listeners and routes, compiled.

use std::collections::HashMap;
use std::sync::Arc;

use super::Snapshot;
use crate::config::model::{Filter, RateLimit};
use crate::filter::rate_limit::RateLimiter;
use crate::metrics::registry::{RateLimitStats, Registry};
use crate::route::{Applies, Query};

/// A filter, compiled.
pub enum FilterView {
    /// `rate_limit`
    RateLimit(RateLimitView),
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

/// Builds the filters of one generation.
pub(super) struct FilterBuilder<'a> {
    registry: &'a Registry,
    rate_limits: HashMap<&'a str, &'a RateLimitView>,
}

impl<'a> FilterBuilder<'a> {
    /// What has state keeps that of its name in `previous`.
    pub(super) fn new(registry: &'a Registry, previous: Option<&'a Snapshot>) -> FilterBuilder<'a> {
        let before = previous.into_iter().flat_map(Snapshot::rate_limits);
        FilterBuilder { registry, rate_limits: before.map(|view| (view.settings.name.as_str(), view)).collect() }
    }

    /// The filters of a listener or a route.
    pub(super) fn build(&self, filters: &[Filter]) -> Box<[FilterView]> {
        let build = |filter: &Filter| match filter {
            Filter::RateLimit(limit) => FilterView::RateLimit(self.rate_limit(limit)),
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
}

impl Snapshot {
    /// Every rate limit.
    pub fn rate_limits(&self) -> impl Iterator<Item = &RateLimitView> {
        let of_listeners = self.listeners.iter().flat_map(|listener| &listener.filters);
        of_listeners.chain(self.route_filters.iter().flatten()).map(|FilterView::RateLimit(view)| view)
    }
}
