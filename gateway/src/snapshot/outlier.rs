//! How endpoints have answered, and which of them are left out for it.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::{ClusterView, EndpointView};
use crate::balance::outlier::{self, Outcome, Tally};
use crate::config::model::OutlierDetection;
use crate::metrics::shard::{ClusterShard, Finding};

/// One endpoint's answers, over all workers and generations. All workers write here, so it shares no cache line with anything
/// that is read only.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Answers {
    /// Bad ones in a row.
    errors: AtomicU32,
    /// Of these, those that a gateway makes.
    gateway_failures: AtomicU32,
    requests: AtomicU32,
    good: AtomicU32,
}

impl Answers {
    /// Counts one more; says whether it is one too many.
    pub fn count(&self, outcome: Outcome, settings: &OutlierDetection) -> Option<Finding> {
        self.requests.fetch_add(1, Relaxed);
        if outcome == Outcome::Good {
            self.good.fetch_add(1, Relaxed);
            // Most answers are good, and then there is nothing to write.
            for row in [&self.errors, &self.gateway_failures] {
                if row.load(Relaxed) != 0 {
                    row.store(0, Relaxed);
                }
            }
            return None;
        }
        let errors = is_last(&self.errors, settings.consecutive_5xx);
        let gateway_failures = match outcome {
            Outcome::GatewayFailure => is_last(&self.gateway_failures, settings.consecutive_gateway_failure),
            Outcome::Good | Outcome::ServerError => {
                self.gateway_failures.store(0, Relaxed);
                false
            }
        };
        match (gateway_failures, errors) {
            (true, _) if settings.enforcing_consecutive_gateway_failure > 0 => Some(Finding::ConsecutiveGatewayFailure),
            (_, true) => Some(Finding::Consecutive5xx),
            (true, false) => Some(Finding::ConsecutiveGatewayFailure),
            (false, false) => None,
        }
    }

    /// What came since the last time.
    fn take(&self) -> Tally {
        Tally { requests: self.requests.swap(0, Relaxed), good: self.good.swap(0, Relaxed) }
    }

    fn forgive(&self) {
        self.errors.store(0, Relaxed);
        self.gateway_failures.store(0, Relaxed);
    }
}

/// One more in a row; whether that makes `most`, and then another row begins, so that an endpoint that could not be ejected
/// is found again. Of many at once only one is the last.
fn is_last(row: &AtomicU32, most: u32) -> bool {
    let last = row.fetch_add(1, Relaxed).wrapping_add(1) == most;
    if last {
        row.store(0, Relaxed);
    }
    last
}

/// What came of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Why the endpoint stands out.
    pub finding: Finding,
    /// Whether it is left out now; not when as many are out as may be, or findings like this do not eject.
    pub is_ejected: bool,
}

impl Found {
    /// Counts it.
    pub fn count(self, shard: &ClusterShard) {
        let counters = if self.is_ejected { &shard.ejections } else { &shard.findings_let_go };
        counters.of(self.finding).inc();
    }
}

impl ClusterView {
    /// Counts an answer of an endpoint, where the cluster looks at them; says what is found. The endpoint that had one bad
    /// answer too many is left out from now on.
    pub fn count_answer(&self, endpoint: &EndpointView, outcome: Outcome, now_ms: u64, random: u32) -> Option<Found> {
        let settings = self.outliers.as_ref()?;
        let finding = endpoint.answers.count(outcome, settings)?;
        self.judge(settings, endpoint, finding, now_ms, random)
    }

    /// An interval is over: endpoints are compared with each other, and those that have been out for long enough are taken
    /// back. `random` gives random bits. For the control thread.
    pub fn end_interval(&self, now_ms: u64, mut random: impl FnMut() -> u32) -> (Vec<(usize, Found)>, Vec<usize>) {
        let Some(settings) = &self.outliers else { return Default::default() };
        let tallies: Vec<Tally> = self.endpoints.iter().map(|endpoint| endpoint.answers.take()).collect();
        let back = |(at, endpoint): (usize, &EndpointView)| {
            let is_back = endpoint.health.end_interval(now_ms);
            if is_back {
                endpoint.answers.forgive();
            }
            is_back.then_some(at)
        };
        let back = self.endpoints.iter().enumerate().filter_map(back).collect();
        let found = outlier::stand_out(settings, &tallies).into_iter().filter_map(|(at, finding)| {
            Some((at, self.judge(settings, &self.endpoints[at], finding, now_ms, random())?))
        });
        (found.collect(), back)
    }

    /// Whether anybody looks at the answers of its endpoints.
    pub fn looks_at_answers(&self) -> bool {
        self.outliers.is_some()
    }

    /// How often [`ClusterView::end_interval`] is called, where it is.
    pub fn outlier_interval(&self) -> Option<std::time::Duration> {
        self.outliers.as_ref().map(|settings| settings.interval)
    }

    fn judge(
        &self,
        settings: &OutlierDetection,
        endpoint: &EndpointView,
        finding: Finding,
        now_ms: u64,
        random: u32,
    ) -> Option<Found> {
        if endpoint.health.is_ejected() {
            return None;
        }
        let ejected = self.endpoints.iter().filter(|endpoint| endpoint.health.is_ejected()).count();
        let ejects = outlier::is_enforced(finding, settings, random)
            && outlier::has_room(settings, ejected, self.endpoints.len());
        let time = outlier::ejection_time(settings, endpoint.health.next_ejection());
        let until = now_ms.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        Some(Found { finding, is_ejected: ejects && endpoint.health.eject(until) })
    }
}
