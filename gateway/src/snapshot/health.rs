//! Whether an endpoint is well.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// What the health checks say about an endpoint, over all generations it is in. The control thread writes it, and
/// workers read it for each request: a plain load.
#[derive(Debug)]
pub struct Health {
    healthy: AtomicBool,
    changes: AtomicU64,
}

impl Default for Health {
    /// An endpoint that nobody has asked yet is taken to be well.
    fn default() -> Health {
        Health { healthy: AtomicBool::new(true), changes: AtomicU64::new(0) }
    }
}

impl Health {
    /// Whether it is well.
    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Relaxed)
    }

    /// Sets it; says whether that is a change. Only the control thread may.
    pub fn set(&self, healthy: bool) -> bool {
        let changed = self.healthy.swap(healthy, Relaxed) != healthy;
        self.changes.fetch_add(u64::from(changed), Relaxed);
        changed
    }

    /// How often it changed.
    pub fn changes(&self) -> u64 {
        self.changes.load(Relaxed)
    }
}
