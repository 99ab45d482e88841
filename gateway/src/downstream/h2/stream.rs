//! One request of an HTTP/2 connection.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Instant, SystemTime};

use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::Request;

use super::{Shared, lane};
use crate::http2::head::{self, HeadError};
use crate::http2::{Frame, Meter, Sink, Source};
use crate::net::{self, Buf, Until};
use crate::proto::h1::encode::{BodyFraming, ResponseFraming};
use crate::proto::head::{BodyLength, Headers, Known, ResponseHead};
use crate::proto::path;
use crate::proxy::{
    self, BodySink, BodySource, Downstream, Ending, Exchange, ProxyError, RequestBody, RequestCx, ResponseSink, Room,
};

/// A request whose head has been read, or refused.
pub(super) struct Job {
    shared: Rc<Shared>,
    room: Box<Room>,
    cx: RequestCx,
    stream: Stream,
    read: Result<(), ProxyError>,
}

/// Reads a request's head, and has it served in a task of its own.
pub(super) fn spawn(shared: &Rc<Shared>, request: Request<RecvStream>, respond: SendResponse<Frame>) {
    shared.enter();
    let mut room = shared.worker.rooms.take(&shared.worker.timers);
    let (generation, listener) = shared.connection.listener.generation();
    let cx = RequestCx { generation, listener };
    room.exchange.begin(Instant::now());
    if shared.worker.log.borrow().is_some() {
        room.exchange.started_wall = SystemTime::now();
    }
    let ended = request.body().is_end_stream();
    let read = read_head(&request, ended, &cx, &mut room.exchange);
    let stream = Stream::new(Source::new(request.into_body(), ended), respond, shared.meter.clone());
    lane::start(Job { shared: shared.clone(), room, cx, stream, read });
}

/// Serves a request to its end.
pub(super) async fn serve(Job { shared, mut room, cx, mut stream, read }: Job) {
    let (worker, connection) = (&*shared.worker, &*shared.connection);
    let Room { exchange, timers } = &mut *room;
    let request = proxy::Request { worker, connection, timers, cx, exchange };
    let ending = match read {
        Ok(()) => proxy::handle(request, &mut stream).await,
        Err(error) => Box::pin(proxy::refuse(request, &mut stream, error)).await,
    };
    if ending == Ending::Abort {
        // A gRPC client takes CANCEL at its own deadline for what it is, and INTERNAL_ERROR for a fault of the server's.
        let is_expired = exchange.grpc_deadline.is_some_and(|due| due <= net::now_ms());
        stream.reset(if is_expired { Reason::CANCEL } else { Reason::INTERNAL_ERROR });
    }
    // What is left of the request's body is of no use: dropping the stream says so to the client (RFC 9113 §8.1).
    drop(stream);
    shared.worker.rooms.put(room);
    shared.leave();
}

fn read_head(
    request: &Request<RecvStream>,
    ended: bool,
    cx: &RequestCx,
    exchange: &mut Exchange,
) -> Result<(), ProxyError> {
    let settings = cx.settings();
    let refused = |error: HeadError| ProxyError::Head { status: error.status(), details: error.detail() };
    let max_fields = usize::from(settings.limits.header_count);
    exchange.request.version = crate::proto::head::Version::Http2;
    let received = head::read_request(request, ended, max_fields, &mut exchange.request).map_err(refused)?;
    exchange.understood = true;
    exchange.client_keeps_alive = true;
    exchange.expects_continue = received.expect_continue;
    exchange.websocket = received.websocket.then_some(Ok(()));
    path::normalise(&mut exchange.request.target, settings.path).map_err(|error| ProxyError::Path(error.detail()))
}

/// Both halves of a client's stream.
struct Stream {
    body: Source,
    response: RefCell<Response>,
    meter: Rc<Meter>,
}

/// How far the response has come.
enum Response {
    /// Nothing is held.
    Nothing(SendResponse<Frame>),
    /// The head waits for what comes next.
    Held(SendResponse<Frame>, http::Response<()>),
    /// The head is out, and a body follows.
    Body(Sink),
    /// All is out.
    Done(Option<h2::SendStream<Frame>>),
}

impl Stream {
    fn new(body: Source, respond: SendResponse<Frame>, meter: Rc<Meter>) -> Stream {
        Stream { body, response: RefCell::new(Response::Nothing(respond)), meter }
    }

    fn halves(&mut self) -> (Body<'_>, Out<'_>) {
        let body = Body { source: &mut self.body, response: &self.response };
        (body, Out { response: &self.response, meter: &self.meter, sent: 0 })
    }

    fn reset(&mut self, reason: Reason) {
        match &mut *self.response.borrow_mut() {
            Response::Nothing(respond) | Response::Held(respond, _) => respond.send_reset(reason),
            Response::Body(sink) => sink.reset(reason),
            Response::Done(Some(stream)) => stream.send_reset(reason),
            Response::Done(None) => {}
        }
    }
}

impl Downstream for Stream {
    fn split(&mut self) -> (impl RequestBody, impl ResponseSink) {
        self.halves()
    }

    fn accept_websocket(&mut self, head: &mut ResponseHead, _: &[u8]) -> (impl RequestBody, impl ResponseSink) {
        head.status = 200;
        head.headers.remove(&Known::SecWebsocketAccept);
        let (body, mut out) = self.halves();
        out.start(head, ResponseFraming { keep_alive: true, body: BodyFraming::UntilClose });
        (body, out)
    }
}

/// The request's body.
struct Body<'a> {
    source: &'a mut Source,
    response: &'a RefCell<Response>,
}

impl BodySource for Body<'_> {
    async fn next(&mut self, until: &Until<'_>) -> io::Result<Option<Buf>> {
        self.source.next(until).await
    }

    fn trailers(&self) -> &Headers {
        self.source.trailers()
    }
}

impl RequestBody for Body<'_> {
    fn is_done(&self) -> bool {
        self.source.is_done()
    }

    fn has_data(&mut self) -> bool {
        self.source.has_data()
    }

    fn received(&self) -> u64 {
        self.source.received()
    }

    async fn broken(&mut self) -> io::Error {
        std::future::poll_fn(|cx| match self.response.borrow_mut().poll_reset(cx) {
            Poll::Ready(()) => Poll::Ready(io::ErrorKind::ConnectionReset.into()),
            Poll::Pending => Poll::Pending,
        })
        .await
    }
}

impl Response {
    /// Ready when the client wants no answer any more.
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let reset = match self {
            Response::Nothing(respond) | Response::Held(respond, _) => respond.poll_reset(cx),
            Response::Body(sink) => sink.stream().poll_reset(cx),
            Response::Done(_) => return Poll::Pending,
        };
        reset.map(drop)
    }

    /// Sends the head where it is held; `end`: it is all there is.
    fn open(&mut self, end: bool) -> io::Result<()> {
        match std::mem::replace(self, Response::Done(None)) {
            Response::Held(mut respond, head) => {
                let stream = respond.send_response(head, end).map_err(io::Error::other)?;
                *self = if end { Response::Done(Some(stream)) } else { Response::Body(Sink::new(stream)) };
            }
            other => *self = other,
        }
        Ok(())
    }
}

/// Where the response goes.
struct Out<'a> {
    response: &'a RefCell<Response>,
    meter: &'a Meter,
    sent: u64,
}

impl ResponseSink for Out<'_> {
    fn start_continue(&mut self) {
        if let Response::Nothing(respond) = &mut *self.response.borrow_mut() {
            let mut interim = http::Response::new(());
            *interim.status_mut() = http::StatusCode::CONTINUE;
            // A client that is gone is found out by whoever waits for its body.
            let _ = respond.send_informational(interim);
        }
    }

    fn start(&mut self, head: &ResponseHead, framing: ResponseFraming) {
        let length = match (framing.body, head.body) {
            (BodyFraming::Length(length), _) => Some(length),
            (BodyFraming::Bodyless, BodyLength::Known(length)) if head.status != 204 => Some(length),
            _ => None,
        };
        let mut response = self.response.borrow_mut();
        *response = match std::mem::replace(&mut *response, Response::Done(None)) {
            Response::Nothing(respond) => Response::Held(respond, head::write_response(head, length)),
            other => other,
        };
        self.meter.answered();
    }

    fn sent(&self) -> u64 {
        self.sent
    }
}

impl BodySink for Out<'_> {
    async fn ready(&mut self, until: &Until<'_>) -> io::Result<()> {
        std::future::poll_fn(|cx| match &*self.response.borrow() {
            Response::Body(sink) => sink.poll_ready(cx, until),
            _ => Poll::Ready(Ok(())),
        })
        .await
    }

    async fn data(&mut self, frame: Buf, _: &Until<'_>) -> io::Result<()> {
        self.sent += frame.len() as u64;
        self.meter.sent_data(frame.len());
        let mut response = self.response.borrow_mut();
        response.open(false)?;
        match &mut *response {
            Response::Body(sink) => sink.data(frame),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    async fn flush(&mut self, _: &Until<'_>) -> io::Result<()> {
        let mut response = self.response.borrow_mut();
        response.open(false)?;
        match &mut *response {
            Response::Body(sink) => sink.flush(),
            _ => Ok(()),
        }
    }

    async fn finish(&mut self, trailers: &Headers, until: &Until<'_>) -> io::Result<()> {
        let wait = {
            let mut response = self.response.borrow_mut();
            response.open(trailers.is_empty())?;
            match &mut *response {
                Response::Body(sink) => sink.finish(trailers)?,
                _ => false,
            }
        };
        if wait { self.ready(until).await } else { Ok(()) }
    }
}
