//! Judging descriptors on this box: what a rate limit service does, without one.
//!
//! [`Rules`](rules::Rules) find the limit of a descriptor, [`Counters`] count in windows of fixed length, and a [`Ledger`] is
//! what of them several boxes share.

mod counters;
mod ledger;
mod rules;

use std::collections::HashSet;
use std::sync::Arc;

pub use counters::{Counters, Window};
pub use ledger::{Entry, Learnt, Ledger};
pub use rules::{Found, Rule};

use crate::config::model::{LimitQuota, LimitSet, LimitUnit};
use crate::proto::rate_limit_service::{
    Code, DescriptorStatus, Duration, RateLimit, RateLimitDescriptor, RateLimitRequest, RateLimitResponse, Unit,
};
use counters::{Counted, Hits};
use rules::Rules;

/// A `[[limits]]` of the configuration, with its counters.
#[derive(Debug)]
pub struct Limits {
    rules: Rules,
    counters: Arc<Counters>,
    shadow_mode: bool,
}

/// What became of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is within its limit, or its limit is none.
    Within,
    /// It is over.
    Over,
    /// It is over, and is let through because the limit only counts.
    Shadowed,
}

/// What happened when a descriptor was judged, for who counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged<'a> {
    /// The limit; `None` where the descriptor brought its own.
    pub rule: Option<&'a Rule>,
    /// What became of it.
    pub verdict: Verdict,
    /// Whether the counter of another key gave way before its window was over, or that of this one could not be made.
    pub evicted: bool,
    /// Whether other boxes will not learn of it.
    pub unshared: bool,
}

/// Descriptors of a request: each is looked for and counted by itself, before the worker does anything else. Envoy sends one
/// for each of a route's `rate_limits`.
pub const DESCRIPTORS_MAX: usize = 256;

/// A request that says too little, or too much, to be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unjudged {
    /// It names no domain.
    NoDomain,
    /// It has no descriptors.
    NoDescriptors,
    /// It has more than [`DESCRIPTORS_MAX`].
    TooManyDescriptors,
}

impl Unjudged {
    /// In words, the first two in those of envoyproxy/ratelimit.
    pub fn as_str(self) -> &'static str {
        match self {
            Unjudged::NoDomain => "rate limit domain must not be empty",
            Unjudged::NoDescriptors => "rate limit descriptor list must not be empty",
            Unjudged::TooManyDescriptors => "more than 256 rate limit descriptors",
        }
    }
}

impl Limits {
    /// The limits of `set`. Counters are taken over from the set of this name in the generation before, unless there are to
    /// be more or less of them.
    pub fn build(set: &LimitSet, before: Option<(&LimitSet, &Limits)>) -> Limits {
        let counters = match before {
            Some((old, limits))
                if (old.max_counters, old.redis.is_some()) == (set.max_counters, set.redis.is_some()) =>
            {
                limits.counters.clone()
            }
            _ => Arc::new(Counters::new(set.max_counters, set.redis.is_some())),
        };
        Limits { rules: Rules::build(&set.domains), counters, shadow_mode: set.shadow_mode }
    }

    /// Every rule with a limit, in the order of [`Rule::id`].
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules.all()
    }

    /// What is counted.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Counts a request at `now_s`, in seconds since 1970, and judges it. `judged` hears of each descriptor that has a limit.
    pub fn judge(
        &self,
        request: &RateLimitRequest,
        now_s: u64,
        mut judged: impl FnMut(Judged<'_>),
    ) -> Result<RateLimitResponse, Unjudged> {
        if request.domain.is_empty() {
            return Err(Unjudged::NoDomain);
        }
        if request.descriptors.is_empty() {
            return Err(Unjudged::NoDescriptors);
        }
        if request.descriptors.len() > DESCRIPTORS_MAX {
            return Err(Unjudged::TooManyDescriptors);
        }
        let mut found: Vec<Option<Found<'_>>> =
            request.descriptors.iter().map(|descriptor| self.rules.find(&request.domain, descriptor)).collect();
        leave_out_replaced(&mut found);
        let statuses: Vec<DescriptorStatus> = request
            .descriptors
            .iter()
            .zip(found)
            .map(|(descriptor, found)| match found {
                None => ok(None, 0),
                Some(found) => self.status(request, descriptor, &found, now_s, &mut judged),
            })
            .collect();
        let is_over = statuses.iter().any(|status| status.code() == Code::OverLimit);
        let overall_code = if is_over { Code::OverLimit } else { Code::Ok };
        Ok(RateLimitResponse { overall_code: overall_code.into(), statuses, ..RateLimitResponse::default() })
    }

    fn status(
        &self,
        request: &RateLimitRequest,
        descriptor: &RateLimitDescriptor,
        found: &Found<'_>,
        now_s: u64,
        judged: &mut impl FnMut(Judged<'_>),
    ) -> DescriptorStatus {
        let rule = found.rule();
        let Some(quota) = found.quota() else {
            judged(Judged { rule, verdict: Verdict::Within, evicted: false, unshared: false });
            return ok(None, u32::MAX);
        };
        let window = Window::at(now_s, quota.unit.seconds());
        let key = found.key(&request.domain, descriptor, quota.unit);
        let hits = Hits::of(request, descriptor);
        let Counted { total, evicted, unshared } = self.counters.count(key, window, hits);
        let is_over = total > u64::from(quota.requests);
        let is_shadow = self.shadow_mode || rule.is_some_and(|rule| rule.shadow_mode);
        let verdict = match (is_over, is_shadow) {
            (false, _) => Verdict::Within,
            (true, false) => Verdict::Over,
            (true, true) => Verdict::Shadowed,
        };
        judged(Judged { rule, verdict, evicted, unshared });
        let name = rule.map_or("", |rule| &rule.name);
        let left = u64::from(quota.requests).saturating_sub(total) as u32;
        DescriptorStatus {
            code: if verdict == Verdict::Over { Code::OverLimit } else { Code::Ok }.into(),
            duration_until_reset: Some(Duration { seconds: i64::from(window.left_s()), nanos: 0 }),
            ..ok(Some(current_limit(quota, name)), left)
        }
    }
}

/// Limits that another one of the same request replaces do not count.
fn leave_out_replaced(found: &mut [Option<Found<'_>>]) {
    let replaced: HashSet<&str> = found
        .iter()
        .flatten()
        .filter_map(Found::rule)
        .flat_map(|rule| rule.replaces.iter().map(AsRef::as_ref))
        .collect();
    if replaced.is_empty() {
        return;
    }
    for slot in found {
        if slot.as_ref().and_then(Found::rule).is_some_and(|rule| replaced.contains(&*rule.name)) {
            *slot = None;
        }
    }
}

fn ok(current_limit: Option<RateLimit>, limit_remaining: u32) -> DescriptorStatus {
    DescriptorStatus { code: Code::Ok.into(), current_limit, limit_remaining, duration_until_reset: None }
}

fn current_limit(quota: LimitQuota, name: &str) -> RateLimit {
    RateLimit { name: name.to_owned(), requests_per_unit: quota.requests, unit: unit_code(quota.unit).into() }
}

fn unit_code(unit: LimitUnit) -> Unit {
    match unit {
        LimitUnit::Second => Unit::Second,
        LimitUnit::Minute => Unit::Minute,
        LimitUnit::Hour => Unit::Hour,
        LimitUnit::Day => Unit::Day,
        LimitUnit::Week => Unit::Week,
        LimitUnit::Month => Unit::Month,
        LimitUnit::Year => Unit::Year,
    }
}

/// The unit of time that a message means; `None` when it says none.
pub(super) fn unit_of_code(unit: Unit) -> Option<LimitUnit> {
    LimitUnit::ALL.into_iter().find(|each| unit_code(*each) == unit)
}

#[cfg(test)]
mod tests;
