//! The sockets of a generation, before it is in force: those that it has and the running one has not are bound.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use tokio::net::TcpListener;

use super::{Gateway, ReloadError};
use crate::config::model::{Config, Listener, ListenerProtocol};
use crate::net::{self, Transport};

/// A listener's sockets are bound to `actual`, for which the configuration says `wanted`.
pub(super) struct Bound {
    pub transport: Transport,
    pub wanted: SocketAddr,
    pub actual: SocketAddr,
}

/// Sockets of one listener, one for each worker.
pub(super) struct Prepared {
    pub name: String,
    pub bound: Bound,
    pub sockets: Vec<OwnedFd>,
}

/// What a generation changes about the admin endpoint's socket.
#[derive(Default)]
pub enum AdminSocket {
    /// Nothing.
    #[default]
    Unchanged,
    /// It is closed.
    Off,
    /// This one, which listens already, takes its place.
    New(TcpListener),
}

impl Gateway {
    /// Binds what is new. Listeners that stay are not touched. A port that is ours already is not in use by somebody else:
    /// a listener may move from one address to all of them, or to another name.
    pub(super) fn prepare(&self, config: &Config) -> Result<Vec<Prepared>, ReloadError> {
        let is_bound = |bound: &Bound, listener: &Listener| {
            bound.wanted == listener.address && bound.transport == transport(listener)
        };
        let new = config
            .listeners
            .iter()
            .filter(|listener| self.bound.get(&listener.name).is_none_or(|bound| !is_bound(bound, listener)));
        new.map(|listener| {
            let what = format!("listener \"{}\"", listener.name);
            let cannot = |error| ReloadError::bind(&what, listener.address, &error);
            let (transport, port) = (transport(listener), listener.address.port());
            let ours = self.bound.values().any(|bound| bound.transport == transport && bound.actual.port() == port);
            if !ours {
                net::check_unused(listener.address, transport).map_err(cannot)?;
            }
            let first = net::bind_reuseport(listener.address, transport).map_err(cannot)?;
            let actual = net::bound_addr(&first).map_err(cannot)?;
            let mut sockets = vec![first];
            for _ in 1..self.workers.len() {
                sockets.push(net::bind_reuseport(actual, transport).map_err(cannot)?);
            }
            let bound = Bound { transport, wanted: listener.address, actual };
            Ok(Prepared { name: listener.name.clone(), bound, sockets })
        })
        .collect()
    }

    /// Binds the admin endpoint's address if it changed. The old socket still listens: its port is ours, so another
    /// address with the same port is not in use by somebody else.
    pub(super) fn prepare_admin(&self, config: &Config) -> Result<(Option<Bound>, AdminSocket), ReloadError> {
        let wanted = config.admin.as_ref().map(|admin| admin.address);
        if self.admin.as_ref().map(|bound| bound.wanted) == wanted {
            return Ok((None, AdminSocket::Unchanged));
        }
        let Some(wanted) = wanted else { return Ok((None, AdminSocket::Off)) };
        let ours = self.admin.as_ref().is_some_and(|bound| bound.actual.port() == wanted.port());
        let (socket, actual) =
            bind_admin(wanted, ours).map_err(|error| ReloadError::bind("admin.address", wanted, &error))?;
        Ok((Some(Bound { transport: Transport::Tcp, wanted, actual }), AdminSocket::New(socket)))
    }
}

fn transport(listener: &Listener) -> Transport {
    match listener.protocol {
        ListenerProtocol::Udp => Transport::Udp,
        ListenerProtocol::Http | ListenerProtocol::Tcp | ListenerProtocol::TlsPassthrough => Transport::Tcp,
    }
}

fn bind_admin(address: SocketAddr, port_is_ours: bool) -> io::Result<(TcpListener, SocketAddr)> {
    if !port_is_ours {
        net::check_unused(address, Transport::Tcp)?;
    }
    let socket = std::net::TcpListener::from(net::bind_reuseport(address, Transport::Tcp)?);
    socket.set_nonblocking(true)?;
    let actual = socket.local_addr()?;
    Ok((TcpListener::from_std(socket)?, actual))
}
