//! An origin that answers by path.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde_json::json;

use super::Script;
use super::served::{Served, serve};
use crate::conn::{Framing, Head, ReadError};
use crate::h2::{Fields, Options};
use crate::pattern::{self, Checker};
use crate::ports::any_port;
use crate::tls::TlsServer;
use crate::wait;

/// An ordinary keep-alive origin. It speaks HTTP/2 with whoever begins with it, HTTP/1.1 with all others.
///
/// | path | answer |
/// |---|---|
/// | `/bytes/N`, `/chunked/N` | N bytes of the [`pattern`](mod@pattern), by length or chunked |
/// | `/until-close/N` | N bytes, ended by closing the connection |
/// | `/echo` | the request's body |
/// | `/sink` | how many bytes of the pattern the request's body had, as text |
/// | `/headers` | the request's head as JSON, which [`Response::seen`](crate::client::Response::seen) reads |
/// | `/status/N` | status N, empty |
/// | `/trailers` | a chunked body with trailer fields |
/// | `/request-trailers` | the request's trailers as JSON |
/// | `/hold` | `released`, once the test calls [`Origin::release`] |
/// | any other | 200, the origin's name |
///
/// Every answer has `x-origin: NAME`. `?anything` is ignored.
#[derive(Debug)]
pub struct Origin {
    script: Script,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    name: String,
    requests: AtomicU64,
    sent: AtomicU64,
    gate: Gate,
}

/// Where requests wait until the test lets them go.
#[derive(Debug, Default)]
struct Gate {
    /// How many wait, and whether the gate is open.
    state: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Origin {
    /// Starts one that calls itself `name`.
    pub fn start(name: &str) -> Origin {
        Origin::start_at(any_port(), name)
    }

    /// The same on a given address.
    pub fn start_at(addr: SocketAddr, name: &str) -> Origin {
        Origin::with(name, Options::default(), |script| Script::start_at(addr, script))
    }

    /// The same with what it says of itself over HTTP/2.
    pub fn start_with(name: &str, options: Options) -> Origin {
        Origin::with(name, options, Script::start)
    }

    /// The same over TLS.
    pub fn start_tls(name: &str, tls: TlsServer) -> Origin {
        Origin::with(name, Options::default(), |script| Script::start_tls(tls, script))
    }

    fn with(
        name: &str,
        options: Options,
        start: impl FnOnce(Box<dyn Fn(crate::conn::Conn) + Send + Sync>) -> Script,
    ) -> Origin {
        let state = Arc::new(State {
            name: name.to_owned(),
            requests: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            gate: Gate::default(),
        });
        // An idle connection is the client's to close, however long the test takes.
        let options = Options { patience: Duration::from_secs(600), ..options };
        let shared = state.clone();
        let script = start(Box::new(move |conn| serve(conn, &options, &|served| handle(served, &shared))));
        Origin { script, state }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.script.addr()
    }

    /// Whole requests (head and body) received so far.
    pub fn requests(&self) -> u64 {
        self.state.requests.load(SeqCst)
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.script.connections()
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.script.open()
    }

    /// Body bytes written to sockets so far, for tests of back-pressure.
    pub fn sent(&self) -> u64 {
        self.state.sent.load(SeqCst)
    }

    /// Waits until `count` requests for `/hold` wait.
    pub fn wait_held(&self, count: usize) {
        wait::until_true("requests held at the origin", || self.held() >= count);
    }

    /// Requests for `/hold` that wait now.
    pub fn held(&self) -> usize {
        self.state.gate.state.lock().unwrap().0
    }

    /// Lets every request for `/hold` go, those to come too.
    pub fn release(&self) {
        self.state.gate.state.lock().unwrap().1 = true;
        self.state.gate.changed.notify_all();
    }
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.0 += 1;
        // The limit only keeps a failed test's threads from waiting for ever.
        let mut state = self.changed.wait_timeout_while(state, Duration::from_secs(60), |s| !s.1).unwrap().0;
        state.0 -= 1;
    }
}

/// Serves one request. The peer's going away is no failure here: tests look at counters and clients.
fn handle(served: &mut Served<'_>, state: &State) {
    if served.head.header("expect").is_some() && !served.interim(100) {
        return;
    }
    let Ok(body) = read_body(served) else { return };
    state.requests.fetch_add(1, SeqCst);
    answer(served, state, body);
}

/// A request's body: kept for `/echo`, checked and counted for `/sink`, passed over otherwise.
enum Body {
    Kept(Vec<u8>, Fields),
    Checked(u64),
}

fn read_body(served: &mut Served<'_>) -> Result<Body, ReadError> {
    let (mut kept, mut checker) = (Vec::new(), Checker::default());
    if served.path().starts_with("/sink") {
        served.body(&mut |bytes| checker.push(bytes))?;
        return Ok(Body::Checked(checker.len()));
    }
    let trailers = served.body(&mut |bytes| kept.extend_from_slice(bytes))?;
    Ok(Body::Kept(kept, trailers))
}

/// Sends the answer.
fn answer(served: &mut Served<'_>, state: &State, body: Body) -> bool {
    let path = served.path().to_owned();
    let path = path.strip_prefix('/').unwrap_or(&path);
    let (command, argument) = path.split_once('/').unwrap_or((path, ""));
    let number = argument.parse::<u64>().unwrap_or(0);
    let name = ("x-origin", state.name.as_str());
    match (command, body) {
        ("bytes", _) => send_pattern(served, state, number, Framing::Length(number)),
        ("chunked", _) => send_pattern(served, state, number, Framing::Chunked),
        ("until-close", _) => send_pattern(served, state, number, Framing::UntilClose),
        ("echo", Body::Kept(body, _)) => served.answer(200, &[name], &body),
        ("sink", Body::Checked(length)) => served.answer(200, &[name], length.to_string().as_bytes()),
        ("headers", _) => {
            let shown = head_as_json(&served.head);
            served.answer(200, &[name, ("content-type", "application/json")], shown.as_bytes())
        }
        ("request-trailers", Body::Kept(_, trailers)) => {
            served.answer(200, &[name], json!(trailers).to_string().as_bytes())
        }
        ("status", _) => served.answer(number as u16, &[name], b""),
        ("trailers", _) => {
            served.start(200, &[name, ("trailer", "x-check")], Framing::Chunked)
                && served.send(b"body")
                && served.finish(&[("x-check", "123"), ("x-more", "yes")])
        }
        ("hold", _) => {
            state.gate.pass();
            served.answer(200, &[name], b"released")
        }
        _ => served.answer(200, &[name], state.name.as_bytes()),
    }
}

fn head_as_json(head: &Head) -> String {
    json!({ "start": head.start, "headers": head.headers }).to_string()
}

fn send_pattern(served: &mut Served<'_>, state: &State, length: u64, framing: Framing) -> bool {
    if !served.start(200, &[("x-origin", &state.name)], framing) {
        return false;
    }
    let mut sent = if served.head.method() == "HEAD" { length } else { 0 };
    while sent < length {
        let piece = pattern::slice(sent, length - sent);
        if !served.send(piece) {
            return false;
        }
        sent += piece.len() as u64;
        state.sent.fetch_add(piece.len() as u64, SeqCst);
    }
    served.finish(&[])
}
