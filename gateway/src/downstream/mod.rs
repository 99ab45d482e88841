//! The client's side: connections from their handshake to their end.

mod h1;
mod l4;
mod opening;
mod session;
mod udp;

pub use udp::serve_datagrams;

use std::rc::Rc;

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
    /// Its place under the listener's limits.
    pub place: Place,
}

/// Serves a connection to its end. The only place that knows which protocol a client speaks.
pub async fn serve(worker: Rc<WorkerCx>, listener: Rc<ListenerCx>, mut accepted: Accepted) {
    let (generation, id) = listener.generation();
    let view = generation.listener(id);
    let settings = &generation.config.listeners[id.index()];
    let stats = view.stats.shard(worker.worker);
    let (deadline, reads_first) = (worker.timers.deadline(), opening::is_needed(settings, view));
    if reads_first || view.tls.is_some() {
        deadline.set(settings.limits.handshake_timeout);
    }
    let until = Until::only(&deadline);
    let opening = match reads_first {
        false => opening::unread(settings, view, &accepted),
        true => match Box::pin(opening::read(&generation, settings, view, &mut accepted, &until)).await {
            Ok(opening) => opening,
            Err(Unopened::Gone) => return,
            Err(Unopened::Refused(refusal)) => {
                accepted.writer.abort();
                return stats.refused.of(refusal).inc();
            }
        },
    };
    let terminates = !matches!(opening.fate, Fate::Relay { terminate: false, .. });
    let (reader, writer, tls) = match &view.tls {
        Some(settings) if terminates => {
            let shaken = tls::accept(accepted.reader, accepted.writer, settings.config.clone(), &until);
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
    let connection = connection(&worker, listener, &opening, tls, accepted.id);
    match opening.fate {
        Fate::Http => {
            drop(generation);
            h1::serve(&worker, &connection, reader, writer).await;
        }
        Fate::Relay { route, .. } => {
            let client = Halves { reader, writer };
            Box::pin(l4::serve(&worker, generation, route, &connection, client)).await;
        }
    }
}

fn connection(
    worker: &WorkerCx,
    listener: Rc<ListenerCx>,
    opening: &Opening,
    tls: Option<TlsInfo>,
    id: u64,
) -> ConnectionCx {
    ConnectionCx {
        peer: Peer::new(opening.peer, tls.is_some()),
        local: opening.local,
        passing_name: opening.server_name.clone().filter(|_| tls.is_none()),
        tls,
        id,
        idle: worker.timers.deadline(),
        request: worker.timers.deadline(),
        listener,
    }
}

fn count_handshake(stats: &ListenerShard, ok: bool) {
    match ok {
        true => stats.handshakes_ok.inc(),
        false => stats.handshakes_failed.inc(),
    }
}
