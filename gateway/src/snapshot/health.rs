//! Whether an endpoint is well.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, Mutex, PoisonError};

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
    /// What was wrong when it became unhealthy. Not for workers.
    why: Mutex<Option<String>>,
    changes: AtomicU64,
    since_ms: AtomicU64,
    /// When it is taken back, by the clock of [`Ask::now_ms`](super::Ask::now_ms); 0 is that it is not out.
    ejected_until: AtomicU64,
    ejections: AtomicU32,
    flips: Arc<Flips>,
}

impl Health {
    /// An endpoint that nobody has asked yet is taken to be well, and to have been so for ever. `flips` are the cluster's.
    pub fn new(flips: Arc<Flips>) -> Health {
        Health {
            healthy: AtomicBool::new(true),
            why: Mutex::default(),
            changes: AtomicU64::new(0),
            since_ms: AtomicU64::new(0),
            ejected_until: AtomicU64::new(0),
            ejections: AtomicU32::new(0),
            flips,
        }
    }

    /// Whether it is well.
    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Relaxed)
    }

    /// Whether it is left out for its answers.
    pub fn is_ejected(&self) -> bool {
        self.ejected_until.load(Relaxed) != 0
    }

    /// How long the next ejection is, in times of the first.
    pub fn next_ejection(&self) -> u32 {
        self.ejections.load(Relaxed).saturating_add(1)
    }

    /// Leaves it out until then. Whoever counted the answer that was one too many says so, on whichever thread; `false` when
    /// somebody else was faster.
    pub fn eject(&self, until_ms: u64) -> bool {
        let ejects = self.ejected_until.compare_exchange(0, until_ms.max(1), Relaxed, Relaxed).is_ok();
        if ejects {
            self.ejections.fetch_add(1, Relaxed);
            self.flips.add();
        }
        ejects
    }

    /// An interval is over: takes it back when it has been out for long enough, and lets an endpoint that was not out be out
    /// for less the next time. Says whether it is back. Only the control thread may.
    pub fn end_interval(&self, now_ms: u64) -> bool {
        match self.ejected_until.load(Relaxed) {
            0 => {
                let _at_none = self.ejections.fetch_update(Relaxed, Relaxed, |times| times.checked_sub(1));
                false
            }
            until if until > now_ms => false,
            _ => self.take_back(),
        }
    }

    /// It is not left out any more; says whether it was.
    pub fn take_back(&self) -> bool {
        let was_out = self.ejected_until.swap(0, Relaxed) != 0;
        if was_out {
            self.flips.add();
        }
        was_out
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

    /// What the check said that made it unhealthy; `None` when it is not.
    pub fn why(&self) -> Option<String> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps what the check said. Only the control thread may.
    pub fn explain(&self, why: Option<&str>) {
        *self.why.lock().unwrap_or_else(PoisonError::into_inner) = why.map(str::to_owned);
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
