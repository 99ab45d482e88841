//! A client's HTTP/1 connection: requests one after another.

use std::io;
use std::time::{Duration, Instant, SystemTime};

use crate::config::model::ListenerLimits;
use crate::http1::{BodyState, Framing, Sink, Source};
use crate::net::{Deadline, Until, now_ms};
use crate::proto::h1::encode::{self, BodyFraming, ResponseFraming};
use crate::proto::h1::parse::{self, HeadLimits, ParsedRequest, RequestError};
use crate::proto::head::{Known, ResponseHead};
use crate::proto::{limits, path, websocket};
use crate::proxy::{
    self, ConnectionCx, Downstream, Ending, Exchange, ProxyError, Request, RequestBody, RequestCx, ResponseSink, Room,
    WorkerCx,
};
use crate::tls::{Reader, Writer};

/// How long a connection keeps the memory of its last request at hand for the next one. A client that is at work asks
/// again within a few round trips; one that does not is silent for seconds, as likely as not.
const READY: Duration = Duration::from_millis(100);

/// Serves requests until the client, the limits or an error end the connection. Dropping it afterwards is its end.
///
/// While it waits for long it holds nothing but the connection: what requests need is a future in a box of its own.
#[expect(clippy::manual_async_fn, reason = "its arguments would have their room twice")]
pub(super) fn serve<'a>(
    worker: &'a WorkerCx,
    connection: &'a ConnectionCx,
    reader: &'a mut Reader,
    writer: &'a mut Writer,
) -> impl Future<Output = ()> + 'a {
    async move {
        let idle = worker.timers.deadline_in(connection.listener.group);
        let mut next = await_request(reader, &idle, connection.listener.idle_timeout(), true).await;
        while next == Next::Request {
            next = Box::pin(serve_busy(worker, connection, reader, writer, &idle)).await;
            if next == Next::Silence {
                // If it is, which is all but sure by now, the last answer's memory is free.
                writer.is_settled();
                let rest = connection.listener.idle_timeout().saturating_sub(READY);
                let _rest = worker.resting.begin();
                next = await_request(reader, &idle, rest, false).await;
            }
        }
        match next {
            // Boxed, so that a connection has no room for its end while it waits.
            Next::Silence | Next::Gone => Box::pin(leave(connection, writer, &idle)).await,
            Next::Request | Next::Ended => {}
        }
    }
}

/// What follows a request on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Another one.
    Request,
    /// Nothing so far.
    Silence,
    /// The client has left.
    Gone,
    /// Nothing: the connection ended with the request.
    Ended,
}

/// Serves requests that follow one another closely.
async fn serve_busy(
    worker: &WorkerCx,
    connection: &ConnectionCx,
    reader: &mut Reader,
    writer: &mut Writer,
    idle: &Deadline,
) -> Next {
    let mut next = Next::Request;
    while next == Next::Request {
        next = match serve_one(worker, connection, reader, writer).await {
            Ending::KeepAlive => {
                let ready = connection.listener.idle_timeout().min(READY);
                await_request(reader, idle, ready, false).await
            }
            Ending::Close | Ending::Abort => Next::Ended,
        };
    }
    next
}

/// Waits for the first byte of a request.
async fn await_request(reader: &mut Reader, idle: &Deadline, timeout: Duration, is_first: bool) -> Next {
    if !reader.data().is_empty() {
        return Next::Request;
    }
    idle.set(timeout);
    let filled = match is_first {
        // It follows the handshake at once, and is here already when we get to the connection.
        true => reader.fill(&Until::only(idle)).await,
        false => reader.fill_idle(idle).await,
    };
    idle.clear();
    match filled {
        Ok(1..) => Next::Request,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Next::Silence,
        Ok(0) | Err(_) => Next::Gone,
    }
}

/// Serves a request, and ends the connection when no other can come.
async fn serve_one(worker: &WorkerCx, connection: &ConnectionCx, reader: &mut Reader, writer: &mut Writer) -> Ending {
    let mut client = Client { reader, writer, body: BodyState::default() };
    let mut room = worker.rooms.take(&worker.timers);
    let Room { exchange, timers } = &mut *room;
    let (generation, listener) = connection.listener.generation();
    let cx = RequestCx { generation, listener };
    exchange.begin(Instant::now());
    if worker.log.borrow().is_some() {
        exchange.started_wall = SystemTime::now();
    }
    let head = client.read_head(&timers.idle, &cx, exchange).await;
    let request = Request { worker, connection, timers, cx, exchange };
    let ending = match head {
        Ok(()) => proxy::handle(request, &mut client).await,
        Err(Some(error)) => proxy::refuse(request, &mut client, error).await,
        Err(None) => Ending::Abort,
    };
    client.end(&timers.idle, ending).await;
    worker.rooms.put(room);
    ending
}

/// Ends a connection between two requests.
async fn leave(connection: &ConnectionCx, writer: &mut Writer, idle: &Deadline) {
    if !writer.is_settled() {
        idle.set(connection.listener.idle_timeout());
        // Whoever does not take the rest of its answer gets no more of it.
        let _ = writer.settle(&Until::only(idle)).await;
    }
    if writer.is_tls() {
        idle.set_at(now_ms() + limits::LINGER_MS);
        writer.finish(&Until::only(idle)).await;
    }
}

/// A client's connection and the body it is in.
struct Client<'a> {
    reader: &'a mut Reader,
    writer: &'a mut Writer,
    body: BodyState,
}

impl Client<'_> {
    /// Reads a request's head. `Err(None)`: the client left in the middle of it.
    async fn read_head(
        &mut self,
        timer: &Deadline,
        cx: &RequestCx,
        exchange: &mut Exchange,
    ) -> Result<(), Option<ProxyError>> {
        let settings = cx.settings();
        let parsed = self.parse_head(timer, &settings.limits, exchange).await?;
        self.body.begin(exchange.request.body);
        exchange.understood = true;
        exchange.client_keeps_alive = parsed.keep_alive;
        exchange.expects_continue = parsed.expect_continue;
        path::normalise(&mut exchange.request.target, settings.path)
            .map_err(|error| Some(ProxyError::Path(error.detail())))
    }

    async fn parse_head(
        &mut self,
        timer: &Deadline,
        limits: &ListenerLimits,
        exchange: &mut Exchange,
    ) -> Result<ParsedRequest, Option<ProxyError>> {
        let head_limits = HeadLimits { bytes: limits.header_bytes as usize, count: limits.header_count as usize };
        let mut seen = 0;
        loop {
            if parse::may_complete(self.reader.data(), seen, head_limits) {
                let parsed = parse::request(self.reader.data(), head_limits, &mut exchange.request);
                if let Some(parsed) = parsed.map_err(|error| Some(refused(&error)))? {
                    self.reader.consume(parsed.consumed);
                    return Ok(parsed);
                }
            }
            if seen == 0 {
                timer.set(limits.header_timeout);
            }
            seen = self.reader.data().len();
            match self.reader.fill(&Until::only(timer)).await {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(Some(ProxyError::HeadTimeout)),
                Ok(0) | Err(_) => return Err(None),
            }
        }
    }

    /// Ends the connection so that the client can tell how its last request ended. What is left to do when it is dropped
    /// is the FIN.
    async fn end(&mut self, timer: &Deadline, ending: Ending) {
        match ending {
            Ending::KeepAlive => return,
            Ending::Abort => return self.writer.abort(),
            Ending::Close => {}
        }
        // Closing while bytes are unread resets the connection, and the client may lose the answer.
        let lingers = !self.body.is_done() || !self.reader.data().is_empty();
        if !lingers && !self.writer.is_tls() && self.writer.is_settled() {
            return;
        }
        let until = Until::only(timer);
        timer.set_at(now_ms() + limits::LINGER_MS);
        self.writer.finish(&until).await;
        if lingers {
            self.linger(&until).await;
        }
    }

    async fn linger(&mut self, until: &Until<'_>) {
        let mut discarded = self.reader.take().len();
        while discarded < limits::LINGER_BYTES {
            match self.reader.fill(until).await {
                Ok(n @ 1..) => discarded += n,
                _ => return,
            }
            drop(self.reader.take());
        }
    }
}

fn refused(error: &RequestError) -> ProxyError {
    ProxyError::Head { status: error.status(), details: error.detail() }
}

impl Downstream for Client<'_> {
    fn split(&mut self) -> (impl RequestBody, impl ResponseSink) {
        (Source::new(self.reader, &mut self.body), Sink::new(self.writer))
    }

    fn accept_websocket(&mut self, head: &mut ResponseHead, key: &[u8]) -> (impl RequestBody, impl ResponseSink) {
        head.status = 101;
        head.headers.set(&Known::Connection, b"Upgrade");
        head.headers.set(&Known::Upgrade, websocket::PROTOCOL);
        head.headers.set(&Known::SecWebsocketAccept, &websocket::accept_key(key));
        self.body.begin_tunnel();
        self.reader.adapt();
        let mut sink = Sink::new(self.writer);
        let framing = ResponseFraming { keep_alive: true, body: BodyFraming::Bodyless };
        sink.start(Framing::Tunnel, |out| encode::response(head, framing, out));
        (Source::new(self.reader, &mut self.body), sink)
    }
}

impl RequestBody for Source<'_> {
    fn is_done(&self) -> bool {
        Source::is_done(self)
    }

    fn has_data(&mut self) -> bool {
        Source::has_data(self)
    }

    fn received(&self) -> u64 {
        Source::received(self)
    }

    async fn broken(&mut self) -> io::Error {
        Source::broken(self).await
    }
}

impl ResponseSink for Sink<'_> {
    fn start_continue(&mut self) {
        Sink::start(self, Framing::Identity, |out| out.extend_from_slice(encode::CONTINUE));
    }

    fn start(&mut self, head: &ResponseHead, framing: ResponseFraming) {
        let body = match framing.body {
            BodyFraming::Chunked => Framing::Chunked,
            BodyFraming::Bodyless | BodyFraming::Length(_) | BodyFraming::UntilClose => Framing::Identity,
        };
        Sink::start(self, body, |out| encode::response(head, framing, out));
        if framing.keep_alive {
            self.hand_over_end();
        }
    }

    fn sent(&self) -> u64 {
        Sink::sent(self)
    }
}
