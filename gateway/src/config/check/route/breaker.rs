//! `breaker` of a route.

use std::time::Duration;

use super::headers::header_fields;
use crate::config::check::destination::Destination;
use crate::config::decode::{Map, Optional};
use crate::config::model::{Breaker, SlowRequests};
use crate::config::raw;
use crate::config::report::Diagnostics;
use crate::config::span::At;
use crate::config::value::{HeaderValue, PositiveDuration};
use crate::proto::head::HeaderName;

/// A tenth of the shortest is still longer than a tick of the clock; in the longest, a bucket is full at
/// 280 000 requests a second.
const WINDOW: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(10 * 60);

/// Checks when a route answers in place of its endpoints. `Some(None)` when it never does.
pub fn breaker(
    given: Optional<raw::Breaker>,
    destination: &Destination,
    diagnostics: &mut Diagnostics,
) -> Option<Option<Breaker>> {
    let Some(At { value: raw, span }) = given else { return Some(None) };
    let default = Breaker::default();
    if destination.spans() == [None, None] {
        diagnostics.error(span, "`breaker` needs `cluster` or `clusters`: it looks at what their endpoints answer");
    }
    if raw.error_percent.is_none() && raw.slow_request_time.is_none() {
        diagnostics.error(span, "this breaker never opens").help("add `error_percent`, `slow_request_time` or both");
    }
    if let (None, Some(most)) = (&raw.slow_request_time, &raw.max_slow_requests) {
        let help = "say what is slow";
        diagnostics.error(most.span, "`max_slow_requests` needs `slow_request_time`").help(help);
    }
    let max_requests = raw.max_slow_requests.map_or(0, |count| count.value.0);
    let headers = headers(raw.headers, default.headers, diagnostics);
    Some(Some(Breaker {
        window: window(raw.window, default.window, diagnostics),
        min_requests: raw.min_requests.map_or(default.min_requests, |count| count.value.0),
        error_percent: match raw.error_percent {
            Some(percent) => Some(percent.value.0?.0),
            None => None,
        },
        slow: match raw.slow_request_time {
            Some(time) => Some(SlowRequests { time: time.value.0?.0, max_requests }),
            None => None,
        },
        break_duration: raw.break_duration.map_or(default.break_duration, |time| time.value.0),
        status: raw.status.map_or(default.status, |status| status.value.0),
        body: raw.body.map_or(default.body, |body| body.value),
        headers: headers?,
        grpc_status: raw.grpc_status.map_or(default.grpc_status, |status| status.value.0),
    }))
}

fn window(given: Optional<PositiveDuration>, default: Duration, diagnostics: &mut Diagnostics) -> Duration {
    let Some(given) = given else { return default };
    if !WINDOW.contains(&given.value.0) {
        diagnostics.error(given.span, "out of range: must be between 1s and 10m");
    }
    given.value.0
}

fn headers(
    given: Optional<Map<HeaderValue>>,
    default: Vec<(HeaderName, String)>,
    diagnostics: &mut Diagnostics,
) -> Option<Vec<(HeaderName, String)>> {
    let Some(given) = given else { return Some(default) };
    header_fields(given.value.0.into_iter().map(|(name, value)| (name, vec![value])).collect(), diagnostics)
}
