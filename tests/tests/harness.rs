//! The harness itself, with nginx in the gateway's place or nothing between its two ends.

use gateway_tests::certs::Store;
use gateway_tests::client::request;
use gateway_tests::conn::Framing;
use gateway_tests::curl::curl;
use gateway_tests::h2::{Client, Connection, Options};
use gateway_tests::load::{Failure, Load, Mode};
use gateway_tests::metrics::Samples;
use gateway_tests::nginx::Nginx;
use gateway_tests::origin::serve;
use gateway_tests::pattern::{self, Checker};
use gateway_tests::ports::HeldPort;
use gateway_tests::prelude::*;
use gateway_tests::tls::{TlsClient, TlsServer};
use rustls::HandshakeKind;

fn nginx_in_front_of(origin: &Origin) -> Nginx {
    Nginx::start(&format!(
        "location / {{ proxy_pass http://{}; proxy_http_version 1.1; proxy_request_buffering off; }}",
        origin.addr()
    ))
}

#[test]
fn bodies_of_both_framings_pass_through_nginx_unharmed() {
    let origin = Origin::start("a");
    let nginx = nginx_in_front_of(&origin);
    let mut client = Conn::connect(nginx.addr());
    for path in ["/bytes/3000000", "/chunked/3000000"] {
        client.send(request("GET", path, ""));
        let (response, length) = client.pattern_response();
        assert_eq!((response.status, length), (200, 3_000_000));
    }
    for framing in [Framing::Length(0), Framing::Chunked] {
        client.send_pattern("/sink", 3_000_000, framing);
        assert_eq!(client.response().text(), "3000000");
    }
    assert_eq!(origin.requests(), 4);
}

#[test]
fn the_origin_shows_the_request_that_it_got() {
    let origin = Origin::start("a");
    let seen = Conn::connect(origin.addr()).request("PUT", "/headers?x=1", "x-a: b\r\n", b"abc").seen();
    assert_eq!((seen.method(), seen.target(), seen.header("X-A")), ("PUT", "/headers?x=1", Some("b")));
}

#[test]
fn interim_responses_and_trailers_are_told_apart_from_the_response() {
    let script = Script::start(|mut conn| {
        conn.head().expect("a request");
        conn.send("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        conn.send_bytewise("2\r\nhi\r\n0\r\nt: v\r\n\r\n");
    });
    let mut client = Conn::connect(script.addr());
    let response = client.get("/");
    assert_eq!((response.interim.as_slice(), response.text()), (&[103][..], "hi"));
    assert_eq!(response.trailers, [("t".to_owned(), "v".to_owned())]);
    assert_eq!(client.end(), End::Closed);
}

#[test]
fn a_cut_answer_is_not_taken_for_a_whole_one() {
    let script = Script::start(|mut conn| {
        conn.head().expect("a request");
        match conn.index {
            0 => conn.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc"),
            1 => conn.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"),
            2 => conn.send("HTTP/1.1 200 OK\r\ncontent-le"),
            _ => {}
        }
        conn.reset();
    });
    for expected in [ReadError::Truncated, ReadError::Truncated, ReadError::Truncated, ReadError::Closed] {
        let mut client = Conn::connect(script.addr());
        client.send(request("GET", "/", ""));
        assert_eq!(client.try_response_to("GET"), Err(expected));
    }
}

#[test]
#[should_panic(expected = "the origin's script failed")]
fn a_failed_expectation_of_a_script_fails_the_test() {
    let script = Script::start(|mut conn| conn.expect("GET /right"));
    Conn::connect(script.addr()).send("GET /wrong");
    script.wait_finished(1);
}

#[test]
#[should_panic(expected = "body differs")]
fn a_moved_body_byte_is_noticed() {
    let mut bytes = pattern::bytes(200_000);
    bytes.remove(131_042);
    Checker::default().push(&bytes);
}

#[test]
fn a_load_accounts_for_every_request() {
    let origin = Origin::start("a");
    let load = |mode, path: &str| Load { addr: origin.addr(), clients: 3, requests: 50, mode, path: path.into() };
    let report = load(Mode::KeepAlive, "/").start().finish();
    assert_eq!((report.answered, origin.connections()), (150, 3));
    let report = load(Mode::NewConnections, "/").start().finish();
    assert_eq!((report.answered, origin.connections()), (150, 153));
    let report = load(Mode::KeepAlive, "/status/500").start().finish();
    assert_eq!((report.answered, report.failed(&Failure::Status(500))), (0, 150));
    assert_eq!(origin.connections(), 156, "an error status does not cost the connection");
    let nobody = HeldPort::new();
    let refused = Load { addr: nobody.addr(), clients: 3, requests: 50, mode: Mode::KeepAlive, path: "/".into() };
    assert_eq!(refused.start().finish().failed(&Failure::Refused), 3);
}

#[test]
fn a_held_request_waits_for_its_release() {
    let origin = Origin::start("a");
    let mut client = Conn::connect(origin.addr());
    client.send(request("GET", "/hold", ""));
    origin.wait_held(1);
    assert!(client.is_idle());
    origin.release();
    assert_eq!(client.response().text(), "released");
}

#[test]
fn curl_and_the_tls_client_talk_to_nginx_with_a_certificate_of_ours() {
    let store = Store::new();
    let leaf = store.issue("site", &["a.test"]);
    let nginx = Nginx::start_with(
        "ssl http2",
        &format!(
            "ssl_certificate {0}/site.pem; ssl_certificate_key {0}/site.key; location / {{ return 200 hello; }}",
            store.path().display()
        ),
    );
    let (ca, url) = (store.path().join("ca.pem"), format!("https://a.test:{}/", nginx.addr().port()));
    let connect_to = format!("::{}", nginx.addr());
    assert_eq!(curl(&["--cacert", ca.to_str().expect("a path"), "--connect-to", &connect_to, &url]), "hello");

    let client = TlsClient::with(&store.authority, &[&rustls::version::TLS12], &["h2", "http/1.1"]);
    let (_conn, first) = client.connect(nginx.addr(), "a.test").expect("a handshake");
    assert_eq!((first.certificate, first.kind), (leaf.der, HandshakeKind::Full));
    assert_eq!((first.alpn.as_deref(), first.version), (Some("h2"), rustls::ProtocolVersion::TLSv1_2));
    TlsClient::new(&store.authority)
        .connect(nginx.addr(), "other.test")
        .expect_err("a name that the certificate lacks");
}

#[test]
fn a_killed_nginx_is_gone_at_once() {
    let nginx = Nginx::start("location / { return 200 hello; }");
    let (addr, mut client) = (nginx.addr(), Conn::connect(nginx.addr()));
    assert_eq!(client.get("/").text(), "hello");
    nginx.kill();
    client.end();
    gateway_tests::stream::Stream::connect(addr).expect_err("nobody listens");
}

#[test]
fn samples_are_summed_by_label() {
    let text = "# HELP a x\na{b=\"1\",c=\"x y\\\"}\"} 2\na{b=\"1\"} 3\na{b=\"2\"} 1e1\nplain 7\n";
    let samples = Samples::parse(text);
    assert_eq!((samples.sum("a", &[("b", "1")]), samples.sum("a", &[]), samples.sum("plain", &[])), (5.0, 15.0, 7.0));
    assert_eq!(samples.sum("a", &[("c", "x y\\\"}")]), 2.0);
}

#[test]
fn http2_clients_and_origins_of_the_harness_understand_each_other() {
    let origin = Origin::start("a");
    let mut client = AnyClient::connect(Http::H2, origin.addr());
    assert_eq!(client.get("/").text(), "a");
    assert_eq!(client.get_pattern("/chunked/3000000").1, 3_000_000);
    assert_eq!(client.post_pattern("/sink", 3_000_000, Framing::Length(0)).text(), "3000000");
    assert_eq!(client.get("/trailers").trailers[0], ("x-check".to_owned(), "123".to_owned()));
    let seen = client.ask("PUT", "/headers?x=1", &[("x-a", "b")]).seen();
    assert_eq!((seen.method(), seen.target(), seen.header("x-a")), ("PUT", "/headers?x=1", Some("b")));
    let mut asked = client.start("POST", "/request-trailers", &[("expect", "100-continue")]);
    assert_eq!(asked.interim(), 100);
    asked.send(b"abc");
    asked.finish(&[("x-t", "v")]);
    assert_eq!(asked.response().text(), r#"[["x-t","v"]]"#);
    assert_eq!(origin.connections(), 1);
}

#[test]
fn many_http2_streams_share_one_connection() {
    let origin = Origin::start("a");
    let client = Client::connect(origin.addr());
    let streams: Vec<_> = (0..50).map(|_| client.start("GET", "/hold", &[], true)).collect();
    origin.wait_held(50);
    assert!(streams.iter().all(gateway_tests::h2::Stream::is_idle));
    origin.release();
    for stream in &streams {
        assert_eq!(gateway_tests::h2::response(stream, &mut |_| ()).expect("a response").status, 200);
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn curl_and_nginx_confirm_the_harness_http2() {
    let origin = Origin::start("a");
    let file = pattern_file();
    let url = |path: &str| format!("http://{}{path}", origin.addr());
    assert_eq!(curl(&["--http2-prior-knowledge", &url("/")]), "a");
    let sent =
        curl(&["--http2-prior-knowledge", "--data-binary", &format!("@{}", file.path().display()), &url("/sink")]);
    assert_eq!(sent, "3000000");

    let store = Store::new();
    store.issue("site", &["a.test"]);
    let directory = store.path().display();
    let nginx = Nginx::start_with(
        "ssl http2",
        &format!(
            "ssl_certificate {directory}/site.pem; ssl_certificate_key {directory}/site.key;
             location / {{ proxy_pass http://{}; proxy_http_version 1.1; }}",
            origin.addr()
        ),
    );
    let tls = TlsClient::with(&store.authority, rustls::ALL_VERSIONS, &["h2"]);
    let mut client = AnyClient::connect_tls(&tls, nginx.addr(), "a.test").expect("a handshake");
    assert!(matches!(client, AnyClient::H2(_)));
    assert_eq!(client.get_pattern("/bytes/3000000").1, 3_000_000);
    assert_eq!(client.post_pattern("/sink", 3_000_000, Framing::Length(0)).text(), "3000000");

    let tls_origin = Origin::start_tls("b", TlsServer::new(&store.authority.leaf(&["a.test"]), &["h2", "http/1.1"]));
    let mut client = AnyClient::connect_tls(&tls, tls_origin.addr(), "a.test").expect("a handshake");
    assert_eq!(client.get_pattern("/bytes/3000000").1, 3_000_000);
    let old = TlsClient::new(&store.authority);
    let mut client = AnyClient::connect_tls(&old, tls_origin.addr(), "a.test").expect("a handshake");
    assert!(matches!(client, AnyClient::H1(_)));
    assert_eq!(client.get("/").text(), "b");
}

fn pattern_file() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), pattern::bytes(3_000_000)).expect("write");
    file
}

#[test]
#[should_panic(expected = "the connection's field")]
fn a_connection_field_in_http2_is_noticed() {
    let origin = Script::start(|conn| {
        let connection = Connection::server(conn.into_stream(), Options::default());
        let (stream, _) = connection.accept().expect("a request");
        stream.send_fields(&[(":status", "200"), ("connection", "close")], true);
        connection.wait_end();
    });
    Client::connect(origin.addr()).get("/");
}

#[test]
fn a_reset_stream_and_a_cut_connection_are_told_from_an_end() {
    let origin = Script::start(|conn| {
        serve(conn, &Options::default(), &|served| {
            served.start(200, &[], Framing::Length(10));
            served.send(b"hello");
            served.cut();
        });
    });
    for http in [Http::H1, Http::H2] {
        let mut client = AnyClient::connect(http, origin.addr());
        let cut = client.start_empty("GET", "/", &[]).try_response().expect_err("half a response");
        assert_eq!(cut, if http == Http::H1 { ReadError::Truncated } else { ReadError::Reset(2) });
    }
}
