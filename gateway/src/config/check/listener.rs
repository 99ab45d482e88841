//! `[[listener]]`

use super::{Tables, duration, each};
use crate::config::decode::Optional;
use crate::config::model::{
    CertificateId, Http2, HttpVersions, Listener, ListenerLimits, ListenerProtocol, ListenerTls, PathPolicy,
    ProxyProtocol, TlsVersion,
};
use crate::config::raw;
use crate::config::report::Diagnostics;
use crate::config::span::At;

/// Checks a listener.
pub fn check(raw: At<raw::Listener>, names: &Tables, diagnostics: &mut Diagnostics) -> Option<Listener> {
    let raw = raw.value;
    if let Some(versions) = raw.http.filter(|versions| versions.value.is_empty()) {
        let help = "write [\"h1\"], or leave the key out";
        diagnostics.error(versions.span, "a listener needs an HTTP version").help(help);
    }
    let tls = raw.tls.map(|tls| check_tls(tls, names, diagnostics));
    let limits = limits(raw.limits, diagnostics);
    Some(Listener {
        name: raw.name.0?.value.0,
        address: raw.address.0?.value.0,
        protocol: ListenerProtocol::Http,
        http: HttpVersions::default(),
        http2: Http2::default(),
        proxy_protocol: ProxyProtocol::Off,
        trusted_proxies: Vec::new(),
        tls: match tls {
            Some(tls) => Some(tls?),
            None => None,
        },
        limits,
        path: path_policy(raw.path_normalisation),
    })
}

fn check_tls(raw: At<raw::ListenerTls>, names: &Tables, diagnostics: &mut Diagnostics) -> Option<ListenerTls> {
    let raw = raw.value;
    let given = raw.certificates.0?;
    if given.value.is_empty() {
        diagnostics.error(given.span, "a TLS listener needs a certificate");
    }
    let certificates = each(given.value, |name| names.certificates.find(&name, diagnostics).map(CertificateId))?;
    Some(ListenerTls {
        certificates,
        min_version: raw.min_version.map_or(TlsVersion::Tls12, |version| version.value),
        strict_sni: raw.strict_sni.is_some_and(|strict| strict.value),
    })
}

/// Bounds of `header_bytes`. Less has no room for what browsers send; more is no head but a body, and would let few
/// clients fill the memory.
const HEADER_BYTES: std::ops::RangeInclusive<u64> = 1024..=16 << 20;

fn limits(raw: Optional<raw::Limits>, diagnostics: &mut Diagnostics) -> ListenerLimits {
    let default = ListenerLimits::default();
    let Some(At { value: raw, .. }) = raw else { return default };
    if let Some(size) = raw.header_bytes.filter(|size| !HEADER_BYTES.contains(&size.value.0)) {
        diagnostics.error(size.span, "out of range: must be between 1KiB and 16MiB");
    }
    ListenerLimits {
        connections: raw.connections.map_or(default.connections, |count| count.value.0),
        connections_per_source: raw
            .connections_per_source
            .map_or(default.connections_per_source, |count| count.value.0),
        header_bytes: raw.header_bytes.map_or(default.header_bytes, |size| size.value.0 as u32),
        header_count: raw.header_count.map_or(default.header_count, |count| count.value.0),
        header_timeout: duration(raw.header_timeout, default.header_timeout),
        handshake_timeout: duration(raw.handshake_timeout, default.handshake_timeout),
        idle_timeout: duration(raw.idle_timeout, default.idle_timeout),
        body_bytes: raw.body_bytes.map(|size| size.value.0),
    }
}

fn path_policy(raw: Optional<raw::PathNormalisation>) -> PathPolicy {
    let default = PathPolicy::default();
    let Some(At { value: raw, .. }) = raw else { return default };
    PathPolicy {
        dot_segments: raw.dot_segments.map_or(default.dot_segments, |on| on.value),
        merge_slashes: raw.merge_slashes.map_or(default.merge_slashes, |on| on.value),
        encoded_slashes: raw.encoded_slashes.map_or(default.encoded_slashes, |action| action.value),
    }
}
