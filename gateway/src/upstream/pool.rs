//! A worker's connections to each endpoint.
//!
//! Idle ones of HTTP/1 are kept last-in-first-out, so that the surplus of a burst grows old and is closed. Each has a
//! receive in flight: a connection that the origin closed is seen without a system call, and the receive that was waiting
//! brings the next answer.
//!
//! Connections of HTTP/2 are shared. While one is being made, requests wait for it rather than making one each; it is made
//! by a task of its own, so a request that is given up does not take it away from the others.
//!
//! A request that finds as many connections as there may be, all of them busy, waits in a queue ([`super::slots`]).

use std::cell::RefCell;
use std::future::Future as _;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Poll;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use tokio::sync::Notify;

use super::slots::{Slot, Slots};
use super::{Connection, UpstreamError, h1, h2};
use crate::config::model::{Cluster, ClusterId, UpstreamProtocol};
use crate::metrics::registry::ClusterStats;
use crate::metrics::shard::{ClusterShard, Held};
use crate::net::{self, Deadline, Timers, Until};
use crate::proto::head::Scheme;
use crate::snapshot::{ClusterView, EndpointId, EndpointView, Generation};
use crate::tls;

/// One worker's pools.
#[derive(Clone, Default)]
pub struct Pools(Rc<Shelves>);

#[derive(Default)]
struct Shelves {
    /// Hashed without a secret: the ids are our own.
    endpoints: RefCell<HashMap<EndpointId, Pool, FixedState>>,
    /// Those of clients that have pools of their own.
    private: RefCell<Vec<Weak<Shelves>>>,
}

#[derive(Default)]
struct Pool {
    /// HTTP/1, oldest first.
    idle: Vec<Idle>,
    /// HTTP/2.
    shared: Vec<Rc<h2::Shared>>,
    /// The HTTP/2 connection that is being made.
    connecting: Option<Rc<Connecting>>,
    /// What ALPN settled last time.
    settled: Option<UpstreamProtocol>,
    /// Of the worker's own pools: what is open here and in its private pools. Of a private one: not used.
    slots: Rc<Slots>,
}

struct Idle {
    connection: Box<h1::Connection>,
    /// When it has been idle for long enough, in [`crate::net::now_ms`].
    expires: u64,
}

/// A connection that is being made.
#[derive(Default)]
struct Connecting {
    done: Notify,
    failed: RefCell<Option<UpstreamError>>,
}

impl Connecting {
    async fn done(&self, deadline: &Deadline) -> Result<(), UpstreamError> {
        let until = Until::only(deadline);
        let mut done = pin!(self.done.notified());
        std::future::poll_fn(|cx| match done.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Ok(())),
            Poll::Pending => until.poll_passed(cx).map(|_| Err(UpstreamError::ConnectTimeout)),
        })
        .await
    }
}

/// What a request can go on with.
enum Room {
    /// A connection that is there.
    Kept(Connection),
    /// The right to make one.
    New(Slot),
}

/// What a connection is wanted for.
pub struct Wanted<'a> {
    /// The worker's number.
    pub worker: usize,
    /// The generation, which a connection that is being made keeps alive.
    pub snapshot: &'a Generation,
    /// The cluster.
    pub cluster: ClusterId,
    /// The endpoint.
    pub endpoint: &'a EndpointView,
    /// Whether the request can be sent again should the connection turn out to be closed.
    pub repeatable: bool,
    /// Whether a connection that has served a request before will do.
    pub reuse: bool,
    /// Sent before anything else on a new connection.
    pub preamble: &'a [u8],
    /// The worker's deadlines.
    pub timers: &'a Timers,
    /// Ends the wait for a connection: it is set while there is one.
    pub deadline: &'a Deadline,
    /// When the request is over, where it has an end.
    pub end: Option<&'a Deadline>,
}

impl Wanted<'_> {
    fn settings(&self) -> &Cluster {
        &self.snapshot.config.clusters[self.cluster.index()]
    }

    fn view(&self) -> &ClusterView {
        self.snapshot.cluster(self.cluster)
    }

    fn stats(&self) -> &ClusterShard {
        self.view().stats.shard(self.worker)
    }

    fn slot(&self, slots: &Pools) -> Option<Slot> {
        slots.slot(self.worker, self.endpoint.id, self.settings(), &self.view().stats)
    }

    /// Counts the request as one that waits for a connection, unless too many do.
    fn enter_queue(&self) -> Result<Held<'_>, UpstreamError> {
        let stats = &self.view().stats;
        if stats.level(|shard| &shard.requests_pending) >= self.settings().max_pending_requests.into() {
            return Err(self.overflow());
        }
        Ok(stats.shard(self.worker).requests_pending.hold())
    }

    fn overflow(&self) -> UpstreamError {
        self.view().stats.shard(self.worker).pool_overflow.inc();
        UpstreamError::Overflow
    }

    /// `connect_timeout` begins.
    fn begin_wait(&self) {
        let timeout = self.settings().connect_timeout;
        match self.end {
            Some(end) => self.deadline.set_within(timeout, end),
            None => self.deadline.set(timeout),
        }
    }
}

impl Pools {
    /// Pools for one client alone. They are swept and trimmed with these.
    pub fn private(&self) -> Pools {
        let pools = Pools::default();
        self.0.private.borrow_mut().push(Rc::downgrade(&pools.0));
        pools
    }

    /// The right to send a request on a connection that is there, unless others wait for it.
    pub fn kept(&self, wanted: &Wanted<'_>) -> Option<Connection> {
        self.reuse(wanted, false)
    }

    /// The right to send a request, on a new connection or one that becomes free meanwhile. Waits for `connect_timeout` at
    /// most, and as long again where it had to queue. `slots` counts what is open.
    pub async fn connect(&self, wanted: &Wanted<'_>, slots: &Pools) -> Result<Connection, UpstreamError> {
        wanted.begin_wait();
        loop {
            let connecting = match self.being_made(wanted, slots) {
                Some(connecting) => connecting,
                None => match self.room(wanted, slots).await? {
                    Room::Kept(connection) => return Ok(connection),
                    Room::New(slot) if self.protocol(wanted) == UpstreamProtocol::H1 => {
                        return dial_h1(wanted, slot).await;
                    }
                    Room::New(slot) => self.make(wanted, slot),
                },
            };
            {
                let _pending = wanted.enter_queue()?;
                connecting.done(wanted.deadline).await?;
            }
            if let Some(error) = &*connecting.failed.borrow() {
                return Err(error.clone());
            }
            // A connection that nobody has used yet is as good as one of our own.
            if let Some(connection) = self.stream(wanted.endpoint.id).or_else(|| self.kept(wanted)) {
                return Ok(connection);
            }
        }
    }

    /// Room for a request; waits in the queue where there is none.
    async fn room(&self, wanted: &Wanted<'_>, slots: &Pools) -> Result<Room, UpstreamError> {
        let queue = slots.slots(wanted.endpoint.id);
        if !queue.has_queue()
            && let Some(room) = self.look(wanted, slots)
        {
            return Ok(room);
        }
        let found = {
            let _pending = wanted.enter_queue()?;
            let (place, until) = (queue.queue(), Until::only(wanted.deadline));
            std::future::poll_fn(|cx| match place.poll(cx, || self.look(wanted, slots)) {
                Poll::Ready(room) => Poll::Ready(Some(room)),
                Poll::Pending => until.poll_passed(cx).map(|_| None),
            })
            .await
        };
        // The endpoint is not to blame for the time that this took, so a connection to it gets all of its own.
        wanted.begin_wait();
        found.ok_or_else(|| wanted.overflow())
    }

    /// Room for a request, if there is some now. While a connection is being made that others can use, the queue waits for it.
    fn look(&self, wanted: &Wanted<'_>, slots: &Pools) -> Option<Room> {
        if let Some(connection) = self.reuse(wanted, true) {
            return Some(Room::Kept(connection));
        }
        if self.0.endpoints.borrow().get(&wanted.endpoint.id).is_some_and(|pool| pool.connecting.is_some()) {
            return None;
        }
        // A connection that this request must not use makes room for one that it may.
        let slot = wanted.slot(slots);
        let slot = slot.or_else(|| self.close_idle(wanted.endpoint.id).then(|| wanted.slot(slots)).flatten());
        slot.map(Room::New)
    }

    /// `is_turn`: the request is the first of the queue, or there is none.
    fn reuse(&self, wanted: &Wanted<'_>, is_turn: bool) -> Option<Connection> {
        let kept = wanted.reuse.then(|| self.take(wanted.endpoint.id, wanted.repeatable, is_turn)).flatten()?;
        wanted.view().stats.shard(wanted.worker).connections_reused.inc();
        Some(kept)
    }

    /// Closes the oldest idle connection; `false` when there is none.
    fn close_idle(&self, endpoint: EndpointId) -> bool {
        let mut endpoints = self.0.endpoints.borrow_mut();
        let Some(pool) = endpoints.get_mut(&endpoint).filter(|pool| !pool.idle.is_empty()) else { return false };
        pool.idle.remove(0);
        true
    }

    fn slots(&self, endpoint: EndpointId) -> Rc<Slots> {
        self.0.endpoints.borrow_mut().entry(endpoint).or_default().slots.clone()
    }

    /// An idle connection that is still good, or a stream. A request that cannot be sent twice is worth asking the kernel,
    /// which knows of a close a moment before our ring does.
    fn take(&self, endpoint: EndpointId, repeatable: bool, is_turn: bool) -> Option<Connection> {
        let mut endpoints = self.0.endpoints.borrow_mut();
        let pool = endpoints.entry(endpoint).or_default();
        if !is_turn && pool.slots.has_queue() {
            return None;
        }
        while let Some(mut idle) = pool.idle.pop() {
            if idle.connection.is_reusable() && (repeatable || !idle.connection.has_news()) {
                return Some(Connection::H1(idle.connection));
            }
        }
        pool.stream()
    }

    fn stream(&self, endpoint: EndpointId) -> Option<Connection> {
        self.0.endpoints.borrow_mut().get_mut(&endpoint)?.stream()
    }

    /// What a new connection will speak, as far as is known.
    fn protocol(&self, wanted: &Wanted<'_>) -> UpstreamProtocol {
        let configured = wanted.settings().protocol;
        if configured != UpstreamProtocol::Auto {
            return configured;
        }
        let endpoints = self.0.endpoints.borrow();
        endpoints.get(&wanted.endpoint.id).and_then(|pool| pool.settled).unwrap_or(UpstreamProtocol::Auto)
    }

    /// The connection that is being made, for those who can share it and come before any queue.
    fn being_made(&self, wanted: &Wanted<'_>, slots: &Pools) -> Option<Rc<Connecting>> {
        let connecting = self.0.endpoints.borrow().get(&wanted.endpoint.id)?.connecting.clone()?;
        let is_shared = self.protocol(wanted) != UpstreamProtocol::H1;
        (is_shared && !slots.slots(wanted.endpoint.id).has_queue()).then_some(connecting)
    }

    /// Begins to make a connection that others can use too.
    fn make(&self, wanted: &Wanted<'_>, slot: Slot) -> Rc<Connecting> {
        let connecting = Rc::new(Connecting::default());
        let mut endpoints = self.0.endpoints.borrow_mut();
        endpoints.entry(wanted.endpoint.id).or_default().connecting = Some(connecting.clone());
        net::spawn(establish(self.clone(), Owned::of(wanted), slot, connecting.clone()));
        connecting
    }

    /// The right of this worker to open one more connection; `None` when it has `max_connections`.
    pub fn slot(
        &self,
        worker: usize,
        endpoint: EndpointId,
        cluster: &Cluster,
        stats: &Arc<ClusterStats>,
    ) -> Option<Slot> {
        self.slots(endpoint).take(endpoint, cluster.max_connections, stats, worker)
    }

    /// Keeps a connection that can serve another request, or closes it when enough are kept. `uploaded`: the request was
    /// sent whole; behind half of one, the origin would take the next for the rest of it.
    pub fn put(&self, connection: Connection, uploaded: bool, cluster: &Cluster, now_ms: u64) {
        let Connection::H1(mut connection) = connection else { return };
        if !uploaded || !connection.is_reusable() {
            return;
        }
        let mut endpoints = self.0.endpoints.borrow_mut();
        // No pool: a reload took the endpoint away while the request ran.
        let Some(pool) = endpoints.get_mut(&connection.slot().endpoint()) else { return };
        let slots = connection.slot().slots();
        // A client's own is of no use to others, who wait for its place.
        let is_wanted_elsewhere = slots.has_queue() && !Rc::ptr_eq(slots, &pool.slots);
        if pool.idle.len() >= cluster.max_idle_connections as usize || is_wanted_elsewhere {
            return;
        }
        connection.rest();
        let expires = now_ms.saturating_add(cluster.idle_timeout.as_millis() as u64);
        pool.idle.push(Idle { connection, expires });
        pool.slots.offer();
    }

    /// Closes connections that have been idle for too long, or that the origin closed. The first of each queue looks again:
    /// nobody says when an HTTP/2 connection allows more streams, or when one that was in doubt is found to be well.
    pub fn sweep(&self, now_ms: u64) {
        for pool in self.0.endpoints.borrow_mut().values_mut() {
            pool.idle.retain_mut(|idle| idle.expires > now_ms && idle.connection.is_reusable());
            pool.shared.retain(|shared| !shared.is_closed() && !shared.is_expired(now_ms));
            pool.slots.offer();
        }
        self.each_private(|pools| pools.sweep(now_ms));
    }

    /// Forgets endpoints that are no longer there; their idle connections close now, busy ones when they are done. One that
    /// requests of the generation before wait for is forgotten by a later call: the places that become free are theirs.
    pub fn retain(&self, keep: &dyn Fn(EndpointId) -> bool) {
        self.0.endpoints.borrow_mut().retain(|endpoint, pool| {
            let keeps = keep(*endpoint);
            if !keeps {
                pool.idle.clear();
                pool.shared.clear();
                pool.slots.offer();
            }
            keeps || pool.slots.has_queue()
        });
        self.each_private(|pools| pools.retain(keep));
    }

    /// Visits the private ones, and forgets those whose client is gone.
    fn each_private(&self, visit: impl Fn(Pools)) {
        self.0.private.borrow_mut().retain(|pools| pools.upgrade().map(|pools| visit(Pools(pools))).is_some());
    }
}

impl Pool {
    /// A stream of the first connection that has room: the others grow idle.
    fn stream(&mut self) -> Option<Connection> {
        self.shared.retain(|shared| !shared.is_closed());
        self.shared.iter().find_map(h2::Shared::stream).map(|stream| Connection::H2(Box::new(stream)))
    }
}

/// What the task that connects needs of a [`Wanted`].
struct Owned {
    worker: usize,
    snapshot: Generation,
    cluster: ClusterId,
    endpoint: EndpointView,
    preamble: Box<[u8]>,
    timers: Timers,
    deadline: Deadline,
}

impl Owned {
    fn of(wanted: &Wanted<'_>) -> Owned {
        Owned {
            worker: wanted.worker,
            snapshot: wanted.snapshot.clone(),
            cluster: wanted.cluster,
            endpoint: wanted.endpoint.clone(),
            preamble: wanted.preamble.into(),
            timers: wanted.timers.clone(),
            deadline: wanted.timers.deadline(),
        }
    }

    fn wanted(&self) -> Wanted<'_> {
        Wanted {
            worker: self.worker,
            snapshot: &self.snapshot,
            cluster: self.cluster,
            endpoint: &self.endpoint,
            repeatable: true,
            reuse: false,
            preamble: &self.preamble,
            timers: &self.timers,
            deadline: &self.deadline,
            end: None,
        }
    }
}

/// Makes an HTTP/2 connection, or one of HTTP/1 where ALPN says so, and puts it where those who wait will find it.
async fn establish(pools: Pools, owned: Owned, slot: Slot, connecting: Rc<Connecting>) {
    let slots = slot.slots().clone();
    let made = make(&owned, slot).await;
    let mut endpoints = pools.0.endpoints.borrow_mut();
    // No pool: a reload took the endpoint away meanwhile. Those who wait find that out for themselves.
    if let Some(pool) = endpoints.get_mut(&owned.endpoint.id) {
        pool.connecting = None;
        match made {
            Ok(Made::H2(shared)) => {
                pool.settled = Some(UpstreamProtocol::H2);
                pool.shared.push(shared);
            }
            Ok(Made::H1(connection)) => {
                pool.settled = Some(UpstreamProtocol::H1);
                let expires = net::now_ms().saturating_add(owned.wanted().settings().idle_timeout.as_millis() as u64);
                pool.idle.push(Idle { connection, expires });
            }
            Err(error) => *connecting.failed.borrow_mut() = Some(error),
        }
    }
    drop(endpoints);
    connecting.done.notify_waiters();
    slots.offer();
}

async fn dial_h1(wanted: &Wanted<'_>, slot: Slot) -> Result<Connection, UpstreamError> {
    let dialled = super::dial(wanted.endpoint, wanted.preamble, wanted.stats(), wanted.deadline).await;
    let (reader, writer, _) = count(wanted, dialled)?;
    Ok(Connection::H1(Box::new(h1::Connection::new(reader, writer, slot))))
}

enum Made {
    H1(Box<h1::Connection>),
    H2(Rc<h2::Shared>),
}

async fn make(owned: &Owned, slot: Slot) -> Result<Made, UpstreamError> {
    let wanted = owned.wanted();
    let settings = wanted.settings();
    wanted.begin_wait();
    let dialled = super::dial(wanted.endpoint, wanted.preamble, wanted.stats(), wanted.deadline).await;
    let (reader, writer, info) = count(&wanted, dialled)?;
    let settled = info.as_ref().and_then(|info| info.alpn.as_deref());
    match (settings.protocol, settled) {
        (UpstreamProtocol::H2, Some(b"h2")) | (UpstreamProtocol::Auto, Some(b"h2")) => {}
        // Prior knowledge.
        (UpstreamProtocol::H2, _) if info.is_none() => {}
        (UpstreamProtocol::H2, _) => {
            return Err(UpstreamError::Connect("the endpoint does not speak HTTP/2 (ALPN)".into()));
        }
        _ => return Ok(Made::H1(Box::new(h1::Connection::new(reader, writer, slot)))),
    }
    let scheme = if info.is_some() { Scheme::Https } else { Scheme::Http };
    let io = tls::Stream::new(reader, writer);
    Ok(Made::H2(h2::connect(io, scheme, settings, slot, wanted.deadline, wanted.timers).await?))
}

/// Counts what became of an attempt to connect.
fn count<T>(wanted: &Wanted<'_>, dialled: Result<T, UpstreamError>) -> Result<T, UpstreamError> {
    let stats = wanted.stats();
    match dialled {
        Ok(_) => stats.connections_created.inc(),
        Err(_) => stats.connect_failures.inc(),
    }
    dialled
}
