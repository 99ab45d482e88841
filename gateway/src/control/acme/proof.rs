//! What proves that a name is ours, as it is told to the other boxes of a fleet: the authority may ask any of them.

use std::sync::Arc;

use data_encoding::HEXLOWER;
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::{self, sign::any_supported_type};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::PrivateKeyDer;

use super::failure::Failure;
use crate::snapshot::{ACME_TLS, Challenge};

/// The answer to a challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// HTTP-01 (RFC 8555 section 8.3).
    Http {
        /// The last segment of the path.
        token: String,
        /// The key authorization.
        answer: String,
    },
    /// TLS-ALPN-01 (RFC 8737).
    TlsAlpn {
        /// The server name.
        name: String,
        /// SHA-256 of the key authorization.
        digest: Vec<u8>,
    },
}

impl Proof {
    /// In writing: three words.
    pub fn encode(&self) -> String {
        match self {
            Proof::Http { token, answer } => format!("http-01 {token} {answer}"),
            Proof::TlsAlpn { name, digest } => format!("tls-alpn-01 {name} {}", HEXLOWER.encode(digest)),
        }
    }

    /// What [`encode`](Proof::encode) has written; `None` for anything else.
    pub fn decode(bytes: &[u8]) -> Option<Proof> {
        let mut words = std::str::from_utf8(bytes).ok()?.split(' ');
        let (kind, about, answer) = (words.next()?, words.next()?.to_owned(), words.next()?);
        match (kind, words.next()) {
            ("http-01", None) => Some(Proof::Http { token: about, answer: answer.to_owned() }),
            ("tls-alpn-01", None) => {
                Some(Proof::TlsAlpn { name: about, digest: HEXLOWER.decode(answer.as_bytes()).ok()? })
            }
            _ => None,
        }
    }

    /// What the workers are told.
    pub fn challenge(&self) -> Result<Challenge, Failure> {
        match self {
            Proof::Http { token, answer } => {
                Ok(Challenge::Http { token: token.clone(), answer: answer.as_str().into() })
            }
            Proof::TlsAlpn { name, digest } => tls_alpn(name, digest),
        }
    }
}

/// A handshake that shows the certificate of RFC 8737 section 3.
fn tls_alpn(name: &str, digest: &[u8]) -> Result<Challenge, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::refused(format!("the certificate of tls-alpn-01: {error}"));
    if digest.len() != 32 {
        return Err(failed(&"the digest has not 32 bytes"));
    }
    let key = KeyPair::generate().map_err(|error| failed(&error))?;
    let mut params = CertificateParams::new([name.to_owned()]).map_err(|error| failed(&error))?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let certificate = params.self_signed(&key).map_err(|error| failed(&error))?;
    let key = any_supported_type(&PrivateKeyDer::Pkcs8(key.serialize_der().into())).map_err(|error| failed(&error))?;
    // Not looked at any further: the critical extension that makes it a challenge is one that no verifier knows.
    let shown = CertifiedKey::new(vec![certificate.der().clone()], key);
    let mut settings = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
    settings.alpn_protocols = vec![ACME_TLS.to_vec()];
    Ok(Challenge::TlsAlpn { name: name.to_ascii_lowercase(), settings: Arc::new(settings) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_told_in_three_words_and_nothing_else_is_one() {
        for proof in [
            Proof::Http { token: "tok-en_1".into(), answer: "tok-en_1.thumb".into() },
            Proof::TlsAlpn { name: "a.test".into(), digest: vec![7; 32] },
        ] {
            assert_eq!(Proof::decode(proof.encode().as_bytes()), Some(proof.clone()));
            assert!(proof.challenge().is_ok());
        }
        for text in ["", "http-01 a", "http-01 a b c", "dns-01 a b", "tls-alpn-01 a zz", "tls-alpn-01 a"] {
            assert_eq!(Proof::decode(text.as_bytes()), None, "{text}");
        }
        assert_eq!(Proof::decode(b"http-01 a \xff"), None);
        let short = Proof::TlsAlpn { name: "a.test".into(), digest: vec![7; 31] };
        assert!(short.challenge().is_err(), "it would panic in the making of the certificate");
    }
}
