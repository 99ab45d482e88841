//! The TLS halves: ciphertext below, plaintext above, one rustls connection between them.

use std::cell::RefCell;
use std::io::{self, BufRead, Write};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use rustls::Connection;

use crate::net::{self, Buf, LARGE, SMALL, Until};

/// Plaintext encrypted in one go: with the records' overhead it is still below the 64 KiB that rustls buffers.
const BATCH: usize = 48 * 1024;

/// The receiving half.
pub struct TlsReader {
    pub(super) raw: net::Reader,
    pub(super) plain: Buf,
    pub(super) tls: Rc<RefCell<Connection>>,
    large: bool,
}

/// The sending half.
pub struct TlsWriter {
    pub(super) raw: net::Writer,
    pub(super) tls: Rc<RefCell<Connection>>,
}

/// Joins a connection whose handshake is done with its socket.
pub(super) fn halves(raw: net::Reader, writer: net::Writer, tls: Connection) -> (TlsReader, TlsWriter) {
    let tls = Rc::new(RefCell::new(tls));
    let reader = TlsReader { raw, plain: Buf::default(), tls: tls.clone(), large: false };
    (reader, TlsWriter { raw: writer, tls })
}

impl TlsReader {
    pub(super) fn expect_large(&mut self, large: bool) {
        self.large = large;
        self.raw.expect_large(large);
    }

    pub(super) fn adapt(&mut self) {
        self.large = false;
        self.raw.adapt();
    }

    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            if let Some(result) = self.decrypted() {
                return Poll::Ready(result);
            }
            // An idle connection waits without a buffer of its own; the raw half has one.
            if self.plain.is_empty() {
                self.plain = Buf::default();
            }
            if self.raw.data().is_empty() && ready!(self.raw.poll_fill(cx))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            feed(&mut self.tls.borrow_mut(), &mut self.raw)?;
        }
    }

    /// Takes over plaintext that rustls has ready; `None` when it needs more records, `Ok(0)` at `close_notify`.
    fn decrypted(&mut self) -> Option<io::Result<usize>> {
        let mut tls = self.tls.borrow_mut();
        let mut reader = tls.reader();
        let mut taken = 0;
        loop {
            let chunk = match reader.fill_buf() {
                Ok(chunk) if !chunk.is_empty() => chunk,
                _ if taken > 0 => return Some(Ok(taken)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                other => return Some(other.map(<[u8]>::len)),
            };
            if !self.plain.is_allocated() {
                self.plain = Buf::take_to_fill(if self.large || self.raw.expects_large() { LARGE } else { SMALL });
            }
            self.plain.reserve(1);
            let n = chunk.len().min(self.plain.room());
            self.plain.extend(&chunk[..n]);
            reader.consume(n);
            taken += n;
            if self.plain.room() == 0 {
                return Some(Ok(taken));
            }
        }
    }
}

/// Gives received ciphertext to rustls.
pub(super) fn feed(tls: &mut Connection, raw: &mut net::Reader) -> io::Result<()> {
    let mut data = raw.data();
    let before = data.len();
    tls.read_tls(&mut data)?;
    let consumed = before - data.len();
    raw.consume(consumed);
    tls.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(())
}

/// Sends what rustls wants to send: handshake messages, tickets, alerts.
pub(super) async fn flush(tls: &RefCell<Connection>, raw: &mut net::Writer, until: &Until<'_>) -> io::Result<()> {
    loop {
        let records = records(&mut tls.borrow_mut())?;
        match records {
            Some(records) => raw.send(records, until).await?,
            None => return Ok(()),
        }
    }
}

/// As [`flush`], where the caller has more to send at once, so that the end of a batch is no segment of its own.
async fn flush_more(tls: &RefCell<Connection>, raw: &mut net::Writer, until: &Until<'_>) -> io::Result<()> {
    loop {
        let records = records(&mut tls.borrow_mut())?;
        match records {
            Some(records) => raw.send_more(records, until).await?,
            None => return Ok(()),
        }
    }
}

fn records(tls: &mut Connection) -> io::Result<Option<Buf>> {
    if !tls.wants_write() {
        return Ok(None);
    }
    let mut records = Buf::take(LARGE);
    while tls.wants_write() && records.room() > 0 {
        let written = tls.write_tls(&mut records.spare_mut())?;
        records.advance(written);
    }
    Ok(Some(records))
}

impl TlsWriter {
    pub(super) async fn send(&mut self, mut buf: Buf, until: &Until<'_>) -> io::Result<()> {
        while !buf.is_empty() {
            let batch = buf.len().min(BATCH);
            self.tls.borrow_mut().writer().write_all(&buf.as_slice()[..batch])?;
            buf.consume(batch);
            match buf.is_empty() {
                true => flush(&self.tls, &mut self.raw, until).await?,
                false => flush_more(&self.tls, &mut self.raw, until).await?,
            }
        }
        Ok(())
    }

    /// As [`net::Writer::send_last`].
    pub(super) async fn send_last(&mut self, bytes: &[u8], until: &Until<'_>) -> io::Result<()> {
        self.tls.borrow_mut().writer().write_all(bytes)?;
        let last = records(&mut self.tls.borrow_mut())?;
        if let Some(last) = last {
            self.raw.send_last(last.as_slice(), until).await?;
        }
        flush(&self.tls, &mut self.raw, until).await
    }

    /// Says that nothing more comes. A peer that is gone does not care.
    pub(super) async fn close_notify(&mut self, until: &Until<'_>) {
        self.tls.borrow_mut().send_close_notify();
        let _ = flush(&self.tls, &mut self.raw, until).await;
    }
}
