//! WebSockets, for every pair of HTTP versions, and what tries to pass for one.

use std::io::{Read, Write};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use gateway_tests::client::request;
use gateway_tests::every_pair;
use gateway_tests::h2::{Client, Connection, Event, Options};
use gateway_tests::pattern;
use gateway_tests::prelude::*;
use gateway_tests::websocket::{self, Tunnel, UPGRADE, extended_connect};
use tungstenite::{Bytes, Message, WebSocket};

fn config(pair: Pair, origin: std::net::SocketAddr, route: &str) -> Config {
    Config::new()
        .listener("web", "")
        .cluster("origin", &[origin], &format!("protocol = '{}'", pair.origin.name()))
        .route("all", &format!("cluster = 'origin'\n{route}"))
}

fn start(pair: Pair, origin: &Script) -> Gateway {
    Gateway::start(&config(pair, origin.addr(), "websocket = true"))
}

fn upgrade(pair: Pair, gateway: &Gateway) -> Result<Tunnel, u16> {
    websocket::connect(pair.client, gateway.addr("web"), "/chat")
}

fn open(pair: Pair, gateway: &Gateway) -> WebSocket<Tunnel> {
    upgrade(pair, gateway).expect("a tunnel").client()
}

every_pair! {
    messages_of_all_sizes_come_back
    each_direction_can_end_by_itself
    a_cut_reaches_the_other_side
    a_refusal_is_relayed
    an_ordinary_answer_opens_no_tunnel
    a_route_that_does_not_allow_it_says_403
    a_silent_tunnel_ends
    a_tunnel_outlives_a_reload
    a_tunnel_is_drained_last
}

fn echo_origin() -> Script {
    Script::start(|conn| websocket::serve(conn, &|_, tunnel| websocket::echo(tunnel)))
}

fn round_trip(socket: &mut WebSocket<Tunnel>, message: Message) {
    socket.send(message.clone()).expect("an open tunnel");
    let answer = socket.read().expect("an answer");
    assert!(answer == message, "{} bytes came back for {}", answer.len(), message.len());
}

fn messages_of_all_sizes_come_back(pair: Pair) {
    let origin = echo_origin();
    let gateway = start(pair, &origin);
    let mut socket = open(pair, &gateway);
    round_trip(&mut socket, Message::text("hello"));
    for length in [0, 1, 125, 126, 65_535, 65_536, 1 << 20] {
        round_trip(&mut socket, Message::binary(pattern::bytes(length)));
    }
    socket.send(Message::Ping(Bytes::from_static(b"there?"))).expect("an open tunnel");
    assert_eq!(socket.read().expect("an answer"), Message::Pong(Bytes::from_static(b"there?")));
    socket.close(None).expect("an open tunnel");
    assert!(matches!(socket.read(), Ok(Message::Close(_))));
    assert!(matches!(socket.read(), Err(tungstenite::Error::ConnectionClosed)));
}

fn each_direction_can_end_by_itself(pair: Pair) {
    let origin = Script::start(|conn| {
        websocket::serve(conn, &|_, mut tunnel| {
            let mut all = Vec::new();
            tunnel.read_to_end(&mut all).expect("the client's end");
            assert_eq!(all, b"the last words");
            tunnel.write_all(b"and the answer").expect("the other direction is open");
            tunnel.half_close();
        });
    });
    let gateway = start(pair, &origin);
    let mut tunnel = upgrade(pair, &gateway).expect("a tunnel");
    tunnel.write_all(b"the last words").expect("an open tunnel");
    tunnel.half_close();
    let mut answer = Vec::new();
    tunnel.read_to_end(&mut answer).expect("the origin's end");
    assert_eq!(answer, b"and the answer");
}

fn a_cut_reaches_the_other_side(pair: Pair) {
    let origin = Script::start(|conn| {
        websocket::serve(conn, &|_, mut tunnel| {
            let mut word = [0; 4];
            tunnel.read_exact(&mut word).expect("a word");
            tunnel.cut();
        });
    });
    let gateway = start(pair, &origin);
    let mut tunnel = upgrade(pair, &gateway).expect("a tunnel");
    tunnel.write_all(b"word").expect("an open tunnel");
    let rest = tunnel.read(&mut [0; 1]);
    assert!(matches!(rest, Ok(0) | Err(_)), "{rest:?}");
}

/// An origin that answers every request with `status`, whatever it asks for.
fn refusing(status: u16) -> Script {
    Script::start(move |mut conn| {
        if conn.begins_h2() {
            let connection = Connection::server(conn.into_stream(), Options::default());
            while let Some((stream, _)) = connection.accept() {
                stream.send_fields(&[(":status", &status.to_string())], false);
                stream.send_data(b"no", true);
            }
        } else {
            while conn.head().is_ok() {
                conn.send(format!("HTTP/1.1 {status} Text\r\ncontent-length: 2\r\n\r\nno"));
            }
        }
    })
}

fn a_refusal_is_relayed(pair: Pair) {
    let origin = refusing(403);
    let gateway = start(pair, &origin);
    assert_eq!(upgrade(pair, &gateway).expect_err("a refusal"), 403);
}

/// Over HTTP/2 a 200 is the origin's yes, so this is about origins of HTTP/1.1; and to a client of HTTP/2 a 200 would be a
/// yes.
fn an_ordinary_answer_opens_no_tunnel(pair: Pair) {
    let origin = refusing(if pair.origin == Http::H1 { 200 } else { 404 });
    let gateway = start(pair, &origin);
    let status = upgrade(pair, &gateway).expect_err("no tunnel");
    match pair {
        Pair { origin: Http::H2, .. } => assert_eq!(status, 404),
        Pair { client: Http::H1, .. } => assert_eq!(status, 200),
        Pair { client: Http::H2, .. } => assert!(status >= 500, "{status}"),
    }
}

fn a_route_that_does_not_allow_it_says_403(pair: Pair) {
    let origin = echo_origin();
    let gateway = Gateway::start(&config(pair, origin.addr(), ""));
    assert_eq!(upgrade(pair, &gateway).expect_err("no tunnel"), 403);
    assert_eq!(origin.connections(), 0);
}

fn a_silent_tunnel_ends(pair: Pair) {
    let origin = echo_origin();
    let gateway =
        Gateway::start(&config(pair, origin.addr(), "websocket = { idle_timeout = '400ms' }\ntimeout = '100ms'"));
    let mut socket = open(pair, &gateway);
    let start = Instant::now();
    // Longer than both timeouts, and never silent: the route's timeout was for the answer.
    while start.elapsed() < Duration::from_millis(800) {
        round_trip(&mut socket, Message::text("still here"));
    }
    let silent = Instant::now();
    assert!(socket.read().is_err(), "the tunnel should end");
    let took = silent.elapsed();
    assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(9), "took {took:?}");
}

fn a_tunnel_outlives_a_reload(pair: Pair) {
    let origin = echo_origin();
    let mut gateway = start(pair, &origin);
    let mut socket = open(pair, &gateway);
    round_trip(&mut socket, Message::text("before"));
    gateway.reload(&Config::new().listener("web", "").route("all", "respond = { status = 200, body = 'new' }"));
    assert_eq!(gateway.get("/").text(), "new");
    round_trip(&mut socket, Message::text("after"));
    assert_eq!(origin.connections(), 1);
}

fn a_tunnel_is_drained_last(pair: Pair) {
    let origin = echo_origin();
    let config = config(pair, origin.addr(), "websocket = true").gateway("drain_timeout = '1500ms'");
    let mut gateway = Gateway::start(&config);
    let addr = gateway.addr("web");
    let mut socket = open(pair, &gateway);
    round_trip(&mut socket, Message::text("before"));
    let start = Instant::now();
    gateway.terminate();
    wait::until_true("new connections to be refused", || gateway_tests::stream::Stream::connect(addr).is_err());
    round_trip(&mut socket, Message::text("while draining"));
    assert!(gateway.process.exited().is_none());
    assert!(gateway.wait_exit(Duration::from_secs(10)).success());
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(1400) && took < Duration::from_secs(6), "took {took:?}");
    assert!(socket.read().is_err());
}

#[test]
fn tungstenite_shakes_hands_on_both_sides() {
    let origin = Script::start(|conn| {
        let mut socket = tungstenite::accept(conn.into_stream()).expect("a handshake");
        assert_eq!(socket.read().expect("a message"), Message::text("hello"));
        socket.send(Message::text("welcome")).expect("an open tunnel");
        while socket.read().is_ok() {}
    });
    let gateway = start(Pair { client: Http::H1, origin: Http::H1 }, &origin);
    let stream = gateway_tests::stream::Stream::connect(gateway.addr("web")).expect("a connection");
    let (mut socket, response) = tungstenite::client("ws://test.example/chat", stream).expect("a handshake");
    assert_eq!(response.status(), 101);
    socket.send(Message::text("hello")).expect("an open tunnel");
    assert_eq!(socket.read().expect("an answer"), Message::text("welcome"));
    socket.close(None).expect("an open tunnel");
    while socket.read().is_ok() {}
    origin.wait_finished(1);
}

/// How long an origin listens for bytes that must not come.
const SILENCE: Duration = Duration::from_millis(300);

/// An origin that answers one handshake with 403, and expects no byte behind it before or after.
fn refusing_after_silence() -> Script {
    Script::start(|mut conn| {
        conn.head().expect("a request");
        conn.patience(SILENCE);
        assert_eq!(conn.head(), Err(ReadError::TimedOut), "bytes before the 101");
        conn.send("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno");
        let more = conn.head();
        assert!(more.is_err(), "a request that nobody routed: {more:?}");
    })
}

#[test]
fn cve_2026_2833_no_byte_reaches_the_origin_before_its_101() {
    let origin = refusing_after_silence();
    let pair = Pair { client: Http::H1, origin: Http::H1 };
    let config = config(pair, origin.addr(), "websocket = true")
        .route("admin", "match = { path_prefix = '/admin' }\nrespond = { status = 401 }");
    let gateway = Gateway::start(&config);
    let mut client = gateway.connect();
    client.send(request("GET", "/chat", UPGRADE) + &request("GET", "/admin", ""));
    assert_eq!(client.response().status, 403);
    // What followed is closed upon, or a request like any other; never the origin's.
    assert!(matches!(client.try_response_to("GET"), Ok(Response { status: 401, .. }) | Err(ReadError::Closed)));
    origin.wait_finished(1);
}

#[test]
fn data_behind_an_extended_connect_waits_for_the_origin() {
    let origin = refusing_after_silence();
    let gateway = start(Pair { client: Http::H2, origin: Http::H1 }, &origin);
    let client = Client::connect(gateway.addr("web"));
    let stream = client.connection.open(&extended_connect("websocket", "/chat"), false);
    stream.send_data(b"GET /admin HTTP/1.1\r\nhost: a\r\n\r\n", false);
    let Ok(Event::Fields(fields)) = stream.next() else { panic!("no answer") };
    assert_eq!(fields[0].1, "403");
    origin.wait_finished(1);
}

fn no_client_gets_a_tunnel_to(origin: &Script, http: Http) {
    for client in [Http::H1, Http::H2] {
        let pair = Pair { client, origin: http };
        let gateway = start(pair, origin);
        let status = upgrade(pair, &gateway).expect_err("no tunnel");
        assert!(status >= 500, "{status}");
    }
}

#[test]
fn an_origin_that_cannot_prove_its_101_is_not_believed() {
    for accept in ["sec-websocket-accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n", ""] {
        let origin = Script::start(move |mut conn| {
            conn.head().expect("a request");
            conn.send(format!(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n{accept}\r\n"
            ));
            let _ = conn.head();
        });
        no_client_gets_a_tunnel_to(&origin, Http::H1);
    }
}

/// Each is sent with a request behind it that only the gateway may see.
#[test]
fn what_only_looks_like_an_upgrade_opens_no_tunnel() {
    let cases = [
        ("connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n", "no key"),
        (
            "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 7\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            "a version that does not exist",
        ),
        (
            "connection: Upgrade\r\nupgrade: websocket, h2c\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            "two protocols",
        ),
        (
            "connection: Upgrade\r\nupgrade: websocket\r\nupgrade: h2c\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            "two fields",
        ),
        (
            "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\ncontent-length: 5\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            "a body",
        ),
        (
            "upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            "not named by connection",
        ),
        ("connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n", "h2c"),
    ];
    for (fields, what) in cases {
        // Answers 426 to whatever asks for an upgrade, and tells what it was asked.
        let origin = Script::start(move |mut conn| {
            while let Ok(head) = conn.head() {
                assert_eq!(head.target(), "/chat", "{what}: a request that nobody routed");
                assert_eq!(head.header("upgrade"), None, "{what}: {head:?}");
                let body = head.framing(gateway_tests::conn::Framing::Empty);
                conn.body(body, &mut |_| ()).expect("the body");
                conn.send("HTTP/1.1 426 Upgrade Required\r\ncontent-length: 0\r\n\r\n");
            }
        });
        let pair = Pair { client: Http::H1, origin: Http::H1 };
        let config = config(pair, origin.addr(), "websocket = true")
            .route("admin", "match = { path_prefix = '/admin' }\nrespond = { status = 401 }");
        let gateway = Gateway::start(&config);
        let mut client = gateway.connect();
        client.send(request("GET", "/chat", fields));
        if fields.contains("content-length") {
            client.send("hello");
        }
        client.try_send(request("GET", "/admin", ""));
        let status = client.response().status;
        assert!(matches!(status, 400 | 403 | 426 | 501), "{what}: {status}");
        let next = client.try_response_to("GET");
        assert!(matches!(next, Ok(Response { status: 401, .. }) | Err(_)), "{what}: {next:?}");
    }
}

#[test]
fn connect_over_http2_is_for_websockets_only() {
    let origin = echo_origin();
    let gateway = start(Pair { client: Http::H2, origin: Http::H1 }, &origin);
    let client = Client::connect(gateway.addr("web"));
    let plain = [(":method", "CONNECT"), (":authority", "inner.test:22")];
    let other = extended_connect("connect-udp", "/chat");
    for fields in [&plain[..], &other] {
        let stream = client.connection.open(fields, false);
        match stream.next().expect("an answer") {
            Event::Fields(answer) => {
                assert!(matches!(answer[0].1.as_str(), "400" | "403" | "405" | "501"), "{answer:?}")
            }
            Event::Reset(code) => assert_eq!(code, 1, "PROTOCOL_ERROR"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(origin.connections(), 0);
    let settings = gateway_tests::h2::frame::setting::ENABLE_CONNECT_PROTOCOL;
    assert_eq!(client.connection.peer_setting(settings), Some(1), "RFC 8441 §3");
}

#[test]
fn an_origin_without_extended_connect_is_not_asked() {
    let origin = Script::start(|conn| {
        let options = Options { extended_connect: false, ..Options::default() };
        let connection = Connection::server(conn.into_stream(), options);
        assert!(connection.accept().is_none(), "a request that the origin cannot take");
    });
    no_client_gets_a_tunnel_to(&origin, Http::H2);
}

#[test]
fn a_client_that_leaves_during_the_handshake_is_noticed() {
    for client in [Http::H1, Http::H2] {
        let origin = Script::start(|mut conn| {
            conn.head().expect("a handshake");
            conn.end();
        });
        let gateway = start(Pair { client, origin: Http::H1 }, &origin);
        let opened = || origin.open() == 1;
        if client == Http::H1 {
            let mut conn = gateway.connect();
            conn.send(request("GET", "/chat", UPGRADE));
            wait::until_true("the handshake to reach the origin", opened);
            conn.reset();
        } else {
            let client = Client::connect(gateway.addr("web"));
            let stream = client.connection.open(&extended_connect("websocket", "/chat"), false);
            wait::until_true("the handshake to reach the origin", opened);
            stream.reset(8);
        }
        let start = Instant::now();
        origin.wait_finished(1);
        assert!(start.elapsed() < Duration::from_secs(5), "only the route's timeout ended it");
    }
}

#[test]
fn a_client_of_http2_that_leaves_after_its_last_word_is_noticed() {
    for http in [Http::H1, Http::H2] {
        let (heard, hears) = mpsc::channel();
        let (over, is_over) = mpsc::channel::<()>();
        let is_over = Mutex::new(is_over);
        // Hears all, and neither answers nor ends its direction.
        let origin = Script::start(move |conn| {
            websocket::serve(conn, &|_, mut tunnel| {
                tunnel.read_to_end(&mut Vec::new()).expect("the client's end");
                heard.send(()).expect("a test that waits");
                let _ = is_over.lock().unwrap().recv();
            });
        });
        let gateway = start(Pair { client: Http::H2, origin: http }, &origin);
        let mut tunnel = websocket::connect(Http::H2, gateway.addr("web"), "/chat").expect("a tunnel");
        tunnel.half_close();
        hears.recv().expect("the origin hears the end");
        let active = || gateway.metrics().sum("gateway_listener_requests_active", &[("listener", "web")]);
        assert_eq!(active(), 1.0);
        drop(tunnel);
        wait::until_true("the tunnel to end", || active() == 0.0);
        drop(over);
    }
}
