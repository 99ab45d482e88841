//! Which route takes a request, and what it does to it.

use std::collections::BTreeMap;

use gateway_tests::client;
use gateway_tests::ports::loopback;
use gateway_tests::prelude::*;
use gateway_tests::stream::Stream;

/// A gateway whose routes answer with their own name, so that a test sees which one took the request.
fn named_routes(routes: &[(&str, &str)]) -> Gateway {
    let config = routes.iter().fold(Config::new().listener("web", ""), |config, (name, lines)| {
        config.route(name, &format!("{lines}\nrespond = {{ status = 200, body = '{name}' }}"))
    });
    Gateway::start(&config)
}

/// Sends a head and gives the body of the answer; `404` when there was no route.
fn taken_by(client: &mut Conn, head: &str) -> String {
    client.send(head);
    let response = client.response();
    if response.status == 404 { "404".into() } else { response.text().to_owned() }
}

fn get(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n")
}

#[test]
fn hosts_match_exactly_before_by_longest_suffix_before_any() {
    let gateway = named_routes(&[
        ("any", ""),
        ("suffix", "hosts = ['*.example.com']"),
        ("deep", "hosts = ['*.b.example.com']"),
        ("exact", "hosts = ['a.example.com', 'other.test']"),
    ]);
    let mut client = gateway.connect();
    for (host, route) in [
        ("a.example.com", "exact"),
        ("A.Example.COM", "exact"),
        ("a.example.com:8080", "exact"),
        ("other.test", "exact"),
        ("c.example.com", "suffix"),
        ("x.y.example.com", "suffix"),
        ("x.b.example.com", "deep"),
        ("example.com", "any"),
        ("badexample.com", "any"),
        ("127.0.0.1", "any"),
        ("[::1]:80", "any"),
    ] {
        assert_eq!(taken_by(&mut client, &get(host, "/")), route, "{host}");
    }
}

#[test]
fn paths_match_exactly_before_by_regex_or_longest_prefix() {
    let gateway = named_routes(&[
        ("root", "match = { path_prefix = '/' }"),
        ("a", "match = { path_prefix = '/a' }"),
        ("ab", "match = { path_prefix = '/a/b/' }"),
        ("exact", "match = { path = '/a/b/c' }"),
    ]);
    let mut client = gateway.connect();
    for (path, route) in [
        ("/", "root"),
        ("/other", "root"),
        ("/a", "a"),
        ("/a?q=/a/b/c", "a"),
        ("/a/", "a"),
        ("/a/x", "a"),
        ("/ab", "root"),
        ("/a/b", "ab"),
        ("/a/b/x", "ab"),
        ("/a/bc", "a"),
        ("/a/b/c", "exact"),
        ("/a/b/c?q", "exact"),
        ("/a/b/c/", "ab"),
        ("/A", "root"),
    ] {
        assert_eq!(taken_by(&mut client, &get("h", path)), route, "{path}");
    }
}

#[test]
fn a_regex_matches_the_whole_path() {
    let gateway = named_routes(&[("id", "match = { path_regex = '/user/[0-9]+' }")]);
    let mut client = gateway.connect();
    for (path, route) in [("/user/42", "id"), ("/user/42?x", "id"), ("/user/42/x", "404"), ("/x/user/42", "404")] {
        assert_eq!(taken_by(&mut client, &get("h", path)), route, "{path}");
    }
}

#[test]
fn methods_headers_and_query_narrow_a_route_and_more_conditions_win() {
    let gateway = named_routes(&[
        ("all", ""),
        ("post", "match = { methods = ['POST'] }"),
        ("canary", "match = { headers = { x-canary = '1' } }"),
        ("canary-user", "match = { headers = { x-canary = '1', x-user = { regex = '[a-c].*' } } }"),
        ("absent", "match = { path_prefix = '/p', headers = { x-canary = { present = false } } }"),
        ("query", "match = { query = { debug = { present = true } } }"),
    ]);
    let mut client = gateway.connect();
    let with = |fields: &str, path: &str| format!("GET {path} HTTP/1.1\r\nhost: h\r\n{fields}\r\n");
    for (head, route) in [
        (with("", "/"), "all"),
        (client::request("POST", "/", "content-length: 0\r\n"), "post"),
        (with("x-canary: 1\r\n", "/"), "canary"),
        (with("X-CANARY: 1\r\n", "/"), "canary"),
        (with("x-canary: 2\r\n", "/"), "all"),
        (with("x-canary: 1\r\nx-user: bob\r\n", "/"), "canary-user"),
        (with("x-canary: 1\r\nx-user: dave\r\n", "/"), "canary"),
        (with("", "/p"), "absent"),
        (with("x-canary: 1\r\n", "/p"), "canary"),
        (with("", "/?debug"), "query"),
        (with("", "/?a=1&debug=0"), "query"),
        (with("", "/?nodebug=1"), "all"),
    ] {
        assert_eq!(taken_by(&mut client, &head), route, "{head:?}");
    }
}

#[test]
fn without_a_route_the_answer_is_an_empty_404() {
    let gateway = named_routes(&[("a", "hosts = ['a.test']")]);
    let mut client = gateway.connect();
    let response = client.get("/");
    assert_eq!((response.status, response.body.len()), (404, 0));
    let flagged = || gateway.metrics().sum("gateway_listener_response_flags_total", &[("flag", "NR")]);
    wait::until_true("the request to be counted", || flagged() == 1.0);
    assert_eq!(taken_by(&mut client, &get("a.test", "/")), "a", "the connection goes on");
}

#[test]
fn a_route_serves_the_listeners_that_it_names() {
    let config = Config::new()
        .listener("web", "")
        .listener("other", "")
        .route("both", "respond = { status = 200, body = 'both' }")
        .route(
            "one",
            "listeners = ['other']\nmatch = { path_prefix = '/x' }\nrespond = { status = 200, body = 'one' }",
        );
    let gateway = Gateway::start(&config);
    assert_eq!(gateway.get("/x").text(), "both");
    assert_eq!(Conn::connect(gateway.addr("other")).get("/x").text(), "one");
}

#[test]
fn paths_are_normalised_before_routes_and_origins_see_them() {
    let origin = Origin::start("a");
    let config = Config::new()
        .listener("web", "")
        .cluster("origin", &[origin.addr()], "")
        .route("all", "cluster = 'origin'")
        .route("admin", "match = { path_prefix = '/admin' }\nrespond = { status = 403 }");
    let gateway = Gateway::start(&config);
    let mut client = gateway.connect();
    for path in ["/x/../admin", "//admin", "/./admin/x", "/x/%2e%2E/admin", "/x//..//admin", "/../admin"] {
        assert_eq!(client.get(path).status, 403, "{path} must not pass the guard");
    }
    for (path, target) in [("/headers/a/./b/../c", "/headers/a/c"), ("/headers//x?a=//b/../c", "/headers/x?a=//b/../c")]
    {
        assert_eq!(client.get(path).seen().target(), target);
    }
    for path in ["/headers/%2fadmin", "/headers/a%5Cb", "/headers/%2F"] {
        assert_eq!(gateway.get(path).status, 400, "{path}: reject is the default");
    }
}

#[test]
fn path_normalisation_can_be_switched_off() {
    let origin = Origin::start("a");
    let config = Config::new()
        .listener(
            "web",
            "path_normalisation = { dot_segments = false, merge_slashes = false, encoded_slashes = 'keep' }",
        )
        .cluster("origin", &[origin.addr()], "")
        .route("all", "cluster = 'origin'");
    let gateway = Gateway::start(&config);
    for path in ["/headers/../x", "/headers//x", "/headers/a%2Fb"] {
        assert_eq!(gateway.get(path).seen().target(), path);
    }
}

#[test]
fn weights_share_requests_exactly_enough() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let config = Config::new()
        .listener("web", "")
        .cluster("a", &[a.addr()], "")
        .cluster("b", &[b.addr()], "")
        .route("split", "clusters = [{ name = 'a', weight = 90 }, { name = 'b', weight = 10 }]")
        .route(
            "none",
            "match = { path_prefix = '/x' }\nclusters = [{ name = 'a', weight = 0 }, { name = 'b', weight = 1 }]",
        );
    let gateway = Gateway::start(&config);
    let mut client = gateway.connect();
    let mut counts = BTreeMap::new();
    for _ in 0..2000 {
        *counts.entry(client.get("/").text().to_owned()).or_insert(0) += 1;
    }
    // Binomial with n = 2000 and p = 0.1: 200 ± 5 standard deviations of 13.4.
    assert!((133..=267).contains(&counts["b"]), "{counts:?}");
    assert_eq!(counts["a"] + counts["b"], 2000);
    for _ in 0..50 {
        assert_eq!(client.get("/x").text(), "b");
    }
}

#[test]
fn endpoints_take_turns_by_weight() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let config = Config::new()
        .gateway("workers = 1")
        .listener("web", "")
        .tables(&format!(
            "[[cluster]]\nname = 'two'\nendpoints = [{{ address = '{}', weight = 3 }}, '{}']",
            a.addr(),
            b.addr()
        ))
        .route("all", "cluster = 'two'");
    let gateway = Gateway::start(&config);
    let mut client = gateway.connect();
    for _ in 0..40 {
        client.get("/");
    }
    assert_eq!((a.requests(), b.requests()), (30, 10));
}

#[test]
fn a_redirect_keeps_what_it_does_not_name() {
    let config = Config::new()
        .listener("web", "")
        .route("https", "redirect = { scheme = 'https' }")
        .route("moved", "match = { path_prefix = '/old' }\nredirect = { path_prefix = '/new', status = 308 }")
        .route("elsewhere", "match = { path = '/out' }\nredirect = { host = 'b.test', path = '/in', status = 302 }");
    let gateway = Gateway::start(&config);
    let mut client = gateway.connect();
    for (path, status, location) in [
        ("/a/b?c=d", 301, "https://test.example/a/b?c=d"),
        ("/old/x?y", 308, "http://test.example/new/x?y"),
        ("/out?z", 302, "http://b.test/in?z"),
    ] {
        let response = client.get(path);
        assert_eq!((response.status, response.header("location")), (status, Some(location)));
    }
}

#[test]
fn rewrites_change_what_the_origin_sees() {
    let origin = Origin::start("a");
    let config = Config::new().listener("web", "").cluster("origin", &[origin.addr()], "").route(
        "rewritten",
        "match = { path_prefix = '/api' }\ncluster = 'origin'\n\
             rewrite = { path_prefix = '/headers', host = 'inner.test' }",
    );
    let gateway = Gateway::start(&config);
    let mut client = gateway.connect();
    for (path, target) in [("/api/v1?q", "/headers/v1?q"), ("/api", "/headers"), ("/api?x", "/headers?x")] {
        let seen = client.get(path).seen();
        assert_eq!((seen.target(), seen.header("host")), (target, Some("inner.test")));
        assert_eq!(seen.header("x-envoy-original-path"), Some(path));
    }
}

#[test]
fn a_direct_response_needs_no_origin() {
    let config = Config::new().listener("web", "").route(
        "teapot",
        "respond = { status = 418, body = '{\"tea\":true}', content_type = 'application/json' }\n\
         response_headers = { set = { x-pot = 'yes' } }",
    );
    let gateway = Gateway::start(&config);
    let mut client = gateway.connect();
    let response = client.get("/");
    assert_eq!((response.status, response.text()), (418, "{\"tea\":true}"));
    assert_eq!((response.header("content-type"), response.header("x-pot")), (Some("application/json"), Some("yes")));
    let head = client.request("HEAD", "/", "", b"");
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (418, Some("12"), 0));
    // The body of a request that nobody wants must not be taken for the next request.
    let posted = client.request("POST", "/", "", b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(posted.status, 418);
    if !posted.closes() {
        assert_eq!(client.get("/").status, 418);
    }
}

#[test]
fn headers_are_removed_then_set_then_added() {
    let origin = Script::start(|mut conn| {
        let head = conn.head().expect("a request");
        assert_eq!(head.header("x-gone"), None);
        assert_eq!(head.all("x-set"), ["new"]);
        assert_eq!(head.all("x-add"), ["client", "added"]);
        conn.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-gone: 1\r\nx-set: 1\r\nx-set: 2\r\nx-add: origin\r\n\r\n");
        conn.end();
    });
    let edits = "{ remove = ['X-Gone'], set = { x-set = 'new' }, add = { x-add = 'added' } }";
    let config = Config::new()
        .listener("web", "")
        .cluster("origin", &[origin.addr()], "")
        .route("all", &format!("cluster = 'origin'\nrequest_headers = {edits}\nresponse_headers = {edits}"));
    let gateway = Gateway::start(&config);
    let mut client = gateway.connect();
    let response = client.request("GET", "/", "x-gone: 1\r\nx-set: 1\r\nx-add: client\r\nx-set: 2\r\n", b"");
    assert_eq!(response.status, 200);
    assert_eq!(response.header("x-gone"), None);
    assert_eq!(response.head.all("x-set"), ["new"]);
    assert_eq!(response.head.all("x-add"), ["origin", "added"]);
}

#[test]
fn response_headers_are_edited_on_local_replies_too() {
    let config = Config::new()
        .listener("web", "")
        .cluster("none", &[], "")
        .route("all", "cluster = 'none'\nresponse_headers = { set = { strict-transport-security = 'max-age=1' } }");
    let gateway = Gateway::start(&config);
    let response = gateway.get("/");
    assert_eq!((response.status, response.header("strict-transport-security")), (503, Some("max-age=1")));
}

#[test]
fn a_direct_clients_claims_are_not_believed() {
    let origin = Origin::start("a");
    let gateway = Gateway::in_front_of(origin.addr());
    let fields = "x-forwarded-for: 9.9.9.9\r\nx-forwarded-proto: https\r\nx-forwarded-host: evil.test\r\n\
                  x-request-id: mine\r\nx-envoy-original-path: /evil\r\nforwarded: for=9.9.9.9\r\n";
    let seen = gateway.connect().request("GET", "/headers", fields, b"").seen();
    assert_eq!(seen.header("x-forwarded-for"), Some(format!("9.9.9.9,{}", loopback()).as_str()));
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.header("x-forwarded-host"), Some(client::HOST));
    assert_eq!((seen.header("x-envoy-original-path"), seen.header("forwarded")), (None, None));
    let id = seen.header("x-request-id").expect("a request id").to_owned();
    assert_eq!((id.len(), id.as_bytes()[14]), (36, b'4'), "a UUID of version 4: {id}");
    let other = gateway.get("/headers").seen().header("x-request-id").map(str::to_owned);
    assert_ne!(Some(id), other);
}

#[test]
fn a_trusted_proxys_claims_are_kept() {
    let origin = Origin::start("a");
    let config = Config::proxy_to(origin.addr()).gateway("trusted_proxies = ['127.0.0.0/8', '::1']");
    let gateway = Gateway::start(&config);
    let fields = "x-forwarded-for: 9.9.9.9\r\nx-forwarded-proto: https\r\nx-request-id: theirs\r\n";
    let seen = gateway.connect().request("GET", "/headers", fields, b"").seen();
    assert_eq!(seen.header("x-forwarded-for"), Some(format!("9.9.9.9,{}", loopback()).as_str()));
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.header("x-request-id"), Some("theirs"));
}

/// The same rules with nobody trusted and with the peer trusted: what `x-forwarded-for` says counts for `client_ip` only,
/// and only from a trusted proxy.
#[test]
fn routes_by_peer_and_by_client_see_two_addresses() {
    let here = "['127.0.0.0/8', '::1']";
    let config = || {
        let answer = |config: Config, status: u16, matcher: &str| {
            let lines = format!("match = {{ {matcher} }}\nrespond = {{ status = {status} }}");
            config.route(&format!("r{status}"), &lines)
        };
        let config = answer(Config::new().listener("web", ""), 201, "client_ip = ['9.9.9.0/24', '2001:db8::/32']");
        let config = answer(config, 202, &format!("path = '/peer', peer_ip = {here}"));
        answer(config, 203, "path = '/other', peer_ip = ['9.9.9.0/24']")
    };
    let trusting = config().gateway(&format!("trusted_proxies = {here}"));
    let cases = [
        ("/", "", 404, 404),
        ("/", "9.9.9.9", 404, 201),
        ("/", "::ffff:9.9.9.9", 404, 201),
        ("/", "9.9.10.9", 404, 404),
        ("/", "2001:db8::7", 404, 201),
        ("/peer", "9.9.10.9", 202, 202),
        ("/peer", "", 202, 202),
        ("/other", "9.9.9.9", 404, 201),
    ];
    for (gateway, is_trusted) in [(Gateway::start(&config()), false), (Gateway::start(&trusting), true)] {
        for (path, forwarded_for, direct, trusted) in cases {
            let fields =
                if forwarded_for.is_empty() { String::new() } else { format!("x-forwarded-for: {forwarded_for}\r\n") };
            let status = gateway.connect().request("GET", path, &fields, b"").status;
            let wanted = if is_trusted { trusted } else { direct };
            assert_eq!(status, wanted, "{path} of {forwarded_for}, trusted: {is_trusted}");
        }
    }
}

#[test]
fn the_server_header_is_ours_unless_it_is_told_to_pass() {
    let origin = Script::start(|mut conn| {
        conn.head().expect("a request");
        conn.send("HTTP/1.1 200 OK\r\nserver: origin/1\r\ncontent-length: 0\r\n\r\n");
    });
    let gateway = Gateway::in_front_of(origin.addr());
    let response = gateway.get("/");
    assert_eq!(response.header("server"), Some("gateway"));
    let time = response.header("x-envoy-upstream-service-time").expect("a service time");
    time.parse::<u64>().expect("milliseconds");
    let named = Config::proxy_to(origin.addr()).gateway("server_header = 'box'\nvia = 'box'");
    let response = Gateway::start(&named).get("/");
    assert_eq!((response.header("server"), response.header("via")), (Some("box"), Some("1.1 box")));
}

#[test]
fn the_origin_learns_how_long_the_gateway_will_wait() {
    let origin = Origin::start("a");
    let gateway = Gateway::in_front_of(origin.addr());
    assert_eq!(gateway.get("/headers").seen().header("x-envoy-expected-rq-timeout-ms"), Some("15000"));
}

#[test]
fn denied_sources_get_no_connection() {
    let origin = Origin::start("a");
    let denied = "[[access]]\nname = 'all'\naction = 'deny'\nsources = ['127.0.0.0/8', '::1']";
    let gateway = Gateway::start(&Config::proxy_to(origin.addr()).tables(denied));
    // The reset may come before the connection is ready for use.
    if let Ok(denied) = Stream::connect(gateway.addr("web")) {
        let mut client = Conn::new(denied, 0);
        client.try_send(client::request("GET", "/", ""));
        assert_eq!(client.try_response_to("GET"), Err(ReadError::Closed));
    }
    assert_eq!(origin.connections(), 0);
    wait::until_true("the refusal to be counted", || {
        gateway.metrics().sum("gateway_listener_connections_refused_total", &[("reason", "access_denied")]) > 0.0
    });
    let allowed = "[[access]]\nname = 'me'\naction = 'allow'\nsources = ['127.0.0.1', '::1']";
    let gateway = Gateway::start(&Config::proxy_to(origin.addr()).tables(denied).tables(allowed));
    assert_eq!(gateway.get("/").status, 200);
}
