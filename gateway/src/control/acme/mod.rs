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
pub mod schedule;
mod tally;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Notify, Semaphore};
use tokio::task::JoinSet;

use self::keeper::{Keeper, Wanted};
use crate::config::model::{CertificateSource, Config};
use crate::snapshot::Challenges;

pub use tally::{Count, Tally};

/// Orders at the same time: enough that an authority's pauses for thought are used, and few enough that one with limits
/// (Let's Encrypt takes 300 new orders in three hours) is not run over.
pub const ORDERS_AT_ONCE: usize = 4;

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
    /// Something new is in the store.
    obtained: Arc<Notify>,
    orders: Semaphore,
    /// Held while an account is made.
    account: Mutex<()>,
}

impl Acme {
    /// `challenges` are answered by the workers.
    pub fn new(challenges: Arc<Challenges>) -> Acme {
        let shared = Shared {
            challenges,
            tally: Arc::default(),
            obtained: Arc::default(),
            orders: Semaphore::new(ORDERS_AT_ONCE),
            account: Mutex::new(()),
        };
        Acme { shared: Arc::new(shared), keepers: HashMap::new() }
    }

    /// How it went so far.
    pub fn tally(&self) -> Arc<Tally> {
        self.shared.tally.clone()
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
