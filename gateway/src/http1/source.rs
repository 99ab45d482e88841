//! A message body as it comes in.

use std::io;

use crate::net::{Buf, SpliceFrom, TINY, Until};
use crate::proto::h1::chunked::Decoder;
use crate::proto::head::{BodyLength, Headers};
use crate::tls::Reader;

/// How much of a body is still to come. That of an origin's connection is used for one answer after the other.
#[derive(Default)]
pub struct BodyState {
    framing: Framing,
    decoder: Decoder,
    received: u64,
}

#[derive(Default)]
enum Framing {
    #[default]
    Done,
    Length(u64),
    Chunked,
    UntilClose,
    Tunnel,
}

impl BodyState {
    /// Begins the body of the message whose head has just been parsed.
    pub fn begin(&mut self, body: BodyLength) {
        self.received = 0;
        // Whatever the framing: the trailers of the message before must not be taken for this one's.
        self.decoder.reset();
        self.framing = match body {
            BodyLength::Empty | BodyLength::Known(0) => Framing::Done,
            BodyLength::Known(length) => Framing::Length(length),
            BodyLength::UntilClose => Framing::UntilClose,
            BodyLength::Streamed => Framing::Chunked,
        };
    }

    /// Begins a tunnel: all that comes from now on, until the peer ends its direction.
    pub fn begin_tunnel(&mut self) {
        self.begin(BodyLength::Empty);
        self.framing = Framing::Tunnel;
    }

    /// Whether the whole body has been taken.
    pub fn is_done(&self) -> bool {
        matches!(self.framing, Framing::Done)
    }

    /// Payload bytes taken so far.
    pub fn received(&self) -> u64 {
        self.received
    }
}

/// Reads one body. Dropping a future of [`Source::next`] loses nothing.
pub struct Source<'a> {
    reader: &'a mut Reader,
    state: &'a mut BodyState,
}

impl<'a> Source<'a> {
    /// The body that `state` describes, on this connection.
    pub fn new(reader: &'a mut Reader, state: &'a mut BodyState) -> Source<'a> {
        Source { reader, state }
    }

    /// The reading end of a tunnel.
    pub fn tunnel(reader: &'a mut Reader, state: &'a mut BodyState) -> Source<'a> {
        state.begin_tunnel();
        reader.adapt();
        Source { reader, state }
    }

    /// Payload bytes taken so far.
    pub fn received(&self) -> u64 {
        self.state.received
    }

    /// Whether the whole body has been taken.
    pub fn is_done(&self) -> bool {
        self.state.is_done()
    }

    /// Whether bytes are there that have not been taken.
    pub fn has_data(&self) -> bool {
        !self.reader.data().is_empty()
    }

    /// The trailers; complete once the body is done.
    pub fn trailers(&self) -> &Headers {
        self.state.decoder.trailers()
    }

    /// The next payload bytes, or `None` at the end of the body.
    ///
    /// [`io::ErrorKind::UnexpectedEof`]: the connection ended first. [`io::ErrorKind::InvalidData`]: broken framing.
    pub async fn next(&mut self, until: &Until<'_>) -> io::Result<Option<Buf>> {
        let frame = match self.state.framing {
            Framing::Done => None,
            Framing::Length(left) => Some(self.next_counted(left, until).await?),
            Framing::Chunked => self.next_chunked(until).await?,
            Framing::UntilClose => {
                self.reader.expect_large(true);
                self.next_until_close(until).await?
            }
            Framing::Tunnel => self.next_until_close(until).await?,
        };
        if let Some(frame) = &frame {
            self.state.received += frame.len() as u64;
        }
        if self.is_done() {
            self.reader.expect_large(false);
        }
        Ok(frame)
    }

    /// The socket's half and the count of payload bytes, where this is a tunnel's end with nothing but TCP below it.
    pub fn splice_from(&mut self) -> Option<SpliceFrom<'_>> {
        match (&self.state.framing, &mut *self.reader) {
            (Framing::Tunnel, Reader::Plain(reader)) => Some(SpliceFrom { reader, received: &mut self.state.received }),
            _ => None,
        }
    }

    /// Waits for the connection to break; see [`Reader::broken`].
    pub async fn broken(&mut self) -> io::Error {
        self.reader.broken().await
    }

    async fn next_counted(&mut self, left: u64, until: &Until<'_>) -> io::Result<Buf> {
        if self.reader.data().is_empty() {
            self.reader.expect_large(left > TINY as u64);
            self.fill(until).await?;
        }
        let have = self.reader.data().len() as u64;
        let frame = if have <= left { self.reader.take() } else { self.take_front(left as usize) };
        self.state.framing = match left - frame.len() as u64 {
            0 => Framing::Done,
            left => Framing::Length(left),
        };
        Ok(frame)
    }

    async fn next_chunked(&mut self, until: &Until<'_>) -> io::Result<Option<Buf>> {
        loop {
            if self.reader.data().is_empty() {
                self.reader.expect_large(true);
                self.fill(until).await?;
            }
            let decoded = self.state.decoder.decode(self.reader.data_mut());
            let decoded = decoded.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            if decoded.done {
                self.state.framing = Framing::Done;
            }
            if decoded.payload == 0 {
                self.reader.consume(decoded.consumed);
                match decoded.done {
                    true => return Ok(None),
                    false => continue,
                }
            }
            if decoded.consumed < self.reader.data().len() {
                let frame = Buf::copy_of(&self.reader.data()[..decoded.payload]);
                self.reader.consume(decoded.consumed);
                return Ok(Some(frame));
            }
            let mut frame = self.reader.take();
            frame.truncate(decoded.payload);
            return Ok(Some(frame));
        }
    }

    async fn next_until_close(&mut self, until: &Until<'_>) -> io::Result<Option<Buf>> {
        if self.reader.data().is_empty() && self.reader.fill(until).await? == 0 {
            self.state.framing = Framing::Done;
            return Ok(None);
        }
        Ok(Some(self.reader.take()))
    }

    async fn fill(&mut self, until: &Until<'_>) -> io::Result<()> {
        match self.reader.fill(until).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    fn take_front(&mut self, n: usize) -> Buf {
        let frame = Buf::copy_of(&self.reader.data()[..n]);
        self.reader.consume(n);
        frame
    }
}
