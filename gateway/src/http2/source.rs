//! A message body as it comes in.

use std::io;
use std::task::{Context, Poll};

use h2::RecvStream;

use super::{head, to_io};
use crate::net::{Buf, HEADROOM, LARGE, SMALL, Until};
use crate::proto::head::Headers;

/// Room that a frame of the usual size needs: one more is taken into a buffer only when it fits.
const FRAME: usize = 16 * 1024;

/// Reads one body. Dropping a future of [`Source::next`] loses nothing.
pub struct Source {
    stream: RecvStream,
    trailers: Headers,
    state: State,
    received: u64,
}

enum State {
    Open,
    Trailers,
    Done,
    /// Found behind bytes that had to go first.
    Failed(h2::Error),
}

impl Source {
    /// The body of the message whose head came on this stream. `ended`: that was all of it.
    pub fn new(stream: RecvStream, ended: bool) -> Source {
        let state = if ended { State::Done } else { State::Open };
        Source { stream, trailers: Headers::default(), state, received: 0 }
    }

    /// Payload bytes taken so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Whether the whole body has been taken.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Whether bytes are there that have not been taken.
    pub fn has_data(&mut self) -> bool {
        self.stream.flow_control().used_capacity() > 0
    }

    /// The trailers; complete once the body is done.
    pub fn trailers(&self) -> &Headers {
        &self.trailers
    }

    /// The next payload bytes, or `None` at the end of the body. Frames that are there go together, so that what comes
    /// in many small ones goes out in one.
    pub async fn next(&mut self, until: &Until<'_>) -> io::Result<Option<Buf>> {
        if self.is_done() {
            return Ok(None);
        }
        let frame = std::future::poll_fn(|cx| match self.poll_next(cx) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => until.poll_passed(cx).map(Err),
        });
        frame.await.inspect(|_| until.progress())
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Buf>>> {
        let mut gathered = Buf::default();
        loop {
            match std::mem::replace(&mut self.state, State::Open) {
                State::Open => match self.stream.poll_data(cx) {
                    Poll::Ready(Some(Ok(bytes))) => {
                        // What is taken is with one buffer at most, so the sender may send as much again.
                        let _ = self.stream.flow_control().release_capacity(bytes.len());
                        self.received += bytes.len() as u64;
                        append(&mut gathered, &bytes);
                        if gathered.room() < FRAME {
                            return Poll::Ready(Ok(Some(gathered)));
                        }
                    }
                    Poll::Ready(Some(Err(error))) => self.state = State::Failed(error),
                    Poll::Ready(None) => self.state = State::Trailers,
                    Poll::Pending if gathered.is_empty() => return Poll::Pending,
                    Poll::Pending => return Poll::Ready(Ok(Some(gathered))),
                },
                // The bytes that were before these go first.
                state if !gathered.is_empty() => {
                    self.state = state;
                    return Poll::Ready(Ok(Some(gathered)));
                }
                State::Trailers => match self.stream.poll_trailers(cx) {
                    Poll::Ready(Ok(trailers)) => {
                        trailers.iter().for_each(|trailers| head::read_trailers(trailers, &mut self.trailers));
                        self.state = State::Done;
                    }
                    Poll::Ready(Err(error)) => self.state = State::Failed(error),
                    Poll::Pending => {
                        self.state = State::Trailers;
                        return Poll::Pending;
                    }
                },
                State::Done => {
                    self.state = State::Done;
                    return Poll::Ready(Ok(None));
                }
                State::Failed(error) => return Poll::Ready(Err(to_io(error))),
            }
        }
    }
}

fn append(gathered: &mut Buf, bytes: &[u8]) {
    if !gathered.is_allocated() {
        *gathered = Buf::take_to_fill(if bytes.len() + 2 * HEADROOM > SMALL { LARGE } else { SMALL });
    } else if gathered.room() < bytes.len() {
        gathered.reserve(LARGE / 2);
    }
    gathered.extend(bytes);
}
