//! The task of one certificate.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use instant_acme::{CertificateIdentifier, Error};
use zeroize::Zeroizing;

use super::account::Accounts;
use super::client::Pause;
use super::failure::Failure;
use super::order;
use super::schedule::{Schedule, Validity};
use super::{LOCK, Shared};
use crate::config::model::{self, CertificateStore, Pair};
use crate::control::kept;
use crate::control::store::{Lock, Store, segment};

/// Longest sleep: the clock may be set, and a machine may sleep itself.
const NAP: Duration = Duration::from_secs(10 * 60);

/// How often the authority is asked when to renew, where it does not say how often it wants to be (RFC 9773 section 4.3.2
/// names this time), and the limits of what it may say.
const ASK: Duration = Duration::from_secs(6 * 60 * 60);
const ASK_MIN: Duration = Duration::from_secs(60);
const ASK_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a store that does not take an issued certificate is waited for: some six hours in all.
const KEEP_PAUSES: [Duration; 6] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(5 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(2 * 60 * 60),
    Duration::from_secs(4 * 60 * 60),
];

/// A certificate that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Its name.
    pub certificate: String,
    /// What it has to be for.
    pub hosts: Vec<String>,
    /// By whom it is issued.
    pub settings: model::Acme,
    /// Where it is kept.
    pub store: CertificateStore,
}

/// What came of a try.
enum Tried {
    /// There is a new certificate.
    Issued(Pair),
    /// Another box was quicker.
    Found(Pair),
    /// Another box is at it.
    Busy,
}

pub(super) struct Keeper {
    wanted: Wanted,
    shared: Arc<Shared>,
    /// What there is, if there is anything.
    has: Option<Pair>,
    /// When to ask the authority when to renew; `None` when it does not say.
    ask_at: Option<i64>,
}

impl Keeper {
    pub(super) fn new(wanted: Wanted, shared: Arc<Shared>) -> Keeper {
        Keeper { wanted, shared, has: None, ask_at: None }
    }

    /// Obtains and renews the certificate, for ever.
    pub(super) async fn run(mut self) {
        self.shared.tally.begin(&self.wanted.certificate);
        let store = self.open().await;
        self.has = self.first(&store).await;
        let usable = self.has.as_ref().filter(|pair| self.is_for_all(pair)).map(validity);
        let mut schedule = Schedule::new(usable, fastrand::f64());
        self.ask_at = usable.map(|_| now());
        loop {
            if let Some(ask_at) = self.ask_at.filter(|at| *at < schedule.due_at()) {
                sleep_until(ask_at).await;
                self.ask(&store, &mut schedule).await;
                continue;
            }
            sleep_until(schedule.due_at()).await;
            let shared = self.shared.clone();
            let Ok(_permit) = shared.orders.acquire().await else { return };
            let asked = Pause::default();
            let tried = self.attempt(&store, &asked).await;
            self.learn(tried, asked.take(), &mut schedule);
        }
    }

    /// Takes what came of a try, and says so.
    fn learn(&mut self, tried: Result<Tried, Failure>, asked: Option<Duration>, schedule: &mut Schedule) {
        let (now, chance) = (now(), fastrand::f64());
        match tried {
            Ok(Tried::Issued(pair)) => {
                schedule.obtained(validity(&pair), now, chance);
                self.shared.tally.issued(&self.wanted.certificate);
                self.tell_issued(&pair, schedule);
                self.take(pair);
            }
            Ok(Tried::Found(pair)) => {
                schedule.obtained(validity(&pair), now, chance);
                self.shared.tally.found(&self.wanted.certificate);
                self.take(pair);
            }
            Ok(Tried::Busy) => schedule.busy(now),
            Err(failure) => {
                schedule.failed(failure.fault, asked, now, chance);
                self.shared.tally.failed(&self.wanted.certificate, failure.to_string());
                self.tell_failed(&failure, schedule);
            }
        }
    }

    /// One try: under a lock that the boxes of a fleet share.
    async fn attempt(&self, store: &Store, asked: &Pause) -> Result<Tried, Failure> {
        let Some(_lock) = self.lock(store).await? else { return Ok(Tried::Busy) };
        if let Some(found) = self.kept(store).await?
            && self.has.as_ref() != Some(&found)
            && self.is_for_all(&found)
            && Schedule::new(Some(validity(&found)), 0.0).due_at() > now()
        {
            return Ok(Tried::Found(found));
        }
        let settings = &self.wanted.settings;
        let accounts = Accounts::new(settings, store, &self.shared.account, asked.clone())?;
        let account = accounts.open().await?;
        let (hosts, challenges) = (&self.wanted.hosts, &self.shared.challenges);
        let issued = match order::obtain(&account, settings, hosts, challenges, store).await {
            Err(failure) if failure.is_unknown_account => {
                let account = accounts.replace(&account).await?;
                order::obtain(&account, settings, hosts, challenges, store).await?
            }
            issued => issued?,
        };
        let wrong = |why| Failure::refused(format!("the certificate that was issued cannot be used: {why}"));
        let pair = kept::parse(issued.as_bytes()).map_err(wrong)?;
        if !self.is_for_all(&pair) {
            return Err(wrong(format!("it is for {}", pair.info.names.join(", "))));
        }
        self.keep(store, issued.as_bytes()).await?;
        Ok(Tried::Issued(pair))
    }

    /// Keeps what was issued. A store that does not take it is waited for: the authority issues the same names only a few
    /// times in a week.
    async fn keep(&self, store: &Store, issued: &[u8]) -> Result<(), Failure> {
        let key = kept::key(&self.wanted.certificate);
        for pause in KEEP_PAUSES {
            let Err(error) = store.put(&key, issued).await else { return Ok(()) };
            log::error!(
                "certificate \"{}\": issued, and it cannot be kept: {error}; next try in {pause:?}",
                self.wanted.certificate
            );
            tokio::time::sleep(pause).await;
        }
        Ok(store.put(&key, issued).await?)
    }

    async fn lock(&self, store: &Store) -> Result<Option<Lock>, Failure> {
        let name = format!("certificate-{}", segment(&self.wanted.certificate));
        Ok(store.lock(&name, LOCK).await?)
    }

    /// What is kept; nothing that cannot be used.
    async fn kept(&self, store: &Store) -> Result<Option<Pair>, Failure> {
        let bytes = store.get(&kept::key(&self.wanted.certificate)).await?.map(Zeroizing::new);
        Ok(bytes.and_then(|bytes| kept::parse(&bytes).ok()))
    }

    /// What is kept to begin with; while etcd is away, what this box has of it.
    async fn first(&self, store: &Store) -> Option<Pair> {
        match self.kept(store).await {
            Ok(kept) => kept,
            Err(_) => {
                let bytes = store.files().get(&kept::key(&self.wanted.certificate)).ok()?.map(Zeroizing::new)?;
                kept::parse(&bytes).ok()
            }
        }
    }

    /// The directory was opened when the configuration came into force; it may have been taken away since.
    async fn open(&self) -> Store {
        loop {
            match Store::open(&self.wanted.store) {
                Ok(store) => return store,
                Err(error) => log::error!("certificate \"{}\": {error}", self.wanted.certificate),
            }
            tokio::time::sleep(NAP).await;
        }
    }

    fn is_for_all(&self, pair: &Pair) -> bool {
        self.wanted.hosts.iter().all(|host| pair.covers(host))
    }

    fn take(&mut self, pair: Pair) {
        self.has = Some(pair);
        self.ask_at = Some(now() + ASK.as_secs() as i64);
        self.shared.obtained.notify_one();
    }

    /// Asks the authority when to renew (RFC 9773). Without an answer it is done as if there were no such thing.
    async fn ask(&mut self, store: &Store, schedule: &mut Schedule) {
        let shared = self.shared.clone();
        let Ok(_permit) = shared.orders.acquire().await else { return };
        let again = match self.renewal_window(store).await {
            Ok(Some((window, again))) => {
                schedule.suggested(window);
                again.clamp(ASK_MIN, ASK_MAX)
            }
            Ok(None) => {
                self.ask_at = None;
                return;
            }
            Err(failure) => {
                log::debug!("certificate \"{}\": when to renew it is not known: {failure}", self.wanted.certificate);
                ASK
            }
        };
        self.ask_at = Some(now() + again.as_secs() as i64);
    }

    /// When the authority wants the certificate to be renewed, and how long to wait before it is asked again; `None` when
    /// it does not tell.
    async fn renewal_window(&self, store: &Store) -> Result<Option<((i64, i64), Duration)>, Failure> {
        let Some(leaf) = self.has.as_ref().and_then(|pair| pair.key.cert.first()) else { return Ok(None) };
        let Ok(id) = CertificateIdentifier::try_from(leaf) else { return Ok(None) };
        let one = &self.shared.account;
        let accounts = Accounts::new(&self.wanted.settings, store, one, Pause::default())?;
        let Some(account) = accounts.find().await? else { return Ok(None) };
        match account.renewal_info(&id).await {
            Ok((info, again)) => {
                let window = info.suggested_window;
                Ok(Some(((window.start.unix_timestamp(), window.end.unix_timestamp()), again)))
            }
            Err(Error::Unsupported(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn tell_issued(&self, pair: &Pair, schedule: &Schedule) {
        let Wanted { certificate, hosts, settings, .. } = &self.wanted;
        log::info!(
            "certificate \"{certificate}\": issued by `{}` for {}, valid until {}; to be renewed at {}",
            settings.name,
            hosts.join(", "),
            date(pair.chain_not_after),
            date(schedule.due_at()),
        );
    }

    fn tell_failed(&self, failure: &Failure, schedule: &Schedule) {
        let Wanted { certificate, settings, .. } = &self.wanted;
        let stays = match &self.has {
            Some(pair) => format!("the one that there is stays; it expires at {}", date(pair.chain_not_after)),
            None => "there is none yet".to_owned(),
        };
        log::error!(
            "certificate \"{certificate}\": not issued by `{}` ({} in a row): {failure}; {stays}; next try at {}",
            settings.name,
            schedule.failures(),
            date(schedule.due_at()),
        );
    }
}

fn validity(pair: &Pair) -> Validity {
    // Its own: of an intermediate certificate that ends earlier, another order brings the same again.
    Validity { not_before: pair.info.not_before, not_after: pair.info.not_after }
}

async fn sleep_until(unix_s: i64) {
    loop {
        let left = unix_s.saturating_sub(now());
        if left <= 0 {
            return;
        }
        tokio::time::sleep(Duration::from_secs(left as u64).min(NAP)).await;
    }
}

fn now() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

fn date(unix_s: i64) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(unix_s.max(0) as u64);
    humantime::format_rfc3339_seconds(time).to_string()
}
