//! A constant load that accounts for every request.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;

use crate::client;
use crate::conn::{Conn, ReadError};
use crate::stream::Stream;
use crate::wait;

/// What to send.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where to.
    pub addr: SocketAddr,
    /// How many clients send at the same time.
    pub clients: usize,
    /// Most requests one client sends; [`Running::stop`] ends them before.
    pub requests: u64,
    /// How clients use connections.
    pub mode: Mode,
    /// What they ask for.
    pub path: String,
}

/// How clients use connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One for all requests, for as long as the gateway keeps it.
    KeepAlive,
    /// A new one for each request.
    NewConnections,
}

/// What became of the requests: `sent = answered + Σ failures`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Requests begun, each with a connection to send it on or an attempt to get one.
    pub sent: u64,
    /// Whole answers with status 200.
    pub answered: u64,
    /// Connections that the gateway announced to close (`Connection: close`) and closed.
    pub closed_politely: u64,
    /// All others, by kind.
    pub failures: BTreeMap<Failure, u64>,
}

/// What went wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// Nobody listens. Ends the client.
    Refused,
    /// No connection for another reason.
    NoConnection(ErrorKind),
    /// The connection ended before the answer's first byte.
    Unanswered,
    /// The connection ended within the answer.
    Truncated,
    /// No answer in time.
    TimedOut,
    /// An answer that is not HTTP.
    Malformed(String),
    /// A status other than 200.
    Status(u16),
}

impl Report {
    /// How many requests failed in this way.
    pub fn failed(&self, failure: &Failure) -> u64 {
        self.failures.get(failure).copied().unwrap_or(0)
    }

    fn add(mut self, other: Report) -> Report {
        self.sent += other.sent;
        self.answered += other.answered;
        self.closed_politely += other.closed_politely;
        for (failure, count) in other.failures {
            *self.failures.entry(failure).or_default() += count;
        }
        self
    }
}

/// A load that is going on.
#[derive(Debug)]
pub struct Running {
    stopping: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Report>>,
}

impl Load {
    /// Starts all clients.
    pub fn start(self) -> Running {
        let (stopping, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients = (0..self.clients)
            .map(|_| {
                let (load, stopping, answered) = (self.clone(), stopping.clone(), answered.clone());
                std::thread::spawn(move || load.run_client(&stopping, &answered))
            })
            .collect();
        Running { stopping, answered, clients }
    }

    fn run_client(&self, stopping: &AtomicBool, answered: &AtomicU64) -> Report {
        let mut report = Report::default();
        let mut conn = None;
        while report.sent < self.requests && !stopping.load(SeqCst) {
            report.sent += 1;
            match self.exchange(&mut conn, &mut report) {
                Ok(()) => {
                    report.answered += 1;
                    answered.fetch_add(1, SeqCst);
                }
                Err(failure) => {
                    let refused = failure == Failure::Refused;
                    *report.failures.entry(failure).or_default() += 1;
                    if refused {
                        break;
                    }
                }
            }
        }
        report
    }

    /// One request and its answer, on `kept` or a new connection.
    fn exchange(&self, kept: &mut Option<Conn>, report: &mut Report) -> Result<(), Failure> {
        let mut conn = match kept.take() {
            Some(conn) => conn,
            None => Conn::new(Stream::connect(self.addr).map_err(no_connection)?, 0),
        };
        // When the write fails, the read finds out how the connection ended, and whether an answer came before that.
        conn.try_send(client::request("GET", &self.path, ""));
        let response = conn.try_response_to("GET").map_err(unread)?;
        if response.closes() {
            report.closed_politely += 1;
        } else if self.mode == Mode::KeepAlive {
            *kept = Some(conn);
        }
        if response.status == 200 { Ok(()) } else { Err(Failure::Status(response.status)) }
    }
}

impl Running {
    /// Waits until `count` more requests than now have been answered.
    pub fn wait_answered(&self, count: u64) {
        let goal = self.answered.load(SeqCst) + count;
        wait::until_true("more requests to be answered", || {
            self.answered.load(SeqCst) >= goal || self.clients.iter().all(JoinHandle::is_finished)
        });
    }

    /// Has every client finish the request it is at, and counts.
    pub fn stop(self) -> Report {
        self.stopping.store(true, SeqCst);
        self.finish()
    }

    /// Waits until every client has sent its last request, and counts.
    pub fn finish(self) -> Report {
        let reports = self.clients.into_iter().map(|client| client.join().expect("a client"));
        let report = reports.fold(Report::default(), Report::add);
        let failed: u64 = report.failures.values().sum();
        assert_eq!(report.sent, report.answered + failed, "a request is unaccounted for: {report:?}");
        report
    }
}

fn no_connection(error: std::io::Error) -> Failure {
    match error.kind() {
        ErrorKind::ConnectionRefused => Failure::Refused,
        kind => Failure::NoConnection(kind),
    }
}

fn unread(error: ReadError) -> Failure {
    match error {
        ReadError::Closed => Failure::Unanswered,
        ReadError::Truncated | ReadError::Reset(_) => Failure::Truncated,
        ReadError::TimedOut => Failure::TimedOut,
        ReadError::Malformed(text) => Failure::Malformed(text),
    }
}
