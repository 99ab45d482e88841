//! One worker: a pinned thread with its own ring, its sockets, its connections, and a mailbox.

mod accept;
mod beat;
mod rights;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::config::model::ListenerId;
use crate::metrics::access_log::queue::LogSink;
use crate::net::{self, Probe, now_ms};
use crate::overload::{Guard, Pressure};
use crate::proto::limits;
use crate::proxy::{Generation, ListenerCx, WorkerCx};
use crate::snapshot::Snapshot;

use accept::Acceptor;

pub use rights::give_up_capabilities;

/// Messages a worker has not looked at yet. Control sends one at a time and waits for the answer.
const MAILBOX: usize = 4;

/// How often a worker closes old idle connections and hands over log lines.
const TICK: Duration = Duration::from_secs(1);

/// What control tells a worker.
pub enum Message {
    /// A new generation. Answered once the worker serves it.
    Publish(Publish, oneshot::Sender<()>),
    /// Accept nothing more and end every connection after its current request. Answered when the last one is closed.
    Drain(oneshot::Sender<()>),
}

/// A new generation for one worker.
pub struct Publish {
    /// The generation.
    pub snapshot: Arc<Snapshot>,
    /// Sockets of listeners that are new or have a new address, by listener name.
    pub sockets: Vec<(String, OwnedFd)>,
    /// The new access log, where it changed.
    pub log: Option<Option<LogSink>>,
}

/// A running worker, as control sees it.
pub struct Handle {
    /// Where messages go.
    pub mailbox: mpsc::Sender<Message>,
    /// The thread.
    pub thread: std::thread::JoinHandle<()>,
}

/// Starts worker number `number` on `core`, with a first generation that has no listeners. `give_back` gives the system the
/// memory that is free in the calling thread.
pub fn spawn(
    number: usize,
    core: Option<usize>,
    probe: Probe,
    hostname: String,
    pressure: Arc<Pressure>,
    give_back: fn(),
) -> std::io::Result<Handle> {
    let (mailbox, messages) = mpsc::channel(MAILBOX);
    let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
        if let Err(error) = give_up_capabilities() {
            log::error!("worker {number}: cannot give up its capabilities: {error}");
        }
        if let Some(Err(error)) = core.map(net::pin_to_core) {
            log::warn!("worker {number}: cannot be pinned to core {core:?}: {error}");
        }
        net::start(probe, run(number, hostname, pressure, give_back, messages));
    })?;
    Ok(Handle { mailbox, thread })
}

/// A worker's state that no request needs.
struct Worker {
    cx: Rc<WorkerCx>,
    /// By listener name. Listeners that are gone and still have connections are kept by those connections alone.
    acceptors: RefCell<HashMap<String, Acceptor>>,
    next_group: Cell<u64>,
    give_back: fn(),
}

async fn run(
    number: usize,
    hostname: String,
    pressure: Arc<Pressure>,
    give_back: fn(),
    mut messages: mpsc::Receiver<Message>,
) {
    let worker = Rc::new(Worker {
        cx: Rc::new(WorkerCx::new(number, hostname, Guard::new(pressure, number))),
        acceptors: RefCell::default(),
        next_group: Cell::new(1),
        give_back,
    });
    net::spawn(worker.cx.timers.clone().run());
    net::spawn(worker.clone().tick());
    net::spawn(worker.clone().beat());
    while let Some(message) = messages.recv().await {
        match message {
            Message::Publish(publish, done) => {
                worker.publish(publish);
                let _ = done.send(());
            }
            Message::Drain(done) => {
                worker.drain().await;
                let _ = done.send(());
            }
        }
    }
}

impl Worker {
    fn publish(&self, publish: Publish) {
        let generation = Generation::new(publish.snapshot);
        self.cx.overload.configure(&generation.config.overload);
        if let Some(log) = publish.log {
            *self.cx.log.borrow_mut() = log;
        }
        let mut acceptors = self.acceptors.borrow_mut();
        for acceptor in acceptors.values() {
            acceptor.listener.update(&generation);
        }
        for (name, socket) in publish.sockets {
            let Some(id) = generation.listener_named(&name) else { continue };
            match acceptors.get(&name) {
                // A new address: connections of the old one go on under the same name.
                Some(old) => {
                    let acceptor = Acceptor::start(self.cx.clone(), old.listener.clone(), socket);
                    if let Some(old) = acceptors.insert(name, acceptor) {
                        old.stop();
                    }
                }
                None => {
                    let listener = self.listener(&generation, id);
                    let acceptor = Acceptor::start(self.cx.clone(), listener, socket);
                    acceptors.insert(name, acceptor);
                }
            }
        }
        let gone: Vec<String> =
            acceptors.keys().filter(|name| generation.listener_named(name).is_none()).cloned().collect();
        for name in gone {
            if let Some(acceptor) = acceptors.remove(&name) {
                self.close(acceptor);
            }
        }
        let known: std::collections::HashSet<_> =
            generation.clusters.iter().flat_map(|cluster| &cluster.endpoints).map(|endpoint| endpoint.id).collect();
        self.cx.pools.retain(&|endpoint| known.contains(&endpoint));
    }

    fn listener(&self, generation: &Generation, id: ListenerId) -> Rc<ListenerCx> {
        let group = self.next_group.get();
        self.next_group.set(group + 1);
        Rc::new(ListenerCx::new(generation.clone(), id, group))
    }

    /// Ends a listener: what is queued is served, what is idle closes soon, what is busy closes after its request.
    fn close(&self, acceptor: Acceptor) {
        acceptor.listener.close();
        self.cx.timers.hurry_for_good(acceptor.listener.group, now_ms() + limits::CLOSING_IDLE_MS);
        acceptor.stop();
    }

    async fn drain(&self) {
        let acceptors = std::mem::take(&mut *self.acceptors.borrow_mut());
        for acceptor in acceptors.into_values() {
            self.close(acceptor);
        }
        self.cx.open.wait_for_none().await;
        if let Some(log) = self.cx.log.borrow_mut().as_mut() {
            log.flush();
        }
    }

    async fn tick(self: Rc<Self>) {
        loop {
            tokio::time::sleep(TICK).await;
            self.cx.pools.sweep(now_ms());
            if let Some(log) = self.cx.log.borrow_mut().as_mut() {
                log.flush();
            }
        }
    }
}
