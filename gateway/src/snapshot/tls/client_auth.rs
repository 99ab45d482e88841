//! Certificates of clients: who is let in, and what a session ticket is worth.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};

use super::{BuildError, roots_from};
use crate::config::model;
use crate::proto::x509::{Identity, SanMatch};

/// Certificates that a client may show: its own, and more authorities above it than anybody has.
const CHAIN_MAX: usize = 10;

/// Bytes of them. Ten with RSA keys of 4096 bits have half of it. They are kept for as long as the connection is open, and
/// a session ticket has to hold them, whose field has 16 bits for its length.
const CHAIN_BYTES_MAX: usize = 32 * 1024;

/// A client has shown more certificates than are looked at.
#[derive(Debug)]
pub struct LongChain;

/// Stands for the rules: two that are equal let in the same clients.
pub(super) type Digest = [u8; 32];

/// The rules of `client_auth`, compiled.
pub(super) struct ClientAuth {
    /// Chain, time, purpose and revocation.
    chain: Arc<dyn ClientCertVerifier>,
    names: Vec<SanMatch>,
    keys: Vec<[u8; 32]>,
    pub(super) is_required: bool,
    pub(super) digest: Digest,
}

impl ClientAuth {
    pub(super) fn new(wanted: &model::ClientAuth, provider: &Arc<CryptoProvider>) -> Result<ClientAuth, BuildError> {
        let wrong = |what: &str, error: &dyn fmt::Display| BuildError(format!("tls.client_auth.{what}: {error}"));
        let roots = Arc::new(roots_from(&wanted.ca_pem)?);
        let lists = wanted.crls.iter().map(|der| CertificateRevocationListDer::from(der.to_vec()));
        // A list that is out of date says nothing about who was revoked since.
        let builder = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
            .with_crls(lists)
            .enforce_revocation_expiration();
        let builder = if wanted.is_required { builder } else { builder.allow_unauthenticated() };
        Ok(ClientAuth {
            chain: builder.build().map_err(|error| wrong("crl", &error))?,
            names: wanted.names.clone(),
            keys: wanted.spki_sha256.clone(),
            is_required: wanted.is_required,
            digest: digest_of(wanted),
        })
    }

    /// Whether the owner of this chain, its own certificate first, is let in at `now`.
    pub(super) fn verify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), rustls::Error> {
        let Some((own, intermediates)) = chain.split_first() else {
            return if self.is_required { Err(rustls::Error::NoCertificatesPresented) } else { Ok(()) };
        };
        if chain.len() > CHAIN_MAX || chain.iter().map(|der| der.len()).sum::<usize>() > CHAIN_BYTES_MAX {
            return Err(CertificateError::Other(OtherError(Arc::new(LongChain))).into());
        }
        self.chain.verify_client_cert(own, intermediates, now).map_err(|error| match error {
            // An authority of this name is trusted, and has another key: after it was replaced, say.
            rustls::Error::InvalidCertificate(CertificateError::BadSignature) => CertificateError::UnknownIssuer.into(),
            other => other,
        })?;
        // Whether rules ask for it or not: origins and the log are told of it, and a client with a certificate that says nothing
        // would be nobody there.
        let identity = Identity::of(own).ok_or(CertificateError::BadEncoding)?;
        let has_name = self.names.is_empty() || self.names.iter().any(|rule| rule.matches(&identity));
        let has_key = self.keys.is_empty() || self.keys.contains(&identity.spki_sha256);
        match has_name && has_key {
            true => Ok(()),
            // access_denied: it is good, and it is not let in (RFC 8446 §6.2).
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }
}

impl fmt::Display for LongChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "more than {CHAIN_MAX} certificates, or {CHAIN_BYTES_MAX} bytes of them")
    }
}

impl std::error::Error for LongChain {}

impl fmt::Debug for ClientAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientAuth").field("is_required", &self.is_required).finish_non_exhaustive()
    }
}

impl ClientCertVerifier for ClientAuth {
    fn client_auth_mandatory(&self) -> bool {
        self.is_required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let chain: Vec<_> = [own].into_iter().chain(intermediates).cloned().collect();
        self.verify(&chain, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// The same on every box and in every release, so that a fleet can resume what one of it began.
fn digest_of(wanted: &model::ClientAuth) -> Digest {
    let model::ClientAuth { is_required, ca_pem, crls, names, spki_sha256 } = wanted;
    let mut context = digest::Context::new(&digest::SHA256);
    let mut add = |bytes: &[u8]| {
        context.update(&(bytes.len() as u64).to_be_bytes());
        context.update(bytes);
    };
    add(&[u8::from(*is_required)]);
    add(ca_pem);
    add(&(crls.len() as u64).to_be_bytes());
    crls.iter().for_each(|list| add(list));
    add(&(names.len() as u64).to_be_bytes());
    names.iter().for_each(|name| add(name.to_string().as_bytes()));
    spki_sha256.iter().for_each(|pin| add(pin));
    let mut digest = Digest::default();
    digest.copy_from_slice(context.finish().as_ref());
    digest
}
