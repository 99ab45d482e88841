//! The sets of rules that judge descriptors, compiled.

use std::sync::Arc;

use super::Snapshot;
use crate::config::model::Config;
use crate::filter::limits::{Judged, Limits, Unjudged, Verdict};
use crate::metrics::registry::{LimitRuleStats, LimitSetStats, Registry};
use crate::proto::rate_limit_service::{RateLimitRequest, RateLimitResponse};

/// A `[[limits]]`, compiled.
pub struct LimitsView {
    /// Its rules and counters.
    pub limits: Limits,
    /// Its own counters.
    pub stats: Arc<LimitSetStats>,
    /// Those of each rule, by its id.
    rules: Vec<Arc<LimitRuleStats>>,
    /// Those of descriptors that bring their limit.
    brought: Arc<LimitRuleStats>,
}

impl LimitsView {
    /// Counts a request at `now_s`, in seconds since 1970, and judges it. `worker` is the number of the worker that asks.
    pub fn judge(&self, request: &RateLimitRequest, now_s: u64, worker: usize) -> Result<RateLimitResponse, Unjudged> {
        self.limits.judge(request, now_s, |judged| self.note(judged, worker))
    }

    fn note(&self, Judged { rule, verdict, evicted, unshared }: Judged<'_>, worker: usize) {
        let of_rule = rule.map_or(&self.brought, |rule| &self.rules[rule.id]).shard(worker);
        match verdict {
            Verdict::Within => of_rule.within.inc(),
            Verdict::Over => of_rule.over.inc(),
            Verdict::Shadowed => of_rule.shadowed.inc(),
        }
        let stats = self.stats.shard(worker);
        if evicted {
            stats.evictions.inc();
        }
        if unshared {
            stats.unshared.inc();
        }
    }
}

/// The sets of this generation. Those of the same name in `previous` hand on what they have counted.
pub(super) fn build(config: &Config, registry: &Registry, previous: Option<&Snapshot>) -> Vec<LimitsView> {
    let before = |name: &str| {
        let previous = previous?;
        let at = previous.config.limits.iter().position(|set| set.name == name)?;
        Some((&previous.config.limits[at], &previous.limits[at].limits))
    };
    let sets = config.limits.iter().map(|set| {
        let limits = Limits::build(set, before(&set.name));
        let stats = |label: &str| registry.limit_rule(&format!("{}/{label}", set.name));
        LimitsView {
            rules: limits.rules().map(|rule| stats(&rule.label)).collect(),
            brought: stats("of the request"),
            stats: registry.limit_set(&set.name),
            limits,
        }
    });
    sets.collect()
}
