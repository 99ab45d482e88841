//! Session tickets (RFC 5077 §4, RFC 8446 §4.6.1) under keys that come from outside, so that workers and boxes can share
//! them: rustls's own ticketer makes keys that nobody else can have.
//!
//! A ticket is `name of the key (16) | nonce (12) | session, encrypted | tag (16)`, by AES-256-GCM-SIV (RFC 8452). Nonces
//! are random and a fleet seals billions of tickets with one key; should two of them ever have the same nonce, this cipher
//! gives away whether they hold the same session, where plain GCM would give away the key of its tags.
//!
//! What rustls asks of a ticketer: wrong input costs one comparison of names or one tag, compared in constant time by
//! aws-lc; nothing is told but that it was wrong. A ticket is at most 65 535 bytes long, by the field it comes in.

mod keys;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::aead::{Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use rustls::server::ProducesTickets;

pub use keys::{DecodeError, Secret, TicketKeys};

const NAME_LEN: usize = 16;
const TAG_LEN: usize = 16;
const HEAD_LEN: usize = NAME_LEN + NONCE_LEN;

/// How long a ticket can be used at least, in seconds. A key opens tickets for so long after it has sealed its last.
///
/// The session's secrets are as safe as the ticket's key: this and [`SEALS_S`] are what remains of forward secrecy.
pub const LIFETIME_S: u64 = 6 * 60 * 60;

/// How long a key seals new tickets, in seconds.
pub const SEALS_S: u64 = 6 * 60 * 60;

/// The keys in force, those of every generation and worker. Without keys, nobody gets a ticket.
///
/// A handshake takes the lock for as long as it takes to copy a pointer, a ten-thousandth of its own time. Nobody keeps
/// what was copied, so keys that are over are in nobody's memory.
#[derive(Default)]
pub struct Tickets(Mutex<Arc<Ring>>);

/// Which key seals, and which ones open.
#[derive(Default)]
pub struct Ring {
    seals: Option<Arc<Key>>,
    open: Vec<Arc<Key>>,
}

/// A key as a cipher.
struct Key {
    name: [u8; NAME_LEN],
    cipher: RandomizedNonceKey,
}

impl Tickets {
    /// These keys are in force to begin with.
    pub fn new(ring: Ring) -> Arc<Tickets> {
        Arc::new(Tickets(Mutex::new(Arc::new(ring))))
    }

    /// Puts these keys into force.
    pub fn set(&self, ring: Ring) {
        *self.lock() = Arc::new(ring);
    }

    fn ring(&self) -> Arc<Ring> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Ring>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME_S as u32
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        self.ring().seals.as_ref()?.seal(session)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME_LEN>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        // Names are no secrets: they are in every ticket.
        self.ring().open.iter().find(|key| key.name == *name)?.open(nonce, sealed)
    }
}

impl Key {
    fn seal(&self, session: &[u8]) -> Option<Vec<u8>> {
        let mut ticket = Vec::with_capacity(HEAD_LEN + session.len() + TAG_LEN);
        ticket.extend_from_slice(&self.name);
        ticket.extend_from_slice(&[0; NONCE_LEN]);
        ticket.extend_from_slice(session);
        let sealed = self.cipher.seal_in_place_separate_tag(Aad::empty(), &mut ticket[HEAD_LEN..]);
        let (nonce, tag) = sealed.ok()?;
        ticket[NAME_LEN..HEAD_LEN].copy_from_slice(nonce.as_ref());
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn open(&self, nonce: &[u8; NONCE_LEN], sealed: &[u8]) -> Option<Vec<u8>> {
        let mut session = sealed.to_vec();
        let opened = self.cipher.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::empty(), &mut session);
        let length = opened.ok()?.len();
        session.truncate(length);
        Some(session)
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
