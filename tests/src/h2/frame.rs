//! Frames as they are on the wire (RFC 9113 §4.1, §6). Kinds, flags and codes are plain numbers: tests send wrong ones.

/// A frame, whatever it says.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// One of [`kind`], or not.
    pub kind: u8,
    /// A union of [`flag`]s.
    pub flags: u8,
    /// 0 is the connection.
    pub stream: u32,
    /// What follows the nine bytes of its head.
    pub payload: Vec<u8>,
}

/// Kinds of frames.
#[expect(missing_docs, reason = "the names are those of RFC 9113 §6")]
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames.
#[expect(missing_docs, reason = "the names are those of RFC 9113 §6")]
pub mod flag {
    pub const ACK: u8 = 1;
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    pub const PRIORITY: u8 = 32;
}

/// Error codes.
#[expect(missing_docs, reason = "the names are those of RFC 9113 §7")]
pub mod code {
    pub const NO_ERROR: u32 = 0;
    pub const PROTOCOL_ERROR: u32 = 1;
    pub const INTERNAL_ERROR: u32 = 2;
    pub const FLOW_CONTROL_ERROR: u32 = 3;
    pub const STREAM_CLOSED: u32 = 5;
    pub const FRAME_SIZE_ERROR: u32 = 6;
    pub const REFUSED_STREAM: u32 = 7;
    pub const CANCEL: u32 = 8;
    pub const COMPRESSION_ERROR: u32 = 9;
    pub const CONNECT_ERROR: u32 = 10;
    pub const ENHANCE_YOUR_CALM: u32 = 11;
    pub const HTTP_1_1_REQUIRED: u32 = 13;
}

/// Settings.
#[expect(missing_docs, reason = "the names are those of RFC 9113 §6.5.2 and RFC 8441 §3")]
pub mod setting {
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
    pub const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

impl Frame {
    /// Any frame.
    pub fn new(kind: u8, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) -> Frame {
        Frame { kind, flags, stream, payload: payload.into() }
    }

    /// DATA
    pub fn data(stream: u32, bytes: &[u8], end: bool) -> Frame {
        Frame::new(kind::DATA, if end { flag::END_STREAM } else { 0 }, stream, bytes)
    }

    /// HEADERS with the whole block.
    pub fn headers(stream: u32, block: &[u8], end: bool) -> Frame {
        let end = if end { flag::END_STREAM } else { 0 };
        Frame::new(kind::HEADERS, flag::END_HEADERS | end, stream, block)
    }

    /// RST_STREAM
    pub fn rst_stream(stream: u32, code: u32) -> Frame {
        Frame::new(kind::RST_STREAM, 0, stream, code.to_be_bytes())
    }

    /// SETTINGS
    pub fn settings(settings: &[(u16, u32)]) -> Frame {
        let pairs = settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat());
        Frame::new(kind::SETTINGS, 0, 0, pairs.collect::<Vec<u8>>())
    }

    /// SETTINGS with ACK.
    pub fn settings_ack() -> Frame {
        Frame::new(kind::SETTINGS, flag::ACK, 0, [])
    }

    /// PING
    pub fn ping(data: [u8; 8]) -> Frame {
        Frame::new(kind::PING, 0, 0, data)
    }

    /// GOAWAY
    pub fn goaway(last: u32, code: u32) -> Frame {
        Frame::new(kind::GOAWAY, 0, 0, [last.to_be_bytes(), code.to_be_bytes()].concat())
    }

    /// WINDOW_UPDATE
    pub fn window_update(stream: u32, increment: u32) -> Frame {
        Frame::new(kind::WINDOW_UPDATE, 0, stream, increment.to_be_bytes())
    }

    /// Whether it has `flag`.
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The big-endian number at `at` in the payload.
    ///
    /// # Panics
    /// When the payload ends before it.
    pub fn number(&self, at: usize) -> u32 {
        let bytes = self.payload.get(at..at + 4).unwrap_or_else(|| panic!("{self:?} is too short"));
        u32::from_be_bytes(bytes.try_into().expect("four bytes"))
    }

    /// The settings it carries.
    pub fn pairs(&self) -> Vec<(u16, u32)> {
        let pair = |at: &[u8]| (u16::from_be_bytes([at[0], at[1]]), u32::from_be_bytes([at[2], at[3], at[4], at[5]]));
        self.payload.chunks_exact(6).map(pair).collect()
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let length = (self.payload.len() as u32).to_be_bytes();
        let head = [&length[1..], &[self.kind, self.flags], &self.stream.to_be_bytes()].concat();
        [head.as_slice(), &self.payload].concat()
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = ["DATA", "HEADERS", "PRIORITY", "RST_STREAM", "SETTINGS", "PUSH_PROMISE", "PING", "GOAWAY"];
        let names = [&names[..], &["WINDOW_UPDATE", "CONTINUATION"]].concat();
        let name = names.get(usize::from(self.kind)).copied().unwrap_or("unknown");
        let shown = &self.payload[..self.payload.len().min(64)];
        let Frame { kind, flags, stream, payload } = self;
        write!(f, "{name}({kind}) flags {flags:#x} stream {stream}, {} bytes: {}", payload.len(), shown.escape_ascii())
    }
}
