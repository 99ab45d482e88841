//! Load generators: our own for HTTP/1.1, TLS and byte streams; h2load and the h2 crate for HTTP/2.

pub mod answer;
pub mod conn;
pub mod engine;
pub mod grpc;
pub mod h2load;
pub mod link;
pub mod paced;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use rustls::ClientConfig;

/// What one client connection does again and again.
pub enum Exchange {
    /// A request with a head and so many bytes behind it; its answer is read to the end.
    Http {
        /// The head with its empty line.
        head: Vec<u8>,
        /// Bytes of the request's body.
        body: u64,
    },
    /// A message that comes back: over TCP as it is, over a WebSocket in a frame of the other direction.
    Echo {
        /// Sent once on a new connection and answered with a head, such as a WebSocket's handshake.
        opening: Option<Vec<u8>>,
        /// The message as it is sent.
        message: Vec<u8>,
        /// Its length as it comes back.
        answer: u64,
    },
    /// One request over HTTP/2 without TLS: these bytes are answered with frames.
    Http2(Vec<u8>),
}

/// How long a connection lives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Life {
    /// For all exchanges.
    KeepAlive,
    /// For one.
    OneExchange,
}

/// When an exchange begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// When the one before it on its connection is over.
    Closed,
    /// At its time, whether or not the one before it is over: its latency counts from the time it was due.
    Open {
        /// Exchanges in a second.
        per_second: f64,
    },
    /// Once on each connection, and at most so many at once.
    Once {
        /// Exchanges at once.
        at_once: usize,
    },
}

/// A load.
#[derive(Clone)]
pub struct Plan {
    /// The proxy.
    pub target: SocketAddr,
    /// TLS, if any.
    pub tls: Option<Arc<ClientConfig>>,
    /// Connections at once.
    pub connections: usize,
    /// When exchanges begin.
    pub pace: Pace,
    /// What they are.
    pub exchange: Arc<Exchange>,
    /// How long a connection lives.
    pub life: Life,
    /// After how long a client gives up.
    pub patience: Duration,
}

/// What came of a load.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Exchanges that ended as they should.
    pub done: u64,
    /// Those that did not: refused, cut off, answered with another status.
    pub failed: u64,
    /// Those that were due and had no answer when the time was up, or whose client gave up.
    pub unanswered: u64,
    /// TLS handshakes that resumed a session.
    pub resumed: u64,
    /// Bytes of bodies and messages, both ways.
    pub bytes: u64,
    /// From the start to the last exchange counted.
    pub took: Duration,
    /// From when an exchange was due to its end, in nanoseconds.
    pub latency: Histogram<u64>,
    /// The last failure, for people.
    pub why: Option<String>,
}

impl Default for Outcome {
    fn default() -> Outcome {
        Outcome {
            done: 0,
            failed: 0,
            unanswered: 0,
            resumed: 0,
            bytes: 0,
            took: Duration::ZERO,
            // Up to a minute with three digits.
            latency: Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds in order"),
            why: None,
        }
    }
}

impl Outcome {
    /// Adds what came of the same load later.
    pub fn add(&mut self, later: Outcome) {
        self.done += later.done;
        self.failed += later.failed;
        self.unanswered += later.unanswered;
        self.resumed += later.resumed;
        self.bytes += later.bytes;
        self.took += later.took;
        self.latency += later.latency;
        self.why = later.why.or(self.why.take());
    }
}
