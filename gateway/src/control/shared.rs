//! What the control thread and the admin endpoint share: the generation that runs, the XDP program, bans, counters.

use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use ipnet::IpNet;

use super::acme::{Renewals, Tally};
use super::admin::Sources;
use super::certificates::{Certificates, unix_s};
use super::counts;
use super::fleet::RefusedValues;
use super::renew::{NotRenewed, Which, renew};
use crate::config::Refused;
use crate::filter::bans::Bans;
use crate::metrics::registry::Registry;
use crate::metrics::render::Extra;
use crate::overload::Pressure;
use crate::snapshot::Snapshot;
use crate::xdp::{Dropped, Xdp};

/// What the admin endpoint may look at while the gateway runs.
pub struct Shared {
    /// Every counter.
    pub registry: Arc<Registry>,
    /// Sources that are refused for a while.
    pub bans: Arc<Bans>,
    /// What weighs on the process.
    pub pressure: Arc<Pressure>,
    pub(super) certificates: Mutex<Certificates>,
    /// Whether the etcd of the certificate store answers; see [`Fleet::new`](super::fleet::Fleet::new).
    pub store_up: Arc<AtomicI64>,
    /// Pairs in that etcd that are not used.
    pub store_refused: Arc<RefusedValues>,
    /// How it went with certificates that are obtained.
    pub acme: Arc<Tally>,
    /// By which they are renewed when an operator wants it.
    pub renewals: Arc<Renewals>,
    pub(super) state: Mutex<State>,
    pub(super) log_errors: Arc<AtomicU64>,
}

/// What a reload changes.
pub(super) struct State {
    pub current: Option<Arc<Snapshot>>,
    pub xdp: Option<Xdp>,
    /// Pairs of certificates that are not used, as the last look at the files found them.
    pub refused: Vec<Refused>,
    pub reloads_ok: u64,
    pub reloads_failed: u64,
    pub last_reload: SystemTime,
}

impl Shared {
    /// What the metrics page says beside the counters.
    pub fn extra(&self) -> Extra {
        let state = self.lock();
        let since_epoch = state.last_reload.duration_since(SystemTime::UNIX_EPOCH);
        Extra {
            version: env!("CARGO_PKG_VERSION"),
            generation: state.current.as_ref().map_or(0, |current| current.generation),
            reloads_ok: state.reloads_ok,
            reloads_failed: state.reloads_failed,
            last_reload_unix_s: since_epoch.map_or(0, |since| since.as_secs()),
            certificates_refused: counts::refused(&self.refused(&state)),
            acme: counts::acme(&self.acme),
            log_write_errors: self.log_errors.load(Relaxed),
            endpoints: state.current.as_deref().map(counts::endpoints).unwrap_or_default(),
            xdp_packets: state.xdp.as_ref().map(counts::xdp_packets).unwrap_or_default(),
            xdp_interfaces: state.xdp.as_ref().map(counts::xdp_interfaces).unwrap_or_default(),
            vips: state.xdp.as_ref().and_then(|xdp| xdp.service_stats().ok()).map_or_else(Vec::new, counts::vips),
            xdp_rules: state.xdp.as_ref().map(counts::xdp_rules).unwrap_or_default(),
            flow_tables: state.xdp.as_ref().map(counts::flow_tables).unwrap_or_default(),
            xdp_drop_log: state.xdp.as_ref().and_then(counts::xdp_drop_log),
            store_up: u64::try_from(self.store_up.load(Relaxed)).ok(),
            bans: self.bans.count() as u64,
            breakers: state.current.as_deref().map(counts::breakers).unwrap_or_default(),
            limit_sets: state.current.as_deref().map(counts::limit_sets).unwrap_or_default(),
            overload: super::overload::counts(&self.pressure),
            faults_active: state.current.as_deref().map(counts::faults_active).unwrap_or_default(),
            certificates: lock(&self.certificates).counts(SystemTime::now()),
            rate_limit_keys: state.current.as_deref().map(counts::rate_limit_keys).unwrap_or_default(),
        }
    }

    /// Ends what is over, of bans and of access rules, and tells XDP.
    pub fn keep_time(&self) {
        self.bans.expire(SystemTime::now());
        lock(&self.certificates).keep_time(self.acme.failing(), SystemTime::now());
        let mut state = self.lock();
        let State { current, xdp: Some(xdp), .. } = &mut *state else { return };
        if let Some(current) = current
            && let Err(error) = xdp.keep_time(&current.config.access)
        {
            log::warn!("{error}");
        }
        ban(xdp, &self.bans);
    }

    /// Looks at the certificates of the generation that runs, and tells who has to know.
    pub fn follow_certificates(&self) {
        let state = self.lock();
        if let Some(current) = &state.current {
            lock(&self.certificates).follow(&current.config, &self.refused(&state), SystemTime::now());
        }
    }

    /// Pairs that the certificates of the generation that runs do not use, in files and in etcd.
    fn refused(&self, state: &State) -> Vec<Refused> {
        let mut all = state.refused.clone();
        if let Some(current) = &state.current {
            all.extend(self.store_refused.of(&current.config));
        }
        all
    }

    /// Every certificate, as JSON.
    pub fn certificates(&self) -> String {
        lock(&self.certificates).view(SystemTime::now())
    }

    /// Has certificates renewed.
    pub fn renew(&self, which: &Which) -> Result<String, NotRenewed> {
        match self.current() {
            Some(current) => {
                let is_away = self.store_up.load(Relaxed) == 0;
                renew(&current.config.certificates, &self.renewals, is_away, which, unix_s(SystemTime::now()))
            }
            None => Err(NotRenewed::Refused("the gateway has no configuration yet".into())),
        }
    }

    /// Tells XDP of bans that have come or gone.
    pub fn apply_bans(&self) {
        if let Some(xdp) = &mut self.lock().xdp {
            ban(xdp, &self.bans);
        }
    }

    /// The access rules with the packets they decided on, and of the lists' entries how many there are, or with an address
    /// the one that decides about it. As JSON.
    pub fn lists(&self, address: Option<IpAddr>) -> String {
        let state = self.lock();
        let Some(xdp) = &state.xdp else { return "{}\n".into() };
        let view = match address {
            None => super::lists_view::rules(xdp, state.current.as_deref()),
            Some(address) => super::lists_view::find(xdp, address),
        };
        match view {
            Ok(view) => format!("{view:#}\n"),
            Err(error) => format!("{:#}\n", serde_json::json!({ "error": error.to_string() })),
        }
    }

    /// The line of the log for a packet that XDP dropped; `None` when there are enough of them.
    pub fn drop_line(&self, dropped: &Dropped) -> Option<String> {
        self.lock().xdp.as_mut().and_then(|xdp| xdp.drop_line(dropped))
    }

    /// Packets that XDP dropped because of a ban.
    pub fn banned_packets(&self, network: IpNet) -> u64 {
        self.lock().xdp.as_ref().and_then(|xdp| xdp.banned_packets(network).ok()).unwrap_or(0)
    }

    /// The generation that runs.
    pub fn current(&self) -> Option<Arc<Snapshot>> {
        self.lock().current.clone()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sources for Arc<Shared> {
    fn bans(&self) -> &Bans {
        &self.bans
    }

    fn apply_bans(&self) {
        Shared::apply_bans(self);
    }

    fn banned_packets(&self, network: IpNet) -> u64 {
        Shared::banned_packets(self, network)
    }

    fn lists(&self, address: Option<IpAddr>) -> String {
        Shared::lists(self, address)
    }
}

/// What the kernel does not take is refused when a connection is accepted, still.
pub(super) fn ban(xdp: &mut Xdp, bans: &Bans) {
    let (changes, any) = bans.take_changes();
    for change in changes {
        let done = match change.until {
            Some(until) => xdp.ban(change.network, until),
            None => xdp.unban(change.network, any),
        };
        if let Err(error) = done {
            log::warn!("ban of {}: {error}", change.network);
        }
    }
}
