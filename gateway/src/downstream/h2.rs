//! A client's HTTP/2 connection: requests beside one another, a task each.

mod lane;
mod stream;

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use h2::Reason;
use h2::server::Connection;

use crate::http2::{self, Frame, Meter};
use crate::net::{Deadline, Until, now_ms};
use crate::overload::memory::Step;
use crate::proto::limits;
use crate::proxy::{ConnectionCx, WorkerCx};
use crate::tls;

type Metered = http2::Metered<tls::Stream>;

/// What every HTTP/2 connection over cleartext begins with (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the tasks of a connection share.
struct Shared {
    worker: Rc<WorkerCx>,
    connection: Rc<ConnectionCx>,
    /// Requests in progress.
    active: Cell<u32>,
    /// The client was told that nothing new is served.
    is_closing: Cell<bool>,
    /// Ends the connection when no request is in progress.
    idle: Deadline,
    /// What the client may still ask for.
    meter: Rc<Meter>,
}

/// Serves requests until the client, the limits or an error end the connection.
pub(super) fn serve(worker: Rc<WorkerCx>, connection: Rc<ConnectionCx>, io: tls::Stream) -> impl Future<Output = ()> {
    let idle = worker.timers.deadline_in(connection.listener.group);
    let (active, is_closing, meter) = (Cell::new(0), Cell::new(false), Meter::new());
    let metered = Metered::new(io, meter.clone());
    let shared = Rc::new(Shared { worker, connection, active, is_closing, idle, meter });
    // Boxed, and made out here: what an idle connection keeps has no room for it, nor for the arguments.
    let shaken = Box::pin(shake(shared.clone(), metered));
    async move {
        let Some(mut h2) = shaken.await else { return };
        if answer(&shared, &mut h2).await == Ended::Idle {
            goodbye(&shared, &mut h2).await;
        }
    }
}

/// How a connection's requests came to an end.
#[derive(PartialEq)]
enum Ended {
    /// It was idle for too long, and the client shall know.
    Idle,
    /// All has been said.
    Over,
}

/// Answers requests for as long as some may come.
async fn answer(shared: &Rc<Shared>, h2: &mut Connection<Metered, Frame>) -> Ended {
    shared.rest();
    let until = Until::only(&shared.idle);
    let mut closing = pin!(shared.connection.listener.closed());
    let (is_closing, mut is_calmed) = (&shared.is_closing, false);
    let mut last_call = u64::MAX;
    std::future::poll_fn(|cx| {
        loop {
            // The answer that says so to the client wakes this task.
            let is_outdated = shared.connection.is_outdated.get();
            if !is_closing.get() && (is_outdated || closing.as_mut().poll(cx).is_ready()) {
                is_closing.set(true);
                // Two GOAWAYs (RFC 9113 §6.8): one with no last stream, and when the client has seen it, the last one.
                h2.graceful_shutdown();
                last_call = now_ms() + limits::LINGER_MS;
                shared.rest();
            }
            match h2.poll_accept(cx) {
                // A client that passes over the first of them never gets the last one, and would be served for ever.
                Poll::Ready(Some(Ok((_, mut respond)))) if is_closing.get() && now_ms() > last_call => {
                    respond.send_reset(Reason::REFUSED_STREAM);
                }
                Poll::Ready(Some(Ok((request, respond)))) => {
                    stream::spawn(shared, request, respond);
                    if !is_closing.get() && shared.worker.overload.load().step >= Step::Idle {
                        is_closing.set(true);
                        h2.graceful_shutdown();
                        last_call = now_ms() + limits::LINGER_MS;
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    log::debug!("{}: HTTP/2 with {}: {error}", shared.listener(), shared.connection.peer.addr());
                    return Poll::Ready(());
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => match shared.meter.flood() {
                    Some(flood) if !is_calmed => {
                        log::debug!("{}: {flood} from {}", shared.listener(), shared.connection.peer.addr());
                        is_calmed = true;
                        h2.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                        shared.idle.set_at(now_ms() + limits::LINGER_MS);
                    }
                    _ => return until.poll_passed(cx).map(drop),
                },
            }
        }
    })
    .await;
    if !is_closing.get() && !is_calmed && shared.active.get() == 0 { Ended::Idle } else { Ended::Over }
}

/// Reads the client's preface and settings within the time for a head.
async fn shake(shared: Rc<Shared>, io: Metered) -> Option<Connection<Metered, Frame>> {
    let (generation, id) = shared.connection.listener.generation();
    let settings = &generation.config.listeners[id.index()];
    shared.idle.set(settings.limits.header_timeout);
    let until = Until::only(&shared.idle);
    let mut handshake = pin!(http2::builder(&settings.http2, settings.limits.header_bytes).handshake::<_, Frame>(io));
    std::future::poll_fn(|cx| match handshake.as_mut().poll(cx) {
        Poll::Ready(shaken) => Poll::Ready(shaken.ok()),
        Poll::Pending => until.poll_passed(cx).map(|_| None),
    })
    .await
}

/// Says that nothing more is served, to a client that has been idle for too long.
async fn goodbye(shared: &Shared, h2: &mut Connection<Metered, Frame>) {
    shared.idle.set_at(now_ms() + limits::LINGER_MS);
    h2.abrupt_shutdown(Reason::NO_ERROR);
    let until = Until::only(&shared.idle);
    std::future::poll_fn(|cx| match h2.poll_closed(cx) {
        Poll::Ready(_) => Poll::Ready(()),
        Poll::Pending => until.poll_passed(cx).map(drop),
    })
    .await;
}

impl Shared {
    fn listener(&self) -> &str {
        &self.connection.listener.name
    }

    /// A request begins.
    fn enter(&self) {
        self.active.set(self.active.get() + 1);
        if self.meter.flood().is_none() {
            self.idle.clear();
        }
    }

    /// A request has ended.
    fn leave(&self) {
        self.active.set(self.active.get() - 1);
        self.rest();
    }

    /// When nothing is in progress, the time until the connection ends begins.
    fn rest(&self) {
        // After a flood the time is set, and requests that end with the connection do not move it.
        if self.active.get() > 0 || self.meter.flood().is_some() {
            return;
        }
        if self.is_closing.get() {
            return self.idle.set_at(now_ms() + limits::LINGER_MS);
        }
        self.idle.set(self.connection.listener.idle_timeout());
    }
}
