//! `[[cluster]]`

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{
    AffinityCookie, Balance, HashRule, HealthCheck, Labels, OutlierDetection, RetryBudget, SanMatch, TlsVersion,
};

/// `[[cluster]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// `name`
    pub name: String,
    /// `balance`
    pub balance: Balance,
    /// `hash_on`: what the key of a request is; a route may have rules of its own. For a cluster that balances by a key and
    /// names no rules, the client's address.
    pub hash_on: Vec<HashRule>,
    /// `affinity_cookie`
    pub affinity_cookie: Option<AffinityCookie>,
    /// `panic_threshold`: percent of endpoints. Default 50 (Envoy's `healthy_panic_threshold`); 0 is off.
    pub panic_threshold: u8,
    /// `prefer`: of each priority, endpoints with all of these labels come first. Empty: none do.
    pub prefer: Labels,
    /// `endpoints`
    pub endpoints: Vec<Endpoint>,
    /// `connect_timeout`. Default 5 s (Envoy's).
    pub connect_timeout: Duration,
    /// `idle_timeout`: how long an unused connection is kept. Default 60 s.
    pub idle_timeout: Duration,
    /// `max_connections`: open at once to one endpoint from one worker. Default 1 024.
    pub max_connections: u32,
    /// `max_pending_requests`: requests that wait for a connection, over all workers. Default 1 024 (Envoy's).
    pub max_pending_requests: u32,
    /// `max_requests`: requests in progress, over all workers.
    pub max_requests: Option<u32>,
    /// `retry_budget`
    pub retry_budget: RetryBudget,
    /// `max_idle_connections`: kept for reuse, to one endpoint by one worker. Default 256.
    pub max_idle_connections: u32,
    /// `dns_refresh`: how often names are resolved again. Default 5 s (Envoy's `dns_refresh_rate`).
    pub dns_refresh: Duration,
    /// `protocol`
    pub protocol: UpstreamProtocol,
    /// `max_streams`: requests at once on one HTTP/2 connection; the origin may allow fewer. Default 100.
    pub max_streams: u32,
    /// `proxy_protocol`: the header that tells the endpoint who the client is. Connections that carry one serve that
    /// client's connection only.
    pub proxy_protocol: Option<ProxyVersion>,
    /// `tls`
    pub tls: Option<UpstreamTls>,
    /// `health_check`; `None` takes every endpoint for healthy.
    pub health_check: Option<HealthCheck>,
    /// `outlier_detection`; `None` takes nobody's answers amiss.
    pub outlier_detection: Option<OutlierDetection>,
    /// `slow_start`: an endpoint that is new, or healthy again, gets its full share only after this time; zero is at once,
    /// the default.
    pub slow_start: Duration,
}

/// The HTTP version spoken to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum UpstreamProtocol {
    /// `"h1"`
    #[default]
    H1,
    /// `"h2"`: by ALPN where there is `tls`, by prior knowledge where there is not.
    H2,
    /// `"auto"`: what ALPN settles; needs `tls`.
    Auto,
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary, with TLVs: ALPN, authority (SNI), TLS version, unique id.
    V2,
}

/// One place a cluster's requests go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `address`
    pub address: EndpointAddress,
    /// `weight`, 1 to 65 535. Default 1.
    pub weight: u16,
    /// `drain`: what it has goes on, nothing new comes. Default off.
    pub drain: bool,
    /// `priority`: 0, the default, comes first.
    pub priority: u8,
    /// `labels`
    pub labels: Labels,
}

/// Where an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EndpointAddress {
    /// An address and port.
    Socket(SocketAddr),
    /// A name to be resolved, and a port. Every address it resolves to is an endpoint of the same weight.
    Name(String, u16),
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EndpointAddress::Socket(address) => address.fmt(f),
            EndpointAddress::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

/// `tls` of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    /// `server_name`: SNI and the name to verify; `None` takes the endpoint's host name or address.
    pub server_name: Option<String>,
    /// `ca`: a PEM file's bytes; `None` takes the system's roots.
    pub ca_pem: Option<Arc<[u8]>>,
    /// `crl`: the revocation lists of all files, in DER.
    pub crls: Vec<Arc<[u8]>>,
    /// `names`: who the endpoint may be in place of the server name; empty is who that says.
    pub names: Vec<SanMatch>,
    /// `verify`: off accepts any certificate. Default on.
    pub verify: bool,
    /// `certificate` that is shown to endpoints that ask for one, by its name: whichever pair it has now, endpoints are
    /// spoken to in the same way.
    pub certificate: Option<String>,
    /// `min_version`
    pub min_version: TlsVersion,
    /// `alpn`: what relays offer.
    pub alpn: Vec<String>,
    /// `resumption`. Default on.
    pub resumption: bool,
}

impl Default for UpstreamTls {
    fn default() -> Self {
        UpstreamTls {
            server_name: None,
            ca_pem: None,
            crls: Vec::new(),
            names: Vec::new(),
            verify: true,
            certificate: None,
            min_version: TlsVersion::Tls12,
            alpn: Vec::new(),
            resumption: true,
        }
    }
}
