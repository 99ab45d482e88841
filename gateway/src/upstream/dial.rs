//! New connections to an endpoint, whatever is spoken over them.

use std::io;

use super::UpstreamError;
use crate::net::{self, Buf, Deadline, Until};
use crate::snapshot::{ClusterView, EndpointView};
use crate::tls::{self, TlsInfo};

/// Connects, sends `preamble` (a PROXY header, or nothing), and shakes hands where the cluster speaks TLS: all before
/// `deadline`.
pub async fn dial(
    cluster: &ClusterView,
    endpoint: &EndpointView,
    preamble: &[u8],
    deadline: &Deadline,
) -> Result<(tls::Reader, tls::Writer, Option<TlsInfo>), UpstreamError> {
    let http = cluster.tls.as_ref().map_or_else(Vec::new, |config| config.alpn_protocols.clone());
    dial_offering(http, cluster, endpoint, preamble, deadline).await
}

/// The same for a relay, which speaks no protocol of its own and so offers none (ALPN) where the cluster speaks TLS.
pub async fn dial_relay(
    cluster: &ClusterView,
    endpoint: &EndpointView,
    preamble: &[u8],
    deadline: &Deadline,
) -> Result<(tls::Reader, tls::Writer), UpstreamError> {
    let (reader, writer, _) = dial_offering(Vec::new(), cluster, endpoint, preamble, deadline).await?;
    Ok((reader, writer))
}

async fn dial_offering(
    alpn: Vec<Vec<u8>>,
    cluster: &ClusterView,
    endpoint: &EndpointView,
    preamble: &[u8],
    deadline: &Deadline,
) -> Result<(tls::Reader, tls::Writer, Option<TlsInfo>), UpstreamError> {
    let until = Until::only(deadline);
    let (reader, mut writer) = net::connect(endpoint.address, &until).await.map_err(|error| failed(&error))?;
    if !preamble.is_empty() {
        writer.send(Buf::copy_of(preamble), &until).await.map_err(|error| failed(&error))?;
    }
    let (Some(config), Some(name)) = (&cluster.tls, &endpoint.server_name) else {
        return Ok((tls::Reader::Plain(reader), tls::Writer::Plain(writer), None));
    };
    let shaken = tls::connect(reader, writer, (config.clone(), alpn), name.clone(), &until).await;
    let (reader, writer, info) = shaken.map_err(|error| match error {
        tls::HandshakeError::TimedOut => UpstreamError::ConnectTimeout,
        error => UpstreamError::Connect(format!("TLS error: {error}")),
    })?;
    Ok((reader, writer, Some(info)))
}

fn failed(error: &io::Error) -> UpstreamError {
    match error.kind() {
        io::ErrorKind::TimedOut => UpstreamError::ConnectTimeout,
        _ => UpstreamError::Connect(error.to_string()),
    }
}
