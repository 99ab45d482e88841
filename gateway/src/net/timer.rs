//! Deadlines that cost a store to set.
//!
//! A connection sets its deadline anew for each message, and nearly none ever passes. So setting one writes a cell, and
//! the queue keeps an entry per deadline that may be too early: when it comes up and the deadline has moved on, the
//! entry moves too. Only a deadline that is *earlier* than its entry touches the queue.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

const NEVER: u64 = u64::MAX;

/// Milliseconds on the coarse monotonic clock: a few nanoseconds to read, precise to the kernel's tick (1 to 10 ms),
/// which is all a timeout needs.
pub fn now_ms() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the kernel to write to. The clock exists since Linux 2.6.32.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000
}

/// Nanoseconds on the precise monotonic clock, the same for all threads: for what is counted over less than a tick.
pub fn now_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the kernel to write to, and every Linux has the clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// A worker's deadlines. Cheap to clone.
#[derive(Clone, Default)]
pub struct Timers(Rc<Queue>);

#[derive(Default)]
struct Queue {
    entries: RefCell<BTreeMap<(u64, u64), Rc<Slot>>>,
    next_id: Cell<u64>,
    /// Set when an entry came before all others, so that the timer task sleeps for less.
    earlier: tokio::sync::Notify,
}

struct Slot {
    id: u64,
    due: Cell<u64>,
    queued: Cell<u64>,
    /// No deadline is set later than this: see [`Timers::hurry_for_good`].
    cap: Cell<u64>,
    group: u64,
    passed: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Timers {
    /// A deadline that is not set.
    pub fn deadline(&self) -> Deadline {
        self.deadline_in(0)
    }

    /// A deadline that is not set and belongs to a group, for [`Timers::hurry`] and [`Timers::hurry_for_good`].
    pub fn deadline_in(&self, group: u64) -> Deadline {
        let id = self.0.next_id.get();
        self.0.next_id.set(id + 1);
        let slot = Slot {
            id,
            due: Cell::new(NEVER),
            queued: Cell::new(NEVER),
            cap: Cell::new(NEVER),
            group,
            passed: Cell::new(false),
            waker: RefCell::new(None),
        };
        Deadline { slot: Rc::new(slot), queue: self.0.clone() }
    }

    /// Brings every deadline of the group that is set now forward to `due`. Set again, it is when it is set to.
    pub fn hurry(&self, group: u64, due: u64) {
        self.forward(group, due, NEVER);
    }

    /// As [`Timers::hurry`], and no deadline that is set now moves later again: for a group that ends.
    pub fn hurry_for_good(&self, group: u64, due: u64) {
        self.forward(group, due, due);
    }

    fn forward(&self, group: u64, due: u64, cap: u64) {
        let hurried: Vec<_> = self.0.entries.borrow().values().filter(|slot| slot.group == group).cloned().collect();
        // An entry may have outlived its deadline: what is not set now is not hurried, whenever it is set next.
        for slot in hurried.iter().filter(|slot| slot.due.get() != NEVER) {
            slot.cap.set(slot.cap.get().min(cap));
            if slot.due.get() > due {
                slot.due.set(due);
                self.0.enqueue(slot, due);
            }
        }
    }

    /// Wakes whoever waits past a deadline. Runs as long as the worker.
    pub async fn run(self) {
        loop {
            match self.0.fire(now_ms()) {
                None => self.0.earlier.notified().await,
                Some(next) => {
                    let pause = Duration::from_millis(next.saturating_sub(now_ms()).max(1));
                    let _ = tokio::time::timeout(pause, self.0.earlier.notified()).await;
                }
            }
        }
    }
}

impl Queue {
    /// Handles every entry that is due; says when the next one is.
    fn fire(&self, now: u64) -> Option<u64> {
        loop {
            let mut entries = self.entries.borrow_mut();
            let (&key, _) = entries.first_key_value()?;
            if key.0 > now {
                return Some(key.0);
            }
            let slot = entries.remove(&key)?;
            let due = slot.due.get();
            slot.queued.set(due);
            if due == NEVER {
                continue;
            }
            if due > now {
                entries.insert((due, slot.id), slot);
                continue;
            }
            slot.queued.set(NEVER);
            slot.passed.set(true);
            drop(entries);
            if let Some(waker) = slot.waker.take() {
                waker.wake();
            }
        }
    }

    fn enqueue(&self, slot: &Rc<Slot>, due: u64) {
        let mut entries = self.entries.borrow_mut();
        if slot.queued.get() != NEVER {
            entries.remove(&(slot.queued.get(), slot.id));
        }
        slot.queued.set(due);
        let first = entries.first_key_value().is_none_or(|(key, _)| due < key.0);
        entries.insert((due, slot.id), slot.clone());
        if first {
            self.earlier.notify_one();
        }
    }
}

/// A moment after which a wait is over. One per thing that waits, set again and again.
pub struct Deadline {
    slot: Rc<Slot>,
    queue: Rc<Queue>,
}

impl Deadline {
    /// The deadline is `after` from now.
    pub fn set(&self, after: Duration) {
        self.set_at(now_ms().saturating_add(u64::try_from(after.as_millis()).unwrap_or(NEVER - 1)));
    }

    /// The deadline is at this moment of [`now_ms`].
    pub fn set_at(&self, due: u64) {
        let due = due.min(self.slot.cap.get());
        self.slot.passed.set(false);
        self.slot.due.set(due);
        if due < self.slot.queued.get() {
            self.queue.enqueue(&self.slot, due);
        }
    }

    /// The deadline is `after` from now, or when `other` passes if that is sooner.
    pub fn set_within(&self, after: Duration, other: &Deadline) {
        self.set(after);
        if other.slot.due.get() < self.slot.due.get() {
            self.set_at(other.slot.due.get());
        }
    }

    /// Whether its moment has come, noticed or not.
    pub fn is_due(&self) -> bool {
        self.slot.due.get() <= now_ms()
    }

    /// There is no deadline.
    pub fn clear(&self) {
        self.slot.due.set(NEVER);
        self.slot.passed.set(false);
    }

    /// Whether it has passed. A waiting task polls this each time it is woken.
    pub fn poll_passed(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.slot.passed.get() {
            return Poll::Ready(());
        }
        let mut waker = self.slot.waker.borrow_mut();
        match &*waker {
            Some(present) if present.will_wake(cx.waker()) => {}
            _ => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    #[cfg(test)]
    fn has_passed(&self) -> bool {
        self.slot.passed.get()
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        let queued = self.slot.queued.get();
        if queued != NEVER {
            self.queue.entries.borrow_mut().remove(&(queued, self.slot.id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_that_moved_on_fires_only_at_its_last_moment() {
        let timers = Timers::default();
        let deadline = timers.deadline();
        deadline.set_at(100);
        deadline.set_at(300);
        assert_eq!(timers.0.fire(150), Some(300), "the entry moved along");
        assert!(!deadline.has_passed());
        assert_eq!(timers.0.fire(300), None);
        assert!(deadline.has_passed());
        deadline.set_at(400);
        assert!(!deadline.has_passed(), "setting it again begins anew");
    }

    #[test]
    fn an_earlier_deadline_takes_effect() {
        let timers = Timers::default();
        let deadline = timers.deadline();
        deadline.set_at(500);
        deadline.set_at(100);
        assert_eq!(timers.0.fire(100), None);
        assert!(deadline.has_passed());
    }

    #[test]
    fn a_hurried_deadline_comes_forward_and_moves_later_when_it_is_set_again() {
        let timers = Timers::default();
        let (hurried, other) = (timers.deadline_in(7), timers.deadline_in(8));
        hurried.set_at(1_000);
        other.set_at(1_000);
        timers.hurry(7, 100);
        assert_eq!(timers.0.fire(100), Some(1_000));
        assert!(hurried.has_passed() && !other.has_passed());
        hurried.set_at(2_000);
        assert_eq!(timers.0.fire(1_000), Some(2_000));
        assert!(!hurried.has_passed() && other.has_passed());
    }

    #[test]
    fn a_deadline_hurried_for_good_comes_forward_and_stays() {
        let timers = Timers::default();
        let (hurried, other) = (timers.deadline_in(7), timers.deadline_in(8));
        hurried.set_at(1_000);
        other.set_at(1_000);
        timers.hurry_for_good(7, 100);
        assert_eq!(timers.0.fire(100), Some(1_000));
        assert!(hurried.has_passed() && !other.has_passed());
        hurried.set_at(2_000);
        assert_eq!(timers.0.fire(101), Some(1_000), "it passed at once");
        assert!(hurried.has_passed());
    }

    #[test]
    fn a_deadline_that_is_not_set_is_not_hurried() {
        let timers = Timers::default();
        let deadline = timers.deadline_in(7);
        deadline.set_at(1_000);
        deadline.clear();
        timers.hurry(7, 100);
        deadline.set_at(2_000);
        assert_eq!(timers.0.fire(1_500), Some(2_000));
        assert!(!deadline.has_passed());
    }

    #[test]
    fn a_cleared_or_dropped_deadline_leaves_nothing_behind() {
        let timers = Timers::default();
        let (cleared, dropped) = (timers.deadline(), timers.deadline());
        cleared.set_at(100);
        cleared.clear();
        dropped.set_at(100);
        drop(dropped);
        assert_eq!(timers.0.fire(100), None);
        assert!(!cleared.has_passed());
        assert!(timers.0.entries.borrow().is_empty());
    }
}
