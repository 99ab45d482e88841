//! A cluster, compiled: its endpoints, and who gets the next request.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::subset::SubsetId;
use super::tls::ClientTls;
use super::{Answers, Flips, Health, InFlight, Load};
use crate::balance::{Draw, Hosts, Tiers, WARM};
use crate::config::model::{OutlierDetection, SubsetFallback};
use crate::metrics::registry::ClusterStats;

/// A cluster, compiled.
pub struct ClusterView {
    /// Every address there is now; names are resolved.
    pub endpoints: Vec<EndpointView>,
    /// What the settings of each are made of.
    pub(super) tls: Option<Arc<ClientTls>>,
    /// How its health checks speak TLS to them; `None` is cleartext.
    pub check_tls: Option<CheckTls>,
    /// Its counters.
    pub stats: Arc<ClusterStats>,
    pub(super) all: Arc<Tiers>,
    /// By [`SubsetId`]; `None` where no route asks this cluster for it.
    pub(super) subsets: Vec<Option<SubsetView>>,
    pub(super) flips: Arc<Flips>,
    pub(super) slow_start_ms: u64,
    /// Whether somebody looks at how busy endpoints are. Counting costs two writes to memory that all workers write.
    pub(super) counts_requests: bool,
    pub(super) affinity: Option<Affinity>,
    /// When its endpoints are left out for their answers.
    pub(super) outliers: Option<OutlierDetection>,
}

/// TLS of a cluster's health checks.
#[derive(Clone)]
pub struct CheckTls {
    /// The same over generations while the check is.
    pub config: Arc<ClientConfig>,
    /// What each endpoint's certificate must be for.
    pub names: Vec<ServerName<'static>>,
}

/// A subset of a cluster's endpoints, as a route asks for it.
pub(super) struct SubsetView {
    pub tiers: Arc<Tiers>,
    pub fallback: SubsetFallback,
}

/// Endpoints by what cookies call them.
pub(super) struct Affinity {
    pub by_name: HashMap<u64, u32>,
    pub strict: bool,
}

/// What a pick depends on besides the endpoints.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ask {
    /// The worker's number.
    pub worker: usize,
    /// Random bits.
    pub random: u64,
    /// The time, by the worker's clock.
    pub now_ms: u64,
    /// The key of those who have to meet the same endpoint, where the cluster balances by one.
    pub key: Option<u64>,
    /// Which endpoints the route uses; `None` is all.
    pub subset: Option<SubsetId>,
    /// The endpoint that the client's cookie names.
    pub named: Option<u64>,
}

/// Identifies an endpoint over generations: same cluster, same address, same way of speaking to it. Connection pools
/// are kept by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(pub u64);

/// TLS to an endpoint.
#[derive(Clone, Debug)]
pub struct EndpointTls {
    /// The settings, with its sessions: all workers have them together, which takes a lock for each handshake.
    pub config: Arc<ClientConfig>,
    /// The server name to ask for, which is what its certificate must be for unless the cluster has `names`.
    pub name: ServerName<'static>,
}

/// An endpoint, resolved.
#[derive(Clone, Debug)]
pub struct EndpointView {
    /// Who it is.
    pub id: EndpointId,
    /// Where it is.
    pub address: SocketAddr,
    /// How to speak TLS to it; `None` is cleartext.
    pub tls: Option<EndpointTls>,
    /// Which of the cluster's endpoints in the configuration it is an address of.
    pub configured: usize,
    /// It gets nothing new.
    pub drain: bool,
    /// What the health checks say about it.
    pub health: Arc<Health>,
    /// How busy it is.
    pub load: Arc<Load>,
    /// How it has answered.
    pub answers: Arc<Answers>,
    /// What cookies call it; 0 where none do.
    pub name: u64,
}

impl EndpointView {
    /// Whether neither its health checks nor its answers speak against it.
    fn is_well(&self) -> bool {
        self.health.is_healthy() && !self.health.is_ejected()
    }

    /// Whether new requests go to it.
    pub fn is_up(&self) -> bool {
        !self.drain && self.is_well()
    }
}

impl ClusterView {
    /// Who gets the next request; `None` when no endpoint is `usable`. Those that drain get nothing but what cookies
    /// name them for, nor do unhealthy ones, unless so many are unhealthy that the checks are more likely to be wrong.
    ///
    /// This is the only way to an endpoint, for requests, connections and datagrams; whoever tries again says by `usable`
    /// which endpoints were tried. No lock, no allocation.
    pub fn pick(&self, ask: &Ask, usable: impl Fn(&EndpointView) -> bool) -> Option<&EndpointView> {
        let hosts = Now { view: self, now_ms: ask.now_ms, usable };
        let subset = ask.subset.and_then(|id| self.subsets.get(id.index())?.as_ref());
        if let (Some(affinity), Some(name)) = (&self.affinity, ask.named) {
            match self.named(affinity, name, subset, &hosts) {
                None if affinity.strict => return None,
                None => {}
                named => return named,
            }
        }
        let tiers = match subset {
            Some(subset) if subset.fallback == SubsetFallback::None || subset.tiers.any_up(&hosts) => &subset.tiers,
            _ => &self.all,
        };
        let at = tiers.pick(Draw { worker: ask.worker, random: ask.random, key: ask.key }, &hosts)?;
        self.endpoints.get(at)
    }

    /// Whether an endpoint has this name in cookies.
    pub fn knows(&self, name: u64) -> bool {
        self.affinity.as_ref().is_some_and(|affinity| affinity.by_name.contains_key(&name))
    }

    /// How much an endpoint has in progress, where that is counted.
    pub fn active(&self, endpoint: &EndpointView) -> Option<u32> {
        self.counts_requests.then(|| endpoint.load.active())
    }

    /// Counts a request at an endpoint until what it gives is dropped.
    pub fn begin<'a>(&self, endpoint: &'a EndpointView) -> Option<InFlight<&'a Load>> {
        self.counts_requests.then(|| InFlight::begin(&*endpoint.load))
    }

    /// The same for a connection, which outlives generations.
    pub fn begin_connection(&self, endpoint: &EndpointView) -> Option<InFlight<Arc<Load>>> {
        self.counts_requests.then(|| InFlight::begin(endpoint.load.clone()))
    }

    /// What was compiled for this generation.
    pub(super) fn compiled(&self) -> Vec<&Arc<Tiers>> {
        let subsets = self.subsets.iter().flatten().map(|subset| &subset.tiers);
        std::iter::once(&self.all).chain(subsets).collect()
    }

    /// The endpoint that a cookie means, if it may still have requests.
    fn named(
        &self,
        affinity: &Affinity,
        name: u64,
        subset: Option<&SubsetView>,
        hosts: &impl Hosts,
    ) -> Option<&EndpointView> {
        let at = *affinity.by_name.get(&name)?;
        let endpoint = &self.endpoints[at as usize];
        let fits = endpoint.is_well() && hosts.may(at as usize) && subset.is_none_or(|subset| subset.tiers.has(at));
        fits.then_some(endpoint)
    }
}

/// The endpoints as they are now, for one request.
struct Now<'a, F> {
    view: &'a ClusterView,
    now_ms: u64,
    usable: F,
}

impl<F: Fn(&EndpointView) -> bool> Hosts for Now<'_, F> {
    fn is_up(&self, at: usize) -> bool {
        self.view.endpoints[at].is_up()
    }

    fn active(&self, at: usize) -> u32 {
        self.view.endpoints[at].load.active()
    }

    fn warmth(&self, at: usize) -> u32 {
        let slow_start = self.view.slow_start_ms;
        if slow_start == 0 {
            return WARM;
        }
        warmth(self.now_ms, self.view.endpoints[at].health.since_ms(), slow_start)
    }

    fn may(&self, at: usize) -> bool {
        (self.usable)(&self.view.endpoints[at])
    }

    fn flips(&self) -> u64 {
        self.view.flips.count()
    }
}

/// How warm an endpoint is that has been there since then: Envoy's `slow_start_config` with `aggression` 1 and
/// `min_weight_percent` 10.
fn warmth(now_ms: u64, since_ms: u64, slow_start_ms: u64) -> u32 {
    let age = now_ms.saturating_sub(since_ms);
    if since_ms == 0 || age >= slow_start_ms {
        return WARM;
    }
    ((u128::from(WARM) * u128::from(age) / u128::from(slow_start_ms)) as u32).max(WARM / 10)
}

#[cfg(test)]
mod tests;
