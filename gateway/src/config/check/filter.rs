//! `filters` of a listener or a route.

mod fault;
mod global_limit;

use std::collections::HashMap;
use std::fmt::Display;
use std::time::Duration;

use super::route::headers::header_fields;
use super::route::matcher::{addresses, header_matches, query_matches};
use super::{Tables, each, only_one, reject_empty};
use crate::config::decode::{Given, List, Map, Optional, Required};
use crate::config::model::{Filter, Prefixes, Quota, RateKey, RateLimit, RateOverride, When};
use crate::config::raw;
use crate::config::report::Diagnostics;
use crate::config::span::{At, Span};
use crate::config::value::{Count, HeaderValue, KeySource, PositiveDuration};
use crate::proto::head::HeaderName;

/// The names of filters that were seen, and where: metrics and reloads know filters by them.
#[derive(Default)]
pub struct Taken(HashMap<String, Span>);

/// Checks `filters`. `owner` is whose they are, as in `route/api`.
pub fn check(
    given: Optional<List<raw::Filter>>,
    owner: impl Display,
    names: &Tables,
    taken: &mut Taken,
    diagnostics: &mut Diagnostics,
) -> Option<Vec<Filter>> {
    let list = given.map_or_else(Vec::new, |list| list.value);
    let mut place = 0..;
    each(list, |filter| {
        let At { value: raw, span } = filter;
        let name = format!("{owner}/{}", place.next().unwrap_or_default());
        let spans = [
            raw.rate_limit.as_ref().map(|key| key.span),
            raw.global_rate_limit.as_ref().map(|key| key.span),
            raw.fault.as_ref().map(|key| key.span),
        ];
        only_one(spans, "`rate_limit`, `global_rate_limit` and `fault`", diagnostics);
        if let Some(limit) = raw.rate_limit {
            rate_limit(limit.value.0?, limit.span, name, taken, diagnostics).map(Filter::RateLimit)
        } else if let Some(limit) = raw.global_rate_limit {
            let limit = global_limit::check(limit.value.0?, limit.span, name, names, taken, diagnostics);
            limit.map(Filter::GlobalRateLimit)
        } else if let Some(raw) = raw.fault {
            fault::check(raw.value.0?, raw.span, name, taken, diagnostics).map(Filter::Fault)
        } else {
            let help = "add `rate_limit`, `global_rate_limit` or `fault`";
            diagnostics.error(span, "this filter does nothing").help(help);
            None
        }
    })
}

fn rate_limit(
    raw: raw::RateLimit,
    span: Span,
    place: String,
    taken: &mut Taken,
    diagnostics: &mut Diagnostics,
) -> Option<RateLimit> {
    let (name, span) = raw.name.map_or((place, span), |name| (name.value.0, name.span));
    taken.take(&name, span, diagnostics);
    let prefixes = Prefixes {
        ipv4: raw.ipv4_prefix.map_or(32, |prefix| prefix.value.0),
        ipv6: raw.ipv6_prefix.map_or(64, |prefix| prefix.value.0),
    };
    let spans = [raw.ipv4_prefix.map(|key| key.span), raw.ipv6_prefix.map(|key| key.span)];
    let max_keys = raw.max_keys;
    let key = raw.key.map(|key| rate_key(key, prefixes, diagnostics));
    check_key_settings(key.as_ref().map(Option::as_ref), spans, max_keys.map(|key| key.span), diagnostics);
    let quota = quota(raw.requests, raw.per, raw.burst, diagnostics);
    let overrides = raw.overrides.map_or_else(Vec::new, |list| list.value);
    let overrides = each(overrides, |each| rate_override(each.value, diagnostics));
    let when = when(raw.r#match, diagnostics);
    let headers = header_list(raw.headers, diagnostics);
    Some(RateLimit {
        name,
        when: when?,
        key: match key {
            Some(key) => Some(key?),
            None => None,
        },
        max_keys: max_keys.map_or(1 << 16, |count| count.value.0),
        quota: quota?,
        overrides: overrides?,
        status: raw.status.map_or(429, |status| status.value.0),
        body: raw.body.map_or_else(|| "local_rate_limited".to_owned(), |body| body.value),
        headers: headers?,
        grpc_resource_exhausted: raw.grpc_resource_exhausted.is_some_and(|on| on.value),
        ratelimit_headers: raw.ratelimit_headers.is_some_and(|on| on.value),
        dry_run: raw.dry_run.is_some_and(|on| on.value),
    })
}

/// Fields of a refusal.
fn header_list(given: Optional<Map<HeaderValue>>, diagnostics: &mut Diagnostics) -> Option<Vec<(HeaderName, String)>> {
    let fields = given.map_or_else(Vec::new, |map| map.value.0);
    header_fields(fields.into_iter().map(|(name, value)| (name, vec![value])).collect(), diagnostics)
}

impl Taken {
    fn take(&mut self, name: &str, span: Span, diagnostics: &mut Diagnostics) {
        match self.0.get(name) {
            None => _ = self.0.insert(name.to_owned(), span),
            Some(first) => {
                let message = format!("there are two filters named `{name}`");
                diagnostics.error(span, message).related(*first, "the first one");
            }
        }
    }
}

/// Reports keys about buckets that there are not. `key`: `None` is one bucket, `Some(None)` a wrong key.
fn check_key_settings(
    key: Option<Option<&RateKey>>,
    prefixes: [Option<Span>; 2],
    max_keys: Option<Span>,
    diagnostics: &mut Diagnostics,
) {
    let is_address = matches!(key, Some(None | Some(RateKey::ClientIp(_) | RateKey::PeerIp(_))));
    for span in prefixes.into_iter().flatten().filter(|_| !is_address) {
        let help = "add `key = \"client_ip\"`, or leave it out";
        diagnostics.error(span, "a prefix is for a `key` that is an address").help(help);
    }
    if let Some(span) = max_keys.filter(|_| key.is_none()) {
        diagnostics.error(span, "`max_keys` needs `key`: without it there is one bucket");
    }
}

fn rate_key(raw: At<Given<raw::Key>>, prefixes: Prefixes, diagnostics: &mut Diagnostics) -> Option<RateKey> {
    let At { value: Given(key), span } = raw;
    match key? {
        raw::Key::Source(KeySource::ClientIp) => Some(RateKey::ClientIp(prefixes)),
        raw::Key::Source(KeySource::PeerIp) => Some(RateKey::PeerIp(prefixes)),
        raw::Key::Source(KeySource::Host) => Some(RateKey::Host),
        raw::Key::Source(KeySource::Connection) => Some(RateKey::Connection),
        raw::Key::Part(raw::KeyTable { header: Some(name), query: None, cookie: None }) => {
            Some(RateKey::Header(name.value.0?.0))
        }
        raw::Key::Part(raw::KeyTable { header: None, query: Some(name), cookie: None }) => {
            Some(RateKey::Query(name.value.0?))
        }
        raw::Key::Part(raw::KeyTable { header: None, query: None, cookie: Some(name) }) => {
            Some(RateKey::Cookie(name.value.0?))
        }
        raw::Key::Part(_) => {
            diagnostics.error(span, "a key is one of `header`, `query` and `cookie`");
            None
        }
    }
}

fn rate_override(raw: raw::RateOverride, diagnostics: &mut Diagnostics) -> Option<RateOverride> {
    let empty = raw.r#match.0.as_ref().filter(|when| is_empty(&when.value)).map(|when| when.span);
    if let Some(span) = empty {
        let help = "an override of every request leaves nothing for the quota it overrides";
        diagnostics.error(span, "this `match` is empty").help(help);
    }
    let when = raw.r#match.0.and_then(|raw| when(Some(raw), diagnostics));
    let quota = quota(raw.requests, raw.per, raw.burst, diagnostics);
    Some(RateOverride { when: when?, quota: quota? })
}

fn is_empty(when: &raw::When) -> bool {
    let raw::When { hosts, methods, headers, query, client_ip } = when;
    hosts.is_none() && methods.is_none() && headers.is_none() && query.is_none() && client_ip.is_none()
}

/// Tokens a second: their distance, in whole nanoseconds, is then precise to a hundredth.
const REQUESTS_PER_SECOND: u128 = 10_000_000;

/// How long an empty bucket may take to fill: what is added to the clock then never overflows.
const FILLS_WITHIN: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Checks a token bucket.
pub fn quota(
    requests: Required<Count<u32, 1, 1_000_000_000>>,
    per: Required<PositiveDuration>,
    burst: Optional<Count<u32, 1, 1_000_000_000>>,
    diagnostics: &mut Diagnostics,
) -> Option<Quota> {
    let (requests, per) = (requests.0?, per.0?);
    let quota = Quota {
        requests: requests.value.0,
        per: per.value.0,
        burst: burst.map_or(requests.value.0, |burst| burst.value.0),
    };
    let (count, per_ns) = (u128::from(quota.requests), quota.per.as_nanos());
    if count * 1_000_000_000 > REQUESTS_PER_SECOND * per_ns {
        let message = format!("{count} in {} are more than ten million a second", humantime(quota.per));
        diagnostics.error(requests.span, message).help("a limit like that is none: leave it out");
    }
    if u128::from(quota.burst) * per_ns / count > FILLS_WITHIN.as_nanos() {
        let span = burst.map_or(per.span, |burst| burst.span);
        let message = format!("a bucket of {} would take more than a year to fill", quota.burst);
        diagnostics.error(span, message).help("take a smaller `burst` or a shorter `per`");
    }
    Some(quota)
}

fn humantime(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// Checks `match` of a filter.
fn when(raw: Optional<raw::When>, diagnostics: &mut Diagnostics) -> Option<When> {
    let Some(At { value: raw, .. }) = raw else { return Some(When::default()) };
    if let Some(hosts) = &raw.hosts {
        reject_empty(hosts, "hosts", "any host", diagnostics);
    }
    let hosts = raw.hosts.map_or_else(Vec::new, |list| list.value);
    let methods = raw.methods.map_or_else(Vec::new, |list| list.value);
    let headers = header_matches(raw.headers, diagnostics);
    let query = query_matches(raw.query, diagnostics);
    Some(When {
        hosts: hosts.into_iter().map(|host| host.value.0).collect(),
        methods: methods.into_iter().map(|method| method.value.0).collect(),
        headers: headers?,
        query: query?,
        client_ip: addresses(raw.client_ip, "client_ip", diagnostics),
    })
}
