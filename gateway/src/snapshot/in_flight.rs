//! How busy an endpoint is.

use std::ops::Deref;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Requests in progress at an endpoint, over all workers and generations. All workers write here, so it shares no cache line
/// with anything that is read only.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Load {
    active: AtomicU32,
}

impl Load {
    /// Requests, connections and UDP sessions now.
    pub fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }
}

/// One request at an endpoint; counted until it is dropped, however it ends.
pub struct InFlight<L: Deref<Target = Load>>(L);

impl<L: Deref<Target = Load>> InFlight<L> {
    /// Counts one more.
    pub fn begin(load: L) -> InFlight<L> {
        load.active.fetch_add(1, Relaxed);
        InFlight(load)
    }
}

impl<L: Deref<Target = Load>> Drop for InFlight<L> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}
