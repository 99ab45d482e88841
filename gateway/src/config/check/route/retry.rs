//! `retry` of `[[route]]`

use super::super::reject_empty;
use crate::config::decode::Optional;
use crate::config::model::{Retry, RetryOn};
use crate::config::raw;
use crate::config::report::Diagnostics;

/// Checks when requests are sent again.
pub fn retry(given: Optional<raw::Retry>, diagnostics: &mut Diagnostics) -> Retry {
    let Some(raw) = given.map(|table| table.value) else { return Retry::unless_said() };
    let default = Retry::default();
    if let Some(on) = &raw.on {
        reject_empty(on, "on", "connect-failure, refused-stream, unavailable and cancelled", diagnostics);
    }
    let backoff = raw.backoff.map_or(default.backoff, |time| time.value.0);
    let max_backoff = match raw.max_backoff {
        None => backoff * 10,
        Some(longest) if longest.value.0 < backoff => {
            diagnostics.error(longest.span, "`max_backoff` is shorter than `backoff`");
            backoff
        }
        Some(longest) => longest.value.0,
    };
    let on: Vec<RetryOn> =
        raw.on.map_or(default.on, |list| list.value.into_iter().map(|condition| condition.value).collect());
    let per_try_timeout = raw.per_try_timeout.map(|time| time.value.0);
    let retries_timeouts =
        on.iter().any(|on| matches!(on, RetryOn::Reset | RetryOn::GatewayError | RetryOn::ServerError));
    if let (Some(given), false) = (raw.per_try_timeout, retries_timeouts) {
        let help = "add \"reset\", \"gateway-error\" or \"5xx\" to `on`";
        diagnostics.warning(given.span, "a try that takes too long is not sent again").help(help);
    }
    Retry {
        attempts: raw.attempts.map_or(default.attempts, |count| count.value.0),
        on,
        statuses: raw.statuses.map_or_else(Vec::new, |list| list.value.into_iter().map(|code| code.value.0).collect()),
        non_idempotent: raw.non_idempotent.is_some_and(|flag| flag.value),
        per_try_timeout,
        backoff,
        max_backoff,
        body_bytes: raw.body_bytes.map_or(default.body_bytes, |size| size.value.0 as usize),
        attempt_count_in_request: raw.attempt_count_in_request.is_some_and(|flag| flag.value),
        attempt_count_in_response: raw.attempt_count_in_response.is_some_and(|flag| flag.value),
    }
}
