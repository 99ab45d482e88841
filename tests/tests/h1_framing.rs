//! What is not exactly one HTTP/1.1 request is refused before an origin sees it.
//!
//! The statuses are Envoy's, except where RFC 9112 wants more: two `Host` fields, obs-fold and bare LF are errors here,
//! and HTTP/1.0 is served.

use gateway_tests::prelude::*;

/// Sends `bytes` on a connection of its own, and wants `status`, the connection's end, and nothing else: a second
/// request hidden behind the first must not be answered.
fn refused_with(gateway: &Gateway, bytes: &[u8], status: u16) {
    let mut client = gateway.connect();
    client.send(bytes);
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
    let response = client.try_response_to("GET").unwrap_or_else(|e| panic!("{e:?} for {shown:?}"));
    assert_eq!(response.status, status, "for {shown:?}");
    assert!(response.closes(), "{:?} for {shown:?}", response.head);
    client.end();
}

/// Every case is refused with `status`, with a second request behind it that an origin would see if it were let through.
fn table(status: u16, cases: &[&str]) {
    let origin = Origin::start("a");
    let gateway = Gateway::in_front_of(origin.addr());
    for case in cases {
        let bytes = format!("{case}GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n");
        refused_with(&gateway, bytes.as_bytes(), status);
    }
    assert_eq!(origin.requests(), 0, "the origin saw a request");
    // A gateway that refuses everything would pass too.
    assert_eq!(gateway.get("/").status, 200);
}

#[test]
fn a_doubtful_body_length_is_a_bad_request() {
    table(
        400,
        &[
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5, 5\r\n\r\nhello",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +5\r\n\r\nhello",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0x5\r\n\r\nhello",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5 5\r\n\r\nhello",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length:\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 18446744073709551616\r\n\r\n",
            "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ],
    );
}

#[test]
fn a_transfer_coding_other_than_chunked_is_not_implemented() {
    table(
        501,
        &[
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: identity\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ],
    );
}

#[test]
fn a_line_that_is_no_field_is_a_bad_request() {
    table(
        400,
        &[
            "GET / HTTP/1.1\r\nhost: a\r\nname : value\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nname\t: value\r\n\r\n",
            "GET / HTTP/1.1\r\n name: value\r\nhost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nfolded: one\r\n two\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nfolded: one\r\n\ttwo\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nname: val\0ue\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nname: val\rue\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nname: val\x01ue\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nna\0me: value\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nna(me: value\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\n: value\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nvalue\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\nname: value\r\n\r\n",
            "GET / HTTP/1.1\nhost: a\n\n",
        ],
    );
}

#[test]
fn a_missing_doubled_or_impossible_host_is_a_bad_request() {
    table(
        400,
        &[
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a b\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a/b\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: user@a\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a:port\r\n\r\n",
        ],
    );
}

#[test]
fn a_broken_request_line_is_a_bad_request() {
    table(
        400,
        &[
            "GET  / HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET / HTTP/1.1 \r\nhost: a\r\n\r\n",
            "GET / http/1.1\r\nhost: a\r\n\r\n",
            "GET /a b HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET a HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET /\0 HTTP/1.1\r\nhost: a\r\n\r\n",
            "G(T / HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET /\r\nhost: a\r\n\r\n",
            "\r\n\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
            "\x16\x03\x01\x02\x00\x01\x00\x01\u{7f}\x03\x03\r\n\r\n",
        ],
    );
}

#[test]
fn another_version_is_not_supported() {
    table(505, &["GET / HTTP/2.0\r\nhost: a\r\n\r\n", "GET / HTTP/3.7\r\nhost: a\r\n\r\n"]);
}

#[test]
fn a_broken_chunk_is_a_bad_request() {
    let chunked = |body: &str| format!("POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{body}");
    let origin = Origin::start("a");
    let gateway = Gateway::in_front_of(origin.addr());
    for body in [
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5;x\nhello\r\n0\r\n\r\n",
        "5\r\nhelloo\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        "x\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "0\r\n\n",
        "0\r\nbad trailer\r\n\r\n",
        "0\r\nname : value\r\n\r\n",
    ] {
        refused_with(&gateway, chunked(body).as_bytes(), 400);
    }
    // The heads were sound, so the origin may have seen them; but never a body that looks whole.
    assert_eq!(origin.requests(), 0, "the origin took a broken body for a whole one");
    wait::until_true("the origin's connections to be closed", || origin.open() == 0);
    let mut client = gateway.connect();
    client.send(chunked("5;x=\"y\"\r\nhello\r\n0\r\n\r\n"));
    assert_eq!(client.response().text(), "hello");
}

#[test]
fn a_head_over_its_limits_is_too_large_and_one_below_them_is_not() {
    let origin = Origin::start("a");
    let gateway = Gateway::in_front_of(origin.addr());
    let with_fields = |count: usize| {
        let fields: String = (0..count - 1).map(|i| format!("x-{i}: v\r\n")).collect();
        format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n")
    };
    let with_bytes = |total: usize| {
        let frame = "GET / HTTP/1.1\r\nhost: a\r\nx: \r\n\r\n".len();
        format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "v".repeat(total - frame))
    };
    refused_with(&gateway, with_fields(101).as_bytes(), 431);
    refused_with(&gateway, with_bytes(60 * 1024 + 1).as_bytes(), 431);
    // A head without end must not be waited for.
    refused_with(&gateway, with_bytes(200 * 1024).trim_end().as_bytes(), 431);
    let endless_target = format!("GET /{}", "a".repeat(100 * 1024));
    refused_with(&gateway, endless_target.as_bytes(), 414);
    assert_eq!(origin.requests(), 0);

    for sound in [with_fields(100), with_bytes(60 * 1024)] {
        let mut client = gateway.connect();
        client.send(&sound);
        assert_eq!(client.response().status, 200);
    }
}

#[test]
fn the_limits_of_a_head_can_be_configured() {
    let origin = Origin::start("a");
    let config = Config::new()
        .listener("web", "limits = { header_bytes = '1KiB', header_count = 3 }")
        .cluster("origin", &[origin.addr()], "")
        .route("all", "cluster = 'origin'");
    let gateway = Gateway::start(&config);
    refused_with(&gateway, b"GET / HTTP/1.1\r\nhost: a\r\na: 1\r\nb: 2\r\nc: 3\r\n\r\n", 431);
    refused_with(&gateway, format!("GET / HTTP/1.1\r\nhost: a\r\na: {}\r\n\r\n", "v".repeat(1024)).as_bytes(), 431);
    assert_eq!(gateway.connect().request("GET", "/", "", b"").status, 200);
}

#[test]
fn http_1_0_is_served_and_the_connection_closed() {
    let origin = Origin::start("a");
    let gateway = Gateway::in_front_of(origin.addr());
    for head in ["GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n"] {
        let mut client = gateway.connect();
        client.send(head);
        let response = client.response();
        assert_eq!((response.status, response.text()), (200, "a"));
        assert!(response.closes());
        assert_eq!(client.end(), End::Closed);
    }
    let mut client = gateway.connect();
    client.send("GET /chunked/100000 HTTP/1.0\r\n\r\n");
    let (response, length) = client.pattern_response();
    assert_eq!(response.header("transfer-encoding"), None, "HTTP/1.0 has no chunks (RFC 9112 §6.1)");
    assert_eq!(length, 100_000);
}

#[test]
fn one_empty_line_before_a_request_is_ignored() {
    let origin = Origin::start("a");
    let gateway = Gateway::in_front_of(origin.addr());
    let mut client = gateway.connect();
    client.send("\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(client.response().status, 200);
}

#[test]
fn an_upgrade_to_h2c_is_ignored() {
    let origin = Origin::start("a");
    let gateway = Gateway::in_front_of(origin.addr());
    let mut client = gateway.connect();
    let response = client.request(
        "GET",
        "/headers",
        "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
        b"",
    );
    assert_eq!(response.status, 200);
    for name in ["upgrade", "http2-settings", "connection"] {
        assert_eq!(response.seen().header(name), None, "{name} reached the origin");
    }
}

#[test]
fn connect_is_not_implemented() {
    table(501, &["CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n\r\n"]);
}
