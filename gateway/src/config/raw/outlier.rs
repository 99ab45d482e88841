//! `outlier_detection` of `[[cluster]]`.

use crate::config::decode::{Optional, table};
use crate::config::value::{Count, PositiveDuration};

table! { "`outlier_detection` of [[cluster]]"
/// When endpoints that answer badly get no requests for a while. Names and defaults are Envoy's; `{}` is all defaults.
pub struct OutlierDetection {
    /// Answers of 500 to 599 in a row, or none, after which an endpoint is ejected; 0 is never. gRPC calls count by their
    /// HTTP status.
    #[schemars(extend("default" = 5, "examples" = [3]))]
    pub consecutive_5xx: Optional<Count<u32, 0, 1_000_000>>,
    /// The same of 502, 503, 504 and no answer.
    #[schemars(extend("default" = 5, "examples" = [3]))]
    pub consecutive_gateway_failure: Optional<Count<u32, 0, 1_000_000>>,
    /// How often endpoints are compared with each other, and taken back.
    #[schemars(extend("default" = "10s", "examples" = ["1s"]))]
    pub interval: Optional<PositiveDuration>,
    /// How long an endpoint is out: this time, times how often it has been of late.
    #[schemars(extend("default" = "30s", "examples" = ["5s"]))]
    pub base_ejection_time: Optional<PositiveDuration>,
    /// And no longer than that.
    #[schemars(extend("default" = "300s", "examples" = ["60s"]))]
    pub max_ejection_time: Optional<PositiveDuration>,
    /// Percent of the cluster's endpoints that may be out. Another is ejected while fewer are, so 10 allows one of ten, and
    /// one of two.
    #[schemars(extend("default" = 10, "examples" = [50]))]
    pub max_ejection_percent: Optional<Count<u8, 0, 100>>,
    /// One may be out whatever that percentage is.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub always_eject_one_host: Optional<bool>,
    /// Endpoints with enough requests that it takes to compare their shares of good answers.
    #[schemars(extend("default" = 5, "examples" = [3]))]
    pub success_rate_minimum_hosts: Optional<Count<u32, 0, 1_000_000>>,
    /// Requests of an interval that are enough.
    #[schemars(extend("default" = 100, "examples" = [20]))]
    pub success_rate_request_volume: Optional<Count<u32, 1, 1_000_000_000>>,
    /// How far below the mean a share stands out: thousandths of the standard deviation.
    #[schemars(extend("default" = 1900, "examples" = [1000]))]
    pub success_rate_stdev_factor: Optional<Count<u32, 0, 1_000_000>>,
    /// Percent of bad answers in an interval that stand out whatever the others do.
    #[schemars(extend("default" = 85, "examples" = [50]))]
    pub failure_percentage_threshold: Optional<Count<u8, 0, 100>>,
    /// Endpoints with enough requests that it takes for that.
    #[schemars(extend("default" = 5, "examples" = [1]))]
    pub failure_percentage_minimum_hosts: Optional<Count<u32, 0, 1_000_000>>,
    /// Requests of an interval that are enough for that.
    #[schemars(extend("default" = 50, "examples" = [20]))]
    pub failure_percentage_request_volume: Optional<Count<u32, 1, 1_000_000_000>>,
    /// Percent of the times that `consecutive_5xx` is reached that eject; of the others metrics tell.
    #[schemars(extend("default" = 100, "examples" = [0]))]
    pub enforcing_consecutive_5xx: Optional<Count<u8, 0, 100>>,
    /// The same of `consecutive_gateway_failure`.
    #[schemars(extend("default" = 0, "examples" = [100]))]
    pub enforcing_consecutive_gateway_failure: Optional<Count<u8, 0, 100>>,
    /// The same of shares of good answers.
    #[schemars(extend("default" = 100, "examples" = [0]))]
    pub enforcing_success_rate: Optional<Count<u8, 0, 100>>,
    /// The same of percentages of bad ones.
    #[schemars(extend("default" = 0, "examples" = [100]))]
    pub enforcing_failure_percentage: Optional<Count<u8, 0, 100>>,
}
}
