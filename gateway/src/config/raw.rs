//! The file's shape, exactly: every table and key, with what the reference says about it.
//!
//! This is the only description of the file. The JSON Schema, `docs/config.md` and the reader come from it. Nothing
//! here is checked beyond how a single value is written; that is `check`.
//!
//! `default` and `example` are for people; a test holds both against the code.

mod acme;
mod alerts;
mod balance;
mod breaker;
mod cluster_tls;
mod etcd;
mod filter;
mod global_limit;
mod health;
mod l4;
mod limits;
mod outlier;
mod overload;
mod route;
mod tls;

pub use acme::{Acme, CertificateStore, ExternalAccount};
pub use alerts::CertificateAlerts;
pub use balance::{AffinityCookie, HashCookie, HashRule};
pub use breaker::Breaker;
pub use cluster_tls::ClusterTls;
pub use etcd::EtcdStore;
pub use filter::{Fault, FaultAbort, FaultDelay, Filter, Key, KeyTable, RateLimit, RateOverride, When};
pub use global_limit::{DescriptorAction, GlobalRateLimit, HeaderValueMatch};
pub use health::{CheckTls, HealthCheck};
pub use l4::{Access, DropLog, Flows, PacketRate, Timeouts, Vip, Xdp, XdpLimits};
pub use limits::{LimitSet, RedisStore};
pub use outlier::OutlierDetection;
pub use overload::Overload;
pub use route::{
    Condition, ConditionTable, Grpc, HeaderEdits, L4Route, Match, Mirror, Redirect, Respond, Retry, Rewrite, Route,
    WebSocket, WeightedCluster,
};
pub use tls::{ClientAuth, ListenerTls, TlsHost};

use super::decode::{Decode, Given, List, Map, Node, Optional, Required, table};
use super::model::{Balance, EncodedSlashes, ForwardClientCert, ListenerProtocol, ProxyProtocol, UpstreamProtocol};
use super::report::Diagnostics;
use super::schema::either_schema;
use super::value::{
    Address, AddressOrOff, Cidr, ClientCertDetail, Count, Duration, FilePath, HeaderValue, Host, HttpVersion, Name,
    PositiveDuration, ProxyHeader, Pseudonym, Size, Upstream, Workers,
};

table! { "the file"
/// A configuration file.
pub struct File {
    /// More files. Relative to this one; `*`, `?` and `[…]` as in a shell. Tables in double brackets add up over all
    /// files; the others may be in one file only.
    #[schemars(extend("examples" = [["conf.d/*.toml"]]))]
    pub include: Optional<Given<List<FilePath>>>,
    /// The process.
    pub gateway: Optional<Gateway>,
    /// The admin endpoint: `/ready`, `/healthz`, `/metrics`, `/config`, `POST /reload`, `POST /certificates/renew`
    /// and others, which `/` lists.
    pub admin: Optional<Admin>,
    /// One line for every request. Without this table there is no access log.
    pub access_log: Optional<AccessLog>,
    /// What the process does without when it has too little memory, or too little time. It is on without this table too.
    pub overload: Optional<Overload>,
    /// The XDP program, which drops packets of denied sources and balances those for a `[[vip]]` before the kernel's
    /// network stack sees them.
    pub xdp: Optional<Xdp>,
    /// A rule on the address a connection comes from.
    #[schemars(default)]
    pub access: List<Access>,
    /// An address and port whose packets are balanced in the kernel, over the endpoints of a cluster. At most 512, with
    /// 16384 endpoints together.
    #[schemars(default)]
    pub vip: List<Vip>,
    /// A certificate with its private key.
    #[schemars(default)]
    pub certificate: List<Certificate>,
    /// An account with a certificate authority that issues by ACME (RFC 8555), such as Let's Encrypt. It is made when a
    /// certificate first needs it.
    #[schemars(default)]
    pub acme: List<Acme>,
    /// Where ACME accounts and the certificates that were issued are kept.
    pub certificate_store: Optional<CertificateStore>,
    /// Who is told when a certificate is about to expire, has expired, or was refused. There are lines in the log without
    /// this table too.
    pub certificate_alerts: Optional<CertificateAlerts>,
    /// An address to listen on.
    #[schemars(default)]
    pub listener: List<Listener>,
    /// Endpoints that serve the same thing.
    #[schemars(default)]
    pub cluster: List<Cluster>,
    /// Rules that judge descriptors on this box: for the rate limit service that a route makes of it.
    #[schemars(default)]
    pub limits: List<LimitSet>,
    /// Which requests go where. Of the routes that match, the most specific one is taken, in the order of the
    /// Kubernetes Gateway API: by host, path, method, headers, query parameters, then addresses; then the first in the
    /// file.
    #[schemars(default)]
    pub route: List<Route>,
    /// Which connections, or datagrams, of listeners that are not `http` go where. Of the routes that match, the first
    /// in the file is taken; a connection that none takes is reset. On an `http` listener with `tls`, TLS connections for
    /// the `server_names` of a route pass through untouched, and all others are terminated there.
    #[schemars(default)]
    pub l4_route: List<L4Route>,
}
}

table! { "[gateway]"
/// The process.
pub struct Gateway {
    /// Worker threads; `"auto"` is one for each core the process may run on.
    #[schemars(extend("default" = "auto", "examples" = [4]))]
    pub workers: Optional<Workers>,
    /// How long requests in flight may take after SIGTERM.
    #[schemars(extend("default" = "30s", "examples" = ["1m"]))]
    pub drain_timeout: Optional<Duration>,
    /// Peers whose PROXY header, `X-Forwarded-For` and `Forwarded` are believed.
    #[schemars(extend("default" = [], "examples" = [["10.0.0.0/8"]]))]
    pub trusted_proxies: Optional<List<Cidr>>,
    /// When more than 0 and the peer is trusted, the client is this entry of `X-Forwarded-For`, counted from the right:
    /// for proxies whose addresses are not known. With 0, it is the right-most one that is not a trusted proxy's.
    #[schemars(extend("default" = 0, "examples" = [1]))]
    pub trusted_hops: Optional<Count<u32, 0, 100>>,
    /// Tell origins who the client is by `Forwarded` (RFC 7239) too.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub forwarded_header: Optional<bool>,
    /// What the `server` response header says in place of the origin's; `"off"` passes the origin's through.
    #[schemars(extend("default" = "gateway", "examples" = ["off"]))]
    pub server_header: Optional<HeaderValue>,
    /// The pseudonym added to the `via` header in both directions (RFC 9110 section 7.6.3). Without it none is added.
    #[schemars(extend("examples" = ["edge-1"]))]
    pub via: Optional<Pseudonym>,
    /// The user that the process becomes once it has read its configuration: a name, or a number. It has to be started as
    /// root for that. Without it, it stays who it is. Either way it keeps few capabilities, and its workers none: root too
    /// cannot write into other users' directories then; see docs/tls.md.
    #[schemars(extend("examples" = ["gateway"]))]
    pub user: Optional<Name>,
    /// The group, likewise; `user` has to be given too. Without it, the user's own.
    #[schemars(extend("examples" = ["gateway"]))]
    pub group: Optional<Name>,
    /// Whether the kernel may write the memory of a process that crashes to a file, and lets other processes of the same
    /// user look into it. Private keys are in it.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub core_dumps: Optional<bool>,
}
}

table! { "[admin]"
/// The admin endpoint.
pub struct Admin {
    /// Where it listens; `"off"` for nowhere. It has no password: keep it on loopback.
    #[schemars(extend("default" = "127.0.0.1:9901", "examples" = ["off"]))]
    pub address: Optional<AddressOrOff>,
}
}

table! { "[access_log]"
/// The access log.
pub struct AccessLog {
    /// A file, or `"stdout"`. The file is opened again on SIGUSR1.
    #[schemars(extend("default" = "stdout", "examples" = ["/var/log/gateway/access.log"]))]
    pub path: Optional<FilePath>,
    /// `"json"`, `"text"` (Envoy's default line), or an Envoy format string.
    #[schemars(extend("default" = "json", "examples" = ["%START_TIME% %REQ(:METHOD)% %RESPONSE_CODE%\n"]))]
    pub format: Optional<String>,
}
}

table! { "[[certificate]]"
/// A certificate with its private key: from a pair of files, each pair of a directory, obtained by ACME, or shared by etcd.
/// The files are watched: a new pair is there for the next handshake, and a bad one is refused while the old one stays.
pub struct Certificate {
    /// What listeners call it.
    #[schemars(extend("examples" = ["example"]))]
    pub name: Required<Name>,
    /// PEM file with the certificate, then the intermediate ones.
    #[schemars(extend("examples" = ["certs/example.pem"]))]
    pub chain: Optional<Given<FilePath>>,
    /// PEM file with the private key.
    #[schemars(extend("examples" = ["certs/example.key"]))]
    pub key: Optional<Given<FilePath>>,
    /// DER file with what the authority says about the certificate's not being revoked (OCSP, RFC 6960), for clients that
    /// ask for it. One that has expired, or is about another certificate, is not shown.
    #[schemars(extend("examples" = ["certs/example.ocsp"]))]
    pub ocsp: Optional<FilePath>,
    /// In place of `chain` and `key`: a directory, in which every `NAME.crt` or `NAME.pem` with a `NAME.key`, and perhaps a
    /// `NAME.ocsp`, is a certificate. Pairs may come and go; one that is bad is left out.
    #[schemars(extend("examples" = ["certs/customers"]))]
    pub directory: Optional<Given<FilePath>>,
    /// In place of `chain` and `key`: the `[[acme]]` table by which it is obtained, for the `hosts`.
    #[schemars(extend("examples" = ["letsencrypt"]))]
    pub acme: Optional<Given<Name>>,
    /// In place of `chain` and `key`: it is in the etcd of `[certificate_store]`, where somebody puts it for all boxes:
    /// private key and chain in one value, in PEM, under `certificates/` and the certificate's name.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub stored: Optional<bool>,
    /// Server names to use it for; the certificate must cover them. Without this, all that it covers. Not for a `directory`.
    #[schemars(extend("examples" = [["example.com", "*.example.com"]]))]
    pub hosts: Optional<List<Host>>,
    /// The HTTP versions that clients of these hosts are offered, of those the listener speaks.
    #[schemars(extend("default" = ["h2", "h1"], "examples" = [["h1"]]))]
    pub http: Optional<List<HttpVersion>>,
}
}

table! { "[[listener]]"
/// An address to listen on.
pub struct Listener {
    /// What routes call it, and metrics.
    #[schemars(extend("examples" = ["web"]))]
    pub name: Required<Name>,
    /// IP address and port. `[::]` takes IPv4 connections too.
    #[schemars(extend("examples" = ["[::]:443"]))]
    pub address: Required<Address>,
    /// What it speaks: HTTP; any protocol over TCP; TLS that is terminated by what it is passed to; or datagrams.
    #[schemars(extend("default" = "http", "examples" = ["http"]))]
    pub protocol: Optional<Given<ListenerProtocol>>,
    /// The HTTP versions it speaks: over TLS the client chooses (ALPN), without TLS HTTP/2 is known by its preface.
    #[schemars(extend("default" = ["h2", "h1"], "examples" = [["h1"]]))]
    pub http: Optional<List<HttpVersion>>,
    /// What one HTTP/2 connection may take.
    pub http2: Optional<Http2>,
    /// Whether connections begin with a PROXY header, version 1 or 2. Only that of a trusted proxy is believed: with
    /// `"require"` all other connections are reset, with `"accept"` they are taken as they are.
    #[schemars(extend("default" = "off", "examples" = ["require"]))]
    pub proxy_protocol: Optional<ProxyProtocol>,
    /// In place of those of `[gateway]`.
    #[schemars(extend("examples" = [["192.0.2.0/24"]]))]
    pub trusted_proxies: Optional<List<Cidr>>,
    /// Makes it a TLS listener. With `protocol = "tcp"`, what is in the TLS is relayed.
    pub tls: Optional<ListenerTls>,
    /// What the origin is told by `x-forwarded-client-cert`: nothing; what the gateway knows of the client's certificate;
    /// what the client sent, if it has shown a certificate; both; or what the client sent, whoever it is.
    #[schemars(extend("default" = "sanitize", "examples" = ["sanitize_set"]))]
    pub forward_client_cert: Optional<ForwardClientCert>,
    /// What the gateway tells of the client's certificate, besides its SHA-256.
    #[schemars(extend("default" = [], "examples" = [["subject", "uri", "dns"]]))]
    pub forward_client_cert_details: Optional<List<ClientCertDetail>>,
    /// What one client, or all together, may take. Those about requests are for `http` only.
    pub limits: Optional<Limits>,
    /// What happens to a path before routes see it; the origin gets the result.
    pub path_normalisation: Optional<PathNormalisation>,
    /// What happens to requests before anything else, whichever route they take.
    pub filters: Optional<List<Filter>>,
}
}

table! { "`http2` of [[listener]]"
/// What one HTTP/2 connection may take.
pub struct Http2 {
    /// Requests at once.
    #[schemars(extend("default" = 128, "examples" = [256]))]
    pub max_concurrent_streams: Optional<Count<u32, 1, 10_000>>,
    /// Bytes of one request's body that may be on their way before they are taken: 65535 to 2147483647.
    #[schemars(extend("default" = "256KiB", "examples" = ["64KiB"]))]
    pub stream_window: Optional<Size>,
    /// The same for all requests of a connection; not less than `stream_window`.
    #[schemars(extend("default" = "1MiB", "examples" = ["4MiB"]))]
    pub connection_window: Optional<Size>,
}
}

table! { "`limits` of [[listener]]"
/// What one client, or all together, may take.
pub struct Limits {
    /// Connections open at once.
    #[schemars(extend("default" = 65536, "examples" = [100000]))]
    pub connections: Optional<Count<u32, 1, 10_000_000>>,
    /// Connections open at once from one address.
    #[schemars(extend("default" = 1024, "examples" = [100]))]
    pub connections_per_source: Optional<Count<u32, 1, 10_000_000>>,
    /// New connections, over all workers; those that come faster are reset. Without it, as fast as they come.
    #[schemars(extend("examples" = [{"connections": 1000, "per": "1s", "burst": 5000}]))]
    pub new_connections: Optional<ConnectionRate>,
    /// The same from one address; of IPv6, from one network of 64 bits, which is what one customer is given (RFC 6177).
    #[schemars(extend("examples" = [{"connections": 10, "per": "1s", "burst": 50}]))]
    pub new_connections_per_source: Optional<ConnectionRate>,
    /// Longest request head. More is answered with 431.
    #[schemars(extend("default" = "60KiB", "examples" = ["16KiB"]))]
    pub header_bytes: Optional<Size>,
    /// Most header fields in a request. More are answered with 431.
    #[schemars(extend("default" = 100, "examples" = [200]))]
    pub header_count: Optional<Count<u16, 1, 10_000>>,
    /// Time for a request head, from its first byte to its last.
    #[schemars(extend("default" = "10s", "examples" = ["5s"]))]
    pub header_timeout: Optional<PositiveDuration>,
    /// Time for the TLS handshake.
    #[schemars(extend("default" = "10s", "examples" = ["5s"]))]
    pub handshake_timeout: Optional<PositiveDuration>,
    /// Time between two requests on a connection, and between two pieces of a message.
    #[schemars(extend("default" = "60s", "examples" = ["5m"]))]
    pub idle_timeout: Optional<PositiveDuration>,
    /// Longest request body; more is answered with 413. Without it there is no limit.
    #[schemars(extend("examples" = ["10MiB"]))]
    pub body_bytes: Optional<Size>,
}
}

table! { "a rate of connections"
/// A rate of new connections, or sessions of datagrams (token bucket). It is that of the whole box, however many workers
/// there are, and a reload does not fill the bucket.
pub struct ConnectionRate {
    /// Connections that are let in in each `per`; at most ten million a second.
    #[schemars(extend("examples" = [1000]))]
    pub connections: Required<Count<u32, 1, 1_000_000_000>>,
    /// The time in which an empty bucket gets that many tokens. They come one by one, not all at once.
    #[schemars(extend("examples" = ["1s"]))]
    pub per: Required<PositiveDuration>,
    /// Tokens that a bucket holds: connections that may come at once. Without it, as many as `connections`.
    #[schemars(extend("examples" = [5000]))]
    pub burst: Optional<Count<u32, 1, 1_000_000_000>>,
}
}

table! { "`path_normalisation` of [[listener]]"
/// What happens to a path before routes see it.
pub struct PathNormalisation {
    /// Resolve `.` and `..`, also when written `%2e` (RFC 3986 section 5.2.4).
    #[schemars(extend("default" = true, "examples" = [false]))]
    pub dot_segments: Optional<bool>,
    /// Make `//` a `/`.
    #[schemars(extend("default" = true, "examples" = [false]))]
    pub merge_slashes: Optional<bool>,
    /// What to do with `%2f` and `%5c`: leave them, answer 400, or make them `/`.
    #[schemars(extend("default" = "reject", "examples" = ["keep"]))]
    pub encoded_slashes: Optional<EncodedSlashes>,
}
}

table! { "[[cluster]]"
/// Endpoints that serve the same thing.
pub struct Cluster {
    /// What routes call it, and metrics.
    #[schemars(extend("examples" = ["api"]))]
    pub name: Required<Name>,
    /// The HTTP version the endpoints speak; `"auto"` takes the one they choose (ALPN), and needs `tls`.
    #[schemars(extend("default" = "h1", "examples" = ["h2"]))]
    pub protocol: Optional<UpstreamProtocol>,
    /// Requests at once on one HTTP/2 connection. The endpoint may allow fewer.
    #[schemars(extend("default" = 100, "examples" = [1000]))]
    pub max_streams: Optional<Count<u32, 1, 100_000>>,
    /// The PROXY header that tells the endpoint who the client is. A connection with one serves one client connection
    /// only.
    #[schemars(extend("default" = "off", "examples" = ["v2"]))]
    pub proxy_protocol: Optional<ProxyHeader>,
    /// How an endpoint is chosen.
    #[schemars(extend("default" = "round_robin", "examples" = ["least_request"]))]
    pub balance: Optional<Balance>,
    /// What of a request is the key of `balance = "maglev"` and `"ring_hash"`; all that the rules find is put together.
    /// Requests in which none finds anything go anywhere. Without it, the client's address, and connections and datagrams
    /// of an l4_route always go by that.
    #[schemars(extend("examples" = [[{"header": "x-user-id", "terminal": true}, {"source_ip": true}]]))]
    pub hash_on: Optional<List<HashRule>>,
    /// A cookie that names the endpoint; it goes before `balance`. Requests only.
    pub affinity_cookie: Optional<AffinityCookie>,
    /// When fewer than this percent of the endpoints of a priority are up, the health checks are more likely to be wrong
    /// than so many endpoints to be dead, and all of them are used; unless those of other priorities can take the load.
    /// 0 is never. A vip uses all when none is up.
    #[schemars(extend("default" = 50, "examples" = [30]))]
    pub panic_threshold: Optional<Count<u8, 0, 100>>,
    /// Labels, such as the zone of this box: of each priority, the endpoints that have them come first. Not for vips.
    #[schemars(extend("default" = {}, "examples" = [{"zone": "a"}]))]
    pub prefer: Optional<Map<Name>>,
    /// Where requests go. Every address a name has is an endpoint. With an empty list requests are answered with 503.
    #[schemars(extend("examples" = [["10.0.0.1:8080", "api.internal:8080"]]))]
    pub endpoints: Required<List<Endpoint>>,
    /// Time to connect to an endpoint.
    #[schemars(extend("default" = "5s", "examples" = ["500ms"]))]
    pub connect_timeout: Optional<PositiveDuration>,
    /// How long an unused connection is kept.
    #[schemars(extend("default" = "60s", "examples" = ["10s"]))]
    pub idle_timeout: Optional<PositiveDuration>,
    /// Connections open at once from one worker to one endpoint. A request that finds all of them busy waits for one.
    #[schemars(extend("default" = 1024, "examples" = [64]))]
    pub max_connections: Optional<Count<u32, 1, 1_000_000>>,
    /// Requests that wait for a connection to become free, over all workers: first come, first served, each for
    /// `connect_timeout` at most. More are answered with 503 at once.
    #[schemars(extend("default" = 1024, "examples" = [0]))]
    pub max_pending_requests: Optional<Count<u32, 0, 1_000_000>>,
    /// Requests in progress, over all workers; more are answered with 503. Without it there is no limit.
    #[schemars(extend("examples" = [10000]))]
    pub max_requests: Optional<Count<u32, 1, 10_000_000>>,
    /// How many of them may be retries. More are not sent, and the client gets the answer that is there.
    pub retry_budget: Optional<RetryBudget>,
    /// Unused connections one worker keeps to one endpoint.
    #[schemars(extend("default" = 256, "examples" = [16]))]
    pub max_idle_connections: Optional<Count<u32, 0, 1_000_000>>,
    /// How often names are looked up again.
    #[schemars(extend("default" = "5s", "examples" = ["30s"]))]
    pub dns_refresh: Optional<PositiveDuration>,
    /// Speak TLS to the endpoints.
    pub tls: Optional<ClusterTls>,
    /// Ask each endpoint whether it is well, once however many workers there are. Without it all are taken to be.
    /// `panic_threshold` says when the checks are not believed.
    pub health_check: Optional<HealthCheck>,
    /// Leave endpoints out for a while that answer badly. Without it nobody's answers are taken amiss.
    pub outlier_detection: Optional<OutlierDetection>,
    /// The time in which the share of an endpoint that is new, or healthy again, grows from a tenth to all of its weight.
    /// `"0s"` is at once. Requests that go by a key are shared out by the full weights.
    #[schemars(extend("default" = "0s", "examples" = ["30s"]))]
    pub slow_start: Optional<Duration>,
}
}

table! { "`retry_budget` of [[cluster]]"
/// How many retries may be in progress, over all workers.
pub struct RetryBudget {
    /// Percent of the requests in progress.
    #[schemars(extend("default" = 20, "examples" = [10]))]
    pub percent: Optional<Count<u8, 0, 100>>,
    /// So many in any case.
    #[schemars(extend("default" = 3, "examples" = [10]))]
    pub min_retries: Optional<Count<u32, 0, 1_000_000>>,
}
}

/// `"10.0.0.1:8080"`, or a table when there is more to say.
#[derive(Debug)]
pub struct Endpoint(pub EndpointTable);

table! { "an endpoint"
/// An endpoint with a weight.
pub struct EndpointTable {
    /// Address or name, and port.
    #[schemars(extend("examples" = ["10.0.0.2:8080"]))]
    pub address: Required<Upstream>,
    /// Its share of the cluster's requests, relative to those of the others.
    #[schemars(extend("default" = 1, "examples" = [2]))]
    pub weight: Optional<Count<u16, 1, 65_535>>,
    /// What it has goes on, and nothing new comes.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub drain: Optional<bool>,
    /// Endpoints of priority 0 take everything while 72 % of them are up; what is then too much for them goes to the next
    /// priority that has endpoints. Not for vips.
    #[schemars(extend("default" = 0, "examples" = [1]))]
    pub priority: Optional<Count<u8, 0, 127>>,
    /// What `subset` of a route and `prefer` of the cluster ask for.
    #[schemars(extend("default" = {}, "examples" = [{"version": "v2", "zone": "a"}]))]
    pub labels: Optional<Map<Name>>,
}
}

impl Decode for Endpoint {
    fn decode(node: Node<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        if node.is_table() {
            return EndpointTable::decode(node, diagnostics).map(Endpoint);
        }
        let address = Required(Some(node.read(diagnostics)?));
        Some(Endpoint(EndpointTable { address, weight: None, drain: None, priority: None, labels: None }))
    }
}

either_schema!(Endpoint, Upstream, EndpointTable);
