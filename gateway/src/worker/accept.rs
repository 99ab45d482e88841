//! The accept loop of one listener on one worker.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use crate::downstream::{self, Accepted};
use crate::metrics::registry::ListenerStats;
use crate::metrics::shard::Refusal;
use crate::net::{self, Listener, Reader, Writer};
use crate::proxy::{ListenerCx, WorkerCx};
use crate::snapshot::{OpenConnections, TooMany};

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
        net::spawn(accept(worker, listener.clone(), Listener::new(socket), open, stopped));
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
    open.accepting.set(open.accepting.get() - 1);
    open.changed.notify_one();
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
    if generation.access.verdict(source).is_some() {
        writer.abort();
        return stats.refused.of(Refusal::AccessDenied).inc();
    }
    let limits = &generation.config.listeners[id.index()].limits;
    let guard = match view.open.enter(source, limits.connections, limits.connections_per_source) {
        Ok(()) => Admitted {
            counted: view.open.clone(),
            stats: view.stats.clone(),
            source,
            worker: worker.worker,
            open: open.clone(),
        },
        Err(too_many) => {
            writer.abort();
            let refusal = match too_many {
                TooMany::Connections => Refusal::ListenerLimit,
                TooMany::FromSource => Refusal::SourceLimit,
            };
            return stats.refused.of(refusal).inc();
        }
    };
    stats.connections_active.inc();
    open.enter();
    open.served.set(open.served.get() + 1);
    // Unique over workers: the worker's number is in the top bits.
    let connection_id = (worker.worker as u64) << 48 | open.served.get();
    let accepted = Accepted { reader, writer, peer, id: connection_id };
    let serve = downstream::serve(worker.clone(), listener.clone(), accepted);
    net::spawn(async move {
        serve.await;
        drop(guard);
    });
}

/// A connection's place under the limits. It does not hold the generation: a connection outlives many.
struct Admitted {
    counted: Arc<OpenConnections>,
    stats: Arc<ListenerStats>,
    source: IpAddr,
    worker: usize,
    open: Rc<Open>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.counted.leave(self.source);
        self.stats.shard(self.worker).connections_active.dec();
        self.open.leave();
    }
}
