//! Endpoint names to addresses, without a worker ever waiting for DNS.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::config::model::{Config, EndpointAddress};
use crate::snapshot::Resolved;

/// Lookups at the same time in the whole process, those nobody waits for any more among them: a resolver drops queries
/// beyond some such number, and when it is dead, so many blocked threads are all it costs.
pub const LOOKUPS_AT_ONCE: usize = 32;

static LOOKUPS: Semaphore = Semaphore::const_new(LOOKUPS_AT_ONCE);

/// Every name the configuration has among its endpoints.
pub fn names(config: &Config) -> BTreeSet<String> {
    let endpoints = config.clusters.iter().flat_map(|cluster| &cluster.endpoints);
    endpoints
        .filter_map(|endpoint| match &endpoint.address {
            EndpointAddress::Name(name, _) => Some(name.clone()),
            EndpointAddress::Socket(_) => None,
        })
        .collect()
}

/// How often names are to be resolved again; `None` when there is none.
pub fn refresh(config: &Config) -> Option<Duration> {
    let has_name = |endpoint: &crate::config::model::Endpoint| matches!(endpoint.address, EndpointAddress::Name(..));
    let named = config.clusters.iter().filter(|cluster| cluster.endpoints.iter().any(has_name));
    named.map(|cluster| cluster.dns_refresh).min()
}

/// Resolves `names` as the system does (hosts file, resolver). Takes at most `limit`, however many there are. A
/// name that fails or has no answer by then keeps the addresses it had in `last`: an endpoint is better tried than
/// forgotten.
pub async fn all(names: &BTreeSet<String>, last: &Resolved, limit: Duration) -> Resolved {
    let mut resolved: Resolved =
        names.iter().filter_map(|name| Some((name.clone(), last.get(name)?.clone()))).collect();
    let end = Instant::now() + limit;
    let mut lookups: JoinSet<_> = names.iter().cloned().map(|name| lookup(name, end)).collect();
    while let Some(result) = lookups.join_next().await {
        match result {
            Ok((name, Ok(addresses))) => {
                resolved.insert(name, sorted(addresses));
            }
            Ok((name, Err(error))) => log::warn!("{name} cannot be resolved: {error}"),
            Err(_) => {}
        }
    }
    resolved
}

async fn lookup(name: String, end: Instant) -> (String, Result<Vec<IpAddr>, String>) {
    let answer = match tokio::time::timeout_at(end, ask(name.clone())).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err("no answer in time".into()),
    };
    (name, answer)
}

/// The addresses of one name, each once, in the order in which the system wants them to be tried (RFC 6724). The permit belongs to the thread, not to this future: getaddrinfo(3) cannot be cancelled, so a lookup that nobody
/// waits for any more still takes its place until the system's resolver gives up.
pub async fn ask(name: String) -> io::Result<Vec<IpAddr>> {
    let permit = LOOKUPS.acquire().await.map_err(io::Error::other)?;
    let lookup = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        // The port is not part of the question.
        Ok(each_once((name.as_str(), 0).to_socket_addrs()?.map(|address| address.ip())))
    });
    lookup.await.map_err(io::Error::other)?
}

/// The same addresses are no change in whatever order they come.
fn sorted(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    addresses.sort_unstable();
    addresses
}

/// In the order of their first appearance.
fn each_once(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut known = BTreeSet::new();
    addresses.filter(|address| known.insert(*address)).collect()
}

/// Asks for one name again and again, but not while an answer is outstanding: a name that does not resolve takes one place and
/// not all of them.
#[derive(Default)]
pub struct Asking(Option<JoinHandle<io::Result<Vec<IpAddr>>>>);

impl Asking {
    /// The addresses of `name`, always the same one. Who does not wait for the end gets the answer the next time.
    pub async fn ask(&mut self, name: &str) -> io::Result<Vec<IpAddr>> {
        let lookup = self.0.get_or_insert_with(|| tokio::spawn(ask(name.to_owned())));
        let answer = lookup.await;
        self.0 = None;
        answer.map_err(io::Error::other)?.map(sorted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn localhost() -> BTreeSet<String> {
        BTreeSet::from(["localhost".to_owned()])
    }

    #[test]
    fn addresses_keep_the_order_of_the_resolver() {
        let [one, two, six] = ["192.0.2.1", "192.0.2.2", "2001:db8::1"].map(|text| text.parse::<IpAddr>().unwrap());
        assert_eq!(each_once([six, two, six, one, two].into_iter()), [six, two, one]);
    }

    #[tokio::test]
    async fn a_name_of_the_hosts_file_is_resolved_and_frees_its_place() {
        let resolved = all(&localhost(), &Resolved::new(), Duration::from_secs(10)).await;
        assert!(resolved["localhost"].iter().all(IpAddr::is_loopback) && !resolved["localhost"].is_empty());
        drop(LOOKUPS.acquire_many(LOOKUPS_AT_ONCE as u32).await.expect("every place is free again"));
    }

    #[tokio::test]
    async fn a_name_that_gets_no_place_in_time_keeps_its_addresses() {
        let stuck = LOOKUPS.acquire_many(LOOKUPS_AT_ONCE as u32).await.expect("all places");
        let last = Resolved::from_iter([("localhost".to_owned(), vec![IpAddr::from([192, 0, 2, 1])])]);
        assert_eq!(all(&localhost(), &last, Duration::ZERO).await, last);
        drop(stuck);
    }

    #[tokio::test]
    async fn a_name_is_not_asked_about_again_while_its_answer_is_outstanding() {
        let stuck = LOOKUPS.acquire_many(LOOKUPS_AT_ONCE as u32).await.expect("all places");
        let mut asking = Asking::default();
        let mut lookups = Vec::new();
        for _ in 0..2 {
            assert!(tokio::time::timeout(Duration::from_millis(1), asking.ask("localhost")).await.is_err());
            lookups.extend(asking.0.as_ref().map(JoinHandle::id));
        }
        assert_eq!(lookups[0], lookups[1]);
        drop(stuck);
        assert!(!asking.ask("localhost").await.expect("an answer").is_empty());
        assert!(asking.0.is_none());
    }
}
