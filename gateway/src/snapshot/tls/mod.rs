//! TLS settings of listeners and clusters.

mod bound_tickets;
mod client;
mod client_auth;
mod hosts;
mod server;
mod session;
mod sessions;
mod sni;
mod tickets;
mod verifier;

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};

use super::BuildError;
use crate::config::model::HttpVersions;

pub(super) use client::{ClientTls, check, client, of_endpoint};
pub use client_auth::LongChain;
pub(super) use server::server;
pub use server::{AdmittedBy, ServerTls, Shaken, Terms, without_root};
pub use tickets::{DecodeError, LIFETIME_S, Ring, SEALS_S, Secret, TicketKeys, Tickets};

/// What every generation's TLS settings share.
pub struct Secrets {
    provider: Arc<CryptoProvider>,
    /// Ticket keys, the same for every worker and listener, so that a client resumes whichever worker it meets.
    tickets: Arc<Tickets>,
    /// The system's roots, read when a cluster first needs them.
    roots: std::sync::OnceLock<Arc<RootCertStore>>,
    /// What time it is in handshakes.
    time: Arc<dyn TimeProvider>,
}

impl Secrets {
    pub(in crate::snapshot) fn new(tickets: Arc<Tickets>) -> Secrets {
        Secrets {
            provider: Arc::new(aws_lc_rs::default_provider()),
            tickets,
            roots: std::sync::OnceLock::new(),
            time: Arc::new(DefaultTimeProvider),
        }
    }

    fn system_roots(&self) -> Arc<RootCertStore> {
        let read = || {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            Arc::new(roots)
        };
        self.roots.get_or_init(read).clone()
    }
}

/// Protocol names in the order of preference (RFC 9113 §3.2, RFC 7301).
fn alpn(versions: HttpVersions) -> Vec<Vec<u8>> {
    let h2 = versions.h2.then(|| b"h2".to_vec());
    let h1 = versions.h1.then(|| b"http/1.1".to_vec());
    h2.into_iter().chain(h1).collect()
}

fn roots_from(pem: &[u8]) -> Result<RootCertStore, BuildError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| BuildError(format!("tls.ca: {error}")))?;
        roots.add(certificate).map_err(|error| BuildError(format!("tls.ca: {error}")))?;
    }
    Ok(roots)
}

#[cfg(test)]
mod tests;
