//! Origins: a scripted one that says raw bytes, and an ordinary one that answers by path.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;

use crate::conn::{Conn, Framing, Head, ReadError};
use crate::pattern::{self, Checker};
use crate::ports::any_port;
use crate::stream::{self, Stream};
use crate::wait;

/// An origin that runs a script on each connection, on a thread of its own.
///
/// A panic in the script (a failed expectation) fails the test when the `Script` is dropped.
#[derive(Debug)]
pub struct Script {
    addr: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stopping: AtomicBool,
    accepted: AtomicUsize,
    finished: AtomicUsize,
    streams: Mutex<Vec<Weak<TcpStream>>>,
    panics: Mutex<Vec<String>>,
}

impl Script {
    /// Listens on a free port and runs `script` on each connection. When it returns, the connection closes.
    pub fn start(script: impl Fn(Conn) + Send + Sync + 'static) -> Script {
        Script::start_at(any_port(), script)
    }

    /// The same on a given address.
    pub fn start_at(addr: SocketAddr, script: impl Fn(Conn) + Send + Sync + 'static) -> Script {
        let listener = TcpListener::bind(addr).expect("bind an origin");
        let addr = listener.local_addr().expect("local address");
        let shared = Arc::new(Shared::default());
        let acceptor = std::thread::spawn({
            let shared = shared.clone();
            move || accept(&listener, &shared, &Arc::new(script))
        });
        Script { addr, shared, acceptor: Some(acceptor) }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.accepted.load(SeqCst)
    }

    /// Waits until `count` scripts have run to their end.
    pub fn wait_finished(&self, count: usize) {
        wait::until_true("the origin's scripts to finish", || self.shared.finished.load(SeqCst) >= count);
    }

    /// Connections whose script is still running.
    pub fn open(&self) -> usize {
        self.connections() - self.shared.finished.load(SeqCst)
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.shared.stopping.store(true, SeqCst);
        // Wakes the acceptor.
        let _ = TcpStream::connect(self.addr);
        let _ = self.acceptor.take().map(JoinHandle::join);
        // A script that waits for its peer at this point has no more to say: its test is over.
        for stream in self.shared.streams.lock().unwrap().iter().filter_map(Weak::upgrade) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let panics = std::mem::take(&mut *self.shared.panics.lock().unwrap());
        if !std::thread::panicking() {
            assert!(panics.is_empty(), "the origin's script failed: {}", panics.join("; "));
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, script: &Arc<impl Fn(Conn) + Send + Sync + 'static>) {
    while let Ok((tcp, _)) = listener.accept() {
        if shared.stopping.load(SeqCst) {
            return;
        }
        // Fails when the peer has reset the connection already; then there is nobody to talk to.
        if stream::prepare(&tcp).is_err() {
            continue;
        }
        let tcp = Arc::new(tcp);
        shared.streams.lock().unwrap().push(Arc::downgrade(&tcp));
        let conn = Conn::new(Stream::Plain(tcp), shared.accepted.fetch_add(1, SeqCst));
        let (shared, script) = (shared.clone(), script.clone());
        std::thread::spawn(move || {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| script(conn)))
                && !shared.stopping.load(SeqCst)
            {
                shared.panics.lock().unwrap().push(panic_text(&*panic));
            }
            shared.finished.fetch_add(1, SeqCst);
        });
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without text").to_owned()
}

/// An ordinary keep-alive origin.
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
        let state = Arc::new(State {
            name: name.to_owned(),
            requests: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            gate: Gate::default(),
        });
        let script = Script::start_at(addr, {
            let state = state.clone();
            move |conn| serve(conn, &state)
        });
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
        wait::until_true("requests held at the origin", || self.state.gate.state.lock().unwrap().0 >= count);
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

/// Serves one connection until its end. The peer's going away is no failure here: tests look at counters and clients.
fn serve(mut conn: Conn, state: &State) {
    // An idle connection is the client's to close, however long the test takes.
    conn.patience(Duration::from_secs(600));
    while let Ok(head) = conn.head() {
        if head.header("expect").is_some() && !conn.try_send("HTTP/1.1 100 Continue\r\n\r\n") {
            return;
        }
        let Ok(body) = read_body(&mut conn, &head) else { return };
        state.requests.fetch_add(1, SeqCst);
        if !answer(&mut conn, state, &head, body) {
            return;
        }
    }
}

/// A request's body: kept for `/echo`, checked and counted for `/sink`, passed over otherwise.
enum Body {
    Kept(Vec<u8>),
    Checked(u64),
}

fn read_body(conn: &mut Conn, head: &Head) -> Result<Body, ReadError> {
    let framing = head.framing(Framing::Empty);
    let (mut kept, mut checker) = (Vec::new(), Checker::default());
    if path(head).starts_with("/sink") {
        conn.body(framing, &mut |bytes| checker.push(bytes))?;
        return Ok(Body::Checked(checker.len()));
    }
    conn.body(framing, &mut |bytes| kept.extend_from_slice(bytes))?;
    Ok(Body::Kept(kept))
}

fn path(head: &Head) -> &str {
    head.target().split('?').next().unwrap_or("")
}

/// Sends the answer; whether the connection goes on.
fn answer(conn: &mut Conn, state: &State, head: &Head, body: Body) -> bool {
    let (command, argument) = path(head)[1..].split_once('/').unwrap_or((&path(head)[1..], ""));
    let number = argument.parse::<u64>().unwrap_or(0);
    let say = |conn: &mut Conn, status: u64, fields: &str, body: &[u8]| {
        let length =
            if matches!(status, 204 | 304) { String::new() } else { format!("content-length: {}\r\n", body.len()) };
        let head_text = format!("HTTP/1.1 {status} Text\r\nx-origin: {}\r\n{fields}{length}\r\n", state.name);
        let body = if head.method() == "HEAD" { &[][..] } else { body };
        conn.try_send([head_text.as_bytes(), body].concat())
    };
    let start = |conn: &mut Conn, fields: &str| {
        conn.try_send(format!("HTTP/1.1 200 OK\r\nx-origin: {}\r\n{fields}\r\n\r\n", state.name))
    };
    match (command, body) {
        ("bytes", _) if head.method() == "HEAD" => start(conn, &format!("content-length: {number}")),
        ("bytes", _) => start(conn, &format!("content-length: {number}")) && send_pattern(conn, state, number, false),
        ("chunked", _) => start(conn, "transfer-encoding: chunked") && send_pattern(conn, state, number, true),
        ("until-close", _) => {
            let _ = start(conn, "connection: close") && send_pattern(conn, state, number, false);
            false
        }
        ("echo", Body::Kept(body)) => say(conn, 200, "", &body),
        ("sink", Body::Checked(length)) => say(conn, 200, "", length.to_string().as_bytes()),
        ("headers", _) => say(conn, 200, "content-type: application/json\r\n", head_as_json(head).as_bytes()),
        ("status", _) => say(conn, number, "", b""),
        ("trailers", _) => {
            start(conn, "transfer-encoding: chunked\r\ntrailer: x-check")
                && conn.try_send("4\r\nbody\r\n0\r\nx-check: 123\r\nx-more: yes\r\n\r\n")
        }
        ("hold", _) => {
            state.gate.pass();
            say(conn, 200, "", b"released")
        }
        _ => say(conn, 200, "", state.name.as_bytes()),
    }
}

fn head_as_json(head: &Head) -> String {
    json!({ "start": head.start, "headers": head.headers }).to_string()
}

fn send_pattern(conn: &mut Conn, state: &State, length: u64, chunked: bool) -> bool {
    let mut sent = 0;
    while sent < length {
        let piece = pattern::slice(sent, length - sent);
        if chunked && !conn.try_send(format!("{:x}\r\n", piece.len())) {
            return false;
        }
        if !conn.try_send(piece) || chunked && !conn.try_send("\r\n") {
            return false;
        }
        sent += piece.len() as u64;
        state.sent.fetch_add(piece.len() as u64, SeqCst);
    }
    !chunked || conn.try_send("0\r\n\r\n")
}
