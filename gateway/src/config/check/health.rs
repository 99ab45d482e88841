//! `health_check` of `[[cluster]]`

use std::time::Duration;

use super::cluster_tls::{self, Surroundings};
use super::duration;
use crate::config::decode::Optional;
use crate::config::load::Loader;
use crate::config::model::{HealthCheck, HealthProbe, ProxyVersion, UpstreamProtocol, UpstreamTls};
use crate::config::raw;
use crate::config::report::Diagnostics;
use crate::config::span::{At, Span};
use crate::config::value::HealthProtocol;

/// How a cluster's endpoints are spoken to, and so are asked.
pub struct Way<'a> {
    /// `protocol`
    pub protocol: UpstreamProtocol,
    /// `tls`; `Some(None)` is one with an error, which has been reported.
    pub tls: Option<Option<&'a UpstreamTls>>,
    /// `proxy_protocol`
    pub proxy_protocol: Option<ProxyVersion>,
}

/// Checks how endpoints are asked, and reads whom to trust.
pub(super) fn check(
    raw: At<raw::HealthCheck>,
    way: &Way<'_>,
    around: &Surroundings<'_>,
    loader: &mut Loader<'_>,
) -> Option<HealthCheck> {
    let At { value: raw, span } = raw;
    let protocol = raw.protocol.0?;
    check_keys(&raw, protocol.value, &mut loader.diagnostics);
    let (tls_span, http) = (raw.tls.as_ref().map(|key| key.span), raw.http);
    let speaks = matches!(protocol.value, HealthProtocol::Tls | HealthProtocol::Http | HealthProtocol::Grpc);
    let tls = if speaks { tls(raw.tls, way, around, loader)? } else { None };
    let diagnostics = &mut loader.diagnostics;
    let probe = match protocol.value {
        HealthProtocol::Tcp => HealthProbe::Tcp,
        HealthProtocol::Udp => {
            let Some(send) = raw.send else {
                let help = "say in `send` what the endpoints answer, such as a DNS query";
                diagnostics.error(span, "a UDP check needs `send`").help(help);
                return None;
            };
            HealthProbe::Udp { send: send.value.0?.0, expect: raw.expect.map(|expect| expect.value.0) }
        }
        HealthProtocol::Tls => {
            if tls.is_none() {
                let help = "name whom to trust in `tls`, or take the system's authorities with `tls = true`";
                diagnostics.error(tls_span.unwrap_or(protocol.span), "a TLS check needs `tls`").help(help);
            }
            HealthProbe::Tls
        }
        HealthProtocol::Http => HealthProbe::Http {
            version: version(http, tls.is_some(), way.protocol, diagnostics),
            path: raw.path.map_or_else(|| "/".to_owned(), |path| path.value.0),
            host: raw.host.map(|host| host.value.0),
            statuses: raw.statuses.map_or(200..=299, |statuses| statuses.value.0),
        },
        HealthProtocol::Grpc => HealthProbe::Grpc {
            service: raw.service.map_or_else(String::new, |service| service.value),
            host: raw.host.map(|host| host.value.0),
        },
    };
    let header = raw.proxy_protocol.map_or(way.proxy_protocol, |header| header.value.0);
    Some(HealthCheck {
        probe,
        tls,
        proxy_protocol: header.filter(|_| speaks),
        port: raw.port.map(|port| port.value.0),
        interval: duration(raw.interval, Duration::from_secs(5)),
        timeout: duration(raw.timeout, Duration::from_secs(2)),
        healthy: raw.healthy.map_or(2, |count| count.value.0),
        unhealthy: raw.unhealthy.map_or(3, |count| count.value.0),
    })
}

/// Reports keys that mean nothing for how the check asks.
fn check_keys(raw: &raw::HealthCheck, protocol: HealthProtocol, diagnostics: &mut Diagnostics) {
    use HealthProtocol::{Grpc, Http, Tls, Udp};
    let of_connection = "\"tls\", \"http\" or \"grpc\"";
    let keys: [(&str, Option<Span>, &[HealthProtocol], &str); 9] = [
        ("send", raw.send.as_ref().map(|key| key.span), &[Udp], "\"udp\""),
        ("expect", raw.expect.as_ref().map(|key| key.span), &[Udp], "\"udp\""),
        ("tls", raw.tls.as_ref().map(|key| key.span), &[Tls, Http, Grpc], of_connection),
        ("proxy_protocol", raw.proxy_protocol.map(|key| key.span), &[Tls, Http, Grpc], of_connection),
        ("http", raw.http.map(|key| key.span), &[Http], "\"http\""),
        ("path", raw.path.as_ref().map(|key| key.span), &[Http], "\"http\""),
        ("host", raw.host.as_ref().map(|key| key.span), &[Http, Grpc], "\"http\" or \"grpc\""),
        ("statuses", raw.statuses.as_ref().map(|key| key.span), &[Http], "\"http\""),
        ("service", raw.service.as_ref().map(|key| key.span), &[Grpc], "\"grpc\""),
    ];
    for (key, span, of, names) in keys {
        if let Some(span) = span.filter(|_| !of.contains(&protocol)) {
            diagnostics.error(span, format!("`{key}` is for checks with `protocol = {names}`"));
        }
    }
}

/// TLS of the check; `None` when an error was reported.
fn tls(
    given: Optional<raw::CheckTls>,
    way: &Way<'_>,
    around: &Surroundings<'_>,
    loader: &mut Loader<'_>,
) -> Option<Option<UpstreamTls>> {
    let of_cluster = || match way.tls {
        None => Some(None),
        Some(tls) => tls.map(|tls| Some(tls.clone())),
    };
    match given.map(|given| given.value) {
        None => of_cluster(),
        Some(raw::CheckTls::Is(false)) => Some(None),
        Some(raw::CheckTls::Is(true)) => of_cluster().map(|tls| tls.or_else(|| Some(UpstreamTls::default()))),
        Some(raw::CheckTls::Settings(raw)) => cluster_tls::check(*raw, around, loader).map(Some),
    }
}

/// Which HTTP an endpoint is asked in. Without TLS nobody chooses: a cluster that lets its endpoints do so is asked in 1.1.
fn version(
    given: Optional<UpstreamProtocol>,
    has_tls: bool,
    of_cluster: UpstreamProtocol,
    diagnostics: &mut Diagnostics,
) -> UpstreamProtocol {
    match (given, of_cluster) {
        (Some(key), _) => {
            if key.value == UpstreamProtocol::Auto && !has_tls {
                let message = "\"auto\" needs TLS: the endpoint chooses in the handshake";
                diagnostics.error(key.span, message).help("say \"h1\" or \"h2\"");
            }
            key.value
        }
        (None, UpstreamProtocol::Auto) if !has_tls => UpstreamProtocol::H1,
        (None, of_cluster) => of_cluster,
    }
}
