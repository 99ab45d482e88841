//! `[[cluster]]`

use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::{duration, health};
use crate::config::decode::Optional;
use crate::config::load::Loader;
use crate::config::model::{Balance, Cluster, Endpoint, RetryBudget, UpstreamProtocol, UpstreamTls};
use crate::config::raw;
use crate::config::report::Diagnostics;
use crate::config::span::At;

/// Checks a cluster, and reads the authorities it trusts.
pub fn check(raw: At<raw::Cluster>, loader: &mut Loader<'_>) -> Option<Cluster> {
    let raw = raw.value;
    let protocol = raw.protocol.map_or(UpstreamProtocol::H1, |protocol| protocol.value);
    check_protocol(&raw, protocol, &mut loader.diagnostics);
    let endpoints = raw.endpoints.0.and_then(|list| endpoints(list, &mut loader.diagnostics));
    let tls = raw.tls.map(|tls| check_tls(tls.value, loader));
    let plain = tls.is_none() && protocol != UpstreamProtocol::H2;
    let health_check = raw.health_check.map(|check| health::check(check, plain, &mut loader.diagnostics));
    Some(Cluster {
        name: raw.name.0?.value.0,
        balance: raw.balance.map_or(Balance::RoundRobin, |balance| balance.value),
        endpoints: endpoints?,
        connect_timeout: duration(raw.connect_timeout, Duration::from_secs(5)),
        idle_timeout: duration(raw.idle_timeout, Duration::from_secs(60)),
        max_connections: raw.max_connections.map_or(1024, |count| count.value.0),
        max_requests: raw.max_requests.map(|count| count.value.0),
        retry_budget: retry_budget(raw.retry_budget),
        max_idle_connections: raw.max_idle_connections.map_or(256, |count| count.value.0),
        dns_refresh: duration(raw.dns_refresh, Duration::from_secs(5)),
        protocol,
        max_streams: raw.max_streams.map_or(100, |count| count.value.0),
        proxy_protocol: raw.proxy_protocol.and_then(|header| header.value.0),
        tls: match tls {
            Some(tls) => Some(tls?),
            None => None,
        },
        health_check: match health_check {
            Some(check) => Some(check?),
            None => None,
        },
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
    list.value
        .into_iter()
        .map(|endpoint| {
            let raw = endpoint.value.0;
            Some(Endpoint {
                address: raw.address.0?.value.0,
                weight: raw.weight.map_or(1, |weight| weight.value.0),
                drain: raw.drain.is_some_and(|drain| drain.value),
            })
        })
        .collect()
}

fn check_tls(raw: raw::ClusterTls, loader: &mut Loader<'_>) -> Option<UpstreamTls> {
    let verify = raw.verify.is_none_or(|verify| verify.value);
    if let (false, Some(ca)) = (verify, &raw.ca) {
        loader.diagnostics.warning(ca.span, "not used: `verify` is off");
    }
    let ca_pem = match &raw.ca {
        None => None,
        Some(path) => {
            let pem = loader.bytes(path)?;
            // Each must parse: a trust store with a hole in it fails later, and only for some endpoints.
            let authorities: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
            if !authorities.is_ok_and(|list| !list.is_empty()) {
                let help = "it has to begin with -----BEGIN CERTIFICATE-----";
                let message = format!("{} has no PEM certificates", path.value.0);
                loader.diagnostics.error(path.span, message).help(help);
            }
            Some(pem)
        }
    };
    Some(UpstreamTls { server_name: raw.server_name.map(|name| name.value.0), ca_pem, verify })
}
