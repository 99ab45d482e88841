//! Tables of cases for every matcher and for the precedence, and a naive search to compare with.

use std::cmp::Reverse;
use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;
use regex::bytes::Regex;

use super::*;
use crate::config::model::{
    Action, HeaderEdits, HeaderMatch, Pattern, Priority, QueryMatch, Respond, Retry, ValueMatch,
};
use crate::proto::head::{HeaderName, Method};

const LISTENER: ListenerId = ListenerId(0);

fn route(hosts: &[&str], matcher: RouteMatch) -> Route {
    Route {
        name: "route".into(),
        listeners: vec![LISTENER],
        hosts: hosts.iter().map(|host| pattern(host)).collect(),
        matcher,
        action: Action::Respond(Respond { status: 200, body: String::new(), content_type: "text/plain".into() }),
        timeout: None,
        body_bytes: None,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        retry: Retry::unless_said(),
        websocket: None,
        filters: vec![],
        mirrors: None,
        breaker: None,
        priority: Priority::Normal,
    }
}

fn pattern(host: &str) -> HostPattern {
    match host.strip_prefix('*') {
        None => HostPattern::Exact(host.into()),
        Some("") => HostPattern::Any,
        Some(suffix) => HostPattern::Suffix(suffix.into()),
    }
}

fn exact(path: &str) -> RouteMatch {
    RouteMatch { path: PathMatch::Exact(path.into()), ..RouteMatch::default() }
}

fn prefix(path: &str) -> RouteMatch {
    RouteMatch { path: PathMatch::Prefix(path.into()), ..RouteMatch::default() }
}

fn regex(path: &str) -> RouteMatch {
    RouteMatch { path: PathMatch::Regex(anchored(path)), ..RouteMatch::default() }
}

fn anchored(text: &str) -> Pattern {
    Pattern(Regex::new(&format!("^(?:{text})$")).unwrap())
}

fn header(name: &str, value: ValueMatch) -> HeaderMatch {
    HeaderMatch { name: HeaderName::new(name).unwrap(), value }
}

fn param(name: &str, value: ValueMatch) -> QueryMatch {
    QueryMatch { name: name.into(), value }
}

fn is(value: &str) -> ValueMatch {
    ValueMatch::Exact(value.into())
}

fn request(method: &str, host: &str, target: &str, headers: &[(&str, &str)]) -> RequestHead {
    let mut head = RequestHead {
        method: Method::from_token(method),
        authority: host.into(),
        target: target.into(),
        ..RequestHead::default()
    };
    for (name, value) in headers {
        head.headers.append_raw(name.as_bytes(), value.as_bytes());
    }
    head
}

fn find_head(table: &Table, head: &RequestHead) -> Option<u32> {
    find_from(table, head, ip("127.0.0.1"), ip("127.0.0.1"))
}

fn find_from(table: &Table, head: &RequestHead, peer_ip: IpAddr, client_ip: IpAddr) -> Option<u32> {
    table.find(&Query { host: &head.authority, path: head.path(), head, peer_ip, client_ip }).map(|id| id.0)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn networks(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|network| network.parse().unwrap()).collect()
}

/// The index of the route that a GET takes.
fn find(routes: &[Route], host: &str, target: &str) -> Option<u32> {
    find_head(&Table::build(routes, LISTENER), &request("GET", host, target, &[]))
}

#[test]
fn a_host_matches_exactly_by_suffix_or_any() {
    let cases = [
        ("a.test", "a.test", true),
        ("a.test", "b.a.test", false),
        ("a.test", "a.tes", false),
        ("*.a.test", "b.a.test", true),
        ("*.a.test", "c.b.a.test", true),
        ("*.a.test", "a.test", false),
        ("*.a.test", ".a.test", false),
        ("*.a.test", "ba.test", false),
        ("*.a.test", "b.a.test.evil", false),
        ("*", "a.test", true),
        ("*", "", true),
    ];
    for (pattern, host, expected) in cases {
        assert_eq!(find(&[route(&[pattern], prefix("/"))], host, "/").is_some(), expected, "{pattern} {host}");
    }
}

#[test]
fn a_path_matches_exactly_by_whole_segments_or_by_regex() {
    let cases = [
        (exact("/a"), "/a", true),
        (exact("/a"), "/a?x", true),
        (exact("/a"), "/a/", false),
        (exact("/a"), "/a/b", false),
        (exact("/a"), "/", false),
        (exact("/a/"), "/a/", true),
        (exact("/a/"), "/a", false),
        (exact("/"), "/", true),
        (exact("/"), "/a", false),
        (exact("/a/b"), "/a", false),
        (prefix("/a"), "/a", true),
        (prefix("/a"), "/a/", true),
        (prefix("/a"), "/a/b/c", true),
        (prefix("/a"), "/ab", false),
        (prefix("/a"), "/A", false),
        (prefix("/a/b"), "/a", false),
        (prefix("/a/b"), "/a/bc", false),
        (prefix("/"), "/", true),
        (prefix("/"), "/a//b", true),
        (prefix("/"), "*", false),
        (regex("/v[0-9]+/.*"), "/v12/x", true),
        (regex("/v[0-9]+/.*"), "/v12/x?y", true),
        (regex("/v[0-9]+"), "/v1/x", false),
        (regex("/v[0-9]+"), "/x/v1", false),
        (regex("/a|/b"), "/bc", false),
        (regex(".*"), "*", false),
    ];
    for (matcher, target, expected) in cases {
        let found = find(&[route(&["*"], matcher.clone())], "a.test", target);
        assert_eq!(found.is_some(), expected, "{:?} {target}", matcher.path);
    }
}

#[test]
fn methods_headers_and_query_parameters_must_all_match() {
    let methods = |methods: &[&str]| RouteMatch {
        methods: methods.iter().map(|method| Method::from_token(method)).collect(),
        ..prefix("/")
    };
    let headers = |headers: &[HeaderMatch]| RouteMatch { headers: headers.into(), ..prefix("/") };
    let query = |query: &[QueryMatch]| RouteMatch { query: query.into(), ..prefix("/") };
    let re = |text| ValueMatch::Regex(anchored(text));
    type Fields<'a> = &'a [(&'a str, &'a str)];
    let cases: &[(RouteMatch, &str, &str, Fields<'_>, bool)] = &[
        (methods(&["GET", "PURGE"]), "GET", "/", &[], true),
        (methods(&["GET", "PURGE"]), "PURGE", "/", &[], true),
        (methods(&["GET", "PURGE"]), "HEAD", "/", &[], false),
        (methods(&["GET"]), "get", "/", &[], false),
        (headers(&[header("X-A", is("1"))]), "GET", "/", &[("x-a", "1")], true),
        (headers(&[header("X-A", is("1"))]), "GET", "/", &[("x-a", "2"), ("X-A", "1")], true),
        (headers(&[header("X-A", is("1"))]), "GET", "/", &[("x-a", "11")], false),
        (headers(&[header("X-A", is("1"))]), "GET", "/", &[("x-b", "1")], false),
        (headers(&[header("X-A", is(""))]), "GET", "/", &[], false),
        (headers(&[header("X-A", re("v[0-9]"))]), "GET", "/", &[("x-a", "v1")], true),
        (headers(&[header("X-A", re("v[0-9]"))]), "GET", "/", &[("x-a", "xv1")], false),
        (headers(&[header("X-A", re(".*"))]), "GET", "/", &[], false),
        (headers(&[header("X-A", ValueMatch::Present(true))]), "GET", "/", &[("x-a", "")], true),
        (headers(&[header("X-A", ValueMatch::Present(true))]), "GET", "/", &[], false),
        (headers(&[header("X-A", ValueMatch::Present(false))]), "GET", "/", &[], true),
        (headers(&[header("X-A", ValueMatch::Present(false))]), "GET", "/", &[("x-a", "")], false),
        (headers(&[header("Host", is("a.test"))]), "GET", "/", &[], true),
        (headers(&[header("Host", is("b.test"))]), "GET", "/", &[], false),
        (headers(&[header("X-A", is("1")), header("X-B", is("2"))]), "GET", "/", &[("x-a", "1"), ("x-b", "2")], true),
        (headers(&[header("X-A", is("1")), header("X-B", is("2"))]), "GET", "/", &[("x-a", "1")], false),
        (query(&[param("k", is("v"))]), "GET", "/?k=v", &[], true),
        (query(&[param("k", is("v"))]), "GET", "/?a=b&k=v&c", &[], true),
        (query(&[param("k", is("v"))]), "GET", "/?k=w&k=v", &[], false),
        (query(&[param("k", is("v"))]), "GET", "/?kk=v", &[], false),
        (query(&[param("k", is("v"))]), "GET", "/?K=v", &[], false),
        (query(&[param("k", is("a=b"))]), "GET", "/?k=a=b", &[], true),
        (query(&[param("k", is("a b"))]), "GET", "/?k=a%20b", &[], false),
        (query(&[param("k", is(""))]), "GET", "/?k", &[], true),
        (query(&[param("k", is(""))]), "GET", "/", &[], false),
        (query(&[param("k", re("[0-9]+"))]), "GET", "/?k=12", &[], true),
        (query(&[param("k", re("[0-9]+"))]), "GET", "/?k=12a", &[], false),
        (query(&[param("k", ValueMatch::Present(true))]), "GET", "/?x&k", &[], true),
        (query(&[param("k", ValueMatch::Present(true))]), "GET", "/?x&kk", &[], false),
        (query(&[param("k", ValueMatch::Present(false))]), "GET", "/?x", &[], true),
        (query(&[param("k", ValueMatch::Present(false))]), "GET", "/?x&k=", &[], false),
    ];
    for (matcher, method, target, fields, expected) in cases {
        let table = Table::build(&[route(&["*"], matcher.clone())], LISTENER);
        let found = find_head(&table, &request(method, "a.test", target, fields));
        assert_eq!(found.is_some(), *expected, "{matcher:?} {method} {target} {fields:?}");
    }
}

#[test]
fn peer_and_client_are_two_conditions_and_an_ipv4_mapped_address_is_ipv4() {
    let peer = |list: &[&str]| RouteMatch { peer_ip: networks(list), ..prefix("/") };
    let client = |list: &[&str]| RouteMatch { client_ip: networks(list), ..prefix("/") };
    let both = |one: &[&str], other: &[&str]| RouteMatch { client_ip: networks(other), ..peer(one) };
    let cases = [
        (peer(&["192.0.2.0/24"]), "192.0.2.9", "10.0.0.1", true),
        (peer(&["192.0.2.0/24"]), "192.0.3.0", "192.0.2.9", false),
        (peer(&["192.0.2.0/24"]), "::ffff:192.0.2.9", "10.0.0.1", true),
        (peer(&["::ffff:192.0.2.0/120"]), "192.0.2.9", "10.0.0.1", true),
        (peer(&["198.51.100.7/32", "2001:db8::/32"]), "2001:db8::1", "10.0.0.1", true),
        (peer(&["198.51.100.7/32", "2001:db8::/32"]), "2001:db9::1", "10.0.0.1", false),
        (peer(&["::/0"]), "192.0.2.9", "10.0.0.1", false),
        (peer(&["::/0"]), "::ffff:192.0.2.9", "10.0.0.1", false),
        (client(&["10.0.0.0/8"]), "192.0.2.9", "10.0.0.1", true),
        (client(&["10.0.0.0/8"]), "10.0.0.1", "192.0.2.9", false),
        (client(&["10.0.0.0/8"]), "192.0.2.9", "::ffff:10.0.0.1", true),
        (both(&["192.0.2.0/24"], &["10.0.0.0/8"]), "192.0.2.9", "10.0.0.1", true),
        (both(&["192.0.2.0/24"], &["10.0.0.0/8"]), "192.0.2.9", "11.0.0.1", false),
        (both(&["192.0.2.0/24"], &["10.0.0.0/8"]), "192.0.3.9", "10.0.0.1", false),
    ];
    let head = request("GET", "a.test", "/", &[]);
    for (matcher, from, client, expected) in cases {
        let table = Table::build(&[route(&["*"], matcher.clone())], LISTENER);
        let found = find_from(&table, &head, ip(from), ip(client));
        assert_eq!(found.is_some(), expected, "{matcher:?} {from} {client}");
    }
}

/// Each case lists routes that all match `GET http://b.a.test/x/y?k=v` with `x-a: 1` from 127.0.0.1, the winner first; it
/// must win in the reverse order too.
#[test]
fn precedence_is_that_of_the_gateway_api() {
    let methods = |matcher| RouteMatch { methods: vec![Method::Get], ..matcher };
    let one_header = |matcher| RouteMatch { headers: vec![header("x-a", is("1"))], ..matcher };
    let two_headers = |matcher| RouteMatch {
        headers: vec![header("x-a", is("1")), header("x-b", ValueMatch::Present(false))],
        ..matcher
    };
    let one_param = |matcher| RouteMatch { query: vec![param("k", is("v"))], ..matcher };
    let two_params =
        |matcher| RouteMatch { query: vec![param("k", is("v")), param("l", ValueMatch::Present(false))], ..matcher };
    let from = |matcher| RouteMatch { peer_ip: networks(&["127.0.0.0/8"]), ..matcher };
    let of = |matcher| RouteMatch { client_ip: networks(&["127.0.0.1/32", "10.0.0.0/8"]), ..matcher };
    let any = |matcher| route(&["*"], matcher);
    let cases = [
        (
            "an exact host",
            vec![route(&["b.a.test"], prefix("/")), route(&["*.a.test"], exact("/x/y")), any(exact("/x/y"))],
        ),
        (
            "the longest suffix",
            vec![route(&["*.a.test"], prefix("/")), route(&["*.test"], exact("/x/y")), any(exact("/x/y"))],
        ),
        ("an exact path", vec![any(exact("/x/y")), any(regex("/x/y")), any(methods(two_headers(prefix("/x/y"))))]),
        ("a regex over a prefix", vec![any(regex("/.*")), any(two_headers(prefix("/x/y")))]),
        ("the longest regex", vec![any(regex("/x/[a-z]")), any(methods(regex("/.*")))]),
        ("the longest prefix", vec![any(prefix("/x/y")), any(methods(prefix("/x"))), any(two_headers(prefix("/")))]),
        ("a method", vec![any(methods(prefix("/x"))), any(two_headers(prefix("/x")))]),
        ("more headers", vec![any(two_headers(prefix("/x"))), any(one_header(two_params(prefix("/x"))))]),
        ("more parameters", vec![any(two_params(exact("/x/y"))), any(one_param(exact("/x/y"))), any(exact("/x/y"))]),
        ("a parameter over addresses", vec![any(one_param(prefix("/"))), any(from(of(prefix("/"))))]),
        ("both addresses", vec![any(from(of(prefix("/")))), any(of(prefix("/"))), any(prefix("/"))]),
    ];
    for (what, routes) in cases {
        for (winner, routes) in [(0, routes.clone()), (routes.len() - 1, routes.iter().rev().cloned().collect())] {
            let head = request("GET", "b.a.test", "/x/y?k=v", &[("x-a", "1")]);
            assert_eq!(find_head(&Table::build(&routes, LISTENER), &head), Some(winner as u32), "{what}");
        }
    }
}

#[test]
fn the_first_of_equals_in_the_file_wins() {
    let routes = [route(&["a.test"], prefix("/a")), route(&["a.test"], prefix("/a"))];
    assert_eq!(find(&routes, "a.test", "/a"), Some(0));
}

#[test]
fn a_less_specific_route_is_tried_when_a_more_specific_one_does_not_match() {
    let put = |matcher| RouteMatch { methods: vec![Method::Put], ..matcher };
    let routes = [
        route(&["b.a.test"], put(exact("/x/y"))),
        route(&["b.a.test"], put(prefix("/x"))),
        route(&["*.a.test"], prefix("/w")),
        route(&["*.test"], prefix("/x")),
        route(&["*"], prefix("/")),
    ];
    let cases = [
        ("b.a.test", "/x/y", Some(3)),
        ("b.a.test", "/w", Some(2)),
        ("b.a.test", "/v", Some(4)),
        ("other", "/x", Some(4)),
    ];
    for (host, target, expected) in cases {
        assert_eq!(find(&routes, host, target), expected, "{host} {target}");
    }
}

#[test]
fn a_table_has_the_routes_of_its_listener_only() {
    let routes = [
        Route { listeners: vec![ListenerId(1)], ..route(&["*"], exact("/a")) },
        Route { listeners: vec![ListenerId(1), LISTENER], ..route(&["*"], prefix("/")) },
    ];
    assert_eq!(find(&routes, "a.test", "/a"), Some(1));
    assert_eq!(find(&[], "a.test", "/a"), None);
}

#[test]
fn a_path_deeper_than_any_route_costs_no_more_than_the_tree_is_deep() {
    let routes = [route(&["*"], prefix("/a/a/a"))];
    assert_eq!(find(&routes, "a.test", &"/a".repeat(30_000)), Some(0));
    assert_eq!(find(&routes, "a.test", &format!("/{}", "a".repeat(60_000))), None);
}

#[test]
fn a_table_is_shared_by_all_workers() {
    fn shared<T: Send + Sync>() {}
    shared::<Table>();
}

// === a naive search ===

fn naive_find(routes: &[Route], head: &RequestHead, peer: IpAddr) -> Option<u32> {
    let host = std::str::from_utf8(&head.authority).unwrap();
    let path = std::str::from_utf8(head.path()).unwrap();
    let matching = routes.iter().enumerate().flat_map(|(index, route)| {
        let hosts = route.hosts.iter().filter(|pattern| naive_host(pattern, host));
        hosts.filter(|_| naive_rest(&route.matcher, path, head, peer)).map(move |host| (naive_rank(host, route), index))
    });
    matching.min().map(|(_, index)| index as u32)
}

fn naive_host(pattern: &HostPattern, host: &str) -> bool {
    match pattern {
        HostPattern::Exact(name) => host == name,
        HostPattern::Suffix(suffix) => host.ends_with(suffix.as_str()) && host.len() > suffix.len(),
        HostPattern::Any => true,
    }
}

fn naive_rest(matcher: &RouteMatch, path: &str, head: &RequestHead, peer: IpAddr) -> bool {
    let path_matches = match &matcher.path {
        PathMatch::Exact(text) => path == text,
        PathMatch::Prefix(text) if text == "/" => true,
        PathMatch::Prefix(text) => path == text || path.starts_with(&format!("{text}/")),
        PathMatch::Regex(pattern) => pattern.0.is_match(path.as_bytes()),
    };
    let headers_match = matcher.headers.iter().all(|header| match &header.value {
        ValueMatch::Exact(text) => head.headers.get(&header.name) == Some(text.as_bytes()),
        _ => unreachable!("not generated"),
    });
    let peer_matches = matcher.peer_ip.is_empty() || matcher.peer_ip.iter().any(|network| network.contains(&peer));
    path_matches
        && headers_match
        && peer_matches
        && (matcher.methods.is_empty() || matcher.methods.contains(&head.method))
}

fn naive_rank(host: &HostPattern, route: &Route) -> impl Ord {
    let host = match host {
        HostPattern::Exact(_) => (0, Reverse(0)),
        HostPattern::Suffix(suffix) => (1, Reverse(suffix.len())),
        HostPattern::Any => (2, Reverse(0)),
    };
    let path = match &route.matcher.path {
        PathMatch::Exact(_) => (0, Reverse(0)),
        PathMatch::Regex(pattern) => (1, Reverse(pattern.0.as_str().len())),
        PathMatch::Prefix(text) => (2, Reverse(text.len())),
    };
    let matcher = &route.matcher;
    (host, path, matcher.methods.is_empty(), Reverse(matcher.headers.len()), matcher.peer_ip.is_empty())
}

/// Few labels and segments, so that routes and requests meet often.
fn any_path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "ab", ""]), 1..4)
        .prop_map(|parts| format!("/{}", parts.join("/")))
}

fn any_host() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b"]), 1..4).prop_map(|labels| labels.join("."))
}

fn any_route() -> impl Strategy<Value = Route> {
    let host = prop_oneof![any_host(), any_host().prop_map(|host| format!("*.{host}")), Just("*".to_string())];
    let prefix_path = prop::collection::vec(prop::sample::select(vec!["a", "b", "ab"]), 0..4)
        .prop_map(|parts| prefix(&format!("/{}", parts.join("/"))));
    let regexes = prop::sample::select(vec!["/a.*", "/[ab]/b", "/(a|b)*", "/.*"]).prop_map(regex);
    let path = prop_oneof![3 => any_path().prop_map(|path| exact(&path)), 3 => prefix_path, 1 => regexes];
    let method = prop::sample::select(vec![None, None, Some(Method::Get), Some(Method::Put)]);
    let headers = prop::sample::subsequence(vec![("x-a", "1"), ("x-b", "1")], 0..=2);
    let peers = prop::sample::subsequence(networks(&["10.0.0.0/8", "10.0.0.0/31", "::/0"]), 0..=2);
    (prop::collection::vec(host, 1..3), path, method, headers, peers).prop_map(
        |(hosts, path, method, headers, peer_ip)| {
            let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
            let headers = headers.iter().map(|(name, value)| header(name, is(value))).collect();
            route(&hosts, RouteMatch { methods: method.into_iter().collect(), headers, peer_ip, ..path })
        },
    )
}

fn any_request() -> impl Strategy<Value = RequestHead> {
    let method = prop::sample::select(vec!["GET", "PUT"]);
    let headers = prop::sample::subsequence(vec![("x-a", "1"), ("x-b", "1"), ("x-b", "2")], 0..=3);
    (method, any_host(), any_path(), headers)
        .prop_map(|(method, host, path, headers)| request(method, &host, &path, &headers))
}

fn any_peer() -> impl Strategy<Value = IpAddr> {
    prop::sample::select(vec![ip("10.0.0.1"), ip("10.0.0.2"), ip("192.0.2.1"), ip("2001:db8::1")])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn the_table_finds_what_trying_every_route_finds(
        routes in prop::collection::vec(any_route(), 0..40),
        requests in prop::collection::vec((any_request(), any_peer()), 20),
    ) {
        let table = Table::build(&routes, LISTENER);
        for (head, peer) in &requests {
            let found = find_from(&table, head, *peer, ip("127.0.0.1"));
            prop_assert_eq!(found, naive_find(&routes, head, *peer), "{:?} from {}", head, peer);
        }
    }
}
