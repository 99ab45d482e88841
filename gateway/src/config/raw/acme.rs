//! `[[acme]]` and `[certificate_store]`

use super::EtcdStore;
use crate::config::decode::{List, Optional, Required, table};
use crate::config::model::{AcmeChallenge, AcmeKeyType};
use crate::config::value::{Contact, FilePath, HttpsUrl, Name};

table! { "[[acme]]"
/// An account with a certificate authority that issues by ACME (RFC 8555), such as Let's Encrypt. It is made when a
/// certificate first needs it.
pub struct Acme {
    /// What certificates call it.
    #[schemars(extend("examples" = ["letsencrypt"]))]
    pub name: Required<Name>,
    /// The authority's directory.
    #[schemars(extend("examples" = ["https://acme-v02.api.letsencrypt.org/directory"]))]
    pub directory_url: Required<HttpsUrl>,
    /// Whom the authority may write to.
    #[schemars(extend("default" = [], "examples" = [["mailto:ops@example.com"]]))]
    pub contact: Optional<List<Contact>>,
    /// That you have read and agree to the authority's terms of service. Has to be `true`.
    #[schemars(extend("examples" = [true]))]
    pub terms_of_service_agreed: Required<bool>,
    /// How names are proven to be yours. With `http-01` the authority sends a request to port 80 of each name, with
    /// `tls-alpn-01` it shakes hands with port 443; a listener of the gateway has to be reached there.
    #[schemars(extend("default" = "http-01", "examples" = ["tls-alpn-01"]))]
    pub challenge: Optional<AcmeChallenge>,
    /// PEM file with the authorities to trust for `directory_url` itself. Without it, the system's.
    #[schemars(extend("examples" = ["certs/internal-ca.pem"]))]
    pub ca: Optional<FilePath>,
    /// The key of each certificate. There is a new one with every renewal.
    #[schemars(extend("default" = "ecdsa-p256", "examples" = ["rsa-2048"]))]
    pub key_type: Optional<AcmeKeyType>,
    /// The account that you have with the authority already, where it wants one (external account binding).
    pub external_account: Optional<ExternalAccount>,
    /// Which of the authority's profiles to ask for. Without it, the authority's default.
    #[schemars(extend("examples" = ["shortlived"]))]
    pub profile: Optional<Name>,
}
}

table! { "`external_account` of [[acme]]"
/// An account that the authority knows already (RFC 8555 section 7.3.4).
pub struct ExternalAccount {
    /// What the authority calls it.
    #[schemars(extend("examples" = ["kid-1"]))]
    pub key_id: Required<String>,
    /// File with the account's HMAC key in base64url, as authorities give it.
    #[schemars(extend("examples" = ["acme.hmac"]))]
    pub hmac_key: Required<FilePath>,
}
}

table! { "[certificate_store]"
/// Where ACME accounts and the certificates that were issued are kept.
pub struct CertificateStore {
    /// A directory for the gateway alone: it has private keys in it. It is made when something is to be kept, with the mode
    /// 0700.
    #[schemars(extend("default" = "/var/lib/gateway", "examples" = ["/srv/gateway"]))]
    pub directory: Optional<FilePath>,
    /// An etcd that several boxes share.
    pub etcd: Optional<EtcdStore>,
}
}
