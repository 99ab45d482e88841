//! Overload: what is given up when there is too little memory, or a worker has too little time.
//!
//! Both are measured, and neither is asked about for each request: the control thread looks at the memory, every worker at
//! its own delay, a few times in a second. What they find is a [`Load`] in a cell of each worker. A request looks at that.

pub mod delay;
pub mod ebb;
pub mod memory;

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::config::model::Overload;
use crate::metrics::shard::Counter;
use delay::{Backlog, Queue, Share};
use memory::Step;

/// A target that no delay is longer than. Twice as much is still a number.
const NEVER_US: u64 = u64::MAX / 2;

/// How often memory is given back while there is too little: looking for what is free takes milliseconds.
const RELIEF_MS: u64 = 1_000;

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
    /// What the gates found last.
    accepts: Cell<Accepts>,
    share: Cell<Share>,
    target_us: Cell<u64>,
    accept_target_us: Cell<u64>,
    max_connections: Cell<u32>,
    /// How often it was looked, so that gates know when to look again.
    beats: Cell<u32>,
    /// When memory was given back last.
    relieved_ms: Cell<u64>,
}

/// How long connections waited for a worker, by the gate at which they waited longest.
#[derive(Clone, Copy, Debug, Default)]
struct Accepts {
    standing_us: u64,
    is_flooded: bool,
    found_ms: u64,
}

/// What stands before one listener's connections: one listener's flood must not be hidden by another one's quiet.
#[derive(Debug)]
pub struct Gate {
    queue: Queue,
    backlog: Backlog,
    /// The beat in which it last looked.
    beat: u32,
}

impl Guard {
    /// Of worker number `worker`, which nothing weighs on yet.
    pub fn new(pressure: Arc<Pressure>, worker: usize) -> Guard {
        Guard {
            pressure,
            worker,
            load: Cell::default(),
            queue: RefCell::default(),
            accepts: Cell::default(),
            share: Cell::default(),
            target_us: Cell::new(NEVER_US),
            accept_target_us: Cell::new(NEVER_US),
            max_connections: Cell::new(u32::MAX),
            beats: Cell::new(0),
            relieved_ms: Cell::new(0),
        }
    }

    /// From now on these settings hold.
    pub fn configure(&self, settings: &Overload) {
        let us = |delay: Duration| u64::try_from(delay.as_micros()).unwrap_or(NEVER_US).min(NEVER_US);
        self.target_us.set(settings.queue_delay.map_or(NEVER_US, us));
        self.accept_target_us.set(settings.accept_delay.map_or(NEVER_US, us));
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

    /// The worker's turn came `delay_us` late. Called several times in an interval. Says whether it is time to give memory
    /// back: with each higher step, and for as long as there is one, once in a second.
    pub fn beat(&self, now_ms: u64, delay_us: u64) -> bool {
        if let Some(standing_us) = self.queue.borrow_mut().observe(now_ms, delay_us) {
            self.share.set(self.share.get().next(standing_us, self.target_us.get()));
        }
        self.beats.set(self.beats.get().wrapping_add(1));
        if now_ms > self.accepts.get().found_ms + delay::LASTS_MS {
            self.accepts.set(Accepts::default());
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
        found.accept_delay_us.store(self.accepts.get().standing_us, Relaxed);
        found.refused.store(self.share.get().percent(), Relaxed);
        found.late.store(self.accepts.get().is_flooded || !self.share.get().is_none(), Relaxed);
        let is_due = step > before || step > Step::Nothing && now_ms >= self.relieved_ms.get() + RELIEF_MS;
        if is_due {
            self.relieved_ms.set(now_ms);
        }
        is_due
    }

    /// Whether a new connection or session is refused, however long it has waited. One that `may_be_high` brings requests of
    /// which nobody knows yet whether they are refused last: for delay it is refused as these are.
    pub fn is_closed(&self, random: u64, may_be_high: bool) -> bool {
        let Load { step, share } = self.load.get();
        step >= Step::Connections || if may_be_high { share.takes_last(random) } else { share.takes(random) }
    }

    /// How long a connection may wait to be accepted. What everything waits is no queue of connections: a worker with much
    /// to do would refuse each of the few that come. When that is too long, it is the loop that refuses.
    fn accept_target_us(&self) -> u64 {
        let turn_us = self.queue.borrow().standing_us().min(self.target_us.get());
        self.accept_target_us.get().saturating_add(turn_us).min(NEVER_US)
    }

    /// What a gate found is the worker's, when it is the worst, or the last word on that is old.
    fn note(&self, found: Accepts) {
        let last = self.accepts.get();
        if found.standing_us >= last.standing_us || found.found_ms > last.found_ms + 2 * delay::INTERVAL_MS {
            self.accepts.set(found);
        }
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

impl Default for Gate {
    fn default() -> Self {
        Gate { queue: Queue::default(), backlog: Backlog::WHOLE, beat: 0 }
    }
}

impl Gate {
    /// Whether a new connection may be served; `may_be_high` as in [`Guard::is_closed`]. `delay_us` says how long it has
    /// waited, and is asked for when that matters.
    pub fn admits(
        &mut self,
        guard: &Guard,
        now_ms: u64,
        random: u64,
        may_be_high: bool,
        delay_us: impl FnOnce() -> u64,
    ) -> bool {
        if guard.is_closed(random, may_be_high) {
            return false;
        }
        if !self.is_flooded() && self.beat == guard.beats.get() {
            return true;
        }
        self.beat = guard.beats.get();
        self.expire(now_ms);
        let (delay, target) = (delay_us(), guard.accept_target_us());
        if let Some(standing_us) = self.queue.observe(now_ms, delay) {
            self.backlog = self.backlog.next(standing_us, target);
            guard.note(Accepts { standing_us, is_flooded: self.is_flooded(), found_ms: now_ms });
        }
        delay <= target || !self.is_flooded()
    }

    /// Forgets what was found when nothing came for [`delay::LASTS_MS`].
    pub fn expire(&mut self, now_ms: u64) {
        if self.queue.expire(now_ms) {
            self.backlog = Backlog::WHOLE;
        }
    }

    /// How many connections may wait to be accepted.
    pub fn backlog(&self) -> Backlog {
        self.backlog
    }

    /// Whether connections waited too long of late, and the queue for them is not what it was.
    fn is_flooded(&self) -> bool {
        self.backlog != Backlog::WHOLE
    }
}

#[cfg(test)]
mod tests;
