//! `match` of a route.

use super::headers::header_name;
use super::only_one;
use crate::config::check::each;
use crate::config::decode::{Map, Optional};
use crate::config::model::{HeaderMatch, PathMatch, QueryMatch, RouteMatch, ValueMatch};
use crate::config::raw;
use crate::config::report::Diagnostics;
use crate::config::span::At;

/// Checks a `match`.
pub fn matcher(raw: Optional<raw::Match>, diagnostics: &mut Diagnostics) -> Option<RouteMatch> {
    let Some(At { value: raw, .. }) = raw else { return Some(RouteMatch::default()) };
    let spans = [
        raw.path.as_ref().map(|path| path.span),
        raw.path_prefix.as_ref().map(|path| path.span),
        raw.path_regex.as_ref().map(|path| path.span),
    ];
    only_one(spans, "`path`, `path_prefix` and `path_regex`", diagnostics);
    let path = match (raw.path, raw.path_prefix, raw.path_regex) {
        (Some(path), ..) => PathMatch::Exact(path.value.0),
        (_, Some(prefix), _) => PathMatch::Prefix(without_trailing_slash(prefix.value.0)),
        (.., Some(regex)) => PathMatch::Regex(regex.value.0),
        (None, None, None) => PathMatch::default(),
    };
    let methods = raw.methods.map_or_else(Vec::new, |list| list.value);
    let headers = header_matches(raw.headers, diagnostics);
    let query = query_matches(raw.query, diagnostics);
    Some(RouteMatch {
        path,
        methods: methods.into_iter().map(|method| method.value.0).collect(),
        headers: headers?,
        query: query?,
        peer_ip: Vec::new(),
        client_ip: Vec::new(),
    })
}

fn without_trailing_slash(path: String) -> String {
    match path.trim_end_matches('/') {
        "" => "/".to_owned(),
        trimmed => trimmed.to_owned(),
    }
}

fn header_matches(raw: Optional<Map<raw::Condition>>, diagnostics: &mut Diagnostics) -> Option<Vec<HeaderMatch>> {
    let pairs = raw.map_or_else(Vec::new, |map| map.value.0);
    each(pairs, |(name, condition)| {
        let name = header_name(&name, diagnostics);
        let value = value_match(condition, diagnostics);
        Some(HeaderMatch { name: name?, value: value? })
    })
}

fn query_matches(raw: Optional<Map<raw::Condition>>, diagnostics: &mut Diagnostics) -> Option<Vec<QueryMatch>> {
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
