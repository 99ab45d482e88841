//! HTTP/1.1 connections: reuse, pipelining, both framings, trailers, 100-continue, bodyless answers, half-close.

use gateway_tests::client::{self, HOST};
use gateway_tests::conn::Framing;
use gateway_tests::curl::curl;
use gateway_tests::nginx::Nginx;
use gateway_tests::prelude::*;

#[test]
fn a_connection_serves_many_requests_and_so_does_the_one_to_the_origin() {
    let origin = Origin::start("a");
    let gateway = Gateway::in_front_of(origin.addr());
    let mut client = gateway.connect();
    for _ in 0..100 {
        assert_eq!(client.get("/").text(), "a");
    }
    assert_eq!((origin.requests(), origin.connections()), (100, 1));
}

#[test]
fn connection_close_of_the_client_is_obeyed() {
    let origin = Origin::start("a");
    let gateway = Gateway::start(&Config::proxy_to(origin.addr()).gateway("workers = 1"));
    let mut client = gateway.connect();
    let response = client.request("GET", "/", "connection: close\r\n", b"");
    assert!(response.closes());
    assert_eq!(client.end(), End::Closed);
    // It was about the client's connection, not the origin's.
    assert_eq!(gateway.get("/").status, 200);
    assert_eq!(origin.connections(), 1);
}

#[test]
fn what_follows_a_last_request_does_not_cost_the_client_its_answer() {
    let origin = Origin::start("a");
    let gateway = Gateway::in_front_of(origin.addr());
    let mut client = gateway.connect();
    client.send(client::request("GET", "/hold", "connection: close\r\n"));
    origin.wait_held(1);
    // Unread when the gateway closes, this would reset the connection.
    client.send("\r\n");
    origin.release();
    assert_eq!(client.response().text(), "released");
    assert_eq!(client.end(), End::Closed);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::start("a");
    let gateway = Gateway::in_front_of(origin.addr());
    let mut client = gateway.connect();
    let mut bytes = String::new();
    for i in 0..20 {
        let body = format!("body {i}");
        bytes += &client::request("POST", "/echo", &format!("content-length: {}\r\n", body.len()));
        bytes += &body;
        bytes += &client::request("POST", "/echo", "transfer-encoding: chunked\r\n");
        bytes += &format!("7\r\nchunked\r\n1\r\n{}\r\n0\r\n\r\n", i % 10);
    }
    client.send(bytes);
    for i in 0..20 {
        assert_eq!(client.response().text(), format!("body {i}"));
        assert_eq!(client.response().text(), format!("chunked{}", i % 10));
    }
}

#[test]
fn a_request_that_comes_byte_by_byte_is_a_request() {
    let origin = Origin::start("a");
    let gateway = Gateway::in_front_of(origin.addr());
    let mut client = gateway.connect();
    for _ in 0..2 {
        client.send_bytewise(client::request("POST", "/echo", "transfer-encoding: chunked\r\n"));
        client.send_bytewise("5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\n\r\n");
        assert_eq!(client.response().text(), "hello world");
    }
}

#[test]
fn an_answer_that_comes_byte_by_byte_is_an_answer() {
    let origin = Script::start(|mut conn| {
        while conn.head().is_ok() {
            conn.send_bytewise("HTTP/1.1 200 OK\r\nx-a: b\r\ntransfer-encoding: chunked\r\n\r\n");
            conn.send_bytewise("5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n");
        }
    });
    let gateway = Gateway::in_front_of(origin.addr());
    let mut client = gateway.connect();
    for _ in 0..2 {
        let response = client.get("/");
        assert_eq!((response.header("x-a"), response.text()), (Some("b"), "hello world"));
    }
}

#[test]
fn trailers_pass_both_ways() {
    let origin = Script::start(|mut conn| {
        let head = conn.head().expect("a request");
        let mut body = Vec::new();
        let trailers = conn.body(head.framing(Framing::Empty), &mut |b| body.extend_from_slice(b)).expect("a body");
        assert_eq!(body, b"hello");
        assert_eq!(trailers, [("x-sum".to_owned(), "42".to_owned())]);
        conn.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-check\r\n\r\n");
        conn.send("2\r\nok\r\n0\r\nx-check: 123\r\nx-more: yes\r\n\r\n");
    });
    let gateway = Gateway::in_front_of(origin.addr());
    let mut client = gateway.connect();
    client.send(client::request("POST", "/", "transfer-encoding: chunked\r\nte: trailers\r\ntrailer: x-sum\r\n"));
    client.send("5\r\nhello\r\n0\r\nx-sum: 42\r\n\r\n");
    let response = client.response();
    assert_eq!(response.text(), "ok");
    let expected = [("x-check", "123"), ("x-more", "yes")].map(|(n, v)| (n.to_owned(), v.to_owned()));
    assert_eq!(response.trailers, expected);
    origin.wait_finished(1);
}

#[test]
fn a_client_that_expects_100_continue_gets_exactly_one() {
    let origin = Origin::start("a");
    let gateway = Gateway::in_front_of(origin.addr());
    let mut client = gateway.connect();
    for round in 0..2 {
        client.send(client::request("POST", "/echo", "content-length: 5\r\nexpect: 100-continue\r\n"));
        client.expect("HTTP/1.1 100 Continue\r\n\r\n");
        client.send("hello");
        let response = client.response();
        assert_eq!((response.status, response.text(), response.interim.len()), (200, "hello", 0), "round {round}");
    }
}

#[test]
fn a_client_that_does_not_wait_for_100_continue_is_served_too() {
    let origin = Origin::start("a");
    let gateway = Gateway::in_front_of(origin.addr());
    let mut client = gateway.connect();
    client.send(client::request("POST", "/echo", "content-length: 5\r\nexpect: 100-continue\r\n") + "hello");
    assert_eq!(client.response().text(), "hello");
    assert_eq!(client.get("/").text(), "a");
}

#[test]
fn a_refused_expectation_gets_its_final_status_and_no_100() {
    let origin = Origin::start("a");
    let config = Config::new()
        .listener("web", "limits = { body_bytes = '1KiB' }")
        .cluster("origin", &[origin.addr()], "")
        .route("some", "match = { path_prefix = '/some' }\ncluster = 'origin'");
    let gateway = Gateway::start(&config);
    for (path, length, status) in [("/nowhere", 5, 404), ("/some", 4096, 413)] {
        let mut client = gateway.connect();
        let fields = format!("content-length: {length}\r\nexpect: 100-continue\r\n");
        client.send(client::request("POST", path, &fields));
        let response = client.response();
        assert_eq!((response.status, response.interim.len()), (status, 0), "{path}");
        assert!(
            response.closes(),
            "the body may or may not follow, so what comes next is in doubt: {:?}",
            response.head
        );
        client.end();
    }
    let mut client = gateway.connect();
    client.send(client::request("POST", "/some", "content-length: 5\r\nexpect: something-else\r\n"));
    assert_eq!(client.response().status, 417);
    assert_eq!(origin.requests(), 0);
}

#[test]
fn a_final_status_before_the_body_reaches_the_client() {
    let origin = Script::start(|mut conn| {
        conn.head().expect("a request");
        conn.send("HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno");
        conn.half_close();
        // Reads on, so that closing does not reset what was just sent.
        let _ = conn.body(Framing::UntilClose, &mut |_| {});
    });
    let gateway = Gateway::in_front_of(origin.addr());
    let mut client = gateway.connect();
    client.send(client::request("POST", "/", "content-length: 1000000\r\n"));
    client.send(vec![b'x'; 1000]);
    let response = client.response();
    assert_eq!((response.status, response.text()), (401, "no"));
    assert!(response.closes(), "999 000 bytes are missing: the connection is of no further use");
    client.end();
}

#[test]
fn the_rest_of_a_body_that_the_origin_did_not_want_is_not_a_request() {
    let origin = Script::start(|mut conn| {
        conn.head().expect("a request");
        conn.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        // Part of the body is unread, so this close is a reset: the gateway's next write to the origin fails.
    });
    let gateway = Gateway::in_front_of(origin.addr());
    let smuggled = client::request("GET", "/smuggled", "").repeat(1000);
    let length = 500_000 + smuggled.len();
    // Answer and failed write arrive in either order; both have to come up.
    for _ in 0..200 {
        let mut client = gateway.connect();
        client.send(client::request("POST", "/", &format!("content-length: {length}\r\n")));
        client.try_send(vec![b'x'; 500_000]);
        let status = client.response().status;
        assert!(status == 200 || status == 503, "{status}");
        client.try_send(&smuggled);
        client.end();
    }
}

#[test]
fn interim_responses_of_the_origin_are_not_taken_for_the_answer() {
    let origin = Script::start(|mut conn| {
        conn.head().expect("a request");
        conn.send("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
        conn.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        conn.end();
    });
    let gateway = Gateway::in_front_of(origin.addr());
    assert_eq!(gateway.get("/").text(), "ok");
}

#[test]
fn answers_without_a_body_leave_the_connection_in_step() {
    let origin = Origin::start("a");
    let gateway = Gateway::in_front_of(origin.addr());
    let mut client = gateway.connect();
    for _ in 0..2 {
        let head = client.request("HEAD", "/bytes/1000", "", b"");
        assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("1000"), 0));
        assert_eq!(client.get("/status/204").status, 204);
        assert_eq!(client.get("/status/304").status, 304);
        assert_eq!(client.get("/bytes/3").body.len(), 3);
    }
    assert_eq!(origin.connections(), 1, "none of them should have cost the origin's connection");
}

#[test]
fn a_304_with_a_length_and_a_204_have_no_body() {
    let origin = Script::start(|mut conn| {
        conn.head().expect("a request");
        conn.send("HTTP/1.1 304 Not Modified\r\ncontent-length: 77\r\netag: \"x\"\r\n\r\n");
        conn.head().expect("a second request on the same connection");
        conn.send("HTTP/1.1 204 No Content\r\n\r\n");
        conn.head().expect("a third request on the same connection");
        conn.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        conn.end();
    });
    let gateway = Gateway::in_front_of(origin.addr());
    let mut client = gateway.connect();
    let not_modified = client.get("/");
    assert_eq!((not_modified.status, not_modified.header("etag")), (304, Some("\"x\"")));
    let no_content = client.get("/");
    assert_eq!((no_content.status, no_content.header("content-length")), (204, None));
    assert_eq!(client.get("/").text(), "ok");
}

#[test]
fn a_client_that_has_sent_its_last_byte_still_gets_its_answer() {
    let origin = Origin::start("a");
    let gateway = Gateway::in_front_of(origin.addr());
    let mut client = gateway.connect();
    client.send(client::request("POST", "/hold", "content-length: 5\r\n") + "hello");
    client.half_close();
    origin.wait_held(1);
    origin.release();
    assert_eq!(client.response().text(), "released");
    assert_eq!(client.end(), End::Closed);
}

#[test]
fn a_client_that_asks_much_and_leaves_the_answers_unread_for_a_while_gets_them_all() {
    // More than the sockets hold, so that the last answers wait in the gateway while its end of the connection closes.
    const REQUESTS: usize = 8_000;
    let body = "x".repeat(500);
    let config =
        Config::new().listener("web", "").route("all", &format!("respond = {{ status = 200, body = '{body}' }}"));
    let gateway = Gateway::start(&config);
    let mut client = gateway.connect();
    client.send(client::request("GET", "/", "").repeat(REQUESTS));
    client.half_close();
    for _ in 0..REQUESTS {
        assert_eq!(client.response().text(), body);
    }
    assert_eq!(client.end(), End::Closed);
}

#[test]
fn an_answer_that_ends_with_the_connection_is_passed_on_whole() {
    let origin = Origin::start("a");
    let gateway = Gateway::in_front_of(origin.addr());
    let mut client = gateway.connect();
    for _ in 0..2 {
        client.send(client::request("GET", "/until-close/300000", ""));
        let (response, length) = client.pattern_response();
        assert_eq!((response.status, length), (200, 300_000));
        assert_eq!(response.header("transfer-encoding"), Some("chunked"), "so that the client's connection goes on");
    }
}

#[test]
fn headers_of_one_hop_stop_at_the_gateway() {
    let origin = Script::start(|mut conn| {
        let head = conn.head().expect("a request");
        for name in ["connection", "keep-alive", "proxy-connection", "te", "x-hop"] {
            assert_eq!(head.header(name), None, "{name} reached the origin");
        }
        assert_eq!(head.header("x-end"), Some("to end"));
        conn.send("HTTP/1.1 200 OK\r\nconnection: x-private\r\nx-private: 1\r\nkeep-alive: timeout=5\r\n");
        conn.send("x-public: 2\r\ncontent-length: 0\r\n\r\n");
    });
    let gateway = Gateway::in_front_of(origin.addr());
    let fields = "connection: keep-alive, x-hop\r\nkeep-alive: timeout=3\r\nproxy-connection: keep-alive\r\nte: gzip\r\n\
                  x-hop: 1\r\nx-end: to end\r\n";
    let response = gateway.connect().request("POST", "/", fields, b"");
    assert_eq!(response.status, 200);
    assert_eq!((response.header("x-private"), response.header("keep-alive")), (None, None));
    assert_eq!(response.header("x-public"), Some("2"));
}

#[test]
fn the_request_arrives_as_it_was_sent() {
    let origin = Origin::start("a");
    let gateway = Gateway::in_front_of(origin.addr());
    let fields = "X-Mixed-Case:  spaced value \r\nx-twice: 1\r\nx-twice: 2\r\nx-empty:\r\n";
    let seen = gateway.connect().request("PATCH", "/headers?q=%20a&b=c", fields, b"body").seen();
    assert_eq!(seen.start, "PATCH /headers?q=%20a&b=c HTTP/1.1");
    assert_eq!(seen.header("host"), Some(HOST));
    assert_eq!(seen.header("x-mixed-case"), Some("spaced value"));
    assert_eq!(seen.header("x-empty"), Some(""));
    assert_eq!(seen.header("content-length"), Some("4"));
    assert_eq!(seen.all("x-twice"), ["1", "2"]);
}

#[test]
fn a_target_in_absolute_form_overrides_the_host_field() {
    let origin = Origin::start("a");
    let gateway = Gateway::in_front_of(origin.addr());
    let mut client = gateway.connect();
    client.send("GET http://real.example:8080/headers?x HTTP/1.1\r\nhost: other.example\r\n\r\n");
    let seen = client.response().seen();
    assert_eq!((seen.target(), seen.header("host")), ("/headers?x", Some("real.example:8080")));
}

#[test]
fn ipv6_works_on_both_sides() {
    let any: std::net::SocketAddr = "[::1]:0".parse().unwrap();
    let origin = Origin::start_at(any, "six");
    let config = Config::new()
        .listener_at("web", any, "")
        .cluster("origin", &[origin.addr()], "")
        .route("all", "cluster = 'origin'");
    let gateway = Gateway::start(&config);
    assert!(gateway.addr("web").is_ipv6());
    assert_eq!(gateway.get("/headers").seen().header("x-forwarded-for"), Some("::1"));
}

#[test]
fn curl_in_front_and_nginx_behind_see_nothing_odd() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let content = gateway_tests::pattern::bytes(1_000_000);
    std::fs::write(dir.path().join("file"), &content).expect("write");
    let server = format!("root {}; location /hello {{ return 200 hello; }}", dir.path().display());
    let nginx = Nginx::start(&server);
    let gateway = Gateway::in_front_of(nginx.addr());
    let url = |path: &str| format!("http://{}{path}", gateway.addr("web"));
    assert_eq!(curl(&[&url("/hello")]), "hello");
    assert_eq!(curl(&["-o", "/dev/null", "-w", "%{http_code}", &url("/missing")]), "404");
    assert_eq!(curl(&["-I", "-o", "/dev/null", "-w", "%{http_code}", &url("/file")]), "200");

    let file = gateway.dir().join("download");
    let file = file.to_str().expect("a path");
    curl(&["-o", file, &url("/file")]);
    assert!(std::fs::read(file).expect("a download") == content, "the file differs");
    curl(&["-r", "1000-1999", "-o", file, &url("/file")]);
    assert!(std::fs::read(file).expect("a download") == content[1000..2000], "the range differs");
    // Two requests in one run: curl reuses the connection.
    let reused =
        curl(&["-o", "/dev/null", "-o", "/dev/null", "-w", "%{num_connects} ", &url("/hello"), &url("/hello")]);
    assert_eq!(reused, "1 0 ");
}
