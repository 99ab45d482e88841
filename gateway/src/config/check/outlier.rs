//! `outlier_detection` of `[[cluster]]`

use crate::config::decode::Optional;
use crate::config::model::OutlierDetection;
use crate::config::raw;
use crate::config::value::{Count, PositiveDuration};

/// What is not said is as in Envoy.
pub fn check(raw: raw::OutlierDetection) -> OutlierDetection {
    let default = OutlierDetection::default();
    OutlierDetection {
        consecutive_5xx: count(raw.consecutive_5xx, default.consecutive_5xx),
        consecutive_gateway_failure: count(raw.consecutive_gateway_failure, default.consecutive_gateway_failure),
        interval: time(raw.interval, default.interval),
        base_ejection_time: time(raw.base_ejection_time, default.base_ejection_time),
        max_ejection_time: time(raw.max_ejection_time, default.max_ejection_time),
        max_ejection_percent: count(raw.max_ejection_percent, default.max_ejection_percent),
        always_eject_one_host: raw.always_eject_one_host.is_some_and(|flag| flag.value),
        success_rate_minimum_hosts: count(raw.success_rate_minimum_hosts, default.success_rate_minimum_hosts),
        success_rate_request_volume: count(raw.success_rate_request_volume, default.success_rate_request_volume),
        success_rate_stdev_factor: count(raw.success_rate_stdev_factor, default.success_rate_stdev_factor),
        failure_percentage_threshold: count(raw.failure_percentage_threshold, default.failure_percentage_threshold),
        failure_percentage_minimum_hosts: count(
            raw.failure_percentage_minimum_hosts,
            default.failure_percentage_minimum_hosts,
        ),
        failure_percentage_request_volume: count(
            raw.failure_percentage_request_volume,
            default.failure_percentage_request_volume,
        ),
        enforcing_consecutive_5xx: count(raw.enforcing_consecutive_5xx, default.enforcing_consecutive_5xx),
        enforcing_consecutive_gateway_failure: count(
            raw.enforcing_consecutive_gateway_failure,
            default.enforcing_consecutive_gateway_failure,
        ),
        enforcing_success_rate: count(raw.enforcing_success_rate, default.enforcing_success_rate),
        enforcing_failure_percentage: count(raw.enforcing_failure_percentage, default.enforcing_failure_percentage),
    }
}

fn count<T, const MIN: u64, const MAX: u64>(given: Optional<Count<T, MIN, MAX>>, default: T) -> T {
    given.map_or(default, |count| count.value.0)
}

fn time(given: Optional<PositiveDuration>, default: std::time::Duration) -> std::time::Duration {
    given.map_or(default, |time| time.value.0)
}
