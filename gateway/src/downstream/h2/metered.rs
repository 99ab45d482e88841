//! Counts what a client sends before the h2 crate acts on it.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::now_ms;
use crate::proto::h2_meter::{Flood, FrameMeter};
use crate::tls;

/// A client's connection with a meter on what it sends. After a flood nothing more is read.
pub struct Metered {
    io: tls::Stream,
    meter: FrameMeter,
    flood: Rc<Cell<Option<Flood>>>,
}

impl Metered {
    /// Nothing has been read yet, the preface included.
    pub fn new(io: tls::Stream) -> Metered {
        Metered { io, meter: FrameMeter::new(true, now_ms()), flood: Rc::default() }
    }

    /// Where the meter says that it has seen a flood.
    pub fn flood(&self) -> Rc<Cell<Option<Flood>>> {
        self.flood.clone()
    }
}

impl Metered {
    fn count(&mut self, sent: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = sent {
            self.meter.sent(*bytes);
        }
    }
}

impl AsyncRead for Metered {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.flood.get().is_some() {
            return Poll::Pending;
        }
        let before = room.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, room))?;
        if let Err(flood) = this.meter.feed(&room.filled()[before..], now_ms()) {
            this.flood.set(Some(flood));
            room.set_filled(before);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let sent = Pin::new(&mut this.io).poll_write(cx, bytes);
        this.count(&sent);
        sent
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let sent = Pin::new(&mut this.io).poll_write_vectored(cx, parts);
        this.count(&sent);
        sent
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
