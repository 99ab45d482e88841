//! TCP connections as two halves that keep their operations, and listeners.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use super::buf::{Buf, LARGE, OVERHEAD, SMALL, TINY};
use super::op::{self, Completion, Expect, Fd, Op, SockAddr, Then};
use super::socket;
use super::until::Until;

/// How long a socket that takes no new connections waits for handshakes that are under way: most round trips are shorter.
const HANDSHAKES_END: Duration = Duration::from_millis(100);

/// The longest message whose end should be [handed over](Writer::send_last) rather than waited for: one that fits a [`TINY`]
/// buffer, in a TLS record too.
pub const HANDED_OVER: usize = TINY - 128;

/// Least room a receive is given behind bytes that are there.
const ROOM: usize = 2 * 1024;

/// Splits a connected socket into its halves; `size` is what its messages usually need.
fn halves(fd: OwnedFd, size: usize) -> (Reader, Writer) {
    let socket = Rc::new(Socket { fd: Fd::new(fd), busy: Cell::new(false), nonblocking: Cell::new(false) });
    let (buf, next) = (Buf::default(), Next { size, expect: Expect::Now, adaptive: false });
    let reader = Reader { socket: socket.clone(), buf, pending: Pending::Nothing, size, next };
    (reader, Writer { socket, pending: None, writable: None })
}

/// Connects to `address`, with `TCP_NODELAY` set. Ends with [`io::ErrorKind::TimedOut`] when `until` passes.
pub async fn connect(address: SocketAddr, until: &Until<'_>) -> io::Result<(Reader, Writer)> {
    let (reader, writer) = halves(socket::stream_for(address)?, SMALL);
    let mut op = op::connect(&reader.socket.fd, socket::encode(address));
    // An operation that is dropped here is ended by the socket's shutdown.
    reader.socket.busy.set(true);
    std::future::poll_fn(|cx| match op.poll(cx) {
        Poll::Ready((result, _)) => Poll::Ready(result.map(drop)),
        Poll::Pending => until.poll_passed(cx).map(Err),
    })
    .await?;
    reader.socket.busy.set(false);
    Ok((reader, writer))
}

/// What both halves share. Operations in flight hold the descriptor, not this.
pub(super) struct Socket {
    pub(super) fd: Fd,
    /// A half was dropped with an operation in flight.
    busy: Cell<bool>,
    nonblocking: Cell<bool>,
}

impl Socket {
    /// Has system calls on the descriptor end rather than wait, from now on: splice(2) looks at nothing else.
    pub(super) fn set_nonblocking(&self) -> io::Result<()> {
        if !self.nonblocking.get() {
            socket::set_nonblocking(self.fd.raw())?;
            self.nonblocking.set(true);
        }
        Ok(())
    }

    fn shutdown(&self, how: libc::c_int) {
        // SAFETY: the descriptor is open as long as `self` is. A failure means that the peer was faster.
        unsafe { libc::shutdown(self.fd.raw(), how) };
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.busy.get() {
            self.shutdown(libc::SHUT_RDWR);
        }
    }
}

/// The receiving half: a buffer of bytes not yet consumed, and perhaps an operation that will add more.
pub struct Reader {
    pub(super) socket: Rc<Socket>,
    buf: Buf,
    pub(super) pending: Pending,
    /// What a message usually needs.
    size: usize,
    next: Next,
}

pub(super) enum Pending {
    Nothing,
    Receive(Op<Buf>),
    /// Waits for bytes without a buffer to put them in.
    Poll(Op<()>),
}

/// How the next receive is made.
struct Next {
    size: usize,
    expect: Expect,
    /// Whether what came decides, see [`Reader::adapt`].
    adaptive: bool,
}

impl Next {
    /// `received` bytes came into room for `room`. A full buffer says that more is there. What was not full was all there
    /// is: the next bytes may be long in coming, so they are waited for with a buffer for as much as came, and when that
    /// is much, with none.
    fn adapt(&mut self, received: usize, room: usize) {
        if self.adaptive {
            self.expect = if received == room { Expect::Now } else { Expect::Later };
            self.size = match received {
                full if full == room => LARGE,
                tiny if tiny <= TINY - OVERHEAD => TINY,
                small if small <= SMALL - OVERHEAD => SMALL,
                _ => LARGE,
            };
        }
    }

    fn waits_without_buffer(&self) -> bool {
        self.adaptive && self.expect == Expect::Later && self.size == LARGE
    }
}

impl Reader {
    /// Bytes received and not consumed. Empty while a receive is in flight.
    pub fn data(&self) -> &[u8] {
        self.buf.as_slice()
    }

    /// The same, writable: bodies are decoded in place.
    pub fn data_mut(&mut self) -> &mut [u8] {
        self.buf.as_mut_slice()
    }

    /// Consumes `n` of [`Reader::data`].
    pub fn consume(&mut self, n: usize) {
        self.buf.consume(n);
    }

    /// Takes everything received out as one buffer, without copying.
    pub fn take(&mut self) -> Buf {
        std::mem::take(&mut self.buf)
    }

    /// Whether the next receive should have a large buffer, as for a streamed body.
    pub fn expect_large(&mut self, large: bool) {
        self.next.size = if large { LARGE } else { self.size };
    }

    /// Whether the next receive will have a large buffer.
    pub fn expects_large(&self) -> bool {
        self.next.size == LARGE
    }

    /// From now on what comes decides how large a buffer the next receive has: for a tunnel, of which nobody knows whether
    /// it carries a stream, small messages, or nothing for an hour.
    pub fn adapt(&mut self) {
        self.next = Next { size: TINY, expect: Expect::Now, adaptive: true };
    }

    /// Receives more bytes behind those that are there. `Ok(0)` is the end of the stream.
    pub async fn fill(&mut self, until: &Until<'_>) -> io::Result<usize> {
        std::future::poll_fn(|cx| match self.poll_fill(cx) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => until.poll_passed(cx).map(Err),
        })
        .await
        .inspect(|_| until.progress())
    }

    /// As [`Reader::fill`], for tasks that keep their own time.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            match &mut self.pending {
                Pending::Nothing if self.next.waits_without_buffer() && self.buf.is_empty() => {
                    self.buf = Buf::default();
                    self.pending = Pending::Poll(op::poll(&self.socket.fd, libc::POLLIN));
                }
                Pending::Nothing => self.start_receive(self.next.expect),
                Pending::Poll(op) => {
                    // Whatever the poll says, the receive finds out.
                    let _ = ready!(op.poll(cx));
                    self.start_receive(Expect::Now);
                }
                Pending::Receive(op) => {
                    let (result, mut buf) = ready!(op.poll(cx));
                    self.pending = Pending::Nothing;
                    let received = result.map(|n| {
                        self.next.adapt(n as usize, buf.room());
                        buf.advance(n as usize);
                        n as usize
                    });
                    self.buf = buf;
                    match received {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            self.pending = Pending::Poll(op::poll(&self.socket.fd, libc::POLLIN));
                        }
                        Err(error) if is_retry(&error) => {}
                        other => return Poll::Ready(other),
                    }
                }
            }
        }
    }

    /// Waits, with no receive in flight, until one would find bytes, an end or an error.
    pub(super) async fn readable(&mut self, until: &Until<'_>) -> io::Result<()> {
        debug_assert!(self.is_at_rest());
        self.pending = Pending::Poll(op::poll(&self.socket.fd, libc::POLLIN));
        if let Pending::Poll(op) = &mut self.pending {
            let (result, ()) = wait_for(op, until).await?;
            self.pending = Pending::Nothing;
            result?;
        }
        Ok(())
    }

    /// Whether there are no bytes here, and no operation that will bring some.
    pub(super) fn is_at_rest(&self) -> bool {
        self.buf.is_empty() && matches!(self.pending, Pending::Nothing)
    }

    /// The next bytes are probably few and long in coming.
    pub(super) fn expect_little(&mut self) {
        self.next = Next { size: TINY, expect: Expect::Later, adaptive: true };
    }

    /// Whether the kernel has bytes, an end or an error for us that the receive in flight has not told of yet. Asks the
    /// kernel, which costs a system call.
    pub fn is_readable(&self) -> bool {
        socket::is_readable(self.socket.fd.raw())
    }

    /// Starts receiving what will come later, without waiting for it.
    pub fn start(&mut self) {
        if matches!(self.pending, Pending::Nothing) {
            self.start_receive(Expect::Later);
        }
    }

    fn start_receive(&mut self, expect: Expect) {
        let mut buf = std::mem::take(&mut self.buf);
        let size = self.next.size;
        match buf.is_empty() {
            true if buf.capacity() == size => {}
            true => buf = Buf::take_to_fill(size),
            false => buf.reserve(ROOM),
        }
        self.pending = Pending::Receive(op::recv(&self.socket.fd, buf, expect));
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if !matches!(self.pending, Pending::Nothing) {
            self.socket.busy.set(true);
        }
    }
}

/// The sending half.
pub struct Writer {
    pub(super) socket: Rc<Socket>,
    pending: Option<Op<Buf>>,
    /// Waits for room to send; see `adapter`.
    pub(super) writable: Option<Op<()>>,
}

impl Writer {
    /// Sends the whole buffer. After an error, a passed deadline or a dropped future the connection can only be closed:
    /// nobody knows how much of the buffer went out.
    pub async fn send(&mut self, buf: Buf, until: &Until<'_>) -> io::Result<()> {
        self.send_then(buf, Then::Unknown, until).await
    }

    /// As [`Writer::send`], where the caller has the next bytes already and sends them at once: what does not fill a
    /// segment waits for them.
    pub async fn send_more(&mut self, buf: Buf, until: &Until<'_>) -> io::Result<()> {
        self.send_then(buf, Then::More, until).await
    }

    /// Hands the end of a message to the kernel without waiting until it has been taken: that would wake a task that has
    /// nothing else to do then. What became of it is found out by the next send. Before the connection is dropped,
    /// [`Writer::settle`] it: what is in flight then is lost.
    ///
    /// What is sent is copied, so that a connection that rests holds no larger buffer than that takes.
    pub async fn send_last(&mut self, bytes: &[u8], until: &Until<'_>) -> io::Result<()> {
        self.settle(until).await?;
        self.pending = Some(op::send(&self.socket.fd, Buf::copy_of(bytes), Then::Nothing));
        Ok(())
    }

    /// Waits until the kernel has all that [`Writer::send_last`] was given.
    pub async fn settle(&mut self, until: &Until<'_>) -> io::Result<()> {
        let rest = self.sent(until).await?;
        self.send_rest(rest, Then::Unknown, until).await
    }

    /// Whether the kernel has all that [`Writer::send_last`] was given. Asked again after a `false`, it may be true because
    /// nothing is in flight any more: a connection whose send has failed is of no use.
    pub fn is_settled(&mut self) -> bool {
        let Some(op) = &mut self.pending else { return true };
        let Poll::Ready((result, mut rest)) = op.poll(&mut Context::from_waker(Waker::noop())) else { return false };
        self.pending = None;
        rest.consume(result.map_or(0, |n| n as usize));
        if !rest.is_empty() {
            self.pending = Some(op::send(&self.socket.fd, rest, Then::Nothing));
        }
        self.pending.is_none()
    }

    async fn send_then(&mut self, buf: Buf, then: Then, until: &Until<'_>) -> io::Result<()> {
        self.settle(until).await?;
        self.send_rest(buf, then, until).await
    }

    async fn send_rest(&mut self, mut rest: Buf, then: Then, until: &Until<'_>) -> io::Result<()> {
        while !rest.is_empty() {
            self.pending = Some(op::send(&self.socket.fd, rest, then));
            rest = self.sent(until).await?;
        }
        Ok(())
    }

    /// What the send in flight leaves to be sent.
    async fn sent(&mut self, until: &Until<'_>) -> io::Result<Buf> {
        let Some(op) = &mut self.pending else { return Ok(Buf::default()) };
        let (result, mut rest) = wait_for(op, until).await?;
        self.pending = None;
        match result {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                rest.consume(n as usize);
                until.progress();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.room(until).await?,
            Err(error) if is_retry(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(rest)
    }

    /// Waits until the socket takes bytes, or has an error to tell of.
    pub(super) async fn room(&mut self, until: &Until<'_>) -> io::Result<()> {
        let op = self.writable.get_or_insert_with(|| op::poll(&self.socket.fd, libc::POLLOUT));
        let (result, ()) = wait_for(op, until).await?;
        self.writable = None;
        result.map(drop)
    }

    /// Tells the peer that nothing more comes (FIN); the other direction stays open.
    pub fn shutdown(&self) {
        self.socket.shutdown(libc::SHUT_WR);
    }

    /// Aborts the connection (RST), so that the peer cannot take a cut stream for a complete one.
    pub fn abort(&self) {
        socket::abort(self.socket.fd.raw());
    }

    /// How long ago, in milliseconds, the last bytes came, or the handshake ended when there were none yet: how long a new
    /// connection has waited for us. Asks the kernel, which costs a system call.
    pub fn quiet_ms(&self) -> io::Result<u32> {
        socket::quiet_ms(self.socket.fd.raw())
    }

    /// The local address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        socket::local_addr(self.socket.fd.raw())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.pending.is_some() || self.writable.is_some() {
            self.socket.busy.set(true);
        }
    }
}

/// The operation's completion, unless a deadline passes first: then it stays in flight.
async fn wait_for<T: Unpin>(op: &mut Op<T>, until: &Until<'_>) -> io::Result<Completion<T>> {
    std::future::poll_fn(|cx| match op.poll(cx) {
        Poll::Ready(completion) => Poll::Ready(Ok(completion)),
        Poll::Pending => until.poll_passed(cx).map(Err),
    })
    .await
}

/// Results that say nothing about the connection: try again.
fn is_retry(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::ECANCELED))
}

/// One worker's socket of a listener.
pub struct Listener {
    fd: Fd,
    pending: Option<Op<Box<SockAddr>>>,
    /// Where the kernel writes the next peer's address.
    address: Option<Box<SockAddr>>,
}

impl Listener {
    /// Accepts on a bound and listening socket.
    pub fn new(fd: OwnedFd) -> Listener {
        Listener { fd: Fd::new(fd), pending: None, address: None }
    }

    /// Our end of every connection it accepts, where that is known beforehand: a socket that is bound to one address gets
    /// those to this one only, as nothing here sets `IP_TRANSPARENT`.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        socket::local_addr(self.fd.raw()).ok().filter(|bound| !bound.ip().is_unspecified())
    }

    /// From now on so many connections may wait to be accepted; those that do already stay.
    pub fn set_backlog(&self, backlog: u32) {
        // SAFETY: takes numbers, and the descriptor is open as long as `self` is. A failure leaves the queue as it was.
        unsafe { libc::listen(self.fd.raw(), i32::try_from(backlog).unwrap_or(i32::MAX)) };
    }

    /// The next connection. May be dropped and called again without losing one.
    pub async fn accept(&mut self) -> io::Result<(Reader, Writer, SocketAddr)> {
        let op = self
            .pending
            .get_or_insert_with(|| op::accept(&self.fd, self.address.take().unwrap_or_else(SockAddr::empty)));
        let (result, address) = std::future::poll_fn(|cx| op.poll(cx)).await;
        self.pending = None;
        let connection = accepted(result, &address);
        self.address = Some(address);
        connection
    }

    /// Stops accepting and gives back what the kernel had already accepted for this socket, so that closing it resets
    /// nobody (Envoy #17259).
    pub async fn finish(mut self) -> Vec<(Reader, Writer, SocketAddr)> {
        // Else what comes between the last accept and the close is reset.
        match socket::set_deaf(self.fd.raw(), true) {
            Ok(()) => tokio::time::sleep(HANDSHAKES_END).await,
            Err(error) => log::warn!("connections that come just now are reset: {error}"),
        }
        let mut queued = Vec::new();
        if let Some(op) = self.pending.take() {
            let _ = op::cancel(&self.fd).done().await;
            let (result, address) = op.done().await;
            queued.extend(accepted(result, &address).ok());
        }
        // The backlog is what had been accepted when this began. What a flood adds behind it would keep us for ever.
        for _ in 0..=socket::BACKLOG {
            if !socket::is_readable(self.fd.raw()) {
                break;
            }
            let (result, address) = op::accept(&self.fd, SockAddr::empty()).done().await;
            match accepted(result, &address) {
                Ok(connection) => queued.push(connection),
                Err(_) => break,
            }
        }
        for (reader, ..) in &queued {
            // Its client sends again what was not heard.
            let _ = socket::set_deaf(reader.socket.fd.raw(), false);
        }
        queued
    }
}

fn accepted(result: io::Result<u32>, address: &SockAddr) -> io::Result<(Reader, Writer, SocketAddr)> {
    let fd = result?;
    // SAFETY: a completed accept gives a new descriptor that nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let peer = socket::decode(address)?;
    let (reader, writer) = halves(fd, TINY);
    Ok((reader, writer, peer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_receive_fits_what_came_and_what_idles_holds_little() {
        let full = LARGE - OVERHEAD;
        let cases = [
            // received, room, the next buffer, without a buffer until something comes
            (10, TINY - OVERHEAD, TINY, false),
            (TINY - OVERHEAD, TINY - OVERHEAD, LARGE, false),
            (2_000, full, SMALL, false),
            (SMALL - OVERHEAD, SMALL - OVERHEAD, LARGE, false),
            (20_000, full, LARGE, true),
            (full, full, LARGE, false),
            (10, full, TINY, false),
        ];
        for (received, room, size, bufferless) in cases {
            let mut next = Next { size: TINY, expect: Expect::Now, adaptive: true };
            next.adapt(received, room);
            assert_eq!((next.size, next.waits_without_buffer()), (size, bufferless), "{received} of {room}");
        }
    }
}
