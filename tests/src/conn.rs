//! A connection that speaks raw HTTP/1.1, from either end.
//!
//! The reader is stricter than RFC 9112 asks of a recipient (CRLF only, no folding, one framing header): what the
//! gateway writes must be beyond doubt.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use crate::h2::PREFACE;
use crate::stream::Stream;

/// Most bytes of one line that are read before giving up on it.
const LINE_MAX: usize = 256 * 1024;

/// One end of a connection.
#[derive(Debug)]
pub struct Conn {
    pub(crate) stream: Stream,
    /// What has been read and not yet taken is `buffer[taken..filled]`.
    buffer: Vec<u8>,
    taken: usize,
    filled: usize,
    /// Which connection of its origin this is, from 0; 0 on the client side.
    pub index: usize,
}

/// The start line and header fields of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The request line or status line, without CRLF.
    pub start: String,
    /// Fields in order, names as they were written.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The value of the field `name` (any case).
    ///
    /// # Panics
    /// When there are two of them: a test that allows that uses [`Head::all`].
    pub fn header(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "more than one {name} field: {self:?}");
        all.first().copied()
    }

    /// Every value of the field `name`.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
    }

    /// The request target, of a request.
    pub fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or("")
    }

    /// The method, of a request.
    pub fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or("")
    }

    /// How long the body is, as the fields say; `otherwise` when they say nothing.
    pub fn framing(&self, otherwise: Framing) -> Framing {
        match (self.header("transfer-encoding"), self.header("content-length")) {
            (Some(_), Some(_)) => panic!("both transfer-encoding and content-length: {self:?}"),
            (Some(coding), None) => {
                assert_eq!(coding, "chunked", "{self:?}");
                Framing::Chunked
            }
            (None, Some(length)) => Framing::Length(length.parse().expect("a content-length of digits")),
            (None, None) => otherwise,
        }
    }
}

/// How the end of a body is known (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// `Content-Length`
    Length(u64),
    /// `Transfer-Encoding: chunked`
    Chunked,
    /// The connection ends with it.
    UntilClose,
}

/// Why a message could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// The connection ended (FIN or RST) before the message's first byte.
    Closed,
    /// The connection ended (FIN or RST) within the message.
    Truncated,
    /// The stream was reset with this code (HTTP/2).
    Reset(u32),
    /// Nothing came in time.
    TimedOut,
    /// It is not HTTP.
    Malformed(String),
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// FIN.
    Closed,
    /// RST.
    Reset,
}

impl Conn {
    /// A connection over `stream`.
    pub fn new(stream: Stream, index: usize) -> Conn {
        Conn { stream, buffer: vec![0; 16 * 1024], taken: 0, filled: 0, index }
    }

    /// Whether the peer speaks HTTP/2: by ALPN, or by how it begins. Nothing is taken.
    pub fn begins_h2(&self) -> bool {
        let mut first = [0; 3];
        match &self.stream {
            Stream::Plain(tcp) => {
                matches!(tcp.peek(&mut first), Ok(count) if PREFACE.starts_with(&first[..count]) && count > 0)
            }
            Stream::Tls(tls) => tls.alpn().as_deref() == Some("h2"),
        }
    }

    /// The socket, before anything was read from it.
    pub fn into_stream(self) -> Stream {
        assert_eq!(self.filled, 0, "bytes were read");
        self.stream
    }

    /// The socket, and what was read from it and not taken.
    pub fn into_parts(self) -> (Stream, Vec<u8>) {
        let unread = self.buffer[self.taken..self.filled].to_vec();
        (self.stream, unread)
    }

    /// Sends all of `bytes`.
    ///
    /// # Panics
    /// When the connection is gone; see [`Conn::try_send`].
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        assert!(self.try_send(bytes), "the peer closed the connection while it was being written to");
    }

    /// Sends all of `bytes`; `false` when the peer has gone or takes no more within the deadline.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).and_then(|()| self.stream.flush()).is_ok()
    }

    /// Sends as many of `bytes` as the socket takes at once; `None` when it takes none within the deadline.
    pub fn send_some(&mut self, bytes: &[u8]) -> Option<usize> {
        match self.stream.write(bytes) {
            Ok(count) => Some(count),
            Err(e) if is_timeout(e.kind()) => None,
            Err(e) => panic!("the peer closed the connection while it was being written to: {e}"),
        }
    }

    /// Sends `bytes` one by one, each in a packet of its own.
    pub fn send_bytewise(&mut self, bytes: impl AsRef<[u8]>) {
        for byte in bytes.as_ref() {
            self.send([*byte]);
        }
    }

    /// Reads exactly what `bytes` says.
    pub fn expect(&mut self, bytes: impl AsRef<[u8]>) {
        let expected = bytes.as_ref();
        while self.filled - self.taken < expected.len() {
            if !matches!(self.fill(), Ok(1..)) {
                break;
            }
        }
        let got = &self.buffer[self.taken..self.filled.min(self.taken + expected.len())];
        assert_eq!(String::from_utf8_lossy(got), String::from_utf8_lossy(expected), "unexpected bytes");
        self.taken += expected.len();
    }

    /// Whether exactly what `bytes` says comes next; `false` also when the connection ends before.
    pub fn try_expect(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let expected = bytes.as_ref();
        while self.filled - self.taken < expected.len() {
            if !matches!(self.fill(), Ok(1..)) {
                return false;
            }
        }
        let got = &self.buffer[self.taken..][..expected.len()];
        let same = got == expected;
        self.taken += expected.len();
        same
    }

    /// Reads `length` bytes.
    pub fn read_bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.take(length as u64, &mut |chunk| bytes.extend_from_slice(chunk)).expect("bytes before the end");
        bytes
    }

    /// Reads `length` bytes, as text.
    pub fn read_some(&mut self, length: usize) -> String {
        String::from_utf8_lossy(&self.read_bytes(length)).into_owned()
    }

    /// The same connection for another thread to write to.
    pub fn clone_writer(&self) -> Conn {
        Conn::new(self.stream.clone(), self.index)
    }

    /// Reads a message's head.
    pub fn head(&mut self) -> Result<Head, ReadError> {
        let start = match self.line() {
            Err(ReadError::Truncated) if self.taken == self.filled => return Err(ReadError::Closed),
            line => line?,
        };
        Ok(Head { start, headers: self.fields()? })
    }

    /// Reads a body of the given framing, hands its pieces to `sink`, and returns the trailer fields.
    pub fn body(&mut self, framing: Framing, sink: &mut dyn FnMut(&[u8])) -> Result<Vec<(String, String)>, ReadError> {
        match framing {
            Framing::Empty => {}
            Framing::Length(length) => self.take(length, sink)?,
            Framing::UntilClose => self.take_all(sink)?,
            Framing::Chunked => return self.chunks(sink),
        }
        Ok(Vec::new())
    }

    /// Waits for the connection's end.
    ///
    /// # Panics
    /// When bytes come instead, or nothing within the deadline.
    pub fn end(&mut self) -> End {
        assert_eq!(self.taken, self.filled, "bytes before the end: {:?}", self.unread());
        match self.stream.read(&mut self.buffer) {
            Ok(0) => End::Closed,
            Ok(n) => panic!("bytes before the end: {:?}", String::from_utf8_lossy(&self.buffer[..n])),
            Err(e) if is_timeout(e.kind()) => panic!("the connection is still open"),
            // rustls reports a FIN without close_notify so; for HTTP with its own framing that is an end like another.
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => End::Closed,
            Err(_) => End::Reset,
        }
    }

    /// Whether the connection is open and silent right now.
    pub fn is_idle(&self) -> bool {
        let tcp = self.stream.tcp();
        tcp.set_nonblocking(true).expect("non-blocking");
        let idle = matches!(tcp.peek(&mut [0]), Err(e) if e.kind() == ErrorKind::WouldBlock);
        tcp.set_nonblocking(false).expect("blocking");
        idle && self.taken == self.filled
    }

    /// Says that nothing more will be sent, and goes on reading.
    pub fn half_close(&mut self) {
        self.stream.half_close();
    }

    /// Closes with an RST.
    pub fn reset(self) {
        self.stream.reset_on_close();
    }

    /// Sets how long one read or write may take.
    pub fn patience(&self, patience: Duration) {
        self.stream.set_patience(patience);
    }

    /// The address of this end.
    pub fn local_addr(&self) -> SocketAddr {
        self.stream.tcp().local_addr().expect("a local address")
    }

    /// What was read and not taken, for messages.
    pub fn unread(&self) -> String {
        String::from_utf8_lossy(&self.buffer[self.taken..self.filled]).into_owned()
    }

    /// Reads header or trailer fields and the empty line after them.
    fn fields(&mut self) -> Result<Vec<(String, String)>, ReadError> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            match line.split_once(": ").or_else(|| line.split_once(':')) {
                Some((name, value)) if !name.is_empty() && !name.contains([' ', '\t']) => {
                    fields.push((name.to_owned(), value.trim().to_owned()));
                }
                _ => return Err(ReadError::Malformed(line)),
            }
        }
    }

    /// Reads one chunk of a chunked body.
    pub fn chunk(&mut self) -> Result<Vec<u8>, ReadError> {
        let line = self.line()?;
        let size = u64::from_str_radix(&line, 16).map_err(|_| ReadError::Malformed(line))?;
        let mut chunk = Vec::new();
        self.take(size, &mut |bytes| chunk.extend_from_slice(bytes))?;
        self.line()?;
        Ok(chunk)
    }

    fn chunks(&mut self, sink: &mut dyn FnMut(&[u8])) -> Result<Vec<(String, String)>, ReadError> {
        loop {
            let line = self.line()?;
            let size = u64::from_str_radix(&line, 16).map_err(|_| ReadError::Malformed(line))?;
            if size == 0 {
                return self.fields();
            }
            self.take(size, sink)?;
            match self.line()?.as_str() {
                "" => {}
                other => return Err(ReadError::Malformed(format!("{other:?} after a chunk"))),
            }
        }
    }

    fn take(&mut self, length: u64, sink: &mut dyn FnMut(&[u8])) -> Result<(), ReadError> {
        let mut left = length;
        // A long body deserves a larger buffer; a short one must not cost 10 000 idle connections their memory.
        if left > self.buffer.len() as u64 {
            self.buffer.resize(256 * 1024, 0);
        }
        while left > 0 {
            if self.taken == self.filled && self.fill()? == 0 {
                return Err(ReadError::Truncated);
            }
            let now = left.min((self.filled - self.taken) as u64);
            sink(&self.buffer[self.taken..][..now as usize]);
            self.taken += now as usize;
            left -= now;
        }
        Ok(())
    }

    /// Takes everything up to the FIN; an RST is a truncated body.
    fn take_all(&mut self, sink: &mut dyn FnMut(&[u8])) -> Result<(), ReadError> {
        loop {
            sink(&self.buffer[self.taken..self.filled]);
            self.taken = self.filled;
            if self.fill()? == 0 {
                return Ok(());
            }
        }
    }

    /// Reads a line and takes its CRLF off.
    fn line(&mut self) -> Result<String, ReadError> {
        let mut scanned = 0;
        loop {
            let unread = &self.buffer[self.taken..self.filled];
            if let Some(at) = unread[scanned..].iter().position(|b| *b == b'\n').map(|at| at + scanned) {
                let line = String::from_utf8_lossy(&unread[..at]).into_owned();
                self.taken += at + 1;
                return match line.strip_suffix('\r') {
                    Some(line) => Ok(line.to_owned()),
                    None => Err(ReadError::Malformed(format!("bare LF after {line:?}"))),
                };
            }
            scanned = unread.len();
            if scanned > LINE_MAX {
                return Err(ReadError::Malformed("endless line".into()));
            }
            if self.fill()? == 0 {
                return Err(ReadError::Truncated);
            }
        }
    }

    /// Reads what there is; 0 is a FIN.
    fn fill(&mut self) -> Result<usize, ReadError> {
        if self.taken > 0 {
            self.buffer.copy_within(self.taken..self.filled, 0);
            self.filled -= self.taken;
            self.taken = 0;
        }
        if self.filled == self.buffer.len() {
            self.buffer.resize(2 * self.filled, 0);
        }
        match self.stream.read(&mut self.buffer[self.filled..]) {
            Ok(n) => {
                self.filled += n;
                Ok(n)
            }
            Err(e) if is_timeout(e.kind()) => Err(ReadError::TimedOut),
            Err(_) => Err(ReadError::Truncated),
        }
    }
}

fn is_timeout(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
