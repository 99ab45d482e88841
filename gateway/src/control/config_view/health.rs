//! How endpoints are spoken to, and asked whether they are well.

use serde_json::{Value, json};

use super::duration;
use super::tls::view_tls_version;
use crate::config::model::*;

pub fn view_proxy_header(version: Option<ProxyVersion>) -> &'static str {
    match version {
        None => "off",
        Some(ProxyVersion::V1) => "v1",
        Some(ProxyVersion::V2) => "v2",
    }
}

pub fn view_protocol(protocol: UpstreamProtocol) -> &'static str {
    match protocol {
        UpstreamProtocol::H1 => "h1",
        UpstreamProtocol::H2 => "h2",
        UpstreamProtocol::Auto => "auto",
    }
}

pub fn view_tls(tls: &UpstreamTls) -> Value {
    let UpstreamTls { server_name, ca_pem, crls, names, verify, certificate, min_version, alpn, resumption } = tls;
    json!({
        "server_name": server_name,
        "ca": if ca_pem.is_some() { "file" } else { "system" },
        "crls": crls.len(),
        "names": names.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "verify": verify,
        "certificate": certificate,
        "min_version": view_tls_version(*min_version),
        "alpn": alpn,
        "resumption": resumption,
    })
}

pub fn view_health_check(check: &HealthCheck) -> Value {
    let HealthCheck { probe, tls, proxy_protocol, port, interval, timeout, healthy, unhealthy } = check;
    let payload = |bytes: &[u8]| format!("hex:{}", data_encoding::HEXLOWER.encode(bytes));
    let mut view = match probe {
        HealthProbe::Tcp => json!({ "protocol": "tcp" }),
        HealthProbe::Udp { send, expect } => {
            json!({ "protocol": "udp", "send": payload(send), "expect": expect.as_deref().map(payload) })
        }
        HealthProbe::Tls => json!({ "protocol": "tls" }),
        HealthProbe::Http { version, path, host, statuses } => json!({
            "protocol": "http",
            "http": view_protocol(*version),
            "path": path,
            "host": host,
            "statuses": format!("{}-{}", statuses.start(), statuses.end()),
        }),
        HealthProbe::Grpc { service, host } => json!({ "protocol": "grpc", "service": service, "host": host }),
    };
    view["tls"] = tls.as_ref().map_or(false.into(), view_tls);
    view["proxy_protocol"] = view_proxy_header(*proxy_protocol).into();
    view["port"] = (*port).into();
    view["interval"] = duration(*interval).into();
    view["timeout"] = duration(*timeout).into();
    view["healthy"] = (*healthy).into();
    view["unhealthy"] = (*unhealthy).into();
    view
}
