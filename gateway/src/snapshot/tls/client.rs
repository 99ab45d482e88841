//! TLS towards endpoints.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::sign::SingleCertAndKey;
use rustls::time_provider::TimeProvider;

use super::server::versions;
use super::sessions::Sessions;
use super::verifier::Verifier;
use super::{BuildError, Secrets, alpn};
use crate::config::model::{HealthProbe, HttpVersions, Pair, UpstreamProtocol, UpstreamTls};

/// A cluster's settings, without a place for sessions.
pub(in crate::snapshot) struct ClientTls {
    config: ClientConfig,
    verifier: Verifier,
    time: Arc<dyn TimeProvider>,
}

/// The settings of a cluster.
pub(in crate::snapshot) fn client(
    wanted: &UpstreamTls,
    protocol: UpstreamProtocol,
    shown: Option<&Pair>,
    secrets: &Secrets,
) -> Result<ClientTls, BuildError> {
    let verifier = Verifier::new(wanted, secrets)?;
    let mut config = client_config(wanted, shown, &verifier, secrets)?;
    config.alpn_protocols = alpn(versions_of(protocol));
    Ok(ClientTls { config, verifier, time: secrets.time.clone() })
}

/// The same for one endpoint. Its sessions are its own: rustls knows them by the server's name, which all endpoints of a
/// cluster may have, and a ticket is of no use to another one.
pub(in crate::snapshot) fn of_endpoint(cluster: &ClientTls, wanted: &UpstreamTls) -> Arc<ClientConfig> {
    let mut config = cluster.config.clone();
    if wanted.resumption {
        let sessions = Arc::new(Sessions::new(cluster.time.clone()));
        let verifier = cluster.verifier.telling(sessions.clone());
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
        config.resumption = Resumption::store(sessions);
    }
    Arc::new(config)
}

/// The settings of a health check. It resumes no session: then the endpoint would not show its certificate.
pub(in crate::snapshot) fn check(
    wanted: &UpstreamTls,
    probe: &HealthProbe,
    shown: Option<&Pair>,
    secrets: &Secrets,
) -> Result<Arc<ClientConfig>, BuildError> {
    let mut config = client_config(wanted, shown, &Verifier::new(wanted, secrets)?, secrets)?;
    config.alpn_protocols = match probe {
        HealthProbe::Http { version, .. } => alpn(versions_of(*version)),
        HealthProbe::Grpc { .. } => alpn(versions_of(UpstreamProtocol::H2)),
        HealthProbe::Tls => wanted.alpn.iter().map(|name| name.as_bytes().to_vec()).collect(),
        HealthProbe::Tcp | HealthProbe::Udp { .. } => Vec::new(),
    };
    Ok(Arc::new(config))
}

/// `shown`: who we are, for endpoints that ask.
fn client_config(
    wanted: &UpstreamTls,
    shown: Option<&Pair>,
    verifier: &Verifier,
    secrets: &Secrets,
) -> Result<ClientConfig, BuildError> {
    let builder = ClientConfig::builder_with_details(secrets.provider.clone(), secrets.time.clone())
        .with_protocol_versions(versions(wanted.min_version))
        .map_err(|error| BuildError(format!("TLS versions: {error}")))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier.clone()));
    let mut config = match shown {
        Some(pair) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair.key.clone()))),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn versions_of(protocol: UpstreamProtocol) -> HttpVersions {
    match protocol {
        UpstreamProtocol::H1 => HttpVersions { h1: true, h2: false },
        UpstreamProtocol::H2 => HttpVersions { h1: false, h2: true },
        UpstreamProtocol::Auto => HttpVersions { h1: true, h2: true },
    }
}
