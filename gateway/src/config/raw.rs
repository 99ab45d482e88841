//! The file's shape, exactly: every table and key, with what the reference says about it.
//!
//! This is the only description of the file. The JSON Schema, `docs/config.md` and the reader come from it. Nothing
//! here is checked beyond how a single value is written; that is `check`.
//!
//! `default` and `example` are for people; a test holds both against the code.

use super::decode::{Decode, Given, List, Map, Node, Optional, Required, table};
use super::model::{
    AccessAction, Balance, EncodedSlashes, ListenerProtocol, ProxyProtocol, TlsVersion, UpstreamProtocol, VipAffinity,
    VipMode, VipProtocol, XdpMode,
};
use super::report::Diagnostics;
use super::schema::either_schema;
use super::value::{
    Address, AddressOrOff, Alpn, Authority, Cidr, Count, Duration, Expression, FilePath, GrpcMethod, GrpcService,
    HeaderName, HeaderValue, HealthProtocol, Host, HostName, HttpVersion, Interface, Ip, Method, Moment, Name, Payload,
    PinDirectory, PortRange, Ports, PositiveDuration, ProxyHeader, Pseudonym, RedirectStatus, Scheme, ServerName, Size,
    StatusRange, Upstream, UrlPath, Workers,
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
    /// The admin endpoint: `/ready`, `/healthz`, `/metrics`, `/config`, `/reload`.
    pub admin: Optional<Admin>,
    /// One line for every request. Without this table there is no access log.
    pub access_log: Optional<AccessLog>,
    /// The XDP program, which drops packets of denied sources and balances those for a `[[vip]]` before the kernel's
    /// network stack sees them.
    pub xdp: Optional<Xdp>,
    /// A rule on the address a connection comes from.
    #[schemars(default)]
    pub access: List<Access>,
    /// An address and port whose packets are balanced in the kernel, over the endpoints of a cluster.
    #[schemars(default)]
    pub vip: List<Vip>,
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
    /// A directory of a BPF file system for the program's link and tables. They stay when the process ends, however it
    /// ends: packets are filtered and balanced on, and the next process takes over. `"off"` ends with the process.
    #[schemars(extend("default" = "/sys/fs/bpf/gateway", "examples" = ["off"]))]
    pub pin: Optional<PinDirectory>,
    /// What endpoints see as the source in mode `nat`. Without any, the address from which the kernel would reach them.
    #[schemars(extend("default" = [], "examples" = [["10.0.0.1", "fd00::1"]]))]
    pub snat_addresses: Optional<List<Ip>>,
    /// Source ports of mode `nat`. The box's own connections must not use them: keep them out of
    /// `net.ipv4.ip_local_port_range`. Each address has this many flows to one endpoint at once.
    #[schemars(extend("default" = "61000-65535", "examples" = ["40000-65535"]))]
    pub snat_ports: Optional<PortRange>,
    /// How many connections and UDP conversations the kernel's tables hold.
    pub flows: Optional<Flows>,
    /// How long a silent flow is remembered.
    pub timeouts: Optional<Timeouts>,
    /// What one source may send. What an access rule allows is not limited.
    pub limits: Optional<XdpLimits>,
    /// Lines of the log for dropped packets, a few in a second. Without it, none.
    #[schemars(extend("examples" = [{"per_second": 10}]))]
    pub drop_log: Optional<DropLog>,
    /// Answer SYNs to a listener of this box by a SYN cookie before the stack sees them, while the listener's queue
    /// overflows. Takes effect at a start.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub syn_cookies: Optional<bool>,
}
}

table! { "`drop_log` of [xdp]"
/// A line of the log for a dropped packet: why, from whom, to whom, on which interface. `docs/access.md` shows one.
pub struct DropLog {
    /// Lines in a second, at most. The packets that get none are counted.
    #[schemars(extend("examples" = [10]))]
    pub per_second: Required<Count<u32, 1, 1000>>,
}
}

table! { "`limits` of [xdp]"
/// What one source may send. More is dropped.
pub struct XdpLimits {
    /// TCP connection attempts. Without it, as many as it likes.
    #[schemars(extend("examples" = [{"per_second": 100, "burst": 200}]))]
    pub syn: Optional<PacketRate>,
    /// Packets of any kind. Without it, as many as it likes.
    #[schemars(extend("examples" = [{"per_second": 50_000}]))]
    pub packets: Optional<PacketRate>,
    /// Bits of an IPv4 address that tell sources apart.
    #[schemars(extend("default" = 32, "examples" = [24]))]
    pub prefix_v4: Optional<Count<u8, 1, 32>>,
    /// Bits of an IPv6 address that tell sources apart. One customer has a network of 64 bits or less.
    #[schemars(extend("default" = 64, "examples" = [56]))]
    pub prefix_v6: Optional<Count<u8, 1, 128>>,
    /// Sources remembered at once, for each IP version. When there are more, the least recently seen one starts anew.
    #[schemars(extend("default" = 65_536, "examples" = [1_000_000]))]
    pub sources: Optional<Count<u32, 1024, 16_777_216>>,
    /// Count what would be dropped, and drop nothing.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub dry_run: Optional<bool>,
}
}

table! { "a rate of packets"
/// A rate of packets (token bucket).
pub struct PacketRate {
    /// Packets in a second.
    #[schemars(extend("examples" = [100]))]
    pub per_second: Required<Count<u32, 1, 100_000_000>>,
    /// Packets at once, after a silence. Without it, those of a second.
    #[schemars(extend("examples" = [200]))]
    pub burst: Optional<Count<u32, 1, 100_000_000>>,
}
}

table! { "`flows` of [xdp]"
/// How many connections and UDP conversations the kernel's tables hold, for each IP version. Other sizes mean other
/// tables: flows are forgotten when one of the first two changes.
pub struct Flows {
    /// Flows of which both sides have spoken. When there are more, the least recently used one is forgotten.
    #[schemars(extend("default" = 262_144, "examples" = [1_000_000]))]
    pub established: Optional<Count<u32, 1024, 16_777_216>>,
    /// Flows that nobody has answered yet, kept apart so that a flood of them cannot push out the others.
    #[schemars(extend("default" = 65_536, "examples" = [262_144]))]
    pub half_open: Optional<Count<u32, 1024, 16_777_216>>,
    /// Flows begun in a second on one CPU; more are dropped.
    #[schemars(extend("default" = 125_000, "examples" = [50_000]))]
    pub new_per_second: Optional<Count<u32, 1, 100_000_000>>,
}
}

table! { "`timeouts` of [xdp]"
/// How long a silent flow is remembered.
pub struct Timeouts {
    /// TCP before the handshake is over.
    #[schemars(extend("default" = "10s", "examples" = ["5s"]))]
    pub half_open: Optional<PositiveDuration>,
    /// TCP; as long as the endpoints keep silent connections.
    #[schemars(extend("default" = "1h", "examples" = ["15m"]))]
    pub established: Optional<PositiveDuration>,
    /// TCP after a FIN or RST.
    #[schemars(extend("default" = "10s", "examples" = ["30s"]))]
    pub closing: Optional<PositiveDuration>,
    /// UDP.
    #[schemars(extend("default" = "60s", "examples" = ["30s"]))]
    pub udp: Optional<PositiveDuration>,
}
}

table! { "[[vip]]"
/// An address and port whose packets are balanced in the kernel. One of `cluster` and `listener` says who serves it.
pub struct Vip {
    /// What it is called in metrics.
    #[schemars(extend("examples" = ["web-v4"]))]
    pub name: Required<Name>,
    /// IP address and port.
    #[schemars(extend("examples" = ["192.0.2.10:443"]))]
    pub address: Required<Address>,
    /// The transport protocol.
    #[schemars(extend("default" = "tcp", "examples" = ["udp"]))]
    pub protocol: Optional<VipProtocol>,
    /// How a packet gets to its endpoint and the answer back: both addresses rewritten; the destination only, for
    /// endpoints that route their answers through this box; the MAC address only (direct server return); or inside
    /// another packet. `docs/l4.md` says which is for which network.
    #[schemars(extend("default" = "nat", "examples" = ["dsr"]))]
    pub mode: Optional<VipMode>,
    /// The cluster whose endpoints serve it. Of its names, the addresses of the vip's IP version are used.
    #[schemars(extend("examples" = ["api"]))]
    pub cluster: Optional<Given<Name>>,
    /// The listener of this gateway that serves it. Its packets are counted, and go to the kernel's stack.
    #[schemars(extend("examples" = ["web"]))]
    pub listener: Optional<Given<Name>>,
    /// What decides on the endpoint: addresses and ports, or the source address alone, so that all connections of a
    /// client have one endpoint.
    #[schemars(extend("default" = "flow", "examples" = ["source"]))]
    pub affinity: Optional<VipAffinity>,
    /// Take no new flows: those it has go on, packets that would begin one are dropped.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub drain: Optional<bool>,
}
}

table! { "[[access]]"
/// A rule on the address a packet comes from, and if it says so on protocol and port. Of the rules that have a packet, one
/// with `allow` wins over all with `deny`, however long the networks are.
pub struct Access {
    /// What it is called in metrics.
    #[schemars(extend("examples" = ["bad-actors"]))]
    pub name: Required<Name>,
    /// `"deny"` drops the packets in XDP, or closes the connection where XDP is off.
    #[schemars(extend("examples" = ["deny"]))]
    pub action: Required<AccessAction>,
    /// The transport protocol it is about. Without it, all packets.
    #[schemars(extend("examples" = ["tcp"]))]
    pub protocol: Optional<VipProtocol>,
    /// The destination ports it is about, of TCP and UDP. Without it, all packets of `protocol`.
    #[schemars(extend("default" = [], "examples" = [[22, "8000-8100"]]))]
    pub ports: Optional<List<Ports>>,
    /// When it ends (RFC 3339).
    #[schemars(extend("examples" = ["2099-12-01T00:00:00Z"]))]
    pub expires: Optional<Moment>,
    /// Addresses and networks.
    #[schemars(extend("default" = [], "examples" = [["203.0.113.0/24", "2001:db8::/32"]]))]
    pub sources: Optional<List<Cidr>>,
    /// Files with an address or network on each line; `#` begins a comment. A line may end in
    /// `expires=2026-12-01T00:00:00Z`. A file that changes is read again, and only what differs is changed.
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
    /// What one client, or all together, may take. Those about requests are for `http` only.
    pub limits: Optional<Limits>,
    /// What happens to a path before routes see it; the origin gets the result.
    pub path_normalisation: Optional<PathNormalisation>,
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
    /// Ask each endpoint whether it is well, once however many workers there are. Without it all are taken to be. When
    /// none is well, all are used: the checks are then more likely to be wrong than every endpoint to be dead.
    pub health_check: Optional<HealthCheck>,
    /// The time in which the share of an endpoint that is new, or healthy again, grows to its full weight. `"0s"` is at
    /// once. It is for vips; requests are shared out by the full weights.
    #[schemars(extend("default" = "0s", "examples" = ["30s"]))]
    pub slow_start: Optional<Duration>,
}
}

table! { "`health_check` of [[cluster]]"
/// How endpoints are asked whether they are well. The first check decides at once.
pub struct HealthCheck {
    /// `"tcp"`: a connection is made. `"udp"`: a datagram is answered. `"http"`: a GET over HTTP/1.1
    /// without TLS is answered as it should be.
    #[schemars(extend("examples" = ["http"]))]
    pub protocol: Required<HealthProtocol>,
    /// The port to ask, where it is not the endpoint's own.
    #[schemars(extend("examples" = [9000]))]
    pub port: Optional<Count<u16, 1, 65_535>>,
    /// From the end of one check to the next, up to 10 % more or less.
    #[schemars(extend("default" = "5s", "examples" = ["1s"]))]
    pub interval: Optional<PositiveDuration>,
    /// Time for one check.
    #[schemars(extend("default" = "2s", "examples" = ["500ms"]))]
    pub timeout: Optional<PositiveDuration>,
    /// Good checks in a row that make an unhealthy endpoint healthy.
    #[schemars(extend("default" = 2, "examples" = [1]))]
    pub healthy: Optional<Count<u32, 1, 1000>>,
    /// Failed checks in a row that make a healthy endpoint unhealthy.
    #[schemars(extend("default" = 3, "examples" = [2]))]
    pub unhealthy: Optional<Count<u32, 1, 1000>>,
    /// What is sent over UDP: text, or `hex:` and bytes.
    #[schemars(extend("examples" = ["hex:1234010000010000"]))]
    pub send: Optional<Given<Payload>>,
    /// What the UDP answer begins with. Without it any answer will do.
    #[schemars(extend("examples" = ["hex:1234"]))]
    pub expect: Optional<Payload>,
    /// The path of the HTTP request.
    #[schemars(extend("default" = "/", "examples" = ["/healthz"]))]
    pub path: Optional<UrlPath>,
    /// The host of the HTTP request. Without it, the endpoint's name or address.
    #[schemars(extend("examples" = ["api.internal"]))]
    pub host: Optional<Authority>,
    /// The HTTP statuses that are well.
    #[schemars(extend("default" = "200-299", "examples" = ["200-399"]))]
    pub statuses: Optional<StatusRange>,
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
}
}

impl Decode for Endpoint {
    fn decode(node: Node<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        if node.is_table() {
            return EndpointTable::decode(node, diagnostics).map(Endpoint);
        }
        let address = Required(Some(node.read(diagnostics)?));
        Some(Endpoint(EndpointTable { address, weight: None, drain: None }))
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
    /// Whether requests may become WebSockets; without it such a request is answered with 403.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub websocket: Optional<WebSocket>,
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
