//! The file's shape, exactly: every table and key, with what the reference says about it.
//!
//! This is the only description of the file. The JSON Schema, `docs/config.md` and the reader come from it. Nothing
//! here is checked beyond how a single value is written; that is `check`.
//!
//! `default` and `example` are for people; a test holds both against the code.

use super::decode::{Decode, Given, List, Map, Node, Optional, Required, table};
use super::model::{AccessAction, Balance, EncodedSlashes, TlsVersion, XdpMode};
use super::report::Diagnostics;
use super::schema::either_schema;
use super::value::{
    Address, AddressOrOff, Authority, Cidr, Count, Duration, Expression, FilePath, HeaderName, HeaderValue, Host,
    HostName, HttpVersion, Interface, ListenerProtocol, Method, Name, PositiveDuration, Pseudonym, RedirectStatus,
    Scheme, Size, Upstream, UrlPath, Workers,
};

table! { "the file" later ["vip"]
/// A configuration file.
pub struct File {
    /// More files. Relative to this one; `*`, `?` and `[…]` as in a shell. Tables in double brackets add up over all
    /// files; the others may be in one file only.
    #[schemars(extend("examples" = [["conf.d/*.toml"]]))]
    pub include: Optional<Given<List<FilePath>>>,
    /// The process.
    pub gateway: Optional<Gateway>,
    /// The admin endpoint: `/ready`, `/healthz`, `/metrics`, `/config`, `/reload`.
    pub admin: Optional<Admin>,
    /// One line for every request. Without this table there is no access log.
    pub access_log: Optional<AccessLog>,
    /// The XDP program, which drops packets of denied sources before the kernel's network stack sees them.
    pub xdp: Optional<Xdp>,
    /// A rule on the address a connection comes from.
    #[schemars(default)]
    pub access: List<Access>,
    /// A certificate with its private key.
    #[schemars(default)]
    pub certificate: List<Certificate>,
    /// An address to listen on.
    #[schemars(default)]
    pub listener: List<Listener>,
    /// Endpoints that serve the same thing.
    #[schemars(default)]
    pub cluster: List<Cluster>,
    /// Which requests go where. Of the routes that match, the most specific one is taken, in the order of the
    /// Kubernetes Gateway API: by host, path, method, headers, query parameters; then the first in the file.
    #[schemars(default)]
    pub route: List<Route>,
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
    /// Peers whose `X-Forwarded-For` is believed.
    #[schemars(extend("default" = [], "examples" = [["10.0.0.0/8"]]))]
    pub trusted_proxies: Optional<List<Cidr>>,
    /// What the `server` response header says in place of the origin's; `"off"` passes the origin's through.
    #[schemars(extend("default" = "gateway", "examples" = ["off"]))]
    pub server_header: Optional<HeaderValue>,
    /// The pseudonym added to the `via` header in both directions (RFC 9110 section 7.6.3). Without it none is added.
    #[schemars(extend("examples" = ["edge-1"]))]
    pub via: Optional<Pseudonym>,
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

table! { "[xdp]"
/// The XDP program.
pub struct Xdp {
    /// Interfaces to attach it to. Without any, XDP is off.
    #[schemars(extend("default" = [], "examples" = [["eth0"]]))]
    pub interfaces: Optional<List<Interface>>,
    /// How it is attached; `"auto"` is native, else generic, else off with a warning.
    #[schemars(extend("default" = "auto", "examples" = ["native"]))]
    pub mode: Optional<XdpMode>,
}
}

table! { "[[access]]"
/// A rule on the address a connection comes from. `allow` wins over `deny`.
pub struct Access {
    /// What it is called in metrics.
    #[schemars(extend("examples" = ["bad-actors"]))]
    pub name: Required<Name>,
    /// `"deny"` drops the packets in XDP, or closes the connection where XDP is off.
    #[schemars(extend("examples" = ["deny"]))]
    pub action: Required<AccessAction>,
    /// Addresses and networks.
    #[schemars(extend("default" = [], "examples" = [["203.0.113.0/24", "2001:db8::/32"]]))]
    pub sources: Optional<List<Cidr>>,
    /// Files with an address or network on each line; `#` begins a comment.
    #[schemars(extend("default" = [], "examples" = [["blacklist.txt"]]))]
    pub source_files: Optional<List<FilePath>>,
}
}

table! { "[[certificate]]"
/// A certificate with its private key.
pub struct Certificate {
    /// What listeners call it.
    #[schemars(extend("examples" = ["example"]))]
    pub name: Required<Name>,
    /// PEM file with the certificate, then the intermediate ones.
    #[schemars(extend("examples" = ["certs/example.pem"]))]
    pub chain: Required<FilePath>,
    /// PEM file with the private key.
    #[schemars(extend("examples" = ["certs/example.key"]))]
    pub key: Required<FilePath>,
    /// Server names to use it for; the certificate must cover them. Without this, all that it covers.
    #[schemars(extend("examples" = [["example.com", "*.example.com"]]))]
    pub hosts: Optional<List<Host>>,
}
}

table! { "[[listener]]" later ["proxy_protocol"]
/// An address to listen on.
pub struct Listener {
    /// What routes call it, and metrics.
    #[schemars(extend("examples" = ["web"]))]
    pub name: Required<Name>,
    /// IP address and port. `[::]` takes IPv4 connections too.
    #[schemars(extend("examples" = ["[::]:443"]))]
    pub address: Required<Address>,
    /// What it speaks.
    #[expect(dead_code, reason = "there is one value so far")]
    #[schemars(extend("default" = "http", "examples" = ["http"]))]
    pub protocol: Optional<ListenerProtocol>,
    /// The HTTP versions it speaks.
    #[schemars(extend("default" = ["h1"], "examples" = [["h1"]]))]
    pub http: Optional<List<HttpVersion>>,
    /// Makes it a TLS listener.
    pub tls: Optional<ListenerTls>,
    /// What one client, or all together, may take.
    pub limits: Optional<Limits>,
    /// What happens to a path before routes see it; the origin gets the result.
    pub path_normalisation: Optional<PathNormalisation>,
}
}

table! { "`tls` of [[listener]]"
/// TLS towards clients.
pub struct ListenerTls {
    /// Names of `[[certificate]]` tables. The server name the client asks for chooses; the first one is for clients
    /// that ask for none of them.
    #[schemars(extend("examples" = [["example"]]))]
    pub certificates: Required<List<Name>>,
    /// The oldest TLS version that is accepted.
    #[schemars(extend("default" = "1.2", "examples" = ["1.3"]))]
    pub min_version: Optional<TlsVersion>,
    /// Refuse clients that ask for a name no certificate covers, rather than showing them the first certificate.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub strict_sni: Optional<bool>,
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

table! { "[[cluster]]" later ["health_check"]
/// Endpoints that serve the same thing.
pub struct Cluster {
    /// What routes call it, and metrics.
    #[schemars(extend("examples" = ["api"]))]
    pub name: Required<Name>,
    /// What the endpoints speak.
    #[expect(dead_code, reason = "there is one value so far")]
    #[schemars(extend("default" = "h1", "examples" = ["h1"]))]
    pub protocol: Optional<HttpVersion>,
    /// How an endpoint is chosen.
    #[schemars(extend("default" = "round_robin", "examples" = ["round_robin"]))]
    pub balance: Optional<Balance>,
    /// Where requests go. Every address a name has is an endpoint. With an empty list requests are answered with 503.
    #[schemars(extend("examples" = [["10.0.0.1:8080", "api.internal:8080"]]))]
    pub endpoints: Required<List<Endpoint>>,
    /// Time to connect to an endpoint.
    #[schemars(extend("default" = "5s", "examples" = ["500ms"]))]
    pub connect_timeout: Optional<PositiveDuration>,
    /// How long an unused connection is kept.
    #[schemars(extend("default" = "60s", "examples" = ["10s"]))]
    pub idle_timeout: Optional<PositiveDuration>,
    /// Connections open at once from one worker to one endpoint.
    #[schemars(extend("default" = 1024, "examples" = [64]))]
    pub max_connections: Optional<Count<u32, 1, 1_000_000>>,
    /// Unused connections one worker keeps to one endpoint.
    #[schemars(extend("default" = 256, "examples" = [16]))]
    pub max_idle_connections: Optional<Count<u32, 0, 1_000_000>>,
    /// How often names are looked up again.
    #[schemars(extend("default" = "5s", "examples" = ["30s"]))]
    pub dns_refresh: Optional<PositiveDuration>,
    /// Speak TLS to the endpoints.
    pub tls: Optional<ClusterTls>,
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
}
}

impl Decode for Endpoint {
    fn decode(node: Node<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        if node.is_table() {
            return EndpointTable::decode(node, diagnostics).map(Endpoint);
        }
        let address = Required(Some(node.read(diagnostics)?));
        Some(Endpoint(EndpointTable { address, weight: None }))
    }
}

either_schema!(Endpoint, Upstream, EndpointTable);

table! { "`tls` of [[cluster]]"
/// TLS towards endpoints.
pub struct ClusterTls {
    /// The server name to ask for and to verify. Without it, the endpoint's name or address.
    #[schemars(extend("examples" = ["api.internal"]))]
    pub server_name: Optional<HostName>,
    /// PEM file with the authorities to trust. Without it, the system's.
    #[schemars(extend("examples" = ["certs/internal-ca.pem"]))]
    pub ca: Optional<FilePath>,
    /// Whether the endpoint's certificate is verified.
    #[schemars(extend("default" = true, "examples" = [false]))]
    pub verify: Optional<bool>,
}
}

table! { "[[route]]" later ["filters"]
/// Which requests go where. One of `cluster`, `clusters`, `redirect` and `respond` says where.
pub struct Route {
    /// What it is called in the access log and in metrics.
    #[schemars(extend("examples" = ["api-v1"]))]
    pub name: Required<Name>,
    /// Names of listeners. Without it, all of them.
    #[schemars(extend("examples" = [["web"]]))]
    pub listeners: Optional<List<Name>>,
    /// Hosts, without port: exact, `*.` and a name for everything below it, or `*`. Without it, any.
    #[schemars(extend("examples" = [["api.example.com", "*.example.org"]]))]
    pub hosts: Optional<List<Host>>,
    /// Which requests. Every part must hold; without it, all requests.
    pub r#match: Optional<Match>,
    /// The cluster requests go to.
    #[schemars(extend("examples" = ["api"]))]
    pub cluster: Optional<Given<Name>>,
    /// Several clusters, each with a share of the requests.
    #[schemars(extend("examples" = [[{"name": "api", "weight": 9}, {"name": "api-canary", "weight": 1}]]))]
    pub clusters: Optional<Given<List<WeightedCluster>>>,
    /// Answer with a redirect.
    pub redirect: Optional<Given<Redirect>>,
    /// Answer from here.
    pub respond: Optional<Given<Respond>>,
    /// What the origin sees in place of the path and host of the request.
    pub rewrite: Optional<Rewrite>,
    /// Time from the end of the request to the end of the answer; `"0s"` is no limit, for long downloads.
    #[schemars(extend("default" = "15s", "examples" = ["1m30s"]))]
    pub timeout: Optional<Duration>,
    /// Longest request body, in place of the listener's limit.
    #[schemars(extend("examples" = ["1GiB"]))]
    pub body_bytes: Optional<Size>,
    /// Changes to the headers the origin gets.
    pub request_headers: Optional<HeaderEdits>,
    /// Changes to the headers the client gets.
    pub response_headers: Optional<HeaderEdits>,
}
}

table! { "`match` of [[route]]"
/// Which requests. At most one of `path`, `path_prefix` and `path_regex`.
pub struct Match {
    /// Exactly this path.
    #[schemars(extend("examples" = ["/login"]))]
    pub path: Optional<UrlPath>,
    /// This path and those below it: `/v1` has `/v1/users`, and not `/v10`.
    #[schemars(extend("examples" = ["/v1"]))]
    pub path_prefix: Optional<UrlPath>,
    /// A regular expression that matches the whole path.
    #[schemars(extend("examples" = ["/users/[0-9]+/avatar"]))]
    pub path_regex: Optional<Expression>,
    /// One of these methods.
    #[schemars(extend("examples" = [["GET", "HEAD"]]))]
    pub methods: Optional<List<Method>>,
    /// Header fields and what their values must be.
    #[schemars(extend("examples" = [{"x-canary": "1"}]))]
    pub headers: Optional<Map<Condition>>,
    /// Query parameters and what their values must be. Names and values are compared as they are in the URL.
    #[schemars(extend("examples" = [{"debug": {"present": true}}]))]
    pub query: Optional<Map<Condition>>,
}
}

/// Text that is equal, or a table.
#[derive(Debug)]
pub enum Condition {
    /// `"text"`
    Exact(String),
    /// `{ … }`
    Table(ConditionTable),
}

table! { "a condition"
/// A condition on a value: one of `regex` and `present`.
pub struct ConditionTable {
    /// A regular expression that matches the whole value.
    #[schemars(extend("examples" = ["v[12]"]))]
    pub regex: Optional<Given<Expression>>,
    /// That there is a value, or with `false`, that there is none.
    #[schemars(extend("examples" = [true]))]
    pub present: Optional<Given<bool>>,
}
}

impl Decode for Condition {
    fn decode(node: Node<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        match node.is_table() {
            true => ConditionTable::decode(node, diagnostics).map(Condition::Table),
            false => String::decode(node, diagnostics).map(Condition::Exact),
        }
    }
}

either_schema!(Condition, String, ConditionTable);

table! { "`clusters` of [[route]]"
/// A cluster's share of a route.
pub struct WeightedCluster {
    /// The cluster.
    #[schemars(extend("examples" = ["api-canary"]))]
    pub name: Required<Name>,
    /// Its share of the sum of all weights; 0 takes no requests.
    #[schemars(extend("examples" = [10]))]
    pub weight: Required<Count<u32, 0, 1_000_000>>,
}
}

table! { "`rewrite` of [[route]]"
/// What the origin sees in place of the path and host of the request.
pub struct Rewrite {
    /// Replaces the part of the path that `match` names. `x-envoy-original-path` keeps the original.
    #[schemars(extend("examples" = ["/"]))]
    pub path_prefix: Optional<UrlPath>,
    /// Replaces the host.
    #[schemars(extend("examples" = ["internal.example.com"]))]
    pub host: Optional<Authority>,
}
}

table! { "`redirect` of [[route]]"
/// A redirect. What is not named stays as in the request.
pub struct Redirect {
    /// The status code.
    #[schemars(extend("default" = 301, "examples" = [308]))]
    pub status: Optional<RedirectStatus>,
    /// The scheme.
    #[schemars(extend("examples" = ["https"]))]
    pub scheme: Optional<Scheme>,
    /// The host.
    #[schemars(extend("examples" = ["www.example.com"]))]
    pub host: Optional<HostName>,
    /// The port.
    #[schemars(extend("examples" = [8443]))]
    pub port: Optional<Count<u16, 1, 65_535>>,
    /// The whole path; the query stays.
    #[schemars(extend("examples" = ["/moved"]))]
    pub path: Optional<UrlPath>,
    /// Replaces the part of the path that `match` names.
    #[schemars(extend("examples" = ["/v2"]))]
    pub path_prefix: Optional<UrlPath>,
}
}

table! { "`respond` of [[route]]"
/// An answer from the gateway itself.
pub struct Respond {
    /// The status code.
    #[schemars(extend("examples" = [404]))]
    pub status: Required<Count<u16, 200, 599>>,
    /// The body.
    #[schemars(extend("default" = "", "examples" = ["not here\n"]))]
    pub body: Optional<String>,
    /// The body's type.
    #[schemars(extend("default" = "text/plain", "examples" = ["application/json"]))]
    pub content_type: Optional<HeaderValue>,
}
}

table! { "header edits"
/// Changes to headers, done in this order.
pub struct HeaderEdits {
    /// Fields to remove.
    #[schemars(extend("default" = [], "examples" = [["x-powered-by"]]))]
    pub remove: Optional<List<HeaderName>>,
    /// Fields to set, replacing those that are there.
    #[schemars(extend("default" = {}, "examples" = [{"x-frame-options": "DENY"}]))]
    pub set: Optional<Map<HeaderValue>>,
    /// Fields to add to those that are there.
    #[schemars(extend("default" = {}, "examples" = [{"link": ["</a>", "</b>"]}]))]
    pub add: Optional<Map<OneOrMany>>,
}
}

/// A header value, or a list of them: one field each.
#[derive(Debug)]
pub struct OneOrMany(pub List<HeaderValue>);

impl Decode for OneOrMany {
    fn decode(node: Node<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        match node.is_list() {
            true => List::decode(node, diagnostics).map(OneOrMany),
            false => node.read(diagnostics).map(|value| OneOrMany(vec![value])),
        }
    }
}

either_schema!(OneOrMany, HeaderValue, List<HeaderValue>);
