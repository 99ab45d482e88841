//! From a configuration to a snapshot. Everything that can fail, fails here, before anything has changed.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::filters::FilterBuilder;
use super::mirrors;
use super::tls::{self, Secrets, ServerTls};
use super::{ClusterView, Cursor, EndpointId, EndpointView, Health, ListenerView, Snapshot};
use crate::balance::round_robin::RoundRobin;
use crate::config::model::{Cluster, Config, Endpoint, EndpointAddress, Listener, ListenerId, ListenerProtocol};
use crate::filter::access::AccessList;
use crate::filter::bans::Bans;
use crate::filter::forwarded::TrustedProxies;
use crate::metrics::registry::Registry;
use crate::route::{L4Table, Table};

/// What names resolved to, last time they did.
pub type Resolved = HashMap<String, Vec<IpAddr>>;

/// Builds generations, and keeps what they share.
pub struct Builder {
    registry: Arc<Registry>,
    bans: Arc<Bans>,
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
    /// `registry` counts for every generation, and `bans` holds for every one.
    pub fn new(registry: Arc<Registry>, bans: Arc<Bans>) -> Result<Builder, BuildError> {
        Ok(Builder { registry, bans, secrets: Secrets::new()?, generation: 0, next_endpoint: 0 })
    }

    /// The next generation. A failed build changes nothing.
    pub fn build(
        &mut self,
        config: Config,
        resolved: &Resolved,
        previous: Option<&Snapshot>,
    ) -> Result<Snapshot, BuildError> {
        let registry = self.registry.clone();
        let filters = FilterBuilder::new(&registry, previous);
        let listeners = (0..config.listeners.len())
            .map(|at| self.listener(&config, ListenerId(at as u32), previous, &filters))
            .collect::<Result<_, _>>()?;
        let before: HashMap<&str, (&Cluster, &ClusterView)> = previous
            .map(|previous| previous.config.clusters.iter().zip(&previous.clusters))
            .into_iter()
            .flatten()
            .map(|(cluster, view)| (cluster.name.as_str(), (cluster, view)))
            .collect();
        let clusters = config
            .clusters
            .iter()
            .map(|cluster| self.cluster(cluster, resolved, before.get(cluster.name.as_str()).copied()))
            .collect::<Result<_, _>>()?;
        let route_filters = config.routes.iter().map(|route| filters.build(&route.filters)).collect();
        let route_mirrors = mirrors::build(&config, &registry, previous);
        let routes = config.routes.iter().map(|route| self.registry.route(&route.name)).collect();
        let l4_routes = config.l4_routes.iter().map(|route| self.registry.l4_route(&route.name)).collect();
        let access = AccessList::build(&config.access);
        self.generation += 1;
        Ok(Snapshot {
            generation: self.generation,
            config,
            listeners,
            clusters,
            routes,
            route_filters,
            route_mirrors,
            l4_routes,
            access,
            bans: self.bans.clone(),
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
            let same = old.tls.as_ref() == Some(wanted)
                && (old.protocol, old.http) == (listener.protocol, listener.http)
                && previous.config.certificates == config.certificates;
            if same {
                return Ok(view.tls.clone());
            }
        }
        let http = (listener.protocol == ListenerProtocol::Http).then_some(listener.http);
        tls::server(wanted, http, &config.certificates, &self.secrets).map(Some)
    }

    fn cluster(
        &mut self,
        cluster: &Cluster,
        resolved: &Resolved,
        before: Option<(&Cluster, &ClusterView)>,
    ) -> Result<ClusterView, BuildError> {
        let same_speech = |old: &Cluster| {
            (&old.tls, old.protocol, old.proxy_protocol) == (&cluster.tls, cluster.protocol, cluster.proxy_protocol)
        };
        // Whoever is well is so whatever is spoken.
        let mut health: HashMap<SocketAddr, Arc<Health>> = before
            .into_iter()
            .flat_map(|(_, view)| &view.endpoints)
            .map(|old| (old.address, old.health.clone()))
            .collect();
        let before = before.filter(|(old, _)| same_speech(old)).map(|(_, view)| view);
        let known: HashMap<_, _> = before
            .into_iter()
            .flat_map(|view| &view.endpoints)
            .map(|old| ((old.address, old.server_name.clone()), old.id))
            .collect();
        let tls = self.client_tls(cluster, before)?;
        let mut endpoints = Vec::new();
        let mut weights = Vec::new();
        for (configured, endpoint) in cluster.endpoints.iter().enumerate() {
            for address in addresses(&endpoint.address, resolved) {
                let server_name = server_name(cluster, endpoint, address)?;
                let key = (address, server_name.clone());
                let id = known.get(&key).copied().unwrap_or_else(|| self.new_endpoint());
                let (drain, health) = (endpoint.drain, health.entry(address).or_default().clone());
                endpoints.push(EndpointView { id, address, server_name, configured, drain, health });
                weights.push(endpoint.weight);
            }
        }
        // Workers begin at different places, so that the first requests of each do not all go to the first endpoint.
        let cursors = (0..self.registry.workers()).map(|worker| Cursor(AtomicU64::new(worker as u64))).collect();
        let order = RoundRobin::new(&weights);
        Ok(ClusterView { endpoints, order, tls, stats: self.registry.cluster(&cluster.name), cursors })
    }

    fn client_tls(
        &self,
        cluster: &Cluster,
        before: Option<&ClusterView>,
    ) -> Result<Option<Arc<ClientConfig>>, BuildError> {
        let Some(wanted) = &cluster.tls else { return Ok(None) };
        match before.and_then(|view| view.tls.clone()) {
            Some(same) => Ok(Some(same)),
            None => tls::client(wanted, cluster.protocol, &self.secrets).map(Some),
        }
    }

    fn new_endpoint(&mut self) -> EndpointId {
        self.next_endpoint += 1;
        EndpointId(self.next_endpoint)
    }
}

/// The listener's; without those, the gateway's.
fn trusted_proxies(config: &Config, listener: &Listener) -> TrustedProxies {
    let own = &listener.trusted_proxies;
    let networks = if own.is_empty() { &config.gateway.trusted_proxies } else { own };
    TrustedProxies::build(networks, config.gateway.trusted_hops)
}

fn addresses(address: &EndpointAddress, resolved: &Resolved) -> Vec<SocketAddr> {
    match address {
        EndpointAddress::Socket(address) => vec![*address],
        EndpointAddress::Name(name, port) => {
            resolved.get(name).into_iter().flatten().map(|ip| SocketAddr::new(*ip, *port)).collect()
        }
    }
}

fn server_name(
    cluster: &Cluster,
    endpoint: &Endpoint,
    address: SocketAddr,
) -> Result<Option<ServerName<'static>>, BuildError> {
    let Some(tls) = &cluster.tls else { return Ok(None) };
    let name = match (&tls.server_name, &endpoint.address) {
        (Some(name), _) | (None, EndpointAddress::Name(name, _)) => name.clone(),
        (None, EndpointAddress::Socket(_)) => return Ok(Some(ServerName::from(address.ip()))),
    };
    ServerName::try_from(name.clone())
        .map(Some)
        .map_err(|_| BuildError(format!("cluster \"{}\": `{name}` cannot be a TLS server name", cluster.name)))
}
