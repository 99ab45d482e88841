//! Sessions with an endpoint.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::NamedGroup;
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;

use crate::proto::x509;

/// Sessions of one endpoint that are kept, over all workers: rustls keeps so many tickets of TLS 1.3 for a server, each for
/// one handshake. An endpoint gives two with each full one.
const SESSIONS: usize = 8;

/// Sessions of one endpoint, none of which is resumed when a certificate that it goes back to has expired: an endpoint that
/// resumes does not show its certificate, and goes on giving tickets.
///
/// rustls does not say which certificate a session is from. So all of them end together, with the first certificate that one of
/// them may be from, and the next full handshake begins anew.
pub(super) struct Sessions {
    kept: Mutex<Kept>,
    time: Arc<dyn TimeProvider>,
}

struct Kept {
    sessions: ClientSessionMemoryCache,
    /// Unix time in seconds after which none is resumed or added.
    until_s: u64,
}

impl Sessions {
    pub(super) fn new(time: Arc<dyn TimeProvider>) -> Sessions {
        Sessions { kept: Mutex::new(Kept::until(0)), time }
    }

    /// A session begins with a handshake in which the endpoint has shown these good certificates.
    pub(super) fn begin(&self, own: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>], now: UnixTime) {
        let now_s = now.as_secs();
        // Those of others that have expired are not what it was good for. What cannot be read counts as over.
        let ends = intermediates.iter().map(|der| x509::not_after_s(der).unwrap_or(0)).filter(|end_s| *end_s >= now_s);
        let until_s = ends.fold(x509::not_after_s(own).unwrap_or(0), u64::min);
        let mut kept = self.lock();
        match kept.until_s < now_s {
            true => *kept = Kept::until(until_s),
            false => kept.until_s = kept.until_s.min(until_s),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // A panic leaves it whole: each change is one assignment.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: they are over.
    fn in_time<R>(&self, with: impl FnOnce(&ClientSessionMemoryCache) -> R) -> Option<R> {
        let kept = self.lock();
        let is_in_time = self.time.current_time().is_some_and(|now| now.as_secs() <= kept.until_s);
        is_in_time.then(|| with(&kept.sessions))
    }
}

impl Kept {
    fn until(until_s: u64) -> Kept {
        Kept { sessions: ClientSessionMemoryCache::new(SESSIONS), until_s }
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.lock().sessions.set_kx_hint(server_name, group);
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.lock().sessions.kx_hint(server_name)
    }

    fn set_tls12_session(&self, server_name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.in_time(|sessions| sessions.set_tls12_session(server_name, value));
    }

    fn tls12_session(&self, server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.in_time(|sessions| sessions.tls12_session(server_name))?
    }

    fn remove_tls12_session(&self, server_name: &ServerName<'static>) {
        self.lock().sessions.remove_tls12_session(server_name);
    }

    fn insert_tls13_ticket(&self, server_name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.in_time(|sessions| sessions.insert_tls13_ticket(server_name, value));
    }

    fn take_tls13_ticket(&self, server_name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.in_time(|sessions| sessions.take_tls13_ticket(server_name))?
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}
