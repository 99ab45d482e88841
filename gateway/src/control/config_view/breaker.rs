//! Breakers of routes.

use serde_json::{Value, json};

use super::{duration, view_fields};
use crate::config::model::{Breaker, SlowRequests};

pub(super) fn view_breaker(breaker: &Breaker) -> Value {
    let Breaker { window, min_requests, error_percent, slow, break_duration, status, body, headers, grpc_status } =
        breaker;
    json!({
        "window": duration(*window),
        "min_requests": min_requests,
        "error_percent": error_percent,
        "slow_request_time": slow.map(|SlowRequests { time, .. }| duration(time)),
        "max_slow_requests": slow.map(|SlowRequests { max_requests, .. }| max_requests),
        "break_duration": duration(*break_duration),
        "status": status,
        "body": body,
        "headers": view_fields(headers),
        "grpc_status": grpc_status,
    })
}
