//! `[[cluster]]`

use std::time::Duration;

use super::cluster_tls::{self, Surroundings};
use super::{balance, duration, each, health, outlier};
use crate::config::decode::{Map, Optional};
use crate::config::load::Loader;
use crate::config::model::{Balance, Cluster, Endpoint, Labels, RetryBudget, UpstreamProtocol};
use crate::config::raw;
use crate::config::report::Diagnostics;
use crate::config::span::At;
use crate::config::value::Name;

/// Checks a cluster, and reads the authorities it trusts.
pub(super) fn check(raw: At<raw::Cluster>, around: &Surroundings<'_>, loader: &mut Loader<'_>) -> Option<Cluster> {
    let raw = raw.value;
    let protocol = raw.protocol.map_or(UpstreamProtocol::H1, |protocol| protocol.value);
    check_protocol(&raw, protocol, &mut loader.diagnostics);
    let endpoints = raw.endpoints.0.and_then(|list| endpoints(list, &mut loader.diagnostics));
    let tls = raw.tls.map(|tls| cluster_tls::check(tls.value, around, loader));
    let balance = raw.balance.map_or_else(Balance::default, |balance| balance.value);
    let hash_on = balance::cluster_rules(raw.hash_on, balance, &mut loader.diagnostics);
    let affinity = raw.affinity_cookie.map(|raw| balance::affinity_cookie(raw.value, &mut loader.diagnostics));
    let prefer = prefer(raw.prefer, endpoints.as_deref(), &mut loader.diagnostics);
    let proxy_protocol = raw.proxy_protocol.and_then(|header| header.value.0);
    let way = health::Way { protocol, tls: tls.as_ref().map(Option::as_ref), proxy_protocol };
    let health_check = raw.health_check.map(|check| health::check(check, &way, around, loader));
    Some(Cluster {
        name: raw.name.0?.value.0,
        balance,
        hash_on: hash_on?,
        affinity_cookie: match affinity {
            Some(affinity) => Some(affinity?),
            None => None,
        },
        panic_threshold: raw.panic_threshold.map_or(50, |percent| percent.value.0),
        prefer: prefer?,
        endpoints: endpoints?,
        connect_timeout: duration(raw.connect_timeout, Duration::from_secs(5)),
        idle_timeout: duration(raw.idle_timeout, Duration::from_secs(60)),
        max_connections: raw.max_connections.map_or(1024, |count| count.value.0),
        max_pending_requests: raw.max_pending_requests.map_or(1024, |count| count.value.0),
        max_requests: raw.max_requests.map(|count| count.value.0),
        retry_budget: retry_budget(raw.retry_budget),
        max_idle_connections: raw.max_idle_connections.map_or(256, |count| count.value.0),
        dns_refresh: duration(raw.dns_refresh, Duration::from_secs(5)),
        protocol,
        max_streams: raw.max_streams.map_or(100, |count| count.value.0),
        proxy_protocol,
        tls: match tls {
            Some(tls) => Some(tls?),
            None => None,
        },
        health_check: match health_check {
            Some(check) => Some(check?),
            None => None,
        },
        outlier_detection: raw.outlier_detection.map(|table| outlier::check(table.value)),
        slow_start: raw.slow_start.map_or(Duration::ZERO, |time| time.value.0),
    })
}

fn retry_budget(given: Optional<raw::RetryBudget>) -> RetryBudget {
    let default = RetryBudget::default();
    given.map_or(default, |At { value: raw, .. }| RetryBudget {
        percent: raw.percent.map_or(default.percent, |count| count.value.0),
        min_retries: raw.min_retries.map_or(default.min_retries, |count| count.value.0),
    })
}

fn check_protocol(raw: &raw::Cluster, protocol: UpstreamProtocol, diagnostics: &mut Diagnostics) {
    if let (UpstreamProtocol::Auto, Some(key), None) = (protocol, raw.protocol, &raw.tls) {
        let help = "add `tls`, or say \"h1\" or \"h2\"";
        diagnostics.error(key.span, "\"auto\" needs `tls`: the endpoint chooses in the TLS handshake").help(help);
    }
    if let (UpstreamProtocol::H1, Some(streams)) = (protocol, raw.max_streams) {
        diagnostics.warning(streams.span, "not used: it is about HTTP/2, and `protocol` is \"h1\"");
    }
}

fn endpoints(list: At<Vec<At<raw::Endpoint>>>, diagnostics: &mut Diagnostics) -> Option<Vec<Endpoint>> {
    if list.value.is_empty() {
        diagnostics.hint(list.span, "no endpoints: requests to this cluster get 503");
    }
    each(list.value, |endpoint| {
        let raw = endpoint.value.0;
        let labels = balance::labels(raw.labels, diagnostics);
        Some(Endpoint {
            address: raw.address.0?.value.0,
            weight: raw.weight.map_or(1, |weight| weight.value.0),
            drain: raw.drain.is_some_and(|drain| drain.value),
            priority: raw.priority.map_or(0, |priority| priority.value.0),
            labels: labels?,
        })
    })
}

fn prefer(raw: Optional<Map<Name>>, endpoints: Option<&[Endpoint]>, diagnostics: &mut Diagnostics) -> Option<Labels> {
    let span = raw.as_ref().map(|map| map.span);
    let labels = balance::labels(raw, diagnostics)?;
    let has_all = |endpoint: &Endpoint| labels.iter().all(|label| endpoint.labels.contains(label));
    if let (Some(span), Some(endpoints)) = (span, endpoints)
        && !endpoints.iter().any(has_all)
    {
        diagnostics.warning(span, "not used: no endpoint has these labels");
    }
    Some(labels)
}
