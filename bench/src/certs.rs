//! Certificates for the proxies, and the TLS of the clients.
//!
//! Clients offer one key exchange and one cipher, so that every proxy does the same cryptography. They check no
//! certificate: that is their work, and not what is measured.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use rcgen::{CertificateParams, KeyPair, RsaKeySize};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, NamedGroup, SignatureScheme};

/// The host that clients ask for.
pub const HOST: &str = "bench.example.com";

/// Tickets a client keeps for its next connections.
const TICKETS: usize = 4096;

/// The key of a certificate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Key {
    /// ECDSA P-256.
    Ecdsa,
    /// RSA-2048.
    Rsa,
    /// RSA-4096: a handshake costs the server many times what it costs the client.
    RsaLong,
}

impl Key {
    /// For file names.
    pub fn name(self) -> &'static str {
        match self {
            Key::Ecdsa => "ecdsa",
            Key::Rsa => "rsa",
            Key::RsaLong => "rsa-4096",
        }
    }
}

/// The files of a certificate.
#[derive(Clone, Debug)]
pub struct Files {
    /// Certificate, PEM.
    pub chain: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
    /// One after the other, as HAProxy wants them.
    pub both: PathBuf,
}

/// Makes a certificate for [`HOST`] in `dir`, once.
pub fn issue(key: Key, dir: &Path) -> Result<Files> {
    let file = |kind: &str| dir.join(format!("{}.{kind}", key.name()));
    let files = Files { chain: file("pem"), key: file("key"), both: file("both.pem") };
    if files.both.exists() {
        return Ok(files);
    }
    let pair = match key {
        Key::Ecdsa => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?,
        Key::Rsa => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048)?,
        Key::RsaLong => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_4096)?,
    };
    let certificate = CertificateParams::new([HOST.to_owned()])?.self_signed(&pair)?;
    let (chain, key) = (certificate.pem(), pair.serialize_pem());
    let write = |path: &Path, text: &str| fs::write(path, text).with_context(|| format!("write {}", path.display()));
    write(&files.chain, &chain)?;
    write(&files.key, &key)?;
    write(&files.both, &format!("{chain}{key}"))?;
    Ok(files)
}

/// TLS 1.3 with X25519 and AES-128-GCM; whether sessions are resumed.
pub fn client(resumes: bool) -> Result<Arc<ClientConfig>> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unchecked))
        .with_no_client_auth();
    config.resumption = if resumes { Resumption::store(Arc::new(Tickets::default())) } else { Resumption::disabled() };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Tickets of the one host there is. The store of rustls keeps eight for each host, fewer than connections begin at once.
#[derive(Debug, Default)]
struct Tickets(Mutex<Vec<Tls13ClientSessionValue>>);

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        if let Ok(mut tickets) = self.0.lock() {
            tickets.truncate(TICKETS - 1);
            tickets.push(ticket);
        }
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.lock().ok()?.pop()
    }
}

/// Takes every certificate.
#[derive(Debug)]
struct Unchecked;

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::RSA_PSS_SHA256]
    }
}
