//! A connection's halves as one `AsyncRead + AsyncWrite`, for the `h2` crate.
//!
//! Bytes that are received go straight into the memory of the caller: from the kernel where there is no TLS, from the
//! decrypted record where there is. What is sent is gathered only as long as copying it is cheaper than sending it alone.

use std::io::{self, BufRead as _, IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::Connection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::record::{TlsReader, TlsWriter, feed};
use super::stream::{Reader, Writer};
use crate::net::{Buf, SMALL};

/// Writes shorter than this are gathered: frame heads, headers, small messages. A longer one costs more to copy than the
/// system call that its own sending takes.
const GATHERED: usize = 4 * 1024;

/// Bytes after which whoever reads lets others have a turn. The h2 crate reads for as long as there is something, and what
/// it makes of that (the interim answers of an origin, say) waits in memory for tasks that would not run.
const TURN: usize = 64 * 1024;

/// What is discarded of the peer's bytes after our end of the stream, so that it gets to read the last of ours.
const LINGER: usize = crate::proto::limits::LINGER_BYTES;

/// Both halves.
pub struct Stream {
    reader: Reader,
    writer: Writer,
    out: Buf,
    drained: bool,
    /// Bytes read without a pause.
    turn: usize,
    shutdown: Shutdown,
}

/// How far the end of our direction has come.
enum Shutdown {
    Open,
    /// `close_notify` is among what is to be sent.
    Notified,
    /// The FIN is out; this many of the peer's bytes may still be discarded.
    Lingering(usize),
}

impl Stream {
    /// Joins the halves. Bytes that the reader holds come first.
    pub fn new(mut reader: Reader, writer: Writer) -> Stream {
        reader.adapt();
        Stream { reader, writer, out: Buf::default(), drained: false, turn: 0, shutdown: Shutdown::Open }
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // SAFETY: nothing is written to the unfilled part that would make initialised bytes uninitialised.
        let unfilled = unsafe { room.unfilled_mut() };
        let n = ready!(match &mut self.reader {
            Reader::Plain(reader) => reader.poll_receive(cx, unfilled, &mut self.drained),
            Reader::Tls(reader) => poll_decrypt(reader, cx, unfilled),
        })?;
        // SAFETY: the first `n` bytes of the unfilled part have been written.
        unsafe { room.assume_init(n) };
        room.advance(n);
        Poll::Ready(Ok(()))
    }

    /// Sends everything gathered, and all records that are ready.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            match &mut self.writer {
                Writer::Plain(writer) => {
                    let n = ready!(writer.poll_send(cx, &[IoSlice::new(self.out.as_slice())]))?;
                    self.out.consume(n);
                }
                Writer::Tls(writer) => {
                    let n = ready!(poll_encrypt(writer, cx, &[IoSlice::new(self.out.as_slice())]))?;
                    self.out.consume(n);
                }
            }
        }
        // An idle connection keeps no buffer.
        self.out = Buf::default();
        match &mut self.writer {
            Writer::Plain(_) => Poll::Ready(Ok(())),
            Writer::Tls(writer) => poll_records(writer, cx),
        }
    }

    fn poll_write_parts(&mut self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        if !self.out.is_allocated() && total < GATHERED {
            self.out = Buf::take(SMALL);
        }
        if total < GATHERED {
            if total > self.out.room() {
                ready!(self.poll_drain(cx))?;
                self.out = Buf::take(SMALL);
            }
            parts.iter().for_each(|part| self.out.extend(part));
            return Poll::Ready(Ok(total));
        }
        let gathered = self.out.len();
        let mut all = [IoSlice::new(&[]); 1 + MOST_PARTS];
        all[0] = IoSlice::new(self.out.as_slice());
        let given = parts.len().min(MOST_PARTS);
        all[1..][..given].copy_from_slice(&parts[..given]);
        let all = &all[..1 + given];
        let n = ready!(match &mut self.writer {
            Writer::Plain(writer) => writer.poll_send(cx, all),
            Writer::Tls(writer) => poll_encrypt(writer, cx, all),
        })?;
        self.out.consume(n.min(gathered));
        match n.checked_sub(gathered) {
            Some(taken @ 1..) => Poll::Ready(Ok(taken)),
            // Only of what was gathered before: none of the caller's bytes are out.
            _ => self.poll_write_parts(cx, parts),
        }
    }
}

/// Parts of one write beyond which the rest waits for the next one. A frame is a head and a payload.
const MOST_PARTS: usize = 7;

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.turn >= TURN {
            this.turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = room.filled().len();
        let received = this.poll_receive(cx, room);
        this.turn = if received.is_ready() { this.turn + room.filled().len() - before } else { 0 };
        received
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_parts(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_parts(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_drain(cx)
    }

    /// Ends our direction in order, and then reads and discards: closing while bytes are unread would reset the
    /// connection, and the peer could lose the last of what was sent. Ends when the peer does; the caller bounds the time.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match this.shutdown {
                Shutdown::Open => {
                    ready!(this.poll_drain(cx))?;
                    if let Writer::Tls(writer) = &mut this.writer {
                        writer.tls.borrow_mut().send_close_notify();
                    }
                    this.shutdown = Shutdown::Notified;
                }
                Shutdown::Notified => {
                    ready!(this.poll_drain(cx))?;
                    this.writer.shutdown();
                    this.shutdown = Shutdown::Lingering(LINGER);
                }
                Shutdown::Lingering(left) => {
                    let mut room = [MaybeUninit::uninit(); 4096];
                    let n = match &mut this.reader {
                        Reader::Plain(reader) => reader.poll_receive(cx, &mut room, &mut this.drained),
                        Reader::Tls(reader) => reader.raw.poll_receive(cx, &mut room, &mut this.drained),
                    };
                    match ready!(n) {
                        Ok(n @ 1..) if n < left => this.shutdown = Shutdown::Lingering(left - n),
                        _ => return Poll::Ready(Ok(())),
                    }
                }
            }
        }
    }
}

/// Plaintext, straight from rustls into `room`.
fn poll_decrypt(reader: &mut TlsReader, cx: &mut Context<'_>, room: &mut [MaybeUninit<u8>]) -> Poll<io::Result<usize>> {
    if !reader.plain.is_empty() {
        let n = room.len().min(reader.plain.len());
        room[..n].write_copy_of_slice(&reader.plain.as_slice()[..n]);
        reader.plain.consume(n);
        return Poll::Ready(Ok(n));
    }
    reader.plain = Buf::default();
    loop {
        if let Some(done) = take_plaintext(&mut reader.tls.borrow_mut(), room) {
            return Poll::Ready(done);
        }
        if reader.raw.data().is_empty() && ready!(reader.raw.poll_fill(cx))? == 0 {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        feed(&mut reader.tls.borrow_mut(), &mut reader.raw)?;
    }
}

/// What rustls has decrypted, as far as there is room; `None` when it needs more records, `Ok(0)` at `close_notify`.
fn take_plaintext(tls: &mut Connection, room: &mut [MaybeUninit<u8>]) -> Option<io::Result<usize>> {
    let mut reader = tls.reader();
    let mut taken = 0;
    while taken < room.len() {
        let chunk = match reader.fill_buf() {
            Ok(chunk) if !chunk.is_empty() => chunk,
            _ if taken > 0 => break,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            end => return Some(end.map(<[u8]>::len)),
        };
        let n = chunk.len().min(room.len() - taken);
        room[taken..][..n].write_copy_of_slice(&chunk[..n]);
        reader.consume(n);
        taken += n;
    }
    Some(Ok(taken))
}

/// Encrypts `parts` once the records before them are sent.
fn poll_encrypt(writer: &mut TlsWriter, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
    ready!(poll_records(writer, cx))?;
    let n = writer.tls.borrow_mut().writer().write_vectored(parts)?;
    // What cannot be sent now is sent before the next.
    let _ = poll_records(writer, cx)?;
    Poll::Ready(Ok(n))
}

fn poll_records(writer: &mut TlsWriter, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    let TlsWriter { raw, tls } = writer;
    let tls: &mut Connection = &mut tls.borrow_mut();
    while tls.wants_write() {
        ready!(raw.poll_write_with(cx, |mut to| tls.write_tls(&mut to)))?;
    }
    Poll::Ready(Ok(()))
}
