//! Session tickets that are good for the rules they were issued under.

use std::sync::Arc;

use rustls::server::ProducesTickets;

use super::client_auth::Digest;

/// Longest session that is put into a ticket: the client's certificates are most of it.
const SESSION_MAX: usize = 60_000;

/// Tickets with the digest of the rules on clients in them, under the keys that all listeners share.
///
/// A ticket carries the client's certificates, and who resumes with it does not show them again: rustls takes them for
/// verified. Without this, a ticket of a listener that asks for no certificate would do where one is required, and one
/// from before a changed CA or revocation list would do after it. A ticket of other rules is none: the client makes a full
/// handshake. With the rules and not a random number in it, it is good on every box and after a restart.
#[derive(Debug)]
pub(super) struct BoundTickets {
    pub(super) keys: Arc<dyn ProducesTickets>,
    /// Of listeners that ask for no certificate: zeros.
    pub(super) rules: Digest,
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
        self.keys.encrypt(&[&self.rules[..], plain].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let mut plain = self.keys.decrypt(ticket)?;
        if !plain.starts_with(&self.rules) {
            return None;
        }
        plain.drain(..self.rules.len());
        Some(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_good_only_for_the_rules_it_was_issued_under() {
        let keys = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
        let bound = |rules| BoundTickets { keys: keys.clone(), rules: [rules; 32] };
        let ticket = bound(1).encrypt(b"session").unwrap();
        assert_eq!(bound(1).decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        assert_eq!(bound(2).decrypt(&ticket), None);
        assert_eq!(bound(1).decrypt(b"no ticket"), None);
        let short = keys.encrypt(b"short").unwrap();
        assert_eq!(bound(1).decrypt(&short), None);
    }
}
