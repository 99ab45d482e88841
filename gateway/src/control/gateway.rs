//! The running gateway, as the control thread holds it: generations, workers, sockets, and the steps of a reload.
//!
//! A reload is *read → check → build → prepare → commit*. Everything that can fail comes before the commit, and a
//! failure before it leaves the old generation running as if nothing had happened.

mod error;
mod kernel;
mod sockets;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;

pub use error::ReloadError;
pub use sockets::AdminSocket;
use sockets::{Bound, Prepared};

use super::acme::Acme;
use super::certificates::{Certificates, unix_s};
use super::health::Checks;
use super::limits::Exchanges;
use super::log_writer::{self, LogWriter};
use super::outliers::Outliers;
use super::privileges::{self, Privileges};
use super::shared::{Shared, State};
use super::{kept, resolve, services, tickets};
use crate::config::model::Config;
use crate::config::{self, Files, Known, Loaded, Refused, Report};
use crate::filter::bans::{self, Bans};
use crate::metrics::access_log::LineFormat;
use crate::metrics::access_log::queue::LogSink;
use crate::metrics::registry::Registry;
use crate::net;
use crate::overload::Pressure;
use crate::snapshot::{Builder, Challenges, Resolved, Snapshot};
use crate::worker::{self, Message, Publish};
use crate::xdp::Xdp;

/// How long names may take to resolve before a start or reload goes on without their addresses.
const RESOLVE_AT_START: Duration = Duration::from_secs(2);

/// How long the control thread waits for new answers, and with it a signal: as long as the system's resolver waits for
/// one server.
const RESOLVE_AGAIN: Duration = Duration::from_secs(5);

/// When certificates that have come of age are looked at again if that has failed: somebody has to mend the configuration first.
const LOOK_AGAIN_S: i64 = 60;

/// What a reload did.
#[derive(Debug)]
pub struct Reloaded {
    /// The generation that runs now.
    pub generation: u64,
    /// Whether it is a new one.
    pub changed: bool,
    /// What is allowed and probably not meant.
    pub warnings: Report,
    /// What it has to say of itself in the log.
    pub notes: Vec<String>,
}

/// What is to be done about endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointEvent {
    /// One has become healthy or unhealthy, or the next step of a slow start is due: [`share_anew`](Gateway::share_anew).
    Shares,
    /// An interval of outlier detection is over: [`compare_endpoints`](Gateway::compare_endpoints).
    Interval,
}

/// The workers and what they serve.
pub struct Gateway {
    path: PathBuf,
    files: Box<dyn Files>,
    builder: Builder,
    tickets: Arc<tickets::Keeper>,
    challenges: Arc<Challenges>,
    workers: Vec<worker::Handle>,
    current: Option<Arc<Snapshot>>,
    bound: HashMap<String, Bound>,
    admin: Option<Bound>,
    admin_socket: AdminSocket,
    resolved: Resolved,
    acme: Acme,
    /// When certificates are to be looked at again, in seconds of Unix time.
    again_at: Option<i64>,
    checks: Checks,
    outliers: Outliers,
    exchanges: Exchanges,
    /// The kernel's tables may not be what the running configuration says: a refused one is partly in them.
    in_doubt: bool,
    log: Option<LogWriter>,
    watched: Vec<PathBuf>,
    shared: Arc<Shared>,
    /// Reads what the XDP program tells.
    reader: JoinSet<()>,
}

impl Gateway {
    /// Reads the configuration, starts the workers and serves the first generation. `give_back`: see [`worker::spawn`].
    pub async fn start(
        path: PathBuf,
        files: Box<dyn Files>,
        privileges: Privileges,
        give_back: fn(),
    ) -> Result<(Gateway, Report), ReloadError> {
        let loaded = config::load(&path, &*files, SystemTime::now()).map_err(ReloadError::Config)?;
        if privileges == Privileges::GiveUp {
            privileges::give_up(&loaded.config.gateway).map_err(ReloadError::Privileges)?;
        }
        let probe = net::probe().map_err(|error| ReloadError::Bind(error.to_string()))?;
        let cores = net::cores();
        let count = loaded.config.gateway.workers.map_or(cores.len(), |count| count as usize).max(1);
        let hostname = hostname();
        let pressure = Arc::new(Pressure::new(count));
        let workers = (0..count)
            // More workers than cores share them unpinned.
            .map(|number| {
                let core = cores.get(number).copied();
                worker::spawn(number, core, probe, hostname.clone(), pressure.clone(), give_back)
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| ReloadError::Bind(format!("worker threads: {error}")))?;
        let registry = Arc::new(Registry::new(count));
        let bans = Arc::new(Bans::default());
        let tickets = Arc::new(tickets::Keeper::new().map_err(ReloadError::Build)?);
        let challenges = Arc::new(Challenges::default());
        let acme = Acme::new(challenges.clone());
        let (tally, renewals) = (acme.tally(), acme.renewals());
        let state = State {
            current: None,
            xdp: None,
            refused: Vec::new(),
            reloads_ok: 0,
            reloads_failed: 0,
            last_reload: SystemTime::UNIX_EPOCH,
        };
        let mut gateway = Gateway {
            path,
            files,
            builder: Builder::new(registry.clone(), bans.clone(), tickets.tickets(), challenges.clone()),
            tickets,
            challenges,
            workers,
            current: None,
            bound: HashMap::new(),
            admin: None,
            admin_socket: AdminSocket::Unchanged,
            resolved: Resolved::new(),
            acme,
            again_at: None,
            checks: Checks::default(),
            outliers: Outliers::default(),
            exchanges: Exchanges::default(),
            in_doubt: false,
            log: None,
            watched: Vec::new(),
            shared: Arc::new(Shared {
                registry,
                bans,
                pressure,
                certificates: Mutex::new(Certificates::new(hostname)),
                store_up: Arc::default(),
                store_refused: Arc::default(),
                acme: tally,
                renewals,
                state: Mutex::new(state),
                log_errors: Arc::default(),
            }),
            reader: JoinSet::new(),
        };
        let warnings = gateway.put_into_force(loaded).await?.warnings;
        Ok((gateway, warnings))
    }

    /// What the admin endpoint may look at.
    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// The running configuration.
    pub fn config(&self) -> &Config {
        &self.current.as_ref().expect("`start` does not return before a generation runs").config
    }

    /// Every file whose change is a reason to reload.
    pub fn watched(&self) -> &[PathBuf] {
        &self.watched
    }

    /// The addresses of the listeners, by name.
    pub fn addresses(&self) -> Vec<(String, SocketAddr)> {
        let of = |name: &String| Some((name.clone(), self.bound.get(name)?.actual));
        self.config().listeners.iter().filter_map(|listener| of(&listener.name)).collect()
    }

    /// The address of the admin endpoint.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        Some(self.admin.as_ref()?.actual)
    }

    /// What the generation now in force changes about the admin endpoint's socket; says so once.
    pub fn take_admin_socket(&mut self) -> AdminSocket {
        std::mem::take(&mut self.admin_socket)
    }

    /// The number of the first worker that has ended, which none should.
    pub fn dead_worker(&self) -> Option<usize> {
        self.workers.iter().position(|worker| worker.thread.is_finished())
    }

    /// Opens the access log's file anew.
    pub fn reopen_log(&self) {
        if let Some(log) = &self.log {
            log.reopen();
        }
    }

    /// Reads the configuration again and puts it into force if it is good and different.
    pub async fn reload(&mut self) -> Result<Reloaded, ReloadError> {
        let running = self.current.as_ref().map(|current| &current.config);
        let known = Known { now: SystemTime::now(), running, find_user: None };
        let result = match config::load_knowing(&self.path, &*self.files, &known) {
            Ok(loaded) => self.put_into_force(loaded).await,
            Err(report) => Err(ReloadError::Config(report)),
        };
        let mut state = self.shared.lock();
        match &result {
            Ok(reloaded) if reloaded.changed => {
                state.reloads_ok += 1;
                state.last_reload = SystemTime::now();
            }
            Ok(_) => {}
            Err(_) => state.reloads_failed += 1,
        }
        result
    }

    /// Resolves the endpoints' names again; when an answer is different, serves a generation with it.
    pub async fn resolve_again(&mut self) -> Result<(), ReloadError> {
        let names = resolve::names(self.config());
        let resolved = resolve::all(&names, &self.resolved, RESOLVE_AGAIN).await;
        if resolved == self.resolved {
            return Ok(());
        }
        let config = self.config().clone();
        let snapshot = self.build(config, &resolved)?;
        self.sync_kernel(&snapshot).await?;
        self.commit(snapshot, resolved, Vec::new(), None).await
    }

    /// Waits until something is to be done about endpoints. Nothing is lost when the future is dropped.
    pub async fn endpoints(&mut self) -> EndpointEvent {
        let Some(current) = &self.current else { return std::future::pending().await };
        let step = services::next_step(&current.config, &self.checks.now(current));
        let step = async {
            match step {
                Some(step) => tokio::time::sleep(step).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.checks.changed() => EndpointEvent::Shares,
            () = step => EndpointEvent::Shares,
            () = self.outliers.due() => EndpointEvent::Interval,
        }
    }

    /// The challenges of certificate authorities that are answered.
    pub fn challenges(&self) -> &Arc<Challenges> {
        &self.challenges
    }

    /// The keys of session tickets.
    pub fn tickets(&self) -> &Arc<tickets::Keeper> {
        &self.tickets
    }

    /// Compares the endpoints of clusters whose interval of outlier detection is over.
    pub fn compare_endpoints(&mut self) {
        if let Some(current) = &self.current {
            self.outliers.end_intervals(current);
        }
    }

    /// Whether certificates have to be looked at again, although no file has changed; says so once.
    pub fn certificates_are_due(&mut self) -> bool {
        let now = unix_s(SystemTime::now());
        self.again_at.take_if(|at| *at <= now).is_some()
    }

    /// Has certificates looked at again in a while at the latest, as it could not be done now.
    pub fn look_at_certificates_later(&mut self) {
        let later = unix_s(SystemTime::now()) + LOOK_AGAIN_S;
        self.again_at = Some(self.again_at.map_or(later, |at| at.min(later)));
    }

    /// Whether an endpoint of a vip waits for a route, which is looked for by [`share_anew`](Gateway::share_anew).
    pub fn lacks_route(&self) -> bool {
        self.shared.lock().xdp.as_ref().is_some_and(Xdp::lacks_route)
    }

    /// Tells the kernel who serves the vips now. Workers see by themselves what the health checks say.
    pub fn share_anew(&self) -> Result<(), ReloadError> {
        match &self.current {
            Some(current) => self.sync_services(current),
            None => Ok(()),
        }
    }

    /// Puts what has come into the certificate store into force. Files that have changed meanwhile, well or badly, have
    /// nothing to do with it. The generation, if there was anything new.
    pub async fn take_kept(&mut self) -> Result<Option<u64>, ReloadError> {
        let mut config = self.config().clone();
        let again_at = self.give_kept(&mut config)?;
        self.again_at = self.again_at.into_iter().chain(again_at).min();
        if config == *self.config() {
            // A value that is refused is news as well.
            self.shared.follow_certificates();
            return Ok(None);
        }
        let resolved = self.resolved.clone();
        let snapshot = self.build(config, &resolved)?;
        let generation = snapshot.generation;
        self.sync_kernel(&snapshot).await?;
        self.commit(snapshot, resolved, Vec::new(), None).await?;
        Ok(Some(generation))
    }

    /// Is notified when a certificate was obtained, which [`take_kept`](Gateway::take_kept) puts into force.
    pub fn obtained(&self) -> Arc<Notify> {
        self.acme.obtained()
    }

    /// Gives when this is to be done again, though nothing has come.
    fn give_kept(&self, config: &mut Config) -> Result<Option<i64>, ReloadError> {
        let running = self.current.as_ref().map(|current| &current.config);
        kept::give(config, running, unix_s(SystemTime::now())).map_err(ReloadError::Store)
    }

    async fn put_into_force(&mut self, loaded: Loaded) -> Result<Reloaded, ReloadError> {
        let Loaded { mut config, warnings, files, refused, notes, again_at } = loaded;
        self.watched = files;
        let kept_again_at = self.give_kept(&mut config)?;
        self.again_at = again_at.into_iter().chain(kept_again_at).min();
        self.tell_refused(refused);
        if let Some(current) = &self.current
            && current.config == config
            && !self.in_doubt
        {
            self.shared.follow_certificates();
            return Ok(Reloaded { generation: current.generation, changed: false, warnings, notes });
        }
        self.warn_of_what_needs_a_restart(&config);
        let resolved = self.resolve(&config).await;
        let snapshot = self.build(config, &resolved)?;
        let prepared = self.prepare(&snapshot.config)?;
        let (admin, admin_socket) = self.prepare_admin(&snapshot.config)?;
        let log = self.prepare_log(&snapshot.config)?;
        self.sync_kernel(&snapshot).await?;
        let generation = snapshot.generation;
        self.shared.bans.set_trusted(&bans::trusted(&snapshot.config));
        self.commit(snapshot, resolved, prepared, log).await?;
        if !matches!(admin_socket, AdminSocket::Unchanged) {
            (self.admin, self.admin_socket) = (admin, admin_socket);
        }
        Ok(Reloaded { generation, changed: true, warnings, notes })
    }

    /// The addresses of the endpoints. What changes nothing about them, such as a renewed certificate, does not wait for a
    /// resolver: names are looked up again in their time.
    async fn resolve(&self, config: &Config) -> Resolved {
        match &self.current {
            Some(current) if current.config.clusters == config.clusters => self.resolved.clone(),
            _ => resolve::all(&resolve::names(config), &self.resolved, RESOLVE_AT_START).await,
        }
    }

    /// Raises an alert for every pair that is refused and was not before.
    fn tell_refused(&self, refused: Vec<Refused>) {
        let before = std::mem::replace(&mut self.shared.lock().refused, refused.clone());
        for pair in refused.iter().filter(|pair| !before.contains(pair)) {
            let Refused { certificate, message, kept, .. } = pair;
            let instead = if *kept { "the pair it had is used" } else { "it is left out" };
            log::error!("certificate \"{certificate}\": a new pair is refused, {instead}: {message}");
        }
    }

    fn build(&mut self, config: Config, resolved: &Resolved) -> Result<Snapshot, ReloadError> {
        self.builder.build(config, resolved, self.current.as_deref()).map_err(ReloadError::Build)
    }

    fn warn_of_what_needs_a_restart(&self, config: &Config) {
        let Some(current) = &self.current else { return };
        let (old, new) = (&current.config.gateway, &config.gateway);
        if old.workers != new.workers {
            log::warn!("gateway.workers: the number of workers changes with the next start, not with a reload");
        }
        if (&old.user, &old.group, old.core_dumps) != (&new.user, &new.group, new.core_dumps) {
            log::warn!(
                "gateway.user, group, core_dumps: who the process is changes with the next start, not with a reload"
            );
        }
    }

    /// Opens the access log if it changed. `None`: it stays as it is.
    fn prepare_log(&self, config: &Config) -> Result<Option<Option<(LogWriter, LineFormat)>>, ReloadError> {
        let before = self.current.as_ref().and_then(|current| current.config.access_log.as_ref());
        if config.access_log.as_ref() == before {
            return Ok(None);
        }
        let Some(wanted) = &config.access_log else { return Ok(Some(None)) };
        let format = log_writer::line_format(&wanted.format)
            .map_err(|error| ReloadError::Log(format!("access_log.format: {}", error.message)))?;
        let writer = LogWriter::start(&wanted.target, self.shared.log_errors.clone())
            .map_err(|error| ReloadError::Log(format!("access_log.path: {:?}: {error}", wanted.target)))?;
        Ok(Some(Some((writer, format))))
    }

    /// Hands the generation to every worker and waits until each serves it.
    async fn commit(
        &mut self,
        snapshot: Snapshot,
        resolved: Resolved,
        prepared: Vec<Prepared>,
        log: Option<Option<(LogWriter, LineFormat)>>,
    ) -> Result<(), ReloadError> {
        let snapshot = Arc::new(snapshot);
        let mut sockets: Vec<Vec<(String, OwnedFd)>> = self.workers.iter().map(|_| Vec::new()).collect();
        for listener in prepared {
            for (of_worker, socket) in sockets.iter_mut().zip(listener.sockets) {
                of_worker.push((listener.name.clone(), socket));
            }
            self.bound.insert(listener.name, listener.bound);
        }
        let sink = |number: usize| match &log {
            None => None,
            Some(None) => Some(None),
            Some(Some((writer, format))) => {
                let stats = self.shared.registry.worker().clone();
                Some(Some(LogSink::new(Arc::new(format.clone()), writer.queue(), stats, number)))
            }
        };
        let mut acknowledged = Vec::new();
        for (number, (worker, sockets)) in self.workers.iter().zip(sockets).enumerate() {
            let publish = Publish { snapshot: snapshot.clone(), sockets, log: sink(number) };
            let (done, wait) = oneshot::channel();
            let sent = worker.mailbox.send(Message::Publish(publish, done)).await;
            sent.map_err(|_| ReloadError::Worker(number))?;
            acknowledged.push(wait);
        }
        for (number, wait) in acknowledged.into_iter().enumerate() {
            wait.await.map_err(|_| ReloadError::Worker(number))?;
        }
        if let Some(log) = log {
            self.log = log.map(|(writer, _)| writer);
        }
        self.bound.retain(|name, _| snapshot.listener_named(name).is_some());
        self.acme.follow(&snapshot.config);
        self.shared.lock().current = Some(snapshot.clone());
        self.shared.follow_certificates();
        self.current = Some(snapshot);
        self.resolved = resolved;
        Ok(())
    }

    /// Stops accepting and waits until every request in flight has its answer, at most for `drain_timeout`. Says
    /// whether all had.
    pub async fn drain(self) -> bool {
        let limit = self.config().gateway.drain_timeout;
        let mut finished = Vec::new();
        for worker in &self.workers {
            let (done, wait) = oneshot::channel();
            if worker.mailbox.send(Message::Drain(done)).await.is_ok() {
                finished.push(wait);
            }
        }
        let all = async {
            for wait in finished {
                let _ = wait.await;
            }
        };
        let drained = tokio::time::timeout(limit, all).await.is_ok();
        let Gateway { workers, log, .. } = self;
        if drained {
            for worker::Handle { mailbox, thread } in workers {
                drop(mailbox);
                let _ = thread.join();
            }
            log.map(|log| log.finish(Duration::from_secs(1)));
        }
        drained
    }
}

fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}
