//! `match` of a route.

use ipnet::IpNet;

use super::headers::header_name;
use crate::config::check::{each, networks, only_one, reject_empty};
use crate::config::decode::{List, Map, Optional};
use crate::config::model::{HeaderMatch, PathMatch, QueryMatch, RouteMatch, ValueMatch};
use crate::config::raw;
use crate::config::report::Diagnostics;
use crate::config::span::At;
use crate::config::value::Cidr;

/// Checks a `match`.
pub fn matcher(raw: Optional<raw::Match>, diagnostics: &mut Diagnostics) -> Option<RouteMatch> {
    let Some(At { value: raw, .. }) = raw else { return Some(RouteMatch::default()) };
    let spans = [
        raw.path.as_ref().map(|path| path.span),
        raw.path_prefix.as_ref().map(|path| path.span),
        raw.path_regex.as_ref().map(|path| path.span),
        raw.grpc.as_ref().map(|grpc| grpc.span),
    ];
    only_one(spans, "`path`, `path_prefix`, `path_regex` and `grpc`", diagnostics);
    let path = match (raw.path, raw.path_prefix, raw.path_regex, raw.grpc) {
        (Some(path), ..) => Some(PathMatch::Exact(path.value.0)),
        (_, Some(prefix), ..) => Some(PathMatch::Prefix(without_trailing_slash(prefix.value.0))),
        (_, _, Some(regex), _) => Some(PathMatch::Regex(regex.value.0)),
        (.., Some(grpc)) => grpc_path(grpc.value),
        (None, None, None, None) => Some(PathMatch::default()),
    };
    let methods = raw.methods.map_or_else(Vec::new, |list| list.value);
    let headers = header_matches(raw.headers, diagnostics);
    let query = query_matches(raw.query, diagnostics);
    Some(RouteMatch {
        path: path?,
        methods: methods.into_iter().map(|method| method.value.0).collect(),
        headers: headers?,
        query: query?,
        peer_ip: addresses(raw.peer_ip, "peer_ip", diagnostics),
        client_ip: addresses(raw.client_ip, "client_ip", diagnostics),
    })
}

/// The path of a call: `/service/method`, as gRPC over HTTP/2 has it.
fn grpc_path(raw: raw::Grpc) -> Option<PathMatch> {
    let service = raw.service.0?.value.0;
    Some(match raw.method {
        Some(method) => PathMatch::Exact(format!("/{service}/{}", method.value.0)),
        None => PathMatch::Prefix(format!("/{service}")),
    })
}

/// Networks that a condition names.
pub fn addresses(given: Optional<List<Cidr>>, key: &str, diagnostics: &mut Diagnostics) -> Vec<IpNet> {
    if let Some(list) = &given {
        reject_empty(list, key, "any address", diagnostics);
    }
    networks(given)
}

fn without_trailing_slash(path: String) -> String {
    match path.trim_end_matches('/') {
        "" => "/".to_owned(),
        trimmed => trimmed.to_owned(),
    }
}

/// Conditions on headers.
pub fn header_matches(raw: Optional<Map<raw::Condition>>, diagnostics: &mut Diagnostics) -> Option<Vec<HeaderMatch>> {
    let pairs = raw.map_or_else(Vec::new, |map| map.value.0);
    each(pairs, |(name, condition)| {
        let name = header_name(&name, diagnostics);
        let value = value_match(condition, diagnostics);
        Some(HeaderMatch { name: name?, value: value? })
    })
}

/// Conditions on query parameters.
pub fn query_matches(raw: Optional<Map<raw::Condition>>, diagnostics: &mut Diagnostics) -> Option<Vec<QueryMatch>> {
    let pairs = raw.map_or_else(Vec::new, |map| map.value.0);
    each(pairs, |(name, condition)| Some(QueryMatch { name: name.value, value: value_match(condition, diagnostics)? }))
}

fn value_match(condition: At<raw::Condition>, diagnostics: &mut Diagnostics) -> Option<ValueMatch> {
    match condition.value {
        raw::Condition::Exact(text) => Some(ValueMatch::Exact(text)),
        raw::Condition::Table(raw::ConditionTable { regex: Some(regex), present: None }) => {
            Some(ValueMatch::Regex(regex.value.0?.0))
        }
        raw::Condition::Table(raw::ConditionTable { regex: None, present: Some(present) }) => {
            Some(ValueMatch::Present(present.value.0?))
        }
        raw::Condition::Table(_) => {
            diagnostics.error(condition.span, "a condition is a text, or one of `regex` and `present`");
            None
        }
    }
}
