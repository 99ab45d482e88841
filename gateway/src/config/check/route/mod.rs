//! `[[route]]`

mod action;
mod headers;
mod matcher;

use std::time::Duration;

use super::{Tables, each};
use crate::config::decode::{List, Optional};
use crate::config::model::{HostPattern, ListenerId, PathMatch, Route};
use crate::config::raw;
use crate::config::report::Diagnostics;
use crate::config::span::{At, Span};
use crate::config::value::{Host, Name};
use action::{Actions, action};
use headers::header_edits;
use matcher::matcher;

/// Checks a route.
pub fn check(raw: At<raw::Route>, names: &Tables, diagnostics: &mut Diagnostics) -> Option<Route> {
    let At { value: raw, span } = raw;
    let span = raw.name.0.as_ref().map_or(span, |name| name.span);
    let listeners = listeners(raw.listeners, names, diagnostics);
    let hosts = hosts(raw.hosts, diagnostics);
    let matcher = matcher(raw.r#match, diagnostics);
    let prefix_has_meaning = matcher.as_ref().is_none_or(|matcher| !matches!(matcher.path, PathMatch::Regex(_)));
    let action = action(
        Actions {
            cluster: raw.cluster,
            clusters: raw.clusters,
            redirect: raw.redirect,
            respond: raw.respond,
            rewrite: raw.rewrite,
        },
        span,
        prefix_has_meaning,
        names,
        diagnostics,
    );
    let request_headers = header_edits(raw.request_headers, diagnostics);
    let response_headers = header_edits(raw.response_headers, diagnostics);
    Some(Route {
        name: raw.name.0?.value.0,
        listeners: listeners?,
        hosts,
        matcher: matcher?,
        action: action?,
        timeout: match raw.timeout {
            Some(timeout) => Some(timeout.value.0).filter(|timeout| !timeout.is_zero()),
            None => Some(Duration::from_secs(15)),
        },
        body_bytes: raw.body_bytes.map(|size| size.value.0),
        request_headers: request_headers?,
        response_headers: response_headers?,
        websocket: None,
    })
}

fn listeners(given: Optional<List<Name>>, names: &Tables, diagnostics: &mut Diagnostics) -> Option<Vec<ListenerId>> {
    let Some(list) = given else { return Some(names.listeners.use_all().map(ListenerId).collect()) };
    reject_empty(&list, "listeners", "every listener", diagnostics);
    each(list.value, |name| names.listeners.find(&name, diagnostics).map(ListenerId))
}

fn hosts(given: Optional<List<Host>>, diagnostics: &mut Diagnostics) -> Vec<HostPattern> {
    let Some(list) = given else { return vec![HostPattern::Any] };
    reject_empty(&list, "hosts", "any host", diagnostics);
    list.value.into_iter().map(|host| host.value.0).collect()
}

/// An empty list could be read as "all" or as "none".
fn reject_empty<T>(list: &At<List<T>>, key: &str, all: &str, diagnostics: &mut Diagnostics) {
    if list.value.is_empty() {
        let help = format!("leave the key out for {all}");
        diagnostics.error(list.span, format!("`{key}` is empty")).help(help);
    }
}

/// Reports all but the first of keys that exclude each other.
fn only_one<const N: usize>(given: [Option<Span>; N], keys: &str, diagnostics: &mut Diagnostics) {
    let mut given: Vec<Span> = given.into_iter().flatten().collect();
    given.sort();
    if let [first, second, ..] = given[..] {
        diagnostics.error(second, format!("only one of {keys}")).related(first, "the first one");
    }
}
