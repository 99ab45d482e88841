//! TLS towards endpoints.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};

use super::{BuildError, Secrets, alpn, roots_from};
use crate::config::model::{HealthProbe, HttpVersions, UpstreamProtocol, UpstreamTls};

/// A cluster's settings.
pub(in crate::snapshot) fn client(
    wanted: &UpstreamTls,
    protocol: UpstreamProtocol,
    secrets: &Secrets,
) -> Result<Arc<ClientConfig>, BuildError> {
    let mut config = client_config(wanted, secrets)?;
    config.alpn_protocols = alpn(versions_of(protocol));
    Ok(Arc::new(config))
}

/// The settings of a health check. It resumes no session: then the endpoint would not show its certificate.
pub(in crate::snapshot) fn check(
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
