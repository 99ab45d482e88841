//! `retry` of a route: when a request is sent again.

use std::time::Duration;

/// `retry`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// `attempts`: how often a request is sent again at most. Default 2 (Istio's).
    pub attempts: u32,
    /// `on`
    pub on: Vec<RetryOn>,
    /// `statuses`: answers that are asked for again.
    pub statuses: Vec<u16>,
    /// `non_idempotent`: whether what may have had an effect is sent again whatever its method is. Default no.
    pub non_idempotent: bool,
    /// `per_try_timeout`: from the end of the request, or the begin of a retry, to the answer's head.
    pub per_try_timeout: Option<Duration>,
    /// `backoff`: the wait before the first retry is shorter than this; before later ones it may be longer. Default 25 ms
    /// (Envoy's `base_interval`).
    pub backoff: Duration,
    /// `max_backoff`: longest wait, and longest `retry-after` of an origin that is waited for. Default ten times `backoff`.
    pub max_backoff: Duration,
    /// `body_bytes`: longest request body that is kept to be sent again. Default 64 KiB.
    pub body_bytes: usize,
    /// `attempt_count_in_request`: whether `x-envoy-attempt-count` tells the endpoint how often the request has been sent
    /// (Envoy's `include_request_attempt_count`). Default no.
    pub attempt_count_in_request: bool,
    /// `attempt_count_in_response`: whether it tells the client (Envoy's `include_attempt_count_in_response`). Default no.
    pub attempt_count_in_response: bool,
}

/// Why a request is sent again: Envoy's `retry_on` and `retry_grpc_on`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryOn {
    /// `5xx`: an answer of 500 to 599, or none.
    ServerError,
    /// `gateway-error`: an answer of 502, 503 or 504, or none.
    GatewayError,
    /// `connect-failure`: no connection.
    ConnectFailure,
    /// `refused-stream`: the origin says that it has not looked at the request.
    RefusedStream,
    /// `reset`: the connection or stream ended before an answer, or `per_try_timeout` passed.
    Reset,
    /// `retriable-4xx`: an answer of 409.
    Retriable4xx,
    /// `cancelled`: gRPC status 1, in an answer without messages.
    Cancelled,
    /// `deadline-exceeded`: gRPC status 4.
    DeadlineExceeded,
    /// `resource-exhausted`: gRPC status 8.
    ResourceExhausted,
    /// `internal`: gRPC status 13.
    Internal,
    /// `unavailable`: gRPC status 14.
    Unavailable,
}

impl Retry {
    /// Of a route that says nothing of it: what is safe for any request. No body is kept.
    pub fn unless_said() -> Retry {
        Retry { body_bytes: 0, ..Retry::default() }
    }
}

impl Default for Retry {
    fn default() -> Retry {
        let backoff = Duration::from_millis(25);
        Retry {
            attempts: 2,
            on: vec![RetryOn::ConnectFailure, RetryOn::RefusedStream, RetryOn::Unavailable, RetryOn::Cancelled],
            statuses: Vec::new(),
            non_idempotent: false,
            per_try_timeout: None,
            backoff,
            max_backoff: backoff * 10,
            body_bytes: 64 * 1024,
            attempt_count_in_request: false,
            attempt_count_in_response: false,
        }
    }
}

/// `retry_budget` of a cluster: how many retries it may have in progress, over all workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// `percent`: of the requests in progress. Default 20 (Envoy's `budget_percent`).
    pub percent: u8,
    /// `min_retries`: as many in any case. Default 3 (Envoy's `min_retry_concurrency`).
    pub min_retries: u32,
}

impl Default for RetryBudget {
    fn default() -> RetryBudget {
        RetryBudget { percent: 20, min_retries: 3 }
    }
}
