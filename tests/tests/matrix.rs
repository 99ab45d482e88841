//! What a gateway does, for every pair of HTTP versions: each case runs four times.

use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gateway_tests::asked::host_of;
use gateway_tests::certs::Store;
use gateway_tests::client::HOST;
use gateway_tests::conn::{Framing, Head};
use gateway_tests::every_pair;
use gateway_tests::h2::Options;
use gateway_tests::origin::{Served, serve};
use gateway_tests::pattern;
use gateway_tests::ports::loopback;
use gateway_tests::prelude::*;
use gateway_tests::tls::{TlsClient, TlsServer};
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// A gateway in front of `origin`; `listener`, `cluster` and `route` are lines of those tables.
fn config(pair: Pair, origin: std::net::SocketAddr, listener: &str, cluster: &str, route: &str) -> Config {
    Config::new()
        .listener("web", listener)
        .cluster("origin", &[origin], &format!("protocol = '{}'\n{cluster}", pair.origin.name()))
        .route("all", &format!("cluster = 'origin'\n{route}"))
}

fn start(pair: Pair, origin: std::net::SocketAddr) -> Gateway {
    Gateway::start(&config(pair, origin, "", "", ""))
}

/// The name of the client's version in logs.
fn protocol(pair: Pair) -> &'static str {
    match pair.client {
        Http::H1 => "HTTP/1.1",
        Http::H2 => "HTTP/2",
    }
}

every_pair! {
    small_requests_are_answered_over_one_connection
    a_response_without_a_body_has_none
    bodies_of_all_sizes_and_framings_arrive_unharmed
    long_bodies_arrive_unharmed
    bodies_go_both_ways_at_once
    the_origins_trailers_reach_the_client
    the_clients_trailers_reach_the_origin
    expect_100_continue_is_passed_on
    interim_responses_are_not_taken_for_the_answer
    many_and_long_headers_are_kept
    cookies_arrive_as_one
    an_early_answer_is_not_lost
    a_cut_answer_is_a_cut_for_the_client
    an_origin_that_gives_up_before_its_head_is_a_503
    a_client_that_gives_up_is_known_to_the_origin
    a_body_over_its_limit_is_refused
    a_streamed_body_is_cut_at_its_limit
    an_answer_that_does_not_come_in_time_is_a_504
    the_gateways_own_answers
    headers_are_edited
    the_access_log_has_a_line
    the_origin_learns_who_asks
    te_says_trailers_or_nothing
    hop_by_hop_fields_stop_at_the_gateway
    tls_on_both_sides
}

fn small_requests_are_answered_over_one_connection(pair: Pair) {
    let origin = Origin::start("a");
    let gateway = start(pair, origin.addr());
    let mut client = pair.connect(&gateway);
    for _ in 0..20 {
        assert_eq!(client.get("/").text(), "a");
        let response = client.ask("DELETE", "/echo?x=1", &[]);
        assert_eq!((response.status, response.text(), response.header("x-origin")), (200, "", Some("a")));
        assert_eq!(client.post("/echo", &[], b"hello").text(), "hello");
        assert_eq!(client.get("/status/418").status, 418);
    }
    assert_eq!(origin.requests(), 80);
    // An answer may reach the client a moment before its connection is idle again.
    assert!(origin.connections() < 20, "{} connections for 80 requests in turn", origin.connections());
}

fn a_response_without_a_body_has_none(pair: Pair) {
    let origin = Origin::start("a");
    let gateway = start(pair, origin.addr());
    let mut client = pair.connect(&gateway);
    let response = client.ask("HEAD", "/bytes/12345", &[]);
    assert_eq!((response.status, response.header("content-length"), response.body.len()), (200, Some("12345"), 0));
    for status in [204, 304, 205, 200] {
        let response = client.get(&format!("/status/{status}"));
        assert_eq!((response.status, response.body.len()), (status, 0));
        if status == 204 {
            assert_eq!(response.header("content-length"), None, "RFC 9110 §8.6");
        }
    }
    assert_eq!(client.get("/").text(), "a", "and the connection is in step");
}

fn bodies_of_all_sizes_and_framings_arrive_unharmed(pair: Pair) {
    let origin = Origin::start("a");
    let gateway = start(pair, origin.addr());
    let mut client = pair.connect(&gateway);
    // Around the sizes at which buffers, frames, records and windows end.
    for length in [0, 1, 4096, 16_383, 16_384, 16_385, 65_534, 65_535, 65_536, 262_143, 262_145, 1_048_577, 3_000_003] {
        for path in ["bytes", "chunked", "until-close"] {
            assert_eq!(client.get_pattern(&format!("/{path}/{length}")).1, length, "/{path}/{length}");
        }
        for framing in [Framing::Length(length), Framing::Chunked] {
            let response = client.post_pattern("/sink", length, framing);
            assert_eq!(response.text(), length.to_string(), "{framing:?}");
        }
    }
}

fn long_bodies_arrive_unharmed(pair: Pair) {
    let origin = Origin::start("a");
    let gateway = start(pair, origin.addr());
    let mut client = pair.connect(&gateway);
    assert_eq!(client.get_pattern(&format!("/chunked/{}", 64 * MIB)).1, 64 * MIB);
    assert_eq!(client.post_pattern("/sink", 64 * MIB, Framing::Chunked).text(), (64 * MIB).to_string());
    let peak = gateway.process.peak_rss();
    assert!(peak < 64 * MIB, "the gateway took {} MiB", peak / MIB);
}

/// An origin that answers with each piece as it comes.
fn bodies_go_both_ways_at_once(pair: Pair) {
    let origin = scripted(|served| {
        served.start(200, &[], Framing::Chunked);
        for word in ["one", "two", "three"] {
            assert_eq!(served.some_of_the_body(word.len()), word.as_bytes());
            served.send(word.to_uppercase().as_bytes());
        }
        // The test may be over by then.
        let _ = served.finish(&[]) && served.body(&mut |_| ()).is_ok();
    });
    let gateway = start(pair, origin.addr());
    let mut client = pair.connect(&gateway);
    let mut asked = client.start("POST", "/", &[("content-length", "11")]);
    assert!(asked.send(b"one"));
    assert_eq!(asked.beginning_of(3), (200, b"ONE".to_vec()));
    for (word, answer) in [("two", "TWO"), ("three", "THREE")] {
        assert!(asked.send(word.as_bytes()));
        assert_eq!(asked.some_of_the_body(answer.len()), answer.as_bytes());
    }
    // The answer was whole, so the gateway may have ended the stream by now.
    asked.finish(&[]);
}

fn the_origins_trailers_reach_the_client(pair: Pair) {
    let origin = Origin::start("a");
    let gateway = start(pair, origin.addr());
    let mut client = pair.connect(&gateway);
    for _ in 0..2 {
        let response = client.ask("GET", "/trailers", &[("te", "trailers")]);
        assert_eq!(response.text(), "body");
        let expected = [("x-check", "123"), ("x-more", "yes")].map(|(name, value)| (name.into(), value.into()));
        assert_eq!(response.trailers, expected);
    }
}

fn the_clients_trailers_reach_the_origin(pair: Pair) {
    let origin = Origin::start("a");
    let gateway = start(pair, origin.addr());
    let mut client = pair.connect(&gateway);
    for _ in 0..2 {
        let mut asked = client.start("POST", "/request-trailers", &[("trailer", "x-t")]);
        assert!(asked.send(b"body") && asked.finish(&[("x-t", "v")]));
        assert_eq!(asked.response().text(), r#"[["x-t","v"]]"#);
    }
}

fn expect_100_continue_is_passed_on(pair: Pair) {
    let origin = Origin::start("a");
    let gateway = start(pair, origin.addr());
    let mut client = pair.connect(&gateway);
    let mut asked = client.start("POST", "/echo", &[("content-length", "5"), ("expect", "100-continue")]);
    assert_eq!(asked.interim(), 100);
    assert!(asked.send(b"hello") && asked.finish(&[]));
    assert_eq!(asked.response().text(), "hello");
    assert_eq!(client.get("/").text(), "a");
}

fn interim_responses_are_not_taken_for_the_answer(pair: Pair) {
    let origin = scripted(|served| {
        served.body(&mut |_| ()).expect("a request");
        served.interim(103);
        served.interim(102);
        served.answer(200, &[], b"done");
    });
    let gateway = start(pair, origin.addr());
    let mut client = pair.connect(&gateway);
    for _ in 0..2 {
        let response = client.get("/");
        assert_eq!((response.status, response.text()), (200, "done"));
    }
}

fn many_and_long_headers_are_kept(pair: Pair) {
    let origin = Origin::start("a");
    let gateway = start(pair, origin.addr());
    let mut client = pair.connect(&gateway);
    let names: Vec<String> = (0..60).map(|i| format!("x-many-{i}")).collect();
    let long = "v".repeat(20_000);
    let mut headers: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "some value")).collect();
    headers.push(("x-long", &long));
    headers.extend([("x-twice", "1"), ("x-twice", "2")]);
    let seen = client.ask("GET", "/headers", &headers).seen();
    assert!(names.iter().all(|name| seen.header(name) == Some("some value")));
    assert_eq!((seen.header("x-long"), seen.all("x-twice").join(",")), (Some(long.as_str()), "1,2".to_owned()));
}

/// RFC 9113 §8.2.3: HTTP/2 may split a cookie, HTTP/1.1 and the application must see one.
fn cookies_arrive_as_one(pair: Pair) {
    let origin = Origin::start("a");
    let gateway = start(pair, origin.addr());
    let mut client = pair.connect(&gateway);
    let crumbs = [("cookie", "a=1"), ("cookie", "b=2"), ("x-between", "y"), ("cookie", "c=3")];
    let whole = [("cookie", "a=1; b=2; c=3")];
    let seen = client.ask("GET", "/headers", if pair.client == Http::H2 { &crumbs } else { &whole }).seen();
    let cookies = seen.all("cookie");
    assert_eq!(cookies.join("; "), "a=1; b=2; c=3");
    assert!(cookies.len() == 1 || pair.origin == Http::H2, "HTTP/1.1 has one field: {cookies:?}");
}

fn an_early_answer_is_not_lost(pair: Pair) {
    let origin = scripted(|served| {
        served.answer(403, &[], b"no");
        // What the client sends on meanwhile may come or not.
        let _ = served.body(&mut |_| ());
    });
    let gateway = start(pair, origin.addr());
    let mut client = pair.connect(&gateway);
    let mut asked = client.start("POST", "/", &[]);
    assert!(asked.send(b"the first of many bytes"));
    let response = asked.response();
    assert_eq!((response.status, response.text()), (403, "no"));
}

fn a_cut_answer_is_a_cut_for_the_client(pair: Pair) {
    for framing in [Framing::Length(1000), Framing::Chunked] {
        let origin = scripted(move |served| {
            served.body(&mut |_| ()).expect("a request");
            served.start(200, &[], framing);
            served.send(&pattern::bytes(100));
            served.cut();
        });
        let gateway = start(pair, origin.addr());
        let mut client = pair.connect(&gateway);
        let cut = client.start_empty("GET", "/", &[]).try_response().expect_err("only a part of the answer came");
        match pair.client {
            // The cut may overtake the head.
            Http::H1 => assert!(matches!(cut, ReadError::Truncated | ReadError::Closed), "{cut:?}"),
            Http::H2 => assert!(matches!(cut, ReadError::Reset(2 | 1 | 8)), "{cut:?}"),
        }
    }
}

fn an_origin_that_gives_up_before_its_head_is_a_503(pair: Pair) {
    let origin = scripted(|served| {
        served.body(&mut |_| ()).expect("a request");
        served.cut();
    });
    let gateway = start(pair, origin.addr());
    assert_eq!(pair.connect(&gateway).post("/", &[], b"not to be repeated").status, 503);
}

fn a_client_that_gives_up_is_known_to_the_origin(pair: Pair) {
    let (begun, has_begun) = mpsc::channel();
    let (gone, has_gone) = mpsc::channel();
    let words = Arc::new(Mutex::new((begun, gone)));
    let origin = scripted(move |served| {
        served.some_of_the_body(5);
        words.lock().unwrap().0.send(()).expect("the test waits");
        served.wait_given_up();
        words.lock().unwrap().1.send(()).expect("the test waits");
    });
    let gateway = start(pair, origin.addr());
    let mut client = pair.connect(&gateway);
    let mut asked = client.start("POST", "/", &[("content-length", "1000")]);
    assert!(asked.send(b"hello"));
    has_begun.recv_timeout(wait::DEADLINE).expect("the origin has the request");
    asked.cancel();
    has_gone.recv_timeout(wait::DEADLINE).expect("the origin learns of it");
    if let AnyClient::H2(client) = client {
        client.connection.round_trip();
    }
}

fn a_body_over_its_limit_is_refused(pair: Pair) {
    let origin = Origin::start("a");
    let gateway = Gateway::start(&config(pair, origin.addr(), "", "", "body_bytes = '1KiB'"));
    let mut client = pair.connect(&gateway);
    let mut asked = client.start("POST", "/echo", &[("content-length", "1025")]);
    assert_eq!(asked.response().status, 413);
    assert_eq!(origin.connections(), 0);
    let mut client = pair.connect(&gateway);
    assert_eq!(client.post("/sink", &[], &pattern::bytes(1024)).text(), "1024");
}

fn a_streamed_body_is_cut_at_its_limit(pair: Pair) {
    let origin = Origin::start("a");
    let gateway = Gateway::start(&config(pair, origin.addr(), "", "", "body_bytes = '64KiB'"));
    let mut client = pair.connect(&gateway);
    let mut asked = client.start("POST", "/echo", &[]);
    asked.send_pattern(MIB);
    assert_eq!(asked.response().status, 413);
    assert_eq!(origin.requests(), 0, "the origin must not take a part for the whole");
    let mut client = pair.connect(&gateway);
    assert_eq!(client.post_pattern("/sink", 64 * 1024, Framing::Chunked).text(), "65536");
}

fn an_answer_that_does_not_come_in_time_is_a_504(pair: Pair) {
    let origin = Origin::start("a");
    let gateway = Gateway::start(&config(pair, origin.addr(), "", "", "timeout = '200ms'"));
    let mut client = pair.connect(&gateway);
    assert_eq!(client.get("/hold").status, 504);
    assert_eq!(client.get("/").text(), "a", "the client's connection goes on");
    origin.release();
}

fn the_gateways_own_answers(pair: Pair) {
    let origin = Origin::start("a");
    let config = config(pair, origin.addr(), "", "", "hosts = ['none.test']")
        .route("direct", "match = { path = '/direct' }\nrespond = { status = 202, body = 'from here' }")
        .route("old", "match = { path = '/old' }\nredirect = { host = 'new.test', status = 308 }");
    let gateway = Gateway::start(&config);
    let mut client = pair.connect(&gateway);
    let response = client.get("/direct");
    assert_eq!((response.status, response.text()), (202, "from here"));
    let response = client.get("/old?q=1");
    assert_eq!((response.status, response.header("location")), (308, Some("http://new.test/old?q=1")));
    let response = client.get("/nowhere");
    assert_eq!(response.status, 404);
    assert_eq!(client.ask("HEAD", "/direct", &[]).body, b"");
    assert_eq!(client.post("/direct", &[], b"an unread body").status, 202);
    assert_eq!(origin.connections(), 0);
}

fn headers_are_edited(pair: Pair) {
    let origin = Origin::start("a");
    let edits = "request_headers = { set = { x-set = '1' }, add = { x-add = '2' }, remove = ['x-gone'] }\n\
                 response_headers = { set = { x-answer = '3' }, remove = ['x-origin'] }\n\
                 rewrite = { host = 'inner.test', path_prefix = '/headers' }\nmatch = { path_prefix = '/api' }";
    let gateway = Gateway::start(&config(pair, origin.addr(), "", "", edits));
    let response = pair.connect(&gateway).ask("GET", "/api/x?y=z", &[("x-gone", "0"), ("x-set", "0")]);
    assert_eq!((response.header("x-answer"), response.header("x-origin")), (Some("3"), None));
    let seen = response.seen();
    assert_eq!((seen.target(), host_of(&seen)), ("/headers/x?y=z", Some("inner.test")));
    assert_eq!((seen.header("x-set"), seen.header("x-add"), seen.header("x-gone")), (Some("1"), Some("2"), None));
}

fn the_access_log_has_a_line(pair: Pair) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("log");
    let origin = Origin::start("a");
    let config = config(pair, origin.addr(), "", "", "");
    let gateway =
        Gateway::start(&config.tables(&format!("[access_log]\npath = '{}'\nformat = 'json'", path.display())));
    let mut client = pair.connect(&gateway);
    assert_eq!(client.post("/echo?q=1", &[], b"12345").text(), "12345");
    let line = wait::until("a line of the access log", || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        text.ends_with('\n').then_some(text)
    });
    let line: Value = serde_json::from_str(&line).expect("a line of JSON");
    for (member, value) in [
        ("method", "POST".into()),
        ("path", "/echo?q=1".into()),
        ("protocol", protocol(pair).into()),
        ("response_code", 200.into()),
        ("response_flags", "-".into()),
        ("bytes_received", 5.into()),
        ("bytes_sent", 5.into()),
        ("authority", HOST.into()),
        ("upstream_host", Value::from(origin.addr().to_string())),
        ("downstream_remote_address", client.local_addr().to_string().into()),
    ] {
        assert_eq!(line[member], value, "{member} of {line}");
    }
}

fn the_origin_learns_who_asks(pair: Pair) {
    let origin = Origin::start("a");
    let gateway = start(pair, origin.addr());
    let mut client = pair.connect(&gateway);
    let forged = [("x-forwarded-for", "9.9.9.9"), ("x-forwarded-proto", "https"), ("x-request-id", "mine")];
    let seen = client.ask("GET", "/headers", &forged).seen();
    assert_eq!(seen.header("x-forwarded-for"), Some(format!("9.9.9.9,{}", loopback()).as_str()));
    assert_eq!((seen.header("x-forwarded-proto"), seen.header("x-forwarded-host")), (Some("http"), Some(HOST)));
    assert_eq!(seen.header("x-request-id").map(str::len), Some(36));
    assert_eq!(host_of(&seen), Some(HOST));
    if pair.origin == Http::H2 {
        assert_eq!((seen.header(":scheme"), seen.header("host")), (Some("http"), None));
    }
}

fn te_says_trailers_or_nothing(pair: Pair) {
    let origin = Origin::start("a");
    let gateway = start(pair, origin.addr());
    let mut client = pair.connect(&gateway);
    let te = |head: &Head| head.header("te").map(str::to_owned);
    let seen = client.ask("GET", "/headers", &[("te", "trailers")]).seen();
    assert_eq!(te(&seen).as_deref(), Some("trailers"), "gRPC servers ask for it");
    if pair.client == Http::H1 {
        let seen = client.ask("GET", "/headers", &[("te", "gzip, trailers;q=0.5"), ("connection", "te")]).seen();
        assert!(matches!(te(&seen).as_deref(), None | Some("trailers")), "{seen:?}");
    }
}

fn hop_by_hop_fields_stop_at_the_gateway(pair: Pair) {
    let origin = scripted(|served| {
        served.body(&mut |_| ()).expect("a request");
        let shown = format!("{:?}", served.head.headers);
        // The harness's HTTP/2 end would not send the origin's fields; its reader refuses the gateway's.
        let fields = [("keep-alive", "timeout=5"), ("proxy-connection", "close"), ("x-kept", "yes")];
        served.answer(200, if served.is_h2() { &fields[2..] } else { &fields }, shown.as_bytes());
    });
    let gateway = start(pair, origin.addr());
    let fields = [("connection", "x-hop"), ("x-hop", "1"), ("keep-alive", "timeout=5"), ("x-kept", "yes")];
    let fields = if pair.client == Http::H2 { &fields[3..] } else { &fields };
    let response = pair.connect(&gateway).ask("GET", "/", fields);
    assert!(response.text().contains("x-kept") && !response.text().contains("x-hop"), "{}", response.text());
    assert!(!response.text().contains("keep-alive"), "{}", response.text());
    assert_eq!((response.header("keep-alive"), response.header("proxy-connection")), (None, None));
    assert_eq!(response.header("x-kept"), Some("yes"));
}

fn tls_on_both_sides(pair: Pair) {
    let store = Store::new();
    store.issue("site", &[HOST]);
    let server = TlsServer::new(&store.issue("origin", &["origin.test"]), &[pair.origin.alpn()]);
    let origin = Origin::start_tls("a", server);
    let ca = store.path().join("ca.pem");
    let tls = format!("tls = {{ server_name = 'origin.test', ca = '{}' }}", ca.display());
    let listener = "tls = { certificates = ['site'] }";
    let config = config(pair, origin.addr(), listener, &tls, "").certificate("site", store.path());
    let gateway = Gateway::start(&config);
    let offer = TlsClient::with(&store.authority, rustls::ALL_VERSIONS, &[pair.client.alpn()]);
    let mut client = AnyClient::connect_tls(&offer, gateway.addr("web"), HOST).expect("a handshake");
    assert_eq!(matches!(client, AnyClient::H2(_)), pair.client == Http::H2);
    assert_eq!(client.get("/headers").seen().header("x-forwarded-proto"), Some("https"));
    assert_eq!(client.get("/trailers").trailers.len(), 2);
    assert_eq!(client.get_pattern("/chunked/5000000").1, 5_000_000);
    assert_eq!(client.post_pattern("/sink", 5_000_000, Framing::Chunked).text(), "5000000");
}

/// An origin that speaks either version and does this with each request.
fn scripted(handler: impl Fn(&mut Served<'_>) + Send + Sync + 'static) -> Script {
    let options = Options { patience: Duration::from_secs(60), ..Options::default() };
    Script::start(move |conn| serve(conn, &options, &handler))
}
