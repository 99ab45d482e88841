//! Session tickets that are good for the rules they were issued under.

use std::sync::Arc;

use rustls::server::ProducesTickets;
use rustls::time_provider::TimeProvider;

use super::client_auth::{ClientAuth, Digest};
use super::session::Session;

/// Longest session that is put into a ticket: the client's certificates are most of it.
const SESSION_MAX: usize = 60_000;

/// Tickets with the digest of the rules on clients in them, under the keys that all listeners share.
///
/// A ticket carries the client's certificates, and who resumes with it does not show them again: rustls takes them for
/// verified. Without this, a ticket of a listener that asks for no certificate would do where one is required, and one
/// from before a changed CA or revocation list would do after it. A ticket of other rules is none: the client makes a full
/// handshake. With the rules and not a random number in it, it is good on every box and after a restart.
///
/// Under the same rules, time has passed: certificates and revocation lists expire. So a ticket is none either when its
/// certificates would not be let in now. The client then shows what it has now, or learns by an alert why that is not enough.
#[derive(Debug)]
pub(super) struct BoundTickets {
    pub(super) keys: Arc<dyn ProducesTickets>,
    /// `None`: clients are asked for no certificate.
    pub(super) client_auth: Option<Arc<ClientAuth>>,
    pub(super) time: Arc<dyn TimeProvider>,
}

impl BoundTickets {
    fn rules(&self) -> Digest {
        self.client_auth.as_ref().map_or(Digest::default(), |auth| auth.digest)
    }

    /// Whether a client with this session would be let in, had it to show its certificates once more.
    fn is_let_in(&self, session: &[u8]) -> bool {
        let Some(auth) = &self.client_auth else { return true };
        let (session, now) = (Session::read(session), self.time.current_time());
        session.zip(now).is_some_and(|(session, now)| auth.verify(&session.chain, now).is_ok())
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
        // The field it goes into has 16 bits for its length. A client that shows so much makes full handshakes.
        if plain.len() > SESSION_MAX {
            return None;
        }
        self.keys.encrypt(&[&self.rules()[..], plain].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let mut plain = self.keys.decrypt(ticket)?;
        let rules = self.rules();
        if !plain.starts_with(&rules) || !self.is_let_in(&plain[rules.len()..]) {
            return None;
        }
        plain.drain(..rules.len());
        Some(plain)
    }
}
