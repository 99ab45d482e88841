//! A worker's measure of how late it is.

use std::rc::Rc;
use std::time::Duration;

use super::Worker;
use crate::net::now_ms;
use crate::proto::limits;

/// Several of these are an interval (`overload::delay`). An idle worker spends 0.03% of its time on them.
const BEAT: Duration = Duration::from_millis(20);

impl Worker {
    /// Sees how late this task is when its timer has run out: its turn comes after all that was ready before it, as that of
    /// everything else does.
    pub(super) async fn beat(self: Rc<Self>) {
        loop {
            let due = tokio::time::Instant::now() + BEAT;
            tokio::time::sleep_until(due).await;
            let late_us = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
            if self.cx.overload.beat(now_ms(), late_us) {
                self.close_idle();
                // What those of the last time held is free by now, and the allocator keeps it (Envoy's `shrink_heap`).
                (self.give_back)();
            } else if self.cx.resting.ebbed(now_ms()) {
                (self.give_back)();
            }
        }
    }

    /// Ends what waits for its next request. A request that is on its way by now is answered. A connection that begins to
    /// wait meanwhile sets its time anew, and ends the next time.
    fn close_idle(&self) {
        for acceptor in self.acceptors.borrow().values() {
            self.cx.timers.hurry(acceptor.listener.group, now_ms() + limits::CLOSING_IDLE_MS);
        }
    }
}
