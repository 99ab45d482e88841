//! What tables that refer to others have to know of them.

use super::http_versions;
use crate::config::model::{HttpVersions, Labels, ListenerProtocol, UpstreamProtocol};
use crate::config::raw;

/// Of a listener.
#[derive(Clone, Copy)]
pub struct ListenerKind {
    /// What it speaks; `None` when that is wrong, which has been reported.
    pub protocol: Option<ListenerProtocol>,
    /// Whether TLS is terminated here.
    pub has_tls: bool,
}

/// Of a cluster.
pub struct ClusterKind {
    /// Whether endpoints are spoken to over TLS.
    pub has_tls: bool,
    /// Whether requests share connections to them, as HTTP/2 has it.
    pub is_h2: bool,
    /// Whether they get a PROXY header.
    pub has_proxy_header: bool,
    /// Whether a key decides who gets a request.
    pub hashes: bool,
    /// The labels of each endpoint.
    pub labels: Vec<Labels>,
}

/// Of a certificate.
#[derive(Clone, Copy)]
pub struct CertificateKind {
    /// What its hosts are offered.
    pub http: HttpVersions,
}

impl ListenerKind {
    /// Looks at what the file says.
    pub fn of(raw: &raw::Listener) -> ListenerKind {
        let protocol = raw.protocol.as_ref().map_or(Some(ListenerProtocol::Http), |protocol| protocol.value.0);
        ListenerKind { protocol, has_tls: raw.tls.is_some() }
    }

    /// Whether it may be for HTTP.
    pub fn may_be_http(self) -> bool {
        matches!(self.protocol, None | Some(ListenerProtocol::Http))
    }

    /// What becomes of its clients when no route serves it.
    pub fn fate_without_route(self) -> &'static str {
        match self.protocol {
            None | Some(ListenerProtocol::Http) => "no route serves it, so every request gets 404",
            Some(ListenerProtocol::Udp) => "no l4_route serves it, so every datagram is dropped",
            Some(ListenerProtocol::Tcp | ListenerProtocol::TlsPassthrough) => {
                "no l4_route serves it, so every connection is reset"
            }
        }
    }
}

impl ClusterKind {
    /// Looks at what the file says.
    pub fn of(raw: &raw::Cluster) -> ClusterKind {
        let header = raw.proxy_protocol.and_then(|header| header.value.0);
        let endpoints = raw.endpoints.0.iter().flat_map(|list| &list.value);
        ClusterKind {
            has_tls: raw.tls.is_some(),
            is_h2: raw.protocol.as_ref().is_some_and(|protocol| protocol.value == UpstreamProtocol::H2),
            has_proxy_header: header.is_some(),
            hashes: raw.balance.is_some_and(|balance| balance.value.hashes()),
            labels: endpoints.map(|endpoint| labels(&endpoint.value.0)).collect(),
        }
    }
}

impl CertificateKind {
    /// Looks at what the file says.
    pub fn of(raw: &raw::Certificate) -> CertificateKind {
        CertificateKind { http: http_versions(&raw.http) }
    }
}

fn labels(raw: &raw::EndpointTable) -> Labels {
    let pairs = raw.labels.iter().flat_map(|map| &map.value.0);
    pairs.map(|(name, value)| (name.value.clone(), value.value.0.clone())).collect()
}
