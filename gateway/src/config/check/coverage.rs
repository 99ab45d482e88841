//! Which hosts of routes no certificate covers, of listeners with TLS.

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
            if let Some(id) = route.listeners.iter().find(|id| lacks(&covered[id.index()])) {
                missing.push((*span, host, &listeners[id.index()].name));
            }
        }
    }
    for (span, host, listener) in missing.iter().take(MAX_NAMED) {
        let message = format!("no certificate of listener `{listener}` covers {}", text(host));
        diagnostics.hint(*span, message).help("its clients are shown another one, or refused if `strict_sni` is on");
    }
    if let Some((span, ..)) = missing.get(MAX_NAMED) {
        let more = missing.len() - MAX_NAMED;
        diagnostics.hint(*span, format!("no certificate covers {more} more hosts of routes, this one and later ones"));
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
