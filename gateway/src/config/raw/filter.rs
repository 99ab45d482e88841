//! `filters` of a listener or a route.

use crate::config::decode::{Decode, Given, List, Map, Node, Optional, Required, table};
use crate::config::report::Diagnostics;
use crate::config::schema::either_schema;
use crate::config::value::{
    Cidr, Count, HeaderName, HeaderValue, Host, KeySource, Method, Name, Percent, PositiveDuration,
};

use super::{Condition, GlobalRateLimit};

table! { "`filters`"
/// What happens to requests before they go anywhere, in this order. Each element has one of the keys.
pub struct Filter {
    /// Refuses requests above a rate.
    pub rate_limit: Optional<Given<RateLimit>>,
    /// Refuses requests above a rate that a service counts for many gateways.
    pub global_rate_limit: Optional<Given<GlobalRateLimit>>,
    /// Delays and aborts requests, to try out what is in front of the gateway.
    pub fault: Optional<Given<Fault>>,
}
}

table! { "`rate_limit`"
/// A token bucket: a request takes a token, and is refused when there is none. The quota is that of the whole box, however
/// many workers there are, and a reload does not fill the bucket.
pub struct RateLimit {
    /// What it is called in metrics, and what it is known by over reloads. Without it, `route/NAME/N` or `listener/NAME/N`,
    /// where N is its place in `filters` from 0.
    #[schemars(extend("examples" = ["logins"]))]
    pub name: Optional<Name>,
    /// Requests that are let through in each `per`; at most ten million a second.
    #[schemars(extend("examples" = [100]))]
    pub requests: Required<Count<u32, 1, 1_000_000_000>>,
    /// The time in which an empty bucket gets that many tokens. They come one by one, not all at once.
    #[schemars(extend("examples" = ["1s"]))]
    pub per: Required<PositiveDuration>,
    /// Tokens that a bucket holds: requests that may come at once. Without it, as many as `requests`.
    #[schemars(extend("examples" = [20]))]
    pub burst: Optional<Count<u32, 1, 1_000_000_000>>,
    /// Gives each of something a bucket of its own: `"client_ip"` (after `X-Forwarded-For` of trusted proxies), `"peer_ip"`
    /// (of the connection, or what its PROXY header names), `"host"`, `"connection"`, or a header, query parameter or cookie.
    /// Requests without it share one bucket. Without this key there is one bucket for all.
    #[schemars(extend("examples" = ["client_ip", {"header": "x-api-key"}]))]
    pub key: Optional<Given<Key>>,
    /// With a `key` that is an address: leading bits of an IPv4 address that are looked at.
    #[schemars(extend("default" = 32, "examples" = [24]))]
    pub ipv4_prefix: Optional<Count<u8, 1, 32>>,
    /// The same of an IPv6 address. The default is what one customer is given (RFC 6177).
    #[schemars(extend("default" = 64, "examples" = [56]))]
    pub ipv6_prefix: Optional<Count<u8, 1, 128>>,
    /// Buckets that are held. When there are more keys, those whose buckets are fullest are forgotten. Takes 35 bytes each.
    #[schemars(extend("default" = 65536, "examples" = [1000000]))]
    pub max_keys: Optional<Count<u32, 16, 16_777_216>>,
    /// Which requests it is for. Every part must hold; without it, all.
    pub r#match: Optional<When>,
    /// Other quotas for some requests, from buckets of their own. The first that matches is taken.
    pub overrides: Optional<List<RateOverride>>,
    /// The status of a refusal. gRPC calls get 200 and `grpc-status` 14.
    #[schemars(extend("default" = 429, "examples" = [503]))]
    pub status: Optional<Count<u16, 400, 599>>,
    /// The body of a refusal.
    #[schemars(extend("default" = "local_rate_limited", "examples" = ["slow down\n"]))]
    pub body: Optional<String>,
    /// Fields of a refusal.
    #[schemars(extend("default" = {}, "examples" = [{"x-local-rate-limit": "true"}]))]
    pub headers: Optional<Map<HeaderValue>>,
    /// gRPC calls are refused with `grpc-status` 8 (`RESOURCE_EXHAUSTED`) in place of 14 (`UNAVAILABLE`).
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub grpc_resource_exhausted: Optional<bool>,
    /// Whether every answer says `x-ratelimit-limit` (tokens a bucket holds), `x-ratelimit-remaining` (tokens left) and
    /// `x-ratelimit-reset` (seconds until there is a token). Of several limits, the one with least left.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub ratelimit_headers: Optional<bool>,
    /// Counts what would be refused, and refuses nothing.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub dry_run: Optional<bool>,
}
}

table! { "`overrides` of `rate_limit`"
/// Another quota for some requests.
pub struct RateOverride {
    /// Which requests. Every part must hold.
    pub r#match: Required<When>,
    /// Requests in each `per`.
    #[schemars(extend("examples" = [1000]))]
    pub requests: Required<Count<u32, 1, 1_000_000_000>>,
    /// The time in which an empty bucket gets that many tokens.
    #[schemars(extend("examples" = ["1s"]))]
    pub per: Required<PositiveDuration>,
    /// Tokens that a bucket holds. Without it, as many as `requests`.
    #[schemars(extend("examples" = [20]))]
    pub burst: Optional<Count<u32, 1, 1_000_000_000>>,
}
}

table! { "`fault`"
/// Faults of our own making, as Envoy's fault filter has them. A request may be delayed and then aborted.
pub struct Fault {
    /// What it is called in metrics. Without it, `route/NAME/N` or `listener/NAME/N`, where N is its place in `filters` from 0.
    #[schemars(extend("examples" = ["slow-shop"]))]
    pub name: Optional<Name>,
    /// Which requests it is for. Every part must hold; without it, all.
    pub r#match: Optional<When>,
    /// Makes requests wait before they go on.
    pub delay: Optional<FaultDelay>,
    /// Answers requests with an error, `fault filter abort`.
    pub abort: Optional<FaultAbort>,
    /// Whether a request says itself what happens to it: `x-envoy-fault-delay-request` (milliseconds, an hour at most) in
    /// place of `for`, `x-envoy-fault-abort-request` or `x-envoy-fault-abort-grpc-request` in place of a status, and with
    /// `-percentage` behind `delay-request` or `abort-request` a smaller share. Only trusted proxies can (`trusted_proxies`): of
    /// others `x-envoy-*` fields are dropped.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub headers: Optional<bool>,
    /// Requests that it delays or aborts at once; what comes on top is left in peace.
    #[schemars(extend("default" = 1024, "examples" = [10]))]
    pub max_active: Optional<Count<u32, 1, 1_000_000>>,
}
}

table! { "`delay` of `fault`"
/// Makes requests wait.
pub struct FaultDelay {
    /// The share of requests: 0, or from `0.0001` to 100.
    #[schemars(extend("examples" = [0.5]))]
    pub percent: Required<Percent>,
    /// How long. May be left out where `headers` is on: then only those wait that ask for it.
    #[schemars(extend("examples" = ["2s"]))]
    pub r#for: Optional<Given<PositiveDuration>>,
}
}

table! { "`abort` of `fault`"
/// Answers requests with an error. One of `status` and `grpc_status`, or none where `headers` is on: then only those are
/// aborted that ask for it.
pub struct FaultAbort {
    /// The share of requests: 0, or from `0.0001` to 100.
    #[schemars(extend("examples" = [5]))]
    pub percent: Required<Percent>,
    /// The HTTP status. gRPC clients get the gRPC status that it stands for.
    #[schemars(extend("examples" = [503]))]
    pub status: Optional<Given<Count<u16, 200, 599>>>,
    /// The gRPC status. Other clients get the HTTP status that it stands for.
    #[schemars(extend("examples" = [14]))]
    pub grpc_status: Optional<Given<Count<u8, 1, 16>>>,
}
}

table! { "`match` of a filter"
/// Which requests a filter is for.
pub struct When {
    /// One of these hosts, without port: exact, `*.` and a name for everything below it, or `*`.
    #[schemars(extend("examples" = [["api.example.com"]]))]
    pub hosts: Optional<List<Host>>,
    /// One of these methods.
    #[schemars(extend("examples" = [["POST"]]))]
    pub methods: Optional<List<Method>>,
    /// Header fields and what their values must be.
    #[schemars(extend("examples" = [{"x-plan": "free"}]))]
    pub headers: Optional<Map<Condition>>,
    /// Query parameters and what their values must be.
    #[schemars(extend("examples" = [{"debug": {"present": true}}]))]
    pub query: Optional<Map<Condition>>,
    /// The client, after `X-Forwarded-For` and `Forwarded` of trusted proxies.
    #[schemars(extend("examples" = [["198.51.100.0/24"]]))]
    pub client_ip: Optional<List<Cidr>>,
}
}

/// A word, or a table that names a part of the request.
#[derive(Debug)]
pub enum Key {
    /// `"client_ip"`
    Source(KeySource),
    /// `{ … }`
    Part(KeyTable),
}

table! { "`key` of `rate_limit`"
/// A part of a request: one of these.
pub struct KeyTable {
    /// The first field of this name.
    #[schemars(extend("examples" = ["x-api-key"]))]
    pub header: Optional<Given<HeaderName>>,
    /// The first query parameter of this name.
    #[schemars(extend("examples" = ["user"]))]
    pub query: Optional<Given<String>>,
    /// The first cookie of this name.
    #[schemars(extend("examples" = ["session"]))]
    pub cookie: Optional<Given<String>>,
}
}

impl Decode for Key {
    fn decode(node: Node<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        match node.is_table() {
            true => KeyTable::decode(node, diagnostics).map(Key::Part),
            false => KeySource::decode(node, diagnostics).map(Key::Source),
        }
    }
}

either_schema!(Key, KeySource, KeyTable);
