//! A connection's halves, plain or TLS. What reads and writes messages does not know which.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll, Waker};

use super::record::{TlsReader, TlsWriter};
use crate::net::{self, Buf, Deadline, Until};

/// The receiving half.
pub enum Reader {
    /// TCP.
    Plain(net::Reader),
    /// TLS over TCP.
    Tls(Box<TlsReader>),
}

impl Reader {
    /// Bytes received and not consumed. Empty while a receive is in flight.
    pub fn data(&self) -> &[u8] {
        match self {
            Reader::Plain(reader) => reader.data(),
            Reader::Tls(reader) => reader.plain.as_slice(),
        }
    }

    /// The same, writable: bodies are decoded in place.
    pub fn data_mut(&mut self) -> &mut [u8] {
        match self {
            Reader::Plain(reader) => reader.data_mut(),
            Reader::Tls(reader) => reader.plain.as_mut_slice(),
        }
    }

    /// Consumes `n` of [`Reader::data`].
    pub fn consume(&mut self, n: usize) {
        match self {
            Reader::Plain(reader) => reader.consume(n),
            Reader::Tls(reader) => reader.plain.consume(n),
        }
    }

    /// Takes everything received out as one buffer, without copying.
    pub fn take(&mut self) -> Buf {
        match self {
            Reader::Plain(reader) => reader.take(),
            Reader::Tls(reader) => std::mem::take(&mut reader.plain),
        }
    }

    /// Whether the next receive should have a large buffer, as for a streamed body.
    pub fn expect_large(&mut self, large: bool) {
        match self {
            Reader::Plain(reader) => reader.expect_large(large),
            Reader::Tls(reader) => reader.expect_large(large),
        }
    }

    /// From now on what comes decides how large a buffer the next receive has; see [`net::Reader::adapt`].
    pub fn adapt(&mut self) {
        match self {
            Reader::Plain(reader) => reader.adapt(),
            Reader::Tls(reader) => reader.adapt(),
        }
    }

    /// Receives more bytes behind those that are there. `Ok(0)` is the end of the stream; a TLS stream that ends without
    /// `close_notify` is [`io::ErrorKind::UnexpectedEof`].
    pub async fn fill(&mut self, until: &Until<'_>) -> io::Result<usize> {
        std::future::poll_fn(|cx| match self.poll_fill(cx) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => until.poll_passed(cx).map(Err),
        })
        .await
        .inspect(|_| until.progress())
    }

    /// Waits for the connection to break while there is nothing to read from it. Bytes that come instead are kept for
    /// whoever reads next; after them, or the end of the stream, this waits for ever. The receive it starts is the one
    /// that the next message needs anyway.
    pub async fn broken(&mut self) -> io::Error {
        self.start();
        if self.data().is_empty()
            && let Err(error) = std::future::poll_fn(|cx| self.poll_fill(cx)).await
        {
            return error;
        }
        std::future::pending().await
    }

    /// Whether the kernel has something for us that the receive in flight has not told of yet. Costs a system call.
    pub fn is_readable(&self) -> bool {
        match self {
            Reader::Plain(reader) => reader.is_readable(),
            Reader::Tls(reader) => reader.raw.is_readable(),
        }
    }

    /// Starts receiving what will come later, where nothing is here.
    fn start(&mut self) {
        match self {
            Reader::Plain(reader) if reader.data().is_empty() => reader.start(),
            Reader::Tls(reader) if reader.plain.is_empty() && reader.raw.data().is_empty() => reader.raw.start(),
            Reader::Plain(_) | Reader::Tls(_) => {}
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self {
            Reader::Plain(reader) => reader.poll_fill(cx),
            Reader::Tls(reader) => reader.poll_fill(cx),
        }
    }

    /// Waits for the first bytes of a message that may be long in coming. `Ok(0)` is the end of the stream.
    pub async fn fill_idle(&mut self, idle: &Deadline) -> io::Result<usize> {
        self.start();
        self.fill(&Until::only(idle)).await
    }

    /// Whether nothing has come since the last message: no bytes, no end, no error. Leaves a receive in flight, so that
    /// asking again costs no system call.
    pub fn is_quiet(&mut self) -> bool {
        self.start();
        self.data().is_empty() && self.poll_fill(&mut Context::from_waker(Waker::noop())).is_pending()
    }
}

/// The sending half.
pub enum Writer {
    /// TCP.
    Plain(net::Writer),
    /// TLS over TCP.
    Tls(TlsWriter),
}

impl Writer {
    /// Sends the whole buffer. After an error or a dropped future the connection can only be closed.
    pub async fn send(&mut self, buf: Buf, until: &Until<'_>) -> io::Result<()> {
        match self {
            Writer::Plain(writer) => writer.send(buf, until).await,
            Writer::Tls(writer) => writer.send(buf, until).await,
        }
    }

    /// Sends the end of a message without waiting; see [`net::Writer::send_last`].
    pub async fn send_last(&mut self, bytes: &[u8], until: &Until<'_>) -> io::Result<()> {
        match self {
            Writer::Plain(writer) => writer.send_last(bytes, until).await,
            Writer::Tls(writer) => writer.send_last(bytes, until).await,
        }
    }

    /// Waits until the kernel has all that was sent; see [`net::Writer::settle`].
    pub async fn settle(&mut self, until: &Until<'_>) -> io::Result<()> {
        self.socket_mut().settle(until).await
    }

    /// Whether the kernel has all that was sent, without a fault.
    pub fn is_settled(&mut self) -> bool {
        self.socket_mut().is_settled()
    }

    /// Ends our direction in order (what is in flight, `close_notify` where there is TLS, then FIN); the other stays open.
    pub async fn finish(&mut self, until: &Until<'_>) {
        // Whoever is gone does not care.
        let _ = self.settle(until).await;
        if let Writer::Tls(writer) = self {
            // Boxed, so that a connection without TLS has no room for it.
            Box::pin(writer.close_notify(until)).await;
        }
        self.socket().shutdown();
    }

    /// Sends a FIN. Whoever has TLS has sent `close_notify` before.
    pub(super) fn shutdown(&self) {
        self.socket().shutdown();
    }

    /// Whether there is TLS, whose end has a message of its own.
    pub fn is_tls(&self) -> bool {
        matches!(self, Writer::Tls(_))
    }

    /// Aborts the connection (RST), so that the peer cannot take a cut stream for a complete one.
    pub fn abort(&self) {
        self.socket().abort();
    }

    /// The local address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket().local_addr()
    }

    fn socket_mut(&mut self) -> &mut net::Writer {
        match self {
            Writer::Plain(writer) => writer,
            Writer::Tls(writer) => &mut writer.raw,
        }
    }

    fn socket(&self) -> &net::Writer {
        match self {
            Writer::Plain(writer) => writer,
            Writer::Tls(writer) => &writer.raw,
        }
    }
}
