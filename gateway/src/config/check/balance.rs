//! How an endpoint is chosen, as far as clusters and routes say it.

use super::{Tables, each, only_one, reject_empty};
use crate::config::decode::{FromText as _, List, Map, Optional};
use crate::config::model::{
    AffinityCookie, Balance, HashOn, HashRule, Labels, Subset, SubsetFallback, WeightedCluster,
};
use crate::config::raw;
use crate::config::report::Diagnostics;
use crate::config::span::{At, Span};
use crate::config::value::{CookieName, CookieText, Duration, Name};
use crate::proto::cookie::Cookie;

/// The rules of a cluster: those it names, or else the client's address.
pub fn cluster_rules(
    raw: Optional<List<raw::HashRule>>,
    balance: Balance,
    diagnostics: &mut Diagnostics,
) -> Option<Vec<HashRule>> {
    match raw {
        Some(list) => {
            if !balance.hashes() {
                let help = "`balance = \"maglev\"` and \"ring_hash\" go by it";
                let message = format!("not used: `balance` is \"{}\"", balance.as_str());
                diagnostics.warning(list.span, message).help(help);
            }
            rules(list, "the client's address", diagnostics)
        }
        None if balance.hashes() => Some(vec![HashRule { on: HashOn::SourceIp, terminal: false }]),
        None => Some(Vec::new()),
    }
}

/// The rules of a route, which take the place of its clusters'. None: theirs.
pub fn route_rules(
    raw: Optional<List<raw::HashRule>>,
    clusters: &[At<WeightedCluster>],
    names: &Tables,
    diagnostics: &mut Diagnostics,
) -> Option<Vec<HashRule>> {
    let Some(list) = raw else { return Some(Vec::new()) };
    // With several clusters the key chooses among these too.
    if clusters.len() == 1 && !clusters.iter().any(|share| names.cluster_kinds[share.value.cluster.index()].hashes) {
        let help = "`balance = \"maglev\"` and \"ring_hash\" go by it";
        diagnostics.warning(list.span, "not used: the cluster of this route does not balance by a key").help(help);
    }
    rules(list, "the rules of the cluster", diagnostics)
}

fn rules(list: At<List<raw::HashRule>>, without: &str, diagnostics: &mut Diagnostics) -> Option<Vec<HashRule>> {
    reject_empty(&list, "hash_on", without, diagnostics);
    each(list.value, |rule| check_rule(rule, diagnostics))
}

fn check_rule(At { value: raw, span }: At<raw::HashRule>, diagnostics: &mut Diagnostics) -> Option<HashRule> {
    let spans = [
        raw.header.as_ref().map(|key| key.span),
        raw.cookie.as_ref().map(|key| key.span),
        raw.query.as_ref().map(|key| key.span),
        raw.source_ip.as_ref().map(|key| key.span),
    ];
    only_one(spans, "`header`, `cookie`, `query` and `source_ip`", diagnostics);
    let header = raw.header.map(|name| name.value.0.map(|name| HashOn::Header(name.0)));
    let cookie = raw.cookie.map(|cookie| cookie.value.0.and_then(|cookie| hash_cookie(cookie, diagnostics)));
    let query = raw.query.map(|name| name.value.0.map(HashOn::Query));
    let source = raw.source_ip.map(|given| {
        if given.value.0 == Some(false) {
            diagnostics.error(given.span, "`source_ip = false` is no rule").help("leave it out");
        }
        given.value.0.map(|_| HashOn::SourceIp)
    });
    let Some(on) = header.or(cookie).or(query).or(source) else {
        let help = "name one of `header`, `cookie`, `query` and `source_ip`";
        diagnostics.error(span, "this rule looks at nothing").help(help);
        return None;
    };
    Some(HashRule { on: on?, terminal: raw.terminal.is_some_and(|terminal| terminal.value) })
}

fn hash_cookie(raw: raw::HashCookie, diagnostics: &mut Diagnostics) -> Option<HashOn> {
    Some(match raw {
        raw::HashCookie::Named(name) => {
            let cookie = Cookie { name: name.0, ttl: None, path: None, attributes: Vec::new() };
            HashOn::Cookie { cookie, generate: false }
        }
        raw::HashCookie::Table(table) => {
            let attributes = attributes(table.attributes, diagnostics);
            let name = table.name.0?.value;
            HashOn::Cookie { cookie: cookie(name, table.ttl, table.path, attributes?), generate: true }
        }
    })
}

/// Checks the cookie that names an endpoint.
pub fn affinity_cookie(raw: raw::AffinityCookie, diagnostics: &mut Diagnostics) -> Option<AffinityCookie> {
    let attributes = attributes(raw.attributes, diagnostics);
    Some(AffinityCookie {
        cookie: cookie(raw.name.0?.value, raw.ttl, raw.path, attributes?),
        strict: raw.strict.is_some_and(|strict| strict.value),
        secret: raw.secret.map(|secret| secret.value.0),
    })
}

fn cookie(
    name: CookieName,
    ttl: Optional<Duration>,
    path: Optional<CookieText>,
    attributes: Vec<(String, String)>,
) -> Cookie {
    // Envoy's: a cookie of no time lasts as long as the browser runs.
    let ttl = ttl.map(|ttl| ttl.value.0).filter(|ttl| !ttl.is_zero());
    Cookie { name: name.0, ttl, path: path.map(|path| path.value.0), attributes }
}

fn attributes(raw: Optional<Map<CookieText>>, diagnostics: &mut Diagnostics) -> Option<Vec<(String, String)>> {
    each(raw.map_or_else(Vec::new, |map| map.value.0), |(key, value)| {
        let name = CookieName::from_text(&key.value);
        let name = name.map_err(|problem| problem.report(&key.value, key.span, diagnostics)).ok()?;
        if ["max-age", "path", "httponly"].contains(&name.0.to_ascii_lowercase().as_str()) {
            let help = "`ttl` is Max-Age, `path` is Path, and HttpOnly is always there";
            diagnostics.error(key.span, format!("`{}` is not among the further attributes", name.0)).help(help);
        }
        Some((name.0, value.value.0))
    })
}

/// The labels in a table, sorted.
pub fn labels(raw: Optional<Map<Name>>, diagnostics: &mut Diagnostics) -> Option<Labels> {
    let mut labels = each(raw.map_or_else(Vec::new, |map| map.value.0), |(key, value)| {
        let name = Name::from_text(&key.value);
        let name = name.map_err(|problem| problem.report(&key.value, key.span, diagnostics)).ok()?;
        Some((name.0, value.value.0))
    })?;
    labels.sort();
    Some(labels)
}

/// The endpoints of its clusters that a route uses; `Some(None)` is all.
pub fn subset(
    raw: Optional<Map<Name>>,
    fallback: Optional<SubsetFallback>,
    clusters: &[At<WeightedCluster>],
    names: &Tables,
    diagnostics: &mut Diagnostics,
) -> Option<Option<Subset>> {
    let Some(span) = raw.as_ref().map(|map| map.span) else {
        if let Some(fallback) = fallback {
            diagnostics.warning(fallback.span, "not used: there is no `subset`");
        }
        return Some(None);
    };
    let labels = labels(raw, diagnostics)?;
    if labels.is_empty() {
        diagnostics.error(span, "`subset` is empty").help("leave the key out for every endpoint");
    }
    for share in clusters {
        check_has(&labels, share, span, names, diagnostics);
    }
    let fallback = fallback.map_or_else(Default::default, |fallback| fallback.value);
    Some((!labels.is_empty()).then_some(Subset { labels, fallback }))
}

fn check_has(
    labels: &Labels,
    share: &At<WeightedCluster>,
    subset: Span,
    names: &Tables,
    diagnostics: &mut Diagnostics,
) {
    let kind = &names.cluster_kinds[share.value.cluster.index()];
    if !kind.labels.iter().any(|of_endpoint| labels.iter().all(|label| of_endpoint.contains(label))) {
        let message = "no endpoint of this cluster has all labels of the route's `subset`";
        diagnostics.warning(share.span, message).related(subset, "asked for here");
    }
}
