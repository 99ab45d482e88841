//! Bodies of any size: unharmed, in bounded memory, no faster than the slower side.

use std::time::Duration;

use gateway_tests::client;
use gateway_tests::conn::Framing;
use gateway_tests::prelude::*;

const MIB: u64 = 1 << 20;

/// Most memory the gateway may have while it streams (issue: 10 GiB in under 64 MiB).
const RSS_MAX: u64 = 64 * MIB;

/// More than all the socket buffers between client and origin can hold: two connections, each with at most 4 MiB to
/// send (`tcp_wmem`) and 32 MiB to receive (`tcp_rmem` of large machines).
const IN_FLIGHT_MAX: u64 = 80 * MIB;

/// Length of the streams: `GATEWAY_TEST_STREAM_GIB`, else 10 GiB as the promise says.
fn stream_length() -> u64 {
    let gib = std::env::var("GATEWAY_TEST_STREAM_GIB").ok().map(|gib| gib.parse().expect("a number of GiB"));
    gib.unwrap_or(10) << 30
}

#[test]
fn bodies_of_all_sizes_and_framings_arrive_unharmed() {
    let origin = Origin::start("a");
    let gateway = Gateway::in_front_of(origin.addr());
    let mut client = gateway.connect();
    // Around the sizes at which buffers, records and windows end.
    for length in [0, 1, 4095, 4096, 4097, 16_383, 16_384, 16_385, 65_535, 65_536, 65_537, 1_000_003, 20_000_003] {
        for path in ["bytes", "chunked", "until-close"] {
            client.send(client::request("GET", &format!("/{path}/{length}"), ""));
            assert_eq!(client.pattern_response().1, length, "/{path}/{length}");
        }
        for framing in [Framing::Length(length), Framing::Chunked] {
            client.send_pattern("/sink", length, framing);
            assert_eq!(client.response().text(), length.to_string(), "{framing:?}");
        }
    }
}

#[test]
fn a_very_long_download_is_streamed_in_bounded_memory() {
    let origin = Origin::start("a");
    let gateway = Gateway::start(&no_timeout(&origin));
    let mut client = gateway.connect();
    client.send(client::request("GET", &format!("/bytes/{}", stream_length()), ""));
    let (_, length) = client.pattern_response();
    assert_eq!(length, stream_length());
    assert_frugal(&gateway);
}

#[test]
fn a_very_long_upload_is_streamed_in_bounded_memory() {
    let origin = Origin::start("a");
    let gateway = Gateway::start(&no_timeout(&origin));
    let mut client = gateway.connect();
    client.send_pattern("/sink", stream_length(), Framing::Chunked);
    assert_eq!(client.response().text(), stream_length().to_string());
    assert_frugal(&gateway);
}

#[test]
fn a_client_that_does_not_read_stops_the_origin() {
    let origin = Origin::start("a");
    let gateway = Gateway::start(&no_timeout(&origin));
    let length = 400 * MIB;
    let mut client = gateway.connect();
    client.send(client::request("GET", &format!("/bytes/{length}"), ""));
    wait::until_true("the origin to send", || origin.sent() > 0);
    let stuck_at = wait::steady("the origin to stop", Duration::from_millis(500), || origin.sent());
    assert!(stuck_at < IN_FLIGHT_MAX, "{} MiB are under way to a client that does not read", stuck_at / MIB);
    assert_frugal(&gateway);
    // It was back-pressure, not a loss: the rest comes.
    assert_eq!(client.pattern_response().1, length);
}

#[test]
fn an_origin_that_does_not_read_stops_the_client() {
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let length = 400 * MIB;
    let origin = Script::start(move |mut conn| {
        let head = conn.head().expect("a request");
        gate.lock().unwrap().recv().expect("the test's word");
        let mut checker = gateway_tests::pattern::Checker::default();
        conn.body(head.framing(Framing::Empty), &mut |bytes| checker.push(bytes)).expect("the whole body");
        conn.send(format!("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}", checker.len()));
    });
    let gateway = Gateway::in_front_of(origin.addr());
    let mut client = gateway.connect();
    client.send(client::request("POST", "/", &format!("content-length: {length}\r\n")));
    let mut sent = 0;
    client.patience(Duration::from_millis(500));
    let mut piece = gateway_tests::pattern::slice(0, MIB);
    while let Some(count) = client.send_some(piece) {
        sent += count as u64;
        piece = gateway_tests::pattern::slice(sent, MIB);
        assert!(sent < IN_FLIGHT_MAX, "{} MiB are under way to an origin that does not read", sent / MIB);
    }
    assert_frugal(&gateway);
    client.patience(wait::DEADLINE);
    go.send(()).expect("a waiting origin");
    while sent < length {
        let piece = gateway_tests::pattern::slice(sent, length - sent);
        client.send(piece);
        sent += piece.len() as u64;
    }
    assert_eq!(client.response().text(), length.to_string());
}

/// A route without timeout: these streams take as long as they take.
fn no_timeout(origin: &Origin) -> Config {
    Config::new()
        .listener("web", "")
        .cluster("origin", &[origin.addr()], "")
        .route("all", "cluster = 'origin'\ntimeout = '0s'")
}

fn assert_frugal(gateway: &Gateway) {
    let peak = gateway.process.peak_rss();
    assert!(peak < RSS_MAX, "the gateway took {} MiB", peak / MIB);
}
