//! What certificate authorities are answered when they ask whether a name is ours.
//!
//! Shared by the process and not of one generation: the control thread puts an answer here before it tells the authority
//! to ask, and takes it away when the order has ended. Challenges of others, such as origins that obtain certificates
//! themselves, are not known here and go their way.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use rustls::ServerConfig;
use rustls::server::ClientHello;

/// The protocol that an authority offers in a handshake that is a challenge (RFC 8737 section 6.2). No other byte is
/// exchanged in it.
pub const ACME_TLS: &[u8] = b"acme-tls/1";

/// Where an authority looks for the answer (RFC 8555 section 8.3).
const PREFIX: &[u8] = b"/.well-known/acme-challenge/";

/// The challenges that are to be answered now.
#[derive(Default)]
pub struct Challenges {
    /// Whether there are any, so that a request or a handshake pays a load while there are none.
    any: AtomicBool,
    pending: RwLock<Pending>,
}

#[derive(Default)]
struct Pending {
    /// HTTP-01, by token.
    answers: HashMap<String, Arc<str>>,
    /// TLS-ALPN-01, by name.
    handshakes: HashMap<String, Arc<ServerConfig>>,
}

/// A challenge, with what it is answered.
#[derive(Clone, Debug)]
pub enum Challenge {
    /// HTTP-01.
    Http {
        /// The last segment of the path.
        token: String,
        /// The key authorization.
        answer: Arc<str>,
    },
    /// TLS-ALPN-01.
    TlsAlpn {
        /// The server name, in lower case.
        name: String,
        /// Shows the certificate for this challenge, and settles [`ACME_TLS`].
        settings: Arc<ServerConfig>,
    },
}

/// A challenge that is answered as long as this lives.
pub struct Shown {
    challenges: Arc<Challenges>,
    challenge: Challenge,
}

impl Challenges {
    /// Answers a challenge from now on. Of two for one name by TLS-ALPN-01, the last one is answered.
    pub fn show(self: &Arc<Self>, challenge: Challenge) -> Shown {
        let mut pending = self.lock();
        match challenge.clone() {
            Challenge::Http { token, answer } => drop(pending.answers.insert(token, answer)),
            Challenge::TlsAlpn { name, settings } => drop(pending.handshakes.insert(name, settings)),
        }
        self.any.store(true, Relaxed);
        drop(pending);
        Shown { challenges: self.clone(), challenge }
    }

    /// What a request for this path is answered, if it is a challenge.
    pub fn answer(&self, path: &[u8]) -> Option<Arc<str>> {
        if !self.any.load(Relaxed) {
            return None;
        }
        let token = std::str::from_utf8(path.strip_prefix(PREFIX)?).ok()?;
        self.pending.read().unwrap_or_else(PoisonError::into_inner).answers.get(token).cloned()
    }

    /// The settings for this handshake, if it is a challenge.
    pub fn settings(&self, hello: &ClientHello<'_>) -> Option<Arc<ServerConfig>> {
        if !self.any.load(Relaxed) {
            return None;
        }
        let name = hello.server_name()?.to_ascii_lowercase();
        hello.alpn()?.find(|offered| *offered == ACME_TLS)?;
        self.pending.read().unwrap_or_else(PoisonError::into_inner).handshakes.get(&name).cloned()
    }

    fn lock(&self) -> RwLockWriteGuard<'_, Pending> {
        self.pending.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        let mut pending = self.challenges.lock();
        match &self.challenge {
            Challenge::Http { token, .. } => _ = pending.answers.remove(token),
            // It may be another's by now.
            Challenge::TlsAlpn { name, settings } => {
                if pending.handshakes.get(name).is_some_and(|shown| Arc::ptr_eq(shown, settings)) {
                    pending.handshakes.remove(name);
                }
            }
        }
        let any = !pending.answers.is_empty() || !pending.handshakes.is_empty();
        self.challenges.any.store(any, Relaxed);
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shown").field(&self.challenge).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tokens_that_are_pending_have_an_answer() {
        let challenges = Arc::new(Challenges::default());
        let path = |token: &str| format!("/.well-known/acme-challenge/{token}").into_bytes();
        assert_eq!(challenges.answer(&path("a")), None);
        let of = |token: &str| Challenge::Http { token: token.into(), answer: format!("{token}.thumb").into() };
        let first = challenges.show(of("a"));
        let second = challenges.show(of("b"));
        assert_eq!(challenges.answer(&path("a")).as_deref(), Some("a.thumb"));
        for path in
            [path("c"), path("a/"), path(""), path("a?x"), b"/a".to_vec(), b"/.well-known/acme-challenge".to_vec()]
        {
            assert_eq!(challenges.answer(&path), None, "{}", String::from_utf8_lossy(&path));
        }
        drop(first);
        assert_eq!(challenges.answer(&path("a")), None);
        assert_eq!(challenges.answer(&path("b")).as_deref(), Some("b.thumb"));
        drop(second);
        assert!(!challenges.any.load(Relaxed));
    }
}
