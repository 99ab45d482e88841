//! The load generator against the bench's own origin, without a proxy between them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use gateway_bench::load::engine::Engine;
use gateway_bench::load::{Exchange, Life, Pace, Plan};
use gateway_bench::origin::{Origin, SMALL};

fn plan(target: SocketAddr, exchange: Exchange) -> Plan {
    Plan {
        target,
        tls: None,
        connections: 2,
        pace: Pace::Once { at_once: 2 },
        exchange: Arc::new(exchange),
        life: Life::KeepAlive,
        patience: Duration::from_secs(10),
    }
}

fn request(line: &str, body: u64) -> Exchange {
    Exchange::Http {
        head: format!("{line} HTTP/1.1\r\nhost: test\r\ncontent-length: {body}\r\n\r\n").into_bytes(),
        body,
    }
}

fn echo(opening: Option<&str>, message: &[u8], answer: u64) -> Exchange {
    Exchange::Echo { opening: opening.map(|text| text.as_bytes().to_vec()), message: message.to_vec(), answer }
}

#[test]
fn load_and_origin_understand_each_other() {
    const HANDSHAKE: &str = "GET / HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let origin = Origin::start().unwrap();
    let frame = [0x82, 0x83, 1, 2, 3, 4, b'a', b'b', b'c'];
    let cases = [
        ("small", origin.http, request("GET /", 0), SMALL),
        ("a long answer", origin.http, request("GET /bytes/3000000", 0), 3_000_000),
        ("a long request", origin.http, request("POST /", 3_000_000), 3_000_000 + SMALL),
        ("TCP", origin.tcp, echo(None, b"hello", 5), 5),
        ("a WebSocket", origin.http, echo(Some(HANDSHAKE), &frame, 5), 5),
    ];
    for (name, target, exchange, bytes) in cases {
        let outcome = Engine::new(plan(target, exchange)).unwrap().run(Duration::ZERO).unwrap();
        assert_eq!((outcome.done, outcome.failed, outcome.bytes), (2, 0, 2 * bytes), "{name}: {:?}", outcome.why);
    }
}

#[test]
fn a_stall_counts_for_every_request_that_was_due_meanwhile() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut stall = Duration::from_millis(300);
        while stream.read(&mut [0; 1024]).is_ok_and(|count| count > 0) {
            thread::sleep(std::mem::take(&mut stall));
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
        }
    });
    let plan = Plan { connections: 1, pace: Pace::Open { per_second: 100.0 }, ..plan(target, request("GET /", 0)) };
    let mut engine = Engine::new(plan).unwrap();
    let mut outcome = engine.run(Duration::from_millis(500)).unwrap();
    outcome.add(engine.drain().unwrap());
    // One request was stalled for 300 ms; those due in that time waited for it, 100 ms and more for 20 of them.
    let slow = outcome.latency.count_between(100_000_000, u64::MAX);
    assert!((15..=45).contains(&slow), "{slow} of {} took more than 100 ms", outcome.done);
    assert_eq!((outcome.failed, outcome.unanswered), (0, 0), "{:?}", outcome.why);
}
