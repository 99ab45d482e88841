//! Connections of HTTP/2 to origins: how many requests share one, and what becomes of requests when one ends.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use gateway_tests::certs::Store;
use gateway_tests::client;
use gateway_tests::h2::frame::{code, kind};
use gateway_tests::h2::{Client, Connection, Event, Frame, Options, Stream, Wire, response};
use gateway_tests::nginx::Nginx;
use gateway_tests::origin::{Served, serve_h2};
use gateway_tests::prelude::*;
use gateway_tests::tls::TlsServer;

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
