//! The load scenarios, as data.

use crate::certs::Key;
use crate::load::h2load::Streams;
use crate::peer::Peer;
use crate::task::{Back, Front, Task};

/// A scenario: who does what, and under which load.
pub struct Scenario {
    /// What the command line calls it.
    pub name: String,
    /// One line for people.
    pub about: String,
    /// Who is compared.
    pub contestants: Vec<Contestant>,
    /// What is asked of each.
    pub load: Load,
}

/// A proxy and its task.
#[derive(Clone, Copy)]
pub struct Contestant {
    /// Which one.
    pub peer: Peer,
    /// What sets it apart from the same proxy with another task.
    pub variant: &'static str,
    /// The task.
    pub task: Task,
}

/// A load.
#[derive(Clone, Copy)]
pub enum Load {
    /// Requests, as fast as they are answered.
    Requests(Requests),
    /// The same over HTTP/2.
    Http2 {
        /// Over how many streams.
        streams: Streams,
        /// Whether latencies at a fixed rate are measured too.
        latency: bool,
    },
    /// Streaming gRPC calls: messages that come back, one at a time on each stream.
    Calls(Streams),
    /// Messages that come back, one at a time on each connection.
    Echo {
        /// Bytes.
        message: usize,
        /// Whether a WebSocket carries them.
        websocket: bool,
    },
    /// Connections that have made one request and then wait.
    Idle,
    /// Requests at half of the slowest proxy's rate, while the configuration changes twice a second.
    Reload,
    /// Ten times as many TLS connections as it can take; a client waits for a second.
    Overload,
}

/// Requests over HTTP/1.1.
#[derive(Clone, Copy)]
pub struct Requests {
    /// Connections at once.
    pub connections: usize,
    /// Whether each request has a connection of its own.
    pub one_each: bool,
    /// Whether TLS sessions are resumed.
    pub resumes: bool,
    /// Bytes sent.
    pub up: u64,
    /// Bytes that come back; 0 is an ordinary small answer.
    pub down: u64,
    /// Whether latencies at a fixed rate are measured too.
    pub latency: bool,
}

/// What figures are divided by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unit {
    /// One exchange.
    Exchange,
    /// 2^20 bytes of bodies.
    MiB,
}

impl Load {
    /// What its figures are divided by.
    pub fn unit(&self) -> Unit {
        match self {
            Load::Requests(requests) if requests.up + requests.down > 0 => Unit::MiB,
            _ => Unit::Exchange,
        }
    }

    /// Whether a figure counts that only a second run at a fixed rate gives.
    pub fn has_latency(&self) -> bool {
        match self {
            Load::Requests(Requests { latency, .. }) | Load::Http2 { latency, .. } => *latency,
            Load::Reload | Load::Overload => true,
            Load::Calls(_) | Load::Echo { .. } | Load::Idle => false,
        }
    }
}

const SMALL: Requests = Requests { connections: 32, one_each: false, resumes: false, up: 0, down: 0, latency: false };

/// Every scenario, in the order of the report.
pub fn all() -> Vec<Scenario> {
    let mut all = vec![
        scenario(
            "http1-small",
            "HTTP/1.1, 32 kept connections, answers of 128 bytes",
            Task::PLAIN,
            with_latency(SMALL),
        ),
        scenario("http1-connections", "the same, a connection for each request", Task::PLAIN, Load::Requests(EACH)),
        scenario(
            "tls-small",
            "TLS 1.3, 32 kept connections, answers of 128 bytes",
            tls(Key::Ecdsa),
            with_latency(SMALL),
        ),
    ];
    all.extend(handshakes());
    all.extend(http2());
    all.extend(bodies());
    let websocket = Task { websocket: true, ..Task::PLAIN };
    let tcp = Task { front: Front::Tcp, back: Back::Tcp, ..Task::PLAIN };
    all.extend([
        scenario("websocket-echo", "64-byte messages on 32 WebSockets", websocket, echo(true)),
        scenario("tcp-relay", "64-byte messages on 32 relayed TCP connections", tcp, echo(false)),
        scenario("idle-plain", "10 000 connections that wait, HTTP/1.1", Task::PLAIN, Load::Idle),
        scenario("idle-tls", "10 000 connections that wait, TLS 1.3", tls(Key::Ecdsa), Load::Idle),
        scenario("idle-h2", "10 000 connections that wait, HTTP/2 without TLS", H2, Load::Idle),
        routes("routes-1000", 1_000),
        routes("routes-100000", 100_000),
        switched("access-log", "a line for each request, in a file", "log", Task { access_log: true, ..Task::PLAIN }),
        switched(
            "filters",
            "two header edits in the request, two in the answer",
            "filters",
            Task { filters: true, ..Task::PLAIN },
        ),
        switched(
            "rate-limits",
            "a rate limit for all requests and one by client address, which refuse nothing",
            "limits",
            Task { rate_limits: true, ..Task::PLAIN },
        ),
        scenario(
            "reload",
            "requests at a fixed rate while the configuration changes",
            Task { reloads: true, ..Task::PLAIN },
            Load::Reload,
        ),
        // With a key that is dear to the server alone: or else one core cannot offer ten times what another one takes.
        scenario(
            "overload-tls",
            "ten times as many TLS connections as it can take, RSA-4096",
            own(Key::RsaLong),
            Load::Overload,
        ),
    ]);
    all
}

const EACH: Requests = Requests { one_each: true, ..SMALL };
const H2: Task = Task { front: Front::Http2, ..Task::PLAIN };

fn handshakes() -> [Scenario; 3] {
    let resumed = Requests { resumes: true, ..EACH };
    [
        scenario(
            "tls-handshake-ecdsa",
            "full TLS 1.3 handshakes, ECDSA P-256, one own answer each",
            own(Key::Ecdsa),
            Load::Requests(EACH),
        ),
        scenario(
            "tls-handshake-rsa",
            "full TLS 1.3 handshakes, RSA-2048, one own answer each",
            own(Key::Rsa),
            Load::Requests(EACH),
        ),
        scenario(
            "tls-resumed",
            "resumed TLS 1.3 handshakes, one own answer each",
            own(Key::Ecdsa),
            Load::Requests(resumed),
        ),
    ]
}

fn http2() -> Vec<Scenario> {
    let to_h1 = [1, 32, 128].map(|streams| {
        let load = Load::Http2 {
            streams: Streams { connections: 4, streams, message: None, per_second: None },
            latency: streams == 32,
        };
        let about = format!("HTTP/2 without TLS to HTTP/1.1, 4 connections of {streams} streams");
        scenario(&format!("h2-{streams}"), &about, H2, load)
    });
    let grpc = Task { back: Back::Http2, ..H2 };
    let streams = Streams { connections: 4, streams: 32, message: Some(128), per_second: None };
    let about = "gRPC calls of 128 bytes that come back, 4 connections of 32 streams";
    let unary = scenario("grpc-unary", about, grpc, Load::Http2 { streams, latency: true });
    let about = "messages of 128 bytes in streaming gRPC calls of 100, 4 connections of 32 streams";
    let stream = scenario("grpc-stream", about, grpc, Load::Calls(streams));
    to_h1.into_iter().chain([unary, stream]).collect()
}

fn bodies() -> Vec<Scenario> {
    let mut all = Vec::new();
    for (size, bytes, connections) in [("64k", 1 << 16, 16), ("1m", 1 << 20, 8), ("1g", 1 << 30, 2)] {
        for (over, task) in [("", Task::PLAIN), ("-tls", tls(Key::Ecdsa))] {
            for (way, up, down) in [("down", 0, bytes), ("up", bytes, 0)] {
                let load = Load::Requests(Requests { connections, up, down, ..SMALL });
                let about = format!("bodies of {size}, {way}, {connections} connections, per MiB");
                all.push(scenario(&format!("body-{size}-{way}{over}"), &about, task, load));
            }
        }
    }
    all
}

/// The gateway with ten routes, and all with many: the last route is asked for.
fn routes(name: &str, count: usize) -> Scenario {
    let about = format!("{count} routes, requests for the last of them; the gateway also with 10");
    let mut scenario = scenario(name, &about, Task { routes: count, ..Task::PLAIN }, Load::Requests(SMALL));
    let few = Contestant { peer: Peer::Gateway, variant: "10 routes", task: Task { routes: 10, ..Task::PLAIN } };
    scenario.contestants.insert(1, few);
    scenario
}

/// Each proxy with something on; the gateway with it off too.
fn switched(name: &str, about: &str, what: &'static str, task: Task) -> Scenario {
    let mut scenario = scenario(name, &format!("{about}; the gateway also without"), task, Load::Requests(SMALL));
    let without = match what {
        "log" => "without log",
        "limits" => "without limits",
        _ => "without filters",
    };
    scenario.contestants.insert(1, Contestant { peer: Peer::Gateway, variant: without, task: Task::PLAIN });
    scenario
}

/// A scenario in which all proxies that can have the same task.
fn scenario(name: &str, about: &str, task: Task, load: Load) -> Scenario {
    let bare = matches!(name, "http1-small" | "tcp-relay") || name.starts_with("body-") && task.tls.is_none();
    let peers = Peer::ALL.into_iter().filter(|peer| *peer != Peer::Forwarder || bare);
    let contestants = peers.map(|peer| Contestant { peer, variant: "", task }).collect();
    Scenario { name: name.to_owned(), about: about.to_owned(), contestants, load }
}

fn with_latency(requests: Requests) -> Load {
    Load::Requests(Requests { latency: true, ..requests })
}

fn echo(websocket: bool) -> Load {
    Load::Echo { message: 64, websocket }
}

const fn tls(key: Key) -> Task {
    Task { tls: Some(key), ..Task::PLAIN }
}

const fn own(key: Key) -> Task {
    Task { back: Back::Own, ..tls(key) }
}

impl Contestant {
    /// For tables.
    pub fn label(&self) -> String {
        if self.variant.is_empty() { self.peer.to_string() } else { format!("{}, {}", self.peer, self.variant) }
    }
}
