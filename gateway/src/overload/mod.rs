//! Overload: what is given up when there is too little memory, or a worker has too little time.
//!
//! Both are measured, and neither is asked about for each request: the control thread looks at the memory, every worker at
//! its own delay, a few times in a second. What they find is a [`Load`] in a cell of each worker. A request looks at that.

pub mod delay;
pub mod memory;

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::config::model::Overload;
use crate::metrics::shard::Counter;
use delay::{Backlog, Queue, Share};
use memory::Step;

/// What the threads of the process tell each other.
#[derive(Debug)]
pub struct Pressure {
    step: AtomicU8,
    memory_used: AtomicU64,
    /// 0 is no limit.
    memory_max: AtomicU64,
    /// Clients' connections, over all listeners.
    pub connections: Arc<AtomicU32>,
    workers: Box<[Found]>,
}

/// What a worker found, and did about it. It alone writes here.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Found {
    delay_us: AtomicU64,
    accept_delay_us: AtomicU64,
    /// In percent.
    refused: AtomicU16,
    late: AtomicBool,
    /// Requests refused because of memory.
    pub shed_for_memory: Counter,
    /// Requests refused because they would have had to wait.
    pub shed_for_delay: Counter,
}

impl Pressure {
    /// Of a process with so many workers, in which nothing is known yet.
    pub fn new(workers: usize) -> Pressure {
        Pressure {
            step: AtomicU8::new(0),
            memory_used: AtomicU64::new(0),
            memory_max: AtomicU64::new(0),
            connections: Arc::default(),
            workers: (0..workers).map(|_| Found::default()).collect(),
        }
    }

    /// So many bytes are in use, of so many that may be. Gives the steps before and after. Only the control thread calls it.
    pub fn observe_memory(&self, used: u64, max: Option<u64>) -> (Step, Step) {
        let before = self.step();
        let after = max.map_or(Step::Nothing, |max| before.next(used, max));
        self.memory_used.store(used, Relaxed);
        self.memory_max.store(max.unwrap_or(0), Relaxed);
        self.step.store(after as u8, Relaxed);
        (before, after)
    }

    /// What is given up for want of memory.
    pub fn step(&self) -> Step {
        Step::from_u8(self.step.load(Relaxed))
    }

    /// Bytes in use, and the most that may be.
    pub fn memory(&self) -> (u64, Option<u64>) {
        (self.memory_used.load(Relaxed), Some(self.memory_max.load(Relaxed)).filter(|max| *max > 0))
    }

    /// What each worker found.
    pub fn workers(&self) -> &[Found] {
        &self.workers
    }
}

impl Found {
    /// Whether something is refused because of delay.
    pub fn is_late(&self) -> bool {
        self.late.load(Relaxed)
    }

    /// How long everything the worker did had to wait of late, in microseconds.
    pub fn delay_us(&self) -> u64 {
        self.delay_us.load(Relaxed)
    }

    /// The same for the connections it accepted.
    pub fn accept_delay_us(&self) -> u64 {
        self.accept_delay_us.load(Relaxed)
    }

    /// The share of ordinary requests that it refuses for that, in percent.
    pub fn refused_percent(&self) -> u16 {
        self.refused.load(Relaxed)
    }
}

/// What a worker's requests have to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// What is given up for want of memory.
    pub step: Step,
    /// What is refused, whatever the reason.
    pub share: Share,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is served.
    Served,
    /// It is refused, unless its route's priority is high.
    UnlessHigh,
    /// It is refused.
    Refused,
}

/// One worker's view. One thread, so cells and no locks.
pub struct Guard {
    pressure: Arc<Pressure>,
    worker: usize,
    load: Cell<Load>,
    /// Of the whole loop.
    queue: RefCell<Queue>,
    /// Of connections that are not accepted yet.
    accepts: RefCell<Queue>,
    backlog: Cell<Backlog>,
    share: Cell<Share>,
    target_us: Cell<u64>,
    max_connections: Cell<u32>,
    /// The next connection's delay is looked at.
    looks: Cell<bool>,
}

impl Guard {
    /// Of worker number `worker`, which nothing weighs on yet.
    pub fn new(pressure: Arc<Pressure>, worker: usize) -> Guard {
        Guard {
            pressure,
            worker,
            load: Cell::default(),
            queue: RefCell::default(),
            accepts: RefCell::default(),
            backlog: Cell::new(Backlog::WHOLE),
            share: Cell::default(),
            target_us: Cell::new(u64::MAX),
            max_connections: Cell::new(u32::MAX),
            looks: Cell::new(false),
        }
    }

    /// From now on these settings hold.
    pub fn configure(&self, settings: &Overload) {
        let target =
            settings.queue_delay.map_or(u64::MAX, |delay| u64::try_from(delay.as_micros()).unwrap_or(u64::MAX));
        // Twice the target is looked at, too.
        self.target_us.set(target.min(u64::MAX / 2));
        self.max_connections.set(settings.max_connections.unwrap_or(u32::MAX));
    }

    /// What weighs on the worker.
    pub fn load(&self) -> Load {
        self.load.get()
    }

    /// Clients' connections there may be, over all workers and listeners, and how many there are.
    pub fn connections(&self) -> (&Arc<AtomicU32>, u32) {
        (&self.pressure.connections, self.max_connections.get())
    }

    /// The worker's turn came `delay_us` late. Called several times in an interval. Gives the step when it is a higher one
    /// than before.
    pub fn beat(&self, now_ms: u64, delay_us: u64) -> Option<Step> {
        if let Some(standing_us) = self.queue.borrow_mut().observe(now_ms, delay_us) {
            self.share.set(self.share.get().next(standing_us, self.target_us.get()));
        }
        self.looks.set(true);
        if self.accepts.borrow_mut().expire(now_ms) {
            self.backlog.set(Backlog::WHOLE);
        }
        let (before, step) = (self.load.get().step, self.pressure.step());
        let of_memory = match step {
            Step::Nothing | Step::Idle | Step::Connections => Share::NONE,
            Step::Requests => Share::ORDINARY,
            Step::Everything => Share::EVERYTHING,
        };
        self.load.set(Load { step, share: self.share.get().max(of_memory) });
        let found = &self.pressure.workers[self.worker];
        found.delay_us.store(self.queue.borrow().standing_us(), Relaxed);
        found.accept_delay_us.store(self.accepts.borrow().standing_us(), Relaxed);
        found.refused.store(self.share.get().percent(), Relaxed);
        found.late.store(self.is_flooded() || !self.share.get().is_none(), Relaxed);
        (step > before).then_some(step)
    }

    /// Whether a new connection may be served. `delay_us` says how long it has waited, and is asked for when that matters.
    pub fn admits(&self, now_ms: u64, random: u64, delay_us: impl FnOnce() -> u64) -> bool {
        let Load { step, share } = self.load.get();
        if step >= Step::Connections || share.takes(random) {
            return false;
        }
        let target = self.target_us.get();
        if !self.is_flooded() && !self.looks.replace(false) {
            return true;
        }
        let delay = delay_us();
        if let Some(standing_us) = self.accepts.borrow_mut().observe(now_ms, delay) {
            self.backlog.set(self.backlog.get().next(standing_us, target));
        }
        delay <= target || !self.is_flooded()
    }

    /// Whether connections waited too long of late, and the queue for them is not what it was.
    fn is_flooded(&self) -> bool {
        self.backlog.get() != Backlog::WHOLE
    }

    /// How many connections may wait to be accepted, at each socket.
    pub fn backlog(&self) -> Backlog {
        self.backlog.get()
    }

    /// What becomes of a request that begins now. `random` is asked for when something weighs on the worker.
    pub fn fate(&self, random: impl FnOnce() -> u64) -> Fate {
        let share = self.load.get().share;
        if share.is_none() {
            return Fate::Served;
        }
        match random() {
            random if share.takes_last(random) => Fate::Refused,
            random if share.takes(random) => Fate::UnlessHigh,
            _ => Fate::Served,
        }
    }

    /// A request was refused.
    pub fn count_shed(&self) {
        let found = &self.pressure.workers[self.worker];
        match self.load.get().step >= Step::Requests {
            true => found.shed_for_memory.inc(),
            false => found.shed_for_delay.inc(),
        }
    }
}

#[cfg(test)]
mod tests;
