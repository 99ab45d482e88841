use super::*;
use crate::config::model::{ClusterId, Judge, When};
use crate::proto::rate_limit_service::{self, RateLimit, Unit};

fn settings(ratelimit_headers: bool, ratelimited_header: bool) -> GlobalRateLimit {
    GlobalRateLimit {
        name: "limit".into(),
        when: When::default(),
        domain: "shop".into(),
        judge: Judge::Service { cluster: ClusterId(0), timeout: Duration::from_millis(20) },
        descriptors: vec![],
        status: 429,
        headers: vec![],
        grpc_resource_exhausted: false,
        ratelimit_headers,
        ratelimited_header,
        deny_on_error: false,
        status_on_error: 500,
    }
}

fn lines(headers: &Headers) -> Vec<String> {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    headers.iter().map(|(_, name, value)| format!("{}: {}", text(name), text(value))).collect()
}

fn field(key: &str, value: &str) -> HeaderValue {
    HeaderValue { key: key.into(), value: value.into(), ..HeaderValue::default() }
}

type Limit<'a> = (u32, Unit, &'a str);

fn status(limit: Option<Limit<'_>>, limit_remaining: u32, reset_s: i64) -> DescriptorStatus {
    let current_limit = limit.map(|(requests_per_unit, unit, name)| RateLimit {
        name: name.into(),
        requests_per_unit,
        unit: unit.into(),
    });
    let duration_until_reset = Some(rate_limit_service::Duration { seconds: reset_s, nanos: 5 });
    DescriptorStatus { code: Code::Ok.into(), current_limit, limit_remaining, duration_until_reset }
}

#[test]
fn a_question_is_a_grpc_call_to_the_cluster() {
    let head = question("edge/limits_1.b", Duration::from_millis(20));
    assert_eq!(head.authority, b"edge-limits-1.b");
    assert_eq!(head.target, b"/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit");
    assert_eq!(lines(&head.headers), ["content-type: application/grpc", "te: trailers", "grpc-timeout: 20m"]);
    let timeout = |duration| question("a", duration).headers.get(&Known::GrpcTimeout).map(<[u8]>::to_vec);
    assert_eq!(timeout(Duration::from_secs(1 << 40)).unwrap(), b"99999999m");
}

#[test]
fn an_answer_counts_only_when_the_call_succeeded() {
    let good = grpc::encode_frame(&RateLimitResponse { overall_code: 2, ..RateLimitResponse::default() });
    let grpc = |status: &str| Err(BadAnswer::Grpc(status.into()));
    // HTTP status, grpc-status of head and trailers, body, what is over or wrong.
    type Case<'a> = (u16, Option<&'a str>, Option<&'a str>, &'a [u8], Result<bool, BadAnswer>);
    let cases: &[Case<'_>] = &[
        (200, None, Some("0"), &good, Ok(true)),
        (200, None, Some("0"), b"\0\0\0\0\0", Ok(false)),
        (200, None, Some("0"), b"\0\0\0\0\x02\x08\x00", Ok(false)),
        (200, None, Some("0"), b"\0\0\0\0\x02\x08\x63", Ok(false)),
        (200, None, Some("0"), b"", Err(BadAnswer::Garbage)),
        (200, None, Some("0"), b"over limit", Err(BadAnswer::Garbage)),
        (200, None, Some("0"), &[&good[..], &good].concat(), Err(BadAnswer::Garbage)),
        (200, None, None, &good, grpc("")),
        (200, None, Some("14"), &good, grpc("14")),
        (200, Some("12"), None, b"", grpc("12")),
        (200, Some("0"), Some("2"), &good, grpc("2")),
        (503, None, Some("0"), &good, Err(BadAnswer::Http(503))),
    ];
    for (http, in_head, in_trailers, body, expected) in cases {
        let mut head = ResponseHead { status: *http, ..ResponseHead::default() };
        let mut trailers = Headers::default();
        in_head.iter().for_each(|status| head.headers.append(&Known::GrpcStatus, status.as_bytes()));
        in_trailers.iter().for_each(|status| trailers.append(&Known::GrpcStatus, status.as_bytes()));
        let answer = read_answer(&head, body, &trailers);
        assert_eq!(&answer.as_ref().map(is_over).map_err(Clone::clone), expected, "{http} {in_trailers:?} {body:?}");
    }
}

#[test]
fn fields_of_the_service_reach_both_sides_but_for_those_that_frame_a_message() {
    let fields = || {
        vec![
            field("X-One", "1"),
            field("x-one", "2"),
            HeaderValue { raw_value: b"\xff".to_vec().into(), ..field("x-raw", "") },
            field("content-type", "application/json"),
            field("content-length", "0"),
            field("Transfer-Encoding", "chunked"),
            field("host", "other"),
            field("connection", "close"),
            field(":path", "/admin"),
            field("", "x"),
            field("x-split", "a\r\nset-cookie: b"),
        ]
    };
    let answer = RateLimitResponse {
        overall_code: Code::Ok.into(),
        response_headers_to_add: fields(),
        request_headers_to_add: fields(),
        ..RateLimitResponse::default()
    };
    let mut request = Headers::default();
    request.append_raw(b"x-one", b"0");
    add_to_request(&answer, &mut request);
    let plain = ["x-one: 1", "x-one: 2", "x-raw: \u{fffd}"];
    assert_eq!(lines(&request), [&["x-one: 0"][..], &plain, &["content-type: application/json"]].concat());
    assert_eq!(lines(&response_fields(&settings(false, true), &answer)), plain);
    assert_eq!(content_type(&answer), b"application/json");
    assert_eq!(content_type(&RateLimitResponse::default()), b"text/plain");
}

#[test]
fn a_refusal_says_that_it_is_one_unless_it_must_not() {
    for (code, header, expected) in
        [(Code::OverLimit, true, true), (Code::OverLimit, false, false), (Code::Ok, true, false)]
    {
        let answer = RateLimitResponse { overall_code: code.into(), ..RateLimitResponse::default() };
        let fields = lines(&response_fields(&settings(true, header), &answer));
        assert_eq!(fields, Vec::from_iter(expected.then_some("x-envoy-ratelimited: true")), "{code:?} {header}");
    }
}

#[test]
fn the_limit_with_least_left_is_told_with_the_windows_of_all() {
    let minute = Some((10, Unit::Minute, "per-ip"));
    let hour = Some((1_000, Unit::Hour, ""));
    type Case<'a> = (Vec<DescriptorStatus>, &'a [&'a str]);
    let cases: [Case<'_>; 7] = [
        (vec![], &[]),
        (vec![status(None, 0, 1)], &[]),
        (
            vec![status(minute, 3, 20)],
            &["x-ratelimit-limit: 10, 10;w=60;name=\"per-ip\"", "x-ratelimit-remaining: 3", "x-ratelimit-reset: 20"],
        ),
        (
            vec![status(None, 0, 1), status(hour, 7, 900), status(minute, 3, 20)],
            &[
                "x-ratelimit-limit: 10, 1000;w=3600, 10;w=60;name=\"per-ip\"",
                "x-ratelimit-remaining: 3",
                "x-ratelimit-reset: 20",
            ],
        ),
        // Of two with as much left, the first.
        (
            vec![status(hour, 3, 900), status(Some((5, Unit::Unknown, "x")), 3, 20)],
            &["x-ratelimit-limit: 1000, 1000;w=3600", "x-ratelimit-remaining: 3", "x-ratelimit-reset: 900"],
        ),
        (
            vec![status(Some((1, Unit::Week, "")), 0, 5), status(Some((2, Unit::Year, "")), 1, 5)],
            &["x-ratelimit-limit: 1, 1;w=604800, 2;w=31536000", "x-ratelimit-remaining: 0", "x-ratelimit-reset: 5"],
        ),
        (
            vec![status(Some((4, Unit::Second, "a\r\nb")), 0, 1)],
            &["x-ratelimit-limit: 4", "x-ratelimit-remaining: 0", "x-ratelimit-reset: 1"],
        ),
    ];
    for (statuses, expected) in cases {
        let answer = RateLimitResponse { statuses, ..RateLimitResponse::default() };
        assert_eq!(lines(&response_fields(&settings(true, true), &answer)), expected);
        assert!(response_fields(&settings(false, true), &answer).is_empty());
    }
}
