//! HTTP/2 to an origin: one connection, many requests.

use std::cell::{Cell, RefCell};
use std::future::Future as _;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use h2::client::{self, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, Reason};

use super::slots::Slots;
use super::{Slot, UpstreamError};
use crate::config::model::Cluster;
use crate::http2::{self, Frame, Sink, Source};
use crate::net::{Deadline, Passed, Timers, Until, now_ms};
use crate::proto::head::{RequestHead, ResponseHead, Scheme};
use crate::proto::limits;
use crate::tls;

/// Bytes of answers on their way on one connection, and on one stream of it, before the client has taken them: what a
/// stalled client makes us hold.
const CONNECTION_WINDOW: u32 = 1 << 20;
const STREAM_WINDOW: u32 = 256 << 10;

/// A connection, as its requests share it.
pub struct Shared {
    sender: SendRequest<Frame>,
    scheme: Scheme,
    /// Requests in progress.
    active: Cell<u32>,
    /// Most of them: what the configuration allows, and less once the origin has refused one.
    limit: Cell<u32>,
    served: Cell<u64>,
    /// When the last request ended, in [`now_ms`].
    idle_since: Cell<u64>,
    idle_timeout_ms: u64,
    closed: Rc<Cell<bool>>,
    pings: RefCell<PingPong>,
    /// A request has waited for its answer in vain, and the origin has not answered our PING since.
    in_doubt: Cell<bool>,
    /// Who waits for one of its streams.
    slots: Rc<Slots>,
    /// Ends the connection some time after it has served its last request, whatever the origin does.
    end: Rc<Deadline>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.end.set_at(now_ms() + limits::LINGER_MS);
    }
}

/// The right to one request on a connection.
pub struct Stream {
    shared: Rc<Shared>,
    sink: Option<Sink>,
}

/// The answer's half of a [`Stream`].
pub struct Answer<'a> {
    response: ResponseFuture,
    body: Option<Box<Source>>,
    shared: &'a Shared,
}

/// Makes an HTTP/2 connection of a new one, and drives it until it ends. Ready once requests can be sent.
pub(super) async fn connect(
    io: tls::Stream,
    scheme: Scheme,
    settings: &Cluster,
    slot: Slot,
    deadline: &Deadline,
    timers: &Timers,
) -> Result<Rc<Shared>, UpstreamError> {
    let mut builder = client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(limits::RESPONSE_HEAD_BYTES as u32)
        .initial_max_send_streams(settings.max_streams as usize)
        .max_send_buffer_size(http2::SEND_BUFFER);
    let handshake = builder.handshake::<_, Frame>(io);
    let mut handshake = Box::pin(handshake);
    let until = Until::only(deadline);
    let shaken = std::future::poll_fn(|cx| match handshake.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(result.map_err(|error| of_error(&error))),
        Poll::Pending => until.poll_passed(cx).map(|_| Err(UpstreamError::ConnectTimeout)),
    });
    let (sender, mut connection) = shaken.await?;
    let (closed, end) = (Rc::new(Cell::new(false)), Rc::new(timers.deadline()));
    let refused = Rc::new(RefCell::new(None));
    let pings = connection.ping_pong().expect("nobody has taken it before");
    let mut shared = Shared {
        sender,
        scheme,
        active: Cell::new(0),
        limit: Cell::new(settings.max_streams),
        served: Cell::new(0),
        idle_since: Cell::new(now_ms()),
        idle_timeout_ms: settings.idle_timeout.as_millis() as u64,
        closed: closed.clone(),
        pings: RefCell::new(pings),
        in_doubt: Cell::new(false),
        slots: slot.slots().clone(),
        end: end.clone(),
    };
    let refusal = refused.clone();
    crate::net::spawn(async move {
        let (until, mut connection) = (Until::only(&end), pin!(connection));
        let ended = std::future::poll_fn(|cx| match connection.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(result),
            // It has said goodbye, and the origin does not close.
            Poll::Pending => until.poll_passed(cx).map(|_| Ok(())),
        });
        if let Err(error) = ended.await {
            log::debug!("HTTP/2 connection to an origin: {error}");
            // Before `connection` is dropped, which those who wait for its settings are woken by.
            *refusal.borrow_mut() =
                error.get_io().filter(|error| error.kind() == io::ErrorKind::InvalidData).map(ToString::to_string);
        }
        closed.set(true);
        drop(slot);
    });
    settle(shared.pings.get_mut(), &until).await.map_err(|error| match refused.take() {
        Some(why) => UpstreamError::Connect(format!("TLS error: {why}")),
        None => error,
    })?;
    Ok(Rc::new(shared))
}

/// Waits for the origin's settings: how many requests it takes at once, and whether extended CONNECT (RFC 8441 §3). Without
/// them a burst on a new connection would be refused. h2 does not say when they have come, but they come before the answer
/// to a PING (RFC 9113 §3.4).
async fn settle(pings: &mut PingPong, until: &Until<'_>) -> Result<(), UpstreamError> {
    let mut pong = pin!(pings.ping(Ping::opaque()));
    std::future::poll_fn(|cx| match pong.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(result.map(drop).map_err(|error| of_error(&error))),
        Poll::Pending => until.poll_passed(cx).map(|_| Err(UpstreamError::ConnectTimeout)),
    })
    .await
}

impl Shared {
    /// Whether it takes no new requests any more.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Whether no request has been in progress for `idle_timeout`, or for long enough to answer a PING that is not answered.
    pub(super) fn is_expired(&self, now_ms: u64) -> bool {
        let patience = if self.is_in_doubt() { limits::LINGER_MS } else { u64::MAX };
        let idle = now_ms.saturating_sub(self.idle_since.get());
        self.active.get() == 0 && idle >= patience.min(self.idle_timeout_ms)
    }

    /// The right to one more request, unless there are as many as there may be.
    pub(super) fn stream(self: &Rc<Self>) -> Option<Stream> {
        let limit = (self.limit.get() as usize).min(self.sender.current_max_send_streams());
        if self.is_closed() || self.active.get() as usize >= limit || self.is_in_doubt() {
            return None;
        }
        self.active.set(self.active.get() + 1);
        Some(Stream { shared: self.clone(), sink: None })
    }

    /// A request has waited in vain. Either it takes the origin too long, or the connection has died without a word: until
    /// the origin answers a PING, it gets no other.
    fn doubt(&self) {
        if !self.in_doubt.replace(true) {
            // A connection that cannot send it is about to be closed.
            let _ = self.pings.borrow_mut().send_ping(Ping::opaque());
        }
    }

    fn is_in_doubt(&self) -> bool {
        if self.in_doubt.get() {
            let pong = self.pings.borrow_mut().poll_pong(&mut Context::from_waker(Waker::noop()));
            self.in_doubt.set(!matches!(pong, Poll::Ready(Ok(_))));
        }
        self.in_doubt.get()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let shared = &self.shared;
        shared.active.set(shared.active.get() - 1);
        if shared.active.get() == 0 {
            shared.idle_since.set(now_ms());
        }
        shared.slots.offer();
    }
}

impl Stream {
    /// Whether the connection has served a request before this one.
    pub fn is_reused(&self) -> bool {
        self.shared.served.get() > 1
    }

    /// Sends the head. A request without a body is complete with it.
    pub fn start(
        &mut self,
        head: &RequestHead,
        websocket: bool,
    ) -> Result<(Option<&mut Sink>, Answer<'_>), UpstreamError> {
        if websocket && !self.shared.sender.is_extended_connect_protocol_enabled() {
            return Err(UpstreamError::Protocol("upstream_has_no_extended_connect"));
        }
        self.shared.served.set(self.shared.served.get() + 1);
        let request =
            http2::head::write_request(head, self.shared.scheme, websocket).map_err(|_| UpstreamError::Unwritable)?;
        let ended = head.body.is_empty() && !websocket;
        let mut sender = self.shared.sender.clone();
        let sent = sender.send_request(request, ended);
        let (response, stream) = sent.map_err(|error| self.shared.failed(&error))?;
        self.sink = (!ended).then(|| Sink::new(stream));
        Ok((self.sink.as_mut(), Answer { response, body: None, shared: &self.shared }))
    }
}

impl Answer<'_> {
    /// Reads the head of the final answer; h2 passes over interim ones.
    pub async fn head(&mut self, head: &mut ResponseHead, until: &Until<'_>) -> Result<(), UpstreamError> {
        let response = std::future::poll_fn(|cx| match std::pin::Pin::new(&mut self.response).poll(cx) {
            Poll::Ready(result) => Poll::Ready(result.map_err(|error| self.shared.failed(&error))),
            Poll::Pending => until.poll_passed(cx).map(|_| {
                self.shared.doubt();
                let passed = until.passed().unwrap_or(Passed::End);
                Err(UpstreamError::TimedOut(passed))
            }),
        });
        let response = response.await?;
        until.progress();
        let ended = response.body().is_end_stream();
        http2::head::read_response(&response, ended, head);
        self.body = Some(Box::new(Source::new(response.into_body(), ended)));
        Ok(())
    }

    /// The answer's body, after its head.
    pub fn body(self) -> Box<Source> {
        self.body.expect("`head` has been awaited")
    }
}

impl Shared {
    /// The meaning of an error on a stream that has no answer yet, and what it says about the connection.
    fn failed(&self, error: &h2::Error) -> UpstreamError {
        if error.is_go_away() || error.is_io() {
            self.closed.set(true);
        }
        if error.is_reset() && error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM) {
            // It allows fewer than we thought; the next goes elsewhere.
            self.limit.set(self.active.get().saturating_sub(1).max(1));
        }
        of_error(error)
    }
}

fn of_error(error: &h2::Error) -> UpstreamError {
    let refused = error.reason() == Some(Reason::REFUSED_STREAM) && error.is_reset();
    // h2 gives the error of a GOAWAY to streams above its last one only.
    if error.is_remote() && (refused || error.is_go_away()) {
        UpstreamError::Refused
    } else if error.is_remote() && error.is_reset() {
        UpstreamError::Reset
    } else if error.is_library() {
        UpstreamError::Protocol("http2.protocol_error")
    } else {
        UpstreamError::Closed { answered: false }
    }
}
