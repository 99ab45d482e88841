//! One HTTP/1 connection to an origin.

use super::UpstreamError;
use super::pool::Slot;
use crate::http1::{BodyState, Framing, Sink, Source};
use crate::net::Until;
use crate::proto::h1::encode;
use crate::proto::h1::parse::{self, HeadLimits};
use crate::proto::head::{BodyLength, Method, RequestHead, ResponseHead};
use crate::proto::limits;
use crate::tls::{Reader, Writer};

/// A connection and what is known of the message it is in.
pub struct Connection {
    reader: Reader,
    writer: Writer,
    body: BodyState,
    keep_alive: bool,
    reused: bool,
    slot: Slot,
}

impl Connection {
    /// A connection that has served nothing yet.
    pub fn new(reader: Reader, writer: Writer, slot: Slot) -> Connection {
        Connection { reader, writer, body: BodyState::default(), keep_alive: false, reused: false, slot }
    }

    /// Whether it has served a request before.
    pub fn is_reused(&self) -> bool {
        self.reused
    }

    /// Begins a request: where its body goes, and where the answer comes from. The head is held until the body's first
    /// bytes.
    pub fn start(&mut self, head: &RequestHead, websocket: bool) -> (Sink<'_>, Answer<'_>) {
        let framing = match head.body {
            _ if websocket => Framing::Tunnel,
            BodyLength::Streamed | BodyLength::UntilClose => Framing::Chunked,
            BodyLength::Empty | BodyLength::Known(_) => Framing::Identity,
        };
        let mut sink = Sink::new(&mut self.writer);
        sink.start(framing, |out| encode::request(head, out));
        if !websocket {
            sink.hand_over_end();
        }
        let (body, keep_alive) = (&mut self.body, &mut self.keep_alive);
        let answer = Answer { reader: &mut self.reader, body, keep_alive, websocket };
        (sink, answer)
    }

    /// Whether it can serve another request: the origin has taken all of the last one, its answer was read to its end, it
    /// keeps the connection, and it has sent nothing since, which would pass for the next answer. The caller knows whether
    /// there was more of the request.
    pub fn is_reusable(&mut self) -> bool {
        self.keep_alive && self.body.is_done() && self.writer.is_settled() && self.reader.is_quiet()
    }

    /// Marks it as having served a request.
    pub(super) fn rest(&mut self) {
        self.reused = true;
    }

    /// Whether the kernel knows of something that [`Connection::is_reusable`] does not know yet.
    pub(super) fn has_news(&self) -> bool {
        self.reader.is_readable()
    }

    pub(super) fn slot(&self) -> &Slot {
        &self.slot
    }
}

/// The answer's half of a [`Connection`].
pub struct Answer<'a> {
    reader: &'a mut Reader,
    body: &'a mut BodyState,
    keep_alive: &'a mut bool,
    /// Whether a 101 was asked for.
    websocket: bool,
}

impl<'a> Answer<'a> {
    /// Reads the head of the final answer; interim ones (1xx) are passed over.
    pub async fn head(
        &mut self,
        method: &Method,
        head: &mut ResponseHead,
        until: &Until<'_>,
    ) -> Result<(), UpstreamError> {
        *self.keep_alive = false;
        let limits = HeadLimits { bytes: limits::RESPONSE_HEAD_BYTES, count: limits::RESPONSE_HEADER_COUNT };
        let (mut answered, mut seen) = (false, 0);
        loop {
            while parse::may_complete(self.reader.data(), seen, limits) {
                seen = self.reader.data().len();
                let parsed = parse::response(self.reader.data(), limits, method, head);
                let Some(parsed) = parsed.map_err(|error| UpstreamError::Protocol(error.detail()))? else { break };
                self.reader.consume(parsed.consumed);
                seen = 0;
                match head.status {
                    101 if self.websocket => {
                        self.body.begin_tunnel();
                        self.reader.adapt();
                        return Ok(());
                    }
                    // Nobody asked for a change of protocol: `upgrade` is a hop-by-hop field and was not sent.
                    101 => return Err(UpstreamError::Protocol("upstream_unexpected_upgrade")),
                    100..=199 => continue,
                    _ => {}
                }
                *self.keep_alive = parsed.keep_alive;
                self.body.begin(head.body);
                return Ok(());
            }
            match self.reader.fill(until).await {
                Ok(0) => return Err(UpstreamError::Closed { answered }),
                Ok(_) => answered = true,
                Err(error) => return Err(UpstreamError::of_io(&error, answered, until.passed())),
            }
        }
    }

    /// The answer's body, after its head.
    pub fn body(self) -> Source<'a> {
        Source::new(self.reader, self.body)
    }
}
