//! Endpoint names to addresses, without a worker ever waiting for DNS.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::model::{Config, EndpointAddress};
use crate::snapshot::Resolved;

/// Names resolved at the same time: a resolver drops queries beyond some such number.
const AT_ONCE: usize = 32;

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
    let mut lookups = JoinSet::new();
    let mut waiting = names.iter().cloned();
    for name in waiting.by_ref().take(AT_ONCE) {
        lookups.spawn(lookup(name, end));
    }
    while let Some(result) = lookups.join_next().await {
        if let Some(name) = waiting.next() {
            lookups.spawn(lookup(name, end));
        }
        match result {
            Ok((name, Ok(addresses))) => {
                resolved.insert(name, addresses);
            }
            Ok((name, Err(error))) => log::warn!("{name} cannot be resolved: {error}"),
            Err(_) => {}
        }
    }
    resolved
}

async fn lookup(name: String, end: Instant) -> (String, Result<Vec<IpAddr>, String>) {
    // The port is not part of the question.
    let answer = match tokio::time::timeout_at(end, tokio::net::lookup_host((name.as_str(), 0))).await {
        Err(_) => Err("no answer in time".into()),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok(addresses)) => {
            let addresses: BTreeSet<IpAddr> = addresses.map(|address| address.ip()).collect();
            Ok(addresses.into_iter().collect())
        }
    };
    (name, answer)
}
