//! The client's side: connections from their handshake to their end.

mod h1;

use std::rc::Rc;

use crate::filter::forwarded::Peer;
use crate::metrics::shard::ListenerShard;
use crate::net::{self, Until};
use crate::proxy::{ConnectionCx, ListenerCx, WorkerCx};
use crate::tls::{self, TlsInfo};

/// An accepted connection.
pub struct Accepted {
    /// What it sends.
    pub reader: net::Reader,
    /// What it gets.
    pub writer: net::Writer,
    /// The other end.
    pub peer: std::net::SocketAddr,
    /// Its number.
    pub id: u64,
}

/// Serves a connection to its end. The only place that knows which protocol a client speaks.
pub async fn serve(worker: Rc<WorkerCx>, listener: Rc<ListenerCx>, accepted: Accepted) {
    let (generation, id) = listener.generation();
    let view = generation.listener(id);
    let limits = &generation.config.listeners[id.index()].limits;
    let local = accepted.writer.local_addr();
    let Ok(local) = local else { return };
    let (reader, writer, tls) = match &view.tls {
        None => (tls::Reader::Plain(accepted.reader), tls::Writer::Plain(accepted.writer), None),
        Some(settings) => {
            let deadline = worker.timers.deadline();
            deadline.set(limits.handshake_timeout);
            let until = Until::only(&deadline);
            let shaken = tls::accept(accepted.reader, accepted.writer, settings.config.clone(), &until);
            let shaken = Box::pin(shaken).await;
            count_handshake(view.stats.shard(worker.worker), shaken.is_ok());
            match shaken {
                Ok((reader, writer, info)) => (reader, writer, Some(info)),
                Err(error) => return log::debug!("{}: handshake with {}: {error}", listener.name, accepted.peer),
            }
        }
    };
    drop(generation);
    let connection = connection(&worker, listener, accepted.peer, local, tls, accepted.id);
    h1::serve(&worker, &connection, reader, writer).await;
}

fn connection(
    worker: &WorkerCx,
    listener: Rc<ListenerCx>,
    peer: std::net::SocketAddr,
    local: std::net::SocketAddr,
    tls: Option<TlsInfo>,
    id: u64,
) -> ConnectionCx {
    ConnectionCx {
        peer: Peer::new(peer, tls.is_some()),
        local,
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
