//! `filters` of a listener or a route.

use std::time::Duration;

use ipnet::IpNet;

use super::{GlobalRateLimit, HeaderMatch, HostPattern, QueryMatch};
use crate::proto::head::{HeaderName, Method};

/// One of `filters`; a closed set, in the order in which requests pass them.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// `rate_limit`
    RateLimit(RateLimit),
    /// `global_rate_limit`
    GlobalRateLimit(GlobalRateLimit),
    /// `fault`
    Fault(Fault),
}

/// `rate_limit`: token buckets.
#[derive(Clone, Debug, PartialEq)]
pub struct RateLimit {
    /// `name`; when the file says none, where it stands. Unique over the whole file.
    pub name: String,
    /// `match`
    pub when: When,
    /// `key`: what has a bucket of its own; `None` is one bucket for all.
    pub key: Option<RateKey>,
    /// `max_keys`: buckets that are held. Default 65 536.
    pub max_keys: u32,
    /// `requests`, `per` and `burst`
    pub quota: Quota,
    /// `overrides`: the first that matches is taken, and has buckets of its own.
    pub overrides: Vec<RateOverride>,
    /// `status`: of a refusal. Default 429 (Envoy's).
    pub status: u16,
    /// `body`: of a refusal. Default `local_rate_limited` (Envoy's).
    pub body: String,
    /// `headers`: of a refusal.
    pub headers: Vec<(HeaderName, String)>,
    /// `grpc_resource_exhausted`: gRPC status 8 in place of 14 (Envoy's `rate_limited_as_resource_exhausted`). Default off.
    pub grpc_resource_exhausted: bool,
    /// `ratelimit_headers`: `x-ratelimit-*` on every answer (Envoy's `enable_x_ratelimit_headers: DRAFT_VERSION_03`). Default
    /// off.
    pub ratelimit_headers: bool,
    /// `dry_run`: counts, and refuses nothing. Default off.
    pub dry_run: bool,
}

/// How many requests are let through, or new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// `requests`, or `connections`: tokens that come in each `per`.
    pub requests: u32,
    /// `per`
    pub per: Duration,
    /// `burst`: tokens that a bucket holds.
    pub burst: u32,
}

/// One of `overrides`.
#[derive(Clone, Debug, PartialEq)]
pub struct RateOverride {
    /// `match`
    pub when: When,
    /// `requests`, `per` and `burst`
    pub quota: Quota,
}

/// What has a bucket of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RateKey {
    /// `"client_ip"`
    ClientIp(Prefixes),
    /// `"peer_ip"`
    PeerIp(Prefixes),
    /// `"host"`
    Host,
    /// `"connection"`
    Connection,
    /// `{ header = … }`
    Header(HeaderName),
    /// `{ query = … }`: compared as written.
    Query(String),
    /// `{ cookie = … }`
    Cookie(String),
}

/// Leading bits of an address that are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefixes {
    /// `ipv4_prefix`. Default 32.
    pub ipv4: u8,
    /// `ipv6_prefix`. Default 64.
    pub ipv6: u8,
}

/// `match` of a filter: every part must hold, and an empty one does.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct When {
    /// `hosts`; empty is any.
    pub hosts: Vec<HostPattern>,
    /// `methods`; empty is any.
    pub methods: Vec<Method>,
    /// `headers`: all must match.
    pub headers: Vec<HeaderMatch>,
    /// `query`: all must match.
    pub query: Vec<QueryMatch>,
    /// `client_ip`; empty is any.
    pub client_ip: Vec<IpNet>,
}

/// `fault`: delays and aborts, for tests of what is in front of the gateway.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// `name`; when the file says none, where it stands. Unique over the whole file.
    pub name: String,
    /// `match`
    pub when: When,
    /// `delay`
    pub delay: Option<FaultDelay>,
    /// `abort`
    pub abort: Option<FaultAbort>,
    /// `headers`: whether `x-envoy-fault-*` fields of a request say what happens to it. Default off.
    pub headers: bool,
    /// `max_active`: requests that it has its hands on at once (Envoy's `max_active_faults`). Default 1 024.
    pub max_active: u32,
}

/// `delay` of `fault`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultDelay {
    /// `percent`: of the requests.
    pub share: Share,
    /// `for`; `None` delays only those that ask for it by a header.
    pub time: Option<Duration>,
}

/// `abort` of `fault`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultAbort {
    /// `percent`: of the requests.
    pub share: Share,
    /// `status` or `grpc_status`; `None` aborts only those that ask for it by a header.
    pub with: Option<AbortStatus>,
}

/// How a request is aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortStatus {
    /// With this HTTP status; gRPC clients get what it means to them.
    Http(u16),
    /// With this gRPC status; others get what it means in HTTP.
    Grpc(u8),
}

/// A share of requests, in parts of a million.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(pub u32);

impl Share {
    /// All of them.
    pub const ALL: Share = Share(1_000_000);

    /// Whether a request is among them; `random` is evenly distributed over all its values.
    pub fn has(self, random: u32) -> bool {
        (u64::from(random) * u64::from(Share::ALL.0)) >> 32 < u64::from(self.0)
    }
}
