//! Large streams between plain connections, which the gateway moves without looking at them: nothing is lost or repeated,
//! and afterwards the tunnel is what it was before.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use gateway_tests::conn::Framing;
use gateway_tests::pattern::{self, Checker};
use gateway_tests::prelude::*;
use gateway_tests::websocket;

const LARGE: u64 = 512 << 20;

/// What no system's socket buffers hold: the defaults of the kernel end at 6 MiB for receiving and 4 MiB for sending.
const MORE_THAN_BUFFERS: u64 = 128 << 20;

fn relay_to(origin: SocketAddr, route: &str) -> Gateway {
    let config = Config::new()
        .gateway("workers = 1")
        .listener("pg", "protocol = 'tcp'")
        .cluster("db", &[origin], "")
        .l4_route("db", &format!("cluster = 'db'\n{route}"));
    Gateway::start(&config)
}

fn connect(gateway: &Gateway) -> Conn {
    Conn::connect(gateway.addr("pg"))
}

/// Sends back what comes, until the client says that it sends no more.
fn echo(mut conn: Conn) {
    let mut out = conn.clone_writer();
    let _ = conn.body(Framing::UntilClose, &mut |chunk| _ = out.try_send(chunk));
}

/// Sends `length` bytes of the pattern, as far as the peer takes them, and counts them.
fn send_pattern(out: &mut Conn, length: u64, sent: &AtomicU64) {
    let mut at = 0;
    while at < length {
        let bytes = pattern::slice(at, length - at);
        if !out.try_send(bytes) {
            return;
        }
        at += bytes.len() as u64;
        sent.store(at, Ordering::Relaxed);
    }
}

/// Pipes the gateway has: those to the harness, and those that streams go through.
fn pipes(gateway: &Gateway) -> usize {
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", gateway.process.pid())).expect("the descriptors");
    let links = descriptors.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("pipe:")).count()
}

fn sum(gateway: &Gateway, name: &str) -> f64 {
    gateway.metrics().sum(name, &[("route", "db")])
}

fn flags(gateway: &Gateway, flag: &str) -> f64 {
    gateway.metrics().sum("gateway_listener_response_flags_total", &[("flag", flag)])
}

/// Streams through an echo and checks every byte.
fn stream_both_ways(client: &mut Conn, length: u64) {
    let mut out = client.clone_writer();
    let writer = std::thread::spawn(move || send_pattern(&mut out, length, &AtomicU64::new(0)));
    let mut checker = Checker::default();
    client.body(Framing::Length(length), &mut |chunk| checker.push(chunk)).expect("the whole echo");
    writer.join().expect("the writer");
}

fn talk(client: &mut Conn) {
    for _ in 0..100 {
        client.send("a few words");
        client.expect("a few words");
    }
}

#[test]
fn a_stream_goes_both_ways_at_once_and_small_messages_and_silence_cost_as_little_as_before() {
    let origin = Script::start(echo);
    let gateway = relay_to(origin.addr(), "");
    let before = pipes(&gateway);
    let mut client = connect(&gateway);
    talk(&mut client);
    assert_eq!(pipes(&gateway), before, "small messages are not spliced");
    stream_both_ways(&mut client, LARGE);
    let kept = pipes(&gateway);
    assert!(kept > before, "the stream was not spliced");
    talk(&mut client);

    let cpu = || {
        let (user, system) = gateway.process.cpu_times();
        user + system
    };
    let busy = cpu();
    // The silence is what this test is about: a tunnel that polls in vain would burn all of it.
    std::thread::sleep(Duration::from_secs(1));
    let idle = cpu() - busy;
    assert!(idle < Duration::from_millis(100), "{idle:?} of processor time in a second of silence");

    stream_both_ways(&mut client, 4 << 20);
    client.half_close();
    assert_eq!(client.end(), End::Closed);
    wait::until_true("the connection to be counted", || sum(&gateway, "gateway_l4_route_connections_active") == 0.0);
    let expected = LARGE + (4 << 20) + 2 * 100 * "a few words".len() as u64;
    for name in ["gateway_l4_route_received_bytes_total", "gateway_l4_route_sent_bytes_total"] {
        assert_eq!(sum(&gateway, name), expected as f64, "{name}");
    }
    assert_eq!(gateway.metrics().sum("gateway_listener_response_flags_total", &[]), 0.0);
    assert_eq!(pipes(&gateway), kept, "further streams use the pipes there are");
}

#[test]
fn a_slow_reader_slows_the_writer_down_and_gets_every_byte() {
    let (go, wait_for_go) = mpsc::channel::<()>();
    let (result, received) = mpsc::channel();
    let shared = Mutex::new((wait_for_go, result));
    let origin = Script::start(move |mut conn| {
        let shared = shared.lock().expect("one connection");
        // Begins to read, and then does not.
        let mut checker = Checker::default();
        checker.push(&conn.read_bytes(4 << 20));
        shared.0.recv().expect("the word to go on");
        conn.body(Framing::UntilClose, &mut |chunk| checker.push(chunk)).expect("the rest, and an orderly end");
        conn.send("all of it");
        shared.1.send(checker.len()).expect("the test waits");
    });
    let gateway = relay_to(origin.addr(), "");
    let before = pipes(&gateway);
    let mut client = connect(&gateway);
    let sent = Arc::new(AtomicU64::new(0));
    let writer = std::thread::spawn({
        let (sent, mut out) = (sent.clone(), client.clone_writer());
        move || {
            send_pattern(&mut out, MORE_THAN_BUFFERS, &sent);
            out.half_close();
        }
    });
    let stuck = wait::steady("the writer to be stuck", Duration::from_millis(500), || sent.load(Ordering::Relaxed));
    assert!((4 << 20..MORE_THAN_BUFFERS / 2).contains(&stuck), "{stuck} bytes are under way");
    assert!(pipes(&gateway) > before, "the stream was not spliced");
    go.send(()).expect("the origin waits");
    writer.join().expect("the writer");
    assert_eq!(received.recv_timeout(wait::DEADLINE), Ok(MORE_THAN_BUFFERS));
    // The other direction is still open.
    client.expect("all of it");
    assert_eq!(client.end(), End::Closed);
}

#[test]
fn a_stream_that_stalls_ends_at_the_idle_time_and_its_pipe_is_closed() {
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let origin = Script::start(move |mut conn| {
        conn.read_bytes(4 << 20);
        // Stops reading, until the gateway has given up.
        let _ = held.lock().expect("one connection").recv();
    });
    let gateway = relay_to(origin.addr(), "idle_timeout = '1s'");
    let before = pipes(&gateway);
    let mut client = connect(&gateway);
    send_pattern(&mut client, MORE_THAN_BUFFERS, &AtomicU64::new(0));
    assert_eq!(client.end(), End::Reset);
    wait::until_true("the timeout to be counted", || flags(&gateway, "SI") == 1.0);
    assert_eq!(pipes(&gateway), before, "a pipe with bytes in it must not be used again");
    drop(release);
}

#[test]
fn a_cut_within_a_stream_is_passed_on_either_way() {
    let origin = Script::start(|mut conn| {
        conn.read_bytes(8 << 20);
        conn.reset();
    });
    let gateway = relay_to(origin.addr(), "");
    let fds = gateway.process.fd_count();
    let mut client = connect(&gateway);
    send_pattern(&mut client, MORE_THAN_BUFFERS, &AtomicU64::new(0));
    assert_eq!(client.end(), End::Reset);
    wait::until_true("the origin's reset to be counted", || flags(&gateway, "UC") == 1.0);
    // A pipe that was empty is kept for the next stream.
    gateway.wait_fd_count(fds + 2);

    let (result, ended) = mpsc::channel();
    let result = Mutex::new(result);
    let origin = Script::start(move |mut conn| {
        let mut checker = Checker::default();
        let cut = conn.body(Framing::UntilClose, &mut |chunk| checker.push(chunk)).is_err();
        result.lock().expect("one connection").send(cut && checker.len() <= 64 << 20).expect("the test waits");
    });
    let gateway = relay_to(origin.addr(), "");
    let client = connect(&gateway);
    send_pattern(&mut client.clone_writer(), 64 << 20, &AtomicU64::new(0));
    client.reset();
    assert_eq!(ended.recv_timeout(wait::DEADLINE), Ok(true), "a cut stream looks like a whole one");
    wait::until_true("the client's reset to be counted", || flags(&gateway, "DC") == 1.0);
}

#[test]
fn a_websocket_over_http1_carries_large_messages_and_then_small_ones() {
    use tungstenite::Message;
    let origin = Script::start(|conn| websocket::serve(conn, &|_, tunnel| websocket::echo(tunnel)));
    let config = Config::new()
        .listener("web", "")
        .cluster("ws", &[origin.addr()], "")
        .route("all", "cluster = 'ws'\nwebsocket = true");
    let gateway = Gateway::start(&config);
    let before = pipes(&gateway);
    let tunnel = websocket::connect(Http::H1, gateway.addr("web"), "/").expect("a tunnel");
    let mut socket = tunnel.client();
    for length in [5, 12 << 20, 5, 15 << 20, 0, 1 << 20, 100] {
        let message = Message::binary(pattern::bytes(length));
        socket.send(message.clone()).expect("an open tunnel");
        assert!(socket.read().expect("an answer") == message, "{length} bytes did not come back");
    }
    assert!(pipes(&gateway) > before, "the large messages were not spliced");
}
