//! What an endpoint is told about a client ahead of its bytes.

use super::ConnectionCx;
use crate::config::model::{Cluster, ProxyVersion};
use crate::proto::proxy_protocol::{self, Tlvs};

/// The PROXY header that begins a connection to an endpoint of `cluster` which serves `connection` alone; empty when the
/// cluster wants none.
pub fn proxy_header(cluster: &Cluster, connection: &ConnectionCx) -> Vec<u8> {
    let (source, destination) = (connection.peer.addr(), connection.local);
    let mut out = Vec::new();
    match cluster.proxy_protocol {
        None => {}
        Some(ProxyVersion::V1) => proxy_protocol::write_v1(source, destination, &mut out),
        Some(ProxyVersion::V2) => {
            let tls = connection.tls.as_ref();
            let id = connection.id.to_string();
            let tlvs = Tlvs {
                alpn: tls.and_then(|tls| tls.alpn.as_deref()),
                authority: connection.server_name().map(str::as_bytes),
                tls_version: tls.map(|tls| tls.version.as_bytes()),
                unique_id: Some(id.as_bytes()),
            };
            proxy_protocol::write_v2(source, destination, &tlvs, &mut out);
        }
    }
    out
}
