//! One client connection and the exchange it is at.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::answer::{Answer, Frames, Progress};
use super::link::Link;
use super::{Exchange, Plan};

/// What bodies are made of.
const FILL: &[u8] = &[b'x'; 64 * 1024];

/// A connection of a load.
pub struct Conn {
    link: Link,
    exchange: Arc<Exchange>,
    running: Option<Running>,
    /// Whether the opening of an [`Exchange::Echo`] is done.
    opened: bool,
}

/// An exchange on its way.
struct Running {
    due: Instant,
    sent: u64,
    answer: Answer,
}

impl Conn {
    /// Begins to connect.
    pub fn connect(plan: &Plan, source: u8) -> io::Result<Conn> {
        let link = Link::connect(plan.target, source, plan.tls.as_ref())?;
        let exchange = plan.exchange.clone();
        let opened = !matches!(*exchange, Exchange::Echo { opening: Some(_), .. });
        Ok(Conn { link, exchange, running: None, opened })
    }

    /// Its socket.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Since when its exchange has been due, if it is at one.
    pub fn busy_since(&self) -> Option<Instant> {
        self.running.as_ref().map(|running| running.due)
    }

    /// Begins an exchange that was due at `due`.
    pub fn begin(&mut self, due: Instant, body: &mut u64) -> io::Result<()> {
        self.running = Some(Running { due, sent: 0, answer: self.expected() });
        self.send(body)
    }

    /// Sends and reads what it can; when its exchange is over, gives when it was due. `body` counts the bytes of bodies and
    /// messages, both ways. An error ends the connection.
    pub fn advance(&mut self, scratch: &mut [u8], body: &mut u64) -> io::Result<Option<Instant>> {
        self.send(body)?;
        match self.receive(scratch, body)? {
            Progress::More => {
                // What was read may have been the end of a TLS handshake, for which the rest was waiting.
                self.send(body)?;
                return Ok(None);
            }
            Progress::Acknowledge { ended } => {
                self.link.write(&Frames::ACKNOWLEDGEMENT)?;
                if !ended {
                    return Ok(None);
                }
            }
            Progress::Over => {}
        }
        let Some(done) = self.running.take() else { return Ok(None) };
        let (head, tail) = outgoing(&self.exchange, self.opened);
        if done.sent < head.len() as u64 + tail {
            return Err(io::Error::other("answered before all was sent"));
        }
        if self.opened {
            return Ok(Some(done.due));
        }
        self.opened = true;
        self.begin(done.due, body)?;
        Ok(None)
    }

    fn send(&mut self, body: &mut u64) -> io::Result<()> {
        let (head, tail) = outgoing(&self.exchange, self.opened);
        let (length, end) = (head.len() as u64, head.len() as u64 + tail);
        loop {
            let sent = self.running.as_ref().map_or(end, |running| running.sent);
            let piece = if sent < length {
                &head[sent as usize..]
            } else {
                // Maybe nothing; then what TLS still holds is sent.
                &FILL[..(end - sent).min(FILL.len() as u64) as usize]
            };
            let taken = self.link.write(piece)? as u64;
            match &mut self.running {
                Some(running) if taken > 0 => running.sent += taken,
                _ => return Ok(()),
            }
            if sent >= length {
                *body += taken;
            }
        }
    }

    fn receive(&mut self, scratch: &mut [u8], body: &mut u64) -> io::Result<Progress> {
        let mut progress = Progress::More;
        let running = &mut self.running;
        self.link.read(scratch, |bytes| {
            let Some(running) = running else {
                return Err(io::Error::other("bytes that nobody asked for"));
            };
            progress = running.answer.take(bytes, body)?;
            Ok(progress == Progress::More)
        })?;
        Ok(progress)
    }

    fn expected(&self) -> Answer {
        match &*self.exchange {
            Exchange::Http { .. } => Answer::Head { bytes: Vec::new(), status: 200 },
            Exchange::Echo { .. } if !self.opened => Answer::Head { bytes: Vec::new(), status: 101 },
            Exchange::Echo { answer, .. } => Answer::Bytes(*answer),
            Exchange::Http2(_) => Answer::Frames(Frames::default()),
        }
    }
}

/// What a connection sends for an exchange: some bytes, then so many of [`FILL`].
fn outgoing(exchange: &Exchange, opened: bool) -> (&[u8], u64) {
    match exchange {
        Exchange::Http { head, body } => (head, *body),
        Exchange::Echo { opening: Some(opening), .. } if !opened => (opening, 0),
        Exchange::Echo { message, .. } => (message, 0),
        Exchange::Http2(opening) => (opening, 0),
    }
}
