//! A worker's connections to each endpoint.
//!
//! Idle ones are kept last-in-first-out, so that the surplus of a burst grows old and is closed. Each has a receive in
//! flight: a connection that the origin closed is seen without a system call, and the receive that was waiting brings
//! the next answer.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::h1::Connection;
use crate::config::model::Cluster;
use crate::metrics::registry::ClusterStats;
use crate::snapshot::EndpointId;

/// One worker's pools.
#[derive(Default)]
pub struct Pools {
    /// Hashed without a secret: the ids are our own.
    endpoints: RefCell<HashMap<EndpointId, Pool, FixedState>>,
}

#[derive(Default)]
struct Pool {
    /// Oldest first.
    idle: Vec<Idle>,
    open: Rc<Cell<u32>>,
}

struct Idle {
    connection: Box<Connection>,
    /// When it has been idle for long enough, in [`crate::net::now_ms`].
    expires: u64,
}

/// The right to one open connection; given back when dropped.
pub struct Slot {
    endpoint: EndpointId,
    open: Rc<Cell<u32>>,
    stats: Arc<ClusterStats>,
    worker: usize,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.open.set(self.open.get() - 1);
        self.stats.shard(self.worker).connections_active.dec();
    }
}

impl Pools {
    /// An idle connection that is still good. A request that cannot be sent twice is worth asking the kernel, which knows
    /// of a close a moment before our ring does.
    pub fn take(&self, endpoint: EndpointId, repeatable: bool) -> Option<Box<Connection>> {
        let mut endpoints = self.endpoints.borrow_mut();
        let idle = &mut endpoints.get_mut(&endpoint)?.idle;
        while let Some(mut idle) = idle.pop() {
            if idle.connection.is_reusable() && (repeatable || !idle.connection.has_news()) {
                return Some(idle.connection);
            }
        }
        None
    }

    /// The right of this worker to open one more connection; `None` when it has `max_connections`.
    pub fn slot(
        &self,
        worker: usize,
        endpoint: EndpointId,
        cluster: &Cluster,
        stats: &Arc<ClusterStats>,
    ) -> Option<Slot> {
        let mut endpoints = self.endpoints.borrow_mut();
        let open = &endpoints.entry(endpoint).or_default().open;
        if open.get() >= cluster.max_connections {
            return None;
        }
        open.set(open.get() + 1);
        stats.shard(worker).connections_active.inc();
        Some(Slot { endpoint, open: open.clone(), stats: stats.clone(), worker })
    }

    /// Keeps a connection that [is reusable](Connection::is_reusable), or closes it when enough are kept.
    pub fn put(&self, mut connection: Box<Connection>, cluster: &Cluster, now_ms: u64) {
        let mut endpoints = self.endpoints.borrow_mut();
        // No pool: a reload took the endpoint away while the request ran.
        let Some(pool) = endpoints.get_mut(&connection.slot().endpoint) else { return };
        if pool.idle.len() >= cluster.max_idle_connections as usize {
            return;
        }
        connection.rest();
        let expires = now_ms.saturating_add(cluster.idle_timeout.as_millis() as u64);
        pool.idle.push(Idle { connection, expires });
    }

    /// Closes connections that have been idle for too long, or that the origin closed.
    pub fn sweep(&self, now_ms: u64) {
        for pool in self.endpoints.borrow_mut().values_mut() {
            pool.idle.retain_mut(|idle| idle.expires > now_ms && idle.connection.is_reusable());
        }
    }

    /// Forgets endpoints that are no longer there; their idle connections close now, busy ones when they are done.
    pub fn retain(&self, keep: impl Fn(EndpointId) -> bool) {
        self.endpoints.borrow_mut().retain(|endpoint, _| keep(*endpoint));
    }
}
