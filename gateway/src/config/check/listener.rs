//! `[[listener]]`

use std::time::SystemTime;

use ipnet::IpNet;

use super::filter;
use super::kinds::ListenerKind;
use super::{Tables, duration, http_versions, is_empty, networks, tls};
use crate::config::decode::{List, Optional};
use crate::config::load::Loader;
use crate::config::model::{
    ClientCertDetails, ForwardClientCert, Http2, Listener, ListenerLimits, ListenerProtocol, PathPolicy, ProxyProtocol,
};
use crate::config::raw;
use crate::config::report::Diagnostics;
use crate::config::span::{At, Span};
use crate::config::value::{ClientCertDetail, Size};

/// Checks a listener. `trusted` are the proxies `[gateway]` trusts.
pub fn check(
    raw: At<raw::Listener>,
    trusted: &[IpNet],
    names: &Tables,
    filters: &mut filter::Taken,
    now: SystemTime,
    loader: &mut Loader<'_>,
) -> Option<Listener> {
    let raw = raw.value;
    let diagnostics = &mut loader.diagnostics;
    let protocol = ListenerKind::of(&raw).protocol;
    if let Some(protocol) = protocol {
        check_keys(&raw, protocol, diagnostics);
        check_proxy_protocol(&raw, protocol, trusted, diagnostics);
    }
    check_forward_client_cert(&raw, diagnostics);
    let http = http_versions(&raw.http);
    if let Some(versions) = raw.http.filter(|versions| versions.value.is_empty()) {
        let help = "write [\"h1\"], or leave the key out";
        diagnostics.error(versions.span, "a listener needs an HTTP version").help(help);
    }
    if let (Some(ListenerProtocol::Http), false, Some(settings)) = (protocol, http.h2, &raw.http2) {
        diagnostics.warning(settings.span, "not used: `http` has no \"h2\"");
    }
    let offered = (protocol == Some(ListenerProtocol::Http)).then_some(http);
    let tls = raw.tls.map(|tls| tls::check(tls, offered, names, now, loader));
    let diagnostics = &mut loader.diagnostics;
    let http2 = http2(raw.http2, diagnostics);
    let limits = limits(raw.limits, diagnostics);
    let name = raw.name.0.map(|name| name.value.0);
    let owner = format!("listener/{}", name.as_deref().unwrap_or_default());
    let filters = filter::check(raw.filters, owner, names, filters, diagnostics);
    Some(Listener {
        name: name?,
        address: raw.address.0?.value.0,
        protocol: protocol?,
        http,
        http2,
        proxy_protocol: raw.proxy_protocol.map_or(ProxyProtocol::Off, |mode| mode.value),
        trusted_proxies: raw.trusted_proxies.map_or_else(|| trusted.to_vec(), |list| networks(Some(list))),
        tls: match tls {
            Some(tls) => Some(tls?),
            None => None,
        },
        forward_client_cert: raw.forward_client_cert.map_or_else(Default::default, |mode| mode.value),
        client_cert_details: client_cert_details(raw.forward_client_cert_details),
        limits,
        path: path_policy(raw.path_normalisation),
        filters: filters?,
    })
}

/// Reports keys that mean nothing for what the listener speaks.
fn check_keys(raw: &raw::Listener, protocol: ListenerProtocol, diagnostics: &mut Diagnostics) {
    if protocol == ListenerProtocol::Http {
        return;
    }
    let limits = raw.limits.as_ref().map(|limits| &limits.value);
    let of_http: [(&str, Option<Span>); 9] = [
        ("http", raw.http.as_ref().map(|key| key.span)),
        ("http2", raw.http2.as_ref().map(|key| key.span)),
        ("forward_client_cert", raw.forward_client_cert.as_ref().map(|key| key.span)),
        ("forward_client_cert_details", raw.forward_client_cert_details.as_ref().map(|key| key.span)),
        ("path_normalisation", raw.path_normalisation.as_ref().map(|key| key.span)),
        ("filters", raw.filters.as_ref().map(|key| key.span)),
        ("header_bytes", limits.and_then(|limits| limits.header_bytes).map(|key| key.span)),
        ("header_count", limits.and_then(|limits| limits.header_count).map(|key| key.span)),
        ("body_bytes", limits.and_then(|limits| limits.body_bytes).map(|key| key.span)),
    ];
    for (key, span) in of_http {
        if let Some(span) = span {
            diagnostics.error(span, format!("`{key}` is for listeners with `protocol = \"http\"`"));
        }
    }
    if let Some(timeout) = limits.and_then(|limits| limits.idle_timeout) {
        let help = "`idle_timeout` of an [[l4_route]] says how long its connections may be silent";
        diagnostics.warning(timeout.span, "not used: it is for requests").help(help);
    }
    let (message, help) = match protocol {
        ListenerProtocol::TlsPassthrough => (
            "`tls_passthrough` leaves TLS to the endpoints",
            "`protocol` is \"http\" or \"tcp\" where it is terminated here; else leave `tls` out",
        ),
        ListenerProtocol::Udp => ("`tls` is not for datagrams", "leave it out: datagrams are passed on as they are"),
        ListenerProtocol::Http | ListenerProtocol::Tcp => return,
    };
    if let Some(tls) = &raw.tls {
        diagnostics.error(tls.span, message).help(help);
    }
}

/// Warns about what has no effect.
fn check_forward_client_cert(raw: &raw::Listener, diagnostics: &mut Diagnostics) {
    use ForwardClientCert::{AlwaysForwardOnly, AppendForward, Sanitize, SanitizeSet};
    let mode = raw.forward_client_cert.map_or(Sanitize, |mode| mode.value);
    let authenticates = raw.tls.as_ref().is_some_and(|tls| {
        let hosts = tls.value.hosts.as_ref().map_or(&[][..], |hosts| &hosts.value);
        tls.value.client_auth.is_some() || hosts.iter().any(|host| host.value.client_auth.is_some())
    });
    if let Some(mode) =
        raw.forward_client_cert.filter(|mode| !authenticates && !matches!(mode.value, Sanitize | AlwaysForwardOnly))
    {
        let help = "`client_auth` of `tls` asks for them";
        diagnostics.warning(mode.span, "not used: no client shows a certificate here").help(help);
    }
    if let Some(details) = &raw.forward_client_cert_details
        && !matches!(mode, SanitizeSet | AppendForward)
    {
        let help = "`forward_client_cert` is \"sanitize_set\" or \"append_forward\" where it tells something";
        diagnostics.warning(details.span, "not used: the gateway tells nothing of its own").help(help);
    }
}

fn client_cert_details(raw: Optional<List<ClientCertDetail>>) -> ClientCertDetails {
    let has = |detail| raw.as_ref().is_some_and(|list| list.value.iter().any(|given| given.value == detail));
    ClientCertDetails {
        cert: has(ClientCertDetail::Cert),
        chain: has(ClientCertDetail::Chain),
        subject: has(ClientCertDetail::Subject),
        uri: has(ClientCertDetail::Uri),
        dns: has(ClientCertDetail::Dns),
    }
}

fn check_proxy_protocol(
    raw: &raw::Listener,
    protocol: ListenerProtocol,
    trusted: &[IpNet],
    diagnostics: &mut Diagnostics,
) {
    let mode = raw.proxy_protocol.filter(|mode| mode.value != ProxyProtocol::Off);
    if let (Some(mode), ListenerProtocol::Udp) = (mode, protocol) {
        diagnostics.error(mode.span, "`proxy_protocol` is for connections, and this listener has datagrams");
        return;
    }
    let trusts_none = match &raw.trusted_proxies {
        Some(_) => is_empty(&raw.trusted_proxies),
        None => trusted.is_empty(),
    };
    match (mode, &raw.trusted_proxies) {
        (Some(mode), _) if trusts_none => {
            let help = "name them in `trusted_proxies`, here or in [gateway]";
            diagnostics
                .error(mode.span, "no proxy's PROXY header is believed: there are no trusted proxies")
                .help(help);
        }
        // HTTP has `X-Forwarded-For` besides.
        (None, Some(list)) if protocol != ListenerProtocol::Http => {
            diagnostics.warning(list.span, "not used: `proxy_protocol` is off, so no proxy says anything here");
        }
        _ => {}
    }
}

/// What a window of HTTP/2 may be: from what a client may use before it has seen our settings (RFC 9113 section 6.9.2)
/// to the largest there is (section 6.9.1).
const WINDOW_BYTES: std::ops::RangeInclusive<u64> = 65_535..=(1 << 31) - 1;

fn http2(raw: Optional<raw::Http2>, diagnostics: &mut Diagnostics) -> Http2 {
    let default = Http2::default();
    let Some(At { value: raw, .. }) = raw else { return default };
    let mut window = |given: Optional<Size>, default: u32| match given {
        Some(size) if !WINDOW_BYTES.contains(&size.value.0) => {
            diagnostics.error(size.span, "out of range: must be between 65535 and 2147483647 bytes");
            default
        }
        size => size.map_or(default, |size| size.value.0 as u32),
    };
    let stream_window = window(raw.stream_window, default.stream_window);
    let connection_window = window(raw.connection_window, default.connection_window);
    let given = raw.stream_window.or(raw.connection_window);
    if let Some(given) = given.filter(|_| stream_window > connection_window) {
        let message = format!(
            "`stream_window` ({stream_window}) is more than `connection_window` ({connection_window}), so no request can use it"
        );
        diagnostics.error(given.span, message).help("a connection's window is for all its requests together");
    }
    Http2 {
        max_concurrent_streams: raw
            .max_concurrent_streams
            .map_or(default.max_concurrent_streams, |count| count.value.0),
        stream_window,
        connection_window,
    }
}

/// Bounds of `header_bytes`. Less has no room for what browsers send; more is no head but a body, and would let few
/// clients fill the memory.
const HEADER_BYTES: std::ops::RangeInclusive<u64> = 1024..=16 << 20;

fn limits(raw: Optional<raw::Limits>, diagnostics: &mut Diagnostics) -> ListenerLimits {
    let default = ListenerLimits::default();
    let Some(At { value: raw, .. }) = raw else { return default };
    let rate = |raw: Optional<raw::ConnectionRate>, diagnostics: &mut Diagnostics| {
        // `None` when it is wrong, which has been reported.
        raw.and_then(|At { value: raw, .. }| filter::quota(raw.connections, raw.per, raw.burst, diagnostics))
    };
    if let Some(size) = raw.header_bytes.filter(|size| !HEADER_BYTES.contains(&size.value.0)) {
        diagnostics.error(size.span, "out of range: must be between 1KiB and 16MiB");
    }
    ListenerLimits {
        connections: raw.connections.map_or(default.connections, |count| count.value.0),
        connections_per_source: raw
            .connections_per_source
            .map_or(default.connections_per_source, |count| count.value.0),
        new_connections: rate(raw.new_connections, diagnostics),
        new_connections_per_source: rate(raw.new_connections_per_source, diagnostics),
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
