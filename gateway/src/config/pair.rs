//! From the bytes of a certificate and its key to a [`Pair`].

use std::sync::Arc;

use aws_lc_rs::digest::{self, SHA256};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::OID_SIG_ED25519;
use x509_parser::prelude::{X509Certificate, parse_x509_certificate};
use x509_parser::public_key::PublicKey;
use zeroize::Zeroizing;

use super::model::{CertificateInfo, KeyKind, Pair};
use super::ocsp::{Staple, serial_text};

type Chain = Vec<CertificateDer<'static>>;

/// Why a pair is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// A file is not there, or is not what it should be.
    Unreadable,
    /// The key is not that of the certificate.
    KeyMismatch,
    /// It is not valid yet.
    NotYetValid,
    /// It has expired, and one that runs would make way for it.
    Expired,
    /// It does not cover the certificate's `hosts`.
    Hosts,
}

impl Refusal {
    /// As metrics have it.
    pub fn label(self) -> &'static str {
        match self {
            Refusal::Unreadable => "unreadable",
            Refusal::KeyMismatch => "key_mismatch",
            Refusal::NotYetValid => "not_yet_valid",
            Refusal::Expired => "expired",
            Refusal::Hosts => "hosts",
        }
    }
}

/// One of the things that are wrong with a pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairError {
    /// What it is about.
    pub part: PairPart,
    /// What kind of thing it is.
    pub refusal: Refusal,
    /// What is said of the file: a sentence without its subject.
    pub message: String,
    /// What to do about it.
    pub help: &'static str,
}

/// A part of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairPart {
    /// The certificates.
    Chain,
    /// The private key.
    Key,
}

impl Pair {
    /// Reads a chain and its key, both PEM, and what is to be stapled, which is DER and left out if it is about another
    /// certificate. The error is everything that is wrong.
    pub fn of(chain_pem: &[u8], key_pem: &[u8], ocsp: Option<&[u8]>) -> Result<Pair, Vec<PairError>> {
        let (chain, key) = match (parse_chain(chain_pem), parse_key(key_pem)) {
            (Ok(chain), Ok(key)) => (chain, key),
            (chain, key) => return Err(chain.err().into_iter().chain(key.err()).collect()),
        };
        let infos: Vec<_> = chain.iter().filter_map(|der| CertificateInfo::of(der)).collect();
        let chain_not_before = infos.iter().map(|info| info.not_before).max().expect("no empty chain is parsed");
        let chain_not_after = infos.iter().map(|info| info.not_after).min().expect("no empty chain is parsed");
        let info = infos.into_iter().next().expect("no empty chain is parsed");
        let mut key = certified(chain, &key).map_err(|error| vec![error])?;
        let is_about_it = |der: &&[u8]| Staple::of(der).is_some_and(|staple| staple.serial == info.serial);
        key.ocsp = ocsp.filter(is_about_it).map(<[u8]>::to_vec);
        let content = content(chain_pem, key_pem, ocsp);
        Ok(Pair { key: Arc::new(key), info, chain_not_before, chain_not_after, content })
    }

    /// Whether it was read from this.
    pub fn is_of(&self, chain_pem: &[u8], key_pem: &[u8], ocsp: Option<&[u8]>) -> bool {
        self.content == content(chain_pem, key_pem, ocsp)
    }
}

/// What tells a pair from another one without reading either: SHA-256 of both files and what is stapled.
pub fn content(chain_pem: &[u8], key_pem: &[u8], ocsp: Option<&[u8]>) -> [u8; 32] {
    let mut all = digest::Context::new(&SHA256);
    for part in [chain_pem, key_pem, ocsp.unwrap_or_default()] {
        // With its length, no part can be taken for the end of another.
        all.update(&(part.len() as u64).to_le_bytes());
        all.update(part);
    }
    sha256(all.finish())
}

impl CertificateInfo {
    /// What a certificate in DER form says; `None` when it is none.
    pub fn of(der: &[u8]) -> Option<CertificateInfo> {
        let (_, certificate) = parse_x509_certificate(der).ok()?;
        Some(CertificateInfo {
            names: dns_names(&certificate),
            issuer: certificate.issuer().to_string(),
            serial: serial_text(certificate.raw_serial()),
            key_kind: key_kind(&certificate),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
            sha256: sha256(digest::digest(&SHA256, der)),
        })
    }
}

fn sha256(digest: digest::Digest) -> [u8; 32] {
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// The names a certificate is good for. Its common name is not one: no client has looked at it for years (RFC 9525
/// section 2).
fn dns_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let extension = certificate.subject_alternative_name().ok().flatten();
    let names = extension.iter().flat_map(|extension| &extension.value.general_names);
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect()
}

fn key_kind(certificate: &X509Certificate<'_>) -> KeyKind {
    let key = certificate.public_key();
    match key.parsed() {
        Ok(PublicKey::RSA(key)) => KeyKind::Rsa(key.key_size() as u32),
        // A coordinate of P-521 is 66 bytes long, which is 528 bits.
        Ok(PublicKey::EC(point)) => KeyKind::Ecdsa(point.key_size().min(521) as u32),
        _ if key.algorithm.algorithm == OID_SIG_ED25519 => KeyKind::Ed25519,
        _ => KeyKind::Other,
    }
}

fn parse_chain(pem: &[u8]) -> Result<Chain, PairError> {
    let message = match CertificateDer::pem_slice_iter(pem).collect::<Result<Chain, _>>() {
        Ok(chain) if chain.is_empty() => "has no certificate".to_owned(),
        Ok(chain) => match chain.iter().position(|der| parse_x509_certificate(der).is_err()) {
            None => return Ok(chain),
            Some(index) => format!("has a certificate that cannot be read, number {}", index + 1),
        },
        Err(error) => not_pem(&error),
    };
    let help = "it has to begin with -----BEGIN CERTIFICATE-----";
    Err(PairError { part: PairPart::Chain, refusal: Refusal::Unreadable, message, help })
}

fn not_pem(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "is cut off: it has no -----END line".to_owned(),
        error => format!("is not PEM: {error}"),
    }
}

/// The key, which is wiped when it is dropped: the library has made its own form of it by then.
fn parse_key(pem: &[u8]) -> Result<Zeroizing<PrivateKeyDer<'static>>, PairError> {
    let message = match PrivateKeyDer::from_pem_slice(pem) {
        Ok(key) => return Ok(Zeroizing::new(key)),
        Err(_) if pem.windows(9).any(|bytes| bytes == b"ENCRYPTED") => {
            "has an encrypted key, which is not supported".to_owned()
        }
        Err(pem::Error::NoItemsFound) => "has no private key".to_owned(),
        Err(error) => not_pem(&error),
    };
    let help = "it has to begin with -----BEGIN PRIVATE KEY-----";
    Err(PairError { part: PairPart::Key, refusal: Refusal::Unreadable, message, help })
}

fn certified(chain: Chain, key: &PrivateKeyDer<'_>) -> Result<CertifiedKey, PairError> {
    let error = |refusal, message: &str| PairError {
        part: PairPart::Key,
        refusal,
        message: message.to_owned(),
        help: "RSA, ECDSA (P-256, P-384, P-521) or Ed25519, belonging to the first certificate in `chain`",
    };
    let key =
        any_supported_type(key).map_err(|_| error(Refusal::Unreadable, "has a key of a kind that is not supported"))?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) => Ok(certified),
        Err(_) => Err(error(Refusal::KeyMismatch, "is not the key of this certificate")),
    }
}
