//! What it costs to watch an HTTP/2 client: `cargo bench -p gateway-bench --bench h2_meter`.

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use gateway::proto::h2_meter::FrameMeter;

fn main() {
    divan::main();
}

/// Requests of a HEADERS frame of 60 bytes, thirty-two in one read, each answered.
#[divan::bench]
fn requests(bencher: Bencher<'_, '_>) {
    const COUNT: u32 = 32;
    let mut meter = FrameMeter::new(false, 0);
    let (mut stream, mut now_ms) = (1, 0);
    let bytes: Vec<u8> = (0..COUNT).flat_map(|_| frame(1, 5, &[0x82; 60])).collect();
    bencher.counter(ItemsCount::new(COUNT)).bench_local(move || {
        let mut bytes = bytes.clone();
        for head in bytes.chunks_mut(9 + 60) {
            head[5..9].copy_from_slice(&u32::to_be_bytes(stream));
            stream = (stream + 2) & (i32::MAX as u32);
        }
        now_ms += 1;
        // Past the last id, streams are old and the meter says so; that costs the same.
        let verdict = meter.feed(black_box(&bytes), now_ms);
        (0..COUNT).for_each(|_| meter.answered());
        verdict.is_ok()
    });
}

/// An upload, or tiny messages: what a read of 16 KiB costs.
#[divan::bench(args = [16_384 - 9, 1_000, 20])]
fn data(bencher: Bencher<'_, '_>, payload: usize) {
    let mut meter = FrameMeter::new(false, 0);
    let bytes: Vec<u8> = frame(0, 0, &vec![1; payload]).into_iter().cycle().take(16_384).collect();
    let whole = bytes.len() - bytes.len() % (9 + payload);
    bencher.counter(BytesCount::new(whole)).bench_local(move || meter.feed(black_box(&bytes[..whole]), 0).is_ok());
}

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
}
