//! Which certificate a client is shown.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::config::model::{Certificate, HttpVersions, ListenerTls};

/// Chooses a certificate by the server name: exact, then wildcard, then the listener's first one.
#[derive(Debug)]
pub(super) struct BySni {
    exact: HashMap<String, Vec<Shown>>,
    /// By what follows the `*.`.
    wildcard: HashMap<String, Vec<Shown>>,
    default: Option<Arc<CertifiedKey>>,
    pub(super) default_http: HttpVersions,
}

/// A certificate for a name.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) http: HttpVersions,
}

impl BySni {
    /// `http`: what the listener speaks; what it speaks is no HTTP when there is none.
    pub(super) fn new(wanted: &ListenerTls, http: Option<HttpVersions>, certificates: &[Certificate]) -> BySni {
        let http = http.unwrap_or_default();
        let mut resolver = BySni { exact: HashMap::new(), wildcard: HashMap::new(), default: None, default_http: http };
        for id in &wanted.certificates {
            let certificate = &certificates[id.index()];
            let Some(key) = certificate.pair.as_ref().map(|pair| &pair.key) else { continue };
            let both = HttpVersions { h1: http.h1 && certificate.http.h1, h2: http.h2 && certificate.http.h2 };
            for host in &certificate.hosts {
                let names = match host.strip_prefix("*.") {
                    Some(rest) => resolver.wildcard.entry(rest.to_ascii_lowercase()),
                    None => resolver.exact.entry(host.to_ascii_lowercase()),
                };
                names.or_default().push(Shown { key: key.clone(), http: both });
            }
            if resolver.default.is_none() && !wanted.strict_sni {
                resolver.default = Some(key.clone());
                resolver.default_http = both;
            }
        }
        resolver
    }

    pub(super) fn find(&self, name: &str) -> Option<&[Shown]> {
        let wildcard = || self.wildcard.get(name.split_once('.')?.1);
        self.exact.get(name).or_else(wildcard).map(Vec::as_slice)
    }
}

impl ResolvesServerCert for BySni {
    /// Of several certificates for one name (RSA and ECDSA, say), the first one that the client can verify.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.find(name)).unwrap_or_default();
        let usable = named.iter().find(|shown| shown.key.key.choose_scheme(hello.signature_schemes()).is_some());
        usable.or(named.first()).map(|shown| &shown.key).or(self.default.as_ref()).cloned()
    }
}
