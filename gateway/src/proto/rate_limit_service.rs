//! Messages of `envoy.service.ratelimit.v3.RateLimitService`, for its clients and for who answers it.
//!
//! Left out are the fields that Envoy's own client does not read (`quota`) and those about a metadata store that the
//! gateway does not have (`dynamic_metadata`): unknown fields are skipped.

use prost::{Enumeration, Message};

/// The path of the service's only call.
pub const SHOULD_RATE_LIMIT: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";

/// `envoy.service.ratelimit.v3.RateLimitRequest`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RateLimitRequest {
    /// Whose limits are meant.
    #[prost(string, tag = "1")]
    pub domain: String,
    /// What is counted: each by itself, and one that is over its limit is enough.
    #[prost(message, repeated, tag = "2")]
    pub descriptors: Vec<RateLimitDescriptor>,
    /// How many hits the request is; 0 is one.
    #[prost(uint32, tag = "3")]
    pub hits_addend: u32,
}

/// `envoy.extensions.common.ratelimit.v3.RateLimitDescriptor`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RateLimitDescriptor {
    /// Keys and values, the most general first.
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<Entry>,
    /// The limit to use in place of the service's.
    #[prost(message, optional, tag = "2")]
    pub limit: Option<LimitOverride>,
    /// How many hits the request is of this descriptor, in place of the request's number. `google.protobuf.UInt64Value`.
    #[prost(message, optional, tag = "3")]
    pub hits_addend: Option<u64>,
    /// Whether the hits are given back.
    #[prost(bool, tag = "4")]
    pub is_negative_hits: bool,
}

/// `envoy.extensions.common.ratelimit.v3.RateLimitDescriptor.Entry`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Entry {
    /// What is meant.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Its value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// `envoy.extensions.common.ratelimit.v3.RateLimitDescriptor.RateLimitOverride`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct LimitOverride {
    /// Requests per unit.
    #[prost(uint32, tag = "1")]
    pub requests_per_unit: u32,
    /// The unit of time.
    #[prost(enumeration = "Unit", tag = "2")]
    pub unit: i32,
}

/// `envoy.service.ratelimit.v3.RateLimitResponse`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RateLimitResponse {
    /// The verdict over all descriptors.
    #[prost(enumeration = "Code", tag = "1")]
    pub overall_code: i32,
    /// One for each descriptor, in their order.
    #[prost(message, repeated, tag = "2")]
    pub statuses: Vec<DescriptorStatus>,
    /// Fields for the client's response.
    #[prost(message, repeated, tag = "3")]
    pub response_headers_to_add: Vec<HeaderValue>,
    /// Fields for the origin's request.
    #[prost(message, repeated, tag = "4")]
    pub request_headers_to_add: Vec<HeaderValue>,
    /// The body of the refusal.
    #[prost(bytes = "bytes", tag = "5")]
    pub raw_body: bytes::Bytes,
}

/// `envoy.service.ratelimit.v3.RateLimitResponse.DescriptorStatus`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DescriptorStatus {
    /// The verdict over this descriptor.
    #[prost(enumeration = "Code", tag = "1")]
    pub code: i32,
    /// Its limit, where it has one.
    #[prost(message, optional, tag = "2")]
    pub current_limit: Option<RateLimit>,
    /// Requests left in this unit of time.
    #[prost(uint32, tag = "3")]
    pub limit_remaining: u32,
    /// When a new unit of time begins.
    #[prost(message, optional, tag = "4")]
    pub duration_until_reset: Option<Duration>,
}

/// `envoy.service.ratelimit.v3.RateLimitResponse.RateLimit`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RateLimit {
    /// What the limit is called.
    #[prost(string, tag = "3")]
    pub name: String,
    /// Requests per unit.
    #[prost(uint32, tag = "1")]
    pub requests_per_unit: u32,
    /// The unit of time.
    #[prost(enumeration = "Unit", tag = "2")]
    pub unit: i32,
}

/// `envoy.config.core.v3.HeaderValue`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct HeaderValue {
    /// The field's name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Its value.
    #[prost(string, tag = "2")]
    pub value: String,
    /// Its value, where that need not be UTF-8; only one of both is there.
    #[prost(bytes = "bytes", tag = "3")]
    pub raw_value: bytes::Bytes,
}

impl HeaderValue {
    /// The value, whichever field it is in.
    pub fn bytes(&self) -> &[u8] {
        if self.raw_value.is_empty() { self.value.as_bytes() } else { &self.raw_value }
    }
}

/// `google.protobuf.Duration`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Duration {
    /// Whole seconds.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// What is left of a second, with the sign of the seconds.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

/// `envoy.service.ratelimit.v3.RateLimitResponse.Code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum Code {
    /// None was given.
    Unknown = 0,
    /// Under the limit.
    Ok = 1,
    /// Over it.
    OverLimit = 2,
}

/// `envoy.service.ratelimit.v3.RateLimitResponse.RateLimit.Unit`, and `envoy.type.v3.RateLimitUnit`, whose numbers are
/// the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum Unit {
    /// None was given.
    Unknown = 0,
    /// A second.
    Second = 1,
    /// A minute.
    Minute = 2,
    /// An hour.
    Hour = 3,
    /// A day.
    Day = 4,
    /// A month.
    Month = 5,
    /// A year.
    Year = 6,
    /// A week.
    Week = 7,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_the_bytes_that_protobuf_says() {
        let request = RateLimitRequest {
            domain: "d".into(),
            descriptors: vec![RateLimitDescriptor {
                entries: vec![Entry { key: "k".into(), value: "v".into() }],
                limit: Some(LimitOverride { requests_per_unit: 5, unit: Unit::Minute.into() }),
                hits_addend: Some(7),
                is_negative_hits: false,
            }],
            hits_addend: 3,
        };
        let entry = [0x0a, 6, 0x0a, 1, b'k', 0x12, 1, b'v'];
        let limit = [0x12, 4, 0x08, 5, 0x10, 2];
        let hits = [0x1a, 2, 0x08, 7];
        let descriptor = [&entry[..], &limit, &hits].concat();
        let bytes = [&[0x0a, 1, b'd', 0x12, descriptor.len() as u8], &*descriptor, &[0x18, 3]].concat();
        assert_eq!(request.encode_to_vec(), bytes);
        assert_eq!(RateLimitRequest::decode(&*bytes), Ok(request));
    }

    #[test]
    fn a_response_is_read_whatever_else_is_in_it() {
        let status = [0x08, 2, 0x12, 7, 0x08, 10, 0x10, 1, 0x1a, 1, b'n', 0x18, 4, 0x22, 2, 0x08, 30];
        let header = [0x0a, 1, b'h', 0x1a, 2, 0xff, b'x'];
        let mut bytes = vec![0x08, 2, 0x12, status.len() as u8];
        bytes.extend_from_slice(&status);
        bytes.extend_from_slice(&[0x1a, header.len() as u8]);
        bytes.extend_from_slice(&header);
        // A body, metadata (6), a quota (7).
        bytes.extend_from_slice(&[0x2a, 2, b'n', b'o', 0x32, 2, 0x0a, 0, 0x3a, 2, 0x08, 9]);
        let response = RateLimitResponse::decode(&*bytes).unwrap();
        assert_eq!(response.overall_code(), Code::OverLimit);
        let [status] = &*response.statuses else { panic!("{response:?}") };
        let limit = RateLimit { name: "n".into(), requests_per_unit: 10, unit: Unit::Second.into() };
        assert_eq!((status.code(), &status.current_limit), (Code::OverLimit, &Some(limit)));
        let reset = status.duration_until_reset.map(|duration| duration.seconds);
        assert_eq!((status.limit_remaining, reset), (4, Some(30)));
        assert_eq!(response.response_headers_to_add[0].bytes(), b"\xffx");
        assert_eq!(&*response.raw_body, b"no");
    }
}
