//! Active health checks: one task for each endpoint on the control thread, however many workers there are.
//!
//! A task asks, counts good and bad answers in a row, and tells [`Checks`] when they are enough; [`Checks`] alone writes
//! what workers read. The first answer decides at once.

mod exchange;
mod get;
mod grpc;
mod probe;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::services::EndpointNow;
use crate::config::model::{Cluster, Endpoint, EndpointAddress, HealthCheck};
use crate::net::now_ms;
use crate::snapshot::{CheckTls, Health, Snapshot};
use crate::xdp::ProbeWay;

/// Checks at the same time. Each holds a descriptor, which the workers need too; those that wait for a place are late,
/// not failed.
const CHECKS_AT_ONCE: usize = 256;

static CHECKS: Semaphore = Semaphore::const_new(CHECKS_AT_ONCE);

/// Verdicts that wait for the control thread. When there is no room a task waits with its next check.
const VERDICTS: usize = 1024;

/// Who is asked: an endpoint's address in a cluster.
type Key = (String, SocketAddr);

/// Every endpoint of the running generation, and the tasks that ask.
pub struct Checks {
    endpoints: HashMap<Key, Followed>,
    sender: mpsc::Sender<Verdict>,
    verdicts: mpsc::Receiver<Verdict>,
    tasks: u64,
    /// Endpoints of the first generation do not start slowly: before it there was nobody to take their share.
    is_first: bool,
}

struct Followed {
    health: Arc<Health>,
    /// Since when it is there, or is healthy again; `None` is for ever.
    since: Option<Instant>,
    task: Option<Task>,
}

/// A running check. Dropping it ends it.
struct Task {
    number: u64,
    question: Question,
    answered: bool,
    handle: JoinHandle<()>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

/// What an endpoint is asked.
#[derive(Clone, Debug, PartialEq)]
struct Question {
    check: HealthCheck,
    /// The host of an HTTP request or gRPC call, where the check names none.
    host: String,
    /// Where it is asked.
    address: SocketAddr,
    /// How TLS is spoken to it; `None` is cleartext.
    tls: Option<Tls>,
    /// The virtual addresses at which it is asked in place of its own.
    ways: Vec<ProbeWay>,
}

/// TLS with one endpoint.
#[derive(Clone, Debug)]
struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl PartialEq for Tls {
    fn eq(&self, other: &Tls) -> bool {
        // A snapshot keeps the settings of the one before while they mean the same.
        Arc::ptr_eq(&self.config, &other.config) && self.name == other.name
    }
}

/// What a task found out.
struct Verdict {
    key: Key,
    task: u64,
    result: Result<(), String>,
}

impl Default for Checks {
    fn default() -> Checks {
        let (sender, verdicts) = mpsc::channel(VERDICTS);
        Checks { endpoints: HashMap::new(), sender, verdicts, tasks: 0, is_first: true }
    }
}

impl Checks {
    /// Asks the endpoints of this generation from now on, and nobody else. Checks that stay the same go on.
    ///
    /// `ways` are those by which each cluster's endpoints are asked at virtual addresses, by cluster id; without any of the
    /// endpoint's IP version it is asked at its own address.
    pub fn follow(&mut self, snapshot: &Snapshot, ways: &[Vec<ProbeWay>]) {
        let mut before = std::mem::take(&mut self.endpoints);
        let since = (!self.is_first).then(Instant::now);
        for ((cluster, view), ways) in snapshot.config.clusters.iter().zip(&snapshot.clusters).zip(ways) {
            for (at, endpoint) in view.endpoints.iter().enumerate() {
                let key = (cluster.name.clone(), endpoint.address);
                let tls = view.check_tls.as_ref().map(|tls| Tls::of(tls, at));
                let question = question(cluster, &cluster.endpoints[endpoint.configured], endpoint.address, tls, ways);
                let old = before.remove(&key).or_else(|| self.endpoints.remove(&key));
                let old = old.unwrap_or_else(|| {
                    if since.is_some() {
                        endpoint.health.begin(now_ms());
                    }
                    Followed { health: endpoint.health.clone(), since, task: None }
                });
                let task = match (old.task, question) {
                    (Some(task), Some(question)) if task.question == question => Some(task),
                    (_, Some(question)) => Some(self.start(key.clone(), question)),
                    (_, None) => {
                        endpoint.health.set(true);
                        endpoint.health.explain(None);
                        None
                    }
                };
                self.endpoints.insert(key, Followed { health: endpoint.health.clone(), since: old.since, task });
            }
        }
        self.is_first = false;
    }

    /// Waits until every endpoint has been asked once, so that nobody is sent to one that is known to be dead; at most
    /// for `limit`.
    pub async fn settle(&mut self, limit: Duration) {
        let end = Instant::now() + limit;
        let waits =
            |checks: &Checks| checks.endpoints.values().filter_map(|one| one.task.as_ref()).any(|t| !t.answered);
        while waits(self)
            && let Ok(Some(verdict)) = timeout_at(end, self.verdicts.recv()).await
        {
            self.take(verdict);
        }
    }

    /// Waits until an endpoint has become healthy or unhealthy. Nothing is lost when the future is dropped.
    pub async fn changed(&mut self) {
        loop {
            // There always is a sender: `self` has one.
            if let Some(verdict) = self.verdicts.recv().await
                && self.take(verdict)
            {
                return;
            }
        }
    }

    /// The endpoints of the snapshot as they are now, by cluster.
    pub fn now(&self, snapshot: &Snapshot) -> Vec<Vec<EndpointNow>> {
        let of_cluster = |(cluster, view): (&Cluster, &crate::snapshot::ClusterView)| {
            let now = |endpoint: &crate::snapshot::EndpointView| {
                let followed = self.endpoints.get(&(cluster.name.clone(), endpoint.address));
                EndpointNow {
                    address: endpoint.address,
                    weight: cluster.endpoints[endpoint.configured].weight,
                    drain: endpoint.drain,
                    healthy: endpoint.health.is_healthy(),
                    age: followed.and_then(|followed| followed.since).map(|since| since.elapsed()),
                }
            };
            view.endpoints.iter().map(now).collect()
        };
        snapshot.config.clusters.iter().zip(&snapshot.clusters).map(of_cluster).collect()
    }

    fn start(&mut self, key: Key, question: Question) -> Task {
        self.tasks += 1;
        let number = self.tasks;
        let handle = tokio::spawn(ask_for_ever(key, number, question.clone(), self.sender.clone()));
        Task { number, question, answered: false, handle }
    }

    /// Says whether the verdict changes something.
    fn take(&mut self, verdict: Verdict) -> bool {
        let Verdict { key, task: number, result } = verdict;
        let Some(followed) = self.endpoints.get_mut(&key) else { return false };
        // The last word of a task that has been ended says nothing about what is asked now.
        let Some(task) = followed.task.as_mut().filter(|task| task.number == number) else { return false };
        let first = !std::mem::replace(&mut task.answered, true);
        followed.health.explain(result.as_ref().err().map(String::as_str));
        let changed = followed.health.set(result.is_ok());
        let (cluster, address) = &key;
        match result {
            Ok(()) if changed => {
                followed.since = Some(Instant::now());
                followed.health.begin(now_ms());
                log::info!("cluster \"{cluster}\": endpoint {address} is healthy again");
            }
            Ok(()) if first => log::info!("cluster \"{cluster}\": endpoint {address} is healthy"),
            Ok(()) => {}
            Err(why) => log::warn!("cluster \"{cluster}\": endpoint {address} is unhealthy: {why}"),
        }
        changed
    }
}

impl Tls {
    fn of(CheckTls { config, names }: &CheckTls, at: usize) -> Tls {
        Tls { config: config.clone(), name: names[at].clone() }
    }
}

fn question(
    cluster: &Cluster,
    endpoint: &Endpoint,
    address: SocketAddr,
    tls: Option<Tls>,
    ways: &[ProbeWay],
) -> Option<Question> {
    let check = cluster.health_check.clone()?;
    let host = match &endpoint.address {
        EndpointAddress::Socket(address) => address.to_string(),
        EndpointAddress::Name(name, port) => format!("{name}:{port}"),
    };
    let address = SocketAddr::new(address.ip(), check.port.unwrap_or(address.port()));
    let ways = ways.iter().filter(|way| way.vip().is_ipv4() == address.is_ipv4()).cloned().collect();
    Some(Question { check, host, address, tls, ways })
}

async fn ask_for_ever(key: Key, task: u64, question: Question, verdicts: mpsc::Sender<Verdict>) {
    let mut judge = Judge::new(&question.check);
    loop {
        let result = ask(&question).await;
        if judge.hears(result.is_ok()) && verdicts.send(Verdict { key: key.clone(), task, result }).await.is_err() {
            return;
        }
        sleep(jittered(question.check.interval, fastrand::f64())).await;
    }
}

/// One check: at each of the virtual addresses, or at the endpoint's own. The error says what went wrong.
async fn ask(question: &Question) -> Result<(), String> {
    if question.ways.is_empty() {
        return ask_at(question, None).await;
    }
    for way in &question.ways {
        ask_at(question, Some(way)).await.map_err(|why| format!("asked at {}: {why}", way.vip()))?;
    }
    Ok(())
}

async fn ask_at(question: &Question, way: Option<&ProbeWay>) -> Result<(), String> {
    // The semaphore is never closed.
    let _place = CHECKS.acquire().await;
    let limit = question.check.timeout;
    match timeout(limit, probe::probe(question, way)).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer within {limit:?}")),
    }
}

/// Up to 10 % more or less, so that the checks of many gateways do not come together. `random` is from 0 to 1.
fn jittered(interval: Duration, random: f64) -> Duration {
    interval.mul_f64(0.9 + 0.2 * random)
}

/// Counts answers in a row.
#[derive(Debug)]
struct Judge {
    healthy_after: u32,
    unhealthy_after: u32,
    /// `None` before the first answer.
    healthy: Option<bool>,
    /// Answers in a row that contradict it.
    against: u32,
}

impl Judge {
    fn new(check: &HealthCheck) -> Judge {
        Judge { healthy_after: check.healthy, unhealthy_after: check.unhealthy, healthy: None, against: 0 }
    }

    /// Says whether this answer decides: the first one does, and then the last of enough in a row.
    fn hears(&mut self, good: bool) -> bool {
        if self.healthy == Some(good) {
            self.against = 0;
            return false;
        }
        self.against += 1;
        let enough = if good { self.healthy_after } else { self.unhealthy_after };
        if self.healthy.is_some() && self.against < enough {
            return false;
        }
        (self.healthy, self.against) = (Some(good), 0);
        true
    }
}
