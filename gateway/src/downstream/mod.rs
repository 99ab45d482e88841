//! The client's side: connections from their handshake to their end.

mod h1;
mod h2;
mod l4;
mod opening;
mod session;
mod udp;

pub use udp::serve_datagrams;

use std::cell::{Cell, OnceCell};
use std::rc::Rc;

use crate::config::model::{HttpVersions, ListenerId};
use crate::filter::forwarded::Peer;
use crate::net::{self, Until, now_ms};
use crate::proto::limits;
use crate::proxy::{Admitted, ConnectionCx, Generation, ListenerCx, WorkerCx};
use crate::snapshot::ACME_TLS;
use crate::tls::{self, TlsInfo};

use l4::Halves;
use opening::{Fate, Opening, Unopened};

/// An accepted connection.
pub struct Accepted {
    /// What it sends.
    pub reader: net::Reader,
    /// What it gets.
    pub writer: net::Writer,
    /// The other end.
    pub peer: std::net::SocketAddr,
    /// Our end.
    pub local: std::net::SocketAddr,
    /// Its number.
    pub id: u64,
    /// Counts it as open.
    pub admitted: Admitted,
}

/// Serves a connection to its end, in tasks of its own: one for what comes first, where something does, and one for the
/// protocol, which does not keep the room that the first one needs.
pub fn serve(worker: Rc<WorkerCx>, listener: Rc<ListenerCx>, accepted: Accepted) {
    let (generation, id) = listener.generation();
    let (view, settings) = (generation.listener(id), &generation.config.listeners[id.index()]);
    if opening::is_needed(settings, view) || view.tls.is_some() {
        return net::spawn(open(worker, generation, id, listener, accepted));
    }
    let opening = opening::unread(settings, view, &accepted);
    let connection = connection(listener, &opening, None, accepted.id, accepted.admitted);
    let client = Halves { reader: tls::Reader::Plain(accepted.reader), writer: tls::Writer::Plain(accepted.writer) };
    start(worker, generation.clone(), opening.fate, settings.http, connection, client);
}

/// Reads what has to be read and shakes hands, within the time for that, and starts the protocol.
async fn open(
    worker: Rc<WorkerCx>,
    generation: Generation,
    id: ListenerId,
    listener: Rc<ListenerCx>,
    mut accepted: Accepted,
) {
    let (view, settings) = (generation.listener(id), &generation.config.listeners[id.index()]);
    let stats = view.stats.shard(worker.worker);
    let deadline = worker.timers.deadline();
    deadline.set(settings.limits.handshake_timeout);
    let until = Until::only(&deadline);
    let opening = match opening::is_needed(settings, view) {
        false => opening::unread(settings, view, &accepted),
        true => match opening::read(&generation, settings, view, &mut accepted, &until).await {
            Ok(opening) => opening,
            Err(Unopened::Gone) => return,
            Err(Unopened::Refused(refusal)) => {
                // Counted first: whoever sees the reset finds it in the metrics.
                stats.refused.of(refusal).inc();
                return accepted.writer.abort();
            }
        },
    };
    let terminates = !matches!(opening.fate, Fate::Relay { terminate: false, .. });
    let Accepted { reader, writer, id, admitted, .. } = accepted;
    let (client, tls) = match &view.tls {
        Some(settings) if terminates => {
            let shaken = tls::accept(reader, writer, settings, &generation.challenges, &until).await;
            match shaken {
                Ok((reader, mut writer, info)) => {
                    stats.handshakes_ok.inc();
                    // A certificate authority has seen what it wanted (RFC 8737 section 3).
                    if info.alpn.as_deref() == Some(ACME_TLS) {
                        return writer.finish(&until).await;
                    }
                    (Halves { reader, writer }, Some(info))
                }
                Err(failed) => {
                    let error = &failed.error;
                    stats.handshakes_failed.of(error.failure()).inc();
                    log::debug!("{}: handshake with {}: {error}", listener.name, opening.peer);
                    deadline.set_at(now_ms() + limits::LINGER_MS);
                    return failed.linger(&until).await;
                }
            }
        }
        _ => (Halves { reader: tls::Reader::Plain(reader), writer: tls::Writer::Plain(writer) }, None),
    };
    let connection = connection(listener, &opening, tls, id, admitted);
    start(worker, generation.clone(), opening.fate, settings.http, connection, client);
}

/// Starts the task that serves an open connection. The only place that knows which protocol a client speaks.
fn start(
    worker: Rc<WorkerCx>,
    generation: Generation,
    fate: Fate,
    http: HttpVersions,
    connection: ConnectionCx,
    client: Halves,
) {
    match fate {
        Fate::Http => net::spawn(speak(worker, connection, client, http)),
        Fate::Relay { route, .. } => net::spawn(async move {
            l4::serve(&worker, generation, route, &connection, client).await;
        }),
    }
}

/// Serves a connection in the version of HTTP that it speaks.
fn speak(
    worker: Rc<WorkerCx>,
    connection: ConnectionCx,
    Halves { mut reader, mut writer }: Halves,
    http: HttpVersions,
) -> impl Future<Output = ()> {
    let settled = connection.tls.as_ref().and_then(|tls| tls.alpn.as_deref());
    let is_h2 = match (settled, http) {
        (Some(alpn), _) => Some(alpn == b"h2"),
        (None, HttpVersions { h1: false, .. }) => Some(true),
        (None, HttpVersions { h2: false, .. }) => Some(false),
        // Over TLS there is no HTTP/2 without ALPN (RFC 9113 §3.2): a host without HTTP/2 would have it after all.
        (None, _) if connection.tls.is_some() => Some(false),
        // Prior knowledge (RFC 9113 §3.3).
        (None, _) => None,
    };
    // A block, because the arguments of an `async fn` have their room twice: once to come in and once to be used.
    async move {
        let is_h2 = match is_h2 {
            Some(is_h2) => is_h2,
            None => match begins_with(h2::PREFACE, &worker, &connection, &mut reader).await {
                Some(is_h2) => is_h2,
                None => return,
            },
        };
        match is_h2 {
            // A task of its own, which does not keep the room that HTTP/1 needs; and the other way round.
            true => net::spawn(h2::serve(worker, Rc::new(connection), tls::Stream::new(reader, writer))),
            false => h1::serve(&worker, &connection, &mut reader, &mut writer).await,
        }
    }
}

/// Whether the first bytes are these; `None` when they are late or none will come. Waits only for as many as it takes to
/// tell.
async fn begins_with(
    bytes: &[u8],
    worker: &WorkerCx,
    connection: &ConnectionCx,
    reader: &mut tls::Reader,
) -> Option<bool> {
    let listener = &connection.listener;
    let (generation, id) = listener.generation();
    let limits = &generation.config.listeners[id.index()].limits;
    let deadline = worker.timers.deadline_in(listener.group);
    deadline.set(listener.idle_timeout());
    loop {
        let have = reader.data();
        if have.len() >= bytes.len() || !bytes.starts_with(have) {
            return Some(have.starts_with(bytes));
        }
        if !have.is_empty() {
            deadline.set(limits.header_timeout);
        }
        match reader.fill_idle(&deadline).await {
            Ok(1..) => {}
            _ => return None,
        }
    }
}

fn connection(
    listener: Rc<ListenerCx>,
    opening: &Opening,
    tls: Option<TlsInfo>,
    id: u64,
    admitted: Admitted,
) -> ConnectionCx {
    ConnectionCx {
        peer: Peer::new(opening.peer, tls.is_some()),
        local: opening.local,
        passing_name: opening.server_name.clone().filter(|_| tls.is_none()),
        tls: tls.map(Box::new),
        is_outdated: Cell::new(false),
        id,
        pools: OnceCell::new(),
        listener,
        admitted,
    }
}
