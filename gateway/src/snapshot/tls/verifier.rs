//! Whom an endpoint has to be.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, OtherError, SignatureScheme};

use super::sessions::Sessions;
use super::{BuildError, Secrets};
use crate::config::model::UpstreamTls;
use crate::proto::x509::{Identity, SanMatch};

/// Looks at the certificates of a cluster's endpoints.
#[derive(Clone, Debug)]
pub(super) struct Verifier {
    /// `None`: `verify = false`, encryption without knowing to whom.
    chain: Option<Arc<WebPkiServerVerifier>>,
    /// Who the endpoint may be, in place of the server name; empty is the server name.
    names: Vec<SanMatch>,
    algorithms: WebPkiSupportedAlgorithms,
    /// Are told until when the certificates are good.
    sessions: Option<Arc<Sessions>>,
}

impl Verifier {
    pub(super) fn new(wanted: &UpstreamTls, secrets: &Secrets) -> Result<Verifier, BuildError> {
        Ok(Verifier {
            chain: if wanted.verify { Some(chain(wanted, secrets)?) } else { None },
            names: wanted.names.clone(),
            algorithms: secrets.provider.signature_verification_algorithms,
            sessions: None,
        })
    }

    /// The same, for an endpoint with these sessions.
    pub(super) fn telling(&self, sessions: Arc<Sessions>) -> Verifier {
        Verifier { sessions: Some(sessions), ..self.clone() }
    }

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

/// Authority, time, purpose, revocation and server name.
fn chain(wanted: &UpstreamTls, secrets: &Secrets) -> Result<Arc<WebPkiServerVerifier>, BuildError> {
    let (roots, whose) = match &wanted.ca_pem {
        None => (secrets.system_roots(), "the system's authorities"),
        Some(pem) => (Arc::new(super::roots_from(pem)?), "tls.ca and tls.crl"),
    };
    let lists = wanted.crls.iter().map(|der| CertificateRevocationListDer::from(der.to_vec()));
    // A list that is out of date says nothing about who was revoked since.
    WebPkiServerVerifier::builder_with_provider(roots, secrets.provider.clone())
        .with_crls(lists)
        .enforce_revocation_expiration()
        .build()
        .map_err(|error| BuildError(format!("{whose}: {error}")))
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

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use CertificateError as E;
        if let Some(chain) = &self.chain {
            match chain.verify_server_cert(own, intermediates, server_name, ocsp, now) {
                Ok(_) => {}
                // The name is what it looks at last: everything else is well. (Tests hold it to that.)
                Err(rustls::Error::InvalidCertificate(E::NotValidForName | E::NotValidForNameContext { .. }))
                    if !self.names.is_empty() => {}
                Err(error) => return Err(error),
            }
            if !self.names.is_empty() {
                self.check_names(own)?;
            }
        }
        if let Some(sessions) = &self.sessions {
            sessions.begin(own, intermediates, now);
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
