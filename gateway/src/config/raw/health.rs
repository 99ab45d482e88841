//! `health_check` of `[[cluster]]`.

use super::ClusterTls;
use crate::config::decode::{Decode, Given, Node, Optional, Required, table};
use crate::config::model::UpstreamProtocol;
use crate::config::report::Diagnostics;
use crate::config::schema::either_schema;
use crate::config::value::{
    Authority, Count, HealthProtocol, Payload, PositiveDuration, ProxyHeader, StatusRange, UrlPath,
};

table! { "`health_check` of [[cluster]]"
/// How endpoints are asked whether they are well: as the cluster is used, unless a key says otherwise. The first check
/// decides at once.
pub struct HealthCheck {
    /// `"tcp"`: a connection is made. `"udp"`: a datagram is answered. `"tls"`: a TLS handshake ends well. `"http"`: a GET is
    /// answered as it should be. `"grpc"`: `grpc.health.v1.Health/Check` is answered with `SERVING`.
    #[schemars(extend("examples" = ["http"]))]
    pub protocol: Required<HealthProtocol>,
    /// The port to ask, where it is not the endpoint's own. It is asked in the same way.
    #[schemars(extend("examples" = [9000]))]
    pub port: Optional<Count<u16, 1, 65_535>>,
    /// TLS of checks with `"tls"`, `"http"` and `"grpc"`: settings as of the cluster, `false` for none, or `true` for those of
    /// the cluster, or all defaults where it has none. Without this key, as the cluster. No check resumes a session, so each
    /// sees the certificate.
    #[schemars(extend("examples" = [{"server_name": "api.internal", "ca": "certs/internal-ca.pem"}]))]
    pub tls: Optional<CheckTls>,
    /// The PROXY header of checks with `"tls"`, `"http"` and `"grpc"`, which says that the connection is the gateway's own
    /// (`LOCAL`, `UNKNOWN`). Without this key, as the cluster.
    #[schemars(extend("examples" = ["off"]))]
    pub proxy_protocol: Optional<ProxyHeader>,
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
    /// The version of the HTTP request; `"auto"` takes the one the endpoint chooses (ALPN), and needs TLS. Without this key,
    /// as the cluster's `protocol`.
    #[schemars(extend("examples" = ["h2"]))]
    pub http: Optional<UpstreamProtocol>,
    /// The path of the HTTP request.
    #[schemars(extend("default" = "/", "examples" = ["/healthz"]))]
    pub path: Optional<UrlPath>,
    /// The host of the HTTP request or gRPC call. Without it, the endpoint's name or address.
    #[schemars(extend("examples" = ["api.internal"]))]
    pub host: Optional<Authority>,
    /// The HTTP statuses that are well.
    #[schemars(extend("default" = "200-299", "examples" = ["200-399"]))]
    pub statuses: Optional<StatusRange>,
    /// The gRPC service whose health is asked for. Without it, the server's as a whole.
    #[schemars(extend("examples" = ["shop.Orders"]))]
    pub service: Optional<String>,
}
}

/// `true`, `false`, or settings.
#[derive(Debug)]
pub enum CheckTls {
    /// Whether there is TLS.
    Is(bool),
    /// There is, with these settings.
    Settings(Box<ClusterTls>),
}

impl Decode for CheckTls {
    fn decode(node: Node<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        match node.is_table() {
            true => ClusterTls::decode(node, diagnostics).map(|settings| CheckTls::Settings(Box::new(settings))),
            false => bool::decode(node, diagnostics).map(CheckTls::Is),
        }
    }
}

either_schema!(CheckTls, bool, ClusterTls);
