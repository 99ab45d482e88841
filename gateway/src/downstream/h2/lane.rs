//! The tasks that serve requests. Each serves one after the other, of whichever connections, so that a request needs no
//! task made for it: what that takes is copied several times on its way to its place, and is large.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::stream::{self, Job};
use crate::net;

/// Idle tasks a worker keeps: as many as the requests of a busy worker that are in progress at once. A task has 3 to 4 KiB,
/// so they are 1 MiB.
const KEPT: usize = 256;

thread_local! {
    /// Tasks that wait for a request. The one that was done last is taken first: it is still in the processor's caches.
    static IDLE: RefCell<Vec<Rc<Lane>>> = const { RefCell::new(Vec::new()) };
}

/// Where a task finds its next request.
struct Lane {
    job: RefCell<Option<Job>>,
    /// Wakes the task, once it has waited.
    waker: RefCell<Option<Waker>>,
}

/// Serves a request in a task that is idle, or else in a new one.
pub(super) fn start(job: Job) {
    // Where nobody else holds the lane, its task has ended with its runtime.
    let idle = IDLE.with_borrow_mut(Vec::pop).filter(|lane| Rc::strong_count(lane) > 1);
    match idle {
        Some(lane) => {
            *lane.job.borrow_mut() = Some(job);
            lane.waker.borrow().as_ref().inspect(|waker| waker.wake_by_ref());
        }
        None => net::spawn(run(Rc::new(Lane { job: Some(job).into(), waker: RefCell::default() }))),
    }
}

async fn run(lane: Rc<Lane>) {
    loop {
        let job = std::future::poll_fn(|cx| match lane.job.borrow_mut().take() {
            Some(job) => Poll::Ready(job),
            None => {
                lane.waker.borrow_mut().get_or_insert_with(|| cx.waker().clone());
                Poll::Pending
            }
        });
        stream::serve(job.await).await;
        // Nobody can take it before this task has come to wait: all is on one thread.
        if !IDLE.with_borrow_mut(|idle| keep(idle, &lane)) {
            return;
        }
    }
}

fn keep(idle: &mut Vec<Rc<Lane>>, lane: &Rc<Lane>) -> bool {
    let has_room = idle.len() < KEPT;
    if has_room {
        idle.push(lane.clone());
    }
    has_room
}
