//! Counts what a client sends before the h2 crate acts on it.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::now_ms;
use crate::proto::h2_meter::{Flood, FrameMeter};

/// A connection's meter, as its socket and its requests share it.
pub struct Meter {
    frames: RefCell<FrameMeter>,
    flood: Cell<Option<Flood>>,
}

impl Meter {
    /// Nothing has been read yet, the preface included.
    pub fn new() -> Rc<Meter> {
        Rc::new(Meter { frames: RefCell::new(FrameMeter::new(true, now_ms())), flood: Cell::new(None) })
    }

    /// What was one too many, once it was.
    pub fn flood(&self) -> Option<Flood> {
        self.flood.get()
    }

    /// The head of an answer is sent.
    pub fn answered(&self) {
        self.frames.borrow_mut().answered();
    }

    /// So many bytes of an answer are sent.
    pub fn sent_data(&self, bytes: usize) {
        self.frames.borrow_mut().sent_data(bytes);
    }
}

/// A client's connection with a meter on what it sends. After a flood nothing more is read.
pub struct Metered<IO> {
    io: IO,
    meter: Rc<Meter>,
}

impl<IO> Metered<IO> {
    /// Counts with `meter` what `io` receives.
    pub fn new(io: IO, meter: Rc<Meter>) -> Metered<IO> {
        Metered { io, meter }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Metered<IO> {
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

impl<IO: AsyncWrite + Unpin> AsyncWrite for Metered<IO> {
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
