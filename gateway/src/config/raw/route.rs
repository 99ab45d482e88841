//! `[[route]]` and `[[l4_route]]`.

use super::{Breaker, Filter, HashRule};
use crate::config::decode::{Decode, Given, List, Map, Node, Optional, Required, table};
use crate::config::model::{Priority, RetryOn, SubsetFallback};
use crate::config::report::Diagnostics;
use crate::config::schema::either_schema;
use crate::config::value::{
    Alpn, Authority, Cidr, Count, Duration, Expression, GrpcMethod, GrpcService, HeaderName, HeaderValue, Host,
    HostName, Method, Name, Percent, PositiveDuration, RedirectStatus, Scheme, ServerName, Size, UrlPath,
};

table! { "[[route]]"
/// Which requests go where. One of `cluster`, `clusters`, `redirect` and `respond` says where.
pub struct Route {
    /// What it is called in the access log and in metrics.
    #[schemars(extend("examples" = ["api-v1"]))]
    pub name: Required<Name>,
    /// Names of listeners. Without it, all that are `http`.
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
    /// What of a request is the key of clusters with `balance = "maglev"` or `"ring_hash"`, in place of their own rules. Of
    /// several `clusters`, the key chooses one too.
    #[schemars(extend("examples" = [[{"cookie": {"name": "session", "ttl": "1h", "path": "/"}}]]))]
    pub hash_on: Optional<List<HashRule>>,
    /// Use only the endpoints with all of these labels.
    #[schemars(extend("examples" = [{"version": "v2"}]))]
    pub subset: Optional<Map<Name>>,
    /// Where to go when no endpoint of the `subset` is up: nowhere else, or to any endpoint of the cluster.
    #[schemars(extend("default" = "none", "examples" = ["any"]))]
    pub subset_fallback: Optional<SubsetFallback>,
    /// Answer with a redirect.
    pub redirect: Optional<Given<Redirect>>,
    /// Answer from here.
    pub respond: Optional<Given<Respond>>,
    /// The name of a `[[limits]]`: answers other proxies as `envoy.service.ratelimit.v3.RateLimitService`. They call it by
    /// HTTP/2.
    #[schemars(extend("examples" = ["shared"]))]
    pub rate_limit_service: Optional<Name>,
    /// What the origin sees in place of the path and host of the request.
    pub rewrite: Optional<Rewrite>,
    /// Time from the end of the request to the end of the answer; `"0s"` is no limit, for long downloads.
    #[schemars(extend("default" = "15s", "examples" = ["1m30s"]))]
    pub timeout: Optional<Duration>,
    /// When a request is sent again. Without it: twice, when no endpoint has looked at it, or a gRPC answer asks for it.
    pub retry: Optional<Retry>,
    /// When the gateway answers in place of the endpoints, because too many requests fail or are slow.
    pub breaker: Optional<Breaker>,
    /// Longest request body, in place of the listener's limit.
    #[schemars(extend("examples" = ["1GiB"]))]
    pub body_bytes: Optional<Size>,
    /// Changes to the headers the origin gets.
    pub request_headers: Optional<HeaderEdits>,
    /// Changes to the headers the client gets.
    pub response_headers: Optional<HeaderEdits>,
    /// Whether requests may become WebSockets; without it such a request is answered with 403.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub websocket: Optional<WebSocket>,
    /// What happens to requests before they go anywhere, after the filters of the listener.
    pub filters: Optional<List<Filter>>,
    /// Copies of requests for other clusters. Nobody waits for them, and their answers are thrown away. WebSockets are not
    /// copied.
    pub mirror: Optional<List<Mirror>>,
    /// Longest request body that is copied, at most 16 MiB; a request with a longer one has no copy.
    #[schemars(extend("default" = "64KiB", "examples" = ["1MiB"]))]
    pub mirror_body_bytes: Optional<Size>,
    /// `"high"`: under overload, requests are refused after all others are.
    #[schemars(extend("default" = "normal", "examples" = ["high"]))]
    pub priority: Optional<Priority>,
}
}

table! { "`mirror` of [[route]]"
/// Copies of requests, as the origin gets them, for a cluster.
pub struct Mirror {
    /// The cluster.
    #[schemars(extend("examples" = ["api-canary"]))]
    pub cluster: Required<Name>,
    /// The share of requests that are copied: 0, or from `0.0001` to 100.
    #[schemars(extend("default" = 100, "examples" = [10]))]
    pub percent: Optional<Percent>,
    /// Whether a copy's host ends in `-shadow`: `shop.example` becomes `shop.example-shadow`.
    #[schemars(extend("default" = true, "examples" = [false]))]
    pub shadow_host: Optional<bool>,
    /// Copies at once, over all workers. What comes on top is not copied.
    #[schemars(extend("default" = 256, "examples" = [32]))]
    pub max_active: Optional<Count<u32, 1, 65_536>>,
}
}

table! { "`retry` of [[route]]"
/// When a request is sent again, to another endpoint where there is one. The names of `on` are Envoy's.
pub struct Retry {
    /// How often a request is sent again at most; 0 is never.
    #[schemars(extend("default" = 2, "examples" = [1]))]
    pub attempts: Optional<Count<u32, 0, 10>>,
    /// Why. `"connect-failure"`: no connection. `"refused-stream"`: the endpoint says that it has not looked at the
    /// request. `"reset"`: the connection ended before an answer, or `per_try_timeout` passed. `"gateway-error"`: the same,
    /// or an answer of 502, 503 or 504. `"5xx"`: the same, or any answer of 500 to 599. `"retriable-4xx"`: 409. And of gRPC
    /// `"cancelled"`, `"deadline-exceeded"`, `"internal"`, `"resource-exhausted"` and `"unavailable"`.
    #[schemars(extend("default" = ["connect-failure", "refused-stream", "unavailable", "cancelled"], "examples" = [["gateway-error", "connect-failure"]]))]
    pub on: Optional<List<RetryOn>>,
    /// Answers with one of these statuses are asked for again.
    #[schemars(extend("examples" = [[429, 503]]))]
    pub statuses: Optional<List<Count<u16, 400, 599>>>,
    /// Whether requests that may have had an effect are sent again too, whatever their method. Without it only those of
    /// `GET`, `HEAD`, `OPTIONS`, `TRACE`, `PUT` and `DELETE`, and gRPC calls by their status.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub non_idempotent: Optional<bool>,
    /// Time for each try, to the head of its answer. `timeout` still bounds all of them.
    #[schemars(extend("examples" = ["2s"]))]
    pub per_try_timeout: Optional<PositiveDuration>,
    /// The wait before the first retry is a random time up to this; before the next up to three times as long, then seven.
    #[schemars(extend("default" = "25ms", "examples" = ["100ms"]))]
    pub backoff: Optional<PositiveDuration>,
    /// Longest wait. An answer whose `retry-after` asks for more is passed on. Without it, ten times `backoff`.
    #[schemars(extend("examples" = ["1s"]))]
    pub max_backoff: Optional<PositiveDuration>,
    /// Longest request body that is kept to be sent again. A request with more is sent again only while none of it is sent.
    #[schemars(extend("default" = "64KiB", "examples" = ["1MiB"]))]
    pub body_bytes: Optional<Size>,
    /// Whether `x-envoy-attempt-count` tells the endpoint how often the request has been sent, this time included.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub attempt_count_in_request: Optional<bool>,
    /// Whether `x-envoy-attempt-count` tells the client how often its request was sent.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub attempt_count_in_response: Optional<bool>,
}
}

/// `true`, `false`, or a table when there is more to say.
#[derive(Debug)]
pub enum WebSocket {
    /// Whether they may.
    Allowed(bool),
    /// They may, with these settings.
    Table(WebSocketTable),
}

table! { "`websocket` of [[route]]"
/// WebSockets.
pub struct WebSocketTable {
    /// How long neither side may send anything; `"0s"` is no limit.
    #[schemars(extend("default" = "5m", "examples" = ["1h"]))]
    pub idle_timeout: Optional<Duration>,
}
}

impl Decode for WebSocket {
    fn decode(node: Node<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        match node.is_table() {
            true => WebSocketTable::decode(node, diagnostics).map(WebSocket::Table),
            false => bool::decode(node, diagnostics).map(WebSocket::Allowed),
        }
    }
}

either_schema!(WebSocket, bool, WebSocketTable);

table! { "`match` of [[route]]"
/// Which requests. At most one of `path`, `path_prefix`, `path_regex` and `grpc`.
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
    /// Calls of a gRPC service, or of one method of it.
    pub grpc: Optional<Grpc>,
    /// Where the connection comes from: its TCP peer, or the source that a PROXY header of a trusted proxy names.
    #[schemars(extend("examples" = [["192.0.2.0/24"]]))]
    pub peer_ip: Optional<List<Cidr>>,
    /// The client, after `X-Forwarded-For` and `Forwarded` of trusted proxies.
    #[schemars(extend("examples" = [["198.51.100.0/24", "2001:db8::/32"]]))]
    pub client_ip: Optional<List<Cidr>>,
}
}

table! { "`grpc` of `match`"
/// Calls of a gRPC service. The same as `path = "/service/method"`, or `path_prefix = "/service"`.
pub struct Grpc {
    /// The service with its package.
    #[schemars(extend("examples" = ["helloworld.Greeter"]))]
    pub service: Required<GrpcService>,
    /// The method. Without it, all of them.
    #[schemars(extend("examples" = ["SayHello"]))]
    pub method: Optional<GrpcMethod>,
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

table! { "`clusters` of a route"
/// A cluster's share of a route.
pub struct WeightedCluster {
    /// The cluster.
    #[schemars(extend("examples" = ["api-canary"]))]
    pub name: Required<Name>,
    /// Its share of the sum of all weights; 0 takes nothing.
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

table! { "[[l4_route]]"
/// Which connections, or datagrams, go where. One of `cluster` and `clusters` says where.
pub struct L4Route {
    /// What it is called in the access log and in metrics.
    #[schemars(extend("examples" = ["db"]))]
    pub name: Required<Name>,
    /// Names of listeners. Without it, all that are not `http`; of these only those that see TLS when there are
    /// `server_names`, `without_server_name` or `alpn`, and with `server_names` the `http` ones with `tls` too.
    #[schemars(extend("examples" = [["pg"]]))]
    pub listeners: Optional<List<Name>>,
    /// TLS server names (SNI): exact, `*.` and a name for everything below it, or `*` for any. Without it they are not
    /// looked at.
    #[schemars(extend("examples" = [["db.example.com", "*.db.example.com"]]))]
    pub server_names: Optional<List<ServerName>>,
    /// Takes TLS clients that name no server, or whose name is encrypted.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub without_server_name: Optional<bool>,
    /// Takes TLS clients that offer one of these protocols (ALPN). Without it, any.
    #[schemars(extend("examples" = [["h2", "http/1.1"]]))]
    pub alpn: Optional<List<Alpn>>,
    /// The cluster they go to.
    #[schemars(extend("examples" = ["db"]))]
    pub cluster: Optional<Given<Name>>,
    /// Several clusters, each with a share of the connections.
    #[schemars(extend("examples" = [[{"name": "db", "weight": 9}, {"name": "db-new", "weight": 1}]]))]
    pub clusters: Optional<Given<List<WeightedCluster>>>,
    /// Use only the endpoints with all of these labels.
    #[schemars(extend("examples" = [{"version": "v2"}]))]
    pub subset: Optional<Map<Name>>,
    /// Where to go when no endpoint of the `subset` is up: nowhere else, or to any endpoint of the cluster.
    #[schemars(extend("default" = "none", "examples" = ["any"]))]
    pub subset_fallback: Optional<SubsetFallback>,
    /// Endpoints tried for one connection.
    #[schemars(extend("default" = 3, "examples" = [1]))]
    pub connect_attempts: Optional<Count<u32, 1, 100>>,
    /// How long neither side may send anything; `"0s"` is no limit. For UDP the default is `"60s"`, and there is always
    /// a limit: nothing else ends a session.
    #[schemars(extend("default" = "1h", "examples" = ["10m"]))]
    pub idle_timeout: Optional<Duration>,
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
