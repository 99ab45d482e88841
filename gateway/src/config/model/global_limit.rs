//! `global_rate_limit` of `filters`: limits that somebody else counts, for many gateways.

use std::time::Duration;

use super::{ClusterId, HeaderMatch, LimitSetId, Prefixes, When};
use crate::proto::head::HeaderName;

/// `global_rate_limit`
#[derive(Clone, Debug, PartialEq)]
pub struct GlobalRateLimit {
    /// `name`; when the file says none, where it stands. Unique over the whole file.
    pub name: String,
    /// `match`
    pub when: When,
    /// `domain`: whose limits are meant.
    pub domain: String,
    /// Who counts.
    pub judge: Judge,
    /// `descriptors`: what is counted, each by itself.
    pub descriptors: Vec<Vec<DescriptorAction>>,
    /// `status`: of a refusal (Envoy's `rate_limited_status`). Default 429.
    pub status: u16,
    /// `headers`: of a refusal (Envoy's `response_headers_to_add`).
    pub headers: Vec<(HeaderName, String)>,
    /// `grpc_resource_exhausted`: gRPC status 8 in place of 14 (Envoy's `rate_limited_as_resource_exhausted`). Default off.
    pub grpc_resource_exhausted: bool,
    /// `ratelimit_headers`: `x-ratelimit-*` (Envoy's `enable_x_ratelimit_headers: DRAFT_VERSION_03`). Default off.
    pub ratelimit_headers: bool,
    /// `ratelimited_header`: `x-envoy-ratelimited` on a refusal (not Envoy's `disable_x_envoy_ratelimited_header`). Default
    /// on.
    pub ratelimited_header: bool,
    /// `deny_on_error`: whether a request is refused when nobody says what becomes of it (Envoy's `failure_mode_deny`).
    /// Default off.
    pub deny_on_error: bool,
    /// `status_on_error`: of that refusal. Default 500.
    pub status_on_error: u16,
}

/// Who says whether a request is over a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judge {
    /// `cluster`: a service that speaks Envoy's rate limit protocol.
    Service {
        /// Where it is.
        cluster: ClusterId,
        /// `timeout`: how long its answer is waited for. Default 20 ms.
        timeout: Duration,
    },
    /// `limits`: the box itself.
    Limits(LimitSetId),
}

/// What one entry of a descriptor is made of: Envoy's actions but for `metadata`, which the gateway has none of.
#[derive(Clone, Debug, PartialEq)]
pub enum DescriptorAction {
    /// `source_cluster`: what this gateway is called; Envoy has it from its command line.
    SourceCluster(String),
    /// `destination_cluster`: the name of the cluster that the request goes to.
    DestinationCluster,
    /// `request_headers`: the first value of a field.
    RequestHeader {
        /// `header`
        from: FieldSource,
        /// `key`
        key: String,
        /// `skip_if_absent`: without the field there is no entry; else there is no descriptor.
        skip_if_absent: bool,
    },
    /// `query_parameters`: the first value of a parameter, percent-decoded.
    QueryParameter {
        /// `parameter`
        name: String,
        /// `key`
        key: String,
        /// `skip_if_absent`: without the parameter there is no entry; else there is no descriptor.
        skip_if_absent: bool,
    },
    /// `remote_address`: the client's.
    RemoteAddress,
    /// `masked_remote_address`: its leading bits.
    MaskedRemoteAddress(Prefixes),
    /// `generic_key`: always the same.
    GenericKey {
        /// `key`. Default `generic_key`.
        key: String,
        /// `value`
        value: String,
    },
    /// `header_value_match`: there is an entry when the fields match, or with `expect_match` off when they do not.
    HeaderValueMatch {
        /// `headers`: all must match.
        headers: Vec<HeaderMatch>,
        /// `key`. Default `header_match`.
        key: String,
        /// `value`
        value: String,
        /// `expect_match`. Default on.
        expect_match: bool,
    },
}

/// A field of a request, or what HTTP/2 has in a pseudo-field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldSource {
    /// `:method`
    Method,
    /// `:path`: with the query.
    Path,
    /// `:authority`, or `host`.
    Authority,
    /// Any other.
    Header(HeaderName),
}
