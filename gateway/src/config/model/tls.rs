//! `tls` of a listener.

use std::fmt;
use std::sync::Arc;

use super::{CertificateId, HostPattern, KeyKind};
pub use crate::proto::x509::SanMatch;

/// `tls` of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerTls {
    /// `certificates`, those of directories one by one; the first one is the default for clients whose SNI matches none.
    pub certificates: Vec<CertificateId>,
    /// `strict_sni`: refuse a handshake whose SNI matches no certificate, in place of the default one. Default off.
    pub strict_sni: bool,
    /// `cipher_suites`, the favourite first; empty is all, in the client's order.
    pub cipher_suites: Vec<CipherSuite>,
    /// `key_exchange`. Default X25519MLKEM768, X25519, P-256, P-384.
    pub key_exchange: Vec<KeyExchange>,
    /// What clients must do, unless `hosts` says otherwise.
    pub terms: TlsTerms,
    /// `hosts`: those with terms of their own.
    pub hosts: Vec<TlsHost>,
}

/// What a client must do to be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsTerms {
    /// `min_version`
    pub min_version: TlsVersion,
    /// `client_auth`; `None` is `mode = "off"`.
    pub client_auth: Option<ClientAuth>,
}

/// `hosts` of `tls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsHost {
    /// `hosts`, by server name and by `Host`. The most specific one counts, as in routes.
    pub hosts: Vec<HostPattern>,
    /// What their clients must do.
    pub terms: TlsTerms,
}

/// `client_auth`: which certificates clients may show.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientAuth {
    /// `mode = "require"`: a client without a certificate is refused.
    pub is_required: bool,
    /// `ca`: the PEM file's bytes.
    pub ca_pem: Arc<[u8]>,
    /// `crl`: the revocation lists of all files, in DER.
    pub crls: Vec<Arc<[u8]>>,
    /// `names`: one of these must match; empty is any name.
    pub names: Vec<SanMatch>,
    /// `spki_sha256`: the key must be one of these; empty is any key.
    pub spki_sha256: Vec<[u8; 32]>,
}

impl fmt::Debug for ClientAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ClientAuth { is_required, names, crls, .. } = self;
        let mut text = f.debug_struct("ClientAuth");
        text.field("is_required", is_required).field("names", names).field("crls", &crls.len()).finish_non_exhaustive()
    }
}

/// `mode` of `client_auth`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuthMode {
    /// `"off"`: none is asked for.
    Off,
    /// `"optional"`: a client without one is served; one that shows one must pass.
    Optional,
    /// `"require"`
    Require,
}

/// A TLS protocol version the gateway speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2, the default floor.
    Tls12,
    /// TLS 1.3
    Tls13,
}

/// A cipher suite, by its number (IANA's registry of TLS parameters).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CipherSuite(pub u16);

impl CipherSuite {
    /// The version that has it: those of TLS 1.3 have numbers of their own (RFC 8446 §B.4).
    pub fn version(self) -> TlsVersion {
        if self.0 >> 8 == 0x13 { TlsVersion::Tls13 } else { TlsVersion::Tls12 }
    }

    /// Whether a certificate with such a key can be shown with it. In TLS 1.2 suites are for RSA, or for ECDSA and
    /// Ed25519 (RFC 8422 section 2); those of TLS 1.3 say nothing of keys.
    pub fn suits(self, key: KeyKind) -> bool {
        match self.0 {
            0xc02f | 0xc030 | 0xcca8 => matches!(key, KeyKind::Rsa(_)),
            0xc02b | 0xc02c | 0xcca9 => matches!(key, KeyKind::Ecdsa(_) | KeyKind::Ed25519),
            _ => true,
        }
    }
}

/// A way to agree on a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyExchange {
    /// X25519 and ML-KEM-768 together: who records today cannot read with a quantum computer. TLS 1.3 only.
    X25519MlKem768,
    /// P-256 and ML-KEM-768 together. TLS 1.3 only.
    P256MlKem768,
    /// X25519
    X25519,
    /// P-256
    P256,
    /// P-384
    P384,
}

impl KeyExchange {
    /// Whether TLS 1.2 has it.
    pub fn is_classic(self) -> bool {
        matches!(self, KeyExchange::X25519 | KeyExchange::P256 | KeyExchange::P384)
    }
}

/// `forward_client_cert` of a listener: what becomes of `x-forwarded-client-cert`. Names and meanings are those of
/// Envoy's `forward_client_cert_details`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ForwardClientCert {
    /// `"sanitize"`: the origin gets none.
    #[default]
    Sanitize,
    /// `"sanitize_set"`: the origin gets what the gateway knows of the client's certificate, and nothing else.
    SanitizeSet,
    /// `"forward_only"`: what came is passed on, if the client has shown a certificate.
    ForwardOnly,
    /// `"append_forward"`: what came, and after it what the gateway knows, if the client has shown a certificate.
    AppendForward,
    /// `"always_forward_only"`: what came is passed on.
    AlwaysForwardOnly,
}

/// `forward_client_cert_details` of a listener: what the gateway tells, besides the hash of the certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ClientCertDetails {
    /// `"cert"`: the certificate, in PEM, URL-encoded.
    pub cert: bool,
    /// `"chain"`: the certificates the client sent, in PEM, URL-encoded.
    pub chain: bool,
    /// `"subject"`
    pub subject: bool,
    /// `"uri"`: alternative names that are URIs.
    pub uri: bool,
    /// `"dns"`: alternative names that are DNS names.
    pub dns: bool,
}
