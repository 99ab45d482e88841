//! Certificates that are obtained by ACME (RFC 8555) and renewed.
//!
//! Each has a task of the control thread, which sleeps until its [`Schedule`](schedule::Schedule) says that something is
//! due. What comes of it goes into the certificate store, and from there into a new generation by the way that everything
//! takes ([`kept`](super::kept)). A failure changes nothing but the time of the next try.

mod account;
mod client;
mod failure;
mod keeper;
mod order;
pub mod proof;
mod renewals;
mod rests;
pub mod schedule;
mod tally;
mod tries;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Mutex, Notify, Semaphore};
use tokio::task::JoinSet;

use self::keeper::{Keeper, Wanted};
use super::certificates::unix_s;
use super::store::{Store, StoreError};
use crate::config::model::{CertificateSource, CertificateStore, Config};
use crate::snapshot::Challenges;

pub use renewals::{NotNow, Renewals};
pub use tally::{Count, Tally};

/// Orders at the same time: enough that an authority's pauses for thought are used, and few enough that one with limits
/// (Let's Encrypt takes 300 new orders in three hours) is not run over.
pub const ORDERS_AT_ONCE: usize = 4;

/// Questions when to renew (RFC 9773) at the same time. They have places of their own: an order never waits for ten thousand
/// of them, nor they for an order, which takes minutes where an authority thinks about it.
const QUESTIONS_AT_ONCE: usize = 4;

/// Certificates that are looked for in etcd at the same time, when a box starts. All take the same connection, one after the
/// other, as do the signs of life of locks: those wait for one look, and not for ten thousand.
const LOOKS_AT_ONCE: usize = 1;

/// How long a lock lasts whose holder has gone.
const LOCK: Duration = Duration::from_secs(15);

/// Keeps certificates from expiring.
pub struct Acme {
    shared: Arc<Shared>,
    /// By the certificate's name. The task ends when it is dropped.
    keepers: HashMap<String, (Wanted, JoinSet<()>)>,
}

/// What the tasks have in common.
struct Shared {
    challenges: Arc<Challenges>,
    tally: Arc<Tally>,
    renewals: Arc<Renewals>,
    /// The store that was opened last, for all that want the same.
    store: std::sync::Mutex<Option<(CertificateStore, Arc<Store>)>>,
    /// Something new is in the store.
    obtained: Arc<Notify>,
    orders: Semaphore,
    questions: Semaphore,
    looks: Semaphore,
    /// Held while an account is made.
    account: Mutex<()>,
}

impl Acme {
    /// `challenges` are answered by the workers.
    pub fn new(challenges: Arc<Challenges>) -> Acme {
        let shared = Shared {
            challenges,
            tally: Arc::default(),
            renewals: Arc::default(),
            store: std::sync::Mutex::default(),
            obtained: Arc::default(),
            orders: Semaphore::new(ORDERS_AT_ONCE),
            questions: Semaphore::new(QUESTIONS_AT_ONCE),
            looks: Semaphore::new(LOOKS_AT_ONCE),
            account: Mutex::new(()),
        };
        Acme { shared: Arc::new(shared), keepers: HashMap::new() }
    }

    /// How it went so far.
    pub fn tally(&self) -> Arc<Tally> {
        self.shared.tally.clone()
    }

    /// By which an operator has certificates renewed.
    pub fn renewals(&self) -> Arc<Renewals> {
        self.shared.renewals.clone()
    }

    /// Is notified when there is a new pair in the store.
    pub fn obtained(&self) -> Arc<Notify> {
        self.shared.obtained.clone()
    }

    /// Obtains the certificates of this configuration from now on. A task whose certificate is wanted in the same way goes
    /// on, with all that it knows of failures.
    pub fn follow(&mut self, config: &Config) {
        let mut before = std::mem::take(&mut self.keepers);
        for wanted in wanted(config) {
            let name = wanted.certificate.clone();
            let same = before.remove(&name).filter(|(old, _)| *old == wanted);
            let keeper = same.unwrap_or_else(|| {
                let mut task = JoinSet::new();
                task.spawn(Keeper::new(wanted.clone(), self.shared.clone()).run());
                (wanted, task)
            });
            self.keepers.insert(name, keeper);
        }
        self.shared.tally.retain(|name| self.keepers.contains_key(name));
        self.shared.renewals.retain(|name| self.keepers.contains_key(name));
    }
}

impl Shared {
    /// The store that is wanted, opened once for all.
    fn store(&self, wanted: &CertificateStore) -> Result<Arc<Store>, StoreError> {
        let mut opened = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, store)) = opened.as_ref().filter(|(of, _)| of == wanted) {
            return Ok(store.clone());
        }
        let store = Arc::new(Store::open(wanted)?);
        *opened = Some((wanted.clone(), store.clone()));
        Ok(store)
    }
}

fn wanted(config: &Config) -> impl Iterator<Item = Wanted> {
    config.certificates.iter().filter_map(|certificate| {
        let CertificateSource::Acme(obtained) = &certificate.source else { return None };
        Some(Wanted {
            certificate: certificate.name.clone(),
            hosts: obtained.hosts.clone(),
            settings: config.acme.iter().find(|acme| acme.name == obtained.by)?.clone(),
            store: config.certificate_store.clone(),
        })
    })
}

/// Seconds of Unix time.
fn now() -> i64 {
    unix_s(SystemTime::now())
}

/// `2026-12-01T00:00:00Z`
pub(super) fn date(unix_s: i64) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(unix_s.max(0) as u64);
    humantime::format_rfc3339_seconds(time).to_string()
}
