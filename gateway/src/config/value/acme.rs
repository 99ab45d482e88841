//! How accounts with certificate authorities are written.

use http::Uri;

use super::schema;
use super::url::Origin;
use crate::config::decode::{FromText, Problem, keywords};
use crate::config::model::{AcmeChallenge, AcmeKeyType};

keywords!(AcmeChallenge { "http-01" => AcmeChallenge::Http01, "tls-alpn-01" => AcmeChallenge::TlsAlpn01 });

keywords!(AcmeKeyType {
    "ecdsa-p256" => AcmeKeyType::EcdsaP256,
    "ecdsa-p384" => AcmeKeyType::EcdsaP384,
    "rsa-2048" => AcmeKeyType::Rsa2048,
    "rsa-4096" => AcmeKeyType::Rsa4096,
});

/// `"https://acme.example.com/directory"`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpsUrl(pub String);

schema!(HttpsUrl, "https URL", { "type": "string", "pattern": "^https://" });

impl FromText for HttpsUrl {
    fn from_text(text: &str) -> Result<Self, Problem> {
        let help = "for example \"https://acme-v02.api.letsencrypt.org/directory\"";
        let uri: Uri = text.parse().map_err(|_| Problem::new("not a URL", help))?;
        match Origin::of(&uri) {
            // RFC 8555 section 6.1.
            Some(Origin { is_tls: true, has_credentials: false, .. }) => Ok(HttpsUrl(text.to_owned())),
            _ => Err(Problem::new("not a URL of https", help)),
        }
    }
}

/// `"mailto:ops@example.com"`: a URL whose text the authority looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact(pub String);

schema!(Contact, "URL", { "type": "string", "pattern": "^[A-Za-z][A-Za-z0-9+.-]*:[^\\s]+$" });

impl FromText for Contact {
    fn from_text(text: &str) -> Result<Self, Problem> {
        let is_scheme = |scheme: &str| {
            scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+.-".contains(&byte))
        };
        match text.split_once(':') {
            Some((scheme, rest))
                if is_scheme(scheme) && !rest.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()) =>
            {
                Ok(Contact(text.to_owned()))
            }
            _ => Err(Problem::new(format!("{text:?} is not a URL"), "for example \"mailto:ops@example.com\"")),
        }
    }
}
