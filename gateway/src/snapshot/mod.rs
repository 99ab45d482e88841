//! The compiled, immutable world of one generation.
//!
//! A worker holds one [`Snapshot`] at a time and a request uses the one it began with. What must outlive a generation
//! (endpoint identity, connection counts, ticket keys, counters) is shared and carried over by name.

mod build;
mod filters;
mod health;
mod mirrors;
mod tls;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use crate::balance::round_robin::RoundRobin;
use crate::config::model::{ClusterId, Config, L4RouteId, ListenerId, RouteId};
use crate::filter::access::AccessList;
use crate::filter::bans::Bans;
use crate::filter::forwarded::TrustedProxies;
use crate::metrics::registry::{ClusterStats, L4RouteStats, ListenerStats, RouteStats};
use crate::metrics::shard::Refusal;
use crate::route::{L4Table, Table};

pub use build::{BuildError, Builder, Resolved};
pub use filters::{FaultView, FilterView, RateLimitView};
pub use health::Health;
pub use mirrors::MirrorView;
pub use tls::ServerTls;

/// One generation.
pub struct Snapshot {
    /// Counts up from 1 with every change.
    pub generation: u64,
    /// What it was built from.
    pub config: Config,
    /// By [`ListenerId`].
    pub listeners: Vec<ListenerView>,
    /// By [`ClusterId`].
    pub clusters: Vec<ClusterView>,
    /// By [`RouteId`].
    pub routes: Vec<Arc<RouteStats>>,
    /// The filters of each route, by [`RouteId`].
    pub route_filters: Vec<Box<[FilterView]>>,
    /// Where copies of each route's requests go, by [`RouteId`].
    pub route_mirrors: Vec<Box<[MirrorView]>>,
    /// By [`L4RouteId`].
    pub l4_routes: Vec<Arc<L4RouteStats>>,
    /// Rules on the peer's address, for where XDP does not decide.
    pub access: AccessList,
    /// Sources that are refused for a while; those of the process, whichever generation sees them.
    pub bans: Arc<Bans>,
}

/// A snapshot as a worker holds it: counted once between threads, and without atomics within one.
pub type Generation = Rc<Arc<Snapshot>>;

impl Snapshot {
    /// The listener of this name, if this generation has one.
    pub fn listener_named(&self, name: &str) -> Option<ListenerId> {
        let at = self.config.listeners.iter().position(|listener| listener.name == name)?;
        Some(ListenerId(at as u32))
    }

    /// A listener.
    pub fn listener(&self, id: ListenerId) -> &ListenerView {
        &self.listeners[id.index()]
    }

    /// A cluster.
    pub fn cluster(&self, id: ClusterId) -> &ClusterView {
        &self.clusters[id.index()]
    }

    /// A route's counters.
    pub fn route_stats(&self, id: RouteId) -> &RouteStats {
        &self.routes[id.index()]
    }

    /// An L4 route's counters.
    pub fn l4_route_stats(&self, id: L4RouteId) -> &Arc<L4RouteStats> {
        &self.l4_routes[id.index()]
    }
}

/// A listener, compiled.
pub struct ListenerView {
    /// Its routes.
    pub table: Table,
    /// Which of its connections are relayed as they are, and where to.
    pub l4: L4Table,
    /// How to terminate TLS; `None` is cleartext.
    pub tls: Option<ServerTls>,
    /// What its requests pass before those of their routes.
    pub filters: Box<[FilterView]>,
    /// Whose word about the client is believed.
    pub trusted: TrustedProxies,
    /// Its counters.
    pub stats: Arc<ListenerStats>,
    /// Its open connections, over all workers and generations.
    pub open: Arc<OpenConnections>,
}

/// A cluster, compiled.
pub struct ClusterView {
    /// Every address there is now; names are resolved.
    pub endpoints: Vec<EndpointView>,
    /// In which order they are taken.
    pub order: RoundRobin,
    /// How to speak TLS to them; `None` is cleartext.
    pub tls: Option<Arc<ClientConfig>>,
    /// Its counters.
    pub stats: Arc<ClusterStats>,
    cursors: Box<[Cursor]>,
}

/// A worker's place in [`ClusterView::order`]. On cache lines of its own: each worker writes its own only.
#[repr(align(128))]
struct Cursor(AtomicU64);

impl ClusterView {
    /// The next endpoint in this worker's turn; `None` when no endpoint is `usable`. Those that drain get nothing, nor
    /// do unhealthy ones, unless all are unhealthy: then each is tried, because the checks are more likely to be wrong.
    pub fn pick(&self, worker: usize, usable: impl Fn(&EndpointView) -> bool) -> Option<&EndpointView> {
        // Ordinarily the first endpoint is well, and this looks no further.
        let panic = !self.endpoints.iter().any(EndpointView::is_up);
        let takes = |endpoint: &EndpointView| if panic { !endpoint.drain } else { endpoint.is_up() };
        let mut cursor = self.cursors[worker].0.load(Relaxed);
        let at = self.order.pick(&mut cursor, |at| takes(&self.endpoints[at]) && usable(&self.endpoints[at]))?;
        self.cursors[worker].0.store(cursor, Relaxed);
        Some(&self.endpoints[at])
    }
}

/// Identifies an endpoint over generations: same cluster, same address, same way of speaking to it. Connection pools
/// are kept by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(pub u64);

/// An endpoint, resolved.
#[derive(Clone, Debug)]
pub struct EndpointView {
    /// Who it is.
    pub id: EndpointId,
    /// Where it is.
    pub address: SocketAddr,
    /// Its name in the certificate, where the cluster speaks TLS.
    pub server_name: Option<ServerName<'static>>,
    /// Which of the cluster's endpoints in the configuration it is an address of.
    pub configured: usize,
    /// It gets nothing new.
    pub drain: bool,
    /// What the health checks say about it.
    pub health: Arc<Health>,
}

impl EndpointView {
    /// Whether new requests go to it.
    pub fn is_up(&self) -> bool {
        !self.drain && self.health.is_healthy()
    }
}

/// Counts a listener's open connections, in all and by source.
#[derive(Default)]
pub struct OpenConnections {
    all: AtomicU32,
    /// Touched at accept and close only. As large as there are connections, so the listener's limit bounds it.
    by_source: Mutex<HashMap<IpAddr, u32>>,
}

/// Why one more connection is too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooMany {
    /// The listener has all it may have.
    Connections,
    /// The source has all it may have.
    FromSource,
}

impl From<TooMany> for Refusal {
    fn from(too_many: TooMany) -> Refusal {
        match too_many {
            TooMany::Connections => Refusal::ListenerLimit,
            TooMany::FromSource => Refusal::SourceLimit,
        }
    }
}

impl OpenConnections {
    fn enter(&self, source: IpAddr, limit: u32, limit_per_source: u32) -> Result<(), TooMany> {
        if self.all.fetch_add(1, Relaxed) >= limit {
            self.all.fetch_sub(1, Relaxed);
            return Err(TooMany::Connections);
        }
        self.enter_source(source, limit_per_source).inspect_err(|_| {
            self.all.fetch_sub(1, Relaxed);
        })
    }

    fn leave(&self, source: IpAddr) {
        self.all.fetch_sub(1, Relaxed);
        self.leave_source(source);
    }

    fn enter_source(&self, source: IpAddr, limit: u32) -> Result<(), TooMany> {
        let mut by_source = self.by_source.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_source.entry(source).or_default();
        if *count >= limit {
            return Err(TooMany::FromSource);
        }
        *count += 1;
        Ok(())
    }

    fn leave_source(&self, source: IpAddr) {
        let mut by_source = self.by_source.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_source.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                by_source.remove(&source);
            }
        }
    }
}

/// One of a limited number of things at once, over all workers and generations; given back when dropped.
pub struct Active(Arc<AtomicU32>);

impl Active {
    fn enter(count: &Arc<AtomicU32>, max: u32) -> Option<Active> {
        // Made first: dropped, it takes back what was too much.
        let active = Active(count.clone());
        (count.fetch_add(1, Relaxed) < max).then_some(active)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A connection's place under its listener's limits; given back when dropped.
pub struct Place {
    open: Arc<OpenConnections>,
    source: IpAddr,
}

impl Place {
    /// A place for one more connection, unless that is too many.
    pub fn take(
        open: &Arc<OpenConnections>,
        source: IpAddr,
        limit: u32,
        limit_per_source: u32,
    ) -> Result<Place, TooMany> {
        open.enter(source, limit, limit_per_source)?;
        Ok(Place { open: open.clone(), source })
    }

    /// The connection turns out to be another source's, and counts as its from now on, unless that is too many.
    pub fn move_to(&mut self, source: IpAddr, limit_per_source: u32) -> Result<(), TooMany> {
        self.open.enter_source(source, limit_per_source)?;
        self.open.leave_source(std::mem::replace(&mut self.source, source));
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.leave(self.source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_go_to_endpoints_that_are_up_and_when_none_is_healthy_to_all_that_do_not_drain() {
        // Each endpoint: d drains, u is unhealthy, h is healthy. Then the endpoints that are picked in turn.
        let cases: &[(&str, &[usize])] = &[
            ("hhh", &[0, 1, 2]),
            ("huh", &[0, 2]),
            ("hdh", &[0, 2]),
            ("uhd", &[1]),
            ("uuu", &[0, 1, 2]),
            ("uud", &[0, 1]),
            ("dd", &[]),
            ("", &[]),
        ];
        for (endpoints, expected) in cases {
            let view = cluster(endpoints);
            let picked: Vec<usize> = expected.iter().filter_map(|_| Some(view.pick(0, |_| true)?.configured)).collect();
            assert_eq!(picked, *expected, "{endpoints}");
            assert_eq!(view.pick(0, |_| true).is_some(), !expected.is_empty(), "{endpoints}");
        }
        let view = cluster("uh");
        assert!(view.pick(0, |endpoint| endpoint.configured != 1).is_none(), "a healthy one was tried already");
    }

    fn cluster(endpoints: &str) -> ClusterView {
        let endpoint = |(configured, kind): (usize, char)| {
            let health = Arc::new(Health::default());
            health.set(kind != 'u');
            let address = SocketAddr::from(([127, 0, 0, 1], configured as u16));
            let id = EndpointId(configured as u64);
            EndpointView { id, address, server_name: None, configured, drain: kind == 'd', health }
        };
        ClusterView {
            endpoints: endpoints.chars().enumerate().map(endpoint).collect(),
            order: RoundRobin::new(&vec![1; endpoints.len()]),
            tls: None,
            stats: Arc::new(ClusterStats::new(1)),
            cursors: [Cursor(AtomicU64::new(0))].into(),
        }
    }

    #[test]
    fn connections_are_counted_in_all_and_by_source() {
        let open = OpenConnections::default();
        let (a, b) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        assert_eq!(open.enter(a, 3, 2), Ok(()));
        assert_eq!(open.enter(a, 3, 2), Ok(()));
        assert_eq!(open.enter(a, 3, 2), Err(TooMany::FromSource));
        assert_eq!(open.enter(b, 3, 2), Ok(()));
        assert_eq!(open.enter(b, 3, 2), Err(TooMany::Connections));
        open.leave(a);
        assert_eq!(open.enter(b, 3, 2), Ok(()));
        open.leave(a);
        open.leave(b);
        open.leave(b);
        assert!(open.by_source.lock().unwrap().is_empty());
        assert_eq!(open.all.load(Relaxed), 0);
    }

    #[test]
    fn a_place_moves_to_the_source_it_turns_out_to_belong_to() {
        let open = Arc::new(OpenConnections::default());
        let (proxy, client) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([192, 0, 2, 1]));
        let mut places: Vec<_> = (0..2).map(|_| Place::take(&open, proxy, 10, u32::MAX).ok().unwrap()).collect();
        assert_eq!(places[0].move_to(client, 1), Ok(()));
        assert_eq!(places[1].move_to(client, 1), Err(TooMany::FromSource));
        assert_eq!(open.by_source.lock().unwrap().get(&proxy), Some(&1));
        places.clear();
        assert!(open.by_source.lock().unwrap().is_empty());
        assert_eq!(open.all.load(Relaxed), 0);
    }
}
