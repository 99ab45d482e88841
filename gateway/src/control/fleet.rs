//! What the boxes of a fleet have in common, by etcd: certificates that another box obtained or an operator put there, and
//! the keys of session tickets. Nobody waits for it: a box goes on with what it has, and starts from its copy.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::acme::proof::Proof;
use super::certificates::unix_s;
use super::kept::{self, Unusable};
use super::store::etcd::{Changed, is_one_below};
use super::store::{CERTIFICATES, CHALLENGES, Directory, Etcd, StoreError};
use super::tickets::{Keeper, Rotation};
use crate::config::model::{Certificate, CertificateSource, CertificateStore, Config, Obtained};
use crate::config::{Refusal, Refused};
use crate::snapshot::{Challenges, Shown, TicketKeys};

/// How often etcd is asked whether anything has changed: one small read.
const EVERY: Duration = Duration::from_secs(1);

/// The key of what [`TicketKeys::encode`] writes.
const TICKETS: &str = "tickets";

/// Name, and time, of the lock under which a box makes the next ticket key for all.
const LOCK: &str = "tickets";
const LOCK_TTL: Duration = Duration::from_secs(10);

/// After so long every box that can ask etcd has heard what was put there.
pub const HEARD: Duration = Duration::from_millis(2_500);

/// What is told of the store by a metric while there is none.
pub const NO_STORE: i64 = -1;

/// What certificates have to be for, by the keys at which they are kept.
type Hosts = HashMap<String, Vec<String>>;

/// Values of etcd that certificates of this box do not use, by their keys: each is told until there is a better one.
#[derive(Debug, Default)]
pub struct RefusedValues(Mutex<BTreeMap<String, Refused>>);

/// This box as one of a fleet, while the configuration says so.
#[derive(Debug)]
pub struct Fleet {
    member: Option<Member>,
    hosts: Arc<Mutex<Hosts>>,
    /// What certificates have to be for has changed, so all values are looked at again.
    has_changed: Arc<AtomicBool>,
    up: Arc<AtomicI64>,
    refused: Arc<RefusedValues>,
}

#[derive(Debug)]
struct Member {
    wanted: CertificateStore,
    /// One message is enough, however many certificates have come.
    news: mpsc::Receiver<()>,
    /// Ends when it is dropped.
    _task: JoinSet<()>,
}

impl RefusedValues {
    /// Those of the certificates in `config`, with their names.
    pub fn of(&self, config: &Config) -> Vec<Refused> {
        let values = self.lock();
        let kept = config.certificates.iter().filter(|certificate| certificate.is_kept());
        let refused = kept.filter_map(|certificate| {
            let value = values.get(&kept::key(&certificate.name))?;
            Some(Refused { certificate: certificate.name.clone(), ..value.clone() })
        });
        refused.collect()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Whether this is news.
    fn insert(&self, value: Refused) -> bool {
        self.lock().insert(value.certificate.clone(), value.clone()).is_none_or(|before| before != value)
    }

    /// Keeps those whose keys these are. Whether there were others.
    fn retain(&self, is_kept: impl Fn(&str) -> bool) -> bool {
        let mut values = self.lock();
        let before = values.len();
        values.retain(|key, _| is_kept(key));
        values.len() < before
    }

    /// Whether there was one.
    fn remove(&self, key: &str) -> bool {
        self.lock().remove(key).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Refused>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fleet {
    /// A box that is alone. `up` tells a metric whether etcd answers: 1 or 0, or [`NO_STORE`]. `refused` is told which
    /// of its values are not used.
    pub fn new(up: Arc<AtomicI64>, refused: Arc<RefusedValues>) -> Fleet {
        up.store(NO_STORE, Relaxed);
        Fleet { member: None, hosts: Arc::default(), has_changed: Arc::default(), up, refused }
    }

    /// Is one of the fleet that this stands for from now on. What is the same goes on.
    pub fn follow(
        &mut self,
        config: &Config,
        keeper: &Arc<Keeper>,
        challenges: &Arc<Challenges>,
    ) -> Result<(), StoreError> {
        let hosts = hosts(config);
        let before = std::mem::replace(&mut *self.hosts.lock().unwrap_or_else(PoisonError::into_inner), hosts.clone());
        self.has_changed.fetch_or(before != hosts, Relaxed);
        self.refused.retain(|key| hosts.contains_key(key));
        let wanted = &config.certificate_store;
        if self.member.as_ref().is_some_and(|member| member.wanted == *wanted) {
            return Ok(());
        }
        self.member = None;
        self.up.store(NO_STORE, Relaxed);
        self.refused.retain(|_| false);
        let Some(settings) = &wanted.etcd else { return Ok(()) };
        let etcd = Etcd::new(settings, Directory::open(wanted.directory.clone())?);
        let (tell, news) = mpsc::channel(1);
        let sharing = Sharing {
            etcd,
            hosts: self.hosts.clone(),
            has_changed: self.has_changed.clone(),
            refused: self.refused.clone(),
            again_at: None,
            keeper: keeper.clone(),
            challenges: challenges.clone(),
            shown: HashMap::new(),
            tell,
            rotation: Rotation::default(),
            seen: 0,
            up: self.up.clone(),
            is_odd: false,
        };
        let mut task = JoinSet::new();
        task.spawn(sharing.run());
        self.member = Some(Member { wanted: wanted.clone(), news, _task: task });
        Ok(())
    }

    /// Waits until certificates have come into the copy.
    pub async fn changed(&mut self) {
        if let Some(member) = &mut self.member
            && member.news.recv().await.is_some()
        {
            return;
        }
        // There is none, or its task has ended, which it never does.
        std::future::pending().await
    }

    /// Whether this box makes its ticket keys alone.
    pub fn is_alone(&self) -> bool {
        self.member.is_none()
    }
}

fn hosts(config: &Config) -> Hosts {
    let of = |certificate: &Certificate| match &certificate.source {
        CertificateSource::Acme(Obtained { hosts, .. }) | CertificateSource::Stored(hosts) => {
            Some((kept::key(&certificate.name), hosts.clone()))
        }
        CertificateSource::Files(_) | CertificateSource::Directory(_) => None,
    };
    config.certificates.iter().filter_map(of).collect()
}

struct Sharing {
    etcd: Etcd,
    hosts: Arc<Mutex<Hosts>>,
    has_changed: Arc<AtomicBool>,
    refused: Arc<RefusedValues>,
    /// When one of those may not be refused any more, in seconds of Unix time.
    again_at: Option<i64>,
    keeper: Arc<Keeper>,
    rotation: Rotation,
    challenges: Arc<Challenges>,
    /// Challenges of other boxes that this one answers, by their keys.
    shown: HashMap<String, Shown>,
    tell: mpsc::Sender<()>,
    /// The revision of etcd up to which its certificates are in the copy.
    seen: u64,
    up: Arc<AtomicI64>,
    /// Something else is where the ticket keys should be; it has been told.
    is_odd: bool,
}

impl Sharing {
    async fn run(mut self) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let done = self.look().await;
            self.note(&done);
        }
    }

    async fn look(&mut self) -> Result<(), StoreError> {
        let (keys, revision) = self.etcd.get_at(TICKETS).await?;
        self.share_tickets(keys).await?;
        let now_s = unix_s(SystemTime::now());
        let is_time = self.again_at.take_if(|at| *at <= now_s).is_some();
        // When it is less than before, etcd has begun anew, or from a backup.
        if self.has_changed.swap(false, Relaxed) || is_time || revision < self.seen {
            self.seen = 0;
        }
        // It counts up with every change, those of others' keys among them.
        if revision != self.seen {
            // The authority asks as soon as it may.
            self.answer_challenges().await?;
            self.fetch().await?;
            self.forget_deleted().await?;
            self.seen = revision;
        }
        Ok(())
    }

    async fn share_tickets(&mut self, shared: Option<Vec<u8>>) -> Result<(), StoreError> {
        if !self.take_tickets(shared) {
            return Ok(());
        }
        // Whoever has it makes the key; the others find it there the next time.
        let Some(_lock) = self.etcd.lock(LOCK, LOCK_TTL).await? else { return Ok(()) };
        let (shared, _) = self.etcd.get_at(TICKETS).await?;
        if !self.take_tickets(shared) {
            return Ok(());
        }
        let rotation = &mut self.rotation;
        let line = self.keeper.change(|keys, now_s| {
            rotation.advance(keys, now_s);
            keys.encode()
        });
        self.etcd.put_shared(TICKETS, &line).await.map(drop)
    }

    /// Takes over the keys that the fleet has. Says whether there is something to be put there.
    fn take_tickets(&mut self, shared: Option<Vec<u8>>) -> bool {
        let shared = shared.map(zeroize::Zeroizing::new);
        let shared = shared.map(|bytes| TicketKeys::decode(&bytes));
        let was_odd = std::mem::replace(&mut self.is_odd, matches!(shared, Some(Err(_))));
        match shared {
            None => true,
            Some(Ok(shared)) => self.keeper.change(|keys, now_s| self.rotation.follow(keys, shared, now_s)),
            Some(Err(_)) => {
                if !was_odd {
                    log::warn!(
                        "etcd has no ticket keys under `{TICKETS}` but something else: delete it, or upgrade this box"
                    );
                }
                false
            }
        }
    }

    /// Answers the challenges of other boxes, as long as those want it.
    async fn answer_challenges(&mut self) -> Result<(), StoreError> {
        let announced = self.etcd.all(CHALLENGES).await?;
        self.shown.retain(|key, _| announced.iter().any(|announced| announced.key == *key));
        for Changed { key, value, .. } in announced {
            if self.shown.contains_key(&key) {
                continue;
            }
            match Proof::decode(&value).map(|proof| proof.challenge()) {
                Some(Ok(challenge)) => drop(self.shown.insert(key, self.challenges.show(challenge))),
                Some(Err(error)) => log::warn!("etcd: `{key}`: {error}"),
                None => log::warn!("etcd: `{key}` is no challenge"),
            }
        }
        Ok(())
    }

    /// Takes certificates that have changed into the copy.
    async fn fetch(&mut self) -> Result<(), StoreError> {
        let (mut after, mut failed) = (None, None);
        loop {
            let (changed, more) = self.etcd.changes(CERTIFICATES, after.as_deref(), self.seen).await?;
            after = changed.last().map(|last| last.key.clone());
            let mut is_news = false;
            for changed in changed.into_iter().filter(|changed| is_one_below(CERTIFICATES, &changed.key)) {
                match self.take(changed).await {
                    Ok(is_new) => is_news |= is_new,
                    // It is tried again. Meanwhile it does not hold up the others.
                    Err(error) => failed = Some(error),
                }
                // The disk is waited for: the other tasks of this thread must not wait for thousands.
                tokio::task::yield_now().await;
            }
            if is_news {
                // A message that waits already says the same.
                let _ = self.tell.try_send(());
            }
            if !more || after.is_none() {
                return failed.map_or(Ok(()), Err);
            }
        }
    }

    /// A value that is not there any more is not refused any more.
    async fn forget_deleted(&self) -> Result<(), StoreError> {
        if self.refused.is_empty() {
            return Ok(());
        }
        let there: HashSet<String> = self.etcd.list(CERTIFICATES).await?.into_iter().collect();
        if self.refused.retain(|key| there.contains(key)) {
            let _ = self.tell.try_send(());
        }
        Ok(())
    }

    /// Says whether it is something new. What is no pair stays away: the copy has what a start can rely on. So does what
    /// etcd had before this box had something newer.
    async fn take(&mut self, Changed { key, value, since }: Changed) -> Result<bool, StoreError> {
        let value = zeroize::Zeroizing::new(value);
        let copy = self.etcd.copy();
        let own = match copy.get(&key) {
            Err(StoreError::Key(_)) => {
                log::warn!("etcd: `{key}` is no name of a certificate");
                return Ok(false);
            }
            // It is written anew.
            own => own.ok().flatten().map(zeroize::Zeroizing::new),
        };
        if own.as_ref() == Some(&value) {
            let was_refused = self.refused.remove(&key);
            return self.etcd.remember(&key, &since).map(|()| was_refused);
        }
        let now_s = unix_s(SystemTime::now());
        let own_pair = own.as_ref().and_then(|own| kept::parse(own).ok());
        let pair = match kept::parse(&value) {
            Ok(pair) => pair,
            Err(unusable) => return Ok(self.refuse(key, unusable, own_pair.is_some())),
        };
        let was_put_since = self.etcd.remembered(&key)?.is_some_and(|mark| mark.leads_to(&since));
        if let (Some(own), Some(own_pair), false) = (&own, &own_pair, was_put_since)
            && kept::stays(own_pair, &pair, &self.hosts_of(&key), now_s)
        {
            let was_refused = self.refused.remove(&key);
            // Where it is not there any more, the next look finds another one.
            if self.etcd.replace(&key, &since, own).await? {
                log::warn!(
                    "etcd: `{key}` is older, or for fewer hosts, than what this box had of it, which is put back"
                );
            }
            return Ok(was_refused);
        }
        // After that, as an etcd from a backup has what nobody has wanted: there, the copy is put back.
        if let Some(unusable) = kept::refusal(&pair, own_pair.as_ref(), &self.hosts_of(&key), now_s) {
            let again_at = match unusable.refusal {
                Refusal::NotYetValid => Some(pair.chain_not_before),
                // Then nothing is lost by it.
                Refusal::Hosts => own_pair.as_ref().map(|own| own.chain_not_after + 1),
                _ => None,
            };
            self.again_at = self.again_at.into_iter().chain(again_at).min();
            return Ok(self.refuse(key, unusable, own_pair.is_some()));
        }
        self.refused.remove(&key);
        copy.put(&key, &value)?;
        self.etcd.remember(&key, &since)?;
        Ok(true)
    }

    /// Tells, once, that a value is not used. Says whether that is news of a certificate that this box has.
    fn refuse(&self, key: String, Unusable { refusal, why }: Unusable, kept: bool) -> bool {
        let is_ours = self.lock_hosts().contains_key(&key);
        let message = format!("`{key}` in etcd {why}");
        let value = Refused { certificate: key.clone(), refusal, message, kept };
        let is_news = is_ours && self.refused.insert(value);
        if is_news || !is_ours {
            let instead = if kept { "the one before stays" } else { "there is none before it" };
            log::error!("etcd: `{key}` is not used: it {why}; {instead}");
        }
        is_news
    }

    /// What the certificate at `key` has to be for; nothing, where that is not said.
    fn hosts_of(&self, key: &str) -> Vec<String> {
        self.lock_hosts().get(key).cloned().unwrap_or_default()
    }

    fn lock_hosts(&self) -> MutexGuard<'_, Hosts> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, done: &Result<(), StoreError>) {
        let was_up = self.up.swap(i64::from(done.is_ok()), Relaxed);
        match (done, was_up) {
            (Ok(()), 0) => log::info!("certificate store: etcd is back"),
            (Err(error), 1 | NO_STORE) => {
                log::warn!("certificate store: {error}; this box goes on with what it has")
            }
            _ => {}
        }
    }
}
