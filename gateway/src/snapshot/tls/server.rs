//! TLS towards clients.

use std::sync::Arc;

use rustls::server::NoServerSessionStorage;
use rustls::{ServerConfig, SupportedProtocolVersion};

use super::sni::BySni;
use super::{BuildError, Secrets, alpn};
use crate::config::model::{Certificate, HttpVersions, ListenerTls, TlsVersion};

/// A listener's settings.
#[derive(Clone)]
pub struct ServerTls {
    /// For handshakes, and for those of hosts that are offered one version of HTTP only.
    all: Arc<ServerConfig>,
    only_h1: Arc<ServerConfig>,
    only_h2: Arc<ServerConfig>,
    certificates: Arc<BySni>,
}

impl ServerTls {
    /// The settings for a handshake with a client that asks for `server_name`.
    pub fn config_for(&self, server_name: Option<&str>) -> &Arc<ServerConfig> {
        let shown = server_name.and_then(|name| self.certificates.find(name)).and_then(<[_]>::first);
        match shown.map_or(self.certificates.default_http, |shown| shown.http) {
            HttpVersions { h1: true, h2: true } => &self.all,
            HttpVersions { h2: true, .. } => &self.only_h2,
            HttpVersions { .. } => &self.only_h1,
        }
    }

    /// Whether a request for `host` came over a connection that was made to reach another one: the certificate that
    /// was chosen for `server_name` does not serve it (RFC 9110 §15.5.20). A client that was shown the default
    /// certificate has accepted whatever it got.
    pub fn misdirects(&self, server_name: &str, host: &[u8]) -> bool {
        if host.eq_ignore_ascii_case(server_name.as_bytes()) {
            return false;
        }
        let Some(shown) = self.certificates.find(server_name) else { return false };
        let of_host = std::str::from_utf8(host).ok().and_then(|host| self.certificates.find(host)).unwrap_or_default();
        !of_host.iter().any(|it| shown.iter().any(|shown| Arc::ptr_eq(&shown.key, &it.key)))
    }
}

/// The settings of a listener.
pub(in crate::snapshot) fn server(
    wanted: &ListenerTls,
    http: Option<HttpVersions>,
    certificates: &[Certificate],
    secrets: &Secrets,
) -> Result<ServerTls, BuildError> {
    let resolver = Arc::new(BySni::new(wanted, http, certificates));
    let mut config = ServerConfig::builder_with_provider(secrets.provider.clone())
        .with_protocol_versions(versions(wanted.min_version))
        .map_err(|error| BuildError(format!("TLS versions: {error}")))?
        .with_no_client_auth()
        .with_cert_resolver(resolver.clone());
    // Sessions live in tickets: a store would be one more thing that workers share.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = secrets.tickets.clone();
    let offering = |versions: HttpVersions| {
        let mut config = config.clone();
        config.alpn_protocols = http.map_or_else(Vec::new, |_| alpn(versions));
        Arc::new(config)
    };
    Ok(ServerTls {
        all: offering(HttpVersions { h1: true, h2: true }),
        only_h1: offering(HttpVersions { h1: true, h2: false }),
        only_h2: offering(HttpVersions { h1: false, h2: true }),
        certificates: resolver,
    })
}

fn versions(floor: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static FROM_12: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];
    static FROM_13: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];
    match floor {
        TlsVersion::Tls12 => &FROM_12,
        TlsVersion::Tls13 => &FROM_13,
    }
}
