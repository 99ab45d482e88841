//! Retries.

use serde_json::{Value, json};

use super::{duration, duration_or_none};
use crate::config::model::{Retry, RetryBudget, RetryOn};

pub(super) fn view_retry(retry: &Retry) -> Value {
    let Retry {
        attempts,
        on,
        statuses,
        non_idempotent,
        per_try_timeout,
        backoff,
        max_backoff,
        body_bytes,
        attempt_count_in_request,
        attempt_count_in_response,
    } = retry;
    json!({
        "attempts": attempts,
        "on": on.iter().map(|on| view_on(*on)).collect::<Vec<_>>(),
        "statuses": statuses,
        "non_idempotent": non_idempotent,
        "per_try_timeout": duration_or_none(*per_try_timeout),
        "backoff": duration(*backoff),
        "max_backoff": duration(*max_backoff),
        "body_bytes": body_bytes,
        "attempt_count_in_request": attempt_count_in_request,
        "attempt_count_in_response": attempt_count_in_response,
    })
}

pub(super) fn view_budget(RetryBudget { percent, min_retries }: &RetryBudget) -> Value {
    json!({ "percent": percent, "min_retries": min_retries })
}

fn view_on(on: RetryOn) -> &'static str {
    match on {
        RetryOn::ServerError => "5xx",
        RetryOn::GatewayError => "gateway-error",
        RetryOn::ConnectFailure => "connect-failure",
        RetryOn::RefusedStream => "refused-stream",
        RetryOn::Reset => "reset",
        RetryOn::Retriable4xx => "retriable-4xx",
        RetryOn::Cancelled => "cancelled",
        RetryOn::DeadlineExceeded => "deadline-exceeded",
        RetryOn::ResourceExhausted => "resource-exhausted",
        RetryOn::Internal => "internal",
        RetryOn::Unavailable => "unavailable",
    }
}
