//! `global_rate_limit` of `filters`.

use super::{Condition, When};
use crate::config::decode::{Given, List, Map, Optional, Required, table};
use crate::config::value::{Count, FieldSource, HeaderValue, Name, NonEmpty, Nothing, PositiveDuration};

table! { "`global_rate_limit`"
/// Has requests judged by descriptors, and refuses those that are over a limit: by a service that counts for many gateways
/// (`cluster`, Envoy's `envoy.service.ratelimit.v3.RateLimitService` over gRPC), or by rules of this box (`limits`). The
/// request waits for the verdict; its body is not read meanwhile. Requests without a route are not judged.
pub struct GlobalRateLimit {
    /// What it is called in metrics. Without it, `route/NAME/N` or `listener/NAME/N`, where N is its place in `filters` from 0.
    #[schemars(extend("examples" = ["per-customer"]))]
    pub name: Optional<Name>,
    /// Whose limits are meant: the service has a set of them for each domain.
    #[schemars(extend("examples" = ["shop"]))]
    pub domain: Required<NonEmpty>,
    /// The cluster of the service. It must have `protocol = "h2"`. Either this or `limits`.
    #[schemars(extend("examples" = ["limits"]))]
    pub cluster: Optional<Name>,
    /// The name of a `[[limits]]`, by which this box judges itself. Either this or `cluster`.
    #[schemars(extend("examples" = ["shared"]))]
    pub limits: Optional<Name>,
    /// How long the verdict of a service is waited for, connecting included.
    #[schemars(extend("default" = "20ms", "examples" = ["50ms"]))]
    pub timeout: Optional<PositiveDuration>,
    /// What is counted: for each descriptor the entries that it is made of. A descriptor of which an entry has no value is
    /// not sent, and without any the service is not asked.
    #[schemars(extend("examples" = [[[{"remote_address": {}}]]]))]
    pub descriptors: Required<List<List<DescriptorAction>>>,
    /// Which requests it is for. Every part must hold; without it, all.
    pub r#match: Optional<When>,
    /// The status of a refusal (Envoy's `rate_limited_status`). gRPC calls get 200 and `grpc-status` 14.
    #[schemars(extend("default" = 429, "examples" = [503]))]
    pub status: Optional<Count<u16, 400, 599>>,
    /// Fields of a refusal, besides those that the service asks for (Envoy's `response_headers_to_add`).
    #[schemars(extend("default" = {}, "examples" = [{"x-refused-by": "limits"}]))]
    pub headers: Optional<Map<HeaderValue>>,
    /// gRPC calls are refused with `grpc-status` 8 (`RESOURCE_EXHAUSTED`) in place of 14 (`UNAVAILABLE`). Envoy's
    /// `rate_limited_as_resource_exhausted`.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub grpc_resource_exhausted: Optional<bool>,
    /// Whether answers say `x-ratelimit-limit`, `x-ratelimit-remaining` and `x-ratelimit-reset` of the limit with least left,
    /// as the service tells them. Envoy's `enable_x_ratelimit_headers`.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub ratelimit_headers: Optional<bool>,
    /// Whether a refusal says `x-envoy-ratelimited: true`, so that an Envoy in front does not retry it. Envoy's
    /// `disable_x_envoy_ratelimited_header` is the opposite.
    #[schemars(extend("default" = true, "examples" = [false]))]
    pub ratelimited_header: Optional<bool>,
    /// Whether a request is refused when the service fails or takes too long (Envoy's `failure_mode_deny`). Without it such
    /// a request passes.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub deny_on_error: Optional<bool>,
    /// The status of that refusal.
    #[schemars(extend("default" = 500, "examples" = [503]))]
    pub status_on_error: Optional<Count<u16, 400, 599>>,
}
}

table! { "an entry of `descriptors`"
/// Where an entry of a descriptor comes from: one of these. They have the names of Envoy's actions.
pub struct DescriptorAction {
    /// What this gateway is called, under the key `source_cluster`. Envoy has the value from its command line.
    #[schemars(extend("examples" = ["edge"]))]
    pub source_cluster: Optional<Given<NonEmpty>>,
    /// The name of the cluster that the request goes to, under the key `destination_cluster`. There is none where the route
    /// answers by itself.
    #[schemars(extend("examples" = [{}]))]
    pub destination_cluster: Optional<Given<Nothing>>,
    /// The first value of a header field.
    pub request_headers: Optional<Given<RequestHeaders>>,
    /// The first value of a query parameter.
    pub query_parameters: Optional<Given<QueryParameters>>,
    /// The client's address, after `X-Forwarded-For` of trusted proxies, under the key `remote_address`.
    #[schemars(extend("examples" = [{}]))]
    pub remote_address: Optional<Given<Nothing>>,
    /// The leading bits of it, under the key `masked_remote_address`, as in `198.51.100.0/24`.
    pub masked_remote_address: Optional<Given<MaskedAddress>>,
    /// Always the same.
    pub generic_key: Optional<Given<GenericKey>>,
    /// Something for requests whose fields match.
    pub header_value_match: Optional<Given<HeaderValueMatch>>,
}
}

table! { "`request_headers`"
/// The first value of a header field.
pub struct RequestHeaders {
    /// Its name, or `:path` (with the query), `:method` or `:authority`.
    #[schemars(extend("examples" = ["x-customer"]))]
    pub header: Required<FieldSource>,
    /// The key of the entry.
    #[schemars(extend("examples" = ["customer"]))]
    pub key: Required<NonEmpty>,
    /// Requests without the field have a descriptor without this entry. Otherwise they do not have the descriptor.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub skip_if_absent: Optional<bool>,
}
}

table! { "`query_parameters`"
/// The first value of a query parameter, with `%XX` undone.
pub struct QueryParameters {
    /// Its name.
    #[schemars(extend("examples" = ["user"]))]
    pub parameter: Required<NonEmpty>,
    /// The key of the entry.
    #[schemars(extend("examples" = ["user"]))]
    pub key: Required<NonEmpty>,
    /// Requests without the parameter have a descriptor without this entry. Otherwise they do not have the descriptor.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub skip_if_absent: Optional<bool>,
}
}

table! { "`masked_remote_address`"
/// The leading bits of the client's address.
pub struct MaskedAddress {
    /// Of an IPv4 address.
    #[schemars(extend("default" = 32, "examples" = [24]))]
    pub ipv4_prefix: Optional<Count<u8, 0, 32>>,
    /// Of an IPv6 address.
    #[schemars(extend("default" = 128, "examples" = [64]))]
    pub ipv6_prefix: Optional<Count<u8, 0, 128>>,
}
}

table! { "`generic_key`"
/// An entry that is always the same.
pub struct GenericKey {
    /// Its value.
    #[schemars(extend("examples" = ["login"]))]
    pub value: Required<NonEmpty>,
    /// Its key.
    #[schemars(extend("default" = "generic_key", "examples" = ["endpoint"]))]
    pub key: Optional<NonEmpty>,
}
}

table! { "`header_value_match`"
/// An entry for requests whose fields match. Others do not have the descriptor.
pub struct HeaderValueMatch {
    /// Header fields and what their values must be. All must match.
    #[schemars(extend("examples" = [{"x-plan": "free"}]))]
    pub headers: Required<Map<Condition>>,
    /// The value of the entry.
    #[schemars(extend("examples" = ["free"]))]
    pub value: Required<NonEmpty>,
    /// Its key.
    #[schemars(extend("default" = "header_match", "examples" = ["plan"]))]
    pub key: Optional<NonEmpty>,
    /// With `false` it is for requests whose fields do not match.
    #[schemars(extend("default" = true, "examples" = [false]))]
    pub expect_match: Optional<bool>,
}
}
