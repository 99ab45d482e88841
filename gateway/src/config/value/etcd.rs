//! How members of an etcd are written.

use http::Uri;

use super::schema;
use super::url::Origin;
use crate::config::decode::{FromText, Problem};
use crate::config::model::EtcdEndpoint;

/// `"http://10.0.0.5:2379"`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdUrl(pub EtcdEndpoint);

schema!(EtcdUrl, "URL", { "type": "string", "pattern": "^https?://" });

/// Where etcd listens for clients.
const CLIENT_PORT: u16 = 2379;

impl FromText for EtcdUrl {
    fn from_text(text: &str) -> Result<Self, Problem> {
        let wrong = || Problem::new("not a URL of a member of etcd", "for example \"http://10.0.0.5:2379\"");
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let origin = Origin::of(&uri).filter(|origin| !origin.has_credentials).ok_or_else(wrong)?;
        match matches!(uri.path(), "" | "/") && uri.query().is_none() {
            true => {
                let Origin { is_tls, host, port, .. } = origin;
                Ok(EtcdUrl(EtcdEndpoint { is_tls, host, port: port.unwrap_or(CLIENT_PORT) }))
            }
            false => Err(wrong()),
        }
    }
}

/// `"/gateway/"`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdPrefix(pub String);

schema!(EtcdPrefix, "prefix", { "type": "string", "pattern": "/$" });

impl FromText for EtcdPrefix {
    fn from_text(text: &str) -> Result<Self, Problem> {
        match text.ends_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(EtcdPrefix(text.to_owned())),
            false => {
                Err(Problem::new(format!("{text:?} is no prefix of keys"), "one that ends with /, as in \"/edge/\""))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_read_or_refused() {
        let cases = [
            ("http://10.0.0.5:2379", Some("http://10.0.0.5:2379")),
            ("https://etcd.internal", Some("https://etcd.internal:2379")),
            ("https://[::1]:2380/", Some("https://[::1]:2380")),
            ("http://user:password@10.0.0.5", None),
            ("http://10.0.0.5:0", None),
            ("http://10.0.0.5:", None),
            ("http://10.0.0.5:70000", None),
            ("http://10.0.0.5/v3", None),
            ("http://10.0.0.5/?a", None),
            ("unix:///run/etcd", None),
            ("10.0.0.5:2379", None),
            ("http://", None),
            ("", None),
        ];
        for (text, expected) in cases {
            let url = EtcdUrl::from_text(text).ok().map(|url| url.0.url());
            assert_eq!(url.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_prefix_ends_with_a_slash() {
        for (text, is_good) in [("/gateway/", true), ("a/", true), ("/gateway", false), ("", false), ("/ü/", false)] {
            assert_eq!(EtcdPrefix::from_text(text).is_ok(), is_good, "{text}");
        }
    }
}
