//! The control thread's life: start, wait for something to happen, do it, drain.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::admin::{self, AdminState, Readiness, ReloadDone, ReloadRequest};
use super::fleet::Fleet;
use super::gateway::{AdminSocket, EndpointEvent, Gateway, ReloadError};
use super::privileges::Privileges;
use super::watch::FileWatch;
use super::{acme, config_view, endpoints_view, notify, overload, resolve};
use crate::config::Files;
use crate::metrics::render;
use crate::net;

/// Reload requests that wait for the one in progress.
const RELOADS_WAITING: usize = 16;

/// How often the control thread looks whether every worker is alive.
const CHECK: Duration = Duration::from_secs(1);

/// Runs the gateway until a signal ends it.
///
/// `at_ready` is called with the listeners' addresses once all of them accept and `READY` is written. `give_back` gives the
/// system the memory that is free in the thread that calls it, as only the program knows its allocator.
pub fn run(
    path: PathBuf,
    files: Box<dyn Files>,
    privileges: Privileges,
    give_back: fn(),
    at_ready: impl FnOnce(&[(String, std::net::SocketAddr)]),
) -> Result<(), ReloadError> {
    net::raise_descriptor_limit();
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    // Only lookups and orders block, of which each holds a permit, one making of access lists, and one reading of the system's
    // authorities: none ever waits for a thread.
    let threads = resolve::LOOKUPS_AT_ONCE + acme::ORDERS_AT_ONCE + 2;
    let runtime = runtime.enable_all().max_blocking_threads(threads).build();
    let runtime = runtime.map_err(|error| ReloadError::Bind(format!("control thread: {error}")))?;
    let result = runtime.block_on(async {
        let (gateway, warnings) = Gateway::start(path, files, privileges, give_back).await?;
        if !warnings.diagnostics.is_empty() {
            log::warn!("{warnings}");
        }
        Control::new(gateway)?.run(at_ready).await
    });
    // A name that is still being looked up must not keep the process.
    runtime.shutdown_background();
    result
}

/// What may happen.
enum Event {
    Reload(&'static str),
    ReloadRequested(ReloadRequest),
    Obtained,
    ReopenLog,
    Resolve,
    Endpoints(EndpointEvent),
    Check,
    Stop,
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    user1: Signal,
}

struct Control {
    gateway: Gateway,
    fleet: Fleet,
    signals: Signals,
    files: Option<FileWatch>,
    readiness: watch::Sender<Readiness>,
    reloads: mpsc::Receiver<ReloadRequest>,
    reload: mpsc::Sender<ReloadRequest>,
    admin: Option<JoinHandle<()>>,
    check: tokio::time::Interval,
    last_resolved: Instant,
    /// The kernel does not have what the endpoints are now.
    sharing_failed: bool,
}

impl Control {
    fn new(gateway: Gateway) -> Result<Control, ReloadError> {
        let signals = Signals::new().map_err(|error| ReloadError::Bind(format!("signals: {error}")))?;
        let files = FileWatch::new(gateway.watched().to_vec())
            .inspect_err(|error| log::warn!("files are not watched: {error}; reload by SIGHUP or POST /reload"))
            .ok();
        let (readiness, _) = watch::channel(Readiness::Initializing);
        let (reload, reloads) = mpsc::channel(RELOADS_WAITING);
        let mut control = Control {
            fleet: Fleet::new(gateway.shared().store_up.clone(), gateway.shared().store_refused.clone()),
            gateway,
            signals,
            files,
            readiness,
            reloads,
            reload,
            admin: None,
            check: tokio::time::interval(CHECK),
            last_resolved: Instant::now(),
            sharing_failed: false,
        };
        control.serve_admin();
        control.follow_fleet();
        Ok(control)
    }

    async fn run(mut self, at_ready: impl FnOnce(&[(String, std::net::SocketAddr)])) -> Result<(), ReloadError> {
        let overload = tokio::spawn(overload::watch(self.gateway.shared()));
        self.announce(at_ready);
        loop {
            match self.next_event().await {
                Event::Reload(why) => {
                    let _ = self.reload(why).await;
                }
                Event::ReloadRequested(request) => {
                    let result = self.reload("POST /reload").await;
                    let _ = request.reply.send(result);
                }
                Event::Obtained => self.take_kept().await,
                Event::ReopenLog => self.gateway.reopen_log(),
                Event::Resolve => {
                    self.last_resolved = Instant::now();
                    if let Err(error) = self.gateway.resolve_again().await {
                        log::error!("{error}");
                    }
                }
                Event::Endpoints(EndpointEvent::Shares) => self.share_anew(),
                Event::Endpoints(EndpointEvent::Interval) => self.gateway.compare_endpoints(),
                Event::Check => {
                    self.gateway.shared().keep_time();
                    self.gateway.tickets().keep_time(self.fleet.is_alone());
                    if let Some(number) = self.gateway.dead_worker() {
                        return Err(ReloadError::Worker(number));
                    }
                    if self.gateway.certificates_are_due()
                        && self.reload("certificates have come of age").await.is_err()
                    {
                        // What is stored does not wait until the files are good again.
                        self.take_kept().await;
                        self.gateway.look_at_certificates_later();
                    }
                    if self.sharing_failed || self.gateway.lacks_route() {
                        self.share_anew();
                    }
                }
                Event::Stop => break,
            }
        }
        // To the end: what drains holds memory as well.
        self.drain().await;
        overload.abort();
        Ok(())
    }

    async fn next_event(&mut self) -> Event {
        let refresh = resolve::refresh(self.gateway.config());
        let files = async {
            match &mut self.files {
                Some(files) => files.changed().await,
                None => std::future::pending().await,
            }
        };
        let resolve = async {
            match refresh {
                Some(refresh) => tokio::time::sleep_until(self.last_resolved + refresh).await,
                None => std::future::pending().await,
            }
        };
        let obtained = self.gateway.obtained();
        tokio::select! {
            _ = self.signals.terminate.recv() => Event::Stop,
            _ = self.signals.interrupt.recv() => Event::Stop,
            _ = self.signals.hangup.recv() => Event::Reload("SIGHUP"),
            _ = self.signals.user1.recv() => Event::ReopenLog,
            Some(request) = self.reloads.recv() => Event::ReloadRequested(request),
            () = obtained.notified() => Event::Obtained,
            () = files => Event::Reload("a file changed"),
            () = self.fleet.changed() => Event::Obtained,
            () = resolve => Event::Resolve,
            event = self.gateway.endpoints() => Event::Endpoints(event),
            _ = self.check.tick() => Event::Check,
        }
    }

    /// Tells the kernel who serves the vips. A failure is told once, and tried again until it succeeds.
    fn share_anew(&mut self) {
        let shared = self.gateway.share_anew();
        if let (Err(error), false) = (&shared, self.sharing_failed) {
            log::error!("{error}");
        }
        self.sharing_failed = shared.is_err();
    }

    /// Shares with other boxes what the configuration says.
    fn follow_fleet(&mut self) {
        let had_refused = !self.gateway.shared().store_refused.is_empty();
        let followed = self.fleet.follow(self.gateway.config(), self.gateway.tickets(), self.gateway.challenges());
        if let Err(error) = followed {
            log::error!("certificate store: {error}; this box is alone");
        }
        if had_refused {
            // Values of another etcd, or of none, are not refused any more.
            self.gateway.shared().follow_certificates();
        }
    }

    async fn take_kept(&mut self) {
        match self.gateway.take_kept().await {
            Ok(Some(generation)) => log::info!("new certificates: generation {generation} in force"),
            Ok(None) => {}
            Err(error) => log::error!("certificates that have come are not used: {error}"),
        }
    }

    async fn reload(&mut self, why: &str) -> Result<ReloadDone, String> {
        notify::reloading();
        let result = self.gateway.reload().await;
        if let Some(files) = &mut self.files {
            files.replace(self.gateway.watched().to_vec());
        }
        self.serve_admin();
        self.follow_fleet();
        let (status, result) = match result {
            Ok(reloaded) => {
                let what = if reloaded.changed { "in force" } else { "unchanged" };
                let status = format!("generation {} {what}", reloaded.generation);
                let warnings: Vec<String> =
                    reloaded.warnings.diagnostics.iter().map(|found| found.message.clone()).collect();
                let done = ReloadDone { generation: reloaded.generation, changed: reloaded.changed, warnings };
                match &reloaded.notes[..] {
                    [] => log::info!("reload ({why}): {status}"),
                    notes => log::warn!("reload ({why}): {status}; {}", notes.join("; ")),
                }
                (status, Ok(done))
            }
            Err(error) => {
                log::error!(
                    "reload ({why}) refused; the running configuration stays:\n{}",
                    error.to_string().trim_end()
                );
                ("the last reload was refused; see the log".to_owned(), Err(error.to_string()))
            }
        };
        notify::reloaded(&status);
        result
    }

    /// Serves the admin endpoint where the generation in force wants it. Requests of the old socket are finished.
    fn serve_admin(&mut self) {
        let admin = match self.gateway.take_admin_socket() {
            AdminSocket::Unchanged => return,
            AdminSocket::Off => None,
            AdminSocket::New(listener) => Some(tokio::spawn(serve_admin(listener, self.admin_state()))),
        };
        if let Some(old) = std::mem::replace(&mut self.admin, admin) {
            old.abort();
        }
    }

    fn admin_state(&self) -> AdminState {
        let [metrics, config, endpoints, certificates, renewals, pressure] =
            std::array::from_fn(|_| self.gateway.shared());
        AdminState {
            readiness: self.readiness.subscribe(),
            metrics: Arc::new(move || {
                let mut page = String::new();
                render::render(&metrics.registry, &metrics.extra(), &mut page);
                page
            }),
            config: Arc::new(move || match config.current() {
                Some(current) => format!("{:#}\n", config_view::view(&current.config)),
                None => String::new(),
            }),
            endpoints: Arc::new(move || match endpoints.current() {
                Some(current) => format!("{:#}\n", endpoints_view::view(&current)),
                None => String::new(),
            }),
            certificates: Arc::new(move || certificates.certificates()),
            renew: Arc::new(move |which| renewals.renew(which)),
            overload: Arc::new(move || overload::view(&pressure.pressure)),
            reload: self.reload.clone(),
            sources: Arc::new(self.gateway.shared()),
        }
    }

    /// Says where the gateway listens, then that it is ready: one line each on standard output.
    fn announce(&self, at_ready: impl FnOnce(&[(String, std::net::SocketAddr)])) {
        let addresses = self.gateway.addresses();
        let mut out = std::io::stdout().lock();
        for (name, address) in &addresses {
            let _ = writeln!(out, "LISTEN {name} {address}");
        }
        if let Some(address) = self.gateway.admin_address() {
            let _ = writeln!(out, "ADMIN {address}");
        }
        drop(out);
        self.readiness.send_replace(Readiness::Live);
        notify::ready();
        at_ready(&addresses);
    }

    async fn drain(mut self) {
        self.readiness.send_replace(Readiness::Draining);
        notify::stopping();
        let limit = self.gateway.config().gateway.drain_timeout;
        log::info!("draining, at most {limit:?}; a second signal ends at once");
        let drained = tokio::select! {
            drained = self.gateway.drain() => drained,
            _ = self.signals.terminate.recv() => false,
            _ = self.signals.interrupt.recv() => false,
        };
        match drained {
            true => log::info!("drained"),
            false => log::warn!("ended with requests still in flight"),
        }
    }
}

async fn serve_admin(listener: TcpListener, state: AdminState) {
    if let Err(error) = admin::serve(listener, state).await {
        log::error!("admin endpoint: {error}");
    }
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            user1: signal(SignalKind::user_defined1())?,
        })
    }
}
