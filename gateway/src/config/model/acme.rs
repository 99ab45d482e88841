//! `[[acme]]` and `[certificate_store]`

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::EtcdStore;

/// `[[acme]]`: an account with a certificate authority that issues by ACME (RFC 8555).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acme {
    /// `name`
    pub name: String,
    /// `directory_url`: an https URL.
    pub directory_url: String,
    /// `contact`: URLs, such as `mailto:ops@example.com`.
    pub contact: Vec<String>,
    /// `challenge`: how a name is proven to be ours. Default `http-01`.
    pub challenge: AcmeChallenge,
    /// `ca`: whom to trust for the directory itself, in PEM; `None` is the system's authorities.
    pub ca_pem: Option<Arc<[u8]>>,
    /// `key_type`: of the certificates' keys. Default `ecdsa-p256`.
    pub key_type: AcmeKeyType,
    /// `external_account`
    pub external_account: Option<ExternalAccount>,
    /// `profile`: which kind of certificate is asked for; `None` is the authority's default.
    pub profile: Option<String>,
}

/// How a name is proven to be ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AcmeChallenge {
    /// `http-01`: a request to port 80 of the name gets an answer (RFC 8555 section 8.3).
    #[default]
    Http01,
    /// `tls-alpn-01`: a TLS handshake with port 443 of the name shows a certificate (RFC 8737).
    TlsAlpn01,
}

/// The key of a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AcmeKeyType {
    /// `ecdsa-p256`
    #[default]
    EcdsaP256,
    /// `ecdsa-p384`
    EcdsaP384,
    /// `rsa-2048`
    Rsa2048,
    /// `rsa-4096`
    Rsa4096,
}

/// `external_account` of `[[acme]]`: an account that the authority knows already (RFC 8555 section 7.3.4).
#[derive(Clone, PartialEq, Eq)]
pub struct ExternalAccount {
    /// `key_id`
    pub key_id: String,
    /// `hmac_key`: the file's content, decoded. Never printed.
    pub hmac_key: Arc<[u8]>,
}

impl fmt::Debug for ExternalAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExternalAccount").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// `[certificate_store]`: what outlives the process, such as certificates that were issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateStore {
    /// `directory`. Default `/var/lib/gateway`. Nothing is there until something is to be kept.
    pub directory: PathBuf,
    /// `etcd`: what a fleet shares; `directory` is then this box's copy.
    pub etcd: Option<EtcdStore>,
}

impl Default for CertificateStore {
    fn default() -> Self {
        CertificateStore { directory: "/var/lib/gateway".into(), etcd: None }
    }
}
