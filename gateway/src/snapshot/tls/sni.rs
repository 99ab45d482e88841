//! Which certificate a client is shown.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::digest;
use foldhash::fast::FixedState;
use rustls::SignatureAlgorithm;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::client_auth::Digest;
use super::server::without_root;
use crate::config::model::{Certificate, HttpVersions, ListenerTls};

/// By name. Names come from certificates and the configuration, so nobody chooses them to collide.
type ByName = HashMap<Box<str>, Vec<Shown>, FixedState>;

/// Chooses a certificate by the server name: exact, then wildcard, then the listener's first one. Of several for a name, such
/// as one with RSA and one with ECDSA, those with RSA come last, as they cost the most.
#[derive(Debug)]
pub struct BySni {
    exact: ByName,
    /// By what follows the `*.`.
    wildcard: ByName,
    /// None when such clients are refused.
    default: Vec<Shown>,
    pub(super) default_http: HttpVersions,
}

/// A certificate for a name.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pub(super) key: Arc<CertifiedKey>,
    /// Whether it had expired when this was made.
    is_over: bool,
    pub(super) http: HttpVersions,
    /// Stands for the names it is for; a renewed one has the same.
    pub(super) hosts: Digest,
}

impl BySni {
    /// `http`: what the listener speaks; what it speaks is no HTTP when there is none. `now`: Unix time in seconds.
    pub fn new(wanted: &ListenerTls, http: Option<HttpVersions>, certificates: &[Certificate], now: i64) -> BySni {
        let http = http.unwrap_or_default();
        let mut resolver =
            BySni { exact: HashMap::default(), wildcard: HashMap::default(), default: Vec::new(), default_http: http };
        let certificates = wanted.certificates.iter().map(|id| &certificates[id.index()]);
        // Those that have not been obtained yet are shown to nobody.
        let obtained = certificates.filter_map(|certificate| Some((certificate, certificate.pair.as_ref()?)));
        let first = obtained.clone().next().filter(|_| !wanted.strict_sni);
        for (certificate, pair) in obtained {
            let both = HttpVersions { h1: http.h1 && certificate.http.h1, h2: http.h2 && certificate.http.h2 };
            let is_over = pair.chain_not_after < now;
            let shown = Shown { key: pair.key.clone(), is_over, http: both, hosts: digest_of(&certificate.hosts) };
            for host in &certificate.hosts {
                let names = match host.strip_prefix("*.") {
                    Some(rest) => resolver.wildcard.entry(rest.to_ascii_lowercase().into()),
                    None => resolver.exact.entry(host.to_ascii_lowercase().into()),
                };
                names.or_default().push(shown.clone());
            }
            if first.is_some_and(|(first, _)| std::ptr::eq(first, certificate)) {
                resolver.default = vec![shown];
                resolver.default_http = both;
            }
        }
        resolver.exact.values_mut().chain(resolver.wildcard.values_mut()).for_each(|shown| {
            shown.sort_by_key(|shown| (shown.is_over, shown.key.key.algorithm() == SignatureAlgorithm::RSA));
        });
        // For who cannot verify the first one, there may be another for the same name.
        let host = first.and_then(|(first, _)| first.hosts.first());
        if let Some(siblings) = host.and_then(|host| resolver.find(host)) {
            resolver.default = siblings.to_vec();
        }
        resolver
    }

    /// The certificates for a name; lower case.
    pub(super) fn find(&self, name: &str) -> Option<&[Shown]> {
        let wildcard = || self.wildcard.get(name.split_once('.')?.1);
        self.exact.get(name).or_else(wildcard).map(Vec::as_slice)
    }

    /// The certificates for who asks for this name, or for none.
    pub(super) fn choose(&self, server_name: Option<&str>) -> &[Shown] {
        server_name.and_then(|name| self.find(without_root(name))).unwrap_or(self.default())
    }

    /// The certificates for clients that ask for no name, or for one that none covers.
    pub(super) fn default(&self) -> &[Shown] {
        &self.default
    }
}

/// The same for the same names, in whatever order.
fn digest_of(hosts: &[String]) -> Digest {
    let mut hosts: Vec<String> = hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
    hosts.sort_unstable();
    let mut digest = Digest::default();
    // No name has a line break in it.
    digest.copy_from_slice(digest::digest(&digest::SHA256, hosts.join("\n").as_bytes()).as_ref());
    digest
}

impl ResolvesServerCert for BySni {
    /// Of several certificates for one name, the first one that the client can verify.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = self.choose(hello.server_name());
        let is_usable = |shown: &&Shown| shown.key.key.choose_scheme(hello.signature_schemes()).is_some();
        let shown = match named {
            // Whether it is usable makes no difference.
            [only] => Some(only),
            several => several.iter().find(is_usable).or(several.first()),
        };
        shown.map(|shown| shown.key.clone())
    }
}
