//! `[certificate_alerts]`

use std::fmt;
use std::sync::Arc;

/// `[certificate_alerts]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateAlerts {
    /// `days`: how many days before a certificate expires somebody is told; the most first, none twice.
    pub days: Vec<u16>,
    /// `webhook`: who is told, beside the log.
    pub webhook: Option<Webhook>,
}

impl Default for CertificateAlerts {
    fn default() -> Self {
        CertificateAlerts { days: vec![30, 14, 7, 1], webhook: None }
    }
}

/// `webhook` and `webhook_ca`: where alerts are posted.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Whether it is `https`.
    pub is_tls: bool,
    /// A name, or an address without brackets.
    pub host: String,
    /// The port, that of the scheme when the URL has none.
    pub port: u16,
    /// Path and query. Never printed: many services have their secret here.
    pub path: String,
    /// `webhook_ca`: the PEM file's bytes. `None`: the system's authorities.
    pub ca_pem: Option<Arc<[u8]>>,
}

impl Webhook {
    /// Scheme, host and port: what may be shown of it.
    pub fn origin(&self) -> String {
        let Webhook { is_tls, port, .. } = self;
        format!("{}://{}:{port}", if *is_tls { "https" } else { "http" }, self.bracketed())
    }

    /// What the `host` field of a request says: the port is left out where it is the scheme's (RFC 9110 section 4.2).
    pub fn authority(&self) -> String {
        match (self.is_tls, self.port) {
            (true, 443) | (false, 80) => self.bracketed(),
            (_, port) => format!("{}:{port}", self.bracketed()),
        }
    }

    fn bracketed(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Webhook").field(&self.origin()).finish()
    }
}
