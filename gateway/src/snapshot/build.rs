//! From a configuration to a snapshot. Everything that can fail, fails here, before anything has changed.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use aws_lc_rs::hmac;
use rustls::pki_types::ServerName;

use super::cluster::{Affinity, CheckTls, EndpointTls, SubsetView};
use super::filters::FilterBuilder;
use super::subset::Subsets;
use super::tls::{self, ClientTls, Secrets, ServerTls, Tickets};
use super::{Answers, Challenges, ClusterView, EndpointId, EndpointView, Health, ListenerView, Load, Snapshot};
use super::{breakers, limits, mirrors};
use crate::balance::{Place, Tiers};
use crate::config::model::{
    AffinityCookie, Balance, Certificate, Cluster, ClusterId, Config, Endpoint, EndpointAddress, HealthCheck, Labels,
    Listener, ListenerId, ListenerProtocol, ListenerTls, Pair, Priority, Subset, UpstreamTls,
};
use crate::filter::access::AccessList;
use crate::filter::bans::Bans;
use crate::filter::forwarded::TrustedProxies;
use crate::filter::rate_limit::ConnectionRates;
use crate::metrics::registry::Registry;
use crate::route::{L4Table, Table};

/// What names resolved to, last time they did.
pub type Resolved = HashMap<String, Vec<IpAddr>>;

/// What of an endpoint outlives generations.
type State = (Arc<Health>, Arc<Load>, Arc<Answers>);

/// Builds generations, and keeps what they share.
pub struct Builder {
    registry: Arc<Registry>,
    bans: Arc<Bans>,
    challenges: Arc<Challenges>,
    secrets: Secrets,
    generation: u64,
    next_endpoint: u64,
}

/// Why a checked configuration cannot be built after all.
#[derive(Debug)]
pub struct BuildError(pub String);

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BuildError {}

impl Builder {
    /// `registry` counts for every generation; `bans`, the keys of `tickets` and `challenges` hold for every one.
    pub fn new(
        registry: Arc<Registry>,
        bans: Arc<Bans>,
        tickets: Arc<Tickets>,
        challenges: Arc<Challenges>,
    ) -> Builder {
        Builder { registry, bans, challenges, secrets: Secrets::new(tickets), generation: 0, next_endpoint: 0 }
    }

    /// The next generation. A failed build changes nothing.
    pub fn build(
        &mut self,
        config: Config,
        resolved: &Resolved,
        previous: Option<&Snapshot>,
    ) -> Result<Snapshot, BuildError> {
        let registry = self.registry.clone();
        let filters = FilterBuilder::new(&config.clusters, &registry, previous);
        let listeners = (0..config.listeners.len())
            .map(|at| self.listener(&config, ListenerId(at as u32), previous, &filters))
            .collect::<Result<_, _>>()?;
        let before: HashMap<&str, (&Cluster, &ClusterView)> = previous
            .map(|previous| previous.config.clusters.iter().zip(&previous.clusters))
            .into_iter()
            .flatten()
            .map(|(cluster, view)| (cluster.name.as_str(), (cluster, view)))
            .collect();
        let subsets = Subsets::of(&config);
        let shown = Shown { now: pairs(&config), before: previous.map(|it| pairs(&it.config)).unwrap_or_default() };
        let clusters = (0..)
            .map(ClusterId)
            .zip(&config.clusters)
            .map(|(id, cluster)| {
                let asked = subsets.distinct.iter().map(|(subset, of)| of.contains(&id).then_some(subset)).collect();
                self.cluster(cluster, asked, resolved, &shown, before.get(cluster.name.as_str()).copied())
            })
            .collect::<Result<_, _>>()?;
        let route_filters = config.routes.iter().map(|route| filters.build(&route.filters)).collect();
        let route_mirrors = mirrors::build(&config, &registry, previous);
        let route_breakers = breakers::build(&config, &registry, previous);
        let limits = limits::build(&config, &registry, previous);
        let routes = config.routes.iter().map(|route| self.registry.route(&route.name)).collect();
        let l4_routes = config.l4_routes.iter().map(|route| self.registry.l4_route(&route.name)).collect();
        let has_priorities = config.routes.iter().any(|route| route.priority != Priority::Normal);
        let access = AccessList::build(&config.access);
        self.generation += 1;
        Ok(Snapshot {
            generation: self.generation,
            config,
            listeners,
            clusters,
            routes,
            route_filters,
            route_breakers,
            route_mirrors,
            limits,
            has_priorities,
            l4_routes,
            route_subsets: subsets.of_routes,
            l4_route_subsets: subsets.of_l4_routes,
            access,
            bans: self.bans.clone(),
            challenges: self.challenges.clone(),
        })
    }

    fn listener(
        &self,
        config: &Config,
        id: ListenerId,
        previous: Option<&Snapshot>,
        filters: &FilterBuilder<'_>,
    ) -> Result<ListenerView, BuildError> {
        let listener = &config.listeners[id.index()];
        let before = previous.and_then(|previous| {
            let id = previous.listener_named(&listener.name)?;
            Some((previous, &previous.config.listeners[id.index()], previous.listener(id)))
        });
        Ok(ListenerView {
            table: Table::build(&config.routes, id),
            l4: L4Table::build(&config.l4_routes, id),
            tls: self.server_tls(config, listener, before)?,
            filters: filters.build(&listener.filters),
            trusted: trusted_proxies(config, listener),
            stats: self.registry.listener(&listener.name),
            open: before.map_or_else(Default::default, |(_, _, view)| view.open.clone()),
            rates: ConnectionRates::build(&listener.limits, before.map(|(_, _, view)| &view.rates)),
        })
    }

    /// The listener's TLS settings; those of the previous generation where nothing they depend on has changed.
    fn server_tls(
        &self,
        config: &Config,
        listener: &Listener,
        before: Option<(&Snapshot, &Listener, &ListenerView)>,
    ) -> Result<Option<ServerTls>, BuildError> {
        let Some(wanted) = &listener.tls else { return Ok(None) };
        if let Some((previous, old, view)) = before {
            let same_terms = |old: &ListenerTls| {
                // Where certificates stand in their list makes no difference, only what they are.
                let terms = |tls: &ListenerTls| ListenerTls { certificates: Vec::new(), ..tls.clone() };
                terms(old) == terms(wanted) && shown(&previous.config, old).eq(shown(config, wanted))
            };
            if old.tls.as_ref().is_some_and(same_terms)
                && (old.protocol, old.http) == (listener.protocol, listener.http)
            {
                return Ok(view.tls.clone());
            }
        }
        let http = (listener.protocol == ListenerProtocol::Http).then_some(listener.http);
        tls::server(wanted, http, &config.certificates, &self.secrets).map(Some)
    }

    fn cluster(
        &mut self,
        cluster: &Cluster,
        subsets: Vec<Option<&Subset>>,
        resolved: &Resolved,
        shown: &Shown<'_>,
        before: Option<(&Cluster, &ClusterView)>,
    ) -> Result<ClusterView, BuildError> {
        let same_speech = |old: &Cluster| {
            (&old.tls, old.protocol, old.proxy_protocol) == (&cluster.tls, cluster.protocol, cluster.proxy_protocol)
        };
        // Whoever is well, or busy, is so whatever is spoken.
        let flips = before.map_or_else(Default::default, |(_, view)| view.flips.clone());
        let mut states: HashMap<SocketAddr, State> = before
            .into_iter()
            .flat_map(|(_, view)| &view.endpoints)
            .map(|old| (old.address, (old.health.clone(), old.load.clone(), old.answers.clone())))
            .collect();
        let compiled = before.map_or_else(Vec::new, |(_, view)| view.compiled());
        let check_before = before;
        let before = before.filter(|(old, _)| same_speech(old)).map(|(_, view)| view);
        let known: HashMap<_, _> = before
            .into_iter()
            .flat_map(|view| &view.endpoints)
            .map(|old| ((old.address, old.tls.as_ref().map(|tls| &tls.name)), old))
            .collect();
        let tls = self.client_tls(cluster, shown, before)?;
        let is_same_tls = before.is_some_and(|old| old.tls.as_ref().map(Arc::as_ptr) == tls.as_ref().map(Arc::as_ptr));
        let mut endpoints = Vec::new();
        let mut places = Vec::new();
        for (configured, endpoint) in cluster.endpoints.iter().enumerate() {
            for address in addresses(&endpoint.address, resolved) {
                let server_name =
                    cluster.tls.as_ref().map(|tls| server_name(cluster, tls, endpoint, address)).transpose()?;
                let old = known.get(&(address, server_name.as_ref())).copied();
                let id = old.map_or_else(|| self.new_endpoint(), |old| old.id);
                let endpoint_tls = || {
                    let (wanted, base) = (cluster.tls.as_ref()?, tls.as_ref()?);
                    Some(EndpointTls { config: tls::of_endpoint(base, wanted), name: server_name? })
                };
                let tls = match old.filter(|_| is_same_tls) {
                    Some(old) => old.tls.clone(),
                    None => endpoint_tls(),
                };
                let new = || (Arc::new(Health::new(flips.clone())), Arc::default(), Arc::default());
                let (health, load, answers) = states.entry(address).or_insert_with(new).clone();
                let name = cluster.affinity_cookie.as_ref().map_or(0, |cookie| cookie_name(cluster, cookie, address));
                places.push(place(cluster, endpoint, endpoints.len() as u32, address));
                endpoints.push(EndpointView {
                    id,
                    address,
                    tls,
                    configured,
                    drain: endpoint.drain,
                    health,
                    load,
                    answers,
                    name,
                });
            }
        }
        let check_tls = self.check_tls(cluster, &endpoints, shown, check_before)?;
        let tiers = |places: Vec<Place>| {
            let workers = self.registry.workers();
            Tiers::build(cluster.balance, cluster.panic_threshold, places, workers, compiled.iter().copied())
        };
        let in_subset = |place: &&Place, labels: &Labels| {
            let endpoint = &cluster.endpoints[endpoints[place.at as usize].configured];
            has_all(endpoint, labels)
        };
        let subset = |subset: Option<&Subset>| {
            let Subset { labels, fallback } = subset?;
            let places = places.iter().filter(|place| in_subset(place, labels)).cloned().collect();
            Some(SubsetView { tiers: tiers(places), fallback: *fallback })
        };
        let affinity = |cookie: &AffinityCookie| {
            let by_name = endpoints.iter().zip(0..).map(|(endpoint, at)| (endpoint.name, at)).collect();
            Affinity { by_name, strict: cookie.strict }
        };
        Ok(ClusterView {
            subsets: subsets.into_iter().map(subset).collect(),
            affinity: cluster.affinity_cookie.as_ref().map(affinity),
            all: tiers(places),
            endpoints,
            tls,
            check_tls,
            stats: self.registry.cluster(&cluster.name),
            flips,
            slow_start_ms: cluster.slow_start.as_millis() as u64,
            outliers: cluster.outlier_detection.clone(),
            counts_requests: cluster.balance == Balance::LeastRequest,
        })
    }

    /// What the settings of each endpoint are made of; that of the previous generation where it is the same.
    fn client_tls(
        &self,
        cluster: &Cluster,
        shown: &Shown<'_>,
        before: Option<&ClusterView>,
    ) -> Result<Option<Arc<ClientTls>>, BuildError> {
        let Some(wanted) = &cluster.tls else { return Ok(None) };
        match before.filter(|_| shown.is_same(wanted)).and_then(|view| view.tls.clone()) {
            Some(same) => Ok(Some(same)),
            None => {
                let made = tls::client(wanted, cluster.protocol, shown.pair(wanted), &self.secrets)
                    .map_err(|error| BuildError(format!("cluster \"{}\": {error}", cluster.name)))?;
                Ok(Some(Arc::new(made)))
            }
        }
    }

    /// TLS of the cluster's health checks; the settings of the previous generation where they are the same.
    fn check_tls(
        &self,
        cluster: &Cluster,
        endpoints: &[EndpointView],
        shown: &Shown<'_>,
        before: Option<(&Cluster, &ClusterView)>,
    ) -> Result<Option<CheckTls>, BuildError> {
        let Some(check) = &cluster.health_check else { return Ok(None) };
        let Some(wanted) = &check.tls else { return Ok(None) };
        let same = |old: &HealthCheck| (&old.tls, &old.probe) == (&check.tls, &check.probe) && shown.is_same(wanted);
        let before = before.filter(|(old, _)| old.health_check.as_ref().is_some_and(same));
        let config = match before.and_then(|(_, view)| view.check_tls.as_ref()) {
            Some(old) => old.config.clone(),
            None => tls::check(wanted, &check.probe, shown.pair(wanted), &self.secrets)?,
        };
        let name =
            |view: &EndpointView| server_name(cluster, wanted, &cluster.endpoints[view.configured], view.address);
        let names = endpoints.iter().map(name).collect::<Result<_, _>>()?;
        Ok(Some(CheckTls { config, names }))
    }

    fn new_endpoint(&mut self) -> EndpointId {
        self.next_endpoint += 1;
        EndpointId(self.next_endpoint)
    }
}

/// The pairs that endpoints may be shown, by the certificate's name.
struct Shown<'a> {
    now: HashMap<&'a str, &'a Arc<Pair>>,
    before: HashMap<&'a str, &'a Arc<Pair>>,
}

/// Those of one generation; empty where no cluster shows any. One that has not been obtained yet has none.
fn pairs(config: &Config) -> HashMap<&str, &Arc<Pair>> {
    let checks = config.clusters.iter().filter_map(|cluster| cluster.health_check.as_ref()?.tls.as_ref());
    let mut settings = config.clusters.iter().filter_map(|cluster| cluster.tls.as_ref()).chain(checks);
    if settings.all(|tls| tls.certificate.is_none()) {
        return HashMap::new();
    }
    let obtained = config.certificates.iter().filter_map(|it| Some((it.name.as_str(), it.pair.as_ref()?)));
    obtained.collect()
}

impl Shown<'_> {
    fn pair(&self, tls: &UpstreamTls) -> Option<&Pair> {
        Some(self.now.get(tls.certificate.as_deref()?)?)
    }

    /// Whether it is the pair of the generation before.
    fn is_same(&self, tls: &UpstreamTls) -> bool {
        let name = tls.certificate.as_deref().unwrap_or_default();
        self.now.get(name) == self.before.get(name)
    }
}

/// The certificates of a listener.
fn shown<'a>(config: &'a Config, tls: &'a ListenerTls) -> impl Iterator<Item = &'a Certificate> {
    tls.certificates.iter().map(|id| &config.certificates[id.index()])
}

/// The listener's; without those, the gateway's.
fn trusted_proxies(config: &Config, listener: &Listener) -> TrustedProxies {
    let own = &listener.trusted_proxies;
    let networks = if own.is_empty() { &config.gateway.trusted_proxies } else { own };
    TrustedProxies::build(networks, config.gateway.trusted_hops)
}

/// Where an address of an endpoint stands among the others. What is preferred comes first of each priority.
fn place(cluster: &Cluster, endpoint: &Endpoint, at: u32, address: SocketAddr) -> Place {
    let preferred = has_all(endpoint, &cluster.prefer);
    let tier = 2 * u16::from(endpoint.priority) + u16::from(!preferred);
    Place { at, address, weight: endpoint.weight, tier, drain: endpoint.drain }
}

fn has_all(endpoint: &Endpoint, labels: &Labels) -> bool {
    labels.iter().all(|label| endpoint.labels.contains(label))
}

/// What the cluster's cookie calls an endpoint: a keyed hash, so that nothing is learnt from it. The same on every box and
/// in every release.
fn cookie_name(cluster: &Cluster, cookie: &AffinityCookie, address: SocketAddr) -> u64 {
    let secret = cookie.secret.as_ref().unwrap_or(&cluster.name);
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, format!("{} {address}", cluster.name).as_bytes());
    tag.as_ref().iter().take(8).fold(0, |name, byte| name << 8 | u64::from(*byte))
}

fn addresses(address: &EndpointAddress, resolved: &Resolved) -> Vec<SocketAddr> {
    match address {
        EndpointAddress::Socket(address) => vec![*address],
        EndpointAddress::Name(name, port) => {
            resolved.get(name).into_iter().flatten().map(|ip| SocketAddr::new(*ip, *port)).collect()
        }
    }
}

/// What an endpoint's certificate must be for.
fn server_name(
    cluster: &Cluster,
    tls: &UpstreamTls,
    endpoint: &Endpoint,
    address: SocketAddr,
) -> Result<ServerName<'static>, BuildError> {
    let name = match (&tls.server_name, &endpoint.address) {
        (Some(name), _) | (None, EndpointAddress::Name(name, _)) => name.clone(),
        (None, EndpointAddress::Socket(_)) => return Ok(ServerName::from(address.ip())),
    };
    ServerName::try_from(name.clone())
        .map_err(|_| BuildError(format!("cluster \"{}\": `{name}` cannot be a TLS server name", cluster.name)))
}
