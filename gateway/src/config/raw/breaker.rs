//! `breaker` of a route.

use crate::config::decode::{Given, Map, Optional, table};
use crate::config::value::{Count, HeaderValue, PositiveDuration};

table! { "`breaker` of [[route]]"
/// Answers in place of the endpoints for a while, when too many of the route's requests fail or are slow. All workers count
/// together, other routes are not concerned, and a reload keeps it as it is. One of `error_percent` and `slow_request_time`
/// is needed; with both, either opens it.
pub struct Breaker {
    /// The time that is looked back on, in ten steps: 1 s to 1 h.
    #[schemars(extend("default" = "10s", "examples" = ["1m"]))]
    pub window: Optional<PositiveDuration>,
    /// Fewer requests in the window than this say nothing.
    #[schemars(extend("default" = 20, "examples" = [5]))]
    pub min_requests: Optional<Count<u32, 1, 10_000_000>>,
    /// It opens when this share of the requests failed: an answer of 500 to 599, or none; a gRPC status of 2, 13, 14 or 15, or
    /// of 4 where the client set no deadline.
    #[schemars(extend("examples" = [50]))]
    pub error_percent: Optional<Given<Count<u8, 1, 100>>>,
    /// What takes as long is slow: from the end of the request to the head of the answer, all tries and waits.
    #[schemars(extend("examples" = ["1s"]))]
    pub slow_request_time: Optional<Given<PositiveDuration>>,
    /// It opens when more requests than this were slow. Needs `slow_request_time`.
    #[schemars(extend("default" = 0, "examples" = [10]))]
    pub max_slow_requests: Optional<Count<u32, 0, 10_000_000>>,
    /// How long it is open. Then requests go to the endpoints again, and the window is empty.
    #[schemars(extend("default" = "30s", "examples" = ["1m30s"]))]
    pub break_duration: Optional<PositiveDuration>,
    /// The status of its answers.
    #[schemars(extend("default" = 503, "examples" = [499]))]
    pub status: Optional<Count<u16, 200, 599>>,
    /// The body of its answers.
    #[schemars(extend("default" = "circuit breaker is open", "examples" = ["come back later\n"]))]
    pub body: Optional<String>,
    /// Fields of its answers.
    #[schemars(extend("default" = {"x-circuit-breaker": "open"}, "examples" = [{"x-envoy-circuitbreak": "true"}]))]
    pub headers: Optional<Map<HeaderValue>>,
    /// The status of its answers to gRPC calls.
    #[schemars(extend("default" = 14, "examples" = [8]))]
    pub grpc_status: Optional<Count<u8, 1, 16>>,
}
}
