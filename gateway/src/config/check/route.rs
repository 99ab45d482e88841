//! `[[route]]`

use std::time::Duration;

use super::Tables;
use crate::config::decode::{Given, List, Map, Optional};
use crate::config::model::{
    Action, ClusterId, Forward, HeaderEdits, HeaderMatch, HostPattern, ListenerId, PathMatch, QueryMatch, Redirect,
    Respond, Route, RouteMatch, ValueMatch, WeightedCluster,
};
use crate::config::raw;
use crate::config::report::Diagnostics;
use crate::config::span::{At, Span};
use crate::config::value::{HeaderValue, Host, Name};
use crate::proto::head::{HeaderName, Known, Name as _};

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
    })
}

fn listeners(given: Optional<List<Name>>, names: &Tables, diagnostics: &mut Diagnostics) -> Option<Vec<ListenerId>> {
    let Some(list) = given else { return Some(names.listeners.use_all().map(ListenerId).collect()) };
    reject_empty(&list, "listeners", "every listener", diagnostics);
    let ids: Vec<_> = list.value.iter().map(|name| names.listeners.find(name, diagnostics)).collect();
    ids.into_iter().map(|id| id.map(ListenerId)).collect()
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

fn matcher(raw: Optional<raw::Match>, diagnostics: &mut Diagnostics) -> Option<RouteMatch> {
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
    })
}

fn without_trailing_slash(path: String) -> String {
    match path.trim_end_matches('/') {
        "" => "/".to_owned(),
        trimmed => trimmed.to_owned(),
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

fn header_matches(raw: Optional<Map<raw::Condition>>, diagnostics: &mut Diagnostics) -> Option<Vec<HeaderMatch>> {
    let pairs = raw.map_or_else(Vec::new, |map| map.value.0);
    let all: Vec<_> = pairs
        .into_iter()
        .map(|(name, condition)| {
            let name = header_name(&name, diagnostics);
            let value = value_match(condition, diagnostics);
            Some(HeaderMatch { name: name?, value: value? })
        })
        .collect();
    all.into_iter().collect()
}

fn query_matches(raw: Optional<Map<raw::Condition>>, diagnostics: &mut Diagnostics) -> Option<Vec<QueryMatch>> {
    let pairs = raw.map_or_else(Vec::new, |map| map.value.0);
    let all: Vec<_> = pairs
        .into_iter()
        .map(|(name, condition)| Some(QueryMatch { name: name.value, value: value_match(condition, diagnostics)? }))
        .collect();
    all.into_iter().collect()
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

/// A key of a table that has to be a header's name.
fn header_name(key: &At<String>, diagnostics: &mut Diagnostics) -> Option<HeaderName> {
    let name = HeaderName::new(&key.value);
    if name.is_none() {
        let help = "letters, digits and !#$%&'*+-.^_`|~ (RFC 9110 section 5.6.2)";
        diagnostics.error(key.span, format!("{:?} is not a header name", key.value)).help(help);
    }
    name
}

/// The keys of a route of which one has to be there, and what goes with them.
struct Actions {
    cluster: Optional<Given<Name>>,
    clusters: Optional<Given<List<raw::WeightedCluster>>>,
    redirect: Optional<Given<raw::Redirect>>,
    respond: Optional<Given<raw::Respond>>,
    rewrite: Optional<raw::Rewrite>,
}

/// `span` is the route's; `prefix_has_meaning` says whether the matched part of the path is known, so that it can be
/// replaced.
fn action(
    raw: Actions,
    span: Span,
    prefix_has_meaning: bool,
    names: &Tables,
    diagnostics: &mut Diagnostics,
) -> Option<Action> {
    let spans = [
        raw.cluster.as_ref().map(|key| key.span),
        raw.clusters.as_ref().map(|key| key.span),
        raw.redirect.as_ref().map(|key| key.span),
        raw.respond.as_ref().map(|key| key.span),
    ];
    only_one(spans, "`cluster`, `clusters`, `redirect` and `respond`", diagnostics);
    let forwards = raw.cluster.is_some() || raw.clusters.is_some();
    if let Some(rewrite) = raw.rewrite.as_ref().filter(|_| !forwards) {
        diagnostics.error(rewrite.span, "`rewrite` needs `cluster` or `clusters`: it changes what an origin gets");
    }
    if let Some(prefix) = raw.rewrite.as_ref().and_then(|rewrite| rewrite.value.path_prefix.as_ref()) {
        check_replaces_prefix(prefix.span, prefix_has_meaning, diagnostics);
    }
    let cluster = raw.cluster.map(|At { value, span }| {
        let name = At { value: value.0?, span };
        let id = names.clusters.find(&name, diagnostics)?;
        Some(vec![WeightedCluster { cluster: ClusterId(id), weight: 1 }])
    });
    let clusters = raw.clusters.map(|list| weighted_clusters(list.value.0?, list.span, names, diagnostics));
    let redirect = raw.redirect.map(|raw| check_redirect(raw.value.0?, prefix_has_meaning, diagnostics));
    let respond = raw.respond.map(|raw| check_respond(raw.value.0?, diagnostics));
    if let Some(clusters) = cluster.or(clusters) {
        let rewrite = raw.rewrite.map(|rewrite| rewrite.value);
        let (prefix, host) = rewrite.map_or((None, None), |rewrite| (rewrite.path_prefix, rewrite.host));
        return Some(Action::Forward(Forward {
            clusters: clusters?,
            rewrite_prefix: prefix.map(|prefix| prefix.value.0),
            rewrite_host: host.map(|host| host.value.0),
        }));
    }
    match (redirect, respond) {
        (Some(redirect), _) => Some(Action::Redirect(redirect?)),
        (None, Some(respond)) => Some(Action::Respond(respond?)),
        (None, None) => {
            let help = "add `cluster`, `clusters`, `redirect` or `respond`";
            diagnostics.error(span, "this route does nothing with its requests").help(help);
            None
        }
    }
}

fn check_replaces_prefix(span: Span, prefix_has_meaning: bool, diagnostics: &mut Diagnostics) {
    if !prefix_has_meaning {
        let help = "a regular expression has no prefix to replace: match with `path_prefix`";
        diagnostics.error(span, "`path_prefix` cannot be used with `path_regex`").help(help);
    }
}

fn weighted_clusters(
    list: List<raw::WeightedCluster>,
    span: Span,
    names: &Tables,
    diagnostics: &mut Diagnostics,
) -> Option<Vec<WeightedCluster>> {
    let shares: Vec<_> = list
        .into_iter()
        .map(|share| {
            let cluster = share.value.name.0.and_then(|name| names.clusters.find(&name, diagnostics));
            let weight = share.value.weight.0.map(|weight| weight.value.0);
            Some(WeightedCluster { cluster: ClusterId(cluster?), weight: weight? })
        })
        .collect();
    let shares = shares.into_iter().collect::<Option<Vec<_>>>()?;
    let sum: u64 = shares.iter().map(|share| u64::from(share.weight)).sum();
    if sum == 0 {
        diagnostics.error(span, "the weights add up to 0, so no cluster would get a request");
    } else if u32::try_from(sum).is_err() {
        diagnostics.error(span, "the weights add up to more than 4294967295");
    }
    Some(shares)
}

fn check_redirect(raw: raw::Redirect, prefix_has_meaning: bool, diagnostics: &mut Diagnostics) -> Option<Redirect> {
    let spans = [raw.path.as_ref().map(|path| path.span), raw.path_prefix.as_ref().map(|path| path.span)];
    only_one(spans, "`path` and `path_prefix`", diagnostics);
    if let Some(prefix) = &raw.path_prefix {
        check_replaces_prefix(prefix.span, prefix_has_meaning, diagnostics);
    }
    Some(Redirect {
        status: raw.status.map_or(301, |status| status.value.0),
        scheme: raw.scheme.map(|scheme| scheme.value.as_str().to_owned()),
        host: raw.host.map(|host| host.value.0),
        port: raw.port.map(|port| port.value.0),
        path: raw.path.map(|path| path.value.0),
        path_prefix: raw.path_prefix.map(|prefix| prefix.value.0),
    })
}

fn check_respond(raw: raw::Respond, diagnostics: &mut Diagnostics) -> Option<Respond> {
    let status = raw.status.0?;
    let body = raw.body.filter(|body| !body.value.is_empty());
    if let (204 | 304, Some(body)) = (status.value.0, &body) {
        // RFC 9110 sections 15.3.5 and 15.4.5.
        diagnostics.error(body.span, format!("a {} answer has no body", status.value.0));
    }
    Some(Respond {
        status: status.value.0,
        body: body.map_or_else(String::new, |body| body.value),
        content_type: raw.content_type.map_or_else(|| "text/plain".to_owned(), |value| value.value.0),
    })
}

fn header_edits(raw: Optional<raw::HeaderEdits>, diagnostics: &mut Diagnostics) -> Option<HeaderEdits> {
    let Some(At { value: raw, .. }) = raw else { return Some(HeaderEdits::default()) };
    let remove = raw.remove.map_or_else(Vec::new, |list| list.value);
    for name in &remove {
        check_editable(&name.value.0, name.span, diagnostics);
    }
    let set = raw.set.map_or_else(Vec::new, |map| map.value.0);
    let set = set.into_iter().map(|(name, value)| (name, vec![value])).collect();
    let add = raw.add.map_or_else(Vec::new, |map| map.value.0);
    let add = add.into_iter().map(|(name, values)| (name, values.value.0)).collect();
    let (set, add) = (header_fields(set, diagnostics), header_fields(add, diagnostics));
    Some(HeaderEdits { remove: remove.into_iter().map(|name| name.value.0).collect(), set: set?, add: add? })
}

fn header_fields(
    pairs: Vec<(At<String>, List<HeaderValue>)>,
    diagnostics: &mut Diagnostics,
) -> Option<Vec<(HeaderName, String)>> {
    let mut fields = Some(Vec::new());
    for (key, values) in pairs {
        let name = header_name(&key, diagnostics);
        if let Some(name) = &name {
            check_editable(name, key.span, diagnostics);
        }
        fields = fields.zip(name).map(|(mut fields, name)| {
            fields.extend(values.into_iter().map(|value| (name.clone(), value.value.0)));
            fields
        });
    }
    fields
}

/// Fields that say where a message ends, or that belong to one connection, are the gateway's: an edit would let one
/// request be read as two (request smuggling).
fn check_editable(name: &HeaderName, span: Span, diagnostics: &mut Diagnostics) {
    let help = match name.known() {
        Known::Host => "`rewrite = { host = … }` changes what the origin gets",
        Known::ContentLength | Known::TransferEncoding | Known::Trailer => "it says where the body ends",
        Known::Connection | Known::KeepAlive | Known::ProxyConnection | Known::Te | Known::Upgrade => {
            "it is about one connection (RFC 9110 section 7.6.1)"
        }
        _ => return,
    };
    diagnostics.error(span, format!("`{}` cannot be edited", name.as_str())).help(help);
}
