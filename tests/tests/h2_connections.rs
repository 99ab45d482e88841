//! HTTP/2 connections of clients: how they begin, what they carry at once, how they end.

use std::time::{Duration, Instant};

use gateway_tests::certs::Store;
use gateway_tests::client::{self, HOST};
use gateway_tests::curl::curl;
use gateway_tests::h2::frame::flag::END_STREAM;
use gateway_tests::h2::frame::{code, kind, setting};
use gateway_tests::h2::{Client, Frame, Options, PREFACE, Stream, Wire, encode, fields, response};
use gateway_tests::prelude::*;
use gateway_tests::tls::TlsClient;

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
