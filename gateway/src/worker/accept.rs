//! The accept loop of one listener on one worker.

use std::cell::Cell;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, oneshot};

use crate::config::model::{ListenerProtocol, ProxyProtocol, VipProtocol};
use crate::downstream::{self, Accepted};
use crate::filter::access::Knock;
use crate::metrics::registry::ListenerStats;
use crate::metrics::shard::Refusal;
use crate::net::{self, Listener, Reader, UdpListener, Writer};
use crate::proxy::{ListenerCx, WorkerCx};
use crate::snapshot::Place;

/// Pause after an accept that failed for want of descriptors or memory: trying at once would only burn the core.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(50);

/// An accept loop that runs until it is stopped.
pub(super) struct Acceptor {
    pub(super) listener: Rc<ListenerCx>,
    stop: oneshot::Sender<()>,
}

/// How many connections a worker has, and who waits for the last one.
#[derive(Default)]
pub(super) struct Open {
    count: Cell<u64>,
    accepting: Cell<u32>,
    served: Cell<u64>,
    changed: Notify,
}

impl Acceptor {
    pub(super) fn start(worker: Rc<WorkerCx>, listener: Rc<ListenerCx>, socket: OwnedFd, open: Rc<Open>) -> Acceptor {
        let (stop, stopped) = oneshot::channel();
        open.accepting.set(open.accepting.get() + 1);
        let (generation, id) = listener.generation();
        match generation.config.listeners[id.index()].protocol {
            ListenerProtocol::Udp => net::spawn(receive(worker, listener.clone(), socket, open, stopped)),
            ListenerProtocol::Http | ListenerProtocol::Tcp | ListenerProtocol::TlsPassthrough => {
                net::spawn(accept(worker, listener.clone(), Listener::new(socket), open, stopped));
            }
        }
        Acceptor { listener, stop }
    }

    /// Stops accepting. Connections that the kernel has accepted already are served.
    pub(super) fn stop(self) {
        let _ = self.stop.send(());
    }
}

impl Open {
    pub(super) async fn wait_for_none(&self) {
        while self.count.get() > 0 || self.accepting.get() > 0 {
            self.changed.notified().await;
        }
    }

    /// A number for one more connection, unique over workers: the worker's number is in the top bits.
    fn next_id(&self, worker: usize) -> u64 {
        self.served.set(self.served.get() + 1);
        (worker as u64) << 48 | self.served.get()
    }

    fn stopped_accepting(&self) {
        self.accepting.set(self.accepting.get() - 1);
        self.changed.notify_one();
    }

    fn enter(&self) {
        self.count.set(self.count.get() + 1);
    }

    fn leave(&self) {
        self.count.set(self.count.get() - 1);
        self.changed.notify_one();
    }
}

async fn accept(
    worker: Rc<WorkerCx>,
    listener: Rc<ListenerCx>,
    mut socket: Listener,
    open: Rc<Open>,
    mut stopped: oneshot::Receiver<()>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            _ = &mut stopped => break,
        };
        match accepted {
            Ok(accepted) => admit(&worker, &listener, accepted, &open),
            Err(error) if is_passing(&error) => {}
            Err(error) => {
                log::warn!("listener {}: accept: {error}", listener.name);
                tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
    }
    for accepted in socket.finish().await {
        admit(&worker, &listener, accepted, &open);
    }
    open.stopped_accepting();
}

/// Takes datagrams in place of connections.
async fn receive(
    worker: Rc<WorkerCx>,
    listener: Rc<ListenerCx>,
    socket: OwnedFd,
    open: Rc<Open>,
    stopped: oneshot::Receiver<()>,
) {
    let (number, ids, name) = (worker.worker, open.clone(), listener.name.clone());
    let next_id = Box::new(move || ids.next_id(number));
    match UdpListener::new(socket) {
        Ok(socket) => downstream::serve_datagrams(worker, listener, socket, next_id, stopped).await,
        Err(error) => log::error!("listener {name}: {error}"),
    }
    open.stopped_accepting();
}

/// Errors of one connection that was gone before it was accepted.
fn is_passing(error: &std::io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ECONNABORTED | libc::EINTR | libc::EAGAIN | libc::ECANCELED | libc::EPROTO | libc::ENETDOWN)
    )
}

/// Serves a connection, unless a rule or a limit refuses it.
fn admit(
    worker: &Rc<WorkerCx>,
    listener: &Rc<ListenerCx>,
    (reader, writer, peer): (Reader, Writer, SocketAddr),
    open: &Rc<Open>,
) {
    let (generation, id) = listener.generation();
    let view = generation.listener(id);
    let stats = view.stats.shard(worker.worker);
    stats.connections.inc();
    let source = peer.ip().to_canonical();
    // A connection that was reset meanwhile has no address any more.
    let Ok(local) = writer.local_addr() else { return };
    let knock = Knock { protocol: VipProtocol::Tcp, port: local.port(), now: SystemTime::now() };
    if generation.access.verdict(source, knock).is_some() {
        stats.refused.of(Refusal::AccessDenied).inc();
        return writer.abort();
    }
    if generation.bans.has(source, knock.now) {
        stats.refused.of(Refusal::Banned).inc();
        return writer.abort();
    }
    let settings = &generation.config.listeners[id.index()];
    // Whom a trusted proxy's connection counts for is not known before its PROXY header has come.
    let is_proxy = settings.proxy_protocol != ProxyProtocol::Off && view.trusted.contains(source);
    let of_source = if is_proxy { u32::MAX } else { settings.limits.connections_per_source };
    let place = match Place::take(&view.open, source, settings.limits.connections, of_source) {
        Ok(place) => place,
        Err(too_many) => {
            stats.refused.of(too_many.into()).inc();
            return writer.abort();
        }
    };
    let guard = Admitted::new(view.stats.clone(), worker.worker, open.clone());
    let id = open.next_id(worker.worker);
    let accepted = Accepted { reader, writer, peer, local, id, place };
    let (worker, listener) = (worker.clone(), listener.clone());
    net::spawn(async move {
        // Made in here: a future that is moved in has its room twice, once to come in and once to run.
        downstream::serve(worker, listener, accepted).await;
        drop(guard);
    });
}

/// Counts a connection as open. It does not hold the generation: a connection outlives many.
struct Admitted {
    stats: Arc<ListenerStats>,
    worker: usize,
    open: Rc<Open>,
}

impl Admitted {
    fn new(stats: Arc<ListenerStats>, worker: usize, open: Rc<Open>) -> Admitted {
        stats.shard(worker).connections_active.inc();
        open.enter();
        Admitted { stats, worker, open }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.stats.shard(self.worker).connections_active.dec();
        self.open.leave();
    }
}
