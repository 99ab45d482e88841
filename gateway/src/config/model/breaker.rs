//! `breaker` of a route: when it answers in place of the origin.

use std::time::Duration;

use crate::proto::grpc;
use crate::proto::head::HeaderName;

/// `breaker`. It opens for `error_percent`, for `slow`, or for either; one of them is set.
#[derive(Clone, Debug, PartialEq)]
pub struct Breaker {
    /// `window`: the time that is looked back on. Default 10 s.
    pub window: Duration,
    /// `min_requests`: as many have to be in the window. Default 20.
    pub min_requests: u32,
    /// `error_percent`: opens when so many of them failed.
    pub error_percent: Option<u8>,
    /// `slow_request_time` and `max_slow_requests`
    pub slow: Option<SlowRequests>,
    /// `break_duration`: how long it is open. Default 30 s.
    pub break_duration: Duration,
    /// `status`: of its answers. Default 503.
    pub status: u16,
    /// `body`: of its answers. Default `circuit breaker is open`.
    pub body: String,
    /// `headers`: of its answers. Default `x-circuit-breaker: open`.
    pub headers: Vec<(HeaderName, String)>,
    /// `grpc_status`: of its answers to gRPC calls. Default 14.
    pub grpc_status: u8,
}

/// Which requests are slow, and how many may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowRequests {
    /// `slow_request_time`: from the end of the request to the head of the answer, all tries and waits.
    pub time: Duration,
    /// `max_slow_requests`: opens when more are in the window.
    pub max_requests: u32,
}

impl Default for Breaker {
    /// One that never opens.
    fn default() -> Breaker {
        Breaker {
            window: Duration::from_secs(10),
            min_requests: 20,
            error_percent: None,
            slow: None,
            break_duration: Duration::from_secs(30),
            status: 503,
            body: "circuit breaker is open".to_owned(),
            headers: HeaderName::new("x-circuit-breaker").map(|name| (name, "open".to_owned())).into_iter().collect(),
            grpc_status: grpc::UNAVAILABLE,
        }
    }
}
