//! Session tickets that are good for the terms they were issued under.

use std::sync::Arc;

use rustls::server::ProducesTickets;
use rustls::time_provider::TimeProvider;

use super::client_auth::{ClientAuth, Digest};
use super::session::Session;
use super::sni::BySni;

/// Tickets with what the listener asks for in them, under the keys that all listeners share.
///
/// A ticket carries the client's certificates, and who resumes with it does not show them again: rustls takes them for
/// verified. Without this, a ticket of a listener that asks for no certificate would do where one is required, and one
/// from before a changed CA or revocation list would do after it. A ticket of other terms is none: the client makes a full
/// handshake. With the terms and not a random number in it, it is good on every box and after a restart.
///
/// Under the same terms, time has passed: certificates and revocation lists expire. So a ticket is none either when its
/// certificates would not be let in now. The client then shows what it has now, or learns by an alert why that is not enough.
///
/// And who resumes is not shown our certificate again. So a ticket has the names in it that the certificate was for: nobody
/// in between gets a client to take another listener, which has no certificate for the name, for the one it asked for.
#[derive(Debug)]
pub(super) struct BoundTickets {
    pub(super) keys: Arc<dyn ProducesTickets>,
    /// Stands for what a client has to do and is not asked again.
    pub(super) terms: Digest,
    /// `None`: clients are asked for no certificate.
    pub(super) client_auth: Option<Arc<ClientAuth>>,
    pub(super) certificates: Arc<BySni>,
    pub(super) time: Arc<dyn TimeProvider>,
}

impl BoundTickets {
    /// The names of the certificate for clients like the one of this session.
    fn hosts(&self, session: &Session<'_>) -> Digest {
        self.certificates.choose(session.server_name).first().map_or(Digest::default(), |shown| shown.hosts)
    }

    /// Whether a client with this session would be let in, had it to show its certificates once more.
    fn is_let_in(&self, session: &Session<'_>) -> bool {
        let Some(auth) = &self.client_auth else { return true };
        self.time.current_time().is_some_and(|now| auth.verify(&session.chain, now).is_ok())
    }
}

impl ProducesTickets for BoundTickets {
    fn enabled(&self) -> bool {
        self.keys.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.keys.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let hosts = self.hosts(&Session::read(plain)?);
        self.keys.encrypt(&[&self.terms[..], &hosts, plain].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let mut plain = self.keys.decrypt(ticket)?;
        let (terms, rest) = plain.split_first_chunk()?;
        let (hosts, session) = rest.split_first_chunk()?;
        let session = Session::read(session)?;
        if *terms != self.terms || *hosts != self.hosts(&session) || !self.is_let_in(&session) {
            return None;
        }
        plain.drain(..2 * size_of::<Digest>());
        Some(plain)
    }
}
