//! Outlier detection.

use serde_json::{Value, json};

use super::duration;
use crate::config::model::OutlierDetection;

pub(super) fn view_outliers(settings: &OutlierDetection) -> Value {
    let OutlierDetection {
        consecutive_5xx,
        consecutive_gateway_failure,
        interval,
        base_ejection_time,
        max_ejection_time,
        max_ejection_percent,
        always_eject_one_host,
        success_rate_minimum_hosts,
        success_rate_request_volume,
        success_rate_stdev_factor,
        failure_percentage_threshold,
        failure_percentage_minimum_hosts,
        failure_percentage_request_volume,
        enforcing_consecutive_5xx,
        enforcing_consecutive_gateway_failure,
        enforcing_success_rate,
        enforcing_failure_percentage,
    } = settings;
    json!({
        "consecutive_5xx": consecutive_5xx,
        "consecutive_gateway_failure": consecutive_gateway_failure,
        "interval": duration(*interval),
        "base_ejection_time": duration(*base_ejection_time),
        "max_ejection_time": duration(*max_ejection_time),
        "max_ejection_percent": max_ejection_percent,
        "always_eject_one_host": always_eject_one_host,
        "success_rate_minimum_hosts": success_rate_minimum_hosts,
        "success_rate_request_volume": success_rate_request_volume,
        "success_rate_stdev_factor": success_rate_stdev_factor,
        "failure_percentage_threshold": failure_percentage_threshold,
        "failure_percentage_minimum_hosts": failure_percentage_minimum_hosts,
        "failure_percentage_request_volume": failure_percentage_request_volume,
        "enforcing_consecutive_5xx": enforcing_consecutive_5xx,
        "enforcing_consecutive_gateway_failure": enforcing_consecutive_gateway_failure,
        "enforcing_success_rate": enforcing_success_rate,
        "enforcing_failure_percentage": enforcing_failure_percentage,
    })
}
