//! The client's event loop: one thread, all connections.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::conn::Conn;
use super::{Life, Outcome, Pace, Plan};
use crate::poll::{self, Poll};

/// Room for what is read in one go.
const SCRATCH: usize = 256 * 1024;
/// How often it is looked whether a client has lost its patience.
const PATIENCE_STEP: Duration = Duration::from_millis(10);
/// The longest wait for events.
const TICK: Duration = Duration::from_millis(100);
/// How long all connections of [`Pace::Once`] may take together.
const ONCE_LIMIT: Duration = Duration::from_secs(60);
/// So many failures without one success mean that there is nothing to measure.
const HOPELESS: u64 = 1_000;
/// Loopback addresses that connections come from in turn.
const SOURCES: u64 = 64;

/// A load that runs. Connections stay between one run and the next.
pub struct Engine {
    plan: Plan,
    poll: Poll,
    slots: Vec<Option<Conn>>,
    /// Slots without an exchange.
    free: Vec<usize>,
    /// Exchanges that were due and that no slot was free for.
    backlog: VecDeque<Instant>,
    scratch: Vec<u8>,
    outcome: Outcome,
    /// Connections made so far.
    connected: u64,
    /// Slots that something has happened to.
    ready: Vec<u64>,
    /// When it was last looked for lost patience.
    looked: Instant,
}

impl Engine {
    /// A load without a connection so far.
    pub fn new(plan: Plan) -> Result<Engine> {
        poll::exact_timers();
        Ok(Engine {
            poll: Poll::new()?,
            slots: (0..plan.connections).map(|_| None).collect(),
            free: (0..plan.connections).rev().collect(),
            backlog: VecDeque::new(),
            scratch: vec![0; SCRATCH],
            outcome: Outcome::default(),
            connected: 0,
            ready: Vec::new(),
            looked: Instant::now(),
            plan,
        })
    }

    /// Runs for `time`, or for [`Pace::Once`] until all are done.
    pub fn run(&mut self, time: Duration) -> Result<Outcome> {
        let started = Instant::now();
        self.outcome = Outcome::default();
        match self.plan.pace {
            Pace::Closed => self.run_closed(started + time)?,
            Pace::Open { per_second } => self.run_open(started, time, per_second)?,
            Pace::Once { at_once } => self.run_once(started, at_once)?,
        }
        self.outcome.took = started.elapsed();
        Ok(std::mem::take(&mut self.outcome))
    }

    /// Runs until so many exchanges are done, with a pause before each; a failure ends it.
    pub fn run_count(&mut self, count: u64, pause: Duration) -> Result<()> {
        self.outcome = Outcome::default();
        let started = Instant::now();
        while self.outcome.done < count {
            let Outcome { done, failed, why, .. } = &self.outcome;
            if *failed > 0 || started.elapsed() > self.plan.patience {
                bail!("{done} of {count} exchanges done, {failed} failed in {:?}: {why:?}", started.elapsed());
            }
            if let Some(slot) = self.free.pop() {
                std::thread::sleep(pause);
                self.begin(slot, Instant::now());
            }
            self.step(TICK)?;
        }
        Ok(())
    }

    fn run_closed(&mut self, end: Instant) -> Result<()> {
        while Instant::now() < end {
            while let Some(slot) = self.free.pop() {
                self.begin(slot, Instant::now());
            }
            self.step(TICK.min(end.saturating_duration_since(Instant::now())))?;
        }
        Ok(())
    }

    fn run_open(&mut self, started: Instant, time: Duration, per_second: f64) -> Result<()> {
        let mut count = 0u64;
        let due = |count: u64| started + Duration::from_secs_f64(count as f64 / per_second);
        loop {
            let now = Instant::now();
            if now >= started + time {
                break;
            }
            while due(count) <= now {
                self.backlog.push_back(due(count));
                count += 1;
            }
            self.serve_backlog();
            self.step(due(count).saturating_duration_since(Instant::now()).min(TICK))?;
        }
        Ok(())
    }

    /// Waits for the answers that are under way; what was due and has none counts as unanswered.
    pub fn drain(&mut self) -> Result<Outcome> {
        self.outcome.unanswered += self.backlog.len() as u64;
        self.backlog.clear();
        let last = Instant::now() + self.plan.patience;
        while self.free.len() < self.slots.len() && Instant::now() < last {
            self.step(PATIENCE_STEP)?;
        }
        self.outcome.unanswered += (self.slots.len() - self.free.len()) as u64;
        Ok(std::mem::take(&mut self.outcome))
    }

    fn run_once(&mut self, started: Instant, at_once: usize) -> Result<()> {
        self.free.clear();
        let mut begun = 0;
        while self.free.len() < self.slots.len() {
            while begun < self.slots.len() && begun - self.free.len() < at_once {
                self.begin(begun, Instant::now());
                begun += 1;
            }
            if started.elapsed() > ONCE_LIMIT {
                bail!("{} of {} connections are open after {ONCE_LIMIT:?}", self.outcome.done, self.slots.len());
            }
            self.step(TICK)?;
        }
        Ok(())
    }

    fn serve_backlog(&mut self) {
        let gives_up_at = |due: &Instant| due.elapsed() > self.plan.patience;
        while self.backlog.front().is_some_and(gives_up_at) {
            self.backlog.pop_front();
            self.outcome.unanswered += 1;
        }
        while let Some(slot) = self.free.pop_if(|_| !self.backlog.is_empty()) {
            let due = self.backlog.pop_front().unwrap_or_else(Instant::now);
            self.begin(slot, due);
        }
    }

    /// Waits for events and handles them.
    fn step(&mut self, limit: Duration) -> Result<()> {
        let mut ready = std::mem::take(&mut self.ready);
        self.poll.wait(limit, &mut ready)?;
        for slot in &ready {
            self.advance(*slot as usize);
        }
        self.ready = ready;
        if self.looked.elapsed() > PATIENCE_STEP {
            self.looked = Instant::now();
            self.end_impatient();
        }
        let Outcome { done, failed, why, .. } = &self.outcome;
        if *done == 0 && *failed > HOPELESS {
            bail!("{failed} exchanges failed, none was done: {why:?}");
        }
        Ok(())
    }

    fn begin(&mut self, slot: usize, due: Instant) {
        let begun = self.connect(slot).and_then(|()| match &mut self.slots[slot] {
            Some(conn) => conn.begin(due, &mut self.outcome.bytes),
            None => Ok(()),
        });
        if let Err(error) = begun {
            self.fail(slot, &error);
        }
    }

    /// Has a slot a connection, if it has none.
    fn connect(&mut self, slot: usize) -> io::Result<()> {
        if self.slots[slot].is_none() {
            self.connected += 1;
            let conn = Conn::connect(&self.plan, (1 + self.connected % SOURCES) as u8)?;
            self.poll.add(conn.link().fd(), slot as u64)?;
            self.slots[slot] = Some(conn);
        }
        Ok(())
    }

    fn advance(&mut self, slot: usize) {
        let Some(conn) = &mut self.slots[slot] else { return };
        match conn.advance(&mut self.scratch, &mut self.outcome.bytes) {
            Ok(None) => {}
            Ok(Some(due)) => self.finish(slot, due),
            Err(error) if conn.busy_since().is_some() => self.fail(slot, &error),
            // The proxy closed a connection that was not in use.
            Err(_) => self.slots[slot] = None,
        }
    }

    fn finish(&mut self, slot: usize, due: Instant) {
        self.outcome.done += 1;
        self.outcome.latency.saturating_record(due.elapsed().as_nanos() as u64);
        if let Some(conn) = &self.slots[slot] {
            self.outcome.resumed += u64::from(conn.link().is_resumed());
        }
        if self.plan.life == Life::OneExchange {
            self.slots[slot] = None;
        }
        self.free.push(slot);
    }

    fn fail(&mut self, slot: usize, error: &io::Error) {
        self.outcome.failed += 1;
        self.outcome.why = Some(error.to_string());
        self.slots[slot] = None;
        self.free.push(slot);
    }

    fn end_impatient(&mut self) {
        for slot in 0..self.slots.len() {
            let since = self.slots[slot].as_ref().and_then(Conn::busy_since);
            if since.is_some_and(|due| due.elapsed() > self.plan.patience) {
                self.outcome.unanswered += 1;
                self.slots[slot] = None;
                self.free.push(slot);
            }
        }
    }
}
