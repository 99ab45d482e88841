//! What a checked configuration means: names are ids, defaults are filled in, durations are durations.
//!
//! Plain data. Two configurations that mean the same compare equal, and that is how a reload knows that nothing
//! changed. Nothing here has the shape of the file; that is `raw`.

mod acme;
mod balance;
mod breaker;
mod certificate;
mod cluster;
mod filter;
mod global_limit;
mod health;
mod l4;
mod limits;
mod mirror;
mod outlier;
mod overload;
mod retry;
mod tls;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use regex::bytes::Regex;

use crate::proto::head::{HeaderName, Method};
pub use crate::proto::path::{EncodedSlashes, PathPolicy};
pub use acme::*;
pub use balance::*;
pub use breaker::*;
pub use certificate::*;
pub use cluster::*;
pub use filter::*;
pub use global_limit::*;
pub use health::*;
pub use l4::*;
pub use limits::*;
pub use mirror::*;
pub use outlier::*;
pub use overload::*;
pub use retry::*;
pub use tls::*;

/// One whole configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Settings of the process.
    pub gateway: Gateway,
    /// The admin endpoint; `None` when `address = "off"`.
    pub admin: Option<Admin>,
    /// The access log; `None` when there is no `[access_log]` table.
    pub access_log: Option<AccessLog>,
    /// What is given up when there is too much to do.
    pub overload: Overload,
    /// Where and how the XDP program is attached.
    pub xdp: Xdp,
    /// Rules on the peer's address, in the order of the file.
    pub access: Vec<AccessRule>,
    /// Virtual addresses that are load-balanced in the kernel.
    pub vips: Vec<Vip>,
    /// Certificates; a [`CertificateId`] is an index into this.
    pub certificates: Vec<Certificate>,
    /// Accounts with certificate authorities.
    pub acme: Vec<Acme>,
    /// Where what was issued is kept.
    pub certificate_store: CertificateStore,
    /// Listeners; a [`ListenerId`] is an index into this.
    pub listeners: Vec<Listener>,
    /// Clusters; a [`ClusterId`] is an index into this.
    pub clusters: Vec<Cluster>,
    /// Rules that judge descriptors; a [`LimitSetId`] is an index into this.
    pub limits: Vec<LimitSet>,
    /// Routes; a [`RouteId`] is an index into this. The order of the file is the last tie-break.
    pub routes: Vec<Route>,
    /// Routes of connections and datagrams; an [`L4RouteId`] is an index into this, and the first that matches is taken.
    pub l4_routes: Vec<L4Route>,
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u32);
        impl $name {
            /// The id as an index into its table.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }
    )*};
}

ids! {
    /// Index into [`Config::certificates`].
    CertificateId
    /// Index into [`Config::listeners`].
    ListenerId
    /// Index into [`Config::clusters`].
    ClusterId
    /// Index into [`Config::limits`].
    LimitSetId
    /// Index into [`Config::routes`].
    RouteId
    /// Index into [`Config::l4_routes`].
    L4RouteId
}

/// `[gateway]`
#[derive(Clone, Debug, PartialEq)]
pub struct Gateway {
    /// `workers`: `None` is `"auto"`, one per core the process may run on.
    pub workers: Option<u32>,
    /// `drain_timeout`: how long requests in flight may take after SIGTERM. Default 30 s.
    pub drain_timeout: Duration,
    /// `trusted_proxies`: whose PROXY header, `X-Forwarded-For` and `Forwarded` are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// `trusted_hops`: how many entries at the right of `X-Forwarded-For` trusted proxies wrote, where their addresses
    /// are not known (Envoy's `xff_num_trusted_hops`). 0, the default: it is decided by `trusted_proxies` alone.
    pub trusted_hops: u32,
    /// `forwarded_header`: whether origins get `Forwarded` (RFC 7239) too. Default off.
    pub forwarded_header: bool,
    /// `server_header`: what the `server` response header says. Default `gateway`, always overwriting the origin's,
    /// as Envoy's `server_header_transformation: OVERWRITE` does. `None` passes the origin's header through.
    pub server_header: Option<String>,
    /// `via`: the pseudonym added to `via` in both directions; `None` (the default, as in Envoy) adds none.
    pub via: Option<String>,
}

impl Default for Gateway {
    fn default() -> Self {
        Gateway {
            workers: None,
            drain_timeout: Duration::from_secs(30),
            trusted_proxies: Vec::new(),
            trusted_hops: 0,
            forwarded_header: false,
            server_header: Some("gateway".into()),
            via: None,
        }
    }
}

/// `[admin]`
#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    /// `address`. Default `127.0.0.1:9901`.
    pub address: SocketAddr,
}

impl Default for Admin {
    fn default() -> Self {
        Admin { address: SocketAddr::from(([127, 0, 0, 1], 9901)) }
    }
}

/// `[access_log]`
#[derive(Clone, Debug, PartialEq)]
pub struct AccessLog {
    /// `path`
    pub target: LogTarget,
    /// `format`
    pub format: LogFormat,
}

/// Where access log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// `"stdout"`
    Stdout,
    /// A file, reopened on SIGUSR1.
    File(PathBuf),
}

/// What an access log line looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// `"json"`: one object a line.
    Json,
    /// An Envoy format string; for `"text"` Envoy's default one. `metrics::access_log` compiles it; `check` has
    /// seen that it compiles.
    Format(String),
}

/// `[[listener]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// `name`
    pub name: String,
    /// `address`
    pub address: SocketAddr,
    /// `protocol`
    pub protocol: ListenerProtocol,
    /// `http`: the HTTP versions it speaks. Default both.
    pub http: HttpVersions,
    /// `http2`
    pub http2: Http2,
    /// `proxy_protocol`
    pub proxy_protocol: ProxyProtocol,
    /// `trusted_proxies`; when the file names none here, those of `[gateway]`.
    pub trusted_proxies: Vec<IpNet>,
    /// `tls`
    pub tls: Option<ListenerTls>,
    /// `forward_client_cert`
    pub forward_client_cert: ForwardClientCert,
    /// `forward_client_cert_details`
    pub client_cert_details: ClientCertDetails,
    /// `limits`
    pub limits: ListenerLimits,
    /// `path_normalisation`
    pub path: PathPolicy,
    /// `filters`
    pub filters: Vec<Filter>,
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ListenerProtocol {
    /// HTTP, over TLS where there is `tls`. TLS connections for the `server_names` of an `[[l4_route]]` pass through.
    #[default]
    Http,
    /// Any protocol over TCP: bytes go both ways. With `tls` it is terminated here.
    Tcp,
    /// TLS that is terminated behind the gateway: the server name chooses where.
    TlsPassthrough,
    /// Datagrams.
    Udp,
}

/// Which versions of HTTP are spoken; at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpVersions {
    /// `"h1"`: HTTP/1.1 and 1.0.
    pub h1: bool,
    /// `"h2"`: HTTP/2, by ALPN over TLS and by prior knowledge without.
    pub h2: bool,
}

impl Default for HttpVersions {
    fn default() -> Self {
        HttpVersions { h1: true, h2: true }
    }
}

/// `http2` of a listener: what one HTTP/2 connection may take. Memory for request bodies is at most
/// `connection_window` a connection, for answers `max_concurrent_streams` times what a stream may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http2 {
    /// `max_concurrent_streams`. Default 128 (nginx's).
    pub max_concurrent_streams: u32,
    /// `stream_window`: bytes of a request's body that may be on their way before they are taken. Default 256 KiB.
    pub stream_window: u32,
    /// `connection_window`: the same for all streams of a connection. Default 1 MiB.
    pub connection_window: u32,
}

impl Default for Http2 {
    fn default() -> Self {
        Http2 { max_concurrent_streams: 128, stream_window: 256 << 10, connection_window: 1 << 20 }
    }
}

/// `proxy_protocol` of a listener. Only a trusted proxy's header is believed; a connection from elsewhere is reset
/// where one is required, and is taken as having none where it is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ProxyProtocol {
    /// `"off"`: connections begin with their own protocol.
    #[default]
    Off,
    /// `"accept"`: a trusted proxy's connection may begin with a PROXY header, version 1 or 2.
    Accept,
    /// `"require"`: every connection begins with one.
    Require,
}

/// `limits` of a listener: what one client, or all together, may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerLimits {
    /// `connections`: open at once over all workers. Default 65 536.
    pub connections: u32,
    /// `connections_per_source`: open at once from one address. Default 1 024.
    pub connections_per_source: u32,
    /// `new_connections`: over all workers; `None` is no limit, the default.
    pub new_connections: Option<Quota>,
    /// `new_connections_per_source`: from one address, or one network of 64 bits of IPv6; `None` is no limit, the default.
    pub new_connections_per_source: Option<Quota>,
    /// `header_bytes`: whole request head. Default 60 KiB (Envoy's `max_request_headers_kb`).
    pub header_bytes: u32,
    /// `header_count`. Default 100 (Envoy's `max_headers_count`).
    pub header_count: u16,
    /// `header_timeout`: from the head's first byte to its last; slowloris. Default 10 s.
    pub header_timeout: Duration,
    /// `handshake_timeout`: TLS. Default 10 s.
    pub handshake_timeout: Duration,
    /// `idle_timeout`: between requests of a kept-alive connection, and between bytes of a message. Default 60 s.
    pub idle_timeout: Duration,
    /// `body_bytes`: longest request body; `None` is no limit, the default.
    pub body_bytes: Option<u64>,
}

impl Default for ListenerLimits {
    fn default() -> Self {
        ListenerLimits {
            connections: 65_536,
            connections_per_source: 1_024,
            new_connections: None,
            new_connections_per_source: None,
            header_bytes: 60 * 1024,
            header_count: 100,
            header_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            body_bytes: None,
        }
    }
}

/// `[[route]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// `name`
    pub name: String,
    /// `listeners`; when the file names none, all that are `http`.
    pub listeners: Vec<ListenerId>,
    /// `hosts`; when the file names none, `[HostPattern::Any]`.
    pub hosts: Vec<HostPattern>,
    /// `match`
    pub matcher: RouteMatch,
    /// What the route does.
    pub action: Action,
    /// `timeout`: from the end of the request to the end of the answer. Default 15 s (Envoy's); `None` is `"0s"`, no limit.
    pub timeout: Option<Duration>,
    /// `retry`
    pub retry: Retry,
    /// `body_bytes`: longest request body; overrides the listener's.
    pub body_bytes: Option<u64>,
    /// `request_headers`: edits of what the origin gets.
    pub request_headers: HeaderEdits,
    /// `response_headers`: edits of what the client gets, local replies included.
    pub response_headers: HeaderEdits,
    /// `websocket`: whether a request may become a WebSocket. Default no: such a request is answered 403.
    pub websocket: Option<WebSocket>,
    /// `filters`, after those of the listener.
    pub filters: Vec<Filter>,
    /// `breaker`
    pub breaker: Option<Breaker>,
    /// `mirror`
    pub mirrors: Option<Mirrors>,
    /// `priority`
    pub priority: Priority,
}

/// `websocket` of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSocket {
    /// `idle_timeout`: how long neither side may send anything. Default 5 min (Envoy's `stream_idle_timeout`); `None` is
    /// `"0s"`, no limit.
    pub idle_timeout: Option<Duration>,
}

/// `[[l4_route]]`: which connections or datagrams go where.
#[derive(Clone, Debug, PartialEq)]
pub struct L4Route {
    /// `name`
    pub name: String,
    /// `listeners`; when the file names none, all that are not `http` (of these those that see TLS, when it is asked for
    /// something of TLS), and with `server_names` the `http` ones with `tls` too.
    pub listeners: Vec<ListenerId>,
    /// `server_names`: TLS server names; [`HostPattern::Any`] is any name. Empty: not asked for.
    pub server_names: Vec<HostPattern>,
    /// `without_server_name`: takes TLS clients that name no server (or whose name is encrypted).
    pub without_server_name: bool,
    /// `alpn`: takes clients that offer one of these protocols; empty is any.
    pub alpn: Vec<String>,
    /// `cluster` or `clusters`; weights sum to more than 0.
    pub clusters: Vec<WeightedCluster>,
    /// `subset`: which endpoints; `None` is all.
    pub subset: Option<Subset>,
    /// `connect_attempts`: endpoints tried for one connection. Default 3.
    pub connect_attempts: u32,
    /// `idle_timeout`: how long neither side may send anything. Default 1 h (Envoy's), for UDP 60 s; `None` is `"0s"`, no
    /// limit, which a route that serves a UDP listener never has.
    pub idle_timeout: Option<Duration>,
}

/// Which hosts a route serves. Lower case, without port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// `example.com`
    Exact(String),
    /// `*.example.com`, kept as `.example.com`: one or more labels before it.
    Suffix(String),
    /// `*`
    Any,
}

/// `match` of a route: every part must hold.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct RouteMatch {
    /// Which paths.
    pub path: PathMatch,
    /// `methods`; empty is any.
    pub methods: Vec<Method>,
    /// `headers`: all must match.
    pub headers: Vec<HeaderMatch>,
    /// `query`: all must match.
    pub query: Vec<QueryMatch>,
    /// `peer_ip`: networks the connection comes from: its TCP peer, or the source that a PROXY header names. Empty is any.
    pub peer_ip: Vec<IpNet>,
    /// `client_ip`: networks of the client, after `X-Forwarded-For` or `Forwarded` of trusted proxies. Empty is any.
    pub client_ip: Vec<IpNet>,
}

/// Which paths a route serves.
#[derive(Clone, Debug, PartialEq)]
pub enum PathMatch {
    /// `path`: exactly this.
    Exact(String),
    /// `path_prefix`: this path or one below it, whole segments only (`/a` has `/a` and `/a/b`, not `/ab`). Without a
    /// trailing slash, except `/` itself.
    Prefix(String),
    /// `path_regex`: the whole path matches.
    Regex(Pattern),
}

impl Default for PathMatch {
    fn default() -> Self {
        PathMatch::Prefix("/".into())
    }
}

/// A compiled regular expression that compares by its text. It is anchored at both ends by `check`.
#[derive(Clone, Debug)]
pub struct Pattern(pub Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

/// A condition on a request header.
#[derive(Clone, Debug, PartialEq)]
pub struct HeaderMatch {
    /// The header.
    pub name: HeaderName,
    /// What its value must be.
    pub value: ValueMatch,
}

/// A condition on a query parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct QueryMatch {
    /// The parameter, compared as written (no percent-decoding).
    pub name: String,
    /// What its value must be.
    pub value: ValueMatch,
}

/// A condition on a value.
#[derive(Clone, Debug, PartialEq)]
pub enum ValueMatch {
    /// `"text"`: exactly this.
    Exact(String),
    /// `{ regex = "…" }`: the whole value matches.
    Regex(Pattern),
    /// `{ present = true }`: there is one, or with `false`, there is none.
    Present(bool),
}

/// What a route does with a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// `cluster` or `clusters`: pass it on.
    Forward(Forward),
    /// `redirect`: answer 3xx.
    Redirect(Redirect),
    /// `respond`: answer from here.
    Respond(Respond),
    /// `rate_limit_service`: judge the descriptors that another proxy asks about.
    RateLimitService(LimitSetId),
}

/// Pass the request to a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Forward {
    /// One or more, by weight; weights sum to more than 0.
    pub clusters: Vec<WeightedCluster>,
    /// `rewrite.path_prefix`: replaces the matched prefix. `x-envoy-original-path` keeps the original.
    pub rewrite_prefix: Option<String>,
    /// `rewrite.host`: replaces the authority.
    pub rewrite_host: Option<String>,
    /// `hash_on`: in place of the clusters'; empty is theirs.
    pub hash_on: Vec<HashRule>,
    /// `subset`: which endpoints; `None` is all.
    pub subset: Option<Subset>,
}

/// A share of a route's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightedCluster {
    /// Where to.
    pub cluster: ClusterId,
    /// Share of the sum of weights; 0 takes none.
    pub weight: u32,
}

/// `redirect` of a route. What is not named stays as in the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `status`: 301 (default), 302, 303, 307 or 308.
    pub status: u16,
    /// `scheme`: `http` or `https`.
    pub scheme: Option<String>,
    /// `host`
    pub host: Option<String>,
    /// `port`
    pub port: Option<u16>,
    /// `path`: the whole path; the query stays.
    pub path: Option<String>,
    /// `path_prefix`: replaces the matched prefix.
    pub path_prefix: Option<String>,
}

/// `respond` of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Respond {
    /// `status`: 200 to 599.
    pub status: u16,
    /// `body`. Default empty.
    pub body: String,
    /// `content_type`. Default `text/plain`.
    pub content_type: String,
}

/// Edits of a message's headers, done in this order: remove, set, add.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct HeaderEdits {
    /// `remove`
    pub remove: Vec<HeaderName>,
    /// `set`: replaces every field of that name.
    pub set: Vec<(HeaderName, String)>,
    /// `add`: appends.
    pub add: Vec<(HeaderName, String)>,
}

impl HeaderEdits {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }
}
