//! Origins that are missing, slow, broken or dying, and clients that vanish. Statuses, bodies and flags are Envoy's.

use std::time::{Duration, Instant};

use gateway_tests::client;
use gateway_tests::conn::Framing;
use gateway_tests::h2::Options;
use gateway_tests::nginx::Nginx;
use gateway_tests::origin::serve;
use gateway_tests::ports::{HeldPort, is_connected_to};
use gateway_tests::prelude::*;

const CONNECTION_FAILURE: &str =
    "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure";

/// Waits until exactly `count` requests have ended with this response flag. A client has its answer before the gateway
/// has finished its books.
fn flagged(gateway: &Gateway, flag: &str, count: u32) {
    let flagged = || gateway.metrics().sum("gateway_listener_response_flags_total", &[("flag", flag)]);
    wait::until_true("requests to be counted under their flag", || flagged() >= f64::from(count));
    assert_eq!(flagged(), f64::from(count), "{flag}");
}

#[test]
fn a_refused_connection_is_503_with_envoys_words() {
    let nobody = HeldPort::new();
    let config = Config::new()
        .listener("web", "")
        .cluster("origin", &[nobody.addr()], "")
        .route("all", "cluster = 'origin'\nretry = { attempts = 0 }");
    let gateway = Gateway::start(&config);
    let mut client = gateway.connect();
    let response = client.get("/");
    assert_eq!((response.status, response.text()), (503, CONNECTION_FAILURE));
    assert_eq!(response.header("content-type"), Some("text/plain"));
    // The client's connection is none of the origin's business.
    assert_eq!(client.get("/").status, 503);
    flagged(&gateway, "UF", 2);
}

#[test]
fn an_origin_that_comes_back_is_used_again() {
    let port = HeldPort::new();
    let gateway = Gateway::in_front_of(port.addr());
    assert_eq!(gateway.get("/").status, 503);
    let addr = port.addr();
    drop(port);
    let _origin = Origin::start_at(addr, "back");
    assert_eq!(gateway.get("/").text(), "back");
}

#[test]
fn a_cluster_without_endpoints_is_503_no_healthy_upstream() {
    let config = Config::new().listener("web", "").cluster("origin", &[], "").route("all", "cluster = 'origin'");
    let gateway = Gateway::start(&config);
    let response = gateway.get("/");
    assert_eq!((response.status, response.text()), (503, "no healthy upstream"));
    flagged(&gateway, "UH", 1);
}

#[test]
fn a_request_that_takes_too_long_is_504() {
    let origin = Origin::start("a");
    let config = Config::new()
        .listener("web", "")
        .cluster("origin", &[origin.addr()], "")
        .route("all", "cluster = 'origin'\ntimeout = '300ms'");
    let gateway = Gateway::start(&config);
    let mut client = gateway.connect();
    let start = Instant::now();
    let response = client.get("/hold");
    assert_eq!((response.status, response.text()), (504, "upstream request timeout"));
    assert!(start.elapsed() >= Duration::from_millis(250), "after {:?}", start.elapsed());
    assert_eq!(client.get("/").status, 200, "the client's connection goes on");
    flagged(&gateway, "UT", 1);
    wait::until_true("the origin's connection to be dropped", || {
        origin.release();
        origin.open() == 1
    });
}

#[test]
fn an_answer_that_is_no_http_is_502() {
    let cases = [
        "garbage\r\n\r\n",
        "HTTP/1.1\r\n\r\n",
        "HTTP/1.1 2OO OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nbad name: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: \0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
    ];
    let origin = Script::start(move |mut conn| {
        conn.head().expect("a request");
        conn.send(cases[conn.index]);
        conn.half_close();
        let _ = conn.body(Framing::UntilClose, &mut |_| {});
    });
    let gateway = Gateway::in_front_of(origin.addr());
    let mut client = gateway.connect();
    for case in cases {
        assert_eq!(client.get("/").status, 502, "for {case:?}");
    }
    assert_eq!(origin.connections(), cases.len(), "such a connection must not be used again, nor the request repeated");
    flagged(&gateway, "UPE", cases.len() as u32);
}

#[test]
fn an_origin_that_hangs_up_without_an_answer_is_503() {
    let origin = Script::start(|mut conn| {
        conn.head().expect("a request");
        if conn.index % 2 == 1 {
            conn.reset();
        }
    });
    let gateway = Gateway::in_front_of(origin.addr());
    let mut client = gateway.connect();
    for _ in 0..4 {
        let response = client.get("/");
        assert_eq!(response.status, 503);
        let body = response.text();
        assert!(
            body.starts_with("upstream connect error or disconnect/reset before headers. reset reason: "),
            "{body}"
        );
    }
    assert_eq!(origin.connections(), 4, "the request had been sent on a fresh connection: it must not be repeated");
    flagged(&gateway, "UC", 4);
}

#[test]
fn an_origin_that_resets_the_stream_has_meant_the_request_whose_connection_goes_on() {
    let origin = Script::start(|conn| {
        serve(conn, &Options::default(), &|served| {
            served.body(&mut |_| ()).expect("a request");
            match served.path() {
                "/cut" => served.cut(),
                "/half" => {
                    served.start(200, &[], Framing::Length(10));
                    served.send(b"half");
                    served.cut();
                }
                _ => _ = served.answer(200, &[], b"well"),
            }
        });
    });
    let config = Config::new()
        .listener("web", "")
        .cluster("origin", &[origin.addr()], "protocol = 'h2'")
        .route("all", "cluster = 'origin'\nretry = { attempts = 0 }");
    let gateway = Gateway::start(&config);
    assert_eq!(gateway.get("/").text(), "well");
    let answer = gateway.get("/cut");
    let words = "upstream connect error or disconnect/reset before headers. reset reason: remote reset";
    assert_eq!((answer.status, answer.text()), (503, words));
    let mut client = gateway.connect();
    client.send(client::request("GET", "/half", ""));
    assert!(client.try_response_to("GET").is_err());
    flagged(&gateway, "UR", 2);
    assert_eq!(gateway.get("/").text(), "well");
    assert!(gateway.metrics().sum("gateway_cluster_retries_total", &[("cluster", "origin")]) == 0.0);
}

#[test]
fn a_request_on_a_reused_connection_that_dies_is_sent_again() {
    // Each connection answers one request and is cut when the second one comes: what a keep-alive timeout looks like
    // when it fires at the wrong moment.
    let origin = Script::start(|mut conn| {
        conn.head().expect("a request");
        conn.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        let _ = conn.head();
    });
    let gateway = Gateway::in_front_of(origin.addr());
    let mut client = gateway.connect();
    for _ in 0..20 {
        assert_eq!(client.get("/").text(), "ok");
    }
    assert!(gateway.metrics().sum("gateway_cluster_retries_total", &[("cluster", "origin")]) > 0.0);
}

#[test]
fn an_idle_connection_that_the_origin_closes_is_not_used_again() {
    let origin = Script::start(|mut conn| {
        conn.head().expect("a request");
        conn.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    });
    let gateway = Gateway::in_front_of(origin.addr());
    let mut client = gateway.connect();
    for round in 0..20 {
        // POST: a gateway that finds out by trying must not send it again.
        assert_eq!(client.request("POST", "/", "", b"").text(), "ok", "round {round}");
        wait::until_true("the FIN to arrive", || !is_connected_to(origin.addr()));
    }
}

#[test]
fn a_killed_origin_cuts_the_answer_visibly() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(dir.path().join("file"), vec![b'x'; 50_000_000]).expect("write");
    // `limit_rate` keeps the answer going until the kill; chunked, an end would look like an end.
    let server = format!(
        "root {0}; limit_rate 1m; location /file {{ }}
         location /chunked {{ ssi on; ssi_types *; alias {0}/file; }}",
        dir.path().display()
    );
    for path in ["/file", "/chunked"] {
        let nginx = Nginx::start(&server);
        let gateway = Gateway::in_front_of(nginx.addr());
        let mut client = gateway.connect();
        client.send(client::request("GET", path, ""));
        let head = client.head().expect("the response's head");
        let framing = head.framing(Framing::UntilClose);
        assert_eq!(framing == Framing::Chunked, path == "/chunked", "{head:?}");
        let mut nginx = Some(nginx);
        let end = client.body(framing, &mut |_| {
            if let Some(nginx) = nginx.take() {
                nginx.kill();
            }
        });
        assert_eq!(end, Err(ReadError::Truncated), "{path}: the client must not take this for the whole answer");
        flagged(&gateway, "UC", 1);
    }
}

#[test]
fn a_vanished_client_takes_its_upload_with_it() {
    let origin = Origin::start("a");
    let gateway = Gateway::in_front_of(origin.addr());
    let mut before = 0;
    for round in 0..22 {
        // The first two rounds open what a worker opens once.
        if round == 2 {
            wait::until_true("those connections to end", || client_connections(&gateway) == 0.0);
            before = gateway.process.fd_count();
        }
        let framing = if round % 2 == 0 { "content-length: 1000000" } else { "transfer-encoding: chunked" };
        let mut client = gateway.connect();
        client.send(client::request("POST", "/echo", &format!("{framing}\r\n")) + "5\r\nhello\r\n");
        wait::until_true("the upload to reach the origin", || origin.open() > 0);
        if round % 4 < 2 {
            client.reset();
        } else {
            drop(client);
        }
        wait::until_true("the origin's connection to be closed", || origin.open() == 0);
    }
    assert_eq!(origin.requests(), 0, "half an upload was taken for a request");
    gateway.wait_fd_count(before);
}

#[test]
fn a_client_that_vanishes_while_it_waits_frees_the_origin() {
    let origin = Origin::start("a");
    let gateway = Gateway::in_front_of(origin.addr());
    // Also one that has nothing more to send.
    for (count, headers) in [(1, ""), (2, "connection: close\r\n")] {
        let mut client = gateway.connect();
        client.send(client::request("GET", "/hold", headers));
        origin.wait_held(count as usize);
        client.reset();
        flagged(&gateway, "DC", count);
    }
    let active = |gateway: &Gateway| gateway.metrics().sum("gateway_listener_requests_active", &[]);
    assert_eq!(active(&gateway), 0.0);
}

#[test]
fn a_client_that_vanishes_during_a_download_stops_the_origin() {
    let origin = Origin::start("a");
    let gateway = Gateway::in_front_of(origin.addr());
    let mut client = gateway.connect();
    client.send(client::request("GET", "/bytes/100000000000", ""));
    client.head().expect("the response's head");
    client.reset();
    wait::until_true("the origin's connection to be closed", || origin.open() == 0);
}

#[test]
fn many_failures_leave_no_descriptor_behind() {
    let nobody = HeldPort::new();
    let origin = Script::start(|mut conn| {
        let _ = conn.head();
        match conn.index % 3 {
            0 => {}
            1 => conn.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort"),
            _ => conn.send("nonsense\r\n\r\n"),
        }
    });
    let config = Config::new()
        .listener("web", "")
        .cluster("origin", &[origin.addr()], "")
        .cluster("nobody", &[nobody.addr()], "")
        .route("all", "cluster = 'origin'")
        .route("nobody", "match = { path_prefix = '/nobody' }\ncluster = 'nobody'");
    let gateway = Gateway::start(&config);
    assert_eq!(gateway.get("/nobody").status, 503);
    wait::until_true("that connection to end", || client_connections(&gateway) == 0.0);
    let before = gateway.process.fd_count();
    for round in 0..90 {
        let mut client = gateway.connect();
        client.send(client::request("GET", if round % 2 == 0 { "/" } else { "/nobody" }, ""));
        let _ = client.try_response_to("GET");
    }
    gateway.wait_fd_count(before);
}

fn client_connections(gateway: &Gateway) -> f64 {
    gateway.metrics().sum("gateway_listener_connections_active", &[("listener", "web")])
}
