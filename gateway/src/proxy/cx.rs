//! What a worker's requests share. One thread, so cells and no locks.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::UnixTime;
use tokio::sync::Notify;

use super::{Admitted, Open, Rooms};
use crate::config::model::ListenerId;
use crate::filter::forwarded::Peer;
use crate::metrics::access_log::queue::LogSink;
use crate::net::{Deadline, Timers, now_ms};
use crate::overload::Guard;
use crate::overload::ebb::Resting;
use crate::proto::client_cert::ClientCert;
use crate::proto::date::imf_fixdate;
use crate::proto::limits;
use crate::snapshot::{AdmittedBy, Generation, ListenerView, ServerTls, Shaken};
use crate::tls::{self, TlsInfo};
use crate::upstream::Pools;

/// One worker's world.
pub struct WorkerCx {
    /// Its number, from 0; the index of its shards.
    pub worker: usize,
    /// Its deadlines.
    pub timers: Timers,
    /// Its connections to origins.
    pub pools: Pools,
    /// Memory for its requests.
    pub rooms: Rooms,
    /// Its connections to clients.
    pub open: Open,
    /// Where its access log lines go; `None` is no log.
    pub log: RefCell<Option<LogSink>>,
    /// What weighs on it.
    pub overload: Guard,
    /// Its connections to clients that wait for their next request.
    pub resting: Resting,
    /// This machine's name, for the access log.
    pub hostname: String,
    served: Cell<u64>,
    rng: RefCell<fastrand::Rng>,
    date: RefCell<Date>,
}

/// The text of the current second.
struct Date {
    /// When that second is over, in [`now_ms`].
    ends: u64,
    text: [u8; 29],
}

impl WorkerCx {
    /// The world of worker number `worker`.
    pub fn new(worker: usize, hostname: String, overload: Guard) -> WorkerCx {
        WorkerCx {
            worker,
            timers: Timers::default(),
            pools: Pools::default(),
            rooms: Rooms::default(),
            open: Open::default(),
            log: RefCell::new(None),
            overload,
            resting: Resting::default(),
            hostname,
            served: Cell::new(0),
            rng: RefCell::new(fastrand::Rng::new()),
            date: RefCell::new(Date { ends: 0, text: imf_fixdate(0) }),
        }
    }

    /// A number for one more connection, unique over workers: the worker's number is in the top bits.
    pub fn next_id(&self) -> u64 {
        self.served.set(self.served.get() + 1);
        (self.worker as u64) << 48 | self.served.get()
    }

    /// Random bits.
    pub fn random(&self) -> u64 {
        self.rng.borrow_mut().u64(..)
    }

    /// Calls `with` with the text of a `date` field (RFC 9110 §6.6.1) for now.
    pub fn with_date<R>(&self, with: impl FnOnce(&[u8]) -> R) -> R {
        let (mut date, now) = (self.date.borrow_mut(), now_ms());
        if now >= date.ends {
            let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            date.text = imf_fixdate(wall.as_secs());
            date.ends = now + 1000 - u64::from(wall.subsec_millis());
        }
        with(&date.text)
    }
}

/// One worker's side of a listener; lives as long as its last connection.
pub struct ListenerCx {
    /// Its name, by which generations find it.
    pub name: String,
    /// Tells this listener's idle connections apart from others'.
    pub group: u64,
    current: RefCell<(Generation, ListenerId)>,
    closing: Cell<bool>,
    closed: Notify,
}

impl ListenerCx {
    /// The listener `id` of `generation`.
    pub fn new(generation: Generation, id: ListenerId, group: u64) -> ListenerCx {
        let name = generation.config.listeners[id.index()].name.clone();
        ListenerCx {
            name,
            group,
            current: RefCell::new((generation, id)),
            closing: Cell::new(false),
            closed: Notify::new(),
        }
    }

    /// The generation that a request beginning now belongs to. A listener that is gone keeps the last one it was in.
    pub fn generation(&self) -> (Generation, ListenerId) {
        let current = self.current.borrow();
        (current.0.clone(), current.1)
    }

    /// A new generation has come. When it does not have this listener, connections end after their current request.
    pub fn update(&self, generation: &Generation) {
        match generation.listener_named(&self.name) {
            Some(id) => *self.current.borrow_mut() = (generation.clone(), id),
            None => self.close(),
        }
    }

    /// From now on connections end after their current request.
    pub fn close(&self) {
        self.closing.set(true);
        self.closed.notify_waiters();
    }

    /// Waits until [`ListenerCx::is_closing`].
    pub async fn closed(&self) {
        let closed = self.closed.notified();
        if !self.is_closing() {
            closed.await;
        }
    }

    /// Whether connections end after their current request.
    pub fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// How long a connection waits for its next request.
    pub fn idle_timeout(&self) -> Duration {
        let (generation, id) = &*self.current.borrow();
        let timeout = generation.config.listeners[id.index()].limits.idle_timeout;
        match self.is_closing() {
            true => timeout.min(Duration::from_millis(limits::CLOSING_IDLE_MS)),
            false => timeout,
        }
    }
}

/// A downstream connection, as far as its requests care.
pub struct ConnectionCx {
    /// The listener it came by.
    pub listener: Rc<ListenerCx>,
    /// The other end.
    pub peer: Peer,
    /// Our end.
    pub local: std::net::SocketAddr,
    /// What the handshake settled, where there is TLS. Boxed, so that a connection without has no room for it.
    pub tls: Option<Box<TlsInfo>>,
    /// What its handshake was about is not served over it any more, as a reload has changed what is asked of clients.
    pub is_outdated: Cell<bool>,
    /// The server name of TLS that passes through.
    pub passing_name: Option<String>,
    /// Its number, for the access log.
    pub id: u64,
    /// Connections to origins that carry this client's address, and therefore serve nobody else: none for most clients.
    pub pools: OnceCell<Pools>,
    /// Counts it as open.
    pub admitted: Admitted,
}

/// The deadlines of one request at a time.
pub struct RequestTimers {
    /// Ends waits when nothing moves.
    pub idle: Deadline,
    /// Ends a request, or one try of it, that takes too long.
    pub end: Deadline,
    /// When the request has to be over, in [`now_ms`].
    whole: Cell<u64>,
    /// Whether its time counts.
    runs: Cell<bool>,
    /// Since when, in [`now_ms`].
    started: Cell<u64>,
}

impl RequestTimers {
    /// None is set.
    pub fn new(timers: &Timers) -> RequestTimers {
        let (whole, runs, started) = (Cell::new(u64::MAX), Cell::new(false), Cell::new(u64::MAX));
        RequestTimers { idle: timers.deadline(), end: timers.deadline(), whole, runs, started }
    }

    /// A request begins whose time does not count yet. It is over at `deadline`, in [`now_ms`], all the same.
    pub fn begin(&self, deadline: Option<u64>) {
        self.whole.set(deadline.unwrap_or(u64::MAX));
        self.runs.set(false);
        self.started.set(u64::MAX);
    }

    /// Its time counts from now on, and it is over after `timeout`. Does and says nothing when it counts already.
    pub fn start(&self, timeout: Option<Duration>) -> bool {
        let starts = !self.runs.replace(true);
        if starts {
            self.started.set(now_ms());
            self.whole.set(self.whole.get().min(timeout.map_or(u64::MAX, in_time)));
        }
        starts
    }

    /// A try begins, which is over after `timeout`, and with the request. A request that is still coming in has time.
    pub fn begin_try(&self, timeout: Option<Duration>) {
        let over = timeout.filter(|_| self.runs.get()).map_or(u64::MAX, in_time);
        self.end.set_at(self.whole.get().min(over));
    }

    /// From now on only the request can be over.
    pub fn end_tries(&self) {
        self.end.set_at(self.whole.get());
    }

    /// Milliseconds that its time had counted for at `now_ms`.
    pub fn took(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.started.get())
    }

    /// None is set any more, as before the first request.
    pub fn clear(&self) {
        self.idle.clear();
        self.end.clear();
        self.begin(None);
    }

    /// Whether the request is over, and not just a try.
    pub fn is_over(&self) -> bool {
        self.whole.get() <= now_ms()
    }
}

/// When `timeout` from now is over, in [`now_ms`].
pub(super) fn in_time(timeout: Duration) -> u64 {
    now_ms().saturating_add(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX))
}

impl ConnectionCx {
    /// The server name that the client asked for, whoever terminates its TLS.
    pub fn server_name(&self) -> Option<&str> {
        let terminated = self.tls.as_ref().and_then(|tls| tls.server_name.as_deref());
        terminated.or(self.passing_name.as_deref())
    }

    /// Whether the client wanted to reach another host when it connected to this `listener`, or has not done then what the
    /// host asks for.
    pub fn is_misdirected(&self, listener: &ListenerView, host: &[u8]) -> bool {
        let Some(tls) = &listener.tls else { return false };
        let server_name = self.tls.as_ref().and_then(|made| made.server_name.as_deref());
        !self.is_admitted(tls, host) || server_name.is_some_and(|name| tls.misdirects(name, host))
    }

    /// Finds out whether not even the host is served over it any more that the client wanted to reach when it connected: then
    /// it needs another connection.
    pub fn look_at_terms(&self, listener: &ListenerView) {
        let own = self.tls.as_ref().and_then(|made| made.server_name.as_deref()).unwrap_or_default();
        let is_outdated = listener.tls.as_ref().is_some_and(|tls| !self.is_admitted(tls, own.as_bytes()));
        self.is_outdated.set(is_outdated);
    }

    fn is_admitted(&self, tls: &ServerTls, host: &[u8]) -> bool {
        let made = self.tls.as_ref();
        let admitted = {
            let terms = made.map(|made| made.terms.borrow());
            let shaken = Shaken {
                terms: terms.as_ref().and_then(|terms| terms.as_ref()),
                server_name: made.and_then(|made| made.server_name.as_deref()),
                chain: made.and_then(|made| made.client.as_deref()).map_or(&[], |client| &client.chain),
                is_tls13: made.is_some_and(|made| made.version == tls::TLS13),
            };
            tls.admits(&shaken, host, UnixTime::now)
        };
        if let (AdmittedBy::Anew(terms), Some(made)) = (&admitted, made) {
            *made.terms.borrow_mut() = Some(terms.clone());
        }
        !matches!(admitted, AdmittedBy::No)
    }

    /// What the client has shown in the handshake.
    pub fn client_cert(&self) -> Option<&ClientCert> {
        self.tls.as_ref()?.client.as_deref()
    }
}

/// A generation and a listener in it, for the time of one request.
pub struct RequestCx {
    /// The generation.
    pub generation: Generation,
    /// The listener.
    pub listener: ListenerId,
}

impl RequestCx {
    /// The compiled listener.
    pub fn view(&self) -> &ListenerView {
        self.generation.listener(self.listener)
    }

    /// The listener's settings.
    pub fn settings(&self) -> &crate::config::model::Listener {
        &self.generation.config.listeners[self.listener.index()]
    }
}
