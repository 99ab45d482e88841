//! From a TLS client's first message to an L4 route: tables by name, no scan over the routes.

use std::collections::HashMap;

use crate::config::model::{HostPattern, L4Route, L4RouteId, ListenerId};

/// What is known of a connection before it is relayed.
#[derive(Clone, Copy, Debug)]
pub enum L4Query<'a> {
    /// Not TLS, or nobody looked.
    Opaque,
    /// A ClientHello.
    Tls {
        /// The host it wants, in lower case.
        server_name: Option<&'a str>,
        /// The protocols it offers.
        alpn: &'a [Vec<u8>],
    },
}

/// The L4 routes of one listener.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct L4Table {
    routes: Vec<Entry>,
    /// Routes, as indexes into `routes`, in the order of the file: so are all lists below.
    exact: HashMap<String, Vec<usize>>,
    /// By the name's end, as `.example.com`.
    suffix: HashMap<String, Vec<usize>>,
    any_name: Vec<usize>,
    no_name: Vec<usize>,
    /// Routes that do not ask about names.
    unnamed: Vec<usize>,
}

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    id: L4RouteId,
    alpn: Vec<Vec<u8>>,
}

impl L4Table {
    /// The table of the routes that `listener` has.
    pub fn build(routes: &[L4Route], listener: ListenerId) -> L4Table {
        let mut table = L4Table::default();
        for (route, id) in routes.iter().zip(0..).filter(|(route, _)| route.listeners.contains(&listener)) {
            let at = table.routes.len();
            let alpn = route.alpn.iter().map(|name| name.clone().into_bytes()).collect();
            table.routes.push(Entry { id: L4RouteId(id), alpn });
            for name in &route.server_names {
                match name {
                    HostPattern::Exact(name) => table.exact.entry(name.clone()).or_default().push(at),
                    HostPattern::Suffix(end) => table.suffix.entry(end.clone()).or_default().push(at),
                    HostPattern::Any => table.any_name.push(at),
                }
            }
            if route.without_server_name {
                table.no_name.push(at);
            } else if route.server_names.is_empty() {
                table.unnamed.push(at);
            }
        }
        table
    }

    /// Whether there is no route.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Whether a ClientHello decides. When not, a connection's first route is its route, before it has said a word.
    pub fn needs_hello(&self) -> bool {
        self.routes.len() > self.unnamed.len() || self.routes.iter().any(|route| !route.alpn.is_empty())
    }

    /// The first route that takes the connection.
    pub fn find(&self, query: L4Query<'_>) -> Option<L4RouteId> {
        let takes = |at: &&usize| match (&self.routes[**at].alpn[..], query) {
            ([], _) => true,
            (_, L4Query::Opaque) => false,
            (wanted, L4Query::Tls { alpn, .. }) => alpn.iter().any(|offered| wanted.contains(offered)),
        };
        let first = |list: &[usize]| list.iter().find(takes).copied();
        let by_name = match query {
            L4Query::Opaque => None,
            L4Query::Tls { server_name: None, .. } => first(&self.no_name),
            L4Query::Tls { server_name: Some(name), .. } => {
                let exact = self.exact.get(name).map(Vec::as_slice).unwrap_or_default();
                let ends = name.match_indices('.').filter(|(at, _)| *at > 0).map(|(at, _)| &name[at..]);
                let suffixes = ends.filter_map(|end| self.suffix.get(end)).filter_map(|list| first(list));
                suffixes.chain(first(exact)).chain(first(&self.any_name)).min()
            }
        };
        let found = by_name.into_iter().chain(first(&self.unnamed)).min()?;
        Some(self.routes[found].id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(names: &[&str], without: bool, alpn: &[&str]) -> L4Route {
        let pattern = |name: &&str| match name.strip_prefix('*') {
            Some("") => HostPattern::Any,
            Some(end) => HostPattern::Suffix(end.to_owned()),
            None => HostPattern::Exact((*name).to_owned()),
        };
        L4Route {
            name: names.join(" "),
            listeners: vec![ListenerId(0)],
            server_names: names.iter().map(pattern).collect(),
            without_server_name: without,
            alpn: alpn.iter().map(ToString::to_string).collect(),
            clusters: Vec::new(),
            subset: None,
            connect_attempts: 1,
            idle_timeout: None,
        }
    }

    fn find(table: &L4Table, server_name: Option<&str>, alpn: &[&str]) -> Option<u32> {
        let alpn: Vec<Vec<u8>> = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        table.find(L4Query::Tls { server_name, alpn: &alpn }).map(|id| id.0)
    }

    #[test]
    fn the_first_route_of_the_file_that_matches_is_taken() {
        let routes = [
            route(&["a.test"], false, &["h2"]),
            route(&["*.b.test"], false, &[]),
            route(&["x.b.test", "a.test"], true, &[]),
            route(&["*"], false, &["acme-tls/1"]),
            route(&["*.test"], false, &[]),
        ];
        let table = L4Table::build(&routes, ListenerId(0));
        assert!(table.needs_hello());
        let cases: &[(Option<&str>, &[&str], Option<u32>)] = &[
            (Some("a.test"), &["http/1.1", "h2"], Some(0)),
            (Some("a.test"), &["http/1.1"], Some(2)),
            (Some("x.b.test"), &[], Some(1)),
            (Some("y.x.b.test"), &[], Some(1)),
            (Some("b.test"), &[], Some(4)),
            (Some("other.example"), &["acme-tls/1"], Some(3)),
            (Some("c.test"), &["acme-tls/1"], Some(3)),
            (Some("other.example"), &["h2"], None),
            (Some(".b.test"), &[], Some(4)),
            (Some("test"), &[], None),
            (None, &[], Some(2)),
        ];
        for (name, alpn, expected) in cases {
            assert_eq!(find(&table, *name, alpn), *expected, "{name:?} {alpn:?}");
        }
        assert_eq!(table.find(L4Query::Opaque), None);
    }

    #[test]
    fn a_route_without_names_takes_what_comes_to_it() {
        let routes = [route(&["a.test"], false, &[]), route(&[], false, &["h2"]), route(&[], false, &[])];
        let table = L4Table::build(&routes, ListenerId(0));
        assert_eq!(find(&table, Some("a.test"), &[]), Some(0));
        assert_eq!(find(&table, Some("b.test"), &["h2"]), Some(1));
        assert_eq!(find(&table, None, &[]), Some(2));
        assert_eq!(table.find(L4Query::Opaque), Some(L4RouteId(2)));
        let one = L4Table::build(&routes[2..], ListenerId(0));
        assert!(!one.needs_hello() && !one.is_empty());
        assert!(L4Table::build(&routes, ListenerId(1)).is_empty());
    }
}
