//! The task of one certificate.

use std::sync::Arc;
use std::time::Duration;

use instant_acme::{Account, CertificateIdentifier, Error};
use tokio::sync::Notify;
use zeroize::Zeroizing;

use super::account::Accounts;
use super::client::Pause;
use super::failure::{About, Failure};
use super::schedule::{BUSY_S, Fault, Schedule, Validity};
use super::{LOCK, Shared, date, now, order, tries};
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

/// A certificate that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    pair: Arc<Pair>,
    /// The directory of the authority that has issued it, if that is known.
    directory_url: Option<String>,
}

/// What is to be done next.
enum Next {
    Ask,
    Try,
}

/// What came of a try.
enum Tried {
    /// There is a new certificate.
    Issued(Kept),
    /// Another box was quicker.
    Found(Kept),
    /// Another box is at it.
    Busy,
}

pub(super) struct Keeper {
    wanted: Wanted,
    shared: Arc<Shared>,
    /// What there is, if there is anything.
    has: Option<Kept>,
    /// When to ask the authority when to renew; `None` when it does not say.
    ask_at: Option<i64>,
    /// An operator wants it to be renewed.
    wake: Arc<Notify>,
    /// Until when that waits for another box, which is at it.
    busy_until: Option<i64>,
    /// What was in the store's files at the last look.
    seen: Option<Arc<Pair>>,
}

impl Keeper {
    pub(super) fn new(wanted: Wanted, shared: Arc<Shared>) -> Keeper {
        let wake = shared.renewals.begin(&wanted.certificate, &wanted.settings.directory_url);
        Keeper { wanted, shared, has: None, ask_at: None, wake, busy_until: None, seen: None }
    }

    /// Obtains and renews the certificate, for ever.
    pub(super) async fn run(mut self) {
        self.shared.tally.begin(&self.wanted.certificate);
        let store = self.open().await;
        let mut schedule = self.begin(&store).await;
        loop {
            match self.next(&store, &mut schedule).await {
                Next::Ask => self.ask(&store, &mut schedule).await,
                Next::Try => self.renew(&store, &mut schedule).await,
            }
        }
    }

    /// Begins with what this box has. What is not due is looked for in etcd as well, which may have a newer one, or none.
    async fn begin(&mut self, store: &Store) -> Schedule {
        let bytes = store.files().get(&kept::key(&self.wanted.certificate)).ok().flatten().map(Zeroizing::new);
        self.has = bytes.and_then(|bytes| Kept::of(&bytes));
        self.seen = self.has.as_ref().map(|kept| kept.pair.clone());
        let mut schedule = self.schedule();
        if schedule.due_at() > now() {
            let shared = self.shared.clone();
            let _permit = shared.looks.acquire().await;
            if let Ok(found) = self.kept(store).await {
                let counts = |own: &Kept, found: &Kept| kept::stays(&own.pair, &found.pair, &self.wanted.hosts, now());
                let stays = self.has.as_ref().zip(found.as_ref()).is_some_and(|(own, found)| counts(own, found));
                if !stays {
                    self.has = found;
                    schedule = self.schedule();
                }
            }
        }
        if let Some(tries) = tries::read(store.files(), &self.wanted) {
            schedule.take_up(tries, now());
        }
        schedule
    }

    fn schedule(&mut self) -> Schedule {
        let usable = self.has.as_ref().filter(|kept| self.is_good(kept)).map(Kept::validity);
        self.ask_at = usable.map(|_| now());
        Schedule::new(usable, fastrand::f64())
    }

    /// Sleeps until something is due, or asked for.
    async fn next(&mut self, store: &Store, schedule: &mut Schedule) -> Next {
        loop {
            self.look(store, schedule);
            let now = now();
            schedule.keep_time(now);
            self.ask_at = self.ask_at.map(|at| at.min(now + ASK_MAX.as_secs() as i64));
            let rest = self.rest_until();
            self.busy_until = self.busy_until.map(|at| at.min(now + BUSY_S));
            let by_hand_at = if self.is_asked() { self.busy_until.unwrap_or(i64::MIN) } else { i64::MAX };
            let (try_at, ask_at) = (schedule.due_at().min(by_hand_at).max(rest), self.ask_at.map(|at| at.max(rest)));
            if try_at <= now {
                return Next::Try;
            }
            if ask_at.is_some_and(|at| at <= now) {
                return Next::Ask;
            }
            let left = ask_at.map_or(try_at, |at| at.min(try_at)).saturating_sub(now);
            let nap = Duration::from_secs(left.max(0) as u64).min(NAP);
            let _ = tokio::time::timeout(nap, self.wake.notified()).await;
        }
    }

    /// Goes on with what has come into the store's files since the last look, from another box or from an operator. A renewal by hand
    /// that waits for another box looks by itself.
    fn look(&mut self, store: &Store, schedule: &mut Schedule) {
        let bytes = store.files().get(&kept::key(&self.wanted.certificate)).ok().flatten().map(Zeroizing::new);
        let Some(bytes) = bytes.filter(|_| self.busy_until.is_none()) else { return };
        if self.seen.as_ref().is_some_and(|seen| seen.is_of(&bytes, &bytes, None)) {
            return;
        }
        let Some(kept) = Kept::of(&bytes) else { return };
        self.seen = Some(kept.pair.clone());
        if self.has.as_ref() == Some(&kept) {
            return;
        }
        self.has = Some(kept);
        let tries = schedule.tries();
        *schedule = self.schedule();
        match schedule.due_at() <= now() {
            // It is no better than what there was: failures count on.
            true => schedule.take_up(tries, now()),
            false => self.shared.tally.found(&self.wanted.certificate),
        }
    }

    fn is_asked(&self) -> bool {
        self.shared.renewals.is_asked(&self.wanted.certificate)
    }

    /// Until when the authority is left in peace.
    fn rest_until(&self) -> i64 {
        self.shared.renewals.rests.until(&self.wanted.settings.directory_url, now())
    }

    /// Leaves the authority in peace, for as long as it has asked.
    fn rest(&self, asked: Option<Duration>) {
        let asked_s = asked.map(|asked| i64::try_from(asked.as_secs()).unwrap_or(i64::MAX));
        self.shared.renewals.rests.begin(&self.wanted.settings.directory_url, asked_s, now());
    }

    /// A try, when it is its turn.
    async fn renew(&mut self, store: &Store, schedule: &mut Schedule) {
        let shared = self.shared.clone();
        let Ok(_permit) = shared.orders.acquire().await else { return };
        // One that had its turn before may have been told that there are too many.
        if self.rest_until() > now() {
            return;
        }
        let (by_hand, was_busy) = (self.is_asked(), self.busy_until.take().is_some());
        if by_hand
            && !was_busy
            && let Ok(kept) = self.kept(store).await
        {
            // Only what comes from now on was quicker.
            self.has = kept;
        }
        shared.renewals.started(&self.wanted.certificate);
        self.remember_try(store, schedule);
        let asked = Pause::default();
        let tried = self.attempt(store, &asked).await;
        let asked = asked.take();
        let is_failure = tried.is_err();
        let is_put_off = by_hand && matches!(tried, Ok(Tried::Busy));
        if asked.is_too_often || matches!(&tried, Err(failure) if failure.about == About::Rate) {
            self.rest(asked.pause);
        }
        self.learn(tried, asked.pause, schedule);
        if let Err(error) = tries::write(store.files(), &self.wanted, schedule.tries()) {
            log::warn!("certificate \"{}\": {error}", self.wanted.certificate);
        }
        let wants_peace = is_failure && asked.pause.is_some();
        let paused_until = if wants_peace { schedule.paused_until() } else { i64::MIN };
        shared.renewals.ended(&self.wanted.certificate, paused_until);
        if is_put_off {
            self.busy_until = Some(now() + BUSY_S);
            shared.renewals.put_off(&self.wanted.certificate);
            log::info!(
                "certificate \"{}\": another box is at it; the renewal by hand waits for {BUSY_S} seconds",
                self.wanted.certificate
            );
        }
    }

    /// Until it has ended well, a try has failed: the process may end in the middle of it.
    fn remember_try(&self, store: &Store, schedule: &Schedule) {
        let mut failed = schedule.clone();
        failed.failed(Fault::Away, None, now(), 0.0);
        if let Err(error) = tries::write(store.files(), &self.wanted, failed.tries()) {
            log::warn!("certificate \"{}\": {error}", self.wanted.certificate);
        }
    }

    /// Takes what came of a try, and says so.
    fn learn(&mut self, tried: Result<Tried, Failure>, asked: Option<Duration>, schedule: &mut Schedule) {
        let (now, chance) = (now(), fastrand::f64());
        match tried {
            Ok(Tried::Issued(kept)) => {
                schedule.obtained(kept.validity(), now, chance);
                self.shared.tally.issued(&self.wanted.certificate);
                self.tell_issued(&kept.pair, schedule);
                self.take(kept);
            }
            Ok(Tried::Found(kept)) => {
                schedule.obtained(kept.validity(), now, chance);
                self.shared.tally.found(&self.wanted.certificate);
                self.take(kept);
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
            && self.is_good(&found)
            && Schedule::new(Some(found.validity()), 0.0).due_at() > now()
        {
            return Ok(Tried::Found(found));
        }
        let settings = &self.wanted.settings;
        let accounts = Accounts::new(settings, store, &self.shared.account, asked.clone());
        let account = accounts.open().await?;
        let issued = match self.order(&account, store).await {
            Err(failure) if failure.about == About::Account => {
                self.order(&accounts.replace(&account).await?, store).await?
            }
            issued => issued?,
        };
        let issued = kept::issued(&settings.directory_url, &issued);
        let wrong = |why: String| Failure::refused(format!("the certificate that was issued cannot be used: {why}"));
        let pair = kept::parse(issued.as_bytes()).map(Arc::new).map_err(|unusable| wrong(unusable.to_string()))?;
        let kept = Kept { pair, directory_url: Some(settings.directory_url.clone()) };
        if !self.is_good(&kept) {
            return Err(wrong(format!("it is for {}", kept.pair.info.names.join(", "))));
        }
        self.keep(store, issued.as_bytes()).await?;
        Ok(Tried::Issued(kept))
    }

    async fn order(&self, account: &Account, store: &Store) -> Result<Zeroizing<String>, Failure> {
        let Wanted { hosts, settings, .. } = &self.wanted;
        let of_same = |kept: &&Kept| kept.directory_url.as_ref().is_none_or(|url| *url == settings.directory_url);
        let replaced = self.has.as_ref().filter(of_same).and_then(|kept| kept.pair.key.cert.first());
        order::obtain(account, settings, hosts, replaced, &self.shared.challenges, store).await
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
    async fn kept(&self, store: &Store) -> Result<Option<Kept>, Failure> {
        let bytes = store.get(&kept::key(&self.wanted.certificate)).await?.map(Zeroizing::new);
        Ok(bytes.and_then(|bytes| Kept::of(&bytes)))
    }

    /// The directory was opened when the configuration came into force; it may have been taken away since.
    async fn open(&self) -> Arc<Store> {
        loop {
            match self.shared.store(&self.wanted.store) {
                Ok(store) => return store,
                Err(error) => log::error!("certificate \"{}\": {error}", self.wanted.certificate),
            }
            tokio::time::sleep(NAP).await;
        }
    }

    /// Whether it is what is wanted: for all hosts, and by this authority.
    fn is_good(&self, Kept { pair, directory_url }: &Kept) -> bool {
        let Wanted { hosts, settings, .. } = &self.wanted;
        hosts.iter().all(|host| pair.covers(host))
            && directory_url.as_ref().is_none_or(|url| *url == settings.directory_url)
    }

    fn take(&mut self, kept: Kept) {
        self.has = Some(kept);
        self.ask_at = Some(now() + ASK.as_secs() as i64);
        self.shared.obtained.notify_one();
    }

    /// Asks the authority when to renew (RFC 9773). Without an answer it is done as if there were no such thing.
    async fn ask(&mut self, store: &Store, schedule: &mut Schedule) {
        let shared = self.shared.clone();
        let Ok(_permit) = shared.questions.acquire().await else { return };
        if self.rest_until() > now() {
            return;
        }
        let asked = Pause::default();
        let window = self.renewal_window(store, &asked).await;
        let asked = asked.take();
        if asked.is_too_often {
            self.rest(asked.pause);
        }
        let again = match window {
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
    async fn renewal_window(&self, store: &Store, asked: &Pause) -> Result<Option<((i64, i64), Duration)>, Failure> {
        let Some(leaf) = self.has.as_ref().and_then(|kept| kept.pair.key.cert.first()) else { return Ok(None) };
        let Ok(id) = CertificateIdentifier::try_from(leaf) else { return Ok(None) };
        let one = &self.shared.account;
        let accounts = Accounts::new(&self.wanted.settings, store, one, asked.clone());
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
            Some(kept) => format!("the one that there is stays; it expires at {}", date(kept.pair.chain_not_after)),
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

impl Kept {
    /// `None` where it cannot be used.
    fn of(bytes: &[u8]) -> Option<Kept> {
        let directory_url = kept::directory_url(bytes).map(str::to_owned);
        kept::parse(bytes).ok().map(|pair| Kept { pair: Arc::new(pair), directory_url })
    }

    /// Its own: of an intermediate certificate that ends earlier, another order brings the same again.
    fn validity(&self) -> Validity {
        Validity { not_before: self.pair.info.not_before, not_after: self.pair.info.not_after }
    }
}
