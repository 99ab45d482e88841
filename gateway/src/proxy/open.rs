//! How many connections a worker has.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Notify;

use super::WorkerCx;
use crate::metrics::registry::ListenerStats;
use crate::snapshot::{Active, Place};

/// A worker's connections and accept loops, and who waits for the last of them.
#[derive(Default)]
pub struct Open {
    connections: Cell<u64>,
    accepting: Cell<u32>,
    changed: Notify,
}

/// An admitted connection: it counts as open for as long as this exists. It does not hold the generation: a connection
/// outlives many.
pub struct Admitted {
    /// Its place under the listener's limits.
    pub place: Place,
    /// Its place among those of all listeners.
    _active: Active,
    stats: Arc<ListenerStats>,
    worker: Rc<WorkerCx>,
}

impl Open {
    /// Waits until nothing is open and nobody accepts.
    pub async fn wait_for_none(&self) {
        while self.connections.get() > 0 || self.accepting.get() > 0 {
            self.changed.notified().await;
        }
    }

    /// One more accept loop.
    pub fn begin_accepting(&self) {
        self.accepting.set(self.accepting.get() + 1);
    }

    /// One accept loop less.
    pub fn stop_accepting(&self) {
        self.accepting.set(self.accepting.get() - 1);
        self.changed.notify_one();
    }
}

impl Admitted {
    /// Counts a connection of the listener that `stats` are about.
    pub fn new(worker: Rc<WorkerCx>, stats: Arc<ListenerStats>, place: Place, active: Active) -> Admitted {
        stats.shard(worker.worker).connections_active.inc();
        worker.open.connections.set(worker.open.connections.get() + 1);
        Admitted { place, _active: active, stats, worker }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.stats.shard(self.worker.worker).connections_active.dec();
        let open = &self.worker.open;
        open.connections.set(open.connections.get() - 1);
        open.changed.notify_one();
    }
}
