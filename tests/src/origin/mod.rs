//! A scripted origin that says raw bytes. The ordinary one is [`Origin`].

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::conn::Conn;
use crate::ports::any_port;
use crate::stream::{self, Stream, WeakStream};
use crate::tls::TlsServer;
use crate::wait;

pub use ordinary::Origin;
pub use served::{Served, serve, serve_h2};

mod ordinary;
mod served;

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
    streams: Mutex<Vec<WeakStream>>,
    panics: Mutex<Vec<String>>,
}

impl Script {
    /// Listens on a free port and runs `script` on each connection. When it returns, the connection closes.
    pub fn start(script: impl Fn(Conn) + Send + Sync + 'static) -> Script {
        Script::start_at(any_port(), script)
    }

    /// The same on a given address.
    pub fn start_at(addr: SocketAddr, script: impl Fn(Conn) + Send + Sync + 'static) -> Script {
        Script::listen(addr, None, script)
    }

    /// Listens on a free port for TLS. A client that fails the handshake is not seen.
    pub fn start_tls(tls: TlsServer, script: impl Fn(Conn) + Send + Sync + 'static) -> Script {
        Script::listen(any_port(), Some(tls), script)
    }

    fn listen(addr: SocketAddr, tls: Option<TlsServer>, script: impl Fn(Conn) + Send + Sync + 'static) -> Script {
        let listener = TcpListener::bind(addr).expect("bind an origin");
        let addr = listener.local_addr().expect("local address");
        let shared = Arc::new(Shared::default());
        let acceptor = std::thread::spawn({
            let shared = shared.clone();
            move || accept(&listener, tls.as_ref(), &shared, &Arc::new(script))
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
        for stream in self.shared.streams.lock().unwrap().iter().filter_map(WeakStream::upgrade) {
            stream.cut();
        }
        let panics = std::mem::take(&mut *self.shared.panics.lock().unwrap());
        if !std::thread::panicking() {
            assert!(panics.is_empty(), "the origin's script failed: {}", panics.join("; "));
        }
    }
}

fn accept(
    listener: &TcpListener,
    tls: Option<&TlsServer>,
    shared: &Arc<Shared>,
    script: &Arc<impl Fn(Conn) + Send + Sync + 'static>,
) {
    while let Ok((tcp, _)) = listener.accept() {
        if shared.stopping.load(SeqCst) {
            return;
        }
        // Fails when the peer has reset the connection already; then there is nobody to talk to.
        if stream::prepare(&tcp).is_err() {
            continue;
        }
        let index = shared.accepted.fetch_add(1, SeqCst);
        let (tls, shared, script) = (tls.cloned(), shared.clone(), script.clone());
        std::thread::spawn(move || {
            let stream = match tls {
                None => Ok(Stream::Plain(Arc::new(tcp))),
                Some(tls) => tls.accept(tcp),
            };
            if let Ok(stream) = stream {
                shared.streams.lock().unwrap().push(stream.downgrade());
                shared.run(|| script(Conn::new(stream, index)));
            }
            shared.finished.fetch_add(1, SeqCst);
        });
    }
}

impl Shared {
    fn run(&self, script: impl FnOnce()) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(script))
            && !self.stopping.load(SeqCst)
        {
            self.panics.lock().unwrap().push(panic_text(&*panic));
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without text").to_owned()
}
