//! Limits what an HTTP/2 client may ask for without asking for anything: a scanner of frame headers over the plaintext
//! that a connection receives, which keeps two budgets.
//!
//! HTTP/2 has many frames that cost the server work and bring no request forward. Each known flood is made of them, and
//! each has been answered by a counter of its own in every server. Here they all draw on one budget of *frames*, and
//! what makes the gateway throw away a request it has begun draws on one of *streams*:
//!
//! | frame | costs | answers |
//! |---|---|---|
//! | PING | [`CHEAP`] | CVE-2019-9512, ping flood |
//! | SETTINGS | [`SETTINGS_COST`]; an acknowledgement [`CHEAP`] | CVE-2019-9515, settings flood |
//! | RST_STREAM of a stream older than [`YOUNG_MS`] | [`CHEAP`] | CVE-2019-9514, reset flood |
//! | CONTINUATION, small and not the last | [`DEAR`] | CVE-2024-27316, CVE-2024-30255, CVE-2019-9518 |
//! | CONTINUATION else | [`CHEAP`] | the same |
//! | DATA without bytes, not the last | [`DEAR`] | CVE-2019-9518, empty frames |
//! | DATA of less than [`TINY_DATA`] bytes, or without bytes and the last | [`CHEAP`] | floods of small DATA |
//! | WINDOW_UPDATE | [`WINDOW_UPDATE_COST`] | CVE-2019-9511, -9517, dribbled windows |
//! | PRIORITY, unknown ones | [`CHEAP`] | CVE-2019-9513, resource loop |
//! | PUSH_PROMISE, GOAWAY | [`DEAR`] | a client sends one GOAWAY |
//! | other DATA, HEADERS that open a stream | nothing | flow control and `max_concurrent_streams` bound them |
//! | RST_STREAM of a younger stream | [`DEAR`] of streams | CVE-2023-44487, rapid reset |
//! | HEADERS for a stream opened before, or without bytes | [`DEAR`] of streams | CVE-2019-9514, -9516, CVE-2025-8671 |
//! | WINDOW_UPDATE by 0 or by more than [`WINDOW_INCREMENT`] | [`DEAR`] of streams | CVE-2025-8671, MadeYouReset |
//!
//! Time fills both, up to [`BUDGET`], by [`REFILL_PER_MS`]. A new stream adds [`STREAM_CREDIT`] to frames, and each frame
//! of an answer [`SENT_CREDIT`]; the head of an answer adds [`DEAR`] to streams: a request that was answered was none in
//! vain.
//!
//! # Why no honest client trips it
//!
//! - gRPC clients measure the bandwidth with a PING for received DATA, one under way at a time, and open windows for it:
//!   never more than one PING and two WINDOW_UPDATE per frame of ours, which [`SENT_CREDIT`] pays.
//! - Streams of tiny gRPC messages are free: a message has at least five bytes ([`TINY_DATA`]), however many there are.
//! - A call that times out costs a RST_STREAM and perhaps an empty last DATA; its HEADERS paid for both. Only a reset
//!   within [`YOUNG_MS`] of the request costs more: a browser that leaves a page cancels a hundred requests at most, few
//!   of them that young, and could do so five times over on a full budget.
//! - A stream that is reset once its answer has begun, and one that ends with trailers, is paid by the answer.
//!
//! # What it leaves to the `h2` crate
//!
//! It knows no stream's state, so it cannot tell which frame makes the gateway reset a stream; `h2` counts those resets
//! (`max_local_error_reset_streams`). It does not decode header blocks; `h2` limits their size.

use std::fmt;

/// Either budget, and what a connection begins with. What an attacker gets for it is worth a few milliseconds of one
/// core; an honest client in its busiest second stays below a quarter.
pub const BUDGET: i32 = 5_000;

/// Refill of either by time: a thousand cheap frames a second, about a thousandth of a core, and a hundred streams.
pub const REFILL_PER_MS: i32 = 1;

/// For HEADERS that open a stream: for the two frames that end it without an answer, an empty DATA and a RST_STREAM.
pub const STREAM_CREDIT: i32 = 2;

/// For a HEADERS or DATA frame that the gateway sends: a PING and a WINDOW_UPDATE each for stream and connection.
pub const SENT_CREDIT: i32 = 5;

/// A longer write counts as several frames: the smallest that a client may demand (RFC 9113 §4.2), and the default.
pub const SENT_FRAME_BYTES: usize = 1 << 14;

/// A frame that is parsed, and answered with a frame at most.
pub const CHEAP: i32 = 1;

/// A frame that honest clients send hardly ever, or that makes the gateway throw work away. A full budget allows five
/// hundred rapid resets, then a hundred a second besides answered requests; Envoy ends a connection at five hundred in
/// all.
pub const DEAR: i32 = 10;

/// Changes the state of all streams. Clients send one or two, and up to eight more while a window grows by doubling.
pub const SETTINGS_COST: i32 = 50;

/// May wake a stream. [`SENT_CREDIT`] pays two per frame sent; Envoy allows ten.
pub const WINDOW_UPDATE_COST: i32 = 2;

/// An increment that makes any window overflow that another such increment has widened. libcurl and Go open windows by
/// up to this.
pub const WINDOW_INCREMENT: u32 = 1 << 30;

/// DATA with fewer bytes is cheaper to send than to receive. A gRPC message begins with five bytes (flag and length), a
/// WebSocket frame of a client has six at least.
pub const TINY_DATA: u32 = 5;

/// Part of a header block that is worth a frame. Clients fill frames (16 KiB) and leave a rest in the last one.
pub const CONTINUATION_BYTES: u32 = 1024;

/// A stream that lives longer is bounded by `max_concurrent_streams`: 128 of them every 20 ms are 6 400 requests a
/// second, as many as a client may have answered. The age is known to within as much again, so a deadline of 40 ms is long
/// enough even where every call passes it.
pub const YOUNG_MS: u64 = 20;

/// A client's budgets.
#[derive(Clone, Debug)]
pub struct FrameMeter {
    frames: Budget,
    streams: Budget,
    /// Until when time has refilled them.
    refilled_ms: u64,
    /// Bytes to pass over: of a payload, or of the preface.
    skip: u32,
    /// The beginning of a frame that was cut.
    held: [u8; FrameHead::LEN_MAX],
    held_len: usize,
    /// The highest stream opened.
    newest: u32,
    /// The same when the current period of [`YOUNG_MS`] began, and when the one before it began. Streams up to the
    /// latter are old.
    newest_before: [u32; 2],
    period_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Budget(i32);

/// The client has overdrawn a budget: the connection ends with ENHANCE_YOUR_CALM (RFC 9113 §10.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flood {
    /// The frame that was one too many.
    pub frame: &'static str,
}

// === impl FrameMeter ===

impl FrameMeter {
    /// For a connection whose bytes come from now on; `preface` says whether the client's preface is the first of them.
    pub fn new(preface: bool, now_ms: u64) -> FrameMeter {
        FrameMeter {
            frames: Budget(BUDGET),
            streams: Budget(BUDGET),
            refilled_ms: now_ms,
            skip: if preface { PREFACE_LEN } else { 0 },
            held: [0; FrameHead::LEN_MAX],
            held_len: 0,
            newest: 0,
            newest_before: [0; 2],
            period_ms: now_ms,
        }
    }

    /// Takes what the connection received, cut anywhere. An error stays one until time has paid for it.
    pub fn feed(&mut self, bytes: &[u8], now_ms: u64) -> Result<(), Flood> {
        self.pass_time(now_ms);
        let mut rest = bytes;
        loop {
            let skipped = rest.len().min(self.skip as usize);
            self.skip -= skipped as u32;
            rest = &rest[skipped..];
            let Some(frame) = self.next_head(&mut rest) else { return Ok(()) };
            self.skip = frame.length - frame.seen;
            self.charge(&frame)?;
        }
    }

    /// The gateway sends the head of an answer.
    pub fn answered(&mut self) {
        self.frames.earn(SENT_CREDIT);
        self.streams.earn(DEAR);
    }

    /// The gateway sends DATA of so many bytes.
    pub fn sent_data(&mut self, bytes: usize) {
        // No more than fills the budget, so that nothing overflows.
        let frames = (1 + bytes / SENT_FRAME_BYTES).min(BUDGET as usize) as i32;
        self.frames.earn(frames * SENT_CREDIT);
    }

    fn pass_time(&mut self, now_ms: u64) {
        let passed = now_ms.saturating_sub(self.refilled_ms).min(BUDGET as u64) as i32;
        self.frames.earn(passed * REFILL_PER_MS);
        self.streams.earn(passed * REFILL_PER_MS);
        self.refilled_ms = now_ms.max(self.refilled_ms);
        match now_ms.saturating_sub(self.period_ms) / YOUNG_MS {
            0 => return,
            1 => self.newest_before = [self.newest_before[1], self.newest],
            _ => self.newest_before = [self.newest; 2],
        }
        self.period_ms = now_ms;
    }

    /// The next frame's head, once it is whole; what is there of it is kept.
    fn next_head(&mut self, rest: &mut &[u8]) -> Option<FrameHead> {
        if self.held_len == 0
            && let Some(frame) = FrameHead::read(rest)
        {
            *rest = &rest[frame.bytes()..];
            return Some(frame);
        }
        let held = self.held_len;
        let count = rest.len().min(FrameHead::LEN_MAX - held);
        self.held[held..held + count].copy_from_slice(&rest[..count]);
        let Some(frame) = FrameHead::read(&self.held[..held + count]) else {
            self.held_len += count;
            *rest = &[];
            return None;
        };
        *rest = &rest[frame.bytes() - held..];
        self.held_len = 0;
        Some(frame)
    }

    fn charge(&mut self, frame: &FrameHead) -> Result<(), Flood> {
        let is_new = frame.kind == HEADERS && frame.stream > self.newest;
        if is_new {
            self.newest = frame.stream;
            self.frames.earn(STREAM_CREDIT);
        }
        let wastes_stream = match frame.kind {
            HEADERS => !is_new || frame.length == 0,
            RST_STREAM => frame.stream > self.newest_before[0],
            WINDOW_UPDATE => !(1..=WINDOW_INCREMENT).contains(&frame.increment()),
            _ => false,
        };
        let pays = if wastes_stream { self.streams.spend(DEAR) } else { self.frames.spend(frame.cost()) };
        if pays { Ok(()) } else { Err(Flood { frame: frame.name() }) }
    }
}

// === impl Budget ===

impl Budget {
    fn earn(&mut self, credit: i32) {
        self.0 = (self.0 + credit).min(BUDGET);
    }

    /// Whether that was there. One that is overdrawn stays so until it has earned again, but sinks no deeper: nothing
    /// overflows.
    fn spend(&mut self, cost: i32) -> bool {
        self.0 = (self.0 - cost).max(-1);
        self.0 >= 0
    }
}

/// `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n` (RFC 9113 §3.4).
const PREFACE_LEN: u32 = 24;

// Frame types and flags of RFC 9113 §6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;

/// A frame's header (RFC 9113 §4.1) and the part of its payload that the price depends on.
struct FrameHead {
    length: u32,
    kind: u8,
    flags: u8,
    stream: u32,
    /// Beginning of the payload: the increment of a WINDOW_UPDATE, the padding of DATA.
    payload: [u8; 4],
    /// How much of the payload that is.
    seen: u32,
}

// === impl FrameHead ===

impl FrameHead {
    const LEN: usize = 9;
    const LEN_MAX: usize = FrameHead::LEN + 4;

    /// `None` when more bytes are needed.
    fn read(bytes: &[u8]) -> Option<FrameHead> {
        let (header, rest) = bytes.split_first_chunk::<{ FrameHead::LEN }>()?;
        let [a, b, c, kind, flags, stream @ ..] = *header;
        let length = u32::from_be_bytes([0, a, b, c]);
        let seen = match kind {
            WINDOW_UPDATE => length.min(4),
            DATA if flags & PADDED != 0 => length.min(1),
            _ => 0,
        };
        let mut payload = [0; 4];
        payload[..seen as usize].copy_from_slice(rest.get(..seen as usize)?);
        let stream = u32::from_be_bytes(stream) & !(1 << 31);
        Some(FrameHead { length, kind, flags, stream, payload, seen })
    }

    /// Bytes that were read.
    fn bytes(&self) -> usize {
        FrameHead::LEN + self.seen as usize
    }

    fn increment(&self) -> u32 {
        u32::from_be_bytes(self.payload) & !(1 << 31)
    }

    /// What it costs of the budget of frames.
    fn cost(&self) -> i32 {
        match self.kind {
            DATA => self.data_cost(),
            HEADERS => 0,
            PUSH_PROMISE | GOAWAY => DEAR,
            SETTINGS if self.flags & ACK == 0 => SETTINGS_COST,
            WINDOW_UPDATE => WINDOW_UPDATE_COST,
            CONTINUATION if self.flags & END_HEADERS == 0 && self.length < CONTINUATION_BYTES => DEAR,
            _ => CHEAP,
        }
    }

    fn data_cost(&self) -> i32 {
        let padding = if self.flags & PADDED != 0 { 1 + u32::from(self.payload[0]) } else { 0 };
        match self.length.saturating_sub(padding) {
            0 if self.flags & END_STREAM == 0 => DEAR,
            bytes if bytes < TINY_DATA => CHEAP,
            _ => 0,
        }
    }

    fn name(&self) -> &'static str {
        match self.kind {
            DATA => "DATA",
            HEADERS => "HEADERS",
            PRIORITY => "PRIORITY",
            RST_STREAM => "RST_STREAM",
            SETTINGS => "SETTINGS",
            PUSH_PROMISE => "PUSH_PROMISE",
            PING => "PING",
            GOAWAY => "GOAWAY",
            WINDOW_UPDATE => "WINDOW_UPDATE",
            CONTINUATION => "CONTINUATION",
            _ => "unknown",
        }
    }
}

// === impl Flood ===

impl fmt::Display for Flood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the client sent too many HTTP/2 frames that ask for nothing, the last one {}", self.frame)
    }
}

impl std::error::Error for Flood {}

#[cfg(test)]
mod tests;
