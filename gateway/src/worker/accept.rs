//! The accept loop of one listener on one worker.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;

use crate::config::model::{ListenerProtocol, ProxyProtocol, VipProtocol};
use crate::downstream::{self, Accepted};
use crate::filter::access::Knock;
use crate::metrics::shard::Refusal;
use crate::net::{self, Listener, Reader, UdpListener, Writer, now_ms};
use crate::overload::Gate;
use crate::overload::delay::{self, Backlog};
use crate::proxy::{Admitted, ListenerCx, WorkerCx};
use crate::snapshot::{Active, Place};

/// Pause after an accept that failed for want of descriptors or memory: trying at once would only burn the core.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(50);

/// How long a short backlog lasts when nothing comes any more.
const LASTS: Duration = Duration::from_millis(delay::LASTS_MS);

/// An accept loop that runs until it is stopped.
pub(super) struct Acceptor {
    pub(super) listener: Rc<ListenerCx>,
    stop: oneshot::Sender<()>,
}

impl Acceptor {
    pub(super) fn start(worker: Rc<WorkerCx>, listener: Rc<ListenerCx>, socket: OwnedFd) -> Acceptor {
        let (stop, stopped) = oneshot::channel();
        worker.open.begin_accepting();
        let (generation, id) = listener.generation();
        match generation.config.listeners[id.index()].protocol {
            ListenerProtocol::Udp => net::spawn(receive(worker, listener.clone(), socket, stopped)),
            ListenerProtocol::Http | ListenerProtocol::Tcp | ListenerProtocol::TlsPassthrough => {
                net::spawn(accept(worker, listener.clone(), Listener::new(socket), stopped));
            }
        }
        Acceptor { listener, stop }
    }

    /// Stops accepting. Connections that the kernel has accepted already are served.
    pub(super) fn stop(self) {
        let _ = self.stop.send(());
    }
}

async fn accept(
    worker: Rc<WorkerCx>,
    listener: Rc<ListenerCx>,
    mut socket: Listener,
    mut stopped: oneshot::Receiver<()>,
) {
    let bound = socket.local_addr();
    let (mut gate, mut backlog) = (Gate::default(), Backlog::WHOLE);
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => Some(accepted),
            // A flood that is over may have no connection after it that would show this.
            () = tokio::time::sleep(LASTS), if backlog != Backlog::WHOLE => None,
            _ = &mut stopped => break,
        };
        match accepted {
            None => gate.expire(now_ms()),
            Some(Ok(accepted)) => admit(&worker, &listener, &mut gate, accepted, bound),
            Some(Err(error)) if is_passing(&error) => {}
            Some(Err(error)) => {
                log::warn!("listener {}: accept: {error}", listener.name);
                tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
        if backlog != gate.backlog() {
            backlog = gate.backlog();
            socket.set_backlog(backlog.get());
        }
    }
    for accepted in socket.finish().await {
        admit(&worker, &listener, &mut gate, accepted, bound);
    }
    worker.open.stop_accepting();
}

/// Takes datagrams in place of connections.
async fn receive(worker: Rc<WorkerCx>, listener: Rc<ListenerCx>, socket: OwnedFd, stopped: oneshot::Receiver<()>) {
    match UdpListener::new(socket) {
        Ok(socket) => downstream::serve_datagrams(worker.clone(), listener, socket, stopped).await,
        Err(error) => log::error!("listener {}: {error}", listener.name),
    }
    worker.open.stop_accepting();
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
    gate: &mut Gate,
    (reader, writer, peer): (Reader, Writer, SocketAddr),
    bound: Option<SocketAddr>,
) {
    let (generation, id) = listener.generation();
    let view = generation.listener(id);
    let stats = view.stats.shard(worker.worker);
    stats.connections.inc();
    // First, because it has to cost little.
    let settings = &generation.config.listeners[id.index()];
    let may_be_high = generation.has_priorities && settings.protocol == ListenerProtocol::Http;
    let waited = || u64::from(writer.quiet_ms().unwrap_or(0)) * 1_000;
    if !gate.admits(&worker.overload, now_ms(), worker.random(), may_be_high, waited) {
        stats.refused.of(Refusal::Overload).inc();
        return writer.abort();
    }
    let source = peer.ip().to_canonical();
    // A connection that was reset meanwhile has no address any more.
    let Some(local) = bound.or_else(|| writer.local_addr().ok()) else { return };
    let knock = Knock { protocol: VipProtocol::Tcp, port: local.port(), now: SystemTime::now() };
    if generation.access.verdict(source, knock).is_some() {
        stats.refused.of(Refusal::AccessDenied).inc();
        return writer.abort();
    }
    if generation.bans.has(source, knock.now) {
        stats.refused.of(Refusal::Banned).inc();
        return writer.abort();
    }
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
    // Neither is which source's rate it is to be held against first.
    if !is_proxy && let Err(too_fast) = view.rates.enter(Some(source), net::now_ns) {
        stats.refused.of(too_fast.into()).inc();
        return writer.abort();
    }
    let (open, max) = worker.overload.connections();
    let Some(active) = Active::enter(open, max) else {
        stats.refused.of(Refusal::TotalLimit).inc();
        return writer.abort();
    };
    let admitted = Admitted::new(worker.clone(), view.stats.clone(), place, active);
    let accepted = Accepted { reader, writer, peer, local, id: worker.next_id(), admitted };
    downstream::serve(worker.clone(), listener.clone(), accepted);
}
