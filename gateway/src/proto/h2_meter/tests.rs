use proptest::prelude::*;

use super::*;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn headers(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &[0x82; 30])
}

fn data(stream: u32, bytes: usize) -> Vec<u8> {
    frame(DATA, 0, stream, &vec![1; bytes])
}

fn end(stream: u32) -> Vec<u8> {
    frame(DATA, END_STREAM, stream, &[])
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])
}

fn ping() -> Vec<u8> {
    frame(PING, 0, 0, &[0; 8])
}

fn settings() -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])
}

fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

/// The `n`th stream of a client, from 0.
fn id(n: u32) -> u32 {
    2 * n + 1
}

/// How many rounds pass in one instant.
fn rounds(round: impl Fn(u32) -> Vec<u8>) -> u32 {
    let mut meter = FrameMeter::new(false, 0);
    (0..100_000).take_while(|&n| meter.feed(&round(n), 0).is_ok()).count() as u32
}

#[test]
fn each_flood_ends() {
    let (cheap, dear) = ((BUDGET / CHEAP) as u32, (BUDGET / DEAR) as u32);
    type Round = fn(u32) -> Vec<u8>;
    let floods: &[(&str, u32, Round)] = &[
        ("CVE-2019-9512 PING", cheap, |_| ping()),
        ("PING acknowledgements", cheap, |_| frame(PING, ACK, 0, &[0; 8])),
        ("CVE-2019-9515 SETTINGS", 100, |_| settings()),
        ("CVE-2019-9515 empty SETTINGS", 100, |_| frame(SETTINGS, 0, 0, &[])),
        ("SETTINGS acknowledgements", cheap, |_| frame(SETTINGS, ACK, 0, &[])),
        ("CVE-2023-44487 rapid reset", dear, |n| [headers(id(n)), reset(id(n))].concat()),
        ("CVE-2019-9514 RST_STREAM of idle streams", dear, |n| reset(id(n))),
        ("CVE-2019-9514 HEADERS for one stream", dear + 1, |_| headers(1)),
        ("CVE-2019-9516 HEADERS without bytes", dear, |n| frame(HEADERS, END_HEADERS, id(n), &[])),
        ("CVE-2024-27316 CONTINUATION without bytes", dear, |_| frame(CONTINUATION, 0, 1, &[])),
        ("CVE-2024-27316 CONTINUATION", cheap, |_| frame(CONTINUATION, 0, 1, &[0; 1024])),
        ("CVE-2019-9518 DATA without bytes", dear, |_| data(1, 0)),
        ("CVE-2019-9518 DATA of padding", dear, |_| frame(DATA, PADDED, 1, &[9; 10])),
        ("CVE-2019-9518 DATA of broken padding", dear, |_| frame(DATA, PADDED, 1, &[255; 10])),
        ("DATA of a byte", cheap, |_| data(1, 1)),
        ("DATA that ends a stream again and again", cheap, |_| end(1)),
        ("CVE-2025-8671 WINDOW_UPDATE by 0", dear, |_| window_update(1, 0)),
        ("CVE-2025-8671 WINDOW_UPDATE by 0, reserved bit", dear, |_| window_update(1, 1 << 31)),
        ("CVE-2025-8671 WINDOW_UPDATE that overflows", dear, |n| {
            [headers(id(n)), window_update(id(n), i32::MAX as u32)].concat()
        }),
        ("CVE-2025-8671 WINDOW_UPDATE cut short", dear, |_| frame(WINDOW_UPDATE, 0, 1, &[])),
        ("CVE-2019-9511 WINDOW_UPDATE by 1", cheap / 2, |_| window_update(1, 1)),
        ("CVE-2019-9513 PRIORITY", cheap, |_| frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
        ("unknown frames", cheap, |_| frame(0xbb, 0, 0, &[])),
        ("PUSH_PROMISE", dear, |_| frame(PUSH_PROMISE, 0, 1, &[0; 4])),
        ("GOAWAY", dear, |_| frame(GOAWAY, 0, 0, &[0; 8])),
    ];
    for (what, expected, round) in floods {
        assert_eq!(rounds(round), *expected, "{what}");
    }
}

#[test]
fn a_flood_is_named_and_stays_one_until_time_has_paid() {
    let mut meter = FrameMeter::new(false, 0);
    let flood = meter.feed(&ping().repeat(10_000), 0).unwrap_err();
    assert_eq!(flood, Flood { frame: "PING" });
    assert!(flood.to_string().ends_with("PING"));
    assert!(meter.feed(&ping(), 0).is_err());
    assert!(meter.feed(&ping(), 2).is_ok());
}

#[test]
fn data_that_is_sent_does_not_pay_for_rapid_resets() {
    let mut meter = FrameMeter::new(false, 0);
    let rapid = (0..100_000).take_while(|&n| {
        meter.sent_data(1 << 20);
        meter.feed(&[headers(id(n)), reset(id(n))].concat(), 0).is_ok()
    });
    assert_eq!(rapid.count() as i32, BUDGET / DEAR);
}

#[test]
fn resets_of_old_streams_are_cheap_and_of_young_ones_dear() {
    for (age_ms, cost) in [(0, DEAR), (YOUNG_MS - 1, DEAR), (2 * YOUNG_MS, CHEAP), (1_000_000, CHEAP)] {
        let mut meter = FrameMeter::new(false, 0);
        // One more each millisecond, so that the period goes on.
        let opened_ms = 500;
        (0..=opened_ms).for_each(|ms| meter.feed(&headers(id(ms as u32)), ms).unwrap());
        meter.feed(&[], opened_ms + age_ms).unwrap();
        assert_eq!((meter.frames, meter.streams), (Budget(BUDGET), Budget(BUDGET)));
        meter.feed(&reset(id(opened_ms as u32)), opened_ms + age_ms).unwrap();
        assert_eq!(2 * BUDGET - meter.frames.0 - meter.streams.0, cost, "{age_ms} ms");
    }
}

/// A client that does its thing, and how deep it dips into its budget.
struct Client {
    meter: FrameMeter,
    lowest: i32,
    now_ms: u64,
}

impl Client {
    fn new() -> Client {
        let mut client = Client { meter: FrameMeter::new(true, 0), lowest: BUDGET, now_ms: 0 };
        client.sends(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), settings(), window_update(0, 1 << 30)]);
        client.sends(&[frame(SETTINGS, ACK, 0, &[])]);
        client
    }

    fn sends(&mut self, frames: &[Vec<u8>]) {
        for frame in frames {
            self.meter.feed(frame, self.now_ms).expect("an honest client");
            self.lowest = self.lowest.min(self.meter.frames.0).min(self.meter.streams.0);
        }
    }

    fn gets_answer(&mut self) {
        self.meter.answered();
        self.meter.sent_data(100);
    }

    #[track_caller]
    fn used_at_most(&self, share: i32) {
        let used = BUDGET - self.lowest;
        assert!(used <= BUDGET / share, "{used} of {BUDGET}");
    }
}

const A_QUARTER: i32 = 4;

#[test]
fn grpc_streams_of_tiny_messages_are_free() {
    let mut client = Client::new();
    client.sends(&[headers(1)]);
    for n in 0..200_000 {
        client.sends(&[data(1, 5 + n % 46)]);
    }
    client.used_at_most(A_QUARTER);
}

#[test]
fn grpc_pings_and_windows_are_paid_by_what_they_answer() {
    let mut client = Client::new();
    client.sends(&[headers(1)]);
    for _ in 0..100_000 {
        client.meter.sent_data(100);
        client.sends(&[ping(), window_update(1, 16_384), window_update(0, 16_384)]);
    }
    client.used_at_most(A_QUARTER);
}

#[test]
fn a_long_write_pays_for_the_windows_of_all_its_frames() {
    let mut client = Client::new();
    client.sends(&[headers(1)]);
    for _ in 0..10_000 {
        client.meter.sent_data(1 << 20);
        (0..64).for_each(|_| client.sends(&[window_update(1, 16_384), window_update(0, 16_384)]));
    }
    client.used_at_most(A_QUARTER);
}

#[test]
fn grpc_calls_and_first_answers_of_streams_cost_nothing() {
    let mut client = Client::new();
    for n in 0..100_000 {
        client.sends(&[headers(id(n)), data(id(n), 12), end(id(n))]);
        client.gets_answer();
        client.sends(&[ping(), window_update(0, 100), reset(id(n))]);
    }
    client.used_at_most(A_QUARTER);
}

#[test]
fn calls_that_all_time_out_cost_nothing() {
    let mut client = Client::new();
    for round in 0..1_000 {
        let calls = (round * 128..).map(id).take(128);
        calls.clone().for_each(|call| client.sends(&[headers(call), data(call, 12), end(call)]));
        client.now_ms += 2 * YOUNG_MS;
        calls.for_each(|call| client.sends(&[reset(call)]));
    }
    client.used_at_most(A_QUARTER);
}

#[test]
fn a_browser_may_leave_a_page_as_soon_as_it_has_asked_for_it() {
    let mut client = Client::new();
    for page in 0..100 {
        let images = (page * 100..).map(id).take(100);
        let priority_update = || frame(0x10, 0, 0, b"\0\0\0\x01u=3");
        images.clone().for_each(|image| client.sends(&[headers(image), priority_update()]));
        images.for_each(|image| client.sends(&[reset(image)]));
        client.now_ms += 1_000;
    }
    client.used_at_most(A_QUARTER);
}

#[test]
fn curl_widens_each_stream_and_uploads_end_with_trailers() {
    let mut client = Client::new();
    for n in 0..100_000 {
        client.sends(&[headers(id(n)), window_update(id(n), 1_048_510_465), data(id(n), 10_000), headers(id(n))]);
        client.gets_answer();
    }
    client.used_at_most(A_QUARTER);
}

#[test]
fn heads_of_several_frames_are_paid_by_their_answers() {
    let mut client = Client::new();
    for n in 0..100 {
        let first = frame(HEADERS, 0, id(n), &[0; 16_384]);
        let middle = frame(CONTINUATION, 0, id(n), &[0; 16_384]);
        client.sends(&[first, middle, frame(CONTINUATION, END_HEADERS, id(n), &[0; 3])]);
        client.gets_answer();
    }
    client.used_at_most(A_QUARTER);
}

proptest! {
    #[test]
    fn how_the_bytes_are_cut_does_not_matter(
        frames in prop::collection::vec((0..11u8, any::<u8>(), 0..9u32, prop::collection::vec(any::<u8>(), 0..20)), 0..60),
        pieces in prop::collection::vec(0..30usize, 0..60),
        preface: bool,
    ) {
        let mut wire = if preface { vec![0; PREFACE_LEN as usize] } else { Vec::new() };
        let mut frame_by_frame = FrameMeter::new(false, 0);
        for (kind, flags, stream, payload) in frames {
            let bytes = frame(kind, flags, stream, &payload);
            let _ = frame_by_frame.feed(&bytes, 0);
            wire.extend_from_slice(&bytes);
        }
        let mut meter = FrameMeter::new(preface, 0);
        let mut rest = wire.as_slice();
        for piece in pieces {
            let (piece, after) = rest.split_at(piece.min(rest.len()));
            let _ = meter.feed(piece, 0);
            rest = after;
        }
        let _ = meter.feed(rest, 0);
        prop_assert_eq!((meter.frames, meter.streams), (frame_by_frame.frames, frame_by_frame.streams));
        prop_assert_eq!(meter.newest, frame_by_frame.newest);
    }
}
