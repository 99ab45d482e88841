//! `[[route]]`

mod action;
mod breaker;
pub mod headers;
pub mod matcher;
mod mirror;
mod retry;

use std::time::Duration;

use super::destination::Destination;
use super::filter;
use super::{Tables, each, reject_empty};
use crate::config::decode::{List, Optional};
use crate::config::model::{HostPattern, ListenerId, PathMatch, Priority, Route, WebSocket};
use crate::config::raw;
use crate::config::report::Diagnostics;
use crate::config::span::{At, Span};
use crate::config::value::{Host, Name};
use action::{Actions, action};
use breaker::breaker;
use headers::header_edits;
use matcher::matcher;
use retry::retry;

/// Checks a route.
pub fn check(
    raw: At<raw::Route>,
    names: &Tables,
    filters: &mut filter::Taken,
    diagnostics: &mut Diagnostics,
) -> Option<Route> {
    let At { value: raw, span } = raw;
    let span = raw.name.0.as_ref().map_or(span, |name| name.span);
    let listeners = listeners(raw.listeners, span, names, diagnostics);
    let hosts = hosts(raw.hosts, diagnostics);
    let matcher = matcher(raw.r#match, diagnostics);
    let prefix_has_meaning = matcher.as_ref().is_none_or(|matcher| !matches!(matcher.path, PathMatch::Regex(_)));
    let destination = Destination { cluster: raw.cluster, clusters: raw.clusters };
    let websocket = websocket(raw.websocket, &destination, diagnostics);
    let mirrors = mirror::mirrors(raw.mirror, raw.mirror_body_bytes, &destination, names, diagnostics);
    let breaker = breaker(raw.breaker, &destination, diagnostics);
    let action = action(
        Actions {
            destination,
            redirect: raw.redirect,
            respond: raw.respond,
            rate_limit_service: raw.rate_limit_service,
            rewrite: raw.rewrite,
            hash_on: raw.hash_on,
            subset: raw.subset,
            subset_fallback: raw.subset_fallback,
        },
        span,
        prefix_has_meaning,
        names,
        diagnostics,
    );
    let request_headers = header_edits(raw.request_headers, diagnostics);
    let response_headers = header_edits(raw.response_headers, diagnostics);
    let name = raw.name.0.map(|name| name.value.0);
    let owner = format!("route/{}", name.as_deref().unwrap_or_default());
    let filters = filter::check(raw.filters, owner, names, filters, diagnostics);
    Some(Route {
        name: name?,
        listeners: listeners?,
        hosts,
        matcher: matcher?,
        action: action?,
        timeout: match raw.timeout {
            Some(timeout) => Some(timeout.value.0).filter(|timeout| !timeout.is_zero()),
            None => Some(Duration::from_secs(15)),
        },
        retry: retry(raw.retry, diagnostics),
        body_bytes: raw.body_bytes.map(|size| size.value.0),
        request_headers: request_headers?,
        response_headers: response_headers?,
        websocket,
        filters: filters?,
        mirrors: mirrors?,
        breaker: breaker?,
        priority: raw.priority.map_or_else(Priority::default, |priority| priority.value),
    })
}

fn listeners(
    given: Optional<List<Name>>,
    route: Span,
    names: &Tables,
    diagnostics: &mut Diagnostics,
) -> Option<Vec<ListenerId>> {
    let kind = |id: u32| names.listener_kinds[id as usize];
    let Some(list) = given else {
        let all: Vec<_> = names.listeners.use_where(|id| kind(id).may_be_http()).map(ListenerId).collect();
        if all.is_empty() && !names.listener_kinds.is_empty() {
            diagnostics.hint(route, "no listener is `http`, so no request gets here");
        }
        return Some(all);
    };
    reject_empty(&list, "listeners", "every http listener", diagnostics);
    each(list.value, |name| {
        let id = names.listeners.find(&name, diagnostics)?;
        if !kind(id).may_be_http() {
            let message = format!("listener `{}` is not `http`, so it has no requests", name.value.0);
            diagnostics.error(name.span, message).help("an [[l4_route]] takes its connections or datagrams");
        }
        Some(ListenerId(id))
    })
}

/// How long a WebSocket may be silent: Envoy's `stream_idle_timeout`.
const WEBSOCKET_IDLE: Duration = Duration::from_secs(300);

fn websocket(
    given: Optional<raw::WebSocket>,
    destination: &Destination,
    diagnostics: &mut Diagnostics,
) -> Option<WebSocket> {
    let At { value, span } = given?;
    let idle_timeout = match value {
        raw::WebSocket::Allowed(false) => return None,
        raw::WebSocket::Allowed(true) => WEBSOCKET_IDLE,
        raw::WebSocket::Table(table) => table.idle_timeout.map_or(WEBSOCKET_IDLE, |timeout| timeout.value.0),
    };
    if destination.spans() == [None, None] {
        diagnostics.error(span, "`websocket` needs `cluster` or `clusters`: a WebSocket is one with an origin");
    }
    Some(WebSocket { idle_timeout: Some(idle_timeout).filter(|timeout| !timeout.is_zero()) })
}

fn hosts(given: Optional<List<Host>>, diagnostics: &mut Diagnostics) -> Vec<HostPattern> {
    let Some(list) = given else { return vec![HostPattern::Any] };
    reject_empty(&list, "hosts", "any host", diagnostics);
    list.value.into_iter().map(|host| host.value.0).collect()
}
