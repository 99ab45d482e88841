//! Whether an endpoint is well.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

/// Counts the changes of endpoints' states in a cluster, so that a worker sees with one load that there is something to
/// look at.
#[derive(Debug, Default)]
pub struct Flips(AtomicU64);

impl Flips {
    /// How many there were. What has changed with them is seen by whoever sees the number.
    pub fn count(&self) -> u64 {
        self.0.load(Acquire)
    }

    fn add(&self) {
        self.0.fetch_add(1, Release);
    }
}

/// What the health checks say about an endpoint, over all generations it is in. The control thread writes it, and
/// workers read it for each request: a plain load.
#[derive(Debug)]
pub struct Health {
    healthy: AtomicBool,
    changes: AtomicU64,
    since_ms: AtomicU64,
    flips: Arc<Flips>,
}

impl Health {
    /// An endpoint that nobody has asked yet is taken to be well, and to have been so for ever. `flips` are the cluster's.
    pub fn new(flips: Arc<Flips>) -> Health {
        Health { healthy: AtomicBool::new(true), changes: AtomicU64::new(0), since_ms: AtomicU64::new(0), flips }
    }

    /// Whether it is well.
    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Relaxed)
    }

    /// Sets it; says whether that is a change. Only the control thread may.
    pub fn set(&self, healthy: bool) -> bool {
        let changed = self.healthy.swap(healthy, Relaxed) != healthy;
        if changed {
            self.changes.fetch_add(1, Relaxed);
            self.flips.add();
        }
        changed
    }

    /// Since when it is there, or is well again, in milliseconds of the clock that workers ask for [`Ask::now_ms`]; 0 is
    /// for ever.
    ///
    /// [`Ask::now_ms`]: super::Ask::now_ms
    pub fn since_ms(&self) -> u64 {
        self.since_ms.load(Relaxed)
    }

    /// It begins at this time. Only the control thread may say so.
    pub fn begin(&self, now_ms: u64) {
        self.since_ms.store(now_ms, Relaxed);
    }

    /// How often it changed.
    pub fn changes(&self) -> u64 {
        self.changes.load(Relaxed)
    }
}
