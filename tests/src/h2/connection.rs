//! A well-behaved peer: a thread reads frames and keeps the books, anybody writes.

use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use super::frame::{Frame, flag, kind, setting};
use super::hpack::{Fields, encode};
use super::wire::{PREFACE, Wire, block_of};
use crate::conn::ReadError;
use crate::stream::Stream as Socket;
use crate::wait::DEADLINE;

/// Most bytes of a frame that we send and that we take: what RFC 9113 §6.5.2 begins with.
const FRAME_MAX: usize = 16_384;

/// What a peer says of itself, and how it behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// `SETTINGS_INITIAL_WINDOW_SIZE`: what a stream may receive before somebody takes it.
    pub stream_window: u32,
    /// What all streams together may; at least 65 535, with which every connection begins.
    pub connection_window: u32,
    /// `SETTINGS_MAX_CONCURRENT_STREAMS`; `None` says nothing.
    pub max_concurrent_streams: Option<u32>,
    /// `SETTINGS_ENABLE_CONNECT_PROTOCOL` (RFC 8441).
    pub extended_connect: bool,
    /// How long it waits for anything.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            stream_window: 1 << 20,
            connection_window: 4 << 20,
            max_concurrent_streams: None,
            extended_connect: true,
            patience: DEADLINE,
        }
    }
}

/// A connection. Dropping it closes the socket.
#[derive(Debug)]
pub struct Connection(Arc<Shared>);

/// One stream of a connection, from our end.
#[derive(Clone, Debug)]
pub struct Stream {
    shared: Arc<Shared>,
    /// Its number.
    pub id: u32,
}

/// What a stream receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A HEADERS frame: head, 1xx head or trailers.
    Fields(Fields),
    /// A DATA frame that is not empty.
    Data(Vec<u8>),
    /// END_STREAM
    End,
    /// RST_STREAM with this code.
    Reset(u32),
}

#[derive(Debug)]
struct Shared {
    options: Options,
    is_client: bool,
    writer: Mutex<Writer>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct Writer {
    socket: Socket,
    next_id: u32,
}

#[derive(Debug)]
struct State {
    streams: HashMap<u32, StreamState>,
    /// Streams that the peer opened and nobody has taken.
    opened: VecDeque<u32>,
    /// The highest stream that the peer opened.
    last_id: u32,
    /// Streams that were open at once, at most, of those that the peer opened.
    most_at_once: usize,
    peer: HashMap<u16, u32>,
    settings_acked: bool,
    send_window: i64,
    receive_window: i64,
    goaways: Vec<(u32, u32)>,
    pongs: u64,
    /// Why nothing more comes.
    ended: Option<ReadError>,
}

#[derive(Debug)]
struct StreamState {
    events: VecDeque<Event>,
    send_window: i64,
    receive_window: i64,
    /// Taken by the application and not yet given back with WINDOW_UPDATE.
    taken: u32,
    remote_open: bool,
    local_open: bool,
}

impl Connection {
    /// The client's end: sends the preface, and waits for the server's settings.
    pub fn client(socket: Socket, options: Options) -> Connection {
        let connection = Connection::start(socket, options, true);
        connection.0.wait("the server's SETTINGS", |state| (!state.peer.is_empty()).then_some(()));
        connection
    }

    /// The server's end.
    pub fn server(socket: Socket, options: Options) -> Connection {
        Connection::start(socket, options, false)
    }

    fn start(mut socket: Socket, options: Options, is_client: bool) -> Connection {
        // Whether somebody has waited too long is decided where he waits.
        socket.tcp().set_read_timeout(None).expect("no read timeout");
        let mut hello = if is_client { PREFACE.to_vec() } else { Vec::new() };
        hello.extend(Frame::settings(&options.settings(is_client)).encode());
        if options.connection_window > 65_535 {
            hello.extend(Frame::window_update(0, options.connection_window - 65_535).encode());
        }
        // A peer that is gone already is noticed by the reader.
        let _ = socket.write_all(&hello);
        let state = State::new(&options);
        let shared = Arc::new(Shared {
            is_client,
            writer: Mutex::new(Writer { socket: socket.clone(), next_id: 1 }),
            state: Mutex::new(state),
            changed: Condvar::new(),
            options,
        });
        std::thread::spawn({
            let shared = shared.clone();
            move || shared.read(Wire::new(socket))
        });
        Connection(shared)
    }

    /// Opens a stream.
    ///
    /// # Panics
    /// When the connection is gone.
    pub fn open(&self, fields: &[(&str, &str)], end: bool) -> Stream {
        self.try_open(fields, end).expect("the peer closed the connection before a request")
    }

    /// Opens a stream; `None` when the connection is gone.
    pub fn try_open(&self, fields: &[(&str, &str)], end: bool) -> Option<Stream> {
        let mut writer = self.0.writer.lock().unwrap();
        let id = writer.next_id;
        writer.next_id += 2;
        self.0.state().add(id, &self.0.options, !end);
        let sent = writer.socket.write_all(&block(id, &encode(fields), end)).is_ok();
        sent.then(|| Stream { shared: self.0.clone(), id })
    }

    /// The next stream that the peer opens, and its head. `None` when the connection has ended.
    pub fn accept(&self) -> Option<(Stream, Fields)> {
        let mut state = self.0.state();
        loop {
            if let Some(id) = state.opened.pop_front() {
                let Some(Event::Fields(head)) = state.stream(id).events.pop_front() else {
                    panic!("stream {id} began without a head")
                };
                return Some((Stream { shared: self.0.clone(), id }, head));
            }
            if state.ended.is_some() {
                return None;
            }
            state = self.0.changed.wait(state).unwrap();
        }
    }

    /// Sends any frame, past all the books.
    pub fn send(&self, frame: &Frame) -> bool {
        self.0.send(frame)
    }

    /// The peer's value of a setting; `None` when it has not said one.
    pub fn peer_setting(&self, id: u16) -> Option<u32> {
        self.0.state().peer.get(&id).copied()
    }

    /// Waits until the peer has sent `count` GOAWAYs: last stream and code of each.
    pub fn wait_goaways(&self, count: usize) -> Vec<(u32, u32)> {
        self.0.wait("GOAWAY", |state| (state.goaways.len() >= count).then(|| state.goaways.clone()))
    }

    /// Waits until the peer has closed the connection.
    pub fn wait_end(&self) {
        self.0.wait_for("the connection's end", |state| state.ended.is_some().then_some(()));
    }

    /// Whether the connection has ended.
    pub fn has_ended(&self) -> bool {
        self.0.state().ended.is_some()
    }

    /// A PING that comes back: everything sent before it has been read.
    pub fn round_trip(&self) {
        let before = self.0.state().pongs;
        self.send(&Frame::ping(*b"roundtri"));
        self.0.wait("an answer to PING", |state| (state.pongs > before).then_some(()));
    }

    /// Streams of the peer's that were open at once, at most.
    pub fn most_at_once(&self) -> usize {
        self.0.state().most_at_once
    }

    /// Our end's address.
    pub fn local_addr(&self) -> std::net::SocketAddr {
        self.0.writer.lock().unwrap().socket.tcp().local_addr().expect("a local address")
    }

    /// Closes the socket.
    pub fn close(&self) {
        self.0.writer.lock().unwrap().socket.cut();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close();
    }
}

impl Stream {
    /// The next thing that the stream receives. Taking data makes room for more.
    pub fn next(&self) -> Result<Event, ReadError> {
        let event = self.shared.try_wait(|state| {
            let ended = state.ended.clone();
            let event = state.stream(self.id).events.pop_front();
            event.map(Ok).or_else(|| ended.map(Err))
        })??;
        if let Event::Data(bytes) = &event {
            self.give_back(bytes.len() as u32);
        }
        Ok(event)
    }

    /// Whether nothing has come that was not taken.
    pub fn is_idle(&self) -> bool {
        let mut state = self.shared.state();
        state.ended.is_none() && state.stream(self.id).events.is_empty()
    }

    /// Sends HEADERS: a head, or trailers.
    pub fn send_fields(&self, fields: &[(&str, &str)], end: bool) -> bool {
        self.end_if(end);
        let mut writer = self.shared.writer.lock().unwrap();
        writer.socket.write_all(&block(self.id, &encode(fields), end)).is_ok()
    }

    /// Sends DATA, as fast as the peer's windows allow. `false` when the stream or the connection is gone, or nothing may
    /// be sent within the patience.
    pub fn send_data(&self, bytes: &[u8], end: bool) -> bool {
        let mut rest = bytes;
        loop {
            let Ok(Some(room)) = self.shared.try_wait(|state| state.room(self.id, rest.len())) else { return false };
            let (now, later) = rest.split_at(room);
            let last = end && later.is_empty();
            self.end_if(last);
            if !self.shared.send(&Frame::data(self.id, now, last)) {
                return false;
            }
            if later.is_empty() {
                return true;
            }
            rest = later;
        }
    }

    /// How many bytes the peer's windows let us send now.
    pub fn room(&self) -> i64 {
        let mut state = self.shared.state();
        let window = state.send_window;
        window.min(state.stream(self.id).send_window)
    }

    /// Sends RST_STREAM.
    pub fn reset(&self, code: u32) -> bool {
        self.end_if(true);
        self.shared.state().stream(self.id).remote_open = false;
        self.shared.send(&Frame::rst_stream(self.id, code))
    }

    /// The peer's setting; see [`Connection::peer_setting`].
    pub fn peer_setting(&self, id: u16) -> Option<u32> {
        self.shared.state().peer.get(&id).copied()
    }

    fn end_if(&self, end: bool) {
        if end {
            self.shared.state().stream(self.id).local_open = false;
        }
    }

    /// Tells the peer that it may send as much as was taken, when it is worth a frame.
    fn give_back(&self, count: u32) {
        let mut state = self.shared.state();
        let stream = state.stream(self.id);
        stream.taken += count;
        if stream.taken < self.shared.options.stream_window / 2 && stream.remote_open {
            return;
        }
        let given = std::mem::take(&mut stream.taken);
        stream.receive_window += i64::from(given);
        let open = stream.remote_open;
        state.receive_window += i64::from(given);
        drop(state);
        self.shared.send(&Frame::window_update(0, given));
        if open {
            self.shared.send(&Frame::window_update(self.id, given));
        }
    }
}

impl Options {
    fn settings(&self, is_client: bool) -> Vec<(u16, u32)> {
        let mut settings = vec![(setting::INITIAL_WINDOW_SIZE, self.stream_window)];
        settings.extend(self.max_concurrent_streams.map(|most| (setting::MAX_CONCURRENT_STREAMS, most)));
        if is_client {
            settings.push((setting::ENABLE_PUSH, 0));
        } else if self.extended_connect {
            settings.push((setting::ENABLE_CONNECT_PROTOCOL, 1));
        }
        settings
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn send(&self, frame: &Frame) -> bool {
        self.writer.lock().unwrap().socket.write_all(&frame.encode()).is_ok()
    }

    fn try_wait<T>(&self, mut probe: impl FnMut(&mut State) -> Option<T>) -> Result<T, ReadError> {
        let deadline = std::time::Instant::now() + self.options.patience;
        let mut state = self.state();
        loop {
            if let Some(found) = probe(&mut state) {
                return Ok(found);
            }
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return Err(ReadError::TimedOut);
            }
            state = self.changed.wait_timeout(state, left).unwrap().0;
        }
    }

    fn wait_for<T>(&self, what: &str, probe: impl FnMut(&mut State) -> Option<T>) -> T {
        self.try_wait(probe).unwrap_or_else(|e| panic!("waited in vain for {what}: {e:?}"))
    }

    /// The same, and panics as soon as the connection ends.
    fn wait<T>(&self, what: &str, mut probe: impl FnMut(&mut State) -> Option<T>) -> T {
        self.wait_for(what, |state| {
            let found = probe(state);
            assert!(found.is_some() || state.ended.is_none(), "waited in vain for {what}: {:?}", state.ended);
            found
        })
    }

    /// Reads to the connection's end.
    fn read(&self, mut wire: Wire) {
        let preface = if self.is_client { Ok(()) } else { wire.try_preface() };
        let mut end = preface.err();
        while end.is_none() {
            end = wire.try_frame().and_then(|frame| self.take(&mut wire, frame)).err();
        }
        self.state().ended = end;
        self.changed.notify_all();
    }

    /// Enters a frame into the books.
    fn take(&self, wire: &mut Wire, frame: Frame) -> Result<(), ReadError> {
        require(frame.payload.len() <= FRAME_MAX, || format!("too long: {frame:?}"))?;
        match (frame.kind, frame.has(flag::ACK)) {
            (kind::SETTINGS, false) => {
                self.state().set(&frame.pairs());
                self.send(&Frame::settings_ack());
            }
            (kind::SETTINGS, true) => self.state().settings_acked = true,
            (kind::PING, false) => _ = self.send(&Frame::new(kind::PING, flag::ACK, 0, frame.payload)),
            (kind::PING, true) => self.state().pongs += 1,
            (kind::GOAWAY, _) => self.state().goaways.push((frame.number(0), frame.number(4))),
            (kind::WINDOW_UPDATE, _) => self.state().widen(&frame),
            (kind::HEADERS, _) => self.take_headers(wire, &frame)?,
            (kind::DATA, _) => self.state().take_data(&frame)?,
            (kind::RST_STREAM, _) => self.state().push(frame.stream, Event::Reset(frame.number(0))),
            (kind::PRIORITY, _) => {}
            _ => return Err(ReadError::Malformed(format!("unexpected {frame:?}"))),
        }
        self.changed.notify_all();
        Ok(())
    }

    fn take_headers(&self, wire: &mut Wire, frame: &Frame) -> Result<(), ReadError> {
        let fields = wire.decode(frame);
        let mut state = self.state();
        let known = state.streams.contains_key(&frame.stream);
        check_fields(&fields, !self.is_client && !known).map_err(|e| malformed(&e, &fields))?;
        if !known {
            let expected = !self.is_client && frame.stream % 2 == 1 && frame.stream > state.last_id;
            require(expected, || format!("a stream that cannot begin: {frame:?}"))?;
            state.last_id = frame.stream;
            state.add(frame.stream, &self.options, true);
            state.opened.push_back(frame.stream);
            let open = state.streams.values().filter(|s| s.local_open || s.remote_open).count();
            state.most_at_once = state.most_at_once.max(open);
        }
        state.push(frame.stream, Event::Fields(fields));
        if frame.has(flag::END_STREAM) {
            state.push(frame.stream, Event::End);
        }
        Ok(())
    }
}

impl State {
    fn new(options: &Options) -> State {
        State {
            streams: HashMap::new(),
            opened: VecDeque::new(),
            last_id: 0,
            most_at_once: 0,
            peer: HashMap::new(),
            settings_acked: false,
            send_window: 65_535,
            receive_window: i64::from(options.connection_window.max(65_535)),
            goaways: Vec::new(),
            pongs: 0,
            ended: None,
        }
    }

    fn add(&mut self, id: u32, options: &Options, local_open: bool) {
        let send_window = i64::from(self.peer.get(&setting::INITIAL_WINDOW_SIZE).copied().unwrap_or(65_535));
        // Until the peer has read our settings it may go by the default.
        let receive_window =
            if self.settings_acked { options.stream_window } else { options.stream_window.max(65_535) };
        let state = StreamState {
            events: VecDeque::new(),
            send_window,
            receive_window: i64::from(receive_window),
            taken: 0,
            remote_open: true,
            local_open,
        };
        self.streams.insert(id, state);
    }

    fn stream(&mut self, id: u32) -> &mut StreamState {
        self.streams.get_mut(&id).expect("a stream of this connection")
    }

    fn set(&mut self, pairs: &[(u16, u32)]) {
        for &(id, value) in pairs {
            let before = self.peer.insert(id, value);
            if id == setting::INITIAL_WINDOW_SIZE {
                let change = i64::from(value) - i64::from(before.unwrap_or(65_535));
                self.streams.values_mut().for_each(|stream| stream.send_window += change);
            }
        }
        // So that "has said nothing yet" can be told from "has said that all is as usual".
        self.peer.entry(0).or_default();
    }

    fn widen(&mut self, frame: &Frame) {
        let increment = i64::from(frame.number(0));
        if frame.stream == 0 {
            self.send_window += increment;
        } else if let Some(stream) = self.streams.get_mut(&frame.stream) {
            stream.send_window += increment;
        }
    }

    /// Takes up to `most` bytes from the windows. `None`: none are free. `Some(None)`: nothing may be sent any more.
    fn room(&mut self, id: u32, most: usize) -> Option<Option<usize>> {
        let ended = self.ended.is_some();
        let connection = self.send_window;
        let stream = self.stream(id);
        if ended || !stream.local_open {
            return Some(None);
        }
        let room = (most.min(FRAME_MAX) as i64).min(connection).min(stream.send_window);
        if room <= 0 && most > 0 {
            return None;
        }
        stream.send_window -= room;
        self.send_window -= room;
        Some(Some(room as usize))
    }

    fn take_data(&mut self, frame: &Frame) -> Result<(), ReadError> {
        let length = frame.payload.len() as i64;
        self.receive_window -= length;
        require(self.receive_window >= 0, || format!("past the connection's window: {frame:?}"))?;
        let stream = self.streams.get_mut(&frame.stream).ok_or_else(|| malformed("DATA before HEADERS", frame))?;
        stream.receive_window -= length;
        require(stream.receive_window >= 0, || format!("past the stream's window: {frame:?}"))?;
        let data = block_of(frame);
        if !data.is_empty() {
            self.push(frame.stream, Event::Data(data));
        }
        if frame.has(flag::END_STREAM) {
            self.push(frame.stream, Event::End);
        }
        Ok(())
    }

    fn push(&mut self, id: u32, event: Event) {
        // A stream that we do not know: the peer resets what it never answered.
        let Some(stream) = self.streams.get_mut(&id) else { return };
        match event {
            Event::End => stream.remote_open = false,
            Event::Reset(_) => (stream.remote_open, stream.local_open) = (false, false),
            Event::Fields(_) | Event::Data(_) => {}
        }
        stream.events.push_back(event);
    }
}

/// HEADERS, and CONTINUATIONs where one frame does not hold the block.
fn block(id: u32, block: &[u8], end: bool) -> Vec<u8> {
    let mut pieces = block.chunks(FRAME_MAX).peekable();
    let mut frames = Vec::new();
    let (mut kind, mut flags) = (kind::HEADERS, if end { flag::END_STREAM } else { 0 });
    loop {
        let piece = pieces.next().unwrap_or_default();
        let last = if pieces.peek().is_none() { flag::END_HEADERS } else { 0 };
        frames.extend(Frame::new(kind, flags | last, id, piece).encode());
        if last != 0 {
            return frames;
        }
        (kind, flags) = (kind::CONTINUATION, 0);
    }
}

/// What a sender must not let through (RFC 9113 §8.2, §8.3).
fn check_fields(fields: &Fields, is_request: bool) -> Result<(), String> {
    let mut regular = false;
    for (name, value) in fields {
        let pseudo = name.starts_with(':');
        if pseudo && regular || name.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(format!("the field {name:?}"));
        }
        regular |= !pseudo;
        let hop = ["connection", "transfer-encoding", "keep-alive", "proxy-connection", "upgrade"];
        if hop.contains(&name.as_str()) || name == "te" && value != "trailers" {
            return Err(format!("the connection's field {name:?}"));
        }
    }
    let count = |name: &str| fields.iter().filter(|(n, _)| n == name).count();
    let connect = fields.iter().any(|(n, v)| n == ":method" && v == "CONNECT") && count(":protocol") == 0;
    let parts = if connect { [1, 0, 0] } else { [1, 1, 1] };
    if is_request && [count(":method"), count(":scheme"), count(":path")] != parts {
        return Err("its pseudo-fields".into());
    }
    Ok(())
}

fn require(holds: bool, what: impl FnOnce() -> String) -> Result<(), ReadError> {
    if holds { Ok(()) } else { Err(ReadError::Malformed(what())) }
}

fn malformed(what: &str, where_: impl std::fmt::Debug) -> ReadError {
    ReadError::Malformed(format!("{what} of {where_:?}"))
}
