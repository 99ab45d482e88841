//! Whether a request is sent again, and how long to wait before that. The conditions are those of Envoy's
//! `x-envoy-retry-on` and `x-envoy-retry-grpc-on`, but what may have had an effect is sent again only when it may be
//! repeated (RFC 9110 §9.2.2).

use std::time::Duration;

use crate::config::model::{Retry, RetryOn};
use crate::proto::grpc;
use crate::proto::head::{Headers, Known, ResponseHead};

/// Why a try has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection. The request has not been sent.
    Connect,
    /// The origin says that it has not looked at the request.
    Refused,
    /// The connection or stream ended before an answer.
    Reset,
    /// The time for one try is over.
    TryTimeout,
}

/// Whether to try again after a try without an answer. `repeatable`: the request may be sent twice.
pub fn after_failure(retry: &Retry, failure: Failure, repeatable: bool) -> bool {
    use RetryOn as On;
    let on = |on: On| retry.on.contains(&on);
    // Envoy counts every end without an answer as a reset, and as the 503 or 504 that it would make of it.
    let any = on(On::Reset) || on(On::GatewayError) || on(On::ServerError);
    match failure {
        Failure::Connect => any || on(On::ConnectFailure),
        Failure::Refused => any || on(On::RefusedStream),
        Failure::Reset | Failure::TryTimeout => any && repeatable,
    }
}

/// Whether to try again after this answer. That of a gRPC call without messages has its status in the head.
pub fn after_answer(retry: &Retry, answer: &ResponseHead, repeatable: bool) -> bool {
    let on = |on: RetryOn| retry.on.contains(&on);
    let status = answer.status;
    if status < 400 {
        return answer.headers.get(&Known::GrpcStatus).and_then(grpc_condition).is_some_and(on);
    }
    repeatable
        && (retry.statuses.contains(&status)
            || status >= 500 && on(RetryOn::ServerError)
            || matches!(status, 502..=504) && on(RetryOn::GatewayError)
            || status == 409 && on(RetryOn::Retriable4xx))
}

fn grpc_condition(status: &[u8]) -> Option<RetryOn> {
    let status = str::from_utf8(status).ok()?.parse().ok()?;
    Some(match status {
        grpc::CANCELLED => RetryOn::Cancelled,
        grpc::DEADLINE_EXCEEDED => RetryOn::DeadlineExceeded,
        grpc::RESOURCE_EXHAUSTED => RetryOn::ResourceExhausted,
        grpc::INTERNAL => RetryOn::Internal,
        grpc::UNAVAILABLE => RetryOn::Unavailable,
        _ => return None,
    })
}

/// How long to wait before retry number `number`, from 1: a part of (2^number - 1) × `backoff` that `random`, evenly
/// distributed over all its values, stands for. As Envoy's, so clients that failed together do not come back together.
pub fn backoff(retry: &Retry, number: u32, random: u32) -> Duration {
    let factor = 2u32.saturating_pow(number) - 1;
    let longest = retry.backoff.saturating_mul(factor).min(retry.max_backoff);
    longest.mul_f64(f64::from(random) / 2f64.powi(32))
}

/// How long the origin asks to be left alone (RFC 9110 §10.2.3). One that names a date rather than a number of seconds
/// means long.
pub fn retry_after(headers: &Headers) -> Option<Duration> {
    let value = headers.get(&Known::RetryAfter)?;
    let seconds = str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok());
    Some(seconds.map_or(Duration::MAX, Duration::from_secs))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(on: &[RetryOn]) -> Retry {
        Retry { on: on.to_vec(), ..Retry::default() }
    }

    #[test]
    fn failures_are_retried_where_the_route_says_so_and_when_nothing_can_happen_twice() {
        use Failure::{Connect, Refused, Reset, TryTimeout};
        // The conditions; what is retried of a request that may be repeated, and of one that may not.
        let cases: &[(&[RetryOn], &[Failure], &[Failure])] = &[
            (&[], &[], &[]),
            (&[RetryOn::ConnectFailure], &[Connect], &[Connect]),
            (&[RetryOn::RefusedStream], &[Refused], &[Refused]),
            (&[RetryOn::Reset], &[Connect, Refused, Reset, TryTimeout], &[Connect, Refused]),
            (&[RetryOn::GatewayError], &[Connect, Refused, Reset, TryTimeout], &[Connect, Refused]),
            (&[RetryOn::ServerError], &[Connect, Refused, Reset, TryTimeout], &[Connect, Refused]),
            (&[RetryOn::Retriable4xx, RetryOn::Unavailable], &[], &[]),
        ];
        for (conditions, repeatable, other) in cases {
            for failure in [Connect, Refused, Reset, TryTimeout] {
                let retries = |repeatable| after_failure(&on(conditions), failure, repeatable);
                assert_eq!(retries(true), repeatable.contains(&failure), "{conditions:?} {failure:?}");
                assert_eq!(retries(false), other.contains(&failure), "{conditions:?} {failure:?}, not repeatable");
            }
        }
    }

    #[test]
    fn answers_are_retried_by_their_status() {
        let cases: &[(&[RetryOn], &[u16], &[u16])] = &[
            (&[RetryOn::ServerError], &[500, 501, 502, 503, 504, 599], &[200, 404, 409, 429]),
            (&[RetryOn::GatewayError], &[502, 503, 504], &[500, 501, 505]),
            (&[RetryOn::Retriable4xx], &[409], &[408, 429, 500]),
            (&[RetryOn::ConnectFailure, RetryOn::Reset, RetryOn::Unavailable], &[], &[503]),
        ];
        let answer = |status| ResponseHead { status, ..ResponseHead::default() };
        for (conditions, retried, passed_on) in cases {
            for status in retried.iter().chain(*passed_on) {
                let retries = |repeatable| after_answer(&on(conditions), &answer(*status), repeatable);
                assert_eq!(retries(true), retried.contains(status), "{conditions:?} {status}");
                assert!(!retries(false), "{conditions:?} {status}, not repeatable");
            }
        }
        let retry = Retry { statuses: vec![429], ..on(&[]) };
        assert!(after_answer(&retry, &answer(429), true) && !after_answer(&retry, &answer(503), true));
    }

    #[test]
    fn grpc_calls_are_retried_by_their_status_whatever_their_method() {
        let cases: &[(&str, Option<RetryOn>)] = &[
            ("0", None),
            ("1", Some(RetryOn::Cancelled)),
            ("2", None),
            ("4", Some(RetryOn::DeadlineExceeded)),
            ("8", Some(RetryOn::ResourceExhausted)),
            ("13", Some(RetryOn::Internal)),
            ("14", Some(RetryOn::Unavailable)),
            ("fourteen", None),
        ];
        for (status, condition) in cases {
            let mut answer = ResponseHead { status: 200, ..ResponseHead::default() };
            answer.headers.append(&Known::GrpcStatus, status.as_bytes());
            for on_one in [RetryOn::Cancelled, RetryOn::DeadlineExceeded, RetryOn::Internal, RetryOn::Unavailable] {
                let expected = *condition == Some(on_one);
                assert_eq!(after_answer(&on(&[on_one]), &answer, false), expected, "{status} {on_one:?}");
            }
        }
    }

    #[test]
    fn waits_grow_to_their_limit_and_are_spread_over_all_of_it() {
        let retry = Retry::default();
        let longest = |number| backoff(&retry, number, u32::MAX).as_secs_f64() * 1e3;
        let expected = [25.0, 75.0, 175.0, 250.0, 250.0, 250.0];
        for (number, expected) in (1..).zip(expected) {
            assert!((longest(number) - expected).abs() < 0.001, "{number}: {}", longest(number));
            assert_eq!(backoff(&retry, number, 0), Duration::ZERO);
        }
        assert!((backoff(&retry, 1, 1 << 31).as_secs_f64() - 0.0125).abs() < 1e-6);
        assert!(backoff(&retry, u32::MAX, u32::MAX) <= retry.max_backoff);
    }

    #[test]
    fn retry_after_is_seconds_and_a_date_is_long() {
        let asked = |value: &str| {
            let mut headers = Headers::default();
            headers.append(&Known::RetryAfter, value.as_bytes());
            retry_after(&headers)
        };
        assert_eq!(asked("3"), Some(Duration::from_secs(3)));
        assert_eq!(asked("Wed, 21 Oct 2026 07:28:00 GMT"), Some(Duration::MAX));
        assert_eq!(retry_after(&Headers::default()), None);
    }
}
