//! Limits that a service counts: what it is asked, and what its answer does to a request and its response. Envoy's
//! `envoy.filters.http.ratelimit` decides all of this, down to the words.

use std::fmt;
use std::fmt::Write as _;
use std::time::Duration;

use crate::config::model::{GlobalRateLimit, LimitUnit};
use crate::filter::limits::unit_of_code;
use crate::proto::grpc;
use crate::proto::head::{BodyLength, HeaderName, Headers, Known, Method, Name as _, RequestHead, ResponseHead};
use crate::proto::head::{Version, is_value_byte};
use crate::proto::rate_limit_service::{Code, DescriptorStatus, HeaderValue, RateLimitResponse, SHOULD_RATE_LIMIT};

/// Longest answer that is read. What a service says of 32 descriptors takes 2 KiB; the rest is for fields and a body.
pub const ANSWER_BYTES: usize = 64 << 10;

/// The head of every question to the service of `cluster`.
pub fn question(cluster: &str, timeout: Duration) -> RequestHead {
    // Envoy's authority too is the cluster's name. A name may have bytes that no authority has.
    let host = |byte: u8| if byte.is_ascii_alphanumeric() || b".-".contains(&byte) { byte } else { b'-' };
    let mut headers = Headers::default();
    headers.append(&Known::ContentType, b"application/grpc");
    headers.append(&Known::Te, b"trailers");
    let timeout_ms = timeout.as_millis().min(grpc::TIMEOUT_MAX);
    headers.append(&Known::GrpcTimeout, format!("{timeout_ms}m").as_bytes());
    RequestHead {
        method: Method::Post,
        version: Version::Http2,
        authority: cluster.bytes().map(host).collect(),
        target: SHOULD_RATE_LIMIT.into(),
        headers,
        body: BodyLength::Streamed,
    }
}

/// Why an answer is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadAnswer {
    /// The HTTP status is not 200.
    Http(u16),
    /// The gRPC status is not 0. Empty: there is none.
    Grpc(String),
    /// There is no message of the service in it.
    Garbage,
}

impl fmt::Display for BadAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadAnswer::Http(status) => write!(f, "it answers with HTTP status {status}"),
            BadAnswer::Grpc(status) if status.is_empty() => f.write_str("it gives no gRPC status"),
            BadAnswer::Grpc(status) => write!(f, "it answers with gRPC status {status}"),
            BadAnswer::Garbage => f.write_str("what it answers is no RateLimitResponse"),
        }
    }
}

/// Reads an answer of the service.
pub fn read_answer(head: &ResponseHead, body: &[u8], trailers: &Headers) -> Result<RateLimitResponse, BadAnswer> {
    if head.status != 200 {
        return Err(BadAnswer::Http(head.status));
    }
    // A call that fails at once has the status in its head.
    let status = trailers.get(&Known::GrpcStatus).or_else(|| head.headers.get(&Known::GrpcStatus));
    match status {
        Some(b"0") => grpc::decode_frame(body).ok_or(BadAnswer::Garbage),
        status => Err(BadAnswer::Grpc(String::from_utf8_lossy(status.unwrap_or_default()).into_owned())),
    }
}

/// Whether the request is over a limit. No code means that it is not, as in Envoy.
pub fn is_over(answer: &RateLimitResponse) -> bool {
    answer.overall_code() == Code::OverLimit
}

/// Adds the fields that the service wants origins to get.
pub fn add_to_request(answer: &RateLimitResponse, headers: &mut Headers) {
    for (name, value) in answer.request_headers_to_add.iter().filter_map(addable) {
        headers.append(&name, value);
    }
}

/// The fields that the client's response gets, whoever answers.
pub fn response_fields(settings: &GlobalRateLimit, answer: &RateLimitResponse) -> Headers {
    let mut fields = Headers::default();
    for (name, value) in answer.response_headers_to_add.iter().filter_map(addable) {
        // It is about the body of a refusal; see `content_type`.
        if name.known() != Known::ContentType {
            fields.append(&name, value);
        }
    }
    if settings.ratelimited_header && is_over(answer) {
        fields.append_raw(b"x-envoy-ratelimited", b"true");
    }
    if settings.ratelimit_headers {
        append_allowance(&answer.statuses, &mut fields);
    }
    fields
}

/// What the body of a refusal is.
pub fn content_type(answer: &RateLimitResponse) -> &[u8] {
    let mut given = answer
        .response_headers_to_add
        .iter()
        .filter(|field| field.key.eq_ignore_ascii_case("content-type") && addable(field).is_some());
    given.next().map_or(b"text/plain", HeaderValue::bytes)
}

/// A field that a message can get. Those that say where it ends, or that are about one connection, are the gateway's.
fn addable(field: &HeaderValue) -> Option<(HeaderName, &[u8])> {
    let name = HeaderName::new(&field.key)?;
    let is_ours = matches!(
        name.known(),
        Known::Host
            | Known::ContentLength
            | Known::TransferEncoding
            | Known::Trailer
            | Known::Connection
            | Known::KeepAlive
            | Known::ProxyConnection
            | Known::Te
            | Known::Upgrade
            | Known::Expect
    );
    let value = field.bytes();
    (!is_ours && value.iter().copied().all(is_value_byte)).then_some((name, value))
}

/// `x-ratelimit-*` of draft-polli-ratelimit-headers-03: the limit with least left, behind it the windows of all.
fn append_allowance(statuses: &[DescriptorStatus], fields: &mut Headers) {
    let limits = || statuses.iter().filter_map(|status| Some((status, status.current_limit.as_ref()?)));
    let Some((least, limit)) = limits().min_by_key(|(status, _)| status.limit_remaining) else { return };
    let mut text = limit.requests_per_unit.to_string();
    for (_, limit) in limits() {
        let Some(window_s) = unit_of_code(limit.unit()).map(LimitUnit::seconds) else { continue };
        // A String grows as needed.
        let _ = write!(text, ", {};w={window_s}", limit.requests_per_unit);
        if !limit.name.is_empty() {
            let _ = write!(text, ";name=\"{}\"", limit.name);
        }
    }
    if !text.bytes().all(is_value_byte) {
        text = limit.requests_per_unit.to_string();
    }
    let reset_s = least.duration_until_reset.map_or(0, |until| until.seconds);
    let mut number = itoa::Buffer::new();
    fields.append_raw(b"x-ratelimit-limit", text.as_bytes());
    fields.append_raw(b"x-ratelimit-remaining", number.format(least.limit_remaining).as_bytes());
    fields.append_raw(b"x-ratelimit-reset", number.format(reset_s).as_bytes());
}

#[cfg(test)]
mod tests;
