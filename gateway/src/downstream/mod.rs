//! The client's side: connections from their handshake to their end.

mod h1;
mod h2;
mod l4;
mod opening;
mod session;
mod udp;

pub use udp::serve_datagrams;

use std::cell::OnceCell;
use std::rc::Rc;

use crate::config::model::HttpVersions;
use crate::filter::forwarded::Peer;
use crate::metrics::shard::ListenerShard;
use crate::net::{self, Until};
use crate::proxy::{ConnectionCx, ListenerCx, WorkerCx};
use crate::snapshot::Place;
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
    /// Its place under the listener's limits, for as long as it is open.
    pub place: Place,
}

/// Serves a connection to its end. The only place that knows which protocol a client speaks.
pub async fn serve(worker: Rc<WorkerCx>, listener: Rc<ListenerCx>, mut accepted: Accepted) {
    let (generation, id) = listener.generation();
    let view = generation.listener(id);
    let settings = &generation.config.listeners[id.index()];
    let stats = view.stats.shard(worker.worker);
    let reads_first = opening::is_needed(settings, view);
    let deadline = (reads_first || view.tls.is_some()).then(|| worker.timers.deadline());
    let until = deadline.as_ref().map_or_else(Until::never, |deadline| {
        deadline.set(settings.limits.handshake_timeout);
        Until::only(deadline)
    });
    let opening = match reads_first {
        false => opening::unread(settings, view, &accepted),
        true => match Box::pin(opening::read(&generation, settings, view, &mut accepted, &until)).await {
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
    let (reader, writer, tls) = match &view.tls {
        Some(settings) if terminates => {
            let shaken = tls::accept(accepted.reader, accepted.writer, settings, &until);
            let shaken = Box::pin(shaken).await;
            count_handshake(stats, shaken.is_ok());
            match shaken {
                Ok((reader, writer, info)) => (reader, writer, Some(info)),
                Err(error) => return log::debug!("{}: handshake with {}: {error}", listener.name, opening.peer),
            }
        }
        _ => (tls::Reader::Plain(accepted.reader), tls::Writer::Plain(accepted.writer), None),
    };
    drop(deadline);
    let _place = accepted.place;
    let http = settings.http;
    let connection = connection(listener, &opening, tls, accepted.id);
    match opening.fate {
        Fate::Http => {
            drop(generation);
            // Boxed, so that a relay does not keep the room that HTTP needs; and the other way round below.
            Box::pin(speak(worker, connection, reader, writer, http)).await;
        }
        Fate::Relay { route, .. } => {
            let client = Halves { reader, writer };
            Box::pin(l4::serve(&worker, generation, route, &connection, client)).await;
        }
    }
}

/// Serves a connection in the version of HTTP that it speaks.
async fn speak(
    worker: Rc<WorkerCx>,
    connection: ConnectionCx,
    mut reader: tls::Reader,
    writer: tls::Writer,
    http: HttpVersions,
) {
    let settled = connection.tls.as_ref().and_then(|tls| tls.alpn.as_deref());
    let is_h2 = match (settled, http) {
        (Some(alpn), _) => alpn == b"h2",
        (None, HttpVersions { h1: false, .. }) => true,
        (None, HttpVersions { h2: false, .. }) => false,
        // Over TLS there is no HTTP/2 without ALPN (RFC 9113 §3.2): a host without HTTP/2 would have it after all.
        (None, _) if connection.tls.is_some() => false,
        // Prior knowledge (RFC 9113 §3.3).
        (None, _) => match begins_with(h2::PREFACE, &worker, &connection, &mut reader).await {
            Some(is_h2) => is_h2,
            None => return,
        },
    };
    match is_h2 {
        // Boxed, so that an idle connection of HTTP/1 does not keep the room that this needs.
        true => Box::pin(h2::serve(worker, Rc::new(connection), tls::Stream::new(reader, writer))).await,
        false => h1::serve(&worker, &connection, reader, writer).await,
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
    deadline.set(listener.patience(limits.idle_timeout));
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

fn connection(listener: Rc<ListenerCx>, opening: &Opening, tls: Option<TlsInfo>, id: u64) -> ConnectionCx {
    ConnectionCx {
        peer: Peer::new(opening.peer, tls.is_some()),
        local: opening.local,
        passing_name: opening.server_name.clone().filter(|_| tls.is_none()),
        tls,
        id,
        pools: OnceCell::new(),
        listener,
    }
}

fn count_handshake(stats: &ListenerShard, ok: bool) {
    match ok {
        true => stats.handshakes_ok.inc(),
        false => stats.handshakes_failed.inc(),
    }
}
