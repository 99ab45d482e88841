//! Counts what a client sends before the h2 crate acts on it.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::now_ms;
use crate::proto::h2_meter::{Flood, FrameMeter};
use crate::tls;

/// A connection's meter, as its socket and its requests share it.
pub(super) struct Meter {
    frames: RefCell<FrameMeter>,
    flood: Cell<Option<Flood>>,
}

impl Meter {
    /// Nothing has been read yet, the preface included.
    pub(super) fn new() -> Rc<Meter> {
        Rc::new(Meter { frames: RefCell::new(FrameMeter::new(true, now_ms())), flood: Cell::new(None) })
    }

    /// What was one too many, once it was.
    pub(super) fn flood(&self) -> Option<Flood> {
        self.flood.get()
    }

    /// The head of an answer is sent.
    pub(super) fn answered(&self) {
        self.frames.borrow_mut().answered();
    }

    /// So many bytes of an answer are sent.
    pub(super) fn sent_data(&self, bytes: usize) {
        self.frames.borrow_mut().sent_data(bytes);
    }
}

/// A client's connection with a meter on what it sends. After a flood nothing more is read.
pub(super) struct Metered {
    io: tls::Stream,
    meter: Rc<Meter>,
}

impl Metered {
    pub(super) fn new(io: tls::Stream, meter: Rc<Meter>) -> Metered {
        Metered { io, meter }
    }
}

impl AsyncRead for Metered {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.meter.flood.get().is_some() {
            return Poll::Pending;
        }
        let before = room.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, room))?;
        let fed = this.meter.frames.borrow_mut().feed(&room.filled()[before..], now_ms());
        if let Err(flood) = fed {
            this.meter.flood.set(Some(flood));
            room.set_filled(before);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
