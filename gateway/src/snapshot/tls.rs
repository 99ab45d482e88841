//! TLS settings of listeners and clusters.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme, SupportedProtocolVersion,
};

use super::BuildError;
use crate::config::model::{
    Certificate, HealthProbe, HttpVersions, ListenerTls, TlsVersion, UpstreamProtocol, UpstreamTls,
};

/// What every generation's TLS settings share.
pub struct Secrets {
    provider: Arc<CryptoProvider>,
    /// Ticket keys, the same for every worker and listener, so that a client resumes whichever worker it meets. rustls
    /// makes a new key every six hours and accepts the last one for six more.
    tickets: Arc<dyn ProducesTickets>,
    /// The system's roots, read when a cluster first needs them.
    roots: std::sync::OnceLock<Arc<RootCertStore>>,
}

impl Secrets {
    pub(super) fn new() -> Result<Secrets, BuildError> {
        let tickets = aws_lc_rs::Ticketer::new().map_err(|error| BuildError(format!("TLS ticket keys: {error}")))?;
        Ok(Secrets { provider: Arc::new(aws_lc_rs::default_provider()), tickets, roots: std::sync::OnceLock::new() })
    }

    fn system_roots(&self) -> Arc<RootCertStore> {
        let read = || {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            Arc::new(roots)
        };
        self.roots.get_or_init(read).clone()
    }
}

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
pub(super) fn server(
    wanted: &ListenerTls,
    http: Option<HttpVersions>,
    certificates: &[Certificate],
    secrets: &Secrets,
) -> Result<ServerTls, BuildError> {
    let resolver = Arc::new(BySni::new(wanted, http, certificates, &secrets.provider)?);
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

/// A cluster's settings.
pub(super) fn client(
    wanted: &UpstreamTls,
    protocol: UpstreamProtocol,
    secrets: &Secrets,
) -> Result<Arc<ClientConfig>, BuildError> {
    let mut config = client_config(wanted, secrets)?;
    config.alpn_protocols = alpn(versions_of(protocol));
    Ok(Arc::new(config))
}

/// The settings of a health check. It resumes no session: then the endpoint would not show its certificate.
pub(super) fn check(
    wanted: &UpstreamTls,
    probe: &HealthProbe,
    secrets: &Secrets,
) -> Result<Arc<ClientConfig>, BuildError> {
    let mut config = client_config(wanted, secrets)?;
    config.alpn_protocols = match probe {
        HealthProbe::Http { version, .. } => alpn(versions_of(*version)),
        HealthProbe::Grpc { .. } => alpn(versions_of(UpstreamProtocol::H2)),
        HealthProbe::Tcp | HealthProbe::Udp { .. } | HealthProbe::Tls => Vec::new(),
    };
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn client_config(wanted: &UpstreamTls, secrets: &Secrets) -> Result<ClientConfig, BuildError> {
    let builder = ClientConfig::builder_with_provider(secrets.provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| BuildError(format!("TLS versions: {error}")))?;
    let roots = match &wanted.ca_pem {
        None => secrets.system_roots(),
        Some(pem) => Arc::new(roots_from(pem)?),
    };
    let builder = match wanted.verify {
        true => builder.with_root_certificates(roots),
        false => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AcceptAny(secrets.provider.signature_verification_algorithms))),
    };
    Ok(builder.with_no_client_auth())
}

fn versions_of(protocol: UpstreamProtocol) -> HttpVersions {
    match protocol {
        UpstreamProtocol::H1 => HttpVersions { h1: true, h2: false },
        UpstreamProtocol::H2 => HttpVersions { h1: false, h2: true },
        UpstreamProtocol::Auto => HttpVersions { h1: true, h2: true },
    }
}

/// Protocol names in the order of preference (RFC 9113 §3.2, RFC 7301).
fn alpn(versions: HttpVersions) -> Vec<Vec<u8>> {
    let h2 = versions.h2.then(|| b"h2".to_vec());
    let h1 = versions.h1.then(|| b"http/1.1".to_vec());
    h2.into_iter().chain(h1).collect()
}

fn versions(floor: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static FROM_12: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];
    static FROM_13: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];
    match floor {
        TlsVersion::Tls12 => &FROM_12,
        TlsVersion::Tls13 => &FROM_13,
    }
}

fn roots_from(pem: &[u8]) -> Result<RootCertStore, BuildError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| BuildError(format!("tls.ca: {error}")))?;
        roots.add(certificate).map_err(|error| BuildError(format!("tls.ca: {error}")))?;
    }
    Ok(roots)
}

/// Chooses a certificate by the server name: exact, then wildcard, then the listener's first one.
#[derive(Debug)]
struct BySni {
    exact: HashMap<String, Vec<Shown>>,
    /// By what follows the `*.`.
    wildcard: HashMap<String, Vec<Shown>>,
    default: Option<Arc<CertifiedKey>>,
    default_http: HttpVersions,
}

/// A certificate for a name.
#[derive(Clone, Debug)]
struct Shown {
    key: Arc<CertifiedKey>,
    http: HttpVersions,
}

impl BySni {
    /// `http`: what the listener speaks; what it speaks is no HTTP when there is none.
    fn new(
        wanted: &ListenerTls,
        http: Option<HttpVersions>,
        certificates: &[Certificate],
        provider: &CryptoProvider,
    ) -> Result<BySni, BuildError> {
        let http = http.unwrap_or_default();
        let mut resolver = BySni { exact: HashMap::new(), wildcard: HashMap::new(), default: None, default_http: http };
        for id in &wanted.certificates {
            let certificate = &certificates[id.index()];
            let key = Arc::new(certified_key(certificate, provider)?);
            let both = HttpVersions { h1: http.h1 && certificate.http.h1, h2: http.h2 && certificate.http.h2 };
            for host in &certificate.hosts {
                let names = match host.strip_prefix("*.") {
                    Some(rest) => resolver.wildcard.entry(rest.to_ascii_lowercase()),
                    None => resolver.exact.entry(host.to_ascii_lowercase()),
                };
                names.or_default().push(Shown { key: key.clone(), http: both });
            }
            if resolver.default.is_none() && !wanted.strict_sni {
                resolver.default = Some(key);
                resolver.default_http = both;
            }
        }
        Ok(resolver)
    }

    fn find(&self, name: &str) -> Option<&[Shown]> {
        let wildcard = || self.wildcard.get(name.split_once('.')?.1);
        self.exact.get(name).or_else(wildcard).map(Vec::as_slice)
    }
}

impl ResolvesServerCert for BySni {
    /// Of several certificates for one name (RSA and ECDSA, say), the first one that the client can verify.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.find(name)).unwrap_or_default();
        let usable = named.iter().find(|shown| shown.key.key.choose_scheme(hello.signature_schemes()).is_some());
        usable.or(named.first()).map(|shown| &shown.key).or(self.default.as_ref()).cloned()
    }
}

fn certified_key(certificate: &Certificate, provider: &CryptoProvider) -> Result<CertifiedKey, BuildError> {
    let wrong = |what: &str, error: &dyn std::fmt::Display| {
        BuildError(format!("certificate \"{}\": {what}: {error}", certificate.name))
    };
    let chain = CertificateDer::pem_slice_iter(&certificate.chain_pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong("chain", &error))?;
    let key = PrivateKeyDer::from_pem_slice(&certificate.key_pem).map_err(|error| wrong("key", &error))?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| wrong("key", &error))
}

/// `verify = false`: encryption without knowing to whom.
#[derive(Debug)]
struct AcceptAny(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
