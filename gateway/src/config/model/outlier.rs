//! `outlier_detection` of a cluster: endpoints that answer badly are taken out for a while. Names and defaults are Envoy's.

use std::time::Duration;

/// `outlier_detection`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlierDetection {
    /// `consecutive_5xx`: bad answers in a row, or none, after which an endpoint is ejected; 0 is never. Default 5.
    pub consecutive_5xx: u32,
    /// `consecutive_gateway_failure`: the same of 502, 503, 504 and no answer. Default 5.
    pub consecutive_gateway_failure: u32,
    /// `interval`: how often shares of good answers are compared, and endpoints taken back. Default 10 s.
    pub interval: Duration,
    /// `base_ejection_time`: an endpoint is out for this time, times how often it has been. Default 30 s.
    pub base_ejection_time: Duration,
    /// `max_ejection_time`: and no longer than that. Default 300 s.
    pub max_ejection_time: Duration,
    /// `max_ejection_percent`: of the cluster's endpoints that may be out. Default 10.
    pub max_ejection_percent: u8,
    /// `always_eject_one_host`: whatever that percentage is. Default off.
    pub always_eject_one_host: bool,
    /// `success_rate_minimum_hosts`: with enough requests for their rates to be compared. Default 5.
    pub success_rate_minimum_hosts: u32,
    /// `success_rate_request_volume`: requests of an interval that are enough. Default 100.
    pub success_rate_request_volume: u32,
    /// `success_rate_stdev_factor`: thousandths of a standard deviation below the mean that are too far. Default 1900.
    pub success_rate_stdev_factor: u32,
    /// `failure_percentage_threshold`: of bad answers in an interval. Default 85.
    pub failure_percentage_threshold: u8,
    /// `failure_percentage_minimum_hosts`: with enough requests. Default 5.
    pub failure_percentage_minimum_hosts: u32,
    /// `failure_percentage_request_volume`: requests that are enough. Default 50.
    pub failure_percentage_request_volume: u32,
    /// `enforcing_consecutive_5xx`: percent of these findings that eject. Default 100.
    pub enforcing_consecutive_5xx: u8,
    /// `enforcing_consecutive_gateway_failure`. Default 0.
    pub enforcing_consecutive_gateway_failure: u8,
    /// `enforcing_success_rate`. Default 100.
    pub enforcing_success_rate: u8,
    /// `enforcing_failure_percentage`. Default 0.
    pub enforcing_failure_percentage: u8,
}

impl Default for OutlierDetection {
    fn default() -> OutlierDetection {
        OutlierDetection {
            consecutive_5xx: 5,
            consecutive_gateway_failure: 5,
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_percent: 10,
            always_eject_one_host: false,
            success_rate_minimum_hosts: 5,
            success_rate_request_volume: 100,
            success_rate_stdev_factor: 1900,
            failure_percentage_threshold: 85,
            failure_percentage_minimum_hosts: 5,
            failure_percentage_request_volume: 50,
            enforcing_consecutive_5xx: 100,
            enforcing_consecutive_gateway_failure: 0,
            enforcing_success_rate: 100,
            enforcing_failure_percentage: 0,
        }
    }
}
