//! What is read of a connection before it is known what becomes of it: the PROXY header of a proxy in front, and the
//! ClientHello of a TLS connection that may pass through. Bytes that are only looked at stay in the reader.

use std::io;
use std::net::SocketAddr;
use std::time::SystemTime;

use super::Accepted;
use crate::config::model::{L4RouteId, Listener, ListenerProtocol, ProxyProtocol, VipProtocol};
use crate::filter::access::Knock;
use crate::metrics::shard::Refusal;
use crate::net::{Reader, Until, now_ns};
use crate::proto::client_hello::{ClientHello, HelloReader};
use crate::proto::proxy_protocol::{self, Addresses, Parsed};
use crate::route::L4Query;
use crate::snapshot::{ListenerView, Snapshot};

/// A connection that may be served.
pub(super) struct Opening {
    /// Whose it is.
    pub peer: SocketAddr,
    /// Where that one connected to.
    pub local: SocketAddr,
    /// The name in its ClientHello, where somebody looked.
    pub server_name: Option<String>,
    /// What becomes of it.
    pub fate: Fate,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It speaks HTTP with us, over TLS where the listener has it.
    Http,
    /// It is relayed. `None`: no route takes it.
    Relay {
        /// Where to.
        route: Option<L4RouteId>,
        /// Whether its TLS ends here, where the listener has it.
        terminate: bool,
    },
}

/// Why a connection is not served.
pub(super) enum Unopened {
    /// It may not be.
    Refused(Refusal),
    /// The client left, or took too long.
    Gone,
}

/// Whether anything has to be read first.
pub(super) fn is_needed(settings: &Listener, view: &ListenerView) -> bool {
    settings.proxy_protocol != ProxyProtocol::Off || wants_hello(settings, view)
}

/// Reads what has to be read.
pub(super) async fn read(
    generation: &Snapshot,
    settings: &Listener,
    view: &ListenerView,
    accepted: &mut Accepted,
    until: &Until<'_>,
) -> Result<Opening, Unopened> {
    let (mut peer, mut local) = (accepted.peer, accepted.local);
    let named = match settings.proxy_protocol {
        ProxyProtocol::Off => None,
        _ => proxy_header(settings, view, accepted, until).await?,
    };
    if let Some(named) = named {
        let source = named.source.ip();
        let knock = Knock { protocol: VipProtocol::Tcp, port: accepted.local.port(), now: SystemTime::now() };
        if generation.access.verdict(source, knock).is_some() {
            return Err(Unopened::Refused(Refusal::AccessDenied));
        }
        if generation.bans.has(source, knock.now) {
            return Err(Unopened::Refused(Refusal::Banned));
        }
        let moved = accepted.admitted.place.move_to(source, settings.limits.connections_per_source);
        moved.map_err(|too_many| Unopened::Refused(too_many.into()))?;
        (peer, local) = (named.source, named.destination);
    }
    // Those of others were held against the rates when they were accepted.
    if settings.proxy_protocol != ProxyProtocol::Off && view.trusted.contains(accepted.peer.ip().to_canonical()) {
        let entered = view.rates.enter(named.map(|named| named.source.ip()), now_ns);
        entered.map_err(|too_fast| Unopened::Refused(too_fast.into()))?;
    }
    let hello = match wants_hello(settings, view) {
        true => client_hello(&mut accepted.reader, until).await?,
        false => None,
    };
    let fate = fate(settings, view, hello.as_ref());
    Ok(Opening { peer, local, server_name: hello.and_then(|hello| hello.server_name), fate })
}

/// What becomes of a connection of which nothing was read.
pub(super) fn unread(settings: &Listener, view: &ListenerView, accepted: &Accepted) -> Opening {
    let fate = fate(settings, view, None);
    Opening { peer: accepted.peer, local: accepted.local, server_name: None, fate }
}

fn wants_hello(settings: &Listener, view: &ListenerView) -> bool {
    match settings.protocol {
        ListenerProtocol::Http | ListenerProtocol::Tcp => settings.tls.is_some() && view.l4.needs_hello(),
        ListenerProtocol::TlsPassthrough => true,
        ListenerProtocol::Udp => false,
    }
}

fn fate(settings: &Listener, view: &ListenerView, hello: Option<&ClientHello>) -> Fate {
    let query = match hello {
        None => L4Query::Opaque,
        Some(hello) => L4Query::Tls { server_name: hello.server_name.as_deref(), alpn: &hello.alpn },
    };
    match (settings.protocol, hello) {
        // What is not TLS is left to the handshake, which says so to the client.
        (ListenerProtocol::Http, None) => Fate::Http,
        (ListenerProtocol::Http, Some(_)) => match view.l4.find(query) {
            None => Fate::Http,
            route => Fate::Relay { route, terminate: false },
        },
        (ListenerProtocol::TlsPassthrough, None) => Fate::Relay { route: None, terminate: false },
        (ListenerProtocol::TlsPassthrough, Some(_)) => Fate::Relay { route: view.l4.find(query), terminate: false },
        (ListenerProtocol::Tcp | ListenerProtocol::Udp, _) => {
            Fate::Relay { route: view.l4.find(query), terminate: true }
        }
    }
}

/// The addresses in the PROXY header, or `None` when the connection is the peer's own. The header is consumed.
async fn proxy_header(
    settings: &Listener,
    view: &ListenerView,
    accepted: &mut Accepted,
    until: &Until<'_>,
) -> Result<Option<Addresses>, Unopened> {
    const REFUSED: Unopened = Unopened::Refused(Refusal::ProxyHeader);
    let required = settings.proxy_protocol == ProxyProtocol::Require;
    if !view.trusted.contains(accepted.peer.ip()) {
        return if required { Err(REFUSED) } else { Ok(None) };
    }
    let reader = &mut accepted.reader;
    loop {
        match proxy_protocol::parse(reader.data()) {
            Ok(Parsed::Header { consumed, header }) => {
                reader.consume(consumed);
                return Ok(header.addresses);
            }
            Ok(Parsed::Absent) if !required => return Ok(None),
            Ok(Parsed::Incomplete) => {}
            Ok(Parsed::Absent) | Err(_) => return Err(REFUSED),
        }
        match reader.fill(until).await {
            Ok(1..) => {}
            // A health check that says nothing is not worth a count.
            Ok(0) if reader.data().is_empty() => return Err(Unopened::Gone),
            Err(error) if error.kind() != io::ErrorKind::TimedOut => return Err(Unopened::Gone),
            Ok(0) | Err(_) => return Err(REFUSED),
        }
    }
}

/// The ClientHello, which stays in the reader; `None` when the connection does not begin with one.
async fn client_hello(reader: &mut Reader, until: &Until<'_>) -> Result<Option<ClientHello>, Unopened> {
    let mut hello = HelloReader::default();
    loop {
        match hello.parse(reader.data()) {
            Ok(Some(hello)) => return Ok(Some(hello)),
            Ok(None) => {}
            Err(_) => return Ok(None),
        }
        match reader.fill(until).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return Err(Unopened::Gone),
        }
    }
}
