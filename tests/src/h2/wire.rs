//! Frames over a socket, with nothing done by itself.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use super::frame::{Frame, code, flag, kind};
use super::hpack::{Fields, Inflate, encode};
use crate::conn::ReadError;
use crate::stream::Stream;

/// What a client says first (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One end of a connection, for tests that say each frame themselves.
#[derive(Debug)]
pub struct Wire {
    /// The socket.
    pub stream: Stream,
    buffer: Vec<u8>,
    inflate: Inflate,
}

impl Wire {
    /// A connection of which nothing has been said yet.
    pub fn new(stream: Stream) -> Wire {
        Wire { stream, buffer: Vec::new(), inflate: Inflate::default() }
    }

    /// Connects, sends the preface and `settings`, and acknowledges the server's.
    pub fn connect(addr: SocketAddr, settings: &[(u16, u32)]) -> Wire {
        let mut wire = Wire::new(Stream::connect(addr).unwrap_or_else(|e| panic!("connect to {addr}: {e}")));
        wire.open(settings);
        wire
    }

    /// Sends the preface and `settings`, and acknowledges the server's.
    pub fn open(&mut self, settings: &[(u16, u32)]) {
        self.send_bytes([PREFACE, &Frame::settings(settings).encode()].concat());
        let first = self.frame();
        assert_eq!((first.kind, first.flags), (kind::SETTINGS, 0), "a server begins with SETTINGS: {first:?}");
        self.send(&Frame::settings_ack());
    }

    /// The server's side of [`Wire::open`]: reads the preface and the client's settings, and sends `settings`.
    pub fn accept(&mut self, settings: &[(u16, u32)]) {
        self.try_preface().expect("a preface");
        self.send(&Frame::settings(settings));
        let first = self.frame();
        assert_eq!((first.kind, first.flags), (kind::SETTINGS, 0), "a client begins with SETTINGS: {first:?}");
        self.send(&Frame::settings_ack());
    }

    /// Reads the preface.
    pub fn try_preface(&mut self) -> Result<(), ReadError> {
        while self.buffer.len() < PREFACE.len() {
            self.fill()?;
        }
        if !self.buffer.starts_with(PREFACE) {
            return Err(ReadError::Malformed(format!("not a preface: {}", self.buffer.escape_ascii())));
        }
        self.buffer.drain(..PREFACE.len());
        Ok(())
    }

    /// Sends a frame.
    ///
    /// # Panics
    /// When the connection is gone.
    pub fn send(&mut self, frame: &Frame) {
        assert!(self.try_send(frame), "the peer closed the connection before {frame:?}");
    }

    /// Sends a frame; `false` when the connection is gone.
    pub fn try_send(&mut self, frame: &Frame) -> bool {
        self.stream.write_all(&frame.encode()).is_ok()
    }

    /// Sends any bytes.
    pub fn send_bytes(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("the peer closed the connection");
    }

    /// Sends any bytes; `false` when the connection is gone.
    pub fn try_send_bytes(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// Sends HEADERS with `fields`.
    pub fn send_fields(&mut self, stream: u32, fields: &[(&str, &str)], end: bool) {
        self.send(&Frame::headers(stream, &encode(fields), end));
    }

    /// Reads a frame.
    ///
    /// # Panics
    /// When none comes.
    pub fn frame(&mut self) -> Frame {
        self.try_frame().unwrap_or_else(|e| panic!("no frame: {e:?}"))
    }

    /// Reads a frame.
    pub fn try_frame(&mut self) -> Result<Frame, ReadError> {
        while self.buffer.len() < 9 {
            self.fill()?;
        }
        let length = u32::from_be_bytes([0, self.buffer[0], self.buffer[1], self.buffer[2]]) as usize;
        while self.buffer.len() < 9 + length {
            self.fill()?;
        }
        let stream = u32::from_be_bytes(self.buffer[5..9].try_into().expect("four bytes"));
        let frame = Frame::new(self.buffer[3], self.buffer[4], stream, &self.buffer[9..9 + length]);
        self.buffer.drain(..9 + length);
        Ok(frame)
    }

    /// Reads frames until `wanted` takes one, and returns that. SETTINGS and PING are acknowledged on the way.
    pub fn until(&mut self, what: &str, mut wanted: impl FnMut(&Frame) -> bool) -> Frame {
        loop {
            let frame = self.try_frame().unwrap_or_else(|e| panic!("waited in vain for {what}: {e:?}"));
            if wanted(&frame) {
                return frame;
            }
            self.acknowledge(&frame);
        }
    }

    /// Reads the fields of the next HEADERS on `stream`, passing over other frames.
    pub fn fields(&mut self, stream: u32) -> Fields {
        let frame = self.until("HEADERS", |frame| frame.kind == kind::HEADERS && frame.stream == stream);
        self.decode(&frame)
    }

    /// The fields of a HEADERS frame, and of the CONTINUATIONs that follow it. Each block must be decoded, in order.
    pub fn decode(&mut self, frame: &Frame) -> Fields {
        let mut block = block_of(frame);
        let mut last = frame.has(flag::END_HEADERS);
        while !last {
            let next = self.frame();
            assert_eq!((next.kind, next.stream), (kind::CONTINUATION, frame.stream), "{next:?} amid a block");
            last = next.has(flag::END_HEADERS);
            block.extend_from_slice(&next.payload);
        }
        self.inflate.decode(&block).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Does what a peer owes to SETTINGS and PING.
    pub fn acknowledge(&mut self, frame: &Frame) {
        match (frame.kind, frame.flags) {
            (kind::SETTINGS, 0) => _ = self.try_send(&Frame::settings_ack()),
            (kind::PING, 0) => {
                let _ = self.try_send(&Frame::new(kind::PING, flag::ACK, 0, frame.payload.clone()));
            }
            _ => {}
        }
    }

    /// Reads to the connection's end; the code of the last GOAWAY before it, if there was one.
    ///
    /// # Panics
    /// When it does not end within the deadline.
    pub fn end(&mut self) -> Option<u32> {
        let mut said = None;
        loop {
            match self.try_frame() {
                Ok(frame) if frame.kind == kind::GOAWAY => said = Some(frame.number(4)),
                Ok(frame) => self.acknowledge(&frame),
                Err(ReadError::TimedOut) => panic!("the connection is still open, after GOAWAY {said:?}"),
                Err(_) => return said,
            }
        }
    }

    /// A PING that comes back: everything sent before it has been read. Other frames are passed over.
    pub fn round_trip(&mut self) {
        self.send(&Frame::ping(*b"are-you-"));
        self.until("PING", |frame| frame.kind == kind::PING && frame.has(flag::ACK));
    }

    /// Whether the peer ends the stream with RST_STREAM: its code. `None` when the connection ends.
    pub fn reset_of(&mut self, stream: u32) -> Option<u32> {
        loop {
            match self.try_frame() {
                Ok(frame) if frame.kind == kind::RST_STREAM && frame.stream == stream => return Some(frame.number(0)),
                Ok(frame) if frame.kind == kind::GOAWAY && frame.number(4) != code::NO_ERROR => return None,
                Ok(frame) => self.acknowledge(&frame),
                Err(ReadError::TimedOut) => panic!("stream {stream} is still open"),
                Err(_) => return None,
            }
        }
    }

    /// Sets how long one read or write may take.
    pub fn patience(&self, patience: Duration) {
        self.stream.set_patience(patience);
    }

    fn fill(&mut self) -> Result<(), ReadError> {
        let mut block = [0; 32 * 1024];
        match self.stream.read(&mut block) {
            Ok(0) if self.buffer.is_empty() => Err(ReadError::Closed),
            Ok(0) => Err(ReadError::Truncated),
            Ok(count) => {
                self.buffer.extend_from_slice(&block[..count]);
                Ok(())
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Err(ReadError::TimedOut),
            Err(_) => Err(ReadError::Closed),
        }
    }
}

/// The part of a HEADERS frame's payload that belongs to the block.
pub fn block_of(frame: &Frame) -> Vec<u8> {
    let padding = if frame.has(flag::PADDED) { usize::from(frame.payload[0]) } else { 0 };
    let start = usize::from(frame.has(flag::PADDED)) + if frame.has(flag::PRIORITY) { 5 } else { 0 };
    frame.payload[start..frame.payload.len() - padding].to_vec()
}
