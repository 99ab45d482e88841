//! A message as it goes out.

use std::io;

use crate::net::{Buf, HANDED_OVER, SMALL, SpliceTo, Until};
use crate::proto::h1::chunked::{self, LAST_CHUNK};
use crate::proto::head::Headers;
use crate::tls::Writer;

/// How the body's end is marked on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// By the length in the head, by the end of the connection, or there is no body: bytes go out as they are.
    Identity,
    /// In chunks.
    Chunked,
    /// No message but a tunnel: bytes go out as they are, and the end of them is the end of our direction.
    Tunnel,
}

/// Writes one message. The head waits in a buffer for the first bytes of the body, so that a small message is one
/// send; [`Sink::flush`] is for when the body keeps us waiting.
pub struct Sink<'a> {
    writer: &'a mut Writer,
    held: Buf,
    framing: Framing,
    sent: u64,
    hands_over: bool,
}

impl<'a> Sink<'a> {
    /// Nothing is written yet.
    pub fn new(writer: &'a mut Writer) -> Sink<'a> {
        Sink { writer, held: Buf::default(), framing: Framing::Identity, sent: 0, hands_over: false }
    }

    /// The writing end of a tunnel: what it finishes is our direction of the connection, in order.
    pub fn tunnel(writer: &'a mut Writer) -> Sink<'a> {
        Sink { framing: Framing::Tunnel, ..Sink::new(writer) }
    }

    /// Holds a head that `encode` writes; the body follows in `framing`.
    pub fn start(&mut self, framing: Framing, encode: impl FnOnce(&mut Vec<u8>)) {
        if !self.held.is_allocated() {
            self.held = Buf::take(SMALL);
        }
        self.framing = framing;
        self.held.append_with(encode);
    }

    /// Does not wait until the kernel has taken the end of a small message: the connection stays open, and its next send or
    /// its end will.
    pub fn hand_over_end(&mut self) {
        self.hands_over = true;
    }

    /// Payload bytes written, held ones included.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Writes payload bytes.
    pub async fn data(&mut self, mut frame: Buf, until: &Until<'_>) -> io::Result<()> {
        if frame.is_empty() {
            return Ok(());
        }
        self.sent += frame.len() as u64;
        if self.framing == Framing::Chunked {
            let mut room = [0; 18];
            let prefix = chunked::chunk_prefix(frame.len(), &mut room);
            frame.prepend(prefix);
            frame.extend(b"\r\n");
        }
        if !self.held.is_empty() && frame.len() <= self.held.room() {
            self.held.extend(frame.as_slice());
            return Ok(());
        }
        self.flush(until).await?;
        self.writer.send(frame, until).await
    }

    /// The socket's half and the count of payload bytes, where this is a tunnel's end with nothing but TCP below it and
    /// nothing is held.
    pub fn splice_to(&mut self) -> Option<SpliceTo<'_>> {
        match (self.framing, &mut *self.writer) {
            (Framing::Tunnel, Writer::Plain(writer)) if self.held.is_empty() => {
                Some(SpliceTo { writer, sent: &mut self.sent })
            }
            _ => None,
        }
    }

    /// Sends what is held.
    pub async fn flush(&mut self, until: &Until<'_>) -> io::Result<()> {
        match self.held.is_empty() {
            true => Ok(()),
            false => self.writer.send(std::mem::take(&mut self.held), until).await,
        }
    }

    /// Ends the message, or our direction of a tunnel, and sends all of it.
    pub async fn finish(&mut self, trailers: &Headers, until: &Until<'_>) -> io::Result<()> {
        if self.framing == Framing::Chunked {
            if !self.held.is_allocated() {
                self.held = Buf::take(SMALL);
            }
            self.held.append_with(|out| match trailers.is_empty() {
                true => out.extend_from_slice(LAST_CHUNK),
                false => chunked::encode_trailers(trailers, out),
            });
        }
        if self.hands_over && (1..=HANDED_OVER).contains(&self.held.len()) {
            self.writer.send_last(self.held.as_slice(), until).await?;
            self.held = Buf::default();
            return Ok(());
        }
        self.flush(until).await?;
        if self.framing == Framing::Tunnel {
            self.writer.finish(until).await;
        }
        Ok(())
    }
}
