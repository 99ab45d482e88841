//! The routes of one listener, arranged so that finding one does not depend on how many there are.
//!
//! # Precedence
//!
//! As the Gateway API ranks `HTTPRoute` rules; [`MatchRank`] is the rule as a type. Among the routes that match a
//! request, the one wins whose
//!
//! 1. host is exact, else has the longest `*.` suffix, else is any;
//! 2. path is exact, else a regular expression (longest text first), else the longest prefix. The Gateway API leaves
//!    the place of regular expressions open; Contour, Envoy Gateway and Istio put them here;
//! 3. match names methods;
//! 4. match has most header conditions, then
//! 5. most query conditions, then
//! 6. most of `peer_ip` and `client_ip`, which the Gateway API does not have;
//! 7. place in the file is first.
//!
//! A less specific host is tried when no route of a more specific one matches: a route is a rule, not a virtual host
//! (Envoy's virtual hosts never fall back).
//!
//! # Shape
//!
//! A tree with all its edges in one hash table ([`Edges`]): first the host, below it each exact path as one edge, and the
//! prefixes segment by segment. A node has the routes whose exact path ends there and those whose prefix does, best
//! first. A prefix is found by walking down as far as the tree goes and then up again over the nodes that have prefix
//! routes. So the work of [`Table::find`] is bounded by the depth of the configured prefixes, not by the number of routes
//! nor by the request. Two things are lists: routes which differ in nothing but their conditions, and the regular
//! expressions of one host, which are tried one after another. `find` does not allocate (a regular expression does when
//! a thread first uses it).

use std::cmp::Reverse;
use std::net::IpAddr;
use std::ops::Range;

use super::conditions::Conditions;
use super::edges::{Edges, NodeId};
use super::path;
use crate::config::model::{HostPattern, ListenerId, PathMatch, Route, RouteId, RouteMatch};
use crate::proto::head::RequestHead;

/// What a route is looked up by.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// The host as [`super::host::canonical`] gives it.
    pub host: &'a [u8],
    /// The path, normalised, without query.
    pub path: &'a [u8],
    /// Method, fields and query string.
    pub head: &'a RequestHead,
    /// Where the connection comes from: its TCP peer, or the source that a trusted PROXY header named.
    pub peer_ip: IpAddr,
    /// The client, as trusted proxies tell.
    pub client_ip: IpAddr,
}

/// The routes of one listener.
pub struct Table {
    edges: Edges,
    nodes: Vec<Node>,
    rules: Vec<Rule>,
    conditions: Vec<Conditions>,
    /// Lengths of the suffixes in use, longest first, so that a host of many labels costs no more than these.
    suffix_lens: Vec<usize>,
}

/// How specific a route's match is: of all routes that match a request, the least one takes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MatchRank {
    host: HostRank,
    path: PathRank,
    names_methods: Reverse<bool>,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    addresses: Reverse<usize>,
    order: RouteId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum HostRank {
    Exact,
    Suffix(Reverse<usize>),
    Any,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PathRank {
    Exact,
    Regex(Reverse<usize>),
    Prefix(Reverse<usize>),
}

/// The tree's fixed nodes: below `EXACT` and `SUFFIX` is a node for each host, which is the root of its paths.
const EXACT: NodeId = 0;
const SUFFIX: NodeId = 1;
const ANY: NodeId = 2;
/// No node.
const NONE: NodeId = NodeId::MAX;

/// Ranges are of [`Table::rules`].
#[derive(Default)]
struct Node {
    /// Routes that look at the whole path: exact ones, or regular expressions when the node is a host.
    whole: Range<u32>,
    /// Routes whose prefix ends here.
    prefix: Range<u32>,
    /// The nearest node above that has prefix routes, or `NONE`.
    up: NodeId,
}

struct Rule {
    route: RouteId,
    /// Index into [`Table::conditions`].
    conditions: Option<u32>,
}

// === impl Table ===

impl Table {
    /// The table of the routes that name `listener`.
    pub fn build(routes: &[Route], listener: ListenerId) -> Table {
        let mut builder = Builder::new();
        for (index, route) in routes.iter().enumerate() {
            if route.listeners.contains(&listener) {
                builder.add(RouteId(index as u32), route);
            }
        }
        builder.finish()
    }

    /// The route that takes the request.
    ///
    /// `OPTIONS *` has no path, so no route takes it.
    pub fn find(&self, query: &Query<'_>) -> Option<RouteId> {
        if !query.path.starts_with(b"/") {
            return None;
        }
        let exact = self.edges.get(EXACT, query.host);
        exact
            .and_then(|host| self.find_under(host, query))
            .or_else(|| self.find_under_suffix(query))
            .or_else(|| self.find_under(ANY, query))
    }

    fn find_under_suffix(&self, query: &Query<'_>) -> Option<RouteId> {
        self.suffix_lens.iter().find_map(|&len| {
            // Longer than the suffix: the wildcard stands for at least one label.
            let start = query.host.len().checked_sub(len).filter(|&start| start > 0)?;
            let host = self.edges.get(SUFFIX, &query.host[start..])?;
            self.find_under(host, query)
        })
    }

    fn find_under(&self, host: NodeId, query: &Query<'_>) -> Option<RouteId> {
        let whole = |node: NodeId| self.first(&self.nodes[node as usize].whole, query);
        let exact = self.edges.get(host, query.path).and_then(whole);
        exact.or_else(|| whole(host)).or_else(|| self.find_prefix(self.descend(host, query.path), query))
    }

    /// The last node on the way of `path`.
    fn descend(&self, host: NodeId, path: &[u8]) -> NodeId {
        let step = |at, segment| self.edges.get(at, segment).ok_or(at);
        let (Ok(deepest) | Err(deepest)) = path::segments(path).try_fold(host, step);
        deepest
    }

    fn find_prefix(&self, deepest: NodeId, query: &Query<'_>) -> Option<RouteId> {
        let mut at = deepest;
        while at != NONE {
            let node = &self.nodes[at as usize];
            if let Some(route) = self.first(&node.prefix, query) {
                return Some(route);
            }
            at = node.up;
        }
        None
    }

    fn first(&self, rules: &Range<u32>, query: &Query<'_>) -> Option<RouteId> {
        self.rules[rules.start as usize..rules.end as usize]
            .iter()
            .find(|rule| rule.conditions.is_none_or(|index| self.conditions[index as usize].hold(query)))
            .map(|rule| rule.route)
    }
}

// === impl MatchRank ===

impl MatchRank {
    /// The rank of a route's match under one of its hosts.
    pub fn of(host: &HostPattern, matcher: &RouteMatch, order: RouteId) -> MatchRank {
        MatchRank {
            host: match host {
                HostPattern::Exact(_) => HostRank::Exact,
                HostPattern::Suffix(suffix) => HostRank::Suffix(Reverse(suffix.len())),
                HostPattern::Any => HostRank::Any,
            },
            path: match &matcher.path {
                PathMatch::Exact(_) => PathRank::Exact,
                PathMatch::Regex(pattern) => PathRank::Regex(Reverse(pattern.0.as_str().len())),
                PathMatch::Prefix(prefix) => PathRank::Prefix(Reverse(prefix.len())),
            },
            names_methods: Reverse(!matcher.methods.is_empty()),
            headers: Reverse(matcher.headers.len()),
            query: Reverse(matcher.query.len()),
            addresses: Reverse([&matcher.peer_ip, &matcher.client_ip].iter().filter(|list| !list.is_empty()).count()),
            order,
        }
    }
}

// === building ===

#[derive(Default)]
struct Builder {
    edges: Edges,
    /// The node above each node, or `NONE`.
    parents: Vec<NodeId>,
    entries: Vec<Entry>,
    conditions: Vec<Conditions>,
    suffix_lens: Vec<usize>,
}

/// A rule on its way to its node. The rank puts whole-path rules before prefix rules.
struct Entry {
    node: NodeId,
    rank: MatchRank,
    rule: Rule,
}

impl Builder {
    fn new() -> Builder {
        Builder { parents: [EXACT, SUFFIX, ANY].map(|_| NONE).into(), ..Builder::default() }
    }

    fn add(&mut self, id: RouteId, route: &Route) {
        let conditions = Conditions::of(&route.matcher).map(|conditions| {
            self.conditions.push(conditions);
            self.conditions.len() as u32 - 1
        });
        for host in &route.hosts {
            let node = self.path_node(host, &route.matcher.path);
            let rank = MatchRank::of(host, &route.matcher, id);
            self.entries.push(Entry { node, rank, rule: Rule { route: id, conditions } });
        }
    }

    fn path_node(&mut self, host: &HostPattern, path: &PathMatch) -> NodeId {
        let host = self.host_node(host);
        match path {
            PathMatch::Regex(_) => host,
            // A path begins with a slash, so it is never taken for a segment.
            PathMatch::Exact(text) => self.child(host, text.as_bytes()),
            PathMatch::Prefix(text) => path::prefix_segments(text).fold(host, |at, segment| self.child(at, segment)),
        }
    }

    fn host_node(&mut self, host: &HostPattern) -> NodeId {
        match host {
            HostPattern::Any => ANY,
            HostPattern::Exact(name) => self.child(EXACT, name.as_bytes()),
            HostPattern::Suffix(suffix) => {
                self.suffix_lens.push(suffix.len());
                self.child(SUFFIX, suffix.as_bytes())
            }
        }
    }

    fn child(&mut self, parent: NodeId, text: &[u8]) -> NodeId {
        self.edges.get(parent, text).unwrap_or_else(|| {
            let child = self.parents.len() as NodeId;
            self.parents.push(parent);
            self.edges.insert(parent, text, child);
            child
        })
    }

    fn finish(mut self) -> Table {
        self.suffix_lens.sort_unstable_by_key(|&len| Reverse(len));
        self.suffix_lens.dedup();
        self.entries.sort_unstable_by(|a, b| (a.node, &a.rank).cmp(&(b.node, &b.rank)));
        let mut nodes = self.nodes_with_rules();
        link_upwards(&mut nodes, &self.parents);
        let rules = self.entries.into_iter().map(|entry| entry.rule).collect();
        Table { edges: self.edges, nodes, rules, conditions: self.conditions, suffix_lens: self.suffix_lens }
    }

    fn nodes_with_rules(&self) -> Vec<Node> {
        let mut nodes: Vec<Node> = self.parents.iter().map(|_| Node::default()).collect();
        let mut start = 0;
        for entries in self.entries.chunk_by(|a, b| a.node == b.node) {
            let end = start + entries.len() as u32;
            let whole = entries.partition_point(|entry| !matches!(entry.rank.path, PathRank::Prefix(_)));
            let node = &mut nodes[entries[0].node as usize];
            node.whole = start..start + whole as u32;
            node.prefix = node.whole.end..end;
            start = end;
        }
        nodes
    }
}

/// Sets every [`Node::up`]. Parents come before their children, so one pass does it.
fn link_upwards(nodes: &mut [Node], parents: &[NodeId]) {
    for (index, &parent) in parents.iter().enumerate() {
        nodes[index].up = match nodes.get(parent as usize) {
            None => NONE,
            Some(above) if above.prefix.is_empty() => above.up,
            Some(_) => parent,
        };
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
