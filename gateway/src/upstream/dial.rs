//! New connections to an endpoint, whatever is spoken over them.

use std::io;

use super::UpstreamError;
use crate::config::model::Cluster;
use crate::metrics::shard::ClusterShard;
use crate::net::{self, Buf, Deadline, Until};
use crate::snapshot::{EndpointTls, EndpointView};
use crate::tls::{self, TlsInfo};

/// Connects, sends `preamble` (a PROXY header, or nothing), and shakes hands where the cluster speaks TLS: all before
/// `deadline`.
pub async fn dial(
    endpoint: &EndpointView,
    preamble: &[u8],
    stats: &ClusterShard,
    deadline: &Deadline,
) -> Result<(tls::Reader, tls::Writer, Option<TlsInfo>), UpstreamError> {
    let http = endpoint.tls.as_ref().map_or_else(Vec::new, |tls| tls.config.alpn_protocols.clone());
    dial_offering(http, endpoint, preamble, stats, deadline).await
}

/// The same for a relay, which speaks no protocol of its own, and where the cluster speaks TLS, offers what that says (ALPN).
pub async fn dial_relay(
    cluster: &Cluster,
    endpoint: &EndpointView,
    preamble: &[u8],
    stats: &ClusterShard,
    deadline: &Deadline,
) -> Result<(tls::Reader, tls::Writer), UpstreamError> {
    let offered = cluster.tls.iter().flat_map(|tls| &tls.alpn);
    let offered = offered.map(|name| name.as_bytes().to_vec()).collect();
    let (reader, writer, _) = dial_offering(offered, endpoint, preamble, stats, deadline).await?;
    Ok((reader, writer))
}

async fn dial_offering(
    alpn: Vec<Vec<u8>>,
    endpoint: &EndpointView,
    preamble: &[u8],
    stats: &ClusterShard,
    deadline: &Deadline,
) -> Result<(tls::Reader, tls::Writer, Option<TlsInfo>), UpstreamError> {
    let until = Until::only(deadline);
    let (reader, mut writer) = net::connect(endpoint.address, &until).await.map_err(|error| failed(&error))?;
    if !preamble.is_empty() {
        writer.send(Buf::copy_of(preamble), &until).await.map_err(|error| failed(&error))?;
    }
    let Some(EndpointTls { config, name }) = &endpoint.tls else {
        return Ok((tls::Reader::Plain(reader), tls::Writer::Plain(writer), None));
    };
    let shaken = tls::connect(reader, writer, (config.clone(), alpn), name.clone(), &until).await;
    let (reader, writer, info) = shaken.map_err(|error| match error {
        tls::HandshakeError::TimedOut => UpstreamError::ConnectTimeout,
        error => UpstreamError::Connect(format!("TLS error: {error}")),
    })?;
    match info.is_resumed {
        true => stats.handshakes_resumed.inc(),
        false => stats.handshakes_full.inc(),
    }
    Ok((reader, writer, Some(info)))
}

fn failed(error: &io::Error) -> UpstreamError {
    match error.kind() {
        io::ErrorKind::TimedOut => UpstreamError::ConnectTimeout,
        _ => UpstreamError::Connect(error.to_string()),
    }
}
