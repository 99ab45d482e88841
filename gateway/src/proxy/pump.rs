//! The one body pump: from whatever a body comes in to whatever it goes out by, with back-pressure.
//!
//! A frame is read only when the one before it was taken by the other side, so a slow reader slows the writer down and
//! a body of any size needs the memory of a frame or two.

// A worker's futures stay on its thread, so nobody needs them to be `Send`.
#![allow(async_fn_in_trait)]

use std::future::Future;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use crate::http1;
use crate::net::{self, Buf, LARGE, SpliceError, SpliceFrom, SpliceTo, Until};
use crate::proto::head::Headers;
use crate::upstream::{AnswerBody, RequestSink};

/// Where a body comes from. Dropping a future of [`BodySource::next`] loses nothing.
pub trait BodySource {
    /// The next bytes; `None` at the end.
    async fn next(&mut self, until: &Until<'_>) -> io::Result<Option<Buf>>;
    /// The trailers; complete at the end.
    fn trailers(&self) -> &Headers;
    /// The socket, where the rest of this body may be spliced from it: a tunnel over plain TCP.
    fn splice_from(&mut self) -> Option<SpliceFrom<'_>> {
        None
    }
}

/// Where a body goes to. What is written may be held until [`BodySink::flush`] or [`BodySink::finish`].
pub trait BodySink {
    /// Waits until there is room for another frame. A source is not asked for one before, so what a slow reader makes us
    /// hold is what it was given.
    async fn ready(&mut self, until: &Until<'_>) -> io::Result<()>;
    /// Writes bytes.
    async fn data(&mut self, frame: Buf, until: &Until<'_>) -> io::Result<()>;
    /// Sends what is held.
    async fn flush(&mut self, until: &Until<'_>) -> io::Result<()>;
    /// Ends the body.
    async fn finish(&mut self, trailers: &Headers, until: &Until<'_>) -> io::Result<()>;
    /// The socket, where bytes may be spliced to it now: a tunnel over plain TCP that holds nothing.
    fn splice_to(&mut self) -> Option<SpliceTo<'_>> {
        None
    }
}

/// Which side a pump failed on.
#[derive(Debug)]
pub enum PumpError {
    /// The body could not be read.
    Source(io::Error),
    /// The body could not be written.
    Sink(io::Error),
    /// The body is longer than it may be.
    TooLong,
}

/// Moves a whole body of at most `limit` bytes.
pub async fn pump(
    source: &mut impl BodySource,
    sink: &mut impl BodySink,
    limit: u64,
    until: &Until<'_>,
) -> Result<(), PumpError> {
    let mut left = limit;
    loop {
        sink.ready(until).await.map_err(PumpError::Sink)?;
        let frame = match now(source.next(until)) {
            Some(frame) => frame,
            None => {
                // The body keeps us waiting: the other side should not wait for what is already here.
                sink.flush(until).await.map_err(PumpError::Sink)?;
                source.next(until).await
            }
        };
        match frame.map_err(PumpError::Source)? {
            Some(frame) if frame.len() as u64 > left => return Err(PumpError::TooLong),
            Some(frame) => {
                left -= frame.len() as u64;
                let is_stream = frame.capacity() == LARGE && frame.room() == 0;
                sink.data(frame, until).await.map_err(PumpError::Sink)?;
                if is_stream {
                    splice(source, sink, until).await?;
                }
            }
            None => return sink.finish(source.trailers(), until).await.map_err(PumpError::Sink),
        }
    }
}

/// Moves more of a large stream without looking at it, where both sides allow that. No tunnel has a limit to count it under.
async fn splice(source: &mut impl BodySource, sink: &mut impl BodySink, until: &Until<'_>) -> Result<(), PumpError> {
    let (Some(from), Some(to)) = (source.splice_from(), sink.splice_to()) else { return Ok(()) };
    // Boxed, so that a tunnel that carries no stream keeps no room for it.
    Box::pin(net::splice(from, to, until)).await.map_err(|error| match error {
        SpliceError::From(error) => PumpError::Source(error),
        SpliceError::To(error) => PumpError::Sink(error),
    })
}

/// The future's result, if it has one already.
fn now<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(std::task::Waker::noop())) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

impl BodySource for http1::Source<'_> {
    async fn next(&mut self, until: &Until<'_>) -> io::Result<Option<Buf>> {
        http1::Source::next(self, until).await
    }

    fn trailers(&self) -> &Headers {
        http1::Source::trailers(self)
    }

    fn splice_from(&mut self) -> Option<SpliceFrom<'_>> {
        http1::Source::splice_from(self)
    }
}

impl BodySink for http1::Sink<'_> {
    async fn ready(&mut self, _: &Until<'_>) -> io::Result<()> {
        Ok(())
    }

    async fn data(&mut self, frame: Buf, until: &Until<'_>) -> io::Result<()> {
        http1::Sink::data(self, frame, until).await
    }

    async fn flush(&mut self, until: &Until<'_>) -> io::Result<()> {
        http1::Sink::flush(self, until).await
    }

    async fn finish(&mut self, trailers: &Headers, until: &Until<'_>) -> io::Result<()> {
        http1::Sink::finish(self, trailers, until).await
    }

    fn splice_to(&mut self) -> Option<SpliceTo<'_>> {
        http1::Sink::splice_to(self)
    }
}

impl BodySource for AnswerBody<'_> {
    async fn next(&mut self, until: &Until<'_>) -> io::Result<Option<Buf>> {
        match self {
            AnswerBody::H1(source) => source.next(until).await,
            AnswerBody::H2(source) => source.next(until).await,
        }
    }

    fn trailers(&self) -> &Headers {
        match self {
            AnswerBody::H1(source) => source.trailers(),
            AnswerBody::H2(source) => source.trailers(),
        }
    }

    fn splice_from(&mut self) -> Option<SpliceFrom<'_>> {
        match self {
            AnswerBody::H1(source) => source.splice_from(),
            AnswerBody::H2(_) => None,
        }
    }
}

impl BodySink for RequestSink<'_> {
    async fn ready(&mut self, until: &Until<'_>) -> io::Result<()> {
        match self {
            RequestSink::H2(Some(sink)) => sink.ready(until).await,
            RequestSink::H1(_) | RequestSink::H2(None) => Ok(()),
        }
    }

    async fn data(&mut self, frame: Buf, until: &Until<'_>) -> io::Result<()> {
        match self {
            RequestSink::H1(sink) => sink.data(frame, until).await,
            RequestSink::H2(Some(sink)) => sink.data(frame),
            RequestSink::H2(None) => Ok(()),
        }
    }

    async fn flush(&mut self, until: &Until<'_>) -> io::Result<()> {
        match self {
            RequestSink::H1(sink) => sink.flush(until).await,
            RequestSink::H2(Some(sink)) => sink.flush(),
            RequestSink::H2(None) => Ok(()),
        }
    }

    async fn finish(&mut self, trailers: &Headers, until: &Until<'_>) -> io::Result<()> {
        match self {
            RequestSink::H1(sink) => sink.finish(trailers, until).await,
            RequestSink::H2(Some(sink)) => match sink.finish(trailers)? {
                true => sink.ready(until).await,
                false => Ok(()),
            },
            RequestSink::H2(None) => Ok(()),
        }
    }

    fn splice_to(&mut self) -> Option<SpliceTo<'_>> {
        match self {
            RequestSink::H1(sink) => sink.splice_to(),
            RequestSink::H2(_) => None,
        }
    }
}
