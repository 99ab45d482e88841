//! TLS towards endpoints.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::SingleCertAndKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, SignatureScheme};

use super::server::versions;
use super::{BuildError, Secrets, alpn};
use crate::config::model::{HealthProbe, HttpVersions, Pair, UpstreamProtocol, UpstreamTls};
use crate::proto::x509::{Identity, SanMatch};

/// Sessions of one endpoint that are kept, over all workers: rustls keeps so many tickets of TLS 1.3 for a server, each for
/// one handshake. An endpoint gives two with each full one.
const SESSIONS: usize = 8;

/// A cluster's settings, without a place for sessions.
pub(in crate::snapshot) fn client(
    wanted: &UpstreamTls,
    protocol: UpstreamProtocol,
    shown: Option<&Pair>,
    secrets: &Secrets,
) -> Result<ClientConfig, BuildError> {
    let mut config = client_config(wanted, shown, secrets)?;
    config.alpn_protocols = alpn(versions_of(protocol));
    Ok(config)
}

/// The same for one endpoint. Its sessions are its own: rustls knows them by the server's name, which all endpoints of a
/// cluster may have, and a ticket is of no use to another one.
pub(in crate::snapshot) fn of_endpoint(cluster: &ClientConfig, wanted: &UpstreamTls) -> Arc<ClientConfig> {
    let mut config = cluster.clone();
    if wanted.resumption {
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
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
    let mut config = client_config(wanted, shown, secrets)?;
    config.alpn_protocols = match probe {
        HealthProbe::Http { version, .. } => alpn(versions_of(*version)),
        HealthProbe::Grpc { .. } => alpn(versions_of(UpstreamProtocol::H2)),
        HealthProbe::Tls => wanted.alpn.iter().map(|name| name.as_bytes().to_vec()).collect(),
        HealthProbe::Tcp | HealthProbe::Udp { .. } => Vec::new(),
    };
    Ok(Arc::new(config))
}

/// `shown`: who we are, for endpoints that ask.
fn client_config(wanted: &UpstreamTls, shown: Option<&Pair>, secrets: &Secrets) -> Result<ClientConfig, BuildError> {
    let builder = ClientConfig::builder_with_provider(secrets.provider.clone())
        .with_protocol_versions(versions(wanted.min_version))
        .map_err(|error| BuildError(format!("TLS versions: {error}")))?
        .dangerous()
        .with_custom_certificate_verifier(verifier(wanted, secrets)?);
    let mut config = match shown {
        Some(pair) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair.key.clone()))),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn verifier(wanted: &UpstreamTls, secrets: &Secrets) -> Result<Arc<dyn ServerCertVerifier>, BuildError> {
    if !wanted.verify {
        return Ok(Arc::new(AcceptAny(secrets.provider.signature_verification_algorithms)));
    }
    let (roots, whose) = match &wanted.ca_pem {
        None => (secrets.system_roots(), "the system's authorities"),
        Some(pem) => (Arc::new(super::roots_from(pem)?), "tls.ca and tls.crl"),
    };
    let lists = wanted.crls.iter().map(|der| CertificateRevocationListDer::from(der.to_vec()));
    // A list that is out of date says nothing about who was revoked since.
    let chain = WebPkiServerVerifier::builder_with_provider(roots, secrets.provider.clone())
        .with_crls(lists)
        .enforce_revocation_expiration()
        .build()
        .map_err(|error| BuildError(format!("{whose}: {error}")))?;
    Ok(match wanted.names.is_empty() {
        true => chain,
        false => Arc::new(ByNames { chain, names: wanted.names.clone() }),
    })
}

fn versions_of(protocol: UpstreamProtocol) -> HttpVersions {
    match protocol {
        UpstreamProtocol::H1 => HttpVersions { h1: true, h2: false },
        UpstreamProtocol::H2 => HttpVersions { h1: false, h2: true },
        UpstreamProtocol::Auto => HttpVersions { h1: true, h2: true },
    }
}

/// `names`: who the endpoint may be, in place of the server name.
#[derive(Debug)]
struct ByNames {
    chain: Arc<WebPkiServerVerifier>,
    names: Vec<SanMatch>,
}

impl ByNames {
    fn check_names(&self, own: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let certificate = ParsedCertificate::try_from(own)?;
        let identity = Identity::of(own).ok_or(CertificateError::BadEncoding)?;
        let is_for = |name: ServerName<'_>| verify_server_name(&certificate, &name).is_ok();
        let is_one = |name: &SanMatch| match name {
            // The endpoint may have a wildcard for a host.
            SanMatch::Dns(host) => ServerName::try_from(host.as_str()).is_ok_and(is_for),
            other => other.matches(&identity),
        };
        match self.names.iter().any(is_one) {
            true => Ok(()),
            false => Err(CertificateError::Other(OtherError(Arc::new(NoneOfNames::of(&identity)))).into()),
        }
    }
}

/// The certificate is good, and for none of `names`.
struct NoneOfNames(String);

impl NoneOfNames {
    fn of(identity: &Identity) -> NoneOfNames {
        let ips = identity.ips.iter().map(ToString::to_string);
        let names: Vec<_> = identity.dns.iter().chain(&identity.uris).cloned().chain(ips).collect();
        NoneOfNames(names.join(", "))
    }
}

impl fmt::Display for NoneOfNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_str() {
            "" => f.write_str("it has no name, and `names` asks for one"),
            names => write!(f, "it is for {names}, which `names` does not allow"),
        }
    }
}

/// rustls writes errors of others so.
impl fmt::Debug for NoneOfNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for NoneOfNames {}

impl ServerCertVerifier for ByNames {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use CertificateError as E;
        match self.chain.verify_server_cert(own, intermediates, server_name, ocsp, now) {
            // The name is what it looks at last: everything else is well. (Tests hold it to that.)
            Ok(_) | Err(rustls::Error::InvalidCertificate(E::NotValidForName | E::NotValidForNameContext { .. })) => {
                self.check_names(own).map(|()| ServerCertVerified::assertion())
            }
            Err(error) => Err(error),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
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
