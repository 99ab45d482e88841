//! New connections to an endpoint.

use std::io;

use super::UpstreamError;
use super::h1::Connection;
use super::pool::Slot;
use crate::net::{self, Deadline, Until};
use crate::snapshot::{ClusterView, EndpointView};
use crate::tls;

/// Connects, and shakes hands where the cluster speaks TLS, before `deadline`. The connection keeps `slot`.
pub async fn connect(
    cluster: &ClusterView,
    endpoint: &EndpointView,
    slot: Slot,
    deadline: &Deadline,
) -> Result<Box<Connection>, UpstreamError> {
    let until = Until::only(deadline);
    let (reader, writer) = net::connect(endpoint.address, &until).await.map_err(|error| failed(&error))?;
    let (reader, writer) = match (&cluster.tls, &endpoint.server_name) {
        (Some(config), Some(name)) => {
            tls::connect(reader, writer, config.clone(), name.clone(), &until).await.map_err(|error| match error {
                tls::HandshakeError::TimedOut => UpstreamError::ConnectTimeout,
                error => UpstreamError::Connect(format!("TLS error: {error}")),
            })?
        }
        _ => (tls::Reader::Plain(reader), tls::Writer::Plain(writer)),
    };
    Ok(Box::new(Connection::new(reader, writer, slot)))
}

fn failed(error: &io::Error) -> UpstreamError {
    match error.kind() {
        io::ErrorKind::TimedOut => UpstreamError::ConnectTimeout,
        _ => UpstreamError::Connect(error.to_string()),
    }
}
