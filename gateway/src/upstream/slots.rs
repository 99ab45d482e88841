//! The connections of one worker to one endpoint: how many there are, and who waits for one, first come, first served.
//!
//! A worker counts its own connections, so whoever waits here waits for something that ends on this thread: no other
//! worker has to be told, and no wake-up can be lost between threads. Within the thread the rule is: whoever frees
//! something, and whoever leaves the queue, wakes the first in it, and only the first looks.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::metrics::registry::ClusterStats;
use crate::snapshot::EndpointId;

/// How many connections there are, and the queue for them.
#[derive(Default)]
pub(super) struct Slots {
    taken: Cell<u32>,
    /// Who waits, by the number they drew. At most `max_pending_requests` of the cluster.
    waiting: RefCell<BTreeMap<u64, Waker>>,
    drawn: Cell<u64>,
}

/// The right to one open connection; given back when dropped.
pub struct Slot {
    endpoint: EndpointId,
    slots: Rc<Slots>,
    stats: Arc<ClusterStats>,
    worker: usize,
}

/// A place in the queue, until it is dropped.
pub(super) struct Place {
    slots: Rc<Slots>,
    number: u64,
}

impl Slots {
    /// The right to one more connection, unless there are `most`.
    pub(super) fn take(
        self: &Rc<Self>,
        endpoint: EndpointId,
        most: u32,
        stats: &Arc<ClusterStats>,
        worker: usize,
    ) -> Option<Slot> {
        if self.taken.get() >= most {
            return None;
        }
        self.taken.set(self.taken.get() + 1);
        stats.shard(worker).connections_active.inc();
        Some(Slot { endpoint, slots: self.clone(), stats: stats.clone(), worker })
    }

    /// Whether somebody waits. What becomes free is theirs, and not for who comes after them.
    pub(super) fn has_queue(&self) -> bool {
        !self.waiting.borrow().is_empty()
    }

    /// A connection or a stream may have become free: the first in the queue looks.
    pub(super) fn offer(&self) {
        if let Some((_, first)) = self.waiting.borrow().first_key_value() {
            first.wake_by_ref();
        }
    }

    /// The last place in the queue.
    pub(super) fn queue(self: &Rc<Self>) -> Place {
        let number = self.drawn.get();
        self.drawn.set(number + 1);
        self.waiting.borrow_mut().insert(number, Waker::noop().clone());
        Place { slots: self.clone(), number }
    }
}

impl Place {
    /// Ready with what `look` finds, when this is the first place.
    pub(super) fn poll<T>(&self, cx: &mut Context<'_>, look: impl FnOnce() -> Option<T>) -> Poll<T> {
        let first = self.slots.waiting.borrow().first_key_value().map(|(number, _)| *number);
        if first == Some(self.number)
            && let Some(found) = look()
        {
            return Poll::Ready(found);
        }
        if let Some(waker) = self.slots.waiting.borrow_mut().get_mut(&self.number) {
            waker.clone_from(cx.waker());
        }
        Poll::Pending
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.slots.waiting.borrow_mut().remove(&self.number);
        // Two may have become free before this one looked.
        self.slots.offer();
    }
}

impl Slot {
    pub(super) fn endpoint(&self) -> EndpointId {
        self.endpoint
    }

    /// What it is one of.
    pub(super) fn slots(&self) -> &Rc<Slots> {
        &self.slots
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.taken.set(self.slots.taken.get() - 1);
        self.stats.shard(self.worker).connections_active.dec();
        self.slots.offer();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
    use std::task::Wake;

    use super::*;

    /// A task that counts how often it was woken.
    #[derive(Default)]
    struct Task(AtomicU32);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    struct Bench {
        slots: Rc<Slots>,
        stats: Arc<ClusterStats>,
    }

    impl Bench {
        fn new() -> Bench {
            Bench { slots: Rc::default(), stats: Arc::new(ClusterStats::new(1)) }
        }

        fn take(&self) -> Option<Slot> {
            self.slots.take(EndpointId(1), 1, &self.stats, 0)
        }

        fn poll(&self, place: &Place, task: &Arc<Task>) -> Poll<Slot> {
            let waker = Waker::from(task.clone());
            place.poll(&mut Context::from_waker(&waker), || self.take())
        }
    }

    fn woken(task: &Task) -> u32 {
        task.0.swap(0, SeqCst)
    }

    #[test]
    fn what_becomes_free_goes_to_the_first_and_then_to_the_next() {
        let bench = Bench::new();
        let taken = bench.take().expect("the only one");
        assert!(bench.take().is_none());
        let (first, second) = (bench.slots.queue(), bench.slots.queue());
        let tasks = [Arc::<Task>::default(), Arc::default()];
        assert!(bench.poll(&second, &tasks[1]).is_pending() && bench.poll(&first, &tasks[0]).is_pending());
        drop(taken);
        assert_eq!((woken(&tasks[0]), woken(&tasks[1])), (1, 0));
        assert!(bench.poll(&second, &tasks[1]).is_pending(), "it is not this one's turn");
        let Poll::Ready(got) = bench.poll(&first, &tasks[0]) else { panic!("it is free") };
        drop(first);
        assert_eq!(woken(&tasks[1]), 1, "there may be more");
        assert!(bench.poll(&second, &tasks[1]).is_pending());
        drop(got);
        assert_eq!(woken(&tasks[1]), 1);
        assert!(bench.poll(&second, &tasks[1]).is_ready());
        drop(second);
        assert!(!bench.slots.has_queue());
    }

    #[test]
    fn one_that_leaves_after_it_was_woken_passes_its_turn_on() {
        let bench = Bench::new();
        let taken = bench.take();
        let (first, second) = (bench.slots.queue(), bench.slots.queue());
        let tasks = [Arc::<Task>::default(), Arc::default()];
        assert!(bench.poll(&first, &tasks[0]).is_pending() && bench.poll(&second, &tasks[1]).is_pending());
        drop(taken);
        assert_eq!((woken(&tasks[0]), woken(&tasks[1])), (1, 0));
        drop(first);
        assert_eq!(woken(&tasks[1]), 1);
        assert!(bench.poll(&second, &tasks[1]).is_ready());
    }

    #[test]
    fn one_that_leaves_from_the_middle_changes_nobodys_turn() {
        let bench = Bench::new();
        let taken = bench.take();
        let places = [bench.slots.queue(), bench.slots.queue(), bench.slots.queue()];
        let tasks = [Arc::<Task>::default(), Arc::default(), Arc::default()];
        for (place, task) in places.iter().zip(&tasks) {
            assert!(bench.poll(place, task).is_pending());
        }
        let [first, second, third] = places;
        drop(second);
        tasks.iter().for_each(|task| _ = woken(task));
        drop(taken);
        assert_eq!([woken(&tasks[0]), woken(&tasks[1]), woken(&tasks[2])], [1, 0, 0]);
        drop(first);
        assert_eq!(woken(&tasks[2]), 1);
        assert!(bench.poll(&third, &tasks[2]).is_ready());
    }
}
