//! HTTP/2 connections on either side: how they begin, what they carry at once, how they end.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gateway_tests::certs::Store;
use gateway_tests::client::{self, HOST};
use gateway_tests::curl::curl;
use gateway_tests::h2::frame::flag::END_STREAM;
use gateway_tests::h2::frame::{code, kind, setting};
use gateway_tests::h2::{Client, Connection, Event, Frame, Options, PREFACE, Stream, Wire, encode, fields, response};
use gateway_tests::nginx::Nginx;
use gateway_tests::origin::{Served, serve_h2};
use gateway_tests::prelude::*;
use gateway_tests::tls::{TlsClient, TlsServer};

// === Downstream ===

#[test]
fn the_preface_may_come_a_byte_at_a_time() {
    let origin = Origin::start("a");
    let gateway = Gateway::in_front_of(origin.addr());
    let mut conn = gateway.connect();
    let head = Frame::headers(1, &encode(&fields("GET", "http", "/", &[])), true);
    conn.send_bytewise([PREFACE, &Frame::settings(&[]).encode(), &head.encode()].concat());
    let mut wire = Wire::new(conn.into_stream());
    assert_eq!(wire.frame().kind, kind::SETTINGS);
    assert_eq!(wire.fields(1)[0], (":status".into(), "200".into()));
}

#[test]
fn curl_speaks_http2_with_and_without_tls() {
    let (store, origin) = (Store::new(), Origin::start("a"));
    store.issue("site", &[HOST]);
    let config = Config::proxy_to(origin.addr())
        .listener("secure", "tls = { certificates = ['site'] }")
        .certificate("site", store.path());
    let gateway = Gateway::start(&config);
    let shown = ["-w", " %{http_version}"];
    let plain = format!("http://{}/", gateway.addr("web"));
    assert_eq!(curl(&[&["--http2-prior-knowledge", &plain], &shown[..]].concat()), "a 2");
    // h2c by Upgrade is history (RFC 9113 §3.1), and a way to smuggle: the field is passed over.
    assert_eq!(curl(&[&["--http2", &plain], &shown[..]].concat()), "a 1.1");
    let ca = store.path().join("ca.pem").display().to_string();
    let to = format!("::{}", gateway.addr("secure"));
    let url = format!("https://{HOST}/");
    let secure = ["--cacert", &ca, "--connect-to", &to, &url];
    assert_eq!(curl(&[&["--http2"], &secure[..], &shown].concat()), "a 2");
    assert_eq!(curl(&[&["--http1.1"], &secure[..], &shown].concat()), "a 1.1");
}

/// A gateway with a certificate each for `one.test` and `two.test`, of which `two` speaks only HTTP/1.1.
fn two_hosts(store: &Store, origin: &Origin, listener: &str) -> Gateway {
    store.issue("one", &["one.test", "also-one.test"]);
    store.issue("two", &["two.test"]);
    let dir = store.path().display();
    Gateway::start(
        &Config::new()
            .listener("web", &format!("tls = {{ certificates = ['one', 'two'] }}\n{listener}"))
            .certificate("one", store.path())
            .tables(&format!(
                "[[certificate]]\nname = 'two'\nchain = '{dir}/two.pem'\nkey = '{dir}/two.key'\nhttp = ['h1']"
            ))
            .cluster("origin", &[origin.addr()], "")
            .route("all", "cluster = 'origin'"),
    )
}

fn negotiated(store: &Store, gateway: &Gateway, host: &str, offered: &[&str]) -> Option<String> {
    let client = TlsClient::with(&store.authority, rustls::ALL_VERSIONS, offered);
    client.connect(gateway.addr("web"), host).expect("a handshake").1.alpn
}

#[test]
fn alpn_settles_the_version_host_by_host() {
    let (store, origin) = (Store::new(), Origin::start("a"));
    let gateway = two_hosts(&store, &origin, "");
    let ask = |host, offered: &[&str]| negotiated(&store, &gateway, host, offered);
    let both = ["h2", "http/1.1"];
    assert_eq!(ask("one.test", &both).as_deref(), Some("h2"));
    assert_eq!(ask("one.test", &["http/1.1", "h2"]).as_deref(), Some("h2"), "the gateway's preference counts");
    assert_eq!(ask("one.test", &["http/1.1"]).as_deref(), Some("http/1.1"));
    assert_eq!(ask("two.test", &both).as_deref(), Some("http/1.1"), "HTTP/2 is off for this host");
    let only_h2 = TlsClient::with(&store.authority, rustls::ALL_VERSIONS, &["h2"]);
    only_h2.connect(gateway.addr("web"), "two.test").expect_err("nothing in common");
    // Without ALPN, and past it: the preface of HTTP/2 is no request of HTTP/1.1.
    let (mut conn, _) = TlsClient::new(&store.authority).connect(gateway.addr("web"), "two.test").expect("a handshake");
    conn.send(PREFACE);
    refused_preface(&mut conn);
}

#[test]
fn a_listener_can_do_without_http2() {
    let (store, origin) = (Store::new(), Origin::start("a"));
    let gateway = two_hosts(&store, &origin, "http = ['h1']");
    assert_eq!(negotiated(&store, &gateway, "one.test", &["h2", "http/1.1"]).as_deref(), Some("http/1.1"));
    let plain = Config::new().listener("web", "http = ['h1']").route("all", "respond = { status = 200 }");
    let gateway = Gateway::start(&plain);
    let mut conn = gateway.connect();
    conn.send(PREFACE);
    refused_preface(&mut conn);
    assert_eq!(gateway.get("/").status, 200);
}

fn refused_preface(conn: &mut Conn) {
    match conn.try_response_to("PRI") {
        Ok(response) => assert!(matches!(response.status, 400 | 505), "{response:?}"),
        Err(error) => assert_eq!(error, ReadError::Closed),
    }
}

#[test]
fn a_listener_can_do_without_http1() {
    let origin = Origin::start("a");
    let config = Config::new().listener("web", "http = ['h2']").cluster("origin", &[origin.addr()], "");
    let gateway = Gateway::start(&config.route("all", "cluster = 'origin'"));
    assert_eq!(Client::connect(gateway.addr("web")).get("/").text(), "a");
    let mut conn = gateway.connect();
    conn.send(client::request("GET", "/", ""));
    let answer = conn.try_response_to("GET");
    assert!(!matches!(&answer, Ok(response) if response.status == 200), "{answer:?}");
    assert_eq!(origin.requests(), 1);
}

#[test]
fn a_host_of_another_certificate_is_misdirected() {
    let (store, origin) = (Store::new(), Origin::start("a"));
    let gateway = two_hosts(&store, &origin, "");
    let offer = TlsClient::with(&store.authority, rustls::ALL_VERSIONS, &["h2"]);
    let mut client = AnyClient::connect_tls(&offer, gateway.addr("web"), "one.test").expect("a handshake");
    let mut ask = |host: &str| client.ask("GET", "/", &[(":authority", host)]).status;
    assert_eq!(ask("one.test"), 200);
    assert_eq!(ask("also-one.test"), 200, "one certificate, so one connection may serve both (RFC 9113 §9.1.1)");
    assert_eq!(ask("two.test"), 421, "RFC 9110 §15.5.20");
    assert_eq!(ask("one.test:443"), 200);
}

#[test]
fn no_more_streams_at_once_than_the_limit() {
    let origin = Origin::start("a");
    let config = Config::new()
        .listener("web", "http2 = { max_concurrent_streams = 5 }")
        .cluster("origin", &[origin.addr()], "")
        .route("all", "cluster = 'origin'");
    let gateway = Gateway::start(&config);
    let mut wire = Wire::new(gateway_tests::stream::Stream::connect(gateway.addr("web")).expect("a connection"));
    wire.send_bytes([PREFACE, &Frame::settings(&[]).encode()].concat());
    let settings = wire.frame();
    assert!(settings.pairs().contains(&(setting::MAX_CONCURRENT_STREAMS, 5)), "{settings:?}");
    wire.send(&Frame::settings_ack());
    for n in 0..5 {
        wire.send_fields(2 * n + 1, &fields("GET", "http", "/hold", &[]), true);
    }
    origin.wait_held(5);
    wire.send_fields(11, &fields("GET", "http", "/hold", &[]), true);
    let refused = wire.reset_of(11).expect("the connection goes on");
    assert!(matches!(refused, code::REFUSED_STREAM | code::PROTOCOL_ERROR), "{refused}");
    origin.release();
    for _ in 0..5 {
        wire.until("END_STREAM", |frame| frame.kind == kind::DATA && frame.has(1));
    }
    wire.send_fields(13, &fields("GET", "http", "/", &[]), true);
    assert_eq!(wire.fields(13)[0].1, "200");
}

#[test]
fn a_connection_without_streams_is_closed_after_its_time() {
    let origin = Origin::start("a");
    let config = Config::new()
        .listener("web", "limits = { idle_timeout = '400ms' }")
        .cluster("origin", &[origin.addr()], "")
        .route("all", "cluster = 'origin'\ntimeout = '0s'");
    let gateway = Gateway::start(&config);
    let client = Client::connect(gateway.addr("web"));
    assert_eq!(client.get("/").status, 200);
    let start = Instant::now();
    client.connection.wait_end();
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(9), "took {took:?}");
    assert_eq!(client.connection.wait_goaways(1).last().map(|(_, code)| *code), Some(code::NO_ERROR));
}

#[test]
fn violations_end_the_stream_or_the_connection_and_reach_no_origin() {
    let origin = Origin::start("a");
    let gateway = Gateway::in_front_of(origin.addr());
    let usual = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
    let with = |more: &[(&'static str, &'static str)]| [&usual[..], more].concat();
    // RFC 9113 §8.2.1, §8.2.2, §8.3, §8.3.1
    let cases: Vec<(&str, Vec<(&str, &str)>)> = vec![
        ("an upper-case name", with(&[("X-Upper", "1")])),
        ("connection", with(&[("connection", "close")])),
        ("transfer-encoding", with(&[("transfer-encoding", "chunked")])),
        ("keep-alive", with(&[("keep-alive", "timeout=5")])),
        ("proxy-connection", with(&[("proxy-connection", "close")])),
        ("upgrade", with(&[("upgrade", "h2c")])),
        ("te", with(&[("te", "gzip")])),
        ("a pseudo-field behind a field", [&usual[1..], &[("x", "y"), (":method", "GET")]].concat()),
        ("an unknown pseudo-field", with(&[(":unknown", "1")])),
        ("a response's pseudo-field", with(&[(":status", "200")])),
        ("no method", usual[1..].to_vec()),
        ("no scheme", [&usual[..1], &usual[2..]].concat()),
        ("no path", [&usual[..2], &usual[3..]].concat()),
        ("an empty path", [&usual[..2], &[(":path", "")], &usual[3..]].concat()),
        ("a path that is none", [&usual[..2], &[(":path", "x")], &usual[3..]].concat()),
        ("path * of a GET", [&usual[..2], &[(":path", "*")], &usual[3..]].concat()),
        ("two methods", with(&[(":method", "POST")])),
        ("two paths", with(&[(":path", "/x")])),
        ("a method that is no token", [&[(":method", "GE T")], &usual[1..]].concat()),
        ("a path with a space", [&usual[..2], &[(":path", "/ HTTP/1.1\r\nx: ")], &usual[3..]].concat()),
        ("a value with CRLF", with(&[("x", "a\r\nb: c")])),
        ("a value with NUL", with(&[("x", "a\0b")])),
        ("a name with a colon", with(&[("x:y", "1")])),
        ("a name with a space", with(&[("x y", "1")])),
        ("a name with a quote", with(&[("x\"y", "1")])),
        ("another host", with(&[("host", "b")])),
        ("two hosts", [&usual[..3], &[("host", "a"), ("host", "b")]].concat()),
        ("no host", usual[..3].to_vec()),
        ("a host with user", [&usual[..3], &[(":authority", "u@a")]].concat()),
        ("CONNECT", vec![(":method", "CONNECT"), (":authority", "a:80")]),
        ("two lengths", with(&[("content-length", "0"), ("content-length", "1")])),
        ("a length of no body", with(&[("content-length", "3")])),
    ];
    for (what, head) in cases {
        let mut wire = Wire::connect(gateway.addr("web"), &[]);
        wire.send(&Frame::headers(1, &encode(&head), true));
        match wire.until(what, |frame| frame.stream == 1 || frame.kind == kind::GOAWAY) {
            frame if frame.kind == kind::HEADERS => {
                let status: u16 = wire.decode(&frame)[0].1.parse().expect("a status");
                assert!(matches!(status, 400 | 405 | 501), "{what}: {status}");
            }
            frame if frame.kind == kind::GOAWAY => assert_ne!(frame.number(4), code::NO_ERROR, "{what}"),
            frame => assert_eq!(frame.kind, kind::RST_STREAM, "{what}: {frame:?}"),
        }
        assert_eq!(origin.requests(), 0, "{what} reached the origin");
    }
    let options = Client::connect(gateway.addr("web")).ask("OPTIONS", "*", &[], b"");
    assert!(matches!(options.status, 200 | 400 | 404), "{options:?}");
}

#[test]
fn a_body_that_differs_from_its_length_is_no_request() {
    for (length, body, last) in [("5", "1234", true), ("3", "1234", true), ("3", "1234", false)] {
        let origin = Origin::start("a");
        let gateway = Gateway::in_front_of(origin.addr());
        let mut wire = Wire::connect(gateway.addr("web"), &[]);
        wire.send_fields(1, &fields("POST", "http", "/sink", &[("content-length", length)]), false);
        wire.send(&Frame::data(1, body.as_bytes(), last));
        let end = wire.until("an end", |frame| frame.stream == 1 && frame.kind != kind::WINDOW_UPDATE);
        if end.kind == kind::HEADERS {
            assert_eq!(wire.decode(&end)[0].1, "400");
        } else {
            assert_eq!(end.kind, kind::RST_STREAM, "{end:?}");
        }
        assert_eq!(origin.requests(), 0, "RFC 9113 §8.1.1");
    }
}

#[test]
fn a_drain_says_goodbye_twice_and_finishes_what_was_begun() {
    let origin = Origin::start("a");
    let mut gateway = Gateway::in_front_of(origin.addr());
    let client = Client::connect(gateway.addr("web"));
    let held: Vec<Stream> = (0..10).map(|_| client.start("GET", "/hold", &[], true)).collect();
    origin.wait_held(10);
    gateway.terminate();
    let goaways = client.connection.wait_goaways(2);
    assert_eq!(goaways[0], (0x7FFF_FFFF, code::NO_ERROR), "the first names no last stream: some may be on their way");
    assert_eq!(goaways[1], (held[9].id, code::NO_ERROR));
    assert!(gateway.process.exited().is_none());
    origin.release();
    for stream in &held {
        assert_eq!(response(stream, &mut |_| ()).expect("a response").status, 200);
    }
    client.connection.wait_end();
    assert!(gateway.wait_exit(Duration::from_secs(10)).success());
}

#[test]
fn a_reload_keeps_connections_and_the_next_request_sees_the_new_routes() {
    let origin = Origin::start("a");
    let config = |body: &str| {
        Config::proxy_to(origin.addr())
            .route("new", &format!("match = {{ path = '/new' }}\nrespond = {{ status = 200, body = '{body}' }}"))
    };
    let mut gateway = Gateway::start(&config("one"));
    let client = Client::connect(gateway.addr("web"));
    assert_eq!(client.get("/new").text(), "one");
    let held = client.start("GET", "/hold", &[], true);
    origin.wait_held(1);
    gateway.reload(&config("two"));
    assert_eq!(client.get("/new").text(), "two");
    origin.release();
    assert_eq!(response(&held, &mut |_| ()).expect("a response").status, 200);
    assert!(!client.connection.has_ended());
}

#[test]
fn a_client_that_passes_over_a_goodbye_is_not_served_for_ever() {
    let origin = Origin::start("a");
    let config = Config::proxy_to(origin.addr());
    let mut gateway = Gateway::start(&config.clone().listener("gone", ""));
    let mut wire = Wire::connect(gateway.addr("gone"), &[]);
    let begin = |wire: &mut Wire, id| wire.send_fields(id, &fields("POST", "http", "/echo", &[]), false);
    begin(&mut wire, 1);
    wire.round_trip();
    gateway.reload(&config);
    // Without an answer to the PING, the GOAWAY that names the last stream never comes. Each request begins before the one
    // before it has ended, so the connection is never idle.
    let refused = (1..).step_by(2).find_map(|id| {
        begin(&mut wire, id + 2);
        wire.send(&Frame::data(id, b"word", true));
        loop {
            let frame = wire.frame();
            match frame.kind {
                kind::RST_STREAM => return Some(frame.number(0)),
                kind::HEADERS => _ = wire.decode(&frame),
                _ => {}
            }
            if frame.stream == id && frame.has(END_STREAM) {
                return None;
            }
        }
    });
    assert_eq!(refused, Some(code::REFUSED_STREAM), "it may be sent again");
    wire.end();
}

#[test]
fn streams_are_served_beside_one_another() {
    let origin = Origin::start("a");
    let gateway = Gateway::in_front_of(origin.addr());
    let client = Client::connect(gateway.addr("web"));
    let held: Vec<Stream> = (0..100).map(|_| client.start("GET", "/hold", &[], true)).collect();
    origin.wait_held(100);
    assert_eq!(client.get("/").text(), "a", "one that waits does not stop the others");
    let mut cancelled = 0;
    for stream in held.iter().step_by(2) {
        stream.reset(code::CANCEL);
        cancelled += 1;
    }
    client.connection.round_trip();
    origin.release();
    for stream in held.iter().skip(1).step_by(2) {
        assert_eq!(response(stream, &mut |_| ()).expect("a response").status, 200);
    }
    assert_eq!(cancelled, 50);
}

#[test]
fn a_stream_that_nobody_reads_does_not_stop_the_others() {
    let origin = Origin::start("a");
    let gateway = Gateway::in_front_of(origin.addr());
    // Room for many stalled streams on the connection, little on each.
    let options = Options { stream_window: 65_535, connection_window: 16 << 20, ..Options::default() };
    let client = Client::with(gateway.addr("web"), options);
    let stalled: Vec<Stream> = (0..50).map(|_| client.start("GET", "/bytes/10000000", &[], true)).collect();
    let mut checker = gateway_tests::pattern::Checker::default();
    let stream = client.start("GET", "/bytes/3000000", &[], true);
    response(&stream, &mut |bytes| checker.push(bytes)).expect("a whole response");
    assert_eq!(checker.len(), 3_000_000);
    drop(stalled);
}

// === Upstream ===

/// One worker, so that there is one pool; a gateway that speaks HTTP/2 to `addr`.
fn to_h2(addr: std::net::SocketAddr, cluster: &str) -> Gateway {
    to_h2_with(addr, cluster, "")
}

fn to_h2_with(addr: std::net::SocketAddr, cluster: &str, route: &str) -> Gateway {
    let config = Config::new()
        .gateway("workers = 1")
        .listener("web", "")
        .cluster("origin", &[addr], &format!("protocol = 'h2'\n{cluster}"))
        .route("all", &format!("cluster = 'origin'\n{route}"));
    Gateway::start(&config)
}

/// Starts `count` requests, each on a connection of its own, and returns the connections.
fn start_requests(gateway: &Gateway, count: usize, path: &str) -> Vec<Conn> {
    let start = |_| {
        let mut conn = gateway.connect();
        conn.send(client::request("GET", path, ""));
        conn
    };
    (0..count).map(start).collect()
}

#[test]
fn requests_share_connections_up_to_max_streams() {
    let origin = Origin::start("a");
    let gateway = to_h2(origin.addr(), "max_streams = 10");
    let mut clients = start_requests(&gateway, 25, "/hold");
    origin.wait_held(25);
    let connections = origin.connections();
    assert!((3..=5).contains(&connections), "25 requests, 10 for a connection: {connections}");
    origin.release();
    assert!(clients.iter_mut().all(|client| client.response().status == 200));
    for _ in 0..30 {
        assert_eq!(gateway.get("/").status, 200);
    }
    assert_eq!(origin.connections(), connections);
}

#[test]
fn an_origins_own_limit_is_kept() {
    let origin = Origin::start_with("a", Options { max_concurrent_streams: Some(4), ..Options::default() });
    let gateway = to_h2(origin.addr(), "max_streams = 100");
    // Until the limit is known there may be more: the origin refuses those, and they are tried again.
    assert_eq!(gateway.get("/").status, 200);
    let mut clients = start_requests(&gateway, 20, "/hold");
    origin.wait_held(20);
    assert!(origin.connections() >= 5, "4 for a connection: {}", origin.connections());
    origin.release();
    assert!(clients.iter_mut().all(|client| client.response().status == 200));
}

/// An origin whose connections run `script`, with their number.
fn h2_origin(script: impl Fn(&Connection, usize) + Send + Sync + 'static) -> Script {
    Script::start(move |conn| {
        let index = conn.index;
        script(&Connection::server(conn.into_stream(), Options::default()), index);
    })
}

fn answer(stream: &Stream, body: &[u8]) {
    stream.send_fields(&[(":status", "200")], false);
    stream.send_data(body, true);
}

#[test]
fn a_refused_stream_is_tried_again_even_when_it_is_a_post() {
    let refused = Arc::new(AtomicUsize::new(0));
    let count = refused.clone();
    let origin = h2_origin(move |connection, _| {
        while let Some((stream, _)) = connection.accept() {
            if count.fetch_add(1, SeqCst).is_multiple_of(2) {
                stream.reset(code::REFUSED_STREAM);
            } else {
                answer(&stream, b"at last");
            }
        }
    });
    let gateway = to_h2(origin.addr(), "");
    assert_eq!(gateway.get("/").text(), "at last");
    assert_eq!(gateway.connect().request("POST", "/", "", b"").text(), "at last");
    assert_eq!(refused.load(SeqCst), 4);
}

#[test]
fn streams_above_a_goaways_last_are_tried_again_and_those_below_are_finished() {
    let origin = h2_origin(|connection, index| {
        if index > 0 {
            return serve_h2(connection, &|served: &mut Served<'_>| {
                served.body(&mut |_| ()).expect("a request");
                served.answer(200, &[], b"second");
            });
        }
        let first = connection.accept().expect("a request").0;
        let others: Vec<Stream> = (0..4).map(|_| connection.accept().expect("a request").0).collect();
        connection.send(&Frame::goaway(first.id, code::NO_ERROR));
        answer(&first, b"first");
        drop(others);
        connection.wait_end();
    });
    let gateway = to_h2(origin.addr(), "");
    let mut clients = start_requests(&gateway, 5, "/");
    let mut bodies: Vec<String> = clients.iter_mut().map(|client| client.response().text().to_owned()).collect();
    bodies.sort();
    assert_eq!(bodies, ["first", "second", "second", "second", "second"]);
    assert_eq!(origin.connections(), 2);
}

#[test]
fn a_connection_that_says_goodbye_gets_no_more_requests() {
    let origin = h2_origin(|connection, index| {
        while let Some((stream, _)) = connection.accept() {
            connection.send(&Frame::goaway(stream.id, code::NO_ERROR));
            answer(&stream, index.to_string().as_bytes());
        }
    });
    let gateway = to_h2(origin.addr(), "");
    for index in 0..5 {
        assert_eq!(gateway.get("/").text(), index.to_string());
    }
}

#[test]
fn a_request_that_the_origin_may_have_processed_is_not_repeated() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let origin = h2_origin(move |connection, _| {
        while let Some((stream, fields)) = connection.accept() {
            log.lock().unwrap().push(fields[0].1.clone());
            while !matches!(stream.next(), Ok(Event::End) | Err(_)) {}
            // The last stream named includes this one.
            connection.send(&Frame::goaway(stream.id, code::INTERNAL_ERROR));
            connection.close();
        }
    });
    let gateway = to_h2(origin.addr(), "");
    assert_eq!(gateway.connect().request("POST", "/", "", b"an order").status, 503);
    assert_eq!(*seen.lock().unwrap(), ["POST"]);
}

#[test]
fn an_idle_connection_that_the_origin_closed_costs_no_request() {
    let origin = h2_origin(|connection, index| {
        if let Some((stream, _)) = connection.accept() {
            answer(&stream, index.to_string().as_bytes());
            connection.round_trip();
            connection.send(&Frame::goaway(stream.id, code::NO_ERROR));
        }
    });
    let gateway = to_h2(origin.addr(), "");
    for index in 0..5 {
        assert_eq!(gateway.connect().request("POST", "/", "", b"body").text(), index.to_string());
        origin.wait_finished(index + 1);
    }
}

#[test]
fn an_unused_connection_is_closed_after_its_time() {
    let origin = Origin::start("a");
    let gateway = to_h2(origin.addr(), "idle_timeout = '300ms'");
    assert_eq!(gateway.get("/").status, 200);
    assert_eq!(origin.open(), 1);
    wait::until_true("the connection to be closed", || origin.open() == 0);
}

#[test]
fn a_connection_that_fell_silent_gets_no_more_requests() {
    let origin = Script::start(|conn| {
        if conn.index > 0 {
            let connection = Connection::server(conn.into_stream(), Options::default());
            while let Some((stream, _)) = connection.accept() {
                answer(&stream, b"another");
            }
            return;
        }
        let mut wire = Wire::new(conn.into_stream());
        wire.accept(&[]);
        wire.until("a request", |frame| frame.kind == kind::HEADERS);
        while wire.try_frame().is_ok() {}
    });
    let gateway = to_h2_with(origin.addr(), "", "timeout = '300ms'");
    assert_eq!(gateway.get("/").status, 504);
    for _ in 0..3 {
        assert_eq!(gateway.get("/").text(), "another");
    }
    assert_eq!(origin.connections(), 2);
    origin.wait_finished(1);
}

#[test]
fn a_connection_on_which_one_request_took_too_long_serves_others() {
    let origin = h2_origin(|connection, index| {
        let mut slow = Vec::new();
        while let Some((stream, fields)) = connection.accept() {
            if fields.contains(&(":path".into(), "/slow".into())) {
                slow.push(stream);
            } else {
                answer(&stream, index.to_string().as_bytes());
            }
        }
    });
    let gateway = to_h2_with(origin.addr(), "", "timeout = '300ms'");
    assert_eq!(gateway.get("/slow").status, 504);
    // Until the PING is answered, the next request may go elsewhere.
    wait::until_true("the connection to be used again", || gateway.get("/").text() == "0");
    assert!(origin.connections() <= 2);
}

#[test]
fn auto_takes_what_alpn_says() {
    let store = Store::new();
    let leaf = store.issue("origin", &["origin.test"]);
    let ca = store.path().join("ca.pem").display().to_string();
    let tls = format!("protocol = 'auto'\ntls = {{ server_name = 'origin.test', ca = '{ca}' }}");
    for (alpn, version) in [(&["h2", "http/1.1"][..], "HTTP/2"), (&["http/1.1"], "HTTP/1.1"), (&[], "HTTP/1.1")] {
        let origin = Origin::start_tls("a", TlsServer::new(&leaf, alpn));
        let config = Config::new().gateway("workers = 1").listener("web", "").cluster("origin", &[origin.addr()], &tls);
        let gateway = Gateway::start(&config.route("all", "cluster = 'origin'"));
        for _ in 0..3 {
            let seen = gateway.get("/headers").seen();
            assert!(seen.start.ends_with(version), "{alpn:?}: {seen:?}");
        }
        // Over HTTP/1.1 an answer may be through a moment before its connection is idle.
        assert!(origin.connections() <= if version == "HTTP/2" { 1 } else { 3 }, "{alpn:?}");
    }
}

#[test]
fn an_origin_that_does_not_speak_http2_is_a_503() {
    let origin = Script::start(|mut conn| {
        let _ = conn.head();
        conn.try_send("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    });
    let gateway = to_h2(origin.addr(), "");
    assert!(matches!(gateway.get("/").status, 502 | 503));
}

#[test]
fn a_target_that_http2_cannot_carry_is_a_400_and_harms_no_other_request() {
    let origin = Origin::start("a");
    let gateway = to_h2(origin.addr(), "");
    let mut conn = gateway.connect();
    for target in ["/a<b", "/a>b", "/a`b", "/a?b<c", "/a?b\"c"] {
        assert_eq!(conn.get(target).status, 400, "{target}");
        assert_eq!(conn.get("/").text(), "a");
    }
    assert_eq!((origin.connections(), origin.requests()), (1, 5));
}

#[test]
fn nginx_serves_as_an_http2_origin_over_tls() {
    let store = Store::new();
    store.issue("origin", &["origin.test"]);
    let dir = store.path().display();
    let nginx = Nginx::start_with(
        "ssl http2",
        &format!(
            "ssl_certificate {dir}/origin.pem; ssl_certificate_key {dir}/origin.key; location / {{ return 200 $server_protocol; }}"
        ),
    );
    let tls = format!("tls = {{ server_name = 'origin.test', ca = '{dir}/ca.pem' }}");
    let gateway = to_h2(nginx.addr(), &tls);
    assert_eq!(gateway.get("/").text(), "HTTP/2.0");
}

#[test]
fn bytes_behind_an_answer_without_a_body_do_not_pass_for_the_next_answer() {
    let origin = h2_origin(|connection, _| {
        while let Some((stream, _)) = connection.accept() {
            stream.send_fields(&[(":status", "204")], false);
            stream.send_data(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil", true);
        }
    });
    let gateway = to_h2(origin.addr(), "");
    let mut conn = gateway.connect();
    conn.send(client::request("GET", "/", ""));
    while let Ok(answer) = conn.try_response_to("GET") {
        assert_eq!(answer.status, 204);
    }
    let client = Client::connect(gateway.addr("web"));
    match client.try_ask("GET", "/", &[], b"") {
        Ok(answer) => assert_eq!((answer.status, answer.text()), (204, "")),
        Err(error) => assert!(matches!(error, ReadError::Reset(_)), "{error:?}"),
    }
}

#[test]
fn fields_of_a_head_are_no_trailers() {
    const TRAILERS: [(&str, &str); 3] = [("content-length", "7"), ("x-forwarded-for", "192.0.2.1"), ("x-sum", "1")];
    let origin = Script::start(|conn| {
        gateway_tests::origin::serve(conn, &Options::default(), &|served: &mut Served<'_>| {
            let trailers = served.body(&mut |_| ()).expect("a request");
            served.answer(200, &[], format!("{trailers:?}").as_bytes());
        });
    });
    let gateway = Gateway::in_front_of(origin.addr());
    let client = Client::connect(gateway.addr("web"));
    let stream = client.start("POST", "/", &[], false);
    stream.send_data(b"body", false);
    stream.send_fields(&TRAILERS, true);
    let mut seen = Vec::new();
    response(&stream, &mut |bytes| seen.extend_from_slice(bytes)).expect("a response");
    assert_eq!(String::from_utf8_lossy(&seen), r#"[("x-sum", "1")]"#);

    let origin = h2_origin(|connection, _| {
        while let Some((stream, _)) = connection.accept() {
            stream.send_fields(&[(":status", "200")], false);
            stream.send_data(b"body", false);
            stream.send_fields(&TRAILERS, true);
        }
    });
    let gateway = to_h2(origin.addr(), "");
    assert_eq!(gateway.get("/").trailers, [("x-sum".to_owned(), "1".to_owned())]);
}

#[test]
fn a_connection_that_the_origin_does_not_close_is_closed() {
    let (done, hold) = std::sync::mpsc::channel::<()>();
    let hold = Mutex::new(hold);
    let origin = h2_origin(move |connection, _| {
        answer(&connection.accept().expect("a request").0, b"a");
        connection.wait_end();
        let _ = hold.lock().unwrap().recv();
    });
    let gateway = to_h2(origin.addr(), "idle_timeout = '300ms'");
    assert_eq!(gateway.get("/").text(), "a");
    let active = || gateway.metrics().sum("gateway_cluster_connections_active", &[("cluster", "origin")]);
    assert_eq!(active(), 1.0);
    wait::until_true("the connection to be given up", || active() == 0.0);
    drop(done);
}
