//! Payload on its way through the `h2` crate.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::net::Buf;

/// A buffer that h2 sends from, without copying it. When it is dropped, its bytes are written, or never will be.
pub struct Frame {
    buf: Buf,
    flight: Rc<Flight>,
}

/// How much of a stream's payload h2 holds.
#[derive(Default)]
pub struct Flight {
    frames: Cell<usize>,
    bytes: Cell<usize>,
    /// Somebody waits for them.
    waited: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Frame {
    pub(super) fn new(buf: Buf, flight: &Rc<Flight>) -> Frame {
        flight.frames.set(flight.frames.get() + 1);
        flight.bytes.set(flight.bytes.get() + buf.len());
        Frame { buf, flight: flight.clone() }
    }
}

impl bytes::Buf for Frame {
    fn remaining(&self) -> usize {
        self.buf.len()
    }

    fn chunk(&self) -> &[u8] {
        self.buf.as_slice()
    }

    fn advance(&mut self, n: usize) {
        self.flight.bytes.set(self.flight.bytes.get() - n.min(self.buf.len()));
        self.buf.consume(n);
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.flight.bytes.set(self.flight.bytes.get() - self.buf.len());
        self.flight.frames.set(self.flight.frames.get() - 1);
        if self.flight.frames.get() == 0
            && let Some(waker) = self.flight.waker.take()
        {
            waker.wake();
        }
    }
}

impl Flight {
    /// Bytes that are not written yet.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Ready once h2 holds nothing; says whether that had to be waited for.
    pub(super) fn poll_landed(&self, cx: &mut Context<'_>) -> Poll<bool> {
        if self.frames.get() == 0 {
            return Poll::Ready(self.waited.replace(false));
        }
        self.waited.set(true);
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}
