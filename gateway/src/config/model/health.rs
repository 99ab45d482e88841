//! `health_check` of `[[cluster]]`

use std::ops::RangeInclusive;
use std::time::Duration;

use super::{ProxyVersion, UpstreamProtocol, UpstreamTls};

/// `health_check` of a cluster: asked of each endpoint by the control thread, once however many workers there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// `protocol` and what it needs.
    pub probe: HealthProbe,
    /// `tls`; the cluster's, unless the check says otherwise. `None` is cleartext, and what is asked over TCP or UDP.
    pub tls: Option<UpstreamTls>,
    /// `proxy_protocol`: the PROXY header that says that the connection is the gateway's own; the cluster's, unless the check
    /// says otherwise.
    pub proxy_protocol: Option<ProxyVersion>,
    /// `port` to ask, where it is not the endpoint's own.
    pub port: Option<u16>,
    /// `interval` between the end of one check and the next, with 10 % jitter. Default 5 s.
    pub interval: Duration,
    /// `timeout` of one check. Default 2 s.
    pub timeout: Duration,
    /// `healthy`: good checks in a row that make an unhealthy endpoint healthy. Default 2.
    pub healthy: u32,
    /// `unhealthy`: failed checks in a row that make a healthy endpoint unhealthy. Default 3.
    pub unhealthy: u32,
}

/// `protocol` of a health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthProbe {
    /// `"tcp"`: a connection is made.
    Tcp,
    /// `"udp"`: `send` is answered, by something that begins with `expect` where that is given.
    Udp {
        /// `send`
        send: Vec<u8>,
        /// `expect`
        expect: Option<Vec<u8>>,
    },
    /// `"tls"`: a handshake ends well. No protocol is offered (ALPN).
    Tls,
    /// `"http"`: `GET path` is answered with a status from `statuses` (Envoy's `http_health_check`).
    Http {
        /// `http`; the cluster's, unless the check says otherwise (Envoy's `codec_client_type`). `Auto` only with TLS.
        version: UpstreamProtocol,
        /// `path`. Default `/`.
        path: String,
        /// `host`. Default: the endpoint's.
        host: Option<String>,
        /// `statuses`. Default 200 to 299.
        statuses: RangeInclusive<u16>,
    },
    /// `"grpc"`: `grpc.health.v1.Health/Check` is answered with `SERVING` (Envoy's `grpc_health_check`).
    Grpc {
        /// `service`: whose health is asked for. Default empty: the server's.
        service: String,
        /// `host`: the authority. Default: the endpoint's.
        host: Option<String>,
    },
}
