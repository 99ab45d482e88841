//! HTTP/2 clients that ask for much and pay little: each known flood ends its connection after a bounded number of frames,
//! in bounded memory, and others are served meanwhile.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use gateway_tests::h2::frame::{code, flag, kind, setting};
use gateway_tests::h2::{Client, Connection, Frame, Options, Wire, encode, fields};
use gateway_tests::origin::{Served, serve};
use gateway_tests::pattern;
use gateway_tests::prelude::*;

const MIB: u64 = 1 << 20;

/// What a flood may add to the gateway's memory.
const FLOOD_GROWTH_MAX: u64 = 16 * MIB;

/// What 1 000 streams against peers that have stopped may add. Measured with two workers, twice: 50 to 66 MiB for answers,
/// 65 to 74 MiB for bodies to an origin. A worker's large buffers are 16 MiB of it; above that a stream waits with small
/// ones.
const STALL_GROWTH_MAX: u64 = 96 * MIB;

/// Repetitions after which a flood must be over. Envoy's limits are of the same order (10 000 control frames, 500 resets).
const REPETITIONS_MAX: u32 = 60_000;

/// The codes of a gateway that has had enough, or that takes the flood for the violation that some are.
const CALM: &[u32] = &[code::ENHANCE_YOUR_CALM];
const CALM_OR_VIOLATION: &[u32] = &[
    code::ENHANCE_YOUR_CALM,
    code::PROTOCOL_ERROR,
    code::STREAM_CLOSED,
    code::FRAME_SIZE_ERROR,
    code::FLOW_CONTROL_ERROR,
    code::COMPRESSION_ERROR,
];

fn get(stream: u32, path: &str) -> Frame {
    Frame::headers(stream, &encode(&fields("GET", "http", path, &[])), true)
}

fn post(stream: u32) -> Frame {
    Frame::headers(stream, &encode(&fields("POST", "http", "/hold", &[])), false)
}

/// The stream of repetition `n`.
fn id(n: u32) -> u32 {
    2 * n + 1
}

/// Sends `first`, then `attack(n)` again and again until the gateway ends the connection, which it must do with one of
/// `codes`.
fn flood(first: &[Frame], attack: impl Fn(u32) -> Vec<Frame>, codes: &[u32]) {
    let origin = Origin::start("a");
    let gateway = Gateway::in_front_of(origin.addr());
    let bystander = Client::connect(gateway.addr("web"));
    assert_eq!(bystander.get("/").text(), "a");
    let before = gateway.process.rss();

    let mut wire = Wire::connect(gateway.addr("web"), &[]);
    let mut out = wire.stream.clone();
    // Somebody has to read, lest the flood's answers stop the flood.
    let over = Arc::new(AtomicBool::new(false));
    let is_over = over.clone();
    let reader = thread::spawn(move || {
        let mut said = None;
        loop {
            match wire.try_frame() {
                Ok(frame) if frame.kind == kind::GOAWAY => {
                    said = Some(frame.number(4));
                    is_over.store(true, SeqCst);
                }
                Ok(_) => {}
                Err(ReadError::TimedOut) => panic!("the gateway neither answers nor ends the connection"),
                Err(_) => return said,
            }
        }
    });
    let first: Vec<u8> = first.iter().flat_map(Frame::encode).collect();
    let mut alive = out.write_all(&first).is_ok();
    let mut repetitions = 0;
    while alive && repetitions < REPETITIONS_MAX && !over.load(SeqCst) {
        // Twenty in a packet, as an attacker would.
        let packet: Vec<u8> =
            (repetitions..repetitions + 20).flat_map(&attack).flat_map(|frame| frame.encode()).collect();
        alive = out.write_all(&packet).is_ok();
        repetitions += 20;
        if repetitions.is_multiple_of(2_000) {
            assert_eq!(bystander.get("/").text(), "a", "others are served meanwhile");
        }
    }
    // The gateway need not read what comes behind its decision, which sockets hold.
    let said = reader.join().expect("the reader");
    let fits = said.is_some_and(|code| codes.contains(&code));
    assert!(fits, "GOAWAY {said:?} in place of one of {codes:?} after {repetitions} repetitions");
    assert_eq!(bystander.get("/").text(), "a", "others are served afterwards");
    let growth = gateway.process.peak_rss().saturating_sub(before);
    assert!(growth < FLOOD_GROWTH_MAX, "the flood took {} MiB", growth / MIB);
    origin.release();
}

#[test]
fn cve_2023_44487_rapid_reset() {
    flood(&[], |n| vec![get(id(n), "/"), Frame::rst_stream(id(n), code::CANCEL)], CALM);
}

#[test]
fn cve_2025_8671_made_you_reset_by_a_window_update_of_nothing() {
    flood(&[], |n| vec![get(id(n), "/"), Frame::window_update(id(n), 0)], CALM_OR_VIOLATION);
}

#[test]
fn cve_2025_8671_made_you_reset_by_an_overflowing_window() {
    let huge = 0x7FFF_FFFF;
    flood(&[], |n| vec![get(id(n), "/"), Frame::window_update(id(n), huge)], CALM_OR_VIOLATION);
}

#[test]
fn cve_2025_8671_made_you_reset_by_data_after_the_end() {
    flood(&[], |n| vec![get(id(n), "/"), Frame::data(id(n), b"x", true)], CALM_OR_VIOLATION);
}

#[test]
fn cve_2025_8671_made_you_reset_by_headers_after_the_end() {
    flood(&[], |n| vec![get(id(n), "/"), get(id(n), "/")], CALM_OR_VIOLATION);
}

#[test]
fn cve_2025_8671_made_you_reset_by_a_wrong_content_length() {
    let wrong = |stream| {
        let head = fields("POST", "http", "/", &[("content-length", "5")]);
        vec![Frame::headers(stream, &encode(&head), false), Frame::data(stream, b"123456", true)]
    };
    flood(&[], |n| wrong(id(n)), CALM_OR_VIOLATION);
}

/// A block that never ends.
fn unended(block: &[u8]) -> Frame {
    Frame::new(kind::HEADERS, flag::END_STREAM, 1, block)
}

#[test]
fn cve_2024_27316_continuation_flood_of_nothing() {
    let first = encode(&fields("GET", "http", "/", &[]));
    flood(&[unended(&first)], |_| vec![Frame::new(kind::CONTINUATION, 0, 1, [])], CALM_OR_VIOLATION);
}

#[test]
fn cve_2024_27316_continuation_flood_of_fields() {
    let first = encode(&fields("GET", "http", "/", &[]));
    let more = encode(&[("x-more", "v".repeat(8_000))]);
    flood(&[unended(&first)], move |_| vec![Frame::new(kind::CONTINUATION, 0, 1, more.clone())], CALM_OR_VIOLATION);
}

#[test]
fn cve_2019_9518_empty_data() {
    flood(&[post(1)], |_| vec![Frame::data(1, b"", false)], CALM);
}

#[test]
fn cve_2019_9518_data_of_padding() {
    flood(&[post(1)], |_| vec![Frame::new(kind::DATA, flag::PADDED, 1, [3, 0, 0, 0])], CALM);
}

#[test]
fn cve_2019_9516_fields_without_name_and_value() {
    let block = [encode(&fields("GET", "http", "/", &[])), vec![0, 0, 0]].concat();
    flood(&[], move |n| vec![Frame::headers(id(n), &block, true)], CALM_OR_VIOLATION);
}

#[test]
fn cve_2019_9512_ping() {
    flood(&[], |_| vec![Frame::ping(*b"12345678")], CALM);
}

#[test]
fn cve_2019_9515_settings() {
    flood(&[], |n| vec![Frame::settings(&[(setting::INITIAL_WINDOW_SIZE, 1_000 + n)])], CALM);
    flood(&[], |_| vec![Frame::settings(&[])], CALM);
}

#[test]
fn cve_2019_9514_streams_that_must_be_reset() {
    let broken = encode(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), ("UPPER", "case")]);
    flood(&[], move |n| vec![Frame::headers(id(n), &broken, true)], CALM_OR_VIOLATION);
}

#[test]
fn cve_2019_9513_priorities() {
    flood(&[], |_| vec![Frame::new(kind::PRIORITY, 0, 1, [0, 0, 0, 3, 9])], CALM_OR_VIOLATION);
}

#[test]
fn cve_2019_9511_windows_that_drip() {
    flood(&[get(1, "/hold")], |_| vec![Frame::window_update(1, 1)], CALM_OR_VIOLATION);
}

#[test]
fn unknown_frames() {
    flood(&[], |_| vec![Frame::new(0xBB, 0, 0, *b"grease")], CALM_OR_VIOLATION);
}

#[test]
fn data_of_one_byte() {
    flood(&[post(1)], |_| vec![Frame::data(1, b"x", false)], CALM_OR_VIOLATION);
}

/// What becomes of one request whose head is too much: an answer of 431, or a stream or connection that ends.
fn refused(block: &[u8]) {
    let origin = Origin::start("a");
    let gateway = Gateway::in_front_of(origin.addr());
    assert_eq!(Client::connect(gateway.addr("web")).get("/").text(), "a");
    let before = gateway.process.rss();
    let mut wire = Wire::connect(gateway.addr("web"), &[]);
    let mut pieces = block.chunks(16_384).enumerate().peekable();
    while let Some((at, piece)) = pieces.next() {
        let kind = if at == 0 { kind::HEADERS } else { kind::CONTINUATION };
        let last = if pieces.peek().is_none() { flag::END_HEADERS } else { 0 };
        if !wire.try_send(&Frame::new(kind, last | if at == 0 { flag::END_STREAM } else { 0 }, 1, piece)) {
            break;
        }
    }
    loop {
        match wire.try_frame() {
            Ok(frame) if frame.kind == kind::HEADERS => {
                assert_eq!(wire.decode(&frame)[0], (":status".to_owned(), "431".to_owned()));
                break;
            }
            Ok(frame) if matches!(frame.kind, kind::RST_STREAM | kind::GOAWAY) => break,
            Ok(frame) => wire.acknowledge(&frame),
            Err(e) => panic!("neither an answer nor a reset: {e:?}"),
        }
    }
    assert_eq!(origin.requests(), 1, "the origin is not asked");
    assert_eq!(Client::connect(gateway.addr("web")).get("/").text(), "a");
    let growth = gateway.process.peak_rss().saturating_sub(before);
    assert!(growth < FLOOD_GROWTH_MAX, "the head took {} MiB", growth / MIB);
}

/// A request whose field `name: value` enters the dynamic table and is then named `count` times, a byte each.
fn bomb(name: &str, value: &str, count: usize) -> Vec<u8> {
    let mut literal = encode(&[(name, value)]);
    literal[0] = 0x40; // with incremental indexing (RFC 7541 §6.2.1)
    [encode(&fields("GET", "http", "/", &[])), literal, vec![0x80 | 62; count]].concat()
}

#[test]
fn a_head_of_too_many_fields() {
    let names: Vec<String> = (0..1000).map(|i| format!("x-{i}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
    refused(&encode(&fields("GET", "http", "/", &many)));
}

#[test]
fn cve_2026_49975_cookie_crumbs() {
    refused(&bomb("cookie", "a", 1_000));
    refused(&bomb("cookie", "a", 16_000));
}

#[test]
fn cve_2016_6581_a_bomb_of_compressed_fields() {
    refused(&bomb("x", &"v".repeat(4_000), 15_000));
}

#[test]
fn a_head_that_is_too_long() {
    let long = "v".repeat(200_000);
    refused(&encode(&fields("GET", "http", "/", &[("x-long", &long)])));
}

// === 1 000 streams against peers that have stopped ===

/// Connections and streams on each: within the default `max_concurrent_streams`.
const CONNECTIONS: usize = 10;
const STREAMS: usize = 100;

fn gateway_to(addr: std::net::SocketAddr, http: Http) -> Gateway {
    let cluster = format!("protocol = '{}'", http.name());
    let config = Config::new().listener("web", "").cluster("origin", &[addr], &cluster);
    Gateway::start(&config.route("all", "cluster = 'origin'\ntimeout = '0s'"))
}

fn assert_frugal(gateway: &Gateway, before: u64, what: &str) {
    let growth = gateway.process.rss().saturating_sub(before);
    assert!(growth < STALL_GROWTH_MAX, "{what}: 1 000 stalled streams took {} MiB", growth / MIB);
    log(&format!("{what}: {} KiB for 1 000 stalled streams", growth / 1024));
}

#[expect(clippy::print_stderr, reason = "figures that are wanted with --nocapture")]
fn log(line: &str) {
    eprintln!("{line}");
}

/// Clients that ask for long answers and do not take them: `window` is what each stream may receive.
fn downloads_that_nobody_takes(http: Http, window: u32) {
    let origin = Origin::start("a");
    let gateway = gateway_to(origin.addr(), http);
    assert_eq!(Client::connect(gateway.addr("web")).get("/").text(), "a");
    let before = gateway.process.rss();
    let stalled: Vec<Wire> = (0..CONNECTIONS)
        .map(|_| {
            let mut wire = Wire::connect(gateway.addr("web"), &[(setting::INITIAL_WINDOW_SIZE, window)]);
            wire.send(&Frame::window_update(0, 0x7FFF_FFFF - 65_535));
            for n in 0..STREAMS as u32 {
                wire.send(&get(id(n), "/chunked/50000000"));
            }
            wire
        })
        .collect();
    wait::steady("the origin to stop", Duration::from_millis(700), || origin.sent());
    assert_frugal(&gateway, before, &format!("downloads with a window of {window} from {}", http.name()));
    assert_eq!(Client::connect(gateway.addr("web")).get("/").status, 200, "another client is served");
    drop(stalled);
}

#[test]
fn answers_to_closed_windows_wait_at_an_http1_origin() {
    downloads_that_nobody_takes(Http::H1, 0);
}

#[test]
fn answers_to_closed_windows_wait_at_an_http2_origin() {
    downloads_that_nobody_takes(Http::H2, 0);
}

#[test]
fn answers_to_clients_that_do_not_read_wait_at_an_http1_origin() {
    downloads_that_nobody_takes(Http::H1, 0x7FFF_FFFF);
}

#[test]
fn answers_to_clients_that_do_not_read_wait_at_an_http2_origin() {
    downloads_that_nobody_takes(Http::H2, 0x7FFF_FFFF);
}

/// Clients that send long bodies to an origin that takes nothing behind the head.
fn uploads_that_nobody_takes(http: Http) {
    let (go, gate) = mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let stalled = move |served: &mut Served<'_>| {
        if served.head.method() == "GET" {
            served.body(&mut |_| ()).expect("a request");
            served.answer(200, &[], b"a");
        } else {
            // Ends when the test drops its end.
            let _ = gate.lock().unwrap().recv();
        }
    };
    let origin = Script::start(move |conn| serve(conn, &Options::default(), &stalled));
    let gateway = gateway_to(origin.addr(), http);
    assert_eq!(Client::connect(gateway.addr("web")).get("/").text(), "a");
    let before = gateway.process.rss();
    let clients: Vec<Client> = (0..CONNECTIONS).map(|_| Client::connect(gateway.addr("web"))).collect();
    let streams: Vec<_> = clients.iter().flat_map(|c| (0..STREAMS).map(|_| c.start("POST", "/", &[], false))).collect();
    let mut sent = 0;
    wait::steady("the gateway to take no more", Duration::from_millis(700), || {
        for stream in &streams {
            let room = stream.room().clamp(0, 16_384) as usize;
            if room > 0 && stream.send_data(&pattern::bytes(room), false) {
                sent += room;
            }
        }
        sent
    });
    assert_frugal(&gateway, before, &format!("uploads of {} MiB to {}", sent as u64 / MIB, http.name()));
    assert_eq!(Client::connect(gateway.addr("web")).get("/").status, 200, "another client is served");
    drop(clients);
    drop(go);
}

#[test]
fn bodies_wait_at_the_client_for_an_http1_origin() {
    uploads_that_nobody_takes(Http::H1);
}

#[test]
fn bodies_wait_at_the_client_for_an_http2_origin() {
    uploads_that_nobody_takes(Http::H2);
}

#[test]
fn an_origin_that_floods_its_streams_with_1xx_is_survived() {
    let origin = Script::start(|conn| {
        let connection = Connection::server(conn.into_stream(), Options::default());
        while let Some((stream, _)) = connection.accept() {
            // Without end, as far as the gateway lets it.
            let mut count = 0;
            while count < 100_000 && stream.send_fields(&[(":status", "103"), ("x", "y")], false) {
                count += 1;
            }
        }
    });
    let gateway = gateway_to(origin.addr(), Http::H2);
    let before = gateway.process.rss();
    let client = Client::connect(gateway.addr("web"));
    let stream = client.start("GET", "/", &[], true);
    wait::steady("the origin to be done", Duration::from_millis(500), || gateway.process.cpu_times());
    // The h2 crate keeps each until its request has taken it: up to 700 bytes for 15 on the wire.
    let growth = gateway.process.peak_rss().saturating_sub(before);
    assert!(growth < STALL_GROWTH_MAX, "the flood took {} MiB", growth / MIB);
    stream.reset(code::CANCEL);
    client.connection.round_trip();
}
