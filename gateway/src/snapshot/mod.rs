//! The compiled, immutable world of one generation.
//!
//! A worker holds one [`Snapshot`] at a time and a request uses the one it began with. What must outlive a generation
//! (endpoint identity, connection counts, ticket keys, counters) is shared and carried over by name.

mod breakers;
mod build;
mod challenges;
mod cluster;
mod filters;
mod health;
mod in_flight;
mod limits;
mod mirrors;
mod outlier;
mod subset;
mod tls;

use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::model::{ClusterId, Config, L4RouteId, ListenerId, RouteId};
use crate::filter::access::AccessList;
use crate::filter::bans::Bans;
use crate::filter::forwarded::TrustedProxies;
use crate::filter::rate_limit::ConnectionRates;
use crate::metrics::registry::{L4RouteStats, ListenerStats, RouteStats};
use crate::metrics::shard::Refusal;
use crate::route::{L4Table, Table};

pub use breakers::BreakerView;
pub use build::{BuildError, Builder, Resolved};
pub use challenges::{ACME_TLS, Challenge, Challenges, Shown};
pub use cluster::{Ask, CheckTls, ClusterView, EndpointId, EndpointTls, EndpointView};
pub use filters::{FaultView, FilterView, GlobalRateLimitView, RateLimitView};
pub use health::{Flips, Health};
pub use in_flight::{InFlight, Load};
pub use limits::LimitsView;
pub use mirrors::MirrorView;
pub use outlier::{Answers, Found};
pub use subset::SubsetId;
pub use tls::{
    AdmittedBy, DecodeError, LIFETIME_S, LongChain, Ring, SEALS_S, Secret, ServerTls, Shaken, Terms, TicketKeys,
    Tickets, without_root,
};

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
    /// The breaker of each route that has one, by [`RouteId`].
    pub route_breakers: Vec<Option<Box<BreakerView>>>,
    /// Where copies of each route's requests go, by [`RouteId`].
    pub route_mirrors: Vec<Box<[MirrorView]>>,
    /// By [`LimitSetId`](crate::config::model::LimitSetId).
    pub limits: Vec<LimitsView>,
    /// Whether some routes come before others.
    pub has_priorities: bool,
    /// By [`L4RouteId`].
    pub l4_routes: Vec<Arc<L4RouteStats>>,
    /// Which endpoints of its clusters a route uses, by [`RouteId`].
    pub route_subsets: Vec<Option<SubsetId>>,
    /// The same of an L4 route, by [`L4RouteId`].
    pub l4_route_subsets: Vec<Option<SubsetId>>,
    /// Rules on the peer's address, for where XDP does not decide.
    pub access: AccessList,
    /// Sources that are refused for a while; those of the process, whichever generation sees them.
    pub bans: Arc<Bans>,
    /// What certificate authorities are answered; of the process, too.
    pub challenges: Arc<Challenges>,
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
    /// How fast it takes new ones.
    pub rates: ConnectionRates,
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
    /// One more, unless there are `max` already.
    pub fn enter(count: &Arc<AtomicU32>, max: u32) -> Option<Active> {
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
