//! A message body as it goes out.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use h2::{Reason, SendStream};

use super::{Frame, head, to_io};
use crate::net::{Buf, SMALL, Until};
use crate::proto::head::Headers;

pub use super::frame::Flight;

/// Writes one body after its head. The last frame waits for the end of the body, so that they go together;
/// [`Sink::flush`] is for when the body keeps us waiting.
pub struct Sink {
    stream: SendStream<Frame>,
    flight: Rc<Flight>,
    held: Buf,
    sent: u64,
}

impl Sink {
    /// The head has been given to h2.
    pub fn new(stream: SendStream<Frame>) -> Sink {
        Sink { stream, flight: Rc::default(), held: Buf::default(), sent: 0 }
    }

    /// The stream, for watching over it.
    pub fn stream(&mut self) -> &mut SendStream<Frame> {
        &mut self.stream
    }

    /// Payload bytes written, held ones included.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Waits until h2 has written what it was given. How much a stream holds is then one frame, whatever windows the
    /// peer opens and however little it reads.
    pub async fn ready(&self, until: &Until<'_>) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_ready(cx, until)).await
    }

    /// As [`Sink::ready`], for who cannot lend it for the time of a wait.
    pub fn poll_ready(&self, cx: &mut Context<'_>, until: &Until<'_>) -> Poll<io::Result<()>> {
        match self.flight.poll_landed(cx) {
            Poll::Ready(waited) => {
                if waited {
                    until.progress();
                }
                Poll::Ready(Ok(()))
            }
            Poll::Pending => until.poll_passed(cx).map(Err),
        }
    }

    /// Takes payload bytes.
    pub fn data(&mut self, frame: Buf) -> io::Result<()> {
        if frame.is_empty() {
            return Ok(());
        }
        self.sent += frame.len() as u64;
        let before = std::mem::replace(&mut self.held, frame);
        if before.is_empty() { Ok(()) } else { self.send(before, false) }
    }

    /// Gives what is held to h2.
    pub fn flush(&mut self) -> io::Result<()> {
        match std::mem::take(&mut self.held) {
            held if held.is_empty() => Ok(()),
            held => self.send(held, false),
        }
    }

    /// Ends the body. Says whether that is worth waiting for ([`Sink::ready`]): a long end needs a deadline that watches
    /// over it, a short one is left to the connection.
    pub fn finish(&mut self, trailers: &Headers) -> io::Result<bool> {
        if trailers.is_empty() {
            let held = std::mem::take(&mut self.held);
            self.send(held, true)?;
        } else {
            self.flush()?;
            self.stream.send_trailers(head::write_fields(trailers)).map_err(to_io)?;
        }
        Ok(self.flight.bytes() > SMALL)
    }

    /// Ends the stream so that the peer cannot take what it has got for the whole.
    pub fn reset(&mut self, reason: Reason) {
        self.stream.send_reset(reason);
    }

    fn send(&mut self, buf: Buf, end: bool) -> io::Result<()> {
        self.stream.send_data(Frame::new(buf, &self.flight), end).map_err(to_io)
    }
}
