//! Which endpoints stand out by answering badly, and for how long they are left out: Envoy's outlier detection.

use std::time::Duration;

use crate::config::model::OutlierDetection;
use crate::metrics::shard::Finding;

/// What an answer says about the endpoint that gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing bad: it may be the client's fault, but the endpoint does its work.
    Good,
    /// 500 to 599.
    ServerError,
    /// 502, 503, 504, or none at all.
    GatewayFailure,
}

/// How an endpoint answered in an interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests with an outcome.
    pub requests: u32,
    /// Those of them that were good.
    pub good: u32,
}

impl Outcome {
    /// Of an answer with this status.
    pub fn of_status(status: u16) -> Outcome {
        match status {
            502..=504 => Outcome::GatewayFailure,
            500..=599 => Outcome::ServerError,
            _ => Outcome::Good,
        }
    }
}

/// Whether a finding ejects: `random`, evenly distributed over all its values, decides where only some do.
pub fn is_enforced(finding: Finding, settings: &OutlierDetection, random: u32) -> bool {
    let percent = match finding {
        Finding::Consecutive5xx => settings.enforcing_consecutive_5xx,
        Finding::ConsecutiveGatewayFailure => settings.enforcing_consecutive_gateway_failure,
        Finding::SuccessRate => settings.enforcing_success_rate,
        Finding::FailurePercentage => settings.enforcing_failure_percentage,
    };
    (u64::from(random) * 100) >> 32 < u64::from(percent)
}

/// Whether another endpoint may be ejected when `ejected` of `total` are.
pub fn has_room(settings: &OutlierDetection, ejected: usize, total: usize) -> bool {
    let one = settings.always_eject_one_host && ejected == 0;
    one || ejected * 100 < usize::from(settings.max_ejection_percent) * total
}

/// How long an endpoint is out that is ejected for the `times`th time, from 1.
pub fn ejection_time(settings: &OutlierDetection, times: u32) -> Duration {
    let longest = settings.max_ejection_time.max(settings.base_ejection_time);
    settings.base_ejection_time.saturating_mul(times).min(longest)
}

/// Those among the endpoints whose answers of an interval stand out, by their places.
pub fn stand_out(settings: &OutlierDetection, tallies: &[Tally]) -> Vec<(usize, Finding)> {
    let mut found = by_success_rate(settings, tallies);
    found.extend(by_failure_percentage(settings, tallies));
    found
}

fn by_success_rate(settings: &OutlierDetection, tallies: &[Tally]) -> Vec<(usize, Finding)> {
    let rates = rates(tallies, settings.success_rate_request_volume);
    if rates.is_empty() || rates.len() < settings.success_rate_minimum_hosts as usize {
        return Vec::new();
    }
    let count = rates.len() as f64;
    let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / count;
    let variance = rates.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / count;
    let least = mean - variance.sqrt() * f64::from(settings.success_rate_stdev_factor) / 1000.0;
    rates.into_iter().filter(|(_, rate)| *rate < least).map(|(at, _)| (at, Finding::SuccessRate)).collect()
}

fn by_failure_percentage(settings: &OutlierDetection, tallies: &[Tally]) -> Vec<(usize, Finding)> {
    let rates = rates(tallies, settings.failure_percentage_request_volume);
    if rates.len() < settings.failure_percentage_minimum_hosts as usize {
        return Vec::new();
    }
    let bad = |rate: f64| 100.0 - rate >= f64::from(settings.failure_percentage_threshold);
    rates.into_iter().filter(|(_, rate)| bad(*rate)).map(|(at, _)| (at, Finding::FailurePercentage)).collect()
}

/// Percent of good answers of those that had enough requests.
fn rates(tallies: &[Tally], volume: u32) -> Vec<(usize, f64)> {
    let enough = tallies.iter().enumerate().filter(|(_, tally)| tally.requests >= volume.max(1));
    enough.map(|(at, tally)| (at, f64::from(tally.good) * 100.0 / f64::from(tally.requests))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_sorted_by_what_they_say_about_the_endpoint() {
        use Outcome::{GatewayFailure, Good, ServerError};
        let cases =
            [(200, Good), (404, Good), (429, Good), (500, ServerError), (501, ServerError), (502, GatewayFailure)];
        for (status, outcome) in
            cases.into_iter().chain([(504, GatewayFailure), (505, ServerError), (599, ServerError)])
        {
            assert_eq!(Outcome::of_status(status), outcome, "{status}");
        }
    }

    #[test]
    fn no_more_are_out_than_may_be() {
        let settings = |percent, one| OutlierDetection {
            max_ejection_percent: percent,
            always_eject_one_host: one,
            ..OutlierDetection::default()
        };
        // Percent, one in any case, already out, of so many: may one more go?
        let cases = [
            (10, false, 0, 10, true),
            (10, false, 1, 10, false),
            (10, false, 0, 1, true),
            (0, false, 0, 10, false),
            (0, true, 0, 10, true),
            (0, true, 1, 10, false),
            (50, false, 1, 3, true),
            (50, false, 2, 3, false),
            (100, false, 2, 3, true),
        ];
        for (percent, one, ejected, total, expected) in cases {
            assert_eq!(
                has_room(&settings(percent, one), ejected, total),
                expected,
                "{percent} {one} {ejected} {total}"
            );
        }
    }

    #[test]
    fn each_time_is_longer_than_the_last_up_to_a_limit() {
        let settings = OutlierDetection::default();
        let seconds = [1, 2, 3, 10, 11, u32::MAX].map(|times| ejection_time(&settings, times).as_secs());
        assert_eq!(seconds, [30, 60, 90, 300, 300, 300]);
        let long = OutlierDetection { base_ejection_time: Duration::from_secs(600), ..settings };
        assert_eq!(ejection_time(&long, 1).as_secs(), 600, "as in Envoy, the base is never cut");
    }

    #[test]
    fn who_answers_far_worse_than_the_others_stands_out() {
        let settings = OutlierDetection::default();
        let tally = |good| Tally { requests: 100, good };
        let found = |tallies: &[Tally]| stand_out(&settings, tallies);
        let one_bad = [tally(99), tally(100), tally(98), tally(100), tally(50)];
        assert_eq!(found(&one_bad), [(4, Finding::SuccessRate)]);
        assert_eq!(found(&one_bad[1..]), [], "too few to compare");
        assert_eq!(found(&[tally(50); 5]), [], "all alike");
        let few = Tally { requests: 49, good: 0 };
        assert_eq!(found(&[tally(99), tally(100), tally(98), tally(100), few]), [], "too few requests");
        assert_eq!(found(&[]), []);
    }

    #[test]
    fn who_mostly_fails_stands_out_even_among_others_that_do() {
        let settings = OutlierDetection::default();
        let tally = |good| Tally { requests: 50, good };
        let found = stand_out(&settings, &[tally(7), tally(8), tally(50), tally(0), tally(50)]);
        assert_eq!(found, [(0, Finding::FailurePercentage), (3, Finding::FailurePercentage)]);
    }

    #[test]
    fn a_finding_ejects_as_often_as_it_is_enforced() {
        let settings = OutlierDetection { enforcing_success_rate: 25, ..OutlierDetection::default() };
        let quarter = u32::MAX / 4;
        assert!(is_enforced(Finding::SuccessRate, &settings, quarter - 1));
        assert!(!is_enforced(Finding::SuccessRate, &settings, quarter + 2));
        assert!(is_enforced(Finding::Consecutive5xx, &settings, u32::MAX));
        assert!(!is_enforced(Finding::FailurePercentage, &settings, 0));
    }
}
