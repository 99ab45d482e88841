//! What a route asks of a request besides host and plain path.

use ipnet::IpNet;
use regex::bytes::Regex;

use super::table::Query;
use crate::config::model::{HeaderMatch, PathMatch, QueryMatch, RouteMatch, ValueMatch};
use crate::proto::head::{Known, Method, Name, RequestHead};
use crate::proto::ip_map::IpSet;

/// The conditions of one route, all of which must hold.
pub(super) struct Conditions {
    path: Option<Regex>,
    methods: Box<[Method]>,
    peer_ip: Option<IpSet>,
    client_ip: Option<IpSet>,
    headers: Box<[HeaderMatch]>,
    query: Box<[QueryMatch]>,
}

impl Conditions {
    /// The conditions of a route; `None` when there are none.
    pub(super) fn of(matcher: &RouteMatch) -> Option<Conditions> {
        let path = match &matcher.path {
            PathMatch::Regex(pattern) => Some(pattern.0.clone()),
            PathMatch::Exact(_) | PathMatch::Prefix(_) => None,
        };
        let none = path.is_none()
            && matcher.methods.is_empty()
            && matcher.peer_ip.is_empty()
            && matcher.client_ip.is_empty()
            && matcher.headers.is_empty()
            && matcher.query.is_empty();
        let set = |networks: &[IpNet]| (!networks.is_empty()).then(|| IpSet::of(networks));
        (!none).then(|| Conditions {
            path,
            methods: matcher.methods.clone().into(),
            peer_ip: set(&matcher.peer_ip),
            client_ip: set(&matcher.client_ip),
            headers: matcher.headers.clone().into(),
            query: matcher.query.clone().into(),
        })
    }

    /// Whether they all hold, cheapest first.
    pub(super) fn hold(&self, query: &Query<'_>) -> bool {
        (self.methods.is_empty() || self.methods.contains(&query.head.method))
            && self.peer_ip.as_ref().is_none_or(|networks| networks.contains(query.peer_ip))
            && self.client_ip.as_ref().is_none_or(|networks| networks.contains(query.client_ip))
            && self.headers.iter().all(|header| header_holds(header, query.head))
            && self.query.iter().all(|param| value_holds(&param.value, query.head.param(param.name.as_bytes())))
            && self.path.as_ref().is_none_or(|path| path.is_match(query.path))
    }
}

/// A field that occurs more than once matches when one of its values does: a client must not be able to hide the value
/// an origin would act on behind another one (CVE-2020-25017 is Envoy looking at the first only).
pub(super) fn header_holds(header: &HeaderMatch, head: &RequestHead) -> bool {
    // The `host` field is not among the fields (`RequestHead::authority`).
    if header.name.known() == Known::Host {
        return value_holds(&header.value, (!head.authority.is_empty()).then_some(head.authority.as_slice()));
    }
    let mut values = head.headers.get_all(&header.name);
    match &header.value {
        ValueMatch::Present(present) => values.next().is_some() == *present,
        exact_or_regex => values.any(|value| value_holds(exact_or_regex, Some(value))),
    }
}

fn value_holds(expected: &ValueMatch, value: Option<&[u8]>) -> bool {
    match expected {
        ValueMatch::Exact(text) => value == Some(text.as_bytes()),
        ValueMatch::Regex(pattern) => value.is_some_and(|value| pattern.0.is_match(value)),
        ValueMatch::Present(present) => value.is_some() == *present,
    }
}
