//! What brings a client back to the endpoint it had: the key of its request, and cookies.

use super::{Exchange, Request};
use crate::balance::key;
use crate::config::model::{Cluster, Config, Forward, RouteId};
use crate::net::now_ms;
use crate::proto::cookie;
use crate::proto::head::Known;
use crate::snapshot::{Ask, EndpointView};

impl Request<'_> {
    /// What the choice of an endpoint depends on. Remembers the cookie that the client has to be given for its key.
    pub(super) fn ask(&mut self, to: &Forward, cluster: &Cluster, route: RouteId) -> Ask {
        let worker = self.worker;
        let exchange = &mut *self.exchange;
        let key = cluster.balance.hashes().then(|| {
            let rules = if to.hash_on.is_empty() { &cluster.hash_on } else { &to.hash_on };
            let found = key::find(rules, &exchange.request, exchange.client_ip, worker.random());
            if let Some((cookie, value)) = found.new_cookie {
                cookie.write(value, &mut exchange.set_cookie);
            }
            found.key
        });
        let named = cluster
            .affinity_cookie
            .as_ref()
            .and_then(|affinity| cookie::parse_number(cookie::find(&exchange.request.headers, &affinity.cookie.name)?));
        Ask {
            worker: worker.worker,
            random: worker.random(),
            now_ms: now_ms(),
            key: key.flatten(),
            subset: self.cx.generation.route_subsets[route.index()],
            named,
        }
    }

    /// The endpoint is the one that the client is to come back to.
    pub(super) fn stay_with(&mut self, endpoint: &EndpointView, ask: &Ask, cluster: &Cluster) {
        let is_new = cluster.affinity_cookie.is_some() && ask.named != Some(endpoint.name);
        self.exchange.set_affinity = is_new.then_some(endpoint.name);
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
