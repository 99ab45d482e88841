//! What brings a client back to the endpoint it had: the key of its request, and cookies.

use super::{Exchange, Request};
use crate::balance::{self, hash, key};
use crate::config::model::{Cluster, ClusterId, Config, Forward, HashRule, RouteId};
use crate::net::now_ms;
use crate::proto::cookie;
use crate::proto::head::Known;
use crate::snapshot::{Ask, EndpointView};

impl Request<'_> {
    /// The cluster, and what the choice of an endpoint there depends on; `None` when no cluster has weight. Remembers the
    /// cookie that the client has to be given for its key.
    ///
    /// Who comes back to an endpoint comes back to its cluster: a cookie that names an endpoint decides, then a key by rules
    /// of the route, and chance for all others.
    fn ask(&mut self, to: &Forward, route: RouteId) -> Option<(ClusterId, Ask)> {
        let generation = self.cx.generation.clone();
        let clusters = &generation.config.clusters;
        let route_key = if to.hash_on.is_empty() { None } else { self.key(&to.hash_on) };
        let named = to.clusters.iter().find_map(|share| {
            let named = self.named(&clusters[share.cluster.index()])?;
            generation.cluster(share.cluster).knows(named).then_some((share.cluster, named))
        });
        let chance = || route_key.map_or_else(|| self.worker.random(), hash::mix) as u32;
        let id = match named {
            Some((id, _)) => id,
            None => balance::pick_weighted(&to.clusters, chance())?,
        };
        let cluster = &clusters[id.index()];
        let key = match cluster.balance.hashes() {
            true if to.hash_on.is_empty() => self.key(&cluster.hash_on),
            _ => route_key,
        };
        let named = named.map(|(_, named)| named).or_else(|| self.named(cluster));
        let subset = generation.route_subsets[route.index()];
        // Each try has its own random bits.
        Some((id, Ask { worker: self.worker.worker, random: 0, now_ms: now_ms(), key, subset, named }))
    }

    /// What [`Request::ask`] says, once for each request: chance may have a say in it. For filters, which ask before the
    /// request goes there.
    pub(super) fn look_ahead(&mut self, to: &Forward, route: RouteId) -> Option<ClusterId> {
        if self.exchange.destination.is_none() {
            self.exchange.destination = self.ask(to, route).map(Box::new);
        }
        self.exchange.destination.as_ref().map(|destination| destination.0)
    }

    /// Where the request goes now.
    pub(super) fn destination(&mut self, to: &Forward, route: RouteId) -> Option<(ClusterId, Ask)> {
        match self.exchange.destination.take() {
            Some(destination) => Some(*destination),
            None => self.ask(to, route),
        }
    }

    /// The endpoint is the one that the client is to come back to.
    pub(super) fn stay_with(&mut self, endpoint: &EndpointView, ask: &Ask, cluster: &Cluster) {
        let is_new = cluster.affinity_cookie.is_some() && ask.named != Some(endpoint.name);
        self.exchange.set_affinity = is_new.then_some(endpoint.name);
    }

    /// The endpoint that the client's cookie names, which need not exist.
    fn named(&self, cluster: &Cluster) -> Option<u64> {
        let affinity = cluster.affinity_cookie.as_ref()?;
        cookie::parse_number(cookie::find(&self.exchange.request.headers, &affinity.cookie.name)?)
    }

    fn key(&mut self, rules: &[HashRule]) -> Option<u64> {
        let exchange = &mut *self.exchange;
        let found = key::find(rules, &exchange.request, exchange.client_ip, self.worker.random());
        if let Some((cookie, value)) = found.new_cookie {
            cookie.write(value, &mut exchange.set_cookie);
        }
        found.key
    }
}

/// Gives the client its cookies, with the answer of an origin.
pub(super) fn set_cookies(exchange: &mut Exchange, config: &Config) {
    if !exchange.set_cookie.is_empty() {
        exchange.response.headers.append(&Known::SetCookie, &exchange.set_cookie);
    }
    let affinity = exchange.cluster.and_then(|id| config.clusters[id.index()].affinity_cookie.as_ref());
    if let (Some(affinity), Some(name)) = (affinity, exchange.set_affinity) {
        affinity.cookie.write(name, &mut exchange.scratch);
        exchange.response.headers.append(&Known::SetCookie, &exchange.scratch);
    }
}
