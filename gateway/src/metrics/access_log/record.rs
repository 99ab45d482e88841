//! What is known of a request when it has ended.

use std::net::{IpAddr, SocketAddr};

use crate::metrics::flags::ResponseFlags;
use crate::proto::head::{Headers, RequestHead, Version};
use crate::proto::x509::Identity;

/// A finished request. Missing values are `None` and are written as `-` (text) or `null` (JSON).
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// When the request's first byte came, in microseconds since 1970.
    pub start_unix_us: u64,
    /// From the request's first byte to the response's last, in microseconds.
    pub duration_us: u64,
    /// From the request's first byte to its last, in microseconds.
    pub request_duration_us: Option<u64>,
    /// From the request's first byte to the first byte of the upstream's response, in microseconds.
    pub response_duration_us: Option<u64>,
    /// The request as it went upstream; `None` when its head could not be read.
    pub request: Option<&'a RequestHead>,
    /// The version the client spoke; known even when the head could not be read.
    pub protocol: Option<Version>,
    /// Path and query as they were matched, when the route rewrote them.
    pub original_target: Option<&'a [u8]>,
    /// The status sent to the client; 0 when none was.
    pub status: u16,
    /// The response's fields as they were sent to the client.
    pub response_headers: Option<&'a Headers>,
    /// The response's trailers.
    pub response_trailers: Option<&'a Headers>,
    /// Bytes of the request's body.
    pub bytes_received: u64,
    /// Bytes of the response's body.
    pub bytes_sent: u64,
    /// Why the request ended as it did.
    pub flags: ResponseFlags,
    /// Envoy's response code details, such as `via_upstream` or `route_not_found`.
    pub details: Option<&'a str>,
    /// The endpoint of the last attempt.
    pub upstream_host: Option<SocketAddr>,
    /// The gateway's own address on the connection to it.
    pub upstream_local: Option<SocketAddr>,
    /// How often the request was sent.
    pub upstream_attempts: u32,
    /// The cluster's name.
    pub upstream_cluster: Option<&'a str>,
    /// Why the last connection failed, in words.
    pub upstream_failure: Option<&'a str>,
    /// From the request's head sent upstream to the response's head received, in microseconds.
    pub upstream_service_us: Option<u64>,
    /// The route's name.
    pub route: Option<&'a str>,
    /// The listener's name.
    pub listener: &'a str,
    /// The other end of the client's connection.
    pub downstream_peer: SocketAddr,
    /// The gateway's end of the client's connection.
    pub downstream_local: SocketAddr,
    /// The client's address after `X-Forwarded-For` of trusted proxies.
    pub client_ip: IpAddr,
    /// The name the client asked for in the TLS handshake.
    pub sni: Option<&'a str>,
    /// `TLSv1.2` or `TLSv1.3`; `None` without TLS.
    pub tls_version: Option<&'static str>,
    /// What the client's certificate says, where it has shown one.
    pub identity: Option<&'a Identity>,
    /// The request's id; when `None`, the `x-request-id` field of the request.
    pub request_id: Option<&'a [u8]>,
    /// The downstream connection's number.
    pub connection_id: u64,
    /// This machine's name.
    pub hostname: &'a str,
}

impl<'a> Record<'a> {
    /// What is known of every connection; all else is missing or zero, and the client is the peer.
    pub fn new(
        listener: &'a str,
        downstream_peer: SocketAddr,
        downstream_local: SocketAddr,
        hostname: &'a str,
    ) -> Record<'a> {
        Record {
            start_unix_us: 0,
            duration_us: 0,
            request_duration_us: None,
            response_duration_us: None,
            request: None,
            protocol: None,
            original_target: None,
            status: 0,
            response_headers: None,
            response_trailers: None,
            bytes_received: 0,
            bytes_sent: 0,
            flags: ResponseFlags::NONE,
            details: None,
            upstream_host: None,
            upstream_local: None,
            upstream_cluster: None,
            upstream_failure: None,
            upstream_attempts: 0,
            upstream_service_us: None,
            route: None,
            listener,
            downstream_peer,
            downstream_local,
            client_ip: downstream_peer.ip(),
            sni: None,
            tls_version: None,
            identity: None,
            request_id: None,
            connection_id: 0,
            hostname,
        }
    }

    /// The request's id.
    pub(super) fn request_id(&self) -> Option<&'a [u8]> {
        self.request_id.or_else(|| self.request?.headers.get(&crate::proto::head::Known::XRequestId))
    }

    /// Path and query as the client asked for them, after normalisation and before the route's rewrite.
    pub(super) fn client_target(&self) -> Option<&'a [u8]> {
        self.original_target.or_else(|| Some(&self.request?.target))
    }

    /// The client's address. The port is that of the connection if the client is its other end, else 0, as in Envoy.
    pub(super) fn client(&self) -> SocketAddr {
        if self.client_ip == self.downstream_peer.ip() {
            self.downstream_peer
        } else {
            SocketAddr::new(self.client_ip, 0)
        }
    }

    /// Host and port as the client named them; HTTP/1.0 clients need not.
    pub(super) fn authority(&self) -> Option<&'a [u8]> {
        self.request.map(|head| head.authority.as_slice()).filter(|authority| !authority.is_empty())
    }

    /// `https` when the client's connection has TLS.
    pub(super) fn scheme(&self) -> &'static str {
        if self.tls_version.is_some() { "https" } else { "http" }
    }
}

#[cfg(test)]
pub(crate) mod samples {
    use std::sync::LazyLock;

    use super::*;
    use crate::metrics::flags::ResponseFlag;
    use crate::proto::head::Method;

    /// Of a client's certificate.
    static IDENTITY: LazyLock<Identity> = LazyLock::new(|| Identity {
        subject: "O=x,CN=\\\"client\\\"".into(),
        issuer: "CN=ca".into(),
        serial: "0a".into(),
        dns: vec!["a.test".into(), "b.test".into()],
        uris: vec!["spiffe://td/a".into()],
        ips: Vec::new(),
        sha256: [0xab; 32],
        spki_sha256: [0; 32],
    });

    /// A request as it may be after a retry that failed.
    pub fn request() -> RequestHead {
        let mut head = RequestHead {
            method: Method::Post,
            authority: b"api.example.com".to_vec(),
            target: b"/v2/items?id=7".to_vec(),
            ..RequestHead::default()
        };
        head.headers.append_raw(b"User-Agent", b"curl/8.5.0");
        head.headers.append_raw(b"X-Forwarded-For", b"203.0.113.9");
        head.headers.append_raw(b"X-Request-Id", b"6c4b7b0e-1f0a-4d6e-9d5b-2f6f2f9a1c11");
        head.headers.append_raw(b"X-Tenant", b"blue");
        head
    }

    pub fn response() -> Headers {
        let mut headers = Headers::default();
        headers.append_raw(b"content-type", b"text/plain");
        headers.append_raw(b"server", b"gateway");
        headers
    }

    pub fn record<'a>(request: &'a RequestHead, response: &'a Headers) -> Record<'a> {
        Record {
            start_unix_us: 1_709_210_096_007_089, // 2024-02-29T12:34:56.007089Z
            duration_us: 12_345,
            request_duration_us: Some(1_500),
            response_duration_us: Some(11_999),
            request: Some(request),
            protocol: Some(Version::Http11),
            original_target: Some(b"/v1/items?id=7"),
            status: 503,
            response_headers: Some(response),
            response_trailers: None,
            bytes_received: 11,
            bytes_sent: 95,
            flags: ResponseFlags::from(ResponseFlag::RetryLimitExceeded).with(ResponseFlag::UpstreamConnectionFailure),
            details: Some("upstream_reset_before_response_started{remote_connection_failure}"),
            upstream_host: Some(([10, 0, 0, 1], 8080).into()),
            upstream_local: None,
            upstream_cluster: Some("api"),
            upstream_failure: None,
            upstream_attempts: 3,
            upstream_service_us: Some(9_800),
            route: Some("api-v1"),
            listener: "web",
            downstream_peer: ([192, 0, 2, 33], 55_555).into(),
            downstream_local: "[2001:db8::1]:443".parse().unwrap(),
            client_ip: [203, 0, 113, 9].into(),
            sni: Some("api.example.com"),
            tls_version: Some("TLSv1.3"),
            identity: Some(&IDENTITY),
            request_id: None,
            connection_id: 42,
            hostname: "edge-1",
        }
    }

    /// A connection that sent something that is not HTTP.
    pub fn unreadable() -> Record<'static> {
        Record::new("web", ([192, 0, 2, 33], 55_555).into(), ([127, 0, 0, 1], 80).into(), "edge-1")
    }
}
