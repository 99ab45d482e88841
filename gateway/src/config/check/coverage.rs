//! Which hosts of routes no certificate covers, of listeners with TLS, and which certificates no client is ever shown.

use std::collections::HashSet;

use super::Span;
use crate::config::model::{Certificate, HostPattern, Listener, ListenerTls, Route};
use crate::config::report::Diagnostics;

/// How many hosts are named one by one. What misses more is likely to be one certificate.
const MAX_NAMED: usize = 20;

/// Warns about hosts whose clients would be shown a certificate for another one, or none. `spans` are where the hosts of each
/// route stand.
pub fn warn(
    routes: &[Route],
    spans: &[Vec<Span>],
    listeners: &[Listener],
    certificates: &[Certificate],
    diagnostics: &mut Diagnostics,
) {
    let names = |tls: &ListenerTls| -> HashSet<String> {
        let certificates = tls.certificates.iter().map(|id| &certificates[id.index()]);
        certificates.flat_map(|certificate| &certificate.hosts).map(|host| host.to_ascii_lowercase()).collect()
    };
    let covered: Vec<_> = listeners.iter().map(|listener| listener.tls.as_ref().map(names)).collect();
    let mut missing = Vec::new();
    for (route, spans) in routes.iter().zip(spans) {
        for (host, span) in route.hosts.iter().zip(spans) {
            let lacks = |names: &Option<HashSet<String>>| names.as_ref().is_some_and(|names| !covers(names, host));
            let lacking = route.listeners.iter().filter(|id| lacks(&covered[id.index()]));
            let names: Vec<String> = lacking.map(|id| format!("`{}`", listeners[id.index()].name)).collect();
            if !names.is_empty() {
                missing.push((*span, host, names));
            }
        }
    }
    for (span, host, names) in missing.iter().take(MAX_NAMED) {
        let s = if names.len() == 1 { "" } else { "s" };
        let message = format!("no certificate of listener{s} {} covers {}", names.join(", "), text(host));
        diagnostics.hint(*span, message).help("its clients are shown another one, or refused if `strict_sni` is on");
    }
    if let Some((span, ..)) = missing.get(MAX_NAMED) {
        let more = missing.len() - MAX_NAMED;
        diagnostics.hint(*span, format!("no certificate covers {more} more hosts of routes, this one and later ones"));
    }
}

/// Warns about certificates whose keys none of the listener's cipher suites is for. `spans` are where the suites of
/// each listener stand.
pub fn warn_of_suites(
    listeners: &[Listener],
    spans: &[Option<Span>],
    certificates: &[Certificate],
    diagnostics: &mut Diagnostics,
) {
    for (listener, span) in listeners.iter().zip(spans) {
        let (Some(tls), Some(span)) = (&listener.tls, span) else { continue };
        if tls.cipher_suites.is_empty() {
            continue;
        }
        let certificates = tls.certificates.iter().map(|id| &certificates[id.index()]);
        let is_useless = |key| !tls.cipher_suites.iter().any(|suite| suite.suits(key));
        let useless = certificates.filter_map(|it| Some((&it.name, it.pair.as_ref()?.info.key_kind)));
        let mut useless = useless.filter(|(_, key)| is_useless(*key));
        let Some((name, key)) = useless.next() else { continue };
        let more = match useless.count() {
            0 => String::new(),
            more => format!(", nor {more} more"),
        };
        let message =
            format!("no client is ever shown certificate `{name}`{more}: no cipher suite is for its key, {key}");
        let help = "in TLS 1.2, suites are for RSA or for ECDSA, as their names say; those of TLS 1.3 are for both";
        diagnostics.warning(*span, message).help(help);
    }
}

fn covers(names: &HashSet<String>, host: &HostPattern) -> bool {
    match host {
        HostPattern::Exact(host) => {
            names.contains(host)
                || host.split_once('.').is_some_and(|(_, parent)| names.contains(&format!("*.{parent}")))
        }
        // Hosts further below are for nobody to know.
        HostPattern::Suffix(parent) => names.contains(&format!("*{parent}")),
        HostPattern::Any => true,
    }
}

fn text(host: &HostPattern) -> String {
    match host {
        HostPattern::Exact(host) => host.clone(),
        HostPattern::Suffix(parent) => format!("*{parent}"),
        HostPattern::Any => "*".to_owned(),
    }
}
