//! `health_check` of `[[cluster]]`

use std::time::Duration;

use super::duration;
use crate::config::model::{HealthCheck, HealthProbe};
use crate::config::raw;
use crate::config::report::Diagnostics;
use crate::config::span::{At, Span};
use crate::config::value::HealthProtocol;

/// Checks how endpoints are asked. `plain` says whether they speak HTTP/1.1 without TLS.
pub fn check(raw: At<raw::HealthCheck>, plain: bool, diagnostics: &mut Diagnostics) -> Option<HealthCheck> {
    let At { value: raw, span } = raw;
    let At { value: protocol, span: protocol_span } = raw.protocol.0?;
    if protocol == HealthProtocol::Http && !plain && raw.port.is_none() {
        let help = "name the `port` of a plain one, or check with `protocol = \"tcp\"`";
        let message = "HTTP checks are HTTP/1.1 without TLS, and this cluster's endpoints speak something else";
        diagnostics.error(protocol_span, message).help(help);
    }
    let of_udp = [("send", raw.send.as_ref().map(|key| key.span)), ("expect", raw.expect.as_ref().map(|key| key.span))];
    let of_http = [
        ("path", raw.path.as_ref().map(|key| key.span)),
        ("host", raw.host.as_ref().map(|key| key.span)),
        ("statuses", raw.statuses.as_ref().map(|key| key.span)),
    ];
    if protocol != HealthProtocol::Udp {
        reject(&of_udp, "udp", diagnostics);
    }
    if protocol != HealthProtocol::Http {
        reject(&of_http, "http", diagnostics);
    }
    let probe = match protocol {
        HealthProtocol::Tcp => HealthProbe::Tcp,
        HealthProtocol::Udp => {
            let Some(send) = raw.send else {
                let help = "say in `send` what the endpoints answer, such as a DNS query";
                diagnostics.error(span, "a UDP check needs `send`").help(help);
                return None;
            };
            HealthProbe::Udp { send: send.value.0?.0, expect: raw.expect.map(|expect| expect.value.0) }
        }
        HealthProtocol::Http => HealthProbe::Http {
            path: raw.path.map_or_else(|| "/".to_owned(), |path| path.value.0),
            host: raw.host.map(|host| host.value.0),
            statuses: raw.statuses.map_or(200..=299, |statuses| statuses.value.0),
        },
    };
    Some(HealthCheck {
        probe,
        port: raw.port.map(|port| port.value.0),
        interval: duration(raw.interval, Duration::from_secs(5)),
        timeout: duration(raw.timeout, Duration::from_secs(2)),
        healthy: raw.healthy.map_or(2, |count| count.value.0),
        unhealthy: raw.unhealthy.map_or(3, |count| count.value.0),
    })
}

fn reject(keys: &[(&str, Option<Span>)], protocol: &str, diagnostics: &mut Diagnostics) {
    for (key, span) in keys {
        if let Some(span) = span {
            diagnostics.error(*span, format!("`{key}` is for checks with `protocol = \"{protocol}\"`"));
        }
    }
}
