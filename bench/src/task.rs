//! What a proxy is to do: said once, and written as each peer's configuration by `peer/`.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::certs::{Files, Key};

/// What clients speak.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Front {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 without TLS, from the first byte on.
    Http2,
    /// Any bytes.
    Tcp,
}

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Back {
    /// An origin over HTTP/1.1.
    Http1,
    /// An origin over HTTP/2 without TLS.
    Http2,
    /// An origin that sends back what comes.
    Tcp,
    /// The proxy itself.
    Own,
}

/// One proxy's work.
#[derive(Clone, Copy, Debug)]
pub struct Task {
    /// What clients speak.
    pub front: Front,
    /// The key of the certificate, with TLS 1.3.
    pub tls: Option<Key>,
    /// Who answers.
    pub back: Back,
    /// A line for each request, in a file.
    pub access_log: bool,
    /// Routes by prefix of the path; see [`Task::path_of`]. With 0 one route takes everything.
    pub routes: usize,
    /// Header edits of both heads.
    pub filters: bool,
    /// A rate limit for all requests together and one by client address, which refuse nothing.
    pub rate_limits: bool,
    /// Requests may become WebSockets.
    pub websocket: bool,
    /// It has to take a new configuration while it runs.
    pub reloads: bool,
}

impl Task {
    /// HTTP/1.1 on both sides and nothing else.
    pub const PLAIN: Task = Task {
        front: Front::Http1,
        tls: None,
        back: Back::Http1,
        access_log: false,
        routes: 0,
        filters: false,
        rate_limits: false,
        websocket: false,
        reloads: false,
    };

    /// The prefix of route `n`.
    pub fn path_of(n: usize) -> String {
        format!("/api/v1/team-{}/service-{n}/", n % 97)
    }

    /// All prefixes, or `/`.
    pub fn prefixes(&self) -> Vec<String> {
        if self.routes == 0 { vec!["/".into()] } else { (0..self.routes).map(Task::path_of).collect() }
    }
}

/// Where things are for one run of one proxy.
#[derive(Clone, Debug)]
pub struct Places {
    /// For configuration, logs and what else the proxy writes.
    pub dir: PathBuf,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Who is behind it.
    pub origin: SocketAddr,
    /// Its certificate, where the task has TLS.
    pub certificate: Option<Files>,
    /// Connections and files it may open.
    pub descriptors: u64,
}

/// The body of answers that the proxy gives itself.
pub const OWN_BODY: &str = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
/// How long silent connections stay, in seconds: longer than any scenario.
pub const IDLE_SECONDS: u32 = 300;
/// Idle connections to the origin that are kept.
pub const POOL: u32 = 1024;
