//! A UDP listener on one worker: datagrams of one pair of addresses and ports are a session, which has a connected socket
//! of its own to one endpoint.
//!
//! A session ends when nothing has come either way for the route's idle time, when an ICMP error says that its endpoint
//! is not there, and with its listener: what is not a connection cannot be drained. Reloads that keep the listener keep
//! its sessions.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, oneshot};

use super::session::{NotConnected, Session};
use crate::balance::{self, key};
use crate::config::model::{ClusterId, L4Route, VipProtocol};
use crate::filter::access::Knock;
use crate::metrics::flags::ResponseFlag;
use crate::metrics::shard::Refusal;
use crate::net::{self, DATAGRAM, Datagram, Deadline, UdpListener, UdpSocket, now_ms, now_ns};
use crate::proxy::{ListenerCx, WorkerCx};
use crate::route::L4Query;
use crate::snapshot::{Ask, InFlight, ListenerView, Load, Place, Snapshot};
use crate::upstream::{Slot, UpstreamError};

/// Datagrams moved before other tasks have their turn.
const BATCH: usize = 64;

/// A listener's socket and its sessions.
struct Sessions {
    worker: Rc<WorkerCx>,
    listener: Rc<ListenerCx>,
    socket: UdpListener,
    open: RefCell<HashMap<(SocketAddr, SocketAddr), Rc<Link>>>,
    /// One for all: a datagram is received and sent without waiting in between.
    buffer: RefCell<Vec<u8>>,
}

/// What both directions of a session need.
struct Link {
    origin: UdpSocket,
    /// Set anew by each datagram; unset where there is no limit.
    deadline: Deadline,
    idle: Option<Duration>,
    session: RefCell<Session>,
    /// Why it ends now.
    cut: RefCell<Option<io::Error>>,
    ends: Notify,
    _place: Place,
    _taken: Taken,
}

/// What a session takes of its endpoint: the right to it, and a place among its requests.
struct Taken {
    _slot: Slot,
    _in_flight: Option<InFlight<Arc<Load>>>,
}

/// Serves a listener's datagrams until it is stopped.
pub async fn serve_datagrams(
    worker: Rc<WorkerCx>,
    listener: Rc<ListenerCx>,
    socket: UdpListener,
    mut stopped: oneshot::Receiver<()>,
) {
    let (open, buffer) = (RefCell::default(), RefCell::new(vec![0; DATAGRAM]));
    let sessions = Rc::new(Sessions { worker, listener, socket, open, buffer });
    loop {
        tokio::select! {
            () = sessions.socket.readable() => {}
            _ = &mut stopped => break,
        }
        for _ in 0..BATCH {
            let received = sessions.socket.receive(&mut sessions.buffer.borrow_mut());
            match received {
                Ok(Some(datagram)) => sessions.forward(datagram),
                Ok(None) => break,
                Err(error) => {
                    log::debug!("listener {}: receive: {error}", sessions.listener.name);
                    break;
                }
            }
        }
    }
    let open = std::mem::take(&mut *sessions.open.borrow_mut());
    open.into_values().for_each(|link| link.ends.notify_one());
}

impl Sessions {
    /// Sends a client's datagram on, which may begin a session.
    fn forward(self: &Rc<Self>, datagram: Datagram) {
        let key = (datagram.peer, datagram.local);
        let known = self.open.borrow().get(&key).cloned();
        let Some(link) = known.or_else(|| self.begin(datagram)) else { return };
        link.touch();
        match link.origin.send(&self.buffer.borrow()[..datagram.len]) {
            Ok(true) => link.session.borrow_mut().received += datagram.len as u64,
            // No room, or too long for the way there: datagrams may get lost.
            Ok(false) => {}
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {}
            Err(error) => link.cut(error),
        }
    }

    /// A session for a client that has none, if it may have one.
    fn begin(self: &Rc<Self>, datagram: Datagram) -> Option<Rc<Link>> {
        let (generation, id) = self.listener.generation();
        let (view, limits) = (generation.listener(id), &generation.config.listeners[id.index()].limits);
        let stats = view.stats.shard(self.worker.worker);
        let source = datagram.peer.ip().to_canonical();
        let knock = Knock { protocol: VipProtocol::Udp, port: datagram.local.port(), now: SystemTime::now() };
        if generation.access.verdict(source, knock).is_some() {
            stats.refused.of(Refusal::AccessDenied).inc();
            return None;
        }
        if generation.bans.has(source, knock.now) {
            stats.refused.of(Refusal::Banned).inc();
            return None;
        }
        if self.worker.overload.is_closed(self.worker.random(), false) {
            stats.refused.of(Refusal::Overload).inc();
            return None;
        }
        let place = match Place::take(&view.open, source, limits.connections, limits.connections_per_source) {
            Ok(place) => place,
            Err(too_many) => {
                stats.refused.of(too_many.into()).inc();
                return None;
            }
        };
        if let Err(too_fast) = view.rates.enter(Some(source), now_ns) {
            stats.refused.of(too_fast.into()).inc();
            return None;
        }
        stats.connections.inc();
        let [peer, local] = [datagram.peer, datagram.local].map(canonical);
        let mut session = Session::new(self.listener.clone(), peer, local, self.worker.next_id());
        match self.connect(&generation, view, &mut session) {
            Ok((origin, taken, idle)) => {
                stats.connections_active.inc();
                let (deadline, ends) = (self.worker.timers.deadline(), Notify::new());
                let session = RefCell::new(session);
                let cut = RefCell::default();
                let link = Rc::new(Link { origin, deadline, idle, session, cut, ends, _place: place, _taken: taken });
                self.open.borrow_mut().insert((datagram.peer, datagram.local), link.clone());
                net::spawn(self.clone().answer(datagram, link.clone()));
                Some(link)
            }
            Err(error) => {
                session.note_not_connected(&error);
                session.finish(&self.worker, None);
                None
            }
        }
    }

    /// Connects a socket to an endpoint of the listener's route. That only fails where there is no way to the address.
    fn connect(
        &self,
        generation: &Snapshot,
        view: &ListenerView,
        session: &mut Session,
    ) -> Result<(UdpSocket, Taken, Option<Duration>), NotConnected> {
        let route = view.l4.find(L4Query::Opaque).ok_or(NotConnected::NoRoute)?;
        session.take(&self.worker, generation, route);
        let settings = &generation.config.l4_routes[route.index()];
        let random = self.worker.random() as u32;
        let cluster = balance::pick_weighted(&settings.clusters, random).ok_or(NotConnected::NoEndpoint)?;
        session.set_cluster(generation, cluster);
        let key = Some(key::of_address(session.peer_ip()));
        let (worker, random) = (self.worker.worker, self.worker.random());
        let subset = generation.l4_route_subsets[route.index()];
        let ask = Ask { worker, random, now_ms: now_ms(), key, subset, named: None };
        let (origin, taken) = self.connect_to(generation, cluster, &ask, settings, session)?;
        session.upstream_local = origin.local_addr().ok();
        Ok((origin, taken, settings.idle_timeout))
    }

    fn connect_to(
        &self,
        generation: &Snapshot,
        cluster: ClusterId,
        ask: &Ask,
        route: &L4Route,
        session: &mut Session,
    ) -> Result<(UdpSocket, Taken), NotConnected> {
        let (view, settings) = (generation.cluster(cluster), &generation.config.clusters[cluster.index()]);
        let (number, stats) = (self.worker.worker, view.stats.shard(self.worker.worker));
        let (mut tried, mut error) = (Vec::new(), NotConnected::NoEndpoint);
        while tried.len() < route.connect_attempts as usize
            && let Some(endpoint) = view.pick(ask, |endpoint| !tried.contains(&endpoint.id))
        {
            tried.push(endpoint.id);
            session.upstream = Some(endpoint.address);
            let Some(slot) = self.worker.pools.slot(number, endpoint.id, settings, &view.stats) else {
                stats.pool_overflow.inc();
                error = NotConnected::Upstream(UpstreamError::Overflow);
                continue;
            };
            match UdpSocket::connect(endpoint.address) {
                Ok(origin) => {
                    stats.connections_created.inc();
                    return Ok((origin, Taken { _slot: slot, _in_flight: view.begin_connection(endpoint) }));
                }
                Err(failed) => {
                    stats.connect_failures.inc();
                    session.failure = Some(failed.to_string());
                    error = NotConnected::Upstream(UpstreamError::Connect(failed.to_string()));
                }
            }
        }
        Err(error)
    }

    /// Sends the endpoint's datagrams to the client until the session ends.
    async fn answer(self: Rc<Self>, first: Datagram, link: Rc<Link>) {
        while link.wait().await {
            for _ in 0..BATCH {
                let mut buffer = self.buffer.borrow_mut();
                let len = match link.origin.receive(&mut buffer) {
                    Ok(Some(len)) => len,
                    Ok(None) => break,
                    Err(error) => {
                        link.cut(error);
                        break;
                    }
                };
                link.touch();
                // What the client's side does not take is lost, as datagrams may be.
                if let Ok(true) = self.socket.send(&buffer[..len], first.peer, first.local.ip()) {
                    link.session.borrow_mut().sent += len as u64;
                }
            }
        }
        self.end(first, &link);
    }

    fn end(&self, first: Datagram, link: &Rc<Link>) {
        let mut open = self.open.borrow_mut();
        // A new session may have taken the place already.
        if open.get(&(first.peer, first.local)).is_some_and(|known| Rc::ptr_eq(known, link)) {
            open.remove(&(first.peer, first.local));
        }
        drop(open);
        let (generation, id) = self.listener.generation();
        generation.listener(id).stats.shard(self.worker.worker).connections_active.dec();
        let mut session = link.session.borrow_mut();
        if let Some(error) = link.cut.take() {
            session.note(ResponseFlag::UpstreamConnectionTermination, "upstream_remote_disconnect");
            session.failure = Some(error.to_string());
        }
        session.finish(&self.worker, None);
    }
}

impl Link {
    /// Waits for something to receive; `false` when the session is over.
    async fn wait(&self) -> bool {
        if self.cut.borrow().is_some() {
            return false;
        }
        tokio::select! {
            biased;
            () = self.ends.notified() => false,
            () = self.origin.readable() => true,
            () = std::future::poll_fn(|cx| self.deadline.poll_passed(cx)) => false,
        }
    }

    /// A datagram came.
    fn touch(&self) {
        if let Some(idle) = self.idle {
            self.deadline.set(idle);
        }
    }

    fn cut(&self, error: io::Error) {
        self.cut.replace(Some(error));
        self.ends.notify_one();
    }
}

/// As logs and rules have it: IPv4 as IPv4, also where the socket takes both.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
